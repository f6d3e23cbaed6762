//! Many messages in flight in one instance, for plugins of the world `async-plugin`.
//!
//! [`Commons`] is the instance that a handler's calls share, and replaces it; `live` is the
//! callers' end of one such instance, `driver` the task that owns it, `flights` what is in it,
//! `letter` the call itself. Whoever asks runs again, alone, what was only disturbed.

mod driver;
mod flights;
mod letter;
mod live;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) use self::letter::{Handle, Letter, Unbound};

use self::live::Live;
use super::instance::Instance;
use super::linked::Linked;
use crate::message::Delivery;
use crate::outcome::{Fault, Outcome};

/// Instances that may end before they come to a message; then it runs alone.
const TRIES: u32 = 3;

/// How a call among others ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The guest answered.
    Answered(Outcome),
    /// It broke, and this message is to blame.
    Broke(Fault),
    /// The instance is gone, and nobody can tell through whom.
    Disturbed,
}

/// The instance that takes a handler's messages at present, if there is one.
#[derive(Default)]
pub(super) struct Commons {
    current: Mutex<Option<Arc<Live>>>,
}

impl Commons {
    /// Runs a message beside whichever others are in flight. `spare` may give an instance that
    /// is started already. It must be polled inside a tokio runtime.
    pub(super) async fn run(
        &self,
        linked: &Arc<Linked>,
        spare: impl Fn() -> Option<Instance>,
        delivery: &Delivery,
    ) -> Ended {
        for _ in 0..TRIES {
            let letter = match Letter::of_delivery(delivery) {
                Ok(letter) => letter,
                Err(fault) => return Ended::Broke(fault),
            };
            let live = self.join(linked, &spare);
            let ended = live.run(delivery.message.id, letter, linked.limits.timeout).await;
            self.let_go(&live);
            if let Some(ended) = ended {
                return ended;
            }
        }
        Ended::Disturbed
    }

    /// The present instance, or a new one when that takes no more messages.
    fn join(&self, linked: &Arc<Linked>, spare: impl Fn() -> Option<Instance>) -> Arc<Live> {
        let mut current = self.current();
        match &*current {
            Some(live) if live.admits() => live.clone(),
            Some(_) | None => {
                let live = Arc::new(Live::start(linked.clone(), spare()));
                live.admits();
                current.insert(live).clone()
            }
        }
    }

    /// Forgets an instance that takes no more messages: it ends with the last of those in it.
    fn let_go(&self, live: &Arc<Live>) {
        let mut current = self.current();
        let is_current = current.as_ref().is_some_and(|current| Arc::ptr_eq(current, live));
        if is_current && !live.is_open() {
            *current = None;
        }
    }

    /// It is replaced in one step, so a panic elsewhere does not spoil it.
    fn current(&self) -> MutexGuard<'_, Option<Arc<Live>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
