//! Everything that speaks WebAssembly: from a plugin's file to the outcome of a message.
//!
//! Nothing outside of this room imports `wasmtime`. What a stream is, when to
//! try again and what an outcome costs is the business of others.
//!
//! The way through: [`Sandbox::load`] makes a [`Plugin`] of a file, having
//! checked what it exports (`door`); [`Runner::new`] puts it to work for a handler
//! within [`Limits`], linked to what it may [`Reach`] and nothing else; [`Runner::run`] takes a warm `instance`, calls it
//! through the `contract`, and turns whatever happens into outcomes (`fault`).

mod config;
mod contract;
mod cost;
mod door;
mod engine;
mod fault;
mod guest;
mod http;
mod instance;
mod keyvalue;
mod linked;
mod logging;
mod memory;
mod loudness;
mod meter;
mod offer;
mod plain;
mod plugin;
mod reach;
mod runner;
mod voice;
mod wasi;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Semaphore;

pub use self::cost::{Cost, Retired};
pub use self::door::{Absence, Missing, Refusal};
pub use self::engine::Capacity;
pub use self::memory::{MemoryConfig, MemoryKeys};
pub use self::offer::Grant;
pub use self::plugin::{Plugin, World};
pub use self::reach::{Answer, Configuration, KeyPage, KeyValue, Reach, StoreError, Unreachable};
pub use self::runner::{Limits, Runner};

use self::engine::{Engine, Ticker};

/// Where plugins are compiled and run. Cheap to clone; all clones are the same sandbox.
///
/// It owns one thread, `tidegate-epoch`, that interrupts running guests every
/// few milliseconds. The thread is stopped and joined when the last clone, and
/// the last plugin and runner made from it, are gone.
#[derive(Clone)]
pub struct Sandbox(Arc<Shared>);

/// What every clone, plugin and runner of one sandbox shares.
struct Shared {
    engine: Engine,
    /// One permit for each instance that may be alive: taken before it is
    /// made and given back with its memory, so that the engine's pool, which
    /// is of the same size, is never asked for more than it has.
    places: Arc<Semaphore>,
    _ticker: Ticker,
}

impl Sandbox {
    /// Starts an engine for as many instances, of as much memory, as `capacity` says.
    ///
    /// # Errors
    ///
    /// When the engine or its thread cannot be started on this machine.
    pub fn new(capacity: Capacity) -> Result<Self, SandboxError> {
        let engine = engine::start(capacity).map_err(SandboxError::engine)?;
        let ticker = Ticker::start(engine.clone()).map_err(SandboxError::Thread)?;
        let places = Arc::new(Semaphore::new(capacity.instances.min(Semaphore::MAX_PERMITS)));
        Ok(Self(Arc::new(Shared { engine, places, _ticker: ticker })))
    }

    /// Reads, compiles and checks a plugin. Blocks, for seconds when it is large.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is not a component, or does not fit the contract.
    pub fn load(&self, path: &Path) -> Result<Plugin, SandboxError> {
        let bytes = std::fs::read(path)
            .map_err(|source| SandboxError::Read { path: path.to_owned(), source })?;
        self.load_bytes(path, &bytes)
    }

    /// The same for a plugin that was read already; `name` stands for it in messages.
    ///
    /// # Errors
    ///
    /// As [`Sandbox::load`].
    pub fn load_bytes(&self, name: &Path, bytes: &[u8]) -> Result<Plugin, SandboxError> {
        Plugin::load(self, name, bytes)
            .map_err(|refusal| SandboxError::Refused { path: name.to_owned(), refusal })
    }

    fn engine(&self) -> &Engine {
        &self.0.engine
    }

    fn places(&self) -> &Arc<Semaphore> {
        &self.0.places
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
