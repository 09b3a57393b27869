//! Training methods: what a training step minimises.
//!
//! Each file is one method with all of it. [`Objective`] is their format in recipes and checkpoints, and
//! [`Objective::method`] the one place that asks which it is; all else asks [`Facts`].

pub mod alpha;
pub mod ar;
pub mod clip;
pub mod consistency;
pub mod contract;
pub mod d3pm;
pub mod dcd;
pub mod diffusion;
pub mod distill;
pub mod elbo;
pub mod embedding;
pub mod embedding_config;
pub mod few_step;
pub mod few_step_config;
pub mod kd;
pub mod latent;
pub mod latent_config;
pub mod masked;
pub mod refresh;
pub mod rounds;
pub mod score_entropy;
pub mod shared;
pub mod uniform;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::loss::{Divergence, RowLoss, Target, backward, chunk_rows, evaluate};
pub use alpha::AlphaConfig;
pub use ar::{ArConfig, ar_nll};
pub use clip::Clip;
pub use consistency::ConsistencyConfig;
pub use contract::{
    Batch, Beside, Facts, Ground, Made, Method, Models, Nets, Network, Parents, Site, Training, Vectors,
};
pub use d3pm::D3pmConfig;
pub use dcd::DcdConfig;
pub use distill::{Orders, SdttConfig, rows as sdtt_rows};
pub use elbo::ElboConfig;
pub use embedding::{ClassifierConfig, EmbeddingConfig};
pub use few_step::{FewStep, LatentDistillConfig};
pub use kd::{KdConfig, rows as kd_rows};
pub use latent::{AutoencoderConfig, LatentConfig};
pub use masked::{NoiseRange, T_MIN, beside, elbo, elbo_within};
pub use score_entropy::ScoreEntropyConfig;
pub use shared::SharedConfig;

/// What training minimises.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Objective {
    /// Next-token negative log-likelihood with teacher forcing.
    ArNll(ArConfig),
    /// The continuous-time negative ELBO of absorbing diffusion (SUBS), or of uniform diffusion.
    Elbo(ElboConfig),
    /// SEDD's denoising score entropy of absorbing diffusion, for networks that give scores.
    ScoreEntropy(ScoreEntropyConfig),
    /// Self-distillation through time from a teacher.
    Sdtt(SdttConfig),
    /// Knowledge distillation from a teacher at equal steps.
    Kd(KdConfig),
    /// Text through few latents and back.
    Autoencoder(AutoencoderConfig),
    /// Gaussian diffusion of an autoencoder's latents.
    Latent(LatentConfig),
    /// A few-step student of such a diffusion.
    LatentDistill(LatentDistillConfig),
    /// Discrete consistency distillation from a teacher of uniform noise.
    Dcd(DcdConfig),
    /// Consistency with the average of its own weights, without a teacher.
    Consistency(ConsistencyConfig),
    /// Discrete diffusion by transition matrices, with its hybrid loss.
    D3pm(D3pmConfig),
    /// Gaussian diffusion of token embeddings.
    Embedding(EmbeddingConfig),
    /// A classifier of such a diffusion's noisy embeddings.
    Classifier(ClassifierConfig),
}

impl Objective {
    /// What it does.
    pub fn method(&self) -> &dyn Method {
        match self {
            Objective::ArNll(method) => method,
            Objective::Elbo(method) => method,
            Objective::ScoreEntropy(method) => method,
            Objective::Sdtt(method) => method,
            Objective::Kd(method) => method,
            Objective::Autoencoder(method) => method,
            Objective::Latent(method) => method,
            Objective::LatentDistill(method) => method,
            Objective::Dcd(method) => method,
            Objective::Consistency(method) => method,
            Objective::D3pm(method) => method,
            Objective::Embedding(method) => method,
            Objective::Classifier(method) => method,
        }
    }

    /// What others need to know of it.
    pub fn facts(&self) -> Facts<'_> {
        self.method().facts()
    }

    /// The name used in results.
    pub fn name(&self) -> &'static str {
        self.facts().name
    }
}
