//! Noticing that a file is another by now, by asking for its metadata a few times a second.
//!
//! That works on every file system, through links and over a network, and needs no place among
//! the few that a system has for watching. What becomes of a change is `changes`'s.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// How often files are looked at. A change shows at two looks before it is taken up, so it is
/// noticed within half a second.
const EVERY: Duration = Duration::from_millis(250);

/// A file system's clock may stand still for two seconds, and what is written meanwhile looks like
/// what was there: so a change is taken up once more after that.
const COARSE: Duration = Duration::from_secs(2);

/// How a file looks without reading it. Whatever is done to its content, or to a link on the way
/// to it, changes this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// There is a file.
    There {
        /// Device and number of the file that all links end at.
        file: (u64, u64),
        /// Bytes.
        size: u64,
        /// When it was written, in seconds and nanoseconds.
        written: (i64, i64),
        /// When anything about it changed: nobody can set this.
        changed: (i64, i64),
    },
    /// It cannot be looked at.
    Missing(ErrorKind),
}

impl Look {
    /// A look at what is there now. Blocks, for long where a network is in between.
    pub(super) fn at(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(seen) => Self::There {
                file: (seen.dev(), seen.ino()),
                size: seen.size(),
                written: (seen.mtime(), seen.mtime_nsec()),
                changed: (seen.ctime(), seen.ctime_nsec()),
            },
            Err(error) => Self::Missing(error.kind()),
        }
    }
}

/// A file that is another than before, or may be.
#[derive(Debug)]
pub(super) struct Noticed {
    pub path: PathBuf,
    pub look: Look,
}

/// Looks at files, a few times a second.
pub(super) struct Watch {
    files: Vec<File>,
    every: Interval,
    /// Where to wait for a file system.
    threads: Handle,
}

impl Watch {
    /// Watches nothing yet; looks from these threads.
    pub(super) fn new(threads: Handle) -> Self {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { files: Vec::new(), every, threads }
    }

    /// Watches these files and no others. One that was not watched before counts as changed.
    pub(super) fn follow<'a>(&mut self, paths: impl Iterator<Item = &'a Path>) {
        let mut before = std::mem::take(&mut self.files);
        for path in paths {
            if self.files.iter().any(|file| file.path == path) {
                continue;
            }
            let known = before.iter().position(|file| file.path == path);
            self.files.push(known.map_or_else(|| File::new(path), |at| before.swap_remove(at)));
        }
    }

    /// Counts every file as changed.
    pub(super) fn forget(&mut self) {
        self.files.iter_mut().for_each(|file| file.taken = None);
    }

    /// Has a change that was noticed be noticed again, soon.
    pub(super) fn put_off(&mut self, change: &Noticed) {
        let file = self.files.iter_mut().find(|file| file.path == change.path);
        file.into_iter().for_each(|file| file.taken = None);
    }

    /// Waits for the next look, and gives what has changed and come to rest since.
    pub(super) async fn next(&mut self) -> Vec<Noticed> {
        self.every.tick().await;
        let paths: Vec<PathBuf> = self.files.iter().map(|file| file.path.clone()).collect();
        let look = move || paths.iter().map(|path| Look::at(path)).collect::<Vec<_>>();
        // Looking does not panic; at a stop, nobody waits for it.
        let looks = self.threads.spawn_blocking(look).await.unwrap_or_default();
        let now = Instant::now();
        let noticed = self.files.iter_mut().zip(looks).filter_map(|(file, look)| {
            file.see(look, now).then(|| Noticed { path: file.path.clone(), look })
        });
        noticed.collect()
    }
}

/// A file that is watched.
struct File {
    path: PathBuf,
    last: Option<Look>,
    /// As it was last taken up.
    taken: Option<Look>,
    /// When to take it up once more although it looks the same.
    again: Option<Instant>,
}

impl File {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), last: None, taken: None, again: None }
    }

    /// Takes in a look; says whether the file is to be taken up.
    fn see(&mut self, look: Look, now: Instant) -> bool {
        let at_rest = self.last.replace(look) == Some(look);
        if at_rest && self.taken != Some(look) {
            self.taken = Some(look);
            self.again = Some(now + COARSE);
            return true;
        }
        at_rest && self.again.take_if(|at| *at <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(at: i64) -> Look {
        Look::There { file: (1, 1), size: 10, written: (at, 0), changed: (at, 0) }
    }

    #[test]
    fn a_file_is_taken_up_once_it_has_come_to_rest() {
        let (mut file, now) = (File::new(Path::new("a.wasm")), Instant::now());
        let seen: Vec<bool> =
            [1, 1, 1, 2, 3, 3, 3].into_iter().map(|at| file.see(written(at), now)).collect();
        assert_eq!(seen, [false, true, false, false, false, true, false]);
    }

    #[test]
    fn what_a_coarse_clock_may_hide_is_looked_for_once_more() {
        let (mut file, now) = (File::new(Path::new("a.wasm")), Instant::now());
        let look = written(1);
        assert_eq!([file.see(look, now), file.see(look, now)], [false, true]);
        let later = now + COARSE;
        assert_eq!([file.see(look, later), file.see(look, later)], [true, false]);
    }

    #[test]
    fn a_file_that_vanishes_and_comes_back_as_it_was_is_noticed_both_times() {
        let (mut file, now) = (File::new(Path::new("a.wasm")), Instant::now());
        let gone = Look::Missing(ErrorKind::NotFound);
        let seen: Vec<bool> = [written(1), written(1), gone, gone, written(1), written(1)]
            .into_iter()
            .map(|look| file.see(look, now))
            .collect();
        assert_eq!(seen, [false, true, false, true, false, true]);
    }

    #[test]
    fn a_look_tells_a_file_of_the_same_size_and_time_from_another() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        for path in [&one, &other] {
            fs::write(path, "as long").unwrap();
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        }
        let before = Look::at(&one);
        assert_eq!(before, Look::at(&one));
        fs::rename(&other, &one).unwrap();
        assert_ne!(before, Look::at(&one));
        assert_eq!(Look::at(&other), Look::Missing(ErrorKind::NotFound));
    }
}
