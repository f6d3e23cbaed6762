//! Reading a plugin's file, whatever it is that has its name.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::SandboxError;
use super::door::Refusal;
use crate::manifest::Digest;

/// The digest of a regular file that has no more than so many bytes.
///
/// # Errors
///
/// When it cannot be read, is something else than a file, or is larger.
pub fn digest(path: &Path, most: u64) -> Result<Digest, SandboxError> {
    read(path, most).map(|bytes| Digest::of(&bytes))
}

/// The bytes of a regular file that has no more than so many.
pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>, SandboxError> {
    let unreadable = |source| SandboxError::Read { path: path.to_owned(), source };
    let refused = |refusal| SandboxError::Refused { path: path.to_owned(), refusal };
    // Without waiting: opening a pipe would, for somebody to write to it.
    let without_waiting = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(without_waiting)
        .open(path)
        .map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(refused(Refusal::NoFile));
    }
    if metadata.len() > most {
        return Err(refused(Refusal::TooLarge(most)));
    }
    let bytes = bounded(&file, metadata.len(), most).map_err(unreadable)?;
    bytes.ok_or_else(|| refused(Refusal::TooLarge(most)))
}

/// All that is to be read, or nothing if that is more: a file may grow while it is read.
fn bounded(from: impl Read, expected: u64, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or_default());
    from.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_while_it_is_read_is_read_no_further_than_it_may() {
        assert_eq!(bounded(&b"four"[..], 4, 4).unwrap(), Some(b"four".to_vec()));
        assert_eq!(bounded(&b"fives"[..], 4, 4).unwrap(), None);
        assert_eq!(bounded(io::repeat(0), 4, 1 << 20).unwrap(), None, "it has no end");
    }
}
