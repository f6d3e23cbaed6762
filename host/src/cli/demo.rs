//! `tidegate demo`: the bundled example with real messages on a private Redis.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use comfy_table::{Cell, CellAlignment};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, print};
use crate::demo::{self, Audience, BURST, Line, PACE, PACED, Story};
use crate::manifest::Manifest;
use crate::shutdown::{self, Stop};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The manifest of the order pipeline [default: the bundled example]
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let missing = || {
        Failure::Usage(
            "the bundled example is not here; run this in a clone of the repository after `make plugins`, \
             or name it with --manifest FILE"
                .to_owned(),
        )
    };
    let file = arguments.manifest.or_else(demo::bundled).ok_or_else(missing)?;
    let manifest = Manifest::load(&file)?;
    let stop = Stop::new();
    let signals = shutdown::listen().map_err(Failure::system("listen for signals"))?;
    let watching = tokio::spawn(signals.request(stop.clone()));

    introduce(&file, &manifest);
    let bar = Bar::new();
    let story = demo::play(&manifest, &bar, &stop).await;
    bar.0.finish_and_clear();
    watching.abort();
    tell(&story?)
}

fn introduce(file: &Path, manifest: &Manifest) {
    let names: Vec<_> = manifest.handlers.iter().map(|handler| &*handler.name).collect();
    eprintln!("{}: {}", file.display(), names.join(" → "));
    eprintln!(
        "{BURST} orders at once, then {PACED} at {PACE} a second; among them some that fail twice, \
         one that traps, one that loops for ever, one that is not JSON."
    );
}

struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} orders, {elapsed}");
        bar.set_style(style.expect("the template is constant and valid"));
        Self(bar)
    }
}

impl Audience for Bar {
    fn ready(&self, server: &Path) {
        eprintln!("A private {} runs for as long as this does.", server.display());
    }

    fn progress(&self, ended: u64, sent: u64) {
        self.0.set_length(sent);
        self.0.set_position(ended);
    }
}

fn tell(story: &Story) -> Result<(), Failure> {
    print::text(&format!("{}\n{}", handlers(story), sums(story)))?;
    if !story.objections.is_empty() {
        let objections = story.objections.join("; ");
        return Err(Failure::Wrong(format!("the sums do not hold: {objections}")));
    }
    eprintln!("\n{NEXT}");
    Ok(())
}

const NEXT: &str = "\
Every order was either invoiced once or buried with its reason. What to type next:
  cat examples/orders/tidegate.toml          the manifest that this ran
  cat plugins/README.md                      write a handler of your own in Rust
  target/release/tidegate run --manifest examples/orders/tidegate.toml
                                             the same on a Redis of yours, on port 6379
  target/release/tidegate help               everything else";

fn handlers(story: &Story) -> String {
    let row = |line: &Line| {
        vec![
            Cell::new(&line.handler),
            number(line.handled),
            number(line.retried),
            number(line.dead),
            millis(line.p50),
            millis(line.p99),
        ]
    };
    let columns = ["handler", "handled", "retried", "dead", "p50", "p99"];
    print::table(&columns, story.lines.iter().map(row).collect())
}

fn sums(story: &Story) -> String {
    let mut rows = vec![
        vec![Cell::new("sent"), number(story.sent)],
        vec![Cell::new("invoiced"), number(story.results)],
    ];
    for (reason, count) in &story.dead {
        rows.push(vec![Cell::new(format!("dead: {reason}")), number(*count)]);
    }
    rows.push(vec![Cell::new("messages a second"), number(story.rate as u64)]);
    print::table(&["orders", ""], rows)
}

fn number(count: u64) -> Cell {
    Cell::new(count).set_alignment(CellAlignment::Right)
}

/// Entry ids tell milliseconds, so that is as fine as it gets.
fn millis(wait: Duration) -> Cell {
    let text = match wait.as_millis() {
        0 => "< 1 ms".to_owned(),
        wait => format!("{wait} ms"),
    };
    Cell::new(text).set_alignment(CellAlignment::Right)
}
