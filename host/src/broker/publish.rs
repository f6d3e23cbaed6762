//! Appending messages: `XADD`, many at a time.

use std::borrow::Cow;

use redis::RedisResult;

use super::{Broker, BrokerError, reply};
use crate::manifest::Sharding;
use crate::message::{Field, MessageId};

/// Messages sent to Redis together at most.
const BATCH: usize = 500;

/// The ids that the appended messages got, in order.
pub type Appended = Vec<MessageId>;

impl Broker {
    /// Appends messages to a stream, in order.
    ///
    /// # Errors
    ///
    /// When Redis refuses one; others of the same batch may be appended all the same.
    pub async fn publish(
        &self,
        stream: &str,
        messages: &[Vec<Field>],
    ) -> Result<Appended, BrokerError> {
        self.append(stream, messages, |_| Cow::Borrowed(stream)).await
    }

    /// Appends messages to the streams that a stream is made of; those of one in order.
    ///
    /// # Errors
    ///
    /// As [`Self::publish`].
    pub async fn publish_sharded(
        &self,
        sharding: &Sharding,
        messages: &[Vec<Field>],
    ) -> Result<Appended, BrokerError> {
        self.append(&sharding.stream, messages, |fields| Cow::Owned(sharding.of(fields))).await
    }

    async fn append<'a>(
        &self,
        stream: &str,
        messages: &[Vec<Field>],
        place: impl Fn(&[Field]) -> Cow<'a, str>,
    ) -> Result<Appended, BrokerError> {
        let mut appended = Vec::with_capacity(messages.len());
        for batch in messages.chunks(BATCH) {
            let mut pipeline = redis::pipe();
            for fields in batch {
                let adding = pipeline.cmd("XADD").arg(&*place(fields)).arg("*");
                for field in fields {
                    adding.arg(&field.name).arg(&field.value);
                }
            }
            let failed = |source| self.failed(format!("append to stream `{stream}`"), source);
            let replies = self.link.pipeline(pipeline.ignore_errors()).await.map_err(failed)?;
            for id in replies.into_iter().collect::<RedisResult<Vec<_>>>().map_err(failed)? {
                appended.push(reply::id("XADD", &id)?);
            }
        }
        Ok(appended)
    }
}
