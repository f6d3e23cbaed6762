//! The rules of the house that a machine can hold: who may import whom, and what no file may contain.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms in the order in which imports point: each may use those before it.
/// Rooms of one line never see each other.
const ROOMS: [&[&str]; 11] = [
    &["message"],
    &["outcome"],
    &["manifest"],
    &["health"],
    &["figures", "shutdown", "telemetry"],
    &["broker", "sandbox"],
    &["dispatch"],
    &["host"],
    &["admin", "demo", "rehearsal"],
    &["cli"],
    &["main", "lib"],
];

/// Files longer than this are not read in one sitting.
const FILE_LINES: usize = 450;

/// Functions longer than this do not fit a screen.
const FUNCTION_LINES: usize = 60;

struct File {
    path: PathBuf,
    text: String,
}

impl File {
    fn shown(&self) -> String {
        self.path.strip_prefix(root()).unwrap().display().to_string()
    }

    /// The lines of code without their comments, numbered from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        lines.filter_map(|(at, line)| {
            let code = line.split("//").next().unwrap_or_default();
            (!code.trim().is_empty()).then_some((at + 1, code))
        })
    }

    /// As [`Self::code`], up to the file's tests, which come last.
    fn product(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test = self.path.components().any(|part| part.as_os_str() == "tests")
            || self.path.ends_with("tests.rs");
        let end = self.text.lines().position(|line| line.trim() == "#[cfg(test)]");
        let end = if is_test { 0 } else { end.unwrap_or(usize::MAX) };
        self.code().take_while(move |(at, _)| *at <= end)
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The files below a folder with this ending; built ones are nobody's.
fn files(below: &str, ending: &str) -> Vec<File> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(below)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|found| found == ending) {
                let text = fs::read_to_string(&path).unwrap();
                found.push(File { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn sources() -> Vec<File> {
    let found = files("host/src", "rs");
    assert!(found.len() > 20, "only {} sources", found.len());
    found
}

/// Those, the tests' and the plugins'.
fn all_sources() -> Vec<File> {
    ["host", "tests", "plugins"].iter().flat_map(|below| files(below, "rs")).collect()
}

#[track_caller]
fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Complaints about every line of code that has one of these in it.
fn lines_with(words: &[&str], files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        for (at, line) in file.product() {
            for word in words.iter().filter(|word| line.contains(**word)) {
                complaints.push(format!("{}:{at}: {word}", file.shown()));
            }
        }
    }
    complaints
}

/// The room that a source belongs to: its folder in `host/src`, or its own name.
fn room(file: &File) -> String {
    let below = file.path.strip_prefix(root().join("host/src")).unwrap();
    let first = below.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn rank(room: &str) -> Option<usize> {
    ROOMS.iter().position(|rooms| rooms.contains(&room))
}

/// The rooms that a line names: after `crate::`, also in braces.
fn named(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in line.split("crate::").skip(1) {
        let list = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default(),
            None => rest,
        };
        let many = rest.starts_with('{');
        for name in list.split(',').take(if many { usize::MAX } else { 1 }) {
            let name: String =
                name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.push(name);
        }
    }
    found
}

#[test]
fn imports_point_one_way() {
    let mut complaints = Vec::new();
    for file in sources() {
        let own = room(&file);
        let Some(place) = rank(&own) else {
            complaints.push(format!("{}: this room has no place in tests/tidy.rs", file.shown()));
            continue;
        };
        for (at, line) in file.product() {
            for other in named(line) {
                let allowed = other == own || rank(&other).is_none_or(|rank| rank < place);
                if !allowed {
                    complaints.push(format!("{}:{at}: {own} imports {other}", file.shown()));
                }
            }
        }
    }
    none(complaints);
}

#[test]
fn the_leaves_import_no_room_but_outcomes_and_messages() {
    let leaves = ["health", "figures", "shutdown", "telemetry"];
    let mut complaints = Vec::new();
    for file in sources().iter().filter(|file| leaves.contains(&room(file).as_str())) {
        for (at, line) in file.product() {
            let others = named(line);
            if others
                .iter()
                .any(|other| !["outcome", "message", "health"].contains(&other.as_str()))
            {
                complaints.push(format!("{}:{at}: {}", file.shown(), line.trim()));
            }
        }
    }
    none(complaints);
}

#[test]
fn only_the_broker_speaks_redis_and_only_the_sandbox_webassembly() {
    let mut complaints = Vec::new();
    for (owner, words) in
        [("broker", vec!["redis::"]), ("sandbox", vec!["wasmtime::", "wasmtime_wasi::"])]
    {
        let others: Vec<File> = sources().into_iter().filter(|file| room(file) != owner).collect();
        complaints.extend(lines_with(&words, &others));
    }
    // The manifest's own file of that name is another matter.
    complaints.retain(|line| !line.starts_with("host/src/manifest/"));
    none(complaints);
}

#[test]
fn nothing_unwraps_outside_tests() {
    none(lines_with(&[".unwrap()", ".unwrap_err()"], &sources()));
}

#[test]
fn one_file_alone_may_do_what_the_compiler_cannot_check() {
    // Put together, so that this file does not complain about itself.
    let words =
        [" {", " fn", " impl", " trait", " extern", "_code"].map(|of| format!("unsafe{of}"));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut complaints = Vec::new();
    for file in all_sources() {
        let is_tidy = file.path.ends_with("tests/tidy.rs");
        if is_tidy || file.path.ends_with("host/src/sandbox/trust.rs") {
            continue;
        }
        for (at, line) in file.code() {
            for word in words.iter().filter(|word| line.contains(**word)) {
                complaints.push(format!("{}:{at}: {word}", file.shown()));
            }
        }
    }
    let lints = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    if !lints.contains(&format!("{}_code = \"deny\"", "unsafe")) {
        complaints.push("Cargo.toml: the lint that holds this is gone".into());
    }
    none(complaints);
}

#[test]
fn nothing_is_left_undone() {
    // Put together, so that this file does not complain about itself.
    let words = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let ignored = format!("#[{}", "ignore");
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    words.push(&ignored);
    let mut complaints = Vec::new();
    for file in all_sources() {
        for (at, line) in file.code() {
            for word in words.iter().filter(|word| line.contains(**word)) {
                complaints.push(format!("{}:{at}: {word}", file.shown()));
            }
        }
    }
    none(complaints);
}

#[test]
fn every_file_is_read_in_one_sitting() {
    let mut complaints = Vec::new();
    for file in all_sources() {
        let lines = file.text.lines().count();
        if lines > FILE_LINES {
            complaints.push(format!("{}: {lines} lines, {FILE_LINES} at most", file.shown()));
        }
    }
    none(complaints);
}

#[test]
fn every_function_fits_a_screen() {
    let mut complaints = Vec::new();
    for file in all_sources() {
        let lines: Vec<&str> = file.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            if !is_function(line) {
                continue;
            }
            let indent = line.len() - line.trim_start().len();
            let closing = format!("{}}}", " ".repeat(indent));
            let length = lines[at..].iter().position(|line| **line == closing).map_or(1, |n| n + 1);
            if length > FUNCTION_LINES {
                let name = line.trim();
                complaints.push(format!("{}:{}: {length} lines: {name}", file.shown(), at + 1));
            }
        }
    }
    none(complaints);
}

/// Whether a function with a body begins here: rustfmt puts its closing brace below the line's start.
fn is_function(line: &str) -> bool {
    let line = line.trim_start();
    let before = line.split("fn ").next().unwrap_or_default();
    let words = ["pub", "pub(super)", "pub(crate)", "const", "async", "unsafe"];
    line.contains("fn ")
        && before.split_whitespace().all(|word| words.contains(&word))
        && !line.ends_with(['}', ';'])
}

#[test]
fn every_source_opens_with_its_one_job() {
    let opens = |file: &File| file.text.starts_with("//!");
    let mut all = all_sources();
    all.retain(|file| !opens(file) && !file.path.ends_with("main.rs"));
    none(all.iter().map(|file| format!("{}: no `//!` at its top", file.shown())).collect());
}

#[test]
fn every_script_says_what_it_promises() {
    let scripts = files("host/src", "lua");
    assert!(!scripts.is_empty());
    let mut complaints = Vec::new();
    for script in &scripts {
        let header: Vec<_> =
            script.text.lines().take_while(|line| line.starts_with("--")).collect();
        let said = |word: &str| header.iter().any(|line| line.starts_with(&format!("-- {word}")));
        if header.len() < 3 || !said("KEYS") || !said("ARGV") || !said("Gives") {
            let problem = "a header says what it does, its KEYS, its ARGV and what it gives";
            complaints.push(format!("{}: {problem}", script.shown()));
        }
    }
    none(complaints);
}

#[test]
fn no_file_knows_somebodys_home() {
    let homes = ["/ho", "/Us", "/ro"].iter().zip(["me/", "ers/", "ot/"]);
    let homes: Vec<String> = homes.map(|(start, end)| format!("{start}{end}")).collect();
    let mut complaints = Vec::new();
    for ending in ["rs", "toml", "md", "lua", "wit", "wat", "sh", "txt", "yml", "yaml"] {
        for file in files("", ending) {
            for (at, line) in file.text.lines().enumerate() {
                if homes.iter().any(|home| line.contains(home.as_str())) {
                    complaints.push(format!("{}:{}: {}", file.shown(), at + 1, line.trim()));
                }
            }
        }
    }
    none(complaints);
}

/// Each row of ARCHITECTURE.md that promises something names a test that exists, as `name` in backticks.
#[test]
fn every_test_that_the_architecture_names_exists() {
    let Ok(page) = fs::read_to_string(root().join("ARCHITECTURE.md")) else { return };
    let tests = all_tests();
    let quoted = page.split('`').skip(1).step_by(2);
    let mut complaints = Vec::new();
    for name in quoted {
        let name = name.rsplit([':', ' ']).next().unwrap_or_default();
        let words = name.split('_').count();
        let is_promise = words >= 4
            && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit());
        if is_promise && !tests.iter().any(|test| test == name) {
            complaints.push(format!("ARCHITECTURE.md names `{name}`, which is no test"));
        }
    }
    none(complaints);
}

/// The names of all test functions.
fn all_tests() -> Vec<String> {
    let mut names = Vec::new();
    for file in all_sources() {
        let mut lines = file.text.lines().peekable();
        while let Some(line) = lines.next() {
            let is_test =
                ["#[test]", "#[tokio::test"].iter().any(|mark| line.trim().starts_with(mark));
            let function = lines.peek().and_then(|next| next.split("fn ").nth(1));
            if let (true, Some(function)) = (is_test, function) {
                names.push(function.split('(').next().unwrap_or_default().to_owned());
            }
        }
    }
    assert!(names.len() > 50, "only {} tests were found", names.len());
    names
}
