//! Results of an evaluation as they are kept beside a model: with what decides them, and with their own hash.
//!
//! models/NAME/eval.json holds the hash of samples.txt too, so that both are what was written, or are refused.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result, typed};
use crate::eval::results::ModelResult;
use crate::{fs, term};

/// Bytes of a kept result, at most.
const MAX_BYTES: u64 = 16 << 30;

#[derive(Serialize, Deserialize)]
struct Kept {
    /// Hash of all that decides the result.
    key: String,
    /// Hash of the samples' file; none where no samples were drawn.
    #[serde(default)]
    samples_sha256: Option<String>,
    result: ModelResult,
}

/// The result in `path`, if it is of this `key` and whole, and so are the samples that belong to it; nothing where it has to
/// be made (anew), and then the old one is removed, so that a result never lies beside the samples of another.
///
/// # Errors
/// A file that was changed after it was written (input).
pub fn read(path: &Path, samples: &Path, key: &str) -> Result<Option<ModelResult>> {
    if std::fs::symlink_metadata(path).is_err() {
        return Ok(None);
    }
    let bytes = fs::read_limited(path, MAX_BYTES)
        .map_err(|e| changed(path, path, &[&[e.message][..], &e.causes].concat().join(": ")))?;
    let text = String::from_utf8(bytes).map_err(|e| changed(path, path, &e.to_string()))?;
    let kept = match fs::unseal(&text) {
        fs::Sealed::Whole(body) => serde_json::from_str::<Kept>(&body).ok(),
        fs::Sealed::Broken => return Err(changed(path, path, "its own sha256 differs")),
        fs::Sealed::Without => {
            // Of fewstep 0.1.0, whose keys are others: it has to be made anew in any case.
            #[derive(Deserialize)]
            struct Old {
                key: String,
            }
            let old = serde_json::from_str::<Old>(&text).ok().filter(|old| old.key != key);
            if old.is_none() {
                return Err(changed(path, path, "it does not end in its sha256"));
            }
            term::note(&format!("{} has no sha256 of its own: evaluated anew", path.display()));
            None
        }
    };
    if let Some(kept) = kept.filter(|kept| kept.key == key) {
        match (&kept.samples_sha256, samples.exists()) {
            (Some(then), true) if fs::sha256_file(samples)? != *then => {
                return Err(changed(samples, path, "its sha256 is not the one in the evaluation beside it"));
            }
            // Without them the result is not all there.
            (Some(_), false) => {}
            _ => return Ok(Some(kept.result)),
        }
    }
    fs::remove_file(path)?;
    Ok(None)
}

/// Keeps a result with its key and the hash of its samples.
pub fn write(path: &Path, samples: &Path, key: &str, result: ModelResult) -> Result<ModelResult> {
    let samples_sha256 = samples.exists().then(|| fs::sha256_file(samples)).transpose()?;
    let kept = Kept { key: key.to_string(), samples_sha256, result };
    let text = serde_json::to_string(&kept)
        .map_err(|e| Error::new(Kind::NonFinite, format!("{} has scores that are not numbers: {e}", path.display())))?;
    fs::write_atomic(path, fs::seal(&text).as_bytes())?;
    Ok(kept.result)
}

fn changed(file: &Path, evaluation: &Path, why: &str) -> Error {
    Error::input(format!("{} was changed after it was written", file.display())).cause(why).hint(format!(
        "`rm {}`, then the same command evaluates the model again",
        typed(&evaluation.display().to_string())
    ))
}
