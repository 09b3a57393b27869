//! Checks of autoencoders and of models of their latents.

use super::{ModelConfig, Network, Recipe};
use crate::error::{Error, Result, within};
use crate::method::beside;
use crate::method::distill::Refresh;
use crate::method::{Method, Objective, few_step};
use crate::model::TransformerConfig;
use crate::model::config::{TimeInput, Visibility};
use crate::process::order::OrderConfig;

impl Recipe {
    /// What training a model takes, counted: forward passes over a sequence and the positions computed in them, those of its
    /// teacher and of reading latents among them. Half an autoencoder reads, half of it writes.
    pub fn train_cost(&self, name: &str, length: usize) -> Result<(u64, u64)> {
        let model = self.model(name)?;
        let [steps, batch, parts] =
            [model.train.steps, model.train.batch, model.train.accumulate].map(|count| count as f64);
        let sequences = steps * batch * parts;
        let network = match self.network(name)? {
            Network::Given(network) => Some(network),
            Network::From(_) => None,
        };
        let twice = match self.latent(name)? {
            Some((_, root)) => {
                root.self_conditioning > 0.0
                    && network.and_then(|n| n.vectors.as_ref()).is_some_and(|v| v.self_conditioning)
            }
            None => false,
        };
        // Self-conditioning reads an estimate first: a teacher always, a model in training in a share of its steps.
        let (mut passes, texts) = match &model.objective {
            Objective::LatentDistill(c) => (c.forwards(twice), c.texts()),
            Objective::Latent(c) => (if twice { 1.0 + c.self_conditioning } else { 1.0 }, 1.0),
            other => (other.forwards(), 0.0),
        };
        let mut positions = passes * network.map_or(length, |n| n.places(length)) as f64;
        // Finished text is read beside the noise.
        let length_of_order = network.map_or(length, |n| n.places(length)).max(1);
        let orders = model.order.all(length_of_order);
        let both =
            orders.iter().filter(|order| beside(**order, length_of_order)).count() as f64 / orders.len().max(1) as f64;
        let reads_both = match &model.objective {
            Objective::Sdtt(_) => !model.order.phased(),
            Objective::Elbo { .. } | Objective::Latent(_) => true,
            _ => false,
        };
        if reads_both {
            positions *= 1.0 + both;
        }
        if let Some(bottleneck) = network.and_then(|n| n.bottleneck.as_ref()) {
            positions += 2.0 * bottleneck.latents as f64 + length as f64;
            // Phases are read beside the text.
            if bottleneck.decoder.phases(bottleneck.latents, length).is_some() {
                positions += (bottleneck.latents + length) as f64;
            }
        }
        if let Some(vectors) = network.and_then(|n| n.vectors.as_ref()) {
            passes += 0.5 * texts;
            positions += texts * (length + vectors.count) as f64;
        }
        Ok(((sequences * passes).round() as u64, (sequences * positions).round() as u64))
    }

    /// Checks that the objective of a model of latents, or of an autoencoder, fits its network and those it is made with.
    pub(super) fn check_latent(&self, name: &str, model: &ModelConfig, network: &TransformerConfig) -> Result<()> {
        let key = |k: &str| format!("model.{name}.{k}");
        let needs =
            |has: &str, other: &str, wants: &str| Error::usage(format!("`{}` needs `{}`{wants}", key(has), key(other)));
        if model.from.is_some() || model.lora.is_some() || model.keep_layers.is_some() || !model.decode.is_empty() {
            return Err(Error::usage(format!(
                "`{}` stands beside `from`, `lora`, `keep_layers` or `decode`",
                key("objective")
            ))
            .hint("models of latents are whole networks of this recipe"));
        }
        match &model.objective {
            Objective::Autoencoder(c) => {
                if network.bottleneck.is_none() {
                    return Err(needs("objective.autoencoder", "network.bottleneck", "")
                        .hint("`network.bottleneck = { latents = M, width = d, decoder_layers = n }`"));
                }
                within(&key("objective.autoencoder.noise"), c.noise, 0.0..=10.0)?;
                within(&key("objective.autoencoder.token_dropout"), c.token_dropout, 0.0..=0.999)?;
                match model.order == OrderConfig::Parallel {
                    true => Ok(()),
                    false => Err(needs("objective.autoencoder", "order", " = \"parallel\"")
                        .hint(format!("`{} = \"parallel\"`", key("order")))),
                }
            }
            Objective::Latent(c) => {
                let Some(vectors) = &network.vectors else {
                    return Err(needs("objective.latent", "network.vectors", "")
                        .hint("`network.vectors = { count = M, width = d }`, as the autoencoder has them"));
                };
                let at = key("objective.latent.codec");
                let codec =
                    self.model(&c.codec).map_err(|e| Error { message: format!("`{at}`: {}", e.message), ..e })?;
                let theirs = match (&codec.objective, self.network(&c.codec)?) {
                    (Objective::Autoencoder(_), Network::Given(network)) => network.bottleneck.as_ref(),
                    _ => None,
                };
                let Some(theirs) = theirs else {
                    return Err(Error::usage(format!("`{at}` names `{}`, which is not an autoencoder", c.codec))
                        .hint("name a model whose objective is `autoencoder`"));
                };
                if (theirs.latents, theirs.width) != (vectors.count, vectors.width) {
                    return Err(Error::usage(format!(
                        "`{}` are {} of width {}, but `model.{}.network.bottleneck` has {} of width {}",
                        key("network.vectors"),
                        vectors.count,
                        vectors.width,
                        c.codec,
                        theirs.latents,
                        theirs.width
                    ))
                    .hint(format!(
                        "`{}.count = {}` and `{}.width = {}`",
                        key("network.vectors"),
                        theirs.latents,
                        key("network.vectors"),
                        theirs.width
                    )));
                }
                for (k, v) in
                    [("self_conditioning", c.self_conditioning), ("drop_condition", c.drop_condition), ("eta", c.eta)]
                {
                    within(&key(&format!("objective.latent.{k}")), v, 0.0..=1.0)?;
                }
                within(&key("objective.latent.guidance"), c.guidance, -1e3..=1e3)?;
                if c.guidance != 1.0 && vectors.condition == 0 {
                    return Err(needs(
                        "objective.latent.guidance",
                        "network.vectors.condition",
                        " of at least 1 token",
                    )
                    .hint(format!("`{} = 1.0` guides by nothing", key("objective.latent.guidance"))));
                }
                if vectors.codebook {
                    return Err(Error::usage(format!(
                        "`{}` is for `objective.embedding`",
                        key("network.vectors.codebook")
                    ))
                    .hint("latents are no vectors of tokens: leave it out"));
                }
                if vectors.condition > self.length().unwrap_or(usize::MAX) {
                    return Err(Error::usage(format!(
                        "`{}` asks for {} tokens of texts of {}",
                        key("network.vectors.condition"),
                        vectors.condition,
                        self.length().unwrap_or(0)
                    ))
                    .hint(format!(
                        "`{} = {}` at most",
                        key("network.vectors.condition"),
                        self.length().unwrap_or(0)
                    )));
                }
                self.check_latent_order(name, model, network)
            }
            Objective::LatentDistill(c) => {
                let Some((_, root)) = self.latent(name)? else {
                    return Err(Error::usage(format!(
                        "`{}` names `{}`, which is not a diffusion of latents",
                        key("objective.latent_distill.teacher"),
                        c.teacher
                    ))
                    .hint("name a model whose objective is `latent`"));
                };
                let theirs = &self.model(&c.teacher)?.objective;
                let halves = |o: &Objective| matches!(o, Objective::LatentDistill(c) if matches!(c.method, Method::Progressive(_)));
                let taught = matches!(theirs, Objective::Latent(_)) || halves(theirs) && halves(&model.objective);
                if !taught {
                    return Err(Error::usage(format!(
                        "`{}` names `{}`, which is a few-step student itself",
                        key("objective.latent_distill.teacher"),
                        c.teacher
                    ))
                    .hint("a student learns from the denoiser of latents; only a progressive one also from a progressive one"));
                }
                c.validate(&key("objective.latent_distill"), few_step::process(root))?;
                if self.network(name)? != self.network(&c.teacher)? {
                    return Err(Error::usage(format!(
                        "`{}` differs from `model.{}.network`",
                        key("network"),
                        c.teacher
                    ))
                    .hint("a student starts from its teacher's weights: leave its `network` out"));
                }
                let two = network.vectors.as_ref().is_some_and(|v| v.two_times);
                if c.two_times() && !two {
                    return Err(Error::usage(format!(
                        "`{}` needs `{}.vectors.two_times = true`",
                        key("objective.latent_distill.method"),
                        self.network_place(name)
                    ))
                    .cause("the student is told where a step ends, in its teacher's network")
                    .hint(format!("`{}.vectors.two_times = true`", self.network_place(name))));
                }
                let average = match &c.method {
                    Method::Progressive(p) => p.refresh == Refresh::Ema,
                    Method::Consistency(p) => p.target == Refresh::Ema,
                    _ => false,
                };
                if average && model.train.ema.is_none() {
                    return Err(needs("objective.latent_distill.method", "train.ema", "")
                        .hint(format!("`{} = 0.999`", key("train.ema"))));
                }
                if model.order != OrderConfig::Parallel {
                    return Err(needs("objective.latent_distill", "order", " = \"parallel\"")
                        .cause("few-step students take all latents at once")
                        .hint(format!("`{} = \"parallel\"`", key("order"))));
                }
                if let Method::Progressive(p) = &c.method {
                    let at = key("objective.latent_distill.method.progressive.rounds");
                    self.check_rounds(name, &at, p.rounds)?;
                }
                self.check_latent_order(name, model, network)
            }
            _ => Ok(()),
        }
    }

    /// Which latents the network sees, and which times it is told, must be those of its order.
    fn check_latent_order(&self, name: &str, model: &ModelConfig, network: &TransformerConfig) -> Result<()> {
        let key = |k: &str| format!("model.{name}.{k}");
        model.order.validate(&key("order"))?;
        let net = self.network_place(name);
        let needs = |other: &str, wants: &str| {
            Err(Error::usage(format!(
                "`{} = {}` over latents needs `{net}.{other} = {wants}`",
                key("order"),
                model.order.shown()
            ))
            .hint(format!("`{net}.{other} = {wants}`")))
        };
        match &model.order {
            OrderConfig::Parallel if network.visibility == Visibility::Full => Ok(()),
            OrderConfig::Parallel => needs("visibility", "\"full\""),
            _ if network.time != TimeInput::Position => needs("time", "\"position\""),
            OrderConfig::Blocks(b) if network.visibility == Visibility::Blocks(*b) => Ok(()),
            OrderConfig::Blocks(b) => needs("visibility", &format!("{{ blocks = {b} }}")),
            OrderConfig::ArDiffusion { .. } | OrderConfig::Pipelined { .. }
                if network.visibility == Visibility::Full =>
            {
                Ok(())
            }
            OrderConfig::ArDiffusion { .. } | OrderConfig::Pipelined { .. } => needs("visibility", "\"full\""),
            order if order.phased() && !order.follows_steps() && !matches!(order, OrderConfig::Mixture(_)) => {
                order.validate(&key("order"))?;
                match network.visibility {
                    Visibility::Order => Ok(()),
                    _ => needs("visibility", "\"order\""),
                }
            }
            _ => Err(Error::usage(format!("`{} = {}` is not for latents", key("order"), model.order.shown())).hint(
                "use \"parallel\", { blocks = N }, { strided = K }, { pipelined = ... } or { ar_diffusion = ... }",
            )),
        }
    }
}
