//! The keys below a prefix, for a handler's plugin.
//!
//! A key's name is the prefix and what the plugin calls it, whatever bytes that is made of: nothing
//! else can be named. Only strings are read, replaced and removed: a stream or a hash below the
//! prefix is refused. What is limited is checked before it is sent (`scripts/recall.lua`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::{Cmd, RedisError, Value};

use super::Broker;
use super::link::Link;
use super::reply::{self, UnexpectedReply};
use super::scripts::Lua;
use super::trouble::Trouble;

/// Keys that one `SCAN` looks at: a few hundred microseconds of the server's time.
const SCAN_COUNT: usize = 1000;

/// How often a page without a key is gone past before it is handed out as it is.
const SCANS_MAX: usize = 10;

/// Why Redis did not do what a plugin asked for. The texts are for the plugin, and hold no secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreRefusal {
    /// It cannot be reached, or takes no writes at this moment.
    #[error("{0}")]
    Unavailable(String),
    /// The host's user may not do it (`NOPERM`).
    #[error("{0}")]
    Forbidden(String),
    /// The request itself was refused, as for a value that is no number.
    #[error("{0}")]
    Refused(String),
    /// What would have to be sent is of so many bytes, more than were allowed for.
    #[error("{0} bytes")]
    TooLarge(u64),
}

impl From<UnexpectedReply> for StoreRefusal {
    fn from(reply: UnexpectedReply) -> Self {
        Self::Refused(reply.to_string())
    }
}

type Answer<T> = Result<T, StoreRefusal>;

/// The keys that begin with one prefix, by the rest of their names.
pub struct Keyspace {
    asker: Asker,
    prefix: Arc<str>,
}

impl Broker {
    /// The keys below a prefix.
    pub fn keyspace(&self, prefix: Arc<str>) -> Keyspace {
        Keyspace { asker: Asker::new(self.link.clone(), prefix.clone()), prefix }
    }
}

impl Keyspace {
    /// The value of a key, unless it is of more bytes than `most`.
    ///
    /// # Errors
    ///
    /// Here and below, why Redis did not do it.
    pub async fn get(&self, key: &str, most: usize) -> Answer<Option<Vec<u8>>> {
        let mut values = self.recall(&[self.name(key)], most).await?;
        Ok(values.pop().flatten())
    }

    /// Sets a key.
    pub async fn set(&self, key: &str, value: &[u8]) -> Answer<()> {
        self.asker.ask(Lua::Keep.call(&[&self.name(key)]).arg(value)).await.map(drop)
    }

    /// Removes a key, if it is there.
    pub async fn delete(&self, key: &str) -> Answer<()> {
        self.asker.ask(&Lua::Discard.call(&[&self.name(key)])).await.map(drop)
    }

    /// Whether a key is there (`TYPE`, as only strings count).
    pub async fn exists(&self, key: &str) -> Answer<bool> {
        let answer = self.asker.ask(redis::cmd("TYPE").arg(self.name(key))).await?;
        Ok(matches!(answer, Value::SimpleString(kind) if kind == "string"))
    }

    /// A page of the keys that begin with `below`, and the cursor for the next one (`SCAN`).
    ///
    /// Keys that are no text cannot be told to a plugin, and are left out.
    pub async fn list(
        &self,
        below: &str,
        cursor: Option<u64>,
    ) -> Answer<(Vec<String>, Option<u64>)> {
        let pattern = format!("{}*", literally(&self.name(below)));
        let mut cursor = cursor.unwrap_or(0);
        for _ in 0..SCANS_MAX {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_COUNT);
            let (next, names) = page(self.asker.ask(scan.arg("TYPE").arg("string")).await?)?;
            cursor = next;
            let keys: Vec<String> = names.into_iter().filter_map(|name| self.own(name)).collect();
            if cursor == 0 || !keys.is_empty() {
                return Ok((keys, (cursor != 0).then_some(cursor)));
            }
        }
        Ok((Vec::new(), Some(cursor)))
    }

    /// Adds to a number, and gives the sum (`INCRBY`).
    pub async fn increment(&self, key: &str, delta: i64) -> Answer<i64> {
        let answer = self.asker.ask(redis::cmd("INCRBY").arg(self.name(key)).arg(delta)).await?;
        Ok(reply::integer("INCRBY", &answer)?)
    }

    /// Sets a key if its value still is `old`; whether it was.
    pub async fn swap(&self, key: &str, old: Option<&[u8]>, new: &[u8]) -> Answer<bool> {
        let mut swap = Lua::Swap.call(&[&self.name(key)]);
        swap.arg(u8::from(old.is_some())).arg(old.unwrap_or_default()).arg(new);
        Ok(self.asker.ask(&swap).await? == Value::Int(1))
    }

    /// The values of several keys, unless they are of more bytes together than `most`.
    pub async fn get_many(&self, keys: &[String], most: usize) -> Answer<Vec<Option<Vec<u8>>>> {
        let names: Vec<String> = keys.iter().map(|key| self.name(key)).collect();
        self.recall(&names, most).await
    }

    /// Sets several keys, all or none.
    pub async fn set_many(&self, pairs: &[(String, Vec<u8>)]) -> Answer<()> {
        let names: Vec<String> = pairs.iter().map(|(key, _)| self.name(key)).collect();
        let mut keep = Lua::Keep.call(&borrowed(&names));
        for (_, value) in pairs {
            keep.arg(value.as_slice());
        }
        self.asker.ask(&keep).await.map(drop)
    }

    /// Removes several keys, all or none.
    pub async fn delete_many(&self, keys: &[String]) -> Answer<()> {
        let names: Vec<String> = keys.iter().map(|key| self.name(key)).collect();
        self.asker.ask(&Lua::Discard.call(&borrowed(&names))).await.map(drop)
    }

    async fn recall(&self, names: &[String], most: usize) -> Answer<Vec<Option<Vec<u8>>>> {
        let answer = self.asker.ask(Lua::Recall.call(&borrowed(names)).arg(most)).await?;
        let values = reply::array("recall.lua", sized(answer)?)?;
        Ok(values.into_iter().map(blob).collect())
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// What the plugin calls a key of this name.
    fn own(&self, name: Vec<u8>) -> Option<String> {
        let name = String::from_utf8(name).ok()?;
        name.strip_prefix(&*self.prefix).map(str::to_owned)
    }
}

fn borrowed(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// A pattern that stands for this text and nothing else.
fn literally(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

/// A cursor and the names that came with it.
fn page(answer: Value) -> Result<(u64, Vec<Vec<u8>>), UnexpectedReply> {
    let mut parts = reply::array("SCAN", answer)?.into_iter();
    let cursor = parts.next().unwrap_or_default();
    let number = blob(cursor.clone()).and_then(|digits| String::from_utf8(digits).ok());
    let number = number.and_then(|digits| digits.parse().ok());
    let number = number.ok_or_else(|| UnexpectedReply::new("SCAN", &cursor))?;
    let names = reply::array("SCAN", parts.next().unwrap_or_default())?;
    Ok((number, names.into_iter().filter_map(blob).collect()))
}

pub(super) fn blob(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

/// An answer, unless it is the number of bytes that were too many.
pub(super) fn sized(answer: Value) -> Answer<Value> {
    match answer {
        Value::Int(bytes) => Err(StoreRefusal::TooLarge(bytes.try_into().unwrap_or(u64::MAX))),
        answer => Ok(answer),
    }
}

/// Asks on behalf of a plugin.
pub(super) struct Asker {
    link: Link,
    /// What is asked for, for the log.
    grant: Arc<str>,
    /// Whether it was told already that the host's user may not.
    told: AtomicBool,
}

impl Asker {
    pub(super) fn new(link: Link, grant: Arc<str>) -> Self {
        Self { link, grant, told: AtomicBool::new(false) }
    }

    /// Sends a command; once more if the server had forgotten the script, which did nothing then.
    pub(super) async fn ask(&self, command: &Cmd) -> Answer<Value> {
        let mut answer = self.link.query(command).await;
        if answer.as_ref().is_err_and(|error| Trouble::of(error) == Trouble::ScriptsGone) {
            answer = self.link.query(command).await;
        }
        answer.map_err(|error| self.refusal(&error))
    }

    fn refusal(&self, error: &RedisError) -> StoreRefusal {
        let words = || error.detail().map_or_else(|| error.to_string(), str::to_owned);
        match Trouble::of(error) {
            Trouble::Forbidden => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(grant = &*self.grant, %error,
                        "redis does not let this host do what a plugin is granted; mend the ACL of its user");
                }
                StoreRefusal::Forbidden(words())
            }
            Trouble::WrongType => {
                StoreRefusal::Refused("what is there is of another type in Redis".to_owned())
            }
            Trouble::Refused => {
                StoreRefusal::Unavailable("redis does not accept the host's credentials".to_owned())
            }
            Trouble::Unreachable
            | Trouble::NotReady
            | Trouble::Demoted
            | Trouble::Unwritable
            | Trouble::Elsewhere
            | Trouble::ScriptsGone => StoreRefusal::Unavailable(words()),
            Trouble::OddKey | Trouble::GroupGone | Trouble::Incapable | Trouble::Other => {
                StoreRefusal::Refused(words())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_the_prefix_alone() {
        assert_eq!(literally("charge:"), "charge:");
        assert_eq!(literally("a*b?[c]\\{d}"), "a\\*b\\?\\[c\\]\\\\{d}");
    }

    #[test]
    fn a_page_is_its_cursor_and_its_names() {
        let name = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let answer = Value::Array(vec![name("17"), Value::Array(vec![name("a"), name("b")])]);
        assert_eq!(page(answer), Ok((17, vec![b"a".to_vec(), b"b".to_vec()])));
        assert!(page(Value::Array(vec![name("x"), Value::Array(Vec::new())])).is_err());
        assert!(page(Value::Nil).is_err());
    }
}
