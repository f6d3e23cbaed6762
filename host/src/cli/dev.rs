//! `tidegate dev`: `run` with a private Redis when the manifest names none, and friendly logs.

use clap::Args;

use super::Failure;
use super::run::until_stopped;
use super::source::ManifestFile;
use crate::broker::PrivateServer;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    manifest: ManifestFile,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let manifest = arguments.manifest.load()?;
    if let Some(redis) = &manifest.redis {
        return until_stopped(&manifest, redis, None).await;
    }
    let server = PrivateServer::start()?;
    let redis = server.settings();
    eprintln!("A private Redis ({}) runs for as long as this does.", server.program().display());
    eprintln!("Append a message to it from another terminal:");
    for handler in manifest.handlers.iter().take(1) {
        eprintln!("  tidegate publish {} name=value --redis {redis}", handler.stream);
    }
    until_stopped(&manifest, &redis, None).await
}
