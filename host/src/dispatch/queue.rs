//! Deliveries on their way from the reader to the lanes. It holds no more than
//! there are slots, as each delivery in it has one.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::versions::{Version, Versions};
use crate::message::Delivery;

/// A delivery and the slot that it takes up until it is handled.
pub(super) struct Carried {
    pub delivery: Delivery,
    pub slot: OwnedSemaphorePermit,
}

/// What one call of the plugin is to handle, and the slots that it frees.
pub(super) struct Load {
    pub deliveries: Vec<Delivery>,
    pub slots: OwnedSemaphorePermit,
}

#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    ready: Notify,
}

#[derive(Default)]
struct Waiting {
    deliveries: VecDeque<Carried>,
    closed: bool,
}

impl Queue {
    /// Adds deliveries at the end.
    pub(super) fn push(&self, deliveries: impl IntoIterator<Item = Carried>) {
        self.waiting().deliveries.extend(deliveries);
        self.ready.notify_one();
    }

    /// Lets the lanes end once the queue is empty.
    pub(super) fn close(&self) {
        self.waiting().closed = true;
        self.ready.notify_waiters();
        self.ready.notify_one();
    }

    /// The next deliveries, at least one, and the version that is to handle them, which says how
    /// many a call takes; `None` once closed and empty.
    ///
    /// One lane is woken at a time and wakes the next if it leaves something
    /// behind: where handling is quick, few lanes run and stay warm.
    pub(super) async fn take(
        &self,
        versions: &Versions,
        batch: NonZeroUsize,
    ) -> Option<(Load, Arc<Version>)> {
        loop {
            let ready = self.ready.notified();
            {
                let mut waiting = self.waiting();
                let version = versions.pick();
                let count = waiting.deliveries.len().min(version.load(batch));
                let load = load(waiting.deliveries.drain(..count));
                if !waiting.deliveries.is_empty() || waiting.closed {
                    self.ready.notify_one();
                }
                if load.is_some() || waiting.closed {
                    return load.map(|load| (load, version));
                }
            }
            ready.await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn load(mut carried: impl ExactSizeIterator<Item = Carried>) -> Option<Load> {
    let mut deliveries = Vec::with_capacity(carried.len());
    let Carried { delivery, slot: mut slots } = carried.next()?;
    deliveries.push(delivery);
    for Carried { delivery, slot } in carried {
        deliveries.push(delivery);
        slots.merge(slot);
    }
    Some(Load { deliveries, slots })
}
