//! A model that writes text, and how texts are drawn from it.

use std::path::Path;

use burn::prelude::Device;

use super::drawing::{Drawing, Request};
use super::own;
use super::public::{Public, Wanted};
use crate::checkpoint::{self, LoadedModel};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::model::family;
use crate::model::{Transformer, TransformerConfig, params};
use crate::sample::{DecodeConfig, Samples};
use crate::study::{ask, device};

/// A model that writes text: one of ours, or a public checkpoint.
///
/// ```no_run
/// use fewstep::prelude::*;
///
/// # fn main() -> fewstep::error::Result<()> {
/// for text in Model::load("runs/quickstart/export/student")?.sampler().steps(8).sample(4)? {
///     println!("{text}");
/// }
/// # Ok(())
/// # }
/// ```
pub struct Model {
    of: Of,
    device: Device,
}

enum Of {
    Own(Box<LoadedModel>),
    Public(Box<(Public, Transformer)>),
}

impl Model {
    /// The model in a directory, or under `hf://owner/name` in the cache of the hub, on the processor (or the first device that this
    /// crate was built with).
    ///
    /// # Errors
    /// A directory that is not a model's or is damaged, a family that is not known, a model without a tokenizer.
    pub fn load(path: impl AsRef<Path>) -> Result<Model> {
        Model::load_on(path, &device::first()?)
    }

    /// The same on a device of the caller's.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_on(path: impl AsRef<Path>, device: &Device) -> Result<Model> {
        let dir = family::resolve(path.as_ref())?;
        let (_, config) = family::read_config(&dir)?;
        let of = if config["model_type"] == "fewstep" {
            checkpoint::whole::verify(&dir)?;
            let own = checkpoint::read(&dir, device)?;
            if own.tokenizer.is_none() {
                return Err(Error::input(format!("{} has no tokenizer", dir.display()))
                    .hint("put the tokenizer.json that it was trained with beside its weights"));
            }
            Of::Own(Box::new(own))
        } else {
            let mut public = Public::look(&dir, &Wanted::Own)?;
            let model = public.load_whole(device)?;
            Of::Public(Box::new((public, model)))
        };
        Ok(Model { of, device: device.clone() })
    }

    /// The network's configuration.
    pub fn network(&self) -> &TransformerConfig {
        match &self.of {
            Of::Own(own) => &own.card.network,
            Of::Public(public) => &public.0.description().network,
        }
    }

    /// The network itself.
    pub fn transformer(&self) -> &Transformer {
        match &self.of {
            Of::Own(own) => &own.model,
            Of::Public(public) => &public.1,
        }
    }

    /// A copy of the network on a device with autodiff, for a training that starts from it.
    pub fn trainable(&self) -> Transformer {
        params::copied(self.transformer(), &self.device.clone().autodiff())
    }

    /// Its tokenizer.
    ///
    /// # Panics
    /// Where a model was loaded without a tokenizer, which cannot be.
    pub fn tokenizer(&self) -> &Tokenizer {
        let tokenizer = match &self.of {
            Of::Own(own) => own.tokenizer.as_ref(),
            Of::Public(public) => public.0.tokenizer(),
        };
        match tokenizer {
            Some(tokenizer) => tokenizer,
            None => panic!("a model is loaded with its tokenizer"),
        }
    }

    /// Draws texts, in as many steps as it was distilled for unless the caller says otherwise.
    pub fn sampler(&self) -> Sampler<'_> {
        Sampler { model: self, request: Request::default() }
    }
}

/// How texts are drawn from a [`Model`].
#[derive(Clone)]
pub struct Sampler<'a> {
    model: &'a Model,
    request: Request,
}

impl Sampler<'_> {
    /// Denoising steps.
    pub fn steps(mut self, steps: usize) -> Self {
        self.request.steps = Some(steps);
        self
    }

    /// The seed: a text is a function of it and of its number.
    pub fn seed(mut self, seed: u64) -> Self {
        self.request.seed = seed;
        self
    }

    /// Texts that are drawn together.
    pub fn batch(mut self, batch: usize) -> Self {
        self.request.batch = batch;
        self
    }

    /// The temperature of the draws.
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.request.filter.temperature = temperature;
        self.request.temperature = Some(temperature);
        self
    }

    /// Draws among the `k` most probable tokens.
    pub fn top_k(mut self, k: usize) -> Self {
        self.request.filter.top_k = Some(k);
        self
    }

    /// Draws among the fewest tokens that have this probability together.
    pub fn top_p(mut self, p: f64) -> Self {
        self.request.filter.top_p = Some(p);
        self
    }

    /// The text that each sample begins with.
    pub fn prompt(mut self, prompt: impl Into<String>) -> Self {
        self.request.prompt = Some(prompt.into());
        self
    }

    /// A text with gaps to fill, each `_` one token.
    pub fn infill(mut self, template: impl Into<String>) -> Self {
        self.request.infill = Some(template.into());
        self
    }

    /// Tokens of a text, the prompt among them: of a public checkpoint its prompt and 128 if it is not given, of a model of ours
    /// its training length.
    pub fn length(mut self, length: usize) -> Self {
        self.request.length = Some(length);
        self
    }

    /// Another way than its own, such as `DecodeConfig::Order(OrderConfig::Strided(8))`.
    pub fn decode(mut self, decode: DecodeConfig) -> Self {
        self.request.decode = Some(decode);
        self
    }

    /// A sampler that was published with a family of checkpoints, such as `llada`, in the place of the exact one.
    pub fn published(mut self, sampler: impl Into<String>) -> Self {
        self.request.sampler = Some(sampler.into());
        self
    }

    /// `n` texts: what the binary prints for the same model, seed and options.
    ///
    /// # Errors
    /// Steps that the order cannot be walked in, a way that does not fit the network, a prompt that is too long.
    pub fn sample(&self, n: usize) -> Result<Vec<String>> {
        self.drawn(n, &|drawing, samples| samples.tokens.iter().map(|ids| drawing.text(ids)).collect())
    }

    /// `n` samples as token ids, with what they cost; what is put in front of a text is among them.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub fn draw(&self, n: usize) -> Result<Samples> {
        self.drawn(n, &|_, samples| samples)
    }

    fn drawn<T>(&self, n: usize, of: &dyn Fn(&Drawing, Samples) -> T) -> Result<T> {
        let Request { batch, .. } = self.request;
        let request = Request { batch: batch.clamp(1, n.max(1)), ..self.request.clone() };
        let room = |vocab: usize, length: usize| {
            ask::samples(self.model.network(), vocab, length, 0, request.batch, 1, &self.model.device)
        };
        let drawing = match &self.model.of {
            Of::Own(own) => {
                room(own.card.vocab_size, own.card.max_position_embeddings)?;
                own::drawing(own, &request)?
            }
            Of::Public(public) => {
                let (public, network) = &**public;
                let given = public.given(&request)?;
                room(public.description().vocab, given.length)?;
                public.drawing(network, given, &request)?
            }
        };
        let samples = drawing.draw(0..n)?;
        Ok(of(&drawing, samples))
    }
}
