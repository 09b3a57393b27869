//! The training loop, as the method section of a paper reads: rng from (seed, step); refresh teacher; batch(step); loss;
//! backward, clip, optimiser, EMA; log; save when due. Everything but the weights is a function of (recipe, step).

pub mod fingerprint;
pub mod log;
pub mod state;

use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::prelude::*;
use rand::Rng;

use crate::error::{Error, Kind, Result};
use crate::method::latent::Batch;
use crate::method::{
    self, Clip, EmbeddingConfig, LatentConfig, Method, Objective, RowLoss, clip, consistency, dcd, distill, embedding,
    few_step, latent, shared,
};
use crate::model::params::{self, Named};
use crate::model::transformer::lora::Plan;
use crate::model::{Transformer, TransformerConfig};
pub use crate::optim::{Decay, TrainConfig, lr};
use crate::process::Order;
use crate::process::d3pm::Matrices;
use crate::rng::{StepRng, Stream};
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
    pub objective: &'a Objective,
    pub network: &'a TransformerConfig,
    /// The orders it is trained over, one of them a step.
    pub orders: &'a [Order],
    /// The orders that its first teacher was trained over; later ones are the student so far.
    pub teacher_orders: &'a [Order],
    pub vocab: usize,
    /// The id of the mask, and the number of ids that have text: V and V, unless the network has its own.
    pub mask: u32,
    pub tokens: usize,
    /// Further ids that are never predicted.
    pub excluded: &'a [u32],
    pub length: usize,
    pub seed: u64,
    /// Tokens [B L] of part `step * accumulate + i`: a pure function of its argument.
    pub batch: &'a dyn Fn(u64) -> Vec<u32>,
    /// Start from these weights (a distilled student from its teacher's).
    pub start: Option<&'a Weights>,
    /// The first round's teacher, where it is not the network that the training starts with; checkpoints do not hold it.
    pub teacher: Option<&'a Transformer>,
    /// Of a model of latents, the autoencoder and what its diffusion is.
    pub latent: Option<LatentJob<'a>>,
    /// Of a classifier, the diffusion of embeddings that it is of, on a plain device.
    pub classified: Option<(&'a Transformer, &'a EmbeddingConfig)>,
    /// Frozen weights, and the adapters that are trained on them in place of a whole network.
    pub frozen: Option<(&'a Transformer, &'a Plan)>,
    /// The transition matrices of an objective on a chain.
    pub matrices: Option<&'a Matrices>,
    /// All that decides the numbers; a checkpoint of another one is not resumed.
    pub fingerprint: &'a Fingerprint,
    /// The command that trains the model anew, for hints.
    pub again: &'a str,
    /// A plain device (no autodiff).
    pub device: &'a Device,
    pub interrupt: &'a Interrupt,
}

/// What the training of a model of latents needs besides.
#[derive(Clone, Copy)]
pub struct LatentJob<'a> {
    /// The autoencoder, on a plain device.
    pub codec: &'a Transformer,
    /// The diffusion at the end of its line of teachers.
    pub config: &'a LatentConfig,
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
/// Errors: non-finite loss or gradient (exit 5, the last good checkpoint is kept), a signal (130, 143 or 129 after saving), I/O.
pub fn train(job: &Job) -> Result<Trained> {
    let config = job.config;
    let mut state = TrainState::resume_or_start(job)?;
    let mut log = log::Log::open(job.dir, job.name, config, state.step, state.log.as_ref())?;
    let began = Instant::now();
    let before = state.seconds;
    let _saving = job.interrupt.saving();
    while state.step < config.steps {
        refresh_teacher(job, &mut state);
        refresh_range(job, &mut state);
        let (loss, norm);
        (state, loss, norm) = step(job, state)?;
        state.step += 1;
        state.last_loss = loss;
        state.tokens += (config.batch * config.accumulate * job.length) as u64;
        state.seconds = before + began.elapsed().as_secs_f64();
        log.step(job.objective.term(), &state, config, loss, norm)?;
        let due = config.save_every > 0 && state.step.is_multiple_of(config.save_every);
        let stop = job.interrupt.requested();
        if due || stop || state.step == config.steps {
            state.save(job, log.mark()?)?;
        }
        if stop && state.step < config.steps {
            let saved = job.dir.join(state::checkpoint_name(state.step));
            term::note(&format!("saved {}; run the same command to resume", saved.display()));
            return Err(Error::new(
                Kind::Signal(job.interrupt.signal()),
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

/// At the border of a round the student so far becomes the teacher; the one of consistency is the average, in every step.
fn refresh_teacher(job: &Job, state: &mut TrainState) {
    let (round, refresh) = match job.objective {
        Objective::Sdtt(c) => (c.round(state.step, job.config.steps), c.refresh),
        Objective::LatentDistill(c) => (c.round(state.step, job.config.steps), c.refresh()),
        Objective::Dcd(c) => (c.round(state.step, job.config.steps), c.refresh),
        Objective::Consistency(_) => {
            state.teacher = state.optimizer.averaged(&state.model);
            return;
        }
        _ => return,
    };
    if round > state.round {
        state.round = round;
        let averaged = match refresh {
            distill::Refresh::Ema => state.optimizer.averaged(&state.model),
            distill::Refresh::Raw => None,
        };
        state.teacher = Some(averaged.unwrap_or_else(|| state.model.valid()));
    }
}

/// The first part of the data that a search reads: no training comes so far.
const SEARCHED: u64 = 1 << 62;

/// Searches the range of noise anew where that is due, with the weights that are evaluated.
fn refresh_range(job: &Job, state: &mut TrainState) {
    let Objective::Elbo { clip: Some(Clip::Search(search)), .. } = job.objective else { return };
    if state.step == 0 || !state.step.is_multiple_of(search.every) {
        return;
    }
    let model = state.optimizer.averaged(&state.model).unwrap_or_else(|| state.model.valid());
    let part = (state.step / search.every * search.batches) as u64;
    let batches: Vec<Vec<u32>> = (part..part + search.batches as u64).map(|i| (job.batch)(SEARCHED + i)).collect();
    let range = clip::search(&model, &batches, job.length, job.orders[0], (StepRng::new(job.seed), part));
    if range != state.range {
        term::note(&format!("{}: step {}, noise from {:.2} to {:.2}", job.name, state.step, range.low, range.high));
    }
    state.range = range;
}

/// The rows of one part of a step.
fn rows<'a>(job: &Job, state: &'a TrainState, part: u64) -> Result<RowLoss<'a>> {
    let x0 = (job.batch)(part);
    let rng = (StepRng::new(job.seed), part);
    let order = order_of(job.orders, rng);
    match (job.objective, &state.teacher) {
        (Objective::Sdtt(sdtt), Some(teacher)) => {
            let teachers = if state.round == 0 { job.teacher_orders } else { job.orders };
            let Some(orders) = distill::Orders::of(order, teachers, job.length) else {
                panic!("a recipe's check leaves no student whose teacher knows none of its orders")
            };
            distill::rows(sdtt, teacher, &x0, job.length, sdtt.dt(state.round), orders, rng)
        }
        (Objective::Elbo { schedule, alpha, shared: Some(_), .. }, Some(finer)) => {
            let Some(fine) = shared::finer(order, job.teacher_orders, job.length) else {
                panic!("a recipe's check leaves no phases that are not whole ones of the finer model")
            };
            let loss = shared::rows(finer, (fine, order), &x0, job.length, *schedule, rng)?;
            let alpha = alpha.as_ref().and_then(|alpha| alpha.of(&loss, &order));
            Ok(RowLoss { alpha, ..loss })
        }
        (Objective::Dcd(dcd), Some(teacher)) => {
            let Some(duality) = &state.duality else { panic!("its Gaussian process was prepared") };
            Ok(dcd::rows(dcd, teacher, duality, &x0, job.length, dcd.dt(state.round), rng))
        }
        (Objective::Consistency(config), Some(average)) => {
            Ok(consistency::rows(config, average, &x0, job.length, job.mask, rng))
        }
        (Objective::D3pm(d3pm), _) => {
            let Some(matrices) = job.matrices else { panic!("its matrices were prepared") };
            let gens = (rng.0.at(part, Stream::Times), rng.0.at(part, Stream::Corrupt));
            Ok(method::d3pm::rows(matrices, d3pm.auxiliary, &x0, job.length, gens))
        }
        (objective, _) => {
            let of = (order, state.range, state.duality.as_ref());
            match method::data_rows(objective, &x0, job.length, (job.mask, job.vocab), of, rng) {
                Some(rows) => Ok(rows),
                None => panic!("a distilling state has a teacher"),
            }
        }
    }
}

/// The order of a mixture that a step is in.
pub fn order_of(orders: &[Order], (rng, step): (StepRng, u64)) -> Order {
    match orders {
        [one] => *one,
        several => several[rng.at(step, Stream::Order).random_range(0..several.len())],
    }
}

/// Value and gradients of one part of a step.
fn gradients(job: &Job, state: &TrainState, part: u64) -> Result<(f64, GradientsParams)> {
    let rng = (StepRng::new(job.seed), part);
    match (job.objective, job.latent) {
        (Objective::Autoencoder(config), _) => Ok(latent::autoencoder(config, &state.model, &(job.batch)(part), rng)),
        (Objective::Latent(config), Some(with)) => {
            let order = order_of(job.orders, rng);
            Ok(latent::denoise(config, &state.model, with.codec, &(job.batch)(part), order, rng))
        }
        (Objective::LatentDistill(config), Some(with)) => {
            let batch = Batch::of(with.codec, &state.model, &(job.batch)(part), with.config.drop_condition, rng);
            let (plain, average) = (state.model.valid(), state.optimizer.averaged(&state.model));
            let step = latent_step(job, state, &batch, (&plain, average.as_ref()), part);
            step.backward(&config.method, state.critic.as_ref().map(|c| c.model.valid()).as_ref())
        }
        (Objective::Embedding(config), _) => {
            let anchored = order_of(job.orders, rng).levels > 0;
            Ok(embedding::denoise(config, &state.model, &(job.batch)(part), anchored, rng))
        }
        (Objective::Classifier(_), _) => {
            let Some((of, config)) = job.classified else { panic!("a classifier is of a diffusion of embeddings") };
            Ok(embedding::classify(config, &state.model, of, &(job.batch)(part), rng))
        }
        _ => Ok(method::backward(&state.model, &rows(job, state, part)?)),
    }
}

/// What a few-step objective of latents knows of a step.
fn latent_step<'a>(
    job: &Job<'a>,
    state: &'a TrainState,
    batch: &'a Batch,
    (plain, average): (&'a Transformer, Option<&'a Transformer>),
    part: u64,
) -> few_step::Step<'a> {
    let (Some(teacher), Some(with)) = (&state.teacher, job.latent) else {
        panic!("a few-step student of latents has a teacher and an autoencoder")
    };
    few_step::Step {
        model: &state.model,
        plain,
        average,
        teacher,
        process: few_step::process(with.config),
        batch,
        step: state.step,
        steps: job.config.steps,
        round: state.round,
        rng: (StepRng::new(job.seed), part),
    }
}

/// The critic of a distribution matching follows the student before its step.
fn step_critic(job: &Job, state: &mut TrainState) -> Result<()> {
    let (Objective::LatentDistill(config), Some(with)) = (job.objective, job.latent) else { return Ok(()) };
    let Method::Matching(matching) = &config.method else { return Ok(()) };
    let Some(mut critic) = state.critic.take() else { panic!("matching has a critic") };
    let settings = TrainConfig { lr: matching.critic_lr, decay: Decay::Constant, ema: None, ..job.config.clone() };
    let plain = state.model.valid();
    for i in 0..matching.critic_steps {
        let part = (state.step * matching.critic_steps + i) as u64;
        // Texts and noise that the student's own steps do not use.
        let own = CRITIC + part;
        let rng = (StepRng::new(job.seed), own);
        let batch = Batch::of(with.codec, &state.model, &(job.batch)(own), with.config.drop_condition, rng);
        let step = latent_step(job, state, &batch, (&plain, None), own);
        let (loss, grads) = latent::finish(step.critic_loss(matching, &critic.model, part), &critic.model);
        let norm = params::gradient_norm(&critic.model, &grads);
        if !loss.is_finite() || !norm.is_finite() {
            return Err(non_finite(job, state, loss, norm));
        }
        let scale = settings.clip.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        critic.model = critic.optimizer.step(critic.model, grads, &settings, part as usize, scale);
    }
    state.critic = Some(critic);
    Ok(())
}

/// The first part of the data that a critic reads.
const CRITIC: u64 = 1 << 61;

/// One optimiser step: the state after it, its loss, and the gradient norm before clipping.
fn step(job: &Job, mut state: TrainState) -> Result<(TrainState, f64, f64)> {
    let config = job.config;
    let parts = config.accumulate;
    step_critic(job, &mut state)?;
    let part = |i: usize| gradients(job, &state, (state.step * parts + i) as u64);
    let (mut loss, mut grads) = part(0)?;
    if parts > 1 {
        let mut acc = GradientsAccumulator::<Transformer>::new();
        acc.accumulate(&state.model, grads);
        for i in 1..parts {
            let (value, grads) = part(i)?;
            loss += value;
            acc.accumulate(&state.model, grads);
        }
        grads = acc.grads();
    }
    loss /= parts as f64;
    let norm = params::gradient_norm(&state.model, &grads) / parts as f64;
    if !loss.is_finite() || !norm.is_finite() {
        return Err(non_finite(job, &state, loss, norm));
    }
    let clipped = config.clip.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
    let scale = clipped / parts as f64;
    state.model = state.optimizer.step(state.model, grads, config, state.step, scale);
    Ok((state, loss, norm))
}

fn non_finite(job: &Job, state: &TrainState, loss: f64, norm: f64) -> Error {
    let kept = state::newest_checkpoint(job.dir).map(|d| d.display().to_string());
    let error = Error::new(
        Kind::NonFinite,
        format!(
            "loss is not finite at step {} of `{}` (term `{}`: {loss}; gradient norm: {norm})",
            state.step,
            job.name,
            job.objective.term()
        ),
    );
    let clip = job.config.clip.map_or("unset".to_string(), |c| c.to_string());
    error.cause(kept.map_or("no checkpoint was saved yet".into(), |k| format!("last good checkpoint: {k}"))).hint(
        format!(
            "lower `model.{0}.train.lr` ({1}) or set `model.{0}.train.clip` ({clip}), then {2}",
            job.name,
            job.config.lr,
            state::anew(job)
        ),
    )
}
