//! LLaMA, Qwen2 and Qwen3, and the diffusion models that were made of them: Dream and dllm's.

use super::super::rope::{self, FULL, SLIDING};
use super::super::{Description, Family};
use super::{NO_BIASES, Shapes, description, network};
use crate::error::Result;
use crate::model::TransformerConfig;
use crate::model::config::{Activation, Biases, NormKind, Visibility};
use crate::model::family::keys::Keys;

/// The networks that LLaMA's descendants are: Dream and dllm's models are made of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    Llama,
    Qwen2,
    Qwen3,
}

fn base(keys: &Keys, family: Family, tensors: &Shapes) -> Result<Base> {
    Ok(match family {
        Family::Llama => Base::Llama,
        Family::Qwen2 | Family::Dream => Base::Qwen2,
        Family::Qwen3 => Base::Qwen3,
        _ => {
            let named = [keys.text("model_type")?, keys.first("architectures")];
            let says = |name: &str| named.iter().flatten().any(|n| n.to_lowercase().contains(name));
            let norms = tensors.contains_key("layers.0.self_attn.q_norm.weight");
            match (says("qwen3"), says("qwen2"), says("llama")) {
                (true, ..) => Base::Qwen3,
                (_, true, _) => Base::Qwen2,
                (_, _, true) => Base::Llama,
                _ if norms => Base::Qwen3,
                _ => Base::Llama,
            }
        }
    })
}

/// Dream, dllm's conversions, and the causal models they come from.
pub(super) fn llama(keys: &Keys, family: Family, tensors: &Shapes) -> Result<Description> {
    let base = base(keys, family, tensors)?;
    let diffusion = matches!(family, Family::Dream | Family::A2d);
    keys.only("hidden_act", &["silu", "swish"])?;
    for key in ["use_mrope", "rope_interleaved", "right_shift_logits"] {
        keys.never(key)?;
    }
    match diffusion {
        true => keys.never("is_causal")?,
        false => keys.always("is_causal")?,
    }
    keys.always("full_attn_mask")?;
    let layers = keys.usize("num_hidden_layers")?;
    let length = keys.usize_or("max_position_embeddings", if base == Base::Llama { 2048 } else { 32_768 })?;
    if base != Base::Llama {
        nothing_slides(keys, layers, length)?;
    } else if let Some(at) = kinds(keys, layers)?.and_then(|kinds| kinds.iter().position(|local| *local)) {
        return Err(keys.wrong("layer_types", format!("says that layer {at} is of another kind than {FULL}")));
    }
    // Qwen2 has biases on queries, keys and values alone, whatever is said; so has Dream.
    let attention = base != Base::Qwen2 && keys.bool_or("attention_bias", false)?;
    let mlp = base == Base::Llama && keys.bool_or("mlp_bias", false)?;
    let biases = Biases { qkv: base == Base::Qwen2 || attention, out: attention, mlp, ..NO_BIASES };
    let (dim, heads) = (keys.usize("hidden_size")?, keys.usize("num_attention_heads")?);
    let visibility = if diffusion { Visibility::Full } else { Visibility::Causal };
    let rope = rope::of_all(keys, 1e4, length, base != Base::Llama)?;
    let network = TransformerConfig {
        kv_heads: match keys.has("num_key_value_heads") || base == Base::Llama {
            true => keys.maybe_usize("num_key_value_heads")?,
            false => Some(32),
        },
        head_dim: match base {
            Base::Llama => keys.maybe_usize("head_dim")?,
            // Dream's own code knows no such key.
            Base::Qwen2 if family == Family::Dream => None,
            Base::Qwen2 if !keys.has("head_dim") => None,
            Base::Qwen2 => Some(keys.usize("head_dim")?),
            Base::Qwen3 => Some(keys.usize_or("head_dim", 128)?),
        },
        hidden: Some(keys.usize("intermediate_size")?),
        norm: NormKind::Rms,
        norm_eps: keys.f64_or("rms_norm_eps", 1e-6)?,
        activation: Activation::Swiglu,
        qk_norm: base == Base::Qwen3,
        tied: keys.bool_or("tie_word_embeddings", false)?,
        // Dream kept the habit of the causal model it grew from; the others predict in place.
        shift_output: !diffusion || family == Family::Dream,
        rope_theta: rope.theta,
        rope_scaling: rope.scaling,
        ..network(dim, layers, heads, visibility, biases)
    };
    Ok(description(family, network, keys.usize("vocab_size")?, length))
}

/// Which layers see only near positions, where `layer_types` lists their kinds.
pub(super) fn kinds(keys: &Keys, layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(kinds) = keys.texts("layer_types")? else { return Ok(None) };
    if kinds.len() != layers {
        return Err(keys.wrong("layer_types", format!("lists {} layers, and there are {layers}", kinds.len())));
    }
    let kind = |(at, kind): (usize, &&str)| match *kind {
        FULL => Ok(false),
        SLIDING => Ok(true),
        other => Err(keys.wrong(
            "layer_types",
            format!("says that layer {at} is \"{other}\", and only {FULL} and {SLIDING} are supported"),
        )),
    };
    kinds.iter().enumerate().map(kind).collect::<Result<Vec<bool>>>().map(Some)
}

/// Refuses Qwen models of which a layer sees less than it could through its window.
fn nothing_slides(keys: &Keys, layers: usize, length: usize) -> Result<()> {
    let on = keys.bool_or("use_sliding_window", false)?;
    let window = match keys.has("sliding_window") {
        true => keys.maybe_usize("sliding_window")?,
        false => Some(4096),
    };
    let from = keys.maybe_usize("max_window_layers")?.unwrap_or(28);
    let slides = kinds(keys, layers)?.map_or(on && from < layers && window.is_some(), |kinds| kinds.contains(&true));
    let hides_nothing = on && window.is_some_and(|window| window >= length);
    if !slides || hides_nothing {
        return Ok(());
    }
    let key = if keys.has("layer_types") { "layer_types" } else { "use_sliding_window" };
    Err(keys.wrong(key, "lets layers see only a window of the positions before them, which is not supported").cause(
        format!(
            "`sliding_window` is {}, and the model reads {length}",
            window.map_or("null".into(), |w| w.to_string())
        ),
    ))
}
