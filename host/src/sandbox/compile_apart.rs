//! Compiling in a child process, so that it can be bounded and its failures harm nobody.
//!
//! The child is this very program again. It gets the plugin on standard input, answers with
//! the artefact on standard output, or with a sentence on standard error, and has nothing else of the host:
//! no environment, no files. It is bounded in time by the host, which kills it, and in memory by a
//! limit that it sets itself before it reads anything.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit};

use super::compile;
use super::door::{self, Refusal};
use super::engine;
use super::trust::{ARTEFACT_BYTES, Artefact, Recipe};

/// The command line's name for the child; the rest of what it is told follows.
pub const COMMAND: &str = "compile-one";

/// Exit status of a child that has refused a plugin and says why.
const REFUSED: u8 = 3;

/// Memory for compiling anything at all.
const MEMORY: u64 = 2 << 30;

/// Memory beyond that for each byte of a plugin: three times what interpreters were seen to need.
const MEMORY_PER_BYTE: u64 = 64;

/// A sentence is shorter than this. What a crash prints beyond it nobody reads.
const SENTENCE: u64 = 16 << 10;

/// How often a child is looked at that has neither ended nor closed its output.
const LOOK: Duration = Duration::from_millis(50);

/// Below all that handles messages, which gets nine tenths of a core that both want. Lower still,
/// compiling would take for ever beside neighbours that are always busy.
const NICE: i32 = 10;

/// This program, to be started again.
#[derive(Debug, Clone)]
pub struct Program(PathBuf);

impl Program {
    /// The running program, also when its file has been replaced by another since it started.
    ///
    /// # Errors
    ///
    /// When the system does not tell which file that is.
    pub fn this() -> io::Result<Self> {
        if cfg!(target_os = "linux") {
            return Ok(Self(PathBuf::from("/proc/self/exe")));
        }
        std::env::current_exe().map(Self)
    }
}

/// Compiles a plugin in a child, for at most so long.
pub(super) fn compile(
    program: &Program,
    time: Duration,
    wasm: &[u8],
    recipe: &Recipe,
) -> Result<Artefact, Refusal> {
    let memory = MEMORY.saturating_add(MEMORY_PER_BYTE.saturating_mul(wasm.len() as u64));
    let ended = start(program, memory)
        .and_then(|child| converse(child, wasm, Instant::now() + time))
        .map_err(|error| Refusal::NoCompiler(error.to_string()))?;
    match ended.status {
        None => Err(Refusal::CompileTime(time)),
        Some(status) if status.success() => Artefact::of_child(ended.output, recipe)
            .map_err(|distrust| Refusal::NoCompiler(format!("what it made {distrust}"))),
        Some(status) => Err(why(status, &ended.words, memory)),
    }
}

fn start(program: &Program, memory: u64) -> io::Result<Child> {
    let numbers = [memory, u64::from(std::process::id())];
    Command::new(&program.0)
        .arg0("tidegate")
        .arg(COMMAND)
        .args(numbers.map(|number| OsString::from(number.to_string())))
        .env_clear()
        .current_dir("/")
        // A terminal's interrupt is for the host, which finishes what it is at.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// What came of a child.
struct Ended {
    /// None when its time was up.
    status: Option<ExitStatus>,
    output: Vec<u8>,
    words: String,
}

/// Gives a child its input, takes its output, and waits for its end. It does not outlive this.
fn converse(mut child: Child, wasm: &[u8], deadline: Instant) -> io::Result<Ended> {
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::Error::other("no pipes to it"));
    };
    let waiting = thread::current();
    thread::scope(|scope| {
        // A child that has ended takes no more; how it ended says why.
        scope.spawn(move || drop(stdin.write_all(wasm)));
        let output = scope.spawn({
            let waiting = waiting.clone();
            move || collect(stdout, ARTEFACT_BYTES, &waiting)
        });
        let words = scope.spawn(move || collect(stderr, SENTENCE, &waiting));
        let status = wait(&mut child, deadline);
        // Also where the wait failed: the pipes end with the child.
        let _ = child.kill();
        let _ = child.wait();
        let output = output.join().unwrap_or_default();
        let words = words.join().unwrap_or_default();
        Ok(Ended { status: status?, output, words: String::from_utf8_lossy(&words).into_owned() })
    })
}

fn collect(mut pipe: impl Read, most: u64, waiting: &Thread) -> Vec<u8> {
    let mut read = Vec::new();
    let _ = pipe.by_ref().take(most).read_to_end(&mut read);
    // What is beyond is read, so that nothing waits for it, and left.
    let _ = io::copy(&mut pipe, &mut io::sink());
    waiting.unpark();
    read
}

/// How a child ended; none when it has not until the deadline.
fn wait(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        // The end of its output ends this wait: it is about to end, or does so soon.
        thread::park_timeout(left.min(LOOK));
    }
}

/// The refusal that the end of a child stands for.
fn why(status: ExitStatus, words: &str, memory: u64) -> Refusal {
    let words = words.trim();
    if status.code() == Some(i32::from(REFUSED)) && !words.is_empty() {
        return Refusal::Reported(words.to_owned());
    }
    // The first is how Rust's programs end for want of memory, the second what the system says.
    if words.contains("memory allocation of") || words.contains("Cannot allocate memory") {
        return Refusal::CompileMemory(memory);
    }
    let last = words.lines().next_back().unwrap_or_default();
    tracing::debug!(%status, said = last, "the compiler broke");
    match status.signal() {
        Some(9) => Refusal::CompilerKilled,
        Some(_) | None => Refusal::CompilerBroke(status.to_string()),
    }
}

/// The child's side: reads a plugin, compiles it within its bounds, and writes what came of it.
pub fn child(memory: u64, parent: u32) -> ExitCode {
    let bounded = bound(memory, parent).and_then(|()| {
        let mut wasm = Vec::new();
        io::stdin().lock().read_to_end(&mut wasm).map(|_| wasm)
    });
    let wasm = match bounded {
        Ok(wasm) => wasm,
        Err(error) => return refuse(&Refusal::NoCompiler(error.to_string())),
    };
    let engine = match engine::compiling(door::dialect(&wasm)) {
        Ok(engine) => engine,
        Err(error) => return refuse(&Refusal::NoCompiler(format!("{error:#}"))),
    };
    match compile::artefact(&wasm, &engine) {
        // Nobody listens any more: there is nobody to tell.
        Ok(artefact) => match io::stdout().lock().write_all(artefact.bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(refusal) => refuse(&refusal),
    }
}

fn refuse(refusal: &Refusal) -> ExitCode {
    eprintln!("{refusal}");
    ExitCode::from(REFUSED)
}

/// Ends with the parent, gives way to everyone, and takes no more memory than this.
fn bound(memory: u64, parent: u32) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if std::os::unix::process::parent_id() != parent {
        return Err(io::Error::other("who wanted it is gone"));
    }
    // A host that is as low already stays so.
    let _ = rustix::process::setpriority_process(None, NICE);
    // What may be written to counts, and not addresses: allocators reserve those by the gibibyte.
    let most = Rlimit { current: Some(memory), maximum: Some(memory) };
    rustix::process::setrlimit(Resource::Data, most)?;
    // A crash is reported by its status; a core file would be as large as the limit.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none)?;
    Ok(())
}
