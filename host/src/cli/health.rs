//! `tidegate health`: whether the manifest's host on this machine is ready, as an exit status.

use std::time::Duration;

use clap::Args;

use super::source::ManifestFile;
use super::{Failure, print};
use crate::admin::{self, LIVE, READY};
use crate::host::sentence;
use crate::manifest::{AdminAddress, Manifest, duration};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    manifest: ManifestFile,
    /// Ask whether it is alive, ready or not
    #[arg(long)]
    live: bool,
    /// How long it may take to answer, such as 500ms
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = patience)]
    timeout: Duration,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let manifest = arguments.manifest.load()?;
    let address = address(&manifest)?;
    let path = if arguments.live { LIVE } else { READY };
    let place = format!("http://{}{path}", address.from_here());
    match admin::ask(address, path, arguments.timeout).await {
        Ok(answer) if answer.is_good => print::text(&answer.body).map(drop),
        Ok(answer) => Err(Failure::Wrong(format!("{place} says: {}", answer.body.trim_end()))),
        Err(error) => Err(Failure::Wrong(format!("{place}: {}", sentence(&error)))),
    }
}

/// Where the manifest's host can be asked.
fn address(manifest: &Manifest) -> Result<&AdminAddress, Failure> {
    let file = manifest.path.display();
    let Some(address) = &manifest.host.admin else {
        return Err(Failure::Usage(format!(
            "{file}: there is no admin server to ask; add admin = \"127.0.0.1:9464\" under [host]"
        )));
    };
    if address.port == 0 {
        return Err(Failure::Usage(format!(
            "{file}:{}: host.admin: with port 0 nobody can tell which it is; name one",
            address.line
        )));
    }
    Ok(address)
}

fn patience(text: &str) -> Result<Duration, String> {
    let patience = duration(text).filter(|patience| !patience.is_zero());
    patience.ok_or_else(|| "expected a duration such as 2s".to_owned())
}
