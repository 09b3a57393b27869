//! `run`, `eval` and `export`: the stages of a study in its run directory, each skipped when its result is there.
//!
//! RUN/{recipe.toml, data/, models/NAME/{metrics.jsonl, step-*, final/, eval.json}, results.json, report/, export/NAME/};
//! several training seeds have a run directory each (`seeds`).

mod derived;
mod evaluate;
mod exports;
pub mod seeds;
mod shape;

use std::path::{Path, PathBuf};

use burn::prelude::Device;

use crate::data::Data;
use crate::error::{Error, Result};
use crate::eval::results::Results;
use crate::export::{self, Extras, LoadedModel, ModelCard, origin};
use crate::model::params;
use crate::objective::Objective;
use crate::process::Order;
use crate::process::d3pm::{self, Matrix, Neighbours};
use crate::recipe::{Loaded, ModelConfig, Network, Recipe, parse};
use crate::term::{self, Interrupt};
use crate::train::{self, Job, LatentJob, Trained};
use crate::weights::{Storage, Weights};
use crate::{alloc, eval, fs, report};
pub use shape::{Shape, shape};

/// Recipe parts that may change between two runs in the same directory: they decide no trained weight.
const FREE: [&str; 12] = [
    "seeds",
    "seeds.*",
    "eval.*",
    "eval.*.*",
    "eval.control.*.*.*",
    "gate.*",
    "gate.*.*",
    "export.*",
    "model.*.train.log_every",
    "model.*.train.save_every",
    "model.*.train.keep",
    "eval",
];

/// File of a run directory that names what relative paths in its recipe are looked up from.
pub const BASE: &str = "base";

/// A study opened in its run directory, locked against a second process.
pub struct Study {
    pub recipe: Recipe,
    pub text: String,
    pub dir: PathBuf,
    pub data: Data,
    pub device: Device,
    base: PathBuf,
    device_name: String,
    interrupt: Interrupt,
    _lock: fs::RunLock,
}

impl Study {
    /// Opens `dir` (default `runs/<name>`) for `loaded`.
    ///
    /// Errors: another process in the directory, another recipe in it, data that cannot be read.
    pub fn open(loaded: Loaded, dir: Option<PathBuf>, device: (Device, &str), interrupt: Interrupt) -> Result<Study> {
        let dir = dir.unwrap_or_else(|| Path::new("runs").join(&loaded.recipe.name));
        let lock = claim(&dir, &loaded)?;
        let Loaded { recipe, text, base } = loaded;
        let data = Data::prepare(&recipe.data, &base, &seeds::data_dir(&dir))?;
        recipe.check_given(&data)?;
        // What the evaluation will need is missed before anything is trained.
        recipe.eval.context.as_ref().map(|path| eval::context::load(&base.join(path))).transpose()?;
        recipe.eval.flexibility.as_ref().map_or(Ok(()), |config| config.fits(data.length()))?;
        let (device, device_name) = device;
        let device_name = device_name.to_string();
        Ok(Study { recipe, text, dir, data, device, base, device_name, interrupt, _lock: lock })
    }

    fn model_dir(&self, name: &str) -> PathBuf {
        self.dir.join("models").join(name)
    }

    fn final_dir(&self, name: &str) -> PathBuf {
        self.model_dir(name).join("final")
    }

    /// The finished model `name`.
    pub fn finished(&self, name: &str) -> Result<LoadedModel> {
        self.recipe.model(name)?;
        let dir = self.final_dir(name);
        if !dir.exists() {
            return Err(not_trained(name, &self.dir));
        }
        fs::verify_manifest(&dir)?;
        let done = export::read(&dir, &self.device)?;
        alloc::settle(params::count(&done.model));
        Ok(done)
    }

    /// Trains what is missing: every model, or `only` and its teachers.
    pub fn train(&self, only: Option<&str>) -> Result<()> {
        let mut wanted: Vec<&str> = Vec::new();
        if let Some(name) = only {
            let mut open = vec![name];
            while let Some(name) = open.pop() {
                wanted.push(name);
                open.extend(Recipe::parents(self.recipe.model(name)?));
            }
        }
        for name in self.recipe.training_order()? {
            if only.is_none() || wanted.contains(&name) {
                self.train_model(name)?;
            }
        }
        Ok(())
    }

    fn train_model(&self, name: &str) -> Result<()> {
        let model = self.recipe.model(name)?;
        let (dir, fingerprint) = (self.model_dir(name), self.recipe.fingerprint(name)?);
        let last = self.final_dir(name);
        if let Ok(manifest) = fs::verify_manifest(&last) {
            if manifest.extra["fingerprint"].as_str() == Some(&fingerprint) {
                return Ok(());
            }
            return Err(Error::usage(format!("`{name}` in {} was trained by another recipe", dir.display()))
                .hint(format!("give another `--out DIR`, or remove {}", dir.display())));
        }
        std::fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, &e))?;
        let shape = self.shape(name)?;
        let (length, seed) = (self.data.length(), self.recipe.seed(model));
        alloc::settle(shape.network.parameters(shape.vocab, length).try_into().unwrap_or(usize::MAX));
        if let Some((rows, vocab)) = shape.rows.as_ref().filter(|_| model.from.is_some()) {
            term::note(&format!("{name}: {}", rows.summary(*vocab)));
        }
        let card = ModelCard { neighbours: self.neighbours(model)?, ..self.card(name, model, &shape, (0, 0.0))? };
        let matrices = card.matrices()?;
        let latent = self.recipe.latent(name)?;
        let codec = latent.map(|(_, config)| self.finished(&config.codec)).transpose()?;
        let classified = self.recipe.classified(model)?;
        let of = classified.map(|(of, _)| self.finished(of)).transpose()?;
        let positions = self.positions(name)?;
        let batch = model.train.batch;
        let draw = |part: u64| self.data.batch(seed, part, batch);
        // A checkpoint that is taken as it is stays where it is.
        let taken = model.train.steps == 0 && shape.as_it_is();
        let base = if taken { None } else { self.base_network(name, &shape)? };
        let student = base.as_ref().map(|base| shape.start(base));
        let start = student.as_ref().filter(|_| shape.lora.is_none()).map(params::export);
        let start = start.map(|tensors| Weights { tensors, ..Weights::default() });
        // A student of its teacher's own shape starts as a copy, and needs the network itself no more.
        let base = base.filter(|_| shape.lora.is_some() || shape.shallower());
        let teacher = base.as_ref().filter(|_| Recipe::teacher(model).is_some());
        let student = student.filter(|_| shape.lora.is_some());
        let frozen = student.as_ref().zip(shape.lora.as_ref());
        let trained = if taken {
            None
        } else if let Some(start) = start.as_ref().filter(|_| model.train.steps == 0) {
            Some(Trained { weights: start.tensors.clone(), tokens: 0, seconds: 0.0, last_loss: 0.0 })
        } else {
            Some(train::train(&Job {
                name,
                dir: &dir,
                config: &model.train,
                objective: &model.objective,
                network: &shape.network,
                orders: &model.order.all(positions),
                teacher_orders: &self.teacher_orders(model)?,
                latent: codec
                    .as_ref()
                    .zip(latent)
                    .map(|(codec, (_, config))| LatentJob { codec: &codec.model, config }),
                classified: of.as_ref().zip(classified).map(|(of, (_, config))| (&of.model, config)),
                vocab: shape.vocab,
                mask: shape.mask,
                tokens: shape.tokens,
                excluded: &card.excluded_token_ids,
                length,
                seed,
                batch: &draw,
                start: start.as_ref(),
                teacher,
                frozen,
                matrices: matrices.as_deref(),
                fingerprint: &fingerprint,
                device: &self.device,
                interrupt: &self.interrupt,
            })?)
        };
        let (seconds, tokens) = trained.as_ref().map_or((0.0, 0), |t| (t.seconds, t.tokens));
        let card = ModelCard { train_tokens: tokens, train_seconds: seconds, ..card };
        let loss = trained.as_ref().map_or(0.0, |t| t.last_loss);
        let parameters = trained.as_ref().map(|t| t.weights.values().map(|t| t.data.len()).sum::<usize>());
        let tokenizer = shape.tokenizer.clone().unwrap_or_else(|| self.data.tokenizer());
        fs::commit_dir(&dir, "final", |tmp| {
            let extras = Extras { tokenizer: Some(&tokenizer), recipe: &self.text, results: None };
            match (trained.map(|t| t.weights), &shape.lora) {
                (Some(weights), None) => export::write(tmp, &card, weights, &extras)?,
                (adapters, lora) => {
                    let origin = self.origin(name, &shape)?;
                    if let Some((plan, adapters)) = lora.as_ref().zip(adapters) {
                        self.write_adapters(tmp, name, &shape, plan, &adapters)?;
                    }
                    origin::write(tmp, &origin)?;
                    export::write_beside(tmp, &card, &extras)?;
                }
            }
            if let Some(codec) = &codec {
                export::write_codec(tmp, codec, &self.text, Storage::Kept)?;
            }
            let extra = serde_json::json!({ "fingerprint": fingerprint, "seconds": seconds, "loss": loss });
            fs::write_manifest(tmp, extra).map(|_| ())
        })?;
        term::note(&match parameters {
            Some(n) => format!("{name}: trained in {} ({n} parameters)", train::log::clock(seconds)),
            None => format!("{name}: taken as it is"),
        });
        Ok(())
    }

    /// The orders that a model's teacher was trained over; of a model without one, its own.
    fn teacher_orders(&self, model: &ModelConfig) -> Result<Vec<Order>> {
        let teacher = Recipe::teacher(model).map(|name| self.recipe.model(name)).transpose()?;
        Ok(teacher.unwrap_or(model).order.all(self.data.length()))
    }

    /// What is near to what, for a chain that needs it, by the embedding of another model of the study.
    fn neighbours(&self, model: &ModelConfig) -> Result<Option<Neighbours>> {
        let Objective::D3pm(config) = &model.objective else { return Ok(None) };
        let Matrix::Neighbours { model: other, k } = &config.matrix else { return Ok(None) };
        let named = params::export(&self.finished(other)?.model);
        // A diffusion of embeddings has its tokens' vectors in the codebook.
        let (embedding, vocab) = (named.get("vectors.codebook").unwrap_or_else(|| &named["embed"]), self.data.vocab());
        let width = embedding.shape[1];
        Ok(Some(d3pm::nearest(&embedding.data[..vocab * width], width, *k)))
    }

    fn shape(&self, name: &str) -> Result<Shape> {
        shape(&self.recipe, name, &self.data, &self.base)
    }

    /// Positions that a model's order goes over: those of a text, or its latents.
    fn positions(&self, name: &str) -> Result<usize> {
        let length = self.data.length();
        Ok(match self.recipe.network(name)? {
            Network::Given(network) => network.vectors.as_ref().map_or(length, |v| v.count),
            Network::From(_) => length,
        })
    }

    fn card(&self, name: &str, model: &ModelConfig, shape: &Shape, (tokens, seconds): (u64, f64)) -> Result<ModelCard> {
        Ok(ModelCard {
            architectures: vec!["FewstepTransformer".into()],
            model_type: "fewstep".into(),
            fewstep_version: env!("CARGO_PKG_VERSION").into(),
            name: name.into(),
            vocab_size: shape.vocab,
            mask_token_id: shape.mask as usize,
            excluded_token_ids: shape.rows.as_ref().map_or_else(Vec::new, |(rows, _)| rows.missing()),
            max_position_embeddings: shape.length,
            network: shape.network.clone(),
            order: model.order.clone(),
            schedule: self.recipe.schedule(model),
            corruption: model.objective.corruption(),
            objective: model.objective.clone(),
            seed: self.recipe.seed(model),
            train_steps: model.train.steps,
            train_tokens: tokens,
            train_seconds: seconds,
            generation: self.recipe.generation(model),
            picture: self.data.picture(),
            latent: self.recipe.latent_process(name)?,
            neighbours: None,
            quantization_config: None,
        })
    }

    /// Says what is about to be done, and on what.
    fn announce(&self) {
        term::note(&format!(
            "study {}: {} data, vocabulary {}, length {}; {} on {} with {} threads",
            self.recipe.name,
            self.data.kind(),
            self.data.vocab(),
            self.data.length(),
            self.recipe.model.keys().cloned().collect::<Vec<_>>().join(" + "),
            self.device_name,
            rayon::current_num_threads()
        ));
    }

    /// The whole study: train, evaluate, report, export; prints the table and where everything is, or all results as JSON.
    pub fn run(&self, as_json: bool) -> Result<()> {
        self.announce();
        self.train(None)?;
        let results = self.evaluate(None)?;
        let written = report::write(&results, &self.dir.join("report"))?;
        self.export_all(&results, &self.dir.join("export"))?;
        say(&results, &written, as_json)
    }

    /// Exports the models that the recipe names, each into `to/NAME`.
    fn export_all(&self, results: &Results, to: &Path) -> Result<()> {
        for name in &self.recipe.export.models {
            let out = to.join(name);
            let storage = self.recipe.export.dtype;
            // What an earlier run with other settings has left there would lie beside it.
            fs::remove_dir(&out)?;
            let change = self.export(name, &out, Some(results), storage, self.recipe.export.adapters)?;
            term::note(&format!("export {}", out.display()));
            if let Some(change) = change {
                term::note(&format!("{:<6} {}", storage.name(), change.line()));
            }
        }
        Ok(())
    }
}

/// Makes `dir` the run directory of this recipe: locked, cleared of what killed processes left, its recipe stored.
///
/// Errors: another process in the directory, another recipe in it.
fn claim(dir: &Path, Loaded { text, base, .. }: &Loaded) -> Result<fs::RunLock> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, &e))?;
    let lock = fs::RunLock::acquire(dir)?;
    fs::remove_stale_tmp(dir)?;
    let stored = dir.join("recipe.toml");
    if stored.exists() {
        let before = String::from_utf8_lossy(&fs::read_limited(&stored, 16 << 20)?).into_owned();
        let changed = parse::allowed_changes(&before, text, &FREE).map_err(|e| {
            let mut error = Error::usage(format!("{} holds a run of another recipe", dir.display()));
            error.causes = e.causes;
            error.hint(format!("give another `--out DIR`, or remove {}", dir.display()))
        })?;
        if !changed.is_empty() {
            term::note(&format!("changed since the last run here: {}", changed.join(", ")));
        }
    }
    fs::write_atomic(&stored, text.as_bytes())?;
    // `eval` on the run directory finds the text where `run` found it, wherever it is started from.
    let absolute = std::path::absolute(base).map_err(|e| Error::io("find", base, &e))?;
    fs::write_atomic(&dir.join(BASE), absolute.to_string_lossy().as_bytes())?;
    Ok(lock)
}

/// The end of a run: the table and where the report is, or all results as JSON.
fn say(results: &Results, written: &[PathBuf], as_json: bool) -> Result<()> {
    if as_json {
        term::out_json(results.to_json()?.trim_end());
        return Ok(());
    }
    term::out_text(report::summary::summary(results));
    if let Some(page) = written.iter().find(|p| p.extension().is_some_and(|e| e == "html")) {
        term::out(format!("report {}", page.display()));
    }
    Ok(())
}

fn not_trained(name: &str, run: &Path) -> Error {
    Error::usage(format!("model `{name}` is not trained yet in {}", run.display()))
        .hint("run the recipe first: `fewstep run RECIPE`")
}
