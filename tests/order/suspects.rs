//! Messages that are in flight when their host dies: which run alone, and what kills again is buried.

use std::time::Duration;

use super::harness::{Host, Options, Redis, Running, Server, eventually, never, within};
use super::{ORDERED, all_in_order, named, owner};

const DEATHS: &str = "tidegate:{in}:alone:in:h";

fn begun(host: &Host) -> usize {
    host.log().matches("begun").count()
}

/// A message of a key that says when it begins, takes so long, and leaves one output.
fn work(redis: &mut Redis, stream: &str, key: &str, millis: &str) -> String {
    let fields = [("key", key), ("data", key), ("print", "begun"), ("sleep-ms", millis)];
    redis.add(stream, &[&fields[..], &[("emit", "out")]].concat())
}

/// One that says more, to be told from the others.
fn culprit(redis: &mut Redis, stream: &str) -> String {
    let fields = [("key", "c"), ("data", "c"), ("print", "begun: culprit")];
    redis.add(stream, &[&fields[..], &[("sleep-ms", "4000"), ("emit", "out")]].concat())
}

/// What a host that is not on this machine, and may be dead, leaves behind.
fn seem_elsewhere(redis: &mut Redis, stream: &str, tenure: &str) {
    let key = format!("tidegate:{{{stream}}}:tenures:{stream}:h");
    let told: String = redis.ask(&format!("HGET {key} {tenure}"));
    let mut tenant: serde_json::Value = serde_json::from_str(&told).expect("a tenant is JSON");
    tenant["process"]["machine"] = "another".into();
    let told = tenant.to_string();
    redis.tell(&format!("HSET {key} {tenure} {told}"));
}

fn owned_by(redis: &mut Redis, name: &str) {
    eventually("it owns the stream", || owner(redis, "in").as_deref() == Some(name));
}

/// Two hosts; the first owns the stream and has these in flight, the second is there to take over.
fn busy_and_another(server: &Server, redis: &mut Redis, keys: &[&str]) -> [Running; 2] {
    let busy = Host::start(server, &named("a", ORDERED));
    owned_by(redis, "a");
    for key in keys {
        work(redis, "in", key, "3000");
    }
    eventually("all are in flight", || begun(&busy) == keys.len());
    busy.signal("STOP");
    let other = Host::start(server, &named("b", ORDERED));
    [busy, other]
}

#[test]
fn an_ordered_message_that_kills_twice_is_buried_and_those_behind_it_go_on() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, ORDERED);
    let culprit = culprit(&mut redis, "in");
    let mut others = vec![work(&mut redis, "in", "a", "300")];
    for key in ["c", "a", "b", "d", "c"] {
        others.push(work(&mut redis, "in", key, "300"));
    }
    eventually("the heads are in flight", || begun(&host) == 4 && redis.pending("in", "h") == 7);
    host.kill();
    host.start_again();
    eventually("the culprit runs again", || host.log().contains("culprit"));
    never(Duration::from_secs(1), "anything runs beside it", || begun(&host) > 1);
    assert_eq!(redis.length("out"), 0, "the oldest first");
    host.kill();
    host.start_again();
    let letter = redis.wait_first("{in}:dead");
    assert_eq!(letter.get("tidegate.id"), culprit);
    assert_eq!(letter.get("tidegate.reason"), "trap");
    assert!(letter.get("tidegate.error").contains("died twice"), "{letter}");
    all_in_order(&mut redis, &["in"], others.len());
    assert_eq!(redis.length("{in}:dead"), 1);
    assert_eq!(redis.column("out", "attempt"), ["1"; 6], "a death is nobody's failure");
    assert!(!host.log().contains("culprit"), "it is not run a third time");
    eventually("nothing is kept of it", || !redis.exists(DEATHS));
    eventually("no consumer is left over", || redis.consumers("in", "h").len() == 1);
    host.stop();
    assert_eq!(redis.ask::<Vec<String>>("KEYS tidegate:*"), ["tidegate:{in}:generation:in:h"]);
}

#[test]
fn an_ordered_message_that_had_others_before_it_is_given_one_more_try_before_it_is_buried() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, ORDERED);
    let before = work(&mut redis, "in", "a", "1500");
    let culprit = culprit(&mut redis, "in");
    eventually("both are in flight", || begun(&host) == 2);
    for _ in 0..2 {
        host.kill();
        host.start_again();
        eventually("it runs alone", || host.log().contains("culprit"));
        assert_eq!(redis.column("out", "id"), std::slice::from_ref(&before), "after the other");
        assert_eq!(redis.length("{in}:dead"), 0, "its host may have died of anything");
    }
    host.kill();
    host.start_again();
    assert_eq!(redis.wait_first("{in}:dead").get("tidegate.id"), culprit);
    redis.wait_settled("in", "h");
}

#[test]
fn the_roll_of_hosts_does_not_grow_with_those_that_died() {
    let server = Server::start();
    let mut redis = server.client();
    let hosts = "tidegate:{in}:hosts:in:h";
    redis.tell("SET tidegate:{in}:live:in:h:alive another-hosts-sign");
    for name in ["alive", "dead-1", "dead-2"] {
        redis.tell(&format!("SADD {hosts} {name}"));
    }
    let _host = Host::start(&server, &named("n", &format!("{ORDERED}shards = 2\n")));
    eventually("the dead are off it", || {
        let mut listed: Vec<String> = redis.ask(&format!("SMEMBERS {hosts}"));
        listed.sort();
        listed == ["alive", "n"]
    });
}

#[test]
fn only_what_may_have_been_in_flight_is_suspected_and_not_what_waits_in_line() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, ORDERED);
    for _ in 0..300 {
        redis.add("in", &[("key", "a"), ("data", "a"), ("sleep-ms", "20"), ("emit", "out")]);
    }
    work(&mut redis, "in", "b", "1000");
    eventually("both keys are in flight", || begun(&host) == 1);
    host.kill();
    host.start_again();
    all_in_order(&mut redis, &["in"], 301);
    assert!(host.log().contains("count=2"), "one of each key");
}

#[test]
fn a_suspect_runs_alone_over_all_shards_of_its_host() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &format!("{ORDERED}shards = 3\n"));
    eventually("it owns all", || {
        (0..3).all(|n| owner(&mut redis, &format!("in:{{{n}}}")).is_some())
    });
    culprit(&mut redis, "in:{0}");
    for stream in ["in:{1}", "in:{2}"] {
        work(&mut redis, stream, "a", "4000");
    }
    eventually("all are in flight", || begun(&host) == 3);
    host.kill();
    for stream in ["in:{0}", "in:{1}", "in:{2}"] {
        work(&mut redis, stream, "new", "0");
    }
    host.start_again();
    // Suspects of 4 s in three shards; others have their turns between them.
    let mut most = 0;
    within(Duration::from_secs(60), "all is done", || {
        most = most.max(begun(&host).saturating_sub(redis.length("out")));
        redis.length("out") == 6
    });
    assert!(most <= 1 + 3, "{most} at once");
    let out = redis.entries("out");
    let late = out.iter().filter(|entry| entry.get("data") != "new");
    let times: Vec<u64> = late.map(super::Entry::millis).collect();
    let apart = times.windows(2).all(|pair| pair[1] - pair[0] >= 3500);
    assert!(apart, "one after the other: {times:?}");
}

#[test]
fn what_a_stop_left_behind_of_an_ordered_stream_is_not_suspected() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &format!("[host]\ngrace = \"100ms\"\n{ORDERED}"));
    for key in ["a", "b", "c"] {
        work(&mut redis, "in", key, "2000");
    }
    eventually("all are in flight", || begun(&host) == 3);
    host.terminate();
    host.wait();
    assert_eq!(redis.pending("in", "h"), 3);
    host.start_again();
    eventually("they run side by side", || begun(&host) == 3);
    assert_eq!(redis.length("out"), 0);
    all_in_order(&mut redis, &["in"], 3);
    assert!(!host.log().contains("when their host died"));
}

#[test]
fn an_owner_that_stands_still_past_its_lease_is_not_taken_for_dead() {
    let server = Server::start();
    let mut redis = server.client();
    let [frozen, other] = busy_and_another(&server, &mut redis, &["a", "b", "c"]);
    owned_by(&mut redis, "b");
    eventually("they run side by side", || begun(&other) == 3);
    assert_eq!(redis.length("out"), 0);
    frozen.signal("CONT");
    all_in_order(&mut redis, &["in"], 3);
    assert!(!other.log().contains("when their host died"));
}

#[test]
fn who_cannot_be_told_from_a_dead_owner_costs_its_messages_no_more_than_running_alone() {
    let server = Server::start();
    let mut redis = server.client();
    let [frozen, mut other] = busy_and_another(&server, &mut redis, &["a", "b"]);
    seem_elsewhere(&mut redis, "in", "a#1");
    owned_by(&mut redis, "b");
    eventually("one of them runs", || begun(&other) == 1);
    never(Duration::from_millis(1500), "the other runs beside it", || begun(&other) > 1);
    // The second owner dies while it runs the first of them alone; the one before comes back.
    other.kill();
    frozen.signal("CONT");
    all_in_order(&mut redis, &["in"], 2);
    assert_eq!(redis.length("{in}:dead"), 0, "one host died, not two");
}

#[test]
fn nobody_is_buried_before_it_is_known_that_its_host_died_and_only_its_key_waits_for_that() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &named("a", ORDERED));
    owned_by(&mut redis, "a");
    let culprit = culprit(&mut redis, "in");
    eventually("it is in flight", || begun(&host) == 1);
    host.kill();
    host.start_again();
    eventually("it runs alone", || begun(&host) == 1 && redis.exists(DEATHS));
    seem_elsewhere(&mut redis, "in", "a#2");
    host.kill();
    let behind = work(&mut redis, "in", "c", "0");
    let other = work(&mut redis, "in", "b", "0");
    let second = Host::start(&server, &named("b", ORDERED));
    owned_by(&mut redis, "b");
    assert_eq!(redis.wait_first("out").get("id"), other);
    assert_eq!(redis.length("{in}:dead"), 0, "its host may live");
    redis.tell("DEL tidegate:{in}:live:in:h:a");
    assert_eq!(redis.wait_first("{in}:dead").get("tidegate.id"), culprit);
    assert_eq!(redis.wait_for(2, "out")[1].get("id"), behind);
    assert!(!second.log().contains("culprit"));
    redis.wait_settled("in", "h");
}

#[test]
fn one_whose_dead_letter_is_refused_is_not_run_again_and_is_buried_once_it_can_be() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, ORDERED);
    let culprit = culprit(&mut redis, "in");
    let behind = work(&mut redis, "in", "c", "0");
    eventually("it is in flight", || host.log().contains("culprit"));
    host.kill();
    host.start_again();
    eventually("it runs alone", || host.log().contains("culprit"));
    host.kill();
    redis.tell("SET {in}:dead text");
    host.start_again();
    eventually("the dead letter is refused", || host.log().contains("refuses the settlement"));
    let other = work(&mut redis, "in", "b", "0");
    assert_eq!(redis.wait_first("out").get("id"), other, "only its key waits");
    // It is tried to be buried again every second.
    never(Duration::from_secs(4), "it runs again", || host.log().contains("culprit"));
    host.kill();
    host.start_again();
    never(Duration::from_secs(2), "the next host runs it", || host.log().contains("culprit"));
    redis.tell("DEL {in}:dead");
    let letter = redis.wait_first("{in}:dead");
    assert_eq!(letter.get("tidegate.id"), culprit);
    assert_eq!(letter.get("tidegate.reason"), "trap");
    assert_eq!(redis.wait_for(2, "out")[1].get("id"), behind);
    redis.wait_settled("in", "h");
    eventually("nothing is kept of it", || !redis.exists(DEATHS));
}

#[test]
fn one_that_was_to_run_alone_and_did_not_get_to_it_is_suspected_still() {
    let server = Server::with(Options { tcp: true, ..Options::default() });
    let mut redis = server.client();
    redis.tell("ACL SETUSER app on >pw ~* &* +@all");
    let manifest = format!("{ORDERED}dedupe = {{ key = \"data\", window = \"1h\" }}\n");
    let mut host = Host::at(&format!("redis://app:pw@127.0.0.1:{}", server.port), &manifest);
    let culprit = culprit(&mut redis, "in");
    eventually("it is in flight", || host.log().contains("culprit"));
    host.kill();
    // Whether it is a repeat cannot be asked: it is fetched in vain.
    let others = "~tidegate:{in}:[^s]* ~tidegate:{in}:suspects* ~tidegate:{in}:shards*";
    redis.tell(&format!("ACL SETUSER app resetkeys ~in ~out ~{{in}}:dead ~tidegate:{{d* {others}"));
    host.start_again();
    eventually("it is fetched", || redis.exists(DEATHS) && host.log().contains("cannot read"));
    never(Duration::from_secs(3), "it is forgiven", || !redis.exists(DEATHS));
    redis.tell("ACL SETUSER app ~*");
    eventually("it runs", || host.log().contains("culprit"));
    work(&mut redis, "in", "b", "0");
    never(Duration::from_secs(1), "anything runs beside it", || begun(&host) > 1);
    host.kill();
    host.start_again();
    assert_eq!(redis.wait_first("{in}:dead").get("tidegate.id"), culprit);
    redis.wait_settled("in", "h");
}

#[test]
fn one_that_cannot_be_put_to_run_alone_is_not_noted_as_if_it_had_been() {
    const SUSPECTS: &str = "tidegate:{in}:suspects:in:h";
    const PAUSED: &str = "tidegate:{in}:paused:in:h";
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, ORDERED);
    let later = redis.add("in", &[("key", "w"), ("retry-after-ms", "3600000")]);
    eventually("one waits", || redis.exists("tidegate:{in}:waiting:in:h"));
    let culprit = culprit(&mut redis, "in");
    eventually("another is in flight", || host.log().contains("culprit"));
    host.kill();
    redis.tell(&format!("SET {PAUSED} somebody"));
    host.start_again();
    eventually("it knows the suspect", || host.log().contains("when their host died"));
    // What is noted of one keeps the notes of all.
    redis.tell(&format!("HSET {DEATHS} {later} 1"));
    redis.tell(&format!("SET {SUSPECTS} text"));
    redis.tell(&format!("DEL {PAUSED}"));
    eventually("it names the key", || host.log().contains(&format!("{SUSPECTS} is a string")));
    assert_eq!(redis.ask::<Vec<String>>(&format!("HKEYS {DEATHS}")), [later]);
    redis.tell(&format!("DEL {SUSPECTS}"));
    assert_eq!(redis.wait_first("out").get("id"), culprit);
}

#[test]
fn what_was_noted_before_order_was_kept_condemns_nobody() {
    let server = Server::start();
    let mut redis = server.client();
    let id = work(&mut redis, "in", "a", "0");
    redis.tell("XGROUP CREATE in h 0");
    redis.tell("XREADGROUP GROUP h gone COUNT 1 STREAMS in >");
    // As a host notes it that dies with the message, and runs the handler without `order-by`.
    redis.tell(&format!("HSET tidegate:{{in}}:deaths:in:h {id} 2"));
    let _host = Host::start(&server, ORDERED);
    assert_eq!(redis.wait_first("out").get("id"), id);
    redis.wait_settled("in", "h");
    assert_eq!(redis.length("{in}:dead"), 0);
}

#[test]
fn a_group_that_goes_while_a_suspect_runs_is_made_anew() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, ORDERED);
    work(&mut redis, "in", "a", "1500");
    eventually("it is in flight", || begun(&host) == 1);
    host.kill();
    host.start_again();
    eventually("it runs alone", || begun(&host) == 1 && redis.exists(DEATHS));
    redis.tell("DEL in");
    let next = work(&mut redis, "in", "b", "0");
    eventually("the next is handled", || redis.column("out", "id").contains(&next));
    redis.wait_settled("in", "h");
    eventually("nothing is noted any more", || !redis.exists(DEATHS));
}
