//! The primary dies, stands still or steps down, and another takes its place: the host follows it, and loses nothing.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::time::Duration;

use harness::{Options, Redis, Running, Server, Setup, Watched, eventually, role, within};

const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out*"]
concurrency = 16
retry = { attempts = 5, first = "20ms", max = "100ms" }
"#;

/// A failover takes some seconds, and the host a few more at most.
const MENDED: Duration = Duration::from_secs(60);

/// Messages that the replica has too, so that no failover loses them.
fn fill(redis: &mut Redis, count: usize, fields: &[(&str, &str)]) -> Vec<String> {
    let ids = redis.add_many(count, "in", fields);
    eventually("the replica has them", || redis.ask::<usize>("WAIT 1 1000") == 1);
    ids
}

/// A host in the middle of this many messages, each of which writes one entry.
fn in_mid_work(watched: &Watched, count: usize) -> (Running, Vec<String>) {
    let mut redis = watched.first.client();
    let ids = fill(&mut redis, count, &[("sleep-ms", "10"), ("emit", "out")]);
    let host = Running::of(Setup::alone(&format!("{}{PROBE}", watched.table())));
    eventually("it is in mid-work", || redis.length("out") >= 50);
    (host, ids)
}

/// Everything was handled by what this server knows, each message once.
#[track_caller]
fn the_sums_hold(server: &Server, mut ids: Vec<String>) {
    let mut redis = server.client();
    within(MENDED, "every message is handled", || redis.length("out") >= ids.len());
    redis.wait_settled("in", "h");
    let mut written = redis.column("out", "id");
    written.sort();
    ids.sort();
    assert_eq!(written, ids);
}

/// The connections of the host that a server sees.
fn connections(redis: &mut Redis) -> usize {
    let clients: String = redis.ask("CLIENT LIST");
    clients.lines().filter(|line| line.contains(" name=tidegate:")).count()
}

#[test]
fn a_primary_that_is_killed_is_followed_by_the_next_and_nothing_is_lost() {
    let mut watched = Watched::start(Options::default());
    let (host, ids) = in_mid_work(&watched, 3000);
    watched.first.kill();
    watched.wait_for_failover();
    the_sums_hold(&watched.second, ids);
    assert!(host.log().contains("failed over to another primary"), "{}", host.log());
}

#[test]
fn a_failover_by_hand_takes_every_connection_along() {
    let watched = Watched::start(Options::default());
    let (host, ids) = in_mid_work(&watched, 3000);
    watched.sentinels[0].client().tell("SENTINEL FAILOVER m");
    watched.wait_for_failover();
    the_sums_hold(&watched.second, ids);
    let mut first = watched.first.client();
    eventually("nothing is left with the old one", || connections(&mut first) == 0);
    let log = host.log();
    assert_eq!(log.matches("failover:").count(), 1, "one warning: {log}");
    assert_eq!(log.matches("failed over to another primary").count(), 1, "one end: {log}");
}

#[test]
fn a_primary_that_stands_still_past_its_failover_is_not_worked_with_when_it_goes_on() {
    let watched = Watched::start(Options::default());
    let (_host, ids) = in_mid_work(&watched, 3000);
    watched.first.signal("STOP");
    watched.wait_for_failover();
    the_sums_hold(&watched.second, ids);
    // It believes that it is the primary until the sentinels tell it otherwise.
    watched.first.signal("CONT");
    let mut first = watched.first.client();
    eventually("what was sent to it is done, and no connection left", || {
        connections(&mut first) == 0
    });
    let (mut second, before) = (watched.second.client(), first.length("out"));
    second.add("in", &[("emit", "out2")]);
    second.wait_first("out2");
    second.wait_settled("in", "h");
    if role(&mut first) == "master" {
        assert_eq!(first.length("out"), before);
        assert!(!first.exists("out2"));
    }
}

#[test]
fn an_idle_host_follows_a_failover_of_a_primary_that_stands_still() {
    let watched = Watched::start(Options::default());
    let channel =
        "[handler.c]\nplugin = \"probe.wasm\"\nchannel = \"news\"\noutputs = [\"heard\"]\n";
    let manifest = format!("{}{PROBE}{channel}", watched.table());
    let host = Running::of(Setup::alone(&manifest));
    let mut first = watched.first.client();
    eventually("it reads", || first.readers() == 1 && host.log().contains("subscribed"));
    watched.first.signal("STOP");
    watched.wait_for_failover();
    let mut second = watched.second.client();
    second.add("in", &[("emit", "out")]);
    within(MENDED, "it is handled", || second.length("out") == 1);
    within(MENDED, "it listens there", || second.ask::<usize>("PUBLISH news x") == 1);
    watched.first.signal("CONT");
}
