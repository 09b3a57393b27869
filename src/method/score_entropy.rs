//! SEDD's denoising score entropy (Lou et al. 2024, eq. 10) of absorbing diffusion, for networks that give scores.
//!
//! B batch, L length, V vocabulary.

use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contract::{Batch, Facts, FromRows, Ground, Method, Site, Training, contradiction};
use super::diffusion;
use super::masked::elbo;
use crate::error::Result;
use crate::loss::{RowLoss, Target};
use crate::model::TransformerConfig;
use crate::model::config::TimeInput;
use crate::model::transformer::sigma;
use crate::process::corruption::Alphabet;
use crate::process::order::OrderConfig;
use crate::process::{Order, Schedule};

/// The configuration of the objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScoreEntropyConfig {
    /// The scores are scaled by the noise (`scale_by_sigma` of the checkpoint).
    #[serde(default = "yes")]
    pub scaled: bool,
}

fn yes() -> bool {
    true
}

/// One draw of SEDD's denoising score entropy, a bound of the negative log-likelihood in nats per token.
///
/// With r = 1/(e^sigma - 1) and scores s_y = r q_y the loss of a masked token is
/// sigma' (sum_y s_y - r ln s_x0 + r (ln r - 1)) = sigma' r (sum_y q_y - 1 - ln q_x0): the rows and weights of [`elbo`],
/// and equal to it where q sums to 1. Scaled scores are exp(logits) r/(V - 1) for V tokens with the mask; unscaled ones are
/// exp(logits) as they are.
///
/// # Panics
/// Where the rows of the bound have other targets than tokens, which cannot be.
pub fn score_entropy(
    x0: &[u32],
    length: usize,
    alphabet: Alphabet,
    scaled: bool,
    gens: (impl Rng, impl Rng),
) -> RowLoss {
    let rows = elbo(x0, length, alphabet.mask, Order::parallel(length), Schedule::LogLinear, gens);
    let offset = |t: f64| if scaled { ((alphabet.vocab - 1) as f64).ln() } else { -sigma(t).exp_m1().ln() };
    let Target::Tokens(ids) = rows.target else { panic!("the elbo is of tokens") };
    let offsets = rows.rows.iter().map(|r| offset(rows.input.t[*r])).collect();
    RowLoss { target: Target::Scores(ids, offsets), ..rows }
}

impl Method for ScoreEntropyConfig {
    fn facts(&self) -> Facts<'_> {
        Facts { scores: Some(self.scaled), ..Facts::of_tokens("score_entropy", "score entropy") }
    }

    fn check(&self, _at: &Site) -> Result<()> {
        Ok(())
    }

    fn fits(&self, at: &Site, network: &TransformerConfig) -> Result<()> {
        let objective = "\"score_entropy\"";
        if network.time != TimeInput::Sigma {
            return Err(contradiction(&at.key("objective"), objective, &at.net("time"), "\"sigma\"")
                .cause("scores depend on the noise"));
        }
        if *at.order != OrderConfig::Parallel {
            return Err(contradiction(&at.key("objective"), objective, &at.key("order"), "\"parallel\""));
        }
        diffusion::fits(at, network)
    }

    fn begin<'a>(&'a self, ground: &Ground<'a>) -> Result<Box<dyn Training + 'a>> {
        let of = Alphabet { mask: ground.mask, vocab: ground.vocab };
        let rows = move |batch: &Batch| Ok(score_entropy(&batch.x0, batch.length, of, self.scaled, batch.draws()));
        Ok(Box::new(FromRows(rows)))
    }
}

#[cfg(test)]
mod tests {
    use burn::prelude::*;

    use crate::kernels::composed;

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
}
