//! Estimates of the memory that a network needs, from its shape alone.
//!
//! B batch, L length, D width, F hidden width, W packed width, V vocabulary; f32, but for the weights and blocks of training
//! adapters.

pub use crate::room::shown;

use crate::kernels::chunk_rows;
use crate::model::TransformerConfig;
use crate::model::config::{Compute, TimeInput};

const F32: u128 = 4;

/// Bytes to hold the weights and read a batch: two streams of one block's activations, attention's scores, one chunk of
/// logits.
pub fn sampling(config: &TransformerConfig, vocab: usize, length: usize, batch: usize) -> u128 {
    let chunk = chunk_rows(vocab).min(batch.saturating_mul(length)) as u128 * vocab as u128;
    F32 * (config.parameters(vocab, length) + 2 * block(config, length, batch) + chunk)
}

/// Bytes to train it whole: weights, gradients, two moments and an average, a frozen teacher of the same shape, every
/// block's activations, and chunks of logits with their gradients for both.
pub fn training(config: &TransformerConfig, vocab: usize, length: usize, batch: usize) -> u128 {
    let trained = config.parameters(vocab, length);
    let step = Step { config, vocab, length, fused: false, trained, copies: 6, frozen: 0 };
    step.bytes(batch, config.checkpoint).total()
}

/// A training, as far as its memory goes.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    pub config: &'a TransformerConfig,
    pub vocab: usize,
    /// Positions that the network reads of one sequence.
    pub length: usize,
    /// The fused kernels run its blocks, which keep less for the way back.
    pub fused: bool,
    /// Numbers that are trained, and how often they are there: themselves, gradients, moments, averages, teachers.
    pub trained: u128,
    pub copies: u128,
    /// Bytes of weights that are not trained.
    pub frozen: u128,
}

/// Bytes of one step of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepBytes {
    /// Weights with all that belongs to them, whatever the batch is.
    pub states: u128,
    /// What blocks keep for the way back, and one of them at work.
    pub activations: u128,
    /// A chunk of logits with gradients.
    pub logits: u128,
}

impl StepBytes {
    /// All of it.
    pub fn total(&self) -> u128 {
        self.states.saturating_add(self.activations).saturating_add(self.logits)
    }
}

impl Step<'_> {
    /// What a step of `batch` sequences takes.
    pub fn bytes(&self, batch: usize, checkpoint: bool) -> StepBytes {
        let config = self.config;
        let rows = (batch as u128).saturating_mul(self.length as u128);
        let (d, layers) = (config.dim as u128, config.layers as u128);
        let (kept, work) = match self.fused {
            true => (rows.saturating_mul(tape(config)), rows.saturating_mul(working(config))),
            false => {
                let one = block(config, self.length, batch);
                (one, one)
            }
        };
        // Features and their gradients, and tokens.
        let ends = rows.saturating_mul(2 * d + 2);
        let kept = match checkpoint {
            true => layers.saturating_mul(rows.saturating_mul(d)).saturating_add(kept),
            false => layers.saturating_mul(kept),
        };
        let chunk = rows.min(chunk_rows(self.vocab) as u128) * self.vocab as u128;
        StepBytes {
            states: F32.saturating_mul(self.copies.saturating_mul(self.trained)).saturating_add(self.frozen),
            activations: F32.saturating_mul(kept.saturating_add(work).saturating_add(ends)),
            // The fused form makes gradients in the place of the logits.
            logits: if self.fused { F32 * chunk } else { 3 * F32 * chunk },
        }
    }

    /// Bytes of a pass over `batch` sequences that keeps nothing: one block at work, the features, a chunk of logits.
    pub fn pass(&self, batch: usize) -> u128 {
        let rows = (batch as u128).saturating_mul(self.length as u128);
        let [d, w, a] = [self.config.dim, self.config.packed(), self.config.heads * self.config.head_dim()];
        let one = match self.fused {
            true => rows.saturating_mul((4 * d + w + a) as u128),
            false => block(self.config, self.length, batch),
        };
        let chunk = rows.min(chunk_rows(self.vocab) as u128) * self.vocab as u128;
        F32.saturating_mul(one.saturating_add(chunk))
    }

    /// The largest batch below `batch` whose step takes at most `room`; none where not even one sequence does.
    pub fn largest(&self, batch: usize, checkpoint: bool, room: u128) -> Option<usize> {
        largest(batch, |n| self.bytes(n, checkpoint).total() <= room)
    }
}

/// The largest number from 1 to `most` that fits, where a smaller one fits too; none where 1 does not.
pub fn largest(most: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    (low > 0).then_some(low)
}

/// Numbers a position that a fused block keeps for the way back (`kernels/flex/block.rs`): its input, the packed projection,
/// attention's output, the row between its halves, the activation's inputs; under modulation both branches, and the
/// modulation itself where every position has its own.
fn tape(config: &TransformerConfig) -> u128 {
    let [d, f, w, a] =
        [config.dim, config.hidden(), config.packed(), config.heads * config.head_dim()].map(|n| n as u128);
    let gates = if config.activation.gated() { 2 } else { 1 };
    let time = match config.time {
        TimeInput::None => 0,
        TimeInput::Position => 8 * d,
        _ => 2 * d,
    };
    2 * d + w + a + gates * f + time
}

/// Numbers a position of one block on its way back: gradients of its input, norms, projections and attention.
fn working(config: &TransformerConfig) -> u128 {
    let [d, w] = [config.dim, config.packed()].map(|n| n as u128);
    4 * d + w
}

/// What training adapters takes, in bytes; the teacher is the same frozen weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterTraining {
    /// The weights, in the type they are kept in.
    pub frozen: u128,
    /// Adapters, gradients, two moments, an average, and the teacher of a later round, in f32.
    pub adapters: u128,
    /// What blocks keep for the way back: their inputs and one whole block where they checkpoint, else all of them.
    pub activations: u128,
    /// Chunks of logits with their log-probabilities and gradients, and the teacher's.
    pub logits: u128,
}

impl AdapterTraining {
    /// All of it.
    pub fn total(&self) -> u128 {
        self.frozen + self.adapters + self.activations + self.logits
    }
}

/// The memory of training adapters of `adapters` parameters on a network whose matrices are kept in `dtype`.
pub fn adapter_training(
    config: &TransformerConfig,
    dtype: Compute,
    adapters: u128,
    vocab: usize,
    [length, batch]: [usize; 2],
) -> AdapterTraining {
    let [d, f, w, l, b] = [config.dim, config.hidden(), config.packed(), length, batch].map(|n| n as u128);
    let gates = if config.activation.gated() { 3 } else { 2 };
    let width = config.compute.bytes() as u128;
    // A composed block keeps the steps of its norms and rotations too, and the scores before and behind the softmax in f32
    // and once more in the type it computes in.
    let numbers = b * l * (12 * d + 4 * w + 2 * gates * f);
    let scores = (config.heads as u128) * l * l * b * (2 * F32 + width);
    let one = numbers * width + scores;
    let layers = config.layers as u128;
    let chunk = chunk_rows(vocab).min(batch.saturating_mul(length)) as u128 * vocab as u128;
    AdapterTraining {
        frozen: dtype.bytes() as u128 * config.parameters(vocab, 0),
        adapters: 6 * F32 * adapters,
        activations: if config.checkpoint { layers * b * l * d * width + one } else { layers * one },
        logits: 6 * F32 * chunk,
    }
}

/// Numbers that one block holds: its input, two norms, the packed projection, the scores of a sequence's heads, attention's
/// output, and the feed-forward half.
fn block(config: &TransformerConfig, length: usize, batch: usize) -> u128 {
    let [d, f, w, l, b] = [config.dim, config.hidden(), config.packed(), length, batch].map(|n| n as u128);
    let gates = if config.activation.gated() { 3 } else { 2 };
    let scores = (config.heads as u128).saturating_mul(l * l).saturating_mul(b);
    (b * l).saturating_mul(5 * d + w + gates * f).saturating_add(scores)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Visibility;

    #[test]
    fn training_adapters_takes_the_weights_once_and_little_beside_them() {
        let config = TransformerConfig { checkpoint: true, ..TransformerConfig::new(512, 12, 8, Visibility::Full) };
        let of = |dtype, checkpoint| {
            let config = TransformerConfig { checkpoint, compute: Compute::Bf16, ..config.clone() };
            adapter_training(&config, dtype, 1000, 5000, [128, 4])
        };
        let (half, full) = (of(Compute::Bf16, true), of(Compute::F32, true));
        assert_eq!((2 * half.frozen, full.frozen), (full.frozen, 4 * config.parameters(5000, 0)));
        assert_eq!(half.adapters, 24_000);
        assert!(half.activations < of(Compute::Bf16, false).activations);
        assert!(full.total() < training(&config, 5000, 128, 4));
    }

    #[test]
    fn training_takes_more_than_sampling_and_both_grow_with_the_batch() {
        let config = TransformerConfig::new(64, 2, 4, Visibility::Full);
        let at = |b| (sampling(&config, 100, 32, b), training(&config, 100, 32, b));
        let (one, eight) = (at(1), at(8));
        assert!(one.0 < one.1 && eight.0 > one.0 && eight.1 > one.1);
        let weights = 4 * config.parameters(100, 32);
        assert!(one.0 > weights && one.1 > 6 * weights);
        let checkpointed = TransformerConfig { checkpoint: true, layers: 24, ..config.clone() };
        let kept = TransformerConfig { layers: 24, ..config };
        assert!(training(&checkpointed, 100, 32, 8) < training(&kept, 100, 32, 8));
        assert_eq!((shown(512), shown(3 << 29)), ("512 B".into(), "1.5 GiB".into()));
    }

    #[test]
    fn the_largest_number_that_fits_is_found() {
        for limit in [1, 2, 7, 63, 64, 100] {
            assert_eq!(largest(64, |n| n <= limit), Some(limit.min(64)));
        }
        assert_eq!(largest(64, |_| false), None);
    }

    /// Peaks of the bench `growth`, which are those of whole processes: an estimate is of what cannot be done without, so it
    /// is below them, and near enough to be of use where a network is not small.
    #[test]
    fn estimates_are_below_measured_peaks_and_not_far_below() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/growth/growth.json");
        let Ok(text) = std::fs::read(path) else {
            println!("skipped: the measured peaks are not here");
            return;
        };
        let points: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
        let mut compared = 0;
        for point in points.iter().filter(|p| p["path"] != "distill") {
            let value = point["value"].as_u64().unwrap() as usize;
            let size = |axis: &str, base: usize| if point["axis"] == axis { value } else { base };
            let [vocab, length, batch, dim] =
                [size("vocab", 512), size("length", 128), size("batch", 8), size("dim", 128)];
            let config = TransformerConfig { bias: true, ..TransformerConfig::new(dim, 2, 4, Visibility::Full) };
            let trained = config.parameters(vocab, length);
            let step = Step { config: &config, vocab, length, fused: true, trained, copies: 4, frozen: 0 };
            let sampled = 4 * trained + step.pass(batch);
            let bytes = if point["path"] == "train" { step.bytes(batch, false).total() } else { sampled };
            let estimate = (bytes >> 20) as f64;
            let peak = point["peak_kib"].as_u64().unwrap() as f64 / 1024.0;
            println!("{} {} {value}: {estimate:.0} of {peak:.0} MiB", point["path"], point["axis"]);
            assert!(estimate < 1.05 * peak, "{point}");
            if peak > 180.0 && point["path"] == "train" {
                assert!(estimate > 0.5 * peak, "{point}");
                compared += 1;
            }
        }
        assert!(compared > 4, "{compared}");
    }
}
