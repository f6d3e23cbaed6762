//! `tidegate run`: the host, until told to stop.

use clap::Args;

use super::Failure;
use super::source::{ManifestFile, redis_of};
use crate::admin::Admin;
use crate::broker::BrokerError;
use crate::host::{Host, HostError, Plugins, Roster};
use crate::manifest::{Manifest, RedisSettings};
use crate::shutdown::{self, Hangups, Stop};
use crate::telemetry::Voice;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    manifest: ManifestFile,
    /// How the log on standard error is written
    #[arg(long, value_enum, default_value = "text")]
    log: Log,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Log {
    /// A line for a person to read
    Text,
    /// A JSON object a line
    Json,
}

impl Arguments {
    pub(super) fn voice(&self) -> Voice {
        match self.log {
            Log::Text => Voice::Service,
            Log::Json => Voice::Json,
        }
    }
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let manifest = arguments.manifest.load()?;
    let redis = redis_of(&manifest)?;
    // From here on it ends nothing, whenever it comes.
    let hangups = shutdown::hangups().map_err(Failure::system("listen for SIGHUP"))?;
    until_stopped(&manifest, &redis, Some(hangups)).await
}

/// Runs a manifest's handlers until a signal says to stop; takes up what changes meanwhile.
pub(super) async fn until_stopped(
    manifest: &Manifest,
    redis: &RedisSettings,
    hangups: Option<Hangups>,
) -> Result<(), Failure> {
    let stop = Stop::new();
    let signals = shutdown::listen().map_err(Failure::system("listen for signals"))?;
    let watching = tokio::spawn(signals.request(stop.clone()));
    // From the start, so that what keeps a host from getting ready can be asked for.
    let roster = Roster::awaiting(manifest);
    let admin = Admin::open(manifest).await?;
    let admin = admin.map(|admin| admin.serve(roster.clone(), stop.clone()));
    // Compiling takes seconds; a signal meanwhile is heard all the same.
    let plugins = tokio::task::block_in_place(|| Plugins::load(manifest))?;
    match Host::start(manifest, plugins, redis, roster, &stop).await {
        Ok(host) => host.keep_up(hangups).await,
        // Nothing was in hand yet.
        Err(HostError::Broker(BrokerError::Stopped)) => {}
        Err(error) => return Err(error.into()),
    }
    if let Some(admin) = admin {
        admin.finished().await;
    }
    watching.abort();
    Ok(())
}
