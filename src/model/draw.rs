//! Drawing tokens from predictions, on the host or beside the network: weights in f32, sums and uniforms in f64.
//!
//! The second stage of the two-stage draw: which positions are revealed was decided by their own uniforms,
//! so the token comes from p alone by inverse CDF. A token of probability p is lost only where p is below f32's own
//! resolution, not where (reveal probability x p) is, which is what the usual f32 Gumbel over both cuts off.
//! n rows, V vocabulary.

use burn::prelude::*;
use burn::tensor::{DType, FloatDType};
use rand::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Denoise, params};
use crate::error::{Error, Kind, Result};
use crate::kernels::simd;

/// How a distribution is bent before a token is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Log-probabilities are divided by it; 0 takes the most probable token.
    pub temperature: f64,
    /// Keep the k most probable tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Keep the smallest set of tokens whose probability reaches p.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
}

impl Default for Filter {
    fn default() -> Self {
        Filter { temperature: 1.0, top_k: None, top_p: None }
    }
}

impl Filter {
    /// Draws a token from one row of scores: log-probabilities up to a constant.
    pub fn draw(&self, scores: &[f32], rng: &mut impl Rng) -> u32 {
        self.at(scores, rng.random())
    }

    /// The probability of token `id` in the bent distribution of one row of scores.
    pub fn probability(&self, scores: &[f32], id: u32) -> f64 {
        if self.temperature < 1e-30 {
            return f64::from(u8::from(argmax(scores) == id));
        }
        let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |v: f32| (f64::from(v - top) / self.temperature).exp();
        if self.top_k.is_none() && self.top_p.is_none() {
            return weight(scores[id as usize]) / scores.iter().map(|v| weight(*v)).sum::<f64>();
        }
        let (order, kept) = self.kept(scores);
        let own = order.iter().position(|i| *i == id).map_or(0.0, |i| kept[i]);
        own / kept.iter().sum::<f64>()
    }

    /// The bent distribution `[V]` of one row of scores.
    pub fn distribution(&self, scores: &[f32]) -> Vec<f64> {
        let (order, kept) = match self.temperature < 1e-30 {
            true => (vec![argmax(scores)], vec![1.0]),
            false => self.kept(scores),
        };
        let (mut out, total) = (vec![0.0; scores.len()], kept.iter().sum::<f64>());
        order.iter().zip(kept).for_each(|(i, w)| out[*i as usize] = w / total);
        out
    }

    /// The token whose slice of the bent distribution holds u in [0, 1).
    pub fn at(&self, scores: &[f32], u: f64) -> u32 {
        // Below that, 1 / T is no f32 and the most probable token is all that is left.
        if self.temperature < 1e-30 {
            return argmax(scores);
        }
        if self.top_k.is_none() && self.top_p.is_none() {
            return softmax_cdf(scores, self.temperature, u);
        }
        let (order, kept) = self.kept(scores);
        order[inverse_cdf(&kept, u) as usize]
    }

    /// The tokens that are kept, the most probable first, and their weights.
    fn kept(&self, scores: &[f32]) -> (Vec<u32>, Vec<f64>) {
        let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let scaled: Vec<f64> = scores.iter().map(|v| (f64::from(v - top) / self.temperature).exp()).collect();
        let mut order: Vec<u32> = (0..scaled.len() as u32).collect();
        order.sort_by(|a, b| scaled[*b as usize].total_cmp(&scaled[*a as usize]).then(a.cmp(b)));
        order.truncate(self.top_k.unwrap_or(order.len()).max(1));
        if let Some(p) = self.top_p {
            let total: f64 = order.iter().map(|i| scaled[*i as usize]).sum();
            let mut mass = 0.0;
            let keep = order.iter().position(|i| {
                mass += scaled[*i as usize];
                mass >= p * total
            });
            order.truncate(keep.map_or(order.len(), |k| k + 1));
        }
        let kept = order.iter().map(|i| scaled[*i as usize]).collect();
        (order, kept)
    }
}

/// Tokens whose weights are summed before the next look at u.
const STRIPE: usize = 128;

/// The token whose slice of softmax(scores / temperature) holds u: weights in f32 (each within 3e-7 of its value), sums
/// in f64, so that a token is lost only where its probability is below what f32 can hold beside the largest.
fn softmax_cdf(scores: &[f32], temperature: f64, u: f64) -> u32 {
    let top = largest(scores);
    let scale = (1.0 / temperature) as f32;
    let stripes: Vec<f64> = scores.chunks(STRIPE).map(|s| weight_sum(s, top, scale)).collect();
    let total: f64 = stripes.iter().sum();
    let mut left = u * total;
    let mut chosen = None;
    for (i, weight) in stripes.iter().enumerate() {
        if *weight > 0.0 {
            chosen = Some((i, left / weight));
            if left < *weight {
                break;
            }
            left -= weight;
        }
    }
    let Some((stripe, share)) = chosen else { return argmax(scores) };
    let first = stripe * STRIPE;
    let weights: Vec<f64> =
        scores[first..scores.len().min(first + STRIPE)].iter().map(|s| f64::from(weight(*s, top, scale))).collect();
    first as u32 + inverse_cdf(&weights, share.min(1.0 - f64::EPSILON))
}

/// e^((score - top) scale), 0 where f32 has no number for it.
#[inline(always)]
fn weight(score: f32, top: f32, scale: f32) -> f32 {
    let x = (score - top) * scale;
    if x < -87.0 { 0.0 } else { simd::exp(x) }
}

fn largest(scores: &[f32]) -> f32 {
    simd::wide(
        #[inline(always)]
        || simd::max(scores),
    )
}

fn weight_sum(scores: &[f32], top: f32, scale: f32) -> f64 {
    f64::from(simd::wide(
        #[inline(always)]
        || simd::sum(scores, |s| weight(s, top, scale)),
    ))
}

/// The most probable token, the first of equals.
pub fn argmax(log_probs: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in log_probs.iter().enumerate() {
        if *v > log_probs[best] {
            best = i;
        }
    }
    best as u32
}

/// The index whose slice of the cumulated weights holds u in [0, 1).
pub fn inverse_cdf(weights: &[f64], u: f64) -> u32 {
    let total: f64 = weights.iter().sum();
    let mut left = u * total;
    let mut last = 0;
    for (i, w) in weights.iter().enumerate() {
        if *w > 0.0 {
            last = i;
            if left < *w {
                return i as u32;
            }
            left -= w;
        }
    }
    last as u32
}

/// Rows whose scores are on the host at once.
fn chunk(vocab: usize) -> usize {
    ((64usize << 20) / (4 * vocab)).max(16)
}

/// Log-probability rows of the feature rows [n, D], handed to `take` in order.
pub fn each_row(model: &dyn Denoise, features: Tensor<2>, mut take: impl FnMut(usize, &[f32])) {
    let (n, v) = (features.dims()[0], model.vocab());
    for from in (0..n).step_by(chunk(v)) {
        let size = chunk(v).min(n - from);
        let values = params::floats(model.predict(features.clone().narrow(0, from, size)));
        values.chunks(v).enumerate().for_each(|(i, row)| take(from + i, row));
    }
}

/// The error (exit 5) of predictions that are no distribution.
pub fn not_finite() -> Error {
    Error::new(Kind::NonFinite, "the model's predictions are not finite numbers")
        .hint("`fewstep inspect DIR` shows the largest weight of each tensor")
}

/// A token for each pick: a row of the feature rows [n, D] (rows do not fall from pick to pick) and a uniform in [0, 1).
///
/// # Errors
/// A row of scores that is not a distribution: NaN, +infinity, or nothing above -infinity (non-finite).
pub fn picks(model: &dyn Denoise, features: Tensor<2>, picks: &[(usize, f64)], filter: Filter) -> Result<Vec<u32>> {
    let _span = tracing::trace_span!("draws").entered();
    let (n, v) = (features.dims()[0], model.vocab());
    let mut out = Vec::with_capacity(picks.len());
    for from in (0..n).step_by(chunk(v)) {
        let size = chunk(v).min(n - from);
        let here = picks.partition_point(|p| p.0 < from)..picks.partition_point(|p| p.0 < from + size);
        if here.is_empty() {
            continue;
        }
        let scores = params::floats(model.scores(features.clone().narrow(0, from, size)));
        let draw = |(row, u): &(usize, f64)| {
            let scores = &scores[(row - from) * v..][..v];
            let top = largest(scores);
            if !top.is_finite() || scores.iter().any(|s| s.is_nan()) {
                return Err(not_finite());
            }
            Ok(filter.at(scores, *u))
        };
        out.extend(picks[here].par_iter().map(draw).collect::<Result<Vec<u32>>>()?);
    }
    Ok(out)
}

/// What `of` makes of each row of scores (its number, `[V]`) of the feature rows [n, D], on all cores.
///
/// # Errors
/// As [`picks`].
pub fn map_rows<T: Send>(
    model: &dyn Denoise,
    features: Tensor<2>,
    of: impl Fn(usize, &[f32]) -> T + Sync,
) -> Result<Vec<T>> {
    let (n, v) = (features.dims()[0], model.vocab());
    let mut out = Vec::with_capacity(n);
    for from in (0..n).step_by(chunk(v)) {
        let size = chunk(v).min(n - from);
        let scores = params::floats(model.scores(features.clone().narrow(0, from, size)));
        let row = |(i, scores): (usize, &[f32])| match largest(scores).is_finite() && !scores.iter().any(|s| s.is_nan())
        {
            true => Ok(of(from + i, scores)),
            false => Err(not_finite()),
        };
        out.extend(scores.par_chunks(v).enumerate().map(row).collect::<Result<Vec<T>>>()?);
    }
    Ok(out)
}

/// Tokens drawn where the scores are, and whether every row of scores was a distribution.
#[derive(Debug, Clone)]
pub struct Drawn {
    /// `[n]`
    pub tokens: Tensor<1, Int>,
    /// `[1]`
    pub finite: Tensor<1, Bool>,
}

/// [`picks`] without leaving the device: nothing of it waits for the host.
///
/// The inverse CDF in two stages, each with its own half of the uniform's bits: first the stripe, by its share of the sum,
/// then the token in it. Sums are f64 where the device has it; elsewhere they are f32, and what is below 1e-7 of its stripe,
/// or a stripe below 1e-7 of all, is lost. Which token a uniform falls on differs from [`picks`], the distribution does not (in f64 up to the 2^-26 that the
/// bits of each stage resolve).
pub fn picks_on_device(model: &dyn Denoise, features: Tensor<2>, picks: &[(usize, f64)], temperature: f64) -> Drawn {
    let _span = tracing::trace_span!("draws").entered();
    let (n, size) = (features.dims()[0], chunk(model.vocab()));
    let mut parts: Vec<Drawn> = Vec::new();
    for from in (0..n).step_by(size) {
        let size = size.min(n - from);
        let here = picks.partition_point(|p| p.0 < from)..picks.partition_point(|p| p.0 < from + size);
        let here: Vec<(usize, f64)> = picks[here].iter().map(|(row, u)| (row - from, *u)).collect();
        if !here.is_empty() {
            parts.push(draw_on_device(model.scores(features.clone().narrow(0, from, size)), &here, temperature));
        }
    }
    let (tokens, finite): (Vec<_>, Vec<_>) = parts.into_iter().map(|d| (d.tokens, d.finite)).unzip();
    Drawn { tokens: Tensor::cat(tokens, 0), finite: Tensor::cat(finite, 0).all() }
}

/// A token for each pick from the rows of scores [r, V]; see [`picks_on_device`].
fn draw_on_device(scores: Tensor<2>, picks: &[(usize, f64)], temperature: f64) -> Drawn {
    let ([r, v], n, device) = (scores.dims(), picks.len(), scores.device());
    let scores = scores.cast(FloatDType::F32);
    let top = scores.clone().max_dim(1);
    // A maximum may pass over NaN; -infinity is a score like others.
    let nan = scores.clone().is_nan().any_dim(1);
    let finite = top.clone().is_finite().bool_and(nan.bool_not()).all();
    let rows = super::index_tensor(&picks.iter().map(|p| p.0).collect::<Vec<_>>(), &device);
    if temperature < 1e-30 {
        return Drawn { tokens: scores.argmax(1).reshape([r]).select(0, rows), finite };
    }
    let exact = device.supports_dtype(DType::F64);
    let (dtype, bits) = if exact { (FloatDType::F64, 26) } else { (FloatDType::F32, 23) };
    let weights = ((scores - top).div_scalar(temperature)).exp().cast(dtype);
    let stripes = v.div_ceil(STRIPE);
    let weights = match stripes * STRIPE - v {
        0 => weights,
        short => Tensor::cat(vec![weights, Tensor::zeros([r, short], (&device, DType::from(dtype)))], 1),
    };
    let uniform = |shift: u32| -> Tensor<2> {
        let part = |(_, u): &(usize, f64)| {
            let bits_of_u = (u * (1u64 << 52) as f64) as u64 >> shift & ((1 << bits) - 1);
            bits_of_u as f64 / (1u64 << bits) as f64
        };
        let parts: Vec<f64> = picks.iter().map(part).collect();
        Tensor::from_data(TensorData::new(parts, [n, 1]), (&device, DType::from(dtype)))
    };
    // Rows are weighed once, however many picks share them; a pick takes the sums of its row, then one stripe of it.
    let striped = weights.reshape([r, stripes, STRIPE]);
    let sums = striped.clone().sum_dim(2).reshape([r, stripes]);
    let stripe = slot(sums.select(0, rows.clone()), uniform(52 - bits)).reshape([n]);
    let at = rows * stripes as i32 + stripe.clone();
    let inside = slot(striped.reshape([r * stripes, STRIPE]).select(0, at), uniform(52 - 2 * bits)).reshape([n]);
    // Where there is no distribution the draw falls behind the last token; `finite` says so, and the id stays one.
    Drawn { tokens: (stripe * STRIPE as i32 + inside).clamp_max(v as i32 - 1), finite }
}

/// The slot [n, 1] whose slice of the cumulated weights [n, m] holds u [n, 1], below 1 by more than rounding.
fn slot(weights: Tensor<2>, u: Tensor<2>) -> Tensor<2, Int> {
    let [n, m] = weights.dims();
    let cumulated = weights.clone().cumsum(1);
    let holds = cumulated.clone().greater(cumulated.narrow(1, m - 1, 1) * u).bool_and(weights.greater_elem(0.0));
    let slots = Tensor::<1, Int>::arange(0..m as i64, &holds.device()).reshape([1, m]).repeat_dim(0, n);
    let beyond = slots.ones_like() * (m as i32 - 1);
    slots.mask_where(holds.bool_not(), beyond).min_dim(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{StepRng, Stream};

    /// A Zipf distribution over `v` symbols.
    fn zipf(v: usize) -> Vec<f64> {
        let z: f64 = (1..=v).map(|i| 1.0 / i as f64).sum();
        (1..=v).map(|i| 1.0 / i as f64 / z).collect()
    }

    /// z score of the chi-square of draws from a Zipf law, its symbols in bins of doubling rank.
    fn excess(counts: &[u64], p: &[f64]) -> f64 {
        let n: u64 = counts.iter().sum();
        let edges: Vec<usize> =
            std::iter::successors(Some(0), |a| (*a < p.len()).then(|| (2 * a + 1).min(p.len()))).collect();
        let chi2: f64 = edges
            .windows(2)
            .map(|e| {
                let want = n as f64 * p[e[0]..e[1]].iter().sum::<f64>();
                let got: u64 = counts[e[0]..e[1]].iter().sum();
                (got as f64 - want).powi(2) / want
            })
            .sum();
        let freedom = (edges.len() - 2) as f64;
        (chi2 - freedom) / (2.0 * freedom).sqrt()
    }

    #[test]
    fn the_two_stage_draw_is_exact_in_f32_on_a_zipf_law_at_reveal_probability_1_in_1024_where_the_f32_gumbel_is_not() {
        let (v, reveal) = (50_000, 1.0 / 1024.0);
        let p = zipf(v);
        let log_p: Vec<f32> = p.iter().map(|p| p.ln() as f32).collect();
        let mut rng = StepRng::new(5).at(0, Stream::Token);
        // Ours: about 10 M Bernoulli trials reveal 10,000 positions; each draws its token from p.
        let mut ours = vec![0u64; v];
        let filter = Filter::default();
        let mut revealed = 0;
        while revealed < 10_000 {
            if rng.random::<f64>() < reveal {
                ours[filter.draw(&log_p, &mut rng) as usize] += 1;
                revealed += 1;
            }
        }
        let z = excess(&ours, &p);
        assert!(z.abs() < 4.0, "two-stage draw is off by {z} sigma");
        let naive = naive_f32(&p, reveal, 400, &mut rng);
        let z = excess(&naive, &p);
        assert!(z > 8.0, "the naive f32 draw should fail, but is off by only {z} sigma");
        let tail = |c: &[u64]| c[v / 10..].iter().sum::<u64>() as f64 / c.iter().sum::<u64>() as f64;
        let truth: f64 = p[v / 10..].iter().sum();
        assert!((tail(&ours) - truth).abs() < 0.02 && tail(&naive) < truth * 0.5, "{} {}", tail(&ours), tail(&naive));
    }

    /// The reference codes' one-stage f32 draw over "reveal x token" and "stay", argmax q / (1e-10 - log(u + 1e-10)), until
    /// `reveals` positions were revealed.
    fn naive_f32(p: &[f64], reveal: f64, reveals: usize, rng: &mut impl Rng) -> Vec<u64> {
        let q: Vec<f32> = p.iter().map(|p| (p * reveal) as f32).collect();
        let stay = (1.0 - reveal) as f32;
        let race = |q: f32, u: f32| q / (1e-10f32 - (u + 1e-10f32).ln());
        let f32_uniform = |bits: u32| (bits >> 8) as f32 / 16_777_216.0;
        let mut counts = vec![0u64; p.len()];
        let mut found = 0;
        while found < reveals {
            let stay_score = race(stay, f32_uniform(rng.random()));
            let mut best = stay_score;
            let mut at = None;
            for (i, q) in q.iter().enumerate() {
                // Largest score this symbol can reach in f32: u = 1 - 2^-24.
                if race(*q, 1.0 - f32::EPSILON / 2.0) <= best {
                    break; // symbols are sorted by falling probability: no later one can win either
                }
                let r = race(*q, f32_uniform(rng.random()));
                if r > best {
                    best = r;
                    at = Some(i);
                }
            }
            if let Some(i) = at {
                counts[i] += 1;
                found += 1;
            }
        }
        counts
    }

    #[test]
    fn the_softmax_draw_is_the_inverse_cdf_of_the_softmax_over_many_stripes() {
        let mut rng = StepRng::new(4).at(0, Stream::Token);
        for v in [1, 2, 127, 128, 129, 1000] {
            let scores: Vec<f32> = (0..v).map(|_| rng.random_range(-6.0f32..3.0)).collect();
            for temperature in [1.0, 0.4] {
                let weights: Vec<f64> = scores.iter().map(|s| (f64::from(*s) / temperature).exp()).collect();
                for i in 0..400 {
                    let u = (f64::from(i) + 0.5) / 400.0;
                    let (got, want) = (softmax_cdf(&scores, temperature, u), inverse_cdf(&weights, u));
                    assert!(
                        got == want || (f64::from(got) - f64::from(want)).abs() <= 1.0,
                        "{v} {u}: {got} for {want}"
                    );
                }
            }
        }
        assert_eq!(softmax_cdf(&[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY], 1.0, 0.999_999), 1);
    }

    #[test]
    fn the_draw_on_the_device_is_exact_on_a_zipf_law() {
        let v = 50_000;
        let p = zipf(v);
        let log_p: Vec<f32> = p.iter().map(|p| p.ln() as f32).collect();
        let mut rng = StepRng::new(6).at(0, Stream::Token);
        let mut counts = vec![0u64; v];
        for _ in 0..40 {
            let picks: Vec<(usize, f64)> = (0..250).map(|i| (i / 125, rng.random())).collect();
            let scores = Tensor::<2>::from_data(TensorData::new(log_p.repeat(2), [2, v]), &Device::flex());
            let drawn = draw_on_device(scores, &picks, 1.0);
            assert!(drawn.finite.into_scalar::<bool>());
            let tokens: Vec<i32> = drawn.tokens.into_data().convert::<i32>().try_into_vec::<i32>().unwrap();
            tokens.iter().for_each(|t| counts[*t as usize] += 1);
        }
        let z = excess(&counts, &p);
        assert!(z.abs() < 4.0, "the draw on the device is off by {z} sigma");
    }

    #[test]
    fn the_draw_on_the_device_never_takes_a_token_without_weight_and_follows_the_temperature() {
        let device = Device::flex();
        let none = f32::NEG_INFINITY;
        for v in [1usize, 3, 128, 129, 300] {
            // Only every third token can be drawn, among them neither the first nor, mostly, the last.
            let row: Vec<f32> = (0..v).map(|i| if i % 3 == 1 || v == 1 { 0.1 * i as f32 } else { none }).collect();
            let uniforms: Vec<f64> = (0..64).map(|i| f64::from(i) / 63.0 * (1.0 - f64::EPSILON)).collect();
            let picks: Vec<(usize, f64)> = uniforms.into_iter().enumerate().collect();
            let rows: Vec<f32> = row.iter().copied().cycle().take(64 * v).collect();
            for temperature in [0.0, 0.5, 1.0] {
                let scores = Tensor::<2>::from_data(TensorData::new(rows.clone(), [64, v]), &device);
                let drawn = draw_on_device(scores, &picks, temperature);
                let tokens: Vec<i32> = drawn.tokens.into_data().convert::<i32>().try_into_vec::<i32>().unwrap();
                assert!(tokens.iter().all(|t| row[*t as usize] > none), "{v} {temperature}: {tokens:?}");
                assert!(temperature > 0.0 || tokens.iter().all(|t| *t == argmax(&row) as i32));
            }
        }
        let p = [0.6f32, 0.4].map(f32::ln);
        let mut rng = StepRng::new(8).at(0, Stream::Token);
        let picks: Vec<(usize, f64)> = (0..20_000).map(|_| (0, rng.random())).collect();
        let scores = Tensor::<2>::from_data([p], &device);
        let tokens = draw_on_device(scores, &picks, 0.5).tokens.into_data().convert::<i32>();
        let second = f64::from(tokens.try_into_vec::<i32>().unwrap().iter().sum::<i32>()) / 20_000.0;
        assert!((second - 0.16 / 0.52).abs() < 0.015, "{second}");
    }

    #[test]
    fn the_draw_on_the_device_keeps_a_tail_of_tiny_tokens_beside_one_sure_token() {
        // 1 beside 49,999 tokens of 4e-10: an f32 running sum would lose all of them.
        let v = 50_000;
        let mut row = vec![(4e-10f32).ln(); v];
        row[0] = 0.0;
        let picks: Vec<(usize, f64)> = (0..8).map(|i| (0, 1.0 - 2e-5 * (f64::from(i) + 0.5) / 8.0)).collect();
        let scores = Tensor::<2>::from_data(TensorData::new(row, [1, v]), &Device::flex());
        let tokens = draw_on_device(scores, &picks, 1.0).tokens.into_data().convert::<i32>();
        let tokens = tokens.try_into_vec::<i32>().unwrap();
        assert!(tokens.iter().all(|t| *t >= 128), "{tokens:?}");
        assert!(tokens.windows(2).all(|t| t[0] > t[1]), "evenly over the tail: {tokens:?}");
    }

    #[test]
    fn a_row_without_a_distribution_is_told_by_the_draw_on_the_device() {
        for bad in [f32::NAN, f32::INFINITY] {
            let scores = Tensor::<2>::from_data([[0.0f32, 1.0, 2.0], [0.0, bad, 1.0]], &Device::flex());
            assert!(!draw_on_device(scores, &[(0, 0.2), (1, 0.7)], 1.0).finite.into_scalar::<bool>(), "{bad}");
        }
        let scores = Tensor::<2>::from_data([[f32::NEG_INFINITY; 3]], &Device::flex());
        assert!(!draw_on_device(scores, &[(0, 0.2)], 1.0).finite.into_scalar::<bool>());
    }

    #[test]
    fn temperature_zero_takes_the_first_of_the_most_probable_tokens() {
        let mut rng = StepRng::new(1).at(0, Stream::Token);
        let f = Filter { temperature: 0.0, ..Filter::default() };
        assert_eq!(f.draw(&[-2.0, -0.5, -0.5], &mut rng), 1);
    }

    #[test]
    fn top_k_and_top_p_draw_only_what_they_keep_and_keep_its_ratios() {
        let mut rng = StepRng::new(2).at(0, Stream::Token);
        let p = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
        for (f, kept) in [
            (Filter { top_k: Some(2), ..Filter::default() }, 2),
            (Filter { top_p: Some(0.9), ..Filter::default() }, 3),
            (Filter { top_p: Some(0.5), ..Filter::default() }, 1),
        ] {
            let mut counts = [0f64; 4];
            (0..20_000).for_each(|_| counts[f.draw(&p, &mut rng) as usize] += 1.0);
            assert!(counts[kept..].iter().all(|c| *c == 0.0), "{f:?} {counts:?}");
            if kept > 1 {
                assert!((counts[0] / counts[1] - 0.5 / 0.3).abs() < 0.1, "{f:?} {counts:?}");
            }
        }
    }

    #[test]
    fn a_low_temperature_sharpens_as_the_power_law_says() {
        let mut rng = StepRng::new(3).at(0, Stream::Token);
        let f = Filter { temperature: 0.5, ..Filter::default() };
        let p = [0.6f32, 0.4].map(f32::ln);
        let first = (0..40_000).filter(|_| f.draw(&p, &mut rng) == 0).count() as f64 / 40_000.0;
        assert!((first - 0.36 / 0.52).abs() < 0.01, "{first}");
    }
}
