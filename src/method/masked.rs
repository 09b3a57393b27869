//! The rows of masked diffusion: one draw of the negative ELBO in any order.
//!
//! B batch, L length.

use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::loss::{RowLoss, Target};
use crate::model::{Noised, State};
use crate::process::corruption::Alphabet;
use crate::process::order::Context;
use crate::process::{Corruption, Order, Schedule};

/// The times that are trained on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoiseRange {
    /// Its lower end, from 0.
    pub low: f64,
    /// Its upper end, at most 1.
    pub high: f64,
}

impl NoiseRange {
    /// All times with a finite weight.
    pub const WHOLE: NoiseRange = NoiseRange { low: T_MIN, high: 1.0 };

    /// The time at `u` in [0, 1] of the range.
    pub fn time(&self, u: f64) -> f64 {
        self.low + (self.high - self.low) * u
    }
}

/// Smallest training time: the weight 1/t stays finite.
pub const T_MIN: f64 = 1e-3;

/// One draw of the masked NELBO (MDLM eq. 10): times stratified over the batch, masked rows weighted by
/// -alpha'/(1 - alpha) / (B L), in nats per token.
///
/// An order over blocks with finished text before them (BD3-LM, Arriola et al. 2025, eq. 8) has a time for each block,
/// and the text is read beside the noise. A block of one position is always masked: its bound is its likelihood, without
/// variance. Fixed phases are blocks of that kind, whatever their size: each is revealed in one step, so that one pass over both
/// streams gives the exact likelihood of the sampler in that order. Where the context is noisy (AR-Diffusion, pipelined blocks) a sequence is a column of the order's table; its
/// positions lose their noise -dt/dprogress times as fast, which is one more factor of the weight.
pub fn elbo(
    x0: &[u32],
    length: usize,
    mask: u32,
    order: Order,
    schedule: Schedule,
    gens: (impl Rng, impl Rng),
) -> RowLoss {
    elbo_within(x0, length, mask, order, schedule, NoiseRange::WHOLE, gens)
}

/// [`elbo`] with times of a part of the noise only, which bounds nothing (`clip`).
pub fn elbo_within(
    x0: &[u32],
    length: usize,
    mask: u32,
    order: Order,
    schedule: Schedule,
    range: NoiseRange,
    (mut times, mut noise): (impl Rng, impl Rng),
) -> RowLoss {
    let (batch, offset) = (x0.len() / length, times.random::<f64>());
    let (layout, in_blocks) = (order.layout(), order.context == Context::Clean);
    let single = |l: usize| in_blocks && (order.pattern.is_some() || layout.range(l).len() == 1);
    // Per position its time, and how fast that falls.
    let t: Vec<(f64, f64)> = match in_blocks {
        true => {
            let times = order.block_times(batch, length, offset).into_iter().enumerate();
            times.map(|(i, t)| (if single(i % length) { 1.0 } else { range.time(t) }, 1.0)).collect()
        }
        false => {
            let at = |p: f64, l: usize| (order.time(length, p, l), order.rate(length, p, l));
            let columns = order.training_progress(batch, offset).into_iter();
            columns
                .flat_map(|p| (0..length).map(move |l| at(p, l)))
                .map(|(t, rate)| (if rate > 0.0 { range.time(t) } else { t }, rate))
                .collect()
        }
    };
    let (t, rate): (Vec<f64>, Vec<f64>) = t.into_iter().unzip();
    let xt = Corruption::Absorb.corrupt(x0, &t, schedule, Alphabet { mask, vocab: 0 }, &mut noise);
    let rows: Vec<usize> = (0..xt.len()).filter(|i| xt[*i] == mask && rate[*i] > 0.0).collect();
    let weight = |r: usize| if single(r % length) { 1.0 } else { schedule.elbo_weight(t[r]) * rate[r] };
    let weights = rows.iter().map(|r| weight(*r) / x0.len() as f64).collect();
    let input = Noised::tokens(&xt, &t, length).in_order(&order, &[]);
    RowLoss {
        input: Noised { clean: beside(order, length).then(|| State::Tokens(x0.to_vec())), ..input },
        weights,
        target: Target::Tokens(rows.iter().map(|r| x0[*r]).collect()),
        rows,
        alpha: None,
    }
}

/// Whether a training input of this order has the finished text beside the noise: where there are blocks before others.
pub fn beside(order: Order, length: usize) -> bool {
    order.context == Context::Clean && order.blocks(length) > 1
}

#[cfg(test)]
mod tests {
    use burn::prelude::*;

    use super::*;
    use crate::loss::{backward, evaluate};
    use crate::model::config::Visibility;
    use crate::model::{Denoise, Transformer, TransformerConfig};
    use crate::rng::{StepRng, Stream};

    /// What a block is trained on is what a sampler reads: finished blocks before it, its own noise, and nothing behind it.
    #[test]
    fn the_elbo_over_blocks_is_that_of_each_block_behind_its_finished_ones() {
        let (vocab, length, batch, device) = (7, 6, 4, Device::flex());
        for size in [1, 2, 3] {
            let config = TransformerConfig::new(16, 2, 2, Visibility::Blocks(size));
            let model = Transformer::init(&config, vocab, length, 3, &device);
            let x0: Vec<u32> = (0..batch * length).map(|i| (i * 5 % 7) as u32).collect();
            let gens = (StepRng::new(1).at(0, Stream::Times), StepRng::new(1).at(0, Stream::Corrupt));
            let loss = elbo(&x0, length, model.mask(), Order::in_blocks(size), Schedule::LogLinear, gens);
            assert!(loss.rows.len() > 4);
            let (_, values) = evaluate(&model, &loss);
            for (r, value) in loss.rows.iter().zip(values) {
                let (row, block) = (r / length * length, r % length / size * size);
                let xt = &loss.input.token_ids()[row..row + length];
                let mut canvas = xt.to_vec();
                canvas[..block].copy_from_slice(&x0[row..row + block]);
                canvas[(block + size).min(length)..].fill(model.mask());
                let t = loss.input.t[row..row + length].to_vec();
                let alone = RowLoss {
                    input: Noised::tokens(&canvas, &t, length),
                    rows: vec![r - row],
                    weights: vec![1.0],
                    target: Target::Tokens(vec![x0[*r]]),
                    alpha: None,
                };
                let want = evaluate(&model, &alone).0;
                assert!((value - want).abs() < 1e-5, "size {size}, position {r}: {value} for {want}");
            }
            let trained = Transformer::init(&config, vocab, length, 3, &device.clone().autodiff());
            let (value, _) = backward(&trained, &loss);
            assert!(value.is_finite() && value > 0.0);
        }
    }
}
