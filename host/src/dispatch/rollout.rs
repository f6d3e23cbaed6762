//! Whether a new version of a plugin has proven itself: a decision of its counts alone.
//!
//! Who counts and what is done about it is `versions`' business.

use std::time::Duration;

use crate::manifest::Rollout;

/// How often one version was called, and how often that ended otherwise than handled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) messages: u64,
    pub(super) failed: u64,
}

impl Tally {
    fn rate(self) -> f64 {
        if self.messages == 0 { 0.0 } else { self.failed as f64 / self.messages as f64 }
    }
}

/// What is to become of a new version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// Too early to say.
    Wait,
    /// It takes over.
    TakeOver,
    /// It goes, and the one before it stays; the sentence for why.
    Return(String),
}

/// One failure may be anyone's, and two may be one message tried twice.
const FAILURES_LEAST: u64 = 3;

/// By how many standard deviations the new version must be worse. It is asked after every
/// message, so that what is unlikely once gets many chances: this far out they are few all the same.
const DEVIATIONS: f64 = 4.0;

/// Compares a new version with the one it is to follow, `elapsed` after it began.
pub(super) fn decide(rule: &Rollout, elapsed: Duration, old: Tally, new: Tally) -> Decision {
    if is_worse(old, new) {
        let (old_rate, new_rate) = (percent(old), percent(new));
        return Decision::Return(format!(
            "it failed on {} of {} messages ({new_rate}), the version before it on {} of {} ({old_rate})",
            new.failed, new.messages, old.failed, old.messages
        ));
    }
    if elapsed >= rule.period && new.messages >= u64::from(rule.messages) {
        return Decision::TakeOver;
    }
    Decision::Wait
}

/// Whether the new version fails so much more often that it can hardly be chance: the test of
/// two proportions, one-sided.
fn is_worse(old: Tally, new: Tally) -> bool {
    if new.failed < FAILURES_LEAST || old.messages == 0 || new.rate() <= old.rate() {
        return false;
    }
    let (n, m) = (new.messages as f64, old.messages as f64);
    let together = (new.failed + old.failed) as f64 / (n + m);
    let deviation = (together * (1.0 - together) * (1.0 / n + 1.0 / m)).sqrt();
    new.rate() - old.rate() > DEVIATIONS * deviation
}

fn percent(tally: Tally) -> String {
    format!("{:.1}%", 100.0 * tally.rate())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULE: Rollout = Rollout { percent: 10, period: Duration::from_secs(60), messages: 100 };

    fn tally(messages: u64, failed: u64) -> Tally {
        Tally { messages, failed }
    }

    fn after(secs: u64, old: Tally, new: Tally) -> Decision {
        decide(&RULE, Duration::from_secs(secs), old, new)
    }

    #[test]
    fn it_takes_over_once_it_had_its_time_and_its_messages() {
        let old = tally(900, 0);
        assert_eq!(after(59, old, tally(100, 0)), Decision::Wait);
        assert_eq!(after(600, old, tally(99, 0)), Decision::Wait);
        assert_eq!(after(60, old, tally(100, 0)), Decision::TakeOver);
    }

    #[test]
    fn one_that_breaks_on_everything_goes_after_a_few_messages() {
        assert_eq!(after(1, tally(27, 0), tally(2, 2)), Decision::Wait);
        let Decision::Return(why) = after(1, tally(27, 0), tally(3, 3)) else { panic!("it stays") };
        assert_eq!(
            why,
            "it failed on 3 of 3 messages (100.0%), the version before it on 0 of 27 (0.0%)"
        );
    }

    #[test]
    fn failures_that_both_versions_have_are_nobodys_fault() {
        assert_eq!(after(1, tally(900, 450), tally(100, 52)), Decision::Wait);
        assert_eq!(after(60, tally(900, 450), tally(100, 52)), Decision::TakeOver);
    }

    #[test]
    fn a_few_failures_in_a_hundred_are_noticed_where_there_were_none() {
        assert!(matches!(after(1, tally(900, 0), tally(100, 3)), Decision::Return(_)));
        assert_eq!(after(1, tally(900, 9), tally(100, 3)), Decision::Wait);
    }

    #[test]
    fn without_anything_to_compare_with_nothing_is_returned() {
        assert_eq!(after(1, tally(0, 0), tally(50, 50)), Decision::Wait);
    }

    proptest! {
        #[test]
        fn one_that_fails_no_more_often_is_never_returned(
            (messages, failed) in (1u64..100_000).prop_flat_map(|n| (Just(n), 0..=n)),
            times in 1u64..50,
        ) {
            let (old, new) = (tally(messages * times, failed * times), tally(messages, failed));
            prop_assert!(!is_worse(old, new));
        }
    }
}
