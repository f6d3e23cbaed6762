//! Which version of its plugin a handler's deliveries go to.

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arc_swap::ArcSwap;

use super::rollout::{Decision, Tally, decide};
use crate::manifest::Rollout;
use crate::sandbox::{Runner, World};

/// One version of a handler's plugin, ready to run.
pub struct Version {
    /// What runs it.
    pub runner: Runner,
    digest: Arc<str>,
    short: Box<str>,
}

impl Version {
    /// The version that a runner runs.
    pub fn new(runner: Runner) -> Self {
        let digest = runner.plugin().digest();
        let (digest, short) = (digest.to_string().into(), digest.short().into());
        Self { runner, digest, short }
    }

    /// Its digest, as dead letters and signs of life name it.
    pub fn digest(&self) -> &Arc<str> {
        &self.digest
    }

    /// As much of its digest as tells it from others in a log.
    pub fn short(&self) -> &str {
        &self.short
    }

    /// How many messages a call takes at most.
    pub(super) fn load(&self, batch: NonZeroUsize) -> usize {
        match self.runner.plugin().world() {
            World::Plugin | World::Async => 1,
            World::Batch => batch.get(),
        }
    }
}

/// The plugin of a handler, which may be replaced while messages are handled.
pub struct Versions {
    lineup: ArcSwap<Lineup>,
}

/// The versions that deliveries go to.
struct Lineup {
    current: Arc<Version>,
    /// One that is to take over if it is no worse.
    trial: Option<Trial>,
}

/// A version that gets a share of the deliveries first.
struct Trial {
    candidate: Arc<Version>,
    rule: Rollout,
    began: Instant,
    old: Counts,
    new: Counts,
    /// Why it gets no more.
    failed: OnceLock<String>,
}

/// A tally that many lanes write.
#[derive(Default)]
struct Counts {
    messages: AtomicU64,
    failed: AtomicU64,
}

/// How a trial ended.
pub enum Ended {
    /// The new version handles everything from now on, after this one.
    TookOver(Arc<Version>),
    /// The new version is gone, for this reason.
    Failed(Arc<Version>, String),
}

impl Versions {
    /// A handler that begins with this version.
    pub fn new(version: Version) -> Self {
        let current = Arc::new(version);
        Self { lineup: ArcSwap::from_pointee(Lineup { current, trial: None }) }
    }

    /// The version that handles all deliveries, or most of them.
    pub fn current(&self) -> Arc<Version> {
        self.lineup.load().current.clone()
    }

    /// The version that is being tried out, if there is one.
    pub fn candidate(&self) -> Option<Arc<Version>> {
        self.lineup.load().trial.as_ref().map(|trial| trial.candidate.clone())
    }

    /// The version that handles the next delivery. Whoever has it may finish with it.
    pub fn pick(&self) -> Arc<Version> {
        let lineup = self.lineup.load();
        match &lineup.trial {
            Some(trial) if trial.draws() => trial.candidate.clone(),
            Some(_) | None => lineup.current.clone(),
        }
    }

    /// Has another version handle what comes next. Those before finish what they have; each is
    /// gone with its last call, its idle instances are at once. Gives the one that was current.
    pub fn replace(&self, version: Arc<Version>) -> Arc<Version> {
        let next = Arc::new(Lineup { current: version.clone(), trial: None });
        let before = self.lineup.swap(next);
        if let Some(Trial { candidate, .. }) = &before.trial
            && !Arc::ptr_eq(candidate, &version)
        {
            candidate.runner.retire();
        }
        if !Arc::ptr_eq(&before.current, &version) {
            before.current.runner.retire();
        }
        before.current.clone()
    }

    /// Gives a share of what comes next to another version, to see how it does.
    pub fn try_out(&self, version: Version, rule: Rollout) {
        let trial = Trial {
            candidate: Arc::new(version),
            rule,
            began: Instant::now(),
            old: Counts::default(),
            new: Counts::default(),
            failed: OnceLock::new(),
        };
        let next = Lineup { current: self.current(), trial: Some(trial) };
        let before = self.lineup.swap(Arc::new(next));
        if let Some(trial) = &before.trial {
            trial.candidate.runner.retire();
        }
    }

    /// Ends a trial without a verdict. Gives the version that was tried out.
    pub fn give_up(&self) -> Option<Arc<Version>> {
        let candidate = self.candidate()?;
        self.replace(self.current());
        Some(candidate)
    }

    /// Counts what came of a call. A new version that turns out worse gets nothing from then on.
    pub(super) fn note(&self, version: &Version, messages: usize, failed: usize) {
        let lineup = self.lineup.load();
        let Some(trial) = &lineup.trial else { return };
        if std::ptr::eq(version, &*trial.candidate) {
            trial.new.add(messages, failed);
            if let Decision::Return(why) = trial.decide() {
                // Of several lanes that see it, the first is right enough.
                let _ = trial.failed.set(why);
            }
        } else if std::ptr::eq(version, &*lineup.current) {
            trial.old.add(messages, failed);
        }
    }

    /// Ends the trial if it can be told how it went.
    pub fn conclude(&self) -> Option<Ended> {
        let lineup = self.lineup.load_full();
        let trial = lineup.trial.as_ref()?;
        let failed = trial.failed.get().cloned();
        match failed.map_or_else(|| trial.decide(), Decision::Return) {
            Decision::Wait => None,
            Decision::TakeOver => Some(Ended::TookOver(self.replace(trial.candidate.clone()))),
            Decision::Return(why) => {
                self.replace(lineup.current.clone());
                Some(Ended::Failed(trial.candidate.clone(), why))
            }
        }
    }
}

impl Trial {
    /// Whether the next delivery is the candidate's.
    fn draws(&self) -> bool {
        self.failed.get().is_none() && fastrand::u8(..100) < self.rule.percent
    }

    fn decide(&self) -> Decision {
        decide(&self.rule, self.began.elapsed(), self.old.tally(), self.new.tally())
    }
}

impl Counts {
    fn add(&self, messages: usize, failed: usize) {
        self.messages.fetch_add(messages as u64, Relaxed);
        self.failed.fetch_add(failed as u64, Relaxed);
    }

    fn tally(&self) -> Tally {
        // In this order, so that never more seem to have failed than there were.
        let failed = self.failed.load(Relaxed);
        Tally { messages: self.messages.load(Relaxed).max(failed), failed }
    }
}
