//! What a fixture's text becomes, and what it does not.

use std::path::Path;

use proptest::prelude::*;

use super::expected::{Expected, Outcome, Wanted};
use super::fixture::parse;
use super::typed::Value;
use super::*;

/// Cases of every kind.
const FULL: &str = r#"
handler = "h"

[[case]]
name = "one"
message = { id = "5-1", stream = "in", attempt = 2, fields = { b = "1", a = { base64 = "/wA=" } } }
keyvalue = { k = "v" }
config = { c = "d" }

[case.expect]
outputs = [
    { stream = "out", fields = [["b", "*"], ["b", "2"]], delay = "5s" },
    { channel = "news", payload = "x" },
    { channel = "news" },
]
keyvalue = { k = "*" }

[[case]]
name = "several"
messages = [{ fields = {} }, { fields = {} }, { fields = {} }, { fields = {} }]
expect.each = [
    { retry = "busy", after = "1m" },
    { reject = "bad" },
    { fault = "memory", detail = "more" },
    { skipped = true },
]
"#;

fn read(name: &str, text: &str) -> Result<typed::TypedFixture, String> {
    parse(Path::new(name), text).map_err(|error| error.to_string())
}

#[test]
fn fields_keep_their_order_and_bytes_their_values() {
    let fixture = read("f.toml", FULL).unwrap();
    let fields = &fixture.case[0].messages[0].fields.0;
    let bytes = Value::Bytes(vec![0xff, 0]);
    assert_eq!(fields, &[("b".to_owned(), Value::Text("1".to_owned())), ("a".to_owned(), bytes)]);
    let Outcome::Done(outputs) = &fixture.case[0].expect.outcomes[0] else { panic!() };
    let Expected::Append { fields: Some(fields), .. } = &outputs[0] else { panic!() };
    assert_eq!(fields[0], ("b".to_owned(), Wanted::Any));
    assert_eq!(fields[1], ("b".to_owned(), Wanted::This(b"2".to_vec())));
}

#[test]
fn json_has_the_same_shape() {
    let json = r#"{"handler": "h", "case": [{"name": "one", "message": {"fields": {"b": "1", "a": "2"}},
        "expect": {"outputs": [{"stream": "out", "fields": [["a", {"base64": "AA=="}]]}]}}]}"#;
    let fixture = read("f.json", json).unwrap();
    let names = fixture.case[0].messages[0].fields.0.iter().map(|(name, _)| name.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["b", "a"]);
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_what_would_be_right() {
    let good =
        "[[case]]\nname = \"n\"\nmessage = { fields = { a = \"1\" } }\nexpect = { outputs = [] }\n";
    read("f.toml", good).unwrap();
    let cases = [
        ("name = ", "nmae = ", "2:1: unknown field `nmae`, expected one of `name`, `message`"),
        (
            "\"1\"",
            "1",
            "3:28: invalid type: integer `1`, expected a string, or { base64 = \"…\" } for bytes",
        ),
        ("\"1\"", "{ base64 = \"?\" }", "not base64"),
        ("outputs = []", "", "expected exactly one of `outputs`"),
        ("outputs = []", "outputs = [], reject = \"x\"", "expected exactly one of `outputs`"),
        (
            "outputs = []",
            "fault = \"timout\"",
            "unknown variant `timout`, expected one of `trap`, `timeout`",
        ),
        (
            "outputs = []",
            "retry = \"x\", after = \"5\"",
            "expected a duration such as \"5s\", found \"5\"",
        ),
        (
            "outputs = []",
            "outputs = [{ stream = \"s\", payload = \"x\" }]",
            "an output is either `stream`",
        ),
        ("outputs = []", "reject = \"x\", after = \"5s\"", "expected exactly one of `outputs`"),
        ("outputs = []", "each = []", "1 in `messages` and 0 expected"),
        ("message = ", "messages = ", "expected a sequence"),
        ("fields = {", "id = \"x\", fields = {", "expected a message id such as"),
        ("[[case]]\n", "[[case]\n", "1:"),
    ];
    for (from, to, told) in cases {
        let error = read("f.toml", &good.replace(from, to)).unwrap_err();
        assert!(error.starts_with("f.toml:") && error.contains(told), "{to}: {error}");
    }
    let error = read("f.json", "{\n  \"cases\": []}").unwrap_err();
    assert_eq!(error, "f.json:2:9: unknown field `cases`, expected `handler` or `case`");
    assert!(read("f.yaml", "").unwrap_err().contains("`.toml` or `.json`"));
}

proptest! {
    #[test]
    fn any_text_is_a_fixture_or_is_refused(
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), ".{0,3}"), 0..6),
    ) {
        let mut text: Vec<char> = FULL.chars().collect();
        for (at, put) in cuts {
            let at = at.index(text.len());
            text.splice(at..(at + put.len()).min(text.len()), put.chars());
        }
        read_any(&text.into_iter().collect::<String>());
    }
}
