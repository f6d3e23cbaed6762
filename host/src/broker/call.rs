//! The requests that settlements become, and how many of them one request carries.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, RedisResult, Value};

use super::delay;
use super::keys::WAITING;
use super::lanes::After;
use super::letter::{ADDED, Death, cut};
use super::post::{Acknowledge, Post};
use super::scripts::Lua;
use super::trouble::Trouble;
use crate::manifest::Digest;
use crate::message::{Attempt, Field, Message, Receipt};
use crate::outcome::{Entry, Notice, Output, Reason, Settlement};

/// One call of a script carries this many values at most: Lua's `unpack` and the
/// server's patience end somewhere above.
pub(super) const SCRIPT_VALUES: usize = 4000;

/// An entry that is written in one step with something else has this many fields at most: Lua's `unpack` ends at 8000 values.
pub const ENTRY_FIELDS_MAX: usize = 3900;

/// One call of a script carries this many bytes at most, unless one entry has more.
pub(super) const SCRIPT_BYTES: usize = 1 << 20;

/// A waiting entry remembers this much of its last error.
const ERROR_BYTES: usize = 500;

/// A delivery on its way to be settled.
pub(super) struct Item {
    pub message: Message,
    pub receipt: Receipt,
    pub settlement: Settlement,
    /// The digest of the plugin that it was handled by; none where no plugin saw it.
    pub plugin: Option<Digest>,
    pub cost: Cost,
    pub progress: Progress,
    /// What it takes up while it waits to be written.
    pub bytes: u32,
}

/// How far a settlement has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing is written yet.
    Due,
    /// It was refused, and a person was told; nothing is written yet.
    Refused,
}

/// What a wait costs a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cost {
    /// One of its attempts: it failed.
    Attempt,
    /// Nothing: that it cannot be settled is not its fault.
    Nothing,
}

impl Item {
    pub(super) fn new(message: Message, receipt: Receipt, settlement: Settlement) -> Self {
        let (cost, progress) = (Cost::Attempt, Progress::Due);
        let plugin = None;
        let mut item = Self { message, receipt, settlement, plugin, cost, progress, bytes: 0 };
        let notices = item.notices().map(|notice| notice.payload.len()).sum::<usize>();
        let bytes = size(&item.message.fields) + item.weight().1 + notices;
        item.bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        item
    }

    /// Whether its dead letter has more fields than a script can hand to `XADD`.
    fn is_long(&self) -> bool {
        self.message.fields.len() + ADDED > ENTRY_FIELDS_MAX
    }

    pub(super) fn attempt(&self) -> Attempt {
        self.receipt.attempt()
    }

    /// What the settlement means for those that wait for the message.
    pub(super) fn after(&self) -> After {
        match &self.settlement {
            Settlement::Later { .. } => After::Again,
            Settlement::Acknowledge(_) | Settlement::Skip | Settlement::Bury { .. } => After::Next,
        }
    }

    /// The streams it writes to beside its own, each once, in order.
    pub(super) fn targets<'a>(&'a self, post: &'a Post) -> Vec<&'a str> {
        if let Settlement::Bury { .. } = self.settlement {
            return vec![&post.handler.dead_letter];
        }
        let mut streams: Vec<_> = self.entries().map(|entry| entry.stream.as_str()).collect();
        streams.sort_unstable();
        streams.dedup();
        streams
    }

    pub(super) fn outputs(&self) -> &[Output] {
        match &self.settlement {
            Settlement::Acknowledge(outputs) => outputs,
            Settlement::Skip | Settlement::Later { .. } | Settlement::Bury { .. } => &[],
        }
    }

    fn is_acknowledged(&self) -> bool {
        matches!(self.settlement, Settlement::Acknowledge(_))
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.outputs().iter().filter_map(|output| match output {
            Output::Append(entry) => Some(entry),
            Output::Publish(_) => None,
        })
    }

    pub(super) fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.outputs().iter().filter_map(|output| match output {
            Output::Append(_) => None,
            Output::Publish(notice) => Some(notice),
        })
    }

    /// How many values and bytes its outputs add to a call of a script.
    fn weight(&self) -> (usize, usize) {
        let fields = self.entries().map(|entry| entry.fields.len()).sum::<usize>();
        let bytes = self.entries().map(|entry| size(&entry.fields)).sum();
        (2 + 3 * self.entries().count() + 2 * fields, bytes)
    }
}

/// A request to Redis and the settlements it carries.
pub(super) struct Call {
    /// Sent together; the last one's answer counts.
    pub commands: Vec<Cmd>,
    pub kind: Kind,
    pub items: Vec<Item>,
}

impl Call {
    /// What it delays: for which streams, and for how long.
    pub(super) fn delays(&self) -> impl Iterator<Item = (&str, Duration)> {
        // A plain acknowledgement has no outputs to look through.
        let items = if self.kind == Kind::Each { &self.items[..] } else { &[] };
        items.iter().flat_map(Item::entries).filter_map(delay::asked)
    }
}

/// How the answer to a call reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One number for all: how many were pending (`XACK`).
    Counted,
    /// A list, for each whether it was pending (`XACKDEL`).
    Deleted,
    /// A list of a script, one status for each.
    Each,
    /// One status of a script.
    One,
    /// The answers of a transaction, a status the last.
    Transaction,
}

impl Kind {
    /// Whether a refusal is of the stream, or of a key beside it, having become another type. That is no
    /// fault of the message: its settlement waits until somebody mends it.
    ///
    /// Outputs of another type are told in an answer, a dead-letter stream only by the error.
    pub(super) fn is_of_own_keys(self, trouble: Trouble) -> bool {
        let writes_elsewhere = matches!(self, Self::One | Self::Transaction);
        trouble == Trouble::OddKey || (trouble == Trouble::WrongType && !writes_elsewhere)
    }
}

impl Call {
    /// Of the answers to its commands the one that counts: the last, or the first that is an error.
    pub(super) fn answer(&self, replies: Vec<RedisResult<Value>>) -> RedisResult<Value> {
        let mut last = Value::Nil;
        for reply in replies {
            last = reply?;
        }
        match (self.kind, last) {
            (Kind::Transaction, Value::Array(replies)) => {
                let mut status = Value::Nil;
                for reply in replies {
                    status = match reply {
                        Value::ServerError(error) => return Err(error.into()),
                        other => other,
                    };
                }
                Ok(status)
            }
            (_, answer) => Ok(answer),
        }
    }
}

impl Post {
    /// The requests that settle these items, each as full as it may be.
    pub(super) fn calls(&self, items: Vec<Item>) -> Vec<Call> {
        let mut plain = Vec::with_capacity(items.len());
        let (mut scripted, mut waits, mut burials) = (Vec::new(), Vec::new(), Vec::new());
        for item in items {
            match &item.settlement {
                Settlement::Acknowledge(_) | Settlement::Skip if self.is_plain(&item) => {
                    plain.push(item)
                }
                Settlement::Acknowledge(_) | Settlement::Skip => scripted.push(item),
                Settlement::Later { .. } => waits.push(item),
                Settlement::Bury { .. } => burials.push(item),
            }
        }
        let mut calls = Vec::new();
        calls.extend((!plain.is_empty()).then(|| self.acknowledge(plain)));
        calls.extend(chunks(scripted).map(|items| self.write(items)));
        calls.extend(chunks(waits).map(|items| self.park(items)));
        calls.extend(
            burials
                .into_iter()
                .map(|item| if item.is_long() { self.bury_long(item) } else { self.bury(item) }),
        );
        calls
    }

    fn acknowledge(&self, items: Vec<Item>) -> Call {
        let by = self.acknowledges_by();
        let mut command = redis::cmd(by.command());
        command.arg(&self.keys.stream).arg(&*self.handler.group);
        let kind = match by {
            Acknowledge::Only => Kind::Counted,
            Acknowledge::AndDelete => {
                command.arg("ACKED").arg("IDS").arg(items.len());
                Kind::Deleted
            }
        };
        for item in &items {
            command.arg(item.receipt.id().to_string());
        }
        Call { commands: vec![command], kind, items }
    }

    fn write(&self, items: Vec<Item>) -> Call {
        let mut written: Vec<Cow<'_, str>> = Vec::new();
        let mut memories: Vec<String> = Vec::new();
        let window = self.handler.dedupe.as_ref().map_or(0, |dedupe| dedupe.window.as_millis());
        let mut values = redis::cmd("");
        for item in &items {
            values.arg(item.receipt.id().to_string());
            if window > 0 {
                let memory = item.is_acknowledged().then(|| self.memory(&item.message)).flatten();
                let place = if memory.is_some() { memories.len() + 1 } else { 0 };
                memories.extend(memory);
                values.arg(place);
            }
            values.arg(item.entries().count());
            for entry in item.entries() {
                let (key, wait) = delay::place(entry);
                let index = written.iter().position(|known| *known == key).unwrap_or_else(|| {
                    written.push(key);
                    written.len() - 1
                });
                values.arg(index + 1).arg(wait);
                fields(values.arg(2 * entry.fields.len()), &entry.fields);
            }
        }
        let mut keys = vec![self.keys.stream.as_str(), self.keys.failures.as_str()];
        keys.extend(written.iter().map(|key| &**key));
        keys.extend(memories.iter().rev().map(String::as_str));
        let mut command = Lua::Settle.call(&keys);
        command.arg(&*self.handler.group).arg(&self.consumer);
        command.arg(self.acknowledges_by().command()).arg(window as u64);
        append(&mut command, &values);
        Call { commands: vec![command], kind: Kind::Each, items }
    }

    fn park(&self, items: Vec<Item>) -> Call {
        let keys = [&*self.keys.stream, &*self.keys.failures, &*self.keys.waiting];
        let mut command = Lua::Park.call(&keys);
        command.arg(&*self.handler.group).arg(&self.consumer).arg(WAITING);
        for item in &items {
            if let Settlement::Later { delay, error } = &item.settlement {
                let failures = match item.cost {
                    Cost::Attempt => item.attempt().number(),
                    Cost::Nothing => item.attempt().number() - 1,
                };
                command.arg(item.receipt.id().to_string()).arg(failures);
                command.arg(delay.as_millis() as u64).arg(cut(error, ERROR_BYTES));
            }
        }
        Call { commands: vec![command], kind: Kind::Each, items }
    }

    fn bury(&self, item: Item) -> Call {
        let mut command = Lua::Bury.call(&self.burial_keys());
        self.grave(&mut command, &item);
        self.letter(&mut command, &item);
        Call { commands: vec![command], kind: Kind::One, items: vec![item] }
    }

    /// Buries an entry whose letter is too long for a script: the letter is written, and a script
    /// acknowledges the entry or takes the letter back, in one transaction.
    fn bury_long(&self, item: Item) -> Call {
        let mut writing = redis::cmd("XADD");
        writing.arg(&*self.handler.dead_letter).arg("*");
        self.letter(&mut writing, &item);
        let mut sealing = Lua::Seal.spell_out(&self.burial_keys());
        self.grave(&mut sealing, &item);
        sealing.arg(ADDED);
        let commands = vec![redis::cmd("MULTI"), writing, sealing, redis::cmd("EXEC")];
        Call { commands, kind: Kind::Transaction, items: vec![item] }
    }

    fn burial_keys(&self) -> [&str; 4] {
        let keys = &self.keys;
        [&keys.stream, &keys.failures, &keys.waiting, &self.handler.dead_letter]
    }

    /// Which entry is buried: what bury.lua and seal.lua are told alike.
    fn grave(&self, command: &mut Cmd, item: &Item) {
        if let Settlement::Bury { reason, .. } = &item.settlement {
            command.arg(&*self.handler.group).arg(&*self.holder(*reason));
            command.arg(item.receipt.id().to_string()).arg(self.acknowledges_by().command());
        }
    }

    fn letter(&self, command: &mut Cmd, item: &Item) {
        if let Settlement::Bury { reason, error } = &item.settlement {
            let (id, attempts) = (item.receipt.id(), item.attempt().number());
            let death = Death { id, attempts, reason: *reason, error };
            fields(command, &item.message.fields);
            fields(command, &self.epitaph(item.plugin, &death));
        }
    }

    /// Whether nothing but `XACK` is needed: no output to write or to publish, no failure to
    /// forget, no value to remember, and no order that a host whose tenure is over could break.
    fn is_plain(&self, item: &Item) -> bool {
        let remembers = self.handler.dedupe.is_some() && item.is_acknowledged();
        let asks = remembers || self.lanes.is_some();
        item.attempt() == Attempt::FIRST && item.outputs().is_empty() && !asks
    }

    /// Who must hold an entry for it to be buried. A body that is gone is nobody's
    /// any more: whoever notices it buries it.
    fn holder(&self, reason: Reason) -> Arc<str> {
        if reason == Reason::Trimmed { "".into() } else { self.consumer.now() }
    }
}

fn size(fields: &[Field]) -> usize {
    fields.iter().map(|field| field.name.len() + field.value.len()).sum()
}

pub(super) fn fields(command: &mut Cmd, fields: &[Field]) {
    for field in fields {
        command.arg(&field.name).arg(&field.value);
    }
}

fn append(command: &mut Cmd, values: &Cmd) {
    for value in values.args_iter().skip(1) {
        if let redis::Arg::Simple(value) = value {
            command.arg(value);
        }
    }
}

/// Splits settlements into loads that one call of a script may carry.
fn chunks(items: Vec<Item>) -> impl Iterator<Item = Vec<Item>> {
    let mut items = items.into_iter().peekable();
    std::iter::from_fn(move || {
        let (mut values, mut bytes) = (0, 0);
        let mut chunk = Vec::new();
        while let Some(item) = items.next_if(|item| {
            let weight = item.weight();
            values += weight.0;
            bytes += weight.1;
            chunk.is_empty() || (values <= SCRIPT_VALUES && bytes <= SCRIPT_BYTES)
        }) {
            chunk.push(item);
        }
        (!chunk.is_empty()).then_some(chunk)
    })
}
