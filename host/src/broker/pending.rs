//! What a group has read and not settled: entry by entry, a page at a time.

use std::collections::HashMap;
use std::time::Duration;

use redis::{Cmd, RedisResult, Value};

use super::claim::{failures, last_error};
use super::inspect::bearer;
use super::keys::{Keys, WAITING};
use super::reply::{number, server_millis};
use super::trouble::Trouble;
use super::{Broker, BrokerError, reply};
use crate::manifest::{Handler, Supply};
use crate::message::MessageId;

/// Entries asked for together: quick for the server, and with their errors a few MB at most.
const PAGE: usize = 500;

/// An entry that was read and is not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingEntry {
    /// Its id.
    pub id: MessageId,
    /// Who has it.
    pub holder: Holder,
    /// When it was last read, taken over or put to wait: milliseconds since the Unix epoch, by the server's clock.
    pub since: u64,
    /// For how many milliseconds it has been there.
    pub idle: u64,
    /// How often it was delivered, as Redis counts.
    pub deliveries: u64,
    /// How often its handling failed.
    pub failures: u32,
    /// Whether it runs apart from all others, as a host died with it in flight.
    pub suspected: bool,
    /// What the last failure said; none before the first.
    pub error: Option<String>,
}

/// Who has a pending entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A host that shows that it lives.
    Alive(String),
    /// A consumer that shows no sign of life.
    Silent(String),
    /// Nobody: it waits for another attempt.
    Nobody {
        /// In how many milliseconds that is due, 0 for now; none where that was forgotten, which a host mends.
        due_in: Option<u64>,
    },
}

/// A walk through the pending entries of a group, by id, up to what was its end at the start.
pub struct PendingEntries<'a> {
    broker: &'a Broker,
    handler: &'a Handler,
    keys: Keys,
    idle: Duration,
    after: Option<MessageId>,
    end: Option<MessageId>,
    alive: HashMap<String, bool>,
}

/// A row of `XPENDING`.
pub(super) struct Row {
    pub(super) id: MessageId,
    pub(super) consumer: String,
    idle: u64,
    deliveries: u64,
}

impl Broker {
    /// The pending entries of a handler that have been idle for at least so long; none while
    /// its group does not exist.
    ///
    /// # Errors
    ///
    /// When Redis does not answer, or the key is not a stream.
    pub async fn pending<'a>(
        &'a self,
        handler: &'a Handler,
        idle: Duration,
    ) -> Result<Option<PendingEntries<'a>>, BrokerError> {
        let Some(end) = self.last_pending(handler).await? else { return Ok(None) };
        let keys = Keys::of(handler);
        let alive = HashMap::new();
        Ok(Some(PendingEntries { broker: self, handler, keys, idle, after: None, end, alive }))
    }

    /// The last of the pending entries, if there are any; none while the group does not exist.
    pub(super) async fn last_pending(
        &self,
        handler: &Handler,
    ) -> Result<Option<Option<MessageId>>, BrokerError> {
        let mut asking = redis::cmd("XPENDING");
        asking.arg(&*handler.stream).arg(&*handler.group);
        let summary = match self.link.query(&asking).await {
            Err(error) if Trouble::of(&error) == Trouble::GroupGone => return Ok(None),
            answer => reply::array("XPENDING", answer.map_err(|e| self.unread(handler, e))?)?,
        };
        match summary.into_iter().nth(2) {
            Some(Value::Nil) | None => Ok(Some(None)),
            Some(last) => Ok(Some(Some(reply::id("XPENDING", &last)?))),
        }
    }

    /// A page of `XPENDING`, of one consumer if it is named.
    pub(super) async fn pending_page(
        &self,
        handler: &Handler,
        idle: Duration,
        range: (Option<MessageId>, MessageId),
        consumer: Option<&str>,
    ) -> Result<Vec<Row>, BrokerError> {
        let mut asking = redis::cmd("XPENDING");
        asking.arg(&*handler.stream).arg(&*handler.group);
        asking.arg("IDLE").arg(idle.as_millis() as u64);
        asking.arg(range.0.map_or("-".to_owned(), |id| format!("({id}")));
        asking.arg(range.1.to_string()).arg(PAGE).arg(consumer);
        let answer = self.link.query(&asking).await.map_err(|e| self.unread(handler, e))?;
        let rows = reply::array("XPENDING", answer)?.into_iter().map(row);
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn unread(&self, handler: &Handler, source: redis::RedisError) -> BrokerError {
        let (stream, group) = (&handler.stream, &handler.group);
        self.failed(format!("read what group `{group}` of stream `{stream}` holds"), source)
    }
}

impl PendingEntries<'_> {
    /// The next entries; none at the end.
    ///
    /// # Errors
    ///
    /// As [`Broker::pending`].
    pub async fn next(&mut self) -> Result<Vec<PendingEntry>, BrokerError> {
        let Some(end) = self.end else { return Ok(Vec::new()) };
        let range = (self.after, end);
        let rows = self.broker.pending_page(self.handler, self.idle, range, None).await?;
        self.after = rows.last().map(|row| row.id);
        if rows.is_empty() {
            self.end = None;
            return Ok(Vec::new());
        }
        self.learn(rows).await
    }

    /// The key by which the host behind a consumer shows that it lives: an ordered stream's goes with the
    /// stream as the manifest names it, a broadcast's with the group as the manifest names it.
    fn sign_of(&self, consumer: &str) -> String {
        let Handler { stream, group, .. } = self.handler;
        let host = bearer(consumer);
        let base = group.strip_suffix(consumer).and_then(|group| group.strip_suffix(':'));
        match (self.handler.supply, base) {
            (Supply::Broadcast, Some(base)) => Keys::new(stream, base).live(host),
            (Supply::Group | Supply::Broadcast | Supply::Channel, _) => {
                Keys::new(self.handler.named_stream(), group).live(host)
            }
        }
    }

    /// Adds to rows what the other keys know of them.
    async fn learn(&mut self, rows: Vec<Row>) -> Result<Vec<PendingEntry>, BrokerError> {
        let mut unknown: Vec<String> = rows.iter().map(|row| row.consumer.clone()).collect();
        unknown.sort();
        unknown.dedup();
        unknown.retain(|name| name != WAITING && !self.alive.contains_key(name));
        let ids: Vec<MessageId> = rows.iter().map(|row| row.id).collect();
        let mut asking = redis::pipe();
        asking.cmd("TIME");
        asking.add_command(of_each("HMGET", &self.keys.failures, &ids));
        asking.add_command(of_each("ZMSCORE", &self.keys.waiting, &ids));
        asking.add_command(of_each("HMGET", &self.keys.deaths, &ids));
        for name in &unknown {
            asking.cmd("EXISTS").arg(self.sign_of(name));
        }
        let failed = |source| self.broker.unread(self.handler, source);
        let answers = self.broker.link.pipeline(asking.ignore_errors()).await.map_err(failed)?;
        let answers: Vec<Value> =
            answers.into_iter().collect::<RedisResult<_>>().map_err(failed)?;
        let mut answers = answers.into_iter();
        let mut answer = || answers.next().unwrap_or_default();
        let now = server_millis(answer())?;
        let recorded = reply::array("HMGET", answer())?;
        let due = reply::array("ZMSCORE", answer())?;
        let deaths = reply::array("HMGET", answer())?;
        self.alive.extend(unknown.into_iter().map(|name| (name, answer() == Value::Int(1))));
        let known = recorded.into_iter().zip(due).zip(deaths);
        rows.into_iter()
            .zip(known)
            .map(|(row, ((recorded, due), deaths))| {
                let suspected = deaths != Value::Nil;
                Ok(PendingEntry { suspected, ..self.entry(row, now, recorded, due)? })
            })
            .collect()
    }

    fn entry(
        &self,
        row: Row,
        now: u64,
        recorded: Value,
        due: Value,
    ) -> Result<PendingEntry, reply::UnexpectedReply> {
        let recorded = maybe("HMGET", recorded)?;
        let due_in = maybe("ZMSCORE", due)?.map(|due| number(&due).saturating_sub(now));
        let holder = match self.alive.get(&row.consumer) {
            _ if row.consumer == WAITING => Holder::Nobody { due_in },
            Some(true) => Holder::Alive(bearer(&row.consumer).to_owned()),
            Some(false) | None => Holder::Silent(row.consumer),
        };
        Ok(PendingEntry {
            id: row.id,
            holder,
            since: now.saturating_sub(row.idle),
            idle: row.idle,
            deliveries: row.deliveries,
            failures: recorded.as_deref().map_or(0, failures),
            suspected: false,
            error: recorded.as_deref().map(last_error),
        })
    }
}

/// A command that asks a key for what it knows of each id.
pub(super) fn of_each(command: &str, key: &str, ids: &[MessageId]) -> Cmd {
    let mut asking = redis::cmd(command);
    asking.arg(key);
    for id in ids {
        asking.arg(id.to_string());
    }
    asking
}

/// What was answered, unless it was nil.
pub(super) fn maybe(
    command: &'static str,
    answer: Value,
) -> Result<Option<Vec<u8>>, reply::UnexpectedReply> {
    match answer {
        Value::Nil => Ok(None),
        // RESP3 gives scores as doubles.
        Value::Double(score) => Ok(Some(score.to_string().into_bytes())),
        other => reply::bytes(command, other).map(Some),
    }
}

pub(super) fn row(answer: Value) -> Result<Row, reply::UnexpectedReply> {
    let mut parts = reply::array("XPENDING", answer)?.into_iter();
    let mut part = || parts.next().unwrap_or_default();
    Ok(Row {
        id: reply::id("XPENDING", &part())?,
        consumer: reply::text("XPENDING", part())?,
        idle: reply::integer("XPENDING", &part())?.max(0) as u64,
        deliveries: reply::integer("XPENDING", &part())?.max(0) as u64,
    })
}
