//! `run`, `eval` and `export`: the stages of a study in its run directory, each skipped when its result is there.
//!
//! RUN/{recipe.toml, data/, models/NAME/{metrics.jsonl, step-*, final/, eval.json}, results.json, report/, export/NAME/}.

mod derived;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::prelude::Device;
use serde::{Deserialize, Serialize};

use crate::data::{Data, Tokenizer};
use crate::error::{Error, Kind, Result};
use crate::eval::change::Change;
use crate::eval::judge::TextJudge;
use crate::eval::results::{Environment, ModelResult, Results, Role};
use crate::eval::{self, Scorer};
use crate::export::origin;
use crate::export::{self, Extras, LoadedModel, ModelCard};
use crate::model::config::Compute;
use crate::model::family::{self, Description, LoadOptions, Prediction, Rows, Vocabulary};
use crate::model::params::Named;
use crate::model::transformer::lora::{Plan, check_layers};
use crate::model::{Denoise, Oracle, Transformer, TransformerConfig, params};
use crate::objective::Objective;
use crate::process::Corruption;
use crate::recipe::{Loaded, ModelConfig, Network, Recipe, parse};
use crate::sample::Process;
use crate::term::{self, Interrupt};
use crate::train::{self, Job, Trained};
use crate::weights::{SHARD, Storage, Weights};
use crate::{alloc, fs, report};

/// Recipe parts that may change between two runs in the same directory: they decide no trained weight.
const FREE: [&str; 8] = [
    "eval.*",
    "gate.*",
    "gate.*.*",
    "export.*",
    "model.*.train.log_every",
    "model.*.train.save_every",
    "model.*.train.keep",
    "eval",
];

/// Tokens that a judge from a checkpoint reads at once, at most.
const JUDGE_LENGTH: usize = 4096;

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
        let Loaded { recipe, text, base } = loaded;
        let dir = dir.unwrap_or_else(|| Path::new("runs").join(&recipe.name));
        std::fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, &e))?;
        let lock = fs::RunLock::acquire(&dir)?;
        fs::remove_stale_tmp(&dir)?;
        let stored = dir.join("recipe.toml");
        if stored.exists() {
            let before = String::from_utf8_lossy(&fs::read_limited(&stored, 16 << 20)?).into_owned();
            let changed = parse::allowed_changes(&before, &text, &FREE).map_err(|e| {
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
        let absolute = std::path::absolute(&base).map_err(|e| Error::io("find", &base, &e))?;
        fs::write_atomic(&dir.join(BASE), absolute.to_string_lossy().as_bytes())?;
        let data = Data::prepare(&recipe.data, &base, &dir.join("data"))?;
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
            let mut at = Some(name);
            while let Some(name) = at {
                wanted.push(name);
                at = Recipe::teacher(self.recipe.model(name)?);
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
        let card = self.card(name, model, &shape, (0, 0.0));
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
                order: model.order.order(length),
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
            let extra = serde_json::json!({ "fingerprint": fingerprint, "seconds": seconds, "loss": loss });
            fs::write_manifest(tmp, extra).map(|_| ())
        })?;
        term::note(&match parameters {
            Some(n) => format!("{name}: trained in {} ({n} parameters)", train::log::clock(seconds)),
            None => format!("{name}: taken as it is"),
        });
        Ok(())
    }

    fn shape(&self, name: &str) -> Result<Shape> {
        shape(&self.recipe, name, &self.data, &self.base)
    }

    fn card(&self, name: &str, model: &ModelConfig, shape: &Shape, (tokens, seconds): (u64, f64)) -> ModelCard {
        ModelCard {
            architectures: vec!["FewstepTransformer".into()],
            model_type: "fewstep".into(),
            fewstep_version: env!("CARGO_PKG_VERSION").into(),
            name: name.into(),
            vocab_size: shape.vocab,
            mask_token_id: shape.mask as usize,
            excluded_token_ids: shape.rows.as_ref().map_or_else(Vec::new, |(rows, _)| rows.missing()),
            max_position_embeddings: shape.length,
            network: shape.network.clone(),
            order: model.order,
            schedule: self.recipe.schedule(model),
            corruption: Corruption::Absorb,
            objective: model.objective.clone(),
            seed: self.recipe.seed(model),
            train_steps: model.train.steps,
            train_tokens: tokens,
            train_seconds: seconds,
            generation: self.recipe.generation(model),
            quantization_config: None,
        }
    }

    /// Evaluates what is missing and writes results.json.
    pub fn evaluate(&self, only: Option<&str>) -> Result<Results> {
        let config = &self.recipe.eval;
        let judge = config.judge.as_ref().map(|name| self.finished(name)).transpose()?;
        // One with the data's tokens reads them with a start token in front.
        let from = config.judge.as_ref().is_some_and(|name| self.recipe.model[name].from.is_some());
        let public = from && judge.as_ref().is_some_and(|judge| !judge.card.network.shift);
        let scorer = match (&self.data, &judge) {
            (Data::Story(story), _) => Scorer::Story(story),
            (data, Some(judge)) => match &judge.tokenizer {
                // A checkpoint reads the text, whatever it was tokens of.
                Some(tokenizer) if public => Scorer::Text(TextJudge {
                    model: &judge.model,
                    tokenizer,
                    start: judge.card.mask_token_id as u32,
                    data,
                }),
                _ => Scorer::Judge(&judge.model),
            },
            (_, None) => return Err(Error::usage("`data.text` needs `eval.judge`")),
        };
        let held_out = self.data.held_out(config.held_out);
        if let Scorer::Text(judge) = &scorer {
            let (share, length) = (100.0 * judge.cut(&held_out), judge.model.length());
            term::note(&format!(
                "the judge scores text by characters with its own tokenizer; {share:.1} % of the held-out texts are longer than its {length} tokens"
            ));
        }
        let summary = eval::data_summary(&self.data, &scorer, &held_out);
        let judge_hash = judge.as_ref().map_or("", |j| j.weights_sha256.as_str());
        let mut models = Vec::new();
        for (name, model) in &self.recipe.model {
            if only.is_some_and(|o| o != name) && !self.model_dir(name).join("eval.json").exists() {
                continue;
            }
            let done = self.finished(name)?;
            let key = self.eval_key(&[&summary.sha256, &done.weights_sha256, judge_hash])?;
            models.push(self.cached(name, &key, || {
                let role = self.recipe.role(name, model);
                let process = done.card.process();
                // A public judge reads other tokens than the held-out ones.
                let likelihood = (role != Role::Judge || !public)
                    .then(|| eval::likelihood(&done.model, &model.objective, &process, &held_out));
                let ar = matches!(model.objective, Objective::ArNll {});
                let steps = if ar { vec![process.length] } else { config.steps.clone() };
                let (rows, sweep) = match role {
                    Role::Judge => (Vec::new(), Vec::new()),
                    _ => (
                        self.rows(name, &done.model, &process, &steps, &scorer, true)?,
                        self.sweep(name, &done.model, &process, &steps, &scorer)?,
                    ),
                };
                let extra = fs::verify_manifest(&self.final_dir(name))?.extra;
                Ok(ModelResult {
                    name: name.clone(),
                    role,
                    objective: model.objective.name().into(),
                    teacher: Recipe::teacher(model).map(str::to_string),
                    parameters: params::count(&done.model) as u64,
                    weights_sha256: done.weights_sha256.clone(),
                    seed: done.card.seed,
                    train_steps: done.card.train_steps as u64,
                    train_tokens: done.card.train_tokens,
                    train_seconds: extra["seconds"].as_f64().unwrap_or(0.0),
                    likelihood,
                    rows,
                    sweep,
                })
            })?);
        }
        if let (Data::Story(story), true) = (&self.data, config.oracle) {
            let key = self.eval_key(&[&summary.sha256, "oracle"])?;
            models.push(self.cached("oracle", &key, || {
                let oracle = Oracle::new(Arc::clone(story.chain()), self.device.clone());
                let process = Process {
                    order: crate::process::Order::parallel(story.length()),
                    schedule: crate::process::Schedule::LogLinear,
                    corruption: Corruption::Absorb,
                    length: story.length(),
                    cached: false,
                };
                Ok(ModelResult {
                    name: "oracle".into(),
                    role: Role::Oracle,
                    objective: "exact".into(),
                    teacher: None,
                    parameters: 0,
                    weights_sha256: summary.sha256.clone(),
                    seed: 0,
                    train_steps: 0,
                    train_tokens: 0,
                    train_seconds: 0.0,
                    likelihood: None,
                    rows: self.rows("oracle", &oracle, &process, &config.steps, &scorer, false)?,
                    sweep: self.sweep("oracle", &oracle, &process, &config.steps, &scorer)?,
                })
            })?);
        }
        let results = Results {
            format: eval::results::FORMAT,
            fewstep: env!("CARGO_PKG_VERSION").into(),
            study: self.recipe.name.clone(),
            recipe_sha256: fs::sha256_hex(self.text.as_bytes()),
            recipe: self.text.clone(),
            environment: self.environment(),
            data: summary,
            models,
        };
        results.save(&self.dir.join("results.json"))?;
        Ok(results)
    }

    fn eval_key(&self, parts: &[&str]) -> Result<String> {
        // Timings are part of what is kept, so the machine and the code are part of the key.
        let environment = format!("{:?} {}", self.environment(), env!("FEWSTEP_COMMIT"));
        let config = toml::to_string(&self.recipe.eval).map_err(|e| Error::usage(format!("`eval`: {e}")))?;
        Ok(fs::sha256_hex(
            format!("{}\n{config}\n{environment}\n{}", parts.join("\n"), env!("CARGO_PKG_VERSION")).as_bytes(),
        ))
    }

    fn cached(&self, name: &str, key: &str, make: impl FnOnce() -> Result<ModelResult>) -> Result<ModelResult> {
        #[derive(Serialize, Deserialize)]
        struct Cached {
            key: String,
            result: ModelResult,
        }
        let dir = self.model_dir(name);
        let path = dir.join("eval.json");
        if let Ok(bytes) = std::fs::read(&path)
            && let Ok(cached) = serde_json::from_slice::<Cached>(&bytes)
            && cached.key == key
        {
            return Ok(cached.result);
        }
        let cached = Cached { key: key.to_string(), result: make()? };
        std::fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, &e))?;
        let bytes = serde_json::to_vec(&cached)
            .map_err(|e| Error::new(Kind::NonFinite, format!("`{name}` has scores that are not numbers: {e}")))?;
        fs::write_atomic(&path, &bytes)?;
        Ok(cached.result)
    }

    fn rows(
        &self,
        name: &str,
        model: &dyn Denoise,
        process: &Process,
        steps: &[usize],
        scorer: &Scorer,
        timed: bool,
    ) -> Result<Vec<eval::results::Row>> {
        let mut rows = Vec::new();
        let mut texts = String::new();
        for k in steps {
            self.not_stopped(name)?;
            let (row, tokens) = eval::row(model, process, *k, &self.recipe.eval, scorer, timed)?;
            let nll = &row.scores[scorer.name()];
            let valid = row.scores.get("valid").map_or(String::new(), |v| format!("  valid {:5.1} %", 100.0 * v.mean));
            term::note(&format!(
                "eval {name:<10} {k:>5} steps  nfe {:>6.1}  nll {:.4}  entropy {:.3}{valid}",
                row.nfe, nll.mean, row.scores["entropy"].mean
            ));
            texts.push_str(&format!("==== {name}, {k} steps\n"));
            tokens.iter().take(5).for_each(|t| texts.push_str(&format!("{}\n----\n", self.data.decode(t))));
            rows.push(row);
        }
        let dir = self.model_dir(name);
        std::fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, &e))?;
        fs::write_atomic(&dir.join("samples.txt"), texts.as_bytes())?;
        Ok(rows)
    }

    /// The rows at the recipe's other temperatures.
    fn sweep(
        &self,
        name: &str,
        model: &dyn Denoise,
        process: &Process,
        steps: &[usize],
        scorer: &Scorer,
    ) -> Result<Vec<eval::results::SweepRow>> {
        let config = &self.recipe.eval;
        let mut rows = Vec::new();
        for k in steps {
            for temperature in &config.temperatures {
                self.not_stopped(name)?;
                let row = eval::sweep_row(model, process, *k, *temperature, config, scorer)?;
                term::note(&format!(
                    "eval {name:<10} {k:>5} steps  temperature {temperature}  nll {:.4}  entropy {:.3}",
                    row.scores[scorer.name()].mean,
                    row.scores["entropy"].mean
                ));
                rows.push(row);
            }
        }
        Ok(rows)
    }

    fn not_stopped(&self, name: &str) -> Result<()> {
        match self.interrupt.requested() {
            true => Err(Error::new(Kind::Signal(2), format!("stopped by a signal while evaluating `{name}`"))),
            false => Ok(()),
        }
    }

    fn environment(&self) -> Environment {
        Environment {
            burn: "0.22.1".into(),
            rustc: env!("FEWSTEP_RUSTC").into(),
            device: self.device_name.clone(),
            threads: rayon::current_num_threads(),
            dtype: eval::device_dtype(&self.device),
            os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            cpu_features: cpu_features(),
        }
    }

    /// Exports model `name` into `out` with weights of the given type; where that loses digits, what it costs on the
    /// held-out text. With `adapters_alone` what is exported of a model with adapters is these, in PEFT's layout.
    pub fn export(
        &self,
        name: &str,
        out: &Path,
        results: Option<&Results>,
        storage: Storage,
        adapters_alone: bool,
    ) -> Result<Option<Change>> {
        let model = self.recipe.model(name)?;
        if adapters_alone && model.lora.is_some() {
            if !self.recipe.adapts_its_base(name)? {
                return Err(Error::usage(format!("the adapters of `{name}` belong to no published checkpoint"))
                    .cause("its teacher was trained here, or blocks were left out")
                    .hint("leave `--adapters` out to export the merged network"));
            }
            return self.export_adapters(name, out).map(|()| None);
        }
        let done = self.finished(name)?;
        let shape = self.shape(name)?;
        let card = self.card(name, model, &shape, (done.card.train_tokens, 0.0));
        std::fs::create_dir_all(out).map_err(|e| Error::io("create", out, &e))?;
        let own =
            results.and_then(|r| r.models.iter().find(|m| m.name == name).map(|m| report::summary::model_card(r, m)));
        let extras = Extras { tokenizer: done.tokenizer.as_ref(), recipe: &self.text, results: own.as_deref() };
        match &shape.from {
            // What came from a public checkpoint leaves as one.
            Some(from) => {
                let (description, _) = family::look(from)?;
                let own = params::export(&done.model);
                let parameters = match &shape.rows {
                    Some((rows, _)) => rows.put(own, &self.whole(from, &shape)?),
                    None => own,
                };
                match &shape.keep {
                    // What it is laid out as has the same blocks: the source without the others, in a directory that goes.
                    Some(keep) => {
                        let source = out.join(".source");
                        std::fs::create_dir_all(&source).map_err(|e| Error::io("create", &source, &e))?;
                        family::shallow(from, &source, &description, keep)?;
                        let described = family::shallow_description(&description, keep)?;
                        family::export(&source, out, &described, &parameters, storage)?;
                        fs::remove_dir(&source)?;
                    }
                    None => family::export(from, out, &description, &parameters, storage)?,
                }
                super::export::warn_of_missing_code(out)?;
                if let Some(generation) = &card.generation {
                    family::write_generation(out, description.family, generation)?;
                }
                fs::write_atomic(&out.join("recipe.toml"), self.text.as_bytes())?;
                fs::write_atomic(&out.join("README.md"), export::model_card(&card, &extras).as_bytes())?;
            }
            None => export::write_as(out, &card, params::export(&done.model), &extras, storage, SHARD)?,
        }
        if !storage.is_lossy() {
            return Ok(None);
        }
        let after = match &shape.from {
            Some(_) => {
                let tensors = self.start(out, &shape)?;
                params::import(done.model.clone(), &tensors, &self.device)
            }
            None => export::read(out, &self.device)?.model,
        };
        let held_out = self.data.held_out(self.recipe.eval.held_out);
        let losses = |m: &Transformer| eval::losses(m, &model.objective, &done.card.process(), &held_out).0;
        let change = Change::held_out(&losses(&done.model), &losses(&after));
        let text = export::model_card(&card, &extras) + &super::export::section(storage, &change);
        fs::write_atomic(&out.join("README.md"), text.as_bytes())?;
        Ok(Some(change))
    }

    /// The parameters of the public checkpoint in `from`.
    fn whole(&self, from: &Path, shape: &Shape) -> Result<Named> {
        let (length, ignore_extra) = (Some(shape.length), shape.ignore_extra);
        let options = LoadOptions { length, ignore_extra, ..LoadOptions::default() };
        Ok(params::export(&family::load(from, &options, &self.device)?.model))
    }

    /// The same as models of this study start with them.
    fn start(&self, from: &Path, shape: &Shape) -> Result<Named> {
        let whole = self.whole(from, shape)?;
        Ok(match &shape.rows {
            Some((rows, _)) => rows.take(whole),
            None => whole,
        })
    }

    /// The whole study: train, evaluate, report, export; prints the table and where everything is, or all results as JSON.
    pub fn run(&self, as_json: bool) -> Result<()> {
        term::note(&format!(
            "study {}: {} data, vocabulary {}, length {}; {} on {} with {} threads",
            self.recipe.name,
            match self.data {
                Data::Story(_) => "story",
                Data::Text { .. } => "text",
            },
            self.data.vocab(),
            self.data.length(),
            self.recipe.model.keys().cloned().collect::<Vec<_>>().join(" + "),
            self.device_name,
            rayon::current_num_threads()
        ));
        self.train(None)?;
        let results = self.evaluate(None)?;
        let written = report::write(&results, &self.dir.join("report"))?;
        for name in &self.recipe.export.models {
            let out = self.dir.join("export").join(name);
            let storage = self.recipe.export.dtype;
            // What an earlier run with other settings has left there would lie beside it.
            fs::remove_dir(&out)?;
            let change = self.export(name, &out, Some(&results), storage, self.recipe.export.adapters)?;
            term::note(&format!("export {}", out.display()));
            if let Some(change) = change {
                term::note(&format!("{:<6} {}", storage.name(), change.line()));
            }
        }
        if as_json {
            return term::out(results.to_json()?.trim_end());
        }
        term::out(report::summary::summary(&results))?;
        if let Some(page) = written.iter().find(|p| p.extension().is_some_and(|e| e == "html")) {
            term::out(format!("report {}", page.display()))?;
        }
        Ok(())
    }
}

fn not_trained(name: &str, run: &Path) -> Error {
    Error::usage(format!("model `{name}` is not trained yet in {}", run.display()))
        .hint("run the recipe first: `fewstep run RECIPE`")
}

/// The network of a model, and how its vocabulary lies to the data's.
pub struct Shape {
    pub network: TransformerConfig,
    pub vocab: usize,
    /// The mask, or the token that an autoregressive model starts from.
    pub mask: u32,
    /// Pass over tensors of the checkpoint that the model does not have.
    pub ignore_extra: bool,
    /// Ids below this one have text.
    pub tokens: usize,
    /// Tokens of the longest sequence it reads.
    pub length: usize,
    /// The directory of the public checkpoint it comes from.
    pub from: Option<PathBuf>,
    /// Where the data's tokens lie in the checkpoint's vocabulary, and the size of that; none: at the same ids.
    pub rows: Option<(Rows, usize)>,
    /// Of a judge from a checkpoint, its own tokenizer.
    pub tokenizer: Option<Tokenizer>,
    /// The type that its matrices are kept in.
    pub dtype: Compute,
    /// The blocks of the checkpoint, or of the recipe's network, that are left in it; none: all.
    pub keep: Option<Vec<usize>>,
    /// The blocks of what it starts from that it keeps itself.
    keeps: Option<Vec<usize>>,
    /// The adapters that are trained, where it is not the whole network.
    pub lora: Option<Plan>,
}

impl Shape {
    fn own(network: TransformerConfig, vocab: usize, mask: u32, length: usize) -> Shape {
        Shape {
            network,
            vocab,
            mask,
            tokens: vocab,
            length,
            from: None,
            ignore_extra: false,
            rows: None,
            tokenizer: None,
            dtype: Compute::F32,
            keep: None,
            keeps: None,
            lora: None,
        }
    }

    /// Whether its network is the checkpoint's to the weight, so that a reference to that is enough.
    pub fn as_it_is(&self) -> bool {
        self.rows.is_none() && self.tokenizer.is_none() && !self.ignore_extra && !self.network.shift
    }

    /// Whether it has fewer blocks than what it starts from.
    pub fn shallower(&self) -> bool {
        self.keeps.is_some()
    }

    /// The network that a model starts with, out of the one it starts from; weights are shared.
    pub fn start(&self, base: &Transformer) -> Transformer {
        let kept = match &self.keeps {
            Some(keep) => base.with_layers(keep),
            None => base.clone(),
        };
        kept.reconfigured(|c| c.checkpoint = self.network.checkpoint)
    }
}

/// The shape of the model `name`: as the recipe says, or as the checkpoint does that it or its teacher comes from.
///
/// Errors: a directory that holds no model of a known family, one that the objective cannot be trained with, or that has
/// another tokenizer than the data.
pub fn shape(recipe: &Recipe, name: &str, data: &Data, base: &Path) -> Result<Shape> {
    let mut shape = whole(recipe, name, data, base)?;
    let model = recipe.model(name)?;
    let lineage = recipe.lineage(name)?;
    // From the network that is described, teacher by teacher.
    for keep in lineage.iter().rev().filter_map(|m| m.keep_layers.as_ref()) {
        check_layers(keep, &shape.network, &format!("model.{name}.keep_layers"))?;
        let before = shape.keep.take().unwrap_or_else(|| (0..shape.network.layers).collect());
        shape.keep = Some(keep.iter().map(|i| before[*i]).collect());
        shape.network.layers = keep.len();
    }
    shape.keeps = model.keep_layers.clone();
    if let (Some(from), Some(keep)) = (&shape.from, &shape.keep) {
        family::fills_groups(from, keep)?;
    }
    if shape.dtype != Compute::F32 && !shape.as_it_is() {
        return Err(Error::usage(format!("`dtype.weights` of `model.{name}` needs a masked checkpoint as it is"))
            .cause("causal models, and those with `vocabulary` or `ignore_extra`, are copied in f32")
            .hint("leave `dtype.weights` out"));
    }
    if let Some(checkpoint) = lineage.iter().find_map(|m| m.checkpoint) {
        shape.network.checkpoint = checkpoint;
    }
    if let Some(lora) = &model.lora {
        if model.from.is_some() && !shape.as_it_is() {
            return Err(Error::usage(format!("`model.{name}.lora` needs a checkpoint as it is"))
                .cause("`vocabulary` or `ignore_extra` make another network of it"));
        }
        let sites = origin::sites(shape.from.as_deref(), &shape.network)?;
        shape.lora = Some(lora.plan(&format!("model.{name}.lora"), &sites)?);
    }
    Ok(shape)
}

/// The shape of a model as its network is described, all blocks of it.
fn whole(recipe: &Recipe, name: &str, data: &Data, base: &Path) -> Result<Shape> {
    let types = recipe.dtype(name)?;
    let from = match recipe.network(name)? {
        Network::Given(network) => {
            let vocab = data.vocab();
            return Ok(Shape::own(network.clone(), vocab, vocab as u32, data.length()));
        }
        Network::From(from) => match crate::hub::reference(&from.to_string_lossy())? {
            Some(_) => family::resolve(from)?,
            None => base.join(from),
        },
    };
    let (mut d, store) = family::look(&from)?;
    LoadOptions { dtype: types.weights, compute: types.compute, ..LoadOptions::default() }.configure(&mut d.network);
    let place = from.display();
    let model = recipe.model(name)?;
    if let Some(want) = &model.sha256 {
        let is = store.sha256()?;
        if is != *want {
            return Err(Error::input(format!("the weights in {place} are not those of `model.{name}.sha256`"))
                .cause(format!("their sha256 is {is}")));
        }
    }
    recipe.check_network(name, &d.network).map_err(|e| e.cause(format!("{place} holds {}", d.family.name())))?;
    let (theirs, policy) = (family::tokenizer(&from)?, recipe.vocabulary(name)?);
    // A student's checkpoint is its teacher's.
    let ignore_extra = recipe.lineage(name)?.last().is_some_and(|root| root.ignore_extra);
    let judge = recipe.eval.judge.as_deref() == Some(name) && model.train.steps == 0;
    if judge && d.family.prediction() == Prediction::NextToken && (theirs.is_some() || !policy.is_refuse()) {
        return Ok(Shape { ignore_extra, dtype: types.weights, ..judge_shape(d, from, policy, data)? });
    }
    let (network, mask) = trainable(&d, &from, &model.objective)?;
    let causal = network.shift;
    if causal && !policy.is_refuse() {
        return Err(Error::usage(format!("`model.{name}.vocabulary` is for masked models and for `eval.judge`"))
            .hint("give the data the tokenizer of the checkpoint"));
    }
    if d.network.learned_positions && d.length != data.length() {
        return Err(Error::usage(format!("{place} has learned positions for {} tokens", d.length))
            .cause(format!("the data has sequences of {}", data.length())));
    }
    let (ours, length) = (data.tokenizer(), data.length());
    if !policy.is_refuse() {
        let named = |e: Error| Error { message: format!("{place}: {}", e.message), ..e };
        let rows = Rows::find(policy, theirs.as_ref(), &ours, d.vocab, mask).map_err(named)?;
        rows.check(&data.counts(), |id| data.decode(&[id])).map_err(named)?;
        let tokens = ours.vocab_size();
        let own = Shape::own(network, rows.vocab(), tokens as u32, length);
        return Ok(Shape {
            from: Some(from),
            rows: Some((rows, d.vocab)),
            tokens,
            ignore_extra,
            dtype: types.weights,
            ..own
        });
    }
    let same = match theirs {
        Some(theirs) => theirs.to_json()? == ours.to_json()?,
        // Without one beside the weights all that shows is that the ids fit.
        None => ours.vocab_size() <= d.vocab && (causal || mask as usize >= ours.vocab_size()),
    };
    if !same {
        return Err(Error::input(format!("{place} and the data have different tokenizers"))
            .cause(format!("{} tokens there with mask {mask}, {} here", d.vocab, ours.vocab_size()))
            .cause("`vocabulary = \"shared_tokens\"` or \"truncate_padding\" would keep the data's")
            .hint(format!("`data.text.tokenizer = {{ dir = {{ path = \"{place}\" }} }}`")));
    }
    // What a public causal model was trained to say is left as it is.
    let tokens = if causal { d.vocab } else { data.vocab() };
    Ok(Shape {
        from: Some(from),
        tokens,
        ignore_extra,
        dtype: types.weights,
        ..Shape::own(network, d.vocab, mask, length)
    })
}

/// The shape of a causal checkpoint that judges text.
fn judge_shape(d: family::Description, from: PathBuf, policy: Vocabulary, data: &Data) -> Result<Shape> {
    let place = from.display();
    let Some(theirs) = family::tokenizer(&from)? else {
        return Err(Error::input(format!("{place} has no tokenizer, and a judge reads text"))
            .hint("put its tokenizer.json, or vocab.json with merges.txt, beside the weights"));
    };
    if policy.is_refuse() && theirs.to_json()? != data.tokenizer().to_json()? {
        return Err(Error::input(format!("{place} and the data have different tokenizers"))
            .hint("`vocabulary = \"retokenize\"` lets the judge score the text of the samples, by characters"));
    }
    let Some(start) = d.special.bos.or(d.special.eos) else {
        return Err(Error::input(format!("{place} names neither a start token nor an end token"))
            .cause("a judge's first prediction needs a token in front of it")
            .hint("give `bos_token_id` in its config.json"));
    };
    let length = if d.network.learned_positions { d.length } else { d.length.min(JUDGE_LENGTH) };
    let own = Shape::own(d.network, d.vocab, start, length);
    Ok(Shape { from: Some(from), tokenizer: Some(theirs), ..own })
}

/// The network of a described model as it is trained here, and its mask or start token.
///
/// A causal model reads the token that stands between its texts in front of a text, so that every token of it is predicted.
/// Errors (input) where the objective cannot train the family.
fn trainable(d: &Description, from: &Path, objective: &Objective) -> Result<(TransformerConfig, u32)> {
    let (place, family) = (from.display(), d.family.name());
    let cannot = |why: &str, hint: &str| {
        Err(Error::input(format!("{place}: `{}` cannot train a {family} model", objective.name()))
            .cause(why)
            .hint(hint))
    };
    if d.family.prediction() == Prediction::NextToken {
        let Some(start) = d.special.bos.or(d.special.eos) else {
            return Err(Error::input(format!("{place}: its files name no token that a text begins with"))
                .hint("add `bos_token_id` to config.json"));
        };
        return Ok((TransformerConfig { shift: true, shift_output: false, ..d.network.clone() }, start));
    }
    let Some(mask) = d.special.mask else {
        return cannot("it has no mask token", "masked diffusion and autoregressive models can be trained so far");
    };
    match (d.family.prediction(), objective) {
        (Prediction::Score, Objective::ScoreEntropy { scaled }) if *scaled != d.scale_by_sigma => {
            cannot("its `scale_by_sigma` is another", "`objective.score_entropy.scaled` must be as in its config.json")
        }
        (Prediction::Subs | Prediction::Logits, Objective::ScoreEntropy { .. }) => {
            cannot("its output is no score", "`objective.elbo = {}`")
        }
        _ => Ok((d.network.clone(), mask)),
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
