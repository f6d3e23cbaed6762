//! The dead letter: the original fields, unchanged and in order, and what is known of the end.

use std::sync::Arc;
use std::time::SystemTime;

use crate::message::{Field, MessageId};
use crate::outcome::Reason;

/// Every field that a burial adds starts with this.
pub(super) const MARK: &str = "tidegate.";

/// How many fields a burial adds, after the original ones.
pub(super) const ADDED: usize = 9;

/// Longer errors are cut: a guest chooses the text.
const ERROR_BYTES: usize = 4096;

/// Who buries: the same for every letter of one handler.
#[derive(Debug, Clone)]
pub(super) struct Undertaker {
    pub stream: Arc<str>,
    pub group: Arc<str>,
    pub handler: Arc<str>,
    pub plugin: Arc<str>,
}

/// The end of one message.
#[derive(Debug)]
pub(super) struct Death<'a> {
    pub id: MessageId,
    pub attempts: u32,
    pub reason: Reason,
    pub error: &'a str,
}

impl Undertaker {
    /// The fields that follow the original ones.
    pub(super) fn epitaph(&self, death: &Death<'_>) -> [Field; ADDED] {
        let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        [
            ("source", self.stream.to_string()),
            ("id", death.id.to_string()),
            ("group", self.group.to_string()),
            ("handler", self.handler.to_string()),
            ("plugin", self.plugin.to_string()),
            ("attempts", death.attempts.to_string()),
            ("reason", death.reason.to_string()),
            ("error", cut(death.error, ERROR_BYTES).to_owned()),
            ("time", now),
        ]
        .map(|(name, value)| Field::new(format!("{MARK}{name}"), value))
    }
}

/// The start of a text, at most `bytes` long, cut between characters.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_says_where_it_came_from_and_why() {
        let undertaker = Undertaker {
            stream: "orders".into(),
            group: "g".into(),
            handler: "h".into(),
            plugin: "sha256:ab".into(),
        };
        let death = Death {
            id: "7-1".parse().unwrap(),
            attempts: 3,
            reason: Reason::Trap,
            error: &"é".repeat(ERROR_BYTES),
        };
        let fields = undertaker.epitaph(&death);
        let names: Vec<_> = fields.iter().map(|f| String::from_utf8_lossy(&f.name)).collect();
        let expected =
            ["source", "id", "group", "handler", "plugin", "attempts", "reason", "error", "time"];
        assert_eq!(names, expected.map(|name| format!("tidegate.{name}")));
        assert_eq!(fields[6].value, b"trap");
        assert!(fields[7].value.len() <= ERROR_BYTES);
    }
}
