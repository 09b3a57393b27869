//! Sampling by transition matrices: from the stationary distribution, level by level, or over several levels at once.
//!
//! K steps visit the levels round(T (1 - k/K)); each draws q(x_s | x_t, p) from the whole posterior (process/d3pm.rs), in f64 and
//! with f64 uniforms, so that nothing of it is cut off. Every pass reads all positions: K passes, K L positions. What is given
//! stays, at t = 0. B batch, L length, N states.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::whole::{Extent, walk};
use super::{Decode, Process, SampleSpec, Samples};
use crate::error::{Error, Result};
use crate::model::draw::{self, inverse_cdf};
use crate::model::{Denoise, Noised};
use crate::process::corruption::any;
use crate::process::d3pm::Matrices;

/// Draws `n` samples; `spec` fits the process.
///
/// # Errors
/// More steps than levels, and an order that is not that of all positions at once (usage).
pub fn sample(
    model: &dyn Denoise,
    matrices: &Matrices,
    process: &Process,
    spec: &SampleSpec,
    n: usize,
) -> Result<Samples> {
    let (l, levels) = (process.length, matrices.levels());
    if process.order.pattern.is_some() || process.order.blocks(l) > 1 || matches!(process.decode, Decode::Rule(_)) {
        return Err(
            Error::usage("a chain of matrices is sampled at all positions at once").hint("use the order \"parallel\"")
        );
    }
    if spec.steps == 0 || spec.steps > levels {
        return Err(Error::usage(format!("{} steps over a chain of {levels} levels", spec.steps))
            .hint(format!("use between 1 and {levels} steps")));
    }
    let level = |k: usize| ((levels * (spec.steps - k)) as f64 / spec.steps as f64).round() as usize;
    let extent = Extent { length: l, steps: spec.steps, layers: model.layers().whole };
    let noise = |rng: &mut ChaCha8Rng| match matrices.absorbs() {
        true => matrices.states() as u32 - 1,
        false => any(matrices.states(), rng),
    };
    walk(&extent, spec, n, noise, |k, x, draws| {
        let greedy = process.decode == Decode::GreedyTail && k + 1 == spec.steps;
        step(model, matrices, spec, x, (level(k), level(k + 1), l), greedy, draws)
    })
}

/// The states [B L] after one step from level `t` to `s` of sequences of `l`.
fn step(
    model: &dyn Denoise,
    matrices: &Matrices,
    spec: &SampleSpec,
    x: &[u32],
    (t, s, l): (usize, usize, usize),
    greedy: bool,
    draws: &mut [ChaCha8Rng],
) -> Result<Vec<u32>> {
    let given = |p: usize| spec.pinned.get(p).is_some_and(Option::is_some);
    let time = t as f64 / matrices.levels() as f64;
    let now: Vec<f64> = (0..x.len()).map(|r| if given(r % l) { 0.0 } else { time }).collect();
    // Under masks a token stays.
    let mask = matrices.absorbs().then(|| matrices.states() as u32 - 1);
    let changes = |r: &usize| !given(r % l) && mask.is_none_or(|mask| x[*r] == mask);
    let rows: Vec<usize> = (0..x.len()).filter(changes).collect();
    if rows.is_empty() {
        return Ok(x.to_vec());
    }
    let uniforms: Vec<f64> = rows.iter().map(|r| draws[r / l].random()).collect();
    let ways: Vec<Vec<f64>> = (0..matrices.states() as u32).map(|i| matrices.way(s, t, i)).collect();
    let features = model.features_at(&Noised::tokens(x, &now, l), &rows);
    let next = draw::map_rows(model, features, |i, scores| {
        if greedy {
            return draw::argmax(scores);
        }
        let p = spec.filter.distribution(scores);
        let here = x[rows[i]];
        let posterior = matrices.posterior_by(&ways[here as usize], s, &p);
        match posterior.iter().any(|q| *q > 0.0) {
            true => inverse_cdf(&posterior, uniforms[i]),
            // A filter can exclude all that leads here: then what it keeps is drawn.
            false => inverse_cdf(&p, uniforms[i]),
        }
    })?;
    let mut out = x.to_vec();
    rows.iter().zip(next).for_each(|(r, token)| out[*r] = token);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Cache;
    use crate::process::d3pm::Matrix;
    use crate::process::{Corruption, Order, Schedule};
    use burn::prelude::*;
    use std::ops::Range;

    const JOINT: [f64; 9] = [0.3, 0.05, 0.05, 0.1, 0.2, 0.02, 0.08, 0.05, 0.15];

    /// Two positions over three tokens, and the exact prediction of each from the other under a chain.
    struct Exact(std::sync::Arc<Matrices>);

    impl Exact {
        fn prediction(&self, z: &[u32], l: usize, t: usize) -> Vec<f64> {
            let mut p = vec![0.0; 3];
            for (at, w) in JOINT.iter().enumerate() {
                let y = [at / 3, at % 3];
                p[y[l]] += w * self.0.marginal(t, y[1 - l] as u32)[z[1 - l] as usize];
            }
            let total: f64 = p.iter().sum();
            p.into_iter().map(|p| p / total).collect()
        }
    }

    impl Denoise for Exact {
        fn features(&self, input: &Noised) -> Tensor<3> {
            let of = |i: usize, z: &[u32]| -> Vec<f32> {
                let t = (input.t[2 * i].max(input.t[2 * i + 1]) * self.0.levels() as f64).round() as usize;
                (0..2).flat_map(|l| self.prediction(z, l, t)).map(|p| p.ln() as f32).collect()
            };
            let ids = input.token_ids();
            let values: Vec<f32> = ids.chunks(2).enumerate().flat_map(|(i, z)| of(i, z)).collect();
            Tensor::from_data(TensorData::new(values, [ids.len() / 2, 2, 3]), &Device::flex())
        }
        fn features_cached(&self, _: &Noised, _: Range<usize>, _: &mut Cache) -> Tensor<3> {
            panic!("it is read whole")
        }
        fn predict(&self, rows: Tensor<2>) -> Tensor<2> {
            rows
        }
        fn vocab(&self) -> usize {
            3
        }
        fn device(&self) -> Device {
            Device::flex()
        }
    }

    #[test]
    fn with_an_exact_prediction_samples_have_the_closed_form_of_their_steps() {
        let near = vec![vec![1], vec![2], vec![0]];
        let kinds =
            [Matrix::Absorbing, Matrix::Uniform, Matrix::Gaussian, Matrix::Neighbours { model: "ar".into(), k: 1 }];
        for matrix in kinds {
            let chain = Matrices::new(&matrix, 3, 12, Schedule::LogLinear, Some(&near)).unwrap();
            let model = Exact(std::sync::Arc::new(chain));
            let (m, n, states) = (&model.0, 20_000, model.0.states());
            let process = Process {
                order: Order::parallel(2),
                schedule: Schedule::LogLinear,
                corruption: if m.absorbs() { Corruption::Absorb } else { Corruption::Uniform },
                length: 2,
                cached: false,
                chain: Some(model.0.clone()),
                decode: Decode::Table,
            };
            for steps in [1, 3, 12] {
                // Over all pairs of states.
                let first = |i: usize| match m.absorbs() {
                    true => f64::from(u8::from(i == states - 1)),
                    false => 1.0 / states as f64,
                };
                let mut now: Vec<f64> = (0..states * states).map(|z| first(z / states) * first(z % states)).collect();
                for k in 0..steps {
                    let (t, s) = (12 - 12 * k / steps, 12 - 12 * (k + 1) / steps);
                    let mut next = vec![0.0; states * states];
                    for (z, w) in now.iter().enumerate().filter(|(_, w)| **w > 0.0) {
                        let z = [(z / states) as u32, (z % states) as u32];
                        let q = [0, 1].map(|l| m.posterior(s, t, z[l], &model.prediction(&z, l, t)));
                        (0..next.len()).for_each(|y| next[y] += w * q[0][y / states] * q[1][y % states]);
                    }
                    now = next;
                }
                let found = super::super::sample(&model, &process, &SampleSpec::new(steps, 5, 500), n).unwrap();
                let mut counts = vec![0.0; states * states];
                found.tokens.iter().for_each(|x| counts[x[0] as usize * states + x[1] as usize] += 1.0);
                let mut chi = 0.0;
                for (count, p) in counts.iter().zip(&now) {
                    let expected = p * n as f64;
                    if expected < 1e-9 {
                        assert_eq!(*count, 0.0, "{matrix:?}");
                    } else {
                        chi += (count - expected).powi(2) / expected;
                    }
                }
                // Chi-square of 8 degrees of freedom: above 26.1 once in 1000.
                assert!(chi < 26.1, "{matrix:?}, {steps} steps: {chi}");
            }
            let error = super::super::sample(&model, &process, &SampleSpec::new(13, 5, 1), 1).unwrap_err();
            assert!(error.to_string().contains("between 1 and 12"), "{error}");
        }
    }
}
