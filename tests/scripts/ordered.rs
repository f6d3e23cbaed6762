//! The scripts of an ordered stream: one owner at a time, and nothing is done for one whose tenure is over.

use redis::{FromRedisValue, Value};

use super::{FAILURES, NOBODY, WAITING, call, group, held_by, holders, put_to_wait};
use crate::harness::Redis;

const LEASE: &str = "tidegate:{in}:lease:in:g";
const GENERATION: &str = "tidegate:{in}:generation:in:g";
const TENURES: &str = "tidegate:{in}:tenures:in:g";
const DEATHS: &str = "tidegate:{in}:alone:in:g";
const SUSPECTS: &str = "tidegate:{in}:suspects:in:g";

/// Takes or keeps the lease: the tenure, or none.
fn lease(redis: &mut Redis, name: &str, kept: &str, dead: &str) -> Option<String> {
    let values = [name, "60000", kept, dead, "process"];
    match call(redis, "lease", &[LEASE, GENERATION, TENURES], &values) {
        Value::BulkString(tenure) => Some(String::from_utf8(tenure).unwrap()),
        _ => None,
    }
}

#[test]
fn a_lease_has_one_owner_and_no_tenure_comes_twice() {
    let (_server, mut redis) = group();
    assert_eq!(lease(&mut redis, "a", "", "").as_deref(), Some("a#1"));
    assert_eq!(lease(&mut redis, "b", "", ""), None, "it is another's");
    assert_eq!(lease(&mut redis, "b", "b#7", ""), None, "nor can it be kept by another");
    assert_eq!(lease(&mut redis, "a", "a#1", "").as_deref(), Some("a#1"));
    assert_eq!(lease(&mut redis, "b", "", "a").as_deref(), Some("b#2"), "its owner is dead");
    assert_eq!(lease(&mut redis, "a", "a#1", ""), None, "that tenure is over");
    let tenures = |redis: &mut Redis| -> Vec<String> { redis.ask(&format!("HKEYS {TENURES}")) };
    assert_eq!(tenures(&mut redis), ["a#1", "b#2"], "neither was given up");
    let yielded: i64 = call(&mut redis, "yield", &[LEASE, TENURES], &["a#1"]);
    assert_eq!((yielded, redis.ask::<String>(&format!("GET {LEASE}"))), (0, "b#2".to_owned()));
    assert_eq!(tenures(&mut redis), ["b#2"]);
    let yielded: i64 = call(&mut redis, "yield", &[LEASE, TENURES], &["b#2"]);
    assert_eq!((yielded, redis.exists(LEASE), redis.exists(TENURES)), (1, false, false));
}

/// What `fetch` gives for a tenure: how many entries, how many trimmed ones and how many condemned;
/// `None` if it is over.
fn fetch(redis: &mut Redis, tenure: &str, terms: &str, id: &str) -> Option<[usize; 3]> {
    let keys = ["in", FAILURES, WAITING, LEASE, DEATHS, SUSPECTS];
    let answer: Value = call(redis, "fetch", &keys, &["g", tenure, NOBODY, terms, id]);
    let lists: [Vec<Value>; 3] = match answer {
        Value::Int(0) => return None,
        lists => FromRedisValue::from_redis_value(lists).unwrap(),
    };
    Some(lists.map(|list| list.len()))
}

/// What `inherit` gives for a tenure, of tenures whose hosts died and others whose hosts may have;
/// `None` if it is over.
fn inherit(
    redis: &mut Redis,
    tenure: &str,
    dead: &[&str],
    doubted: &[&str],
) -> Option<Vec<[String; 3]>> {
    let keys = ["in", WAITING, LEASE, DEATHS, SUSPECTS];
    let count = dead.len().to_string();
    let mut values = vec!["g", tenure, NOBODY, "-", "10", "data", &count];
    values.extend(dead.iter().chain(doubted));
    let answer: Value = call(redis, "inherit", &keys, &values);
    if answer == Value::Int(0) {
        return None;
    }
    let words: Vec<String> = FromRedisValue::from_redis_value(answer).unwrap();
    Some(words.chunks(3).map(|row| row.to_vec().try_into().unwrap()).collect())
}

/// As [`inherit`], of the only entry what came of it.
fn fate(redis: &mut Redis, tenure: &str, dead: &[&str], doubted: &[&str]) -> String {
    redis.tell(&format!("SET {LEASE} {tenure}"));
    let [row] = inherit(redis, tenure, dead, doubted).unwrap().try_into().unwrap();
    row[1].clone()
}

#[test]
fn one_whose_tenure_is_over_reads_fetches_and_inherits_nothing() {
    let (_server, mut redis) = group();
    let id = held_by(&mut redis, "b#2");
    redis.add("in", &[("data", "new")]);
    redis.tell(&format!("SET {LEASE} b#2"));
    let read: Value = call(&mut redis, "read", &["in", LEASE], &["g", "a#1", "10"]);
    assert_eq!(read, Value::Int(0));
    assert_eq!(fetch(&mut redis, "a#1", "alone", &id), None);
    assert_eq!(inherit(&mut redis, "a#1", &["b#2"], &[]), None);
    assert_eq!(holders(&mut redis), ["b#2"], "nothing was read, and nothing changed hands");
    assert!(!redis.exists(DEATHS) && !redis.exists(SUSPECTS));
}

#[test]
fn what_is_fetched_is_its_owners_and_waits_no_more() {
    let (_server, mut redis) = group();
    redis.tell(&format!("SET {LEASE} a#1"));
    let waiting = held_by(&mut redis, "a#1");
    put_to_wait(&mut redis, &waiting);
    let settled = held_by(&mut redis, "a#1");
    redis.tell(&format!("ZADD {WAITING} 1 {settled}"));
    redis.tell(&format!("HSET {FAILURES} {settled} 1"));
    redis.tell(&format!("XACK in g {settled}"));
    let trimmed = held_by(&mut redis, "b#2");
    redis.tell(&format!("XDEL in {trimmed}"));
    assert_eq!(fetch(&mut redis, "a#1", "crowd", &waiting), Some([1, 0, 0]));
    assert_eq!(fetch(&mut redis, "a#1", "crowd", &settled), Some([0, 0, 0]));
    assert_eq!(fetch(&mut redis, "a#1", "crowd", &trimmed), Some([0, 1, 0]));
    assert_eq!(holders(&mut redis), ["a#1", "b#2"], "a trimmed one is for its holder to bury");
    assert!(!redis.exists(WAITING) && !redis.exists(FAILURES), "nothing of what is settled stays");
}

#[test]
fn what_an_owner_inherits_is_its_own_but_for_what_waits_or_has_no_body() {
    let (_server, mut redis) = group();
    redis.tell(&format!("SET {LEASE} b#2"));
    let ids: Vec<String> = (0..3).map(|_| held_by(&mut redis, "a#1")).collect();
    put_to_wait(&mut redis, &ids[1]);
    redis.tell(&format!("XDEL in {}", ids[2]));
    let rows = inherit(&mut redis, "b#2", &[], &[]).unwrap();
    let wanted = [["held", "x"], ["waiting", "x"], ["trimmed", ""]];
    let rows: Vec<[&str; 2]> = rows.iter().map(|row| [&*row[1], &*row[2]]).collect();
    assert_eq!(rows, wanted);
    assert_eq!(holders(&mut redis), ["b#2", NOBODY, "a#1"]);
    redis.tell(&format!("DEL {WAITING}"));
    let rows = inherit(&mut redis, "b#2", &[], &[]).unwrap();
    assert_eq!(rows[1][1], "held", "nobody knows when it is due");
}

#[test]
fn who_dies_with_an_entry_alone_after_another_condemns_it() {
    let (_server, mut redis) = group();
    let id = held_by(&mut redis, "a#1");
    assert_eq!(fate(&mut redis, "b#2", &["a#1"], &[]), "suspect");
    assert_eq!(holders(&mut redis), ["a#1"], "whoever is next still sees who had it");
    assert_eq!(fetch(&mut redis, "b#2", "first", &id), Some([1, 0, 0]));
    assert_eq!(holders(&mut redis), ["b#2"]);
    // While it is not known of both that they died, nothing is decided.
    assert_eq!(fate(&mut redis, "c#3", &["a#1"], &["b#2"]), "doubted");
    assert_eq!(fate(&mut redis, "c#3", &["b#2"], &["a#1"]), "doubted");
    assert_eq!(fate(&mut redis, "c#3", &["a#1", "b#2"], &[]), "condemned");
    assert_eq!(fate(&mut redis, "c#3", &[], &[]), "condemned", "that is remembered");
    assert_eq!(holders(&mut redis), ["b#2"], "it is left for its burial");
    assert_eq!(fetch(&mut redis, "c#3", "crowd", &id), Some([0, 0, 1]), "and runs no more");
    assert_eq!(fetch(&mut redis, "c#3", "dead", &id), Some([1, 0, 0]));
}

#[test]
fn one_that_had_others_before_it_is_condemned_by_the_second_death_alone() {
    let (_server, mut redis) = group();
    let id = held_by(&mut redis, "a#1");
    assert_eq!(fate(&mut redis, "b#2", &["a#1"], &[]), "suspect");
    assert_eq!(fetch(&mut redis, "b#2", "alone", &id), Some([1, 0, 0]));
    assert_eq!(fate(&mut redis, "c#3", &["a#1"], &["b#2"]), "doubted");
    assert_eq!(fate(&mut redis, "c#3", &["a#1", "b#2"], &[]), "suspect");
    assert_eq!(
        fate(&mut redis, "d#4", &["a#1", "b#2"], &[]),
        "suspect",
        "it did not run meanwhile"
    );
    assert_eq!(fetch(&mut redis, "d#4", "alone", &id), Some([1, 0, 0]));
    assert_eq!(fate(&mut redis, "e#5", &["b#2", "d#4"], &[]), "condemned");
}

#[test]
fn a_death_counts_only_with_one_before_it_and_is_forgotten_when_the_entry_runs_among_others() {
    let (_server, mut redis) = group();
    let id = held_by(&mut redis, "a#1");
    assert_eq!(fate(&mut redis, "b#2", &[], &["a#1"]), "suspect");
    assert_eq!(fetch(&mut redis, "b#2", "first", &id), Some([1, 0, 0]));
    // The former one only outlived its lease: this death is the first, however often it is looked at.
    for _ in 0..2 {
        assert_eq!(fate(&mut redis, "c#3", &["b#2"], &[]), "suspect");
    }
    assert_eq!(fetch(&mut redis, "c#3", "first", &id), Some([1, 0, 0]));
    assert_eq!(fetch(&mut redis, "c#3", "alone", &id), Some([1, 0, 0]), "another attempt");
    assert_eq!(redis.ask::<String>(&format!("HGET {SUSPECTS} {id}")), "b#2");
    assert_eq!(fate(&mut redis, "c#3", &["b#2"], &[]), "suspect", "nothing shows that it ran");
    assert_eq!(
        fate(&mut redis, "d#4", &["b#2"], &[]),
        "suspect",
        "its owner left, so it runs again"
    );
    assert_eq!(fetch(&mut redis, "d#4", "crowd", &id), Some([1, 0, 0]));
    assert!(!redis.exists(DEATHS));
    assert_eq!(fate(&mut redis, "e#5", &["b#2", "d#4"], &[]), "suspect", "it begins anew");
}
