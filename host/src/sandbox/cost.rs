//! What a plugin at work for one handler has cost so far.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What one version of a plugin has cost one handler since it was put to work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Time for which its instances held a thread: the guest's own computing, its start
    /// included, and what the host did for it meanwhile, such as copying messages in and
    /// answers out. Waiting for a clock or for Redis holds no thread and is not counted. On a machine
    /// with more to do than it has cores, it includes what the system gave to others meanwhile.
    pub cpu: Duration,
    /// The most bytes of memories and tables that any of its instances had.
    pub memory_peak: u64,
    /// Calls; a batch is one.
    pub calls: u64,
    /// Instances that were started, those that broke at it included.
    pub started: u64,
    /// Instances that were replaced, and why.
    pub retired: Retired,
}

/// Why instances were not used again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retired {
    /// They broke, or answered with more than they may.
    pub faults: u64,
    /// They had taken as many calls as they may.
    pub calls: u64,
    /// They had grown past half of the memory that was left to them.
    pub growth: u64,
}

/// Why one instance is not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Fault,
    Calls,
    Growth,
}

/// Where a cost is added up, by all calls of a handler at once.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    nanos: AtomicU64,
    memory_peak: AtomicU64,
    calls: AtomicU64,
    started: AtomicU64,
    faults: AtomicU64,
    used_up: AtomicU64,
    grown: AtomicU64,
}

impl Ledger {
    /// The sums so far. They are read one after the other, so that calls that end meanwhile
    /// may be in some of them and not yet in others.
    pub(super) fn sum(&self) -> Cost {
        let read = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        Cost {
            cpu: Duration::from_nanos(read(&self.nanos)),
            memory_peak: read(&self.memory_peak),
            calls: read(&self.calls),
            started: read(&self.started),
            retired: Retired {
                faults: read(&self.faults),
                calls: read(&self.used_up),
                growth: read(&self.grown),
            },
        }
    }

    pub(super) fn call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn started(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    /// An instance has this many bytes.
    pub(super) fn memory(&self, bytes: u64) {
        // Nearly always it is no news, and reading disturbs no other thread.
        if bytes > self.memory_peak.load(Ordering::Relaxed) {
            self.memory_peak.fetch_max(bytes, Ordering::Relaxed);
        }
    }

    pub(super) fn retired(&self, end: End) {
        let sum = match end {
            End::Fault => &self.faults,
            End::Calls => &self.used_up,
            End::Growth => &self.grown,
        };
        sum.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs a guest that begins `now`, and adds the time that it spends inside of polls, also
    /// when it is dropped before its end.
    pub(super) async fn timed<T>(&self, now: Instant, guest: impl Future<Output = T>) -> T {
        let mut guest = pin!(guest);
        let mut first = Some(now);
        poll_fn(|task| {
            let began = first.take().unwrap_or_else(Instant::now);
            let polled = guest.as_mut().poll(task);
            let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.nanos.fetch_add(nanos, Ordering::Relaxed);
            polled
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_costs_nothing_and_computing_does() {
        let (waits, computes) = (Ledger::default(), Ledger::default());
        let wait = Duration::from_millis(300);
        waits.timed(Instant::now(), tokio::time::sleep(wait)).await;
        assert!(waits.sum().cpu < wait / 2, "{:?}", waits.sum().cpu);
        let until = Instant::now() + Duration::from_millis(20);
        computes
            .timed(Instant::now(), async {
                tokio::task::yield_now().await;
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            })
            .await;
        assert!(computes.sum().cpu > Duration::from_millis(5), "{:?}", computes.sum().cpu);
    }

    #[test]
    fn the_peak_is_that_of_the_largest_instance() {
        let ledger = Ledger::default();
        for bytes in [10, 30, 20] {
            ledger.memory(bytes);
        }
        assert_eq!(ledger.sum().memory_peak, 30);
    }
}
