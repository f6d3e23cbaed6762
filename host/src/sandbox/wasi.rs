//! What a guest may import: the parts of WASI 0.2 that reach nothing outside of it.
//!
//! Clocks, random numbers, standard streams, and a file system without any
//! directory, which the standard libraries of most languages import whether
//! they use it or not. What is absent is absent on purpose; `door` says so.

use wasmtime::component::{HasData, Linker, ResourceTable};
use wasmtime_wasi::cli::{WasiCli, WasiCliView};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::{cli, clocks, filesystem, io, random};
use wasmtime_wasi::random::{WasiRandom, WasiRandomView};

use super::engine::Engine;
use super::guest::Guest;

/// The interfaces that [`linker`] provides, of every version 0.2 of WASI.
pub(super) const OFFERED: [&str; 20] = [
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:clocks/wall-clock",
    "wasi:clocks/monotonic-clock",
    "wasi:random/random",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/stderr",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/terminal-stderr",
    "wasi:filesystem/types",
    "wasi:filesystem/preopens",
];

/// A linker that provides what is offered, and nothing else.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    io::error::add_to_linker::<Guest, Resources>(&mut linker, |guest| &mut guest.resources)?;
    io::poll::add_to_linker::<Guest, Resources>(&mut linker, |guest| &mut guest.resources)?;
    io::streams::add_to_linker::<Guest, Resources>(&mut linker, |guest| &mut guest.resources)?;
    clocks::wall_clock::add_to_linker::<Guest, WasiClocks>(&mut linker, Guest::clocks)?;
    clocks::monotonic_clock::add_to_linker::<Guest, WasiClocks>(&mut linker, Guest::clocks)?;
    random::random::add_to_linker::<Guest, WasiRandom>(&mut linker, Guest::random)?;
    random::insecure::add_to_linker::<Guest, WasiRandom>(&mut linker, Guest::random)?;
    random::insecure_seed::add_to_linker::<Guest, WasiRandom>(&mut linker, Guest::random)?;
    filesystem::types::add_to_linker::<Guest, WasiFilesystem>(&mut linker, Guest::filesystem)?;
    filesystem::preopens::add_to_linker::<Guest, WasiFilesystem>(&mut linker, Guest::filesystem)?;
    command_line(&mut linker)?;
    Ok(linker)
}

fn command_line(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    cli::environment::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)?;
    cli::exit::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)?;
    cli::stdin::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)?;
    cli::stdout::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)?;
    cli::stderr::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)?;
    cli::terminal_input::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)?;
    cli::terminal_output::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)?;
    cli::terminal_stdin::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)?;
    cli::terminal_stdout::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)?;
    cli::terminal_stderr::add_to_linker::<Guest, WasiCli>(linker, Guest::cli)
}

/// Tells the linker that streams and pollables live in the guest's table of resources.
struct Resources;

impl HasData for Resources {
    type Data<'a> = &'a mut ResourceTable;
}
