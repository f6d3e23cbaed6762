//! `tidegate test`: handlers on fixture messages, without Redis.

use std::env;
use std::fmt::Write as _;
use std::io::{IsTerminal, stdout};
use std::path::PathBuf;

use clap::Args;

use super::source::ManifestFile;
use super::{Failure, print};
use crate::rehearsal::{Rehearsal, Side, Verdict, Wanted};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Fixture files, or folders of them; the folder `fixtures` beside the manifest if there are none
    #[arg(value_name = "FIXTURE")]
    fixtures: Vec<PathBuf>,
    /// Only the cases of this handler; may be given several times
    #[arg(long, value_name = "NAME")]
    handler: Vec<String>,
    #[command(flatten)]
    manifest: ManifestFile,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let manifest = arguments.manifest.load()?;
    let wanted = Wanted { files: arguments.fixtures, handlers: arguments.handler };
    let rehearsal = tokio::task::block_in_place(|| Rehearsal::prepare(&manifest, &wanted))?;
    let paint = Paint::of_stdout();
    let mut verdicts: Vec<Verdict> = Vec::new();
    rehearsal
        .run(|verdict| {
            if !arguments.json {
                print::text(&told(&verdict, paint))?;
            }
            verdicts.push(verdict);
            Ok::<_, Failure>(())
        })
        .await?;
    if arguments.json {
        print::json(&verdicts)?;
    }
    let failed = verdicts.iter().filter(|verdict| !verdict.passed).count();
    let all = print::count(verdicts.len() as u64, "case");
    if failed > 0 {
        return Err(Failure::Wrong(format!("{failed} of {all} failed")));
    }
    eprintln!("{all} passed");
    Ok(())
}

/// Whether lines are coloured.
#[derive(Debug, Clone, Copy)]
enum Paint {
    Colours,
    Plain,
}

const RED: &str = "31";
const GREEN: &str = "32";

impl Paint {
    fn of_stdout() -> Self {
        let wished = env::var_os("NO_COLOR").is_none_or(|wish| wish.is_empty());
        if wished && stdout().is_terminal() { Self::Colours } else { Self::Plain }
    }

    fn paint(self, colour: &str, text: &str) -> String {
        match self {
            Self::Colours => format!("\x1b[{colour}m{text}\x1b[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}

/// One case, in as many lines as it needs.
fn told(verdict: &Verdict, paint: Paint) -> String {
    let Verdict { file, handler, case, difference, printed, backtraces, .. } = verdict;
    let name = print::legible(case.as_bytes());
    let Some(difference) = difference else {
        return format!("{}  {handler}: {name}\n", paint.paint(GREEN, "pass"));
    };
    let mut told =
        format!("{}  {handler}: {name}  ({})\n", paint.paint(RED, "FAIL"), file.display());
    told.push_str("      - expected, + came\n");
    for (side, line) in difference.lines() {
        let line = print::legible(line.as_bytes());
        let line = match side {
            Side::Expected => paint.paint(RED, &format!("- {line}")),
            Side::Actual => paint.paint(GREEN, &format!("+ {line}")),
            Side::Both | Side::Gap => format!("  {line}"),
        };
        let _ = writeln!(told, "      {line}");
    }
    section(&mut told, "printed", printed.iter().map(String::as_str));
    for backtrace in backtraces {
        section(&mut told, "backtrace", backtrace.lines());
    }
    told
}

fn section<'l>(told: &mut String, title: &str, lines: impl Iterator<Item = &'l str>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        let _ = writeln!(told, "      {title}:");
    }
    for line in lines {
        let _ = writeln!(told, "        {}", print::legible(line.as_bytes()).trim_end());
    }
}
