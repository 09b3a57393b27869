//! The cache directory as huggingface_hub lays it out: `models--OWNER--NAME/{blobs,refs,snapshots}`, so that each program
//! finds what the other has downloaded.
//!
//! A blob is named by its hash, `snapshots/COMMIT/FILE` is a relative link to it, and `refs/REVISION` holds the commit.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::plain;
use crate::error::{Error, Result};
use crate::{fs, term};

/// How often a lock that another process holds is asked for.
const ASK: Duration = Duration::from_millis(100);

/// The directory of one repository in the cache.
#[derive(Debug, Clone)]
pub struct Folder {
    dir: PathBuf,
    locks: PathBuf,
}

impl Folder {
    /// The directory of the repository `id` (owner/name) of a kind: "models" or "datasets".
    pub fn new(cache: &Path, kind: &str, id: &str) -> Folder {
        let name = format!("{kind}--{}", id.replace('/', "--"));
        Folder { locks: cache.join(".locks").join(&name), dir: cache.join(name) }
    }

    /// The commit that `revision` stands for as far as the cache knows.
    fn commit(&self, revision: &str) -> Option<String> {
        let path = self.dir.join("refs").join(revision);
        let known = path.is_file().then(|| fs::read_limited(&path, 1 << 10).ok()).flatten();
        let known = known.and_then(|bytes| String::from_utf8(bytes).ok()).map(|text| text.trim().to_string());
        known.filter(|commit| plain(commit))
    }

    /// The file `name` at `revision`, if it is in the cache.
    pub fn cached(&self, revision: &str, name: &str) -> Option<PathBuf> {
        let at = |commit: &str| Some(self.file(commit, name)).filter(|path| path.exists());
        // A commit has no reference that leads to its snapshot: it is the snapshot's name.
        self.commit(revision).and_then(|commit| at(&commit)).or_else(|| at(revision))
    }

    /// The directory of a commit.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir.join("snapshots").join(commit)
    }

    /// Where the file `name` of a commit is.
    pub fn file(&self, commit: &str, name: &str) -> PathBuf {
        self.snapshot(commit).join(name)
    }

    /// Where the content with this hash is.
    pub fn blob(&self, hash: &str) -> PathBuf {
        self.dir.join("blobs").join(hash)
    }

    /// The part of it that is there, while not all of it is.
    pub fn incomplete(&self, hash: &str) -> PathBuf {
        self.dir.join("blobs").join(format!("{hash}.incomplete"))
    }

    /// Creates the directories that a blob needs.
    ///
    /// # Errors
    /// I/O.
    pub fn prepare(&self) -> Result<()> {
        fs::create_dir(&self.dir.join("blobs"))?;
        fs::create_dir(&self.locks)
    }

    /// Writes down which commit `revision` stands for; a commit stands for itself.
    ///
    /// # Errors
    /// I/O.
    pub fn remember(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.dir.join("refs").join(revision);
        fs::create_dir(path.parent().unwrap_or(&self.dir))?;
        fs::write_atomic(&path, commit.as_bytes())
    }

    /// Makes the file `name` of a commit a link to the content with this hash.
    ///
    /// # Errors
    /// I/O.
    pub fn link(&self, commit: &str, name: &str, hash: &str) -> Result<PathBuf> {
        let path = self.file(commit, name);
        fs::create_dir(path.parent().unwrap_or(&self.dir))?;
        // From the file's directory up to the repository's.
        let up = "../".repeat(name.split('/').count() + 1);
        fs::link(Path::new(&format!("{up}blobs/{hash}")), &path)?;
        Ok(path)
    }

    /// The sole right to write the content with this hash, by the lock that huggingface_hub takes too; waits for another
    /// process, and says so.
    ///
    /// # Errors
    /// I/O, or stopped by a signal.
    pub fn lock(&self, hash: &str) -> Result<File> {
        let path = self.locks.join(format!("{hash}.lock"));
        let file = fs::lock_file(&path)?;
        let mut said = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {
                    if !said {
                        term::note("another process is downloading this file: waiting for it");
                    }
                    said = true;
                    std::thread::sleep(ASK);
                }
                // A disk without locks: two processes would download twice, and the hash tells which bytes are right.
                Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => return Ok(file),
                Err(TryLockError::Error(e)) => return Err(Error::io("lock", &path, &e)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_in_the_cache_that_leads_out_of_it_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path(), "models", "a/b");
        let refs = dir.path().join("models--a--b/refs");
        std::fs::create_dir_all(&refs).unwrap();
        std::fs::create_dir_all(folder.snapshot("c0ffee")).unwrap();
        std::fs::write(folder.file("c0ffee", "x"), "inside").unwrap();
        std::fs::write(dir.path().join("x"), "outside").unwrap();
        std::fs::write(refs.join("main"), "../../..").unwrap();
        assert_eq!(folder.cached("main", "x"), None);
        std::fs::write(refs.join("main"), "c0ffee\n").unwrap();
        assert_eq!(folder.cached("main", "x"), Some(folder.file("c0ffee", "x")));
        assert_eq!(folder.cached("c0ffee", "x"), Some(folder.file("c0ffee", "x")));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_of_a_snapshot_is_a_relative_link_to_its_blob_however_deep_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path(), "datasets", "a/b");
        folder.prepare().unwrap();
        std::fs::write(folder.blob("beef"), "content").unwrap();
        for (name, target) in [("x", "../../blobs/beef"), ("data/en/x", "../../../../blobs/beef")] {
            let path = folder.link("c0ffee", name, "beef").unwrap();
            assert_eq!(std::fs::read_link(&path).unwrap(), Path::new(target));
            assert_eq!(std::fs::read(&path).unwrap(), b"content");
        }
        folder.remember("refs/convert/parquet", "c0ffee").unwrap();
        assert_eq!(folder.cached("refs/convert/parquet", "data/en/x"), Some(folder.file("c0ffee", "data/en/x")));
    }
}
