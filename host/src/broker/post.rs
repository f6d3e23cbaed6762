//! What everyone at work on one handler's stream shares: the reader, what comes back, the settlements.

use std::sync::Arc;
use std::time::SystemTime;

use redis::RedisResult;

use super::capability::Ability;
use super::delay::Delays;
use super::keys::Keys;
use super::lanes::{After, Lanes};
use super::letter::{ADDED, Death, epitaph};
use super::link::Link;
use super::presence::Name;
use super::serving::Serving;
use super::valve::Valve;
use super::wake::Wake;
use crate::figures::Figures;
use crate::manifest::{Digest, Handler, Start, Trim};
use crate::message::{Field, Held, Receipt};

/// One handler on its stream, under the name that it reads as.
pub(super) struct Post {
    pub link: Link,
    pub handler: Handler,
    pub keys: Keys,
    pub consumer: Name,
    /// The plugin that handles messages.
    pub serving: Serving,
    /// What is in hand.
    pub held: Arc<Held>,
    pub figures: Arc<Figures>,
    pub wake: Wake,
    pub valve: Arc<Valve>,
    pub delays: Arc<Delays>,
    /// Whose turn it is, where order is kept.
    pub lanes: Option<Arc<Lanes>>,
}

/// How an entry is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acknowledge {
    /// It stays on the stream.
    Only,
    /// It goes from the stream where every group has acknowledged it.
    AndDelete,
}

impl Acknowledge {
    pub(super) fn command(self) -> &'static str {
        match self {
            Self::Only => "XACK",
            Self::AndDelete => "XACKDEL",
        }
    }
}

impl Post {
    /// How entries are acknowledged on the server that is there now.
    pub(super) fn acknowledges_by(&self) -> Acknowledge {
        match self.handler.trim {
            Trim::Handled if self.link.abilities().has(Ability::AckDelete) => {
                Acknowledge::AndDelete
            }
            Trim::Handled | Trim::Never => Acknowledge::Only,
        }
    }

    /// The fields that a dead letter has besides the original ones. It names the plugin that saw
    /// the message last, or, where none did, the one that would have.
    pub(super) fn epitaph(&self, plugin: Option<Digest>, death: &Death<'_>) -> [Field; ADDED] {
        let now = SystemTime::now();
        match plugin {
            Some(plugin) => epitaph(&self.handler, &plugin.to_string(), death, now),
            None => epitaph(&self.handler, &self.serving.plugin(), death, now),
        }
    }

    /// Lets go of receipts; where order is kept, that tells those behind whether it is their turn.
    pub(super) fn let_go(&self, settled: impl Iterator<Item = (Receipt, After)>) {
        let Some(lanes) = &self.lanes else {
            return self.held.discharge(settled.map(|(receipt, _)| receipt));
        };
        let settled: Vec<_> = settled.collect();
        let after: Vec<_> = settled.iter().map(|(receipt, after)| (receipt.id(), *after)).collect();
        lanes.settled(after, || {
            self.held.discharge(settled.into_iter().map(|(receipt, _)| receipt));
        });
    }

    /// Creates the group, and the stream with it; a group that exists is a success (`XGROUP CREATE`).
    pub(super) async fn create_group(&self, start: Start) -> RedisResult<()> {
        let mut command = redis::cmd("XGROUP");
        command.arg("CREATE").arg(&*self.handler.stream).arg(&*self.handler.group);
        match self.link.query(command.arg(start.id()).arg("MKSTREAM")).await {
            Err(error) if error.code() == Some("BUSYGROUP") => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use crate::manifest::{Handler, Manifest, ProcessEnvironment};

    /// A handler with every default, on the stream `orders`.
    pub(in crate::broker) fn handler() -> Handler {
        let text = "[handler.h]\nplugin = \"h.wasm\"\nstream = \"orders\"";
        let manifest = Manifest::parse(text, Path::new("tidegate.toml"), &ProcessEnvironment);
        manifest.unwrap().handlers.remove(0)
    }
}
