//! Models of a program compared with each other: their samples, likelihoods and costs as results, and a report of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::trainer::{Trained, reads_ahead};
use crate::data::Dataset;
use crate::error::{Error, Kind, Result};
use crate::eval::results::{Environment, ModelResult, Results, Role};
use crate::eval::{self, EvalConfig, Scorer, sampler};
use crate::fs::sha256_hex;
use crate::model::{Denoise, Network, params};
use crate::report;
use crate::sample::decode::walkable;
use crate::sample::{Generator, Process};

/// An evaluation of models that were trained by a [`super::Trainer`].
///
/// Samples are scored by the data, where it knows the likelihood of a sequence, or by a judge: an autoregressive network that was
/// trained on another seed.
pub struct Evaluation<'a> {
    name: String,
    data: &'a dyn Dataset,
    judge: Option<Entry<'a>>,
    config: EvalConfig,
    models: Vec<Entry<'a>>,
}

struct Entry<'a> {
    model: &'a dyn Denoise,
    process: Process,
    causal: bool,
    result: ModelResult,
}

impl<'a> Evaluation<'a> {
    /// An evaluation called `name` on held-out sequences of `data`: 128 samples at 2, 4, 8 and 16 steps.
    pub fn new(name: impl Into<String>, data: &'a dyn Dataset) -> Self {
        let config = EvalConfig { speed_repeats: 3, ..EvalConfig::new(128, 32, vec![2, 4, 8, 16]) };
        Evaluation { name: name.into(), data, judge: None, config, models: Vec::new() }
    }

    /// The network that scores samples of data that does not know their likelihood, trained by [`super::Trainer::ar`] on another
    /// seed. Results hold its name and hash, so that those of different judges are not compared.
    pub fn judge<N: Network>(mut self, name: &str, trained: &'a Trained<N>) -> Self {
        self.judge = Some(entry(name, Role::Judge, None, trained));
        self
    }

    /// Samples of each model at each number of steps.
    pub fn samples(mut self, samples: usize) -> Self {
        self.config.samples = samples;
        self
    }

    /// Numbers of denoising steps, rising.
    pub fn steps(mut self, steps: &[usize]) -> Self {
        self.config.steps = steps.to_vec();
        self
    }

    /// Every other setting, as a recipe has them.
    pub fn config(mut self, change: impl FnOnce(&mut EvalConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Adds the autoregressive baseline.
    pub fn baseline<N: Network>(self, name: &str, trained: &'a Trained<N>) -> Self {
        self.with(name, Role::Ar, None, trained)
    }

    /// Adds a many-step model.
    pub fn teacher<N: Network>(self, name: &str, trained: &'a Trained<N>) -> Self {
        self.with(name, Role::Teacher, None, trained)
    }

    /// Adds a few-step model that learnt from the model called `teacher`.
    pub fn student<N: Network>(self, name: &str, trained: &'a Trained<N>, teacher: &str) -> Self {
        self.with(name, Role::Student, Some(teacher.to_string()), trained)
    }

    fn with<N: Network>(mut self, name: &str, role: Role, teacher: Option<String>, trained: &'a Trained<N>) -> Self {
        self.models.push(entry(name, role, teacher, trained));
        self
    }

    /// Refuses what an evaluation from code does not do.
    fn check(&self) -> Result<()> {
        let c = &self.config;
        let more = !c.temperatures.is_empty()
            || c.flexibility.is_some()
            || c.control.is_some()
            || c.context.is_some()
            || c.second_judge.is_some()
            || c.judge.is_some();
        if more {
            return Err(Error::usage("an evaluation from code has no sweeps, tasks, and judges by name")
                .hint("write a recipe for these"));
        }
        if self.data.end().is_some() {
            return Err(Error::usage("documents are evaluated by a recipe")
                .cause("an evaluation from code scores every position of a sequence"));
        }
        if self.judge.as_ref().is_some_and(|judge| reads_ahead(judge.model, self.data)) {
            return Err(Error::usage("the judge reads the tokens that it is asked for")
                .hint("a judge is an autoregressive network: train it by `ar`"));
        }
        let names: BTreeSet<&str> =
            self.models.iter().chain(&self.judge).map(|entry| entry.result.name.as_str()).collect();
        match names.len() == self.models.len() + usize::from(self.judge.is_some()) {
            true => Ok(()),
            false => Err(Error::usage("two models of an evaluation have one name").hint("give each its own")),
        }
    }

    /// Samples and scores every model.
    ///
    /// # Errors
    /// Settings out of range; data that does not know the likelihood of its sequences, without a judge; a model that cannot be sampled.
    pub fn run(self) -> Result<Results> {
        self.config.validate()?;
        self.check()?;
        let held_out = self.data.held_out(self.config.held_out);
        let known = !held_out.is_empty() && held_out.iter().all(|text| self.data.nll(text).is_some());
        let scorer = match (&self.judge, known) {
            (Some(judge), _) => Scorer::Judge(judge.model),
            (None, true) => Scorer::Exact(self.data),
            (None, false) => {
                return Err(Error::usage("nothing scores the samples")
                    .cause("the data does not say how likely its sequences are")
                    .hint("give the evaluation a judge: an autoregressive network that was trained on another seed"));
            }
        };
        let Some(device) = self.models.first().map(|entry| entry.model.device()) else {
            return Err(
                Error::usage("an evaluation without models").hint("add one: `teacher`, `student` or `baseline`")
            );
        };
        let summary = eval::own_summary(self.data, &scorer, &held_out)?;
        let config = &self.config;
        let judge = self.judge.as_ref().map(|judge| judge.result.clone());
        // As few as they are, they are spread over all that is held out.
        let likely = self.data.held_out(config.sampler.texts.min(config.held_out));
        let one = |entry: Entry| -> Result<ModelResult> {
            let Entry { model, process, causal, mut result } = entry;
            result.likelihood = Some(eval::likelihood(model, causal, &process, &held_out));
            let steps = if causal { vec![process.length] } else { walkable(&process, &config.steps) };
            let generator = Generator::Tokens(model, process.clone());
            let texts = sampler::Texts { tokens: &likely, counted: &sampler::whole, batch: config.batch };
            for k in steps {
                let (mut row, _) = eval::row(&generator, k, config, &scorer, true)?;
                row.sampler_nll = sampler::nll(model, &process, k, texts, config.sampler.partitions)?;
                result.rows.push(row);
            }
            Ok(result)
        };
        let results = Results {
            format: eval::results::FORMAT,
            fewstep: env!("CARGO_PKG_VERSION").into(),
            study: self.name,
            recipe: String::new(),
            recipe_sha256: sha256_hex(b""),
            environment: Environment::of(&device, &format!("{device:?}").to_lowercase()),
            data: summary,
            models: judge.into_iter().map(Ok).chain(self.models.into_iter().map(one)).collect::<Result<_>>()?,
            context: None,
        };
        match results.check() {
            Err(e) if e.kind == Kind::NonFinite && known => {
                Err(e.hint("`Dataset::nll` must be a finite number for every sequence: smooth a language in which some are impossible"))
            }
            checked => checked.map(|()| results),
        }
    }
}

/// A trained network, with what results say of it.
fn entry<'a, N: Network>(name: &str, role: Role, teacher: Option<String>, trained: &'a Trained<N>) -> Entry<'a> {
    let result = ModelResult {
        name: name.to_string(),
        role,
        objective: trained.name.clone(),
        order: trained.order.name(),
        teacher,
        parameters: trained.parameters() as u64,
        weights_sha256: hash(&trained.model),
        seed: trained.seed,
        train_steps: trained.steps as u64,
        train_tokens: trained.tokens,
        train_seconds: trained.seconds,
        train_forwards: 0,
        train_positions: 0,
        codec: None,
        neighbours: None,
        likelihood: None,
        rows: Vec::new(),
        sweep: Vec::new(),
        flexibility: None,
        control: None,
        reconstruction: None,
        by_seed: Vec::new(),
    };
    Entry { model: &trained.model, process: trained.process(), causal: trained.causal, result }
}

/// SHA-256 of a network's parameters by name.
fn hash<N: Network>(model: &N) -> String {
    let mut bytes = Vec::new();
    for (name, tensor) in params::export(model) {
        bytes.extend(name.as_bytes());
        bytes.extend(tensor.data.iter().flat_map(|v| v.to_le_bytes()));
    }
    sha256_hex(&bytes)
}

/// Writes `results.json` and the report of results into `dir`; returns the files of the report.
///
/// # Errors
/// A refused write.
pub fn write_report(results: &Results, dir: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let dir = dir.as_ref();
    let files = report::write(results, dir)?;
    results.save(&dir.join("results.json"))?;
    Ok(files)
}
