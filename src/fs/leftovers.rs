//! What killed processes leave behind: entries `NAME.tmp-PID`, half written or about to be removed, and `NAME.old.tmp-PID`,
//! a directory that was about to be replaced.

use super::fault;
use crate::error::{Error, Result};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Mark of a directory in whose place another one is put.
pub(super) const OLD: &str = ".old";

/// Removes what killed processes left in `dir`: entries named `*.tmp-PID` whose process is gone. Returns their paths.
/// A directory that was being replaced gets its name back where nothing has taken its place.
///
/// To be called at start, with the run lock held: an entry with *our* process id is then a leftover too, of an earlier
/// process that had the same id, as happens in containers.
pub fn remove_stale_tmp(dir: &Path) -> Result<Vec<PathBuf>> {
    remove(dir, |_| true)
}

/// As [`remove_stale_tmp`], of leftovers of these files or directories alone: for places that hold other people's files.
pub fn remove_leftovers_of(paths: &[&Path]) -> Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    let mut open = paths.to_vec();
    while let Some(first) = open.first() {
        let parent = super::parent_of(first).to_path_buf();
        let (here, elsewhere): (Vec<&Path>, Vec<&Path>) = open.iter().partition(|p| super::parent_of(p) == parent);
        removed.extend(remove(&parent, |name| here.iter().any(|p| p.file_name().is_some_and(|n| n == name)))?);
        open = elsewhere;
    }
    Ok(removed)
}

fn remove(dir: &Path, of: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    let entries = match fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(removed),
        entries => entries.map_err(|e| Error::io("read", dir, &e))?,
    };
    for entry in entries {
        let path = entry.map_err(|e| Error::io("read", dir, &e))?.path();
        let Some((name, pid)) = parts(&path) else { continue };
        let before = name.strip_suffix(OLD);
        if !of(before.unwrap_or(name)) || !(pid == std::process::id() || is_gone(pid, &path)) {
            continue;
        }
        let target = before.map(|name| path.with_file_name(name)).filter(|t| fs::symlink_metadata(t).is_err());
        let done = fault::point("stale.remove").and_then(|()| match target {
            Some(target) => fs::rename(&path, target),
            None => delete(&path),
        });
        done.map_err(|e| Error::io("remove", &path, &e))?;
        removed.push(path);
    }
    removed.sort();
    Ok(removed)
}

/// Deletes a file, a directory with all in it, or a link (and not what it leads to); one that is absent is no error.
pub(super) fn delete(path: &Path) -> io::Result<()> {
    let deleted = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match deleted {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        deleted => deleted,
    }
}

/// The name before `.tmp-PID`, and the process id.
fn parts(path: &Path) -> Option<(&str, u32)> {
    let (name, pid) = path.file_name()?.to_str()?.rsplit_once(".tmp-")?;
    Some((name, pid.parse().ok()?))
}

fn is_gone(pid: u32, path: &Path) -> bool {
    if cfg!(target_os = "linux") && Path::new("/proc/self").exists() {
        return !Path::new("/proc").join(pid.to_string()).exists();
    }
    // Without a process table to look in, only age tells: no single file takes a day to write.
    let age = fs::symlink_metadata(path).and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
    age.is_some_and(|age| age > Duration::from_secs(24 * 3600))
}
