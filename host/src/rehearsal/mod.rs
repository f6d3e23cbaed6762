//! A rehearsal: a handler's plugin on fixture messages, without Redis.
//!
//! The plugin goes through the same door as in a host, with the limits and grants of its
//! handler, and its outputs are judged alike. Streams and channels are not there: what would
//! be written is compared with what a fixture expects. Stores are memory, filled by the fixture;
//! no network can be reached. Whether to try again is the retry rule's, and not asked.
//!
//! `typed` is the fixture file, `fixture` finds and checks it, `expected` compares, `shown`
//! makes a difference readable; how it is printed is the command line's.

mod expected;
mod fixture;
mod heard;
mod shown;
mod typed;

#[cfg(test)]
mod tests;

use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::instrument::WithSubscriber;
use tracing_subscriber::layer::SubscriberExt;

pub use self::fixture::Wanted;
pub use self::shown::{Difference, Side};

use self::expected::Came;
use self::fixture::Fixture;
use self::heard::Heard;
use self::shown::Seen;
use self::typed::{Case, TypedMessage};
use crate::dispatch::judge;
use crate::host::{self, HostError, Plugins};
use crate::manifest::{Handler, HttpGrants, Manifest};
use crate::message::{Attempt, Delivery, Field, Held, Message, MessageId};
use crate::outcome::Outcome;
use crate::sandbox::{Configuration, KeyValue, MemoryConfig, MemoryKeys, Plugin, Reach, Runner};

/// Why nothing can be rehearsed.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// There is no case to run.
    #[error(
        "no cases{} in {}; a fixture is a file such as fixtures/charge.toml with one or more [[case]]",
        of(handlers),
        list(places)
    )]
    Nothing {
        /// Where they were looked for.
        places: Vec<PathBuf>,
        /// The handlers that they were to be for, if not any.
        handlers: Vec<String>,
    },
    /// A file or a folder cannot be read.
    #[error("cannot read the fixture {}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is no fixture.
    #[error("{}:{line}:{column}: {why}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What is wrong and what would be right.
        why: String,
    },
    /// It names a handler that the manifest does not.
    #[error("{place}: the manifest has no handler `{name}`; it has {known}")]
    NoSuchHandler {
        /// Where it is named.
        place: String,
        /// Its name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// It names no handler, and there are several.
    #[error("{place}: which handler is it for? Begin it with `handler = \"…\"`, one of {known}")]
    WhichHandler {
        /// The file.
        place: String,
        /// Those that there are.
        known: String,
    },
    /// It fills a store that the handler does not have.
    #[error(
        "{}: case {case:?} has `{grant}`, which handler.{handler} is not granted; \
         add `{grant}` to it if it should be", path.display()
    )]
    Ungranted {
        /// The file.
        path: PathBuf,
        /// The case.
        case: String,
        /// The handler.
        handler: Arc<str>,
        /// The key of the manifest.
        grant: &'static str,
    },
    /// A plugin cannot be put to work.
    #[error(transparent)]
    Host(#[from] HostError),
}

fn of(handlers: &[String]) -> String {
    let names: Vec<String> = handlers.iter().map(|name| format!("`{name}`")).collect();
    if names.is_empty() { String::new() } else { format!(" for {}", names.join(", ")) }
}

fn list(places: &[PathBuf]) -> String {
    let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    places.join(", ")
}

/// Reads any text as a fixture of each form: for tests and fuzzing.
#[cfg(any(test, fuzzing))]
pub fn read_any(text: &str) {
    for name in ["any.toml", "any.json"] {
        if let Err(error) = fixture::parse(Path::new(name), text) {
            assert!(!error.to_string().is_empty());
        }
    }
}

/// Fixtures that were read, and the plugins that they are for, loaded.
pub struct Rehearsal {
    /// With those handlers alone that have fixtures.
    manifest: Manifest,
    plugins: Plugins,
    fixtures: Vec<Fixture>,
}

/// How a case went.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Verdict {
    /// The fixture's file.
    pub file: PathBuf,
    /// The handler.
    pub handler: String,
    /// The case's name.
    pub case: String,
    /// Whether all was as expected.
    pub passed: bool,
    /// What was not.
    #[serde(flatten)]
    pub difference: Option<Difference>,
    /// What the plugin printed.
    pub printed: Vec<String>,
    /// Where it broke, if it did: one for each message that it broke at.
    pub backtraces: Vec<String>,
}

impl Rehearsal {
    /// Reads the fixtures and loads the plugins. Blocks, for seconds when plugins are large.
    ///
    /// # Errors
    ///
    /// When a fixture is wrong, none is found, or `check` would refuse one of the plugins.
    pub fn prepare(manifest: &Manifest, wanted: &Wanted) -> Result<Self, RehearsalError> {
        let mut fixtures = fixture::read(manifest, wanted)?;
        let mut used: Vec<usize> = fixtures.iter().map(|fixture| fixture.handler).collect();
        used.sort_unstable();
        used.dedup();
        for fixture in &mut fixtures {
            fixture.handler = used.partition_point(|used| *used < fixture.handler);
        }
        let handlers = used.iter().map(|at| manifest.handlers[*at].clone()).collect();
        let manifest = Manifest { handlers, ..manifest.clone() };
        let plugins = Plugins::load(&manifest)?;
        Ok(Self { manifest, plugins, fixtures })
    }

    /// Runs every case, one after the other, and tells of each as it ends.
    ///
    /// # Errors
    ///
    /// When a plugin cannot be linked, or whoever is told gives up.
    pub async fn run<E: From<RehearsalError>>(
        &self,
        mut tell: impl FnMut(Verdict) -> Result<(), E>,
    ) -> Result<(), E> {
        let plugins: Vec<&Plugin> = self.plugins.iter().collect();
        for fixture in &self.fixtures {
            let handler = &self.manifest.handlers[fixture.handler];
            for case in &fixture.cases {
                let heard = Heard::default();
                let log = tracing_subscriber::registry().with(heard.clone());
                let play = play(handler, plugins[fixture.handler], case).with_subscriber(log);
                let seen = play.await.map_err(RehearsalError::Host)?;
                tell(judgement(&fixture.path, handler, case, (seen, heard)))?;
            }
        }
        Ok(())
    }
}

fn judgement(path: &Path, handler: &Handler, case: &Case, (seen, heard): (Seen, Heard)) -> Verdict {
    let difference = shown::difference(&case.expect, &seen);
    let trace = |came: &Came| match came {
        Some(Outcome::Fault(fault)) => fault.backtrace.clone(),
        Some(Outcome::Done(_) | Outcome::Retry { .. } | Outcome::Reject(_)) | None => None,
    };
    Verdict {
        file: path.to_owned(),
        handler: handler.name.to_string(),
        case: case.name.clone(),
        passed: difference.is_none(),
        difference,
        printed: heard.lines(),
        backtraces: seen.outcomes.iter().filter_map(trace).collect(),
    }
}

/// Runs one case in an instance that nothing has touched, with stores of its own.
async fn play(handler: &Handler, plugin: &Plugin, case: &Case) -> Result<Seen, HostError> {
    let keys = handler.grants.keyvalue.as_ref().map(|_| Arc::new(keys(case)));
    let reach = reach(handler, case, keys.clone());
    let runner = Runner::new(plugin, handler.name.clone(), host::limits(handler), reach)?;
    let messages = case.messages.iter().enumerate();
    let deliveries = messages.map(|(at, message)| (at, delivery(handler, at, message)));
    let (places, asked): (Vec<usize>, Vec<Delivery>) =
        deliveries.filter(|(_, delivery)| handler.filter.accepts(&delivery.message)).unzip();
    let mut outcomes: Vec<Came> = Vec::new();
    outcomes.resize(case.messages.len(), None);
    let mut places = places.into_iter();
    for call in asked.chunks(handler.batch.get()) {
        for (outcome, at) in runner.run(call).await.into_iter().zip(&mut places) {
            outcomes[at] = Some(judge(outcome, handler));
        }
    }
    Ok(Seen { outcomes, keyvalue: keys.map(|keys| keys.contents()) })
}

fn keys(case: &Case) -> MemoryKeys {
    let pairs = case.keyvalue.iter().flatten();
    pairs.map(|(key, value)| (key.clone(), value.clone().into())).collect()
}

/// All that the handler is granted, in memory.
fn reach(handler: &Handler, case: &Case, keys: Option<Arc<MemoryKeys>>) -> Reach {
    let grants = &handler.grants;
    let config = || -> Arc<dyn Configuration> {
        Arc::new(case.config.clone().into_iter().flatten().collect::<MemoryConfig>())
    };
    Reach {
        env: grants.env.clone(),
        keyvalue: keys.map(|keys| keys as Arc<dyn KeyValue>),
        config: grants.config.as_ref().map(|_| config()),
        // What calls out is linked, and nobody is reached.
        http: (!grants.http.is_empty()).then(HttpGrants::default),
    }
}

fn delivery(handler: &Handler, at: usize, typed: &TypedMessage) -> Delivery {
    let TypedMessage { id, stream, attempt, fields } = typed;
    let first = MessageId { millis: at as u64 + 1, sequence: 0 };
    let id = id.map_or(first, |id| id.0);
    let stream = stream.as_deref().map_or_else(|| handler.stream.clone(), Arc::from);
    let fields = fields.0.iter();
    let fields = fields.map(|(name, value)| Field::new(name.as_str(), value.clone())).collect();
    let attempt = Attempt::after_failures(attempt.map_or(0, |number: NonZeroU32| number.get() - 1));
    let receipt = Arc::new(Held::default()).issue(id, attempt);
    Delivery { message: Message { id, stream, fields }, attempt, receipt }
}
