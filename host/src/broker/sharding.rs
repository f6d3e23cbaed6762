//! Of how many streams a stream is made: remembered in Redis, so that nobody comes with another number.

use redis::{RedisResult, Value};

use super::keys::shards;
use super::scripts::Lua;
use super::{Broker, BrokerError, reply};
use crate::manifest::{Handler, Sharding};

impl Broker {
    /// What is remembered of a stream's shards; nothing for one that is a single stream.
    ///
    /// # Errors
    ///
    /// When Redis does not answer.
    pub async fn sharding(&self, stream: &str) -> Result<Option<Sharding>, BrokerError> {
        let failed = |source| self.failed(purpose(stream), source);
        let (key, mut asking) = (shards(stream), redis::pipe());
        asking.cmd("HGET").arg(&key).arg("count").cmd("HGET").arg(&key).arg("field");
        let answers = self.link.pipeline(asking.ignore_errors()).await.map_err(failed)?;
        let answers = answers.into_iter().collect::<RedisResult<_>>().map_err(failed)?;
        remembered(stream, Value::Array(answers))
    }

    /// Makes sure that a handler and those before it think the same of its stream's shards.
    ///
    /// # Errors
    ///
    /// [`BrokerError::Shards`] when they do not.
    pub async fn agree(&self, handler: &Handler) -> Result<(), BrokerError> {
        let stream = &*handler.stream;
        let wanted = handler.sharding();
        let remembered = match &wanted {
            None => self.sharding(stream).await?,
            Some(Sharding { count, field, .. }) => {
                let mut remembering = Lua::Remember.call(&[&shards(stream)]);
                let answer = self.link.query(remembering.arg(count.get()).arg(&**field)).await;
                let answer = answer.map_err(|source| self.failed(purpose(stream), source))?;
                remembered(stream, answer)?
            }
        };
        if wanted == remembered {
            return Ok(());
        }
        Err(BrokerError::Shards(format!(
            "stream `{stream}` is made of {}, but handler `{}` says {}; to change it, stop all hosts and \
             producers of the stream once everything in it is handled, delete the key \"{}\", and start them anew",
            told(remembered.as_ref()),
            handler.name,
            told(wanted.as_ref()),
            shards(stream),
        )))
    }
}

/// What is remembered, from the number and the field.
fn remembered(stream: &str, answer: Value) -> Result<Option<Sharding>, BrokerError> {
    let mut values = reply::array("HGET", answer)?.into_iter();
    let (Some(count), Some(field)) = (values.next(), values.next()) else { return Ok(None) };
    if count == Value::Nil || field == Value::Nil {
        return Ok(None);
    }
    let count = reply::text("HGET", count)?;
    let field = reply::text("HGET", field)?.into();
    let Ok(count) = count.parse() else {
        let key = shards(stream);
        return Err(BrokerError::Shards(format!(
            "`count` in the key \"{key}\" is no number of shards: {count:?}"
        )));
    };
    Ok(Some(Sharding { stream: stream.into(), count, field }))
}

fn purpose(stream: &str) -> String {
    format!("look up the shards of stream `{stream}`")
}

fn told(sharding: Option<&Sharding>) -> String {
    match sharding {
        Some(Sharding { count, field, .. }) => format!("{count} shards by `{field}`"),
        None => "one stream without shards".to_owned(),
    }
}
