//! Writing a model in its family's own layout: the names, types, order and files of the source, buffers and all.
//!
//! Headers are copied to the byte where types are kept, so that a model which was not changed comes out as the file it
//! came from; else, and where a file would be longer than a limit, tensors are laid out anew in the source's order.
//! Tensors are written one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::load::{block_group, turned};
use super::names::{Source, canonical, embedding_and_head, source};
use super::{Description, Family, int8, load};
use crate::error::{Error, Result};
use crate::fs;
use crate::model::params::Named;
use crate::weights::{
    Dtype, Entry, HostTensor, INDEX, MAX_INDEX, Outputs, Planned, SCALE, SHARD, SINGLE, Storage, Store, check_range,
    quantise, remove_others, to_dtype, write_model,
};

/// Files beside the weights that belong to a model and are copied as they are.
const BESIDE: [&str; 13] = [
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
    "chat_template.json",
    "tokenizer.model",
    "LICENSE",
];

/// Writes the parameters of a model of this description into the existing directory `to`, laid out as the model in `from`.
///
/// # Errors
/// A source that cannot be read or has other tensors than the model, a parameter that does not fit the type (input); I/O.
pub fn export(from: &Path, to: &Path, description: &Description, parameters: &Named, storage: Storage) -> Result<()> {
    export_in_files(from, to, description, parameters, storage, SHARD)
}

/// As [`export`], in files of at most `limit` bytes of tensors: the source's own files where types are kept and none is
/// longer, else one file where it fits, else several with an index.
///
/// # Errors
/// As [`export`].
pub fn export_in_files(
    from: &Path,
    to: &Path,
    description: &Description,
    parameters: &Named,
    storage: Storage,
    limit: u64,
) -> Result<()> {
    let store = Store::open(from)?;
    let mut values = family_tensors(description, parameters);
    let head = Head::of(description);
    let reals: BTreeSet<&str> = store.reals().map(|e| e.name.as_str()).collect();
    let mut places: Vec<(&Entry, bool)> = Vec::new();
    let mut missing: BTreeSet<&str> = values.keys().map(String::as_str).collect();
    for entry in store.entries() {
        let value = values.get(head.parameter(&entry.name));
        let is_parameter = value.is_some_and(|v| v.shape == entry.shape) && reals.contains(entry.name.as_str());
        if !is_parameter && value.is_some() {
            return Err(Error::input(format!("{}: `{}` is not shaped as the model's", from.display(), entry.name)));
        }
        missing.remove(head.parameter(&entry.name));
        places.push((entry, is_parameter));
    }
    if let Some(name) = missing.first() {
        return Err(Error::input(format!("{} has no place for the parameter `{name}`", from.display())));
    }
    let longest = store.parts.iter().map(|p| p.entries.iter().map(|e| (e.end - e.start) as u64).sum::<u64>()).max();
    let matrices = matrices(description, parameters);
    let quantised = places.iter().any(|(e, parameter)| *parameter && e.dtype == Dtype::I8);
    if storage == Storage::Kept && !quantised && longest.is_none_or(|n| n <= limit) {
        copy_layout(to, &store, &places, &mut values, &head)?;
        if store.sharded {
            fs::write_atomic(&to.join(INDEX), &fs::read_limited(&from.join(INDEX), MAX_INDEX)?)?;
        }
    } else {
        lay_out(to, &store, &places, (&values, &head), &matrices, storage, limit)?;
    }
    let integers = (storage == Storage::Int8 || storage == Storage::Kept && quantised).then(|| {
        let whole = places.iter().filter(|(_, parameter)| *parameter);
        int8::config(whole.filter_map(|(e, _)| Some((e.name.as_str(), *matrices.get(canonical(&e.name))?))))
    });
    beside(from, to, description.family, storage, integers)
}

/// The head of a network that is its embedding: where a source stores it too, what is written there is the embedding.
struct Head {
    tied: bool,
    names: [String; 2],
}

impl Head {
    fn of(description: &Description) -> Head {
        Head { tied: description.network.tied, names: embedding_and_head(description.family) }
    }

    /// The canonical name of the parameter that the tensor `name` holds.
    fn parameter<'a>(&'a self, name: &'a str) -> &'a str {
        let [embed, head] = &self.names;
        match canonical(name) {
            name if self.tied && name == head => embed,
            name => name,
        }
    }

    /// Whether several tensors may hold this parameter.
    fn shared(&self, parameter: &str) -> bool {
        self.tied && self.names[0] == parameter
    }
}

/// The source's files with its own headers.
fn copy_layout(
    to: &Path,
    store: &Store,
    places: &[(&Entry, bool)],
    values: &mut BTreeMap<String, HostTensor>,
    head: &Head,
) -> Result<()> {
    for (entry, _) in places.iter().filter(|(_, parameter)| *parameter) {
        check_range(&entry.name, &values[head.parameter(&entry.name)].data, entry.dtype)?;
    }
    let mut names = Vec::new();
    for part in &store.parts {
        let name = if store.sharded { part.name.as_str() } else { SINGLE };
        names.push(name.to_string());
        let header = part.header_bytes()?;
        fs::write_atomic_from(&to.join(name), |out| {
            out.write_all(&header)?;
            for entry in &part.entries {
                let parameter = head.parameter(&entry.name);
                match values.get(parameter) {
                    Some(value) => {
                        out.write_all(&to_dtype(&value.data, entry.dtype))?;
                        // Its memory is wanted no more.
                        if !head.shared(parameter) {
                            values.remove(parameter);
                        }
                    }
                    None => out.write_all(&store.bytes(&entry.name).map_err(|e| std::io::Error::other(e.message))?)?,
                }
            }
            Ok(())
        })?;
    }
    remove_others(to, &names, store.sharded)
}

/// New files with the source's names in its order.
fn lay_out(
    to: &Path,
    store: &Store,
    places: &[(&Entry, bool)],
    (values, head): (&BTreeMap<String, HostTensor>, &Head),
    matrices: &BTreeMap<String, Outputs>,
    storage: Storage,
    limit: u64,
) -> Result<()> {
    let parameters: BTreeMap<&str, bool> = places.iter().map(|(e, parameter)| (e.name.as_str(), *parameter)).collect();
    let mut plan = Vec::new();
    for (entry, parameter) in places {
        let (name, shape) = (entry.name.clone(), entry.shape.clone());
        let whole = entry.dtype == Dtype::I8;
        let outputs =
            matrices.get(canonical(&name)).filter(|_| storage == Storage::Int8 || whole && storage == Storage::Kept);
        match (parameter, outputs) {
            (true, Some(outputs)) => plan.extend(Planned::int8(name, shape, *outputs)),
            (true, None) => {
                let dtype = storage.of(if whole { Dtype::F32 } else { entry.dtype });
                check_range(&name, &values[head.parameter(&name)].data, dtype)?;
                plan.push(Planned { name, dtype, shape });
            }
            // The scales of a matrix are made anew.
            (false, _) if name.strip_suffix(SCALE).is_some_and(|n| parameters.get(n) == Some(&true)) => {}
            (false, _) => plan.push(Planned { name, dtype: entry.dtype, shape }),
        }
    }
    let metadata = store.parts.first().map(|p| p.metadata.clone()).unwrap_or_default();
    write_model(to, &metadata, &plan, limit, |planned| {
        let name = head.parameter(&planned.name);
        let matrix = |name: &str| matrices.get(name).map(|outputs| quantise(&values[name], *outputs));
        match (values.get(name), planned.dtype) {
            (Some(_), Dtype::I8) => Ok(matrix(name).into_iter().flat_map(|(v, _)| v).map(|v| v as u8).collect()),
            (Some(value), dtype) => Ok(to_dtype(&value.data, dtype)),
            (None, dtype) => match name.strip_suffix(SCALE).and_then(matrix) {
                Some((_, scales)) if store.entry(&planned.name).is_none_or(|e| e.dtype == dtype) => {
                    Ok(to_dtype(&scales.data, dtype))
                }
                _ => store.bytes(&planned.name),
            },
        }
    })
}

/// The matrices that int8 stores as integers: those of the blocks' attention and feed-forward layers, by canonical name.
fn matrices(description: &Description, parameters: &Named) -> BTreeMap<String, Outputs> {
    let group = block_group(&description.config);
    let rows = description.network.packed_rows();
    let mut all = BTreeMap::new();
    for (path, tensor) in parameters.iter().filter(|(path, t)| quantises(path, &t.shape)) {
        let from = source(description.family, path, group);
        let outputs = if matches!(from, Source::Turned(_)) { Outputs::Columns } else { Outputs::Rows };
        all.extend(load::stored(&from, &tensor.shape, rows).into_iter().map(|(name, _)| (name, outputs)));
    }
    all
}

/// Whether int8 stores the parameter at `path` as integers: embeddings, heads, norms, biases, positions and what reads the
/// time keep their type.
pub fn quantises(path: &str, shape: &[usize]) -> bool {
    let inside = path.contains(".attention.") || path.contains(".mlp.");
    path.starts_with("blocks.") && inside && path.ends_with(".weight") && shape.len() == 2
}

/// Copies what lies beside the weights; config.json says the new type where it is another one, and of integers how they are
/// to be read.
fn beside(from: &Path, to: &Path, family: Family, storage: Storage, integers: Option<Value>) -> Result<()> {
    let mut names: Vec<String> = BESIDE.iter().map(|name| name.to_string()).collect();
    names.extend(code(from)?);
    for name in names.iter().filter(|name| from.join(name).exists()) {
        fs::inside(from, &from.join(name))?;
        fs::write_atomic(&to.join(name), &fs::read_limited(&from.join(name), 256 << 20)?)?;
    }
    if storage == Storage::Kept && integers.is_none() {
        return Ok(());
    }
    let (_, mut config) = load::read_config(from)?;
    let mut keys: Vec<&str> = ["torch_dtype", "dtype"].into_iter().filter(|key| config[*key].is_string()).collect();
    // Where nothing is said, loaders take the type of the first tensor, which may be a buffer's. The files of Hydra are no
    // configurations of transformers.
    if keys.is_empty() && !matches!(family, Family::Sedd | Family::Sdtt) {
        keys.push(dtype_key(&config));
    }
    let name = match storage {
        Storage::F32 => Some("float32"),
        Storage::F16 => Some("float16"),
        Storage::Bf16 => Some("bfloat16"),
        Storage::Kept | Storage::Int8 => None,
    };
    for key in keys.into_iter().filter(|_| name.is_some()) {
        config[key] = name.into();
    }
    match integers {
        Some(said) => config[int8::KEY] = said,
        None => drop(config.as_object_mut().map(|keys| keys.remove(int8::KEY))),
    }
    let text = fs::sorted_json(config);
    fs::write_atomic(&to.join("config.json"), (text + "\n").as_bytes())
}

/// The key that the source's version of transformers has for the type of its weights; every version reads the old one.
fn dtype_key(config: &Value) -> &'static str {
    let version = config["transformers_version"].as_str().unwrap_or("");
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version >= (4, 56) { "dtype" } else { "torch_dtype" }
}

/// Files with the classes of a model, which its loader runs and this program only copies.
fn code(dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io("read", dir, &e))?;
    let mut names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.retain(|name| name.ends_with(".py") && dir.join(name).is_file());
    names.sort();
    Ok(names)
}

/// Files with classes that `dir`'s config.json names in its `auto_map` and that do not lie beside it: an export without
/// them loads only where the classes come from elsewhere. Those of other repositories (`owner/name--file.Class`) are
/// fetched by the loader itself.
///
/// # Errors
/// As [`read_config`](super::read_config).
pub fn missing_code(dir: &Path) -> Result<Vec<String>> {
    let (_, config) = load::read_config(dir)?;
    let classes = config["auto_map"].as_object().into_iter().flat_map(|map| map.values()).filter_map(Value::as_str);
    let files: BTreeSet<String> = classes
        .filter(|class| !class.contains("--"))
        .filter_map(|class| class.split_once('.').map(|(module, _)| format!("{module}.py")))
        .collect();
    Ok(files.into_iter().filter(|file| !dir.join(file).exists()).collect())
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
