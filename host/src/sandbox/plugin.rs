//! A plugin: a component, compiled and checked for what it exports, known by its digest.
//!
//! What it imports is checked against a handler's grants, by `linked`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Semaphore;
use wasmtime::component::Component;

use super::compile::Origin;
use super::door::{self, Refusal};
use super::engine::{Engine, Room};
use super::{Sandbox, SandboxError};
use crate::manifest::Digest;

/// A component that is a handler. Cheap to clone; its code is shared.
#[derive(Clone)]
pub struct Plugin(Arc<Loaded>);

struct Loaded {
    path: PathBuf,
    digest: Digest,
    world: World,
    component: Component,
    origin: Origin,
    places: Arc<Semaphore>,
    /// Keeps the engine's clock going.
    _sandbox: Sandbox,
}

/// What a plugin takes in one call. Its exports tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum World {
    /// One message a call.
    Plugin,
    /// Many messages a call.
    Batch,
    /// One message a call, and many calls in flight in one instance.
    Async,
}

impl Plugin {
    /// Compiles a plugin for the room that its dialect belongs to, if it is the one that is meant.
    pub(super) fn load(
        (sandbox, room): (&Sandbox, &Room),
        path: &Path,
        bytes: &[u8],
        pin: Option<Digest>,
    ) -> Result<Self, Refusal> {
        let (engine, digest) = (&room.engine, Digest::of(bytes));
        fits_pin(pin, digest)?;
        let (component, origin) = sandbox.workshop().component(bytes, &digest, engine)?;
        let world = door::check_exports(&component, engine)?;
        let (path, places, _sandbox) = (path.to_owned(), room.places.clone(), sandbox.clone());
        Ok(Self(Arc::new(Loaded { path, digest, world, component, origin, places, _sandbox })))
    }

    /// Whether it is the one that a manifest means.
    ///
    /// # Errors
    ///
    /// When it is another.
    pub fn check_pin(&self, pin: Option<Digest>) -> Result<(), SandboxError> {
        check_pin(&self.0.path, pin, self.0.digest)
    }

    /// Where its code came from.
    pub fn origin(&self) -> &Origin {
        &self.0.origin
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

    /// The engine it was compiled by, and runs in.
    pub(super) fn engine(&self) -> &Engine {
        self.0.component.engine()
    }

    /// One permit for each instance that may be alive in that engine.
    pub(super) fn places(&self) -> &Arc<Semaphore> {
        &self.0.places
    }
}

/// Whether a file of this digest is the one that a manifest means.
///
/// # Errors
///
/// When it is another.
pub fn check_pin(path: &Path, pin: Option<Digest>, found: Digest) -> Result<(), SandboxError> {
    fits_pin(pin, found).map_err(|refusal| SandboxError::Refused { path: path.to_owned(), refusal })
}

fn fits_pin(pin: Option<Digest>, found: Digest) -> Result<(), Refusal> {
    match pin {
        Some(pinned) if pinned != found => Err(Refusal::OtherDigest { pinned, found }),
        Some(_) | None => Ok(()),
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
