//! Texts of a public checkpoint: by the exact two-stage sampler where the mathematics allows, by a published sampler
//! where one is named, and token by token through the cache where the model is autoregressive.
//!
//! L length.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::prelude::Device;
use rand::Rng;

use super::drawing::{Beams, Draw, Drawing, LONGEST, Request, beams};
use crate::checkpoint::exact_process;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::model::config::Visibility;
use crate::model::family::{self, Description, LoadOptions, Prediction};
use crate::model::{Denoise, Transformer};
use crate::rng::{StepRng, Stream};
use crate::sample::family::{Draws, Plan, Sampler, Settings, walk};
use crate::sample::given::{filled, given};
use crate::sample::{DecodeConfig, Process, Samples, beam, sample};
use crate::term;

/// Tokens that are written behind a prompt unless a length is asked for, and steps unless their number is.
const WRITTEN: usize = 128;
const STEPS: usize = 64;

/// Which tokenizer a checkpoint is read with.
#[derive(Debug, Clone, Default)]
pub enum Wanted {
    /// The one beside it.
    #[default]
    Own,
    /// That of a file, or of a directory.
    Of(PathBuf),
    /// None: texts are token ids.
    Ids,
}

/// How texts and token ids become each other.
enum Speech {
    /// By a tokenizer, and the directory that it lies in.
    Text(Tokenizer, Option<PathBuf>),
    /// Ids themselves, of a vocabulary of this size.
    Ids(usize),
}

impl Speech {
    fn of(wanted: &Wanted, dir: &Path, d: &Description) -> Result<Speech> {
        let (found, place) = match wanted {
            Wanted::Ids => return Ok(Speech::Ids(d.vocab)),
            Wanted::Of(path) if path.is_dir() => (Tokenizer::load_dir(path)?, Some(path.clone())),
            Wanted::Of(path) => (Some(Tokenizer::load_file(path)?), None),
            Wanted::Own => (family::tokenizer(dir)?, Some(dir.to_path_buf())),
        };
        match found {
            Some(t) if t.vocab_size() > d.vocab => Err(Error::input(format!(
                "the tokenizer has {} tokens, and the model in {} knows {}",
                t.vocab_size(),
                dir.display(),
                d.vocab
            ))
            .hint("give the tokenizer that the model was trained with")),
            Some(t) => Ok(Speech::Text(t, place)),
            None => Err(Error::input(format!("{} holds no tokenizer", dir.display()))
                .hint("give one by `--tokenizer PATH`, or read and write token ids by `--ids`")),
        }
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let vocab = match self {
            Speech::Text(tokenizer, _) => return tokenizer.encode(text.as_bytes()),
            Speech::Ids(vocab) => *vocab,
        };
        let id = |word: &str| {
            word.parse::<u32>().ok().filter(|id| (*id as usize) < vocab).ok_or_else(|| {
                Error::usage(format!("`{word}` is not a token id below {vocab}"))
                    .hint("with `--ids`, write ids like `5 17 2`")
            })
        };
        text.split([' ', ',']).filter(|word| !word.is_empty()).map(id).collect()
    }

    fn decode(&self, ids: &[u32]) -> Vec<u8> {
        match self {
            Speech::Text(tokenizer, _) => tokenizer.decode_bytes(ids),
            Speech::Ids(_) => ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ").into_bytes(),
        }
    }
}

/// A public checkpoint that was looked at: what it is, and how its texts are read.
pub struct Public {
    dir: PathBuf,
    description: Description,
    speech: Speech,
}

/// What is given of the texts, before any tensor is read.
pub struct Given {
    pinned: Vec<Option<u32>>,
    /// Tokens that were put in front.
    start: usize,
    /// Tokens of a text.
    pub length: usize,
    sampler: Option<Sampler>,
}

impl Public {
    /// Reads what the checkpoint in `dir` says of itself.
    ///
    /// # Errors
    /// A family that is not known, a masked one without a mask token, no tokenizer or one of another model.
    pub fn look(dir: &Path, tokenizer: &Wanted) -> Result<Public> {
        let (mut description, _) = family::look(dir)?;
        let speech = Speech::of(tokenizer, dir, &description)?;
        if let Speech::Text(tokenizer, _) = &speech {
            family::settle(dir, &mut description, Some(tokenizer))?;
        }
        description.notes.iter().for_each(|note| term::warn(note));
        let masked = matches!(description.family.prediction(), Prediction::Subs | Prediction::Logits);
        if masked && description.special.mask.is_none() {
            return Err(Error::input(format!("{} names no mask token", dir.display()))
                .hint("`mask_token_id` in config.json, or the tokenizer (`--tokenizer PATH`), must name it"));
        }
        Ok(Public { dir: dir.to_path_buf(), description, speech })
    }

    /// What it is.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Its tokenizer, where it is read with one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        match &self.speech {
            Speech::Text(tokenizer, _) => Some(tokenizer),
            Speech::Ids(_) => None,
        }
    }

    /// Pins what is given of the texts.
    ///
    /// # Errors
    /// A sampler or options that do not fit, a length or a prompt that is too long (usage).
    pub fn given(&self, request: &Request) -> Result<Given> {
        let d = &self.description;
        request.validate()?;
        let sampler = request.sampler.as_deref().map(Sampler::named).transpose()?;
        if sampler.is_none() && request.stop_entropy.is_some() {
            return Err(Error::usage("`--stop-entropy` needs `--sampler bd3lm` on a public checkpoint"));
        }
        if let Some(sampler) = sampler {
            sampler.plan(d, 0, d.length.max(1), &Settings::default())?;
        }
        let ids = matches!(self.speech, Speech::Ids(_));
        let mut pinned =
            given(request.prompt.as_deref(), request.infill.as_deref(), &|text| self.speech.encode(text), ids)?;
        let start = beginning(d, &self.speech, &mut pinned)?;
        let slides = sampler.is_some_and(Sampler::slides);
        let length = length_of(request.length, &self.dir, d, slides, pinned.len())?;
        Ok(Given { pinned: filled(pinned, length)?, start, length, sampler })
    }

    /// Reads its network, with the mask of its checkpoint, for texts of as many tokens as `options` say; it never draws rows of the
    /// embedding without text, whatever the family.
    ///
    /// # Errors
    /// Weights that cannot be read.
    pub fn load(&self, options: LoadOptions, device: &Device) -> Result<Transformer> {
        let length = options.length.map(|length| length.min(self.description.length));
        let options = LoadOptions { length, ..options };
        let model = family::load(&self.dir, &options, device)?.model;
        let model = match self.description.special.mask {
            Some(mask) => model.with_mask(mask as usize),
            None => model,
        };
        let beside = family::tokenizer(&self.dir)?;
        Ok(match self.tokenizer().or(beside.as_ref()) {
            Some(tokenizer) => model.with_tokens(tokenizer.vocab_size()).without(&tokenizer.without_text()),
            None => model,
        })
    }

    /// Reads its network for texts of any length that a program asks for later, up to 4096 tokens where the checkpoint does not hold
    /// its positions: tables for the longest texts that public models read would take gigabytes.
    ///
    /// # Errors
    /// As [`Public::load`].
    pub fn load_whole(&mut self, device: &Device) -> Result<Transformer> {
        if !self.description.network.learned_positions {
            self.description.length = self.description.length.min(family::DEFAULT_LENGTH);
        }
        self.load(LoadOptions { length: Some(self.description.length), ..LoadOptions::default() }, device)
    }

    fn shown<'a>(&'a self, given: &Given, how: String, draw: Draw<'a>) -> Drawing<'a> {
        let (start, prompt) = (given.start, given.prompt());
        let decode = Box::new(move |ids: &[u32]| self.speech.decode(written(&self.description, ids, start, prompt)));
        Drawing { name: self.description.family.name().to_string(), how, decode, draw }
    }

    /// The texts that are asked for, of the network that was read.
    ///
    /// # Errors
    /// What is asked for does not fit the model.
    pub fn drawing<'a>(&'a self, model: &'a Transformer, given: Given, request: &'a Request) -> Result<Drawing<'a>> {
        let d = &self.description;
        let (length, prompt) = (given.length, given.prompt());
        let answer = move |ids: &[u32]| written(d, ids, prompt, prompt).to_vec();
        // Of uniform noise no position is known to be noise, so the exact sampler does not apply.
        let uniform = d.special.mask.is_none() && d.family.prediction() != Prediction::NextToken;
        match given.sampler.or(Sampler::published(d.family).filter(|_| uniform)) {
            Some(sampler) => {
                if request.decode.is_some() {
                    return Err(Error::usage(format!("`--decode` beside the sampler `{}`", sampler.name()))
                        .cause("a published sampler has an order of its own")
                        .hint("leave `--decode` out"));
                }
                let plan = planned(request, d, model, sampler, &given.pinned, length)?;
                let blocks = plan.blocks.len();
                let among = if blocks > 1 { format!(" in {blocks} blocks") } else { String::new() };
                let how = format!("sampler {}, {} steps{among}", sampler.name(), plan.steps * blocks);
                let pinned = given.pinned.clone();
                let draw = move |texts: Range<usize>| {
                    Ok(request.chosen(published(request, d, model, &plan, &pinned, length, texts)?, &answer))
                };
                Ok(self.shown(&given, how, Box::new(draw)))
            }
            None => {
                let process = decoded(request, d, exact_process(d, length, request.block)?)?;
                let steps = request.steps_of(&process, STEPS, model.over_blocks())?;
                let spec = request.spec(steps, given.pinned.clone());
                let draw = move |texts: Range<usize>| {
                    let (spec, n) = request.part(&spec, texts);
                    Ok(request.chosen(sample(model, &process, &spec, n)?, &answer))
                };
                Ok(self.shown(&given, format!("{steps} steps"), Box::new(draw)))
            }
        }
    }

    /// The most probable texts of a model that writes token by token.
    ///
    /// # Errors
    /// As [`Public::drawing`], and a model that does not write token by token.
    pub fn search<'a>(
        &'a self,
        model: &Transformer,
        given: Given,
        request: &Request,
        wide: Beams,
    ) -> Result<(Drawing<'a>, Vec<beam::Hypothesis>)> {
        let d = &self.description;
        let process = decoded(request, d, exact_process(d, given.length, None)?)?;
        let found = beams(model, &process, &given.pinned, wide, &d.ends)?;
        Ok((self.shown(&given, String::new(), Box::new(|_| Ok(Samples::default()))), found))
    }
}

impl Given {
    /// Tokens that every text begins with.
    fn prompt(&self) -> usize {
        self.pinned.iter().take_while(|p| p.is_some()).count()
    }
}

/// Tokens of the texts: as many as are `asked` for, or those that the model reads behind what is given.
fn length_of(asked: Option<usize>, dir: &Path, d: &Description, slides: bool, given: usize) -> Result<usize> {
    match asked {
        Some(length) if length > d.length && !slides => {
            let blocks = matches!(d.network.visibility, Visibility::Blocks(_));
            let more = if blocks { ", or `--sampler bd3lm`, which writes longer texts" } else { "" };
            Err(Error::usage(format!("`--length {length}`: the model in {} reads {}", dir.display(), d.length))
                .hint(format!("at most `--length {}`{more}", d.length)))
        }
        Some(length) if length > LONGEST => Err(Error::usage(format!("`--length {length}` is more than {LONGEST}"))),
        Some(length) => Ok(length),
        None => Ok(d.length.min(given + WRITTEN)),
    }
}

/// Puts in front what a causal model's texts begin with, and says how many tokens of the canvas that is.
///
/// That is what the tokenizer puts before every text, most often nothing; token ids are taken as they are given. Without
/// anything to go on from, a first token is needed: the one that begins a text, or the one that stands between texts.
fn beginning(d: &Description, speech: &Speech, pinned: &mut Vec<Option<u32>>) -> Result<usize> {
    if d.family.prediction() != Prediction::NextToken {
        return Ok(0);
    }
    let mut front = match speech {
        Speech::Text(tokenizer, place) => tokenizer.front(place.as_deref(), d.special.bos)?,
        Speech::Ids(_) => Vec::new(),
    };
    if let Some(id) = front.iter().find(|id| **id as usize >= d.vocab) {
        return Err(Error::input(format!("the tokenizer begins every text with the id {id}"))
            .cause(format!("the model has a vocabulary of {}", d.vocab))
            .hint("give the tokenizer that the model was trained with"));
    }
    if pinned.is_empty() && front.is_empty() {
        front.extend(d.special.bos.or(d.special.eos));
    }
    if front.is_empty() && pinned.is_empty() {
        return Err(Error::usage("the model names no token that a text begins with")
            .hint("give the beginning of a text by `--prompt`"));
    }
    if pinned.iter().take(front.len()).copied().eq(front.iter().copied().map(Some)) {
        return Ok(0);
    }
    pinned.splice(0..0, front.iter().copied().map(Some));
    Ok(front.len())
}

/// The part of a canvas that is text: behind the `start` that was put in front, up to the first of the end tokens behind the
/// prompt where the family's texts end with one. (MDLM's and its relatives' are cut out of a stream of texts.)
fn written<'a>(d: &Description, ids: &'a [u32], start: usize, prompt: usize) -> &'a [u32] {
    let ends = match d.family.prediction() {
        Prediction::NextToken | Prediction::Logits => &d.ends[..],
        _ => &[],
    };
    let from = prompt.min(ids.len());
    let end = ids[from..].iter().position(|id| ends.contains(id)).map_or(ids.len(), |at| from + at);
    &ids[start.min(end)..end]
}

/// The process in the order of `--decode`, where a masked checkpoint that sees everything is asked for one.
fn decoded(request: &Request, d: &Description, process: Process) -> Result<Process> {
    let Some(decode) = &request.decode else { return Ok(process) };
    if request.block.is_some() {
        return Err(Error::usage("`--block` and `--decode` both say in which order a text is written")
            .hint("leave `--block` out"));
    }
    let masked = d.family.prediction() != Prediction::NextToken;
    let ordered = matches!(decode, DecodeConfig::Order(_) | DecodeConfig::Mbr { .. });
    match decode.misfit(&d.network).filter(|_| ordered) {
        None if ordered && masked => Ok(decode.process(process)),
        why => Err(Error::usage(format!("`--decode` does not fit {} models", d.family.name()))
            .cause(why.unwrap_or("a public checkpoint is asked for an order: `{ order = .. }`"))
            .hint("leave `--decode` out; a masked checkpoint that sees everything takes `--decode '{ order = { strided = 8 } }'`")),
    }
}

/// How a published sampler writes the texts that are asked for.
fn planned(
    request: &Request,
    d: &Description,
    model: &Transformer,
    sampler: Sampler,
    pinned: &[Option<u32>],
    length: usize,
) -> Result<Plan> {
    if request.filter.top_k.is_some() {
        return Err(Error::usage(format!("`--sampler {}` has no `--top-k`", sampler.name()))
            .hint("leave `--sampler` out: the exact sampler has it"));
    }
    let settings = Settings {
        steps: request.steps,
        block: request.block,
        temperature: request.temperature,
        threshold: request.threshold,
        eta: request.eta,
        top_p: request.filter.top_p,
        stop_entropy: request.stop_entropy,
        stop_window: request.stop_window,
    };
    let start = pinned.iter().take_while(|p| p.is_some()).count();
    let never = model.without_text().into();
    Ok(Plan { states: request.trace, never, ..sampler.plan(d, start, length, &settings)? })
}

/// Texts of these numbers by a published sampler, each with its own uniforms.
fn published(
    request: &Request,
    d: &Description,
    model: &Transformer,
    plan: &Plan,
    pinned: &[Option<u32>],
    length: usize,
    texts: Range<usize>,
) -> Result<Samples> {
    let begin = Instant::now();
    let mut out = Samples::default();
    let candidates = request.candidates();
    for i in texts.start * candidates..texts.end * candidates {
        let mut rng = StepRng::new(request.seed).at(i as u64, Stream::Token);
        let x: Vec<u32> = match d.special.mask {
            Some(_) if pinned.is_empty() => vec![model.mask(); length],
            Some(_) => pinned.iter().map(|p| p.unwrap_or(model.mask())).collect(),
            // The noise of uniform diffusion is any token.
            None => (0..length).map(|_| rng.random_range(0..d.vocab as u32)).collect(),
        };
        let walked = walk(model, &x, plan, &mut Draws::Seeded(Box::new(rng)))?;
        out.trace.extend(request.trace.then(|| [vec![x], walked.states].concat()));
        out.tokens.push(walked.tokens[..walked.ends[0]].to_vec());
        out.nfe.push(walked.nfe);
        out.positions.push(walked.positions);
        out.layer_positions.push(walked.positions * d.network.layers as u64);
    }
    out.seconds = begin.elapsed().as_secs_f64();
    Ok(out)
}
