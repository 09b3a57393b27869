//! Estimates of the memory that a network needs, from its shape alone.
//!
//! B batch, L length, D width, F hidden width, W packed width, V vocabulary; f32 throughout.

use crate::kernels::chunk_rows;
use crate::model::TransformerConfig;

const F32: u128 = 4;

/// Bytes to hold the weights and read a batch: two streams of one block's activations, attention's scores, one chunk of
/// logits.
pub fn sampling(config: &TransformerConfig, vocab: usize, length: usize, batch: usize) -> u128 {
    let chunk = (chunk_rows(vocab).min(batch * length) * vocab) as u128;
    F32 * (config.parameters(vocab, length) + 2 * block(config, length, batch) + chunk)
}

/// Bytes to train it whole: weights, gradients, two moments and an average, a frozen teacher of the same shape, every
/// block's activations, and chunks of logits with their gradients for both.
pub fn training(config: &TransformerConfig, vocab: usize, length: usize, batch: usize) -> u128 {
    let chunk = (chunk_rows(vocab).min(batch * length) * vocab) as u128;
    let kept = match config.checkpoint {
        true => (config.layers * batch * length * config.dim) as u128 + block(config, length, batch),
        false => config.layers as u128 * block(config, length, batch),
    };
    F32 * (6 * config.parameters(vocab, length) + kept + 4 * chunk)
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
