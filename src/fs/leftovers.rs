//! What killed processes leave behind: entries `NAME.tmp-PID`, half written or about to be removed, and `NAME.old.tmp-PID`,
//! a directory that was about to be replaced.

use super::fault;
use crate::error::{Error, Result};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Mark of a directory in whose place another one is put.
pub(super) const OLD: &str = ".old";

/// Removes what killed processes left in `dir`: entries named `*.tmp-PID` whose process is gone. Returns their paths.
/// A directory that was being replaced gets its name back where nothing has taken its place.
///
/// To be called at start, with the run lock held: an entry with *our* process id is then a leftover too, of an earlier
/// process that had the same id, as happens in containers.
///
/// # Errors
/// An entry that cannot be renamed or removed (I/O).
pub fn remove_stale_tmp(dir: &Path) -> Result<Vec<PathBuf>> {
    remove(dir, |_| true)
}

/// As [`remove_stale_tmp`], of leftovers of these files or directories alone: for places that hold other people's files.
///
/// # Errors
/// As [`remove_stale_tmp`].
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
        if !of(before.unwrap_or(name))
            || !(pid == std::process::id()
                || is_gone(pid, fs::symlink_metadata(&path).ok().and_then(|meta| touched(&meta))))
        {
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

/// Whether the process that left something is gone. Its number may be another process's by now: one that began after the
/// leftover was last touched did not leave it.
fn is_gone(pid: u32, touched: Option<SystemTime>) -> bool {
    if cfg!(target_os = "linux") && Path::new("/proc/self").exists() {
        let began = match Path::new("/proc").join(pid.to_string()).exists() {
            true => began(pid),
            false => return true,
        };
        return began.zip(touched).is_some_and(|(began, touched)| began > touched + CLOCKS);
    }
    // Without a process table to look in, only age tells: no single file takes a day to write.
    let age = touched.and_then(|t| t.elapsed().ok());
    age.is_some_and(|age| age > Duration::from_secs(24 * 3600))
}

/// How far the clock of the processes and that of the files may be apart.
const CLOCKS: Duration = Duration::from_secs(5);

/// When an entry was last written to, renamed or filled; unlike its time of modification, nobody sets that.
#[cfg(unix)]
fn touched(meta: &fs::Metadata) -> Option<SystemTime> {
    use std::os::unix::fs::MetadataExt;
    Some(UNIX_EPOCH + Duration::new(meta.ctime().try_into().ok()?, meta.ctime_nsec().try_into().ok()?))
}

#[cfg(not(unix))]
fn touched(meta: &fs::Metadata) -> Option<SystemTime> {
    meta.modified().ok()
}

/// When the process `pid` began, where Linux tells.
fn began(pid: u32) -> Option<SystemTime> {
    let read = |path: &str| super::open(Path::new(path)).ok().and_then(|(file, _)| io::read_to_string(file).ok());
    let boot = read("/proc/stat")?.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse().ok())?;
    // The second field is the program's name, which may have spaces and parentheses; the 22nd is the time since boot.
    let stat = read(&format!("/proc/{pid}/stat"))?;
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(boot) + Duration::from_millis(ticks * (1000 / TICKS)))
}

/// Ticks of a second in what Linux tells programs, whatever the kernel's own are.
const TICKS: u64 = 100;

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leftover_of_a_number_that_another_process_has_by_now_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("out.old.tmp-1");
        fs::create_dir(&left).unwrap();
        let now = touched(&fs::metadata(&left).unwrap()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let began = began(child.id()).unwrap();
        let apart = began.duration_since(now).unwrap_or_else(|e| e.duration());
        assert!(apart < CLOCKS, "{apart:?} between an entry and a process of the same moment");
        assert!(!is_gone(child.id(), Some(now)), "it may be the child's");
        assert!(is_gone(child.id(), Some(now - Duration::from_secs(60))), "it was there before the child");
        assert!(!is_gone(1, Some(now)), "the first process of a machine is older than any entry");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_gone(child.id(), Some(now)));
    }
}
