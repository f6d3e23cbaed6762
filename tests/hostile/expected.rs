//! What the head of each component in this folder says should become of it.
//!
//! `;; expected: WORD: SENTENCE` says how one message ends, or why there is none: `refused`,
//! `broken` (at its start), `done`, `retry`, `reject`, or the kind of a fault; the sentence
//! is part of what is told. `done, then WORD` is what only the host as a whole objects to.
//! `;; given: KEY = VALUE` is a line of the handler in the manifest.

use std::fs;
use std::path::Path;

/// A component, and what should become of it.
pub struct Hostile {
    /// Its file's name without an ending.
    pub name: String,
    /// How a message ends in the sandbox alone.
    pub alone: String,
    /// How it ends in a host.
    pub word: String,
    /// Part of what is told of it in a host.
    pub sentence: String,
    /// Keys and values of its handler, as in a manifest.
    pub given: Vec<(String, String)>,
}

impl Hostile {
    /// Part of what the sandbox alone tells of it.
    pub fn sentence_alone(&self) -> &str {
        if self.alone == self.word { &self.sentence } else { "" }
    }
}

/// Everything in this folder, by name; one without an expectation is an error.
pub fn all() -> Vec<Hostile> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/hostile");
    let mut all = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "wat") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            all.push(read(name, &fs::read_to_string(&path).unwrap()));
        }
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

fn read(name: String, text: &str) -> Hostile {
    let head = || text.lines().take_while(|line| line.starts_with(";;"));
    let expected = head().find_map(|line| line.strip_prefix(";; expected: "));
    let expected = expected.unwrap_or_else(|| panic!("{name}.wat does not say what is expected"));
    let (word, sentence) = expected.split_once(':').unwrap_or((expected, ""));
    let (alone, word) = word.split_once(", then ").unwrap_or((word, word));
    let given = head().filter_map(|line| line.strip_prefix(";; given: "));
    let given = given.filter_map(|line| line.split_once(" = "));
    Hostile {
        name,
        alone: alone.to_owned(),
        word: word.to_owned(),
        sentence: sentence.trim().to_owned(),
        given: given.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
    }
}
