//! `tidegate dead redrive`: put original messages back, and say what moved and what did not.
//!
//! Prints a line for each that moved: the letter's id, the stream, and the
//! new id there, with tabs between.

use std::collections::BTreeMap;

use super::Failure;
use super::print;
use super::select::{Choice, Graveyard, Place, Selection, missing};
use crate::broker::{DeadLetter, DeadLetters, Redriven};

/// Letters that are moved in one exchange with Redis.
const TOGETHER: usize = 100;

/// Letters that stay are named up to this many, then only counted.
const NAMED: u64 = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// Do not print a line for each letter
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let choice = arguments.selection.choice()?;
    let graveyard = arguments.place.open().await?;
    let mut tally = Tally::new(match &choice {
        Choice::These(_) => Wanted::Each,
        Choice::All(_) => Wanted::Movable,
    });
    let lines = if arguments.quiet { Lines::Untold } else { Lines::Printed };
    let done = redrive(&graveyard, choice, lines, &mut tally).await;
    if tally.moved() > 0 {
        eprintln!("{}", tally.sentence());
    }
    if tally.stayed > NAMED {
        eprintln!("{} more stay where they are", tally.stayed - NAMED);
    }
    done?;
    tally.verdict()
}

async fn redrive(
    graveyard: &Graveyard,
    choice: Choice,
    lines: Lines,
    tally: &mut Tally,
) -> Result<(), Failure> {
    match choice {
        Choice::These(ids) => {
            let found = graveyard.find(&ids).await?;
            for (stream, page) in &found.letters {
                put_back(&graveyard.letters(stream), page, lines, tally).await?;
            }
            missing(&found.missing)
        }
        Choice::All(filter) => {
            for stream in graveyard.streams() {
                let mut walk = graveyard.walk(stream, &filter).await?;
                while let Some(page) = walk.next().await? {
                    put_back(&walk.letters, &page, lines, tally).await?;
                }
            }
            Ok(())
        }
    }
}

/// Whether a line is printed for each letter that moved.
#[derive(Clone, Copy)]
enum Lines {
    Printed,
    Untold,
}

async fn put_back(
    place: &DeadLetters<'_>,
    page: &[DeadLetter],
    lines: Lines,
    tally: &mut Tally,
) -> Result<(), Failure> {
    for some in page.chunks(TOGETHER) {
        let letters: Vec<_> = some.iter().collect();
        let answers = place.redrive(&letters).await?;
        let mut printed = String::new();
        for (letter, answer) in some.iter().zip(&answers) {
            match tally.add(letter, answer) {
                Ok(line) => printed.push_str(&line),
                Err(why) if tally.stayed <= NAMED => eprintln!("{} stays: {why}", letter.id),
                Err(_) => {}
            }
        }
        match lines {
            // Whoever asked for letters to be moved wants them all moved, read or not.
            Lines::Printed => drop(print::text(&printed)?),
            Lines::Untold => {}
        }
    }
    Ok(())
}

/// Which of the chosen letters have to move for it to be a success.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    /// Each: they were named.
    Each,
    /// Those that can.
    Movable,
}

/// What has come of it so far.
#[derive(Debug)]
pub(super) struct Tally {
    wanted: Wanted,
    moved: BTreeMap<String, u64>,
    stayed: u64,
    refused: u64,
}

impl Tally {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self { wanted, moved: BTreeMap::new(), stayed: 0, refused: 0 }
    }

    /// Counts a letter: the line to print when it moved, else why it stays.
    pub(super) fn add(&mut self, letter: &DeadLetter, what: &Redriven) -> Result<String, String> {
        let why = match what {
            Redriven::As(id) => {
                let stream = &letter.note.source;
                *self.moved.entry(stream.clone()).or_default() += 1;
                return Ok(format!("{}\t{}\t{id}\n", letter.id, print::legible(stream.as_bytes())));
            }
            Redriven::Missing => "someone else was faster".to_owned(),
            Redriven::NotALetter => "no burial wrote it".to_owned(),
            Redriven::Bodiless => {
                "its body was trimmed before it was buried; there is nothing to put back".to_owned()
            }
            Redriven::Refused(words) => {
                self.refused += 1;
                format!("Redis refuses it: {words}")
            }
        };
        self.stayed += 1;
        Err(why)
    }

    pub(super) fn moved(&self) -> u64 {
        self.moved.values().sum()
    }

    /// What moved, and where.
    pub(super) fn sentence(&self) -> String {
        let moves = self.moved.iter().map(|(stream, letters)| {
            format!(
                "{} to `{}`",
                print::count(*letters, "message"),
                print::legible(stream.as_bytes())
            )
        });
        format!("moved {}", moves.collect::<Vec<_>>().join(", "))
    }

    /// Whether what was asked for was done.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        let wrong = match (self.moved(), self.stayed, self.wanted) {
            (0, 0, _) => "nothing moved: no dead letter matches".to_owned(),
            (0, _, _) => "nothing moved".to_owned(),
            (_, 0, _) => return Ok(()),
            (_, stayed, Wanted::Each) => format!("{} did not move", print::count(stayed, "letter")),
            _ if self.refused > 0 => {
                format!("Redis refused to move {}", print::count(self.refused, "letter"))
            }
            (_, _, Wanted::Movable) => return Ok(()),
        };
        Err(Failure::Wrong(wrong))
    }
}
