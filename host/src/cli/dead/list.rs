//! `tidegate dead list`: a page of dead letters, and how many there are of each kind.

use comfy_table::Cell;
use serde::Serialize;

use super::Failure;
use super::amiss::Amiss;
use super::count::Counts;
use super::listing::{FormWanted, Listed, Listing};
use super::moment;
use super::print::{self, cell};
use super::select::{Filter, Graveyard, Place, Seen};
use super::show::Shown;
use crate::broker::DeadLetter;

/// Letters that are counted at most, beyond those that are listed: reading them takes seconds.
const COUNTED: u64 = 100_000;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    filter: Filter,
    /// How many letters to list at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = crate::cli::listing::at_least_one)]
    limit: usize,
    #[command(flatten)]
    wanted: FormWanted,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let graveyard = arguments.place.open().await?;
    let mut listing = Listing::new(arguments.wanted.form(), arguments.limit);
    let mut sums = Sums::default();
    let mut amiss = Amiss::default();
    for stream in graveyard.streams() {
        let listing = list(&graveyard, stream, &arguments.filter, (&mut listing, &mut sums));
        amiss.pass_over(listing.await)?;
        if sums.extent == Extent::Part {
            break;
        }
    }
    let listed = listing.printed() as u64;
    listing.end_quietly()?;
    eprintln!(
        "{}",
        match sums.counts.all {
            0 => sums.seen.sentence(&arguments.filter),
            _ => sentence(&sums.counts, listed, sums.extent),
        }
    );
    amiss.verdict()
}

/// What is known of all letters, listed or not.
#[derive(Debug, Default)]
struct Sums {
    counts: Counts,
    seen: Seen,
    extent: Extent,
}

async fn list(
    graveyard: &Graveyard,
    stream: &str,
    filter: &Filter,
    (listing, sums): (&mut Listing, &mut Sums),
) -> Result<(), Failure> {
    let mut walk = graveyard.walk(stream, filter).await?;
    while let Some(page) = walk.next().await? {
        page.iter().for_each(|letter| sums.counts.add(letter));
        if !listing.is_over() {
            listing.page(page.iter().map(|letter| Letter { stream, letter }).collect())?;
        }
        if listing.is_over() && sums.counts.all >= COUNTED {
            sums.extent = Extent::Part;
            break;
        }
    }
    sums.seen.add(walk.seen);
    Ok(())
}

/// A letter and where it is.
struct Letter<'a> {
    stream: &'a str,
    letter: &'a DeadLetter,
}

impl Serialize for Letter<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Shown::new(self.stream, self.letter).serialize(serializer)
    }
}

impl Listed for Letter<'_> {
    const COLUMNS: &'static [&'static str] =
        &["id", "stream", "message", "handler", "reason", "attempts", "buried", "error"];

    fn row(&self) -> Vec<Cell> {
        row(self.letter)
    }
}

pub(super) fn row(letter: &DeadLetter) -> Vec<Cell> {
    let note = &letter.note;
    vec![
        Cell::new(letter.id),
        cell(&note.source),
        cell(&note.id),
        cell(&note.handler),
        cell(&note.reason),
        cell(&note.attempts),
        // As its id has it, by which --since and --until choose.
        cell(&moment::shown(letter.id.millis)),
        cell(&note.error),
    ]
}

/// How many of the letters were counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Extent {
    #[default]
    Whole,
    Part,
}

/// What there is, and how much of it is listed.
pub(super) fn sentence(counts: &Counts, listed: u64, extent: Extent) -> String {
    if counts.all == 0 {
        return "no dead letters".to_owned();
    }
    let more = match extent {
        Extent::Whole => "",
        Extent::Part => "more than ",
    };
    let listed =
        if listed < counts.all { format!(", {listed} listed (--limit)") } else { String::new() };
    let letters = print::count(counts.all, "dead letter");
    format!("{more}{letters}{listed}{}", counts.lines())
}
