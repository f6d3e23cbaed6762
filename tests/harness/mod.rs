//! What the promises are tested with: real servers, the real program, real plugins.
//!
//! Each test has a server, a directory and hosts of its own. Nothing sleeps for
//! luck: [`eventually`] waits for a condition, with a deadline. What is started
//! here ends with the test, also when it fails.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "shared by several test programs, none of which uses all of it"
)]

mod client;
mod failover;
mod host;
mod plugins;
mod proxy;
mod server;

use std::time::{Duration, Instant};

pub use client::{Entry, Redis, millis};
pub use failover::{Sentinel, Watched, pair, role, table};
pub use host::{Done, Host, Running, Setup, command};
pub use plugins::{plugin, root, variant};
pub use proxy::Proxy;
pub use server::{Certificates, Doorway, Options, Server, speaks_tls};

/// How long a condition may take to come true. Generous: only a failing test waits for it.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// How often a condition is looked at.
const EVERY: Duration = Duration::from_millis(10);

/// Waits until something is so; fails the test, naming it, when it takes too long.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(DEADLINE, what, condition);
}

/// [`eventually`], with a deadline of its own.
#[track_caller]
pub fn within(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < deadline, "waited {deadline:?} in vain: {what}");
        std::thread::sleep(EVERY);
    }
}

/// Fails the test if something comes to be so within a time in which it would have, were it ever to.
#[track_caller]
pub fn never(time: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while started.elapsed() < time {
        assert!(!condition(), "after {:?}: {what}", started.elapsed());
        std::thread::sleep(EVERY);
    }
}

/// Sends a signal to a process by its name, with the shell that every Unix has.
#[track_caller]
pub fn signal(process: u32, name: &str) {
    let line = format!("kill -{name} {process}");
    assert!(
        std::process::Command::new("sh").args(["-c", &line]).status().unwrap().success(),
        "{line}"
    );
}

/// Says that a promise could not be tested here, and why; `scripts/on-servers` counts these lines.
///
/// Past the test's captured output, so that it is seen although the test passes.
pub fn skipped(why: &str) {
    use std::io::Write;

    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let line = format!("skipped: {test}: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// A random number generator whose seed is printed, and taken from `TIDEGATE_TEST_SEED` if set.
pub fn random() -> fastrand::Rng {
    let given = std::env::var("TIDEGATE_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("to see this again: TIDEGATE_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}
