//! A directory of ours in a place where its readers may put files of their own, such as RUN/export/NAME: it is made anew
//! only when its content has changed, and only what we wrote there is replaced.
//!
//! What we wrote is listed in the hidden file `.NAME.json` beside the directory, so that this holds nothing but what its
//! readers need.

use super::dirs::{built, is_there, replace};
use super::leftovers::delete;
use super::{fault, length_and_sha256, not_a_link, read_limited, set_aside, write_atomic};
use crate::error::{Error, Result, typed};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const FORMAT: u32 = 1;
const MAX_BYTES: u64 = 64 << 20;
/// Files that every export has.
const OURS: [&str; 3] = ["config.json", "recipe.toml", "README.md"];

/// What [`publish`] found or did.
#[derive(Debug, PartialEq, Eq)]
pub enum Published<T> {
    /// The directory was there with this content already.
    Before,
    /// It was built; with the builder's value.
    Now(T),
}

/// Files by path relative to their directory, with their content's SHA-256.
type Files = BTreeMap<String, String>;

/// What we wrote into a directory.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Written {
    format: u32,
    /// What decides the content, as the caller says.
    key: String,
    files: Files,
    /// The files before them, which lie there still if the process was killed before it replaced the directory.
    before: Files,
}

/// Makes the directory `parent/name` by `build`, which gets a temporary directory to fill; `key` stands for all that
/// decides its content. Where our last files of the same key lie there unchanged, nothing is done.
///
/// Other files in the directory stay.
///
/// # Errors
/// A link or a directory at that place that we did not write, and files of ours that were changed by somebody else and would be
/// lost (usage).
pub fn publish<T>(
    parent: &Path,
    name: &str,
    key: &str,
    build: impl FnOnce(&Path) -> Result<T>,
) -> Result<Published<T>> {
    let target = parent.join(name);
    let list = parent.join(format!(".{name}.json"));
    not_a_link(parent)?;
    not_a_link(&target)?;
    if is_there(&target) && !target.is_dir() {
        return Err(refused(&target, &["it is a file"], true));
    }
    let written = read(&list);
    let found = walk(&target)?;
    if written.key == key && !written.files.is_empty() && written.files.iter().all(|(n, sha)| found.get(n) == Some(sha))
    {
        return Ok(Published::Before);
    }
    let (temp, value) = built(&target, build)?;
    // An export of an earlier version, or one whose list was lost with the hidden files of a copy: it is kept elsewhere.
    let listed = !written.files.is_empty() || !written.before.is_empty();
    let found = match !listed && OURS.iter().all(|file| found.contains_key(*file)) {
        true => {
            set_aside(&target, &parent.with_file_name("replaced"), &format!("export-{name}"))?;
            Files::new()
        }
        false => found,
    };
    let done = put(&target, &temp, &list, key, written, found);
    if done.is_err() {
        let _ = delete(&temp);
    }
    done.map(|()| Published::Now(value))
}

/// Puts the finished directory `temp` in the place of `target`, together with the files of others that lie there.
fn put(target: &Path, temp: &Path, list: &Path, key: &str, written: Written, found: Files) -> Result<()> {
    let new = walk(temp)?;
    let ours = |name: &str, sha: &String| written.files.get(name) == Some(sha) || written.before.get(name) == Some(sha);
    let foreign: Files =
        found.iter().filter(|(name, sha)| !ours(name, sha)).map(|(n, s)| (n.clone(), s.clone())).collect();
    // A list may be lost; what is equal to what we would write is as good as ours.
    let same = |(name, sha): (&String, &String)| new.get(name) == Some(sha);
    let stranger = written.files.is_empty() && !foreign.iter().all(same);
    let lost: Vec<&str> = foreign
        .iter()
        .filter(|f| !same(*f) && (stranger || in_the_way(f.0, &new)))
        .map(|(name, _)| name.as_str())
        .collect();
    if !lost.is_empty() {
        return Err(refused(target, &lost, stranger));
    }
    for name in foreign.keys().filter(|name| !new.contains_key(*name)) {
        carry(&target.join(name), &temp.join(name))?;
    }
    let (before, key) = (found.into_iter().filter(|(name, _)| !foreign.contains_key(name)).collect(), key.to_string());
    let written = Written { format: FORMAT, key, files: new, before };
    let text = serde_json::to_string_pretty(&written).map_err(|e| Error::input(format!("{}: {e}", list.display())))?;
    write_atomic(list, (text + "\n").as_bytes())?;
    replace(temp, target)
}

/// Whether a file of that name cannot stay beside the new ones: it has the name of one, or of a directory above one.
fn in_the_way(name: &str, new: &Files) -> bool {
    let above = |a: &str, b: &str| b.strip_prefix(a).is_some_and(|rest| rest.starts_with('/'));
    new.keys().any(|n| n == name || above(name, n) || above(n, name))
}

fn refused(target: &Path, lost: &[&str], stranger: bool) -> Error {
    let (shown, more) = (target.display(), lost.len().saturating_sub(5));
    let mut names = lost[..lost.len() - more].join(", ");
    if more > 0 {
        names.push_str(&format!(" and {more} more"));
    }
    let error = match stranger {
        true => Error::usage(format!("{shown} is there already, and there is no list of what fewstep wrote there"))
            .cause(names),
        false => Error::usage(format!("{shown} holds files that were changed, and would be replaced")).cause(names),
    };
    let (from, to) = (typed(&shown.to_string()), typed(&format!("{shown}-mine")));
    error.hint(format!("move it to another place (`mv {from} {to}`), then run the same command"))
}

/// The same file under another name: a hard link, which costs nothing, or a copy where there are no such links.
fn carry(from: &Path, to: &Path) -> Result<()> {
    let io = |e: std::io::Error| Error::io("keep", from, &e);
    if let Some(parent) = to.parent() {
        super::create_dir(parent)?;
    }
    let linked = fault::point("file.link").and_then(|()| fs::hard_link(from, to));
    match (linked, fs::symlink_metadata(from).map_err(io)?.is_file()) {
        (Ok(()), _) => Ok(()),
        (Err(_), true) => super::copy_file(from, to),
        (Err(e), false) => Err(io(e)),
    }
}

/// The list of what we wrote; nothing where there is no list that can be read.
fn read(path: &Path) -> Written {
    let read = read_limited(path, MAX_BYTES).ok().and_then(|bytes| serde_json::from_slice::<Written>(&bytes).ok());
    read.filter(|w| w.format == FORMAT).unwrap_or_default()
}

/// All files below `dir` with their SHA-256; links are not followed, and what is not a file has none. Empty where there is
/// nothing.
fn walk(dir: &Path) -> Result<Files> {
    let mut files = Files::new();
    let mut open: Vec<(PathBuf, String)> = Vec::new();
    if dir.is_dir() {
        open.push((dir.to_path_buf(), String::new()));
    }
    while let Some((path, prefix)) = open.pop() {
        for entry in fs::read_dir(&path).map_err(|e| Error::io("read", &path, &e))? {
            let entry = entry.map_err(|e| Error::io("read", &path, &e))?;
            // A name that is not UTF-8 is not ours, and not found again when it is to be kept: an error, and no loss.
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().map_err(|e| Error::io("read", &entry.path(), &e))?;
            match (kind.is_dir(), kind.is_file()) {
                (true, _) => open.push((entry.path(), format!("{name}/"))),
                (_, true) => drop(files.insert(name, length_and_sha256(&entry.path())?.1)),
                _ => drop(files.insert(name, String::new())),
            }
        }
    }
    Ok(files)
}
