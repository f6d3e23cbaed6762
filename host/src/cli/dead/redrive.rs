//! `tidegate dead redrive`: put original messages back, and say what moved and what did not.
//!
//! Prints a line for each that moved: the letter's id, the stream, and the
//! new id there, with tabs between. Of a message that several hosts of a broadcast buried, one letter
//! moves, and the others are removed with it.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::ProgressBar;

use super::Failure;
use super::amiss::Amiss;
use super::pace::{Pace, progress, rate, until_signal};
use super::print;
use super::select::{Choice, Filter, Graveyard, Place, Selection, missing};
use super::siblings::Siblings;
use super::tally::{Act, Moved, Tally, Wanted};
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
        let (tally, bar) = (Tally::new(act, wanted), lines.bar());
        let mut mover = Mover { tally, pace, lines, bar, siblings: Siblings::default() };
        let done = mover.redrive(&graveyard, choice).await;
        let done = done.and(mover.see_off(&graveyard).await);
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
    /// The line of a letter, if any is wanted.
    fn of(self, moved: &Moved) -> Result<String, Failure> {
        Ok(match self {
            Self::Printed => moved.line(),
            Self::Json => print::as_json(moved)? + "\n",
            Self::Untold => String::new(),
        })
    }

    /// A bar that grows, unless lines already show on the same terminal.
    fn bar(self) -> ProgressBar {
        match self {
            Self::Printed | Self::Json if io::stdout().is_terminal() => ProgressBar::hidden(),
            Self::Printed | Self::Json | Self::Untold => progress("moved"),
        }
    }
}

/// Whether there is more to do, after so much of it: no, at the limit or after a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    Perhaps,
    No,
}

/// Puts letters back at its pace, and counts.
struct Mover {
    tally: Tally,
    pace: Pace,
    lines: Lines,
    bar: ProgressBar,
    siblings: Siblings,
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
                let mut amiss = Amiss::default();
                for stream in graveyard.streams() {
                    let moved = self.whole(graveyard, stream, &filter).await;
                    if amiss.pass_over(moved)? == Some(More::No) {
                        return Ok(());
                    }
                }
                amiss.verdict()
            }
        }
    }

    async fn whole(
        &mut self,
        graveyard: &Graveyard,
        stream: &str,
        filter: &Filter,
    ) -> Result<More, Failure> {
        let mut walk = graveyard.walk(stream, filter).await?;
        while let Some(page) = walk.next().await? {
            if !page.is_empty() && self.put_back(&walk.letters, &page).await? == More::No {
                return Ok(More::No);
            }
            if self.siblings.len() >= Siblings::MOST {
                self.see_off(graveyard).await?;
            }
        }
        self.tally.searched(stream, walk.seen.letters);
        self.tally.others = walk.seen.others(filter);
        Ok(More::Perhaps)
    }

    async fn put_back(
        &mut self,
        place: &DeadLetters<'_>,
        page: &[DeadLetter],
    ) -> Result<More, Failure> {
        let mut left = page;
        while !left.is_empty() {
            let together = self.pace.turn(TOGETHER.min(left.len() as u64)).await;
            if together == 0 {
                return Ok(More::No);
            }
            let (some, others) = left.split_at(together as usize);
            left = others;
            let some = self.siblings.eldest(some);
            let answers = self.answers(place, &some).await?;
            let moved = self.tally.moved();
            self.tell(&some, &answers)?;
            self.pace.went(self.tally.moved() - moved);
            self.bar.set_position(self.tally.moved());
        }
        Ok(More::Perhaps)
    }

    async fn answers(
        &self,
        place: &DeadLetters<'_>,
        letters: &[&DeadLetter],
    ) -> Result<Vec<Redriven>, Failure> {
        match self.tally.act {
            Act::Move => Ok(place.redrive(letters).await?),
            Act::Rehearse => Ok(letters.iter().map(|letter| letter.prospect()).collect()),
        }
    }

    /// Removes the other letters of messages that moved, whichever were asked for: the new message comes
    /// to every host of its broadcast.
    async fn see_off(&mut self, graveyard: &Graveyard) -> Result<(), Failure> {
        if self.siblings.len() == 0 {
            return Ok(());
        }
        for stream in graveyard.streams() {
            let mut walk = graveyard.walk(stream, &Filter::default()).await?;
            while let Some(page) = walk.next().await? {
                let went = |letter: &DeadLetter| {
                    let new = self.siblings.went_as(letter)?;
                    Some((letter.clone(), new.to_owned()))
                };
                let gone: Vec<_> = page.iter().filter_map(went).collect();
                if self.tally.act == Act::Move {
                    let ids: Vec<_> = gone.iter().map(|(letter, _)| letter.id).collect();
                    walk.letters.purge(&ids).await?;
                }
                let moved = gone.iter().map(|(letter, new)| self.tally.add_along(letter, new));
                let lines = moved.map(|moved| self.lines.of(&moved)).collect::<Result<String, _>>();
                print_all(&lines?)?;
            }
        }
        self.siblings.forget();
        Ok(())
    }

    fn tell(&mut self, letters: &[&DeadLetter], answers: &[Redriven]) -> Result<(), Failure> {
        let mut printed = String::new();
        for (letter, answer) in letters.iter().zip(answers) {
            if let Redriven::As(new) = answer {
                self.siblings.note(letter, new);
            }
            match self.tally.add(letter, answer) {
                Ok(moved) => printed.push_str(&self.lines.of(&moved)?),
                Err(why) if self.tally.stayed <= NAMED => {
                    eprintln!("{} stays: {why}", letter.id);
                }
                Err(_) => {}
            }
        }
        print_all(&printed)
    }
}

/// Whoever asked for letters to be moved wants them all moved, read or not.
fn print_all(lines: &str) -> Result<(), Failure> {
    if lines.is_empty() { Ok(()) } else { print::text(lines).map(drop) }
}
