//! Expectation and result as lines of text, and the difference between the two.
//!
//! What is as it should be is shown as it came on both sides, so that the lines which
//! differ are those that matter.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use similar::{Algorithm, ChangeTag, TextDiff};

use super::expected::{self, Came, Expectation, Expected, Wanted, is_field, json};
use crate::outcome::{Entry, Fault, FaultKind, Notice, Outcome, Output};

/// Unchanged lines around a difference.
const AROUND: usize = 10;

/// How long finding the shortest difference may take; a longer one will do after that.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was expected and what came, where they are not the same.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// What was expected.
    pub expected: String,
    /// What came instead.
    pub actual: String,
}

/// A line of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It should be there, and is not.
    Expected,
    /// It is there, and should not be.
    Actual,
    /// It is there, as it should be.
    Both,
    /// It stands for lines that are as they should be.
    Gap,
}

impl Difference {
    /// The lines that differ, with some around them.
    pub fn lines(&self) -> Vec<(Side, &str)> {
        let mut config = TextDiff::configure();
        config.algorithm(Algorithm::Patience).timeout(PATIENCE);
        let diff = config.diff_lines(&self.expected, &self.actual);
        let mut lines = Vec::new();
        let mut shown = 0;
        for group in diff.grouped_ops(AROUND) {
            if group.first().is_some_and(|first| first.old_range().start > shown) {
                lines.push((Side::Gap, "…"));
            }
            shown = group.last().map_or(shown, |last| last.old_range().end);
            for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
                let side = match change.tag() {
                    ChangeTag::Delete => Side::Expected,
                    ChangeTag::Insert => Side::Actual,
                    ChangeTag::Equal => Side::Both,
                };
                let line = change.to_string_lossy();
                let length = line.trim_end_matches('\n').len();
                let text = change.as_str().unwrap_or_default();
                lines.push((side, &text[..length]));
            }
        }
        lines
    }
}

/// What came of a case.
pub(super) struct Seen {
    /// Of each message.
    pub(super) outcomes: Vec<Came>,
    /// What is below the prefix, where the handler has one.
    pub(super) keyvalue: Option<BTreeMap<String, Vec<u8>>>,
}

/// How what came differs from what should.
pub(super) fn difference(wanted: &Expectation, seen: &Seen) -> Option<Difference> {
    let outcomes = || wanted.outcomes.iter().zip(&seen.outcomes);
    let contents = wanted.keyvalue.as_ref().zip(seen.keyvalue.as_ref());
    let same = outcomes().all(|(wanted, came)| wanted.is(came))
        && contents.is_none_or(|(wanted, held)| hold(wanted, held));
    if same {
        return None;
    }
    let (mut expected, mut actual) = (Page::default(), Page::default());
    let several = seen.outcomes.len() > 1;
    for (at, (wanted, came)) in outcomes().enumerate() {
        if several {
            let title = format!("message {}", at + 1);
            expected.line(0, &title);
            actual.line(0, &title);
        }
        let depth = usize::from(several);
        expected.wanted(depth, wanted, came);
        actual.came(depth, came);
    }
    if let Some((wanted, held)) = contents {
        expected.line(0, "keyvalue");
        actual.line(0, "keyvalue");
        for (key, value) in wanted {
            expected.pair(1, key, Value::of_key(value, held.get(key)));
        }
        for (key, value) in held {
            actual.pair(1, key, Value::Bytes(value));
        }
    }
    Some(Difference { expected: expected.0, actual: actual.0 })
}

fn hold(wanted: &BTreeMap<String, Wanted>, held: &BTreeMap<String, Vec<u8>>) -> bool {
    wanted.len() == held.len()
        && wanted.iter().all(|(key, value)| held.get(key).is_some_and(|held| value.is(held)))
}

/// A value to show.
enum Value<'v> {
    Bytes(&'v [u8]),
    Any,
}

impl<'v> Value<'v> {
    fn of(wanted: &'v Wanted) -> Self {
        match wanted {
            Wanted::Any => Self::Any,
            Wanted::This(bytes) => Self::Bytes(bytes),
        }
    }

    /// What came, if it is what was wanted.
    fn of_key(wanted: &'v Wanted, came: Option<&'v Vec<u8>>) -> Self {
        match came {
            Some(came) if wanted.is(came) => Self::Bytes(came),
            Some(_) | None => Self::of(wanted),
        }
    }
}

/// Lines, two spaces deeper for each level.
#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, depth: usize, text: &str) {
        self.0.push_str(&"  ".repeat(depth));
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn came(&mut self, depth: usize, came: &Came) {
        match came {
            None => self.skipped(depth),
            Some(Outcome::Done(outputs)) => {
                self.no_outputs(depth, outputs.len());
                outputs.iter().for_each(|output| self.output(depth, output));
            }
            Some(Outcome::Retry { reason, delay }) => self.retry(depth, reason, *delay),
            Some(Outcome::Reject(reason)) => self.reject(depth, reason),
            Some(Outcome::Fault(Fault { kind, detail, .. })) => {
                self.fault(depth, *kind);
                self.line(depth + 1, detail.lines().collect::<Vec<_>>().join(" ").as_str());
            }
        }
    }

    fn wanted(&mut self, depth: usize, wanted: &expected::Outcome, came: &Came) {
        if wanted.is(came) {
            return self.came(depth, came);
        }
        match wanted {
            expected::Outcome::Skipped => self.skipped(depth),
            expected::Outcome::Done(outputs) => {
                self.no_outputs(depth, outputs.len());
                let came = match came {
                    Some(Outcome::Done(came)) => came.as_slice(),
                    Some(Outcome::Retry { .. } | Outcome::Reject(_) | Outcome::Fault(_)) | None => {
                        &[]
                    }
                };
                for (at, output) in outputs.iter().enumerate() {
                    self.wanted_output(depth, output, came.get(at));
                }
            }
            expected::Outcome::Retry { reason, after } => self.retry(depth, reason, *after),
            expected::Outcome::Reject(reason) => self.reject(depth, reason),
            expected::Outcome::Fault { kind, detail } => {
                self.fault(depth, *kind);
                if let Some(part) = detail {
                    self.line(depth + 1, &format!("… {part} …"));
                }
            }
        }
    }

    fn skipped(&mut self, depth: usize) {
        self.line(depth, "skipped: `match` does not ask for it");
    }

    fn no_outputs(&mut self, depth: usize, outputs: usize) {
        if outputs == 0 {
            self.line(depth, "done, without outputs");
        }
    }

    fn retry(&mut self, depth: usize, reason: &str, after: Option<Duration>) {
        let after = after.map(|after| format!(" after {}", humantime::format_duration(after)));
        self.line(depth, &format!("retry{}: {reason:?}", after.unwrap_or_default()));
    }

    fn reject(&mut self, depth: usize, reason: &str) {
        self.line(depth, &format!("reject: {reason:?}"));
    }

    fn fault(&mut self, depth: usize, kind: FaultKind) {
        self.line(depth, &format!("fault: {}", kind.reason()));
    }

    fn output(&mut self, depth: usize, output: &Output) {
        match output {
            Output::Append(Entry { stream, fields, delay }) => {
                self.entry(depth, stream, *delay);
                for field in fields {
                    let name = String::from_utf8_lossy(&field.name);
                    self.pair(depth + 1, &name, Value::Bytes(&field.value));
                }
            }
            Output::Publish(Notice { channel, payload }) => {
                self.line(depth, &format!("publish on {channel:?}"));
                self.value(depth + 1, "", Value::Bytes(payload));
            }
        }
    }

    fn wanted_output(&mut self, depth: usize, wanted: &Expected, came: Option<&Output>) {
        if let Some(output) = came.filter(|came| wanted.is(came)) {
            return self.output(depth, output);
        }
        match wanted {
            Expected::Append { stream, fields, delay } => {
                self.entry(depth, stream, *delay);
                let came: &[_] = match came {
                    Some(Output::Append(entry)) => &entry.fields,
                    Some(Output::Publish(_)) | None => &[],
                };
                if fields.is_none() {
                    self.line(depth + 1, "any fields");
                }
                for (at, wanted) in fields.iter().flatten().enumerate() {
                    let same = came.get(at).filter(|came| is_field(wanted, came));
                    let value = same.map(|field| Value::Bytes(&field.value));
                    self.pair(depth + 1, &wanted.0, value.unwrap_or(Value::of(&wanted.1)));
                }
            }
            Expected::Publish { channel, payload } => {
                self.line(depth, &format!("publish on {channel:?}"));
                self.value(depth + 1, "", payload.as_ref().map_or(Value::Any, Value::of));
            }
        }
    }

    fn entry(&mut self, depth: usize, stream: &str, delay: Option<Duration>) {
        let delay = delay.filter(|delay| !delay.is_zero());
        let delay = delay.map(|delay| format!(" after {}", humantime::format_duration(delay)));
        self.line(depth, &format!("append to {stream:?}{}", delay.unwrap_or_default()));
    }

    fn pair(&mut self, depth: usize, name: &str, value: Value<'_>) {
        self.value(depth, &format!("{name:?} = "), value);
    }

    /// JSON on lines of its own, in one order of keys; text in quotes; other bytes as base64.
    fn value(&mut self, depth: usize, before: &str, value: Value<'_>) {
        let bytes = match value {
            Value::Any => return self.line(depth, &format!("{before}*")),
            Value::Bytes(bytes) => bytes,
        };
        let pretty = json(bytes).map(|json| format!("{json:#}"));
        let shown = match (pretty, str::from_utf8(bytes)) {
            (Some(pretty), _) => pretty,
            (None, Ok(text)) => format!("{text:?}"),
            (None, Err(_)) => format!("base64 {}", STANDARD.encode(bytes)),
        };
        let mut lines = shown.lines();
        self.line(depth, &format!("{before}{}", lines.next().unwrap_or_default()));
        lines.for_each(|line| self.line(depth, line));
    }
}
