//! Does what the fields of a message tell it: the plugin that the tests drive.
//!
//! The instructions are listed in `probe-script`.

use exports::tidegate::plugin::handler::Guest;
use probe_script::{Failure, Message, Output};

wit_bindgen::generate!({
    path: "../../wit",
    world: "plugin",
    with: { "tidegate:plugin/types@0.1.0": probe_script::tidegate::plugin::types },
});

struct Probe;
export!(Probe);

impl Guest for Probe {
    fn handle(message: Message) -> Result<Vec<Output>, Failure> {
        probe_script::obey(&message)
    }
}
