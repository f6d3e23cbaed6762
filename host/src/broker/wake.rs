//! When the reader has to look up from a blocking read: the next retry that is due.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Looking up once a day is as good as waiting for years, and no clock overflows.
const FARTHEST: Duration = Duration::from_secs(24 * 3600);

/// A time that can only be moved nearer, until it is taken.
#[derive(Debug, Default)]
pub(super) struct Wake {
    at: Mutex<Option<Instant>>,
    nearer: Notify,
}

impl Wake {
    /// Asks to be woken after `wait`, or sooner.
    pub(super) fn after(&self, wait: Duration) {
        let at = Instant::now() + wait.min(FARTHEST);
        let mut set = self.set();
        if set.is_none_or(|earlier| at < earlier) {
            *set = Some(at);
            self.nearer.notify_one();
        }
    }

    /// Whether the time has come; if so, it is taken.
    pub(super) fn take_due(&self) -> bool {
        self.set().take_if(|at| *at <= Instant::now()).is_some()
    }

    /// Waits until the time has come.
    pub(super) async fn due(&self) {
        loop {
            let nearer = self.nearer.notified();
            let at = *self.set();
            match at {
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => return,
                    () = nearer => {}
                },
                None => nearer.await,
            }
        }
    }

    fn set(&self) -> MutexGuard<'_, Option<Instant>> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[tokio::test]
    async fn a_nearer_time_wakes_who_already_waits() {
        let wake = Wake::default();
        wake.after(Duration::MAX);
        let woken = tokio::join!(wake.due(), async { wake.after(Duration::ZERO) });
        assert_eq!(woken, ((), ()));
        assert!(wake.take_due());
        assert!(!wake.take_due());
    }
}
