//! `gate`: results against a baseline, told on the terminal, as JUnit XML and on a CI summary page.

use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::eval::results::Results;
use crate::gate::{self, GateConfig, Verdict};
use crate::{fs, recipe as recipes, term};

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Request {
    pub candidate: PathBuf,
    pub baseline: PathBuf,
    /// Doubts about speed count too.
    pub strict: bool,
    /// Compare although the data or the judge differ.
    pub allow_mismatch: bool,
    /// Where the verdicts are also written as JUnit XML.
    pub junit: Option<PathBuf>,
    pub json: bool,
}

/// Judges, says so, and fails where quality is not shown to be within its limits.
///
/// # Errors
/// Results that cannot be read (input) or compared (usage); the verdict (gate), which holds whatever could not be written.
pub fn run(request: &Request) -> Result<()> {
    let junit = request.junit.as_deref().map(fs::Named::open).transpose()?;
    let (candidate, baseline) = (Results::load(&request.candidate)?, Results::load(&request.baseline)?);
    // The limits are the candidate recipe's own; results of a program without a recipe have the usual ones.
    let limits = |text: &str, place: &str| match text.is_empty() {
        true => Ok(GateConfig::default()),
        false => recipes::parse::parse::<recipes::Recipe>(text, place, &[]).map(|read| read.value.gate),
    };
    let config = limits(&candidate.recipe, "the recipe in results.json")?;
    if limits(&baseline.recipe, "the recipe in the baseline").is_ok_and(|other| other != config) {
        term::warn("the `gate` table differs from the baseline's: the limits are the candidate's");
    }
    let verdict = gate::judge(&baseline, &candidate, &config, request.allow_mismatch)?;
    verdict.warnings.iter().for_each(|w| term::warn(w));
    let kept = keep(&verdict, junit, request.strict);
    match request.json {
        true => term::out_json(gate::json(&verdict, request.strict)?),
        false => term::out_text(gate::text(&verdict, request.strict)),
    }
    match (verdict.passes(request.strict), kept) {
        (true, kept) => kept,
        (false, kept) => {
            let e = Error::new(Kind::Gate, "the gate is closed: quality is not shown to be within its limits");
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
