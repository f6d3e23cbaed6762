//! Entries that come back: replies lost on the way, retries that are due, and what others left.
//!
//! The three take turns, so that none starves for another's plenty or trouble.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::claim::{Claims, Terms};
use super::feed::ReadError;
use super::keys::WAITING;
use super::orphans::{Orphans, PAGE};
use super::post::Post;
use super::presence::{LIFETIME, Presence};
use super::quarantine::Quarantine;
use super::reply::{self, number};
use super::rest::Rest;
use super::settle::Settler;
use super::trouble::Trouble;
use crate::message::{Delivery, MessageId};

/// How often entries that come back are looked for when nothing else calls for it.
///
/// A reply can also be lost after the connection is: until the server notices, it
/// delivers to a reader that is gone. And other hosts die, and park retries.
const EVERY: Duration = Duration::from_secs(2);

/// Retries looked at in one step, …
const DUE_PAGE: usize = 64;

/// … and steps, where those before are in hand, or wait to be buried or to run alone.
const DUE_PAGES: usize = 64;

/// Finds entries that are pending without anyone at work on them.
pub(super) struct Returns {
    post: Arc<Post>,
    presence: Arc<Presence>,
    claims: Claims,
    orphans: Orphans,
    pub quarantine: Quarantine,
    /// Where to go on among our own pending entries; `None` when there is no need to look.
    lost: Option<MessageId>,
    swept: Option<Instant>,
    /// Where to look first.
    first: Source,
    rests: [Rest; Source::ALL.len()],
}

/// Where entries come back from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Due,
    Lost,
    Orphans,
}

impl Source {
    const ALL: [Self; 3] = [Self::Due, Self::Lost, Self::Orphans];

    /// All of them, from this one on.
    fn and_the_others(self) -> impl Iterator<Item = Self> {
        (0..Self::ALL.len()).map(move |step| Self::ALL[(self as usize + step) % Self::ALL.len()])
    }
}

impl Returns {
    pub(super) fn new(
        post: Arc<Post>,
        presence: Arc<Presence>,
        settler: Settler,
        quarantine: impl FnOnce(Claims) -> Quarantine,
    ) -> Self {
        let claims = Claims::new(post.clone(), settler);
        Self {
            orphans: Orphans::new(post.clone(), claims.clone()),
            quarantine: quarantine(claims.clone()),
            post,
            presence,
            claims,
            lost: None,
            swept: None,
            first: Source::Due,
            rests: Default::default(),
        }
    }

    /// Has the own pending list searched for entries that are not in hand.
    pub(super) fn look_for_lost(&mut self) {
        self.lost = Some(MessageId { millis: 0, sequence: 0 });
    }

    /// Leaves what others hold alone for as long as it takes them to show that they live.
    pub(super) fn spare_others(&mut self) {
        self.orphans.spare(LIFETIME);
    }

    /// Takes up to `slots` entries back, from one source at a time.
    ///
    /// # Errors
    ///
    /// What concerns reading as a whole; other trouble is logged, and its source left alone for a while.
    pub(super) async fn take(&mut self, slots: usize) -> Result<Vec<Delivery>, ReadError> {
        let sweep = self.swept.is_none_or(|last| last.elapsed() >= EVERY);
        if sweep {
            self.swept = Some(Instant::now());
            self.orphans.look();
            // Other hosts' retries may be due.
            self.post.wake.after(Duration::ZERO);
        }
        if sweep || self.post.held.take_forgotten() {
            self.look_for_lost();
        }
        for source in self.first.and_the_others() {
            if let Some(rest) = self.rests[source as usize].left() {
                if source == Source::Due && self.post.wake.take_due() {
                    self.post.wake.after(rest);
                }
                continue;
            }
            match self.take_from(source, slots).await {
                Ok(None) => {}
                Ok(Some(found)) => {
                    self.rests[source as usize] = Rest::default();
                    if !found.is_empty() {
                        self.first = source.and_the_others().nth(1).unwrap_or(source);
                        return Ok(found);
                    }
                }
                Err(error) if error.trouble().is_of_one_request() => self.rest(source, &error),
                Err(error) => return Err(error),
            }
        }
        Ok(Vec::new())
    }

    /// What a source has; `None` where nothing called for a look, which says nothing of its trouble.
    async fn take_from(
        &mut self,
        source: Source,
        slots: usize,
    ) -> Result<Option<Vec<Delivery>>, ReadError> {
        let found = match source {
            Source::Due if self.post.wake.take_due() => self.due(slots).await?,
            Source::Lost if self.lost.is_some() || self.presence.inherits() => {
                self.lost(slots).await?
            }
            Source::Orphans if self.orphans.is_wanted(&self.quarantine) => {
                self.orphans.take(slots, &mut self.quarantine).await?
            }
            Source::Due | Source::Lost | Source::Orphans => return Ok(None),
        };
        Ok(Some(found))
    }

    fn rest(&mut self, source: Source, error: &ReadError) {
        let rest = &mut self.rests[source as usize];
        // Scripts that the server forgot are there again at the next try.
        if rest.is_fresh() && error.trouble() != Trouble::ScriptsGone {
            let what = match source {
                Source::Due => "retries that are due",
                Source::Lost => "entries whose replies were lost",
                Source::Orphans => "what other hosts left",
            };
            tracing::error!(handler = %self.post.handler.name, stream = %self.post.handler.stream, %error,
                "cannot take back {what}; trying again, and reading on");
        }
        let wait = rest.begin();
        self.post.wake.after(wait);
    }

    /// What Redis says we hold, less what is in hand: `XPENDING`, a page at a time.
    async fn lost(&mut self, slots: usize) -> Result<Vec<Delivery>, ReadError> {
        if self.presence.inherits() {
            return self.inherited().await.map(|()| Vec::new());
        }
        while let Some(from) = self.lost {
            let me = self.post.consumer.now();
            let page = self.claims.pending(&me, Duration::ZERO, Some(from), PAGE).await?;
            let missing: Vec<_> = page.iter().filter(|id| self.is_missing(id)).copied().collect();
            let wanted = &missing[..missing.len().min(slots)];
            let claimed = self.claims.claim(&me, wanted, Terms::Crowd).await?;
            self.quarantine.add(&claimed.suspects, &me, Terms::Alone);
            // A page without any that are missing is done with, and so are those that were looked at.
            self.lost = match wanted.get(..claimed.seen).and_then(<[_]>::last) {
                Some(last) => Some(*last),
                None => page.last().copied(),
            };
            if !claimed.taken.is_empty() {
                return Ok(claimed.deliveries());
            }
        }
        Ok(Vec::new())
    }

    /// What an earlier host of this name had in flight when it died: it runs one at a time.
    async fn inherited(&mut self) -> Result<(), ReadError> {
        let mut from = Some(MessageId { millis: 0, sequence: 0 });
        while let Some(start) = from.filter(|_| !self.quarantine.is_busy()) {
            let me = self.post.consumer.now();
            let page = self.claims.pending(&me, Duration::ZERO, Some(start), PAGE).await?;
            let missing: Vec<_> = page.iter().filter(|id| self.is_missing(id)).copied().collect();
            self.quarantine.add(&missing, &me, Terms::Died);
            from = page.last().copied();
        }
        if from.is_none() && !self.quarantine.is_busy() {
            self.presence.has_inherited();
        }
        Ok(())
    }

    fn is_missing(&self, id: &MessageId) -> bool {
        !self.post.held.contains(id) && !self.quarantine.knows(id)
    }

    /// Retries whose time has come by the server's clock.
    async fn due(&mut self, slots: usize) -> Result<Vec<Delivery>, ReadError> {
        let mut due = Vec::new();
        let size = slots.max(DUE_PAGE);
        for page in 0..DUE_PAGES {
            let mut asking = redis::pipe();
            asking.cmd("TIME").cmd("ZRANGE").arg(&self.post.keys.waiting);
            asking.arg(page * size).arg((page + 1) * size - 1).arg("WITHSCORES");
            let mut answers = self.post.link.pipeline(asking.ignore_errors()).await?.into_iter();
            let mut answer = || answers.next().unwrap_or(Ok(Value::Nil));
            let now = reply::server_millis(answer()?)?;
            let waiting = reply::fields("ZRANGE", answer()?)?;
            let later = waiting.iter().map(|entry| number(&entry.value)).find(|at| *at > now);
            let ripe = waiting.iter().take_while(|entry| number(&entry.value) <= now);
            // One that is still in hand is only about to wait: its settlement is not confirmed yet.
            let ids = ripe.filter_map(|entry| parse_id(&entry.name));
            due.extend(ids.filter(|id| self.is_missing(id)).take(slots));
            if let Some(at) = later {
                self.post.wake.after(Duration::from_millis(at - now));
            }
            if !due.is_empty() || later.is_some() || waiting.len() < size {
                break;
            }
        }
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let claimed = self.claims.claim(WAITING, &due, Terms::Crowd).await?;
        self.quarantine.add(&claimed.suspects, WAITING, Terms::Alone);
        if claimed.is_progress() {
            // There may be more that are due than there are slots.
            self.post.wake.after(Duration::ZERO);
        }
        Ok(claimed.deliveries())
    }
}

pub(super) fn parse_id(text: &[u8]) -> Option<MessageId> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_has_its_turn_whichever_is_first() {
        for first in Source::ALL {
            let order: Vec<_> = first.and_the_others().collect();
            assert_eq!(order[0], first);
            assert!(Source::ALL.iter().all(|source| order.contains(source)));
        }
    }
}
