//! Files of this program that a stranger may have written: recipes, results, and what a training leaves.

use std::path::{Path, PathBuf};

use fewstep::error::Result;
use fewstep::eval::results::Results;
use fewstep::fs::{Manifest, seal, sha256_hex};
use fewstep::gate::{self, GateConfig, Selection};
use fewstep::recipe::{self, Loaded, Written};
use fewstep::report::{self, html, markdown, summary};
use fewstep::train::log::{self, Mark};
use fewstep::train::state;

fn read(text: &str) -> Result<Loaded> {
    let written = Written { text: text.to_string(), place: "recipe.toml".into(), sets: Vec::new() };
    recipe::read(written, PathBuf::from("."))
}

/// A recipe: what passes its checks has an order of training with each model in it, and is the same when its own text is
/// read again. No file is touched.
pub fn recipe(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(loaded) = read(text) else { return };
    let recipe = &loaded.recipe;
    for name in recipe.training_order().expect("a checked recipe has an order") {
        let model = recipe.model(name).expect("a model of the order");
        let _ = (recipe.lineage(name), recipe.network(name), recipe.generation(model), recipe.role(name, model));
    }
    assert_eq!(read(&loaded.text).expect("the text that is kept is read").recipe, *recipe);
}

/// results.json: what is read can be rendered, judged and written, and is the same when it is read again. Its own hash and
/// its recipe's are put right, since blind mutation dies at them.
pub fn results(data: &[u8]) {
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    let Some(fields) = value.as_object_mut().filter(|fields| !fields.is_empty()) else { return };
    if let Some(recipe) = fields.get("recipe").and_then(|recipe| recipe.as_str()).map(str::to_string) {
        fields.insert("recipe_sha256".into(), sha256_hex(recipe.as_bytes()).into());
    }
    fields.remove("sha256");
    let text = value.to_string();
    let Ok(results) = Results::parse(&if text.len() > 2 { seal(&text) } else { text }) else { return };
    let page = report::page(&results, Vec::new());
    markdown::render(&page);
    let _ = html::render(&page);
    summary::summary(&results);
    let config = GateConfig { resamples: 16, ..GateConfig::default() };
    if let Ok(verdict) = gate::judge(&results, &results, &config, &Selection::everything(), true) {
        let _ = (gate::text(&verdict, false, false), gate::text(&verdict, true, true), gate::job_summary(&verdict, false));
        let _ = gate::baseline(&results, &config, &Selection::default());
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
        if let Ok(manifest) = Manifest::parse("manifest.json", seal(&format!("{body}}}")).into_bytes()) {
            let _ = state::Record::parse("step-000001", manifest.extra);
        }
        return;
    }
    let Some((step, lines)) = rest.split_first() else { return };
    let (path, step) = (Path::new("metrics.jsonl"), usize::from(*step));
    let Ok(kept) = log::kept(path, lines, step, None) else { return };
    assert!(lines.starts_with(kept));
    let whole = Mark { bytes: kept.len() as u64, sha256: sha256_hex(kept) };
    assert_eq!(log::kept(path, lines, step, Some(&whole)).expect("what was kept is as it was"), kept);
}
