//! The optimiser and its settings: how a model is trained, whatever it is trained for.

pub mod adamw;
pub mod lr;

use burn::optim::{GradientsAccumulator, GradientsParams};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, whole_within, within};
use crate::model::{Network, params};
pub use adamw::Optimizer;
pub use lr::Decay;

/// Loss and gradients of a step.
pub struct Gathered {
    pub loss: f64,
    /// Sums over the parts; [`Gathered::scale`] makes their mean of them.
    pub grads: GradientsParams,
    /// The global norm of the mean.
    pub norm: f64,
    parts: usize,
}

/// The mean loss and the gradients of `parts` parts of a step, of which `part` gives one.
///
/// # Errors
/// Those of a part.
pub fn gather<N: Network>(
    model: &N,
    parts: usize,
    part: &mut dyn FnMut(usize) -> Result<(f64, GradientsParams)>,
) -> Result<Gathered> {
    let (mut loss, mut grads) = part(0)?;
    if parts > 1 {
        let mut acc = GradientsAccumulator::<N>::new();
        acc.accumulate(model, grads);
        for i in 1..parts {
            let (value, grads) = part(i)?;
            loss += value;
            acc.accumulate(model, grads);
        }
        grads = acc.grads();
    }
    let norm = params::gradient_norm(model, &grads) / parts as f64;
    Ok(Gathered { loss: loss / parts as f64, grads, norm, parts })
}

impl Gathered {
    /// Whether the loss and the norm are numbers.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.norm.is_finite()
    }

    /// What the gradients are multiplied by: the mean of the parts, clipped.
    pub fn scale(&self, config: &TrainConfig) -> f64 {
        let clipped = config.clip.map_or(1.0, |max| (max / (self.norm + 1e-6)).min(1.0));
        clipped / self.parts as f64
    }
}

/// Steps of a training, at most.
const MOST_STEPS: usize = 1_000_000_000;

/// How a model is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps.
    pub steps: usize,
    /// Sequences per optimiser step and accumulation part.
    pub batch: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// constant | cosine | linear
    #[serde(default)]
    pub decay: Decay,
    /// Steps of linear warm-up.
    #[serde(default)]
    pub warmup: usize,
    /// Learning rate at the end as a fraction of the peak.
    #[serde(default)]
    pub final_fraction: f64,
    /// AdamW's decoupled decay of the matrices (norms and biases are never decayed).
    #[serde(default)]
    pub weight_decay: f64,
    /// AdamW's decay of the mean gradient.
    #[serde(default = "default_beta1")]
    pub beta1: f64,
    /// AdamW's decay of the mean squared gradient.
    #[serde(default = "default_beta2")]
    pub beta2: f64,
    /// What AdamW adds to the root of the mean squared gradient.
    #[serde(default = "default_eps")]
    pub eps: f64,
    /// Largest global gradient norm; larger gradients are scaled down to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// Batches whose gradients are averaged into one step.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Decay of the exponential moving average that is evaluated and exported; none: the raw weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Steps between log lines.
    #[serde(default = "default_log")]
    pub log_every: usize,
    /// Steps between checkpoints; 0 saves at the end only.
    #[serde(default)]
    pub save_every: usize,
    /// Checkpoints kept (the newest ones).
    #[serde(default = "default_keep")]
    pub keep: usize,
}

fn default_beta1() -> f64 {
    0.9
}
fn default_beta2() -> f64 {
    0.99
}
fn default_eps() -> f64 {
    1e-8
}
fn one() -> usize {
    1
}
fn default_log() -> usize {
    50
}
fn default_keep() -> usize {
    2
}

impl TrainConfig {
    /// So many steps on batches of so many sequences at this peak learning rate, and all else as in a recipe that leaves it out.
    pub fn new(steps: usize, batch: usize, lr: f64) -> Self {
        TrainConfig {
            steps,
            batch,
            lr,
            decay: Decay::default(),
            warmup: 0,
            final_fraction: 0.0,
            weight_decay: 0.0,
            beta1: default_beta1(),
            beta2: default_beta2(),
            eps: default_eps(),
            clip: None,
            accumulate: one(),
            ema: None,
            log_every: default_log(),
            save_every: 0,
            keep: default_keep(),
        }
    }

    /// Checks ranges; `key` is the dotted place of this table in the recipe.
    ///
    /// # Errors
    /// A setting out of range (usage).
    pub fn validate(&self, key: &str) -> Result<()> {
        let at = |name: &str| format!("{key}.{name}");
        whole_within(&at("steps"), self.steps, 1..=MOST_STEPS)?;
        whole_within(&at("batch"), self.batch, 1..=1_000_000)?;
        within(&at("lr"), self.lr, 1e-12..=10.0)?;
        within(&at("final_fraction"), self.final_fraction, 0.0..=1.0)?;
        within(&at("weight_decay"), self.weight_decay, 0.0..=10.0)?;
        within(&at("beta1"), self.beta1, 0.0..=0.999_999)?;
        within(&at("beta2"), self.beta2, 0.0..=0.999_999)?;
        within(&at("eps"), self.eps, 1e-30..=1.0)?;
        whole_within(&at("accumulate"), self.accumulate, 1..=1_000_000)?;
        whole_within(&at("log_every"), self.log_every, 1..=MOST_STEPS)?;
        whole_within(&at("save_every"), self.save_every, 0..=MOST_STEPS)?;
        whole_within(&at("keep"), self.keep, 2..=1_000_000)?;
        whole_within(&at("warmup"), self.warmup, 0..=self.steps)?;
        if let Some(clip) = self.clip {
            within(&at("clip"), clip, 1e-9..=1e9)?;
        }
        if let Some(ema) = self.ema {
            within(&at("ema"), ema, 0.0..=0.999_999_9)?;
        }
        Ok(())
    }

    /// Learning rate of `step`.
    pub fn learning_rate(&self, step: usize) -> f64 {
        lr::learning_rate(step, self.steps, self.lr, self.warmup, self.decay, self.final_fraction)
    }
}
