//! What `tidegate test` runs, what it says, and how it ends.

#![allow(clippy::unwrap_used, reason = "a test may take what it knows to be there")]

mod harness;

use std::fs;
use std::time::{Duration, Instant};

use harness::{Done, Setup, command, root};

const PROBE: &str = r#"
[handler.h]
plugin = "probe.wasm"
stream = "in"
outputs = ["out"]
channels = ["news"]
match = { for = "h" }
"#;

/// `tidegate test` on a fixture file beside a manifest.
#[track_caller]
fn rehearse(manifest: &str, fixture: &str) -> Done {
    Setup::alone(manifest).file("f.toml", fixture).command(&["test", "f.toml"]).finish()
}

/// A case on one message whose fields are instructions to the probe.
fn case(fields: &str, expect: &str) -> String {
    format!(
        "[[case]]\nname = \"c\"\nmessage = {{ fields = {{ for = \"h\", {fields} }} }}\nexpect = {{ {expect} }}\n"
    )
}

#[track_caller]
fn passes(manifest: &str, fixture: &str) {
    let done = rehearse(manifest, fixture);
    assert!(done.status.success(), "{}{}\nof:\n{fixture}", done.stdout, done.stderr);
}

/// What is said of a case that fails, without its first line.
#[track_caller]
fn said(fixture: &str) -> String {
    let done = rehearse(PROBE, fixture).expect(1);
    assert_eq!(done.stderr, "tidegate: 1 of 1 case failed\n");
    let (title, said) = done.stdout.split_once('\n').unwrap();
    assert_eq!(title, "FAIL  h: c  (f.toml)");
    said.to_owned()
}

#[test]
fn a_case_for_each_outcome_passes_when_it_comes() {
    let cases = [
        (
            "emit = \"out\"",
            "outputs = [{ stream = \"out\", fields = { id = \"1-0\", attempt = \"1\" } }]",
        ),
        ("delay-ms = \"5000\", emit = \"out\"", "outputs = [{ stream = \"out\", delay = \"5s\" }]"),
        ("data = \"x\", notice = \"news\"", "outputs = [{ channel = \"news\", payload = \"x\" }]"),
        ("none = \"\"", "outputs = []"),
        ("retry = \"busy\"", "retry = \"busy\""),
        ("retry-after-ms = \"60000\"", "retry = \"*\", after = \"1m\""),
        ("reject = \"bad\"", "reject = \"bad\""),
        ("trap = \"a bug\"", "fault = \"trap\", detail = \"a bug\""),
        ("allocate-mb = \"500\"", "fault = \"memory\""),
        ("emit = \"elsewhere\"", "fault = \"denied\", detail = \"`elsewhere`\""),
        ("for2 = \"\"", "outputs = []"),
    ];
    let fixture: String = cases.iter().map(|(fields, expect)| case(fields, expect)).collect();
    let skipped = case("x = \"y\"", "skipped = true").replace("for = \"h\"", "for = \"k\"");
    passes(PROBE, &(fixture + &skipped));
}

#[test]
fn the_time_of_the_handler_holds() {
    let started = Instant::now();
    let manifest = format!("{PROBE}timeout = \"300ms\"\n");
    passes(&manifest, &case("loop = \"\"", "fault = \"timeout\", detail = \"300ms\""));
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[test]
fn a_difference_shows_what_was_expected_and_what_came() {
    let fields = r#"data = '{"b":1,"a":[]}', emit = "out", notice = "news""#;
    let expect = r#"outputs = [{ stream = "out", fields = { data = '{"a": [], "b": 2}', id = "*", attempt = "1" } }]"#;
    let expected = r#"      - expected, + came
        append to "out"
          "data" = {
            "a": [],
      -     "b": 2
      +     "b": 1
          }
          "id" = "1-0"
          "attempt" = "1"
      + publish on "news"
      +   {
      +     "a": [],
      +     "b": 1
      +   }
"#;
    assert_eq!(said(&case(fields, expect)), expected);
}

#[test]
fn another_outcome_than_the_expected_is_named() {
    let retry = case("retry = \"busy\"", "reject = \"busy\"");
    assert_eq!(
        said(&retry),
        "      - expected, + came\n      - reject: \"busy\"\n      + retry: \"busy\"\n"
    );
    let done = case("none = \"\"", "retry = \"*\", after = \"1s\"");
    let expected =
        "      - expected, + came\n      - retry after 1s: \"*\"\n      + done, without outputs\n";
    assert_eq!(said(&done), expected);
    let denied = said(&case("emit = \"elsewhere\"", "outputs = []"));
    let expected = "      - expected, + came\n      - done, without outputs\n      + fault: denied\n      +   an entry for stream `elsewhere`";
    assert!(denied.starts_with(expected), "{denied}");
}

#[test]
fn a_plugin_that_breaks_is_shown_with_its_words_and_where() {
    let said = said(&case("print = \"so far\", trap = \"a bug\"", "outputs = []"));
    for part in
        ["+ fault: trap", "printed:\n        so far\n", "a bug", "backtrace:\n", "probe_script::"]
    {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }
}

#[test]
fn bytes_and_repeated_names_are_kept() {
    let fixture = r#"
        [[case]]
        name = "c"
        message = { id = "7-2", attempt = 3, fields = [
            ["for", "h"], ["data", { base64 = "/wA=" }], ["emit", "out"], ["emit", "out"], ["notice", "news"]] }
        [[case.expect.outputs]]
        stream = "out"
        fields = [["data", { base64 = "/wA=" }], ["id", "7-2"], ["attempt", "3"]]
        [[case.expect.outputs]]
        stream = "out"
        [[case.expect.outputs]]
        channel = "news"
        payload = { base64 = "/wA=" }
    "#;
    passes(PROBE, fixture);
    let other =
        fixture.replace("payload = { base64 = \"/wA=\" }", "payload = { base64 = \"/wE=\" }");
    let said = rehearse(PROBE, &other).expect(1).stdout;
    assert!(said.contains("-   base64 /wE=\n") && said.contains("+   base64 /wA=\n"), "{said}");
}

#[test]
fn messages_go_in_order_to_one_instance_and_cases_to_their_own() {
    let fixture = r#"
        [[case]]
        name = "two"
        messages = [{ fields = { for = "h", calls = "", emit = "out" } },
                    { fields = { for = "h", calls = "", emit = "out" } }]
        expect.each = [{ outputs = [{ stream = "out", fields = { id = "1-0", attempt = "1", calls = "1" } }] },
                       { outputs = [{ stream = "out", fields = { id = "2-0", attempt = "1", calls = "2" } }] }]
        [[case]]
        name = "one"
        message = { fields = { for = "h", calls = "", emit = "out" } }
        expect = { outputs = [{ stream = "out", fields = { id = "1-0", attempt = "1", calls = "1" } }] }
    "#;
    passes(PROBE, fixture);
}

#[test]
fn a_batch_plugin_gets_them_in_one_call_and_one_that_traps_blames_only_itself() {
    let manifest = PROBE.replace("probe.wasm", "probe_batch.wasm");
    let fixture = r#"
        [[case]]
        name = "batch"
        messages = [{ fields = { for = "h", emit = "out" } },
                    { fields = { for = "nobody" } },
                    { fields = { for = "h", trap = "boom" } },
                    { fields = { for = "h", reject = "bad" } }]
        expect.each = [{ outputs = [{ stream = "out" }] }, { skipped = true }, { fault = "trap" }, { reject = "bad" }]
    "#;
    passes(&manifest, fixture);
    let said = rehearse(&manifest, &fixture.replace("\"bad\" }]", "\"good\" }]")).expect(1).stdout;
    let expected = "        message 4\n      -   reject: \"good\"\n      +   reject: \"bad\"\n";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn a_plugin_that_imports_what_it_is_not_granted_is_refused_as_a_host_would() {
    let manifest = PROBE.replace("probe.wasm", "unknown-import.wasm");
    let done = rehearse(&manifest, &case("x = \"\"", "outputs = []")).expect(2);
    let told = done.stderr;
    assert!(told.contains("handler.h.plugin: ") && told.contains("acme:rockets/launch"), "{told}");
}

#[test]
fn a_store_that_is_not_granted_cannot_be_filled() {
    for (grant, line) in
        [("keyvalue", "keyvalue = { a = \"1\" }"), ("config", "config = { a = \"1\" }")]
    {
        let fixture = case("x = \"\"", "outputs = []") + line;
        let told = rehearse(PROBE, &fixture).expect(2).stderr;
        let expected = format!("f.toml: case \"c\" has `{grant}`, which handler.h is not granted");
        assert!(told.contains(&expected), "{told}");
        let granted = format!("{PROBE}{grant} = \"granted:\"\n");
        passes(&granted, &fixture);
    }
}

#[test]
fn what_is_stored_in_the_end_is_compared() {
    let granted = format!("{PROBE}keyvalue = \"h:\"\n");
    let stored = "\nkeyvalue = { a = \"1\" }\n";
    let same = case("x = \"\"", "outputs = [], keyvalue = { a = \"1\" }") + stored;
    passes(&granted, &same);
    let other = case("x = \"\"", "outputs = [], keyvalue = { a = \"2\" }") + stored;
    let said = rehearse(&granted, &other).expect(1).stdout;
    assert!(said.contains("-   \"a\" = \"2\"\n      +   \"a\" = \"1\"\n"), "{said}");
}

#[test]
fn a_wrong_fixture_ends_it_with_status_2_and_its_place() {
    let good = case("x = \"\"", "outputs = []");
    let cases = [
        (good.replace("expect", "expects"), "f.toml:4:1: unknown field `expects`, expected one of"),
        (good.replace("\"\" }", "7 }"), "f.toml:3:"),
        (format!("handler = \"g\"\n{good}"), "f.toml: the manifest has no handler `g`; it has `h`"),
        ("[[case]".to_owned(), "f.toml:1:"),
    ];
    for (fixture, told) in cases {
        let done = rehearse(PROBE, &fixture).expect(2);
        assert!(done.stderr.contains(told), "{}", done.stderr);
        assert_eq!(done.stdout, "", "nothing was run");
    }
}

#[test]
fn nothing_to_run_is_no_success() {
    let none =
        |arguments: &[&str]| Setup::alone(PROBE).command(arguments).finish().expect(2).stderr;
    let told = none(&["test"]);
    assert!(told.contains("no cases in fixtures; a fixture is a file such as"), "{told}");
    assert!(none(&["test", "missing.toml"]).contains("cannot read the fixture missing.toml"));
    assert!(none(&["test", "--handler", "g"]).contains("no handler `g`; it has `h`"));
    rehearse(PROBE, "case = []").expect(2);
}

#[test]
fn fixtures_beside_the_manifest_are_found_and_chosen_by_handler() {
    let other = PROBE.replace("handler.h", "handler.other").replace("\"in\"", "\"in2\"");
    let setup = Setup::alone(&format!("{PROBE}{other}"));
    let folder = setup.folder().join("fixtures");
    fs::create_dir(&folder).unwrap();
    let good = case("x = \"\"", "outputs = []");
    fs::write(folder.join("h.toml"), format!("handler = \"h\"\n{good}")).unwrap();
    let json = r#"{"handler": "other", "case": [{"name": "fails",
        "message": {"fields": {"for": "h"}}, "expect": {"reject": "no"}}]}"#;
    fs::write(folder.join("other.json"), json).unwrap();
    fs::write(folder.join("notes.txt"), "not a fixture").unwrap();
    let setup = setup.command(&["test"]);
    let done = setup.finish().expect(1);
    assert!(
        done.stdout.starts_with("pass  h: c\nFAIL  other: fails  (fixtures/other.json)\n"),
        "{}",
        done.stdout
    );
    let chosen = |name: &str| {
        let mut prepared = command();
        prepared.args(["test", "--handler", name]).current_dir(folder.parent().unwrap());
        prepared.output().unwrap()
    };
    assert_eq!(chosen("h").stdout, b"pass  h: c\n");
    assert_eq!(chosen("other").status.code(), Some(1));
    fs::write(folder.join("which.toml"), good).unwrap();
    let told = String::from_utf8(chosen("h").stderr).unwrap();
    assert_eq!(told, "2 cases passed\n", "the one handler that is asked for is meant");
}

#[test]
fn a_fixture_that_could_be_for_several_handlers_must_say_for_which() {
    let other = PROBE.replace("handler.h", "handler.other").replace("\"in\"", "\"in2\"");
    let told =
        rehearse(&format!("{PROBE}{other}"), &case("x = \"\"", "outputs = []")).expect(2).stderr;
    assert!(
        told.contains("f.toml: which handler is it for?") && told.contains("`h`, `other`"),
        "{told}"
    );
}

#[test]
fn results_come_as_json() {
    let fixture =
        case("print = \"hello\"", "outputs = []") + &case("reject = \"a\"", "reject = \"b\"");
    let setup = Setup::alone(PROBE).file("f.toml", fixture);
    let done = setup.command(&["test", "--json", "f.toml"]).finish().expect(1);
    let json = done.json();
    assert_eq!(json[0]["passed"], true);
    assert_eq!(json[0]["printed"][0], "hello");
    assert_eq!((&json[1]["case"], &json[1]["handler"]), (&"c".into(), &"h".into()));
    assert_eq!(json[1]["expected"], "reject: \"b\"\n");
    assert_eq!(json[1]["actual"], "reject: \"a\"\n");
}

#[test]
fn every_example_keeps_what_its_fixtures_promise() {
    for name in ["orders", "first-handler"] {
        let manifest = root().join("examples").join(name).join("tidegate.toml");
        let arguments = ["test", "--manifest", &manifest.display().to_string()];
        let done = Setup::alone("").command(&arguments).finish().expect(0);
        assert!(done.stdout.lines().count() > 1, "{}", done.stdout);
    }
}
