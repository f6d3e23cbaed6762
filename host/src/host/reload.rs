//! Taking up a changed manifest: handlers that are new, gone or other ones, while the rest goes on.
//!
//! A manifest that is refused changes nothing: that it can be read and that its plugins fit is
//! found out before any handler is touched. What it says of Redis and of the host counts from the
//! next start.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::handlers::{Employed, Opening};
use super::watch::{Look, Watch};
use super::{Host, HostError, Plugins, Room, calls, sentence, sharded};
use crate::broker::BrokerError;
use crate::manifest::{Handler, Manifest, ManifestError};
use crate::sandbox::Plugin;

/// Why a manifest is not taken up.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// It cannot be read, or is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A plugin of it does not fit, or what is needed to run it cannot be had.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Handlers that could not be put to work; all else is in force.
    #[error("{}", .0.iter().map(|lame| lame.to_string()).collect::<Vec<_>>().join("; "))]
    Lame(Vec<Lame>),
}

/// A handler that could not be put to work as its manifest has it.
#[derive(Debug)]
struct Lame {
    handler: Arc<str>,
    why: String,
}

impl fmt::Display for Lame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "handler.{}: {}", self.handler, self.why)
    }
}

/// What a manifest changes about the handlers.
struct Plan {
    manifest: Manifest,
    /// Handlers at work that it does not have, or has otherwise.
    leaving: Vec<Arc<str>>,
    /// Those that it has and that are not at work like that.
    coming: Vec<Coming>,
}

/// A handler that is to be put to work, and its plugin.
struct Coming {
    handler: Handler,
    plugin: Plugin,
    /// Where the plugin is at home.
    room: Arc<Room>,
}

impl Host {
    /// Takes up the manifest, which looks like this now.
    pub(super) async fn reload(&mut self, look: Look, watch: &mut Watch) {
        let stop = self.stop.clone();
        let planned = tokio::select! {
            planned = self.plan(look) => planned,
            () = stop.cancelled() => return,
        };
        let done = match planned {
            Ok(Some(plan)) => self.carry_out(plan, watch).await,
            // What it failed at is not tried again before somebody touches it.
            Ok(None) if self.is_refused(look) => return,
            Ok(None) => Ok(()),
            Err(refusal) => Err(refusal),
        };
        let why = done.err().map(|refusal| sentence(&refusal));
        let refused = why.clone().map(|why| (look, why));
        let before = std::mem::replace(&mut self.refused_manifest, refused);
        if let Some(why) = &why
            && self.refused_manifest != before
        {
            tracing::error!(manifest = %self.manifest.path.display(), error = why,
                "the manifest is not taken up as it is; what is at work goes on");
        }
        let why: Option<Arc<str>> = why.map(Into::into);
        self.employed.iter().for_each(|employed| employed.serving.refuse_manifest(why.clone()));
    }

    /// What the manifest changes; none where that is nothing. Nothing is touched yet.
    async fn plan(&self, look: Look) -> Result<Option<Plan>, Refusal> {
        let path = self.manifest.path.clone();
        let manifest = self.aside(move || Manifest::load(&path)).await??;
        let at_work = |handler: &&Handler| {
            self.employed.iter().any(|employed| *employed.handler == **handler)
        };
        let coming: Vec<Handler> =
            manifest.handlers.iter().filter(|handler| !at_work(handler)).cloned().collect();
        let stays = |employed: &&Employed| manifest.handlers.contains(&employed.handler);
        let leaving: Vec<_> =
            self.employed.iter().filter(|employed| !stays(employed)).map(Employed::name).collect();
        let same = coming.is_empty() && leaving.is_empty() || self.is_refused(look);
        if manifest == self.manifest && same {
            return Ok(None);
        }
        let room = self.room_for(&coming, self.employed.iter().filter(stays));
        let settings = self.settings.clone();
        let loading = move || {
            let room = room.map_or_else(|| Room::new(&coming, &settings).map(Arc::new), Ok)?;
            let plugins = Plugins::load_into(room, &coming)?;
            Ok::<_, HostError>((coming, plugins))
        };
        let (coming, Plugins { plugins, room }) = self.aside(loading).await??;
        let coming = coming.into_iter().zip(plugins);
        let coming = coming.map(|(handler, plugin)| self.cast(handler, plugin, &room)).collect();
        Ok(Some(Plan { manifest, leaving, coming }))
    }

    /// A handler with the plugin that is to serve it. What was taken back, or is still being tried out, does not
    /// take over by an edit of the manifest: what serves goes on, and the file is looked at after that.
    fn cast(&self, handler: Handler, plugin: Plugin, room: &Arc<Room>) -> Coming {
        let same = |one: &&Employed| {
            one.handler.name == handler.name && one.handler.plugin == handler.plugin
        };
        let before = self.employed.iter().find(same).filter(|one| {
            let digest = plugin.digest();
            let tried = one.versions.candidate();
            one.rolled_back.contains_key(digest)
                || one.worse.as_ref().is_some_and(|(worse, _)| worse == digest)
                || tried.is_some_and(|tried| tried.runner.plugin().digest() == digest)
        });
        match before.map(|one| (one.versions.current().runner.plugin().clone(), one.room.clone())) {
            Some((serving, home)) if serving.check_pin(handler.digest).is_ok() => {
                Coming { handler, plugin: serving, room: home }
            }
            Some(_) | None => Coming { handler, plugin, room: room.clone() },
        }
    }

    fn is_refused(&self, look: Look) -> bool {
        self.refused_manifest.as_ref().is_some_and(|(refused, _)| *refused == look)
    }

    /// Runs what blocks beside the work; nobody waits for it at a stop.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HostError> {
        let done = self.threads().spawn_blocking(work).await;
        done.map_err(|error| HostError::Threads(std::io::Error::other(error)))
    }

    /// A sandbox at work that has room for these handlers, beside those that stay.
    fn room_for<'a>(
        &self,
        coming: &[Handler],
        staying: impl Iterator<Item = &'a Employed> + Clone,
    ) -> Option<Arc<Room>> {
        let needed: usize = coming.iter().map(calls).sum();
        let memory = coming.iter().map(|handler| handler.memory).max().unwrap_or_default();
        let fits = |room: &&Arc<Room>| {
            let there = staying.clone().filter(|employed| Arc::ptr_eq(&employed.room, room));
            let taken: usize = there.map(|employed| calls(&employed.handler)).sum();
            2 * (taken + needed) < room.capacity.instances && memory <= room.capacity.memory
        };
        self.employed.iter().map(|employed| &employed.room).find(fits).cloned()
    }

    /// Has handlers finish and go, and puts others to work.
    async fn carry_out(&mut self, plan: Plan, watch: &mut Watch) -> Result<(), Refusal> {
        let Plan { manifest, leaving, coming } = plan;
        let found = match sharded(&manifest, &self.broker, &self.stop).await {
            Err(BrokerError::Stopped) => return Ok(()),
            found => found.map_err(HostError::from)?,
        };
        self.tell_what_waits(&manifest);
        let started = Instant::now();
        self.sharded.store(Arc::new(found));
        self.manifest = manifest;
        let before = self.dismiss(&leaving, watch).await;
        let came: Vec<_> = coming.iter().map(|one| one.handler.name.to_string()).collect();
        let lame = self.employ_all(coming, &before).await;
        // A file that changed on the way was nobody's; from here on it is looked at anew.
        watch.forget();
        for gone in &before {
            if !self.employed.iter().any(|one| one.handler.name == gone.handler.name) {
                self.roster.strike(&gone.handler.name);
            }
        }
        self.roster.miss(self.missing(&lame));
        let leaving: Vec<_> = leaving.iter().map(ToString::to_string).collect();
        tracing::info!(
            stopped = leaving.join(" "),
            started = came.join(" "),
            elapsed_ms = started.elapsed().as_millis() as u64,
            "the manifest was taken up"
        );
        if lame.is_empty() { Ok(()) } else { Err(Refusal::Lame(lame)) }
    }

    /// Puts handlers to work, each in the place of one of its name; gives those that cannot be. In
    /// their place goes on what was there before.
    async fn employ_all(&mut self, coming: Vec<Coming>, before: &[Employed]) -> Vec<Lame> {
        let mut lame = Vec::new();
        for Coming { handler, plugin, room } in coming {
            let predecessor = before.iter().find(|one| one.handler.name == handler.name);
            let name = handler.name.clone();
            let figures = predecessor.map(|one| one.figures.clone()).unwrap_or_default();
            let handler = Arc::new(handler);
            match self.employ(Opening { handler, plugin, room, figures }).await {
                Ok(()) => self.inherit(predecessor),
                Err(HostError::Broker(BrokerError::Stopped)) => break,
                Err(error) => {
                    lame.push(Lame { handler: name, why: sentence(&error) });
                    self.restore(predecessor).await;
                }
            }
        }
        lame
    }

    /// Those that could not be put to work, nor put back to work as they were.
    fn missing(&self, lame: &[Lame]) -> Vec<(Arc<str>, Arc<str>)> {
        let at_work = |name: &str| self.employed.iter().any(|one| *one.handler.name == *name);
        let missing = lame.iter().filter(|one| !at_work(&one.handler));
        missing.map(|one| (one.handler.clone(), one.why.as_str().into())).collect()
    }

    /// Has the handler that was put to work last know the versions that its predecessor knew.
    fn inherit(&mut self, before: Option<&Employed>) {
        let (Some(before), Some(now)) = (before, self.employed.last_mut()) else { return };
        if before.handler.plugin != now.handler.plugin {
            return;
        }
        now.rolled_back = before.rolled_back.clone();
        now.worse = before.worse.clone();
        let served = before.versions.current().runner.plugin().clone();
        let same = served.digest() == now.versions.current().runner.plugin().digest();
        now.previous = if same { before.previous.clone() } else { Some(served) };
        let digest = now.previous.as_ref().map(|plugin| plugin.digest().to_string().into());
        now.serving.remember(digest);
    }

    /// Says what the manifest changes that counts from the next start only.
    fn tell_what_waits(&self, manifest: &Manifest) {
        let tables = [
            ("[redis]", manifest.redis != self.manifest.redis),
            ("[host]", manifest.host != self.settings),
        ];
        for (table, _) in tables.into_iter().filter(|(_, differs)| *differs) {
            tracing::warn!(manifest = %manifest.path.display(), "what changed under {table} takes effect at the next start");
        }
    }

    /// Has handlers finish what is in hand, all at once, and gives them back when they have. The
    /// others get new plugins meanwhile.
    async fn dismiss(&mut self, names: &[Arc<str>], watch: &mut Watch) -> Vec<Employed> {
        let (leaving, staying): (Vec<_>, Vec<_>) =
            self.employed.drain(..).partition(|employed| names.contains(&employed.handler.name));
        self.employed = staying;
        leaving.iter().for_each(Employed::ask_to_stop);
        for employed in &leaving {
            while !employed.has_ended() {
                tokio::select! {
                    biased;
                    () = employed.ended() => {}
                    changes = watch.next() => self.take_up_plugins(changes, watch).await,
                }
            }
        }
        leaving
    }

    /// Puts a handler back to work as it was, where its successor could not be.
    async fn restore(&mut self, before: Option<&Employed>) {
        let Some(before) = before else { return };
        let opening = Opening {
            handler: before.handler.clone(),
            plugin: before.versions.current().runner.plugin().clone(),
            room: before.room.clone(),
            figures: before.figures.clone(),
        };
        if let Err(error) = self.employ(opening).await {
            tracing::error!(handler = %before.handler.name, error = sentence(&error),
                "the handler could not be put back to work as it was, either");
        }
    }
}
