//! All that goes wrong at once, at random: nothing is lost, and nothing is done twice.

mod harness;
#[path = "model/mod.rs"]
mod model;

use model::{Extent, Scenario, run};

/// Plays the run of a seed, or of the one in `TIDEGATE_TEST_SEED`.
#[track_caller]
fn holds(seed: u64) {
    let given = std::env::var("TIDEGATE_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or(seed);
    eprintln!("to see this again: TIDEGATE_TEST_SEED={seed}");
    let verdict = run(&Scenario::drawn(seed, Extent::Short));
    eprintln!("{}", verdict.sums);
    if let Some(failure) = verdict.failure {
        panic!("{failure}");
    }
    assert!(verdict.sums.confirmed > 1000, "too few messages for a test");
}

#[test]
fn faults_at_random_lose_nothing_and_repeat_nothing_1() {
    holds(1);
}

#[test]
fn faults_at_random_lose_nothing_and_repeat_nothing_2() {
    holds(2);
}

#[test]
fn faults_at_random_lose_nothing_and_repeat_nothing_3() {
    holds(3);
}

#[test]
fn faults_at_random_lose_nothing_and_repeat_nothing_4() {
    holds(4);
}
