//! `tidegate compile`: fills the cache of compiled plugins ahead of time, and the child that compiles one.

use std::path::PathBuf;
use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Args;
use comfy_table::{Cell, CellAlignment};

use super::source::ManifestFile;
use super::{Failure, print};
use crate::host::{self, Attempted};
use crate::manifest::Cache;
use crate::sandbox::{Origin, compile_one};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    manifest: ManifestFile,
    /// Where compiled plugins are kept [default: the manifest's `cache` in [host]]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut manifest = arguments.manifest.load()?;
    if let Some(cache) = &arguments.cache {
        manifest.host.cache =
            if cache.as_os_str() == "off" { Cache::Off } else { Cache::At(cache.clone()) };
    }
    let attempted = tokio::task::block_in_place(|| host::compile(&manifest))?;
    let rows = attempted.iter().map(row).collect();
    print::text(&print::table(&["plugin", "code", "size", "time"], rows))?;
    let problems: Vec<String> = attempted.iter().filter_map(problem).collect();
    if problems.is_empty() { Ok(()) } else { Err(Failure::Wrong(problems.join("\n  "))) }
}

fn row(attempted: &Attempted) -> Vec<Cell> {
    let code = match attempted.plugin.as_ref().map(|plugin| plugin.origin()) {
        Ok(Origin::Cache) => "cached",
        Ok(Origin::Compiled) => "compiled",
        Ok(Origin::Unkept(_)) => "not kept",
        Err(_) => "refused",
    };
    let size = std::fs::metadata(&attempted.path).map(|file| ByteSize::b(file.len()).to_string());
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    vec![
        Cell::new(attempted.path.display()),
        Cell::new(code),
        right(size.unwrap_or_else(|_| print::ABSENT.to_owned())),
        right(format!("{:.2} s", attempted.elapsed.as_secs_f64())),
    ]
}

/// Why the next start would have to compile it.
fn problem(attempted: &Attempted) -> Option<String> {
    match &attempted.plugin {
        Ok(plugin) => match plugin.origin() {
            Origin::Cache | Origin::Compiled => None,
            Origin::Unkept(why) => {
                let why = why.as_ref().map_or("there is no cache".to_owned(), ToString::to_string);
                Some(format!("{}: is not kept: {why}", attempted.path.display()))
            }
        },
        Err(error) => {
            let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
            Some(format!("{error}{}", cause.unwrap_or_default()))
        }
    }
}

/// What a host says to the child that compiles a plugin.
#[derive(Debug, Args)]
pub(super) struct One {
    /// Bytes of memory it may use
    memory: u64,
    /// The process that waits for it
    parent: u32,
}

impl One {
    pub(super) fn run(&self) -> ExitCode {
        compile_one(self.memory, self.parent)
    }
}
