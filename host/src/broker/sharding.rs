//! Of how many streams a stream is made: remembered in Redis, so that nobody comes with another number.

use redis::Value;

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
        let mut asking = redis::cmd("HMGET");
        let asking = asking.arg(shards(stream)).arg("count").arg("field");
        let answer = self.link.query(asking).await;
        self.remembered(stream, answer.map_err(|source| self.failed(purpose(stream), source))?)
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
                self.remembered(stream, answer)?
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

    fn remembered(&self, stream: &str, answer: Value) -> Result<Option<Sharding>, BrokerError> {
        let mut values = reply::array("HMGET", answer)?.into_iter();
        let (Some(count), Some(field)) = (values.next(), values.next()) else { return Ok(None) };
        if count == Value::Nil || field == Value::Nil {
            return Ok(None);
        }
        let count = reply::text("HMGET", count)?;
        let field = reply::text("HMGET", field)?.into();
        let Ok(count) = count.parse() else {
            let key = shards(stream);
            return Err(BrokerError::Shards(format!(
                "`count` in the key \"{key}\" is no number: {count:?}"
            )));
        };
        Ok(Some(Sharding { stream: stream.into(), count, field }))
    }
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
