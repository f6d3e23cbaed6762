//! Hosts that are killed, stopped or joined by others: nothing is lost, nothing is done twice.

mod harness;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use harness::{Host, Proxy, Redis, Running, Server, Setup, eventually, within};

/// A handler that does what its messages tell it.
const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out*"]
"#;

/// Three handlers in a row: `in` to `mid` and `side`, `mid` to `mirror`, `mirror` to nowhere.
const CHAIN: &str = r#"
[handler.first]
plugin = "probe.wasm"
stream = "in"
outputs = ["mid", "side"]
concurrency = 16
retry = { attempts = 5, first = "20ms", max = "100ms" }

[handler.second]
plugin = "mirror.wasm"
stream = "mid"
outputs = ["mirror"]

[handler.third]
plugin = "probe_batch.wasm"
stream = "mirror"
"#;

fn named(name: &str, rest: &str) -> String {
    format!("[host]\nname = \"{name}\"\n{rest}")
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}

/// Thousands of messages for [`CHAIN`]; some of them fail at first.
fn fill(redis: &mut Redis) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..10 {
        let work = [("sleep-ms", "2"), ("emit", "mid"), ("emit", "side"), ("data", "x")];
        ids.extend(redis.add_many(380, "in", &work));
        let retried = [("retry-until", "2"), ("emit", "mid"), ("emit", "side")];
        ids.extend(redis.add_many(20, "in", &retried));
    }
    sorted(ids)
}

/// What the hosts of [`CHAIN`] hold, by stream and id; retries that wait are nobody's.
fn held(redis: &mut Redis) -> HashSet<(&'static str, String)> {
    let mut held = HashSet::new();
    for (stream, group) in [("in", "first"), ("mid", "second"), ("mirror", "third")] {
        let holders =
            if redis.has_group(stream, group) { redis.holders(stream, group) } else { vec![] };
        let ours = holders.into_iter().filter(|(name, _)| name != "tidegate:waiting");
        held.extend(ours.map(|(_, id)| (stream, id)));
    }
    held
}

/// Every message went through the whole chain, each once.
#[track_caller]
fn the_sums_hold(redis: &mut Redis, ids: &[String]) {
    for (stream, group) in [("in", "first"), ("mid", "second"), ("mirror", "third")] {
        redis.wait_settled(stream, group);
        assert_eq!(redis.length(&format!("{{{stream}}}:dead")), 0);
    }
    for stream in ["mid", "side", "mirror"] {
        let landed = sorted(redis.column(stream, "id"));
        assert_eq!(landed.len(), ids.len(), "on `{stream}`");
        assert_eq!(landed, ids, "on `{stream}`");
    }
}

#[test]
fn a_host_killed_again_and_again_loses_nothing_and_writes_nothing_twice() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = fill(&mut redis);
    let mut host = Host::start(&server, CHAIN);
    let mut in_flight = HashSet::new();
    for at in [300, 1200, 2100, 3000] {
        // What was in flight at a death runs alone next; a second death then would bury it.
        eventually("it is in mid-work, and past the last death", || {
            redis.length("mirror") >= at && in_flight.is_disjoint(&held(&mut redis))
        });
        host.kill();
        in_flight = held(&mut redis);
        assert!(redis.length("mirror") < ids.len(), "there was work left");
        host.start_again();
    }
    the_sums_hold(&mut redis, &ids);
}

#[test]
fn several_hosts_share_the_work_and_each_message_is_handled_once() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = fill(&mut redis);
    let _hosts: Vec<Running> =
        ["a", "b", "c"].iter().map(|name| Host::start(&server, &named(name, CHAIN))).collect();
    the_sums_hold(&mut redis, &ids);
}

#[test]
fn another_host_takes_over_what_a_killed_one_held() {
    let server = Server::start();
    let mut redis = server.client();
    let mut killed = Host::start(&server, &named("a", &format!("{PROBE}concurrency = 4")));
    let ids = redis.add_many(4, "in", &[("sleep-ms", "1500"), ("emit", "out")]);
    eventually("all are in hand", || redis.pending("in", "h") == 4);
    let _survivor = Host::start(&server, &named("b", PROBE));
    eventually("the survivor reads; the other has its hands full", || redis.readers() == 1);
    assert_eq!(redis.length("out"), 0, "it is killed in mid-work");
    killed.kill();
    within(Duration::from_secs(40), "the survivor handles them", || redis.length("out") == 4);
    redis.wait_settled("in", "h");
    assert_eq!(sorted(redis.column("out", "id")), sorted(ids));
    let attempts = redis.column("out", "attempt");
    assert_eq!(attempts, ["1"; 4], "being killed is not the message's failure");
}

#[test]
fn a_slow_host_is_not_taken_for_a_dead_one() {
    let server = Server::start();
    let mut redis = server.client();
    // Idle for longer than it takes to give a dead host's entries to another.
    let id = redis.add("in", &[("print", "begun"), ("sleep-ms", "20000"), ("emit", "out")]);
    let slow = Host::start(&server, &named("a", PROBE));
    eventually("it is in hand", || redis.pending("in", "h") == 1);
    let other = Host::start(&server, &named("b", PROBE));
    within(Duration::from_secs(30), "it is handled", || redis.length("out") == 1);
    assert_eq!(redis.column("out", "id"), [id]);
    let begun = [slow.log(), other.log()].map(|log| log.matches("begun").count());
    assert_eq!(begun, [1, 0]);
}

#[test]
fn two_hosts_of_one_name_both_work() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = named("twin", &format!("{PROBE}concurrency = 1"));
    let _first = Host::start(&server, &manifest);
    eventually("the first reads", || redis.readers() == 1);
    let _second = Host::start(&server, &manifest);
    eventually("both read", || redis.readers() == 2);
    redis.add_many(2, "in", &[("sleep-ms", "500"), ("emit", "out")]);
    eventually("each has one in hand", || {
        let holders = redis.holders("in", "h");
        sorted(holders.into_iter().map(|(name, _)| name).collect()) == ["twin", "twin-2"]
    });
    redis.wait_settled("in", "h");
    assert_eq!(redis.length("out"), 2);
}

#[test]
fn a_killed_hosts_name_and_work_go_to_the_next_host_of_that_name_at_once() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &named("only", PROBE));
    redis.add("in", &[("sleep-ms", "700"), ("emit", "out")]);
    eventually("it is in hand", || redis.pending("in", "h") == 1);
    host.kill();
    let killed = Instant::now();
    host.start_again();
    redis.wait_first("out");
    assert!(killed.elapsed() < Duration::from_secs(8), "after {:?}", killed.elapsed());
    redis.wait_settled("in", "h");
    assert_eq!(redis.consumers("in", "h"), ["only"]);
}

#[test]
fn of_all_handlers_one_message_runs_after_its_host_died_with_it() {
    let server = Server::start();
    let mut redis = server.client();
    let other = PROBE.replace("handler.h", "handler.i").replace("\"in\"", "\"in-too\"");
    let mut host = Host::start(&server, &format!("{PROBE}{other}"));
    for stream in ["in", "in-too"] {
        redis.add(stream, &[("print", "begun"), ("sleep-ms", "800"), ("emit", "out")]);
    }
    let begun = |host: &Host| host.log().matches("begun").count();
    eventually("both are in flight", || begun(&host) == 2);
    host.kill();
    host.start_again();
    eventually("both have begun", || begun(&host) == 2);
    within(Duration::from_millis(500), "one waited for the other", || redis.length("out") == 1);
    redis.wait_settled("in", "h");
    redis.wait_settled("in-too", "i");
    assert_eq!(redis.length("out"), 2);
}

#[test]
fn a_stop_finishes_what_is_in_hand_and_leaves_the_rest() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &format!("{PROBE}concurrency = 2"));
    let ids = sorted(redis.add_many(30, "in", &[("sleep-ms", "300"), ("emit", "out")]));
    eventually("some are handled, and two are in hand", || {
        redis.length("out") >= 2 && redis.pending("in", "h") == 2
    });
    host.stop();
    let handled = redis.length("out");
    assert!(handled < 30, "it did not stop");
    assert_eq!(redis.pending("in", "h"), 0, "what was in hand is settled");
    assert_eq!(redis.unread("in", "h"), 30 - handled, "the rest is unread");
    host.start_again();
    redis.wait_settled("in", "h");
    assert_eq!(sorted(redis.column("out", "id")), ids);
}

#[test]
fn an_idle_host_stops_at_once() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, PROBE);
    eventually("it reads", || redis.readers() == 1);
    let asked = Instant::now();
    host.stop();
    assert!(asked.elapsed() < Duration::from_millis(1500), "after {:?}", asked.elapsed());
    let live: Vec<String> = redis.ask("KEYS tidegate:*");
    assert_eq!(live, [""; 0], "no one waits for its sign of life to end");
}

#[test]
fn a_grace_shorter_than_the_handler_ends_in_time_and_the_next_host_handles_the_message() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = format!("[host]\ngrace = \"300ms\"\n{PROBE}");
    let mut host = Host::start(&server, &manifest);
    let id = redis.add("in", &[("sleep-ms", "3000"), ("emit", "out")]);
    eventually("it is in hand", || redis.pending("in", "h") == 1);
    let asked = Instant::now();
    host.terminate();
    host.wait();
    assert!(asked.elapsed() < Duration::from_millis(2500), "after {:?}", asked.elapsed());
    assert_eq!((redis.pending("in", "h"), redis.length("out")), (1, 0));
    host.start_again();
    let out = redis.wait_first("out");
    assert_eq!((out.get("id"), out.get("attempt")), (id, "1".into()));
}

#[test]
fn a_plugin_in_a_tight_loop_does_not_hold_up_a_stop() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = format!("[host]\ngrace = \"200ms\"\n{PROBE}concurrency = 4");
    let mut host = Host::start(&server, &manifest);
    redis.add_many(4, "in", &[("loop", "")]);
    eventually("they are in hand", || redis.pending("in", "h") == 4);
    let asked = Instant::now();
    host.terminate();
    host.wait();
    assert!(asked.elapsed() < Duration::from_secs(3), "after {:?}", asked.elapsed());
    assert_eq!(redis.pending("in", "h"), 4);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, PROBE);
    redis.add("in", &[("sleep-ms", "60000"), ("emit", "out")]);
    eventually("it is in hand", || redis.pending("in", "h") == 1);
    host.signal("INT");
    eventually("it says that it stops", || host.log().contains("second signal"));
    assert!(host.is_running(), "it finishes what is in hand");
    host.signal("INT");
    assert_eq!(host.wait().code(), Some(130));
    assert_eq!(redis.pending("in", "h"), 1);
}

#[test]
fn a_message_that_was_trimmed_while_a_killed_host_held_it_is_buried_as_trimmed() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, PROBE);
    let id = redis.add("in", &[("sleep-ms", "5000"), ("emit", "out")]);
    eventually("it is in hand", || redis.pending("in", "h") == 1);
    host.kill();
    redis.tell("XTRIM in MAXLEN 0");
    host.start_again();
    let letter = redis.wait_first("{in}:dead");
    assert_eq!((letter.get("tidegate.id"), letter.get("tidegate.reason")), (id, "trimmed".into()));
    eventually("nothing is pending", || redis.pending("in", "h") == 0);
    assert_eq!(redis.length("out"), 0);
}

#[test]
fn old_entries_behind_young_ones_are_taken_over() {
    let server = Server::start();
    let mut redis = server.client();
    redis.tell("XGROUP CREATE in h 0 MKSTREAM");
    let ids = redis.add_many(3000, "in", &[("emit", "out")]);
    redis.tell("XREADGROUP GROUP h stranger COUNT 3000 STREAMS in >");
    // Those before them are in work still, for all that anyone can know.
    let old = ids[2990..].join(" ");
    redis.tell(&format!("XCLAIM in h stranger 0 {old} IDLE 60000 JUSTID"));
    let _host = Host::start(&server, PROBE);
    within(Duration::from_secs(8), "they are handled", || redis.length("out") >= 10);
    let handled = sorted(redis.column("out", "id"));
    assert_eq!(handled, sorted(ids[2990..].to_vec()), "and no other");
}

#[test]
fn what_a_consumer_of_another_kind_left_behind_is_taken_over() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = redis.add_many(5, "in", &[("emit", "out")]);
    redis.tell("XGROUP CREATE in h 0");
    redis.tell("XREADGROUP GROUP h some-script COUNT 5 STREAMS in >");
    let _host = Host::start(&server, PROBE);
    redis.wait_for(5, "out");
    redis.wait_settled("in", "h");
    assert_eq!(sorted(redis.column("out", "id")), sorted(ids));
}

#[test]
fn a_stop_while_the_plugins_are_loaded_or_redis_is_awaited_is_heard() {
    let server = Server::absent(harness::Options::default());
    let setup = Setup::new(&server, PROBE);
    let mut host = setup.start();
    eventually("it waits for Redis", || host.log().contains("cannot reach Redis"));
    host.stop();
}

/// A read that a pause holds back is not blocked as others are: servers before Redis 8.2 crash when told to unblock it.
#[test]
fn retries_that_come_due_while_the_server_is_paused_do_not_bring_it_down() {
    let server = Server::start();
    let mut redis = server.client();
    let handler = |n: usize| {
        let retry = "{ attempts = 1000, first = \"10ms\", max = \"10ms\" }";
        format!(
            "[handler.h{n}]\nplugin = \"probe.wasm\"\nstream = \"in{n}\"\noutputs = [\"out\"]\nretry = {retry}\n"
        )
    };
    let _host = Host::start(&server, &(0..8).map(handler).collect::<String>());
    for n in 0..8 {
        redis.add_many(4, &format!("in{n}"), &[("retry-until", "30"), ("emit", "out")]);
    }
    for _ in 0..100 {
        redis.tell("CLIENT PAUSE 5 WRITE");
        // A write, which comes after the pause.
        redis.tell("DEL nothing");
    }
    redis.wait_for(8 * 4, "out");
}

#[test]
fn what_is_in_hand_while_its_group_is_made_anew_is_not_run_a_second_time() {
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, PROBE);
    let id = redis.add("in", &[("print", "begun"), ("sleep-ms", "1500"), ("emit", "out")]);
    eventually("it is in hand", || host.log().contains("begun"));
    redis.tell("XGROUP DESTROY in h");
    let second = redis.add("in", &[("emit", "out2")]);
    redis.wait_first("out2");
    redis.wait_settled("in", "h");
    assert_eq!(host.log().matches("begun").count(), 1, "{}", host.log());
    assert_eq!(redis.column("out", "id"), [id]);
    assert_eq!(redis.column("out2", "id"), [second]);
}

#[test]
fn a_silent_network_does_not_hold_up_a_stop() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let mut host = Host::at(&proxy.url(), &format!("[host]\ngrace = \"500ms\"\n{PROBE}"));
    let mut redis = server.client();
    eventually("it reads", || redis.readers() == 1);
    proxy.swallow();
    host.terminate();
    // Less than it takes to be sure that a reply is lost.
    assert!(host.wait_within(Duration::from_millis(4500)).success());
}
