//! Being known to be alive: a key with an expiry for each consumer, and a name nobody else has.
//!
//! The key tells other hosts whose entries to leave alone, and `status` what
//! runs where. It ends by itself soon after its host does.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use redis::{RedisResult, Value};
use serde::{Deserialize, Serialize};

use super::keys::Keys;
use super::link::Link;
use crate::figures::{Figures, read};

/// A host that is silent for this long counts as dead.
const LIFETIME: Duration = Duration::from_secs(15);

/// How often a host shows itself.
const EVERY: Duration = Duration::from_secs(5);

/// Names are tried with a number behind them this far.
const NAMES: u32 = 1000;

/// What a live host tells of one handler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sign {
    /// The process, in words that only mean something on its own machine.
    pub process: Process,
    /// Tidegate's version.
    pub version: String,
    /// The digest of the plugin that handles messages.
    pub plugin: String,
    /// Messages acknowledged as handled since the host started.
    pub handled: u64,
    /// Failures to be tried again since the host started.
    pub retried: u64,
    /// Messages buried since the host started.
    pub buried: u64,
    /// Messages handled a second, over the last few seconds.
    pub rate: f64,
}

/// What tells one process from another, for whoever shares its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The machine's boot and the process namespace in it.
    machine: String,
    pid: u32,
    /// When it started, in the kernel's ticks: pids are used again.
    started: String,
}

impl Process {
    fn this() -> Self {
        let pid = std::process::id();
        Self { machine: machine(), pid, started: started(pid).unwrap_or_default() }
    }

    /// Whether it can be told for sure that this process is no more.
    fn is_gone(&self) -> bool {
        !self.machine.is_empty()
            && self.machine == machine()
            && started(self.pid).as_deref() != Some(&self.started)
    }
}

/// Names the scope in which a pid means something; empty where that cannot be told.
fn machine() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let namespace = fs::read_link("/proc/self/ns/pid");
    match (boot, namespace) {
        (Ok(boot), Ok(namespace)) => format!("{} {}", boot.trim(), namespace.display()),
        _ => String::new(),
    }
}

/// The start time of a process, the 22nd field of `/proc/PID/stat` (proc(5)).
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(") ")?.1;
    let mut fields = after_name.split(' ');
    let state = fields.next()?;
    // A zombie has ended; only its parent has not looked.
    if state == "Z" { None } else { fields.nth(18).map(str::to_owned) }
}

/// The consumer name of one handler in this host, held by its key.
pub(super) struct Presence {
    link: Link,
    key: String,
    teller: Teller,
}

/// What a host has to tell of one handler.
pub(super) struct Teller {
    pub plugin: Arc<str>,
    pub figures: Arc<Figures>,
}

impl Presence {
    /// Takes the wanted name, or with a number behind it where another live host has it.
    pub(super) async fn claim(
        link: Link,
        keys: &Keys,
        wanted: &str,
        teller: Teller,
    ) -> RedisResult<(String, Self)> {
        let mut presence = Self { link, key: String::new(), teller };
        for number in 1..=NAMES {
            let name = if number == 1 { wanted.to_owned() } else { format!("{wanted}-{number}") };
            presence.key = keys.live(&name);
            if presence.take().await? {
                return Ok((name, presence));
            }
        }
        let text = format!("{NAMES} live hosts are named `{wanted}`; set another `name` in [host]");
        Err(redis::make_extension_error("NAMETAKEN".into(), Some(text)))
    }

    async fn take(&self) -> RedisResult<bool> {
        if self.link.query(self.setting(0.0).arg("NX")).await? == Value::Okay {
            return Ok(true);
        }
        let holder = self.link.query(redis::cmd("GET").arg(&self.key)).await?;
        let gone = match sign(&holder) {
            Some(sign) => sign.process.is_gone(),
            None => false,
        };
        if gone {
            self.link.query(&self.setting(0.0)).await?;
        }
        Ok(gone)
    }

    /// Shows the host to be alive until the task is ended.
    pub(super) async fn show(self: Arc<Self>) {
        let mut every = tokio::time::interval(EVERY);
        let mut before = read(&self.teller.figures.handled);
        every.tick().await;
        loop {
            every.tick().await;
            let now = read(&self.teller.figures.handled);
            let rate = (now - before) as f64 / EVERY.as_secs_f64();
            before = now;
            if let Err(error) = self.link.query(&self.setting(rate)).await {
                tracing::debug!(%error, "cannot show that this host is alive");
            }
        }
    }

    /// Says that this host is done, so that no one waits for its key to end.
    pub(super) async fn leave(&self) {
        let _ = self.link.query(redis::cmd("DEL").arg(&self.key)).await;
    }

    fn setting(&self, rate: f64) -> redis::Cmd {
        let told = serde_json::to_string(&self.teller.sign(rate)).expect("a sign is plain JSON");
        let mut setting = redis::cmd("SET");
        setting.arg(&self.key).arg(told).arg("PX").arg(LIFETIME.as_millis() as u64);
        setting
    }
}

impl Teller {
    fn sign(&self, rate: f64) -> Sign {
        Sign {
            process: Process::this(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            plugin: self.plugin.to_string(),
            handled: read(&self.figures.handled),
            retried: read(&self.figures.retried),
            buried: self.figures.buried_in_all(),
            rate,
        }
    }
}

/// What a live key tells, if it can be read.
pub(super) fn sign(value: &Value) -> Option<Sign> {
    match value {
        Value::BulkString(told) => serde_json::from_slice(told).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_not_gone_and_one_of_its_pid_that_started_earlier_is() {
        let this = Process::this();
        assert!(!this.is_gone());
        let earlier = Process { started: "1".into(), ..this.clone() };
        assert!(earlier.is_gone());
        let elsewhere = Process { machine: "another".into(), ..earlier };
        assert!(!elsewhere.is_gone(), "what cannot be known is taken to live");
    }
}
