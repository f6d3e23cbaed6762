//! A group or a server that is not as it should be: named once, waited for, and gone on with, without a restart.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::time::Duration;

use harness::{Host, Options, Redis, Running, Server, eventually, never, within};

const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out*"]
concurrency = 16
retry = { attempts = 5, first = "20ms", max = "100ms" }
"#;

/// Mending takes some seconds at most.
const MENDED: Duration = Duration::from_secs(40);

/// A host in the middle of this many messages, each of which writes one entry.
fn in_mid_work(options: Options, count: usize) -> (Server, Redis, Running, Vec<String>) {
    let server = Server::with(options);
    let mut redis = server.client();
    let ids = redis.add_many(count, "in", &[("sleep-ms", "4"), ("emit", "out")]);
    let host = Host::start(&server, PROBE);
    eventually("it is in mid-work", || redis.length("out") >= 50);
    (server, redis, host, ids)
}

/// Everything was handled, each message once, at its first attempt.
#[track_caller]
fn the_sums_hold(redis: &mut Redis, mut ids: Vec<String>) {
    within(MENDED, "every message is handled", || redis.length("out") >= ids.len());
    redis.wait_settled("in", "h");
    let mut written = redis.column("out", "id");
    written.sort();
    ids.sort();
    assert_eq!(written, ids);
    assert!(redis.column("out", "attempt").iter().all(|attempt| attempt == "1"));
}

/// Waits until the host names what is wrong, and goes on being asked for; it says so once.
#[track_caller]
fn named_once(host: &Running, word: &str) {
    let lines = |text: &str| {
        host.log().lines().filter(|line| line.contains(text) && line.contains(word)).count()
    };
    eventually("it says why", || lines("again") > 0);
    never(Duration::from_millis(1500), "it says so in a flood", || {
        lines("cannot read") > 1 || lines("cannot settle") > 1
    });
}

/// Runs an idle host whose group begins so, loses its stream, and gives what is handled of the
/// twenty messages that came before the group was there again.
fn handled_of_what_came_in_between(lines: &str) -> usize {
    let server = Server::start();
    let host = Host::start(&server, &format!("{PROBE}{lines}\n"));
    let mut redis = server.client();
    eventually("it reads", || redis.readers() == 1);
    redis.add("in", &[("emit", "out")]);
    redis.wait_first("out");
    // In one step, so that the host cannot create the group in between.
    redis.eval("redis.call('DEL', 'in') for n = 1, 20 do redis.call('XADD', 'in', '*', 'emit', 'out9') end");
    eventually("the group is there again", || redis.has_group("in", "h"));
    redis.add("in", &[("emit", "out2")]);
    redis.wait_first("out2");
    redis.wait_settled("in", "h");
    assert_eq!(host.log().matches("the group was gone").count(), 1, "{}", host.log());
    redis.length("out9")
}

#[test]
fn a_lost_group_begins_where_the_manifest_says() {
    assert_eq!(handled_of_what_came_in_between("start = \"$\""), 20);
    assert_eq!(handled_of_what_came_in_between("start = \"$\"\nafter-loss = \"start\""), 0);
    assert_eq!(handled_of_what_came_in_between("after-loss = \"start\""), 20);
}

#[test]
fn a_group_that_cannot_be_created_again_is_told_of_once_and_created_once_it_can() {
    let server = Server::start();
    let host = Host::start(&server, PROBE);
    let mut redis = server.client();
    eventually("it reads", || redis.readers() == 1);
    redis.add("in", &[("emit", "out")]);
    redis.wait_first("out");
    redis.tell("CONFIG SET maxmemory 1");
    redis.tell("DEL in");
    const WARNING: &str = "cannot be created again for now";
    eventually("it says so", || host.log().contains(WARNING));
    never(Duration::from_secs(2), "it says so again", || host.log().matches(WARNING).count() > 1);
    redis.tell("CONFIG SET maxmemory 0");
    redis.add("in", &[("emit", "out2")]);
    redis.wait_first("out2");
    eventually("it counted what went wrong", || {
        redis.sign("in", "h")["troubles"]["group-gone"].as_u64() > Some(0)
    });
}

#[test]
fn a_read_that_someone_unblocks_is_no_reason_to_heal() {
    let server = Server::start();
    let host = Host::start(&server, PROBE);
    let mut redis = server.client();
    eventually("it reads", || redis.readers() == 1);
    let clients: String = redis.ask("CLIENT LIST TYPE normal");
    let reader = clients.lines().find(|line| line.contains(" cmd=xreadgroup ")).unwrap();
    let id = reader.split(' ').next().unwrap().strip_prefix("id=").unwrap();
    redis.tell(&format!("CLIENT UNBLOCK {id} ERROR"));
    redis.add("in", &[("emit", "out")]);
    redis.wait_first("out");
    assert!(!host.log().contains("the group was gone"), "{}", host.log());
}

#[test]
fn a_server_that_becomes_a_replica_and_a_primary_again_is_worked_with_again() {
    let (_server, mut redis, host, ids) = in_mid_work(Options::default(), 800);
    redis.tell("REPLICAOF 127.0.0.1 1");
    eventually("it says why", || host.log().to_lowercase().contains("read only replica"));
    redis.tell("REPLICAOF NO ONE");
    the_sums_hold(&mut redis, ids);
}

#[test]
fn a_server_that_is_busy_with_a_script_is_waited_for() {
    let lines = vec!["lua-time-limit 50".into()];
    let (server, mut redis, host, ids) = in_mid_work(Options { lines, ..Options::default() }, 800);
    let mut busy = server.client();
    let script = std::thread::spawn(move || {
        busy.attempt::<String>("EVAL repeat(function()end)()until(false) 0").unwrap_err();
    });
    named_once(&host, "BUSY");
    // A script that wrote nothing may be ended.
    eventually("the script ends", || redis.attempt::<String>("SCRIPT KILL").is_ok());
    script.join().unwrap();
    the_sums_hold(&mut redis, ids);
}

#[test]
fn a_server_that_cannot_save_and_so_takes_no_writes_is_waited_for() {
    let lines = vec!["save 36000 1".into()];
    let (server, mut redis, host, ids) = in_mid_work(Options { lines, ..Options::default() }, 800);
    // What it would save to is a folder.
    let dump = server.directory().join("dump.rdb");
    std::fs::create_dir(&dump).unwrap();
    redis.tell("BGSAVE");
    named_once(&host, "MISCONF");
    std::fs::remove_dir(&dump).unwrap();
    redis.tell("BGSAVE");
    the_sums_hold(&mut redis, ids);
}

#[test]
fn a_server_that_misses_its_replicas_is_waited_for() {
    let (_server, mut redis, host, ids) = in_mid_work(Options::default(), 800);
    redis.tell("CONFIG SET min-replicas-to-write 1");
    named_once(&host, "NOREPLICAS");
    let stuck = redis.length("out");
    never(Duration::from_millis(300), "something is written", || redis.length("out") > stuck);
    redis.tell("CONFIG SET min-replicas-to-write 0");
    the_sums_hold(&mut redis, ids);
    eventually("it counted what went wrong", || {
        redis.sign("in", "h")["troubles"]["unwritable"].as_u64() > Some(0)
    });
}

#[test]
fn without_memory_what_writes_nothing_goes_on_and_what_does_is_not_acknowledged() {
    let server = Server::start();
    let mut redis = server.client();
    let emitting = redis.add_many(20, "in", &[("sleep-ms", "300"), ("emit", "out")]);
    redis.add_many(600, "in", &[("sleep-ms", "4")]);
    let host = Host::start(&server, PROBE);
    eventually("it is in mid-work", || redis.pending("in", "h") > 0);
    redis.tell("CONFIG SET maxmemory 1");
    eventually("all that writes nothing is settled", || {
        redis.unread("in", "h") == 0 && redis.pending("in", "h") == 20
    });
    assert!(host.log().contains("OOM"), "{}", host.log());
    redis.tell("CONFIG SET maxmemory 0");
    the_sums_hold(&mut redis, emitting);
}

#[test]
fn while_nothing_can_be_settled_little_is_read_and_the_rest_goes_on_once_it_can() {
    let (_server, mut redis, host, ids) = in_mid_work(Options::default(), 3000);
    redis.tell("CONFIG SET maxmemory 1");
    eventually("it cannot settle", || host.log().contains("OOM"));
    // A hundred that wait, what was in hand, and what was read until that was known.
    never(Duration::from_secs(3), "it reads on", || redis.pending("in", "h") > 1000);
    redis.tell("CONFIG SET maxmemory 0");
    the_sums_hold(&mut redis, ids);
}

#[test]
fn credentials_that_are_rotated_in_mid_work_cost_no_attempt() {
    let server = Server::with(Options { tcp: true, ..Options::default() });
    let mut redis = server.client();
    redis.tell("ACL SETUSER app on >pw ~* &* +@all");
    let ids = redis.add_many(800, "in", &[("sleep-ms", "4"), ("emit", "out")]);
    let host = Host::at(&format!("redis://app:pw@127.0.0.1:{}", server.port), PROBE);
    eventually("it is in mid-work", || redis.length("out") >= 50);
    redis.tell("ACL SETUSER app resetpass >another");
    redis.kill_others();
    eventually("it says why", || host.log().contains("authentication"));
    redis.tell("ACL SETUSER app >pw");
    the_sums_hold(&mut redis, ids);
}

/// Messages that are handled while the server takes no writes, each with one output that is to
/// come later, and each with a single attempt.
fn delayed_outputs_outlast(begin: &str, end: &str) {
    let server = Server::start();
    let mut redis = server.client();
    let fields = [("sleep-ms", "400"), ("delay-ms", "5"), ("emit", "out")];
    let ids = redis.add_many(16, "in", &fields);
    let host = Host::start(&server, &PROBE.replace("attempts = 5", "attempts = 1"));
    eventually("they are in hand", || redis.pending("in", "h") == ids.len());
    redis.tell(begin);
    eventually("it says why", || host.log().contains("cannot settle for now"));
    redis.tell(end);
    the_sums_hold(&mut redis, ids);
    assert_eq!(redis.length("{in}:dead"), 0);
}

#[test]
fn a_delayed_output_that_cannot_be_written_for_now_costs_no_attempt() {
    delayed_outputs_outlast("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0");
    let replicas = |count| format!("CONFIG SET min-replicas-to-write {count}");
    delayed_outputs_outlast(&replicas(1), &replicas(0));
}

/// A key of Tidegate's own becomes a text in the middle of the work: it is named once, and once it is
/// mended all is handled as if nothing had been.
fn a_mended_key_costs_nothing(key: &str, fields: &[(&str, &str)], attempt: &str) {
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, PROBE);
    eventually("it reads", || redis.readers() == 1);
    redis.tell(&format!("SET {key} text"));
    let mut ids = redis.add_many(400, "in", fields);
    eventually("it names the key", || host.log().contains(key));
    eventually("many are in hand", || redis.pending("in", "h") >= 100);
    never(Duration::from_secs(2), "it says so in a flood", || {
        let lines = host.log();
        let told = lines.lines().filter(|line| line.contains(key)).count();
        told > 2 || lines.contains("refuses the settlement")
    });
    assert_eq!(redis.length("{in}:dead"), 0, "{key}");
    redis.tell(&format!("DEL {key}"));
    within(MENDED, "every message is handled", || redis.length("out") >= ids.len());
    redis.wait_settled("in", "h");
    let (mut written, attempts) = (redis.column("out", "id"), redis.column("out", "attempt"));
    written.sort();
    ids.sort();
    assert_eq!(written, ids, "{key}");
    assert!(attempts.iter().all(|at| at == attempt), "{key}: {attempts:?}");
}

#[test]
fn a_key_of_our_own_that_is_of_another_type_is_named_once_and_costs_no_message_an_attempt() {
    a_mended_key_costs_nothing("tidegate:{in}:failures:in:h", &[("emit", "out")], "1");
    let fails_once = [("retry-until", "2"), ("emit", "out")];
    a_mended_key_costs_nothing("tidegate:{in}:waiting:in:h", &fails_once, "2");
    let delayed = [("delay-ms", "5"), ("emit", "out")];
    a_mended_key_costs_nothing("tidegate:{delayed}:streams", &delayed, "1");
}

#[test]
fn keys_of_an_ordered_stream_that_are_of_another_type_are_named_and_it_goes_on_once_they_are_mended()
 {
    let of_owners = ["members", "lease", "tenures", "generation"];
    let of_messages = ["waiting", "failures", "alone", "suspects"];
    for kind in of_owners.into_iter().chain(of_messages) {
        let server = Server::start();
        let mut redis = server.client();
        let key = format!("tidegate:{{in}}:{kind}:in:h");
        redis.tell(&format!("RPUSH {key} x"));
        let host = Host::start(&server, &format!("{PROBE}order-by = \"key\"\n"));
        let fields = [("key", "a"), ("retry-until", "2"), ("emit", "out")];
        let ids = redis.add_many(5, "in", &fields);
        eventually("it names the key", || host.log().contains(&format!("{key} is a list")));
        redis.tell(&format!("DEL {key}"));
        within(MENDED, "every message is handled", || redis.length("out") >= ids.len());
        redis.wait_settled("in", "h");
        assert_eq!(redis.column("out", "id"), ids, "{kind}");
        let generation: usize = redis.ask("GET tidegate:{in}:generation:in:h");
        assert_eq!(generation, 1, "{kind}: one host, one tenure");
    }
}

#[test]
fn a_host_that_cannot_show_itself_names_the_key_and_is_seen_again_once_it_is_mended() {
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, PROBE);
    eventually("it reads", || redis.readers() == 1);
    let key = "tidegate:{in}:hosts:in:h";
    redis.tell(&format!("DEL {key}"));
    redis.tell(&format!("RPUSH {key} x"));
    eventually("it says so", || {
        host.log()
            .lines()
            .any(|line| line.contains("cannot show that this host") && line.contains(key))
    });
    redis.tell(&format!("DEL {key}"));
    eventually("it is among the hosts again", || {
        redis.attempt::<usize>(&format!("SCARD {key}")) == Ok(1)
    });
}

#[test]
fn a_long_dead_letter_whose_message_cannot_be_acknowledged_is_not_written_again_and_again() {
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, PROBE);
    eventually("it reads", || redis.readers() == 1);
    redis.tell("SET tidegate:{in}:failures:in:h text");
    // More fields than a script can hand on.
    let mut fields: Vec<_> = (0..8500).map(|n| (format!("f{n}"), "x")).collect();
    fields.push(("reject".into(), "no"));
    redis.add("in", &fields);
    eventually("it says why", || host.log().contains("cannot settle for now"));
    never(Duration::from_secs(2), "a letter stays", || redis.length("{in}:dead") > 0);
    redis.tell("DEL tidegate:{in}:failures:in:h");
    redis.wait_first("{in}:dead");
    redis.wait_settled("in", "h");
    assert_eq!(redis.length("{in}:dead"), 1);
}

/// A node of a cluster, and the port that others reach it at.
fn node() -> (Server, Redis, u16) {
    // Below the ports that are handed out to whoever asks, as nodes talk at a port 10000 above.
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut ports = std::iter::repeat_with(|| fastrand::u16(15_000..22_000));
    let port = ports.find(|port| is_free(port) && is_free(&(port + 10_000))).unwrap();
    let lines = ["cluster-enabled yes", "cluster-require-full-coverage no"].map(String::from);
    let lines = lines.into_iter().chain([format!("port {port}")]).collect();
    let server = Server::with(Options { lines, ..Options::default() });
    let redis = server.client();
    (server, redis, port)
}

/// Moves a slot with all its keys from one node to another.
fn move_slot(slot: usize, from: &mut Redis, to: &mut Redis, port: u16) {
    let (here, there): (String, String) = (from.ask("CLUSTER MYID"), to.ask("CLUSTER MYID"));
    to.tell(&format!("CLUSTER SETSLOT {slot} IMPORTING {here}"));
    from.tell(&format!("CLUSTER SETSLOT {slot} MIGRATING {there}"));
    eventually("the keys are moved", || {
        let keys: Vec<String> = from.ask(&format!("CLUSTER GETKEYSINSLOT {slot} 100"));
        for key in &keys {
            from.attempt::<String>(&format!("MIGRATE 127.0.0.1 {port} {key} 0 5000")).unwrap();
        }
        keys.is_empty()
    });
    to.tell(&format!("CLUSTER SETSLOT {slot} NODE {there}"));
    from.tell(&format!("CLUSTER SETSLOT {slot} NODE {there}"));
}

#[test]
fn a_stream_that_moves_to_another_node_of_a_cluster_and_back_loses_and_repeats_nothing() {
    let ((server, mut redis, port), (_other, mut other, its_port)) = (node(), node());
    let slots: Vec<String> = (1..16384).map(|slot| slot.to_string()).collect();
    redis.tell(&format!("CLUSTER ADDSLOTS {}", slots.join(" ")));
    // A primary that gives its last slot away becomes a replica.
    other.tell("CLUSTER ADDSLOTS 0");
    redis.tell(&format!("CLUSTER MEET 127.0.0.1 {its_port}"));
    for node in [&mut redis, &mut other] {
        within(MENDED, "the nodes know each other", || {
            let told: String = node.ask("CLUSTER INFO");
            told.contains("cluster_state:ok") && told.contains("cluster_known_nodes:2")
        });
    }
    let ids = redis.add_many(800, "in", &[("sleep-ms", "4"), ("emit", "{in}out")]);
    let host = Host::start(&server, &PROBE.replace("out*", "{in}out"));
    eventually("it is in mid-work", || redis.length("{in}out") >= 50);
    let slot = redis.ask("CLUSTER KEYSLOT in");
    move_slot(slot, &mut redis, &mut other, its_port);
    named_once(&host, "another node of a Redis Cluster");
    move_slot(slot, &mut other, &mut redis, port);
    within(MENDED, "every message is handled", || redis.length("{in}out") >= ids.len());
    redis.wait_settled("in", "h");
    assert_eq!(redis.length("{in}out"), ids.len());
    assert!(!host.log().contains("refuses the settlement"), "{}", host.log());
}
