//! Noise schedules on the host in f64: alpha(t) is the probability that a token is still itself at time t.
//!
//! Log-linear is MDLM's schedule (Sahoo et al. 2024): alpha = 1 - t. Cosine is MaskGIT's: alpha = 1 - cos(pi/2 (1 - t)).

use std::f64::consts::FRAC_PI_2;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How fast tokens are lost to noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// alpha = 1 - t.
    #[default]
    LogLinear,
    /// alpha = 1 - cos(pi/2 (1 - t)).
    Cosine,
}

impl Schedule {
    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Schedule::LogLinear => "log_linear",
            Schedule::Cosine => "cosine",
        }
    }

    /// Survival probability at time t in [0, 1]: alpha(0) = 1, alpha(1) = 0.
    pub fn alpha(self, t: f64) -> f64 {
        match self {
            Schedule::LogLinear => 1.0 - t,
            Schedule::Cosine => 1.0 - (FRAC_PI_2 * (1.0 - t)).cos(),
        }
    }

    /// d alpha / dt, never positive.
    pub fn dalpha(self, t: f64) -> f64 {
        match self {
            Schedule::LogLinear => -1.0,
            Schedule::Cosine => -FRAC_PI_2 * (FRAC_PI_2 * (1.0 - t)).sin(),
        }
    }

    /// The time at which the survival probability is `alpha`.
    pub fn time(self, alpha: f64) -> f64 {
        match self {
            Schedule::LogLinear => 1.0 - alpha,
            Schedule::Cosine => 1.0 - (1.0 - alpha).clamp(-1.0, 1.0).acos() / FRAC_PI_2,
        }
    }

    /// Weight of a masked token in the continuous-time NELBO: -alpha'(t) / (1 - alpha(t)).
    pub fn elbo_weight(self, t: f64) -> f64 {
        -self.dalpha(t) / (1.0 - self.alpha(t))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Schedule; 2] = [Schedule::LogLinear, Schedule::Cosine];

    #[test]
    fn alpha_goes_from_one_to_zero_and_its_inverse_returns_the_time() {
        for s in ALL {
            assert!((s.alpha(0.0) - 1.0).abs() < 1e-15 && s.alpha(1.0).abs() < 1e-15);
            for i in 1..10_000 {
                let t = i as f64 / 10_000.0;
                assert!((s.time(s.alpha(t)) - t).abs() < 1e-7, "{s:?} at {t}");
            }
        }
    }

    #[test]
    fn the_derivative_equals_the_finite_difference() {
        for s in ALL {
            for i in 1..10_000 {
                let (t, h) = (i as f64 / 10_001.0, 1e-6);
                let numeric = (s.alpha(t + h) - s.alpha(t - h)) / (2.0 * h);
                assert!((numeric - s.dalpha(t)).abs() < 1e-6, "{s:?} at {t}");
            }
        }
    }

    #[test]
    fn the_log_linear_elbo_weight_is_one_over_t() {
        assert!((Schedule::LogLinear.elbo_weight(0.25) - 4.0).abs() < 1e-12);
    }
}
