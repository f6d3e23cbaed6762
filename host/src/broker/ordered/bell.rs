//! Waiting until there is something to do, such as a new entry: what is waited for is not taken.

use std::pin::Pin;
use std::time::Duration;

use redis::Value;
use tokio::time::timeout;

use super::{EVERY, News, Ordered};
use crate::broker::connect::Replies;
use crate::broker::feed::ReadError;

/// New entries are waited for this long at most; then the group is asked for them all the same.
const BLOCK: Duration = Duration::from_secs(2);

/// A reply may come this much later before the connection counts as dead.
const WATCHDOG: Duration = Duration::from_secs(3);

pub(super) type Ringing = Pin<Box<dyn Future<Output = Result<Rang, ReadError>> + Send>>;

/// Whether a wait for new entries saw one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rang {
    SawOne,
    TimedOut,
}

impl Ordered {
    /// Waits until there is something to do: a settlement, a new entry, a retry that is due, a stop.
    pub(super) async fn wait(&mut self) -> Result<(), ReadError> {
        if self.bell.is_none() && self.news == News::None {
            self.bell = Some(self.listen().await?);
        }
        let mut patience = EVERY;
        if self.lanes.suspects() > 0 {
            self.ward.hurry();
            patience = self.ward.until_turn().min(EVERY);
        }
        let Self { bell, stop, lanes, post, .. } = self;
        let ringing = async {
            match bell {
                Some(bell) => bell.await,
                None => std::future::pending().await,
            }
        };
        let rang = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = lanes.moved() => return Ok(()),
            () = post.wake.due() => return Ok(()),
            () = post.valve.shut() => return Ok(()),
            rang = ringing => rang,
            () = tokio::time::sleep(patience) => return Ok(()),
        };
        self.bell = None;
        self.news = News::Some(rang?);
        Ok(())
    }

    /// Begins to wait for an entry behind the last that was seen (`XREAD BLOCK`); takes nothing.
    async fn listen(&mut self) -> Result<Ringing, ReadError> {
        let mut connection = match &self.reader {
            Some(reader) => reader.clone(),
            None => self.reader.insert(self.connector.open(Replies::Whenever).await?).clone(),
        };
        let mut listening = redis::cmd("XREAD");
        listening.arg("COUNT").arg(1).arg("BLOCK").arg(BLOCK.as_millis() as u64);
        listening.arg("STREAMS").arg(&self.post.keys.stream).arg(self.last.to_string());
        let limit = BLOCK + WATCHDOG;
        Ok(Box::pin(async move {
            let answer = timeout(limit, listening.query_async::<Value>(&mut connection)).await;
            match answer.map_err(|_| ReadError::Silent(limit))?? {
                Value::Nil => Ok(Rang::TimedOut),
                _ => Ok(Rang::SawOne),
            }
        }))
    }
}
