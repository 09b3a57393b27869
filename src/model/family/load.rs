//! Loading a public checkpoint: config.json first, then the headers, then one tensor after the other.
//!
//! Peak memory is the model and one tensor (in the file's type, and as f32 before and after its turn). Strict: every
//! parameter must be there in its shape, and every tensor must be a parameter or a known buffer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::prelude::Device;
use serde_json::Value;

use super::config::{Shapes, describe};
use super::names::{Source, canonical, embedding_and_head, is_buffer, source};
use super::{Description, Prediction, settle, tokenizer};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::fs::{self, read_limited};
use crate::model::config::Compute;
use crate::model::{Transformer, TransformerConfig, params};
use crate::weights::{Dtype, HostTensor, NonFinite, Store, match_shapes, to_dtype};

/// The longest sequence that rotary tables are made for, unless more is asked for.
pub const DEFAULT_LENGTH: usize = 4096;
/// The longest config.json: real ones have a few thousand bytes, and a parsed one takes some twenty times its length.
const MAX_CONFIG: u64 = 1 << 20;

/// How to load.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    pub non_finite: NonFinite,
    /// Pass over tensors that are neither parameters nor known buffers.
    pub ignore_extra: bool,
    /// Positions that the network can read; default: the model's own, at most 4096.
    pub length: Option<usize>,
    /// Another weights file than the directory's.
    pub weights: Option<PathBuf>,
    /// The type that matrices are kept in; vectors are always f32. Half-width weights are composed, not fused.
    pub dtype: Compute,
    /// The type that blocks and head compute in.
    pub compute: Compute,
    /// Activation checkpointing: each block keeps its input only.
    pub checkpoint: bool,
}

impl LoadOptions {
    /// Puts what is asked for into the network's configuration.
    pub fn configure(&self, network: &mut TransformerConfig) {
        (network.compute, network.checkpoint) = (self.compute, self.checkpoint);
        // The fused kernels read f32.
        network.composed |= self.dtype != Compute::F32;
    }
}

/// A model read from its directory.
pub struct Loaded {
    pub description: Description,
    pub model: Transformer,
}

/// The content of `dir/config.json`.
///
/// # Errors
/// A config.json that is absent or not JSON, or a file of the directory that leads out of it (input).
pub fn read_config(dir: &Path) -> Result<(String, Value)> {
    fs::contained(dir)?;
    let path = dir.join("config.json");
    let shown = path.display().to_string();
    let bytes = read_limited(&path, MAX_CONFIG)?;
    let value = serde_json::from_slice(&bytes)
        .map_err(|e| Error::input(format!("{shown} is not JSON")).cause(e.to_string()))?;
    Ok((shown, value))
}

/// Canonical names of a store's tensors of real numbers: to the name in the files, and to the shape.
///
/// # Errors
/// Two names that are the same without their prefixes: a model beside its moving average (input).
pub fn names_of(store: &Store) -> Result<(BTreeMap<String, String>, Shapes)> {
    let (mut names, mut shapes) = (BTreeMap::new(), Shapes::new());
    for entry in store.reals() {
        let inner = canonical(&entry.name).to_string();
        if let Some(other) = names.insert(inner.clone(), entry.name.clone()) {
            let error = Error::input(format!("`{other}` and `{}` are the same parameter `{inner}`", entry.name));
            return Err(error.hint("keep one of the two sets of weights in the file"));
        }
        shapes.insert(inner, entry.shape.clone());
    }
    Ok((names, shapes))
}

/// A directory whose headers were read.
pub struct Opened {
    pub description: Description,
    pub store: Store,
    pub tokenizer: Option<Tokenizer>,
    /// Canonical names of its tensors: to the name in the files, and to the shape.
    pub names: BTreeMap<String, String>,
    pub shapes: Shapes,
    /// The file or directory of the weights, for messages.
    pub at: PathBuf,
}

/// Reads config.json, the headers of the weights (`weights`, else those of the directory) and the tokenizer.
///
/// A head that is its embedding and stored without it stands for the embedding.
pub fn open(dir: &Path, weights: Option<&Path>) -> Result<Opened> {
    let (file, config) = read_config(dir)?;
    let at = weights.unwrap_or(dir).to_path_buf();
    let store = Store::open(&at)?;
    let (mut names, mut shapes) = names_of(&store)?;
    let mut description = describe(&file, &config, &shapes)?;
    description.notes.extend(store.notes.iter().cloned());
    let tokenizer = tokenizer(dir)?;
    settle(dir, &mut description, tokenizer.as_ref())?;
    if description.network.tied {
        let [embed, head] = embedding_and_head(description.family);
        if !names.contains_key(&embed)
            && let (Some(name), Some(shape)) = (names.remove(&head), shapes.remove(&head))
        {
            names.insert(embed.clone(), name);
            shapes.insert(embed, shape);
        }
    }
    Ok(Opened { description, store, tokenizer, names, shapes, at })
}

/// What the directory holds, from config.json, the headers of the weights and the tokenizer; no tensor is read.
///
/// # Errors
/// Files that are missing or malformed, or a family that is not known (input); I/O.
pub fn look(dir: &Path) -> Result<(Description, Store)> {
    open(dir, None).map(|opened| (opened.description, opened.store))
}

/// Reads the model of a directory onto `device`.
///
/// # Errors
/// As [`describe`]; files or tensors that are missing, malformed, misshapen or unknown.
pub fn load(dir: &Path, options: &LoadOptions, device: &Device) -> Result<Loaded> {
    let mut opened = open(dir, options.weights.as_deref())?;
    options.configure(&mut opened.description.network);
    fits(&opened, options)?;
    let model = read(&opened, options, device)?;
    let Opened { description, tokenizer, .. } = opened;
    // Causal models are judges and baselines: what they were trained to say is left as it is.
    let model = match tokenizer.filter(|_| description.family.prediction() != Prediction::NextToken) {
        Some(tokenizer) => model.with_tokens(tokenizer.vocab_size()).without(&tokenizer.without_text()),
        None => model,
    };
    Ok(Loaded { description, model })
}

/// Whether the tensors are those of the described network, before a network is made.
///
/// # Errors
/// Tensors that are missing, misshapen, unknown or integers, and a head that contradicts its embedding.
pub fn fits(opened: &Opened, options: &LoadOptions) -> Result<()> {
    let Opened { description, store, shapes, at, .. } = opened;
    let (network, family) = (&description.network, description.family);
    let place = at.display();
    let (vocab, length) = (description.vocab, positions(description, options));
    let (asked, there) = (network.parameters(vocab, length), u128::from(store.floats().0));
    if asked > 4 * there + (1 << 20) {
        return Err(Error::input(format!("{place}: config.json asks for {asked} parameters"))
            .cause(format!("the weights hold {there}")));
    }
    let group = block_group(&description.config);
    let mut wanted = Shapes::new();
    for (path, shape) in network.tensors(vocab, length) {
        wanted.extend(stored(&source(family, &path, group), &shape, network.packed_rows()));
    }
    let [embed, head] = embedding_and_head(family);
    let aside = |name: &String| is_buffer(family, name) || (network.tied && *name == head);
    let found: Shapes = shapes.iter().filter(|(name, _)| !aside(name)).map(|(n, s)| (n.clone(), s.clone())).collect();
    match_shapes(&wanted, &found, options.ignore_extra).map_err(|e| {
        let mut e = Error { message: format!("{place}: {}", e.message), ..e };
        let layers = super::names::layers(found.keys());
        if layers != network.layers {
            e = e.cause(format!("config.json says {} layers, and the weights have {layers}", network.layers));
        }
        let whole: Vec<&crate::weights::Entry> = store.entries().filter(|e| !e.dtype.is_float()).collect();
        let integers = whole
            .iter()
            .filter(|t| wanted.contains_key(canonical(&t.name)) && !shapes.contains_key(canonical(&t.name)));
        for tensor in integers.take(3) {
            e = e.cause(format!("`{}` holds integers ({})", tensor.name, tensor.dtype.name()));
        }
        match description.config["architectures"][0].as_str() {
            Some(class) if !found.contains_key(&head) && wanted.contains_key(&head) => {
                e.cause(format!("`architectures` says {class}; a class without a language model's head cannot be used"))
            }
            _ => e,
        }
    })?;
    if network.tied && !options.ignore_extra && opened.names.contains_key(&head) {
        same_head(opened, &embed, &head)?;
    }
    Ok(())
}

/// Refuses a stored head that differs from the embedding which config.json says it is: loaders disagree on which of the two
/// counts.
fn same_head(opened: &Opened, embed: &str, head: &str) -> Result<()> {
    let Opened { store, names, at, .. } = opened;
    let [a, b] = [&names[embed], &names[head]];
    let dtype = |name: &String| store.entry(name).map_or(Dtype::F32, |e| e.dtype);
    let shape = |name: &String| store.entry(name).map(|e| e.shape.clone());
    let differ = |how: String| {
        Err(Error::input(format!("{}: `{b}` and `{a}` differ, and config.json says that they are one", at.display()))
            .cause(how)
            .hint(format!(
                "`tie_word_embeddings` false (of LLaDA `weight_tying`) in config.json if both were trained; else take \
                 `{b}` out of the file"
            )))
    };
    if shape(a) != shape(b) {
        return differ(format!("their shapes are {:?} and {:?}", shape(b), shape(a)));
    }
    if dtype(a) == dtype(b) && store.bytes(a)? == store.bytes(b)? {
        return Ok(());
    }
    // One may have been rounded to a narrower type than the other.
    let narrow = if dtype(a).size() <= dtype(b).size() { dtype(a) } else { dtype(b) };
    let read = |name: &String| Ok::<_, Error>(store.tensor(name, NonFinite::Allow)?.data);
    let (x, y) = (read(a)?, read(b)?);
    if narrow.is_float() && dtype(a) != dtype(b) && to_dtype(&x, narrow) == to_dtype(&y, narrow) {
        return Ok(());
    }
    let largest = x.iter().zip(&y).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max);
    differ(format!("by up to {largest:e}"))
}

/// The positions that the network is made for.
fn positions(description: &Description, options: &LoadOptions) -> usize {
    match description.network.learned_positions {
        true => description.length,
        false => options.length.unwrap_or(description.length.min(DEFAULT_LENGTH)),
    }
}

fn read(opened: &Opened, options: &LoadOptions, device: &Device) -> Result<Transformer> {
    let Opened { description, store, names, .. } = opened;
    let (network, family) = (&description.network, description.family);
    let group = block_group(&description.config);
    let zero = Transformer::zeros(network, description.vocab, positions(description, options), device);
    let mut last: Option<(String, HostTensor)> = None;
    let model = params::fill(zero, options.dtype.dtype(), device, |path, shape| {
        let tensor = |name: &String| store.tensor(&names[name], options.non_finite);
        match source(family, path, group) {
            Source::Whole(name) => tensor(&name),
            Source::Turned(name) => tensor(&name).map(turned),
            Source::Stack(parts) => {
                let mut all = HostTensor { shape: shape.to_vec(), data: Vec::with_capacity(shape.iter().product()) };
                for name in &parts {
                    all.data.extend(tensor(name)?.data);
                }
                Ok(all)
            }
            Source::Part(name, i, n) => {
                if last.as_ref().is_none_or(|(kept, _)| *kept != name) {
                    last = Some((name.clone(), tensor(&name)?));
                }
                let whole = last.as_ref().map_or(&[][..], |(_, t)| &t.data);
                let size = whole.len() / n;
                Ok(HostTensor { shape: shape.to_vec(), data: whole[i * size..(i + 1) * size].to_vec() })
            }
        }
    })?;
    Ok(match description.special.mask {
        Some(mask) => model.with_mask(mask as usize),
        None => model,
    })
}

/// LLaDA's blocks in groups of more than one.
pub fn block_group(config: &Value) -> Option<usize> {
    config["block_group_size"].as_u64().filter(|n| *n > 1).and_then(|n| usize::try_from(n).ok())
}

/// The stored tensors, with shapes, of a parameter [out, in] or [n]; stacked ones have the given rows.
pub fn stored(source: &Source, shape: &[usize], rows: [usize; 3]) -> Vec<(String, Vec<usize>)> {
    match source {
        Source::Whole(name) => vec![(name.clone(), shape.to_vec())],
        Source::Turned(name) => vec![(name.clone(), shape.iter().rev().copied().collect())],
        Source::Stack(names) => {
            let of = |(name, rows): (&String, usize)| (name.clone(), [&[rows], &shape[1..]].concat());
            names.iter().zip(rows).map(of).collect()
        }
        Source::Part(name, _, n) => vec![(name.clone(), [&[shape[0] * n], &shape[1..]].concat())],
    }
}

/// A matrix with its rows as columns.
pub fn turned(tensor: HostTensor) -> HostTensor {
    let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
    HostTensor { shape: vec![cols, rows], data: params::transpose(&tensor.data, rows, cols) }
}
