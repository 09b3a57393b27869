//! Checks of models that start as another one.

use super::{ModelConfig, Network, Recipe};
use crate::error::{Error, Result};
use crate::method::Vectors;
use crate::model::TransformerConfig;
use crate::model::config::Visibility;

impl Recipe {
    /// Checks that the model whose weights another one starts with is there, and has as many.
    pub(super) fn check_start(&self, name: &str, model: &ModelConfig) -> Result<()> {
        let key = |k: &str| format!("model.{name}.{k}");
        if let Some(start) = &model.start {
            let at = key("start");
            self.model(start).map_err(|e| Error { message: format!("`{at}`: {}", e.message), ..e })?;
            if start == name {
                return Err(Error::usage(format!("`{at}` names the model itself"))
                    .hint("name the model whose weights it starts with, or leave the key out"));
            }
        }
        if let (Some(start), Vectors::FewStep(_)) = (&model.start, model.objective.facts().vectors) {
            return Err(Error::usage(format!("`{} = \"{start}\"` is not for a student of latents", key("start")))
                .cause("its critic and its rounds begin as its teacher")
                .hint(format!("leave `{}` out", key("start"))));
        }
        let (Some(own), Some(source)) = (&model.network, Self::source(model)) else { return Ok(()) };
        if model.start.is_none() && !model.order.phased() {
            return Ok(());
        }
        let kept = |network: &TransformerConfig| -> Result<TransformerConfig> {
            let kept = self.lineage(source)?.into_iter().rev().filter_map(|m| m.keep_layers.as_ref());
            Ok(kept.fold(network.clone(), |network, keep| TransformerConfig { layers: keep.len(), ..network }))
        };
        let Ok(Network::Given(theirs)) = self.network(source) else {
            return Err(Error::usage(format!("`{}` stands beside weights of a checkpoint", key("network")))
                .hint("leave the table out: the network is the checkpoint's"));
        };
        let weights = |n: &TransformerConfig| TransformerConfig {
            visibility: Visibility::Full,
            checkpoint: false,
            composed: false,
            compute: Default::default(),
            // What it is told besides starts at nothing.
            uniforms: n.uniforms && theirs.uniforms,
            ..n.clone()
        };
        let theirs = &kept(theirs)?;
        match weights(own) == weights(theirs) {
            true => Ok(()),
            false => Err(Error::usage(format!(
                "`{}` is not that of `model.{source}`, whose weights it starts with",
                key("network")
            ))
            .cause("only `visibility`, `checkpoint`, `composed` and `compute` may differ")
            .hint(format!("leave `[{}]` out, or copy `[{}]`", key("network"), self.network_place(source)))),
        }
    }
}
