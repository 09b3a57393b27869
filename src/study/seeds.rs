//! A study with several training seeds: an ordinary run directory for each, and their results as one.
//!
//! RUN/{recipe.toml, data/, seeds/N/{recipe.toml, models/, results.json}, results.json, report/, export/NAME/}.

use std::path::{Path, PathBuf};

use burn::prelude::Device;

use super::{Site, Study, claim, command, keep};
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
    command: String,
    retrain: Vec<String>,
    claim: fs::Claim,
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
    /// # Errors
    /// Another process in the directory, another recipe in it.
    pub fn open(loaded: Loaded, dir: Option<PathBuf>, device: (Device, &str), interrupt: Interrupt) -> Result<Seeds> {
        let dir = dir.unwrap_or_else(|| Path::new("runs").join(&loaded.recipe.name));
        let claim = claim(&dir, &dir.join("data"), &loaded)?;
        let command = command(&loaded, &dir, device.1);
        let device = (device.0, device.1.to_string());
        Ok(Seeds { loaded, dir, device, interrupt, command, retrain: Vec::new(), claim })
    }

    /// Asks that the models `names` be trained again under every seed although they are finished.
    pub fn retraining(self, names: &[String]) -> Seeds {
        Seeds { retrain: names.to_vec(), ..self }
    }

    fn recipe(&self) -> &Recipe {
        &self.loaded.recipe
    }

    /// The study of one seed, in its own directory.
    fn study(&self, seed: u64) -> Result<Study> {
        let one = self.loaded.at_seed(seed)?;
        let device = (self.device.0.clone(), self.device.1.as_str());
        let (dir, data) = (seed_dir(&self.dir, seed), self.dir.join("data"));
        Study::open_at(one, Site { dir, data, command: self.command.clone() }, device, self.interrupt.clone())
    }

    /// Trains what is missing under every seed: every model, or `only` and its teachers.
    ///
    /// # Errors
    /// As [`Study::train`], of the first seed that fails.
    pub fn train(&self, only: Option<&str>) -> Result<()> {
        self.each(only, |study| study.train(only)).map(|_| ())
    }

    /// Does `work` in the study of each seed, with the models that seeds have in common copied from the first.
    fn each<T>(&self, only: Option<&str>, work: impl Fn(&Study) -> Result<T>) -> Result<Vec<(u64, T)>> {
        let first = self.recipe().seeds[0];
        let mut done = Vec::new();
        for &seed in &self.recipe().seeds {
            term::note(&format!("seed {seed}"));
            let study = self.study(seed)?.retraining(&self.retrain, only)?;
            keep(&self.claim, &self.dir, self.recipe(), &self.loaded.text, &self.loaded.base)?;
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
    ///
    /// # Errors
    /// As [`Study::evaluate`], of the first seed that fails; seeds that were measured on different data (input).
    pub fn evaluate(&self, only: Option<&str>) -> Result<Results> {
        let each = self.each(only, |study| study.evaluate(only))?;
        self.joined(&each)
    }

    fn joined(&self, each: &[(u64, Results)]) -> Result<Results> {
        let results = join(&self.loaded.text, self.recipe().eval.seed, each)?;
        results.save(&self.dir.join("results.json"))?;
        Ok(results)
    }

    /// The whole study under every seed, and one report; what it exports is the first seed's. The results, and the files of the report.
    ///
    /// # Errors
    /// As [`Seeds::train`] and [`Seeds::evaluate`], and those of an export; a report that cannot be written (I/O).
    pub fn complete(&self) -> Result<(Results, Vec<PathBuf>)> {
        let each = self.each(None, |study| {
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
        Ok((results, written))
    }

    /// The same; prints the table and where the report is, or all results as JSON.
    ///
    /// # Errors
    /// As [`Seeds::complete`].
    pub fn run(&self, as_json: bool) -> Result<()> {
        let (results, written) = self.complete()?;
        super::say(&results, &written, as_json)
    }

    /// The directory of the whole study.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}
