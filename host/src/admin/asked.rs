//! What Redis says of the handlers at work, asked for at most so often, however many ask.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::broker::Broker;
use crate::host::{HandlerState, HandlerStatus, Roster, Status};

/// An answer is as good as new for this long.
const FRESH: Duration = Duration::from_secs(1);

/// Redis is waited for this long.
const PATIENCE: Duration = Duration::from_secs(2);

/// What Redis said.
pub(super) struct Answers {
    /// Those handlers that it could be asked about.
    pub status: Status,
    /// Why there is nothing on others.
    pub failed: Option<String>,
}

/// Asks Redis, one question at a time.
pub(super) struct Asked {
    last: Mutex<Option<(Instant, Arc<Answers>)>>,
    turn: Semaphore,
}

impl Default for Asked {
    fn default() -> Self {
        Self { last: Mutex::default(), turn: Semaphore::new(1) }
    }
}

impl Asked {
    /// What Redis says now, or said a moment ago.
    pub(super) async fn now(&self, roster: &Roster) -> Arc<Answers> {
        // Those that wait here find that somebody has asked; it is never closed.
        let _turn = self.turn.acquire().await;
        if let Some(fresh) = self.fresh() {
            return fresh;
        }
        let answers = Arc::new(asked(roster).await);
        let last = Some((Instant::now(), answers.clone()));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
        answers
    }

    fn fresh(&self) -> Option<Arc<Answers>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, answers) = last.as_ref()?;
        (at.elapsed() < FRESH).then(|| answers.clone())
    }
}

async fn asked(roster: &Roster) -> Answers {
    let Some(broker) = roster.broker() else {
        let status = Status { redis: String::new(), handlers: Vec::new() };
        return Answers { status, failed: Some("waiting for Redis".to_owned()) };
    };
    let mut handlers = Vec::new();
    let failed = if broker.is_connected() {
        ask_for_all(&broker, roster.now(), &mut handlers).await
    } else {
        Some(format!("not connected to {}", broker.address()))
    };
    Answers { status: Status { redis: broker.address().to_owned(), handlers }, failed }
}

/// Asks for one handler after the other; gives what the first to fail, fails for.
async fn ask_for_all(
    broker: &Broker,
    states: Vec<HandlerState>,
    read: &mut Vec<HandlerStatus>,
) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut failed = None;
    for state in states {
        match timeout_at(deadline, HandlerStatus::read(broker, &state.handler)).await {
            Ok(Ok(status)) => read.extend(status),
            // What is in the way of one need not be in that of others.
            Ok(Err(error)) => {
                let why = crate::host::sentence(&error);
                failed.get_or_insert(format!("handler {}: {why}", state.handler.name));
            }
            Err(_) => {
                return Some(format!("{} does not answer", broker.address()));
            }
        }
    }
    failed
}
