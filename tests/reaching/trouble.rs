//! Configuration and the log, and what a plugin hears when Redis is away or says no.

use super::harness::{self, Host, Proxy, Server, eventually};
use super::{ONE, PROBE, answers, ask, map, probe, strings};

#[test]
fn configuration_is_read_as_it_is_at_each_call() {
    let (_server, mut redis, _host) = probe("");
    let answer = ask(&mut redis, &[("config", "tax"), ("config-all", "")]);
    assert_eq!((answer.get("config"), answer.get("config-all")), ("none".into(), "".into()));
    redis.tell("HSET settings tax 19 fee 2");
    let answer = ask(&mut redis, &[("config", "tax"), ("config-all", "")]);
    assert_eq!(answer.get("config"), "19");
    assert_eq!(answer.get("config-all"), "fee=2 tax=19");
    redis.tell("HSET settings tax 20");
    redis.tell("HDEL settings fee");
    let answer = ask(&mut redis, &[("config", "tax"), ("config-all", "")]);
    assert_eq!((answer.get("config"), answer.get("config-all")), ("20".into(), "tax=20".into()));
}

#[test]
fn configuration_that_cannot_be_read_is_an_error_to_the_plugin() {
    let (_server, mut redis, _host) = probe("");
    redis.eval(
        "redis.call('HSET', 'settings', 'large', string.rep('x', 2000000), 'bytes', '\\255')",
    );
    let answer = ask(&mut redis, &[("config", "large"), ("config", "bytes"), ("config-all", "")]);
    let told = answers(&answer, "config");
    assert!(told[0].contains("2000000 bytes"), "{}", told[0]);
    assert!(told[1].contains("no text"), "{}", told[1]);
    assert!(answer.get("config-all").contains("larger than can be read"), "{answer}");
    redis.tell("DEL settings");
    redis.tell("SET settings x");
    let told = ask(&mut redis, &[("config", "tax")]).get("config");
    assert!(told.contains("of another type"), "{told}");
}

#[test]
fn a_plugin_hears_of_an_outage_and_its_retry_works() {
    let server = Server::start();
    let mut redis = server.client();
    let proxy = Proxy::before(&server);
    let retry = "retry = { attempts = 5, first = \"20ms\", max = \"50ms\" }\n";
    let host = Host::at(&proxy.url(), &format!("{PROBE}{retry}"));
    redis.add("in", &[("log", "info begins"), ("get-until-error", ""), ("key", "a"), ("set", "1")]);
    eventually("it is at work", || host.log().contains("begins"));
    proxy.refuse();
    proxy.cut();
    eventually("the plugin hears of it", || host.log().contains("cannot read"));
    proxy.heal();
    assert_eq!(redis.wait_first("out").get("set"), "done");
    assert_eq!(strings(&mut redis), map(&[("k:a", "1")]));
    assert_eq!(redis.length("{in}:dead"), 0);
}

#[test]
fn an_operation_that_is_never_answered_ends_with_the_calls_timeout() {
    let server = Server::start();
    let mut redis = server.client();
    let proxy = Proxy::before(&server);
    let lines = format!("{PROBE}{ONE}timeout = \"500ms\"\n");
    let host = Host::at(&proxy.url(), &lines);
    redis.add("in", &[("log", "info begins"), ("get-until-error", "")]);
    eventually("it is at work", || host.log().contains("begins"));
    proxy.swallow();
    eventually("the call is over", || host.log().contains("500ms"));
    proxy.heal();
    assert_eq!(redis.wait_first("{in}:dead").get("tidegate.reason"), "timeout");
}

#[test]
fn a_missing_permission_is_told_to_the_plugin_and_in_the_log() {
    let (server, mut redis, host) = probe("");
    ask(&mut redis, &[("key", "a"), ("set", "1")]);
    redis.tell("ACL SETUSER default resetkeys ~tidegate:* ~in ~out ~{in}:*");
    let fields = [("key", "a"), ("get", ""), ("set", "2"), ("get", ""), ("config", "tax")];
    let answer = ask(&mut redis, &fields);
    assert_eq!(answers(&answer, "get"), ["error: Error::AccessDenied"; 2]);
    assert_eq!(answer.get("set"), "error: Error::AccessDenied");
    assert!(answer.get("config").starts_with("error: Error::Upstream("), "{answer}");
    let told = "redis does not let this host do what a plugin is granted";
    assert_eq!(host.log().matches(told).count(), 2, "once for each grant");
    redis.tell("ACL SETUSER default allkeys");
    let answer = ask(&mut server.client(), &[("key", "a"), ("get", "")]);
    assert_eq!(answer.get("get"), "1");
}

#[test]
fn the_rights_that_the_readme_lists_for_keys_and_configuration_are_enough() {
    let server = Server::start();
    let mut redis = server.client();
    let readme = std::fs::read_to_string(harness::root().join("README.md")).unwrap();
    let is_listed = |line: &&str| {
        ["    +", "| `keyvalue` |", "| `config` |"].iter().any(|start| line.starts_with(start))
    };
    let words = readme.lines().filter(is_listed).flat_map(str::split_whitespace);
    let rights: Vec<&str> = words.filter(|word| word.starts_with(['+', '`'])).collect();
    let rights = rights.iter().map(|right| right.trim_matches(['`', ',']));
    let mut granting =
        "ACL SETUSER default -@all resetkeys ~tidegate:* ~in ~out ~{in}:* ~k:* ~settings"
            .to_owned();
    for right in rights.filter(|right| right.starts_with('+')) {
        // A server knows no subcommands that it has not.
        if redis.attempt::<redis::Value>(&format!("ACL SETUSER probe {right}")).is_ok() {
            granting.push_str(&format!(" {right}"));
        }
    }
    redis.tell(&granting);
    let _host = Host::start(&server, &format!("{PROBE}{ONE}"));
    let fields = [
        ("key", "a"),
        ("set", "1"),
        ("get", ""),
        ("exists", ""),
        ("add", "1"),
        ("append", "1"),
        ("swap", "1"),
        ("list", ""),
        ("set-many", "a=1 b=2"),
        ("get-many", "a b"),
        ("delete-many", "a b"),
        ("delete", ""),
        ("config", "tax"),
        ("config-all", ""),
    ];
    let answer = ask(&mut redis, &fields);
    assert!(!answer.to_string().contains("error"), "{answer}");
}

#[test]
fn what_a_plugin_logs_is_one_event_with_its_handler_and_message() {
    let (_server, mut redis, host) = probe("");
    let fields = [("log", "warn two\nlines"), ("log", "critical gone"), ("log", "debug unseen")];
    let id = ask(&mut redis, &fields).get("id");
    let log = host.log();
    let line = |words: &str| log.lines().find(|line| line.contains(words)).unwrap_or_default();
    let warning = line("two\\nlines");
    for part in [" WARN ", "handler=\"h\"", &format!("message_id={id}"), "context=\"probe\""] {
        assert!(warning.contains(part), "`{part}` is not in {warning}");
    }
    assert!(line("gone").contains("ERROR"), "{log}");
    assert!(!log.contains("unseen"), "{log}");
}
