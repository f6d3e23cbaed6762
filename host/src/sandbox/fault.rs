//! From the engine's errors to a fault: which limit was met, and a sentence for a person.

use std::time::Duration;

use bytesize::ByteSize;
use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::guest::Guest;
use super::plain::{plain, plain_lines};
use crate::outcome::{Fault, FaultKind};

/// What the engine says when more is handed to the host than the store allows.
/// The error itself is private to it; the tests would tell if the words changed.
const TOO_MUCH: &str = "too much data is being copied between the host and the guest";

/// Bytes of the engine's words that go into a sentence.
const WORDS_MAX: usize = 300;

/// The error that stops a guest whose time is up.
#[derive(Debug, thiserror::Error)]
#[error("ran past its deadline")]
pub(super) struct Overdue;

/// The error that stops a guest which goes past a limit, in a sentence for a person.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct PastLimit(pub(super) String);

/// The fault of a guest that did not answer in time.
pub(super) fn timeout(timeout: Duration) -> Fault {
    let timeout = humantime::format_duration(timeout);
    Fault::new(FaultKind::Timeout, format!("ran past its timeout of {timeout}"))
}

/// The fault of a guest that got no place to run in.
pub(super) fn crowded(timeout: Duration) -> Fault {
    let timeout = humantime::format_duration(timeout);
    Fault::new(FaultKind::Limit, format!("no instance could be started within {timeout}"))
}

/// The fault of a message for which none of the handler's own instances was free.
pub(super) fn queued(instances: usize, wait: Duration) -> Fault {
    let wait = humantime::format_duration(wait);
    let detail = format!("none of the handler's {instances} instances was free within {wait}");
    Fault::new(FaultKind::Limit, detail)
}

/// What an error that ended a call says of the guest.
pub(super) fn of(error: &wasmtime::Error, guest: &Guest, limit: Duration) -> Fault {
    let mut fault = classify(error, guest, limit);
    // Functions have the names that a guest gives them.
    let trace = error.downcast_ref::<WasmBacktrace>();
    fault.backtrace = trace.map(|trace| plain_lines(&trace.to_string()));
    fault
}

fn classify(error: &wasmtime::Error, guest: &Guest, limit: Duration) -> Fault {
    if error.is::<Overdue>() {
        return timeout(limit);
    }
    if let Some(PastLimit(detail)) = error.downcast_ref() {
        return Fault::new(FaultKind::Limit, detail);
    }
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        let detail = format!("exited with status {} instead of answering", exit.0);
        return Fault::new(FaultKind::Trap, with_last_words(detail, guest));
    }
    if guest.meter.refused() {
        let memory = ByteSize(guest.meter.limit()).display().iec();
        let detail = format!("needed more than its memory of {memory}");
        return Fault::new(FaultKind::Memory, with_last_words(detail, guest));
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return Fault::new(FaultKind::Trap, with_last_words(trapped(*trap), guest));
    }
    if error.is::<PoolConcurrencyLimitError>() {
        return Fault::new(FaultKind::Limit, "no room is left for another instance");
    }
    let words = error.root_cause().to_string();
    if words.starts_with(TOO_MUCH) {
        return Fault::new(FaultKind::Limit, too_much(error, guest));
    }
    let words = plain(&words[..words.floor_char_boundary(WORDS_MAX)]);
    Fault::new(FaultKind::Trap, format!("broke the contract: {words}"))
}

/// Where the guest was calling the host, rather than answering it, there is a trace of that.
fn too_much(error: &wasmtime::Error, guest: &Guest) -> &'static str {
    match (error.is::<WasmBacktrace>(), &guest.keyspace) {
        (false, _) => "answered with more than its limit on outputs allows",
        (true, None) => "handed more to the host at once than its limits allow",
        (true, Some(_)) => {
            "handed more to the host at once than its limits allow, such as `limits.keyvalue-bytes`"
        }
    }
}

fn trapped(trap: Trap) -> String {
    if trap == Trap::StackOverflow {
        return "trapped: its calls nested too deep for its stack".to_owned();
    }
    let words = trap.to_string();
    format!("trapped: {}", words.strip_prefix("wasm trap: ").unwrap_or(&words))
}

fn with_last_words(detail: String, guest: &Guest) -> String {
    match guest.voice.last_words() {
        Some(words) => format!("{detail}; its last words: {words}"),
        None => detail,
    }
}
