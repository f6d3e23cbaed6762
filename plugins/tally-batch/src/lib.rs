//! The benchmark's work, many messages a call: reads the payment in the field
//! `data` of each, checks it, and writes nothing.
//!
//! A bad message is rejected at its own index; those beside it are none the worse.

use exports::tidegate::plugin::batch_handler::Guest;
use tidegate::plugin::types::{Failure, Message, Output};

wit_bindgen::generate!({ path: "../../wit", world: "batch-plugin" });

struct TallyBatch;
export!(TallyBatch);

impl Guest for TallyBatch {
    fn handle_batch(messages: Vec<Message>) -> Vec<Result<Vec<Output>, Failure>> {
        messages.iter().map(tally).collect()
    }
}

fn tally(message: &Message) -> Result<Vec<Output>, Failure> {
    let data = message.fields.iter().find(|field| field.name == "data");
    let checked = match data {
        Some(field) => tally_work::tally(&field.value).map(|_| Vec::new()),
        None => Err("the message has no field `data`".into()),
    };
    checked.map_err(Failure::Reject)
}
