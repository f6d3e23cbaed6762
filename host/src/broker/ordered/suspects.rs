//! Messages that may have killed their host: they run alone, and one that does it again is buried.
//!
//! What was in flight when a host died are heads of lanes that its tenure held: of each key one
//! at most. Who they are `inherit.lua` says, and when they run `ward`. One that is fetched to
//! run alone is noted in the same step; whoever finds the note and the host dead has the culprit.

use std::convert::Infallible;
use std::future::pending;

use redis::{RedisResult, Value};

use super::{EVERY, Ordered, Terms};
use crate::broker::feed::ReadError;
use crate::broker::keys::WAITING;
use crate::broker::scripts::Lua;
use crate::broker::ward::Solitude;
use crate::message::{Delivery, MessageId};
use crate::outcome::Reason;

impl Ordered {
    /// The next suspect, once nothing else is at work; none where it is the turn of all others.
    pub(super) async fn suspect(&mut self) -> Result<Option<Delivery>, ReadError> {
        if self.lanes.suspects() > 0 && self.enter().await {
            self.has_notes = true;
            while let Some(id) = self.lanes.take_suspect() {
                let terms = if self.ward.has_tried() { Terms::Alone } else { Terms::First };
                let fetched = self.fetch(&[id], terms).await;
                let fetched = fetched.inspect_err(|_| self.lanes.suspect(&id))?.pop();
                if fetched.is_some() {
                    self.ward.tries();
                    self.running = Some(id);
                    return Ok(fetched);
                }
            }
        }
        self.go_among_others();
        Ok(None)
    }

    /// Waits until the one that runs alone is decided, and forgives it: it let its host live.
    pub(super) async fn see_out(&mut self) -> Result<(), ReadError> {
        let Some(id) = self.running else { return Ok(()) };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(()),
            () = self.post.held.at_rest() => {}
        }
        // It is decided: should this fail, nobody else need wait for it.
        self.acquit(&[id]).await.inspect_err(|_| drop(self.lanes.solitude().take()))?;
        self.running = None;
        Ok(())
    }

    /// Takes back the one that was to run alone and did not. It is noted that it does: should the host
    /// die before it runs, it is blamed as if it had run.
    pub(super) fn put_back(&mut self) {
        if let Some(id) = self.running.take() {
            self.lanes.suspect(&id);
        }
    }

    /// Sees out the one that runs alone, and lets all others have their turn: for as long as this is
    /// polled, which may end at any time.
    pub(in crate::broker) async fn stand_down(&mut self) -> Infallible {
        while let Err(error) = self.see_out().await {
            tracing::debug!(handler = %self.post.handler.name, %error, "cannot forgive what ran alone; trying again");
            tokio::time::sleep(EVERY).await;
        }
        self.go_among_others();
        pending().await
    }

    /// Lets all others have their turn, unless a suspect still runs.
    pub(super) fn go_among_others(&self) {
        if self.running.is_none() {
            self.lanes.solitude().take();
        }
    }

    /// Has nothing else be at work. Gives whether it is so.
    async fn enter(&mut self) -> bool {
        let lasts = self.lanes.solitude().as_ref().map(Solitude::lasts);
        if let Some(lasts) = lasts {
            return lasts;
        }
        if !self.ward.until_turn().is_zero() {
            return false;
        }
        let solitude = self.ward.alone(&self.stop).await;
        let is_alone = solitude.is_some();
        *self.lanes.solitude() = solitude;
        is_alone
    }

    /// Forgets what is noted of these, and of all that are settled.
    pub(super) async fn acquit(&mut self, survivors: &[MessageId]) -> Result<(), ReadError> {
        let keys = &self.post.keys;
        let mut asking = redis::pipe();
        let mut acquitting = Lua::Acquit.call(&[&keys.stream, &keys.deaths]);
        acquitting.arg(&*self.post.handler.group).arg(&self.post.consumer).arg(WAITING);
        for id in survivors {
            acquitting.arg(id.to_string());
        }
        asking.add_command(acquitting).cmd("EXISTS").arg(&keys.deaths);
        let answers = self.post.link.pipeline(asking.ignore_errors()).await?;
        let answers: Vec<Value> = answers.into_iter().collect::<RedisResult<_>>()?;
        if answers.last() == Some(&Value::Int(0)) && self.has_notes {
            let forgetting = redis::cmd("DEL").arg(&keys.suspects).to_owned();
            self.post.link.query(&forgetting).await?;
            self.has_notes = false;
        }
        Ok(())
    }

    /// Buries what killed its host while it ran alone.
    pub(super) async fn condemn(&mut self, ids: &[MessageId]) -> Result<(), ReadError> {
        self.has_notes = true;
        // Should this fail, nobody may have them but for their burial.
        ids.iter().for_each(|id| self.lanes.withhold(id));
        for delivery in self.fetch_unless_condemned(ids, Terms::Dead).await?.0 {
            tracing::error!(handler = %self.post.handler.name, stream = %self.post.handler.stream,
                message_id = %delivery.message.id,
                "its host died again while it was in flight alone; burying it");
            let error = "the host died twice while this message was in flight, or more often; the last time it ran alone";
            self.claims.condemn(delivery, Reason::Trap, error.to_owned());
        }
        Ok(())
    }
}
