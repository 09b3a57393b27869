//! Corruption: what noise is. Here the absorbing kind, q(x_t | x_0) = alpha x_0 + (1 - alpha) mask (SUBS, MDLM section 3).
//!
//! B batch, L length; tokens are row-major [B, L]; the mask id is the vocabulary size V.

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::schedule::Schedule;

/// The kind of noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Corruption {
    /// A lost token becomes the mask and stays it until it is revealed.
    #[default]
    Absorb,
}

impl Corruption {
    /// x_t drawn from q(x_t | x_0): each token is lost independently with probability 1 - alpha(t of its position).
    ///
    /// `x0` and `t` are [B x L]; `mask` is the mask id. A position at t = 0 is never lost.
    pub fn corrupt(self, x0: &[u32], t: &[f64], schedule: Schedule, mask: u32, rng: &mut impl Rng) -> Vec<u32> {
        assert_eq!(x0.len(), t.len(), "one time for each token");
        match self {
            Corruption::Absorb => x0
                .iter()
                .zip(t)
                .map(|(&x, &t)| if rng.random::<f64>() < 1.0 - schedule.alpha(t) { mask } else { x })
                .collect(),
        }
    }

    /// Probability that a masked position is revealed when time goes from `t` down to `s`:
    /// (alpha_s - alpha_t) / (1 - alpha_t).
    pub fn reveal_probability(self, schedule: Schedule, t: f64, s: f64) -> f64 {
        match self {
            Corruption::Absorb => {
                let (at, as_) = (schedule.alpha(t), schedule.alpha(s));
                if at >= 1.0 || s <= 0.0 { 1.0 } else { ((as_ - at) / (1.0 - at)).clamp(0.0, 1.0) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{StepRng, Stream};

    #[test]
    fn the_share_of_kept_tokens_is_alpha_within_four_sigma() {
        let mut rng = StepRng::new(1).at(0, Stream::Corrupt);
        for schedule in [Schedule::LogLinear, Schedule::Cosine] {
            for t in [0.0, 0.1, 0.5, 0.9, 1.0] {
                let n = 1_000_000;
                let xt = Corruption::Absorb.corrupt(&vec![3; n], &vec![t; n], schedule, 7, &mut rng);
                let kept = xt.iter().filter(|x| **x == 3).count() as f64;
                let (p, n) = (schedule.alpha(t), n as f64);
                assert!((kept - n * p).abs() <= 4.0 * (n * p * (1.0 - p)).sqrt() + 1e-6, "{schedule:?} {t}");
            }
        }
    }

    #[test]
    fn revealing_step_by_step_has_the_marginal_of_the_schedule() {
        let c = Corruption::Absorb;
        for schedule in [Schedule::LogLinear, Schedule::Cosine] {
            let times: Vec<f64> = (0..=7).map(|k| 1.0 - k as f64 / 7.0).collect();
            let mut masked = 1.0;
            for p in times.windows(2) {
                masked *= 1.0 - c.reveal_probability(schedule, p[0], p[1]);
                assert!((masked - (1.0 - schedule.alpha(p[1]))).abs() < 1e-12);
            }
        }
    }
}
