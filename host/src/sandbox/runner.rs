//! A plugin put to work for one handler: its limits, its warm instances, and
//! who is to blame when a call goes wrong.
//!
//! How a single call is kept within its limits is `instance`'s.

use std::num::NonZeroUsize;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::SandboxError;
use super::concurrent::{Commons, Ended};
use super::contract;
use super::cost::{Cost, End};
use super::fault;
use super::instance::Instance;
use super::linked::Linked;
use super::plugin::{Plugin, World};
use super::reach::Reach;
use crate::manifest::{self, Isolation};
use crate::message::Delivery;
use crate::outcome::{Fault, FaultKind, Outcome};

/// What a handler allows its plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How long one call may take, from its beginning to its answer. A batch is one call.
    pub timeout: Duration,
    /// Bytes of one instance, over all of its memories, and of its tables at
    /// eight bytes an element. No more than the sandbox's capacity.
    pub memory: u64,
    /// What messages share.
    pub isolation: Isolation,
    /// Calls of the handler in flight at a time.
    pub concurrency: usize,
    /// Everything else.
    pub further: manifest::Limits,
}

impl Limits {
    /// Instances that may be alive at a time.
    pub(super) fn instances(&self) -> usize {
        let instances = self.further.instances.map_or(self.concurrency, NonZeroUsize::get);
        instances.clamp(1, Semaphore::MAX_PERMITS)
    }

    /// How long a call may wait for an instance: longer than all other calls of the handler
    /// take one after the other, each of which starts an instance first.
    fn patience(&self) -> Duration {
        let calls = u32::try_from(self.concurrency).unwrap_or(u32::MAX);
        self.timeout.saturating_mul(calls.saturating_mul(STEPS).max(STEPS))
    }
}

/// What a call consists of, each of which may take a whole timeout: it waits for a place, starts
/// an instance, and is answered.
const STEPS: u32 = 3;

/// A plugin at work for one handler. Lanes share it.
pub struct Runner {
    linked: Arc<Linked>,
    /// Warm instances, the last used on top: few are kept busy, the rest stay
    /// idle. There are never more than calls that ran at the same time.
    idle: Mutex<Vec<Instance>>,
    /// The instance that has many messages in flight, for a plugin that can.
    shared: Commons,
    /// No instance is kept any more.
    retired: AtomicBool,
}

/// An instance in use. It goes before its turn does, so that no more are alive than may be.
struct Taken<'a> {
    instance: Instance,
    turn: Option<SemaphorePermit<'a>>,
}

impl Runner {
    /// Links a plugin for a handler. Nothing of it runs yet.
    ///
    /// # Errors
    ///
    /// When it imports what the handler is not granted.
    pub fn new(
        plugin: &Plugin,
        handler: Arc<str>,
        limits: Limits,
        reach: Reach,
    ) -> Result<Self, SandboxError> {
        let linked = Arc::new(Linked::new(plugin, handler, limits, reach)?);
        let (idle, retired) = (Mutex::default(), AtomicBool::new(false));
        Ok(Self { linked, idle, shared: Commons::default(), retired })
    }

    /// Starts one instance to prove that it can, and keeps it for the first message. Blocks for
    /// as long as that takes, at most the handler's timeout twice.
    ///
    /// # Errors
    ///
    /// When the instance breaks, or needs more than its limits, before its first message.
    pub fn prove(&self) -> Result<(), SandboxError> {
        let taken = self.start_apart()?;
        self.put_back(taken);
        Ok(())
    }

    /// Lets go of idle instances, and of each other one once its call has ended: another version
    /// gets what comes next.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        let idle = std::mem::take(&mut *self.idle());
        drop(idle);
    }

    /// What it runs.
    pub fn plugin(&self) -> &Plugin {
        &self.linked.plugin
    }

    /// What this version of the plugin has cost this handler since [`Runner::new`].
    pub fn cost(&self) -> Cost {
        self.linked.cost.sum()
    }

    /// Runs the plugin on each delivery, in order, and answers each at its own index.
    ///
    /// It cannot fail: whatever a guest does is an outcome, and only the
    /// message at fault is blamed for it. Dropping the future is safe; the
    /// instance is dropped with it. It must be polled inside a tokio runtime
    /// whose timers are enabled.
    pub async fn run(&self, deliveries: &[Delivery]) -> Vec<Outcome> {
        match (self.linked.plugin.world(), deliveries) {
            (_, []) => Vec::new(),
            (World::Batch, [_, _, ..]) => self.run_batch(deliveries).await,
            (World::Async, _) if self.linked.limits.isolation == Isolation::Reuse => {
                join_all(deliveries.iter().map(|delivery| self.run_beside_others(delivery))).await
            }
            (World::Plugin | World::Batch | World::Async, _) => {
                let mut outcomes = Vec::with_capacity(deliveries.len());
                for delivery in deliveries {
                    outcomes.push(self.run_one(delivery).await);
                }
                outcomes
            }
        }
    }

    async fn run_one(&self, delivery: &Delivery) -> Outcome {
        let taken = match self.take().await {
            Ok(taken) => taken,
            Err(fault) => return Outcome::Fault(fault),
        };
        match self.call(taken, slice::from_ref(delivery)).await {
            Ok(outcomes) => outcomes.into_iter().next().unwrap_or_else(no_answer),
            Err(fault) => Outcome::Fault(fault),
        }
    }

    /// One call for all. When it breaks nobody can tell which message broke
    /// it, so each is run again, alone and in an instance that nothing has touched.
    async fn run_batch(&self, deliveries: &[Delivery]) -> Vec<Outcome> {
        let taken = match self.take().await {
            Ok(taken) => taken,
            // No message has been touched, so it would be the same for each alone.
            Err(fault) => return vec![Outcome::Fault(fault); deliveries.len()],
        };
        let fault = match self.call(taken, deliveries).await {
            Ok(outcomes) => return outcomes,
            Err(fault) => fault,
        };
        tracing::debug!(
            handler = &*self.linked.handler,
            messages = deliveries.len(),
            fault = fault.detail,
            "a batch broke, its messages are run alone"
        );
        let mut outcomes = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            outcomes.push(self.run_alone(delivery).await);
        }
        outcomes
    }

    /// One call among others in one instance. What breaks the instance without being known to be
    /// to blame is run again, alone, as after a batch.
    async fn run_beside_others(&self, delivery: &Delivery) -> Outcome {
        self.linked.cost.call();
        match self.shared.run(&self.linked, || self.idle().pop(), delivery).await {
            Ended::Answered(outcome) => outcome,
            Ended::Broke(fault) => Outcome::Fault(fault),
            Ended::Disturbed => self.run_alone(delivery).await,
        }
    }

    async fn run_alone(&self, delivery: &Delivery) -> Outcome {
        let alone = async {
            let mut taken = self.start_afresh().await?;
            self.answers(&mut taken.instance, slice::from_ref(delivery)).await
        };
        match alone.await {
            Ok(outcomes) => outcomes.into_iter().next().unwrap_or_else(no_answer),
            Err(fault) => Outcome::Fault(fault),
        }
    }

    /// One call, after which the instance goes back to the others or is gone.
    async fn call(
        &self,
        mut taken: Taken<'_>,
        deliveries: &[Delivery],
    ) -> Result<Vec<Outcome>, Fault> {
        let outcomes = self.answers(&mut taken.instance, deliveries).await?;
        if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Fault(_))) {
            self.linked.cost.retired(End::Fault);
            return Ok(outcomes);
        }
        match taken.instance.spent() {
            Some(end) => self.linked.cost.retired(end),
            None => self.put_back(taken),
        }
        Ok(outcomes)
    }

    async fn answers(
        &self,
        instance: &mut Instance,
        deliveries: &[Delivery],
    ) -> Result<Vec<Outcome>, Fault> {
        let called = instance.call(deliveries, &self.linked).await;
        let answers = called.inspect_err(|_| self.linked.cost.retired(End::Fault))?;
        if answers.len() != deliveries.len() {
            self.linked.cost.retired(End::Fault);
            let (given, asked) = (answers.len(), deliveries.len());
            let detail = format!("answered {given} of {asked} messages");
            return Err(Fault::new(FaultKind::Trap, detail));
        }
        Ok(answers
            .into_iter()
            .map(|answer| contract::outcome(answer, &self.linked.limits))
            .collect())
    }

    async fn take(&self) -> Result<Taken<'_>, Fault> {
        let turn = self.turn().await?;
        let warm = self.idle().pop();
        let instance = match warm {
            Some(instance) => instance,
            None => Instance::start(&self.linked).await?,
        };
        Ok(Taken { instance, turn })
    }

    /// An instance that nothing has touched, in place of an idle one should there be any.
    async fn start_afresh(&self) -> Result<Taken<'_>, Fault> {
        let turn = self.turn().await?;
        let idle = self.idle().pop();
        drop(idle);
        let instance = Instance::start(&self.linked).await?;
        Ok(Taken { instance, turn })
    }

    /// Waits until fewer instances are in use than the handler may have.
    async fn turn(&self) -> Result<Option<SemaphorePermit<'_>>, Fault> {
        let Some(turns) = &self.linked.turns else { return Ok(None) };
        if let Ok(turn) = turns.try_acquire() {
            return Ok(Some(turn)); // As nearly always, so that no timer is set.
        }
        let limits = &self.linked.limits;
        let patience = limits.patience();
        match tokio::time::timeout(patience, turns.acquire()).await {
            Ok(Ok(turn)) => Ok(Some(turn)),
            Ok(Err(_)) | Err(_) => Err(fault::queued(limits.instances(), patience)),
        }
    }

    fn put_back(&self, Taken { instance, turn }: Taken<'_>) {
        match self.linked.limits.isolation {
            Isolation::Reuse => {
                let mut idle = self.idle();
                // Looked at under the lock, so that none is left behind.
                if !self.retired.load(Ordering::Acquire) {
                    idle.push(instance);
                }
            }
            Isolation::Message => drop(instance),
        }
        // Only now, so that whoever has it next finds the instance idle, or gone.
        drop(turn);
    }

    /// Starts an instance on a thread of its own, as the caller may or may not
    /// be inside a runtime, and neither may wait for the other.
    fn start_apart(&self) -> Result<Taken<'_>, SandboxError> {
        let start = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(self.start_afresh()))
        };
        let started = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("tidegate-prove".to_owned());
            let thread = thread.spawn_scoped(scope, start)?;
            thread.join().unwrap_or_else(|_| Err(std::io::Error::other("it panicked")))
        });
        started.map_err(SandboxError::Thread)?.map_err(|fault| SandboxError::Start {
            path: self.linked.plugin.path().to_owned(),
            handler: self.linked.handler.clone(),
            detail: fault.detail,
        })
    }

    /// A list of instances is whole between any two of its calls, so a panic
    /// elsewhere does not spoil it.
    fn idle(&self) -> MutexGuard<'_, Vec<Instance>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stands for an answer that was counted and is not there, which does not happen.
fn no_answer() -> Outcome {
    Outcome::Fault(Fault::new(FaultKind::Trap, "answered 0 of 1 messages"))
}
