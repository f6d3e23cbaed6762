//! Where a command finds its manifest and its Redis.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::time::timeout;

use super::Failure;
use crate::broker::Broker;
use crate::manifest::{Manifest, RedisSettings};
use crate::shutdown::Stop;

/// How long a command waits for Redis.
const PATIENCE: Duration = Duration::from_secs(3);

/// The manifest of a command that needs one.
#[derive(Debug, Args)]
pub(super) struct ManifestFile {
    /// The manifest
    #[arg(long, value_name = "FILE", default_value = "tidegate.toml")]
    pub manifest: PathBuf,
}

impl ManifestFile {
    /// Reads and checks it.
    pub(super) fn load(&self) -> Result<Manifest, Failure> {
        Ok(Manifest::load(&self.manifest)?)
    }
}

/// The Redis of a command that can do without a manifest.
#[derive(Debug, Args)]
pub(super) struct Source {
    #[command(flatten)]
    pub manifest: ManifestFile,
    /// A Redis to use instead of the manifest's, such as redis://127.0.0.1:6379/0
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
}

impl Source {
    /// The settings of the Redis that was named, or else of the manifest's.
    pub(super) fn settings(&self) -> Result<RedisSettings, Failure> {
        match &self.redis {
            Some(url) => RedisSettings::from_url(url)
                .map_err(|problem| Failure::Usage(format!("--redis: {problem}"))),
            None => redis_of(&self.manifest.load()?),
        }
    }

    /// Connects to it; the name is what `CLIENT LIST` shows.
    ///
    /// A host waits for its Redis, a person who asks a question does not.
    pub(super) async fn connect(&self, name: &str) -> Result<Broker, Failure> {
        let settings = self.settings()?;
        let connecting = timeout(PATIENCE, Broker::connect(&settings, name, &Stop::new())).await;
        let gave_up =
            |_| Failure::Wrong(format!("cannot reach {settings} within {} s", PATIENCE.as_secs()));
        Ok(connecting.map_err(gave_up)??)
    }
}

/// The manifest's Redis.
pub(super) fn redis_of(manifest: &Manifest) -> Result<RedisSettings, Failure> {
    manifest.redis.clone().ok_or_else(|| {
        Failure::Usage(format!(
            "{}: no Redis is named; add [redis] with a `url`, or use `tidegate dev` for a private one",
            manifest.path.display()
        ))
    })
}
