//! From a plugin's bytes to a component: taken from the cache, or compiled.
//!
//! Here it is decided which; what a child does is `compile_apart`'s, what is kept `artefacts`', and
//! what is run `trust`'s.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use wasmtime::component::Component;

use super::artefacts::{Readers, Store, Unkept};
use super::compile_apart::{self, Program};
use super::door::{self, Refusal};
use super::engine::Engine;
use super::module;
use super::trust::{Artefact, Recipe};
use crate::manifest::Digest;

/// Where plugins are compiled.
#[derive(Debug, Clone)]
pub enum Compiler {
    /// In this process: for as long, and in as much memory, as it takes. Nothing is kept.
    Here,
    /// In a child, within bounds.
    Apart {
        /// How the child is started.
        program: Program,
        /// How long it may take for one plugin.
        time: Duration,
        /// Where what it made is kept; none for nowhere.
        cache: Option<(PathBuf, Readers)>,
    },
}

/// Where a plugin's code came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// From the cache: nothing was compiled.
    Cache,
    /// Compiled, and kept for the next time.
    Compiled,
    /// Compiled, and not kept: there is no cache, or there is and this is why.
    Unkept(Option<Unkept>),
}

/// A [`Compiler`] at work.
pub(super) enum Workshop {
    Here,
    Apart { program: Program, time: Duration, store: Option<Store> },
}

impl Workshop {
    pub(super) fn new(compiler: Compiler) -> Self {
        match compiler {
            Compiler::Here => Self::Here,
            Compiler::Apart { program, time, cache } => {
                let store = cache.map(|(folder, readers)| Store::new(folder, readers));
                Self::Apart { program, time, store }
            }
        }
    }

    /// The component of a plugin's file, for an engine.
    pub(super) fn component(
        &self,
        bytes: &[u8],
        digest: &Digest,
        engine: &Engine,
    ) -> Result<(Component, Origin), Refusal> {
        door::check_header(bytes)?;
        match self {
            Self::Here => Ok((here(bytes, engine)?, Origin::Unkept(None))),
            Self::Apart { program, time, store } => {
                let recipe = Recipe::new(digest, engine);
                if let Some(found) = store.as_ref().and_then(|store| kept(store, &recipe, engine)) {
                    return Ok((found, Origin::Cache));
                }
                let started = Instant::now();
                let artefact = compile_apart::compile(program, *time, bytes, &recipe)?;
                tracing::info!(
                    plugin = digest.short(),
                    elapsed_ms = started.elapsed().as_millis(),
                    "compiled"
                );
                // As a memory that is larger than any of this engine's.
                let unusable = |error: wasmtime::Error| Refusal::Invalid(format!("{error:#}"));
                let component = artefact.component(engine).map_err(unusable)?;
                let origin = match store.as_ref().map(|store| store.put(&recipe, &artefact)) {
                    Some(Ok(())) => Origin::Compiled,
                    Some(Err(unkept)) => Origin::Unkept(Some(unkept)),
                    None => Origin::Unkept(None),
                };
                Ok((component, origin))
            }
        }
    }
}

fn kept(store: &Store, recipe: &Recipe, engine: &Engine) -> Option<Component> {
    let artefact = store.get(recipe)?;
    match artefact.component(engine) {
        Ok(component) => Some(component),
        Err(error) => {
            // What does not fit is said once it is compiled, as it is to a plugin that is new.
            tracing::debug!(cache = %store.folder().display(), error = format!("{error:#}"),
                "a compiled plugin does not fit this engine; it is compiled again");
            None
        }
    }
}

fn here(bytes: &[u8], engine: &Engine) -> Result<Component, Refusal> {
    let wasm = module::component(bytes)?;
    Component::from_binary(engine, &wasm).map_err(|error| door::cannot_compile(&error))
}

/// What the child does: an artefact of a plugin's file.
pub(super) fn artefact(bytes: &[u8], engine: &Engine) -> Result<Artefact, Refusal> {
    let wasm = module::component(bytes)?;
    let code = engine.precompile_component(&wasm).map_err(|error| door::cannot_compile(&error))?;
    Ok(Artefact::made(&Recipe::new(&Digest::of(bytes), engine), &code))
}
