//! What a handler's limits say of keys, on keys in memory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::super::memory::MemoryKeys;
use super::super::reach::{Answer, Reach};
use super::super::runner::Limits;
use super::super::{Capacity, Sandbox};
use super::*;
use crate::manifest::{self, Isolation};

/// A handler's plugin with these keys.
fn linked(keys: Arc<dyn KeyValue>, further: manifest::Limits) -> Linked {
    let sandbox =
        Sandbox::new(Capacity { instances: 8, memory: 64 << 20, stack: 1 << 20 }).unwrap();
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/friendly/echo.wat");
    let plugin = sandbox.load_bytes(Path::new("echo.wasm"), &wat::parse_file(text).unwrap());
    let limits = Limits {
        timeout: Duration::from_secs(5),
        memory: 64 << 20,
        isolation: Isolation::Reuse,
        concurrency: 8,
        further,
    };
    let reach = Reach { keyvalue: Some(keys), ..Reach::default() };
    Linked::new(&plugin.unwrap(), "test".into(), limits, reach).unwrap()
}

fn told<T>(answer: Result<T, Problem>) -> Result<T, String> {
    answer.map_err(|problem| match problem {
        Problem::NoSuchStore => "no such store".to_owned(),
        Problem::Denied => "denied".to_owned(),
        Problem::Other(why) => why,
        Problem::Broken(error) => error.to_string(),
    })
}

#[tokio::test]
async fn a_bucket_only_ever_puts_its_name_before_a_key() {
    let keys = Arc::new(MemoryKeys::default());
    let linked = linked(keys.clone(), manifest::Limits::default());
    let mut guest = Guest::new(&linked);
    for (identifier, expected) in
        [("", "../a"), ("default", "../a"), ("x", "x:../a"), ("*", "*:../a"), ("\0\n", "\0\n:../a")]
    {
        let bucket = told(guest.open_bucket(identifier)).unwrap();
        let operation = told(guest.operation(&bucket).await).unwrap();
        told(operation.set("../a", b"1").await).unwrap();
        assert_eq!(told(operation.get("../a").await).unwrap(), Some(b"1".to_vec()));
        let listed = told(operation.list(None).await).unwrap().keys;
        assert!(listed.contains(&"../a".to_owned()), "{listed:?}");
        assert!(keys.contents().contains_key(expected), "{:?}", keys.contents());
    }
    assert_eq!(told(guest.open_bucket(&"x".repeat(257)).map(drop)).unwrap_err(), "no such store");
}

#[tokio::test]
async fn handles_for_a_swap_hold_no_more_than_a_value_may_have() {
    let keys = Arc::new(MemoryKeys::from_iter([("k".to_owned(), vec![0; 600])]));
    let limits = manifest::Limits { keyvalue_bytes: 1024, ..manifest::Limits::default() };
    let linked = linked(keys, limits);
    let mut guest = Guest::new(&linked);
    let bucket = told(guest.open_bucket("")).unwrap();
    let one = told(guest.cas_of(&bucket, "k".to_owned()).await).unwrap();
    let refused = told(guest.cas_of(&bucket, "k".to_owned()).await.map(drop)).unwrap_err();
    assert!(refused.starts_with("held 1202 bytes"), "{refused}");
    told(guest.forget(one).map(drop)).unwrap();
    let one = told(guest.cas_of(&bucket, "k".to_owned()).await).unwrap();
    assert!(matches!(told(guest.swap(one, b"1").await), Ok(swap::Swapped::Done)));
    assert_eq!(guest.keyspace.as_ref().map(|keyspace| keyspace.held), Some(0));
}

/// Keys that answer when they are told to, and count who waits.
#[derive(Default)]
struct Slow {
    keys: MemoryKeys,
    waiting: AtomicUsize,
    go: Notify,
}

impl KeyValue for Slow {
    fn get<'a>(&'a self, key: &'a str, most: usize) -> Answer<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            self.go.notified().await;
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.keys.get(key, most).await
        })
    }

    fn set<'a>(&'a self, key: &'a str, value: &'a [u8]) -> Answer<'a, ()> {
        self.keys.set(key, value)
    }

    fn delete<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
        self.keys.delete(key)
    }

    fn exists<'a>(&'a self, key: &'a str) -> Answer<'a, bool> {
        self.keys.exists(key)
    }

    fn list<'a>(&'a self, below: &'a str, cursor: Option<u64>) -> Answer<'a, KeyPage> {
        self.keys.list(below, cursor)
    }

    fn increment<'a>(&'a self, key: &'a str, delta: i64) -> Answer<'a, i64> {
        self.keys.increment(key, delta)
    }

    fn swap<'a>(&'a self, key: &'a str, old: Option<&'a [u8]>, new: &'a [u8]) -> Answer<'a, bool> {
        self.keys.swap(key, old, new)
    }

    fn get_many<'a>(&'a self, keys: &'a [String], most: usize) -> Answer<'a, Vec<Option<Vec<u8>>>> {
        self.keys.get_many(keys, most)
    }

    fn set_many<'a>(&'a self, pairs: &'a [(String, Vec<u8>)]) -> Answer<'a, ()> {
        self.keys.set_many(pairs)
    }

    fn delete_many<'a>(&'a self, keys: &'a [String]) -> Answer<'a, ()> {
        self.keys.delete_many(keys)
    }
}

#[tokio::test]
async fn no_more_operations_are_in_flight_than_keyvalue_calls() {
    let slow = Arc::new(Slow::default());
    let limits = manifest::Limits { keyvalue_calls: 2, ..manifest::Limits::default() };
    let linked = Arc::new(linked(slow.clone(), limits));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let linked = linked.clone();
        calls.spawn(async move {
            let mut guest = Guest::new(&linked);
            let bucket = told(guest.open_bucket("")).unwrap();
            told(told(guest.operation(&bucket).await).unwrap().get("k").await).unwrap()
        });
    }
    // On one thread, each turn lets every task go as far as it can.
    for answered in 0..6 {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert_eq!(slow.waiting.load(Ordering::Relaxed), 2.min(6 - answered));
        slow.go.notify_one();
        calls.join_next().await.unwrap().unwrap();
    }
}
