//! What came of handling a message, and what the stream should remember of it.
//!
//! The decision is pure: outcome, attempt and one random draw in, settlement
//! out. Running the plugin is the sandbox's, obeying the settlement the broker's.

use std::fmt;
use std::time::Duration;

use crate::message::{Attempt, Field};

/// Something a handler asks the host to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Append an entry in the same step as the acknowledgement.
    Append(Entry),
    /// Publish a notice once the message is acknowledged.
    Publish(Notice),
}

/// An entry to append to a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The stream to append to.
    pub stream: String,
    /// Its fields, in order.
    pub fields: Vec<Field>,
    /// How long to wait before it appears; `None` for at once.
    pub delay: Option<Duration>,
}

/// A message for whoever subscribes to a channel at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The channel to publish on.
    pub channel: String,
    /// What subscribers receive.
    pub payload: Vec<u8>,
}

/// What came of running a handler on one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was handled; these outputs are to be written.
    Done(Vec<Output>),
    /// The handler wants it again, after its own delay or the handler's backoff.
    Retry {
        /// The handler's words.
        reason: String,
        /// The delay it asked for, if it did.
        delay: Option<Duration>,
    },
    /// The handler never wants to see it again; its words.
    Reject(String),
    /// The plugin broke, or asked for what it was not granted.
    Fault(Fault),
}

impl Outcome {
    /// The word for this outcome in logs and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Retry { .. } => "retry",
            Self::Reject(_) => "reject",
            Self::Fault(fault) => fault.kind.reason().as_str(),
        }
    }
}

/// How a plugin broke, for the log and the dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which limit or rule it met.
    pub kind: FaultKind,
    /// What happened in a sentence, without the guest's backtrace.
    pub detail: String,
    /// The guest's backtrace, where there is one.
    pub backtrace: Option<String>,
}

impl Fault {
    /// A fault without a backtrace.
    pub fn new(kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), backtrace: None }
    }
}

/// The kinds of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The guest trapped, or answered what the contract does not allow.
    Trap,
    /// The guest ran past its handler's `timeout`.
    Timeout,
    /// The guest needed more than its handler's `memory`.
    Memory,
    /// The guest went past another limit, such as the size of its outputs.
    Limit,
    /// The guest asked for an output that its handler is not granted.
    Denied,
}

impl FaultKind {
    /// The reason a message is buried with when this fault ends its attempts.
    pub fn reason(self) -> Reason {
        match self {
            Self::Trap => Reason::Trap,
            Self::Timeout => Reason::Timeout,
            Self::Memory => Reason::Memory,
            Self::Limit => Reason::Limit,
            Self::Denied => Reason::Denied,
        }
    }
}

/// Why a message was buried: the `tidegate.reason` of its dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The handler rejected it.
    Reject,
    /// The handler asked to retry it until its attempts ran out.
    Retries,
    /// The last attempt trapped.
    Trap,
    /// The last attempt ran out of time.
    Timeout,
    /// The last attempt ran out of memory.
    Memory,
    /// The last attempt went past another limit.
    Limit,
    /// It asked for an output outside its grants.
    Denied,
    /// It could not be handed to a plugin, such as for a field name that is not UTF-8.
    Undecodable,
    /// Someone trimmed its body before it was handled.
    Trimmed,
}

impl Reason {
    /// Every reason, in the order in which tables show them.
    pub const ALL: [Self; 9] = [
        Self::Reject,
        Self::Retries,
        Self::Trap,
        Self::Timeout,
        Self::Memory,
        Self::Limit,
        Self::Denied,
        Self::Undecodable,
        Self::Trimmed,
    ];

    /// The word that stands in dead letters, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Retries => "retries",
            Self::Trap => "trap",
            Self::Timeout => "timeout",
            Self::Memory => "memory",
            Self::Limit => "limit",
            Self::Denied => "denied",
            Self::Undecodable => "undecodable",
            Self::Trimmed => "trimmed",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the stream should remember of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Write these outputs and acknowledge the message, in one step.
    Acknowledge(Vec<Output>),
    /// Acknowledge a message that the handler did not ask for, unseen.
    Skip,
    /// Count a failure and deliver the message again after a delay.
    Later {
        /// How long to wait.
        delay: Duration,
        /// Why, for `status` and the log.
        error: String,
    },
    /// Move the message to the dead-letter stream.
    Bury {
        /// The word for why.
        reason: Reason,
        /// The sentence for why.
        error: String,
    },
}

/// How often and how soon a failed message is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryRule {
    /// Attempts in all, the first included; at least 1.
    pub attempts: u32,
    /// The longest wait before the second attempt; it doubles with each further one.
    pub first: Duration,
    /// The longest wait of all.
    pub max: Duration,
}

/// One draw in `0.0..1.0`, made by the caller so that the rule stays a function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw(pub f64);

impl RetryRule {
    /// Decides what the stream should remember of an attempt.
    ///
    /// A wish to retry and a broken plugin both cost an attempt; a rejection and
    /// an output outside the grants end them at once, as trying again would
    /// change nothing.
    pub fn settle(&self, outcome: Outcome, attempt: Attempt, draw: Draw) -> Settlement {
        match outcome {
            Outcome::Done(outputs) => Settlement::Acknowledge(outputs),
            Outcome::Reject(error) => Settlement::Bury { reason: Reason::Reject, error },
            Outcome::Retry { reason, delay } => {
                let delay = delay.unwrap_or_else(|| self.backoff(attempt, draw));
                self.again(attempt, delay, Reason::Retries, reason)
            }
            Outcome::Fault(Fault { kind: FaultKind::Denied, detail, .. }) => {
                Settlement::Bury { reason: Reason::Denied, error: detail }
            }
            Outcome::Fault(Fault { kind, detail, .. }) => {
                self.again(attempt, self.backoff(attempt, draw), kind.reason(), detail)
            }
        }
    }

    fn again(
        &self,
        attempt: Attempt,
        delay: Duration,
        reason: Reason,
        error: String,
    ) -> Settlement {
        if attempt.number() < self.attempts {
            Settlement::Later { delay, error }
        } else {
            Settlement::Bury { reason, error }
        }
    }

    /// Exponential backoff with full jitter: anywhere between nothing and the
    /// doubled wait, so that messages which failed together do not return together.
    fn backoff(&self, attempt: Attempt, draw: Draw) -> Duration {
        let doublings = (attempt.number() - 1).min(31);
        let ceiling = self.first.saturating_mul(1 << doublings).min(self.max);
        ceiling.mul_f64(draw.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULE: RetryRule =
        RetryRule { attempts: 3, first: Duration::from_secs(1), max: Duration::from_secs(3) };

    fn fault(kind: FaultKind) -> Outcome {
        Outcome::Fault(Fault::new(kind, "why"))
    }

    fn nth(number: u32) -> Attempt {
        Attempt::after_failures(number - 1)
    }

    #[test]
    fn a_handled_message_is_acknowledged_on_any_attempt() {
        for attempt in [nth(1), nth(3), nth(99)] {
            let settled = RULE.settle(Outcome::Done(vec![]), attempt, Draw(0.5));
            assert_eq!(settled, Settlement::Acknowledge(vec![]));
        }
    }

    #[test]
    fn a_rejection_and_a_denied_output_are_buried_at_once() {
        let rejected = RULE.settle(Outcome::Reject("bad".into()), nth(1), Draw(0.5));
        assert_eq!(rejected, Settlement::Bury { reason: Reason::Reject, error: "bad".into() });
        let denied = RULE.settle(fault(FaultKind::Denied), nth(1), Draw(0.5));
        assert_eq!(denied, Settlement::Bury { reason: Reason::Denied, error: "why".into() });
    }

    #[test]
    fn the_last_attempt_buries_with_the_reason_of_its_failure() {
        let cases = [
            (Outcome::Retry { reason: "why".into(), delay: None }, Reason::Retries),
            (fault(FaultKind::Trap), Reason::Trap),
            (fault(FaultKind::Timeout), Reason::Timeout),
            (fault(FaultKind::Memory), Reason::Memory),
            (fault(FaultKind::Limit), Reason::Limit),
        ];
        for (outcome, reason) in cases {
            let early = RULE.settle(outcome.clone(), nth(2), Draw(0.5));
            assert!(matches!(early, Settlement::Later { .. }), "{reason}: {early:?}");
            let last = RULE.settle(outcome, nth(3), Draw(0.5));
            assert_eq!(last, Settlement::Bury { reason, error: "why".into() });
        }
    }

    #[test]
    fn the_wait_doubles_up_to_its_maximum() {
        let all = Draw(1.0);
        let waits: Vec<u64> =
            (1..=4).map(|n| RULE.backoff(nth(n), all).as_millis() as u64).collect();
        assert_eq!(waits, [1000, 2000, 3000, 3000]);
    }

    #[test]
    fn a_delay_the_handler_asked_for_is_kept_as_it_is() {
        let week = Duration::from_secs(7 * 24 * 3600);
        let asked = Outcome::Retry { reason: "closed".into(), delay: Some(week) };
        let settled = RULE.settle(asked, nth(1), Draw(0.1));
        assert_eq!(settled, Settlement::Later { delay: week, error: "closed".into() });
    }

    proptest! {
        #[test]
        fn a_wait_is_never_longer_than_its_maximum(failures in 0u32.., draw in 0.0f64..1.0) {
            let attempt = Attempt::after_failures(failures);
            prop_assert!(RULE.backoff(attempt, Draw(draw)) <= RULE.max);
        }
    }
}
