//! How the WebAssembly engine is set up, and the thread that gives it a clock.
//!
//! What is linked into guests is `wasi`'s, what one guest may use `meter`'s.

use std::convert::Infallible;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::Semaphore;
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig, WasmBacktraceDetails};

pub(super) use wasmtime::Engine;

use super::SandboxError;

/// How often running guests are interrupted: to yield to their neighbours on
/// the same thread, and to be stopped once their time is up.
const TICK: Duration = Duration::from_millis(5);

/// Frames of a guest's backtrace that are kept: enough to see who called, short enough for a log.
const BACKTRACE_FRAMES: NonZeroUsize = NonZeroUsize::new(20).expect("20 is not zero");

/// What host calls need of a stack on top of what the guest may use, at the least.
const HOST_STACK: usize = 1 << 20;

/// Linear memories one component may have; composed components have several.
/// Each reserves 4 GiB of addresses (not of memory) for each instance.
pub(super) const MEMORIES: u32 = 4;

/// Tables one component may have; components made by linking libraries have several.
pub(super) const TABLES: u32 = 8;

/// The largest table. Interpreters have some 10,000 functions in theirs.
const TABLE_ELEMENTS: usize = 100_000;

/// Core modules one component may start: Python's is linked of dozens of
/// libraries. It is a count, nothing is reserved for it.
pub(super) const CORE_INSTANCES: u32 = 200;

/// The book-keeping of one instance. It is a limit, nothing is reserved for it.
const INSTANCE_SIZE: usize = 16 << 20;

/// What a sandbox must hold. Address space is reserved for it up front, memory is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// The most instances alive at once, idle ones included: for each handler
    /// its concurrency, and while a plugin is replaced that of its successor.
    pub instances: usize,
    /// The largest memory of a handler, in bytes.
    pub memory: u64,
    /// Bytes of stack that a guest may use; each instance reserves more, for host calls.
    pub stack: usize,
}

/// What a component needs of its engine. A call in a [`Dialect::Plain`] one costs nothing for
/// what only the others use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// One call at a time in an instance, WASI 0.2 or none.
    Plain,
    /// Calls that wait for each other in one instance, WASI 0.3.
    Concurrent,
}

/// An engine of one dialect, its clock, and the places of its pool.
pub(super) struct Room {
    pub(super) engine: Engine,
    /// One permit for each instance that may be alive: taken before it is
    /// made and given back with its memory, so that the engine's pool, which
    /// is of the same size, is never asked for more than it has.
    pub(super) places: Arc<Semaphore>,
    _ticker: Ticker,
}

impl Room {
    pub(super) fn open(capacity: Capacity, dialect: Dialect) -> Result<Self, SandboxError> {
        let engine = start(capacity, dialect).map_err(SandboxError::engine)?;
        let ticker = Ticker::start(engine.clone()).map_err(SandboxError::Thread)?;
        let places = Arc::new(Semaphore::new(capacity.instances.min(Semaphore::MAX_PERMITS)));
        Ok(Self { engine, places, _ticker: ticker })
    }
}

/// An engine that takes its memory from a pool, or, where the address space
/// for a pool cannot be had, from the system each time.
fn start(capacity: Capacity, dialect: Dialect) -> wasmtime::Result<Engine> {
    let mut config = config(capacity.stack, dialect);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(capacity, dialect)));
    Engine::new(&config).or_else(|error| {
        tracing::warn!(
            error = format!("{error:#}"),
            instances = capacity.instances,
            "no address space for a pool of instances; each will be slower to start"
        );
        config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
        Engine::new(&config)
    })
}

/// An engine to compile with. How instances come by their memory and how much stack they have does
/// not show in the code, so what it makes runs on an engine with a pool.
pub(super) fn compiling(dialect: Dialect) -> wasmtime::Result<Engine> {
    Engine::new(&config(HOST_STACK, dialect))
}

fn config(stack: usize, dialect: Dialect) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        // It costs every call something. Of what it brings, functions without a callback
        // (each call would hold a stack) and error contexts stay off.
        .concurrency_support(dialect == Dialect::Concurrent)
        .max_wasm_stack(stack)
        .async_stack_size(stack.saturating_add(stack.max(HOST_STACK)))
        // Guests cannot read their stack's memory, so there is nothing to hide in it.
        .async_stack_zeroing(false)
        .memory_init_cow(true)
        .wasm_backtrace_details(WasmBacktraceDetails::Enable)
        .wasm_backtrace_max_frames(Some(BACKTRACE_FRAMES));
    config
}

fn pool(capacity: Capacity, dialect: Dialect) -> PoolingAllocationConfig {
    let instances = u32::try_from(capacity.instances).unwrap_or(u32::MAX).max(1);
    let memory = usize::try_from(capacity.memory).unwrap_or(usize::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_stacks(instances.saturating_mul(stacks(dialect)))
        .total_memories(instances.saturating_mul(MEMORIES))
        .total_tables(instances.saturating_mul(TABLES))
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES))
        .max_memories_per_component(MEMORIES)
        .max_tables_per_component(TABLES)
        .max_memories_per_module(MEMORIES)
        .max_tables_per_module(TABLES)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_component_instance_size(INSTANCE_SIZE)
        .max_core_instance_size(INSTANCE_SIZE)
        .table_elements(TABLE_ELEMENTS)
        .max_memory_size(memory);
    pool
}

/// Stacks of one instance: in a concurrent one, calls that are kept waiting in the middle of a
/// function hold theirs; there is one such call at most for each of its components.
fn stacks(dialect: Dialect) -> u32 {
    match dialect {
        Dialect::Plain => 1,
        Dialect::Concurrent => 4,
    }
}

/// The thread that advances the engine's epoch every [`TICK`], for as long as this value lives.
pub(super) struct Ticker {
    stop: Option<Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    pub(super) fn start(engine: Engine) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let tick = move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                engine.increment_epoch();
            }
        };
        let thread = thread::Builder::new().name("tidegate-epoch".to_owned()).spawn(tick)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        // The thread waits on this channel, so it ends now and not a tick later.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
