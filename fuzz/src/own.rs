//! Files of this program that a stranger may have written: recipes, results, and what a training leaves.

use std::path::{Path, PathBuf};

use fewstep::eval::results::Results;
use fewstep::fs::{Manifest, sha256_hex};
use fewstep::gate::{self, GateConfig};
use fewstep::recipe::{self, Loaded, Written};
use fewstep::report::{self, html, markdown, summary};
use fewstep::train::{log, state};

/// A recipe: what passes its checks has an order of training and settings for each model, and is the same when its
/// own text is read again. No file is touched.
pub fn recipe(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(read) = read(text) else { return };
    let recipe = &read.recipe;
    let order = recipe.training_order().expect("a checked recipe has an order");
    for name in order {
        let model = recipe.model(name).expect("a model of the order");
        recipe.settings(name).expect("a checked model has settings");
        let _ = (recipe.lineage(name), recipe.network(name), recipe.generation(model), recipe.role(name, model));
    }
    let again = self::read(&read.text).expect("the text that is kept is read");
    assert_eq!(again.recipe, read.recipe);
}

fn read(text: &str) -> fewstep::error::Result<Loaded> {
    let written = Written { text: text.to_string(), place: "recipe.toml".to_string(), sets: Vec::new() };
    recipe::read(written, PathBuf::from("."))
}

/// results.json: what is read can be rendered, judged and written, and is the same when it is read again. Its recipe's hash
/// is put right, since blind mutation dies at it.
pub fn results(data: &[u8]) {
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    if let Some(recipe) = value["recipe"].as_str().map(str::to_string)
        && let Some(fields) = value.as_object_mut()
    {
        fields.insert("recipe_sha256".into(), sha256_hex(recipe.as_bytes()).into());
    }
    let Ok(results) = Results::parse(&value.to_string()) else { return };
    let page = report::page(&results, Vec::new());
    markdown::render(&page);
    let _ = html::render(&page);
    summary::summary(&results);
    let config = GateConfig { resamples: 16, ..GateConfig::default() };
    if let Ok(verdict) = gate::judge(&results, &results, &config, true) {
        let _ = (gate::text(&verdict, false), gate::markdown_summary(&verdict, false));
    }
    let text = results.to_json().expect("what was read is written");
    assert_eq!(Results::parse(&text).expect("what was written is read").to_json().expect("twice"), text);
}

/// metrics.jsonl (an even first byte, the step of the run the second), or the manifest of a checkpoint with its record, whose
/// own hash is put right.
pub fn metrics(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    if kind % 2 == 1 {
        let Ok(body) = std::str::from_utf8(rest) else { return };
        let whole = format!("{body},\n  \"sha256\": \"{}\"\n}}\n", sha256_hex(body.as_bytes()));
        if let Ok(manifest) = Manifest::parse("manifest.json", whole.into_bytes()) {
            let _ = state::Record::parse("manifest.json", manifest.extra);
        }
        return;
    }
    let Some((step, lines)) = rest.split_first() else { return };
    let (path, step) = (Path::new("metrics.jsonl"), usize::from(*step));
    let Ok(kept) = log::kept(path, lines, step, None) else { return };
    assert_eq!(log::kept(path, kept, step, None).expect("what is kept is kept again"), kept);
}
