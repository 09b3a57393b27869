//! The keys of config.json that are known, family by family: those that say something of the network are read elsewhere,
//! those that say nothing of it are listed here, and any other is named in a warning.

use super::Family;
use super::keys::Keys;
use crate::error::Result;

/// Keys that any model of transformers may have, and that change nothing of what a network computes when it is read.
const GENERAL: [&str; 83] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation",
    "_from_model_config",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cls_token_id",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "mask_token_id",
    "max_length",
    "max_new_tokens",
    "min_length",
    "model_type",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "per_layer_config",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "quantization_config",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_last_hidden_states",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
    "vocab_size",
    "hidden_dropout",
    "transformers.js_config",
];

/// MDLM, DUO and BD3-LM.
const DIT: [&str; 8] =
    ["cond_dim", "dropout", "hidden_dim", "model_length", "n_blocks", "n_heads", "time_conditioning", "var_min"];
const BD3LM: [&str; 7] =
    ["adaln", "attn_backend", "block_size", "causal", "cross_attn", "sampling_eps_max", "sampling_eps_min"];

/// What SEDD and SDTT have under `model`; the rest of those files is about their training.
const DIT_MODEL: [&str; 10] = [
    "cond_dim",
    "dropout",
    "hidden_size",
    "length",
    "n_blocks",
    "n_heads",
    "name",
    "scale_by_sigma",
    "tie_word_embeddings",
    "type",
];

const LLADA: [&str; 39] = [
    "activation_type",
    "alibi",
    "alibi_bias_max",
    "attention_layer_norm",
    "attention_layer_norm_with_affine",
    "bias_for_layer_norm",
    "block_group_size",
    "block_type",
    "d_model",
    "embedding_dropout",
    "embedding_size",
    "flash_attention",
    "include_bias",
    "include_qkv_bias",
    "init_cutoff_factor",
    "init_device",
    "init_fn",
    "init_std",
    "input_emb_norm",
    "layer_norm_type",
    "layer_norm_with_affine",
    "max_sequence_length",
    "mlp_hidden_size",
    "mlp_ratio",
    "multi_query_attention",
    "n_heads",
    "n_kv_heads",
    "n_layers",
    "precision",
    "residual_dropout",
    "rms_norm_eps",
    "rope",
    "rope_full_precision",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "scale_logits",
    "tie_word_embeddings",
    "weight_tying",
];

const GPT2: [&str; 25] = [
    "activation_function",
    "add_cross_attention",
    "attn_pdrop",
    "embd_pdrop",
    "hidden_size",
    "layer_norm_epsilon",
    "max_position_embeddings",
    "n_ctx",
    "n_embd",
    "n_head",
    "n_inner",
    "n_layer",
    "n_positions",
    "num_attention_heads",
    "num_hidden_layers",
    "reorder_and_upcast_attn",
    "resid_pdrop",
    "scale_attn_by_inverse_layer_idx",
    "scale_attn_weights",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "tie_word_embeddings",
];

/// LLaMA, Qwen2, Qwen3, and the diffusion models made of them.
const LLAMA: [&str; 26] = [
    "attention_bias",
    "full_attn_mask",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "is_causal",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "right_shift_logits",
    "rms_norm_eps",
    "rope_interleaved",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "use_mrope",
    "use_sliding_window",
];

const MODERNBERT: [&str; 38] = [
    "attention_bias",
    "classifier_activation",
    "classifier_bias",
    "classifier_dropout",
    "classifier_pooling",
    "decoder_bias",
    "deterministic_flash_attn",
    "embedding_dropout",
    "global_attn_every_n_layers",
    "global_rope_theta",
    "head_dim",
    "hidden_activation",
    "hidden_size",
    "initializer_cutoff_factor",
    "intermediate_size",
    "layer_norm_eps",
    "layer_types",
    "local_attention",
    "local_rope_theta",
    "max_position_embeddings",
    "mlp_bias",
    "mlp_dropout",
    "norm_bias",
    "norm_eps",
    "num_attention_heads",
    "num_hidden_layers",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "position_embedding_type",
    "reference_compile",
    "repad_logits_with_grad",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "sparse_pred_ignore_index",
    "sparse_prediction",
    "tie_word_embeddings",
];

/// What `rope_parameters` and `rope_scaling` may say.
const ROPE: [&str; 10] = [
    "factor",
    "full_attention",
    "high_freq_factor",
    "low_freq_factor",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "sliding_attention",
    "type",
];

/// The keys of a config.json of this family that are not known, by their whole names.
pub fn unknown(keys: &Keys, family: Family) -> Result<Vec<String>> {
    let own: &[&[&str]] = match family {
        Family::Mdlm | Family::Duo => &[&DIT, &["causal"]],
        Family::Bd3lm => &[&DIT, &BD3LM],
        Family::Llada => &[&LLADA],
        Family::Gpt2 => &[&GPT2],
        Family::ModernBert => &[&MODERNBERT],
        // Dream's own code takes the settings of its sampler from here.
        Family::Dream => &[&LLAMA, &["alg", "alg_temp", "eps", "steps"]],
        Family::A2d | Family::Llama | Family::Qwen2 | Family::Qwen3 => &[&LLAMA],
        Family::Sdtt | Family::Sedd => {
            let model = keys.inside("model")?;
            return Ok(model.map_or_else(Vec::new, |inside| strangers(&inside, &[&DIT_MODEL])));
        }
    };
    let mut all = strangers(keys, &[&[&GENERAL[..]], own].concat());
    for key in ["rope_parameters", "rope_scaling"].into_iter().filter(|key| own.iter().any(|list| list.contains(key))) {
        let Some(inside) = keys.inside(key)? else { continue };
        all.extend(strangers(&inside, &[&ROPE]));
        for kind in [super::rope::FULL, super::rope::SLIDING] {
            all.extend(inside.inside(kind)?.map_or_else(Vec::new, |of| strangers(&of, &[&ROPE])));
        }
    }
    Ok(all)
}

/// The keys that stand in none of the lists and say something.
fn strangers(keys: &Keys, known: &[&[&str]]) -> Vec<String> {
    let stranger = |name: &&str| keys.get(name).is_some() && !known.iter().any(|list| list.contains(name));
    keys.names().into_iter().filter(stranger).map(|name| keys.name(name)).collect()
}
