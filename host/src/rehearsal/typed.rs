//! A fixture file as it is typed, in TOML or in JSON of the same shape.
//!
//! The doc comments of the fields are the reference that docs/testing.md
//! explains. What several keys must be together is checked here too; what a
//! manifest has to say about it is for `fixture`.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::expected::{Expectation, Expected, Outcome};
use crate::manifest;
use crate::message::MessageId;

/// A file of cases.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedFixture {
    /// The handler of all cases. May be left out where there is only one to be meant.
    pub(super) handler: Option<String>,
    /// The cases, in the order in which they are run.
    pub(super) case: Vec<Case>,
}

/// Messages, what the world is like, and what should come of it.
#[derive(Debug, serde::Deserialize)]
#[serde(try_from = "TypedCase")]
pub(super) struct Case {
    pub(super) name: String,
    /// At least one.
    pub(super) messages: Vec<TypedMessage>,
    pub(super) keyvalue: Option<BTreeMap<String, Value>>,
    pub(super) config: Option<BTreeMap<String, String>>,
    /// With as many outcomes as there are messages.
    pub(super) expect: Expectation,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedCase {
    /// A sentence that says what is promised.
    name: String,
    /// The message to handle.
    message: Option<TypedMessage>,
    /// In place of one message several, for one instance, in this order; a batch for a batch plugin.
    messages: Option<Vec<TypedMessage>>,
    /// What is below the handler's prefix before the first message.
    keyvalue: Option<BTreeMap<String, Value>>,
    /// What is in the handler's configuration.
    config: Option<BTreeMap<String, String>>,
    /// What should come of it.
    expect: Expectation,
}

impl TryFrom<TypedCase> for Case {
    type Error = String;

    fn try_from(typed: TypedCase) -> Result<Self, String> {
        let TypedCase { name, message, messages, keyvalue, config, expect } = typed;
        let messages = match (message, messages) {
            (Some(message), None) => vec![message],
            (None, Some(messages)) if !messages.is_empty() => messages,
            _ => return Err(format!("case {name:?}: expected either `message` or `messages`")),
        };
        let (sent, expected) = (messages.len(), expect.outcomes.len());
        if sent != expected {
            return Err(format!(
                "case {name:?}: {sent} in `messages` and {expected} expected; \
                 `expect.each` has one for each message"
            ));
        }
        Ok(Self { name, messages, keyvalue, config, expect })
    }
}

/// A message as a stream would hold it.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedMessage {
    /// Its id; `1-0` for the first and `2-0` for the second, if left out.
    pub(super) id: Option<Parsed<MessageId>>,
    /// Where it was read; the handler's stream or channel, if left out.
    pub(super) stream: Option<String>,
    /// Which attempt it is; the first, if left out.
    pub(super) attempt: Option<NonZeroU32>,
    /// Its fields.
    pub(super) fields: Fields,
}

/// A table of names and values, or an array of pairs of them, for names that repeat.
#[derive(Debug)]
pub(super) struct Fields(pub(super) Vec<(String, Value)>);

/// A string, or bytes as `{ base64 = "…" }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<Value> for Vec<u8> {
    fn from(value: Value) -> Self {
        match value {
            Value::Text(text) => text.into_bytes(),
            Value::Bytes(bytes) => bytes,
        }
    }
}

/// What should come of a case.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedExpectation {
    /// What the handler asks to be written, in this order.
    outputs: Option<Vec<Expected>>,
    /// It asks for a retry, for this reason.
    retry: Option<String>,
    /// With `retry`: the delay that it asks for.
    after: Option<Span>,
    /// It rejects the message, for this reason.
    reject: Option<String>,
    /// It breaks: `trap`, `timeout`, `memory`, `limit` or `denied`.
    fault: Option<FaultWord>,
    /// With `fault`: a part of the sentence that says how.
    detail: Option<String>,
    /// The handler's `match` does not ask for the message.
    skipped: Option<bool>,
    /// What should come of each of `messages`.
    each: Option<Vec<TypedExpectation>>,
    /// Everything below the handler's prefix after the last message.
    keyvalue: Option<BTreeMap<String, Value>>,
}

/// The kinds of fault, as the dead letter would say them.
#[derive(Debug, Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum FaultWord {
    Trap,
    Timeout,
    Memory,
    Limit,
    Denied,
}

impl TypedExpectation {
    /// All of it, for a case.
    pub(super) fn of_case(mut self) -> Result<Expectation, String> {
        let keyvalue = self.keyvalue.take();
        let outcomes = match self.each.take() {
            None => vec![self.of_message()?],
            Some(each) => {
                if self.is_said() {
                    return Err("`each` has what should come of the messages; nothing but \
                                `keyvalue` can stand beside it"
                        .to_owned());
                }
                each.into_iter().map(Self::of_message).collect::<Result<_, _>>()?
            }
        };
        let wanted = |(key, value): (String, Value)| (key, value.into());
        let keyvalue = keyvalue.map(|pairs| pairs.into_iter().map(wanted).collect());
        Ok(Expectation { outcomes, keyvalue })
    }

    fn is_said(&self) -> bool {
        let Self { outputs, retry, after, reject, fault, detail, skipped, each: _, keyvalue: _ } =
            self;
        let words = [retry, reject, detail].into_iter().any(Option::is_some);
        words || outputs.is_some() || after.is_some() || fault.is_some() || skipped.is_some()
    }

    fn of_message(self) -> Result<Outcome, String> {
        let Self { outputs, retry, after, reject, fault, detail, skipped, each, keyvalue } = self;
        if each.is_some() || keyvalue.is_some() {
            return Err("`each` and `keyvalue` belong right below `expect`".to_owned());
        }
        let after = after.map(|span| span.0);
        match (outputs, (retry, after), reject, (fault, detail), skipped) {
            (Some(outputs), (None, None), None, (None, None), None) => Ok(Outcome::Done(outputs)),
            (None, (Some(reason), after), None, (None, None), None) => {
                Ok(Outcome::Retry { reason, after })
            }
            (None, (None, None), Some(reason), (None, None), None) => Ok(Outcome::Reject(reason)),
            (None, (None, None), None, (Some(word), detail), None) => {
                Ok(Outcome::Fault { kind: word.into(), detail })
            }
            (None, (None, None), None, (None, None), Some(true)) => Ok(Outcome::Skipped),
            _ => Err("expected exactly one of `outputs`, `retry` (with `after`), `reject`, \
                      `fault` (with `detail`) and `skipped = true`"
                .to_owned()),
        }
    }
}

/// An output that is expected.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedOutput {
    /// The stream of an entry.
    pub(super) stream: Option<String>,
    /// Its fields, all of them; any, if left out.
    pub(super) fields: Option<Fields>,
    /// How long it waits; not at all, if left out.
    pub(super) delay: Option<Span>,
    /// The channel of a notice.
    pub(super) channel: Option<String>,
    /// Its payload; any, if left out.
    pub(super) payload: Option<Value>,
}

/// A duration such as `5s`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span(pub(super) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = || format!("expected a duration such as \"5s\", found {text:?}");
        manifest::duration(&text).map(Self).ok_or_else(|| de::Error::custom(wrong()))
    }
}

/// What is written as a string of its own form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parsed<T>(pub(super) T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(Self).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Encoded {
    base64: String,
}

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, or { base64 = \"…\" } for bytes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        let Encoded { base64 } = Encoded::deserialize(MapAccessDeserializer::new(map))?;
        let wrong = |error| de::Error::custom(format!("not base64: {error}"));
        STANDARD.decode(base64).map(Value::Bytes).map_err(wrong)
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of fields, or an array of [name, value] pairs")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Fields(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pairs: A) -> Result<Fields, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = pairs.next_element()? {
            fields.push(field);
        }
        Ok(Fields(fields))
    }
}
