//! The alpha loss on groups (AlphaDLM 2026): cross-entropy in which a group of tokens counts the more the likelier it is as a whole.
//!
//! ```text
//! loss = - sum_g exp(power s_g) sum_(l in g) log p(x_l)      s_g = mean over g of log p(x_l), without a gradient
//! ```
//!
//! Positions that a step reveals together are drawn independently, so that a model that is unsure of both may write one half of
//! one text and one half of another. The weight lowers the temperature of the *joint* distribution of a group, where a lower
//! temperature of the draws would lower each marginal alone. With `power = 0` it is cross-entropy. Groups are neighbours among
//! the positions of a phase, never a whole text: a weight of hundreds of nats would leave nothing of most texts.
//! n rows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Result, whole_within, within};
use crate::loss::{Alpha, RowLoss};
use crate::process::Order;

/// How groups count.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlphaConfig {
    /// Neighbouring positions of a phase that are one group.
    pub group: usize,
    /// The power of a group's geometric mean probability that it counts with; 0: all count the same.
    pub power: f64,
}

impl AlphaConfig {
    /// Checks ranges; `key` names it in errors.
    ///
    /// # Errors
    /// A setting out of range (usage).
    pub fn validate(&self, key: &str) -> Result<()> {
        whole_within(&format!("{key}.group"), self.group, 2..=64)?;
        within(&format!("{key}.power"), self.power, 0.0..=64.0)
    }

    /// The groups of the rows of a loss in an order with fixed phases; nothing in another order.
    pub fn of(&self, loss: &RowLoss, order: &Order) -> Option<Alpha> {
        let length = loss.input.length;
        let phases = order.phases(length, &[])?;
        let mut numbers = std::collections::HashMap::new();
        let mut group = |row: &usize| {
            let (text, l) = (row / length, row % length);
            let n = phases.phase(l).unwrap_or(0);
            let at = (phases.rank(l) - phases.ranks_of(n).start) / self.group;
            let next = numbers.len();
            *numbers.entry((text, n, at)).or_insert(next)
        };
        Some(Alpha { group: loss.rows.iter().map(&mut group).collect(), power: self.power })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::{backward, weights};
    use crate::method::masked::elbo;
    use crate::model::Transformer;
    use crate::model::config::Visibility;
    use crate::model::{TransformerConfig, params};
    use crate::process::{Pattern, Schedule};
    use crate::rng::{StepRng, Stream};
    use burn::prelude::*;

    const L: usize = 12;

    fn model(device: Device) -> Transformer {
        let config =
            TransformerConfig { learned_positions: true, ..TransformerConfig::new(16, 2, 2, Visibility::Order) };
        Transformer::init(&config, 7, L, 3, &device)
    }

    fn rows(alpha: Option<AlphaConfig>) -> RowLoss {
        let x0: Vec<u32> = (0..3 * L).map(|i| (i * i * 5 % 11 % 7) as u32).collect();
        let order = Order::in_phases(Pattern::Strided(3), L);
        let draws = (StepRng::new(1).at(0, Stream::Times), StepRng::new(1).at(0, Stream::Corrupt));
        let loss = elbo(&x0, L, 7, order, Schedule::LogLinear, draws);
        let alpha = alpha.and_then(|alpha| alpha.of(&loss, &order));
        RowLoss { alpha, ..loss }
    }

    #[test]
    fn groups_are_neighbours_of_one_phase_and_count_by_their_geometric_mean() {
        let loss = rows(Some(AlphaConfig { group: 2, power: 0.5 }));
        let alpha = loss.alpha.unwrap();
        // Phase 0 of the first text is at 0, 3, 6, 9: two groups.
        let of = |l: usize| alpha.group[loss.rows.iter().position(|r| *r == l).unwrap()];
        assert!(of(0) == of(3) && of(6) == of(9) && of(0) != of(6) && of(0) != of(1) && of(0) != of(L));
        let losses: Vec<f64> = (0..loss.rows.len()).map(|i| i as f64 / 10.0).collect();
        let factors = alpha.factors(&losses);
        let at = |l: usize| loss.rows.iter().position(|r| *r == l).unwrap();
        let want = (-0.5 * (losses[at(0)] + losses[at(3)]) / 2.0).exp();
        assert!((factors[at(0)] - want).abs() < 1e-12 && (factors[at(3)] - want).abs() < 1e-12);
    }

    #[test]
    fn without_power_it_is_cross_entropy_and_its_gradient_takes_the_weights_as_they_are() {
        let trained = model(Device::flex().autodiff());
        let (plain, gradient) = backward(&trained, &rows(None));
        let (same, _) = backward(&trained, &rows(Some(AlphaConfig { group: 2, power: 0.0 })));
        assert!((plain - same).abs() < 1e-6, "{plain} and {same}");
        let alpha = rows(Some(AlphaConfig { group: 2, power: 0.7 }));
        let (value, own) = backward(&trained, &alpha);
        // The same with the weights written down beforehand.
        let features = crate::model::Denoise::features_at(&trained, &alpha.input, &alpha.rows);
        let fixed =
            RowLoss { weights: weights(&trained, &features, &alpha).into_owned(), alpha: None, ..alpha.clone() };
        let (want, by_hand) = backward(&trained, &fixed);
        assert!((value - want).abs() < 1e-6 && value < plain, "{value} for {want}");
        let norm = |g| params::gradient_norm(&trained, g);
        assert!((norm(&own) - norm(&by_hand)).abs() < 1e-5 && norm(&own) != norm(&gradient));
        // Chunk by chunk too.
        let composed = trained.clone().reconfigured(|c| c.composed = true);
        assert!((backward(&composed, &alpha).0 - value).abs() < 1e-5);
    }
}
