//! Streams whose messages are handled in order: by key, across failures, kills and hosts.

mod harness;
#[path = "order/beside.rs"]
mod beside;
#[path = "order/shards.rs"]
mod shards;
#[path = "order/suspects.rs"]
mod suspects;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use harness::{Entry, Host, Redis, Server, eventually, millis};

/// A handler that does what its messages tell it, each `key` in order.
const ORDERED: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
order-by = "key"
outputs = ["out*"]
concurrency = 16
retry = { attempts = 4, first = "20ms", max = "50ms" }
"#;

fn named(name: &str, rest: &str) -> String {
    format!("[host]\nname = \"{name}\"\n{rest}")
}

/// Messages of some keys, which take turns; some take longer than those behind them, some fail at first.
fn fill(redis: &mut Redis, stream: &str, keys: usize, each: usize) -> usize {
    for n in 0..each {
        for key in 0..keys {
            let key = key.to_string();
            let sleep = ((n * 7 + 3) % 5).to_string();
            let until = if n % 10 == 4 { "3" } else { "1" };
            let fields = [("key", &*key), ("data", &*key), ("sleep-ms", &*sleep)];
            let fields = [&fields[..], &[("retry-until", until), ("emit", "out")]].concat();
            redis.add(stream, &fields);
        }
    }
    keys * each
}

/// Every message was handled, once, and those of each key in the order of their ids.
#[track_caller]
fn all_in_order(redis: &mut Redis, streams: &[&str], count: usize) {
    for stream in streams {
        redis.wait_settled(stream, "h");
    }
    let out = redis.entries("out");
    assert_eq!(out.len(), count);
    in_order(&out);
}

/// Those of each key are in the order of their ids, and none comes twice.
#[track_caller]
fn in_order(out: &[Entry]) {
    let mut lanes: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for entry in out {
        lanes.entry(entry.get("data")).or_default().push(order(&entry.get("id")));
    }
    for (key, ids) in lanes {
        let sorted = ids.is_sorted_by(|a, b| a < b);
        assert!(sorted, "of key {key}: {ids:?}");
    }
}

/// What ids are compared by.
fn order(id: &str) -> (u64, u64) {
    let sequence = id.split_once('-').and_then(|(_, sequence)| sequence.parse().ok());
    (millis(id), sequence.expect("an id has two numbers"))
}

/// The host that owns a stream, by its lease.
fn owner(redis: &mut Redis, stream: &str) -> Option<String> {
    let tag = stream.split_once('{').map_or(stream, |(_, rest)| rest.trim_end_matches('}'));
    let tenure: Option<String> = redis.ask(&format!("GET tidegate:{{{tag}}}:lease:{stream}:h"));
    Some(tenure?.rsplit_once('#')?.0.to_owned())
}

#[test]
fn messages_of_one_key_are_handled_in_order_also_when_some_fail() {
    let server = Server::start();
    let mut redis = server.client();
    let count = fill(&mut redis, "in", 8, 30);
    let _host = Host::start(&server, ORDERED);
    all_in_order(&mut redis, &["in"], count);
    assert_eq!(redis.length("{in}:dead"), 0);
}

#[test]
fn different_keys_are_handled_at_the_same_time() {
    let server = Server::start();
    let mut redis = server.client();
    for key in 0..8 {
        let key = key.to_string();
        redis.add("in", &[("key", &*key), ("data", &key), ("sleep-ms", "1000"), ("emit", "out")]);
    }
    let _host = Host::start(&server, ORDERED);
    eventually("all are in hand", || redis.pending("in", "h") == 8);
    let begun = Instant::now();
    redis.wait_for(8, "out");
    assert!(begun.elapsed() < Duration::from_secs(4), "after {:?}", begun.elapsed());
}

#[test]
fn a_failing_message_holds_back_its_own_key_alone_and_goes_before_those_behind_it() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, ORDERED);
    let add = |redis: &mut Redis, key: &str, extra: &[(&str, &str)]| {
        let fields = [&[("key", key), ("data", key)], extra, &[("emit", "out")]].concat();
        redis.add("in", &fields)
    };
    let failing = add(&mut redis, "a", &[("retry-after-ms", "4000")]);
    let behind: Vec<_> = (0..300).map(|_| add(&mut redis, "a", &[])).collect();
    eventually("the first of them waits", || {
        redis
            .ask::<Option<f64>>(&format!("ZSCORE tidegate:{{in}}:waiting:in:h {failing}"))
            .is_some()
    });
    let others: Vec<_> =
        (0..300).map(|n| add(&mut redis, if n % 2 == 0 { "b" } else { "c" }, &[])).collect();
    let out = redis.wait_for(others.len(), "out");
    assert!(out.iter().all(|entry| entry.get("data") != "a"), "it went before its time");
    all_in_order(&mut redis, &["in"], 1 + behind.len() + others.len());
}

#[test]
fn when_a_message_is_buried_the_next_of_its_key_goes_on() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, ORDERED);
    let dead = redis.add("in", &[("key", "a"), ("retry", "never works")]);
    let next = redis.add("in", &[("key", "a"), ("emit", "out")]);
    assert_eq!(redis.wait_first("out").get("id"), next);
    assert_eq!(redis.wait_first("{in}:dead").get("tidegate.id"), dead);
    assert_eq!(redis.wait_first("{in}:dead").get("tidegate.attempts"), "4");
    redis.wait_settled("in", "h");
}

#[test]
fn messages_without_the_field_share_one_lane() {
    let server = Server::start();
    let mut redis = server.client();
    for n in 0..20 {
        let sleep = if n % 2 == 0 { "8" } else { "0" };
        redis.add("in", &[("data", "none"), ("sleep-ms", sleep), ("emit", "out")]);
    }
    let _host = Host::start(&server, ORDERED);
    all_in_order(&mut redis, &["in"], 20);
}

#[test]
fn the_field_says_who_waits_and_not_what_is_handled() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = format!("{ORDERED}match = {{ kind = \"wanted\" }}\n");
    let _host = Host::start(&server, &manifest);
    redis.add(
        "in",
        &[("key", "a"), ("kind", "wanted"), ("retry-after-ms", "3000"), ("emit", "out")],
    );
    redis.add_many(50, "in", &[("key", "a"), ("kind", "another"), ("emit", "out")]);
    eventually("those not asked for are acknowledged", || {
        redis.has_group("in", "h") && redis.pending("in", "h") == 1
    });
    assert_eq!(redis.unread("in", "h"), 0);
    redis.wait_for(1, "out");
    redis.wait_settled("in", "h");
    assert_eq!(redis.length("out"), 1);
}

/// `probe-batch` gets many messages in a call.
#[test]
fn a_batch_has_one_message_of_a_key_at_most() {
    let server = Server::start();
    let mut redis = server.client();
    let count = fill(&mut redis, "in", 12, 25);
    let _host = Host::start(&server, &ORDERED.replace("probe.wasm", "probe_batch.wasm"));
    all_in_order(&mut redis, &["in"], count);
}

#[test]
fn another_host_takes_over_within_seconds_and_goes_on_in_order() {
    let server = Server::start();
    let mut redis = server.client();
    let mut first = Host::start(&server, &named("a", ORDERED));
    eventually("it owns the stream", || owner(&mut redis, "in").as_deref() == Some("a"));
    let _second = Host::start(&server, &named("b", ORDERED));
    let count = fill(&mut redis, "in", 6, 120);
    eventually("they are in mid-work", || redis.length("out") >= 50);
    let survivor = if owner(&mut redis, "in").as_deref() == Some("a") { "b" } else { "a" };
    // Either may own it by now; the other one stands by.
    if survivor == "a" {
        drop(_second);
    } else {
        first.kill();
    }
    let killed = Instant::now();
    assert!(redis.length("out") < count, "there was work left");
    eventually("the other owns it", || owner(&mut redis, "in").as_deref() == Some(survivor));
    assert!(killed.elapsed() < Duration::from_secs(8), "after {:?}", killed.elapsed());
    all_in_order(&mut redis, &["in"], count);
}

#[test]
fn an_owner_that_was_frozen_past_its_lease_writes_nothing_out_of_order() {
    let server = Server::start();
    let mut redis = server.client();
    let frozen = Host::start(&server, &named("a", ORDERED));
    eventually("it owns the stream", || owner(&mut redis, "in").as_deref() == Some("a"));
    let count = fill(&mut redis, "in", 6, 100);
    eventually("it is in mid-work", || redis.length("out") >= 50);
    frozen.signal("STOP");
    let _other = Host::start(&server, &named("b", ORDERED));
    eventually("the other owns it", || owner(&mut redis, "in").as_deref() == Some("b"));
    let then = redis.length("out");
    assert!(then < count, "there was work left");
    eventually("it goes on", || redis.length("out") > then);
    frozen.signal("CONT");
    all_in_order(&mut redis, &["in"], count);
    eventually("the first knows", || frozen.log().contains("not sure of the lease"));
}

#[test]
fn a_host_killed_again_and_again_keeps_the_order() {
    let server = Server::start();
    let mut redis = server.client();
    let count = fill(&mut redis, "in", 6, 100);
    let mut host = Host::start(&server, ORDERED);
    for at in [50, 200, 400] {
        eventually("it is in mid-work", || redis.length("out") >= at);
        host.kill();
        assert!(redis.length("out") < count, "there was work left");
        host.start_again();
    }
    all_in_order(&mut redis, &["in"], count);
}

#[test]
fn a_group_that_is_lost_heals_and_the_order_holds() {
    let server = Server::start();
    let mut redis = server.client();
    let count = fill(&mut redis, "in", 4, 60);
    let host = Host::start(&server, ORDERED);
    eventually("it is in mid-work", || redis.length("out") >= 40);
    redis.tell("XGROUP DESTROY in h");
    eventually("it notices", || host.log().contains("the group is gone"));
    redis.wait_settled("in", "h");
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in redis.entries("out") {
        seen.entry(entry.get("data")).or_default().push(entry.get("id"));
    }
    // What was handled before is handled once more, from the beginning: one step back for each key, no more.
    let steps_back =
        |ids: &[String]| ids.windows(2).filter(|pair| order(&pair[0]) >= order(&pair[1])).count();
    assert!(seen.values().all(|ids| steps_back(ids) <= 1), "{seen:?}");
    let mut all: Vec<String> = seen.into_values().flatten().collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn connections_killed_again_and_again_keep_the_order() {
    let server = Server::start();
    let mut redis = server.client();
    let count = fill(&mut redis, "in", 6, 100);
    let _host = Host::start(&server, ORDERED);
    for at in [30, 120, 250, 400] {
        eventually("it is in mid-work", || redis.length("out") >= at);
        redis.kill_others();
    }
    all_in_order(&mut redis, &["in"], count);
}

#[test]
fn retries_whose_times_were_deleted_are_tried_at_once_and_hold_up_nobody() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, ORDERED);
    redis.add("in", &[("key", "a"), ("data", "a"), ("retry-after-ms", "600000"), ("emit", "out")]);
    redis.add("in", &[("key", "a"), ("data", "a"), ("emit", "out")]);
    eventually("the first waits", || redis.ask::<usize>("ZCARD tidegate:{in}:waiting:in:h") == 1);
    redis.tell("DEL tidegate:{in}:waiting:in:h");
    all_in_order(&mut redis, &["in"], 2);
}

#[test]
fn what_waits_for_a_failing_message_still_does_after_a_kill() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, ORDERED);
    redis.add("in", &[("key", "a"), ("data", "a"), ("retry-after-ms", "3000"), ("emit", "out")]);
    redis.add_many(20, "in", &[("key", "a"), ("data", "a"), ("emit", "out")]);
    eventually("the first waits, and those behind it are read", || {
        redis.ask::<usize>("ZCARD tidegate:{in}:waiting:in:h") == 1
            && redis.pending("in", "h") == 21
    });
    host.kill();
    host.start_again();
    redis.add("in", &[("key", "b"), ("data", "b"), ("emit", "out")]);
    assert_eq!(redis.wait_first("out").get("data"), "b", "the other key does not wait");
    all_in_order(&mut redis, &["in"], 22);
    assert_eq!(redis.column("out", "attempt").iter().filter(|attempt| *attempt == "2").count(), 1);
}
