//! Any text is a manifest or is refused with its problems, which show no secret.
#![no_main]

use std::env::VarError;
use std::io;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use tidegate::manifest::{Environment, Manifest};

/// Stands for every secret that there is.
const SECRET: &str = "s3cr3t-Kq7";

struct Everywhere;

impl Environment for Everywhere {
    fn variable(&self, _: &str) -> Result<String, VarError> {
        Ok(SECRET.to_owned())
    }

    fn file(&self, _: &Path) -> io::Result<String> {
        Ok(SECRET.to_owned())
    }
}

fuzz_target!(|text: &str| {
    // What was typed may be shown; only what was looked up is to be kept.
    if text.contains(SECRET) {
        return;
    }
    if let Err(error) = Manifest::parse(text, Path::new("tidegate.toml"), &Everywhere) {
        let report = error.to_string();
        assert!(!report.contains(SECRET), "{report}");
    }
});
