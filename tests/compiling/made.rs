//! Plugins for these tests, made from `tests/friendly/mirror.wat`.

use std::fs;

use wit_component::StringEncoding;
use wit_parser::Resolve;

use crate::harness::root;

fn mirror() -> String {
    fs::read_to_string(root().join("tests/friendly/mirror.wat")).unwrap()
}

/// The mirror, with a function that takes seconds to compile.
pub(crate) fn slow() -> Vec<u8> {
    let start = "(core module $Main";
    wat::parse_str(mirror().replace(start, &format!("{start} {}", tangle(1500, 9000)))).unwrap()
}

/// The mirror, with functions that take the compiler more memory than it may have.
pub(crate) fn bomb() -> Vec<u8> {
    let start = "(core module $Main";
    wat::parse_str(mirror().replace(start, &format!("{start} {}", tangle(20_000, 60_000)))).unwrap()
}

/// A loop of many branches, each of which may change one of many variables: what each is worth
/// at each branch is what compilers spend their time on.
fn tangle(variables: usize, branches: usize) -> String {
    let variable = |n: usize| 1 + n % variables;
    let branch = |n: usize| {
        let (to, from, and) = (variable(7 * n), variable(13 * n), variable(29 * n));
        format!(
            "(if (i32.and (local.get 0) (i32.const {n})) (then \
             (local.set {to} (i64.add (local.get {from}) (local.get {and})))))"
        )
    };
    let branches: String = (0..branches).map(branch).collect();
    let variables = " i64".repeat(variables);
    format!("(func (param i32) (local{variables}) (loop {branches} (br_if 0 (local.get 0))))")
}

/// What the mirror's core module is, exporting as bindings for C do.
fn module() -> String {
    let text = mirror();
    let start = text.find("(core module").unwrap();
    let end = text.find("(core instance").unwrap();
    text[start..end]
        .replace("(core module", "(module")
        .replace("\"handle\"", "\"tidegate:plugin/handler@0.1.0#handle\"")
}

/// The mirror as a core module that says what component it is to be.
pub(crate) fn core_module() -> Vec<u8> {
    embedded(wat::parse_str(module()).unwrap())
}

/// The same, in need of what a C library needs: the first preview of WASI.
pub(crate) fn core_module_with_library() -> Vec<u8> {
    let import = "(import \"wasi_snapshot_preview1\" \"random_get\" \
         (func $random (param i32 i32) (result i32)))";
    // What the adapter keeps in this memory is not to be overwritten.
    let call = "(if (call $random (i32.const 512) (i32.const 8)) (then unreachable))";
    let text = module()
        .replace("(memory", &format!("{import} (memory"))
        .replace("(global.set $top (i32.const 65536))", call);
    embedded(wat::parse_str(text).unwrap())
}

/// A core module that says nothing about components.
pub(crate) fn mute_module() -> Vec<u8> {
    wat::parse_str(module()).unwrap()
}

fn embedded(mut module: Vec<u8>) -> Vec<u8> {
    let mut wit = Resolve::default();
    let package = wit.push_file(root().join("wit/plugin.wit")).unwrap();
    let world = wit.select_world(&[package], Some("plugin")).unwrap();
    wit_component::embed_component_metadata(&mut module, &wit, world, StringEncoding::UTF8)
        .unwrap();
    module
}
