//! Ordered streams that are made of several: who owns which, and where messages go.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::harness::{Host, Redis, Server, Setup, eventually, never};
use super::{ORDERED, all_in_order, named, owner};

/// The same, on several streams.
fn sharded(shards: u32) -> String {
    format!("{ORDERED}shards = {shards}\n")
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
    assert!(killed.elapsed() < Duration::from_secs(8), "after {:?}", killed.elapsed());
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
    for at in [&["--redis", &url][..], &[]] {
        let astray = [&["publish", "in:{4}", "key=a"], at].concat();
        let done = Setup::new(&server, &manifest).command(&astray).finish();
        assert!(done.stderr.contains("the last of them `in:{3}`"), "{}", done.stderr);
        done.expect(2);
    }
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
fn an_output_for_a_shard_that_does_not_exist_is_denied_and_says_which_do() {
    let server = Server::start();
    let mut redis = server.client();
    let astray =
        "[handler.first]\nplugin = \"probe.wasm\"\nstream = \"start\"\noutputs = [\"in:{3}\"]\n";
    let _host = Host::start(&server, &format!("{astray}\n{}", sharded(3)));
    redis.add("start", &[("data", "a"), ("emit", "in:{3}")]);
    let letter = redis.wait_first("{start}:dead");
    assert_eq!(letter.get("tidegate.reason"), "denied");
    let error = letter.get("tidegate.error");
    assert!(error.contains("the last of them `in:{2}`"), "{error}");
    assert_eq!(redis.length("in:{3}"), 0);
}

/// Each is taken when its lease ends, not when it happens to be looked for: so none waits for a beat.
#[test]
fn a_shard_moves_as_soon_as_the_lease_of_its_dead_owner_has_run_out() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, &named("b", &sharded(12)));
    eventually("it owns all", || owned(&mut redis, 12) == shares(&[("b", 12)]));
    let (begun, mut ends, mut moved) = (Instant::now(), Vec::new(), BTreeMap::new());
    for index in 0..12 {
        let millis = 2500 + 170 * index;
        let lease = format!("tidegate:{{{index}}}:lease:in:{{{index}}}:h");
        redis.tell(&format!("SET {lease} dead#1 PX {millis}"));
        ends.push(begun.elapsed() + Duration::from_millis(millis));
    }
    eventually("the host owns them again", || {
        for index in 0..12 {
            if owner(&mut redis, &format!("in:{{{index}}}")).as_deref() == Some("b") {
                moved.entry(index).or_insert_with(|| begun.elapsed());
            }
        }
        moved.len() == 12
    });
    let late: Vec<_> =
        ends.iter().zip(moved.values()).map(|(end, at)| at.saturating_sub(*end)).collect();
    let mean = late.iter().sum::<Duration>() / 12;
    assert!(mean < Duration::from_millis(400), "{mean:?}: {late:?}");
}

#[test]
fn status_and_dead_letters_are_told_by_shard() {
    let server = Server::start();
    let mut redis = server.client();
    let first = Host::start(&server, &named("a", &sharded(2)));
    let _second = Host::start(&server, &named("b", &sharded(2)));
    eventually("they share", || owned(&mut redis, 2) == shares(&[("a", 1), ("b", 1)]));
    redis.add("in:{1}", &[("key", "x"), ("reject", "no")]);
    redis.wait_first("in:{1}:dead");
    let manifest = first.setup().folder().join("tidegate.toml");
    let manifest = manifest.to_str().expect("a path of a test is text");
    let command = |arguments: &[&str]| {
        let arguments = [arguments, &["--manifest", manifest, "--json"]].concat();
        Setup::new(&server, ORDERED).command(&arguments).finish().expect(0).json()
    };
    let status = command(&["status"]);
    for (index, stream) in ["in:{0}", "in:{1}"].into_iter().enumerate() {
        let row = &status["handlers"][index];
        assert_eq!((&row["stream"], &row["shard"]), (&stream.into(), &index.into()));
        assert_eq!(row["owner"].as_str().map(str::to_owned), owner(&mut redis, stream));
        assert_eq!(row["hosts-alive"], 2, "one stands by: {row}");
    }
    assert!(command(&["dead", "list"]).to_string().contains("in:{1}"));
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

#[test]
fn messages_that_nobody_reads_are_told_of() {
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, &sharded(2));
    redis.add("in", &[("key", "a")]);
    eventually("it says so", || host.log().contains("which nobody reads"));
    assert_eq!(redis.length("in"), 1);
}

#[test]
fn an_owner_that_was_frozen_takes_nothing_back_from_another_of_its_name() {
    let server = Server::start();
    let mut redis = server.client();
    let named = named("n", ORDERED);
    let frozen = Host::start(&server, &named);
    let lease = "GET tidegate:{in}:lease:in:h";
    let tenure = |redis: &mut Redis| redis.ask::<Option<String>>(lease).unwrap_or_default();
    eventually("it owns the stream", || tenure(&mut redis) == "n#1");
    frozen.signal("STOP");
    // It stood still for so long that nobody knows it any more.
    redis.tell("DEL tidegate:{in}:live:in:h:n tidegate:{in}:lease:in:h");
    let _other = Host::start(&server, &named);
    eventually("the other owns it", || tenure(&mut redis) == "n#2");
    frozen.signal("CONT");
    never(Duration::from_secs(5), "it is taken back", || tenure(&mut redis) == "n#3");
}
