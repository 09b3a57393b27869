//! Weights in several files: `model.safetensors.index.json` with its `weight_map` from tensor name to file.
//!
//! The map comes from strangers, so a file name in it must be a plain name in the same directory, and what it names
//! must lie there too (or in the blob store beside a Hugging Face snapshot, which is made of links).

use super::header::Unique;
use super::quantise::SCALE;
use super::{NonFinite, Store, Weights, read};
use crate::error::{Error, Result};
use crate::fs::{self, read_limited};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The name of one file with all weights.
pub const SINGLE: &str = "model.safetensors";
/// The name of the index of several files.
pub const INDEX: &str = "model.safetensors.index.json";
pub const MAX_INDEX: u64 = 32 << 20;

#[derive(serde::Deserialize)]
struct Index {
    weight_map: Unique<String>,
}

/// Reads the weights of `path`: a safetensors file, an index, or a directory with `model.safetensors` or an index.
///
/// # Errors
/// Files that are missing, malformed or of different models, and values that are not finite where these are refused (input);
/// I/O.
pub fn read_model(path: &Path, non_finite: NonFinite) -> Result<Weights> {
    if !path.is_dir() {
        let is_index = path.extension().is_some_and(|e| e == "json");
        return if is_index { read_index(path, non_finite) } else { read(path, non_finite) };
    }
    match (path.join(SINGLE), path.join(INDEX)) {
        // Two sets of weights must be the same model.
        (single, index) if single.exists() && index.exists() => {
            Store::open(path).and_then(|_| read(&single, non_finite))
        }
        (single, _) if single.exists() => read(&single, non_finite),
        (_, index) if index.exists() => read_index(&index, non_finite),
        _ => Err(Error::input(format!("{} holds neither {SINGLE} nor {INDEX}", path.display()))
            .hint("name the weights file itself")),
    }
}

/// Reads all files of the index `path`; every tensor of its map must be in the file it names, and in no other.
fn read_index(path: &Path, non_finite: NonFinite) -> Result<Weights> {
    let (map, files) = index_files(path)?;
    let wrong = |why: String| Error::input(format!("{} and its files do not agree", path.display())).cause(why);
    let mut all = Weights::default();
    for (file, at) in &files {
        let part = read(at, non_finite)?;
        for (name, tensor) in part.tensors {
            if let Some(other) = map.get(&name).filter(|other| *other != file) {
                return Err(wrong(format!("tensor `{name}` is in {file}, and the index says {other}")));
            }
            if all.tensors.insert(name.clone(), tensor).is_some() {
                return Err(wrong(format!("tensor `{name}` is in {file} and in another file too")));
            }
        }
        all.integers.extend(part.integers);
        all.metadata.extend(part.metadata);
    }
    // The scales of an int8 matrix are in it, and in its file.
    let matrix = |name: &str| name.strip_suffix(SCALE).is_some_and(|base| map.get(base) == map.get(name));
    let there = |name: &String| all.tensors.contains_key(name) || all.integers.contains(name) || matrix(name);
    match map.iter().find(|(name, _)| !there(name)) {
        Some((name, file)) => Err(wrong(format!("tensor `{name}` is not in {file}"))),
        None => Ok(all),
    }
}

/// The map of an index from tensor to file, and the path of each file.
type Indexed = (BTreeMap<String, String>, BTreeMap<String, PathBuf>);

/// The map of the index `path`, and where its files lie; all names are judged before the first file is opened.
pub(super) fn index_files(path: &Path) -> Result<Indexed> {
    let map = weight_map(&path.display().to_string(), &read_limited(path, MAX_INDEX)?)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    let names: BTreeSet<&String> = map.values().collect();
    let files = names.into_iter().map(|name| Ok((name.clone(), shard(path, dir, name)?))).collect::<Result<_>>()?;
    Ok((map, files))
}

/// The map of the index with this text, called `file` in messages: every file in it has a plain name.
///
/// # Errors
/// Text that is not an index, an empty map, a name that is not plain (input).
pub fn weight_map(file: &str, text: &[u8]) -> Result<BTreeMap<String, String>> {
    let wrong = |why: String| Error::input(format!("{file} is not an index of safetensors files")).cause(why);
    let index: Index = serde_json::from_slice(text).map_err(|e| wrong(e.to_string()))?;
    let map = index.weight_map.0;
    if map.is_empty() {
        return Err(wrong("its weight_map is empty".into()));
    }
    map.values().try_for_each(|name| plain(file, name))?;
    Ok(map)
}

/// Whether `name` is that of a file beside its index, and of nothing else on any system.
fn plain(index: &str, name: &str) -> Result<()> {
    let plain = name.len() <= 200
        && name.ends_with(".safetensors")
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if plain {
        return Ok(());
    }
    let shown: String = name.chars().take(60).collect();
    Err(Error::input(format!("{index}: {shown:?} is not a plain file name")).cause(
        "a shard is a file beside its index; its name has letters, digits, `-`, `_`, `.` and ends in .safetensors",
    ))
}

/// The path of the file `name` of the index, if it is there and does not lead out of the directory.
fn shard(index: &Path, dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    if path.symlink_metadata().is_err() {
        return Err(Error::input(format!("{} does not exist", path.display()))
            .cause(format!("it is named in {}", index.display()))
            .hint("load the missing file"));
    }
    fs::inside(dir, &path)?;
    Ok(path)
}
