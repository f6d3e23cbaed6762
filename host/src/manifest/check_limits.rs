//! The rules of what a handler allows its plugin, and of how new versions take over.

use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::check::{A_WHILE, given};
use super::digest::Digest;
use super::limits::{Limits, Rollout};
use super::raw_tables::{RawLimits, RawRollout};
use super::reader::Reader;
use super::section::Entry;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// More outputs than this for one message are a mistake.
const OUTPUTS_MAX: u32 = 1_000_000;
/// Redis takes the outputs of a message in one request.
const BYTES: RangeInclusive<u64> = KIB..=64 * MIB;
/// As many as a handler can have calls in flight.
const AT_A_TIME: RangeInclusive<u32> = 1..=10_000;
const LOG_LINES_MAX: u32 = 1_000_000;
const CALLS_MAX: u32 = 1_000_000_000;
const HTTP_BYTES: RangeInclusive<u64> = KIB..=1024 * MIB;

const PERIOD: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
const ROLLOUT_MESSAGES_MAX: u32 = 1_000_000;

pub(super) fn limits(raw: Option<&RawLimits<'_>>, reader: &mut Reader<'_>) -> Option<Limits> {
    let nothing = RawLimits::default();
    let raw = raw.unwrap_or(&nothing);
    let usual = Limits::default();
    let outputs = whole(&raw.outputs, usual.outputs, 1..=OUTPUTS_MAX, reader);
    let output_bytes = bytes(&raw.output_bytes, usual.output_bytes, reader);
    let log_lines =
        given(&raw.log_lines, usual.log_lines, |entry| reader.whole(entry, 1..=LOG_LINES_MAX));
    let log_bytes = bytes(&raw.log_bytes, usual.log_bytes as usize, reader);
    let instances = given(&raw.instances, usual.instances, |entry| {
        reader.whole(entry, AT_A_TIME).map(|count| NonZeroUsize::new(count as usize))
    });
    let calls = given(&raw.calls, usual.calls, |entry| reader.whole(entry, 1..=CALLS_MAX));
    let keyvalue_bytes = bytes(&raw.keyvalue_bytes, usual.keyvalue_bytes, reader);
    let keyvalue_calls = whole(&raw.keyvalue_calls, usual.keyvalue_calls, AT_A_TIME, reader);
    let http_timeout =
        given(&raw.http_timeout, usual.http_timeout, |entry| reader.duration(entry, A_WHILE));
    let http_bytes = given(&raw.http_bytes, usual.http_bytes, |entry| {
        reader.size(entry, HTTP_BYTES, "a size from 1KiB to 1GiB")
    });
    let http_calls = whole(&raw.http_calls, usual.http_calls, AT_A_TIME, reader);
    Some(Limits {
        outputs: outputs?,
        output_bytes: output_bytes?,
        log_lines: log_lines?,
        log_bytes: log_bytes? as u32,
        instances: instances?,
        calls: calls?,
        keyvalue_bytes: keyvalue_bytes?,
        keyvalue_calls: keyvalue_calls?,
        http_timeout: http_timeout?,
        http_bytes: http_bytes?,
        http_calls: http_calls?,
    })
}

fn whole(
    entry: &Option<Entry<'_>>,
    default: usize,
    bounds: RangeInclusive<u32>,
    reader: &mut Reader<'_>,
) -> Option<usize> {
    given(entry, default, |entry| reader.whole(entry, bounds).map(|count| count as usize))
}

fn bytes(entry: &Option<Entry<'_>>, default: usize, reader: &mut Reader<'_>) -> Option<usize> {
    given(entry, default, |entry| {
        reader.size(entry, BYTES, "a size from 1KiB to 64MiB").map(|bytes| bytes as usize)
    })
}

pub(super) fn rollout(raw: &RawRollout<'_>, reader: &mut Reader<'_>) -> Option<Rollout> {
    let usual = Rollout::default();
    let percent = given(&raw.share, usual.percent, |entry| percent(entry, reader));
    let period = given(&raw.period, usual.period, |entry| reader.duration(entry, PERIOD));
    let messages =
        given(&raw.messages, usual.messages, |entry| reader.whole(entry, 1..=ROLLOUT_MESSAGES_MAX));
    Some(Rollout { percent: percent?, period: period?, messages: messages? })
}

fn percent(entry: &Entry<'_>, reader: &mut Reader<'_>) -> Option<u8> {
    const WHAT: &str = "a share from \"1%\" to \"99%\"";
    let text = reader.text(entry, WHAT)?;
    let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
    let percent = percent.filter(|percent| (1..=99).contains(percent));
    if percent.is_none() {
        reader.expected(entry, WHAT);
    }
    percent
}

pub(super) fn digest(entry: &Entry<'_>, reader: &mut Reader<'_>) -> Option<Digest> {
    const WHAT: &str = "\"sha256:\" and 64 hexadecimal digits, as `tidegate check` prints them";
    let digest = Digest::parse(&reader.text(entry, WHAT)?);
    if digest.is_none() {
        reader.expected(entry, WHAT);
    }
    digest
}
