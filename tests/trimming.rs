//! What is left of a stream, by whose will: nothing goes before every group has acknowledged it, and a
//! producer's own trimming is warned about before it reaches what is not handled.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::time::Duration;

use harness::{Host, Options, Redis, Running, Server, eventually, never, skipped, within};

const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out*"]
retry = { attempts = 5, first = "60s", max = "60s" }
"#;

/// A host whose handled messages go from the stream.
fn trimming() -> (Server, Redis, Running) {
    let server = Server::start();
    let host = Host::start(&server, &format!("{PROBE}trim = \"handled\"\n"));
    let mut redis = server.client();
    eventually("it reads", || redis.readers() == 1);
    (server, redis, host)
}

fn has(redis: &mut Redis, id: &str) -> bool {
    redis.ask::<Vec<redis::Value>>(&format!("XRANGE in {id} {id}")).len() == 1
}

#[test]
fn when_all_is_handled_the_stream_is_empty() {
    let (_server, mut redis, _host) = trimming();
    redis.add_many(3000, "in", &[("nothing", "to write")]);
    redis.add_many(300, "in", &[("emit", "out")]);
    redis.add_many(30, "in", &[("reject", "no")]);
    redis.wait_for(300, "out");
    redis.wait_for(30, "{in}:dead");
    eventually("the stream is empty", || redis.length("in") == 0);
    assert_eq!((redis.length("out"), redis.length("{in}:dead")), (300, 30));
    assert_eq!(redis.pending("in", "h"), 0);
    // The group is still there, and goes on.
    redis.add("in", &[("emit", "out")]);
    redis.wait_for(301, "out");
    eventually("the stream is empty again", || redis.length("in") == 0);
}

#[test]
fn what_another_group_has_not_acknowledged_stays() {
    let (_server, mut redis, _host) = trimming();
    redis.tell("XGROUP CREATE in slow 0");
    let ids = redis.add_many(200, "in", &[("emit", "out")]);
    redis.wait_for(200, "out");
    redis.wait_settled("in", "h");
    // Long enough for several rounds.
    never(Duration::from_secs(5), "unread entries are removed", || redis.length("in") < 200);
    redis.tell("XREADGROUP GROUP slow s COUNT 100 STREAMS in >");
    redis.tell(&format!("XACK in slow {}", ids[..40].join(" ")));
    redis.add("in", &[("emit", "out")]);
    eventually("what both acknowledged is removed", || redis.length("in") == 161);
    assert!(!has(&mut redis, &ids[39]) && has(&mut redis, &ids[40]));
}

#[test]
fn what_another_group_acknowledges_later_goes_too_although_this_one_has_nothing_to_do() {
    let (_server, mut redis, _host) = trimming();
    redis.tell("XGROUP CREATE in slow 0");
    let ids = redis.add_many(20, "in", &[("emit", "out")]);
    redis.wait_settled("in", "h");
    // Long enough for this one to have looked when it was done.
    never(Duration::from_secs(5), "unread entries are removed", || redis.length("in") < 20);
    redis.tell("XREADGROUP GROUP slow s COUNT 20 STREAMS in >");
    redis.tell(&format!("XACK in slow {}", ids.join(" ")));
    within(Duration::from_secs(60), "they are removed", || redis.length("in") == 0);
}

#[test]
fn a_message_that_waits_for_its_retry_stays() {
    let (_server, mut redis, _host) = trimming();
    redis.add_many(10, "in", &[("emit", "out")]);
    let id = redis.add("in", &[("retry-after-ms", "60000"), ("emit", "out2")]);
    redis.add_many(10, "in", &[("emit", "out")]);
    redis.wait_for(20, "out");
    // A server that removes by entry leaves the one; another leaves all behind it.
    let left = if redis.knows("xackdel") { 1 } else { 11 };
    eventually("the others are removed", || redis.length("in") == left);
    assert!(has(&mut redis, &id));
    redis.tell(&format!("ZADD tidegate:{{in}}:waiting:in:h 0 {id}"));
    assert_eq!(redis.wait_first("out2").get("id"), id);
    eventually("the stream is empty", || redis.length("in") == 0);
}

const TRIM: &str = include_str!("../host/src/broker/scripts/trim.lua");

fn trim(redis: &mut Redis) -> i64 {
    redis.run(TRIM, &["s"], &["1000"])
}

#[test]
fn a_stream_without_groups_is_never_trimmed() {
    let server = Server::start();
    let mut redis = server.client();
    assert_eq!(trim(&mut redis), -1);
    redis.add_many(500, "s", &[("a", "b")]);
    assert_eq!(trim(&mut redis), -1);
    assert_eq!(redis.length("s"), 500);
}

#[test]
fn ids_are_compared_as_numbers_of_any_length() {
    let server = Server::start();
    let mut redis = server.client();
    for id in ["9-1", "10-1", "10-9", "10-10", "18446744073709551610-1", "18446744073709551611-0"] {
        redis.tell(&format!("XADD s {id} a b"));
    }
    // One group waits for 10-10 and one is about to read 10-9: as texts they compare the other way round.
    redis.tell("XGROUP CREATE s late 0");
    redis.tell("XREADGROUP GROUP late c COUNT 5 STREAMS s >");
    redis.tell("XACK s late 9-1 10-1 10-9");
    redis.tell("XGROUP CREATE s early 10-1");
    assert_eq!(trim(&mut redis), 2);
    assert!(redis.entries("s")[0].id == "10-9");
    redis.tell("XGROUP SETID s early 18446744073709551610-1");
    assert_eq!(trim(&mut redis), 1);
    redis.tell("XACK s late 10-10 18446744073709551610-1");
    assert_eq!(trim(&mut redis), 2);
    assert_eq!(redis.entries("s")[0].id, "18446744073709551611-0");
}

#[test]
fn what_a_group_has_yet_to_read_stays_although_all_it_read_is_acknowledged() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = redis.add_many(1000, "s", &[("a", "b")]);
    redis.tell("XGROUP CREATE s g 0");
    redis.tell("XREADGROUP GROUP g c COUNT 700 STREAMS s >");
    redis.tell(&format!("XACK s g {}", ids[..700].join(" ")));
    while trim(&mut redis) > 0 {}
    assert_eq!((redis.length("s"), redis.entries("s")[0].id.clone()), (300, ids[700].clone()));
    redis.tell("XGROUP DESTROY s g");
    assert_eq!(trim(&mut redis), -1, "nobody can tell any more");
}

#[test]
fn a_server_that_no_longer_removes_by_entry_is_done_without() {
    let server = Server::with(Options { tcp: true, ..Options::default() });
    let mut redis = server.client();
    if !redis.knows("xackdel") {
        return skipped("the server has no XACKDEL");
    }
    redis.tell("ACL SETUSER app on >pw ~* &* +@all");
    let url = format!("redis://app:pw@127.0.0.1:{}", server.port);
    let host = Host::at(&url, &format!("{PROBE}trim = \"handled\"\n"));
    redis.add_many(50, "in", &[("emit", "out")]);
    redis.wait_for(50, "out");
    eventually("the stream is empty", || redis.length("in") == 0);
    assert!(host.log().contains("XACKDEL"), "it says what the server can do: {}", host.log());
    redis.tell("ACL SETUSER app -xackdel");
    redis.add_many(50, "in", &[("emit", "out")]);
    redis.add_many(50, "in", &[("nothing", "to write")]);
    redis.wait_for(100, "out");
    redis.wait_settled("in", "h");
    eventually("the stream is empty all the same", || redis.length("in") == 0);
    assert_eq!(redis.length("out"), 100, "each once");
    assert_eq!(host.log().matches("doing without").count(), 1, "{}", host.log());
}

#[test]
fn a_producers_trimming_is_warned_about_before_it_reaches_what_is_not_handled() {
    const WARNING: &str = "trimmed close to messages that are not handled";
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, &format!("{PROBE}concurrency = 1\n"));
    // All of these are handled while they are trimmed: no reason to warn.
    let mut handled = 0;
    eventually("a round has passed", || {
        redis.ask::<String>("XADD in MAXLEN = 100 * emit out");
        handled += 1;
        handled > 250
    });
    assert!(!host.log().contains(WARNING), "{}", host.log());
    redis.wait_settled("in", "h");
    redis.add("in", &[("sleep-ms", "15000")]);
    eventually("it says so", || {
        redis.ask::<String>("XADD in MAXLEN = 100 * emit out");
        host.log().contains(WARNING)
    });
    never(Duration::from_secs(3), "it says so again", || {
        redis.ask::<String>("XADD in MAXLEN = 100 * emit out");
        host.log().matches(WARNING).count() > 1
    });
    assert!(host.log().contains("MAXLEN ~ n ACKED"), "and what to do: {}", host.log());
}

#[test]
fn a_server_that_may_evict_the_stream_is_warned_about() {
    const WARNING: &str = "this server may remove the whole stream";
    for (policy, expires, is_danger) in [
        ("allkeys-lru", false, true),
        ("volatile-ttl", true, true),
        ("volatile-ttl", false, false),
        ("noeviction", true, false),
    ] {
        let line = format!("maxmemory-policy {policy}");
        let server = Server::with(Options { lines: vec![line], ..Options::default() });
        let mut redis = server.client();
        redis.add("in", &[("emit", "out")]);
        if expires {
            redis.tell("EXPIRE in 1000");
        }
        let host = Host::start(&server, PROBE);
        redis.wait_first("out");
        if is_danger {
            eventually("it says so", || host.log().contains(WARNING));
            assert!(host.log().contains(policy) && host.log().contains("noeviction"));
        } else {
            never(Duration::from_millis(700), "it says so", || host.log().contains(WARNING));
        }
        assert!(host.log().matches(WARNING).count() <= 1);
    }
}
