//! Files that are not put to work, and the sentences that say why.

use super::*;
use crate::manifest::Digest;
use crate::sandbox::World;

fn refusal(name: &str) -> String {
    let refused = load(&sandbox(), name).and_then(|plugin| put_to_work(&plugin, limits()));
    refused.err().unwrap().to_string()
}

fn refusal_of(bytes: &[u8]) -> String {
    sandbox().load_bytes(Path::new("p.wasm"), bytes).unwrap_err().to_string()
}

#[test]
fn a_component_is_known_by_its_digest_and_world() {
    let sandbox = sandbox();
    let echo = load(&sandbox, "friendly/echo").unwrap();
    assert_eq!(echo.world(), World::Plugin);
    assert_eq!(echo.path(), Path::new("friendly/echo.wasm"));
    assert_eq!(echo.digest(), &Digest::of(&wat::parse_file(guest("friendly/echo")).unwrap()));
    let batch = load(&sandbox, "hostile/poison-batch").unwrap();
    assert_eq!(batch.world(), World::Batch);
    assert_eq!(load(&sandbox, "friendly/waiter").unwrap().world(), World::Async);
}

#[test]
fn a_plugin_that_is_not_there_is_named() {
    let error = sandbox().load(Path::new("nowhere/a.wasm")).unwrap_err();
    assert_eq!(error.to_string(), "nowhere/a.wasm: cannot be read");
}

#[test]
fn each_import_that_nobody_provides_is_named_with_its_reason() {
    assert_eq!(
        refusal("hostile/unknown-import"),
        "hostile/unknown-import.wasm: imports wasi:tls/types@0.2.0, which no handler can be \
         granted; tidegate:plugin/services@0.1.0, which is not available in this version; \
         acme:rockets/launch@1.0.0, which no host of handlers provides"
    );
}

#[test]
fn a_component_without_a_handler_is_told_what_was_expected() {
    assert_eq!(
        refusal("hostile/no-export"),
        "hostile/no-export.wasm: exports no handler: expected tidegate:plugin/handler@0.1.0, \
         tidegate:plugin/batch-handler@0.1.0 or tidegate:plugin/async-handler@0.1.0"
    );
}

#[test]
fn a_component_with_two_handlers_is_refused() {
    assert_eq!(
        refusal("hostile/two-exports"),
        "hostile/two-exports.wasm: exports tidegate:plugin/handler@0.1.0 and \
         tidegate:plugin/batch-handler@0.1.0: expected exactly one of them"
    );
}

#[test]
fn a_handler_of_another_version_is_told_which_is_spoken() {
    assert_eq!(
        refusal("hostile/other-version"),
        "hostile/other-version.wasm: exports tidegate:plugin/handler@0.2.0: this host speaks \
         tidegate:plugin@0.1.0, build the plugin against that"
    );
}

#[test]
fn an_async_handler_without_its_function_does_not_fit() {
    let refusal = refusal("hostile/async-export");
    let fit = "does not fit tidegate:plugin@0.1.0 in its function handle: it is missing";
    assert!(refusal.contains(fit), "{refusal}");
}

#[test]
fn a_handler_of_other_types_does_not_fit() {
    let refusal = refusal("hostile/mismatch");
    let fit = "does not fit tidegate:plugin@0.1.0 in its function handle: ";
    assert!(refusal.contains(fit), "{refusal}");
}

#[test]
fn a_core_module_is_told_the_remedy() {
    let refusal = refusal_of(&wat::parse_str("(module)").unwrap());
    assert!(refusal.contains("is a core module, not a component: build it for"), "{refusal}");
}

#[test]
fn a_file_that_is_cut_short_is_called_so_wherever_it_ends() {
    let whole = wat::parse_file(guest("friendly/echo")).unwrap();
    let sandbox = sandbox();
    for end in (0..whole.len()).step_by(97) {
        let error = sandbox.load_bytes(Path::new("p.wasm"), &whole[..end]).unwrap_err();
        let text = error.to_string();
        assert!(
            text == "p.wasm: is cut short: build or copy it again" || text.contains("no handler"),
            "cut at {end}: {text}"
        );
    }
}

#[test]
fn what_is_not_webassembly_is_called_so() {
    assert!(refusal_of(b"#!/bin/sh\n").contains("is not WebAssembly"));
    let damaged = b"\0asm\x0d\0\x01\0\xee\x01\x01";
    assert!(refusal_of(damaged).contains("cannot be compiled: "));
}

#[test]
fn a_guest_that_breaks_at_its_start_is_not_put_to_work() {
    let sandbox = sandbox();
    for (name, why) in [
        ("hostile/start-trap", "trapped: wasm `unreachable` instruction executed"),
        ("hostile/start-loop", "ran past its timeout of 300ms"),
    ] {
        let plugin = load(&sandbox, name).unwrap();
        let error = put_to_work(&plugin, hurried()).err().unwrap();
        let text = format!("{name}.wasm: cannot start for handler test: {why}");
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn a_guest_that_is_larger_than_its_memory_is_not_put_to_work() {
    let plugin = load(&sandbox(), "hostile/big-output").unwrap();
    let small = Limits { memory: 1 << 20, ..limits() };
    let error = put_to_work(&plugin, small).err().unwrap();
    assert!(error.to_string().ends_with("needed more than its memory of 1.0 MiB"), "{error}");
}
