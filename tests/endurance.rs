//! A million messages for plugins that trap, leak, flood and lie leave the host as large as it was.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::time::Duration;

use harness::{Host, Redis, Running, Server, within};

/// Messages in all.
const MESSAGES: usize = 1_000_000;

/// Messages that are on all streams together at a time.
const ROUND: usize = 100_000;

/// Bytes that the host may have at the end beyond the most that it had in the first half: less
/// than seventy for each message of the second.
const GROWTH_MAX: u64 = 32 << 20;

/// Of a hundred messages how many each plugin gets, and what more its handler is given.
const PLUGINS: [(&str, usize, &str); 12] = [
    ("trap", 8, ""),
    ("bad-count", 4, ""),
    ("dropped-handle", 4, ""),
    ("control-words", 4, ""),
    ("exit", 4, ""),
    ("delay", 8, "outputs = [\"out\"]"),
    ("pause", 8, ""),
    ("trap-batch", 8, "batch = 100"),
    ("wrong-count", 8, "batch = 100"),
    ("leak", 20, ""),
    ("leak-memory", 20, ""),
    ("echo", 4, ""),
];

/// Heavier ones, of which each round has few.
const HEAVY: [(&str, usize); 5] =
    [("log-flood", 200), ("big-output", 50), ("huge-reason", 50), ("overlap", 10), ("memory", 20)];

#[test]
fn a_million_hostile_messages_leave_the_hosts_memory_as_it_was() {
    let server = Server::start();
    let mut redis = server.client();
    let host = start(&server);
    let mut sizes = vec![resident(&host)];
    for _ in 0..MESSAGES / ROUND {
        for (plugin, share, _) in PLUGINS {
            put(&mut redis, plugin, share * ROUND / 100);
        }
        for (plugin, count) in HEAVY {
            put(&mut redis, plugin, count);
        }
        for plugin in plugins() {
            clear(&mut redis, plugin);
        }
        sizes.push(resident(&host));
    }
    eprintln!("bytes resident after each round: {sizes:?}");
    let (first, second) = sizes.split_at(sizes.len() / 2 + 1);
    let (warm, end) = (first.iter().max().unwrap(), second.last().unwrap());
    assert!(*end < warm + GROWTH_MAX, "bytes resident after each round: {sizes:?}");
    assert!(host.log().len() < 16 << 20, "{} bytes of log", host.log().len());
}

fn plugins() -> impl Iterator<Item = &'static str> {
    PLUGINS.iter().map(|(plugin, ..)| *plugin).chain(HEAVY.iter().map(|(plugin, _)| *plugin))
}

/// A host for all of them, which logs what they print and not what becomes of each message.
fn start(server: &Server) -> Running {
    let further = |plugin: &str| PLUGINS.iter().find(|(other, ..)| *other == plugin);
    let handler = |plugin| {
        let further = further(plugin).map_or("", |(.., further)| further);
        format!(
            "[handler.{plugin}]\nplugin = \"{plugin}.wasm\"\nstream = \"in-{plugin}\"\n\
             retry = {{ attempts = 1 }}\n{further}\n"
        )
    };
    let manifest: String = plugins().map(handler).collect();
    let setup = harness::Setup::new(server, &manifest).env("TIDEGATE_LOG", "error,plugin=info");
    Running::of(setup)
}

fn put(redis: &mut Redis, plugin: &str, count: usize) {
    for _ in 0..count.div_ceil(1000) {
        redis.add_many(count.min(1000), &format!("in-{plugin}"), &[("name", "value")]);
    }
}

/// Waits until a plugin's messages are settled, and takes them and their letters from Redis.
fn clear(redis: &mut Redis, plugin: &str) {
    let stream = format!("in-{plugin}");
    within(Duration::from_secs(300), &format!("{stream} is settled"), || {
        redis.has_group(&stream, plugin)
            && redis.pending(&stream, plugin) == 0
            && redis.is_read(&stream, plugin)
    });
    redis.tell(&format!("XTRIM {stream} MAXLEN 0"));
    redis.tell(&format!("DEL {{{stream}}}:dead"));
}

/// The memory that a process has in use, in bytes.
fn resident(host: &Host) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
}
