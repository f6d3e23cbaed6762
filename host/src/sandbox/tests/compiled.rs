//! What is compiled apart, and run on an engine of another kind.

use super::*;
use crate::manifest::Digest;
use crate::sandbox::trust::{Artefact, Distrust, Recipe};
use crate::sandbox::{compile, engine};

#[test]
fn what_is_compiled_without_a_pool_runs_on_an_engine_with_one() {
    let bytes = wat::parse_file(guest("friendly/echo")).unwrap();
    let made =
        compile::artefact(&bytes, &engine::compiling(engine::Dialect::Plain).unwrap()).unwrap();
    let sandbox = sandbox();
    let recipe = Recipe::new(&Digest::of(&bytes), &sandbox.0.plain.engine);
    let taken = Artefact::of_child(made.bytes().to_vec(), &recipe).unwrap();
    assert!(taken.component(&sandbox.0.plain.engine).is_ok());
}

#[test]
fn what_an_engine_of_other_settings_compiled_is_foreign() {
    let bytes = wat::parse_file(guest("friendly/echo")).unwrap();
    let made =
        compile::artefact(&bytes, &engine::compiling(engine::Dialect::Plain).unwrap()).unwrap();
    let other = wasmtime::Engine::new(wasmtime::Config::new().consume_fuel(true)).unwrap();
    let recipe = Recipe::new(&Digest::of(&bytes), &other);
    let refused = Artefact::of_child(made.bytes().to_vec(), &recipe);
    assert!(matches!(refused.err(), Some(Distrust::Foreign)));
}

#[test]
fn a_core_module_that_cannot_be_made_a_component_is_told_why() {
    // What it exports is not what it says it is.
    let module = [&b"\0asm\x01\0\0\0"[..], b"\0\x16\x0ecomponent-typenothing"].concat();
    let refused = sandbox().load_bytes(Path::new("p.wasm"), &module).unwrap_err().to_string();
    let sentence = "p.wasm: is a core module of which no component can be made: ";
    assert!(refused.starts_with(sentence), "{refused}");
}
