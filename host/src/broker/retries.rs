//! Retries that wait: what an operator reads, makes due at once, or buries by hand.
//!
//! Each step checks that the entry still waits, so that a host which takes it at the same moment wins.

use std::time::{Duration, SystemTime};

use redis::{RedisResult, Value};

use super::call::ENTRY_FIELDS_MAX;
use super::claim::{failures, last_error};
use super::keys::{Keys, WAITING};
use super::letter::{ADDED, Death, epitaph};
use super::pending::{maybe, of_each};
use super::reply::{number, server_millis};
use super::scripts::Lua;
use super::trouble::Trouble;
use super::{Broker, BrokerError, reply};
use crate::manifest::Handler;
use crate::message::{Field, MessageId};
use crate::outcome::Reason;

/// Retries asked for or released together.
const PAGE: usize = 500;

/// The retries of one handler.
pub struct Retries<'a> {
    broker: &'a Broker,
    handler: &'a Handler,
    keys: Keys,
}

/// An entry that waits for another attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its id.
    pub id: MessageId,
    /// When it is due, by the server's clock: milliseconds since the Unix epoch.
    pub due: u64,
    /// In how many milliseconds that is; 0 for now.
    pub due_in: u64,
    /// How often it has failed.
    pub failures: u32,
    /// What the last failure said; none before the first.
    pub error: Option<String>,
}

/// What came of asking for an entry that was thought to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steered {
    /// It was done.
    Done,
    /// It is not pending: it was settled meanwhile, or never read.
    Settled,
    /// A host has it in hand.
    InHand,
    /// It has more fields than can be buried in one step.
    TooLong,
}

impl Steered {
    /// What a script answers for one id.
    fn of(answer: &Value) -> Self {
        match answer {
            Value::Int(1) => Self::Done,
            Value::Int(0) => Self::Settled,
            _ => Self::InHand,
        }
    }
}

impl Broker {
    /// The retries of a handler.
    pub fn retries<'a>(&'a self, handler: &'a Handler) -> Retries<'a> {
        let keys = Keys::of(handler);
        Retries { broker: self, handler, keys }
    }
}

/// A walk through the retries of a handler that wait now.
pub struct Walk<'a> {
    retries: &'a Retries<'a>,
    after: Option<MessageId>,
    end: Option<MessageId>,
}

impl Walk<'_> {
    /// The next ids; none at the end.
    ///
    /// # Errors
    ///
    /// As [`Retries::page`].
    pub async fn next(&mut self) -> Result<Vec<MessageId>, BrokerError> {
        let Some(end) = self.end else { return Ok(Vec::new()) };
        let Retries { broker, handler, .. } = self.retries;
        let range = (self.after, end);
        let rows = broker.pending_page(handler, Duration::ZERO, range, Some(WAITING)).await?;
        self.after = rows.last().map(|row| row.id);
        if rows.is_empty() {
            self.end = None;
        }
        Ok(rows.into_iter().map(|row| row.id).collect())
    }
}

impl Retries<'_> {
    /// Retries by when they are due, the soonest first, from the `skipped`-th on; none at the end.
    ///
    /// A page is as things stand now: what a host takes meanwhile moves the others up.
    ///
    /// # Errors
    ///
    /// When Redis does not answer, or a key is not of its type.
    pub async fn page(&self, skipped: usize) -> Result<Vec<Waiting>, BrokerError> {
        let mut asking = redis::pipe();
        asking.cmd("TIME");
        let ranging = asking.cmd("ZRANGE").arg(&self.keys.waiting);
        ranging.arg(skipped).arg(skipped + PAGE - 1).arg("WITHSCORES");
        let mut answers = self.ask(asking).await?.into_iter();
        let now = server_millis(answers.next().unwrap_or_default())?;
        let members = reply::fields("ZRANGE", answers.next().unwrap_or_default())?;
        let mut waiting: Vec<Waiting> = members.iter().filter_map(|m| waiting(m, now)).collect();
        if waiting.is_empty() {
            return Ok(waiting);
        }
        let ids: Vec<_> = waiting.iter().map(|retry| retry.id).collect();
        let recorded = self.recorded(&ids).await?;
        for (retry, recorded) in waiting.iter_mut().zip(recorded) {
            retry.failures = recorded.as_deref().map_or(0, failures);
            retry.error = recorded.as_deref().map(last_error);
        }
        Ok(waiting)
    }

    /// Those of the ids that wait here.
    ///
    /// # Errors
    ///
    /// As [`Self::page`].
    pub async fn which_wait(&self, ids: &[MessageId]) -> Result<Vec<MessageId>, BrokerError> {
        let mut found = Vec::new();
        for ids in ids.chunks(PAGE) {
            let mut asking = redis::pipe();
            for id in ids {
                let asking = asking.cmd("XPENDING").arg(&*self.handler.stream);
                asking.arg(&*self.handler.group).arg(id.to_string()).arg(id.to_string());
                asking.arg(1).arg(WAITING);
            }
            let answers = match self.ask(asking).await {
                Err(BrokerError::Command { source, .. })
                    if Trouble::of(&source) == Trouble::GroupGone =>
                {
                    return Ok(found);
                }
                answers => answers?,
            };
            for (id, answer) in ids.iter().zip(answers) {
                found.extend((!reply::array("XPENDING", answer)?.is_empty()).then_some(*id));
            }
        }
        Ok(found)
    }

    /// A walk through all that wait now, by id: what comes to wait behind it is not met twice.
    ///
    /// # Errors
    ///
    /// As [`Self::page`].
    pub async fn walk(&self) -> Result<Walk<'_>, BrokerError> {
        let end = self.broker.last_pending(self.handler).await?.flatten();
        Ok(Walk { retries: self, after: None, end })
    }

    /// Makes entries due now; says for each what came of it.
    ///
    /// # Errors
    ///
    /// As [`Self::page`]; some may be released all the same.
    pub async fn release(&self, ids: &[MessageId]) -> Result<Vec<Steered>, BrokerError> {
        let mut released = Vec::with_capacity(ids.len());
        for ids in ids.chunks(PAGE) {
            let mut releasing = Lua::Release.call(&[&self.keys.stream, &self.keys.waiting]);
            releasing.arg(&*self.handler.group).arg(WAITING);
            for id in ids {
                releasing.arg(id.to_string());
            }
            let answer = self.broker.link.query(&releasing).await.map_err(|e| self.failed(e))?;
            released.extend(reply::array("release.lua", answer)?.iter().map(Steered::of));
        }
        Ok(released)
    }

    /// Moves an entry to the dead-letter stream, with its attempts as they are recorded.
    ///
    /// # Errors
    ///
    /// As [`Self::page`], or when Redis refuses the letter; the entry then waits as before.
    pub async fn bury(&self, id: MessageId, because: Option<&str>) -> Result<Steered, BrokerError> {
        let mut asking = redis::pipe();
        asking.cmd("XRANGE").arg(&self.keys.stream).arg(id.to_string()).arg(id.to_string());
        let mut answers = self.ask(asking).await?.into_iter();
        let entries = reply::entries("XRANGE", answers.next().unwrap_or_default())?;
        let body = entries.into_iter().next().and_then(|entry| entry.fields);
        let recorded = self.recorded(&[id]).await?.into_iter().next().flatten();
        // Without a body there is nothing left to retry, or to put back.
        let reason = if body.is_some() { Reason::Retries } else { Reason::Trimmed };
        let fields = body.unwrap_or_default();
        if fields.len() + ADDED > ENTRY_FIELDS_MAX {
            return Ok(Steered::TooLong);
        }
        let attempts = recorded.as_deref().map_or(0, failures);
        let error = by_hand(because, recorded.as_deref().map(last_error).as_deref());
        let death = Death { id, attempts, reason, error: &error };
        // Which plugin failed is not known here.
        let added = epitaph(self.handler, "", &death, SystemTime::now());
        let keys = [
            &*self.keys.stream,
            &*self.keys.failures,
            &*self.keys.waiting,
            &*self.handler.dead_letter,
        ];
        let mut burying = Lua::Bury.call(&keys);
        burying.arg(&*self.handler.group).arg(WAITING).arg(id.to_string()).arg("XACK");
        for Field { name, value } in fields.iter().chain(&added) {
            burying.arg(name).arg(value);
        }
        let answer = self.broker.link.query(&burying).await.map_err(|e| self.failed(e))?;
        Ok(Steered::of(&answer))
    }

    async fn recorded(&self, ids: &[MessageId]) -> Result<Vec<Option<Vec<u8>>>, BrokerError> {
        let asking = of_each("HMGET", &self.keys.failures, ids);
        let answer = self.broker.link.query(&asking).await.map_err(|e| self.failed(e))?;
        let recorded = reply::array("HMGET", answer)?.into_iter();
        Ok(recorded.map(|one| maybe("HMGET", one)).collect::<Result<_, _>>()?)
    }

    async fn ask(&self, mut asking: redis::Pipeline) -> Result<Vec<Value>, BrokerError> {
        let answers = self.broker.link.pipeline(asking.ignore_errors()).await;
        let answers = answers.and_then(|answers| answers.into_iter().collect::<RedisResult<_>>());
        answers.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: redis::RedisError) -> BrokerError {
        let (handler, stream) = (&self.handler.name, &self.handler.stream);
        self.broker.failed(
            format!("reach the retries of handler `{handler}` on stream `{stream}`"),
            source,
        )
    }
}

/// The error of a letter that a person wrote.
fn by_hand(because: Option<&str>, last: Option<&str>) -> String {
    let last = last.filter(|last| !last.is_empty());
    match (because, last) {
        (Some(because), Some(last)) => format!("buried by hand: {because}; last error: {last}"),
        (Some(because), None) => format!("buried by hand: {because}"),
        (None, Some(last)) => format!("buried by hand: {last}"),
        (None, None) => "buried by hand".to_owned(),
    }
}

fn waiting(member: &Field, now: u64) -> Option<Waiting> {
    let id = std::str::from_utf8(&member.name).ok()?.parse().ok()?;
    let due = number(&member.value);
    Some(Waiting { id, due, due_in: due.saturating_sub(now), failures: 0, error: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burial_by_hand_keeps_the_last_error() {
        let said = by_hand(Some("customer left"), Some("no ledger"));
        assert_eq!(said, "buried by hand: customer left; last error: no ledger");
        assert_eq!(by_hand(None, Some("no ledger")), "buried by hand: no ledger");
        assert_eq!(by_hand(None, Some("")), "buried by hand");
    }

    #[test]
    fn a_retry_that_is_overdue_is_due_now() {
        let retry = waiting(&Field::new("5-1", "1000"), 3000).unwrap();
        assert_eq!((retry.id, retry.due_in), ("5-1".parse().unwrap(), 0));
        assert_eq!(waiting(&Field::new("5-1", "1.7e12"), 0).unwrap().due, 1_700_000_000_000);
        assert_eq!(waiting(&Field::new("no id", "1"), 0), None);
    }
}
