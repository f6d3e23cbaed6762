//! What a handler's plugin reaches outside of itself, and through whom.
//!
//! The traits are what a guest needs of the world; whoever runs the sandbox fills them in.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::offer::Grant;
use crate::manifest::HttpGrants;

/// Everything that one handler's plugin may reach; by default nothing.
#[derive(Clone, Default)]
pub struct Reach {
    /// The whole of its environment.
    pub env: BTreeMap<String, String>,
    /// The keys below its prefix.
    pub keyvalue: Option<Arc<dyn KeyValue>>,
    /// Its configuration.
    pub config: Option<Arc<dyn Configuration>>,
    /// The hosts it may call, where it may import what calls; by default none of them.
    pub http: Option<HttpGrants>,
}

impl Reach {
    pub(super) fn has(&self, grant: Grant) -> bool {
        match grant {
            Grant::KeyValue => self.keyvalue.is_some(),
            Grant::Config => self.config.is_some(),
            Grant::Http => self.http.is_some(),
        }
    }
}

/// What comes of asking a store.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Why a store does not answer. The text is shown to the guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or takes no writes, at this moment.
    #[error("the store cannot do it now: {0}")]
    Unavailable(String),
    /// Its own rules do not let this handler do it.
    #[error("{0}")]
    Denied(String),
    /// It understood and refuses, as for a value that is no number.
    #[error("{0}")]
    Refused(String),
    /// What would have to be read is of so many bytes, more than were allowed for.
    #[error("{0} bytes")]
    TooLarge(u64),
}

/// A page of keys, and where the next one begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyPage {
    /// The keys, without the prefix.
    pub keys: Vec<String>,
    /// What to ask for the next page with; `None` after the last.
    pub cursor: Option<u64>,
}

/// The keys below one prefix. Keys are told and asked for without it; nothing else can be reached.
pub trait KeyValue: Send + Sync {
    /// The value of a key. One of more than `most` bytes is [`StoreError::TooLarge`], and not copied.
    fn get<'a>(&'a self, key: &'a str, most: usize) -> Answer<'a, Option<Vec<u8>>>;
    /// Sets a key.
    fn set<'a>(&'a self, key: &'a str, value: &'a [u8]) -> Answer<'a, ()>;
    /// Removes a key, if it is there.
    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, ()>;
    /// Whether a key is there.
    fn exists<'a>(&'a self, key: &'a str) -> Answer<'a, bool>;
    /// A page of the keys that are there and begin with `below`; `None` begins.
    fn list<'a>(&'a self, below: &'a str, cursor: Option<u64>) -> Answer<'a, KeyPage>;
    /// Adds to a number, in one step, and gives the sum. A key that is not there counts as 0.
    fn increment<'a>(&'a self, key: &'a str, delta: i64) -> Answer<'a, i64>;
    /// Sets a key if its value still is `old`, in one step; whether it was.
    fn swap<'a>(&'a self, key: &'a str, old: Option<&'a [u8]>, new: &'a [u8]) -> Answer<'a, bool>;
    /// The values of several keys, in their order, of no more than `most` bytes together.
    fn get_many<'a>(&'a self, keys: &'a [String], most: usize) -> Answer<'a, Vec<Option<Vec<u8>>>>;
    /// Sets several keys, all or none.
    fn set_many<'a>(&'a self, pairs: &'a [(String, Vec<u8>)]) -> Answer<'a, ()>;
    /// Removes several keys, all or none.
    fn delete_many<'a>(&'a self, keys: &'a [String]) -> Answer<'a, ()>;
}

/// Names and texts that a handler reads.
pub trait Configuration: Send + Sync {
    /// The text of a name.
    fn get<'a>(&'a self, name: &'a str) -> Answer<'a, Option<String>>;
    /// All of them.
    fn get_all(&self) -> Answer<'_, Vec<(String, String)>>;
}

/// Stands for every store while there is no connection: a plugin is only proven to start.
pub struct Unreachable;

impl Unreachable {
    fn answer<T: Send + 'static>() -> Answer<'static, T> {
        let why = "plugins are only being checked".to_owned();
        Box::pin(std::future::ready(Err(StoreError::Unavailable(why))))
    }
}

impl KeyValue for Unreachable {
    fn get<'a>(&'a self, _: &'a str, _: usize) -> Answer<'a, Option<Vec<u8>>> {
        Self::answer()
    }

    fn set<'a>(&'a self, _: &'a str, _: &'a [u8]) -> Answer<'a, ()> {
        Self::answer()
    }

    fn delete<'a>(&'a self, _: &'a str) -> Answer<'a, ()> {
        Self::answer()
    }

    fn exists<'a>(&'a self, _: &'a str) -> Answer<'a, bool> {
        Self::answer()
    }

    fn list<'a>(&'a self, _: &'a str, _: Option<u64>) -> Answer<'a, KeyPage> {
        Self::answer()
    }

    fn increment<'a>(&'a self, _: &'a str, _: i64) -> Answer<'a, i64> {
        Self::answer()
    }

    fn swap<'a>(&'a self, _: &'a str, _: Option<&'a [u8]>, _: &'a [u8]) -> Answer<'a, bool> {
        Self::answer()
    }

    fn get_many<'a>(&'a self, _: &'a [String], _: usize) -> Answer<'a, Vec<Option<Vec<u8>>>> {
        Self::answer()
    }

    fn set_many<'a>(&'a self, _: &'a [(String, Vec<u8>)]) -> Answer<'a, ()> {
        Self::answer()
    }

    fn delete_many<'a>(&'a self, _: &'a [String]) -> Answer<'a, ()> {
        Self::answer()
    }
}

impl Configuration for Unreachable {
    fn get<'a>(&'a self, _: &'a str) -> Answer<'a, Option<String>> {
        Self::answer()
    }

    fn get_all(&self) -> Answer<'_, Vec<(String, String)>> {
        Self::answer()
    }
}
