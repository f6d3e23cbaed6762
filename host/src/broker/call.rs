//! The requests that settlements become, and how many of them one request carries.

use redis::Cmd;

use super::keys::WAITING;
use super::lanes::After;
use super::letter::{ADDED, Death, cut};
use super::post::Post;
use super::scripts::Lua;
use crate::message::{Attempt, Field, Message, Receipt};
use crate::outcome::{Entry, Notice, Output, Reason, Settlement};

/// One call of a script carries this many values at most: Lua's `unpack` and the
/// server's patience end somewhere above.
const SCRIPT_VALUES: usize = 4000;

/// An entry that is written in one step with something else has this many fields at most: Lua's `unpack` ends at 8000 values.
pub const ENTRY_FIELDS_MAX: usize = 3900;

/// One call of a script carries this many bytes at most, unless one entry has more.
const SCRIPT_BYTES: usize = 1 << 20;

/// A waiting entry remembers this much of its last error.
const ERROR_BYTES: usize = 500;

/// A delivery on its way to be settled.
pub(super) struct Item {
    pub message: Message,
    pub receipt: Receipt,
    pub settlement: Settlement,
    pub progress: Progress,
}

/// How far a settlement has come that one step cannot make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing is written yet.
    Due,
    /// Its dead letter is written, its acknowledgement is not.
    LetterWritten,
}

impl Item {
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

    fn outputs(&self) -> &[Output] {
        match &self.settlement {
            Settlement::Acknowledge(outputs) => outputs,
            Settlement::Skip | Settlement::Later { .. } | Settlement::Bury { .. } => &[],
        }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
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
        let fields = || self.entries().flat_map(|entry| &entry.fields);
        let bytes = fields().map(|field| field.name.len() + field.value.len()).sum();
        (2 + 2 * self.entries().count() + 2 * fields().count(), bytes)
    }
}

/// A request to Redis and the settlements it carries.
pub(super) struct Call {
    pub command: Cmd,
    pub kind: Kind,
    pub items: Vec<Item>,
}

/// How the answer to a call reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One number for all: how many were pending.
    Plain,
    /// A list, one status for each.
    Each,
    /// One status.
    One,
    /// The id of a dead letter whose message is still to be acknowledged.
    Letter,
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
                Settlement::Bury { .. } if item.progress == Progress::LetterWritten => {
                    scripted.push(item);
                }
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
        let mut command = redis::cmd("XACK");
        command.arg(&self.keys.stream).arg(&*self.handler.group);
        for item in &items {
            command.arg(item.receipt.id().to_string());
        }
        Call { command, kind: Kind::Plain, items }
    }

    fn write(&self, items: Vec<Item>) -> Call {
        let mut streams: Vec<&str> = Vec::new();
        let mut values = redis::cmd("");
        for item in &items {
            values.arg(item.receipt.id().to_string()).arg(item.entries().count());
            for entry in item.entries() {
                let index = streams.iter().position(|s| *s == entry.stream).unwrap_or_else(|| {
                    streams.push(&entry.stream);
                    streams.len() - 1
                });
                values.arg(index + 1);
                fields(values.arg(2 * entry.fields.len()), &entry.fields);
            }
        }
        let mut keys = vec![self.keys.stream.as_str(), self.keys.failures.as_str()];
        keys.extend(streams);
        let mut command = Lua::Settle.call(&keys);
        command.arg(&*self.handler.group).arg(&self.consumer);
        append(&mut command, &values);
        Call { command, kind: Kind::Each, items }
    }

    fn park(&self, items: Vec<Item>) -> Call {
        let keys = [&*self.keys.stream, &*self.keys.failures, &*self.keys.waiting];
        let mut command = Lua::Park.call(&keys);
        command.arg(&*self.handler.group).arg(&self.consumer).arg(WAITING);
        for item in &items {
            if let Settlement::Later { delay, error } = &item.settlement {
                command.arg(item.receipt.id().to_string()).arg(item.attempt().number());
                command.arg(delay.as_millis() as u64).arg(cut(error, ERROR_BYTES));
            }
        }
        Call { command, kind: Kind::Each, items }
    }

    fn bury(&self, item: Item) -> Call {
        let keys = [
            &*self.keys.stream,
            &*self.keys.failures,
            &*self.keys.waiting,
            &*self.handler.dead_letter,
        ];
        let mut command = Lua::Bury.call(&keys);
        command.arg(&*self.handler.group);
        if let Settlement::Bury { reason, .. } = &item.settlement {
            command.arg(self.holder(*reason)).arg(item.receipt.id().to_string());
        }
        self.letter(&mut command, &item);
        Call { command, kind: Kind::One, items: vec![item] }
    }

    /// Buries an entry in two steps: after a crash or a lost reply in between, its letter is written again.
    fn bury_long(&self, item: Item) -> Call {
        let mut command = redis::cmd("XADD");
        command.arg(&*self.handler.dead_letter).arg("*");
        self.letter(&mut command, &item);
        Call { command, kind: Kind::Letter, items: vec![item] }
    }

    fn letter(&self, command: &mut Cmd, item: &Item) {
        if let Settlement::Bury { reason, error } = &item.settlement {
            let (id, attempts) = (item.receipt.id(), item.attempt().number());
            let death = Death { id, attempts, reason: *reason, error };
            fields(command, &item.message.fields);
            fields(command, &self.epitaph(&death));
        }
    }

    /// Whether nothing but `XACK` is needed: no output to write or to publish, no failure to
    /// forget, and no order that a host whose tenure is over could break.
    fn is_plain(&self, item: &Item) -> bool {
        item.attempt() == Attempt::FIRST && item.outputs().is_empty() && self.lanes.is_none()
    }

    /// Who must hold an entry for it to be buried. A body that is gone is nobody's
    /// any more: whoever notices it buries it.
    fn holder(&self, reason: Reason) -> &str {
        if reason == Reason::Trimmed { "" } else { &self.consumer }
    }
}

fn fields(command: &mut Cmd, fields: &[Field]) {
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
