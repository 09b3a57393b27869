//! The sampler's own likelihood: what held-out text costs under the K-step sampler itself.
//!
//! A step reveals some positions, each drawn from its prediction given what was there before, so that under a partition S_0, ..,
//! S_(K-1) of the positions log p(x) = sum_k sum_(l in S_k) log p(x_l | x_j, j in S_0 .. S_(k-1)). Where the partition is fixed
//! (phases, autoregression, blocks of one token) that is the likelihood of the text, exactly. Where it is drawn, the mean over
//! partitions is a lower bound of it (Jensen), and the spread over partitions is shown beside it. No judge is needed, and a text
//! of low entropy does not make it better. Where texts end before their window does, or stand behind a condition, only what is
//! text counts, as for the judge. L length, K steps, n texts.

use std::ops::Range;

use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stats::Bound;
use super::stats::{Estimate, mean, mean_interval};
use crate::error::Result;
use crate::fs::sha256_hex;
use crate::method::{self, RowLoss, Target};
use crate::model::{Denoise, Noised};
use crate::process::Grid;
use crate::rng::{StepRng, Stream};
use crate::sample::{Decode, Process, evened};

/// How the sampler's likelihood is measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SamplerConfig {
    /// Held-out texts, at most; 0 measures none.
    #[serde(default = "default_texts")]
    pub texts: usize,
    /// Partitions of each text, where an order draws them.
    #[serde(default = "default_partitions")]
    pub partitions: usize,
}

fn default_texts() -> usize {
    64
}
fn default_partitions() -> usize {
    2
}

impl Default for SamplerConfig {
    fn default() -> Self {
        SamplerConfig { texts: default_texts(), partitions: default_partitions() }
    }
}

impl SamplerConfig {
    /// Checks ranges.
    ///
    /// # Errors
    /// A setting out of range (usage).
    pub fn validate(&self) -> Result<()> {
        crate::error::whole_within("eval.sampler.texts", self.texts, 0..=1 << 20)?;
        crate::error::whole_within("eval.sampler.partitions", self.partitions, 2..=1024)
    }
}

/// The sampler's negative log-likelihood of held-out text, nats per token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplerNll {
    pub estimate: Estimate,
    /// Exact, or the bound that is the mean over partitions.
    pub kind: Bound,
    /// Held-out texts.
    pub n: usize,
    /// Each text's `[n]`, the same texts for every model.
    pub texts: Vec<f64>,
    /// SHA-256 of the texts' tokens: what is compared in pairs is of the same ones.
    pub texts_sha256: String,
    /// Standard deviation over the partitions of a text, the mean over texts; where the partition is drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<f64>,
}

/// Held-out texts, and what of each counts.
#[derive(Clone, Copy)]
pub struct Texts<'a> {
    pub tokens: &'a [Vec<u32>],
    /// The positions of a text that are text.
    pub counted: &'a dyn Fn(&[u32]) -> Range<usize>,
    /// Sequences read at once.
    pub batch: usize,
}

/// All positions of a text.
pub fn whole(text: &[u32]) -> Range<usize> {
    0..text.len()
}

/// The sampler's negative log-likelihood of `texts` in `steps` steps; none where it has none: by thresholds, with uniform noise, over
/// chains, for a network that does not know what is finished.
///
/// # Errors
/// Too few steps for the order (usage).
pub fn nll(
    model: &dyn Denoise,
    process: &Process,
    steps: usize,
    texts: Texts,
    partitions: usize,
) -> Result<Option<SamplerNll>> {
    let table = matches!(process.decode, Decode::Table) && process.corruption.absorbs();
    let causal = process.cached && !model.over_blocks();
    // Of texts that follow uniforms there is no sum over those.
    if !table
        || model.reads_uniforms()
        || texts.tokens.is_empty()
        || process.chain.is_some()
        || (causal && process.order.blocks(process.length) < process.length)
    {
        return Ok(None);
    }
    let grid = process.order.grid(process.length, steps)?;
    let one_each = grid.phases().is_some_and(|phases| phases.count() == steps);
    let fixed = one_each || (grid.phases().is_none() && process.order.fixed(process.length));
    let values = match fixed {
        true => vec![exact(model, process, &grid, texts)],
        false => (0..partitions.max(1)).map(|r| drawn(model, process, &grid, texts, r)).collect(),
    };
    let n = texts.tokens.len();
    let of = |i: usize| values.iter().map(|v| v[i]).collect::<Vec<f64>>();
    let texts_nll: Vec<f64> = (0..n).map(|i| mean(&of(i))).collect();
    let deviation = |v: &[f64]| {
        let m = mean(v);
        (v.iter().map(|x| (x - m).powi(2)).sum::<f64>() / (v.len() - 1) as f64).sqrt()
    };
    let spread = (!fixed && values.len() > 1).then(|| mean(&(0..n).map(|i| deviation(&of(i))).collect::<Vec<f64>>()));
    Ok(Some(SamplerNll {
        estimate: mean_interval(&texts_nll, 0),
        kind: if fixed { Bound::Exact } else { Bound::Elbo },
        n,
        texts: texts_nll,
        texts_sha256: sha256_hex(&texts.tokens.iter().flatten().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>()),
        spread,
    }))
}

/// The likelihood of each text where every position has a step of its own: in one pass where finished text is read beside the
/// noise, else step by step.
fn exact(model: &dyn Denoise, process: &Process, grid: &Grid, texts: Texts) -> Vec<f64> {
    let length = process.length;
    let counted = |text: &[u32], losses: &[f64]| mean(&losses[(texts.counted)(text)]);
    if process.cached && !model.over_blocks() {
        let losses = super::ar_losses(model, texts.tokens);
        return texts.tokens.iter().zip(losses).map(|(text, losses)| counted(text, &losses)).collect();
    }
    if !model.over_blocks() {
        let layout = process.order.layout();
        let step = |l: usize| grid.phases().map_or_else(|| layout.index(l), |phases| phases.phase(l).unwrap_or(0));
        let steps: Vec<usize> = (0..length).map(step).collect();
        return texts.tokens.iter().map(|text| partitioned(model, process, grid, text, &steps, texts)).collect();
    }
    let order = process.order.in_steps(length, grid.steps());
    let mut out = Vec::with_capacity(texts.tokens.len());
    // Both streams are read.
    for group in texts.tokens.chunks(texts.batch.div_ceil(2).max(1)) {
        // Nothing of it is drawn.
        let draws = || StepRng::new(0).at(0, Stream::Validation);
        let gens = (draws(), draws());
        let rows = method::elbo(&group.concat(), length, model.mask(), order, process.schedule, gens);
        let (_, losses) = method::evaluate(model, &rows);
        out.extend(group.iter().zip(losses.chunks(length)).map(|(text, losses)| counted(text, losses)));
    }
    out
}

/// The likelihood of each text under a partition that is drawn as the sampler draws it, number `r` of the text's.
fn drawn(model: &dyn Denoise, process: &Process, grid: &Grid, texts: Texts, r: usize) -> Vec<f64> {
    let rng = StepRng::new(r as u64);
    let each = texts.tokens.iter().enumerate();
    each.map(|(i, text)| {
        let mut draws = rng.at(i as u64, Stream::Reveal);
        let mut step_of = vec![usize::MAX; text.len()];
        let mut now = grid.row(0);
        for k in 0..grid.steps() {
            let next = grid.row(k + 1);
            for l in (0..text.len()).filter(|l| now[*l] != next[*l]) {
                if step_of[l] == usize::MAX {
                    let chance = process.corruption.reveal_probability(process.schedule, now[l], next[l]);
                    if chance >= 1.0 || draws.random::<f64>() < chance {
                        step_of[l] = k;
                    }
                }
            }
            now = next;
        }
        partitioned(model, process, grid, text, &step_of, texts)
    })
    .collect()
}

/// NLL per token of a text whose position l is revealed in step `step_of[l]`.
fn partitioned(
    model: &dyn Denoise,
    process: &Process,
    grid: &Grid,
    text: &[u32],
    step_of: &[usize],
    texts: Texts,
) -> f64 {
    let (length, counted) = (text.len(), (texts.counted)(text));
    let mut steps: Vec<usize> = counted.clone().map(|l| step_of[l]).collect();
    steps.sort_unstable();
    steps.dedup();
    let mut sum = 0.0;
    for group in steps.chunks(texts.batch.max(1)) {
        let xt: Vec<u32> = group
            .iter()
            .flat_map(|k| (0..length).map(|l| if step_of[l] < *k { text[l] } else { model.mask() }))
            .collect();
        let row = |k: &usize| {
            let now = grid.row(*k);
            evened(model, process, &now, grid).unwrap_or(now)
        };
        let t: Vec<f64> = group.iter().flat_map(row).collect();
        let due = |at: &usize| step_of[at % length] == group[at / length] && counted.contains(&(at % length));
        let rows: Vec<usize> = (0..xt.len()).filter(due).collect();
        let loss = RowLoss {
            input: Noised::tokens(&xt, &t, length).in_blocks(process.order.layout()).in_phases(grid.phases().cloned()),
            weights: vec![1.0; rows.len()],
            target: Target::Tokens(rows.iter().map(|at| text[at % length]).collect()),
            rows,
            alpha: None,
        };
        sum += method::evaluate(model, &loss).0;
    }
    sum / counted.len().max(1) as f64
}
