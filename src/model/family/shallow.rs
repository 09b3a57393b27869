//! A checkpoint with some of its blocks alone: what a shallower student is laid out as.
//!
//! Tensors of blocks that are left out go, those of kept blocks are renumbered, and config.json says the new number (and
//! the kind of each block, where it lists them). Everything else is copied, tensors one at a time.

use std::path::Path;

use serde_json::{Map, Value};

use super::Description;
use super::load::{block_group, read_config};
use super::names::canonical;
use crate::error::{Error, Result};
use crate::fs;
use crate::weights::{INDEX, SINGLE, Store, header_bytes};

/// config.json's names for the number of blocks.
const COUNTS: [&str; 4] = ["n_layers", "num_hidden_layers", "n_blocks", "n_layer"];
const MAX_BESIDE: u64 = 256 << 20;

/// Writes the model of `from`, which `description` describes, with the blocks `keep` alone into the existing directory `to`.
///
/// # Errors
/// Groups of blocks that the subset does not fill, a config.json without the number of blocks, I/O.
pub fn shallow(from: &Path, to: &Path, description: &Description, keep: &[usize]) -> Result<()> {
    fills_groups(from, keep)?;
    let group = block_group(&description.config);
    let store = Store::open(from)?;
    let mut map = Map::new();
    let mut total = 0;
    for part in &store.parts {
        let named = part.entries.iter().filter_map(|e| Some((renumbered(&e.name, keep, group)?, e)));
        let kept: Vec<_> = named.collect();
        if kept.is_empty() {
            continue;
        }
        let (mut offset, mut tensors) = (0, Vec::new());
        for (name, e) in &kept {
            let size = e.end - e.start;
            tensors.push((name.as_str(), e.dtype, e.shape.as_slice(), offset..offset + size));
            offset += size;
            map.insert(name.clone(), part.name.clone().into());
        }
        total += offset;
        let header = header_bytes(&part.metadata, &tensors)?;
        let file = if store.sharded { part.name.as_str() } else { SINGLE };
        fs::write_atomic_from(&to.join(file), |out| {
            out.write_all(&header)?;
            for (_, e) in &kept {
                out.write_all(&store.bytes(&e.name).map_err(|e| std::io::Error::other(e.message))?)?;
            }
            Ok(())
        })?;
    }
    if store.sharded {
        let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": map });
        fs::write_atomic(&to.join(INDEX), (fs::sorted_json(index) + "\n").as_bytes())?;
    }
    beside(from, to)?;
    let (file, config) = read_config(from)?;
    let config = changed(&file, config, description.network.layers, keep)?;
    fs::write_atomic(&to.join("config.json"), (fs::sorted_json(config) + "\n").as_bytes())
}

/// Refuses kept blocks that do not fill the groups that the checkpoint in `from` stores its blocks in.
///
/// # Errors
/// Such blocks (usage); a config.json that cannot be read (input).
pub fn fills_groups(from: &Path, keep: &[usize]) -> Result<()> {
    let (_, config) = read_config(from)?;
    match block_group(&config).filter(|size| !keep.len().is_multiple_of(*size)) {
        Some(size) => Err(Error::usage(format!("{} blocks do not fill groups of {size}", keep.len()))
            .cause(format!("{}: `block_group_size` is {size}", from.display()))),
        None => Ok(()),
    }
}

/// The name of a tensor among the kept blocks; none for one of another block.
fn renumbered(name: &str, keep: &[usize], group: Option<usize>) -> Option<String> {
    let inner = canonical(name);
    let prefix = &name[..name.len() - inner.len()];
    let mut parts: Vec<String> = inner.split('.').map(str::to_string).collect();
    let number = |at: usize| parts.get(at).and_then(|p| p.parse::<usize>().ok());
    let new = |old: usize| keep.iter().position(|k| *k == old);
    match (parts[0].as_str(), number(1), number(2), group) {
        ("block_groups", Some(g), Some(j), Some(size)) => {
            let at = new(g * size + j)?;
            (parts[1], parts[2]) = ((at / size).to_string(), (at % size).to_string());
        }
        ("blocks" | "layers" | "h", Some(i), ..) => parts[1] = new(i)?.to_string(),
        _ => {}
    }
    Some(format!("{prefix}{}", parts.join(".")))
}

/// config.json with the number of kept blocks, and their kinds.
fn changed(file: &str, mut config: Value, layers: usize, keep: &[usize]) -> Result<Value> {
    let count = |map: &Value| COUNTS.iter().find(|key| map[**key] == layers).copied();
    let inside = if count(&config).is_some() { &mut config } else { &mut config["model"] };
    let Some(key) = count(inside) else {
        return Err(Error::input(format!("{file} does not say that it has {layers} blocks")));
    };
    inside[key] = keep.len().into();
    if let Some(kinds) = inside.get("layer_types").and_then(Value::as_array) {
        inside["layer_types"] = keep.iter().filter_map(|k| kinds.get(*k).cloned()).collect::<Vec<_>>().into();
    }
    Ok(config)
}

/// Copies the small files beside the weights.
fn beside(from: &Path, to: &Path) -> Result<()> {
    let entries = std::fs::read_dir(from).map_err(|e| Error::io("read", from, &e))?;
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let weights = name.to_str().is_none_or(|n| n.ends_with(".safetensors") || n == INDEX || n == "config.json");
        let small = std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() <= MAX_BESIDE);
        if !weights && small {
            fs::inside(from, &path)?;
            fs::write_atomic(&to.join(name), &fs::read_limited(&path, MAX_BESIDE)?)?;
        }
    }
    Ok(())
}

/// The description of the model that [`shallow`] writes.
///
/// # Errors
/// A config.json without the number of blocks (input).
pub fn described(description: &Description, keep: &[usize]) -> Result<Description> {
    let mut new = description.clone();
    new.network = new.network.with_layers(keep);
    new.config = changed("config.json", new.config, description.network.layers, keep)?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_blocks_are_renumbered_in_every_layout_and_the_others_go() {
        let keep = [0, 3];
        for (name, group, want) in [
            ("model.layers.3.mlp.up_proj.weight", None, Some("model.layers.1.mlp.up_proj.weight")),
            ("model.layers.1.mlp.up_proj.weight", None, None),
            ("backbone.blocks.0.norm1.weight", None, Some("backbone.blocks.0.norm1.weight")),
            (
                "model.transformer.block_groups.1.1.ff_out.weight",
                Some(2),
                Some("model.transformer.block_groups.0.1.ff_out.weight"),
            ),
            ("model.transformer.wte.weight", Some(2), Some("model.transformer.wte.weight")),
            ("h.3.attn.bias", None, Some("h.1.attn.bias")),
        ] {
            assert_eq!(renumbered(name, &keep, group).as_deref(), want, "{name}");
        }
    }

    #[test]
    fn the_configuration_says_the_new_number_of_blocks_and_their_kinds() {
        let config = serde_json::json!({ "num_hidden_layers": 3, "layer_types": ["a", "b", "c"], "other": 3 });
        let new = changed("config.json", config, 3, &[0, 2]).unwrap();
        assert_eq!(new, serde_json::json!({ "num_hidden_layers": 2, "layer_types": ["a", "c"], "other": 3 }));
        let nested = serde_json::json!({ "model": { "n_blocks": 4 }, "tokenizer": {} });
        assert_eq!(changed("config.json", nested, 4, &[1]).unwrap()["model"]["n_blocks"], 1);
        assert!(changed("config.json", serde_json::json!({}), 4, &[1]).is_err());
    }
}
