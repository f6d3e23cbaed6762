//! Logs: a lower-case fragment and fields, on standard error.
//!
//! `TIDEGATE_LOG` chooses what is logged, in the syntax of `RUST_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// How a command's log reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// For a service: time, level, fields.
    Service,
    /// For a service whose log is read by programs: a JSON object a line.
    Json,
    /// For a person who develops a handler: short, in colours, without time.
    Friendly,
    /// Warnings only, short.
    Terse,
    /// Nothing: the command tells its own story.
    Quiet,
}

impl Voice {
    fn level(self) -> &'static str {
        match self {
            Self::Service | Self::Json | Self::Friendly => "info",
            Self::Terse => "warn",
            Self::Quiet => "off",
        }
    }
}

/// Sends logs to standard error from here on.
pub fn start(voice: Voice) {
    // That library warns of each request that a guest gets wrong, which the guest is told itself.
    let usual = || EnvFilter::new(format!("{},wasmtime_wasi_http=off", voice.level()));
    let filter = EnvFilter::try_from_env("TIDEGATE_LOG").unwrap_or_else(|_| usual());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_span_events(FmtSpan::NONE);
    match voice {
        Voice::Json => log.json().flatten_event(true).init(),
        Voice::Service => log.with_target(false).init(),
        Voice::Friendly | Voice::Terse | Voice::Quiet => {
            log.with_target(false).without_time().init();
        }
    }
}
