//! The life of the process: load every plugin, connect, put each handler to work, wait for all of them.
//!
//! Here the rooms are joined that must not know each other: what the broker
//! delivers, dispatch carries to what the sandbox runs.

mod reach;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;

use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::broker::{Broker, BrokerError, Owned};
use crate::dispatch::{Dispatch, Versions};
use crate::figures::Figures;
use crate::manifest::{Handler, Manifest, RedisSettings, Sharding, Supply};
use crate::sandbox::{Capacity, Limits, Plugin, Runner, Sandbox, SandboxError};
use crate::shutdown::Stop;

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
    /// The threads that plugins run on.
    #[error("cannot start the threads for plugins")]
    Threads(#[source] std::io::Error),
}

fn list(problems: &[(Arc<str>, SandboxError)]) -> String {
    let lines = problems.iter().map(|(handler, error)| {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
        format!("\n  handler.{handler}.plugin: {error}{}", cause.unwrap_or_default())
    });
    let problems = if problems.len() == 1 { "problem" } else { "problems" };
    format!("{} {problems} with plugins{}", lines.len(), lines.collect::<String>())
}

/// Every handler's plugin, loaded, and proven to fit its handler and to start.
pub struct Plugins {
    plugins: Vec<Plugin>,
}

impl Plugins {
    /// Loads the plugins of a manifest, compiling each file once. Blocks for as long as that takes.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with any of them.
    pub fn load(manifest: &Manifest) -> Result<Self, HostError> {
        let sandbox = Sandbox::new(capacity(manifest)).map_err(HostError::Sandbox)?;
        let mut loaded: Vec<(PathBuf, Plugin)> = Vec::new();
        let mut plugins = Vec::new();
        let mut problems = Vec::new();
        for handler in &manifest.handlers {
            let plugin = once(&mut loaded, &handler.plugin, |path| sandbox.load(path));
            match plugin.and_then(|plugin| prove(&plugin, handler).map(|()| plugin)) {
                Ok(plugin) => plugins.push(plugin),
                Err(error) => problems.push((handler.name.clone(), error)),
            }
        }
        if problems.is_empty() { Ok(Self { plugins }) } else { Err(HostError::Plugins(problems)) }
    }

    /// The plugins, in the order of the manifest's handlers.
    pub fn iter(&self) -> impl Iterator<Item = &Plugin> {
        self.plugins.iter()
    }
}

/// Starts a plugin once within the limits and grants of its handler, out of reach of Redis.
fn prove(plugin: &Plugin, handler: &Handler) -> Result<(), SandboxError> {
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

/// Room for every call at once, and for fresh instances beside warm ones.
fn capacity(manifest: &Manifest) -> Capacity {
    let streams = manifest.handlers.iter().flat_map(Handler::on_each_stream);
    let calls: usize = streams.map(|handler| handler.concurrency.get()).sum();
    let memory = manifest.handlers.iter().map(|handler| handler.memory).max().unwrap_or_default();
    Capacity { instances: 2 * calls, memory }
}

fn limits(handler: &Handler) -> Limits {
    Limits {
        timeout: handler.timeout,
        memory: handler.memory,
        isolation: handler.isolation,
        concurrency: handler.concurrency.get(),
        further: handler.limits,
    }
}

/// A host whose handlers are at work.
pub struct Host {
    /// Every handler at work, and whoever sees to delayed entries.
    tasks: JoinSet<()>,
    figures: Vec<Arc<Figures>>,
    guests: Option<Runtime>,
}

impl Host {
    /// Connects and puts every handler to work; waits for a Redis that is not there yet.
    ///
    /// # Errors
    ///
    /// When a handler cannot be put on its stream, or `stop` is requested before there is a connection.
    pub async fn start(
        manifest: &Manifest,
        plugins: Plugins,
        redis: &RedisSettings,
        stop: &Stop,
    ) -> Result<Self, HostError> {
        let broker = Arc::new(Broker::connect(redis, &name(manifest), stop).await?);
        let sharded = match sharded(manifest, &broker, stop).await {
            Err(BrokerError::Stopped) => Arc::default(),
            sharded => sharded?,
        };
        let guests = guest_threads()?;
        let threads = guests.handle().clone();
        // From here on the threads are the host's, which lets them go without waiting: a
        // runtime may not be dropped here as it is.
        let mut host = Self { tasks: JoinSet::new(), figures: Vec::new(), guests: Some(guests) };
        for (handler, plugin) in manifest.handlers.iter().zip(&plugins.plugins) {
            let reach = reach::through(&broker, &handler.grants);
            let runner = Runner::new(plugin, handler.name.clone(), limits(handler), reach)?;
            let figures = Arc::new(Figures::default());
            host.figures.push(figures.clone());
            let dispatch = Dispatch {
                handler: Arc::new(handler.clone()),
                versions: Arc::new(Versions::new(runner)),
                figures,
                sharded: sharded.clone(),
                guests: threads.clone(),
                stop: stop.clone(),
                grace: manifest.host.grace,
            };
            let employed = if handler.order.is_some() {
                host.employ_in_order(broker.clone(), dispatch).await
            } else {
                host.employ(broker.clone(), dispatch).await
            };
            match employed {
                // Those that are at work already finish what is in hand.
                Err(BrokerError::Stopped) => return Ok(host),
                employed => employed?,
            }
        }
        let (address, stop) = (broker.address().to_owned(), stop.clone());
        host.tasks.spawn(async move { broker.promote(&stop).await });
        tracing::info!(handlers = host.figures.len(), redis = address, "ready");
        Ok(host)
    }

    async fn employ(&mut self, broker: Arc<Broker>, dispatch: Dispatch) -> Result<(), BrokerError> {
        let handler = &dispatch.handler;
        let digest: Arc<str> = dispatch.versions.pick().plugin().digest().to_string().into();
        let (figures, stop) = (dispatch.figures.clone(), dispatch.stop.clone());
        broker.wait_out(&stop, async || broker.agree(handler).await).await?;
        let subscription = broker.subscribe(handler, digest.clone(), figures, stop).await?;
        let (name, source) = (&handler.name, &handler.stream);
        match handler.supply {
            Supply::Group | Supply::Broadcast => {
                tracing::info!(handler = %name, stream = %source, group = %handler.group,
                    consumer = subscription.consumer, plugin = %digest, "reading");
            }
            Supply::Channel => {
                tracing::info!(handler = %name, channel = %source, plugin = %digest, "at work");
            }
        }
        self.tasks.spawn(async move {
            dispatch.carry(subscription).await;
            // The connection outlives the last settlement.
            drop(broker);
        });
        Ok(())
    }

    /// Puts a handler to work on each shard of its stream for as long as this host owns it.
    async fn employ_in_order(
        &mut self,
        broker: Arc<Broker>,
        dispatch: Dispatch,
    ) -> Result<(), BrokerError> {
        let handler = &dispatch.handler;
        let digest: Arc<str> = dispatch.versions.pick().plugin().digest().to_string().into();
        let (figures, stop) = (dispatch.figures.clone(), dispatch.stop.clone());
        let shards = broker.share(handler, digest.clone(), figures, stop).await?;
        tracing::info!(handler = %handler.name, stream = %handler.stream, group = %handler.group,
            consumer = shards.name(), plugin = %digest, "shares the stream");
        self.tasks.spawn(async move {
            let carry = |Owned { handler, subscription, stop }| {
                Dispatch { handler: Arc::new(handler), stop, ..dispatch.clone() }
                    .carry(subscription)
            };
            shards.hold(carry).await;
            // The connection outlives the last settlement.
            drop(broker);
        });
        Ok(())
    }

    /// The figures of each handler, in the manifest's order.
    pub fn figures(&self) -> &[Arc<Figures>] {
        &self.figures
    }

    /// Waits until a stop is requested and every handler has finished what is in hand.
    pub async fn finished(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the host ended by itself");
            }
        }
        tracing::info!("stopped");
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

/// The streams made of several that outputs may be for: those of the manifest's handlers, and
/// those that Redis remembers under a name that a handler's outputs spell out.
async fn sharded(
    manifest: &Manifest,
    broker: &Broker,
    stop: &Stop,
) -> Result<Arc<[Sharding]>, BrokerError> {
    let mut sharded: Vec<Sharding> =
        manifest.handlers.iter().filter_map(Handler::sharding).collect();
    for handler in &manifest.handlers {
        for stream in handler.grants.outputs.names() {
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
    Ok(sharded.into())
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
