//! A model whose weights lie elsewhere: a public checkpoint that is taken as it is, or adapters on frozen weights.
//!
//! Its directory holds origin.json in place of model.safetensors, and PEFT's two files where it has adapters. The weights
//! are named by path and hash, so that a base which changed meanwhile ends in an error.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use burn::prelude::Device;
use serde::{Deserialize, Serialize};

use super::ModelCard;
use super::whole::{self, FINAL};
use crate::error::{Error, Result};
use crate::fs;
use crate::model::config::Compute;
use crate::model::family::{self, LoadOptions, adapters};
use crate::model::transformer::lora::{Site, check_layers};
use crate::model::{Denoise, Transformer, TransformerConfig};
use crate::term;
use crate::weights::{self, Store};

/// Its file.
pub const FILE: &str = "origin.json";
/// Files beside the weights of a public checkpoint that decide how these are read.
const BESIDE: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];
/// Models on models on models: more of them are a circle.
const DEPTH: usize = 8;

/// Where the weights are, and what is made of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The directory that holds them; a relative path begins at the model's own directory.
    pub base: PathBuf,
    /// Hash of the weights there.
    pub sha256: String,
    /// Hashes of the files beside them that decide how they are read; files of fewstep 0.1.0 have none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// The type that matrices are kept in.
    #[serde(default)]
    pub dtype: Compute,
    /// The blocks that are kept; none: all of them.
    #[serde(default)]
    pub keep_layers: Option<Vec<usize>>,
    /// Whether adapters lie beside this file.
    #[serde(default)]
    pub adapters: bool,
    /// The public checkpoint by whose names the adapters are called; none: our own names.
    #[serde(default)]
    pub names: Option<PathBuf>,
}

/// The origin of the model in `dir`, if its weights lie elsewhere.
///
/// # Errors
/// An origin that is malformed (input); I/O.
pub fn of(dir: &Path) -> Result<Option<Origin>> {
    let path = dir.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = fs::read_limited(&path, 1 << 20)?;
    let wrong = |e: serde_json::Error| Error::input(format!("{}: not an origin", path.display())).cause(e.to_string());
    serde_json::from_slice(&bytes).map(Some).map_err(wrong)
}

/// Writes it into the existing directory `dir`.
///
/// # Errors
/// An origin that cannot be written as JSON (input); a refused write (I/O).
pub fn write(dir: &Path, origin: &Origin) -> Result<()> {
    let text = serde_json::to_string_pretty(origin)
        .map_err(|e| Error::input("cannot describe the origin").cause(e.to_string()))?;
    fs::write_atomic(&dir.join(FILE), (text + "\n").as_bytes())
}

/// Hash of a public checkpoint's weights: of its file, or of its files' hashes.
///
/// # Errors
/// As [`Store::open`]; a file that cannot be read (I/O).
pub fn sha256(dir: &Path) -> Result<String> {
    Store::open(dir)?.sha256()
}

/// Hashes of the files of a public checkpoint that decide how its weights are read, by name.
///
/// # Errors
/// A file that cannot be read (input or I/O).
pub fn beside(dir: &Path) -> Result<BTreeMap<String, String>> {
    let there = BESIDE.iter().map(|name| (name, dir.join(name))).filter(|(_, path)| path.exists());
    there.map(|(name, path)| Ok((name.to_string(), fs::sha256_file(&path)?))).collect()
}

/// Hash of a model of this program: of its own weights, of its adapters, or of what it is a reference to.
///
/// # Errors
/// A malformed origin, or weights that are missing (input); a file that cannot be read (I/O).
pub fn model_sha256(dir: &Path) -> Result<String> {
    match of(dir)? {
        Some(origin) if !origin.adapters => Ok(origin.sha256),
        Some(_) => fs::sha256_file(&dir.join(adapters::WEIGHTS)),
        None => weights::sha256(dir),
    }
}

/// The modules of a network that adapters may be on, by the names of the checkpoint in `names`, or by our own.
///
/// # Errors
/// As [`family::look`], where there is a checkpoint.
pub fn sites(names: Option<&Path>, network: &TransformerConfig) -> Result<Vec<Site>> {
    let Some(names) = names else { return Ok(adapters::own_sites(network)) };
    let (mut description, _) = family::look(names)?;
    description.network.layers = network.layers;
    Ok(adapters::sites(&description))
}

impl Origin {
    /// Refuses an origin that leads out of the run that the model in `dir` belongs to: a directory of a stranger would else
    /// have files of anywhere opened. A run may name any checkpoint, as its recipe does.
    ///
    /// # Errors
    /// A reference to weights outside of its run (input); a directory that is not there (I/O).
    pub fn in_its_run(&self, dir: &Path) -> Result<()> {
        let place = dir.join(FILE).display().to_string();
        let dir = dir.canonicalize().map_err(|e| Error::io("find", dir, &e))?;
        let parts: Vec<_> = self.base.components().collect();
        let sibling = match &parts[..] {
            [Component::ParentDir, Component::ParentDir, Component::Normal(_), Component::Normal(last)] => {
                *last == FINAL
            }
            _ => false,
        };
        let models = dir.parent().and_then(Path::parent).filter(|_| dir.ends_with(FINAL));
        let run = models.filter(|m| m.ends_with("models")).and_then(Path::parent);
        let in_run = run.is_some_and(|run| run.join("recipe.toml").is_file());
        if (sibling && self.names.is_none() && models.is_some()) || in_run {
            return Ok(());
        }
        Err(Error::input(format!("{place}: its weights are outside of it, in {}", self.base.display()))
            .cause("only the model of a run may be a reference to other weights")
            .hint("give the run directory, or what `fewstep export` writes"))
    }

    /// Refuses a base whose files beside its weights are not those that this model was made with.
    fn files_are_the_same(&self, base: &Path, place: &str) -> Result<()> {
        if self.files.is_empty() {
            term::warn(&format!(
                "{place} is of an earlier fewstep, which stored no hash of {}: it is not checked",
                base.join("config.json").display()
            ));
            return Ok(());
        }
        let now = beside(base)?;
        let names = self.files.keys().chain(now.keys().filter(|name| !self.files.contains_key(*name)));
        let shown = |hash: Option<&String>| hash.map_or("absent".to_string(), |h| format!("sha256 {h}"));
        let line = |name: &String| {
            let (then, now) = (self.files.get(name), now.get(name));
            (then != now).then(|| format!("{name}: {} when this model was made, {} now", shown(then), shown(now)))
        };
        let changed: Vec<String> = names.filter_map(line).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let error = Error::input(format!("{place}: the files in {} are no longer the same", base.display()));
        Err(changed.into_iter().fold(error, Error::cause))
    }

    /// The network of the model in `dir` with its adapters merged, and the hash of what makes it.
    ///
    /// # Errors
    /// A base that is gone or has other weights, blocks or adapters that do not fit it.
    pub(super) fn network(
        &self,
        dir: &Path,
        card: &ModelCard,
        device: &Device,
        depth: usize,
    ) -> Result<(Transformer, String)> {
        let place = dir.join(FILE).display().to_string();
        if depth > DEPTH {
            return Err(Error::input(format!("{place}: more than {DEPTH} models lie on one another")));
        }
        self.in_its_run(dir)?;
        let base = dir.join(&self.base);
        let (_, config) = family::read_config(&base)?;
        let again = |e: Error| match whole::again(dir) {
            Some(command) => e.hint(whole::hint(&command)),
            None => e.hint("put back what was there, or train again in another directory"),
        };
        let (model, hash) = if config["model_type"] == "fewstep" {
            whole::verify(&base.canonicalize().map_err(|e| Error::io("find", &base, &e))?)?;
            let base = super::read_nested(&base, device, depth + 1)?;
            (base.model, base.weights_sha256)
        } else {
            self.files_are_the_same(&base, &place).map_err(again)?;
            let options = LoadOptions {
                length: Some(card.max_position_embeddings),
                dtype: self.dtype,
                compute: card.network.compute,
                checkpoint: card.network.checkpoint,
                ..LoadOptions::default()
            };
            (family::load(&base, &options, device)?.model, sha256(&base)?)
        };
        if hash != self.sha256 {
            return Err(again(
                Error::input(format!("{place}: the weights in {} are no longer the same", base.display()))
                    .cause(format!("sha256 {} when this model was made, {hash} now", self.sha256)),
            ));
        }
        let model = match &self.keep_layers {
            Some(keep) => {
                check_layers(keep, model.config(), "keep_layers")
                    .map_err(|e| Error::input(format!("{place}: {}", e.message)))?;
                model.with_layers(keep)
            }
            None => model,
        };
        let (is, said) = (model.config(), &card.network);
        let fits = model.vocab() == card.vocab_size
            && model.length() >= card.max_position_embeddings
            && (is.dim, is.layers, is.mask_row) == (said.dim, said.layers, said.mask_row);
        if !fits {
            return Err(Error::input(format!(
                "{place}: config.json describes another network than {}",
                base.display()
            ))
            .hint("train again in another directory"));
        }
        if !self.adapters {
            return Ok((model, hash));
        }
        let sites = sites(self.names.as_deref(), model.config())?;
        let (plan, tensors) = adapters::read(dir, &sites)?;
        let file = dir.join(adapters::WEIGHTS);
        let adapted = model.with_adapters(&plan, &tensors, &file.display().to_string(), device)?;
        drop(model);
        Ok((adapted.merged(), fs::sha256_file(&file)?))
    }
}
