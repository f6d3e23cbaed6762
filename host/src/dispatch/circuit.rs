//! When to stop reading, as everything fails, and when to go on. Pure: the time is passed in.
//!
//! What an outage of something that the plugin depends on looks like: failure
//! after failure, whatever the message. Trying all the others meanwhile would
//! only use up their attempts, so one is tried now and then.

use std::time::{Duration, Instant};

use crate::manifest;
use crate::message::MessageId;
use crate::outcome::{FaultKind, Outcome, Settlement};

/// One handler's circuit in one host.
pub(super) struct Circuit {
    rule: manifest::Circuit,
    /// After this long a probe has been lost, whatever became of it.
    patience: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// All goes through; the last so many failed.
    Closed { failures: u32 },
    /// Nothing does.
    Open { until: Instant },
    /// One message does, and says how things are.
    Probing { probe: Option<(MessageId, Instant)> },
}

/// What may be read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// As much as there are slots for.
    All,
    /// One message, as the probe.
    One,
    /// Nothing before this time, unless the probe's outcome comes first.
    NotBefore(Instant),
}

/// What an outcome says of whatever the plugin depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Works,
    Fails,
    /// It says more about the message or the plugin.
    Nothing,
}

/// What an outcome did to the circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Opened,
    /// It was the probe, and it failed.
    StillOpen,
    Closed,
}

impl Verdict {
    pub(super) fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Done(_) => Self::Works,
            Outcome::Retry { .. } => Self::Fails,
            Outcome::Reject(_) => Self::Nothing,
            Outcome::Fault(fault) => match fault.kind {
                FaultKind::Trap | FaultKind::Timeout => Self::Fails,
                FaultKind::Memory | FaultKind::Limit | FaultKind::Denied => Self::Nothing,
            },
        }
    }
}

impl Circuit {
    /// A circuit for calls that take `timeout` at most.
    pub(super) fn new(rule: manifest::Circuit, timeout: Duration) -> Self {
        Self { rule, patience: timeout + rule.pause, state: State::Closed { failures: 0 } }
    }

    /// What may be read at this time.
    pub(super) fn admit(&mut self, now: Instant) -> Admission {
        let lost = |since: Instant| since + self.patience;
        match self.state {
            State::Closed { .. } => return Admission::All,
            State::Open { until } if now < until => return Admission::NotBefore(until),
            State::Probing { probe: Some((_, since)) } if now < lost(since) => {
                return Admission::NotBefore(lost(since));
            }
            State::Open { .. } | State::Probing { .. } => {}
        }
        self.state = State::Probing { probe: None };
        Admission::One
    }

    /// Takes note of the message that was read as the probe.
    pub(super) fn probe(&mut self, id: MessageId, now: Instant) {
        if let State::Probing { probe: probe @ None } = &mut self.state {
            *probe = Some((id, now));
        }
    }

    /// Takes note of what came of a message.
    ///
    /// While the circuit is open, messages that were read before it opened do not count: they
    /// may have begun when all was well.
    pub(super) fn record(&mut self, id: MessageId, verdict: Verdict, now: Instant) -> Change {
        let open = State::Open { until: now + self.rule.pause };
        let (state, change) = match (self.state, verdict) {
            (State::Closed { failures }, Verdict::Fails) => {
                let failures = failures + 1;
                if failures >= self.rule.failures.get() {
                    (open, Change::Opened)
                } else {
                    (State::Closed { failures }, Change::None)
                }
            }
            (State::Closed { .. }, Verdict::Works) => (State::Closed { failures: 0 }, Change::None),
            (State::Probing { probe: Some((probe, _)) }, verdict) if probe == id => match verdict {
                Verdict::Works => (State::Closed { failures: 0 }, Change::Closed),
                Verdict::Fails => (open, Change::StillOpen),
                Verdict::Nothing => (State::Probing { probe: None }, Change::None),
            },
            (
                state @ (State::Closed { .. } | State::Open { .. } | State::Probing { .. }),
                Verdict::Works | Verdict::Fails | Verdict::Nothing,
            ) => (state, Change::None),
        };
        self.state = state;
        change
    }

    /// What becomes of a probe that failed: it is not buried for being the one that was tried.
    pub(super) fn spare(&self, settlement: Settlement) -> Settlement {
        match settlement {
            Settlement::Bury { error, .. } => Settlement::Later { delay: self.rule.pause, error },
            Settlement::Acknowledge(_) | Settlement::Skip | Settlement::Later { .. } => settlement,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Fault, Reason};
    use proptest::prelude::*;
    use std::num::NonZeroU32;

    const PAUSE: Duration = Duration::from_secs(30);
    const TIMEOUT: Duration = Duration::from_secs(5);

    fn circuit(failures: u32) -> Circuit {
        let failures = NonZeroU32::new(failures).unwrap();
        Circuit::new(manifest::Circuit { failures, pause: PAUSE }, TIMEOUT)
    }

    fn id(sequence: u64) -> MessageId {
        MessageId { millis: 1, sequence }
    }

    /// A circuit that was opened at `now`.
    fn opened(now: Instant) -> Circuit {
        let mut circuit = circuit(1);
        assert_eq!(circuit.record(id(0), Verdict::Fails, now), Change::Opened);
        circuit
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let (mut circuit, now) = (circuit(3), Instant::now());
        for verdict in [Verdict::Fails, Verdict::Fails, Verdict::Works, Verdict::Fails] {
            assert_eq!(circuit.record(id(1), verdict, now), Change::None);
        }
        assert_eq!(circuit.record(id(1), Verdict::Nothing, now), Change::None);
        assert_eq!(circuit.record(id(1), Verdict::Fails, now), Change::None);
        assert_eq!(circuit.admit(now), Admission::All);
        assert_eq!(circuit.record(id(1), Verdict::Fails, now), Change::Opened);
        assert_eq!(circuit.admit(now), Admission::NotBefore(now + PAUSE));
    }

    #[test]
    fn after_the_pause_one_message_decides() {
        let now = Instant::now();
        for (verdict, change) in
            [(Verdict::Works, Change::Closed), (Verdict::Fails, Change::StillOpen)]
        {
            let (mut circuit, later) = (opened(now), now + PAUSE);
            assert_eq!(circuit.admit(later), Admission::One);
            assert_eq!(circuit.admit(later), Admission::One, "none was read yet");
            circuit.probe(id(7), later);
            let patience = Admission::NotBefore(later + TIMEOUT + PAUSE);
            assert_eq!(circuit.admit(later), patience);
            assert_eq!(circuit.record(id(6), verdict, later), Change::None, "not the probe");
            assert_eq!(circuit.record(id(7), verdict, later), change);
        }
    }

    #[test]
    fn a_probe_that_says_nothing_or_is_lost_is_followed_by_another() {
        let now = Instant::now();
        let (mut circuit, later) = (opened(now), now + PAUSE);
        assert_eq!(circuit.admit(later), Admission::One);
        circuit.probe(id(7), later);
        assert_eq!(circuit.record(id(7), Verdict::Nothing, later), Change::None);
        assert_eq!(circuit.admit(later), Admission::One);
        circuit.probe(id(8), later);
        assert_eq!(circuit.admit(later + TIMEOUT + PAUSE), Admission::One);
    }

    #[test]
    fn a_probe_is_not_buried_for_failing() {
        let bury = Settlement::Bury { reason: Reason::Retries, error: "down".into() };
        let later = Settlement::Later { delay: PAUSE, error: "down".into() };
        assert_eq!(circuit(1).spare(bury), later);
        assert_eq!(circuit(1).spare(later.clone()), later);
    }

    #[test]
    fn what_a_message_or_its_plugin_is_to_blame_for_is_no_outage() {
        let verdict = |kind| Verdict::of(&Outcome::Fault(Fault::new(kind, "")));
        assert_eq!(verdict(FaultKind::Timeout), Verdict::Fails);
        assert_eq!(verdict(FaultKind::Trap), Verdict::Fails);
        assert_eq!(verdict(FaultKind::Denied), Verdict::Nothing);
        assert_eq!(Verdict::of(&Outcome::Reject(String::new())), Verdict::Nothing);
        assert_eq!(Verdict::of(&Outcome::Done(Vec::new())), Verdict::Works);
    }

    proptest! {
        /// Whatever happens and however long it takes, it opens after exactly so many failures in
        /// a row, and lets one message through a pause until one succeeds.
        #[test]
        fn it_lets_through_what_its_rule_says(
            failures in 1..5_u32,
            steps in proptest::collection::vec((0..40_u64, 0..3_usize), 1..100),
        ) {
            let mut circuit = circuit(failures);
            let (mut now, mut row) = (Instant::now(), 0);
            let mut opened = None;
            for (at, (wait, verdict)) in steps.into_iter().enumerate() {
                now += Duration::from_secs(wait);
                let verdict = [Verdict::Works, Verdict::Fails, Verdict::Nothing][verdict];
                match (circuit.admit(now), opened) {
                    (Admission::All, None) => {}
                    (Admission::One, Some(since)) => {
                        prop_assert!(now >= since + PAUSE);
                        circuit.probe(id(at as u64), now);
                    }
                    (Admission::NotBefore(until), Some(since)) => {
                        prop_assert_eq!(until, since + PAUSE);
                        prop_assert!(now < until);
                        continue;
                    }
                    (admission, opened) => prop_assert!(false, "{admission:?} {opened:?}"),
                }
                let change = circuit.record(id(at as u64), verdict, now);
                row = match verdict {
                    Verdict::Works => 0,
                    Verdict::Fails => row + 1,
                    Verdict::Nothing => row,
                };
                let expected = match (opened, verdict) {
                    (None, Verdict::Fails) if row == failures => Change::Opened,
                    (Some(_), Verdict::Fails) => Change::StillOpen,
                    (Some(_), Verdict::Works) => Change::Closed,
                    _ => Change::None,
                };
                prop_assert_eq!(change, expected);
                opened = match change {
                    Change::Opened | Change::StillOpen => Some(now),
                    Change::Closed => None,
                    Change::None => opened,
                };
            }
        }
    }
}
