//! What is looked after every few seconds beside reading and settling: that handled entries go where
//! the manifest wants it, and that unhandled ones do not, by a producer's trimming or the server's eviction.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use redis::{RedisError, RedisResult, Value};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::feed::ReadError;
use super::post::Post;
use super::reply;
use super::scripts::Lua;
use crate::figures::read;
use crate::manifest::Trim;
use crate::message::MessageId;

/// How often.
const EVERY: Duration = Duration::from_secs(2);

/// Entries removed in one step, about: a server does nothing else meanwhile.
const STEP: u32 = 5000;

/// Steps in a row at most.
const STEPS: u32 = 100;

/// Other groups acknowledge too: looked for this often although this one did nothing.
const OTHERS_EVERY: Duration = Duration::from_secs(30);

/// Unhandled entries within the first of so many parts of a stream are about to be trimmed.
const NEAR: u64 = 10;

/// Within the first of so many parts they still are, once they were.
const SAFE: u64 = 5;

/// Looks after one handler's stream.
pub(super) struct Janitor {
    post: Arc<Post>,
    swept: Option<(u64, Instant)>,
    edge: Edge,
    /// What a person was told of: policies, and words for what failed.
    told: BTreeSet<String>,
}

impl Janitor {
    pub(super) fn new(post: Arc<Post>) -> Self {
        Self { post, swept: None, edge: Edge::default(), told: BTreeSet::new() }
    }

    /// Looks after the stream until the task is ended.
    pub(super) async fn work(mut self) {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let round = match self.post.handler.trim {
                Trim::Handled => self.sweep().await,
                Trim::Never => self.watch().await,
            };
            let round = match round {
                Ok(()) => self.look_out_for_eviction().await,
                failed => failed,
            };
            if let Err(error) = round {
                self.cope(&error);
            }
        }
    }

    /// The reader tells of a Redis that fails; what only fails here is told here, once.
    fn cope(&mut self, error: &ReadError) {
        let is_ours = match error {
            ReadError::Redis(error) => super::trouble::Trouble::of(error).is_refusal(),
            ReadError::Reply(_) | ReadError::Silent(_) => false,
        };
        let (handler, stream) = (&self.post.handler.name, &self.post.handler.stream);
        if is_ours && self.told.insert("refused".to_owned()) {
            tracing::warn!(%handler, %stream, %error, "cannot look after the stream; trying again");
        } else {
            tracing::debug!(%handler, %stream, %error, "cannot look after the stream for now");
        }
    }

    /// Removes what every group has acknowledged (trim.lua): whatever a server's own way left behind, or has none for.
    async fn sweep(&mut self) -> Result<(), ReadError> {
        let figures = &self.post.figures;
        let settled = read(&figures.handled) + read(&figures.skipped) + figures.buried_in_all();
        let is_due =
            self.swept.is_none_or(|(before, at)| before != settled || at.elapsed() >= OTHERS_EVERY);
        if !is_due {
            return Ok(());
        }
        for _ in 0..STEPS {
            let mut trimming = Lua::Trim.call(&[&self.post.keys.stream]);
            let answer = self.post.link.query(trimming.arg(STEP)).await?;
            if reply::integer("trim.lua", &answer)? <= 0 {
                self.swept = Some((settled, Instant::now()));
                return Ok(());
            }
        }
        // There is more, for the next round.
        self.swept = None;
        Ok(())
    }

    /// Warns before somebody's trimming reaches what is not handled yet.
    async fn watch(&mut self) -> Result<(), ReadError> {
        let stream = &*self.post.handler.stream;
        let mut asking = redis::cmd("XRANGE");
        let answer = self.post.link.query(asking.arg(stream).arg("-").arg("+").arg("COUNT").arg(1));
        let first = reply::entries("XRANGE", answer.await?)?.first().map(|entry| entry.id);
        let Some(first) = first else { return Ok(()) };
        if !self.edge.moves_to(first) {
            return Ok(());
        }
        let Some(view) = self.view(first).await? else { return Ok(()) };
        if self.edge.is_news(&view) {
            tracing::warn!(handler = %self.post.handler.name, stream, first = %view.first, last = %view.last,
                oldest_unhandled = view.oldest.map(|id| id.to_string()), length = view.length,
                pending = view.pending,
                "the stream is being trimmed close to messages that are not handled yet; let producers trim \
                 later, not at all, or by `MAXLEN ~ n ACKED` (Redis 8.2.7), or start more hosts");
        }
        Ok(())
    }

    /// What the group has still to handle, and where that stands on the stream; `None` without the group.
    async fn view(&self, first: MessageId) -> Result<Option<View>, ReadError> {
        let (stream, group) = (&*self.post.handler.stream, &*self.post.handler.group);
        let mut asking = redis::pipe();
        asking.cmd("XINFO").arg("GROUPS").arg(stream);
        asking.cmd("XPENDING").arg(stream).arg(group);
        asking.cmd("XREVRANGE").arg(stream).arg("+").arg("-").arg("COUNT").arg(1);
        asking.cmd("XLEN").arg(stream);
        let mut answers = self.ask(&mut asking).await?.into_iter();
        let mut answer = || answers.next().unwrap_or_default();
        let rows = reply::rows("XINFO GROUPS", answer())?;
        let row = rows.into_iter().find(|row| row.text("name").as_deref() == Some(group));
        let Some(read_to) = row.and_then(|row| row.text("last-delivered-id")) else {
            return Ok(None);
        };
        let mut summary = reply::array("XPENDING", answer())?.into_iter();
        let pending = reply::integer("XPENDING", &summary.next().unwrap_or(Value::Int(0)))?;
        let oldest = summary.next().filter(|_| pending > 0);
        let pending_from = oldest.map(|id| reply::id("XPENDING", &id)).transpose()?;
        let last = reply::entries("XREVRANGE", answer())?.first().map_or(first, |entry| entry.id);
        let length = reply::integer("XLEN", &answer())?;
        let mut asking = redis::cmd("XRANGE");
        asking.arg(stream).arg(format!("({read_to}")).arg("+").arg("COUNT").arg(1);
        let unread = reply::entries("XRANGE", self.post.link.query(&asking).await?)?;
        let unread_from = unread.first().map(|entry| entry.id);
        let oldest = [pending_from, unread_from].into_iter().flatten().min();
        Ok(Some(View { first, last, oldest, length, pending }))
    }

    async fn ask(&self, asking: &mut redis::Pipeline) -> Result<Vec<Value>, RedisError> {
        let answers = self.post.link.pipeline(asking.ignore_errors()).await?;
        answers.into_iter().collect::<RedisResult<_>>()
    }

    /// Warns once of each policy by which the server may remove the whole stream when its memory is full.
    async fn look_out_for_eviction(&mut self) -> Result<(), ReadError> {
        let Some(policy) = self.post.link.abilities().policy() else { return Ok(()) };
        if self.told.contains(&policy) {
            return Ok(());
        }
        let is_danger = if policy.starts_with("allkeys-") {
            true
        } else if policy.starts_with("volatile-") {
            let stream = &*self.post.handler.stream;
            let answer = self.post.link.query(redis::cmd("PTTL").arg(stream)).await?;
            reply::integer("PTTL", &answer)? >= 0
        } else {
            false
        };
        if is_danger {
            tracing::warn!(handler = %self.post.handler.name, stream = %self.post.handler.stream, policy,
                "when its memory is full, this server may remove the whole stream, with all that is not handled; \
                 set `maxmemory-policy noeviction`");
            self.told.insert(policy);
        }
        Ok(())
    }
}

/// Where a group stands on its stream.
#[derive(Debug, Clone, Copy)]
struct View {
    first: MessageId,
    last: MessageId,
    /// The first entry that is not handled.
    oldest: Option<MessageId>,
    length: i64,
    pending: i64,
}

/// The edge that a stream is trimmed from, as it was last seen.
#[derive(Debug, Default)]
struct Edge {
    first: Option<MessageId>,
    warned: bool,
}

impl Edge {
    /// Whether entries were trimmed since the last look.
    fn moves_to(&mut self, first: MessageId) -> bool {
        self.first.replace(first).is_some_and(|before| before < first)
    }

    /// Whether unhandled entries have come close to the edge: once, until they were away from it.
    ///
    /// How far is told by the time in the ids, as if entries came evenly.
    fn is_news(&mut self, view: &View) -> bool {
        let span = view.last.millis.saturating_sub(view.first.millis);
        let margin = view.oldest.map(|oldest| oldest.millis.saturating_sub(view.first.millis));
        let is_within = |part: u64| margin.is_some_and(|margin| margin <= span / part);
        let news = is_within(NEAR) && !self.warned;
        self.warned = news || (self.warned && is_within(SAFE));
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(millis: u64) -> MessageId {
        MessageId { millis, sequence: 0 }
    }

    fn view(first: u64, oldest: Option<u64>, last: u64) -> View {
        View { first: id(first), last: id(last), oldest: oldest.map(id), length: 0, pending: 0 }
    }

    #[test]
    fn an_edge_moves_only_upwards_and_not_at_first_sight() {
        let mut edge = Edge::default();
        assert!(!edge.moves_to(id(5)));
        assert!(!edge.moves_to(id(5)));
        assert!(edge.moves_to(id(6)));
        assert!(!edge.moves_to(id(1)), "the stream was made anew");
    }

    #[test]
    fn who_comes_close_to_the_edge_is_told_once_and_again_after_being_away() {
        let mut edge = Edge::default();
        assert!(!edge.is_news(&view(1000, None, 2000)), "nothing is unhandled");
        assert!(!edge.is_news(&view(1000, Some(1500), 2000)));
        assert!(edge.is_news(&view(1000, Some(1090), 2000)));
        assert!(!edge.is_news(&view(1100, Some(1100), 2100)), "told before");
        assert!(!edge.is_news(&view(1100, Some(1250), 2100)), "still close");
        assert!(!edge.is_news(&view(1100, Some(1150), 2100)), "not away meanwhile");
        assert!(!edge.is_news(&view(1100, Some(1900), 2100)), "away");
        assert!(edge.is_news(&view(1800, Some(1700), 2800)), "even past it");
    }

    #[test]
    fn a_stream_of_one_moment_is_all_edge() {
        assert!(Edge::default().is_news(&view(1000, Some(1000), 1000)));
    }
}
