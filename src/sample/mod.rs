//! Sampling: one loop over the order's table of times, for every order.
//!
//! Step k takes each position from t(k, l) to t(k + 1, l). With absorbing noise a masked position is revealed with
//! probability (alpha_s - alpha_t)/(1 - alpha_t), decided by its own uniform, and its token is then drawn from the
//! prediction alone (model/draw.rs). Autoregression is the case of one position a step, read through the cache.
//! Prompts and infills are positions pinned at t = 0. Each sample has its own generators, so a sample is a function of
//! (seed, its number), and not of the batch it was drawn in beyond rounding. B batch, L length, K steps.

pub mod beam;
pub mod family;

use std::collections::HashMap;
use std::time::Instant;

use burn::prelude::*;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};
use crate::model::draw::{self, Filter};
use crate::model::{Cache, Denoise, Noised, select_rows};
use crate::process::order::changed;
use crate::process::{Corruption, Order, Schedule};
use crate::rng::{StepRng, Stream};

/// The process a model was trained for, as its sampler needs it.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    pub order: Order,
    pub schedule: Schedule,
    pub corruption: Corruption,
    pub length: usize,
    /// The network is causal and may keep what it has read.
    pub cached: bool,
}

/// What to draw.
#[derive(Debug, Clone)]
pub struct SampleSpec {
    /// Denoising steps K.
    pub steps: usize,
    pub filter: Filter,
    pub seed: u64,
    /// Samples drawn together.
    pub batch: usize,
    /// Positions given from the start [L], or empty.
    pub pinned: Vec<Option<u32>>,
    /// Keep the canvas of every step.
    pub trace: bool,
}

impl SampleSpec {
    /// Plain sampling in `steps` steps from `seed`.
    pub fn new(steps: usize, seed: u64, batch: usize) -> Self {
        SampleSpec { steps, filter: Filter::default(), seed, batch, pinned: Vec::new(), trace: false }
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
    pub seconds: f64,
}

/// Draws `n` samples.
///
/// Errors when the order cannot be walked in so few steps, or when a cached order is given pinned positions that are not
/// a prefix (it would draw text that ignores them).
pub fn sample(model: &dyn Denoise, process: &Process, spec: &SampleSpec, n: usize) -> Result<Samples> {
    let l = process.length;
    if !spec.pinned.is_empty() && spec.pinned.len() != l {
        return Err(Error::usage(format!("{} pinned positions for a length of {l}", spec.pinned.len())));
    }
    let prefix = spec.pinned.iter().take_while(|p| p.is_some()).count();
    if process.cached && spec.pinned.iter().skip(prefix).any(Option::is_some) {
        return Err(Error::usage("an autoregressive model can continue a prompt but not fill a gap")
            .hint("use a diffusion model of the recipe, or pin a prefix only"));
    }
    let start = Instant::now();
    let mut out = Samples::default();
    for from in (0..n).step_by(spec.batch.max(1)) {
        let size = spec.batch.max(1).min(n - from);
        let mut batch = Batch::new(process, spec, model.mask(), from, size);
        batch.run(model, process, spec)?;
        out.tokens.extend(batch.x.chunks(l).map(<[u32]>::to_vec));
        out.trace.extend(batch.trace);
        out.nfe.extend(batch.nfe);
        out.positions.extend(batch.positions);
    }
    out.seconds = start.elapsed().as_secs_f64();
    Ok(out)
}

/// Samples `from .. from + size` on their way from noise to text.
struct Batch {
    x: Vec<u32>,
    reveal: Vec<ChaCha8Rng>,
    token: Vec<ChaCha8Rng>,
    nfe: Vec<usize>,
    positions: Vec<u64>,
    trace: Vec<Vec<Vec<u32>>>,
    mask: u32,
}

impl Batch {
    fn new(process: &Process, spec: &SampleSpec, mask: u32, from: usize, size: usize) -> Self {
        let rng = StepRng::new(spec.seed);
        let row: Vec<u32> = match spec.pinned.is_empty() {
            true => vec![mask; process.length],
            false => spec.pinned.iter().map(|p| p.unwrap_or(mask)).collect(),
        };
        let x: Vec<u32> = std::iter::repeat_n(row, size).flatten().collect();
        let generators = |s: Stream| (from..from + size).map(|i| rng.at(i as u64, s)).collect();
        Batch {
            trace: if spec.trace { x.chunks(process.length).map(|r| vec![r.to_vec()]).collect() } else { Vec::new() },
            x,
            reveal: generators(Stream::Reveal),
            token: generators(Stream::Token),
            nfe: vec![0; size],
            positions: vec![0; size],
            mask,
        }
    }

    fn run(&mut self, model: &dyn Denoise, process: &Process, spec: &SampleSpec) -> Result<()> {
        let l = process.length;
        let grid = process.order.grid(l, spec.steps)?;
        let mut cache = Cache::default();
        let mut now = grid.row(0);
        for k in 0..grid.steps() {
            let next = grid.row(k + 1);
            let active = changed(&now, &next);
            let mut opened: Vec<usize> = Vec::new();
            for i in 0..self.reveal.len() {
                for p in active.clone() {
                    if self.x[i * l + p] != self.mask {
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
                match process.cached {
                    true => self.step_cached(model, process, spec, &opened, &mut cache)?,
                    false => self.step_full(model, process, spec, &now, &opened)?,
                }
            }
            for (trace, row) in self.trace.iter_mut().zip(self.x.chunks(l)) {
                trace.push(row.to_vec());
            }
            now = next;
        }
        Ok(())
    }

    /// One pass over the whole length, for the samples that reveal something in this step.
    ///
    /// Samples with the same canvas (all of them in the first step) have the same features, which are computed once; and
    /// only the rows that are revealed are computed to the end.
    fn step_full(
        &mut self,
        model: &dyn Denoise,
        process: &Process,
        spec: &SampleSpec,
        now: &[f64],
        opened: &[usize],
    ) -> Result<()> {
        let l = process.length;
        let mut samples: Vec<usize> = opened.iter().map(|r| r / l).collect();
        samples.dedup();
        for i in &samples {
            self.nfe[*i] += 1;
            self.positions[*i] += l as u64;
        }
        // One slot for each different canvas.
        let mut slots: HashMap<&[u32], usize> = HashMap::new();
        let mut x: Vec<u32> = Vec::new();
        let mut slot_of = vec![usize::MAX; self.nfe.len()];
        for i in samples {
            let canvas = &self.x[i * l..(i + 1) * l];
            let next = slots.len();
            slot_of[i] = *slots.entry(canvas).or_insert(next);
            if slot_of[i] == next {
                x.extend_from_slice(canvas);
            }
        }
        let t: Vec<f64> = (0..x.len())
            .map(|p| if spec.pinned.get(p % l).is_some_and(Option::is_some) { 0.0 } else { now[p % l] })
            .collect();
        let at = |r: &usize| slot_of[r / l] * l + r % l;
        let mut rows: Vec<usize> = opened.iter().map(at).collect();
        rows.sort_unstable();
        rows.dedup();
        let features = model.features_at(&Noised::tokens(&x, &t, l), &rows);
        let row_of: Vec<usize> = opened.iter().map(|r| rows.partition_point(|row| *row < at(r))).collect();
        self.put(model, features, &row_of, opened, spec, l)
    }

    /// One pass over the positions not yet in the cache, up to the last one to be revealed.
    fn step_cached(
        &mut self,
        model: &dyn Denoise,
        process: &Process,
        spec: &SampleSpec,
        opened: &[usize],
        cache: &mut Cache,
    ) -> Result<()> {
        let l = process.length;
        let end = opened.iter().map(|r| r % l + 1).max().unwrap_or(0);
        let active = cache.filled..end;
        // What is read is text already: the times of teacher forcing, whatever is still to come.
        let t = vec![0.0; self.x.len()];
        let input = Noised::tokens(&self.x, &t, l);
        let features = model.features_cached(&input, active.clone(), cache);
        for i in 0..self.nfe.len() {
            self.nfe[i] += 1;
            self.positions[i] += active.len() as u64;
        }
        let rows: Vec<usize> = opened.iter().map(|r| (r / l) * active.len() + r % l - active.start).collect();
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
        for (token, pick) in draw::picks(model, features, &pairs, spec.filter)?.into_iter().zip(&picks) {
            self.x[pick.2] = token;
        }
        Ok(())
    }
}
