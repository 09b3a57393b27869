//! Checks of conditions and of guidance, of models of embeddings.

use super::{ModelConfig, Recipe};
use crate::data::{Data, DataConfig};
use crate::error::{Error, Result};
use crate::method::{EmbeddingConfig, Made, Vectors};
use crate::process::order::OrderConfig;

impl Recipe {
    /// Checks that diffusions of embeddings are given the whole condition of `data.pairs`, and nothing else.
    ///
    /// The width of a condition is known when the data is read.
    ///
    /// # Errors
    /// Another number of tokens than a condition has (usage).
    pub fn check_given(&self, data: &Data) -> Result<()> {
        let Data::Pairs(pairs) = data else { return Ok(()) };
        for (name, model) in &self.model {
            let Vectors::Embeddings(c) = model.objective.facts().vectors else { continue };
            let unasked = c.given == 0 && self.eval.control.is_none();
            if c.given != pairs.width() && !unasked {
                return Err(Error::usage(format!(
                    "`model.{name}.objective.embedding.given` is {}, but a condition of `data.pairs` has {} tokens",
                    c.given,
                    pairs.width()
                ))
                .hint(format!("`model.{name}.objective.embedding.given = {}`", pairs.width())));
            }
        }
        Ok(())
    }

    /// Checks that guidance has a diffusion of embeddings to steer, and its classifier.
    pub(super) fn check_guidance(&self) -> Result<()> {
        let guided = self.eval.control.iter().flat_map(|c| &c.guidance);
        for (name, guidance) in guided {
            let key = format!("eval.control.guidance.{name}");
            let at = |e: Error, key: &str| Error { message: format!("`{key}`: {}", e.message), ..e };
            let guided = self.model(name).map_err(|e| at(e, &key))?;
            if matches!(guided.order, OrderConfig::ArDiffusion { .. }) {
                return Err(Error::usage(format!(
                    "`{key}` steers `{name}`, whose `model.{name}.order` is {}",
                    guided.order.shown()
                ))
                .cause("its positions have noise of different levels, and a classifier is trained on one of all")
                .hint(format!("`model.{name}.order = \"parallel\"`, or no guidance for it")));
            }
            guidance.validate(&key)?;
            let classifier = self.model(&guidance.classifier).map_err(|e| at(e, &format!("{key}.classifier")))?;
            let facts = classifier.objective.facts();
            if facts.made != Made::Classifier || facts.parent != Some(name) {
                return Err(Error::usage(format!(
                    "`{key}.classifier` names `{}`, which is not a classifier of `{name}`",
                    guidance.classifier
                ))
                .hint(format!("name a model that has `classifier = {{ model = \"{name}\" }}` as its objective")));
            }
        }
        Ok(())
    }

    /// Tokens of a sequence, where the recipe alone says it.
    pub(super) fn length(&self) -> Option<usize> {
        match &self.data {
            DataConfig::Text(t) => Some(t.length),
            DataConfig::Pairs(p) => Some(p.length),
            DataConfig::Pictures(p) => Some(p.shape().length()),
            // All stories have as many words.
            DataConfig::Story(_) => Some(32),
        }
    }

    /// The diffusion of embeddings that a classifier is of; nothing for other models.
    ///
    /// # Errors
    /// A model that is not there (usage).
    pub fn classified<'a>(&'a self, model: &'a ModelConfig) -> Result<Option<(&'a str, &'a EmbeddingConfig)>> {
        let facts = model.objective.facts();
        let Some(of) = facts.parent.filter(|_| facts.made == Made::Classifier) else { return Ok(None) };
        match self.model(of)?.objective.facts().vectors {
            Vectors::Embeddings(config) => Ok(Some((of, config))),
            _ => Ok(None),
        }
    }
}
