//! `results.json`: everything a report or a gate needs, and enough to recompute each number: the recipe's text and hash,
//! versions, device, data, weights' hashes, seeds, and the score of every single sample.
//!
//! Sample i of a row has the same seed in every row with the same `seed` and `n`, so comparisons can be paired. The file
//! is a pure function of its content: object keys in a fixed order, shortest exact decimal numbers, no date, no path. Its
//! last key is its own hash (`fs::seal`); files of fewstep 0.1.0 have none.

use super::context::ContextPoint;
use super::control::Control;
use super::flexibility::Flexibility;
pub use super::metric::{DataKind, Direction, Metric};
use super::sampler::SamplerNll;
pub use super::stats::Bound;
use super::stats::{Estimate, Spread};
use crate::data::picture::{Pictures, PicturesConfig};
use crate::error::{Error, Kind, Result};
use crate::fs::{Sealed, create_dir, read_unpacked, seal, sha256_hex, unseal, write_atomic};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::error::Category;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

mod agree;
#[cfg(test)]
pub mod fixture;

/// The version of the file's layout that this crate writes and reads.
pub const FORMAT: u32 = 1;

/// One evaluated study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// Layout version, [`FORMAT`].
    pub format: u32,
    /// Version of this crate.
    pub fewstep: String,
    pub study: String,
    /// The resolved recipe, as TOML text.
    pub recipe: String,
    /// SHA-256 of `recipe`, lower-case hexadecimal.
    pub recipe_sha256: String,
    pub environment: Environment,
    pub data: DataSummary,
    pub models: Vec<ModelResult>,
    /// Cost against length, measured by the bench `context`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Vec<ContextPoint>>,
}

/// What the numbers were computed with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    pub burn: String,
    pub rustc: String,
    pub device: String,
    pub threads: usize,
    pub dtype: String,
    pub os: String,
    /// Processor features in use, as free text.
    pub cpu_features: String,
}

impl Environment {
    /// That of this process, on a device called `name`.
    pub fn of(device: &burn::prelude::Device, name: &str) -> Self {
        Environment {
            burn: env!("FEWSTEP_BURN").into(),
            rustc: env!("FEWSTEP_RUSTC").into(),
            device: name.to_string(),
            threads: rayon::current_num_threads(),
            dtype: super::device_dtype(device),
            os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            cpu_features: cpu_features(),
        }
    }
}

fn cpu_features() -> String {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        for (name, there) in [
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ] {
            if there {
                found.push(name);
            }
        }
    }
    found.join(" ")
}

/// The data and what real data scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSummary {
    pub kind: DataKind,
    /// The size of the picture task, of which examples are drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pictures: Option<PicturesConfig>,
    /// Vocabulary size.
    pub vocab: usize,
    /// Tokens per sample.
    pub length: usize,
    pub sha256: String,
    /// SHA-256 of the tokenizer; files from before it was recorded have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_sha256: Option<String>,
    /// Unigram entropy of single held-out windows, nats.
    pub entropy: Estimate,
    /// Held-out windows behind `entropy` and `reference`.
    pub n_reference: usize,
    /// Entropy rate of the language, nats per token; known for the built-in languages only.
    pub entropy_rate: Option<f64>,
    /// Score key of the negative log-likelihood: `oracle_nll`, `judge_nll` or `judge_nll_per_character`.
    pub nll_name: String,
    /// What held-out data scores on each metric.
    pub reference: IndexMap<String, Estimate>,
    /// Scores of the held-out data as a set; comparable with rows of as many samples, but for the likelihood of what is no
    /// copy, which is a mean.
    pub corpus: IndexMap<String, f64>,
}

/// What a model is in a study.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The autoregressive baseline.
    Ar,
    /// The many-step model that students are distilled from.
    Teacher,
    /// A few-step model.
    Student,
    /// The exact posterior of the story language: what parallel decoding alone costs.
    Oracle,
    /// The model that scores samples of text data.
    Judge,
    /// The autoencoder whose latents are diffused.
    Codec,
    /// A classifier of noisy embeddings, which generates nothing.
    Classifier,
}

/// One model with its rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelResult {
    pub name: String,
    pub role: Role,
    pub objective: String,
    /// The order it is sampled in, or the rule, in words; files from before there were several have none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub order: String,
    /// Name of the teacher that it was distilled from.
    pub teacher: Option<String>,
    /// Number of weights.
    pub parameters: u64,
    /// SHA-256 of the canonical export of the weights.
    pub weights_sha256: String,
    /// Training seed.
    pub seed: u64,
    pub train_steps: u64,
    pub train_tokens: u64,
    pub train_seconds: f64,
    /// Forward passes over one sequence that training took, those of a teacher among them; files from before it was counted
    /// have 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub train_forwards: u64,
    /// Positions computed in those passes; files from before they were counted have none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub train_positions: u64,
    /// Name of the autoencoder whose latents it denoises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<String>,
    /// The model whose embedding says what is near to what in its noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neighbours: Option<String>,
    pub likelihood: Option<Likelihood>,
    /// Sampled at temperature 1.
    pub rows: Vec<Row>,
    /// Sampled at other temperatures, for comparisons at equal entropy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sweep: Vec<SweepRow>,
    /// Infilling and recovery, where `eval.flexibility` asks for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flexibility: Option<Flexibility>,
    /// Generation under conditions, where `eval.control` asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
    /// How well an autoencoder gives back the text that it read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconstruction: Option<Reconstruction>,
    /// The same model trained with each seed of the study, where it has several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_seed: Vec<SeedModel>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What one training seed made of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedModel {
    /// The study's seed, of which the model's own follows.
    pub seed: u64,
    pub weights_sha256: String,
    pub train_seconds: f64,
    /// Mean of the likelihood of held-out data, nats per token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub likelihood: Option<f64>,
}

/// An autoencoder on held-out texts: text to latents, noise on them, and back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reconstruction {
    /// Tokens per latent, L / latents.
    pub compression: f64,
    /// Numbers in a latent.
    pub width: usize,
    /// Texts.
    pub n: usize,
    /// By rising noise.
    pub points: Vec<ReconstructionPoint>,
}

/// Reconstruction at one noise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconstructionPoint {
    /// Standard deviation of the noise that is added to latents of unit variance.
    pub sigma: f64,
    /// Share of tokens that come back, the mean over texts.
    pub accuracy: Estimate,
    /// Share of texts that come back whole.
    pub exact: Estimate,
}

/// The model's own likelihood of held-out data, nats per token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Likelihood {
    pub estimate: Estimate,
    pub kind: Bound,
    /// Held-out windows.
    pub n: usize,
}

/// One model sampled with one number of steps; an autoregressive model has steps = L.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub steps: usize,
    /// Mean network evaluations per sample.
    pub nfe: f64,
    /// Mean positions computed per sample.
    pub positions: f64,
    /// Mean positions computed times the layers each of them passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_positions: Option<f64>,
    /// Those of `positions` that a decoder computes, which makes text of latents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode_positions: Option<f64>,
    /// Steps that a block takes, where steps are shared by blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps_per_block: Option<f64>,
    /// Samples.
    pub n: usize,
    /// Sampling seed; sample i draws from (seed, i).
    pub seed: u64,
    /// Mean and interval of each score, by score key.
    pub scores: IndexMap<String, Estimate>,
    /// The score of each sample `[n]`, by score key.
    pub samples: IndexMap<String, Vec<f64>>,
    /// Scores of the whole set of samples.
    pub corpus: IndexMap<String, f64>,
    pub speed: Option<Speed>,
    /// The sampler's own likelihood of held-out text, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampler_nll: Option<SamplerNll>,
    /// Token ids of the first samples, where a report draws them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<Vec<u32>>,
    /// What each training seed scores, where the study has several; samples are then seed after seed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_seed: Vec<SeedRow>,
}

/// The part of a row that one training seed gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedRow {
    /// The study's training seed.
    pub seed: u64,
    /// Its sampling seed: other samples for every training seed, the same for every model of one.
    pub sampling: u64,
    /// Samples.
    pub n: usize,
    /// The mean of each score, by score key.
    pub scores: IndexMap<String, f64>,
}

/// One model sampled with one number of steps at a temperature other than 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepRow {
    pub steps: usize,
    pub temperature: f64,
    /// Samples.
    pub n: usize,
    /// Sampling seed; sample i draws from (seed, i), as in the row at temperature 1.
    pub seed: u64,
    /// Mean and interval of the likelihood and entropy scores.
    pub scores: IndexMap<String, Estimate>,
    /// The score of each sample `[n]`, by score key.
    pub samples: IndexMap<String, Vec<f64>>,
}

/// Measured time of sampling.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speed {
    /// Batch size of the throughput measurement.
    pub batch: usize,
    /// Milliseconds for one whole sample at batch 1.
    pub latency_ms: Spread,
    pub seconds_per_1k_tokens: Spread,
    /// Tokens per second at `batch`.
    pub tokens_per_s: f64,
}

/// Bytes of the longest file that is read; the largest of the committed reports has five million.
const MAX_FILE: u64 = 16 << 30;

impl Results {
    /// The results file of a directory: results.json, or where there is none results.json.gz.
    pub fn file_in(dir: &Path) -> PathBuf {
        let (plain, packed) = (dir.join("results.json"), dir.join("results.json.gz"));
        if !plain.exists() && packed.exists() { packed } else { plain }
    }

    /// Reads and checks a file, packed by gzip or not.
    ///
    /// # Errors
    /// A file that is missing or has a fault, with the place (input); I/O.
    pub fn load(path: &Path) -> Result<Self> {
        let place = path.display();
        if !path.exists() {
            return Err(Error::input(format!("no results at {place}"))
                .hint("`fewstep run <recipe.toml>` evaluates a study and writes its results.json"));
        }
        let bytes = read_unpacked(path, MAX_FILE)?;
        let text = str::from_utf8(&bytes)
            .map_err(|e| Error::input(format!("{place}: not UTF-8 text at byte {}", e.valid_up_to())))?;
        Self::parse(text).map_err(|e| Error { message: format!("{place}{}", e.message), ..e })
    }

    /// The results in `text`.
    ///
    /// # Errors
    /// Text of another version, text that was changed after it was written, or that does not agree with itself (input). The
    /// message is what follows the file's name.
    pub fn parse(text: &str) -> Result<Self> {
        /// The only field that every version of the file has.
        #[derive(Deserialize)]
        struct Head {
            format: Option<serde_json::Value>,
            sha256: Option<serde_json::Value>,
        }
        let head: Head = serde_json::from_str(text).map_err(|e| explain(&e))?;
        match head.format {
            Some(v) if v.as_u64() == Some(u64::from(FORMAT)) => {}
            Some(v) => {
                return Err(Error::input(format!(": format is `{v}`, this version reads `{FORMAT}`"))
                    .hint("evaluate the study again with this version, or use the version that wrote the file"));
            }
            None => return Err(Error::input(": no key `format`, so this is not a results file")),
        }
        let edited = |why: &str| {
            Err(Error::input(": the file was changed after it was written").cause(why).hint(
                "evaluate the study again (`fewstep eval RUN`); of a change that is meant, delete the key `sha256` at the end",
            ))
        };
        let body = match (unseal(text), head.sha256) {
            (Sealed::Whole(body), _) => Some(body),
            (Sealed::Broken, _) => return edited("its own sha256 differs"),
            (Sealed::Without, Some(_)) => {
                return edited("another program has written it anew: `sha256` is not its last line");
            }
            // Of a version that stored none.
            (Sealed::Without, None) => None,
        };
        let results: Results = serde_json::from_str(body.as_deref().unwrap_or(text)).map_err(|e| explain(&e))?;
        results.check().map_err(|e| Error { message: format!(": {}", e.message), ..e })?;
        Ok(results)
    }

    /// Writes the file whole or not at all, packed where its name ends in `.gz`.
    ///
    /// # Errors
    /// As [`Results::check`]; a refused write (I/O).
    pub fn save(&self, path: &Path) -> Result<()> {
        self.check()?;
        if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            create_dir(dir)?;
        }
        let text = self.to_json()?;
        match path.extension().is_some_and(|e| e == "gz") {
            true => write_atomic(path, &crate::fs::packed(text.as_bytes())?),
            false => write_atomic(path, text.as_bytes()),
        }
    }

    /// The file's text: indented objects, arrays of numbers on one line, its own hash, a final newline.
    ///
    /// # Errors
    /// Results that cannot be written as JSON (non-finite).
    pub fn to_json(&self) -> Result<String> {
        let mut bytes = Vec::new();
        let mut writer = serde_json::Serializer::with_formatter(&mut bytes, Layout::default());
        let failed = |e: String| Error::new(Kind::NonFinite, "results cannot be written as JSON").cause(e);
        self.serialize(&mut writer).map_err(|e| failed(e.to_string()))?;
        String::from_utf8(bytes).map(|text| seal(&text)).map_err(|e| failed(e.to_string()))
    }

    /// What types alone cannot hold: hash of the recipe, unique names, one score per sample, finite numbers.
    ///
    /// # Errors
    /// One of these that does not hold (input); a number that is not finite (non-finite).
    pub fn check(&self) -> Result<()> {
        if self.recipe_sha256 != sha256_hex(self.recipe.as_bytes()) {
            return Err(Error::input("`recipe_sha256` is not the hash of `recipe`, so the file was edited"));
        }
        self.check_pictures()?;
        let mut names = HashSet::new();
        for model in &self.models {
            let name = &model.name;
            if !names.insert(name) {
                return Err(Error::input(format!("model `{name}` occurs twice")));
            }
            let mut steps = HashSet::new();
            for row in &model.rows {
                let place = format!("model `{name}`, steps {}", row.steps);
                if !steps.insert(row.steps) {
                    return Err(Error::input(format!("{place}: the row occurs twice")));
                }
                if let Some((key, scores)) = row.samples.iter().find(|(_, s)| s.len() != row.n) {
                    let count = scores.len();
                    return Err(Error::input(format!("{place}: n is {}, but `{key}` has {count} scores", row.n)));
                }
                let shared = |n: usize| {
                    n > 0 && (row.by_seed.is_empty() || !model.varies() || n.is_multiple_of(row.by_seed.len()))
                };
                if let Some(own) = row.sampler_nll.as_ref().filter(|own| own.texts.len() != own.n || !shared(own.n)) {
                    let (n, count) = (own.n, own.texts.len());
                    return Err(Error::input(format!("{place}: `sampler_nll` has n = {n}, and {count} texts")));
                }
                let seeds = row.by_seed.iter().map(|s| s.seed).collect::<Vec<_>>();
                let parts = row.by_seed.iter().map(|s| s.n).sum::<usize>();
                if !seeds.is_empty() && (parts != row.n || seeds != model.seeds()) {
                    return Err(Error::input(format!(
                        "{place}: `by_seed` does not divide the samples by training seed"
                    )));
                }
            }
            for (task, found) in model.flexibility.iter().flat_map(Flexibility::tasks) {
                if let Some((key, scores)) = found.samples.iter().find(|(_, s)| s.len() != found.n) {
                    let (n, count) = (found.n, scores.len());
                    return Err(Error::input(format!(
                        "model `{name}`, {task}: n is {n}, but `{key}` has {count} scores"
                    )));
                }
            }
            for row in model.control.iter().flat_map(|c| &c.rows) {
                if let Some((key, scores)) = row.samples.iter().find(|(_, s)| s.len() != row.n) {
                    let (n, count) = (row.n, scores.len());
                    let place = format!("model `{name}`, control in {} steps", row.steps);
                    return Err(Error::input(format!("{place}: n is {n}, but `{key}` has {count} scores")));
                }
            }
            let mut swept = HashSet::new();
            for row in &model.sweep {
                let place = format!("model `{name}`, steps {}, temperature {}", row.steps, row.temperature);
                if !swept.insert((row.steps, row.temperature.to_bits())) {
                    return Err(Error::input(format!("{place}: the row occurs twice")));
                }
                if let Some((key, scores)) = row.samples.iter().find(|(_, s)| s.len() != row.n) {
                    let count = scores.len();
                    return Err(Error::input(format!("{place}: n is {}, but `{key}` has {count} scores", row.n)));
                }
            }
        }
        agree::check(self)?;
        match self.not_finite() {
            Some(place) => Err(Error::new(Kind::NonFinite, format!("{place} is not finite"))),
            None => Ok(()),
        }
    }

    /// That pictures can be drawn: a task of a known size, and whole sequences of its tokens.
    fn check_pictures(&self) -> Result<()> {
        let data = &self.data;
        if (data.kind == DataKind::Pictures) != data.pictures.is_some() {
            return Err(Error::input("`data.pictures` does not go with `data.kind`"));
        }
        let task = data.pictures.as_ref().map(Pictures::new).transpose();
        let task = task.map_err(|e| Error::input(format!("the data: {}", e.message)))?;
        for (model, row) in self.models.iter().flat_map(|m| m.rows.iter().map(move |r| (m, r))) {
            let whole = |e: &Vec<u32>| task.as_ref().is_some_and(|task| e.len() == task.shape().length());
            if !row.examples.iter().all(whole) {
                let place = format!("model `{}`, steps {}", model.name, row.steps);
                return Err(Error::input(format!("{place}: `examples` are not sequences of the data")));
            }
        }
        Ok(())
    }

    /// The place of the first number that JSON could not hold.
    fn not_finite(&self) -> Option<String> {
        let bad = |e: &Estimate| !e.is_finite();
        let bad_spread = |s: &Spread| !(s.median.is_finite() && s.q1.is_finite() && s.q3.is_finite());
        let data = &self.data;
        if bad(&data.entropy) || data.entropy_rate.is_some_and(|x| !x.is_finite()) {
            return Some("the data's entropy".into());
        }
        if let Some((key, _)) = data.reference.iter().find(|(_, e)| bad(e)) {
            return Some(format!("the data's `{key}`"));
        }
        for m in &self.models {
            if !m.train_seconds.is_finite() || m.likelihood.is_some_and(|l| bad(&l.estimate)) {
                return Some(format!("model `{}`: likelihood or training time", m.name));
            }
            for r in &m.rows {
                let score = r.scores.iter().find(|(_, e)| bad(e)).map(|(k, _)| k.as_str());
                let sample = r.samples.iter().find(|(_, s)| s.iter().any(|x| !x.is_finite())).map(|(k, _)| k.as_str());
                let corpus = r.corpus.iter().find(|(_, x)| !x.is_finite()).map(|(k, _)| k.as_str());
                let costs = [Some(r.nfe), Some(r.positions), r.layer_positions, r.decode_positions];
                let cost = costs.into_iter().flatten().any(|x| !x.is_finite()).then_some("nfe");
                let seed = r.by_seed.iter().flat_map(|s| &s.scores).find(|(_, x)| !x.is_finite());
                let score = score.or(seed.map(|(k, _)| k.as_str()));
                let speed = r
                    .speed
                    .is_some_and(|s| {
                        bad_spread(&s.latency_ms) || bad_spread(&s.seconds_per_1k_tokens) || !s.tokens_per_s.is_finite()
                    })
                    .then_some("speed");
                let own = r
                    .sampler_nll
                    .as_ref()
                    .filter(|s| bad(&s.estimate) || s.texts.iter().chain(&s.spread).any(|x| !x.is_finite()));
                let own = own.map(|_| "sampler_nll");
                if let Some(key) = score.or(sample).or(corpus).or(cost).or(speed).or(own) {
                    return Some(format!("model `{}`, steps {}: `{key}`", m.name, r.steps));
                }
            }
            let points = m.reconstruction.iter().flat_map(|r| &r.points);
            if points.clone().any(|p| !p.sigma.is_finite() || bad(&p.accuracy) || bad(&p.exact)) {
                return Some(format!("model `{}`: reconstruction", m.name));
            }
            if m.by_seed.iter().any(|s| !s.train_seconds.is_finite() || s.likelihood.is_some_and(|x| !x.is_finite())) {
                return Some(format!("model `{}`: likelihood or training time of a seed", m.name));
            }
            for (task, found) in m.flexibility.iter().flat_map(Flexibility::tasks) {
                let score = found.scores.iter().find(|(_, e)| bad(e)).map(|(k, _)| k.as_str());
                let sample = found.samples.iter().find(|(_, s)| s.iter().any(|x| !x.is_finite()));
                let nfe = (!found.nfe.is_finite()).then_some("nfe");
                if let Some(key) = score.or(sample.map(|(k, _)| k.as_str())).or(nfe) {
                    return Some(format!("model `{}`, {task}: `{key}`", m.name));
                }
            }
            for r in m.control.iter().flat_map(|c| &c.rows) {
                let score = r.scores.iter().find(|(_, e)| bad(e)).map(|(k, _)| k.as_str());
                let sample = r.samples.iter().find(|(_, s)| s.iter().any(|x| !x.is_finite()));
                let nfe = (!r.nfe.is_finite()).then_some("nfe");
                if let Some(key) = score.or(sample.map(|(k, _)| k.as_str())).or(nfe) {
                    return Some(format!("model `{}`, control in {} steps: `{key}`", m.name, r.steps));
                }
            }
            for r in &m.sweep {
                let score = r.scores.iter().find(|(_, e)| bad(e)).map(|(k, _)| k.as_str());
                let sample = r.samples.iter().find(|(_, s)| s.iter().any(|x| !x.is_finite())).map(|(k, _)| k.as_str());
                if let Some(key) = score.or(sample).or((!r.temperature.is_finite()).then_some("temperature")) {
                    return Some(format!(
                        "model `{}`, steps {}, temperature {}: `{key}`",
                        m.name, r.steps, r.temperature
                    ));
                }
            }
        }
        let points = self.context.iter().flatten();
        points.filter(|p| bad_spread(&p.seconds_per_token)).map(|p| format!("context, length {}", p.length)).next()
    }

    /// The model of that name.
    pub fn model(&self, name: &str) -> Option<&ModelResult> {
        self.models.iter().find(|m| m.name == name)
    }

    /// The training seeds of a study that has several; else none.
    pub fn seeds(&self) -> Vec<u64> {
        self.models.iter().map(ModelResult::seeds).find(|s| !s.is_empty()).unwrap_or_default()
    }

    /// The mean and interval of `metric` in `row`; None for metrics of time and for absent scores.
    pub fn score(&self, row: &Row, metric: Metric) -> Option<Estimate> {
        if metric == Metric::SamplerNll {
            return row.sampler_nll.as_ref().map(|s| s.estimate);
        }
        row.scores.get(metric.key(&self.data.nll_name)).copied()
    }
}

impl ModelResult {
    /// The row with that number of steps.
    pub fn row(&self, steps: usize) -> Option<&Row> {
        self.rows.iter().find(|r| r.steps == steps)
    }
    /// The row with the most steps.
    pub fn full(&self) -> Option<&Row> {
        self.rows.iter().max_by_key(|r| r.steps)
    }
    /// The training seeds of a study that has several; else none.
    pub fn seeds(&self) -> Vec<u64> {
        self.by_seed.iter().map(|s| s.seed).collect()
    }
    /// Whether seeds gave it different weights: only then is there a spread over seeds.
    pub fn varies(&self) -> bool {
        self.by_seed.windows(2).any(|p| p[0].weights_sha256 != p[1].weights_sha256)
    }
    /// Held-out texts of each training seed behind a row's `sampler_nll`, where the seeds differ; else all together.
    pub fn text_groups(&self, row: &Row) -> Vec<usize> {
        let (n, seeds) = (row.sampler_nll.as_ref().map_or(0, |s| s.texts.len()), row.by_seed.len());
        match self.varies() && seeds > 0 && n.is_multiple_of(seeds) {
            true => vec![n / seeds; seeds],
            false => vec![n],
        }
    }
    /// Samples of each training seed, in order, where the seeds differ; else all samples of `row` together.
    pub fn groups(&self, row: &Row) -> Vec<usize> {
        match self.varies() && !row.by_seed.is_empty() {
            true => row.by_seed.iter().map(|s| s.n).collect(),
            false => vec![row.n],
        }
    }
}

fn explain(e: &serde_json::Error) -> Error {
    let (line, column) = (e.line(), e.column());
    let text = e.to_string();
    let cause = text.split(" at line ").next().unwrap_or_default().to_string();
    match e.classify() {
        Category::Syntax | Category::Io => Error::input(format!(":{line}:{column}: not JSON")).cause(cause),
        Category::Eof => Error::input(format!(":{line}:{column}: not JSON, the file ends too early")).cause(cause),
        Category::Data => Error::input(format!(":{line}:{column}: not a results file of format {FORMAT}")).cause(cause),
    }
}

/// Indents objects and keeps arrays of numbers on one line: a readable diff, without a line for every single sample.
#[derive(Default)]
struct Layout {
    depth: usize,
    filled: bool,
}

impl Layout {
    fn line<W: ?Sized + io::Write>(&self, w: &mut W) -> io::Result<()> {
        w.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| w.write_all(b" "))
    }
}

impl serde_json::ser::Formatter for Layout {
    fn begin_object<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        w.write_all(b"{")
    }
    fn end_object<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.depth -= 1;
        if self.filled {
            self.line(w)?;
        }
        self.filled = true;
        w.write_all(b"}")
    }
    fn begin_object_key<W: ?Sized + io::Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if !first {
            w.write_all(b",")?;
        }
        self.line(w)
    }
    fn begin_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(b": ")
    }
    fn end_object_value<W: ?Sized + io::Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.json");
        std::fs::write(&path, text).unwrap();
        let e = Results::load(&path).unwrap_err();
        assert_eq!(e.kind, Kind::Input, "{e}");
        e.to_string().replace(&format!("{}", dir.path().display()), "runs/x")
    }

    #[test]
    fn what_is_saved_is_loaded_and_saved_again_as_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/results.json");
        let results = fixture::story(1);
        results.save(&path).unwrap();
        let first = std::fs::read(&path).unwrap();
        let loaded = Results::load(&path).unwrap();
        assert_eq!(loaded, results);
        loaded.save(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no sibling is left over");
    }

    #[test]
    fn samples_take_one_line_per_score() {
        let text = fixture::story(1).to_json().unwrap();
        assert!(text.lines().count() < 2500, "{} lines", text.lines().count());
        assert!(text.lines().any(|l| l.trim_start().starts_with("\"oracle_nll\": [")));
    }

    #[test]
    fn a_missing_file_says_how_to_make_it() {
        let e = Results::load(Path::new("nowhere/results.json")).unwrap_err();
        assert_eq!(e.kind, Kind::Input);
        assert!(e.to_string().starts_with("error: no results at nowhere/results.json"), "{e}");
        assert!(e.hint.unwrap().contains("fewstep run"));
    }

    #[test]
    fn bad_files_are_refused_with_their_place() {
        let Sealed::Whole(good) = unseal(&fixture::story(1).to_json().unwrap()) else { panic!("it is sealed") };
        assert!(message("{\n  \"format\": 1,\n  oops\n}").contains("runs/x/results.json:3:3: not JSON"));
        assert!(message("").contains("the file ends too early"));
        assert!(message(&good[..good.len() / 2]).contains("the file ends too early"));
        assert!(message("[1]").contains("not a results file"));
        assert!(message("7").contains("not a results file"));
        assert!(message("{\"a\": 2}").contains("no key `format`"));
        assert!(message("{\"format\": 2}").contains("format is `2`, this version reads `1`"));
        assert!(message("{\"format\": \"1\"}").contains("format is `\"1\"`"));
        let wrong_type = message(&good.replacen("\"threads\": 2", "\"threads\": \"two\"", 1));
        assert!(
            wrong_type.contains("not a results file of format 1") && wrong_type.contains("expected usize"),
            "{wrong_type}"
        );
        let unknown = message(&good.replacen("\"threads\"", "\"thread\"", 1));
        assert!(unknown.contains("unknown field `thread`"), "{unknown}");
        let edited = message(&good.replacen("seed = 1", "seed = 2", 1));
        assert!(edited.contains("the file was edited"), "{edited}");
    }

    #[test]
    fn a_change_after_it_was_written_is_found_and_a_file_of_the_version_before_is_read() {
        let sealed = fixture::story(1).to_json().unwrap();
        for at in (0..sealed.len()).step_by(sealed.len() / 50) {
            let mut bytes = sealed.clone().into_bytes();
            bytes[at] = if bytes[at] == b'1' { b'2' } else { b'1' };
            let said = message(std::str::from_utf8(&bytes).unwrap());
            assert!(said.starts_with("error: runs/x/results.json"), "{said}");
        }
        let digit = message(&sealed.replacen("\"burn\": \"0.22.1\"", "\"burn\": \"0.22.2\"", 1));
        assert!(digit.contains("changed after it was written") && digit.contains("delete the key `sha256`"), "{digit}");
        let other = serde_json::from_str::<serde_json::Value>(&sealed).unwrap().to_string();
        assert!(message(&other).contains("another program has written it anew"));
        let Sealed::Whole(old) = unseal(&sealed) else { panic!("it is sealed") };
        assert_eq!(Results::parse(&old).unwrap(), Results::parse(&sealed).unwrap());
    }

    #[test]
    fn contradictions_inside_a_file_are_refused() {
        let mut twice = fixture::story(1);
        twice.models.push(twice.models[0].clone());
        assert!(twice.check().unwrap_err().message.contains("occurs twice"));
        let mut short = fixture::story(1);
        short.models[0].rows[0].samples["valid"].pop();
        assert!(short.check().unwrap_err().message.contains("`valid` has"));
    }

    #[test]
    fn a_number_that_is_not_finite_is_never_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut results = fixture::story(1);
        results.models[1].rows[2].samples["entropy"][3] = f64::NAN;
        let e = results.save(&dir.path().join("r.json")).unwrap_err();
        assert_eq!(e.kind, Kind::NonFinite);
        assert!(e.message.contains("model `teacher`, steps 4: `entropy`"), "{e}");
    }
}
