//! What a training must remember, and its checkpoints: a directory written whole or not at all.
//!
//! `step-000812/{model,ema,teacher,critic,optim,critic-optim}.safetensors, manifest.json`; under adapters these alone. Randomness, data order and learning rate are
//! functions of the step, so nothing about them is stored; the teacher and the round of a distillation are, and the range of
//! noise that was searched.

use std::path::{Path, PathBuf};

use burn::module::Module;
use serde::{Deserialize, Serialize};

use super::Job;
use super::optim::Optimizer;
use crate::error::{Error, Kind, Result};
use crate::fs;
use crate::model::Transformer;
use crate::objective::{LatentDistillConfig, Method, NoiseRange, Objective};
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
    (objective.distils(), matches!(objective, Objective::LatentDistill(c) if matching(c)))
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
    fingerprint: String,
}

/// 2: moments in safetensors.
const FORMAT: u32 = 2;

impl Record {
    /// That of a manifest. Errors say in words what is wrong with it.
    pub fn parse(extra: serde_json::Value) -> std::result::Result<Record, String> {
        let record: Record = serde_json::from_value(extra).map_err(|e| format!("manifest: {e}"))?;
        match record.format == FORMAT {
            true => Ok(record),
            false => Err(format!("written by fewstep {} in checkpoint format {}", record.fewstep, record.format)),
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
        })
    }

    /// The state of the newest checkpoint that verifies, or a fresh start where there is none.
    ///
    /// Errors: a checkpoint of another recipe (exit 2), checkpoints of which none verifies (exit 3).
    pub fn resume_or_start(job: &Job) -> Result<Self> {
        fs::remove_stale_tmp(job.dir)?;
        let found = checkpoints(job.dir);
        let mut bad = Vec::new();
        for (_, dir) in &found {
            match Self::load(job, dir) {
                Ok(state) => {
                    bad.iter().for_each(|b| term::warn(&format!("{b}; using {}", dir.display())));
                    return Ok(state);
                }
                Err(e) if e.kind == Kind::Input => bad.push(e.message.clone()),
                Err(e) => return Err(e),
            }
        }
        match bad.first() {
            None => Self::start(job),
            Some(first) => Err(Error::input(format!("no checkpoint in {} can be used", job.dir.display()))
                .cause(first)
                .hint(format!("remove {} to train `{}` from the start", job.dir.display(), job.name))),
        }
    }

    fn load(job: &Job, dir: &Path) -> Result<Self> {
        let manifest = fs::verify_manifest(dir)?;
        let damaged = |what: String| Error::input(format!("{}: {what}", dir.display()));
        let record = Record::parse(manifest.extra).map_err(damaged)?;
        if record.fingerprint != job.fingerprint {
            return Err(Error::usage(format!("`{}` in {} was trained by another recipe", job.name, job.dir.display()))
                .cause(difference(&record.fingerprint, job.fingerprint))
                .hint(format!("give another `--out DIR`, or remove {}", job.dir.display())));
        }
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
        })
    }

    /// Commits the checkpoint of the current step and removes old ones, keeping the newest `keep`.
    ///
    /// Errors: weights that are not finite (exit 5), I/O.
    pub fn save(&self, job: &Job) -> Result<()> {
        let name = checkpoint_name(self.step);
        if fs::verify_manifest(&job.dir.join(&name)).is_ok() {
            return Ok(());
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
            fingerprint: job.fingerprint.to_string(),
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
                    .hint("lower the learning rate or set `clip`, then run the same command"));
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
        for (_, old) in
            checkpoints(job.dir).into_iter().filter(|(_, d)| fs::verify_manifest(d).is_ok()).skip(job.config.keep)
        {
            fs::remove_dir(&old)?;
        }
        Ok(())
    }
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

/// The lines in which two fingerprints differ.
fn difference(before: &str, now: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (before.lines().collect(), now.lines().collect());
    let gone = a.iter().filter(|l| !b.contains(l)).map(|l| format!("- {l}"));
    let new = b.iter().filter(|l| !a.contains(l)).map(|l| format!("+ {l}"));
    gone.chain(new).take(10).collect::<Vec<_>>().join("\n")
}
