//! New versions that take over by and by, and versions that are taken back.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::fs;
use std::path::Path;

use harness::{Done, Host, Redis, Running, Server, eventually, plugin, variant};

/// A handler whose new versions get half of the messages first. One that fails comes back soon.
const CAREFUL: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out"]
retry = { attempts = 50, first = "20ms", max = "50ms" }
rollout = { share = "50%", period = "1s", messages = 50 }
"#;

/// A handler whose new versions take over at once.
const BOLD: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out"]
"#;

/// Where what was rolled back is remembered.
const REFUSED: &str = "tidegate:{in}:refused:in:h";

fn named(name: &str, manifest: &str) -> String {
    format!("[host]\nname = \"{name}\"\n{manifest}")
}

/// Puts a plugin in the place of a host's, once it is at work.
#[track_caller]
fn put(host: &Running, bytes: &[u8]) {
    eventually("it is at work", || host.log().contains(" ready "));
    let folder = host.setup().folder();
    let new = folder.join("new.wasm");
    fs::write(&new, bytes).unwrap();
    fs::rename(new, folder.join("probe.wasm")).unwrap();
}

/// Always breaks.
fn broken() -> Vec<u8> {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/hostile/trap.wat");
    wat::parse_file(text).unwrap()
}

fn digest(bytes: &[u8]) -> String {
    tidegate::manifest::Digest::of(bytes).to_string()
}

fn command(host: &Running, arguments: &[&str]) -> Done {
    let folder = host.setup().folder();
    let mut command = harness::command();
    let output = command.args(arguments).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// What the first host tells of its plugin, by the name of the key.
fn sign(host: &Running, key: &str) -> String {
    let status = command(host, &["status", "--json"]).expect(0).json();
    status["handlers"][0]["hosts"][0]["sign"][key].as_str().unwrap_or_default().to_owned()
}

fn work(redis: &mut Redis, count: usize) {
    redis.add_many(count, "in", &[("emit", "out")]);
}

#[test]
fn a_new_version_gets_its_share_first_and_then_takes_over() {
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, CAREFUL);
    let old = plugin("probe");
    let new = variant(&old, 1);
    work(&mut redis, 10);
    redis.wait_for(10, "out");
    put(&host, &new);
    eventually("the new version is tried out", || sign(&host, "plugin-trying") == digest(&new));
    assert_eq!(sign(&host, "plugin"), digest(&old));
    let table = command(&host, &["status"]).expect(0).stdout;
    assert!(table.contains("trying out plugin"), "{table}");
    let mut sent = 10;
    eventually("it takes over", || {
        work(&mut redis, 20);
        sent += 20;
        sign(&host, "plugin") == digest(&new)
    });
    assert_eq!(sign(&host, "plugin-before"), digest(&old));
    assert_eq!(sign(&host, "plugin-trying"), "");
    eventually("what it costs is told", || {
        let status = command(&host, &["status", "--json"]).expect(0).json();
        let cost = &status["handlers"][0]["hosts"][0]["sign"]["costs"][0];
        cost["plugin"] == digest(&new)
            && cost["calls"].as_u64() > Some(0)
            && cost["memory-peak"].as_u64() > Some(0)
    });
    redis.wait_for(sent, "out");
    eventually("nothing is left", || redis.pending("in", "h") == 0);
    assert!(!redis.exists(REFUSED));
}

#[test]
fn a_version_that_breaks_is_taken_back_by_itself_on_every_host_and_loses_nothing() {
    let server = Server::start();
    let mut redis = server.client();
    let hosts = ["a", "b"].map(|name| Host::start(&server, &named(name, CAREFUL)));
    eventually("both are at work", || redis.readers() == 2);
    let (old, bad) = (plugin("probe"), broken());
    hosts.iter().for_each(|host| put(host, &bad));
    eventually("it is tried out", || hosts[0].log().contains("rollout: the new version"));
    let mut sent = 0;
    eventually("every host has taken it back", || {
        work(&mut redis, 20);
        sent += 20;
        hosts.iter().all(|host| host.log().contains("rolled back; the version before"))
    });
    redis.wait_for(sent, "out");
    eventually("nothing is left", || redis.pending("in", "h") == 0);
    assert_eq!((redis.length("out"), redis.length("{in}:dead")), (sent, 0));
    let refused: Vec<String> = redis.ask(&format!("HKEYS {REFUSED}"));
    assert_eq!(refused, [digest(&bad)]);
    assert_eq!(sign(&hosts[0], "plugin"), digest(&old));
    let why = sign(&hosts[0], "plugin-refused");
    assert!(
        why.contains("rolled back: it failed on") || why.contains("was rolled back by"),
        "{why}"
    );
}

#[test]
fn what_an_operator_rolls_back_goes_on_every_host_and_is_not_taken_up_again() {
    let server = Server::start();
    let mut redis = server.client();
    let hosts = ["a", "b"].map(|name| Host::start(&server, &named(name, BOLD)));
    let old = plugin("probe");
    let new = variant(&old, 1);
    hosts.iter().for_each(|host| put(host, &new));
    eventually("both have swapped", || hosts.iter().all(|host| host.log().contains("swapped")));
    eventually("both say so", || {
        command(&hosts[0], &["status", "--json"]).stdout.matches("plugin-before").count() == 2
    });
    let done = command(&hosts[0], &["rollback", "h", "--why", "prices are wrong"]).expect(0);
    assert!(done.stdout.contains(&digest(&new)), "{}", done.stdout);
    let back = |host: &Running| host.log().contains("rolled back; the version before");
    eventually("both go back", || hosts.iter().all(back));
    eventually("it says why", || sign(&hosts[0], "plugin-refused").contains("prices are wrong"));
    assert_eq!(sign(&hosts[0], "plugin"), digest(&old));
    work(&mut redis, 10);
    redis.wait_for(10, "out");
    // Written once more, it is still the version that was taken back.
    put(&hosts[0], &new);
    let refused = "new plugin refused";
    eventually("it is refused", || hosts[0].log().contains(refused));
    let undone = command(&hosts[0], &["rollback", "h", "--undo"]).expect(0);
    assert!(undone.stdout.contains("may be put to work again"), "{}", undone.stdout);
    let swaps = |host: &Running| host.log().matches("plugin swapped").count() == 2;
    eventually("both take it up again", || hosts.iter().all(swaps));
    eventually("nothing is wrong with it", || sign(&hosts[0], "plugin-refused").is_empty());
}

#[test]
fn a_trial_ends_when_the_file_is_the_one_at_work_again() {
    let server = Server::start();
    let host = Host::start(&server, CAREFUL);
    let old = plugin("probe");
    let new = variant(&old, 1);
    put(&host, &new);
    eventually("the new version is tried out", || sign(&host, "plugin-trying") == digest(&new));
    put(&host, &old);
    eventually("the trial is over", || sign(&host, "plugin-trying").is_empty());
    assert_eq!(sign(&host, "plugin"), digest(&old));
    assert!(host.log().contains("rollout given up"));
}

#[test]
fn a_rollback_without_an_earlier_version_says_what_to_do() {
    let server = Server::start();
    let host = Host::start(&server, BOLD);
    eventually("it is at work", || !sign(&host, "plugin").is_empty());
    let refused = command(&host, &["rollback", "h"]).expect(2);
    assert!(refused.stderr.contains("put the earlier file in place"), "{}", refused.stderr);
    let unknown = command(&host, &["rollback", "g"]).expect(2);
    assert!(unknown.stderr.contains("no handler `g`"), "{}", unknown.stderr);
    let wrong = command(&host, &["rollback", "h", "--digest", "latest"]).expect(2);
    assert!(wrong.stderr.contains("expected `sha256:` and 64"), "{}", wrong.stderr);
    let never = digest(b"never");
    let undo = command(&host, &["rollback", "h", "--undo", "--digest", &never]).expect(2);
    assert!(undo.stderr.contains("was not rolled back"), "{}", undo.stderr);
    let nothing = command(&host, &["rollback", "h", "--undo"]).expect(0);
    assert_eq!(nothing.stdout, "h: nothing was rolled back\n");
}

#[test]
fn an_edit_of_the_manifest_brings_back_no_version_that_was_taken_back() {
    let server = Server::start();
    let host = Host::start(&server, BOLD);
    let old = plugin("probe");
    let new = variant(&old, 1);
    put(&host, &new);
    eventually("it has swapped", || sign(&host, "plugin-before") == digest(&old));
    command(&host, &["rollback", "h"]).expect(0);
    eventually("it goes back", || sign(&host, "plugin") == digest(&old));
    let manifest = host.setup().folder().join("tidegate.toml");
    let edited = fs::read_to_string(&manifest).unwrap() + "concurrency = 3\n";
    fs::write(&manifest, edited).unwrap();
    eventually("it is taken up", || host.log().contains("the manifest was taken up"));
    eventually("the file is refused", || sign(&host, "plugin-refused").contains("was rolled back"));
    assert_eq!(sign(&host, "plugin"), digest(&old));
}

#[test]
fn an_edit_of_the_manifest_ends_no_trial() {
    let server = Server::start();
    let host = Host::start(&server, CAREFUL);
    let old = plugin("probe");
    let new = variant(&old, 1);
    put(&host, &new);
    eventually("the new version is tried out", || sign(&host, "plugin-trying") == digest(&new));
    let manifest = host.setup().folder().join("tidegate.toml");
    let edited = fs::read_to_string(&manifest).unwrap() + "concurrency = 3\n";
    fs::write(&manifest, edited).unwrap();
    let trials = |host: &Running| host.log().matches("rollout: the new version").count();
    eventually("it is tried out again", || trials(&host) == 2);
    assert_eq!(sign(&host, "plugin"), digest(&old));
}
