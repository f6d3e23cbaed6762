//! Messages that wait in one instance while others run, and what one of them may do to the rest.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::collections::BTreeSet;

use harness::{Entry, Host, Redis, Server, eventually};

/// A handler that waits as its messages tell it.
const ASYNC: &str = r#"
[handler.h]
plugin = "probe_async.wasm"
stream = "in"
outputs = ["out"]
concurrency = 64
"#;

/// No second attempt, and not much time.
const ONCE: &str = r#"
retry = { attempts = 1 }
timeout = "3s"
"#;

/// What the messages say of the most that were ever in flight in their instance.
fn peaks(redis: &mut Redis) -> BTreeSet<String> {
    redis.column("out", "peak").into_iter().collect()
}

/// The ids are those of the outputs, each once and at the first attempt.
#[track_caller]
fn each_once(redis: &mut Redis, ids: &[String]) {
    let out = redis.wait_for(ids.len(), "out");
    let handled: BTreeSet<String> = out.iter().map(|entry| entry.get("id")).collect();
    assert_eq!(handled, ids.iter().cloned().collect());
    assert_eq!(out.len(), ids.len(), "none twice");
    assert!(out.iter().all(|entry: &Entry| entry.get("attempt") == "1"), "none has failed");
}

/// One message among 20 that wait: the reason that it is buried for, while the others are handled.
#[track_caller]
fn one_among_others(fields: &[(&str, &str)]) -> String {
    let server = Server::start();
    let mut redis = server.client();
    let waiting = [("wait-ms", "300"), ("emit", "out")];
    let mut others = redis.add_many(10, "in", &waiting);
    redis.add("in", fields);
    others.extend(redis.add_many(10, "in", &waiting));
    let _host = Host::start(&server, &format!("{ASYNC}{ONCE}"));
    each_once(&mut redis, &others);
    redis.wait_settled("in", "h");
    let dead = redis.entries("{in}:dead");
    assert_eq!(dead.len(), 1);
    let later = redis.add_many(5, "in", &waiting);
    others.extend(later);
    each_once(&mut redis, &others);
    dead[0].get("tidegate.reason")
}

#[test]
fn hundreds_of_messages_that_wait_are_in_flight_in_one_instance() {
    let server = Server::start();
    let mut redis = server.client();
    // None of them is ready before all 500 are there.
    let ids = redis.add_many(500, "in", &[("gather", "500"), ("peak", ""), ("emit", "out")]);
    let manifest = ASYNC.replace("concurrency = 64", "concurrency = 500");
    let _host = Host::start(&server, &manifest);
    each_once(&mut redis, &ids);
    assert_eq!(peaks(&mut redis), BTreeSet::from(["500".to_owned()]));
}

#[test]
fn no_more_are_in_flight_than_calls_are_allowed() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = redis.add_many(100, "in", &[("wait-ms", "20"), ("peak", ""), ("emit", "out")]);
    let manifest = ASYNC.replace("concurrency = 64", "concurrency = 7");
    let _host = Host::start(&server, &manifest);
    each_once(&mut redis, &ids);
    let most = peaks(&mut redis).iter().map(|peak| peak.parse::<u32>().unwrap()).max();
    assert_eq!(most, Some(7));
}

#[test]
fn a_trap_among_messages_in_flight_fails_only_the_one_at_fault() {
    assert_eq!(one_among_others(&[("wait-ms", "100"), ("trap", "as told")]), "trap");
}

#[test]
fn a_message_that_spins_among_others_is_stopped_and_costs_them_no_attempt() {
    assert_eq!(one_among_others(&[("wait-ms", "100"), ("loop", "")]), "timeout");
}

#[test]
fn a_message_that_blocks_its_instance_costs_the_others_no_attempt() {
    assert_eq!(one_among_others(&[("wait-ms", "100"), ("sleep-ms", "600000")]), "timeout");
}

#[test]
fn a_message_that_is_never_ready_times_out_and_the_handler_goes_on() {
    assert_eq!(one_among_others(&[("wait-ms", "3600000")]), "timeout");
}

#[test]
fn a_stop_lets_messages_that_wait_finish_within_the_grace() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = redis.add_many(50, "in", &[("wait-ms", "1500"), ("emit", "out")]);
    let mut host = Host::start(&server, ASYNC);
    eventually("all are in flight", || redis.exists("in") && redis.pending("in", "h") == 50);
    host.stop();
    each_once(&mut redis, &ids);
    assert_eq!(redis.pending("in", "h"), 0);
}

#[test]
fn a_kill_loses_none_of_the_messages_that_wait() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = redis.add_many(80, "in", &[("wait-ms", "50"), ("emit", "out")]);
    let mut host = Host::start(&server, ASYNC);
    eventually("some are handled", || redis.length("out") > 0);
    host.kill();
    host.start_again();
    redis.wait_settled("in", "h");
    each_once(&mut redis, &ids);
}

#[test]
fn messages_of_instances_of_their_own_are_in_flight_beside_each_other() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = redis.add_many(30, "in", &[("wait-ms", "20"), ("peak", ""), ("emit", "out")]);
    let _host = Host::start(&server, &format!("{ASYNC}isolation = \"message\"\n"));
    each_once(&mut redis, &ids);
    assert_eq!(peaks(&mut redis), BTreeSet::from(["1".to_owned()]));
}

#[test]
fn messages_of_one_key_wait_for_each_other_and_not_for_those_of_others() {
    let server = Server::start();
    let mut redis = server.client();
    for n in 0..15 {
        // The first of each key is not ready before all three keys are in flight.
        let wait = if n < 3 { ("gather", "3") } else { ("wait-ms", "10") };
        let key = (n % 3).to_string();
        redis.add("in", &[("key", &*key), ("data", &*key), wait, ("peak", ""), ("emit", "out")]);
    }
    let _host = Host::start(&server, &format!("{ASYNC}order-by = \"key\"\n"));
    let out = redis.wait_for(15, "out");
    for key in ["0", "1", "2"] {
        let ids: Vec<(u64, u64)> =
            out.iter().filter(|entry| entry.get("data") == key).map(moment).collect();
        assert_eq!(ids.len(), 5);
        assert!(ids.is_sorted(), "key {key}: {ids:?}");
    }
    assert_eq!(peaks(&mut redis), BTreeSet::from(["3".to_owned()]));
}

/// When a message was added.
fn moment(entry: &Entry) -> (u64, u64) {
    let id = entry.get("id");
    let (millis, sequence) = id.split_once('-').unwrap();
    (millis.parse().unwrap(), sequence.parse().unwrap())
}

#[test]
fn an_instance_that_has_grown_takes_no_more_messages() {
    let server = Server::start();
    let mut redis = server.client();
    redis.add("in", &[("allocate-mb", "40"), ("calls", ""), ("emit", "out")]);
    let _host = Host::start(&server, ASYNC);
    redis.wait_settled("in", "h");
    redis.add("in", &[("calls", ""), ("emit", "out")]);
    redis.wait_for(2, "out");
    assert_eq!(redis.column("out", "calls"), ["1", "1"], "each the first of its instance");
}

#[test]
fn what_a_message_says_by_wasi_03_is_logged() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = redis.add_many(1, "in", &[("shout", "over here"), ("emit", "out")]);
    let host = Host::start(&server, ASYNC);
    each_once(&mut redis, &ids);
    let log = host.log();
    let line = log.lines().find(|line| line.contains("over here"));
    assert!(line.is_some_and(|line| line.contains(&ids[0])), "{log}");
}
