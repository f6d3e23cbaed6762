//! Swapping a plugin: the file's new version is read, compiled and proven beside the work, and
//! takes over once it is ready. One that is refused leaves the one at work where it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::watch::{Look, Noticed};
use super::{Host, Room, limits, prove, reach, rollouts, sentence};
use crate::broker::{Broker, RolledBack};
use crate::dispatch::Version;
use crate::figures::add;
use crate::manifest::{Digest, Handler};
use crate::sandbox::{self, Plugin, Runner};

/// A handler that a new version of its plugin is for.
struct Heir {
    handler: Arc<Handler>,
    room: Arc<Room>,
    /// The digest of the version at work.
    at_work: Digest,
    /// That of one that is being tried out.
    trying: Option<Digest>,
    /// Those that were taken back.
    rolled_back: Arc<BTreeMap<Digest, RolledBack>>,
    /// What was refused already.
    refused: Option<Refused>,
}

/// A version of a plugin's file that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) look: Look,
    /// None of what could not be read.
    pub(super) digest: Option<Digest>,
}

impl Heir {
    /// Why a version is not to be taken up, if it was taken back.
    fn rolled_back(&self, digest: &Digest) -> Option<String> {
        self.rolled_back.get(digest).map(|by| rollouts::taken_back(&self.handler, digest, by))
    }
}

/// What a plugin's file is to a handler.
enum Found {
    /// What is at work already.
    Same,
    /// What is being tried out already.
    Trying,
    /// What was refused, and nobody touched it since.
    Refused,
    /// Something new, ready to run or not fit to.
    New(Box<Result<Version, String>>),
}

impl Host {
    /// Takes up a plugin's file that is another by now, for every handler that it is for.
    pub(super) async fn swap(&mut self, change: &Noticed) {
        let Noticed { path, look } = change;
        if let Look::Missing(kind) = look {
            return self.miss(path, *look, &kind.to_string());
        }
        let started = Instant::now();
        let heirs: Vec<Heir> = self.heirs(path).collect();
        let (broker, most, file, seen) =
            (self.broker.clone(), self.settings.plugin_bytes, path.clone(), *look);
        let examining = move || examine(&file, seen, most, &heirs, &broker);
        let examined = tokio::select! {
            examined = self.threads().spawn_blocking(examining) => examined,
            () = self.stop.cancelled() => return,
        };
        match examined {
            Ok(Some((found, digest))) => {
                self.settle(&change.path, Refused { look: *look, digest }, found, started);
            }
            // It is being written to: the watch will come back to it.
            Ok(None) => {}
            Err(error) => tracing::error!(plugin = %path.display(), %error,
                "compiling a plugin ended by itself; the one at work goes on"),
        }
    }

    fn heirs(&self, path: &Path) -> impl Iterator<Item = Heir> {
        let heirs = self.employed.iter().filter(move |employed| employed.handler.plugin == path);
        heirs.map(|employed| Heir {
            handler: employed.handler.clone(),
            room: employed.room.clone(),
            at_work: *employed.versions.current().runner.plugin().digest(),
            trying: employed.versions.candidate().map(|one| *one.runner.plugin().digest()),
            rolled_back: employed.rolled_back.clone(),
            refused: employed.refused,
        })
    }

    /// Hands over to the versions that were found, in the order of the heirs.
    fn settle(&mut self, path: &Path, read: Refused, found: Vec<Found>, started: Instant) {
        let heirs = self.employed.iter_mut().filter(|employed| employed.handler.plugin == path);
        for (employed, found) in heirs.zip(found) {
            let (handler, before) = (&employed.handler.name, employed.versions.current());
            match found {
                Found::Refused | Found::Trying => {}
                Found::Same => {
                    if let Some(given_up) = employed.versions.give_up() {
                        tracing::info!(%handler, at_work = before.short(), given_up = given_up.short(),
                            "rollout given up: the plugin's file is the one at work again");
                        employed.serving.try_out(None);
                    }
                    employed.refused = None;
                    // One that was taken back, and goes on for want of another, stays complained of.
                    if employed.rolled_back.contains_key(before.runner.plugin().digest()) {
                        continue;
                    }
                    if employed.serving.now().plugin_refused.is_some() {
                        tracing::info!(%handler, plugin = before.short(),
                            "the plugin's file is the one at work again");
                    }
                    employed.serving.refuse_plugin(None);
                }
                Found::New(version) => match *version {
                    Ok(version) => {
                        tracing::info!(%handler, from = before.short(), to = version.short(),
                            elapsed_ms = started.elapsed().as_millis() as u64,
                            "a new version of the plugin is ready");
                        employed.take_up(version);
                    }
                    Err(error) => {
                        tracing::error!(%handler, error, at_work = before.short(),
                            "new plugin refused; the one at work goes on");
                        employed.refused = Some(read);
                        employed.serving.refuse_plugin(Some(error.into()));
                        add(&employed.figures.swaps_refused, 1);
                    }
                },
            }
        }
    }

    /// Says once that a plugin's file is not there.
    fn miss(&mut self, path: &Path, look: Look, why: &str) {
        let heirs = self.employed.iter_mut().filter(|employed| employed.handler.plugin == path);
        let refused = Some(Refused { look, digest: None });
        for employed in heirs.filter(|employed| employed.refused != refused) {
            let at_work = employed.versions.current();
            tracing::warn!(handler = %employed.handler.name, plugin = %path.display(), why,
                at_work = at_work.short(), "the plugin's file cannot be found; the one at work goes on");
            employed.refused = refused;
            let error = format!("{}: cannot be found: {why}", path.display());
            employed.serving.refuse_plugin(Some(error.into()));
        }
    }
}

/// What a file is to each of its handlers, and its digest; none where it changes meanwhile. Blocks for as long as
/// it takes to compile it.
fn examine(
    path: &Path,
    look: Look,
    most: u64,
    heirs: &[Heir],
    broker: &Arc<Broker>,
) -> Option<(Vec<Found>, Option<Digest>)> {
    // One that cannot be read or is too large is for the sandbox to refuse.
    let digest = sandbox::digest(path, most).ok();
    let mut compiled: Vec<(&Arc<Room>, Result<Plugin, String>)> = Vec::new();
    let mut found = Vec::with_capacity(heirs.len());
    for heir in heirs {
        found.push(if digest == Some(heir.at_work) {
            Found::Same
        } else if digest.is_some() && digest == heir.trying {
            Found::Trying
        } else if heir.refused == Some(Refused { look, digest }) {
            Found::Refused
        } else if let Some(why) = digest.and_then(|digest| heir.rolled_back(&digest)) {
            Found::New(Box::new(Err(why)))
        } else if let Some(Err(error)) =
            digest.map(|digest| sandbox::check_pin(path, heir.handler.digest, digest))
        {
            // Another than the one that is meant is not even compiled.
            Found::New(Box::new(Err(sentence(&error))))
        } else {
            let known = compiled.iter().position(|(room, _)| Arc::ptr_eq(room, &heir.room));
            let at = known.unwrap_or_else(|| {
                let plugin = heir.room.sandbox.load(path).map_err(|error| sentence(&error));
                compiled.push((&heir.room, plugin));
                compiled.len() - 1
            });
            let plugin = compiled[at].1.clone();
            Found::New(Box::new(plugin.and_then(|plugin| ready(&plugin, &heir.handler, broker))))
        });
    }
    let as_read = |plugin: &Plugin| digest.is_none_or(|digest| digest == *plugin.digest());
    let whole = compiled.iter().filter_map(|(_, plugin)| plugin.as_ref().ok()).all(as_read);
    (whole && Look::at(path) == look).then_some((found, digest))
}

/// Proves that a plugin fits its handler and starts, and links it to what it may reach.
fn ready(plugin: &Plugin, handler: &Handler, broker: &Arc<Broker>) -> Result<Version, String> {
    let reach = reach::through(broker, &handler.grants);
    prove(plugin, handler)
        .and_then(|()| Runner::new(plugin, handler.name.clone(), limits(handler), reach))
        .map(Version::new)
        .map_err(|error| sentence(&error))
}
