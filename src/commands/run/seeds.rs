//! A study with several training seeds: an ordinary run directory for each, and their results as one.
//!
//! RUN/{recipe.toml, data/, seeds/N/{recipe.toml, models/, results.json}, results.json, report/, export/NAME/}.

use std::path::{Path, PathBuf};

use burn::prelude::Device;

use super::{Study, claim};
use crate::error::Result;
use crate::eval::results::Results;
use crate::eval::seeds::join;
use crate::recipe::{Loaded, Recipe};
use crate::term::{self, Interrupt};
use crate::{fs, report};

/// A study whose recipe has `seeds`, opened in its run directory, locked against a second process.
pub struct Seeds {
    loaded: Loaded,
    dir: PathBuf,
    device: (Device, String),
    interrupt: Interrupt,
    _lock: fs::RunLock,
}

/// The run directory of one training seed of the study in `dir`.
pub fn seed_dir(dir: &Path, seed: u64) -> PathBuf {
    dir.join("seeds").join(seed.to_string())
}

/// Where the data of a run in `dir` is kept: the runs of one study's seeds share it.
pub(super) fn data_dir(dir: &Path) -> PathBuf {
    let above = dir.parent().filter(|p| p.file_name().is_some_and(|n| n == "seeds")).and_then(Path::parent);
    match above.filter(|study| study.join("recipe.toml").is_file()) {
        Some(study) => study.join("data"),
        None => dir.join("data"),
    }
}

impl Seeds {
    /// Opens `dir` (default `runs/<name>`) for `loaded`.
    ///
    /// Errors: another process in the directory, another recipe in it.
    pub fn open(loaded: Loaded, dir: Option<PathBuf>, device: (Device, &str), interrupt: Interrupt) -> Result<Seeds> {
        let dir = dir.unwrap_or_else(|| Path::new("runs").join(&loaded.recipe.name));
        let lock = claim(&dir, &loaded)?;
        let device = (device.0, device.1.to_string());
        Ok(Seeds { loaded, dir, device, interrupt, _lock: lock })
    }

    fn recipe(&self) -> &Recipe {
        &self.loaded.recipe
    }

    /// The study of one seed, in its own directory.
    fn study(&self, seed: u64) -> Result<Study> {
        let one = self.loaded.at_seed(seed)?;
        let device = (self.device.0.clone(), self.device.1.as_str());
        Study::open(one, Some(seed_dir(&self.dir, seed)), device, self.interrupt.clone())
    }

    /// Trains what is missing under every seed: every model, or `only` and its teachers.
    pub fn train(&self, only: Option<&str>) -> Result<()> {
        self.each(|study| study.train(only)).map(|_| ())
    }

    /// Does `work` in the study of each seed, with the models that seeds have in common copied from the first.
    fn each<T>(&self, work: impl Fn(&Study) -> Result<T>) -> Result<Vec<(u64, T)>> {
        let first = self.recipe().seeds[0];
        let mut done = Vec::new();
        for &seed in &self.recipe().seeds {
            term::note(&format!("seed {seed}"));
            let study = self.study(seed)?;
            if seed != first {
                for name in self.recipe().model.keys() {
                    study.take_finished(name, &seed_dir(&self.dir, first))?;
                }
            }
            done.push((seed, work(&study)?));
        }
        Ok(done)
    }

    /// Evaluates what is missing under every seed and writes the joined results.json.
    pub fn evaluate(&self, only: Option<&str>) -> Result<Results> {
        let each = self.each(|study| study.evaluate(only))?;
        self.joined(&each)
    }

    fn joined(&self, each: &[(u64, Results)]) -> Result<Results> {
        let results = join(&self.loaded.text, self.recipe().eval.seed, each)?;
        results.save(&self.dir.join("results.json"))?;
        Ok(results)
    }

    /// The whole study under every seed, and one report; what it exports is the first seed's.
    pub fn run(&self, as_json: bool) -> Result<()> {
        let each = self.each(|study| {
            study.announce();
            study.train(None)?;
            study.evaluate(None)
        })?;
        let results = self.joined(&each)?;
        let written = report::write(&results, &self.dir.join("report"))?;
        if !self.recipe().export.models.is_empty() {
            let (first, own) = &each[0];
            self.study(*first)?.export_all(own, &self.dir.join("export"))?;
        }
        super::say(&results, &written, as_json)
    }

    /// The directory of the whole study.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Study {
    /// Copies the finished model `name` from the run in `other`, where it does not depend on the seed and is not here yet.
    fn take_finished(&self, name: &str, other: &Path) -> Result<()> {
        let from = other.join("models").join(name).join("final");
        let Ok(manifest) = fs::verify_manifest(&from) else { return Ok(()) };
        let same = manifest.extra["fingerprint"].as_str() == Some(&self.recipe.fingerprint(name)?);
        if !same || fs::verify_manifest(&self.final_dir(name)).is_ok() {
            return Ok(());
        }
        fs::create_dir(&self.model_dir(name))?;
        fs::commit_dir(&self.model_dir(name), "final", |tmp| {
            for file in manifest.files.keys().map(String::as_str).chain([fs::MANIFEST]) {
                let (path, to) = (from.join(file), tmp.join(file));
                to.parent().map_or(Ok(()), fs::create_dir)?;
                fs::copy_file(&path, &to)?;
            }
            Ok(())
        })?;
        term::note(&format!("{name}: the same under every seed"));
        Ok(())
    }
}
