//! The rounds of a distillation: which one a step is in, and which weights become the next one's teacher.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which weights become the next round's teacher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Refresh {
    /// The trained weights themselves (SDTT, DCD).
    #[default]
    Raw,
    /// Their moving average; needs `train.ema`.
    Ema,
}

/// The round that training step `step` of `total` belongs to, of `rounds` that share them evenly.
pub fn round(step: usize, total: usize, rounds: usize) -> usize {
    (step * rounds / total.max(1)).min(rounds - 1)
}
