//! What is pending on a stream that this host owns: taken over, found to be due, fetched when its turn comes.

use std::time::Duration;

use redis::{RedisResult, Value};

use super::{Kept, News, Ordered, Rang, Standing, Terms, former};
use crate::broker::feed::ReadError;
use crate::broker::keys::WAITING;
use crate::broker::lanes::{After, Stage};
use crate::broker::reply::{self, number, server_millis};
use crate::broker::returns::parse_id;
use crate::broker::scripts::Lua;
use crate::figures::add;
use crate::message::{Attempt, Delivery, MessageId};

/// Entries looked at in one step of taking over, and retries in one look at what is due.
const PAGE: usize = 200;

impl Ordered {
    /// Takes over what is pending in the group, whoever holds it, and puts it at its place, the oldest first.
    pub(super) async fn inherit(&mut self) -> Result<(), ReadError> {
        self.post.look_whether_paused().await?;
        self.former.look().await?;
        self.lanes.reconsider(|id| self.post.held.contains(id));
        let mut from = "-".to_owned();
        let (mut found, known) = (0, self.lanes.suspects());
        loop {
            let answer = self.post.link.query(&self.inheriting(&from)).await?;
            let Some(rows) = self.unless_over(answer) else { return Ok(()) };
            let rows = reply::array("inherit.lua", rows)?;
            found += rows.len() / 3;
            let Some(last) = self.place(rows).await? else { break };
            if self.stop.is_cancelled() {
                return Ok(());
            }
            from = format!("({last}");
        }
        tracing::debug!(handler = %self.post.handler.name, stream = %self.post.handler.stream, pending = found,
            "knows what is pending");
        let suspects = self.lanes.suspects();
        if suspects > known {
            tracing::info!(handler = %self.post.handler.name, stream = %self.post.handler.stream, count = suspects,
                died = ?self.former.dead(), may_have_died = ?self.former.doubtful(),
                "may have been in flight when their host died; they run one at a time");
        }
        self.succeed_others().await?;
        self.post.wake.after(Duration::ZERO);
        self.standing = Standing::Known;
        self.news = News::Some(Rang::TimedOut);
        Ok(())
    }

    fn inheriting(&self, from: &str) -> redis::Cmd {
        let keys = &self.post.keys;
        let names = [&keys.stream, &keys.waiting, &keys.lease, &keys.deaths, &keys.suspects];
        let field = self.post.handler.order.as_ref().map_or("", |order| &*order.field);
        let mut inheriting = Lua::Inherit.call(&names.map(|name| &**name));
        inheriting.arg(&*self.post.handler.group).arg(&self.post.consumer).arg(WAITING);
        let dead = self.former.dead();
        inheriting.arg(from).arg(PAGE).arg(field).arg(dead.len()).arg(dead);
        inheriting.arg(self.former.doubtful());
        inheriting
    }

    /// Puts entries at their places, as `inherit.lua` gives them. Gives the last of them.
    async fn place(&mut self, rows: Vec<Value>) -> Result<Option<MessageId>, ReadError> {
        let (mut last, mut condemned) = (None, Vec::new());
        let mut rows = rows.into_iter();
        while let (Some(id), Some(state), Some(key)) = (rows.next(), rows.next(), rows.next()) {
            let id = reply::id("inherit.lua", &id)?;
            let state = reply::bytes("inherit.lua", state)?;
            let key = reply::bytes("inherit.lua", key)?.into();
            last = Some(id);
            match &*state {
                b"trimmed" => self.claims.bury(id),
                _ if self.post.held.contains(&id) => {}
                b"waiting" => self.lanes.admit(id, key, Stage::Waiting),
                b"suspect" => self.lanes.admit(id, key, Stage::Suspected),
                b"doubted" => self.lanes.admit(id, key, Stage::Withheld),
                b"condemned" => {
                    self.lanes.admit(id, key, Stage::Withheld);
                    condemned.push(id);
                }
                _ => self.lanes.admit(id, key, Stage::Ready),
            }
        }
        if !condemned.is_empty() {
            self.condemn(&condemned).await?;
        }
        Ok(last)
    }

    /// Looks again for what became of former owners, as long as there is something of theirs.
    pub(super) async fn look_back(&mut self) -> Result<(), ReadError> {
        if self.has_notes {
            self.acquit(&[]).await?;
        }
        if self.predecessors == 0 && self.former.noted().is_empty() {
            return Ok(());
        }
        if self.former.look().await? == former::News::Some {
            self.standing = self.standing.max(Standing::Unknown);
        }
        self.succeed_others().await
    }

    /// Shows this host among the group's consumers, and removes those of former owners that hold nothing any more.
    async fn succeed_others(&mut self) -> Result<(), ReadError> {
        let (stream, group) = (&self.post.keys.stream, &*self.post.handler.group);
        let mut asking = redis::cmd("XINFO");
        asking.arg("CONSUMERS").arg(stream).arg(group);
        let rows = reply::rows("XINFO CONSUMERS", self.post.link.query(&asking).await?)?;
        let names = rows.iter().filter_map(|row| row.text("name"));
        let others = names.filter(|name| **name != *self.post.consumer.now() && name != WAITING);
        let others: Vec<String> = others.collect();
        let mut succeeding = redis::pipe();
        for name in &others {
            let keys = &self.post.keys;
            let mut retiring = Lua::Retire.call(&[stream, &keys.live(name), &keys.hosts]);
            retiring.arg(group).arg(name).arg(0);
            succeeding.add_command(retiring);
        }
        // Before 7.2, one that has read nothing is not shown. Where this is refused, it is only not seen.
        let creating = succeeding.cmd("XGROUP").arg("CREATECONSUMER");
        creating.arg(stream).arg(group).arg(&self.post.consumer);
        let answers = self.post.link.pipeline(succeeding.ignore_errors()).await?;
        let stays = |answer: &RedisResult<Value>| !matches!(answer, Ok(Value::Int(1)));
        let left = others.iter().zip(&answers).filter(|(_, answer)| stays(answer));
        let left: Vec<&String> = left.map(|(name, _)| name).collect();
        self.predecessors = left.len();
        let over: Vec<_> = self.former.noted().iter().filter(|name| !left.contains(name)).collect();
        // Who is in the notes is still to be told from those that gave up.
        if !over.is_empty() && !self.has_notes {
            let forgetting = redis::cmd("HDEL").arg(&self.post.keys.tenures).arg(over).to_owned();
            self.post.link.query(&forgetting).await?;
        }
        Ok(())
    }

    /// Creates the group once more, when nothing of the old one is in hand.
    pub(super) async fn begin_again(&mut self) -> Result<(), ReadError> {
        if !self.post.held.is_empty() {
            return self.wait().await;
        }
        self.lanes.clear();
        self.kept = Kept::default();
        self.last = MessageId { millis: 0, sequence: 0 };
        // Nothing waits in a group that is new, whatever did in the old one.
        self.post.link.query(redis::cmd("DEL").arg(&self.post.keys.waiting)).await?;
        self.post.create_group(self.post.handler.after_loss).await?;
        self.standing = Standing::Unknown;
        Ok(())
    }

    /// Compares what is known with what Redis knows: entries may be pending that nobody has, and retries may
    /// wait without a time, as their sorted set was deleted or evicted, or as they were settled by hand.
    pub(super) async fn compare(&mut self) -> Result<(), ReadError> {
        let (stream, group) = (&self.post.keys.stream, &*self.post.handler.group);
        let waiting = self.lanes.waiting_behind(self.compared, PAGE);
        let mut asking = redis::pipe();
        asking.cmd("XPENDING").arg(stream).arg(group);
        for id in &waiting {
            asking.cmd("ZSCORE").arg(&self.post.keys.waiting).arg(id.to_string());
        }
        let mut answers = self.post.link.pipeline(asking.ignore_errors()).await?.into_iter();
        let summary = reply::array("XPENDING", answers.next().unwrap_or(Ok(Value::Nil))?)?;
        let pending = summary.first().map_or(Ok(0), |count| reply::integer("XPENDING", count))?;
        if pending > self.lanes.at_rest() as i64 + self.post.held.count() as i64 {
            self.standing = self.standing.max(Standing::Unknown);
        }
        let scores = answers.collect::<RedisResult<Vec<Value>>>()?;
        let timeless = waiting.iter().zip(scores).filter(|(_, score)| *score == Value::Nil);
        let timeless: Vec<_> = timeless.map(|(id, _)| *id).collect();
        if !timeless.is_empty() {
            tracing::info!(handler = %self.post.handler.name, key = self.post.keys.waiting, count = timeless.len(),
                "retries wait without a time; they are tried now, unless they were settled");
            self.lanes.due(timeless);
        }
        self.compared = waiting.last().copied().filter(|_| waiting.len() == PAGE);
        Ok(())
    }

    /// Learns which retries' time has come by the server's clock.
    pub(super) async fn due(&mut self) -> Result<(), ReadError> {
        for page in 0.. {
            let mut asking = redis::pipe();
            asking.cmd("TIME").cmd("ZRANGE").arg(&self.post.keys.waiting);
            asking.arg(page * PAGE).arg((page + 1) * PAGE - 1).arg("WITHSCORES");
            let mut answers = self.post.link.pipeline(asking.ignore_errors()).await?.into_iter();
            let mut answer = || answers.next().unwrap_or(Ok(Value::Nil));
            let now = server_millis(answer()?)?;
            let waiting = reply::fields("ZRANGE", answer()?)?;
            let count = waiting.len();
            let later = waiting.iter().map(|entry| number(&entry.value)).find(|at| *at > now);
            let due = waiting.iter().take_while(|entry| number(&entry.value) <= now);
            if self.lanes.due(due.filter_map(|entry| parse_id(&entry.name))) > 0 {
                self.standing = self.standing.max(Standing::Unknown);
            }
            if let Some(at) = later {
                self.post.wake.after(Duration::from_millis(at - now));
            }
            if later.is_some() || count < PAGE {
                break;
            }
        }
        Ok(())
    }

    /// Fetches messages that are pending, and lets those pass that are not any more; the condemned are buried.
    pub(super) async fn fetch(
        &mut self,
        ids: &[MessageId],
        terms: Terms,
    ) -> Result<Vec<Delivery>, ReadError> {
        let (found, condemned) = self.fetch_unless_condemned(ids, terms).await?;
        if !condemned.is_empty() {
            self.condemn(&condemned).await?;
        }
        Ok(found)
    }

    /// As [`Self::fetch`], but gives the condemned as well, which it leaves as they are.
    pub(super) async fn fetch_unless_condemned(
        &mut self,
        ids: &[MessageId],
        terms: Terms,
    ) -> Result<(Vec<Delivery>, Vec<MessageId>), ReadError> {
        let keys = &self.post.keys;
        let names = [&keys.stream, &keys.failures, &keys.waiting, &keys.lease];
        let names = [&names[..], &[&keys.deaths, &keys.suspects]].concat();
        let names: Vec<&str> = names.into_iter().map(|name| &**name).collect();
        let mut fetching = Lua::Fetch.call(&names);
        fetching.arg(&*self.post.handler.group).arg(&self.post.consumer).arg(WAITING);
        fetching.arg(match terms {
            Terms::Crowd => "crowd",
            Terms::Alone => "alone",
            Terms::First => "first",
            Terms::Dead => "dead",
        });
        for id in ids {
            fetching.arg(id.to_string());
        }
        let answer = self.post.link.query(&fetching).await;
        let answer = answer.inspect_err(|_| self.portion.failed(ids.len()))?;
        let Some(lists) = self.unless_over(answer) else { return Ok(Default::default()) };
        let mut lists = reply::array("fetch.lua", lists)?.into_iter();
        let mut list = || reply::array("fetch.lua", lists.next().unwrap_or_default());
        let found = list()?
            .into_iter()
            .map(|entry| self.claims.redelivery(reply::array("fetch.lua", entry)?));
        let found = found.collect::<Result<Vec<_>, _>>()?;
        for id in list()? {
            self.claims.bury(reply::id("fetch.lua", &id)?);
        }
        let condemned = list()?;
        let condemned = condemned.iter().map(|id| reply::id("fetch.lua", id));
        let condemned = condemned.collect::<Result<Vec<_>, _>>()?;
        let again = found.iter().filter(|delivery| delivery.attempt > Attempt::FIRST).count();
        add(&self.post.figures.redelivered, again);
        let stays = |id: &&MessageId| {
            condemned.contains(id) || found.iter().any(|found| found.message.id == **id)
        };
        let gone = ids.iter().filter(|id| !stays(id));
        self.lanes.settled(gone.map(|id| (*id, After::Next)), || {});
        Ok((found, condemned))
    }

    /// How far the group has read.
    pub(super) async fn delivered(&mut self) -> Result<MessageId, ReadError> {
        let mut asking = redis::cmd("XINFO");
        let answer = self.post.link.query(asking.arg("GROUPS").arg(&self.post.keys.stream)).await?;
        let rows = reply::rows("XINFO GROUPS", answer)?;
        let ours =
            rows.iter().find(|row| row.text("name").as_deref() == Some(&self.post.handler.group));
        let last = ours.and_then(|row| row.text("last-delivered-id")?.parse().ok());
        Ok(last.unwrap_or(self.last))
    }
}
