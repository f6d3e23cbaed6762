//! The task that owns an instance with many messages in flight, and turns its event loop.
//!
//! What comes of each message it tells whoever waits for that. It ends when the guest breaks;
//! otherwise it is ended, by the callers' end of the instance.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use wasmtime::component::Accessor;

use super::Ended;
use super::letter::Handle;
use super::live::{Call, Shared, Started};
use crate::outcome::Outcome;
use crate::sandbox::contract::{self, Answer, Exports};
use crate::sandbox::cost::Ledger;
use crate::sandbox::fault;
use crate::sandbox::guest::Guest;
use crate::sandbox::instance::{self, Instance};
use crate::sandbox::linked::Linked;
use crate::sandbox::runner::Limits;

/// How long a guest may compute past the deadline of a message before it is stopped: short turns
/// of many messages are not to be broken off because one of them waits in vain.
const SPIN: Duration = Duration::from_millis(100);

/// Starts an instance, unless there is one, and serves calls until it breaks.
pub(super) async fn drive(
    linked: Arc<Linked>,
    spare: Option<Instance>,
    mut calls: mpsc::Receiver<Call>,
    shared: Arc<Shared>,
    starting: watch::Sender<Started>,
) {
    let started = match spare {
        Some(instance) => Ok(instance),
        None => Instance::start(&linked).await,
    };
    let mut instance = match started {
        Ok(instance) => instance,
        Err(fault) => {
            shared.retire();
            starting.send_replace(Some(Err(fault)));
            return;
        }
    };
    starting.send_replace(Some(Ok(())));
    let serving = serve(&mut instance, &linked, &mut calls, &shared);
    let served = linked.cost.timed(Instant::now(), serving).await;
    shared.retire();
    let guest = instance.store.data();
    linked.cost.memory(guest.meter.used());
    guest.voice.end();
    if let Err(error) = served {
        let fault = fault::of(&error, guest, linked.limits.timeout);
        tracing::debug!(handler = &*linked.handler, fault = fault.detail, "an instance broke");
        shared.flights.crash(fault);
    }
}

async fn serve(
    instance: &mut Instance,
    linked: &Linked,
    calls: &mut mpsc::Receiver<Call>,
    shared: &Shared,
) -> wasmtime::Result<()> {
    let (grown, limits, cost) = (instance.grown, &linked.limits, &linked.cost);
    let Exports::Async(handle) = &instance.exports else {
        return Err(wasmtime::Error::msg("it is not async"));
    };
    let store = &mut instance.store;
    store.set_hostcall_fuel(instance::allowance(1, limits));
    store.set_epoch_deadline(1);
    let turns = async |guest: &Accessor<Guest>| {
        let service = Service { guest, handle, limits, cost, shared, grown };
        let mut work = pin!(service.work(calls));
        // The engine polls this at each turn of its loop, so never while the guest computes.
        poll_fn(|polled| {
            service.allow_turn();
            work.as_mut().poll(polled)
        })
        .await
    };
    store.run_concurrent(turns).await?
}

/// An instance whose event loop is being turned.
struct Service<'a> {
    guest: &'a Accessor<Guest>,
    handle: &'a Handle,
    limits: &'a Limits,
    cost: &'a Ledger,
    shared: &'a Shared,
    /// Bytes of memory past which the instance retires.
    grown: u64,
}

impl Service<'_> {
    /// Begins what is asked for, and passes on what is answered. Whoever asks has a bound.
    async fn work(&self, calls: &mut mpsc::Receiver<Call>) -> wasmtime::Result<()> {
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                call = calls.recv() => match call {
                    None => return Ok(()),
                    Some(Call::AreYouThere(here)) => {
                        here.send(()).ok();
                    }
                    Some(Call::Handle { flight, letter }) => {
                        let number = self.shared.flights.begin(flight);
                        self.change_topic();
                        let answer = self.handle.call(self.guest, letter);
                        under_way.push(async move { (number, answer.await) });
                    }
                },
                Some((number, answer)) = under_way.next(), if !under_way.is_empty() => {
                    self.answer(number, answer?);
                }
            }
        }
    }

    fn answer(&self, number: u64, answer: Answer) {
        let outcome = contract::outcome(answer, self.limits);
        let used = self.guest.with(|mut guest| guest.get().meter.used());
        self.cost.memory(used);
        if used > self.grown || matches!(outcome, Outcome::Fault(_)) {
            self.shared.retire();
        }
        self.shared.flights.end(number, Ended::Answered(outcome));
        self.change_topic();
    }

    /// What the guest says and is refused from now on is not about what was before.
    fn change_topic(&self) {
        let topic = self.shared.flights.topic();
        self.guest.with(|mut guest| {
            let guest = guest.get();
            if topic.message.is_none() && topic.count.is_none() {
                guest.meter.forgive();
                guest.voice.end();
            }
            guest.voice.begin(topic);
        });
    }

    /// Sets how long the guest may compute before the loop must turn again.
    fn allow_turn(&self) {
        let now = Instant::now();
        let earliest = self.shared.flights.earliest(now);
        let deadline = earliest.unwrap_or_else(|| instance::deadline(now, self.limits.timeout));
        self.guest.with(|mut guest| guest.get().deadline = deadline.max(now + SPIN));
    }
}
