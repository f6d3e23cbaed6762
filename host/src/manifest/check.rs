//! From the file as typed to a manifest that can be run: the whole, and the host.
//!
//! A check answers `None` where it has reported a problem, and goes on to the
//! next: the rules between values are only asked where the values stand.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::check_handler::{self, Claims};
use super::raw::{RawHost, RawManifest};
use super::reader::Reader;
use super::section::Entry;
use super::{HostSettings, Manifest, check_redis};

/// How long a stop may take: as long as an unhurried orchestrator waits before it kills.
const GRACE: Duration = Duration::from_secs(30);

/// What a bound on work in hand may be. A timeout of no time would let nothing through, one
/// of many days bounds nothing.
pub(super) const A_WHILE: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(24 * 3600);

pub(super) fn manifest(
    raw: &RawManifest<'_>,
    path: &Path,
    reader: &mut Reader<'_>,
) -> Option<Manifest> {
    reader.unavailable(raw.service.as_ref());
    let redis = match &raw.redis {
        Some(redis) => check_redis::redis(redis, reader).map(Some),
        None => Some(None),
    };
    let host = host(raw.host.as_ref(), reader);
    let mut claims = Claims::default();
    let handlers: Vec<_> =
        raw.handlers.iter().map(|raw| check_handler::handler(raw, &mut claims, reader)).collect();
    let handlers = handlers.into_iter().collect::<Option<_>>()?;
    Some(Manifest { path: path.to_owned(), redis: redis?, host: host?, handlers })
}

fn host(raw: Option<&RawHost<'_>>, reader: &mut Reader<'_>) -> Option<HostSettings> {
    let Some(raw) = raw else {
        return Some(HostSettings { name: None, grace: GRACE });
    };
    reader.unavailable_but(raw.admin.as_ref(), "off");
    let name = given(&raw.name, None, |entry| reader.text(entry, "a name").map(Some));
    let grace = given(&raw.grace, GRACE, |entry| reader.duration(entry, A_WHILE));
    Some(HostSettings { name: name?, grace: grace? })
}

/// What was typed, or the default where nothing was.
pub(super) fn given<'t, T>(
    entry: &Option<Entry<'t>>,
    default: T,
    read: impl FnOnce(&Entry<'t>) -> Option<T>,
) -> Option<T> {
    entry.as_ref().map_or(Some(default), read)
}
