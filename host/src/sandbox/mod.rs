//! Everything that speaks WebAssembly: from a plugin's file to the outcome of a message.
//!
//! Nothing outside of this room imports `wasmtime`. What a stream is, when to
//! try again and what an outcome costs is the business of others.
//!
//! The way through: [`Sandbox::load`] makes a [`Plugin`] of a file, compiled apart from this
//! process (`compile`), having checked what it exports (`door`); [`Runner::new`] puts it to work for a handler
//! within [`Limits`], linked to what it may [`Reach`] and nothing else; [`Runner::run`] takes a warm `instance`, calls it
//! through the `contract`, and turns whatever happens into outcomes (`fault`).

mod config;
mod artefacts;
mod compile;
mod compile_apart;
mod concurrent;
mod contract;
mod cost;
mod door;
mod engine;
mod fault;
mod file;
mod guest;
mod http;
mod instance;
mod keyvalue;
mod linked;
mod logging;
mod memory;
mod loudness;
mod meter;
mod module;
mod offer;
mod plain;
mod plugin;
mod reach;
mod runner;
mod trust;
mod voice;
mod wasi;
mod wasi3;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

pub use self::artefacts::{Readers, Unkept};
pub use self::compile::{Compiler, Origin};
pub use self::compile_apart::{COMMAND as COMPILE_COMMAND, Program, child as compile_one};
pub use self::cost::{Cost, Retired};
pub use self::door::{Absence, Missing, Refusal};
pub use self::engine::Capacity;
pub use self::file::digest;
pub use self::memory::{MemoryConfig, MemoryKeys};
pub use self::offer::Grant;
pub use self::plugin::{Plugin, World, check_pin};
pub use self::reach::{Answer, Configuration, KeyPage, KeyValue, Reach, StoreError, Unreachable};
pub use self::runner::{Limits, Runner};

use self::compile::Workshop;
use self::engine::{Dialect, Room};
use crate::manifest::Digest;

/// Where plugins are compiled and run. Cheap to clone; all clones are the same sandbox.
///
/// It owns a thread, `tidegate-epoch`, for each of its engines, that interrupts running guests
/// every few milliseconds. The threads are stopped and joined when the last clone, and
/// the last plugin and runner made from it, are gone.
#[derive(Clone)]
pub struct Sandbox(Arc<Shared>);

/// What every clone, plugin and runner of one sandbox shares.
struct Shared {
    capacity: Capacity,
    plain: Room,
    /// Opened for the first plugin that needs it.
    concurrent: OnceLock<Result<Room, String>>,
    workshop: Workshop,
    plugin_bytes: u64,
}

/// How plugins come from their files to code.
#[derive(Debug, Clone)]
pub struct Loading {
    /// Where they are compiled.
    pub compiler: Compiler,
    /// Bytes of the largest file.
    pub plugin_bytes: u64,
}

impl Sandbox {
    /// Starts an engine for as many instances, of as much memory, as `capacity` says, which
    /// compiles in this process: for plugins that are one's own.
    ///
    /// # Errors
    ///
    /// When the engine or its thread cannot be started on this machine.
    pub fn new(capacity: Capacity) -> Result<Self, SandboxError> {
        Self::loading(capacity, Loading { compiler: Compiler::Here, plugin_bytes: u64::MAX })
    }

    /// As [`Sandbox::new`], for plugins that are loaded as `loading` says.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::new`].
    pub fn loading(capacity: Capacity, loading: Loading) -> Result<Self, SandboxError> {
        let plain = Room::open(capacity, Dialect::Plain)?;
        let (workshop, plugin_bytes) = (Workshop::new(loading.compiler), loading.plugin_bytes);
        let concurrent = OnceLock::new();
        Ok(Self(Arc::new(Shared { capacity, plain, concurrent, workshop, plugin_bytes })))
    }

    /// Reads, compiles and checks a plugin. Blocks, for seconds when it is large.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is not a component, or does not fit the contract.
    pub fn load(&self, path: &Path) -> Result<Plugin, SandboxError> {
        self.load_pinned(path, None)
    }

    /// The same, if it is the file of this digest: another is not even compiled.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::load`], and when it is another file.
    pub fn load_pinned(&self, path: &Path, pin: Option<Digest>) -> Result<Plugin, SandboxError> {
        self.take(path, &file::read(path, self.0.plugin_bytes)?, pin)
    }

    /// The same for a plugin that was read already; `name` stands for it in messages.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::load`].
    pub fn load_bytes(&self, name: &Path, bytes: &[u8]) -> Result<Plugin, SandboxError> {
        self.take(name, bytes, None)
    }

    fn take(&self, name: &Path, bytes: &[u8], pin: Option<Digest>) -> Result<Plugin, SandboxError> {
        let room = self.room(door::dialect(bytes))?;
        Plugin::load((self, room), name, bytes, pin)
            .map_err(|refusal| SandboxError::Refused { path: name.to_owned(), refusal })
    }

    fn workshop(&self) -> &Workshop {
        &self.0.workshop
    }

    /// Where components of a dialect are compiled and run.
    fn room(&self, dialect: Dialect) -> Result<&Room, SandboxError> {
        match dialect {
            Dialect::Plain => Ok(&self.0.plain),
            Dialect::Concurrent => {
                let open =
                    || Room::open(self.0.capacity, dialect).map_err(|error| error.to_string());
                let room = self.0.concurrent.get_or_init(open).as_ref();
                room.map_err(|error| SandboxError::Engine(error.clone()))
            }
        }
    }
}

/// Why a plugin cannot be put to work.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The engine could not be set up on this machine.
    #[error("the WebAssembly engine cannot start: {0}")]
    Engine(String),
    /// A thread could not be started.
    #[error("a thread for the WebAssembly engine cannot start")]
    Thread(#[source] io::Error),
    /// The plugin's file could not be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not a plugin, or not one for this host.
    #[error("{}: {refusal}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        refusal: Refusal,
    },
    /// The authorities that handlers' requests are to trust could not be read.
    #[error("{variable} names {}, which cannot be used: {why}", path.display())]
    Authorities {
        /// The variable of the environment that names them.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The plugin fits the contract, yet broke before its first message.
    #[error("{}: cannot start for handler {handler}: {detail}", path.display())]
    Start {
        /// The plugin's file.
        path: PathBuf,
        /// The handler it was to work for.
        handler: Arc<str>,
        /// What happened, in a sentence.
        detail: String,
    },
}

impl SandboxError {
    fn engine(error: wasmtime::Error) -> Self {
        Self::Engine(format!("{error:#}"))
    }
}
