//! Models made of another one's weights: what they start from, where their weights lie, their adapters' files.

use std::path::Path;

use super::{Shape, Study, not_trained};
use crate::checkpoint::origin::{self, Origin};
use crate::error::{Error, Kind, Result};
use crate::model::family::adapters::{self, Base};
use crate::model::family::{self, LoadOptions};
use crate::model::params::Named;
use crate::model::transformer::lora::Plan;
use crate::model::{Transformer, TransformerConfig};
use crate::recipe::Recipe;
use crate::weights::Weights;
use crate::{fs, hub};

impl Study {
    /// The network that a model starts from, all of its blocks: another finished model, or the checkpoint.
    pub(super) fn base_network(&self, name: &str, shape: &Shape) -> Result<Option<Transformer>> {
        let model = self.recipe.model(name)?;
        match (Recipe::source(model), &shape.from) {
            (Some(source), _) => Ok(Some(self.finished(source)?.model)),
            // Other rows in embedding and head, or another reading of the input, than the checkpoint's.
            (None, Some(from)) if !shape.as_it_is() => {
                let tensors = self.start(from, shape)?;
                let block = |name: &String| name.strip_prefix("blocks.")?.split('.').next()?.parse::<usize>().ok();
                let layers = tensors.keys().filter_map(block).max().map_or(0, |last| last + 1);
                let network = TransformerConfig { layers, ..shape.network.clone() };
                let weights = Weights { tensors, ..Weights::default() };
                let place = from.display().to_string();
                let base =
                    Transformer::from_weights(&network, shape.vocab, shape.length, &weights, &place, &self.device)?;
                Ok(Some(base.with_mask(shape.mask as usize).with_tokens(shape.tokens)))
            }
            (None, Some(from)) => {
                let options = LoadOptions {
                    length: Some(self.data.length()),
                    dtype: shape.dtype,
                    compute: shape.network.compute,
                    ..LoadOptions::default()
                };
                Ok(Some(family::load(from, &options, &self.device)?.model))
            }
            (None, None) => Ok(None),
        }
    }

    /// Where the weights of a model lie that has none of its own.
    pub(super) fn origin(&self, name: &str, shape: &Shape) -> Result<Origin> {
        let model = self.recipe.model(name)?;
        let (base, sha256) = match (Recipe::source(model), &shape.from) {
            // From models/NAME/final to models/TEACHER/final.
            (Some(teacher), _) => {
                (Path::new("../..").join(teacher).join("final"), origin::model_sha256(&self.final_dir(teacher))?)
            }
            (None, Some(from)) => {
                (std::path::absolute(from).map_err(|e| Error::io("find", from, &e))?, origin::sha256(from)?)
            }
            (None, None) => return Err(Error::usage(format!("`model.{name}` has nothing to start from"))),
        };
        let names = shape.from.as_ref().map(std::path::absolute).transpose();
        // A finished model has a manifest of its own.
        let public = shape.from.as_deref().filter(|_| Recipe::source(model).is_none());
        Ok(Origin {
            base,
            sha256,
            files: public.map(origin::beside).transpose()?.unwrap_or_default(),
            dtype: shape.dtype,
            keep_layers: model.keep_layers.clone(),
            adapters: model.lora.is_some(),
            names: names.map_err(|e| Error::new(Kind::Io, e.to_string()))?,
        })
    }

    /// Writes the adapters of a model in PEFT's layout.
    pub(super) fn write_adapters(
        &self,
        dir: &Path,
        name: &str,
        shape: &Shape,
        plan: &Plan,
        adapters: &Named,
    ) -> Result<()> {
        let Some(from) = &shape.from else {
            let source = Recipe::source(self.recipe.model(name)?).unwrap_or_default();
            return adapters::write(dir, plan, adapters, None, &Base { name: source, revision: None, of: None });
        };
        let root = self.recipe.lineage(name)?;
        let named = root.last().and_then(|m| m.from.as_ref()).unwrap_or(from).to_string_lossy();
        // A model of the hub is called by its name there, and by the commit that was taken.
        let (name, revision) = match hub::reference(&named)? {
            Some(model) => {
                let revision = hub::commit_of(from).map_or(model.revision, str::to_string);
                (model.id, Some(revision))
            }
            None => (from.display().to_string(), None),
        };
        let (description, store) = family::look(from)?;
        let base = Base { name: &name, revision: revision.as_deref(), of: Some(&description) };
        adapters::write(dir, plan, adapters, Some(&adapters::modules_of(&store)), &base)
    }

    /// Exports the adapters of model `name` alone.
    pub(super) fn export_adapters(&self, name: &str, out: &Path) -> Result<()> {
        let dir = self.final_dir(name);
        if !dir.exists() {
            return Err(not_trained(name, &self.dir));
        }
        self.agrees(name, &self.verified(name)?)?;
        for file in [adapters::CONFIG, adapters::WEIGHTS, "recipe.toml"] {
            fs::copy_file(&dir.join(file), &out.join(file))?;
        }
        Ok(())
    }
}
