//! How much may be in hand: a slot is taken for each message before it is read.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How long a reader waits for more slots when few are free: one reply with many
/// entries costs Redis and us less than many with one.
const GATHER: Duration = Duration::from_millis(1);

/// Reads of this many messages cost little more each than larger ones.
const READ_AT_LEAST: usize = 100;

/// The slots of one handler: as many as its plugin can carry, which differs by version.
pub(super) struct Slots {
    free: Arc<Semaphore>,
    /// How many there are, free or not.
    count: usize,
}

impl Default for Slots {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(0)), count: 0 }
    }
}

impl Slots {
    /// Takes free slots for one read, of `count` in all: at least one, and half a read's worth if they come free in a moment.
    pub(super) async fn gather(&mut self, count: usize) -> OwnedSemaphorePermit {
        const NEVER_CLOSED: &str = "the semaphore is never closed";
        self.resize(count);
        let most = count.min(READ_AT_LEAST.max(count / 4));
        let mut free = self.free.clone().acquire_owned().await.expect(NEVER_CLOSED);
        let half = most.div_ceil(2);
        if half > 1 + self.free.available_permits() {
            let more = self.free.clone().acquire_many_owned(half as u32 - 1);
            if let Ok(more) = timeout(GATHER, more).await {
                free.merge(more.expect(NEVER_CLOSED));
            }
        }
        let rest = self.free.available_permits().min(most - free.num_permits());
        if let Ok(rest) = self.free.clone().try_acquire_many_owned(rest as u32) {
            free.merge(rest);
        }
        free
    }

    /// Makes more slots, or takes away free ones; those that are taken go when they are free again.
    fn resize(&mut self, count: usize) {
        if count > self.count {
            self.free.add_permits(count - self.count);
            self.count = count;
        } else {
            self.count -= self.free.forget_permits(self.count - count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slots_that_are_taken_are_not_counted_twice_when_their_number_changes() {
        let mut slots = Slots::default();
        let one = slots.gather(1).await;
        let many = slots.gather(40).await;
        assert_eq!((one.num_permits(), many.num_permits()), (1, 39));
        drop(one);
        // Of forty that there are one is free, and only two may be.
        let waiting = timeout(Duration::from_millis(20), slots.gather(2)).await;
        assert!(waiting.is_err(), "thirty-nine are still taken");
        drop(many);
        let (first, second) = (slots.gather(2).await, slots.free.available_permits());
        assert_eq!((first.num_permits(), second, slots.count), (2, 0, 2));
    }
}
