//! The checks of a recipe: every component's own, and the rules between two of them.

use super::{ModelConfig, Network, Recipe};
use crate::data::DataConfig;
use crate::error::{Error, Result};
use crate::method::contract::contradiction;
use crate::method::{Models, Vectors};
use crate::model::TransformerConfig;
use crate::model::family::Vocabulary;
use crate::process::order::OrderConfig;
use crate::train::TrainConfig;

impl Recipe {
    /// Checks every component and the rules between them.
    ///
    /// # Errors
    /// A setting out of range, or settings that contradict each other (usage).
    pub fn check(&self) -> Result<()> {
        self.check_names()?;
        self.check_evaluation()?;
        self.check_seeds()?;
        for (name, model) in &self.model {
            self.check_model(name, model)?;
        }
        self.training_order()?;
        self.check_judge()?;
        self.check_control()?;
        self.check_gate()?;
        self.check_exported()
    }

    /// Checks what must hold for a stored recipe to be read at all: names that can be those of files, and parents that are
    /// models of it.
    pub(super) fn check_structure(&self) -> Result<()> {
        self.check_file_names()?;
        for model in self.model.values() {
            Self::parents(model).into_iter().try_for_each(|parent| self.model(parent).map(drop))?;
        }
        self.training_order().map(drop)
    }

    /// Checks what a finished run is still computed by: the data and the evaluation.
    ///
    /// # Errors
    /// A setting out of range (usage).
    pub fn check_evaluation(&self) -> Result<()> {
        match &self.data {
            DataConfig::Story(s) => s.validate()?,
            DataConfig::Pictures(p) => p.validate()?,
            DataConfig::Pairs(p) => p.validate()?,
            DataConfig::Text(t) => t.validate()?,
        }
        self.eval.validate()
    }

    /// Checks that the seeds differ, and that every compared model follows them.
    fn check_seeds(&self) -> Result<()> {
        let seeds = &self.seeds;
        if seeds.is_empty() {
            return Ok(());
        }
        if let [one] = seeds[..] {
            return Err(Error::usage(format!("`seeds = [{one}]` is one seed"))
                .cause("the spread between seeds needs two")
                .hint(format!("`seeds = [{one}, {}]`, or `seed` in place of `seeds`", if one == 1 { 2 } else { 1 })));
        }
        if let Some(twice) = seeds.iter().enumerate().find(|(i, s)| seeds[..*i].contains(s)) {
            return Err(Error::usage(format!("`seeds` lists {} twice", twice.1))
                .cause("the same seed again is the same study again")
                .hint(format!("`seeds = {:?}`", distinct(seeds))));
        }
        for (name, model) in &self.model {
            let judge = self.eval.is_judge(name);
            if let Some(seed) = model.seed.filter(|_| !judge && model.train.steps > 0) {
                return Err(Error::usage(format!("`model.{name}.seed = {seed}` would be the same under all `seeds`"))
                    .hint("remove it; only a judge keeps its own seed"));
            }
            if judge && model.seed.is_none() && model.train.steps > 0 {
                return Err(Error::usage(format!("`seeds` needs `model.{name}.seed`, the judge's own"))
                    .hint("all seeds are judged by one model: give it a seed that is not among `seeds`"));
            }
        }
        Ok(())
    }

    fn check_model(&self, name: &str, model: &ModelConfig) -> Result<()> {
        let key = |k: &str| format!("model.{name}.{k}");
        // A checkpoint may be taken as it is.
        let steps = model.train.steps.max(usize::from(model.from.is_some()));
        TrainConfig { steps, ..model.train.clone() }.validate(&key("train"))?;
        if let Some(network) = &model.network {
            network.validate(&key("network"))?;
        }
        self.check_start(name, model)?;
        if model.from.is_some() && (model.network.is_some() || Self::source(model).is_some()) {
            return Err(Error::usage(format!("`{}` stands beside a network or a teacher", key("from")))
                .hint("a checkpoint brings its own network, and a student has its teacher's"));
        }
        if model.from.is_none() && (model.sha256.is_some() || model.ignore_extra) {
            let key = key(if model.ignore_extra { "ignore_extra" } else { "sha256" });
            return Err(Error::usage(format!("`{key}` stands without `model.{name}.from`"))
                .hint("it is about the weights of a public checkpoint"));
        }
        if let Some(hash) = &model.sha256
            && (hash.len() != 64 || !hash.chars().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase()))
        {
            return Err(Error::usage(format!("`{}` must be 64 lower-case hexadecimal digits", key("sha256")))
                .hint("`sha256sum FILE` prints them; leave the key out to take any weights"));
        }
        self.check_vocabulary(name, model)?;
        self.check_derived(name, model)?;
        if let Some((teacher, place)) = model.objective.facts().teacher {
            let at = key(&format!("objective.{place}"));
            self.model(teacher).map_err(|e| Error { message: format!("`{at}`: {}", e.message), ..e })?;
            if teacher == name {
                return Err(
                    Error::usage(format!("`{at}` names the model itself")).hint("name the model that it learns from")
                );
            }
        }
        self.check_noisy_ways(name, model)?;
        let site = self.site(name)?;
        site.method.check(&site)?;
        match self.network(name)? {
            Network::Given(network) => self.check_network(name, network),
            // Known only when the directory is read: `run` checks it then.
            Network::From(_) => Ok(()),
        }
    }

    fn check_vocabulary(&self, name: &str, model: &ModelConfig) -> Result<()> {
        let (at, value) = (format!("model.{name}.vocabulary"), format!("\"{}\"", model.vocabulary.name()));
        if model.vocabulary.is_refuse() {
            return Ok(());
        }
        if model.from.is_none() {
            return Err(contradiction(&at, &value, &format!("model.{name}.from"), "a checkpoint")
                .hint("a student has its teacher's vocabulary"));
        }
        if model.objective.facts().scores.is_some() {
            return Err(Error::usage(format!("`{at} = {value}` is not for scores"))
                .cause("their scale depends on the number of the checkpoint's tokens")
                .hint("train it by `objective.elbo`, or give the data the checkpoint's tokenizer"));
        }
        let retokenizes = model.vocabulary == Vocabulary::Retokenize;
        match (retokenizes, model.objective.facts().causal()) {
            (true, false) => Err(Error::usage(format!("`{at} = {value}` is for a judge alone"))
                .hint("a model that is trained or sampled needs \"shared_tokens\" or \"truncate_padding\"")),
            (false, true) if self.eval.is_judge(name) && model.train.steps == 0 => {
                Err(Error::usage(format!("`{at} = {value}` is not for a judge"))
                    .hint("\"retokenize\" gives it the text of the samples"))
            }
            (false, true) => Err(Error::usage(format!(
                "`{at} = {value}`: a causal model has no other ids than its own"
            ))
            .cause("it goes with masked models; rows of padding behind a causal model's tokens are never drawn anyway")
            .hint(format!("leave `{at}` out, and give the data the tokenizer of the checkpoint"))),
            _ => Ok(()),
        }
    }

    /// Checks that the objective and the order of a model can be trained with this network.
    ///
    /// # Errors
    /// A model that is not there, or a network that it cannot be trained with (usage).
    pub fn check_network(&self, name: &str, network: &TransformerConfig) -> Result<()> {
        let model = self.model(name)?;
        let key = |k: &str| format!("model.{name}.{k}");
        let place = self.network_place(name);
        let net = |k: &str| format!("{place}.{k}");
        let facts = model.objective.facts();
        if network.uniforms && !facts.shared {
            let at = key("objective.elbo.shared");
            return Err(Error::usage(format!("`{place}.uniforms = true` needs `{at}`"))
                .cause("nothing else tells the network uniforms while it trains")
                .hint(format!("give it one, `{at} = {{ finer = .. }}`, or leave `uniforms` out")));
        }
        self.check_decode(name, model, network)?;
        let bottleneck = matches!(facts.vectors, Vectors::Codec);
        let vectors = !bottleneck && !matches!(facts.vectors, Vectors::None);
        let has = [
            (network.vectors.is_some() && !vectors, "vectors"),
            (network.bottleneck.is_some() && !bottleneck, "bottleneck"),
        ];
        if let Some((_, which)) = has.iter().find(|(wrong, _)| *wrong) {
            return Err(Error::usage(format!(
                "`{}` is not for `{}`",
                net(which),
                key(&format!("objective.{}", facts.key))
            ))
            .hint(match *which {
                "vectors" => "vectors are denoised by `objective.latent` or `objective.embedding`",
                _ => "a bottleneck is trained by `objective.autoencoder`",
            }));
        }
        self.check_segments(name, &model.order)?;
        let site = self.site(name)?;
        site.method.fits(&site, network)
    }

    /// Checks that the segments of an order are the caption and the picture, where the data has them.
    fn check_segments(&self, name: &str, order: &OrderConfig) -> Result<()> {
        match (order, &self.data) {
            (OrderConfig::Mixture(all), _) => all.iter().try_for_each(|order| self.check_segments(name, order)),
            (OrderConfig::Segments { text, block }, DataConfig::Pictures(pictures)) => {
                let shape = pictures.shape();
                if (*text, *block) == (shape.text, shape.cells()) {
                    return Ok(());
                }
                let wants = OrderConfig::Segments { text: shape.text, block: shape.cells() }.shown();
                Err(Error::usage(format!(
                    "`model.{name}.order = {}` does not fit `data.pictures`: a caption has {} words and a picture {} cells",
                    order.shown(),
                    shape.text,
                    shape.cells()
                ))
                .hint(format!("`model.{name}.order = {wants}`")))
            }
            _ => Ok(()),
        }
    }

    /// Checks that what `eval.control` asks for is in the data, and that its judge reads it.
    fn check_control(&self) -> Result<()> {
        if self.eval.control.is_none() {
            return Ok(());
        }
        if !matches!(self.data, DataConfig::Pairs(_)) {
            return Err(Error::usage("`eval.control` needs `data.pairs`, whose attributes conditions ask for")
                .hint("remove `[eval.control]`, or take `data.pairs` with `source = { story = {} }` or files"));
        }
        match self.eval.judge.as_ref().and_then(|name| self.model.get(name)) {
            Some(judge) if judge.from.is_some() => {
                Err(Error::usage("`eval.control` needs a judge of this recipe, which reads the data's tokens")
                    .hint("train an autoregressive model with its own seed and name it in `eval.judge`"))
            }
            _ => self.check_guidance(),
        }
    }

    fn check_judge(&self) -> Result<()> {
        let Some(judge) = &self.eval.judge else {
            return match self.data {
                DataConfig::Text(_) | DataConfig::Pairs(_) => {
                    let data = if matches!(self.data, DataConfig::Text(_)) { "text" } else { "pairs" };
                    Err(Error::usage(format!("`data.{data}` needs `eval.judge`, the model that scores samples"))
                        .hint("train a second autoregressive model with its own seed and name it there"))
                }
                DataConfig::Story(_) | DataConfig::Pictures(_) => Ok(()),
            };
        };
        let exact = match self.data {
            DataConfig::Story(_) => Some("on `data.story` the exact oracle is the judge"),
            DataConfig::Pictures(_) => Some("on `data.pictures` the likelihood is exact"),
            DataConfig::Text(_) | DataConfig::Pairs(_) => None,
        };
        if let Some(exact) = exact {
            return Err(Error::usage(format!("`eval.judge` is for `data.text` and `data.pairs`; {exact}"))
                .hint("remove `eval.judge`"));
        }
        let model = self.model(judge).map_err(|e| Error { message: format!("`eval.judge`: {}", e.message), ..e })?;
        if !model.objective.facts().causal() {
            return Err(Error::usage(format!(
                "`eval.judge` needs an autoregressive model, but `model.{judge}.objective` is \"{}\"",
                model.objective.name()
            ))
            .hint("train a second autoregressive model with its own seed and name it there"));
        }
        // A public judge has seen none of this study.
        for (name, other) in self.model.iter().filter(|_| model.from.is_none()) {
            if name != judge && other.objective.facts().causal() && self.seed(other) == self.seed(model) {
                return Err(Error::usage(format!(
                    "`model.{judge}.seed` and `model.{name}.seed` are both {}",
                    self.seed(other)
                ))
                .cause("a judge must not be one of the compared models")
                .hint(format!("another seed: `model.{judge}.seed = {}`", self.free_seed())));
            }
        }
        self.check_second_judge(judge)
    }

    /// The second judge is a checkpoint as it is: it has seen nothing of this study, and reads its text.
    fn check_second_judge(&self, first: &str) -> Result<()> {
        let Some(second) = &self.eval.second_judge else { return Ok(()) };
        if !matches!(self.data, DataConfig::Text(_)) {
            return Err(Error::usage("`eval.second_judge` is for `data.text`").hint("remove `eval.second_judge`"));
        }
        if second == first {
            return Err(Error::usage(format!("`eval.judge` and `eval.second_judge` are both `{second}`"))
                .hint("name another model, or remove `eval.second_judge`"));
        }
        let model =
            self.model(second).map_err(|e| Error { message: format!("`eval.second_judge`: {}", e.message), ..e })?;
        let as_it_is = model.from.is_some() && model.train.steps == 0;
        match as_it_is && model.objective.facts().causal() {
            true => Ok(()),
            false => Err(Error::usage(format!(
                "`eval.second_judge` needs an autoregressive checkpoint as it is, and `model.{second}` is not one"
            ))
            .cause("it must know nothing of this study's text but what the checkpoint's own training gave it")
            .hint("give it `from` a causal checkpoint that has a tokenizer, the objective `ar_nll`, and no training steps")),
        }
    }

    /// A seed that no model has.
    fn free_seed(&self) -> u64 {
        let taken: Vec<u64> = self.model.values().map(|m| self.seed(m)).chain(self.seeds.iter().copied()).collect();
        (1..).find(|seed| !taken.contains(seed)).unwrap_or(1)
    }
}

fn distinct(seeds: &[u64]) -> Vec<u64> {
    let mut kept: Vec<u64> = Vec::new();
    for seed in seeds {
        if !kept.contains(seed) {
            kept.push(*seed);
        }
    }
    kept
}
