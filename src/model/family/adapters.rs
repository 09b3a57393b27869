//! Low-rank adapters in PEFT's layout: adapter_config.json and adapter_model.safetensors with
//! `base_model.model.MODULE.lora_A.weight` [r, in] and `lora_B.weight` [out, r], MODULE as the source model calls it.
//!
//! The modules of a family follow from its map of names; where several of them are one packed projection here (queries,
//! keys, values), each has its own columns of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use super::names::{Source, canonical, source};
use super::{Description, Family, load};
use crate::error::{Error, Result};
use crate::fs;
use crate::model::TransformerConfig;
use crate::model::params::Named;
use crate::model::transformer::lora::{LoraConfig, Plan, Projection, Site};
use crate::weights::{self, NonFinite, Store, Weights};

/// PEFT's file of settings.
pub const CONFIG: &str = "adapter_config.json";
/// PEFT's file of weights.
pub const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";
const MAX_CONFIG: u64 = 1 << 20;

/// The modules of a public model that can be adapted, block by block. One that is half of a stored matrix (ModernBERT's Wi)
/// cannot: its two halves would share one A.
pub fn sites(description: &Description) -> Vec<Site> {
    let group = load::block_group(&description.config);
    sites_of(&description.network, |path| source(description.family, path, group))
}

/// The modules of a network of our own, by our own names.
pub fn own_sites(network: &TransformerConfig) -> Vec<Site> {
    sites_of(network, |path| Source::Whole(path.to_string()))
}

fn sites_of(network: &TransformerConfig, source: impl Fn(&str) -> Source) -> Vec<Site> {
    let mut all = Vec::new();
    for block in 0..network.layers {
        let from = all.len();
        for projection in Projection::ALL {
            let Some([inputs, outputs]) = projection.shape(network) else { continue };
            let names = match source(&format!("blocks.{block}.{}.weight", projection.path())) {
                Source::Whole(name) | Source::Turned(name) => vec![(name, outputs)],
                Source::Stack(names) => names.into_iter().zip(network.packed_rows()).collect(),
                Source::Part(..) => continue,
            };
            let mut column = 0;
            for (name, width) in names {
                let module = name.trim_end_matches(".weight").to_string();
                let target = String::new();
                all.push(Site { block, projection, from: column, width, inputs, target, module });
                column += width;
            }
        }
        let modules: Vec<String> = all[from..].iter().map(|s: &Site| s.module.clone()).collect();
        for (site, target) in all[from..].iter_mut().zip(targets(&modules)) {
            site.target = target;
        }
    }
    all
}

/// The shortest ending of each of a block's modules that is no bare number and no other one's ending.
fn targets(modules: &[String]) -> Vec<String> {
    let short = |module: &String| {
        let parts: Vec<&str> = module.split('.').collect();
        let endings = (1..=parts.len()).map(|n| parts[parts.len() - n..].join("."));
        let mut good = endings.filter(|e| {
            let named = !e.starts_with(|c: char| c.is_ascii_digit());
            named && modules.iter().filter(|m| matches(m, e)).count() == 1
        });
        good.next().unwrap_or_else(|| module.clone())
    };
    modules.iter().map(short).collect()
}

/// Whether PEFT takes the module for the target: the whole name, or its ending behind a dot.
fn matches(module: &str, target: &str) -> bool {
    module == target || module.strip_suffix(target).is_some_and(|rest| rest.ends_with('.'))
}

/// The names that modules have in the source model: as in its files, without what a compiler or an average put in front.
pub fn modules_of(store: &Store) -> BTreeMap<String, String> {
    let bare = |name: &str| {
        let mut name = name.trim_end_matches(".weight");
        while let Some(rest) = ["_orig_mod.", "ema.", "module."].iter().find_map(|p| name.strip_prefix(p)) {
            name = rest;
        }
        name.to_string()
    };
    let matrices = store.reals().filter(|e| e.shape.len() == 2);
    matrices.map(|e| (canonical(&e.name).trim_end_matches(".weight").to_string(), bare(&e.name))).collect()
}

/// What adapters lie on, as the configuration calls it.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    /// A name on the hub, or a path.
    pub name: &'a str,
    /// The commit of a model of the hub: PEFT's classes load the newest one without it.
    pub revision: Option<&'a str>,
    /// What a public checkpoint is; none for our own network.
    pub of: Option<&'a Description>,
}

/// Writes adapters into the existing directory `dir`; `modules` are the source's matrices by canonical name (none: our own
/// network).
///
/// # Errors
/// A refused write (I/O).
pub fn write(
    dir: &Path,
    plan: &Plan,
    adapters: &Named,
    modules: Option<&BTreeMap<String, String>>,
    base: &Base,
) -> Result<()> {
    let name = |s: &Site| match modules.and_then(|m| m.get(&s.module)) {
        Some(name) => name.clone(),
        None => s.module.clone(),
    };
    let mut tensors = Named::new();
    for (site, path) in plan.sites.iter().zip(plan.paths()) {
        for (ours, theirs) in [("a", "lora_A"), ("b", "lora_B")] {
            let key = format!("{PREFIX}{}.{theirs}.weight", name(site));
            tensors.insert(key, adapters[&format!("{path}.{ours}")].clone());
        }
    }
    let adapted: BTreeSet<String> = plan.sites.iter().map(name).collect();
    let every: BTreeSet<&String> = modules.map(|m| m.values().collect()).unwrap_or_default();
    let mut targets = BTreeSet::new();
    for site in &plan.sites {
        // A short name that is also the ending of a module which is not adapted (LLaDA's head) would adapt that one too.
        let stray = every.iter().any(|m| matches(m, &site.target) && !adapted.contains(*m));
        targets.insert(if stray { name(site) } else { site.target.clone() });
    }
    // By this PEFT's `AutoPeftModel` finds the class of the model that the adapters are put on.
    let mapping = |class: &str| json!({ "base_model_class": class, "parent_library": "transformers" });
    let config = json!({
        "alpha_pattern": {},
        "auto_mapping": base.of.and_then(auto_class).map(mapping),
        "base_model_name_or_path": base.name,
        "bias": "none",
        "fan_in_fan_out": base.of.is_some_and(|d| d.family == Family::Gpt2),
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": plan.config.alpha,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": plan.config.rank,
        "rank_pattern": {},
        "revision": base.revision,
        "target_modules": targets,
        // PEFT's wrappers by task expect methods that diffusion models have not; none takes any model.
        "task_type": null,
        "use_dora": false,
        "use_rslora": false,
    });
    let text = fs::sorted_json(config);
    fs::write_atomic(&dir.join(CONFIG), (text + "\n").as_bytes())?;
    let metadata = [("format".to_string(), "pt".to_string())].into();
    weights::write(&dir.join(WEIGHTS), &Weights { tensors, metadata, ..Weights::default() })
}

/// The class of transformers that loads a described model: what its config.json maps, or what its family is loaded by.
fn auto_class(d: &Description) -> Option<&'static str> {
    const CLASSES: [&str; 3] = ["AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModel"];
    let mapped = CLASSES.into_iter().find(|class| d.config["auto_map"].get(class).is_some());
    mapped.or(match d.family {
        Family::ModernBert | Family::A2d => Some("AutoModelForMaskedLM"),
        Family::Gpt2 | Family::Llama | Family::Qwen2 | Family::Qwen3 => Some("AutoModelForCausalLM"),
        _ => None,
    })
}

/// Reads the adapters of a directory for a network with these sites.
///
/// # Errors
/// Files that are absent or malformed, settings that change the mathematics, tensors of other modules (input).
pub fn read(dir: &Path, sites: &[Site]) -> Result<(Plan, Named)> {
    let config = settings(dir)?;
    let file = dir.join(WEIGHTS);
    let mut stored = Named::new();
    for (name, tensor) in weights::read(&file, NonFinite::Refuse)?.tensors {
        let inner = name.strip_prefix(PREFIX).unwrap_or(&name).replace(".default.weight", ".weight");
        stored.insert(canonical(&inner).to_string(), tensor);
    }
    let has = |s: &&Site| stored.contains_key(&format!("{}.lora_A.weight", s.module));
    let plan = Plan { config, sites: sites.iter().filter(has).cloned().collect() };
    let mut adapters = Named::new();
    for (site, path) in plan.sites.iter().zip(plan.paths()) {
        for (ours, theirs) in [("a", "lora_A"), ("b", "lora_B")] {
            let name = format!("{}.{theirs}.weight", site.module);
            let absent = || Error::input(format!("{} has no `{name}`", file.display()));
            adapters.insert(format!("{path}.{ours}"), stored.remove(&name).ok_or_else(absent)?);
        }
    }
    if let Some(name) = stored.keys().next() {
        return Err(Error::input(format!("{}: `{name}` adapts no projection of this model", file.display()))
            .hint("the adapters must be of the model that they are put on"));
    }
    Ok((plan, adapters))
}

/// Rank and scale of adapter_config.json.
fn settings(dir: &Path) -> Result<LoraConfig> {
    let path = dir.join(CONFIG);
    let place = path.display();
    let bytes = fs::read_limited(&path, MAX_CONFIG)?;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|e| Error::input(format!("{place} is not JSON")).cause(e.to_string()))?;
    let empty = |v: &Value| match v {
        Value::Null | Value::Bool(false) => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text == "none",
        _ => false,
    };
    if value["peft_type"] != "LORA" {
        return Err(Error::input(format!("{place}: `peft_type` is {}, and only LORA is known", value["peft_type"])));
    }
    for key in ["bias", "modules_to_save", "rank_pattern", "alpha_pattern", "use_dora", "use_rslora"] {
        if !empty(&value[key]) {
            return Err(Error::input(format!("{place}: `{key}` is {}, which is not supported", value[key])));
        }
    }
    let rank = value["r"].as_u64().and_then(|r| usize::try_from(r).ok());
    let (Some(rank), Some(alpha)) = (rank, value["lora_alpha"].as_f64()) else {
        return Err(Error::input(format!("{place}: `r` and `lora_alpha` must be numbers")));
    };
    let config = LoraConfig { rank, alpha, targets: None };
    config.validate("lora").map_err(|e| Error::input(format!("{place}: {}", e.message)))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_shortest_endings_that_tell_a_blocks_modules_apart() {
        let names = |list: &[&str]| targets(&list.iter().map(|m| m.to_string()).collect::<Vec<_>>());
        assert_eq!(
            names(&["h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_proj"]),
            ["c_attn", "attn.c_proj", "mlp.c_proj"]
        );
        assert_eq!(names(&["blocks.0.attn_out", "blocks.0.mlp.0", "blocks.0.mlp.2"]), ["attn_out", "mlp.0", "mlp.2"]);
        assert_eq!(names(&["layers.0.self_attn.q_proj", "layers.0.mlp.up_proj"]), ["q_proj", "up_proj"]);
        assert!(matches("transformer.ff_out", "ff_out") && !matches("transformer.big_ff_out", "ff_out"));
    }
}
