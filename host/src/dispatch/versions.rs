//! Which version of its plugin a handler's deliveries go to.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::sandbox::Runner;

/// The plugin of a handler, which may be replaced while messages are handled.
pub struct Versions {
    current: ArcSwap<Runner>,
}

impl Versions {
    /// A handler that begins with this version.
    pub fn new(runner: Runner) -> Self {
        Self { current: ArcSwap::from_pointee(runner) }
    }

    /// The version that handles the next delivery. Whoever has it may finish with it.
    pub fn pick(&self) -> Arc<Runner> {
        self.current.load_full()
    }
}
