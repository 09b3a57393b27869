//! What is replaced is kept under another name.

use super::{create_dir, fault, parent_of, sync_dir};
use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Moves `from`, by one rename, to the first free of `into/NAME-1`, `into/NAME-2`, ... and returns where it lies then;
/// nothing where it is absent.
///
/// # Errors
/// A directory that cannot be made, or a refused rename (I/O).
pub fn set_aside(from: &Path, into: &Path, name: &str) -> Result<Option<PathBuf>> {
    let there = |path: &Path| fs::symlink_metadata(path).is_ok();
    if !there(from) {
        return Ok(None);
    }
    create_dir(into)?;
    let free = (1u32..).map(|n| into.join(format!("{name}-{n}"))).find(|path| !there(path));
    let Some(to) = free else { return Ok(None) };
    fault::point("aside.rename")
        .and_then(|()| fs::rename(from, &to))
        .and_then(|()| sync_dir(into))
        .and_then(|()| sync_dir(parent_of(from)))
        .map_err(|e| Error::io("rename", from, &e))?;
    Ok(Some(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside_never_replaces_what_was_set_aside_before() {
        let dir = tempfile::tempdir().unwrap();
        let (from, into) = (dir.path().join("x"), dir.path().join("old"));
        for n in 1..4 {
            fs::write(&from, format!("{n}")).unwrap();
            assert_eq!(set_aside(&from, &into, "x").unwrap(), Some(into.join(format!("x-{n}"))));
        }
        assert_eq!(set_aside(&from, &into, "x").unwrap(), None);
        assert_eq!(fs::read_to_string(into.join("x-2")).unwrap(), "2");
    }
}
