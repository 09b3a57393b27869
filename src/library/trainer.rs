//! Trainings from code: any network and any source of sequences, with nothing written.
//!
//! A study trains with checkpoints, logs and resumption ([`crate::train`]); this is the loop alone. B batch, L length.

use std::time::Instant;

use crate::data::Dataset;
use crate::error::{Error, Kind, Result};
use crate::loss::{RowLoss, backward};
use crate::method::{self, Batch, KdConfig, Orders, SdttConfig};
use crate::model::{Network, Teach, params};
use crate::optim::{Decay, Optimizer, TrainConfig, gather};
use crate::process::order::OrderConfig;
use crate::process::{Corruption, Order, Schedule};
use crate::rng::StepRng;
use crate::sample::{Decode, Process};

/// How a network is trained, step by step.
///
/// ```no_run
/// use fewstep::prelude::*;
///
/// # fn main() -> fewstep::error::Result<()> {
/// let data = Sequences::new(4, vec![vec![0, 1, 2, 3], vec![3, 2, 1, 0]], vec![vec![0, 1, 2, 3]])?;
/// let network = Transformer::init(&TransformerConfig::new(32, 2, 2, Visibility::Full), 4, 4, 1, &training_device()?);
/// let teacher = Trainer::new(network, &data).steps(300).batch(16).lr(3e-3).elbo()?;
/// # Ok(())
/// # }
/// ```
pub struct Trainer<'a, N> {
    model: N,
    data: &'a dyn Dataset,
    config: TrainConfig,
    order: OrderConfig,
    schedule: Schedule,
    seed: u64,
    each: Option<Each<'a>>,
}

/// What is told of every step.
type Each<'a> = Box<dyn FnMut(&Step) + 'a>;

/// A finished step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// From 1.
    pub step: usize,
    pub loss: f64,
    pub lr: f64,
    /// The gradients' global norm before it was clipped.
    pub grad_norm: f64,
}

/// A trained network, on a device without autodiff: its moving average where one was kept, with what it was trained by.
#[derive(Debug, Clone)]
pub struct Trained<N> {
    pub model: N,
    /// What it was trained to do, such as `elbo`.
    pub objective: String,
    /// Whether it writes from left to right.
    pub causal: bool,
    pub order: OrderConfig,
    pub schedule: Schedule,
    /// Tokens per sequence L.
    pub length: usize,
    pub seed: u64,
    pub steps: usize,
    pub tokens: u64,
    pub seconds: f64,
    pub last_loss: f64,
}

impl<N: Network> Trained<N> {
    /// The process that it is sampled in, in its own order.
    pub fn process(&self) -> Process {
        Process {
            order: self.order.order(self.length),
            schedule: self.schedule,
            corruption: Corruption::Absorb,
            length: self.length,
            cached: self.causal || self.model.over_blocks(),
            decode: Decode::Table,
        }
    }

    /// A copy on a device with autodiff, for another training that starts from it.
    pub fn trainable(&self) -> N {
        self.model.clone().train()
    }

    /// Number of its parameters.
    pub fn parameters(&self) -> usize {
        params::count(&self.model)
    }
}

impl<'a, N: Network> Trainer<'a, N> {
    /// A training of `model`, which lies on a device with autodiff, on `data`: 1000 steps of 32 sequences at a learning rate of 1e-3 that
    /// falls to 0 behind 20 steps of warm-up, gradients clipped at 1, all positions at once.
    pub fn new(model: N, data: &'a dyn Dataset) -> Self {
        let config = TrainConfig { decay: Decay::Linear, clip: Some(1.0), ..TrainConfig::new(1000, 32, 1e-3) };
        let (order, schedule) = (OrderConfig::Parallel, Schedule::LogLinear);
        Trainer { model, data, config, order, schedule, seed: 1, each: None }.warmup(20)
    }

    /// Optimiser steps.
    pub fn steps(mut self, steps: usize) -> Self {
        self.config.steps = steps;
        self.config.warmup = self.config.warmup.min(steps);
        self
    }

    /// Sequences of a step.
    pub fn batch(mut self, batch: usize) -> Self {
        self.config.batch = batch;
        self
    }

    /// Peak learning rate.
    pub fn lr(mut self, lr: f64) -> Self {
        self.config.lr = lr;
        self
    }

    /// Steps of linear warm-up.
    pub fn warmup(mut self, steps: usize) -> Self {
        self.config.warmup = steps.min(self.config.steps);
        self
    }

    /// Decay of the moving average that is returned in place of the raw weights.
    pub fn ema(mut self, decay: f64) -> Self {
        self.config.ema = Some(decay);
        self
    }

    /// Every other setting, as a recipe has them.
    pub fn config(mut self, change: impl FnOnce(&mut TrainConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// The order that it is trained in, such as `OrderConfig::Strided(8)`.
    pub fn order(mut self, order: OrderConfig) -> Self {
        self.order = order;
        self
    }

    /// The schedule of the noise.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// The seed of batches and noise.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Is told of every step.
    pub fn each_step(mut self, told: impl FnMut(&Step) + 'a) -> Self {
        self.each = Some(Box::new(told));
        self
    }

    /// Trains a masked diffusion by its negative ELBO.
    ///
    /// # Errors
    /// As [`Trainer::by`].
    pub fn elbo(self) -> Result<Trained<N>> {
        let schedule = self.schedule;
        self.by("elbo", |model, batch| {
            Ok(method::elbo(&batch.x0, batch.length, model.mask(), batch.order, schedule, batch.draws()))
        })
    }

    /// Trains an autoregressive network by its negative log-likelihood.
    ///
    /// # Errors
    /// As [`Trainer::by`].
    pub fn ar(self) -> Result<Trained<N>> {
        let ordered = self.order(OrderConfig::LeftToRight);
        let trained = ordered.by("ar_nll", |_, batch| Ok(method::ar_nll(&batch.x0, batch.length)))?;
        Ok(Trained { causal: true, ..trained })
    }

    /// Distils `teacher` by knowledge distillation at equal steps; the configuration's `teacher` is a name that is not looked at.
    ///
    /// # Errors
    /// As [`Trainer::by`].
    pub fn kd(self, teacher: &dyn Teach, config: &KdConfig) -> Result<Trained<N>> {
        self.by("kd", |_, batch| Ok(method::kd_rows(config, teacher, batch)))
    }

    /// Distils `teacher` into fewer steps by self-distillation through time; in later rounds the student so far is the teacher. The
    /// configuration's `teacher` is a name that is not looked at.
    ///
    /// # Errors
    /// As [`Trainer::by`], and (usage) an order in which the teacher cannot be asked.
    pub fn sdtt(self, teacher: &dyn Teach, config: &SdttConfig) -> Result<Trained<N>> {
        let (length, order) = (self.data.length(), self.order.clone());
        let own = order.order(length);
        let (whole, config) = ([Order::parallel(length), own], config.clone());
        let mut now: (usize, Option<N>) = (0, None);
        self.walk("sdtt", &mut |model, batch, (step, steps)| {
            let round = config.round(step, steps);
            if round > now.0 {
                now = (round, Some(model.valid()));
            }
            let known = if now.0 == 0 { &whole[..] } else { &whole[1..] };
            let Some(orders) = Orders::of(batch.order, known, length) else {
                return Err(Error::usage(format!(
                    "a teacher of all positions at once is not asked in `{}`",
                    order.name()
                )));
            };
            let teacher: &dyn Teach = now.1.as_ref().map_or(teacher, |student| student);
            method::sdtt_rows(&config, teacher, &batch.x0, length, config.dt(now.0), orders, batch.stream())
        })
    }

    /// Trains by an objective of the caller's, called `name`: the rows of every batch that count, each with its weight and its target.
    ///
    /// # Errors
    /// Settings out of range, an order that does not fit, rows that the objective refuses, a loss that is not a finite number.
    pub fn by(self, name: &str, rows: impl Fn(&N, &Batch) -> Result<RowLoss>) -> Result<Trained<N>> {
        self.walk(name, &mut |model, batch, _| rows(model, batch))
    }

    fn walk(mut self, name: &str, rows: Rows<N>) -> Result<Trained<N>> {
        self.config.validate("train")?;
        self.order.validate("order")?;
        let (config, length, begin) = (&self.config, self.data.length(), Instant::now());
        let orders = self.order.all(length);
        let rng = StepRng::new(self.seed);
        let mut optimizer = Optimizer::new(&self.model, config.ema.is_some());
        let mut model = self.model;
        let mut last_loss = f64::NAN;
        for step in 0..config.steps {
            let mut part = |i: usize| {
                let part = (step * config.accumulate + i) as u64;
                let (x0, order) =
                    (self.data.batch(self.seed, part, config.batch), crate::train::order_of(&orders, (rng, part)));
                let batch = Batch { x0, length, order, rng, part };
                Ok(backward(&model, &rows(&model, &batch, (step, config.steps))?))
            };
            let gathered = gather(&model, config.accumulate, &mut part)?;
            if !gathered.is_finite() {
                let (loss, norm) = (gathered.loss, gathered.norm);
                return Err(Error::new(
                    Kind::NonFinite,
                    format!("loss {loss}, gradient norm {norm} in step {}", step + 1),
                )
                .hint("a smaller learning rate, or a smaller `clip`"));
            }
            let (scale, told) = (gathered.scale(config), (gathered.loss, gathered.norm));
            model = optimizer.step(model, gathered.grads, config, step, scale);
            last_loss = told.0;
            if let Some(each) = &mut self.each {
                each(&Step { step: step + 1, loss: told.0, lr: config.learning_rate(step), grad_norm: told.1 });
            }
        }
        Ok(Trained {
            model: optimizer.averaged(&model).filter(|_| config.ema.is_some()).unwrap_or_else(|| model.valid()),
            objective: name.to_string(),
            causal: false,
            order: self.order,
            schedule: self.schedule,
            length,
            seed: self.seed,
            steps: config.steps,
            tokens: (config.steps * config.accumulate * config.batch * length) as u64,
            seconds: begin.elapsed().as_secs_f64(),
            last_loss,
        })
    }
}

/// The rows of a batch, in a step of so many.
type Rows<'r, N> = &'r mut dyn FnMut(&N, &Batch, (usize, usize)) -> Result<RowLoss>;
