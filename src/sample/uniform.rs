//! Sampling under uniform noise: every position starts as any token and takes a step of the bridge in every pass.
//!
//! The step from t down to s keeps the token, draws one from the prediction, or any ([`Bridge`]); one uniform says which, another
//! draws. No token is final before the end, so each pass reads all positions: K passes, K L positions. What is given
//! stays, at t = 0. A filter bends the prediction, in both the choice and the draw. The greedy tail takes the most probable
//! tokens in the last step instead (DUO's `greedy`). B batch, L length, K steps, V vocabulary.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::whole::{Extent, walk};
use super::{Decode, Process, SampleSpec, Samples};
use crate::error::{Error, Result};
use crate::model::draw::{self, Filter};
use crate::model::{Denoise, Noised};
use crate::process::corruption::{Bridge, Source, any};

/// The most probable token, whatever the filter.
const GREEDY: Filter = Filter { temperature: 0.0, top_k: None, top_p: None };

/// Draws `n` samples; `spec` fits the process.
///
/// # Errors
/// An order that is not that of all positions at once, or a way of walking that is for masks (usage).
pub fn sample(model: &dyn Denoise, process: &Process, spec: &SampleSpec, n: usize) -> Result<Samples> {
    let l = process.length;
    if process.order.pattern.is_some() || process.order.blocks(l) > 1 || matches!(process.decode, Decode::Rule(_)) {
        return Err(Error::usage("uniform noise is sampled at all positions at once")
            .cause("blocks and thresholds reveal masks, and there are none")
            .hint("use the order \"parallel\""));
    }
    let grid = process.order.grid(l, spec.steps)?;
    // One time for the whole sequence, as the table has it.
    let times: Vec<f64> = (0..=grid.steps()).map(|k| grid.row(k)[0]).collect();
    let extent = Extent { length: l, steps: grid.steps(), layers: model.layers().whole };
    let noise = |rng: &mut ChaCha8Rng| any(model.vocab(), rng);
    walk(&extent, spec, n, noise, |k, x, draws| {
        let greedy = process.decode == Decode::GreedyTail && k + 1 == grid.steps();
        step(model, process, spec, x, (times[k], times[k + 1]), greedy, draws)
    })
}

/// The tokens [B L] after one step from `t` to `s`.
fn step(
    model: &dyn Denoise,
    process: &Process,
    spec: &SampleSpec,
    x: &[u32],
    (t, s): (f64, f64),
    greedy: bool,
    draws: &mut [ChaCha8Rng],
) -> Result<Vec<u32>> {
    let (l, vocab) = (process.length, model.vocab());
    let given = |p: usize| spec.pinned.get(p).is_some_and(Option::is_some);
    let now: Vec<f64> = (0..x.len()).map(|r| if given(r % l) { 0.0 } else { t }).collect();
    let rows: Vec<usize> = (0..x.len()).filter(|r| !given(r % l)).collect();
    if rows.is_empty() {
        return Ok(x.to_vec());
    }
    let uniforms: Vec<[f64; 2]> = rows.iter().map(|r| [draws[r / l].random(), draws[r / l].random()]).collect();
    let features = model.features_at(&Noised::tokens(x, &now, l), &rows);
    let (alpha_t, alpha_s) = (process.schedule.alpha(t), process.schedule.alpha(s));
    let filter = if greedy { GREEDY } else { spec.filter };
    let next = draw::map_rows(model, features, |i, scores| {
        let ([which, u], here) = (uniforms[i], x[rows[i]]);
        if greedy {
            return draw::argmax(scores);
        }
        match Bridge::new(filter.probability(scores, here), vocab, alpha_t, alpha_s).pick(which) {
            Source::Stay => here,
            Source::Text => filter.at(scores, u),
            Source::Noise => ((u * vocab as f64) as u32).min(vocab as u32 - 1),
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
    use crate::process::corruption::uniform_posterior;
    use crate::process::{Corruption, Order, Schedule};
    use burn::prelude::*;
    use std::ops::Range;

    /// Two positions over three tokens with a known joint distribution, and its exact prediction of each from the other.
    struct Exact;

    const JOINT: [f64; 9] = [0.3, 0.05, 0.05, 0.1, 0.2, 0.02, 0.08, 0.05, 0.15];

    impl Exact {
        fn prediction(z: &[u32], l: usize, alpha: f64) -> Vec<f64> {
            let mut p = vec![0.0; 3];
            for (at, w) in JOINT.iter().enumerate() {
                let y = [at / 3, at % 3];
                let other = f64::from(u8::from(z[1 - l] as usize == y[1 - l]));
                p[y[l]] += w * (alpha * other + (1.0 - alpha) / 3.0);
            }
            let total: f64 = p.iter().sum();
            p.into_iter().map(|p| p / total).collect()
        }
    }

    impl Denoise for Exact {
        fn features(&self, input: &Noised) -> Tensor<3> {
            let of = |i: usize, z: &[u32]| -> Vec<f32> {
                let t = input.t[2 * i].max(input.t[2 * i + 1]);
                let rows = (0..2).flat_map(|l| Self::prediction(z, l, 1.0 - t));
                rows.map(|p| p.ln() as f32).collect()
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

    fn process(decode: Decode) -> Process {
        Process {
            order: Order::parallel(2),
            schedule: Schedule::LogLinear,
            corruption: Corruption::Uniform,
            length: 2,
            cached: false,
            chain: None,
            decode,
        }
    }

    /// The distribution [9] of what K steps draw, step by step over all pairs of tokens.
    fn closed_form(steps: usize, greedy: bool) -> Vec<f64> {
        let mut now = vec![1.0 / 9.0; 9];
        for k in 0..steps {
            let (at, as_) = (k as f64 / steps as f64, (k + 1) as f64 / steps as f64);
            let mut next = vec![0.0; 9];
            for (z, w) in now.iter().enumerate() {
                let z = [(z / 3) as u32, (z % 3) as u32];
                let q: Vec<Vec<f64>> = (0..2)
                    .map(|l| {
                        let p = Exact::prediction(&z, l, at);
                        if greedy && k + 1 == steps {
                            let best = (0..3).max_by(|a, b| p[*a].total_cmp(&p[*b])).unwrap();
                            return (0..3).map(|y| f64::from(u8::from(y == best))).collect();
                        }
                        uniform_posterior(&p, z[l], at, as_)
                    })
                    .collect();
                (0..9).for_each(|y| next[y] += w * q[0][y / 3] * q[1][y % 3]);
            }
            now = next;
        }
        now
    }

    fn drawn(steps: usize, decode: Decode, n: usize) -> Vec<f64> {
        let found = super::super::sample(&Exact, &process(decode), &SampleSpec::new(steps, 11, 500), n).unwrap();
        assert!(found.nfe.iter().all(|k| *k == steps) && found.positions.iter().all(|p| *p == 2 * steps as u64));
        let mut counts = vec![0.0; 9];
        found.tokens.iter().for_each(|x| counts[(3 * x[0] + x[1]) as usize] += 1.0);
        counts
    }

    #[test]
    fn with_an_exact_prediction_samples_have_the_closed_form_of_their_steps_and_of_many_steps_the_data() {
        let n = 40_000;
        for (steps, decode) in
            [(1, Decode::Table), (2, Decode::Table), (4, Decode::Table), (32, Decode::Table), (3, Decode::GreedyTail)]
        {
            let want = closed_form(steps, decode == Decode::GreedyTail);
            let counts = drawn(steps, decode, n);
            let mut chi = 0.0;
            for (count, p) in counts.iter().zip(&want) {
                let expected = p * n as f64;
                if expected < 1e-9 {
                    assert_eq!(*count, 0.0);
                    continue;
                }
                chi += (count - expected).powi(2) / expected;
            }
            // Chi-square of 8 degrees of freedom: above 26.1 once in 1000.
            assert!(chi < 26.1, "{steps} steps, {decode:?}: {chi}");
        }
        let far = |k: usize| closed_form(k, false).iter().zip(JOINT).map(|(a, b)| (a - b).abs()).sum::<f64>();
        assert!(far(64) < 0.02 && far(1) > 5.0 * far(64), "{} and {}", far(1), far(64));
    }

    #[test]
    fn what_is_given_stays_and_a_sample_does_not_depend_on_its_batch() {
        let pinned = vec![None, Some(2)];
        let spec = SampleSpec { pinned, trace: true, ..SampleSpec::new(4, 5, 3) };
        let a = super::super::sample(&Exact, &process(Decode::Table), &spec, 7).unwrap();
        let b = super::super::sample(&Exact, &process(Decode::Table), &SampleSpec { batch: 7, ..spec }, 7).unwrap();
        assert_eq!((&a.tokens, &a.trace), (&b.tokens, &b.trace));
        assert!(a.trace.iter().all(|steps| steps.len() == 5 && steps.iter().all(|x| x[1] == 2)));
        let first = |x: &Vec<u32>| x[0];
        assert!(a.tokens.iter().map(first).collect::<std::collections::BTreeSet<_>>().len() > 1);
    }

    #[test]
    fn blocks_are_refused() {
        let blocks = Process { order: Order::in_blocks(1), ..process(Decode::Table) };
        let error = super::super::sample(&Exact, &blocks, &SampleSpec::new(2, 1, 1), 1).unwrap_err();
        assert!(error.to_string().contains("parallel"), "{error}");
    }
}
