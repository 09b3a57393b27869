//! `gate`: results against a baseline, told on the terminal, as JUnit XML and on a CI summary page.

use std::path::{Path, PathBuf};

use crate::cli::Selected;
use crate::error::{Error, Kind, Result};
use crate::eval::results::{Metric, Results};
use crate::gate::{self, GateConfig, GateRule, Outcome, Selection, Verdict};
use crate::{fs, recipe as recipes, term};

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    pub candidate: PathBuf,
    pub baseline: PathBuf,
    pub selected: &'a Selected,
    /// Rules behind those of the recipe.
    pub rules: &'a [GateRule],
    /// Every comparison is printed.
    pub details: bool,
    /// Doubts count too.
    pub strict: bool,
    /// Compare although the data or the judge differ.
    pub allow_mismatch: bool,
    /// Where the verdicts are also written as JUnit XML.
    pub junit: Option<&'a Path>,
    pub json: bool,
}

/// What was typed as what a gate reads.
fn selection(typed: &Selected) -> Selection {
    Selection {
        models: typed.model.clone(),
        all: typed.all_models,
        steps: typed.steps.clone(),
        metrics: typed.metric.clone(),
    }
}

/// The limits of a recipe; results of a program without a recipe have the usual ones.
fn limits(recipe: &str, place: &str) -> Result<GateConfig> {
    match recipe.is_empty() {
        true => Ok(GateConfig::default()),
        false => recipes::parse::parse::<recipes::Recipe>(recipe, place, &[]).map(|read| read.value.gate),
    }
}

/// Writes what a gate reads of results.
///
/// # Errors
/// Results that cannot be read, a model, steps or a metric that they lack (usage), a refused write (I/O).
pub fn baseline(results: &Path, out: &Path, selected: &Selected) -> Result<()> {
    let whole = Results::load(results)?;
    let config = limits(&whole.recipe, "the recipe in results.json")?;
    gate::baseline(&whole, &config, &selection(selected))?.save(out)?;
    term::note(&format!("baseline written to {}", out.display()));
    Ok(())
}

/// Judges, says so, and fails where quality fell.
///
/// # Errors
/// Results that cannot be read or compared; the verdict (exit 1), which holds whatever could not be written.
pub fn run(request: &Request) -> Result<()> {
    let junit = request.junit.map(fs::Named::open).transpose()?;
    let (candidate, baseline) = (Results::load(&request.candidate)?, Results::load(&request.baseline)?);
    // The limits are the candidate recipe's own.
    let mut config = limits(&candidate.recipe, "the recipe in results.json")?;
    if limits(&baseline.recipe, "the recipe in the baseline").is_ok_and(|other| other != config) {
        term::warn("the `gate` table differs from the baseline's: the limits are the candidate's");
    }
    let selection = selection(request.selected);
    // What is asked for by name is judged, whether or not the recipe has a rule for it.
    let ruled = |metric: &&Metric| config.rules.iter().chain(request.rules).all(|rule| rule.metric != **metric);
    let lacking: Vec<GateRule> = selection.metrics.iter().filter(ruled).map(|metric| GateRule::of(*metric)).collect();
    config.rules.extend(lacking.into_iter().chain(request.rules.iter().cloned()));
    let verdict = gate::judge(&baseline, &candidate, &config, &selection, request.allow_mismatch)?;
    verdict.warnings.iter().for_each(|w| term::warn(w));
    let kept = keep(&verdict, junit, request.strict);
    match request.json {
        true => term::out_json(gate::json(&verdict, request.strict)?),
        false => term::out_text(gate::text(&verdict, request.strict, request.details)),
    }
    match (verdict.passes(request.strict), kept) {
        (true, kept) => kept,
        (false, kept) => {
            let e = Error::new(
                Kind::Gate,
                match verdict.outcome(request.strict) {
                    Outcome::Fail => "the gate is closed: quality fell by more than its limits",
                    _ => "the gate is closed: the samples do not show whether quality is within its limits",
                },
            );
            Err(kept.err().map_or(e.clone(), |lost| e.cause(lost.message).cause(lost.causes.join("\n"))))
        }
    }
}

/// Writes the verdicts where they are asked for as files.
fn keep(verdict: &Verdict, junit: Option<fs::Named>, strict: bool) -> Result<()> {
    if let Some(file) = junit {
        file.write(gate::junit(verdict, strict).as_bytes())?;
    }
    match std::env::var_os("GITHUB_STEP_SUMMARY").filter(|p| !p.is_empty()) {
        Some(path) => fs::append(Path::new(&path), gate::job_summary(verdict, strict).as_bytes()),
        None => Ok(()),
    }
}
