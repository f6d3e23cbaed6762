//! TOML with places: tables whose keys are asked for by name, so that every key
//! nobody asked for is known to be a mistake.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::reader::Reader;

/// A value as typed, with its place and the name it has in reports.
#[derive(Debug, Clone)]
pub(super) struct Entry<'t> {
    /// The dotted path of its key.
    pub(super) path: String,
    /// Where its key begins, in bytes.
    pub(super) key_at: usize,
    /// Where its value begins, in bytes.
    pub(super) at: usize,
    /// What was typed.
    pub(super) value: &'t DeValue<'t>,
    /// How much of it a report may show.
    pub(super) echo: Echo,
}

/// How much of a wrong value a report may show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Echo {
    /// The value as typed.
    Typed,
    /// Only what kind of value it is: it may be a secret.
    Kind,
}

/// What is left of a table once its keys are read: its place, and what was misspelt in it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The dotted path of the table.
    pub(super) path: String,
    /// Where its name begins, in bytes.
    pub(super) at: usize,
    /// The keys that unknown ones were taken for: not worth reporting as missing too.
    pub(super) misspelt: Vec<&'static str>,
}

/// A table whose keys are being read.
#[derive(Debug)]
pub(super) struct Section<'t> {
    path: String,
    at: usize,
    table: &'t DeTable<'t>,
    known: Vec<&'static str>,
    offered: Vec<&'static str>,
}

/// Parses TOML; what is not TOML is reported, at most one problem a line.
pub(super) fn parse<'t>(text: &'t str, reader: &mut Reader<'_>) -> Option<Spanned<DeTable<'t>>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        reader.not_toml(at, error.message());
    }
    errors.is_empty().then_some(document)
}

impl<'t> Section<'t> {
    /// The whole file.
    pub(super) fn root(table: &'t DeTable<'t>) -> Self {
        Self { path: String::new(), at: 0, table, known: Vec::new(), offered: Vec::new() }
    }

    /// The table that `entry` holds, if it holds one.
    pub(super) fn of(entry: &Entry<'t>) -> Option<Self> {
        let table = entry.value.as_table()?;
        Some(Self {
            path: entry.path.clone(),
            at: entry.key_at,
            table,
            known: Vec::new(),
            offered: Vec::new(),
        })
    }

    /// The value of a key, and that this key is known here.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Entry<'t>> {
        self.offered.push(key);
        self.take_reserved(key)
    }

    /// Like `take`, for a key of a later version: known, and not offered.
    pub(super) fn take_reserved(&mut self, key: &'static str) -> Option<Entry<'t>> {
        self.known.push(key);
        let (key, value) = self.table.get_key_value(key)?;
        Some(self.entry(key, value))
    }

    /// Like `take`, for a value that no report may show.
    pub(super) fn take_secret(&mut self, key: &'static str) -> Option<Entry<'t>> {
        self.take(key).map(|entry| Entry { echo: Echo::Kind, ..entry })
    }

    /// Every entry of a table whose keys are names of the user's choice, in the order of
    /// the file, with the name.
    pub(super) fn named(&self) -> Vec<(&'t str, Entry<'t>)> {
        let mut entries: Vec<_> = self
            .table
            .iter()
            .map(|(key, value)| (&**key.get_ref(), self.entry(key, value)))
            .collect();
        entries.sort_by_key(|(_, entry)| entry.key_at);
        entries
    }

    /// Reports every key that nobody asked for.
    pub(super) fn close(self, reader: &mut Reader<'_>) -> Place {
        let mut misspelt = Vec::new();
        for (key, entry) in self.named() {
            if self.known.contains(&key) {
                continue;
            }
            let nearest = nearest(key, &self.known);
            reader.problem(entry.key_at, &entry.path, unknown(nearest, &self.offered));
            misspelt.extend(nearest);
        }
        Place { path: self.path, at: self.at, misspelt }
    }

    fn entry(
        &self,
        key: &'t Spanned<std::borrow::Cow<'t, str>>,
        value: &'t Spanned<DeValue<'t>>,
    ) -> Entry<'t> {
        Entry {
            path: join(&self.path, key.get_ref()),
            key_at: key.span().start,
            at: value.span().start,
            value: value.get_ref(),
            echo: Echo::Typed,
        }
    }
}

fn unknown(nearest: Option<&str>, offered: &[&str]) -> String {
    match nearest {
        Some(nearest) => format!("unknown key; did you mean `{nearest}`?"),
        None => format!("unknown key; known here are `{}`", offered.join("`, `")),
    }
}

/// The known key that a typing mistake away is `key`: one edit, or a third of it.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let (distance, nearest) = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(key, known), *known))
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= (nearest.chars().count() / 3).max(1)).then_some(nearest)
}

/// A dotted path; a key that TOML would want in quotes has them here too.
fn join(path: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let key = match key {
        key if !key.is_empty() && key.chars().all(bare) => key.to_owned(),
        key => format!("{key:?}"),
    };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
