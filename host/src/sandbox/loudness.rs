//! How much of what a handler's plugin says is logged: so many lines and bytes a second.
//!
//! All instances of a handler share one. What is over is dropped and counted, at no cost to the
//! message. How lines are made is `voice`'s.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::manifest::Limits;

/// How often at most it is told that lines were dropped.
const EVERY: Duration = Duration::from_secs(1);

/// What a handler's plugin may still say.
#[derive(Debug)]
pub(super) struct Loudness {
    handler: Arc<str>,
    bucket: Mutex<Bucket>,
    /// Lines dropped since that was told last. Beside the bucket, so that each call may look.
    dropped: AtomicU64,
}

/// Lines and bytes, each refilled steadily, up to what one second brings.
#[derive(Debug)]
struct Bucket {
    lines_max: f64,
    bytes_max: f64,
    lines: f64,
    bytes: f64,
    filled: Instant,
    told: Option<Instant>,
}

impl Loudness {
    /// What `limits` allow the handler from now on.
    pub(super) fn new(handler: Arc<str>, limits: &Limits) -> Self {
        let bucket = Mutex::new(Bucket::new(limits, Instant::now()));
        Self { handler, bucket, dropped: AtomicU64::new(0) }
    }

    /// Whether a line of so many bytes may be logged now. If not it is counted as dropped.
    pub(super) fn admits(&self, bytes: usize) -> bool {
        let admitted = self.bucket().admits(bytes, Instant::now());
        if !admitted {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            self.tell();
        }
        admitted
    }

    /// Tells how many lines were dropped, unless that was done within the last second.
    pub(super) fn tell(&self) {
        if self.dropped.load(Ordering::Relaxed) == 0 || !self.bucket().is_due(Instant::now()) {
            return;
        }
        self.confess();
    }

    fn confess(&self) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let handler = &*self.handler;
            tracing::warn!(handler, "{dropped} lines dropped: past `log-lines` or `log-bytes`");
        }
    }

    /// Numbers are whole between any two of its calls, so a panic elsewhere does not spoil them.
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was dropped since it was told last is told at the latest when the plugin goes.
impl Drop for Loudness {
    fn drop(&mut self) {
        self.confess();
    }
}

impl Bucket {
    fn new(limits: &Limits, now: Instant) -> Self {
        let (lines, bytes) = (f64::from(limits.log_lines), f64::from(limits.log_bytes));
        Self { lines_max: lines, bytes_max: bytes, lines, bytes, filled: now, told: None }
    }

    fn admits(&mut self, bytes: usize, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.lines = (self.lines + seconds * self.lines_max).min(self.lines_max);
        self.bytes = (self.bytes + seconds * self.bytes_max).min(self.bytes_max);
        #[expect(clippy::cast_precision_loss, reason = "a line has few bytes")]
        let bytes = bytes as f64;
        if self.lines < 1.0 || self.bytes < bytes {
            return false;
        }
        self.lines -= 1.0;
        self.bytes -= bytes;
        true
    }

    /// Whether it may be told now that lines were dropped. If so it counts as told.
    fn is_due(&mut self, now: Instant) -> bool {
        let due = self.told.is_none_or(|told| now.saturating_duration_since(told) >= EVERY);
        if due {
            self.told = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(lines: u32, bytes: u32) -> (Bucket, Instant) {
        let now = Instant::now();
        let limits = Limits { log_lines: lines, log_bytes: bytes, ..Limits::default() };
        (Bucket::new(&limits, now), now)
    }

    fn admitted(bucket: &mut Bucket, bytes: usize, now: Instant) -> usize {
        (0..1000).filter(|_| bucket.admits(bytes, now)).count()
    }

    #[test]
    fn a_second_brings_so_many_lines_and_no_more() {
        let (mut bucket, start) = bucket(100, 1 << 20);
        assert_eq!(admitted(&mut bucket, 10, start), 100);
        assert_eq!(admitted(&mut bucket, 10, start + Duration::from_millis(250)), 25);
        let after_a_silence = start + Duration::from_secs(3600);
        assert_eq!(admitted(&mut bucket, 10, after_a_silence), 100);
    }

    #[test]
    fn long_lines_meet_the_bytes_first_and_short_ones_still_fit() {
        let (mut bucket, start) = bucket(1000, 1000);
        assert_eq!(admitted(&mut bucket, 300, start), 3);
        assert_eq!(admitted(&mut bucket, 10, start), 10);
    }

    #[test]
    fn it_is_told_once_a_second() {
        let (mut bucket, start) = bucket(1, 1);
        assert!(bucket.is_due(start));
        assert!(!bucket.is_due(start + Duration::from_millis(999)));
        assert!(bucket.is_due(start + Duration::from_secs(1)));
    }
}
