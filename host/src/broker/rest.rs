//! How long something that gives trouble is left alone, and whether its trouble is news.

use std::time::Duration;

use tokio::time::Instant;

use super::connect::Backoff;

/// Begins anew, for longer, with every trouble until all is well.
#[derive(Default)]
pub(super) struct Rest {
    backoff: Backoff,
    until: Option<Instant>,
}

impl Rest {
    /// How much of it is left, if any.
    pub(super) fn left(&self) -> Option<Duration> {
        let left = self.until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Whether there was no trouble since all was well.
    pub(super) fn is_fresh(&self) -> bool {
        self.backoff.is_fresh()
    }

    /// Begins, after one more trouble; gives how long it takes.
    pub(super) fn begin(&mut self) -> Duration {
        let wait = self.backoff.next();
        self.until = Some(Instant::now() + wait);
        wait
    }
}
