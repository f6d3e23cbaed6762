//! One call of an async handler: the message it takes with it, and the function that takes it.
//!
//! Unlike elsewhere the message is not lent: nobody knows when the guest will fetch it.

use wasmtime::component::{
    Accessor, ComponentExportIndex, ComponentType, InstancePre, Lower, TypedFunc,
};
use wasmtime::{Error, Result, Store};

use crate::message::Delivery;
use crate::outcome::Fault;
use crate::sandbox::contract::{Answer, Parts, types};
use crate::sandbox::door::{ASYNC_HANDLER, VERSION};
use crate::sandbox::guest::Guest;

/// The contract's `message`, with bytes of its own.
#[derive(Debug, ComponentType, Lower)]
#[component(record)]
pub(in crate::sandbox) struct Letter {
    id: String,
    stream: String,
    attempt: u32,
    fields: Vec<Field>,
}

/// The contract's `field`.
#[derive(Debug, ComponentType, Lower)]
#[component(record)]
pub(in crate::sandbox) struct Field {
    name: String,
    value: Vec<u8>,
}

impl Letter {
    /// The message of a delivery.
    ///
    /// Fails as [`Parts::of`] does.
    pub(in crate::sandbox) fn of_delivery(delivery: &Delivery) -> std::result::Result<Self, Fault> {
        let deliveries = std::slice::from_ref(delivery);
        let parts = Parts::of(deliveries)?;
        let [message] = parts.messages(deliveries).try_into().expect("one message a delivery");
        Ok(Self::of(&message))
    }

    /// A copy of a message that is lent.
    pub(in crate::sandbox) fn of(message: &types::Message<'_>) -> Self {
        let field = |field: &types::FieldParam<'_>| Field {
            name: field.name.to_owned(),
            value: field.value.to_vec(),
        };
        Self {
            id: message.id.to_owned(),
            stream: message.stream.to_owned(),
            attempt: message.attempt,
            fields: message.fields.iter().map(field).collect(),
        }
    }
}

/// A component whose imports are linked, and where its function is.
#[derive(Clone)]
pub(in crate::sandbox) struct Unbound {
    pre: InstancePre<Guest>,
    function: ComponentExportIndex,
}

impl Unbound {
    pub(in crate::sandbox) fn new(pre: InstancePre<Guest>) -> Result<Self> {
        let component = pre.component();
        let name = format!("{ASYNC_HANDLER}@{VERSION}");
        let function = component
            .get_export_index(None, &name)
            .and_then(|handler| component.get_export_index(Some(&handler), "handle"))
            .ok_or_else(|| Error::msg(format!("{name} is missing")))?;
        Ok(Self { pre, function })
    }

    pub(in crate::sandbox) async fn bind(&self, store: &mut Store<Guest>) -> Result<Handle> {
        let instance = self.pre.instantiate_async(&mut *store).await?;
        instance.get_typed_func(&mut *store, self.function).map(Handle)
    }
}

/// The function of one instance.
pub(in crate::sandbox) struct Handle(TypedFunc<(Letter,), (Answer,)>);

impl Handle {
    /// Calls the guest beside the other calls of its instance.
    pub(super) async fn call(&self, guest: &Accessor<Guest>, letter: Letter) -> Result<Answer> {
        self.0.call_concurrent(guest, (letter,)).await.map(|(answer,)| answer)
    }

    /// Calls the guest in an instance that has no other calls.
    pub(in crate::sandbox) async fn call_alone(
        &self,
        store: &mut Store<Guest>,
        letter: Letter,
    ) -> Result<Answer> {
        store.run_concurrent(async |guest| self.call(guest, letter).await).await?
    }
}
