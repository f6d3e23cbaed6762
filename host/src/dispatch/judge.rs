//! Whether a handler may have what it asks for. Pure.

use crate::broker::{DELAY_MAX, ENTRY_FIELDS_MAX};
use crate::manifest::{Handler, Sharding, Supply};
use crate::outcome::{Entry, Fault, FaultKind, Outcome, Output};

/// In seconds.
const DAY: u64 = 24 * 3600;

/// The outcome, unless it asks for an output that the grants do not name: then a fault.
pub(crate) fn judge(outcome: Outcome, handler: &Handler) -> Outcome {
    let Outcome::Done(outputs) = &outcome else { return outcome };
    let excess = || outputs.iter().find_map(excess).map(|why| (FaultKind::Limit, why));
    let objection = outputs.iter().find_map(|output| objection(output, handler));
    match objection.map(|why| (FaultKind::Denied, why)).or_else(excess) {
        Some((kind, detail)) => Outcome::Fault(Fault::new(kind, detail)),
        None => outcome,
    }
}

/// What is wrong with an output that no grant could allow.
fn excess(output: &Output) -> Option<String> {
    match output {
        Output::Append(Entry { fields, stream, .. }) if fields.len() > ENTRY_FIELDS_MAX => {
            let (count, stream) = (fields.len(), shown(stream));
            Some(format!(
                "an entry of {count} fields for stream `{stream}`, more than the {ENTRY_FIELDS_MAX} that can be \
                 written together with an acknowledgement"
            ))
        }
        Output::Append(Entry { delay: Some(delay), stream, .. }) if *delay > DELAY_MAX => {
            let (days, most) = (delay.as_secs() / DAY, DELAY_MAX.as_secs() / DAY);
            let stream = shown(stream);
            Some(format!(
                "an entry for stream `{stream}` with a delay of {days} days, more than {most}; \
                 `delay-ms` is in milliseconds"
            ))
        }
        Output::Append(_) | Output::Publish(_) => None,
    }
}

/// A name that a plugin made up, short enough for a sentence and without what acts on a screen.
fn shown(name: &str) -> impl std::fmt::Display {
    const CHARS_MAX: usize = 120;
    let mut shown: String = name.chars().take(CHARS_MAX).flat_map(char::escape_debug).collect();
    if name.chars().nth(CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// The outcome, each output for a stream that is made of several going to one of those; a fault
/// where it is for one that would be, and is not.
pub(super) fn route(outcome: Outcome, sharded: &[Sharding]) -> Outcome {
    let Outcome::Done(mut outputs) = outcome else { return outcome };
    if !sharded.is_empty() {
        for output in &mut outputs {
            match output {
                Output::Append(entry) => {
                    let objection =
                        sharded.iter().find_map(|sharding| sharding.objection(&entry.stream));
                    if let Some(why) = objection {
                        return Outcome::Fault(Fault::new(FaultKind::Denied, why));
                    }
                    let whole = sharded.iter().find(|sharding| *sharding.stream == *entry.stream);
                    if let Some(sharding) = whole {
                        entry.stream = sharding.of(&entry.fields);
                    }
                }
                Output::Publish(_) => {}
            }
        }
    }
    Outcome::Done(outputs)
}

fn objection(output: &Output, handler: &Handler) -> Option<String> {
    let Handler { stream, grants, .. } = handler;
    let listens = handler.supply == Supply::Channel;
    match output {
        Output::Append(entry) if !listens && handler.is_fed_by(&entry.stream) => Some(format!(
            "an entry for `{}`, the handler's own stream, which it would feed for ever",
            shown(&entry.stream)
        )),
        Output::Publish(notice) if listens && *notice.channel == **stream => Some(format!(
            "a notice on channel `{stream}`, the handler's own, which it would feed for ever"
        )),
        Output::Append(entry) if !grants.outputs.allows(&entry.stream) => Some(format!(
            "an entry for stream `{0}`, which `outputs` does not grant; add \"{0}\" to it if it should",
            shown(&entry.stream)
        )),
        Output::Append(entry) if entry.fields.is_empty() => Some(format!(
            "an entry without fields for stream `{}`, which Redis has no place for",
            shown(&entry.stream)
        )),
        Output::Publish(notice) if !grants.channels.allows(&notice.channel) => Some(format!(
            "a notice on channel `{0}`, which `channels` does not grant; add \"{0}\" to it if it should",
            shown(&notice.channel)
        )),
        Output::Append(_) | Output::Publish(_) => None,
    }
}
