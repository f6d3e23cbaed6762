//! A plugin linked for one handler: to what its grants let it reach, and nothing else.

use std::sync::Arc;

use tokio::sync::Semaphore;
use wasmtime::component::Linker;

use super::SandboxError;
use super::contract::Ready;
use super::cost::Ledger;
use super::door::{self, Refusal};
use super::http::Client;
use super::loudness::Loudness;
use super::offer;
use super::plugin::Plugin;
use super::reach::Reach;
use super::runner::Limits;

/// What every instance of a plugin at work for one handler is made of.
pub(super) struct Linked {
    pub(super) plugin: Plugin,
    pub(super) handler: Arc<str>,
    pub(super) limits: Limits,
    pub(super) reach: Reach,
    /// A permit for each operation of `wasi:keyvalue` that may be in flight.
    pub(super) keyvalue_places: Arc<Semaphore>,
    /// Makes the requests of all its instances.
    pub(super) http: Arc<Client>,
    pub(super) ready: Ready,
    /// One permit for each instance that may be in use. As idle ones are used before another
    /// is started, there are never more alive.
    pub(super) turns: Option<Semaphore>,
    /// What all instances together may say.
    pub(super) loudness: Arc<Loudness>,
    /// What all instances together have cost.
    pub(super) cost: Ledger,
}

impl Linked {
    /// Checks a plugin's imports against the handler's grants, and links them.
    pub(super) fn new(
        plugin: &Plugin,
        handler: Arc<str>,
        limits: Limits,
        reach: Reach,
    ) -> Result<Self, SandboxError> {
        let ready = link(plugin, &reach)
            .map_err(|refusal| SandboxError::Refused { path: plugin.path().to_owned(), refusal })?;
        let keyvalue_places = Arc::new(Semaphore::new(limits.further.keyvalue_calls));
        let http = Arc::new(Client::new(handler.clone(), &reach, limits.further)?);
        let loudness = Arc::new(Loudness::new(handler.clone(), &limits.further));
        // Calls in flight are bounded already.
        let turns =
            (limits.instances() < limits.concurrency).then(|| Semaphore::new(limits.instances()));
        Ok(Self {
            plugin: plugin.clone(),
            handler,
            limits,
            reach,
            ready,
            keyvalue_places,
            http,
            turns,
            loudness,
            cost: Ledger::default(),
        })
    }
}

fn link(plugin: &Plugin, reach: &Reach) -> Result<Ready, Refusal> {
    let (component, engine) = (plugin.component(), plugin.engine());
    door::check_imports(component, engine, reach)?;
    let unlinkable = |error: wasmtime::Error| Refusal::Unlinkable(format!("{error:#}"));
    let mut linker = Linker::new(engine);
    // A component may import one interface in several versions; one definition serves them all.
    let mut added = Vec::new();
    for (import, _) in component.component_type().imports(engine) {
        if let Some(offer) = offer::of(import)
            && !added.contains(&(offer.interface, offer.version))
        {
            (offer.add)(&mut linker).map_err(unlinkable)?;
            added.push((offer.interface, offer.version));
        }
    }
    let ready = linker.instantiate_pre(component).and_then(|pre| Ready::new(plugin.world(), pre));
    ready.map_err(unlinkable)
}
