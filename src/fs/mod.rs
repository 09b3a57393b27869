//! Every write of the program, and the guarded reads: a file or a directory is there whole or not at all, whatever
//! kills the process.
//!
//! A file is written to a sibling `NAME.tmp-PID`, synced, renamed, and its directory synced; a directory is built as
//! `NAME.tmp-PID` and renamed when all of it is on disk (`dirs`), and gets such a name before it is removed. So a reader
//! sees the old or the new state and never a mix, and what a killed process leaves behind is recognised by its name and
//! the dead process id in it (`leftovers`). A rename replaces a link and not what it leads to.

mod aside;
mod claim;
mod dirs;
pub mod fault;
mod leftovers;
mod manifest;
mod partial;
mod published;
mod read;
mod seal;

pub use aside::set_aside;
pub use claim::Claim;
pub use dirs::{commit_dir, create_dir, is_free, new_dir, not_a_link, remove_dir};
pub use leftovers::{remove_leftovers_of, remove_stale_tmp};
pub use manifest::{FileEntry, MANIFEST, Manifest, read_manifest, verify_manifest, write_manifest};
pub use partial::{Partial, link, lock_file};
pub use published::{Published, publish};
pub use read::{contained, inside, open, read_limited, read_text, unreadable};
pub use seal::{Sealed, seal, unseal};

use crate::error::{Error, Kind, Result, typed};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// Writes `bytes` to `path` so that a reader finds the old content or the new, never a mix; the mode follows the umask.
/// A link at that place is replaced, and what it leads to is left alone.
///
/// Errors are of kind I/O, name the file and the bytes needed, and leave no temporary file.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    replaceable(path)?;
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
    replaceable(path)?;
    let temp = temporary(path)?;
    let write = || {
        let mut out = io::BufWriter::with_capacity(1 << 20, create_new(&temp)?);
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

/// Writes a file that the user named: as [`write_atomic`], after what killed processes left of it is removed. What is
/// there and no file, such as a pipe or `/dev/stdout`, is written to and stays.
pub fn write_named(path: &Path, bytes: &[u8]) -> Result<()> {
    match fs::metadata(path) {
        Ok(meta) if !meta.is_file() && !meta.is_dir() => {
            let write = || {
                fault::point("stream.write")?;
                OpenOptions::new().write(true).open(path)?.write_all(bytes)
            };
            write().map_err(|e| refused("write", path, bytes.len(), &e))
        }
        _ => {
            remove_leftovers_of(&[path])?;
            write_atomic(path, bytes)
        }
    }
}

/// Writes `bytes` to `path` in place and syncs them: for files inside a directory that `commit_dir` is building.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_and_sync(path, bytes).map_err(|e| refused("write", path, bytes.len(), &e))
}

/// Copies the file `from` to `to` whole or not at all.
pub fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(from).map_err(|e| unreadable(from, &e))?;
    write_atomic_from(to, |out| io::copy(&mut source, out).map(drop))
}

/// Removes the file `path`, or the link of that name; one that is absent is no error.
pub fn remove_file(path: &Path) -> Result<()> {
    match fault::point("file.remove").and_then(|()| fs::remove_file(path)) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", path, &e)),
        _ => Ok(()),
    }
}

/// Adds `bytes` to the end of `path`, which is created where absent; not synced, so only for logs.
pub fn append(path: &Path, bytes: &[u8]) -> Result<()> {
    Appender::open(path)?.add(bytes)
}

/// A log that grows at its end; not synced.
#[derive(Debug)]
pub struct Appender {
    path: PathBuf,
    file: File,
}

impl Appender {
    /// Opens `path`, which is created where absent.
    pub fn open(path: &Path) -> Result<Appender> {
        let open = || {
            fault::point("log.open")?;
            OpenOptions::new().append(true).create(true).open(path)
        };
        let file = open().map_err(|e| Error::io("write", path, &e))?;
        Ok(Appender { path: path.to_path_buf(), file })
    }

    /// Adds `bytes` in one write.
    pub fn add(&mut self, bytes: &[u8]) -> Result<()> {
        let add = fault::point("log.write").and_then(|()| self.file.write_all(bytes));
        add.map_err(|e| refused("append to", &self.path, bytes.len(), &e))
    }

    /// Brings what was added to the disk.
    pub fn sync(&self) -> Result<()> {
        fault::point("log.fsync").and_then(|()| self.file.sync_data()).map_err(|e| Error::io("write", &self.path, &e))
    }
}

/// Refuses to put a file in the place of a device, a pipe or a socket.
fn replaceable(path: &Path) -> Result<()> {
    let there = fs::symlink_metadata(path).map(|m| m.file_type());
    match there.is_ok_and(|t| !t.is_file() && !t.is_symlink() && !t.is_dir()) {
        true => Err(Error::new(Kind::Io, format!("cannot write {}", path.display())).cause("it is not a regular file")),
        false => Ok(()),
    }
}

/// A new file, which follows no link that somebody put at its place.
fn create_new(path: &Path) -> io::Result<File> {
    fault::point("file.create")?;
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => OpenOptions::new().write(true).create_new(true).open(path),
    }
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
        not_a_link(&path)?;
        let open = || {
            fault::point("lock.create")?;
            OpenOptions::new().write(true).create(true).truncate(false).open(&path)
        };
        let file = open().map_err(|e| {
            let (error, shown) = (Error::io("create", &path, &e), typed(&dir.display().to_string()));
            match e.kind() {
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => error
                    .hint(format!("copy it to a place that you may write to (`cp -r {shown} COPY && chmod -R u+w COPY`), and name that")),
                _ => error,
            }
        })?;
        held(dir, &path, file.try_lock())?;
        Ok(RunLock { _file: file })
    }

    /// The right to read `dir` while nobody works in it, shared with other readers. Nothing is written: where there is no
    /// lock file, or it may not be opened, there is nothing to hold.
    ///
    /// Errors: a process that works in `dir` (usage).
    pub fn to_read(dir: &Path) -> Result<Option<RunLock>> {
        let path = dir.join(".lock");
        let Ok(file) = File::open(&path) else { return Ok(None) };
        match file.try_lock_shared() {
            // Some network file systems lock only files that may be written.
            Err(TryLockError::Error(_)) => Ok(None),
            locked => held(dir, &path, locked).map(|()| Some(RunLock { _file: file })),
        }
    }
}

fn held(dir: &Path, path: &Path, locked: std::result::Result<(), TryLockError>) -> Result<()> {
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(Error::usage(format!("another fewstep process is working in {}", dir.display()))
                .hint("wait until it has finished, or work in another directory"))
        }
        Err(TryLockError::Error(e)) => Err(Error::io("lock", path, &e)),
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
    suffixed(path, "")
}

/// The sibling `NAME{mark}.tmp-PID`.
fn suffixed(path: &Path, mark: &str) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| Error::new(Kind::Io, format!("{} names no file", path.display())))?;
    let mut name = name.to_os_string();
    name.push(format!("{mark}.tmp-{}", std::process::id()));
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
    let mut file = create_new(path)?;
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
mod dirs_tests;
#[cfg(test)]
mod tests;
