//! A text file as training and validation tokens, cached on disk, and the batch of a step as a pure function of it.
//!
//! The text itself is never in memory: it is read twice in pieces, for its hash (and its characters), and to be encoded.
//! An epoch is a permutation of windows that do not overlap, shifted by an offset of its own: no token is seen twice in
//! an epoch, and over the epochs a text is cut at every place. B batch, L length of a window, W windows in an epoch.

use super::reading::Reading;
use super::row_corpus;
use super::text::Text;
use super::token_file::{Of, cached};
use super::tokenizer::{Encoder, Tokenizer, TokenizerConfig};
use super::tokens::Tokens;
use crate::error::{Error, Result};
use crate::fs::{create_dir, hex, sha256_hex};
use crate::hub;
use crate::rng::{StepRng, Stream};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Of the shuffle; some 6 log2 W are enough.
const ROUNDS: usize = 128;
/// Of the text, kept for validation.
pub(super) const DEFAULT_VALID_FRACTION: f64 = 0.05;

/// A corpus from a text file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// The text: a file of text, or of rows (.jsonl, .parquet); relative to the recipe, or `hf://datasets/owner/name/path`.
    pub path: PathBuf,
    /// Of rows, the key or column of the text; "text" if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// Of rows, what stands behind each, as text of the tokenizer ("<|endoftext|>"); a line end if it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// How much of its end is kept for validation, above 0 and below 1; 0.05 if neither this nor `valid_path` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_fraction: Option<f64>,
    /// Another text for validation, in place of a fraction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_path: Option<PathBuf>,
    /// How text becomes tokens.
    pub tokenizer: TokenizerConfig,
    /// Tokens in a window (L).
    pub length: usize,
}

/// The tokens of both splits; every id is below `vocab`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    pub train: Tokens,
    pub valid: Tokens,
    pub vocab: usize,
    /// SHA-256 in hexadecimal over the token bytes of both splits.
    pub sha256: String,
}

impl Corpus {
    /// Reads and encodes the text of `config` (paths relative to `base`), or takes the tokens from `cache_dir`; without one
    /// nothing is written.
    ///
    /// Errors: text that is missing, empty or not in the tokenizer's alphabet, and damaged cache files, are of kind
    /// input; a text shorter than one window, and contradictory settings, of kind usage.
    pub fn prepare<'a>(
        config: &TextConfig,
        base: &Path,
        cache_dir: impl Into<Option<&'a Path>>,
    ) -> Result<(Corpus, Tokenizer)> {
        let cache_dir = cache_dir.into();
        if config.valid_path.is_some() && config.valid_fraction.is_some() {
            return Err(Error::usage("`valid_path` and `valid_fraction` cannot both be given").hint("delete one"));
        }
        let path = hub::file(base, &config.path)?;
        let other = config.valid_path.as_ref().map(|other| hub::file(base, other)).transpose()?;
        if row_corpus::is_rows(&path, other.as_deref()) {
            return row_corpus::prepare(config, (&path, other.as_deref()), base, cache_dir);
        }
        if config.column.is_some() || config.separator.is_some() {
            return Err(Error::usage(format!(
                "`column` and `separator` are for files of rows, and {} is text",
                path.display()
            ))
            .hint("a file of rows ends in .jsonl or .parquet"));
        }
        let text = Text::open(&path)?;
        let other = other.as_ref().map(|other| Text::open(other)).transpose()?;
        let (train, valid) = match &other {
            Some(other) => ((&text, 0..text.bytes()), (other, 0..other.bytes())),
            None => {
                let cut = text.split(config.valid_fraction.unwrap_or(DEFAULT_VALID_FRACTION))?;
                ((&text, 0..cut), (&text, cut..text.bytes()))
            }
        };
        let mut characters = (config.tokenizer == TokenizerConfig::Char).then(Characters::default);
        let train = Part::survey(train, &config.tokenizer, characters.as_mut())?;
        let valid = Part::survey(valid, &config.tokenizer, None)?;
        if let Some(other) = other.as_ref().filter(|_| train.sha256 == valid.sha256) {
            let same = format!("`path` and `valid_path` hold the same text: {}", other.path().display());
            return Err(Error::usage(same).hint("delete `valid_path` to keep the end of the text for validation"));
        }
        let tokenizer = match characters {
            Some(characters) => Tokenizer::Char { chars: characters.all().into_iter().collect() },
            None => Tokenizer::build(&config.tokenizer, &[], base)?,
        };
        let tokenizer_sha256 = sha256_hex(tokenizer.to_json()?.as_bytes());
        cache_dir.map_or(Ok(()), create_dir)?;
        let tokens = |name: &str, part: &Part| {
            let of = Of {
                text: part.text.path(),
                vocab: tokenizer.vocab_size(),
                source_sha256: &part.sha256,
                tokenizer_sha256: &tokenizer_sha256,
            };
            let path = cache_dir.map(|dir| dir.join(name));
            cached(path.as_deref(), of, || part.encode(&tokenizer))
        };
        let (train, a) = tokens("train.tok", &train)?;
        let (valid, b) = tokens("valid.tok", &valid)?;
        let vocab = tokenizer.vocab_size();
        let corpus = Corpus { train, valid, vocab, sha256: sha256_hex(format!("{a}{b}").as_bytes()) };
        corpus.check_length(config.length)?;
        Ok((corpus, tokenizer))
    }

    pub(super) fn check_length(&self, length: usize) -> Result<()> {
        if length == 0 {
            return Err(Error::usage("`data.text.length` is 0, and a window has at least 1 token"));
        }
        for (split, tokens) in [("training", self.train.len()), ("validation", self.valid.len())] {
            if tokens < length {
                let fits = self.train.len().min(self.valid.len());
                return Err(super::start::too_short(split, &format!("{tokens} tokens"), fits, length));
            }
        }
        Ok(())
    }

    /// The batch of `step`, row-major [B, L]: a pure function of its arguments and the training tokens.
    pub fn batch(&self, seed: u64, step: u64, batch: usize, length: usize) -> Vec<u32> {
        let starts = (0..batch as u64).map(|row| self.start(seed, step, batch as u64, row, length));
        starts.flat_map(|start| self.train.range(start..start + length)).collect()
    }

    /// Where in the training tokens row `row` of the batch of `step` begins.
    fn start(&self, seed: u64, step: u64, batch: u64, row: u64, length: usize) -> usize {
        let windows = self.train_windows(length) as u64;
        assert!(windows > 0, "{} training tokens hold no window of {length}", self.train.len());
        // The draws of all steps are one line, cut into epochs; u128, since step * batch need not fit 64 bits.
        let draw = u128::from(step) * u128::from(batch) + u128::from(row);
        let (epoch, slot) = ((draw / u128::from(windows)) as u64, (draw % u128::from(windows)) as u64);
        let mut rng = StepRng::new(seed).at(epoch, Stream::Batch);
        let free = self.train.len() - windows as usize * length;
        let offset = (rng.next_u64() % (free.min(length - 1) as u64 + 1)) as usize;
        offset + permute(slot, windows, &mut rng) as usize * length
    }

    /// Windows in an epoch (W): as many as fit whatever the epoch's offset below `length` is, but one at least.
    pub fn train_windows(&self, length: usize) -> usize {
        let tokens = self.train.len();
        usize::max((tokens + 1).saturating_sub(length) / length, usize::from(tokens >= length))
    }

    /// The number of validation windows of `length` tokens; they follow each other without overlap.
    pub fn valid_windows(&self, length: usize) -> usize {
        self.valid.len() / length
    }

    /// Validation window `i` of `valid_windows(length)`: `length` ids.
    pub fn valid_window(&self, i: usize, length: usize) -> Vec<u32> {
        assert!(i < self.valid_windows(length), "validation window {i} of {}", self.valid_windows(length));
        self.valid.range(i * length..(i + 1) * length).collect()
    }
}

/// The place of `slot` in a random permutation of 0..`n`: the swap-or-not shuffle (Hoang, Morris, Rogaway 2012).
///
/// Each round pairs every place x with k - x and swaps or leaves the pair by a bit that depends on the pair alone. So
/// one place is followed without a table of all W; a Feistel network would do so too, but is not uniform for small W.
fn permute(slot: u64, n: u64, rng: &mut impl RngCore) -> u64 {
    let mut x = slot;
    for _ in 0..ROUNDS {
        let (k, key) = (rng.next_u64() % n, rng.next_u64());
        let partner = if k >= x { k - x } else { k + (n - x) };
        if mix(x.max(partner) ^ key) & 1 == 1 {
            x = partner;
        }
    }
    x
}

/// The finaliser of SplitMix64 (Steele et al. 2014): every bit of the result depends on every bit of `x`.
fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d049bb133111eb);
    x ^ x >> 31
}

/// A part of a text file, and what identifies it.
struct Part<'a> {
    text: &'a Text,
    range: Range<u64>,
    sha256: String,
}

impl<'a> Part<'a> {
    /// Reads it once: its hash, and the characters in it where they are asked for. Text that has to be UTF-8 is found to be.
    fn survey(
        (text, range): (&'a Text, Range<u64>),
        tokenizer: &TokenizerConfig,
        characters: Option<&mut Characters>,
    ) -> Result<Self> {
        let reading = Reading::begin("reading", text.path(), text.bytes());
        let sha256 = match (characters, tokenizer) {
            (Some(characters), _) => {
                let mut add = |_: u64, text: &str| {
                    text.chars().for_each(|c| characters.add(c));
                    Ok(())
                };
                text.hashed(&range, &reading, Some(&mut add))
            }
            (None, TokenizerConfig::Bytes) => text.hashed(&range, &reading, None),
            (None, _) => text.hashed(&range, &reading, Some(&mut |_, _| Ok(()))),
        }?;
        Ok(Part { text, range, sha256 })
    }

    /// Reads it again, into tokens.
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Tokens> {
        let reading = Reading::begin("encoding", self.text.path(), self.text.bytes());
        let mut tokens = Tokens::new(tokenizer.vocab_size());
        let again = match tokenizer {
            // A byte is its own id, and need not be text.
            Tokenizer::Bytes => {
                let mut hash = Sha256::new();
                let mut at = self.range.start;
                self.text.each(self.range.clone(), &mut |piece| {
                    hash.update(piece);
                    tokens.extend(piece.iter().map(|b| u32::from(*b)));
                    at += piece.len() as u64;
                    reading.at(at);
                    Ok(())
                })?;
                hex(&hash.finalize())
            }
            _ => {
                let misfit = |wrong| self.text.misfit(wrong);
                let mut encoder = Encoder::new(tokenizer, self.range.start);
                let mut out = |id: u32| tokens.push(id);
                let mut add = |_: u64, text: &str| encoder.add(text, &mut out, &misfit);
                let again = self.text.hashed(&self.range, &reading, Some(&mut add))?;
                encoder.end(&mut out, &misfit)?;
                again
            }
        };
        if again != self.sha256 {
            return Err(self.text.changed());
        }
        Ok(tokens)
    }
}

/// The characters of a text; those of most texts are among the first.
struct Characters {
    low: [bool; 0x800],
    others: BTreeSet<char>,
}

impl Default for Characters {
    fn default() -> Self {
        Characters { low: [false; 0x800], others: BTreeSet::new() }
    }
}

impl Characters {
    fn add(&mut self, c: char) {
        match self.low.get_mut(c as usize) {
            Some(there) => *there = true,
            None => {
                self.others.insert(c);
            }
        }
    }

    fn all(self) -> BTreeSet<char> {
        let low = (0u32..).zip(self.low).filter(|(_, there)| *there);
        low.filter_map(|(c, _)| char::from_u32(c)).chain(self.others).collect()
    }
}

#[cfg(test)]
#[path = "corpus_tests.rs"]
mod tests;
