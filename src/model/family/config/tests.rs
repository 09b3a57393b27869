//! Every key of every family: its default where it is absent, what null means, and that another type is refused by name.

use serde_json::{Value, json};

use super::*;
use crate::model::config::{Local, RopeScaling, TimeInput};

/// The tensors that a family is recognised by.
fn tensors(family: &str) -> Shapes {
    let names: &[&str] = match family {
        "mdlm" | "duo" | "bd3lm" | "sedd" | "sdtt" => &["vocab_embed.embedding"],
        "llada" | "gpt2" => &["wte.weight"],
        "modernbert" => &["embeddings.tok_embeddings.weight"],
        "qwen3" | "a2d-qwen3" => &["embed_tokens.weight", "layers.0.self_attn.q_norm.weight"],
        _ => &["embed_tokens.weight"],
    };
    names.iter().map(|name| (name.to_string(), vec![97, 32])).collect()
}

fn describe_as(family: &str, config: &Value) -> Result<Description> {
    describe("config.json", config, &tensors(family))
}

fn network_of(family: &str, config: &Value) -> TransformerConfig {
    describe_as(family, config).unwrap_or_else(|e| panic!("{family}: {e}")).network
}

/// The keys without which a family's shape is not known.
fn least(family: &str) -> Value {
    let qwen = |kind: &str| {
        json!({ "model_type": kind, "hidden_size": 128, "intermediate_size": 48, "num_hidden_layers": 4,
            "num_attention_heads": 64, "vocab_size": 97 })
    };
    match family {
        "mdlm" | "duo" => json!({ "model_type": family, "hidden_dim": 32, "n_blocks": 4, "n_heads": 4, "cond_dim": 8,
            "vocab_size": 97, "model_length": 24 }),
        "bd3lm" => json!({ "model_type": family, "hidden_dim": 32, "n_blocks": 4, "n_heads": 4, "cond_dim": 8,
            "vocab_size": 97, "model_length": 24, "block_size": 4 }),
        "sedd" => json!({ "tokens": 96, "graph": { "type": "absorb" }, "model": { "hidden_size": 32, "n_blocks": 4,
            "n_heads": 4, "cond_dim": 8, "length": 24 } }),
        "sdtt" => json!({ "model": { "hidden_size": 32, "n_blocks": 4, "n_heads": 4, "cond_dim": 8, "length": 24 } }),
        "llada" => json!({ "model_type": family, "d_model": 32, "n_layers": 4, "n_heads": 4, "vocab_size": 97,
            "embedding_size": 97, "max_sequence_length": 24, "block_type": "llama", "activation_type": "silu",
            "layer_norm_type": "rms", "rope": true }),
        "gpt2" => json!({ "model_type": family, "n_embd": 32, "n_layer": 4, "n_head": 4, "vocab_size": 97,
            "n_positions": 24 }),
        "modernbert" => json!({ "model_type": family, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 97 }),
        "dream" => qwen("Dream"),
        other => qwen(other),
    }
}

const FAMILIES: [&str; 14] = [
    "mdlm",
    "duo",
    "bd3lm",
    "sedd",
    "sdtt",
    "llada",
    "gpt2",
    "modernbert",
    "dream",
    "llama",
    "qwen2",
    "qwen3",
    "a2d-qwen2",
    "a2d-qwen3",
];

fn with(config: &Value, key: &str, value: Value) -> Value {
    let mut config = config.clone();
    config[key] = value;
    config
}

#[test]
fn an_absent_key_has_the_default_of_the_familys_own_class() {
    for family in FAMILIES {
        let d = describe_as(family, &least(family)).unwrap_or_else(|e| panic!("{family}: {e}"));
        let (n, biases) = (d.network.clone(), d.network.biases());
        assert!(d.notes.is_empty() && d.vocab == 97, "{family}: {:?}", d.notes);
        let bias = (biases.norm, biases.qkv, biases.out, biases.mlp, biases.head);
        match family {
            "mdlm" | "bd3lm" | "sdtt" | "sedd" | "duo" => {
                let time = if matches!(family, "sedd" | "duo") { TimeInput::Sigma } else { TimeInput::ZeroSigma };
                let blocks = if family == "bd3lm" { Visibility::Blocks(4) } else { Visibility::Full };
                assert_eq!((n.time, n.visibility, n.hidden, n.tied), (time, blocks, Some(128), false), "{family}");
                assert_eq!(d.scale_by_sigma, family == "sedd");
                assert_eq!(bias, (false, false, false, true, true), "{family}");
            }
            "llada" => {
                assert_eq!(
                    (n.rope_theta, n.norm_eps, n.tied, n.hidden, n.kv_heads),
                    (1e4, 1e-5, true, Some(128), None)
                );
                assert_eq!(bias, (false, false, false, false, false));
            }
            "gpt2" => {
                assert_eq!((n.norm_eps, n.tied, n.hidden, n.rotary), (1e-5, true, Some(128), false));
                assert_eq!(bias, (true, true, true, true, false));
            }
            "modernbert" => {
                let local = Local { window: 64, every: 3, rope_theta: 1e4, rope_scaling: None, global: None };
                assert_eq!((n.rope_theta, n.norm_eps, n.tied, n.local), (160_000.0, 1e-5, true, Some(local)));
                assert_eq!(bias, (false, false, false, false, true));
                assert_eq!(d.length, 8192);
            }
            _ => {
                let (qwen2, qwen3) = (matches!(family, "qwen2" | "dream" | "a2d-qwen2"), family.contains("qwen3"));
                assert_eq!((n.rope_theta, n.norm_eps, n.tied, n.qk_norm), (1e4, 1e-6, false, qwen3), "{family}");
                assert_eq!(n.head_dim, qwen3.then_some(128), "{family}");
                assert_eq!(n.kv_heads, if family == "llama" { None } else { Some(32) }, "{family}");
                assert_eq!(bias, (false, qwen2, false, false, false), "{family}");
                assert_eq!(d.length, if family == "llama" { 2048 } else { 32_768 });
            }
        }
    }
}

/// Keys that are read, with a value that is no default where there is one, and whether null is a value there: what leaving
/// the key out means, or something of its own.
fn read_keys(family: &str) -> Vec<(&'static str, Value, bool)> {
    let llama = |more: Vec<(&'static str, Value, bool)>| {
        let mut all = vec![
            ("hidden_act", json!("swish"), true),
            ("hidden_size", json!(256), false),
            ("intermediate_size", json!(64), false),
            ("num_hidden_layers", json!(3), false),
            ("num_attention_heads", json!(32), false),
            ("num_key_value_heads", json!(16), true),
            ("vocab_size", json!(90), false),
            ("max_position_embeddings", json!(64), false),
            ("rms_norm_eps", json!(1e-4), false),
            ("rope_theta", json!(5e5), false),
            ("rope_scaling", json!({ "rope_type": "linear", "factor": 2.0 }), true),
            ("rope_parameters", json!({ "rope_type": "default", "rope_theta": 77.0 }), true),
            ("tie_word_embeddings", json!(true), true),
            ("layer_types", json!(["full_attention", "full_attention", "full_attention", "full_attention"]), true),
            ("partial_rotary_factor", json!(1.0), true),
            ("bos_token_id", json!(5), true),
            ("eos_token_id", json!([5, 6]), true),
            ("pad_token_id", json!(-1), true),
        ];
        all.extend(more);
        all
    };
    let dit = vec![
        ("hidden_dim", json!(64), false),
        ("n_blocks", json!(3), false),
        ("n_heads", json!(2), false),
        ("cond_dim", json!(16), false),
        ("vocab_size", json!(90), false),
        ("model_length", json!(32), false),
        ("bos_token_id", json!(5), true),
    ];
    let qwen = vec![
        ("use_sliding_window", json!(false), true),
        ("sliding_window", json!(16), true),
        ("max_window_layers", json!(4), true),
    ];
    match family {
        "mdlm" => [dit, vec![("time_conditioning", json!(true), true), ("causal", json!(false), true)]].concat(),
        "duo" => [dit, vec![("causal", json!(true), true)]].concat(),
        "bd3lm" => [
            dit,
            vec![
                ("time_conditioning", json!(true), true),
                ("causal", json!(false), true),
                ("cross_attn", json!(false), false),
                ("adaln", json!(false), false),
                ("block_size", json!(8), false),
            ],
        ]
        .concat(),
        "sdtt" => vec![("time_conditioning", json!(true), true), ("is_di4c", json!(false), true)],
        "sedd" => vec![("tokens", json!(50), false), ("noise", json!({ "type": "loglinear" }), true)],
        "llada" => vec![
            ("block_type", json!("llama"), false),
            ("activation_type", json!("swish"), false),
            ("layer_norm_type", json!("rms"), false),
            ("alibi", json!(false), true),
            ("attention_layer_norm", json!(false), true),
            ("input_emb_norm", json!(false), true),
            ("scale_logits", json!(false), true),
            ("bias_for_layer_norm", json!(false), true),
            ("layer_norm_with_affine", json!(true), false),
            ("rope", json!(true), false),
            ("include_bias", json!(true), true),
            ("include_qkv_bias", json!(true), true),
            ("d_model", json!(64), false),
            ("n_heads", json!(2), false),
            ("n_kv_heads", json!(2), true),
            ("multi_query_attention", json!(true), true),
            ("mlp_hidden_size", json!(40), true),
            ("mlp_ratio", json!(2), false),
            ("weight_tying", json!(false), false),
            ("rms_norm_eps", json!(1e-4), false),
            ("rope_theta", json!(5e5), false),
            ("n_layers", json!(3), false),
            ("embedding_size", json!(90), true),
            ("max_sequence_length", json!(32), false),
            ("mask_token_id", json!(7), true),
            ("eos_token_id", json!(8), true),
        ],
        "gpt2" => vec![
            ("scale_attn_by_inverse_layer_idx", json!(false), true),
            ("add_cross_attention", json!(false), true),
            ("scale_attn_weights", json!(true), false),
            ("activation_function", json!("gelu"), true),
            ("n_embd", json!(64), false),
            ("n_inner", json!(40), true),
            ("layer_norm_epsilon", json!(1e-4), false),
            ("tie_word_embeddings", json!(false), false),
            ("n_layer", json!(3), false),
            ("n_head", json!(2), false),
            ("n_positions", json!(32), false),
            ("vocab_size", json!(90), false),
            ("eos_token_id", json!(8), true),
        ],
        "modernbert" => vec![
            ("hidden_activation", json!("gelu"), true),
            ("classifier_activation", json!("gelu"), true),
            ("classifier_bias", json!(false), true),
            ("attention_bias", json!(true), true),
            ("norm_bias", json!(true), true),
            ("mlp_bias", json!(true), true),
            ("decoder_bias", json!(false), false),
            ("global_rope_theta", json!(5e5), false),
            ("local_rope_theta", json!(500.0), true),
            ("rope_parameters", json!({ "sliding_attention": { "rope_theta": 50.0 } }), true),
            ("rope_scaling", json!({ "rope_type": "linear", "factor": 2.0 }), true),
            ("hidden_size", json!(64), false),
            ("intermediate_size", json!(64), false),
            ("num_hidden_layers", json!(3), false),
            ("num_attention_heads", json!(2), false),
            ("global_attn_every_n_layers", json!(2), false),
            ("local_attention", json!(10), false),
            ("sliding_window", json!(5), true),
            ("layer_types", json!(["sliding_attention", "full_attention", "full_attention", "full_attention"]), true),
            ("norm_eps", json!(1e-4), false),
            ("tie_word_embeddings", json!(false), false),
            ("vocab_size", json!(90), false),
            ("max_position_embeddings", json!(64), false),
            ("mask_token_id", json!(7), true),
        ],
        "llama" => llama(vec![
            ("attention_bias", json!(true), true),
            ("mlp_bias", json!(true), true),
            ("head_dim", json!(6), true),
            ("is_causal", json!(true), false),
        ]),
        "qwen2" => llama([qwen, vec![("head_dim", json!(6), false)]].concat()),
        "qwen3" => llama([qwen, vec![("head_dim", json!(6), false), ("attention_bias", json!(true), true)]].concat()),
        "dream" => llama([qwen, vec![("use_mrope", json!(false), true), ("mask_token_id", json!(7), true)]].concat()),
        _ => llama(vec![("mask_token_id", json!(7), true)]),
    }
}

#[test]
fn every_key_that_is_read_says_something_and_a_value_of_another_type_is_refused_by_its_name() {
    for family in FAMILIES {
        let base = least(family);
        let before = describe_as(family, &base).unwrap();
        for (key, value, null) in read_keys(family) {
            let what = format!("{family}.{key}");
            let shown = |d: &Description| format!("{:?}", (&d.network, d.vocab, d.length, d.special, &d.ends));
            let absent = {
                let mut config = base.clone();
                config.as_object_mut().unwrap().remove(key);
                describe_as(family, &config).ok()
            };
            let given = describe_as(family, &with(&base, key, value.clone())).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(given.notes.is_empty(), "{what}: {:?}", given.notes);
            // Keys of which only one value is supported, and those that agree with the default, say nothing new.
            let silent = [
                "pad_token_id",
                "hidden_act",
                "hidden_activation",
                "classifier_activation",
                "layer_types",
                "noise",
                "sliding_window",
                "max_window_layers",
                "partial_rotary_factor",
                "activation_type",
                "block_type",
                "layer_norm_type",
            ];
            let neutral = value == json!(false) && base.get(key).is_none() || value == json!(true);
            if !silent.contains(&key) && !neutral {
                assert_ne!(shown(&given), shown(&before), "{what} = {value} changes nothing");
            }
            let wrong = if value.is_object() { json!("x") } else { json!({ "x": 1 }) };
            let error =
                describe_as(family, &with(&base, key, wrong)).err().unwrap_or_else(|| panic!("{what} of a wrong type"));
            assert!(error.to_string().contains(key), "{what}: {error}");
            match describe_as(family, &with(&base, key, Value::Null)) {
                Ok(d) => {
                    assert!(null, "{what} = null is taken");
                    // A null local base is the global one, LLaDA's embedding its vocabulary.
                    if !["local_rope_theta", "num_key_value_heads", "embedding_size"].contains(&key) {
                        assert_eq!(shown(&d), shown(&absent.unwrap()), "{what} = null");
                    }
                }
                Err(e) => {
                    assert!(!null && e.to_string().contains(key), "{what} = null: {e}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (family, key, value, says) in [
        ("bd3lm", "causal", json!(true), "cross_attn"),
        ("mdlm", "causal", json!(true), "causal"),
        ("sdtt", "is_di4c", json!(true), "is_di4c"),
        ("llama", "pruned_heads", json!({ "0": [1] }), "pruned_heads"),
        ("qwen2", "per_layer_config", json!({ "0": { "hidden_act": "relu" } }), "per_layer_config"),
        ("llama", "is_causal", json!(false), "is_causal"),
        ("llama", "partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
        ("llama", "rope_scaling", json!({ "rope_type": "yarn", "factor": 4.0 }), "rope_scaling.rope_type"),
        ("llama", "rope_parameters", json!({ "type": "dynamic", "factor": 4.0 }), "rope_parameters.type"),
        ("llama", "rope_scaling", json!({ "factor": 4.0 }), "rope_type"),
        (
            "qwen3",
            "layer_types",
            json!(["full_attention", "sliding_attention", "full_attention", "full_attention"]),
            "layer_types",
        ),
        ("qwen3", "layer_types", json!(["full_attention"]), "lists 1 layers"),
        (
            "llama",
            "layer_types",
            json!(["full_attention", "linear_attention", "full_attention", "full_attention"]),
            "linear_attention",
        ),
        ("modernbert", "rope_parameters", json!({ "rope_theta": 9.0 }), "rope_parameters.rope_theta"),
        ("modernbert", "layer_types", json!(["conv", "conv", "conv", "conv"]), "conv"),
        ("modernbert", "head_dim", json!(4), "head_dim"),
        ("llada", "rope_scaling", json!({ "rope_type": "linear", "factor": 2.0 }), "rope_scaling"),
        ("gpt2", "scale_attn_weights", json!(false), "scale_attn_weights"),
        ("llada", "mask_token_id", json!(97), "mask_token_id"),
        ("llama", "quantization_config", json!({ "quant_method": "awq" }), "quant_method"),
        ("llama", "quantization_config", json!({}), "quant_method"),
    ] {
        let error =
            describe_as(family, &with(&least(family), key, value)).err().unwrap_or_else(|| panic!("{family}.{key}"));
        assert!(error.to_string().contains(says), "{family}.{key}: {error}");
    }
    let mut sedd = least("sedd");
    sedd["noise"] = json!({ "type": "geometric" });
    assert!(describe_as("sedd", &sedd).unwrap_err().to_string().contains("noise.type"));
    for key in ["block_type", "activation_type", "layer_norm_type", "rope"] {
        let mut config = least("llada");
        config.as_object_mut().unwrap().remove(key);
        assert!(describe_as("llada", &config).unwrap_err().to_string().contains(key));
    }
}

#[test]
fn what_means_the_same_is_taken() {
    let same = |family: &str, changes: &[(&str, Value)]| {
        let config = changes.iter().fold(least(family), |c, (key, value)| with(&c, key, value.clone()));
        assert_eq!(network_of(family, &config), network_of(family, &least(family)), "{family}: {changes:?}");
    };
    same("llama", &[("hidden_act", json!("swish"))]);
    // Windows without a layer that has one, or as wide as the model.
    let window = [("use_sliding_window", json!(true)), ("sliding_window", json!(4096))];
    same("qwen2", &window);
    same(
        "qwen2",
        &[("use_sliding_window", json!(true)), ("max_window_layers", json!(0)), ("sliding_window", Value::Null)],
    );
    same(
        "qwen3",
        &[&window[..], &[("layer_types", json!(vec!["full_attention"; 4])), ("max_window_layers", json!(0))]].concat(),
    );
    same(
        "qwen2",
        &[("use_sliding_window", json!(true)), ("max_window_layers", json!(1)), ("sliding_window", json!(32_768))],
    );
    let slides = [("use_sliding_window", json!(true)), ("max_window_layers", json!(3)), ("sliding_window", json!(16))];
    let config = slides.iter().fold(least("qwen2"), |c, (key, value)| with(&c, key, value.clone()));
    assert!(describe_as("qwen2", &config).unwrap_err().to_string().contains("use_sliding_window"));
    // transformers has biases where Qwen2 has them, whatever is said.
    for family in ["qwen2", "a2d-qwen2", "dream"] {
        same(family, &[("attention_bias", json!(true))]);
    }
    same("gpt2", &[("hidden_size", json!(32)), ("max_position_embeddings", json!(24))]);
    same("gpt2", &[("activation_function", json!("gelu_fast"))]);
}

#[test]
fn rotary_angles_are_the_same_in_the_old_form_and_in_the_new_one() {
    let llama3 = json!({ "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64 });
    let typed = |kind: &str, theta: Option<f64>| {
        let mut object = if kind == "llama3" { llama3.clone() } else { json!({}) };
        object["rope_type"] = kind.into();
        if kind == "linear" {
            object["factor"] = 4.into();
        }
        if let Some(theta) = theta {
            object["rope_theta"] = theta.into();
        }
        object
    };
    for family in ["llama", "qwen2", "qwen3", "dream", "a2d-qwen2", "a2d-qwen3"] {
        for kind in ["default", "linear", "llama3"] {
            let base = least(family);
            let old = with(&with(&base, "rope_theta", json!(5e5)), "rope_scaling", typed(kind, None));
            let want = network_of(family, &old);
            assert_eq!(want.rope_theta, 5e5);
            let scaling = match kind {
                "default" => None,
                "linear" => Some(RopeScaling::linear(4.0)),
                _ => Some(RopeScaling::llama3(8.0, 1.0, 4.0, 64.0)),
            };
            assert_eq!(want.rope_scaling, scaling);
            let new = with(&base, "rope_parameters", typed(kind, Some(5e5)));
            assert_eq!(network_of(family, &new), want, "{family} {kind}, flat");
            let nested = with(&base, "rope_parameters", json!({ "full_attention": typed(kind, Some(5e5)) }));
            match family {
                // Its class knows no kinds of layers, and would pass over them.
                "llama" => {
                    let error = describe_as(family, &nested).unwrap_err().to_string();
                    assert!(error.contains("rope_parameters.full_attention"), "{error}");
                }
                _ => assert_eq!(network_of(family, &nested), want, "{family} {kind}, by kind of layer"),
            }
            // Both may be said, if they say the same.
            let both = with(&with(&old, "rope_parameters", typed(kind, Some(5e5))), "rope_scaling", Value::Null);
            assert_eq!(network_of(family, &both), want);
            let error =
                describe_as(family, &with(&old, "rope_parameters", typed(kind, Some(1e4)))).unwrap_err().to_string();
            assert!(error.contains("`rope_parameters.rope_theta` and `rope_theta`"), "{error}");
            let other = if kind == "linear" { "default" } else { "linear" };
            let error =
                describe_as(family, &with(&old, "rope_parameters", typed(other, None))).unwrap_err().to_string();
            assert!(error.contains("`rope_parameters.rope_type` and `rope_scaling.rope_type`"), "{error}");
        }
    }
}

#[test]
fn modernbert_has_its_angles_and_kinds_of_layers_in_both_forms() {
    let base = least("modernbert");
    let angles = |global: f64, local: f64| {
        let of = |theta: f64| json!({ "rope_type": "default", "rope_theta": theta });
        json!({ "full_attention": of(global), "sliding_attention": of(local) })
    };
    let kinds = |text: &str| -> Value {
        let kind = |c: char| if c == 'f' { "full_attention" } else { "sliding_attention" };
        text.chars().map(kind).collect::<Vec<_>>().into()
    };
    let local = |config: &Value| network_of("modernbert", config).local.unwrap();
    // As transformers 5 writes it.
    let new = with(&with(&base, "rope_parameters", angles(160_000.0, 10_000.0)), "layer_types", kinds("fssf"));
    assert_eq!(network_of("modernbert", &new), network_of("modernbert", &base));
    let other = with(&with(&base, "rope_parameters", angles(5e5, 77.0)), "layer_types", kinds("fsfs"));
    let old = with(
        &with(&with(&base, "global_rope_theta", json!(5e5)), "local_rope_theta", json!(77.0)),
        "global_attn_every_n_layers",
        json!(2),
    );
    assert_eq!(network_of("modernbert", &other), network_of("modernbert", &old));
    // A pattern that no number says is kept as it is.
    for (text, global) in [("ssss", vec![]), ("sffs", vec![1, 2]), ("fffs", vec![0, 1, 2])] {
        let found = local(&with(&base, "layer_types", kinds(text)));
        assert_eq!(found.global, Some(global));
        let told: String = (0..4).map(|i| if found.is_local(i) { 's' } else { 'f' }).collect();
        assert_eq!(told, text);
    }
    assert_eq!(local(&with(&base, "layer_types", kinds("ffff"))).every, 1);
    // Null is as everywhere else, and absent is 10,000.
    let theta = with(&base, "global_rope_theta", json!(5e5));
    assert_eq!(local(&theta).rope_theta, 1e4);
    assert_eq!(local(&with(&theta, "local_rope_theta", Value::Null)).rope_theta, 5e5);
    // Stretched angles are those of both kinds.
    let stretched =
        network_of("modernbert", &with(&base, "rope_scaling", json!({ "rope_type": "linear", "factor": 2 })));
    assert_eq!(stretched.rope_scaling, stretched.local.unwrap().rope_scaling);
    assert_eq!(stretched.rope_scaling, Some(RopeScaling::linear(2.0)));
    for (config, first, second) in [
        (
            with(&with(&base, "rope_parameters", angles(1e4, 1e4)), "local_rope_theta", json!(9.0)),
            "rope_parameters.sliding_attention.rope_theta",
            "local_rope_theta",
        ),
        (
            with(&with(&base, "layer_types", kinds("fsfs")), "global_attn_every_n_layers", json!(3)),
            "layer_types",
            "global_attn_every_n_layers",
        ),
        (
            with(&with(&base, "local_attention", json!(8)), "sliding_window", json!(8)),
            "local_attention",
            "sliding_window",
        ),
        (
            with(&with(&base, "global_rope_theta", json!(8.0)), "rope_theta", json!(9.0)),
            "global_rope_theta",
            "rope_theta",
        ),
    ] {
        let error = describe_as("modernbert", &config).unwrap_err().to_string();
        assert!(error.contains(first) && error.contains(second) && error.contains("contradict"), "{error}");
    }
}

#[test]
fn keys_that_are_not_known_are_named_and_those_of_other_programs_are_not() {
    for family in FAMILIES {
        let config = least(family);
        let usual = ["transformers_version", "torch_dtype", "dtype", "use_cache", "architectures", "unsloth_version"];
        let many = usual.iter().fold(config.clone(), |c, key| with(&c, key, json!(null)));
        assert!(describe_as(family, &many).unwrap().notes.is_empty(), "{family}");
        let mut strange = config;
        let inside = if strange["model"].is_object() { &mut strange["model"] } else { &mut strange };
        inside["logit_bend"] = json!(3.0);
        let notes = describe_as(family, &strange).unwrap().notes;
        assert!(notes.len() == 1 && notes[0].contains("logit_bend"), "{family}: {notes:?}");
    }
    let inner = with(&least("llama"), "rope_parameters", json!({ "rope_theta": 1e4, "twist": 2 }));
    assert!(describe_as("llama", &inner).unwrap().notes[0].contains("`rope_parameters.twist`"));
}

#[test]
fn every_end_token_is_one_and_ids_outside_of_the_vocabulary_are_passed_over_by_name() {
    let ends = |value: Value| {
        let d = describe_as("llama", &with(&least("llama"), "eos_token_id", value)).unwrap();
        (d.special.eos, d.ends, d.notes)
    };
    assert_eq!(ends(json!([7, 3])), (Some(7), vec![7, 3], vec![]));
    assert_eq!(ends(json!(-1)), (None, vec![], vec![]));
    let (eos, all, notes) = ends(json!([50_256, 4]));
    assert_eq!((eos, all), (Some(4), vec![4]));
    assert!(notes[0].contains("`eos_token_id` is 50256") && notes[0].contains("97"), "{notes:?}");
}
