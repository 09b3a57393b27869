//! Where each parameter of the transformer lies in a family's files: its canonical name, and in which form.
//!
//! Canonical names have none of the prefixes that wrappers put in front (`backbone.`, `model.`, `_orig_mod.`, `ema.`), so
//! that one map serves every way of saving a model. Projections are [out, in] on both sides, but for GPT-2.

use super::Family;

/// Prefixes that a wrapper puts in front of every name.
const WRAPPERS: [&str; 6] = ["_orig_mod.", "ema.", "module.", "backbone.", "model.", "transformer."];

/// `name` without the prefixes of wrappers.
pub fn canonical(name: &str) -> &str {
    let inner = WRAPPERS.iter().find_map(|w| name.strip_prefix(w));
    inner.map_or(name, canonical)
}

/// Where a parameter lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A tensor as it is.
    Whole(String),
    /// A projection stored as [in, out].
    Turned(String),
    /// Several tensors, one below the other: queries, keys and values.
    Stack([String; 3]),
    /// Part i of n of a tensor's rows.
    Part(String, usize, usize),
}

/// Where the family keeps the parameter at `path` of the transformer; blocks lie in groups of `group`, if in groups.
pub fn source(family: Family, path: &str, group: Option<usize>) -> Source {
    let parts: Vec<&str> = path.split('.').collect();
    match parts[..] {
        ["blocks", i, ref rest @ ..] => {
            let leaf = rest[rest.len() - 1];
            block(family, i, &rest[..rest.len() - 1].join("."), leaf, group)
        }
        _ => outer(family, path),
    }
}

fn outer(family: Family, path: &str) -> Source {
    let dit = family.is_dit();
    let name = match path {
        "embed" if dit => "vocab_embed.embedding",
        "embed" => match family {
            Family::Llada | Family::Gpt2 => "wte.weight",
            Family::ModernBert => "embeddings.tok_embeddings.weight",
            _ => "embed_tokens.weight",
        },
        "positions" => "wpe.weight",
        "head_bias" => "decoder.bias",
        _ => {
            let (owner, leaf) = path.rsplit_once('.').unwrap_or((path, "weight"));
            let owner = match (owner, family) {
                ("embed_norm", _) => "embeddings.norm",
                ("time.first", _) => "sigma_map.mlp.0",
                ("time.second", _) => "sigma_map.mlp.2",
                ("norm", _) if dit => "output_layer.norm_final",
                ("norm", Family::Llada | Family::Gpt2) => "ln_f",
                ("norm", Family::ModernBert) => "final_norm",
                ("norm", _) => "norm",
                ("modulation", _) => "output_layer.adaLN_modulation",
                ("transform.dense", _) => "head.dense",
                ("transform.norm", _) => "head.norm",
                ("head", _) if dit => "output_layer.linear",
                ("head", Family::Llada) => "ff_out",
                ("head", Family::ModernBert) => "decoder",
                ("head", _) => "lm_head",
                _ => panic!("no name for parameter `{path}`"),
            };
            return Source::Whole(format!("{owner}.{leaf}"));
        }
    };
    Source::Whole(name.to_string())
}

fn block(family: Family, i: &str, owner: &str, leaf: &str, group: Option<usize>) -> Source {
    let whole = |prefix: &str, name: &str| Source::Whole(format!("{prefix}.{i}.{name}.{leaf}"));
    if family.is_dit() {
        return whole(
            "blocks",
            match owner {
                "attention.qkv" => "attn_qkv",
                "attention.out" => "attn_out",
                "mlp.up" => "mlp.0",
                "mlp.down" => "mlp.2",
                "modulation" => "adaLN_modulation",
                norm => norm,
            },
        );
    }
    match family {
        Family::Llada => {
            let at = match (group, i.parse::<usize>()) {
                (Some(size), Ok(i)) => format!("block_groups.{}.{}", i / size, i % size),
                _ => format!("blocks.{i}"),
            };
            let one = |name: &str| format!("{at}.{name}.{leaf}");
            match owner {
                "attention.qkv" => Source::Stack(["q_proj", "k_proj", "v_proj"].map(one)),
                "norm1" => Source::Whole(one("attn_norm")),
                "norm2" => Source::Whole(one("ff_norm")),
                "attention.out" => Source::Whole(one("attn_out")),
                "mlp.gate" => Source::Whole(one("ff_proj")),
                "mlp.up" => Source::Whole(one("up_proj")),
                _ => Source::Whole(one("ff_out")),
            }
        }
        Family::Gpt2 => {
            let name = match owner {
                "norm1" => "ln_1",
                "norm2" => "ln_2",
                "attention.qkv" => "attn.c_attn",
                "attention.out" => "attn.c_proj",
                "mlp.up" => "mlp.c_fc",
                _ => "mlp.c_proj",
            };
            match leaf {
                "weight" if !owner.starts_with("norm") => Source::Turned(format!("h.{i}.{name}.weight")),
                _ => whole("h", name),
            }
        }
        Family::ModernBert => {
            let half = |n| Source::Part(format!("layers.{i}.mlp.Wi.{leaf}"), n, 2);
            match owner {
                // The activation is on the first half.
                "mlp.gate" => half(0),
                "mlp.up" => half(1),
                "norm1" => whole("layers", "attn_norm"),
                "norm2" => whole("layers", "mlp_norm"),
                "attention.qkv" => whole("layers", "attn.Wqkv"),
                "attention.out" => whole("layers", "attn.Wo"),
                _ => whole("layers", "mlp.Wo"),
            }
        }
        _ => {
            let projection = |name: &str| format!("layers.{i}.self_attn.{name}.{leaf}");
            match owner {
                "attention.qkv" => Source::Stack(["q_proj", "k_proj", "v_proj"].map(projection)),
                "attention.out" => whole("layers", "self_attn.o_proj"),
                "attention.q_norm" => whole("layers", "self_attn.q_norm"),
                "attention.k_norm" => whole("layers", "self_attn.k_norm"),
                "norm1" => whole("layers", "input_layernorm"),
                "norm2" => whole("layers", "post_attention_layernorm"),
                "mlp.gate" => whole("layers", "mlp.gate_proj"),
                "mlp.up" => whole("layers", "mlp.up_proj"),
                _ => whole("layers", "mlp.down_proj"),
            }
        }
    }
}

/// The canonical names of the embedding and of a head of its own: a network whose head is its embedding may be stored with
/// both, or with either.
///
/// # Panics
/// Where a family stores one of them as several tensors, which none does.
pub fn embedding_and_head(family: Family) -> [String; 2] {
    let name = |path: &str| match outer(family, path) {
        Source::Whole(name) => name,
        _ => panic!("`{path}` is one tensor"),
    };
    [name("embed"), name("head.weight")]
}

/// Whether a tensor of this canonical name is no parameter but a value that such a model keeps next to them.
pub fn is_buffer(family: Family, name: &str) -> bool {
    let ends = |suffix: &str| name == suffix || name.ends_with(&format!(".{suffix}"));
    if ends("rotary_emb.inv_freq") {
        return true;
    }
    match family {
        Family::Bd3lm => name == "sampling_eps_min" || name == "sampling_eps_max",
        Family::Sedd => name == "noise.empty",
        // Causal masks; `attn.c_attn.bias` is a parameter.
        Family::Gpt2 => {
            let mask = name.strip_prefix("h.").and_then(|n| n.split_once('.'));
            mask.is_some_and(|(_, rest)| rest == "attn.bias" || rest == "attn.masked_bias")
        }
        _ => false,
    }
}

/// One more than the highest block number among canonical names.
pub fn layers<'a>(names: impl Iterator<Item = &'a String>) -> usize {
    let number = |name: &String| name.split('.').nth(1)?.parse::<usize>().ok();
    names.filter_map(number).max().map_or(0, |n| n.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_are_taken_off_in_any_number_and_nothing_else_is() {
        for (name, want) in [
            ("_orig_mod.backbone.blocks.0.norm1.weight", "blocks.0.norm1.weight"),
            ("model.transformer.ff_out.weight", "ff_out.weight"),
            ("ema.model.layers.1.mlp.up_proj.weight", "layers.1.mlp.up_proj.weight"),
            ("lm_head.weight", "lm_head.weight"),
            ("h.0.attn.c_attn.bias", "h.0.attn.c_attn.bias"),
        ] {
            assert_eq!(canonical(name), want);
        }
    }

    #[test]
    fn the_causal_masks_of_gpt2_are_buffers_and_its_biases_are_not() {
        for (name, buffer) in [
            ("h.11.attn.bias", true),
            ("h.0.attn.masked_bias", true),
            ("h.0.attn.c_attn.bias", false),
            ("h.0.attn.c_proj.bias", false),
            ("lm_head.weight", false),
        ] {
            assert_eq!(is_buffer(Family::Gpt2, name), buffer, "{name}");
        }
        assert_eq!(embedding_and_head(Family::Gpt2), ["wte.weight", "lm_head.weight"]);
        assert_eq!(embedding_and_head(Family::ModernBert)[1], "decoder.weight");
        assert_eq!(embedding_and_head(Family::Llada), ["wte.weight", "ff_out.weight"]);
    }

    #[test]
    fn each_form_of_source_has_its_names() {
        let whole = |name: &str| Source::Whole(name.to_string());
        assert_eq!(source(Family::Llada, "blocks.3.mlp.down.weight", None), whole("blocks.3.ff_out.weight"));
        assert_eq!(source(Family::Llada, "blocks.3.norm1.weight", Some(2)), whole("block_groups.1.1.attn_norm.weight"));
        assert_eq!(source(Family::Mdlm, "head.bias", None), whole("output_layer.linear.bias"));
        let part = Source::Part("layers.0.mlp.Wi.weight".into(), 1, 2);
        assert_eq!(source(Family::ModernBert, "blocks.0.mlp.up.weight", None), part);
        let turned = Source::Turned("h.1.attn.c_proj.weight".into());
        assert_eq!(source(Family::Gpt2, "blocks.1.attention.out.weight", None), turned);
    }
}
