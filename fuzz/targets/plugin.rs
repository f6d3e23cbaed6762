//! Any bytes are a plugin or are refused; text is assembled first, as such seeds go further.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tidegate::sandbox::{Capacity, Sandbox};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| {
    let capacity = Capacity { instances: 1, memory: 16 << 20, stack: 1 << 20 };
    Sandbox::new(capacity).expect("the engine starts")
});

fuzz_target!(|bytes: &[u8]| {
    let Ok(bytes) = wat::parse_bytes(bytes) else { return };
    let _ = SANDBOX.load_bytes(Path::new("fuzzed.wasm"), &bytes);
});
