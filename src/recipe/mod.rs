//! A recipe: the sum of every component's own configuration, and the checks that need two of them.
//!
//! A study is data, then named models (each trained from data or distilled from another by name), then evaluation, gate
//! and export. Enums are externally tagged and nothing is flattened, so that errors keep their line and column.

pub mod builtin;
mod check;
mod cost;
mod derived;
mod embedding;
mod fits;
mod load;
mod names;
pub mod parse;
pub mod reference;
mod settings;
mod start;
mod ways;

use std::path::PathBuf;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::DataConfig;
use crate::error::{Error, Result};
use crate::eval::EvalConfig;
use crate::eval::results::Role;
use crate::gate::GateConfig;
pub use crate::method::Network;
use crate::method::{FewStep, LatentConfig, Made, Models, Objective, Site, Vectors};
use crate::model::TransformerConfig;
use crate::model::config::Compute;
use crate::model::family::{Generation, Selection, Vocabulary};
use crate::model::transformer::lora::LoraConfig;
use crate::process::order::OrderConfig;
use crate::sample::latent::Walk;
use crate::sample::{DecodeConfig, LatentProcess};
use crate::train::TrainConfig;
use crate::weights::Storage;
pub use load::{BASE, Loaded, Written, load, read, stored};
pub use names::{ORACLE, slug};

/// One study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the study and of its default run directory.
    pub name: String,
    /// Seed of data order, initial weights and noise; a model may have its own.
    #[serde(default)]
    pub seed: u64,
    /// Several seeds in place of `seed`: the study once for each, joined into one report with the spread between them.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<u64>,
    /// Where texts come from.
    pub data: DataConfig,
    /// The models by name, in the order of the report.
    pub model: IndexMap<String, ModelConfig>,
    pub eval: EvalConfig,
    /// What `fewstep gate` compares, and by how much it may differ; default: the rules at `gate.rules`.
    #[serde(default)]
    pub gate: GateConfig,
    /// Which models a run exports, and how.
    #[serde(default)]
    pub export: ExportConfig,
}

/// One model of a study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Its own seed; default: the study's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// parallel | left_to_right | { blocks = N } | { pipelined = { block = N, window = W } } |
    /// { ar_diffusion = { levels = T } } | { segments = { text = N, block = M } } | { strided = K } | { dilated = K } |
    /// { phases = [...] } | { within = { block = N, order = ... } } | { mixture = [...] }
    pub order: OrderConfig,
    /// A directory with a public checkpoint to start from: its weights and its network. With `train.steps = 0` it stays as
    /// it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// The model of this recipe whose weights it starts with, in a network of the same weights; default: its teacher, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// What to do where `from` has another tokenizer than the data; default: refuse.
    #[serde(default, skip_serializing_if = "Vocabulary::is_refuse")]
    pub vocabulary: Vocabulary,
    /// SHA-256 of the weights of `from`: of the file, or of the hashes of all files in the order of their names, joined by
    /// line ends. Another one ends the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Pass over tensors of `from` that the model does not have.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_extra: bool,
    /// Types that a checkpoint's weights are kept in and its blocks compute in; its students have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<DtypeConfig>,
    /// Activation checkpointing in a network that the recipe does not spell out; default: as its teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<bool>,
    /// The blocks of its teacher's (or the checkpoint's) network that it keeps and starts with; default: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_layers: Option<Vec<usize>>,
    /// Train low-rank adapters beside its teacher's (or the checkpoint's) frozen weights in place of a whole network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// Its network; a distilled model has its teacher's and leaves this out, and so does one that has `from`. Beside a teacher it
    /// says what needs no other weights: who sees whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<TransformerConfig>,
    pub objective: Objective,
    pub train: TrainConfig,
    /// The ways it is sampled in the evaluation: { order = ... } | { greedy_tail = ... } (uniform noise) | { pipelined = ... } |
    /// { switch = ... } | { confidence = ... } | { mbr = ... } | { gaussian = ... } (embeddings); default: its own order, or each order
    /// of a mixture.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decode: Vec<DecodeConfig>,
}

/// Types of a network that comes from a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DtypeConfig {
    /// f32 | bf16 | f16: what its matrices are kept in; weights that are trained are f32.
    #[serde(default)]
    pub weights: Compute,
    /// f32 | bf16 | f16: what blocks and head compute in; f16 is for models that are not trained.
    #[serde(default)]
    pub compute: Compute,
}

/// What `run` exports.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportConfig {
    /// Names of the models to export at the end of a run.
    #[serde(default)]
    pub models: Vec<String>,
    /// The type of the exported weights; default: kept.
    #[serde(default, skip_serializing_if = "is_kept")]
    pub dtype: Storage,
    /// Export the adapters of models that have them, in PEFT's layout, in the place of the whole network with them merged.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adapters: bool,
}

fn is_kept(storage: &Storage) -> bool {
    *storage == Storage::Kept
}

impl Recipe {
    /// The model called `name`; names were checked.
    ///
    /// # Errors
    /// A model that is not there (usage), with the nearest name.
    pub fn model(&self, name: &str) -> Result<&ModelConfig> {
        self.model.get(name).ok_or_else(|| {
            let known = self.model.keys().map(String::as_str);
            let error = Error::usage(format!("no model `{name}` in recipe `{}`", self.name));
            match crate::error::nearest(name, known.clone()) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error
                    .hint(format!("its models are {}", known.map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", "))),
            }
        })
    }

    /// The seed of a model.
    pub fn seed(&self, model: &ModelConfig) -> u64 {
        model.seed.unwrap_or(self.seed)
    }

    /// The name of a model's teacher.
    pub fn teacher(model: &ModelConfig) -> Option<&str> {
        model.objective.facts().teacher.map(|(name, _)| name)
    }

    /// The name of the model whose weights another one starts with.
    pub fn source(model: &ModelConfig) -> Option<&str> {
        model.start.as_deref().or(Self::teacher(model))
    }

    /// The models that have to be there before one is trained: the one it starts as, its teacher, the autoencoder whose latents it denoises, the diffusion
    /// whose noisy embeddings it classifies, or the model whose embedding says what is near.
    pub fn parents(model: &ModelConfig) -> Vec<&str> {
        let other = model.objective.facts().parent;
        let start = model.start.as_deref().filter(|start| Self::teacher(model) != Some(start));
        Self::teacher(model).into_iter().chain(start).chain(other).collect()
    }

    /// The configuration of the diffusion of latents at the end of a model's line of teachers, and which of the models is that;
    /// nothing for models of tokens.
    ///
    /// # Errors
    /// A model that is not there, or a circle of models (usage).
    pub fn latent<'a>(&'a self, name: &'a str) -> Result<Option<(&'a str, &'a LatentConfig)>> {
        let mut at = name;
        for _ in 0..=self.model.len() {
            match self.model(at)?.objective.facts().vectors {
                Vectors::Latents(config) => return Ok(Some((at, config))),
                Vectors::FewStep(config) => at = &config.teacher,
                _ => return Ok(None),
            }
        }
        Err(Error::usage(format!("`model.{name}` is made of models that form a circle"))
            .hint("one of them must learn from data: give it an objective without a teacher, and no `start`"))
    }

    /// The network of a model: its own, or its teacher's.
    ///
    /// # Errors
    /// A model that is not there or has no network, or a circle of models (usage).
    pub fn network(&self, name: &str) -> Result<Network<'_>> {
        let mut model = self.model(name)?;
        for _ in 0..=self.model.len() {
            match (&model.network, &model.from, Self::source(model)) {
                (Some(network), ..) => return Ok(Network::Given(network)),
                (None, Some(from), _) => return Ok(Network::From(from)),
                (None, None, Some(source)) => model = self.model(source)?,
                (None, None, None) => {
                    return Err(Error::usage(format!("`model.{name}` has no `network`")).hint(format!(
                        "add a table `[model.{name}.network]`; only a model that starts as another one may leave it out"
                    )));
                }
            }
        }
        Err(Error::usage(format!("`model.{name}` is made of models that form a circle"))
            .hint("one of them must learn from data: give it an objective without a teacher, and no `start`"))
    }

    /// Where the network of a model is written: in its own table, or in that of the teacher whose network it has.
    pub(crate) fn network_place(&self, name: &str) -> String {
        format!("{}.network", self.root_place(name))
    }

    /// The table of the model at the end of a model's line of teachers whose network it has.
    pub(crate) fn root_place(&self, name: &str) -> String {
        let mut at = name;
        for _ in 0..self.model.len() {
            match self.model.get(at) {
                Some(model) if model.network.is_none() && model.from.is_none() => match Self::source(model) {
                    Some(teacher) => at = teacher,
                    None => break,
                },
                _ => break,
            }
        }
        format!("model.{at}")
    }

    /// A model and its teachers, up to the one whose network is described: given in the recipe, or in a checkpoint.
    ///
    /// # Errors
    /// As [`Recipe::network`].
    pub fn lineage(&self, name: &str) -> Result<Vec<&ModelConfig>> {
        self.network(name)?;
        let mut all = vec![self.model(name)?];
        while let Some(last) = all.last().filter(|m| m.network.is_none() && m.from.is_none()) {
            match Self::source(last) {
                Some(source) => all.push(self.model(source)?),
                None => break,
            }
        }
        Ok(all)
    }

    /// Types of a model's network, where it comes from a checkpoint.
    ///
    /// # Errors
    /// As [`Recipe::network`].
    pub fn dtype(&self, name: &str) -> Result<DtypeConfig> {
        Ok(self.lineage(name)?.last().and_then(|m| m.dtype).unwrap_or_default())
    }

    /// How a model of latents is sampled: with the noise of its walk's kind; nothing for models of tokens.
    ///
    /// # Errors
    /// As [`Recipe::latent`] and [`Recipe::network`].
    pub fn latent_process(&self, name: &str) -> Result<Option<LatentProcess>> {
        let Some((_, config)) = self.latent(name)? else { return Ok(None) };
        let vectors = self.model(name)?.objective.facts().vectors;
        let walk = match vectors {
            Vectors::FewStep(c) => match c.method {
                FewStep::Progressive(_) => Walk::Ddim { eta: 0.0 },
                FewStep::Shortcut(_) | FewStep::MeanFlow(_) => Walk::Jump,
                FewStep::Consistency(_) | FewStep::Continuous(_) | FewStep::Matching(_) => Walk::Renoise,
            },
            _ => Walk::Ddim { eta: config.eta },
        };
        // A student's steps are what its teacher's unguided ones are.
        let own = matches!(vectors, Vectors::Latents(_));
        let guidance = if own { config.guidance } else { 1.0 };
        let reads_itself = match self.network(name)? {
            Network::Given(network) => network.vectors.as_ref().is_some_and(|v| v.self_conditioning),
            Network::From(_) => false,
        };
        // A student answers at once, and never learnt to read an estimate.
        let estimates = own && reads_itself && config.self_conditioning > 0.0;
        Ok(Some(LatentProcess { path: config.path, predict: config.predict, walk, estimates, guidance }))
    }

    /// The ways a model is sampled, each with what distinguishes it from the others (nothing where there is one).
    pub fn decodings(model: &ModelConfig) -> Vec<(String, DecodeConfig)> {
        let several = |all: Vec<DecodeConfig>| all.into_iter().map(|d| (d.name(), d)).collect();
        match (&model.decode[..], &model.order) {
            ([], OrderConfig::Mixture(all)) => several(all.iter().cloned().map(DecodeConfig::Order).collect()),
            ([], one) => vec![(String::new(), DecodeConfig::Order(one.clone()))],
            (all, _) => several(all.to_vec()),
        }
    }

    /// What a model is in the study.
    pub fn role(&self, name: &str, model: &ModelConfig) -> Role {
        let facts = model.objective.facts();
        match facts.made {
            Made::Baseline if self.eval.is_judge(name) => Role::Judge,
            Made::Baseline => Role::Ar,
            Made::Codec => Role::Codec,
            Made::Classifier => Role::Classifier,
            // What was made of another model for few steps.
            Made::Teacher if facts.key == "elbo" && Self::source(model).is_some() && model.order.phased() => {
                Role::Student
            }
            Made::Teacher => Role::Teacher,
            Made::Student => Role::Student,
        }
    }

    /// How a model is meant to be sampled: a distilled one in the steps of its last round.
    pub fn generation(&self, model: &ModelConfig) -> Option<Generation> {
        // With fixed phases its order says it, and no other program's settings do.
        let steps = model.objective.facts().steps.filter(|_| !model.order.phased())?;
        Some(Generation { steps, selection: Selection::Random, temperature: 1.0 })
    }

    /// Model names so that each comes after its teacher.
    ///
    /// # Errors
    /// A circle of models (usage).
    pub fn training_order(&self) -> Result<Vec<&str>> {
        let mut done: Vec<&str> = Vec::new();
        while done.len() < self.model.len() {
            let ready = self
                .model
                .iter()
                .find(|(name, m)| !done.contains(&name.as_str()) && Self::parents(m).iter().all(|t| done.contains(t)));
            match ready {
                Some((name, _)) => done.push(name),
                None => {
                    let stuck = self.model.keys().find(|n| !done.contains(&n.as_str())).map_or("", |n| n.as_str());
                    return Err(Error::usage(format!("`model.{stuck}` is made of models that form a circle")).hint(
                        "one of them must learn from data: give it an objective without a teacher, and no `start`",
                    ));
                }
            }
        }
        Ok(done)
    }

    /// How the vocabulary of the checkpoint that a model comes from, itself or through its teachers, fits the data's.
    ///
    /// # Errors
    /// A model that is not there (usage).
    pub fn vocabulary(&self, name: &str) -> Result<Vocabulary> {
        let mut model = self.model(name)?;
        for _ in 0..self.model.len() {
            match Self::source(model) {
                Some(source) if model.from.is_none() => model = self.model(source)?,
                _ => break,
            }
        }
        Ok(model.vocabulary)
    }
}

impl Models for Recipe {
    fn site<'a>(&'a self, name: &'a str) -> Result<Site<'a>> {
        let model = self.model(name)?;
        Ok(Site {
            name,
            method: model.objective.method(),
            order: &model.order,
            train: &model.train,
            own: model.network.as_ref(),
            from: model.from.is_some(),
            derived: model.lora.is_some() || model.keep_layers.is_some(),
            decodes: !model.decode.is_empty(),
            length: self.length(),
            flexibility: self.eval.flexibility.as_ref().map(|f| f.steps),
            models: self,
            // One that has none is told so elsewhere.
            network: self.network(name).ok(),
            network_place: self.network_place(name),
        })
    }
}
