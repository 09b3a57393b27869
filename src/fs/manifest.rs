//! `manifest.json`: the length and SHA-256 of every file of a directory, written last, so that a directory is either
//! provably whole or not used.
//!
//! The last line of the file is the SHA-256 of all lines before it: a change of any byte in the directory, the manifest
//! itself included, is found.

use super::{Sealed, length_and_sha256, read_limited, seal, sorted, unreadable, unseal, write_file};
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path};

/// The name of the manifest in its directory.
pub const MANIFEST: &str = "manifest.json";
const FORMAT: u32 = 1;
const MAX_BYTES: u64 = 64 << 20;
/// Files that are read where they lie, beside those that end in `.safetensors`: one that is not listed is no litter.
const READ: [&str; 6] = [
    "config.json",
    "tokenizer.json",
    "origin.json",
    "model.safetensors.index.json",
    "generation_config.json",
    "adapter_config.json",
];
/// The directory of an autoencoder in a model's.
const INNER: &str = "codec";

/// What a directory holds: its files by path relative to the directory (with `/`), and what its writer wanted to add.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub files: BTreeMap<String, FileEntry>,
    pub extra: serde_json::Value,
}

/// Length in bytes and SHA-256 in hexadecimal of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    pub bytes: u64,
    pub sha256: String,
}

/// Writes `dir/manifest.json` over all files now in `dir` (hidden ones excepted) with `extra` beside them.
///
/// # Errors
/// A file that cannot be read (input or I/O); a refused write (I/O).
pub fn write_manifest(dir: &Path, extra: serde_json::Value) -> Result<Manifest> {
    let manifest = Manifest { format: FORMAT, files: list(dir, dir)?, extra: sorted(extra) };
    let text = serde_json::to_string_pretty(&manifest).map_err(|e| Error::input(format!("manifest: {e}")))?;
    write_file(&dir.join(MANIFEST), seal(&text).as_bytes())?;
    Ok(manifest)
}

/// The manifest of `dir`, if every file that it lists is exactly as it was written.
///
/// Other files do not matter, unless they have the name of one that would be read: what a desktop or a person leaves in the
/// directory is theirs.
///
/// # Errors
/// Files that are missing, changed, unreadable or added, each with its name (input).
pub fn verify_manifest(dir: &Path) -> Result<Manifest> {
    let manifest = read_manifest(dir)?;
    let mut wrong: Vec<String> =
        manifest.files.iter().filter_map(|(name, entry)| fault_of(dir, name, entry).err()).collect();
    wrong.extend(added(dir, &manifest).into_iter().map(|name| format!("{name} was added")));
    if wrong.is_empty() {
        return Ok(manifest);
    }
    let more = wrong.len().saturating_sub(10);
    wrong.truncate(10);
    if more > 0 {
        wrong.push(format!("and {more} more"));
    }
    Err(wrong.into_iter().fold(Error::input(format!("{} is damaged", dir.display())), Error::cause))
}

/// What is wrong with a listed file.
fn fault_of(dir: &Path, name: &str, entry: &FileEntry) -> std::result::Result<(), String> {
    if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(format!("{name} leads out of the directory"));
    }
    let path = dir.join(name);
    let meta = fs::metadata(&path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => format!("{name} is missing"),
        _ => format!("{name} cannot be read: {}", unreadable(&path, &e).causes.join(" ")),
    })?;
    // Before it is opened: opening a pipe can wait for ever.
    if !meta.is_file() {
        return Err(format!("{name} is not a regular file"));
    }
    if meta.len() != entry.bytes {
        return Err(format!("{name} has {} bytes, and {} were written", meta.len(), entry.bytes));
    }
    match length_and_sha256(&path) {
        Err(e) => Err(format!("{name} cannot be read: {}", e.causes.join(" "))),
        Ok((_, sha256)) if sha256 != entry.sha256 => Err(format!("{name} was changed (its sha256 differs)")),
        Ok(_) => Ok(()),
    }
}

/// Files that are not listed and that a reader of the directory would take for part of it.
fn added(dir: &Path, manifest: &Manifest) -> Vec<String> {
    let mut folders: BTreeSet<&str> = manifest.files.keys().filter_map(|n| Some(n.rsplit_once('/')?.0)).collect();
    folders.extend(["", INNER]);
    let mut found = Vec::new();
    for folder in folders {
        // One that is absent holds nothing.
        for entry in fs::read_dir(dir.join(folder)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let full = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            let read = READ.contains(&name.as_str()) || (name.ends_with(".safetensors") && !name.starts_with('.'));
            if read && !manifest.files.contains_key(&full) {
                found.push(full);
            }
        }
    }
    found.sort();
    found
}

/// The manifest of `dir` itself, which says what the directory's files were; they are not looked at.
///
/// # Errors
/// A manifest that is absent, unreadable or was changed (input).
pub fn read_manifest(dir: &Path) -> Result<Manifest> {
    let path = dir.join(MANIFEST);
    let bytes = read_limited(&path, MAX_BYTES).map_err(|e| match e.kind {
        Kind::Io => e.causes.iter().fold(Error::input(format!("{} cannot be read", path.display())), |e, c| e.cause(c)),
        // The names beside it are no hint to what was meant.
        _ => Error { hint: None, ..e },
    })?;
    Manifest::parse(&path.display().to_string(), bytes)
}

impl Manifest {
    /// The manifest in `bytes`, called `place` in messages.
    ///
    /// # Errors
    /// Bytes whose own hash differs, or that are not a manifest (input).
    pub fn parse(place: &str, bytes: Vec<u8>) -> Result<Manifest> {
        let damaged = |why: String| Error::input(format!("{place} is damaged")).cause(why);
        let text = String::from_utf8(bytes).map_err(|e| damaged(e.to_string()))?;
        let body = match unseal(&text) {
            Sealed::Whole(body) => body,
            Sealed::Without => return Err(damaged("it does not end in its sha256".into())),
            Sealed::Broken => return Err(damaged("its own sha256 differs".into())),
        };
        let manifest: Manifest = serde_json::from_str(&body).map_err(|e| damaged(e.to_string()))?;
        if manifest.format != FORMAT {
            let known = format!("format {} is not known, this version writes {FORMAT}", manifest.format);
            return Err(Error::input(format!("{place} is of another version")).cause(known));
        }
        Ok(manifest)
    }
}

/// The files below `dir`, except the manifest at the root and names that start with a dot (locks, desktop litter).
fn list(root: &Path, dir: &Path) -> Result<BTreeMap<String, FileEntry>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(|e| Error::io("read", dir, &e))? {
        let entry = entry.map_err(|e| Error::io("read", dir, &e))?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") || path == root.join(MANIFEST) {
            continue;
        }
        if entry.file_type().map_err(|e| Error::io("read", &path, &e))?.is_dir() {
            files.extend(list(root, &path)?);
            continue;
        }
        let relative = path.strip_prefix(root).unwrap_or(&path);
        let parts: Vec<_> = relative.components().map(|c| c.as_os_str().to_string_lossy()).collect();
        let (bytes, sha256) = length_and_sha256(&path)?;
        files.insert(parts.join("/"), FileEntry { bytes, sha256 });
    }
    Ok(files)
}
