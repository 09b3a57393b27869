//! Checks of diffusions of embeddings, of their classifiers, and of guidance by them.

use super::{ModelConfig, Network, Recipe};
use crate::data::{Data, DataConfig};
use crate::error::{Error, Result};
use crate::method::{EmbeddingConfig, Objective};
use crate::model::TransformerConfig;
use crate::model::config::{TimeInput, VectorsConfig, Visibility};
use crate::process::order::OrderConfig;
use crate::sample::DecodeConfig;

impl Recipe {
    /// Checks that a diffusion of embeddings, or a classifier of one, fits its network, order and data.
    pub(super) fn check_embedding(&self, name: &str, model: &ModelConfig, network: &TransformerConfig) -> Result<()> {
        let key = |k: &str| format!("model.{name}.{k}");
        let needs = |other: &str, wants: &str| {
            let error = Error::usage(format!(
                "`{}.{}` needs `{}`{wants}",
                key("objective"),
                model.objective.name(),
                key(other)
            ));
            match wants.strip_prefix(" = ").filter(|wants| wants.starts_with('"')) {
                Some(value) => {
                    error.hint(format!("`{} = {}`", key(other), value.split(" and ").next().unwrap_or(value)))
                }
                None => error,
            }
        };
        if model.from.is_some() || model.lora.is_some() || model.keep_layers.is_some() {
            return Err(Error::usage(format!("`{}` stands beside `from`, `lora` or `keep_layers`", key("objective")))
                .hint("models of embeddings are whole networks of this recipe"));
        }
        let Some(vectors) = network.vectors.as_ref().filter(|v| v.codebook) else {
            return Err(needs("network.vectors.codebook", " = true")
                .hint("`network.vectors = { count = L, width = d, codebook = true }`, with L the length of the data"));
        };
        if vectors.two_times || vectors.condition > 0 {
            return Err(needs("network.vectors", " without `two_times` and `condition`")
                .hint("given tokens are vectors without noise: `objective.embedding.given = C`"));
        }
        if network.visibility != Visibility::Full {
            return Err(needs("network.visibility", " = \"full\""));
        }
        if let Some(length) = self.length().filter(|l| *l != vectors.count) {
            return Err(Error::usage(format!(
                "`{}` is {}, but sequences of the data have {length} tokens",
                key("network.vectors.count"),
                vectors.count
            ))
            .cause("each token has a vector")
            .hint(format!("`{} = {length}`", key("network.vectors.count"))));
        }
        match &model.objective {
            Objective::Embedding(c) => self.check_levels(name, model, c, (network, vectors)),
            Objective::Classifier(c) => {
                let at = key("objective.classifier.model");
                let of = self.model(&c.model).map_err(|e| Error { message: format!("`{at}`: {}", e.message), ..e })?;
                let Objective::Embedding(theirs) = &of.objective else {
                    return Err(Error::usage(format!(
                        "`{at}` names `{}`, which is not a diffusion of embeddings",
                        c.model
                    ))
                    .hint("name a model whose objective is `embedding`"));
                };
                if theirs.given == 0 {
                    return Err(Error::usage(format!("`{at}` needs `model.{}.objective.embedding.given`", c.model))
                        .cause("the tokens at the start of a sequence are what the classifier predicts")
                        .hint(format!("`model.{}.objective.embedding.given = 1` or more", c.model)));
                }
                let width = match self.network(&c.model)? {
                    Network::Given(network) => network.vectors.as_ref().map(|v| v.width),
                    Network::From(_) => None,
                };
                if let Some(width) = width.filter(|width| *width != vectors.width) {
                    return Err(Error::usage(format!(
                        "`{}` and `model.{}.network.vectors.width` differ",
                        key("network.vectors.width"),
                        c.model
                    ))
                    .hint(format!("`{} = {width}`", key("network.vectors.width"))));
                }
                match model.order == OrderConfig::Parallel && model.decode.is_empty() {
                    true => Ok(()),
                    false => Err(needs("order", " = \"parallel\" and no `decode`")),
                }
            }
            _ => Ok(()),
        }
    }

    fn check_levels(
        &self,
        name: &str,
        model: &ModelConfig,
        config: &EmbeddingConfig,
        (network, vectors): (&TransformerConfig, &VectorsConfig),
    ) -> Result<()> {
        let key = |k: &str| format!("model.{name}.{k}");
        config.validate(&key("objective.embedding"), vectors.count)?;
        match &model.order {
            OrderConfig::Parallel => {}
            OrderConfig::ArDiffusion { levels } => {
                if network.time != TimeInput::Position {
                    return Err(Error::usage(format!(
                        "`{} = {}` needs `{} = \"position\"`",
                        key("order"),
                        model.order.shown(),
                        key("network.time")
                    ))
                    .hint(format!("`{} = \"position\"`", key("network.time"))));
                }
                if *levels != config.levels {
                    return Err(Error::usage(format!(
                        "`{}` has {levels} levels, but `{}` is {}",
                        key("order"),
                        key("objective.embedding.levels"),
                        config.levels
                    ))
                    .hint(format!("`{} = {levels}`", key("objective.embedding.levels"))));
                }
            }
            other => {
                return Err(Error::usage(format!("`{} = {}` is not for embeddings", key("order"), other.shown()))
                    .hint("use \"parallel\" or { ar_diffusion = { levels = T } }"));
            }
        }
        for (i, decode) in model.decode.iter().enumerate() {
            let at = key(&format!("decode[{i}]"));
            if !matches!(decode, DecodeConfig::Gaussian(_)) {
                return Err(Error::usage(format!("`{at}` is not for embeddings"))
                    .hint("{ gaussian = { eta = 0.0, clamp = true } }, for instance"));
            }
            decode.validate(&at)?;
        }
        Ok(())
    }

    /// Checks that diffusions of embeddings are given the whole condition of `data.pairs`, and nothing else.
    ///
    /// The width of a condition is known when the data is read.
    pub fn check_given(&self, data: &Data) -> Result<()> {
        let Data::Pairs(pairs) = data else { return Ok(()) };
        for (name, model) in &self.model {
            let Objective::Embedding(c) = &model.objective else { continue };
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
            match &classifier.objective {
                Objective::Classifier(c) if c.model == *name => {}
                _ => {
                    return Err(Error::usage(format!(
                        "`{key}.classifier` names `{}`, which is not a classifier of `{name}`",
                        guidance.classifier
                    ))
                    .hint(format!("name a model that has `classifier = {{ model = \"{name}\" }}` as its objective")));
                }
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
    pub fn classified<'a>(&'a self, model: &'a ModelConfig) -> Result<Option<(&'a str, &'a EmbeddingConfig)>> {
        let Objective::Classifier(c) = &model.objective else { return Ok(None) };
        match &self.model(&c.model)?.objective {
            Objective::Embedding(config) => Ok(Some((&c.model, config))),
            _ => Ok(None),
        }
    }
}
