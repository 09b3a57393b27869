//! The tasks of [`super`] for one text: filling, looking for unlikely words, planting wrong ones, and what the result scores.
//!
//! L length, V vocabulary.

use std::ops::Range;

use indexmap::IndexMap;
use rand::{Rng, RngCore};

use super::super::stats::{mean, mean_interval};
use super::{Sees, Task, sees};
use crate::data::chain::Chain;
use crate::data::story::Story;
use crate::error::Result;
use crate::model::{Denoise, Noised, State, draw, params};
use crate::process::{Context, Order};
use crate::rng::{StepRng, Stream};
use crate::sample::{Process, SampleSpec, sample};

/// Passes that look for unlikely words, at most: above that many positions, some that lie far apart are masked together.
const LOOKS: usize = 64;

/// The text [L] with the words of `gap` drawn by the model, and its passes.
pub(super) fn fill_gap(
    model: &dyn Denoise,
    process: &Process,
    text: &[u32],
    gap: &Range<usize>,
    steps: usize,
    seed: u64,
) -> Result<(Vec<u32>, usize)> {
    let given = |end: usize| (0..end).map(|l| (!gap.contains(&l)).then(|| text[l])).collect();
    match sees(model, process) {
        // It continues what is left of the gap, and the rest of the text is put behind.
        Sees::Left => {
            let (mut filled, nfe) =
                fill(model, &Process { length: gap.end, ..process.clone() }, given(gap.end), steps, seed)?;
            filled.extend(&text[gap.end..]);
            Ok((filled, nfe))
        }
        _ => fill(model, process, given(text.len()), steps, seed),
    }
}

/// The text [L] that the model makes of what is given, and its passes.
pub(super) fn fill(
    model: &dyn Denoise,
    process: &Process,
    given: Vec<Option<u32>>,
    steps: usize,
    seed: u64,
) -> Result<(Vec<u32>, usize)> {
    let steps = all_steps(&process.order, process.length, steps);
    let mut drawn = sample(model, process, &SampleSpec { pinned: given, ..SampleSpec::new(steps, seed, 1) }, 1)?;
    Ok((drawn.tokens.swap_remove(0), drawn.nfe[0]))
}

/// Steps of the whole generation where each block has `steps` of its own: in a window of blocks that are under way together
/// they are shared, and a block of one position needs one.
pub(super) fn all_steps(order: &Order, length: usize, steps: usize) -> usize {
    let blocks = order.blocks(length);
    match order.pattern {
        // A phase is one step.
        Some(pattern) if pattern.follows_steps() => return (blocks * steps).min(length),
        Some(_) => return blocks,
        None => {}
    }
    let each = if order.block == 1 && order.window == 1 { 1 } else { steps };
    let singles =
        order.layout().ranges(length).iter().filter(|r| r.start % (order.text + order.block) < order.text).count();
    match order.window {
        1 => singles + (blocks - singles) * each,
        w => (each * (blocks - 1 + w)).div_ceil(w),
    }
}

/// ln p(x_l | x without l) [L] under the model, nats, and the passes that took; of more than [`LOOKS`] positions those that
/// are masked together do not see each other.
pub(super) fn leave_one_out(model: &dyn Denoise, process: &Process, text: &[u32], batch: usize) -> (usize, Vec<f64>) {
    let (l, v, looks) = (text.len(), model.vocab(), text.len().min(LOOKS));
    let mut likely = vec![0.0; l];
    // In phases what is given stands in front of what is masked, which differs from look to look.
    let phased = model.over_blocks() && process.order.pattern.is_some();
    let batch = if phased { 1 } else { batch };
    for from in (0..looks).step_by(batch.max(1)) {
        let own = from..looks.min(from + batch.max(1));
        let (mut x, mut t, mut rows) = (text.repeat(own.len()), vec![0.0; own.len() * l], Vec::new());
        for (b, first) in own.clone().enumerate() {
            for p in (first..l).step_by(looks) {
                rows.push(b * l + p);
                // The share of a text that is masked is its time in a linear schedule.
                (x[b * l + p], t[b * l + p]) = (model.mask(), if phased { 1.0 } else { 1.0 / looks as f64 });
            }
        }
        // A network over blocks reads finished text before each of them, as it does when it samples.
        let beside = !phased && model.over_blocks() && process.order.context == Context::Clean;
        let clean = beside.then(|| State::Tokens(text.repeat(own.len())));
        let given: Vec<bool> = x.iter().map(|id| *id != model.mask()).collect();
        let phases = phased.then(|| process.order.in_steps(l, 1).phases(l, &given)).flatten();
        let input = Noised { clean, ..Noised::tokens(&x, &t, l).in_blocks(process.order.layout()).in_phases(phases) };
        let found = params::floats(model.predict(model.features_at(&input, &rows)));
        for (row, at) in found.chunks(found.len() / rows.len()).zip(&rows) {
            assert!(row.len() >= v, "a score for each word");
            likely[at % l] = f64::from(row[text[at % l] as usize]);
        }
    }
    (looks, likely)
}

/// The `n` positions with the least values, of equals those on the left.
pub(super) fn least(values: &[f64], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    order.truncate(n);
    order
}

/// What is drawn for a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draws {
    pub seed: u64,
    /// The number of the text.
    pub text: u64,
}

/// What of a text's draws something is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    Infill = 0,
    Rest = 1,
    Repair = 2,
    Oracle = 3,
}

/// A text with wrong words at some places.
pub(super) struct Damage {
    pub text: Vec<u32>,
    pub at: Vec<usize>,
}

impl Draws {
    pub(super) fn rng(self, part: Part, stream: Stream) -> impl Rng {
        StepRng::new(self.seed).at(4 * self.text + part as u64, stream)
    }

    /// The seed of a sampler.
    pub(super) fn seed(self, part: Part) -> u64 {
        self.rng(part, Stream::Token).next_u64()
    }

    /// Where `gap` words of `length` are missing.
    pub(super) fn gap(self, length: usize, gap: usize) -> Range<usize> {
        let start = self.rng(Part::Infill, Stream::Corrupt).random_range(0..=length - gap);
        start..start + gap
    }

    /// The text with `errors` words of its left half changed into others of the vocabulary.
    pub(super) fn damage(self, text: &[u32], errors: usize, vocab: u32) -> Damage {
        let mut rng = self.rng(Part::Rest, Stream::Corrupt);
        let mut at = rand::seq::index::sample(&mut rng, text.len() / 2, errors).into_vec();
        at.sort_unstable();
        let mut damaged = text.to_vec();
        for p in &at {
            let other = rng.random_range(0..vocab - 1);
            damaged[*p] = if other < text[*p] { other } else { other + 1 };
        }
        Damage { text: damaged, at }
    }
}

/// Entropy of the words that are hidden, given those that are visible, nats: over one exact draw from left to right the sum
/// of each word's own entropy, which has the right mean and less variance than -ln p of the draw.
pub(super) fn posterior_entropy(chain: &Chain, visible: &[Option<u32>], rng: &mut impl Rng) -> f64 {
    let v = chain.vocab();
    let mut seen = visible.to_vec();
    let mut entropy = 0.0;
    for l in (0..visible.len()).filter(|l| visible[*l].is_none()) {
        let all = chain.posterior(&seen);
        let row = &all[l * v..(l + 1) * v];
        entropy -= row.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>();
        seen[l] = Some(draw::inverse_cdf(row, rng.random()));
    }
    entropy
}

/// The scores of each text so far.
#[derive(Default)]
pub(super) struct Scores {
    /// Network passes.
    pub passes: Vec<f64>,
    samples: IndexMap<String, Vec<f64>>,
}

impl Scores {
    fn put(&mut self, key: &str, value: f64) {
        self.samples.entry(key.into()).or_default().push(value);
    }

    pub(super) fn gap(
        &mut self,
        text: &[u32],
        filled: &[u32],
        gap: &Range<usize>,
        story: Option<&Story>,
        draws: Draws,
    ) {
        let n = gap.len() as f64;
        if let Some(story) = story {
            let (chain, v) = (story.chain(), story.vocab());
            let rest: Vec<Option<u32>> = (0..text.len()).map(|l| (!gap.contains(&l)).then(|| text[l])).collect();
            let entropy = posterior_entropy(chain, &rest, &mut draws.rng(Part::Oracle, Stream::Token));
            let posterior = chain.posterior(&rest);
            let met: f64 = gap.clone().map(|l| posterior[l * v + text[l] as usize]).sum();
            self.put("nll", (chain.log_marginal(&rest) - chain.log_likelihood(filled)) / n);
            self.put("posterior_entropy", entropy / n);
            self.put("valid", f64::from(u8::from(story.is_valid(filled))));
            self.put("oracle_accuracy", met / n);
        }
        self.put("accuracy", share(gap.clone(), |l| filled[l] == text[l]));
    }

    pub(super) fn repair(&mut self, text: &[u32], now: &[u32], damage: &Damage, story: Option<&Story>) {
        if let Some(story) = story {
            self.put("nll", -story.chain().log_likelihood(now) / text.len() as f64);
            self.put("valid", f64::from(u8::from(story.is_valid(now))));
        }
        let planted = || damage.at.iter().copied();
        self.put("gone", share(planted(), |l| now[l] != damage.text[l]));
        self.put("restored", share(planted(), |l| now[l] == text[l]));
        let others: Vec<usize> = (0..text.len() / 2).filter(|l| !damage.at.contains(l)).collect();
        self.put("kept", if others.is_empty() { 1.0 } else { share(others.into_iter(), |l| now[l] == text[l]) });
    }

    pub(super) fn task(self) -> Task {
        let scores = self.samples.iter().map(|(key, values)| (key.clone(), mean_interval(values, 0))).collect();
        Task { n: self.passes.len(), nfe: mean(&self.passes), scores, samples: self.samples }
    }
}

/// The share of positions that are so.
fn share(positions: impl ExactSizeIterator<Item = usize>, is: impl Fn(usize) -> bool) -> f64 {
    let n = positions.len();
    positions.filter(|l| is(*l)).count() as f64 / n as f64
}
