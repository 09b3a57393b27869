//! Objectives: what a training step minimises, brought to one form: a weighted sum over selected feature rows.
//!
//! ```text
//! loss = sum_r weight_r * loss_r(predict(features_r))
//! ```
//!
//! Autoregressive NLL, the masked NELBO and distillation differ only in which rows, which weights and which target.
//! The rows go through the head in chunks, gradients included, so [B, L, V] logits never exist at once.
//! B batch, L length, D width, V vocabulary, n rows.

pub mod distill;

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::prelude::*;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::kernels::{self, composed};
pub use crate::kernels::{Divergence, chunk_rows};
use crate::model::config::Compute;
use crate::model::{Denoise, Noised, Transformer};
use crate::process::{Corruption, Order, Schedule};
use crate::rng::{StepRng, Stream};
pub use distill::SdttConfig;

/// What is minimised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Objective {
    /// Next-token negative log-likelihood with teacher forcing.
    ArNll {},
    /// The continuous-time negative ELBO of absorbing diffusion (SUBS).
    Elbo {
        /// log_linear | cosine
        #[serde(default)]
        schedule: Schedule,
    },
    /// Self-distillation through time from a teacher.
    Sdtt(SdttConfig),
}

impl Objective {
    /// The name used in results and recipes.
    pub fn name(&self) -> &'static str {
        match self {
            Objective::ArNll {} => "ar_nll",
            Objective::Elbo { .. } => "elbo",
            Objective::Sdtt(_) => "sdtt",
        }
    }

    /// The name of the logged loss term.
    pub fn term(&self) -> &'static str {
        match self {
            Objective::ArNll {} => "nll",
            Objective::Elbo { .. } => "nelbo",
            Objective::Sdtt(_) => "divergence",
        }
    }
}

/// What a row is compared with.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // one a step: boxing would only hide it
pub enum Target<'a> {
    /// Token ids [n]: cross-entropy.
    Tokens(Vec<u32>),
    /// The teacher's feature rows [n, D] (its log-probabilities are made chunk by chunk), and the divergence.
    Teacher(&'a Transformer, Tensor<2>, Divergence),
}

/// A training step before any gradient: the noisy input, and which rows count how much against what.
#[derive(Debug, Clone)]
pub struct RowLoss<'a> {
    pub input: Noised,
    /// Flat positions [n] in B x L.
    pub rows: Vec<usize>,
    /// Weights [n]; the loss is the weighted sum.
    pub weights: Vec<f64>,
    pub target: Target<'a>,
}

/// Teacher forcing: every position of x0 [B, L], weight 1 / (B L), in nats per token.
pub fn ar_nll<'a>(x0: &[u32], length: usize) -> RowLoss<'a> {
    let n = x0.len();
    RowLoss {
        input: Noised::tokens(x0, &vec![0.0; n], length),
        rows: (0..n).collect(),
        weights: vec![1.0 / n as f64; n],
        target: Target::Tokens(x0.to_vec()),
    }
}

/// Smallest training time: the weight 1/t stays finite.
pub const T_MIN: f64 = 1e-3;

/// One draw of the masked NELBO (MDLM eq. 10): times stratified over the batch, masked rows weighted by
/// -alpha'/(1 - alpha) / (B L), in nats per token.
pub fn elbo<'a>(
    x0: &[u32],
    length: usize,
    mask: u32,
    order: Order,
    schedule: Schedule,
    (mut times, mut noise): (impl Rng, impl Rng),
) -> RowLoss<'a> {
    let batch = x0.len() / length;
    let t: Vec<f64> = order
        .training_times(batch, length, times.random::<f64>())
        .into_iter()
        .map(|t| T_MIN + (1.0 - T_MIN) * t)
        .collect();
    let xt = Corruption::Absorb.corrupt(x0, &t, schedule, mask, &mut noise);
    let rows: Vec<usize> = (0..xt.len()).filter(|i| xt[*i] == mask).collect();
    RowLoss {
        input: Noised::tokens(&xt, &t, length),
        weights: rows.iter().map(|r| schedule.elbo_weight(t[*r]) / x0.len() as f64).collect(),
        target: Target::Tokens(rows.iter().map(|r| x0[*r]).collect()),
        rows,
    }
}

/// Builds the rows of one step of a non-distilling objective.
pub fn data_rows<'a>(
    objective: &Objective,
    x0: &[u32],
    length: usize,
    mask: u32,
    order: Order,
    rng: (StepRng, u64),
) -> Option<RowLoss<'a>> {
    let (rng, step) = rng;
    match objective {
        Objective::ArNll {} => Some(ar_nll(x0, length)),
        Objective::Elbo { schedule } => {
            let draws = (rng.at(step, Stream::Times), rng.at(step, Stream::Corrupt));
            Some(elbo(x0, length, mask, order, *schedule, draws))
        }
        Objective::Sdtt(_) => None,
    }
}

impl Target<'_> {
    /// Rows `from .. from + n` as the head's loss takes them.
    fn rows(&self, from: usize, n: usize) -> kernels::Target {
        match self {
            Target::Tokens(ids) => kernels::Target::Tokens(ids[from..from + n].into()),
            Target::Teacher(teacher, rows, kind) => {
                kernels::Target::Teacher(rows.clone().narrow(0, from, n), teacher.head(), *kind)
            }
        }
    }
}

/// Value and gradients of a step: the blocks once, the head chunk by chunk.
pub fn backward(model: &Transformer, loss: &RowLoss) -> (f64, GradientsParams) {
    if loss.rows.is_empty() {
        return (0.0, GradientsParams::new());
    }
    let weights: Vec<f32> = loss.weights.iter().map(|w| *w as f32).collect();
    let config = model.config();
    // Blocks with adapters are composed, and checkpoint one by one.
    let by_blocks = config.checkpoint && model.has_adapters();
    if by_blocks || !kernels::fused(&model.device(), config.compute == Compute::F32, config.composed) {
        return backward_in_chunks(model, loss, &weights);
    }
    let rows = model.features_at(&loss.input, &loss.rows);
    let value = kernels::loss(rows, model.head(), loss.target.rows(0, weights.len()), &weights, false);
    let number = f64::from(value.clone().inner().into_scalar::<f32>());
    (number, GradientsParams::from_grads(value.backward(), model))
}

/// Each chunk's graph starts at a copy of its feature rows; the gradients with respect to those rows are gathered and
/// sent back through the blocks: all at once, as the derivative of the dot product (features, gradient), or one by one.
fn backward_in_chunks(model: &Transformer, loss: &RowLoss, weights: &[f32]) -> (f64, GradientsParams) {
    let chunk = chunk_rows(model.vocab());
    let mut acc = GradientsAccumulator::<Transformer>::new();
    let mut value = 0.0;
    let mut head = |plain: Tensor<2>| -> Tensor<2> {
        let [n, d] = plain.dims();
        let mut row_grads = Vec::new();
        for from in (0..n).step_by(chunk) {
            let size = chunk.min(n - from);
            let leaf = plain.clone().slice([from..from + size, 0..d]).autodiff().require_grad();
            let weights = &weights[from..from + size];
            let part = kernels::loss(leaf.clone(), model.head(), loss.target.rows(from, size), weights, true);
            value += f64::from(part.clone().inner().into_scalar::<f32>());
            let mut grads = part.backward();
            row_grads.push(match leaf.grad_remove(&mut grads) {
                Some(g) => g,
                None => plain.clone().narrow(0, from, size).zeros_like(),
            });
            acc.accumulate(model, GradientsParams::from_grads(grads, model));
        }
        if row_grads.len() == 1 { row_grads.remove(0) } else { Tensor::cat(row_grads, 0) }
    };
    let through = match model.config().checkpoint {
        true => model.backward_by_blocks(&loss.input, &loss.rows, head),
        false => {
            let rows = model.features_at(&loss.input, &loss.rows);
            let row_grads = head(rows.clone().inner());
            GradientsParams::from_grads((rows * row_grads.autodiff()).sum().backward(), model)
        }
    };
    acc.accumulate(model, through);
    (value, acc.grads())
}

/// The value of a step without gradients, and each row's unweighted loss [n].
pub fn evaluate(model: &dyn Denoise, loss: &RowLoss) -> (f64, Vec<f64>) {
    let rows = model.features_at(&loss.input, &loss.rows);
    let n = rows.dims()[0];
    let chunk = chunk_rows(model.vocab());
    let mut values = Vec::with_capacity(n);
    for from in (0..n).step_by(chunk) {
        let size = chunk.min(n - from);
        let log_probs = model.predict(rows.clone().narrow(0, from, size));
        let part = match loss.target.rows(from, size) {
            kernels::Target::Tokens(ids) => composed::cross_entropy(log_probs, &ids),
            kernels::Target::Teacher(rows, head, kind) => {
                kind.rows(log_probs, composed::log_softmax(composed::logits(rows, &head)))
            }
        };
        values.extend(crate::model::params::floats(part).into_iter().map(f64::from));
    }
    (values.iter().zip(&loss.weights).map(|(v, w)| v * w).sum(), values)
}
