//! From raw replies to messages.
//!
//! The crate's typed stream replies fail a whole batch for one name that is not
//! UTF-8, and lose the order and repetition of fields; so replies are walked as
//! they came, moving each value out instead of copying it.

use std::sync::Arc;

use redis::Value;

use crate::message::{Field, Message, MessageId};

/// A reply that is not of the shape its command's documentation gives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server answered {command} with an unexpected {found}")]
pub struct UnexpectedReply {
    command: &'static str,
    found: &'static str,
}

impl UnexpectedReply {
    pub(super) fn new(command: &'static str, found: &Value) -> Self {
        Self { command, found: kind(found) }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Int(_) => "integer",
        Value::BulkString(_) | Value::SimpleString(_) | Value::Okay => "string",
        Value::Array(_) | Value::Set(_) => "array",
        Value::Map(_) => "map",
        _ => "value",
    }
}

/// An entry as it stands in a reply: its fields are missing where its body was trimmed.
#[derive(Debug, PartialEq)]
pub(super) struct RawEntry {
    pub id: MessageId,
    pub fields: Option<Vec<Field>>,
}

impl RawEntry {
    /// The message, or the id of one whose body is gone.
    pub(super) fn into_message(self, stream: &Arc<str>) -> Result<Message, MessageId> {
        let fields = self.fields.ok_or(self.id)?;
        Ok(Message { id: self.id, stream: stream.clone(), fields })
    }
}

/// The entries of an `XREADGROUP` of one stream: an array (RESP2) or a map (RESP3); nil for none.
pub(super) fn read_group(reply: Value) -> Result<Vec<RawEntry>, UnexpectedReply> {
    const COMMAND: &str = "XREADGROUP";
    let listed = match reply {
        Value::Nil => return Ok(Vec::new()),
        Value::Map(streams) => streams.into_iter().next().map(|(_, entries)| entries),
        Value::Array(streams) => match streams.into_iter().next() {
            Some(Value::Array(pair)) => pair.into_iter().nth(1),
            Some(other) => return Err(UnexpectedReply::new(COMMAND, &other)),
            None => None,
        },
        other => return Err(UnexpectedReply::new(COMMAND, &other)),
    };
    listed.map_or(Ok(Vec::new()), |entries| self::entries(COMMAND, entries))
}

/// A list of entries, as `XRANGE` gives it.
pub(super) fn entries(
    command: &'static str,
    reply: Value,
) -> Result<Vec<RawEntry>, UnexpectedReply> {
    array(command, reply)?.into_iter().map(|entry| self::entry(command, entry)).collect()
}

fn entry(command: &'static str, reply: Value) -> Result<RawEntry, UnexpectedReply> {
    let mut parts = array(command, reply)?.into_iter();
    let id = id(command, &parts.next().unwrap_or_default())?;
    let fields = match parts.next().unwrap_or_default() {
        Value::Nil => None,
        listed => Some(self::fields(command, listed)?),
    };
    Ok(RawEntry { id, fields })
}

pub(super) fn fields(command: &'static str, reply: Value) -> Result<Vec<Field>, UnexpectedReply> {
    let flat = array(command, reply)?;
    let mut fields = Vec::with_capacity(flat.len() / 2);
    let mut flat = flat.into_iter();
    while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
        fields.push(Field { name: bytes(command, name)?, value: bytes(command, value)? });
    }
    Ok(fields)
}

/// Names and values, flat (RESP2) or as a map (RESP3), such as `HGETALL` gives them.
pub(super) fn pairs(command: &'static str, reply: Value) -> Result<Vec<Field>, UnexpectedReply> {
    let Value::Map(pairs) = reply else { return fields(command, reply) };
    let field =
        |(name, value)| Ok(Field { name: bytes(command, name)?, value: bytes(command, value)? });
    pairs.into_iter().map(field).collect()
}

pub(super) fn array(command: &'static str, reply: Value) -> Result<Vec<Value>, UnexpectedReply> {
    match reply {
        Value::Array(items) => Ok(items),
        Value::Nil => Ok(Vec::new()),
        other => Err(UnexpectedReply::new(command, &other)),
    }
}

pub(super) fn bytes(command: &'static str, reply: Value) -> Result<Vec<u8>, UnexpectedReply> {
    match reply {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        Value::Int(number) => Ok(number.to_string().into_bytes()),
        other => Err(UnexpectedReply::new(command, &other)),
    }
}

pub(super) fn text(command: &'static str, reply: Value) -> Result<String, UnexpectedReply> {
    Ok(String::from_utf8_lossy(&bytes(command, reply)?).into_owned())
}

pub(super) fn integer(command: &'static str, reply: &Value) -> Result<i64, UnexpectedReply> {
    match reply {
        Value::Int(number) => Ok(*number),
        other => Err(UnexpectedReply::new(command, other)),
    }
}

/// The number that digits stand for, such as a score; 0 for what is none.
pub(super) fn number(digits: &[u8]) -> u64 {
    std::str::from_utf8(digits).ok().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) as u64
}

/// The answer to `TIME`, in milliseconds.
pub(super) fn server_millis(answer: Value) -> Result<u64, UnexpectedReply> {
    let mut parts = array("TIME", answer)?.into_iter();
    let mut part = || bytes("TIME", parts.next().unwrap_or_default());
    let (seconds, micros) = (number(&part()?), number(&part()?));
    Ok(seconds.saturating_mul(1000).saturating_add(micros / 1000))
}

pub(super) fn id(command: &'static str, reply: &Value) -> Result<MessageId, UnexpectedReply> {
    let Value::BulkString(bytes) = reply else {
        return Err(UnexpectedReply::new(command, reply));
    };
    let parsed = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| UnexpectedReply::new(command, reply))
}

/// A row of `XINFO`: pairs of names and values, flat (RESP2) or as a map (RESP3).
#[derive(Debug)]
pub(super) struct Row(Vec<(Value, Value)>);

impl Row {
    pub(super) fn new(command: &'static str, reply: Value) -> Result<Self, UnexpectedReply> {
        match reply {
            Value::Map(pairs) => Ok(Self(pairs)),
            other => {
                let mut flat = array(command, other)?.into_iter();
                let pairs = std::iter::from_fn(|| Some((flat.next()?, flat.next()?)));
                Ok(Self(pairs.collect()))
            }
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        let matches = |key: &Value| matches!(key, Value::BulkString(k) if k == name.as_bytes());
        self.0.iter().find(|(key, _)| matches(key)).map(|(_, value)| value)
    }

    /// The number under `name`; absent where the server cannot tell it.
    pub(super) fn number(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The text under `name`.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        match self.get(name)? {
            Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }
}

/// The rows of an `XINFO GROUPS` or `XINFO CONSUMERS`.
pub(super) fn rows(command: &'static str, reply: Value) -> Result<Vec<Row>, UnexpectedReply> {
    array(command, reply)?.into_iter().map(|row| Row::new(command, row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bulk(text: &[u8]) -> Value {
        Value::BulkString(text.to_vec())
    }

    fn list(items: Vec<Value>) -> Value {
        Value::Array(items)
    }

    #[test]
    fn order_repetition_and_bytes_of_fields_are_kept() {
        let raw = [b"b".as_slice(), b"1", b"a", b"\xff\x00", b"b", b""];
        let entry = list(vec![bulk(b"5-1"), list(raw.map(bulk).to_vec())]);
        let reply = list(vec![list(vec![bulk(b"s"), list(vec![entry])])]);
        let read = read_group(reply).unwrap();
        let expected =
            vec![Field::new("b", "1"), Field::new("a", [0xff, 0x00]), Field::new("b", "")];
        assert_eq!(read, [RawEntry { id: "5-1".parse().unwrap(), fields: Some(expected) }]);
    }

    #[test]
    fn both_protocols_read_alike_and_nothing_is_nothing() {
        let entries = || list(vec![list(vec![bulk(b"1-0"), list(vec![bulk(b"f"), bulk(b"v")])])]);
        let resp2 = list(vec![list(vec![bulk(b"s"), entries()])]);
        let resp3 = Value::Map(vec![(bulk(b"s"), entries())]);
        assert_eq!(read_group(resp2).unwrap(), read_group(resp3).unwrap());
        assert_eq!(read_group(Value::Nil).unwrap(), []);
    }

    #[test]
    fn a_trimmed_body_is_not_an_empty_message() {
        let entry = list(vec![bulk(b"1-0"), Value::Nil]);
        let reply = list(vec![list(vec![bulk(b"s"), list(vec![entry])])]);
        let read = read_group(reply).unwrap().remove(0);
        assert_eq!(read.into_message(&"s".into()), Err("1-0".parse().unwrap()));
    }

    #[test]
    fn a_figure_that_the_server_cannot_give_is_absent() {
        let row = list(vec![bulk(b"name"), bulk(b"g"), bulk(b"lag"), Value::Nil]);
        let row = Row::new("XINFO", row).unwrap();
        assert_eq!(row.text("name").as_deref(), Some("g"));
        assert_eq!(row.number("lag"), None);
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            any::<i64>().prop_map(Value::Int),
            any::<Vec<u8>>().prop_map(Value::BulkString),
            Just(Value::BulkString(b"1-1".to_vec())),
        ];
        leaf.prop_recursive(4, 64, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
                proptest::collection::vec((inner.clone(), inner), 0..3).prop_map(Value::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_reply_however_odd_panics(reply in any_value()) {
            let _ = read_group(reply.clone());
            let _ = entries("XRANGE", reply.clone());
            let _ = rows("XINFO GROUPS", reply);
        }
    }
}
