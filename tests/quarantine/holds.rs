//! Suspects and whatever else holds messages back: rates, pauses, circuits, and messages that take long.

use std::time::{Duration, Instant};

use super::harness::{Done, Host, Redis, Running, Server, Setup, eventually, within};
use super::{PROBE, add, begun, each_is_handled_once, kill};

/// A second handler beside the other, in the same host.
const OTHER: &str = r#"
[handler.g]
plugin = "probe.wasm"
stream = "in2"
outputs = ["out2"]
"#;

fn command(server: &Server, manifest: &str, arguments: &[&str]) -> Done {
    Setup::new(server, manifest).command(arguments).finish().expect(0)
}

/// A host that died with messages of both handlers and has started again, where the other is paused.
fn died_with_both(
    server: &Server,
    manifest: &str,
    count: usize,
    fill: impl Fn(&mut Redis),
) -> Running {
    let mut redis = server.client();
    let mut host = Host::start(server, manifest);
    fill(&mut redis);
    redis.add("in2", &[("print", "begun g"), ("sleep-ms", "700"), ("emit", "out2")]);
    eventually("all are in flight", || begun(&host, "begun") == count + 1);
    host.kill();
    command(server, manifest, &["pause", "g"]);
    host.start_again();
    eventually("a suspect runs", || begun(&host, "begun h") == 1);
    host
}

#[test]
fn suspects_of_a_handler_with_a_rate_outlive_trouble_with_its_bucket() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &format!("{PROBE}concurrency = 3\nrate = \"100/s\""));
    let ids: Vec<_> = (0..3).map(|n| add(&mut redis, &format!("begun {n}"), "400")).collect();
    eventually("all are in flight", || begun(&host, "begun") == 3);
    kill(&mut host);
    eventually("the first runs alone", || begun(&host, "begun") == 1);
    redis.eval("redis.call('DEL', 'tidegate:{in}:rate:in:h') redis.call('SET', 'tidegate:{in}:rate:in:h', 'x')");
    eventually("the next has no token", || host.log().contains("cannot read until this is mended"));
    redis.tell("DEL tidegate:{in}:rate:in:h");
    each_is_handled_once(&mut redis, &ids);
}

#[test]
fn a_long_message_and_a_suspect_that_waits_for_it_leave_others_half_of_the_time() {
    let server = Server::start();
    let mut redis = server.client();
    redis.tell("XGROUP CREATE in h 0 MKSTREAM");
    let suspect = redis.add("in", &[("emit", "out")]);
    redis.tell("XREADGROUP GROUP h dead COUNT 1 STREAMS in >");
    let host = Host::start(&server, &format!("{PROBE}concurrency = 4"));
    redis.add("in", &[("print", "begun"), ("sleep-ms", "600000")]);
    eventually("a long one is at work", || begun(&host, "begun") == 1);
    redis.tell("SADD tidegate:{in}:hosts:in:h dead");
    redis.tell(&format!("XCLAIM in h dead 0 {suspect} IDLE 60000 JUSTID"));
    eventually("a suspect waits for it", || begun(&host, "they run apart") == 1);
    redis.add("in", &[("emit", "out")]);
    let mut handled = redis.wait_for(1, "out").len();
    let turn = Instant::now();
    while turn.elapsed() < Duration::from_millis(2500) {
        redis.add("in", &[("emit", "out")]);
        handled += 1;
        within(Duration::from_secs(4), "it is the turn of all others", || {
            redis.length("out") == handled
        });
    }
    assert!(!redis.column("out", "id").contains(&suspect));
}

#[test]
fn a_paused_handler_forgives_what_ran_and_lets_the_suspects_of_others_run() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = format!("{PROBE}concurrency = 7\n{OTHER}");
    let host = died_with_both(&server, &manifest, 7, |redis| {
        (0..7).for_each(|n| drop(add(redis, &format!("begun h{n}"), "700")));
    });
    command(&server, &manifest, &["pause", "h"]);
    eventually("it has noticed", || {
        host.log().contains("paused; `tidegate resume` lets it go on handler=h")
    });
    command(&server, &manifest, &["resume", "g"]);
    redis.wait_for(1, "out2");
    eventually("what ran is forgiven", || !redis.exists("tidegate:{in}:deaths:in:h"));
    let waiting = redis.pending("in", "h");
    assert_eq!((waiting, redis.length("out")), (7 - begun(&host, "begun h"), 7 - waiting));
    assert!(waiting > 0, "the next wait until it is resumed");
    command(&server, &manifest, &["resume", "h"]);
    redis.wait_for(7, "out");
    redis.wait_settled("in", "h");
}

#[test]
fn a_handler_whose_circuit_is_open_lets_the_suspects_of_others_run() {
    let server = Server::start();
    let mut redis = server.client();
    let circuit = "circuit = { failures = 1, pause = \"10m\" }";
    let manifest = format!("{PROBE}concurrency = 3\n{circuit}\n{OTHER}");
    let host = died_with_both(&server, &manifest, 3, |redis| {
        redis.add_many(3, "in", &[("print", "begun h"), ("sleep-ms", "400"), ("retry", "down")]);
    });
    eventually("the circuit is open", || host.log().contains("circuit open"));
    command(&server, &manifest, &["resume", "g"]);
    redis.wait_for(1, "out2");
    eventually("what ran is forgiven", || !redis.exists("tidegate:{in}:deaths:in:h"));
    assert!(begun(&host, "begun h") < 3, "the circuit lets no other through");
}

/// Messages that were in flight in a host that died, the oldest first.
fn left_behind(redis: &mut Redis, stream: &str, handler: &str, millis: &[&str]) -> Vec<String> {
    redis.tell(&format!("XGROUP CREATE {stream} {handler} 0 MKSTREAM"));
    let fields = |millis| [("print", "begun"), ("sleep-ms", millis)];
    let ids: Vec<_> = millis.iter().map(|millis| redis.add(stream, &fields(millis))).collect();
    redis.tell(&format!("XREADGROUP GROUP {handler} dead STREAMS {stream} >"));
    redis.tell(&format!("XCLAIM {stream} {handler} dead 0 {} IDLE 60000 JUSTID", ids.join(" ")));
    redis.tell(&format!("SADD tidegate:{{{stream}}}:hosts:{stream}:{handler} dead"));
    ids
}

#[test]
fn suspects_that_wait_for_tokens_leave_others_some_of_them() {
    let server = Server::start();
    let mut redis = server.client();
    let suspects = left_behind(&mut redis, "in", "h", &["0"; 8]);
    redis.add_many(8, "in", &[("emit", "out")]);
    let host = Host::start(&server, &format!("{PROBE}concurrency = 4\nrate = \"40/m\"\nburst = 1"));
    within(Duration::from_secs(40), "others are handled", || redis.length("out") >= 3);
    assert!(begun(&host, "begun") <= suspects.len() - 2, "they take turns");
}

#[test]
fn a_handler_that_waits_as_redis_takes_no_outputs_lets_the_suspects_of_others_run() {
    let server = Server::start();
    let mut redis = server.client();
    left_behind(&mut redis, "in", "h", &["600"; 8]);
    left_behind(&mut redis, "in2", "g", &["600"; 8]);
    redis.add_many(400, "in", &[("sleep-ms", "700"), ("emit", "out")]);
    let host = Host::start(&server, &format!("{PROBE}concurrency = 64\n{OTHER}"));
    eventually("a suspect runs", || begun(&host, "begun") == 1);
    redis.tell("CONFIG SET maxmemory 1");
    within(Duration::from_secs(60), "the suspects of the other run", || {
        redis.pending("in2", "g") == 0
    });
    redis.tell("CONFIG SET maxmemory 0");
    redis.wait_for(400, "out");
    redis.wait_settled("in", "h");
}
