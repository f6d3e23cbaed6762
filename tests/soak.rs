//! The model with fresh seeds, one after the other, for as long as one likes: `make soak`.
//!
//! `TIDEGATE_SOAK_MINUTES` says how long (30 by default), `TIDEGATE_TEST_SEED` which seed
//! to play in place of fresh ones. The exit status is 1 if anything did not hold.

mod harness;
#[path = "model/mod.rs"]
mod model;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use model::{Scenario, Sums, Terms, number, run};

fn main() -> ExitCode {
    let minutes = number("TIDEGATE_SOAK_MINUTES").unwrap_or(30);
    let given = number("TIDEGATE_TEST_SEED");
    let (began, lasting) = (Instant::now(), Duration::from_secs(60 * minutes));
    let mut all = Sums::default();
    let mut failed = Vec::new();
    println!("soaking for {minutes} min");
    while all.runs == 0 || began.elapsed() < lasting {
        let seed = given.unwrap_or_else(|| fastrand::u64(..));
        let verdict = run(&Scenario::of(seed, Terms::drawn(seed)));
        all.add(&verdict.sums);
        let word = if verdict.failure.is_some() { "FAILED" } else { "held" };
        println!(
            "{:5} s  seed {seed}: {word}; {} messages, {} faults, drained in {:.1} s",
            began.elapsed().as_secs(),
            verdict.sums.confirmed + verdict.sums.unconfirmed,
            verdict.sums.faults.values().sum::<usize>(),
            verdict.sums.drained.as_secs_f64(),
        );
        if let Some(failure) = verdict.failure {
            println!("{failure}");
            failed.push(seed);
        }
    }
    println!("\n{all}");
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("to see a failure again: TIDEGATE_TEST_SEED=… make soak, with one of {failed:?}");
    ExitCode::FAILURE
}
