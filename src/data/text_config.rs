//! The settings of a text, and their ranges, checked before any file is opened.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::tokenizer::TokenizerConfig;
use crate::error::{Error, Result, whole_within};

/// A corpus from files of text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// The text: a file of text, or of rows (.jsonl, .parquet), or a list of them, one after the other; relative to the
    /// recipe, or `hf://datasets/owner/name/path`.
    pub path: Paths,
    /// Of rows, the key or column of the text; "text" if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Of rows, what stands behind each, as text of the tokenizer ("<|endoftext|>"); a line end if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// That the text is documents, and no window goes beyond the end of one: of text, the line that parts them
    /// ("<|endoftext|>"); of rows, each of which is one, `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<DocumentsConfig>,
    /// How much of its end is kept for validation, above 0 and below 1; 0.05 if neither this nor `valid_path` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_fraction: Option<f64>,
    /// Another text for validation, in place of a fraction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_path: Option<Paths>,
    /// How text becomes tokens.
    pub tokenizer: TokenizerConfig,
    /// Tokens in a window (L).
    pub length: usize,
}

/// What parts a text into documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentsConfig {
    /// Each row is one.
    Rows,
    /// A line that is this, and nothing else, stands between two.
    Line(String),
}

/// One file or several: a path, or a list of paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths(Vec<PathBuf>);

impl Paths {
    /// All of them, in order.
    pub fn all(&self) -> &[PathBuf] {
        &self.0
    }
}

impl<P: AsRef<Path>> From<P> for Paths {
    fn from(path: P) -> Self {
        Paths(vec![path.as_ref().to_path_buf()])
    }
}

impl Serialize for Paths {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match &self.0[..] {
            [one] => one.serialize(to),
            several => several.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct OneOrMore;
        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Paths;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a path or a list of paths")
            }
            fn visit_str<E>(self, path: &str) -> std::result::Result<Paths, E> {
                Ok(Paths::from(path))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Paths, A::Error> {
                let mut paths = Vec::new();
                while let Some(path) = list.next_element()? {
                    paths.push(path);
                }
                Ok(Paths(paths))
            }
        }
        from.deserialize_any(OneOrMore)
    }
}

impl Serialize for DocumentsConfig {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            DocumentsConfig::Rows => to.serialize_bool(true),
            DocumentsConfig::Line(line) => to.serialize_str(line),
        }
    }
}

impl<'de> Deserialize<'de> for DocumentsConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct LineOrTrue;
        impl Visitor<'_> for LineOrTrue {
            type Value = DocumentsConfig;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a line of text or `true`")
            }
            fn visit_str<E>(self, line: &str) -> std::result::Result<DocumentsConfig, E> {
                Ok(DocumentsConfig::Line(line.into()))
            }
            fn visit_bool<E: serde::de::Error>(self, is: bool) -> std::result::Result<DocumentsConfig, E> {
                match is {
                    true => Ok(DocumentsConfig::Rows),
                    false => Err(E::invalid_value(Unexpected::Bool(false), &self)),
                }
            }
        }
        from.deserialize_any(LineOrTrue)
    }
}

impl JsonSchema for Paths {
    fn schema_name() -> Cow<'static, str> {
        "Paths".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
    }
}

impl JsonSchema for DocumentsConfig {
    fn schema_name() -> Cow<'static, str> {
        "DocumentsConfig".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "string"}, {"const": true}]})
    }
}

impl TextConfig {
    /// Checks ranges and contradictions.
    ///
    /// # Errors
    /// A setting out of range, or settings that contradict each other (usage).
    pub fn validate(&self) -> Result<()> {
        whole_within("data.text.length", self.length, 2..=1 << 20)?;
        self.check_paths("path", &self.path)?;
        self.valid_path.as_ref().map_or(Ok(()), |paths| self.check_paths("valid_path", paths))?;
        self.check_documents()?;
        self.tokenizer.validate()?;
        if self.valid_path.is_some() && self.valid_fraction.is_some() {
            return Err(Error::usage("`data.text.valid_path` and `data.text.valid_fraction` cannot both be given")
                .hint("delete one of them"));
        }
        match self.valid_fraction {
            Some(fraction) if !(fraction > 0.0 && fraction < 1.0) => Err(Error::usage(format!(
                "`data.text.valid_fraction` must be above 0 and below 1, but it is {fraction}"
            ))
            .hint("for instance `data.text.valid_fraction = 0.05`")),
            _ => Ok(()),
        }
    }

    fn check_paths(&self, key: &str, paths: &Paths) -> Result<()> {
        let all = paths.all();
        if all.is_empty() || all.iter().any(|path| path.as_os_str().is_empty()) {
            let what = if all.len() > 1 { "lists an empty path" } else { "is empty" };
            return Err(Error::usage(format!("`data.text.{key}` {what}"))
                .hint(format!("name a text file: `data.text.{key} = \"my.txt\"`")));
        }
        match all.iter().enumerate().find(|(i, path)| all[..*i].contains(path)) {
            Some((_, twice)) => Err(Error::usage(format!("`data.text.{key}` lists {} twice", twice.display()))
                .hint("leave it out once; `train.steps` says how long a text is trained on")),
            None => Ok(()),
        }
    }

    fn check_documents(&self) -> Result<()> {
        if let (Some(DocumentsConfig::Rows), Some(_)) = (&self.documents, &self.separator) {
            return Err(Error::usage("`data.text.documents` and `data.text.separator` cannot both be given")
                .cause("a document ends in the tokenizer's end token")
                .hint("delete one of them"));
        }
        let Some(DocumentsConfig::Line(line)) = &self.documents else { return Ok(()) };
        let is = match line {
            line if line.trim().is_empty() => "is empty, and an empty line is not a separator",
            line if line.contains(['\n', '\r']) => "has several lines",
            line if line.trim() != line => "begins or ends with white space, which is not looked at in a line",
            _ => return Ok(()),
        };
        Err(Error::usage(format!("`data.text.documents` {is}"))
            .hint("the line between two documents, such as `data.text.documents = \"<|endoftext|>\"`"))
    }
}

impl TokenizerConfig {
    fn validate(&self) -> Result<()> {
        match self {
            TokenizerConfig::Train { bpe } => {
                whole_within("data.text.tokenizer.train.bpe", *bpe, super::tokenizer::TRAINED)
            }
            _ => Ok(()),
        }
    }
}
