//! Health, figures and status over HTTP: what a probe, a scraper and a person are told, and when.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use harness::{
    DEADLINE, Host, Options, Redis, Running, Server, Setup, command, eventually, never, within,
};

const ADMIN: &str = "[host]\nname = \"n\"\nadmin = \"127.0.0.1:0\"\n";

const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out*"]
retry = { attempts = 2, first = "20ms", max = "100ms" }
"#;

/// Mending takes some seconds at most, and showing it some more.
const MENDED: Duration = Duration::from_secs(40);

/// What an admin server said.
#[derive(Debug)]
struct Page {
    status: u16,
    head: String,
    body: String,
}

/// Sends bytes as they are and reads what comes.
fn exchange(address: &str, request: &str) -> std::io::Result<Page> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok(Page { status, head: head.to_lowercase(), body: body.to_owned() })
}

fn attempt(address: &str, path: &str) -> std::io::Result<Page> {
    exchange(address, &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n"))
}

#[track_caller]
fn get(address: &str, path: &str) -> Page {
    attempt(address, path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Where a host's admin server listens, which it says at its start.
#[track_caller]
fn address(host: &Host) -> String {
    let told = || {
        let log = host.log();
        let line = log.lines().find(|line| line.contains("admin server listening"))?.to_owned();
        line.split("address=").nth(1).map(|rest| rest.trim().to_owned())
    };
    eventually("it says where it listens", || told().is_some());
    told().unwrap()
}

/// Waits until it is ready, and gives what it says then.
#[track_caller]
fn ready(address: &str) -> String {
    within(MENDED, "it is ready", || attempt(address, "/readyz").is_ok_and(|p| p.status == 200));
    get(address, "/readyz").body
}

/// Waits until it is not ready and says so, with these words on one line.
#[track_caller]
fn not_ready(address: &str, words: &[&str]) {
    within(MENDED, &format!("it is not ready: {words:?}"), || {
        let page = get(address, "/readyz");
        let said = page.body.lines().any(|line| words.iter().all(|word| line.contains(word)));
        page.status == 503 && page.body.starts_with("not ready\n") && said
    });
}

fn start(manifest: &str) -> (Server, Redis, Running, String) {
    let server = Server::start();
    let redis = server.client();
    let host = Host::start(&server, &format!("{ADMIN}{manifest}"));
    let address = address(&host);
    ready(&address);
    (server, redis, host, address)
}

/// The value of a sample; none where there is no such line.
fn sample(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let mut lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    let line = lines.find(|line| labels.iter().all(|label| line.contains(label)))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn a_host_is_ready_only_while_it_can_reach_its_redis() {
    let mut server = Server::absent(Options::default());
    let host = Host::start(&server, &format!("{ADMIN}{PROBE}"));
    let address = address(&host);
    not_ready(&address, &["handler h: not at work", "waiting for Redis"]);
    assert_eq!(get(&address, "/livez").status, 200, "it is alive all the same");
    server.begin();
    assert_eq!(ready(&address), "ready\nhandler h: ready\n");
    server.kill();
    not_ready(&address, &["host: not connected to Redis"]);
    not_ready(&address, &["handler h: cannot read stream `in`"]);
    assert_eq!(get(&address, "/livez").status, 200);
    server.begin();
    ready(&address);
}

#[test]
fn a_host_whose_redis_falls_silent_is_not_ready() {
    let (server, _redis, _host, address) = start(PROBE);
    server.signal("STOP");
    not_ready(&address, &["handler h"]);
    server.signal("CONT");
    ready(&address);
}

#[test]
fn a_host_whose_redis_refuses_writes_is_not_ready() {
    let (_server, mut redis, _host, address) = start(PROBE);
    redis.tell("CONFIG SET maxmemory 1");
    not_ready(&address, &["handler h", "OOM"]);
    redis.tell("CONFIG SET maxmemory 0");
    ready(&address);
    redis.tell("CONFIG SET min-replicas-to-write 1");
    not_ready(&address, &["handler h", "NOREPLICAS"]);
    redis.tell("CONFIG SET min-replicas-to-write 0");
    ready(&address);
    redis.tell("REPLICAOF 127.0.0.1 1");
    not_ready(&address, &["handler h", "read only replica"]);
    redis.tell("REPLICAOF NO ONE");
    ready(&address);
}

#[test]
fn a_settlement_that_redis_refuses_makes_a_host_unready_until_it_is_written() {
    let (_server, mut redis, _host, address) = start(PROBE);
    redis.tell("ACL SETUSER default -@all +@all resetkeys ~in ~{in}* ~tidegate:*");
    redis.add("in", &[("emit", "out")]);
    not_ready(&address, &["handler h: may not write to", "out"]);
    redis.tell("ACL SETUSER default allkeys");
    ready(&address);
    redis.wait_first("out");
}

#[test]
fn a_handler_whose_stream_is_of_another_type_is_not_ready_and_its_neighbour_is() {
    let neighbour = PROBE.replace("handler.h", "handler.other").replace("\"in\"", "\"beside\"");
    let (_server, mut redis, _host, address) = start(&format!("{PROBE}{neighbour}"));
    redis.run::<i64>(
        "redis.call('DEL', KEYS[1]) redis.call('SET', KEYS[1], '') return 1",
        &["in"],
        &[],
    );
    not_ready(&address, &["handler h: cannot read stream `in`", "WRONGTYPE"]);
    let page = get(&address, "/readyz");
    assert!(page.body.contains("handler other: ready\n"), "{}", page.body);
    redis.tell("DEL in");
    ready(&address);
}

#[test]
fn a_lost_group_that_heals_leaves_its_host_ready() {
    let (_server, mut redis, _host, address) = start(PROBE);
    redis.tell("XGROUP DESTROY in h");
    within(MENDED, "the group is there again", || {
        assert_eq!(get(&address, "/readyz").status, 200);
        let text = get(&address, "/metrics").body;
        sample(&text, "tidegate_groups_healed_total", &["handler=\"h\""]) == Some(1.0)
    });
}

#[test]
fn what_somebody_wants_so_leaves_a_host_ready_and_is_told() {
    let (server, _redis, host, address) = start(PROBE);
    let says = |word: &str| ready(&address).lines().any(|line| line.contains(word));
    let manifest = host.setup().folder().join("tidegate.toml");
    let operate = |word: &str| {
        let arguments = [word, "h", "--manifest", manifest.to_str().unwrap()];
        assert!(command().args(arguments).output().unwrap().status.success());
    };
    operate("pause");
    eventually("it says that it is paused", || says("handler h: ready; paused"));
    operate("resume");
    eventually("it says nothing of it any more", || !says("paused"));
    let plugin = host.setup().folder().join("probe.wasm");
    std::fs::remove_file(&plugin).unwrap();
    std::fs::write(&plugin, "no plugin").unwrap();
    eventually("it says why", || says("handler h: ready; new plugin refused"));
    drop(server);
}

#[test]
fn a_handler_whose_circuit_is_open_is_ready_and_says_so() {
    let circuit = "circuit = { failures = 2, pause = \"1h\" }\n";
    let (_server, mut redis, _host, address) = start(&format!("{PROBE}{circuit}"));
    let is_open = || sample(&get(&address, "/metrics").body, "tidegate_circuit_open", &[]);
    assert_eq!(is_open(), Some(0.0));
    redis.add_many(2, "in", &[("retry", "the ledger is down")]);
    eventually("it says so", || ready(&address).contains("handler h: ready; circuit open\n"));
    assert_eq!(is_open(), Some(1.0));
}

#[test]
fn a_handler_that_starts_paused_is_ready() {
    let server = Server::start();
    let setup = Setup::new(&server, &format!("{ADMIN}{PROBE}")).command(&["pause", "h"]);
    setup.finish().expect(0);
    let host = Running::of(setup.command(&["run"]));
    assert!(ready(&address(&host)).contains("handler h: ready; paused\n"));
}

#[test]
fn handlers_on_channels_and_in_order_are_ready_while_they_are_subscribed() {
    let channel = PROBE.replace("stream = \"in\"", "channel = \"news\"");
    let ordered = PROBE.replace("handler.h", "handler.o") + "order-by = \"key\"\n";
    let retry = "retry = { attempts = 2, first = \"20ms\", max = \"100ms\" }\n";
    let (mut server, _redis, _host, address) =
        start(&format!("{}{ordered}", channel.replace(retry, "")));
    server.kill();
    not_ready(&address, &["handler h: not subscribed to `news`"]);
    not_ready(&address, &["handler o: cannot share the stream"]);
    server.begin();
    ready(&address);
}

#[test]
fn a_host_that_stops_says_so_for_as_long_as_it_takes() {
    let (_server, mut redis, mut host, address) = start(PROBE);
    redis.add("in", &[("sleep-ms", "2000")]);
    eventually("it is in hand", || redis.pending("in", "h") == 1);
    host.terminate();
    not_ready(&address, &["host: stopping"]);
    assert_eq!(get(&address, "/livez").status, 200);
    assert!(host.wait().success());
    assert!(attempt(&address, "/livez").is_err(), "nobody answers any more");
}

#[test]
fn readiness_is_told_in_json_too() {
    let (_server, _redis, _host, address) = start(PROBE);
    let page = get(&address, "/readyz?format=json");
    assert!(page.head.contains("content-type: application/json"), "{}", page.head);
    let told: serde_json::Value = serde_json::from_str(&page.body).unwrap();
    assert_eq!((&told["ready"], &told["handlers"][0]["handler"]), (&true.into(), &"h".into()));
}

/// Every line is a comment or a sample of the family above it; each family is described.
#[track_caller]
fn is_well_formed(text: &str) {
    let mut family = String::new();
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            family = described.split(' ').next().unwrap().to_owned();
        } else if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let suffix = name.strip_prefix(&*family).unwrap_or_else(|| panic!("{line}: {family}"));
            assert!(["", "_bucket", "_sum", "_count"].contains(&suffix), "{line}");
            assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
            assert!(name.starts_with("tidegate_"), "{line}");
        }
    }
}

#[test]
fn figures_move_with_the_messages() {
    let (_server, mut redis, _host, address) = start(PROBE);
    redis.add_many(3, "in", &[("emit", "out")]);
    redis.add("in", &[("reject", "no")]);
    let value = |name: &str, labels: &[&str]| {
        let text = get(&address, "/metrics").body;
        is_well_formed(&text);
        sample(&text, name, labels)
    };
    let of_h = ["handler=\"h\"", "stream=\"in\"", "group=\"h\""];
    let and = |label: &'static str| [&of_h[..], &[label]].concat();
    eventually("what was handled is counted", || {
        value("tidegate_messages_total", &and("outcome=\"handled\"")) == Some(3.0)
            && value("tidegate_buried_total", &and("reason=\"reject\"")) == Some(1.0)
    });
    assert_eq!(value("tidegate_queue_to_acknowledged_seconds_count", &of_h), Some(3.0));
    eventually("and so is what Redis knows", || {
        value("tidegate_dead_letters", &of_h) == Some(1.0)
            && value("tidegate_pending", &of_h) == Some(0.0)
            && value("tidegate_stream_length", &of_h) == Some(4.0)
    });
    eventually("what it costs is told", || value("tidegate_plugin_calls_total", &of_h).is_some());
    assert_eq!(value("tidegate_ready", &[]), Some(1.0));
}

#[test]
fn what_redis_cannot_be_asked_is_absent_and_all_else_is_there() {
    let (mut server, mut redis, _host, address) = start(PROBE);
    redis.add("in", &[("emit", "out")]);
    redis.wait_settled("in", "h");
    server.kill();
    not_ready(&address, &["not connected"]);
    within(MENDED, "what Redis said is forgotten", || {
        let text = get(&address, "/metrics").body;
        is_well_formed(&text);
        sample(&text, "tidegate_pending", &[]).is_none()
    });
    let text = get(&address, "/metrics").body;
    assert_eq!(sample(&text, "tidegate_messages_total", &["outcome=\"handled\""]), Some(1.0));
    assert_eq!(sample(&text, "tidegate_redis_connected", &[]), Some(0.0));
    assert_eq!(sample(&text, "tidegate_ready", &[]), Some(0.0));
    let troubles = sample(&text, "tidegate_troubles_total", &["kind=\"unreachable\""]);
    assert!(troubles.is_some_and(|count| count > 0.0), "{text}");
    assert_eq!(get(&address, "/api/status").status, 503);
}

#[test]
fn a_handler_that_redis_does_not_tell_of_hides_no_other_from_the_status() {
    let other = "[handler.other]\nplugin = \"probe.wasm\"\nstream = \"other\"\n";
    let (_server, mut redis, _host, address) = start(&format!("{PROBE}{other}"));
    redis.tell("ACL SETUSER default resetkeys ~in ~{in}* ~out ~tidegate:*");
    within(MENDED, "it says what is in the way", || {
        let told = get(&address, "/api/status");
        told.status == 503 && told.body.contains("handler other: ")
    });
    let told: serde_json::Value = serde_json::from_str(&get(&address, "/api/status").body).unwrap();
    let handlers = told["handlers"].as_array().unwrap();
    assert_eq!(handlers.iter().map(|one| &one["handler"]).collect::<Vec<_>>(), ["h"]);
}

#[test]
fn status_over_http_is_what_the_command_prints() {
    let (_server, _redis, host, address) = start(PROBE);
    let manifest = host.setup().folder().join("tidegate.toml");
    let printed =
        command().args(["status", "--json", "--manifest"]).arg(manifest).output().unwrap();
    let printed: serde_json::Value = serde_json::from_slice(&printed.stdout).unwrap();
    let told: serde_json::Value = serde_json::from_str(&get(&address, "/api/status").body).unwrap();
    let keys = |value: &serde_json::Value| {
        let handler = value["handlers"][0].as_object().unwrap();
        handler.keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(keys(&told), keys(&printed));
    for key in ["handler", "stream", "pending", "dead", "plugins"] {
        assert_eq!(told["handlers"][0][key], printed["handlers"][0][key], "{key}");
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn health_says_by_its_exit_status_whether_the_host_is_ready() {
    let mut server = Server::start();
    let port = free_port();
    let mut host = Host::start(&server, &format!("[host]\nadmin = \"0.0.0.0:{port}\"\n{PROBE}"));
    let manifest = host.setup().folder().join("tidegate.toml");
    let health = |more: &[&str]| {
        let arguments = ["health", "--manifest", manifest.to_str().unwrap()];
        let done = command().args(arguments).args(more).output().unwrap();
        (done.status.code().unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    eventually("it is healthy", || health(&[]).0 == 0);
    server.kill();
    eventually("it is not", || health(&[]).0 == 1);
    eventually("it says why", || {
        let (_, said) = health(&[]);
        said.contains("not ready\n") && said.contains("not connected to Redis")
    });
    assert_eq!(health(&["--live"]).0, 0, "it is alive all the same");
    host.kill();
    assert_eq!(health(&["--live"]).0, 1);
}

#[test]
fn health_without_an_admin_server_to_ask_says_what_to_write() {
    let ask = |lines: &str| {
        let manifest = format!("{lines}{PROBE}");
        Setup::at("redis://127.0.0.1:1", &manifest).command(&["health"]).finish().expect(2).stderr
    };
    assert!(ask("").contains("admin = \"127.0.0.1:9464\""));
    assert!(ask(ADMIN).contains("host.admin: with port 0"));
}

#[test]
fn a_port_that_is_taken_is_said_with_its_line_before_anything_else() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = taken.local_addr().unwrap();
    let manifest = format!("[host]\nadmin = \"{place}\"\n{PROBE}");
    let done = Setup::at("redis://127.0.0.1:1", &manifest).finish().expect(1);
    let line = format!("tidegate.toml:5: host.admin: cannot listen on {place}");
    assert!(done.stderr.contains(&line) && done.stderr.contains("\"off\""), "{}", done.stderr);
}

#[test]
fn without_an_address_nothing_listens() {
    let server = Server::start();
    let host = Host::start(&server, &format!("[host]\nadmin = \"off\"\n{PROBE}"));
    eventually("it is at work", || host.log().contains("ready"));
    assert!(!host.log().contains("admin server"));
}

#[test]
fn clients_that_are_slow_or_do_nothing_keep_nobody_out() {
    let (_server, _redis, mut host, address) = start(PROBE);
    let mut idle = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(&address).unwrap();
        if number % 2 == 0 {
            let _ = stream.write_all(b"GET /readyz HTT");
        }
        idle.push(stream);
    }
    assert_eq!(get(&address, "/readyz").status, 200);
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "x".repeat(100_000));
    let refused = exchange(&address, &long);
    assert!(refused.is_err() || refused.is_ok_and(|page| page.status == 431));
    assert_eq!(exchange(&address, "nonsense\r\n\r\n").unwrap().status, 400);
    let post = "POST /readyz HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(exchange(&address, post).unwrap().status, 405);
    let head = exchange(&address, "HEAD /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert_eq!((head.status, &*head.body), (200, ""));
    assert_eq!(get(&address, "/").status, 200);
    assert_eq!(get(&address, "/nothing").status, 404);
    assert!(host.is_running());
    host.stop();
}

#[test]
fn a_changed_address_waits_for_the_next_start_and_is_said_to() {
    let (_server, _redis, host, address) = start(PROBE);
    let file = host.setup().folder().join("tidegate.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("127.0.0.1:0", "127.0.0.1:1")).unwrap();
    eventually("it says so", || host.log().contains("[host] takes effect at the next start"));
    assert_eq!(get(&address, "/readyz").status, 200);
    never(Duration::from_millis(200), "it is gone", || attempt(&address, "/livez").is_err());
}
