//! Whether a handler reads at all: not while an operator, or its own circuit, holds it.

use tokio::sync::watch;

use crate::health::{Health, Part, Symptom};

/// Who holds a handler's reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Somebody who said `tidegate pause`.
    Operator,
    /// The circuit, while everything fails.
    Circuit,
}

impl Hold {
    fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "paused",
            Self::Circuit => "circuit open",
        }
    }
}

/// Shut for as long as anyone holds it. What is in hand when it shuts is finished all the same.
#[derive(Debug, Default)]
pub struct Valve {
    held: watch::Sender<Held>,
    /// Where it is told: by whoever says so, and by the circuit.
    told: Option<(Symptom, Symptom)>,
}

#[derive(Debug, Default)]
struct Held {
    by_operator: bool,
    by_circuit: bool,
}

impl Held {
    fn by(&mut self, hold: Hold) -> &mut bool {
        match hold {
            Hold::Operator => &mut self.by_operator,
            Hold::Circuit => &mut self.by_circuit,
        }
    }

    fn any(&self) -> bool {
        self.by_operator || self.by_circuit
    }
}

impl Valve {
    /// One that tells who holds it.
    pub(super) fn of(health: &Health) -> Self {
        let symptom = || health.part(Part::Hold);
        Self { told: Some((symptom(), symptom())), ..Self::default() }
    }

    /// Has nothing read or taken back from now on; a read that waits is ended. Whether that is news.
    pub fn hold(&self, hold: Hold) -> bool {
        let news = self.held.send_if_modified(|held| !std::mem::replace(held.by(hold), true));
        if let Some(symptom) = self.symptom(hold).filter(|_| news) {
            symptom.ails(hold.as_str());
        }
        news
    }

    /// Lets go of it. Whether it was held.
    pub fn release(&self, hold: Hold) -> bool {
        let news = self.held.send_if_modified(|held| std::mem::take(held.by(hold)));
        if let Some(symptom) = self.symptom(hold).filter(|_| news) {
            symptom.is_well();
        }
        news
    }

    fn symptom(&self, hold: Hold) -> Option<&Symptom> {
        self.told.as_ref().map(|(operator, circuit)| match hold {
            Hold::Operator => operator,
            Hold::Circuit => circuit,
        })
    }

    pub(super) fn is_shut(&self) -> bool {
        self.held.borrow().any()
    }

    /// Waits until someone holds it; not at all if someone does.
    pub(super) async fn shut(&self) {
        // The sender is in `self`, so waiting ends only as asked.
        let _ = self.held.subscribe().wait_for(Held::any).await;
    }

    /// Waits until nobody holds it.
    pub(super) async fn open(&self) {
        let _ = self.held.subscribe().wait_for(|held| !held.any()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_open_only_when_nobody_holds_it() {
        let valve = Valve::default();
        valve.open().await;
        assert!(valve.hold(Hold::Operator) && valve.hold(Hold::Circuit));
        assert!(!valve.hold(Hold::Operator), "that is no news");
        assert!(valve.release(Hold::Operator) && valve.is_shut());
        valve.shut().await;
        assert!(valve.release(Hold::Circuit) && !valve.release(Hold::Circuit));
        assert!(!valve.is_shut());
    }
}
