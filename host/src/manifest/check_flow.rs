//! The rules of how messages flow to a handler, and of the keys that a channel has no use for.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::check::{A_WHILE, given};
use super::flow::{Circuit, Dedupe, Durability, Order, Rate, Supply, Trim};
use super::handler::Start;
use super::raw::RawHandler;
use super::raw_tables::{RawCircuit, RawDedupe};
use super::reader::Reader;
use super::section::Entry;

/// Each shard costs every host a question a second, and its owner a connection.
const SHARDS_MAX: u32 = 1024;

/// More than a million a second is no bound.
const RATE_MAX: u32 = 1_000_000;

/// A tenth of a second's worth may go at once unless the manifest says otherwise.
const BURST: Duration = Duration::from_millis(100);

const WINDOW: Duration = Duration::from_secs(3600);
/// What is remembered costs memory; no longer than a stream is likely to be kept.
const WINDOW_BOUNDS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);

const FAILURES: u32 = 10;
const FAILURES_MAX: u32 = 1_000_000;
const PAUSE: Duration = Duration::from_secs(30);

/// What a manifest says of the flow of messages to a handler.
pub(super) struct Flow {
    pub(super) supply: Supply,
    pub(super) after_loss: Start,
    pub(super) order: Option<Order>,
    pub(super) dedupe: Option<Dedupe>,
    pub(super) rate: Option<Rate>,
    pub(super) circuit: Option<Circuit>,
    pub(super) trim: Trim,
    pub(super) durability: Durability,
}

pub(super) fn flow(
    raw: &RawHandler<'_>,
    start: Option<Start>,
    reader: &mut Reader<'_>,
) -> Option<Flow> {
    let supply = supply(raw, reader);
    let after_loss = given(&raw.after_loss, Some(Start::Beginning), |entry| {
        let what = "\"0\" for all that is retained or \"start\" for what `start` says";
        reader.choice(entry, what, &[("0", Some(Start::Beginning)), ("start", start)])
    });
    let order = order(raw, reader);
    let dedupe = raw.dedupe.as_ref().map_or(Some(None), |raw| dedupe(raw, reader).map(Some));
    let rate = rate(raw, reader);
    let circuit = raw.circuit.as_ref().map_or(Some(None), |raw| circuit(raw, reader).map(Some));
    let trim = given(&raw.trim, Trim::Never, |entry| {
        let words = [("never", Trim::Never), ("handled", Trim::Handled)];
        reader.choice(entry, "\"never\" or \"handled\"", &words)
    });
    let durability = given(&raw.durability, Durability::None, |entry| durability(entry, reader));
    Some(Flow {
        supply: supply?,
        after_loss: after_loss??,
        order: order?,
        dedupe: dedupe?,
        rate: rate?,
        circuit: circuit?,
        trim: trim?,
        durability: durability?,
    })
}

fn supply(raw: &RawHandler<'_>, reader: &mut Reader<'_>) -> Option<Supply> {
    let words = [("group", Supply::Group), ("broadcast", Supply::Broadcast)];
    let supply = given(&raw.delivery, Supply::Group, |entry| {
        reader.choice(entry, "\"group\" or \"broadcast\"", &words)
    });
    let Some(channel) = &raw.channel else { return supply };
    if raw.stream.is_some() {
        let why = "cannot stand beside `stream`; remove one of them";
        reader.problem(channel.key_at, &channel.path, why);
    }
    for (at, path) in for_streams(raw) {
        reader.problem(at, path, "has no meaning for a channel, which keeps nothing; remove it");
    }
    Some(Supply::Channel)
}

/// Where the keys are that only a stream has a use for.
fn for_streams<'a>(raw: &'a RawHandler<'_>) -> Vec<(usize, &'a str)> {
    let keys = [
        &raw.group,
        &raw.delivery,
        &raw.start,
        &raw.after_loss,
        &raw.order_by,
        &raw.shards,
        &raw.rate,
        &raw.burst,
        &raw.dead_letter,
        &raw.trim,
        &raw.durability,
    ];
    let keys = keys.into_iter().flatten().map(|entry| (entry.key_at, &*entry.path));
    let dedupe = raw.dedupe.as_ref().map(|dedupe| &dedupe.place);
    let circuit = raw.circuit.as_ref().map(|circuit| &circuit.place);
    let retry = raw.retry.as_ref().map(|retry| &retry.place);
    let tables = [dedupe, circuit, retry].into_iter().flatten();
    keys.chain(tables.map(|place| (place.at, &*place.path))).collect()
}

fn order(raw: &RawHandler<'_>, reader: &mut Reader<'_>) -> Option<Option<Order>> {
    let shards = given(&raw.shards, None, |entry| {
        reader.whole(entry, 1..=SHARDS_MAX).and_then(NonZeroU32::new).map(Some)
    });
    let Some(entry) = &raw.order_by else {
        if let Some(shards) = &raw.shards {
            let why = "needs `order-by`, the field that says which shard a message is in";
            reader.problem(shards.key_at, &shards.path, why);
        }
        return Some(None);
    };
    let field = reader.text(entry, "a field such as \"customer\"").map(Arc::from);
    if raw.delivery.as_ref().and_then(|entry| entry.value.as_str()) == Some("broadcast") {
        let why =
            "cannot stand beside `delivery = \"broadcast\"`, which every host reads on its own";
        reader.problem(entry.key_at, &entry.path, why);
    }
    Some(Some(Order { field: field?, shards: shards? }))
}

fn dedupe(raw: &RawDedupe<'_>, reader: &mut Reader<'_>) -> Option<Dedupe> {
    const WHAT: &str = "a field such as \"order-id\"";
    if raw.key.is_none() {
        reader.missing(&raw.place, "key", WHAT);
    }
    let key = raw.key.as_ref().and_then(|entry| reader.text(entry, WHAT)).map(Arc::from);
    let window = given(&raw.window, WINDOW, |entry| reader.duration(entry, WINDOW_BOUNDS));
    Some(Dedupe { key: key?, window: window? })
}

fn rate(raw: &RawHandler<'_>, reader: &mut Reader<'_>) -> Option<Option<Rate>> {
    let burst = given(&raw.burst, None, |entry| reader.whole(entry, 1..=RATE_MAX).map(Some));
    let Some(entry) = &raw.rate else {
        if let Some(burst) = &raw.burst {
            let why = "needs `rate`, the bound that it loosens";
            reader.problem(burst.key_at, &burst.path, why);
        }
        return Some(None);
    };
    const WHAT: &str = "a rate from \"1/h\" to \"1000000/s\", such as \"100/s\"";
    let text = reader.text(entry, WHAT)?;
    let Some((count, period)) = per_period(&text) else {
        reader.expected(entry, WHAT);
        return None;
    };
    let usual = f64::from(count.get()) * BURST.as_secs_f64() / period.as_secs_f64();
    let burst = NonZeroU32::new(burst?.unwrap_or(usual as u32)).unwrap_or(NonZeroU32::MIN);
    Some(Some(Rate { count, period, burst }))
}

/// How many, and in which time: `100/s`, `30/m` or `5/h`.
pub fn per_period(text: &str) -> Option<(NonZeroU32, Duration)> {
    let (count, unit) = text.split_once('/')?;
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let count = count.trim().parse().ok().filter(|count: &NonZeroU32| count.get() <= RATE_MAX)?;
    Some((count, Duration::from_secs(seconds)))
}

fn circuit(raw: &RawCircuit<'_>, reader: &mut Reader<'_>) -> Option<Circuit> {
    let failures = given(&raw.failures, FAILURES, |entry| reader.whole(entry, 1..=FAILURES_MAX));
    let pause = given(&raw.pause, PAUSE, |entry| reader.duration(entry, A_WHILE));
    Some(Circuit { failures: NonZeroU32::new(failures?)?, pause: pause? })
}

fn durability(entry: &Entry<'_>, reader: &mut Reader<'_>) -> Option<Durability> {
    let words =
        [("none", Durability::None), ("replica", Durability::Replica), ("aof", Durability::Aof)];
    reader.choice(entry, "\"none\", \"replica\" or \"aof\"", &words)
}
