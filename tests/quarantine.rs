//! What was in flight when its host died: who runs apart from the others, how many at a time, and
//! what it takes to be buried.

mod harness;
#[path = "quarantine/holds.rs"]
mod holds;
#[path = "quarantine/trouble.rs"]
mod trouble;

use std::time::Duration;

use harness::{Host, Proxy, Redis, Running, Server, eventually, within};

/// A handler that does what its messages tell it.
const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out*"]
timeout = "10m"
retry = { attempts = 5, first = "20ms", max = "100ms" }
"#;

const DEAD: &str = "{in}:dead";

/// How long to wait for what is done many at a time: one at a time it would take ten times as long.
const MANY: Duration = Duration::from_secs(40);

fn waiting(lines: &str) -> String {
    format!("{}{lines}", PROBE.replace("probe.wasm", "probe_async.wasm"))
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}

fn begun(host: &Host, what: &str) -> usize {
    host.log().lines().filter(|line| line.contains(what)).count()
}

/// A message that says when it begins, and leaves one output.
fn add(redis: &mut Redis, says: &str, millis: &str) -> String {
    redis.add("in", &[("print", says), ("sleep-ms", millis), ("emit", "out")])
}

/// SIGKILL, and another host of its name.
fn kill(host: &mut Running) {
    host.kill();
    host.start_again();
}

/// Everything is settled, and these were handled, each once.
#[track_caller]
fn each_is_handled_once(redis: &mut Redis, ids: &[String]) {
    redis.wait_settled("in", "h");
    assert_eq!(sorted(redis.column("out", "id")), sorted(ids.to_vec()));
    assert_eq!(redis.column("out", "attempt"), vec!["1"; ids.len()], "a death is nobody's failure");
}

#[test]
fn hundreds_that_were_in_flight_when_their_host_died_are_soon_through() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &waiting("concurrency = 400"));
    let ids = redis.add_many(400, "in", &[("wait-ms", "1000"), ("emit", "out")]);
    eventually("all are in flight", || redis.pending("in", "h") == 400);
    kill(&mut host);
    within(MANY, "all are handled", || redis.length("out") == 400);
    each_is_handled_once(&mut redis, &ids);
    eventually("nothing is kept of them", || !redis.exists("tidegate:{in}:deaths:in:h"));
}

#[test]
fn among_many_the_one_that_kills_its_host_is_found_and_no_other_is_blamed() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &waiting("concurrency = 60"));
    let work = [("wait-ms", "300"), ("emit", "out")];
    let mut innocent = redis.add_many(39, "in", &work);
    let culprit = redis.add("in", &[("shout", "culprit"), ("wait-ms", "500000")]);
    innocent.extend(redis.add_many(20, "in", &work));
    let mut deaths = 0;
    while redis.length(DEAD) == 0 {
        eventually("the culprit is at work, or buried", || {
            begun(&host, "culprit") == 1 || redis.length(DEAD) == 1
        });
        if redis.length(DEAD) == 0 {
            kill(&mut host);
            deaths += 1;
        }
    }
    assert!(deaths <= 4, "at once with all, in a group, and alone twice: it took {deaths}");
    let letter = redis.wait_first(DEAD);
    assert_eq!(letter.get("tidegate.id"), culprit);
    each_is_handled_once(&mut redis, &innocent);
    assert_eq!(redis.length(DEAD), 1);
}

#[test]
fn a_host_that_is_killed_again_and_again_has_nothing_buried_that_it_had_time_for() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &format!("{PROBE}concurrency = 4"));
    let ids: Vec<_> = (0..4).map(|n| add(&mut redis, &format!("begun {n}"), "1200")).collect();
    eventually("all are in flight", || begun(&host, "begun") == 4);
    // Whoever has its turn at a death has nothing to do with it.
    for unlucky in 1..4 {
        kill(&mut host);
        let its_turn = format!("begun {unlucky}");
        eventually("it is a later one's turn", || begun(&host, &its_turn) == 1);
        assert_eq!(begun(&host, "begun"), 2, "it has the host to itself, after one other");
    }
    kill(&mut host);
    each_is_handled_once(&mut redis, &ids);
    assert_eq!(redis.length(DEAD), 0);
}

#[test]
fn what_runs_alone_when_its_host_is_told_to_stop_is_not_blamed_for_it() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &format!("[host]\ngrace = \"100ms\"\n{PROBE}"));
    let ids = vec![add(&mut redis, "begun", "2500"), add(&mut redis, "later", "0")];
    eventually("they are in flight", || begun(&host, "begun") == 1);
    kill(&mut host);
    for _ in 0..2 {
        eventually("it runs alone", || begun(&host, "begun") == 1);
        host.terminate();
        host.wait();
        host.start_again();
    }
    each_is_handled_once(&mut redis, &ids);
    assert_eq!(redis.length(DEAD), 0);
}

#[test]
fn what_many_hosts_held_that_died_together_is_taken_over_together() {
    let server = Server::start();
    let mut redis = server.client();
    redis.tell("XGROUP CREATE in h 0 MKSTREAM");
    let ids = redis.add_many(60, "in", &[("emit", "out")]);
    for (number, theirs) in ids.chunks(2).enumerate() {
        redis.tell(&format!("XREADGROUP GROUP h dead-{number} COUNT 2 STREAMS in >"));
        redis.tell(&format!("SADD tidegate:{{in}}:hosts:in:h dead-{number}"));
        let theirs = theirs.join(" ");
        redis.tell(&format!("XCLAIM in h dead-{number} 0 {theirs} IDLE 60000 JUSTID"));
    }
    let _host = Host::start(&server, PROBE);
    within(Duration::from_secs(10), "all thirty are replaced", || redis.length("out") == 60);
    each_is_handled_once(&mut redis, &ids);
}

/// The same on another stream.
fn beside(other: &str) -> String {
    format!("{PROBE}{}", PROBE.replace("handler.h", "handler.i").replace("\"in\"", other))
}

#[test]
fn a_connection_that_breaks_when_one_handlers_suspects_are_done_lets_anothers_run() {
    let server = Server::start();
    let mut redis = server.client();
    let proxy = Proxy::before(&server);
    let mut host = Host::at(&proxy.url(), &beside("\"beside\""));
    for (stream, says) in [("in", "begun h"), ("beside", "begun i")] {
        redis.add(stream, &[("print", says), ("sleep-ms", "1500"), ("emit", "out")]);
    }
    eventually("both are in flight", || begun(&host, "begun ") == 2);
    kill(&mut host);
    eventually("one of them runs alone", || begun(&host, "begun ") == 1);
    // It is told to be forgiven with four bytes; the answer to what comes then is lost.
    let first = if begun(&host, "begun h") == 1 { "deaths:in:h" } else { "deaths:beside:i" };
    proxy.cut_replies(first, 4, 1);
    redis.wait_for(2, "out");
    assert_eq!(proxy.cuts(), 1);
}

#[test]
fn a_handler_that_is_paused_while_its_suspects_run_lets_anothers_run() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &beside("\"beside\""));
    let ids: Vec<_> = (0..6).map(|_| add(&mut redis, "begun h", "700")).collect();
    eventually("they are in flight", || begun(&host, "begun h") == 6);
    redis.add("beside", &[("print", "begun i"), ("sleep-ms", "700"), ("emit", "out2")]);
    eventually("all are in flight", || begun(&host, "begun i") == 1);
    kill(&mut host);
    eventually("one of the first runs", || begun(&host, "begun h") > 0);
    redis.tell("SET tidegate:{in}:paused:in:h {\"by\":\"test\",\"since-ms\":1}");
    redis.wait_first("out2");
    redis.tell("DEL tidegate:{in}:paused:in:h");
    each_is_handled_once(&mut redis, &ids);
}
