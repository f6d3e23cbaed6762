//! The promises of this room, against the guests in `tests/hostile` and `tests/friendly`.

mod bounds;
mod corpus;
#[path = "../../../../tests/hostile/expected.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests of the whole host")]
mod expected;
mod compiled;
mod beside;
mod hostile;
mod instances;
mod refused;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Capacity, Limits, Plugin, Reach, Runner, Sandbox, SandboxError};
use crate::manifest::{self, Isolation};
use crate::message::{Attempt, Delivery, Field, Held, Message, MessageId};
use crate::outcome::{Fault, Notice, Outcome, Output};

/// The attempt at which friendly guests break, where they do.
const UNLUCKY: u32 = 13;

/// The attempt at which the counter takes sixteen more mebibytes.
const HUNGRY: u32 = 14;

fn sandbox() -> Sandbox {
    Sandbox::new(Capacity { instances: 8, memory: 64 << 20, stack: 1 << 20 }).unwrap()
}

fn guest(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests").join(name).with_extension("wat")
}

fn load(sandbox: &Sandbox, name: &str) -> Result<Plugin, SandboxError> {
    let bytes = wat::parse_file(guest(name)).unwrap();
    sandbox.load_bytes(Path::new(&format!("{name}.wasm")), &bytes)
}

fn limits() -> Limits {
    Limits {
        timeout: Duration::from_secs(5),
        memory: 64 << 20,
        isolation: Isolation::Reuse,
        concurrency: 8,
        further: manifest::Limits::default(),
    }
}

/// Limits of a guest that will run into its timeout.
fn hurried() -> Limits {
    Limits { timeout: Duration::from_millis(300), ..limits() }
}

fn runner(sandbox: &Sandbox, name: &str, limits: Limits) -> Runner {
    put_to_work(&load(sandbox, name).unwrap(), limits).unwrap()
}

fn put_to_work(plugin: &Plugin, limits: Limits) -> Result<Runner, SandboxError> {
    let runner = Runner::new(plugin, "test".into(), limits, Reach::default())?;
    runner.prove().map(|()| runner)
}

fn delivery(attempt: u32) -> Delivery {
    let id = MessageId { millis: 7, sequence: u64::from(attempt) };
    let attempt = Attempt::after_failures(attempt - 1);
    let fields = vec![Field::new("name", "value"), Field::new("name", [0xff, 0])];
    let message = Message { id, stream: "orders".into(), fields };
    Delivery { message, attempt, receipt: std::sync::Arc::new(Held::default()).issue(id, attempt) }
}

async fn run(runner: &Runner, attempt: u32) -> Outcome {
    let mut outcomes = runner.run(&[delivery(attempt)]).await;
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0)
}

fn fault(outcome: Outcome) -> Fault {
    let Outcome::Fault(fault) = outcome else { panic!("expected a fault, got {outcome:?}") };
    fault
}

/// The number in the payload of the one notice that a friendly guest answers with.
fn number(outcome: &Outcome) -> u32 {
    let Outcome::Done(outputs) = outcome else { panic!("expected outputs, got {outcome:?}") };
    let [Output::Publish(Notice { payload, .. })] = outputs.as_slice() else {
        panic!("expected one notice, got {outputs:?}")
    };
    u32::from_le_bytes(payload.as_slice().try_into().unwrap())
}
