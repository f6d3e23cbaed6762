//! What a handler has done since its host started, counted as it happens.
//!
//! Written by the broker and dispatch, read by `status`, the demo and the
//! metrics. Counting takes no lock, but for the one of the latency histogram,
//! which is taken once a batch.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::health::Health;
use crate::outcome::Reason;

/// The figures of one handler in one host.
#[derive(Debug, Default)]
pub struct Figures {
    /// What keeps it from its work at this moment.
    pub health: Health,
    /// Messages acknowledged as handled.
    pub handled: AtomicU64,
    /// Messages acknowledged unseen, as `match` did not ask for them.
    pub skipped: AtomicU64,
    /// Messages acknowledged as they repeat one that was handled.
    pub duplicates: AtomicU64,
    /// Failures counted that will be tried again.
    pub retried: AtomicU64,
    /// Messages of a channel that failed, or whose outputs were refused: they are gone.
    pub failed: AtomicU64,
    /// Messages of a channel that came faster than they were handled: they are gone.
    pub dropped: AtomicU64,
    /// Deliveries taken back from a retry, a dead host or a lost reply.
    pub redelivered: AtomicU64,
    /// Settlements that came too late: the entry was no longer this host's.
    pub superseded: AtomicU64,
    /// Entries found to be another's while they were in hand, such as after this host was stopped for long.
    pub lost: AtomicU64,
    /// Times the reader had to connect again.
    pub reconnects: AtomicU64,
    /// Times the group had to be created again.
    pub healed: AtomicU64,
    /// Times the circuit opened, as everything failed.
    pub circuit_opened: AtomicU64,
    /// Whether it is open at this moment.
    pub circuit_is_open: AtomicBool,
    /// Times that another version of the plugin took over.
    pub swaps: AtomicU64,
    /// Times that a version of the plugin was refused, and the one at work went on.
    pub swaps_refused: AtomicU64,
    /// Versions of the plugin that were taken back.
    pub rollbacks: AtomicU64,
    /// Messages being handled at this moment.
    pub in_flight: AtomicU64,
    /// Time spent in the plugin, in nanoseconds.
    busy: AtomicU64,
    buried: [AtomicU64; Reason::ALL.len()],
    troubles: Mutex<BTreeMap<&'static str, u64>>,
    latency: Mutex<Latency>,
    costs: Mutex<Vec<VersionCost>>,
}

/// What one version of a plugin has cost a handler in one host since it was put to work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VersionCost {
    /// Its digest.
    pub plugin: String,
    /// Calls of it; a batch is one.
    pub calls: u64,
    /// Milliseconds for which it held a thread.
    pub cpu_ms: u64,
    /// The most bytes of memories and tables that one of its instances had.
    pub memory_peak: u64,
    /// Instances that were started.
    pub started: u64,
    /// Instances that were replaced, as they broke, had taken their calls or had grown.
    pub retired: u64,
}

/// Time from an entry's append to its acknowledgement.
#[derive(Debug)]
struct Latency {
    histogram: Histogram<u64>,
    /// All of it together, in milliseconds.
    sum: u64,
}

/// Waits from append to acknowledgement, sorted by how long they were.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waits {
    /// A length, and how many were no longer; by length.
    pub up_to: Vec<(Duration, u64)>,
    /// How many there were.
    pub count: u64,
    /// How long they were together.
    pub sum: Duration,
}

/// The lengths by which waits are sorted, in milliseconds: from what one round trip takes to what people wait for.
const WAITS: [u64; 15] =
    [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 1_800_000];

/// An hour: longer waits are counted as this long.
const LONGEST: Duration = Duration::from_secs(3600);

impl Default for Latency {
    fn default() -> Self {
        let longest = LONGEST.as_millis() as u64;
        let histogram = Histogram::new_with_bounds(1, longest, 3);
        Self { histogram: histogram.expect("constant bounds are valid"), sum: 0 }
    }
}

/// Counts one, or more, without ordering anything else.
pub(crate) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

/// A counter's value at this moment.
pub fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Figures {
    /// Counts time spent in the plugin.
    pub(crate) fn ran(&self, elapsed: Duration) {
        self.busy.fetch_add(elapsed.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Counts messages as being handled, for as long as what it gives is kept.
    pub(crate) fn in_flight(&self, count: usize) -> InFlight<'_> {
        add(&self.in_flight, count);
        InFlight { counter: &self.in_flight, count }
    }

    /// Counts a burial.
    pub(crate) fn bury(&self, reason: Reason) {
        add(&self.buried[reason as usize], 1);
    }

    /// Counts a request that Redis refused or did not answer, by the word for why.
    pub(crate) fn trouble(&self, word: &'static str) {
        *self.troubles.lock().expect("no one panics while counting").entry(word).or_default() += 1;
    }

    /// Notes what the versions at work have cost so far.
    pub(crate) fn cost(&self, costs: Vec<VersionCost>) {
        *self.costs.lock().expect("no one panics while noting") = costs;
    }

    /// What the versions of the plugin that are at work have cost, as it was noted last.
    pub fn costs(&self) -> Vec<VersionCost> {
        self.costs.lock().expect("no one panics while noting").clone()
    }

    /// How often Redis refused or did not answer a request, by the word for why.
    pub fn troubles(&self) -> BTreeMap<&'static str, u64> {
        self.troubles.lock().expect("no one panics while counting").clone()
    }

    /// Records the time from append to acknowledgement of a batch of messages.
    pub(crate) fn acknowledged(&self, waits: impl Iterator<Item = Duration>) {
        let mut latency = self.latency.lock().expect("no one panics while recording");
        for wait in waits {
            let millis = wait.as_millis() as u64;
            latency.histogram.saturating_record(millis);
            latency.sum = latency.sum.saturating_add(millis);
        }
    }

    /// How many messages were buried for `reason`.
    pub fn buried(&self, reason: Reason) -> u64 {
        read(&self.buried[reason as usize])
    }

    /// How many messages were buried for any reason.
    pub fn buried_in_all(&self) -> u64 {
        self.buried.iter().map(read).sum()
    }

    /// Time spent in the plugin so far.
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(read(&self.busy))
    }

    /// The wait from append to acknowledgement that a share of messages did not exceed.
    ///
    /// Milliseconds are as fine as it gets: that is what an entry's id tells.
    pub fn latency(&self, quantile: f64) -> Duration {
        let latency = self.latency.lock().expect("no one panics while recording");
        Duration::from_millis(latency.histogram.value_at_quantile(quantile))
    }

    /// The waits from append to acknowledgement since the host started.
    pub fn waits(&self) -> Waits {
        let latency = self.latency.lock().expect("no one panics while recording");
        let mut up_to: Vec<_> =
            WAITS.iter().map(|most| (Duration::from_millis(*most), 0)).collect();
        for one in latency.histogram.iter_recorded() {
            let at = WAITS.partition_point(|most| *most < one.value_iterated_to());
            if let Some((_, count)) = up_to.get_mut(at) {
                *count += one.count_since_last_iteration();
            }
        }
        let (count, sum) = (latency.histogram.len(), Duration::from_millis(latency.sum));
        drop(latency);
        let mut so_far = 0;
        for (_, count) in &mut up_to {
            so_far += *count;
            *count = so_far;
        }
        Waits { up_to, count, sum }
    }

    /// Forgets the recorded waits, to measure anew.
    pub fn reset_latency(&self) {
        self.latency.lock().expect("no one panics while recording").histogram.reset();
    }
}

/// Messages that are being handled, until it is dropped.
#[must_use = "they count as in flight only for as long as this is kept"]
pub(crate) struct InFlight<'a> {
    counter: &'a AtomicU64,
    count: usize,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.count as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burials_are_counted_by_reason() {
        let figures = Figures::default();
        for reason in Reason::ALL {
            figures.bury(reason);
        }
        figures.bury(Reason::Trap);
        assert_eq!(figures.buried(Reason::Trap), 2);
        assert_eq!(figures.buried_in_all(), 10);
    }

    #[test]
    fn a_wait_past_the_longest_is_still_counted() {
        let figures = Figures::default();
        figures.acknowledged([LONGEST * 3].into_iter());
        assert!(figures.latency(0.5) >= LONGEST);
        let waits = figures.waits();
        assert_eq!((waits.count, waits.sum), (1, LONGEST * 3));
        assert!(waits.up_to.iter().all(|(_, count)| *count == 0), "{waits:?}");
    }

    #[test]
    fn waits_are_sorted_by_their_length() {
        let figures = Figures::default();
        figures.acknowledged([0, 5, 6, 100, 299_000].into_iter().map(Duration::from_millis));
        let waits = figures.waits();
        assert_eq!((waits.count, waits.sum), (5, Duration::from_millis(299_111)));
        let up_to = |millis| {
            let most = Duration::from_millis(millis);
            waits.up_to.iter().find(|(length, _)| *length == most).unwrap().1
        };
        let counts = [5, 10, 50, 100, 60_000, 300_000].map(up_to);
        assert_eq!(counts, [2, 3, 3, 4, 4, 5]);
    }
}
