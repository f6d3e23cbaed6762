//! Trouble with Redis amid recoveries: what is refused is asked for again, and means what it meant.

use std::time::{Duration, Instant};

use super::harness::{Host, Redis, Server, eventually};
use super::{DEAD, PROBE, add, begun, each_is_handled_once, kill};

const DEATHS: &str = "tidegate:{in}:deaths:in:h";

/// The scripts as the host sends them.
const CLAIM: &str = concat!(
    include_str!("../../host/src/broker/scripts/kinds.lua"),
    include_str!("../../host/src/broker/scripts/claim.lua")
);

/// New messages are handled for a while.
#[track_caller]
fn reading_goes_on(redis: &mut Redis, ids: &mut Vec<String>) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        ids.push(redis.add("in", &[("emit", "out")]));
        eventually("new messages are handled", || redis.length("out") == ids.len());
    }
}

#[test]
fn a_suspect_that_redis_refuses_to_note_holds_up_nothing_and_is_noted_when_it_runs() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, PROBE);
    let suspect = add(&mut redis, "begun", "600000");
    eventually("it is in flight", || begun(&host, "begun") == 1);
    host.kill();
    redis.tell(&format!("SET {DEATHS} odd"));
    host.start_again();
    eventually("that is told", || begun(&host, "cannot run apart") == 1);
    let mut others = Vec::new();
    reading_goes_on(&mut redis, &mut others);
    for (told, times) in [("cannot run apart", 1), ("they run apart", 1), ("cannot read", 0)] {
        assert_eq!(begun(&host, told), times, "{told}: {}", host.log());
    }
    assert_eq!(begun(&host, "begun"), 0, "it does not run unless that is noted");
    redis.tell(&format!("DEL {DEATHS}"));
    eventually("it runs", || begun(&host, "begun") == 1);
    kill(&mut host);
    assert_eq!(redis.wait_first(DEAD).get("tidegate.id"), suspect);
    assert_eq!(begun(&host, "begun"), 0, "its host died with it alone");
    each_is_handled_once(&mut redis, &others);
}

#[test]
fn what_another_host_left_is_not_forgotten_where_it_is_refused_for_a_while() {
    let server = Server::start();
    let mut redis = server.client();
    redis.tell("XGROUP CREATE in h 0 MKSTREAM");
    let ids = redis.add_many(3, "in", &[("emit", "out")]);
    redis.tell("XREADGROUP GROUP h dead COUNT 3 STREAMS in >");
    redis.tell("SADD tidegate:{in}:hosts:in:h dead");
    redis.tell(&format!("XCLAIM in h dead 0 {} IDLE 60000 JUSTID", ids.join(" ")));
    redis.tell("SET tidegate:{in}:failures:in:h odd");
    let host = Host::start(&server, PROBE);
    eventually("that is told", || begun(&host, "cannot run apart") == 1);
    redis.tell("DEL tidegate:{in}:failures:in:h");
    redis.wait_settled("in", "h");
    assert_eq!(redis.length("out"), 3);
    assert_eq!(begun(&host, "they run apart"), 1, "found once: {}", host.log());
}

#[test]
fn suspects_run_while_the_server_is_out_of_memory() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &format!("{PROBE}concurrency = 3"));
    let ids: Vec<_> = (0..3).map(|_| add(&mut redis, "begun", "600")).collect();
    eventually("they are in flight", || begun(&host, "begun") == 3);
    kill(&mut host);
    eventually("the first runs", || begun(&host, "begun") == 1);
    redis.tell("CONFIG SET maxmemory 1");
    eventually("so do the others", || begun(&host, "begun") == 3);
    for told in ["cannot run apart", "cannot read"] {
        assert_eq!(begun(&host, told), 0, "{}", host.log());
    }
    redis.tell("CONFIG SET maxmemory 0");
    each_is_handled_once(&mut redis, &ids);
}

#[test]
fn a_claim_that_is_sent_again_notes_one_death_whether_or_not_it_was_carried_out() {
    let server = Server::start();
    let mut redis = server.client();
    redis.tell("XGROUP CREATE in h 0 MKSTREAM");
    let id = redis.add("in", &[("emit", "out")]);
    redis.tell("XREADGROUP GROUP h n COUNT 1 STREAMS in >");
    let mut claim = |terms: &str| {
        let keys = ["in", "failures", "waiting", DEATHS];
        let values = ["h", "n", "n", "tidegate:waiting", terms, "1000000", &id];
        let _: redis::Value = redis.run(CLAIM, &keys, &values);
        redis.ask::<String>(&format!("HGET {DEATHS} {id}"))
    };
    assert_eq!(claim("again"), "2", "the first was not carried out");
    assert_eq!(claim("again"), "2", "it was");
    assert_eq!(claim("first"), "3", "its host died once more");
    assert_eq!(claim("again"), "3");
}

#[test]
fn what_is_in_hand_comes_along_to_another_name_once_redis_allows_it() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = format!("[host]\nname = \"n\"\n{PROBE}concurrency = 4");
    let host = Host::start(&server, &manifest);
    let ids = ["4000", "12000"].map(|millis| add(&mut redis, "begun", millis));
    eventually("both are in hand", || begun(&host, "begun") == 2);
    redis.tell("ACL SETUSER default -xclaim");
    redis.tell("SET tidegate:{in}:live:in:h:n another-hosts-sign");
    redis.kill_others();
    eventually("it has another name", || redis.exists("tidegate:{in}:live:in:h:n-2"));
    redis.wait_for(1, "out");
    eventually("it is settled under its name", || redis.pending("in", "h") == 1);
    redis.tell("ACL SETUSER default +xclaim");
    eventually("the other came along", || {
        redis.holders("in", "h") == [("n-2".to_owned(), ids[1].clone())]
    });
    each_is_handled_once(&mut redis, &ids);
    assert_eq!(begun(&host, "begun"), 2);
}
