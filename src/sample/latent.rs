//! Sampling in latent space: vectors from noise along the order's table, then text from the vectors.
//!
//! Step k takes each latent from t(k, m) to t(k + 1, m): by the deterministic step of its path with noise in proportion to eta
//! (DDIM, Song et al. 2021; eta = 1 is the ancestral one), by drawing x_s anew around the predicted x_0 (a consistency model,
//! Song et al. 2023), or by the mean velocity of a network that is told both times. One walk serves every order of the house's
//! table: all latents at once, blocks of them from left to right behind the finished ones, or a noisy table. The decoder then
//! writes all positions in one pass, each its most probable token, or draws them behind the latents, one by one or in phases: that is
//! counted too.
//! The temperature is the deviation of the noise. A sample is a function of (seed, its number).
//! B batch, L length, M latents, d their width, K steps.

use std::sync::Arc;
use std::time::Instant;

use burn::prelude::*;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use super::{SampleSpec, Samples};
use crate::error::{Error, Result};
use crate::method::beside;
use crate::method::latent::{column, mixed};
use crate::model::config::{Decoder, Visibility};
use crate::model::draw;
use crate::model::transformer::ends::{Given, unit};
use crate::model::{Cache, Denoise, Transformer, params};
use crate::process::gaussian::{Path, Prediction, Step};
use crate::process::order::changed;
use crate::process::{Order, Phases};
use crate::rng::{StepRng, Stream};

/// How a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Walk {
    /// Along the path, with noise in proportion to eta.
    Ddim { eta: f64 },
    /// x_0 is predicted and noised anew.
    Renoise,
    /// By the mean velocity from t to s.
    Jump,
}

/// What a diffusion of latents is sampled by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentProcess {
    pub path: Path,
    pub predict: Prediction,
    pub walk: Walk,
    /// It reads its own last estimate, as it was trained to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimates: bool,
    /// How far its answer is taken away from what it says without its condition (Ho and Salimans 2022); 1: not. Another value
    /// costs a second pass a step.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub guidance: f64,
}

fn one() -> f64 {
    1.0
}
fn is_one(value: &f64) -> bool {
    *value == 1.0
}

/// A denoiser of latents with the autoencoder that they are of.
#[derive(Clone, Copy)]
pub struct Latent<'a> {
    pub model: &'a Transformer,
    pub codec: &'a Transformer,
    pub process: LatentProcess,
    /// Over the latents.
    pub order: Order,
}

impl Latent<'_> {
    /// Number of latents M.
    pub fn count(&self) -> usize {
        self.codec.bottleneck().map_or(0, |b| b.latents)
    }

    /// Passes and positions of writing one text from its latents.
    pub fn decoding(&self) -> (usize, u64) {
        let (m, l) = (self.count() as u64, self.codec.length());
        if let Some(phases) = self.codec.writing_phases() {
            // The latents are read with the first phase, and each phase but the last once more as text.
            let last = phases.ranks_of(phases.count() - 1).len();
            return (phases.count(), (m as usize + 2 * l - last) as u64);
        }
        match self.codec.bottleneck().map(|b| b.decoder) {
            // The latents are read in a pass of their own.
            Some(Decoder::Autoregressive) => (l + 1, m + l as u64),
            _ => (1, m + l as u64),
        }
    }
}

/// Draws `n` texts.
///
/// # Errors
/// Too few steps for the order, and given tokens that are not just those that the model is told (usage).
pub fn sample(latent: &Latent, spec: &SampleSpec, n: usize) -> Result<Samples> {
    let start = Instant::now();
    let condition = condition(latent, spec)?;
    let mut out = Samples::default();
    for from in (0..n).step_by(spec.batch.max(1)) {
        let size = spec.batch.max(1).min(n - from);
        let numbers = spec.first + from..spec.first + from + size;
        let rng = StepRng::new(spec.seed);
        let mut noise: Vec<ChaCha8Rng> = numbers.clone().map(|i| rng.at(i as u64, Stream::Noise)).collect();
        let z = vectors(latent, spec, condition.as_deref(), &mut noise, &mut out)?;
        let mut tokens: Vec<ChaCha8Rng> = numbers.map(|i| rng.at(i as u64, Stream::Token)).collect();
        let texts = written(latent.codec, z, spec, &mut tokens)?;
        let (passes, positions) = latent.decoding();
        let shape = latent.codec.config();
        let layers = (shape.layers - shape.encoding_layers()) as u64;
        for i in out.tokens.len()..out.tokens.len() + size {
            out.nfe[i] += passes;
            out.positions[i] += positions;
            out.layer_positions[i] += positions * layers;
            out.decode_positions.push(positions);
        }
        out.tokens.extend(texts);
    }
    out.seconds = start.elapsed().as_secs_f64();
    Ok(out)
}

/// The tokens that the network is told, of one sequence.
fn condition(latent: &Latent, spec: &SampleSpec) -> Result<Option<Vec<u32>>> {
    let c = latent.model.vectors().map_or(0, |v| v.condition);
    let given: Vec<usize> = (0..spec.pinned.len()).filter(|p| spec.pinned[*p].is_some()).collect();
    if given.is_empty() {
        return Ok(None);
    }
    if given.len() != c || given.last().is_some_and(|p| p + 1 != c) {
        return Err(Error::usage(format!("{} given tokens, and the model is told the first {c}", given.len()))
            .cause("latents stand for no single position, so only what a model was trained to be told can be given")
            .hint(match c {
                0 => "train it with `network.vectors.condition = C` to give it the first C tokens".to_string(),
                _ => format!("give exactly the first {c} tokens"),
            }));
    }
    Ok(Some(spec.pinned[..c].iter().flatten().copied().collect()))
}

/// Latents [B, M, d] drawn along the order's table; passes and positions are added to `out`.
fn vectors(
    latent: &Latent,
    spec: &SampleSpec,
    condition: Option<&[u32]>,
    noise: &mut [ChaCha8Rng],
    out: &mut Samples,
) -> Result<Tensor<3>> {
    let (model, process) = (latent.model, latent.process);
    let (b, m) = (noise.len(), latent.count());
    let (device, d) = (model.device().inner(), model.vectors().map_or(0, |v| v.width));
    let c = model.vectors().map_or(0, |v| v.condition);
    let told = condition.map(|c| c.repeat(b));
    let mut normal = |scale: f64| drawn_noise(noise, [m, d], scale, &device);
    let temperature = spec.filter.temperature;
    let mut x = normal(temperature);
    let grid = latent.order.grid(m, spec.steps)?;
    let whole = model.config().visibility == Visibility::Full;
    let mut last: Option<Tensor<3>> = None;
    let (mut passes, mut positions) = (0, 0u64);
    let mut now = grid.row(0);
    for k in 0..grid.steps() {
        let next = grid.row(k + 1);
        let active = changed(&now, &next);
        // A network over blocks reads nothing behind the block that is being written; phases lie everywhere.
        let end = if whole || grid.phases().is_some() { m } else { active.end };
        let each = |row: &[f64]| row[..end].repeat(b);
        let (t, s) = (each(&now), each(&next));
        let read = x.clone().narrow(1, 0, end);
        let own = process.estimates;
        let estimate = last.clone().map(|x| x.narrow(1, 0, end));
        // Finished vectors before a block are read without one, as in training.
        let noisy = || t.iter().map(|t| f64::from(u8::from(*t > 0.0))).collect::<Vec<f64>>();
        let estimate = match beside(latent.order, m) {
            true => estimate.map(|x| x * column(&noisy(), [b, end], &device)),
            false => estimate,
        };
        let given = Given {
            estimate,
            condition: told.as_deref(),
            clean: None,
            layout: Some(latent.order.layout()),
            phases: grid.phases().cloned(),
        };
        let says = guided(model, process, &read, &t, &s, &given);
        if process.guidance != 1.0 && told.is_some() {
            passes += 1;
            positions += (c + end) as u64;
        }
        let x0 = mixed(&t, |t| process.path.x0(process.predict, t), read.clone(), says);
        let steps: Vec<Step> = t.iter().zip(&s).map(|(t, s)| step(process, *t, *s)).collect();
        let of = |f: fn(&Step) -> f64| column(&steps.iter().map(f).collect::<Vec<_>>(), [b, end], &device);
        let mut moved = read * of(|c| c.x) + x0.clone() * of(|c| c.x0);
        if steps.iter().any(|s| s.noise > 0.0) {
            moved = moved + normal(temperature).narrow(1, 0, end) * of(|c| c.noise);
        }
        // What lies behind what was read stays.
        let joined = |front: Tensor<3>, all: Tensor<3>| match end < m {
            true => Tensor::cat(vec![front, all.narrow(1, end, m - end)], 1),
            false => front,
        };
        last = own.then(|| {
            let behind = last.clone().unwrap_or_else(|| x.zeros_like());
            joined(x0, behind)
        });
        x = joined(moved, x);
        passes += 1;
        positions += (c + end) as u64;
        now = next;
    }
    let finite = params::floats(x.clone().abs().sum()).first().is_some_and(|v| v.is_finite());
    if !finite {
        return Err(draw::not_finite());
    }
    let layers = model.config().layers as u64;
    out.nfe.extend(std::iter::repeat_n(passes, b));
    out.positions.extend(std::iter::repeat_n(positions, b));
    out.layer_positions.extend(std::iter::repeat_n(positions * layers, b));
    Ok(x)
}

/// Normal numbers [B, M, d] of deviation `scale`, those of each sample from its own generator.
fn drawn_noise(noise: &mut [ChaCha8Rng], [m, d]: [usize; 2], scale: f64, device: &Device) -> Tensor<3> {
    let draw = |rng: &mut ChaCha8Rng| -> Vec<f32> {
        (0..m * d)
            .map(|_| {
                let z: f64 = StandardNormal.sample(&mut *rng);
                (scale * z) as f32
            })
            .collect()
    };
    let b = noise.len();
    let values: Vec<f32> = noise.iter_mut().flat_map(draw).collect();
    Tensor::from_data(TensorData::new(values, [b, m, d]), device)
}

/// What the network says of x_t [B, l, d] at times t on its way to s [B l], taken away from what it says without its condition.
fn guided(
    model: &Transformer,
    process: LatentProcess,
    read: &Tensor<3>,
    t: &[f64],
    s: &[f64],
    given: &Given,
) -> Tensor<3> {
    // Only a mean velocity is told where the step ends: all else was trained on no distance.
    let to = (process.walk == Walk::Jump).then_some(s);
    let says = model.says(read.clone(), t, to, given);
    if process.guidance == 1.0 || given.condition.is_none() {
        return says;
    }
    let free = model.says(read.clone(), t, to, &Given { condition: None, ..given.clone() });
    free.clone() + (says - free) * process.guidance as f32
}

/// The step of one latent; none where it keeps its time.
fn step(process: LatentProcess, t: f64, s: f64) -> Step {
    match process.walk {
        _ if t == s => Step { x: 1.0, x0: 0.0, noise: 0.0 },
        Walk::Ddim { eta } => process.path.step(t, s, eta),
        Walk::Jump => process.path.step(t, s, 0.0),
        Walk::Renoise => process.path.renoise(s),
    }
}

/// Texts `[L]` of latents z [B, M, d].
///
/// # Errors
/// Predictions that are not a distribution (non-finite).
pub fn written(
    codec: &Transformer,
    z: Tensor<3>,
    spec: &SampleSpec,
    tokens: &mut [ChaCha8Rng],
) -> Result<Vec<Vec<u32>>> {
    let (b, l) = (z.dims()[0], codec.length());
    if codec.bottleneck().is_some_and(|c| c.decoder == Decoder::Parallel) {
        let features = codec.decode(z, None);
        let d = features.dims()[2];
        let mut texts = vec![vec![0u32; l]; b];
        draw::each_row(codec, features.reshape([b * l, d]), |row, scores| {
            texts[row / l][row % l] = draw::argmax(scores);
        });
        return Ok(texts);
    }
    if let Some(phases) = codec.writing_phases() {
        return in_phases(codec, &Arc::new(phases), z, spec, tokens);
    }
    let mut cache = codec.plan(unit(z));
    let mut last = vec![codec.mask(); b];
    let mut texts = vec![Vec::with_capacity(l); b];
    for p in 0..l {
        let features = codec.write(&last, p, &mut cache);
        let picks: Vec<(usize, f64)> = (0..b).map(|i| (i, tokens[i].random::<f64>())).collect();
        last = draw::picks(codec, features, &picks, spec.filter)?;
        texts.iter_mut().zip(&last).for_each(|(text, id)| text.push(*id));
    }
    Ok(texts)
}

/// [`written`] phase after phase: the positions of a phase are drawn behind the latents and the phases before.
fn in_phases(
    codec: &Transformer,
    phases: &Arc<Phases>,
    z: Tensor<3>,
    spec: &SampleSpec,
    tokens: &mut [ChaCha8Rng],
) -> Result<Vec<Vec<u32>>> {
    let (b, m) = (z.dims()[0], phases.given());
    let mut texts = vec![vec![0u32; codec.length()]; b];
    let (mut cache, mut finished, mut z) = (Cache::default(), Vec::new(), Some(z));
    for n in 0..phases.count() {
        let ranks = phases.ranks_of(n);
        let features = codec.write_phase(phases, n, z.take(), &finished, &mut cache);
        let d = features.dims()[2];
        let draws = tokens.iter_mut().flat_map(|rng| ranks.clone().map(|_| rng.random::<f64>()).collect::<Vec<_>>());
        let picks: Vec<(usize, f64)> = draws.enumerate().collect();
        finished = draw::picks(codec, features.reshape([b * ranks.len(), d]), &picks, spec.filter)?;
        for (text, drawn) in texts.iter_mut().zip(finished.chunks(ranks.len())) {
            ranks.clone().zip(drawn).for_each(|(rank, id)| text[phases.place(rank) - m] = *id);
        }
    }
    Ok(texts)
}

/// Where noise of deviation sigma on its latents leads an autoencoder: its texts of the given ones [L each].
///
/// # Errors
/// As [`written`].
pub fn reconstructed(codec: &Transformer, texts: &[Vec<u32>], sigma: f64, seed: u64) -> Result<Vec<Vec<u32>>> {
    let mut out = Vec::with_capacity(texts.len());
    for (part, group) in texts.chunks(64).enumerate() {
        let z = codec.encode(&group.concat());
        let mut rng = StepRng::new(seed).at(part as u64, Stream::Noise);
        let noise = crate::method::latent::normals(z.dims(), &mut rng, &z.device());
        let spec = SampleSpec {
            filter: draw::Filter { temperature: 0.0, ..Default::default() },
            ..SampleSpec::new(1, seed, 64)
        };
        let mut tokens = vec![StepRng::new(seed).at(part as u64, Stream::Token); group.len()];
        out.extend(written(codec, z + noise * sigma as f32, &spec, &mut tokens)?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TransformerConfig;
    use crate::model::config::{BottleneckConfig, TimeInput, VectorsConfig};

    fn codec() -> Transformer {
        let bottleneck = BottleneckConfig { latents: 4, width: 6, decoder_layers: 1, decoder: Decoder::Parallel };
        let config = TransformerConfig {
            learned_positions: true,
            bottleneck: Some(bottleneck),
            ..TransformerConfig::new(16, 2, 2, Visibility::Full)
        };
        Transformer::init(&config, 7, 12, 3, &Device::flex())
    }

    fn flow(two_times: bool, visibility: Visibility) -> Transformer {
        let vectors = VectorsConfig {
            count: 4,
            width: 6,
            self_conditioning: true,
            two_times,
            condition: 0,
            codebook: false,
            time_scale: 30.0,
        };
        let config = TransformerConfig {
            time: TimeInput::Position,
            vectors: Some(vectors),
            ..TransformerConfig::new(16, 2, 2, visibility)
        };
        let model = Transformer::init(&config, 7, 12, 5, &Device::flex());
        // Blocks of new weights are modulated by nothing: give the time a say.
        let mut named = params::export(&model);
        for (name, tensor) in named.iter_mut().filter(|(name, _)| name.contains("modulation")) {
            let n = name.len();
            tensor.data.iter_mut().enumerate().for_each(|(i, v)| *v = (((i + n) * 37 % 19) as f32 - 9.0) / 60.0);
        }
        params::import(model, &named, &Device::flex())
    }

    fn process(walk: Walk, estimates: bool) -> LatentProcess {
        LatentProcess { path: Path::Trigonometric, predict: Prediction::V, walk, estimates, guidance: 1.0 }
    }

    fn drawn(model: &Transformer, order: Order, process: LatentProcess, (steps, batch): (usize, usize)) -> Vec<f32> {
        let codec = codec();
        let latent = Latent { model, codec: &codec, process, order };
        let rng = StepRng::new(1);
        let mut out = Samples::default();
        let mut all = Vec::new();
        for from in (0..4).step_by(batch) {
            let mut noise: Vec<ChaCha8Rng> = (from..from + batch).map(|i| rng.at(i as u64, Stream::Noise)).collect();
            let z = vectors(&latent, &SampleSpec::new(steps, 1, batch), None, &mut noise, &mut out).unwrap();
            all.extend(params::floats(z));
        }
        all
    }

    fn apart(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn a_sample_depends_on_its_number_and_not_on_its_batch_under_every_walk_and_order() {
        for (order, visibility) in [
            (Order::parallel(4), Visibility::Full),
            (Order::in_blocks(2), Visibility::Blocks(2)),
            (crate::process::order::OrderConfig::ArDiffusion { levels: 10 }.order(4), Visibility::Full),
        ] {
            let model = flow(false, visibility);
            for walk in [Walk::Ddim { eta: 0.0 }, Walk::Ddim { eta: 1.0 }, Walk::Renoise] {
                let [one, four] = [1, 4].map(|batch| drawn(&model, order, process(walk, true), (6, batch)));
                assert!(apart(&one, &four) < 1e-4, "{order:?} {walk:?}");
            }
        }
    }

    /// A network of two times is trained on no distance unless it learns a mean velocity.
    #[test]
    fn only_a_mean_velocity_is_told_where_a_step_ends() {
        let model = flow(true, Visibility::Full);
        let mut named = params::export(&model);
        // The sines of the distance: nothing where it is 0. Weights on the host are [out, in], cosines first.
        let Some(weight) = named.get_mut("vectors.second.first.weight") else { panic!("the second time's embedding") };
        let inputs = weight.shape[1];
        weight.data.iter_mut().enumerate().filter(|(i, _)| i % inputs >= inputs / 2).for_each(|(_, v)| *v = 0.0);
        let deaf = params::import(model.clone(), &named, &Device::flex());
        let both = |walk| [&model, &deaf].map(|m| drawn(m, Order::parallel(4), process(walk, false), (3, 4)));
        let [one, two] = both(Walk::Ddim { eta: 0.0 });
        assert!(apart(&one, &two) < 1e-6);
        let [one, two] = both(Walk::Jump);
        assert!(apart(&one, &two) > 1e-3);
    }

    /// In training finished vectors before a block are read without an estimate.
    #[test]
    fn finished_blocks_are_read_as_in_training_whatever_was_estimated() {
        let model = flow(false, Visibility::Blocks(2));
        let z = crate::method::latent::normals([1, 4, 6], &mut StepRng::new(2).at(0, Stream::Noise), &Device::flex());
        let estimate = z.clone() * 0.5;
        let t = [0.0, 0.0, 0.7, 0.7];
        let layout = Some(Order::in_blocks(2).layout());
        let noisy = column(&[0.0, 0.0, 1.0, 1.0], [1, 4], &Device::flex());
        let read = |clean: Option<Tensor<3>>, estimate: Tensor<3>| {
            let given = Given { estimate: Some(estimate), condition: None, clean, layout, phases: None };
            params::floats(model.says(z.clone(), &t, None, &given).narrow(1, 2, 2))
        };
        let training = read(Some(z.clone()), estimate.clone());
        assert!(apart(&training, &read(None, estimate.clone() * noisy)) < 1e-5);
        assert!(apart(&training, &read(None, estimate)) > 1e-3, "an estimate of finished vectors would be seen");
    }
}
