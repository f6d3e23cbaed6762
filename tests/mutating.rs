//! What is almost a manifest or almost a plugin: it is taken or refused, and hurts nobody.
//!
//! Mutations of real ones, from fixed seeds: a run tests what the run before did. `PROPTEST_CASES`
//! has more of them tried; `make fuzz` tries without end, guided by coverage.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

use std::env::VarError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;
use tidegate::manifest::{self, Environment, Isolation, Manifest};
use tidegate::sandbox::{Capacity, Limits, Reach, Runner, Sandbox};

/// How long loading and starting a mutated plugin may take on a machine that is busy.
const DEADLINE: Duration = Duration::from_secs(60);

/// Stands for every secret that a manifest refers to.
const SECRET: &str = "s3cr3t-Kq7";

/// What manifests are made of, to be put where it does not belong.
const WORDS: [&str; 20] = [
    "\"",
    "'''",
    "[",
    "]]",
    "{",
    "}",
    "=",
    ",",
    ".",
    "\n",
    "\0",
    "é",
    "${env:A}",
    "${file:b}",
    "${",
    "9999999999999999999",
    "-1",
    "1e999",
    "\"100000000000h\"",
    "[handler.x]\n",
];

/// As many cases as this, or as `PROPTEST_CASES` says.
fn config(cases: u32) -> ProptestConfig {
    let wished = std::env::var("PROPTEST_CASES").ok().and_then(|wish| wish.parse().ok());
    let cases = wished.unwrap_or(cases);
    ProptestConfig {
        rng_seed: RngSeed::Fixed(7),
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The files of these folders with this ending.
fn files(folders: &[&str], ending: &str) -> Vec<PathBuf> {
    let listed = folders.iter().flat_map(|folder| fs::read_dir(root().join(folder)).unwrap());
    let paths = listed.map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|found| found == ending)).collect();
    found.sort();
    assert!(found.len() > 3, "{folders:?}: {found:?}");
    found
}

/// One change to bytes. Places are shares of the length, so that each fits every seed.
#[derive(Debug, Clone)]
enum Edit {
    Flip { at: Index, bit: u8 },
    Set { at: Index, byte: u8 },
    Cut { at: Index },
    Drop { at: Index, length: usize },
    Repeat { at: Index, length: usize },
    Splice { at: Index, other: Index, from: Index, length: usize },
    Word { at: Index, word: Index },
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let place = any::<Index>;
    prop_oneof![
        4 => (place(), 0u8..8).prop_map(|(at, bit)| Edit::Flip { at, bit }),
        2 => (place(), any::<u8>()).prop_map(|(at, byte)| Edit::Set { at, byte }),
        1 => place().prop_map(|at| Edit::Cut { at }),
        2 => (place(), 1usize..64).prop_map(|(at, length)| Edit::Drop { at, length }),
        2 => (place(), 1usize..64).prop_map(|(at, length)| Edit::Repeat { at, length }),
        3 => (place(), place(), place(), 1usize..256)
            .prop_map(|(at, other, from, length)| Edit::Splice { at, other, from, length }),
        3 => (place(), place()).prop_map(|(at, word)| Edit::Word { at, word }),
    ]
}

/// A seed and what is done to it.
fn mutated(seeds: &[Vec<u8>], seed: Index, edits: &[Edit]) -> Vec<u8> {
    let mut bytes = seed.get(seeds).clone();
    for edit in edits {
        if bytes.is_empty() {
            break;
        }
        apply(&mut bytes, edit, seeds);
    }
    bytes
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit, seeds: &[Vec<u8>]) {
    let size = bytes.len();
    let end = |at: usize, length: usize| (at + length).min(size);
    match edit {
        Edit::Flip { at, bit } => bytes[at.index(size)] ^= 1 << bit,
        Edit::Set { at, byte } => bytes[at.index(size)] = *byte,
        Edit::Cut { at } => bytes.truncate(at.index(size)),
        Edit::Drop { at, length } => {
            let at = at.index(size);
            bytes.drain(at..end(at, *length));
        }
        Edit::Repeat { at, length } => {
            let at = at.index(size);
            let part = bytes[at..end(at, *length)].to_vec();
            bytes.splice(at..at, part);
        }
        Edit::Splice { at, other, from, length } => {
            let (at, other) = (at.index(size), other.get(seeds));
            let from = from.index(other.len().max(1));
            let part = other[from..(from + length).min(other.len())].to_vec();
            bytes.splice(at..end(at, part.len()), part);
        }
        Edit::Word { at, word } => {
            let at = at.index(size);
            bytes.splice(at..at, word.get(&WORDS).bytes());
        }
    }
}

/// An environment in which everything is the secret.
struct Secrets;

impl Environment for Secrets {
    fn variable(&self, _: &str) -> Result<String, VarError> {
        Ok(SECRET.to_owned())
    }

    fn file(&self, _: &Path) -> io::Result<String> {
        Ok(SECRET.to_owned())
    }
}

#[test]
fn a_mutated_manifest_is_taken_or_refused_and_the_report_shows_no_secret() {
    let folders = ["tests/manifest", "tests/manifest/good", "examples/orders"];
    let mut seeds: Vec<Vec<u8>> =
        files(&folders, "toml").iter().map(|path| fs::read(path).unwrap()).collect();
    seeds.retain(|seed| !seed.is_empty());
    let case = (any::<Index>(), vec(any_edit(), 0..6));
    proptest!(config(10_000), |((seed, edits) in case)| {
        let bytes = mutated(&seeds, seed, &edits);
        let text = String::from_utf8_lossy(&bytes);
        if let Err(error) = Manifest::parse(&text, Path::new("tidegate.toml"), &Secrets) {
            let report = error.to_string();
            prop_assert!(!report.contains(SECRET), "{report}\nof:\n{text}");
        }
    });
}

fn limits() -> Limits {
    Limits {
        timeout: Duration::from_millis(200),
        memory: 16 << 20,
        isolation: Isolation::Reuse,
        concurrency: 1,
        further: manifest::Limits::default(),
    }
}

/// Loads bytes as a plugin and, if they are one, starts it.
fn put_to_work(sandbox: &Sandbox, bytes: &[u8]) -> Result<(), String> {
    let plugin = sandbox.load_bytes(Path::new("mutated.wasm"), bytes);
    let plugin = plugin.map_err(|error| error.to_string())?;
    let runner = Runner::new(&plugin, "mutated".into(), limits(), Reach::default());
    runner.and_then(|runner| runner.prove()).map_err(|error| error.to_string())
}

/// Tries mutations of these plugins; each must end in time, in one way or the other.
fn try_mutations(seeds: &[Vec<u8>], cases: u32) {
    let sandbox =
        Sandbox::new(Capacity { instances: 4, memory: 16 << 20, stack: 1 << 20 }).unwrap();
    let case = (any::<Index>(), vec(any_edit(), 1..4));
    proptest!(config(cases), |((seed, edits) in case)| {
        let bytes = mutated(seeds, seed, &edits);
        let (sandbox, (tell, told)) = (sandbox.clone(), mpsc::channel());
        std::thread::spawn(move || tell.send(put_to_work(&sandbox, &bytes)));
        let ended = told.recv_timeout(DEADLINE);
        prop_assert!(ended.is_ok(), "it panicked, or took longer than {DEADLINE:?}");
        if let Err(refusal) = ended.unwrap() {
            prop_assert!(refusal.starts_with("mutated.wasm: "), "{refusal}");
        }
    });
}

#[test]
fn a_mutated_hostile_plugin_is_taken_or_refused() {
    let texts = files(&["tests/hostile", "tests/friendly"], "wat");
    let seeds: Vec<_> = texts.iter().map(|path| wat::parse_file(path).unwrap()).collect();
    try_mutations(&seeds, 1500);
}

#[test]
fn a_mutated_real_plugin_is_taken_or_refused() {
    let built = ["probe", "probe_batch", "price", "validate"];
    let built = built.map(|name| format!("plugins/target/wasm32-wasip2/release/{name}.wasm"));
    let seeds = built.map(|file| fs::read(root().join(file)).expect("`make plugins` built it"));
    try_mutations(&seeds, 150);
}
