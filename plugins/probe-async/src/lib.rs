//! Does what the fields of a message tell it, and waits while it lets other messages run.
//!
//! These are obeyed first, in order; then those listed in `probe-script`.
//!
//! | field          | what happens                                                                      |
//! |----------------|-----------------------------------------------------------------------------------|
//! | `wait-ms=<n>`  | waits, by the clock of WASI 0.3                                                   |
//! | `gather=<n>`   | waits until this instance has n messages in flight, or had                        |
//! | `shout=<text>` | writes a line to standard error, by WASI 0.3                                      |
//! | `peak`         | each entry has a field `peak`: the most messages this instance ever had in flight |
//!
//! A number that is none counts as 0.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use exports::tidegate::plugin::async_handler::Guest;
use probe_script::{Failure, Field, Message, Output};
use wasi::cli::stderr;
use wasi::clocks::monotonic_clock;

wit_bindgen::generate!({
    path: ["wit/cli.wit", "wit/clocks.wit", "../../wit"],
    inline: "
        package tidegate:probe;
        world waiting {
            include tidegate:plugin/async-plugin@0.1.0;
            import wasi:clocks/monotonic-clock@0.3.0;
            import wasi:cli/stderr@0.3.0;
        }
    ",
    world: "tidegate:probe/waiting",
    with: { "tidegate:plugin/types@0.1.0": probe_script::tidegate::plugin::types },
    generate_all,
});

const MILLISECOND: u64 = 1_000_000;

/// How long a message that gathers waits before it counts again.
const LOOK_AROUND: u64 = 20 * MILLISECOND;

/// Messages that this instance has begun and not answered.
static IN_FLIGHT: AtomicU64 = AtomicU64::new(0);

/// The most that they ever were.
static PEAK: AtomicU64 = AtomicU64::new(0);

struct ProbeAsync;
export!(ProbeAsync);

impl Guest for ProbeAsync {
    async fn handle(message: Message) -> Result<Vec<Output>, Failure> {
        PEAK.fetch_max(IN_FLIGHT.fetch_add(1, Relaxed) + 1, Relaxed);
        for field in &message.fields {
            wait(field).await;
        }
        let answer = probe_script::obey(&message);
        IN_FLIGHT.fetch_sub(1, Relaxed);
        let asks = message.fields.iter().any(|field| field.name == "peak");
        if asks { answer.map(with_peak) } else { answer }
    }
}

async fn wait(field: &Field) {
    match field.name.as_str() {
        "wait-ms" => monotonic_clock::wait_for(number(field) * MILLISECOND).await,
        "gather" => {
            while PEAK.load(Relaxed) < number(field) {
                monotonic_clock::wait_for(LOOK_AROUND).await;
            }
        }
        "shout" => shout(&field.value).await,
        _ => {}
    }
}

async fn shout(text: &[u8]) {
    let (mut mouth, ear) = wit_stream::new();
    let heard = stderr::write_via_stream(ear);
    mouth.write_all([text, b"\n"].concat()).await;
    drop(mouth);
    // A line that cannot be written is no reason to fail.
    heard.await.ok();
}

fn with_peak(mut outputs: Vec<Output>) -> Vec<Output> {
    for output in &mut outputs {
        if let Output::Append(entry) = output {
            let value = PEAK.load(Relaxed).to_string().into_bytes();
            entry.fields.push(Field { name: "peak".into(), value });
        }
    }
    outputs
}

fn number(field: &Field) -> u64 {
    String::from_utf8_lossy(&field.value).parse().unwrap_or_default()
}
