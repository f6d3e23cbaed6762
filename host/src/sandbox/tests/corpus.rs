//! Every component in `tests/hostile` comes to what its head says, beside a healthy neighbour.

use super::expected::{self, Hostile};
use super::*;

/// Bytes of the longest sentence about a guest.
const SENTENCE_MAX: usize = 5000;

#[tokio::test]
async fn every_hostile_component_comes_to_what_its_head_says() {
    let corpus = expected::all();
    assert!(corpus.len() >= 45, "only {}", corpus.len());
    let sandbox = sandbox();
    let neighbour = runner(&sandbox, "friendly/counter", limits());
    let mut complaints = Vec::new();
    for (index, hostile) in corpus.iter().enumerate() {
        let limits = limits_for(hostile);
        let beside = run(&neighbour, 1);
        let (came, outcome) = tokio::join!(fate(&sandbox, hostile, limits), beside);
        assert_eq!(number(&outcome) as usize, index + 1, "the neighbour of {}", hostile.name);
        complaints.extend(complaint(hostile, &came));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// What became of it: a word and a sentence.
type Fate = (&'static str, String);

async fn fate(sandbox: &Sandbox, hostile: &Hostile, limits: Limits) -> Fate {
    let name = format!("hostile/{}", hostile.name);
    let plugin = match load(sandbox, &name) {
        Ok(plugin) => plugin,
        Err(error) => return ("refused", error.to_string()),
    };
    match put_to_work(&plugin, limits) {
        Ok(runner) => {
            let first = came(run(&runner, 1).await);
            assert_eq!(came(run(&runner, 1).await), first, "{name}: and so every time");
            first
        }
        Err(error @ SandboxError::Start { .. }) => ("broken", error.to_string()),
        Err(error) => ("refused", error.to_string()),
    }
}

fn came(outcome: Outcome) -> Fate {
    let word = outcome.word();
    let sentence = match outcome {
        Outcome::Done(_) => String::new(),
        Outcome::Retry { reason, .. } | Outcome::Reject(reason) => reason,
        Outcome::Fault(fault) => fault.detail,
    };
    (word, sentence)
}

fn complaint(hostile: &Hostile, (word, sentence): &Fate) -> Option<String> {
    let Hostile { name, .. } = hostile;
    let shown: String = sentence.chars().take(400).collect();
    if *word != hostile.alone || !sentence.contains(hostile.sentence_alone()) {
        let (alone, expected) = (&hostile.alone, hostile.sentence_alone());
        return Some(format!("{name}: expected {alone}: {expected}\n    found {word}: {shown}"));
    }
    let acts = sentence.contains(|character: char| character.is_control());
    let long = sentence.len() > SENTENCE_MAX;
    (acts || long).then(|| format!("{name}: {} bytes of {shown}", sentence.len()))
}

fn limits_for(hostile: &Hostile) -> Limits {
    let mut limits = limits();
    for (key, value) in &hostile.given {
        let value = value.trim_matches('"');
        match key.as_str() {
            "timeout" => limits.timeout = humantime::parse_duration(value).unwrap(),
            "memory" => limits.memory = value.parse::<bytesize::ByteSize>().unwrap().0,
            // Grants: what they allow is dispatch's to judge.
            "outputs" | "channels" => {}
            key => panic!("{}: given {key}, which is not known here", hostile.name),
        }
    }
    limits
}

#[test]
fn a_component_with_megabytes_that_mean_nothing_is_a_plugin_all_the_same() {
    let mut bytes = wat::parse_file(guest("friendly/echo")).unwrap();
    let (name, length) = (b"\x04note", 4 << 20);
    // A custom section: its number, its length in LEB128, its name, its content.
    bytes.push(0);
    let mut left = name.len() + length;
    while left > 0x7f {
        bytes.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
    bytes.extend_from_slice(name);
    bytes.resize(bytes.len() + length, 0xaa);
    let plugin = sandbox().load_bytes(Path::new("p.wasm"), &bytes).unwrap();
    assert!(put_to_work(&plugin, limits()).is_ok());
}

#[test]
fn a_refusal_names_a_few_of_very_many_imports_and_counts_the_rest() {
    let imports: String =
        (0..900).map(|n| format!("(import \"acme:a/b{n}@1.0.0\" (instance))")).collect();
    let echo = std::fs::read_to_string(guest("friendly/echo")).unwrap();
    let text = echo.replacen("(component", &format!("(component {imports}"), 1);
    let bytes = wat::parse_str(text).unwrap();
    let plugin = sandbox().load_bytes(Path::new("p.wasm"), &bytes).unwrap();
    let error = put_to_work(&plugin, limits()).err().unwrap().to_string();
    assert!(error.ends_with("; and 890 more"), "{error}");
}
