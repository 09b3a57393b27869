//! Gaussian diffusion of token embeddings that are learned with it (Diffusion-LM, Li et al. 2022, arXiv 2205.14217, section 4.1
//! and eq. 2), and a classifier of its noisy embeddings for guidance (section 4.3).
//!
//! ```text
//! x_0 = Emb(w) + sqrt(1 - abar_0) n                    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps
//! loss = |says - target|^2  (at level 0: |x0hat - Emb(w)|^2)  +  abar_T |x_0|^2  -  ln softmax(Emb x_0 + b)_w
//! ```
//!
//! each a mean over positions and width, the last over positions. The rounding term keeps embeddings apart, which the first
//! alone would let fall together. In a share of the sequences the first `given` positions are given: they hold Emb(w) without
//! noise and are not predicted (partial noising, DiffuSeq, Gong et al. 2022, arXiv 2210.08933). With an order over positions
//! (AR-Diffusion, Wu et al. 2023) every position has a level of its own.
//! B batch, L length, d width of an embedding, V vocabulary, T levels, C given positions.

use burn::optim::GradientsParams;
use burn::prelude::*;
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::latent::{column, finish, mixed, normals};
use crate::error::{Error, Result, whole_within, within};
use crate::kernels::{composed, index_tensor};
use crate::model::config::TimeInput;
use crate::model::transformer::ends::Given;
use crate::model::{Denoise, Transformer};
use crate::process::ar_diffusion::{END, timesteps};
use crate::process::ddpm::{self, Betas, Sampler, alphas_cumprod};
use crate::process::gaussian::{Mix, Prediction};
use crate::rng::{StepRng, Stream};

/// Gaussian diffusion of token embeddings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddingConfig {
    /// linear | cosine | trunc_cos | sqrt
    pub schedule: Betas,
    /// Levels of noise T.
    pub levels: usize,
    /// noise | x0 | v
    pub predict: Prediction,
    /// Share of the training steps in which a network with `vectors.self_conditioning` reads its own estimate.
    pub self_conditioning: f64,
    /// Positions at the start of a sequence (C) that are given in a share of the training.
    pub given: usize,
    /// That share.
    pub given_share: f64,
    /// How it is sampled, unless `decode` says otherwise.
    pub sampler: Sampler,
}

impl Default for EmbeddingConfig {
    fn default() -> Self {
        EmbeddingConfig {
            schedule: Betas::Sqrt,
            levels: 2000,
            predict: Prediction::X0,
            self_conditioning: 0.5,
            given: 0,
            given_share: 0.5,
            sampler: Sampler::default(),
        }
    }
}

/// A classifier of noisy embeddings: it predicts the first `given` tokens of a sequence from the noisy rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierConfig {
    /// The embedding diffusion of this recipe whose noisy embeddings it reads.
    pub model: String,
}

impl EmbeddingConfig {
    /// Checks ranges; `key` names it in errors.
    pub fn validate(&self, key: &str, length: usize) -> Result<()> {
        whole_within(&format!("{key}.levels"), self.levels, 2..=1 << 16)?;
        for (name, value) in [("self_conditioning", self.self_conditioning), ("given_share", self.given_share)] {
            within(&format!("{key}.{name}"), value, 0.0..=1.0)?;
        }
        if self.given >= length {
            return Err(Error::usage(format!(
                "`{key}.given` must be below the length {length}, but it is {}",
                self.given
            ))
            .hint(format!("`{key}.given = 0` gives nothing")));
        }
        self.sampler.validate(&format!("{key}.sampler"))
    }

    /// alpha_bar [T] of its levels.
    pub fn alphas(&self) -> Vec<f64> {
        alphas_cumprod(&self.schedule.betas(self.levels))
    }

    /// What the network is told of a level, in [0, 1).
    pub fn told(&self, level: usize) -> f64 {
        level as f64 / self.levels as f64
    }
}

/// The embeddings [B, L, d] of tokens x0 [B L].
pub fn embedded(codebook: Tensor<2>, x0: &[u32], length: usize) -> Tensor<3> {
    let d = codebook.dims()[1];
    composed::embedding(codebook, x0).reshape([x0.len() / length, length, d])
}

/// Logits [n, V] of vectors [n, d].
pub fn rounding(vectors: Tensor<2>, (codebook, offsets): (Tensor<2>, Tensor<1>)) -> Tensor<2> {
    vectors.matmul(codebook.transpose()) + offsets.unsqueeze::<2>()
}

/// Mean negative log-likelihood [1] of tokens [n] given logits [n, V], nats.
fn cross_entropy(logits: Tensor<2>, tokens: &[u32]) -> Tensor<1> {
    let ids: Vec<usize> = tokens.iter().map(|t| *t as usize).collect();
    let index = index_tensor(&ids, &logits.device()).reshape([ids.len(), 1]);
    composed::log_softmax(logits).gather(1, index).mean().neg()
}

/// The levels [B L] of a training step: one for each sequence, stratified over the batch, or AR-Diffusion's column of them.
fn levels(config: &EmbeddingConfig, [b, l]: [usize; 2], anchored: bool, rng: &mut impl Rng) -> Vec<usize> {
    let offset = rng.random::<f64>();
    let at = |i: usize, all: usize| ((((i as f64 + offset) / b as f64) * all as f64) as usize).min(all - 1);
    match anchored {
        false => (0..b).flat_map(|i| std::iter::repeat_n(at(i, config.levels), l)).collect(),
        true => (0..b).flat_map(|i| timesteps(l, config.levels, END, at(i, config.levels + l))).collect(),
    }
}

/// What of a vector is kept where it is given, 0 there and 1 elsewhere [B L].
fn free(given: &[bool], length: usize, positions: usize) -> Vec<f64> {
    given.iter().flat_map(|given| (0..length).map(move |l| if *given && l < positions { 0.0 } else { 1.0 })).collect()
}

/// The training step of a diffusion of embeddings on x0 [B L]; `anchored` gives each position its own level.
pub fn denoise(
    config: &EmbeddingConfig,
    model: &Transformer,
    x0: &[u32],
    anchored: bool,
    (rng, step): (StepRng, u64),
) -> (f64, GradientsParams) {
    finish(loss(config, model, x0, anchored, (rng, step)), model)
}

/// The loss [1] of that step.
pub fn loss(
    config: &EmbeddingConfig,
    model: &Transformer,
    x0: &[u32],
    anchored: bool,
    (rng, step): (StepRng, u64),
) -> Tensor<1> {
    let (l, device) = (model.length(), model.device());
    let b = x0.len() / l;
    let Some((codebook, offsets)) = model.codebook() else { panic!("a diffusion of embeddings has a codebook") };
    let alphas = config.alphas();
    let last = config.levels - 1;
    let clean = embedded(codebook.clone(), x0, l);
    let mut noise = rng.at(step, Stream::Corrupt);
    let start = clean.clone() + normals(clean.dims(), &mut noise, &device) * (1.0 - alphas[0]).sqrt() as f32;
    let eps = normals(clean.dims(), &mut noise, &device);
    let mut draws = rng.at(step, Stream::Times);
    let level = levels(config, [b, l], anchored, &mut draws);
    let mut drop = rng.at(step, Stream::Drop);
    let given: Vec<bool> = (0..b).map(|_| config.given > 0 && drop.random::<f64>() < config.given_share).collect();
    let free = free(&given, l, config.given);
    let own_time = model.config().time == TimeInput::Position;
    let told: Vec<f64> =
        level.iter().zip(&free).map(|(t, f)| if own_time && *f == 0.0 { 0.0 } else { config.told(*t) }).collect();

    // A column of coefficients, by the level of each vector.
    let of = |f: &dyn Fn(usize) -> f64| column(&level.iter().map(|t| f(*t)).collect::<Vec<_>>(), [b, l], &device);
    let open = column(&free, [b, l], &device);
    let noisy = start.clone() * of(&|t| alphas[t].sqrt()) + eps.clone() * of(&|t| (1.0 - alphas[t]).sqrt());
    let xt = noisy * open.clone() + clean.clone() * (open.ones_like() - open.clone());
    let x0_of = |says: Tensor<3>, x: Tensor<3>| {
        let mix: Vec<Mix> = level.iter().map(|t| ddpm::x0(config.predict, alphas[*t])).collect();
        let part = |f: fn(&Mix) -> f64| column(&mix.iter().map(f).collect::<Vec<_>>(), [b, l], &device);
        x * part(|m| m.x) + says * part(|m| m.out)
    };
    let reads_itself = model.vectors().is_some_and(|v| v.self_conditioning);
    let mut beside = Given::default();
    if reads_itself && draws.random::<f64>() < config.self_conditioning {
        let plain = xt.clone().inner();
        let says = model.valid().says(plain.clone(), &told, None, &beside);
        beside.estimate = Some(x0_of(says, plain));
    }
    let says = model.says(xt.clone(), &told, None, &beside);
    let mix: Vec<Mix> = level.iter().map(|t| ddpm::target(config.predict, alphas[*t])).collect();
    let part = |f: fn(&Mix) -> f64| column(&mix.iter().map(f).collect::<Vec<_>>(), [b, l], &device);
    let wanted = start.clone() * part(|m| m.x) + eps * part(|m| m.out);
    // At the last level the mean of x_0 is what is wanted, not the x_0 that was drawn.
    let first: Vec<f64> = level.iter().map(|t| f64::from(u8::from(*t == 0))).collect();
    let first = column(&first, [b, l], &device);
    let rest = first.ones_like() - first.clone();
    let share = (free.iter().sum::<f64>() / free.len() as f64) as f32;
    let at_zero = (x0_of(says.clone(), xt) - clean).square() * first;
    let squares = ((says - wanted).square() * rest + at_zero) * open;
    let prior = start.clone().square().mean() * alphas[last] as f32;
    let d = start.dims()[2];
    let round = cross_entropy(rounding(start.reshape([b * l, d]), (codebook, offsets)), x0);
    squares.mean() / share + prior + round
}

/// ln p(c | x_t) [1] summed over the batch: what a classifier says of conditions [B C] from noisy embeddings [B, L, d], all
/// sequences being told the time `told`. The first C positions of x_t are not read.
pub fn log_probability(classifier: &Transformer, x: Tensor<3>, told: &[f64], condition: &[u32]) -> Tensor<1> {
    let [b, l, d] = x.dims();
    let c = condition.len() / b;
    let hidden: Vec<f64> = (0..b * l).map(|i| f64::from(u8::from(i % l >= c))).collect();
    let read = x.clone() * column(&hidden, [b, l], &x.device());
    let says = classifier.says(read, told, None, &Given::default()).narrow(1, 0, c);
    let Some(book) = classifier.codebook() else { panic!("a classifier has a codebook") };
    cross_entropy(rounding(says.reshape([b * c, d]), book), condition).neg() * (b * c) as f32
}

/// The training step of a classifier on x0 [B L], of which the first `given` tokens are the class: nats per token of it.
pub fn classify(
    config: &EmbeddingConfig,
    model: &Transformer,
    of: &Transformer,
    x0: &[u32],
    (rng, step): (StepRng, u64),
) -> (f64, GradientsParams) {
    let l = model.length();
    let b = x0.len() / l;
    let Some((codebook, _)) = of.codebook() else { panic!("a diffusion of embeddings has a codebook") };
    let clean = embedded(codebook, x0, l);
    let alphas = config.alphas();
    let level = levels(config, [b, l], false, &mut rng.at(step, Stream::Times));
    let noise = normals(clean.dims(), &mut rng.at(step, Stream::Corrupt), &clean.device());
    let mix = |t: f64| Mix { x: alphas[t as usize].sqrt(), out: (1.0 - alphas[t as usize]).sqrt() };
    let times: Vec<f64> = level.iter().map(|t| *t as f64).collect();
    let xt = mixed(&times, mix, clean, noise);
    let told: Vec<f64> = level.iter().map(|t| config.told(*t)).collect();
    let condition: Vec<u32> = x0.chunks(l).flat_map(|row| row[..config.given].to_vec()).collect();
    let value = log_probability(model, xt, &told, &condition).neg() / condition.len() as f32;
    finish(value, model)
}

#[cfg(test)]
mod tests;
