//! A model of all that goes wrong at once: producers, hosts and a server, faults drawn from a seed, and the sums at the end.
//!
//! A run is a [`Scenario`] that is played on a [`Stage`]; then everything is healed, what
//! is left is waited for, and an [`Audit`] compares Redis with the producers' ledger.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    missing_docs,
    clippy::unwrap_used,
    reason = "shared by two test programs, neither of which uses all of it"
)]

mod audit;
mod ledger;
mod leftovers;
mod messages;
mod place;
mod report;
mod scenario;
mod stage;
mod sums;

use audit::{Audit, Violation};
use fastrand::Rng;
use ledger::Producers;
pub use scenario::{Freezes, Leftovers, Names, Order, Outages, Repeats, Scenario, Terms};
use stage::Stage;
pub use sums::Sums;

/// What a run came to.
pub struct Verdict {
    pub sums: Sums,
    /// What is to be told of a run that failed.
    pub failure: Option<String>,
}

/// Plays a scenario and looks at what came of it.
pub fn run(scenario: &Scenario) -> Verdict {
    // What is drawn here does not move what the scenario drew from the same seed.
    let mut random = Rng::with_seed(!scenario.seed);
    let mut stage = Stage::open(scenario);
    let producers = Producers::start(scenario, &stage.server.doorway(), &mut random);
    stage.play(scenario, &mut random);
    stage.heal();
    let ledger = producers.ledger();
    let mut redis = stage.server.client();
    let (drained, mut violations) = audit::drain(scenario, &mut redis);
    stage.note(format!("drained in {:.1} s", drained.as_secs_f64()));
    let mut sums = Sums { runs: 1, drained, ..Sums::default() };
    let logs = stage.logs();
    let mut audit = Audit {
        scenario,
        ledger: &ledger,
        logs: &logs,
        redis: &mut redis,
        sums: &mut sums,
        violations: Vec::new(),
    };
    audit.run();
    violations.extend(audit.violations);
    stage.close();
    violations.extend(stage.violations.iter().map(Violation::general));
    sums.faults = stage.history.faults.clone();
    sums.violations = violations.len();
    let failure = (!violations.is_empty()).then(|| {
        let logs = stage.logs();
        let told = report::tell(&stage.history.lines, &violations, &mut redis, &logs);
        let kept = report::keep(scenario.seed, &told, &logs, stage.server.directory());
        format!("seed {} failed; its logs are in {}\n{told}", scenario.seed, kept.display())
    });
    Verdict { sums, failure }
}

/// A number in the environment; what is none ends the program, rather than play another run than was asked for.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: expected a number, found {text:?}")))
}
