//! Estimates of the memory that a network needs, from its shape alone.
//!
//! B batch, L length, D width, F hidden width, W packed width, V vocabulary; f32, but for the weights and blocks of training
//! adapters.

use crate::kernels::chunk_rows;
use crate::model::TransformerConfig;
use crate::model::config::Compute;

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
    let chunk = chunk_rows(vocab).min(batch.saturating_mul(length)) as u128 * vocab as u128;
    let kept = match config.checkpoint {
        true => {
            [config.layers, batch, length, config.dim].map(|n| n as u128).iter().product::<u128>()
                + block(config, length, batch)
        }
        false => config.layers as u128 * block(config, length, batch),
    };
    F32 * (6 * config.parameters(vocab, length) + kept + 4 * chunk)
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
    b * l * (5 * d + w + gates * f) + (config.heads as u128) * l * l * b
}

/// `bytes` in the unit that suits them.
pub fn shown(bytes: u128) -> String {
    let units = [(1u128 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", bytes as f64 / *size as f64),
        None => format!("{bytes} B"),
    }
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
}
