//! Which version of its plugin a handler's deliveries go to.

use std::num::NonZeroUsize;
use std::sync::Arc;

use arc_swap::ArcSwap;

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
            World::Plugin => 1,
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
}

impl Versions {
    /// A handler that begins with this version.
    pub fn new(version: Version) -> Self {
        let current = Arc::new(version);
        Self { lineup: ArcSwap::from_pointee(Lineup { current }) }
    }

    /// The version that handles the next delivery. Whoever has it may finish with it.
    pub fn pick(&self) -> Arc<Version> {
        self.lineup.load().current.clone()
    }

    /// Has another version handle what comes next. The one before finishes what it has; it is
    /// gone with its last call, its idle instances are at once.
    pub fn replace(&self, version: Version) {
        let current = Arc::new(version);
        let before = self.lineup.swap(Arc::new(Lineup { current }));
        before.current.runner.retire();
    }
}
