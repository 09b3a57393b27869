//! The recipe of a run directory. An earlier version checked it by its own rules and trained by it, so a rule that was added since
//! does not make a finished run unreadable.

use std::path::{Path, PathBuf};

use super::choice::main_model;
use super::seeds::seed_dir;
use crate::checkpoint::whole::{self, FINAL};
use crate::error::{Error, Result};
use crate::recipe::{self, Loaded};
use crate::{fs, term};

/// The recipe stored in `run`, to find a model by; its relative paths are looked up from where they were when it ran.
///
/// # Errors
/// A directory without one, a recipe that cannot be read.
pub fn read(run: &Path) -> Result<Loaded> {
    if !run.join("recipe.toml").is_file() {
        return Err(Error::input(format!("{} is not a run directory: it has no recipe.toml", run.display()))
            .hint("`fewstep run quickstart` makes one in runs/quickstart"));
    }
    recipe::stored(run)
}

/// The recipe stored in `run`, to export or evaluate by. Of a run whose models are all finished, a rule that it breaks is
/// told and passed over.
///
/// # Errors
/// As [`read`]; a broken rule where something is still to be trained; data or an evaluation out of range.
pub fn usable(run: &Path) -> Result<Loaded> {
    let loaded = read(run)?;
    let Err(broken) = loaded.check() else { return Ok(loaded) };
    if !is_finished(run, &loaded) {
        return Err(broken);
    }
    loaded.recipe.check_evaluation().map_err(|e| loaded.written.located(e))?;
    passed_over(&broken);
    Ok(Loaded { finished: true, ..loaded })
}

/// Says that a finished run breaks a rule of this version.
pub fn passed_over(broken: &Error) {
    term::warn(&format!("{}: the run is finished and is read as it is", broken.message));
}

/// The run directory of the first training seed of the study in `run`, where it has several.
///
/// # Errors
/// A recipe.toml that cannot be read. What has none is not a run with several seeds.
pub fn first_seed(run: &Path) -> Result<Option<PathBuf>> {
    if !fs::is_there(&run.join("recipe.toml")) {
        return Ok(None);
    }
    Ok(recipe::stored(run)?.recipe.seeds.first().map(|seed| seed_dir(run, *seed)))
}

fn is_finished(run: &Path, loaded: &Loaded) -> bool {
    let runs = match &loaded.recipe.seeds[..] {
        [] => vec![run.to_path_buf()],
        seeds => seeds.iter().map(|seed| seed_dir(run, *seed)).collect(),
    };
    let has = |run: &PathBuf, name: &String| fs::is_there(&run.join("models").join(name).join(FINAL));
    runs.iter().all(|run| loaded.recipe.model.keys().all(|name| has(run, name)))
}

/// The directory of the model meant by a path: itself, or a model of a run.
///
/// # Errors
/// A name beside a directory that is one model, or one that the run does not have (usage); a directory that is neither (input);
/// I/O.
pub fn model_dir(path: &Path, name: Option<&str>) -> Result<PathBuf> {
    if whole::is_model(path) {
        return match name {
            Some(name) => Err(Error::usage(format!("`--model {name}`: {} is one model, not a run", path.display()))
                .hint("leave `--model` out")),
            None => Ok(path.to_path_buf()),
        };
    }
    // Of a study with several training seeds it is the first seed's.
    let first = first_seed(path)?;
    let path = first.as_deref().unwrap_or(path);
    let models = path.join("models");
    let mut names: Vec<String> = match std::fs::read_dir(&models) {
        Ok(entries) => entries
            .flatten()
            .filter(|e| e.path().join("final").is_dir())
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect(),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return Err(Error::io("read", &models, &e)),
        Err(_) => Vec::new(),
    };
    names.sort();
    if names.is_empty() {
        return Err(Error::input(format!(
            "{} is neither a model directory nor a run with trained models",
            path.display()
        ))
        .hint("`fewstep run quickstart` makes a run in runs/quickstart"));
    }
    let name = match name {
        Some(name) => name.to_string(),
        None => main_model(&read(path)?.recipe).to_string(),
    };
    if !names.contains(&name) {
        let error = Error::usage(format!("no trained model `{name}` in {}", path.display()));
        return Err(error.hint(format!("it has {}: `--model {}`", names.join(", "), names[names.len() - 1])));
    }
    Ok(models.join(name).join("final"))
}
