//! Entries that are to appear later: not before their time, soon after it, once, whatever dies in between.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::collections::HashSet;

use harness::{Done, Host, Redis, Server, Setup, eventually};

/// A handler that does what its messages tell it.
const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out*"]
retry = { attempts = 2, first = "20ms" }
"#;

/// A handler that has nothing to do with what is delayed.
const IDLE: &str = "[handler.idle]\nplugin = \"probe.wasm\"\nstream = \"other\"\n";

/// So much later than asked for is soon on a machine that is busy with other tests.
const SOON_MS: u64 = 3_000;

fn named(name: &str, rest: &str) -> String {
    format!("[host]\nname = \"{name}\"\n{rest}")
}

fn delayed_key(stream: &str) -> String {
    format!("tidegate:{{{stream}}}:delayed:{stream}")
}

/// How many entries wait for a stream.
fn delayed(redis: &mut Redis, stream: &str) -> usize {
    redis.ask(&format!("ZCARD {}", delayed_key(stream)))
}

/// Publishes with a delay; gives the time in milliseconds at which each message is due.
#[track_caller]
fn publish_later(server: &Server, stream: &str, delay: &str, message: &[&str]) -> Vec<u64> {
    let url = server.url();
    let arguments = [&["publish", stream, "--delay", delay, "--redis", &url], message].concat();
    let done = Setup::alone("").command(&arguments).finish().expect(0);
    done.stdout.lines().map(millis).collect()
}

/// A time such as `1970-01-01T00:00:01.500Z` in milliseconds.
fn millis(time: &str) -> u64 {
    let time = humantime::parse_rfc3339(time).unwrap();
    time.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

#[test]
fn delayed_outputs_come_not_before_their_time_and_soon_after() {
    let server = Server::start();
    let mut redis = server.client();
    let mut asked = Vec::new();
    for delay in (200..1400).step_by(12) {
        let delay = delay.to_string();
        let id = redis.add("in", &[("delay-ms", &*delay), ("emit", "out"), ("print", &delay)]);
        asked.push((id, delay.parse::<u64>().unwrap()));
    }
    // Acknowledged at some time between these two, by the server's clock.
    let before = now(&mut redis);
    let _host = Host::start(&server, PROBE);
    redis.wait_settled("in", "h");
    let after = now(&mut redis);
    let entries = redis.wait_for(asked.len(), "out");
    for (id, delay) in asked {
        let found: Vec<_> = entries.iter().filter(|entry| entry.get("id") == id).collect();
        assert_eq!(found.len(), 1, "{id} is there once");
        let at = found[0].millis();
        assert!(at >= before + delay, "{id} came {} ms early", before + delay - at);
        assert!(at <= after + delay + SOON_MS, "{id} came {} ms late", at - after - delay);
    }
    assert_eq!(delayed(&mut redis, "out"), 0);
}

fn now(redis: &mut Redis) -> u64 {
    let (seconds, micros): (u64, u64) = redis.ask("TIME");
    seconds * 1000 + micros / 1000
}

#[test]
fn a_delayed_output_is_written_with_the_acknowledgement_and_survives_its_host() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, PROBE);
    let ids = redis.add_many(50, "in", &[("delay-ms", "1200"), ("emit", "out")]);
    redis.wait_settled("in", "h");
    assert_eq!((delayed(&mut redis, "out"), redis.length("out")), (50, 0), "all of them wait");
    host.kill();
    host.start_again();
    redis.wait_for(50, "out");
    assert_eq!(redis.length("out"), 50);
    let landed: HashSet<_> = redis.column("out", "id").into_iter().collect();
    assert_eq!(landed, ids.into_iter().collect(), "each of them once");
    assert_eq!(delayed(&mut redis, "out"), 0);
}

/// What hosts hold.
fn held(redis: &mut Redis) -> HashSet<String> {
    let ours = redis.holders("in", "h").into_iter().filter(|(name, _)| name != "tidegate:waiting");
    ours.map(|(_, id)| id).collect()
}

#[test]
fn hosts_that_are_killed_again_and_again_lose_and_double_no_delayed_entry() {
    let server = Server::start();
    let mut redis = server.client();
    let work = [("delay-ms", "300"), ("emit", "out"), ("delay-ms", "350"), ("emit", "out2")];
    let ids: HashSet<String> = redis.add_many(3000, "in", &work).into_iter().collect();
    let mut host = Host::start(&server, &format!("{PROBE}concurrency = 8"));
    let mut in_flight = HashSet::new();
    for at in [300, 1000, 1800] {
        // What was in flight at a death runs alone next; a second death then would bury it.
        eventually("entries appear, and the last death is over", || {
            redis.length("out") >= at && in_flight.is_disjoint(&held(&mut redis))
        });
        host.kill();
        in_flight = held(&mut redis);
        host.start_again();
    }
    redis.wait_settled("in", "h");
    for stream in ["out", "out2"] {
        eventually("nothing waits", || delayed(&mut redis, stream) == 0);
        let landed = redis.column(stream, "id");
        assert_eq!(landed.len(), ids.len(), "on `{stream}`");
        assert_eq!(landed.into_iter().collect::<HashSet<_>>(), ids, "on `{stream}`");
    }
}

#[test]
fn several_hosts_move_delayed_entries_and_none_comes_twice() {
    let server = Server::start();
    let mut redis = server.client();
    let url = server.url();
    let lines: String = (0..2000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let arguments = ["publish", "out", "--delay", "1500ms", "--file", "lines", "--redis", &url];
    let setup = Setup::alone("").file("lines", lines).command(&arguments);
    let _hosts: Vec<_> =
        ["a", "b", "c"].map(|name| Host::start(&server, &named(name, IDLE))).into();
    let done = setup.finish().expect(0);
    assert!(done.stderr.contains("delayed 2000 messages for `out` by 1s 500ms"), "{}", done.stderr);
    let due: Vec<u64> = done.stdout.lines().map(millis).collect();
    assert_eq!(due.len(), 2000);
    let entries = redis.wait_for(2000, "out");
    let expected: Vec<_> = (0..2000).map(|n| n.to_string()).collect();
    assert_eq!(redis.column("out", "n"), expected, "each once, in the order of the lines");
    for (entry, due) in entries.iter().zip(due) {
        assert!(entry.millis() >= due, "{entry} came before {due}");
        assert!(entry.millis() <= due + SOON_MS, "{entry} came long after {due}");
    }
}

/// Waits until a host looks through the list of streams with delayed entries.
fn wait_for_a_look(redis: &mut Redis) {
    redis.tell("CONFIG SET slowlog-log-slower-than 0");
    redis.tell("SLOWLOG RESET");
    eventually("a host looks", || {
        let commands: Vec<redis::Value> = redis.ask("SLOWLOG GET 128");
        let mut told = commands.iter().map(|command| format!("{command:?}"));
        told.any(|told| told.contains("\"ZRANGE\"") && told.contains("{delayed}:streams"))
    });
}

#[test]
fn a_short_delay_that_another_process_asks_for_is_not_overslept() {
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, IDLE);
    eventually("it is ready", || host.log().contains("ready"));
    let mut lateness = Vec::new();
    for round in 0..3 {
        let stream = format!("out{round}");
        // As if nothing had ever been delayed; and the host has only just looked through the list.
        redis.tell("DEL tidegate:{delayed}:streams");
        wait_for_a_look(&mut redis);
        wait_for_a_look(&mut redis);
        let due = publish_later(&server, &stream, "20ms", &["a=1"])[0];
        lateness.push(redis.wait_first(&stream).millis() - due);
    }
    // On a machine that is busy with other tests, one of them at least.
    assert!(lateness.iter().any(|late| *late < 400), "{lateness:?} ms late");
}

#[test]
fn fields_of_any_bytes_keep_their_order_and_repetition() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, IDLE);
    let data: Vec<u8> = (0..=255).collect();
    let work: [(&str, &[u8]); 3] = [("delay-ms", b"100"), ("emit", b"out"), ("data", &data)];
    let _probe = Host::start(&server, PROBE);
    redis.add("in", &work);
    let entry = redis.wait_first("out");
    assert_eq!(entry.fields[0], (b"data".to_vec(), data));
    publish_later(&server, "twice", "50ms", &["b=1", "a=x=y", "b=", "b=1"]);
    let entry = redis.wait_first("twice");
    assert_eq!(entry.to_string(), format!("{} b=1 a=x=y b= b=1", entry.id));
}

#[test]
fn entries_that_are_due_at_the_same_time_keep_their_order() {
    let server = Server::start();
    let mut redis = server.client();
    let url = server.url();
    let lines: String = (0..1500).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let publish = ["publish", "out", "-q", "--delay", "1day", "--file", "lines", "--redis", &url];
    Setup::alone("").file("lines", lines).command(&publish).finish().expect(0);
    // One time for all of them, which has come.
    let key = delayed_key("out");
    redis.eval(&format!(
        "for _, m in ipairs(redis.call('ZRANGE', '{key}', 0, -1)) do redis.call('ZADD', '{key}', 7, m) end"
    ));
    let _host = Host::start(&server, IDLE);
    redis.wait_for(1500, "out");
    let expected: Vec<_> = (0..1500).map(|n| n.to_string()).collect();
    assert_eq!(redis.column("out", "n"), expected);
}

#[test]
fn a_stream_that_cannot_take_its_entries_holds_up_no_other_and_gets_them_when_it_can() {
    let server = Server::start();
    let mut redis = server.client();
    redis.tell("SET bad x");
    publish_later(&server, "bad", "10ms", &["a=1", "--count", "3"]);
    publish_later(&server, "good", "20ms", &["a=1"]);
    let host = Host::start(&server, IDLE);
    redis.wait_first("good");
    eventually("it is told", || host.log().contains("delayed entries cannot be appended"));
    publish_later(&server, "good", "10ms", &["a=2"]);
    redis.wait_for(2, "good");
    assert_eq!(delayed(&mut redis, "bad"), 3);
    assert_eq!(host.log().matches("delayed entries cannot be appended").count(), 1, "told once");
    redis.tell("DEL bad");
    assert_eq!(redis.wait_for(3, "bad").len(), 3);
}

#[test]
fn a_server_without_memory_is_waited_for_and_delayed_entries_come_once() {
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, IDLE);
    eventually("it is ready", || host.log().contains("ready"));
    publish_later(&server, "out", "300ms", &["a=1", "--count", "5"]);
    redis.tell("CONFIG SET maxmemory 1");
    eventually("it is told", || host.log().contains("cannot see to delayed entries"));
    assert_eq!((redis.length("out"), delayed(&mut redis, "out")), (0, 5));
    redis.tell("CONFIG SET maxmemory 0");
    redis.wait_for(5, "out");
    assert_eq!((redis.length("out"), delayed(&mut redis, "out")), (5, 0));
    assert_eq!(host.log().matches("cannot see to delayed entries").count(), 1, "told once");
}

#[test]
fn an_entry_that_could_not_be_taken_out_again_is_not_appended() {
    let server = Server::start();
    let mut redis = server.client();
    publish_later(&server, "out", "10ms", &["a=1"]);
    redis.tell("ACL SETUSER h on >p ~* &* +@all -zrem");
    let login = "username = \"h\"\npassword = \"p\"\n";
    let host = Host::start(&server, &format!("{login}{IDLE}"));
    eventually("it is told", || host.log().contains("delayed entries cannot be appended"));
    assert_eq!((redis.length("out"), delayed(&mut redis, "out")), (0, 1));
    redis.tell("ACL SETUSER h +zrem");
    redis.wait_first("out");
    assert_eq!((redis.length("out"), delayed(&mut redis, "out")), (1, 0));
}

#[test]
fn streams_for_which_nothing_is_delayed_any_more_are_forgotten_and_no_others() {
    let server = Server::start();
    let mut redis = server.client();
    let known = "tidegate:{delayed}:streams";
    publish_later(&server, "kept", "1day", &["a=1"]);
    redis.tell(&format!("ZADD {known} 1 kept 1 old"));
    redis.eval(&format!(
        "local t = redis.call('TIME') redis.call('ZADD', '{known}', string.format('%.0f', t[1] * 1000), 'new')"
    ));
    let _host = Host::start(&server, IDLE);
    eventually("the old one is forgotten", || redis.ask::<usize>(&format!("ZCARD {known}")) == 2);
    assert_eq!(redis.ask::<Vec<String>>(&format!("ZRANGE {known} 0 -1")), ["kept", "new"]);
}

#[test]
fn entries_come_although_the_list_of_their_streams_was_deleted() {
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, IDLE);
    eventually("it is ready", || host.log().contains("ready"));
    publish_later(&server, "out", "2s", &["a=1"]);
    redis.tell("CONFIG RESETSTAT");
    eventually("the host has seen it", || {
        redis.ask::<String>("INFO commandstats").contains("cmdstat_evalsha:")
    });
    redis.tell("DEL tidegate:{delayed}:streams");
    redis.wait_first("out");
    assert!(host.log().contains("they are put back"), "{}", host.log());
}

#[test]
fn a_server_that_forgot_the_scripts_still_gets_delayed_entries() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, PROBE);
    for round in 1..=3 {
        redis.tell("SCRIPT FLUSH");
        redis.add("in", &[("delay-ms", "50"), ("emit", "out")]);
        redis.wait_settled("in", "h");
        redis.tell("SCRIPT FLUSH");
        redis.wait_for(round, "out");
    }
    assert_eq!((redis.length("out"), delayed(&mut redis, "out")), (3, 0));
}

#[test]
fn status_tells_how_many_entries_are_delayed() {
    let server = Server::start();
    let mut host = Host::start(&server, PROBE);
    publish_later(&server, "in", "1h", &["a=1", "--count", "7"]);
    let status = |arguments: &[&str]| -> Done {
        Setup::new(&server, PROBE).command(arguments).finish().expect(0)
    };
    eventually("the group is there", || server.client().has_group("in", "h"));
    let told = status(&["status", "--json"]).json();
    assert_eq!(told["handlers"][0]["delayed"], 7, "{told}");
    let table = status(&["status"]).stdout;
    assert!(table.contains("delayed"), "{table}");
    assert!(table.split_whitespace().any(|cell| cell == "7"), "{table}");
    host.stop();
}

#[test]
fn a_delay_beyond_a_year_is_refused_with_its_bound() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, PROBE);
    let year_and_a_day = (366_u64 * 24 * 3600 * 1000).to_string();
    redis.add("in", &[("delay-ms", year_and_a_day.as_str()), ("emit", "out")]);
    let letter = redis.wait_first("{in}:dead");
    assert_eq!(letter.get("tidegate.reason"), "limit");
    assert!(letter.get("tidegate.error").contains("366 days, more than 365"));
    let url = server.url();
    let arguments = ["publish", "out", "--delay", "366days", "a=1", "--redis", &url];
    let done = Setup::alone("").command(&arguments).finish().expect(2);
    assert!(done.stderr.contains("no more than 365 days"), "{}", done.stderr);
    assert_eq!((redis.length("out"), delayed(&mut redis, "out")), (0, 0));
}

#[test]
fn a_delay_of_nothing_is_none() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, PROBE);
    redis.add("in", &[("delay-ms", "0"), ("emit", "out")]);
    redis.wait_settled("in", "h");
    assert_eq!((redis.length("out"), delayed(&mut redis, "out")), (1, 0));
}
