//! Where a command finds its manifest and its Redis.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::manifest::{Manifest, RedisSettings};

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

/// The manifest's Redis.
pub(super) fn redis_of(manifest: &Manifest) -> Result<RedisSettings, Failure> {
    manifest.redis.clone().ok_or_else(|| {
        Failure::Usage(format!(
            "{}: no Redis is named; add [redis] with a `url`, or use `tidegate dev` for a private one",
            manifest.path.display()
        ))
    })
}
