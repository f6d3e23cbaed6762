//! Which dead letters are meant: on which streams, of which handler and reason, or by id.

use std::collections::{BTreeSet, HashSet};

use clap::ArgGroup;
use clap::builder::PossibleValuesParser;

use super::super::Failure;
use super::super::moment::{Moment, moment};
use super::super::print;
use super::super::source::Source;
use crate::broker::{Broker, DeadLetter, DeadLetters};
use crate::manifest::{Handler, Supply};
use crate::message::MessageId;
use crate::outcome::Reason;

/// Where the letters are.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// The dead-letter stream; by default all of the manifest's handlers
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    #[command(flatten)]
    source: Source,
}

impl Place {
    /// Connects; with `--stream` and `--redis` there is no need for a manifest.
    pub(super) async fn open(&self) -> Result<Graveyard, Failure> {
        let streams = match &self.stream {
            Some(stream) => vec![stream.clone()],
            None => {
                let handlers = self.source.manifest.load()?.handlers;
                handlers.iter().filter(|handler| !has_letters(handler)).for_each(say_none);
                dead_letter_streams(&handlers)
            }
        };
        Ok(Graveyard { broker: self.source.connect("tidegate-dead").await?, streams })
    }
}

/// The dead-letter streams of the handlers, each once.
pub(super) fn dead_letter_streams(handlers: &[Handler]) -> Vec<String> {
    let mut seen = HashSet::new();
    let kept = handlers.iter().filter(|handler| has_letters(handler));
    let streams = kept.flat_map(Handler::on_each_stream).map(|one| one.dead_letter.to_string());
    streams.filter(|stream| seen.insert(stream.clone())).collect()
}

/// Whether what a handler gives up is buried.
fn has_letters(handler: &Handler) -> bool {
    match handler.supply {
        Supply::Group | Supply::Broadcast => true,
        Supply::Channel => false,
    }
}

fn say_none(handler: &Handler) {
    eprintln!("handler `{}` is on a channel, which has no dead letters", handler.name);
}

/// Which of the letters.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub(super) struct Filter {
    /// Only letters that this handler buried
    #[arg(long, value_name = "NAME")]
    pub(super) handler: Option<String>,
    /// Only letters that were buried for this reason
    #[arg(long, value_parser = PossibleValuesParser::new(Reason::ALL.map(Reason::as_str)))]
    pub(super) reason: Option<String>,
    /// Only letters buried at this time or later: an id on the dead-letter stream, a time such as
    /// 2026-11-21T10:00:00Z, or how long ago, such as 30m
    #[arg(long, value_name = "ID|TIME", value_parser = moment)]
    pub(super) since: Option<Moment>,
    /// Only letters buried at this time or earlier
    #[arg(long, value_name = "ID|TIME", value_parser = moment)]
    pub(super) until: Option<Moment>,
    /// Only letters whose error has this text in it
    #[arg(long, value_name = "TEXT")]
    pub(super) matching: Option<String>,
}

impl Filter {
    /// Whether the letter is meant, if it was buried in time.
    pub(super) fn accepts(&self, letter: &DeadLetter) -> bool {
        let note = &letter.note;
        self.handler.as_ref().is_none_or(|handler| *handler == note.handler)
            && self.reason.as_ref().is_none_or(|reason| *reason == note.reason)
            && self.matching.as_ref().is_none_or(|text| note.error.contains(text))
    }
}

/// The letters that something is to be done to; never all of them by accident.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("which").required(true).args(["ids", "all"])))]
pub(super) struct Selection {
    /// Ids on the dead-letter stream, as `list` shows them
    #[arg(value_name = "ID")]
    pub(super) ids: Vec<MessageId>,
    /// All letters that are there now, or those that the filters leave of them
    #[arg(long)]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) filter: Filter,
}

/// A selection that makes sense.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The letters of these ids, each once.
    These(Vec<MessageId>),
    /// Every letter that the filter accepts.
    All(Filter),
}

impl Selection {
    pub(super) fn choice(&self) -> Result<Choice, Failure> {
        if self.all {
            return Ok(Choice::All(self.filter.clone()));
        }
        if self.filter != Filter::default() {
            let problem = "filters such as --handler choose among --all; an id needs none";
            return Err(Failure::Usage(problem.to_owned()));
        }
        let mut seen = HashSet::new();
        Ok(Choice::These(self.ids.iter().copied().filter(|id| seen.insert(*id)).collect()))
    }
}

/// The streams to look at.
pub(super) struct Graveyard {
    broker: Broker,
    streams: Vec<String>,
}

/// What was found of some ids: letters by stream, and the ids that no stream has.
pub(super) struct Found {
    pub(super) letters: Vec<(String, Vec<DeadLetter>)>,
    pub(super) missing: Vec<MessageId>,
}

impl Graveyard {
    pub(super) fn streams(&self) -> &[String] {
        &self.streams
    }

    pub(super) fn letters(&self, stream: &str) -> DeadLetters<'_> {
        self.broker.dead_letters(stream)
    }

    /// Every letter of this id, with its stream: streams give ids without asking each other.
    pub(super) async fn get(&self, id: MessageId) -> Result<Vec<(&str, DeadLetter)>, Failure> {
        let mut found = Vec::new();
        for stream in &self.streams {
            let letter = self.letters(stream).get(id).await?;
            found.extend(letter.map(|letter| (stream.as_str(), letter)));
        }
        Ok(found)
    }

    /// The letters of these ids; an id that two streams have is refused.
    pub(super) async fn find(&self, ids: &[MessageId]) -> Result<Found, Failure> {
        let empty = |stream: &String| (stream.clone(), Vec::new());
        let mut found =
            Found { letters: self.streams.iter().map(empty).collect(), missing: Vec::new() };
        for id in ids {
            let mut places = self.get(*id).await?.into_iter();
            match (places.next(), places.next()) {
                (None, _) => found.missing.push(*id),
                (Some((first, _)), Some((second, _))) => return Err(twice(*id, first, second)),
                (Some((stream, letter)), None) => {
                    let place = found.letters.iter_mut().find(|(name, _)| name == stream);
                    place.into_iter().for_each(|(_, letters)| letters.push(letter.clone()));
                }
            }
        }
        Ok(found)
    }

    /// Walks through what is on a stream now.
    pub(super) async fn walk(&self, stream: &str, filter: &Filter) -> Result<Walk<'_>, Failure> {
        let letters = self.letters(stream);
        let now = self.broker.now().await?;
        let newest = letters.last().await?;
        let until = filter.until.map(|until| until.last(now));
        let end = newest.map(|newest| until.map_or(newest, |until| until.min(newest)));
        let after = filter.since.and_then(|since| since.first(now).before());
        Ok(Walk { letters, filter: filter.clone(), after, end, seen: Seen::default() })
    }
}

/// Why one id is not enough to say which letter is meant.
pub(super) fn twice(id: MessageId, first: &str, second: &str) -> Failure {
    Failure::Usage(format!("{id} is both on `{first}` and on `{second}`; name one with --stream"))
}

/// Says which ids no stream has.
pub(super) fn missing(ids: &[MessageId]) -> Result<(), Failure> {
    if ids.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    Err(Failure::Wrong(format!("no such dead letter: {}", ids.join(", "))))
}

/// A walk through a stream, a page at a time, up to what was its end at the start: it
/// ends even while letters arrive faster than they are read.
pub(super) struct Walk<'a> {
    pub(super) letters: DeadLetters<'a>,
    filter: Filter,
    after: Option<MessageId>,
    end: Option<MessageId>,
    /// Letters of that time that were looked at, meant or not.
    pub(super) seen: Seen,
}

/// Handlers that are named at most where no letter is of the one that was asked for.
const NAMED: usize = 10;

/// What was looked at, whether or not it was meant.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    pub(super) letters: u64,
    /// Some of the handlers that they are of.
    handlers: BTreeSet<String>,
}

impl Seen {
    fn note(&mut self, page: &[DeadLetter]) {
        self.letters += page.len() as u64;
        for letter in page {
            if self.handlers.len() < NAMED && !self.handlers.contains(&letter.note.handler) {
                self.handlers.insert(letter.note.handler.clone());
            }
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.letters += other.letters;
        self.handlers.extend(other.handlers);
    }

    /// Why there is nothing to show.
    pub(super) fn sentence(&self, filter: &Filter) -> String {
        match self.letters {
            0 => "no dead letters".to_owned(),
            1 => format!("the only dead letter does not match{}", self.others(filter)),
            all => format!("none of the {all} dead letters matches{}", self.others(filter)),
        }
    }

    /// Whose letters there are, where a handler was asked for that has none.
    pub(super) fn others(&self, filter: &Filter) -> String {
        let wanted = filter.handler.as_ref().filter(|handler| !self.handlers.contains(*handler));
        if wanted.is_none() || self.handlers.is_empty() {
            return String::new();
        }
        let of = |name: &String| format!("`{}`", print::legible(name.as_bytes()));
        format!(
            "; there are letters of {}",
            self.handlers.iter().map(of).collect::<Vec<_>>().join(", ")
        )
    }
}

impl Walk<'_> {
    /// The letters of the next page that are meant, which may be none; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<DeadLetter>>, Failure> {
        if self.after >= self.end {
            return Ok(None);
        }
        let (mut page, last) = self.letters.page(self.after).await?;
        if last.is_none() {
            return Ok(None);
        }
        self.after = last;
        page.retain(|letter| Some(letter.id) <= self.end);
        self.seen.note(&page);
        page.retain(|letter| self.filter.accepts(letter));
        Ok(Some(page))
    }
}
