//! The rules of `[handler.NAME]`.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::outcome::RetryRule;

use super::check::{A_WHILE, given};
use super::check_flow::flow;
use super::check_grants::grants;
use super::check_limits::{digest, limits, rollout};
use super::handler::{Handler, Isolation, Match, Start};
use super::raw::RawHandler;
use super::raw_tables::RawRetry;
use super::reader::Reader;
use super::section::Entry;
use super::stream::{RESERVED, default_dead_letter};

const CONCURRENCY: u32 = 64;
/// Beyond this, messages wait for each other rather than for their handler.
const CONCURRENCY_MAX: u32 = 10_000;

const BATCH: u32 = 100;
/// What is gained by a larger batch was gained long before this one.
const BATCH_MAX: u32 = 1_000;

const TIMEOUT: Duration = Duration::from_secs(30);

const MIB: u64 = 1024 * 1024;
const MEMORY: u64 = 64 * MIB;
/// From what a small guest needs to all that 32-bit WebAssembly can address.
const MEMORY_BOUNDS: RangeInclusive<u64> = MIB..=4096 * MIB;

const RETRY: RetryRule =
    RetryRule { attempts: 5, first: Duration::from_secs(1), max: Duration::from_secs(300) };
const ATTEMPTS_MAX: u32 = 1_000_000;
/// A wait may be none at all, and no longer than a stream is likely to be kept.
const WAIT_BOUNDS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 24 * 3600);

/// Which handler reads which stream as which group, to find the second that would.
#[derive(Default)]
pub(super) struct Claims(HashMap<(Arc<str>, Arc<str>), Claim>);

struct Claim {
    path: String,
    line: usize,
}

pub(super) fn handler(
    raw: &RawHandler<'_>,
    claims: &mut Claims,
    reader: &mut Reader<'_>,
) -> Option<Handler> {
    reader.unavailable(raw.cache.as_ref());
    let name = name(raw, reader);
    let plugin = plugin(raw, reader);
    let digest = given(&raw.digest, None, |entry| digest(entry, reader).map(Some));
    let stream = source(raw, reader);
    let group = group(raw, reader);
    if raw.channel.is_none() {
        claims.add(raw, stream.as_ref(), group.as_ref(), reader);
    }
    let dead_letter = dead_letter(raw, stream.as_ref(), reader);
    let start = given(&raw.start, Start::Beginning, |entry| start(entry, reader));
    let flow = flow(raw, start, reader);
    let filter = given(&raw.filter, Match::default(), |entry| filter(entry, reader));
    let concurrency = count(&raw.concurrency, CONCURRENCY, CONCURRENCY_MAX, reader);
    let batch = count(&raw.batch, BATCH, BATCH_MAX, reader);
    let isolation = given(&raw.isolation, Isolation::Reuse, |entry| isolation(entry, reader));
    let timeout = given(&raw.timeout, TIMEOUT, |entry| reader.duration(entry, A_WHILE));
    let memory = memory(raw, reader);
    let limits = limits(raw.limits.as_ref(), reader);
    let rollout = raw.rollout.as_ref().map_or(Some(None), |raw| rollout(raw, reader).map(Some));
    let retry = raw.retry.as_ref().map_or(Some(RETRY), |raw| retry(raw, reader));
    // An entry on a stream of a channel's name does not come back on the channel.
    let own = stream.as_ref().filter(|_| raw.channel.is_none());
    let grants = grants(raw, own, reader);
    let flow = flow?;
    Some(Handler {
        name: name?,
        plugin: plugin?,
        digest: digest?,
        stream: stream?,
        group: group?,
        start: start?,
        supply: flow.supply,
        after_loss: flow.after_loss,
        order: flow.order,
        shard: None,
        dedupe: flow.dedupe,
        rate: flow.rate,
        circuit: flow.circuit,
        trim: flow.trim,
        durability: flow.durability,
        filter: filter?,
        concurrency: concurrency?,
        batch: batch?,
        isolation: isolation?,
        timeout: timeout?,
        memory: memory?,
        limits: limits?,
        rollout: rollout?,
        retry: retry?,
        dead_letter: dead_letter?,
        grants: grants?,
    })
}

fn name(raw: &RawHandler<'_>, reader: &mut Reader<'_>) -> Option<Arc<str>> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if raw.name.is_empty() || !raw.name.chars().all(fits) {
        let message = format!("expected a name of a-z, 0-9, - and _, found {:?}", raw.name);
        reader.problem(raw.place.at, &raw.place.path, message);
        return None;
    }
    Some(raw.name.into())
}

fn required<'a, 't>(
    raw: &RawHandler<'_>,
    entry: &'a Option<Entry<'t>>,
    key: &str,
    what: &str,
    reader: &mut Reader<'_>,
) -> Option<&'a Entry<'t>> {
    if entry.is_none() {
        reader.missing(&raw.place, key, what);
    }
    entry.as_ref()
}

fn plugin(raw: &RawHandler<'_>, reader: &mut Reader<'_>) -> Option<PathBuf> {
    const WHAT: &str = "a file such as \"plugins/charge.wasm\"";
    let entry = required(raw, &raw.plugin, "plugin", WHAT, reader)?;
    if entry.value.as_str().is_some_and(|plugin| plugin.contains("://")) {
        reader.refuse(
            entry,
            "plugins are files: fetching one from a registry is not available in this version; \
             fetch it when the image is built, and pin it by its `digest`",
        );
        return None;
    }
    reader.path(entry, WHAT)
}

fn group(raw: &RawHandler<'_>, reader: &mut Reader<'_>) -> Option<Arc<str>> {
    given(&raw.group, raw.name.into(), |entry| {
        reader.text(entry, "a group, or nothing for the handler's name").map(Arc::from)
    })
}

fn memory(raw: &RawHandler<'_>, reader: &mut Reader<'_>) -> Option<u64> {
    given(&raw.memory, MEMORY, |entry| {
        reader.size(entry, MEMORY_BOUNDS, "a size from 1MiB to 4GiB")
    })
}

/// The stream, or the channel instead of it.
fn source(raw: &RawHandler<'_>, reader: &mut Reader<'_>) -> Option<Arc<str>> {
    const WHAT: &str = "a stream such as \"orders\"";
    if let (Some(channel), None) = (&raw.channel, &raw.stream) {
        return reader.text(channel, "a channel such as \"news\" or \"news.*\"").map(Arc::from);
    }
    let entry = required(raw, &raw.stream, "stream", WHAT, reader)?;
    key(entry, WHAT, reader)
}

/// The name of a key that is the user's to choose.
pub(super) fn key(entry: &Entry<'_>, what: &str, reader: &mut Reader<'_>) -> Option<Arc<str>> {
    let name = reader.text(entry, what)?;
    if name.starts_with(RESERVED) {
        reader
            .refuse(entry, "names that begin with `tidegate:` belong to the host; choose another");
        return None;
    }
    Some(name.into())
}

impl Claims {
    fn add(
        &mut self,
        raw: &RawHandler<'_>,
        stream: Option<&Arc<str>>,
        group: Option<&Arc<str>>,
        reader: &mut Reader<'_>,
    ) {
        let (Some(stream), Some(group)) = (stream, group) else { return };
        let pair = (stream.clone(), group.clone());
        let Some(first) = self.0.get(&pair) else {
            let claim = Claim { path: raw.place.path.clone(), line: reader.line(raw.place.at) };
            self.0.insert(pair, claim);
            return;
        };
        let message = format!(
            "has the same stream and group as {} on line {}; give one of them another \
             `group`",
            first.path, first.line
        );
        match &raw.group {
            Some(group) => reader.refuse(group, message),
            None => reader.problem(raw.place.at, &raw.place.path, message),
        }
    }
}

fn dead_letter(
    raw: &RawHandler<'_>,
    stream: Option<&Arc<str>>,
    reader: &mut Reader<'_>,
) -> Option<Arc<str>> {
    let Some(entry) = &raw.dead_letter else {
        return stream.map(|stream| default_dead_letter(stream).into());
    };
    let dead_letter = key(entry, "a stream such as \"{orders}:dead\"", reader)?;
    if Some(&dead_letter) == stream {
        reader.refuse(
            entry,
            "this is the handler's own stream, which would bring every message it gives up back \
             to it; name another, or remove this for the default",
        );
        return None;
    }
    Some(dead_letter)
}

fn start(entry: &Entry<'_>, reader: &mut Reader<'_>) -> Option<Start> {
    let what = "\"0\" for all that is retained or \"$\" for only what is new";
    reader.choice(entry, what, &[("0", Start::Beginning), ("$", Start::New)])
}

fn isolation(entry: &Entry<'_>, reader: &mut Reader<'_>) -> Option<Isolation> {
    let words = [("reuse", Isolation::Reuse), ("message", Isolation::Message)];
    reader.choice(entry, "\"reuse\" or \"message\"", &words)
}

fn filter(entry: &Entry<'_>, reader: &mut Reader<'_>) -> Option<Match> {
    let what = "a table such as { name = \"order.created\" }";
    let fields = reader.section(entry, what)?.named();
    let fields: Vec<_> = fields
        .into_iter()
        .map(|(name, entry)| {
            let value = reader.text(&entry, "a string to compare with, not empty");
            named(name, &entry, "a field", reader).zip(value)
        })
        .collect();
    fields.into_iter().collect()
}

/// A name of the user's choice in a table.
pub(super) fn named(
    name: &str,
    entry: &Entry<'_>,
    what: &str,
    reader: &mut Reader<'_>,
) -> Option<String> {
    if name.is_empty() {
        reader.problem(
            entry.key_at,
            &entry.path,
            format!("expected the name of {what}, found \"\""),
        );
        return None;
    }
    Some(name.to_owned())
}

fn count(
    entry: &Option<Entry<'_>>,
    default: u32,
    most: u32,
    reader: &mut Reader<'_>,
) -> Option<NonZeroUsize> {
    let count = given(entry, default, |entry| reader.whole(entry, 1..=most))?;
    NonZeroUsize::new(count as usize)
}

fn retry(raw: &RawRetry<'_>, reader: &mut Reader<'_>) -> Option<RetryRule> {
    let attempts =
        given(&raw.attempts, RETRY.attempts, |entry| reader.whole(entry, 1..=ATTEMPTS_MAX));
    let first = given(&raw.first, RETRY.first, |entry| reader.duration(entry, WAIT_BOUNDS));
    let max = given(&raw.max, RETRY.max, |entry| reader.duration(entry, WAIT_BOUNDS));
    let (first, max) = (first?, max?);
    if first > max {
        match (&raw.first, &raw.max) {
            (Some(entry), _) => {
                reader.expected(
                    entry,
                    format_args!("no more than `max`, {}", wait(raw.max.as_ref(), max)),
                );
            }
            (None, Some(entry)) => {
                let first = wait(raw.first.as_ref(), first);
                reader.expected(entry, format_args!("no less than `first`, {first}"));
            }
            (None, None) => {}
        }
        return None;
    }
    Some(RetryRule { attempts: attempts?, first, max })
}

/// A wait in the words of the file, which are not to be shown interpolated.
fn wait(entry: Option<&Entry<'_>>, value: Duration) -> String {
    match entry.and_then(|entry| entry.value.as_str()) {
        Some(typed) => format!("here {typed:?}"),
        None => format!("by default \"{}\"", humantime::format_duration(value)),
    }
}
