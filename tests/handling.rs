//! What a handler may rely on while nothing goes wrong.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::time::Duration;

use harness::{Host, Redis, Running, Server, Setup, eventually, never};

/// A handler that does what its messages tell it, on `in`, free to write to `out` and its kind.
const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out*"]
channels = ["news"]
"#;

/// A host for the probe with more lines in its table, on a server of its own.
fn probe(lines: &str) -> (Server, Redis, Running) {
    let server = Server::start();
    let redis = server.client();
    let host = Host::start(&server, &format!("{PROBE}{lines}"));
    (server, redis, host)
}

#[test]
fn outputs_land_once_and_the_message_is_acknowledged() {
    let (_server, mut redis, _host) = probe("");
    let id = redis.add("in", &[("emit", "out"), ("emit", "out2"), ("data", "hello")]);
    let out = redis.wait_first("out");
    assert_eq!(out.to_string(), format!("{} data=hello id={id} attempt=1", out.id));
    assert_eq!(redis.column("out2", "id"), [id]);
    assert_eq!(redis.pending("in", "h"), 0, "outputs and acknowledgement are one step");
    assert_eq!((redis.length("out"), redis.length("in")), (1, 1));
}

#[test]
fn outputs_keep_the_order_in_which_they_were_asked_for() {
    let (_server, mut redis, _host) = probe("");
    redis.add("in", &[("outputs", "50"), ("emit", "out"), ("data", "x")]);
    assert_eq!(redis.wait_for(50, "out").len(), 50);
    let ids: Vec<_> = (0..20)
        .map(|n| redis.add("in", &[("emit", "out2"), ("data", n.to_string().as_str())]))
        .collect();
    let mut landed: Vec<_> = redis.wait_for(20, "out2").iter().map(|e| e.get("id")).collect();
    landed.sort();
    let mut expected = ids;
    expected.sort();
    assert_eq!(landed, expected);
}

#[test]
fn fields_survive_with_their_order_their_repetitions_and_every_byte() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = "[handler.m]\nplugin = \"mirror.wasm\"\nstream = \"in\"\noutputs = [\"mirror\"]";
    let _host = Host::start(&server, manifest);
    let every_byte: Vec<u8> = (0..=255).collect();
    let fields: Vec<(&str, &[u8])> = vec![
        ("b", b"1"),
        ("a", &every_byte),
        ("b", b""),
        ("", b"a field without a name"),
        ("b", b"1"),
        ("\u{e9}t\u{e9} \r\n", b"\r\n"),
        ("long", &[0xff; 50_000]),
    ];
    redis.add("in", &fields);
    let out = redis.wait_first("mirror");
    let found: Vec<_> = out.fields.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).collect();
    let expected: Vec<_> = fields.iter().map(|(n, v)| (n.as_bytes(), *v)).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_message_of_megabytes_passes() {
    let (_server, mut redis, _host) = probe("");
    let big = vec![0xab; 4 << 20];
    let fields: [(&[u8], &[u8]); 2] = [(b"emit", b"out"), (b"data", &big)];
    redis.add("in", &fields);
    redis.add("in", &fields);
    let out = redis.wait_for(2, "out");
    assert!(out.iter().all(|entry| entry.fields[0].1 == big));
}

#[test]
fn a_group_is_created_together_with_its_stream() {
    let (_server, mut redis, _host) = probe("group = \"readers\"");
    eventually("the group exists", || redis.has_group("in", "readers"));
    assert_eq!(redis.length("in"), 0);
}

#[test]
fn by_default_a_new_group_takes_all_that_is_retained() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = redis.add_many(300, "in", &[("emit", "out")]);
    let _host = Host::start(&server, PROBE);
    redis.wait_for(300, "out");
    let mut landed = redis.column("out", "id");
    landed.sort();
    assert_eq!(landed, sorted(ids));
}

#[test]
fn start_at_the_end_skips_what_is_there() {
    let server = Server::start();
    let mut redis = server.client();
    redis.add_many(10, "in", &[("emit", "out")]);
    let _host = Host::start(&server, &format!("{PROBE}start = \"$\""));
    eventually("the group exists", || redis.has_group("in", "h"));
    let id = redis.add("in", &[("emit", "out")]);
    redis.wait_settled("in", "h");
    assert_eq!(redis.column("out", "id"), [id]);
}

#[test]
fn an_existing_group_goes_on_where_it_was() {
    let server = Server::start();
    let mut redis = server.client();
    redis.add_many(3, "in", &[("emit", "out")]);
    redis.tell("XGROUP CREATE in h $");
    let id = redis.add("in", &[("emit", "out")]);
    let _host = Host::start(&server, PROBE);
    redis.wait_settled("in", "h");
    assert_eq!(redis.column("out", "id"), [id]);
}

#[test]
fn messages_that_do_not_match_are_acknowledged_unseen() {
    let (_server, mut redis, host) = probe("match = { name = \"order.created\", region = \"eu\" }");
    let wanted = [("name", "order.created"), ("region", "eu"), ("emit", "out"), ("print", "seen")];
    let others = [
        vec![("name", "order.paid"), ("region", "eu"), ("print", "seen"), ("emit", "out")],
        vec![("name", "order.created"), ("print", "seen"), ("emit", "out")],
        // Of a repeated field the first counts.
        vec![("name", "x"), ("name", "order.created"), ("region", "eu"), ("emit", "out")],
    ];
    for other in &others {
        redis.add("in", other);
    }
    let id = redis.add("in", &wanted);
    redis.wait_settled("in", "h");
    assert_eq!(redis.column("out", "id"), [id]);
    eventually("what it printed is logged", || host.log().contains("seen"));
    assert_eq!(host.log().matches("seen").count(), 1);
}

#[test]
fn a_batch_plugin_answers_each_message_at_its_own_index() {
    let server = Server::start();
    let mut redis = server.client();
    let fates = [("emit", "out"), ("reject", "no"), ("retry-until", "2"), ("nothing", "to do")];
    let mut ids = [const { Vec::new() }; 4];
    for number in 0..200 {
        let fate = number % fates.len();
        ids[fate].push(redis.add("in", &[fates[fate], ("emit", "done")]));
    }
    let ids = ids.map(sorted);
    let _host = Host::start(
        &server,
        r#"
[handler.h]
plugin = "probe_batch.wasm"
stream = "in"
batch = 64
concurrency = 2
outputs = ["out", "done"]
retry = { first = "10ms" }
"#,
    );
    redis.wait_settled("in", "h");
    assert_eq!(sorted(redis.column("out", "id")), ids[0]);
    assert_eq!(sorted(redis.column("{in}:dead", "tidegate.id")), ids[1]);
    let done = redis.entries("done");
    let of_attempt = |attempt: &str| {
        let those = done.iter().filter(|entry| entry.get("attempt") == attempt);
        sorted(those.map(|entry| entry.get("id")).collect())
    };
    assert_eq!(of_attempt("2"), ids[2]);
    assert_eq!(of_attempt("1"), sorted([ids[0].clone(), ids[3].clone()].concat()));
}

#[test]
fn a_notice_is_published_after_the_acknowledgement() {
    let (server, mut redis, _host) = probe("");
    let mut news = server.client().subscribe("news");
    for number in 0..20 {
        let data: Vec<u8> = vec![0, 0xff, number];
        redis.add(
            "in",
            &[("notice".as_bytes(), "news".as_bytes()), (b"data", &data), (b"emit", b"out")],
        );
        assert_eq!(news.next(), data);
        assert_eq!(redis.pending("in", "h"), 0, "it was acknowledged before");
        assert_eq!(redis.length("out"), usize::from(number) + 1, "its outputs were written before");
    }
}

#[test]
fn an_output_outside_the_grants_is_denied_and_nothing_of_its_message_is_written() {
    let (_server, mut redis, _host) = probe("");
    let id = redis.add("in", &[("emit", "out"), ("emit", "secrets")]);
    let letter = redis.wait_first("{in}:dead");
    assert_eq!((letter.get("tidegate.id"), letter.get("tidegate.reason")), (id, "denied".into()));
    assert!(letter.get("tidegate.error").contains("secrets"), "{letter}");
    assert_eq!(letter.get("tidegate.attempts"), "1", "trying again would change nothing");
    assert_eq!((redis.length("out"), redis.length("secrets")), (0, 0));
    assert_eq!(redis.pending("in", "h"), 0);
}

#[test]
fn a_notice_outside_the_grants_is_denied() {
    let (_server, mut redis, _host) = probe("");
    redis.add("in", &[("notice", "alarms"), ("data", "x")]);
    let letter = redis.wait_first("{in}:dead");
    assert_eq!(letter.get("tidegate.reason"), "denied");
    assert!(letter.get("tidegate.error").contains("alarms"), "{letter}");
}

#[test]
fn no_pattern_grants_the_streams_that_belong_to_the_host() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = "[handler.h]\nplugin = \"probe.wasm\"\nstream = \"in\"\noutputs = [\"*\"]";
    let _host = Host::start(&server, manifest);
    redis.add("in", &[("emit", "tidegate:{in}:waiting:in:h")]);
    redis.add("in", &[("emit", "any")]);
    assert_eq!(redis.wait_first("{in}:dead").get("tidegate.reason"), "denied");
    redis.wait_first("any");
}

#[test]
fn no_pattern_lets_a_handler_feed_its_own_stream() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = "[handler.h]\nplugin = \"probe.wasm\"\nstream = \"in\"\noutputs = [\"*\"]";
    let _host = Host::start(&server, manifest);
    redis.add("in", &[("emit", "in")]);
    let letter = redis.wait_first("{in}:dead");
    assert_eq!(letter.get("tidegate.reason"), "denied");
    assert_eq!(redis.length("in"), 1);
}

#[test]
fn the_granted_environment_reaches_the_plugin_and_the_hosts_own_does_not() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = format!("{PROBE}env = {{ REGION = \"eu\", OF_HOST = \"${{env:TOLD}}\" }}");
    let setup = Setup::new(&server, &manifest).env("SECRET", "hush").env("TOLD", "by name");
    let _host = setup.start();
    for name in ["REGION", "OF_HOST", "SECRET", "PATH"] {
        redis.add("in", &[("env", name), ("emit", "out"), ("data", name)]);
    }
    let mut found: Vec<_> =
        redis.wait_for(4, "out").iter().map(|e| (e.get("data"), e.find("env"))).collect();
    found.sort();
    let expected =
        [("OF_HOST", Some("by name")), ("PATH", None), ("REGION", Some("eu")), ("SECRET", None)];
    assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.map(str::to_owned))));
}

#[test]
fn what_a_plugin_prints_is_logged_with_its_handler_and_message() {
    let (_server, mut redis, host) = probe("");
    let id = redis.add("in", &[("print", "to the one side"), ("eprint", "to the other")]);
    redis.wait_settled("in", "h");
    for text in ["to the one side", "to the other"] {
        eventually("the line is logged", || host.log().contains(text));
        let log = host.log();
        let line = log.lines().find(|line| line.contains(text)).unwrap();
        assert!(line.contains("handler=h") || line.contains("handler=\"h\""), "{line}");
        assert!(line.contains(&id), "{line}");
    }
    assert_eq!(host.output(), "", "standard output is for data");
}

#[test]
fn a_payload_is_not_logged() {
    let (_server, mut redis, host) = probe("retry = { attempts = 2, first = \"1ms\" }");
    redis.add("in", &[("data", "4111-1111"), ("emit", "out")]);
    redis.add("in", &[("data", "4111-1111"), ("retry", "later")]);
    redis.add("in", &[("data", "4111-1111"), ("trap", "broken")]);
    redis.wait_settled("in", "h");
    assert!(!host.log().contains("4111-1111"), "{}", host.log());
}

#[test]
fn isolation_by_message_gives_each_a_fresh_instance() {
    let (_server, mut redis, _host) = probe("isolation = \"message\"\nconcurrency = 1");
    redis.add_many(5, "in", &[("calls", ""), ("emit", "out")]);
    redis.wait_for(5, "out");
    assert_eq!(redis.column("out", "calls"), ["1"; 5]);
}

#[test]
fn without_it_an_instance_is_used_again() {
    let (_server, mut redis, _host) = probe("concurrency = 1");
    redis.add_many(5, "in", &[("calls", ""), ("emit", "out")]);
    redis.wait_for(5, "out");
    assert_eq!(redis.column("out", "calls"), ["1", "2", "3", "4", "5"]);
}

#[test]
fn a_broken_instance_is_not_used_again() {
    let (_server, mut redis, _host) = probe("concurrency = 1\nretry = { attempts = 1 }");
    redis.add_many(2, "in", &[("calls", ""), ("emit", "out")]);
    redis.add("in", &[("trap", "broken")]);
    redis.add_many(2, "in", &[("calls", ""), ("emit", "out")]);
    redis.wait_for(4, "out");
    assert_eq!(redis.column("out", "calls"), ["1", "2", "1", "2"]);
}

#[test]
fn two_handlers_on_one_stream_each_see_every_message() {
    let server = Server::start();
    let mut redis = server.client();
    let second = PROBE.replace("[handler.h]", "[handler.second]").replace("out*", "out");
    let ids = redis.add_many(100, "in", &[("emit", "out")]);
    let _host = Host::start(&server, &format!("{PROBE}{second}"));
    redis.wait_settled("in", "h");
    redis.wait_settled("in", "second");
    assert_eq!(sorted(redis.column("out", "id")), sorted([ids.clone(), ids].concat()));
}

#[test]
fn entries_stay_in_the_stream_for_other_groups() {
    let (_server, mut redis, _host) = probe("");
    redis.add_many(50, "in", &[("emit", "out")]);
    redis.wait_settled("in", "h");
    assert_eq!(redis.length("in"), 50);
}

#[test]
fn no_more_is_read_than_can_be_carried() {
    let (_server, mut redis, _host) = probe("concurrency = 3");
    redis.add_many(30, "in", &[("sleep-ms", "5"), ("emit", "out")]);
    redis.add_many(30, "in", &[("sleep-ms", "600000")]);
    redis.wait_for(30, "out");
    // Counted while nothing ends: what is handled stays pending until that is written,
    // and meanwhile another may be read in its place.
    let pending = |redis: &mut Redis| redis.pending("in", "h");
    eventually("it carries what it can", || pending(&mut redis) == 3);
    never(Duration::from_millis(500), "it read more", || pending(&mut redis) > 3);
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}
