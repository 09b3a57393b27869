//! How a student is meant to be sampled, and how its family's generation_config.json says so.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Family;
use crate::error::{Error, Result};
use crate::fs;

const FILE: &str = "generation_config.json";

/// The settings that a student was trained for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Denoising steps.
    pub steps: usize,
    pub selection: Selection,
    pub temperature: f64,
}

/// Which masked positions a step opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// Each by a uniform of its own, whatever is predicted.
    Random,
}

impl Selection {
    /// Its name in config.json and in model cards.
    pub fn name(self) -> &'static str {
        match self {
            Selection::Random => "random",
        }
    }

    /// Key and value by which the family's own code asks for it.
    fn key(self, family: Family) -> (&'static str, &'static str) {
        match (self, family) {
            (Selection::Random, Family::Dream) => ("alg", "origin"),
            (Selection::Random, _) => ("remasking", "random"),
        }
    }
}

/// Writes the settings into `dir`'s generation_config.json, if the family's export has one; its other keys stay.
///
/// Errors (kind input) where the file is no JSON object.
pub fn write_generation(dir: &Path, family: Family, generation: &Generation) -> Result<()> {
    let path = dir.join(FILE);
    if !path.exists() {
        return Ok(());
    }
    let wrong = |why: String| Error::input(format!("{} is not a JSON object", path.display())).cause(why);
    let mut keys: Map<String, Value> =
        serde_json::from_slice(&fs::read_limited(&path, 16 << 20)?).map_err(|e| wrong(e.to_string()))?;
    let (key, value) = generation.selection.key(family);
    keys.insert("steps".into(), generation.steps.into());
    keys.insert("temperature".into(), generation.temperature.into());
    keys.insert(key.into(), value.into());
    let text = serde_json::to_string_pretty(&keys).map_err(|e| wrong(e.to_string()))?;
    fs::write_atomic(&path, (text + "\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_put_beside_the_keys_that_are_there_in_the_familys_words() {
        let place = tempfile::tempdir().unwrap();
        let generation = Generation { steps: 8, selection: Selection::Random, temperature: 1.0 };
        write_generation(place.path(), Family::Dream, &generation).unwrap();
        assert!(!place.path().join(FILE).exists(), "a family without the file gets none");
        std::fs::write(place.path().join(FILE), r#"{"pad_token_id": 3, "steps": 512}"#).unwrap();
        write_generation(place.path(), Family::Dream, &generation).unwrap();
        let read = || serde_json::from_slice::<Value>(&std::fs::read(place.path().join(FILE)).unwrap()).unwrap();
        assert_eq!(read(), serde_json::json!({ "pad_token_id": 3, "steps": 8, "temperature": 1.0, "alg": "origin" }));
        write_generation(place.path(), Family::A2d, &generation).unwrap();
        assert_eq!(read()["remasking"], "random");
        std::fs::write(place.path().join(FILE), "[]").unwrap();
        assert!(write_generation(place.path(), Family::A2d, &generation).is_err());
    }
}
