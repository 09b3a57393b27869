//! Models of the Hugging Face hub: the files of a repository that belong to a model as it is read here.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::hub::{Reference, RepoKind, reference};
use crate::weights::Store;

/// The directory that `path` means: itself, or under `hf://` the model's snapshot in the cache, downloaded where it is not
/// there yet.
///
/// # Errors
/// A malformed reference, or a model that is neither in the cache nor to be had.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    let text = path.to_string_lossy();
    match reference(&text)? {
        None => Ok(path.to_path_buf()),
        Some(model) if model.kind == RepoKind::Model && model.file.is_none() => {
            cached(&model).map_or_else(|| download(&model), Ok)
        }
        Some(_) => Err(Error::usage(format!("`{text}` is not a model on the hub"))
            .hint("write `hf://owner/name` or `hf://owner/name@revision`")),
    }
}

/// The model's snapshot, if all of it is in the cache.
pub fn cached(model: &Reference) -> Option<PathBuf> {
    let dir = model.cached("config.json")?.parent()?.to_path_buf();
    Store::open(&dir).is_ok().then_some(dir)
}

/// The place of a file at the top of a repository among those that belong to a model; none: it does not. Weights come last:
/// where they are whole, the rest is there too. A model's classes (.py) are only copied into exports, which are loaded by
/// them.
fn place(name: &str) -> Option<usize> {
    let ends = [".json", ".py", ".jinja"].iter().any(|end| name.ends_with(end));
    match ends || ["merges.txt", "vocab.txt", "tokenizer.model"].contains(&name) {
        true => Some(0),
        false => name.ends_with(".safetensors").then_some(1),
    }
}

fn download(model: &Reference) -> Result<PathBuf> {
    let dir = model.snapshot(place)?;
    match dir.join("config.json").exists() {
        true => Ok(dir),
        false => Err(Error::input(format!("{model} has no config.json"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_model_are_downloaded_and_pickles_are_not() {
        for (name, want) in [
            ("config.json", true),
            ("model-00001-of-00002.safetensors", true),
            ("merges.txt", true),
            ("modeling_mdlm.py", true),
            ("pytorch_model.bin", false),
            ("README.md", false),
        ] {
            assert_eq!(place(name).is_some(), want, "{name}");
        }
        assert!(place("config.json") < place("model.safetensors"));
    }

    #[test]
    fn a_data_set_is_not_a_model() {
        let error = resolve(Path::new("hf://datasets/a/b/c")).unwrap_err().to_string();
        assert!(error.contains("not a model"), "{error}");
    }
}
