//! Which part of a `tokenizer.json` the library cannot read, where it says only that nothing matched.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::{DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use crate::error::Error;

/// The library that reads and runs tokenizers of others.
pub(super) const LIBRARY: &str = "tokenizers 0.23.2";

/// Why the library refuses a part, if it does.
type Refusal = fn(&Value) -> Option<String>;

/// The parts of a file with the key of what a sequence of them holds, and how each is read.
const PARTS: [(&str, &str, Refusal); 5] = [
    ("normalizer", "normalizers", refusal::<NormalizerWrapper>),
    ("pre_tokenizer", "pretokenizers", refusal::<PreTokenizerWrapper>),
    ("post_processor", "processors", refusal::<PostProcessorWrapper>),
    ("decoder", "decoders", refusal::<DecoderWrapper>),
    ("model", "", refusal::<ModelWrapper>),
];

fn refusal<T: DeserializeOwned>(part: &Value) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| T::deserialize(part))) {
        Ok(read) => read.err().map(|e| e.to_string()),
        Err(_) => Some("the library failed on it".into()),
    }
}

/// The error `e` of reading `file`, with the part that is to blame, its value, and the library's version.
pub fn explained(e: Error, file: &Value) -> Error {
    let blamed = PARTS.iter().find_map(|(key, items, refusal)| {
        let part = file.get(key).filter(|part| !part.is_null())?;
        let why = refusal(part)?;
        Some(innermost((*key).to_string(), part, why, items, *refusal))
    });
    let Some((place, value, why)) = blamed else { return e };
    Error { causes: vec![format!("`{place}` is {value}"), shortened(why, 200)], ..e }
        .cause(format!("read by {LIBRARY}, which may be older than the file"))
        .hint("save the tokenizer with that version of the library, or take a model whose tokenizer it reads")
}

/// The part itself, or the item of its sequence that is refused: where it is, its value, and why.
fn innermost(place: String, part: &Value, why: String, items: &str, refusal: Refusal) -> (String, String, String) {
    let mut inner = part[items].as_array().into_iter().flatten().enumerate();
    let refused = inner.find_map(|(i, item)| Some((i, item, refusal(item)?)));
    match refused {
        Some((i, item, why)) => innermost(format!("{place}.{items}[{i}]"), item, why, items, refusal),
        None => (place, brief(part), why),
    }
}

/// A value's JSON, shortened.
fn brief(value: &Value) -> String {
    const MOST: usize = 120;
    // A vocabulary has a million values: its keys and its type are what tells.
    let shown = match value.as_object() {
        Some(fields) => {
            let field = |(key, value): (&String, &Value)| match value {
                Value::Object(_) => format!("{key:?}: {{..}}"),
                Value::Array(_) => format!("{key:?}: [..]"),
                plain => format!("{key:?}: {plain}"),
            };
            let mut all: Vec<_> = fields.iter().collect();
            all.sort_by_key(|(key, _)| *key != "type");
            format!("{{{}}}", all.into_iter().take(10).map(field).collect::<Vec<_>>().join(", "))
        }
        None => value.to_string(),
    };
    shortened(shown, MOST)
}

fn shortened(text: String, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}
