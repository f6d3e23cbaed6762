//! Plugin files that change while a host runs: which are taken up, which are refused, and what
//! becomes of messages meanwhile.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::{Entry, Host, Redis, Server, Setup, eventually, millis, never, plugin, variant};
use tidegate::manifest::Digest;

/// A handler that does what its messages tell it, whose plugin is the test's own to replace.
const HANDLER: &str = r#"
[handler.h]
plugin = "own.wasm"
stream = "in"
outputs = ["out*"]
"#;

/// A host, the server it works on, and the folder where its plugin is.
struct Stage {
    host: Host,
    redis: Redis,
    setup: Setup,
    server: Server,
    manifest: String,
}

impl Stage {
    /// A host for a manifest with this file for its plugin.
    fn new(manifest: &str, plugin: &[u8]) -> Self {
        let server = Server::start();
        let redis = server.client();
        let setup = Setup::new(&server, manifest).file("own.wasm", plugin);
        let host = setup.start();
        let mut stage = Self { host, redis, setup, server, manifest: manifest.to_owned() };
        stage.wait_for("h", plugin);
        stage
    }

    fn file(&self) -> PathBuf {
        self.setup.folder().join("own.wasm")
    }

    /// What the host tells of a handler's plugin.
    fn sign(&mut self, handler: &str) -> serde_json::Value {
        self.redis.sign("in", handler)
    }

    fn serves(&mut self, handler: &str, plugin: &[u8]) -> bool {
        self.sign(handler)["plugin"] == digest(plugin)
    }

    /// Waits until a handler is served by this plugin.
    #[track_caller]
    fn wait_for(&mut self, handler: &str, plugin: &[u8]) {
        eventually("the plugin is at work", || self.serves(handler, plugin));
    }

    /// Waits until a file is refused, and gives why.
    #[track_caller]
    fn wait_refused(&mut self, part: &str) -> String {
        let why = |sign: serde_json::Value| sign["plugin-refused"].as_str().map(str::to_owned);
        eventually(&format!("a refusal that says {part:?}"), || {
            why(self.sign("h")).is_some_and(|why| why.contains(part))
        });
        why(self.sign("h")).unwrap()
    }

    /// Fails unless the next message is handled by this plugin.
    #[track_caller]
    fn expect_handled_by(&mut self, plugin: &[u8]) {
        let id = self.redis.add("in", &[("reject", "to see who does")]);
        assert_eq!(self.letter(&id).get("tidegate.plugin"), digest(plugin));
    }

    /// The dead letter of a message.
    #[track_caller]
    fn letter(&mut self, id: &str) -> Entry {
        let mut found = None;
        eventually(&format!("{id} is buried"), || {
            let letters = self.redis.entries("{in}:dead");
            found = letters.into_iter().find(|letter| letter.get("tidegate.id") == id);
            found.is_some()
        });
        found.unwrap()
    }

    fn status(&self, arguments: &[&str]) -> String {
        self.tidegate(&[&["status"], arguments].concat())
    }

    /// Runs a command to its end, and gives what it prints.
    #[track_caller]
    fn tidegate(&self, arguments: &[&str]) -> String {
        let asking = Setup::new(&self.server, &self.manifest).command(arguments);
        asking.finish().expect(0).stdout
    }
}

fn digest(plugin: &[u8]) -> String {
    Digest::of(plugin).to_string()
}

/// Puts a file in the place of another, as most tools that deploy do.
fn rename_over(path: &Path, content: &[u8]) {
    let beside = path.with_extension("new");
    fs::write(&beside, content).unwrap();
    fs::rename(&beside, path).unwrap();
}

#[test]
fn a_plugin_written_in_place_or_renamed_over_takes_over() {
    let first = plugin("probe");
    let mut stage = Stage::new(HANDLER, &first);
    stage.expect_handled_by(&first);
    let (second, third) = (variant(&first, 2), variant(&first, 3));
    fs::write(stage.file(), &second).unwrap();
    stage.wait_for("h", &second);
    stage.expect_handled_by(&second);
    rename_over(&stage.file(), &third);
    stage.wait_for("h", &third);
    stage.expect_handled_by(&third);
    let status: serde_json::Value = serde_json::from_str(&stage.status(&["--json"])).unwrap();
    assert_eq!(status["handlers"][0]["plugins"][0], digest(&third));
}

/// Kubernetes mounts a ConfigMap as links to files below `..data`, itself a link, which it replaces.
#[test]
fn a_plugin_behind_a_link_that_is_flipped_takes_over() {
    let (first, second) = (plugin("probe"), variant(&plugin("probe"), 2));
    let server = Server::start();
    let setup = Setup::new(&server, HANDLER);
    let folder = setup.folder().to_owned();
    for (name, content) in [("..1", &first), ("..2", &second)] {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("own.wasm"), content).unwrap();
    }
    symlink("..1", folder.join("..data")).unwrap();
    symlink("..data/own.wasm", folder.join("own.wasm")).unwrap();
    let (host, redis) = (setup.start(), server.client());
    let mut stage = Stage { host, redis, setup, server, manifest: HANDLER.to_owned() };
    stage.wait_for("h", &first);
    symlink("..2", folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    stage.wait_for("h", &second);
    stage.expect_handled_by(&second);
}

#[test]
fn a_plugin_written_in_pieces_is_never_at_work_before_it_is_whole() {
    let first = plugin("probe");
    let mut stage = Stage::new(HANDLER, &first);
    let second = variant(&first, 2);
    for pieces in 1..4 {
        fs::write(stage.file(), &second[..second.len() * pieces / 4]).unwrap();
        never(Duration::from_millis(800), "something half-written is at work", || {
            !stage.serves("h", &first)
        });
        stage.expect_handled_by(&first);
    }
    fs::write(stage.file(), &second).unwrap();
    stage.wait_for("h", &second);
    assert!(stage.sign("h")["plugin-refused"].is_null(), "what was wrong is over");
    stage.expect_handled_by(&second);
}

#[test]
fn a_bad_plugin_leaves_the_old_one_at_work_and_status_says_why() {
    let first = plugin("probe");
    let mut stage = Stage::new(HANDLER, &first);
    let bad = [
        (first[..first.len() / 2].to_vec(), "own.wasm"),
        (b"<html>not found</html>".to_vec(), "own.wasm"),
        (Vec::new(), "own.wasm"),
        (plugin("no-export"), "export"),
        (plugin("unknown-import"), "import"),
        (plugin("start-trap"), "cannot start"),
    ];
    for (content, part) in bad {
        rename_over(&stage.file(), &content);
        let mut before = String::new();
        eventually(&format!("{part} is refused"), || {
            let told = stage.sign("h")["plugin-refused"].as_str().unwrap_or_default().to_owned();
            let other = told.contains(part);
            before = told;
            other
        });
        stage.expect_handled_by(&first);
        assert!(stage.status(&[]).contains(&format!("new plugin refused: {before}")), "{before}");
        // Each is told of anew.
        rename_over(&stage.file(), &first);
        eventually("nothing is wrong", || stage.sign("h")["plugin-refused"].is_null());
    }
    let second = variant(&first, 2);
    rename_over(&stage.file(), &second);
    stage.wait_for("h", &second);
    stage.expect_handled_by(&second);
    assert!(!stage.status(&[]).contains("refused"));
}

#[test]
fn a_refusal_is_logged_once_for_each_version_of_the_file() {
    let mut stage = Stage::new(HANDLER, &plugin("probe"));
    rename_over(&stage.file(), b"no plugin");
    stage.wait_refused("own.wasm");
    let told = |stage: &Stage| stage.host.log().matches("new plugin refused").count();
    never(Duration::from_secs(3), "it is told of again", || told(&stage) != 1);
    rename_over(&stage.file(), b"no plugin, either");
    eventually("the next one is told of", || told(&stage) == 2);
}

#[test]
fn a_plugin_whose_file_vanishes_goes_on() {
    let first = plugin("probe");
    let mut stage = Stage::new(HANDLER, &first);
    fs::remove_file(stage.file()).unwrap();
    stage.wait_refused("cannot be found");
    stage.expect_handled_by(&first);
    fs::write(stage.file(), &first).unwrap();
    eventually("nothing is wrong", || stage.sign("h")["plugin-refused"].is_null());
    stage.expect_handled_by(&first);
}

#[test]
fn what_is_in_flight_ends_on_the_version_it_began_on() {
    let first = plugin("probe");
    let mut stage = Stage::new(&format!("{HANDLER}concurrency = 2\n"), &first);
    let slow = stage.redis.add("in", &[("sleep-ms", "10000"), ("reject", "slowly")]);
    eventually("it is in hand", || stage.redis.pending("in", "h") == 1);
    let second = variant(&first, 2);
    rename_over(&stage.file(), &second);
    stage.wait_for("h", &second);
    stage.expect_handled_by(&second);
    assert_eq!(stage.redis.length("{in}:dead"), 1, "the slow one is still in flight");
    assert_eq!(stage.letter(&slow).get("tidegate.plugin"), digest(&first));
}

#[test]
fn versions_pile_up_behind_a_slow_call_and_each_takes_over() {
    let first = plugin("probe");
    let mut stage = Stage::new(&format!("{HANDLER}concurrency = 1\ntimeout = \"1m\"\n"), &first);
    stage.redis.add("in", &[("sleep-ms", "6000"), ("emit", "out")]);
    eventually("it is in hand", || stage.redis.pending("in", "h") == 1);
    for number in 2..5 {
        let next = variant(&first, number);
        rename_over(&stage.file(), &next);
        stage.wait_for("h", &next);
    }
    stage.expect_handled_by(&variant(&first, 4));
    assert_eq!(stage.redis.column("out", "attempt"), ["1"]);
}

#[test]
fn two_handlers_of_one_file_both_get_the_new_version() {
    let first = plugin("probe");
    let other = HANDLER.replace("handler.h", "handler.other");
    let mut stage = Stage::new(&format!("{HANDLER}{other}"), &first);
    stage.wait_for("other", &first);
    let second = variant(&first, 2);
    rename_over(&stage.file(), &second);
    stage.wait_for("h", &second);
    stage.wait_for("other", &second);
    let id = stage.redis.add("in", &[("reject", "to see who does")]);
    stage.redis.wait_for(2, "{in}:dead");
    for letter in stage.redis.entries("{in}:dead") {
        assert_eq!(letter.get("tidegate.plugin"), digest(&second));
        assert_eq!(letter.get("tidegate.id"), id);
    }
}

#[test]
fn a_plugin_of_one_message_a_call_and_one_of_many_take_over_from_each_other() {
    let (one, many) = (plugin("probe"), plugin("probe_batch"));
    let mut stage = Stage::new(&format!("{HANDLER}concurrency = 1\nbatch = 10\n"), &one);
    let sleepy = [("sleep-ms", "300"), ("emit", "out")];
    stage.redis.add_many(3, "in", &sleepy);
    never(Duration::from_millis(200), "more is in hand than one call takes", || {
        stage.redis.pending("in", "h") > 1
    });
    stage.redis.wait_for(3, "out");
    rename_over(&stage.file(), &many);
    stage.wait_for("h", &many);
    // A read that waits since before the swap brings one message more.
    stage.redis.add_many(20, "in", &sleepy);
    eventually("a call's worth is in hand", || stage.redis.pending("in", "h") >= 10);
    stage.redis.wait_for(23, "out");
    rename_over(&stage.file(), &one);
    stage.wait_for("h", &one);
    stage.redis.add_many(10, "in", &[("emit", "out")]);
    stage.redis.wait_for(33, "out");
    stage.redis.wait_settled("in", "h");
    let mut ids = stage.redis.column("out", "id");
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), stage.redis.length("out")), (33, 33), "each is handled once");
    stage.expect_handled_by(&one);
}

#[test]
fn a_dead_letter_names_the_version_of_the_last_attempt() {
    let first = plugin("probe");
    let retry = "retry = { attempts = 2, first = \"10ms\" }\n";
    let mut stage = Stage::new(&format!("{HANDLER}{retry}"), &first);
    let id = stage.redis.add("in", &[("retry-after-ms", "3600000"), ("retry", "always")]);
    let waiting = "ZCARD tidegate:{in}:waiting:in:h";
    eventually("it waits", || stage.redis.ask::<usize>(waiting) == 1);
    let second = variant(&first, 2);
    rename_over(&stage.file(), &second);
    stage.wait_for("h", &second);
    stage.tidegate(&["retries", "release", "--all"]);
    let letter = stage.letter(&id);
    assert_eq!(letter.get("tidegate.plugin"), digest(&second));
    assert_eq!(letter.get("tidegate.attempts"), "2");
}

/// Messages appended a second while plugins are swapped.
const RATE: u32 = 200;

/// Messages of which one percentile is taken.
const WINDOW: usize = 400;

/// What no one would notice: below it, a machine that is busy with other things decides.
const FLOOR: u64 = 20;

#[test]
fn a_hundred_swaps_under_load_lose_nothing_repeat_nothing_and_delay_little() {
    let first = plugin("probe");
    let versions: Vec<_> = (0..4).map(|number| variant(&first, number)).collect();
    let mut stage = Stage::new(HANDLER, &versions[0]);
    let swapped = AtomicBool::new(false);
    let (mut sending, mut asking) = (stage.server.client(), stage.server.client());
    let (before, sent) = std::thread::scope(|scope| {
        let send = scope.spawn(|| send_until(&mut sending, &swapped));
        eventually("there is something to compare with", || asking.length("out") >= 4 * WINDOW);
        let before = asking.length("out");
        for number in 1..=100 {
            let next = &versions[number % versions.len()];
            rename_over(&stage.file(), next);
            stage.wait_for("h", next);
        }
        swapped.store(true, Ordering::Relaxed);
        (before, send.join().unwrap())
    });
    stage.redis.wait_settled("in", "h");
    let out = stage.redis.entries("out");
    let mut ids: Vec<_> = out.iter().map(|entry| entry.get("id")).collect();
    let waits: Vec<u64> =
        out.iter().map(|entry| entry.millis() - millis(&entry.get("id"))).collect();
    ids.sort();
    let mut expected = sent;
    expected.sort();
    assert_eq!(ids, expected, "each message leaves one output");
    let (calm, swapping) = (usual_p99(&waits[..before]), usual_p99(&waits[before..]));
    eprintln!("{} messages; p99 {calm} ms before, {swapping} ms during swaps", waits.len());
    assert!(swapping <= (2 * calm).max(FLOOR), "p99 {calm} ms before, {swapping} ms during swaps");
}

/// Appends messages at an even pace until told to end, and gives their ids.
fn send_until(redis: &mut Redis, end: &AtomicBool) -> Vec<String> {
    let (started, mut ids) = (Instant::now(), Vec::new());
    while !end.load(Ordering::Relaxed) {
        ids.push(redis.add("in", &[("emit", "out")]));
        let next = started + ids.len() as u32 * (Duration::from_secs(1) / RATE);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    ids
}

/// The median of the 99th percentiles of windows.
fn usual_p99(waits: &[u64]) -> u64 {
    let p99 = |window: &[u64]| {
        let mut window = window.to_vec();
        window.sort_unstable();
        window[window.len() * 99 / 100]
    };
    let mut all: Vec<u64> = waits.chunks_exact(WINDOW).map(p99).collect();
    all.sort_unstable();
    all[all.len() / 2]
}
