//! Carrying deliveries through: read what there are slots for, run the plugin, settle.
//!
//! A handler has one reader and as many lanes as its `concurrency`; a slot
//! travels with each delivery from before it is read until it is handled, so
//! that nothing is read that would have to wait. Redis is the broker's, the
//! plugin the sandbox's, the decision the retry rule's.

mod breaker;
mod circuit;
mod judge;
mod queue;
mod rollout;
mod slots;
mod versions;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub(crate) use judge::judge;
pub use versions::{Ended, Version, Versions};

use crate::broker::{Closing, Settler, Source, Subscription, Tenure};
use crate::figures::{Figures, read};
use crate::manifest::{Handler, Sharding, Supply};
use crate::message::Delivery;
use crate::outcome::{Draw, FaultKind, Outcome, Reason, Settlement};
use crate::shutdown::Stop;
use breaker::Breaker;
use judge::route;
use queue::{Carried, Load, Queue};
use slots::Slots;

/// A read that is on its way when a stop is requested may take this long: Redis may be silent.
const LAST_READ: Duration = Duration::from_secs(1);

/// However short the grace, settlements get this long to be written.
const WRITE: Duration = Duration::from_secs(2);

/// As many results may wait for Redis to take them before nothing more is read, or as many as there are
/// slots: where only some messages write anything, the others go on for a while.
const BEHIND_AT_LEAST: usize = 100;

/// A handler at work.
#[derive(Clone)]
pub struct Dispatch {
    /// What the manifest says of it.
    pub handler: Arc<Handler>,
    /// The plugin that handles its messages, in the version of the moment.
    pub versions: Arc<Versions>,
    /// Where its work is counted.
    pub figures: Arc<Figures>,
    /// The streams that are made of several, as far as outputs may be for them.
    pub sharded: Arc<ArcSwap<Vec<Sharding>>>,
    /// The threads that plugins run on, apart from those that speak to Redis.
    pub guests: Handle,
    /// When to stop reading.
    pub stop: Stop,
    /// How long to finish what is in hand.
    pub grace: Duration,
}

impl Dispatch {
    /// Carries deliveries through until a stop is requested and what is in hand is settled.
    ///
    /// What is not finished within the grace stays pending, for whichever host comes next.
    pub async fn carry(self, subscription: Subscription) {
        let Subscription { source, settler, valve, closing, tenure, .. } = subscription;
        let breaker = Breaker::of(&self.handler, &self.figures, valve);
        let queue = Arc::new(Queue::default());
        let mut lanes = JoinSet::new();
        for _ in 0..self.handler.concurrency.get() {
            let (queue, settler) = (queue.clone(), settler.clone());
            let lane = self.lane(queue, settler, breaker.clone(), tenure.clone());
            lanes.spawn_on(lane.run(), &self.guests);
        }
        self.read(source, &queue, &settler, breaker.as_deref()).await;
        drop(settler);
        queue.close();
        self.finish(lanes, closing).await;
    }

    async fn read(
        &self,
        mut source: Source,
        queue: &Queue,
        settler: &Settler,
        breaker: Option<&Breaker>,
    ) {
        let mut slots = Slots::default();
        loop {
            // Another version of the plugin may take more in a call, or fewer.
            let mut free = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                free = self.ready(&mut slots, settler, &mut source) => free,
            };
            let Some(most) = self.admit(breaker, &mut source, free.num_permits()).await else {
                return;
            };
            let deliveries = tokio::select! {
                biased;
                deliveries = source.next(most) => deliveries,
                // What it may still bring stays pending, for the next host.
                () = self.read_is_overdue() => return,
            };
            let mut admitted = Vec::with_capacity(deliveries.len());
            for delivery in deliveries {
                match (self.refusal(&delivery), free.split(1)) {
                    (None, Some(slot)) => admitted.push(Carried { delivery, slot }),
                    (None, None) => {}
                    (Some(settlement), _) => tokio::select! {
                        biased;
                        () = self.stop.cancelled() => return,
                        () = settler.settle(delivery, settlement) => {}
                    },
                }
            }
            if let Some(first) = admitted.first() {
                if let Some(breaker) = breaker {
                    breaker.admitted(first.delivery.message.id);
                }
                queue.push(admitted);
            }
        }
    }

    /// Takes slots for a read, once what was handled can be settled well enough.
    async fn ready(
        &self,
        slots: &mut Slots,
        settler: &Settler,
        source: &mut Source,
    ) -> OwnedSemaphorePermit {
        let count = self.slots();
        let free = slots.gather(count).await;
        tokio::select! {
            biased;
            () = settler.is_behind_by_less_than(count.max(BEHIND_AT_LEAST)) => free,
            never = source.stand_down() => match never {},
        }
    }

    /// How many messages the circuit lets through, once it does; `None` when a stop is requested first.
    async fn admit(
        &self,
        breaker: Option<&Breaker>,
        source: &mut Source,
        most: usize,
    ) -> Option<usize> {
        let Some(breaker) = breaker else { return Some(most) };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            most = breaker.admit(most) => Some(most),
            never = source.stand_down() => match never {},
        }
    }

    /// Ends once a stop was requested and a read that heard it has had its time.
    async fn read_is_overdue(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(LAST_READ).await;
    }

    /// How many messages may be in hand.
    fn slots(&self) -> usize {
        self.handler.concurrency.get() * self.versions.pick().load(self.handler.batch)
    }

    /// The settlement of a delivery that the plugin is not to see.
    fn refusal(&self, delivery: &Delivery) -> Option<Settlement> {
        if !self.handler.filter.accepts(&delivery.message) {
            return Some(Settlement::Skip);
        }
        let name = delivery.message.undecodable_name()?;
        let error = format!("the field name {:?} is not UTF-8", String::from_utf8_lossy(name));
        tracing::warn!(handler = %self.handler.name, stream = %self.handler.stream,
            message_id = %delivery.message.id, error, "undecodable");
        Some(Settlement::Bury { reason: Reason::Undecodable, error })
    }

    async fn finish(&self, mut lanes: JoinSet<()>, closing: Closing) {
        let deadline = Instant::now() + self.grace;
        let done = timeout(self.grace, async { while lanes.join_next().await.is_some() {} }).await;
        if done.is_err() {
            tracing::warn!(handler = %self.handler.name, in_flight = read(&self.figures.in_flight),
                "not finished within the grace; {}", self.fate());
            lanes.shutdown().await;
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(WRITE);
        if timeout(left, closing.finished()).await.is_err() {
            tracing::warn!(handler = %self.handler.name,
                "settlements could not be written; {}", self.fate());
        }
    }

    /// What becomes of messages that are left behind.
    fn fate(&self) -> &'static str {
        match self.handler.supply {
            Supply::Group => "their messages are left to the next host",
            Supply::Broadcast => "their messages wait for this host to start again",
            Supply::Channel => "their messages are gone",
        }
    }

    fn lane(
        &self,
        queue: Arc<Queue>,
        settler: Settler,
        breaker: Option<Arc<Breaker>>,
        tenure: Option<Arc<Tenure>>,
    ) -> Lane {
        Lane {
            sharded: self.sharded.clone(),
            tenure,
            handler: self.handler.clone(),
            versions: self.versions.clone(),
            figures: self.figures.clone(),
            queue,
            settler,
            breaker,
        }
    }
}

/// One of a handler's calls in flight.
struct Lane {
    handler: Arc<Handler>,
    versions: Arc<Versions>,
    figures: Arc<Figures>,
    queue: Arc<Queue>,
    settler: Settler,
    breaker: Option<Arc<Breaker>>,
    sharded: Arc<ArcSwap<Vec<Sharding>>>,
    tenure: Option<Arc<Tenure>>,
}

impl Lane {
    async fn run(self) {
        while let Some((load, version)) = self.queue.take(&self.versions, self.handler.batch).await
        {
            if self.tenure.as_ref().is_some_and(|tenure| !tenure.holds()) {
                // It may be another host's turn to handle it by now.
                continue;
            }
            self.handle(load, &version).await;
            // A lane that never has to wait still lets its neighbours run.
            tokio::task::coop::consume_budget().await;
        }
    }

    async fn handle(&self, Load { deliveries, slots }: Load, version: &Version) {
        let in_flight = self.figures.in_flight(deliveries.len());
        let started = Instant::now();
        let outcomes = version.runner.run(&deliveries).await;
        let elapsed = started.elapsed();
        self.figures.ran(elapsed);
        drop((in_flight, slots));
        let plugin = *version.runner.plugin().digest();
        let (messages, mut failed) = (deliveries.len(), 0);
        for (delivery, outcome) in deliveries.into_iter().zip(outcomes) {
            let outcome = route(judge(outcome, &self.handler), &self.sharded.load());
            failed += usize::from(!matches!(outcome, Outcome::Done(_)));
            self.log((&delivery, &outcome), version, elapsed);
            let draw = Draw(fastrand::f64());
            let rule = |outcome| self.handler.retry.settle(outcome, delivery.attempt, draw);
            let settlement = match &self.breaker {
                Some(breaker) => breaker.settle(&delivery, outcome, rule),
                None => rule(outcome),
            };
            self.settler.settle_run(delivery, settlement, plugin).await;
        }
        self.versions.note(version, messages, failed);
    }

    /// Says once what came of a delivery; payloads are not told.
    fn log(
        &self,
        (delivery, outcome): (&Delivery, &Outcome),
        version: &Version,
        elapsed: Duration,
    ) {
        let (handler, stream) = (&*self.handler.name, &*self.handler.stream);
        let (message_id, attempt) = (delivery.message.id, delivery.attempt);
        let elapsed_ms = elapsed.as_millis() as u64;
        let (word, plugin) = (outcome.word(), version.short());
        match outcome {
            Outcome::Done(_) => {
                tracing::debug!(handler, stream, %message_id, %attempt, outcome = word, plugin, elapsed_ms, "handled");
            }
            Outcome::Retry { reason, .. } => {
                tracing::info!(handler, stream, %message_id, %attempt, outcome = word, plugin, elapsed_ms, reason, "failed");
            }
            Outcome::Reject(reason) => {
                tracing::info!(handler, stream, %message_id, %attempt, outcome = word, plugin, elapsed_ms, reason, "rejected");
            }
            Outcome::Fault(fault) if fault.kind == FaultKind::Denied => {
                tracing::warn!(handler, stream, %message_id, %attempt, outcome = word, plugin, detail = fault.detail, "denied");
            }
            Outcome::Fault(fault) => {
                let backtrace = fault.backtrace.as_deref().unwrap_or_default();
                tracing::warn!(handler, stream, %message_id, %attempt, outcome = word, plugin, elapsed_ms,
                    detail = fault.detail, backtrace, "the plugin broke");
            }
        }
    }
}
