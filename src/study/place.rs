//! The directories inside a run directory: cleared of what killed processes left, and none of them a link.

use std::path::Path;

use crate::error::Result;
use crate::fs;

/// Removes what killed processes left in the run directory `dir`, wherever a run writes, with its lock held.
///
/// # Errors
/// A directory of the run that is a link (usage): what is replaced and removed would lie elsewhere.
pub fn clear(dir: &Path) -> Result<()> {
    fs::remove_stale_tmp(dir)?;
    for part in ["data", "export", "report"] {
        fs::not_a_link(&dir.join(part))?;
        fs::remove_stale_tmp(&dir.join(part))?;
    }
    each(&dir.join("models"), |model| fs::remove_stale_tmp(model).map(drop))?;
    each(&dir.join("seeds"), clear)
}

/// Does `work` in each directory of `dir`.
fn each(dir: &Path, work: impl Fn(&Path) -> Result<()>) -> Result<()> {
    fs::not_a_link(dir)?;
    fs::remove_stale_tmp(dir)?;
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            fs::not_a_link(&path)?;
            work(&path)?;
        }
    }
    Ok(())
}
