//! Running messages alone that were in flight when their host died, so that the one which
//! killed it is found and those beside it are not blamed.
//!
//! A suspect stays pending where it is until its turn comes. The step that takes it notes how it
//! runs, so that a host which dies then has said something about it: whoever finds the entry of
//! a host that died with nothing else to blame buries it. One that lets its host live is a
//! suspect no longer. Who is next, and with whom, is said by [`Suspects`].

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::claim::{CONDEMNED, Claims, Terms};
use super::feed::ReadError;
use super::keys::WAITING;
use super::post::Post;
use super::presence::Presence;
use super::rest::Rest;
use super::suspects::{Group, Suspects};
use super::trouble::Trouble;
use crate::message::{Delivery, MessageId};
use crate::outcome::Reason;
use crate::shutdown::Stop;

/// Suspects and all others take turns of this length, one message at least.
const SHIFT: Duration = Duration::from_secs(1);

/// At first a suspect waits this long for all others to be done; then they have their turn
/// again for as long, and it waits for twice as long the next time: one may wait for another to be
/// read. No call takes longer than its timeout, so there is no need to wait for longer than that.
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
    /// Those on trial may not be decided yet.
    is_trying: bool,
    rest: Rest,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// The suspects', with nothing beside them: nothing else may be read until they are decided.
    Suspects,
    /// Everyone's.
    Everyones,
    /// Nobody's: the host stops, or the handler is held.
    Nobodys,
}

impl Quarantine {
    pub(super) fn new(
        post: Arc<Post>,
        presence: Arc<Presence>,
        claims: Claims,
        cell: Arc<Semaphore>,
    ) -> Self {
        Self {
            post,
            presence,
            claims,
            cell,
            permit: None,
            suspects: Suspects::default(),
            shift_ends: None,
            patience: PATIENCE,
            is_trying: false,
            rest: Rest::default(),
        }
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

    /// Waits until nothing else is at work if it is the suspects' turn, and forgives those that ran.
    ///
    /// # Errors
    ///
    /// What concerns reading as a whole; other trouble is logged, and suspects are left alone for a while.
    pub(super) async fn whose_turn(&mut self, stop: &Stop) -> Result<Whose, ReadError> {
        if self.is_trying {
            tokio::select! {
                biased;
                () = held_back(&self.post, stop) => return Ok(Whose::Nobodys),
                () = self.post.held.at_rest() => self.is_trying = false,
            }
        }
        if self.rest.left().is_none()
            && let Err(error) = self.acquit().await
        {
            self.leave_alone(error)?;
        }
        if !self.is_turn() {
            self.permit = None;
            return Ok(Whose::Everyones);
        }
        tokio::select! {
            biased;
            () = held_back(&self.post, stop) => return Ok(Whose::Nobodys),
            () = self.post.held.at_rest() => self.patience = PATIENCE,
            () = tokio::time::sleep(self.patience) => {
                self.permit = None;
                self.shift_ends = Some(Instant::now() + self.patience);
                let longest = self.post.handler.timeout.saturating_add(PATIENCE);
                self.patience = self.patience.saturating_mul(2).min(longest);
                return Ok(Whose::Everyones);
            }
        }
        Ok(self.enter(stop).await)
    }

    /// The suspects that are next, `most` at most, where it is their turn; none where it is not any more.
    ///
    /// # Errors
    ///
    /// As of [`Self::whose_turn`].
    pub(super) async fn take(&mut self, most: usize) -> Result<Vec<Delivery>, ReadError> {
        match self.take_first(most).await {
            Ok(taken) if !taken.is_empty() => return Ok(taken),
            Ok(_) => {}
            Err(error) => self.leave_alone(error)?,
        }
        self.permit = None;
        Ok(Vec::new())
    }

    /// Sees out what runs alone, forgives it, and leaves the one place to other handlers: for as long as
    /// this is polled, which may end at any time.
    pub(super) async fn stand_down(&mut self) -> Infallible {
        loop {
            if self.is_trying {
                self.post.held.at_rest().await;
            }
            self.is_trying = false;
            self.permit = None;
            if let Some(left) = self.rest.left() {
                tokio::time::sleep(left).await;
            }
            match self.acquit().await {
                Ok(()) => pending().await,
                Err(error) => self.begin_rest(&error),
            }
        }
    }

    /// Forgets what is known of entries that are settled.
    pub(super) async fn tidy(&self) -> Result<(), ReadError> {
        self.post.link.query(&self.presence.acquitting(&[])).await?;
        Ok(())
    }

    /// Lets all others keep their turn: there was no token for them in it yet.
    pub(super) fn leave_turn(&mut self) {
        if let Some(ends) = &mut self.shift_ends {
            *ends = (*ends).max(Instant::now() + SHIFT);
        }
    }

    /// Ends the turn of all others, as they have nothing to do.
    pub(super) fn hurry(&mut self) {
        if self.permit.is_none() && !self.would_wait_again() {
            self.shift_ends = None;
        }
    }

    /// Whether it is a suspect's turn.
    pub(super) fn is_turn(&self) -> bool {
        self.is_ready() && (self.permit.is_some() || self.shift_ends.is_none_or(is_past))
    }

    /// How long others may wait for messages: not at all where suspects could run meanwhile.
    pub(super) fn until_turn(&self) -> Duration {
        if !self.is_ready() {
            return Duration::MAX;
        }
        let turn_ends = self.shift_ends.filter(|_| self.would_wait_again());
        turn_ends.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()))
    }

    /// Whether suspects wait for nothing but their turn.
    fn is_ready(&self) -> bool {
        self.is_busy() && self.rest.left().is_none()
    }

    /// Whether the last wait was in vain, and the next would be: something is at work still.
    fn would_wait_again(&self) -> bool {
        self.patience > PATIENCE && !self.post.held.is_at_rest()
    }

    /// Takes the one place where suspects run. All others have their turn after a while, and also
    /// while another handler has the place.
    async fn enter(&mut self, stop: &Stop) -> Whose {
        if self.permit.is_some() {
            if !self.shift_ends.is_none_or(is_past) {
                return Whose::Suspects;
            }
            self.permit = None;
        } else {
            let entering = timeout(SHIFT, self.cell.clone().acquire_owned());
            self.permit = tokio::select! {
                biased;
                () = held_back(&self.post, stop) => return Whose::Nobodys,
                entered = entering => entered.ok().and_then(Result::ok),
            };
        }
        self.shift_ends = Some(Instant::now() + SHIFT);
        if self.permit.is_some() { Whose::Suspects } else { Whose::Everyones }
    }

    /// Forgives those on trial: they are decided, and let their host live.
    async fn acquit(&mut self) -> Result<(), ReadError> {
        let survivors = self.presence.on_trial();
        if survivors.is_empty() {
            return Ok(());
        }
        self.post.link.query(&self.presence.acquitting(&survivors)).await?;
        self.presence.try_alone(Vec::new());
        self.rest = Rest::default();
        Ok(())
    }

    /// Leaves suspects alone for a while after trouble that says nothing of reading as a whole.
    fn leave_alone(&mut self, error: ReadError) -> Result<(), ReadError> {
        let trouble = error.trouble();
        // What a server without memory refuses to note it may still give to read.
        if !trouble.is_of_one_request() && trouble != Trouble::Unwritable {
            return Err(error);
        }
        self.post.figures.trouble(trouble.as_str());
        self.begin_rest(&error);
        Ok(())
    }

    fn begin_rest(&mut self, error: &ReadError) {
        // Scripts that the server forgot are there again at the next try.
        if self.rest.is_fresh() && error.trouble() != Trouble::ScriptsGone {
            tracing::error!(handler = %self.post.handler.name, stream = %self.post.handler.stream, %error,
                "cannot run apart what was in flight when its host died; trying again, and reading on");
        }
        self.post.wake.after(self.rest.begin());
    }

    async fn take_first(&mut self, most: usize) -> Result<Vec<Delivery>, ReadError> {
        while let Some(group) = self.suspects.next(most) {
            let taken = self.claim(group).await?;
            if !taken.is_empty() {
                return Ok(taken);
            }
        }
        self.tidy().await?;
        Ok(Vec::new())
    }

    async fn claim(&mut self, group: Group) -> Result<Vec<Delivery>, ReadError> {
        let claimed = self.claims.claim(&group.holder, &group.ids, group.terms).await;
        let claimed = claimed.inspect_err(|error| {
            // Those of another holder that were taken after all are found among our own.
            if may_have_been_done(error) && group.holder == self.post.consumer.now() {
                self.suspects.set_apart(&group.ids, &group.holder, Terms::Again);
            } else {
                self.suspects.restore(&group);
            }
        })?;
        self.rest = Rest::default();
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
            self.is_trying = true;
            self.presence.try_alone(tried.iter().map(|taken| taken.delivery.message.id).collect());
        }
        Ok(tried.into_iter().map(|taken| taken.delivery).collect())
    }
}

/// Waits until the host is to stop, or the handler is held.
async fn held_back(post: &Post, stop: &Stop) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = post.valve.shut() => {}
    }
}

/// Whether a request that failed may have been carried out, and only its answer was lost.
fn may_have_been_done(error: &ReadError) -> bool {
    matches!(error, ReadError::Reply(_)) || error.trouble().ends_connection()
}

fn is_past(at: Instant) -> bool {
    at <= Instant::now()
}
