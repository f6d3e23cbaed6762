//! The manifest: the only way from `tidegate.toml` to checked settings.
//!
//! `raw` is the file as typed and the manual of its keys; everything public
//! here is ready to use: units parsed, paths resolved, defaults filled in,
//! rules held. Every problem of a file is reported at once. Whether Redis
//! answers and whether a plugin file is one is for others to find out.

mod admin;
mod check;
mod check_flow;
mod check_grants;
mod check_handler;
mod check_limits;
mod check_redis;
mod check_sentinel;
mod digest;
mod flow;
mod handler;
mod http;
mod interpolate;
mod limits;
mod public;
mod raw;
mod raw_tables;
mod reader;
mod redis;
mod redis_url;
mod report;
mod section;
mod sharding;
mod stream;
mod units;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use admin::AdminAddress;
pub use check_flow::per_period;
pub use digest::Digest;
pub use flow::{Circuit, Dedupe, Durability, Order, Rate, Supply, Trim};
pub use handler::{Grants, Handler, Isolation, Match, Patterns, Shard, Start, shard};
pub use http::{HttpGrant, HttpGrants, HttpHost, Scheme};
pub use interpolate::{Environment, ProcessEnvironment};
pub use limits::{Limits, Rollout};
pub use redis::{Address, Node, RedisSettings, Secret, Sentinels, Tls};
pub use report::{Problem, Report};
pub use sharding::{Sharding, whole};
pub use stream::hash_tag;
pub use units::duration;

use raw::RawManifest;
use reader::Reader;
use section::Section;

/// A manifest that has been checked: what it says can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The file it was read from; relative paths in it start from its directory.
    pub path: PathBuf,
    /// Which Redis to use; `None` when the manifest leaves that to the command line.
    pub redis: Option<RedisSettings>,
    /// The settings of the host itself.
    pub host: HostSettings,
    /// The handlers, in the order of the file; at least one.
    pub handlers: Vec<Handler>,
}

/// The `[host]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSettings {
    /// The consumer name; `None` for the machine's host name.
    pub name: Option<String>,
    /// Where health and figures are to be had over HTTP; `None` for nowhere.
    pub admin: Option<AdminAddress>,
    /// How long a stop may take.
    pub grace: Duration,
    /// Where compiled plugins are kept.
    pub cache: Cache,
    /// Bytes of the largest plugin file.
    pub plugin_bytes: u64,
    /// How long compiling one plugin may take.
    pub compile_time: Duration,
    /// Bytes of stack that a plugin may use.
    pub stack: usize,
}

impl Default for HostSettings {
    fn default() -> Self {
        Self {
            name: None,
            admin: None,
            grace: Duration::from_secs(30),
            cache: Cache::Usual,
            plugin_bytes: 128 << 20,
            compile_time: Duration::from_secs(120),
            stack: 1 << 20,
        }
    }
}

/// Where compiled plugins are kept, so that the next start is quick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cache {
    /// `tidegate` in the user's cache directory, if there is one.
    Usual,
    /// This directory, created when it is not there.
    At(PathBuf),
    /// Nowhere.
    Off,
}

/// Why there is no manifest. The command line exits with status 2 for it.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file could not be read.
    #[error("cannot read the manifest {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file was read and is wrong.
    #[error("{0}")]
    Invalid(Report),
}

impl Manifest {
    /// Reads and checks a manifest file, in the environment of this process.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or with every problem found in it.
    pub fn load(path: &Path) -> Result<Self, ManifestError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ManifestError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text, path, &ProcessEnvironment)
    }

    /// Checks the text of a manifest as if it stood in the file `path`.
    ///
    /// # Errors
    ///
    /// With every problem found in the text.
    pub fn parse(
        text: &str,
        path: &Path,
        environment: &dyn Environment,
    ) -> Result<Self, ManifestError> {
        let directory = path.parent().unwrap_or(Path::new(""));
        let mut reader = Reader::new(text, directory, environment);
        let checked = section::parse(text, &mut reader).and_then(|document| {
            let raw = RawManifest::read(Section::root(document.get_ref()), &mut reader);
            check::manifest(&raw, path, &mut reader)
        });
        let problems = reader.into_problems();
        match checked {
            Some(manifest) if problems.is_empty() => Ok(manifest),
            Some(_) | None => Err(ManifestError::Invalid(Report::new(path, problems))),
        }
    }

    /// The handler of this name.
    pub fn handler(&self, name: &str) -> Option<&Handler> {
        self.handlers.iter().find(|handler| &*handler.name == name)
    }
}

#[cfg(test)]
mod tests;
