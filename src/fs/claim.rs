//! A directory taken for work: locked, and left as it was found where nothing came of the work.

use super::{LOCK, RunLock, fault, is_there};
use crate::error::Result;
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

/// The sole right to work in a directory. Until [`Claim::keep`] is called what it put there is taken back when it ends:
/// the lock's file, the directory of caches, and the directories that it made, as far as they are empty.
#[derive(Debug)]
pub struct Claim {
    dir: PathBuf,
    /// The highest directory that was not there before.
    made: Option<PathBuf>,
    /// A directory of caches that was not there before.
    caches: Option<PathBuf>,
    kept: Cell<bool>,
    lock: Option<RunLock>,
}

impl Claim {
    /// Locks `dir`, which is made where absent; `caches` is a directory in which only files lie that can be made again.
    ///
    /// # Errors
    /// As [`RunLock::acquire`].
    pub fn take(dir: &Path, caches: &Path) -> Result<Claim> {
        let absent = |path: &Path| !is_there(path);
        let above = dir.ancestors().take_while(|p| !p.as_os_str().is_empty() && absent(p));
        let made = above.last().map(Path::to_path_buf);
        let caches = Some(caches.to_path_buf()).filter(|p| absent(p));
        let lock = RunLock::acquire(dir)?;
        Ok(Claim { dir: dir.to_path_buf(), made, caches, kept: Cell::new(false), lock: Some(lock) })
    }

    /// Something in the directory is worth keeping from now on.
    pub fn keep(&self) {
        self.kept.set(true);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.kept.get() || fault::point("claim.drop").is_err() {
            return;
        }
        // What cannot be taken back stays: the error that ended the work is the one to report.
        if let Some(caches) = &self.caches {
            let _ = fs::remove_dir_all(caches);
        }
        if self.lock.as_ref().is_some_and(RunLock::made) {
            let _ = fs::remove_file(self.dir.join(LOCK));
        }
        drop(self.lock.take());
        let Some(made) = &self.made else { return };
        for dir in self.dir.ancestors().take_while(|p| p.starts_with(made)) {
            if fs::remove_dir(dir).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut all: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        all.sort();
        all
    }

    #[test]
    fn what_a_claim_made_goes_with_it_unless_it_is_kept() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("a/b");
        for keep in [false, true] {
            let claim = Claim::take(&dir, &dir.join("data")).unwrap();
            fs::create_dir(dir.join("data")).unwrap();
            fs::write(dir.join("data/x.tok"), "x").unwrap();
            if keep {
                claim.keep();
            }
            drop(claim);
            assert_eq!(place.path().join("a").exists(), keep);
        }
        assert_eq!(names(&dir), [".lock", "data"]);
    }

    #[test]
    fn what_was_there_before_a_claim_stays() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("mine");
        fs::create_dir_all(dir.join("data")).unwrap();
        fs::write(dir.join("notes.txt"), "mine").unwrap();
        drop(Claim::take(&dir, &dir.join("data")).unwrap());
        assert_eq!(names(&dir), ["data", "notes.txt"]);
        let held = Claim::take(&dir, &dir.join("data")).unwrap();
        assert!(Claim::take(&dir, &dir.join("data")).is_err());
        drop(held);
        assert_eq!(names(&dir), ["data", "notes.txt"], "the one that was refused took nothing away");
    }

    /// Whoever finishes without a result takes the lock's file with it, and another may have opened that file just before.
    #[test]
    fn two_claims_never_hold_one_directory_however_their_ends_and_beginnings_meet() {
        use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("a/b");
        let (inside, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..500 {
                        match Claim::take(&dir, &dir.join("data")) {
                            Ok(claim) => {
                                assert_eq!(inside.fetch_add(1, SeqCst), 0, "two hold it");
                                taken.fetch_add(1, SeqCst);
                                inside.fetch_sub(1, SeqCst);
                                drop(claim);
                            }
                            Err(e) => assert_eq!(e.kind, crate::error::Kind::Usage, "{e}"),
                        }
                    }
                });
            }
        });
        assert!(taken.load(SeqCst) > 0);
    }
}
