//! What an operator hands to a handler again, and handlers of more streams than one, or of none.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use harness::{Done, Host, Redis, Running, Server, Setup, eventually};
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

/// A stream that both handlers have settled.
fn handled_by_two(server: &Server) -> (Running, Redis, Vec<String>) {
    let mut redis = server.client();
    let host = Host::start(server, TWO);
    let ids = redis.add_many(5, "in", &[("env", "NAME"), ("emit", "out")]);
    redis.wait_for(10, "out");
    redis.wait_settled("in", "a");
    redis.wait_settled("in", "b");
    redis.tell("DEL out");
    (host, redis, ids)
}

#[test]
fn a_replay_reaches_the_handler_that_it_names_and_no_other() {
    let server = Server::start();
    let (_host, mut redis, ids) = handled_by_two(&server);
    let arguments = ["replay", "a", "--from", &ids[1], "--to", &ids[3], "--yes"];
    let done = with(&server, TWO, &arguments).expect(0);
    contains(&done.stderr, &["replaying 3 messages of `in` to `a`"]);
    redis.wait_for(3, "out");
    redis.wait_settled("in", "a");
    let mut again = redis.column("out", "id");
    again.sort();
    assert_eq!(again, ids[1..4]);
    assert_eq!(redis.column("out", "env"), ["a"; 3]);
    assert_eq!(redis.column("out", "attempt"), ["1"; 3]);
    assert_eq!(redis.length("in"), 5, "nothing is added to the stream");
}

#[test]
fn a_replay_that_nobody_said_yes_to_only_counts() {
    let server = Server::start();
    let (_host, mut redis, _) = handled_by_two(&server);
    let asked = with(&server, TWO, &["replay", "a", "--from", "1h"]).expect(2);
    contains(&asked.stderr, &["would hand 5 messages of `in` to `a` again", "--yes"]);
    let arguments = ["replay", "a", "--from", "0", "--dry-run", "--limit", "2", "--json"];
    let counted = with(&server, TWO, &arguments).expect(0).json();
    assert_eq!((&counted["to-replay"], &counted["replayed"]), (&2.into(), &0.into()));
    assert_eq!((redis.pending("in", "a"), redis.length("out")), (0, 0));
    with(&server, TWO, &["replay", "a"]).expect(2);
    let later = with(&server, TWO, &["replay", "a", "--from", "2100-01-01", "--yes"]).expect(1);
    contains(&later.stderr, &["nothing to replay"]);
}

#[test]
fn a_replay_leaves_alone_what_is_pending_or_unread() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = redis.add_many(6, "in", &[("emit", "out")]);
    let none = run(&server, &["replay", "h", "--from", "0", "--yes"]).expect(1);
    contains(&none.stderr, &["no group `h`"]);
    redis.tell("XGROUP CREATE in h 0");
    redis.tell("XREADGROUP GROUP h ghost COUNT 3 STREAMS in >");
    redis.tell(&format!("XACK in h {}", ids[1]));
    let arguments = ["replay", "h", "--from", "0", "--yes", "--json"];
    let done = run(&server, &arguments).expect(0);
    let told = done.json();
    assert_eq!([&told["replayed"], &told["pending"], &told["unread"]], [1, 2, 3]);
    contains(&done.stderr, &["2 messages pending", "3 messages not read yet"]);
    let _host = Host::start(&server, PROBE);
    eventually("all that nobody else holds is handled", || redis.length("out") >= 4);
    let handled = redis.column("out", "id");
    assert_eq!(handled.iter().filter(|id| **id == ids[1]).count(), 1);
}

#[test]
fn a_replay_that_is_stopped_or_at_its_limit_says_where_to_go_on() {
    let server = Server::start();
    let mut redis = server.client();
    redis.tell("XGROUP CREATE in h 0 MKSTREAM");
    for id in ["5-1", "6-1", "7-1", "8-1"] {
        redis.tell(&format!("XADD in {id} a b"));
    }
    redis.tell("XREADGROUP GROUP h ghost STREAMS in >");
    redis.tell("XACK in h 5-1 6-1 7-1 8-1");
    let limited = run(&server, &["replay", "h", "--from", "0", "--limit", "2", "--yes"]).expect(0);
    contains(&limited.stderr, &["replaying 2 messages", "at 6-1; --from 6-2 goes on"]);
    let arguments = ["replay", "h", "--from", "6-2", "--rate", "1/h", "--yes"];
    let setup = Setup::new(&server, PROBE).command(&arguments);
    let mut replay = setup.start();
    eventually("the next is replayed", || redis.pending("in", "h") == 3);
    replay.signal("INT");
    assert_eq!(replay.wait().code(), Some(1));
    contains(&replay.log(), &["stopped after 1 message, at 7-1; --from 7-2 goes on"]);
    assert_eq!(redis.pending("in", "h"), 3);
}

#[test]
fn a_replay_tells_ids_apart_that_have_more_digits_than_a_double() {
    let server = Server::start();
    let mut redis = server.client();
    redis.tell("XGROUP CREATE in h 0 MKSTREAM");
    for id in ["99-1", "100-1", "9007199254740992-5", "9007199254740993-1"] {
        redis.tell(&format!("XADD in {id} a b"));
    }
    redis.tell("XREADGROUP GROUP h ghost COUNT 3 STREAMS in >");
    redis.tell("XACK in h 99-1 100-1 9007199254740992-5");
    let arguments = ["replay", "h", "--from", "0", "--dry-run", "--json"];
    let told = run(&server, &arguments).expect(0).json();
    assert_eq!([&told["to-replay"], &told["pending"], &told["unread"]], [3, 0, 1]);
    let arguments = ["replay", "h", "--from", "99-2", "--to", "100", "--dry-run", "--json"];
    assert_eq!(run(&server, &arguments).expect(0).json()["to-replay"], 1);
}

#[test]
fn a_replay_of_what_was_trimmed_says_where_the_stream_begins() {
    let server = Server::start();
    let (_host, mut redis, ids) = handled_by_two(&server);
    redis.tell("XTRIM in MAXLEN = 2");
    let done = with(&server, TWO, &["replay", "b", "--from", &ids[0], "--yes"]).expect(0);
    contains(&done.stderr, &[&format!("`in` begins at {}", ids[3]), "replaying 2 messages"]);
    redis.wait_for(2, "out");
}

#[test]
fn a_handler_on_shards_is_seen_and_steered_on_each() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = format!("{PROBE}order-by = \"key\"\nshards = 2\n");
    for shard in ["in:{0}", "in:{1}"] {
        redis.add(shard, &[("emit", "out")]);
        redis.tell(&format!("XGROUP CREATE {shard} h 0"));
        redis.tell(&format!("XREADGROUP GROUP h ghost COUNT 1 STREAMS {shard} >"));
    }
    let listed = list(&with(&server, &manifest, &["pending", "--json"]).expect(0));
    let streams: Vec<_> = listed.iter().map(|entry| entry["stream"].as_str().unwrap()).collect();
    assert_eq!(streams, ["in:{0}", "in:{1}"]);
    let status = with(&server, &manifest, &["status", "--json"]).expect(0).json();
    assert_eq!(status["handlers"][1]["stream"], "in:{1}");
    assert_eq!(status["handlers"][1]["pending"], 1);
    for (shard, entry) in ["in:{0}", "in:{1}"].iter().zip(&listed) {
        redis.tell(&format!("XACK {shard} h {}", entry["id"].as_str().unwrap()));
    }
    let arguments = ["replay", "h", "--from", "0", "--yes", "--json"];
    let told = with(&server, &manifest, &arguments).expect(0).json();
    assert_eq!(told["replayed"], 2);
    let retries = ["retries", "list", "--json"];
    assert_eq!(list(&with(&server, &manifest, &retries).expect(0)).len(), 2);
    let one = [&retries[..], &["--stream", "in:{1}"]].concat();
    assert_eq!(list(&with(&server, &manifest, &one).expect(0)).len(), 1);
}

#[test]
fn an_id_that_two_shards_gave_is_steered_by_stream_only() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = format!("{PROBE}order-by = \"key\"\nshards = 2\n");
    for shard in ["in:{0}", "in:{1}"] {
        redis.tell(&format!("XADD {shard} 5-1 n {shard}"));
        redis.tell(&format!("XGROUP CREATE {shard} h 0"));
        redis.tell(&format!("XREADGROUP GROUP h tidegate:waiting STREAMS {shard} >"));
    }
    let done = with(&server, &manifest, &["retries", "bury", "5-1"]).expect(2);
    contains(&done.stderr, &["`in:{0}`", "`in:{1}`", "--stream"]);
    with(&server, &manifest, &["retries", "bury", "5-1", "--stream", "in:{1}"]).expect(0);
    assert_eq!(redis.wait_first("in:{1}:dead").get("n"), "in:{1}");
    assert_eq!((redis.pending("in:{0}", "h"), redis.pending("in:{1}", "h")), (1, 0));
}

#[test]
fn what_waits_for_several_hosts_of_a_broadcast_is_released_for_each() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = format!("{PROBE}delivery = \"broadcast\"\n");
    redis.tell("XADD in 5-1 a b");
    for group in ["h:alice", "h:bob", "other"] {
        redis.tell(&format!("XGROUP CREATE in {group} 0"));
        redis.tell(&format!("XREADGROUP GROUP {group} tidegate:waiting STREAMS in >"));
    }
    let listed = list(&with(&server, &manifest, &["pending", "--json"]).expect(0));
    let groups: Vec<_> = listed.iter().map(|entry| entry["group"].as_str().unwrap()).collect();
    assert_eq!(groups, ["h:alice", "h:bob"]);
    with(&server, &manifest, &["retries", "release", "5-1"]).expect(0);
    for host in ["alice", "bob"] {
        let waiting = format!("ZCARD tidegate:{{in}}:waiting:in:h:{host}");
        assert_eq!(redis.ask::<usize>(&waiting), 1);
    }
}

#[test]
fn a_handler_on_a_channel_has_nothing_and_it_is_said() {
    let server = Server::start();
    let channel = "[handler.c]\nplugin = \"probe.wasm\"\nchannel = \"news\"\n";
    let manifest = format!("{PROBE}\n{channel}");
    for arguments in [&["pending"][..], &["retries", "list"], &["status"]] {
        with(&server, &manifest, arguments).expect(0);
    }
    let done = with(&server, &manifest, &["pending"]).expect(0);
    contains(&done.stderr, &["`c`: on a channel, which keeps nothing"]);
    for arguments in [&["pending", "c"][..], &["replay", "c", "--from", "0"]] {
        contains(&with(&server, &manifest, arguments).expect(2).stderr, &["`c`: on a channel"]);
    }
}

#[test]
fn one_stream_of_another_type_does_not_keep_status_from_telling_of_the_others() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = format!(
        "{PROBE}\n{}",
        PROBE.replace("handler.h", "handler.i").replace("\"in\"", "\"odd\"")
    );
    redis.tell("XGROUP CREATE in h 0 MKSTREAM");
    redis.tell("SET odd no-stream");
    let told = with(&server, &manifest, &["status"]).expect(0).stdout;
    assert!(told.contains("i (a key is of another type)"), "{told}");
    let told = with(&server, &manifest, &["status", "--json"]).expect(0).json();
    assert_eq!(told["handlers"][0]["group-exists"], true, "{told}");
    assert!(told["handlers"][1]["trouble"].as_str().unwrap().contains("odd"), "{told}");
}
