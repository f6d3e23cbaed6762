//! How a new version of a plugin takes over, and how it is taken back.
//!
//! What makes a version worse is decided by dispatch, which counts; that one was taken back
//! anywhere is told to all hosts through the broker.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::handlers::Employed;
use super::swap::Refused;
use super::watch::{Look, Noticed};
use super::{Host, limits, reach, sentence};
use crate::broker::{Broker, RolledBack};
use crate::dispatch::{Ended, Version};
use crate::figures::{VersionCost, add};
use crate::manifest::{Digest, Handler};
use crate::sandbox::Runner;

/// How long Redis may take to say what was rolled back. It is asked again soon.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a version that was taken back is not taken up.
pub(super) fn taken_back(handler: &Handler, digest: &Digest, by: &RolledBack) -> String {
    let RolledBack { by, why, .. } = by;
    let who = if by.is_empty() { String::new() } else { format!(" by {by}") };
    let why = if why.is_empty() { String::new() } else { format!(", as {why}") };
    format!(
        "{digest} was rolled back{who}{why}; \
         `tidegate rollback --undo {}` lets it be tried again",
        handler.name
    )
}

impl Employed {
    /// Has a new version of the plugin take over: at once, or by and by.
    pub(super) fn take_up(&mut self, version: Version) {
        let (handler, digest, to) =
            (&self.handler.name, version.digest().clone(), version.short().to_owned());
        self.refused = None;
        if let Some(rule) = self.handler.rollout {
            self.versions.try_out(version, rule);
            self.serving.try_out(Some(digest));
            tracing::info!(%handler, to, percent = rule.percent,
                "rollout: the new version handles a share of what comes next");
            return;
        }
        let before = self.versions.replace(Arc::new(version));
        self.took_over(&before, digest);
    }

    fn took_over(&mut self, before: &Version, digest: Arc<str>) {
        self.previous = Some(before.runner.plugin().clone());
        self.serving.serve(digest);
        add(&self.figures.swaps, 1);
        tracing::info!(handler = %self.handler.name, from = before.short(),
            to = self.versions.current().short(), "plugin swapped: the new one handles what comes next");
    }

    /// Ends a trial that can be told how it went.
    fn conclude(&mut self) {
        match self.versions.conclude() {
            Some(Ended::TookOver(before)) => {
                let digest = self.versions.current().digest().clone();
                self.took_over(&before, digest);
            }
            Some(Ended::Failed(candidate, why)) => {
                self.drop_candidate(&candidate, &why);
                self.worse = Some((*candidate.runner.plugin().digest(), why));
            }
            None => {}
        }
    }

    fn drop_candidate(&mut self, candidate: &Version, why: &str) {
        tracing::error!(handler = %self.handler.name, version = candidate.short(), why,
            at_work = self.versions.current().short(), "rolled back; the version before handles everything again");
        add(&self.figures.rollbacks, 1);
        self.serving.try_out(None);
        self.serving.refuse_plugin(Some(format!("rolled back: {why}").into()));
        self.refuse(candidate);
    }

    /// Notes what the versions at work have cost, for whoever asks for figures.
    fn note_costs(&self) {
        let versions = [Some(self.versions.current()), self.versions.candidate()];
        let cost = |version: Arc<Version>| {
            let cost = version.runner.cost();
            VersionCost {
                plugin: version.digest().to_string(),
                calls: cost.calls,
                cpu_ms: u64::try_from(cost.cpu.as_millis()).unwrap_or(u64::MAX),
                memory_peak: cost.memory_peak,
                started: cost.started,
                retired: cost.retired.faults + cost.retired.calls + cost.retired.growth,
            }
        };
        self.figures.cost(versions.into_iter().flatten().map(cost).collect());
    }

    /// Remembers a version as refused, so that it is not refused once more.
    fn refuse(&mut self, version: &Version) {
        let digest = Some(*version.runner.plugin().digest());
        self.refused = Some(Refused { look: Look::at(&self.handler.plugin), digest });
    }

    /// Takes back what was rolled back anywhere. Whether something may be tried again by now.
    fn heed(&mut self, rolled_back: BTreeMap<Digest, RolledBack>, broker: &Arc<Broker>) -> bool {
        let mut again = self.rolled_back.keys().any(|digest| !rolled_back.contains_key(digest));
        self.rolled_back = Arc::new(rolled_back);
        let refused = |version: &Version| {
            let digest = version.runner.plugin().digest();
            self.rolled_back.get(digest).map(|by| taken_back(&self.handler, digest, by))
        };
        let candidate = self.versions.candidate();
        let tried_out = candidate.is_some();
        if let Some((candidate, why)) =
            candidate.and_then(|one| refused(&one).map(|why| (one, why)))
        {
            self.versions.give_up();
            self.drop_candidate(&candidate, &why);
        } else if let Some(why) = refused(&self.versions.current()) {
            // A newer one that was tried out beside it is to be looked at anew.
            again |= tried_out;
            self.go_back(&why, broker);
        }
        if again {
            self.refused = None;
        }
        again
    }

    /// Goes back to the version before, if there is one that was not taken back, too.
    fn go_back(&mut self, why: &str, broker: &Arc<Broker>) {
        let (handler, current) = (self.handler.name.clone(), self.versions.current());
        let previous = self.previous.take();
        let previous = previous.filter(|plugin| !self.rolled_back.contains_key(plugin.digest()));
        let Some(plugin) = previous else {
            let why = format!("{why}; this host knows no version before it, so it goes on with it");
            if self.serving.now().plugin_refused.as_deref() != Some(&*why) {
                tracing::error!(%handler, version = current.short(), why, "cannot roll back");
                self.serving.refuse_plugin(Some(why.into()));
            }
            return;
        };
        let reach = reach::through(broker, &self.handler.grants);
        match Runner::new(&plugin, handler.clone(), limits(&self.handler), reach) {
            Ok(runner) => {
                let version = Arc::new(Version::new(runner));
                tracing::error!(%handler, from = current.short(), to = version.short(), why,
                    "rolled back; the version before handles what comes next");
                self.serving.go_back(version.digest().clone(), why.into());
                self.versions.replace(version);
                self.refuse(&current);
                add(&self.figures.rollbacks, 1);
            }
            Err(error) => tracing::error!(%handler, error = sentence(&error), "cannot roll back"),
        }
    }
}

impl Host {
    /// Ends the trials that can be told how they went, and takes back what was rolled back.
    /// Gives the files that may be taken up again by now.
    pub(super) async fn see_to_rollouts(&mut self) -> Vec<Noticed> {
        let mut again: Vec<PathBuf> = Vec::new();
        for employed in &mut self.employed {
            employed.note_costs();
            let (handler, broker) = (employed.handler.clone(), self.broker.clone());
            employed.conclude();
            let worse = &mut employed.worse;
            let asking = async {
                if let Some((digest, why)) = worse {
                    broker.roll_back(&handler, digest, broker.name(), why).await?;
                    *worse = None;
                }
                broker.rolled_back(&handler).await
            };
            let answer = tokio::select! {
                answer = tokio::time::timeout(PATIENCE, asking) => answer,
                () = self.stop.cancelled() => break,
            };
            match answer {
                Ok(Ok(rolled_back)) => {
                    if employed.heed(rolled_back, &self.broker) {
                        again.push(handler.plugin.clone());
                    }
                }
                Ok(Err(error)) => {
                    tracing::debug!(handler = %handler.name, error = sentence(&error), "cannot ask for rollbacks");
                }
                // Nor would the others be answered.
                Err(_) => break,
            }
        }
        again.into_iter().map(|path| Noticed { look: Look::at(&path), path }).collect()
    }
}
