//! The settings of a recipe that decide the numbers of a model: what a checkpoint or a finished model is bound to.
//!
//! All else may change between two runs in the same directory, by construction: only what is listed here is compared.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{ModelConfig, Recipe, parse};
use crate::error::Result;
use crate::method::Vectors;

/// Keys of a model that decide no number: how often to log and save, how much to keep, in which ways it is sampled, what is
/// computed twice to save memory; the steps, which may become more, and the hash that is asked of a checkpoint, are compared
/// by themselves.
const FREE: [&str; 8] = [
    "train.log_every",
    "train.save_every",
    "train.keep",
    "train.steps",
    "decode",
    "sha256",
    "checkpoint",
    "network.checkpoint",
];

/// Places of files: their content is compared by its hash, wherever it lies.
const PLACES: [&str; 7] = [
    "text.path",
    "text.valid_path",
    "text.tokenizer.json.path",
    "text.tokenizer.dir.path",
    "text.tokenizer.bpe.vocab",
    "text.tokenizer.bpe.merges",
    "pairs.source.files",
];

impl Recipe {
    /// Every setting that decides the numbers of a model, those of its parents among them, by dotted key.
    ///
    /// # Errors
    /// A model that is not there (usage).
    pub fn settings(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let mut all = parse::lines(&["data"], &toml_text(&self.data), &PLACES)?;
        self.add_settings(name, &mut all)?;
        Ok(all)
    }

    fn add_settings(&self, name: &str, into: &mut BTreeMap<String, String>) -> Result<()> {
        let model = self.model(name)?;
        let decisive = ModelConfig { seed: Some(self.seed(model)), from: None, ..model.clone() };
        into.extend(parse::lines(&["model", name], &toml_text(&decisive), &FREE)?);
        Self::parents(model).into_iter().try_for_each(|parent| self.add_settings(parent, into))
    }

    /// The settings as fewstep 0.1.0 stored them, one a line: with the steps and the places of files, without hashes.
    ///
    /// # Errors
    /// A model that is not there (usage).
    pub fn settings_before(&self, name: &str) -> Result<String> {
        let model = self.model(name)?;
        let mut decisive = model.clone();
        decisive.decode.clear();
        decisive.seed = Some(self.seed(model));
        (decisive.train.log_every, decisive.train.save_every, decisive.train.keep) = (1, 0, 2);
        decisive.checkpoint = None;
        if let Some(network) = &mut decisive.network {
            network.checkpoint = false;
        }
        let mut text = format!("{}{}", toml_text(&self.data), toml_text(&decisive));
        for parent in Self::parents(model) {
            let what = if matches!(model.objective.facts().vectors, Vectors::Latents(_)) { "codec" } else { "teacher" };
            text.push_str(&self.settings_before(parent)?.lines().map(|l| format!("{what}: {l}\n")).collect::<String>());
        }
        Ok(text)
    }

    /// The dotted keys in which this recipe differs from `other`, defaults written out on both sides.
    ///
    /// # Errors
    /// As [`parse::changed`].
    pub fn changed_since(&self, other: &Recipe) -> Result<Vec<String>> {
        parse::changed(&toml_text(other), &toml_text(self))
    }
}

/// TOML text of a configuration part.
fn toml_text(part: &impl Serialize) -> String {
    match toml::to_string(part) {
        Ok(text) => text,
        Err(e) => panic!("a configuration that was read can be written: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::builtin;
    use toml::Value;

    /// Which models' settings change when the key of a recipe is set to another value; nothing where no other value fits.
    fn bound(text: &str, before: &Recipe, key: &str, value: &Value) -> Option<Vec<String>> {
        let others = match value {
            Value::Integer(i) => vec![(i + 1).to_string(), (i - 1).to_string(), (2 * i).to_string()],
            Value::Float(f) => vec![format!("{:?}", f * 0.5), format!("{:?}", f * 0.5 + 0.25)],
            Value::Boolean(b) => vec![(!b).to_string()],
            Value::String(_) => vec!["other".into(), "cosine".into(), "bytes".into()],
            _ => return None,
        };
        let parsed = others.iter().find_map(|other| {
            parse::parse::<Recipe>(text, "a recipe", &[format!("{key}={other}")]).ok().filter(|p| p.value != *before)
        })?;
        let after = parsed.value;
        let settings = |recipe: &Recipe, name: &String| recipe.settings(name).ok();
        Some(before.model.keys().filter(|n| settings(before, n) != settings(&after, n)).cloned().collect())
    }

    /// Every key of every built-in recipe, changed once: what a model is bound to, and what not.
    #[test]
    fn a_change_of_any_key_binds_exactly_the_models_whose_numbers_it_decides() {
        let (mut tried, mut free) = (0, 0);
        for (name, text, _) in builtin::ALL {
            let before = parse::parse::<Recipe>(text, name, &[]).unwrap().value;
            for (key, value) in parse::flatten(text).unwrap() {
                let Some(bound) = bound(text, &before, &key, &value) else { continue };
                tried += 1;
                let parts: Vec<&str> = key.split('.').collect();
                let own = parts.get(1).map(|model| model.to_string());
                let may = match parts[..] {
                    ["name"] | ["seeds", ..] | ["eval", ..] | ["gate", ..] | ["export", ..] => true,
                    ["data", ..] => PLACES.iter().any(|place| key == format!("data.{place}")),
                    ["model", _, ref rest @ ..] => {
                        let rest = rest.join(".");
                        let is = |free: &&str| rest == *free || rest.starts_with(&format!("{free}."));
                        FREE.iter().any(is) || rest == "from"
                    }
                    ["seed"] => before.model.values().all(|m| m.seed.is_some()),
                    _ => false,
                };
                free += usize::from(may);
                assert_eq!(bound.is_empty(), may, "{name}: `{key}` binds {bound:?}");
                // A model's own key binds it and those that are made of it.
                if let (["model", ..], false) = (&parts[..], may) {
                    let of = |m: &String| own.as_ref() == Some(m) || before.settings(m).unwrap().contains_key(&key);
                    assert!(
                        bound.iter().all(of) && own.is_some_and(|own| bound.contains(&own)),
                        "{name}: `{key}` {bound:?}"
                    );
                }
                // What is shared by all data binds all.
                if parts[0] == "data" && !may {
                    assert_eq!(bound.len(), before.model.len(), "{name}: `{key}` binds {bound:?}");
                }
            }
        }
        assert!(tried > 300 && free > 60, "{tried} keys, {free} of them free");
    }

    #[test]
    fn a_default_that_is_written_down_and_a_number_written_otherwise_change_nothing() {
        let text = builtin::find("tiny").unwrap();
        let plain = parse::parse::<Recipe>(text, "tiny", &[]).unwrap().value;
        let sets = ["model.ar.train.beta1=0.9", "model.ar.train.clip=1", "data.story.noise=1e-4", "seed=1"];
        let said = parse::parse::<Recipe>(text, "tiny", &sets.map(String::from)).unwrap().value;
        assert_eq!(plain.settings("ar").unwrap(), said.settings("ar").unwrap());
        assert_eq!(said.changed_since(&plain).unwrap(), Vec::<String>::new());
        let longer = parse::parse::<Recipe>(text, "tiny", &["model.ar.train.steps=99".into()]).unwrap().value;
        assert_eq!(plain.settings("ar").unwrap(), longer.settings("ar").unwrap());
        assert_eq!(longer.changed_since(&plain).unwrap(), ["model.ar.train.steps"]);
    }
}
