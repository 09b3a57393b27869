//! MDLM, DUO, BD3-LM, SEDD and SDTT: one network in five wrappers.

use super::super::{Description, Family, Special};
use super::{NO_BIASES, Shapes, description, network};
use crate::error::Result;
use crate::model::TransformerConfig;
use crate::model::config::{Biases, TimeInput, Visibility};
use crate::model::family::keys::Keys;

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
pub(super) fn dit_hf(keys: &Keys, family: Family) -> Result<Description> {
    if family == Family::Mdlm {
        keys.never("causal")?;
    }
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
            if causal {
                return Err(keys
                    .wrong("causal", "is true where `cross_attn` is true, which is not supported")
                    .hint("blocks that see each other's clean text are not causal: one of the two must be false"));
            }
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
    let special = Special { mask, ..Special::default() };
    Ok(Description { special, ..description(family, network, vocab, keys.usize("model_length")?) })
}

/// SEDD and SDTT: the dump of a Hydra configuration with the network under `model`.
pub(super) fn dit_nested(keys: &Keys, family: Family, tensors: &Shapes) -> Result<Description> {
    let Some(model) = keys.inside("model")? else { return Err(keys.wrong("model", "is missing")) };
    let time = match family {
        Family::Sedd => TimeInput::Sigma,
        _ => sigma(keys.bool_or("time_conditioning", false)?),
    };
    model.only("type", &["ddit", "ddit-orig"])?;
    model.never("tie_word_embeddings")?;
    keys.never("is_di4c")?;
    // Times are turned into noise by one rule here.
    if let Some(noise) = keys.inside("noise")?
        && time == TimeInput::Sigma
    {
        noise.only("type", &["loglinear"])?;
    }
    let [dim, layers, heads] = [model.usize("hidden_size")?, model.usize("n_blocks")?, model.usize("n_heads")?];
    let network = dit(dim, layers, heads, model.usize("cond_dim")?, time);
    let rows = tensors.get("vocab_embed.embedding").and_then(|s| s.first().copied()).unwrap_or(0);
    let (vocab, mask) = match family {
        Family::Sedd => {
            let graph = keys.inside("graph")?.map_or(Ok(None), |graph| graph.text("type"))?;
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
