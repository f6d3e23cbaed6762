//! What a guest may import: the parts of WASI 0.2 that reach nothing outside of it.
//!
//! Clocks, random numbers, standard streams, a file system without any directory
//! and sockets of which none can be opened: the standard libraries of most languages, Python's
//! among them, import these whether they use them or not. What is absent is absent on purpose; `door` says so.

use wasmtime::component::{HasData, ResourceTable};
use wasmtime_wasi::cli::{WasiCli, WasiCliView};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::{cli, clocks, filesystem, io, random, sockets};
use wasmtime_wasi::random::{WasiRandom, WasiRandomView};
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView};

use super::guest::Guest;
use super::offer::{Add, Offer};

/// What every guest may import, of every version 0.2 of WASI.
pub(super) const OFFERS: &[Offer] = &[
    always("wasi:io/error", |linker| {
        io::error::add_to_linker::<Guest, Resources>(linker, Guest::resources)
    }),
    always("wasi:io/poll", |linker| {
        io::poll::add_to_linker::<Guest, Resources>(linker, Guest::resources)
    }),
    always("wasi:io/streams", |linker| {
        io::streams::add_to_linker::<Guest, Resources>(linker, Guest::resources)
    }),
    always("wasi:clocks/wall-clock", |linker| {
        clocks::wall_clock::add_to_linker::<Guest, WasiClocks>(linker, Guest::clocks)
    }),
    always("wasi:clocks/monotonic-clock", |linker| {
        clocks::monotonic_clock::add_to_linker::<Guest, WasiClocks>(linker, Guest::clocks)
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
    always("wasi:sockets/instance-network", |linker| {
        sockets::instance_network::add_to_linker::<Guest, WasiSockets>(linker, Guest::sockets)
    }),
    always("wasi:sockets/tcp", |linker| {
        sockets::tcp::add_to_linker::<Guest, WasiSockets>(linker, Guest::sockets)
    }),
    always("wasi:sockets/tcp-create-socket", |linker| {
        sockets::tcp_create_socket::add_to_linker::<Guest, WasiSockets>(linker, Guest::sockets)
    }),
    always("wasi:sockets/udp", |linker| {
        sockets::udp::add_to_linker::<Guest, WasiSockets>(linker, Guest::sockets)
    }),
    always("wasi:sockets/udp-create-socket", |linker| {
        sockets::udp_create_socket::add_to_linker::<Guest, WasiSockets>(linker, Guest::sockets)
    }),
    always("wasi:sockets/ip-name-lookup", |linker| {
        sockets::ip_name_lookup::add_to_linker::<Guest, WasiSockets>(linker, Guest::sockets)
    }),
    always("wasi:sockets/network", |linker| {
        let options = sockets::network::LinkOptions::default();
        sockets::network::add_to_linker::<Guest, WasiSockets>(linker, &options, Guest::sockets)
    }),
];

const fn always(interface: &'static str, add: Add) -> Offer {
    Offer { interface, version: "0.2.", grant: None, add }
}

/// Tells the linker that streams and pollables live in the guest's table of resources.
struct Resources;

impl HasData for Resources {
    type Data<'a> = &'a mut ResourceTable;
}
