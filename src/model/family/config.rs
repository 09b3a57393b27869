//! From a family's config.json to the configuration of the one transformer.
//!
//! Keys that would change the mathematics in a way that is not supported are refused by name, never passed over.

use std::collections::BTreeMap;

use serde_json::Value;

use super::super::config::{Activation, Biases, Local, NormKind, RopeScaling, TimeInput, Visibility};
use super::keys::Keys;
use super::{Description, Family, Special, int8};
use crate::error::{Error, Result};
use crate::model::TransformerConfig;

/// Canonical tensor names (without the prefixes of wrappers) with their shapes.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// The family and configuration of a model with this config.json (called `file` in messages) and these tensors.
///
/// Errors (kind input) where no family is recognised, or a key is missing, out of range or not supported.
pub fn describe(file: &str, config: &Value, tensors: &Shapes) -> Result<Description> {
    let keys = Keys::of(file, config)?;
    int8::check(&keys)?;
    let family = recognise(&keys, tensors)?;
    let mut described = match family {
        Family::Mdlm | Family::Duo | Family::Bd3lm => dit_hf(&keys, family)?,
        Family::Sdtt | Family::Sedd => dit_nested(&keys, family, tensors)?,
        Family::Llada => llada(&keys)?,
        Family::Gpt2 => gpt2(&keys)?,
        Family::ModernBert => modernbert(&keys)?,
        Family::Dream | Family::A2d | Family::Llama | Family::Qwen2 | Family::Qwen3 => llama(&keys, family, tensors)?,
    };
    described.config = config.clone();
    let wrong = |e: Error| Error::input(format!("{file}: {}", e.message));
    described.network.validate("network").map_err(wrong)?;
    let (vocab, length) = (described.vocab, described.length);
    if vocab == 0 || vocab > 1 << 24 || length == 0 || length > 1 << 24 {
        return Err(Error::input(format!("{file}: a vocabulary of {vocab} and a length of {length} are out of range")));
    }
    for (name, id) in [("mask", described.special.mask), ("end", described.special.eos)] {
        if let Some(id) = id.filter(|id| *id as usize >= vocab) {
            return Err(Error::input(format!("{file}: the {name} token is {id}, and the vocabulary has {vocab}")));
        }
    }
    Ok(described)
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
    let typed = keys.text("model_type").and_then(by_type).or_else(|| keys.first("architectures").and_then(by_type));
    // The dumps of Hydra configurations have no type; the DiT's embedding and the nested `model` tell them.
    let nested = keys.inside("model").is_some() && has("vocab_embed.embedding");
    let family = match typed {
        Some(family) => Some(family),
        None if nested && keys.inside("graph").is_some() => Some(Family::Sedd),
        None if nested => Some(Family::Sdtt),
        None => None,
    };
    let first = |family: Family| match family {
        f if f.is_dit() => "vocab_embed.embedding",
        Family::Llada | Family::Gpt2 => "wte.weight",
        Family::ModernBert => "embeddings.tok_embeddings.weight",
        _ => "embed_tokens.weight",
    };
    let known: Vec<&str> = Family::ALL.iter().map(|f| f.name()).collect();
    let seen = || {
        let some = |names: Vec<&str>| names.into_iter().take(8).collect::<Vec<_>>().join(", ");
        format!(
            "model_type {}, keys {} ..., tensors {} ...",
            keys.text("model_type").unwrap_or("absent"),
            some(keys.names()),
            some(tensors.keys().map(String::as_str).collect())
        )
    };
    match family {
        Some(family) if has(first(family)) => Ok(family),
        Some(family) => Err(keys
            .wrong("model_type", format!("says {}, but the weights have no `{}`", family.name(), first(family)))
            .cause(format!("seen: {}", seen()))
            .hint("config.json and weights must come from the same model")),
        None => Err(keys
            .wrong("model_type", "and the tensors belong to no supported family")
            .cause(format!("seen: {}", seen()))
            .hint(format!("supported: {}", known.join(", ")))),
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
    Description { family, network, vocab, length, special, scale_by_sigma: false, config: Value::Null }
}

/// The DiT of MDLM: biases in the feed-forward halves and the head alone, 4 x wide, sigma through adaptive norms.
fn dit(dim: usize, layers: usize, heads: usize, cond: usize, time: TimeInput) -> TransformerConfig {
    let biases = Biases { mlp: true, head: true, ..NO_BIASES };
    let cond_dim = (time != TimeInput::None).then_some(cond);
    let base = network(dim, layers, heads, Visibility::Full, biases);
    TransformerConfig { time, cond_dim, hidden: Some(4 * dim), ..base }
}

fn sigma(read: bool) -> TimeInput {
    if read { TimeInput::Sigma } else { TimeInput::ZeroSigma }
}

/// MDLM, DUO and BD3-LM as Hugging Face models.
fn dit_hf(keys: &Keys, family: Family) -> Result<Description> {
    let causal = keys.bool_or("causal", false)?;
    let time = match family {
        // Without adaptive norms there is nothing that could read the noise.
        Family::Duo if causal => TimeInput::None,
        Family::Bd3lm if !keys.bool_or("adaln", true)? => TimeInput::None,
        Family::Duo => TimeInput::Sigma,
        _ => sigma(keys.bool_or("time_conditioning", false)?),
    };
    let cond = if time == TimeInput::None { 0 } else { keys.usize("cond_dim")? };
    let mut network = dit(keys.usize("hidden_dim")?, keys.usize("n_blocks")?, keys.usize("n_heads")?, cond, time);
    network.visibility = match family {
        Family::Bd3lm if keys.bool_or("cross_attn", true)? => {
            let size = keys.usize("block_size")?;
            if size == 0 {
                return Err(keys.wrong("block_size", "must be at least 1"));
            }
            Visibility::Blocks(size)
        }
        _ if causal => Visibility::Causal,
        _ => Visibility::Full,
    };
    let vocab = keys.usize("vocab_size")?;
    let mask = (family != Family::Duo).then(|| vocab.saturating_sub(1) as u32);
    let special =
        Special { mask, bos: keys.id("bos_token_id"), eos: keys.id("eos_token_id"), pad: keys.id("pad_token_id") };
    Ok(Description { special, ..description(family, network, vocab, keys.usize("model_length")?) })
}

/// SEDD and SDTT: the dump of a Hydra configuration with the network under `model`.
fn dit_nested(keys: &Keys, family: Family, tensors: &Shapes) -> Result<Description> {
    let Some(model) = keys.inside("model") else { return Err(keys.wrong("model", "is missing")) };
    // The wrapper of SDTT feeds sigma = 0 whatever its configuration says.
    let time = if family == Family::Sedd { TimeInput::Sigma } else { TimeInput::ZeroSigma };
    let [dim, layers, heads] = [model.usize("hidden_size")?, model.usize("n_blocks")?, model.usize("n_heads")?];
    let network = dit(dim, layers, heads, model.usize("cond_dim")?, time);
    let rows = tensors.get("vocab_embed.embedding").and_then(|s| s.first().copied()).unwrap_or(0);
    let (vocab, mask) = match family {
        Family::Sedd => {
            let graph = keys.inside("graph").and_then(|g| g.text("type"));
            let tokens = keys.usize("tokens")?;
            match graph {
                Some("absorb") => (tokens + 1, Some(tokens as u32)),
                Some("uniform") => (tokens, None),
                other => return Err(keys.wrong("graph.type", format!("is {other:?}, and absorb or uniform is known"))),
            }
        }
        // The vocabulary is the tokenizer's, which is not named with its size.
        _ => (rows, Some(rows.saturating_sub(1) as u32)),
    };
    let scale_by_sigma = family == Family::Sedd && model.bool_or("scale_by_sigma", true)?;
    let special = Special { mask, ..Special::default() };
    Ok(Description { special, scale_by_sigma, ..description(family, network, vocab, model.usize("length")?) })
}

fn llada(keys: &Keys) -> Result<Description> {
    keys.only("block_type", &["llama"])?;
    keys.only("activation_type", &["silu"])?;
    keys.only("layer_norm_type", &["rms"])?;
    for key in ["alibi", "attention_layer_norm", "input_emb_norm", "scale_logits", "bias_for_layer_norm"] {
        keys.never(key)?;
    }
    if !keys.bool_or("rope", false)? {
        return Err(keys.wrong("rope", "is false, which is not supported"));
    }
    let bias = keys.bool_or("include_bias", false)?;
    let qkv = bias || keys.bool_or("include_qkv_bias", false)?;
    let biases = Biases { norm: false, qkv, out: bias, mlp: bias, head: bias };
    let (dim, heads) = (keys.usize("d_model")?, keys.usize("n_heads")?);
    let multi_query = keys.bool_or("multi_query_attention", false)?;
    let hidden = match keys.maybe_usize("mlp_hidden_size")? {
        Some(hidden) => hidden,
        None => dim * keys.maybe_usize("mlp_ratio")?.unwrap_or(4).min(1024),
    };
    let tied = keys.bool_or("weight_tying", true)?;
    let network = TransformerConfig {
        kv_heads: keys.maybe_usize("n_kv_heads")?.or(multi_query.then_some(1)),
        hidden: Some(hidden),
        norm: NormKind::Rms,
        norm_eps: keys.f64_or("rms_norm_eps", 1e-5)?,
        activation: Activation::Swiglu,
        tied,
        rope_theta: keys.f64_or("rope_theta", 1e4)?,
        ..network(dim, keys.usize("n_layers")?, heads, Visibility::Full, biases)
    };
    let vocab = match keys.maybe_usize("embedding_size")? {
        Some(size) => size,
        None => keys.usize("vocab_size")?,
    };
    let special = Special {
        mask: keys.id("mask_token_id"),
        bos: keys.id("bos_token_id"),
        eos: keys.id("eos_token_id"),
        pad: keys.id("pad_token_id"),
    };
    Ok(Description { special, ..description(Family::Llada, network, vocab, keys.usize("max_sequence_length")?) })
}

fn gpt2(keys: &Keys) -> Result<Description> {
    keys.never("scale_attn_by_inverse_layer_idx")?;
    keys.never("add_cross_attention")?;
    if !keys.bool_or("scale_attn_weights", true)? {
        return Err(keys.wrong("scale_attn_weights", "is false, which is not supported"));
    }
    let activation = match keys.text("activation_function").unwrap_or("gelu_new") {
        "gelu_new" | "gelu_pytorch_tanh" => Activation::Gelu,
        "gelu" => Activation::GeluErf,
        other => return Err(keys.wrong("activation_function", format!("is `{other}`, and GELUs alone are supported"))),
    };
    let dim = keys.usize("n_embd")?;
    let biases = Biases { norm: true, qkv: true, out: true, mlp: true, head: false };
    let network = TransformerConfig {
        hidden: Some(match keys.maybe_usize("n_inner")? {
            Some(inner) => inner,
            None => dim.saturating_mul(4),
        }),
        norm_eps: keys.f64_or("layer_norm_epsilon", 1e-5)?,
        activation,
        tied: keys.bool_or("tie_word_embeddings", true)?,
        shift_output: true,
        learned_positions: true,
        rotary: false,
        ..network(dim, keys.usize("n_layer")?, keys.usize("n_head")?, Visibility::Causal, biases)
    };
    let special = Special { bos: keys.id("bos_token_id"), eos: keys.id("eos_token_id"), ..Special::default() };
    Ok(Description {
        special,
        ..description(Family::Gpt2, network, keys.usize("vocab_size")?, keys.usize("n_positions")?)
    })
}

/// Dream, dllm's conversions, and the causal models they come from.
fn llama(keys: &Keys, family: Family, tensors: &Shapes) -> Result<Description> {
    keys.only("hidden_act", &["silu"])?;
    if keys.bool_or("use_sliding_window", false)? {
        return Err(keys.wrong("use_sliding_window", "is true, which is not supported"));
    }
    keys.never("use_mrope")?;
    let qwen2 = matches!(family, Family::Dream | Family::Qwen2) || keys.text("model_type") == Some("a2d-qwen2");
    let qk_norm = tensors.contains_key("layers.0.self_attn.q_norm.weight");
    let attention = keys.bool_or("attention_bias", false)?;
    let biases = Biases { qkv: qwen2 || attention, out: attention, mlp: keys.bool_or("mlp_bias", false)?, ..NO_BIASES };
    let diffusion = matches!(family, Family::Dream | Family::A2d);
    let parameters = keys.inside("rope_parameters");
    let theta = match &parameters {
        Some(inside) => inside.f64_or("rope_theta", 1e4)?,
        None => keys.f64_or("rope_theta", 1e4)?,
    };
    let eps = if qwen2 || qk_norm { 1e-6 } else { 1e-5 };
    let (dim, heads) = (keys.usize("hidden_size")?, keys.usize("num_attention_heads")?);
    let visibility = if diffusion { Visibility::Full } else { Visibility::Causal };
    let network = TransformerConfig {
        kv_heads: keys.maybe_usize("num_key_value_heads")?,
        head_dim: keys.maybe_usize("head_dim")?,
        hidden: Some(keys.usize("intermediate_size")?),
        norm: NormKind::Rms,
        norm_eps: keys.f64_or("rms_norm_eps", eps)?,
        activation: Activation::Swiglu,
        qk_norm,
        tied: keys.bool_or("tie_word_embeddings", false)?,
        // Dream kept the habit of the causal model it grew from; the others predict in place.
        shift_output: !diffusion || family == Family::Dream,
        rope_theta: theta,
        rope_scaling: scaling(keys.inside("rope_scaling").or(parameters))?,
        ..network(dim, keys.usize("num_hidden_layers")?, heads, visibility, biases)
    };
    let special = Special {
        mask: if diffusion { keys.id("mask_token_id") } else { None },
        bos: keys.id("bos_token_id"),
        eos: keys.id("eos_token_id"),
        pad: keys.id("pad_token_id"),
    };
    let length = keys.usize("max_position_embeddings")?;
    Ok(Description { special, ..description(family, network, keys.usize("vocab_size")?, length) })
}

fn scaling(keys: Option<Keys>) -> Result<Option<RopeScaling>> {
    let Some(keys) = keys else { return Ok(None) };
    match keys.text("rope_type").or(keys.text("type")) {
        None | Some("default") => Ok(None),
        Some("llama3") => Ok(Some(RopeScaling {
            factor: keys.f64("factor")?,
            low_freq_factor: keys.f64("low_freq_factor")?,
            high_freq_factor: keys.f64("high_freq_factor")?,
            original_max_position_embeddings: keys.f64("original_max_position_embeddings")?,
        })),
        Some(other) => Err(keys.wrong("rope_type", format!("is `{other}`, and only `llama3` is supported"))),
    }
}

fn modernbert(keys: &Keys) -> Result<Description> {
    keys.only("hidden_activation", &["gelu"])?;
    keys.only("classifier_activation", &["gelu"])?;
    keys.never("classifier_bias")?;
    let attention = keys.bool_or("attention_bias", false)?;
    let biases = Biases {
        norm: keys.bool_or("norm_bias", false)?,
        qkv: attention,
        out: attention,
        mlp: keys.bool_or("mlp_bias", false)?,
        head: keys.bool_or("decoder_bias", true)?,
    };
    let global = keys.f64_or("global_rope_theta", 160_000.0)?;
    let (dim, heads) = (keys.usize("hidden_size")?, keys.usize("num_attention_heads")?);
    let every = keys.maybe_usize("global_attn_every_n_layers")?.unwrap_or(3);
    if every == 0 {
        return Err(keys.wrong("global_attn_every_n_layers", "must be at least 1"));
    }
    let network = TransformerConfig {
        hidden: Some(keys.usize("intermediate_size")?),
        norm_eps: keys.f64_or("norm_eps", 1e-5)?,
        activation: Activation::GegluErf,
        tied: keys.bool_or("tie_word_embeddings", true)?,
        embedding_norm: true,
        head_transform: true,
        rope_theta: global,
        local: Some(Local {
            window: keys.maybe_usize("local_attention")?.unwrap_or(128) / 2,
            every,
            rope_theta: keys.f64_or("local_rope_theta", global)?,
        }),
        ..network(dim, keys.usize("num_hidden_layers")?, heads, Visibility::Full, biases)
    };
    let special = Special {
        mask: keys.id("mask_token_id"),
        bos: keys.id("bos_token_id"),
        eos: keys.id("eos_token_id"),
        pad: keys.id("pad_token_id"),
    };
    let length = keys.usize("max_position_embeddings")?;
    Ok(Description { special, ..description(Family::ModernBert, network, keys.usize("vocab_size")?, length) })
}
