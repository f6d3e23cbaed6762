//! What can be told of the handlers at work, while they come and go.

use std::sync::{Arc, PoisonError, RwLock};

use crate::broker::Serving;
use crate::figures::Figures;

/// A handler at work.
#[derive(Debug, Clone)]
pub struct HandlerState {
    /// Its name.
    pub name: Arc<str>,
    /// What it has done since the host started.
    pub figures: Arc<Figures>,
    /// Which plugin serves it, and why no newer one does.
    pub serving: Serving,
}

/// The handlers at work; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Roster(Arc<RwLock<Vec<HandlerState>>>);

impl Roster {
    /// The handlers that are at work now, in the order in which they were put to work.
    pub fn now(&self) -> Vec<HandlerState> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Enters a handler, in the place of one of its name.
    pub(super) fn enter(&self, state: HandlerState) {
        let mut states = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match states.iter_mut().find(|known| known.name == state.name) {
            Some(known) => *known = state,
            None => states.push(state),
        }
    }

    /// Strikes a handler off.
    pub(super) fn strike(&self, name: &str) {
        let mut states = self.0.write().unwrap_or_else(PoisonError::into_inner);
        states.retain(|known| *known.name != *name);
    }
}
