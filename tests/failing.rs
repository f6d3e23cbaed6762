//! What becomes of a message that fails, and that nothing else suffers from it.

mod harness;

use std::time::Duration;

use harness::{Entry, Host, Redis, Running, Server, eventually, never, within};

/// A handler that does what its messages tell it and gives up after three quick attempts.
const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out*"]
timeout = "300ms"
memory = "16MiB"
"#;

const THREE: &str = r#"retry = { attempts = 3, first = "20ms", max = "50ms" }"#;
const ONE: &str = "retry = { attempts = 1 }";

/// The fields that a burial adds, in order.
const EPITAPH: [&str; 9] =
    ["source", "id", "group", "handler", "plugin", "attempts", "reason", "error", "time"];

fn probe(lines: &str) -> (Server, Redis, Running) {
    let server = Server::start();
    let redis = server.client();
    let host = Host::start(&server, &format!("{PROBE}{lines}"));
    (server, redis, host)
}

#[test]
fn a_retried_message_comes_again_with_a_higher_attempt() {
    let (_server, mut redis, _host) = probe(THREE);
    let id = redis.add("in", &[("retry-until", "3"), ("emit", "out")]);
    let out = redis.wait_first("out");
    assert_eq!((out.get("id"), out.get("attempt")), (id, "3".into()));
    assert_eq!((redis.pending("in", "h"), redis.length("{in}:dead")), (0, 0));
}

#[test]
fn nothing_of_a_settled_retry_is_left_behind() {
    let (_server, mut redis, _host) = probe(THREE);
    redis.add("in", &[("retry-until", "3"), ("emit", "out")]);
    redis.add("in", &[("retry", "in vain")]);
    redis.add("in", &[("trap", "in vain")]);
    redis.wait_for(2, "{in}:dead");
    redis.wait_settled("in", "h");
    let mut keys: Vec<String> = redis.ask("KEYS tidegate:*");
    // What a live host shows of itself.
    keys.retain(|key| !key.contains(":live:") && !key.contains(":hosts:"));
    assert_eq!(keys, [""; 0]);
}

#[test]
fn an_attempt_stays_counted_when_the_host_is_killed() {
    let (_server, mut redis, mut host) =
        probe(r#"retry = { attempts = 2, first = "1s", max = "1s" }"#);
    redis.add("in", &[("print", "attempted"), ("retry", "always")]);
    eventually("the failure is recorded", || waiting(&mut redis) == 1);
    host.kill();
    let before = host.log().matches("attempted").count();
    host.start_again();
    let letter = redis.wait_first("{in}:dead");
    assert_eq!(letter.get("tidegate.attempts"), "2");
    let after = host.log().matches("attempted").count();
    assert_eq!((before, after), (1, 1), "one attempt before the kill, one after");
}

#[test]
fn a_message_that_waits_for_its_retry_holds_no_worker() {
    let (_server, mut redis, _host) = probe("concurrency = 1");
    let put_off = redis.add("in", &[("retry-after-ms", "600000")]);
    let id = redis.add("in", &[("emit", "out")]);
    assert_eq!(redis.wait_first("out").get("id"), id);
    eventually("only the one that waits is pending", || redis.pending("in", "h") == 1);
    assert_eq!(redis.holders("in", "h"), [("tidegate:waiting".to_owned(), put_off)]);
}

#[test]
fn a_retry_comes_not_before_its_time_and_soon_after() {
    let (_server, mut redis, _host) = probe("");
    let mut waits = Vec::new();
    for count in 1..=5 {
        let id = redis.add("in", &[("retry-after-ms", "700"), ("emit", "out")]);
        let out = redis.wait_for(count, "out").pop().unwrap();
        assert_eq!((out.get("id"), out.get("attempt")), (id.clone(), "2".into()));
        waits.push(out.millis() - harness::millis(&id));
    }
    assert!(waits.iter().all(|waited| *waited >= 700), "after {waits:?} ms");
    // Of five the machine may have been busy at one or two.
    waits.sort_unstable();
    assert!(waits[2] < 1700, "after {waits:?} ms: an idle host looks up when a retry is due");
}

#[test]
fn a_retry_whose_time_was_deleted_is_tried_at_once() {
    let (_server, mut redis, _host) = probe("");
    redis.add("in", &[("retry-after-ms", "3600000"), ("emit", "out")]);
    let key = "tidegate:{in}:waiting:in:h";
    eventually("it waits", || redis.ask::<usize>(&format!("DEL {key}")) == 1);
    assert_eq!(redis.wait_first("out").get("attempt"), "2");
    redis.wait_settled("in", "h");
}

#[test]
fn the_order_of_retries_is_that_of_their_times() {
    let (_server, mut redis, _host) = probe("");
    let times = [900, 300, 600];
    for time in times {
        let (time, data) = (time.to_string(), time.to_string());
        redis.add("in", &[("retry-after-ms", &time), ("emit", &"out".into()), ("data", &data)]);
    }
    redis.wait_for(3, "out");
    assert_eq!(redis.column("out", "data"), ["300", "600", "900"]);
}

#[test]
fn after_its_attempts_a_message_is_buried_with_its_own_fields_first() {
    let (_server, mut redis, _host) = probe(THREE);
    let fields: [(&[u8], &[u8]); 5] = [
        (b"b", b"1"),
        (b"a", b"\xff\x00"),
        (b"b", b"2"),
        (b"tidegate.id", b"mine"),
        (b"retry", b"no luck"),
    ];
    let id = redis.add("in", &fields);
    let letter = redis.wait_first("{in}:dead");
    let (own, added) = letter.fields.split_at(5);
    let found: Vec<_> =
        own.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).collect();
    assert_eq!(found, fields);
    let added = Entry { id: letter.id.clone(), fields: added.to_vec() };
    assert_eq!(added.names(), EPITAPH.map(|name| format!("tidegate.{name}")));
    let expected = [
        ("source", "in"),
        ("id", &id),
        ("group", "h"),
        ("handler", "h"),
        ("attempts", "3"),
        ("reason", "retries"),
        ("error", "no luck"),
    ];
    for (name, value) in expected {
        assert_eq!(added.get(&format!("tidegate.{name}")), value, "tidegate.{name}");
    }
    assert!(added.get("tidegate.plugin").len() > 10, "a digest: {added}");
    assert!(added.get("tidegate.time").ends_with('Z'), "{added}");
    assert_eq!(redis.pending("in", "h"), 0, "buried and acknowledged in one step");
    assert_eq!(redis.length("{in}:dead"), 1);
}

#[test]
fn a_rejected_message_is_buried_at_once() {
    let (_server, mut redis, _host) = probe("");
    redis.add("in", &[("reject", "not an order")]);
    let letter = redis.wait_first("{in}:dead");
    let of = |name: &str| letter.get(&format!("tidegate.{name}"));
    assert_eq!(
        (of("reason"), of("error"), of("attempts")),
        ("reject".into(), "not an order".into(), "1".into())
    );
}

#[test]
fn a_message_of_thousands_of_fields_is_buried_whole() {
    let (_server, mut redis, _host) = probe("");
    let names: Vec<String> = (0..6000).map(|number| format!("f{number}")).collect();
    let mut fields: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    fields.push(("reject", "too long"));
    redis.add("in", &fields);
    let letter = redis.wait_first("{in}:dead");
    assert_eq!(letter.fields.len(), fields.len() + EPITAPH.len());
    assert_eq!(letter.fields[5999].0, b"f5999");
    redis.wait_settled("in", "h");
}

#[test]
fn a_dead_letter_stream_has_the_name_it_was_given() {
    let (_server, mut redis, _host) = probe("dead-letter = \"graveyard\"");
    redis.add("in", &[("reject", "no")]);
    assert_eq!(redis.wait_first("graveyard").get("tidegate.source"), "in");
    assert_eq!(redis.length("{in}:dead"), 0);
}

/// Has one message end its attempts, and gives what its dead letter says; a message after it is handled.
fn dies(lines: &str, fields: &[(&str, &str)]) -> (String, String) {
    let (_server, mut redis, mut host) = probe(&format!("{lines}\nconcurrency = 1"));
    redis.add("in", fields);
    let after = redis.add("in", &[("emit", "out")]);
    let letter = redis.wait_first("{in}:dead");
    assert_eq!(redis.wait_first("out").get("id"), after);
    assert!(host.is_running(), "the host outlives its plugin");
    redis.wait_settled("in", "h");
    (letter.get("tidegate.reason"), letter.get("tidegate.error"))
}

#[test]
fn a_trapping_plugin_buries_its_message_as_trap() {
    assert_eq!(dies(THREE, &[("trap", "oh no")]).0, "trap");
}

#[test]
fn a_plugin_in_a_tight_loop_is_stopped_and_its_message_buried_as_timeout() {
    let (reason, error) = dies(ONE, &[("loop", "")]);
    assert_eq!(reason, "timeout");
    assert!(error.contains("300"), "it says how long it had: {error}");
}

#[test]
fn a_sleeping_plugin_is_stopped_and_its_message_buried_as_timeout() {
    assert_eq!(dies(ONE, &[("sleep-ms", "600000")]).0, "timeout");
}

#[test]
fn a_plugin_that_needs_too_much_memory_has_its_message_buried_as_memory() {
    assert_eq!(dies(ONE, &[("allocate-mb", "64")]).0, "memory");
}

#[test]
fn a_plugin_that_recurses_without_end_has_its_message_buried_as_trap() {
    assert_eq!(dies(ONE, &[("recurse", "")]).0, "trap");
}

#[test]
fn a_plugin_that_exits_has_its_message_buried_as_trap() {
    let (reason, error) = dies(ONE, &[("exit", "3")]);
    assert_eq!(reason, "trap");
    assert!(error.contains("exit"), "{error}");
}

#[test]
fn a_plugin_that_writes_too_much_has_its_message_buried_as_limit() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest =
        "[handler.h]\nplugin = \"many-outputs.wasm\"\nstream = \"in\"\noutputs = [\"*t\"]\n";
    let _host = Host::start(&server, &format!("{manifest}{ONE}"));
    redis.add("in", &[("a", "1")]);
    assert_eq!(redis.wait_first("{in}:dead").get("tidegate.reason"), "limit");
}

#[test]
fn within_its_memory_a_plugin_works() {
    let (_server, mut redis, _host) = probe(ONE);
    redis.add("in", &[("allocate-mb", "8"), ("emit", "out")]);
    redis.wait_first("out");
}

#[test]
fn a_poison_message_does_not_block_those_behind_it() {
    let (_server, mut redis, _host) =
        probe("concurrency = 1\nretry = { attempts = 50, first = \"1s\" }");
    redis.add("in", &[("trap", "poison")]);
    let ids = redis.add_many(100, "in", &[("emit", "out")]);
    redis.wait_for(100, "out");
    assert_eq!(redis.column("out", "id"), ids, "one at a time, in order");
    assert_eq!(redis.pending("in", "h"), 1);
}

#[test]
fn a_field_name_that_is_not_utf8_is_buried_as_undecodable_byte_for_byte() {
    let (_server, mut redis, _host) = probe("");
    let fields: [(&[u8], &[u8]); 2] = [(b"ok", b"1"), (b"\xff\xfe", b"2")];
    redis.add("in", &fields);
    redis.add("in", &[("emit", "out")]);
    let letter = redis.wait_first("{in}:dead");
    assert_eq!(letter.get("tidegate.reason"), "undecodable");
    assert_eq!(letter.fields[1], (b"\xff\xfe".to_vec(), b"2".to_vec()));
    redis.wait_first("out");
    redis.wait_settled("in", "h");
}

#[test]
fn one_trap_in_a_batch_blames_only_the_one() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = redis.add_many(30, "in", &[("emit", "out")]);
    let poison = redis.add("in", &[("trap", "poison")]);
    let more = redis.add_many(30, "in", &[("emit", "out")]);
    let probe = PROBE.replace("probe.wasm", "probe_batch.wasm");
    let _host = Host::start(&server, &format!("{probe}{THREE}\nbatch = 100\nconcurrency = 1"));
    redis.wait_settled("in", "h");
    let mut landed = redis.column("out", "id");
    landed.sort();
    let mut expected = [ids, more].concat();
    expected.sort();
    assert_eq!(landed, expected);
    assert!(redis.column("out", "attempt").iter().all(|n| n == "1"), "innocents lose no attempt");
    let letters = redis.entries("{in}:dead");
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].get("tidegate.id"), poison);
    assert_eq!(letters[0].get("tidegate.attempts"), "3");
}

#[test]
fn an_output_on_a_key_of_another_type_costs_only_its_own_message() {
    let server = Server::start();
    let mut redis = server.client();
    redis.tell("SET out2 text");
    let before = redis.add_many(20, "in", &[("emit", "out")]);
    let blocked = redis.add("in", &[("emit", "out"), ("emit", "out2")]);
    let after = redis.add_many(20, "in", &[("emit", "out")]);
    let _host = Host::start(&server, &format!("{PROBE}{THREE}"));
    let letter = redis.wait_first("{in}:dead");
    assert_eq!(letter.get("tidegate.id"), blocked);
    assert!(letter.get("tidegate.error").contains("out2"), "{letter}");
    redis.wait_settled("in", "h");
    let mut landed = redis.column("out", "id");
    landed.sort();
    let mut expected = [before, after].concat();
    expected.sort();
    assert_eq!(landed, expected, "all outputs of a message, or none");
    assert_eq!(redis.ask::<String>("GET out2"), "text");
}

#[test]
fn an_output_stream_that_is_mended_in_time_gets_its_output() {
    let (_server, mut redis, _host) =
        probe(r#"retry = { attempts = 1000, first = "20ms", max = "50ms" }"#);
    redis.tell("SET out2 text");
    redis.add("in", &[("emit", "out2")]);
    eventually("it is tried again", || waiting(&mut redis) == 1);
    redis.tell("DEL out2");
    redis.wait_first("out2");
    redis.wait_settled("in", "h");
    assert_eq!(redis.length("out2"), 1);
}

#[test]
fn a_message_that_cannot_be_buried_stays_until_it_can() {
    let (_server, mut redis, _host) = probe(THREE);
    redis.tell("SET {in}:dead text");
    let id = redis.add("in", &[("reject", "no")]);
    let after = redis.add("in", &[("emit", "out")]);
    assert_eq!(redis.wait_first("out").get("id"), after);
    let pending = |redis: &mut Redis| redis.pending("in", "h");
    never(Duration::from_millis(500), "it is gone", || pending(&mut redis) == 0);
    redis.tell("DEL {in}:dead");
    let letter = redis.wait_first("{in}:dead");
    assert_eq!((letter.get("tidegate.id"), letter.get("tidegate.reason")), (id, "reject".into()));
    assert_eq!(pending(&mut redis), 0);
}

#[test]
fn a_message_trimmed_while_it_waits_is_buried_as_trimmed_and_never_handed_over_empty() {
    let (_server, mut redis, host) = probe("");
    let id = redis.add("in", &[("print", "attempted"), ("retry-after-ms", "600"), ("emit", "out")]);
    eventually("it waits", || waiting(&mut redis) == 1);
    redis.tell("XTRIM in MAXLEN 0");
    let letter = redis.wait_first("{in}:dead");
    assert_eq!(
        letter.names(),
        EPITAPH.map(|name| format!("tidegate.{name}")),
        "no fields are left"
    );
    assert_eq!(
        (letter.get("tidegate.id"), letter.get("tidegate.reason")),
        (id.clone(), "trimmed".into())
    );
    assert_eq!((redis.pending("in", "h"), redis.length("out")), (0, 0));
    assert_eq!(host.log().matches("attempted").count(), 1);
    assert!(host.log().contains(&id), "a loss is logged with its id");
}

#[test]
fn a_message_trimmed_while_it_is_in_hand_is_still_handled() {
    let (_server, mut redis, _host) = probe("");
    redis.add("in", &[("sleep-ms", "200"), ("emit", "out")]);
    eventually("it is in hand", || redis.pending("in", "h") == 1);
    redis.tell("XTRIM in MAXLEN 0");
    redis.wait_first("out");
    eventually("it is settled", || redis.pending("in", "h") == 0);
    assert_eq!(redis.length("{in}:dead"), 0);
}

#[test]
fn a_thousand_failures_at_once_all_come_to_their_end() {
    let (_server, mut redis, _host) = probe(THREE);
    redis.add_many(400, "in", &[("retry", "always")]);
    redis.add_many(400, "in", &[("retry-until", "2"), ("emit", "out")]);
    redis.add_many(200, "in", &[("trap", "x")]);
    within(Duration::from_secs(40), "all are settled", || {
        redis.length("out") == 400 && redis.length("{in}:dead") == 600
    });
    redis.wait_settled("in", "h");
    assert_eq!((redis.length("out"), redis.length("{in}:dead")), (400, 600));
}

/// How many messages wait for another attempt.
fn waiting(redis: &mut Redis) -> usize {
    let holders = if redis.has_group("in", "h") { redis.holders("in", "h") } else { Vec::new() };
    holders.iter().filter(|(consumer, _)| consumer == "tidegate:waiting").count()
}
