//! What a host tells of the plugin that serves a handler: which it is, since when, and why no newer one does.
//!
//! Written by the host where it swaps plugins; read into the sign of life and into dead letters.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

/// Which plugin serves a handler at this moment; clones share it.
#[derive(Debug, Clone)]
pub struct Serving(Arc<watch::Sender<Served>>);

/// What there is to tell of a handler's plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The digest of the plugin that gets new deliveries.
    pub plugin: Arc<str>,
    /// Since when it does.
    pub since: SystemTime,
    /// The digest of a newer one that gets a share of them first.
    pub trying: Option<Arc<str>>,
    /// The digest of the one that served before, which can be gone back to.
    pub previous: Option<Arc<str>>,
    /// Why the plugin's file, as it is now, is not at work.
    pub plugin_refused: Option<Arc<str>>,
    /// Why the manifest, as it is now, is not in force.
    pub manifest_refused: Option<Arc<str>>,
}

impl Serving {
    /// The plugin with this digest serves from now on.
    pub fn new(plugin: Arc<str>) -> Self {
        let since = SystemTime::now();
        let served = Served {
            plugin,
            since,
            trying: None,
            previous: None,
            plugin_refused: None,
            manifest_refused: None,
        };
        Self(Arc::new(watch::Sender::new(served)))
    }

    /// What there is to tell now.
    pub fn now(&self) -> Served {
        self.0.borrow().clone()
    }

    /// The digest of the plugin that gets new deliveries.
    pub fn plugin(&self) -> Arc<str> {
        self.0.borrow().plugin.clone()
    }

    /// Another plugin serves from now on, and nothing is wrong with its file. The one that did so
    /// far can be gone back to.
    pub fn serve(&self, plugin: Arc<str>) {
        self.change(|served| {
            let previous = Some(std::mem::replace(&mut served.plugin, plugin));
            *served = Served {
                since: SystemTime::now(),
                trying: None,
                previous,
                plugin_refused: None,
                ..served.clone()
            };
        });
    }

    /// This plugin served before, and can be gone back to.
    pub fn remember(&self, previous: Option<Arc<str>>) {
        self.change(|served| served.previous = previous);
    }

    /// The plugin that served before serves again; this is why its successor does not.
    pub fn go_back(&self, plugin: Arc<str>, why: Arc<str>) {
        self.change(|served| {
            let (since, plugin_refused) = (SystemTime::now(), Some(why));
            *served = Served {
                plugin,
                since,
                trying: None,
                previous: None,
                plugin_refused,
                ..served.clone()
            };
        });
    }

    /// A newer plugin gets a share of the deliveries, and nothing is wrong with its file; or none does any more.
    pub fn try_out(&self, plugin: Option<Arc<str>>) {
        self.change(|served| {
            *served = Served { trying: plugin, plugin_refused: None, ..served.clone() };
        });
    }

    /// The plugin's file is not taken up, for this reason; `None` where it is as it should be.
    pub fn refuse_plugin(&self, why: Option<Arc<str>>) {
        self.change(|served| served.plugin_refused = why);
    }

    /// The manifest is not taken up, for this reason; `None` where it is in force.
    pub fn refuse_manifest(&self, why: Option<Arc<str>>) {
        self.change(|served| served.manifest_refused = why);
    }

    /// Hears of every change from now on.
    pub(super) fn listen(&self) -> watch::Receiver<Served> {
        self.0.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut Served)) {
        self.0.send_if_modified(|served| {
            let before = served.clone();
            change(served);
            *served != before
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_takes_over_ends_the_complaint_about_its_file_alone() {
        let serving = Serving::new("sha256:a".into());
        serving.refuse_plugin(Some("cut short".into()));
        serving.refuse_manifest(Some("no such key".into()));
        serving.serve("sha256:b".into());
        let served = serving.now();
        assert_eq!((&*served.plugin, served.plugin_refused), ("sha256:b", None));
        assert_eq!(served.manifest_refused.as_deref(), Some("no such key"));
    }

    #[test]
    fn what_changes_nothing_is_not_told() {
        let serving = Serving::new("sha256:a".into());
        let heard = serving.listen();
        serving.refuse_plugin(None);
        assert!(!heard.has_changed().unwrap());
        serving.refuse_plugin(Some("cut short".into()));
        assert!(heard.has_changed().unwrap());
    }
}
