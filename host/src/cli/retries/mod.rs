//! `tidegate retries`: what waits for another attempt.

mod bury;
mod list;
mod release;

use std::collections::HashSet;

use serde::Serialize;

use super::amiss::Amiss;
use super::groups::Groups;
use super::listing::{Form, FormWanted, Listed, Listing};
use super::source::Source;
use super::{Failure, moment, print};
use crate::broker::Steered;
use crate::manifest::Handler;
use crate::message::MessageId;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List retries that wait, the soonest first
    List(list::Arguments),
    /// Make retries due now; a host takes them within two seconds
    Release(release::Arguments),
    /// Move retries to the dead-letter stream by hand
    Bury(bury::Arguments),
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::List(arguments) => list::run(arguments).await,
        Command::Release(arguments) => release::run(arguments).await,
        Command::Bury(arguments) => bury::run(arguments).await,
    }
}

/// Where the retries are.
#[derive(Debug, clap::Args)]
struct Place {
    /// Only retries of this handler; may be repeated
    #[arg(long = "handler", value_name = "NAME")]
    handlers: Vec<String>,
    /// Only retries on this stream, such as a shard
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    #[command(flatten)]
    wanted: FormWanted,
    #[command(flatten)]
    source: Source,
}

impl Place {
    fn form(&self) -> Form {
        self.wanted.form()
    }

    async fn open(&self) -> Result<Groups, Failure> {
        let mut groups = Groups::open(&self.source, &self.handlers, "tidegate-retries").await?;
        if let Some(stream) = &self.stream {
            groups.handlers.retain(|handler| *handler.stream == **stream);
            if groups.handlers.is_empty() {
                let problem = format!("no such handler reads stream `{stream}`; see `status`");
                return Err(Failure::Usage(problem));
            }
        }
        Ok(groups)
    }
}

/// The ids by the handler for which each waits, and those that wait for none.
///
/// An id that means more than one message, or one for more than one handler, is refused.
async fn locate<'a>(
    groups: &'a Groups,
    ids: &[MessageId],
) -> Result<(Vec<(&'a Handler, Vec<MessageId>)>, Vec<MessageId>), Failure> {
    let mut found: Vec<(&Handler, Vec<MessageId>)> = Vec::new();
    let mut amiss = Amiss::default();
    for handler in &groups.handlers {
        let waiting = groups.broker.retries(handler).which_wait(ids).await;
        let waiting = amiss.pass_over(waiting.map_err(Failure::from))?.unwrap_or_default();
        for (other, others) in &found {
            let both = waiting.iter().find(|id| others.contains(id));
            if let Some(problem) = both.and_then(|id| twice(*id, other, handler)) {
                return Err(Failure::Usage(problem));
            }
        }
        found.push((handler, waiting));
    }
    let located: HashSet<_> = found.iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
    let missing = ids.iter().copied().filter(|id| !located.contains(id)).collect();
    Ok((found, missing))
}

/// Why one id is not enough to say which message is meant.
///
/// The groups of a broadcast's hosts share a message; two shards give ids without asking each other.
fn twice(id: MessageId, one: &Handler, other: &Handler) -> Option<String> {
    if one.name != other.name {
        let (one, other) = (&one.name, &other.name);
        return Some(format!(
            "{id} waits both for `{one}` and for `{other}`; name one with --handler"
        ));
    }
    (one.stream != other.stream).then(|| {
        let (one, other) = (&one.stream, &other.stream);
        format!("{id} waits both on `{one}` and on `{other}`; name one with --stream")
    })
}

/// What became of some retries.
#[derive(Debug, Default)]
struct Tally {
    done: u64,
    /// Named ids that were left alone, each with why.
    left: Vec<(MessageId, &'static str)>,
}

impl Tally {
    fn add(&mut self, id: MessageId, steered: Steered) {
        match steered {
            Steered::Done => self.done += 1,
            Steered::Settled => self.left.push((id, "it is settled, or was never read")),
            Steered::InHand => self.left.push((id, "a host has it in hand")),
            Steered::TooLong => {
                self.left.push((id, "it has more fields than can be buried in one step"));
            }
        }
    }

    fn missing(&mut self, ids: &[MessageId]) {
        self.left.extend(ids.iter().map(|id| (*id, "no retry of this id waits")));
    }

    /// Says what was done and what was not; the latter is a failure where it was named.
    fn verdict(&self, done: &str, form: Form) -> Result<(), Failure> {
        match form {
            Form::Table => {}
            Form::Json => {
                let left = |(id, why): &(MessageId, &'static str)| Left { id: id.to_string(), why };
                print::json(&Report {
                    done: self.done,
                    left: self.left.iter().map(left).collect(),
                })?;
            }
        }
        for (id, why) in &self.left {
            eprintln!("{id} stays: {why}");
        }
        eprintln!("{done} {}", print::count_as(self.done, "retry", "retries"));
        match (self.done, self.left.len()) {
            (0, 0) => Err(Failure::Wrong("no retry waits".to_owned())),
            (_, 0) => Ok(()),
            (_, left) => {
                let left = print::count_as(left as u64, "retry", "retries");
                Err(Failure::Wrong(format!("{left} not {done}")))
            }
        }
    }
}

/// What became of them, for programs.
#[derive(Serialize)]
struct Report {
    done: u64,
    left: Vec<Left>,
}

#[derive(Serialize)]
struct Left {
    id: String,
    why: &'static str,
}

/// Each id once.
fn once(ids: &[MessageId]) -> Vec<MessageId> {
    let mut seen = HashSet::new();
    ids.iter().copied().filter(|id| seen.insert(*id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_named_and_left_alone_is_a_failure() {
        let id = "5-1".parse().unwrap();
        let said =
            |tally: &Tally, done: &str| tally.verdict(done, Form::Table).unwrap_err().to_string();
        let mut tally = Tally::default();
        assert_eq!(said(&tally, "released"), "no retry waits");
        tally.add(id, Steered::Done);
        assert!(tally.verdict("released", Form::Table).is_ok());
        tally.add(id, Steered::InHand);
        assert_eq!(said(&tally, "released"), "1 retry not released");
        tally.missing(&[id]);
        assert_eq!(said(&tally, "buried"), "2 retries not buried");
    }
}
