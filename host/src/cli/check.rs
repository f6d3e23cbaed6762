//! `tidegate check`: everything that `run` would refuse, without a connection.

use clap::Args;

use super::Failure;
use super::source::ManifestFile;
use crate::host::Plugins;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    manifest: ManifestFile,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let manifest = arguments.manifest.load()?;
    let plugins = tokio::task::block_in_place(|| Plugins::load(&manifest))?;
    for (handler, plugin) in manifest.handlers.iter().zip(plugins.iter()) {
        println!("{}: {} ({})", handler.name, plugin.path().display(), plugin.digest());
    }
    println!("{}: nothing to complain about", manifest.path.display());
    Ok(())
}
