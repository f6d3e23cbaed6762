//! Compare-and-swap: a value that is remembered until it is swapped for another.

use std::sync::Arc;

use wasmtime::component::Resource;

use super::super::guest::Guest;
use super::{Bucket, Problem, past};

/// A key, and the value that it had.
#[allow(unreachable_pub, reason = "what is generated re-exports it")]
pub struct Cas {
    below: Arc<str>,
    key: String,
    old: Option<Vec<u8>>,
}

impl Cas {
    /// What it takes of the host's memory.
    fn bytes(&self) -> usize {
        self.key.len() + self.old.as_ref().map_or(0, Vec::len)
    }
}

/// What became of a swap.
pub(super) enum Swapped {
    Done,
    /// The value is another by now: a handle with that one.
    Missed(Resource<Cas>),
}

impl Guest {
    pub(super) async fn cas_of(
        &mut self,
        bucket: &Resource<Bucket>,
        key: String,
    ) -> Result<Resource<Cas>, Problem> {
        let below = self.resources().get(bucket)?.below.clone();
        self.remember(below, key).await
    }

    /// Reads a key for a new handle.
    async fn remember(&mut self, below: Arc<str>, key: String) -> Result<Resource<Cas>, Problem> {
        let operation = self.operation_below(below.clone()).await?;
        let old = operation.get(&key).await?;
        let cas = Cas { below, key, old };
        let keyspace = self.keyspace.as_mut().ok_or(Problem::NoSuchStore)?;
        let held = keyspace.held + cas.bytes();
        if held > keyspace.most {
            return Err(past(keyspace.most, "held", held as u64).into());
        }
        keyspace.held = held;
        Ok(self.resources().push(cas)?)
    }

    pub(super) fn cas_value(&mut self, cas: &Resource<Cas>) -> Result<Option<Vec<u8>>, Problem> {
        Ok(self.resources().get(cas)?.old.clone())
    }

    /// Swaps the remembered value for another, if it still is the key's.
    pub(super) async fn swap(
        &mut self,
        cas: Resource<Cas>,
        new: &[u8],
    ) -> Result<Swapped, Problem> {
        let cas = self.forget(cas)?;
        let operation = self.operation_below(cas.below.clone()).await?;
        operation.check_written(new.len())?;
        let key = operation.key(&cas.key)?;
        let swapped = operation.keys.swap(&key, cas.old.as_deref(), new).await;
        if swapped.map_err(|error| operation.problem(error))? {
            return Ok(Swapped::Done);
        }
        // Its place is free before another is asked for: the last one would wait for itself.
        drop(operation);
        let Cas { below, key, .. } = cas;
        self.remember(below, key).await.map(Swapped::Missed)
    }

    pub(super) fn forget(&mut self, cas: Resource<Cas>) -> Result<Cas, Problem> {
        let cas = self.resources().delete(cas)?;
        if let Some(keyspace) = &mut self.keyspace {
            keyspace.held = keyspace.held.saturating_sub(cas.bytes());
        }
        Ok(cas)
    }
}
