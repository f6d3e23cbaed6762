//! A host's time as the owner of a stream: how long it can be sure of it, and its end.
//!
//! Redis has the last word, by a lease that runs out; scripts compare it. What is
//! decided here, by the local clock, only keeps a host from work that would be refused.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Cmd;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::keys::{Keys, WAITING};
use super::link::Link;
use super::process::Process;
use super::scripts::Lua;
use crate::manifest::Handler;
use crate::shutdown::Stop;

/// An answer is waited for this long: a lease that cannot be renewed now is tried again soon.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// How long a lease lasts in Redis unless it is renewed: for so long a dead host keeps others from its work.
pub(super) const LASTS: Duration = Duration::from_secs(5);

/// A host counts on a lease for this much less: for clocks that differ, and to end what it has begun.
const MARGIN: Duration = Duration::from_millis(1500);

/// One host's ownership of one stream. Its name is the consumer's, and differs from that of every other tenure.
#[derive(Debug)]
pub struct Tenure {
    pub(super) name: String,
    until: Mutex<Instant>,
    over: Stop,
}

impl Tenure {
    /// A tenure whose lease was asked for at this time, and given.
    pub(super) fn new(name: String, asked: Instant) -> Self {
        Self { name, until: Mutex::new(asked + LASTS - MARGIN), over: Stop::new() }
    }

    /// Takes in that the lease was asked to be renewed at this time, and was.
    ///
    /// Too late is over: what was dropped meanwhile is for the next tenure.
    pub(super) fn confirm(&self, asked: Instant) {
        if self.holds() {
            *self.until() = asked + LASTS - MARGIN;
        } else {
            self.end();
        }
    }

    /// Takes in that the lease is someone else's.
    pub(super) fn end(&self) {
        self.over.cancel();
    }

    /// Whether this host can be sure that it owns the stream.
    pub fn holds(&self) -> bool {
        !self.over.is_cancelled() && Instant::now() < *self.until()
    }

    /// Waits until this host can no longer be sure.
    pub(super) async fn lapsed(&self) {
        while self.holds() {
            let until = *self.until();
            tokio::select! {
                () = self.over.cancelled() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    fn until(&self) -> MutexGuard<'_, Instant> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose a tenure is, for whoever comes upon it when its lease has run out.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Tenant {
    /// What is in the host's sign of life, and in no other's.
    pub token: String,
    pub process: Process,
}

/// Who wants a lease, or to keep one.
pub(super) struct Applicant<'a> {
    /// The host's name.
    pub name: &'a str,
    pub token: &'a str,
    /// The tenure that is to go on, '' for a new one.
    pub kept: &'a str,
    /// The name of a host that is known to be dead, '' for none.
    pub predecessor: &'a str,
}

/// A request for the lease on a stream.
pub(super) fn apply(keys: &Keys, applicant: &Applicant<'_>) -> Cmd {
    let Applicant { name, token, kept, predecessor } = *applicant;
    let mut asking = Lua::Lease.call(&[&keys.lease, &keys.generation, &keys.tenures]);
    asking.arg(name).arg(LASTS.as_millis() as u64).arg(kept).arg(predecessor);
    let tenant = Tenant { token: token.to_owned(), process: Process::this() };
    asking.arg(serde_json::to_string(&tenant).expect("a tenant is plain JSON"));
    asking
}

/// Gives a tenure up, so that no one waits for its lease to run out, and removes its consumer.
pub(super) async fn release(link: Link, (handler, keys): (Handler, Keys), tenure: Arc<Tenure>) {
    let mut releasing = redis::pipe();
    let mut acquitting = Lua::Acquit.call(&[&keys.stream, &keys.deaths]);
    acquitting.arg(&*handler.group).arg(&tenure.name).arg(WAITING);
    let live = keys.live(&tenure.name);
    let mut retiring = Lua::Retire.call(&[&keys.stream, &live, &keys.hosts]);
    retiring.arg(&*handler.group).arg(&tenure.name).arg(0);
    let mut yielding = Lua::Yield.call(&[&keys.lease, &keys.tenures]);
    yielding.arg(&tenure.name);
    releasing.add_command(acquitting).add_command(retiring).add_command(yielding).ignore_errors();
    tracing::info!(handler = %handler.name, stream = %handler.stream, "gives the stream up");
    // A lease that cannot be released runs out.
    let _ = timeout(PATIENCE, link.pipeline(&releasing)).await;
}

/// Carries an owned stream for as long as this host can be sure that it is, then releases it.
pub(super) async fn bear(
    carrying: impl Future<Output = ()>,
    tenure: Arc<Tenure>,
    release: impl Future<Output = ()>,
) {
    tokio::select! {
        () = carrying => {}
        () = tenure.lapsed() => {
            tracing::warn!(tenure = tenure.name,
                "not sure of the lease any more; what is in hand is dropped, for whoever owns the stream next");
        }
    }
    release.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tenure_lapses_when_it_is_not_confirmed_or_is_over() {
        let long_ago = Instant::now() - LASTS;
        let lapsed = Tenure::new("a#1".into(), long_ago);
        assert!(!lapsed.holds());
        lapsed.lapsed().await;
        lapsed.confirm(Instant::now());
        assert!(!lapsed.holds(), "what was dropped is not taken up again");
        let tenure = Tenure::new("a#2".into(), Instant::now());
        tenure.confirm(Instant::now());
        assert!(tenure.holds());
        tenure.end();
        tenure.lapsed().await;
        assert!(!tenure.holds());
    }
}
