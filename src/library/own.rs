//! Texts of a model of ours: tokens, and what denoises vectors.

use std::ops::Range;

use super::drawing::{Beams, Draw, Drawing, LONGEST, Request, beams};
use crate::checkpoint::LoadedModel;
use crate::data::documents;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::method::Vectors;
use crate::model::Denoise;
use crate::process::order::OrderConfig;
use crate::sample::given::{filled, given};
use crate::sample::{DecodeConfig, Process, beam, beyond};

/// Steps of a model that says nothing of its own.
const USUAL_STEPS: usize = 16;

/// What is drawn, and how, before the first pass.
struct Ready {
    process: Process,
    pinned: Vec<Option<u32>>,
}

/// The tokenizer of a model.
fn tokenizer(loaded: &LoadedModel) -> Result<&Tokenizer> {
    loaded.tokenizer.as_ref().ok_or_else(|| {
        Error::input(format!("`{}` has no tokenizer.json", loaded.card.name))
            .hint("put the tokenizer the model was trained with beside config.json")
    })
}

fn ready(loaded: &LoadedModel, request: &Request) -> Result<Ready> {
    request.validate()?;
    if request.sampler.is_some() || request.block.is_some() {
        return Err(Error::usage("a published sampler and its blocks are for public checkpoints")
            .hint("leave the sampler and the blocks out"));
    }
    let process = match &request.decode {
        Some(decode) => fitting(decode, loaded)?.process(loaded.process()),
        None => as_many_phases(loaded, request.steps),
    };
    let tokenizer = tokenizer(loaded)?;
    let words = matches!(tokenizer, Tokenizer::Words(_));
    // What follows a whole caption is its picture, which begins at a fixed place.
    let padded = |prompt: &String| loaded.card.picture.map_or_else(|| prompt.clone(), |shape| shape.padded(prompt));
    let prompt = request.prompt.as_ref().map(padded);
    let encode = |text: &str| tokenizer.encode(text.as_bytes());
    let pinned = given(prompt.as_deref(), request.infill.as_deref(), &encode, words)?;
    let pinned = filled(pinned, process.length)?;
    Ok(Ready { process, pinned })
}

/// The bytes of a text: up to its end, and a picture in its lines.
fn bytes(loaded: &LoadedModel, tokenizer: &Tokenizer, ids: &[u32]) -> Vec<u8> {
    match loaded.card.picture {
        Some(shape) => shape.lines(&tokenizer.decode(ids)).into_bytes(),
        None => tokenizer.decode_bytes(loaded.card.end_token_id.map_or(ids, |end| documents::told(ids, end))),
    }
}

/// The texts that are asked for.
///
/// # Errors
/// What is asked for does not fit the model.
pub fn drawing<'a>(loaded: &'a LoadedModel, request: &'a Request) -> Result<Drawing<'a>> {
    let Ready { process, pinned } = ready(loaded, request)?;
    if of_vectors(loaded) {
        return vectors(loaded, request, process, pinned);
    }
    let usual = loaded.card.generation.map_or(USUAL_STEPS, |g| g.steps);
    let steps = request.steps_of(&process, usual, loaded.model.over_blocks())?;
    let prompt = pinned.iter().take_while(|p| p.is_some()).count();
    let total = request.length.unwrap_or(process.length);
    if total > LONGEST {
        return Err(Error::usage(format!("`--length {total}` must be at most {LONGEST}")));
    }
    let spec = request.spec(steps, pinned);
    let draw = move |texts: Range<usize>| {
        let (spec, n) = request.part(&spec, texts);
        let drawn = beyond::sample_beyond(&loaded.model, &process, &spec, n, total, request.stop())?;
        Ok(request.chosen(drawn, &|tokens| tokens[prompt.min(tokens.len())..].to_vec()))
    };
    shown(loaded, steps, Box::new(draw))
}

fn shown<'a>(loaded: &'a LoadedModel, steps: usize, draw: Draw<'a>) -> Result<Drawing<'a>> {
    let tokenizer = tokenizer(loaded)?;
    let decode = Box::new(move |ids: &[u32]| bytes(loaded, tokenizer, ids));
    Ok(Drawing { name: loaded.card.name.clone(), how: format!("{steps} steps"), decode, draw })
}

/// The most probable texts of a model that writes token by token.
///
/// # Errors
/// As [`drawing`], and one that does not write token by token.
pub fn search<'a>(
    loaded: &'a LoadedModel,
    request: &'a Request,
    wide: Beams,
) -> Result<(Drawing<'a>, Vec<beam::Hypothesis>)> {
    let Ready { process, pinned } = ready(loaded, request)?;
    if of_vectors(loaded) {
        return Err(refused(loaded, "--beam"));
    }
    let found = beams(&loaded.model, &process, &pinned, wide, &[])?;
    Ok((shown(loaded, process.length, Box::new(|_| Ok(Default::default())))?, found))
}

fn of_vectors(loaded: &LoadedModel) -> bool {
    loaded.codec.is_some() || loaded.model.bottleneck().is_some() || loaded.model.vectors().is_some()
}

fn refused(loaded: &LoadedModel, option: &str) -> Error {
    Error::usage(format!("`{option}` is for models of tokens, and `{}` denoises vectors", loaded.card.name))
        .hint(format!("leave `{option}` out"))
}

/// Texts of a model that denoises latents, or embeddings.
fn vectors<'a>(
    loaded: &'a LoadedModel,
    request: &'a Request,
    process: Process,
    pinned: Vec<Option<u32>>,
) -> Result<Drawing<'a>> {
    let embeddings = matches!(loaded.card.objective.facts().vectors, Vectors::Embeddings(_));
    let given = [
        (request.decode.is_some() && !embeddings, "--decode"),
        (request.filter.top_k.is_some(), "--top-k"),
        (request.filter.top_p.is_some(), "--top-p"),
        (request.trace, "--trace"),
        (request.length.is_some(), "--length"),
        (request.stop_entropy.is_some(), "--stop-entropy"),
    ];
    if let Some((_, option)) = given.iter().find(|(given, _)| *given) {
        return Err(refused(loaded, option));
    }
    let generator = loaded.generator(process)?;
    let steps = request.steps.or(loaded.card.generation.map(|g| g.steps)).unwrap_or(USUAL_STEPS);
    let spec = request.spec(steps, pinned);
    let draw = move |texts: Range<usize>| {
        let (spec, n) = request.part(&spec, texts);
        Ok(request.chosen(generator.sample(&spec, n)?, &|tokens| tokens.to_vec()))
    };
    shown(loaded, steps, Box::new(draw))
}

/// The process of a model; of one that was trained in several numbers of phases, that of as many as there are steps.
fn as_many_phases(loaded: &LoadedModel, steps: Option<usize>) -> Process {
    let process = loaded.process();
    let (Some(steps), OrderConfig::Mixture(all)) = (steps, &loaded.card.order) else { return process };
    let orders = all.iter().filter(|order| order.phased()).map(|order| order.order(process.length));
    match orders.into_iter().find(|order| order.blocks(process.length) == steps) {
        Some(order) => Process { order, ..process },
        None => process,
    }
}

/// A way of decoding, where it fits a model.
fn fitting<'d>(decode: &'d DecodeConfig, loaded: &LoadedModel) -> Result<&'d DecodeConfig> {
    if let (DecodeConfig::Gaussian(_), Vectors::Embeddings(_)) = (decode, loaded.card.objective.facts().vectors) {
        return Ok(decode);
    }
    match decode.misfit(&loaded.card.network) {
        Some(why) => Err(Error::usage(format!("`--decode` does not fit `{}`", loaded.card.name))
            .cause(why)
            .hint(format!("its order is {}; leave `--decode` out", loaded.card.order.shown()))),
        None => Ok(decode),
    }
}
