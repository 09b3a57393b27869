//! `fewstep phases`: searches an order with fixed phases for a model of a run, and prints how the known ones compare.

use crate::error::{Error, Result, whole_within};
use crate::eval::phases::{Found, Search, known, search};
use crate::model::Denoise;
use crate::process::order::phases::MOST_LISTED;
use crate::sample::Decode;
use crate::study::Study;
use crate::{report, term};

/// What is asked for.
pub struct Request<'a> {
    pub model: &'a str,
    pub steps: usize,
    pub period: usize,
    pub texts: usize,
    pub tries: usize,
    pub seed: u64,
    pub json: bool,
}

/// Texts whose seed no training uses.
const SEARCHED: u64 = 1 << 60;

/// Searches and prints.
///
/// # Errors
/// A model that is not trained, or that cannot be sampled in any phases; numbers out of range.
pub fn run(study: &Study, request: &Request) -> Result<()> {
    let (steps, period) = (request.steps, request.period);
    whole_within("--texts", request.texts, 2..=1 << 20)?;
    whole_within("--tries", request.tries, 0..=1 << 30)?;
    let longest = MOST_LISTED.min(study.data().length());
    if !(2..=period).contains(&steps) || period > longest {
        return Err(Error::usage(format!(
            "`--steps {steps}` and `--period {period}`: 2 <= steps <= period <= {longest}"
        ))
        .hint(format!("for instance `--steps {} --period {longest}`", steps.clamp(2, longest))));
    }
    let done = study.finished(request.model)?;
    let process = done.process();
    let tokens = done.codec.is_none() && done.model.vectors().is_none() && done.model.bottleneck().is_none();
    let whole = !process.cached && !done.model.over_blocks() && matches!(process.decode, Decode::Table);
    if !tokens || !whole || !process.corruption.absorbs() || process.chain.is_some() {
        return Err(Error::usage(format!("`{}` is not a masked model that sees everything", request.model))
            .cause("only such a model can be asked in any phases without training")
            .hint("name a model with `visibility = \"full\"`, such as the one that students in phases start as"));
    }
    let texts: Vec<Vec<u32>> = {
        let seed = study.recipe.seed(study.recipe.model(request.model)?);
        let flat = study.data().batch(seed, SEARCHED, request.texts);
        flat.chunks(process.length).map(<[u32]>::to_vec).collect()
    };
    let held_out = study.data().held_out(request.texts);
    let started = known(steps, period).len();
    term::note(&format!(
        "{}: {started} known orders, then {} changes on {} texts",
        request.model,
        request.tries,
        texts.len()
    ));
    let told = |i: usize, value: f64| {
        if i.is_multiple_of(25) {
            term::note(&format!("change {i:>5} of {}: {value:.4} nats", request.tries));
        }
        study.not_stopped(request.model)
    };
    let of = Search { steps, period, tries: request.tries, seed: request.seed };
    let found = search(&done.model, &process, of, &texts, &held_out, told)?;
    match request.json {
        true => term::out_json(serde_json::json!({ "model": request.model, "steps": steps, "orders": found })),
        false => found.iter().for_each(|f| term::out_text(line(f))),
    }
    Ok(())
}

/// One order in words.
fn line(found: &Found) -> String {
    let list = found.phases.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    format!(
        "{:<9} held out {} nats per token, {} against strided (n = {}); searched texts {:.4}\n          order = {{ phases = [{list}] }}",
        found.name,
        report::table::interval(found.held_out),
        report::table::interval(found.minus_strided),
        found.n,
        found.searched
    )
}
