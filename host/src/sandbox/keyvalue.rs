//! `wasi:keyvalue`: the keys below a handler's granted prefix, for its plugin.
//!
//! Here is what every draft of it does, within the handler's limits; `draft` and `draft2` give it
//! their shapes. Where the keys are is `reach`'s: what a guest names is only ever put behind the
//! prefix, so that no identifier and no key leads out of it.

mod draft;
mod draft2;
mod swap;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytesize::ByteSize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::{Resource, ResourceTableError};

use super::fault::PastLimit;
use super::guest::Guest;
use super::linked::Linked;
use super::offer::{Add, Grant, Offer};
use super::reach::{KeyPage, KeyValue, StoreError};

/// Every draft of the interfaces that guests are built against.
pub(super) const OFFERS: &[Offer] = &[
    offer("wasi:keyvalue/store", draft::VERSION, draft::store),
    offer("wasi:keyvalue/atomics", draft::VERSION, draft::atomics),
    offer("wasi:keyvalue/batch", draft::VERSION, draft::batch),
    offer("wasi:keyvalue/store", draft2::VERSION, draft2::store),
    offer("wasi:keyvalue/atomics", draft2::VERSION, draft2::atomics),
    offer("wasi:keyvalue/batch", draft2::VERSION, draft2::batch),
];

const fn offer(interface: &'static str, version: &'static str, add: Add) -> Offer {
    Offer { interface, version, grant: Some(Grant::KeyValue), add }
}

/// Bytes of a bucket's identifier: each open bucket keeps its own.
const IDENTIFIER_MAX: usize = 256;

/// Bytes of a key. Redis allows for more, and nobody means it.
const KEY_MAX: usize = 8 << 10;

/// Keys in one batch: Redis does nothing else meanwhile.
const BATCH_MAX: usize = 1000;

/// What one instance may do with its handler's keys.
pub(super) struct Keyspace {
    keys: Arc<dyn KeyValue>,
    /// Bytes of the largest value, of the values of a batch, and of what handles hold.
    most: usize,
    /// A permit for each operation in flight, over all instances of the plugin.
    places: Arc<Semaphore>,
    /// Bytes that this instance's handles for compare-and-swap hold.
    held: usize,
}

impl Keyspace {
    pub(super) fn of(linked: &Linked) -> Option<Self> {
        Some(Self {
            keys: linked.reach.keyvalue.clone()?,
            most: linked.limits.further.keyvalue_bytes,
            places: linked.keyvalue_places.clone(),
            held: 0,
        })
    }
}

/// Keys that begin the same, below the prefix of the grant.
#[allow(unreachable_pub, reason = "what is generated re-exports it")]
pub struct Bucket {
    /// How they begin: nothing, or the identifier and a colon.
    below: Arc<str>,
}

/// What is told to the guest, or ends its call.
#[allow(unreachable_pub, reason = "what is generated names it in public")]
pub enum Problem {
    NoSuchStore,
    Denied,
    Other(String),
    /// The call is over.
    Broken(wasmtime::Error),
}

impl From<ResourceTableError> for Problem {
    fn from(error: ResourceTableError) -> Self {
        Self::Broken(error.into())
    }
}

impl From<PastLimit> for Problem {
    fn from(limit: PastLimit) -> Self {
        Self::Broken(limit.into())
    }
}

impl Guest {
    /// Opens the bucket of all granted keys, or of those that begin with the identifier and a colon.
    fn open_bucket(&mut self, identifier: &str) -> Result<Resource<Bucket>, Problem> {
        if identifier.len() > IDENTIFIER_MAX {
            return Err(Problem::NoSuchStore);
        }
        let below = match identifier {
            "" | "default" => "".into(),
            _ => format!("{identifier}:").into(),
        };
        Ok(self.resources().push(Bucket { below })?)
    }

    fn drop_bucket(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.resources().delete(bucket)?;
        Ok(())
    }

    /// Waits for a place among the operations in flight. The call's timeout bounds it.
    async fn operation(&mut self, bucket: &Resource<Bucket>) -> Result<Operation, Problem> {
        let below = self.resources().get(bucket)?.below.clone();
        self.operation_below(below).await
    }

    async fn operation_below(&mut self, below: Arc<str>) -> Result<Operation, Problem> {
        let Some(Keyspace { keys, most, places, .. }) = &self.keyspace else {
            return Err(Problem::NoSuchStore);
        };
        let place = places.clone().acquire_owned().await;
        let _place = place.expect("nobody closes the semaphore");
        Ok(Operation { keys: keys.clone(), below, most: *most, _place })
    }
}

/// An operation on a bucket, with its place among those in flight.
struct Operation {
    keys: Arc<dyn KeyValue>,
    below: Arc<str>,
    most: usize,
    _place: OwnedSemaphorePermit,
}

impl Operation {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Problem> {
        let key = self.key(key)?;
        let value = self.keys.get(&key, self.most).await;
        value.map_err(|error| self.problem(error))
    }

    async fn set(&self, key: &str, value: &[u8]) -> Result<(), Problem> {
        let key = self.key(key)?;
        self.check_written(value.len())?;
        self.keys.set(&key, value).await.map_err(|error| self.problem(error))
    }

    async fn delete(&self, key: &str) -> Result<(), Problem> {
        let key = self.key(key)?;
        self.keys.delete(&key).await.map_err(|error| self.problem(error))
    }

    async fn exists(&self, key: &str) -> Result<bool, Problem> {
        let key = self.key(key)?;
        self.keys.exists(&key).await.map_err(|error| self.problem(error))
    }

    /// A page of keys, as the bucket knows them.
    async fn list(&self, cursor: Option<u64>) -> Result<KeyPage, Problem> {
        let page = self.keys.list(&self.below, cursor).await;
        let KeyPage { keys, cursor } = page.map_err(|error| self.problem(error))?;
        let own = |key: String| key.strip_prefix(&*self.below).map(str::to_owned);
        Ok(KeyPage { keys: keys.into_iter().filter_map(own).collect(), cursor })
    }

    async fn increment(&self, key: &str, delta: i64) -> Result<i64, Problem> {
        let key = self.key(key)?;
        self.keys.increment(&key, delta).await.map_err(|error| self.problem(error))
    }

    async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, Problem> {
        let keys = self.keys(keys.iter())?;
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let values = self.keys.get_many(&keys, self.most).await;
        values.map_err(|error| self.problem(error))
    }

    async fn set_many(&self, pairs: Vec<(String, Vec<u8>)>) -> Result<(), Problem> {
        let keys = self.keys(pairs.iter().map(|(key, _)| key))?;
        self.check_written(pairs.iter().map(|(_, value)| value.len()).sum())?;
        let values = pairs.into_iter().map(|(_, value)| value);
        let pairs: Vec<_> = keys.into_iter().zip(values).collect();
        if pairs.is_empty() {
            return Ok(());
        }
        self.keys.set_many(&pairs).await.map_err(|error| self.problem(error))
    }

    async fn delete_many(&self, keys: &[String]) -> Result<(), Problem> {
        let keys = self.keys(keys.iter())?;
        if keys.is_empty() {
            return Ok(());
        }
        self.keys.delete_many(&keys).await.map_err(|error| self.problem(error))
    }

    /// The name of a guest's key below the prefix of the grant.
    fn key(&self, key: &str) -> Result<String, Problem> {
        if key.len() > KEY_MAX {
            let length = key.len();
            return Err(Problem::Other(format!(
                "a key of {length} bytes: {KEY_MAX} at most are allowed"
            )));
        }
        Ok(format!("{}{key}", self.below))
    }

    fn keys<'a>(
        &self,
        keys: impl ExactSizeIterator<Item = &'a String>,
    ) -> Result<Vec<String>, Problem> {
        let count = keys.len();
        if count > BATCH_MAX {
            return Err(Problem::Other(format!(
                "a batch of {count} keys: {BATCH_MAX} at most are allowed"
            )));
        }
        keys.map(|key| self.key(key)).collect()
    }

    fn check_written(&self, bytes: usize) -> Result<(), PastLimit> {
        if bytes > self.most { Err(past(self.most, "wrote", bytes as u64)) } else { Ok(()) }
    }

    fn problem(&self, error: StoreError) -> Problem {
        match error {
            StoreError::Denied(_) => Problem::Denied,
            StoreError::TooLarge(bytes) => past(self.most, "asked for", bytes).into(),
            StoreError::Unavailable(_) | StoreError::Refused(_) => {
                Problem::Other(error.to_string())
            }
        }
    }
}

fn past(most: usize, did: &str, bytes: u64) -> PastLimit {
    let most = ByteSize(most as u64).display().iec();
    PastLimit(format!(
        "{did} {bytes} bytes of values at once, more than its `limits.keyvalue-bytes` of {most} allow"
    ))
}
