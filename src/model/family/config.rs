//! From a family's config.json to the configuration of the one transformer.
//!
//! Keys that would change the mathematics in a way that is not supported are refused by name, never passed over; keys that
//! are not known are named in a warning. Absent keys have the defaults of the family's own configuration class.

mod dit;
mod llama;
mod others;

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::config::{Biases, Visibility};
use super::keys::Keys;
use super::{Description, Family, Special, int8, known, names};
use crate::error::{Error, Result};
use crate::model::TransformerConfig;

/// Canonical tensor names (without the prefixes of wrappers) with their shapes.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// The family and configuration of a model with this config.json (called `file` in messages) and these tensors.
///
/// # Errors
/// A family that is not known, or a key that is missing, out of range or not supported (input).
pub fn describe(file: &str, config: &Value, tensors: &Shapes) -> Result<Description> {
    let keys = Keys::of(file, config)?;
    int8::check(&keys)?;
    let family = recognise(&keys, tensors)?;
    generic(&keys)?;
    let mut described = of_family(&keys, family, tensors).map_err(|e| {
        let asked = keys.maybe_usize("num_hidden_layers").ok().flatten();
        let there = super::names::layers(tensors.keys());
        match asked.filter(|asked| there > 0 && *asked != there) {
            Some(asked) => e.cause(format!("config.json says {asked} layers, and the weights have {there}")),
            None => e,
        }
    })?;
    described.config = config.clone();
    let wrong = |e: Error| Error::input(format!("{file}: {}", e.message));
    described.network.validate("network").map_err(wrong)?;
    let (vocab, length) = (described.vocab, described.length);
    if vocab == 0 || vocab > 1 << 24 || length == 0 || length > 1 << 24 {
        return Err(Error::input(format!("{file}: a vocabulary of {vocab} and a length of {length} are out of range")));
    }
    special(&keys, &mut described)?;
    let unknown = known::unknown(&keys, family)?;
    if !unknown.is_empty() {
        let names = unknown.iter().take(8).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let more = unknown.len().saturating_sub(8);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        described.notes.push(format!("{file}: {names}{more}: not known of a {} model, and passed over", family.name()));
    }
    Ok(described)
}

fn of_family(keys: &Keys, family: Family, tensors: &Shapes) -> Result<Description> {
    match family {
        Family::Mdlm | Family::Duo | Family::Bd3lm => dit::dit_hf(keys, family),
        Family::Sdtt | Family::Sedd => dit::dit_nested(keys, family, tensors),
        Family::Llada => others::llada(keys),
        Family::Gpt2 => others::gpt2(keys),
        Family::ModernBert => others::modernbert(keys),
        Family::Dream | Family::A2d | Family::Llama | Family::Qwen2 | Family::Qwen3 => {
            llama::llama(keys, family, tensors)
        }
    }
}

/// Keys of any model of transformers that change what is computed.
fn generic(keys: &Keys) -> Result<()> {
    keys.never("is_encoder_decoder")?;
    for key in ["pruned_heads", "per_layer_config"] {
        match keys.get(key) {
            Some(value) if value.as_object().is_none_or(|map| !map.is_empty()) => {
                return Err(keys.wrong(key, "is not empty, which is not supported"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The ids of special tokens that config.json names. An end that the vocabulary does not have ends nothing, as for
/// transformers, which gives GPT-2 such a one by default; a mask outside of it is refused.
fn special(keys: &Keys, described: &mut Description) -> Result<()> {
    let (family, vocab) = (described.family, described.vocab);
    // Of these the mask is the last token, or there is none; the files of SEDD and SDTT name no others.
    let named = !matches!(family, Family::Sdtt | Family::Sedd);
    for (key, name) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "pad")] {
        let all = if named { keys.ids(key)? } else { Vec::new() };
        let (inside, outside): (Vec<u32>, Vec<u32>) = all.into_iter().partition(|id| (*id as usize) < vocab);
        if let Some(id) = outside.first() {
            let whole = keys.wrong(key, format!("is {id}, and the vocabulary has {vocab}: it is passed over"));
            described.notes.push(whole.message);
        }
        match name {
            "bos" => described.special.bos = inside.first().copied(),
            "pad" => described.special.pad = inside.first().copied(),
            _ => (described.special.eos, described.ends) = (inside.first().copied(), inside),
        }
    }
    if matches!(family, Family::Llada | Family::Dream | Family::A2d | Family::ModernBert) {
        described.special.mask = keys.id("mask_token_id")?;
    }
    match described.special.mask.filter(|id| *id as usize >= vocab) {
        Some(id) => Err(keys.wrong("mask_token_id", format!("is {id}, and the vocabulary has {vocab}"))),
        None => Ok(()),
    }
}

fn recognise(keys: &Keys, tensors: &Shapes) -> Result<Family> {
    let has = |name: &str| tensors.contains_key(name);
    let by_type = |name: &str| {
        Some(match name {
            "mdlm" | "MDLM" => Family::Mdlm,
            "duo" | "DUO" => Family::Duo,
            "bd3lm" | "BD3LM" => Family::Bd3lm,
            "llada" | "LLaDAModelLM" => Family::Llada,
            "Dream" | "dream" | "DreamModel" => Family::Dream,
            "modernbert" | "ModernBertForMaskedLM" => Family::ModernBert,
            "gpt2" | "GPT2LMHeadModel" => Family::Gpt2,
            "llama" | "LlamaForCausalLM" => Family::Llama,
            "qwen2" | "Qwen2ForCausalLM" => Family::Qwen2,
            "qwen3" | "Qwen3ForCausalLM" => Family::Qwen3,
            "a2d-qwen3" | "a2d-qwen2" | "a2d-llama" => Family::A2d,
            name if name.starts_with("A2D") && name.ends_with("LMHeadModel") => Family::A2d,
            _ => return None,
        })
    };
    let model_type = keys.text("model_type")?;
    let typed = model_type.and_then(by_type).or_else(|| keys.first("architectures").and_then(by_type));
    // The dumps of Hydra configurations have no type; the DiT's embedding and the nested `model` tell them.
    let nested = has("vocab_embed.embedding") && keys.inside("model")?.is_some();
    let family = match typed {
        Some(family) => Some(family),
        None if nested && keys.inside("graph")?.is_some() => Some(Family::Sedd),
        None if nested => Some(Family::Sdtt),
        None => None,
    };
    let supported: Vec<&str> = Family::ALL.iter().map(|f| f.name()).collect();
    let seen = || {
        let some = |names: Vec<&str>| names.into_iter().take(8).collect::<Vec<_>>().join(", ");
        format!(
            "model_type {}, keys {} ..., tensors {} ...",
            model_type.unwrap_or("absent"),
            some(keys.names()),
            some(tensors.keys().map(String::as_str).collect())
        )
    };
    let Some(family) = family else {
        return Err(keys
            .wrong("model_type", "and the tensors belong to no supported family")
            .cause(format!("seen: {}", seen()))
            .hint(format!("supported: {}", supported.join(", "))));
    };
    // A tied head can stand for the embedding.
    let [embed, head] = names::embedding_and_head(family);
    match has(&embed) || has(&head) {
        true => Ok(family),
        false => Err(keys
            .wrong("model_type", format!("says {}, but the weights have no `{embed}`", family.name()))
            .cause(format!("seen: {}", seen()))
            .hint("config.json and weights must come from the same model")),
    }
}

/// A network with no biases but those named.
fn network(dim: usize, layers: usize, heads: usize, visibility: Visibility, biases: Biases) -> TransformerConfig {
    TransformerConfig {
        biases: Some(biases),
        mask_row: false,
        ..TransformerConfig::new(dim, layers, heads, visibility)
    }
}

const NO_BIASES: Biases = Biases { norm: false, qkv: false, out: false, mlp: false, head: false };

fn description(family: Family, network: TransformerConfig, vocab: usize, length: usize) -> Description {
    let special = Special::default();
    Description {
        family,
        network,
        vocab,
        length,
        special,
        ends: Vec::new(),
        scale_by_sigma: false,
        config: Value::Null,
        notes: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
