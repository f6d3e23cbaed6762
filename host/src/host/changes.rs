//! Taking up what changes while the host runs: files that are other ones by now, and SIGHUP.
//!
//! One task does it all, one change after the other. How files are looked at is `watch`'s, what
//! a new plugin takes is `swap`'s, what a new manifest takes is `reload`'s.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::Host;
use super::watch::{Noticed, Watch};
use crate::shutdown::Hangups;

/// How often rollouts are looked at, and whether somebody asked for a rollback.
const ROLLOUTS_EVERY: Duration = Duration::from_secs(1);

impl Host {
    /// As [`Host::finished`], and takes up new plugins and a new manifest until a stop is requested.
    pub async fn keep_up(mut self, mut hangups: Option<Hangups>) {
        let mut watch = Watch::new(self.threads());
        self.aim(&mut watch);
        let stop = self.stop.clone();
        let mut rollouts = interval(ROLLOUTS_EVERY);
        rollouts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = self.tasks.join_next() => super::tell_of(ended),
                () = hang_up(hangups.as_mut()) => {
                    tracing::info!("SIGHUP: reading the manifest and the plugins again");
                    self.refused_manifest = None;
                    self.employed.iter_mut().for_each(|employed| employed.refused = None);
                    watch.forget();
                }
                _ = rollouts.tick() => {
                    for again in self.see_to_rollouts().await {
                        self.take_up(again, &mut watch).await;
                    }
                }
                noticed = watch.next() => {
                    for change in noticed {
                        self.take_up(change, &mut watch).await;
                    }
                    self.aim(&mut watch);
                }
            }
        }
        self.finished().await;
    }

    async fn take_up(&mut self, change: Noticed, watch: &mut Watch) {
        if self.stop.is_cancelled() {
            return;
        }
        if change.path == self.manifest.path {
            self.reload(change.look, watch).await;
        } else {
            self.swap(&change).await;
        }
    }

    /// Takes up plugins alone, while a manifest waits for handlers to end.
    pub(super) async fn take_up_plugins(&mut self, changes: Vec<Noticed>, watch: &mut Watch) {
        for change in changes {
            if change.path == self.manifest.path {
                watch.put_off(&change);
            } else {
                self.swap(&change).await;
            }
        }
    }

    /// Has the manifest and the plugins of the handlers at work watched.
    fn aim(&self, watch: &mut Watch) {
        let plugins = self.employed.iter().map(|employed| &*employed.handler.plugin);
        watch.follow(std::iter::once(&*self.manifest.path).chain(plugins));
    }
}

async fn hang_up(hangups: Option<&mut Hangups>) {
    match hangups {
        Some(hangups) => hangups.next().await,
        None => std::future::pending().await,
    }
}
