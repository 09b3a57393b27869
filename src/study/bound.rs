//! What the models of a run are bound to: the settings, the data and the checkpoints that they were trained with.
//!
//! A model is bound once it has a checkpoint or is finished. Nothing that is bound is trained again unless that is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::seeds::seed_dir;
use super::shape::{at_hand, checkpoint};
use super::{Study, not_trained};
use crate::checkpoint::{origin, whole};
use crate::error::{Error, Result, typed};
use crate::eval::results::Results;
use crate::recipe::{Network, Recipe};
use crate::train::Fingerprint;
use crate::train::fingerprint::{BASE, Changed, MODEL, Mismatch, Stored};
use crate::train::state;
use crate::{fs, term};

/// Where in a run directory lies what was set aside.
const REPLACED: &str = "replaced";

/// What a recipe's data is made of, by hash.
const TOKENS: &str = "the data's tokens";
const TOKENIZER: &str = "the tokenizer";

/// The hashes of what the data is.
pub(super) fn data_sources(data: &crate::data::Data) -> Result<BTreeMap<String, String>> {
    Ok(BTreeMap::from([(TOKENS.to_string(), data.sha256()), (TOKENIZER.to_string(), data.tokenizer_sha256()?)]))
}

/// The fingerprint in the manifest of a finished model.
fn stored_in(manifest: &fs::Manifest, dir: &Path) -> Result<Stored> {
    serde_json::from_value(manifest.extra["fingerprint"].clone()).map_err(|e| {
        let place = dir.join(fs::MANIFEST);
        whole::damaged(Error::input(format!("{} names no recipe", place.display())).cause(e.to_string()), dir)
    })
}

/// The hash of a finished model's weights, as its manifest has it: of its file, or of the names and hashes of its files.
pub(super) fn weights_of(manifest: &fs::Manifest, dir: &Path) -> Result<String> {
    let weights = manifest.files.iter().filter(|(name, _)| name.ends_with(".safetensors"));
    let lines: Vec<(&str, &str)> = weights.map(|(name, file)| (name.as_str(), file.sha256.as_str())).collect();
    match lines[..] {
        // They lie elsewhere.
        [] => origin::model_sha256(dir),
        [(_, sha256)] => Ok(sha256.to_string()),
        _ => Ok(fs::sha256_hex(lines.iter().map(|(n, s)| format!("{n} {s}\n")).collect::<String>().as_bytes())),
    }
}

/// Names in a sentence.
fn listed(names: &BTreeSet<&str>) -> String {
    let quoted: Vec<String> = names.iter().map(|n| format!("`{n}`")).collect();
    match &quoted[..] {
        [rest @ .., last] if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        all => all.concat(),
    }
}

impl Study {
    /// Asks that the models `names` be trained again although they are finished.
    ///
    /// # Errors
    /// A name that the recipe does not have, or that `only` leaves out (usage).
    pub fn retraining(self, names: &[String], only: Option<&str>) -> Result<Study> {
        let wanted = self.wanted(only)?;
        for name in names {
            self.recipe.model(name)?;
            if !wanted.contains(&name.as_str()) {
                let only = only.unwrap_or_default();
                return Err(Error::usage(format!("`--retrain {name}`: `--only {only}` does not need it"))
                    .hint(format!("leave one of the two out, or give `--only {name}`")));
            }
        }
        self.retrain.borrow_mut().extend(names.iter().cloned());
        Ok(self)
    }

    /// The models that are trained for `only`, or all, each after its parents.
    pub(super) fn wanted(&self, only: Option<&str>) -> Result<Vec<&str>> {
        let mut needed: Vec<&str> = Vec::new();
        if let Some(name) = only {
            let mut open: Vec<&str> = vec![self.recipe.model.get_key_value(name).map_or("", |(name, _)| name)];
            self.recipe.model(name)?;
            while let Some(name) = open.pop() {
                needed.push(name);
                open.extend(Recipe::parents(self.recipe.model(name)?));
            }
        }
        let order = self.recipe.training_order()?;
        Ok(order.into_iter().filter(|name| only.is_none() || needed.contains(name)).collect())
    }

    /// The command that trains `names` anew, in this study and all its seeds.
    pub(super) fn again(&self, names: &BTreeSet<&str>) -> String {
        let flags: String = names.iter().map(|name| format!(" --retrain {}", typed(name))).collect();
        format!("{}{flags}", self.command)
    }

    /// The command that trains `name` anew, where its training is under way.
    pub fn anew(&self, name: &str) -> Option<String> {
        let goes_on = !self.retrain.borrow().contains(name) && state::newest_record(&self.model_dir(name)).is_some();
        goes_on.then(|| self.again(&BTreeSet::from([name])))
    }

    /// All that decides the numbers of a model, as the recipe, the data and the files are now.
    pub(super) fn fingerprint(&self, name: &str) -> Result<Fingerprint> {
        let model = self.recipe.model(name)?;
        let mut sources = self.sources.clone();
        if let Network::From(from) = self.recipe.network(name)? {
            // Nothing is fetched to compare its hash alone: one that is not at hand is gone, as one whose directory is.
            let dir = match fs::is_there(&self.final_dir(name)) {
                true => at_hand(from, &self.base),
                false => checkpoint(from, &self.base).ok(),
            };
            sources.extend(dir.map(|dir| self.base_sources(&dir)).transpose()?.unwrap_or_default());
        }
        for parent in Recipe::parents(model) {
            let dir = self.final_dir(parent);
            if let Ok(manifest) = fs::read_manifest(&dir) {
                sources.insert(format!("{MODEL}{parent}"), weights_of(&manifest, &dir)?);
            }
        }
        Ok(Fingerprint {
            settings: self.recipe.settings(name)?,
            sources,
            steps: model.train.steps,
            before: self.recipe.settings_before(name)?,
        })
    }

    /// Fetches the checkpoint of the hub that the finished model `name` is a reference to, where it left the cache.
    pub(super) fn fetch_base(&self, name: &str) -> Result<()> {
        let dir = self.final_dir(name);
        let gone = origin::of(&dir)?.is_some_and(|origin| !dir.join(&origin.base).exists());
        match self.recipe.network(name)? {
            Network::From(from) if gone => checkpoint(from, &self.base).map(drop),
            _ => Ok(()),
        }
    }

    /// The hashes of a public checkpoint; none where it is gone, which a model of its own weights survives.
    fn base_sources(&self, dir: &Path) -> Result<BTreeMap<String, String>> {
        if let Some(known) = self.bases.borrow().get(dir) {
            return Ok(known.clone());
        }
        let mut found = BTreeMap::new();
        if dir.exists() {
            fs::contained(dir)?;
            found.insert(format!("{BASE}weights"), origin::sha256(dir)?);
            found.extend(origin::beside(dir)?.into_iter().map(|(name, hash)| (format!("{BASE}{name}"), hash)));
        }
        self.bases.borrow_mut().insert(dir.to_path_buf(), found.clone());
        Ok(found)
    }

    /// What a model is bound to, if it is trained or being trained.
    fn stored(&self, name: &str) -> Result<Option<Stored>> {
        let dir = self.final_dir(name);
        match fs::is_there(&dir) {
            true => {
                let manifest = fs::read_manifest(&dir).map_err(|e| whole::damaged(e, &dir))?;
                stored_in(&manifest, &dir).map(Some)
            }
            false => Ok(state::newest_record(&self.model_dir(name)).map(|(_, stored)| stored)),
        }
    }

    /// The manifest of the finished model `name`, whose files are as they were written.
    ///
    /// # Errors
    /// A model that is not finished (usage), or damaged (input).
    pub(super) fn verified(&self, name: &str) -> Result<fs::Manifest> {
        let dir = self.final_dir(name);
        if !fs::is_there(&dir) {
            return Err(not_trained(name, &self.dir));
        }
        fs::verify_manifest(&dir).map_err(|e| whole::damaged(e, &dir))
    }

    /// Refuses a finished model that was trained by another recipe, on other data, or for another number of steps.
    pub(super) fn agrees(&self, name: &str, manifest: &fs::Manifest) -> Result<()> {
        let stored = stored_in(manifest, &self.final_dir(name))?;
        let mut refused = Refused::default();
        refused.add(name, self.fingerprint(name)?.mismatch(&stored));
        refused.error(self)?;
        self.warn_of_old(name, &stored);
        let steps = self.recipe.model(name)?.train.steps;
        match stored.steps().filter(|have| *have != steps) {
            None => Ok(()),
            Some(have) if have < steps => {
                Err(Error::usage(format!("`{name}` has {have} of its {steps} steps in {}", self.dir.display()))
                    .hint(format!("train it on: `{}`", self.command)))
            }
            Some(have) => Err(self.too_long(name, have, steps)),
        }
    }

    fn too_long(&self, name: &str, have: usize, steps: usize) -> Error {
        let key = format!("model.{name}.train.steps");
        Error::usage(format!("`{name}` in {} has {have} steps, and `{key}` is {steps}", self.dir.display()))
            .hint(format!("set `{key} = {have}`, or train it anew: `{}`", self.again(&BTreeSet::from([name]))))
    }

    fn warn_of_old(&self, name: &str, stored: &Stored) {
        if matches!(stored, Stored::Settings(_)) && self.warned.borrow_mut().insert(name.to_string()) {
            term::warn(&format!(
                "`{name}` was trained by an earlier fewstep, which stored no hash of its data: that is not checked"
            ));
        }
    }

    /// Refuses, before anything is done, those of `names` that are bound to another recipe or to other data, all at once.
    pub(super) fn check_bound(&self, names: &[&str]) -> Result<()> {
        let mut refused = Refused::default();
        for name in names {
            if self.retrain.borrow().contains(*name) {
                continue;
            }
            let Some(stored) = self.stored(name)? else { continue };
            refused.add(name, self.fingerprint(name)?.mismatch(&stored));
            for parent in Recipe::parents(self.recipe.model(name)?) {
                let steps = self.recipe.model(parent)?.train.steps;
                let before = match self.stored(parent) {
                    // Damage is what it is trained again for.
                    Err(_) if self.retrain.borrow().contains(parent) => continue,
                    before => before?,
                };
                let before = before.and_then(|s| s.steps()).filter(|before| *before != steps);
                if let Some(before) = before.filter(|_| fs::is_there(&self.final_dir(parent))) {
                    let key = format!("model.{parent}.train.steps");
                    let lines = vec![format!("- {key} = {before}"), format!("+ {key} = {steps}")];
                    refused.add(name, Some(Mismatch::Settings(lines)));
                }
            }
        }
        refused.error(self)
    }

    /// Whether the model `name` is finished: as it should be, and with all its steps.
    ///
    /// # Errors
    /// Damage, another recipe or other data, more steps than asked for, or fewer with no checkpoint to go on from.
    pub(super) fn is_finished(&self, name: &str) -> Result<bool> {
        let dir = self.final_dir(name);
        if !fs::is_there(&dir) {
            return Ok(false);
        }
        let manifest = self.verified(name)?;
        let stored = stored_in(&manifest, &dir)?;
        let steps = self.recipe.model(name)?.train.steps;
        match stored.steps() {
            Some(have) if have < steps => {
                if state::newest_checkpoint(&self.model_dir(name)).is_none() {
                    let key = format!("model.{name}.train.steps");
                    let place = self.model_dir(name);
                    return Err(Error::input(format!("`{name}` has {have} steps, and no checkpoint to go on from"))
                        .cause(format!("{} has none left", place.display()))
                        .hint(format!(
                            "set `{key} = {have}`, or train it anew: `{}`",
                            self.again(&BTreeSet::from([name]))
                        )));
                }
                Ok(false)
            }
            _ => self.agrees(name, &manifest).map(|()| true),
        }
    }

    /// Sets aside what there is of a model that is to be trained again.
    ///
    /// A training that is under way and sound is left to go on: the same command resumes it.
    pub(super) fn make_way(&self, name: &str) -> Result<()> {
        if !self.retrain.borrow_mut().remove(name) {
            return Ok(());
        }
        let (dir, steps) = (self.model_dir(name), self.recipe.model(name)?.train.steps);
        let too_long = state::newest_record(&dir).is_some_and(|(step, _)| step > steps);
        if !fs::is_there(&self.final_dir(name))
            && !too_long
            && let Some(stored) = state::newest_sound(&dir)
            && self.fingerprint(name)?.mismatch(&stored).is_none()
        {
            term::note(&format!("{name}: its training is not finished and goes on; it was begun by this recipe"));
            return Ok(());
        }
        if let Some(to) = fs::set_aside(&dir, &self.dir.join(REPLACED), name)? {
            term::note(&format!("{name}: trained anew; what was there lies in {}", to.display()));
        }
        Ok(())
    }

    /// Sets aside the finished model that a longer training replaces.
    pub(super) fn set_final_aside(&self, name: &str) -> Result<()> {
        if let Some(to) = fs::set_aside(&self.final_dir(name), &self.dir.join(REPLACED), name)? {
            term::note(&format!("{name}: the shorter training lies in {}", to.display()));
        }
        Ok(())
    }

    /// Copies the finished model `name` from the run in `other`, where it does not depend on the seed and is not here yet.
    ///
    /// # Errors
    /// The two runs have different ones.
    pub(super) fn take_finished(&self, name: &str, other: &Path) -> Result<()> {
        let (from, own) = (other.join("models").join(name).join(whole::FINAL), self.final_dir(name));
        if !fs::is_there(&from) {
            return Ok(());
        }
        let theirs = fs::read_manifest(&from).map_err(|e| whole::damaged(e, &from))?;
        let (stored, fingerprint) = (stored_in(&theirs, &from)?, self.fingerprint(name)?);
        let same_steps = stored.steps().is_none_or(|steps| steps == fingerprint.steps);
        if fingerprint.mismatch(&stored).is_some() || !same_steps {
            return Ok(());
        }
        if fs::is_there(&own) {
            let again = self.retrain.borrow().contains(name);
            // What is to be replaced may be damaged: that is why it is.
            let ours = match self.verified(name) {
                Err(_) if again => None,
                ours => Some(ours?),
            };
            let (a, b) = (
                weights_of(&theirs, &from)?,
                ours.map(|ours| weights_of(&ours, &own)).transpose()?.unwrap_or_default(),
            );
            if a == b {
                self.retrain.borrow_mut().remove(name);
                return Ok(());
            }
            if !again {
                let dir = self.model_dir(name).display().to_string();
                return Err(Error::input(format!("`{name}` is another model in {} than in {dir}", other.display()))
                    .cause("it is the same under every seed")
                    .cause(format!("sha256 {a} there, {b} here"))
                    .hint(format!("`rm -r {}` has it copied anew by the same command", typed(&dir))));
            }
        }
        whole::verify(&from)?;
        self.make_way(name)?;
        fs::create_dir(&self.model_dir(name))?;
        fs::commit_dir(&self.model_dir(name), whole::FINAL, |tmp| {
            for file in theirs.files.keys().map(String::as_str).chain([fs::MANIFEST]) {
                let (path, to) = (from.join(file), tmp.join(file));
                to.parent().map_or(Ok(()), fs::create_dir)?;
                fs::copy_file(&path, &to)?;
            }
            fs::verify_manifest(tmp).map(|_| ())
        })?;
        term::note(&format!("{name}: the same under every seed"));
        Ok(())
    }
}

/// Refuses results that lie in the run directory `dir` and are of other data than its models.
///
/// # Errors
/// A damaged manifest, or other data, with both hashes (input).
pub fn of_this_run(results: &Results, dir: &Path) -> Result<()> {
    let seeds = results.seeds();
    let runs = match &seeds[..] {
        [] => vec![dir.to_path_buf()],
        seeds => seeds.iter().map(|seed| seed_dir(dir, *seed)).collect(),
    };
    for run in runs {
        for model in &results.models {
            let name = model.name.split(": ").next().unwrap_or_default();
            let last = run.join("models").join(name).join(whole::FINAL);
            if !fs::is_there(&last) {
                continue;
            }
            let manifest = fs::read_manifest(&last).map_err(|e| whole::damaged(e, &last))?;
            let Stored::Whole(then) = stored_in(&manifest, &last)? else { continue };
            let now = [(TOKENS, Some(&results.data.sha256)), (TOKENIZER, results.data.tokenizer_sha256.as_ref())];
            for (what, now) in now {
                let both = then.sources.get(what).zip(now).filter(|(then, now)| then != now);
                if let Some((then, now)) = both {
                    return Err(Error::input(format!("the results in {} are not of its models", dir.display()))
                        .cause(format!("{what}: sha256 {then} when `{name}` was trained, {now} in the results"))
                        .hint(format!("evaluate again: `fewstep eval {}`", typed(&dir.display().to_string()))));
                }
            }
        }
    }
    Ok(())
}

/// The models that are bound to something else than what is at hand.
#[derive(Default)]
struct Refused<'a> {
    by_recipe: BTreeSet<&'a str>,
    lines: Vec<String>,
    by_sources: BTreeSet<&'a str>,
    changed: BTreeSet<Changed>,
}

impl<'a> Refused<'a> {
    fn add(&mut self, name: &'a str, mismatch: Option<Mismatch>) {
        match mismatch {
            None => {}
            Some(Mismatch::Settings(lines)) => {
                self.by_recipe.insert(name);
                let new: Vec<String> = lines.into_iter().filter(|l| !self.lines.contains(l)).collect();
                self.lines.extend(new);
            }
            Some(Mismatch::Sources(changed)) => {
                self.by_sources.insert(name);
                self.changed.extend(changed);
            }
        }
    }

    /// The error of what was added, if there is one.
    fn error(self, study: &Study) -> Result<()> {
        let all: BTreeSet<&str> = self.by_recipe.union(&self.by_sources).copied().collect();
        let place = study.dir.display();
        let were = |names: &BTreeSet<&str>| if names.len() == 1 { "was" } else { "were" };
        let again = || study.again(&all);
        if !self.by_recipe.is_empty() {
            let (names, were) = (listed(&self.by_recipe), were(&self.by_recipe));
            let mut lines = self.lines;
            let more = lines.len().saturating_sub(20);
            lines.truncate(20);
            if more > 0 {
                lines.push(format!("and {more} more lines"));
            }
            return Err(Error::usage(format!("{names} in {place} {were} trained by another recipe"))
                .cause(lines.join("\n"))
                .hint(format!("undo the change, give another `--out DIR`, or train anew: `{}`", again())));
        }
        if self.by_sources.is_empty() {
            return Ok(());
        }
        let (names, were) = (listed(&self.by_sources), were(&self.by_sources));
        let error = Error::input(format!("what {names} in {place} {were} trained on has changed"));
        let error = self.changed.iter().map(Changed::line).fold(error, Error::cause);
        Err(error.hint(format!("put back what was there, give another `--out DIR`, or train anew: `{}`", again())))
    }
}

/// The hashes of public checkpoints that were asked for, by directory.
pub(super) type Bases = std::cell::RefCell<BTreeMap<PathBuf, BTreeMap<String, String>>>;
