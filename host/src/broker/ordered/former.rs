//! What became of those who owned the stream before: whether they live, died, or may have died.
//!
//! Losing a lease is no death: one that stood still or was cut off lives on, and one that gives
//! a tenure up says so. Who cannot be told from a dead host is taken for one only as far as that
//! does no harm; more is known once its sign of life is renewed, or has ended.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use redis::{RedisResult, Value};
use tokio::time::Instant;

use crate::broker::feed::ReadError;
use crate::broker::keys::Keys;
use crate::broker::post::Post;
use crate::broker::presence::{self, LIFETIME};
use crate::broker::reply;
use crate::broker::tenure::Tenant;

/// Without a sign for this long, a host is dead: after an outage, which signs may not have
/// outlived, a live one has shown itself again by then.
const SILENCE: Duration = presence::EVERY.saturating_add(Duration::from_secs(2));

/// The tenures of one stream before this one.
pub(in crate::broker) struct Former {
    post: Arc<Post>,
    /// The keys that hosts show themselves by.
    signs: Keys,
    /// What is in this host's own sign.
    token: String,
    since: Instant,
    /// Those that were not given up.
    noted: Vec<String>,
    /// Those of them that may have ended with their hosts.
    suspicious: BTreeMap<String, Fate>,
    silent: HashMap<String, Instant>,
}

/// What is known of a host that may be dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Died,
    Unknown,
}

/// Whether it is known otherwise than before what became of any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    Some,
    None,
}

impl Former {
    /// For a tenure that has just begun.
    pub(in crate::broker) fn new(post: Arc<Post>, signs: Keys, token: &str) -> Self {
        let (token, since) = (token.to_owned(), Instant::now());
        let (noted, suspicious, silent) = (Vec::new(), BTreeMap::new(), HashMap::new());
        Self { post, signs, token, since, noted, suspicious, silent }
    }

    /// Those whose hosts died.
    pub(super) fn dead(&self) -> Vec<&str> {
        self.of(Fate::Died)
    }

    /// Those whose hosts may have died.
    pub(super) fn doubtful(&self) -> Vec<&str> {
        self.of(Fate::Unknown)
    }

    /// All that were not given up.
    pub(super) fn noted(&self) -> &[String] {
        &self.noted
    }

    fn of(&self, wanted: Fate) -> Vec<&str> {
        let suspicious = self.suspicious.iter();
        suspicious.filter(|(_, fate)| **fate == wanted).map(|(name, _)| &**name).collect()
    }

    /// Looks at all of them once more.
    pub(super) async fn look(&mut self) -> Result<News, ReadError> {
        let asking = redis::cmd("HGETALL").arg(&self.post.keys.tenures).to_owned();
        let noted = reply::pairs("HGETALL", self.post.link.query(&asking).await?)?;
        let me = self.post.consumer.now();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let noted = noted.iter().map(|field| (text(&field.name), &field.value));
        let (names, tenants): (Vec<_>, Vec<_>) = noted.filter(|(name, _)| **name != *me).unzip();
        let mut asking = redis::pipe();
        for name in &names {
            let live = self.signs.live(name.rsplit_once('#').map_or(&**name, |(host, _)| host));
            asking.cmd("GET").arg(&live).cmd("PTTL").arg(&live);
        }
        let mut signs = Vec::new();
        if !asking.is_empty() {
            signs = self.post.link.pipeline(asking.ignore_errors()).await?;
        }
        let signs: Vec<Value> = signs.into_iter().collect::<RedisResult<_>>()?;
        let before = std::mem::take(&mut self.suspicious);
        for ((name, tenant), sign) in names.iter().zip(tenants).zip(signs.chunks_exact(2)) {
            // What no host has written is nobody's.
            let Ok(tenant) = serde_json::from_slice::<Tenant>(tenant) else { continue };
            if let Some(fate) = self.fate(name, &tenant, sign) {
                self.suspicious.insert(name.clone(), fate);
            }
        }
        self.silent.retain(|name, _| names.contains(name));
        self.noted = names;
        Ok(if before == self.suspicious { News::None } else { News::Some })
    }

    /// What became of one, by its sign of life and how long that still lasts; none if it lives.
    fn fate(&mut self, name: &str, tenant: &Tenant, sign: &[Value]) -> Option<Fate> {
        if tenant.token == self.token || tenant.process.is_there() {
            return None;
        }
        if tenant.process.is_gone() {
            return Some(Fate::Died);
        }
        let [told, Value::Int(left)] = sign else { return Some(Fate::Unknown) };
        if presence::sign(told).is_none_or(|sign| sign.token != tenant.token) {
            let silent = self.silent.entry(name.to_owned()).or_insert_with(Instant::now);
            let died = silent.elapsed() >= SILENCE;
            return Some(if died { Fate::Died } else { Fate::Unknown });
        }
        self.silent.remove(name);
        let left = Duration::from_millis(u64::try_from(*left).unwrap_or_default());
        // Shown since this tenure began, and so behind the end of its own.
        let lives = LIFETIME.saturating_sub(left) < self.since.elapsed();
        (!lives).then_some(Fate::Unknown)
    }
}
