//! Pausing a handler on all hosts at once: a key that says who did, and the hosts that look for it.

use std::sync::Arc;
use std::time::Duration;

use redis::{RedisResult, Value};
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use super::keys::Keys;
use super::post::Post;
use super::reply::server_millis;
use super::valve::Hold;
use super::{Broker, BrokerError};
use crate::manifest::Handler;

/// How often a host looks whether its handler is paused.
const EVERY: Duration = Duration::from_millis(500);

/// Who paused a handler.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Paused {
    /// As they called themselves.
    pub by: String,
    /// Since when, in milliseconds since the Unix epoch by the server's clock.
    pub since_ms: u64,
    /// For how long, when it was asked for.
    #[serde(skip)]
    pub lasted: Duration,
}

/// What a wish to pause or to resume found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is so from now on.
    Made,
    /// It was so already.
    None,
}

impl Broker {
    /// Has every host stop reading for a handler until it is resumed: on each of its streams, also after restarts.
    ///
    /// # Errors
    ///
    /// When Redis refuses a key; those set before it stay.
    pub async fn pause(&self, handler: &Handler, by: &str) -> Result<Change, BrokerError> {
        let failed = |source| self.failed(format!("pause handler `{}`", handler.name), source);
        let now = self.link.query(&redis::cmd("TIME")).await.map_err(failed)?;
        let paused = Paused { by: by.into(), since_ms: server_millis(now)?, ..Paused::default() };
        let told = serde_json::to_string(&paused).expect("a name and a number are plain JSON");
        let mut change = Change::None;
        for key in paused_keys(handler) {
            let mut setting = redis::cmd("SET");
            let answer = self.link.query(setting.arg(key).arg(&told).arg("NX")).await;
            if answer.map_err(failed)? == Value::Okay {
                change = Change::Made;
            }
        }
        Ok(change)
    }

    /// Has every host read again.
    ///
    /// # Errors
    ///
    /// When Redis refuses to delete a key.
    pub async fn resume(&self, handler: &Handler) -> Result<Change, BrokerError> {
        let failed = |source| self.failed(format!("resume handler `{}`", handler.name), source);
        let mut change = Change::None;
        for key in paused_keys(handler) {
            let answer = self.link.query(redis::cmd("DEL").arg(key)).await;
            if answer.map_err(failed)? == Value::Int(1) {
                change = Change::Made;
            }
        }
        Ok(change)
    }

    /// Who paused a handler, if anyone did. Of several streams the first tells.
    ///
    /// # Errors
    ///
    /// When Redis does not answer.
    pub async fn paused(&self, handler: &Handler) -> Result<Option<Paused>, BrokerError> {
        let failed = |source| {
            self.failed(format!("ask whether handler `{}` is paused", handler.name), source)
        };
        let Some(key) = paused_keys(handler).next() else { return Ok(None) };
        let mut asking = redis::pipe();
        asking.cmd("TIME").cmd("EXISTS").arg(&key).cmd("GET").arg(&key);
        let answers = self.link.pipeline(asking.ignore_errors()).await.map_err(failed)?;
        let mut answers = answers.into_iter();
        let mut answer = || answers.next().unwrap_or(Ok(Value::Nil));
        let now = server_millis(answer().map_err(failed)?)?;
        if answer().map_err(failed)? != Value::Int(1) {
            return Ok(None);
        }
        // A key that somebody else made, whatever is in it, pauses all the same.
        let told = match answer() {
            Ok(Value::BulkString(told)) => serde_json::from_slice(&told).unwrap_or_default(),
            Ok(_) | Err(_) => Paused::default(),
        };
        let since = if told.since_ms == 0 { now } else { told.since_ms };
        let lasted = Duration::from_millis(now.saturating_sub(since));
        Ok(Some(Paused { lasted, ..told }))
    }
}

fn paused_keys(handler: &Handler) -> impl Iterator<Item = String> {
    let streams = handler.on_each_stream().into_iter();
    streams.map(|handler| Keys::of(&handler).paused)
}

impl Post {
    /// Holds or releases the reader as the key says.
    pub(super) async fn look_whether_paused(&self) -> RedisResult<()> {
        let answer = self.link.query(redis::cmd("EXISTS").arg(&self.keys.paused)).await?;
        let (handler, stream) = (&self.handler.name, &self.keys.stream);
        if answer == Value::Int(1) {
            if self.valve.hold(Hold::Operator) {
                tracing::info!(%handler, %stream, "paused; `tidegate resume` lets it go on");
            }
        } else if self.valve.release(Hold::Operator) {
            tracing::info!(%handler, %stream, "resumed");
        }
        Ok(())
    }

    /// Looks again and again, until the task is ended.
    pub(super) async fn watch_for_pauses(self: Arc<Self>) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            if let Err(error) = self.look_whether_paused().await {
                tracing::debug!(handler = %self.handler.name, %error, "cannot ask whether it is paused");
            }
        }
    }
}
