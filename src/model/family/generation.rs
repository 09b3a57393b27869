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

/// Writes the settings into `dir`'s generation_config.json, if the family's export has one, and for Dream, whose own code
/// makes its settings of config.json, into that; the other keys stay.
///
/// # Errors
/// One of them that is not a JSON object (input).
pub fn write_generation(dir: &Path, family: Family, generation: &Generation) -> Result<()> {
    let config = (family == Family::Dream).then_some("config.json");
    for path in [Some(FILE), config].into_iter().flatten().map(|name| dir.join(name)).filter(|path| path.exists()) {
        let wrong = |why: String| Error::input(format!("{} is not a JSON object", path.display())).cause(why);
        let mut keys: Map<String, Value> =
            serde_json::from_slice(&fs::read_limited(&path, 16 << 20)?).map_err(|e| wrong(e.to_string()))?;
        let (key, value) = generation.selection.key(family);
        keys.insert("steps".into(), generation.steps.into());
        keys.insert("temperature".into(), generation.temperature.into());
        keys.insert(key.into(), value.into());
        let text = fs::sorted_json(Value::Object(keys));
        fs::write_atomic(&path, (text + "\n").as_bytes())?;
    }
    Ok(())
}

/// How the family's own code is asked for a text with these settings, as Python for a model card; none where that code has
/// no call that takes them.
pub fn own_call(family: Family, generation: &Generation, length: usize) -> Option<String> {
    let (key, value) = generation.selection.key(family);
    let (steps, temperature) = (generation.steps, generation.temperature);
    let load = |class: &str| {
        format!(
            "from transformers import {class}, AutoTokenizer\n\n\
             tokenizer = AutoTokenizer.from_pretrained(\".\", trust_remote_code=True)\n\
             model = {class}.from_pretrained(\".\", trust_remote_code=True).eval()\n\
             ids = tokenizer(\"Once upon a time\", return_tensors=\"pt\").input_ids\n"
        )
    };
    let settings = format!("steps={steps}, temperature={temperature:?}, {key}=\"{value}\"");
    Some(match family {
        Family::Dream => format!(
            "{}out = model.diffusion_generate(ids, max_new_tokens={length} - ids.shape[1], {settings})\n\
             print(tokenizer.decode(out[0]))\n",
            load("AutoModel")
        ),
        Family::Llada => format!(
            "from generate import generate  # of LLaDA's repository\n{}\
             new = {length} - ids.shape[1]\n\
             out = generate(model, ids, gen_length=new, block_length=new, {settings})\n\
             print(tokenizer.decode(out[0]))\n",
            load("AutoModel")
        ),
        Family::A2d => format!(
            "from dllm.core.samplers import MDLMSampler, MDLMSamplerConfig\n{}\
             new = {length} - ids.shape[1]\n\
             config = MDLMSamplerConfig(max_new_tokens=new, block_size=new, {settings})\n\
             out = MDLMSampler(model=model, tokenizer=tokenizer).sample([ids[0].tolist()], config)\n\
             print(tokenizer.decode(out[0]))\n",
            load("AutoModelForMaskedLM")
        ),
        _ => return None,
    })
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
        // Dream's own code makes its settings of config.json.
        let config =
            || serde_json::from_slice::<Value>(&std::fs::read(place.path().join("config.json")).unwrap()).unwrap();
        std::fs::write(place.path().join("config.json"), r#"{"model_type": "Dream"}"#).unwrap();
        write_generation(place.path(), Family::A2d, &generation).unwrap();
        assert_eq!(config(), serde_json::json!({ "model_type": "Dream" }));
        write_generation(place.path(), Family::Dream, &generation).unwrap();
        let want = serde_json::json!({ "model_type": "Dream", "steps": 8, "temperature": 1.0, "alg": "origin" });
        assert_eq!(config(), want);
        std::fs::write(place.path().join(FILE), "[]").unwrap();
        assert!(write_generation(place.path(), Family::A2d, &generation).is_err());
    }

    #[test]
    fn a_model_card_calls_the_familys_own_code_with_the_students_settings() {
        let generation = Generation { steps: 8, selection: Selection::Random, temperature: 1.0 };
        let call = |family| own_call(family, &generation, 64);
        for (family, name) in [(Family::Dream, "alg=\"origin\""), (Family::Llada, "remasking=\"random\"")] {
            let text = call(family).unwrap();
            assert!(text.contains("steps=8, temperature=1.0, ") && text.contains(name), "{text}");
        }
        assert!(call(Family::A2d).unwrap().contains("MDLMSamplerConfig(max_new_tokens=new, block_size=new, steps=8"));
        assert!(call(Family::Mdlm).is_none() && call(Family::Gpt2).is_none());
    }
}
