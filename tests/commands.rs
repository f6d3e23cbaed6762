//! What the commands print and how they end.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::fs;
use std::process::Command;
use std::time::Duration;

use harness::{Done, Host, Redis, Server, Setup, eventually, root, within};

const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out"]
retry = { attempts = 2, first = "20ms" }
"#;

/// Runs a command in the folder of a setup.
#[track_caller]
fn run(server: &Server, arguments: &[&str]) -> Done {
    Setup::new(server, PROBE).command(arguments).finish()
}

#[track_caller]
fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

#[test]
fn a_bad_manifest_ends_it_with_status_2_and_every_problem() {
    let manifest = PROBE.replace("outputs", "output").replace("\"20ms\"", "20");
    for command in ["run", "check", "dev"] {
        let done = Setup::at("redis://127.0.0.1:1", &manifest).command(&[command]).finish();
        let done = done.expect(2);
        let parts =
            ["tidegate.toml: 2 problems", "handler.h.output:", "did you mean", "retry.first"];
        contains(&done.stderr, &parts);
        assert_eq!(done.stdout, "", "talk goes to standard error");
    }
}

#[test]
fn a_missing_manifest_is_named() {
    let setup = Setup::alone("").command(&["run", "--manifest", "elsewhere.toml"]);
    contains(&setup.finish().expect(2).stderr, &["elsewhere.toml"]);
}

#[test]
fn a_wrong_command_line_ends_it_with_status_2() {
    for arguments in [&["fly"][..], &["run", "--fast"], &["publish"], &[]] {
        let done = Setup::alone("").command(arguments).finish().expect(2);
        assert!(!done.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_and_version_are_data() {
    let help = Setup::alone("").command(&["--help"]).finish().expect(0);
    let commands = ["run", "dev", "demo", "check", "publish", "status", "dead"];
    contains(&help.stdout, &commands);
    contains(&help.stdout, &["pause", "resume", "pending", "retries", "replay"]);
    let version = Setup::alone("").command(&["--version"]).finish().expect(0);
    contains(&version.stdout, &["tidegate 0."]);
}

#[test]
fn check_needs_no_redis() {
    let done = Setup::at("redis://127.0.0.1:1", PROBE).command(&["check"]).finish().expect(0);
    contains(&done.stdout, &["probe.wasm"]);
}

#[test]
fn check_and_run_refuse_plugins_that_cannot_work_and_name_every_one() {
    let names = ["no-export", "two-exports", "start-trap", "unknown-import", "other-version"];
    let mut manifest = String::new();
    for (number, name) in names.iter().enumerate() {
        manifest += &format!("[handler.h{number}]\nplugin = \"{name}.wasm\"\nstream = \"in\"\n");
    }
    manifest += "[handler.gone]\nplugin = \"gone.wasm\"\nstream = \"in\"\n";
    manifest += "[handler.text]\nplugin = \"text.wasm\"\nstream = \"in\"\n";
    for command in ["check", "run"] {
        let setup = Setup::at("redis://127.0.0.1:1", &manifest).file("text.wasm", "not a plugin");
        let done = setup.command(&[command]).finish().expect(2);
        contains(&done.stderr, &["7 problems", "handler.gone", "gone.wasm", "handler.text"]);
        for number in 0..names.len() {
            contains(&done.stderr, &[&format!("handler.h{number}.plugin")]);
        }
    }
}

#[test]
fn run_without_a_redis_says_what_to_do() {
    let done = Setup::alone(PROBE).finish().expect(2);
    contains(&done.stderr, &["[redis]", "tidegate dev"]);
}

#[test]
fn the_log_as_json_is_an_object_a_line() {
    let server = Server::start();
    let setup = Setup::new(&server, PROBE).command(&["run", "--log", "json"]);
    let mut host = setup.start();
    eventually("it is ready", || host.log().contains("ready"));
    host.stop();
    let log = host.log();
    assert!(log.lines().count() >= 3, "{log}");
    for line in log.lines() {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(parsed.is_ok_and(|line| line.is_object()), "{line}");
    }
}

#[test]
fn publish_appends_fields_in_order_and_prints_the_id() {
    let server = Server::start();
    let url = server.url();
    let arguments = ["publish", "in", "b=1", "a=x=y", "b=", "--redis", &url];
    let done = Setup::alone("").command(&arguments).finish().expect(0);
    let entry = server.client().wait_first("in");
    assert_eq!(done.stdout, format!("{}\n", entry.id));
    assert_eq!(entry.to_string(), format!("{} b=1 a=x=y b=", entry.id));
}

#[test]
fn publish_appends_a_message_for_each_line_of_a_file() {
    let server = Server::start();
    let lines: String = (0..1200).map(|n| format!("{{\"n\":{n},\"s\":\"x\"}}\n")).collect();
    let url = server.url();
    let setup = Setup::alone("").file("lines", lines);
    let arguments = ["publish", "in", "--file", "lines", "--redis", &url];
    let done = setup.command(&arguments).finish().expect(0);
    assert_eq!(done.stdout.lines().count(), 1200);
    let expected: Vec<_> = (0..1200).map(|n| n.to_string()).collect();
    assert_eq!(server.client().column("in", "n"), expected);
}

#[test]
fn publish_says_what_is_wrong_with_a_field() {
    let server = Server::start();
    let url = server.url();
    let arguments = ["publish", "in", "no-equals-sign", "--redis", &url];
    contains(&Setup::alone("").command(&arguments).finish().expect(2).stderr, &["no-equals-sign"]);
    assert_eq!(server.client().length("in"), 0);
}

#[test]
fn status_tells_what_is_pending_waiting_and_dead() {
    let server = Server::start();
    let mut redis = server.client();
    let before = run(&server, &["status", "--json"]).expect(0).json();
    assert_eq!(before["handlers"][0]["group-exists"], false);
    let _host = Host::start(&server, PROBE);
    redis.add("in", &[("reject", "no")]);
    redis.add("in", &[("retry-after-ms", "600000")]);
    redis.add("in", &[("emit", "out")]);
    redis.wait_first("out");
    eventually("only the one that waits is pending", || redis.pending("in", "h") == 1);
    let status = run(&server, &["status", "--json"]).expect(0).json();
    let handler = &status["handlers"][0];
    let expected =
        [("pending", 1), ("retries-waiting", 1), ("dead", 1), ("length", 3), ("unread", 0)];
    for (figure, value) in expected {
        assert_eq!(handler[figure], value, "{figure} in {status}");
    }
    assert_eq!(handler["hosts-alive"], 1, "{status}");
    let table = run(&server, &["status"]).expect(0).stdout;
    contains(&table, &["handler", "pending", "dead", "in", "h"]);
}

#[test]
fn status_knows_when_nothing_is_unread_even_where_the_server_lost_count() {
    let server = Server::start();
    let mut redis = server.client();
    let mut host = Host::start(&server, PROBE);
    redis.add("in", &[("emit", "out")]);
    redis.wait_first("out");
    redis.wait_settled("in", "h");
    host.stop();
    // A deleted entry ahead of the group: servers since 7.0 give no lag then, those before never do.
    let id = redis.add("in", &[("emit", "out")]);
    redis.tell(&format!("XDEL in {id}"));
    let status = run(&server, &["status", "--json"]).expect(0).json();
    assert_eq!(status["handlers"][0]["unread"], 0, "{status}");
}

/// A server with three dead letters of two reasons.
fn with_dead_letters() -> (Server, Redis) {
    let server = Server::start();
    let mut redis = server.client();
    let _host = Host::start(&server, PROBE);
    redis.add("in", &[("reject", "no"), ("data", "1")]);
    redis.add("in", &[("retry-until", "3"), ("emit", "out"), ("data", "2")]);
    redis.add("in", &[("retry-until", "3"), ("emit", "out"), ("data", "3")]);
    redis.wait_for(3, "{in}:dead");
    redis.wait_settled("in", "h");
    (server, redis)
}

#[test]
fn dead_list_tells_each_letter_with_its_reason() {
    let (server, _) = with_dead_letters();
    let listed = run(&server, &["dead", "list", "--json"]).expect(0).json();
    let letters = listed.as_array().unwrap();
    assert_eq!(letters.len(), 3);
    let mut reasons: Vec<_> = letters.iter().map(|l| l["reason"].as_str().unwrap()).collect();
    reasons.sort();
    assert_eq!(reasons, ["reject", "retries", "retries"]);
    let arguments = ["dead", "list", "--json", "--reason", "reject"];
    let rejected = run(&server, &arguments).expect(0).json();
    assert_eq!(rejected.as_array().unwrap().len(), 1);
    assert_eq!(rejected[0]["source"], "in");
    let table = run(&server, &["dead", "list"]).expect(0);
    contains(&table.stdout, &["reject", "retries"]);
}

#[test]
fn redrive_puts_messages_back_with_all_their_attempts() {
    let (server, mut redis) = with_dead_letters();
    let arguments = ["dead", "redrive", "--all", "--reason", "retries"];
    run(&server, &arguments).expect(0);
    assert_eq!((redis.length("{in}:dead"), redis.length("in")), (1, 5));
    let back = &redis.entries("in")[3..];
    assert!(back.iter().all(|entry| entry.names() == ["retry-until", "emit", "data"]));
    // Patient this time.
    let _host = Host::start(&server, &PROBE.replace("attempts = 2", "attempts = 3"));
    redis.wait_for(2, "out");
    assert_eq!(redis.column("out", "attempt"), ["3", "3"]);
}

#[test]
fn redrive_puts_back_a_message_of_thousands_of_fields() {
    let server = Server::start();
    let mut redis = server.client();
    let host = Host::start(&server, PROBE);
    let names: Vec<String> = (0..6000).map(|number| format!("f{number}")).collect();
    let mut fields: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    fields.push(("reject", "too long"));
    redis.add("in", &fields);
    redis.wait_first("{in}:dead");
    drop(host);
    run(&server, &["dead", "redrive", "--all"]).expect(0);
    let entries = redis.entries("in");
    assert_eq!(entries[1].fields, entries[0].fields);
}

#[test]
fn redrive_says_so_when_there_is_no_such_letter() {
    let (server, mut redis) = with_dead_letters();
    let done = run(&server, &["dead", "redrive", "1-1"]).expect(1);
    contains(&done.stderr, &["1-1"]);
    assert_eq!(redis.length("{in}:dead"), 3);
}

#[test]
fn purge_removes_letters_only_when_it_is_meant() {
    let (server, mut redis) = with_dead_letters();
    run(&server, &["dead", "purge", "--all"]).expect(2);
    run(&server, &["dead", "purge"]).expect(2);
    assert_eq!(redis.length("{in}:dead"), 3);
    run(&server, &["dead", "purge", "--all", "--yes"]).expect(0);
    assert_eq!(redis.length("{in}:dead"), 0);
}

#[test]
fn a_command_whose_redis_refuses_it_ends_with_status_1() {
    let server = Server::with(harness::Options { password: Some("pw"), ..Default::default() });
    for arguments in [&["status"][..], &["dead", "list"], &["publish", "in", "a=1"]] {
        contains(&run(&server, arguments).expect(1).stderr, &["password"]);
    }
}

/// The socket of the private server that `tidegate dev` says it runs.
fn private_socket(log: &str) -> Option<String> {
    let from = log.find("unix://")? + "unix://".len();
    let rest = &log[from..];
    Some(rest[..rest.find("redis.sock")?].to_owned() + "redis.sock")
}

#[test]
fn dev_runs_a_private_redis_and_stops_it_with_itself() {
    for (signal, status) in [("TERM", Some(0)), ("INT", Some(0)), ("KILL", None)] {
        let setup = Setup::alone(PROBE).command(&["dev"]);
        let mut host = setup.start();
        eventually("it says where its server is", || private_socket(&host.log()).is_some());
        let socket = private_socket(&host.log()).unwrap();
        let url = format!("unix://{socket}");
        let publish = ["publish", "in", "emit=out", "--redis", &url];
        Setup::alone("").command(&publish).finish().expect(0);
        let info = redis::Client::open(url.as_str()).unwrap();
        let mut redis = info.get_connection().unwrap();
        within(Duration::from_secs(10), "the message is handled", || {
            redis::cmd("XLEN").arg("out").query::<usize>(&mut redis).unwrap() == 1
        });
        host.signal(signal);
        assert_eq!(host.wait().code(), status);
        eventually("the server is gone", || info.get_connection().is_err());
        eventually("no process of it is left", || !is_running(&socket));
    }
}

/// Whether a process was started with this text among its arguments.
fn is_running(text: &str) -> bool {
    let folder = std::path::Path::new(text).parent().unwrap().display().to_string();
    let listed = Command::new("ps").args(["-A", "-o", "args"]).output().unwrap();
    String::from_utf8_lossy(&listed.stdout).contains(&folder)
}

#[test]
fn dev_without_a_redis_to_start_says_how_to_get_one() {
    let done = Setup::alone(PROBE).env("PATH", "").command(&["dev"]).finish().expect(1);
    contains(&done.stderr, &["redis-server", "PATH", "install"]);
}

#[test]
fn dev_uses_the_redis_that_the_manifest_names() {
    let server = Server::start();
    let setup = Setup::new(&server, PROBE).command(&["dev"]);
    let _host = setup.start();
    let mut redis = server.client();
    redis.add("in", &[("emit", "out")]);
    redis.wait_first("out");
}

#[test]
fn the_demo_plays_to_its_end_and_its_sums_hold() {
    let setup = Setup::alone("").command(&["demo", "--manifest", &example("orders")]);
    let mut host = setup.start();
    let status = host.wait_within(Duration::from_secs(60));
    assert!(status.success(), "{status}");
    contains(&host.output(), &["validate", "price", "invoice", "invoiced"]);
}

fn example(name: &str) -> String {
    root().join("examples").join(name).join("tidegate.toml").display().to_string()
}

#[test]
fn every_example_passes_its_check() {
    let mut examples = 0;
    for folder in fs::read_dir(root().join("examples")).unwrap() {
        let name = folder.unwrap().file_name().into_string().unwrap();
        let arguments = ["check", "--manifest", &example(&name)];
        Setup::alone("").command(&arguments).finish().expect(0);
        examples += 1;
    }
    assert!(examples >= 2);
}

/// An example's manifest with another Redis, and its plugins where they are.
fn on(server: &Server, example: &str) -> Setup {
    let file = root().join("examples").join(example).join("tidegate.toml");
    let manifest = fs::read_to_string(file).unwrap();
    let plugins = root().join("plugins").display().to_string();
    let manifest = manifest.replace("redis://127.0.0.1:6379/0", &server.url());
    Setup::alone(&manifest.replace("../../plugins", &plugins))
}

const ORDER: &str =
    r#"{"id":"o-17","customer":"c-3","currency":"EUR","lines":[{"sku":"mug","quantity":2}]}"#;

#[test]
fn the_order_pipeline_does_what_its_readme_says() {
    let server = Server::start();
    let mut redis = server.client();
    let setup = on(&server, "orders");
    let _host = setup.start();
    let mut notices = server.client().subscribe("invoiced");
    redis.add("orders", &[("order", ORDER)]);
    assert!(redis.wait_first("invoices").get("invoice").contains("o-17"));
    assert!(!notices.next().is_empty());
    let doomed = ORDER.replace("\"currency\"", "\"note\":\"loop\",\"currency\"");
    redis.add("orders", &[("order", doomed.as_str())]);
    let letter = redis.wait_first("{validated}:dead");
    assert_eq!(
        (letter.get("tidegate.reason"), letter.get("tidegate.attempts")),
        ("timeout".into(), "3".into())
    );
}

#[test]
fn the_first_handler_does_what_its_readme_says() {
    let server = Server::start();
    let mut redis = server.client();
    let setup = on(&server, "first-handler");
    let _host = setup.start();
    redis.add("orders", &[("order", ORDER)]);
    redis.add("orders", &[("order", "not an order")]);
    assert_eq!(redis.wait_first("validated").get("order"), ORDER);
    assert!(redis.wait_first("{orders}:dead").get("tidegate.error").contains("not an order"));
}
