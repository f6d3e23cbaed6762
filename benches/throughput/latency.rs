//! Latency: an even trickle of messages, from just before each is appended to its acknowledgement.
//!
//! The pace does not wait for the contestant. Acknowledgements are seen by
//! `MONITOR`, with the server's own time of them, so that no thread of ours has
//! to be on a processor at that moment.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::Result;
use crate::contestant::Contestant;
use crate::process::Leashed;
use crate::server::{self, Server};

const STREAM: &str = "trickle";

/// Bytes of the field `data`.
const BYTES: usize = 100;

/// How long a contestant may take to start, and to finish.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many messages, and for how long.
pub(crate) struct Pace {
    pub a_second: u32,
    /// What comes first and is not counted.
    pub warm_up: Duration,
    pub measured: Duration,
}

/// One run of one contestant.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct LatencyRun {
    pub messages: usize,
    pub p50_us: f64,
    pub p99_us: f64,
    pub longest_us: f64,
}

/// Lets a contestant handle a trickle.
pub(crate) fn run(server: &Server, contestant: &Contestant, pace: &Pace) -> Result<LatencyRun> {
    let _: i64 = server.ask(redis::cmd("DEL").arg(STREAM))?;
    server.new_group(STREAM)?;
    let worker = contestant.start(server, STREAM)?;
    let first: String = server.ask(&server::append(STREAM, 0, BYTES))?;
    until_settled(server, &worker, &first)?;
    let monitor = monitor(server)?;
    let watched = monitor.try_clone()?;
    let watching = std::thread::spawn(move || acknowledgements(&watched));
    let appended = trickle(server, pace)?;
    let last = appended.last().map_or(first, |(id, _)| id.clone());
    until_settled(server, &worker, &last)?;
    // One more command, so that what was monitored before has been sent on.
    let _: String = server.ask(&redis::cmd("PING"))?;
    monitor.shutdown(Shutdown::Both)?;
    let acknowledged = watching.join().map_err(|_| "the monitor's reader panicked")?;
    server.no_dead_letters(STREAM)?;
    waits(&appended, &acknowledged, pace)
}

fn until_settled(server: &Server, worker: &Leashed, last: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !server.progress(STREAM)?.ended(last) {
        worker.alive()?;
        if Instant::now() > deadline {
            return Err(worker.complaint("is not done in time"));
        }
        sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Appends messages evenly; gives the id of each and when it was sent.
fn trickle(server: &Server, pace: &Pace) -> Result<Vec<(String, Duration)>> {
    let every = Duration::from_secs(1) / pace.a_second;
    let total = (pace.warm_up + pace.measured).as_nanos() / every.as_nanos();
    let start = Instant::now();
    (1..=total as u32)
        .map(|number| {
            sleep((start + every * number).saturating_duration_since(Instant::now()));
            let appending = server::append(STREAM, number as usize, BYTES);
            let sent = SystemTime::now().duration_since(UNIX_EPOCH)?;
            Ok((server.ask(&appending)?, sent))
        })
        .collect()
}

fn monitor(server: &Server) -> Result<TcpStream> {
    let mut socket = server.socket()?;
    socket.write_all(b"MONITOR\r\n")?;
    let mut answer = [0; 5];
    std::io::Read::read_exact(&mut socket, &mut answer)?;
    if &answer == b"+OK\r\n" { Ok(socket) } else { Err("the server refuses MONITOR".into()) }
}

/// The ids of every `XACK` and the server's time of it, until the connection ends.
fn acknowledgements(socket: &TcpStream) -> HashMap<String, Duration> {
    let mut acknowledged = HashMap::new();
    for line in BufReader::new(socket).lines().map_while(std::result::Result::ok) {
        // +1700000000.123456 [0 127.0.0.1:40000] "XACK" "stream" "group" "id" "id"
        let mut words = line.split('"').skip(1).step_by(2);
        let time = line.trim_start_matches('+').split(' ').next().unwrap_or_default();
        if words.next() == Some("XACK")
            && let Ok(seconds) = time.parse::<f64>()
        {
            let ids = words.skip(2).map(|id| (id.to_owned(), Duration::from_secs_f64(seconds)));
            acknowledged.extend(ids);
        }
    }
    acknowledged
}

fn waits(
    appended: &[(String, Duration)],
    acknowledged: &HashMap<String, Duration>,
    pace: &Pace,
) -> Result<LatencyRun> {
    let counted_from = appended.first().map_or(Duration::ZERO, |(_, sent)| *sent + pace.warm_up);
    let mut waits = Vec::with_capacity(appended.len());
    for (id, sent) in appended.iter().filter(|(_, sent)| *sent >= counted_from) {
        let at = acknowledged.get(id).ok_or_else(|| format!("nobody acknowledged {id}"))?;
        waits.push(at.saturating_sub(*sent).as_secs_f64() * 1e6);
    }
    waits.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        let rank = (waits.len() as f64 * share).ceil() as usize;
        waits.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    };
    Ok(LatencyRun {
        messages: waits.len(),
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        longest_us: quantile(1.0),
    })
}
