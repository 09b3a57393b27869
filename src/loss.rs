//! The one form of every training step: a weighted sum over selected feature rows.
//!
//! ```text
//! loss = sum_r weight_r * loss_r(predict(features_r))
//! ```
//!
//! Methods differ only in which rows, which weights and which target. The rows go through the head in chunks, gradients included,
//! so [B, L, V] logits never exist at once.
//! B batch, L length, D width, V vocabulary, n rows.

use std::borrow::Cow;

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::prelude::*;

use crate::kernels::{self, Head, PosteriorRows, UniformRows, composed};
pub use crate::kernels::{Divergence, chunk_rows};
use crate::model::{Denoise, Network, Noised, Through};

/// What a row is compared with.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // one a step: boxing would only hide it
pub enum Target {
    /// Token ids `[n]`: cross-entropy.
    Tokens(Vec<u32>),
    /// Token ids `[n]` of scores: with q = exp(logits - offset of the row), sum q - 1 - ln q(token).
    Scores(Vec<u32>, Vec<f64>),
    /// Clean and noisy tokens `[n]` under uniform noise: the integrand of its ELBO (`method/uniform.rs`).
    Uniform(UniformRows),
    /// Posteriors of a chain of transition matrices (`method/d3pm.rs`).
    Posterior(PosteriorRows),
    /// The teacher's head and feature rows [n, D] (its log-probabilities are made chunk by chunk), and the divergence.
    Teacher(Head, Tensor<2>, Divergence),
    /// The target of a teacher with the logits of both sides divided by a temperature.
    Warmed(f64, Box<Target>),
    /// Several targets of the same rows, each with weights `[n]` of its own: the sum of their losses.
    Several(Vec<(Vec<f64>, Target)>),
}

/// A training step before any gradient: the noisy input, and which rows count how much against what.
#[derive(Debug, Clone)]
pub struct RowLoss {
    pub input: Noised,
    /// Flat positions `[n]` in B x L.
    pub rows: Vec<usize>,
    /// Weights `[n]`; the loss is the weighted sum.
    pub weights: Vec<f64>,
    pub target: Target,
    /// Further weights that depend on the predictions themselves.
    pub alpha: Option<Alpha>,
}

/// The group of each row of a loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Alpha {
    /// `[n]`, from 0.
    pub group: Vec<usize>,
    pub power: f64,
}

impl Alpha {
    /// What each row counts besides its weight, given its loss -log p `[n]`.
    pub fn factors(&self, losses: &[f64]) -> Vec<f64> {
        let count = self.group.iter().max().map_or(0, |g| g + 1);
        let mut sums = vec![(0.0, 0.0); count];
        for (g, loss) in self.group.iter().zip(losses) {
            sums[*g] = (sums[*g].0 - loss, sums[*g].1 + 1.0);
        }
        self.group.iter().map(|g| (self.power * sums[*g].0 / sums[*g].1).exp()).collect()
    }
}

/// The weights of a loss's rows under the predictions of their features [n, D]; no gradient goes through them.
pub(crate) fn weights<'l, N: Network>(model: &N, rows: &Tensor<2>, loss: &'l RowLoss) -> Cow<'l, [f64]> {
    let Some(alpha) = &loss.alpha else { return Cow::Borrowed(&loss.weights) };
    let plain = model.valid();
    let losses = row_losses(&plain, rows.clone().inner(), &loss.target);
    Cow::Owned(loss.weights.iter().zip(alpha.factors(&losses)).map(|(w, f)| w * f).collect())
}

impl Target {
    /// What rows `from .. from + weights` are compared with as the head's loss takes it, at a temperature.
    fn parts(&self, from: usize, weights: &[f64], temperature: f64) -> Vec<Part> {
        let to = from + weights.len();
        let target = match self {
            Target::Tokens(ids) => kernels::Target::Tokens(ids[from..to].into()),
            Target::Scores(ids, offsets) => {
                let offsets: Vec<f32> = offsets[from..to].iter().map(|o| *o as f32).collect();
                kernels::Target::Scores(ids[from..to].into(), offsets.into())
            }
            Target::Uniform(rows) => kernels::Target::Uniform(UniformRows {
                x0: rows.x0[from..to].into(),
                xt: rows.xt[from..to].into(),
                alpha: rows.alpha[from..to].into(),
            }),
            Target::Posterior(rows) => kernels::Target::Posterior(rows.slice(from..to)),
            Target::Teacher(head, rows, kind) => {
                let head = warmed(head.clone(), temperature);
                kernels::Target::Teacher(rows.clone().narrow(0, from, to - from), head, *kind)
            }
            Target::Warmed(own, target) => return target.parts(from, weights, temperature * own),
            Target::Several(all) => {
                let product = |own: &[f64]| own.iter().zip(weights).map(|(a, b)| a * b).collect::<Vec<f64>>();
                return all.iter().flat_map(|(own, t)| t.parts(from, &product(&own[from..to]), temperature)).collect();
            }
        };
        vec![Part { target, weights: weights.iter().map(|w| *w as f32).collect(), temperature }]
    }

    /// Whether no fused kernel knows it.
    fn composed(&self) -> bool {
        match self {
            Target::Scores(..) | Target::Uniform(_) | Target::Posterior(_) => true,
            Target::Several(all) => all.iter().any(|(_, t)| t.composed()),
            Target::Warmed(_, target) => target.composed(),
            Target::Tokens(_) | Target::Teacher(..) => false,
        }
    }
}

/// Rows of one kind of target, each with its weight.
struct Part {
    target: kernels::Target,
    weights: Vec<f32>,
    temperature: f64,
}

/// A head whose logits are divided by a temperature.
fn warmed(head: Head, temperature: f64) -> Head {
    match temperature {
        1.0 => head,
        t => Head { weight: head.weight / t, bias: head.bias.map(|bias| bias / t), ..head },
    }
}

/// The head's losses of feature rows `from ..`, weighted and summed, as a tensor [1].
fn head_loss(head: &Head, rows: Tensor<2>, loss: &RowLoss, weights: &[f64], from: usize, composed: bool) -> Tensor<1> {
    let weights = &weights[from..from + rows.dims()[0]];
    let parts = loss.target.parts(from, weights, 1.0).into_iter();
    let values = parts.map(|part| {
        let head = warmed(head.clone(), part.temperature);
        kernels::loss(rows.clone(), head, part.target, &part.weights, composed)
    });
    match values.reduce(|a, b| a + b) {
        Some(sum) => sum,
        None => rows.sum().mul_scalar(0.0),
    }
}

/// Value and gradients of a step: the blocks once, the head chunk by chunk.
pub fn backward<N: Network>(model: &N, loss: &RowLoss) -> (f64, GradientsParams) {
    if loss.rows.is_empty() {
        return (0.0, GradientsParams::new());
    }
    let through = model.through();
    if loss.target.composed() || through != Through::Fused {
        return backward_in_chunks(model, loss);
    }
    let features = model.features_at(&loss.input, &loss.rows);
    let weights = weights(model, &features, loss);
    let value = head_loss(&model.head(), features, loss, &weights, 0, false);
    let number = f64::from(value.clone().inner().into_scalar::<f32>());
    (number, GradientsParams::from_grads(value.backward(), model))
}

/// Each chunk's graph starts at a copy of its feature rows; the gradients with respect to those rows are gathered and
/// sent back through the blocks: all at once, as the derivative of the dot product (features, gradient), or one by one.
fn backward_in_chunks<N: Network>(model: &N, loss: &RowLoss) -> (f64, GradientsParams) {
    let chunk = chunk_rows(model.vocab());
    let mut acc = GradientsAccumulator::<N>::new();
    let mut value = 0.0;
    let mut head = |plain: Tensor<2>| -> Tensor<2> {
        let [n, d] = plain.dims();
        let weights = weights(model, &plain, loss);
        let mut row_grads = Vec::new();
        for from in (0..n).step_by(chunk) {
            let size = chunk.min(n - from);
            let leaf = plain.clone().slice([from..from + size, 0..d]).autodiff().require_grad();
            let part = head_loss(&model.head(), leaf.clone(), loss, &weights, from, true);
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
    let through = model.backward_through(&loss.input, &loss.rows, &mut head);
    acc.accumulate(model, through);
    (value, acc.grads())
}

/// The value of a step without gradients, and each row's unweighted loss `[n]`.
pub fn evaluate(model: &dyn Denoise, loss: &RowLoss) -> (f64, Vec<f64>) {
    let values = row_losses(model, model.features_at(&loss.input, &loss.rows), &loss.target);
    (values.iter().zip(&loss.weights).map(|(v, w)| v * w).sum(), values)
}

/// Each row's unweighted loss [n] of feature rows [n, D].
fn row_losses(model: &dyn Denoise, rows: Tensor<2>, target: &Target) -> Vec<f64> {
    let n = rows.dims()[0];
    let chunk = chunk_rows(model.vocab());
    let mut values = Vec::with_capacity(n);
    for from in (0..n).step_by(chunk) {
        let size = chunk.min(n - from);
        let rows = rows.clone().narrow(0, from, size);
        let mut here = vec![0.0; size];
        for Part { target, weights, temperature } in target.parts(from, &vec![1.0; size], 1.0) {
            let part = match target {
                kernels::Target::Tokens(ids) => composed::cross_entropy(model.predict(rows.clone()), &ids),
                kernels::Target::Scores(ids, offsets) => {
                    composed::score_entropy(model.scores(rows.clone()), &ids, &offsets)
                }
                kernels::Target::Uniform(of) => composed::uniform_elbo(model.predict(rows.clone()), &of),
                kernels::Target::Posterior(of) => composed::posterior(model.predict(rows.clone()), &of),
                kernels::Target::Teacher(theirs, head, kind) => {
                    let own = match temperature {
                        1.0 => model.predict(rows.clone()),
                        t => composed::log_softmax(model.predict(rows.clone()) / t),
                    };
                    kind.rows(own, composed::log_softmax(composed::logits(theirs, &head)))
                }
            };
            let part = part.into_data().convert::<f64>();
            let Ok(part) = part.try_into_vec::<f64>() else { panic!("losses are floating point numbers") };
            here.iter_mut().zip(part).zip(weights).for_each(|((sum, v), w)| *sum += v * f64::from(w));
        }
        values.extend(here);
    }
    values
}
