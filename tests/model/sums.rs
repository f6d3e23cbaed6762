//! What runs came to, added up.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::ledger::Sent;

/// Counts of one run, or of many.
#[derive(Debug, Clone, Default)]
pub struct Sums {
    pub runs: usize,
    pub confirmed: usize,
    /// The answer was lost, and the message was there.
    pub unconfirmed: usize,
    pub faults: BTreeMap<&'static str, usize>,
    pub letters: BTreeMap<String, usize>,
    /// Buried as their host died twice with them in flight.
    pub condemned: usize,
    pub losses: usize,
    /// Only where groups were destroyed, or else they are violations too.
    pub duplicates: usize,
    pub violations: usize,
    /// The longest time from the last fault to the last settlement.
    pub drained: Duration,
}

impl Sums {
    pub fn message(&mut self, sent: &Sent) {
        match sent.id {
            Some(_) => self.confirmed += 1,
            None => self.unconfirmed += 1,
        }
    }

    pub fn buried(&mut self, reason: &str) {
        *self.letters.entry(reason.to_owned()).or_default() += 1;
    }

    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.confirmed += other.confirmed;
        self.unconfirmed += other.unconfirmed;
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        for (reason, count) in &other.letters {
            *self.letters.entry(reason.clone()).or_default() += count;
        }
        self.condemned += other.condemned;
        self.losses += other.losses;
        self.duplicates += other.duplicates;
        self.violations += other.violations;
        self.drained = self.drained.max(other.drained);
    }

    pub fn fault(&self, kind: &str) -> usize {
        self.faults.get(kind).copied().unwrap_or_default()
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_server = self.fault("server killed") + self.fault("server stopped");
        writeln!(f, "runs             {}", self.runs)?;
        writeln!(
            f,
            "messages         {} confirmed, {} whose answer was lost",
            self.confirmed, self.unconfirmed
        )?;
        writeln!(f, "losses           {}", self.losses)?;
        writeln!(f, "duplicates       {}", self.duplicates)?;
        writeln!(f, "violations       {}", self.violations)?;
        writeln!(
            f,
            "hosts killed     {}",
            self.fault("host killed") + 3 * self.fault("all hosts killed")
        )?;
        writeln!(f, "server restarts  {of_server}")?;
        writeln!(f, "in flight at two deaths  {}", self.condemned)?;
        writeln!(f, "longest drain    {:.1} s", self.drained.as_secs_f64())?;
        writeln!(f, "dead letters     {}", list(self.letters.iter()))?;
        write!(f, "faults           {}", list(self.faults.iter()))
    }
}

fn list<K: fmt::Display>(counts: impl Iterator<Item = (K, impl fmt::Display)>) -> String {
    counts.map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<_>>().join(", ")
}
