//! `hf://owner/name[@revision]`: models of the Hugging Face hub, through its ordinary cache.
//!
//! What is in the cache is taken as it is, without any network; what is not is downloaded into it. Nothing here runs unless
//! a recipe or an argument says `hf://`.

use std::path::{Path, PathBuf};

use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo, RepoType};

use crate::error::{Error, Kind, Result};
use crate::weights::Store;

const SCHEME: &str = "hf://";

/// A model on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// owner/name
    pub id: String,
    pub revision: String,
}

/// The model that `text` names on the hub, or none where it is a path. Errors (usage) where it is neither.
pub fn reference(text: &str) -> Result<Option<Reference>> {
    let Some(rest) = text.strip_prefix(SCHEME) else { return Ok(None) };
    let (id, revision) = rest.split_once('@').unwrap_or((rest, "main"));
    let plain = |part: &str| {
        let safe = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && part.len() <= 96 && part.chars().all(safe) && !part.starts_with('.')
    };
    let valid = id.split_once('/').is_some_and(|(owner, name)| plain(owner) && plain(name)) && plain(revision);
    if !valid {
        return Err(Error::usage(format!("`{text}` names no model on the hub"))
            .hint("write `hf://owner/name` or `hf://owner/name@revision`"));
    }
    Ok(Some(Reference { id: id.to_string(), revision: revision.to_string() }))
}

/// The directory that `path` means: itself, or under `hf://` the model's snapshot in the cache, downloaded where it is not
/// there yet. Errors: a malformed reference, or a model that is neither in the cache nor to be had.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    match reference(&path.to_string_lossy())? {
        None => Ok(path.to_path_buf()),
        Some(model) => cached(&model).map_or_else(|| download(&model), Ok),
    }
}

fn repo(model: &Reference) -> Repo {
    Repo::with_revision(model.id.clone(), RepoType::Model, model.revision.clone())
}

/// The model's snapshot, if all of it is in the cache.
fn cached(model: &Reference) -> Option<PathBuf> {
    let config = Cache::from_env().repo(repo(model)).get("config.json")?;
    let dir = config.parent()?.to_path_buf();
    Store::open(&dir).is_ok().then_some(dir)
}

/// Whether a file of the repository belongs to a model as it is read here.
fn wanted(name: &str) -> bool {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) && !name.starts_with('.');
    plain && (name.ends_with(".json") || name.ends_with(".safetensors") || name == "merges.txt" || name == "vocab.txt")
}

fn download(model: &Reference) -> Result<PathBuf> {
    let shown = format!("{SCHEME}{}@{}", model.id, model.revision);
    let failed = |why: String| {
        Error::new(Kind::Io, format!("cannot download {shown}"))
            .cause(why)
            .cause("it is not in the Hugging Face cache either")
            .hint("try again where the hub can be reached, or put the model's files into a directory and name that")
    };
    let api = ApiBuilder::from_env().with_progress(false).build().map_err(|e| failed(e.to_string()))?;
    let remote = api.repo(repo(model));
    let files = remote.info().map_err(|e| failed(e.to_string()))?.siblings;
    let mut dir = None;
    for file in files.iter().map(|f| f.rfilename.as_str()).filter(|name| wanted(name)) {
        let at = remote.get(file).map_err(|e| failed(format!("{file}: {e}")))?;
        if file == "config.json" {
            dir = at.parent().map(Path::to_path_buf);
        }
    }
    dir.ok_or_else(|| failed("it has no config.json".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_an_owner_a_name_and_perhaps_a_revision_and_a_path_is_none() {
        let good = |text: &str| reference(text).unwrap();
        let model = |id: &str, revision: &str| Some(Reference { id: id.into(), revision: revision.into() });
        assert_eq!(good("hf://kuleshov-group/mdlm-owt"), model("kuleshov-group/mdlm-owt", "main"));
        assert_eq!(good("hf://a/b.c@v1.0"), model("a/b.c", "v1.0"));
        assert_eq!(good("models/mdlm"), None);
        for bad in [
            "hf://",
            "hf://a",
            "hf://a/",
            "hf:///b",
            "hf://a/b/c",
            "hf://../b",
            "hf://a/b@",
            "hf://a/b@../x",
            "hf://a b/c",
        ] {
            assert!(reference(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_plain_files_of_a_model_are_downloaded() {
        for (name, want) in [
            ("config.json", true),
            ("model-00001-of-00002.safetensors", true),
            ("merges.txt", true),
            ("../config.json", false),
            ("sub/config.json", false),
            ("pytorch_model.bin", false),
            ("modeling_mdlm.py", false),
        ] {
            assert_eq!(wanted(name), want, "{name}");
        }
    }
}
