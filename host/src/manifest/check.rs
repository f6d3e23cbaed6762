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
use super::{AdminAddress, Cache, HostSettings, Manifest, check_redis};

/// From the smallest handler to a language's whole runtime with all of its libraries.
const PLUGIN_BYTES: RangeInclusive<u64> = 1 << 10..=1 << 30;

const COMPILE_TIME: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// Each instance has a stack of twice this, and of 1 MiB more than this at the least.
const STACK: RangeInclusive<u64> = 64 << 10..=8 << 20;

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
    let usual = HostSettings::default();
    let Some(raw) = raw else { return Some(usual) };
    let name = given(&raw.name, None, |entry| reader.text(entry, "a name").map(Some));
    let admin = given(&raw.admin, usual.admin, |entry| admin(entry, reader));
    let grace = given(&raw.grace, usual.grace, |entry| reader.duration(entry, A_WHILE));
    let cache = given(&raw.cache, usual.cache, |entry| match entry.value.as_str() {
        Some("off") => Some(Cache::Off),
        Some(_) | None => reader.path(entry, "a directory, or \"off\"").map(Cache::At),
    });
    let plugin_bytes = given(&raw.plugin_bytes, usual.plugin_bytes, |entry| {
        reader.size(entry, PLUGIN_BYTES, "a size from 1KiB to 1GiB")
    });
    let compile_time =
        given(&raw.compile_time, usual.compile_time, |entry| reader.duration(entry, COMPILE_TIME));
    let stack = given(&raw.stack, usual.stack, |entry| {
        reader.size(entry, STACK, "a size from 64KiB to 8MiB").map(|bytes| bytes as usize)
    });
    Some(HostSettings {
        name: name?,
        admin: admin?,
        grace: grace?,
        cache: cache?,
        plugin_bytes: plugin_bytes?,
        compile_time: compile_time?,
        stack: stack?,
    })
}

fn admin(entry: &Entry<'_>, reader: &mut Reader<'_>) -> Option<Option<AdminAddress>> {
    const WHAT: &str = "an address such as \"127.0.0.1:9464\", or \"off\"";
    let text = reader.text(entry, WHAT)?;
    if text == "off" {
        return Some(None);
    }
    let address = AdminAddress::parse(&text, reader.line(entry.at));
    if address.is_none() {
        reader.expected(entry, WHAT);
    }
    address.map(Some)
}

/// What was typed, or the default where nothing was.
pub(super) fn given<'t, T>(
    entry: &Option<Entry<'t>>,
    default: T,
    read: impl FnOnce(&Entry<'t>) -> Option<T>,
) -> Option<T> {
    entry.as_ref().map_or(Some(default), read)
}
