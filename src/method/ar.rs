//! Autoregression: the next token's negative log-likelihood with teacher forcing.
//!
//! B batch, L length.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::contract::{Facts, FromRows, Ground, Made, Method, Site, Training, contradiction};
use crate::error::Result;
use crate::loss::{RowLoss, Target};
use crate::model::config::Visibility;
use crate::model::{Noised, TransformerConfig};
use crate::process::order::OrderConfig;

/// The configuration of the objective: there is nothing to set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArConfig {}

/// Teacher forcing: every position of x0 [B, L], weight 1 / (B L), in nats per token.
pub fn ar_nll(x0: &[u32], length: usize) -> RowLoss {
    let n = x0.len();
    RowLoss {
        input: Noised::tokens(x0, &vec![0.0; n], length),
        rows: (0..n).collect(),
        weights: vec![1.0 / n as f64; n],
        target: Target::Tokens(x0.to_vec()),
        alpha: None,
    }
}

impl Method for ArConfig {
    fn facts(&self) -> Facts<'_> {
        Facts { made: Made::Baseline, ..Facts::of_tokens("ar_nll", "nll") }
    }

    fn check(&self, _at: &Site) -> Result<()> {
        Ok(())
    }

    fn fits(&self, at: &Site, network: &TransformerConfig) -> Result<()> {
        let order = at.key("order");
        if *at.order != OrderConfig::LeftToRight {
            return Err(contradiction(&at.key("objective"), "\"ar_nll\"", &order, "\"left_to_right\""));
        }
        if network.visibility != Visibility::Causal {
            return Err(contradiction(&order, "\"left_to_right\"", &at.net("visibility"), "\"causal\""));
        }
        match network.shift || network.shift_output {
            true => Ok(()),
            false => Err(contradiction(&at.key("objective"), "\"ar_nll\"", &at.net("shift"), "true")
                .cause("without it position l reads the token it is asked for")),
        }
    }

    fn begin<'a>(&'a self, _ground: &Ground<'a>) -> Result<Box<dyn Training + 'a>> {
        Ok(Box::new(FromRows(|batch: &super::contract::Batch| Ok(ar_nll(&batch.x0, batch.length)))))
    }
}
