//! What comes back comes soon, whatever else there is to do, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::time::Duration;

use harness::{Host, Proxy, Redis, Server, eventually, millis, within};

const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out"]
retry = { attempts = 3, first = "20ms", max = "50ms" }
"#;

/// Adds a message that a consumer holds at once, and nobody is at work on.
fn strand(redis: &mut Redis, consumer: &str, fields: &[&str]) -> String {
    let script = "local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
        redis.call('XREADGROUP', 'GROUP', 'h', ARGV[1], 'STREAMS', KEYS[1], '>')
        return id";
    redis.run(script, &["in"], &[&[consumer], fields].concat())
}

/// As [`strand`], for longer than a consumer that is no host is left alone.
fn leave_behind(redis: &mut Redis, fields: &[&str]) -> String {
    let id = strand(redis, "stray", fields);
    redis.tell(&format!("XCLAIM in h stray 0 {id} IDLE 60000 JUSTID"));
    id
}

fn begun(host: &Host) -> usize {
    host.log().matches("begun").count()
}

fn waiting(redis: &mut Redis) -> usize {
    redis.ask("ZCARD tidegate:{in}:waiting:in:h")
}

#[test]
fn a_retry_that_succeeds_without_an_output_leaves_no_failure_behind() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, PROBE);
    redis.add("in", &[("retry-until", "2")]);
    redis.wait_settled("in", "h");
    let keys: Vec<String> = redis.ask("KEYS tidegate:*:failures:*");
    assert_eq!(keys, [""; 0]);
}

#[test]
fn a_retry_does_not_wait_for_an_idle_reader_to_look_up() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, PROBE);
    // The quickest counts, as the machine may be busy; a reader looks up by itself after two seconds.
    let late = (0..5).map(|n| {
        eventually("the reader waits", || redis.readers() == 1);
        redis.add("in", &[("retry-after-ms", "100"), ("emit", "out")]);
        let out = redis.wait_for(n + 1, "out").pop().unwrap();
        out.millis() - millis(&out.get("id"))
    });
    let quickest = late.min().unwrap();
    assert!((100..1000).contains(&quickest), "{quickest} ms");
}

#[test]
fn owners_of_an_ordered_stream_that_died_leave_no_consumer_behind() {
    let server = Server::start();
    let mut redis = server.client();
    let ordered = format!("{PROBE}order-by = \"key\"\n");
    let mut host = Host::start(&server, &ordered);
    for n in 0..3 {
        redis.add("in", &[("key", "a"), ("emit", "out")]);
        redis.wait_for(n + 1, "out");
        host.kill();
        host.start_again();
    }
    redis.add("in", &[("key", "a"), ("emit", "out")]);
    redis.wait_for(4, "out");
    eventually("the consumer is the owner's alone", || {
        let lease: Option<String> = redis.ask("GET tidegate:{in}:lease:in:h");
        redis.consumers("in", "h") == lease.into_iter().collect::<Vec<_>>()
    });
}

#[test]
fn retries_without_end_keep_out_neither_new_messages_nor_what_others_left() {
    let server = Server::start();
    let mut redis = server.client();
    let endless =
        PROBE.replace("attempts = 3, first = \"20ms\"", "attempts = 1000000, first = \"1ms\"");
    let _host = Host::start(&server, &format!("{endless}concurrency = 1\n"));
    // There is always one that is due.
    redis.add_many(300, "in", &[("retry", "never works")]);
    eventually("all fail", || redis.ask::<usize>("HLEN tidegate:{in}:failures:in:h") == 300);
    let new = redis.add("in", &[("emit", "out")]);
    assert_eq!(redis.wait_first("out").get("id"), new);
    let left = leave_behind(&mut redis, &["emit", "out"]);
    assert_eq!(redis.wait_for(2, "out")[1].get("id"), left);
}

#[test]
fn what_was_lost_behind_a_thousand_in_hand_is_found() {
    let server = Server::start();
    let mut redis = server.client();
    let wide = PROBE.replace("probe.wasm", "probe_async.wasm");
    let _host = Host::start(&server, &format!("{wide}concurrency = 1500\ntimeout = \"10m\"\n"));
    redis.add_many(1200, "in", &[("wait-ms", "500000")]);
    eventually("they are in hand", || redis.pending("in", "h") == 1200);
    let consumer = redis.consumers("in", "h").remove(0);
    let lost = strand(&mut redis, &consumer, &["emit", "out"]);
    assert_eq!(redis.wait_first("out").get("id"), lost);
}

#[test]
fn a_retry_is_found_behind_a_page_of_those_that_cannot_be_buried() {
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, PROBE);
    let trimmed = redis.add_many(200, "in", &[("retry-after-ms", "500")]);
    eventually("they wait", || waiting(&mut redis) == 200);
    redis.tell("SET {in}:dead text");
    redis.tell(&format!("XDEL in {}", trimmed.join(" ")));
    eventually("all are to be buried", || {
        host.log().matches("trimmed from the stream before").count() == 200
    });
    redis.add("in", &[("retry-after-ms", "50"), ("emit", "out")]);
    redis.wait_first("out");
    redis.tell("DEL {in}:dead");
    redis.wait_for(200, "{in}:dead");
    redis.wait_settled("in", "h");
}

#[test]
fn a_suspect_whose_claim_is_not_answered_is_not_blamed() {
    let server = Server::start();
    let mut redis = server.client();
    let proxy = Proxy::before(&server);
    let mut host = Host::at(&proxy.url(), PROBE);
    let id = redis.add("in", &[("print", "begun"), ("sleep-ms", "1000"), ("emit", "out")]);
    eventually("it is in hand", || begun(&host) == 1);
    host.kill();
    // How it is taken is a word of the request: it is the first to run in its host.
    proxy.cut_replies("\r\nfirst\r\n", 0, 1);
    host.start_again();
    within(Duration::from_secs(30), "it is handled", || redis.length("out") == 1);
    assert_eq!(proxy.cuts(), 1);
    assert_eq!((redis.wait_first("out").get("id"), redis.exists("{in}:dead")), (id, false));
}
