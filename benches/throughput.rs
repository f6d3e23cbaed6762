//! What a handler in the sandbox costs beside the same work in a native loop.
//!
//! Every contestant is a process of its own that reads the same stream of the
//! same private Redis, over TCP as in production, and does the same work:
//! `tally-work`, natively or inside a plugin. They take turns, round after
//! round, so that whatever else the machine does befalls all of them; a ratio
//! compares runs of one round. Nothing fails when a target is missed.

#[path = "throughput/contestant.rs"]
mod contestant;
#[path = "throughput/latency.rs"]
mod latency;
#[path = "throughput/native.rs"]
mod native;
#[path = "throughput/process.rs"]
mod process;
#[path = "throughput/rate.rs"]
mod rate;
#[path = "throughput/report.rs"]
mod report;
#[path = "throughput/server.rs"]
mod server;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use contestant::Contestant;
use latency::Pace;
use rate::Load;
use report::Report;
use server::Server;

/// Whatever may go wrong in a benchmark ends it, with a sentence.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Parser)]
#[command(name = "throughput", about = "Measures throughput and latency", version)]
struct Arguments {
    /// A short run, to see that it works: its figures mean little
    #[arg(long)]
    quick: bool,
    /// Cargo's word to a benchmark
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Be the native contestant
    #[command(hide = true)]
    Native { url: String, stream: String },
}

/// How much is measured.
struct Plan {
    loads: [Load; 2],
    rounds: usize,
    pace: Pace,
    latency_rounds: usize,
}

impl Plan {
    /// Enough for every run to last longer than a second.
    const FULL: Self = Self {
        loads: [Load { bytes: 100, messages: 400_000 }, Load { bytes: 1024, messages: 250_000 }],
        rounds: 5,
        pace: Pace {
            a_second: 500,
            warm_up: Duration::from_secs(1),
            measured: Duration::from_secs(10),
        },
        latency_rounds: 3,
    };

    const QUICK: Self = Self {
        loads: [Load { bytes: 100, messages: 20_000 }, Load { bytes: 1024, messages: 10_000 }],
        rounds: 1,
        pace: Pace {
            a_second: 500,
            warm_up: Duration::from_millis(200),
            measured: Duration::from_secs(1),
        },
        latency_rounds: 1,
    };
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match arguments.role {
        Some(Role::Native { url, stream }) => native::work(&url, &stream),
        None => measure(if arguments.quick { &Plan::QUICK } else { &Plan::FULL }),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("throughput: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(plan: &Plan) -> Result<()> {
    let server = Server::start()?;
    let mut report = Report::new(server.version()?);
    for load in &plan.loads {
        server.preload(load)?;
        for round in 1..=plan.rounds {
            for contestant in &Contestant::ALL {
                let run = rate::run(&server, contestant, load)?;
                eprintln!("{load}, round {round}, {contestant}: {:.0} messages/s", run.rate);
                report.rate(load, contestant, run);
            }
        }
        server.discard(load)?;
    }
    for round in 1..=plan.latency_rounds {
        for contestant in &Contestant::ALL {
            let run = latency::run(&server, contestant, &plan.pace)?;
            eprintln!("latency, round {round}, {contestant}: p99 {:.0} µs", run.p99_us);
            report.latency(contestant, run);
        }
    }
    println!("{report}");
    println!("every run: {}", report.save()?.display());
    Ok(())
}
