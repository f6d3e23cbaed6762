//! Taking entries over from the consumer that holds them: what was lost, left or due becomes deliveries.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;

use super::feed::ReadError;
use super::keys::WAITING;
use super::portion::REPLY_BYTES;
use super::post::Post;
use super::reply::{self, UnexpectedReply};
use super::scripts::Lua;
use super::settle::Settler;
use crate::figures::add;
use crate::message::{Attempt, Delivery, Field, Message, MessageId};
use crate::outcome::{Reason, Settlement};

/// Entries without a body whose burial is under way at most: while Redis refuses it, the
/// others stay where they are, and other settlements have room.
const BODILESS: usize = 2000;

/// Takes entries over for one handler.
#[derive(Clone)]
pub(super) struct Claims {
    post: Arc<Post>,
    settler: Settler,
}

/// How entries are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Terms {
    /// To run beside others; suspects are left.
    Crowd,
    /// To run alone.
    Alone,
    /// To run alone, after one more death of a host that an earlier claim may have noted already.
    Again,
    /// To run alone, after one more death of a host.
    Died,
    /// Likewise, as the first that this host runs alone.
    First,
    /// To run with others of their kind, after the first death of a host; those of a second are left.
    Together,
}

/// How an entry is on trial that is to be buried; `claim.lua` says what the others mean.
pub(super) const CONDEMNED: i64 = 4;

impl Terms {
    fn as_str(self) -> &'static str {
        match self {
            Self::Crowd => "crowd",
            Self::Alone => "alone",
            Self::Again => "again",
            Self::Died => "died",
            Self::First => "first",
            Self::Together => "together",
        }
    }
}

/// What came of a claim.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    pub taken: Vec<Taken>,
    /// Left, as they are to run alone.
    pub suspects: Vec<MessageId>,
    /// How many were left as they have no body; their burial is under way.
    pub trimmed: usize,
    /// How many of the ids were looked at; the rest is for another claim.
    pub seen: usize,
}

impl Claimed {
    /// Whether any entry is not any more where it was.
    pub(super) fn is_progress(&self) -> bool {
        self.seen > self.suspects.len() + self.trimmed
    }

    /// The deliveries alone.
    pub(super) fn deliveries(self) -> Vec<Delivery> {
        self.taken.into_iter().map(|taken| taken.delivery).collect()
    }
}

/// An entry that was taken over.
#[derive(Debug)]
pub(super) struct Taken {
    pub delivery: Delivery,
    /// What is to be made of it should its host die, as a number of `claim.lua`.
    pub trial: i64,
}

impl Claims {
    pub(super) fn new(post: Arc<Post>, settler: Settler) -> Self {
        Self { post, settler }
    }

    /// Takes entries over from their holder, and has those buried that have no body.
    pub(super) async fn claim(
        &self,
        holder: &str,
        ids: &[MessageId],
        terms: Terms,
    ) -> Result<Claimed, ReadError> {
        if ids.is_empty() {
            return Ok(Claimed::default());
        }
        let (post, keys) = (&self.post, &self.post.keys);
        let keys = [&*keys.stream, &*keys.failures, &*keys.waiting, &*keys.deaths];
        let mut claiming = Lua::Claim.call(&keys);
        claiming.arg(&*post.handler.group).arg(&post.consumer).arg(holder).arg(WAITING);
        claiming.arg(terms.as_str()).arg(REPLY_BYTES);
        for id in ids {
            claiming.arg(id.to_string());
        }
        let answer = post.link.query(&claiming).await?;
        let mut answer = reply::array("claim.lua", answer)?.into_iter();
        let mut list = || reply::array("claim.lua", answer.next().unwrap_or_default());
        let (taken, trimmed, suspects) = (list()?, list()?, list()?);
        let seen = reply::integer("claim.lua", &answer.next().unwrap_or_default())?;
        add(&post.figures.redelivered, taken.len());
        // Receipts first: what was taken is in hand, whatever becomes of the rest.
        let taken: Vec<_> = taken.into_iter().map(|entry| self.taken(entry)).collect();
        for id in self::ids(&trimmed)? {
            self.bury(id);
        }
        Ok(Claimed {
            taken: taken.into_iter().collect::<Result<_, _>>()?,
            suspects: self::ids(&suspects)?,
            trimmed: trimmed.len(),
            seen: usize::try_from(seen).unwrap_or_default(),
        })
    }

    fn taken(&self, entry: Value) -> Result<Taken, UnexpectedReply> {
        let mut parts = reply::array("claim.lua", entry)?;
        let trial = reply::integer("claim.lua", &parts.pop().unwrap_or_default())?;
        let delivery = self.redelivery(parts)?;
        Ok(Taken { delivery, trial })
    }

    /// The delivery of an entry as a script gives it: id, fields, recorded failures.
    pub(super) fn redelivery(&self, entry: Vec<Value>) -> Result<Delivery, UnexpectedReply> {
        let mut parts = entry.into_iter();
        let mut part = || parts.next().unwrap_or_default();
        let id = reply::id("claim.lua", &part())?;
        let fields = reply::fields("claim.lua", part())?;
        let attempt = Attempt::after_failures(failures(&reply::bytes("claim.lua", part())?));
        Ok(self.delivery(id, fields, attempt))
    }

    fn delivery(&self, id: MessageId, fields: Vec<Field>, attempt: Attempt) -> Delivery {
        let message = Message { id, stream: self.post.handler.stream.clone(), fields };
        Delivery { message, attempt, receipt: self.post.held.issue(id, attempt) }
    }

    /// Declares an entry lost whose body somebody trimmed before it was handled.
    pub(super) fn bury(&self, id: MessageId) {
        if self.post.held.contains(&id) || self.post.held.count_lost() >= BODILESS {
            return;
        }
        tracing::error!(handler = %self.post.handler.name, stream = %self.post.handler.stream, message_id = %id,
            "trimmed from the stream before it was handled; nothing is left to hand over");
        let delivery = self.delivery(id, Vec::new(), Attempt::FIRST);
        // It stays with whoever holds it: a claim would drop it from the pending list.
        self.post.held.lost(&id);
        let error = "trimmed from the stream before it was handled".to_owned();
        self.condemn(delivery, Reason::Trimmed, error);
    }

    /// Has a delivery buried without a run.
    pub(super) fn condemn(&self, delivery: Delivery, reason: Reason, error: String) {
        self.settler.settle_at_once(delivery, Settlement::Bury { reason, error });
    }

    /// Ids pending for a consumer and idle for at least as long, after `from` (`XPENDING … IDLE`).
    pub(super) async fn pending(
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
}

fn ids(listed: &[Value]) -> Result<Vec<MessageId>, UnexpectedReply> {
    listed.iter().map(|id| reply::id("claim.lua", id)).collect()
}

/// The last error in what park.lua wrote.
pub(super) fn last_error(recorded: &[u8]) -> String {
    let mut parts = recorded.splitn(2, |byte| *byte == b' ');
    String::from_utf8_lossy(parts.nth(1).unwrap_or_default()).into_owned()
}

/// The count at the start of what park.lua wrote.
pub(super) fn failures(recorded: &[u8]) -> u32 {
    let count = recorded.split(|byte| *byte == b' ').next().unwrap_or_default();
    u32::try_from(reply::number(count)).unwrap_or(u32::MAX)
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
        assert_eq!(last_error(b"3 the ledger is down"), "the ledger is down");
        assert_eq!(last_error(b"1 "), "");
        assert_eq!(last_error(b"1"), "");
    }
}
