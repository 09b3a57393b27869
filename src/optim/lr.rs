//! The learning rate as a pure function of the step: linear warm-up, then constant, cosine or linear decay.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shape of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    Constant,
    #[default]
    Cosine,
    Linear,
}

/// Learning rate of `step` (from 0) of `steps`: rises over `warmup` steps to `lr`, falls to `lr * final_fraction`.
pub fn learning_rate(step: usize, steps: usize, lr: f64, warmup: usize, decay: Decay, final_fraction: f64) -> f64 {
    if step < warmup {
        return lr * (step + 1) as f64 / warmup as f64;
    }
    let span = steps.saturating_sub(warmup).max(1) as f64;
    let x = ((step - warmup) as f64 / span).min(1.0);
    let shape = match decay {
        Decay::Constant => return lr,
        Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * x).cos()),
        Decay::Linear => 1.0 - x,
    };
    lr * (final_fraction + (1.0 - final_fraction) * shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_linearly_and_ends_at_its_final_fraction() {
        for decay in [Decay::Cosine, Decay::Linear] {
            let at = |s| learning_rate(s, 110, 1.0, 10, decay, 0.1);
            assert!((at(0) - 0.1).abs() < 1e-12 && (at(9) - 1.0).abs() < 1e-12 && (at(10) - 1.0).abs() < 1e-12);
            assert!((at(60) - 0.55).abs() < 1e-12 && (at(110) - 0.1).abs() < 1e-12);
        }
        assert_eq!(learning_rate(90, 110, 2.0, 10, Decay::Constant, 0.1), 2.0);
    }
}
