//! `export`: a model of a run, or a model directory, in another directory and perhaps another type.

use std::path::Path;

use serde_json::json;

use crate::error::Result;
use crate::eval::change::Change;
use crate::term;
use crate::weights::Storage;

/// Says where the export is and what its type costs.
pub fn say(model: &str, out: &Path, storage: Storage, change: Option<&Change>, as_json: bool) -> Result<()> {
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
