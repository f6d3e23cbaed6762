//! What lets messages through to a handler, and what holds them back: pauses, circuits, rates.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::time::Duration;

use harness::{Host, Redis, Running, Server, Setup, eventually, never};

/// A handler that does what its messages tell it.
const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out*"]
"#;

fn named(name: &str, rest: &str) -> String {
    format!("[host]\nname = \"{name}\"\n{rest}")
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}

/// Two hosts that share a handler.
fn two(server: &Server, manifest: &str) -> [Running; 2] {
    ["a", "b"].map(|name| Host::start(server, &named(name, manifest)))
}

/// The server's time in milliseconds.
fn now(redis: &mut Redis) -> u64 {
    let (seconds, micros): (u64, u64) = redis.ask("TIME");
    seconds * 1000 + micros / 1000
}

fn command(server: &Server, manifest: &str, arguments: &[&str]) -> harness::Done {
    Setup::new(server, manifest).command(arguments).finish()
}

#[test]
fn a_paused_handler_handles_nothing_on_any_host_until_it_is_resumed() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = format!("{PROBE}concurrency = 2");
    let ids = sorted(redis.add_many(1000, "in", &[("sleep-ms", "5"), ("emit", "out")]));
    let mut hosts = two(&server, &manifest);
    eventually("both are at work", || redis.consumers("in", "h").len() == 2);
    redis.wait_for(20, "out");
    command(&server, &manifest, &["pause", "h"]).expect(0);
    let paused = now(&mut redis);
    eventually("both have noticed", || hosts.iter().all(|host| host.log().contains("paused")));
    eventually("what was in hand is settled", || redis.pending("in", "h") == 0);
    let handled = redis.entries("out");
    let latest = handled.last().unwrap().millis();
    assert!(latest <= paused + 1000, "{} ms after the pause", latest - paused);
    assert!(handled.len() < ids.len(), "there is work left");

    let quiet = |redis: &mut Redis| {
        never(Duration::from_millis(900), "one is handled while paused", || {
            redis.length("out") > handled.len() || redis.pending("in", "h") > 0
        });
    };
    quiet(&mut redis);
    for host in &mut hosts {
        host.stop();
        host.start_again();
        eventually("it is at work again", || host.log().contains("ready"));
    }
    quiet(&mut redis);

    command(&server, &manifest, &["resume", "h"]).expect(0);
    redis.wait_settled("in", "h");
    assert_eq!(sorted(redis.column("out", "id")), ids);
}

#[test]
fn a_pause_holds_back_retries_and_wakes_an_idle_reader() {
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, PROBE);
    redis.add("in", &[("retry-after-ms", "2000"), ("emit", "out")]);
    eventually("it waits for its retry", || waiting(&mut redis) == 1);
    command(&server, PROBE, &["pause", "h"]).expect(0);
    eventually("the host has noticed", || host.log().contains("paused"));
    eventually("it reads no more", || redis.readers() == 0);
    redis.add("in", &[("emit", "out")]);
    never(Duration::from_millis(2100), "one is handled while paused", || redis.length("out") > 0);
    command(&server, PROBE, &["resume", "h"]).expect(0);
    redis.wait_for(2, "out");
    redis.wait_settled("in", "h");
}

/// How many messages wait for their next attempt.
fn waiting(redis: &mut Redis) -> usize {
    redis.ask("ZCARD tidegate:{in}:waiting:in:h")
}

#[test]
fn pause_and_resume_say_what_they_found() {
    let server = Server::start();
    let manifest = format!("{PROBE}\n[handler.other]\nplugin = \"probe.wasm\"\nstream = \"in\"\n");
    let run = |arguments: &[&str]| command(&server, &manifest, arguments);
    let unknown = run(&["pause", "g"]).expect(2);
    assert!(unknown.stderr.contains("no handler `g`"), "{}", unknown.stderr);
    assert!(unknown.stderr.contains("h, other"), "{}", unknown.stderr);
    run(&["pause"]).expect(2);

    let first = run(&["pause", "h", "--json"]).expect(0).json();
    let state = &first["handlers"][0];
    assert_eq!((&state["paused"], &state["changed"]), (&true.into(), &true.into()), "{first}");
    assert!(state["pause"]["by"].is_string() && state["pause"]["since-ms"].is_u64(), "{first}");
    let again = run(&["pause", "h"]).expect(0);
    assert!(again.stdout.contains("h: was paused already, by "), "{}", again.stdout);
    let status = run(&["status", "--json"]).expect(0).json();
    assert_eq!(status["handlers"][0]["paused"], true, "{status}");
    assert_eq!(status["handlers"][1]["paused"], false, "{status}");
    assert!(run(&["status"]).stdout.contains("h (paused)"));

    assert_eq!(run(&["resume", "--all"]).expect(0).stdout, "h: resumed\nother: was not paused\n");
    let status = run(&["status", "--json"]).expect(0).json();
    assert_eq!(status["handlers"][0]["paused"], false, "{status}");
}

#[test]
fn a_pause_reaches_every_shard() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = format!("{PROBE}order-by = \"customer\"\nshards = 2\n");
    command(&server, &manifest, &["pause", "h"]).expect(0);
    let keys: Vec<String> = redis.ask("KEYS tidegate:*");
    let expected = [0, 1].map(|shard| format!("tidegate:{{{shard}}}:paused:in:{{{shard}}}:h"));
    assert_eq!(sorted(keys), expected);
    command(&server, &manifest, &["resume", "h"]).expect(0);
    assert_eq!(redis.ask::<Vec<String>>("KEYS tidegate:*"), [""; 0]);
}

/// A handler that gives up after three quick attempts, with a circuit.
fn with_circuit(circuit: &str) -> String {
    let retry = r#"retry = { attempts = 3, first = "20ms", max = "50ms" }"#;
    format!("{PROBE}concurrency = 4\n{retry}\n{circuit}")
}

/// Messages that fail until `wait` milliseconds from now, and say that they were tried.
fn add_failing(redis: &mut Redis, count: usize, wait: u64) -> Vec<String> {
    let until = (now(redis) + wait).to_string();
    let fields = [("print", "attempted"), ("retry-before", &*until), ("emit", "out")];
    sorted(redis.add_many(count, "in", &fields))
}

#[test]
fn an_outage_burns_few_attempts_and_buries_nothing_where_there_is_a_circuit() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = with_circuit(r#"circuit = { failures = 5, pause = "200ms" }"#);
    let ids = add_failing(&mut redis, 100, 1500);
    let host = Host::start(&server, &manifest);
    redis.wait_settled("in", "h");
    assert_eq!(redis.length("{in}:dead"), 0);
    assert_eq!(sorted(redis.column("out", "id")), ids);
    let log = host.log();
    // Five to open it, up to four in hand then, and one for each pause.
    let burned = log.matches("attempted").count() - ids.len();
    assert!((5..25).contains(&burned), "{burned} attempts failed");
    assert_eq!(log.matches("one message after the other failed").count(), 1);
    assert_eq!(log.matches("reading again").count(), 1);
}

#[test]
fn a_probe_is_not_buried_however_long_the_outage() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = with_circuit(r#"circuit = { failures = 2, pause = "50ms" }"#);
    let ids = add_failing(&mut redis, 2, 1500);
    let _host = Host::start(&server, &manifest);
    redis.wait_settled("in", "h");
    assert_eq!(redis.length("{in}:dead"), 0, "it was tried far more than three times");
    assert_eq!(sorted(redis.column("out", "id")), ids);
}

#[test]
fn rejections_do_not_open_a_circuit() {
    let server = Server::start();
    let mut redis = server.client();
    redis.add_many(20, "in", &[("reject", "never")]);
    redis.add("in", &[("emit", "out")]);
    let _host = Host::start(&server, &with_circuit(r#"circuit = { failures = 2, pause = "1h" }"#));
    redis.wait_settled("in", "h");
    assert_eq!((redis.length("{in}:dead"), redis.length("out")), (20, 1));
}

#[test]
fn an_open_circuit_ends_a_read_that_waits_and_hears_a_stop() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = with_circuit(r#"circuit = { failures = 1, pause = "1h" }"#);
    let mut host = Host::start(&server, &manifest);
    eventually("it reads", || redis.readers() == 1);
    redis.add("in", &[("retry", "always")]);
    eventually("the failure is recorded", || waiting(&mut redis) == 1);
    eventually("it reads no more", || redis.readers() == 0);
    redis.add("in", &[("emit", "out")]);
    never(Duration::from_millis(500), "one is handled", || redis.length("out") > 0);
    host.stop();
}

/// When each output was written, in milliseconds.
fn times(redis: &mut Redis) -> Vec<u64> {
    redis.entries("out").iter().map(harness::Entry::millis).collect()
}

/// Fails the test if at any time more was written since `from` than `burst` and `rate` a second allow.
///
/// A busy machine may hold messages up between their tokens and their outputs and then let them go
/// together, so that nothing can be said of a stretch of time in between.
#[track_caller]
fn never_above(rate: f64, burst: f64, from: u64, times: &[u64]) {
    for (before, at) in times.iter().enumerate() {
        let seconds = (at - from) as f64 / 1000.0;
        let most = burst + rate * seconds;
        assert!((before + 1) as f64 <= most, "{} after {seconds} s: {times:?}", before + 1);
    }
}

#[test]
fn a_rate_bounds_all_hosts_together_and_is_reached() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = sorted(redis.add_many(620, "in", &[("emit", "out")]));
    let from = now(&mut redis);
    let _hosts = two(&server, &format!("{PROBE}rate = \"200/s\"\n"));
    redis.wait_for(620, "out");
    redis.wait_settled("in", "h");
    assert_eq!(sorted(redis.column("out", "id")), ids);
    let times = times(&mut redis);
    never_above(200.0, 20.0, from, &times);
    let took = (times[619] - times[0]) as f64 / 1000.0;
    assert!(took < 6.0, "600 after the burst took {took} s");
}

#[test]
fn a_high_rate_is_reached_by_one_host() {
    let server = Server::start();
    let mut redis = server.client();
    redis.add_many(3000, "in", &[("emit", "out")]);
    let _host = Host::start(&server, &format!("{PROBE}rate = \"2000/s\"\nburst = 100\n"));
    redis.wait_for(3000, "out");
    let times = times(&mut redis);
    let took = (times[2999] - times[0]) as f64 / 1000.0;
    assert!((1.4..6.0).contains(&took), "{took} s");
}

#[test]
fn another_attempt_needs_a_token_too() {
    let server = Server::start();
    let mut redis = server.client();
    let from = now(&mut redis);
    redis.add_many(10, "in", &[("retry-until", "3"), ("emit", "out")]);
    let retry = r#"retry = { attempts = 3, first = "10ms", max = "10ms" }"#;
    let _host = Host::start(&server, &format!("{PROBE}{retry}\nrate = \"20/s\"\nburst = 1"));
    redis.wait_settled("in", "h");
    let took = times(&mut redis)[9] - from;
    assert!(took > 1400, "30 attempts took {took} ms");
}

#[test]
fn hosts_that_wait_for_messages_hold_no_tokens() {
    let server = Server::start();
    let mut redis = server.client();
    let _hosts = two(&server, &format!("{PROBE}rate = \"2/s\"\nburst = 1"));
    eventually("both wait", || redis.readers() == 2);
    redis.add_many(3, "in", &[("emit", "out")]);
    redis.wait_for(3, "out");
    let times = times(&mut redis);
    assert!(times[2] - times[0] > 950, "{times:?}");
}

#[test]
fn a_rate_lets_a_single_message_through_at_once_and_hears_a_stop() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &format!("{PROBE}rate = \"1/h\"\n"));
    eventually("it waits", || redis.readers() == 1);
    let added = harness::millis(&redis.add("in", &[("emit", "out")]));
    let handled = redis.wait_first("out").millis();
    assert!(handled - added < 300, "{} ms", handled - added);
    redis.add("in", &[("emit", "out")]);
    never(Duration::from_millis(1500), "the next is handled", || redis.length("out") > 1);
    let asked = std::time::Instant::now();
    host.stop();
    assert!(asked.elapsed() < Duration::from_millis(1500), "after {:?}", asked.elapsed());
}

#[test]
fn a_rates_key_heals_when_it_is_deleted_and_is_told_of_when_it_is_another() {
    let server = Server::start();
    let mut redis = server.client();
    let key = "tidegate:{in}:rate:in:h";
    let ids = sorted(redis.add_many(150, "in", &[("emit", "out")]));
    let host = Host::start(&server, &format!("{PROBE}rate = \"100/s\"\nburst = 1"));
    redis.wait_for(20, "out");
    redis.tell(&format!("DEL {key}"));
    redis.wait_for(40, "out");
    redis.tell(&format!("SET {key} x"));
    eventually("it is told", || host.log().contains(key));
    redis.tell(&format!("DEL {key}"));
    redis.wait_settled("in", "h");
    assert_eq!(sorted(redis.column("out", "id")), ids);
    assert_eq!(host.log().matches(key).count(), 1, "it is told once");
}

#[test]
fn outages_neither_break_a_rate_nor_loosen_it() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = sorted(redis.add_many(400, "in", &[("emit", "out")]));
    let from = now(&mut redis);
    let _hosts = two(&server, &format!("{PROBE}rate = \"200/s\"\n"));
    for count in [50, 100, 150, 200, 250] {
        redis.wait_for(count, "out");
        assert!(redis.kill_others() > 0);
    }
    redis.wait_settled("in", "h");
    assert_eq!(sorted(redis.column("out", "id")), ids);
    never_above(200.0, 20.0, from, &times(&mut redis));
}
