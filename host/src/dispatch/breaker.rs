//! The circuit at work: told by the lanes what came of messages, asked by the reader what to read.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::circuit::{Admission, Change, Circuit, Verdict};
use crate::broker::{Hold, Valve};
use crate::figures::{Figures, add};
use crate::manifest::{self, Handler};
use crate::message::{Delivery, MessageId};
use crate::outcome::{Outcome, Settlement};

/// The circuit of one handler, and what it acts on.
pub(super) struct Breaker {
    circuit: Mutex<Circuit>,
    /// Something came of the probe.
    told: Notify,
    rule: manifest::Circuit,
    valve: Arc<Valve>,
    handler: Arc<Handler>,
    figures: Arc<Figures>,
}

impl Breaker {
    /// The breaker of a handler whose manifest asks for one.
    pub(super) fn of(
        handler: &Arc<Handler>,
        figures: &Arc<Figures>,
        valve: Arc<Valve>,
    ) -> Option<Arc<Self>> {
        let rule = handler.circuit?;
        let circuit = Mutex::new(Circuit::new(rule, handler.timeout));
        let (handler, figures) = (handler.clone(), figures.clone());
        Some(Arc::new(Self { circuit, told: Notify::new(), rule, valve, handler, figures }))
    }

    /// How many messages to read now, `most` at most; waits while none may be.
    pub(super) async fn admit(&self, most: usize) -> usize {
        loop {
            let admission = self.admission();
            match admission {
                Admission::All => return most,
                Admission::One => return 1,
                Admission::NotBefore(at) => tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => {}
                    () = self.told.notified() => {}
                },
            }
        }
    }

    fn admission(&self) -> Admission {
        let mut circuit = self.circuit();
        let admission = circuit.admit(Instant::now());
        if admission == Admission::One {
            self.valve.release(Hold::Circuit);
        }
        admission
    }

    /// Takes note of a message before it is handled: while the circuit is open, it is the probe.
    pub(super) fn admitted(&self, id: MessageId) {
        self.circuit().probe(id, Instant::now());
    }

    /// Takes note of what came of a delivery, and what the retry rule makes of it; gives what is to be done.
    pub(super) fn settle(
        &self,
        delivery: &Delivery,
        outcome: Outcome,
        rule: impl FnOnce(Outcome) -> Settlement,
    ) -> Settlement {
        let change = self.record(delivery.message.id, Verdict::of(&outcome));
        let settlement = rule(outcome);
        match change {
            Change::StillOpen => self.circuit().spare(settlement),
            Change::None | Change::Opened | Change::Closed => settlement,
        }
    }

    fn record(&self, id: MessageId, verdict: Verdict) -> Change {
        let mut circuit = self.circuit();
        let change = circuit.record(id, verdict, Instant::now());
        if matches!(change, Change::Opened | Change::StillOpen) {
            self.valve.hold(Hold::Circuit);
        }
        drop(circuit);
        self.tell(change);
        self.told.notify_one();
        change
    }

    fn tell(&self, change: Change) {
        let Handler { name: handler, stream, .. } = &*self.handler;
        match change {
            Change::Opened => {
                tracing::warn!(%handler, %stream, failures = self.rule.failures, pause = ?self.rule.pause,
                    "circuit open: one message after the other failed; nothing is read, but one is tried after each pause until one succeeds");
                add(&self.figures.circuit_opened, 1);
                self.figures.circuit_is_open.store(true, Ordering::Relaxed);
            }
            Change::Closed => {
                self.figures.circuit_is_open.store(false, Ordering::Relaxed);
                tracing::info!(%handler, %stream, "circuit closed: a message succeeded; reading again")
            }
            Change::StillOpen => tracing::debug!(%handler, %stream, "what was tried failed, too"),
            Change::None => {}
        }
    }

    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
