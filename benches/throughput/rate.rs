//! Throughput: a full stream, from the first entry read to everything acknowledged.
//!
//! Watched from outside, in the same way for everybody; starting up, and
//! compiling a plugin, come before and do not count.

use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Result;
use crate::contestant::Contestant;
use crate::server::Server;

/// How often the group is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// A run that takes longer has gone wrong.
const LONGEST: Duration = Duration::from_secs(120);

/// What the stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    /// Bytes of the field `data`.
    pub bytes: usize,
    /// How many messages.
    pub messages: usize,
}

impl Load {
    pub(crate) fn stream(&self) -> String {
        format!("payments-{}", self.bytes)
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} × {} B", self.messages, self.bytes))
    }
}

/// One run of one contestant.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct RateRun {
    /// From the first entry read to everything acknowledged.
    pub seconds: f64,
    /// Messages a second.
    pub rate: f64,
    /// Processor time a message of the contestant.
    pub cpu_us: Option<f64>,
    /// Processor time a message of the server.
    pub redis_cpu_us: Option<f64>,
}

/// Lets a contestant work off the stream of a load.
pub(crate) fn run(server: &Server, contestant: &Contestant, load: &Load) -> Result<RateRun> {
    let stream = load.stream();
    let last = server.last_id(&stream)?;
    server.new_group(&stream)?;
    let worker = contestant.start(server, &stream)?;
    let cpu = || (worker.cpu(), server.process.cpu());
    let deadline = Instant::now() + LONGEST;
    let mut began = None;
    loop {
        let progress = server.progress(&stream)?;
        let (begin, before) = match began {
            Some(began) => began,
            None if progress.begun() => *began.insert((Instant::now(), cpu())),
            None => (Instant::now(), (None, None)),
        };
        if progress.ended(&last) {
            let seconds = begin.elapsed().as_secs_f64();
            let after = cpu();
            server.no_dead_letters(&stream)?;
            let each = |before, after| each_us(before, after, load.messages);
            return Ok(RateRun {
                seconds,
                rate: load.messages as f64 / seconds,
                cpu_us: each(before.0, after.0),
                redis_cpu_us: each(before.1, after.1),
            });
        }
        worker.alive()?;
        if Instant::now() > deadline {
            return Err(worker.complaint("is not done in time"));
        }
        sleep(LOOK);
    }
}

fn each_us(before: Option<Duration>, after: Option<Duration>, messages: usize) -> Option<f64> {
    Some(after?.saturating_sub(before?).as_secs_f64() * 1e6 / messages as f64)
}
