//! `export`: a model of a run, or a model directory, in another directory and perhaps another type.

use std::path::Path;

use serde_json::json;

use crate::cli::Global;
use crate::error::{Error, Result};
use crate::eval::change::Change;
use crate::eval::results::Results;
use crate::study::exports::Wish;
use crate::study::{Study, choice, convert, device, stored};
use crate::term::{self, Interrupt};
use crate::weights::Storage;

/// What the command line asks for.
pub struct Request<'a> {
    pub run: &'a Path,
    pub model: Option<&'a str>,
    pub out: &'a Path,
    pub dtype: Option<Storage>,
    pub adapters: bool,
}

/// Exports a model of a run, or converts a model directory.
///
/// # Errors
/// Options that fit neither each other nor the model, or a directory that is there already (usage); a run or a model that is
/// damaged (input); I/O.
pub fn run(request: &Request, global: &Global) -> Result<()> {
    let Request { run, out, adapters, .. } = *request;
    if let Some(dir) = convert::model_directory(run)? {
        if let Some(name) = request.model {
            return Err(Error::usage(format!("`--model {name}`: {} is one model, not a run", run.display()))
                .hint("leave `--model` out"));
        }
        if adapters {
            return Err(Error::usage(format!("`--adapters`: {} is one model, not a run", run.display()))
                .hint("give the run directory, with `--model NAME`"));
        }
        let dtype = request.dtype.unwrap_or_default();
        let change = convert::convert(&dir, out, dtype, &device::open(&global.device)?)?;
        return say(&run.display().to_string(), out, dtype, change.as_ref(), global.json);
    }
    // Of several training seeds the first is exported.
    let run = &stored::first_seed(run)?.unwrap_or_else(|| run.to_path_buf());
    let device = (device::open(&global.device)?, &global.device[..]);
    let study = Study::open_to_read(stored::usable(run)?, run, device, Interrupt::default())?;
    let name = request.model.map_or_else(|| choice::main_model(&study.recipe).to_string(), str::to_string);
    if adapters && study.recipe.model(&name)?.lora.is_none() {
        return Err(Error::usage(format!("`{name}` has no adapters"))
            .hint("leave `--adapters` out to export the whole network"));
    }
    if let (true, Some(dtype)) = (adapters, request.dtype) {
        return Err(Error::usage(format!("`--dtype {}` beside `--adapters`, which are stored in f32", dtype.name()))
            .hint("leave one of the two out"));
    }
    let path = run.join("results.json");
    let results = if path.is_file() { Some(Results::load(&path)?) } else { None };
    let dtype = request.dtype.unwrap_or(study.recipe.export.dtype);
    let adapters = adapters || study.recipe.export.adapters;
    let wish = Wish { name: &name, results: results.as_ref(), storage: dtype, adapters };
    let change = study.export(&wish, out)?;
    say(&name, out, dtype, change.as_ref(), global.json)
}

/// Says where the export is and what its type costs.
fn say(model: &str, out: &Path, storage: Storage, change: Option<&Change>, as_json: bool) -> Result<()> {
    if as_json {
        let loss = change.map(Change::json);
        term::out_json(json!({ "model": model, "directory": out, "dtype": storage, "loss": loss }));
        return Ok(());
    }
    if let Some(change) = change {
        term::out(format!("{:<8} {}", storage.name(), change.line()));
    }
    term::out(out.display());
    Ok(())
}
