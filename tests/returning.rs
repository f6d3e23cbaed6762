//! What comes back comes soon, and leaves nothing behind: small things that other checks make up for.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use harness::{Host, Server, eventually, millis};

const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out"]
retry = { attempts = 3, first = "20ms", max = "50ms" }
"#;

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
