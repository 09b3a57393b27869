//! Where pairs come from, and how they become sequences.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::story::StoryConfig;
use crate::error::{Error, Result, whole_within};

/// Where pairs come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// Files of lines `field : value | field : value||sentence`, relative to the recipe.
    Files(Vec<PathBuf>),
    /// Stories of the built-in language with their name, thing, place and event.
    Story(StoryConfig),
}

/// Attributes with sentences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PairsConfig {
    /// { files = ["a.txt"] } | { story = {} }
    pub source: Source,
    /// Fields that conditions may ask for; default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// Classes of about equally many sentences by length, of which a condition also asks for one; 0: none.
    #[serde(default)]
    pub length_classes: usize,
    /// Tokens in a sequence (L): condition, sentence and padding. Records that need more are left out.
    pub length: usize,
    /// How often a word must occur in the training split to be one; rarer ones are `<unk>`.
    #[serde(default = "one")]
    pub min_count: usize,
    /// Share of the records that are kept for validation, and as many for the conditions of the evaluation.
    #[serde(default = "twentieth")]
    pub valid_fraction: f64,
    /// Probability that the condition of a training sequence asks for nothing.
    #[serde(default = "tenth")]
    pub unconditional: f64,
}

fn one() -> usize {
    1
}
fn tenth() -> f64 {
    0.1
}
fn twentieth() -> f64 {
    0.05
}

impl PairsConfig {
    /// Checks ranges.
    ///
    /// # Errors
    /// A setting out of range (usage).
    pub fn validate(&self) -> Result<()> {
        whole_within("data.pairs.length", self.length, 4..=1 << 16)?;
        if self.length_classes == 1 || self.length_classes > 64 {
            return Err(Error::usage(format!(
                "`data.pairs.length_classes` must be 0 or between 2 and 64, but it is {}",
                self.length_classes
            ))
            .hint("none: `data.pairs.length_classes = 0`"));
        }
        if !(self.valid_fraction > 0.0 && self.valid_fraction < 0.5) {
            return Err(Error::usage(format!(
                "`data.pairs.valid_fraction` must be above 0 and below 0.5, but it is {}",
                self.valid_fraction
            ))
            .hint("for instance `data.pairs.valid_fraction = 0.05`"));
        }
        if !(0.0..1.0).contains(&self.unconditional) {
            return Err(Error::usage(format!(
                "`data.pairs.unconditional` must be at least 0 and below 1, but it is {}",
                self.unconditional
            ))
            .hint("none: `data.pairs.unconditional = 0.0`"));
        }
        match &self.source {
            Source::Files(files) if files.is_empty() => Err(Error::usage("`data.pairs.source.files` is empty")
                .hint("list the files of records, or take `source = { story = {} }`")),
            Source::Files(_) => Ok(()),
            Source::Story(story) => story.validate(),
        }
    }
}
