//! `inspect`: what is in a model directory or a safetensors file, and how near its outputs are to stored ones.

pub mod family;

use std::path::Path;

use burn::prelude::*;
use serde_json::json;

use crate::checkpoint::{self, origin};
use crate::error::{Error, Kind, Result};
use crate::model::family as models;
use crate::model::{Denoise, Noised, params};
use crate::weights::{self, NonFinite};
use crate::{fs, shown, term};

/// Prints tensors, sizes, finiteness and hash; with `against`, compares logits on stored inputs.
///
/// # Errors
/// What is not a model, or no such model of a run.
pub fn run(path: &Path, model: Option<&str>, against: Option<&Path>, as_json: bool, device: &Device) -> Result<()> {
    let path = &models::resolve(path)?;
    let (file, dir) = match path.is_dir() {
        true => {
            let dir = crate::study::stored::model_dir(path, model)?;
            checkpoint::whole::verify(&dir)?;
            if family::is_foreign(&dir)? {
                return family::run(&dir, against, as_json, device);
            }
            match origin::of(&dir)? {
                Some(origin) if origin.adapters => (dir.join(models::adapters::WEIGHTS), Some(dir)),
                // A checkpoint that was taken as it is.
                Some(origin) => {
                    origin.in_its_run(&dir)?;
                    return family::run(&dir.join(origin.base), against, as_json, device);
                }
                None => (dir.clone(), Some(dir)),
            }
        }
        false => (path.to_path_buf(), None),
    };
    let weights = weights::read_model(&file, NonFinite::Allow)?;
    let bad: usize = weights.tensors.values().map(|t| t.data.iter().filter(|v| !v.is_finite()).count()).sum();
    let parameters: usize = weights.tensors.values().map(|t| t.data.len()).sum();
    let sha = if file.is_dir() { weights::sha256(&file)? } else { fs::sha256_file(&file)? };
    let error = match (&dir, against) {
        (Some(dir), Some(against)) => Some(largest_error(dir, against, device)?),
        (None, Some(_)) => {
            return Err(Error::usage("`--against` needs a model directory, not a single file")
                .hint("give the directory that holds config.json"));
        }
        (_, None) => None,
    };
    if as_json {
        let tensors: Vec<_> = weights.tensors.iter().map(|(n, t)| json!({ "name": n, "shape": t.shape })).collect();
        let line = json!({ "file": file, "sha256": sha, "parameters": parameters, "non_finite": bad, "tensors": tensors,
            "metadata": weights.metadata, "largest_absolute_error": error });
        term::out_json(line);
        return Ok(());
    }
    for (name, tensor) in &weights.tensors {
        let name = shown::line(name);
        let top = tensor.data.iter().fold(0f32, |a, v| a.max(v.abs()));
        term::out(format!("{name:<40} {:<16} largest |value| {top:.4}", format!("{:?}", tensor.shape)));
    }
    for (key, value) in &weights.metadata {
        term::out(format!("metadata {key} = {value}"));
    }
    term::out(format!(
        "{} tensors, {parameters} parameters, {bad} non-finite values, sha256 {sha}",
        weights.tensors.len()
    ));
    if let Some(error) = error {
        term::out(format!("largest absolute error of the logits: {error:.3e}"));
    }
    Ok(())
}

/// The largest |logits - stored logits| of the model in `dir` on the inputs stored in `against`.
fn largest_error(dir: &Path, against: &Path, device: &Device) -> Result<f64> {
    let loaded = checkpoint::read(dir, device)?;
    let stored = weights::read(against, NonFinite::Refuse)?;
    let place = against.display();
    let mut ints = weights::read_ints(against)?;
    let Some(ids) = ints.remove("input_ids") else {
        return Err(Error::input(format!("{place} has no integer tensor `input_ids`")));
    };
    let Some(want) = stored.tensors.get("logits") else {
        return Err(Error::input(format!("{place} has no tensor `logits`"))
            .hint("it needs `input_ids` [B, L], `logits` [B, L, V] and optionally `timesteps` [B]"));
    };
    let [b, l] = match ids.shape[..] {
        [b, l] if b > 0 && l > 0 => [b, l],
        _ => {
            return Err(Error::input(format!(
                "{place}: `input_ids` must be [B, L] and not empty, but is {:?}",
                ids.shape
            )));
        }
    };
    let v = loaded.model.vocab();
    if want.shape != [b, l, v] {
        return Err(Error::input(format!("{place}: `logits` must be {:?}, but is {:?}", [b, l, v], want.shape)));
    }
    if l > loaded.model.length() || ids.data.iter().any(|i| *i < 0 || *i > v as i64) {
        return Err(Error::input(format!(
            "{place}: `input_ids` must be below {} and at most {} long",
            v + 1,
            loaded.model.length()
        )));
    }
    let t: Vec<f64> = match stored.tensors.get("timesteps") {
        None => vec![0.0; b * l],
        Some(t) if t.shape == [b] => t.data.iter().flat_map(|t| std::iter::repeat_n(f64::from(*t), l)).collect(),
        Some(t) if t.shape == [b, l] => t.data.iter().map(|t| f64::from(*t)).collect(),
        Some(t) => {
            return Err(Error::input(format!(
                "{place}: `timesteps` must be [{b}] or [{b}, {l}], but is {:?}",
                t.shape
            )));
        }
    };
    let ids: Vec<u32> = ids.data.iter().map(|i| *i as u32).collect();
    let input = Noised::tokens(&ids, &t, l);
    let features = loaded.model.features(&input);
    let d = features.dims()[2];
    let got = params::floats(loaded.model.logits(features.reshape([b * l, d])));
    if got.iter().any(|v| !v.is_finite()) {
        return Err(Error::new(
            Kind::NonFinite,
            format!("{}: the model's logits are not finite numbers", dir.display()),
        )
        .cause(format!("on the `input_ids` of {place}")));
    }
    Ok(got.iter().zip(&want.data).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max))
}
