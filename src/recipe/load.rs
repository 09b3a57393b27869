//! A recipe from a file, or from inside the binary, with `--set`: read, checked, and kept as it was written.

use std::path::{Path, PathBuf};

use super::{Recipe, builtin, parse};
use crate::error::{Error, Result, typed};
use crate::fs::{read_limited, read_text};

/// A recipe with its text as it will be stored in the run.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub recipe: Recipe,
    /// The TOML text after `--set`.
    pub text: String,
    /// What relative paths in the recipe are looked up from.
    pub base: PathBuf,
    /// The file or built-in recipe that it was read from, as it was given.
    pub place: String,
    /// What the user wrote, so that errors found later name its place too.
    pub written: Written,
    /// Whether it is of a run that is finished: what was trained stands, whatever rules were added since.
    pub finished: bool,
}

/// A recipe as the user wrote it: a text, what it is called, and what was set on the command line.
#[derive(Debug, Clone, Default)]
pub struct Written {
    pub text: String,
    pub place: String,
    pub sets: Vec<String>,
}

impl Written {
    /// The same error with the place of the key that it names, where it names one of this recipe's.
    pub fn located(&self, error: Error) -> Error {
        parse::located(error, &self.text, &self.place, &self.sets)
    }
}

/// File of a run directory that names what relative paths in its recipe are looked up from.
pub const BASE: &str = "base";

impl Loaded {
    /// Checks it by the rules of this version; errors name the place of the key at fault.
    ///
    /// # Errors
    /// As [`Recipe::check`], with the place of the key at fault.
    pub fn check(&self) -> Result<()> {
        // What a rule says of seeds must be so under each of them.
        let under = |seed: &u64| self.at_seed(*seed)?.recipe.check();
        let all = self.recipe.check().and_then(|()| self.recipe.seeds.iter().try_for_each(under));
        all.map_err(|e| self.written.located(e))
    }

    /// The study of one of its `seeds` alone: its training seed, a sampling seed of its own (the same for all its models),
    /// and time measured under the first seed only, since it does not depend on weights.
    ///
    /// # Errors
    /// As [`parse::parse`].
    pub fn at_seed(&self, seed: u64) -> Result<Loaded> {
        // TOML's integers have 63 bits.
        let sampling = self.recipe.eval.seed.wrapping_add(seed) & (u64::MAX >> 1);
        let mut sets = vec!["seeds=[]".to_string(), format!("seed={seed}"), format!("eval.seed={sampling}")];
        if self.recipe.seeds.first() != Some(&seed) {
            sets.push("eval.speed_repeats=0".into());
        }
        let parsed = parse::parse::<Recipe>(&self.text, "the recipe", &sets)?;
        Ok(Loaded { recipe: parsed.value, text: parsed.resolved, ..self.clone() })
    }

    /// The command that does this study in the run directory `dir`.
    pub fn command(&self, dir: &Path) -> String {
        let set = self.written.sets.iter().map(|s| format!(" --set {}", typed(s)));
        format!(
            "fewstep run {}{} --out {}",
            typed(&self.place),
            set.collect::<String>(),
            typed(&dir.display().to_string())
        )
    }
}

/// Bytes of the longest recipe that is read.
const MAX_FILE: u64 = 64 << 20;

/// Reads the recipe file `place`, or the built-in recipe of that name, applies `--set`, and checks it.
///
/// # Errors
/// A recipe that is not there, is not UTF-8 text or breaks a rule, with the place (usage); a file that cannot be read (input or
/// I/O).
pub fn load(place: &str, sets: &[String]) -> Result<Loaded> {
    let path = Path::new(place);
    // What is there and is neither a file nor a directory is refused as what it is.
    let (text, shown, base) = if path.exists() && !path.is_dir() || place.ends_with(".toml") {
        if !path.exists() {
            return Err(missing(place));
        }
        let text = String::from_utf8(read_limited(path, MAX_FILE)?)
            .map_err(|_| Error::usage(format!("{place} is not UTF-8 text")))?;
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        (text, place.to_string(), stored_base(path, dir).unwrap_or_else(|| dir.to_path_buf()))
    } else {
        let Some(text) = builtin::find(place) else { return Err(missing(place)) };
        (text.to_string(), format!("built-in recipe {place}"), PathBuf::from("."))
    };
    let mut loaded = read(Written { text, place: shown, sets: sets.to_vec() }, base)?;
    loaded.place = place.to_string();
    Ok(loaded)
}

/// The recipe that was `written`, checked; relative paths in it are looked up from `base`.
///
/// # Errors
/// A recipe that does not parse or breaks a rule (usage), with the place of the key at fault.
pub fn read(written: Written, base: PathBuf) -> Result<Loaded> {
    let loaded = parsed(written, base)?;
    loaded.check()?;
    Ok(loaded)
}

fn parsed(written: Written, base: PathBuf) -> Result<Loaded> {
    let parsed = parse::parse::<Recipe>(&written.text, &written.place, &written.sets)?;
    let place = written.place.clone();
    Ok(Loaded { recipe: parsed.value, text: parsed.resolved, base, place, written, finished: false })
}

/// The recipe stored in the run directory `run`, read but not checked: an earlier version checked it by its own rules.
///
/// # Errors
/// A recipe that this version cannot read, and models without a name of their own or in a circle, with the file's name.
pub fn stored(run: &Path) -> Result<Loaded> {
    let path = run.join("recipe.toml");
    let place = path.display().to_string();
    let base = stored_base(&path, run).unwrap_or_else(|| run.to_path_buf());
    let loaded = read_text(&path, MAX_FILE).and_then(|text| {
        let loaded = parsed(Written { text, place, sets: Vec::new() }, base)?;
        loaded.recipe.check_structure().map_err(|e| loaded.written.located(e))?;
        Ok(loaded)
    });
    loaded.map_err(|e| match (&e.hint, finished_model(run)) {
        (Some(_), _) => e,
        (None, Some(model)) => e.hint(format!(
            "put back the recipe that the run was made with, or name one of its models in place of the run: `{}`",
            model.display()
        )),
        (None, None) => e.hint("put back the recipe that the run was made with"),
    })
}

/// A finished model of the run in `run`, or of the run of one of its seeds.
fn finished_model(run: &Path) -> Option<PathBuf> {
    let entries = |dir: &str| {
        let mut all: Vec<PathBuf> = std::fs::read_dir(run.join(dir)).ok()?.flatten().map(|e| e.path()).collect();
        all.sort();
        Some(all)
    };
    let models = entries("models").unwrap_or_default().into_iter().map(|model| model.join("final"));
    let found = models.into_iter().find(|model| model.is_dir());
    found.or_else(|| entries("seeds")?.iter().find_map(|seed| finished_model(seed)))
}

/// What the paths in the recipe of a run directory are looked up from: where they were when it ran.
fn stored_base(path: &Path, dir: &Path) -> Option<PathBuf> {
    let ours = path.file_name().is_some_and(|name| name == "recipe.toml");
    let text = read_text(&dir.join(BASE), 1 << 16).ok().filter(|_| ours)?;
    let base = PathBuf::from(text.trim_end_matches('\n'));
    base.is_absolute().then_some(base)
}

fn missing(place: &str) -> Error {
    let error = Error::usage(format!("no recipe `{place}`")).cause("neither a file nor a built-in recipe of that name");
    match crate::error::nearest(place, builtin::names()) {
        Some(near) => error.hint(format!("did you mean `{near}`? `fewstep recipe list` shows the built-in ones")),
        None => error.hint("`fewstep recipe list` shows the built-in ones"),
    }
}
