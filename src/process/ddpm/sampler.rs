//! How the steps of a process over levels are drawn, as a recipe or a command names it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Kind;
use crate::error::{Result, within};

/// How the steps of a process over levels are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sampler {
    /// Noise of a step: 1 the posterior's (DDPM), 0 none (DDIM).
    pub eta: f64,
    /// The nearest token's vector takes the place of each predicted x0 (Diffusion-LM's clamping).
    pub clamp: bool,
    /// Normal numbers that are larger are drawn anew (the published `top_p`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
}

impl Default for Sampler {
    fn default() -> Self {
        Sampler { eta: 1.0, clamp: false, top_p: None }
    }
}

impl Sampler {
    /// As a table has it, on one line.
    pub fn name(&self) -> String {
        let kind = match self.eta {
            1.0 => "DDPM".to_string(),
            eta => format!("DDIM, eta {eta}"),
        };
        let clamp = if self.clamp { ", clamped" } else { "" };
        format!("{kind}{clamp}{}", self.top_p.map_or(String::new(), |p| format!(", top_p {p}")))
    }

    /// Checks ranges; `key` names it in errors.
    ///
    /// # Errors
    /// A setting out of range (usage).
    pub fn validate(&self, key: &str) -> Result<()> {
        within(&format!("{key}.eta"), self.eta, 0.0..=1.0)?;
        match self.top_p {
            // Below, numbers are drawn anew for long.
            Some(p) => within(&format!("{key}.top_p"), p, 0.1..=1e6),
            None => Ok(()),
        }
    }

    /// The kind of its steps; with eta = 1 a DDIM step is the posterior's.
    pub fn kind(&self) -> Kind {
        if self.eta == 1.0 { Kind::Ancestral } else { Kind::Ddim { eta: self.eta } }
    }
}
