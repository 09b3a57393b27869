//! Sampling of a diffusion of embeddings (Diffusion-LM, Li et al. 2022; AR-Diffusion, Wu et al. 2023): vectors from noise down
//! the levels that are kept, then the most probable token of each.
//!
//! Each step predicts x0, puts the nearest token's vector in its place where it is clamped, and moves by the posterior (DDPM) or
//! by DDIM (process/ddpm.rs). Given tokens are vectors without noise in every step. Guidance: after each step the vectors take a
//! few Adagrad updates on
//!
//! ```text
//! fluency |x - x_next|^2/2 - ln p(c | x)
//! ```
//!
//! with the classifier's gradient, where x_next is what the step drew. This is not Diffusion-LM's own fluency term (section 4.3),
//! the log density of the step's Gaussian |x - mu|^2/(2 sigma^2): that one pulls towards the step's mean, and the harder the
//! less noise the step has; here the pull is towards what was drawn and of one weight in all steps, so that late updates are
//! freer. An update counts as two passes of the classifier, one forward and one backward.
//! A sample is a function of (seed, its number). B batch, L length, d width, V vocabulary, K steps.

use std::time::Instant;

use burn::prelude::*;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{SampleSpec, Samples};
use crate::error::{Result, whole_within, within};
use crate::method::EmbeddingConfig;
use crate::method::embedding::{embedded, log_probability, rounding};
use crate::method::latent::column;
use crate::model::config::TimeInput;
use crate::model::draw;
use crate::model::transformer::ends::Given;
use crate::model::{Denoise, Transformer, params};
use crate::process::ar_diffusion::{self, END};
use crate::process::ddpm::{self, GaussianStep, Levels, Sampler, normals, spaced};
use crate::rng::{StepRng, Stream};

/// How a classifier steers a diffusion of embeddings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GuidanceConfig {
    /// The classifier of this recipe.
    pub classifier: String,
    /// Adagrad updates after each step.
    #[serde(default = "three")]
    pub updates: usize,
    /// Size of the first update of a number.
    #[serde(default = "tenth")]
    pub lr: f64,
    /// Weight of staying near what the diffusion drew.
    #[serde(default = "hundredth")]
    pub fluency: f64,
}

fn three() -> usize {
    3
}
fn tenth() -> f64 {
    0.1
}
fn hundredth() -> f64 {
    0.01
}

impl GuidanceConfig {
    /// Checks ranges; `key` names it in errors.
    ///
    /// # Errors
    /// A setting out of range (usage).
    pub fn validate(&self, key: &str) -> Result<()> {
        whole_within(&format!("{key}.updates"), self.updates, 1..=1000)?;
        for (name, value) in [("lr", self.lr), ("fluency", self.fluency)] {
            within(&format!("{key}.{name}"), value, 0.0..=1e9)?;
        }
        Ok(())
    }
}

/// A classifier at work.
#[derive(Clone, Copy)]
pub struct Steering<'a> {
    pub classifier: &'a Transformer,
    pub config: &'a GuidanceConfig,
    /// What is asked for `[n][C]`, of each sample.
    pub conditions: &'a [Vec<u32>],
}

/// A diffusion of embeddings.
#[derive(Clone, Copy)]
pub struct Embedding<'a> {
    pub model: &'a Transformer,
    pub config: &'a EmbeddingConfig,
    pub sampler: Sampler,
    /// Every position has a level of its own (AR-Diffusion).
    pub anchored: bool,
    pub steering: Option<Steering<'a>>,
}

/// One step: what each position [L] is told, alpha_bar there, and how its vector moves.
struct Down {
    told: Vec<f64>,
    alpha_bar: Vec<f64>,
    moves: Vec<GaussianStep>,
}

impl Embedding<'_> {
    /// The steps from noise to text.
    fn walk(&self, steps: usize) -> Result<Vec<Down>> {
        let (config, l) = (self.config, self.model.length());
        let (alphas, kind) = (config.alphas(), self.sampler.kind());
        if self.anchored {
            let rows = ar_diffusion::steps(l, config.levels, END, steps)?;
            let down = |(from, to): (Vec<usize>, Vec<usize>)| Down {
                told: from.iter().map(|t| config.told(*t)).collect(),
                alpha_bar: from.iter().map(|t| alphas[*t]).collect(),
                moves: from.iter().zip(&to).map(|(from, to)| GaussianStep::new(kind, &alphas, *from, *to)).collect(),
            };
            return Ok(rows.into_iter().map(down).collect());
        }
        let kept = spaced(config.levels, steps)?;
        let levels = Levels::new(&alphas, kept.clone());
        let down = |i: usize| Down {
            told: vec![config.told(kept[i]); l],
            alpha_bar: vec![levels.alphas_cumprod()[i]; l],
            moves: vec![levels.step(kind, i); l],
        };
        Ok((0..kept.len()).rev().map(down).collect())
    }
}

/// Draws `n` texts.
///
/// # Errors
/// More steps than levels (usage); vectors that are not finite (non-finite).
pub fn sample(of: &Embedding, spec: &SampleSpec, n: usize) -> Result<Samples> {
    let pinned = if spec.pinned.is_empty() { vec![None; of.model.length()] } else { spec.pinned.clone() };
    sample_each(of, spec, &vec![pinned; n])
}

/// Draws a text for each row `[n][L]` of given positions.
///
/// # Errors
/// As [`sample`].
pub fn sample_each(of: &Embedding, spec: &SampleSpec, pinned: &[Vec<Option<u32>>]) -> Result<Samples> {
    let begin = Instant::now();
    let walk = of.walk(spec.steps)?;
    let mut out = Samples::default();
    let batch = spec.batch.max(1);
    for (part, rows) in pinned.chunks(batch).enumerate() {
        let (from, size) = (part * batch, rows.len());
        let rng = StepRng::new(spec.seed);
        let mut noise: Vec<ChaCha8Rng> =
            (from..from + size).map(|i| rng.at((spec.first + i) as u64, Stream::Noise)).collect();
        let steering = of.steering.map(|s| Steering { conditions: &s.conditions[from..from + size], ..s });
        let own = Embedding { steering, ..*of };
        out.tokens.extend(texts(&own, spec.filter.temperature, &walk, rows, &mut noise)?);
        let (l, layers) = (of.model.length(), of.model.config().layers);
        // Forward and backward of each update.
        let updates = of.steering.map_or(0, |s| 2 * s.config.updates);
        let read = of.steering.map_or(0, |s| s.classifier.config().layers) * updates + layers;
        out.nfe.extend(std::iter::repeat_n(walk.len() * (1 + updates), size));
        out.positions.extend(std::iter::repeat_n((walk.len() * (1 + updates) * l) as u64, size));
        out.layer_positions.extend(std::iter::repeat_n((walk.len() * read * l) as u64, size));
    }
    out.seconds = begin.elapsed().as_secs_f64();
    Ok(out)
}

/// Texts [L] of a batch with these positions given [B][L].
fn texts(
    of: &Embedding,
    temperature: f64,
    walk: &[Down],
    rows: &[Vec<Option<u32>>],
    noise: &mut [ChaCha8Rng],
) -> Result<Vec<Vec<u32>>> {
    let (model, config) = (of.model, of.config);
    let (b, l, device) = (noise.len(), model.length(), model.device().inner());
    let Some((codebook, offsets)) = model.codebook() else { panic!("a diffusion of embeddings has a codebook") };
    let d = codebook.dims()[1];
    let mut normal = |limit: Option<f64>| {
        let one = |rng: &mut ChaCha8Rng| {
            normals(l * d, limit, &mut |n| (0..n).map(|_| rng.sample::<f64, _>(StandardNormal) as f32).collect())
        };
        // The limit is on unit normals: at temperature 0 none would be within a scaled one.
        let scaled = |z: f32| (temperature * f64::from(z)) as f32;
        let values: Vec<f32> = noise.iter_mut().flat_map(one).map(scaled).collect();
        Tensor::<3>::from_data(TensorData::new(values, [b, l, d]), &device)
    };
    let pinned: Vec<Option<u32>> = rows.concat();
    let ids: Vec<u32> = pinned.iter().map(|p| p.unwrap_or(0)).collect();
    let clean = embedded(codebook.clone(), &ids, l);
    let open: Vec<f64> = pinned.iter().map(|p| f64::from(u8::from(p.is_none()))).collect();
    let open = column(&open, [b, l], &device);
    let shut = open.ones_like() - open.clone();
    let given = |x: Tensor<3>| x * open.clone() + clean.clone() * shut.clone();
    let own_time = model.config().time == TimeInput::Position;
    let reads_itself = model.vectors().is_some_and(|v| v.self_conditioning);
    let limit = of.sampler.top_p;
    let mut x = given(normal(None));
    let mut last: Option<Tensor<3>> = None;
    for (k, down) in walk.iter().enumerate() {
        let told: Vec<f64> =
            (0..b * l).map(|i| if own_time && pinned[i].is_some() { 0.0 } else { down.told[i % l] }).collect();
        let estimate = last.take().filter(|_| reads_itself);
        let says = model.says(x.clone(), &told, None, &Given { estimate, ..Given::default() });
        let part = |f: &dyn Fn(usize) -> f64| column(&(0..l).map(f).collect::<Vec<_>>().repeat(b), [b, l], &device);
        let mix = |i: usize| ddpm::x0(config.predict, down.alpha_bar[i]);
        let mut x0 = given(x.clone() * part(&|i| mix(i).x) + says * part(&|i| mix(i).out));
        if of.sampler.clamp {
            x0 = nearest(x0, codebook.clone());
        }
        last = Some(x0.clone());
        let mut next = x * part(&|i| down.moves[i].x) + x0 * part(&|i| down.moves[i].x0);
        if down.moves.iter().any(|m| m.noise > 0.0) {
            next = next + normal(limit) * part(&|i| down.moves[i].noise);
        }
        x = given(next);
        if let Some(steering) = &of.steering {
            // The classifier reads what the next step will read.
            let told = walk.get(k + 1).map_or(vec![0.0; l], |d| d.told.clone()).repeat(b);
            x = given(steered(steering, x, &told));
        }
    }
    let finite = params::floats(x.clone().abs().sum()).first().is_some_and(|v| v.is_finite());
    if !finite {
        return Err(draw::not_finite());
    }
    let best = rounding(x.reshape([b * l, d]), codebook, offsets).argmax(1).into_data().convert::<i32>();
    let Ok(best) = best.try_into_vec::<i32>() else { panic!("places of maxima are integers") };
    let token = |(i, id): (usize, &i32)| pinned[i].unwrap_or(*id as u32);
    let all: Vec<u32> = best.iter().enumerate().map(token).collect();
    Ok(all.chunks(l).map(<[u32]>::to_vec).collect())
}

/// The vectors [B, L, d] of the tokens [V, d] that are nearest to the given ones.
fn nearest(x: Tensor<3>, codebook: Tensor<2>) -> Tensor<3> {
    let [b, l, d] = x.dims();
    let norms = codebook.clone().square().sum_dim(1).transpose();
    let distance = norms - x.reshape([b * l, d]).matmul(codebook.clone().transpose()) * 2.0;
    let ids = distance.argmin(1).reshape([1, b * l]);
    burn::tensor::module::embedding(codebook, ids).reshape([b, l, d])
}

/// x [B, L, d] after the classifier's updates, told the times [B L].
fn steered(steering: &Steering, x: Tensor<3>, told: &[f64]) -> Tensor<3> {
    let (config, condition) = (steering.config, steering.conditions.concat());
    let drawn = x.clone();
    let mut at = x;
    let mut squares = drawn.zeros_like();
    for _ in 0..config.updates {
        let leaf = at.clone().autodiff().require_grad();
        let mut grads = log_probability(steering.classifier, leaf.clone(), told, &condition).backward();
        let Some(gradient) = leaf.grad_remove(&mut grads) else { panic!("the classifier reads the vectors") };
        let gradient = (at.clone() - drawn.clone()) * config.fluency as f32 - gradient;
        squares = squares + gradient.clone().square();
        at = at - gradient / (squares.clone().sqrt() + 1e-8) * config.lr as f32;
    }
    at
}

#[cfg(test)]
mod tests;
