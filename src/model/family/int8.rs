//! What config.json says of int8 weights: the words of compressed-tensors, which other programs read.
//!
//! `NAME` as I8 and `NAME_scale` [out, 1] are that format's own names and shapes of one scale for each output channel, so
//! its readers give the same numbers, and a loader without them stops. GPT-2 stores its matrices as [in, out], for which
//! the format has no word: `column` is none of its strategies, and its readers refuse it by name.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::keys::Keys;
use crate::error::Result;
use crate::weights::Outputs;

/// config.json's key.
pub const KEY: &str = "quantization_config";
const METHOD: &str = "compressed-tensors";
/// What earlier versions of this program wrote of the same tensors.
const OLD_METHOD: &str = "fewstep_int8";
const FORMAT: &str = "int-quantized";
const FORMATS: [&str; 2] = [FORMAT, "naive-quantized"];

/// What config.json says where these matrices, by their names in the files, are integers.
pub fn config<'a>(matrices: impl IntoIterator<Item = (&'a str, Outputs)>) -> Value {
    let mut groups: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (name, outputs) in matrices {
        groups.entry(strategy(outputs)).or_default().insert(target(name));
    }
    let group = |(strategy, targets): (&str, BTreeSet<String>)| {
        let weights =
            json!({ "num_bits": 8, "type": "int", "symmetric": true, "strategy": strategy, "dynamic": false });
        json!({ "format": FORMAT, "targets": targets, "weights": weights, "input_activations": null,
            "output_activations": null })
    };
    let groups: BTreeMap<String, Value> =
        groups.into_iter().enumerate().map(|(i, g)| (format!("group_{i}"), group(g))).collect();
    json!({ "quant_method": METHOD, "format": FORMAT, "quantization_status": "compressed", "config_groups": groups,
        "ignore": [] })
}

fn strategy(outputs: Outputs) -> &'static str {
    match outputs {
        Outputs::Rows => "channel",
        Outputs::Columns => "column",
    }
}

/// The modules of all blocks that a matrix's name stands for, as a pattern: the block's number and what is behind it, since
/// what is in front of it differs between a model and the same one inside another.
fn target(name: &str) -> String {
    let parts: Vec<&str> = name.trim_end_matches(".weight").split('.').collect();
    let is_number = |part: &&str| part.bytes().all(|b| b.is_ascii_digit());
    let from = parts.iter().position(is_number).unwrap_or(0);
    // A number at the end is a layer's place in its block (mlp.0, mlp.2), not a block's.
    let last = parts.iter().rposition(|p| !is_number(p)).unwrap_or(0);
    let pattern = |(i, part): (usize, &&str)| if is_number(part) && i < last { r"\d+" } else { part }.to_string();
    let inner: Vec<String> = parts.iter().enumerate().skip(from).map(pattern).collect();
    format!(r"re:.*\.{}$", inner.join(r"\."))
}

/// Refuses, by the name of its key, a quantisation that would be read as other numbers than its own program's.
///
/// Of compressed-tensors only one symmetric scale for each output channel of 8 bit weights is read, with activations as
/// they are.
///
/// # Errors
/// Such a quantisation, with the name of its key (input).
pub fn check(keys: &Keys) -> Result<()> {
    let Some(all) = keys.inside(KEY)? else { return Ok(()) };
    all.stated("quant_method", &[METHOD, OLD_METHOD], "no method")?;
    if all.text("quant_method")? != Some(METHOD) {
        return Ok(());
    }
    for key in ["kv_cache_scheme", "sparsity_config", "transform_config"] {
        all.empty(key)?;
    }
    let Some(groups) = all.inside("config_groups")? else {
        return Err(all.wrong("config_groups", "is missing"));
    };
    for name in groups.names() {
        let Some(group) = groups.inside(name)? else { return Err(groups.wrong(name, "is empty")) };
        let written = if group.text("format")?.is_some() { &group } else { &all };
        written.only("format", &FORMATS)?;
        for key in ["input_activations", "output_activations"] {
            group.empty(key)?;
        }
        let Some(weights) = group.inside("weights")? else { return Err(group.wrong("weights", "is missing")) };
        if weights.usize("num_bits")? != 8 {
            return Err(weights.wrong("num_bits", "must be 8"));
        }
        weights.only("type", &["int"])?;
        weights.only("strategy", &["channel", "column"])?;
        if !weights.bool_or("symmetric", true)? {
            return Err(weights.wrong("symmetric", "must be true"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(config: &Value) -> std::result::Result<(), String> {
        let whole = json!({ KEY: config });
        check(&Keys::of("config.json", &whole).unwrap()).map_err(|e| e.message)
    }

    #[test]
    fn patterns_name_a_module_in_every_block_and_keep_a_layers_place_in_it() {
        assert_eq!(target("model.layers.0.self_attn.q_proj.weight"), r"re:.*\.\d+\.self_attn\.q_proj$");
        assert_eq!(target("backbone.blocks.11.mlp.2.weight"), r"re:.*\.\d+\.mlp\.2$");
        assert_eq!(
            target("model.transformer.block_groups.0.blocks.3.ff_out.weight"),
            r"re:.*\.\d+\.blocks\.\d+\.ff_out$"
        );
        let both = ["h.0.mlp.c_fc.weight", "h.1.mlp.c_fc.weight"].map(|name| (name, Outputs::Columns));
        let config = config(both);
        assert_eq!(config["config_groups"]["group_0"]["targets"], json!([r"re:.*\.\d+\.mlp\.c_fc$"]));
        assert_eq!(config["config_groups"]["group_0"]["weights"]["strategy"], "column");
        assert!(config["config_groups"].get("group_1").is_none());
    }

    #[test]
    fn what_is_written_is_read_and_every_other_quantisation_is_refused_by_its_key() {
        let own = config([("layers.0.mlp.up_proj.weight", Outputs::Rows)]);
        said(&own).unwrap();
        said(&json!({ "quant_method": "fewstep_int8", "bits": 8 })).unwrap();
        let changed = |path: &str, value: Value| {
            let mut other = own.clone();
            *other.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
            said(&other).unwrap_err()
        };
        let group = "/config_groups/group_0";
        for (path, value) in [
            ("/quant_method".to_string(), json!("gptq")),
            (format!("{group}/format"), json!("pack-quantized")),
            (format!("{group}/input_activations"), json!({ "num_bits": 8 })),
            (format!("{group}/output_activations"), json!({ "num_bits": 8 })),
            (format!("{group}/weights/num_bits"), json!(4)),
            (format!("{group}/weights/type"), json!("float")),
            (format!("{group}/weights/strategy"), json!("group")),
            (format!("{group}/weights/symmetric"), json!(false)),
            ("/config_groups".to_string(), json!(null)),
        ] {
            let message = changed(&path, value);
            let key = path.rsplit('/').next().unwrap();
            assert!(message.contains(key) && message.contains(KEY), "{path}: {message}");
        }
        let mut cache = own.clone();
        cache["kv_cache_scheme"] = json!({ "num_bits": 8 });
        assert!(said(&cache).unwrap_err().contains("kv_cache_scheme"));
    }
}
