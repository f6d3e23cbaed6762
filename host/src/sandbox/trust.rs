//! Which machine code is run: the one place that makes a component of bytes that were compiled before.
//!
//! Whoever says what an artefact holds says what this process executes, so the
//! project's only `unsafe` stands here, beside the rules that make it sound:
//!
//! - Code comes from two places, and an [`Artefact`] cannot be had from a third: from a child of this very
//!   program ([`Artefact::of_child`]), which is trusted as much as the compiler is
//!   where it runs in the host's own process, or from a file ([`Artefact::of_file`]).
//! - A file is trusted by who could have written it, not by what is in it: it and its
//!   directory belong to this process's user or to root, and nobody else may write to either.
//!   (Where there are access lists, what they grant is seen in the bits of the group.) Who
//!   can write as this user or as root needs no artefact to run code in this process.
//! - Nothing can be put in its place between the question and the use. The directory is opened once,
//!   without following a link, and files are opened in what was opened, again without
//!   following links. Owner and mode are asked of what is open, not of a name; the whole file
//!   is read into memory, and those bytes are what is checked and loaded. A file that another process
//!   of this user changes while it is read fails its checksum.
//! - Right by intent is not right in fact. The header says the format, the engine (its version, target, the
//!   processor's features and every setting that code depends on) and the plugin that it was made of and
//!   for, and the SHA-256 of the code. So what is cut short, damaged, renamed or of
//!   another engine is not loaded. A checksum is no signature: that is what the owner is for.
//!
//! Where artefacts are kept, and for how long, is `artefacts`' business.

#![allow(unsafe_code, reason = "what `Artefact` holds is what the engine made; see above")]

use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, Stat};
use sha2::{Digest as _, Sha256};
use wasmtime::component::Component;

use super::engine::Engine;
use crate::manifest::Digest;

/// What every artefact begins with; the last byte is the version of this format.
const MAGIC: &[u8; 8] = b"tidegat\x01";

/// `MAGIC`, what it was made of and for, the length of the code, and its SHA-256.
const HEADER: usize = 8 + 32 + 8 + 32;

/// More than any plugin that may be loaded compiles to.
pub(super) const ARTEFACT_BYTES: u64 = 4 << 30;

/// What an artefact was made of and for: one plugin, one engine, one version of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recipe([u8; 32]);

impl Recipe {
    pub(super) fn new(plugin: &Digest, engine: &Engine) -> Self {
        let mut recipe = Sha256::new();
        recipe.update(MAGIC);
        // What becomes of a core module before it is compiled is this host's doing.
        recipe.update(env!("CARGO_PKG_VERSION"));
        recipe.update([0]);
        recipe.update(plugin.to_string());
        let mut recipe = Recorded(recipe);
        engine.precompile_compatibility_hash().hash(&mut recipe);
        Self(recipe.0.finalize().into())
    }

    /// 64 hexadecimal digits: no two recipes share a name.
    pub(super) fn name(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Feeds what is hashed to SHA-256, as the hashes of the standard library may
/// change with the next compiler and are not made to be kept.
struct Recorded(Sha256);

impl Hasher for Recorded {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash: [u8; 32] = self.0.clone().finalize().into();
        u64::from_le_bytes(hash[..8].try_into().expect("eight of 32 bytes"))
    }
}

/// Compiled code that may be run, with its header before it.
pub(super) struct Artefact(Vec<u8>);

/// Why compiled code is left alone.
#[derive(Debug, thiserror::Error)]
pub(super) enum Distrust {
    #[error("is not a directory of its own but a link, or no directory")]
    NoDirectory,
    #[error("is no file of its own")]
    NoFile,
    #[error("belongs to another user than this process and root")]
    Owner,
    #[error("may be written to by others than its owner")]
    Writable,
    #[error("was made of another plugin, or for another host or machine")]
    Foreign,
    #[error("is damaged")]
    Damaged,
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

impl From<rustix::io::Errno> for Distrust {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Unreadable(error.into())
    }
}

impl Artefact {
    /// What this process has compiled itself, for a parent to read.
    pub(super) fn made(recipe: &Recipe, code: &[u8]) -> Self {
        Self([&Self::header(recipe, code)[..], code].concat())
    }

    fn header(recipe: &Recipe, code: &[u8]) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8..40].copy_from_slice(&recipe.0);
        header[40..48].copy_from_slice(&(code.len() as u64).to_le_bytes());
        header[48..].copy_from_slice(&Sha256::digest(code));
        header
    }

    /// What a child wrote that runs this very program. To be called with nothing else.
    pub(super) fn of_child(written: Vec<u8>, recipe: &Recipe) -> Result<Self, Distrust> {
        checked(&written, recipe)?;
        Ok(Self(written))
    }

    /// Reads a file of a trusted directory; none where there is no such file.
    pub(super) fn of_file(
        directory: &Trusted,
        name: &str,
        recipe: &Recipe,
    ) -> Result<Option<(Self, File)>, Distrust> {
        // Without waiting: what has that name may be a pipe.
        let how = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&directory.0, name, how, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => return Err(Distrust::NoFile),
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::fstat(&file)?;
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(Distrust::NoFile);
        }
        check_owner(&stat)?;
        let bytes = file.metadata()?.len();
        if bytes > ARTEFACT_BYTES {
            return Err(Distrust::Damaged);
        }
        let mut read = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
        (&file).take(ARTEFACT_BYTES).read_to_end(&mut read)?;
        checked(&read, recipe)?;
        Ok(Some((Self(read), file)))
    }

    /// All of it, header included, to be kept.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The component that was compiled.
    pub(super) fn component(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // SAFETY: the bytes must be what `Engine::precompile_component` gave, unchanged, of an engine like this
        // one; the engine checks the latter itself once more. Both ways to an artefact
        // have compared the recipe, which names engine and plugin, and the checksum of the code; and
        // have the code from a child that runs this program's own `precompile_component`, or from a
        // file which nobody could have written but this user or root. `self` owns the bytes, so
        // that they are the ones that were checked.
        unsafe { Component::deserialize(engine, &self.0[HEADER..]) }
    }
}

/// Compares a header with what is expected, and the code with its header.
fn checked(bytes: &[u8], recipe: &Recipe) -> Result<(), Distrust> {
    let Some((header, code)) = bytes.split_at_checked(HEADER) else {
        return Err(Distrust::Damaged);
    };
    let expected = Artefact::header(recipe, code);
    if header == expected {
        return Ok(());
    }
    let foreign = header[..40] != expected[..40];
    Err(if foreign { Distrust::Foreign } else { Distrust::Damaged })
}

/// A directory that is open, and in which nobody but this user and root can put anything.
pub(super) struct Trusted(OwnedFd);

impl Trusted {
    /// Opens a directory; none where there is none.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, Distrust> {
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match rustix::fs::open(path, how, Mode::empty()) {
            Ok(directory) => directory,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
                return Err(Distrust::NoDirectory);
            }
            Err(error) => return Err(error.into()),
        };
        check_owner(&rustix::fs::fstat(&directory)?)?;
        Ok(Some(Self(directory)))
    }
}

impl AsFd for Trusted {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn check_owner(stat: &Stat) -> Result<(), Distrust> {
    let own = rustix::process::geteuid().as_raw();
    if stat.st_uid != own && stat.st_uid != 0 {
        return Err(Distrust::Owner);
    }
    let others = Mode::WGRP | Mode::WOTH;
    let mode = Mode::from_raw_mode(stat.st_mode);
    if mode.intersects(others) { Err(Distrust::Writable) } else { Ok(()) }
}
