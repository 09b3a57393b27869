//! What a training must remember, and its checkpoints: a directory written whole or not at all.
//!
//! `step-000812/{model,ema,teacher,critic,optim,critic-optim}.safetensors, manifest.json`; under adapters these alone. Randomness, data order and learning rate are
//! functions of the step, so nothing about them is stored; the teacher and the round of a distillation are, and the range of
//! noise that was searched.

use std::path::{Path, PathBuf};

use burn::module::Module;
use serde::{Deserialize, Serialize};

use super::Job;
use super::fingerprint::{Changed, Mismatch, Stored};
use super::log::{self, Mark};
use crate::error::{Error, Kind, Result};
use crate::fs;
use crate::method::{LatentDistillConfig, Method, NoiseRange, Objective};
use crate::model::Transformer;
use crate::optim::{Decay, Optimizer};
use crate::process::duality::Duality;
use crate::term;
use crate::weights::{self, NonFinite, Weights};

/// The state of a training between two steps.
pub struct TrainState {
    pub step: usize,
    /// On an autodiff device.
    pub model: Transformer,
    /// With the moving averages of the weights.
    pub optimizer: Optimizer,
    pub teacher: Option<Transformer>,
    /// The network that follows the student's own samples, of a distribution matching.
    pub critic: Option<Critic>,
    /// The Gaussian process of an objective that has one.
    pub duality: Option<Duality>,
    /// Distillation round the teacher belongs to.
    pub round: usize,
    /// Times that are trained on, as the last search left them.
    pub range: NoiseRange,
    pub tokens: u64,
    pub seconds: f64,
    pub last_loss: f64,
    /// How the log was when this state was saved; none of one that was not.
    pub log: Option<Mark>,
}

/// A second network with its own optimiser.
pub struct Critic {
    /// On an autodiff device.
    pub model: Transformer,
    pub optimizer: Optimizer,
}

/// Whether training has a teacher, and a critic.
fn third_networks(objective: &Objective) -> (bool, bool) {
    let matching = |c: &LatentDistillConfig| matches!(c.method, Method::Matching(_));
    (
        objective.distils() || objective.shared().is_some(),
        matches!(objective, Objective::LatentDistill(c) if matching(c)),
    )
}

/// The part of a checkpoint that is not a tensor: what its manifest adds to the list of files.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    format: u32,
    fewstep: String,
    step: usize,
    round: usize,
    /// None: the one that a training begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    range: Option<NoiseRange>,
    tokens: u64,
    seconds: f64,
    last_loss: f64,
    fingerprint: Stored,
    /// None: of fewstep 0.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log: Option<Mark>,
}

/// 2: moments in safetensors.
const FORMAT: u32 = 2;

/// File of a model's directory that says whether a checkpoint was saved there: where it does and there is none, they were
/// lost. A training begins with [`NOTHING`] in it; one of fewstep 0.1.0 has no such file.
const SAVED: &str = "saved";
const NOTHING: &str = "nothing";
const SOMETHING: &str = "a checkpoint";

impl Record {
    /// That of a checkpoint's manifest, which is called `place` in messages. Errors (input): it is not one, or of another version.
    pub fn parse(place: &str, extra: serde_json::Value) -> Result<Record> {
        let record: Record =
            serde_json::from_value(extra).map_err(|e| Error::input(format!("{place}: manifest: {e}")))?;
        match record.format == FORMAT {
            true => Ok(record),
            false => Err(Error::input(format!(
                "{place}: written by fewstep {} in checkpoint format {}",
                record.fewstep, record.format
            ))
            .hint(format!("go on with fewstep {}, or train again with another `--out DIR`", record.fewstep))),
        }
    }
}

/// Directory name of the checkpoint after `step` steps.
pub fn checkpoint_name(step: usize) -> String {
    format!("step-{step:06}")
}

/// Checkpoint directories of `dir`, newest first.
fn checkpoints(dir: &Path) -> Vec<(usize, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<(usize, PathBuf)> = entries
        .flatten()
        .filter_map(|e| {
            let step = e.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, e.path()))
        })
        .collect();
    found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    found
}

/// The newest checkpoint directory of `dir`, verified or not.
pub fn newest_checkpoint(dir: &Path) -> Option<PathBuf> {
    checkpoints(dir).into_iter().next().map(|c| c.1)
}

/// Step and fingerprint of the newest checkpoint in `dir` whose manifest is sound; its other files are not looked at.
pub fn newest_record(dir: &Path) -> Option<(usize, Stored)> {
    checkpoints(dir).into_iter().find_map(|(_, dir)| {
        let manifest = fs::read_manifest(&dir).ok()?;
        let record: Record = serde_json::from_value(manifest.extra).ok()?;
        Some((record.step, record.fingerprint))
    })
}

/// The fingerprint of the newest checkpoint in `dir` that verifies.
pub fn newest_sound(dir: &Path) -> Option<Stored> {
    checkpoints(dir).into_iter().find_map(|(_, dir)| {
        let manifest = fs::verify_manifest(&dir).ok()?;
        Some(serde_json::from_value::<Record>(manifest.extra).ok()?.fingerprint)
    })
}

/// Whether a checkpoint was ever saved in `dir`, although none may be left; unknown of fewstep 0.1.0.
fn said_to_be_saved(dir: &Path) -> Option<bool> {
    let text = fs::read_limited(&dir.join(SAVED), 1 << 10).ok()?;
    Some(text.trim_ascii() != NOTHING.as_bytes())
}

impl TrainState {
    fn start(job: &Job) -> Result<Self> {
        let device = job.device.clone().autodiff();
        let model = match (job.start, job.frozen) {
            (_, Some((frozen, plan))) => {
                frozen.with_adapters(plan, &plan.initial(job.seed), "new adapters", &device)?
            }
            (Some(weights), None) => Transformer::from_weights(
                job.network,
                job.vocab,
                job.length,
                weights,
                "the teacher's weights",
                &device,
            )?,
            (None, None) => Transformer::init(job.network, job.vocab, job.length, job.seed, &device),
        };
        let model = model.with_mask(job.mask as usize).with_tokens(job.tokens).without(job.excluded);
        let (taught, criticised) = third_networks(job.objective);
        let teacher = taught.then(|| job.teacher.map_or_else(|| model.valid(), Transformer::clone));
        // The critic starts as the teacher, which is what the student starts as.
        let critic = criticised.then(|| Critic { model: model.clone(), optimizer: Optimizer::new(&model, false) });
        Ok(TrainState {
            step: 0,
            optimizer: Optimizer::new(&model, job.config.ema.is_some()),
            teacher,
            critic,
            duality: duality(job)?,
            model,
            round: 0,
            range: first_range(job),
            tokens: 0,
            seconds: 0.0,
            last_loss: f64::NAN,
            log: None,
        })
    }

    /// The state of the newest checkpoint that verifies, or a fresh start where none was ever saved.
    ///
    /// Errors: a checkpoint of another recipe or of more steps (exit 2), of other data, or checkpoints of which none is left
    /// or verifies (exit 3).
    pub fn resume_or_start(job: &Job) -> Result<Self> {
        fs::remove_stale_tmp(job.dir)?;
        let found = checkpoints(job.dir);
        let mut bad: Vec<Error> = Vec::new();
        for (_, dir) in &found {
            match Self::load(job, dir) {
                Ok(state) => {
                    bad.iter().for_each(|b| term::warn(&format!("{}; using {}", b.message, dir.display())));
                    tidy(job)?;
                    return Ok(state);
                }
                Err(Refused::Damaged(e)) => bad.push(e),
                Err(Refused::Other(e)) => return Err(e),
            }
        }
        if let Some(first) = bad.first() {
            let error = Error::input(format!("no checkpoint in {} can be used", job.dir.display()))
                .cause(&first.message)
                .hint(first.hint.clone().unwrap_or_else(|| format!("train it anew: `{}`", job.again)));
            return Err(first.causes.iter().fold(error, Error::cause));
        }
        let told = log::last_step(job.dir);
        let due = job.config.save_every as u64;
        if said_to_be_saved(job.dir).unwrap_or(due > 0 && told > due) {
            return Err(Error::input(format!("the checkpoints of `{}` are gone from {}", job.name, job.dir.display()))
                .cause(format!("{} tells of step {told}", log::FILE))
                .hint(format!("put them back, or train it anew: `{}`", job.again)));
        }
        if told > 0 {
            term::note(&format!("{}: no checkpoint was saved before step {told}; it starts at step 0", job.name));
        }
        let state = Self::start(job)?;
        fs::write_atomic(&job.dir.join(SAVED), NOTHING.as_bytes())?;
        Ok(state)
    }

    fn load(job: &Job, dir: &Path) -> std::result::Result<Self, Refused> {
        let manifest = fs::verify_manifest(dir)?;
        let damaged = |what: String| Refused::Damaged(Error::input(format!("{}: {what}", dir.display())));
        let record = Record::parse(&dir.display().to_string(), manifest.extra).map_err(Refused::Damaged)?;
        bound(job, &record).map_err(Refused::Other)?;
        let device = job.device.clone().autodiff();
        let read = |name: &str| -> Result<Option<Weights>> {
            let path = dir.join(format!("{name}.safetensors"));
            if path.exists() { Ok(Some(weights::read(&path, NonFinite::Refuse)?)) } else { Ok(None) }
        };
        let network = |named: &Weights, name: &str, device: &burn::prelude::Device| -> Result<Transformer> {
            let place = dir.join(format!("{name}.safetensors")).display().to_string();
            let model = match job.frozen {
                Some((frozen, plan)) => frozen.with_adapters(plan, &named.tensors, &place, device)?,
                None => Transformer::from_weights(job.network, job.vocab, job.length, named, &place, device)?,
            };
            Ok(model.with_mask(job.mask as usize).with_tokens(job.tokens).without(job.excluded))
        };
        let Some(named) = read("model")? else { return Err(damaged("no model.safetensors".into())) };
        let model = network(&named, "model", &device)?;
        let plain = |name: &str| -> Result<Option<Transformer>> {
            read(name)?.map(|n| network(&n, name, job.device)).transpose()
        };
        let ema = plain("ema")?;
        let teacher = match job.teacher.filter(|_| record.round == 0) {
            Some(teacher) => Some(teacher.clone()),
            None => plain("teacher")?,
        };
        let critic = match (read("critic")?, read("critic-optim")?) {
            (Some(named), Some(moments)) => {
                let model = network(&named, "critic", &device)?;
                let optimizer = Optimizer::restored(&model, None, &moments.tensors)
                    .map_err(|e| damaged(format!("critic-optim.safetensors: {e}")))?;
                Some(Critic { model, optimizer })
            }
            _ => None,
        };
        let has = (teacher.is_some(), critic.is_some());
        if ema.is_some() != job.config.ema.is_some() || has != third_networks(job.objective) {
            return Err(damaged("the average, the teacher or the critic is missing".into()));
        }
        let Some(moments) = read("optim")? else { return Err(damaged("no optim.safetensors".into())) };
        let optimizer = Optimizer::restored(&model, ema.as_ref(), &moments.tensors)
            .map_err(|e| damaged(format!("optim.safetensors: {e}")))?;
        Ok(TrainState {
            step: record.step,
            model,
            optimizer,
            teacher,
            critic,
            duality: duality(job)?,
            round: record.round,
            range: record.range.unwrap_or_else(|| first_range(job)),
            tokens: record.tokens,
            seconds: record.seconds,
            last_loss: record.last_loss,
            log: record.log,
        })
    }

    /// Commits the checkpoint of the current step, with the log as it is then, and removes old ones, keeping the newest `keep`.
    ///
    /// Errors: weights that are not finite (exit 5), I/O.
    pub fn save(&self, job: &Job, log: Mark) -> Result<()> {
        let name = checkpoint_name(self.step);
        if fs::verify_manifest(&job.dir.join(&name)).is_ok() {
            return tidy(job);
        }
        let extra = Record {
            format: FORMAT,
            fewstep: env!("CARGO_PKG_VERSION").to_string(),
            step: self.step,
            round: self.round,
            range: Some(self.range).filter(|r| *r != first_range(job)),
            tokens: self.tokens,
            seconds: self.seconds,
            last_loss: self.last_loss,
            fingerprint: Stored::Whole(job.fingerprint.clone()),
            log: Some(log),
        };
        let extra = serde_json::to_value(extra)
            .map_err(|e| Error::new(Kind::Io, format!("cannot describe the checkpoint: {e}")))?;
        let ema = self.optimizer.averaged(&self.model);
        // The first round's teacher may lie elsewhere.
        let kept = job.objective.distils() && (job.teacher.is_none() || self.round > 0);
        let teacher = self.teacher.as_ref().filter(|_| kept);
        let critic = self.critic.as_ref().map(|c| &c.model);
        let parts = [("model", Some(&self.model)), ("ema", ema.as_ref()), ("teacher", teacher), ("critic", critic)];
        fs::commit_dir(job.dir, &name, |tmp| {
            for (part, model) in parts {
                let Some(model) = model else { continue };
                let tensors = model.trained();
                if let Some((bad, _)) = tensors.iter().find(|(_, t)| t.data.iter().any(|v| !v.is_finite())) {
                    return Err(Error::new(
                        Kind::NonFinite,
                        format!("`{}`: weight `{bad}` is not finite at step {}", job.name, self.step),
                    )
                    .hint(format!("lower the learning rate or set `clip`, then {}", anew(job))));
                }
                weights::write(&tmp.join(format!("{part}.safetensors")), &Weights { tensors, ..Weights::default() })?;
            }
            let moments = Weights { tensors: self.optimizer.moments(), ..Weights::default() };
            weights::write(&tmp.join("optim.safetensors"), &moments)?;
            if let Some(critic) = &self.critic {
                let moments = Weights { tensors: critic.optimizer.moments(), ..Weights::default() };
                weights::write(&tmp.join("critic-optim.safetensors"), &moments)?;
            }
            fs::write_manifest(tmp, extra).map(|_| ())
        })?;
        tidy(job)
    }
}

/// What follows a save: it is noted that there was one, and old checkpoints go, but the newest `keep`. A process that was killed
/// in between has it done by the next one.
fn tidy(job: &Job) -> Result<()> {
    if said_to_be_saved(job.dir) != Some(true) {
        fs::write_atomic(&job.dir.join(SAVED), SOMETHING.as_bytes())?;
    }
    let whole = checkpoints(job.dir).into_iter().filter(|(_, dir)| fs::verify_manifest(dir).is_ok());
    for (_, old) in whole.skip(job.config.keep) {
        fs::remove_dir(&old)?;
    }
    Ok(())
}

/// The times that a training begins with.
fn first_range(job: &Job) -> NoiseRange {
    match job.objective {
        Objective::Elbo { clip: Some(clip), .. } => clip.start(),
        _ => NoiseRange::WHOLE,
    }
}

/// The Gaussian process of a training that has one, from its directory where it is there already.
fn duality(job: &Job) -> Result<Option<Duality>> {
    job.objective.ends().map(|ends| Duality::cached(job.vocab, ends, job.dir)).transpose()
}

/// Why a checkpoint is not taken up.
enum Refused {
    /// It is damaged: the one before may be whole.
    Damaged(Error),
    /// It must not be passed over.
    Other(Error),
}

impl From<Error> for Refused {
    fn from(e: Error) -> Self {
        if e.kind == Kind::Input { Refused::Damaged(e) } else { Refused::Other(e) }
    }
}

/// Refuses a checkpoint of another recipe, of other data or of more steps; says what another number of steps means.
fn bound(job: &Job, record: &Record) -> Result<()> {
    let place = format!("`{}` in {}", job.name, job.dir.display());
    match job.fingerprint.mismatch(&record.fingerprint) {
        None => {}
        Some(Mismatch::Settings(lines)) => {
            return Err(Error::usage(format!("{place} was trained by another recipe"))
                .cause(lines.into_iter().take(10).collect::<Vec<_>>().join("\n"))
                .hint(format!("undo the change, give another `--out DIR`, or train it anew: `{}`", job.again)));
        }
        Some(Mismatch::Sources(changed)) => {
            let error = Error::input(format!("{place} was trained on something that has changed"));
            let error = changed.iter().map(Changed::line).fold(error, Error::cause);
            return Err(error.hint(format!("put back what it was, or train it anew: `{}`", job.again)));
        }
    }
    if let Stored::Settings(_) = record.fingerprint {
        term::warn(&format!(
            "{place} was begun by an earlier fewstep, which stored no hash of its data: it is not checked"
        ));
    }
    let steps = job.config.steps;
    if record.step > steps {
        let key = format!("model.{}.train.steps", job.name);
        return Err(Error::usage(format!("{place} is at step {}, and `{key}` is {steps}", record.step))
            .hint(format!("give at least `{key} = {}`, or train it anew: `{}`", record.step, job.again)));
    }
    match record.fingerprint.steps() {
        Some(before) if before != steps => longer(job, before, record.step),
        _ => {}
    }
    Ok(())
}

/// Says that a training has another number of steps than it began with, and what that means.
fn longer(job: &Job, before: usize, at: usize) {
    let (name, steps) = (job.name, job.config.steps);
    term::note(&format!("{name}: goes on from step {at} to {steps} (`model.{name}.train.steps` was {before})"));
    let mut not_alike = Vec::new();
    if job.config.decay != Decay::Constant {
        let rate = |steps: usize| super::TrainConfig { steps, ..job.config.clone() }.learning_rate(at);
        not_alike.push(format!(
            "the learning rate at step {at} is {:.1e} where it was {:.1e}",
            rate(steps),
            rate(before)
        ));
    }
    if job.objective.distils() {
        not_alike.push("the rounds of the distillation are shared out anew".to_string());
    }
    if !not_alike.is_empty() {
        term::warn(&format!("{name}: not the same as {steps} steps from the start: {}", not_alike.join(", and ")));
    }
}

/// What to type once the recipe is mended: a model with a checkpoint is bound to its recipe.
pub fn anew(job: &Job) -> String {
    match newest_checkpoint(job.dir).is_some() {
        true => format!("train it anew: `{}`", job.again),
        false => "run the same command".to_string(),
    }
}
