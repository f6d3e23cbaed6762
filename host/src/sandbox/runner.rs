//! A plugin put to work for one handler: its limits, its warm instances, and
//! who is to blame when a call goes wrong.
//!
//! How a single call is kept within its limits is `instance`'s.

use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::SandboxError;
use super::contract;
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

/// A plugin at work for one handler. Lanes share it.
pub struct Runner {
    linked: Linked,
    /// Warm instances, the last used on top: few are kept busy, the rest stay
    /// idle. There are never more than calls that ran at the same time.
    idle: Mutex<Vec<Instance>>,
    /// No instance is kept any more.
    retired: AtomicBool,
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
        let linked = Linked::new(plugin, handler, limits, reach)?;
        Ok(Self { linked, idle: Mutex::new(Vec::new()), retired: AtomicBool::new(false) })
    }

    /// Starts one instance to prove that it can, and keeps it for the first message. Blocks for
    /// as long as that takes, at most the handler's timeout twice.
    ///
    /// # Errors
    ///
    /// When the instance breaks, or needs more than its limits, before its first message.
    pub fn prove(&self) -> Result<(), SandboxError> {
        let instance = self.start_apart()?;
        self.put_back(instance);
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
            (World::Plugin | World::Batch, _) => {
                let mut outcomes = Vec::with_capacity(deliveries.len());
                for delivery in deliveries {
                    outcomes.push(self.run_one(delivery).await);
                }
                outcomes
            }
        }
    }

    async fn run_one(&self, delivery: &Delivery) -> Outcome {
        let instance = match self.take().await {
            Ok(instance) => instance,
            Err(fault) => return Outcome::Fault(fault),
        };
        match self.call(instance, slice::from_ref(delivery)).await {
            Ok(outcomes) => outcomes.into_iter().next().unwrap_or_else(no_answer),
            Err(fault) => Outcome::Fault(fault),
        }
    }

    /// One call for all. When it breaks nobody can tell which message broke
    /// it, so each is run again, alone and in an instance that nothing has touched.
    async fn run_batch(&self, deliveries: &[Delivery]) -> Vec<Outcome> {
        let instance = match self.take().await {
            Ok(instance) => instance,
            // No message has been touched, so it would be the same for each alone.
            Err(fault) => return vec![Outcome::Fault(fault); deliveries.len()],
        };
        let fault = match self.call(instance, deliveries).await {
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

    async fn run_alone(&self, delivery: &Delivery) -> Outcome {
        let alone = async {
            let mut instance = self.start().await?;
            self.answers(&mut instance, slice::from_ref(delivery)).await
        };
        match alone.await {
            Ok(outcomes) => outcomes.into_iter().next().unwrap_or_else(no_answer),
            Err(fault) => Outcome::Fault(fault),
        }
    }

    /// One call, after which the instance goes back to the others or is gone.
    async fn call(
        &self,
        mut instance: Instance,
        deliveries: &[Delivery],
    ) -> Result<Vec<Outcome>, Fault> {
        let outcomes = self.answers(&mut instance, deliveries).await?;
        let healthy = !outcomes.iter().any(|outcome| matches!(outcome, Outcome::Fault(_)));
        if healthy && !instance.is_spent() {
            self.put_back(instance);
        }
        Ok(outcomes)
    }

    async fn answers(
        &self,
        instance: &mut Instance,
        deliveries: &[Delivery],
    ) -> Result<Vec<Outcome>, Fault> {
        let answers = instance.call(deliveries, &self.linked.limits).await?;
        if answers.len() != deliveries.len() {
            let (given, asked) = (answers.len(), deliveries.len());
            let detail = format!("answered {given} of {asked} messages");
            return Err(Fault::new(FaultKind::Trap, detail));
        }
        Ok(answers
            .into_iter()
            .map(|answer| contract::outcome(answer, &self.linked.limits))
            .collect())
    }

    async fn take(&self) -> Result<Instance, Fault> {
        let warm = self.idle().pop();
        match warm {
            Some(instance) => Ok(instance),
            None => self.start().await,
        }
    }

    fn put_back(&self, instance: Instance) {
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
    }

    async fn start(&self) -> Result<Instance, Fault> {
        Instance::start(&self.linked).await
    }

    /// Starts an instance on a thread of its own, as the caller may or may not
    /// be inside a runtime, and neither may wait for the other.
    fn start_apart(&self) -> Result<Instance, SandboxError> {
        let start = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(self.start()))
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
