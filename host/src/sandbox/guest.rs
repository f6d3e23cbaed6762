//! What the host keeps for one instance: its part of WASI, its meter, its voice, its deadline.

use std::sync::Arc;
use std::time::Instant;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use super::http::Http;
use super::keyvalue::Keyspace;
use super::linked::Linked;
use super::meter::Meter;
use super::plugin::World;
use super::reach::Configuration;
use super::voice::Voice;

/// Streams, pollables and the like that a guest may hold at once. They take
/// memory of the host's that the meter does not see.
const RESOURCES_MAX: usize = 1_000;

/// Those that each message in flight of a concurrent guest may add to that.
const RESOURCES_EACH: usize = 20;

/// Random bytes a guest may ask for at once: making them does not yield.
const RANDOM_MAX: u64 = 1 << 20;

/// The state of one instance on the host's side.
pub(super) struct Guest {
    wasi: WasiCtx,
    resources: ResourceTable,
    http: Http,
    pub(super) meter: Meter,
    pub(super) voice: Voice,
    /// The keys that it may use, if it is granted any.
    pub(super) keyspace: Option<Keyspace>,
    /// The configuration that it may read, if it is granted one.
    pub(super) config: Option<Arc<dyn Configuration>>,
    /// When the present call must have ended.
    pub(super) deadline: Instant,
}

impl Guest {
    /// A guest within the limits of its handler, that sees the granted environment, no
    /// arguments, an empty standard input, no directories, and no network
    /// but for the hosts it may call.
    pub(super) fn new(linked: &Linked) -> Self {
        let voice = Voice::new(
            linked.handler.clone(),
            linked.loudness.clone(),
            linked.limits.further.log_bytes,
        );
        let mut wasi = WasiCtxBuilder::new();
        wasi.max_random_size(RANDOM_MAX).stdout(voice.out()).stderr(voice.err());
        for (name, value) in &linked.reach.env {
            wasi.env(name, value);
        }
        let mut resources = ResourceTable::new();
        let beside = match linked.plugin.world() {
            World::Async => linked.limits.concurrency,
            World::Plugin | World::Batch => 0,
        };
        resources.set_max_capacity(RESOURCES_MAX + beside * RESOURCES_EACH);
        Self {
            wasi: wasi.build(),
            resources,
            meter: Meter::new(linked.limits.memory),
            voice,
            keyspace: Keyspace::of(linked),
            config: linked.reach.config.clone(),
            http: Http::new(linked.http.clone()),
            deadline: Instant::now(),
        }
    }

    pub(super) fn resources(&mut self) -> &mut ResourceTable {
        &mut self.resources
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.http.view(&mut self.resources)
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.resources }
    }
}
