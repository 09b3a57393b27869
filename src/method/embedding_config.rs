//! The settings of a diffusion of embeddings, and of a classifier of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, whole_within, within};
use crate::process::ddpm::{Betas, Sampler, alphas_cumprod};
use crate::process::gaussian::Prediction;

/// Gaussian diffusion of token embeddings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddingConfig {
    /// linear | cosine | trunc_cos | sqrt
    pub schedule: Betas,
    /// Levels of noise T.
    pub levels: usize,
    /// noise | x0 | v
    pub predict: Prediction,
    /// Share of the training steps in which a network with `vectors.self_conditioning` reads its own estimate.
    pub self_conditioning: f64,
    /// Positions at the start of a sequence (C) that are given in a share of the training.
    pub given: usize,
    /// That share.
    pub given_share: f64,
    /// How it is sampled, unless `decode` says otherwise.
    pub sampler: Sampler,
}

impl Default for EmbeddingConfig {
    fn default() -> Self {
        EmbeddingConfig {
            schedule: Betas::Sqrt,
            levels: 2000,
            predict: Prediction::X0,
            self_conditioning: 0.5,
            given: 0,
            given_share: 0.5,
            sampler: Sampler::default(),
        }
    }
}

/// A classifier of noisy embeddings: it predicts the first `given` tokens of a sequence from the noisy rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassifierConfig {
    /// The embedding diffusion of this recipe whose noisy embeddings it reads.
    pub model: String,
}

impl EmbeddingConfig {
    /// Checks ranges; `key` names it in errors.
    ///
    /// # Errors
    /// A setting out of range (usage).
    pub fn validate(&self, key: &str, length: usize) -> Result<()> {
        whole_within(&format!("{key}.levels"), self.levels, 2..=1 << 16)?;
        for (name, value) in [("self_conditioning", self.self_conditioning), ("given_share", self.given_share)] {
            within(&format!("{key}.{name}"), value, 0.0..=1.0)?;
        }
        if self.given >= length {
            return Err(Error::usage(format!(
                "`{key}.given` must be below the length {length}, but it is {}",
                self.given
            ))
            .hint(format!("`{key}.given = 0` gives nothing")));
        }
        self.sampler.validate(&format!("{key}.sampler"))
    }

    /// alpha_bar `[T]` of its levels.
    pub fn alphas(&self) -> Vec<f64> {
        alphas_cumprod(&self.schedule.betas(self.levels))
    }

    /// What the network is told of a level, in [0, 1).
    pub fn told(&self, level: usize) -> f64 {
        level as f64 / self.levels as f64
    }
}
