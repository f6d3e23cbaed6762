//! What a plugin prints while a case is run, kept beside its result instead of in the log.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context as Within;

/// What the sandbox calls the log events that are a plugin's words.
const PLUGIN: &str = "plugin";

/// Lines that are kept of a case: the last ones say why it failed.
const LINES_MAX: usize = 200;

/// Listens to the log of one case. Clones hear the same.
#[derive(Clone, Default)]
pub(super) struct Heard(Arc<Mutex<VecDeque<String>>>);

impl Heard {
    /// The lines so far.
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl<S: Subscriber> Layer<S> for Heard {
    fn on_event(&self, event: &Event<'_>, _: Within<'_, S>) {
        let of_plugin = event.metadata().target() == PLUGIN;
        if !of_plugin && *event.metadata().level() > Level::WARN {
            return;
        }
        let mut words = Words(String::new());
        event.record(&mut words);
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(words.0);
    }
}

/// The text of an event, without its fields.
struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
