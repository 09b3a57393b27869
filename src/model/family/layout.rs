//! Writing a model in its family's own layout: the names, types, order and files of the source, buffers and all.
//!
//! Headers are copied to the byte where types are kept, so that a model which was not changed comes out as the file it
//! came from. Tensors are written one at a time.

use std::collections::BTreeMap;
use std::path::Path;

use super::load::{block_group, turned};
use super::names::{Source, canonical, source};
use super::{Description, load};
use crate::error::{Error, Result};
use crate::fs;
use crate::model::params::Named;
use crate::weights::{Dtype, Entry, HostTensor, INDEX, Part, SINGLE, Store, to_dtype};

/// The type that exported parameters are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// Each as in the source.
    #[default]
    Kept,
    F32,
    F16,
    Bf16,
}

impl Storage {
    fn of(self, kept: Dtype) -> Dtype {
        match self {
            Storage::Kept => kept,
            Storage::F32 => Dtype::F32,
            Storage::F16 => Dtype::F16,
            Storage::Bf16 => Dtype::Bf16,
        }
    }
}

/// Files beside the weights that belong to a model and are copied as they are.
const BESIDE: [&str; 10] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "chat_template.jinja",
];

/// Writes the parameters of a model of this description into the existing directory `to`, laid out as the model in `from`.
///
/// Errors: `from` is not readable, or has other tensors than the model; `to` is not writable.
pub fn export(from: &Path, to: &Path, description: &Description, parameters: &Named, storage: Storage) -> Result<()> {
    let store = Store::open(from)?;
    let mut values = family_tensors(description, parameters);
    for part in &store.parts {
        let mut kept: Vec<(&Entry, Dtype)> = Vec::new();
        for entry in &part.entries {
            let name = canonical(&entry.name);
            let is_parameter = values.get(name).is_some_and(|v| v.shape == entry.shape) && entry.dtype.is_float();
            if !is_parameter && values.contains_key(name) {
                return Err(Error::input(format!("{}: `{}` is not shaped as the model's", from.display(), entry.name)));
            }
            kept.push((entry, if is_parameter { storage.of(entry.dtype) } else { entry.dtype }));
        }
        let header = header(part, &kept)?;
        let name = if store.sharded { part.name.as_str() } else { SINGLE };
        fs::write_atomic_from(&to.join(name), |out| {
            out.write_all(&header)?;
            for (entry, dtype) in &kept {
                match values.remove(canonical(&entry.name)) {
                    Some(value) => out.write_all(&to_dtype(&value.data, *dtype))?,
                    None => out.write_all(&store.bytes(&entry.name).map_err(|e| std::io::Error::other(e.message))?)?,
                }
            }
            Ok(())
        })?;
    }
    if let Some(name) = values.keys().next() {
        return Err(Error::input(format!("{} has no place for the parameter `{name}`", from.display())));
    }
    if store.sharded {
        fs::write_atomic(&to.join(INDEX), &index(from, &store, storage)?)?;
    }
    for name in BESIDE {
        let path = from.join(name);
        if path.exists() {
            fs::write_atomic(&to.join(name), &fs::read_limited(&path, 256 << 20)?)?;
        }
    }
    Ok(())
}

/// The parameters as the family stores them, by canonical name.
fn family_tensors(description: &Description, parameters: &Named) -> BTreeMap<String, HostTensor> {
    let group = block_group(&description.config);
    let rows = description.network.packed_rows();
    let mut out: BTreeMap<String, HostTensor> = BTreeMap::new();
    for (path, tensor) in parameters {
        let from = source(description.family, path, group);
        let mut named = load::stored(&from, &tensor.shape, rows).into_iter();
        match from {
            Source::Whole(name) => drop(out.insert(name, tensor.clone())),
            Source::Turned(name) => drop(out.insert(name, turned(tensor.clone()))),
            Source::Stack(_) => {
                let mut at = 0;
                for (name, shape) in named {
                    let n: usize = shape.iter().product();
                    out.insert(name, HostTensor { shape, data: tensor.data[at..at + n].to_vec() });
                    at += n;
                }
            }
            Source::Part(name, i, n) => {
                let shape = named.next().map_or_else(Vec::new, |(_, shape)| shape);
                let whole =
                    out.entry(name).or_insert_with(|| HostTensor { data: vec![0.0; shape.iter().product()], shape });
                let size = whole.data.len() / n;
                whole.data[i * size..(i + 1) * size].copy_from_slice(&tensor.data);
            }
        }
    }
    out
}

/// The header of a file: the source's own bytes where every type is kept, else a new one over the same names.
fn header(part: &Part, kept: &[(&Entry, Dtype)]) -> Result<Vec<u8>> {
    if kept.iter().all(|(entry, dtype)| entry.dtype == *dtype) {
        return part.header_bytes();
    }
    let mut offset = 0;
    let mut tensors = Vec::new();
    for (entry, dtype) in kept {
        let bytes = entry.shape.iter().product::<usize>() * dtype.size();
        tensors.push((entry.name.as_str(), *dtype, entry.shape.as_slice(), offset..offset + bytes));
        offset += bytes;
    }
    crate::weights::header_bytes(&part.metadata, &tensors)
}

/// The index of the source with the total size of what was written.
fn index(from: &Path, store: &Store, storage: Storage) -> Result<Vec<u8>> {
    let path = from.join(INDEX);
    let bytes = fs::read_limited(&path, 64 << 20)?;
    if storage == Storage::Kept {
        return Ok(bytes);
    }
    let wrong = |e: serde_json::Error| Error::input(format!("{} is not JSON", path.display())).cause(e.to_string());
    let mut value: serde_json::Value = serde_json::from_slice(&bytes).map_err(wrong)?;
    let size = |e: &Entry| {
        e.shape.iter().product::<usize>() * if e.dtype.is_float() { storage.of(e.dtype) } else { e.dtype }.size()
    };
    value["metadata"]["total_size"] = store.entries().map(size).sum::<usize>().into();
    serde_json::to_vec_pretty(&value).map_err(wrong)
}
