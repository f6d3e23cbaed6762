//! Reading at a rate that all hosts share: tokens come from a bucket in Redis before messages are read.
//!
//! Every message that is handed on has had its token, redeliveries too, and those that
//! nothing came of are given back. A read that blocks holds none, for it may block for
//! long while others could use them: what it brings waits for its token here.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::time::{Instant, sleep};

use super::feed::{Feed, ReadError};
use super::keys::Keys;
use super::post::Post;
use super::reply::{self, UnexpectedReply};
use super::scripts::Lua;
use crate::manifest::Rate;
use crate::message::Delivery;
use crate::shutdown::Stop;

/// Tokens are asked for by as many as come in this time, rather than one by one.
const CHUNK: Duration = Duration::from_millis(5);

/// Tokens may be granted this long ahead of their time, so that they are used on time.
const AHEAD: Duration = Duration::from_millis(200);

/// However long the wait for a token, a reader looks up from it this often.
const LONGEST: Duration = Duration::from_secs(1);

/// Longer than any wait: a message that was read has to get its token.
const HOWEVER_LONG: Duration = Duration::from_secs(1 << 32);

/// One reader's dealings with the bucket of its handler.
pub(super) struct Meter {
    post: Arc<Post>,
    stop: Stop,
    rule: Rate,
    key: String,
    /// Tokens to give back.
    pub(super) unused: usize,
    early: Vec<Delivery>,
    /// When those that were read without a token may be handed on, once that is known.
    ripe: Option<Instant>,
}

/// What the bucket gave.
struct Grant {
    tokens: usize,
    wait: Duration,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waited {
    Out,
    Interrupted,
}

/// How many tokens are worth a round trip, of those that are wanted: what comes in a moment, as
/// long as the bucket has room for the next in the meantime.
fn chunk(rule: &Rate, wanted: usize) -> usize {
    let soon = f64::from(rule.count.get()) * CHUNK.as_secs_f64() / rule.period.as_secs_f64();
    wanted.min(soon as usize).min(rule.burst.get() as usize / 2).max(1)
}

impl Feed {
    /// The next deliveries that there are tokens for; none where there were no tokens.
    pub(super) async fn metered(
        &mut self,
        meter: &mut Meter,
        slots: usize,
    ) -> Result<Option<Vec<Delivery>>, ReadError> {
        let tokens = meter.tokens(slots).await?;
        if tokens == 0 {
            return Ok(None);
        }
        // Until something comes of them.
        meter.unused += tokens;
        let turn = self.take_turn();
        let returned = self.returned(turn, tokens).await?;
        let patience = if returned.is_none() { self.patience(turn) } else { None };
        let found = match returned {
            Some(returned) => returned,
            None => self.read(tokens, None).await?,
        };
        meter.unused = meter.unused.saturating_sub(found.len());
        if !found.is_empty() || patience.is_none() {
            return Ok(Some(found));
        }
        meter.give_back().await?;
        meter.early = self.read(1, patience).await?;
        let ripe = meter.ripened().await?;
        Ok(meter.early.is_empty().then_some(ripe))
    }

    /// What was read without a token, before anything else; none where nothing was.
    pub(super) async fn early(&mut self) -> Result<Option<Vec<Delivery>>, ReadError> {
        let early = self.meter.as_mut().filter(|meter| !meter.early.is_empty());
        let Some(meter) = early else { return Ok(None) };
        meter.ripened().await.map(Some)
    }

    /// Suspects, as many as there are tokens for where the handler has a rate; none where it is the
    /// turn of all others after all.
    pub(super) async fn suspects(
        &mut self,
        slots: usize,
    ) -> Result<Option<Vec<Delivery>>, ReadError> {
        let quarantine = &mut self.returns.quarantine;
        let Some(meter) = &mut self.meter else {
            let found = quarantine.take(slots).await?;
            return Ok((!found.is_empty()).then_some(found));
        };
        let tokens = meter.tokens(slots).await?;
        meter.unused += tokens;
        if tokens == 0 || self.post.valve.is_shut() {
            return Ok(Some(Vec::new()));
        }
        let found = quarantine.take(tokens).await?;
        meter.unused = meter.unused.saturating_sub(found.len());
        if found.is_empty() {
            return Ok(None);
        }
        if meter.unused > 0 {
            // Nothing more is read while they run. Should these be lost on their way, a few are too few.
            let _ = meter.give_back().await;
        }
        Ok(Some(found))
    }
}

impl Meter {
    /// The meter of a handler that has a rate.
    pub(super) fn of(post: &Arc<Post>, stop: &Stop) -> Option<Self> {
        let rule = post.handler.rate?;
        let key = Keys::new(post.handler.named_stream(), &post.handler.group).rate;
        let (post, stop) = (post.clone(), stop.clone());
        Some(Self { post, stop, rule, key, unused: 0, early: Vec::new(), ripe: None })
    }

    /// Tokens that may be used now, as many as there are slots at most; none if the wait for them is long.
    pub(super) async fn tokens(&mut self, slots: usize) -> Result<usize, ReadError> {
        let least = chunk(&self.rule, slots);
        let Grant { tokens, wait } = self.exchange(slots, least, AHEAD).await?;
        // Half a moment early, so that the next ones are granted ahead.
        let wait = if tokens == 0 { wait.saturating_sub(AHEAD / 2).min(LONGEST) } else { wait };
        match self.waited(wait).await {
            Waited::Out => Ok(tokens),
            Waited::Interrupted => {
                self.unused += tokens;
                Ok(0)
            }
        }
    }

    pub(super) async fn give_back(&mut self) -> Result<(), ReadError> {
        self.exchange(0, 0, Duration::ZERO).await.map(drop)
    }

    /// What was read without a token, once it has one.
    pub(super) async fn ripened(&mut self) -> Result<Vec<Delivery>, ReadError> {
        if self.early.is_empty() {
            return Ok(Vec::new());
        }
        let ripe = match self.ripe {
            Some(ripe) => ripe,
            None => {
                let count = self.early.len();
                let grant = self.exchange(count, count, HOWEVER_LONG).await?;
                *self.ripe.insert(Instant::now() + grant.wait)
            }
        };
        let left = ripe.saturating_duration_since(Instant::now());
        self.waited(left.min(LONGEST)).await;
        if Instant::now() < ripe {
            return Ok(Vec::new());
        }
        self.ripe = None;
        Ok(std::mem::take(&mut self.early))
    }

    /// Waits, unless a stop is requested or the handler is held.
    async fn waited(&self, wait: Duration) -> Waited {
        if wait.is_zero() {
            return Waited::Out;
        }
        tokio::select! {
            () = sleep(wait) => Waited::Out,
            () = self.stop.cancelled() => Waited::Interrupted,
            () = self.post.valve.shut() => Waited::Interrupted,
        }
    }

    /// Gives unused tokens back and asks for others.
    async fn exchange(
        &mut self,
        most: usize,
        least: usize,
        ahead: Duration,
    ) -> Result<Grant, ReadError> {
        // Should the answer be lost, they are too: better a few less than a few too many.
        let unused = std::mem::take(&mut self.unused);
        let Rate { count, period, burst } = self.rule;
        let mut asking = Lua::Rate.call(&[&self.key]);
        asking.arg(count.get()).arg(period.as_millis() as u64).arg(burst.get());
        asking.arg(most).arg(least).arg(unused).arg(ahead.as_millis() as u64);
        Ok(grant(self.post.link.query(&asking).await?)?)
    }
}

fn grant(answer: Value) -> Result<Grant, UnexpectedReply> {
    let parts = reply::array("rate.lua", answer)?;
    let part = |at| reply::integer("rate.lua", parts.get(at).unwrap_or(&Value::Nil));
    let (tokens, wait) = (part(0)?.max(0) as usize, part(1)?.max(0) as u64);
    Ok(Grant { tokens, wait: Duration::from_micros(wait) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    #[test]
    fn tokens_are_asked_for_in_chunks_that_leave_room_in_the_bucket() {
        let rate = |count, seconds, burst| Rate {
            count: NonZeroU32::new(count).unwrap(),
            period: Duration::from_secs(seconds),
            burst: NonZeroU32::new(burst).unwrap(),
        };
        let cases = [
            (rate(10_000, 1, 1000), 64, 50),
            (rate(10_000, 1, 1000), 7, 7),
            (rate(10_000, 1, 20), 64, 10),
            (rate(100, 1, 10), 64, 1),
            (rate(1, 3600, 1), 64, 1),
            (rate(1_000_000, 1, 1), 64, 1),
        ];
        for (rule, wanted, expected) in cases {
            assert_eq!(chunk(&rule, wanted), expected, "{rule:?} {wanted}");
        }
    }
}
