//! Does what the fields of each message tell it, and answers each at its own index.
//!
//! The instructions are listed in `probe-script`. One that ends the instance,
//! such as `trap`, ends the call for every message of the batch.

use exports::tidegate::plugin::batch_handler::Guest;
use probe_script::{Failure, Message, Output};

wit_bindgen::generate!({
    path: "../../wit",
    world: "batch-plugin",
    with: { "tidegate:plugin/types@0.1.0": probe_script::tidegate::plugin::types },
});

struct ProbeBatch;
export!(ProbeBatch);

impl Guest for ProbeBatch {
    fn handle_batch(messages: Vec<Message>) -> Vec<Result<Vec<Output>, Failure>> {
        messages.iter().map(probe_script::obey).collect()
    }
}
