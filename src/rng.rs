//! Randomness as a pure function of (seed, step, stream): nothing about it is ever stored, so a resumed run draws what
//! the uninterrupted one would have drawn. ChaCha8 on the host; the device's own generator is never used.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a draw is for; each purpose has its own independent stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Initial weights.
    Init = 1,
    /// Which windows or stories a batch holds.
    Batch = 2,
    /// Diffusion times of a batch.
    Times = 3,
    /// Which positions are corrupted.
    Corrupt = 4,
    /// The teacher's ancestral steps inside a distillation step.
    Teacher = 5,
    /// Which positions a sampler reveals.
    Reveal = 6,
    /// Which token a sampler draws.
    Token = 7,
    /// Bootstrap resampling.
    Bootstrap = 8,
    /// Times and masks of the validation NELBO.
    Validation = 9,
    /// Which order of a mixture a training step is in.
    Order = 10,
    /// Times and masks with which ranges of noise are compared.
    Clip = 11,
    /// Condition tokens that are hidden, and text that a decoder does not see.
    Drop = 12,
    /// Noise of the critic of a distribution matching.
    Critic = 13,
    /// Noise that a sampler of vectors starts from and adds.
    Noise = 14,
    /// Uniforms that the positions of a step share.
    Shared = 15,
}

/// A seed from which generators for any (step, stream) are derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepRng {
    pub seed: u64,
}

impl StepRng {
    pub fn new(seed: u64) -> Self {
        StepRng { seed }
    }

    /// The generator of `stream` at `step`: equal arguments give equal draws, in any order of calls.
    pub fn at(&self, step: u64, stream: Stream) -> ChaCha8Rng {
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&step.to_le_bytes());
        key[16..24].copy_from_slice(&(stream as u64).to_le_bytes());
        key[24..].copy_from_slice(b"fewstep\x01");
        ChaCha8Rng::from_seed(key)
    }

    /// Its generators of `step`.
    pub fn of_step(self, step: u64) -> Generators {
        Generators { rng: self, step }
    }
}

/// The generators of one step, or of one part of a step, by stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generators {
    pub rng: StepRng,
    pub step: u64,
}

impl Generators {
    /// [`StepRng::at`] this step.
    pub fn at(&self, stream: Stream) -> ChaCha8Rng {
        self.rng.at(self.step, stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngCore;

    #[test]
    fn a_draw_depends_on_seed_step_and_stream_and_on_nothing_else() {
        let a = StepRng::new(1).at(5, Stream::Batch).next_u64();
        assert_eq!(a, StepRng::new(1).at(5, Stream::Batch).next_u64());
        for other in [
            StepRng::new(2).at(5, Stream::Batch).next_u64(),
            StepRng::new(1).at(6, Stream::Batch).next_u64(),
            StepRng::new(1).at(5, Stream::Times).next_u64(),
        ] {
            assert_ne!(a, other);
        }
    }
}
