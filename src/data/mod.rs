//! Data: the built-in story language, captions with pictures, attributes with sentences, or any text, behind one set of pure functions.
//!
//! A batch is a function of (seed, step). B batch, L length, V vocabulary (the mask is not in it; its id is V).

pub mod chain;
pub mod corpus;
pub mod dataset;
pub mod documents;
pub mod pairs;
pub mod picture;
mod reading;
mod row_corpus;
pub mod rows;
mod start;
pub mod story;
mod text;
pub mod text_config;
mod token_file;
pub mod tokenizer;
pub mod tokens;

use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::fs;
use crate::rng::{StepRng, Stream};
use corpus::Corpus;
pub use dataset::{Dataset, Sequences};
use pairs::{Pairs, PairsConfig};
use picture::{Pictures, PicturesConfig};
use story::{Story, StoryConfig};
use text_config::TextConfig;
pub use tokenizer::Tokenizer;

/// Where the training text comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DataConfig {
    /// The built-in language with its exact likelihood.
    Story(StoryConfig),
    /// Captions with pictures that draw them, with their exact likelihood.
    Pictures(PicturesConfig),
    /// Attributes with sentences that tell them.
    Pairs(PairsConfig),
    /// A file of text, or of rows of text.
    Text(TextConfig),
}

/// Prepared data.
pub enum Data {
    Story(Arc<Story>),
    Pictures(Arc<Pictures>),
    Pairs(Arc<Pairs>),
    Text { corpus: Corpus, tokenizer: Tokenizer, length: usize },
}

/// Held-out stories and pictures come from this seed, which no recipe's training uses.
const HELD_OUT_SEED: u64 = 0x5eed_0f7e_5700;

impl Data {
    /// Reads or generates the data; relative paths are looked up from `base`, token files are cached in `cache`, or not at
    /// all without one.
    ///
    /// # Errors
    /// A setting out of range (usage); files that are missing or not what they should be (input); I/O.
    pub fn prepare<'a>(config: &DataConfig, base: &Path, cache: impl Into<Option<&'a Path>>) -> Result<Data> {
        Ok(match config {
            DataConfig::Story(story) => Data::Story(Arc::new(Story::new(story)?)),
            DataConfig::Pictures(pictures) => Data::Pictures(Arc::new(Pictures::new(pictures)?)),
            DataConfig::Pairs(pairs) => Data::Pairs(Arc::new(Pairs::prepare(pairs, base)?)),
            DataConfig::Text(text) => {
                let (corpus, tokenizer) = Corpus::prepare(text, base, cache)?;
                Data::Text { corpus, tokenizer, length: text.length }
            }
        })
    }

    /// Refuses what a text that nothing was trained on yet should not be: compressed, marked, too short for one window.
    ///
    /// # Errors
    /// A compressed file or a byte order mark (input); a text that is shorter than a window (usage).
    pub fn check_start(config: &DataConfig, base: &Path) -> Result<()> {
        match config {
            DataConfig::Text(text) => start::check(text, base),
            DataConfig::Story(_) | DataConfig::Pictures(_) | DataConfig::Pairs(_) => Ok(()),
        }
    }

    /// Vocabulary size V, without the mask.
    pub fn vocab(&self) -> usize {
        match self {
            Data::Story(s) => s.vocab(),
            Data::Pictures(p) => p.vocab(),
            Data::Pairs(p) => p.vocab(),
            Data::Text { tokenizer, .. } => tokenizer.vocab_size(),
        }
    }

    /// Tokens per sequence L.
    pub fn length(&self) -> usize {
        match self {
            Data::Story(s) => s.length(),
            Data::Pictures(p) => p.shape().length(),
            Data::Pairs(p) => p.length(),
            Data::Text { length, .. } => *length,
        }
    }

    /// Tokens [B L] of training part `part`.
    pub fn batch(&self, seed: u64, part: u64, batch: usize) -> Vec<u32> {
        match self {
            Data::Story(s) => {
                let mut rng = StepRng::new(seed).at(part, Stream::Batch);
                (0..batch).flat_map(|_| s.sample(&mut rng)).collect()
            }
            Data::Pictures(p) => {
                let mut rng = StepRng::new(seed).at(part, Stream::Batch);
                (0..batch).flat_map(|_| p.sample(&mut rng)).collect()
            }
            Data::Pairs(p) => p.batch(seed, part, batch),
            Data::Text { corpus, length, .. } => corpus.batch(seed, part, batch, *length),
        }
    }

    /// Up to `n` held-out sequences, spread over the validation split.
    pub fn held_out(&self, n: usize) -> Vec<Vec<u32>> {
        match self {
            Data::Story(s) => {
                let rng = StepRng::new(HELD_OUT_SEED);
                (0..n).map(|i| s.sample(&mut rng.at(i as u64, Stream::Validation))).collect()
            }
            Data::Pictures(p) => {
                let rng = StepRng::new(HELD_OUT_SEED);
                (0..n).map(|i| p.sample(&mut rng.at(i as u64, Stream::Validation))).collect()
            }
            Data::Pairs(p) => (0..n.min(p.valid_records())).map(|i| p.valid(i).0).collect(),
            Data::Text { corpus, length, .. } => {
                let there = corpus.valid_windows(*length);
                let n = n.min(there);
                (0..n).map(|i| corpus.valid_window(i * there / n, *length)).collect()
            }
        }
    }

    /// Different sequences that it can train on without one being seen twice; of the built-in languages any number.
    pub fn sequences(&self) -> Option<usize> {
        match self {
            Data::Story(_) | Data::Pictures(_) => None,
            Data::Pairs(p) => Some(p.train_records()),
            Data::Text { corpus, length, .. } => Some(corpus.train_windows(*length)),
        }
    }

    /// Held-out sequences that there are; of the built-in languages any number.
    pub fn held_out_there(&self) -> Option<usize> {
        match self {
            Data::Story(_) | Data::Pictures(_) => None,
            Data::Pairs(p) => Some(p.valid_records()),
            Data::Text { corpus, length, .. } => Some(corpus.valid_windows(*length)),
        }
    }

    /// How often each token occurs, by id; of the built-in languages 1 for each.
    pub fn counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.vocab()];
        match self {
            Data::Story(_) | Data::Pictures(_) => counts.fill(1),
            Data::Pairs(p) => counts = p.counts(),
            Data::Text { corpus, .. } => {
                corpus.train.iter().chain(corpus.valid.iter()).for_each(|id| counts[id as usize] += 1);
            }
        }
        counts
    }

    /// Text of token ids, of documents up to the first end token; the mask prints as `·`.
    pub fn decode(&self, tokens: &[u32]) -> String {
        match self {
            Data::Story(s) => s.decode(tokens),
            Data::Pictures(p) => p.decode(tokens),
            Data::Pairs(p) => p.decode(tokens),
            Data::Text { tokenizer, .. } => tokenizer.decode(self.told(tokens)),
        }
    }

    /// The id that ends a text, of data that is documents; the tokens after it are not text.
    pub fn end(&self) -> Option<u32> {
        match self {
            Data::Text { corpus, .. } => corpus.documents.as_ref().map(|documents| documents.end),
            Data::Story(_) | Data::Pictures(_) | Data::Pairs(_) => None,
        }
    }

    /// What of the ids has text: all, or of documents what stands in front of the end.
    fn told<'t>(&self, tokens: &'t [u32]) -> &'t [u32] {
        self.end().map_or(tokens, |end| documents::told(tokens, end))
    }

    /// Its name in messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Data::Story(_) => "story",
            Data::Pictures(_) => "pictures",
            Data::Pairs(_) => "pairs",
            Data::Text { .. } => "text",
        }
    }

    /// Where text and picture lie in a sequence, of data that has both.
    pub fn picture(&self) -> Option<picture::Shape> {
        match self {
            Data::Pictures(p) => Some(p.shape()),
            _ => None,
        }
    }

    /// The tokenizer to ship with a model of this data.
    pub fn tokenizer(&self) -> Tokenizer {
        match self {
            Data::Story(s) => Tokenizer::Words(s.words().to_vec()),
            Data::Pictures(p) => Tokenizer::Words(p.words().to_vec()),
            Data::Pairs(p) => Tokenizer::Words(p.words().to_vec()),
            Data::Text { tokenizer, .. } => tokenizer.clone(),
        }
    }

    /// SHA-256 of the tokenizer as it is stored with a model: what makes text of ids.
    ///
    /// # Errors
    /// As [`Tokenizer::to_json`].
    pub fn tokenizer_sha256(&self) -> Result<String> {
        Ok(fs::sha256_hex(self.tokenizer().to_json()?.as_bytes()))
    }

    /// Identifies the data: the corpus' token hash, or the hash of the built-in language's held-out texts.
    pub fn sha256(&self) -> String {
        match self {
            Data::Pairs(p) => p.sha256(),
            Data::Story(_) | Data::Pictures(_) => {
                let bytes: Vec<u8> = self.held_out(256).iter().flatten().flat_map(|t| t.to_le_bytes()).collect();
                fs::sha256_hex(&bytes)
            }
            Data::Text { corpus, .. } => corpus.sha256.clone(),
        }
    }
}
