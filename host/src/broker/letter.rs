//! The dead letter: the original fields, unchanged and in order, and what is known of the end.

use std::time::SystemTime;

use crate::manifest::Handler;
use crate::message::{Field, MessageId};
use crate::outcome::Reason;

/// Every field that a burial adds starts with this.
pub(super) const MARK: &str = "tidegate.";

/// How many fields a burial adds, after the original ones.
pub(super) const ADDED: usize = 9;

/// Longer errors are cut: a guest chooses the text.
const ERROR_BYTES: usize = 4096;

/// The end of one message.
#[derive(Debug)]
pub(super) struct Death<'a> {
    pub id: MessageId,
    pub attempts: u32,
    pub reason: Reason,
    pub error: &'a str,
}

/// The fields that follow the original ones.
pub(super) fn epitaph(
    handler: &Handler,
    plugin: &str,
    death: &Death<'_>,
    now: SystemTime,
) -> [Field; ADDED] {
    [
        ("source", handler.stream.to_string()),
        ("id", death.id.to_string()),
        ("group", handler.group.to_string()),
        ("handler", handler.name.to_string()),
        ("plugin", plugin.to_owned()),
        ("attempts", death.attempts.to_string()),
        ("reason", death.reason.to_string()),
        ("error", cut(death.error, ERROR_BYTES).to_owned()),
        ("time", humantime::format_rfc3339_millis(now).to_string()),
    ]
    .map(|(name, value)| Field::new(format!("{MARK}{name}"), value))
}

/// The start of a text, at most `bytes` long, cut between characters.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::super::post::tests::handler;
    use super::*;

    #[test]
    fn a_letter_says_where_it_came_from_and_why() {
        let death = Death {
            id: "7-1".parse().unwrap(),
            attempts: 3,
            reason: Reason::Trap,
            error: &"é".repeat(ERROR_BYTES),
        };
        let fields = epitaph(&handler(), "sha256:ab", &death, SystemTime::UNIX_EPOCH);
        let names: Vec<_> = fields.iter().map(|f| String::from_utf8_lossy(&f.name)).collect();
        let expected =
            ["source", "id", "group", "handler", "plugin", "attempts", "reason", "error", "time"];
        assert_eq!(names, expected.map(|name| format!("tidegate.{name}")));
        assert_eq!(fields[6].value, b"trap");
        assert_eq!(fields[8].value, b"1970-01-01T00:00:00.000Z");
        assert!(fields[7].value.len() <= ERROR_BYTES);
    }
}
