//! What a redrive has come to: what moved and where, what stays and why.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Failure;
use super::print;
use crate::broker::{DeadLetter, Redriven};

/// Whether letters are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Move,
    /// Nothing moves; it is only said what would.
    Rehearse,
}

/// Which of the chosen letters have to move for it to be a success.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    /// Each: they were named.
    Each,
    /// Those that can.
    Movable,
}

/// A letter that moved.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Moved {
    letter: String,
    stream: String,
    /// The new id there; none while it only would move.
    id: Option<String>,
}

impl Moved {
    /// For people, and for `cut`.
    pub(super) fn line(&self) -> String {
        let id = self.id.as_deref().unwrap_or("-");
        format!("{}\t{}\t{id}\n", self.letter, print::legible(self.stream.as_bytes()))
    }
}

/// What has come of it so far.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) act: Act,
    wanted: Wanted,
    moved: BTreeMap<String, u64>,
    /// Letters that went with another of the same message.
    along: u64,
    pub(super) stayed: u64,
    refused: u64,
    /// Letters that each stream had in the time that was asked for.
    searched: Vec<(String, u64)>,
    /// Whose letters there are, where none is of the handler that was asked for.
    pub(super) others: String,
    /// Whether somebody stopped it.
    pub(super) stopped: bool,
}

impl Tally {
    pub(super) fn new(act: Act, wanted: Wanted) -> Self {
        Self {
            act,
            wanted,
            moved: BTreeMap::new(),
            along: 0,
            stayed: 0,
            refused: 0,
            searched: Vec::new(),
            others: String::new(),
            stopped: false,
        }
    }

    /// Counts a letter: where it moved, else why it stays.
    pub(super) fn add(&mut self, letter: &DeadLetter, what: &Redriven) -> Result<Moved, String> {
        let why = match what {
            Redriven::As(id) => {
                let stream = letter.note.source.clone();
                *self.moved.entry(stream).or_default() += 1;
                return Ok(self.line_of(letter, id));
            }
            Redriven::Missing => "someone else was faster".to_owned(),
            Redriven::NotALetter => "no burial wrote it".to_owned(),
            Redriven::Bodiless => {
                "its body was trimmed before it was buried; there is nothing to put back".to_owned()
            }
            Redriven::Refused(words) => {
                self.refused += 1;
                format!("Redis refuses it: {}", print::legible(words.as_bytes()))
            }
        };
        self.stayed += 1;
        Err(why)
    }

    /// Counts a letter that another of the same message moved for, as the new message of this id.
    pub(super) fn add_along(&mut self, letter: &DeadLetter, id: &str) -> Moved {
        self.along += 1;
        self.line_of(letter, id)
    }

    fn line_of(&self, letter: &DeadLetter, id: &str) -> Moved {
        let id = match self.act {
            Act::Move => Some(id.to_owned()),
            Act::Rehearse => None,
        };
        Moved { letter: letter.id.to_string(), stream: letter.note.source.clone(), id }
    }

    /// Notes that a stream was searched to its end, and how many letters there were to choose from.
    pub(super) fn searched(&mut self, stream: &str, letters: u64) {
        self.searched.push((stream.to_owned(), letters));
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
        let did = match self.act {
            Act::Move => "moved",
            Act::Rehearse => "would move",
        };
        let along = match (self.along, self.act) {
            (0, _) => String::new(),
            (along, Act::Move) => format!("; {} of the same went with it", other(along)),
            (along, Act::Rehearse) => format!("; {} of the same would go with it", other(along)),
        };
        format!("{did} {}{along}", moves.collect::<Vec<_>>().join(", "))
    }

    /// Whether what was asked for was done.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        let wrong = match (self.moved(), self.stayed, self.wanted) {
            _ if self.stopped => {
                "stopped before the end; what did not move stays where it is".to_owned()
            }
            (0, 0, _) => format!("nothing moved: {}", self.nothing()),
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

    /// Why nothing was there to move.
    fn nothing(&self) -> String {
        let all: u64 = self.searched.iter().map(|(_, letters)| letters).sum();
        let streams: Vec<_> = self.searched.iter().map(|(name, _)| format!("`{name}`")).collect();
        let (streams, others) = (streams.join(", "), &self.others);
        match (self.searched.len(), all) {
            (0, _) => "no dead letter matches".to_owned(),
            (_, 0) => format!("no dead letter is on {streams}, or none of that time"),
            (_, 1) => format!("the only dead letter on {streams} does not match{others}"),
            (_, all) => format!("none of the {all} dead letters on {streams} matches{others}"),
        }
    }
}

/// Letters beside those that moved.
fn other(letters: u64) -> String {
    print::count(letters, "other letter")
}
