//! Clipped noise: training a model over blocks at times t ~ U[low, high] in place of U(0, 1], and the search for the
//! range whose loss varies least (BD3-LM, Arriola et al. 2025, sections 4.3 and 5; the published code's `var_min`).
//!
//! With weights 1/t on masked tokens a block's loss estimates
//!
//! ```text
//! 1/(high - low) * integral over t in [low, high] of E[-ln p(x0_l | x_t, blocks before)]        nats per token,
//! ```
//!
//! the mean of the NELBO's integrand over the range. Over the whole range that is the NELBO, a bound of the negative
//! log-likelihood. Over a part it is no bound by itself: where predictions get worse with noise, as those of a perfect
//! model do, a range without the low noise gives a larger number than the NELBO, and one without the high noise a
//! smaller one. Likelihoods are therefore always evaluated over the whole range. For blocks of one token and t = 1 the
//! loss is the autoregressive one, exactly.
//!
//! The published training differs in two ways that are not copied: with low > 1/2 it sets all weights to 1, and (with
//! `resample`) it draws a block's masks again until their share lies in the range.
//! B batch, L length, P blocks, n rows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::masked::{NoiseRange, T_MIN, elbo_within};
use crate::error::{Error, Result, whole_within};
use crate::loss::{RowLoss, Target, evaluate};
use crate::model::Denoise;
use crate::process::order::OrderConfig;
use crate::process::{Order, Schedule};
use crate::rng::{StepRng, Stream};

/// How the range is chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Clip {
    /// This one.
    Range(NoiseRange),
    /// The one of least variance, searched again every so often; the whole one until then.
    Search(Search),
}

/// When the range is searched, and on how much.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// Optimiser steps between two searches.
    pub every: usize,
    /// Batches on which each of some 36 ranges is tried.
    #[serde(default = "default_batches")]
    pub batches: usize,
}

fn default_batches() -> usize {
    8
}

impl Clip {
    /// Checks the settings; `key` is their place in the recipe and `place` the order's.
    ///
    /// # Errors
    /// An order that is not over blocks, another schedule, or a setting out of range (usage).
    pub fn validate(&self, key: &str, place: &str, order: &OrderConfig, schedule: Schedule) -> Result<()> {
        if !matches!(order, OrderConfig::Blocks(_)) {
            return Err(Error::usage(format!("`{key}` needs `{place} = {{ blocks = N }}`"))
                .hint("clipped noise is for models over blocks; leave `clip` out"));
        }
        if schedule != Schedule::LogLinear {
            return Err(Error::usage(format!("`{key}` needs the schedule \"log_linear\""))
                .cause("its range is one of times that are shares of masked tokens")
                .hint("write `schedule = \"log_linear\"`, or leave `clip` out"));
        }
        match self {
            Clip::Range(NoiseRange { low, high }) if !(*low >= T_MIN && low <= high && *high <= 1.0) => Err(
                Error::usage(format!("`{key}.range` must have {T_MIN} <= low <= high <= 1, but it is {low} to {high}"))
                    .hint(format!("for example `{key}.range = {{ low = 0.3, high = 0.8 }}`")),
            ),
            Clip::Search(Search { every, batches }) => {
                whole_within(&format!("{key}.search.every"), *every, 1..=1_000_000_000)?;
                whole_within(&format!("{key}.search.batches"), *batches, 1..=1024)
            }
            _ => Ok(()),
        }
    }

    /// The range that a training begins with.
    pub fn start(&self) -> NoiseRange {
        match self {
            Clip::Range(range) => *range,
            Clip::Search(_) => NoiseRange::WHOLE,
        }
    }
}

/// The published ranges for blocks of `size` tokens: the whole one, and those of widths 0.5 to 0.9 at every 0.05; for
/// blocks of one token the whole one and t = 1.
pub fn grid(size: usize) -> Vec<NoiseRange> {
    if size == 1 {
        return vec![NoiseRange::WHOLE, NoiseRange { low: 1.0, high: 1.0 }];
    }
    // In twentieths, so that no rounding decides where a width ends.
    let at = |k: usize| k as f64 / 20.0;
    let of_width = |w: usize| (0..=20 - w).map(move |k| NoiseRange { low: at(k).max(T_MIN), high: at(k + w) });
    std::iter::once(NoiseRange::WHOLE).chain([10, 12, 14, 16, 18].into_iter().flat_map(of_width)).collect()
}

/// Loss [B P] of each block of each sequence, nats per token, from the losses [n] of a step's rows.
fn block_losses(rows: &RowLoss, values: &[f64], size: usize) -> Vec<f64> {
    let (all, length) = (rows.input.t.len(), rows.input.length);
    let blocks = length.div_ceil(size);
    let mut losses = vec![0.0; all / length * blocks];
    for ((at, weight), value) in rows.rows.iter().zip(&rows.weights).zip(values) {
        let block = at % length / size;
        let tokens = size.min(length - block * size);
        losses[at / length * blocks + block] += weight * value * all as f64 / tokens as f64;
    }
    losses
}

/// Variance of the loss of a block `[G]` in each of the `ranges`: over the blocks of a batch, and the mean over the
/// batches [B L], which are read with the same uniforms in every range. 0 where a batch is one block.
pub fn variances(
    model: &dyn Denoise,
    batches: &[Vec<u32>],
    length: usize,
    order: Order,
    ranges: &[NoiseRange],
    rng: StepRng,
    part: u64,
) -> Vec<f64> {
    let one = |range: &NoiseRange, x0: &[u32], draw: u64| {
        let gens = (rng.at(2 * draw, Stream::Clip), rng.at(2 * draw + 1, Stream::Clip));
        let rows = elbo_within(x0, length, model.mask(), order, Schedule::LogLinear, *range, gens);
        debug_assert!(matches!(rows.target, Target::Tokens(_)));
        let values = if rows.rows.is_empty() { Vec::new() } else { evaluate(model, &rows).1 };
        variance(&block_losses(&rows, &values, order.block))
    };
    let mean = |range| {
        let each = batches.iter().zip(part..).map(|(x0, draw)| one(range, x0, draw));
        each.sum::<f64>() / batches.len().max(1) as f64
    };
    ranges.iter().map(mean).collect()
}

fn variance(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0)
}

/// The range of least variance among the published ones, the first of equals: a function of the model, the batches and
/// (seed, `part`), of which batch i draws from `part` + i.
pub fn search(
    model: &dyn Denoise,
    batches: &[Vec<u32>],
    length: usize,
    order: Order,
    rng: StepRng,
    part: u64,
) -> NoiseRange {
    let ranges = grid(order.block);
    let found = variances(model, batches, length, order, &ranges, rng, part);
    let best = (1..found.len()).fold(0, |best, i| if found[i] < found[best] { i } else { best });
    ranges[best]
}

#[cfg(test)]
mod tests {
    use burn::prelude::*;

    use super::*;
    use crate::model::config::Visibility;
    use crate::model::{Transformer, TransformerConfig};

    fn model(size: usize, length: usize) -> Transformer {
        let config = TransformerConfig::new(16, 1, 2, Visibility::Blocks(size));
        Transformer::init(&config, 7, length, 3, &Device::flex())
    }

    fn tokens(n: usize) -> Vec<u32> {
        (0..n).map(|i| (i * 5 % 7) as u32).collect()
    }

    fn gens(seed: u64) -> (rand_chacha::ChaCha8Rng, rand_chacha::ChaCha8Rng) {
        let rng = StepRng::new(seed);
        (rng.at(0, Stream::Times), rng.at(0, Stream::Corrupt))
    }

    #[test]
    fn times_of_a_range_are_one_a_block_evenly_spread_over_it_and_only_it() {
        let (x0, range) = (tokens(3 * 8), NoiseRange { low: 0.3, high: 0.8 });
        let loss = elbo_within(&x0, 8, 7, Order::in_blocks(2), Schedule::LogLinear, range, gens(1));
        let mut times: Vec<f64> = loss.input.t.chunks(2).map(|pair| pair[0]).collect();
        assert!(loss.input.t.chunks(2).all(|pair| pair[0] == pair[1]));
        times.sort_by(f64::total_cmp);
        assert!(times[0] > 0.3 && times[11] <= 0.8, "{times:?}");
        assert!(times.windows(2).all(|p| (p[1] - p[0] - 0.5 / 12.0).abs() < 1e-12), "{times:?}");
        for (row, weight) in loss.rows.iter().zip(&loss.weights) {
            assert!((weight - 1.0 / loss.input.t[*row] / 24.0).abs() < 1e-15);
        }
    }

    /// A model whose loss does not depend on the noise has the same expected loss in every range: the weights are
    /// right.
    #[test]
    fn the_weights_of_every_range_sum_to_one_in_expectation() {
        for range in [NoiseRange::WHOLE, NoiseRange { low: 0.3, high: 0.8 }, NoiseRange { low: 0.6, high: 1.0 }] {
            let x0 = tokens(4000 * 8);
            let loss = elbo_within(&x0, 8, 7, Order::in_blocks(4), Schedule::LogLinear, range, gens(2));
            let sum: f64 = loss.weights.iter().sum();
            // A token's weight is 1/t with chance t: its variance is E[1/t] - 1.
            let inverse = (range.high / range.low).ln() / (range.high - range.low);
            let sigma = ((inverse - 1.0) / x0.len() as f64).sqrt();
            assert!((sum - 1.0).abs() < 4.0 * sigma, "{range:?}: {sum} +- {sigma}");
        }
    }

    #[test]
    fn blocks_of_one_token_at_full_noise_have_the_autoregressive_loss() {
        let model = model(1, 6);
        let (x0, range) = (tokens(2 * 6), NoiseRange { low: 1.0, high: 1.0 });
        let order = Order::in_blocks(1);
        let loss = |seed| elbo_within(&x0, 6, model.mask(), order, Schedule::LogLinear, range, gens(seed));
        assert_eq!(loss(1).rows, (0..12).collect::<Vec<_>>());
        assert!(loss(1).weights.iter().all(|w| (w - 1.0 / 12.0).abs() < 1e-15));
        assert_eq!(evaluate(&model, &loss(1)), evaluate(&model, &loss(2)));
    }

    #[test]
    fn the_grid_is_the_published_one() {
        let all = grid(4);
        assert_eq!(all.len(), 1 + 11 + 9 + 7 + 5 + 3);
        assert_eq!((all[0], all[1]), (NoiseRange::WHOLE, NoiseRange { low: T_MIN, high: 0.5 }));
        assert!(
            all.contains(&NoiseRange { low: 0.45, high: 0.95 }) && all.contains(&NoiseRange { low: 0.3, high: 0.8 })
        );
        assert!(all.iter().all(|r| r.low >= T_MIN && r.low < r.high && r.high <= 1.0));
        assert_eq!(grid(1), [NoiseRange::WHOLE, NoiseRange { low: 1.0, high: 1.0 }]);
    }

    #[test]
    fn the_losses_of_the_blocks_add_up_to_the_loss_of_the_step() {
        // The last block is shorter than the others.
        let (model, x0) = (model(3, 7), tokens(4 * 7));
        let range = NoiseRange { low: 0.2, high: 0.9 };
        let rows = elbo_within(&x0, 7, model.mask(), Order::in_blocks(3), Schedule::LogLinear, range, gens(3));
        let (total, values) = evaluate(&model, &rows);
        let losses = block_losses(&rows, &values, 3);
        assert_eq!(losses.len(), 4 * 3);
        let weighted: f64 = losses.iter().enumerate().map(|(i, l)| l * if i % 3 == 2 { 1.0 } else { 3.0 }).sum();
        assert!((weighted / 28.0 - total).abs() < 1e-12, "{weighted} and {total}");
        // By hand: the first block's rows, weighted by 1/t over its three tokens.
        let first = rows.rows.iter().zip(&values).filter(|(r, _)| **r < 3).map(|(r, v)| v / rows.input.t[*r] / 3.0);
        assert!((first.sum::<f64>() - losses[0]).abs() < 1e-12);
    }

    #[test]
    fn the_variance_is_of_the_blocks_and_the_range_of_least_of_it_is_found() {
        assert!((variance(&[1.0, 2.0, 4.0, 5.0]) - 10.0 / 3.0).abs() < 1e-12);
        assert_eq!(variance(&[3.0]), 0.0);
        let (model, order) = (model(4, 8), Order::in_blocks(4));
        let batches: Vec<Vec<u32>> = (0..6).map(|i| tokens(16 * 8 + i)[i..].to_vec()).collect();
        let ranges = grid(4);
        let (rng, part) = (StepRng::new(5), 40);
        let found = variances(&model, &batches, 8, order, &ranges, rng, part);
        let best = search(&model, &batches, 8, order, rng, part);
        let least = found.iter().copied().fold(f64::INFINITY, f64::min);
        assert_eq!(found[ranges.iter().position(|r| *r == best).unwrap()], least);
        // An untrained model loses about ln V everywhere, so what varies is the weights: much noise varies least.
        assert!(best.high == 1.0 && best.low >= 0.45 && least < found[0] / 2.0, "{best:?}, {least} of {}", found[0]);
        assert_eq!(search(&model, &batches, 8, order, rng, part), best);
    }

    #[test]
    fn what_cannot_be_clipped_is_refused() {
        let range = |low, high| Clip::Range(NoiseRange { low, high });
        let of = |clip: &Clip, order: &OrderConfig, schedule| {
            clip.validate("m.clip", "m.order", order, schedule).map_err(|e| e.to_string())
        };
        let (blocks, linear) = (&OrderConfig::Blocks(4), Schedule::LogLinear);
        assert!(of(&range(0.3, 0.8), blocks, linear).is_ok() && of(&range(1.0, 1.0), blocks, linear).is_ok());
        for (low, high) in [(0.0, 0.5), (0.5, 0.4), (0.5, 1.1), (f64::NAN, 0.5), (0.5, f64::NAN)] {
            assert!(of(&range(low, high), blocks, linear).unwrap_err().contains("`m.clip.range` must have"));
        }
        assert!(of(&range(0.3, 0.8), &OrderConfig::Parallel, linear).unwrap_err().contains("needs `m.order"));
        assert!(of(&range(0.3, 0.8), blocks, Schedule::Cosine).unwrap_err().contains("log_linear"));
        let search = |every, batches| Clip::Search(Search { every, batches });
        assert!(of(&search(10, 1), blocks, linear).is_ok());
        for clip in [search(0, 1), search(1, 0), search(1, 1025)] {
            assert!(of(&clip, blocks, linear).unwrap_err().contains("`m.clip.search."));
        }
    }
}
