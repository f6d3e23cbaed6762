//! `tidegate dead count`: how many letters of each handler and reason, and of when they are.

use std::collections::BTreeMap;

use comfy_table::Cell;
use serde::Serialize;

use super::amiss::Amiss;
use super::listing::{FormWanted, Listed, Listing};
use super::pace::progress;
use super::print::{self, cell, number};
use super::select::{Filter, Graveyard, Place, Seen};
use super::{Failure, moment};
use crate::broker::DeadLetter;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    wanted: FormWanted,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let graveyard = arguments.place.open().await?;
    let bar = progress("letters counted");
    let mut counts = Counts::default();
    let (mut seen, mut amiss) = (Seen::default(), Amiss::default());
    for stream in graveyard.streams() {
        let counting = count(&graveyard, stream, &arguments.filter, (&mut counts, &mut seen));
        amiss.pass_over(counting.await)?;
        bar.set_position(counts.all);
    }
    bar.finish_and_clear();
    let mut listing = Listing::new(arguments.wanted.form(), usize::MAX);
    listing.page(counts.rows())?;
    listing.end(&seen.sentence(&arguments.filter))?;
    amiss.verdict()
}

async fn count(
    graveyard: &Graveyard,
    stream: &str,
    filter: &Filter,
    (counts, seen): (&mut Counts, &mut Seen),
) -> Result<(), Failure> {
    let mut walk = graveyard.walk(stream, filter).await?;
    while let Some(page) = walk.next().await? {
        page.iter().for_each(|letter| counts.add(letter));
    }
    seen.add(walk.seen);
    Ok(())
}

/// How many letters there are of each handler and reason: as many sums as there are kinds.
#[derive(Debug, Default)]
pub(super) struct Counts {
    kinds: BTreeMap<(String, String), Kind>,
    pub(super) all: u64,
}

#[derive(Debug, Clone, Copy)]
struct Kind {
    letters: u64,
    oldest: u64,
    newest: u64,
}

impl Counts {
    pub(super) fn add(&mut self, letter: &DeadLetter) {
        let (note, buried) = (&letter.note, letter.id.millis);
        let kind = (note.handler.clone(), note.reason.clone());
        let sum =
            self.kinds.entry(kind).or_insert(Kind { letters: 0, oldest: buried, newest: buried });
        sum.letters += 1;
        sum.oldest = sum.oldest.min(buried);
        sum.newest = sum.newest.max(buried);
        self.all += 1;
    }

    /// A row for each kind.
    pub(super) fn rows(self) -> Vec<Row> {
        let row = |((handler, reason), kind): (_, Kind)| Row {
            handler,
            reason,
            letters: kind.letters,
            oldest: moment::shown(kind.oldest),
            newest: moment::shown(kind.newest),
        };
        self.kinds.into_iter().map(row).collect()
    }

    /// What there is of each kind, a line for each handler.
    pub(super) fn lines(&self) -> String {
        let mut lines = String::new();
        let mut before = None;
        for ((handler, reason), kind) in &self.kinds {
            let reason = print::legible(reason.as_bytes());
            if before == Some(handler) {
                lines.push_str(&format!(", {} {reason}", kind.letters));
            } else {
                let handler = print::legible(handler.as_bytes());
                lines.push_str(&format!("\n  {handler}: {} {reason}", kind.letters));
            }
            before = Some(handler);
        }
        lines
    }
}

/// The letters of one handler and reason, as they are printed.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Row {
    handler: String,
    reason: String,
    letters: u64,
    /// When the first of them was buried.
    oldest: String,
    newest: String,
}

impl Listed for Row {
    const COLUMNS: &'static [&'static str] = &["handler", "reason", "letters", "oldest", "newest"];

    fn row(&self) -> Vec<Cell> {
        vec![
            cell(&self.handler),
            cell(&self.reason),
            number(self.letters),
            cell(&self.oldest),
            cell(&self.newest),
        ]
    }
}
