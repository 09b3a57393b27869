//! Checks of the ways that a model is sampled in.

use super::{ModelConfig, Recipe};
use crate::error::{Error, Result};
use crate::method::Vectors;
use crate::method::contract::contradiction;
use crate::model::TransformerConfig;
use crate::process::order::OrderConfig;
use crate::sample::DecodeConfig;

impl Recipe {
    /// Checks that the ways a model is sampled in go with its noise.
    pub(super) fn check_noisy_ways(&self, name: &str, model: &ModelConfig) -> Result<()> {
        let facts = model.objective.facts();
        let uniform = !facts.corruption.absorbs() || facts.chain.is_some();
        for (i, decode) in model.decode.iter().enumerate() {
            let key = format!("model.{name}.decode[{i}]");
            match (decode, uniform) {
                (DecodeConfig::GreedyTail(_), false) => {
                    return Err(Error::usage(format!("`{key}` has a greedy tail, which is for uniform noise"))
                        .cause("under masks the last step only reveals what is left")
                        .hint(format!("`model.{name}.decode = [{{ order = \"parallel\" }}]`")));
                }
                (
                    DecodeConfig::Order(order) | DecodeConfig::GreedyTail(order) | DecodeConfig::Mbr { order, .. },
                    true,
                ) if *order == OrderConfig::Parallel => {}
                (_, true) => {
                    return Err(contradiction(
                        &key,
                        &decode.name(),
                        &format!("model.{name}.objective"),
                        "one of absorbing noise",
                    )
                    .cause("uniform noise is sampled at all positions at once")
                    .hint(format!("`model.{name}.decode = [{{ order = \"parallel\" }}]`")));
                }
                (_, false) => {}
            }
        }
        Ok(())
    }

    /// Checks that the ways a model is sampled in are of blocks that its network sees.
    pub(super) fn check_decode(&self, name: &str, model: &ModelConfig, network: &TransformerConfig) -> Result<()> {
        let facts = model.objective.facts();
        for (i, decode) in model.decode.iter().enumerate() {
            let key = format!("model.{name}.decode[{i}]");
            if matches!(facts.vectors, Vectors::Embeddings(_)) {
                if !matches!(decode, DecodeConfig::Gaussian(_)) {
                    return Err(Error::usage(format!("`{key}` is not for embeddings"))
                        .hint("{ gaussian = { eta = 0.0, clamp = true } }, for instance"));
                }
                decode.validate(&key)?;
                continue;
            }
            decode.validate(&key)?;
            if let Some(why) = decode.misfit(network) {
                let other = format!("{}.visibility", self.network_place(name));
                let error = contradiction(&key, &decode.name(), &other, "\"order\"").cause(why);
                let out = format!("take this way out of `model.{name}.decode`");
                return Err(error.hint(match facts.causal() {
                    true => out,
                    false => format!("{out}, or train with `{other} = \"order\"`"),
                }));
            }
        }
        Ok(())
    }
}
