//! Stores in memory, for running a plugin without Redis: they promise what the broker's do.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::reach::{Answer, Configuration, KeyPage, KeyValue, StoreError};

/// Bytes of a number in decimal digits, at most: those of the least one there is.
const NUMBER_MAX: usize = 20;

/// Keys in memory, as a plugin sees those below its prefix. They last as long as this does.
#[derive(Debug, Default)]
pub struct MemoryKeys(Mutex<BTreeMap<String, Vec<u8>>>);

impl FromIterator<(String, Vec<u8>)> for MemoryKeys {
    fn from_iter<I: IntoIterator<Item = (String, Vec<u8>)>>(pairs: I) -> Self {
        Self(Mutex::new(pairs.into_iter().collect()))
    }
}

impl MemoryKeys {
    /// Every key with its value, as they are now.
    pub fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        self.keys().clone()
    }

    /// A map is whole between any two of its calls, so a panic elsewhere does not spoil it.
    fn keys(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, key: &str, delta: i64) -> Result<i64, StoreError> {
        let refused = |why: &str| StoreError::Refused(why.to_owned());
        let mut keys = self.keys();
        let value = match keys.get(key) {
            Some(value) => {
                number(value).ok_or_else(|| refused("value is not an integer or out of range"))?
            }
            None => 0,
        };
        let sum = value
            .checked_add(delta)
            .ok_or_else(|| refused("increment or decrement would overflow"))?;
        keys.insert(key.to_owned(), sum.to_string().into_bytes());
        Ok(sum)
    }
}

/// A number as Redis reads one: in its shortest form, or not at all.
fn number(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= NUMBER_MAX)?;
    text.parse().ok().filter(|number: &i64| number.to_string() == text)
}

/// What is no larger than allowed for.
fn within<T>(most: usize, bytes: usize, value: T) -> Result<T, StoreError> {
    if bytes > most { Err(StoreError::TooLarge(bytes as u64)) } else { Ok(value) }
}

fn at_once<T: Send + 'static>(answer: Result<T, StoreError>) -> Answer<'static, T> {
    Box::pin(ready(answer))
}

impl KeyValue for MemoryKeys {
    fn get<'a>(&'a self, key: &'a str, most: usize) -> Answer<'a, Option<Vec<u8>>> {
        let keys = self.keys();
        let value = keys.get(key);
        let bytes = value.map_or(0, Vec::len);
        at_once(within(most, bytes, ()).map(|()| value.cloned()))
    }

    fn set<'a>(&'a self, key: &'a str, value: &'a [u8]) -> Answer<'a, ()> {
        self.keys().insert(key.to_owned(), value.to_vec());
        at_once(Ok(()))
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
        self.keys().remove(key);
        at_once(Ok(()))
    }

    fn exists<'a>(&'a self, key: &'a str) -> Answer<'a, bool> {
        at_once(Ok(self.keys().contains_key(key)))
    }

    /// All of them on one page: they are in memory as it is.
    fn list<'a>(&'a self, below: &'a str, _: Option<u64>) -> Answer<'a, KeyPage> {
        let keys = self.keys().keys().filter(|key| key.starts_with(below)).cloned().collect();
        at_once(Ok(KeyPage { keys, cursor: None }))
    }

    fn increment<'a>(&'a self, key: &'a str, delta: i64) -> Answer<'a, i64> {
        at_once(self.add(key, delta))
    }

    fn swap<'a>(&'a self, key: &'a str, old: Option<&'a [u8]>, new: &'a [u8]) -> Answer<'a, bool> {
        let mut keys = self.keys();
        let same = keys.get(key).map(Vec::as_slice) == old;
        if same {
            keys.insert(key.to_owned(), new.to_vec());
        }
        at_once(Ok(same))
    }

    fn get_many<'a>(
        &'a self,
        names: &'a [String],
        most: usize,
    ) -> Answer<'a, Vec<Option<Vec<u8>>>> {
        let keys = self.keys();
        let values: Vec<_> = names.iter().map(|name| keys.get(name)).collect();
        let bytes = values.iter().flatten().map(|value| value.len()).sum();
        at_once(
            within(most, bytes, ())
                .map(|()| values.into_iter().map(Option::<&_>::cloned).collect()),
        )
    }

    fn set_many<'a>(&'a self, pairs: &'a [(String, Vec<u8>)]) -> Answer<'a, ()> {
        self.keys().extend(pairs.iter().cloned());
        at_once(Ok(()))
    }

    fn delete_many<'a>(&'a self, names: &'a [String]) -> Answer<'a, ()> {
        self.keys().retain(|key, _| !names.contains(key));
        at_once(Ok(()))
    }
}

/// Names and texts in memory.
#[derive(Debug, Default)]
pub struct MemoryConfig(BTreeMap<String, String>);

impl FromIterator<(String, String)> for MemoryConfig {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl Configuration for MemoryConfig {
    fn get<'a>(&'a self, name: &'a str) -> Answer<'a, Option<String>> {
        at_once(Ok(self.0.get(name).cloned()))
    }

    fn get_all(&self) -> Answer<'_, Vec<(String, String)>> {
        at_once(Ok(self.0.iter().map(|(name, text)| (name.clone(), text.clone())).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1 << 20;

    fn keys(pairs: &[(&str, &str)]) -> MemoryKeys {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test]
    async fn what_is_set_in_memory_is_there_until_it_is_deleted() {
        let keys = keys(&[("a", "1")]);
        keys.set("b", b"").await.unwrap();
        assert_eq!(keys.get("b", MOST).await, Ok(Some(Vec::new())));
        assert_eq!(keys.exists("b").await, Ok(true));
        keys.delete("b").await.unwrap();
        keys.delete("b").await.unwrap();
        assert_eq!(keys.get("b", MOST).await, Ok(None));
        assert_eq!(keys.exists("b").await, Ok(false));
        assert_eq!(keys.contents(), BTreeMap::from([("a".to_owned(), b"1".to_vec())]));
    }

    #[tokio::test]
    async fn numbers_in_memory_add_up_and_other_values_refuse_to() {
        let keys = keys(&[("text", "x"), ("padded", "05"), ("most", "9223372036854775807")]);
        assert_eq!(keys.increment("n", 5).await, Ok(5));
        assert_eq!(keys.increment("n", -7).await, Ok(-2));
        for key in ["text", "padded", "most"] {
            let answer = keys.increment(key, 1).await;
            assert!(matches!(answer, Err(StoreError::Refused(_))), "{key}: {answer:?}");
        }
        assert_eq!(keys.get("most", MOST).await.unwrap().unwrap(), b"9223372036854775807");
    }

    #[tokio::test]
    async fn a_swap_in_memory_needs_the_value_to_be_the_old_one() {
        let keys = keys(&[]);
        assert_eq!(keys.swap("k", Some(b""), b"1").await, Ok(false));
        assert_eq!(keys.swap("k", None, b"1").await, Ok(true));
        assert_eq!(keys.swap("k", None, b"2").await, Ok(false));
        assert_eq!(keys.swap("k", Some(b"1"), b"2").await, Ok(true));
        assert_eq!(keys.get("k", MOST).await.unwrap().unwrap(), b"2");
    }

    #[tokio::test]
    async fn batches_in_memory_keep_their_order_and_their_bound() {
        let keys = keys(&[("a", "12"), ("b", "345")]);
        let asked = names(&["b", "none", "a"]);
        let values = keys.get_many(&asked, 5).await.unwrap();
        assert_eq!(values, [Some(b"345".to_vec()), None, Some(b"12".to_vec())]);
        assert_eq!(keys.get_many(&asked, 4).await, Err(StoreError::TooLarge(5)));
        assert_eq!(keys.get("b", 2).await, Err(StoreError::TooLarge(3)));
        keys.set_many(&[("c".into(), b"1".to_vec()), ("a".into(), b"2".to_vec())]).await.unwrap();
        keys.delete_many(&names(&["b", "none"])).await.unwrap();
        assert_eq!(keys.list("", None).await.unwrap().keys, ["a", "c"]);
        assert_eq!(keys.list("c", None).await.unwrap().keys, ["c"]);
    }

    #[tokio::test]
    async fn configuration_in_memory_is_what_it_was_made_of() {
        let config: MemoryConfig = [("tax".to_owned(), "19".to_owned())].into_iter().collect();
        assert_eq!(config.get("tax").await, Ok(Some("19".to_owned())));
        assert_eq!(config.get("fee").await, Ok(None));
        assert_eq!(config.get_all().await, Ok(vec![("tax".to_owned(), "19".to_owned())]));
    }
}
