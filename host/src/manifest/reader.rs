//! Turns entries into values, and keeps every problem met on the way.
//!
//! A method that answers `None` has reported why.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use super::interpolate::{Environment, interpolate};
use super::report::{Lines, Problem};
use super::section::{Echo, Entry, Place, Section};
use super::units;

/// How many characters of a wrong string a report shows.
const SHOWN_MAX: usize = 60;

/// Reads one manifest.
pub(super) struct Reader<'e> {
    lines: Lines<'e>,
    directory: &'e Path,
    environment: &'e dyn Environment,
    problems: Vec<Problem>,
}

impl<'e> Reader<'e> {
    pub(super) fn new(
        text: &'e str,
        directory: &'e Path,
        environment: &'e dyn Environment,
    ) -> Self {
        Self { lines: Lines::of(text), directory, environment, problems: Vec::new() }
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// The line of a place, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.lines.locate(at).0
    }

    /// Reports a problem at a byte of the file.
    pub(super) fn problem(&mut self, at: usize, path: &str, message: impl Into<String>) {
        let (line, column) = self.lines.locate(at);
        self.problems.push(Problem {
            line,
            column,
            path: path.to_owned(),
            message: message.into(),
        });
    }

    /// Reports text that is not TOML; only once a line, as the rest of it is guesswork.
    pub(super) fn not_toml(&mut self, at: usize, why: &str) {
        let line = self.line(at);
        if self.problems.iter().all(|problem| problem.line != line) {
            self.problem(at, "", format!("not TOML: {}", why.replace('\n', ", ")));
        }
    }

    /// Reports a value that is not what it should be, with the value as typed.
    pub(super) fn expected(&mut self, entry: &Entry<'_>, what: impl Display) {
        self.problem(entry.at, &entry.path, format!("expected {what}, found {}", found(entry)));
    }

    /// Reports a value that cannot stand, in words of the caller's.
    pub(super) fn refuse(&mut self, entry: &Entry<'_>, why: impl Into<String>) {
        self.problem(entry.at, &entry.path, why);
    }

    /// Reports a key that the table must have, unless a misspelt one was taken for it.
    pub(super) fn missing(&mut self, place: &Place, key: &str, what: &str) {
        if !place.misspelt.contains(&key) {
            self.problem(place.at, &place.path, format!("`{key}` is missing; expected {what}"));
        }
    }

    /// Reports a key that is part of the format but not of this version.
    pub(super) fn unavailable(&mut self, entry: Option<&Entry<'_>>) {
        if let Some(entry) = entry {
            self.problem(entry.key_at, &entry.path, "is not available in this version; remove it");
        }
    }

    pub(super) fn section<'t>(&mut self, entry: &Entry<'t>, what: &str) -> Option<Section<'t>> {
        let section = Section::of(entry);
        if section.is_none() {
            self.expected(entry, what);
        }
        section
    }

    /// A string, interpolated, that must not be empty.
    pub(super) fn text(&mut self, entry: &Entry<'_>, what: &str) -> Option<String> {
        let text = self.any_text(entry, what)?;
        if text.is_empty() {
            let which = if entry.value.as_str() == Some("") { "" } else { ", which is empty" };
            let message = format!("expected {what}, found {}{which}", found(entry));
            self.problem(entry.at, &entry.path, message);
            return None;
        }
        Some(text)
    }

    /// A string, interpolated, that may be empty.
    pub(super) fn any_text(&mut self, entry: &Entry<'_>, what: &str) -> Option<String> {
        let Some(typed) = entry.value.as_str() else {
            self.expected(entry, what);
            return None;
        };
        match interpolate(typed, self.directory, self.environment) {
            Ok(text) => Some(text),
            Err(problems) => {
                for problem in problems {
                    self.problem(entry.at, &entry.path, problem);
                }
                None
            }
        }
    }

    /// A path; a relative one starts from the manifest's directory.
    pub(super) fn path(&mut self, entry: &Entry<'_>, what: &str) -> Option<PathBuf> {
        self.text(entry, what).map(|path| self.directory.join(path))
    }

    /// An array of strings that must not be empty, each with its place.
    pub(super) fn texts<'t>(
        &mut self,
        entry: &Entry<'t>,
        what: &str,
        each: &str,
    ) -> Option<Vec<(Entry<'t>, String)>> {
        let Some(items) = entry.value.as_array() else {
            self.expected(entry, what);
            return None;
        };
        let texts: Vec<_> = items
            .iter()
            .map(|item| Entry { at: item.span().start, value: item.get_ref(), ..entry.clone() })
            .map(|item| self.text(&item, each).map(|text| (item, text)))
            .collect();
        texts.into_iter().collect()
    }

    /// A whole number within bounds.
    pub(super) fn whole(&mut self, entry: &Entry<'_>, bounds: RangeInclusive<u32>) -> Option<u32> {
        let number = entry
            .value
            .as_integer()
            .and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok())
            .filter(|number| bounds.contains(number));
        if number.is_none() {
            let (least, most) = bounds.into_inner();
            self.expected(entry, format_args!("a whole number from {least} to {most}"));
        }
        number
    }

    /// A duration within bounds.
    pub(super) fn duration(
        &mut self,
        entry: &Entry<'_>,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        const WHAT: &str = "a duration such as \"30s\"";
        let text = self.text(entry, WHAT)?;
        let Some(duration) = units::duration(&text) else {
            self.expected(entry, WHAT);
            return None;
        };
        if !bounds.contains(&duration) {
            let least = humantime::format_duration(*bounds.start());
            let most = humantime::format_duration(*bounds.end());
            self.expected(entry, format_args!("a duration from {least} to {most}"));
            return None;
        }
        Some(duration)
    }

    /// A size in bytes within bounds, which are described as `range`.
    pub(super) fn size(
        &mut self,
        entry: &Entry<'_>,
        bounds: RangeInclusive<u64>,
        range: &str,
    ) -> Option<u64> {
        const WHAT: &str = "a size such as \"64MiB\"";
        let text = self.text(entry, WHAT)?;
        let Some(size) = units::size(&text) else {
            self.expected(entry, WHAT);
            return None;
        };
        if !bounds.contains(&size) {
            self.expected(entry, range);
            return None;
        }
        Some(size)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        entry: &Entry<'_>,
        what: &str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let text = self.text(entry, what)?;
        let choice = words.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
        if choice.is_none() {
            self.expected(entry, what);
        }
        choice
    }
}

/// A value as a report shows it.
fn found(entry: &Entry<'_>) -> String {
    match (entry.echo, entry.value) {
        (Echo::Typed, DeValue::String(text)) if is_login(text) => "a URL with a login".to_owned(),
        (Echo::Typed, DeValue::String(text)) => quoted(text),
        (Echo::Typed, DeValue::Integer(number)) => number.to_string(),
        (Echo::Typed, DeValue::Float(number)) => number.to_string(),
        (Echo::Typed, DeValue::Boolean(truth)) => truth.to_string(),
        (Echo::Typed, DeValue::Datetime(time)) => time.to_string(),
        (Echo::Kind, DeValue::String(text)) if text.is_empty() => "an empty string".to_owned(),
        (Echo::Kind, DeValue::String(_)) => "a string".to_owned(),
        (Echo::Kind, DeValue::Integer(_)) => "an integer".to_owned(),
        (Echo::Kind, DeValue::Float(_)) => "a float".to_owned(),
        (Echo::Kind, DeValue::Boolean(_)) => "a boolean".to_owned(),
        (Echo::Kind, DeValue::Datetime(_)) => "a date".to_owned(),
        (Echo::Typed | Echo::Kind, DeValue::Array(_)) => "an array".to_owned(),
        (Echo::Typed | Echo::Kind, DeValue::Table(_)) => "a table".to_owned(),
    }
}

/// Whether a string looks like a URL that holds a password, under whatever key it was typed.
fn is_login(text: &str) -> bool {
    text.contains("://") && text.contains('@')
}

fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{:?}", format!("{}…", &text[..end])),
        None => format!("{text:?}"),
    }
}
