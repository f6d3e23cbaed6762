//! From what was typed to the fields of a message.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::message::Field;

/// Reads `FIELD=VALUE`; the value may hold further `=` and any bytes.
pub(super) fn argument(argument: OsString) -> Result<Field, String> {
    let mut bytes = argument.into_vec();
    let equals = bytes.iter().position(|byte| *byte == b'=').filter(|at| *at > 0);
    let equals = equals.ok_or("expected FIELD=VALUE, such as sku=A-1")?;
    let value = bytes.split_off(equals + 1);
    bytes.truncate(equals);
    Ok(Field::new(bytes, value))
}

/// How a text becomes a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    /// It is a JSON object, whose members become fields.
    Object,
    /// All of it is the value of this field.
    Whole(String),
}

impl Shape {
    /// The message of a JSON text.
    pub(super) fn json(&self, text: &[u8]) -> Result<Vec<Field>, Mistake> {
        match self {
            Self::Object => object(text),
            Self::Whole(name) => {
                let _: IgnoredAny = serde_json::from_slice(text)?;
                Ok(vec![Field::new(name.as_str(), text)])
            }
        }
    }

    /// The message of a line; none for a blank one, unless it goes whole in a field.
    pub(super) fn line(&self, line: &[u8]) -> Result<Option<Vec<Field>>, Mistake> {
        match self {
            Self::Object if line.trim_ascii().is_empty() => Ok(None),
            Self::Object => object(line).map(Some),
            Self::Whole(name) => Ok(Some(vec![Field::new(name.as_str(), line)])),
        }
    }
}

/// What is wrong with a text, and the column where that shows, if it is at one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    column: Option<usize>,
    problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.column {
            Some(column) => write!(f, "{column}: {}", self.problem),
            None => write!(f, " {}", self.problem),
        }
    }
}

impl From<serde_json::Error> for Mistake {
    fn from(error: serde_json::Error) -> Self {
        let place = format!(" at line {} column {}", error.line(), error.column());
        let problem = error.to_string().replace(&place, "");
        let column = (error.column() > 0).then_some(error.column());
        Self { column, problem }
    }
}

const REMEDY: &str =
    "a message is a JSON object such as {\"sku\":\"A-1\"}, or any text with --field NAME";

fn object(text: &[u8]) -> Result<Vec<Field>, Mistake> {
    let Members(fields) = serde_json::from_slice(text).map_err(|error| {
        let Mistake { column, problem } = error.into();
        Mistake { column, problem: format!("{problem}; {REMEDY}") }
    })?;
    if fields.is_empty() {
        return Err(Mistake { column: None, problem: "a message needs a field".to_owned() });
    }
    Ok(fields)
}

/// The members of a JSON object, in order and with repetition, as a map would not keep them.
struct Members(Vec<Field>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Reading)
    }
}

struct Reading;

impl<'de> Visitor<'de> for Reading {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            let value = value.get();
            // Text as it was typed: a number keeps its digits, an object its order.
            let value = if value.starts_with('"') {
                serde_json::from_str(value).map_err(serde::de::Error::custom)?
            } else {
                value.to_owned()
            };
            fields.push(Field::new(name, value));
        }
        Ok(Members(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn typed(text: &str) -> Result<Field, String> {
        argument(OsString::from(text))
    }

    #[test]
    fn an_argument_ends_its_name_at_the_first_equals_sign() {
        assert_eq!(typed("a=b=c"), Ok(Field::new("a", "b=c")));
        assert_eq!(typed("a="), Ok(Field::new("a", "")));
        assert_eq!(argument(OsString::from_vec(b"a=\xff".to_vec())), Ok(Field::new("a", [0xff])));
        assert!(typed("a").is_err() && typed("=b").is_err() && typed("").is_err());
    }

    #[test]
    fn an_objects_members_keep_their_order_their_repetition_and_their_digits() {
        let text =
            r#"{"b":"x\ny", "a":1.10, "b":null, "c": {"z": 1, "y": [12345678901234567890123]}}"#;
        let expected = [
            Field::new("b", "x\ny"),
            Field::new("a", "1.10"),
            Field::new("b", "null"),
            Field::new("c", r#"{"z": 1, "y": [12345678901234567890123]}"#),
        ];
        assert_eq!(Shape::Object.json(text.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn a_text_that_is_no_object_is_refused_with_the_column_and_the_remedy() {
        let said = |text: &str| Shape::Object.json(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(said("hello"), format!("1: expected value; {REMEDY}"));
        assert!(said("[1]").contains("expected a JSON object"), "{}", said("[1]"));
        assert!(said(r#"{"a":1} x"#).starts_with("9: trailing characters"));
        assert_eq!(said("{}"), " a message needs a field");
    }

    #[test]
    fn a_blank_line_is_no_message_unless_lines_are_values() {
        assert_eq!(Shape::Object.line(b" \t"), Ok(None));
        let whole = Shape::Whole("line".into());
        assert_eq!(whole.line(b""), Ok(Some(vec![Field::new("line", "")])));
        assert_eq!(whole.line(b"\xff"), Ok(Some(vec![Field::new("line", [0xff])])));
    }

    #[test]
    fn json_that_goes_whole_in_a_field_is_checked_and_kept_as_typed() {
        let whole = Shape::Whole("event".into());
        assert_eq!(whole.json(b"[1,  2]").unwrap(), [Field::new("event", "[1,  2]")]);
        assert!(whole.json(b"[1").is_err());
    }

    proptest! {
        #[test]
        fn any_strings_come_through_as_they_are(members in prop::collection::vec((".*", ".*"), 1..5)) {
            let quoted = |text: &str| serde_json::to_string(text).unwrap();
            let inner: Vec<_> =
                members.iter().map(|(n, v)| format!("{}:{}", quoted(n), quoted(v))).collect();
            let read = object(format!("{{{}}}", inner.join(",")).as_bytes()).unwrap();
            let expected: Vec<_> =
                members.iter().map(|(n, v)| Field::new(n.as_str(), v.as_str())).collect();
            prop_assert_eq!(read, expected);
        }
    }
}
