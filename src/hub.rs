//! `hf://`: files of the Hugging Face hub, through its ordinary cache.
//!
//! `hf://owner/name[@revision][/path]` is a model repository or a file in it, `hf://datasets/owner/name[@revision]/path` a
//! file of a data set; a revision is a branch, a tag, a commit, or `refs/convert/parquet`. What is in the cache is taken as
//! it is, without any network; what is not is downloaded into it. Nothing here runs unless a recipe or an argument says
//! `hf://`.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use crate::error::{Error, Kind, Result};

const SCHEME: &str = "hf://";

/// A repository on the hub, or a file in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub kind: RepoKind,
    /// owner/name
    pub id: String,
    pub revision: String,
    /// Path in the repository; none: the repository.
    pub file: Option<String>,
}

/// What kind of repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoKind {
    Model,
    Dataset,
}

/// What `text` names on the hub, or none where it is a path. Errors (usage) where it is neither.
pub fn reference(text: &str) -> Result<Option<Reference>> {
    let Some(rest) = text.strip_prefix(SCHEME) else { return Ok(None) };
    let wrong = || {
        Error::usage(format!("`{text}` names nothing on the hub")).hint(
            "write `hf://owner/name[@revision]`, with `/path` behind it for a file, or `hf://datasets/owner/name/path`",
        )
    };
    let (kind, rest) = match rest.strip_prefix("datasets/") {
        Some(rest) => (RepoKind::Dataset, rest),
        None => (RepoKind::Model, rest),
    };
    let (owner, rest) = rest.split_once('/').ok_or_else(wrong)?;
    let end = rest.find(['/', '@']).unwrap_or(rest.len());
    let (name, mut rest) = rest.split_at(end);
    let mut revision = "main".to_string();
    if let Some(after) = rest.strip_prefix('@') {
        let after = after.replace("%2F", "/");
        // The hub's own references have slashes in them.
        let words = if after.starts_with("refs/") { 3 } else { 1 };
        let end = after.match_indices('/').nth(words - 1).map_or(after.len(), |(at, _)| at);
        revision = after[..end].to_string();
        let tail = after.len() - end;
        rest = &rest[rest.len() - tail..];
    }
    let file = rest.strip_prefix('/').map(str::to_string);
    let parts = revision.split('/').chain(file.iter().flat_map(|f| f.split('/')));
    if ![owner, name].into_iter().chain(parts).all(plain) || revision.split('/').count() == 2 {
        return Err(wrong());
    }
    Ok(Some(Reference { kind, id: format!("{owner}/{name}"), revision, file }))
}

/// Whether a part of a reference can lead nowhere else.
fn plain(part: &str) -> bool {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_.=+ ".contains(c);
    !part.is_empty() && part.len() <= 200 && part.chars().all(safe) && !part.starts_with('.')
}

/// The file that `path` means: itself below `base`, or under `hf://` the file in the cache, downloaded where it is not
/// there yet. Errors: a malformed reference, one of a whole repository, or a file that is not to be had.
pub fn file(base: &Path, path: &Path) -> Result<PathBuf> {
    let text = path.to_string_lossy();
    let Some(reference) = reference(&text)? else { return Ok(base.join(path)) };
    let Some(name) = &reference.file else {
        return Err(Error::usage(format!("`{text}` names a repository, and a file is needed"))
            .hint(format!("write the file's path behind it, such as `{text}/data/train.parquet`")));
    };
    match reference.cached(name) {
        Some(path) => Ok(path),
        None => reference.download(|remote| remote.get(name).map_err(|e| e.to_string())),
    }
}

impl Reference {
    fn repo(&self) -> Repo {
        let kind = match self.kind {
            RepoKind::Model => RepoType::Model,
            RepoKind::Dataset => RepoType::Dataset,
        };
        Repo::with_revision(self.id.clone(), kind, self.revision.clone())
    }

    /// The file called `name`, if it is in the cache.
    pub fn cached(&self, name: &str) -> Option<PathBuf> {
        let (cache, repo) = (Cache::from_env(), self.repo());
        // A commit has no reference that leads to its snapshot: it is the snapshot's name.
        let snapshot = || cache.path().join(repo.folder_name()).join("snapshots").join(&self.revision).join(name);
        cache.repo(self.repo()).get(name).or_else(|| Some(snapshot()).filter(|path| path.exists()))
    }

    /// What `get` takes from the hub. Errors (kind I/O) say that it is not in the cache either.
    pub fn download<T>(&self, get: impl FnOnce(&ApiRepo) -> std::result::Result<T, String>) -> Result<T> {
        let failed = |why: String| {
            Error::new(Kind::Io, format!("cannot download {self}"))
                .cause(why)
                .cause("it is not in the Hugging Face cache either")
                .hint("try again where the hub can be reached, or give a path to a copy on this machine")
        };
        let api = ApiBuilder::from_env().with_progress(false).build().map_err(|e| failed(e.to_string()))?;
        get(&api.repo(self.repo())).map_err(failed)
    }

    /// Downloads the files of the repository that are `wanted` and plain names at its top; the directory they lie in.
    pub fn snapshot(&self, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
        self.download(|remote| {
            let files = remote.info().map_err(|e| e.to_string())?.siblings;
            let mut dir = None;
            for name in files.iter().map(|f| f.rfilename.as_str()).filter(|name| plain(name) && wanted(name)) {
                let at = remote.get(name).map_err(|e| format!("{name}: {e}"))?;
                dir = at.parent().map(Path::to_path_buf);
            }
            dir.ok_or_else(|| "it has none of the files that are needed".into())
        })
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.kind == RepoKind::Dataset { "datasets/" } else { "" };
        write!(f, "{SCHEME}{kind}{}@{}", self.id, self.revision)?;
        self.file.as_ref().map_or(Ok(()), |file| write!(f, "/{file}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_an_owner_a_name_and_perhaps_a_revision_and_a_file_and_a_path_is_none() {
        let good = |text: &str| reference(text).unwrap();
        let of = |kind, id: &str, revision: &str, file: Option<&str>| {
            let (id, revision, file) = (id.to_string(), revision.to_string(), file.map(str::to_string));
            Some(Reference { kind, id, revision, file })
        };
        let model = |id, revision, file| of(RepoKind::Model, id, revision, file);
        let data = |id, revision, file| of(RepoKind::Dataset, id, revision, Some(file));
        assert_eq!(good("hf://kuleshov-group/mdlm-owt"), model("kuleshov-group/mdlm-owt", "main", None));
        assert_eq!(good("hf://a/b.c@v1.0"), model("a/b.c", "v1.0", None));
        assert_eq!(good("hf://a/b/tokenizer.json"), model("a/b", "main", Some("tokenizer.json")));
        assert_eq!(good("hf://datasets/a/b/data/train.jsonl"), data("a/b", "main", "data/train.jsonl"));
        assert_eq!(good("hf://datasets/a/b@v2/x.parquet"), data("a/b", "v2", "x.parquet"));
        for revision in ["refs/convert/parquet", "refs%2Fconvert%2Fparquet"] {
            let text = format!("hf://datasets/a/b@{revision}/default/train/0000.parquet");
            assert_eq!(good(&text), data("a/b", "refs/convert/parquet", "default/train/0000.parquet"));
        }
        assert_eq!(good("models/mdlm"), None);
        for bad in [
            "hf://",
            "hf://a",
            "hf://a/",
            "hf:///b",
            "hf://../b",
            "hf://a/b@",
            "hf://a/b@../x",
            "hf://a/b@refs/x",
            "hf://a/b/../../x",
            "hf://a/b/",
            "hf://a/b//c",
            "hf://a/b\\c",
            "hf://datasets/a",
        ] {
            assert!(reference(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_repository_where_a_file_is_needed_is_said_to_be_one() {
        let error = file(Path::new("."), Path::new("hf://datasets/a/b")).unwrap_err().to_string();
        assert!(error.contains("names a repository") && error.contains("hint:"), "{error}");
        assert_eq!(file(Path::new("x"), Path::new("a.txt")).unwrap(), Path::new("x/a.txt"));
    }
}
