//! The primary dies, stands still or steps down, and another takes its place: the host follows it, and loses nothing.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::net::TcpListener;
use std::time::Duration;

use harness::{
    Host, Options, Proxy, Redis, Running, Sentinel, Server, Setup, Watched, eventually, never,
    pair, role, table, within,
};

const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out*"]
concurrency = 16
retry = { attempts = 5, first = "20ms", max = "100ms" }
"#;

/// A failover takes some seconds, and the host a few more at most.
const MENDED: Duration = Duration::from_secs(60);

/// Messages that the replica has too, so that no failover loses them.
fn fill(redis: &mut Redis, count: usize, fields: &[(&str, &str)]) -> Vec<String> {
    let ids = redis.add_many(count, "in", fields);
    eventually("the replica has them", || redis.ask::<usize>("WAIT 1 1000") == 1);
    ids
}

/// A host in the middle of this many messages, each of which writes one entry.
fn in_mid_work(watched: &Watched, count: usize) -> (Running, Vec<String>) {
    let mut redis = watched.first.client();
    let ids = fill(&mut redis, count, &[("sleep-ms", "10"), ("emit", "out")]);
    let host = Running::of(Setup::alone(&format!("{}{PROBE}", watched.table())));
    eventually("it is in mid-work", || redis.length("out") >= 50);
    (host, ids)
}

/// Everything was handled by what this server knows, each message once.
#[track_caller]
fn the_sums_hold(server: &Server, mut ids: Vec<String>) {
    let mut redis = server.client();
    within(MENDED, "every message is handled", || redis.length("out") >= ids.len());
    redis.wait_settled("in", "h");
    let mut written = redis.column("out", "id");
    written.sort();
    ids.sort();
    assert_eq!(written, ids);
}

/// The connections of the host that a server sees.
fn connections(redis: &mut Redis) -> usize {
    let clients: String = redis.ask("CLIENT LIST");
    clients.lines().filter(|line| line.contains(" name=tidegate:")).count()
}

#[test]
fn a_primary_that_is_killed_is_followed_by_the_next_and_nothing_is_lost() {
    let mut watched = Watched::start(Options::default());
    let (host, ids) = in_mid_work(&watched, 3000);
    watched.first.kill();
    watched.wait_for_failover();
    the_sums_hold(&watched.second, ids);
    assert!(host.log().contains("failed over to another primary"), "{}", host.log());
}

#[test]
fn a_failover_by_hand_takes_every_connection_along() {
    let watched = Watched::start(Options::default());
    let (host, ids) = in_mid_work(&watched, 3000);
    watched.sentinels[0].client().tell("SENTINEL FAILOVER m");
    watched.wait_for_failover();
    the_sums_hold(&watched.second, ids);
    let mut first = watched.first.client();
    eventually("nothing is left with the old one", || connections(&mut first) == 0);
    let log = host.log();
    assert_eq!(log.matches("failover:").count(), 1, "one warning: {log}");
    assert_eq!(log.matches("failed over to another primary").count(), 1, "one end: {log}");
}

#[test]
fn a_primary_that_stands_still_past_its_failover_is_not_worked_with_when_it_goes_on() {
    let watched = Watched::start(Options::default());
    let (_host, ids) = in_mid_work(&watched, 3000);
    watched.first.signal("STOP");
    watched.wait_for_failover();
    the_sums_hold(&watched.second, ids);
    // It believes that it is the primary until the sentinels tell it otherwise.
    watched.first.signal("CONT");
    let mut first = watched.first.client();
    eventually("what was sent to it is done, and no connection left", || {
        connections(&mut first) == 0
    });
    let (mut second, before) = (watched.second.client(), first.length("out"));
    second.add("in", &[("emit", "out2")]);
    second.wait_first("out2");
    second.wait_settled("in", "h");
    if role(&mut first) == "master" {
        assert_eq!(first.length("out"), before);
        assert!(!first.exists("out2"));
    }
}

#[test]
fn an_idle_host_follows_a_failover_of_a_primary_that_stands_still() {
    let watched = Watched::start(Options::default());
    let channel =
        "[handler.c]\nplugin = \"probe.wasm\"\nchannel = \"news\"\noutputs = [\"heard\"]\n";
    let manifest = format!("{}{PROBE}{channel}", watched.table());
    let host = Running::of(Setup::alone(&manifest));
    let mut first = watched.first.client();
    eventually("it reads", || first.readers() == 1 && host.log().contains("subscribed"));
    watched.first.signal("STOP");
    watched.wait_for_failover();
    let mut second = watched.second.client();
    second.add("in", &[("emit", "out")]);
    within(MENDED, "it is handled", || second.length("out") == 1);
    within(MENDED, "it listens there", || second.ask::<usize>("PUBLISH news x") == 1);
    watched.first.signal("CONT");
}

#[test]
fn retries_that_wait_and_values_in_order_survive_a_failover() {
    let mut watched = Watched::start(Options::default());
    let mut redis = watched.first.client();
    for n in 0..60 {
        let (turn, key) = (n.to_string(), ["a", "b", "c"][n % 3]);
        redis.add(
            "ordered",
            &[("key", key), ("data", &turn), ("sleep-ms", "100"), ("emit", "done")],
        );
    }
    redis.add("in", &[("retry-after-ms", "8000"), ("emit", "out")]);
    let ordered = "[handler.o]\nplugin = \"probe.wasm\"\nstream = \"ordered\"\norder-by = \"key\"\noutputs = [\"done\"]\n";
    let _host = Running::of(Setup::alone(&format!("{}{PROBE}{ordered}", watched.table())));
    let waiting = "tidegate:{in}:waiting:in:h";
    eventually("one waits, and the others are in mid-work", || {
        redis.exists(waiting) && redis.length("done") >= 6
    });
    eventually("the replica has all of it", || redis.ask::<usize>("WAIT 1 1000") == 1);
    watched.first.kill();
    watched.wait_for_failover();
    let mut redis = watched.second.client();
    within(MENDED, "all in order are handled", || redis.length("done") >= 60);
    redis.wait_settled("ordered", "o");
    let done = redis.entries("done");
    assert_eq!(done.len(), 60);
    for first in 0..3 {
        let turns = done.iter().map(|entry| entry.get("data").parse::<usize>().unwrap());
        let turns: Vec<_> = turns.filter(|turn| turn % 3 == first).collect();
        assert!(turns.is_sorted(), "{turns:?}");
    }
    within(MENDED, "the retry comes", || redis.length("out") == 1);
    assert_eq!(redis.column("out", "attempt"), ["2"]);
}

#[test]
fn sentinels_are_asked_again_on_connections_that_are_kept() {
    let watched = Watched::start(Options::default());
    let _host = Running::of(Setup::alone(&format!("{}{PROBE}", watched.table())));
    let asked = || watched.sentinels.iter().map(|one| one.askers()).collect::<Vec<_>>();
    eventually("all are asked", || asked().iter().all(|askers| askers.len() == 1));
    let first: Vec<_> = asked().iter().map(|askers| askers[0].0).collect();
    // They are asked once a second.
    eventually("the connections grow old", || {
        let now = asked();
        let same = now.iter().zip(&first).all(|(askers, first)| askers[0].0 == *first);
        assert!(same, "{now:?} instead of {first:?}");
        now.iter().all(|askers| askers[0].1 >= 5)
    });
}

/// Takes connections and never says a word.
fn mute() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

#[test]
fn one_sentinel_that_answers_is_enough_and_those_that_come_later_are_waited_for() {
    let server = Server::with(Options { tcp: true, ..Options::default() });
    let silent = mute();
    // Nobody listens there yet.
    let later = mute().local_addr().unwrap().port();
    let ports = [later, silent.local_addr().unwrap().port()];
    let host = Running::of(Setup::alone(&format!("{}{PROBE}", table(&ports))));
    eventually("it says why it waits", || {
        let log = host.log();
        log.contains("no sentinel says which server is the primary")
            && log.contains(&later.to_string())
    });
    let _sentinel = Sentinel::at(later, Some(server.port), &[]);
    let mut redis = server.client();
    redis.add("in", &[("emit", "out")]);
    within(MENDED, "it is handled", || redis.length("out") == 1);
}

#[test]
fn a_master_that_no_sentinel_knows_is_named_and_ends_the_start() {
    let sentinel = Sentinel::over(None, &[]);
    let done = Setup::alone(&format!("{}{PROBE}", table(&[sentinel.port]))).finish().expect(1);
    let port = sentinel.port.to_string();
    let told = done.stderr.contains("`m`") && done.stderr.contains(&port);
    assert!(told && done.stderr.contains("redis.sentinel.master"), "{}", done.stderr);
}

#[test]
fn sentinels_have_credentials_of_their_own_that_are_never_shown() {
    const SECRET: &str = "s3cr3t-of-the-sentinel";
    const OTHER: &str = "s3cr3t-of-the-server";
    let options = Options { tcp: true, password: Some(OTHER), ..Options::default() };
    let server = Server::with(options);
    let lines = [format!("sentinel auth-pass m {OTHER}"), format!("requirepass {SECRET}")];
    let sentinel = Sentinel::over(Some(server.port), &[&lines[0], &lines[1]]);
    let manifest = |password: &str| {
        let table = table(&[sentinel.port]);
        let table = table.replace("] }", &format!("], password = \"{password}\" }}"));
        format!("{table}password = \"{OTHER}\"\n{PROBE}")
    };
    let done = Setup::alone(&manifest("wr0ng")).finish().expect(1);
    assert!(done.stderr.contains("redis.sentinel.username"), "{}", done.stderr);
    assert!(!done.stderr.contains("wr0ng") && !done.stderr.contains(OTHER), "{}", done.stderr);
    let host = Running::of(Setup::alone(&manifest(SECRET)));
    let mut redis = server.client();
    redis.add("in", &[("emit", "out")]);
    redis.wait_first("out");
    assert!(!host.log().contains("s3cr3t"), "{}", host.log());
}

#[test]
fn where_an_address_leads_to_another_server_every_connection_follows_the_first_that_does() {
    let (first, second) = pair(Options::default());
    let proxy = Proxy::before(&first);
    let mut redis = first.client();
    let ids = fill(&mut redis, 2000, &[("sleep-ms", "10"), ("emit", "out")]);
    let host = Host::at(&proxy.url(), PROBE);
    eventually("it is in mid-work", || redis.length("out") >= 50);
    // The old one stays a primary, and keeps the connections that it has: only the reader's breaks.
    proxy.lead_to(&second);
    second.client().tell("REPLICAOF NO ONE");
    proxy.cut_replies("XREADGROUP", 0, 1);
    the_sums_hold(&second, ids);
    eventually("nothing is left with the old one", || connections(&mut redis) == 0);
    assert!(host.log().contains("another answers in its place"), "{}", host.log());
}

#[test]
fn an_address_that_leads_to_two_servers_in_turn_is_told_of_with_the_remedy() {
    let (first, second) = (Server::start(), Server::start());
    let proxy = Proxy::before(&first);
    let host = Host::at(&proxy.url(), PROBE);
    let mut leads_to = [&second, &first].into_iter().cycle();
    within(MENDED, "it says so", || {
        proxy.lead_to(leads_to.next().unwrap());
        first.client().kill_others();
        second.client().kill_others();
        host.log().contains("which has to lead to the primary alone")
    });
}

#[test]
fn what_was_settled_without_a_witness_before_its_server_was_replaced_is_not_confirmed_by_the_next()
{
    let (first, second) = pair(Options::default());
    let lines = vec![format!("replicaof 127.0.0.1 {}", second.port)];
    let _third = Server::with(Options { tcp: true, lines, ..Options::default() });
    let proxy = Proxy::before(&first);
    let (mut redis, mut next) = (first.client(), second.client());
    let host = Host::at(&proxy.url(), &format!("{PROBE}durability = \"replica\"\n"));
    let ids = vec![redis.add("in", &[("sleep-ms", "2000"), ("emit", "out")])];
    eventually("it is in hand", || redis.pending("in", "h") == 1);
    redis.tell("SET mark text");
    assert_eq!(redis.ask::<usize>("WAIT 1 5000"), 1, "the replica knows that it is");
    // From here on the replica hears of nothing more, and then takes over.
    next.tell("REPLICAOF NO ONE");
    eventually("it is settled", || redis.length("out") == 1);
    eventually("nobody confirms it", || host.log().contains("is not confirmed"));
    proxy.lead_to(&second);
    proxy.cut();
    the_sums_hold(&second, ids);
    eventually("one is counted", || next.sign("in", "h")["handled"] == 1);
    never(Duration::from_secs(6), "another is", || next.sign("in", "h")["handled"] != 1);
}
