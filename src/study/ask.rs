//! Whether a study fits into memory and onto the disk, asked before anything of it is computed.
//!
//! An estimate is of what cannot be done without: weights with all that belongs to them, what blocks keep for the way back, a
//! chunk of logits. What is refused for it would have ended without memory, and what a hint names leaves a fifth unused.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use burn::prelude::Device;

use super::{Shape, Study, shape};
use crate::data::Data;
use crate::error::{Error, Kind, Result};
use crate::method::beside;
use crate::model::TransformerConfig;
use crate::model::canvas::shares_host;
use crate::model::config::Compute;
use crate::model::family::memory::{Step, StepBytes, largest, shown};
use crate::recipe::{ModelConfig, Network, Recipe};
use crate::room::{self, Room, compared};
use crate::term;

const F32: u128 = 4;
/// Texts that are read at a time for a likelihood.
const LIKELIHOOD: usize = 8;

/// A study with what it is computed on.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    pub recipe: &'a Recipe,
    pub data: &'a Data,
    /// What the recipe's paths are looked up from.
    pub base: &'a Path,
    pub device: &'a Device,
    /// The study in its directory, where it has one.
    pub begun: Option<&'a Study>,
}

/// What a training needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    pub memory: StepBytes,
    /// Numbers that are trained.
    pub parameters: u128,
    /// Bytes of the checkpoints that are kept, and of one that is being written.
    pub disk: u128,
}

impl Ask<'_> {
    /// Refuses a study whose models cannot be trained or evaluated in the memory there is, and warns where the
    /// disk of `dir` is too small. `training` are the models that are not trained yet.
    ///
    /// # Errors
    /// Too little memory (device); models whose shape is not known, as [`shape`](fn@shape).
    pub fn study(&self, training: &[&str], evaluated: bool, dir: &Path) -> Result<()> {
        self.disk(training, dir)?;
        let Some(room) = self.room() else { return Ok(()) };
        training.iter().try_for_each(|name| self.training(name, room))?;
        if evaluated { self.evaluation(room) } else { Ok(()) }
    }

    /// The memory that is left, where the device has none of its own.
    fn room(&self) -> Option<Room> {
        match shares_host(self.device) {
            true => room::memory(),
            false => None,
        }
    }

    /// What training a model of this shape needs.
    pub fn need(&self, shape: &Shape, model: &ModelConfig) -> Need {
        let step = self.step(shape, model);
        let memory = step.bytes(model.train.batch, shape.network.checkpoint);
        // Gradients are in no checkpoint.
        let kept = match model.train.save_every {
            0 => 1,
            every => model.train.keep.min((model.train.steps / every).max(1)),
        };
        let disk = F32 * step.trained * (step.copies - 1) * (kept as u128 + 1);
        Need { memory, parameters: step.trained, disk }
    }

    /// A step of a model's training.
    fn step<'s>(&self, shape: &'s Shape, model: &ModelConfig) -> Step<'s> {
        let network = &shape.network;
        let length = self.data.length();
        let whole = network.parameters(shape.vocab, length);
        let (trained, frozen) = match &shape.lora {
            Some(plan) => (plan.parameters(), shape.dtype.bytes() as u128 * whole),
            None => (whole, 0),
        };
        let facts = model.objective.facts();
        let copies = 4
            + u128::from(model.train.ema.is_some())
            + u128::from(facts.rounds || facts.shared || facts.teacher.is_some());
        let positions = match &network.vectors {
            Some(vectors) => vectors.count + vectors.condition,
            // Finished blocks are read beside the noise.
            None => match model.order.all(length).iter().any(|order| beside(*order, length)) && !shifted(model) {
                true => 2 * length,
                false => length,
            },
        };
        let fused = self.fused(network) && shape.lora.is_none();
        Step { config: network, vocab: shape.vocab, length: positions, fused, trained, copies, frozen }
    }

    /// Whether the fused kernels run a network's blocks.
    fn fused(&self, network: &TransformerConfig) -> bool {
        cfg!(feature = "flex") && shares_host(self.device) && network.compute == Compute::F32 && !network.composed
    }

    fn training(&self, name: &str, room: Room) -> Result<()> {
        let model = self.recipe.model(name)?;
        if model.train.steps == 0 {
            return Ok(());
        }
        let shape = shape(self.recipe, name, self.data, self.base)?;
        let (step, batch, checkpoint) = (self.step(&shape, model), model.train.batch, shape.network.checkpoint);
        let need = step.bytes(batch, checkpoint);
        if need.total() <= room.bytes.into() {
            return Ok(());
        }
        let error = Error::new(Kind::Device, format!("training `{name}` does not fit into memory"))
            .cause(compared(need.total(), room))
            .cause(format!(
                "{} for weights and their states, {} for a batch of {batch} x {} positions{}",
                shown(need.states),
                shown(need.activations + need.logits),
                step.length,
                if checkpoint { " with `checkpoint = true`" } else { "" }
            ));
        let comfortable = comfortable(room);
        let key = checkpoint_key(name, model);
        let of_batch = |n: usize| format!("--set model.{name}.train.batch={n}");
        let plain = step.largest(batch, checkpoint, comfortable);
        let sparing = if checkpoint { None } else { step.largest(batch, true, comfortable) };
        if let Some(anew) = self.anew(name) {
            let of_checkpoint = format!("--set {key}=true");
            return Err(match (plain, sparing) {
                (_, Some(m)) if m == batch => error.hint(format!("`--set {key}=true` fits")),
                (None, None) => error.hint("its training is under way: go on with it where there is more memory"),
                (Some(n), m) if m.is_none_or(|m| m <= n) => error.hint(bound_hint(&format!("{anew} {}", of_batch(n)))),
                (_, m) => error.hint(bound_hint(&[anew, of_batch(m.unwrap_or(1)), of_checkpoint].join(" "))),
            });
        }
        Err(match (plain, sparing) {
            (Some(n), Some(m)) if m == batch => {
                error.hint(format!("`--set {key}=true` fits, and so does `{}`", of_batch(n)))
            }
            (None, Some(m)) if m == batch => error.hint(format!("`--set {key}=true` fits")),
            (Some(n), Some(m)) if m > n => {
                error.hint(format!("`{}` fits, and so does `{} --set {key}=true`", of_batch(n), of_batch(m)))
            }
            (Some(n), _) => error.hint(format!("`{}` fits", of_batch(n))),
            (None, Some(m)) => error.hint(format!("`{} --set {key}=true` fits", of_batch(m))),
            // A student's network is written where its teacher's is, and a checkpoint's is in no recipe.
            (None, None) => match self.recipe.network(name)? {
                Network::Given(network) => error.hint(format!(
                    "not even one sequence fits; `--set {}.dim=N` with N below {} makes a smaller network",
                    self.recipe.network_place(name),
                    network.dim
                )),
                Network::From(_) => {
                    error.hint("not even one sequence fits: a smaller checkpoint, or a machine with more memory")
                }
            },
        })
    }

    /// The command that begins the training of a model anew, where it is under way: its batch is bound then.
    fn anew(&self, name: &str) -> Option<String> {
        self.begun.and_then(|study| study.anew(name))
    }

    fn evaluation(&self, room: Room) -> Result<()> {
        let config = &self.recipe.eval;
        let judges = [&config.judge, &config.second_judge].into_iter().flatten();
        let judge: u128 = judges.map(|name| self.weights(name)).sum::<Result<u128>>()?;
        let batch = config.drawn_together();
        for name in self.recipe.model.keys() {
            let shape = shape(self.recipe, name, self.data, self.base)?;
            if shape.tokenizer.is_some() {
                continue;
            }
            let weights = judge + self.weights(name)?;
            // Likelihoods are of several draws of a text, or of several texts.
            let need = |n: usize| weights + self.sampling(&shape, n.max(LIKELIHOOD));
            if need(batch) <= room.bytes.into() {
                continue;
            }
            let error = Error::new(Kind::Device, format!("evaluating `{name}` does not fit into memory"))
                .cause(compared(need(batch), room))
                .cause(format!(
                    "{} for weights, {} for a batch of {batch} x {} tokens",
                    shown(weights),
                    shown(need(batch) - weights),
                    self.data.length()
                ));
            return Err(match largest(batch, |n| need(n) <= comfortable(room)) {
                Some(n) => error.hint(format!("`--set eval.batch={n}` fits")),
                None => error.hint("a smaller network: not even one sample fits"),
            });
        }
        Ok(())
    }

    /// Bytes of a model's weights.
    fn weights(&self, name: &str) -> Result<u128> {
        let shape = shape(self.recipe, name, self.data, self.base)?;
        Ok(shape.dtype.bytes() as u128 * shape.network.parameters(shape.vocab, shape.length))
    }

    /// Bytes of one pass over a batch of samples beside the weights.
    fn sampling(&self, shape: &Shape, batch: usize) -> u128 {
        sampling(&shape.network, shape.vocab, self.data.length(), batch, self.fused(&shape.network))
    }

    /// Warns where the checkpoints of a study do not fit onto the disk of `dir`.
    fn disk(&self, training: &[&str], dir: &Path) -> Result<()> {
        let Some(free) = room::disk(dir) else { return Ok(()) };
        let mut need = 0;
        for name in training {
            let shape = shape(self.recipe, name, self.data, self.base)?;
            // A judge that is taken as it is has no checkpoints.
            need += if shape.tokenizer.is_some() { 0 } else { self.need(&shape, self.recipe.model(name)?).disk };
        }
        if need > free.into() {
            term::warn(&format!(
                "the checkpoints of this study take about {}, and the disk of {} has {} left; `model.*.train.keep` says how many are kept",
                shown(need),
                dir.display(),
                shown(free.into())
            ));
        }
        Ok(())
    }
}

/// A panic in the middle of something large, with what to say where it was for want of memory: a device with memory of its
/// own is not asked before.
pub struct Advised {
    pub panic: Box<dyn Any + Send>,
    /// What was being done, and what it needs.
    pub causes: Vec<String>,
    pub hint: String,
}

impl Ask<'_> {
    /// Runs `work`, the training of the model `name`; a panic in it goes on as one that is [`Advised`].
    pub fn advised<T>(&self, name: &str, work: impl FnOnce() -> T) -> T {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(done) => done,
            Err(panic) => match self.advice(name) {
                Ok((causes, hint)) => resume_unwind(Box::new(Advised { panic, causes, hint })),
                Err(_) => resume_unwind(panic),
            },
        }
    }

    fn advice(&self, name: &str) -> Result<(Vec<String>, String)> {
        let (shape, model) = (shape(self.recipe, name, self.data, self.base)?, self.recipe.model(name)?);
        let (step, batch, checkpoint) = (self.step(&shape, model), model.train.batch, shape.network.checkpoint);
        let need = step.bytes(batch, checkpoint);
        let causes = vec![format!(
            "training `{name}` on a batch of {batch} x {} positions takes about {}",
            step.length,
            shown(need.total())
        )];
        // Half of what does not fit is a start.
        let half = step.largest(batch, checkpoint, need.states + (need.total() - need.states) / 2).unwrap_or(1);
        let key = checkpoint_key(name, model);
        let smaller = format!("--set model.{name}.train.batch={half}");
        let hint = match (self.anew(name), checkpoint) {
            (None, false) => format!("`{smaller}`, or `--set {key}=true` takes less"),
            (None, true) => format!("`{smaller}` takes less"),
            (Some(_), false) => format!("`--set {key}=true` takes less"),
            (Some(anew), true) => bound_hint(&format!("{anew} {smaller}")),
        };
        Ok((causes, hint))
    }
}

/// What to do where a training that is under way needs a smaller batch, with the command that begins it anew.
fn bound_hint(command: &str) -> String {
    format!(
        "its training is under way with this batch: go on where there is more memory, or train it anew: `{command}`"
    )
}

/// The key of a recipe that turns activation checkpointing on.
fn checkpoint_key(name: &str, model: &ModelConfig) -> String {
    match model.network {
        Some(_) => format!("model.{name}.network.checkpoint"),
        None => format!("model.{name}.checkpoint"),
    }
}

/// An autoregressive model reads a sequence once, whatever its order is.
fn shifted(model: &ModelConfig) -> bool {
    model.objective.facts().causal()
}

/// The part of a room that what is suggested may take.
fn comfortable(room: Room) -> u128 {
    u128::from(room.bytes) * 4 / 5
}

/// Bytes of one pass over a batch beside the weights.
fn sampling(network: &TransformerConfig, vocab: usize, length: usize, batch: usize, fused: bool) -> u128 {
    Step { config: network, vocab, length, fused, trained: 0, copies: 0, frozen: 0 }.pass(batch)
}

/// Refuses to draw texts where those that are drawn together do not fit beside weights that are still to be
/// read. `candidates` are drawn for each text (`--mbr`).
///
/// # Errors
/// Too little memory (device).
pub fn samples(
    network: &TransformerConfig,
    vocab: usize,
    length: usize,
    weights: u128,
    together: usize,
    candidates: usize,
    device: &Device,
) -> Result<()> {
    if !shares_host(device) {
        return Ok(());
    }
    let Some(room) = room::memory() else { return Ok(()) };
    let fused = network.compute == Compute::F32 && !network.composed;
    let need = |n: usize| weights + sampling(network, vocab, length, n, fused);
    if need(together) <= room.bytes.into() {
        return Ok(());
    }
    let error = Error::new(Kind::Device, "the model does not fit into memory")
        .cause(compared(need(together), room))
        .cause(format!(
            "{} for weights, {} for {together} texts at a time",
            shown(weights),
            shown(need(together) - weights)
        ));
    Err(match largest(together, |n| need(n) <= comfortable(room)) {
        Some(n) if n >= candidates => error.hint(format!("`-n {}` fits", n / candidates)),
        Some(1) => error.hint("`-n 1` without `--mbr` fits"),
        Some(n) => error.hint(format!("`-n 1 --mbr {n}` fits")),
        None => error.hint("a smaller model, or a machine with more memory"),
    })
}
