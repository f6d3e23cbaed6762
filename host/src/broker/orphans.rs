//! What other consumers left behind: dead hosts, hosts that left, workers of another kind.
//!
//! A host is dead when its live key is gone, and was one if it never said that it leaves.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use redis::{RedisResult, Value};
use tokio::time::Instant;

use super::claim::{Claims, Terms};
use super::feed::ReadError;
use super::keys::WAITING;
use super::lease;
use super::post::Post;
use super::quarantine::Quarantine;
use super::reply::{self, Row, UnexpectedReply};
use super::scripts::Lua;
use crate::manifest::Supply;
use crate::message::{Delivery, MessageId};

/// Entries are left alone until they have been idle for this long: a worker of another kind may
/// be in the middle of its work, and a host that lives renews its leases, should its key be
/// lost. When the key of a dead host ends, its entries have been idle for longer.
const IDLE: Duration = Duration::from_secs(10);

/// A consumer that is no host and holds nothing is removed after this long.
const RETIRE_AFTER: Duration = Duration::from_secs(60);

/// Consumers removed in one search at most.
const RETIRED: usize = 50;

/// Pending entries looked at in one step.
pub(super) const PAGE: usize = 1000;

/// Finds what nobody is at work on any more.
pub(super) struct Orphans {
    post: Arc<Post>,
    claims: Claims,
    /// Whether there may be something.
    wanted: bool,
    /// Whether dead hosts may hold more than there was room for among the suspects.
    more: bool,
    /// Live hosts may seem dead until then.
    spared_until: Option<Instant>,
}

/// A consumer of the group without a sign of life.
struct Consumer {
    name: String,
    pending: i64,
    idle: Duration,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A host that never said that it leaves.
    Host,
    /// A host that left, or a worker of another kind.
    Stranger,
}

/// Who is in a group.
struct Census {
    /// The other consumers that no live host answers for.
    lifeless: Vec<Consumer>,
    /// How many entries nobody has.
    unowned: i64,
    deaths: Deaths,
}

/// Whether any entry has deaths of hosts counted against it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deaths {
    Counted,
    None,
}

impl Orphans {
    pub(super) fn new(post: Arc<Post>, claims: Claims) -> Self {
        Self { post, claims, wanted: false, more: false, spared_until: None }
    }

    /// Has other consumers looked at.
    pub(super) fn look(&mut self) {
        self.wanted = true;
    }

    /// Whether there is cause to look.
    pub(super) fn is_wanted(&self, quarantine: &Quarantine) -> bool {
        self.wanted || (self.more && !quarantine.is_busy())
    }

    /// Leaves everything alone for a while: after an outage the keys of live hosts may have ended.
    pub(super) fn spare(&mut self, time: Duration) {
        self.spared_until = Some(Instant::now() + time);
    }

    /// Takes what others left, the oldest first; what was in flight when its host died goes to quarantine.
    pub(super) async fn take(
        &mut self,
        slots: usize,
        quarantine: &mut Quarantine,
    ) -> Result<Vec<Delivery>, ReadError> {
        (self.wanted, self.more) = (false, false);
        let Census { lifeless, unowned, deaths } = self.census().await?;
        if deaths == Deaths::Counted && !quarantine.is_busy() {
            quarantine.tidy().await?;
        }
        if self.spared_until.is_some_and(|until| Instant::now() < until) {
            return Ok(Vec::new());
        }
        self.retire(&lifeless).await?;
        let mut taken = Vec::new();
        for left in lifeless.iter().filter(|consumer| consumer.pending > 0) {
            match left.kind {
                Kind::Host => self.suspect(left, quarantine).await?,
                Kind::Stranger => taken = self.adopt(&left.name, slots, quarantine).await?,
            }
            if !taken.is_empty() {
                break;
            }
        }
        if taken.is_empty() && unowned > 0 {
            taken = self.found(slots, quarantine).await?;
        }
        self.wanted = !taken.is_empty();
        Ok(taken)
    }

    async fn census(&self) -> Result<Census, ReadError> {
        let (stream, group) = (&*self.post.handler.stream, &*self.post.handler.group);
        let mut asking = redis::pipe();
        asking.cmd("XINFO").arg("CONSUMERS").arg(stream).arg(group);
        asking.cmd("SMEMBERS").arg(&self.post.keys.hosts);
        asking.cmd("XPENDING").arg(stream).arg(group);
        asking.cmd("EXISTS").arg(&self.post.keys.deaths);
        let answers = self.post.link.pipeline(asking.ignore_errors()).await?;
        let answers: Vec<Value> = answers.into_iter().collect::<RedisResult<_>>()?;
        let mut answers = answers.into_iter();
        let mut answer = || answers.next().unwrap_or_default();
        let rows = reply::rows("XINFO CONSUMERS", answer())?;
        let mut hosts = names(answer())?;
        if self.post.handler.supply == Supply::Broadcast {
            // They are the hosts of all groups, and this one is one host's.
            hosts.clear();
        }
        let unowned = unowned(answer())?;
        let deaths = if answer() == Value::Int(1) { Deaths::Counted } else { Deaths::None };
        let mut consumers = consumers(&rows, hosts);
        if let Some(waiting) = consumers.iter().find(|consumer| consumer.name == WAITING) {
            self.recall(waiting).await?;
        }
        let me = self.post.consumer.now();
        consumers.retain(|consumer| *consumer.name != *me && consumer.name != WAITING);
        self.keep_lifeless(&mut consumers).await?;
        Ok(Census { lifeless: consumers, unowned, deaths })
    }

    async fn keep_lifeless(&self, consumers: &mut Vec<Consumer>) -> Result<(), ReadError> {
        if consumers.is_empty() {
            return Ok(());
        }
        let mut asking = redis::pipe();
        for consumer in &*consumers {
            asking.cmd("EXISTS").arg(self.post.keys.live(&consumer.name));
        }
        let signs = self.post.link.pipeline(asking.ignore_errors()).await?;
        let signs: Vec<Value> = signs.into_iter().collect::<RedisResult<_>>()?;
        let mut lifeless = signs.into_iter().map(|sign| sign == Value::Int(0));
        consumers.retain(|_| lifeless.next().unwrap_or(false));
        Ok(())
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
            let page = self.claims.pending(WAITING, Duration::ZERO, from, PAGE).await?;
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

    /// Removes consumers that hold nothing: those of dead hosts at once, others after a while.
    async fn retire(&self, lifeless: &[Consumer]) -> Result<(), ReadError> {
        let idle = |consumer: &Consumer| match consumer.kind {
            Kind::Host => Duration::ZERO,
            Kind::Stranger => RETIRE_AFTER,
        };
        let empty = lifeless.iter().filter(|consumer| consumer.pending == 0);
        for consumer in empty.filter(|consumer| consumer.idle >= idle(consumer)).take(RETIRED) {
            let live = self.post.keys.live(&consumer.name);
            let keys = [&*self.post.keys.stream, &*live, &*self.post.keys.hosts];
            let mut retiring = Lua::Retire.call(&keys);
            retiring.arg(&*self.post.handler.group).arg(&consumer.name);
            self.post.link.query(retiring.arg(idle(consumer).as_millis() as u64)).await?;
        }
        Ok(())
    }

    /// Suspects what a dead host held of having killed it, as far as there is room.
    async fn suspect(
        &mut self,
        dead: &Consumer,
        quarantine: &mut Quarantine,
    ) -> Result<(), ReadError> {
        let mut behind = None;
        while quarantine.has_room() {
            let page = self.claims.pending(&dead.name, IDLE, behind, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            behind = Some(*last);
            self.regain(&dead.name, &page).await?;
            quarantine.add(&page, &dead.name, Terms::Died);
        }
        self.more = true;
        Ok(())
    }

    /// Takes over what a consumer left that is no dead host, a page at a time.
    async fn adopt(
        &self,
        from: &str,
        slots: usize,
        quarantine: &mut Quarantine,
    ) -> Result<Vec<Delivery>, ReadError> {
        let mut behind = None;
        loop {
            let page = self.claims.pending(from, IDLE, behind, slots).await?;
            let Some(last) = page.last() else { return Ok(Vec::new()) };
            behind = Some(*last);
            self.regain(from, &page).await?;
            let taken = self.claim(from, page, quarantine).await?;
            // Nothing taken: trimmed, suspects, or another host was quicker. There may be more behind.
            if !taken.is_empty() {
                return Ok(taken);
            }
        }
    }

    /// Takes entries that nobody owns (`XNACK` of Redis 8.8).
    async fn found(
        &self,
        slots: usize,
        quarantine: &mut Quarantine,
    ) -> Result<Vec<Delivery>, ReadError> {
        let mut start = "-".to_owned();
        loop {
            let mut asking = redis::cmd("XPENDING");
            asking.arg(&*self.post.handler.stream).arg(&*self.post.handler.group);
            let answer = self.post.link.query(asking.arg(start).arg("+").arg(PAGE)).await?;
            let rows = owners(answer)?;
            let Some((last, _)) = rows.last() else { return Ok(Vec::new()) };
            start = format!("({last}");
            let given_back = rows.iter().filter(|(_, owner)| owner.is_empty()).map(|(id, _)| *id);
            let ids: Vec<_> = given_back.take(slots).collect();
            self.regain("", &ids).await?;
            let taken = self.claim("", ids, quarantine).await?;
            if !taken.is_empty() {
                return Ok(taken);
            }
        }
    }

    async fn claim(
        &self,
        from: &str,
        mut ids: Vec<MessageId>,
        quarantine: &mut Quarantine,
    ) -> Result<Vec<Delivery>, ReadError> {
        ids.retain(|id| !self.post.held.contains(id));
        let claimed = self.claims.claim(from, &ids, Terms::Crowd).await?;
        quarantine.add(&claimed.suspects, from, Terms::Alone);
        let taken = claimed.deliveries();
        if !taken.is_empty() {
            tracing::info!(handler = %self.post.handler.name, from, count = taken.len(),
                "took over what another consumer left");
        }
        Ok(taken)
    }

    /// Takes back what another had taken from us and left, while it is still in hand: it runs already.
    async fn regain(&self, from: &str, ids: &[MessageId]) -> Result<(), ReadError> {
        let held = &self.post.held;
        let ours: Vec<_> = ids.iter().filter(|id| held.contains(id)).copied().collect();
        let answers = lease::pass(&self.post, [from, &self.post.consumer.now()], &ours).await?;
        let regained = ours.iter().zip(answers).filter(|(_, answer)| *answer == Value::Int(1));
        regained.for_each(|(id, _)| held.renewed(id));
        Ok(())
    }
}

/// The consumers of a group, and hosts that have yet to become one.
fn consumers(rows: &[Row], mut hosts: HashSet<String>) -> Vec<Consumer> {
    let known = rows.iter().filter_map(|row| {
        let name = row.text("name")?;
        let kind = if hosts.remove(&name) { Kind::Host } else { Kind::Stranger };
        let idle = Duration::from_millis(row.number("idle")?.max(0) as u64);
        Some(Consumer { name, pending: row.number("pending")?, idle, kind })
    });
    let mut consumers: Vec<_> = known.collect();
    let unknown = hosts.into_iter();
    consumers.extend(unknown.map(|name| Consumer {
        name,
        pending: 0,
        idle: Duration::ZERO,
        kind: Kind::Host,
    }));
    consumers
}

pub(super) fn names(members: Value) -> Result<HashSet<String>, UnexpectedReply> {
    let members = match members {
        Value::Set(members) => members,
        other => reply::array("SMEMBERS", other)?,
    };
    members.into_iter().map(|name| reply::text("SMEMBERS", name)).collect()
}

/// How many pending entries no consumer has, by the summary of `XPENDING`: count, smallest and
/// largest id, and the counts of consumers.
pub(super) fn unowned(summary: Value) -> Result<i64, UnexpectedReply> {
    let parts = reply::array("XPENDING", summary)?;
    let mut all = parts.first().map_or(Ok(0), |count| reply::integer("XPENDING", count))?;
    for row in reply::array("XPENDING", parts.into_iter().nth(3).unwrap_or_default())? {
        let mut row = reply::array("XPENDING", row)?.into_iter();
        let name = reply::bytes("XPENDING", row.next().unwrap_or_default())?;
        let count = reply::bytes("XPENDING", row.next().unwrap_or_default())?;
        if !name.is_empty() {
            all = all.saturating_sub(reply::number(&count) as i64);
        }
    }
    Ok(all)
}

/// The ids and owners of an extended `XPENDING`.
pub(super) fn owners(rows: Value) -> Result<Vec<(MessageId, String)>, UnexpectedReply> {
    let owner = |row| {
        let mut row = reply::array("XPENDING", row)?.into_iter();
        let id = reply::id("XPENDING", &row.next().unwrap_or_default())?;
        match row.next().unwrap_or_default() {
            Value::Nil => Ok((id, String::new())),
            owner => Ok((id, reply::text("XPENDING", owner)?)),
        }
    };
    reply::array("XPENDING", rows)?.into_iter().map(owner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn entries_that_were_given_back_are_seen_to_have_no_owner() {
        let row = |name: &str, count: &str| Value::Array(vec![text(name), text(count)]);
        let summary = |rows| {
            let rows = Value::Array(rows);
            Value::Array(vec![Value::Int(5), text("1-1"), text("5-1"), rows])
        };
        assert_eq!(unowned(summary(vec![row("a", "3"), row("b", "2")])), Ok(0));
        assert_eq!(unowned(summary(vec![row("a", "3")])), Ok(2));
        assert_eq!(unowned(summary(vec![row("a", "3"), row("", "2")])), Ok(2));
        let none = Value::Array(vec![Value::Int(0), Value::Nil, Value::Nil, Value::Nil]);
        assert_eq!(unowned(none), Ok(0));

        let row = |id: &str, owner, idle| {
            Value::Array(vec![text(id), owner, Value::Int(idle), Value::Int(1)])
        };
        let rows =
            vec![row("1-1", text("a"), 5), row("2-1", text(""), -1), row("3-1", Value::Nil, -1)];
        let owners = owners(Value::Array(rows)).unwrap();
        let given_back: Vec<_> = owners.iter().filter(|(_, owner)| owner.is_empty()).collect();
        assert_eq!(given_back.len(), 2);
        assert_eq!(owners[0].1, "a");
    }

    #[test]
    fn a_host_that_never_read_is_known_all_the_same() {
        let row = Value::Array(vec![
            text("name"),
            text("a"),
            text("pending"),
            Value::Int(2),
            text("idle"),
            Value::Int(7),
        ]);
        let rows = [Row::new("XINFO", row).unwrap()];
        let hosts = ["a", "b"].map(str::to_owned).into();
        let found = consumers(&rows, hosts);
        let found: Vec<_> = found.iter().map(|c| (&*c.name, c.pending, c.kind)).collect();
        assert_eq!(found, [("a", 2, Kind::Host), ("b", 0, Kind::Host)]);
    }
}
