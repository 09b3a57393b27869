//! Special tokens: from config.json where it names them, else from the tokenizer's own files.

use std::path::Path;

use serde_json::Value;

use super::{Description, Family, Special};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::fs::read_limited;

/// The tokenizer of a model's directory, if it has one.
pub fn tokenizer(dir: &Path) -> Result<Option<Tokenizer>> {
    Tokenizer::load_dir(dir)
}

/// The special tokens of a described model: what config.json says, and for what it leaves out generation_config.json,
/// tokenizer_config.json and special_tokens_map.json, then the text that the family's tokenizers have for a mask.
///
/// Errors (kind input) where one of these files is no JSON, or names a token outside of the vocabulary.
pub fn special_tokens(dir: &Path, description: &Description, tokenizer: Option<&Tokenizer>) -> Result<Special> {
    let mut special = description.special;
    let wants_mask = matches!(description.family, Family::Llada | Family::Dream | Family::A2d | Family::ModernBert);
    for file in ["generation_config.json", "tokenizer_config.json", "special_tokens_map.json"] {
        let Some(value) = json(&dir.join(file))? else { continue };
        let id = |name: &str| {
            let by_id = value[format!("{name}_token_id")].as_u64().and_then(|id| u32::try_from(id).ok());
            let token = &value[format!("{name}_token")];
            let text = token.as_str().or(token["content"].as_str());
            by_id.or_else(|| tokenizer?.id(text?))
        };
        special.bos = special.bos.or_else(|| id("bos"));
        special.eos = special.eos.or_else(|| id("eos"));
        special.pad = special.pad.or_else(|| id("pad"));
        if wants_mask {
            special.mask = special.mask.or_else(|| id("mask"));
        }
    }
    let text = match description.family {
        Family::Llada => Some("<|mdm_mask|>"),
        Family::Dream | Family::A2d => Some("<|mask|>"),
        Family::ModernBert => Some("[MASK]"),
        _ => None,
    };
    special.mask = special.mask.or_else(|| tokenizer?.id(text?));
    for (name, id) in [("mask", special.mask), ("bos", special.bos), ("eos", special.eos), ("pad", special.pad)] {
        if let Some(id) = id.filter(|id| *id as usize >= description.vocab) {
            let vocab = description.vocab;
            return Err(Error::input(format!("{}: the {name} token has id {id}", dir.display()))
                .cause(format!("the model has a vocabulary of {vocab}"))
                .hint("the tokenizer must be the one that came with the weights"));
        }
    }
    Ok(special)
}

fn json(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let wrong = |e: serde_json::Error| Error::input(format!("{} is not JSON", path.display())).cause(e.to_string());
    serde_json::from_slice(&read_limited(path, 16 << 20)?).map(Some).map_err(wrong)
}
