//! `tidegate dead redrive`: put original messages back, and say what moved and what did not.
//!
//! Prints a line for each that moved: the letter's id, the stream, and the
//! new id there, with tabs between.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::ProgressBar;

use super::Failure;
use super::pace::{Pace, progress, rate, until_signal};
use super::print;
use super::select::{Choice, Graveyard, Place, Selection, missing};
use super::tally::{Act, Tally, Wanted};
use crate::broker::{DeadLetter, DeadLetters, Redriven};
use crate::shutdown::Stop;

/// Letters that are moved in one exchange with Redis.
const TOGETHER: u64 = 100;

/// Letters that stay are named up to this many, then only counted.
const NAMED: u64 = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// How many letters to move at most, the oldest first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// No faster than so many a second, minute or hour, such as 100/s
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<Duration>,
    /// Move nothing; say what would move
    #[arg(long)]
    dry_run: bool,
    /// Do not print a line for each letter
    #[arg(long, short)]
    quiet: bool,
    /// Print the lines as JSON, an object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let choice = arguments.selection.choice()?;
    let graveyard = arguments.place.open().await?;
    let wanted = match &choice {
        Choice::These(_) => Wanted::Each,
        Choice::All(_) => Wanted::Movable,
    };
    let act = if arguments.dry_run { Act::Rehearse } else { Act::Move };
    let lines = match (arguments.quiet, arguments.json) {
        (true, _) => Lines::Untold,
        (false, true) => Lines::Json,
        (false, false) => Lines::Printed,
    };
    let (tally, done) = until_signal(async |stop: Stop| {
        let between = arguments.rate.filter(|_| act == Act::Move);
        let pace = Pace::new(between, arguments.limit, stop);
        let mut mover = Mover { tally: Tally::new(act, wanted), pace, lines, bar: lines.bar() };
        let done = mover.redrive(&graveyard, choice).await;
        mover.bar.finish_and_clear();
        mover.tally.stopped = mover.pace.is_stopped();
        (mover.tally, done)
    })
    .await?;
    if tally.moved() > 0 {
        eprintln!("{}", tally.sentence());
    }
    if tally.stayed > NAMED {
        eprintln!("{} more stay where they are", tally.stayed - NAMED);
    }
    done?;
    tally.verdict()
}

/// What is printed for each letter that moved.
#[derive(Clone, Copy)]
enum Lines {
    Printed,
    Json,
    Untold,
}

impl Lines {
    /// A bar that grows, unless lines already show on the same terminal.
    fn bar(self) -> ProgressBar {
        match self {
            Self::Printed | Self::Json if io::stdout().is_terminal() => ProgressBar::hidden(),
            Self::Printed | Self::Json | Self::Untold => progress("moved"),
        }
    }
}

/// Puts letters back at its pace, and counts.
struct Mover {
    tally: Tally,
    pace: Pace,
    lines: Lines,
    bar: ProgressBar,
}

impl Mover {
    async fn redrive(&mut self, graveyard: &Graveyard, choice: Choice) -> Result<(), Failure> {
        match choice {
            Choice::These(ids) => {
                let found = graveyard.find(&ids).await?;
                for (stream, page) in &found.letters {
                    self.put_back(&graveyard.letters(stream), page).await?;
                }
                missing(&found.missing)
            }
            Choice::All(filter) => {
                for stream in graveyard.streams() {
                    let mut walk = graveyard.walk(stream, &filter).await?;
                    while let Some(page) = walk.next().await? {
                        if !page.is_empty() && !self.put_back(&walk.letters, &page).await? {
                            return Ok(());
                        }
                    }
                    self.tally.searched(stream, walk.seen());
                }
                Ok(())
            }
        }
    }

    /// Whether there is more to do after these.
    async fn put_back(
        &mut self,
        place: &DeadLetters<'_>,
        page: &[DeadLetter],
    ) -> Result<bool, Failure> {
        let mut left = page;
        while !left.is_empty() {
            let together = self.pace.turn(TOGETHER.min(left.len() as u64)).await;
            if together == 0 {
                return Ok(false);
            }
            let (some, others) = left.split_at(together as usize);
            left = others;
            let answers = self.answers(place, some).await?;
            let moved = self.tally.moved();
            self.tell(some, &answers)?;
            self.pace.went(self.tally.moved() - moved);
            self.bar.set_position(self.tally.moved());
        }
        Ok(true)
    }

    async fn answers(
        &self,
        place: &DeadLetters<'_>,
        letters: &[DeadLetter],
    ) -> Result<Vec<Redriven>, Failure> {
        match self.tally.act {
            Act::Move => Ok(place.redrive(&letters.iter().collect::<Vec<_>>()).await?),
            Act::Rehearse => Ok(letters.iter().map(DeadLetter::prospect).collect()),
        }
    }

    fn tell(&mut self, letters: &[DeadLetter], answers: &[Redriven]) -> Result<(), Failure> {
        let mut printed = String::new();
        for (letter, answer) in letters.iter().zip(answers) {
            match (self.tally.add(letter, answer), self.lines) {
                (Ok(_), Lines::Untold) => {}
                (Ok(moved), Lines::Printed) => printed.push_str(&moved.line()),
                (Ok(moved), Lines::Json) => {
                    printed.push_str(&print::as_json(&moved)?);
                    printed.push('\n');
                }
                (Err(why), _) if self.tally.stayed <= NAMED => {
                    eprintln!("{} stays: {why}", letter.id);
                }
                (Err(_), _) => {}
            }
        }
        // Whoever asked for letters to be moved wants them all moved, read or not.
        if printed.is_empty() { Ok(()) } else { print::text(&printed).map(drop) }
    }
}
