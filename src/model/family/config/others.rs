//! LLaDA, GPT-2 and ModernBERT.

use super::super::rope;
use super::super::{Description, Family};
use super::llama::kinds;
use super::{description, network};
use crate::error::Result;
use crate::model::TransformerConfig;
use crate::model::config::{Activation, Biases, Local, NormKind, Visibility};
use crate::model::family::keys::Keys;

pub(super) fn llada(keys: &Keys) -> Result<Description> {
    keys.stated("block_type", &["llama"], "sequential")?;
    keys.stated("activation_type", &["silu", "swish"], "swiglu")?;
    keys.stated("layer_norm_type", &["rms"], "default")?;
    for key in ["alibi", "attention_layer_norm", "input_emb_norm", "scale_logits", "bias_for_layer_norm"] {
        keys.never(key)?;
    }
    keys.always("layer_norm_with_affine")?;
    if !keys.bool_or("rope", false)? {
        return Err(keys.wrong("rope", "is not true, which is not supported"));
    }
    let bias = keys.bool_or("include_bias", false)?;
    let qkv = bias || keys.bool_or("include_qkv_bias", false)?;
    let biases = Biases { norm: false, qkv, out: bias, mlp: bias, head: bias };
    let (dim, heads) = (keys.usize("d_model")?, keys.usize("n_heads")?);
    let multi_query = keys.bool_or("multi_query_attention", false)?;
    let hidden = match keys.maybe_usize("mlp_hidden_size")? {
        Some(hidden) => hidden,
        None => dim * keys.usize_or("mlp_ratio", 4)?.min(1024),
    };
    let length = keys.usize("max_sequence_length")?;
    let rope = rope::of_all(keys, 1e4, length, false)?;
    if rope.scaling.is_some() {
        return Err(keys.wrong("rope_scaling", "stretches angles, which LLaDA's own code does not"));
    }
    let network = TransformerConfig {
        kv_heads: keys.maybe_usize("n_kv_heads")?.or(multi_query.then_some(1)),
        hidden: Some(hidden),
        norm: NormKind::Rms,
        norm_eps: keys.f64_or("rms_norm_eps", 1e-5)?,
        activation: Activation::Swiglu,
        tied: keys.bool_or("weight_tying", true)?,
        rope_theta: rope.theta,
        ..network(dim, keys.usize("n_layers")?, heads, Visibility::Full, biases)
    };
    let vocab = match (keys.maybe_usize("embedding_size")?, keys.has("embedding_size")) {
        (Some(size), _) => size,
        (None, true) => keys.usize("vocab_size")?,
        (None, false) => 50_304,
    };
    Ok(description(Family::Llada, network, vocab, length))
}

/// A number under one of GPT-2's names for it.
fn either(keys: &Keys, names: [&str; 2]) -> Result<usize> {
    let mut said = Vec::new();
    for name in names {
        said.extend(keys.maybe_usize(name)?.map(|v| (keys.name(name), v)));
    }
    match keys.agreed(&said)? {
        Some(value) => Ok(value),
        None => keys.usize(names[0]),
    }
}

pub(super) fn gpt2(keys: &Keys) -> Result<Description> {
    keys.never("scale_attn_by_inverse_layer_idx")?;
    keys.never("add_cross_attention")?;
    keys.always("scale_attn_weights")?;
    let activation = match keys.text("activation_function")?.unwrap_or("gelu_new") {
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_accurate" => Activation::Gelu,
        "gelu" | "gelu_python" => Activation::GeluErf,
        other => {
            return Err(keys.wrong("activation_function", format!("is \"{other}\", and GELUs alone are supported")));
        }
    };
    let dim = either(keys, ["n_embd", "hidden_size"])?;
    let (layers, heads) =
        (either(keys, ["n_layer", "num_hidden_layers"])?, either(keys, ["n_head", "num_attention_heads"])?);
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
        ..network(dim, layers, heads, Visibility::Causal, biases)
    };
    let length = either(keys, ["n_positions", "max_position_embeddings"])?;
    Ok(description(Family::Gpt2, network, keys.usize("vocab_size")?, length))
}

pub(super) fn modernbert(keys: &Keys) -> Result<Description> {
    keys.only("hidden_activation", &["gelu", "gelu_python"])?;
    keys.only("classifier_activation", &["gelu", "gelu_python"])?;
    keys.never("classifier_bias")?;
    let attention = keys.bool_or("attention_bias", false)?;
    let biases = Biases {
        norm: keys.bool_or("norm_bias", false)?,
        qkv: attention,
        out: attention,
        mlp: keys.bool_or("mlp_bias", false)?,
        head: keys.bool_or("decoder_bias", true)?,
    };
    let (dim, heads) = (keys.usize("hidden_size")?, keys.usize("num_attention_heads")?);
    if let Some(width) = keys.maybe_usize("head_dim")?.filter(|width| width.checked_mul(heads) != Some(dim)) {
        return Err(keys.wrong("head_dim", format!("is {width}, and {heads} such heads do not make {dim}")));
    }
    let layers = keys.usize("num_hidden_layers")?;
    let length = keys.usize_or("max_position_embeddings", 8192)?;
    let [global, local] = rope::of_two(keys, length)?;
    let mut window = Vec::new();
    if let Some(both) = keys.maybe_usize("local_attention")? {
        window.push((keys.name("local_attention"), both / 2));
    } else if keys.has("local_attention") {
        keys.usize("local_attention")?;
    }
    window.extend(keys.maybe_usize("sliding_window")?.map(|half| (keys.name("sliding_window"), half)));
    let (every, listed) = every(keys, layers)?;
    let network = TransformerConfig {
        hidden: Some(keys.usize("intermediate_size")?),
        norm_eps: keys.f64_or("norm_eps", 1e-5)?,
        activation: Activation::GegluErf,
        tied: keys.bool_or("tie_word_embeddings", true)?,
        embedding_norm: true,
        head_transform: true,
        rope_theta: global.theta,
        rope_scaling: global.scaling,
        local: Some(Local {
            window: keys.agreed(&window)?.unwrap_or(64),
            every,
            rope_theta: local.theta,
            rope_scaling: local.scaling,
            global: listed,
        }),
        ..network(dim, layers, heads, Visibility::Full, biases)
    };
    Ok(description(Family::ModernBert, network, keys.usize("vocab_size")?, length))
}

/// Which of ModernBERT's layers see everything: every so many, or those that are listed where no number says it.
fn every(keys: &Keys, layers: usize) -> Result<(usize, Option<Vec<usize>>)> {
    let key = "global_attn_every_n_layers";
    let said = match keys.has(key) {
        true => Some(keys.usize(key)?),
        false => None,
    };
    if said == Some(0) {
        return Err(keys.wrong(key, "must be at least 1"));
    }
    let Some(kinds) = kinds(keys, layers)? else { return Ok((said.unwrap_or(3), None)) };
    let fits = |n: usize| kinds.iter().enumerate().all(|(i, local)| *local != i.is_multiple_of(n));
    match said {
        Some(n) if fits(n) => Ok((n, None)),
        Some(n) => Err(keys
            .wrong("layer_types", format!("and `{key}` contradict each other"))
            .cause(format!("every {n} layers one sees everything, and the list says otherwise"))
            .hint("remove the one that is not meant")),
        None => Ok(match [3].into_iter().chain(1..=layers).find(|n| fits(*n)) {
            Some(n) => (n, None),
            None => (3, Some((0..layers).filter(|i| !kinds[*i]).collect())),
        }),
    }
}
