//! A host's time as the owner of a stream: how long it can be sure of it, and its end.
//!
//! Redis has the last word, by a lease that runs out; scripts compare it. What is
//! decided here, by the local clock, only keeps a host from work that would be refused.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::shutdown::Stop;

/// How long a lease lasts in Redis unless it is renewed.
pub(super) const LASTS: Duration = Duration::from_secs(6);

/// A host counts on a lease for this much less: for clocks that differ, and to end what it has begun.
const MARGIN: Duration = Duration::from_millis(1500);

/// One host's ownership of one stream. Its name is the consumer's, and differs from that of every other tenure.
#[derive(Debug)]
pub struct Tenure {
    pub(super) name: String,
    until: Mutex<Instant>,
    over: Stop,
}

impl Tenure {
    /// A tenure whose lease was asked for at this time, and given.
    pub(super) fn new(name: String, asked: Instant) -> Self {
        Self { name, until: Mutex::new(asked + LASTS - MARGIN), over: Stop::new() }
    }

    /// Takes in that the lease was asked to be renewed at this time, and was.
    ///
    /// Too late is over: what was dropped meanwhile is for the next tenure.
    pub(super) fn confirm(&self, asked: Instant) {
        if self.holds() {
            *self.until() = asked + LASTS - MARGIN;
        } else {
            self.end();
        }
    }

    /// Takes in that the lease is someone else's.
    pub(super) fn end(&self) {
        self.over.cancel();
    }

    /// Whether this host can be sure that it owns the stream.
    pub fn holds(&self) -> bool {
        !self.over.is_cancelled() && Instant::now() < *self.until()
    }

    /// Waits until this host can no longer be sure.
    pub(super) async fn lapsed(&self) {
        while self.holds() {
            let until = *self.until();
            tokio::select! {
                () = self.over.cancelled() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    fn until(&self) -> MutexGuard<'_, Instant> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries an owned stream for as long as this host can be sure that it is, then releases it.
pub(super) async fn bear(
    carrying: impl Future<Output = ()>,
    tenure: Arc<Tenure>,
    release: impl Future<Output = ()>,
) {
    tokio::select! {
        () = carrying => {}
        () = tenure.lapsed() => {
            tracing::warn!(tenure = tenure.name,
                "not sure of the lease any more; what is in hand is dropped, for whoever owns the stream next");
        }
    }
    release.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tenure_lapses_when_it_is_not_confirmed_or_is_over() {
        let long_ago = Instant::now() - LASTS;
        let lapsed = Tenure::new("a#1".into(), long_ago);
        assert!(!lapsed.holds());
        lapsed.lapsed().await;
        lapsed.confirm(Instant::now());
        assert!(!lapsed.holds(), "what was dropped is not taken up again");
        let tenure = Tenure::new("a#2".into(), Instant::now());
        tenure.confirm(Instant::now());
        assert!(tenure.holds());
        tenure.end();
        tenure.lapsed().await;
        assert!(!tenure.holds());
    }
}
