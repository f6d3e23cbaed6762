//! A plugin: a component, checked and compiled, known by its digest.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wasmtime::component::Component;

use super::Sandbox;
use super::contract::Ready;
use super::door::{self, Refusal};

/// A component that fits the contract. Cheap to clone; its code is shared.
#[derive(Clone)]
pub struct Plugin(Arc<Loaded>);

struct Loaded {
    path: PathBuf,
    digest: Digest,
    world: World,
    ready: Ready,
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
        door::check_imports(&component, engine)?;
        let ready = sandbox
            .linker()
            .instantiate_pre(&component)
            .and_then(|pre| Ready::new(world, pre))
            .map_err(|error| Refusal::Unlinkable(format!("{error:#}")))?;
        let (path, digest) = (path.to_owned(), Digest::of(bytes));
        Ok(Self(Arc::new(Loaded { path, digest, world, ready, sandbox: sandbox.clone() })))
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

    pub(super) fn ready(&self) -> &Ready {
        &self.0.ready
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

/// The SHA-256 of a plugin's file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a file's bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Its first twelve hexadecimal digits: enough to tell versions apart in a table.
    pub fn short(&self) -> String {
        hex(&self.0[..6])
    }
}

/// `sha256:` and 64 hexadecimal digits, as container registries write it.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_as_sha256sum_prints_it() {
        let digest = Digest::of(b"abc");
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), format!("sha256:{hex}"));
        assert_eq!(digest.short(), "ba7816bf8f01");
    }
}
