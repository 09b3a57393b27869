//! `manifest.json`: the length and SHA-256 of every file of a directory, written last, so that a directory is either
//! provably whole or not used.
//!
//! The last line of the file is the SHA-256 of all lines before it: a change of any byte in the directory, the manifest
//! itself included, is found.

use super::{length_and_sha256, read_limited, sha256_hex, write_file};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The name of the manifest in its directory.
pub const MANIFEST: &str = "manifest.json";
const FORMAT: u32 = 1;
const MAX_BYTES: u64 = 64 << 20;
const TRAILER: &str = ",\n  \"sha256\": \"";

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
pub fn write_manifest(dir: &Path, extra: serde_json::Value) -> Result<Manifest> {
    let manifest = Manifest { format: FORMAT, files: list(dir, dir)?, extra };
    let text = serde_json::to_string_pretty(&manifest).map_err(|e| Error::input(format!("manifest: {e}")))?;
    let body = text.strip_suffix("\n}").unwrap_or(&text);
    write_file(&dir.join(MANIFEST), format!("{body}{TRAILER}{}\"\n}}\n", sha256_hex(body.as_bytes())).as_bytes())?;
    Ok(manifest)
}

/// The manifest of `dir`, if every file is exactly as it was when the manifest was written and none was added.
pub fn verify_manifest(dir: &Path) -> Result<Manifest> {
    let manifest = read(dir)?;
    let found = list(dir, dir)?;
    let mut wrong = Vec::new();
    for (name, entry) in &manifest.files {
        match found.get(name) {
            None => wrong.push(format!("{name} is missing")),
            Some(f) if f.bytes != entry.bytes => {
                wrong.push(format!("{name} has {} bytes, and {} were written", f.bytes, entry.bytes));
            }
            Some(f) if f != entry => wrong.push(format!("{name} was changed (its sha256 differs)")),
            Some(_) => {}
        }
    }
    wrong.extend(found.keys().filter(|n| !manifest.files.contains_key(*n)).map(|n| format!("{n} was added")));
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

fn read(dir: &Path) -> Result<Manifest> {
    let path = dir.join(MANIFEST);
    Manifest::parse(&path.display().to_string(), read_limited(&path, MAX_BYTES)?)
}

impl Manifest {
    /// The manifest in `bytes`, called `place` in messages. Errors (input): its own hash differs, or it is not a manifest.
    pub fn parse(place: &str, bytes: Vec<u8>) -> Result<Manifest> {
        let damaged = |why: String| Error::input(format!("{place} is damaged")).cause(why);
        let text = String::from_utf8(bytes).map_err(|e| damaged(e.to_string()))?;
        let (body, trailer) =
            text.rsplit_once(TRAILER).ok_or_else(|| damaged("it does not end in its sha256".into()))?;
        if trailer != format!("{}\"\n}}\n", sha256_hex(body.as_bytes())) {
            return Err(damaged("its own sha256 differs".into()));
        }
        let manifest: Manifest = serde_json::from_str(&format!("{body}\n}}")).map_err(|e| damaged(e.to_string()))?;
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
