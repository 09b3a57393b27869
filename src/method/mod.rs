//! Objectives: what a training step minimises, brought to one form: a weighted sum over selected feature rows.
//!
//! ```text
//! loss = sum_r weight_r * loss_r(predict(features_r))
//! ```
//!
//! Autoregressive NLL, the masked NELBO and distillation differ only in which rows, which weights and which target.
//! The rows go through the head in chunks, gradients included, so [B, L, V] logits never exist at once.
//! B batch, L length, D width, V vocabulary, n rows.

pub mod alpha;
pub mod clip;
pub mod consistency;
pub mod d3pm;
pub mod dcd;
pub mod distill;
pub mod embedding;
pub mod few_step;
pub mod latent;
pub mod shared;
pub mod uniform;

use rand::Rng;
use serde::{Deserialize, Serialize};

pub use crate::loss::{Divergence, RowLoss, Target, backward, chunk_rows, evaluate};
use crate::model::transformer::sigma;
use crate::model::{Noised, State};
use crate::process::d3pm::Matrix;
use crate::process::duality::{Duality, Ends};
use crate::process::order::Context;
use crate::process::{Corruption, Order, Schedule};
use crate::rng::{StepRng, Stream};
pub use alpha::AlphaConfig;
pub use clip::{Clip, NoiseRange};
pub use consistency::ConsistencyConfig;
pub use d3pm::D3pmConfig;
pub use dcd::DcdConfig;
pub use distill::SdttConfig;
pub use embedding::{ClassifierConfig, EmbeddingConfig};
pub use few_step::{LatentDistillConfig, Method};
pub use latent::{AutoencoderConfig, LatentConfig};
pub use shared::SharedConfig;

/// What is minimised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Objective {
    /// Next-token negative log-likelihood with teacher forcing.
    ArNll {},
    /// The continuous-time negative ELBO of absorbing diffusion (SUBS), or of uniform diffusion.
    Elbo {
        /// absorb | uniform | gaussian_argmax
        #[serde(default, skip_serializing_if = "Corruption::absorbs")]
        corruption: Corruption,
        /// log_linear | cosine
        #[serde(default)]
        schedule: Schedule,
        /// The times that a model over blocks is trained on; default: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clip: Option<Clip>,
        /// Groups of positions that are revealed together count the more the likelier they are as a whole.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        alpha: Option<AlphaConfig>,
        /// The positions of a step share the uniforms that pick their tokens, recovered from a model of finer phases.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shared: Option<SharedConfig>,
    },
    /// SEDD's denoising score entropy (Lou et al. 2024, eq. 10) of absorbing diffusion, for networks that give scores.
    ScoreEntropy {
        /// The scores are scaled by the noise (`scale_by_sigma` of the checkpoint).
        #[serde(default = "yes")]
        scaled: bool,
    },
    /// Self-distillation through time from a teacher.
    Sdtt(SdttConfig),
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

fn yes() -> bool {
    true
}

impl Objective {
    /// The name used in results and recipes.
    pub fn name(&self) -> &'static str {
        match self {
            Objective::ArNll {} => "ar_nll",
            Objective::Elbo { .. } => "elbo",
            Objective::ScoreEntropy { .. } => "score_entropy",
            Objective::Sdtt(_) => "sdtt",
            Objective::Autoencoder(_) => "autoencoder",
            Objective::Latent(_) => "latent",
            Objective::LatentDistill(c) => c.name(),
            Objective::Dcd(_) => "dcd",
            Objective::Consistency(_) => "consistency",
            Objective::D3pm(_) => "d3pm",
            Objective::Embedding(_) => "embedding",
            Objective::Classifier(_) => "classifier",
        }
    }

    /// Its key in a recipe.
    pub fn key(&self) -> &'static str {
        match self {
            Objective::LatentDistill(_) => "latent_distill",
            other => other.name(),
        }
    }

    /// Forward passes of a denoiser, or of an autoencoder, over one sequence that a training sequence takes: its own, and those of
    /// its teacher. Reading the latents of a text is not among them.
    pub fn forwards(&self) -> f64 {
        match self {
            Objective::Elbo { shared: Some(_), .. } => 2.0,
            Objective::ArNll {} | Objective::Elbo { .. } | Objective::ScoreEntropy { .. } | Objective::D3pm(_) => 1.0,
            Objective::Sdtt(c) => 1.0 + c.steps_per_step as f64,
            Objective::Dcd(_) | Objective::Consistency(_) => 2.0,
            Objective::Autoencoder(_) | Objective::Latent(_) | Objective::Embedding(_) | Objective::Classifier(_) => {
                1.0
            }
            Objective::LatentDistill(c) => c.forwards(false),
        }
    }

    /// What noise is to the model that it trains; a student of `sdtt` knows masks alone.
    pub fn corruption(&self) -> Corruption {
        match self {
            Objective::Elbo { corruption, .. } => *corruption,
            Objective::Consistency(c) => c.corruption,
            Objective::Dcd(_) => Corruption::GaussianArgmax,
            Objective::D3pm(c) if c.matrix != Matrix::Absorbing => Corruption::Uniform,
            Objective::D3pm(_) => Corruption::Absorb,
            Objective::ArNll {} | Objective::ScoreEntropy { .. } | Objective::Sdtt(_) => Corruption::Absorb,
            // Tokens are not what is lost there.
            Objective::Autoencoder(_) | Objective::Latent(_) | Objective::LatentDistill(_) => Corruption::Absorb,
            Objective::Embedding(_) | Objective::Classifier(_) => Corruption::Absorb,
        }
    }

    /// The ends of the Gaussian process it draws from, if it does.
    pub fn ends(&self) -> Option<Ends> {
        match self {
            Objective::Elbo { corruption: Corruption::GaussianArgmax, .. } => Some(Ends::WHOLE),
            Objective::Dcd(c) => Some(c.ends()),
            _ => None,
        }
    }

    /// The configuration of shared uniforms, where it has them.
    pub fn shared(&self) -> Option<&SharedConfig> {
        match self {
            Objective::Elbo { shared, .. } => shared.as_ref(),
            _ => None,
        }
    }

    /// Whether it learns from a teacher that is replaced from round to round.
    pub fn distils(&self) -> bool {
        matches!(self, Objective::Sdtt(_) | Objective::Dcd(_) | Objective::LatentDistill(_))
    }

    /// The name of the logged loss term.
    pub fn term(&self) -> &'static str {
        match self {
            Objective::ArNll {} => "nll",
            Objective::Elbo { .. } => "nelbo",
            Objective::ScoreEntropy { .. } => "score entropy",
            Objective::Sdtt(_) | Objective::Dcd(_) => "divergence",
            Objective::Consistency(_) => "consistency",
            Objective::D3pm(_) => "hybrid",
            Objective::Autoencoder(_) | Objective::Classifier(_) => "nll",
            Objective::Embedding(_) => "embedding loss",
            Objective::Latent(_) | Objective::LatentDistill(_) => "squared error",
        }
    }
}

/// Teacher forcing: every position of x0 [B, L], weight 1 / (B L), in nats per token.
pub fn ar_nll<'a>(x0: &[u32], length: usize) -> RowLoss<'a> {
    let n = x0.len();
    RowLoss {
        input: Noised::tokens(x0, &vec![0.0; n], length),
        rows: (0..n).collect(),
        weights: vec![1.0 / n as f64; n],
        target: Target::Tokens(x0.to_vec()),
        alpha: None,
    }
}

/// Smallest training time: the weight 1/t stays finite.
pub const T_MIN: f64 = 1e-3;

/// One draw of the masked NELBO (MDLM eq. 10): times stratified over the batch, masked rows weighted by
/// -alpha'/(1 - alpha) / (B L), in nats per token.
///
/// An order over blocks with finished text before them (BD3-LM, Arriola et al. 2025, eq. 8) has a time for each block,
/// and the text is read beside the noise. A block of one position is always masked: its bound is its likelihood, without
/// variance. Fixed phases are blocks of that kind, whatever their size: each is revealed in one step, so that one pass over both
/// streams gives the exact likelihood of the sampler in that order. Where the context is noisy (AR-Diffusion, pipelined blocks) a sequence is a column of the order's table; its
/// positions lose their noise -dt/dprogress times as fast, which is one more factor of the weight.
pub fn elbo<'a>(
    x0: &[u32],
    length: usize,
    mask: u32,
    order: Order,
    schedule: Schedule,
    gens: (impl Rng, impl Rng),
) -> RowLoss<'a> {
    elbo_within(x0, length, mask, order, schedule, NoiseRange::WHOLE, gens)
}

/// [`elbo`] with times of a part of the noise only, which bounds nothing ([`clip`]).
pub fn elbo_within<'a>(
    x0: &[u32],
    length: usize,
    mask: u32,
    order: Order,
    schedule: Schedule,
    range: NoiseRange,
    (mut times, mut noise): (impl Rng, impl Rng),
) -> RowLoss<'a> {
    let (batch, offset) = (x0.len() / length, times.random::<f64>());
    let (layout, in_blocks) = (order.layout(), order.context == Context::Clean);
    let single = |l: usize| in_blocks && (order.pattern.is_some() || layout.range(l).len() == 1);
    // Per position its time, and how fast that falls.
    let t: Vec<(f64, f64)> = match in_blocks {
        true => {
            let times = order.block_times(batch, length, offset).into_iter().enumerate();
            times.map(|(i, t)| (if single(i % length) { 1.0 } else { range.time(t) }, 1.0)).collect()
        }
        false => {
            let at = |p: f64, l: usize| (order.time(length, p, l), order.rate(length, p, l));
            let columns = order.training_progress(batch, offset).into_iter();
            columns
                .flat_map(|p| (0..length).map(move |l| at(p, l)))
                .map(|(t, rate)| (if rate > 0.0 { range.time(t) } else { t }, rate))
                .collect()
        }
    };
    let (t, rate): (Vec<f64>, Vec<f64>) = t.into_iter().unzip();
    let xt = Corruption::Absorb.corrupt(x0, &t, schedule, (mask, 0), &mut noise);
    let rows: Vec<usize> = (0..xt.len()).filter(|i| xt[*i] == mask && rate[*i] > 0.0).collect();
    let weight = |r: usize| if single(r % length) { 1.0 } else { schedule.elbo_weight(t[r]) * rate[r] };
    let weights = rows.iter().map(|r| weight(*r) / x0.len() as f64).collect();
    let input = Noised::tokens(&xt, &t, length).in_order(&order, &[]);
    RowLoss {
        input: Noised { clean: beside(order, length).then(|| State::Tokens(x0.to_vec())), ..input },
        weights,
        target: Target::Tokens(rows.iter().map(|r| x0[*r]).collect()),
        rows,
        alpha: None,
    }
}

/// Whether a training input of this order has the finished text beside the noise: where there are blocks before others.
pub fn beside(order: Order, length: usize) -> bool {
    order.context == Context::Clean && order.blocks(length) > 1
}

/// One draw of SEDD's denoising score entropy, a bound of the negative log-likelihood in nats per token.
///
/// With r = 1/(e^sigma - 1) and scores s_y = r q_y the loss of a masked token is
/// sigma' (sum_y s_y - r ln s_x0 + r (ln r - 1)) = sigma' r (sum_y q_y - 1 - ln q_x0): the rows and weights of [`elbo`],
/// and equal to it where q sums to 1. Scaled scores are exp(logits) r/(V - 1) for V tokens with the mask; unscaled ones are
/// exp(logits) as they are.
pub fn score_entropy<'a>(
    x0: &[u32],
    length: usize,
    (mask, vocab): (u32, usize),
    scaled: bool,
    gens: (impl Rng, impl Rng),
) -> RowLoss<'a> {
    let rows = elbo(x0, length, mask, Order::parallel(length), Schedule::LogLinear, gens);
    let offset = |t: f64| if scaled { ((vocab - 1) as f64).ln() } else { -sigma(t).exp_m1().ln() };
    let Target::Tokens(ids) = rows.target else { panic!("the elbo is of tokens") };
    let offsets = rows.rows.iter().map(|r| offset(rows.input.t[*r])).collect();
    RowLoss { target: Target::Scores(ids, offsets), ..rows }
}

/// Builds the rows of one step of an objective that needs no other network. `duality` is there where the noise is Gaussian.
pub fn data_rows<'a>(
    objective: &Objective,
    x0: &[u32],
    length: usize,
    (mask, vocab): (u32, usize),
    (order, range, duality): (Order, NoiseRange, Option<&Duality>),
    rng: (StepRng, u64),
) -> Option<RowLoss<'a>> {
    let (rng, step) = rng;
    let draws = (rng.at(step, Stream::Times), rng.at(step, Stream::Corrupt));
    match objective {
        Objective::ArNll {} => Some(ar_nll(x0, length)),
        Objective::Elbo { schedule, corruption: Corruption::Absorb, alpha, .. } => {
            let rows = elbo_within(x0, length, mask, order, *schedule, range, draws);
            let alpha = alpha.as_ref().and_then(|alpha| alpha.of(&rows, &order));
            Some(RowLoss { alpha, ..rows })
        }
        Objective::Elbo { schedule, .. } => Some(uniform::elbo(x0, length, vocab, *schedule, duality, draws)),
        Objective::ScoreEntropy { scaled } => Some(score_entropy(x0, length, (mask, vocab), *scaled, draws)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::prelude::*;

    use crate::kernels::composed;
    use crate::model::config::Visibility;
    use crate::model::{Denoise, Transformer, TransformerConfig};

    #[test]
    fn the_score_entropy_of_normalised_scores_is_the_elbo_and_more_of_any_others() {
        let logits: Vec<f32> = (0..40).map(|i| ((i * 29 % 17) as f32 - 8.0) / 3.0).collect();
        let logits = Tensor::<2>::from_data(TensorData::new(logits, [8, 5]), &Device::flex());
        let (ids, log_p) = ([0u32, 1, 2, 3, 4, 0, 2, 4], composed::log_softmax(logits));
        let offsets: Vec<f32> = (0..8).map(|i| i as f32 / 4.0 - 1.0).collect();
        let shift = Tensor::<2>::from_data(TensorData::new(offsets.clone(), [8, 1]), &log_p.device());
        let values = |scale: f32| {
            let scores = log_p.clone() + shift.clone() + scale.ln();
            crate::model::params::floats(composed::score_entropy(scores, &ids, &offsets))
        };
        let elbo = crate::model::params::floats(composed::cross_entropy(log_p.clone(), &ids));
        for (one, (two, elbo)) in values(1.0).into_iter().zip(values(2.0).into_iter().zip(elbo)) {
            assert!((one - elbo).abs() < 1e-5, "{one} for {elbo}");
            // sum q = 2: 2 - 1 - ln 2 more.
            assert!((two - elbo - (1.0 - 2f32.ln())).abs() < 1e-5, "{two} for {elbo}");
        }
    }

    /// What a block is trained on is what a sampler reads: finished blocks before it, its own noise, and nothing behind it.
    #[test]
    fn the_elbo_over_blocks_is_that_of_each_block_behind_its_finished_ones() {
        let (vocab, length, batch, device) = (7, 6, 4, Device::flex());
        for size in [1, 2, 3] {
            let config = TransformerConfig::new(16, 2, 2, Visibility::Blocks(size));
            let model = Transformer::init(&config, vocab, length, 3, &device);
            let x0: Vec<u32> = (0..batch * length).map(|i| (i * 5 % 7) as u32).collect();
            let gens = (StepRng::new(1).at(0, Stream::Times), StepRng::new(1).at(0, Stream::Corrupt));
            let loss = elbo(&x0, length, model.mask(), Order::in_blocks(size), Schedule::LogLinear, gens);
            assert!(loss.rows.len() > 4);
            let (_, values) = evaluate(&model, &loss);
            for (r, value) in loss.rows.iter().zip(values) {
                let (row, block) = (r / length * length, r % length / size * size);
                let xt = &loss.input.token_ids()[row..row + length];
                let mut canvas = xt.to_vec();
                canvas[..block].copy_from_slice(&x0[row..row + block]);
                canvas[(block + size).min(length)..].fill(model.mask());
                let t = loss.input.t[row..row + length].to_vec();
                let alone = RowLoss {
                    input: Noised::tokens(&canvas, &t, length),
                    rows: vec![r - row],
                    weights: vec![1.0],
                    target: Target::Tokens(vec![x0[*r]]),
                    alpha: None,
                };
                let want = evaluate(&model, &alone).0;
                assert!((value - want).abs() < 1e-5, "size {size}, position {r}: {value} for {want}");
            }
            let trained = Transformer::init(&config, vocab, length, 3, &device.clone().autodiff());
            let (value, _) = backward(&trained, &loss);
            assert!(value.is_finite() && value > 0.0);
        }
    }
}
