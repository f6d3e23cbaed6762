//! All that goes wrong at once, at random: nothing is lost, and nothing is done twice.
//!
//! Each test has a seed of its own, so that it is the same each time; `make soak` tries fresh ones.

mod harness;
#[path = "model/mod.rs"]
mod model;

use model::{Freezes, Repeats, Scenario, Sums, Terms, number, run};

/// Plays the run of a seed, or of the one in `TIDEGATE_TEST_SEED`.
#[track_caller]
fn holds(seed: u64, terms: Terms) -> Sums {
    let seed = number("TIDEGATE_TEST_SEED").unwrap_or(seed);
    eprintln!("to see this again: TIDEGATE_TEST_SEED={seed}");
    let verdict = run(&Scenario::of(seed, terms));
    eprintln!("{}", verdict.sums);
    if let Some(failure) = verdict.failure {
        panic!("{failure}");
    }
    assert!(verdict.sums.confirmed > 1000, "too few messages for a test");
    verdict.sums
}

#[test]
fn faults_at_random_lose_nothing_and_repeat_nothing() {
    holds(30, Terms::SHORT);
}

#[test]
fn other_faults_at_random_lose_nothing_and_repeat_nothing() {
    holds(14, Terms::SHORT);
}

#[test]
fn hosts_that_freeze_for_longer_than_they_count_as_alive_repeat_nothing() {
    let sums = holds(14, Terms { freezes: Freezes::Long, ..Terms::SHORT });
    assert!(sums.fault("host frozen") > 0, "a seed without what it is for");
}

#[test]
fn groups_that_are_destroyed_at_random_lose_nothing() {
    let sums = holds(32, Terms { repeats: Repeats::AfterDestruction, ..Terms::SHORT });
    assert!(sums.fault("group destroyed") > 0, "a seed without what it is for");
}
