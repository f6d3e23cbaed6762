//! How fast a command goes, until it is told to stop: evenly, so that nobody is flooded.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep_until};

use super::Failure;
use crate::manifest::per_period;
use crate::shutdown::{self, Stop};

/// What goes together when it goes fast: a twentieth of a second's worth.
const BEAT: Duration = Duration::from_millis(50);

/// Parses a rate from the command line; gives the time between one and the next.
pub(super) fn rate(text: &str) -> Result<Duration, String> {
    let (count, period) =
        per_period(text).ok_or("expected a rate from 1/h to 1000000/s, such as 100/s")?;
    Ok(period / count.get())
}

/// Whose turn it is, and when.
#[derive(Debug)]
pub(super) struct Pace {
    between: Option<Duration>,
    left: u64,
    next: Instant,
    stop: Stop,
}

impl Pace {
    /// At most `limit` in all, with so much time between one and the next.
    pub(super) fn new(between: Option<Duration>, limit: Option<u64>, stop: Stop) -> Self {
        Self { between, left: limit.unwrap_or(u64::MAX), next: Instant::now(), stop }
    }

    /// Waits for the next turn and says how many may go, `wanted` at most; 0 when that was all.
    pub(super) async fn turn(&self, wanted: u64) -> u64 {
        if self.is_stopped() || self.left == 0 {
            return 0;
        }
        tokio::select! {
            () = sleep_until(self.next) => self.share().min(wanted).min(self.left),
            () = self.stop.cancelled() => 0,
        }
    }

    /// Counts those that went; the next turn is so much later.
    pub(super) fn went(&mut self, count: u64) {
        self.left = self.left.saturating_sub(count);
        let took = self.between.map_or(Duration::ZERO, |between| {
            between.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
        });
        // From now, not from when it should have been: what was missed is not made up for.
        self.next = Instant::now().max(self.next) + took;
    }

    /// Whether somebody pressed ctrl-c.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    fn share(&self) -> u64 {
        let Some(between) = self.between else { return u64::MAX };
        let together = BEAT.as_nanos() / between.as_nanos().max(1);
        u64::try_from(together).unwrap_or(u64::MAX).max(1)
    }
}

/// Runs what a signal should stop between two steps; a second signal ends the process.
pub(super) async fn until_signal<T>(work: impl AsyncFnOnce(Stop) -> T) -> Result<T, Failure> {
    let stop = Stop::new();
    let signals = shutdown::listen().map_err(Failure::system("listen for signals"))?;
    let watching = tokio::spawn(signals.request(stop.clone()));
    let done = work(stop).await;
    watching.abort();
    Ok(done)
}

/// A count that grows, on a terminal only.
pub(super) fn progress(of_what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {pos} {msg}, {elapsed}");
    bar.set_style(style.expect("the template is constant and valid"));
    bar.set_message(of_what);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_pace_lets_one_go_at_a_time_and_a_fast_one_a_beat() {
        let share = |text: &str| Pace::new(rate(text).ok(), None, Stop::new()).share();
        assert_eq!(share("5/s"), 1);
        assert_eq!(share("100/h"), 1);
        assert_eq!(share("1000/s"), 50);
        assert_eq!(Pace::new(None, None, Stop::new()).share(), u64::MAX);
        assert!(rate("fast").is_err());
    }

    #[tokio::test]
    async fn no_more_go_than_the_limit_and_none_after_a_stop() {
        let stop = Stop::new();
        let mut pace = Pace::new(None, Some(3), stop.clone());
        assert_eq!(pace.turn(2).await, 2);
        pace.went(2);
        assert_eq!(pace.turn(2).await, 1);
        stop.cancel();
        assert_eq!(pace.turn(2).await, 0);
    }
}
