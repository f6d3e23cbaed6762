//! Lists that may be long: printed a page at a time, as a table or as a JSON array.

use comfy_table::Cell;
use serde::Serialize;

use super::Failure;
use super::print::{self, Reader};

/// For whom a list is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// People: a table, with its header above every page.
    Table,
    /// Programs: one array, an object a line.
    Json,
}

/// For whom the command line wants it.
#[derive(Debug, clap::Args)]
pub(super) struct FormWanted {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl FormWanted {
    pub(super) fn form(&self) -> Form {
        if self.json { Form::Json } else { Form::Table }
    }
}

/// What a list has in its rows.
pub(super) trait Listed: Serialize {
    /// The names above the columns.
    const COLUMNS: &'static [&'static str];

    /// One cell for each of them.
    fn row(&self) -> Vec<Cell>;
}

/// A list under way.
pub(super) struct Listing {
    form: Form,
    left: usize,
    printed: usize,
    more: bool,
    reader: Reader,
}

impl Listing {
    pub(super) fn new(form: Form, limit: usize) -> Self {
        Self { form, left: limit, printed: 0, more: false, reader: Reader::Listening }
    }

    /// Prints a page, or what the limit leaves of it.
    pub(super) fn page<T: Listed>(&mut self, mut items: Vec<T>) -> Result<(), Failure> {
        self.more |= items.len() > self.left;
        items.truncate(self.left);
        if items.is_empty() {
            return Ok(());
        }
        let text = match self.form {
            Form::Table => print::table(T::COLUMNS, items.iter().map(Listed::row).collect()),
            Form::Json => self.lines(&items)?,
        };
        self.left -= items.len();
        self.printed += items.len();
        self.reader = print::text(&text)?;
        Ok(())
    }

    fn lines<T: Serialize>(&self, items: &[T]) -> Result<String, Failure> {
        let mut lines = String::new();
        for item in items {
            lines.push_str(if self.printed == 0 && lines.is_empty() { "[\n" } else { ",\n" });
            lines.push_str(&print::as_json(item)?);
        }
        Ok(lines)
    }

    /// Whether it makes no sense to go on: the limit is passed, or nobody reads.
    pub(super) fn is_over(&self) -> bool {
        self.more || self.reader == Reader::Gone
    }

    /// How many were printed.
    pub(super) fn printed(&self) -> usize {
        self.printed
    }

    /// Ends the list and says when there is more, or when there was nothing.
    pub(super) fn end(self, nothing: &str) -> Result<(), Failure> {
        let (printed, more) = (self.printed, self.more);
        self.end_quietly()?;
        if more {
            eprintln!("there are more than these {printed}; --limit N lists more");
        } else if printed == 0 {
            eprintln!("{nothing}");
        }
        Ok(())
    }

    /// As [`Self::end`], for whom says it otherwise.
    pub(super) fn end_quietly(self) -> Result<(), Failure> {
        let closing = match (self.form, self.printed) {
            (Form::Table, _) => return Ok(()),
            (Form::Json, 0) => "[]\n",
            (Form::Json, _) => "\n]\n",
        };
        print::text(closing).map(drop)
    }
}

/// A number of rows to list.
pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "expected a whole number from 1".to_owned())
}
