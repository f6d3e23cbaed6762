//! What was measured: medians and ratios as tables, every run as JSON.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::Result;
use crate::contestant::Contestant;
use crate::latency::LatencyRun;
use crate::rate::{Load, RateRun};

/// How many times the native loop's p99 a contestant may take.
const P99_TARGET: f64 = 2.0;

/// All runs, by what was measured and whom.
#[derive(Serialize)]
pub(crate) struct Report {
    redis: String,
    cores: usize,
    throughput: Vec<Rates>,
    latency: Vec<Latencies>,
}

/// What one contestant did with one load, round by round.
#[derive(Serialize)]
struct Rates {
    #[serde(skip)]
    load: Load,
    #[serde(skip)]
    contestant: Contestant,
    data_bytes: usize,
    messages: usize,
    name: String,
    median: Option<RateRun>,
    ratio: Option<f64>,
    target: Option<f64>,
    runs: Vec<RateRun>,
}

/// How long one contestant made messages wait, round by round.
#[derive(Serialize)]
struct Latencies {
    #[serde(skip)]
    contestant: Contestant,
    name: String,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    p99_ratio: Option<f64>,
    p99_target: Option<f64>,
    runs: Vec<LatencyRun>,
}

impl Report {
    pub(crate) fn new(redis: String) -> Self {
        let cores = available_parallelism().map_or(0, usize::from);
        Self { redis, cores, throughput: Vec::new(), latency: Vec::new() }
    }

    /// Adds a run; rounds come in order.
    pub(crate) fn rate(&mut self, load: &Load, contestant: &Contestant, run: RateRun) {
        let native = self.rates(load, &Contestant::Native).map(|native| native.runs.clone());
        let rates = match self.throughput.iter_mut().find(|r| r.is(load, contestant)) {
            Some(rates) => rates,
            None => self.throughput.push_mut(Rates::new(load, contestant)),
        };
        rates.runs.push(run);
        rates.sum_up(native.as_deref().unwrap_or(&[]));
    }

    /// Adds a run; rounds come in order.
    pub(crate) fn latency(&mut self, contestant: &Contestant, run: LatencyRun) {
        let native = self.latency.iter().find(|l| l.contestant == Contestant::Native);
        let native = native.map(|native| native.runs.clone());
        let latencies = match self.latency.iter_mut().find(|l| l.contestant == *contestant) {
            Some(latencies) => latencies,
            None => self.latency.push_mut(Latencies::new(contestant)),
        };
        latencies.runs.push(run);
        latencies.sum_up(native.as_deref().unwrap_or(&[]));
    }

    /// Writes everything as JSON to `target/bench/throughput.json`.
    pub(crate) fn save(&self) -> Result<PathBuf> {
        let target =
            Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("no target directory")?;
        let directory = target.join("bench");
        fs::create_dir_all(&directory)?;
        let file = directory.join("throughput.json");
        fs::write(&file, serde_json::to_string_pretty(self)?)?;
        Ok(file)
    }

    fn rates(&self, load: &Load, contestant: &Contestant) -> Option<&Rates> {
        self.throughput.iter().find(|rates| rates.is(load, contestant))
    }
}

impl Rates {
    fn new(load: &Load, contestant: &Contestant) -> Self {
        Self {
            load: *load,
            contestant: *contestant,
            data_bytes: load.bytes,
            messages: load.messages,
            name: contestant.to_string(),
            median: None,
            ratio: None,
            target: contestant.target(),
            runs: Vec::new(),
        }
    }

    fn is(&self, load: &Load, contestant: &Contestant) -> bool {
        self.load == *load && self.contestant == *contestant
    }

    fn sum_up(&mut self, native: &[RateRun]) {
        let of = |figure: fn(&RateRun) -> Option<f64>| median(self.runs.iter().filter_map(figure));
        self.median = of(|run| Some(run.seconds)).map(|seconds| RateRun {
            seconds,
            rate: self.messages as f64 / seconds,
            cpu_us: of(|run| run.cpu_us),
            redis_cpu_us: of(|run| run.redis_cpu_us),
        });
        self.ratio =
            median(self.runs.iter().zip(native).map(|(run, native)| run.rate / native.rate));
    }

    fn row(&self) -> Vec<String> {
        let figure = |figure: fn(&RateRun) -> Option<f64>, digits| {
            shown(self.median.as_ref().and_then(figure), digits)
        };
        let rates = || self.runs.iter().map(|run| run.rate);
        let spread = rates().reduce(f64::max).zip(rates().reduce(f64::min));
        vec![
            self.load.to_string(),
            self.name.clone(),
            figure(|run| Some(run.rate), 0),
            spread.map_or(String::new(), |(most, least)| format!("{least:.0}–{most:.0}")),
            shown(self.ratio, 2),
            verdict(self.target.map(|target| format!("≥ {target}")), self.ratio >= self.target),
            figure(|run| run.cpu_us, 2),
            figure(|run| run.redis_cpu_us, 2),
        ]
    }
}

impl Latencies {
    fn new(contestant: &Contestant) -> Self {
        Self {
            contestant: *contestant,
            name: contestant.to_string(),
            p50_us: None,
            p99_us: None,
            p99_ratio: None,
            p99_target: contestant.target().map(|_| P99_TARGET),
            runs: Vec::new(),
        }
    }

    fn sum_up(&mut self, native: &[LatencyRun]) {
        self.p50_us = median(self.runs.iter().map(|run| run.p50_us));
        self.p99_us = median(self.runs.iter().map(|run| run.p99_us));
        self.p99_ratio =
            median(self.runs.iter().zip(native).map(|(run, native)| run.p99_us / native.p99_us));
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            shown(self.p50_us, 0),
            shown(self.p99_us, 0),
            shown(self.p99_ratio, 2),
            verdict(
                self.p99_target.map(|target| format!("≤ {target}")),
                self.p99_ratio <= self.p99_target,
            ),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let throughput = [
            "load",
            "contestant",
            "messages/s",
            "spread",
            "× native",
            "target",
            "CPU µs each",
            "Redis' CPU µs each",
        ];
        let latency = ["500 a second", "p50 µs", "p99 µs", "p99 × native", "target"];
        writeln!(f, "Redis {}, {} cores; medians\n", self.redis, self.cores)?;
        writeln!(f, "{}\n", table(&throughput, 2, self.throughput.iter().map(Rates::row)))?;
        write!(f, "{}", table(&latency, 1, self.latency.iter().map(Latencies::row)))
    }
}

/// A table whose columns are numbers, but for the first few.
fn table(header: &[&str], words: usize, rows: impl Iterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header).add_rows(rows);
    for column in table.column_iter_mut().skip(words) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn verdict(target: Option<String>, met: bool) -> String {
    let word = if met { "met" } else { "not met" };
    target.map(|target| format!("{target}: {word}")).unwrap_or_default()
}

fn shown(figure: Option<f64>, digits: usize) -> String {
    figure.map_or("–".to_owned(), |figure| format!("{figure:.digits$}"))
}

/// The middle value, or the mean of the middle two.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get((values.len().max(1) - 1) / 2)?, values.get(values.len() / 2)?);
    Some((low + high) / 2.0)
}
