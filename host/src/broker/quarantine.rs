//! Running messages alone that were in flight when their host died, so that the one which
//! killed it is found and those beside it are not blamed.
//!
//! A suspect stays pending where it is until its turn comes. The step that takes it notes how it
//! runs, so that a host which dies then has said something about it: whoever finds the entry of
//! a host that died with nothing else to blame buries it. One that lets its host live is a
//! suspect no longer. Who is next, and with whom, is said by [`Suspects`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::claim::{CONDEMNED, Claims, Terms};
use super::feed::ReadError;
use super::keys::WAITING;
use super::post::Post;
use super::presence::Presence;
use super::suspects::{Group, Suspects};
use crate::message::{Delivery, MessageId};
use crate::outcome::Reason;
use crate::shutdown::Stop;

/// Suspects and all others take turns of this length, one message at least.
const SHIFT: Duration = Duration::from_secs(1);

/// At first a suspect waits this long for all others to be done; then they have their turn
/// again, and it waits for twice as long the next time: one may wait for another to be read.
const PATIENCE: Duration = Duration::from_secs(5);

/// The suspects of one handler that this host knows of.
pub(super) struct Quarantine {
    post: Arc<Post>,
    presence: Arc<Presence>,
    claims: Claims,
    /// One handler's suspects at a time in the whole process.
    cell: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
    suspects: Suspects,
    /// When the turn of whoever has it ends.
    shift_ends: Option<Instant>,
    patience: Duration,
}

/// Whose turn it is.
pub(super) enum Next {
    /// That of these, with nothing beside them: nothing may be read until they are decided.
    Alone(Vec<Delivery>),
    /// Everyone's.
    Crowd,
    /// Nobody's: the host stops.
    Nobody,
}

impl Quarantine {
    pub(super) fn new(
        post: Arc<Post>,
        presence: Arc<Presence>,
        claims: Claims,
        cell: Arc<Semaphore>,
    ) -> Self {
        let (permit, shift_ends) = (None, None);
        let (suspects, patience) = (Suspects::default(), PATIENCE);
        Self { post, presence, claims, cell, permit, suspects, shift_ends, patience }
    }

    /// Whether suspects wait for their turn.
    pub(super) fn is_busy(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// Whether further suspects can be added.
    pub(super) fn has_room(&self) -> bool {
        self.suspects.has_room()
    }

    /// Whether an entry is known as a suspect.
    pub(super) fn knows(&self, id: &MessageId) -> bool {
        self.presence.on_trial().contains(id) || self.suspects.know(id)
    }

    /// Has entries run alone.
    pub(super) fn add(&mut self, ids: &[MessageId], holder: &str, terms: Terms) {
        let holder: Arc<str> = holder.into();
        let on_trial = self.presence.on_trial();
        let held = &self.post.held;
        let unknown = ids.iter().filter(|id| !on_trial.contains(id) && !held.contains(id));
        let count = self.suspects.add(unknown, &holder, terms);
        if count > 0 {
            tracing::info!(handler = %self.post.handler.name, from = %holder, count,
                "in flight when their host died; they run apart from all others");
        }
    }

    /// Waits until nothing else is at work if it is the suspects' turn, and gives those that are
    /// next, `most` at most.
    pub(super) async fn next(&mut self, most: usize, stop: &Stop) -> Result<Next, ReadError> {
        let running = self.presence.on_trial();
        if running.is_empty() && !self.is_turn() {
            return Ok(Next::Crowd);
        }
        let patience = running.is_empty().then_some(self.patience);
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(Next::Nobody),
            () = self.post.held.at_rest() => self.patience = PATIENCE,
            () = tokio::time::sleep(patience.unwrap_or_default()), if patience.is_some() => {
                self.patience = self.patience.saturating_mul(2);
                self.permit = None;
                self.shift_ends = Some(Instant::now() + SHIFT);
                return Ok(Next::Crowd);
            }
        }
        if !running.is_empty() {
            self.post.link.query(&self.presence.acquitting(&running)).await?;
            self.presence.try_alone(Vec::new());
        }
        if self.is_turn() && self.enter(stop).await {
            let burst = self.post.handler.rate.map(|rate| rate.burst.get() as usize);
            let most = most.min(burst.unwrap_or(most));
            while let Some(group) = self.suspects.next(most) {
                let taken = self.take(group).await?;
                if !taken.is_empty() {
                    return Ok(Next::Alone(taken));
                }
            }
        }
        // First: whatever comes of the rest, another handler may need the place.
        self.permit = None;
        if !self.is_busy() {
            self.tidy().await?;
        }
        Ok(Next::Crowd)
    }

    /// Leaves the place to other handlers' suspects, once those that run are decided: nothing more
    /// of this handler is to be read for now.
    pub(super) async fn give_way(&mut self) {
        if self.permit.is_some() {
            self.post.held.at_rest().await;
            self.permit = None;
        }
    }

    /// Forgets what is known of entries that are settled.
    pub(super) async fn tidy(&self) -> Result<(), ReadError> {
        self.post.link.query(&self.presence.acquitting(&[])).await?;
        Ok(())
    }

    /// Ends the turn of all others, as they have nothing to do.
    pub(super) fn hurry(&mut self) {
        if self.permit.is_none() {
            self.shift_ends = None;
        }
    }

    /// Whether it is a suspect's turn.
    pub(super) fn is_turn(&self) -> bool {
        self.is_busy() && (self.permit.is_some() || self.shift_ends.is_none_or(is_past))
    }

    /// Takes the one place where suspects run; gives whether it has it. All others have their
    /// turn after a while, and also while another handler has the place.
    async fn enter(&mut self, stop: &Stop) -> bool {
        if self.permit.is_some() {
            if self.shift_ends.is_none_or(is_past) {
                self.permit = None;
                self.shift_ends = Some(Instant::now() + SHIFT);
            }
            return self.permit.is_some();
        }
        let entering = timeout(SHIFT, self.cell.clone().acquire_owned());
        self.permit = tokio::select! {
            entered = entering => entered.ok().and_then(Result::ok),
            () = stop.cancelled() => None,
        };
        self.shift_ends = Some(Instant::now() + SHIFT);
        self.permit.is_some()
    }

    async fn take(&mut self, group: Group) -> Result<Vec<Delivery>, ReadError> {
        let claimed = self.claims.claim(&group.holder, &group.ids, group.terms).await;
        let claimed = claimed.inspect_err(|_| {
            // They may have been taken: then how they run is noted already, and nobody died since.
            let holder = self.post.consumer.now();
            self.suspects.set_apart(&group.ids, &holder, Terms::Alone);
        })?;
        self.suspects.put_back(&group, group.ids.get(claimed.seen..).unwrap_or_default());
        self.suspects.set_apart(&claimed.suspects, &group.holder, Terms::Died);
        if &*group.holder == WAITING {
            self.post.wake.after(Duration::ZERO);
        }
        let (condemned, tried): (Vec<_>, Vec<_>) =
            claimed.taken.into_iter().partition(|taken| taken.trial == CONDEMNED);
        for taken in condemned {
            let id = taken.delivery.message.id;
            tracing::error!(handler = %self.post.handler.name, stream = %self.post.handler.stream, message_id = %id,
                "its host died again while it was in flight alone; burying it");
            let error = "the host died twice while this message was in flight, or more often; the last time it ran alone";
            self.claims.condemn(taken.delivery, Reason::Trap, error.to_owned());
        }
        if !tried.is_empty() {
            self.suspects.ran();
            self.presence.try_alone(tried.iter().map(|taken| taken.delivery.message.id).collect());
        }
        Ok(tried.into_iter().map(|taken| taken.delivery).collect())
    }
}

fn is_past(at: Instant) -> bool {
    at <= Instant::now()
}
