//! `tidegate rollback`: has every host go back to the version of a plugin before, or lets one be
//! tried again.

use std::collections::BTreeSet;

use clap::Args;
use serde::Serialize;

use super::groups::named;
use super::pause::oneself;
use super::source::Source;
use super::{Failure, print};
use crate::broker::{Broker, Sign};
use crate::manifest::{Digest, Handler};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The handler, by its name in the manifest
    handler: String,
    /// The version to take back, as `sha256:` and 64 digits; by default the newest at work
    #[arg(long, value_parser = digest)]
    digest: Option<Digest>,
    /// Let the version, or without --digest all of them, be put to work again
    #[arg(long)]
    undo: bool,
    /// Why, for whoever wonders later
    #[arg(long, value_name = "TEXT", default_value = "", conflicts_with = "undo")]
    why: String,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

fn digest(text: &str) -> Result<Digest, String> {
    Digest::parse(text).ok_or_else(|| "expected `sha256:` and 64 hexadecimal digits".to_owned())
}

/// What was done.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Done {
    handler: String,
    /// Versions that no host puts to work from now on.
    taken_back: Vec<String>,
    /// Versions that may be put to work again.
    allowed: Vec<String>,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let manifest = arguments.source.manifest.load()?;
    let handler = named(&manifest, &arguments.handler)?;
    let broker = arguments.source.connect("tidegate-rollback").await?;
    let (taken_back, allowed) = if arguments.undo {
        (Vec::new(), allow(&broker, handler, arguments.digest).await?)
    } else {
        let digest = match arguments.digest {
            Some(digest) => digest,
            None => newest(handler, &signs(&broker, handler).await?)?,
        };
        broker.roll_back(handler, &digest, &oneself(), &arguments.why).await?;
        (vec![digest.to_string()], Vec::new())
    };
    let done = Done { handler: handler.name.to_string(), taken_back, allowed };
    let printed = if arguments.json { print::json(&done) } else { print::text(&done.text()) };
    printed.map(drop)
}

impl Done {
    fn text(&self) -> String {
        let name = &self.handler;
        let taken = self.taken_back.iter().map(|digest| {
            format!("{name}: {digest} is taken back by every host within seconds, and not put to work again\n")
        });
        let allowed = self
            .allowed
            .iter()
            .map(|digest| format!("{name}: {digest} may be put to work again\n"));
        let text: String = taken.chain(allowed).collect();
        if text.is_empty() { format!("{name}: nothing was rolled back\n") } else { text }
    }
}

/// Lets one version be put to work again, or all of them.
async fn allow(
    broker: &Broker,
    handler: &Handler,
    digest: Option<Digest>,
) -> Result<Vec<String>, Failure> {
    let rolled_back = broker.rolled_back(handler).await?;
    let mut allowed = Vec::new();
    for refused in rolled_back.keys().filter(|refused| digest.is_none_or(|one| one == **refused)) {
        if broker.allow_again(handler, refused).await? {
            allowed.push(refused.to_string());
        }
    }
    match (digest, allowed.as_slice()) {
        (Some(digest), []) => {
            Err(Failure::Usage(format!("{digest} was not rolled back for `{}`", handler.name)))
        }
        (Some(_) | None, _) => Ok(allowed),
    }
}

/// What the hosts alive tell of a handler.
async fn signs(broker: &Broker, handler: &Handler) -> Result<Vec<Sign>, Failure> {
    let mut signs = Vec::new();
    for one in handler.on_each_stream() {
        let group = broker.inspect(&one).await?;
        let hosts = group.map(|group| group.hosts).unwrap_or_default();
        signs.extend(hosts.into_iter().filter_map(|host| host.sign));
    }
    Ok(signs)
}

/// The version that is newest on the hosts alive: one that is being tried out, or one that has another before it.
fn newest(handler: &Handler, signs: &[Sign]) -> Result<Digest, Failure> {
    let tried: BTreeSet<&str> =
        signs.iter().filter_map(|sign| sign.plugin_trying.as_deref()).collect();
    let swapped = signs.iter().filter(|sign| sign.plugin_before.is_some());
    let swapped: BTreeSet<&str> = swapped.map(|sign| &*sign.plugin).collect();
    let newest = if tried.is_empty() { swapped } else { tried };
    let name = &handler.name;
    match newest.into_iter().collect::<Vec<_>>().as_slice() {
        [one] => Digest::parse(one).ok_or_else(|| {
            Failure::Usage(format!(
                "a host of `{name}` tells of a plugin {one:?}, which is no digest"
            ))
        }),
        [] => Err(Failure::Usage(format!(
            "no host of `{name}` that is alive knows a version before the one at work; put the \
             earlier file in place, or name a version with --digest"
        ))),
        several => Err(Failure::Usage(format!(
            "the hosts of `{name}` differ in what is newest; name one with --digest: {}",
            several.join(", ")
        ))),
    }
}
