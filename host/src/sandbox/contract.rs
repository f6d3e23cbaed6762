//! The contract with plugins as Rust: `wit/plugin.wit`, and the way from our
//! words to its types and back.
//!
//! Messages are lent to the guest: their bytes are copied once, into its
//! memory. What it answers is copied once, out of it, and moved from then on.

use std::time::Duration;

use wasmtime::component::InstancePre;
use wasmtime::component::types::{Component, ComponentFunc};
use wasmtime::{Result, Store};

use super::concurrent::{Handle, Letter, Unbound};
use super::guest::Guest;
use super::plugin::World;
use super::runner::Limits;
use crate::message::{self, Delivery};
use crate::outcome::{Entry, Fault, FaultKind, Notice, Outcome, Output};

pub(super) use self::each::tidegate::plugin::types;

/// The world of one message a call.
mod each {
    #![allow(missing_docs, unreachable_pub)]
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "plugin",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// The world of many messages a call. Its types are those of [`each`].
mod batch {
    #![allow(missing_docs, unreachable_pub)]
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "batch-plugin",
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
        with: {
            "tidegate:plugin/types": super::each::tidegate::plugin::types,
            "tidegate:plugin/services": super::each::tidegate::plugin::services,
        },
    });
}

/// What a guest answers for one message.
pub(super) type Answer = std::result::Result<Vec<types::Output>, types::Failure>;

/// The function that a world's interface consists of.
pub(super) fn function(world: World) -> &'static str {
    match world {
        World::Plugin | World::Async => "handle",
        World::Batch => "handle-batch",
    }
}

/// Compares the types of a component's function with the contract's.
pub(super) fn compare(world: World, component: &Component, function: &ComponentFunc) -> Result<()> {
    let types = component.instance_type();
    match world {
        World::Plugin => function.typecheck::<(types::Message<'_>,), (Answer,)>(&types),
        World::Batch => function.typecheck::<(&[types::Message<'_>],), (Vec<Answer>,)>(&types),
        World::Async if !function.async_() => Err(wasmtime::Error::msg("it is not async")),
        World::Async => function.typecheck::<(Letter,), (Answer,)>(&types),
    }
}

/// A component whose imports are linked and whose exports are found: what is
/// left to do for each instance is as little as can be.
#[derive(Clone)]
pub(super) enum Ready {
    Each(each::PluginPre<Guest>),
    Batch(batch::BatchPluginPre<Guest>),
    Async(Unbound),
}

impl Ready {
    /// Finds the exports of a world, and compares their types with the contract's.
    pub(super) fn new(world: World, pre: InstancePre<Guest>) -> Result<Self> {
        match world {
            World::Plugin => each::PluginPre::new(pre).map(Self::Each),
            World::Batch => batch::BatchPluginPre::new(pre).map(Self::Batch),
            World::Async => Unbound::new(pre).map(Self::Async),
        }
    }

    pub(super) async fn instantiate(&self, store: &mut Store<Guest>) -> Result<Exports> {
        match self {
            Self::Each(pre) => pre.instantiate_async(store).await.map(Exports::Each),
            Self::Batch(pre) => pre.instantiate_async(store).await.map(Exports::Batch),
            Self::Async(unbound) => unbound.bind(store).await.map(Exports::Async),
        }
    }
}

/// The functions of one instance.
pub(super) enum Exports {
    Each(each::Plugin),
    Batch(batch::BatchPlugin),
    Async(Handle),
}

impl Exports {
    /// Calls the guest once for all of `messages`, or for a plugin of one
    /// message a call once for each of them, one after the other.
    pub(super) async fn call(
        &self,
        store: &mut Store<Guest>,
        messages: &[types::Message<'_>],
    ) -> Result<Vec<Answer>> {
        match self {
            Self::Batch(exports) => {
                let handler = exports.tidegate_plugin_batch_handler();
                handler.call_handle_batch(store, messages).await
            }
            Self::Each(exports) => {
                let handler = exports.tidegate_plugin_handler();
                let mut answers = Vec::with_capacity(messages.len());
                for message in messages {
                    // A clone of references: the bytes stay where they are.
                    let message = message.clone();
                    answers.push(handler.call_handle(&mut *store, message).await?);
                }
                Ok(answers)
            }
            Self::Async(handle) => {
                let mut answers = Vec::with_capacity(messages.len());
                for message in messages {
                    answers.push(handle.call_alone(store, Letter::of(message)).await?);
                }
                Ok(answers)
            }
        }
    }
}

/// The parts of messages that are lent to a guest and have to be put together first.
pub(super) struct Parts<'a> {
    ids: Vec<String>,
    fields: Vec<types::FieldParam<'a>>,
}

impl<'a> Parts<'a> {
    /// Gathers the fields of all deliveries in one list.
    ///
    /// Fails when a field's name is not UTF-8. No such message should have come this far.
    pub(super) fn of(deliveries: &'a [Delivery]) -> std::result::Result<Self, Fault> {
        let count = deliveries.iter().map(|delivery| delivery.message.fields.len()).sum();
        let mut fields = Vec::with_capacity(count);
        let mut ids = Vec::with_capacity(deliveries.len());
        for Delivery { message, .. } in deliveries {
            ids.push(message.id.to_string());
            for message::Field { name, value } in &message.fields {
                let name = std::str::from_utf8(name).map_err(|_| undecodable(name))?;
                fields.push(types::FieldParam { name, value });
            }
        }
        Ok(Self { ids, fields })
    }

    /// The messages as the contract has them.
    pub(super) fn messages(&'a self, deliveries: &'a [Delivery]) -> Vec<types::Message<'a>> {
        let mut rest = self.fields.as_slice();
        let message = |(delivery, id): (&'a Delivery, &'a String)| {
            let (fields, others) = rest.split_at(delivery.message.fields.len());
            rest = others;
            let attempt = delivery.attempt.number();
            types::Message { id, stream: &delivery.message.stream, attempt, fields }
        };
        deliveries.iter().zip(&self.ids).map(message).collect()
    }
}

fn undecodable(name: &[u8]) -> Fault {
    let name = String::from_utf8_lossy(name);
    Fault::new(FaultKind::Trap, format!("the message is undecodable: field {name:?} is not UTF-8"))
}

/// Bytes of a guest's reason that are kept, for the log and the dead letter; the rest of it is cut.
const REASON_MAX: usize = 4 << 10;

/// The longest that a guest may put off its message, as it is for entries with a delay.
const PAUSE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// What came of an answer, unless it asks for more than the handler's limits allow.
pub(super) fn outcome(answer: Answer, limits: &Limits) -> Outcome {
    match answer {
        Ok(outputs) => match excess(&outputs, limits) {
            None => Outcome::Done(outputs.into_iter().map(output).collect()),
            Some(detail) => Outcome::Fault(Fault::new(FaultKind::Limit, detail)),
        },
        Err(types::Failure::Retry(reason)) => Outcome::Retry { reason: cut(reason), delay: None },
        Err(types::Failure::RetryAfter(types::Pause { reason, delay_ms })) => {
            let delay = Duration::from_millis(delay_ms).min(PAUSE_MAX);
            Outcome::Retry { reason: cut(reason), delay: Some(delay) }
        }
        Err(types::Failure::Reject(reason)) => Outcome::Reject(cut(reason)),
    }
}

fn cut(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(REASON_MAX));
    reason.shrink_to_fit();
    reason
}

fn excess(outputs: &[types::Output], limits: &Limits) -> Option<String> {
    if outputs.len() > limits.further.outputs {
        let (count, limit) = (outputs.len(), limits.further.outputs);
        return Some(format!("answered with {count} outputs, more than the {limit} allowed"));
    }
    let bytes: usize = outputs.iter().map(size).sum();
    (bytes > limits.further.output_bytes).then(|| {
        let limit = limits.further.output_bytes;
        format!("answered with {bytes} bytes of outputs, more than the {limit} allowed")
    })
}

/// Bytes of names, values and payloads.
fn size(output: &types::Output) -> usize {
    match output {
        types::Output::Append(entry) => {
            let fields = entry.fields.iter().map(|field| field.name.len() + field.value.len());
            entry.stream.len() + fields.sum::<usize>()
        }
        types::Output::Publish(notice) => notice.channel.len() + notice.payload.len(),
    }
}

fn output(output: types::Output) -> Output {
    match output {
        types::Output::Append(entry) => Output::Append(Entry {
            stream: entry.stream,
            fields: entry.fields.into_iter().map(field).collect(),
            delay: entry.delay_ms.map(Duration::from_millis),
        }),
        types::Output::Publish(types::Notice { channel, payload }) => {
            Output::Publish(Notice { channel, payload })
        }
    }
}

fn field(field: types::FieldResult) -> message::Field {
    message::Field { name: field.name.into_bytes(), value: field.value }
}
