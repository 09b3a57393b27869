//! The training loop, as the method section of a paper reads: rng from (seed, step); refresh teacher; batch(step); loss;
//! backward, clip, optimiser, EMA; log; save when due. Everything but the weights is a function of (recipe, step).

pub mod fingerprint;
pub mod log;
pub mod state;

use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::prelude::*;
use rand::Rng;

use crate::error::{Error, Kind, Result};
use crate::method::{Batch, Ground, Method, Nets, Parents};
use crate::model::params::Named;
use crate::model::transformer::lora::Plan;
use crate::model::{Transformer, TransformerConfig};
use crate::optim::gather;
pub use crate::optim::{Decay, TrainConfig, lr};
use crate::process::Order;
use crate::rng::{Generators, StepRng, Stream};
use crate::term::{self, Interrupt};
use crate::weights::Weights;
pub use fingerprint::Fingerprint;
pub use state::TrainState;

/// Everything a training needs.
pub struct Job<'a> {
    pub name: &'a str,
    /// Its run directory: metrics.jsonl and step-* live there.
    pub dir: &'a Path,
    pub config: &'a TrainConfig,
    pub method: &'a dyn Method,
    pub network: Frame<'a>,
    pub start: Start<'a>,
    /// The orders it is trained over, one of them a step.
    pub orders: &'a [Order],
    pub parents: Parents<'a>,
    pub draws: Draws<'a>,
    pub run: Run<'a>,
}

/// The shape of a network.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    pub config: &'a TransformerConfig,
    pub vocab: usize,
    pub length: usize,
    /// The id of the mask, and the number of ids that have text: V and V, unless the network has its own.
    pub mask: u32,
    pub tokens: usize,
    /// Further ids that are never predicted.
    pub excluded: &'a [u32],
}

/// What a training begins with.
#[derive(Clone, Copy)]
pub enum Start<'a> {
    /// New weights.
    New,
    /// These weights (a distilled student has its teacher's).
    Weights(&'a Weights),
    /// New adapters on frozen weights, which are trained in place of a whole network.
    Adapters(&'a Transformer, &'a Plan),
}

/// The data of a training.
#[derive(Clone, Copy)]
pub struct Draws<'a> {
    pub seed: u64,
    /// Tokens [B L] of part `step * accumulate + i`: a pure function of its argument.
    pub batch: &'a dyn Fn(u64) -> Vec<u32>,
}

/// What a training runs on, and what it is bound to.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// A plain device (no autodiff).
    pub device: &'a Device,
    pub interrupt: &'a Interrupt,
    /// All that decides the numbers; a checkpoint of another one is not resumed.
    pub fingerprint: &'a Fingerprint,
    /// The command that trains the model anew, for hints.
    pub again: &'a str,
}

impl<'a> Job<'a> {
    /// What its method stands on.
    fn ground(&self) -> Ground<'a> {
        Ground {
            name: self.name,
            length: self.network.length,
            vocab: self.network.vocab,
            mask: self.network.mask,
            seed: self.draws.seed,
            orders: self.orders,
            dir: Some(self.dir),
            parents: self.parents,
        }
    }

    /// A new network of its shape, on an autodiff device.
    fn new_network(&self) -> Result<Transformer> {
        let Frame { config, vocab, length, .. } = self.network;
        let device = self.run.device.clone().autodiff();
        let model = match self.start {
            Start::New => Transformer::init(config, vocab, length, self.draws.seed, &device),
            Start::Weights(weights) => {
                Transformer::from_weights(config, vocab, length, weights, "the teacher's weights", &device)?
            }
            Start::Adapters(frozen, plan) => {
                frozen.with_adapters(plan, &plan.initial(self.draws.seed), "new adapters", &device)?
            }
        };
        Ok(self.framed(model))
    }

    /// The network that a checkpoint's file `place` holds.
    fn network_of(&self, named: &Weights, place: &str, device: &Device) -> Result<Transformer> {
        let Frame { config, vocab, length, .. } = self.network;
        let model = match self.start {
            Start::Adapters(frozen, plan) => frozen.with_adapters(plan, &named.tensors, place, device)?,
            _ => Transformer::from_weights(config, vocab, length, named, place, device)?,
        };
        Ok(self.framed(model))
    }

    fn framed(&self, model: Transformer) -> Transformer {
        let Frame { mask, tokens, excluded, .. } = self.network;
        model.with_mask(mask as usize).with_tokens(tokens).without(excluded)
    }
}

/// What a finished training leaves.
pub struct Trained {
    /// The weights to evaluate, or the adapters alone: the moving average where there is one.
    pub weights: Named,
    pub tokens: u64,
    pub seconds: f64,
    pub last_loss: f64,
}

/// Trains, from the newest good checkpoint if there is one, to the last step.
///
/// # Errors
/// A loss or gradient that is not finite (non-finite; the last good checkpoint is kept), a signal (after saving), a method that
/// lacks something; I/O.
pub fn train(job: &Job) -> Result<Trained> {
    let (config, term) = (job.config, job.method.facts().term);
    let mut state = TrainState::resume_or_start(job)?;
    let mut log = log::Log::open(job.dir, job.name, config, state.step, state.log.as_ref())?;
    let began = Instant::now();
    let before = state.seconds;
    let _saving = job.run.interrupt.saving();
    while state.step < config.steps {
        let (loss, norm);
        (state, loss, norm) = step(job, state)?;
        state.step += 1;
        state.last_loss = loss;
        state.tokens += (config.batch * config.accumulate * job.network.length) as u64;
        state.seconds = before + began.elapsed().as_secs_f64();
        log.step(term, &state, config, loss, norm)?;
        let due = config.save_every > 0 && state.step.is_multiple_of(config.save_every);
        let stop = job.run.interrupt.requested();
        if due || stop || state.step == config.steps {
            state.save(job, log.mark()?)?;
        }
        if stop && state.step < config.steps {
            let saved = job.dir.join(state::checkpoint_name(state.step));
            term::note(&format!("saved {}; run the same command to resume", saved.display()));
            return Err(Error::new(
                Kind::Signal(job.run.interrupt.signal()),
                format!("stopped by a signal at step {} of {}", state.step, job.name),
            ));
        }
    }
    log.finish();
    Ok(Trained {
        weights: state.optimizer.averaged(&state.model).unwrap_or_else(|| state.model.valid()).trained(),
        tokens: state.tokens,
        seconds: state.seconds,
        last_loss: state.last_loss,
    })
}

/// The first step of `job`: loss and gradient norm, with nothing written but tables that take long to make.
///
/// # Errors
/// A method that lacks something (usage); those of its step.
pub fn first_step(job: &Job) -> Result<(f64, f64)> {
    let ground = Ground { dir: None, ..job.ground() };
    let (_, loss, norm) = step(job, TrainState::start(job, &ground)?)?;
    Ok((loss, norm))
}

/// The order of a mixture that a step is in.
pub fn order_of(orders: &[Order], rng: Generators) -> Order {
    match orders {
        [one] => *one,
        several => several[rng.at(Stream::Order).random_range(0..several.len())],
    }
}

/// One optimiser step: the state after it, its loss, and the gradient norm before clipping.
fn step<'a>(job: &Job<'a>, mut state: TrainState<'a>) -> Result<(TrainState<'a>, f64, f64)> {
    let (config, parts) = (job.config, job.config.accumulate);
    let average = || state.optimizer.averaged(&state.model);
    let refused = |loss: f64, norm: f64| non_finite(job, state.step, loss, norm);
    let nets = Nets {
        model: &state.model,
        average: &average,
        step: state.step,
        config,
        draw: job.draws.batch,
        non_finite: &refused,
    };
    state.training.due(&nets)?;
    let mut part = |i: usize| {
        let part = (state.step * parts + i) as u64;
        let rng = StepRng::new(job.draws.seed);
        let (x0, order) = ((job.draws.batch)(part), order_of(job.orders, rng.of_step(part)));
        state.training.step(&nets, &Batch { x0, length: job.network.length, order, rng, part })
    };
    let gathered = gather(&state.model, parts, &mut part)?;
    let (loss, norm) = (gathered.loss, gathered.norm);
    if !gathered.is_finite() {
        return Err(non_finite(job, state.step, loss, norm));
    }
    let scale = gathered.scale(config);
    // A model that is taken as it is has no states of an optimiser, which may be larger than it.
    if config.steps > 0 {
        state.model = state.optimizer.step(state.model, gathered.grads, config, state.step, scale);
    }
    Ok((state, loss, norm))
}

fn non_finite(job: &Job, step: usize, loss: f64, norm: f64) -> Error {
    let kept = state::newest_checkpoint(job.dir).map(|d| d.display().to_string());
    let (name, term) = (job.name, job.method.facts().term);
    let message =
        format!("loss is not finite at step {step} of `{name}` (term `{term}`: {loss}; gradient norm: {norm})");
    let clip = job.config.clip.map_or("unset".to_string(), |c| c.to_string());
    Error::new(Kind::NonFinite, message)
        .cause(kept.map_or("no checkpoint was saved yet".into(), |k| format!("last good checkpoint: {k}")))
        .hint(format!(
            "lower `model.{name}.train.lr` ({}) or set `model.{name}.train.clip` ({clip}), then {}",
            job.config.lr,
            state::anew(job)
        ))
}
