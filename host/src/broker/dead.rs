//! Dead letters: what an operator reads, puts back, or throws away.

use redis::{RedisResult, Value};
use serde::{Serialize, Serializer};

use super::call::ENTRY_FIELDS_MAX;
use super::letter::{ADDED, MARK};
use super::link::Link;
use super::portion::Portion;
use super::reply::{self, RawEntry};
use super::scripts::Lua;
use super::{Broker, BrokerError};
use crate::message::{Field, MessageId};

/// Letters read from Redis together: few at first, as they may be large, then by their size and so many at most.
const FIRST_PAGE: usize = 16;
const PAGE: usize = 500;

/// One dead-letter stream.
pub struct DeadLetters<'a> {
    broker: &'a Broker,
    stream: String,
    portion: Portion,
    page: usize,
}

/// A message that was buried, and what is known of its end.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// Its id in the dead-letter stream.
    pub id: MessageId,
    /// The original fields, unchanged and in order.
    pub fields: Vec<Field>,
    /// What the burial noted.
    pub note: Note,
}

/// The `tidegate.*` fields of a dead letter, as text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Note {
    /// The stream that the message was on.
    pub source: String,
    /// Its id there.
    #[serde(rename = "source-id")]
    pub id: String,
    /// The group that buried it.
    pub group: String,
    /// The handler that buried it.
    pub handler: String,
    /// The digest of the plugin that saw it last.
    pub plugin: String,
    /// How many attempts it had; a number, unless somebody else wrote it.
    #[serde(serialize_with = "number_if_it_is")]
    pub attempts: String,
    /// The word for why.
    pub reason: String,
    /// The sentence for why.
    pub error: String,
    /// When it was buried (RFC 3339).
    pub time: String,
}

/// What came of putting one letter back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redriven {
    /// It is on its source stream again, under this id.
    As(String),
    /// There is no such letter.
    Missing,
    /// The entry is not one that Tidegate buried.
    NotALetter,
    /// Its body was trimmed before it was buried: there is nothing to put back.
    Bodiless,
    /// Redis refused this one, with these words; it stays.
    Refused(String),
}

impl DeadLetter {
    /// What would come of putting it back, as far as can be told without doing it; its new id is empty.
    pub fn prospect(&self) -> Redriven {
        if self.fields.is_empty() { Redriven::Bodiless } else { Redriven::As(String::new()) }
    }
}

impl Broker {
    /// The dead letters on a stream.
    pub fn dead_letters(&self, stream: &str) -> DeadLetters<'_> {
        let portion = Portion::default();
        DeadLetters { broker: self, stream: stream.to_owned(), portion, page: FIRST_PAGE }
    }
}

impl DeadLetters<'_> {
    /// A page of letters after `after`, the oldest first; empty at the end.
    ///
    /// Entries that no burial wrote are passed over, though a page may then be
    /// shorter; the second value is where to go on.
    ///
    /// # Errors
    ///
    /// When Redis does not answer, or the key is not a stream.
    pub async fn page(
        &mut self,
        after: Option<MessageId>,
    ) -> Result<(Vec<DeadLetter>, Option<MessageId>), BrokerError> {
        let start = after.map_or("-".to_owned(), |id| format!("({id}"));
        let entries = self.range(&start, "+", self.portion.of(self.page)).await?;
        self.portion.came(&entries);
        self.page = (self.page * 2).min(PAGE);
        let last = entries.last().map(|entry| entry.id);
        Ok((entries.into_iter().filter_map(letter).collect(), last))
    }

    /// One letter by its id in the dead-letter stream.
    ///
    /// # Errors
    ///
    /// As [`Self::page`].
    pub async fn get(&self, id: MessageId) -> Result<Option<DeadLetter>, BrokerError> {
        let id = id.to_string();
        Ok(self.range(&id, &id, 1).await?.into_iter().find_map(letter))
    }

    /// The id of the newest entry; none on an empty stream, or where there is no stream.
    ///
    /// # Errors
    ///
    /// As [`Self::page`].
    pub async fn last(&self) -> Result<Option<MessageId>, BrokerError> {
        let mut asking = redis::cmd("XREVRANGE");
        asking.arg(&self.stream).arg("+").arg("-").arg("COUNT").arg(1);
        let answer = self.ask("read", &self.stream, &asking).await?;
        Ok(reply::entries("XREVRANGE", answer)?.first().map(|entry| entry.id))
    }

    /// Puts letters' original fields back on their source streams, in order, and removes each letter in the same
    /// step; says for each what came of it.
    ///
    /// The message is a new one there, with all its attempts before it, for every group that reads the stream.
    ///
    /// # Errors
    ///
    /// When Redis does not answer; each letter then either moved or stays.
    pub async fn redrive(&self, letters: &[&DeadLetter]) -> Result<Vec<Redriven>, BrokerError> {
        let mut redriven = Vec::with_capacity(letters.len());
        for letters in letters.chunk_by(|one, next| !is_long(one) && !is_long(next)) {
            match letters {
                [letter] if is_long(letter) => redriven.push(self.redrive_long(letter).await?),
                _ => redriven.extend(self.redrive_together(letters).await?),
            }
        }
        Ok(redriven)
    }

    async fn redrive_together(
        &self,
        letters: &[&DeadLetter],
    ) -> Result<Vec<Redriven>, BrokerError> {
        let mut putting = redis::pipe();
        for letter in letters {
            let mut one = Lua::Redrive.call(&[&self.stream, &letter.note.source]);
            one.arg(letter.id.to_string()).arg(ADDED).arg(format!("{MARK}source"));
            putting.add_command(one);
        }
        let failed = |source| {
            self.broker.failed(format!("redrive the letters of stream `{}`", self.stream), source)
        };
        let answers = self.broker.link.pipeline(putting.ignore_errors()).await.map_err(failed)?;
        answers.into_iter().map(redriven).collect()
    }

    /// Puts back a letter with more fields than a script can take, in two steps: should this
    /// end in between, the message is back and its letter still there.
    async fn redrive_long(&self, letter: &DeadLetter) -> Result<Redriven, BrokerError> {
        let source = &letter.note.source;
        let mut adding = redis::cmd("XADD");
        adding.arg(source).arg("*");
        for field in &letter.fields {
            adding.arg(&field.name).arg(&field.value);
        }
        let id = self.ask("redrive a dead letter to", source, &adding).await?;
        self.purge(&[letter.id]).await?;
        Ok(Redriven::As(reply::text("XADD", id)?))
    }

    /// Removes letters for good (`XDEL`) and says how many there were.
    ///
    /// # Errors
    ///
    /// As [`Self::page`].
    pub async fn purge(&self, ids: &[MessageId]) -> Result<u64, BrokerError> {
        let mut removed = 0;
        for ids in ids.chunks(PAGE) {
            let mut removing = redis::cmd("XDEL");
            removing.arg(&self.stream);
            for id in ids {
                removing.arg(id.to_string());
            }
            let answer = self.ask("purge", &self.stream, &removing).await?;
            removed += reply::integer("XDEL", &answer)?.max(0) as u64;
        }
        Ok(removed)
    }

    async fn range(
        &self,
        from: &str,
        to: &str,
        count: usize,
    ) -> Result<Vec<RawEntry>, BrokerError> {
        let mut asking = redis::cmd("XRANGE");
        asking.arg(&self.stream).arg(from).arg(to).arg("COUNT").arg(count);
        let answer = self.ask("read", &self.stream, &asking).await?;
        Ok(reply::entries("XRANGE", answer)?)
    }

    async fn ask(
        &self,
        purpose: &str,
        stream: &str,
        command: &redis::Cmd,
    ) -> Result<Value, BrokerError> {
        let link: &Link = &self.broker.link;
        let failed = |source| self.broker.failed(format!("{purpose} stream `{stream}`"), source);
        link.query(command).await.map_err(failed)
    }
}

fn number_if_it_is<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    match text.parse() {
        Ok(number) => serializer.serialize_u64(number),
        Err(_) => serializer.serialize_str(text),
    }
}

fn is_long(letter: &DeadLetter) -> bool {
    letter.fields.len() > ENTRY_FIELDS_MAX
}

/// What the answer of `redrive.lua` means.
fn redriven(answer: RedisResult<Value>) -> Result<Redriven, BrokerError> {
    match answer {
        Err(refusal) => {
            let words = refusal.to_string();
            // A server adds where in which script it happened, which tells a reader nothing.
            let words = words.split(" script: ").next().unwrap_or_default();
            Ok(Redriven::Refused(words.to_owned()))
        }
        Ok(Value::Int(0)) => Ok(Redriven::Missing),
        Ok(Value::Int(-2)) => Ok(Redriven::Bodiless),
        Ok(Value::Int(_)) => Ok(Redriven::NotALetter),
        Ok(id) => Ok(Redriven::As(reply::text("redrive.lua", id)?)),
    }
}

/// Reads an entry as a dead letter: its last fields are the ones a burial adds.
fn letter(entry: RawEntry) -> Option<DeadLetter> {
    let mut fields = entry.fields?;
    let own = fields.len().checked_sub(ADDED)?;
    let mut added = fields.split_off(own).into_iter();
    let mut next = |name: &str| {
        let field = added.next()?;
        let is_it = field.name.strip_prefix(MARK.as_bytes()) == Some(name.as_bytes());
        is_it.then(|| String::from_utf8_lossy(&field.value).into_owned())
    };
    let note = Note {
        source: next("source")?,
        id: next("id")?,
        group: next("group")?,
        handler: next("handler")?,
        plugin: next("plugin")?,
        attempts: next("attempts")?,
        reason: next("reason")?,
        error: next("error")?,
        time: next("time")?,
    };
    Some(DeadLetter { id: entry.id, fields, note })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::letter::{Death, epitaph};
    use super::super::post::tests::handler;
    use super::*;
    use crate::outcome::Reason;

    fn buried() -> Vec<Field> {
        let death =
            Death { id: "7-1".parse().unwrap(), attempts: 2, reason: Reason::Reject, error: "no" };
        epitaph(&handler(), "p", &death, SystemTime::now()).to_vec()
    }

    #[test]
    fn a_letter_reads_back_with_its_original_fields_apart() {
        let original = vec![Field::new("tidegate.source", "mine"), Field::new("a", [0xff])];
        let fields = [original.clone(), buried()].concat();
        let read = letter(RawEntry { id: "1-0".parse().unwrap(), fields: Some(fields) }).unwrap();
        assert_eq!(read.fields, original);
        assert_eq!((read.note.source.as_str(), read.note.reason.as_str()), ("orders", "reject"));
    }

    #[test]
    fn an_entry_that_nobody_buried_is_no_letter() {
        let id = "1-0".parse().unwrap();
        assert_eq!(letter(RawEntry { id, fields: Some(vec![Field::new("a", "b")]) }), None);
        assert_eq!(letter(RawEntry { id, fields: None }), None);
    }
}
