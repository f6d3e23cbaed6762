//! What a plugin reaches through the host, and that it reaches nothing else: keys, configuration, the log.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;
#[path = "reaching/trouble.rs"]
mod trouble;

use std::collections::BTreeMap;

use harness::{Entry, Host, Redis, Running, Server, Setup, eventually};

/// A handler that asks its host for what its messages tell it to.
const PROBE: &str = r#"
[handler.h]
plugin = "probe_reach.wasm"
stream = "in"
outputs = ["out"]
keyvalue = "k:"
config = "settings"
"#;

const ONE: &str = "retry = { attempts = 1 }\n";

fn probe(lines: &str) -> (Server, Redis, Running) {
    let server = Server::start();
    let redis = server.client();
    let host = Host::start(&server, &format!("{PROBE}{ONE}{lines}"));
    (server, redis, host)
}

/// Sends instructions to the handler of a stream, and gives what came of them.
#[track_caller]
fn ask_on<V: AsRef<[u8]>>(redis: &mut Redis, stream: &str, fields: &[(&str, V)]) -> Entry {
    let id = redis.add(stream, fields);
    let dead = format!("{{{stream}}}:dead");
    let mut answer = None;
    eventually("there is an answer", || {
        let mut letters = redis.entries(&dead).into_iter();
        if let Some(letter) = letters.find(|letter| letter.get("tidegate.id") == id) {
            panic!("buried: {letter}");
        }
        answer = redis.entries("out").into_iter().find(|entry| entry.get("id") == id);
        answer.is_some()
    });
    answer.unwrap()
}

#[track_caller]
fn ask(redis: &mut Redis, fields: &[(&str, &str)]) -> Entry {
    ask_on(redis, "in", fields)
}

/// What was answered to each of several instructions of one name.
fn answers(entry: &Entry, name: &str) -> Vec<String> {
    let named = entry.fields.iter().filter(|(found, _)| found == name.as_bytes());
    named.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
}

/// Sends instructions that end in a dead letter, and gives its reason and its error.
#[track_caller]
fn buried(redis: &mut Redis, fields: &[(&str, &str)]) -> (String, String) {
    let count = redis.length("{in}:dead") + 1;
    redis.add("in", fields);
    let letters = redis.wait_for(count, "{in}:dead");
    let letter = letters.last().unwrap();
    (letter.get("tidegate.reason"), letter.get("tidegate.error"))
}

/// Every string there is by its name, apart from those of the host's own.
#[track_caller]
fn strings(redis: &mut Redis) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for key in redis.ask::<Vec<String>>("KEYS *") {
        let kind: String = redis.query(redis::cmd("TYPE").arg(&key));
        if kind == "string" && !key.starts_with("tidegate:") {
            let value = redis.query(redis::cmd("GET").arg(&key));
            found.insert(key, value);
        }
    }
    found
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn keys_land_under_the_prefix_and_are_there_until_they_are_deleted() {
    let (_server, mut redis, _host) = probe("");
    let fields = [
        ("key", "a"),
        ("get", ""),
        ("exists", ""),
        ("set", "1"),
        ("get", ""),
        ("exists", ""),
        ("key", "b"),
        ("set", ""),
        ("get", ""),
        ("list", ""),
    ];
    let answer = ask(&mut redis, &fields);
    assert_eq!(answers(&answer, "get"), ["none", "1", ""]);
    assert_eq!(answers(&answer, "exists"), ["false", "true"]);
    assert_eq!(answer.get("list"), r#"["a", "b"]"#);
    assert_eq!(strings(&mut redis), map(&[("k:a", "1"), ("k:b", "")]));
    let fields = [("key", "a"), ("delete", ""), ("delete", ""), ("get", ""), ("list", "")];
    let answer = ask(&mut redis, &fields);
    assert_eq!(answers(&answer, "delete"), ["done", "done"]);
    assert_eq!((answer.get("get"), answer.get("list")), ("none".into(), r#"["b"]"#.into()));
}

#[test]
fn a_bucket_is_the_keys_that_begin_with_its_name() {
    let (_server, mut redis, _host) = probe("");
    let fields = [
        ("bucket", "x"),
        ("key", "a"),
        ("set", "1"),
        ("bucket", "default"),
        ("get", ""),
        ("key", "x:a"),
        ("get", ""),
        ("bucket", "x"),
        ("list", ""),
        ("bucket", ""),
        ("list", ""),
    ];
    let answer = ask(&mut redis, &fields);
    assert_eq!(answers(&answer, "get"), ["none", "1"]);
    assert_eq!(answers(&answer, "list"), [r#"["a"]"#, r#"["x:a"]"#]);
    assert_eq!(strings(&mut redis), map(&[("k:x:a", "1")]));
    let long = "x".repeat(257);
    let answer = ask(&mut redis, &[("bucket", &long), ("get", "")]);
    assert_eq!(answer.get("get"), "error: Error::NoSuchStore");
}

#[test]
fn no_key_and_no_bucket_leads_out_of_the_prefix() {
    const PREFIX: &str = "k*[a-z]?\\{t}:";
    const ODD: [&str; 11] = [
        "",
        "\0",
        "a\nb\r\n",
        "*",
        "?",
        "[a-z]*",
        "\\",
        "{tag}",
        "../up",
        "tidegate:{in}:x",
        "\u{e9}",
    ];
    let server = Server::start();
    let mut redis = server.client();
    // What the prefix would stand for, were it taken for a pattern.
    let others =
        map(&[("kzzaa\\{t}:theirs", "0"), ("k", "0"), ("tidegate:{in}:x", "0"), ("*", "0")]);
    for (key, value) in &others {
        redis.query::<redis::Value>(redis::cmd("SET").arg(key).arg(value));
    }
    let before = strings(&mut redis);
    let manifest = format!("{PROBE}{ONE}").replace("\"k:\"", &format!("'{PREFIX}'"));
    let _host = Host::start(&server, &manifest);
    for bucket in ["", "*", "\0\n", "tidegate", "{"] {
        for key in ODD {
            let fields =
                [("bucket", bucket), ("key", key), ("set", "1"), ("get", ""), ("list", "")];
            let answer = ask(&mut redis, &fields);
            assert_eq!((answer.get("set"), answer.get("get")), ("done".into(), "1".into()));
            let listed = answer.get("list");
            assert!(listed.contains(&format!("{key:?}")), "{key:?} is not in {listed}");
            assert!(!listed.contains("theirs"), "{listed}");
        }
    }
    let mut after = strings(&mut redis);
    assert_eq!(redis.ask::<String>("GET tidegate:{in}:x"), "0");
    after.retain(|key, _| !key.starts_with(PREFIX));
    assert_eq!(after, before, "nothing else was touched");
    let fields = [("key", "*"), ("delete", ""), ("list", "")];
    let listed = ask(&mut redis, &fields).get("list");
    assert!(listed.contains("\"[a-z]*\"") && !listed.contains("\"*\""), "{listed}");
}

#[test]
fn a_neighbours_keys_cannot_be_reached() {
    let server = Server::start();
    let mut redis = server.client();
    let other = PROBE.replace("[handler.h]", "[handler.o]").replace("\"in\"", "\"other\"");
    let other = other.replace("\"k:\"", "\"o:\"");
    let _host = Host::start(&server, &format!("{PROBE}{ONE}{other}{ONE}"));
    ask(&mut redis, &[("key", "secret"), ("set", "mine")]);
    let fields = [
        ("key", "secret"),
        ("get", ""),
        ("bucket", "k"),
        ("get", ""),
        ("bucket", ""),
        ("list", ""),
        ("key", "k:secret"),
        ("get", ""),
        ("key", "secret"),
        ("set", "theirs"),
        ("delete-many", "secret k:secret ../k:secret"),
        ("set", "theirs"),
    ];
    let answer = ask_on(&mut redis, "other", &fields);
    assert_eq!(answers(&answer, "get"), ["none", "none", "none"]);
    assert_eq!(answer.get("list"), "[]");
    assert_eq!(strings(&mut redis), map(&[("k:secret", "mine"), ("o:secret", "theirs")]));
}

#[test]
fn what_is_of_another_type_is_left_as_it_is() {
    let (_server, mut redis, _host) = probe("");
    redis.tell("XADD k:s * a b");
    let fields = [
        ("key", "s"),
        ("get", ""),
        ("set", "1"),
        ("delete", ""),
        ("exists", ""),
        ("append", "1"),
        ("set-many", "a=1 s=2"),
        ("delete-many", "a s"),
        ("list", ""),
    ];
    let answer = ask(&mut redis, &fields);
    for name in ["get", "set", "delete", "append", "set-many", "delete-many"] {
        let told = answer.get(name);
        assert!(told.contains("of another type"), "{name}: {told}");
    }
    assert_eq!((answer.get("exists"), answer.get("list")), ("false".into(), "[]".into()));
    assert_eq!((redis.length("k:s"), strings(&mut redis)), (1, map(&[])), "all or none");
}

#[test]
fn pages_of_keys_lead_through_all_of_them() {
    let (_server, mut redis, _host) = probe("");
    redis.eval(
        "for n = 1, 30000 do redis.call('SET', (n % 10 == 0 and 'k:' or 'other:') .. n, 1) end",
    );
    let listed = ask(&mut redis, &[("list", "")]).get("list");
    let mut keys: Vec<&str> = listed.trim_matches(['[', ']']).split(", ").collect();
    // A page may repeat what another had.
    keys.dedup();
    assert_eq!(keys.len(), 3000);
}

#[test]
fn increments_of_several_hosts_add_up() {
    let (server, mut redis, _one) = probe("");
    let _two = Host::start(&server, &format!("[host]\nname = \"two\"\n{PROBE}{ONE}"));
    redis.add_many(200, "in", &[("key", "n"), ("add", "2"), ("add2", "-1")]);
    redis.wait_for(200, "out");
    redis.wait_settled("in", "h");
    assert_eq!(redis.ask::<i64>("GET k:n"), 200);
    redis.tell("SET k:text x");
    let fields = [
        ("key", "text"),
        ("add", "1"),
        ("key", "n"),
        ("add2", "-300"),
        ("add", "18446744073709551615"),
        ("add2", "9223372036854775807"),
        ("add2", "9223372036854775807"),
    ];
    let answer = ask(&mut redis, &fields);
    let added = answers(&answer, "add");
    assert!(added[0].contains("not an integer"), "{}", added[0]);
    assert!(added[1].contains("at most is allowed"), "{}", added[1]);
    let added = answers(&answer, "add2");
    assert_eq!(added[..2], ["-100", "9223372036854775707"]);
    assert!(added[2].contains("overflow"), "{}", added[2]);
}

#[test]
fn swaps_of_several_hosts_lose_nothing() {
    let (server, mut redis, _one) = probe("");
    let _two = Host::start(&server, &format!("[host]\nname = \"two\"\n{PROBE}{ONE}"));
    redis.add_many(100, "in", &[("key", "s"), ("append", "x")]);
    redis.wait_for(100, "out");
    redis.wait_settled("in", "h");
    assert_eq!(redis.ask::<usize>("STRLEN k:s"), 100);
    let fields = [("key", "s"), ("swap", "late"), ("get", ""), ("key", "new"), ("swap", "late")];
    let answer = ask(&mut redis, &fields);
    assert_eq!(answers(&answer, "swap"), ["missed: between", "missed: between"]);
    assert_eq!(answer.get("get"), "between");
}

#[test]
fn several_keys_are_set_read_and_removed_at_once() {
    let (_server, mut redis, _host) = probe("");
    let fields = [
        ("bucket", "x"),
        ("set-many", "a=1 b=2 c=3"),
        ("get-many", "c none a"),
        ("get-many-1", "c none a"),
        ("delete-many", "a none b"),
        ("get-many", "a b c"),
        ("set-many", ""),
        ("get-many", ""),
        ("delete-many", ""),
    ];
    let answer = ask(&mut redis, &fields);
    assert_eq!(answers(&answer, "get-many"), ["c=3 none=none a=1", "a=none b=none c=3", ""]);
    assert_eq!(answer.get("get-many-1"), "c=3 a=1");
    assert_eq!(strings(&mut redis), map(&[("k:x:c", "3")]));
    let many: Vec<String> = (0..1001).map(|n| n.to_string()).collect();
    let answer =
        ask(&mut redis, &[("get-many", &many.join(" ")), ("key", &"k".repeat(9000)), ("get", "")]);
    assert!(answer.get("get-many").contains("1000 at most"), "{answer}");
    assert!(answer.get("get").contains("8192 at most"), "{answer}");
}

#[test]
fn what_goes_past_keyvalue_bytes_is_buried_as_limit() {
    let (_server, mut redis, _host) =
        probe("limits = { keyvalue-bytes = \"1KiB\" }\nmemory = \"128MiB\"");
    let answer = ask(&mut redis, &[("key", "a"), ("fill", "1024"), ("get", "")]);
    assert_eq!((answer.get("fill"), answer.get("get").len()), ("done".into(), 1024));
    redis.eval("redis.call('SET', 'k:big', string.rep('x', 20000000))");
    let half = "x".repeat(600);
    let pairs = format!("b={half} c={half}");
    redis.eval(&format!("redis.call('MSET', 'k:d', '{half}', 'k:e', '{half}')"));
    let cases: [(&[(&str, &str)], &str); 7] = [
        (&[("key", "b"), ("fill", "1025")], "wrote 1025 bytes"),
        (&[("key", "b"), ("fill", "30000000")], "handed more to the host at once"),
        (&[("key", "big"), ("get", "")], "asked for 20000000 bytes"),
        (&[("key", "big"), ("append", "x")], "asked for 20000000 bytes"),
        (&[("set-many", &pairs)], "wrote 1200 bytes"),
        (&[("get-many", "d e")], "asked for 1200 bytes"),
        (&[("key", "d"), ("hoard", "2")], "held 1202 bytes"),
    ];
    for (fields, expected) in cases {
        let (reason, error) = buried(&mut redis, fields);
        assert_eq!(reason, "limit", "{fields:?}: {error}");
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("`limits.keyvalue-bytes`"), "{error}");
    }
    assert!(!redis.exists("k:b") && !redis.exists("k:c"), "nothing of it was written");
    ask(&mut redis, &[("key", "d"), ("hoard", "1"), ("hoard", "1"), ("swap", "x")]);
}

#[test]
fn few_operations_in_flight_at_a_time_are_enough_for_many_calls() {
    let (_server, mut redis, _host) = probe("limits = { keyvalue-calls = 1 }\nconcurrency = 16");
    redis.add_many(200, "in", &[("key", "s"), ("append", "x"), ("list", ""), ("get-many", "s")]);
    redis.wait_for(200, "out");
    assert_eq!(redis.ask::<usize>("STRLEN k:s"), 200);
}

#[test]
fn an_import_without_its_grant_is_refused_by_check_and_by_run() {
    let server = Server::start();
    let manifest = PROBE.replace("keyvalue = \"k:\"\n", "").replace("config = \"settings\"\n", "");
    for command in ["check", "run"] {
        let done = Setup::new(&server, &manifest).command(&[command]).finish();
        assert_ne!(done.status.code(), Some(0), "{command}");
        for words in [
            "handler.h.plugin",
            "wasi:keyvalue/store@0.2.0-draft, which needs a grant such as `keyvalue = \"charge:\"`",
            "wasi:keyvalue/atomics@0.2.0-draft2, which needs a grant such as `keyvalue",
            "wasi:config/store@0.2.0-rc.1, which needs a grant such as `config = \"app_config\"`",
        ] {
            assert!(done.stderr.contains(words), "{command}: `{words}` is not in {}", done.stderr);
        }
        assert!(!done.stderr.contains("wasi:logging"), "{}", done.stderr);
    }
    Setup::new(&server, PROBE).command(&["check"]).finish().expect(0);
}
