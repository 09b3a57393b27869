//! The settings of autoencoders and of the diffusion of their latents.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::process::gaussian::{Path, Prediction};

/// Training of an autoencoder; its shape is `network.bottleneck`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderConfig {
    /// Largest standard deviation of the noise on latents of unit variance.
    #[serde(default)]
    pub noise: f64,
    /// Share of the tokens before a position that an autoregressive decoder does not see in training; default: 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub token_dropout: f64,
}

/// Gaussian diffusion of the latents of an autoencoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LatentConfig {
    /// The autoencoder of this recipe whose latents it denoises.
    pub codec: String,
    /// trigonometric | linear
    #[serde(default)]
    pub path: Path,
    /// noise | x0 | v
    #[serde(default)]
    pub predict: Prediction,
    /// Noise of its own sampling: 0 none (DDIM), 1 ancestral.
    #[serde(default)]
    pub eta: f64,
    /// How far its answers are taken away from those without the condition it is given; default: 1, not at all.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub guidance: f64,
    /// Share of the training steps in which a network with `vectors.self_conditioning` reads its own estimate.
    #[serde(default = "half")]
    pub self_conditioning: f64,
    /// Share of the sequences whose condition tokens are hidden, so that it also generates without any.
    #[serde(default = "tenth")]
    pub drop_condition: f64,
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}
fn one() -> f64 {
    1.0
}
fn is_one(value: &f64) -> bool {
    *value == 1.0
}
fn half() -> f64 {
    0.5
}
fn tenth() -> f64 {
    0.1
}
