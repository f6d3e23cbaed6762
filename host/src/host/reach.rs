//! From a handler's grants to what its plugin reaches: the broker's stores, as the sandbox asks for them.

use std::sync::Arc;

use crate::broker::{Broker, ConfigHash, Keyspace, StoreRefusal};
use crate::manifest::{Grants, HttpGrants};
use crate::sandbox::{Answer, Configuration, KeyPage, KeyValue, Reach, StoreError, Unreachable};

/// What a plugin reaches through a connected broker.
pub(super) fn through(broker: &Arc<Broker>, grants: &Grants) -> Reach {
    let keyvalue =
        |prefix: &Arc<str>| Arc::new(Granted(broker.keyspace(prefix.clone()))) as Arc<dyn KeyValue>;
    let config =
        |key: &Arc<str>| Arc::new(Granted(broker.config(key.clone()))) as Arc<dyn Configuration>;
    Reach {
        keyvalue: grants.keyvalue.as_ref().map(keyvalue),
        config: grants.config.as_ref().map(config),
        http: (!grants.http.is_empty()).then(|| grants.http.clone()),
        ..apart(grants)
    }
}

/// The same interfaces with nothing behind them, to prove that a plugin fits and starts.
pub(super) fn apart(grants: &Grants) -> Reach {
    let keyvalue = |_: &Arc<str>| Arc::new(Unreachable) as Arc<dyn KeyValue>;
    let config = |_: &Arc<str>| Arc::new(Unreachable) as Arc<dyn Configuration>;
    Reach {
        env: grants.env.clone(),
        keyvalue: grants.keyvalue.as_ref().map(keyvalue),
        config: grants.config.as_ref().map(config),
        http: (!grants.http.is_empty()).then(HttpGrants::default),
    }
}

/// Something of the broker's, for a guest.
struct Granted<T>(T);

impl From<StoreRefusal> for StoreError {
    fn from(refusal: StoreRefusal) -> Self {
        match refusal {
            StoreRefusal::Unavailable(why) => Self::Unavailable(why),
            StoreRefusal::Forbidden(why) => Self::Denied(why),
            StoreRefusal::Refused(why) => Self::Refused(why),
            StoreRefusal::TooLarge(bytes) => Self::TooLarge(bytes),
        }
    }
}

/// Puts a question of the sandbox's to the broker.
fn answer<'a, T: 'a>(
    asked: impl Future<Output = Result<T, StoreRefusal>> + Send + 'a,
) -> Answer<'a, T> {
    Box::pin(async { asked.await.map_err(StoreError::from) })
}

impl KeyValue for Granted<Keyspace> {
    fn get<'a>(&'a self, key: &'a str, most: usize) -> Answer<'a, Option<Vec<u8>>> {
        answer(self.0.get(key, most))
    }

    fn set<'a>(&'a self, key: &'a str, value: &'a [u8]) -> Answer<'a, ()> {
        answer(self.0.set(key, value))
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
        answer(self.0.delete(key))
    }

    fn exists<'a>(&'a self, key: &'a str) -> Answer<'a, bool> {
        answer(self.0.exists(key))
    }

    fn list<'a>(&'a self, below: &'a str, cursor: Option<u64>) -> Answer<'a, KeyPage> {
        answer(async move {
            let (keys, cursor) = self.0.list(below, cursor).await?;
            Ok(KeyPage { keys, cursor })
        })
    }

    fn increment<'a>(&'a self, key: &'a str, delta: i64) -> Answer<'a, i64> {
        answer(self.0.increment(key, delta))
    }

    fn swap<'a>(&'a self, key: &'a str, old: Option<&'a [u8]>, new: &'a [u8]) -> Answer<'a, bool> {
        answer(self.0.swap(key, old, new))
    }

    fn get_many<'a>(&'a self, keys: &'a [String], most: usize) -> Answer<'a, Vec<Option<Vec<u8>>>> {
        answer(self.0.get_many(keys, most))
    }

    fn set_many<'a>(&'a self, pairs: &'a [(String, Vec<u8>)]) -> Answer<'a, ()> {
        answer(self.0.set_many(pairs))
    }

    fn delete_many<'a>(&'a self, keys: &'a [String]) -> Answer<'a, ()> {
        answer(self.0.delete_many(keys))
    }
}

impl Configuration for Granted<ConfigHash> {
    fn get<'a>(&'a self, name: &'a str) -> Answer<'a, Option<String>> {
        answer(self.0.get(name))
    }

    fn get_all(&self) -> Answer<'_, Vec<(String, String)>> {
        answer(self.0.get_all())
    }
}
