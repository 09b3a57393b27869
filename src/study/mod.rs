//! `run`, `eval` and `export`: the stages of a study in its run directory, each skipped when its result is there.
//!
//! RUN/{recipe.toml, data/, models/NAME/{metrics.jsonl, step-*, final/, eval.json}, results.json, report/, export/NAME/,
//! replaced/NAME-N/}; several training seeds have a run directory each (`seeds`).

pub mod ask;
mod bound;
pub mod choice;
pub mod convert;
mod derived;
pub mod device;
pub mod dry_run;
mod evaluate;
pub mod exports;
mod kept;
mod place;
pub mod seeds;
mod shape;
pub mod stored;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::prelude::Device;

use crate::checkpoint::{self, Extras, LoadedModel, ModelCard, origin, whole};
use crate::data::Data;
use crate::error::{Error, Kind, Result};
use crate::eval::context::ContextPoint;
use crate::eval::results::Results;
use crate::method::Parents;
use crate::model::params;
use crate::process::Order;
use crate::process::d3pm::{self, Matrix, Neighbours};
use crate::recipe::{BASE, Loaded, ModelConfig, Network, Recipe, Written, parse};
use crate::term::{self, Interrupt};
use crate::train::{self, Draws, Job, Run, Start, Trained, state};
use crate::weights::{Storage, Weights};
use crate::{alloc, eval, fs, report};
use ask::Ask;
pub use bound::of_this_run;
pub use shape::{Shape, shape};

/// A study opened in its run directory, locked against a second process.
pub struct Study {
    pub recipe: Recipe,
    pub text: String,
    pub dir: PathBuf,
    pub data: Data,
    pub device: Device,
    base: PathBuf,
    /// The recipe as the user wrote it, for the places of errors.
    written: Written,
    /// What is not as the recipe says, but can be done.
    notes: Vec<String>,
    device_name: String,
    interrupt: Interrupt,
    /// The command that does the whole study, for hints.
    command: String,
    /// Hashes of what the data is, and of public checkpoints.
    sources: BTreeMap<String, String>,
    bases: bound::Bases,
    /// The points of `eval.context`.
    context: Option<Vec<ContextPoint>>,
    /// Models that are to be trained again although they are finished.
    retrain: RefCell<BTreeSet<String>>,
    /// Models of which was said that they are of an older version.
    warned: RefCell<BTreeSet<String>>,
    /// The right to work in the directory; none where it is only read.
    claim: Option<fs::Claim>,
    _reading: Option<fs::RunLock>,
}

/// Where a study works: its directory, that of its data, and the command that does it, for hints.
struct Site {
    dir: PathBuf,
    data: PathBuf,
    command: String,
}

impl Study {
    /// Opens `dir` (default `runs/<name>`) for `loaded`.
    ///
    /// # Errors
    /// Another process in the directory, another recipe in it, data that cannot be read.
    pub fn open(loaded: Loaded, dir: Option<PathBuf>, device: (Device, &str), interrupt: Interrupt) -> Result<Study> {
        let dir = dir.unwrap_or_else(|| Path::new("runs").join(&loaded.recipe.name));
        let (data, command) = (seeds::data_dir(&dir), command(&loaded, &dir, device.1));
        Study::open_at(loaded, Site { dir, data, command }, device, interrupt)
    }

    /// The same at a given place. Nothing is left in a new directory where this fails.
    fn open_at(loaded: Loaded, site: Site, device: (Device, &str), interrupt: Interrupt) -> Result<Study> {
        let claim = claim(&site.dir, &site.data, &loaded)?;
        // What was trained already stays with its text.
        if !site.dir.join("models").exists() {
            Data::check_start(&loaded.recipe.data, &loaded.base).map_err(|e| loaded.written.located(e))?;
        }
        let data = Data::prepare(&loaded.recipe.data, &loaded.base, site.data.as_path());
        let data = data.map_err(|e| loaded.written.located(e))?;
        // What the evaluation will need is missed before anything is trained.
        let notes = match loaded.recipe.check_with(&data, &loaded.base) {
            Err(broken) if loaded.finished => {
                stored::passed_over(&loaded.written.located(broken));
                Vec::new()
            }
            notes => notes.map_err(|e| loaded.written.located(e))?,
        };
        let points = loaded.recipe.eval.context.as_ref();
        let context = points.map(|path| eval::context::load(&loaded.base.join(path))).transpose()?;
        let study = Study::with(loaded, site, data, device, interrupt)?;
        Ok(Study { claim: Some(claim), notes, context, ..study })
    }

    /// Opens the run in `dir` to read from it what is finished: nothing is written there, and others may read at once.
    ///
    /// # Errors
    /// A process that works in the directory, data that cannot be read.
    pub fn open_to_read(loaded: Loaded, dir: &Path, device: (Device, &str), interrupt: Interrupt) -> Result<Study> {
        let reading = fs::RunLock::to_read(dir)?;
        let command = command(&loaded, dir, device.1);
        let site = Site { dir: dir.to_path_buf(), data: seeds::data_dir(dir), command };
        let (config, base) = (&loaded.recipe.data, &loaded.base);
        let data = Data::prepare(config, base, site.data.as_path()).or_else(|e| match e.kind {
            // Where nothing can be written the tokens are not kept.
            Kind::Io => Data::prepare(config, base, None),
            _ => Err(e),
        });
        let data = data.map_err(|e| loaded.written.located(e))?;
        let study = Study::with(loaded, site, data, device, interrupt)?;
        Ok(Study { _reading: reading, ..study })
    }

    fn with(loaded: Loaded, site: Site, data: Data, device: (Device, &str), interrupt: Interrupt) -> Result<Study> {
        let Loaded { recipe, text, base, written, .. } = loaded;
        let (device, device_name) = device;
        let (device_name, sources) = (device_name.to_string(), bound::data_sources(&data)?);
        Ok(Study {
            recipe,
            text,
            dir: site.dir,
            data,
            device,
            base,
            written,
            notes: Vec::new(),
            device_name,
            interrupt,
            command: site.command,
            sources,
            bases: RefCell::default(),
            context: None,
            retrain: RefCell::default(),
            warned: RefCell::default(),
            claim: None,
            _reading: None,
        })
    }

    /// Stores the recipe in the run directory: from now on there is something to keep.
    fn keep(&self) -> Result<()> {
        match &self.claim {
            Some(claim) => keep(claim, &self.dir, &self.recipe, &self.text, &self.base),
            None => Ok(()),
        }
    }

    /// The study's data.
    pub fn data(&self) -> &Data {
        &self.data
    }

    fn model_dir(&self, name: &str) -> PathBuf {
        self.dir.join("models").join(name)
    }

    fn final_dir(&self, name: &str) -> PathBuf {
        self.model_dir(name).join("final")
    }

    /// The finished model `name`.
    ///
    /// # Errors
    /// A model that is not there or not finished (usage), or that is damaged (input); I/O.
    pub fn finished(&self, name: &str) -> Result<LoadedModel> {
        self.recipe.model(name)?;
        let manifest = self.verified(name)?;
        self.fetch_base(name)?;
        self.agrees(name, &manifest)?;
        let done = checkpoint::read(&self.final_dir(name), &self.device)?;
        alloc::settle(params::count(&done.model));
        Ok(done)
    }

    /// Trains what is missing: every model, or `only` and its teachers.
    ///
    /// # Errors
    /// A model that is not there, or is another recipe's (usage); one that is damaged (input); too little memory (device); a
    /// loss or gradient that is not finite (non-finite); a signal; I/O.
    pub fn train(&self, only: Option<&str>) -> Result<()> {
        let wanted = self.wanted(only)?;
        self.check_bound(&wanted)?;
        // What cannot be trained is missed before the first of them is.
        let again = |name: &str| self.retrain.borrow().contains(name);
        let missing = |name: &&str| !fs::is_there(&self.final_dir(name)) || again(name);
        let missing: Vec<&str> = wanted.iter().copied().filter(missing).collect();
        missing.iter().try_for_each(|name| self.shape(name).map(drop))?;
        // What will not fit is told before hours are spent on what does, and before the directory is taken.
        self.ask().study(&missing, only.is_none() && !self.has_results(), &self.dir)?;
        self.keep()?;
        wanted.into_iter().try_for_each(|name| self.train_model(name))
    }

    /// Whether there are results of an evaluation already: what it needs was there then.
    fn has_results(&self) -> bool {
        self.dir.join("results.json").exists()
    }

    /// The study, to be asked for its memory.
    fn ask(&self) -> Ask<'_> {
        let begun = Some(self);
        Ask { recipe: &self.recipe, data: &self.data, base: &self.base, device: &self.device, begun }
    }

    fn train_model(&self, name: &str) -> Result<()> {
        let model = self.recipe.model(name)?;
        let dir = self.model_dir(name);
        self.make_way(name)?;
        if self.is_finished(name)? {
            return Ok(());
        }
        let last = state::newest_record(&dir).map(|(step, _)| step).filter(|step| *step >= model.train.steps);
        if let Some(step) = last.filter(|_| !fs::is_there(&self.final_dir(name))) {
            term::note(&format!("{name}: final/ is missing and is made again from {}", state::checkpoint_name(step)));
        }
        let (fingerprint, again) = (self.fingerprint(name)?, self.again(&BTreeSet::from([name])));
        fs::create_dir(&dir)?;
        let shape = self.shape(name)?;
        let (length, seed) = (self.data.length(), self.recipe.seed(model));
        let size = shape.network.parameters(shape.vocab, length).try_into().unwrap_or(usize::MAX);
        alloc::settle(size);
        if model.from.is_some() {
            say_of_checkpoint(name, &shape);
        }
        let card = ModelCard { neighbours: self.neighbours(model)?, ..self.card(name, model, &shape, 0, 0.0)? };
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
        let start = start.map(|tensors| Weights { tensors: shape.begun(tensors), ..Weights::default() });
        // A student of its teacher's own shape starts as a copy, and needs the network itself no more.
        let base = base.filter(|base| shape.lora.is_some() || shape.shallower() || shape.sees_otherwise(base));
        // One that starts as another model than its teacher needs both.
        let other = Recipe::teacher(model).filter(|teacher| Recipe::source(model) != Some(teacher));
        let other = other.map(|teacher| self.finished(teacher)).transpose()?;
        let teacher = base.as_ref().filter(|_| Recipe::teacher(model).is_some());
        let teacher = other.as_ref().map(|other| &other.model).or(teacher);
        let student = student.filter(|_| shape.lora.is_some());
        let frozen = student.as_ref().zip(shape.lora.as_ref());
        let trained = if taken {
            None
        } else if let Some(start) = start.as_ref().filter(|_| model.train.steps == 0) {
            Some(Trained { weights: start.tensors.clone(), tokens: 0, seconds: 0.0, last_loss: 0.0 })
        } else {
            let orders = model.order.all(positions);
            let taught = self.teacher_orders(model)?;
            let job = Job {
                name,
                dir: &dir,
                config: &model.train,
                method: model.objective.method(),
                network: shape.frame(length),
                start: match (frozen, &start) {
                    (Some((frozen, plan)), _) => Start::Adapters(frozen, plan),
                    (None, Some(weights)) => Start::Weights(weights),
                    (None, None) => Start::New,
                },
                orders: &orders,
                parents: Parents {
                    teacher,
                    orders: &taught,
                    latent: codec.as_ref().zip(latent).map(|(codec, (_, config))| (&codec.model, config)),
                    classified: of.as_ref().zip(classified).map(|(of, (_, config))| (&of.model, config)),
                    matrices: matrices.as_deref(),
                },
                draws: Draws { seed, batch: &draw },
                run: Run { device: &self.device, interrupt: &self.interrupt, fingerprint: &fingerprint, again: &again },
            };
            let _busy = alloc::training(size);
            Some(self.ask().advised(name, || train::train(&job))?)
        };
        self.finish(name, trained, card, &shape, codec.as_ref(), &fingerprint)
    }

    /// Writes what a training left as the finished model.
    fn finish(
        &self,
        name: &str,
        trained: Option<Trained>,
        card: ModelCard,
        shape: &Shape,
        codec: Option<&LoadedModel>,
        fingerprint: &train::Fingerprint,
    ) -> Result<()> {
        let dir = self.model_dir(name);
        let (seconds, tokens) = trained.as_ref().map_or((0.0, 0), |t| (t.seconds, t.tokens));
        let card = ModelCard { train_tokens: tokens, train_seconds: seconds, ..card };
        let loss = trained.as_ref().map_or(0.0, |t| t.last_loss);
        let parameters = trained.as_ref().map(|t| t.weights.values().map(|t| t.data.len()).sum::<usize>());
        let tokenizer = shape.tokenizer.clone().unwrap_or_else(|| self.data.tokenizer());
        self.set_final_aside(name)?;
        fs::commit_dir(&dir, "final", |tmp| {
            let extras = Extras { tokenizer: Some(&tokenizer), recipe: &self.text, results: None, call: None };
            match (trained.map(|t| t.weights), &shape.lora) {
                (Some(weights), None) => checkpoint::write(tmp, &card, weights, &extras)?,
                (adapters, lora) => {
                    let origin = self.origin(name, shape)?;
                    if let Some((plan, adapters)) = lora.as_ref().zip(adapters) {
                        self.write_adapters(tmp, name, shape, plan, &adapters)?;
                    }
                    origin::write(tmp, &origin)?;
                    checkpoint::write_beside(tmp, &card, &extras)?;
                }
            }
            if let Some(codec) = codec {
                checkpoint::write_codec(tmp, codec, &self.text, Storage::Kept)?;
            }
            let extra = serde_json::json!({
                "fingerprint": fingerprint, "seconds": seconds, "loss": loss, whole::DEVICE: self.device_name
            });
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
        let Some(chain) = model.objective.facts().chain else { return Ok(None) };
        let Matrix::Neighbours { model: other, k } = chain.matrix else { return Ok(None) };
        let named = params::export(&self.finished(other)?.model);
        // A diffusion of embeddings has its tokens' vectors in the codebook.
        let (embedding, vocab) = (named.get("vectors.codebook").unwrap_or_else(|| &named["embed"]), self.data.vocab());
        let width = embedding.shape[1];
        Ok(Some(d3pm::nearest(&embedding.data[..vocab * width], width, *k)))
    }

    fn shape(&self, name: &str) -> Result<Shape> {
        shape(&self.recipe, name, &self.data, &self.base).map_err(|e| self.written.located(e))
    }

    /// Positions that a model's order goes over: those of a text, or its latents.
    fn positions(&self, name: &str) -> Result<usize> {
        let length = self.data.length();
        Ok(match self.recipe.network(name)? {
            Network::Given(network) => network.vectors.as_ref().map_or(length, |v| v.count),
            Network::From(_) => length,
        })
    }

    fn card(&self, name: &str, model: &ModelConfig, shape: &Shape, tokens: u64, seconds: f64) -> Result<ModelCard> {
        let facts = model.objective.facts();
        Ok(ModelCard {
            architectures: vec!["FewstepTransformer".into()],
            model_type: "fewstep".into(),
            fewstep_version: env!("CARGO_PKG_VERSION").into(),
            name: name.into(),
            vocab_size: shape.vocab,
            mask_token_id: shape.mask as usize,
            excluded_token_ids: shape.excluded.clone(),
            end_token_id: self.data.end(),
            max_position_embeddings: shape.length,
            network: shape.network.clone(),
            order: model.order.clone(),
            schedule: facts.on_tokens().then_some(facts.schedule),
            corruption: facts.on_tokens().then_some(facts.corruption),
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
        self.notes.iter().for_each(|note| term::warn(note));
    }

    /// The whole study: train, evaluate, report, export. The results, and the files of the report.
    ///
    /// # Errors
    /// As [`Study::train`], [`Study::evaluate`] and [`Study::export`]; a report that cannot be written (I/O).
    pub fn complete(&self) -> Result<(Results, Vec<PathBuf>)> {
        self.announce();
        self.train(None)?;
        let results = self.evaluate(None)?;
        let written = report::write(&results, &self.dir.join("report"))?;
        self.export_all(&results, &self.dir.join("export"))?;
        Ok((results, written))
    }

    /// The same; prints the table and where everything is, or all results as JSON.
    ///
    /// # Errors
    /// As [`Study::complete`].
    pub fn run(&self, as_json: bool) -> Result<()> {
        let (results, written) = self.complete()?;
        say(&results, &written, as_json)
    }
}

/// Says what was passed over in a checkpoint, and how its tokens fit the data's.
fn say_of_checkpoint(name: &str, shape: &Shape) {
    shape.notes.iter().for_each(|note| term::warn(note));
    if let Some((rows, vocab)) = &shape.rows {
        term::note(&format!("{name}: {}", rows.summary(*vocab)));
    }
}

/// Takes `dir` for work on this recipe: locked, and cleared of what killed processes left. `data` is where its data is cached.
///
/// # Errors
/// Another process in the directory, a study of another name in it, a recipe.toml that is not of a run, a part of
/// the directory that is a link.
fn claim(dir: &Path, data: &Path, loaded: &Loaded) -> Result<fs::Claim> {
    let claim = fs::Claim::take(dir, data)?;
    place::clear(dir)?;
    let other = |why: String| {
        Error::usage(format!("{} holds a run of another recipe", dir.display()))
            .cause(why)
            .hint("give another `--out DIR`")
    };
    let stored = dir.join("recipe.toml");
    if !stored.exists() {
        return Ok(claim);
    }
    let is_run = [BASE, "models", "seeds"].iter().any(|name| dir.join(name).exists());
    let same = || fs::read_limited(&stored, 16 << 20).is_ok_and(|there| there == loaded.text.as_bytes());
    if !is_run && !same() {
        return Err(other(format!("{} is not of a run, and would be replaced", stored.display())));
    }
    let trained = ["models", "seeds"].iter().any(|name| dir.join(name).exists());
    match stored_recipe(dir).filter(|before| trained && before.name != loaded.recipe.name) {
        Some(before) => Err(other(format!("- name = \"{}\"\n+ name = \"{}\"", before.name, loaded.recipe.name))),
        None => Ok(claim),
    }
}

/// The recipe of the last run in `dir`, where this version can read it.
fn stored_recipe(dir: &Path) -> Option<Recipe> {
    let bytes = fs::read_limited(&dir.join("recipe.toml"), 16 << 20).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    parse::parse::<Recipe>(&text, "the stored recipe", &[]).ok().map(|parsed| parsed.value)
}

/// Stores the recipe in the claimed directory `dir`, and says what changed since the last run there.
fn keep(claim: &fs::Claim, dir: &Path, recipe: &Recipe, text: &str, base: &Path) -> Result<()> {
    let stored = dir.join("recipe.toml");
    if let Some(before) = stored_recipe(dir) {
        let changed = recipe.changed_since(&before)?;
        if !changed.is_empty() {
            term::note(&format!("changed since the last run here: {}", changed.join(", ")));
        }
    }
    // `eval` on the run directory finds the text where `run` found it, wherever it is started from.
    let absolute = std::path::absolute(base).map_err(|e| Error::io("find", base, &e))?;
    for (path, text) in [(stored, text), (dir.join(BASE), &absolute.to_string_lossy())] {
        if !fs::read_limited(&path, 16 << 20).is_ok_and(|there| there == text.as_bytes()) {
            fs::write_atomic(&path, text.as_bytes())?;
        }
    }
    claim.keep();
    Ok(())
}

/// The command that does a study in `dir` on a device, for hints.
fn command(loaded: &Loaded, dir: &Path, device: &str) -> String {
    let device = if device == whole::USUAL { String::new() } else { format!(" --device {device}") };
    format!("{}{device}", loaded.command(dir))
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
