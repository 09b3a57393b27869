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

use super::contract::{Batch, Facts, FromStep, Ground, Made, Method, Nets, Network, Site, Training, Vectors};
pub use super::embedding_config::{ClassifierConfig, EmbeddingConfig};
use super::latent::{column, finish, mixed, normals};
use crate::error::{Error, Result};
use crate::kernels::{composed, index_tensor};
use crate::model::config::{TimeInput, VectorsConfig, Visibility};
use crate::model::transformer::ends::Given;
use crate::model::{Denoise, Transformer, TransformerConfig};
use crate::process::ar_diffusion::{END, timesteps};
use crate::process::ddpm;
use crate::process::gaussian::Mix;
use crate::process::order::OrderConfig;
use crate::rng::{Generators, Stream};

/// The embeddings [B, L, d] of tokens x0 [B L].
pub fn embedded(codebook: Tensor<2>, x0: &[u32], length: usize) -> Tensor<3> {
    let d = codebook.dims()[1];
    composed::embedding(codebook, x0).reshape([x0.len() / length, length, d])
}

/// Logits [n, V] of vectors [n, d].
pub fn rounding(vectors: Tensor<2>, codebook: Tensor<2>, offsets: Tensor<1>) -> Tensor<2> {
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
    rng: Generators,
) -> (f64, GradientsParams) {
    finish(loss(config, model, x0, anchored, rng), model)
}

/// The loss `[1]` of that step.
///
/// # Panics
/// Where the network has no codebook.
pub fn loss(config: &EmbeddingConfig, model: &Transformer, x0: &[u32], anchored: bool, rng: Generators) -> Tensor<1> {
    let (l, device) = (model.length(), model.device());
    let b = x0.len() / l;
    let Some((codebook, offsets)) = model.codebook() else { panic!("a diffusion of embeddings has a codebook") };
    let alphas = config.alphas();
    let last = config.levels - 1;
    let clean = embedded(codebook.clone(), x0, l);
    let mut noise = rng.at(Stream::Corrupt);
    let start = clean.clone() + normals(clean.dims(), &mut noise, &device) * (1.0 - alphas[0]).sqrt() as f32;
    let eps = normals(clean.dims(), &mut noise, &device);
    let mut draws = rng.at(Stream::Times);
    let level = levels(config, [b, l], anchored, &mut draws);
    let mut drop = rng.at(Stream::Drop);
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
    let round = cross_entropy(rounding(start.reshape([b * l, d]), codebook, offsets), x0);
    squares.mean() / share + prior + round
}

/// ln p(c | x_t) `[1]` summed over the batch: what a classifier says of conditions [B C] from noisy embeddings [B, L, d], all
/// sequences being told the time `told`. The first C positions of x_t are not read.
///
/// # Panics
/// Where the classifier has no codebook.
pub fn log_probability(classifier: &Transformer, x: Tensor<3>, told: &[f64], condition: &[u32]) -> Tensor<1> {
    let [b, l, d] = x.dims();
    let c = condition.len() / b;
    let hidden: Vec<f64> = (0..b * l).map(|i| f64::from(u8::from(i % l >= c))).collect();
    let read = x.clone() * column(&hidden, [b, l], &x.device());
    let says = classifier.says(read, told, None, &Given::default()).narrow(1, 0, c);
    let Some((codebook, offsets)) = classifier.codebook() else { panic!("a classifier has a codebook") };
    cross_entropy(rounding(says.reshape([b * c, d]), codebook, offsets), condition).neg() * (b * c) as f32
}

/// The training step of a classifier on x0 [B L], of which the first `given` tokens are the class: nats per token of it.
///
/// # Panics
/// Where `of` has no codebook.
pub fn classify(
    config: &EmbeddingConfig,
    model: &Transformer,
    of: &Transformer,
    x0: &[u32],
    rng: Generators,
) -> (f64, GradientsParams) {
    let l = model.length();
    let b = x0.len() / l;
    let Some((codebook, _)) = of.codebook() else { panic!("a diffusion of embeddings has a codebook") };
    let clean = embedded(codebook, x0, l);
    let alphas = config.alphas();
    let level = levels(config, [b, l], false, &mut rng.at(Stream::Times));
    let noise = normals(clean.dims(), &mut rng.at(Stream::Corrupt), &clean.device());
    let mix = |t: f64| Mix { x: alphas[t as usize].sqrt(), out: (1.0 - alphas[t as usize]).sqrt() };
    let times: Vec<f64> = level.iter().map(|t| *t as f64).collect();
    let xt = mixed(&times, mix, clean, noise);
    let told: Vec<f64> = level.iter().map(|t| config.told(*t)).collect();
    let condition: Vec<u32> = x0.chunks(l).flat_map(|row| row[..config.given].to_vec()).collect();
    let value = log_probability(model, xt, &told, &condition).neg() / condition.len() as f32;
    finish(value, model)
}

/// Checks that a model of embeddings is a whole network of its recipe, with vectors for the tokens of its texts.
fn fits<'n>(site: &Site, network: &'n TransformerConfig) -> Result<&'n VectorsConfig> {
    let key = |k: &str| site.key(k);
    if site.from || site.derived {
        return Err(Error::usage(format!("`{}` stands beside `from`, `lora` or `keep_layers`", key("objective")))
            .hint("models of embeddings are whole networks of this recipe"));
    }
    let Some(vectors) = network.vectors.as_ref().filter(|v| v.codebook) else {
        return Err(needs(site, "network.vectors.codebook", " = true")
            .hint("`network.vectors = { count = L, width = d, codebook = true }`, with L the length of the data"));
    };
    if vectors.two_times || vectors.condition > 0 {
        return Err(needs(site, "network.vectors", " without `two_times` and `condition`")
            .hint("given tokens are vectors without noise: `objective.embedding.given = C`"));
    }
    if network.visibility != Visibility::Full {
        return Err(needs(site, "network.visibility", " = \"full\"")
            .hint(format!("`{} = \"full\"`", key("network.visibility"))));
    }
    match site.length.filter(|l| *l != vectors.count) {
        Some(length) => Err(Error::usage(format!(
            "`{}` is {}, but sequences of the data have {length} tokens",
            key("network.vectors.count"),
            vectors.count
        ))
        .cause("each token has a vector")
        .hint(format!("`{} = {length}`", key("network.vectors.count")))),
        None => Ok(vectors),
    }
}

fn needs(site: &Site, other: &str, wants: &str) -> Error {
    let name = site.method.facts().name;
    Error::usage(format!("`{}.{name}` needs `{}`{wants}", site.key("objective"), site.key(other)))
}

impl Method for EmbeddingConfig {
    fn facts(&self) -> Facts<'_> {
        Facts { vectors: Vectors::Embeddings(self), ..Facts::of_tokens("embedding", "embedding loss") }
    }

    fn check(&self, _site: &Site) -> Result<()> {
        Ok(())
    }

    fn fits(&self, site: &Site, network: &TransformerConfig) -> Result<()> {
        let vectors = fits(site, network)?;
        let key = |k: &str| site.key(k);
        self.validate(&key("objective.embedding"), vectors.count)?;
        let (order, shown) = (key("order"), site.order.shown());
        match site.order {
            OrderConfig::Parallel => Ok(()),
            OrderConfig::ArDiffusion { .. } if network.time != TimeInput::Position => {
                let time = key("network.time");
                Err(Error::usage(format!("`{order} = {shown}` needs `{time} = \"position\"`"))
                    .hint(format!("`{time} = \"position\"`")))
            }
            OrderConfig::ArDiffusion { levels } if *levels != self.levels => {
                let own = key("objective.embedding.levels");
                Err(Error::usage(format!("`{order}` has {levels} levels, but `{own}` is {}", self.levels))
                    .hint(format!("`{own} = {levels}`")))
            }
            OrderConfig::ArDiffusion { .. } => Ok(()),
            _ => Err(Error::usage(format!("`{order} = {shown}` is not for embeddings"))
                .hint("use \"parallel\" or { ar_diffusion = { levels = T } }")),
        }
    }

    fn begin<'a>(&'a self, _ground: &Ground<'a>) -> Result<Box<dyn Training + 'a>> {
        let step = |nets: &Nets, batch: &Batch| {
            let anchored = batch.order.levels > 0;
            Ok(denoise(self, nets.model, &batch.x0, anchored, batch.generators()))
        };
        Ok(Box::new(FromStep(step)))
    }
}

impl Method for ClassifierConfig {
    fn facts(&self) -> Facts<'_> {
        Facts {
            made: Made::Classifier,
            parent: Some(&self.model),
            vectors: Vectors::Classified,
            ..Facts::of_tokens("classifier", "nll")
        }
    }

    fn check(&self, _site: &Site) -> Result<()> {
        Ok(())
    }

    fn fits(&self, site: &Site, network: &TransformerConfig) -> Result<()> {
        let vectors = fits(site, network)?;
        let at = site.at("model");
        let of = site.other(&at, &self.model)?;
        let Vectors::Embeddings(theirs) = of.method.facts().vectors else {
            return Err(Error::usage(format!("`{at}` names `{}`, which is not a diffusion of embeddings", self.model))
                .hint("name a model whose objective is `embedding`"));
        };
        if theirs.given == 0 {
            return Err(Error::usage(format!("`{at}` needs `model.{}.objective.embedding.given`", self.model))
                .cause("the tokens at the start of a sequence are what the classifier predicts")
                .hint(format!("`model.{}.objective.embedding.given = 1` or more", self.model)));
        }
        let width = match of.network {
            Some(Network::Given(network)) => network.vectors.as_ref().map(|v| v.width),
            _ => None,
        };
        if let Some(width) = width.filter(|width| *width != vectors.width) {
            let own = site.key("network.vectors.width");
            return Err(Error::usage(format!("`{own}` and `model.{}.network.vectors.width` differ", self.model))
                .hint(format!("`{own} = {width}`")));
        }
        match *site.order == OrderConfig::Parallel && !site.decodes {
            true => Ok(()),
            false => Err(needs(site, "order", " = \"parallel\" and no `decode`")
                .hint(format!("`{} = \"parallel\"`", site.key("order")))),
        }
    }

    fn begin<'a>(&'a self, ground: &Ground<'a>) -> Result<Box<dyn Training + 'a>> {
        let Some((of, config)) = ground.parents.classified else {
            return Err(ground.lacks("the diffusion of embeddings that it classifies"));
        };
        let step =
            move |nets: &Nets, batch: &Batch| Ok(classify(config, nets.model, of, &batch.x0, batch.generators()));
        Ok(Box::new(FromStep(step)))
    }
}

#[cfg(test)]
mod tests;
