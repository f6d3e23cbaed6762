//! Whether a handler reads at all: not while an operator, or its own circuit, holds it.

use tokio::sync::watch;

/// Who holds a handler's reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Somebody who said `tidegate pause`.
    Operator,
    /// The circuit, while everything fails.
    Circuit,
}

/// Shut for as long as anyone holds it. What is in hand when it shuts is finished all the same.
#[derive(Debug, Default)]
pub struct Valve(watch::Sender<Held>);

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
    /// Has nothing read or taken back from now on; a read that waits is ended. Whether that is news.
    pub fn hold(&self, hold: Hold) -> bool {
        self.0.send_if_modified(|held| !std::mem::replace(held.by(hold), true))
    }

    /// Lets go of it. Whether it was held.
    pub fn release(&self, hold: Hold) -> bool {
        self.0.send_if_modified(|held| std::mem::take(held.by(hold)))
    }

    pub(super) fn is_shut(&self) -> bool {
        self.0.borrow().any()
    }

    /// Waits until someone holds it; not at all if someone does.
    pub(super) async fn shut(&self) {
        // The sender is in `self`, so waiting ends only as asked.
        let _ = self.0.subscribe().wait_for(Held::any).await;
    }

    /// Waits until nobody holds it.
    pub(super) async fn open(&self) {
        let _ = self.0.subscribe().wait_for(|held| !held.any()).await;
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
