//! The verbs: each reads what the command line named, does one thing, and says where the result is.

pub mod export;
pub mod gate;
pub mod inspect;
pub mod phases;
pub mod recipe;
pub mod sample;
pub mod shell;

use std::path::{Path, PathBuf};

use crate::cli::{Cli, Command, Global, RecipeCommand};
use crate::error::{Kind, Result};
use crate::eval::results::Results;
use crate::recipe::{self as recipes, Loaded};
use crate::study::seeds::Seeds;
use crate::study::{Study, device, stored};
use crate::term::{self, Interrupt};
use crate::{fs, report};

/// Does what the command line says.
///
/// # Errors
/// Those of the command; handlers of signals that cannot be registered (I/O).
pub fn dispatch(cli: Cli) -> Result<()> {
    let global = &cli.global;
    let open = || device::open(&global.device);
    let interrupt = Interrupt::listen()?;
    match &cli.command {
        Command::Run { recipe, only, out, set, retrain } => {
            // The recipe is checked before any device is opened.
            let loaded = recipes::load(recipe, set)?;
            run(loaded, out.clone(), only.as_deref(), retrain, global, interrupt)
        }
        Command::Eval { run, only } => eval(run, only.as_deref(), global, interrupt),
        Command::Phases { run, model, steps, period, texts, tries, seed } => {
            // Of several training seeds the first is searched with.
            let dir = &stored::first_seed(run)?.unwrap_or_else(|| run.clone());
            let study = Study::open_to_read(stored::usable(dir)?, dir, (open()?, &global.device), interrupt)?;
            let (steps, period, texts, tries) = (*steps, *period, *texts, *tries);
            phases::run(&study, &phases::Request { model, steps, period, texts, tries, seed: *seed, json: global.json })
        }
        Command::Sample(args) => sample::run(args, global.json, &open()?),
        Command::Report { results, out, notes } => report(results, out.as_deref(), notes.as_deref(), global.json),
        Command::Gate { results, baseline, selected, rule, details, strict, allow_mismatch, junit } => {
            gate::run(&gate::Request {
                candidate: results_file(results),
                baseline: results_file(baseline),
                selected,
                rules: rule,
                details: *details,
                strict: *strict,
                allow_mismatch: *allow_mismatch,
                junit: junit.as_deref(),
                json: global.json,
            })
        }
        Command::Baseline { results, out, selected } => gate::baseline(&results_file(results), out, selected),
        Command::Export { run, model, out, dtype, adapters } => {
            // Before anything is read; what makes the directory asks again.
            fs::is_free(out)?;
            let wish = export::Request { run, model: model.as_deref(), out, dtype: *dtype, adapters: *adapters };
            export::run(&wish, global)
        }
        Command::Inspect { path, model, against } => {
            inspect::run(path, model.as_deref(), against.as_deref(), global.json, &open()?)
        }
        Command::Completions { shell } => {
            shell::completions(*shell);
            Ok(())
        }
        Command::Man { out } => shell::man(out.as_deref()),
        Command::Recipe { command } => match command {
            RecipeCommand::List => recipe::list(global.json),
            RecipeCommand::Copy { name, to } => recipe::copy(name, to.as_deref()),
            RecipeCommand::Check { recipe, set } => recipe::check(recipe, set, &open()?, global.json),
            RecipeCommand::Explain { key } => recipe::explain(key.as_deref(), global.json),
            RecipeCommand::Schema => recipe::schema(),
            RecipeCommand::Diff { old, new } => recipe::diff(old, new),
        },
    }
}

/// `eval`: what is missing of an evaluation, and its table.
fn eval(run: &Path, only: Option<&str>, global: &Global, interrupt: Interrupt) -> Result<()> {
    let loaded = stored::usable(run)?;
    if let Some(name) = only {
        loaded.recipe.model(name)?;
    }
    let device = (device::open(&global.device)?, global.device.as_str());
    let dir = Some(run.to_path_buf());
    let results = match loaded.recipe.seeds.is_empty() {
        true => Study::open(loaded, dir, device, interrupt)?.evaluate(only)?,
        false => Seeds::open(loaded, dir, device, interrupt)?.evaluate(only)?,
    };
    if global.json {
        term::out_json(results.to_json()?.trim_end());
        return Ok(());
    }
    term::out_text(report::summary::summary(&results));
    term::out(format!("results {}", run.join("results.json").display()));
    Ok(())
}

/// `report`: tables and plots of results.
fn report(results: &Path, out: Option<&Path>, notes: Option<&Path>, as_json: bool) -> Result<()> {
    let path = results_file(results);
    let loaded = Results::load(&path)?;
    if results.is_dir() {
        crate::study::of_this_run(&loaded, results)?;
    }
    let notes = notes.map(report::notes::load_new).transpose()?;
    let files = match out {
        Some(dir) => report::write_with(&loaded, dir, notes.as_deref())?,
        None => {
            let dir = path.parent().unwrap_or(Path::new(".")).join("report");
            fs::not_a_link(&dir)?;
            report::write_with(&loaded, &dir, notes.as_deref()).map_err(|e| match (e.kind, &e.hint) {
                (Kind::Io, None) => e.hint("`--out DIR` writes the report to another place"),
                _ => e,
            })?
        }
    };
    if as_json {
        term::out_json(serde_json::json!({ "files": files }));
        return Ok(());
    }
    files.iter().for_each(|file| term::out(file.display()));
    Ok(())
}

/// Does what a study of one training seed or of several still lacks.
fn run(
    loaded: Loaded,
    out: Option<PathBuf>,
    only: Option<&str>,
    retrain: &[String],
    global: &Global,
    interrupt: Interrupt,
) -> Result<()> {
    let device = (device::open(&global.device)?, global.device.as_str());
    if loaded.recipe.seeds.is_empty() {
        let study = Study::open(loaded, out, device, interrupt)?.retraining(retrain, only)?;
        return match only {
            Some(name) => study.train(Some(name)),
            None => study.run(global.json),
        };
    }
    let study = Seeds::open(loaded, out, device, interrupt)?.retraining(retrain);
    match only {
        Some(name) => study.train(Some(name)),
        None => study.run(global.json),
    }
}

/// results.json itself, or the one of a run directory.
fn results_file(path: &Path) -> PathBuf {
    if path.is_dir() { Results::file_in(path) } else { path.to_path_buf() }
}
