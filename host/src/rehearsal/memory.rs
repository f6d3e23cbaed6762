//! Stores that last as long as one case: what a handler reaches instead of Redis.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sandbox::{Answer, Configuration, KeyPage, KeyValue, StoreError};

/// Keys a page of [`KeyValue::list`] has at most.
const PAGE: usize = 100;

/// Keys and values in memory.
pub(super) struct MemoryKeys(Mutex<BTreeMap<String, Vec<u8>>>);

impl FromIterator<(String, Vec<u8>)> for MemoryKeys {
    fn from_iter<I: IntoIterator<Item = (String, Vec<u8>)>>(pairs: I) -> Self {
        Self(Mutex::new(pairs.into_iter().collect()))
    }
}

impl MemoryKeys {
    /// All that is there at this moment.
    pub(super) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        self.held().clone()
    }

    /// No step leaves the keys half changed, so a panic elsewhere does not spoil them.
    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, key: &str, delta: i64) -> Result<i64, StoreError> {
        let mut held = self.held();
        let number = match held.get(key) {
            None => Some(0),
            Some(value) => str::from_utf8(value).ok().and_then(|text| text.parse().ok()),
        };
        let sum = number.and_then(|number: i64| number.checked_add(delta)).ok_or_else(|| {
            StoreError::Refused("value is not an integer or out of range".to_owned())
        })?;
        held.insert(key.to_owned(), sum.to_string().into_bytes());
        Ok(sum)
    }

    fn page(&self, cursor: Option<u64>) -> KeyPage {
        let begin = usize::try_from(cursor.unwrap_or(0)).unwrap_or(usize::MAX);
        let held = self.held();
        let keys: Vec<String> = held.keys().skip(begin).take(PAGE).cloned().collect();
        let end = begin.saturating_add(keys.len());
        let cursor = (end < held.len()).then_some(end as u64);
        KeyPage { keys, cursor }
    }
}

fn now<T: Send + 'static>(value: T) -> Answer<'static, T> {
    Box::pin(ready(Ok(value)))
}

impl KeyValue for MemoryKeys {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        now(self.held().get(key).cloned())
    }

    fn set<'a>(&'a self, key: &'a str, value: &'a [u8]) -> Answer<'a, ()> {
        self.held().insert(key.to_owned(), value.to_owned());
        now(())
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
        self.held().remove(key);
        now(())
    }

    fn exists<'a>(&'a self, key: &'a str) -> Answer<'a, bool> {
        now(self.held().contains_key(key))
    }

    fn list(&self, cursor: Option<u64>) -> Answer<'_, KeyPage> {
        now(self.page(cursor))
    }

    fn increment<'a>(&'a self, key: &'a str, delta: i64) -> Answer<'a, i64> {
        Box::pin(ready(self.add(key, delta)))
    }

    fn swap<'a>(&'a self, key: &'a str, old: Option<&'a [u8]>, new: &'a [u8]) -> Answer<'a, bool> {
        let mut held = self.held();
        let same = held.get(key).map(Vec::as_slice) == old;
        if same {
            held.insert(key.to_owned(), new.to_owned());
        }
        now(same)
    }

    fn get_many<'a>(&'a self, keys: &'a [String]) -> Answer<'a, Vec<Option<Vec<u8>>>> {
        let held = self.held();
        now(keys.iter().map(|key| held.get(key).cloned()).collect())
    }

    fn set_many<'a>(&'a self, pairs: &'a [(String, Vec<u8>)]) -> Answer<'a, ()> {
        self.held().extend(pairs.iter().cloned());
        now(())
    }

    fn delete_many<'a>(&'a self, keys: &'a [String]) -> Answer<'a, ()> {
        self.held().retain(|key, _| !keys.contains(key));
        now(())
    }
}

/// Configuration in memory.
pub(super) struct MemoryConfig(BTreeMap<String, String>);

impl FromIterator<(String, String)> for MemoryConfig {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl Configuration for MemoryConfig {
    fn get<'a>(&'a self, name: &'a str) -> Answer<'a, Option<String>> {
        now(self.0.get(name).cloned())
    }

    fn get_all(&self) -> Answer<'_, Vec<(String, String)>> {
        now(self.0.clone().into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(pairs: &[(&str, &str)]) -> MemoryKeys {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
    }

    #[tokio::test]
    async fn a_number_is_added_to_and_nothing_else_is() {
        let keys = keys(&[("n", "41"), ("t", "text"), ("max", "9223372036854775807")]);
        assert_eq!(keys.increment("n", 1).await, Ok(42));
        assert_eq!(keys.increment("new", -1).await, Ok(-1));
        assert!(keys.increment("t", 1).await.is_err());
        assert!(keys.increment("max", 1).await.is_err());
        assert_eq!(keys.contents()["n"], b"42");
        assert_eq!(keys.contents()["t"], b"text");
    }

    #[tokio::test]
    async fn a_swap_is_made_only_where_nothing_has_changed() {
        let keys = keys(&[("k", "1")]);
        assert_eq!(keys.swap("k", Some(b"2"), b"3").await, Ok(false));
        assert_eq!(keys.swap("k", None, b"3").await, Ok(false));
        assert_eq!(keys.swap("k", Some(b"1"), b"3").await, Ok(true));
        assert_eq!(keys.swap("new", None, b"1").await, Ok(true));
        assert_eq!(keys.contents()["k"], b"3");
    }

    #[tokio::test]
    async fn pages_hold_every_key_once() {
        let keys: MemoryKeys = (0..PAGE * 2 + 1).map(|n| (format!("k{n}"), Vec::new())).collect();
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let page = keys.list(cursor).await.unwrap();
            seen.extend(page.keys);
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), PAGE * 2 + 1);
    }
}
