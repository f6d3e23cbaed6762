//! What an operator sees and steers: pending entries, retries and dead letters.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use harness::{Done, Host, Redis, Running, Server, Setup, command, eventually};
use serde_json::Value;

const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out"]
retry = { attempts = 2, first = "20ms" }
"#;

/// Two handlers on one stream; what each emits says which it was.
const TWO: &str = r#"
[handler.a]
plugin = "probe.wasm"
stream = "in"
outputs = ["out"]
env = { NAME = "a" }

[handler.b]
plugin = "probe.wasm"
stream = "in"
outputs = ["out"]
env = { NAME = "b" }
"#;

/// Longer than any test.
const LONG: &str = "600000";

#[track_caller]
fn run(server: &Server, arguments: &[&str]) -> Done {
    with(server, PROBE, arguments)
}

#[track_caller]
fn with(server: &Server, manifest: &str, arguments: &[&str]) -> Done {
    Setup::new(server, manifest).command(arguments).finish()
}

#[track_caller]
fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

/// The objects of a JSON list.
#[track_caller]
fn list(done: &Done) -> Vec<Value> {
    done.json().as_array().unwrap().clone()
}

/// A host, and messages that wait for their second attempt for as long as each says.
fn with_waiting(server: &Server, waits: &[&str]) -> (Running, Redis, Vec<String>) {
    let mut redis = server.client();
    let host = Host::start(server, PROBE);
    let add = |wait: &&str| redis.add("in", &[("retry-after-ms", *wait), ("emit", "out")]);
    let ids = waits.iter().map(add).collect();
    let mut asking = server.client();
    eventually("all wait", || waiting(&mut asking) == waits.len());
    (host, redis, ids)
}

fn waiting(redis: &mut Redis) -> usize {
    redis.ask("ZCARD tidegate:{in}:waiting:in:h")
}

#[test]
fn pending_tells_who_has_what_and_what_waits() {
    let server = Server::start();
    let manifest = format!("[host]\nname = \"alice\"\n{PROBE}");
    let mut redis = server.client();
    let _host = Host::start(&server, &manifest);
    let waits = redis.add("in", &[("retry-after-ms", LONG)]);
    let works = redis.add("in", &[("sleep-ms", "60000")]);
    eventually("one waits", || waiting(&mut redis) == 1);
    eventually("both are pending", || redis.pending("in", "h") == 2);

    let listed = list(&run(&server, &["pending", "--json"]).expect(0));
    let told = |entry: &Value, name: &str| entry[name].as_str().unwrap_or("none").to_owned();
    assert_eq!(listed.len(), 2);
    assert_eq!((told(&listed[0], "id"), told(&listed[0], "state")), (waits, "waiting".into()));
    assert_eq!((&listed[0]["holder"], &listed[0]["failures"]), (&Value::Null, &1.into()));
    contains(&told(&listed[0], "error"), &["put off"]);
    assert!(listed[0]["due-in-ms"].as_u64().unwrap() > 500_000, "{}", listed[0]);
    assert_eq!((told(&listed[1], "id"), told(&listed[1], "state")), (works, "in hand".into()));
    assert_eq!((told(&listed[1], "holder"), &listed[1]["failures"]), ("alice".into(), &0.into()));

    let table = run(&server, &["pending", "h"]).expect(0).stdout;
    contains(&table, &["deliveries", "waiting", "in 9m", "in hand", "alice"]);
    let idle = run(&server, &["pending", "--idle", "1h"]).expect(0);
    assert_eq!((idle.stdout.as_str(), idle.stderr.as_str()), ("", "nothing is pending\n"));
    let first = run(&server, &["pending", "--json", "--limit", "1"]).expect(0);
    assert_eq!(list(&first).len(), 1);
    contains(&first.stderr, &["more than these 1", "--limit"]);
    contains(&run(&server, &["pending", "x"]).expect(2).stderr, &["no handler `x`", "`h`"]);
}

#[test]
fn pending_of_a_consumer_without_a_sign_of_life_is_left_behind() {
    let server = Server::start();
    let mut redis = server.client();
    redis.add("in", &[("a", "b")]);
    redis.tell("XGROUP CREATE in h 0");
    redis.tell("XREADGROUP GROUP h ghost COUNT 1 STREAMS in >");
    let listed = list(&run(&server, &["pending", "--json"]).expect(0));
    assert_eq!(
        (&listed[0]["state"], &listed[0]["holder"]),
        (&"left behind".into(), &"ghost".into())
    );
}

#[test]
fn retries_are_listed_the_soonest_first_and_status_tells_the_first() {
    let server = Server::start();
    let (_host, _, ids) = with_waiting(&server, &[LONG, "300000"]);
    let listed = list(&run(&server, &["retries", "list", "--json"]).expect(0));
    let order: Vec<_> = listed.iter().map(|retry| retry["id"].as_str().unwrap()).collect();
    assert_eq!(order, [ids[1].as_str(), ids[0].as_str()]);
    assert_eq!(listed[0]["failures"], 1);
    let table = run(&server, &["retries", "list", "--limit", "1"]).expect(0);
    contains(&table.stdout, &["next try", "in 4m", &ids[1]]);
    assert!(!table.stdout.contains(&ids[0]), "{}", table.stdout);
    contains(&table.stderr, &["there are more"]);
    let status = run(&server, &["status", "--json"]).expect(0).json();
    let next = status["handlers"][0]["next-retry-ms"].as_u64().unwrap();
    assert!((200_000..=300_000).contains(&next), "{next}");
    contains(&run(&server, &["status"]).expect(0).stdout, &["next try", "in 4m"]);
}

#[test]
fn a_released_retry_is_tried_soon_as_the_attempt_that_it_is() {
    let server = Server::start();
    let (_host, mut redis, ids) = with_waiting(&server, &[LONG, LONG, LONG]);
    let done = run(&server, &["retries", "release", &ids[1]]).expect(0);
    contains(&done.stderr, &["released 1 retry"]);
    let out = redis.wait_first("out");
    assert_eq!((out.get("id"), out.get("attempt")), (ids[1].clone(), "2".into()));
    let again = run(&server, &["retries", "release", &ids[1]]).expect(1);
    contains(&again.stderr, &[&ids[1], "no retry of this id waits"]);
    run(&server, &["retries", "release"]).expect(2);
    let all = run(&server, &["retries", "release", "--all", "--json"]).expect(0).json();
    assert_eq!(all["done"], 2);
    redis.wait_for(3, "out");
    redis.wait_settled("in", "h");
    contains(&run(&server, &["retries", "release", "--all"]).expect(1).stderr, &["no retry waits"]);
}

#[test]
fn a_retry_buried_by_hand_keeps_its_fields_and_its_attempts() {
    let server = Server::start();
    let (_host, mut redis, ids) = with_waiting(&server, &[LONG, LONG]);
    let arguments = ["retries", "bury", &ids[0], "--because", "the customer left"];
    run(&server, &arguments).expect(0);
    let letter = redis.wait_first("{in}:dead");
    assert_eq!(letter.names()[..2], ["retry-after-ms", "emit"]);
    let told = ["id", "reason", "attempts"].map(|name| letter.get(&format!("tidegate.{name}")));
    assert_eq!(told, [ids[0].as_str(), "retries", "1"]);
    let error = letter.get("tidegate.error");
    contains(&error, &["buried by hand: the customer left; last error: "]);
    assert_eq!((redis.pending("in", "h"), waiting(&mut redis)), (1, 1));
    run(&server, &["dead", "redrive", "--all"]).expect(0);
    assert_eq!(redis.entries("in")[2].fields, redis.entries("in")[0].fields);
}

#[test]
fn an_id_that_waits_for_two_handlers_is_steered_by_name_only() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, TWO);
    let id = redis.add("in", &[("retry-after-ms", LONG), ("env", "NAME"), ("emit", "out")]);
    for handler in ["a", "b"] {
        let waiting = format!("ZCARD tidegate:{{in}}:waiting:in:{handler}");
        eventually("it waits for both", || redis.ask::<usize>(&waiting) == 1);
    }
    let done = with(&server, TWO, &["retries", "release", &id]).expect(2);
    contains(&done.stderr, &["`a`", "`b`", "--handler"]);
    with(&server, TWO, &["retries", "release", &id, "--handler", "b"]).expect(0);
    assert_eq!(redis.wait_first("out").get("env"), "b");
    assert_eq!(redis.pending("in", "a"), 1);
}

#[test]
fn a_burial_by_hand_and_a_host_never_both_have_a_message() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, PROBE);
    let ids = redis.add_many(300, "in", &[("retry-after-ms", "100"), ("emit", "out")]);
    eventually("they are on their way", || waiting(&mut redis) + redis.length("out") > 200);
    let mut arguments = vec!["retries", "bury"];
    arguments.extend(ids.iter().map(String::as_str));
    run(&server, &arguments);
    redis.wait_settled("in", "h");
    let mut ended = redis.column("out", "id");
    ended.extend(redis.column("{in}:dead", "tidegate.id"));
    ended.sort();
    let mut expected = ids;
    expected.sort();
    assert_eq!(ended, expected);
}

/// Letters on `{in}:dead`, one for each error, in this order.
fn buried(server: &Server, errors: &[&str]) -> Redis {
    let mut redis = server.client();
    let _host = Host::start(server, PROBE);
    for (number, error) in errors.iter().enumerate() {
        redis.add("in", &[("reject", *error)]);
        redis.wait_for(number + 1, "{in}:dead");
    }
    redis.wait_settled("in", "h");
    redis
}

#[test]
fn dead_letters_are_counted_by_handler_and_reason() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = format!("{PROBE}timeout = \"50ms\"");
    let _host = Host::start(&server, &manifest);
    redis.add_many(3, "in", &[("reject", "no")]);
    redis.add("in", &[("loop", "")]);
    redis.wait_for(4, "{in}:dead");
    let counted = list(&run(&server, &["dead", "count", "--json"]).expect(0));
    let kinds: Vec<_> = counted
        .iter()
        .map(|row| {
            (row["handler"].as_str().unwrap(), row["reason"].as_str().unwrap(), &row["letters"])
        })
        .collect();
    assert_eq!(kinds, [("h", "reject", &3.into()), ("h", "timeout", &1.into())]);
    let time = counted[0]["oldest"].as_str().unwrap();
    assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
    let table = run(&server, &["dead", "count", "--reason", "timeout"]).expect(0).stdout;
    contains(&table, &["handler", "oldest", "timeout"]);
    assert!(!table.contains("reject"), "{table}");
    let none = run(&server, &["dead", "count", "--since", "2100-01-01"]).expect(0);
    contains(&none.stderr, &["no dead letters"]);
}

#[test]
fn dead_letters_are_chosen_by_time_and_by_what_their_errors_say() {
    let server = Server::start();
    let mut redis = buried(&server, &["no stock", "no price", "no stock"]);
    let ids: Vec<_> = redis.entries("{in}:dead").into_iter().map(|letter| letter.id).collect();
    let chosen = |filter: &[&str]| {
        let arguments = [&["dead", "list", "--json"], filter].concat();
        let listed = list(&run(&server, &arguments).expect(0));
        listed.iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(chosen(&["--since", &ids[1]]), ids[1..]);
    assert_eq!(chosen(&["--until", &ids[1]]), ids[..2]);
    assert_eq!(chosen(&["--since", &ids[1], "--until", &ids[1]]), ids[1..2]);
    assert_eq!(chosen(&["--since", "1h"]), ids);
    assert!(chosen(&["--until", "1h"]).is_empty());
    assert_eq!(chosen(&["--matching", "price"]), ids[1..2]);
    run(&server, &["dead", "redrive", "--all", "--matching", "stock", "--until", &ids[1]])
        .expect(0);
    let left: Vec<_> = redis.entries("{in}:dead").into_iter().map(|letter| letter.id).collect();
    assert_eq!(left, ids[1..]);
    contains(&run(&server, &["dead", "list", "--since", "soon"]).expect(2).stderr, &["30m"]);
}

#[test]
fn a_redrive_that_moves_nothing_says_why() {
    let server = Server::start();
    let redrive = ["dead", "redrive", "--all"];
    let nothing = run(&server, &redrive).expect(1);
    contains(&nothing.stderr, &["nothing moved", "no dead letter is on `{in}:dead`"]);
    let _redis = buried(&server, &["no", "no"]);
    let nothing = run(&server, &[&redrive[..], &["--reason", "trap"]].concat()).expect(1);
    contains(
        &nothing.stderr,
        &["nothing moved: none of the 2 dead letters on `{in}:dead` matches"],
    );
}

#[test]
fn a_rehearsed_redrive_moves_nothing() {
    let server = Server::start();
    let mut redis = buried(&server, &["no", "no"]);
    let arguments = ["dead", "redrive", "--all", "--dry-run", "--json"];
    let done = run(&server, &arguments).expect(0);
    let lines: Vec<Value> =
        done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["stream"]), (2, &"in".into()));
    contains(&done.stderr, &["would move 2 messages to `in`"]);
    assert_eq!((redis.length("{in}:dead"), redis.length("in")), (2, 2));
}

#[test]
fn a_redrive_keeps_to_its_rate_and_to_its_limit() {
    let server = Server::start();
    let mut redis = buried(&server, &["no"; 10]);
    let began = Instant::now();
    let arguments = ["dead", "redrive", "--all", "--limit", "8", "--rate", "10/s"];
    run(&server, &arguments).expect(0);
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    assert_eq!((redis.length("{in}:dead"), redis.length("in")), (2, 18));
    let added: Vec<u64> = redis.entries("in")[10..].iter().map(|entry| entry.millis()).collect();
    let gaps: Vec<u64> = added.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| *gap >= 90), "spread out evenly: {gaps:?}");
}

#[test]
fn a_redrive_that_is_stopped_says_how_many_moved() {
    let server = Server::start();
    let mut redis = buried(&server, &["no"; 5]);
    let setup = Setup::new(&server, PROBE);
    let setup = setup.command(&["dead", "redrive", "--all", "--rate", "1/h"]);
    let mut redrive = setup.start();
    eventually("the first moved", || redis.length("in") == 6);
    redrive.signal("INT");
    assert_eq!(redrive.wait().code(), Some(1));
    contains(&redrive.log(), &["moved 1 message to `in`", "stopped before the end"]);
    assert_eq!((redis.length("{in}:dead"), redis.length("in")), (4, 6));
}

/// A group in which so many entries wait.
fn many_waiting(server: &Server, count: usize) -> Redis {
    let mut redis = server.client();
    redis.add_many(count, "in", &[("emit", "out")]);
    redis.tell("XGROUP CREATE in h 0");
    redis.tell(&format!("XREADGROUP GROUP h tidegate:waiting COUNT {count} STREAMS in >"));
    redis.eval(
        "local due = redis.call('TIME')[1] * 1000 + 600000 \
         for at, row in ipairs(redis.call('XRANGE', 'in', '-', '+')) do \
         redis.call('ZADD', 'tidegate:{in}:waiting:in:h', due + at, row[1]) end",
    );
    redis
}

#[test]
fn thousands_are_listed_whole_and_released_whole() {
    const MANY: usize = 20_000;
    let server = Server::start();
    let mut redis = many_waiting(&server, MANY);
    let limit = MANY.to_string();
    for place in [&["pending"][..], &["retries", "list"]] {
        let arguments = [place, &["--json", "--limit", &limit]].concat();
        let done = run(&server, &arguments).expect(0);
        assert_eq!(list(&done).len(), MANY);
        assert_eq!(done.stderr, "", "there are no more than these");
    }
    let released = run(&server, &["retries", "release", "--all"]).expect(0);
    contains(&released.stderr, &[&format!("released {MANY} retries")]);
    let (now, _): (u64, u64) = redis.ask("TIME");
    let due = format!("ZCOUNT tidegate:{{in}}:waiting:in:h -inf {}", (now + 1) * 1000);
    assert_eq!(redis.ask::<usize>(&due), MANY);
}

#[test]
fn a_reader_who_has_seen_enough_ends_a_list_in_good_order() {
    let server = Server::start();
    let _redis = many_waiting(&server, 20_000);
    let setup = Setup::new(&server, PROBE);
    let mut listing = command()
        .args(["pending", "--limit", "20000"])
        .current_dir(setup.folder())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(listing.stdout.take().unwrap()).read_line(&mut line).unwrap();
    contains(&line, &["id", "handler", "state"]);
    assert_eq!(listing.wait().unwrap().code(), Some(0));
}
