//! One instance of a plugin: how it starts, is called within its limits, and when it retires.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{Store, StoreContextMut, UpdateDeadline};

use super::contract::{Answer, Exports, Parts};
use super::cost::End;
use super::fault::{self, Overdue};
use super::guest::Guest;
use super::linked::Linked;
use super::plugin::Plugin;
use super::runner::Limits;
use super::voice::Topic;
use crate::message::Delivery;
use crate::outcome::Fault;

/// What the host keeps for one output, besides its bytes.
const OUTPUT_OVERHEAD: usize = 512;

/// Bytes that one call may hand to the host besides its outputs, such as a line it prints.
const ANSWER_SLACK: usize = 256 << 10;

/// Bytes that one call may hand to the host at most, however many messages it answers.
const ANSWER_MAX: usize = 128 << 20;

/// Calls, streams and the like that a concurrent guest may have at once, besides [`HANDLES_EACH`].
const HANDLES_SPARE: usize = 10_000;

/// Those that each message in flight may have: the engine itself takes some five for a call that
/// waits for one thing.
const HANDLES_EACH: usize = 20;

/// An instance, ready for its next call.
pub(super) struct Instance {
    pub(super) store: Store<Guest>,
    pub(super) exports: Exports,
    /// Calls that it may still take.
    pub(super) calls: u32,
    /// Bytes of memories and tables past which it is spent.
    pub(super) grown: u64,
    /// Last, so that the place is given back after the memory.
    _place: OwnedSemaphorePermit,
}

impl Instance {
    /// Starts an instance. It must be ready within the time of a call.
    pub(super) async fn start(linked: &Linked) -> Result<Self, Fault> {
        let limits = &linked.limits;
        let place = place(&linked.plugin, limits.timeout).await?;
        let mut store = Store::new(linked.plugin.engine(), Guest::new(linked));
        store.limiter(|guest| &mut guest.meter);
        store.epoch_deadline_callback(at_each_tick);
        bound_handles(&mut store, limits.concurrency);
        linked.cost.started();
        let now = begin(&mut store, Topic::default(), limits);
        let until = store.data().deadline;
        let starting = within(until, linked.ready.instantiate(&mut store));
        let started = linked.cost.timed(now, starting).await;
        let exports = end(&store, started, linked)?;
        let meter = &store.data().meter;
        let grown = meter.used() + (meter.limit() - meter.used()) / 2;
        Ok(Self { store, exports, calls: limits.further.calls, grown, _place: place })
    }

    /// Calls the guest. After a fault the instance is in no state to be called again.
    pub(super) async fn call(
        &mut self,
        deliveries: &[Delivery],
        linked: &Linked,
    ) -> Result<Vec<Answer>, Fault> {
        let limits = &linked.limits;
        let parts = Parts::of(deliveries)?;
        let messages = parts.messages(deliveries);
        self.calls = self.calls.saturating_sub(1);
        self.store.set_hostcall_fuel(allowance(deliveries.len(), limits));
        linked.cost.call();
        let now = begin(&mut self.store, topic(deliveries), limits);
        let until = self.store.data().deadline;
        let answering = within(until, self.exports.call(&mut self.store, &messages));
        let answered = linked.cost.timed(now, answering).await;
        end(&self.store, answered, linked)
    }

    /// Why it should not be called again, if so: after as many calls as its handler allows, which
    /// bounds what a guest can hoard besides memory, or once
    /// it has taken more than half of the memory that was left when it started.
    /// A guest's memory never shrinks, and a leak is best ended between two messages.
    pub(super) fn spent(&self) -> Option<End> {
        if self.calls == 0 {
            return Some(End::Calls);
        }
        (self.store.data().meter.used() > self.grown).then_some(End::Growth)
    }
}

/// Bounds what a concurrent guest can make the engine keep for it, which the meter does not see.
fn bound_handles(store: &mut Store<Guest>, concurrency: usize) {
    if let Some(table) = store.concurrent_resource_table() {
        let most = HANDLES_SPARE + concurrency * HANDLES_EACH;
        table.set_max_capacity(most);
        store.set_max_component_handles(most);
    }
}

/// Waits for a place among the instances of the sandbox.
async fn place(plugin: &Plugin, timeout: Duration) -> Result<OwnedSemaphorePermit, Fault> {
    let places = plugin.places().clone();
    match tokio::time::timeout(timeout, places.acquire_owned()).await {
        Ok(Ok(place)) => Ok(place),
        Ok(Err(_)) | Err(_) => Err(fault::crowded(timeout)),
    }
}

/// Runs a guest until it ends or its time is up.
///
/// A guest that computes is stopped by [`at_each_tick`]; one that waits in the
/// host is not computing, and is stopped here.
async fn within<T>(
    until: Instant,
    guest: impl Future<Output = wasmtime::Result<T>>,
) -> wasmtime::Result<T> {
    let answered = tokio::time::timeout_at(until.into(), guest).await;
    answered.unwrap_or_else(|_| Err(Overdue.into()))
}

/// Interrupts a running guest: it gives way to the other tasks of its thread,
/// timers and sockets included, until its time is up.
fn at_each_tick(guest: StoreContextMut<'_, Guest>) -> wasmtime::Result<UpdateDeadline> {
    if Instant::now() >= guest.data().deadline {
        return Err(Overdue.into());
    }
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
}

/// Makes a guest ready for a call that begins now.
fn begin(store: &mut Store<Guest>, topic: Topic, limits: &Limits) -> Instant {
    store.set_epoch_deadline(1);
    let now = Instant::now();
    let guest = store.data_mut();
    guest.deadline = deadline(now, limits.timeout);
    guest.meter.forgive();
    guest.voice.begin(topic);
    now
}

fn end<T>(store: &Store<Guest>, ended: wasmtime::Result<T>, linked: &Linked) -> Result<T, Fault> {
    let guest = store.data();
    guest.voice.end();
    linked.cost.memory(guest.meter.used());
    ended.map_err(|error| fault::of(&error, guest, linked.limits.timeout))
}

/// The end of `timeout` from `now`. One that no clock can tell is decades away, as in tokio.
pub(super) fn deadline(now: Instant, timeout: Duration) -> Instant {
    const DECADES: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    now.checked_add(timeout).unwrap_or_else(|| now + DECADES)
}

fn topic(deliveries: &[Delivery]) -> Topic {
    let message = deliveries.first().map(|delivery| delivery.message.id);
    let count = (deliveries.len() > 1).then_some(deliveries.len() as u64);
    Topic { message, count }
}

/// Bytes that a call may hand to the host, so that answers cannot exhaust the
/// host's memory. The guest's own memory is no bound: its lists may overlap.
pub(super) fn allowance(messages: usize, limits: &Limits) -> usize {
    let outputs = limits.further.outputs.saturating_mul(OUTPUT_OVERHEAD);
    let each = limits.further.output_bytes.saturating_mul(2).saturating_add(outputs);
    // Nothing is handed over together with an answer: the larger of the two counts.
    let values = limits.further.keyvalue_bytes.saturating_mul(2);
    each.saturating_mul(messages).max(values).saturating_add(ANSWER_SLACK).min(ANSWER_MAX)
}
