//! The guarded reads: every file that the program reads is opened here.
//!
//! A name may lead to a pipe that nobody writes to, to a device without an end, or to a file longer than the memory. Opening
//! a pipe waits for its writer, so it is opened without waiting and refused by its type; what is read has a limit.

use super::parent_of;
use crate::error::{Error, Kind, Result};
use crate::room;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Files from this length on are held against the memory that is free before they are read.
const LONG: u64 = 64 << 20;

/// Opens the regular file `path` and gives its length; never waits for the writer of a pipe.
///
/// # Errors
/// A missing file, a directory, a pipe, a device (input); a refusal by the operating system (I/O).
pub fn open(path: &Path) -> Result<(File, u64)> {
    // Opening a device can do something to it, so its type is asked before, and of the open file once more.
    regular(path, &fs::metadata(path).map_err(|e| unreadable(path, &e))?)?;
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.open(path).map_err(|e| unreadable(path, &e))?;
    let meta = file.metadata().map_err(|e| Error::io("read", path, &e))?;
    regular(path, &meta)?;
    Ok((file, meta.len()))
}

/// Refuses what is not a regular file.
fn regular(path: &Path, meta: &fs::Metadata) -> Result<()> {
    let shown = path.display();
    if meta.is_file() {
        return Ok(());
    }
    if meta.is_dir() {
        return Err(Error::input(format!("{shown} is a directory, and a file is needed")));
    }
    let (kind, hint) = what(meta);
    Err(Error::input(format!("{shown} is not a regular file")).cause(format!("it is {kind}")).hint(hint))
}

#[cfg(unix)]
fn what(meta: &fs::Metadata) -> (&'static str, &'static str) {
    use std::os::unix::fs::FileTypeExt;
    let kind = meta.file_type();
    if kind.is_fifo() {
        return ("a pipe", "write what comes out of the pipe into a file, and name that file");
    }
    match kind.is_socket() {
        true => ("a socket", "name a file"),
        false => ("a device", "name a file: a device may have no end"),
    }
}

#[cfg(not(unix))]
fn what(_: &fs::Metadata) -> (&'static str, &'static str) {
    ("a device or a pipe", "name a file")
}

/// The whole content of the regular file `path`, refused before it is read where it is longer than `max_bytes`.
///
/// # Errors
/// What [`open`] refuses, a file that is too long or changes while it is read (input); a file longer than the memory that is
/// free (device); a refusal by the operating system (I/O).
pub fn read_limited(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let shown = path.display();
    let (file, length) = open(path)?;
    if length > max_bytes {
        let lengths = format!("it has {length} bytes, at most {max_bytes} are read");
        return Err(Error::input(format!("{shown} is too long")).cause(lengths));
    }
    if length >= LONG {
        room::need(length.into(), || format!("{shown} does not fit into memory"))?;
    }
    // Its length at once: growing step by step takes up to twice as much.
    let mut bytes = Vec::with_capacity(length as usize + 1);
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, &e))?;
    if bytes.len() as u64 > max_bytes {
        return Err(Error::input(format!("{shown} is too long")).cause(format!("at most {max_bytes} bytes are read")));
    }
    if bytes.len() as u64 != length {
        let lengths = format!("it had {length} bytes, and {} were read", bytes.len());
        return Err(Error::input(format!("{shown} changed while it was read")).cause(lengths));
    }
    Ok(bytes)
}

/// How many times a gzip file may grow while it is unpacked.
const GROWTH: u64 = 64;

/// `bytes` as a gzip file that is the same on every machine at any time.
///
/// # Errors
/// None in practice: it is written into memory (I/O).
pub fn packed(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut writer = flate2::GzBuilder::new().mtime(0).write(Vec::new(), flate2::Compression::best());
    let written = std::io::Write::write_all(&mut writer, bytes).and_then(|()| writer.finish());
    written.map_err(|e| Error::new(Kind::Io, format!("cannot pack {} bytes: {e}", bytes.len())))
}

/// The whole file, unpacked where its name ends in `.gz`: at most `max_bytes`, and at most 64 times its length and a MiB.
///
/// # Errors
/// As [`read_limited`]; a file that is packed and damaged, or that grows beyond its limit (input).
pub fn read_unpacked(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let packed = read_limited(path, max_bytes)?;
    if path.extension().is_none_or(|e| e != "gz") {
        return Ok(packed);
    }
    let shown = path.display();
    let most = max_bytes.min((packed.len() as u64).saturating_mul(GROWTH) + (1 << 20));
    let mut bytes = Vec::new();
    let mut unpacked = flate2::read::MultiGzDecoder::new(&packed[..]).take(most + 1);
    unpacked.read_to_end(&mut bytes).map_err(|e| {
        Error::input(format!("{shown} is not a gzip file"))
            .cause(e.to_string())
            .hint(format!("`gzip -t {shown}` says what is wrong with it"))
    })?;
    match bytes.len() as u64 > most {
        true => Err(Error::input(format!("{shown} is too long"))
            .cause(format!("more than {most} bytes come out of its {}", packed.len()))
            .hint(format!("unpack it: `gunzip {shown}`"))),
        false => Ok(bytes),
    }
}

/// As [`read_limited`], of a file of UTF-8 text.
///
/// # Errors
/// As [`read_limited`]; a file that is not UTF-8 text (input), with the offset.
pub fn read_text(path: &Path, max_bytes: u64) -> Result<String> {
    String::from_utf8(read_limited(path, max_bytes)?).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::input(format!("{} is not UTF-8 text", path.display())).cause(format!("at byte {at}"))
    })
}

/// Refuses a model directory in which a file that is read by its name leads elsewhere, or is not a regular file.
///
/// Links may lead to files of the directory itself, or to the blob store beside a Hugging Face snapshot, which is made of
/// links. To be asked before the first file is opened: opening a pipe can wait for ever, and what is copied beside an
/// exported model must not be a file of somewhere else.
///
/// # Errors
/// Such a file (input); a directory that cannot be read (input or I/O).
pub fn contained(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).map_err(|e| unreadable(dir, &e))?;
    for entry in entries {
        let path = entry.map_err(|e| Error::io("read", dir, &e))?.path();
        let read = path.extension().is_some_and(|e| ["json", "safetensors", "txt", "jinja"].iter().any(|r| e == *r));
        if read {
            inside(dir, &path)?;
        }
    }
    Ok(())
}

/// Refuses the file `path` of the directory `dir` where it leads out of it, or is not a regular file.
///
/// # Errors
/// Such a file, or a link that leads nowhere (input); I/O.
pub fn inside(dir: &Path, path: &Path) -> Result<()> {
    let home = dir.canonicalize().map_err(|e| unreadable(dir, &e))?;
    let target = path.canonicalize().map_err(|e| match e.kind() {
        ErrorKind::PermissionDenied => Error::io("read", path, &e),
        _ => Error::input(format!("{} is a link that leads nowhere", path.display())),
    })?;
    if !target.starts_with(&home) && !blob_stores(&home).iter().any(|store| target.starts_with(store)) {
        return Err(Error::input(format!("{} leads out of its directory", path.display()))
            .cause(format!("it is a link to {}", target.display()))
            .hint("put a copy of the file in the place of the link"));
    }
    let meta = fs::metadata(&target).map_err(|e| unreadable(path, &e))?;
    match meta.is_file() {
        true => Ok(()),
        false => Err(Error::input(format!("{} is not a regular file", path.display()))),
    }
}

/// Where the files of a Hugging Face snapshot may lie: `snapshots/REVISION/FILE` is a link to `blobs/HASH` of its own
/// repository, and that may be a link to `blobs/HH/HASH` of the whole cache.
fn blob_stores(home: &Path) -> Vec<PathBuf> {
    let snapshots = home.parent().filter(|p| p.file_name().is_some_and(|n| n == "snapshots"));
    let Some(repository) = snapshots.and_then(Path::parent) else { return Vec::new() };
    let named = repository.file_name().is_some_and(|name| name.to_string_lossy().contains("--"));
    let cache = repository.parent().filter(|_| named);
    [Some(repository), cache].into_iter().flatten().map(|dir| dir.join("blobs")).collect()
}

/// The error of a file that cannot be opened: kind input where it is absent, else I/O.
pub fn unreadable(path: &Path, cause: &io::Error) -> Error {
    if cause.kind() != ErrorKind::NotFound {
        return Error::io("read", path, cause);
    }
    let error = Error::input(format!("{} does not exist", path.display()));
    match nearest_entry(path) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None if repository(path) => error.hint(format!("for a repository of the hub write `hf://{}`", path.display())),
        None => error.hint("check the path; relative paths start at the file that names them"),
    }
}

/// Whether a path that is not there reads like `owner/name`.
fn repository(path: &Path) -> bool {
    let parts: Vec<&str> = path.components().filter_map(|part| part.as_os_str().to_str()).collect();
    let plain = |part: &&str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let file = [".json", ".toml", ".txt", ".safetensors", ".gz", ".jsonl", ".parquet"];
    parts.len() == 2
        && parts.iter().all(plain)
        && !Path::new(parts[0]).exists()
        && !file.iter().any(|end| parts[1].ends_with(end))
}

fn nearest_entry(path: &Path) -> Option<String> {
    let wanted = path.file_name()?.to_str()?;
    let parent = parent_of(path);
    let names: Vec<String> =
        fs::read_dir(parent).ok()?.take(1000).flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    let near = crate::error::nearest(wanted, names.iter().map(String::as_str))?;
    Some(parent.join(near).display().to_string())
}
