//! Exports of a study's models.

use std::fmt::Write;
use std::path::Path;

use super::Study;
use super::convert::{section, warn_of_missing_code};
use crate::checkpoint::{self, Extras, LoadedModel, ModelCard};
use crate::data::tokenizer;
use crate::error::{Error, Result};
use crate::eval;
use crate::eval::change::Change;
use crate::eval::results::Results;
use crate::fs::{self, Published};
use crate::model::Transformer;
use crate::model::family::{self, LoadOptions};
use crate::model::params::{self, Named};
use crate::recipe::ModelConfig;
use crate::weights::{SHARD, Storage};
use crate::{report, term};

use super::shape::Shape;

/// What is exported, and how.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    pub name: &'a str,
    /// For the table in the model card.
    pub results: Option<&'a Results>,
    pub storage: Storage,
    /// Of a model with adapters these alone, in PEFT's layout.
    pub adapters: bool,
}

impl Study {
    /// Exports a model into the new directory `to`; where its type loses digits, what that costs on the held-out text.
    ///
    /// # Errors
    /// As reading the model; a weight that does not fit the type; a directory that is there already.
    pub fn export(&self, wish: &Wish, to: &Path) -> Result<Option<Change>> {
        fs::new_dir(to, |out| self.export_into(wish, out, to))
    }

    /// Exports the models that the recipe names, each into `to/NAME`; what has not changed is left as it is.
    pub(super) fn export_all(&self, results: &Results, to: &Path) -> Result<()> {
        let (storage, adapters) = (self.recipe.export.dtype, self.recipe.export.adapters);
        for name in &self.recipe.export.models {
            let (wish, out) = (Wish { name, results: Some(results), storage, adapters }, to.join(name));
            let key = self.export_key(&wish)?;
            let change = match fs::publish(to, name, &key, |tmp| self.export_into(&wish, tmp, &out))? {
                Published::Before => {
                    term::note(&format!("export {}: as it was", out.display()));
                    continue;
                }
                Published::Now(change) => change,
            };
            term::note(&format!("export {}", out.display()));
            if let Some(change) = change {
                term::note(&format!("{:<6} {}", storage.name(), change.line()));
            }
        }
        Ok(())
    }

    /// All that decides what an export holds.
    fn export_key(&self, wish: &Wish) -> Result<String> {
        let mut key = format!("{} {}\n{}\n", env!("CARGO_PKG_VERSION"), env!("FEWSTEP_COMMIT"), self.text);
        let _ = writeln!(key, "{} {:?} {}", wish.name, wish.storage, wish.adapters);
        let dir = self.final_dir(wish.name);
        let _ = writeln!(key, "{:?}", fs::verify_manifest(&dir)?.files);
        key.push_str(&self.card_of_results(wish).unwrap_or_default());
        // What lies beside a checkpoint is exported with it: length and time tell whether it was changed.
        if let Some(from) = &self.shape(wish.name)?.from {
            let mut beside = Vec::new();
            for entry in std::fs::read_dir(from).map_err(|e| Error::io("read", from, &e))?.flatten() {
                let meta = std::fs::metadata(entry.path());
                let stamp = meta.map(|m| (m.len(), m.modified().ok())).ok();
                beside.push(format!("{:?} {stamp:?}", entry.file_name()));
            }
            beside.sort();
            key.push_str(&beside.join("\n"));
        }
        Ok(fs::sha256_hex(key.as_bytes()))
    }

    fn card_of_results(&self, wish: &Wish) -> Option<String> {
        let results = wish.results?;
        results.models.iter().find(|m| m.name == wish.name).map(|m| report::summary::model_card(results, m))
    }

    /// What the type of the weights in `out` costs the model.
    fn change(&self, model: &ModelConfig, done: &LoadedModel, shape: &Shape, out: &Path) -> Result<Change> {
        let mut written_codec = None;
        let after = match &shape.from {
            Some(_) => {
                let tensors = self.start(out, shape)?;
                params::import(done.model.clone(), &tensors, &self.device)
            }
            None => {
                let read = checkpoint::read(out, &self.device)?;
                written_codec = read.codec;
                read.model
            }
        };
        let ends = done.model.vectors().is_some() || done.model.bottleneck().is_some();
        Ok(match ends {
            // Their losses are in no unit of text.
            true => {
                let codecs = done.codec.as_ref().zip(written_codec.as_ref());
                let codecs = codecs.map(|(before, after)| (&before.model, &after.model));
                Change::on_random_tokens(&done.model, &after).with_codec(codecs)
            }
            false => {
                let held_out = self.data.held_out(self.recipe.eval.held_out);
                let causal = model.objective.facts().causal();
                let losses = |m: &Transformer| eval::losses(m, causal, &done.process(), &held_out).0;
                Change::held_out(&losses(&done.model), &losses(&after))
            }
        })
    }

    /// Writes a model's weights and tokenizer in the layout of the checkpoint `from`; `out` becomes `to`.
    fn lay_out(
        &self,
        (from, description): (&Path, &family::Description),
        done: &LoadedModel,
        shape: &Shape,
        storage: Storage,
        (out, to): (&Path, &Path),
    ) -> Result<()> {
        let own = params::export(&done.model);
        let parameters = match &shape.rows {
            Some((rows, _)) => rows.put(own, &self.whole(from, shape)?),
            None => own,
        };
        match &shape.keep {
            // What it is laid out as has the same blocks: the source without the others, in a directory that goes.
            Some(keep) => {
                let source = out.join(".source");
                fs::create_dir(&source)?;
                family::shallow(from, &source, description, keep)?;
                let described = family::shallow_description(description, keep)?;
                family::export(&source, out, &described, &parameters, storage)?;
                fs::remove_dir(&source)?;
            }
            None => family::export(from, out, description, &parameters, storage)?,
        }
        warn_of_missing_code(out, to)?;
        if let (None, Some(tokenizer)) = (family::tokenizer(out)?, &done.tokenizer) {
            // The source brings none: it is the study's that the model was trained with.
            match out.join(tokenizer::CONFIG).exists() {
                true => tokenizer.save(out)?,
                false => tokenizer.save_for_others(out)?,
            }
        }
        Ok(())
    }

    /// Writes an export into the temporary directory `out`, which becomes `to`.
    fn export_into(&self, wish: &Wish, out: &Path, to: &Path) -> Result<Option<Change>> {
        let (name, storage) = (wish.name, wish.storage);
        let model = self.recipe.model(name)?;
        if wish.adapters && model.lora.is_some() {
            if !self.recipe.adapts_its_base(name)? {
                return Err(Error::usage(format!("the adapters of `{name}` belong to no published checkpoint"))
                    .cause("its teacher was trained here, or blocks were left out")
                    .hint("leave `--adapters` out to export the merged network"));
            }
            return self.export_adapters(name, out).map(|()| None);
        }
        let done = self.finished(name)?;
        let shape = self.shape(name)?;
        let card = self.card(name, model, &shape, done.card.train_tokens, 0.0)?;
        let card = ModelCard { neighbours: done.card.neighbours.clone(), ..card };
        let own = self.card_of_results(wish);
        let described = shape.from.as_ref().map(|from| family::look(from)).transpose()?;
        let described = described.map(|(description, _)| description);
        let call = described
            .as_ref()
            .zip(card.generation.as_ref())
            .and_then(|(d, settings)| family::own_call(d.family, settings, card.max_position_embeddings));
        let extras = Extras {
            tokenizer: done.tokenizer.as_ref(),
            recipe: &self.text,
            results: own.as_deref(),
            call: call.as_deref(),
        };
        match shape.from.as_ref().zip(described) {
            // What came from a public checkpoint leaves as one.
            Some((from, description)) => {
                self.lay_out((from, &description), &done, &shape, storage, (out, to))?;
                if let Some(generation) = &card.generation {
                    family::write_generation(out, description.family, generation)?;
                }
                fs::write_atomic(&out.join("recipe.toml"), self.text.as_bytes())?;
                fs::write_atomic(&out.join("README.md"), checkpoint::model_card(&card, &extras).as_bytes())?;
            }
            None => checkpoint::write_as(out, &card, params::export(&done.model), &extras, storage, SHARD)?,
        }
        if let Some(codec) = &done.codec {
            checkpoint::write_codec(out, codec, &self.text, storage)?;
        }
        if !storage.is_lossy() {
            return Ok(None);
        }
        let change = self.change(model, &done, &shape, out)?;
        let text = checkpoint::model_card(&card, &extras) + &section(storage, &change);
        fs::write_atomic(&out.join("README.md"), text.as_bytes())?;
        Ok(Some(change))
    }

    /// The parameters of the public checkpoint in `from`.
    fn whole(&self, from: &Path, shape: &Shape) -> Result<Named> {
        let (length, ignore_extra) = (Some(shape.length), shape.ignore_extra);
        let options = LoadOptions { length, ignore_extra, ..LoadOptions::default() };
        Ok(params::export(&family::load(from, &options, &self.device)?.model))
    }

    /// The same as models of this study start with them.
    pub(super) fn start(&self, from: &Path, shape: &Shape) -> Result<Named> {
        let whole = self.whole(from, shape)?;
        Ok(match &shape.rows {
            Some((rows, _)) => rows.take(whole),
            None => whole,
        })
    }
}
