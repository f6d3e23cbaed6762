//! What can be told of the handlers at work, while they come and go.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::broker::{Broker, Serving};
use crate::figures::Figures;
use crate::manifest::{Handler, Manifest};

/// A handler at work.
#[derive(Debug, Clone)]
pub struct HandlerState {
    /// Its name.
    pub name: Arc<str>,
    /// As it is at work.
    pub handler: Arc<Handler>,
    /// What it has done since the host started, and how it is.
    pub figures: Arc<Figures>,
    /// Which plugin serves it, and why no newer one does.
    pub serving: Serving,
}

/// The handlers at work, those that should be, and the Redis they are on; clones share it.
#[derive(Clone, Default)]
pub struct Roster(Arc<RwLock<Entered>>);

#[derive(Default)]
struct Entered {
    states: Vec<HandlerState>,
    /// Those that are not at work, and why.
    missing: Vec<(Arc<str>, Arc<str>)>,
    broker: Option<Arc<Broker>>,
}

impl Roster {
    /// None at work yet, of those of a manifest.
    pub fn awaiting(manifest: &Manifest) -> Self {
        let roster = Self::default();
        roster.await_all(manifest, "its plugin is being loaded");
        roster
    }

    /// The handlers that are at work now, in the order in which they were put to work.
    pub fn now(&self) -> Vec<HandlerState> {
        self.read().states.clone()
    }

    /// The handlers that should be at work and are not, each with the reason.
    pub fn missing(&self) -> Vec<(Arc<str>, Arc<str>)> {
        self.read().missing.clone()
    }

    /// The Redis they are on; none before there was a connection.
    pub fn broker(&self) -> Option<Arc<Broker>> {
        self.read().broker.clone()
    }

    /// Has every handler of a manifest miss, for this reason.
    pub(super) fn await_all(&self, manifest: &Manifest, why: &str) {
        let missing = manifest.handlers.iter().map(|handler| (handler.name.clone(), why.into()));
        self.write().missing = missing.collect();
    }

    /// Takes in that there is a connection.
    pub(super) fn connected(&self, broker: Arc<Broker>) {
        self.write().broker = Some(broker);
    }

    /// Enters a handler, in the place of one of its name.
    pub(super) fn enter(&self, state: HandlerState) {
        let mut entered = self.write();
        entered.missing.retain(|(name, _)| *name != state.name);
        match entered.states.iter_mut().find(|known| known.name == state.name) {
            Some(known) => *known = state,
            None => entered.states.push(state),
        }
    }

    /// Strikes a handler off.
    pub(super) fn strike(&self, name: &str) {
        self.write().states.retain(|known| *known.name != *name);
    }

    /// Takes in which handlers should be at work and are not.
    pub(super) fn miss(&self, missing: Vec<(Arc<str>, Arc<str>)>) {
        self.write().missing = missing;
    }

    fn read(&self) -> RwLockReadGuard<'_, Entered> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Entered> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
