//! The life of the process: load every plugin, connect, put each handler to work, wait for all of them.
//!
//! Here the rooms are joined that must not know each other: what the broker
//! delivers, dispatch carries to what the sandbox runs. Files that change meanwhile are taken up
//! by `changes`.

mod changes;
mod handlers;
mod loading;
mod reach;
mod reload;
mod rollouts;
mod state;
mod status;
mod swap;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::{Handle, Runtime};
use tokio::task::{JoinError, JoinSet};

pub use state::{HandlerState, Roster};
pub use status::{Delivery, HandlerStatus, Status};

use crate::broker::{Broker, BrokerError};
use crate::manifest::{Handler, HostSettings, Manifest, RedisSettings, Sharding, whole};
use crate::sandbox::{Capacity, Limits, Plugin, Readers, Runner, Sandbox, SandboxError};
use crate::shutdown::Stop;
use handlers::{Employed, Opening};
pub use loading::{Attempted, compile};
use watch::Look;

/// Why a host cannot start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Plugins that cannot be put to work, all of them.
    #[error("{}", list(.0))]
    Plugins(Vec<(Arc<str>, SandboxError)>),
    /// The sandbox itself does not work on this machine.
    #[error("cannot set up the sandbox")]
    Sandbox(#[source] SandboxError),
    /// A plugin does not fit its handler.
    #[error(transparent)]
    Plugin(#[from] SandboxError),
    /// Redis, or what is in it.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// This program, which the compiler is too.
    #[error("cannot find the program that is running, which compiles plugins")]
    Program(#[source] std::io::Error),
    /// The threads that plugins run on.
    #[error("cannot start the threads for plugins")]
    Threads(#[source] std::io::Error),
}

fn list(problems: &[(Arc<str>, SandboxError)]) -> String {
    let lines = problems
        .iter()
        .map(|(handler, error)| format!("\n  handler.{handler}.plugin: {}", sentence(error)));
    let problems = if problems.len() == 1 { "problem" } else { "problems" };
    format!("{} {problems} with plugins{}", lines.len(), lines.collect::<String>())
}

/// An error and its causes, each once.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = error.source();
    }
    text
}

/// A sandbox, and what it was made for.
struct Room {
    sandbox: Sandbox,
    capacity: Capacity,
}

impl Room {
    fn new(handlers: &[Handler], settings: &HostSettings) -> Result<Self, HostError> {
        let capacity = capacity(handlers, settings);
        let loading = loading::of(settings, Readers::Owner)?;
        let sandbox = Sandbox::loading(capacity, loading).map_err(HostError::Sandbox)?;
        Ok(Self { sandbox, capacity })
    }
}

/// Every handler's plugin, loaded, and proven to fit its handler and to start.
pub struct Plugins {
    plugins: Vec<Plugin>,
    room: Arc<Room>,
}

impl Plugins {
    /// Loads the plugins of a manifest, compiling each file once. Blocks for as long as that takes.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with any of them.
    pub fn load(manifest: &Manifest) -> Result<Self, HostError> {
        Self::load_into(
            Arc::new(Room::new(&manifest.handlers, &manifest.host)?),
            &manifest.handlers,
        )
    }

    /// The same for some handlers, into a sandbox that is there.
    fn load_into(room: Arc<Room>, handlers: &[Handler]) -> Result<Self, HostError> {
        let mut loaded: Vec<(PathBuf, Plugin)> = Vec::new();
        let mut plugins = Vec::new();
        let mut problems = Vec::new();
        for handler in handlers {
            let load = |path: &Path| room.sandbox.load_pinned(path, handler.digest);
            let plugin = once(&mut loaded, &handler.plugin, load);
            match plugin.and_then(|plugin| prove(&plugin, handler).map(|()| plugin)) {
                Ok(plugin) => plugins.push(plugin),
                Err(error) => problems.push((handler.name.clone(), error)),
            }
        }
        if problems.is_empty() {
            Ok(Self { plugins, room })
        } else {
            Err(HostError::Plugins(problems))
        }
    }

    /// The plugins, in the order of the manifest's handlers.
    pub fn iter(&self) -> impl Iterator<Item = &Plugin> {
        self.plugins.iter()
    }
}

/// Checks that a plugin is the one that its handler means, and starts it once within the limits and grants of its handler, out of reach of Redis.
fn prove(plugin: &Plugin, handler: &Handler) -> Result<(), SandboxError> {
    plugin.check_pin(handler.digest)?;
    let reach = reach::apart(&handler.grants);
    Runner::new(plugin, handler.name.clone(), limits(handler), reach)?.prove()
}

/// Loads a plugin that several handlers may share.
fn once<E>(
    loaded: &mut Vec<(PathBuf, Plugin)>,
    path: &Path,
    load: impl FnOnce(&Path) -> Result<Plugin, E>,
) -> Result<Plugin, E> {
    if let Some((_, plugin)) = loaded.iter().find(|(file, _)| file == path) {
        return Ok(plugin.clone());
    }
    let plugin = load(path)?;
    loaded.push((path.to_owned(), plugin.clone()));
    Ok(plugin)
}

/// Room for every call at once and for as many idle instances, which no more are than calls, also
/// while one version of a plugin takes over from another; and for one that is being proven.
fn capacity(handlers: &[Handler], settings: &HostSettings) -> Capacity {
    let memory = handlers.iter().map(|handler| handler.memory).max().unwrap_or_default();
    let instances = 2 * handlers.iter().map(calls).sum::<usize>() + 1;
    Capacity { instances, memory, stack: settings.stack }
}

/// How many calls of a handler may run at once, over all of its streams.
fn calls(handler: &Handler) -> usize {
    handler.on_each_stream().iter().map(|handler| handler.concurrency.get()).sum()
}

/// What a handler allows its plugin.
pub(crate) fn limits(handler: &Handler) -> Limits {
    Limits {
        timeout: handler.timeout,
        memory: handler.memory,
        isolation: handler.isolation,
        // On several shards each has its share, rounded up.
        concurrency: calls(handler),
        further: handler.limits,
    }
}

/// A host whose handlers are at work.
pub struct Host {
    /// The manifest in force.
    manifest: Manifest,
    /// What it said of the host at the start: what changes of that counts from the next start.
    settings: HostSettings,
    /// How the manifest's file looked when it was refused, and why it was.
    refused_manifest: Option<(Look, String)>,
    broker: Arc<Broker>,
    employed: Vec<Employed>,
    roster: Roster,
    /// Every handler at work, and whoever sees to delayed entries.
    tasks: JoinSet<()>,
    /// The streams that are made of several, as far as outputs may be for them.
    sharded: Arc<ArcSwap<Vec<Sharding>>>,
    guests: Option<Runtime>,
    stop: Stop,
    grace: Duration,
}

impl Host {
    /// Connects and puts every handler to work; waits for a Redis that is not there yet. How far it is,
    /// and who is at work from then on, is in the roster.
    ///
    /// # Errors
    ///
    /// When a handler cannot be put on its stream, or `stop` is requested before there is a connection.
    pub async fn start(
        manifest: &Manifest,
        plugins: Plugins,
        redis: &RedisSettings,
        roster: Roster,
        stop: &Stop,
    ) -> Result<Self, HostError> {
        roster.await_all(manifest, "waiting for Redis");
        let broker = Arc::new(Broker::connect(redis, &name(manifest), stop).await?);
        roster.connected(broker.clone());
        let sharded = match sharded(manifest, &broker, stop).await {
            Err(BrokerError::Stopped) => Vec::new(),
            sharded => sharded?,
        };
        // From here on the threads are the host's, which lets them go without waiting: a
        // runtime may not be dropped here as it is.
        let mut host = Self {
            manifest: manifest.clone(),
            settings: manifest.host.clone(),
            refused_manifest: None,
            broker: broker.clone(),
            employed: Vec::new(),
            roster,
            tasks: JoinSet::new(),
            sharded: Arc::new(ArcSwap::from_pointee(sharded)),
            guests: Some(guest_threads()?),
            stop: stop.clone(),
            grace: manifest.host.grace,
        };
        let Plugins { plugins, room } = plugins;
        for (handler, plugin) in manifest.handlers.iter().zip(plugins) {
            let (handler, figures) = (Arc::new(handler.clone()), Arc::default());
            match host.employ(Opening { handler, plugin, room: room.clone(), figures }).await {
                // Those that are at work already finish what is in hand.
                Err(HostError::Broker(BrokerError::Stopped)) => return Ok(host),
                employed => employed?,
            }
        }
        let (address, stop) = (broker.address().to_owned(), stop.clone());
        host.tasks.spawn(async move { broker.promote(&stop).await });
        tracing::info!(handlers = host.employed.len(), redis = address, "ready");
        Ok(host)
    }

    /// The handlers at work, now and in time to come.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Waits until a stop is requested and every handler has finished what is in hand.
    pub async fn finished(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            tell_of(ended);
        }
        tracing::info!("stopped");
    }

    /// The threads that plugins run on, apart from those that speak to Redis. Nobody waits for
    /// them at a stop.
    fn threads(&self) -> Handle {
        self.guests.as_ref().expect("they go with the host").handle().clone()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(guests) = self.guests.take() {
            // A guest that is still running is not waited for.
            guests.shutdown_background();
        }
    }
}

fn tell_of(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a task of the host ended by itself");
    }
}

/// The streams made of several that outputs may be for: those of the manifest's handlers, and
/// those that Redis remembers under a name that a handler's outputs spell out.
async fn sharded(
    manifest: &Manifest,
    broker: &Broker,
    stop: &Stop,
) -> Result<Vec<Sharding>, BrokerError> {
    let mut sharded: Vec<Sharding> =
        manifest.handlers.iter().filter_map(Handler::sharding).collect();
    for handler in &manifest.handlers {
        let names = handler.grants.outputs.names();
        for stream in names.flat_map(|name| [Some(name), whole(name)]).flatten() {
            if sharded.iter().any(|known| *known.stream == *stream) {
                continue;
            }
            match broker.wait_out(stop, async || broker.sharding(stream).await).await {
                Ok(found) => sharded.extend(found),
                Err(error @ BrokerError::Refused { .. }) => {
                    tracing::warn!(handler = %handler.name, stream, %error,
                        "may not look up whether this output's stream is made of shards; it is taken for one");
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(sharded)
}

/// The manifest's name for this host, or the machine's.
fn name(manifest: &Manifest) -> String {
    let machine = || gethostname::gethostname().to_string_lossy().into_owned();
    manifest.host.name.clone().unwrap_or_else(machine)
}

/// Plugins compute on threads of their own: as many as there are cores, so that
/// none of them delays those that speak to Redis.
fn guest_threads() -> Result<Runtime, HostError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(available_parallelism().map_or(2, usize::from))
        .thread_name("tidegate-guest")
        .enable_all()
        .build()
        .map_err(HostError::Threads)
}
