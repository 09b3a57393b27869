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
pub use dirs::{commit_dir, create_dir, is_free, is_there, new_dir, not_a_link, remove_dir};
pub use leftovers::{remove_leftovers_of, remove_stale_tmp};
pub use manifest::{FileEntry, MANIFEST, Manifest, read_manifest, verify_manifest, write_manifest};
pub use partial::{Partial, link, lock_file};
pub use published::{Published, publish};
pub use read::{contained, inside, open, packed, read_limited, read_text, read_unpacked, unreadable};
pub use seal::{Sealed, seal, sorted, sorted_json, unseal};

use crate::error::{Error, Kind, Result, typed};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Writes `bytes` to `path` so that a reader finds the old content or the new, never a mix; the mode follows the umask.
/// A link at that place is replaced, and what it leads to is left alone.
///
/// # Errors
/// A refused write (I/O), with the file and the bytes needed; no temporary file is left.
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
///
/// # Errors
/// Those of `fill`; a refused write (I/O).
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

/// A file that the user named, asked for before what goes into it is computed. What is there and no file, such as a pipe or
/// `/dev/stdout`, is written to and stays.
#[derive(Debug)]
pub struct Named {
    path: PathBuf,
    stream: Option<File>,
}

impl Named {
    /// Opens what is there and no file; nothing is created yet.
    ///
    /// # Errors
    /// A pipe from which nobody reads, and what cannot be written to (I/O).
    pub fn open(path: &Path) -> Result<Named> {
        let open = || {
            fault::point("stream.open")?;
            stream(path)
        };
        Ok(Named { path: path.to_path_buf(), stream: open().map_err(|e| unopened(path, &e))? })
    }

    /// Writes all of it: a file as [`write_atomic`] does, after what killed processes left of it is removed.
    ///
    /// # Errors
    /// A refused write (I/O).
    pub fn write(self, bytes: &[u8]) -> Result<()> {
        let Some(mut stream) = self.stream else {
            remove_leftovers_of(&[&self.path])?;
            return write_atomic(&self.path, bytes);
        };
        let written = fault::point("stream.write").and_then(|()| stream.write_all(bytes));
        written.map_err(|e| refused("write", &self.path, bytes.len(), &e))
    }
}

/// Writes a file that the user named: [`Named`] at once.
///
/// # Errors
/// As [`Named::open`] and [`Named::write`].
pub fn write_named(path: &Path, bytes: &[u8]) -> Result<()> {
    Named::open(path)?.write(bytes)
}

/// What `path` names, open, if that is no file of its own: a pipe, a device, or a stream of this process.
fn stream(path: &Path) -> io::Result<Option<File>> {
    // A name in there is no place to put a file, even where it leads to one.
    let system = ["/dev/fd", "/dev/stdout", "/dev/stderr", "/proc"].iter().any(|dir| path.starts_with(dir));
    if !fs::metadata(path).is_ok_and(|meta| !meta.is_dir() && (system || !meta.is_file())) {
        return Ok(None);
    }
    #[cfg(unix)]
    if let Some(own) = own_stream(path)? {
        return Ok(Some(own));
    }
    let began = Instant::now();
    loop {
        match open_without_waiting(OpenOptions::new().append(true), path) {
            // A reader that was started together with this process may still be on its way.
            Err(e) if is_unread(&e) && began.elapsed() < FOR_A_READER => std::thread::sleep(FOR_A_READER / 100),
            opened => return opened.map(Some),
        }
    }
}

/// This process's stdout or stderr, if `path` names it: opened by that name, a file would be written to from its beginning.
#[cfg(unix)]
fn own_stream(path: &Path) -> io::Result<Option<File>> {
    use std::os::fd::AsFd;
    let named = |name: &str, fd: &str| {
        ["/dev/", "/dev/fd/", "/proc/self/fd/"]
            .iter()
            .any(|dir| [name, fd].iter().any(|n| path == Path::new(dir).join(n)))
    };
    let own = match (named("stdout", "1"), named("stderr", "2")) {
        (true, _) => io::stdout().as_fd().try_clone_to_owned()?,
        (_, true) => io::stderr().as_fd().try_clone_to_owned()?,
        _ => return Ok(None),
    };
    Ok(Some(own.into()))
}

/// Opens `path` to write to it. Opening a pipe waits for its reader, so it is opened without waiting, and written to as usual.
#[cfg(unix)]
fn open_without_waiting(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, libc::O_NONBLOCK);
    let file = options.open(path)?;
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

#[cfg(not(unix))]
fn open_without_waiting(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.open(path)
}

/// How long a pipe is given for its reader.
const FOR_A_READER: Duration = Duration::from_secs(2);

/// Whether what could not be opened is a pipe without a reader.
fn is_unread(cause: &io::Error) -> bool {
    #[cfg(unix)]
    return cause.raw_os_error() == Some(libc::ENXIO);
    #[cfg(not(unix))]
    return false;
}

/// The error of what could not be opened to be written to.
fn unopened(path: &Path, cause: &io::Error) -> Error {
    match is_unread(cause) {
        true => Error::new(Kind::Io, format!("cannot write {}", path.display()))
            .cause("it is a pipe from which nobody reads, or a socket")
            .hint("start what reads from the pipe first, or name a file"),
        false => Error::io("write", path, cause),
    }
}

/// Writes `bytes` to `path` in place and syncs them: for files inside a directory that `commit_dir` is building.
///
/// # Errors
/// A refused write (I/O), with the bytes needed.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_and_sync(path, bytes).map_err(|e| refused("write", path, bytes.len(), &e))
}

/// Copies the file `from` to `to` whole or not at all.
///
/// # Errors
/// A file that is not there (input); a refused read or write (I/O).
pub fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(from).map_err(|e| unreadable(from, &e))?;
    write_atomic_from(to, |out| io::copy(&mut source, out).map(drop))
}

/// Removes the file `path`, or the link of that name; one that is absent is no error.
///
/// # Errors
/// A refused removal (I/O).
pub fn remove_file(path: &Path) -> Result<()> {
    match fault::point("file.remove").and_then(|()| fs::remove_file(path)) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", path, &e)),
        _ => Ok(()),
    }
}

/// Adds `bytes` to the end of `path`, which is created where absent; not synced, so only for logs.
///
/// # Errors
/// As [`Appender::open`] and [`Appender::add`].
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
    ///
    /// # Errors
    /// A file that cannot be opened, or a pipe from which nobody reads (I/O).
    pub fn open(path: &Path) -> Result<Appender> {
        let open = || {
            fault::point("log.open")?;
            open_without_waiting(OpenOptions::new().append(true).create(true), path)
        };
        let file = open().map_err(|e| unopened(path, &e))?;
        Ok(Appender { path: path.to_path_buf(), file })
    }

    /// Adds `bytes` in one write.
    ///
    /// # Errors
    /// A refused write (I/O), with the bytes needed.
    pub fn add(&mut self, bytes: &[u8]) -> Result<()> {
        let add = fault::point("log.write").and_then(|()| self.file.write_all(bytes));
        add.map_err(|e| refused("append to", &self.path, bytes.len(), &e))
    }

    /// Brings what was added to the disk.
    ///
    /// # Errors
    /// A refused write (I/O).
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
    /// Whether the lock's file was not there before.
    made: bool,
}

impl RunLock {
    /// Locks `dir` (which is created where absent) through `dir/.lock`.
    ///
    /// # Errors
    /// Another process that holds the lock, or a link of that name (usage); I/O.
    pub fn acquire(dir: &Path) -> Result<RunLock> {
        let path = dir.join(LOCK);
        let create = || {
            fault::point("lock.create")?;
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    Ok((OpenOptions::new().write(true).open(&path)?, false))
                }
                new => new.map(|file| (file, true)),
            }
        };
        let mut tries = 0;
        loop {
            tries += 1;
            create_dir(dir)?;
            not_a_link(&path)?;
            let (file, made) = match create() {
                // Another process took back what it had made here.
                Err(e) if e.kind() == ErrorKind::NotFound && tries < TRIES => continue,
                opened => opened.map_err(|e| no_lock(dir, &path, &e))?,
            };
            held(dir, &path, file.try_lock())?;
            // A lock on a file that was removed since it was opened holds nobody off.
            if is_at(&file, &path) || tries >= TRIES {
                return Ok(RunLock { _file: file, made });
            }
        }
    }

    /// Whether the lock's file was made for it.
    fn made(&self) -> bool {
        self.made
    }

    /// The right to read `dir` while nobody works in it, shared with other readers. Nothing is written: where there is no
    /// lock file, or it may not be opened, there is nothing to hold.
    ///
    /// # Errors
    /// A process that works in `dir` (usage).
    pub fn to_read(dir: &Path) -> Result<Option<RunLock>> {
        let path = dir.join(LOCK);
        let mut tries = 0;
        loop {
            tries += 1;
            let Ok(file) = File::open(&path) else { return Ok(None) };
            match file.try_lock_shared() {
                // Some network file systems lock only files that may be written.
                Err(TryLockError::Error(_)) => return Ok(None),
                locked => held(dir, &path, locked)?,
            }
            if is_at(&file, &path) || tries >= TRIES {
                return Ok(Some(RunLock { _file: file, made: false }));
            }
        }
    }
}

/// The file of a directory that is locked in its place.
const LOCK: &str = ".lock";
/// Times that something is tried again because another process took away what it was about to use. It is not for ever: some
/// file systems number an open file otherwise than its name.
const TRIES: usize = 1000;

/// Whether the open `file` is the one that `path` names.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |meta: io::Result<fs::Metadata>| meta.ok().map(|meta| (meta.dev(), meta.ino()));
    id(file.metadata()).is_some_and(|own| id(fs::symlink_metadata(path)) == Some(own))
}

/// Where an open file cannot be removed it stays the one of its name.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

/// The error of a lock's file that cannot be opened.
fn no_lock(dir: &Path, path: &Path, cause: &io::Error) -> Error {
    let (error, shown) = (Error::io("create", path, cause), typed(&dir.display().to_string()));
    match cause.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => error.hint(format!(
            "copy it to a place that you may write to (`cp -r {shown} COPY && chmod -R u+w COPY`), and name that"
        )),
        _ => error,
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
///
/// # Errors
/// A file that is missing or is not a regular one (input); I/O.
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
