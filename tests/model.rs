//! All that goes wrong at once, at random: nothing is lost, and nothing is done twice.
//!
//! Each test has a seed of its own, so that it is the same each time; `make soak` tries fresh ones.

mod harness;
#[path = "model/mod.rs"]
mod model;

use std::collections::BTreeSet;

use model::{Freezes, Repeats, Scenario, Sums, Terms, number, run};

const LONG_FREEZES: Terms = Terms { freezes: Freezes::Long, ..Terms::SHORT };

const DESTRUCTION: Terms = Terms { repeats: Repeats::AfterDestruction, ..Terms::SHORT };

/// What a run may draw.
const FAULTS: [&str; 23] = [
    "host killed",
    "all hosts killed",
    "host stopped",
    "host frozen",
    "plugin swapped",
    "server killed",
    "server stopped",
    "server frozen",
    "server reloaded",
    "scripts flushed",
    "server busy",
    "writes paused",
    "everything paused",
    "connections killed",
    "writes refused",
    "keys evicted",
    "group destroyed",
    "handler paused",
    "replies cut",
    "storm",
    "connections cut",
    "network silent",
    "connections refused",
];

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
    let sums = holds(14, LONG_FREEZES);
    assert!(sums.fault("host frozen") > 0, "a seed without what it is for");
}

#[test]
fn groups_that_are_destroyed_at_random_lose_nothing() {
    let sums = holds(32, DESTRUCTION);
    assert!(sums.fault("group destroyed") > 0, "a seed without what it is for");
}

#[test]
fn these_runs_draw_every_kind_of_fault_between_them() {
    let runs = [(30, Terms::SHORT), (14, Terms::SHORT), (14, LONG_FREEZES), (32, DESTRUCTION)];
    let drawn: BTreeSet<_> = runs
        .into_iter()
        .flat_map(|(seed, terms)| Scenario::of(seed, terms).faults().collect::<Vec<_>>())
        .collect();
    let wanted: BTreeSet<_> = FAULTS.into_iter().collect();
    assert_eq!(drawn, wanted, "other seeds are needed");
}
