//! Handing what a group has settled to it again: a step at a time, and to no other group.

use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::keys::{Keys, WAITING};
use super::scripts::Lua;
use super::{Broker, BrokerError, reply};
use crate::manifest::Handler;
use crate::message::MessageId;

/// Entries that the first step looks at, and any step at most. Their bodies pass through the script's
/// memory, and other clients wait meanwhile: small ones go by many, large ones by few.
const STEP: usize = 16;
const STEP_MAX: usize = 512;

/// A step may take so long.
const STEP_TIME: Duration = Duration::from_millis(10);

/// Entries not yet read are counted up to this many: there may be millions, and they come anyway.
const UNREAD_COUNTED: u64 = 10_000;

/// A walk through part of a handler's stream.
pub struct Replay<'a> {
    broker: &'a Broker,
    handler: &'a Handler,
    keys: Keys,
    /// The oldest entry that the stream still has.
    pub oldest: MessageId,
    /// The newest entry at the start of the walk, which is its end at the latest.
    pub newest: MessageId,
    from: String,
    to: MessageId,
    step: usize,
    unread: u64,
    over: bool,
}

/// Whether a walk is in earnest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It is.
    InEarnest,
    /// It only counts, and writes nothing.
    Count,
}

/// What a walk, or a step of it, came by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Entries that are handed to the handler again.
    pub replayed: u64,
    /// Entries that it holds already.
    pub pending: u64,
    /// Entries that it has not read yet, as far as they were counted.
    pub unread: u64,
    /// The last entry that was looked at.
    pub last: Option<MessageId>,
}

impl Broker {
    /// A walk through a handler's stream between two ids, both included; none where there is no entry.
    ///
    /// # Errors
    ///
    /// When Redis does not answer, or the key is not a stream.
    pub async fn replay<'a>(
        &'a self,
        handler: &'a Handler,
        from: MessageId,
        to: MessageId,
    ) -> Result<Option<Replay<'a>>, BrokerError> {
        let (Some(oldest), Some(newest)) =
            (self.edge("XRANGE", handler).await?, self.edge("XREVRANGE", handler).await?)
        else {
            return Ok(None);
        };
        Ok(Some(Replay {
            broker: self,
            handler,
            keys: Keys::of(handler),
            oldest,
            newest,
            from: from.to_string(),
            to: to.min(newest),
            step: STEP,
            unread: 0,
            over: false,
        }))
    }

    /// The first entry of a stream by `XRANGE`, the last by `XREVRANGE`.
    async fn edge(
        &self,
        command: &'static str,
        handler: &Handler,
    ) -> Result<Option<MessageId>, BrokerError> {
        let (from, to) = if command == "XRANGE" { ("-", "+") } else { ("+", "-") };
        let mut asking = redis::cmd(command);
        asking.arg(&*handler.stream).arg(from).arg(to).arg("COUNT").arg(1);
        let failed = |source| self.failed(format!("read stream `{}`", handler.stream), source);
        let answer = self.link.query(&asking).await.map_err(failed)?;
        Ok(reply::entries(command, answer)?.first().map(|entry| entry.id))
    }
}

impl Replay<'_> {
    /// Goes on until so many are replayed, or a while; none at the end.
    ///
    /// # Errors
    ///
    /// When Redis does not answer, or there is no such group; what was replayed before stays so.
    pub async fn step(&mut self, most: u64, act: Act) -> Result<Option<Replayed>, BrokerError> {
        if self.over {
            return Ok(None);
        }
        let keys = [&*self.keys.stream, &*self.keys.failures, &*self.keys.waiting];
        let mut stepping = Lua::Replay.call(&keys);
        stepping.arg(&*self.handler.group).arg(WAITING).arg(&self.from).arg(self.to.to_string());
        stepping.arg(self.step).arg(most);
        stepping.arg(match act {
            Act::InEarnest => "replay",
            Act::Count => "count",
        });
        let (handler, stream) = (&self.handler.name, &self.handler.stream);
        let purpose = || format!("replay stream `{stream}` to handler `{handler}`");
        let failed = |source| self.broker.failed(purpose(), source);
        let began = Instant::now();
        let answer = self.broker.link.query(&stepping).await.map_err(failed)?;
        self.step = next_step(self.step, began.elapsed());
        let step = replayed(answer)?;
        self.unread += step.unread;
        match step.last {
            Some(last) => self.from = format!("({last}"),
            None => self.over = true,
        }
        self.over |= self.unread >= UNREAD_COUNTED || step.last >= Some(self.to);
        Ok(step.last.map(|_| step))
    }
}

impl Replayed {
    /// Adds a later step.
    pub fn add(&mut self, step: Self) {
        self.replayed += step.replayed;
        self.pending += step.pending;
        self.unread += step.unread;
        self.last = step.last.or(self.last);
    }

    /// Whether there are more unread entries than were counted.
    pub fn has_more_unread(&self) -> bool {
        self.unread >= UNREAD_COUNTED
    }
}

/// How many entries to look at next, after so many took so long.
fn next_step(step: usize, took: Duration) -> usize {
    if took > STEP_TIME { (step / 2).max(1) } else { (step * 2).min(STEP_MAX) }
}

/// What the answer of `replay.lua` means.
pub(super) fn replayed(answer: Value) -> Result<Replayed, reply::UnexpectedReply> {
    let mut parts = reply::array("replay.lua", answer)?.into_iter();
    let mut part = || parts.next().unwrap_or_default();
    let mut count = || Ok(reply::integer("replay.lua", &part())?.max(0) as u64);
    let (replayed, pending, unread) = (count()?, count()?, count()?);
    let last = reply::text("replay.lua", part())?.parse().ok();
    Ok(Replayed { replayed, pending, unread, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_shrinks_where_entries_are_large_and_never_stands_still() {
        assert_eq!(next_step(STEP, Duration::ZERO), 2 * STEP);
        assert_eq!(next_step(STEP_MAX, STEP_TIME), STEP_MAX);
        assert_eq!(next_step(STEP, 2 * STEP_TIME), STEP / 2);
        assert_eq!(next_step(1, 2 * STEP_TIME), 1);
    }
}
