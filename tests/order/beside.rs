//! Order beside everything else that a manifest may ask for.

use std::time::Duration;

use super::harness::{Host, Proxy, Server, Setup, eventually, never};
use super::{ORDERED, all_in_order, fill, in_order};

fn now(redis: &mut super::Redis) -> u64 {
    let (seconds, micros): (u64, u64) = redis.ask("TIME");
    seconds * 1000 + micros / 1000
}

#[test]
fn a_rate_bounds_it() {
    let server = Server::start();
    let mut redis = server.client();
    let count = fill(&mut redis, "in", 3, 20);
    let from = now(&mut redis);
    let _host = Host::start(&server, &format!("{ORDERED}rate = \"40/s\"\nburst = 2\n"));
    all_in_order(&mut redis, &["in"], count);
    for (before, entry) in redis.entries("out").iter().enumerate() {
        let seconds = (entry.millis() - from) as f64 / 1000.0;
        assert!((before + 1) as f64 <= 2.0 + 40.0 * seconds, "{} after {seconds} s", before + 1);
    }
}

#[test]
fn repeats_are_dropped_and_hold_up_nobody() {
    let server = Server::start();
    let mut redis = server.client();
    for n in 0..40 {
        let (key, number) = ((n % 2).to_string(), (n / 4).to_string());
        // Each number comes twice for each key: side by side they are in work together.
        let number = format!("{key}-{number}");
        let fields = [("key", &*key), ("data", &*key), ("number", &*number)];
        redis.add("in", &[&fields[..], &[("sleep-ms", "3"), ("emit", "out")]].concat());
    }
    let dedupe = "dedupe = { key = \"number\", window = \"1h\" }\n";
    let _host = Host::start(&server, &format!("{ORDERED}{dedupe}"));
    all_in_order(&mut redis, &["in"], 20);
}

#[test]
fn a_pause_stops_it_and_a_resumption_goes_on_in_order() {
    let server = Server::start();
    let mut redis = server.client();
    let command = |arguments: &[&str]| {
        Setup::new(&server, ORDERED).command(arguments).finish().expect(0);
    };
    command(&["pause", "h"]);
    let mut host = Host::start(&server, ORDERED);
    let count = fill(&mut redis, "in", 4, 30);
    never(Duration::from_millis(800), "one is handled", || redis.length("out") > 0);
    command(&["resume", "h"]);
    eventually("it goes on", || redis.length("out") > 20);
    command(&["pause", "h"]);
    host.stop();
    host.start_again();
    command(&["resume", "h"]);
    all_in_order(&mut redis, &["in"], count);
}

#[test]
fn a_circuit_pauses_it_and_buries_nothing() {
    let server = Server::start();
    let mut redis = server.client();
    let until = (now(&mut redis) + 1200).to_string();
    for n in 0..30 {
        let key = (n % 3).to_string();
        let fields = [("key", &*key), ("data", &*key), ("retry-before", &*until)];
        redis.add("in", &[&fields[..], &[("emit", "out")]].concat());
    }
    let circuit = "circuit = { failures = 2, pause = \"200ms\" }\n";
    let _host = Host::start(&server, &format!("{ORDERED}{circuit}"));
    all_in_order(&mut redis, &["in"], 30);
    assert_eq!(redis.length("{in}:dead"), 0);
}

#[test]
fn where_some_values_keep_failing_a_circuit_lets_the_others_through() {
    let server = Server::start();
    let mut redis = server.client();
    let circuit = "circuit = { failures = 2, pause = \"50ms\" }\n";
    for key in ["p", "q", "r"] {
        redis.add("in", &[("key", key), ("data", key), ("retry", "always")]);
    }
    let _host = Host::start(&server, &format!("{ORDERED}{circuit}"));
    eventually("they fail", || redis.ask::<usize>("HLEN tidegate:{in}:failures:in:h") == 3);
    for n in 0..5 {
        let key = format!("good{n}");
        redis.add("in", &[("key", &*key), ("data", &*key), ("emit", "out")]);
    }
    redis.wait_for(5, "out");
}

#[test]
fn what_is_handled_goes_from_the_stream_and_delayed_outputs_come() {
    let server = Server::start();
    let mut redis = server.client();
    for n in 0..40 {
        let key = (n % 4).to_string();
        let until = if n % 9 == 5 { "2" } else { "1" };
        let fields = [("key", &*key), ("data", &*key), ("retry-until", until)];
        redis.add("in", &[&fields[..], &[("delay-ms", "50"), ("emit", "out")]].concat());
    }
    let _host = Host::start(&server, &format!("{ORDERED}trim = \"handled\"\n"));
    redis.wait_settled("in", "h");
    let out = redis.wait_for(40, "out");
    in_order(&out);
    eventually("the stream is empty", || redis.length("in") == 0);
}

#[test]
fn a_message_that_is_replayed_comes_again_and_the_next_ones_after_it() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, ORDERED);
    let first = redis.add("in", &[("key", "a"), ("data", "a"), ("emit", "out")]);
    redis.wait_settled("in", "h");
    let replay = ["replay", "h", "--from", &first, "--yes"];
    Setup::new(&server, ORDERED).command(&replay).finish().expect(0);
    let out = redis.wait_for(2, "out");
    assert_eq!(out[1].get("id"), first);
    redis.add("in", &[("key", "a"), ("data", "a"), ("emit", "out")]);
    redis.wait_for(3, "out");
    redis.wait_settled("in", "h");
}

#[test]
fn many_messages_of_one_key_are_replayed_in_order() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, ORDERED);
    redis.add_many(300, "in", &[("key", "a"), ("data", "a"), ("emit", "out")]);
    redis.add_many(300, "in", &[("key", "b"), ("data", "b"), ("emit", "out")]);
    redis.wait_settled("in", "h");
    redis.tell("DEL out");
    let replay = ["replay", "h", "--from", "0", "--yes"];
    Setup::new(&server, ORDERED).command(&replay).finish().expect(0);
    redis.wait_settled("in", "h");
    let out = redis.entries("out");
    assert_eq!(out.len(), 600);
    in_order(&out);
}

#[test]
fn a_retry_that_is_buried_by_hand_lets_the_next_ones_on_and_no_other_retry() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, ORDERED);
    let later = ("retry-after-ms", "600000");
    let ids: Vec<String> = ["a", "b", "c"]
        .iter()
        .map(|key| redis.add("in", &[("key", *key), ("data", *key), later, ("emit", "out")]))
        .collect();
    let next = redis.add("in", &[("key", "a"), ("data", "a"), ("emit", "out")]);
    let waiting = |redis: &mut super::Redis| redis.ask::<usize>("ZCARD tidegate:{in}:waiting:in:h");
    eventually("they wait", || waiting(&mut redis) == 3);
    let bury = ["retries", "bury", &ids[0], "--because", "a test"];
    Setup::new(&server, ORDERED).command(&bury).finish().expect(0);
    assert_eq!(redis.wait_first("out").get("id"), next);
    never(Duration::from_secs(3), "another is tried", || waiting(&mut redis) != 2);
    assert_eq!(redis.length("{in}:dead"), 1);
}

#[test]
fn one_value_with_much_to_do_holds_up_no_other_for_long() {
    let server = Server::start();
    let mut redis = server.client();
    redis.add("in", &[("key", "a"), ("data", "a"), ("retry-after-ms", "600000"), ("emit", "out")]);
    redis.add_many(3000, "in", &[("key", "a"), ("data", "a"), ("emit", "out")]);
    let other = redis.add("in", &[("key", "b"), ("data", "b"), ("emit", "out")]);
    let _host = Host::start(&server, ORDERED);
    assert_eq!(redis.wait_first("out").get("id"), other);
}

#[test]
fn a_wait_whose_answer_is_lost_keeps_the_order() {
    let server = Server::start();
    let mut redis = server.client();
    let proxy = Proxy::before(&server);
    let first = [("key", "a"), ("data", "a"), ("sleep-ms", "300"), ("retry-until", "2")];
    redis.add("in", &[&first[..], &[("emit", "out")]].concat());
    redis.add("in", &[("key", "a"), ("data", "a"), ("emit", "out")]);
    let slow = ORDERED.replace("first = \"20ms\", max = \"50ms\"", "first = \"3s\", max = \"3s\"");
    let _host = Host::at(&proxy.url(), &slow);
    // What tells of the failure is in the request that parks it.
    proxy.cut_replies("attempt 1 of 2", 0, 1);
    eventually("the answer is cut", || proxy.cuts() > 0);
    all_in_order(&mut redis, &["in"], 2);
}

#[test]
fn a_retry_whose_fetch_is_not_answered_is_fetched_again() {
    let server = Server::start();
    let mut redis = server.client();
    let proxy = Proxy::before(&server);
    let _host = Host::at(&proxy.url(), ORDERED);
    eventually("it owns the stream", || super::owner(&mut redis, "in").is_some());
    // How it is fetched is a word of the request.
    proxy.cut_replies("\r\ncrowd\r\n", 0, 1);
    let fails_once = [("key", "a"), ("data", "a"), ("retry-until", "2"), ("emit", "out")];
    redis.add("in", &fails_once);
    redis.add("in", &[("key", "a"), ("data", "a"), ("emit", "out")]);
    all_in_order(&mut redis, &["in"], 2);
    assert_eq!(proxy.cuts(), 1);
}

#[test]
fn what_another_took_from_the_owner_is_not_acknowledged_by_it() {
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, ORDERED);
    let id = redis.add("in", &[("key", "a"), ("print", "begun"), ("sleep-ms", "1000")]);
    let begun = || host.log().matches("begun").count();
    eventually("it is in hand", || begun() == 1);
    redis.tell(&format!("XCLAIM in h another 0 {id}"));
    // As all of the stream is the owner's, it comes back to it.
    eventually("it is handled again", || begun() == 2);
    redis.wait_settled("in", "h");
}

#[test]
fn what_a_live_owner_holds_is_not_left_behind_and_idle_hosts_are_seen() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = format!("{ORDERED}\n[handler.i]\nplugin = \"probe.wasm\"\nstream = \"idle\"\n");
    let _host = Host::start(&server, &manifest);
    redis.add("in", &[("key", "a"), ("print", "begun"), ("sleep-ms", "3000")]);
    eventually("it is in hand", || redis.pending("in", "h") == 1);
    let run =
        |arguments: &[&str]| Setup::new(&server, &manifest).command(arguments).finish().expect(0);
    let pending = run(&["pending", "h"]).stdout;
    assert!(pending.contains("in hand") && !pending.contains('#'), "{pending}");
    let status = run(&["status", "--json"]).json();
    assert_eq!(status["handlers"][1]["hosts-alive"], 1, "{status}");
}
