//! Sampling: one loop over the order's table of times, for every order.
//!
//! Step k takes each position from t(k, l) to t(k + 1, l). With absorbing noise a masked position is revealed with
//! probability (alpha_s - alpha_t)/(1 - alpha_t), decided by its own uniform, and its token is then drawn from the
//! prediction alone (model/draw.rs). Autoregression is the case of one position a step, read through the cache.
//! Prompts and infills are positions pinned at t = 0. Each sample has its own generators, so a sample is a function of
//! (seed, its number), and not of the batch it was drawn in beyond rounding.
//!
//! Which positions a step reveals depends on uniforms and never on predictions, so on a GPU the canvas stays where the
//! network is ([`Canvas::Device`]): tokens are drawn there too, and the only way back to the host is at the end.
//! B batch, L length, K steps.

pub mod adaptive;
pub mod beam;
pub mod beyond;
pub mod d3pm;
pub mod decode;
pub mod embedding;
pub mod family;
pub mod given;
pub mod latent;
pub mod mbr;
pub mod uniform;
mod whole;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use burn::prelude::*;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};
use crate::model::canvas::{Canvas, shares_host};
use crate::model::draw::{self, Filter};
use crate::model::{Cache, Denoise, Noised, select_rows};
use crate::process::d3pm::Matrices;
use crate::process::order::changed;
use crate::process::{Corruption, Grid, Order, Reading, Schedule};
use crate::rng::{StepRng, Stream};
pub use decode::{Decode, DecodeConfig};
pub use embedding::{Embedding, GuidanceConfig};
pub use latent::{Latent, LatentProcess};

/// The process a model was trained for, as its sampler needs it.
#[derive(Debug, Clone)]
pub struct Process {
    pub order: Order,
    pub schedule: Schedule,
    pub corruption: Corruption,
    /// Its transition matrices, if its noise is a chain.
    pub chain: Option<Arc<Matrices>>,
    pub length: usize,
    /// The network looks back only, and keeps what it has read: token by token, or the finished blocks of its order.
    pub cached: bool,
    /// How it is walked.
    pub decode: Decode,
}

impl Process {
    /// Masks on the log-linear schedule over the whole sequence, in the steps of the order's table, with nothing kept between steps.
    pub fn new(order: Order, length: usize) -> Self {
        Process {
            order,
            schedule: Schedule::LogLinear,
            corruption: Corruption::Absorb,
            chain: None,
            length,
            cached: false,
            decode: Decode::Table,
        }
    }
}

/// What to draw.
#[derive(Debug, Clone)]
pub struct SampleSpec {
    /// Denoising steps K.
    pub steps: usize,
    pub filter: Filter,
    pub seed: u64,
    /// Number of the first sample: each is a function of the seed and its number, so that many can be drawn part by part.
    pub first: usize,
    /// Samples drawn together.
    pub batch: usize,
    /// Positions given from the start `[L]`, or empty.
    pub pinned: Vec<Option<u32>>,
    /// Keep the canvas of every step.
    pub trace: bool,
}

impl SampleSpec {
    /// Plain sampling in `steps` steps from `seed`.
    pub fn new(steps: usize, seed: u64, batch: usize) -> Self {
        SampleSpec { steps, filter: Filter::default(), seed, first: 0, batch, pinned: Vec::new(), trace: false }
    }
}

/// What was drawn, and what it cost.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    /// Token ids, one sequence of L a sample.
    pub tokens: Vec<Vec<u32>>,
    /// Canvases [K + 1] of each sample, when asked for.
    pub trace: Vec<Vec<Vec<u32>>>,
    /// Network passes each sample took part in.
    pub nfe: Vec<usize>,
    /// Positions computed for each sample.
    pub positions: Vec<u64>,
    /// Positions computed times the layers that each of them passed.
    pub layer_positions: Vec<u64>,
    /// Those of them that were a decoder's, of models that write text from latents.
    pub decode_positions: Vec<u64>,
    pub seconds: f64,
}

/// What texts are drawn from.
pub enum Generator<'a> {
    /// A denoiser of tokens with its process.
    Tokens(&'a dyn Denoise, Process),
    /// A denoiser of latents with its autoencoder.
    Latent(Latent<'a>),
    /// A denoiser of token embeddings.
    Embedding(Embedding<'a>),
}

impl Generator<'_> {
    /// Draws `n` samples.
    ///
    /// # Errors
    /// As [`sample`] and [`latent::sample`].
    pub fn sample(&self, spec: &SampleSpec, n: usize) -> Result<Samples> {
        match self {
            Generator::Tokens(model, process) => sample(*model, process, spec, n),
            Generator::Latent(latent) => latent::sample(latent, spec, n),
            Generator::Embedding(of) => embedding::sample(of, spec, n),
        }
    }

    /// Tokens of a text L.
    pub fn length(&self) -> usize {
        match self {
            Generator::Tokens(_, process) => process.length,
            Generator::Latent(latent) => latent.codec.length(),
            Generator::Embedding(of) => of.model.length(),
        }
    }

    /// Denoising steps that each block takes of `steps`, where the table says so.
    ///
    /// # Errors
    /// Too few steps for the order (usage).
    pub fn steps_per_block(&self, steps: usize) -> Result<Option<f64>> {
        Ok(match self {
            Generator::Tokens(_, process) => match process.decode {
                Decode::Table | Decode::GreedyTail | Decode::Mbr(_) => {
                    Some(process.order.grid(process.length, steps)?.steps_per_block())
                }
                Decode::Rule(_) | Decode::Gaussian(_) => None,
            },
            // Every step is one of all positions, whatever their levels are.
            Generator::Embedding(_) => Some(steps as f64),
            Generator::Latent(latent) => Some(latent.order.grid(latent.count(), steps)?.steps_per_block()),
        })
    }
}

/// Draws `n` samples.
///
/// # Errors
/// Too few steps for the order, and pinned positions that are not a prefix under a cached order, which would draw text that
/// ignores them (usage); predictions that are not a distribution (non-finite).
pub fn sample(model: &dyn Denoise, process: &Process, spec: &SampleSpec, n: usize) -> Result<Samples> {
    let l = process.length;
    if !spec.pinned.is_empty() && spec.pinned.len() != l {
        return Err(Error::usage(format!("{} pinned positions for a length of {l}", spec.pinned.len())));
    }
    let prefix = spec.pinned.iter().take_while(|p| p.is_some()).count();
    if process.cached && !model.over_blocks() && spec.pinned.iter().skip(prefix).any(Option::is_some) {
        return Err(Error::usage("an autoregressive model can continue a prompt but not fill a gap")
            .hint("use a diffusion model of the recipe, or pin a prefix only"));
    }
    match process.decode {
        Decode::Mbr(candidates) => {
            let each = SampleSpec { first: spec.first * candidates.max(1), ..spec.clone() };
            let drawn =
                sample(model, &Process { decode: Decode::Table, ..process.clone() }, &each, n * candidates.max(1))?;
            // What is given is the same in all.
            let own = |p: usize| spec.pinned.get(p).is_none_or(Option::is_none);
            let text = |t: &[u32]| (0..t.len()).filter(|p| own(*p)).map(|p| t[p]).collect();
            return Ok(mbr::choose(drawn, candidates.max(1), &text));
        }
        _ if let Some(matrices) = &process.chain => return d3pm::sample(model, matrices, process, spec, n),
        _ if !process.corruption.absorbs() => return uniform::sample(model, process, spec, n),
        Decode::Table => {}
        Decode::GreedyTail => {
            return Err(Error::usage("a greedy tail is for uniform noise")
                .cause("under masks the last step reveals what is left and nothing else")
                .hint("use `{ order = .. }` and a lower temperature"));
        }
        Decode::Rule(rule) => return adaptive::sample(model, process, &rule, spec, n),
        Decode::Gaussian(_) => {
            return Err(Error::usage("tokens have no Gaussian noise").hint("`gaussian` is for models of embeddings"));
        }
    }
    // A phase is one step: in more of them no network was trained.
    let phases = process.order.in_steps(l, spec.steps);
    if phases.pattern.is_some() && phases.blocks(l) != spec.steps {
        let n = phases.blocks(l);
        let k = spec.steps;
        return Err(Error::usage(format!("{k} steps, and the order has {n} phases of one step each"))
            .hint(format!("take {n} steps, or an order of {k} phases")));
    }
    // A filter that sorts is made for the host.
    let draws_there = spec.filter.top_k.is_none() && spec.filter.top_p.is_none();
    sample_at(model, process, spec, n, draws_there && !shares_host(&model.device()))
}

/// [`sample`] with its canvas on the model's device, or on the host.
fn sample_at(model: &dyn Denoise, process: &Process, spec: &SampleSpec, n: usize, on_device: bool) -> Result<Samples> {
    let start = Instant::now();
    let mut out = Samples::default();
    for from in (0..n).step_by(spec.batch.max(1)) {
        let size = spec.batch.max(1).min(n - from);
        let device = on_device.then(|| model.device().inner());
        let first = spec.first + from;
        let mut batch = Batch::new(process, spec, model, first..first + size, device);
        batch.run(model, process, spec)?;
        out.tokens.extend(batch.canvas.rows(process.length));
        out.trace.extend(batch.traces(process.length));
        out.nfe.extend(batch.nfe);
        out.positions.extend(batch.positions);
        out.layer_positions.extend(batch.layer_positions);
    }
    out.seconds = start.elapsed().as_secs_f64();
    Ok(out)
}

/// A few samples on their way from noise to text.
struct Batch {
    canvas: Canvas,
    /// Which flat positions [B L] are still noise; the host knows it without reading the canvas.
    masked: Vec<bool>,
    /// The uniforms [B L] that a network reads which follows them.
    uniforms: Option<Vec<f64>>,
    reveal: Vec<ChaCha8Rng>,
    token: Vec<ChaCha8Rng>,
    nfe: Vec<usize>,
    positions: Vec<u64>,
    layer_positions: Vec<u64>,
    trace: Vec<Canvas>,
    /// Whether all predictions so far were finite, for draws that do not come back to the host.
    finite: Vec<Tensor<1, Bool>>,
}

/// A pass of the network, in a step of the table.
struct Pass<'a> {
    process: &'a Process,
    spec: &'a SampleSpec,
    grid: &'a Grid,
    /// The row of the table before the step.
    now: &'a [f64],
    /// The flat positions that the step reveals.
    opened: &'a [usize],
}

impl Batch {
    /// The samples of these numbers, with their canvas on `device` or on the host.
    fn new(
        process: &Process,
        spec: &SampleSpec,
        model: &dyn Denoise,
        numbers: Range<usize>,
        device: Option<Device>,
    ) -> Self {
        let rng = StepRng::new(spec.seed);
        let (size, mask) = (numbers.len(), model.mask());
        let shared = |i: usize| {
            let mut draws = rng.at(i as u64, Stream::Shared);
            (0..process.length).map(|_| draws.random::<f64>()).collect::<Vec<f64>>()
        };
        let row: Vec<u32> = match spec.pinned.is_empty() {
            true => vec![mask; process.length],
            false => spec.pinned.iter().map(|p| p.unwrap_or(mask)).collect(),
        };
        let x: Vec<u32> = std::iter::repeat_n(row, size).flatten().collect();
        let masked = match spec.pinned.is_empty() {
            true => vec![true; x.len()],
            false => spec.pinned.iter().map(Option::is_none).cycle().take(x.len()).collect(),
        };
        let generators = |s: Stream| numbers.clone().map(|i| rng.at(i as u64, s)).collect();
        let canvas = Canvas::new(x, process.length, device.as_ref());
        Batch {
            trace: if spec.trace { vec![canvas.clone()] } else { Vec::new() },
            canvas,
            masked,
            uniforms: model.reads_uniforms().then(|| numbers.clone().flat_map(shared).collect()),
            reveal: generators(Stream::Reveal),
            token: generators(Stream::Token),
            nfe: vec![0; size],
            positions: vec![0; size],
            layer_positions: vec![0; size],
            finite: Vec::new(),
        }
    }

    /// The canvases [K + 1] of each sample.
    fn traces(&self, length: usize) -> Vec<Vec<Vec<u32>>> {
        let steps: Vec<Vec<Vec<u32>>> = self.trace.iter().map(|canvas| canvas.rows(length)).collect();
        let of = |i: usize| steps.iter().map(|step| step[i].clone()).collect();
        if steps.is_empty() { Vec::new() } else { (0..self.nfe.len()).map(of).collect() }
    }

    fn run(&mut self, model: &dyn Denoise, process: &Process, spec: &SampleSpec) -> Result<()> {
        let l = process.length;
        let given: Vec<bool> = spec.pinned.iter().map(Option::is_some).collect();
        let grid = process.order.grid_behind(l, spec.steps, &given)?;
        let reading = reading(model, process);
        let mut cache = Cache::default();
        let mut now = grid.row(0);
        for k in 0..grid.steps() {
            let next = grid.row(k + 1);
            let active = changed(&now, &next);
            let mut opened: Vec<usize> = Vec::new();
            for i in 0..self.reveal.len() {
                for p in active.clone() {
                    // Between the positions of a phase are those of others.
                    if !self.masked[i * l + p] || (grid.phases().is_some() && now[p] == next[p]) {
                        continue;
                    }
                    let chance = process.corruption.reveal_probability(process.schedule, now[p], next[p]);
                    // A certain reveal draws nothing: autoregression then spends no randomness on "which".
                    if chance >= 1.0 || self.reveal[i].random::<f64>() < chance {
                        opened.push(i * l + p);
                    }
                }
            }
            if !opened.is_empty() {
                let pass = Pass { process, spec, grid: &grid, now: &now, opened: &opened };
                match reading {
                    Reading::Whole => self.step_full(model, &pass)?,
                    _ => {
                        let (read, kept) = grid.read(k, reading, cache.filled);
                        self.step_cached(model, &pass, read, kept, &mut cache)?
                    }
                }
            }
            if spec.trace {
                self.trace.push(self.canvas.clone());
            }
            now = next;
        }
        let finite = self.finite.drain(..).reduce(|a, b| a.bool_and(b));
        match finite.is_none_or(|all| all.into_scalar::<bool>()) {
            true => Ok(()),
            false => Err(draw::not_finite()),
        }
    }

    /// One pass over the whole length, for the samples that reveal something in this step.
    ///
    /// Samples with the same canvas (all of them in the first step) have the same features, which are computed once; and
    /// only the rows that are revealed are computed to the end.
    fn step_full(&mut self, model: &dyn Denoise, pass: &Pass) -> Result<()> {
        let Pass { process, spec, grid, now, opened } = *pass;
        let l = process.length;
        let mut samples: Vec<usize> = opened.iter().map(|r| r / l).collect();
        samples.dedup();
        for i in &samples {
            self.nfe[*i] += 1;
            self.positions[*i] += l as u64;
            self.layer_positions[*i] += (l * model.layers().whole) as u64;
        }
        let (read, slot_of) = self.different(&samples, spec, l);
        let even = evened(model, process, now, grid);
        let t = times(spec, even.as_deref().unwrap_or(now), read.len());
        let at = |r: &usize| slot_of[r / l] * l + r % l;
        let mut rows: Vec<usize> = opened.iter().map(at).collect();
        rows.sort_unstable();
        rows.dedup();
        let input = self.input(&read, &t, process, grid);
        let features = model.features_at(&input, &rows);
        let row_of: Vec<usize> = opened.iter().map(|r| rows.partition_point(|row| *row < at(r))).collect();
        self.put(model, features, &row_of, opened, spec, l)
    }

    /// The network's input of the given samples, each position at its time t [n L].
    fn input(&self, samples: &[usize], t: &[f64], process: &Process, grid: &Grid) -> Noised {
        let l = process.length;
        let of = |all: &Vec<f64>| samples.iter().flat_map(|i| &all[i * l..(i + 1) * l]).copied().collect();
        let input = self.canvas.input(samples, t, l).in_blocks(process.order.layout());
        Noised { uniforms: self.uniforms.as_ref().map(of), ..input.in_phases(grid.phases().cloned()) }
    }

    /// The samples with different canvases among the given ones, and for every sample of the batch which of those is its.
    ///
    /// On a device canvases are not compared: only those that nothing was drawn on yet are known to be equal.
    fn different(&self, samples: &[usize], spec: &SampleSpec, l: usize) -> (Vec<usize>, Vec<usize>) {
        let mut slot_of = vec![usize::MAX; self.nfe.len()];
        let mut read: Vec<usize> = Vec::new();
        let mut slots: HashMap<&[u32], usize> = HashMap::new();
        let mut untouched: Option<usize> = None;
        let start = |p: usize| spec.pinned.get(p).is_none_or(Option::is_none);
        for i in samples {
            let next = read.len();
            slot_of[*i] = match &self.canvas {
                _ if self.uniforms.is_some() => next,
                Canvas::Host(x) => *slots.entry(&x[i * l..(i + 1) * l]).or_insert(next),
                Canvas::Device(_) if (0..l).all(|p| self.masked[i * l + p] == start(p)) => {
                    *untouched.get_or_insert(next)
                }
                Canvas::Device(_) => next,
            };
            if slot_of[*i] == next {
                read.push(*i);
            }
        }
        (read, slot_of)
    }

    /// One pass over the positions not yet in the cache, of which those before `kept` are text that stays in it.
    ///
    /// A sample that reveals nothing is passed over, unless the cache of all is to grow.
    fn step_cached(
        &mut self,
        model: &dyn Denoise,
        pass: &Pass,
        read: Range<usize>,
        kept: usize,
        cache: &mut Cache,
    ) -> Result<()> {
        let Pass { process, spec, grid, now, opened } = *pass;
        let (l, all) = (process.length, self.nfe.len());
        let mut samples: Vec<usize> = (0..all).collect();
        if model.over_blocks() && kept == cache.filled {
            samples = opened.iter().map(|r| r / l).collect();
            samples.dedup();
        }
        // A network that predicts the next token reads text: the times of teacher forcing, whatever is still to come.
        let t = if model.over_blocks() { times(spec, now, samples.len()) } else { vec![0.0; samples.len() * l] };
        let input = self.input(&samples, &t, process, grid);
        let text = kept - cache.filled;
        let features = if samples.len() == all {
            let features = model.features_cached(&input, read.clone(), cache);
            cache.filled = kept;
            features
        } else {
            model.features_cached(&input, read.clone(), &mut cache.select(&samples, &model.device().inner()))
        };
        let layers = model.layers();
        let mut slot_of = vec![usize::MAX; all];
        for (slot, i) in samples.iter().enumerate() {
            slot_of[*i] = slot;
            self.nfe[*i] += 1;
            self.positions[*i] += read.len() as u64;
            self.layer_positions[*i] += (text * layers.text + (read.len() - text) * layers.noise) as u64;
        }
        let rank = |p: usize| grid.phases().map_or(p, |phases| phases.rank(p));
        let rows: Vec<usize> = opened.iter().map(|r| slot_of[r / l] * read.len() + rank(r % l) - read.start).collect();
        let row_of: Vec<usize> = (0..rows.len()).collect();
        self.put(model, select_rows(features, &rows), &row_of, opened, spec, l)
    }

    /// Draws the token of each opened position from its row of the features [n, D], each with its sample's generator.
    fn put(
        &mut self,
        model: &dyn Denoise,
        features: Tensor<2>,
        row_of: &[usize],
        opened: &[usize],
        spec: &SampleSpec,
        l: usize,
    ) -> Result<()> {
        let mut picks: Vec<(usize, f64, usize)> =
            opened.iter().zip(row_of).map(|(at, row)| (*row, self.token[at / l].random(), *at)).collect();
        picks.sort_by_key(|p| p.0); // stable, and the uniforms are drawn already
        let pairs: Vec<(usize, f64)> = picks.iter().map(|p| (p.0, p.1)).collect();
        let at: Vec<usize> = picks.iter().map(|p| p.2).collect();
        at.iter().for_each(|p| self.masked[*p] = false);
        self.finite.extend(self.canvas.reveal(model, features, &pairs, &at, spec.filter)?);
        Ok(())
    }
}

/// What a pass of the sampler computes.
pub fn reading(model: &dyn Denoise, process: &Process) -> Reading {
    match (process.cached, model.over_blocks()) {
        (false, _) => Reading::Whole,
        (true, false) => Reading::Shifted,
        (true, true) => Reading::Blocks,
    }
}

/// The row of times `[L]` that a network which sees everything is told in an order with fixed phases: it was trained with one time
/// for all positions, which is here the one at which as many are masked. None where the row is told as it is.
pub fn evened(model: &dyn Denoise, process: &Process, now: &[f64], grid: &Grid) -> Option<Vec<f64>> {
    grid.phases().filter(|_| !model.over_blocks())?;
    let masked = now.iter().filter(|t| **t > 0.0).count() as f64 / now.len() as f64;
    Some(vec![process.schedule.time(1.0 - masked); now.len()])
}

/// The times [n L] of a row of the table for `n` samples: what is given has none.
fn times(spec: &SampleSpec, now: &[f64], n: usize) -> Vec<f64> {
    let given = |p: usize| spec.pinned.get(p).is_some_and(Option::is_some);
    let row: Vec<f64> = now.iter().enumerate().map(|(p, t)| if given(p) { 0.0 } else { *t }).collect();
    std::iter::repeat_n(row, n).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Transformer, TransformerConfig};

    fn network(causal: bool) -> Transformer {
        let text = match causal {
            true => "dim = 16\nlayers = 2\nheads = 2\nvisibility = \"causal\"\nshift = true",
            false => "dim = 16\nlayers = 2\nheads = 2\nvisibility = \"full\"",
        };
        let config: TransformerConfig = toml::from_str(text).unwrap();
        Transformer::init(&config, 11, 12, 3, &Device::flex())
    }

    fn process(causal: bool) -> Process {
        Process {
            order: if causal { Order::left_to_right() } else { Order::parallel(12) },
            schedule: Schedule::LogLinear,
            corruption: Corruption::Absorb,
            length: 12,
            cached: causal,
            chain: None,
            decode: Decode::Table,
        }
    }

    fn pinned() -> Vec<Option<u32>> {
        (0..12).map(|p| (p < 2).then_some(4)).collect()
    }

    #[test]
    fn a_canvas_on_the_device_gives_the_greedy_text_of_the_one_on_the_host_at_the_same_cost() {
        for (causal, steps) in [(false, 4), (false, 12), (true, 12)] {
            let (model, process) = (network(causal), process(causal));
            let filter = Filter { temperature: 0.0, ..Filter::default() };
            let spec = SampleSpec { filter, trace: true, pinned: pinned(), ..SampleSpec::new(steps, 7, 3) };
            let host = sample_at(&model, &process, &spec, 5, false).unwrap();
            let device = sample_at(&model, &process, &spec, 5, true).unwrap();
            assert_eq!((&host.tokens, &host.trace), (&device.tokens, &device.trace), "causal: {causal}, {steps} steps");
            assert_eq!((host.nfe, host.positions), (device.nfe, device.positions));
            assert!(host.tokens.iter().all(|row| row[..2] == [4, 4] && row.iter().all(|t| *t < 11)));
        }
    }

    #[test]
    fn blocks_behind_a_cache_are_drawn_on_the_device_as_on_the_host() {
        use crate::model::config::Visibility;
        let strided = |k: usize| Order::in_phases(crate::process::Pattern::Strided(k), 12);
        for (encoder_layers, uniforms, order, steps) in [
            (0, false, Order::in_blocks(4), 12),
            (1, false, Order::in_blocks(4), 12),
            (0, false, Order::in_blocks(1), 12),
            (0, false, strided(4), 4),
            (0, true, strided(3), 3),
        ] {
            let config =
                TransformerConfig { encoder_layers, uniforms, ..TransformerConfig::new(16, 2, 2, Visibility::Order) };
            let model = Transformer::init(&config, 11, 12, 3, &Device::flex());
            let mut named = crate::model::params::export(&model);
            let told = named.get_mut("uniforms.weight").into_iter().flat_map(|w| w.data.iter_mut().enumerate());
            told.for_each(|(i, w)| *w = (i % 7) as f32 / 10.0 - 0.3);
            let model = crate::model::params::import(model, &named, &Device::flex());
            let filter = Filter { temperature: 0.0, ..Filter::default() };
            let spec = SampleSpec { filter, trace: true, pinned: pinned(), ..SampleSpec::new(steps, 7, 3) };
            for cached in [false, true] {
                let process = Process { order, cached, ..process(false) };
                let host = sample_at(&model, &process, &spec, 5, false).unwrap();
                let device = sample_at(&model, &process, &spec, 5, true).unwrap();
                assert_eq!((&host.tokens, &host.trace), (&device.tokens, &device.trace), "{order:?}, {cached}");
                assert_eq!((host.nfe, host.layer_positions), (device.nfe, device.layer_positions));
            }
        }
    }

    #[test]
    fn the_oracle_samples_from_a_canvas_on_the_device() {
        use crate::data::story::{Story, StoryConfig};
        let story = Story::new(&StoryConfig { names: 2, things: 2, places: 1, count: 3, noise: 1e-4 }).unwrap();
        let oracle = crate::model::Oracle::new(story.chain().clone(), Device::flex());
        let length = story.length();
        let process = Process { order: Order::parallel(length), length, ..process(false) };
        let filter = Filter { temperature: 0.0, ..Filter::default() };
        let spec = SampleSpec { filter, ..SampleSpec::new(4, 7, 2) };
        let host = sample_at(&oracle, &process, &spec, 3, false).unwrap();
        assert_eq!(host.tokens, sample_at(&oracle, &process, &spec, 3, true).unwrap().tokens);
    }

    #[test]
    fn a_shifted_network_of_length_one_reads_a_canvas_on_the_device() {
        let config = network(true).config().clone();
        let model = Transformer::init(&config, 11, 1, 3, &Device::flex());
        let process = Process { order: Order::left_to_right(), length: 1, ..process(true) };
        let drawn = sample_at(&model, &process, &SampleSpec::new(1, 7, 2), 2, true).unwrap();
        assert!(drawn.tokens.iter().all(|row| row.len() == 1 && row[0] < 11));
    }

    #[test]
    fn a_canvas_on_the_device_reveals_the_same_positions_in_the_same_steps() {
        let (model, process) = (network(false), process(false));
        let spec = SampleSpec { trace: true, ..SampleSpec::new(6, 7, 4) };
        let noise = |samples: Samples| -> Vec<Vec<Vec<bool>>> {
            let canvas = |row: &Vec<u32>| row.iter().map(|t| *t == 11).collect();
            samples.trace.iter().map(|steps| steps.iter().map(canvas).collect()).collect()
        };
        let host = noise(sample_at(&model, &process, &spec, 6, false).unwrap());
        assert_eq!(host, noise(sample_at(&model, &process, &spec, 6, true).unwrap()));
    }

    #[test]
    fn predictions_that_are_not_finite_are_an_error_on_the_device_too() {
        let mut model = network(false);
        let mut named = crate::model::params::export(&model);
        named.get_mut("head.weight").unwrap().data[3] = f32::NAN;
        model = crate::model::params::import(model, &named, &Device::flex());
        let error = sample_at(&model, &process(false), &SampleSpec::new(4, 1, 2), 2, true).unwrap_err();
        assert_eq!(error.kind.exit_code(), 5);
    }
}
