//! `tidegate dead list`: a page of dead letters, and how many there are of each kind.

use std::collections::BTreeMap;

use comfy_table::Cell;

use super::Failure;
use super::print;
use super::select::{Filter, Place};
use super::show::Shown;
use crate::broker::DeadLetter;

/// Letters that are counted at most, beyond those that are listed: reading them takes seconds.
const COUNTED: u64 = 100_000;

/// Characters of an error or a name in a table.
const CELL: usize = 60;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    filter: Filter,
    /// How many letters to list at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Print JSON, fields included
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let graveyard = arguments.place.open().await?;
    let mut listed: Vec<(&str, DeadLetter)> = Vec::new();
    let mut counts = Counts::default();
    'streams: for stream in graveyard.streams() {
        let mut walk = graveyard.walk(stream, &arguments.filter).await?;
        while let Some(page) = walk.next().await? {
            for letter in page {
                counts.add(&letter);
                if listed.len() < arguments.limit {
                    listed.push((stream, letter));
                }
            }
            if listed.len() >= arguments.limit && counts.all >= COUNTED {
                counts.complete = false;
                break 'streams;
            }
        }
    }
    if arguments.json {
        let shown: Vec<_> = listed.iter().map(|(on, letter)| Shown::new(on, letter)).collect();
        print::json(&shown)?;
    } else if !listed.is_empty() {
        print::text(&print::table(
            &COLUMNS,
            listed.iter().map(|(_, letter)| row(letter)).collect(),
        ))?;
    }
    eprintln!("{}", counts.sentence(listed.len() as u64));
    Ok(())
}

const COLUMNS: [&str; 8] =
    ["id", "stream", "message", "handler", "reason", "attempts", "buried", "error"];

pub(super) fn row(letter: &DeadLetter) -> Vec<Cell> {
    let note = &letter.note;
    let cell = |text: &str| Cell::new(print::elided(&print::legible(text.as_bytes()), CELL));
    vec![
        Cell::new(letter.id),
        cell(&note.source),
        cell(&note.id),
        cell(&note.handler),
        cell(&note.reason),
        cell(&note.attempts),
        cell(&note.time),
        cell(&note.error),
    ]
}

/// How many letters there are of each handler and reason.
#[derive(Debug)]
pub(super) struct Counts {
    kinds: BTreeMap<String, BTreeMap<String, u64>>,
    all: u64,
    complete: bool,
}

impl Default for Counts {
    fn default() -> Self {
        Self { kinds: BTreeMap::new(), all: 0, complete: true }
    }
}

impl Counts {
    pub(super) fn add(&mut self, letter: &DeadLetter) {
        let note = &letter.note;
        let reasons = self.kinds.entry(note.handler.clone()).or_default();
        *reasons.entry(note.reason.clone()).or_default() += 1;
        self.all += 1;
    }

    /// What there is, and how much of it is listed.
    pub(super) fn sentence(&self, listed: u64) -> String {
        if self.all == 0 {
            return "no dead letters".to_owned();
        }
        let more = if self.complete { "" } else { "more than " };
        let mut sentence = format!("{more}{}", print::count(self.all, "dead letter"));
        if listed < self.all {
            sentence.push_str(&format!(", {listed} listed (--limit)"));
        }
        for (handler, reasons) in &self.kinds {
            let reasons: Vec<_> =
                reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            let kind = format!("\n  {handler}: {}", reasons.join(", "));
            sentence.push_str(&kind.replace(|c: char| c.is_control() && c != '\n', "?"));
        }
        sentence
    }
}
