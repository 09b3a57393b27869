//! `run`, `eval` and `export`: the stages of a study in its run directory, each skipped when its result is there.
//!
//! RUN/{recipe.toml, data/, models/NAME/{metrics.jsonl, step-*, final/, eval.json}, results.json, report/, export/NAME/}.

mod derived;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::prelude::Device;
use serde::{Deserialize, Serialize};

use crate::data::Data;
use crate::error::{Error, Kind, Result};
use crate::eval::results::{Environment, ModelResult, Results, Role};
use crate::eval::{self, Scorer};
use crate::export::origin;
use crate::export::{self, Extras, LoadedModel, ModelCard};
use crate::model::config::Compute;
use crate::model::family::{self, LoadOptions, Prediction, Storage};
use crate::model::transformer::lora::{Plan, check_layers};
use crate::model::{Denoise, Oracle, Transformer, TransformerConfig, params};
use crate::objective::Objective;
use crate::process::Corruption;
use crate::recipe::{Loaded, ModelConfig, Network, Recipe, parse};
use crate::sample::Process;
use crate::term::{self, Interrupt};
use crate::train::{self, Job};
use crate::weights::Weights;
use crate::{fs, report};

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
        export::read(&dir, &self.device)
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
        let batch = model.train.batch;
        let draw = |part: u64| self.data.batch(seed, part, batch);
        let base = self.base_network(name, &shape)?;
        let student = base.as_ref().map(|base| shape.start(base));
        let start = student.as_ref().filter(|_| shape.lora.is_none() && model.train.steps > 0).map(params::export);
        let start = start.map(|tensors| Weights { tensors, ..Weights::default() });
        // A student of its teacher's own shape starts as a copy, and needs the network itself no more.
        let base = base.filter(|_| shape.lora.is_some() || shape.shallower());
        let teacher = base.as_ref().filter(|_| Recipe::teacher(model).is_some());
        let student = student.filter(|_| shape.lora.is_some());
        let frozen = student.as_ref().zip(shape.lora.as_ref());
        let trained = if model.train.steps == 0 {
            None
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
                tokens: self.data.vocab(),
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
        let card = self.card(name, model, &shape, (tokens, seconds));
        let loss = trained.as_ref().map_or(0.0, |t| t.last_loss);
        let parameters = trained.as_ref().map(|t| t.weights.values().map(|t| t.data.len()).sum::<usize>());
        fs::commit_dir(&dir, "final", |tmp| {
            let extras = Extras { tokenizer: Some(&self.data.tokenizer()), recipe: &self.text, results: None };
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
            max_position_embeddings: self.data.length(),
            network: shape.network.clone(),
            order: model.order,
            schedule: self.recipe.schedule(model),
            corruption: Corruption::Absorb,
            objective: model.objective.clone(),
            seed: self.recipe.seed(model),
            train_steps: model.train.steps,
            train_tokens: tokens,
            train_seconds: seconds,
        }
    }

    /// Evaluates what is missing and writes results.json.
    pub fn evaluate(&self, only: Option<&str>) -> Result<Results> {
        let config = &self.recipe.eval;
        let judge = config.judge.as_ref().map(|name| self.finished(name)).transpose()?;
        let scorer = match (&self.data, &judge) {
            (Data::Story(story), _) => Scorer::Story(story),
            (_, Some(judge)) => Scorer::Judge(&judge.model),
            (_, None) => return Err(Error::usage("`data.text` needs `eval.judge`")),
        };
        let held_out = self.data.held_out(config.held_out);
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
                let likelihood = eval::likelihood(&done.model, &model.objective, &process, &held_out);
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
                    likelihood: Some(likelihood),
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

    /// Exports model `name` into `out`.
    /// With `adapters_alone` what is exported of a model with adapters is these, in PEFT's layout.
    pub fn export(&self, name: &str, out: &Path, results: Option<&Results>, adapters_alone: bool) -> Result<()> {
        let model = self.recipe.model(name)?;
        if adapters_alone && model.lora.is_some() {
            return self.export_adapters(name, out);
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
                let named = params::export(&done.model);
                match &shape.keep {
                    // What it is laid out as has the same blocks: the source without the others, in a directory that goes.
                    Some(keep) => {
                        let source = out.join(".source");
                        std::fs::create_dir_all(&source).map_err(|e| Error::io("create", &source, &e))?;
                        family::shallow(from, &source, &description, keep)?;
                        let described = family::shallow_description(&description, keep)?;
                        family::export(&source, out, &described, &named, Storage::Kept)?;
                        fs::remove_dir(&source)?;
                    }
                    None => family::export(from, out, &description, &named, Storage::Kept)?,
                }
                fs::write_atomic(&out.join("recipe.toml"), self.text.as_bytes())?;
                fs::write_atomic(&out.join("README.md"), export::model_card(&card, &extras).as_bytes())
            }
            None => export::write(out, &card, params::export(&done.model), &extras),
        }
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
            self.export(name, &out, Some(&results), self.recipe.export.adapters)?;
            term::note(&format!("export {}", out.display()));
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
    pub mask: u32,
    /// The directory of the public checkpoint it comes from.
    pub from: Option<PathBuf>,
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
    if let Some(checkpoint) = lineage.iter().find_map(|m| m.checkpoint) {
        shape.network.checkpoint = checkpoint;
    }
    if let Some(lora) = &model.lora {
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
            return Ok(Shape {
                network: network.clone(),
                vocab,
                mask: vocab as u32,
                from: None,
                dtype: Compute::F32,
                keep: None,
                keeps: None,
                lora: None,
            });
        }
        Network::From(from) => match family::reference(&from.to_string_lossy())? {
            Some(_) => family::resolve(from)?,
            None => base.join(from),
        },
    };
    let (mut d, _) = family::look(&from)?;
    LoadOptions { dtype: types.weights, compute: types.compute, ..LoadOptions::default() }.configure(&mut d.network);
    let place = from.display();
    recipe.check_network(name, &d.network).map_err(|e| e.cause(format!("{place} holds {}", d.family.name())))?;
    if !matches!(d.family.prediction(), Prediction::Subs | Prediction::Logits) {
        return Err(Error::input(format!("{place}: {} cannot be trained or distilled so far", d.family.name()))
            .cause("its output is no distribution over masked tokens")
            .hint("MDLM, SDTT, LLaDA, Dream, A2D and ModernBERT can"));
    }
    let Some(mask) = d.special.mask else {
        return Err(Error::input(format!("{place}: a {} model has no mask token", d.family.name()))
            .hint("masked diffusion models alone can be trained and distilled so far"));
    };
    if d.network.learned_positions && d.length != data.length() {
        return Err(Error::usage(format!("{place} has learned positions for {} tokens", d.length))
            .cause(format!("the data has sequences of {}", data.length())));
    }
    let ours = data.tokenizer();
    let same = match family::tokenizer(&from)? {
        Some(theirs) => theirs.to_json()? == ours.to_json()?,
        // Without one beside the weights all that shows is that the ids fit.
        None => ours.vocab_size() <= d.vocab && mask as usize >= ours.vocab_size(),
    };
    if !same {
        return Err(Error::input(format!("{place} and the data have different tokenizers"))
            .cause(format!("{} tokens there with mask {mask}, {} here", d.vocab, ours.vocab_size()))
            .hint(format!("`data.text.tokenizer = {{ dir = {{ path = \"{place}\" }} }}`")));
    }
    Ok(Shape {
        network: d.network,
        vocab: d.vocab,
        mask,
        from: Some(from),
        dtype: types.weights,
        keep: None,
        keeps: None,
        lora: None,
    })
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
