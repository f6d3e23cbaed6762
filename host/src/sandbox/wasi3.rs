//! What a guest may import: the parts of WASI 0.3 that reach nothing outside of it.
//!
//! The same parts as of 0.2, and absent on purpose is the same.

use wasmtime_wasi::cli::{WasiCli, WasiCliView};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p3::bindings::{cli, clocks, filesystem, random};
use wasmtime_wasi::random::{WasiRandom, WasiRandomView};

use super::guest::Guest;
use super::offer::{Add, Offer};

/// What every guest may import, of every version 0.3 of WASI.
pub(super) const OFFERS: &[Offer] = &[
    always("wasi:clocks/types", |linker| {
        clocks::types::add_to_linker::<Guest, WasiClocks>(linker, Guest::clocks)
    }),
    always("wasi:clocks/monotonic-clock", |linker| {
        clocks::monotonic_clock::add_to_linker::<Guest, WasiClocks>(linker, Guest::clocks)
    }),
    always("wasi:clocks/system-clock", |linker| {
        clocks::system_clock::add_to_linker::<Guest, WasiClocks>(linker, Guest::clocks)
    }),
    always("wasi:random/random", |linker| {
        random::random::add_to_linker::<Guest, WasiRandom>(linker, Guest::random)
    }),
    always("wasi:random/insecure", |linker| {
        random::insecure::add_to_linker::<Guest, WasiRandom>(linker, Guest::random)
    }),
    always("wasi:random/insecure-seed", |linker| {
        random::insecure_seed::add_to_linker::<Guest, WasiRandom>(linker, Guest::random)
    }),
    // Names of errors, and nothing to link.
    always("wasi:cli/types", |_| Ok(())),
    always("wasi:cli/environment", |linker| {
        cli::environment::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)
    }),
    always("wasi:cli/exit", |linker| {
        cli::exit::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)
    }),
    always("wasi:cli/stdin", |linker| {
        cli::stdin::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)
    }),
    always("wasi:cli/stdout", |linker| {
        cli::stdout::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)
    }),
    always("wasi:cli/stderr", |linker| {
        cli::stderr::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)
    }),
    always("wasi:cli/terminal-input", |linker| {
        cli::terminal_input::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)
    }),
    always("wasi:cli/terminal-output", |linker| {
        cli::terminal_output::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)
    }),
    always("wasi:cli/terminal-stdin", |linker| {
        cli::terminal_stdin::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)
    }),
    always("wasi:cli/terminal-stdout", |linker| {
        cli::terminal_stdout::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)
    }),
    always("wasi:cli/terminal-stderr", |linker| {
        cli::terminal_stderr::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)
    }),
    always("wasi:filesystem/types", |linker| {
        filesystem::types::add_to_linker::<Guest, WasiFilesystem>(linker, Guest::filesystem)
    }),
    always("wasi:filesystem/preopens", |linker| {
        filesystem::preopens::add_to_linker::<Guest, WasiFilesystem>(linker, Guest::filesystem)
    }),
];

const fn always(interface: &'static str, add: Add) -> Offer {
    Offer { interface, version: "0.3.", grant: None, add }
}
