//! Redis and the network failing under a host at work: nothing is lost, nothing is done twice, and it mends.

mod harness;

use std::time::Duration;

use harness::{Host, Options, Proxy, Redis, Running, Server, Setup, eventually, random, within};

/// A handler whose messages take a moment, so that there is a middle of the work.
const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out*"]
concurrency = 16
retry = { attempts = 5, first = "20ms", max = "100ms" }
"#;

/// Mending takes some seconds at most: a silent connection has to be noticed first.
const MENDED: Duration = Duration::from_secs(40);

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}

fn fill(redis: &mut Redis, count: usize) -> Vec<String> {
    let ids = redis.add_many(count, "in", &[("sleep-ms", "4"), ("emit", "out"), ("data", "x")]);
    sorted(ids)
}

/// Everything was handled, each message once.
#[track_caller]
fn the_sums_hold(redis: &mut Redis, ids: &[String]) {
    within(MENDED, "every message is handled", || redis.length("out") >= ids.len());
    redis.wait_settled("in", "h");
    let landed = sorted(redis.column("out", "id"));
    assert_eq!(landed.len(), ids.len(), "each once");
    assert_eq!(landed, ids);
    assert_eq!(redis.length("{in}:dead"), 0);
}

/// A host behind a proxy.
fn behind_proxy() -> (Server, Redis, Proxy, Running) {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let host = Host::at(&proxy.url(), PROBE);
    let redis = server.client();
    (server, redis, proxy, host)
}

#[test]
fn a_redis_killed_in_mid_work_and_restarted_loses_nothing() {
    let mut server = Server::with(Options { durable: true, ..Options::default() });
    let mut redis = server.client();
    let ids = fill(&mut redis, 2000);
    let _host = Host::start(&server, PROBE);
    for at in [200, 800] {
        eventually("it is in mid-work", || redis.length("out") >= at);
        server.kill();
        server.begin();
        redis = server.client();
        assert!(redis.length("out") < 2000, "there was work left");
    }
    the_sums_hold(&mut redis, &ids);
}

#[test]
fn a_host_started_before_its_redis_says_so_and_waits() {
    let mut server = Server::absent(Options::default());
    let host = Host::start(&server, PROBE);
    eventually("it says that it waits", || host.log().contains("cannot reach Redis"));
    server.begin();
    let mut redis = server.client();
    redis.add("in", &[("emit", "out")]);
    redis.wait_first("out");
}

#[test]
fn a_redis_that_is_still_loading_is_waited_for() {
    let mut server = Server::with(Options { durable: true, ..Options::default() });
    let mut redis = server.client();
    redis.tell("CONFIG SET key-load-delay 300");
    redis.tell("CONFIG REWRITE");
    let ids = fill(&mut redis, 300);
    let pairs: Vec<String> = (0..2000).map(|n| format!("k{n} v")).collect();
    redis.tell(&format!("MSET {}", pairs.join(" ")));
    let _host = Host::start(&server, PROBE);
    eventually("it is in mid-work", || redis.length("out") >= 50);
    server.kill();
    server.begin();
    the_sums_hold(&mut server.client(), &ids);
}

#[test]
fn connections_killed_again_and_again_strand_nothing() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = fill(&mut redis, 3000);
    let _host = Host::start(&server, PROBE);
    let mut killed = 0;
    for at in (150..2900).step_by(250) {
        within(MENDED, "it goes on", || redis.length("out") >= at);
        killed += redis.kill_others();
    }
    assert!(killed >= 10, "only {killed} connections were killed");
    the_sums_hold(&mut redis, &ids);
}

#[test]
fn a_reply_cut_off_in_its_middle_strands_no_message() {
    let (_server, mut redis, proxy, _host) = behind_proxy();
    eventually("it reads", || redis.readers() == 1);
    for bytes in [0, 1, 40, 400] {
        proxy.cut_replies("XREADGROUP", bytes, 1);
        let before = (proxy.cuts(), redis.length("out"));
        fill(&mut redis, 30);
        within(MENDED, "the reply is cut", || proxy.cuts() > before.0);
        within(MENDED, "all are handled", || redis.length("out") >= before.1 + 30);
    }
    let ids = redis.entries("in").into_iter().map(|entry| entry.id).collect();
    the_sums_hold(&mut redis, &sorted(ids));
}

#[test]
fn a_settlement_whose_answer_is_lost_is_written_once() {
    let (_server, mut redis, proxy, _host) = behind_proxy();
    eventually("it reads", || redis.readers() == 1);
    for bytes in [0, 1, 5] {
        // What settles is a script; its answer never arrives whole.
        proxy.cut_replies("EVALSHA", bytes, 1);
        let before = proxy.cuts();
        fill(&mut redis, 40);
        within(MENDED, "an answer is cut", || proxy.cuts() > before);
    }
    let ids = redis.entries("in").into_iter().map(|entry| entry.id).collect();
    the_sums_hold(&mut redis, &sorted(ids));
}

#[test]
fn a_lost_answer_to_an_acknowledgement_costs_nothing() {
    let (_server, mut redis, proxy, _host) = behind_proxy();
    eventually("it reads", || redis.readers() == 1);
    proxy.cut_replies("XACK", 0, 1);
    redis.add_many(40, "in", &[("nothing", "to write")]);
    within(MENDED, "an answer is cut", || proxy.cuts() > 0);
    redis.wait_settled("in", "h");
}

#[test]
fn a_storm_of_broken_connections_loses_nothing() {
    let (_server, mut redis, proxy, _host) = behind_proxy();
    eventually("it reads", || redis.readers() == 1);
    proxy.storm(60_000, random());
    proxy.cut();
    let mut ids = Vec::new();
    for round in 1..=10 {
        ids.extend(fill(&mut redis, 200));
        within(MENDED, "it goes on", || redis.length("out") >= round * 100);
        proxy.cut();
    }
    within(MENDED, "connections are cut", || proxy.cuts() >= 3);
    proxy.heal();
    proxy.cut();
    the_sums_hold(&mut redis, &sorted(ids));
}

#[test]
fn a_connection_that_falls_silent_is_given_up() {
    let (_server, mut redis, proxy, _host) = behind_proxy();
    let before = fill(&mut redis, 500);
    eventually("it is in mid-work", || redis.length("out") >= 50);
    proxy.swallow();
    let after = fill(&mut redis, 100);
    // What is silent stays silent: only new connections are passed on again.
    let stuck = proxy.connections();
    within(MENDED, "it tries anew", || proxy.connections() > stuck);
    proxy.heal();
    the_sums_hold(&mut redis, &sorted([before, after].concat()));
}

#[test]
fn a_paused_server_is_waited_for() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = fill(&mut redis, 1500);
    let _host = Host::start(&server, PROBE);
    eventually("it is in mid-work", || redis.length("out") >= 100);
    // Longer than a reply may take before its connection counts as dead.
    redis.tell("CLIENT PAUSE 6500 ALL");
    the_sums_hold(&mut redis, &ids);
}

#[test]
fn a_server_without_memory_is_waited_for_and_outputs_are_written_once() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = fill(&mut redis, 1000);
    let mut host = Host::start(&server, PROBE);
    eventually("it is in mid-work", || redis.length("out") >= 100);
    redis.tell("CONFIG SET maxmemory 1");
    eventually("it says so", || host.log().contains("cannot settle for now"));
    assert!(host.is_running());
    redis.tell("CONFIG SET maxmemory 0");
    the_sums_hold(&mut redis, &ids);
}

#[test]
fn a_server_that_takes_no_writes_is_waited_for() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = fill(&mut redis, 1000);
    let _host = Host::start(&server, PROBE);
    eventually("it is in mid-work", || redis.length("out") >= 100);
    redis.tell("CONFIG SET min-replicas-to-write 1");
    let stuck = redis.length("out");
    redis.tell("CONFIG SET min-replicas-to-write 0");
    assert!(stuck < 1000);
    the_sums_hold(&mut redis, &ids);
}

#[test]
fn scripts_that_the_server_forgot_are_taught_again() {
    let server = Server::start();
    let mut redis = server.client();
    let ids = fill(&mut redis, 1000);
    let _host = Host::start(&server, PROBE);
    for at in [100, 400, 700] {
        eventually("it is in mid-work", || redis.length("out") >= at);
        redis.tell("SCRIPT FLUSH");
    }
    the_sums_hold(&mut redis, &ids);
}

#[test]
fn a_stream_that_cannot_be_read_is_not_asked_in_a_hot_loop() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, PROBE);
    eventually("it reads", || redis.readers() == 1);
    redis.tell("DEL in");
    redis.tell("SET in text");
    let asked = |redis: &mut Redis| -> usize {
        let stats: String = redis.ask("INFO stats");
        let line = stats.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
        line.unwrap().parse().unwrap()
    };
    let before = asked(&mut redis);
    std::thread::sleep(Duration::from_secs(3));
    let after = asked(&mut redis);
    assert!(after - before < 150, "{} commands in three seconds", after - before);
}

/// Runs an idle host, breaks its stream, and shows that messages added afterwards are handled.
fn heals_from(breakage: &[&str]) {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, PROBE);
    redis.add("in", &[("emit", "out")]);
    redis.wait_first("out");
    for command in breakage {
        redis.tell(command);
    }
    let id = redis.add("in", &[("emit", "out9")]);
    assert_eq!(redis.wait_first("out9").get("id"), id);
    redis.wait_settled("in", "h");
}

#[test]
fn a_flushed_server_heals() {
    heals_from(&["FLUSHALL"]);
}

#[test]
fn a_destroyed_group_heals() {
    heals_from(&["XGROUP DESTROY in h"]);
}

#[test]
fn a_deleted_stream_heals() {
    heals_from(&["DEL in"]);
}

#[test]
fn a_renamed_stream_heals() {
    heals_from(&["RENAME in elsewhere"]);
}

#[test]
fn a_stream_that_becomes_another_type_heals_once_it_is_mended() {
    heals_from(&["DEL in", "SET in text", "DEL in"]);
}

#[test]
fn what_is_added_while_the_group_is_gone_is_not_skipped() {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, PROBE);
    redis.add("in", &[("emit", "out")]);
    redis.wait_first("out");
    // In one step, so that the host cannot create the group in between.
    let lost = "redis.call('DEL', 'in') for n = 1, 50 do redis.call('XADD', 'in', '*', 'emit', 'out9') end";
    redis.eval(lost);
    redis.wait_for(50, "out9");
    redis.wait_settled("in", "h");
    assert_eq!(redis.length("out9"), 50);
}

#[test]
fn a_flush_in_mid_work_leaves_nothing_pending() {
    let server = Server::start();
    let mut redis = server.client();
    fill(&mut redis, 2000);
    let _host = Host::start(&server, PROBE);
    eventually("it is in mid-work", || redis.length("out") >= 100);
    redis.tell("FLUSHALL");
    let ids = sorted(redis.add_many(200, "in", &[("emit", "out9")]));
    redis.wait_for(200, "out9");
    redis.wait_settled("in", "h");
    assert_eq!(sorted(redis.column("out9", "id")), ids);
}

#[test]
fn a_host_whose_redis_stays_away_still_stops_in_time() {
    let mut server = Server::start();
    let mut redis = server.client();
    let setup = Setup::new(&server, &format!("[host]\ngrace = \"500ms\"\n{PROBE}"));
    let mut host = setup.start();
    redis.add_many(4, "in", &[("sleep-ms", "300"), ("emit", "out")]);
    eventually("they are in hand", || redis.pending("in", "h") == 4);
    server.kill();
    host.terminate();
    host.wait_within(Duration::from_secs(8));
}

/// What can happen to a host and its server without anyone meaning to lose data.
#[derive(Debug, Clone, Copy)]
enum Fault {
    KillHost,
    StopHost,
    KillRedis,
    KillConnections,
    CutProxy,
    Storm,
    Pause,
    NoMemory,
    ForgetScripts,
}

const FAULTS: [Fault; 9] = [
    Fault::KillHost,
    Fault::StopHost,
    Fault::KillRedis,
    Fault::KillConnections,
    Fault::CutProxy,
    Fault::Storm,
    Fault::Pause,
    Fault::NoMemory,
    Fault::ForgetScripts,
];

/// Two hosts behind a proxy before a server that writes everything to disk.
struct World {
    server: Server,
    proxy: Proxy,
    hosts: Vec<Running>,
    random: fastrand::Rng,
}

impl World {
    fn suffer(&mut self, fault: Fault) {
        let which = self.random.usize(..self.hosts.len());
        let moment = Duration::from_millis(self.random.u64(..80));
        let mut redis = self.server.client();
        match fault {
            Fault::KillHost => {
                self.hosts[which].kill();
                self.hosts[which].start_again();
            }
            Fault::StopHost => {
                self.hosts[which].terminate();
                self.hosts[which].wait();
                self.hosts[which].start_again();
            }
            Fault::KillRedis => {
                self.server.kill();
                self.server.begin();
            }
            Fault::KillConnections => drop(redis.kill_others()),
            Fault::CutProxy => self.proxy.cut(),
            Fault::Storm => {
                self.proxy.storm(20_000, self.random.fork());
                self.proxy.cut();
                std::thread::sleep(moment);
                self.proxy.heal();
                self.proxy.cut();
            }
            Fault::Pause => redis.tell("CLIENT PAUSE 300 ALL"),
            Fault::NoMemory => {
                redis.tell("CONFIG SET maxmemory 1");
                std::thread::sleep(moment);
                redis.tell("CONFIG SET maxmemory 0");
            }
            Fault::ForgetScripts => redis.tell("SCRIPT FLUSH"),
        }
    }
}

#[test]
fn whatever_happens_every_message_comes_to_its_one_end() {
    let server = Server::with(Options { durable: true, ..Options::default() });
    let proxy = Proxy::before(&server);
    let host = |name| Host::at(&proxy.url(), &format!("[host]\nname = \"{name}\"\n{PROBE}"));
    let hosts = vec![host("a"), host("b")];
    let mut world = World { server, proxy, hosts, random: random() };
    let (mut handled, mut rejected) = (Vec::new(), Vec::new());
    for _ in 0..25 {
        let mut redis = world.server.client();
        for _ in 0..20 {
            let nap = world.random.u32(..30).to_string();
            let fate = ["retry-until", "reject", "emit", "emit"][world.random.usize(..4)];
            let what = if fate == "emit" { "out" } else { "2" };
            let fields = [("sleep-ms", nap.as_str()), (fate, what), ("emit", "out2")];
            let id = redis.add("in", &fields);
            if fate == "reject" { rejected.push(id) } else { handled.push(id) }
        }
        let fault = FAULTS[world.random.usize(..FAULTS.len())];
        eprintln!("{fault:?}");
        world.suffer(fault);
        let mut redis = world.server.client();
        let ended = (handled.len() + rejected.len()).saturating_sub(60);
        within(MENDED, "it goes on", || redis.length("out2") + redis.length("{in}:dead") >= ended);
    }
    let mut redis = world.server.client();
    within(MENDED, "all have ended", || {
        redis.length("out2") + redis.length("{in}:dead") >= handled.len() + rejected.len()
    });
    redis.wait_settled("in", "h");
    // Two deaths of hosts with one message in flight bury it, whoever is to blame.
    let letters = redis.entries("{in}:dead").into_iter();
    let condemned = letters.filter(|letter| letter.get("tidegate.error").contains("died twice"));
    let condemned: Vec<_> = condemned.map(|letter| letter.get("tidegate.id")).collect();
    handled.retain(|id| !condemned.contains(id));
    rejected.extend(condemned);
    rejected.sort();
    rejected.dedup();
    assert_eq!(sorted(redis.column("out2", "id")), sorted(handled));
    assert_eq!(sorted(redis.column("{in}:dead", "tidegate.id")), rejected);
}
