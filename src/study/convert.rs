//! A model directory again in another directory and perhaps another type, with what that costs.

use std::path::{Path, PathBuf};

use burn::prelude::Device;
use serde_json::Value;

use crate::checkpoint::{self, Extras};
use crate::error::{Error, Result};
use crate::eval::change::Change;
use crate::model::family::{self, LoadOptions};
use crate::model::params;
use crate::weights::{SHARD, Storage};
use crate::{fs, term};

/// The section of a model card on the type of its weights.
pub fn section(storage: Storage, change: &Change) -> String {
    let what = match storage {
        Storage::Int8 => {
            "int8: matrices of the blocks' attention and feed-forward layers as I8 with one scale for each output channel \
             (`NAME_scale`, weight = integer x scale), as compressed-tensors has them; all else as before"
        }
        other => other.name(),
    };
    format!("\n## Weights\n\nStored as {what}.\n\nMeasured: {}.\n", change.line())
}

/// Warns of classes that the export in `dir` names and lacks, and that is to be found in `out`.
///
/// # Errors
/// As [`family::missing_code`].
pub fn warn_of_missing_code(dir: &Path, out: &Path) -> Result<()> {
    let missing = family::missing_code(dir)?;
    if !missing.is_empty() {
        let (dir, names) = (out.display(), missing.join(", "));
        term::warn(&format!(
            "{dir}: config.json names {names}, which did not lie beside the source: add it to load by class"
        ));
    }
    Ok(())
}

/// The model directory that `path` is, or none where it is a run.
///
/// # Errors
/// As [`family::resolve`].
pub fn model_directory(path: &Path) -> Result<Option<PathBuf>> {
    let dir = family::resolve(path)?;
    Ok(checkpoint::whole::is_model(&dir).then_some(dir))
}

/// Writes the model in `from` again into the new directory `to`, with weights of the given type.
///
/// # Errors
/// As reading the model; a weight that does not fit the type; a directory that is there already.
pub fn convert(from: &Path, to: &Path, storage: Storage, device: &Device) -> Result<Option<Change>> {
    checkpoint::whole::verify(from)?;
    let (_, config) = family::read_config(from)?;
    fs::new_dir(to, |out| converted(from, &config, out, to, storage, device))
}

/// [`convert`] into the temporary directory `out`, which becomes `to`.
fn converted(
    from: &Path,
    config: &Value,
    out: &Path,
    to: &Path,
    storage: Storage,
    device: &Device,
) -> Result<Option<Change>> {
    let card_path = out.join("README.md");
    let (change, text) = if config["model_type"] == "fewstep" {
        let before = checkpoint::read(from, device)?;
        let recipe = fs::read_limited(&from.join("recipe.toml"), 16 << 20).unwrap_or_default();
        let recipe = String::from_utf8_lossy(&recipe).into_owned();
        let extras = Extras { tokenizer: before.tokenizer.as_ref(), recipe: &recipe, results: None, call: None };
        checkpoint::write_as(out, &before.card, params::export(&before.model), &extras, storage, SHARD)?;
        if let Some(codec) = &before.codec {
            checkpoint::write_codec(out, codec, &recipe, storage)?;
        }
        let change = match storage.is_lossy() {
            true => {
                let after = checkpoint::read(out, device)?;
                let codecs = before.codec.as_ref().zip(after.codec.as_ref());
                let codecs = codecs.map(|(before, after)| (&before.model, &after.model));
                Some(Change::on_random_tokens(&before.model, &after.model).with_codec(codecs))
            }
            false => None,
        };
        (change, checkpoint::model_card(&before.card, &extras))
    } else {
        let before = family::load(from, &LoadOptions::default(), device)?;
        before.description.notes.iter().for_each(|note| term::warn(note));
        family::export(from, out, &before.description, &params::export(&before.model), storage)?;
        warn_of_missing_code(out, to)?;
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
