//! `tidegate dead show`: one letter, whole.

use comfy_table::Cell;
use serde::Serialize;

use super::Failure;
use super::print::{self, Bytes};
use super::select::{Place, missing, twice};
use crate::broker::{DeadLetter, Note};
use crate::message::{Field, MessageId};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The letter's id on the dead-letter stream, as `list` shows it
    id: MessageId,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let graveyard = arguments.place.open().await?;
    let found = graveyard.get(arguments.id).await?;
    if found.is_empty() {
        return missing(&[arguments.id]);
    }
    if let ([(first, _), (second, _), ..], true) = (&*found, arguments.json) {
        return Err(twice(arguments.id, first, second));
    }
    for (stream, letter) in &found {
        let shown = Shown::new(stream, letter);
        if arguments.json {
            print::json(&shown)?
        } else {
            print::text(&page(stream, letter))?
        };
    }
    Ok(())
}

/// A letter as JSON.
#[derive(Serialize)]
pub(super) struct Shown<'a> {
    stream: &'a str,
    id: String,
    #[serde(flatten)]
    note: &'a Note,
    fields: Vec<ShownField<'a>>,
}

#[derive(Serialize)]
struct ShownField<'a> {
    name: Bytes<'a>,
    value: Bytes<'a>,
}

impl<'a> Shown<'a> {
    pub(super) fn new(stream: &'a str, letter: &'a DeadLetter) -> Self {
        let field =
            |field: &'a Field| ShownField { name: Bytes(&field.name), value: Bytes(&field.value) };
        let fields = letter.fields.iter().map(field).collect();
        Self { stream, id: letter.id.to_string(), note: &letter.note, fields }
    }
}

/// A letter for people: what is known of its end, then its fields.
pub(super) fn page(stream: &str, letter: &DeadLetter) -> String {
    let note = &letter.note;
    let id = letter.id.to_string();
    let known = [
        ("letter", id.as_str()),
        ("on", stream),
        ("stream", &note.source),
        ("message", &note.id),
        ("group", &note.group),
        ("handler", &note.handler),
        ("plugin", &note.plugin),
        ("attempts", &note.attempts),
        ("reason", &note.reason),
        ("buried", &note.time),
    ];
    let mut page = String::new();
    for (name, value) in known {
        page.push_str(&format!("{name:<10}{}\n", print::legible(value.as_bytes())));
    }
    for (number, line) in note.error.lines().enumerate() {
        let name = if number == 0 { "error" } else { "" };
        page.push_str(&format!("{name:<10}{}\n", print::legible(line.as_bytes())));
    }
    page.push('\n');
    if letter.fields.is_empty() {
        return page + "no fields: the body was trimmed before it was buried\n";
    }
    let cells = |field: &Field| {
        [&field.name, &field.value].map(|bytes| Cell::new(print::legible(bytes))).to_vec()
    };
    page + &print::table(&["field", "value"], letter.fields.iter().map(cells).collect())
}
