//! `tidegate check`: everything that `run` would refuse, without a connection.

use clap::Args;

use super::source::ManifestFile;
use super::{Failure, print};
use crate::host::Plugins;
use crate::manifest::Handler;
use crate::sandbox::Plugin;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    manifest: ManifestFile,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let manifest = arguments.manifest.load()?;
    let plugins = tokio::task::block_in_place(|| Plugins::load(&manifest))?;
    let row = |(handler, plugin): (&Handler, &Plugin)| {
        format!("{}: {} ({})\n", handler.name, plugin.path().display(), plugin.digest())
    };
    let rows: String = manifest.handlers.iter().zip(plugins.iter()).map(row).collect();
    print::text(&rows)?;
    eprintln!("{}: nothing to complain about", manifest.path.display());
    Ok(())
}
