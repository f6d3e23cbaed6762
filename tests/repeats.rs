//! Messages that repeat one that was handled: dropped, and only those.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use harness::{Host, Redis, Server, eventually};

/// A handler that remembers the orders it handled, for so long.
fn with_dedupe(window: &str, rest: &str) -> String {
    format!(
        r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out"]
retry = {{ attempts = 3, first = "400ms", max = "400ms" }}
dedupe = {{ key = "order", window = "{window}" }}
{rest}
"#
    )
}

fn named(name: &str, rest: &str) -> String {
    format!("[host]\nname = \"{name}\"\n{rest}")
}

/// The keys that remember values.
fn remembered(redis: &mut Redis) -> Vec<String> {
    redis.ask("KEYS tidegate:{in}:seen:in:h:*")
}

#[test]
fn a_message_that_repeats_one_that_was_handled_is_acknowledged_unseen() {
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, &with_dedupe("1h", ""));
    let order = |number| [("order", number), ("print", "attempted"), ("emit", "out")];
    let first = redis.add("in", &order("7"));
    redis.wait_settled("in", "h");
    redis.add_many(3, "in", &order("7"));
    let other = redis.add("in", &order("8"));
    redis.wait_settled("in", "h");
    assert_eq!(redis.column("out", "id"), [first, other]);
    assert_eq!(host.log().matches("attempted").count(), 2, "the others were not seen");

    redis.add_many(2, "in", &[("print", "nameless"), ("data", "without the field")]);
    redis.add_many(2, "in", &[("order", "9"), ("print", "without outputs")]);
    redis.wait_settled("in", "h");
    assert_eq!(host.log().matches("nameless").count(), 2);
    let keys = remembered(&mut redis);
    assert_eq!(keys.len(), 3);
    let left: i64 = redis.ask(&format!("PTTL {}", keys[0]));
    assert!((3_500_000..=3_600_000).contains(&left), "{left}");
}

#[test]
fn equal_messages_in_flight_on_two_hosts_yield_their_outputs_once() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = with_dedupe("1h", "concurrency = 1");
    let _hosts = ["a", "b"].map(|name| Host::start(&server, &named(name, &manifest)));
    eventually("both read", || redis.readers() == 2);
    redis.add_many(2, "in", &[("order", "7"), ("sleep-ms", "700"), ("emit", "out")]);
    eventually("each has one in hand", || {
        let holders = redis.holders("in", "h");
        let mut names: Vec<_> = holders.into_iter().map(|(name, _)| name).collect();
        names.sort();
        names == ["a", "b"]
    });
    redis.wait_settled("in", "h");
    assert_eq!(redis.length("out"), 1);
}

#[test]
fn equal_messages_of_one_batch_yield_their_outputs_once() {
    let server = Server::start();
    let mut redis = server.client();
    redis.add_many(50, "in", &[("order", "7"), ("emit", "out")]);
    let manifest = with_dedupe("1h", "").replace("probe.wasm", "probe_batch.wasm");
    let _host = Host::start(&server, &manifest);
    redis.wait_settled("in", "h");
    assert_eq!(redis.length("out"), 1);
}

#[test]
fn a_failure_is_not_remembered_and_repeats_what_was_handled_meanwhile() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, &with_dedupe("1h", ""));
    redis.add("in", &[("order", "7"), ("reject", "never")]);
    redis.wait_first("{in}:dead");
    redis.add("in", &[("order", "7"), ("retry-until", "2"), ("emit", "out")]);
    eventually("it waits for its retry", || {
        redis.ask::<usize>("ZCARD tidegate:{in}:waiting:in:h") == 1
    });
    assert_eq!(remembered(&mut redis), [""; 0]);
    let second = redis.add("in", &[("order", "7"), ("emit", "out")]);
    redis.wait_settled("in", "h");
    assert_eq!(redis.column("out", "id"), [second], "the retry repeats it");
    let left: Vec<String> = redis.ask("KEYS tidegate:{in}:failures:*");
    assert_eq!(left, [""; 0]);
}

#[test]
fn a_retry_that_succeeds_is_remembered() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, &with_dedupe("1h", ""));
    let first = redis.add("in", &[("order", "7"), ("retry-until", "2"), ("emit", "out")]);
    redis.wait_first("out");
    redis.add("in", &[("order", "7"), ("emit", "out")]);
    redis.wait_settled("in", "h");
    assert_eq!(redis.column("out", "id"), [first]);
}

#[test]
fn what_match_passes_over_is_not_remembered() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, &with_dedupe("1h", "match = { name = \"paid\" }"));
    redis.add("in", &[("order", "7"), ("name", "begun"), ("emit", "out")]);
    redis.wait_settled("in", "h");
    let id = redis.add("in", &[("order", "7"), ("name", "paid"), ("emit", "out")]);
    redis.wait_settled("in", "h");
    assert_eq!(redis.column("out", "id"), [id]);
}

#[test]
fn after_its_window_a_value_is_new_again() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, &with_dedupe("1s", ""));
    for count in [1, 2] {
        redis.add("in", &[("order", "7"), ("emit", "out")]);
        redis.wait_for(count, "out");
        eventually("it is forgotten", || remembered(&mut redis).is_empty());
    }
}

#[test]
fn a_killed_host_forgets_no_value_and_its_message_is_no_repeat_of_itself() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &named("only", &with_dedupe("1h", "")));
    let order = [("order", "7"), ("sleep-ms", "400"), ("emit", "out")];
    redis.add("in", &order);
    eventually("it is in hand", || redis.pending("in", "h") == 1);
    host.kill();
    redis.add("in", &order);
    host.start_again();
    redis.wait_settled("in", "h");
    assert_eq!(redis.length("out"), 1);
    host.kill();
    redis.add("in", &order);
    host.start_again();
    redis.wait_settled("in", "h");
    assert_eq!(redis.length("out"), 1);
}

#[test]
fn a_remembering_key_that_somebody_made_another_heals() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, &with_dedupe("1h", ""));
    for count in [1, 2] {
        redis.add("in", &[("order", "7"), ("emit", "out")]);
        redis.wait_for(count, "out");
        let key = remembered(&mut redis).remove(0);
        assert_eq!(redis.ask::<String>(&format!("TYPE {key}")), "string");
        redis.tell(&format!("DEL {key}"));
        redis.tell(&format!("LPUSH {key} x"));
    }
    redis.wait_settled("in", "h");
}
