//! One instruction after the other, each a question to the host.

use crate::tidegate::plugin::types::Failure;
use crate::wasi::config::store as config;
use crate::wasi::keyvalue0_2_0_draft as draft;
use crate::wasi::keyvalue0_2_0_draft2 as draft2;
use crate::wasi::logging::logging::{Level, log};

use draft2::atomics::{Cas, CasError};

/// Which bucket and key the next instruction is about.
#[derive(Default)]
pub(crate) struct Asking {
    bucket: String,
    key: String,
}

impl Asking {
    /// Obeys an instruction; gives what the host answered.
    pub(crate) fn obey(&mut self, name: &str, value: &str) -> Result<Option<String>, Failure> {
        match name {
            "bucket" => self.bucket = value.to_owned(),
            "key" => self.key = value.to_owned(),
            "log" => say(value),
            "get-until-error" => return Err(self.get_until_error()),
            _ => return Ok(self.ask(name, value).map(told)),
        }
        Ok(None)
    }

    fn ask(&self, name: &str, value: &str) -> Option<Result<String, String>> {
        Some(match name {
            "get" => self.first(|bucket| bucket.get(&self.key)).map(shown),
            "set" => self.first(|bucket| bucket.set(&self.key, value.as_bytes())).map(done),
            "fill" => {
                let bytes = vec![b'x'; value.parse().ok()?];
                self.first(|bucket| bucket.set(&self.key, &bytes)).map(done)
            }
            "delete" => self.first(|bucket| bucket.delete(&self.key)).map(done),
            "exists" => self.first(|bucket| bucket.exists(&self.key)).map(|is| is.to_string()),
            "list" => self.first(list),
            "add" => {
                let delta = value.parse().ok()?;
                self.first(|bucket| draft::atomics::increment(bucket, &self.key, delta))
                    .map(|sum| sum.to_string())
            }
            "add2" => {
                let delta = value.parse().ok()?;
                self.second(|bucket| draft2::atomics::increment(bucket, &self.key, delta))
                    .map(|sum| sum.to_string())
            }
            "append" => self.second(|bucket| append(bucket, &self.key, value)),
            "swap" => self.second(|bucket| swap(bucket, &self.key, value)),
            "hoard" => {
                let count: usize = value.parse().ok()?;
                self.second(|bucket| {
                    let handle = |_| Cas::new(bucket, &self.key);
                    (0..count).map(handle).collect::<Result<Vec<_>, _>>()
                })
                .map(|handles| handles.len().to_string())
            }
            "set-many" => {
                self.second(|bucket| draft2::batch::set_many(bucket, &pairs(value))).map(done)
            }
            "get-many" => {
                self.second(|bucket| draft2::batch::get_many(bucket, &words(value))).map(several)
            }
            "get-many-1" => {
                self.first(|bucket| draft::batch::get_many(bucket, &words(value))).map(|all| {
                    several(
                        all.into_iter().flatten().map(|(key, value)| (key, Some(value))).collect(),
                    )
                })
            }
            "delete-many" => {
                self.second(|bucket| draft2::batch::delete_many(bucket, &words(value))).map(done)
            }
            "config" => config::get(value).map(|text| text.unwrap_or("none".into())).map_err(debug),
            "config-all" => config::get_all().map(sorted).map_err(debug),
            _ => return None,
        })
    }

    /// Asks by the first draft.
    fn first<T>(
        &self,
        ask: impl FnOnce(&draft::store::Bucket) -> Result<T, draft::store::Error>,
    ) -> Result<T, String> {
        draft::store::open(&self.bucket).and_then(|bucket| ask(&bucket)).map_err(debug)
    }

    /// Asks by the second draft.
    fn second<T>(
        &self,
        ask: impl FnOnce(&draft2::store::Bucket) -> Result<T, draft2::store::Error>,
    ) -> Result<T, String> {
        draft2::store::open(&self.bucket).and_then(|bucket| ask(&bucket)).map_err(debug)
    }

    fn get_until_error(&self) -> Failure {
        loop {
            if let Err(error) = self.first(|bucket| bucket.get(&self.key)) {
                log(Level::Warn, "probe", "cannot read");
                return Failure::Retry(error);
            }
        }
    }
}

fn list(bucket: &draft::store::Bucket) -> Result<String, draft::store::Error> {
    let (mut keys, mut cursor) = (Vec::new(), None);
    loop {
        let page = bucket.list_keys(cursor)?;
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            keys.sort();
            return Ok(format!("{keys:?}"));
        }
    }
}

fn append(
    bucket: &draft2::store::Bucket,
    key: &str,
    text: &str,
) -> Result<String, draft2::store::Error> {
    let mut cas = Cas::new(bucket, key)?;
    loop {
        let mut value = cas.current()?.unwrap_or_default();
        value.extend_from_slice(text.as_bytes());
        match draft2::atomics::swap(cas, &value) {
            Ok(()) => return Ok("done".to_owned()),
            Err(CasError::CasFailed(fresh)) => cas = fresh,
            Err(CasError::StoreError(error)) => return Err(error),
        }
    }
}

/// A swap that something came before.
fn swap(
    bucket: &draft2::store::Bucket,
    key: &str,
    value: &str,
) -> Result<String, draft2::store::Error> {
    let cas = Cas::new(bucket, key)?;
    bucket.set(key, b"between")?;
    match draft2::atomics::swap(cas, value.as_bytes()) {
        Ok(()) => Ok("done".to_owned()),
        Err(CasError::CasFailed(fresh)) => Ok(format!("missed: {}", shown(fresh.current()?))),
        Err(CasError::StoreError(error)) => Err(error),
    }
}

fn say(value: &str) {
    let (level, text) = value.split_once(' ').unwrap_or((value, ""));
    let level = match level {
        "trace" => Level::Trace,
        "debug" => Level::Debug,
        "warn" => Level::Warn,
        "error" => Level::Error,
        "critical" => Level::Critical,
        _ => Level::Info,
    };
    log(level, "probe", text);
}

fn told(answer: Result<String, String>) -> String {
    answer.unwrap_or_else(|error| format!("error: {error}"))
}

fn debug(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

fn done((): ()) -> String {
    "done".to_owned()
}

fn shown(value: Option<Vec<u8>>) -> String {
    value.map_or("none".into(), |value| String::from_utf8_lossy(&value).into_owned())
}

fn several(pairs: Vec<(String, Option<Vec<u8>>)>) -> String {
    let pairs: Vec<_> =
        pairs.into_iter().map(|(key, value)| format!("{key}={}", shown(value))).collect();
    pairs.join(" ")
}

fn sorted(mut pairs: Vec<(String, String)>) -> String {
    pairs.sort();
    let pairs: Vec<_> = pairs.into_iter().map(|(name, text)| format!("{name}={text}")).collect();
    pairs.join(" ")
}

fn words(value: &str) -> Vec<String> {
    value.split_whitespace().map(str::to_owned).collect()
}

fn pairs(value: &str) -> Vec<(String, Vec<u8>)> {
    let pair = |word: &str| {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        (key.to_owned(), value.as_bytes().to_vec())
    };
    value.split_whitespace().map(pair).collect()
}
