//! What people are told about their manifests, word for word.
//!
//! Every `tests/manifest/NAME.toml` is refused with the report in `NAME.txt`
//! beside it; every `tests/manifest/good/NAME.toml` is accepted. After a change
//! of words on purpose, `UPDATE_GOLDEN=1 cargo test --release -p tidegate --test
//! manifest` writes the reports anew; read the difference before it is committed.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

use std::collections::BTreeSet;
use std::env::VarError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tidegate::manifest::{Environment, Manifest, ManifestError};

/// What the manifests here may interpolate, and no report may show.
const SECRETS: [&str; 2] = ["s3cr3t-of-env", "s3cr3t-of-file"];

struct Fixed;

impl Environment for Fixed {
    fn variable(&self, name: &str) -> Result<String, VarError> {
        match name {
            "SECRET" => Ok(SECRETS[0].into()),
            "HOST" => Ok("cache.internal".into()),
            "EMPTY" => Ok(String::new()),
            "LATIN" => Err(VarError::NotUnicode("latin".into())),
            _ => Err(VarError::NotPresent),
        }
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        if path == Path::new("secrets/token") {
            Ok(format!("{}\n", SECRETS[1]))
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }
}

fn folder(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/manifest").join(below)
}

/// The files with this ending, by name without it.
fn names(folder: &Path, ending: &str) -> BTreeSet<String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == ending))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

fn parse(file: &Path) -> Result<Manifest, ManifestError> {
    let text = fs::read_to_string(file).unwrap();
    Manifest::parse(&text, Path::new("tidegate.toml"), &Fixed)
}

#[test]
fn every_mistake_in_a_manifest_is_told_in_the_words_beside_it() {
    let folder = folder("");
    let mistakes = names(&folder, "toml");
    assert!(mistakes.len() >= 30, "only {} manifests", mistakes.len());
    let mut wrong = Vec::new();
    for name in &mistakes {
        let refused = parse(&folder.join(format!("{name}.toml")));
        let error = refused.err().unwrap_or_else(|| panic!("{name}.toml was accepted"));
        let report = format!("{error}\n");
        let leaks = SECRETS.iter().any(|secret| report.contains(secret));
        assert!(!leaks, "{name}.toml: the report shows a secret");
        let golden = folder.join(format!("{name}.txt"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &report).unwrap();
        }
        match fs::read_to_string(&golden) {
            Ok(expected) if expected == report => {}
            Ok(expected) => wrong.push(format!("{name}: expected\n{expected}found\n{report}")),
            Err(_) => wrong.push(format!("{name}.txt is missing; expected in it\n{report}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The manual keeps up with the code: what an unknown key's report offers, it explains.
#[test]
fn the_reference_explains_every_key_of_the_manifest() {
    let reference = folder("../../docs/manifest.md");
    let reference = fs::read_to_string(reference).unwrap();
    let tables = [
        "",
        "[redis]",
        "[redis.tls]",
        "[redis.sentinel]",
        "[host]",
        "[handler.a]",
        "[handler.a.limits]",
        "[handler.a.rollout]",
        "[handler.a.retry]",
        "[handler.a.dedupe]",
        "[handler.a.circuit]",
    ];
    for table in tables {
        let text = format!("{table}\n\"no such key\" = 1\n");
        let refused = Manifest::parse(&text, Path::new("tidegate.toml"), &Fixed).unwrap_err();
        let ManifestError::Invalid(report) = refused else { panic!("{refused}") };
        let offer = report.problems().iter().find(|problem| problem.path.contains("no such"));
        let (_, offered) = offer.unwrap().message.split_once("known here are ").unwrap();
        for key in offered.split(", ") {
            let key = key.trim_matches('`');
            let row = reference.lines().any(|line| line.starts_with(&format!("| `{key}` |")));
            let heading = reference.contains(&format!("## `[{key}"));
            assert!(row || heading, "{table} {key} is not explained");
        }
    }
}

#[test]
fn every_report_belongs_to_a_manifest() {
    let folder = folder("");
    let orphans: Vec<_> =
        names(&folder, "txt").difference(&names(&folder, "toml")).cloned().collect();
    assert!(orphans.is_empty(), "no manifest beside {orphans:?}");
}

#[test]
fn every_good_manifest_is_accepted_and_prints_no_secret() {
    let folder = folder("good");
    let good = names(&folder, "toml");
    assert!(!good.is_empty());
    for name in &good {
        let manifest = parse(&folder.join(format!("{name}.toml")));
        let manifest = manifest.unwrap_or_else(|error| panic!("{name}: {error}"));
        let shown = format!("{manifest:?}");
        let leaks = SECRETS.iter().any(|secret| shown.contains(secret));
        assert!(!leaks, "{name}.toml: its debug print shows a secret");
    }
}
