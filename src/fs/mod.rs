//! Every write of the program, and the guarded reads: a file or a directory is there whole or not at all, whatever
//! kills the process.
//!
//! A file is written to a sibling `NAME.tmp-PID`, synced, renamed, and its directory synced; a directory is built as
//! `NAME.tmp-PID` and renamed when all of it is on disk. So a reader sees the old or the new state and never a mix, and
//! what a killed process leaves behind is recognised by its name and the dead process id in it.

mod aside;
mod claim;
pub mod fault;
mod manifest;
mod partial;
mod read;
mod seal;

pub use aside::set_aside;
pub use claim::Claim;
pub use manifest::{FileEntry, MANIFEST, Manifest, read_manifest, verify_manifest, write_manifest};
pub use partial::{Partial, link, lock_file};
pub use read::{contained, inside, open, read_limited, read_text, unreadable};
pub use seal::{Sealed, seal, unseal};

use crate::error::{Error, Kind, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Writes `bytes` to `path` so that a reader finds the old content or the new, never a mix; the mode follows the umask.
///
/// Errors are of kind I/O, name the file and the bytes needed, and leave no temporary file.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let temp = temporary(path)?;
    let written = write_and_sync(&temp, bytes).and_then(|()| {
        fault::point("file.rename")?;
        fs::rename(&temp, path)
    });
    if let Err(e) = written {
        // The first error is the one to report; a leftover is removed at the next start.
        let _ = fs::remove_file(&temp);
        return Err(refused("write", path, bytes.len(), &e));
    }
    sync_dir(parent_of(path)).map_err(|e| refused("write", path, bytes.len(), &e))
}

/// As [`write_atomic`], of what `fill` writes: for content too long to be held at once.
pub fn write_atomic_from(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let temp = temporary(path)?;
    let write = || {
        fault::point("file.create")?;
        let mut out = io::BufWriter::with_capacity(1 << 20, File::create(&temp)?);
        fault::point("file.write")?;
        fill(&mut out)?;
        fault::point("file.fsync")?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fault::point("file.rename")?;
        fs::rename(&temp, path)
    };
    if let Err(e) = write() {
        let _ = fs::remove_file(&temp);
        return Err(Error::io("write", path, &e));
    }
    sync_dir(parent_of(path)).map_err(|e| Error::io("write", path, &e))
}

/// Writes `bytes` to `path` in place and syncs them: for files inside a directory that `commit_dir` is building.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_and_sync(path, bytes).map_err(|e| refused("write", path, bytes.len(), &e))
}

/// Adds `bytes` to the end of `path`, which is created where absent; not synced, so only for logs.
pub fn append(path: &Path, bytes: &[u8]) -> Result<()> {
    let add = || {
        fault::point("log.open")?;
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        fault::point("log.write")?;
        file.write_all(bytes)
    };
    add().map_err(|e| refused("append to", path, bytes.len(), &e))
}

/// Creates the directory `path` and those above it; one that exists is no error.
pub fn create_dir(path: &Path) -> Result<()> {
    fault::point("dir.create").and_then(|()| fs::create_dir_all(path)).map_err(|e| Error::io("create", path, &e))
}

/// Removes the directory `path` and all in it; one that is absent is no error.
pub fn remove_dir(path: &Path) -> Result<()> {
    match fault::point("dir.remove").and_then(|()| fs::remove_dir_all(path)) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", path, &e)),
        _ => Ok(()),
    }
}

/// Removes the file `path`; one that is absent is no error.
pub fn remove_file(path: &Path) -> Result<()> {
    match fault::point("file.remove").and_then(|()| fs::remove_file(path)) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", path, &e)),
        _ => Ok(()),
    }
}

/// Builds the directory `parent/name` by `build`, which gets a temporary directory to fill, and returns its final path.
///
/// The directory appears under its name only when `build` returned `Ok` and every file of it is on disk. A directory of
/// that name is replaced only if it has no valid manifest; else the error is of kind usage and `build` does not run.
pub fn commit_dir(parent: &Path, name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    assert!(!name.is_empty() && !name.contains(['/', '\\']), "`{name}` is not a directory name");
    let target = parent.join(name);
    if target.exists() && verify_manifest(&target).is_ok() {
        return Err(Error::usage(format!("{} exists and is complete", target.display()))
            .hint("choose another directory, or remove this one"));
    }
    let temp = temporary(&target)?;
    let built = fill(&temp, build).and_then(|()| {
        remove_dir(&target)?;
        let rename = fault::point("dir.rename").and_then(|()| fs::rename(&temp, &target));
        rename.map_err(|e| Error::io("create", &target, &e))
    });
    if let Err(e) = built {
        let _ = fs::remove_dir_all(&temp);
        return Err(e);
    }
    sync_dir(parent).map_err(|e| Error::io("write", &target, &e))?;
    Ok(target)
}

fn fill(temp: &Path, build: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    remove_dir(temp)?;
    create_dir(temp)?;
    build(temp)?;
    sync_tree(temp).map_err(|e| Error::io("write", temp, &e))
}

/// Removes what killed processes left in `dir`: entries named `*.tmp-PID` whose process is gone. Returns their paths.
///
/// To be called at start, with the run lock held: an entry with *our* process id is then a leftover too, of an earlier
/// process that had the same id, as happens in containers.
pub fn remove_stale_tmp(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(removed),
        entries => entries.map_err(|e| Error::io("read", dir, &e))?,
    };
    for entry in entries {
        let path = entry.map_err(|e| Error::io("read", dir, &e))?.path();
        if !pid_of(&path).is_some_and(|pid| pid == std::process::id() || is_gone(pid, &path)) {
            continue;
        }
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
        let done = fault::point("stale.remove")
            .and_then(|()| if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) });
        done.map_err(|e| Error::io("remove", &path, &e))?;
        removed.push(path);
    }
    removed.sort();
    Ok(removed)
}

fn pid_of(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.rsplit_once(".tmp-")?.1.parse().ok()
}

fn is_gone(pid: u32, path: &Path) -> bool {
    if cfg!(target_os = "linux") && Path::new("/proc/self").exists() {
        return !Path::new("/proc").join(pid.to_string()).exists();
    }
    // Without a process table to look in, only age tells: no single file takes a day to write.
    let age = fs::symlink_metadata(path).and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
    age.is_some_and(|age| age > Duration::from_secs(24 * 3600))
}

/// The sole right to work in a directory, given back when dropped or when the process ends in any way.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Locks `dir` (which is created where absent) through `dir/.lock`; kind usage if another process holds it.
    pub fn acquire(dir: &Path) -> Result<RunLock> {
        create_dir(dir)?;
        let path = dir.join(".lock");
        let open = || {
            fault::point("lock.create")?;
            OpenOptions::new().write(true).create(true).truncate(false).open(&path)
        };
        let file = open().map_err(|e| Error::io("create", &path, &e))?;
        match file.try_lock() {
            Ok(()) => Ok(RunLock { _file: file }),
            Err(TryLockError::WouldBlock) => {
                Err(Error::usage(format!("another fewstep process is working in {}", dir.display()))
                    .hint("wait until it has finished, or work in another directory"))
            }
            Err(TryLockError::Error(e)) => Err(Error::io("lock", &path, &e)),
        }
    }
}

/// SHA-256 of `bytes` as 64 lower-case hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of the content of `path` as 64 lower-case hexadecimal digits, read in pieces.
pub fn sha256_file(path: &Path) -> Result<String> {
    Ok(length_and_sha256(path)?.1)
}

fn length_and_sha256(path: &Path) -> Result<(u64, String)> {
    let (mut file, _) = open(path)?;
    let (mut hash, mut length, mut piece) = (Sha256::new(), 0u64, vec![0u8; 1 << 20]);
    loop {
        let n = match file.read(&mut piece) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            read => read.map_err(|e| Error::io("read", path, &e))?,
        };
        if n == 0 {
            return Ok((length, hex(&hash.finalize())));
        }
        hash.update(&piece[..n]);
        length += n as u64;
    }
}

/// `bytes` in lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn temporary(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| Error::new(Kind::Io, format!("{} names no file", path.display())))?;
    let mut name = name.to_os_string();
    name.push(format!(".tmp-{}", std::process::id()));
    Ok(path.with_file_name(name))
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The bytes go out in two halves so that a fault between them stands for a short write.
fn write_and_sync(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fault::point("file.create")?;
    let mut file = File::create(path)?;
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    fault::point("file.write")?;
    file.write_all(first)?;
    fault::point("file.write.rest")?;
    file.write_all(rest)?;
    fault::point("file.fsync")?;
    file.sync_all()
}

fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            fault::point("tree.fsync")?;
            // Windows flushes only handles that may write.
            OpenOptions::new().read(true).write(cfg!(windows)).open(entry.path())?.sync_all()?;
        }
    }
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    fault::point("dir.fsync")?;
    // Only Unix can sync a directory; elsewhere the rename itself has to do.
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

fn refused(doing: &str, path: &Path, bytes: usize, cause: &io::Error) -> Error {
    let error = Error::io(doing, path, cause).cause(format!("{bytes} bytes are needed"));
    match cause.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            error.hint(format!("free at least {bytes} bytes on that disk, then type the same command again"))
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests;
