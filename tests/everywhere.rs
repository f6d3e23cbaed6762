//! Messages that every host sees: of a stream by `delivery = "broadcast"`, of a channel as they are published.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::collections::HashMap;
use std::time::Duration;

use harness::{Done, Host, Redis, Running, Server, Setup, eventually, never};

/// Every host handles every message, and says which host it is.
const BROADCAST: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
delivery = "broadcast"
outputs = ["out"]
retry = { attempts = 3, first = "50ms" }
env = { HOST = "NAME" }
"#;

const CHANNEL: &str = r#"
[handler.h]
plugin = "probe.wasm"
channel = "news"
outputs = ["*"]
channels = ["*"]
env = { HOST = "NAME" }
"#;

/// The time by the server's clock that is this many days ago.
const DAYS_AGO: &str = "local t = redis.call('TIME') local ago = (t[1] - DAYS * 86400) * 1000 ";

fn named(name: &str, rest: &str) -> String {
    format!("[host]\nname = \"{name}\"\n{}", rest.replace("NAME", name))
}

#[track_caller]
fn start(server: &Server, name: &str, manifest: &str) -> Running {
    let host = Host::start(server, &named(name, manifest));
    eventually("it is ready", || host.log().contains("ready"));
    host
}

fn status(server: &Server, manifest: &str, arguments: &[&str]) -> Done {
    Setup::new(server, manifest).command(arguments).finish().expect(0)
}

/// How many entries each host left.
fn by_host(redis: &mut Redis, stream: &str) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for host in redis.column(stream, "env") {
        *counts.entry(host).or_default() += 1;
    }
    counts
}

fn each(hosts: &[&str], count: usize) -> HashMap<String, usize> {
    hosts.iter().map(|host| ((*host).to_owned(), count)).collect()
}

#[test]
fn every_host_handles_every_message_of_a_broadcast_once() {
    let server = Server::start();
    let mut redis = server.client();
    let _hosts = ["a", "b", "c"].map(|name| start(&server, name, BROADCAST));
    redis.add_many(200, "in", &[("env", "HOST"), ("emit", "out")]);
    for host in ["a", "b", "c"] {
        redis.wait_settled("in", &format!("h:{host}"));
    }
    assert_eq!(by_host(&mut redis, "out"), each(&["a", "b", "c"], 200));
    assert!(!redis.has_group("in", "h"), "nobody reads for all of them");
}

#[test]
fn a_host_of_a_broadcast_goes_on_where_it_stopped() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = start(&server, "a", BROADCAST);
    let work = [("env", "HOST"), ("emit", "out")];
    redis.add_many(5, "in", &work);
    redis.wait_settled("in", "h:a");
    host.stop();
    let late = redis.add_many(7, "in", &work);
    host.start_again();
    redis.wait_settled("in", "h:a");
    assert_eq!(by_host(&mut redis, "out"), each(&["a"], 12));
    let mut handled = redis.column("out", "id").split_off(5);
    handled.sort();
    assert_eq!(handled, late, "none of the earlier ones again");
}

#[test]
fn a_retry_on_one_host_of_a_broadcast_repeats_nothing_on_the_others() {
    let server = Server::start();
    let mut redis = server.client();
    let _sound = start(&server, "b", BROADCAST);
    // On this host alone nothing is granted: there the message is given up.
    let _failing = start(&server, "a", &BROADCAST.replace("outputs = [\"out\"]", ""));
    let both = [("env", "HOST"), ("retry-until", "2"), ("emit", "out")];
    let id = redis.add("in", &both);
    redis.wait_settled("in", "h:a");
    redis.wait_settled("in", "h:b");
    assert_eq!(by_host(&mut redis, "out"), each(&["b"], 1));
    assert_eq!(redis.column("out", "attempt"), ["2"]);
    let letters = redis.entries("{in}:dead");
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].get("tidegate.id"), id);
    assert_eq!(letters[0].get("tidegate.group"), "h:a");
    assert_eq!(letters[0].get("tidegate.reason"), "denied");
}

#[test]
fn a_message_that_every_host_buried_is_redriven_once() {
    let server = Server::start();
    let mut redis = server.client();
    let hosts = ["a", "b", "c"];
    let _hosts = hosts.map(|name| start(&server, name, BROADCAST));
    redis.add_many(2, "in", &[("reject", "never")]);
    redis.wait_for(6, "{in}:dead");
    let redrive = |arguments: &[&str]| {
        let arguments = [&["dead", "redrive"], arguments].concat();
        Setup::new(&server, BROADCAST).command(&arguments).finish().expect(0)
    };
    let would = redrive(&["--all", "--dry-run"]);
    assert!(
        would.stderr.contains("would move 2 messages to `in`; 4 other letters"),
        "{}",
        would.stderr
    );
    assert_eq!((redis.length("in"), redis.length("{in}:dead")), (2, 6));

    let moved = redrive(&["--all", "--limit", "1"]);
    assert!(moved.stderr.contains("moved 1 message to `in`; 2 other letters"), "{}", moved.stderr);
    let new: Vec<_> = moved.stdout.lines().map(|line| line.rsplit('\t').next().unwrap()).collect();
    assert_eq!(new, [new[0]; 3], "each letter, and the one message that it became");
    assert_eq!(redis.length("in"), 3);
    let settle = |redis: &mut Redis| {
        for host in hosts {
            redis.wait_settled("in", &format!("h:{host}"));
        }
    };
    // Three of the other message, and each host's own of the new one.
    settle(&mut redis);
    assert_eq!(redis.length("{in}:dead"), 6);

    // One that is named takes the others along.
    let last = redis.entries("{in}:dead").pop().unwrap().id;
    redrive(&[&last]);
    settle(&mut redis);
    assert_eq!((redis.length("in"), redis.length("{in}:dead")), (4, 6));
}

#[test]
fn two_live_hosts_of_one_name_each_see_a_broadcast() {
    let server = Server::start();
    let mut redis = server.client();
    let _first = start(&server, "twin", BROADCAST);
    let _second = start(&server, "twin", BROADCAST);
    redis.add_many(20, "in", &[("emit", "out")]);
    redis.wait_settled("in", "h:twin");
    redis.wait_settled("in", "h:twin-2");
    assert_eq!(redis.length("out"), 40);
}

#[test]
fn the_group_of_a_host_that_is_gone_for_a_week_is_removed_and_no_other() {
    let server = Server::start();
    let mut redis = server.client();
    redis.add_many(3, "in", &[("data", "x")]);
    for (host, days) in [("gone", 8), ("away", 6), ("quiet", 8)] {
        redis.tell(&format!("XGROUP CREATE in h:{host} 0"));
        redis.tell(&format!("XREADGROUP GROUP h:{host} {host} COUNT 1 STREAMS in >"));
        let ago = DAYS_AGO.replace("DAYS", &days.to_string());
        redis.eval(&format!(
            "{ago} redis.call('HSET', 'tidegate:{{in}}:broadcast:in:h', '{host}', string.format('%.0f', ago))"
        ));
    }
    // Its clock was wrong, or Redis could not be written to: it is alive.
    redis.tell("SET tidegate:{in}:live:in:h:quiet x");
    redis.tell("XGROUP CREATE in another:gone 0");
    redis.tell("ZADD tidegate:{in}:waiting:in:h:gone 1 1-1");
    let host = start(&server, "a", BROADCAST);
    assert!(!redis.has_group("in", "h:gone"));
    assert_eq!(redis.ask::<usize>("EXISTS tidegate:{in}:waiting:in:h:gone"), 0);
    for group in ["h:away", "h:quiet", "h:a", "another:gone"] {
        assert!(redis.has_group("in", group), "{group}");
    }
    assert!(host.log().contains("removed the group of a host"), "{}", host.log());
    let mut members: Vec<String> = redis.ask("HKEYS tidegate:{in}:broadcast:in:h");
    members.sort();
    assert_eq!(members, ["a", "away", "quiet"]);
}

#[test]
fn a_death_on_one_host_of_a_broadcast_is_not_forgotten_by_the_others() {
    let server = Server::start();
    let mut redis = server.client();
    let mut killed = start(&server, "a", &format!("{BROADCAST}concurrency = 4\n"));
    let begun = |host: &Running| host.log().matches("begun").count();
    redis.add_many(
        3,
        "in",
        &[("print", "begun"), ("sleep-ms", "1500"), ("env", "HOST"), ("emit", "out")],
    );
    eventually("they are in flight", || begun(&killed) == 3);
    killed.kill();
    redis.tell("DEL tidegate:{in}:live:in:h:a");
    let other = start(&server, "b", BROADCAST);
    redis.wait_settled("in", "h:b");
    // Once this is taken over, the other has looked at who is gone.
    redis.tell("XGROUP CREATECONSUMER in h:b stray");
    redis.eval(
        "local id = redis.call('XADD', 'in', '*', 'env', 'HOST', 'emit', 'out')
        redis.call('XREADGROUP', 'GROUP', 'h:b', 'stray', 'STREAMS', 'in', '>')
        redis.call('XCLAIM', 'in', 'h:b', 'stray', 0, id, 'IDLE', 60000, 'JUSTID')",
    );
    eventually("it looks around", || by_host(&mut redis, "out").get("b") == Some(&4));
    assert_eq!(begun(&other), 3);
    killed.start_again();
    eventually("one of them is tried", || begun(&killed) == 1);
    never(Duration::from_secs(1), "others run beside it", || begun(&killed) > 1);
    redis.wait_settled("in", "h:a");
    assert_eq!(by_host(&mut redis, "out"), each(&["a", "b"], 4));
}

#[test]
fn status_sums_a_broadcast_up_over_its_hosts() {
    let server = Server::start();
    let mut redis = server.client();
    let mut stopped = start(&server, "b", BROADCAST);
    let _host = start(&server, "a", BROADCAST);
    redis.add_many(2, "in", &[("data", "x")]);
    redis.wait_settled("in", "h:b");
    stopped.stop();
    redis.add_many(3, "in", &[("retry-after-ms", "60000")]);
    eventually("they wait on the other host", || {
        redis.ask::<usize>("ZCARD tidegate:{in}:waiting:in:h:a") == 3
    });
    let told = status(&server, BROADCAST, &["status", "--json"]).json();
    let handler = &told["handlers"][0];
    assert_eq!((&handler["delivery"], &handler["group"]), (&"broadcast".into(), &"h".into()));
    // A server that does not count what is unread cannot tell.
    let unread = &handler["unread"];
    assert!(unread.is_null() || *unread == 3, "for the host that stopped: {handler}");
    assert_eq!(handler["pending"], 3, "of the other: {handler}");
    assert_eq!(handler["retries-waiting"], 3, "{handler}");
    assert_eq!(handler["hosts-alive"], 1, "{handler}");
    let hosts = handler["hosts"].as_array().unwrap();
    let names: Vec<_> = hosts.iter().map(|host| host["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a"], "the other took its leave");
    assert!(status(&server, BROADCAST, &["status"]).stdout.contains("h:*"));
}

/// Publishes, and gives how many heard it.
fn publish(redis: &mut Redis, channel: &str, payload: &str) -> usize {
    let mut command = redis::cmd("PUBLISH");
    redis.query(command.arg(channel).arg(payload))
}

fn subscribers(redis: &mut Redis, channel: &str) -> usize {
    redis.ask::<(String, usize)>(&format!("PUBSUB NUMSUB {channel}")).1
}

#[test]
fn a_message_on_a_channel_reaches_the_plugin_on_every_host() {
    let server = Server::start();
    let mut redis = server.client();
    let _hosts = ["a", "b"].map(|name| start(&server, name, CHANNEL));
    assert_eq!(subscribers(&mut redis, "news"), 2, "a host that is ready listens");
    let work = "env=HOST stream emit=out notice=heard data=x delay-ms=50 emit=later";
    assert_eq!(publish(&mut redis, "news", work), 2);
    redis.wait_for(2, "later");
    assert_eq!(by_host(&mut redis, "out"), each(&["a", "b"], 1));
    let entry = redis.wait_first("out");
    assert_eq!((entry.get("stream"), entry.get("attempt")), ("news".into(), "1".into()));
    let (millis, sequence) =
        entry.get("id").split_once('-').map(|(m, s)| (m.len(), s.len())).unwrap();
    assert!(millis == 13 && sequence == 1, "an id such as a stream's: {}", entry.get("id"));
    let keys: Vec<String> = redis.ask("KEYS *");
    let own = keys.iter().filter(|key| key.contains("tidegate:") && !key.contains("delayed"));
    assert_eq!(own.count(), 0, "nothing is kept of a channel: {keys:?}");
}

#[test]
fn a_pattern_stands_for_many_channels() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = start(&server, "a", &CHANNEL.replace("\"news\"", "\"news.?\""));
    assert_eq!(publish(&mut redis, "news", "emit=out"), 0);
    for channel in ["news.b", "news.a"] {
        assert_eq!(publish(&mut redis, channel, "stream emit=out"), 1);
    }
    redis.wait_for(2, "out");
    let mut channels = redis.column("out", "stream");
    channels.sort();
    assert_eq!(channels, ["news.a", "news.b"]);
}

#[test]
fn a_channel_is_subscribed_to_again_after_its_connection_was_killed() {
    let server = Server::start();
    let mut redis = server.client();
    let host = start(&server, "a", CHANNEL);
    for round in 1..=3 {
        let killed: usize = redis.ask("CLIENT KILL TYPE pubsub");
        assert_eq!(killed, 1);
        eventually("it listens again", || {
            host.log().matches("subscribed ").count() == round + 1
                && subscribers(&mut redis, "news") == 1
        });
        publish(&mut redis, "news", "emit=out");
        redis.wait_for(round, "out");
    }
    let told = host.log().matches("not subscribed; trying again").count();
    assert_eq!(told, 3, "once for each time");
}

#[test]
fn a_failed_message_of_a_channel_is_counted_and_does_not_come_back() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = start(&server, "a", CHANNEL);
    let works =
        ["emit=seen retry=no", "reject=no", "trap=no", "emit=tidegate:x", "notice=news data=x"];
    for work in works {
        publish(&mut redis, "news", work);
    }
    redis.tell("SET bad x");
    publish(&mut redis, "news", "emit=bad");
    publish(&mut redis, "news", "emit=out");
    redis.wait_first("out");
    host.stop();
    let keys: Vec<String> = redis.ask("KEYS *");
    assert_eq!(keys.len(), 2, "neither a retry nor a dead letter: {keys:?}");
    let log = host.log();
    assert!(log.contains("handled=1 failed=6 dropped=0"), "{log}");
    assert!(log.contains("the handler's own, which it would feed for ever"), "{log}");
}

#[test]
fn a_flood_on_a_channel_neither_blocks_nor_kills_and_the_oldest_give_way() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = start(&server, "a", &format!("{CHANNEL}concurrency = 1\n"));
    publish(&mut redis, "news", "print=begun sleep-ms=700");
    eventually("it is busy", || host.log().contains("begun"));
    // More than the mailbox holds, less than the server keeps for a slow subscriber.
    redis.eval("for n = 1, 15000 do redis.call('PUBLISH', 'news', 'emit=out data=' .. n) end");
    eventually("it says so", || host.log().contains("the oldest of those that wait are dropped"));
    eventually("the newest is handled", || {
        redis.column("out", "data").last().is_some_and(|last| last == "15000")
    });
    let handled = redis.length("out");
    assert!((10_000..15_000).contains(&handled), "{handled} of 15000 were kept");
    assert_eq!(host.log().matches("come faster than they are handled").count(), 1, "told once");
    assert!(host.is_running());
    host.stop();
    let sums = format!("handled={} failed=0 dropped={}", handled + 1, 15_000 - handled);
    assert!(host.log().contains(&sums), "{sums}\n{}", host.log());
}

#[test]
fn a_stop_finishes_what_is_in_hand_of_a_channel() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = start(&server, "a", CHANNEL);
    publish(&mut redis, "news", "print=begun sleep-ms=400 emit=out");
    eventually("it is in hand", || host.log().contains("begun"));
    host.stop();
    assert_eq!(redis.length("out"), 1);
}

#[test]
fn a_user_who_may_not_subscribe_is_told_and_listens_once_it_may() {
    let server = Server::start();
    let mut redis = server.client();
    redis.tell("ACL SETUSER h on >p ~* +@all resetchannels");
    let login = "username = \"h\"\npassword = \"p\"\n";
    let host = Host::start(&server, &format!("{login}{CHANNEL}"));
    eventually("it is told", || host.log().contains("this user may not subscribe"));
    redis.tell("ACL SETUSER h &news");
    eventually("it listens", || subscribers(&mut redis, "news") == 1);
    publish(&mut redis, "news", "emit=out");
    redis.wait_first("out");
    assert_eq!(host.log().matches("this user may not subscribe").count(), 1, "told once");
}

#[test]
fn check_status_and_dead_cope_with_a_channel() {
    let server = Server::start();
    let _host = start(&server, "a", CHANNEL);
    status(&server, CHANNEL, &["check"]);
    let told = status(&server, CHANNEL, &["status", "--json"]).json();
    let handler = &told["handlers"][0];
    assert_eq!((&handler["delivery"], &handler["channel"]), (&"channel".into(), &"news".into()));
    assert_eq!(handler["subscribers"], 1);
    for absent in ["stream", "group", "pending", "dead-letter", "dead"] {
        assert!(handler[absent].is_null(), "{absent}: {handler}");
    }
    assert!(status(&server, CHANNEL, &["status"]).stdout.contains("news (channel)"));
    let dead = status(&server, CHANNEL, &["dead", "list"]);
    assert!(
        dead.stderr.contains("`h` is on a channel, which has no dead letters"),
        "{}",
        dead.stderr
    );
}
