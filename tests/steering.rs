//! What an operator sees and steers on a bad day: while hosts die, keys are of another type, and commands are cut off.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::collections::BTreeSet;

use harness::{Done, Host, Options, Redis, Server, Setup, eventually};
use serde_json::Value;

const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out"]
retry = { attempts = 2, first = "20ms" }
"#;

/// A second handler, on a stream of its own.
const ODD: &str = "[handler.a-odd]\nplugin = \"probe.wasm\"\nstream = \"odd\"\n";

#[track_caller]
fn run(server: &Server, arguments: &[&str]) -> Done {
    Setup::new(server, PROBE).command(arguments).finish()
}

#[track_caller]
fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

/// So many dead letters, as a burial writes them; each has binary fields, one name twice.
fn letters(redis: &mut Redis, count: usize) {
    let count = count.to_string();
    let script = r"
        for i = 1, ARGV[1] do
          redis.call('XADD', KEYS[1], '*', 'a\255', '1', 'a\255', '\0\n', 'number', i,
            'tidegate.source', 'in', 'tidegate.id', '5-' .. i, 'tidegate.group', 'h',
            'tidegate.handler', 'h', 'tidegate.plugin', 'p', 'tidegate.attempts', '2',
            'tidegate.reason', 'reject', 'tidegate.error', 'no', 'tidegate.time', '2026-11-21T00:00:00.000Z')
        end";
    redis.run::<redis::Value>(script, &["{in}:dead"], &[&count]);
}

/// Entries that the group has handled, as far as Redis knows.
fn settled(redis: &mut Redis, count: usize) {
    redis.add_many(count, "in", &[("a", "b")]);
    redis.tell("XGROUP CREATE in h $");
}

fn waiting(redis: &mut Redis) -> usize {
    redis.ask("ZCARD tidegate:{in}:waiting:in:h")
}

#[test]
fn a_key_of_another_type_is_named_and_hides_nothing_of_the_others() {
    let server = Server::start();
    let mut redis = server.client();
    redis.add("in", &[("a", "b")]);
    redis.tell("XGROUP CREATE in h 0");
    redis.tell("XREADGROUP GROUP h ghost COUNT 1 STREAMS in >");
    letters(&mut redis, 1);
    redis.tell("SET odd no-stream");
    redis.tell("SET {odd}:dead no-stream");
    let manifest = format!("{ODD}{PROBE}");
    let run = |arguments: &[&str]| Setup::new(&server, &manifest).command(arguments).finish();
    for (arguments, key) in [
        (&["pending", "--json"][..], "odd"),
        (&["dead", "list", "--json"], "{odd}:dead"),
        (&["dead", "count", "--json"], "{odd}:dead"),
    ] {
        let done = run(arguments).expect(1);
        assert_eq!(done.json().as_array().unwrap().len(), 1, "{arguments:?}: {}", done.stdout);
        contains(&done.stderr, &[&format!("`{key}`"), "WRONGTYPE", "of another type"]);
    }
    let done = run(&["dead", "redrive", "--all"]).expect(1);
    contains(&done.stderr, &["moved 1 message to `in`", "{odd}:dead"]);
    contains(&run(&["retries", "release", "--all"]).expect(1).stderr, &["stream `odd`"]);
}

#[test]
fn large_dead_letters_are_read_a_few_at_a_time() {
    // A reply that is larger ends the connection.
    let lines = vec!["client-output-buffer-limit normal 40mb 0 0".to_owned()];
    let server = Server::with(Options { lines, ..Options::default() });
    let mut redis = server.client();
    let script = r"
        local body = string.rep('x', 1000000)
        for i = 1, 120 do
          redis.call('XADD', KEYS[1], '*', 'body', body, 'tidegate.source', 'in', 'tidegate.id', '5-1',
            'tidegate.group', 'h', 'tidegate.handler', 'h', 'tidegate.plugin', 'p', 'tidegate.attempts', '1',
            'tidegate.reason', 'reject', 'tidegate.error', 'no', 'tidegate.time', '2026-11-21T00:00:00.000Z')
        end";
    redis.run::<redis::Value>(script, &["{in}:dead"], &[]);
    let counted = run(&server, &["dead", "count", "--json"]).expect(0).json();
    assert_eq!(counted[0]["letters"], 120);
    run(&server, &["dead", "redrive", "--all", "--quiet"]).expect(0);
    assert_eq!((redis.length("in"), redis.length("{in}:dead")), (120, 0));
}

#[test]
fn redrives_that_race_are_killed_or_are_cut_off_lose_and_double_nothing() {
    const MANY: usize = 8000;
    let server = Server::start();
    let mut redis = server.client();
    letters(&mut redis, MANY);
    for part in 1..4 {
        let redrive = Setup::new(&server, PROBE).command(&["dead", "redrive", "--all"]);
        let (mut one, mut other) = (redrive.start(), redrive.start());
        eventually("some moved", || redis.length("in") > MANY / 8 * part);
        one.kill();
        redis.kill_others();
        other.wait();
    }
    let done = run(&server, &["dead", "redrive", "--all", "--quiet"]);
    assert!(done.status.success() || done.stderr.contains("nothing moved"), "{}", done.stderr);
    let moved = redis.entries("in");
    let numbers: BTreeSet<_> = moved.iter().map(|entry| entry.get("number")).collect();
    assert_eq!((moved.len(), numbers.len(), redis.length("{in}:dead")), (MANY, MANY, 0));
    let name = b"a\xff".to_vec();
    for entry in moved {
        let fields = [(name.clone(), b"1".to_vec()), (name.clone(), b"\0\n".to_vec())];
        assert_eq!(entry.fields[..2], fields);
    }
}

#[test]
fn a_replay_that_is_cut_off_says_how_far_it_came_and_goes_on_from_there() {
    let server = Server::start();
    let mut redis = server.client();
    settled(&mut redis, 100);
    let replay = ["replay", "h", "--from", "0", "--yes", "--rate", "5/s"];
    let setup = Setup::new(&server, PROBE).command(&replay);
    let mut replay = setup.start();
    eventually("some are replayed", || waiting(&mut redis) > 1);
    redis.kill_others();
    assert_eq!(replay.wait().code(), Some(1));
    let said = replay.log();
    contains(&said, &["ended after ", " messages, at ", "goes on"]);
    let next = said.split("--from ").nth(1).unwrap().split(' ').next().unwrap();
    run(&server, &["replay", "h", "--from", next, "--yes"]).expect(0);
    assert_eq!(waiting(&mut redis), 100);
}

#[test]
fn a_purge_or_a_release_that_is_stopped_says_how_far_it_came() {
    // Many pages, so that it hears of the stop before its last.
    const MANY: usize = 60_000;
    let server = Server::start();
    let mut redis = server.client();
    letters(&mut redis, MANY);
    settled(&mut redis, MANY);
    run(&server, &["replay", "h", "--from", "0", "--yes"]).expect(0);
    for (arguments, command, did) in [
        (&["dead", "purge", "--all", "--yes"][..], "cmd=xdel ", "purged "),
        (&["retries", "release", "--all"], "cmd=evalsha ", "released "),
    ] {
        let setup = Setup::new(&server, PROBE).command(arguments);
        let mut stopped = setup.start();
        eventually("it is at work", || redis.ask::<String>("CLIENT LIST").contains(command));
        redis.tell("CLIENT PAUSE 600000 WRITE");
        stopped.signal("INT");
        redis.tell("CLIENT UNPAUSE");
        assert_eq!(stopped.wait().code(), Some(1), "{}", stopped.log());
        contains(&stopped.log(), &[did, "stopped before the end"]);
    }
    let left = redis.length("{in}:dead");
    assert!(left > 0 && left < MANY, "{left} letters are left");
}

#[test]
fn what_is_handed_to_a_handler_that_is_paused_or_has_no_host_says_so() {
    let server = Server::start();
    let mut redis = server.client();
    settled(&mut redis, 2);
    run(&server, &["pause", "h"]).expect(0);
    let told = ["`h` is paused: `tidegate resume h`", "no host of `h` is alive"];
    contains(&run(&server, &["replay", "h", "--from", "0", "--yes"]).expect(0).stderr, &told);
    contains(&run(&server, &["retries", "release", "--all"]).expect(0).stderr, &told);
    run(&server, &["resume", "h"]).expect(0);
    let _host = Host::start(&server, PROBE);
    redis.wait_settled("in", "h");
    let done = run(&server, &["replay", "h", "--from", "0", "--yes"]).expect(0);
    assert!(!done.stderr.contains("paused") && !done.stderr.contains("alive"), "{}", done.stderr);
}

#[test]
fn filters_that_leave_nothing_say_whose_letters_there_are() {
    let server = Server::start();
    letters(&mut server.client(), 3);
    let none = "none of the 3 dead letters matches; there are letters of `h`";
    for command in [&["list"][..], &["count"]] {
        let done = run(&server, &[&["dead"], command, &["--handler", "g"]].concat()).expect(0);
        contains(&done.stderr, &[none]);
    }
    let done = run(&server, &["dead", "redrive", "--all", "--handler", "g"]).expect(1);
    contains(&done.stderr, &["nothing moved", "; there are letters of `h`"]);
}

#[test]
fn letters_tell_numbers_as_numbers_and_times_that_a_filter_takes() {
    let server = Server::start();
    letters(&mut server.client(), 3);
    let listed = run(&server, &["dead", "list", "--json"]).expect(0).json();
    assert_eq!(listed[0]["attempts"], 2);
    let counted = run(&server, &["dead", "count", "--json"]).expect(0).json();
    let time = |name: &str| counted[0][name].as_str().unwrap().to_owned();
    let (oldest, newest) = (time("oldest"), time("newest"));
    let between = ["dead", "list", "--json", "--since", &oldest, "--until", &newest];
    assert_eq!(run(&server, &between).expect(0).json().as_array().map(Vec::len), Some(3));
}

#[test]
fn pending_tells_what_runs_alone_as_its_host_died() {
    let server = Server::start();
    let mut redis = server.client();
    let suspect = redis.add("in", &[("sleep-ms", "60000")]);
    let mut host = Host::start(&server, PROBE);
    eventually("it is in hand", || redis.pending("in", "h") == 1);
    host.kill();
    host.start_again();
    let suspected = || -> Value {
        let listed = run(&server, &["pending", "--json"]).expect(0).json();
        assert_eq!(listed[0]["id"], *suspect);
        listed[0]["suspected"].clone()
    };
    eventually("it is suspected", || suspected() == true);
    contains(&run(&server, &["pending"]).expect(0).stdout, &["suspected"]);
}

#[test]
fn status_tells_of_an_open_circuit_and_of_what_redis_refused() {
    let server = Server::start();
    let mut redis = server.client();
    let circuit = "circuit = { failures = 3, pause = \"10m\" }\n";
    let manifest = format!("{PROBE}{circuit}");
    let _host = Host::start(&server, &manifest);
    let status = || Setup::new(&server, &manifest).command(&["status"]).finish().stdout;
    eventually("it reads", || redis.readers() == 1);
    redis.kill_others();
    eventually("the trouble is told", || status().contains("unreachable ("));
    redis.add_many(5, "in", &[("retry", "down")]);
    eventually("the circuit is told", || status().contains("circuit open: everything failed"));
}

#[test]
fn status_that_is_watched_comes_back_with_redis() {
    let mut server = Server::start();
    let setup = Setup::new(&server, PROBE).command(&["status", "--watch", "--json"]);
    let mut watch = setup.start();
    let lines = |watch: &Host| watch.output().lines().count();
    eventually("it looks", || lines(&watch) > 0);
    server.kill();
    eventually("it says what is wrong", || watch.log().contains("cannot"));
    let before = lines(&watch);
    server.begin();
    eventually("it looks again", || lines(&watch) > before);
    assert!(watch.is_running());
}
