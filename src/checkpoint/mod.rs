//! A model as a directory that others can load: Hugging Face layout, deterministic to the byte.
//!
//! config.json (shape, process, objective), model.safetensors (projections as [out, in]; several files with an index where
//! it would be longer than 5 GB), tokenizer.json, README.md (the model card with the table of results) and recipe.toml.
//! The run's own final models are kept in the same form. int8 weights are stored as `weights::quantise` says.

pub mod origin;
pub mod whole;

use std::path::Path;
use std::sync::Arc;

use burn::prelude::Device;
use serde::{Deserialize, Serialize};

use crate::data::picture;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::fs;
use crate::method::{Made, Objective, Vectors};
use crate::model::config::Visibility;
use crate::model::family::{self, Description, Generation, Prediction};
use crate::model::params::{self, Named};
use crate::model::{Transformer, TransformerConfig};
use crate::process::d3pm::{Matrices, Matrix, Neighbours};
use crate::process::order::OrderConfig;
use crate::process::{Corruption, Order, Schedule};
use crate::room;
use crate::sample::{Decode, Embedding, Generator, Latent, LatentProcess, Process};
use crate::shown::markdown;
use crate::weights::{self, Dtype, NonFinite, Outputs, Planned, SCALE, SHARD, SINGLE, Storage, Store};

/// The content of config.json.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCard {
    pub architectures: Vec<String>,
    pub model_type: String,
    pub fewstep_version: String,
    /// Name of the model in its study.
    pub name: String,
    /// Vocabulary size V without the mask; the embedding has V + 1 rows.
    pub vocab_size: usize,
    pub mask_token_id: usize,
    /// Ids that are never predicted although they have text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded_token_ids: Vec<u32>,
    /// Of documents, the token that ends one: what stands behind it is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_token_id: Option<u32>,
    pub max_position_embeddings: usize,
    pub network: TransformerConfig,
    pub order: OrderConfig,
    /// The noise on its tokens, and how fast it comes; not there where it denoises vectors (version 0.1.0 before December 2026
    /// wrote values there that meant nothing).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corruption: Option<Corruption>,
    pub objective: Objective,
    pub seed: u64,
    pub train_steps: usize,
    pub train_tokens: u64,
    pub train_seconds: f64,
    /// How it is meant to be sampled, where its training says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// Where text and picture lie in what it writes, if that is both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<picture::Shape>,
    /// How its latents are drawn; their autoencoder lies in `codec/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latent: Option<LatentProcess>,
    /// Of a chain over similar tokens, the neighbours of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neighbours: Option<Neighbours>,
    /// There where the weights are int8 with scales.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization_config: Option<serde_json::Value>,
}

impl ModelCard {
    /// The transition matrices of a model on a chain.
    ///
    /// # Errors
    /// As [`Matrices::new`]; neighbours that are not those of its tokens (input).
    pub fn matrices(&self) -> Result<Option<Arc<Matrices>>> {
        let Some(c) = self.objective.facts().chain else { return Ok(None) };
        let vocab = self.vocab_size;
        let fits = |graph: &Neighbours| graph.len() == vocab && graph.iter().flatten().all(|id| (*id as usize) < vocab);
        if matches!(c.matrix, Matrix::Neighbours { .. }) && !self.neighbours.as_ref().is_some_and(fits) {
            return Err(Error::input(format!("`neighbours` must list token ids below {vocab} for each of {vocab}")));
        }
        Matrices::new(c.matrix, vocab, c.levels, c.schedule, self.neighbours.as_ref()).map(|m| Some(Arc::new(m)))
    }

    /// The process the model samples with, on its chain of `matrices` if it has one.
    fn process(&self, matrices: Option<Arc<Matrices>>) -> Process {
        let length = self.max_position_embeddings;
        Process {
            schedule: self.schedule.unwrap_or_default(),
            corruption: self.corruption.unwrap_or_default(),
            chain: matrices,
            cached: self.objective.facts().causal() || self.network.keeps_blocks(),
            ..Process::new(self.order.order(length), length)
        }
    }
}

/// The process of the exact sampler: token by token, block by block, or all positions at once.
///
/// # Errors
/// A block for an autoregressive model, or another size than that of the blocks it was trained on (usage).
pub fn exact_process(d: &Description, length: usize, block: Option<usize>) -> Result<Process> {
    let cached = d.family.prediction() == Prediction::NextToken;
    let block = match (d.network.visibility, block) {
        (_, Some(_)) if cached => {
            return Err(
                Error::usage("`--block`: an autoregressive model writes token by token").hint("leave `--block` out")
            );
        }
        (_, None) if cached => 1,
        (Visibility::Blocks(size), Some(block)) if block != size => {
            return Err(Error::usage(format!("`--block {block}`: the model was trained on blocks of {size}"))
                .hint("leave `--block` out"));
        }
        (Visibility::Blocks(size), _) => size.min(length),
        (_, Some(block)) => block.min(length),
        (_, None) => length,
    };
    let order = if block < length { Order::in_blocks(block) } else { Order::parallel(length) };
    let cached = cached || d.network.keeps_blocks();
    Ok(Process { cached, ..Process::new(order, length) })
}

/// A model read back from its directory.
pub struct LoadedModel {
    pub card: ModelCard,
    pub model: Transformer,
    /// What its chain of noise is, if it was trained on one.
    matrices: Option<Arc<Matrices>>,
    pub tokenizer: Option<Tokenizer>,
    /// SHA-256 of its weights ([`weights::sha256`]); with an autoencoder, of both hashes.
    pub weights_sha256: String,
    /// The autoencoder whose latents it denoises.
    pub codec: Option<Box<LoadedModel>>,
}

/// The directory of the autoencoder in that of a model of its latents.
pub const CODEC: &str = "codec";

impl LoadedModel {
    /// The process it samples with.
    pub fn process(&self) -> Process {
        self.card.process(self.matrices.clone())
    }

    /// What draws texts from it, in its own process or a given one.
    ///
    /// # Errors
    /// An autoencoder or a classifier, which generates nothing by itself (usage).
    pub fn generator(&self, process: Process) -> Result<Generator<'_>> {
        match (&self.codec, self.card.latent) {
            (Some(codec), Some(process)) => {
                let order = self.card.order.order(codec.card.network.bottleneck.as_ref().map_or(1, |b| b.latents));
                let latent = Latent { model: &self.model, codec: &codec.model, process, order };
                Ok(Generator::Latent(latent))
            }
            _ if self.model.bottleneck().is_some() => {
                Err(Error::usage(format!("`{}` is an autoencoder, which generates nothing by itself", self.card.name))
                    .hint("sample a model of its latents"))
            }
            _ => match (self.card.objective.facts().vectors, process.decode) {
                (Vectors::Classified, _) => {
                    Err(Error::usage(format!("`{}` is a classifier, which generates nothing", self.card.name))
                        .hint("sample the diffusion of embeddings that it is of"))
                }
                (Vectors::Embeddings(config), decode) => {
                    let sampler = if let Decode::Gaussian(sampler) = decode { sampler } else { config.sampler };
                    let anchored = process.order.levels > 0;
                    Ok(Generator::Embedding(Embedding {
                        model: &self.model,
                        config,
                        sampler,
                        anchored,
                        steering: None,
                    }))
                }
                _ => Ok(Generator::Tokens(&self.model, process)),
            },
        }
    }
}

/// Values that `write` puts beside the weights.
pub struct Extras<'a> {
    pub tokenizer: Option<&'a Tokenizer>,
    pub recipe: &'a str,
    /// Results for the model card, as Markdown.
    pub results: Option<&'a str>,
    /// A call of the code of the model's family, as Python for the model card.
    pub call: Option<&'a str>,
}

/// Writes the files of a model into the existing directory `dir`, its weights as f32.
///
/// # Errors
/// As [`write_as`].
pub fn write(dir: &Path, card: &ModelCard, tensors: Named, extras: &Extras) -> Result<()> {
    write_as(dir, card, tensors, extras, Storage::Kept, SHARD)
}

/// As [`write()`], with weights of the given type in files of at most `limit` bytes of tensors.
///
/// # Errors
/// A weight that does not fit the type; a refused write.
pub fn write_as(
    dir: &Path,
    card: &ModelCard,
    tensors: Named,
    extras: &Extras,
    storage: Storage,
    limit: u64,
) -> Result<()> {
    // What could not be read again is not written.
    fits_objective(card).map_err(|why| Error::usage(format!("`{}` is not a model that is read: {why}", card.name)))?;
    write_weights(dir, &tensors, storage, limit)?;
    let quantization_config = (storage == Storage::Int8).then(|| {
        let whole = tensors.iter().filter(|(name, tensor)| family::quantises(name, &tensor.shape));
        fs::sorted(family::int8::config(whole.map(|(name, _)| (name.as_str(), Outputs::Rows))))
    });
    write_beside(dir, &ModelCard { quantization_config, ..card.clone() }, extras)
}

/// Writes an autoencoder into the directory of a model of its latents, so that this samples by itself.
///
/// # Errors
/// As [`write_as`].
pub fn write_codec(dir: &Path, codec: &LoadedModel, recipe: &str, storage: Storage) -> Result<()> {
    let inner = dir.join(CODEC);
    fs::create_dir(&inner)?;
    let extras = Extras { tokenizer: codec.tokenizer.as_ref(), recipe, results: None, call: None };
    write_as(&inner, &codec.card, params::export(&codec.model), &extras, storage, SHARD)
}

/// Writes what lies beside the weights of a model: its configuration, tokenizer, recipe and card.
///
/// # Errors
/// A card or a tokenizer that cannot be written as JSON (input); a refused write (I/O).
pub fn write_beside(dir: &Path, card: &ModelCard, extras: &Extras) -> Result<()> {
    // Wall-clock seconds differ from run to run; an export of the same weights must not.
    let shown = ModelCard { train_seconds: 0.0, ..card.clone() };
    let json = |v: &ModelCard| {
        serde_json::to_string_pretty(v).map_err(|e| Error::input(format!("cannot describe the model: {e}")))
    };
    fs::write_atomic(&dir.join("config.json"), (json(&shown)? + "\n").as_bytes())?;
    if let Some(tokenizer) = extras.tokenizer {
        tokenizer.save_for_others(dir)?;
    }
    fs::write_atomic(&dir.join("recipe.toml"), extras.recipe.as_bytes())?;
    fs::write_atomic(&dir.join("README.md"), model_card(card, extras).as_bytes())
}

fn write_weights(dir: &Path, tensors: &Named, storage: Storage, limit: u64) -> Result<()> {
    let metadata = [("format".to_string(), "pt".to_string())].into();
    let mut plan = Vec::new();
    for (name, tensor) in tensors {
        let (name, shape) = (name.clone(), tensor.shape.clone());
        if storage == Storage::Int8 && family::quantises(&name, &shape) {
            plan.extend(Planned::int8(name, shape, Outputs::Rows));
            continue;
        }
        let dtype = storage.of(Dtype::F32);
        weights::check_range(&name, &tensor.data, dtype)?;
        plan.push(Planned { name, dtype, shape });
    }
    weights::write_model(dir, &metadata, &plan, limit, |planned| {
        let quantised = |name: &str| weights::quantise(&tensors[name], Outputs::Rows);
        Ok(match (tensors.get(&planned.name), planned.dtype) {
            (Some(_), Dtype::I8) => quantised(&planned.name).0.into_iter().map(|v| v as u8).collect(),
            (Some(tensor), dtype) => weights::to_dtype(&tensor.data, dtype),
            (None, dtype) => weights::to_dtype(&quantised(planned.name.trim_end_matches(SCALE)).1.data, dtype),
        })
    })
}

/// Reads a model directory onto `device`.
///
/// # Errors
/// Missing or malformed files, weights that do not fit the configuration, a tokenizer of another size.
pub fn read(dir: &Path, device: &Device) -> Result<LoadedModel> {
    read_nested(dir, device, 0)
}

/// Checks the numbers of a stranger's configuration.
fn in_range(card: &ModelCard, path: &Path) -> Result<()> {
    card.network.validate("network").map_err(|e| Error::input(format!("{}: {}", path.display(), e.message)))?;
    if card.objective.facts().on_tokens() && (card.schedule.is_none() || card.corruption.is_none()) {
        return Err(Error::input(format!("{}: `schedule` or `corruption` is missing", path.display())));
    }
    if card.vocab_size == 0
        || card.vocab_size > 1 << 24
        || card.max_position_embeddings == 0
        || card.max_position_embeddings > 1 << 20
    {
        return Err(Error::input(format!(
            "{}: `vocab_size` {} or `max_position_embeddings` {} is out of range",
            path.display(),
            card.vocab_size,
            card.max_position_embeddings
        )));
    }
    let reads_tokens = card.network.vectors.as_ref().is_none_or(|v| v.condition > 0);
    // Under uniform noise there may be none: then its id is that behind the tokens.
    let vectors = card.network.vectors.as_ref();
    if vectors.is_some_and(|v| v.condition > card.max_position_embeddings) || card.mask_token_id > card.vocab_size {
        return Err(Error::input(format!(
            "{}: `network.vectors.condition` or `mask_token_id` is out of range",
            path.display()
        )));
    }
    let maskless = !card.corruption.unwrap_or_default().absorbs() && card.mask_token_id == card.vocab_size;
    if reads_tokens && !maskless && card.mask_token_id >= card.network.rows(card.vocab_size) {
        return Err(Error::input(format!(
            "{}: `mask_token_id` {} has no row in the embedding of {}",
            path.display(),
            card.mask_token_id,
            card.network.rows(card.vocab_size)
        )));
    }
    // Multiplied without overflow: the numbers are a stranger's.
    if let Some(p) = card.picture
        && p.rows.checked_mul(p.columns).and_then(|n| n.checked_add(p.text)) != Some(card.max_position_embeddings)
    {
        return Err(Error::input(format!(
            "{}: `picture` does not have the {} tokens of `max_position_embeddings`",
            path.display(),
            card.max_position_embeddings
        )));
    }
    Ok(())
}

/// [`read`] of a model that `depth` others lie on.
fn read_nested(dir: &Path, device: &Device, depth: usize) -> Result<LoadedModel> {
    fs::contained(dir)?;
    let path = dir.join("config.json");
    let bytes = fs::read_limited(&path, 1 << 20)?;
    let card: ModelCard = serde_json::from_slice(&bytes).map_err(|e| {
        Error::input(format!("{}: not the configuration of a fewstep model", path.display()))
            .cause(e.to_string())
            .hint("give a directory written by `fewstep export`, or a run directory")
    })?;
    in_range(&card, &path)?;
    fits_objective(&card).map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
    let codec = match card.latent {
        Some(_) if depth > 0 => {
            return Err(Error::input(format!("{}: an autoencoder cannot have latents of another", path.display())));
        }
        Some(_) => Some(Box::new(codec(&dir.join(CODEC), &card, device)?)),
        None => None,
    };
    let (model, weights_sha256) = match origin::of(dir)? {
        Some(origin) => origin.network(dir, &card, device, depth)?,
        None => own_weights(dir, &card, device)?,
    };
    let tokenizer = if dir.join("tokenizer.json").exists() { Some(Tokenizer::load(dir)?) } else { None };
    let (model, fits) = match (card.network.mask_row, &tokenizer) {
        (true, t) => (model, t.as_ref().is_none_or(|t| t.vocab_size() == card.vocab_size)),
        // The mask is one of the V tokens there, and some of them may have no text.
        (false, Some(t)) => {
            let fits = t.vocab_size() <= card.vocab_size;
            (model.with_tokens(t.vocab_size()), fits)
        }
        (false, None) => (model, true),
    };
    let matrices = card.matrices().map_err(|e| Error { message: format!("{}: {}", path.display(), e.message), ..e })?;
    let model = model.with_mask(card.mask_token_id).without(&card.excluded_token_ids);
    if let Some(t) = tokenizer.as_ref().filter(|_| !fits) {
        return Err(Error::input(format!(
            "{}: the tokenizer has {} tokens, but the model has `vocab_size` {}",
            dir.display(),
            t.vocab_size(),
            card.vocab_size
        ))
        .hint("put the tokenizer.json that the model was trained with beside it"));
    }
    let weights_sha256 = match &codec {
        Some(codec) => fs::sha256_hex(format!("{weights_sha256}\n{}\n", codec.weights_sha256).as_bytes()),
        None => weights_sha256,
    };
    Ok(LoadedModel { card, model, matrices, tokenizer, weights_sha256, codec })
}

/// The autoencoder in `dir` of a model of its latents.
fn codec(dir: &Path, card: &ModelCard, device: &Device) -> Result<LoadedModel> {
    let leads_out = match (dir.canonicalize(), dir.parent().map(Path::canonicalize)) {
        (Ok(inner), Some(Ok(outer))) => !inner.starts_with(outer),
        _ => false,
    };
    if leads_out {
        return Err(Error::input(format!("{} leads out of its directory", dir.display()))
            .hint("put a copy of the autoencoder there"));
    }
    let codec = read_nested(dir, device, 1)?;
    let theirs = codec.card.network.bottleneck.as_ref().map(|b| (b.latents, b.width));
    let ours = card.network.vectors.as_ref().map(|v| (v.count, v.width));
    let same =
        codec.card.max_position_embeddings == card.max_position_embeddings && codec.card.vocab_size == card.vocab_size;
    match theirs.is_some() && theirs == ours && same {
        true => Ok(codec),
        false => Err(Error::input(format!("{}: not the autoencoder of the model beside it", dir.display()))
            .cause(format!("latents and their width are {theirs:?} there and {ours:?} here"))),
    }
}

/// The network of the directory's own weights, and their hash.
fn own_weights(dir: &Path, card: &ModelCard, device: &Device) -> Result<(Transformer, String)> {
    // What is wrong with the files is for the reader to say.
    let stored = Store::open(dir).map_or(0, |store| store.floats().0);
    room::need(4 * stored as u128, || format!("the model in {} does not fit into memory", dir.display()))?;
    let weights = weights::read_model(dir, NonFinite::Refuse)?;
    // Before a network of that size is made: a few missing tensors are told by name, another size is told as such.
    let asked = card.network.parameters(card.vocab_size, card.max_position_embeddings);
    let there: u128 = weights.tensors.values().map(|t| t.data.len() as u128).sum();
    if asked > 4 * there + (1 << 20) {
        return Err(Error::input(format!("{}: asks for {asked} parameters", dir.join("config.json").display()))
            .cause(format!("its weights hold {there}")));
    }
    let model = Transformer::from_weights(
        &card.network,
        card.vocab_size,
        card.max_position_embeddings,
        &weights,
        &dir.join(SINGLE).display().to_string(),
        device,
    )?;
    Ok((model, weights::sha256(dir)?))
}

/// Whether order, visibility and shift are those that the objective trains.
fn fits_objective(card: &ModelCard) -> std::result::Result<(), String> {
    card.order.validate("order").map_err(|e| e.message)?;
    let causal = card.network.visibility == Visibility::Causal;
    let facts = card.objective.facts();
    let latent = matches!(facts.vectors, Vectors::Latents(_) | Vectors::FewStep(_));
    if latent != (card.latent.is_some() && card.network.vectors.is_some()) {
        return Err("`latent`, `network.vectors` and the objective contradict each other".into());
    }
    let codec = matches!(facts.vectors, Vectors::Codec);
    if codec != card.network.bottleneck.is_some() {
        return Err("`network.bottleneck` and the objective contradict each other".into());
    }
    let embeddings = matches!(facts.vectors, Vectors::Embeddings(_) | Vectors::Classified);
    let by_order = card.network.visibility == Visibility::Order;
    let phased = card.order.phased();
    if card.network.vectors.is_some() && (!(latent || embeddings) || (by_order && !phased)) {
        return Err("`network.vectors` contradicts the objective or `network.visibility`".into());
    }
    let network = &card.network;
    if phased && (!network.reads_phases() || card.order.follows_steps()) {
        return Err("`order` has phases that the network does not read".into());
    }
    if network.uniforms && (!phased || !facts.shared) {
        return Err("`network.uniforms` and the objective contradict each other".into());
    }
    if embeddings != card.network.vectors.as_ref().is_some_and(|v| v.codebook) {
        return Err("`network.vectors.codebook` and the objective contradict each other".into());
    }
    let count = card.network.vectors.as_ref().map_or(0, |v| v.count);
    if embeddings && count != card.max_position_embeddings {
        return Err("`network.vectors.count` is not `max_position_embeddings`".into());
    }
    if let Vectors::Embeddings(config) = facts.vectors {
        config.validate("objective.embedding", count).map_err(|e| e.message)?;
    }
    let fits = match facts.made {
        Made::Codec => true,
        Made::Baseline => {
            card.order == OrderConfig::LeftToRight && causal && (card.network.shift || card.network.shift_output)
        }
        _ => match (&card.order, card.network.visibility) {
            (_, Visibility::Order) => true,
            (
                OrderConfig::Parallel | OrderConfig::Pipelined { .. } | OrderConfig::ArDiffusion { .. },
                Visibility::Full,
            ) => true,
            (OrderConfig::ArDiffusion { .. }, visibility) => visibility == Visibility::Blocks(1),
            (OrderConfig::Blocks(size), visibility) => visibility == Visibility::Blocks(*size),
            (OrderConfig::Pipelined { block, .. }, visibility) => visibility == Visibility::Blocks(*block),
            _ => false,
        },
    };
    let name = facts.name;
    if fits { Ok(()) } else { Err(format!("`order`, `visibility` or `shift` contradict the objective `{name}`")) }
}

/// The README.md of an exported model.
pub fn model_card(card: &ModelCard, extras: &Extras) -> String {
    let mut text = format!(
        "---\nlibrary_name: fewstep\ntags: [diffusion-language-model, few-step]\n---\n\n# {}\n\n\
         Trained by fewstep {} with the objective `{}`, {} steps, {} tokens, seed {}.\n\n\
         Vocabulary {} (the mask or start token has id {}), sequences of {} tokens.\n\n\
         ```sh\nfewstep sample . -n 3\n```\n",
        markdown(&card.name),
        markdown(&card.fewstep_version),
        card.objective.name(),
        card.train_steps,
        card.train_tokens,
        card.seed,
        card.vocab_size,
        card.mask_token_id,
        card.max_position_embeddings
    );
    if let Some(g) = card.generation {
        let (steps, selection, temperature) = (g.steps, g.selection.name(), g.temperature);
        text.push_str(&format!(
            "\n## Generation\n\n| steps | selection | temperature |\n| --- | --- | --- |\n| {steps} | {selection} | {temperature} |\n"
        ));
    }
    if let Some(call) = extras.call {
        text.push_str(&format!("\nWith the family's own code:\n\n```python\n{call}```\n"));
    }
    if let Some(results) = extras.results {
        text.push_str(&format!("\n## Results\n\n{results}"));
    }
    text.push_str("\n## Recipe\n\nThe complete recipe is in recipe.toml.\n");
    text
}
