//! Versions of a plugin that are not to be put to work any more, on any host.

use std::collections::BTreeMap;

use redis::Value;
use serde::{Deserialize, Serialize};

use super::keys::Keys;
use super::reply::server_millis;
use super::{Broker, BrokerError};
use crate::manifest::{Digest, Handler};

/// Why a version is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RolledBack {
    /// Who had it taken back: a person, or the host that found it worse.
    #[serde(default)]
    pub by: String,
    /// Since when, in milliseconds since the Unix epoch by the server's clock.
    #[serde(default)]
    pub since_ms: u64,
    /// Why, in a sentence.
    #[serde(default)]
    pub why: String,
}

impl Broker {
    /// Has every host take back a version of a handler's plugin, and not take it up again.
    ///
    /// # Errors
    ///
    /// When Redis refuses the key.
    pub async fn roll_back(
        &self,
        handler: &Handler,
        digest: &Digest,
        by: &str,
        why: &str,
    ) -> Result<(), BrokerError> {
        let failed = |source| self.failed(format!("roll back handler `{}`", handler.name), source);
        let now = self.link.query(&redis::cmd("TIME")).await.map_err(failed)?;
        let (by, why) = (by.to_owned(), why.to_owned());
        let told = RolledBack { by, since_ms: server_millis(now)?, why };
        let told = serde_json::to_string(&told).expect("names and numbers are plain JSON");
        let mut setting = redis::cmd("HSET");
        setting.arg(key(handler)).arg(digest.to_string()).arg(told);
        self.link.query(&setting).await.map_err(failed).map(drop)
    }

    /// Lets a version be put to work again. Whether it was refused.
    ///
    /// # Errors
    ///
    /// When Redis refuses the key.
    pub async fn allow_again(
        &self,
        handler: &Handler,
        digest: &Digest,
    ) -> Result<bool, BrokerError> {
        let failed = |source| {
            self.failed(format!("allow a version of handler `{}` again", handler.name), source)
        };
        let mut deleting = redis::cmd("HDEL");
        deleting.arg(key(handler)).arg(digest.to_string());
        let answer = self.link.query(&deleting).await.map_err(failed)?;
        Ok(answer == Value::Int(1))
    }

    /// The versions of a handler's plugin that were taken back.
    ///
    /// # Errors
    ///
    /// When Redis does not answer.
    pub async fn rolled_back(
        &self,
        handler: &Handler,
    ) -> Result<BTreeMap<Digest, RolledBack>, BrokerError> {
        let failed = |source| {
            let purpose = format!("ask which versions of handler `{}` are refused", handler.name);
            self.failed(purpose, source)
        };
        // Nearly always there is none, and these are rights that a host has anyway.
        let key = key(handler);
        let names = self.link.query(redis::cmd("HKEYS").arg(&key)).await.map_err(failed)?;
        let names: Vec<String> =
            redis::from_redis_value(names).map_err(|error| failed(error.into()))?;
        let mut rolled_back = BTreeMap::new();
        for name in names {
            let Some(digest) = Digest::parse(&name) else { continue };
            let told = self.link.query(redis::cmd("HGET").arg(&key).arg(&name)).await;
            // Otherwise it was allowed again meanwhile.
            if let Value::BulkString(told) = told.map_err(failed)? {
                // What somebody else wrote there, whatever it is, refuses all the same.
                rolled_back.insert(digest, serde_json::from_slice(&told).unwrap_or_default());
            }
        }
        Ok(rolled_back)
    }
}

/// One for all shards of a stream.
fn key(handler: &Handler) -> String {
    Keys::new(handler.named_stream(), &handler.group).refused
}
