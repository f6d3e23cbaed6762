//! The scripts alone, on a real server: what each header promises of who holds an entry, also in the
//! moments that a host only meets when another is quicker.
//!
//! What they are for is tested with hosts elsewhere.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;
#[path = "scripts/ordered.rs"]
mod ordered;

use std::fs;

use harness::{Redis, Server, root};

const FAILURES: &str = "tidegate:{in}:failures:in:g";
const WAITING: &str = "tidegate:{in}:waiting:in:g";
const DEATHS: &str = "tidegate:{in}:deaths:in:g";
const HOSTS: &str = "tidegate:{in}:hosts:in:g";
const LIVE: &str = "tidegate:{in}:live:in:g:a";
const MEMORY: &str = "tidegate:{in}:seen:in:g:1";

/// Who has what waits for another attempt.
const NOBODY: &str = "tidegate:waiting";

/// A script behind all that any of them begins with.
fn script(name: &str) -> String {
    let file = |name: &str| root().join(format!("host/src/broker/scripts/{name}.lua"));
    ["kinds", "hold", name].map(|name| fs::read_to_string(file(name)).unwrap()).concat()
}

fn call<T: redis::FromRedisValue>(
    redis: &mut Redis,
    name: &str,
    keys: &[&str],
    values: &[&str],
) -> T {
    redis.run(&script(name), keys, values)
}

/// A server with the group `g` on the stream `in`, and a connection to it.
fn group() -> (Server, Redis) {
    let server = Server::start();
    let mut redis = server.client();
    redis.tell("XGROUP CREATE in g 0 MKSTREAM");
    (server, redis)
}

/// Adds an entry, which a consumer then holds.
fn held_by(redis: &mut Redis, consumer: &str) -> String {
    let id = redis.add("in", &[("data", "x")]);
    redis.tell(&format!("XREADGROUP GROUP g {consumer} COUNT 1 STREAMS in >"));
    id
}

/// Hands an entry to those that wait for another attempt.
fn put_to_wait(redis: &mut Redis, id: &str) {
    redis.tell(&format!("XCLAIM in g {NOBODY} 0 {id} JUSTID"));
    redis.tell(&format!("ZADD {WAITING} 1 {id}"));
}

fn holders(redis: &mut Redis) -> Vec<String> {
    redis.holders("in", "g").into_iter().map(|(consumer, _)| consumer).collect()
}

fn settle(redis: &mut Redis, consumer: &str, id: &str, how: &str) -> Vec<i64> {
    let values = ["g", consumer, how, "0", id, "1", "1", "0", "2", "data", "x"];
    call(redis, "settle", &["in", FAILURES, "out"], &values)
}

fn bury(redis: &mut Redis, consumer: &str, id: &str, how: &str) -> i64 {
    let values = ["g", consumer, id, how, "data", "x"];
    call(redis, "bury", &["in", FAILURES, WAITING, "dead"], &values)
}

fn park(redis: &mut Redis, consumer: &str, id: &str) -> Vec<i64> {
    let values = ["g", consumer, NOBODY, id, "1", "60000", "why"];
    call(redis, "park", &["in", FAILURES, WAITING], &values)
}

fn retire(redis: &mut Redis, idle: &str) -> i64 {
    call(redis, "retire", &["in", LIVE, HOSTS], &["g", "a", idle])
}

#[test]
fn what_another_holds_is_left_as_it_is() {
    let (_server, mut redis) = group();
    let id = held_by(&mut redis, "a");
    redis.tell(&format!("SET {MEMORY} 1-1"));
    assert_eq!(settle(&mut redis, "b", &id, "XACK"), [-1]);
    assert_eq!(bury(&mut redis, "b", &id, "XACK"), -1);
    assert_eq!(park(&mut redis, "b", &id), [-1]);
    let renewed: Vec<i64> = call(&mut redis, "renew", &["in"], &["g", "b", "b", NOBODY, &id]);
    assert_eq!(renewed, [-1]);
    let released: Vec<i64> = call(&mut redis, "release", &["in", WAITING], &["g", NOBODY, &id]);
    assert_eq!(released, [-1]);
    let repeated: Vec<i64> =
        call(&mut redis, "repeat", &["in", FAILURES, MEMORY], &["g", "b", &id]);
    assert_eq!(repeated, [0]);
    assert_eq!(holders(&mut redis), ["a"]);
    for key in ["out", "dead", FAILURES, WAITING] {
        assert!(!redis.exists(key), "{key}");
    }
}

#[test]
fn what_is_settled_is_not_settled_again() {
    let (_server, mut redis) = group();
    let id = held_by(&mut redis, "a");
    redis.tell(&format!("XACK in g {id}"));
    assert_eq!(settle(&mut redis, "a", &id, "XACK"), [0]);
    assert_eq!(bury(&mut redis, "a", &id, "XACK"), 0);
    assert_eq!(bury(&mut redis, "", &id, "XACK"), 0, "nor by whoever notices that it has no body");
    assert_eq!(park(&mut redis, "a", &id), [0]);
    for key in ["out", "dead", FAILURES, WAITING] {
        assert!(!redis.exists(key), "{key}");
    }
}

#[test]
fn what_waits_is_not_taken_by_a_renewal() {
    let (_server, mut redis) = group();
    let id = held_by(&mut redis, "a");
    put_to_wait(&mut redis, &id);
    let answer: Vec<i64> = call(&mut redis, "renew", &["in"], &["g", NOBODY, "a", NOBODY, &id]);
    assert_eq!(answer, [0]);
    assert_eq!(holders(&mut redis), [NOBODY]);
}

#[test]
fn a_burial_forgets_when_the_entry_was_due_and_how_often_it_failed() {
    let (_server, mut redis) = group();
    let id = held_by(&mut redis, "a");
    put_to_wait(&mut redis, &id);
    redis.tell(&format!("HSET {FAILURES} {id} 1"));
    assert_eq!(bury(&mut redis, "", &id, "XACK"), 1);
    assert_eq!(redis.length("dead"), 1);
    assert_eq!(redis.pending("in", "g"), 0);
    assert!(!redis.exists(WAITING) && !redis.exists(FAILURES));
}

#[test]
fn what_has_no_body_is_not_put_to_wait() {
    let (_server, mut redis) = group();
    let id = held_by(&mut redis, "a");
    redis.tell(&format!("XDEL in {id}"));
    assert_eq!(park(&mut redis, "a", &id), [-2]);
    assert_eq!(holders(&mut redis), ["a"], "it is for its holder to bury");
    assert!(!redis.exists(WAITING));
}

#[test]
fn an_entry_does_not_repeat_itself() {
    let (_server, mut redis) = group();
    let id = held_by(&mut redis, "a");
    // Its settlement was written, and its group begins anew.
    redis.tell(&format!("SET {MEMORY} {id}"));
    let answer: Vec<i64> = call(&mut redis, "repeat", &["in", FAILURES, MEMORY], &["g", "a", &id]);
    assert_eq!(answer, [0]);
    let values = ["g", "a", "XACK", "60000", &id, "1", "1", "1", "0", "2", "data", "x"];
    let answer: Vec<i64> = call(&mut redis, "settle", &["in", FAILURES, "out", MEMORY], &values);
    assert_eq!((answer, redis.length("out")), (vec![1], 1));
}

#[test]
fn an_entry_is_acknowledged_also_where_the_server_cannot_remove_it() {
    let (_server, mut redis) = group();
    let answer = if redis.knows("XACKDEL") { 1 } else { 2 };
    let (one, other) = (held_by(&mut redis, "a"), held_by(&mut redis, "a"));
    assert_eq!(settle(&mut redis, "a", &one, "XACKDEL"), [answer]);
    assert_eq!(bury(&mut redis, "a", &other, "XACKDEL"), answer);
    assert_eq!(redis.pending("in", "g"), 0);
    assert_eq!((redis.length("out"), redis.length("dead")), (1, 1));
}

#[test]
fn a_consumer_is_not_removed_while_it_holds_something_lives_or_was_just_there() {
    let (_server, mut redis) = group();
    let id = held_by(&mut redis, "a");
    redis.tell(&format!("SADD {HOSTS} a"));
    assert_eq!(retire(&mut redis, "0"), 0, "it holds an entry");
    assert_eq!(holders(&mut redis), ["a"]);
    redis.tell(&format!("XACK in g {id}"));
    redis.tell(&format!("SET {LIVE} sign"));
    assert_eq!(retire(&mut redis, "0"), 0, "it lives");
    redis.tell(&format!("DEL {LIVE}"));
    assert_eq!(retire(&mut redis, "60000"), 0, "it was there a moment ago");
    assert_eq!(redis.consumers("in", "g"), ["a"]);
    assert_eq!(retire(&mut redis, "0"), 1);
    assert!(redis.consumers("in", "g").is_empty() && !redis.exists(HOSTS));
}

#[test]
fn a_host_that_leaves_before_it_knows_what_killed_the_one_before_absolves_nothing() {
    let (_server, mut redis) = group();
    held_by(&mut redis, "a");
    redis.tell(&format!("SADD {HOSTS} a"));
    let mut leave = |done: &str| -> (i64, bool) {
        let left = call(&mut redis, "leave", &[LIVE, HOSTS, "in"], &["a", "token", "g", done]);
        (left, redis.exists(HOSTS))
    };
    assert_eq!(leave(""), (1, true), "what it holds is still suspect");
    assert_eq!(leave("done"), (1, false));
    assert_eq!(holders(&mut redis), ["a"], "what it held is still pending");
}

#[test]
fn a_death_is_forgotten_only_for_whoever_has_the_entry() {
    let (_server, mut redis) = group();
    let id = held_by(&mut redis, "b");
    redis.tell(&format!("HSET {DEATHS} {id} 1"));
    let mut acquit = |consumer: &str| -> i64 {
        call(&mut redis, "acquit", &["in", DEATHS], &["g", consumer, NOBODY, &id])
    };
    assert_eq!(acquit("a"), 0, "it runs with another by now");
    assert_eq!(acquit("b"), 1);
}

/// What `claim` gives: the entries taken, as their ids and trials, the ids of trimmed ones and of
/// suspects that were left, and how many were looked at.
type Claimed = (Vec<(String, i64)>, Vec<String>, Vec<String>, i64);

/// Claims entries for `c` that `a` is thought to hold.
fn claim(redis: &mut Redis, terms: &str, ids: &[String]) -> Claimed {
    type Row = (String, Vec<String>, String, i64);
    let keys = ["in", FAILURES, WAITING, DEATHS];
    let mut values = vec!["g", "c", "a", NOBODY, terms, "1000000"];
    values.extend(ids.iter().map(String::as_str));
    let (rows, trimmed, suspects, seen): (Vec<Row>, _, _, _) = call(redis, "claim", &keys, &values);
    (rows.into_iter().map(|(id, _, _, trial)| (id, trial)).collect(), trimmed, suspects, seen)
}

#[test]
fn a_suspect_is_not_taken_among_others_and_what_another_took_is_left() {
    let (_server, mut redis) = group();
    let ids = ["a", "a", "b"].map(|consumer| held_by(&mut redis, consumer));
    let [suspect, plain, others] = ids.clone();
    for terms in ["together", "crowd"] {
        redis.tell(&format!("HSET {DEATHS} {suspect} 1"));
        redis.tell(&format!("ZADD {WAITING} 1 {plain} 1 {others}"));
        let trial = i64::from(terms == "together");
        let claimed = claim(&mut redis, terms, &ids);
        assert_eq!(claimed, (vec![(plain.clone(), trial)], vec![], vec![suspect.clone()], 3));
        assert_eq!(holders(&mut redis), ["a", "c", "b"], "{terms}");
        assert!(!redis.exists(WAITING), "what is in hand is due at no time");
        redis.tell(&format!("XCLAIM in g a 0 {plain} JUSTID"));
        redis.tell(&format!("HDEL {DEATHS} {plain}"));
    }
}

#[test]
fn a_suspect_is_condemned_only_by_a_death_while_it_was_alone_and_first() {
    let (_server, mut redis) = group();
    let id = held_by(&mut redis, "a");
    let mut trials = |terms: &[&str]| -> Vec<i64> {
        redis.tell(&format!("DEL {DEATHS}"));
        let mut trial = |terms| {
            redis.tell(&format!("XCLAIM in g a 0 {id} JUSTID"));
            let (taken, ..) = claim(&mut redis, terms, std::slice::from_ref(&id));
            taken[0].1
        };
        terms.iter().map(|terms| trial(terms)).collect()
    };
    assert_eq!(trials(&["first", "died"]), [3, 4]);
    assert_eq!(trials(&["died", "died", "died"]), [2, 3, 4]);
    assert_eq!(trials(&["together", "died", "first", "died"]), [1, 2, 3, 4]);
    assert_eq!(trials(&["died", "alone", "alone"]), [2, 2, 2], "nobody died");
    assert_eq!(trials(&["crowd", "crowd"]), [0, 0]);
}

#[test]
fn a_claim_leaves_what_it_has_no_room_for_and_names_what_has_no_body() {
    let (_server, mut redis) = group();
    let ids: Vec<String> = (0..3).map(|_| held_by(&mut redis, "a")).collect();
    redis.tell(&format!("XDEL in {}", ids[0]));
    redis.tell(&format!("HSET {DEATHS} {} 1", ids[0]));
    let keys = ["in", FAILURES, WAITING, DEATHS];
    let mut values = vec!["g", "c", "a", NOBODY, "crowd", "1"];
    values.extend(ids.iter().map(String::as_str));
    let (taken, trimmed, _, seen): (Vec<redis::Value>, Vec<String>, redis::Value, i64) =
        call(&mut redis, "claim", &keys, &values);
    assert_eq!((taken.len(), trimmed, seen), (1, vec![ids[0].clone()], 2));
    assert_eq!(holders(&mut redis), ["a", "c", "a"]);
    assert!(!redis.exists(DEATHS), "what is to be buried as trimmed is suspect no more");
}

#[test]
fn where_a_key_is_of_another_type_nothing_is_written() {
    let (_server, mut redis) = group();
    let id = held_by(&mut redis, "a");
    let id = id.as_str();
    let (stream, set) = ("tidegate:{delayed}:streams", "tidegate:{in}:delayed:out");
    let letter = ["g", "a", id, "XACK", "data", "x"];
    let output = ["g", "a", "XACK", "0", id, "0", "1", "1", "0", "2", "data", "x"];
    let wait = ["g", "a", NOBODY, id, "1", "60000", "why"];
    let taking = ["g", "c", "a", NOBODY, "died", "1000", id];
    let refused: [(&str, &[&str], &[&str], &str); 9] = [
        ("settle", &["in", FAILURES, "out"], &output, FAILURES),
        ("bury", &["in", FAILURES, WAITING, "dead"], &letter, FAILURES),
        ("bury", &["in", FAILURES, WAITING, "dead"], &letter, WAITING),
        ("park", &["in", FAILURES, WAITING], &wait, WAITING),
        ("park", &["in", FAILURES, WAITING], &wait, FAILURES),
        ("claim", &["in", FAILURES, WAITING, DEATHS], &taking, DEATHS),
        ("acquit", &["in", DEATHS], &["g", "a", NOBODY, id], DEATHS),
        ("sign", &[LIVE, HOSTS], &["a", "sign", "60000", "token", ""], HOSTS),
        ("register", &[stream], &[set], stream),
    ];
    for (name, keys, values, odd) in refused {
        redis.tell(&format!("SET {odd} text"));
        let answer: redis::RedisResult<redis::Value> =
            redis.attempt_run(&script(name), keys, values);
        let error = answer.unwrap_err().to_string();
        assert!(error.contains("ODDKEY") && error.contains(odd), "{name}: {error}");
        redis.tell(&format!("DEL {odd}"));
        assert_eq!(holders(&mut redis), ["a"], "{name}");
        assert_eq!(redis.ask::<Vec<String>>("KEYS *"), ["in"], "{name}");
    }
}

#[test]
fn trimming_keeps_what_any_group_has_not_acknowledged_and_all_where_there_is_none() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = redis.add_many(3, "in", &[("data", "x")]);
    let mut trim =
        || -> (i64, usize) { (call(&mut redis, "trim", &["in"], &["100"]), redis.length("in")) };
    assert_eq!(trim(), (-1, 3), "nobody can tell what was handled");
    // Whichever group is listed first or last, the slowest of them counts.
    for (group, read_to) in [("a", &ids[1]), ("b", &ids[0]), ("c", &ids[1])] {
        server.client().tell(&format!("XGROUP CREATE in {group} {read_to}"));
    }
    assert_eq!(trim(), (1, 2));
    server.client().tell("XREADGROUP GROUP b x COUNT 1 STREAMS in >");
    assert_eq!(trim(), (0, 2), "what is pending stays");
    server.client().tell("XGROUP DESTROY in b");
    assert_eq!(trim(), (1, 1));
}

#[test]
fn the_group_of_a_host_that_was_seen_lately_is_not_removed() {
    let (_server, mut redis) = group();
    held_by(&mut redis, "a");
    let (seen, now) = ("tidegate:{in}:broadcast:in:g", redis.ask::<Vec<u64>>("TIME")[0] * 1000);
    let keys = ["in", seen, WAITING, FAILURES, LIVE, DEATHS];
    let mut disband = |at: u64| -> i64 {
        redis.tell(&format!("HSET {seen} a {at}"));
        call(&mut redis, "disband", &keys, &["g", "a", "60000"])
    };
    assert_eq!(disband(now), -1);
    assert_eq!(disband(now - 120_000), 1);
    assert!(!redis.has_group("in", "g"));
}
