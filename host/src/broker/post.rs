//! What everyone at work on one handler's stream shares: the reader, what comes back, the settlements.

use std::sync::Arc;
use std::time::SystemTime;

use redis::RedisResult;

use super::keys::Keys;
use super::lanes::Lanes;
use super::letter::{ADDED, Death, epitaph};
use super::link::Link;
use super::wake::Wake;
use crate::figures::Figures;
use crate::manifest::{Handler, Start};
use crate::message::{Field, Held};

/// One handler on its stream, under the name that it reads as.
pub(super) struct Post {
    pub link: Link,
    pub handler: Handler,
    pub keys: Keys,
    pub consumer: String,
    /// The digest of the plugin that handles messages.
    pub plugin: Arc<str>,
    /// What is in hand.
    pub held: Arc<Held>,
    pub figures: Arc<Figures>,
    pub wake: Wake,
    /// Whose turn it is, where order is kept.
    pub lanes: Option<Arc<Lanes>>,
}

impl Post {
    /// The fields that a dead letter has besides the original ones.
    pub(super) fn epitaph(&self, death: &Death<'_>) -> [Field; ADDED] {
        epitaph(&self.handler, &self.plugin, death, SystemTime::now())
    }

    /// Creates the group, and the stream with it; a group that exists is a success (`XGROUP CREATE`).
    pub(super) async fn create_group(&self, start: Start) -> RedisResult<()> {
        let from = match start {
            Start::Beginning => "0",
            Start::New => "$",
        };
        let mut command = redis::cmd("XGROUP");
        command.arg("CREATE").arg(&*self.handler.stream).arg(&*self.handler.group);
        match self.link.query(command.arg(from).arg("MKSTREAM")).await {
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
