//! Whether the directory of a finished model in a run is as it was written, and what to type where it is not.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result, typed};
use crate::fs;

/// The name of a finished model's directory in a run.
pub const FINAL: &str = "final";

/// The key of a finished model's manifest that says what it was trained on.
pub const DEVICE: &str = "device";

/// The device of a command that names none.
pub const USUAL: &str = "flex";

/// Run directory and model name of RUN/models/NAME/final.
fn place(dir: &Path) -> Option<(PathBuf, String)> {
    let whole = std::path::absolute(dir).ok()?;
    let model = whole.parent().filter(|_| whole.ends_with(FINAL))?;
    let run = model.parent().filter(|models| models.ends_with("models"))?.parent()?;
    let here = std::env::current_dir().ok();
    let shown = here.and_then(|here| run.strip_prefix(here).ok()).filter(|p| !p.as_os_str().is_empty()).unwrap_or(run);
    Some((shown.to_path_buf(), model.file_name()?.to_str()?.to_string()))
}

fn of_a_run(dir: &Path) -> bool {
    place(dir).is_some_and(|(run, _)| run.join("recipe.toml").is_file())
}

/// Whether `dir` is the directory of a model: one with a config.json, or a finished model of a run, which should have one.
pub fn is_model(dir: &Path) -> bool {
    dir.join("config.json").is_file() || (dir.is_dir() && of_a_run(dir))
}

/// The command that trains the finished model in `dir` anew, where that is a model of a run.
pub fn again(dir: &Path) -> Option<String> {
    let (run, name) = place(dir)?;
    let (recipe, out) = (run.join("recipe.toml").display().to_string(), run.display().to_string());
    let on = device(&run, dir).map_or_else(String::new, |device| format!(" --device {}", typed(&device)));
    Some(format!("fewstep run {} --out {}{on} --retrain {}", typed(&recipe), typed(&out), typed(&name)))
}

/// The device that the model in `dir` was trained on, if it is another than the usual one. A damaged model may not tell: then
/// it is that of another model of the run.
fn device(run: &Path, dir: &Path) -> Option<String> {
    let of = |dir: &Path| Some(fs::read_manifest(dir).ok()?.extra[DEVICE].as_str()?.to_string());
    let others = || std::fs::read_dir(run.join("models")).ok()?.flatten().find_map(|e| of(&e.path().join(FINAL)));
    of(dir).or_else(others).filter(|device| device != USUAL)
}

/// Refuses a directory with a manifest whose files are not as it says, and a finished model of a run without one.
///
/// A directory that was exported has no manifest, and what another program calls so is not ours.
///
/// # Errors
/// Such a directory, with the names of the files (input).
pub fn verify(dir: &Path) -> Result<()> {
    let ours = || {
        let text = fs::read_limited(&dir.join(fs::MANIFEST), 64 << 20).unwrap_or_default();
        String::from_utf8_lossy(&text).contains("\"fingerprint\"")
    };
    if !of_a_run(dir) && !ours() {
        return Ok(());
    }
    fs::verify_manifest(dir).map(|_| ()).map_err(|e| damaged(e, dir))
}

/// The error of a finished model's directory with a hint how to be rid of it.
pub fn damaged(e: Error, dir: &Path) -> Error {
    match again(dir) {
        Some(command) => e.hint(hint(&command)),
        None => e,
    }
}

/// What to do about a damaged model, with the command that trains it anew.
pub fn hint(command: &str) -> String {
    format!("put the files back as they were, or train it anew: `{command}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_command_that_trains_a_damaged_model_anew_names_the_device_that_the_run_was_trained_on() {
        let place = tempfile::tempdir().unwrap();
        let run = place.path().join("run");
        let model = |name: &str| run.join("models").join(name).join(FINAL);
        for (name, device) in [("a", "cuda:1"), ("b", "cuda:1")] {
            fs::create_dir(&model(name)).unwrap();
            fs::write_manifest(&model(name), json!({ DEVICE: device })).unwrap();
        }
        let command = || again(&model("a")).unwrap();
        assert!(command().contains(" --device cuda:1 --retrain a"), "{}", command());
        fs::write_atomic(&model("a").join(fs::MANIFEST), b"{").unwrap();
        assert!(command().contains(" --device cuda:1 --retrain a"), "{}", command());
        fs::remove_dir(&model("b")).unwrap();
        assert!(!command().contains("--device"), "{}", command());
        fs::write_manifest(&model("a"), json!({ DEVICE: USUAL })).unwrap();
        assert!(!command().contains("--device"), "{}", command());
    }
}
