//! Handlers in other languages than Rust, made by those languages' public tools.
//!
//! Python by componentize-py, JavaScript by componentize-js, C by wit-bindgen and clang;
//! `make languages` builds them.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;
#[path = "languages/service.rs"]
mod service;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use harness::{Entry, Host, Redis, Running, Server, Setup, eventually, within};
use service::{PRICE, Service};

/// How long a host may take until it works: interpreters take long to compile, and longer where
/// others share the machine.
const STARTING: Duration = Duration::from_secs(240);

/// What every manifest here begins with: what was compiled once is there for the next test.
fn host() -> String {
    format!("[host]\ncache = \"{}/compiled\"\ncompile-time = \"4m\"\n", env!("CARGO_TARGET_TMPDIR"))
}

/// A handler that asks a service for prices and remembers them.
fn quoting(plugin: &str, service: &str) -> String {
    format!(
        r#"{}
[handler.quote]
plugin = "{plugin}.wasm"
stream = "asked"
outputs = ["quotes"]
keyvalue = "quotes:"
http = ["{service}"]
env = {{ QUOTES = "http://{service}" }}
retry = {{ attempts = 2, first = "20ms" }}
"#,
        host()
    )
}

/// Held while a host starts: two that compile the same plugin at once find nothing compiled yet.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static STARTING: Mutex<()> = Mutex::new(());
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a host and waits until it reads.
fn start(server: &Server, redis: &mut Redis, manifest: &str) -> Running {
    let _turn = one_at_a_time();
    let mut host = Host::start(server, manifest);
    within(STARTING, "the host reads", || {
        assert!(host.is_running(), "it ended: {}", host.log());
        redis.readers() > 0
    });
    host
}

/// Asks for a price and waits for the quote.
fn quote(redis: &mut Redis, sku: &str) -> Entry {
    let before = redis.length("quotes");
    redis.add("asked", &[("sku", sku)]);
    redis.wait_for(before + 1, "quotes").pop().unwrap()
}

fn remembers_what_it_asked_for(plugin: &str) {
    let (server, service) = (Server::start(), Service::start());
    let mut redis = server.client();
    let _host = start(&server, &mut redis, &quoting(plugin, &service.address.to_string()));

    let quotes = ["chair", "chair", "a b/ü"].map(|sku| quote(&mut redis, sku));
    let told: Vec<_> = quotes.iter().map(|quote| quote.fields.clone()).collect();
    let expected = |sku: &str, source: &str| {
        [("sku", sku), ("price", PRICE), ("source", source)]
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .to_vec()
    };
    let wanted =
        [expected("chair", "service"), expected("chair", "memory"), expected("a b/ü", "service")];
    assert_eq!(told, wanted);
    assert_eq!(service.asked(), ["/chair", "/a%20b%2F%C3%BC"]);

    // What it remembers is plain Redis, below its prefix and nowhere else.
    assert_eq!(redis.ask::<String>("GET quotes:price:chair"), PRICE);
    assert_eq!(redis.ask::<String>("GET quotes:asked"), "2");
    let keys: Vec<String> = redis.ask("KEYS *");
    let others = ["asked", "quotes"];
    let strangers = keys.iter().filter(|key| {
        !key.starts_with("quotes:") && !key.starts_with("tidegate:") && !others.contains(&&***key)
    });
    assert_eq!(strangers.count(), 0, "{keys:?}");
}

fn answers_with_failures(plugin: &str) {
    let (server, service) = (Server::start(), Service::start());
    let mut redis = server.client();
    let _host = start(&server, &mut redis, &quoting(plugin, &service.address.to_string()));

    let buried = |redis: &mut Redis, field: (&str, &str), count: usize| {
        redis.add("asked", &[field]);
        let letter = redis.wait_for(count, "{asked}:dead").pop().unwrap();
        let get = |name: &str| letter.get(&format!("tidegate.{name}"));
        (get("reason"), get("attempts"), get("error"))
    };
    let (reason, attempts, error) = buried(&mut redis, ("price", "1"), 1);
    assert_eq!((&*reason, &*attempts), ("reject", "1"));
    assert!(error.contains("the message has no field `sku`"), "{error}");
    let (reason, attempts, error) = buried(&mut redis, ("sku", "unknown"), 2);
    assert_eq!((&*reason, &*attempts), ("reject", "1"));
    assert!(error.contains("the quote service does not know this `sku`"), "{error}");
    drop(service);
    let (reason, attempts, error) = buried(&mut redis, ("sku", "table"), 3);
    assert_eq!((&*reason, &*attempts), ("retries", "2"));
    assert!(error.contains("the quote service cannot be reached"), "{error}");

    assert!(!redis.exists("quotes:price:table"), "it remembers what it was never told");
    eventually("all is settled", || redis.pending("asked", "quote") == 0);
}

/// What `check` says of a plugin whose handler is granted no more than this.
fn refused(plugin: &str, grants: &str) -> String {
    let handler = format!("[handler.h]\nplugin = \"{plugin}.wasm\"\nstream = \"in\"\n{grants}");
    let setup = Setup::at("redis://127.0.0.1:1", &(host() + &handler)).command(&["check"]);
    let _turn = one_at_a_time();
    let mut check = setup.start();
    let status = check.wait_within(STARTING);
    assert_eq!(status.code(), Some(2), "{}", check.log());
    check.log()
}

fn needs_its_grants(plugin: &str) {
    let said = refused(plugin, "");
    for part in ["wasi:keyvalue/store", "keyvalue = ", "wasi:http/outgoing-handler", "http = "] {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }

    // Granted another host than the one it asks.
    let (server, service) = (Server::start(), Service::start());
    let mut redis = server.client();
    let address = service.address.to_string();
    let granted = format!("http = [\"{address}\"]");
    let manifest = quoting(plugin, &address).replace(&granted, "http = [\"127.0.0.1:1\"]");
    let _host = start(&server, &mut redis, &manifest);
    redis.add("asked", &[("sku", "chair")]);
    let letter = redis.wait_first("{asked}:dead");
    assert_eq!(letter.get("tidegate.reason"), "retries");
    let error = letter.get("tidegate.error");
    assert!(error.contains("the quote service cannot be reached"), "{error}");
    assert!(service.asked().is_empty(), "{:?}", service.asked());
    assert!(!redis.exists("quotes:price:chair") && !redis.exists("quotes"));
}

#[test]
fn a_handler_in_python_remembers_what_it_asked_for() {
    remembers_what_it_asked_for("quote_py");
}

#[test]
fn a_handler_in_javascript_remembers_what_it_asked_for() {
    remembers_what_it_asked_for("quote_js");
}

#[test]
fn failures_of_a_handler_in_python_are_retried_or_buried_with_its_words() {
    answers_with_failures("quote_py");
}

#[test]
fn failures_of_a_handler_in_javascript_are_retried_or_buried_with_its_words() {
    answers_with_failures("quote_js");
}

#[test]
fn a_handler_in_python_reaches_nothing_without_its_grants() {
    needs_its_grants("quote_py");
}

#[test]
fn a_handler_in_javascript_reaches_nothing_without_its_grants() {
    needs_its_grants("quote_js");
}

#[test]
fn a_core_module_in_c_counts_over_all_hosts() {
    let server = Server::start();
    let mut redis = server.client();
    let handler = "[handler.count]\nplugin = \"count_c.wasm\"\nstream = \"in\"\n\
                   outputs = [\"counts\"]\nkeyvalue = \"counts:\"\n";
    let manifest = host() + handler;
    let _hosts = [start(&server, &mut redis, &manifest), Host::start(&server, &manifest)];
    redis.add_many(50, "in", &[("sku", "chair")]);
    redis.add("in", &[("sku", "table")]);

    let entries = redis.wait_for(51, "counts");
    let mut chairs: Vec<u64> = entries
        .iter()
        .filter(|entry| entry.get("sku") == "chair")
        .map(|entry| entry.get("count").parse().unwrap())
        .collect();
    chairs.sort_unstable();
    assert_eq!(chairs, (1..=50).collect::<Vec<u64>>());
    assert_eq!(redis.ask::<String>("GET counts:chair"), "50");
    assert_eq!(redis.ask::<String>("GET counts:table"), "1");
}

#[test]
fn a_core_module_in_c_without_its_grant_is_refused_and_told_which() {
    let said = refused("count_c", "");
    for part in ["wasi:keyvalue/atomics", "keyvalue = "] {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }
}
