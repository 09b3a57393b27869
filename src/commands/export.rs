//! `export`: a model of a run, or a model directory, in another directory and perhaps another type, with what that costs.

use std::path::{Path, PathBuf};

use burn::prelude::Device;
use serde_json::json;

use crate::error::{Error, Result};
use crate::eval::change::Change;
use crate::export::{self, Extras};
use crate::model::family::{self, LoadOptions};
use crate::model::params;
use crate::weights::{SHARD, Storage};
use crate::{fs, term};

/// The section of a model card on the type of its weights.
pub fn section(storage: Storage, change: &Change) -> String {
    let what = match storage {
        Storage::Int8 => {
            "int8: matrices of the blocks' attention and feed-forward layers as I8 with one scale for each output channel \
             (`NAME_scale`, weight = integer x scale); all else as before"
        }
        other => other.name(),
    };
    format!("\n## Weights\n\nStored as {what}.\n\nMeasured: {}.\n", change.line())
}

/// Says where the export is and what its type costs.
pub fn say(model: &str, out: &Path, storage: Storage, change: Option<&Change>, as_json: bool) -> Result<()> {
    if as_json {
        let loss = change.map(Change::json);
        term::out_json(json!({ "model": model, "directory": out, "dtype": storage, "loss": loss }));
        return Ok(());
    }
    if let Some(change) = change {
        term::out(format!("{:<8} {}", storage.name(), change.line()));
    }
    term::out(out.display());
    Ok(())
}

/// Warns of classes that the export in `out` names and lacks.
pub fn warn_of_missing_code(out: &Path) -> Result<()> {
    let missing = family::missing_code(out)?;
    if !missing.is_empty() {
        let (dir, names) = (out.display(), missing.join(", "));
        term::warn(&format!(
            "{dir}: config.json names {names}, which did not lie beside the source: add it to load by class"
        ));
    }
    Ok(())
}

/// The model directory that `path` is, or none where it is a run.
pub fn model_directory(path: &Path) -> Result<Option<PathBuf>> {
    let dir = family::resolve(path)?;
    Ok(dir.join("config.json").is_file().then_some(dir))
}

/// Writes the model in `from` again into `out`, with weights of the given type.
///
/// Errors: as reading the model; a weight that does not fit the type.
pub fn convert(from: &Path, out: &Path, storage: Storage, device: &Device) -> Result<Option<Change>> {
    let (_, config) = family::read_config(from)?;
    let create = || std::fs::create_dir_all(out).map_err(|e| Error::io("create", out, &e));
    let card_path = out.join("README.md");
    let (change, text) = if config["model_type"] == "fewstep" {
        let before = export::read(from, device)?;
        create()?;
        let recipe = fs::read_limited(&from.join("recipe.toml"), 16 << 20).unwrap_or_default();
        let recipe = String::from_utf8_lossy(&recipe).into_owned();
        let extras = Extras { tokenizer: before.tokenizer.as_ref(), recipe: &recipe, results: None };
        export::write_as(out, &before.card, params::export(&before.model), &extras, storage, SHARD)?;
        if let Some(codec) = &before.codec {
            export::write_codec(out, codec, &recipe, storage)?;
        }
        let change = match storage.is_lossy() {
            true => {
                let after = export::read(out, device)?;
                let codecs = before.codec.as_ref().zip(after.codec.as_ref());
                let codecs = codecs.map(|(before, after)| (&before.model, &after.model));
                Some(Change::on_random_tokens(&before.model, &after.model).with_codec(codecs))
            }
            false => None,
        };
        (change, export::model_card(&before.card, &extras))
    } else {
        let before = family::load(from, &LoadOptions::default(), device)?;
        create()?;
        family::export(from, out, &before.description, &params::export(&before.model), storage)?;
        warn_of_missing_code(out)?;
        let after = || Ok::<_, Error>(family::load(out, &LoadOptions::default(), device)?.model);
        let change = storage.is_lossy().then(|| Ok(Change::on_random_tokens(&before.model, &after()?))).transpose()?;
        let card = from.join("README.md");
        let card = match card.exists() {
            true => fs::inside(from, &card).and_then(|()| fs::read_limited(&card, 16 << 20))?,
            false => Vec::new(),
        };
        (change, String::from_utf8_lossy(&card).into_owned())
    };
    let text = match &change {
        Some(change) => text + &section(storage, change),
        None => text,
    };
    if !text.is_empty() {
        fs::write_atomic(&card_path, text.as_bytes())?;
    }
    Ok(change)
}
