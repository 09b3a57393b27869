//! Models of the Hugging Face hub: the files of a repository that belong to a model as it is read here.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::hub::{Reference, RepoKind, reference};
use crate::weights::Store;

/// The directory that `path` means: itself, or under `hf://` the model's snapshot in the cache, downloaded where it is not
/// there yet. Errors: a malformed reference, or a model that is neither in the cache nor to be had.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    let text = path.to_string_lossy();
    match reference(&text)? {
        None => Ok(path.to_path_buf()),
        Some(model) if model.kind == RepoKind::Model && model.file.is_none() => {
            cached(&model).map_or_else(|| download(&model), Ok)
        }
        Some(_) => Err(Error::usage(format!("`{text}` is no model on the hub"))
            .hint("write `hf://owner/name` or `hf://owner/name@revision`")),
    }
}

/// The model's snapshot, if all of it is in the cache.
fn cached(model: &Reference) -> Option<PathBuf> {
    let dir = model.cached("config.json")?.parent()?.to_path_buf();
    Store::open(&dir).is_ok().then_some(dir)
}

/// Whether a file at the top of a repository belongs to a model. Its classes (.py) are only copied into exports, which
/// are loaded by them.
fn wanted(name: &str) -> bool {
    let ends = [".json", ".safetensors", ".py", ".jinja"].iter().any(|end| name.ends_with(end));
    ends || ["merges.txt", "vocab.txt", "tokenizer.model"].contains(&name)
}

fn download(model: &Reference) -> Result<PathBuf> {
    let dir = model.snapshot(wanted)?;
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
            assert_eq!(wanted(name), want, "{name}");
        }
    }

    #[test]
    fn a_data_set_is_no_model() {
        let error = resolve(Path::new("hf://datasets/a/b/c")).unwrap_err().to_string();
        assert!(error.contains("no model"), "{error}");
    }
}
