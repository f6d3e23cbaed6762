//! Being known to be alive: a key with an expiry for each consumer, and a name nobody else has.
//!
//! The key tells other hosts whose entries to leave alone, and `status` what
//! runs where. It ends by itself soon after its host does. It is only ever set where there
//! is none, or this host's own, or that of a process seen to be dead.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use redis::{RedisError, RedisResult, RedisWrite, ToRedisArgs, Value};
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use super::keys::{Keys, WAITING};
use super::letter::cut;
use super::link::Link;
use super::process::Process;
use super::scripts::Lua;
use super::serving::Serving;
use super::trouble::Trouble;
use crate::figures::{Figures, VersionCost, read};
use crate::health::Part;
use crate::message::MessageId;

/// A host that is silent for this long counts as dead.
pub(super) const LIFETIME: Duration = Duration::from_secs(15);

/// How often a host shows itself.
pub(super) const EVERY: Duration = Duration::from_secs(5);

/// Hosts taken off the roll in one look at most.
const UNLISTED: usize = 100;

/// Why a file is refused is told at this length: a manifest may have many problems.
const REFUSAL_BYTES: usize = 2048;

/// Names are tried with a number behind them this far.
const NAMES: u32 = 1000;

/// What a live host tells of one handler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sign {
    /// The process, in words that only mean something on its own machine.
    pub process: Process,
    /// What no other process has.
    #[serde(default)]
    pub token: String,
    /// Tidegate's version.
    pub version: String,
    /// The digest of the plugin that handles messages.
    pub plugin: String,
    /// Since when it does, in milliseconds since the Unix epoch by the host's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin_since_ms: Option<u64>,
    /// The digest of a newer plugin that gets a share of the messages first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin_trying: Option<String>,
    /// The digest of the plugin before, which can be gone back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin_before: Option<String>,
    /// Why the plugin's file, as it is now, is not at work; absent while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin_refused: Option<String>,
    /// Why the manifest, as it is now, is not in force; absent while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_refused: Option<String>,
    /// What the versions of the plugin that are at work have cost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<VersionCost>,
    /// Messages acknowledged as handled since the host started.
    pub handled: u64,
    /// Failures to be tried again since the host started.
    pub retried: u64,
    /// Messages acknowledged unseen since the host started, as they repeated others.
    #[serde(default)]
    pub duplicates: u64,
    /// Messages buried since the host started.
    pub buried: u64,
    /// Requests that Redis refused or did not answer since the host started, by the word for why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub troubles: BTreeMap<String, u64>,
    /// Whether its circuit is open: everything failed, and it only tries one message now and then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub circuit_open: bool,
    /// Messages handled a second, over the last few seconds.
    pub rate: f64,
}

/// The name that a handler reads under in this host. It changes only when it turns out to be
/// another host's as well; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Name(Arc<Mutex<Arc<str>>>);

impl Name {
    /// The name as it is now.
    pub(super) fn now(&self) -> Arc<str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A name that never changes.
    pub(super) fn fixed(name: &str) -> Self {
        let fixed = Self::default();
        fixed.set(name);
        fixed
    }

    fn set(&self, name: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = name.into();
    }
}

impl ToRedisArgs for Name {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        out.write_arg(self.now().as_bytes());
    }
}

/// The consumer name of one handler in this host, held by its key.
pub(super) struct Presence {
    link: Link,
    keys: Keys,
    group: Arc<str>,
    wanted: String,
    token: String,
    teller: Teller,
    name: Name,
    /// The name is another host's as well.
    contested: AtomicBool,
    /// A host of this name died, and not all that it held is back yet.
    inherits: AtomicBool,
    /// What runs alone, until it is known to have let this host live.
    on_trial: Mutex<Vec<MessageId>>,
}

/// What a host has to tell of one handler.
pub(super) struct Teller {
    pub serving: Serving,
    pub figures: Arc<Figures>,
}

/// What came of trying to hold a name.
enum Hold {
    /// It is held; nobody died under it.
    Ours,
    /// It is held; a host of this name, be it this one, never said that it leaves.
    OursAgain,
    /// Another host has it, with this sign.
    Others(Vec<u8>),
}

impl Presence {
    /// Takes the wanted name, or with a number behind it where another live host has it.
    pub(super) async fn claim(
        link: Link,
        keys: &Keys,
        (group, wanted): (Arc<str>, &str),
        teller: Teller,
    ) -> RedisResult<Self> {
        let presence = Self {
            link,
            keys: keys.clone(),
            group,
            wanted: wanted.to_owned(),
            token: format!("{:032x}", fastrand::u128(..)),
            teller,
            name: Name::default(),
            contested: AtomicBool::new(false),
            inherits: AtomicBool::new(false),
            on_trial: Mutex::default(),
        };
        presence.name.set(&presence.find_name().await?);
        Ok(presence)
    }

    /// Has the name be that of a reader of another group, whose host goes by the same name.
    pub(super) fn reads_as(&mut self, group: &Arc<str>, keys: &Keys) {
        self.group = group.clone();
        self.keys = keys.clone();
    }

    /// The name, now and in time to come.
    pub(super) fn name(&self) -> Name {
        self.name.clone()
    }

    /// What is in this host's sign of life, and in no other's.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Whether another host has shown itself under this name: nothing more may be read under it.
    pub(super) fn is_contested(&self) -> bool {
        self.contested.load(Ordering::Acquire)
    }

    /// Whether what is pending under this name was in flight when a host died.
    pub(super) fn inherits(&self) -> bool {
        self.inherits.load(Ordering::Acquire)
    }

    /// Notes that all that an earlier host of this name held is back.
    pub(super) fn has_inherited(&self) {
        self.inherits.store(false, Ordering::Release);
    }

    /// What runs alone, and has let this host live so far.
    pub(super) fn on_trial(&self) -> Vec<MessageId> {
        self.on_trial.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what runs alone from now on; none if nothing does.
    pub(super) fn try_alone(&self, ids: Vec<MessageId>) {
        *self.on_trial.lock().unwrap_or_else(PoisonError::into_inner) = ids;
    }

    /// Leaves a contested name to the other host and takes another. Gives the old one.
    pub(super) async fn rename(&self) -> RedisResult<Arc<str>> {
        let old = self.name.now();
        self.go_by(&self.find_name().await?);
        Ok(old)
    }

    /// A name to take instead of a contested one. It is held from now on, but not gone by yet.
    ///
    /// `before` is what this gave when it was last asked, if nothing came of that.
    pub(super) async fn another_name(&self, before: Option<&str>) -> RedisResult<String> {
        if let Some(name) = before
            && !matches!(self.hold(name, 0.0, b"").await?, Hold::Others(_))
        {
            return Ok(name.to_owned());
        }
        self.find_name().await
    }

    /// Leaves a contested name to the other host.
    pub(super) fn go_by(&self, name: &str) {
        self.name.set(name);
        self.contested.store(false, Ordering::Release);
    }

    async fn find_name(&self) -> RedisResult<String> {
        let wanted = &self.wanted;
        for number in 1..=NAMES {
            let name = if number == 1 { wanted.clone() } else { format!("{wanted}-{number}") };
            if self.take(&name).await? {
                return Ok(name);
            }
        }
        let text = format!("{NAMES} live hosts are named `{wanted}`; set another `name` in [host]");
        Err(redis::make_extension_error("NAMETAKEN".into(), Some(text)))
    }

    async fn take(&self, name: &str) -> RedisResult<bool> {
        let mut held = self.hold(name, 0.0, b"").await?;
        if let Hold::Others(told) = &held
            && read_sign(told).is_some_and(|sign| sign.process.is_gone())
        {
            // Whoever else saw it dead may have been quicker: then the sign is another by now.
            held = self.hold(name, 0.0, told).await?;
        }
        match held {
            Hold::Ours => Ok(true),
            Hold::OursAgain => {
                self.inherits.store(true, Ordering::Release);
                Ok(true)
            }
            Hold::Others(_) => Ok(false),
        }
    }

    /// Shows the host to be alive until the task is ended, and at once what changed about its plugin.
    pub(super) async fn show(self: Arc<Self>) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut news = self.teller.serving.listen();
        let (mut before, mut rate) = (read(&self.teller.figures.handled), 0.0);
        let alive = self.teller.figures.health.part(Part::Duty);
        every.tick().await;
        let mut told = false;
        loop {
            tokio::select! {
                _ = every.tick() => {
                    let now = read(&self.teller.figures.handled);
                    rate = (now - before) as f64 / EVERY.as_secs_f64();
                    before = now;
                }
                // Whoever could change it is here: it does not end.
                _ = news.changed() => {}
            }
            match self.affirm(rate).await {
                Ok(()) => {
                    told = false;
                    alive.is_well();
                }
                Err(error) => {
                    // Others would take it for dead. Of any other trouble the reader tells.
                    if is_for_a_person(&error) && !std::mem::replace(&mut told, true) {
                        tracing::error!(stream = self.keys.stream, group = %self.group, %error,
                            "cannot show that this host is alive until this is mended; trying again");
                    } else {
                        tracing::debug!(%error, "cannot show that this host is alive");
                    }
                    self.teller.figures.trouble(Trouble::of(&error).as_str());
                    alive.ails(format_args!("cannot show that this host is alive: {error}"));
                }
            }
        }
    }

    /// As [`Self::show`], and looks after the roll of hosts, as no reader does where streams are owned.
    pub(super) async fn show_among_owners(self: Arc<Self>) {
        let clearing = async {
            let mut every = tokio::time::interval(LIFETIME);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                every.tick().await;
                if let Err(error) = self.unlist_the_dead().await {
                    tracing::debug!(%error, "cannot look for hosts that died");
                }
            }
        };
        tokio::join!(self.clone().show(), clearing);
    }

    /// Takes hosts without a sign of life off the roll; one that lives after all puts itself back.
    async fn unlist_the_dead(&self) -> RedisResult<()> {
        let listed = self.link.query(redis::cmd("SMEMBERS").arg(&self.keys.hosts)).await?;
        let mut listed = super::orphans::names(listed).unwrap_or_default();
        listed.remove(&*self.name.now());
        let mut unlisting = redis::pipe();
        for name in listed.iter().take(UNLISTED) {
            let keys = [&*self.keys.live(name), &*self.keys.hosts, &*self.keys.stream];
            // Where there is a sign, it does not have this host's token, and nothing is done.
            let mut leaving = Lua::Leave.call(&keys);
            leaving.arg(name).arg(&self.token).arg(&*self.group).arg("done");
            unlisting.add_command(leaving);
        }
        if !unlisting.is_empty() {
            self.link.pipeline(unlisting.ignore_errors()).await?;
        }
        Ok(())
    }

    /// Shows the host to be alive, and sees whether its name is still its own.
    pub(super) async fn affirm(&self, rate: f64) -> RedisResult<()> {
        if self.is_contested() {
            return Ok(());
        }
        let name = self.name.now();
        match self.hold(&name, rate, b"").await? {
            Hold::Ours | Hold::OursAgain => {}
            Hold::Others(_) => {
                tracing::error!(consumer = %name, stream = self.keys.stream, group = %self.group,
                    "another host has this name by now, as if this one had been dead; going on under another name");
                self.contested.store(true, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Says that this host is done, so that no one waits for its key to end.
    pub(super) async fn leave(&self) {
        let name = self.name.now();
        // What still runs alone has let this host live for as long as it was to.
        let _ = self.link.query(&self.acquitting(&self.on_trial())).await;
        let keys = [&*self.keys.live(&name), &*self.keys.hosts, &*self.keys.stream];
        let mut leaving = Lua::Leave.call(&keys);
        leaving.arg(&*name).arg(&self.token).arg(&*self.group);
        let _ = self.link.query(leaving.arg(if self.inherits() { "" } else { "done" })).await;
    }

    /// A request to forget the deaths of entries that let their host live, and of those settled.
    pub(super) fn acquitting(&self, survivors: &[MessageId]) -> redis::Cmd {
        let mut acquitting = Lua::Acquit.call(&[&self.keys.stream, &self.keys.deaths]);
        acquitting.arg(&*self.group).arg(&self.name).arg(WAITING);
        for id in survivors {
            acquitting.arg(id.to_string());
        }
        acquitting
    }

    async fn hold(&self, name: &str, rate: f64, dead: &[u8]) -> RedisResult<Hold> {
        let sign = self.teller.sign(rate, &self.token);
        let told = serde_json::to_string(&sign).expect("a sign is plain JSON");
        let mut holding = Lua::Sign.call(&[&*self.keys.live(name), &*self.keys.hosts]);
        holding.arg(name).arg(told).arg(LIFETIME.as_millis() as u64).arg(&self.token).arg(dead);
        Ok(match self.link.query(&holding).await? {
            Value::Int(1) => Hold::Ours,
            Value::BulkString(told) => Hold::Others(told),
            _ => Hold::OursAgain,
        })
    }
}

fn is_for_a_person(error: &RedisError) -> bool {
    matches!(Trouble::of(error), Trouble::OddKey | Trouble::Forbidden)
}

impl Teller {
    fn sign(&self, rate: f64, token: &str) -> Sign {
        let served = self.serving.now();
        let since = served.since.duration_since(UNIX_EPOCH).unwrap_or_default();
        let told = |why: Option<Arc<str>>| why.map(|why| cut(&why, REFUSAL_BYTES).to_owned());
        Sign {
            process: Process::this(),
            token: token.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            plugin: served.plugin.to_string(),
            plugin_since_ms: Some(since.as_millis() as u64),
            plugin_trying: served.trying.map(|plugin| plugin.to_string()),
            plugin_before: served.previous.map(|plugin| plugin.to_string()),
            plugin_refused: told(served.plugin_refused),
            manifest_refused: told(served.manifest_refused),
            costs: self.figures.costs(),
            handled: read(&self.figures.handled),
            retried: read(&self.figures.retried),
            duplicates: read(&self.figures.duplicates),
            buried: self.figures.buried_in_all(),
            troubles: self.troubles(),
            circuit_open: self.figures.circuit_is_open.load(Ordering::Relaxed),
            rate,
        }
    }
}

impl Teller {
    fn troubles(&self) -> BTreeMap<String, u64> {
        let troubles = self.figures.troubles().into_iter();
        troubles.map(|(word, count)| (word.to_owned(), count)).collect()
    }
}

/// What a live key tells, if it can be read.
pub(super) fn sign(value: &Value) -> Option<Sign> {
    match value {
        Value::BulkString(told) => read_sign(told),
        _ => None,
    }
}

fn read_sign(told: &[u8]) -> Option<Sign> {
    serde_json::from_slice(told).ok()
}
