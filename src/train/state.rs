//! What a training must remember, and its checkpoints: a directory written whole or not at all.
//!
//! `step-000812/{model,ema,teacher,critic,optim,critic-optim}.safetensors, manifest.json`; under adapters these alone. Randomness, data order and learning rate are
//! functions of the step, so nothing about them is stored; the teacher and the round of a distillation are, and the range of
//! noise that was searched.

use std::path::{Path, PathBuf};

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use super::Job;
use super::fingerprint::{Changed, Mismatch, Stored};
use super::log::{self, Mark};
use crate::error::{Error, Kind, Result};
use crate::fs;
use crate::method::contract::Parts;
use crate::method::{Ground, NoiseRange, Training};
use crate::model::Transformer;
use crate::optim::{Decay, Optimizer};
use crate::term;
use crate::weights::{self, NonFinite, Weights};

/// The state of a training between two steps.
pub struct TrainState<'a> {
    pub step: usize,
    /// On an autodiff device.
    pub model: Transformer,
    /// With the moving averages of the weights.
    pub optimizer: Optimizer,
    /// What the method itself keeps.
    pub training: Box<dyn Training + 'a>,
    pub tokens: u64,
    pub seconds: f64,
    pub last_loss: f64,
    /// How the log was when this state was saved; none of one that was not.
    pub log: Option<Mark>,
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
    /// That of a checkpoint's manifest, which is called `place` in messages.
    ///
    /// # Errors
    /// One that is not it, or of another version (input).
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

impl<'a> TrainState<'a> {
    pub(super) fn start(job: &Job<'a>, ground: &Ground<'a>) -> Result<Self> {
        let model = job.new_network()?;
        let mut training = job.method.begin(ground)?;
        training.start(&model);
        Ok(TrainState {
            step: 0,
            optimizer: Optimizer::new(&model, job.config.ema.is_some()),
            training,
            model,
            tokens: 0,
            seconds: 0.0,
            last_loss: f64::NAN,
            log: None,
        })
    }

    /// The state of the newest checkpoint that verifies, or a fresh start where none was ever saved.
    ///
    /// # Errors
    /// A checkpoint of another recipe or of more steps (usage), of other data, or checkpoints of which none is left or verifies
    /// (input).
    pub fn resume_or_start(job: &Job<'a>) -> Result<Self> {
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
                .hint(first.hint.clone().unwrap_or_else(|| format!("train it anew: `{}`", job.run.again)));
            return Err(first.causes.iter().fold(error, Error::cause));
        }
        let told = log::last_step(job.dir);
        let due = job.config.save_every as u64;
        if said_to_be_saved(job.dir).unwrap_or(due > 0 && told > due) {
            return Err(Error::input(format!("the checkpoints of `{}` are gone from {}", job.name, job.dir.display()))
                .cause(format!("{} tells of step {told}", log::FILE))
                .hint(format!("put them back, or train it anew: `{}`", job.run.again)));
        }
        if told > 0 {
            term::note(&format!("{}: no checkpoint was saved before step {told}; it starts at step 0", job.name));
        }
        let state = Self::start(job, &job.ground())?;
        fs::write_atomic(&job.dir.join(SAVED), NOTHING.as_bytes())?;
        Ok(state)
    }

    fn load(job: &Job<'a>, dir: &Path) -> std::result::Result<Self, Refused> {
        let manifest = fs::verify_manifest(dir)?;
        let damaged = |what: String| Refused::Damaged(Error::input(format!("{}: {what}", dir.display())));
        let record = Record::parse(&dir.display().to_string(), manifest.extra).map_err(Refused::Damaged)?;
        bound(job, &record).map_err(Refused::Other)?;
        let (plain, trained) = (job.run.device.clone(), job.run.device.clone().autodiff());
        let read = |name: &str| -> Result<Option<Weights>> {
            let path = dir.join(format!("{name}.safetensors"));
            if path.exists() { Ok(Some(weights::read(&path, NonFinite::Refuse)?)) } else { Ok(None) }
        };
        let network = |name: &str, device: &Device| -> Result<Option<Transformer>> {
            let place = dir.join(format!("{name}.safetensors")).display().to_string();
            read(name)?.map(|named| job.network_of(&named, &place, device)).transpose()
        };
        let Some(model) = network("model", &trained)? else { return Err(damaged("no model.safetensors".into())) };
        let ema = network("ema", &plain)?;
        let mut training = job.method.begin(&job.ground()).map_err(Refused::Other)?;
        let kept = Parts {
            round: record.round,
            range: record.range,
            network: &|name| network(name, &plain),
            trained: &|name| {
                let moments = read(&format!("{name}-optim"))?.map(|moments| moments.tensors);
                Ok(network(name, &trained)?.zip(moments))
            },
        };
        training.load(&kept).map_err(|e| Error { message: format!("{}: {}", dir.display(), e.message), ..e })?;
        if ema.is_some() != job.config.ema.is_some() {
            return Err(damaged(kept.missing().message));
        }
        let Some(moments) = read("optim")? else { return Err(damaged("no optim.safetensors".into())) };
        let optimizer = Optimizer::restored(&model, ema.as_ref(), &moments.tensors)
            .map_err(|e| damaged(format!("optim.safetensors: {e}")))?;
        Ok(TrainState {
            step: record.step,
            model,
            optimizer,
            training,
            tokens: record.tokens,
            seconds: record.seconds,
            last_loss: record.last_loss,
            log: record.log,
        })
    }

    /// Commits the checkpoint of the current step, with the log as it is then, and removes old ones, keeping the newest `keep`.
    ///
    /// # Errors
    /// Weights that are not finite (non-finite); I/O.
    pub fn save(&self, job: &Job, log: Mark) -> Result<()> {
        let name = checkpoint_name(self.step);
        if fs::verify_manifest(&job.dir.join(&name)).is_ok() {
            return tidy(job);
        }
        let kept = self.training.save();
        let extra = Record {
            format: FORMAT,
            fewstep: env!("CARGO_PKG_VERSION").to_string(),
            step: self.step,
            round: kept.round,
            range: kept.range,
            tokens: self.tokens,
            seconds: self.seconds,
            last_loss: self.last_loss,
            fingerprint: Stored::Whole(job.run.fingerprint.clone()),
            log: Some(log),
        };
        let extra = serde_json::to_value(extra)
            .map_err(|e| Error::new(Kind::Io, format!("cannot describe the checkpoint: {e}")))?;
        let ema = self.optimizer.averaged(&self.model);
        let own = [("model", Some(&self.model)), ("ema", ema.as_ref())];
        let own = own.into_iter().filter_map(|(part, model)| Some((part, model?)));
        let parts: Vec<_> = own.chain(kept.networks.iter().map(|(part, model, _)| (*part, model))).collect();
        fs::commit_dir(job.dir, &name, |tmp| {
            for (part, model) in parts {
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
            for (part, _, moments) in &kept.networks {
                let Some(tensors) = moments else { continue };
                let moments = Weights { tensors: tensors.clone(), ..Weights::default() };
                weights::write(&tmp.join(format!("{part}-optim.safetensors")), &moments)?;
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
    match job.run.fingerprint.mismatch(&record.fingerprint) {
        None => {}
        Some(Mismatch::Settings(lines)) => {
            return Err(Error::usage(format!("{place} was trained by another recipe"))
                .cause(lines.into_iter().take(10).collect::<Vec<_>>().join("\n"))
                .hint(format!("undo the change, give another `--out DIR`, or train it anew: `{}`", job.run.again)));
        }
        Some(Mismatch::Sources(changed)) => {
            let error = Error::input(format!("{place} was trained on something that has changed"));
            let error = changed.iter().map(Changed::line).fold(error, Error::cause);
            return Err(error.hint(format!("put back what it was, or train it anew: `{}`", job.run.again)));
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
            .hint(format!("give at least `{key} = {}`, or train it anew: `{}`", record.step, job.run.again)));
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
    if job.method.facts().rounds {
        not_alike.push("the rounds of the distillation are shared out anew".to_string());
    }
    if !not_alike.is_empty() {
        term::warn(&format!("{name}: not the same as {steps} steps from the start: {}", not_alike.join(", and ")));
    }
}

/// What to type once the recipe is mended: a model with a checkpoint is bound to its recipe.
pub fn anew(job: &Job) -> String {
    match newest_checkpoint(job.dir).is_some() {
        true => format!("train it anew: `{}`", job.run.again),
        false => "run the same command".to_string(),
    }
}
