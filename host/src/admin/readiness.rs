//! Whether a host is ready for work, and what is in the way.
//!
//! A host is ready while every handler of its manifest is at work, is subscribed, and meets no
//! trouble; while it is connected; and until it is told to stop. All of that is what the host has
//! met itself: nothing is tried out for a probe. Nothing that somebody wants so is in the way: a
//! paused handler is ready, and so is one whose new plugin was refused while the one before serves.

use std::fmt;

use serde::Serialize;

use crate::host::{HandlerState, Roster};
use crate::shutdown::Stop;

/// So much of a digest tells plugins apart.
const DIGEST: usize = 15;

/// How ready a host is.
#[derive(Debug, Serialize)]
pub(super) struct Readiness {
    pub ready: bool,
    /// What is in the way of all handlers.
    pub troubles: Vec<String>,
    /// What there is to know besides.
    pub notes: Vec<String>,
    pub handlers: Vec<HandlerReadiness>,
}

/// How ready a handler is.
#[derive(Debug, Serialize)]
pub(super) struct HandlerReadiness {
    pub handler: String,
    pub ready: bool,
    /// What is in its way.
    pub troubles: Vec<String>,
    /// What there is to know besides.
    pub notes: Vec<String>,
}

impl Readiness {
    /// How ready the host is now.
    pub(super) fn of(roster: &Roster, stopping: &Stop) -> Self {
        let mut troubles = Vec::new();
        if stopping.is_cancelled() {
            troubles.push("stopping".to_owned());
        }
        if let Some(broker) = roster.broker().filter(|broker| !broker.is_connected()) {
            troubles.push(format!("not connected to Redis at {}", broker.address()));
        }
        let states = roster.now();
        let refused = states.iter().find_map(|state| state.serving.now().manifest_refused);
        let notes = refused.map(|why| line(&format!("new manifest refused: {why}")));
        let mut handlers: Vec<_> = states.iter().map(HandlerReadiness::at_work).collect();
        let missing = roster.missing();
        handlers.extend(missing.iter().map(|(name, why)| HandlerReadiness::missing(name, why)));
        let ready = troubles.is_empty() && handlers.iter().all(|handler| handler.ready);
        Self { ready, troubles, notes: notes.into_iter().collect(), handlers }
    }
}

impl HandlerReadiness {
    fn at_work(state: &HandlerState) -> Self {
        let condition = state.figures.health.now();
        let served = state.serving.now();
        let refused = served.plugin_refused.map(|why| format!("new plugin refused: {why}"));
        let short = |digest: &str| digest.chars().take(DIGEST).collect::<String>();
        let trying = served.trying.map(|digest| format!("trying out plugin {}", short(&digest)));
        let notes = condition.holds.into_iter().chain(refused).chain(trying);
        let notes = notes.map(|note| line(&note)).collect();
        let troubles: Vec<_> = condition.troubles.iter().map(|trouble| line(trouble)).collect();
        Self { handler: state.name.to_string(), ready: troubles.is_empty(), troubles, notes }
    }

    fn missing(name: &str, why: &str) -> Self {
        let troubles = vec![format!("not at work: {}", line(why))];
        Self { handler: name.to_owned(), ready: false, troubles, notes: Vec::new() }
    }
}

/// A text on one line, and without what could command a terminal.
fn line(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ").replace(char::is_control, " ")
}

/// For people: whether it is ready, and a line for each handler.
impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", if self.ready { "ready" } else { "not ready" })?;
        for told in self.troubles.iter().chain(&self.notes) {
            writeln!(f, "host: {told}")?;
        }
        for HandlerReadiness { handler, ready, troubles, notes } in &self.handlers {
            let state = if *ready { "ready".to_owned() } else { troubles.join("; ") };
            let notes: String = notes.iter().map(|note| format!("; {note}")).collect();
            writeln!(f, "handler {handler}: {state}{notes}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handler(name: &str, troubles: &[&str], notes: &[&str]) -> HandlerReadiness {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let (troubles, notes): (Vec<String>, _) = (texts(troubles), texts(notes));
        HandlerReadiness { handler: name.into(), ready: troubles.is_empty(), troubles, notes }
    }

    #[test]
    fn each_handler_has_a_line_that_says_what_is_in_its_way() {
        let readiness = Readiness {
            ready: false,
            troubles: vec!["stopping".into()],
            notes: Vec::new(),
            handlers: vec![
                handler("a", &["cannot read", "cannot settle"], &[]),
                handler("b", &[], &["paused"]),
            ],
        };
        let told = "not ready\nhost: stopping\nhandler a: cannot read; cannot settle\nhandler b: ready; paused\n";
        assert_eq!(readiness.to_string(), told);
    }

    #[test]
    fn what_is_in_the_way_stays_on_its_line() {
        assert_eq!(
            line("two problems\n  3:1  a\n  4:1  b\u{1b}\n"),
            "two problems; 3:1  a; 4:1  b "
        );
    }

    #[test]
    fn a_host_that_is_told_to_stop_is_not_ready() {
        let (roster, stop) = (Roster::default(), Stop::new());
        assert!(Readiness::of(&roster, &stop).ready);
        stop.cancel();
        assert!(!Readiness::of(&roster, &stop).ready);
    }
}
