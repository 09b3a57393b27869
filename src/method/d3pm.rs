//! The hybrid loss of discrete diffusion by transition matrices (D3PM; Austin et al. 2021, eq. 5): L_vb + lambda CE.
//!
//! ```text
//! L_vb = sum_{t=1..T} E KL( q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t) ),   p(x_{t-1} = j | x_t = i) ~ Q_t[j, i] (f Qbar_{t-1})[j]
//! CE   = mean_t E -ln f(x_0)
//! ```
//!
//! for the network's prediction f(. | x_t) of x_0. The term of t = 1 is -ln p(x_0 | x_1), since q is then certain. What a chain of
//! few levels leaves of x_0 at T has no parameter, and is below 1e-3 (process/d3pm.rs); it is left out. One level is drawn for each
//! sequence, stratified over the batch, and counts T times. B batch, L length, V vocabulary, N states, T levels.

use std::sync::Arc;

use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contract::{Batch, Chain, Facts, FromRows, Ground, Method, Site, Training};
use super::diffusion;
use crate::error::{Error, Result, whole_within, within};
use crate::kernels::PosteriorRows;
use crate::loss::{RowLoss, Target};
use crate::model::config::VectorsConfig;
use crate::model::draw::inverse_cdf;
use crate::model::{Noised, TransformerConfig};
use crate::process::d3pm::{Matrices, Matrix};
use crate::process::{Corruption, Schedule};

/// The configuration of the objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct D3pmConfig {
    /// absorbing | uniform | gaussian | { neighbours = { model = NAME, k = K } }
    #[serde(default)]
    pub matrix: Matrix,
    /// Levels T of the chain.
    pub levels: usize,
    /// lambda, the weight of the cross-entropy.
    #[serde(default = "default_auxiliary")]
    pub auxiliary: f64,
    /// log_linear | cosine: what is left at a level; the Gaussian has its own.
    #[serde(default)]
    pub schedule: Schedule,
}

fn default_auxiliary() -> f64 {
    0.01
}

impl D3pmConfig {
    /// Checks ranges; `key` is the dotted place of this table in the recipe.
    ///
    /// # Errors
    /// A setting out of range (usage).
    pub fn validate(&self, key: &str) -> Result<()> {
        whole_within(&format!("{key}.levels"), self.levels, 1..=1_000_000)?;
        within(&format!("{key}.auxiliary"), self.auxiliary, 0.0..=1e6)?;
        match &self.matrix {
            Matrix::Neighbours { k, .. } => whole_within(&format!("{key}.matrix.neighbours.k"), *k, 1..=1_000_000),
            _ => Ok(()),
        }
    }
}

/// One draw of the hybrid loss on x0 [B, L], in nats per token; `auxiliary` 0 is the bound alone.
pub fn rows(
    matrices: &Matrices,
    auxiliary: f64,
    x0: &[u32],
    length: usize,
    (mut times, mut noise): (impl Rng, impl Rng),
) -> RowLoss {
    let (n, batch, levels) = (x0.len(), x0.len() / length, matrices.levels());
    let offset = times.random::<f64>();
    let level = |i: usize| 1 + (((offset + i as f64 / batch as f64).fract() * levels as f64) as usize).min(levels - 1);
    let at: Vec<usize> = (0..batch).map(level).collect();
    let xt: Vec<u32> = (0..n).map(|r| inverse_cdf(matrices.marginal(at[r / length], x0[r]), noise.random())).collect();
    let t: Vec<f64> = (0..n).map(|r| at[r / length] as f64 / levels as f64).collect();
    // A token that is not the mask stays what it is, in the chain and in the model of it.
    let mask = matrices.absorbs().then(|| matrices.states() as u32 - 1);
    let rows: Vec<usize> = (0..n).filter(|r| mask.is_none_or(|mask| xt[*r] == mask)).collect();
    let input = Noised::tokens(&xt, &t, length);
    if rows.is_empty() {
        return RowLoss { input, rows, weights: Vec::new(), target: Target::Tokens(Vec::new()), alpha: None };
    }
    let ids: Vec<u32> = rows.iter().map(|r| x0[*r]).collect();
    let places: Vec<(usize, usize)> = rows.iter().map(|r| (r / length, *r)).collect();
    let posterior = posterior_rows(matrices, &at, places.iter().map(|(i, r)| (*i, xt[*r], x0[*r])));
    let mut targets = vec![(vec![levels as f64; rows.len()], Target::Posterior(posterior))];
    if auxiliary > 0.0 {
        targets.push((vec![auxiliary; rows.len()], Target::Tokens(ids)));
    }
    RowLoss { input, weights: vec![1.0 / n as f64; rows.len()], target: Target::Several(targets), rows, alpha: None }
}

/// Rows (number of the sequence, x_t, x_0) of sequences at the levels `at`, against the exact posterior.
pub fn posterior_rows(
    matrices: &Matrices,
    at: &[usize],
    rows: impl Iterator<Item = (usize, u32, u32)>,
) -> PosteriorRows {
    let f32s = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Arc<[f32]>>();
    let (mut of, mut way, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    let mut clean = vec![0.0; matrices.product(0).len() / matrices.states()];
    for (i, xt, x0) in rows {
        let to_here = matrices.way(at[i] - 1, at[i], xt);
        clean[x0 as usize] = 1.0;
        let posterior = matrices.posterior_by(&to_here, at[i] - 1, &clean);
        clean[x0 as usize] = 0.0;
        of.push(i);
        way.extend(to_here.iter().map(|q| q.max(1e-30).ln() as f32));
        wanted.extend(posterior.iter().map(|q| *q as f32));
    }
    PosteriorRows {
        states: matrices.states(),
        products: at.iter().map(|t| f32s(matrices.product(t - 1))).collect(),
        of: of.into(),
        way: way.into(),
        wanted: wanted.into(),
    }
}

impl Method for D3pmConfig {
    fn facts(&self) -> Facts<'_> {
        let parent = match &self.matrix {
            Matrix::Neighbours { model, .. } => Some(model.as_str()),
            _ => None,
        };
        let absorbs = self.matrix == Matrix::Absorbing;
        Facts {
            parent,
            corruption: if absorbs { Corruption::Absorb } else { Corruption::Uniform },
            schedule: self.schedule,
            chain: Some(Chain { matrix: &self.matrix, levels: self.levels, schedule: self.schedule }),
            ..Facts::of_tokens("d3pm", "hybrid")
        }
    }

    fn check(&self, site: &Site) -> Result<()> {
        let at = site.key("objective.d3pm");
        self.validate(&at)?;
        if let Some(steps) = site.flexibility.filter(|steps| *steps > self.levels) {
            return Err(Error::usage(format!(
                "`eval.flexibility.steps = {steps}` are more than `{at}.levels = {}`",
                self.levels
            ))
            .cause("a chain takes at most one step a level")
            .hint(format!("`eval.flexibility.steps = {}`", self.levels)));
        }
        let Matrix::Neighbours { model: other, .. } = &self.matrix else { return Ok(()) };
        let at = format!("{at}.matrix.neighbours.model");
        let found = site.other(&at, other)?;
        // Vectors without a codebook and a condition stand for no tokens.
        let wordless = |v: &VectorsConfig| !v.codebook && v.condition == 0;
        let without = found.own.is_none_or(|n| n.vectors.as_ref().is_some_and(wordless));
        match other == site.name || without {
            true => Err(Error::usage(format!("`{at} = \"{other}\"` has no embedding of its own to look into")).hint(
                "name a model of the recipe that has a `network` that reads tokens, such as the autoregressive one",
            )),
            false => Ok(()),
        }
    }

    fn fits(&self, site: &Site, network: &TransformerConfig) -> Result<()> {
        diffusion::fits_noise(site, network, &site.key("objective"), "\"d3pm\"")?;
        diffusion::fits(site, network)
    }

    fn begin<'a>(&'a self, ground: &Ground<'a>) -> Result<Box<dyn Training + 'a>> {
        let Some(matrices) = ground.parents.matrices else { return Err(ground.lacks("its transition matrices")) };
        let rows = move |batch: &Batch| Ok(rows(matrices, self.auxiliary, &batch.x0, batch.length, batch.draws()));
        Ok(Box::new(FromRows(rows)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::composed;
    use crate::model::params::floats;
    use crate::rng::{StepRng, Stream};
    use burn::prelude::*;

    fn log_probs(p: &[f64], n: usize) -> Tensor<2> {
        let values: Vec<f32> = (0..n).flat_map(|_| p.iter().map(|p| p.ln() as f32)).collect();
        Tensor::from_data(TensorData::new(values, [n, p.len()]), &Device::flex())
    }

    #[test]
    fn a_row_is_the_divergence_of_the_two_posteriors() {
        let p = [0.1, 0.5, 0.15, 0.25];
        for matrix in [Matrix::Absorbing, Matrix::Uniform, Matrix::Gaussian] {
            let m = Matrices::new(&matrix, 4, 6, Schedule::Cosine, None).unwrap();
            for t in 1..=6 {
                let cases: Vec<(usize, u32, u32)> = (0..4)
                    .flat_map(|x| (0..m.states() as u32).map(move |i| (0, i, x)))
                    .filter(|(_, i, x)| m.marginal(t, *x)[*i as usize] > 0.0)
                    .collect();
                let rows = posterior_rows(&m, &[t], cases.iter().copied());
                let got = floats(composed::posterior(log_probs(&p, cases.len()), &rows));
                for ((_, i, x), got) in cases.iter().zip(got) {
                    let clean: Vec<f64> = (0..4).map(|y| f64::from(u8::from(y == *x))).collect();
                    let (q, ours) = (m.posterior(t - 1, t, *i, &clean), m.posterior(t - 1, t, *i, &p));
                    let kl = |(a, b): (&f64, &f64)| if *a > 0.0 { a * (a / b).ln() } else { 0.0 };
                    let want: f64 = q.iter().zip(&ours).map(kl).sum();
                    assert!((f64::from(got) - want).abs() < 1e-4, "{matrix:?} {t} {i} {x}: {got} for {want}");
                }
            }
        }
    }

    /// The masked NELBO of log-linear noise is the integral of -ln p_t(x_0) over t, whatever p_t is.
    #[test]
    fn the_bound_of_many_absorbing_levels_is_the_masked_elbo() {
        let prediction = |t: f64| vec![0.2 + 0.6 * (1.0 - t), 0.8 - 0.6 * (1.0 - t)];
        let elbo: f64 = (0..10_000).map(|k| -prediction((k as f64 + 0.5) / 1e4)[0].ln() / 1e4).sum();
        let bound = |levels: usize| -> f64 {
            let m = Matrices::new(&Matrix::Absorbing, 2, levels, Schedule::LogLinear, None).unwrap();
            let at = |t: usize| {
                let rows = posterior_rows(&m, &[t], [(0, 2, 0)].into_iter());
                let p = prediction(t as f64 / levels as f64);
                m.marginal(t, 0)[2] * f64::from(floats(composed::posterior(log_probs(&p, 1), &rows))[0])
            };
            (1..=levels).map(at).sum()
        };
        let (few, many) = ((bound(4) - elbo).abs(), (bound(512) - elbo).abs());
        assert!(many < 2e-3 && many < few / 20.0, "{few} and {many} from {elbo}");
    }

    /// A position alone, with the data's distribution as its prediction: the bound of any number of levels has the data's
    /// entropy below it, and meets it where the chain forgets everything.
    #[test]
    fn a_draw_of_the_loss_is_the_bound_in_the_mean_and_the_cross_entropy_is_added() {
        let m = Matrices::new(&Matrix::Uniform, 3, 8, Schedule::LogLinear, None).unwrap();
        let p = [0.5, 0.2, 0.3];
        let x0: Vec<u32> = (0..40_000)
            .map(|i| {
                if i % 10 < 5 {
                    0
                } else if i % 10 < 7 {
                    1
                } else {
                    2
                }
            })
            .collect();
        let rng = StepRng::new(2);
        let gens = || (rng.at(0, Stream::Times), rng.at(0, Stream::Corrupt));
        let value = |auxiliary: f64| {
            let loss = rows(&m, auxiliary, &x0, 1, gens());
            let Target::Several(all) = &loss.target else { panic!("several targets") };
            let n = loss.rows.len();
            all.iter()
                .map(|(weights, target)| {
                    let part = match target {
                        Target::Posterior(rows) => composed::posterior(log_probs(&p, n), rows),
                        Target::Tokens(ids) => composed::cross_entropy(log_probs(&p, n), ids),
                        _ => panic!("another target"),
                    };
                    let losses = floats(part);
                    losses.iter().zip(weights).zip(&loss.weights).map(|((l, a), b)| f64::from(*l) * a * b).sum::<f64>()
                })
                .sum::<f64>()
        };
        let entropy: f64 = p.iter().map(|p| -p * p.ln()).sum();
        // One token's loss has a deviation of about 2: 40 000 of them, one of 0.01.
        assert!((value(0.0) - entropy).abs() < 0.04, "{} for {entropy}", value(0.0));
        assert!((value(0.5) - value(0.0) - 0.5 * entropy).abs() < 1e-3);
    }
}
