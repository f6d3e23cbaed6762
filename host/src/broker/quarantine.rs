//! Running messages alone that were in flight when their host died, so that the one which
//! killed it is found and those beside it are not blamed.
//!
//! A suspect stays pending where it is until its turn comes. In the step that takes it, its
//! death is counted, so that a host which dies then has named the culprit: whoever finds the
//! entry with a second death buries it. One that lets its host live is a suspect no longer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::claim::{Claims, Terms};
use super::feed::ReadError;
use super::keys::WAITING;
use super::post::Post;
use super::presence::Presence;
use crate::message::{Delivery, MessageId};
use crate::outcome::Reason;
use crate::shutdown::Stop;

/// Suspects and all others take turns of this length, one message at least.
const SHIFT: Duration = Duration::from_secs(1);

/// At first a suspect waits this long for all others to be done; then they have their turn
/// again, and it waits for twice as long the next time: one may wait for another to be read.
const PATIENCE: Duration = Duration::from_secs(5);

/// Suspects that are known at a time; further ones are found when these are done.
const SUSPECTS: usize = 1000;

/// A second death, while nothing ran beside it, is no coincidence.
const DEATHS: u32 = 2;

/// The suspects of one handler that this host knows of.
pub(super) struct Quarantine {
    post: Arc<Post>,
    presence: Arc<Presence>,
    claims: Claims,
    /// One suspect at a time in the whole process, whichever handler's.
    cell: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
    waiting: VecDeque<Suspect>,
    /// The one that runs alone, until it is known to have let its host live.
    running: Option<MessageId>,
    /// When the turn of whoever has it ends.
    shift_ends: Option<Instant>,
    patience: Duration,
}

struct Suspect {
    id: MessageId,
    holder: Arc<str>,
    terms: Terms,
}

/// Whose turn it is.
pub(super) enum Next {
    /// This one's, alone: nothing may be read until it is decided.
    Alone(Delivery),
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
        let (permit, running, shift_ends) = (None, None, None);
        let (waiting, patience) = (VecDeque::new(), PATIENCE);
        Self { post, presence, claims, cell, permit, waiting, running, shift_ends, patience }
    }

    /// Whether suspects wait for their turn.
    pub(super) fn is_busy(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether an entry is known as a suspect.
    pub(super) fn knows(&self, id: &MessageId) -> bool {
        self.running.as_ref() == Some(id) || self.waiting.iter().any(|suspect| suspect.id == *id)
    }

    /// Has entries run alone.
    pub(super) fn add(&mut self, ids: &[MessageId], holder: &str, terms: Terms) {
        let holder: Arc<str> = holder.into();
        let before = self.waiting.len();
        for id in ids {
            if self.waiting.len() < SUSPECTS && !self.knows(id) && !self.post.held.contains(id) {
                self.waiting.push_back(Suspect { id: *id, holder: holder.clone(), terms });
            }
        }
        let count = self.waiting.len() - before;
        if count > 0 {
            tracing::info!(handler = %self.post.handler.name, from = %holder, count,
                "in flight when their host died; they run one at a time");
        }
    }

    /// Waits until nothing else is at work if it is a suspect's turn, and gives the suspect.
    pub(super) async fn next(&mut self, stop: &Stop) -> Result<Next, ReadError> {
        if self.running.is_none() && !self.is_turn() {
            return Ok(Next::Crowd);
        }
        let patience = self.running.is_none().then_some(self.patience);
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
        if let Some(id) = self.running {
            self.post.link.query(&self.presence.acquitting(&[id])).await?;
            self.running = None;
        }
        if self.is_turn() && self.enter(stop).await {
            while let Some(suspect) = self.waiting.pop_front() {
                if let Some(delivery) = self.take(suspect).await? {
                    self.running = Some(delivery.message.id);
                    return Ok(Next::Alone(delivery));
                }
            }
        }
        if !self.is_busy() {
            self.tidy().await?;
        }
        self.permit = None;
        Ok(Next::Crowd)
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

    async fn take(&mut self, suspect: Suspect) -> Result<Option<Delivery>, ReadError> {
        let Suspect { id, holder, terms } = suspect;
        let claimed = self.claims.claim(&holder, &[id], terms).await;
        if claimed.is_err() {
            // It may have been taken: then its death is counted already, and nobody died since.
            let holder = self.post.consumer.now();
            self.waiting.push_front(Suspect { id, holder, terms: Terms::Alone });
        }
        let Some(taken) = claimed?.taken.pop() else { return Ok(None) };
        if &*holder == WAITING {
            self.post.wake.after(Duration::ZERO);
        }
        if taken.deaths < DEATHS {
            return Ok(Some(taken.delivery));
        }
        tracing::error!(handler = %self.post.handler.name, stream = %self.post.handler.stream, message_id = %id,
            "its host died twice while it was in flight, the second time alone; burying it");
        let error = "the host died twice while this message was in flight, the second time while it ran alone";
        self.claims.condemn(taken.delivery, Reason::Trap, error.to_owned());
        Ok(None)
    }
}

fn is_past(at: Instant) -> bool {
    at <= Instant::now()
}
