//! What a training method is: what is known of it, its checks, how it begins, and its step.
//!
//! The enum `Objective` (mod.rs) is the format of recipes and checkpoints; [`Method`] is what a variant of it does. A method is
//! one file with all of it: settings, ranges, contradictions, its step, what it stores, the paper and its equation.
//! B batch, L length, V vocabulary.

use std::path::Path;
use std::str::FromStr;

use burn::optim::GradientsParams;

use super::embedding_config::EmbeddingConfig;
use super::few_step_config::LatentDistillConfig;
use super::latent_config::LatentConfig;
use super::masked::NoiseRange;
use crate::error::{Error, Result};
use crate::loss::{self, RowLoss};
use crate::model::params::Named;
use crate::model::{Transformer, TransformerConfig};
use crate::optim::TrainConfig;
use crate::process::d3pm::{Matrices, Matrix};
use crate::process::duality::Ends;
use crate::process::order::OrderConfig;
use crate::process::{Corruption, Order, Schedule};
use crate::rng::{Generators, StepRng, Stream};

/// What comes of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// A model that writes from left to right.
    Baseline,
    /// A many-step model.
    Teacher,
    /// A few-step model.
    Student,
    /// An autoencoder.
    Codec,
    /// A classifier of noisy embeddings.
    Classifier,
}

/// What others need to know of a method.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// Its name in results, and its key in a recipe.
    pub name: &'static str,
    pub key: &'static str,
    /// The name of the logged loss term.
    pub term: &'static str,
    pub made: Made,
    /// Forward passes of a denoiser, or of an autoencoder, over one sequence that a training sequence takes: its own, and those of
    /// its teacher. Reading the latents of a text is not among them.
    pub passes: f64,
    /// Whether a pass reads the finished text beside the noise where the order has any.
    pub beside: Beside,
    /// The model that it learns from, with the key that names it.
    pub teacher: Option<(&'a str, &'static str)>,
    /// Another model that must be there: the autoencoder of latents, the diffusion that is classified, the owner of an embedding.
    pub parent: Option<&'a str>,
    /// Whether its teacher is replaced from round to round.
    pub rounds: bool,
    /// The steps that it is meant to be sampled in.
    pub steps: Option<usize>,
    /// The noise on its tokens, where tokens are noised.
    pub corruption: Corruption,
    pub schedule: Schedule,
    /// The ends of the Gaussian process that it draws from, if it does.
    pub ends: Option<Ends>,
    /// Its chain of transition matrices.
    pub chain: Option<Chain<'a>>,
    /// Whether the positions of a step share their uniforms.
    pub shared: bool,
    /// Its network gives scores, which are scaled by the noise or not.
    pub scores: Option<bool>,
    /// What it is in the space of vectors.
    pub vectors: Vectors<'a>,
}

/// When a pass in training reads the finished text beside the noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    Never,
    /// In blocks, and not in fixed phases.
    Blocks,
    Always,
}

/// A chain of transition matrices.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a> {
    pub matrix: &'a Matrix,
    /// T
    pub levels: usize,
    pub schedule: Schedule,
}

/// What of a model is vectors.
#[derive(Debug, Clone, Copy)]
pub enum Vectors<'a> {
    /// Nothing: it denoises tokens.
    None,
    /// It is an autoencoder.
    Codec,
    /// It denoises the latents of one.
    Latents(&'a LatentConfig),
    /// It does so in few steps.
    FewStep(&'a LatentDistillConfig),
    /// It denoises token embeddings.
    Embeddings(&'a EmbeddingConfig),
    /// It classifies such noisy embeddings.
    Classified,
}

impl Facts<'_> {
    /// A diffusion of tokens that learns from data, under masks; others say in what they differ.
    pub fn of_tokens(name: &'static str, term: &'static str) -> Self {
        Facts {
            name,
            key: name,
            term,
            made: Made::Teacher,
            passes: 1.0,
            beside: Beside::Never,
            teacher: None,
            parent: None,
            rounds: false,
            steps: None,
            corruption: Corruption::Absorb,
            schedule: Schedule::LogLinear,
            ends: None,
            chain: None,
            shared: false,
            scores: None,
            vectors: Vectors::None,
        }
    }

    /// Whether its noise is on tokens, and not on vectors.
    pub fn on_tokens(&self) -> bool {
        matches!(self.vectors, Vectors::None)
    }

    /// Whether it writes from left to right.
    pub fn causal(&self) -> bool {
        self.made == Made::Baseline
    }
}

/// A training method, as the variants of `Objective` are.
pub trait Method {
    /// What others need to know of it.
    fn facts(&self) -> Facts<'_>;
    /// Checks its own ranges, and what it says of other models.
    ///
    /// # Errors
    /// A setting out of range, or one that contradicts another model (usage).
    fn check(&self, at: &Site) -> Result<()>;
    /// Checks that it can train this network.
    ///
    /// # Errors
    /// A network that it cannot train (usage).
    fn fits(&self, at: &Site, network: &TransformerConfig) -> Result<()>;
    /// Prepares a training.
    ///
    /// # Errors
    /// Something that it needs and that is not there.
    fn begin<'a>(&'a self, ground: &Ground<'a>) -> Result<Box<dyn Training + 'a>>;
}

/// A training under way.
pub trait Training {
    /// Value and gradients of one part of a step.
    ///
    /// # Errors
    /// Predictions that are not a distribution (non-finite).
    fn step(&self, nets: &Nets, batch: &Batch) -> Result<(f64, GradientsParams)>;
    /// What a training that begins keeps of the new network.
    fn start(&mut self, _model: &Transformer) {}
    /// What is due before a step: a new teacher, a new range of noise, a critic's own steps.
    ///
    /// # Errors
    /// Those of what is due.
    fn due(&mut self, _nets: &Nets) -> Result<()> {
        Ok(())
    }
    /// The round under way, of a training that is logged by rounds.
    fn round(&self) -> Option<usize> {
        None
    }
    /// What a checkpoint keeps of it.
    fn save(&self) -> Kept {
        Kept::default()
    }
    /// Takes up what a checkpoint kept.
    ///
    /// # Errors
    /// A checkpoint that lacks something (input).
    fn load(&mut self, _from: &Parts) -> Result<()> {
        Ok(())
    }
}

/// The network in training, and where it is.
pub struct Nets<'a> {
    /// On an autodiff device.
    pub model: &'a Transformer,
    /// The moving average of its weights, on a plain device, where it is kept.
    pub average: &'a dyn Fn() -> Option<Transformer>,
    /// This step of all.
    pub step: usize,
    pub config: &'a TrainConfig,
    /// Tokens [B L] of a part of the data.
    pub draw: &'a dyn Fn(u64) -> Vec<u32>,
    /// The error of a loss and a gradient norm that are not finite.
    pub non_finite: &'a dyn Fn(f64, f64) -> Error,
}

/// The data of one part of a step, and its draws.
pub struct Batch {
    /// [B L]
    pub x0: Vec<u32>,
    pub length: usize,
    /// The order that this part is in.
    pub order: Order,
    pub rng: StepRng,
    pub part: u64,
}

impl Batch {
    /// The generators of its times and of its noise.
    pub fn draws(&self) -> (impl rand::Rng + use<>, impl rand::Rng + use<>) {
        let rng = self.generators();
        (rng.at(Stream::Times), rng.at(Stream::Corrupt))
    }

    /// Its generators by stream.
    pub fn generators(&self) -> Generators {
        self.rng.of_step(self.part)
    }
}

/// What a training stands on.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// Its name, for errors.
    pub name: &'a str,
    pub length: usize,
    pub vocab: usize,
    /// The id of the mask.
    pub mask: u32,
    pub seed: u64,
    /// The orders it is trained over, one of them a step.
    pub orders: &'a [Order],
    /// Where tables are kept that take long to make; none: nowhere.
    pub dir: Option<&'a Path>,
    pub parents: Parents<'a>,
}

/// The other networks of a training, on a plain device.
#[derive(Clone, Copy, Default)]
pub struct Parents<'a> {
    /// The first round's teacher, where it is not the network that the training starts with; checkpoints do not hold it.
    pub teacher: Option<&'a Transformer>,
    /// The orders that the teacher was trained over; later ones are the student so far.
    pub orders: &'a [Order],
    /// The autoencoder, and the diffusion at the end of the line of teachers.
    pub latent: Option<(&'a Transformer, &'a LatentConfig)>,
    /// The diffusion of embeddings that a classifier is of.
    pub classified: Option<(&'a Transformer, &'a EmbeddingConfig)>,
    /// The transition matrices of a chain.
    pub matrices: Option<&'a Matrices>,
}

impl Ground<'_> {
    /// The error of a method that lacks `what`.
    pub fn lacks(&self, what: &str) -> Error {
        Error::usage(format!("`{}` cannot be trained without {what}", self.name))
            .hint("train it by a recipe that names it, or hand it over in `Parents`")
    }
}

/// What a checkpoint keeps beside the network, its average and its moments.
#[derive(Default)]
pub struct Kept {
    pub round: usize,
    /// None: the one that a training begins with.
    pub range: Option<NoiseRange>,
    /// Networks by their file's name, with the moments of one that is trained too.
    pub networks: Vec<(&'static str, Transformer, Option<Named>)>,
}

/// A network that is trained beside the model, with its moments.
pub type Trained = (Transformer, Named);

/// What a checkpoint kept, to be read.
pub struct Parts<'a> {
    pub round: usize,
    pub range: Option<NoiseRange>,
    /// A network by its file's name, on a plain device; none where it was not kept.
    pub network: &'a dyn Fn(&str) -> Result<Option<Transformer>>,
    /// One that is trained, on an autodiff device, with its moments.
    pub trained: &'a dyn Fn(&str) -> Result<Option<Trained>>,
}

impl Parts<'_> {
    /// The error of a part that is missing.
    pub fn missing(&self) -> Error {
        Error::input("the average, the teacher or the critic is missing")
    }
}

/// A training whose steps are rows of a batch, with nothing kept.
pub struct FromRows<F>(pub F);

impl<F: Fn(&Batch) -> Result<RowLoss>> Training for FromRows<F> {
    fn step(&self, nets: &Nets, batch: &Batch) -> Result<(f64, GradientsParams)> {
        Ok(loss::backward(nets.model, &(self.0)(batch)?))
    }
}

/// A training with nothing kept.
pub struct FromStep<F>(pub F);

impl<F: Fn(&Nets, &Batch) -> Result<(f64, GradientsParams)>> Training for FromStep<F> {
    fn step(&self, nets: &Nets, batch: &Batch) -> Result<(f64, GradientsParams)> {
        (self.0)(nets, batch)
    }
}

/// Where a model's network is described.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Network<'a> {
    /// In the recipe.
    Given(&'a TransformerConfig),
    /// In a directory with a public checkpoint, its own or its teacher's.
    From(&'a Path),
}

/// The models of a recipe.
pub trait Models {
    /// The model called `name`.
    ///
    /// # Errors
    /// A name that is not known (usage).
    fn site<'a>(&'a self, name: &'a str) -> Result<Site<'a>>;
}

/// A model of a recipe, as its method's checks see it.
#[derive(Clone)]
pub struct Site<'a> {
    pub name: &'a str,
    pub method: &'a dyn Method,
    pub order: &'a OrderConfig,
    pub train: &'a TrainConfig,
    /// Its own table, where it has one.
    pub own: Option<&'a TransformerConfig>,
    /// Whether it has a table of its own, a checkpoint, adapters or kept blocks, and ways of sampling.
    pub from: bool,
    pub derived: bool,
    pub decodes: bool,
    /// Tokens of a sequence, where the recipe says it.
    pub length: Option<usize>,
    /// Steps of `eval.flexibility`, where the recipe has it.
    pub flexibility: Option<usize>,
    pub models: &'a dyn Models,
    /// The network's description; nothing where a model has none.
    pub network: Option<Network<'a>>,
    /// The key of its network, in its own table or in that of the model whose network it has.
    pub network_place: String,
}

impl<'a> Site<'a> {
    /// The key `k` of the model.
    pub fn key(&self, k: &str) -> String {
        format!("model.{}.{k}", self.name)
    }

    /// The key `k` of its objective's table.
    pub fn at(&self, k: &str) -> String {
        format!("model.{}.objective.{}.{k}", self.name, self.method.facts().key)
    }

    /// The key `k` of its network.
    pub fn net(&self, k: &str) -> String {
        format!("{}.{k}", self.network_place)
    }

    /// The model that the key `at` calls `name`.
    ///
    /// # Errors
    /// A name that is not known (usage), with the key in front.
    pub fn other(&self, at: &str, name: &'a str) -> Result<Site<'a>> {
        self.models.site(name).map_err(|e| Error { message: format!("`{at}`: {}", e.message), ..e })
    }

    /// Checks that it has the network of `teacher`, whose weights it starts with.
    ///
    /// # Errors
    /// A network that differs from the teacher's (usage).
    pub fn has_network_of(&self, teacher: &Site) -> Result<()> {
        match self.network == teacher.network {
            true => Ok(()),
            false => {
                Err(Error::usage(format!("`{}` differs from `model.{}.network`", self.key("network"), teacher.name))
                    .hint("a student starts from its teacher's weights: leave its `network` out"))
            }
        }
    }

    /// Checks that its noise has the schedule of its teacher's.
    ///
    /// # Errors
    /// Another schedule than the teacher's (usage).
    pub fn has_schedule_of(&self, teacher: &Site) -> Result<()> {
        let theirs = teacher.method.facts().schedule;
        match self.method.facts().schedule == theirs {
            true => Ok(()),
            false => Err(Error::usage(format!(
                "`{}` and `model.{}.objective` have different noise schedules",
                self.at("schedule"),
                teacher.name
            ))
            .hint(format!("`{} = \"{}\"`", self.at("schedule"), theirs.name()))),
        }
    }

    /// Checks that each round of a distillation, named by the key `at`, has a step of training.
    ///
    /// # Errors
    /// More rounds than steps (usage).
    pub fn has_rounds(&self, at: &str, rounds: usize) -> Result<()> {
        let steps = self.train.steps;
        match rounds > steps {
            true => {
                Err(Error::usage(format!("`{at} = {rounds}` are more than `{} = {steps}`", self.key("train.steps")))
                    .cause("each round is trained for some of the steps")
                    .hint(format!("`{} = {rounds}` at least", self.key("train.steps"))))
            }
            false => Ok(()),
        }
    }
}

/// Two keys that contradict each other; where what is wanted is a value, the hint sets it.
pub fn contradiction(key: &str, has: &str, other: &str, wants: &str) -> Error {
    let error = Error::usage(format!("`{key} = {has}` needs `{other} = {wants}`"));
    let first = wants.split(" or ").next().unwrap_or(wants);
    match toml::Table::from_str(&format!("x = {first}")).is_ok() {
        true => error.hint(format!("`{other} = {first}`")),
        false => error,
    }
}
