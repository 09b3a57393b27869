//! Checks of models that are made of another one's weights: adapters, kept blocks, types, activation checkpointing.

use super::{ModelConfig, Recipe};
use crate::error::{Error, Result};
use crate::model::config::Compute;

impl Recipe {
    /// Whether a model with adapters has them beside a public checkpoint as it is, all blocks of it, or beside a network of
    /// this study's own: only then do they mean the same without this study.
    ///
    /// # Errors
    /// A model that is not there, or a circle of models (usage).
    pub fn adapts_its_base(&self, name: &str) -> Result<bool> {
        let lineage = self.lineage(name)?;
        let public = lineage.last().is_some_and(|m| m.from.is_some());
        let whole = lineage.iter().all(|m| m.keep_layers.is_none());
        Ok(!public || (whole && lineage.iter().skip(1).all(|m| m.train.steps == 0)))
    }

    /// Checks the keys that need a teacher or a checkpoint to start from, and the types they leave.
    pub(super) fn check_derived(&self, name: &str, model: &ModelConfig) -> Result<()> {
        let key = |k: &str| format!("model.{name}.{k}");
        let derived = model.network.is_none() && (model.from.is_some() || Self::source(model).is_some());
        for (k, given) in [
            ("lora", model.lora.is_some()),
            ("keep_layers", model.keep_layers.is_some()),
            ("checkpoint", model.checkpoint.is_some()),
        ] {
            if given && !derived {
                return Err(Error::usage(format!("`{}` needs a teacher or a checkpoint to start from", key(k))).hint(
                    match k {
                        "checkpoint" => format!("beside a network it is `{}`", key("network.checkpoint")),
                        _ => format!("distil `{name}` from a teacher, or give it `{}`", key("from")),
                    },
                ));
            }
        }
        if model.dtype.is_some() && model.from.is_none() {
            return Err(Error::usage(format!("`{}` needs `{}`", key("dtype"), key("from")))
                .hint("students have their teacher's types; beside a network it is `network.compute`"));
        }
        if self.export.adapters && model.lora.is_some() && !self.adapts_its_base(name)? {
            return Err(Error::usage(format!(
                "`export.adapters` with `model.{name}`, whose base is not a published checkpoint"
            ))
            .cause("its teacher was trained here, or blocks were left out")
            .hint("leave `export.adapters` out: the export is then the merged network"));
        }
        if let Some(lora) = &model.lora {
            lora.validate(&key("lora"))?;
            if model.train.steps == 0 {
                return Err(Error::usage(format!("`{}` needs `{}` above 0", key("lora"), key("train.steps"))).hint(
                    format!("`{} = 1000`, for instance; a model taken as it is has no adapters", key("train.steps")),
                ));
            }
            if model.objective.facts().causal() {
                return Err(Error::usage(format!("`{}` is for diffusion models so far", key("lora")))
                    .hint("leave the table out: the whole network is trained"));
            }
        }
        // The types come from the checkpoint at the end of the line of teachers; unknown names are told elsewhere.
        let dtype = self.dtype(name).unwrap_or_default();
        if dtype.weights != Compute::F32 && model.train.steps > 0 && model.lora.is_none() && derived {
            return Err(Error::usage(format!(
                "`{}` trains weights that are kept in {}",
                key("train"),
                dtype.weights.name()
            ))
            .cause("the digits of an optimiser step are lost in a half-width type")
            .hint(format!(
                "`{}.dtype.weights = \"f32\"`, or adapters: `[{}]`",
                self.root_place(name),
                key("lora")
            )));
        }
        if dtype.compute == Compute::F16 && model.train.steps > 0 && derived {
            return Err(Error::usage(format!("`{}` computes in f16, whose range gradients leave", key("train")))
                .hint(format!("train in bf16: `{}.dtype.compute = \"bf16\"`", self.root_place(name))));
        }
        Ok(())
    }
}
