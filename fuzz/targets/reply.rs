//! Any bytes from a server are a reply or an error, whoever reads them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tidegate::broker::read_any(bytes));
