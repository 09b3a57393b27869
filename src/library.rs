//! The library's front door: a study from a recipe, a model from a directory or the hub, and texts from a model.
//!
//! Nothing here prints, ends the process, or listens to signals: progress goes to stderr only where [`term::set_loudness`] asks for it.

use std::path::{Path, PathBuf};

use burn::prelude::Device;

use crate::checkpoint::{self, LoadedModel, exact_process};
use crate::data::documents;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::eval::results::Results;
use crate::model::draw::Filter;
use crate::model::family::{self, Description, LoadOptions};
use crate::model::{Transformer, TransformerConfig};
use crate::recipe::{self, Loaded};
use crate::sample::decode::walkable;
use crate::sample::given::{filled, given};
use crate::sample::{DecodeConfig, Generator, Process, SampleSpec, Samples};
use crate::study::seeds::Seeds;
use crate::study::{self, device};
use crate::term::Interrupt;

/// A study that a recipe describes.
///
/// ```no_run
/// use fewstep::prelude::*;
///
/// # fn main() -> fewstep::error::Result<()> {
/// let results = Study::open("quickstart")?.set("model.student.train.steps=500").out("runs/short").run()?;
/// println!("{} models", results.models.len());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Study {
    recipe: String,
    sets: Vec<String>,
    out: Option<PathBuf>,
    device: String,
}

impl Study {
    /// The study of a recipe file, or of the built-in recipe of that name.
    ///
    /// # Errors
    /// A recipe that is not there or contradicts itself.
    pub fn open(recipe: impl AsRef<Path>) -> Result<Study> {
        let recipe = recipe.as_ref().to_string_lossy().into_owned();
        let study = Study {
            recipe,
            sets: Vec::new(),
            out: None,
            device: device::compiled().first().unwrap_or(&"flex").to_string(),
        };
        study.loaded().map(|_| study)
    }

    /// Overrides a key of the recipe, as `model.student.train.steps=500`.
    pub fn set(mut self, key_value: impl Into<String>) -> Self {
        self.sets.push(key_value.into());
        self
    }

    /// The directory of the run; `runs/NAME` if it is not given.
    pub fn out(self, dir: impl Into<PathBuf>) -> Self {
        Study { out: Some(dir.into()), ..self }
    }

    /// The device to compute on, as on the command line: `flex`, `cuda:0`, ...; the first that this crate was built with if it is not given.
    pub fn device(self, name: impl Into<String>) -> Self {
        Study { device: name.into(), ..self }
    }

    /// Does what the study still lacks: trains, evaluates, writes its report and its exports.
    ///
    /// # Errors
    /// A recipe that contradicts itself, data or checkpoints that cannot be read, another process in the directory, numbers that are not
    /// finite, no memory, I/O. What is finished stays, and the same call goes on.
    pub fn run(&self) -> Result<Results> {
        let (loaded, device) = (self.loaded()?, (device::open(&self.device)?, self.device.as_str()));
        let dir = self.out.clone();
        let done = match loaded.recipe.seeds.is_empty() {
            true => study::Study::open(loaded, dir, device, Interrupt::default())?.complete(),
            false => Seeds::open(loaded, dir, device, Interrupt::default())?.complete(),
        };
        done.map(|(results, _)| results)
    }

    fn loaded(&self) -> Result<Loaded> {
        recipe::load(&self.recipe, &self.sets)
    }
}

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
    tokenizer: Tokenizer,
}

enum Of {
    Own(Box<LoadedModel>),
    Public(Box<(Transformer, Description, Process)>),
}

impl Model {
    /// The model in a directory, or under `hf://owner/name` in the cache of the hub, on the processor (or the first device that this crate was built with).
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
        let no_tokenizer = || {
            Error::input(format!("{} has no tokenizer", dir.display()))
                .hint("put the tokenizer.json that it was trained with beside its weights")
        };
        if config["model_type"] == "fewstep" {
            checkpoint::whole::verify(&dir)?;
            let own = checkpoint::read(&dir, device)?;
            let tokenizer = own.tokenizer.clone().ok_or_else(no_tokenizer)?;
            return Ok(Model { of: Of::Own(Box::new(own)), tokenizer });
        }
        let tokenizer = family::tokenizer(&dir)?.ok_or_else(no_tokenizer)?;
        let loaded = family::load(&dir, &LoadOptions::default(), device)?;
        let description = loaded.description;
        let model = match description.special.mask {
            Some(mask) => loaded.model.with_mask(mask as usize),
            None => loaded.model,
        };
        let model = model.with_tokens(tokenizer.vocab_size()).without(&tokenizer.without_text());
        let process = exact_process(&description, description.length, None)?;
        Ok(Model { of: Of::Public(Box::new((model, description, process))), tokenizer })
    }

    /// The network's configuration.
    pub fn network(&self) -> &TransformerConfig {
        match &self.of {
            Of::Own(own) => &own.card.network,
            Of::Public(public) => &public.1.network,
        }
    }

    /// The network itself.
    pub fn transformer(&self) -> &Transformer {
        match &self.of {
            Of::Own(own) => &own.model,
            Of::Public(public) => &public.0,
        }
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Draws texts, in as many steps as it was distilled for unless the caller says otherwise.
    pub fn sampler(&self) -> Sampler<'_> {
        Sampler {
            model: self,
            steps: None,
            seed: 0,
            batch: 16,
            filter: Filter::default(),
            prompt: None,
            infill: None,
            decode: None,
        }
    }
}

/// Steps of a model that says nothing of its own.
const USUAL_STEPS: usize = 64;

/// How texts are drawn from a [`Model`].
#[derive(Clone)]
pub struct Sampler<'a> {
    model: &'a Model,
    steps: Option<usize>,
    seed: u64,
    batch: usize,
    filter: Filter,
    prompt: Option<String>,
    infill: Option<String>,
    decode: Option<DecodeConfig>,
}

impl Sampler<'_> {
    /// Denoising steps.
    pub fn steps(self, steps: usize) -> Self {
        Sampler { steps: Some(steps), ..self }
    }

    /// The seed: a text is a function of it and of its number.
    pub fn seed(self, seed: u64) -> Self {
        Sampler { seed, ..self }
    }

    /// Texts that are drawn together.
    pub fn batch(self, batch: usize) -> Self {
        Sampler { batch: batch.max(1), ..self }
    }

    /// The temperature of the draws.
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.filter.temperature = temperature;
        self
    }

    /// The text that each sample begins with.
    pub fn prompt(self, prompt: impl Into<String>) -> Self {
        Sampler { prompt: Some(prompt.into()), ..self }
    }

    /// A text with gaps to fill, each `_` one token.
    pub fn infill(self, template: impl Into<String>) -> Self {
        Sampler { infill: Some(template.into()), ..self }
    }

    /// Another way than its own, such as `DecodeConfig::Order(OrderConfig::Strided(8))`.
    pub fn decode(self, decode: DecodeConfig) -> Self {
        Sampler { decode: Some(decode), ..self }
    }

    /// `n` texts.
    ///
    /// # Errors
    /// Steps that the order cannot be walked in, a way that does not fit the network, a prompt that is too long.
    pub fn sample(&self, n: usize) -> Result<Vec<String>> {
        let drawn = self.draw(n)?;
        let end = match &self.model.of {
            Of::Own(own) => own.card.end_token_id,
            Of::Public(public) => public.1.ends.first().copied(),
        };
        let text = |ids: &Vec<u32>| {
            let ids = end.map_or(&ids[..], |end| documents::told(ids, end));
            self.model.tokenizer.decode(ids)
        };
        Ok(drawn.tokens.iter().map(text).collect())
    }

    /// `n` samples as token ids, with what they cost.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub fn draw(&self, n: usize) -> Result<Samples> {
        let tokenizer = &self.model.tokenizer;
        let texts = (self.prompt.as_deref(), self.infill.as_deref());
        let encode = |text: &str| tokenizer.encode(text.as_bytes());
        let words = matches!(tokenizer, Tokenizer::Words(_));
        let own = match &self.model.of {
            Of::Own(own) => own.card.process(),
            Of::Public(public) => public.2,
        };
        if let Some(why) = self.decode.as_ref().and_then(|decode| decode.misfit(self.model.network())) {
            return Err(Error::usage("the model cannot be sampled in this way").cause(why).hint("leave `decode` out"));
        }
        let process = self.decode.as_ref().map_or(own, |decode| decode.process(own));
        let usual = match &self.model.of {
            Of::Own(own) => own.card.generation.map(|g| g.steps),
            Of::Public(_) => None,
        };
        let steps = self.steps.unwrap_or_else(|| walkable(&process, &[usual.unwrap_or(USUAL_STEPS)])[0]);
        let spec = SampleSpec {
            filter: self.filter,
            pinned: filled(given(texts, &encode, words)?, process.length)?,
            ..SampleSpec::new(steps, self.seed, self.batch)
        };
        match &self.model.of {
            Of::Own(own) => own.generator(process)?.sample(&spec, n),
            Of::Public(public) => Generator::Tokens(&public.0, process).sample(&spec, n),
        }
    }
}
