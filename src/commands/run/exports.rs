//! Exports of a study's models.

use std::path::Path;

use super::Study;
use crate::commands::export::{section, warn_of_missing_code};
use crate::data::tokenizer;
use crate::error::{Error, Result};
use crate::eval;
use crate::eval::change::Change;
use crate::eval::results::Results;
use crate::export::{self, Extras, ModelCard};
use crate::model::Transformer;
use crate::model::family::{self, LoadOptions};
use crate::model::params::{self, Named};
use crate::weights::{SHARD, Storage};
use crate::{fs, report};

use super::shape::Shape;

impl Study {
    /// Exports model `name` into `out` with weights of the given type; where that loses digits, what it costs on the
    /// held-out text. With `adapters_alone` what is exported of a model with adapters is these, in PEFT's layout.
    pub fn export(
        &self,
        name: &str,
        out: &Path,
        results: Option<&Results>,
        storage: Storage,
        adapters_alone: bool,
    ) -> Result<Option<Change>> {
        let model = self.recipe.model(name)?;
        if adapters_alone && model.lora.is_some() {
            if !self.recipe.adapts_its_base(name)? {
                return Err(Error::usage(format!("the adapters of `{name}` belong to no published checkpoint"))
                    .cause("its teacher was trained here, or blocks were left out")
                    .hint("leave `--adapters` out to export the merged network"));
            }
            return self.export_adapters(name, out).map(|()| None);
        }
        let done = self.finished(name)?;
        let shape = self.shape(name)?;
        let card = self.card(name, model, &shape, (done.card.train_tokens, 0.0))?;
        let card = ModelCard { neighbours: done.card.neighbours.clone(), ..card };
        std::fs::create_dir_all(out).map_err(|e| Error::io("create", out, &e))?;
        let own =
            results.and_then(|r| r.models.iter().find(|m| m.name == name).map(|m| report::summary::model_card(r, m)));
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
                let own = params::export(&done.model);
                let parameters = match &shape.rows {
                    Some((rows, _)) => rows.put(own, &self.whole(from, &shape)?),
                    None => own,
                };
                match &shape.keep {
                    // What it is laid out as has the same blocks: the source without the others, in a directory that goes.
                    Some(keep) => {
                        let source = out.join(".source");
                        std::fs::create_dir_all(&source).map_err(|e| Error::io("create", &source, &e))?;
                        family::shallow(from, &source, &description, keep)?;
                        let described = family::shallow_description(&description, keep)?;
                        family::export(&source, out, &described, &parameters, storage)?;
                        fs::remove_dir(&source)?;
                    }
                    None => family::export(from, out, &description, &parameters, storage)?,
                }
                warn_of_missing_code(out)?;
                if let (None, Some(tokenizer)) = (family::tokenizer(out)?, &done.tokenizer) {
                    // The source brings none: it is the study's that the model was trained with.
                    match out.join(tokenizer::CONFIG).exists() {
                        true => tokenizer.save(out)?,
                        false => tokenizer.save_for_others(out)?,
                    }
                }
                if let Some(generation) = &card.generation {
                    family::write_generation(out, description.family, generation)?;
                }
                fs::write_atomic(&out.join("recipe.toml"), self.text.as_bytes())?;
                fs::write_atomic(&out.join("README.md"), export::model_card(&card, &extras).as_bytes())?;
            }
            None => export::write_as(out, &card, params::export(&done.model), &extras, storage, SHARD)?,
        }
        if let Some(codec) = &done.codec {
            export::write_codec(out, codec, &self.text, storage)?;
        }
        if !storage.is_lossy() {
            return Ok(None);
        }
        let mut written_codec = None;
        let after = match &shape.from {
            Some(_) => {
                let tensors = self.start(out, &shape)?;
                params::import(done.model.clone(), &tensors, &self.device)
            }
            None => {
                let read = export::read(out, &self.device)?;
                written_codec = read.codec;
                read.model
            }
        };
        let ends = done.model.vectors().is_some() || done.model.bottleneck().is_some();
        let change = match ends {
            // Their losses are in no unit of text.
            true => {
                let codecs = done.codec.as_ref().zip(written_codec.as_ref());
                let codecs = codecs.map(|(before, after)| (&before.model, &after.model));
                Change::on_random_tokens(&done.model, &after).with_codec(codecs)
            }
            false => {
                let held_out = self.data.held_out(self.recipe.eval.held_out);
                let losses = |m: &Transformer| eval::losses(m, &model.objective, &done.card.process(), &held_out).0;
                Change::held_out(&losses(&done.model), &losses(&after))
            }
        };
        let text = export::model_card(&card, &extras) + &section(storage, &change);
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
