//! A file that grows over several processes, as a download does: what was written stays when one of them ends, and the
//! file gets its name when it is whole. And links in a directory that other programs read too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{fault, parent_of, refused, sync_dir, temporary};
use crate::error::{Error, Result};

/// A file that is not whole yet.
#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Partial {
    /// Opens `path` to go on behind what it holds; it is created where it is absent. What is not a regular file there is
    /// removed first.
    ///
    /// # Errors
    /// I/O.
    pub fn open(path: &Path) -> Result<Partial> {
        let open = || {
            if fs::symlink_metadata(path).is_ok_and(|m| !m.is_file()) {
                fault::point("partial.remove")?;
                fs::remove_file(path)?;
            }
            fault::point("partial.open")?;
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            let length = file.seek(SeekFrom::End(0))?;
            Ok(Partial { path: path.to_path_buf(), file, length })
        };
        open().map_err(|e: io::Error| Error::io("write", path, &e))
    }

    /// The bytes it holds.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Hands over what it holds, in pieces.
    ///
    /// # Errors
    /// I/O.
    pub fn read_back(&mut self, mut take: impl FnMut(&[u8])) -> Result<()> {
        let mut read = || {
            self.file.seek(SeekFrom::Start(0))?;
            let mut piece = vec![0u8; 1 << 20];
            loop {
                match self.file.read(&mut piece) {
                    Ok(0) => break,
                    Ok(n) => take(&piece[..n]),
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            self.file.seek(SeekFrom::End(0)).map(|_| ())
        };
        read().map_err(|e| Error::io("read", &self.path, &e))
    }

    /// Adds `bytes` at its end.
    ///
    /// # Errors
    /// I/O.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = fault::point("partial.write").and_then(|()| self.file.write_all(bytes));
        written.map_err(|e| refused("write", &self.path, bytes.len(), &e))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Empties it.
    ///
    /// # Errors
    /// I/O.
    pub fn restart(&mut self) -> Result<()> {
        let mut cut = || {
            fault::point("partial.cut")?;
            self.file.set_len(0)?;
            self.file.seek(SeekFrom::Start(0)).map(|_| ())
        };
        cut().map_err(|e| Error::io("write", &self.path, &e))?;
        self.length = 0;
        Ok(())
    }

    /// Removes it.
    ///
    /// # Errors
    /// I/O.
    pub fn discard(self) -> Result<()> {
        let removed = fault::point("partial.remove").and_then(|()| fs::remove_file(&self.path));
        removed.map_err(|e| Error::io("remove", &self.path, &e))
    }

    /// Syncs it and gives it the name `target`, in place of what is there.
    ///
    /// # Errors
    /// I/O.
    pub fn finish(self, target: &Path) -> Result<()> {
        let finish = || {
            fault::point("partial.fsync")?;
            self.file.sync_all()?;
            fault::point("partial.rename")?;
            fs::rename(&self.path, target)?;
            sync_dir(parent_of(target))
        };
        finish().map_err(|e| Error::io("write", target, &e))
    }
}

/// Opens the lock file `path`, which is created where it is absent and never written.
///
/// # Errors
/// I/O.
pub fn lock_file(path: &Path) -> Result<File> {
    let open = || {
        fault::point("lock.create")?;
        OpenOptions::new().write(true).create(true).truncate(false).open(path)
    };
    open().map_err(|e| Error::io("create", path, &e))
}

/// Makes `path` a link to `target`, which is relative to its directory, in place of what is there; a copy of the file where
/// the system has no links.
///
/// # Errors
/// I/O.
pub fn link(target: &Path, path: &Path) -> Result<()> {
    let temp = temporary(path)?;
    let make = || {
        fault::point("link.create")?;
        let _ = fs::remove_file(&temp);
        #[cfg(unix)]
        std::os::unix::fs::symlink(target, &temp)?;
        #[cfg(not(unix))]
        fs::copy(parent_of(path).join(target), &temp)?;
        fault::point("link.rename")?;
        fs::rename(&temp, path)
    };
    if let Err(e) = make() {
        let _ = fs::remove_file(&temp);
        return Err(Error::io("write", path, &e));
    }
    sync_dir(parent_of(path)).map_err(|e| Error::io("write", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_file_goes_on_where_the_last_process_stopped_and_gets_its_name_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("x.incomplete"), dir.path().join("x"));
        Partial::open(&path).unwrap().write(b"one ").unwrap();
        let mut partial = Partial::open(&path).unwrap();
        assert_eq!(partial.length(), 4);
        let mut held = Vec::new();
        partial.read_back(|piece| held.extend_from_slice(piece)).unwrap();
        assert_eq!(held, b"one ");
        partial.write(b"two").unwrap();
        partial.finish(&target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"one two");
        assert!(!path.exists());
    }

    #[test]
    fn a_partial_file_that_is_started_again_holds_nothing_of_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.incomplete");
        let mut partial = Partial::open(&path).unwrap();
        partial.write(b"wrong and long").unwrap();
        partial.restart().unwrap();
        partial.write(b"right").unwrap();
        assert_eq!((partial.length(), fs::read(&path).unwrap()), (5, b"right".to_vec()));
        partial.discard().unwrap();
        assert!(!path.exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_partial_file_is_never_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("x.incomplete"), dir.path().join("other"));
        fs::write(&other, "keep").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        Partial::open(&path).unwrap().write(b"new").unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"keep");
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_link_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("blobs")).unwrap();
        fs::create_dir(dir.path().join("snapshot")).unwrap();
        let path = dir.path().join("snapshot/x");
        for name in ["a", "b"] {
            fs::write(dir.path().join("blobs").join(name), name).unwrap();
            link(&Path::new("../blobs").join(name), &path).unwrap();
            assert_eq!(fs::read(&path).unwrap(), name.as_bytes());
        }
        assert_eq!(fs::read_dir(dir.path().join("snapshot")).unwrap().count(), 1);
    }
}
