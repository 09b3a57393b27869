//! Special tokens: from config.json where it names them, else from the tokenizer's own files.

use std::path::Path;

use serde_json::Value;

use super::keys::{short, token_ids};
use super::{Description, Family};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::fs::read_limited;

/// The settings of texts that a family's own code writes.
const GENERATION: &str = "generation_config.json";

/// The tokenizer of a model's directory, if it has one.
///
/// # Errors
/// As [`Tokenizer::load_dir`].
pub fn tokenizer(dir: &Path) -> Result<Option<Tokenizer>> {
    Tokenizer::load_dir(dir)
}

/// Completes the special tokens of a described model: what config.json leaves out is taken from generation_config.json,
/// tokenizer_config.json and special_tokens_map.json, then from the text that the family's tokenizers have for a mask, last
/// from the family's defaults. Every token that config.json or generation_config.json calls an end is one.
///
/// A mask that the tokenizer does not call so is noted.
///
/// # Errors
/// A file of these that is not JSON, or a token outside of the vocabulary that the tokenizer names (input).
pub fn settle(dir: &Path, description: &mut Description, tokenizer: Option<&Tokenizer>) -> Result<()> {
    let (family, vocab) = (description.family, description.vocab);
    let mut special = description.special;
    let mut spoken = None;
    for file in [GENERATION, "tokenizer_config.json", "special_tokens_map.json"] {
        let path = dir.join(file);
        let Some(value) = json(&path)? else { continue };
        let mut id = |name: &str| -> Result<Option<u32>> {
            let key = format!("{name}_token_id");
            let listed = match &value[&key] {
                Value::Null => Vec::new(),
                given => token_ids(given).ok_or_else(|| {
                    Error::input(format!("{}: `{key}` must be a token id or a list of them", path.display()))
                        .cause(format!("it is {}", short(given)))
                })?,
            };
            if let Some(id) = listed.iter().find(|id| **id as usize >= vocab) {
                note(
                    &mut description.notes,
                    format!("{}: `{key}` is {id}, and the vocabulary has {vocab}: it is passed over", path.display()),
                );
            }
            let listed: Vec<u32> = listed.into_iter().filter(|id| (*id as usize) < vocab).collect();
            if name == "eos" && file == GENERATION {
                let more = listed.iter().filter(|id| !description.ends.contains(id)).copied();
                let more: Vec<u32> = more.collect();
                description.ends.extend(more);
            }
            let token = &value[format!("{name}_token")];
            let text = token.as_str().or(token["content"].as_str());
            let by_text = || tokenizer?.id(text?);
            Ok(listed.first().copied().or_else(by_text))
        };
        let (bos, eos, pad, mask) = (id("bos")?, id("eos")?, id("pad")?, id("mask")?);
        special.bos = special.bos.or(bos);
        special.eos = special.eos.or(eos);
        special.pad = special.pad.or(pad);
        if file != GENERATION {
            spoken = spoken.or(mask.map(|id| (id, file)));
        }
        if reads_masks(family) {
            special.mask = special.mask.or(mask);
        }
    }
    let text = match family {
        Family::Llada => Some("<|mdm_mask|>"),
        Family::Dream | Family::A2d => Some("<|mask|>"),
        Family::ModernBert => Some("[MASK]"),
        _ => None,
    };
    let known = tokenizer.zip(text).and_then(|(tokenizer, text)| tokenizer.id(text));
    spoken = spoken.or(known.map(|id| (id, "the tokenizer")));
    special.mask = special.mask.or(known);
    for (name, id) in [("mask", special.mask), ("bos", special.bos), ("eos", special.eos), ("pad", special.pad)] {
        if let Some(id) = id.filter(|id| *id as usize >= vocab) {
            return Err(Error::input(format!("{}: the {name} token has id {id}", dir.display()))
                .cause(format!("the model has a vocabulary of {vocab}"))
                .hint("the tokenizer must be the one that came with the weights"));
        }
    }
    if let (true, Some(mask), Some((other, place))) = (reads_masks(family), special.mask, spoken)
        && mask != other
    {
        note(
            &mut description.notes,
            format!("{}: the mask is {mask} in config.json and {other} in {place}; {mask} is taken", dir.display()),
        );
    }
    let absent = |key: &str| description.config.get(key).is_none();
    let [bos, eos] = defaults(family).map(|id| id.filter(|id| (*id as usize) < vocab));
    special.bos = special.bos.or(bos.filter(|_| absent("bos_token_id")));
    special.eos = special.eos.or(eos.filter(|_| absent("eos_token_id")));
    if description.ends.is_empty() {
        description.ends.extend(special.eos);
    }
    description.special = special;
    Ok(())
}

/// Adds a note that is not there yet.
fn note(notes: &mut Vec<String>, text: String) {
    if !notes.contains(&text) {
        notes.push(text);
    }
}

/// Whether config.json and tokenizer name the mask; elsewhere it is the last token, or there is none.
fn reads_masks(family: Family) -> bool {
    matches!(family, Family::Llada | Family::Dream | Family::A2d | Family::ModernBert)
}

/// The start and the end token that the family's configuration class has where its key is absent.
fn defaults(family: Family) -> [Option<u32>; 2] {
    match family {
        Family::Llama => [Some(1), Some(2)],
        Family::Gpt2 => [Some(50_256), Some(50_256)],
        Family::ModernBert => [Some(50_281), Some(50_282)],
        _ => [None, None],
    }
}

fn json(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let wrong = |e: serde_json::Error| Error::input(format!("{} is not JSON", path.display())).cause(e.to_string());
    serde_json::from_slice(&read_limited(path, 16 << 20)?).map(Some).map_err(wrong)
}
