//! A plugin: a component, compiled and checked for what it exports, known by its digest.
//!
//! What it imports is checked against a handler's grants, by `linked`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wasmtime::component::Component;

use super::Sandbox;
use super::door::{self, Refusal};
use crate::manifest::Digest;

/// A component that is a handler. Cheap to clone; its code is shared.
#[derive(Clone)]
pub struct Plugin(Arc<Loaded>);

struct Loaded {
    path: PathBuf,
    digest: Digest,
    world: World,
    component: Component,
    sandbox: Sandbox,
}

/// What a plugin takes in one call. Its exports tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum World {
    /// One message a call.
    Plugin,
    /// Many messages a call.
    Batch,
}

impl Plugin {
    pub(super) fn load(sandbox: &Sandbox, path: &Path, bytes: &[u8]) -> Result<Self, Refusal> {
        let engine = sandbox.engine();
        door::check_header(bytes)?;
        let component = Component::from_binary(engine, bytes)
            .map_err(|error| door::cannot_compile(bytes, &error))?;
        let world = door::check_exports(&component, engine)?;
        let (path, digest) = (path.to_owned(), Digest::of(bytes));
        Ok(Self(Arc::new(Loaded { path, digest, world, component, sandbox: sandbox.clone() })))
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// What tells it from every other plugin.
    pub fn digest(&self) -> &Digest {
        &self.0.digest
    }

    /// What it takes in one call.
    pub fn world(&self) -> World {
        self.0.world
    }

    pub(super) fn component(&self) -> &Component {
        &self.0.component
    }

    pub(super) fn sandbox(&self) -> &Sandbox {
        &self.0.sandbox
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loaded { path, digest, world, .. } = &*self.0;
        f.debug_struct("Plugin")
            .field("path", path)
            .field("digest", digest)
            .field("world", world)
            .finish_non_exhaustive()
    }
}
