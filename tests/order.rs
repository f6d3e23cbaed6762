//! Streams whose messages are handled in order: by key, across failures, kills and hosts.

mod harness;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use harness::{Entry, Host, Redis, Server, Setup, eventually, millis};

/// A handler that does what its messages tell it, each `key` in order.
const ORDERED: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
order-by = "key"
outputs = ["out*"]
concurrency = 16
retry = { attempts = 4, first = "20ms", max = "50ms" }
"#;

/// The same, on several streams.
fn sharded(shards: u32) -> String {
    format!("{ORDERED}shards = {shards}\n")
}

fn named(name: &str, rest: &str) -> String {
    format!("[host]\nname = \"{name}\"\n{rest}")
}

/// Messages of some keys, which take turns; some take longer than those behind them, some fail at first.
fn fill(redis: &mut Redis, stream: &str, keys: usize, each: usize) -> usize {
    for n in 0..each {
        for key in 0..keys {
            let key = key.to_string();
            let sleep = ((n * 7 + 3) % 5).to_string();
            let until = if n % 10 == 4 { "3" } else { "1" };
            let fields = [("key", &*key), ("data", &*key), ("sleep-ms", &*sleep)];
            let fields = [&fields[..], &[("retry-until", until), ("emit", "out")]].concat();
            redis.add(stream, &fields);
        }
    }
    keys * each
}

/// Every message was handled, once, and those of each key in the order of their ids.
#[track_caller]
fn all_in_order(redis: &mut Redis, streams: &[&str], count: usize) {
    for stream in streams {
        redis.wait_settled(stream, "h");
    }
    let out = redis.entries("out");
    assert_eq!(out.len(), count);
    in_order(&out);
}

/// Those of each key are in the order of their ids, and none comes twice.
#[track_caller]
fn in_order(out: &[Entry]) {
    let mut lanes: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for entry in out {
        lanes.entry(entry.get("data")).or_default().push(order(&entry.get("id")));
    }
    for (key, ids) in lanes {
        let sorted = ids.is_sorted_by(|a, b| a < b);
        assert!(sorted, "of key {key}: {ids:?}");
    }
}

/// What ids are compared by.
fn order(id: &str) -> (u64, u64) {
    let sequence = id.split_once('-').and_then(|(_, sequence)| sequence.parse().ok());
    (millis(id), sequence.expect("an id has two numbers"))
}

/// The host that owns a stream, by its lease.
fn owner(redis: &mut Redis, stream: &str) -> Option<String> {
    let tag = stream.split_once('{').map_or(stream, |(_, rest)| rest.trim_end_matches('}'));
    let tenure: Option<String> = redis.ask(&format!("GET tidegate:{{{tag}}}:lease:{stream}:h"));
    Some(tenure?.rsplit_once('#')?.0.to_owned())
}

#[test]
fn messages_of_one_key_are_handled_in_order_also_when_some_fail() {
    let server = Server::start();
    let mut redis = server.client();
    let count = fill(&mut redis, "in", 8, 30);
    let _host = Host::start(&server, ORDERED);
    all_in_order(&mut redis, &["in"], count);
    assert_eq!(redis.length("{in}:dead"), 0);
}

#[test]
fn different_keys_are_handled_at_the_same_time() {
    let server = Server::start();
    let mut redis = server.client();
    for key in 0..8 {
        let key = key.to_string();
        redis.add("in", &[("key", &*key), ("data", &key), ("sleep-ms", "1000"), ("emit", "out")]);
    }
    let _host = Host::start(&server, ORDERED);
    eventually("all are in hand", || redis.pending("in", "h") == 8);
    let begun = Instant::now();
    redis.wait_for(8, "out");
    assert!(begun.elapsed() < Duration::from_secs(4), "after {:?}", begun.elapsed());
}

#[test]
fn a_failing_message_holds_back_its_own_key_alone_and_goes_before_those_behind_it() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, ORDERED);
    let add = |redis: &mut Redis, key: &str, extra: &[(&str, &str)]| {
        let fields = [&[("key", key), ("data", key)], extra, &[("emit", "out")]].concat();
        redis.add("in", &fields)
    };
    let failing = add(&mut redis, "a", &[("retry-after-ms", "4000")]);
    let behind: Vec<_> = (0..300).map(|_| add(&mut redis, "a", &[])).collect();
    eventually("the first of them waits", || {
        redis
            .ask::<Option<f64>>(&format!("ZSCORE tidegate:{{in}}:waiting:in:h {failing}"))
            .is_some()
    });
    let others: Vec<_> =
        (0..300).map(|n| add(&mut redis, if n % 2 == 0 { "b" } else { "c" }, &[])).collect();
    let out = redis.wait_for(others.len(), "out");
    assert!(out.iter().all(|entry| entry.get("data") != "a"), "it went before its time");
    all_in_order(&mut redis, &["in"], 1 + behind.len() + others.len());
}

#[test]
fn when_a_message_is_buried_the_next_of_its_key_goes_on() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, ORDERED);
    let dead = redis.add("in", &[("key", "a"), ("retry", "never works")]);
    let next = redis.add("in", &[("key", "a"), ("emit", "out")]);
    assert_eq!(redis.wait_first("out").get("id"), next);
    assert_eq!(redis.wait_first("{in}:dead").get("tidegate.id"), dead);
    assert_eq!(redis.wait_first("{in}:dead").get("tidegate.attempts"), "4");
    redis.wait_settled("in", "h");
}

#[test]
fn messages_without_the_field_share_one_lane() {
    let server = Server::start();
    let mut redis = server.client();
    for n in 0..20 {
        let sleep = if n % 2 == 0 { "8" } else { "0" };
        redis.add("in", &[("data", "none"), ("sleep-ms", sleep), ("emit", "out")]);
    }
    let _host = Host::start(&server, ORDERED);
    all_in_order(&mut redis, &["in"], 20);
}

#[test]
fn the_field_says_who_waits_and_not_what_is_handled() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = format!("{ORDERED}match = {{ kind = \"wanted\" }}\n");
    let _host = Host::start(&server, &manifest);
    redis.add(
        "in",
        &[("key", "a"), ("kind", "wanted"), ("retry-after-ms", "3000"), ("emit", "out")],
    );
    redis.add_many(50, "in", &[("key", "a"), ("kind", "another"), ("emit", "out")]);
    eventually("those not asked for are acknowledged", || {
        redis.has_group("in", "h") && redis.pending("in", "h") == 1
    });
    assert_eq!(redis.unread("in", "h"), 0);
    redis.wait_for(1, "out");
    redis.wait_settled("in", "h");
    assert_eq!(redis.length("out"), 1);
}

/// `probe-batch` gets many messages in a call.
#[test]
fn a_batch_has_one_message_of_a_key_at_most() {
    let server = Server::start();
    let mut redis = server.client();
    let count = fill(&mut redis, "in", 12, 25);
    let _host = Host::start(&server, &ORDERED.replace("probe.wasm", "probe_batch.wasm"));
    all_in_order(&mut redis, &["in"], count);
}

#[test]
fn another_host_takes_over_within_seconds_and_goes_on_in_order() {
    let server = Server::start();
    let mut redis = server.client();
    let mut first = Host::start(&server, &named("a", ORDERED));
    eventually("it owns the stream", || owner(&mut redis, "in").as_deref() == Some("a"));
    let _second = Host::start(&server, &named("b", ORDERED));
    let count = fill(&mut redis, "in", 6, 120);
    eventually("they are in mid-work", || redis.length("out") >= 50);
    let survivor = if owner(&mut redis, "in").as_deref() == Some("a") { "b" } else { "a" };
    // Either may own it by now; the other one stands by.
    if survivor == "a" {
        drop(_second);
    } else {
        first.kill();
    }
    let killed = Instant::now();
    assert!(redis.length("out") < count, "there was work left");
    eventually("the other owns it", || owner(&mut redis, "in").as_deref() == Some(survivor));
    assert!(killed.elapsed() < Duration::from_secs(10), "after {:?}", killed.elapsed());
    all_in_order(&mut redis, &["in"], count);
}

#[test]
fn an_owner_that_was_frozen_past_its_lease_writes_nothing_out_of_order() {
    let server = Server::start();
    let mut redis = server.client();
    let frozen = Host::start(&server, &named("a", ORDERED));
    eventually("it owns the stream", || owner(&mut redis, "in").as_deref() == Some("a"));
    let count = fill(&mut redis, "in", 6, 100);
    eventually("it is in mid-work", || redis.length("out") >= 50);
    frozen.signal("STOP");
    let _other = Host::start(&server, &named("b", ORDERED));
    eventually("the other owns it", || owner(&mut redis, "in").as_deref() == Some("b"));
    let then = redis.length("out");
    assert!(then < count, "there was work left");
    eventually("it goes on", || redis.length("out") > then);
    frozen.signal("CONT");
    all_in_order(&mut redis, &["in"], count);
    eventually("the first knows", || frozen.log().contains("not sure of the lease"));
}

#[test]
fn a_host_killed_again_and_again_keeps_the_order() {
    let server = Server::start();
    let mut redis = server.client();
    let count = fill(&mut redis, "in", 6, 100);
    let mut host = Host::start(&server, ORDERED);
    for at in [50, 200, 400] {
        eventually("it is in mid-work", || redis.length("out") >= at);
        host.kill();
        assert!(redis.length("out") < count, "there was work left");
        host.start_again();
    }
    all_in_order(&mut redis, &["in"], count);
}

/// How many of so many shards each host owns.
fn owned(redis: &mut Redis, shards: u32) -> BTreeMap<String, usize> {
    let mut owned = BTreeMap::new();
    for index in 0..shards {
        if let Some(name) = owner(redis, &format!("in:{{{index}}}")) {
            *owned.entry(name).or_default() += 1;
        }
    }
    owned
}

fn shares(shares: &[(&str, usize)]) -> BTreeMap<String, usize> {
    shares.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[test]
fn shards_are_spread_over_the_hosts_and_move_when_one_joins_dies_or_stops() {
    let server = Server::start();
    let mut redis = server.client();
    let streams: Vec<String> = (0..5).map(|index| format!("in:{{{index}}}")).collect();
    let mut count = 0;
    let mut more = |redis: &mut Redis| {
        for (index, stream) in streams.iter().enumerate() {
            for n in 0..20 {
                let key = format!("{index}-{}", n % 3);
                let fields = [("key", &*key), ("data", &key), ("sleep-ms", "5"), ("emit", "out")];
                redis.add(stream, &fields);
                count += 1;
            }
        }
        count
    };
    more(&mut redis);
    let manifest = sharded(5);
    let _first = Host::start(&server, &named("a", &manifest));
    eventually("one host owns all", || owned(&mut redis, 5) == shares(&[("a", 5)]));
    let mut second = Host::start(&server, &named("b", &manifest));
    let joined = Instant::now();
    eventually("two share", || {
        let owned = owned(&mut redis, 5);
        owned == shares(&[("a", 3), ("b", 2)]) || owned == shares(&[("a", 2), ("b", 3)])
    });
    assert!(joined.elapsed() < Duration::from_secs(8), "after {:?}", joined.elapsed());
    more(&mut redis);
    second.kill();
    let killed = Instant::now();
    more(&mut redis);
    eventually("the survivor owns all", || owned(&mut redis, 5) == shares(&[("a", 5)]));
    assert!(killed.elapsed() < Duration::from_secs(10), "after {:?}", killed.elapsed());
    second.start_again();
    eventually("two share again", || owned(&mut redis, 5).len() == 2);
    second.stop();
    let stopped = Instant::now();
    eventually("the first owns all", || owned(&mut redis, 5) == shares(&[("a", 5)]));
    assert!(stopped.elapsed() < Duration::from_secs(5), "after {:?}", stopped.elapsed());
    let count = more(&mut redis);
    let streams: Vec<&str> = streams.iter().map(String::as_str).collect();
    all_in_order(&mut redis, &streams, count);
}

#[test]
fn a_host_that_stops_gives_up_its_lease_at_once_and_leaves_nothing_behind_in_its_name() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &named("a", &sharded(2)));
    eventually("it owns both", || owned(&mut redis, 2) == shares(&[("a", 2)]));
    redis.add("in:{0}", &[("key", "a"), ("sleep-ms", "500"), ("emit", "out")]);
    eventually("it is in hand", || redis.pending("in:{0}", "h") == 1);
    host.stop();
    assert_eq!(redis.length("out"), 1, "what was in hand is finished");
    assert_eq!(redis.pending("in:{0}", "h"), 0);
    let mut left: Vec<String> = redis.ask("KEYS tidegate:*");
    left.sort();
    let kept = [
        "tidegate:{0}:generation:in:{0}:h",
        "tidegate:{1}:generation:in:{1}:h",
        "tidegate:{in}:shards:in",
    ];
    assert_eq!(left, kept);
    assert_eq!(redis.consumers("in:{0}", "h"), [""; 0]);
}

#[test]
fn another_number_of_shards_is_refused_with_the_way_to_change_it() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &sharded(4));
    eventually("it is at work", || !owned(&mut redis, 4).is_empty());
    host.stop();
    for other in [sharded(5), ORDERED.to_owned(), sharded(4).replace("\"key\"", "\"customer\"")] {
        let done = Setup::new(&server, &other).finish();
        assert!(!done.status.success());
        assert!(done.stderr.contains("is made of 4 shards by `key`"), "{}", done.stderr);
        assert!(
            done.stderr.contains("delete the key \"tidegate:{in}:shards:in\""),
            "{}",
            done.stderr
        );
    }
    redis.tell("DEL tidegate:{in}:shards:in");
    let _host = Host::start(&server, &sharded(5));
    eventually("it is at work", || owned(&mut redis, 5).len() == 1);
}

#[test]
fn publish_picks_the_shard_by_the_field_and_all_are_used() {
    let server = Server::start();
    let mut redis = server.client();
    let manifest = sharded(4);
    let lines: String = (0..200)
        .map(|n| format!("{{\"key\":\"k{}\",\"data\":\"k{}\",\"emit\":\"out\"}}\n", n % 40, n % 40))
        .collect();
    let publishing = Setup::new(&server, &manifest).file("lines", lines);
    publishing.command(&["publish", "in", "--file", "lines"]).finish().expect(0);
    let streams = ["in:{0}", "in:{1}", "in:{2}", "in:{3}"];
    let mut places: BTreeMap<String, &str> = BTreeMap::new();
    for stream in streams {
        assert!(redis.length(stream) > 0, "`{stream}` is not used");
        for key in redis.column(stream, "key") {
            assert_eq!(*places.entry(key).or_insert(stream), stream, "one key, one shard");
        }
    }
    // By the address alone, Redis says how; without the field it is the first.
    let url = server.url();
    let before = redis.length("in:{0}");
    let alone = Setup::new(&server, &manifest).command(&["publish", "in", "x=y", "--redis", &url]);
    alone.finish().expect(0);
    assert_eq!((redis.length("in:{0}"), redis.length("in")), (before + 1, 0));
    // CRC-32 of "123456789" is 0xcbf43926.
    Setup::new(&server, &manifest).command(&["publish", "in", "key=123456789"]).finish().expect(0);
    assert_eq!(
        redis.entries("in:{2}").last().map(|entry| entry.get("key")),
        Some("123456789".into())
    );
    let _host = Host::start(&server, &manifest);
    all_in_order(&mut redis, &streams, 200);
    let other = Setup::new(&server, &sharded(3)).command(&["publish", "in", "key=a"]).finish();
    assert!(other.stderr.contains("is made of 4 shards by `key`"), "{}", other.stderr);
}

#[test]
fn outputs_for_a_sharded_stream_go_to_the_shard_and_its_own_are_denied() {
    let server = Server::start();
    let mut redis = server.client();
    let first =
        "[handler.first]\nplugin = \"probe.wasm\"\nstream = \"start\"\noutputs = [\"in\"]\n";
    let second = sharded(3).replace("order-by = \"key\"", "order-by = \"data\"");
    let _host = Host::start(&server, &format!("{first}\n{}", second.replace("out*", "*")));
    for n in 0..60 {
        redis.add("start", &[("data", &*format!("k{}", n % 20)), ("emit", "in")]);
    }
    redis.wait_settled("start", "first");
    let lengths: Vec<usize> = (0..3).map(|i| redis.length(&format!("in:{{{i}}}"))).collect();
    assert_eq!(lengths.iter().sum::<usize>(), 60);
    assert!(lengths.iter().all(|length| *length > 0), "{lengths:?}");
    assert_eq!(redis.length("in"), 0);
    for own in ["in", "in:{1}"] {
        redis.add("in:{0}", &[("data", "a"), ("emit", own)]);
    }
    let letters = redis.wait_for(2, "in:{0}:dead");
    assert!(letters.iter().all(|letter| letter.get("tidegate.reason") == "denied"));
}

#[test]
fn status_and_dead_letters_are_told_by_shard() {
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, &named("a", &sharded(2)));
    eventually("it owns both", || owned(&mut redis, 2) == shares(&[("a", 2)]));
    redis.add("in:{1}", &[("key", "x"), ("reject", "no")]);
    redis.wait_first("in:{1}:dead");
    eventually("it knows the other one", || redis.consumers("in:{0}", "h") == ["a#1"]);
    let manifest = host.setup().folder().join("tidegate.toml");
    let manifest = manifest.to_str().expect("a path of a test is text");
    let command = |arguments: &[&str]| {
        let arguments = [arguments, &["--manifest", manifest, "--json"]].concat();
        Setup::new(&server, ORDERED).command(&arguments).finish().expect(0).json()
    };
    let status = command(&["status"]);
    let told = |at: usize| {
        let row = &status["handlers"][at];
        (
            row["stream"].clone(),
            row["shard"].clone(),
            row["owner"].clone(),
            row["hosts-alive"].clone(),
        )
    };
    assert_eq!(told(0), ("in:{0}".into(), 0.into(), "a".into(), 1.into()));
    assert_eq!(told(1), ("in:{1}".into(), 1.into(), "a".into(), 1.into()));
    assert!(command(&["dead", "list"]).to_string().contains("in:{1}"));
}

#[test]
fn a_group_that_is_lost_heals_and_the_order_holds() {
    let server = Server::start();
    let mut redis = server.client();
    let count = fill(&mut redis, "in", 4, 60);
    let host = Host::start(&server, ORDERED);
    eventually("it is in mid-work", || redis.length("out") >= 40);
    redis.tell("XGROUP DESTROY in h");
    eventually("it notices", || host.log().contains("the group is gone"));
    redis.wait_settled("in", "h");
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in redis.entries("out") {
        seen.entry(entry.get("data")).or_default().push(entry.get("id"));
    }
    // What was handled before is handled once more, from the beginning: one step back for each key, no more.
    let steps_back =
        |ids: &[String]| ids.windows(2).filter(|pair| order(&pair[0]) >= order(&pair[1])).count();
    assert!(seen.values().all(|ids| steps_back(ids) <= 1), "{seen:?}");
    let mut all: Vec<String> = seen.into_values().flatten().collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn connections_killed_again_and_again_keep_the_order() {
    let server = Server::start();
    let mut redis = server.client();
    let count = fill(&mut redis, "in", 6, 100);
    let _host = Host::start(&server, ORDERED);
    for at in [30, 120, 250, 400] {
        eventually("it is in mid-work", || redis.length("out") >= at);
        redis.kill_others();
    }
    all_in_order(&mut redis, &["in"], count);
}

#[test]
fn retries_whose_times_were_deleted_are_tried_at_once_and_hold_up_nobody() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, ORDERED);
    redis.add("in", &[("key", "a"), ("data", "a"), ("retry-after-ms", "600000"), ("emit", "out")]);
    redis.add("in", &[("key", "a"), ("data", "a"), ("emit", "out")]);
    eventually("the first waits", || redis.ask::<usize>("ZCARD tidegate:{in}:waiting:in:h") == 1);
    redis.tell("DEL tidegate:{in}:waiting:in:h");
    all_in_order(&mut redis, &["in"], 2);
}

#[test]
fn a_host_whose_redis_is_gone_stops_in_time_all_the_same() {
    let mut server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, &sharded(8));
    eventually("it owns all", || owned(&mut redis, 8).values().sum::<usize>() == 8);
    server.kill();
    let asked = Instant::now();
    host.stop();
    assert!(asked.elapsed() < Duration::from_secs(10), "after {:?}", asked.elapsed());
}
