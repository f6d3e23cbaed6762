//! Any text is a fixture or is refused with a place; TOML and JSON alike.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| tidegate::rehearsal::read_any(text));
