//! Which of a manifest's handlers a command is about, on which streams, and as which groups.

use super::Failure;
use super::source::Source;
use crate::broker::Broker;
use crate::manifest::{Handler, Manifest, Supply};

/// The Redis of a command, and the groups it is about.
pub(super) struct Groups {
    pub(super) broker: Broker,
    /// A handler for each of its streams and groups.
    pub(super) handlers: Vec<Handler>,
    /// The handlers as the manifest has them.
    chosen: Vec<Handler>,
}

impl Groups {
    /// Connects, and finds the groups of these handlers; of all without a name.
    pub(super) async fn open(
        source: &Source,
        names: &[String],
        client: &str,
    ) -> Result<Self, Failure> {
        let manifest = source.manifest.load()?;
        let chosen = choose(&manifest, names)?;
        let broker = source.connect(client).await?;
        let mut handlers = Vec::new();
        for handler in &chosen {
            handlers.extend(broker.on_each_group(handler).await?);
        }
        Ok(Self { broker, handlers, chosen: chosen.into_iter().cloned().collect() })
    }

    /// Why what is handed to these handlers now is not handled at once. What cannot be asked is not said:
    /// it only goes with what was done.
    pub(super) async fn holdups(&self) -> Vec<String> {
        let mut holdups = Vec::new();
        for handler in &self.chosen {
            let name = &handler.name;
            if let Ok(Some(_)) = self.broker.paused(handler).await {
                holdups.push(format!("`{name}` is paused: `tidegate resume {name}` has it go on"));
            }
            let mut streams = handler.on_each_stream();
            let Ok(group) = self.broker.inspect(&streams.swap_remove(0)).await else { continue };
            if group.is_none_or(|group| group.hosts.iter().all(|host| host.sign.is_none())) {
                holdups
                    .push(format!("no host of `{name}` is alive: the next to start takes it up"));
            }
        }
        holdups
    }
}

/// The handlers of these names, each once; all without a name. Says which of them keep nothing.
fn choose<'a>(manifest: &'a Manifest, names: &[String]) -> Result<Vec<&'a Handler>, Failure> {
    let mut chosen: Vec<&Handler> = Vec::new();
    for name in names {
        let handler = named(manifest, name)?;
        if !chosen.iter().any(|other| other.name == handler.name) {
            chosen.push(handler);
        }
    }
    if names.is_empty() {
        chosen = manifest.handlers.iter().collect();
    }
    let (channels, streams): (Vec<_>, Vec<_>) =
        chosen.into_iter().partition(|handler| handler.supply == Supply::Channel);
    if streams.is_empty() && !names.is_empty() {
        return Err(Failure::Usage(keeps_nothing(&channels)));
    }
    if !channels.is_empty() {
        eprintln!("{}", keeps_nothing(&channels));
    }
    Ok(streams)
}

/// The handler of this name.
pub(super) fn named<'a>(manifest: &'a Manifest, name: &str) -> Result<&'a Handler, Failure> {
    manifest.handler(name).ok_or_else(|| {
        let known: Vec<_> = manifest.handlers.iter().map(|h| format!("`{}`", h.name)).collect();
        let file = manifest.path.display();
        Failure::Usage(format!("{file} has no handler `{name}`; it has {}", known.join(", ")))
    })
}

/// Why there is nothing to say of handlers on channels.
fn keeps_nothing(handlers: &[&Handler]) -> String {
    let names: Vec<_> = handlers.iter().map(|handler| format!("`{}`", handler.name)).collect();
    let names = names.join(", ");
    format!("{names}: on a channel, which keeps nothing: no message is pending, retried or buried")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::manifest::ProcessEnvironment;

    fn manifest() -> Manifest {
        let text = "[handler.a]\nplugin = \"a.wasm\"\nstream = \"s\"\n\
            [handler.b]\nplugin = \"b.wasm\"\nchannel = \"c\"\n";
        Manifest::parse(text, Path::new("t.toml"), &ProcessEnvironment).unwrap()
    }

    #[test]
    fn without_a_name_all_that_keep_something_are_chosen() {
        let manifest = manifest();
        let chosen = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let chosen = choose(&manifest, &names);
            chosen.map(|all| all.iter().map(|h| h.name.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(chosen(&[]).unwrap(), ["a"]);
        assert_eq!(chosen(&["a", "b", "a"]).unwrap(), ["a"]);
        assert!(chosen(&["b"]).unwrap_err().to_string().contains("`b`: on a channel"));
        let unknown = chosen(&["c"]).unwrap_err().to_string();
        assert_eq!(unknown, "t.toml has no handler `c`; it has `a`, `b`");
    }
}
