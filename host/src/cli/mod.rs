//! The command line: one file a subcommand, none with logic of its own.
//!
//! Data goes to standard output, talk to standard error. The exit status is 0
//! when it is done, 1 when it failed, 2 when the command line or the manifest
//! is wrong.

mod amiss;
mod check;
mod compile;
mod dead;
mod demo;
mod dev;
mod pause;
mod groups;
mod health;
mod listing;
mod moment;
mod pace;
mod pending;
mod print;
mod publish;
mod replay;
mod retries;
mod rollback;
mod run;
mod source;
mod status;
mod test;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::demo::DemoError;
use crate::host::HostError;
use crate::manifest::ManifestError;
use crate::rehearsal::RehearsalError;
use crate::sandbox::COMPILE_COMMAND;
use crate::telemetry::{self, Voice};
use pause::Wish;

/// Runs WebAssembly handlers on Redis Streams.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, propagate_version = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the manifest's handlers until told to stop
    Run(run::Arguments),
    /// The same with a private Redis when the manifest names none, and friendly logs
    Dev(dev::Arguments),
    /// Run the bundled example with real messages, say what happened, and end
    Demo(demo::Arguments),
    /// Say everything that `run` would refuse, plugins included, without a connection
    Check(check::Arguments),
    /// Compile the manifest's plugins ahead of time, as for an image, so that `run` need not
    Compile(compile::Arguments),
    /// Ask the manifest's running host whether it is ready: exit status 0 if so, 1 if not
    Health(health::Arguments),
    /// What a host starts to compile one plugin
    #[command(name = COMPILE_COMMAND, hide = true)]
    CompileOne(compile::One),
    /// Run handlers on fixture messages without Redis, and compare what comes of them
    Test(test::Arguments),
    /// Append messages to a stream
    Publish(publish::Arguments),
    /// Show handlers, lag, pending, retries, dead letters, hosts and rates
    Status(status::Arguments),
    /// Have all hosts stop reading for a handler; what is in hand is finished
    Pause(pause::Arguments),
    /// Have all hosts read again for a handler
    Resume(pause::Arguments),
    /// Have every host go back to the version of a plugin before
    Rollback(rollback::Arguments),
    /// List what was read and is not settled: who has it, since when, and what failed
    Pending(pending::Arguments),
    /// List, release or bury what waits for another attempt
    Retries(retries::Arguments),
    /// List, count, show, redrive or purge dead letters
    Dead(dead::Arguments),
    /// Hand messages that a handler has settled to it again, and to it alone
    Replay(replay::Arguments),
}

/// Why a command ended early, and with which exit status.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The command line is wrong in a way that clap cannot see.
    #[error("{0}")]
    Usage(String),
    /// Redis did not do what was asked.
    #[error(transparent)]
    Broker(#[from] crate::broker::BrokerError),
    /// The host could not start.
    #[error(transparent)]
    Host(#[from] HostError),
    /// There is no admin server.
    #[error(transparent)]
    Admin(#[from] crate::admin::AdminError),
    /// Fixtures cannot be run.
    #[error(transparent)]
    Rehearsal(#[from] RehearsalError),
    /// The demo could not be run to its end.
    #[error(transparent)]
    Demo(#[from] DemoError),
    /// A file or the operating system.
    #[error("cannot {purpose}")]
    System {
        /// What it was for.
        purpose: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// It ran, and the result is not what it should be.
    #[error("{0}")]
    Wrong(String),
}

impl Failure {
    fn system(purpose: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let purpose = purpose.into();
        move |source| Self::System { purpose, source }
    }

    fn status(&self) -> ExitCode {
        match self {
            Self::Rehearsal(RehearsalError::Host(HostError::Plugins(_))) => ExitCode::from(2),
            Self::Rehearsal(RehearsalError::Host(_)) => ExitCode::FAILURE,
            Self::Manifest(_)
            | Self::Usage(_)
            | Self::Rehearsal(_)
            | Self::Host(HostError::Plugins(_))
            | Self::Demo(DemoError::Host(HostError::Plugins(_))) => ExitCode::from(2),
            Self::Broker(_)
            | Self::Host(_)
            | Self::Admin(_)
            | Self::Demo(_)
            | Self::System { .. }
            | Self::Wrong(_) => ExitCode::FAILURE,
        }
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Command::CompileOne(one) = &arguments.command {
        return one.run();
    }
    telemetry::start(arguments.command.voice());
    match tokio_main(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            explain(&failure);
            failure.status()
        }
    }
}

fn tokio_main(command: Command) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .thread_name("tidegate-io")
        .enable_all()
        .build()
        .map_err(Failure::system("start the threads that speak to Redis"))?;
    runtime.block_on(command.run())
}

/// Two threads keep one core's worth of Redis busy; handlers run on threads of their own.
const IO_THREADS: usize = 2;

impl Command {
    async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Run(arguments) => run::run(arguments).await,
            Self::Dev(arguments) => dev::run(arguments).await,
            Self::Demo(arguments) => demo::run(arguments).await,
            Self::Check(arguments) => check::run(&arguments),
            Self::Compile(arguments) => compile::run(&arguments),
            Self::Health(arguments) => health::run(arguments).await,
            // It has ended: nothing is set up for it that a plugin could make use of.
            Self::CompileOne(_) => Ok(()),
            Self::Test(arguments) => test::run(arguments).await,
            Self::Publish(arguments) => publish::run(arguments).await,
            Self::Status(arguments) => status::run(arguments).await,
            Self::Pause(arguments) => pause::run(arguments, Wish::Pause).await,
            Self::Resume(arguments) => pause::run(arguments, Wish::Resume).await,
            Self::Rollback(arguments) => rollback::run(arguments).await,
            Self::Pending(arguments) => pending::run(arguments).await,
            Self::Retries(arguments) => retries::run(arguments).await,
            Self::Dead(arguments) => dead::run(arguments).await,
            Self::Replay(arguments) => replay::run(arguments).await,
        }
    }

    /// How the command's log reads.
    fn voice(&self) -> Voice {
        match self {
            Self::Run(arguments) => arguments.voice(),
            Self::Dev(_) => Voice::Friendly,
            Self::Demo(_) => Voice::Quiet,
            Self::Check(_)
            | Self::Compile(_)
            | Self::Health(_)
            | Self::CompileOne(_)
            | Self::Test(_)
            | Self::Publish(_)
            | Self::Status(_)
            | Self::Pause(_)
            | Self::Rollback(_)
            | Self::Resume(_)
            | Self::Pending(_)
            | Self::Retries(_)
            | Self::Dead(_)
            | Self::Replay(_) => Voice::Terse,
        }
    }
}

/// Prints an error and its causes.
fn explain(failure: &Failure) {
    // Servers, manifests and guests have a say in it.
    eprintln!("tidegate: {}", print::legible_lines(&reasons(failure)));
}

/// An error and its causes, each once.
fn reasons(failure: &dyn Error) -> String {
    let mut text = failure.to_string();
    let mut cause = failure.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text.push_str(": ");
            text.push_str(&reason);
        }
        cause = error.source();
    }
    text
}
