//! Directories that appear, are replaced and disappear by a rename, and never through a link.

use super::leftovers::{self, delete};
use super::{TRIES, fault, parent_of, suffixed, sync_dir, sync_tree, temporary, verify_manifest};
use crate::error::{Error, Result, typed};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Creates the directory `path` and those above it; one that exists is no error.
///
/// # Errors
/// A directory that cannot be made (I/O).
pub fn create_dir(path: &Path) -> Result<()> {
    let create = || {
        fault::point("dir.create")?;
        let mut tries = 0;
        loop {
            tries += 1;
            match fs::create_dir_all(path) {
                // Another process may take back an empty directory that it had made above.
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) && tries < TRIES => {}
                created => return created,
            }
        }
    };
    create().map_err(|e| Error::io("create", path, &e))
}

/// Removes the directory `path` and all in it; one that is absent is no error. A link of that name is removed, and what it
/// leads to is left alone.
///
/// It gets a temporary name first, so that no half of it is ever found under its own.
///
/// # Errors
/// A refused rename or removal (I/O).
pub fn remove_dir(path: &Path) -> Result<()> {
    let io = |e: std::io::Error| Error::io("remove", path, &e);
    if !is_there(path) {
        return Ok(());
    }
    let temp = temporary(path)?;
    delete(&temp).map_err(io)?;
    fault::point("dir.aside").and_then(|()| fs::rename(path, &temp)).map_err(io)?;
    sync_dir(parent_of(path)).map_err(io)?;
    fault::point("dir.remove").and_then(|()| delete(&temp)).map_err(io)
}

/// Refuses a link at `path`, through which files of elsewhere would be replaced.
///
/// # Errors
/// A link (usage).
pub fn not_a_link(path: &Path) -> Result<()> {
    if !fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink()) {
        return Ok(());
    }
    let target = fs::read_link(path).map(|to| format!("it leads to {}", to.display()));
    Err(Error::usage(format!("{} is a link, and files of elsewhere would be written through it", path.display()))
        .cause(target.unwrap_or_default())
        .hint(format!("remove the link: `rm {}`", typed(&path.display().to_string()))))
}

/// Whether there is anything at `path`, be it a link that leads nowhere.
pub fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Builds the directory `parent/name` by `build`, which gets a temporary directory to fill, and returns its final path.
///
/// The directory appears under its name only when `build` returned `Ok` and every file of it is on disk. A directory of
/// that name is replaced only if it has no valid manifest.
///
/// # Errors
/// A complete directory of that name (usage), in which case `build` does not run; those of `build`; I/O.
///
/// # Panics
/// Where `name` is empty or holds a separator.
pub fn commit_dir(parent: &Path, name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    assert!(!name.is_empty() && !name.contains(['/', '\\']), "`{name}` is not a directory name");
    let target = parent.join(name);
    if target.exists() && verify_manifest(&target).is_ok() {
        return Err(Error::usage(format!("{} exists and is complete", target.display()))
            .hint("choose another directory, or remove this one"));
    }
    let (temp, ()) = built(&target, build)?;
    replace(&temp, &target)?;
    Ok(target)
}

/// Refuses a directory that is to be made and is there already, or anything else of that name.
///
/// # Errors
/// Something of that name (usage).
pub fn is_free(target: &Path) -> Result<()> {
    match is_there(target) {
        true => Err(Error::usage(format!("{} is there already", target.display()))
            .hint("give a directory that does not exist yet")),
        false => Ok(()),
    }
}

/// Builds the directory `target`, which must not be there yet, by `build`, which gets a temporary directory to fill.
///
/// It appears when `build` returned `Ok` and every file of it is on disk; after an error nothing is left, the directories
/// above it included. What killed processes left of it is removed first.
///
/// # Errors
/// As [`is_free`]; those of `build`; I/O.
pub fn new_dir<T>(target: &Path, build: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    is_free(target)?;
    leftovers::remove_leftovers_of(&[target])?;
    let parent = parent_of(target);
    let above: Vec<&Path> = parent.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).collect();
    let make = || -> Result<T> {
        create_dir(parent)?;
        let (temp, value) = built(target, build)?;
        let renamed = fault::point("dir.rename").and_then(|()| fs::rename(&temp, target));
        let synced = renamed.and_then(|()| {
            sync_dir(parent).inspect_err(|_| {
                // Back to the name of what is not finished.
                let _ = fs::rename(target, &temp);
            })
        });
        synced.map(|()| value).map_err(|e| {
            let _ = delete(&temp);
            Error::io("create", target, &e)
        })
    };
    make().inspect_err(|_| {
        for dir in above {
            // Only while empty.
            let _ = fs::remove_dir(dir);
        }
    })
}

/// A temporary directory beside `target`, filled by `build` and synced; after an error it is gone.
///
/// # Errors
/// Those of `build`; I/O, with the name of `target`.
pub(super) fn built<T>(target: &Path, build: impl FnOnce(&Path) -> Result<T>) -> Result<(PathBuf, T)> {
    let temp = temporary(target)?;
    let fill = || -> Result<T> {
        delete(&temp).map_err(|e| Error::io("remove", &temp, &e))?;
        create_dir(&temp)?;
        let value = build(&temp)?;
        sync_tree(&temp).map_err(|e| Error::io("write", &temp, &e))?;
        Ok(value)
    };
    match fill() {
        Ok(value) => Ok((temp, value)),
        Err(e) => {
            let _ = delete(&temp);
            let named = |text: String| text.replace(&temp.display().to_string(), &target.display().to_string());
            let causes = e.causes.into_iter().map(named).collect();
            Err(Error { kind: e.kind, message: named(e.message), causes, hint: e.hint.map(named) })
        }
    }
}

/// Puts the finished directory `temp` in the place of `target`, whatever is there; after an error that is still there.
pub(super) fn replace(temp: &Path, target: &Path) -> Result<()> {
    let old = suffixed(target, leftovers::OLD)?;
    let io = |e: std::io::Error| Error::io("create", target, &e);
    let before = is_there(target);
    let swap = || {
        if before {
            delete(&old)?;
            fault::point("dir.aside")?;
            fs::rename(target, &old)?;
        }
        fault::point("dir.rename").and_then(|()| fs::rename(temp, target)).inspect_err(|_| {
            if before {
                let _ = fs::rename(&old, target);
            }
        })
    };
    swap().map_err(|e| {
        let _ = delete(temp);
        io(e)
    })?;
    sync_dir(parent_of(target)).map_err(io)?;
    if before {
        fault::point("dir.remove").and_then(|()| delete(&old)).map_err(|e| Error::io("remove", &old, &e))?;
    }
    Ok(())
}
