//! Gaussian diffusion in discrete time (DDPM, Ho et al. 2020, arXiv 2006.11239; DDIM, Song et al. 2021, arXiv 2010.02502;
//! over token embeddings, Li et al. 2022, arXiv 2205.14217): schedules, the posterior, and the steps of its samplers.
//!
//! ```text
//! x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps        abar_t = prod (1 - beta_s), s = 0 .. t
//! q(x_s | x_t, x0), s before t, r = abar_t/abar_s:
//!     mean = sqrt(r) (1 - abar_s)/(1 - abar_t) x_t + sqrt(abar_s) (1 - r)/(1 - abar_t) x0
//!     variance = (1 - r) (1 - abar_s)/(1 - abar_t)
//! ```
//!
//! Everything here is on the host in f64. The network that predicts x0, noise or v from (x, [`Levels::told`]) is not here;
//! a sampler multiplies its vectors by a [`GaussianStep`]. T levels, K steps, V vocabulary, D width.

mod sampler;
#[cfg(test)]
mod tests;

use std::f64::consts::FRAC_PI_2;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gaussian::{Mix, Prediction};
use crate::error::{Error, Result};
pub use sampler::Sampler;

/// The largest beta of a schedule that is given by its alpha_bar.
const LARGEST: f64 = 0.999;

/// A schedule of variances over T levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Betas {
    /// beta from 0.1/T to 20/T in equal parts (Ho et al. 2020, whose T is 1000).
    Linear,
    /// alpha_bar(u) = cos^2(pi/2 (u + 0.008)/1.008) (Nichol & Dhariwal 2021, eq. 17).
    Cosine,
    /// alpha_bar(u) = cos^2(pi/2 (u + 0.1)/1.1), which begins with noise (Diffusion-LM's code).
    TruncCos,
    /// alpha_bar(u) = 1 - sqrt(u + 1e-4) (Li et al. 2022, appendix A).
    Sqrt,
}

impl Betas {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Betas); 4] =
        [("linear", Betas::Linear), ("cosine", Betas::Cosine), ("trunc_cos", Betas::TruncCos), ("sqrt", Betas::Sqrt)];

    /// alpha_bar at time `u` in [0, 1] as the schedule defines it; none of `Linear`, which is defined by its betas.
    pub fn alpha_bar(self, u: f64) -> Option<f64> {
        let cosine = |shift: f64| ((u + shift) / (1.0 + shift) * FRAC_PI_2).cos().powi(2);
        match self {
            Betas::Linear => None,
            Betas::Cosine => Some(cosine(0.008)),
            Betas::TruncCos => Some(cosine(0.1)),
            Betas::Sqrt => Some(1.0 - (u + 1e-4).sqrt()),
        }
    }

    /// The variances beta `[T]`. The first level of `TruncCos` has its noise at time 0, those of the others at 1/T.
    ///
    /// # Panics
    /// Where `levels` is 0.
    pub fn betas(self, levels: usize) -> Vec<f64> {
        assert!(levels > 0, "a schedule has levels");
        let t = levels as f64;
        let at = |i: usize| self.alpha_bar(i as f64 / t).unwrap_or(f64::NAN);
        let step = |i: usize| (1.0 - at(i + 1) / at(i)).min(LARGEST);
        match self {
            Betas::Linear => {
                let (low, high, parts) = (0.1 / t, 20.0 / t, levels.max(2) - 1);
                (0..levels).map(|i| (low + (high - low) * i as f64 / parts as f64).min(LARGEST)).collect()
            }
            Betas::Cosine | Betas::Sqrt => (0..levels).map(step).collect(),
            Betas::TruncCos => std::iter::once((1.0 - at(0)).min(LARGEST)).chain((0..levels - 1).map(step)).collect(),
        }
    }
}

/// alpha_bar `[T]`: the product of 1 - beta up to each level.
pub fn alphas_cumprod(betas: &[f64]) -> Vec<f64> {
    let product = |a: &mut f64, beta: &f64| {
        *a *= 1.0 - beta;
        Some(*a)
    };
    betas.iter().scan(1.0, product).collect()
}

/// What the network is told as the time of level `t` of T: t 1000/T.
pub fn network_time(t: usize, levels: usize) -> f64 {
    t as f64 * (1000.0 / levels as f64)
}

/// `count` of `levels` levels from the first to the last, in steps as equal as whole numbers are.
///
/// # Errors
/// Fewer than one, or more than there are (usage).
pub fn spaced(levels: usize, count: usize) -> Result<Vec<usize>> {
    if count == 0 || count > levels {
        return Err(Error::usage(format!("{count} steps over {levels} levels of noise"))
            .hint(format!("use between 1 and {levels} steps")));
    }
    let stride = (levels - 1) as f64 / (count.max(2) - 1) as f64;
    Ok((0..count).map(|k| (k as f64 * stride).round_ties_even() as usize).collect())
}

/// The levels that a sampler walks, from the cleanest: all of a schedule's, or some of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Levels {
    /// Of each level its place in the whole schedule.
    original: Vec<usize>,
    alphas_cumprod: Vec<f64>,
    /// Levels of the whole schedule (T).
    all: usize,
}

impl Levels {
    /// The levels `kept` (rising) of a schedule with these alpha_bar `[T]`.
    ///
    /// # Panics
    /// Where `kept` is empty, does not rise, or has a level that the schedule lacks.
    pub fn new(alphas_cumprod: &[f64], kept: Vec<usize>) -> Self {
        assert!(kept.windows(2).all(|p| p[0] < p[1]) && kept.last().is_some_and(|t| *t < alphas_cumprod.len()));
        let all = alphas_cumprod.len();
        Levels { alphas_cumprod: kept.iter().map(|t| alphas_cumprod[*t]).collect(), original: kept, all }
    }

    /// How many there are (K).
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.original.len()
    }

    /// alpha_bar `[K]` of the levels.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// The variances beta `[K]` of the process over these levels alone: 1 - abar_i/abar_(i-1).
    pub fn betas(&self) -> Vec<f64> {
        (0..self.len()).map(|i| 1.0 - self.alphas_cumprod[i] / self.before(i)).collect()
    }

    /// What the network is told as the time of level `i`: that of the level in the whole schedule.
    pub fn told(&self, i: usize) -> f64 {
        network_time(self.original[i], self.all)
    }

    /// The step from level `i` to the one before it; from level 0 to x0 itself, without noise.
    pub fn step(&self, kind: Kind, i: usize) -> GaussianStep {
        GaussianStep::between(kind, self.alphas_cumprod[i], self.before(i))
    }

    fn before(&self, i: usize) -> f64 {
        if i == 0 { 1.0 } else { self.alphas_cumprod[i - 1] }
    }

    /// The variances `[K]` of q(x_(i-1) | x_i, x0).
    pub fn posterior_variances(&self) -> Vec<f64> {
        let of = |i: usize| (1.0 - self.alphas_cumprod[i] / self.before(i)) * (1.0 - self.before(i));
        (0..self.len()).map(|i| of(i) / (1.0 - self.alphas_cumprod[i])).collect()
    }
}

/// How a step from level to level is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// The posterior q(x_next | x, x0).
    Ancestral,
    /// DDIM (Song et al. 2021, eq. 12) with noise in proportion to eta; 0 draws none.
    Ddim { eta: f64 },
}

/// One step of a vector: x_next = `x` x + `x0` x0 + `noise` z, for z of unit variance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GaussianStep {
    pub x: f64,
    pub x0: f64,
    pub noise: f64,
}

impl GaussianStep {
    /// The step from level `from` to the lower or equal level `to` of a path with these alpha_bar `[T]`; one to level 0
    /// draws no noise (AR-Diffusion's paths end there).
    ///
    /// # Panics
    /// Where `to` is above `from`.
    pub fn new(kind: Kind, alphas_cumprod: &[f64], from: usize, to: usize) -> Self {
        assert!(to <= from, "a step goes down, not from {from} to {to}");
        let step = Self::between(kind, alphas_cumprod[from], alphas_cumprod[to]);
        GaussianStep { noise: if to == 0 { 0.0 } else { step.noise }, ..step }
    }

    /// The step from alpha_bar `at` to the larger or equal `an`.
    pub fn between(kind: Kind, at: f64, an: f64) -> Self {
        let (ratio, open) = (at / an, (1.0 - an) / (1.0 - at));
        let variance = (1.0 - ratio) * open;
        match kind {
            Kind::Ancestral => GaussianStep {
                x: ratio.sqrt() * open,
                x0: an.sqrt() * (1.0 - ratio) / (1.0 - at),
                noise: variance.sqrt(),
            },
            Kind::Ddim { eta } => {
                let sigma = eta * variance.sqrt();
                // x_next = sqrt(an) x0 + rest eps, with eps = (x - sqrt(at) x0)/sqrt(1 - at).
                let rest = (1.0 - an - sigma * sigma).max(0.0).sqrt() / (1.0 - at).sqrt();
                GaussianStep { x: rest, x0: an.sqrt() - rest * at.sqrt(), noise: sigma }
            }
        }
    }

    /// The vector `[D]` after the step, from x `[D]`, the network's x0 `[D]`, and standard normal numbers `[D]`.
    ///
    /// # Panics
    /// Where the vectors differ in width.
    pub fn apply(&self, x: &[f32], x0: &[f32], normals: &[f32]) -> Vec<f32> {
        assert!(x.len() == x0.len() && x.len() == normals.len(), "vectors of one width");
        let next = |((x, x0), z): ((&f32, &f32), &f32)| {
            self.x * f64::from(*x) + self.x0 * f64::from(*x0) + self.noise * f64::from(*z)
        };
        x.iter().zip(x0).zip(normals).map(next).map(|v| v as f32).collect()
    }
}

/// What a network should say at a level, as a sum of x0 (`x`) and eps (`out`); v = sqrt(abar) eps - sqrt(1 - abar) x0 (Salimans
/// & Ho 2022, arXiv 2202.00512).
pub fn target(says: Prediction, alpha_bar: f64) -> Mix {
    match says {
        Prediction::X0 => Mix { x: 1.0, out: 0.0 },
        Prediction::Noise => Mix { x: 0.0, out: 1.0 },
        Prediction::V => Mix { x: -(1.0 - alpha_bar).sqrt(), out: alpha_bar.sqrt() },
    }
}

/// x0 from x_t and what a network says of it.
pub fn x0(says: Prediction, alpha_bar: f64) -> Mix {
    let (signal, noise) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
    match says {
        Prediction::X0 => Mix { x: 0.0, out: 1.0 },
        Prediction::Noise => Mix { x: 1.0 / signal, out: -noise / signal },
        Prediction::V => Mix { x: signal, out: -noise },
    }
}

/// `n` standard normal numbers from `draw`, of which those larger than `limit` are drawn anew until none is (the published
/// sampler's `top_p`).
///
/// `draw(n)` gives n numbers, and each round asks for those that are still to be replaced.
///
/// # Panics
/// Where `limit` is not above 0.
pub fn normals(n: usize, limit: Option<f64>, draw: &mut dyn FnMut(usize) -> Vec<f32>) -> Vec<f32> {
    let mut all = draw(n);
    let Some(limit) = limit else { return all };
    assert!(limit > 0.0, "no normal number is within {limit}");
    loop {
        let far: Vec<usize> = (0..n).filter(|i| f64::from(all[*i].abs()) > limit).collect();
        if far.is_empty() {
            return all;
        }
        far.iter().zip(draw(far.len())).for_each(|(i, z)| all[*i] = z);
    }
}

/// The row of `embedding` [V, D] that is nearest to `x` `[D]`: what clamping puts in the place of a predicted x0.
pub fn nearest<'a>(embedding: &'a [f32], x: &[f32]) -> (usize, &'a [f32]) {
    let distance = |row: &[f32]| row.iter().zip(x).map(|(e, x)| (f64::from(*e) - f64::from(*x)).powi(2)).sum::<f64>();
    let mut best = (f64::INFINITY, 0, &embedding[..x.len()]);
    for (v, row) in embedding.chunks_exact(x.len()).enumerate() {
        let d = distance(row);
        if d < best.0 {
            best = (d, v, row);
        }
    }
    (best.1, best.2)
}
