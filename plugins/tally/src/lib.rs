//! The benchmark's work, one message a call: reads the payment in the field
//! `data`, checks it, and writes nothing.

use exports::tidegate::plugin::handler::Guest;
use tidegate::plugin::types::{Failure, Message, Output};

wit_bindgen::generate!({ path: "../../wit", world: "plugin" });

struct Tally;
export!(Tally);

impl Guest for Tally {
    fn handle(message: Message) -> Result<Vec<Output>, Failure> {
        let data = message.fields.iter().find(|field| field.name == "data");
        let checked = match data {
            Some(field) => tally_work::tally(&field.value).map(|_| Vec::new()),
            None => Err("the message has no field `data`".into()),
        };
        checked.map_err(Failure::Reject)
    }
}
