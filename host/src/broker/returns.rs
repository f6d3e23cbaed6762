//! Entries that come back: replies lost on the way, retries that are due, and what dead hosts held.

use std::sync::Arc;
use std::time::Duration;

use redis::{RedisResult, Value};
use tokio::time::Instant;

use super::feed::ReadError;
use super::keys::WAITING;
use super::letter::Death;
use super::post::Post;
use super::reply::{self, Row};
use super::scripts::Lua;
use crate::figures::add;
use crate::message::{Attempt, Delivery, Message, MessageId};
use crate::outcome::Reason;

/// Entries of a consumer that shows no sign of life are left alone this long: it
/// may be a worker of another kind, in the middle of its work.
const IDLE: Duration = Duration::from_secs(10);

/// A consumer that shows no sign of life and holds nothing is removed after this long.
const RETIRE_AFTER: Duration = Duration::from_secs(60);

/// How often entries that come back are looked for when nothing else calls for it.
///
/// A reply can also be lost after the connection is: until the server notices, it
/// delivers to a reader that is gone. And other hosts die, and park retries.
const EVERY: Duration = Duration::from_secs(2);

/// Own pending entries looked at in one step.
const PAGE: usize = 1000;

/// Finds entries that are pending without anyone at work on them.
pub(super) struct Returns {
    pub post: Arc<Post>,
    pub search: Search,
}

/// How far the search has come.
#[derive(Default)]
pub(super) struct Search {
    /// Where to go on among our own pending entries; `None` when there is no need to look.
    lost: Option<MessageId>,
    /// Whether other consumers may have left something.
    orphans: bool,
    swept: Option<Instant>,
}

/// A consumer as `XINFO CONSUMERS` shows it.
struct Consumer {
    name: String,
    pending: i64,
    idle: Duration,
}

impl Returns {
    /// Has the own pending list searched for entries that are not in hand.
    pub(super) fn look_for_lost(&mut self) {
        self.search.lost = Some(MessageId { millis: 0, sequence: 0 });
    }

    /// Takes up to `slots` entries back: what was lost, then what others left, then what is due.
    pub(super) async fn take(&mut self, slots: usize) -> Result<Vec<Delivery>, ReadError> {
        let sweep = self.search.swept.is_none_or(|last| last.elapsed() >= EVERY);
        if sweep {
            self.search.swept = Some(Instant::now());
            self.search.orphans = true;
            // Other hosts' retries may be due.
            self.post.wake.after(Duration::ZERO);
        }
        if sweep || self.post.held.take_forgotten() {
            self.look_for_lost();
        }
        let mut found = self.lost(slots).await?;
        if found.is_empty() && self.search.orphans {
            found = self.orphaned(slots).await?;
            self.search.orphans = !found.is_empty();
        }
        if found.is_empty() && self.post.wake.take_due() {
            found = self.due(slots).await?;
        }
        Ok(found)
    }

    /// What Redis says we hold, less what is in hand: `XPENDING`, a page at a time.
    async fn lost(&mut self, slots: usize) -> Result<Vec<Delivery>, ReadError> {
        while let Some(from) = self.search.lost {
            let me = self.post.consumer.clone();
            let page = self.pending(&me, Duration::ZERO, Some(from), PAGE).await?;
            let lost: Vec<_> = page
                .iter()
                .filter(|id| !self.post.held.contains(id))
                .take(slots)
                .copied()
                .collect();
            // Those taken are in hand at the next look; a page without lost ones is done with.
            self.search.lost = match page.last() {
                Some(last) if lost.is_empty() => Some(*last),
                Some(_) => Some(from),
                None => None,
            };
            if !lost.is_empty() {
                let taken = self.claim(&me, &lost).await?;
                if !taken.is_empty() {
                    return Ok(taken);
                }
            }
        }
        Ok(Vec::new())
    }

    /// Retries whose time has come by the server's clock.
    async fn due(&mut self, slots: usize) -> Result<Vec<Delivery>, ReadError> {
        let mut asking = redis::pipe();
        asking.cmd("TIME");
        asking.cmd("ZRANGE").arg(&self.post.keys.waiting).arg(0).arg(slots - 1).arg("WITHSCORES");
        let mut answers = self.post.link.pipeline(asking.ignore_errors()).await?.into_iter();
        let mut answer = || answers.next().unwrap_or(Ok(Value::Nil));
        let now = server_millis(answer()?)?;
        let waiting = reply::fields("ZRANGE", answer()?)?;
        let mut due = Vec::new();
        for entry in waiting {
            let at = number(&entry.value);
            if at > now {
                self.post.wake.after(Duration::from_millis(at - now));
                break;
            }
            // One that is still in hand is only about to wait: its settlement is not confirmed yet.
            due.extend(parse_id(&entry.name).filter(|id| !self.post.held.contains(id)));
        }
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let taken = self.claim(WAITING, &due).await?;
        // None of these waits any more; there may be more that are due than there are slots.
        self.post.wake.after(Duration::ZERO);
        Ok(taken)
    }

    /// What is held by consumers without a sign of life, the oldest first.
    async fn orphaned(&mut self, slots: usize) -> Result<Vec<Delivery>, ReadError> {
        for consumer in self.lifeless().await? {
            if consumer.pending == 0 {
                self.retire(&consumer).await?;
                continue;
            }
            let ids = self.pending(&consumer.name, IDLE, None, slots).await?;
            let taken = self.claim(&consumer.name, &ids).await?;
            if !taken.is_empty() {
                tracing::info!(handler = %self.post.handler.name, from = consumer.name, count = taken.len(),
                    "took over what another consumer left");
                return Ok(taken);
            }
        }
        Ok(Vec::new())
    }

    /// The other consumers of the group that no live host answers for.
    async fn lifeless(&self) -> Result<Vec<Consumer>, ReadError> {
        let mut asking = redis::cmd("XINFO");
        asking.arg("CONSUMERS").arg(&*self.post.handler.stream).arg(&*self.post.handler.group);
        let rows = reply::rows("XINFO CONSUMERS", self.post.link.query(&asking).await?)?;
        let mut others: Vec<_> = rows.iter().filter_map(consumer).collect();
        if let Some(waiting) = others.iter().find(|other| other.name == WAITING) {
            self.recall(waiting).await?;
        }
        others.retain(|other| other.name != self.post.consumer && other.name != WAITING);
        if others.is_empty() {
            return Ok(others);
        }
        let mut asking = redis::pipe();
        for other in &others {
            asking.cmd("EXISTS").arg(self.post.keys.live(&other.name));
        }
        let signs = self.post.link.pipeline(asking.ignore_errors()).await?;
        let signs: Vec<Value> = signs.into_iter().collect::<RedisResult<_>>()?;
        let mut lifeless = signs.into_iter().map(|sign| sign == Value::Int(0));
        others.retain(|_| lifeless.next().unwrap_or(false));
        Ok(others)
    }

    /// Makes entries due of which nobody knows when they are: the sorted set was
    /// deleted or evicted, and the pending list has more that wait than it has.
    async fn recall(&self, waiting: &Consumer) -> Result<(), ReadError> {
        let known = self.post.link.query(redis::cmd("ZCARD").arg(&self.post.keys.waiting)).await?;
        if reply::integer("ZCARD", &known)? >= waiting.pending {
            return Ok(());
        }
        let mut from = None;
        let mut recalled = 0;
        loop {
            let page = self.pending(WAITING, Duration::ZERO, from, PAGE).await?;
            let Some(last) = page.last() else { break };
            from = Some(*last);
            let mut adding = redis::cmd("ZADD");
            adding.arg(&self.post.keys.waiting).arg("NX");
            for id in &page {
                adding.arg(0).arg(id.to_string());
            }
            recalled += reply::integer("ZADD", &self.post.link.query(&adding).await?)?;
        }
        if recalled > 0 {
            tracing::warn!(handler = %self.post.handler.name, key = self.post.keys.waiting, recalled,
                "retries waited without a time, as if this key had been deleted; they are tried now");
            self.post.wake.after(Duration::ZERO);
        }
        Ok(())
    }

    async fn retire(&self, consumer: &Consumer) -> Result<(), ReadError> {
        if consumer.idle >= RETIRE_AFTER {
            let mut retiring = Lua::Retire.call(&[&self.post.keys.stream]);
            retiring.arg(&*self.post.handler.group).arg(&consumer.name);
            self.post.link.query(retiring.arg(RETIRE_AFTER.as_millis() as u64)).await?;
        }
        Ok(())
    }

    /// Ids pending for a consumer and idle for at least as long, after `from` (`XPENDING … IDLE`).
    async fn pending(
        &self,
        consumer: &str,
        idle: Duration,
        from: Option<MessageId>,
        count: usize,
    ) -> Result<Vec<MessageId>, ReadError> {
        let start = from.map_or("-".to_owned(), |id| format!("({id}"));
        let mut asking = redis::cmd("XPENDING");
        asking.arg(&*self.post.handler.stream).arg(&*self.post.handler.group);
        asking.arg("IDLE").arg(idle.as_millis() as u64);
        asking.arg(start).arg("+").arg(count).arg(consumer);
        let rows = reply::array("XPENDING", self.post.link.query(&asking).await?)?;
        let ids = rows.into_iter().map(|row| {
            let first = reply::array("XPENDING", row)?.into_iter().next().unwrap_or_default();
            reply::id("XPENDING", &first)
        });
        Ok(ids.collect::<Result<_, _>>()?)
    }

    /// Takes entries over from their holder, and buries those without a body.
    async fn claim(&self, holder: &str, ids: &[MessageId]) -> Result<Vec<Delivery>, ReadError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let keys = [&*self.post.keys.stream, &*self.post.keys.failures, &*self.post.keys.waiting];
        let mut claiming = Lua::Claim.call(&keys);
        claiming.arg(&*self.post.handler.group).arg(&self.post.consumer).arg(holder).arg(WAITING);
        for id in ids {
            claiming.arg(id.to_string());
        }
        let mut answer =
            reply::array("claim.lua", self.post.link.query(&claiming).await?)?.into_iter();
        let taken = reply::array("claim.lua", answer.next().unwrap_or_default())?;
        let trimmed = reply::array("claim.lua", answer.next().unwrap_or_default())?;
        for id in trimmed {
            self.bury_trimmed(reply::id("claim.lua", &id)?).await?;
        }
        add(&self.post.figures.redelivered, taken.len());
        taken.into_iter().map(|entry| self.delivery(entry)).collect()
    }

    pub(super) fn delivery(&self, entry: Value) -> Result<Delivery, ReadError> {
        let mut parts = reply::array("claim.lua", entry)?.into_iter();
        let mut part = || parts.next().unwrap_or_default();
        let id = reply::id("claim.lua", &part())?;
        let fields = reply::fields("claim.lua", part())?;
        let attempt = Attempt::after_failures(failures(&reply::bytes("claim.lua", part())?));
        let message = Message { id, stream: self.post.handler.stream.clone(), fields };
        Ok(Delivery { message, attempt, receipt: self.post.held.issue(id, attempt) })
    }

    /// Declares an entry lost whose body somebody trimmed before it was handled.
    pub(super) async fn bury_trimmed(&self, id: MessageId) -> Result<(), ReadError> {
        tracing::error!(handler = %self.post.handler.name, stream = %self.post.handler.stream, message_id = %id,
            "trimmed from the stream before it was handled; nothing is left to hand over");
        let keys = [
            &*self.post.keys.stream,
            &*self.post.keys.failures,
            &*self.post.keys.waiting,
            &*self.post.handler.dead_letter,
        ];
        let error = "trimmed from the stream before it was handled";
        let death = Death { id, attempts: 0, reason: Reason::Trimmed, error };
        let mut burying = Lua::Bury.call(&keys);
        burying.arg(&*self.post.handler.group).arg("").arg(id.to_string());
        for field in self.post.epitaph(&death) {
            burying.arg(field.name).arg(field.value);
        }
        if self.post.link.query(&burying).await? == Value::Int(1) {
            self.post.figures.bury(Reason::Trimmed);
        }
        Ok(())
    }
}

fn consumer(row: &Row) -> Option<Consumer> {
    Some(Consumer {
        name: row.text("name")?,
        pending: row.number("pending")?,
        idle: Duration::from_millis(row.number("idle")?.max(0) as u64),
    })
}

/// The count at the start of what park.lua wrote.
pub(super) fn failures(recorded: &[u8]) -> u32 {
    let count = recorded.split(|byte| *byte == b' ').next().unwrap_or_default();
    u32::try_from(number(count)).unwrap_or(u32::MAX)
}

pub(super) fn number(digits: &[u8]) -> u64 {
    std::str::from_utf8(digits).ok().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) as u64
}

pub(super) fn parse_id(text: &[u8]) -> Option<MessageId> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The answer to `TIME`, in milliseconds.
pub(super) fn server_millis(answer: Value) -> Result<u64, reply::UnexpectedReply> {
    let mut parts = reply::array("TIME", answer)?.into_iter();
    let mut part = || reply::bytes("TIME", parts.next().unwrap_or_default());
    let (seconds, micros) = (number(&part()?), number(&part()?));
    Ok(seconds * 1000 + micros / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_failures_are_read_back() {
        assert_eq!(failures(b"3 the ledger is down"), 3);
        assert_eq!(failures(b"1 "), 1);
        assert_eq!(failures(b""), 0);
        assert_eq!(failures(b"nonsense"), 0);
    }
}
