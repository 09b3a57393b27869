//! Autoencoders of text, and Gaussian diffusion of their latents: what a training step minimises.
//!
//! An autoencoder is trained by cross-entropy through latents with noise on them, so that its decoder also reads latents that
//! are only nearly right (LD4LG and Cosmos): z + s e with s uniform in [0, noise]. A denoiser of latents learns what
//! `predict` names at x_t = alpha z + sigma eps by squared error, times stratified over the batch; with self-conditioning it
//! reads, in a share of the steps, its own first estimate of x_0 (Chen et al. 2022). Every order of the house's table applies: one
//! time for all latents, one a block with the finished ones beside the noise, or a column of a noisy table.
//! B batch, L length, M latents, d their width.

use burn::optim::GradientsParams;
use burn::prelude::*;
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use super::contract::{
    Batch as Data, Beside, Facts, FromStep, Ground, Made, Method, Nets, Network, Site, Training, Vectors,
};
pub use super::latent_config::{AutoencoderConfig, LatentConfig};
use super::masked::beside;
use crate::error::{Error, Result, within};
use crate::kernels;
use crate::model::config::{TimeInput, Visibility};
use crate::model::transformer::ends::Given;
use crate::model::{Denoise, Transformer, TransformerConfig};
use crate::process::gaussian::{Denoising, Mix, Path};
use crate::process::order::OrderConfig;
use crate::process::{Context, Order};
use crate::rng::{Generators, Stream};

/// Standard normal numbers of `shape`, on a plain device.
pub fn normals<const D: usize>(shape: [usize; D], rng: &mut impl Rng, device: &Device) -> Tensor<D> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| StandardNormal.sample(&mut *rng)).collect();
    Tensor::from_data(TensorData::new(values, shape), &device.clone().inner())
}

/// Factors [B M] of the vectors of a batch [B, M, d].
///
/// # Panics
/// Where `values` are not B M.
pub fn column(values: &[f64], [b, m]: [usize; 2], device: &Device) -> Tensor<3> {
    assert_eq!(values.len(), b * m, "one factor for each vector");
    let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
    Tensor::from_data(TensorData::new(values, [b, m, 1]), &device.clone().inner())
}

/// The sum of x [B, M, d] and `out` [B, M, d] whose coefficients depend on the time [B M] of each vector.
pub fn mixed(times: &[f64], coefficients: impl Fn(f64) -> Mix, x: Tensor<3>, out: Tensor<3>) -> Tensor<3> {
    let [b, m, _] = x.dims();
    let device = x.device();
    let of = |f: fn(Mix) -> f64| {
        let values: Vec<f64> = times.iter().map(|t| f(coefficients(*t))).collect();
        column(&values, [b, m], &device)
    };
    x * of(|c| c.x) + out * of(|c| c.out)
}

/// A training step's latents, their noise, and the tokens the texts begin with.
pub struct Batch {
    /// z [B, M, d], and eps of the same shape, on a plain device.
    pub z: Tensor<3>,
    pub eps: Tensor<3>,
    /// The first C tokens [B C] of each text, of which some are hidden; none where the network is given none.
    pub condition: Option<Vec<u32>>,
}

impl Batch {
    /// The latents of x0 [B L] and noise for them.
    pub fn of(codec: &Transformer, model: &Transformer, x0: &[u32], drop_condition: f64, rng: Generators) -> Self {
        let z = codec.encode(x0);
        let eps = normals(z.dims(), &mut rng.at(Stream::Corrupt), &z.device());
        let c = model.vectors().map_or(0, |v| v.condition);
        let mut drop = rng.at(Stream::Drop);
        let condition = (c > 0).then(|| {
            x0.chunks(codec.length())
                .flat_map(|text| match drop.random::<f64>() < drop_condition {
                    true => vec![model.mask(); c],
                    false => text[..c].to_vec(),
                })
                .collect()
        });
        Batch { z, eps, condition }
    }

    /// B and M.
    pub fn dims(&self) -> [usize; 2] {
        let [b, m, _] = self.z.dims();
        [b, m]
    }

    /// x_t at the times [B M].
    pub fn at(&self, path: Path, t: &[f64]) -> Tensor<3> {
        let mix = |t| {
            let (x, out) = path.at(t);
            Mix { x, out }
        };
        mixed(t, mix, self.z.clone(), self.eps.clone())
    }

    /// What the network gets beside x_t, without an estimate of its own.
    pub fn given(&self) -> Given<'_> {
        Given { condition: self.condition.as_deref(), ..Given::default() }
    }
}

/// The training step of an autoencoder on x0 [B L]: mean cross-entropy in nats per token.
pub fn autoencoder(
    config: &AutoencoderConfig,
    model: &Transformer,
    x0: &[u32],
    rng: Generators,
) -> (f64, GradientsParams) {
    let z = model.encode(x0);
    let [b, m, _] = z.dims();
    let mut draws = rng.at(Stream::Corrupt);
    let sigma: Vec<f64> = (0..b).map(|_| config.noise * draws.random::<f64>()).collect();
    let sigma: Vec<f64> = sigma.iter().flat_map(|s| std::iter::repeat_n(*s, m)).collect();
    let noise = normals(z.dims(), &mut draws, &z.device()) * column(&sigma, [b, m], &z.device());
    let mut drop = rng.at(Stream::Drop);
    let lost = |x: &u32, rng: &mut dyn rand::RngCore| match rng.random::<f64>() < config.token_dropout {
        true => model.mask(),
        false => *x,
    };
    let read: Vec<u32> = x0.iter().map(|x| if config.token_dropout > 0.0 { lost(x, &mut drop) } else { *x }).collect();
    let features = model.decode(z + noise, Some(&read));
    let rows = features.reshape([x0.len(), model.config().dim]);
    let weights = vec![1.0 / x0.len() as f32; x0.len()];
    let composed = model.config().composed;
    let value = kernels::loss(rows, model.head(), kernels::Target::Tokens(x0.into()), &weights, composed);
    finish(value, model)
}

/// A loss as a number, and its gradients.
pub fn finish(value: Tensor<1>, model: &Transformer) -> (f64, GradientsParams) {
    let number = f64::from(value.clone().inner().into_scalar::<f32>());
    (number, GradientsParams::from_grads(value.backward(), model))
}

/// The mean square of `difference` [B, M, d], each vector with its weight [B M], as a tensor [1].
pub(super) fn mean_square(difference: Tensor<3>, weights: Option<&[f64]>) -> Tensor<1> {
    let [b, m, _] = difference.dims();
    let squares = difference.square();
    match weights {
        None => squares.mean(),
        Some(w) => {
            let w = column(w, [b, m], &squares.device());
            (squares * w).mean()
        }
    }
}

/// Training times [B M] of an order over M latents, and which of them count: those that lose noise at that time.
pub fn times(order: Order, [b, m]: [usize; 2], rng: &mut impl Rng) -> (Vec<f64>, Vec<f64>) {
    let offset = rng.random::<f64>();
    match order.context == Context::Clean {
        true => (order.block_times(b, m, offset), vec![1.0; b * m]),
        false => {
            let at = |p: f64, l: usize| (order.time(m, p, l), f64::from(u8::from(order.rate(m, p, l) > 0.0)));
            let columns = order.training_progress(b, offset).into_iter();
            columns.flat_map(|p| (0..m).map(move |l| at(p, l)).collect::<Vec<_>>()).unzip()
        }
    }
}

/// x_0 as a network on a plain device sees it from x_t [B, M, d] at times [B M]; one that reads its own estimate is asked twice.
pub fn estimate(model: &Transformer, process: Denoising, x: &Tensor<3>, t: &[f64], given: &Given) -> Tensor<3> {
    let once = |given: &Given| {
        let out = model.says(x.clone(), t, None, given);
        mixed(t, |t| process.x0(t), x.clone(), out)
    };
    let first = once(given);
    match model.vectors().is_some_and(|v| v.self_conditioning) && given.estimate.is_none() {
        true => once(&Given { estimate: Some(first), ..given.clone() }),
        false => first,
    }
}

/// The training step of a denoiser of latents on x0 [B L]: mean squared error of what it says.
pub fn denoise(
    config: &LatentConfig,
    model: &Transformer,
    codec: &Transformer,
    x0: &[u32],
    order: Order,
    rng: Generators,
) -> (f64, GradientsParams) {
    let batch = Batch::of(codec, model, x0, config.drop_condition, rng);
    let [b, m] = batch.dims();
    let mut draws = rng.at(Stream::Times);
    let (t, counts) = times(order, [b, m], &mut draws);
    let xt = batch.at(config.path, &t);
    let clean = beside(order, m).then(|| batch.z.clone());
    let phases = order.phases(m, &[]);
    let mut given = Given { clean, layout: Some(order.layout()), phases, ..batch.given() };
    let reads_itself = model.vectors().is_some_and(|v| v.self_conditioning);
    if reads_itself && draws.random::<f64>() < config.self_conditioning {
        let plain = model.valid();
        let out = plain.says(xt.clone(), &t, None, &given);
        given.estimate = Some(mixed(&t, |t| config.path.x0(config.predict, t), xt.clone(), out));
    }
    let wanted = mixed(&t, |t| config.path.target(config.predict, t), batch.z.clone(), batch.eps.clone());
    let all = counts.iter().all(|c| *c == 1.0);
    let loss = mean_square(model.says(xt, &t, None, &given) - wanted, (!all).then_some(&counts[..]));
    finish(loss, model)
}

/// The diffusion of latents at the end of a model's line of teachers; nothing for models of tokens.
///
/// # Errors
/// A circle of teachers (usage).
pub fn root<'a>(site: &Site<'a>) -> Result<Option<(Site<'a>, &'a LatentConfig)>> {
    let mut at = site.clone();
    // No line of teachers is longer than a recipe may have models.
    for _ in 0..10_000 {
        match at.method.facts().vectors {
            Vectors::Latents(config) => return Ok(Some((at, config))),
            Vectors::FewStep(config) => at = at.models.site(&config.teacher)?,
            _ => return Ok(None),
        }
    }
    Err(Error::usage(format!("`model.{}` is made of models that form a circle", site.name))
        .hint("one of them must learn from data: give it an objective without a teacher, and no `start`"))
}

/// The error of a model that `has` one key without the other.
pub fn needs(site: &Site, has: &str, other: &str, wants: &str) -> Error {
    Error::usage(format!("`{}` needs `{}`{wants}", site.key(has), site.key(other)))
}

/// Checks that a model of latents, or an autoencoder, is a whole network of its recipe.
///
/// # Errors
/// A model that is made by `from`, `lora`, `keep_layers` or `decode` (usage).
pub fn whole(site: &Site) -> Result<()> {
    match site.from || site.derived || site.decodes {
        true => Err(Error::usage(format!(
            "`{}` stands beside `from`, `lora`, `keep_layers` or `decode`",
            site.key("objective")
        ))
        .hint("models of latents are whole networks of this recipe")),
        false => Ok(()),
    }
}

/// Which latents the network sees, and which times it is told, must be those of its order.
///
/// # Errors
/// An order that the network does not see by or is not told the times of, or that is not for latents (usage).
pub fn fits_order(site: &Site, network: &TransformerConfig) -> Result<()> {
    let (key, shown, net) = (site.key("order"), site.order.shown(), &site.network_place);
    site.order.validate(&key)?;
    let needs = |other: &str, wants: &str| {
        Err(Error::usage(format!("`{key} = {shown}` over latents needs `{net}.{other} = {wants}`"))
            .hint(format!("`{net}.{other} = {wants}`")))
    };
    match site.order {
        OrderConfig::Parallel if network.visibility == Visibility::Full => Ok(()),
        OrderConfig::Parallel => needs("visibility", "\"full\""),
        _ if network.time != TimeInput::Position => needs("time", "\"position\""),
        OrderConfig::Blocks(b) if network.visibility == Visibility::Blocks(*b) => Ok(()),
        OrderConfig::Blocks(b) => needs("visibility", &format!("{{ blocks = {b} }}")),
        OrderConfig::ArDiffusion { .. } | OrderConfig::Pipelined { .. } if network.visibility == Visibility::Full => {
            Ok(())
        }
        OrderConfig::ArDiffusion { .. } | OrderConfig::Pipelined { .. } => needs("visibility", "\"full\""),
        order if order.phased() && !order.follows_steps() && !matches!(order, OrderConfig::Mixture(_)) => {
            match network.visibility {
                Visibility::Order => Ok(()),
                _ => needs("visibility", "\"order\""),
            }
        }
        _ => Err(Error::usage(format!("`{key} = {shown}` is not for latents"))
            .hint("use \"parallel\", { blocks = N }, { strided = K }, { pipelined = ... } or { ar_diffusion = ... }")),
    }
}

impl Method for AutoencoderConfig {
    fn facts(&self) -> Facts<'_> {
        Facts { made: Made::Codec, vectors: Vectors::Codec, ..Facts::of_tokens("autoencoder", "nll") }
    }

    fn check(&self, _site: &Site) -> Result<()> {
        Ok(())
    }

    fn fits(&self, site: &Site, network: &TransformerConfig) -> Result<()> {
        whole(site)?;
        if network.bottleneck.is_none() {
            return Err(needs(site, "objective.autoencoder", "network.bottleneck", "")
                .hint("`network.bottleneck = { latents = M, width = d, decoder_layers = n }`"));
        }
        within(&site.at("noise"), self.noise, 0.0..=10.0)?;
        within(&site.at("token_dropout"), self.token_dropout, 0.0..=0.999)?;
        match *site.order == OrderConfig::Parallel {
            true => Ok(()),
            false => Err(needs(site, "objective.autoencoder", "order", " = \"parallel\"")
                .hint(format!("`{} = \"parallel\"`", site.key("order")))),
        }
    }

    fn begin<'a>(&'a self, _ground: &Ground<'a>) -> Result<Box<dyn Training + 'a>> {
        let step = |nets: &Nets, data: &Data| Ok(autoencoder(self, nets.model, &data.x0, data.generators()));
        Ok(Box::new(FromStep(step)))
    }
}

impl Method for LatentConfig {
    fn facts(&self) -> Facts<'_> {
        Facts {
            parent: Some(&self.codec),
            beside: Beside::Always,
            vectors: Vectors::Latents(self),
            ..Facts::of_tokens("latent", "squared error")
        }
    }

    fn check(&self, _site: &Site) -> Result<()> {
        Ok(())
    }

    fn fits(&self, site: &Site, network: &TransformerConfig) -> Result<()> {
        whole(site)?;
        let key = |k: &str| site.key(k);
        let Some(vectors) = &network.vectors else {
            return Err(needs(site, "objective.latent", "network.vectors", "")
                .hint("`network.vectors = { count = M, width = d }`, as the autoencoder has them"));
        };
        let at = site.at("codec");
        let codec = site.other(&at, &self.codec)?;
        let theirs = match (codec.method.facts().vectors, codec.network) {
            (Vectors::Codec, Some(Network::Given(network))) => network.bottleneck.as_ref(),
            _ => None,
        };
        let Some(theirs) = theirs else {
            return Err(Error::usage(format!("`{at}` names `{}`, which is not an autoencoder", self.codec))
                .hint("name a model whose objective is `autoencoder`"));
        };
        let own = key("network.vectors");
        if (theirs.latents, theirs.width) != (vectors.count, vectors.width) {
            return Err(Error::usage(format!(
                "`{own}` are {} of width {}, but `model.{}.network.bottleneck` has {} of width {}",
                vectors.count, vectors.width, self.codec, theirs.latents, theirs.width
            ))
            .hint(format!("`{own}.count = {}` and `{own}.width = {}`", theirs.latents, theirs.width)));
        }
        let shares =
            [("self_conditioning", self.self_conditioning), ("drop_condition", self.drop_condition), ("eta", self.eta)];
        shares.iter().try_for_each(|(k, v)| within(&site.at(k), *v, 0.0..=1.0))?;
        within(&site.at("guidance"), self.guidance, -1e3..=1e3)?;
        if self.guidance != 1.0 && vectors.condition == 0 {
            return Err(needs(site, "objective.latent.guidance", "network.vectors.condition", " of at least 1 token")
                .hint(format!("`{} = 1.0` guides by nothing", site.at("guidance"))));
        }
        if vectors.codebook {
            return Err(Error::usage(format!("`{own}.codebook` is for `objective.embedding`"))
                .hint("latents are not vectors of tokens: leave it out"));
        }
        let length = site.length.unwrap_or(usize::MAX);
        if vectors.condition > length {
            return Err(Error::usage(format!(
                "`{own}.condition` asks for {} tokens of texts of {length}",
                vectors.condition
            ))
            .hint(format!("`{own}.condition = {length}` at most")));
        }
        fits_order(site, network)
    }

    fn begin<'a>(&'a self, ground: &Ground<'a>) -> Result<Box<dyn Training + 'a>> {
        let Some((codec, _)) = ground.parents.latent else {
            return Err(ground.lacks("the autoencoder of its latents"));
        };
        let step = move |nets: &Nets, data: &Data| {
            Ok(denoise(self, nets.model, codec, &data.x0, data.order, data.generators()))
        };
        Ok(Box::new(FromStep(step)))
    }
}
