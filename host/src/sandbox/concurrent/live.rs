//! The callers' end of an instance that has many messages in flight.
//!
//! Each caller waits for its own message and no longer than the handler's timeout. The first
//! that waits in vain retires the instance; the last that leaves ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{timeout, timeout_at};

use super::Ended;
use super::driver;
use super::flights::{Flight, Flights};
use super::letter::Letter;
use crate::message::MessageId;
use crate::outcome::Fault;
use crate::sandbox::fault;
use crate::sandbox::instance::{self, Instance};
use crate::sandbox::linked::Linked;

/// How long an instance may take to say that it is there: longer than the driver lets a guest
/// compute past a deadline.
const RESPONSE: Duration = Duration::from_secs(2);

/// What a caller asks of the driver.
pub(super) enum Call {
    /// Run this.
    Handle { flight: Flight, letter: Letter },
    /// Answer if nothing in the guest keeps you from it.
    AreYouThere(oneshot::Sender<()>),
}

/// What callers and the driver both see.
#[derive(Default)]
pub(super) struct Shared {
    retired: AtomicBool,
    pub(super) flights: Flights,
}

impl Shared {
    /// No more messages from now on.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }
}

/// How the start went, once it did.
pub(super) type Started = Option<Result<(), Fault>>;

/// An instance and the task that drives it, which ends when this is dropped.
pub(super) struct Live {
    calls: mpsc::Sender<Call>,
    started: watch::Receiver<Started>,
    shared: Arc<Shared>,
    /// Messages that it may still take.
    left: AtomicU32,
    driver: JoinHandle<()>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Live {
    /// Starts the task, and with it an instance unless there is a spare one.
    pub(super) fn start(linked: Arc<Linked>, spare: Option<Instance>) -> Self {
        // A caller has one message in it, and asks one question about that.
        let (calls, queue) = mpsc::channel(2 * linked.limits.concurrency.max(1));
        let (starting, started) = watch::channel(None);
        let shared = Arc::new(Shared::default());
        let left = AtomicU32::new(linked.limits.further.calls);
        let driver = driver::drive(linked, spare, queue, shared.clone(), starting);
        Self { calls, started, shared, left, driver: tokio::spawn(driver) }
    }

    /// Whether it takes one more message, which is counted.
    pub(super) fn admits(&self) -> bool {
        if !self.is_open() {
            return false;
        }
        let left = self.left.load(Ordering::Relaxed).saturating_sub(1);
        self.left.store(left, Ordering::Relaxed);
        if left == 0 {
            self.shared.retire();
        }
        true
    }

    /// Whether it takes messages.
    pub(super) fn is_open(&self) -> bool {
        // A driver that is gone without a word has retired nothing.
        !self.driver.is_finished() && !self.shared.retired.load(Ordering::Relaxed)
    }

    /// Runs a message; `None` when the instance ended before it came to it.
    pub(super) async fn run(
        &self,
        id: MessageId,
        letter: Letter,
        timeout: Duration,
    ) -> Option<Ended> {
        // A start has its own bounds.
        let started = self.started.clone().wait_for(Option::is_some).await.ok()?.clone();
        if let Some(Err(fault)) = started {
            return Some(Ended::Broke(fault));
        }
        let (reply, mut answer) = oneshot::channel();
        let deadline = instance::deadline(Instant::now(), timeout);
        let flight = Flight { id, deadline, reply };
        self.calls.try_send(Call::Handle { flight, letter }).ok()?;
        match timeout_at(deadline.into(), &mut answer).await {
            Ok(answer) => answer.ok(),
            Err(_) => self.overdue(answer, timeout).await,
        }
    }

    /// A message was not answered in time. Whose fault is it? When the instance still does what
    /// it is asked, this message just waits. Otherwise something keeps it, and all others with it.
    async fn overdue(
        &self,
        mut answer: oneshot::Receiver<Ended>,
        limit: Duration,
    ) -> Option<Ended> {
        self.shared.retire();
        let (here, response) = oneshot::channel();
        self.calls.try_send(Call::AreYouThere(here)).ok();
        tokio::select! {
            biased;
            answer = &mut answer => answer.ok(),
            response = timeout(RESPONSE, response) => match response {
                Ok(Ok(())) => Some(Ended::Broke(fault::timeout(limit))),
                // The driver has ended, and has said before what it had to say.
                Ok(Err(_)) => answer.await.ok(),
                Err(_) => {
                    self.shared.flights.disturb();
                    self.driver.abort();
                    Some(Ended::Disturbed)
                }
            },
        }
    }
}
