//! Who holds a message, and who takes it over: names, leases, dead hosts, and messages that kill their host.

mod harness;

use std::time::Duration;

use harness::{
    Entry, Host, Options, Redis, Running, Server, Setup, eventually, millis, never, within,
};

/// A handler that does what its messages tell it.
const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out*"]
retry = { attempts = 5, first = "20ms", max = "100ms" }
"#;

const DEAD: &str = "{in}:dead";
const HOSTS: &str = "tidegate:{in}:hosts:in:h";

/// Longer than an entry has to be idle before it may count as left behind.
const IDLE: u64 = 60_000;

fn named(name: &str, rest: &str) -> String {
    format!("[host]\nname = \"{name}\"\n{PROBE}{rest}")
}

fn live(name: &str) -> String {
    format!("tidegate:{{in}}:live:in:h:{name}")
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}

fn begun(host: &Host) -> usize {
    host.log().matches("begun").count()
}

/// Messages that say when they begin, take so long, and leave one output.
fn work(redis: &mut Redis, count: usize, millis: &str) -> Vec<String> {
    redis.add_many(count, "in", &[("print", "begun"), ("sleep-ms", millis), ("emit", "out")])
}

/// A server that ends connections which are to receive more than 14 MB at a time.
fn small_replies() -> Server {
    let lines = vec!["client-output-buffer-limit normal 14mb 14mb 0".to_owned()];
    Server::with(Options { lines, ..Options::default() })
}

/// Has a consumer that is no host hold all there is, for longer than it is left alone.
fn stray(redis: &mut Redis, ids: &[String]) {
    redis.tell("XGROUP CREATE in h 0 MKSTREAM");
    for _ in ids.chunks(5) {
        redis.tell("XREADGROUP GROUP h stray COUNT 5 STREAMS in >");
    }
    redis.tell(&format!("XCLAIM in h stray 0 {} IDLE {IDLE} JUSTID", ids.join(" ")));
}

/// Has a host's sign of life end at once, and what it holds be as old as it is when that happens by itself.
fn expire(redis: &mut Redis, name: &str) {
    for (_, id) in redis.holders("in", "h") {
        redis.tell(&format!("XCLAIM in h {name} 0 {id} IDLE {IDLE} JUSTID"));
    }
    redis.tell(&format!("DEL {}", live(name)));
}

/// Everything is settled, and these were handled, each once.
#[track_caller]
fn each_is_handled_once(redis: &mut Redis, ids: &[String]) {
    redis.wait_settled("in", "h");
    assert_eq!(sorted(redis.column("out", "id")), sorted(ids.to_vec()));
}

/// Two hosts; the first stands still in the middle of its work, the second waits for some.
fn frozen_and_another(
    redis: &mut Redis,
    server: &Server,
    count: usize,
    millis: &str,
) -> [Running; 2] {
    let first = Host::start(server, &named("a", "concurrency = 4"));
    work(redis, count, millis);
    eventually("all are in hand", || redis.pending("in", "h") == count && begun(&first) == count);
    first.signal("STOP");
    let second = Host::start(server, &named("b", ""));
    eventually("the second reads", || redis.exists(&live("b")) && redis.reads("b"));
    [first, second]
}

#[test]
fn a_message_that_kills_its_host_twice_is_buried_and_its_mates_are_handled() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &format!("{PROBE}concurrency = 4"));
    let culprit =
        redis.add("in", &[("print", "begun: culprit"), ("sleep-ms", "4000"), ("emit", "out")]);
    let mates = work(&mut redis, 3, "300");
    eventually("all are in flight", || begun(&host) == 4);
    host.kill();
    host.start_again();
    eventually("the culprit runs again", || host.log().contains("culprit"));
    assert_eq!((begun(&host), redis.length("out")), (1, 0), "first, and nothing runs beside it");
    let status = |arguments: &[&str]| {
        Setup::new(&server, PROBE).command(arguments).finish().expect(0).stdout
    };
    assert!(status(&["status", "--json"]).contains("\"suspected\": 1"));
    assert!(status(&["status"]).contains("suspected of having killed a host: 1 message;"));
    host.kill();
    host.start_again();
    let letter = redis.wait_first(DEAD);
    assert_eq!(letter.get("tidegate.id"), culprit);
    assert_eq!(letter.get("tidegate.reason"), "trap");
    assert!(letter.get("tidegate.error").contains("died twice"), "{letter}");
    each_is_handled_once(&mut redis, &mates);
    assert_eq!(redis.length(DEAD), 1);
    assert_eq!(redis.column("out", "attempt"), ["1"; 3], "a death is nobody's failure");
    assert!(!host.log().contains("culprit"), "it is not run a third time");
    eventually("nothing is kept of it", || !redis.exists("tidegate:{in}:deaths:in:h"));
    host.stop();
    assert_eq!(redis.ask::<Vec<String>>("KEYS tidegate:*"), [""; 0]);
}

#[test]
fn a_suspect_that_lets_its_host_live_is_none_any_more() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, PROBE);
    // It fails at first, so that it is still there at the second death.
    let id = redis.add(
        "in",
        &[("print", "begun"), ("sleep-ms", "700"), ("retry-until", "3"), ("emit", "out")],
    );
    for attempt in 1..=2 {
        eventually("it is in flight", || begun(&host) == attempt);
        host.kill();
        host.start_again();
        eventually("it runs alone, and fails", || host.log().contains("failed"));
    }
    each_is_handled_once(&mut redis, &[id]);
    assert_eq!(redis.length(DEAD), 0);
}

#[test]
fn suspects_and_new_messages_take_turns() {
    let server = Server::start();
    let mut redis = server.client();
    let batch = PROBE.replace("probe.wasm", "probe_batch.wasm");
    let mut host = Host::start(&server, &format!("{batch}concurrency = 2"));
    let mut ids = redis.add_many(200, "in", &[("sleep-ms", "20"), ("emit", "out")]);
    eventually("all are in hand", || redis.pending("in", "h") == 200);
    host.kill();
    ids.push(redis.add("in", &[("emit", "out-new"), ("emit", "out")]));
    host.start_again();
    redis.wait_first("out-new");
    assert!(redis.pending("in", "h") > 20, "most suspects wait");
    each_is_handled_once(&mut redis, &ids);
}

#[test]
fn what_a_stop_left_behind_is_not_suspected() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host =
        Host::start(&server, &format!("[host]\ngrace = \"100ms\"\n{PROBE}concurrency = 4"));
    let ids = work(&mut redis, 4, "2000");
    eventually("all are in flight", || begun(&host) == 4);
    host.terminate();
    host.wait();
    assert_eq!(redis.pending("in", "h"), 4);
    host.start_again();
    eventually("they run side by side", || begun(&host) == 4);
    assert_eq!(redis.length("out"), 0);
    each_is_handled_once(&mut redis, &ids);
}

#[test]
fn a_foreign_worker_is_never_given_what_a_slow_handler_is_busy_with() {
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, PROBE);
    let ids = work(&mut redis, 2, "12500");
    eventually("they are in hand", || begun(&host) == 2);
    let mut stolen = 0;
    within(Duration::from_secs(40), "they are handled", || {
        let answer: Vec<redis::Value> = redis.ask("XAUTOCLAIM in h thief 8000 0 JUSTID");
        stolen += usize::from(answer[1] != redis::Value::Array(vec![]));
        redis.length("out") == 2
    });
    assert_eq!(stolen, 0);
    each_is_handled_once(&mut redis, &ids);
    assert_eq!(begun(&host), 2);
}

#[test]
fn what_another_took_and_left_while_it_is_in_hand_is_not_run_twice() {
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, PROBE);
    let ids = work(&mut redis, 1, "7000");
    eventually("it is in hand", || begun(&host) == 1);
    redis.tell(&format!("XCLAIM in h thief 0 {} IDLE {IDLE} JUSTID", ids[0]));
    let holder =
        |redis: &mut Redis| redis.holders("in", "h").into_iter().next().map(|(name, _)| name);
    eventually("it is ours again", || holder(&mut redis).is_some_and(|name| name != "thief"));
    assert_eq!(redis.length("out"), 0);
    each_is_handled_once(&mut redis, &ids);
    assert_eq!(begun(&host), 1);
}

#[test]
fn what_another_took_is_noticed_and_only_its_holder_settles_it() {
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, PROBE);
    let ids = work(&mut redis, 1, "7000");
    eventually("it is in hand", || begun(&host) == 1);
    redis.tell(&format!("XCLAIM in h thief 0 {}", ids[0]));
    eventually("it is noticed", || host.log().contains("another consumer has taken"));
    let next = work(&mut redis, 1, "3000");
    redis.wait_for(1, "out");
    assert_eq!(redis.column("out", "id"), next);
    assert_eq!(redis.holders("in", "h"), [("thief".to_owned(), ids[0].clone())]);
    assert_eq!(host.log().matches("another consumer has taken").count(), 1);
}

#[test]
fn a_dead_hosts_work_is_taken_over_soon_while_new_messages_go_on() {
    let server = Server::start();
    let mut redis = server.client();
    let [mut killed, survivor] = frozen_and_another(&mut redis, &server, 4, "400");
    let ids: Vec<_> = redis.holders("in", "h").into_iter().map(|(_, id)| id).collect();
    killed.kill();
    expire(&mut redis, "a");
    let new = work(&mut redis, 1, "0");
    within(Duration::from_secs(5), "the first is taken over", || begun(&survivor) >= 2);
    each_is_handled_once(&mut redis, &[ids, new].concat());
    within(Duration::from_secs(8), "its consumer is gone", || redis.consumers("in", "h") == ["b"]);
    assert_eq!(redis.ask::<Vec<String>>(&format!("SMEMBERS {HOSTS}")), ["b"]);
}

#[test]
fn a_host_that_stood_still_for_longer_than_its_key_lives_does_no_harm() {
    let server = Server::start();
    let mut redis = server.client();
    let [frozen, other] = frozen_and_another(&mut redis, &server, 2, "1500");
    let ids: Vec<_> = redis.holders("in", "h").into_iter().map(|(_, id)| id).collect();
    never(Duration::from_secs(3), "its key lives, so it is not dead", || begun(&other) > 0);
    expire(&mut redis, "a");
    eventually("the other takes over", || begun(&other) == 1);
    frozen.signal("CONT");
    each_is_handled_once(&mut redis, &ids);
    eventually("it shows itself again", || redis.exists(&live("a")));
    let more = work(&mut redis, 8, "500");
    eventually("both go on", || {
        let holders = redis.holders("in", "h");
        ["a", "b"].iter().all(|name| holders.iter().any(|(holder, _)| holder == name))
    });
    each_is_handled_once(&mut redis, &[ids, more].concat());
    assert_eq!(redis.length(DEAD), 0);
}

#[test]
fn after_an_outage_nobody_takes_a_live_hosts_work() {
    let server = Server::start();
    let mut redis = server.client();
    let [slow, first_back] = frozen_and_another(&mut redis, &server, 2, "1000");
    let ids: Vec<_> = redis.holders("in", "h").into_iter().map(|(_, id)| id).collect();
    // As after an outage longer than a key's life: one host is back, the other is not yet.
    redis.kill_others();
    expire(&mut redis, "a");
    never(Duration::from_secs(6), "the first back leaves it alone", || begun(&first_back) > 0);
    assert!(redis.exists(&live("b")), "it is back");
    slow.signal("CONT");
    each_is_handled_once(&mut redis, &ids);
    assert_eq!([begun(&slow), begun(&first_back)], [2, 0]);
}

#[test]
fn hosts_that_start_together_over_a_dead_ones_name_each_get_their_own() {
    let server = Server::start();
    let mut redis = server.client();
    let mut dead = Host::start(&server, &named("n", ""));
    eventually("it reads", || redis.readers() == 1);
    dead.kill();
    eventually("its connection is gone", || redis.readers() == 0);
    let setup = Setup::new(&server, &named("n", ""));
    let _hosts: Vec<Host> = (0..5).map(|_| setup.start()).collect();
    eventually("all read", || redis.readers() == 5);
    let expected = ["n", "n-2", "n-3", "n-4", "n-5"];
    let hosts: Vec<String> = redis.ask(&format!("SMEMBERS {HOSTS}"));
    assert_eq!(sorted(hosts), expected);
}

#[test]
fn a_host_whose_name_went_to_another_goes_on_under_its_own() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &named("n", ""));
    let ids = work(&mut redis, 1, "2500");
    eventually("it is in hand", || begun(&host) == 1);
    redis.tell(&format!("SET {} another-hosts-sign", live("n")));
    redis.kill_others();
    eventually("it has another name", || redis.exists(&live("n-2")));
    eventually("what is in hand came along", || {
        redis.holders("in", "h") == [("n-2".to_owned(), ids[0].clone())]
    });
    let more = work(&mut redis, 3, "0");
    each_is_handled_once(&mut redis, &[ids, more].concat());
    assert_eq!(begun(&host), 4);
    assert!(host.log().contains("another host has this name"));
    host.stop();
    assert_eq!(redis.ask::<String>(&format!("GET {}", live("n"))), "another-hosts-sign");
}

#[test]
fn a_host_that_leaves_takes_down_only_its_own_sign() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &named("n", ""));
    eventually("it reads", || redis.readers() == 1);
    redis.tell(&format!("SET {} another-hosts-sign", live("n")));
    host.stop();
    assert_eq!(redis.ask::<String>(&format!("GET {}", live("n"))), "another-hosts-sign");
}

#[test]
fn many_starts_under_new_names_leave_nothing_behind() {
    let server = Server::start();
    let mut redis = server.client();
    for number in 0..4 {
        let mut host = Host::start(&server, &named(&format!("pod-{number}"), ""));
        work(&mut redis, 1, "0");
        redis.wait_for(number + 1, "out");
        host.stop();
        assert_eq!(redis.consumers("in", "h"), [""; 0], "one that stops leaves nothing");
        assert_eq!(redis.ask::<Vec<String>>("KEYS tidegate:*"), [""; 0]);
    }
    let _stay = Host::start(&server, &named("stay", ""));
    work(&mut redis, 1, "0");
    redis.wait_for(5, "out");
    // What hosts leave that were killed some time ago.
    for number in 0..120 {
        redis.tell(&format!("SADD {HOSTS} killed-{number}"));
        if number % 2 == 0 {
            redis.tell(&format!("XGROUP CREATECONSUMER in h killed-{number}"));
        }
    }
    eventually("they are gone", || {
        redis.consumers("in", "h") == ["stay"]
            && redis.ask::<Vec<String>>(&format!("SMEMBERS {HOSTS}")) == ["stay"]
    });
}

#[test]
fn a_trimmed_entry_whose_letter_is_refused_holds_up_nothing() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = work(&mut redis, 3, "0");
    stray(&mut redis, &ids);
    redis.tell(&format!("XDEL in {}", ids[0]));
    redis.tell(&format!("SET {DEAD} no-stream"));
    let host = Host::start(&server, PROBE);
    let new = work(&mut redis, 2, "0");
    redis.wait_for(4, "out");
    assert_eq!(sorted(redis.column("out", "id")), [&ids[1..], &new].concat());
    eventually("only the trimmed one is left", || redis.pending("in", "h") == 1);
    eventually("a person is told", || host.log().contains("refuses the settlement"));
    redis.tell(&format!("DEL {DEAD}"));
    let letter = redis.wait_first(DEAD);
    assert_eq!(letter.get("tidegate.id"), ids[0]);
    assert_eq!(letter.get("tidegate.reason"), "trimmed");
    redis.wait_settled("in", "h");
    assert_eq!(host.log().matches("trimmed from the stream before").count(), 1);
    assert_eq!(host.log().matches("refuses the settlement").count(), 1);
}

#[test]
fn trimmed_entries_do_not_hide_those_behind_them() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = work(&mut redis, 6, "0");
    stray(&mut redis, &ids);
    redis.tell(&format!("XDEL in {}", ids[..4].join(" ")));
    redis.tell(&format!("SET {DEAD} no-stream"));
    let _host = Host::start(&server, &format!("{PROBE}concurrency = 1"));
    redis.wait_for(2, "out");
    assert_eq!(sorted(redis.column("out", "id")), ids[4..]);
}

#[test]
fn retries_that_cannot_be_looked_up_do_not_stop_the_reading() {
    let server = Server::start();
    let mut redis = server.client();
    redis.tell("SET tidegate:{in}:waiting:in:h no-sorted-set");
    let host = Host::start(&server, &format!("{PROBE}concurrency = 1"));
    eventually("a person is told", || host.log().contains("cannot take back"));
    let ids = redis.add_many(300, "in", &[("emit", "out")]);
    within(Duration::from_secs(5), "they are handled", || redis.length("out") == 300);
    each_is_handled_once(&mut redis, &ids);
}

#[test]
fn large_entries_come_back_a_few_at_a_time() {
    let server = small_replies();
    let mut redis = server.client();
    let large = "x".repeat(1 << 20);
    let ids = redis.add_many(40, "in", &[("emit", "out"), ("ballast", &large)]);
    stray(&mut redis, &ids);
    let _host = Host::start(&server, &format!("{PROBE}concurrency = 64"));
    redis.wait_for(40, "out");
    each_is_handled_once(&mut redis, &ids);
}

#[test]
fn a_first_read_that_is_too_large_for_its_connection_strands_nothing() {
    let server = small_replies();
    let mut redis = server.client();
    let large = "x".repeat(1 << 20);
    let ids = redis.add_many(40, "in", &[("emit", "out"), ("ballast", &large)]);
    let _host = Host::start(&server, &format!("{PROBE}concurrency = 20"));
    redis.wait_for(40, "out");
    each_is_handled_once(&mut redis, &ids);
}

#[test]
fn a_retry_is_not_late_where_the_server_refuses_to_unblock_a_read() {
    let server = Server::start();
    let mut redis = server.client();
    if redis.attempt::<()>("ACL SETUSER default -client|unblock").is_err() {
        return harness::skipped("this server's rules know no subcommands to refuse");
    }
    let _host = Host::start(&server, PROBE);
    for number in 1..=4 {
        redis.add("in", &[("retry-until", "2"), ("emit", "out")]);
        redis.wait_for(number, "out");
    }
    let waited = |out: &Entry| out.millis() - millis(&out.get("id"));
    let late: Vec<u64> = redis.entries("out").iter().skip(1).map(waited).collect();
    assert!(late.iter().all(|millis| *millis < 900), "{late:?} ms");
}
