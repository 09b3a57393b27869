//! The continuous-time negative ELBO of uniform diffusion (Schiff et al. 2024, UDLM; Sahoo et al. 2025, DUO).
//!
//! With xbar(p) = V alpha p + 1 - alpha, the marginal of x_t times V, noise reverses from i to j at the rate
//! -alpha'/(V alpha) xbar(p)_j/xbar(p)_i, and a position's integrand is the divergence of two such jump processes, that of the
//! clean token y and that of the prediction p:
//!
//! ```text
//! -alpha'/(V alpha) [ V/xbar(p)_i - V/xbar(y)_i + sum_j xbar(y)_j/xbar(y)_i ln( xbar(y)_j xbar(p)_i / (xbar(y)_i xbar(p)_j) ) ]
//! ```
//!
//! for i = x_t. Written in u_j = ln(1 + e p_j), e = V alpha/(1 - alpha), nothing large cancels:
//!
//! ```text
//! -alpha'/(alpha (1 - alpha)) [ exp(-u_i) - w + w ( (alpha + (1 - alpha)/V - d) ln(1 + e) - (1 - alpha) mean_j u_j - alpha u_y + u_i ) ]
//! ```
//!
//! with d = 1 where i = y, else 0, and w = (1 + e)^-d. Every position counts, masked or not. Its optimum is not p(x_0 | x_t) but
//! the distribution of a position given all *other* positions of x_t: with it the reverse process is the exact one and the bound
//! is the likelihood (a test holds it to that). B batch, L length, V vocabulary.

use rand::Rng;

use crate::kernels::UniformRows;
use crate::loss::{RowLoss, Target};
use crate::model::Noised;
use crate::process::duality::Duality;
use crate::process::{Schedule, corruption};

/// Nearest to 0 and 1 that a time comes: there the factor of the integrand grows without bound.
pub const EDGE: f64 = 1e-4;

/// How noisy a sequence is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// Probability that a token is kept; one that is not is any of the V.
    pub alpha: f64,
    /// -d alpha for the uniform number that the level was drawn by.
    pub rate: f64,
}

impl Level {
    /// Times uniform in (0, 1).
    pub fn of_time(schedule: Schedule, u: f64) -> Self {
        let t = EDGE + (1.0 - 2.0 * EDGE) * u;
        Level { alpha: schedule.alpha(t), rate: -schedule.dalpha(t) * (1.0 - 2.0 * EDGE) }
    }

    /// Times of the Gaussian process uniform in its range.
    pub fn of_duality(duality: &Duality, u: f64) -> Self {
        let (low, high) = duality.range();
        let (alpha, slope) = duality.alpha(low + (high - low) * u);
        Level { alpha, rate: -slope * (high - low) }
    }
}

/// One draw of the bound on x0 [B, L], in nats per token, over V tokens; levels are stratified over the batch.
pub fn elbo(
    x0: &[u32],
    length: usize,
    vocab: usize,
    schedule: Schedule,
    duality: Option<&Duality>,
    (mut times, mut noise): (impl Rng, impl Rng),
) -> RowLoss {
    let (batch, offset) = (x0.len() / length, times.random::<f64>());
    let level = |i: usize| {
        let u = 1.0 - (offset + i as f64 / batch as f64).fract();
        duality.map_or_else(|| Level::of_time(schedule, u), |d| Level::of_duality(d, u))
    };
    let levels: Vec<Level> = (0..batch).map(level).collect();
    let t: Vec<f64> = (0..x0.len()).map(|r| schedule.time(levels[r / length].alpha)).collect();
    let lost = |r: usize, noise: &mut _| lose(x0[r], levels[r / length].alpha, vocab, noise);
    let xt: Vec<u32> = (0..x0.len()).map(|r| lost(r, &mut noise)).collect();
    let target = rows_of(x0, &xt, |r| levels[r / length].alpha);
    let weight = |r: usize| factor(levels[r / length]) / x0.len() as f64;
    RowLoss {
        alpha: None,
        input: Noised::tokens(&xt, &t, length),
        rows: (0..x0.len()).collect(),
        weights: (0..x0.len()).map(weight).collect(),
        target: Target::Uniform(target),
    }
}

/// A token with probability alpha, else any of the V.
fn lose(x: u32, alpha: f64, vocab: usize, rng: &mut impl Rng) -> u32 {
    if rng.random::<f64>() < alpha { x } else { corruption::any(vocab, rng) }
}

/// What stands before the brackets: -alpha'/(alpha (1 - alpha)).
pub fn factor(level: Level) -> f64 {
    level.rate / (level.alpha * (1.0 - level.alpha))
}

/// The rows of all positions of a batch.
pub fn rows_of(x0: &[u32], xt: &[u32], alpha: impl Fn(usize) -> f64) -> UniformRows {
    UniformRows { x0: x0.into(), xt: xt.into(), alpha: (0..x0.len()).map(alpha).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::composed;
    use crate::model::params::floats;
    use crate::process::corruption::uniform_posterior;
    use burn::prelude::*;

    /// The integrand in the first of the two forms, without -alpha'.
    fn integrand(p: &[f64], xt: usize, y: usize, alpha: f64) -> f64 {
        let v = p.len() as f64;
        let bar = |p: f64| v * alpha * p + 1.0 - alpha;
        let ours: Vec<f64> = p.iter().map(|p| bar(*p)).collect();
        let true_: Vec<f64> = (0..p.len()).map(|j| bar(f64::from(u8::from(j == y)))).collect();
        let ratio = |j: usize| true_[j] / true_[xt];
        let sum: f64 = (0..p.len()).map(|j| ratio(j) * (ratio(j) * ours[xt] / ours[j]).ln()).sum();
        (v / ours[xt] - v / true_[xt] + sum) / (v * alpha)
    }

    /// Gauss-free quadrature of a smooth function over (0, 1): the midpoint rule after t = u^2 (3 - 2 u), which flattens both
    /// ends.
    fn integral(f: impl Fn(f64) -> f64) -> f64 {
        let n = 4000;
        (0..n)
            .map(|k| {
                let u = (k as f64 + 0.5) / n as f64;
                f(u * u * (3.0 - 2.0 * u)) * 6.0 * u * (1.0 - u) / n as f64
            })
            .sum()
    }

    #[test]
    fn the_rows_are_the_formula() {
        let v = 5;
        let p = [0.4, 0.3, 0.15, 0.1, 0.05];
        for alpha in [1e-3, 0.2, 0.7, 0.999] {
            let cases: Vec<(u32, u32)> = (0..v).flat_map(|i| (0..v).map(move |y| (i, y))).collect();
            let logits: Vec<f32> = cases.iter().flat_map(|_| p.map(|p: f64| p.ln() as f32)).collect();
            let rows = UniformRows {
                x0: cases.iter().map(|c| c.1).collect(),
                xt: cases.iter().map(|c| c.0).collect(),
                alpha: vec![alpha; cases.len()].into(),
            };
            let logits = Tensor::<2>::from_data(TensorData::new(logits, [cases.len(), v as usize]), &Device::flex());
            let got = floats(composed::uniform_elbo(composed::log_softmax(logits), &rows));
            for ((i, y), got) in cases.iter().zip(got) {
                let want = integrand(&p, *i as usize, *y as usize, alpha);
                let got = f64::from(got) * factor(Level { alpha, rate: 1.0 });
                assert!((got - want).abs() < 2e-4 * want.abs().max(1.0), "{alpha} {i} {y}: {got} for {want}");
            }
        }
    }

    #[test]
    fn the_integral_is_the_limit_of_the_discrete_bound_of_many_steps() {
        let p = [0.5, 0.2, 0.3];
        for y in 0..3usize {
            let q = |alpha: f64, x: usize| alpha * f64::from(u8::from(x == y)) + (1.0 - alpha) / 3.0;
            let continuous = integral(|t| (0..3).map(|x| q(1.0 - t, x) * integrand(&p, x, y, 1.0 - t)).sum::<f64>());
            let steps = 20_000;
            let mut discrete = 0.0;
            for k in 1..=steps {
                let (at, as_) = (1.0 - k as f64 / steps as f64, 1.0 - (k - 1) as f64 / steps as f64);
                let clean: Vec<f64> = (0..3).map(|x| f64::from(u8::from(x == y))).collect();
                for x in 0..3 {
                    if q(at, x) == 0.0 {
                        continue;
                    }
                    let ours = uniform_posterior(&p, x as u32, at, as_);
                    let true_ = uniform_posterior(&clean, x as u32, at, as_);
                    let kl = |(a, b): (&f64, &f64)| if *a > 0.0 { a * (a / b).ln() } else { 0.0 };
                    discrete += q(at, x) * true_.iter().zip(&ours).map(kl).sum::<f64>();
                }
            }
            assert!((continuous - discrete).abs() < 1e-3, "{y}: {continuous} for {discrete}");
            // A position alone: the prediction is the model's own distribution, and the bound its likelihood.
            assert!((continuous + p[y].ln()).abs() < 1e-4, "{y}: {continuous} for {}", -p[y].ln());
        }
    }

    #[test]
    fn with_the_exact_distribution_given_the_other_positions_the_bound_is_the_likelihood_and_with_any_other_it_is_above()
     {
        // Two positions over three tokens.
        let joint = [0.3, 0.05, 0.05, 0.1, 0.2, 0.02, 0.08, 0.05, 0.15];
        let keep = |alpha: f64, x: usize, y: usize| alpha * f64::from(u8::from(x == y)) + (1.0 - alpha) / 3.0;
        // p(x_0 of `l` | the other position of x_t), and with `own` given its own too.
        let predict = |z: [usize; 2], l: usize, alpha: f64, own: bool| -> Vec<f64> {
            let mut p = vec![0.0; 3];
            for (at, w) in joint.iter().enumerate() {
                let y = [at / 3, at % 3];
                let mine = if own { keep(alpha, z[l], y[l]) } else { 1.0 };
                p[y[l]] += w * keep(alpha, z[1 - l], y[1 - l]) * mine;
            }
            let total: f64 = p.iter().sum();
            p.into_iter().map(|p| p / total).collect()
        };
        let mut excess = 0.0;
        for (at, w) in joint.iter().enumerate() {
            let y = [at / 3, at % 3];
            let bound = |own: bool| {
                integral(|t| {
                    let alpha = 1.0 - t;
                    let mut sum = 0.0;
                    for z in (0..9).map(|z| [z / 3, z % 3]) {
                        let weight = keep(alpha, z[0], y[0]) * keep(alpha, z[1], y[1]);
                        for l in 0..2 {
                            sum += weight * integrand(&predict(z, l, alpha, own), z[l], y[l], alpha);
                        }
                    }
                    sum
                })
            };
            let nll = -f64::ln(*w);
            assert!((bound(false) - nll).abs() < 1e-3, "{y:?}: {} for {nll}", bound(false));
            excess += w * (bound(true) - nll);
        }
        // Of a single text any model may think more than the data does; in the mean over the data none does.
        assert!(excess > 1e-2, "{excess}");
    }
}
