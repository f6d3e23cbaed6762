//! Who is measured: the native loop, and the host with each kind of plugin.

use std::fmt;
use std::path::Path;

use tempfile::TempDir;

use crate::Result;
use crate::process::{Leashed, directory};
use crate::server::{GROUP, Server};

/// One way to handle the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// A loop around the `redis` crate.
    Native,
    /// The host with a plugin of one message a call.
    Plugin { concurrency: Concurrency },
    /// The host with a plugin of many messages a call.
    Batch { concurrency: Concurrency },
}

/// The handler's `concurrency`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Concurrency {
    /// What the manifest gives without being asked.
    Default,
    /// Another, to see what it changes.
    Tuned(u32),
}

impl Contestant {
    /// All of them, in the order of their turns; the native loop is the measure of the others.
    pub(crate) const ALL: [Self; 4] = [
        Self::Native,
        Self::Plugin { concurrency: Concurrency::Default },
        Self::Plugin { concurrency: Concurrency::Tuned(8) },
        Self::Batch { concurrency: Concurrency::Default },
    ];

    /// The share of the native loop's throughput that is wanted of it.
    pub(crate) fn target(&self) -> Option<f64> {
        match self {
            Self::Native => None,
            Self::Plugin { .. } => Some(0.4),
            Self::Batch { .. } => Some(0.8),
        }
    }

    /// Puts it to work on a stream. It is ready once it has read a message.
    pub(crate) fn start(&self, server: &Server, stream: &str) -> Result<Leashed> {
        let directory = directory()?;
        match self {
            Self::Native => {
                let this = std::env::current_exe()?;
                let url = server.url();
                Leashed::start(directory, &this, ["native".as_ref(), url.as_ref(), stream.as_ref()])
            }
            Self::Plugin { concurrency } => {
                host(directory, &manifest(server, stream, "tally.wasm", *concurrency)?)
            }
            Self::Batch { concurrency } => {
                host(directory, &manifest(server, stream, "tally_batch.wasm", *concurrency)?)
            }
        }
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => f.pad("native loop"),
            Self::Plugin { concurrency } => f.pad(&format!("plugin{concurrency}")),
            Self::Batch { concurrency } => f.pad(&format!("batch-plugin{concurrency}")),
        }
    }
}

impl fmt::Display for Concurrency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => Ok(()),
            Self::Tuned(calls) => write!(f, " (concurrency {calls})"),
        }
    }
}

fn host(directory: TempDir, manifest: &str) -> Result<Leashed> {
    let file = directory.path().join("tidegate.toml");
    std::fs::write(&file, manifest)?;
    let binary = Path::new(env!("CARGO_BIN_EXE_tidegate"));
    Leashed::start(directory, binary, ["run".as_ref(), "--manifest".as_ref(), file.as_os_str()])
}

fn manifest(
    server: &Server,
    stream: &str,
    plugin: &str,
    concurrency: Concurrency,
) -> Result<String> {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/target/wasm32-wasip2/release");
    let plugin = Path::new(built).join(plugin);
    if !plugin.is_file() {
        return Err(format!("{} is not there; build it by `make plugins`", plugin.display()).into());
    }
    let url = server.url();
    let concurrency = match concurrency {
        Concurrency::Default => String::new(),
        Concurrency::Tuned(calls) => format!("concurrency = {calls}\n"),
    };
    Ok(format!(
        "[redis]\nurl = {url:?}\n\n[host]\ngrace = \"1s\"\n\n\
         [handler.{GROUP}]\nplugin = {plugin:?}\nstream = {stream:?}\n{concurrency}"
    ))
}
