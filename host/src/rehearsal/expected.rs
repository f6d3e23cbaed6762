//! What is expected of a case, and whether what came is that. Pure.
//!
//! How the two are shown side by side is `shown`'s.

use std::collections::BTreeMap;
use std::time::Duration;

use super::typed::{FaultWord, Fields, TypedExpectation, TypedOutput, Value};
use crate::message::Field;
use crate::outcome::{self, Entry, FaultKind, Notice, Output};

/// What stands for any text or value.
const ANY: &str = "*";

/// What came of a message; nothing for one that `match` did not ask for.
pub(super) type Came = Option<outcome::Outcome>;

/// What should come of a case.
#[derive(Debug, serde::Deserialize)]
#[serde(try_from = "TypedExpectation")]
pub(super) struct Expectation {
    /// Of each message.
    pub(super) outcomes: Vec<Outcome>,
    /// What should be below the handler's prefix in the end; not looked at if this is none.
    pub(super) keyvalue: Option<BTreeMap<String, Wanted>>,
}

impl TryFrom<TypedExpectation> for Expectation {
    type Error = String;

    fn try_from(typed: TypedExpectation) -> Result<Self, String> {
        typed.of_case()
    }
}

/// What should come of a message.
#[derive(Debug)]
pub(super) enum Outcome {
    Done(Vec<Expected>),
    Retry { reason: String, after: Option<Duration> },
    Reject(String),
    Fault { kind: FaultKind, detail: Option<String> },
    Skipped,
}

/// An output that should come.
#[derive(Debug, serde::Deserialize)]
#[serde(try_from = "TypedOutput")]
pub(super) enum Expected {
    Append { stream: String, fields: Option<Vec<(String, Wanted)>>, delay: Option<Duration> },
    Publish { channel: String, payload: Option<Wanted> },
}

/// A value that should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    Any,
    This(Vec<u8>),
}

impl From<Value> for Wanted {
    fn from(value: Value) -> Self {
        match value {
            Value::Text(text) if text == ANY => Self::Any,
            value @ (Value::Text(_) | Value::Bytes(_)) => Self::This(value.into()),
        }
    }
}

impl From<FaultWord> for FaultKind {
    fn from(word: FaultWord) -> Self {
        match word {
            FaultWord::Trap => Self::Trap,
            FaultWord::Timeout => Self::Timeout,
            FaultWord::Memory => Self::Memory,
            FaultWord::Limit => Self::Limit,
            FaultWord::Denied => Self::Denied,
        }
    }
}

impl TryFrom<TypedOutput> for Expected {
    type Error = &'static str;

    fn try_from(typed: TypedOutput) -> Result<Self, Self::Error> {
        let wanted = |Fields(fields)| -> Vec<(String, Wanted)> {
            fields.into_iter().map(|(name, value): (String, Value)| (name, value.into())).collect()
        };
        match typed {
            TypedOutput { stream: Some(stream), fields, delay, channel: None, payload: None } => {
                let delay = delay.map(|span| span.0);
                Ok(Self::Append { stream, fields: fields.map(wanted), delay })
            }
            TypedOutput {
                channel: Some(channel),
                payload,
                stream: None,
                fields: None,
                delay: None,
            } => Ok(Self::Publish { channel, payload: payload.map(Wanted::from) }),
            _ => Err("an output is either `stream` with `fields` and `delay`, \
                      or `channel` with `payload`"),
        }
    }
}

impl Outcome {
    /// Whether what came is what should.
    pub(super) fn is(&self, came: &Came) -> bool {
        match (self, came) {
            (Self::Skipped, None) => true,
            (Self::Done(expected), Some(outcome::Outcome::Done(outputs))) => {
                expected.len() == outputs.len()
                    && expected.iter().zip(outputs).all(|(expected, output)| expected.is(output))
            }
            (
                Self::Retry { reason, after },
                Some(outcome::Outcome::Retry { reason: said, delay }),
            ) => is_said(reason, said) && after == delay,
            (Self::Reject(reason), Some(outcome::Outcome::Reject(said))) => is_said(reason, said),
            (Self::Fault { kind, detail }, Some(outcome::Outcome::Fault(fault))) => {
                *kind == fault.kind
                    && detail.as_ref().is_none_or(|part| fault.detail.contains(part))
            }
            (
                Self::Done(_)
                | Self::Retry { .. }
                | Self::Reject(_)
                | Self::Fault { .. }
                | Self::Skipped,
                _,
            ) => false,
        }
    }
}

impl Expected {
    /// Whether this output is it.
    pub(super) fn is(&self, output: &Output) -> bool {
        match (self, output) {
            (Self::Append { stream, fields, delay }, Output::Append(entry)) => {
                *stream == entry.stream
                    && waits(*delay) == waits(entry.delay)
                    && fields.as_ref().is_none_or(|fields| are(fields, entry))
            }
            (
                Self::Publish { channel, payload },
                Output::Publish(Notice { channel: on, payload: sent }),
            ) => channel == on && payload.as_ref().is_none_or(|payload| payload.is(sent)),
            (Self::Append { .. } | Self::Publish { .. }, _) => false,
        }
    }
}

/// No delay and one of nothing are the same.
fn waits(delay: Option<Duration>) -> Duration {
    delay.unwrap_or_default()
}

fn are(expected: &[(String, Wanted)], entry: &Entry) -> bool {
    expected.len() == entry.fields.len()
        && expected.iter().zip(&entry.fields).all(|(expected, field)| is_field(expected, field))
}

/// Whether a field has this name and value.
pub(super) fn is_field((name, value): &(String, Wanted), field: &Field) -> bool {
    name.as_bytes() == field.name && value.is(&field.value)
}

impl Wanted {
    /// Whether these bytes are it. JSON objects and arrays are compared as such: neither
    /// their layout nor the order of their keys counts.
    pub(super) fn is(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::This(wanted) if wanted == bytes => true,
            Self::This(wanted) => json(wanted).is_some_and(|wanted| Some(wanted) == json(bytes)),
        }
    }
}

fn is_said(expected: &str, said: &str) -> bool {
    expected == ANY || expected == said
}

/// The JSON object or array that a value is.
pub(super) fn json(bytes: &[u8]) -> Option<serde_json::Value> {
    if !matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'[')) {
        return None;
    }
    serde_json::from_slice(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Wanted {
        Value::Text(text.to_owned()).into()
    }

    #[test]
    fn json_is_compared_by_what_it_says_and_all_else_by_its_bytes() {
        assert!(wanted(r#"{"a": 1, "b": [1, 2]}"#).is(br#"{"b":[1,2],"a":1}"#));
        assert!(!wanted(r#"{"a": [1, 2]}"#).is(br#"{"a":[2,1]}"#), "order counts in an array");
        assert!(!wanted("1.0").is(b"1"), "a number by itself is a text");
        assert!(!wanted("{not json").is(b"{ not json"));
    }

    #[test]
    fn a_star_is_any_value_and_its_bytes_are_a_star() {
        assert!(wanted("*").is(b"anything"));
        let star = Wanted::from(Value::Bytes(b"*".to_vec()));
        assert!(star.is(b"*"));
        assert!(!star.is(b"anything"));
    }

    #[test]
    fn an_entry_without_a_delay_is_one_that_appears_at_once() {
        let expected =
            Expected::Append { stream: "s".into(), fields: None, delay: Some(Duration::ZERO) };
        let entry = Entry { stream: "s".into(), fields: Vec::new(), delay: None };
        assert!(expected.is(&Output::Append(entry)));
    }
}
