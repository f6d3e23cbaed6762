//! Compiled plugins kept on disk, so that the next start need not compile them.
//!
//! The directory may be shared by any number of hosts: a file appears whole, under a name that
//! says what it was made of and for, and what has that name is not changed again. What may be
//! loaded of what is found there is `trust`'s to say.
//!
//! A cache is never worth a failure: what cannot be read or written is told of once and
//! done without.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};

use super::trust::{Artefact, Distrust, Recipe, Trusted};

/// What ends the name of an artefact. Nothing else in the directory is ever removed.
const ENDING: &str = ".compiled";

/// What begins the name of one that is still being written.
const UNFINISHED: &str = ".new-";

/// Artefacts that are kept: more than a host has plugins, each in a few versions.
const KEPT_FILES: usize = 64;

/// Bytes of all of them. Half a dozen interpreters, or thousands of small plugins.
const KEPT_BYTES: u64 = 1 << 30;

/// Nobody writes for longer than this: what is left unfinished is of a host that died.
const UNFINISHED_FOR: Duration = Duration::from_secs(3600);

/// Who may read a directory of artefacts that is made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// This user.
    Owner,
    /// Everyone, as an image is built by one user and run by another.
    Everyone,
}

/// A directory of artefacts.
pub(super) struct Store {
    folder: PathBuf,
    readers: Readers,
    complained: AtomicBool,
}

impl Store {
    pub(super) fn new(folder: PathBuf, readers: Readers) -> Self {
        Self { folder, readers, complained: AtomicBool::new(false) }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The artefact of this recipe, if there is one and it is to be trusted.
    pub(super) fn get(&self, recipe: &Recipe) -> Option<Artefact> {
        let name = recipe.name() + ENDING;
        let found = Trusted::open(&self.folder).map(|directory| {
            directory.map(|directory| Artefact::of_file(&directory, &name, recipe))
        });
        match found {
            Ok(None | Some(Ok(None))) => None,
            Ok(Some(Ok(Some((artefact, file))))) => {
                // The least recently used goes first. Where this is not ours to say, who
                // filled the directory sees to its size.
                let _ = file.set_modified(SystemTime::now());
                Some(artefact)
            }
            Ok(Some(Err(distrust))) => {
                tracing::warn!(file = %self.folder.join(name).display(), %distrust,
                    "a compiled plugin is not loaded; it is compiled again");
                None
            }
            Err(distrust) => {
                self.complain(&distrust);
                None
            }
        }
    }

    /// Keeps an artefact; whether it is kept.
    pub(super) fn put(&self, recipe: &Recipe, artefact: &Artefact) -> Result<(), Unkept> {
        let kept = self.write(&(recipe.name() + ENDING), artefact.bytes());
        match &kept {
            Ok(directory) => tidy(directory),
            Err(error) => self.complain(error),
        }
        kept.map(|_| ()).map_err(|error| Unkept(error.to_string()))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<Trusted, Distrust> {
        let directory = self.opened()?;
        let unfinished = format!("{UNFINISHED}{}-{:016x}", std::process::id(), fastrand::u64(..));
        let how =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // The directory says who may read; nobody else may write, whatever the process's mask.
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        let file = File::from(rustix::fs::openat(&directory, &unfinished, how, mode)?);
        // Not flushed to the disk: what a power failure cuts short fails its checksum, and is
        // compiled again.
        let written = file
            .set_permissions(PermissionsExt::from_mode(0o644))
            .and_then(|()| (&file).write_all(bytes))
            .and_then(|()| Ok(rustix::fs::renameat(&directory, &unfinished, &directory, name)?));
        if let Err(error) = written {
            let _ = rustix::fs::unlinkat(&directory, &unfinished, AtFlags::empty());
            return Err(error.into());
        }
        Ok(directory)
    }

    /// The directory, made where there is none.
    fn opened(&self) -> Result<Trusted, Distrust> {
        if let Some(directory) = Trusted::open(&self.folder)? {
            return Ok(directory);
        }
        let mode = match self.readers {
            Readers::Owner => 0o700,
            Readers::Everyone => 0o755,
        };
        if let Some(parent) = self.folder.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(mode).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        Trusted::open(&self.folder)?.ok_or(Distrust::NoDirectory)
    }

    /// Says once that there is no cache, and why.
    fn complain(&self, why: &Distrust) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(cache = %self.folder.display(), %why,
                "compiled plugins are not kept; each start compiles them again");
        }
    }
}

/// Why an artefact is not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unkept(String);

/// Removes the least recently used artefacts beyond what is kept. What fails here is
/// tried again with the next artefact.
fn tidy(directory: &Trusted) {
    let Ok(listing) = Dir::read_from(directory) else { return };
    let mut kept = Vec::new();
    for entry in listing.flatten() {
        let Ok(name) = entry.file_name().to_str() else { continue };
        let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let used = SystemTime::UNIX_EPOCH
            + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or_default());
        if is_artefact(name) {
            kept.push((used, name.to_owned(), u64::try_from(stat.st_size).unwrap_or_default()));
        } else if name.starts_with(UNFINISHED)
            && used.elapsed().is_ok_and(|age| age > UNFINISHED_FOR)
        {
            let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
        }
    }
    for name in beyond(kept, KEPT_FILES, KEPT_BYTES) {
        let _ = rustix::fs::unlinkat(directory, &*name, AtFlags::empty());
    }
}

fn is_artefact(name: &str) -> bool {
    let stem = name.strip_suffix(ENDING).unwrap_or_default();
    stem.len() == 64 && stem.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The names of those that go: the least recently used, until the rest fits. The latest stays.
fn beyond(mut found: Vec<(SystemTime, String, u64)>, files: usize, bytes: u64) -> Vec<String> {
    found.sort_by(|one, other| other.cmp(one));
    let mut total = 0u64;
    let fits = found.iter().enumerate().take_while(|(at, (_, _, size))| {
        total = total.saturating_add(*size);
        *at == 0 || (*at < files && total <= bytes)
    });
    let kept = fits.count();
    found.into_iter().skip(kept).map(|(_, name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aged(ages: &[(u64, u64)]) -> Vec<(SystemTime, String, u64)> {
        let entry = |(age, size): &(u64, u64)| {
            let used = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 - age);
            (used, format!("{age}"), *size)
        };
        ages.iter().map(entry).collect()
    }

    #[test]
    fn the_least_recently_used_artefacts_go_first() {
        assert_eq!(beyond(aged(&[(3, 1), (1, 1), (2, 1)]), 2, 100), ["3"]);
        assert_eq!(beyond(aged(&[(3, 50), (1, 40), (2, 50)]), 9, 100), ["3"]);
        assert_eq!(beyond(aged(&[(1, 500), (2, 1)]), 9, 100), ["2"], "the latest stays");
        assert!(beyond(aged(&[(1, 50), (2, 50)]), 2, 100).is_empty());
    }

    #[test]
    fn nothing_but_artefacts_is_taken_for_one() {
        assert!(is_artefact(&format!("{}.compiled", "0a".repeat(32))));
        for other in ["notes.txt", "x.compiled", &"0a".repeat(32), "tidegate.toml"] {
            assert!(!is_artefact(other), "{other}");
        }
    }
}
