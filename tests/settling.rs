//! What a settlement waits for and what it leaves behind: permissions, memory, replicas, disks, and trimming.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::time::{Duration, Instant};

use harness::{
    Host, Options, Proxy, Redis, Running, Server, Setup, eventually, never, skipped, within,
};

const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out*"]
channels = ["news"]
retry = { attempts = 5, first = "20ms", max = "100ms" }
"#;

/// A host with more lines for its handler.
fn probe(lines: &str) -> (Server, Redis, Running) {
    let server = Server::start();
    let host = Host::start(&server, &format!("{PROBE}{lines}\n"));
    let mut redis = server.client();
    eventually("it reads", || redis.readers() == 1);
    (server, redis, host)
}

/// A host that reads as a user with these rights, which the test may change.
fn limited(rights: &str) -> (Server, Redis, Running) {
    let server = Server::with(Options { tcp: true, ..Options::default() });
    let mut redis = server.client();
    redis.tell(&format!("ACL SETUSER app on >pw &* +@all {rights}"));
    let host = Host::at(&format!("redis://app:pw@127.0.0.1:{}", server.port), PROBE);
    eventually("it reads", || redis.readers() == 1);
    (server, redis, host)
}

/// Everything but `out9` and the dead letters.
const NOT_ALL_KEYS: &str = "~in ~out ~tidegate:*";

const FORBIDDEN: &str = "Redis does not let this user write there";

#[test]
fn a_forbidden_output_stream_holds_up_no_other_and_is_written_once_it_may_be() {
    let (_server, mut redis, host) = limited(NOT_ALL_KEYS);
    let mut forbidden = Vec::new();
    for _ in 0..20 {
        forbidden.extend(redis.add_many(3, "in", &[("emit", "out9")]));
        redis.add_many(10, "in", &[("emit", "out")]);
        redis.add_many(10, "in", &[("nothing", "to write")]);
    }
    redis.wait_for(200, "out");
    eventually("only the forbidden wait", || redis.pending("in", "h") == 60);
    assert_eq!(host.log().matches(FORBIDDEN).count(), 1, "{}", host.log());
    assert!(host.log().contains("out9"), "it says where: {}", host.log());
    redis.tell("ACL SETUSER app ~out9");
    redis.wait_for(60, "out9");
    redis.wait_settled("in", "h");
    let mut written = redis.column("out9", "id");
    written.sort();
    forbidden.sort();
    assert_eq!(written, forbidden);
    assert!(redis.column("out9", "attempt").iter().all(|attempt| attempt == "1"));
}

#[test]
fn a_forbidden_dead_letter_stream_holds_up_nothing_and_is_written_once_it_may_be() {
    let (_server, mut redis, host) = limited(NOT_ALL_KEYS);
    redis.add_many(5, "in", &[("reject", "no")]);
    redis.add_many(20, "in", &[("emit", "out")]);
    redis.wait_for(20, "out");
    eventually("it says where", || host.log().contains("{in}:dead"));
    assert_eq!(redis.pending("in", "h"), 5);
    redis.tell("ACL SETUSER app ~{in}:dead");
    redis.wait_for(5, "{in}:dead");
    redis.wait_settled("in", "h");
}

#[test]
fn more_forbidden_outputs_than_may_wait_in_memory_wait_in_redis_at_no_cost() {
    let (_server, mut redis, _host) = limited(NOT_ALL_KEYS);
    redis.add_many(1300, "in", &[("emit", "out9")]);
    let waiting = "tidegate:{in}:waiting:in:h";
    eventually("some wait in Redis", || redis.ask::<usize>(&format!("ZCARD {waiting}")) == 276);
    assert_eq!(
        redis.ask::<usize>("EXISTS tidegate:{in}:failures:in:h"),
        0,
        "no attempt was counted"
    );
    // And still it handles what it may.
    redis.add_many(50, "in", &[("emit", "out")]);
    redis.wait_for(50, "out");
}

#[test]
fn settlements_that_wait_are_bounded_by_their_bytes() {
    let (_server, mut redis, host) = probe("concurrency = 4");
    redis.add_many(4, "in", &[("sleep-ms", "700"), ("emit", "out")]);
    eventually("they are in hand", || redis.pending("in", "h") == 4);
    let large = "x".repeat(1 << 20);
    for _ in 0..10 {
        redis.add_many(15, "in", &[("emit", "out"), ("data", &large)]);
    }
    redis.tell("CONFIG SET maxmemory 1");
    eventually("it waits", || host.log().contains("cannot settle for now"));
    // Each takes up two mebibytes, with its output; 64 may wait.
    eventually("there is no more room", || redis.pending("in", "h") >= 35);
    never(Duration::from_secs(1), "more is read", || redis.pending("in", "h") > 50);
    redis.tell("CONFIG SET maxmemory 0");
    redis.wait_for(154, "out");
    redis.wait_settled("in", "h");
}

#[test]
fn an_output_that_redis_refuses_costs_those_that_are_settled_with_it_no_attempt() {
    let (_server, mut redis, host) = probe("concurrency = 64");
    redis.tell("XADD out2 18446744073709551615-18446744073709551615 no more");
    let slow =
        |outputs: &[(&'static str, &'static str)]| [&[("sleep-ms", "700")], outputs].concat();
    let mut ids = redis.add_many(20, "in", &slow(&[("emit", "out")]));
    let refused = redis.add("in", &slow(&[("emit", "out"), ("emit", "out2")]));
    ids.extend(redis.add_many(20, "in", &slow(&[("emit", "out")])));
    eventually("they are in hand", || redis.pending("in", "h") == 41);
    // What cannot be settled for now is settled together.
    redis.tell("CONFIG SET maxmemory 1");
    eventually("they wait", || host.log().contains("cannot settle for now"));
    redis.tell("CONFIG SET maxmemory 0");
    let letter = redis.wait_first("{in}:dead");
    assert_eq!(letter.get("tidegate.id"), refused);
    assert!(letter.get("tidegate.error").contains("last possible ID"), "{letter}");
    redis.wait_settled("in", "h");
    let mut innocent = redis.entries("out");
    innocent.retain(|entry| entry.get("id") != refused);
    assert_eq!(innocent.len(), ids.len());
    assert!(innocent.iter().all(|entry| entry.get("attempt") == "1"), "{innocent:?}");
}

#[test]
fn an_acknowledgement_that_comes_too_late_does_not_count_as_handled() {
    let (_server, mut redis, _host) = probe("concurrency = 1");
    let id = redis.add("in", &[("sleep-ms", "500")]);
    eventually("it is in hand", || redis.pending("in", "h") == 1);
    redis.tell(&format!("XACK in h {id}"));
    redis.add("in", &[("sleep-ms", "50")]);
    redis.wait_settled("in", "h");
    eventually("it tells what it handled", || redis.sign("in", "h")["handled"] != 0);
    assert_eq!(redis.sign("in", "h")["handled"], 1);
}

#[test]
fn notices_of_a_message_that_someone_else_took_over_are_not_sent() {
    let (server, mut redis, _host) = probe("");
    let mut news = server.client().subscribe("news");
    let id = redis.add("in", &[("sleep-ms", "400"), ("data", "mine no more"), ("notice", "news")]);
    eventually("it is in hand", || redis.pending("in", "h") == 1);
    redis.tell(&format!("XCLAIM in h someone-else 0 {id}"));
    redis.add("in", &[("sleep-ms", "500"), ("data", "mine"), ("notice", "news")]);
    assert_eq!(news.next(), b"mine");
}

#[test]
fn a_stop_is_heard_while_skipped_messages_wait_to_be_settled() {
    let server = Server::with(Options { tcp: true, ..Options::default() });
    let mut redis = server.client();
    redis.tell("ACL SETUSER app on >pw ~* &* +@all -xack");
    let manifest = format!("[host]\ngrace = \"300ms\"\n{PROBE}match = {{ wanted = \"yes\" }}\n");
    let mut host = Host::at(&format!("redis://app:pw@127.0.0.1:{}", server.port), &manifest);
    redis.add_many(1000, "in", &[("wanted", "no")]);
    // So many wait that nothing more is read until they are settled.
    eventually("it waits for them", || redis.pending("in", "h") >= 100);
    let asked = Instant::now();
    host.stop();
    assert!(asked.elapsed() < Duration::from_secs(6), "after {:?}", asked.elapsed());
}

#[test]
fn a_refused_dead_letter_is_not_tried_again_at_once() {
    let (_server, mut redis, host) = probe("");
    redis.tell("SET {in}:dead text");
    redis.add("in", &[("print", "begun"), ("reject", "no")]);
    eventually("it was tried", || host.log().contains("Redis refuses the settlement"));
    let refused = Instant::now();
    eventually("it is tried again", || host.log().matches("begun").count() >= 2);
    assert!(refused.elapsed() > Duration::from_millis(700), "after {:?}", refused.elapsed());
}

#[test]
fn a_failure_whose_answer_is_lost_costs_one_attempt_and_one_run() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let host = Host::at(&proxy.url(), PROBE);
    let mut redis = server.client();
    eventually("it reads", || redis.readers() == 1);
    for round in 1..=4 {
        proxy.cut_replies("EVALSHA", 0, 1);
        let before = proxy.cuts();
        redis.add("in", &[("print", "begun"), ("retry-until", "2"), ("emit", "out")]);
        eventually("the answer is cut", || proxy.cuts() > before);
        redis.wait_for(round, "out");
    }
    redis.wait_settled("in", "h");
    assert_eq!(redis.column("out", "attempt"), ["2"; 4]);
    assert_eq!(host.log().matches("begun").count(), 8);
}

#[test]
fn scripts_that_are_gone_behind_another_refusal_are_taught_again() {
    let (_server, mut redis, _host) = limited("~* -xack");
    redis.tell("SCRIPT FLUSH");
    for _ in 0..5 {
        redis.add_many(10, "in", &[("nothing", "to write")]);
        redis.add_many(20, "in", &[("retry-after-ms", "60000")]);
    }
    let waiting = "tidegate:{in}:waiting:in:h";
    eventually("failures wait", || redis.ask::<usize>(&format!("ZCARD {waiting}")) == 100);
}

/// A message of more fields than a script can hand on.
fn long(instruction: (&'static str, &'static str)) -> Vec<(String, String)> {
    let mut fields = vec![(instruction.0.to_owned(), instruction.1.to_owned())];
    fields.extend((0..8500).map(|n| (format!("f{n}"), n.to_string())));
    fields.push(("reject".into(), "no".into()));
    fields
}

#[test]
fn a_letter_too_long_for_a_script_is_written_once_however_often_its_answer_is_lost() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let _host = Host::at(&proxy.url(), PROBE);
    let mut redis = server.client();
    eventually("it reads", || redis.readers() == 1);
    // In the middle of the transaction, and of the answer to all of it.
    for (round, bytes) in [0, 23, 30].into_iter().enumerate() {
        proxy.cut_replies("MULTI", bytes, 1);
        redis.add("in", &long(("nothing", "")));
        eventually("the answer is cut", || proxy.cuts() > round);
        eventually("it is buried", || redis.length("{in}:dead") > round);
        redis.wait_settled("in", "h");
    }
    assert_eq!(redis.length("{in}:dead"), 3);
    assert_eq!(redis.entries("{in}:dead")[0].fields.len(), 8502 + 9);
}

#[test]
fn a_letter_too_long_for_a_script_is_not_written_for_a_message_that_someone_else_took_over() {
    let (_server, mut redis, _host) = probe("concurrency = 1");
    let id = redis.add("in", &long(("sleep-ms", "400")));
    eventually("it is in hand", || redis.pending("in", "h") == 1);
    redis.tell(&format!("XCLAIM in h someone-else 0 {id}"));
    redis.add("in", &[("emit", "out")]);
    redis.wait_first("out");
    assert_eq!(redis.length("{in}:dead"), 0);
    assert_eq!(redis.holders("in", "h"), [("someone-else".to_owned(), id)]);
}

#[test]
fn a_letter_too_long_for_a_script_waits_for_a_stream_that_takes_it() {
    let (_server, mut redis, host) = probe("");
    redis.tell("SET {in}:dead text");
    redis.add("in", &long(("nothing", "")));
    eventually("it says so", || host.log().contains("Redis refuses the settlement"));
    assert_eq!(redis.pending("in", "h"), 1);
    redis.tell("DEL {in}:dead");
    redis.wait_first("{in}:dead");
    redis.wait_settled("in", "h");
}

#[test]
fn a_settlement_that_no_replica_has_does_not_count_until_one_has_it() {
    let primary = Server::with(Options {
        tcp: true,
        lines: vec!["repl-diskless-sync yes".into(), "repl-diskless-sync-delay 0".into()],
        ..Options::default()
    });
    let mut redis = primary.client();
    let host = Host::start(&primary, &format!("{PROBE}durability = \"replica\"\n"));
    redis.add_many(10, "in", &[("emit", "out")]);
    redis.wait_for(10, "out");
    eventually("it says so", || host.log().contains("what is settled is not confirmed"));
    assert_eq!(redis.sign("in", "h")["handled"], 0);
    let line = format!("replicaof 127.0.0.1 {}", primary.port);
    let mut replica = Server::with(Options { lines: vec![line], ..Options::default() });
    eventually("they count", || redis.sign("in", "h")["handled"] == 10);
    replica.kill();
    redis.add("in", &[("emit", "out")]);
    eventually("it says so again", || {
        host.log().matches("what is settled is not confirmed").count() == 2
    });
    replica.begin();
    eventually("it counts", || redis.sign("in", "h")["handled"] == 11);
}

#[test]
fn a_server_that_cannot_wait_for_its_disk_is_refused_where_a_handler_asks_for_it() {
    let server = Server::start();
    let done = Setup::new(&server, &format!("{PROBE}durability = \"aof\"\n")).finish().expect(1);
    assert!(done.stderr.contains("handler.h.durability"), "{}", done.stderr);
    let remedy = if server.client().knows("waitaof") { "appendonly yes" } else { "Redis 7.2" };
    assert!(done.stderr.contains(remedy), "{}", done.stderr);
    assert!(done.stderr.contains("\"none\""), "{}", done.stderr);
}

#[test]
fn a_settlement_that_is_on_the_servers_disk_counts() {
    let server = Server::with(Options { durable: true, ..Options::default() });
    let mut redis = server.client();
    if !redis.knows("waitaof") {
        return skipped("the server has no WAITAOF");
    }
    let host = Host::start(&server, &format!("{PROBE}durability = \"aof\"\n"));
    redis.add_many(500, "in", &[("emit", "out")]);
    redis.wait_settled("in", "h");
    eventually("they count", || redis.sign("in", "h")["handled"] == 500);
    assert!(!host.log().contains("not confirmed"), "{}", host.log());
    // Somebody turns the file off: nothing counts any more, and everything goes on.
    redis.tell("CONFIG SET appendonly no");
    redis.add("in", &[("emit", "out")]);
    redis.wait_for(501, "out");
    eventually("it says so", || host.log().contains("cannot wait for what is settled"));
    redis.tell("CONFIG SET appendonly yes");
    within(Duration::from_secs(30), "it counts", || redis.sign("in", "h")["handled"] == 501);
}

#[test]
fn without_the_right_to_acknowledge_nothing_is_written_again_and_again() {
    let (_server, mut redis, _host) = limited("~*");
    let asked = redis.attempt::<redis::Value>("EVAL return(redis.acl_check_cmd('PING')) 0");
    if asked.is_err() {
        return skipped("scripts of this server cannot ask what their user may do");
    }
    redis.tell("ACL SETUSER app -xack");
    redis.add("in", &[("emit", "out")]);
    redis.add("in", &[("reject", "no")]);
    never(Duration::from_secs(2), "anything is written", || {
        redis.length("out") + redis.length("{in}:dead") > 0
    });
    redis.tell("ACL SETUSER app +xack");
    redis.wait_settled("in", "h");
    assert_eq!((redis.length("out"), redis.length("{in}:dead")), (1, 1));
}
