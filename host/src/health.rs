//! What keeps a handler from its work at this moment, told by whoever meets it.
//!
//! Written by the broker where it meets trouble and where that ends, read by whoever asks whether
//! a host is ready. What was met so far is counted in `figures`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How one handler is in one host; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<Symptoms>>);

#[derive(Debug, Default)]
struct Symptoms {
    next: u64,
    all: BTreeMap<u64, (Part, Option<String>)>,
}

/// What is told of a handler, by what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// That it is subscribed: without one of these nothing comes to it.
    Subscription,
    /// Something else that it cannot do its work without.
    Duty,
    /// Why it does not read although it could: somebody wants it so, or its circuit is open.
    Hold,
}

/// How a handler is, as far as its parts tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// What it cannot do its work for; none where all is well.
    pub troubles: Vec<String>,
    /// Why it does not read although it could.
    pub holds: Vec<String>,
}

/// One part of a handler, told of until this is dropped.
#[derive(Debug)]
pub struct Symptom {
    health: Health,
    number: u64,
}

impl Health {
    /// A part of which nothing is told yet: all is well with it.
    pub(crate) fn part(&self, part: Part) -> Symptom {
        self.enter(part, None)
    }

    /// A subscription that is still to be made.
    pub(crate) fn subscription(&self) -> Symptom {
        self.enter(Part::Subscription, Some("not subscribed yet".to_owned()))
    }

    fn enter(&self, part: Part, told: Option<String>) -> Symptom {
        let mut symptoms = self.symptoms();
        let number = symptoms.next;
        symptoms.next += 1;
        symptoms.all.insert(number, (part, told));
        drop(symptoms);
        Symptom { health: self.clone(), number }
    }

    /// How the handler is now.
    pub fn now(&self) -> Condition {
        let symptoms = self.symptoms();
        let mut condition = Condition::default();
        for (part, told) in symptoms.all.values() {
            let tellers = match part {
                Part::Subscription | Part::Duty => &mut condition.troubles,
                Part::Hold => &mut condition.holds,
            };
            // Several parts may have met the same.
            tellers.extend(told.clone().filter(|told| !tellers.contains(told)));
        }
        if !symptoms.all.values().any(|(part, _)| *part == Part::Subscription) {
            condition.troubles.push("not subscribed".to_owned());
        }
        condition
    }

    fn symptoms(&self) -> MutexGuard<'_, Symptoms> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Symptom {
    /// It is as it should be, from now on.
    pub(crate) fn is_well(&self) {
        self.tell(None);
    }

    /// It is not, for this reason.
    pub(crate) fn ails(&self, why: impl Display) {
        self.tell(Some(why.to_string()));
    }

    fn tell(&self, told: Option<String>) {
        if let Some((_, known)) = self.health.symptoms().all.get_mut(&self.number) {
            *known = told;
        }
    }
}

impl Drop for Symptom {
    fn drop(&mut self) {
        self.health.symptoms().all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_that_nobody_reads_for_is_not_subscribed() {
        let health = Health::default();
        assert_eq!(health.now().troubles, ["not subscribed"]);
        let subscription = health.subscription();
        assert_eq!(health.now().troubles, ["not subscribed yet"]);
        subscription.is_well();
        assert_eq!(health.now(), Condition::default());
        drop(subscription);
        assert_eq!(health.now().troubles, ["not subscribed"]);
    }

    #[test]
    fn what_one_part_meets_is_told_until_it_ends_or_the_part_does() {
        let (health, duty) = (Health::default(), Part::Duty);
        let (reading, settling) = (health.part(Part::Subscription), health.part(duty));
        reading.ails("away");
        settling.ails("away");
        settling.ails("full");
        assert_eq!(health.now().troubles, ["away", "full"]);
        reading.is_well();
        assert_eq!(health.now().troubles, ["full"]);
        drop(settling);
        assert_eq!(health.now(), Condition::default());
    }

    #[test]
    fn a_hold_is_no_trouble() {
        let health = Health::default();
        let (_reading, hold) = (health.part(Part::Subscription), health.part(Part::Hold));
        hold.ails("paused");
        assert_eq!(health.now(), Condition { holds: vec!["paused".into()], ..Default::default() });
    }
}
