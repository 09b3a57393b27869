//! A text as training and validation tokens, cached on disk, and the batch of a step as a pure function of it.
//!
//! The text itself is never in memory: it is read in pieces, for its hash (and its characters), to be encoded, and where that
//! is asked for, for its documents and for a tokenizer that is trained on it.
//! An epoch is a permutation of windows that do not overlap, shifted by an offset of its own: no token is seen twice in
//! an epoch, and over the epochs a text is cut at every place. Of documents an epoch is a permutation of all starts of windows.
//! B batch, L length of a window, W windows in an epoch.

use super::documents::{self, Documents, Windows};
use super::reading::Reading;
use super::text::{Misfit, Text};
use super::text_config::{DocumentsConfig, Paths, TextConfig};
use super::token_file::{Of, cached};
use super::tokenizer::{END_CHAR, Encoder, KEPT, Tokenizer, TokenizerConfig, Words, kept};
use super::tokens::Tokens;
use crate::error::{Error, Result};
use crate::fs::{create_dir, hex, sha256_hex};
use crate::hub;
use crate::rng::{StepRng, Stream};
use rand::RngCore;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Of the shuffle; some 6 log2 W are enough.
const ROUNDS: usize = 128;
/// Of the text, kept for validation.
pub(super) const DEFAULT_VALID_FRACTION: f64 = 0.05;

/// The tokens of both splits; every id is below `vocab`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    pub train: Tokens,
    pub valid: Tokens,
    pub vocab: usize,
    /// SHA-256 in hexadecimal over the token bytes of both splits.
    pub sha256: String,
    /// Where it falls into documents, if it does.
    pub documents: Option<Box<Documents>>,
}

/// A split of a text that has no window of `length` tokens; `fits` is a length that it has one of.
pub fn too_short(split: &str, has: &str, fits: usize, length: usize) -> Error {
    let error = Error::usage(format!("`data.text.length = {length}` is more than the {split} text has"))
        .cause(format!("it has {has}, and one window has {length} tokens"));
    match fits {
        0 | 1 => error.hint("take a longer text"),
        _ => error.hint(format!("take a longer text, or `data.text.length = {fits}`")),
    }
}

impl Corpus {
    /// Reads and encodes texts that are no files of rows, as [`Corpus::prepare`] does.
    pub(super) fn of_text(
        config: &TextConfig,
        paths: &[PathBuf],
        others: Option<&[PathBuf]>,
        base: &Path,
        cache_dir: Option<&Path>,
    ) -> Result<(Corpus, Tokenizer)> {
        let text = Text::open(paths)?;
        let other = others.map(Text::open).transpose()?;
        for_rows_alone(config, text.path())?;
        let (train, valid) = splits(config, &text, other.as_ref())?;
        let mut characters = (config.tokenizer == TokenizerConfig::Char).then(Characters::default);
        let train = Part::survey(train, &config.tokenizer, characters.as_mut())?;
        let valid = Part::survey(valid, &config.tokenizer, None)?;
        if let Some(other) = other.as_ref().filter(|_| train.sha256 == valid.sha256) {
            let same = format!("`path` and `valid_path` hold the same text: {}", other.path().display());
            return Err(Error::usage(same).hint("delete `valid_path` to keep the end of the text for validation"));
        }
        let tokenizer = match (characters, &config.tokenizer) {
            (Some(mut characters), _) => {
                config.documents.iter().for_each(|_| characters.add(END_CHAR));
                Tokenizer::Char { chars: characters.all().into_iter().collect() }
            }
            (None, TokenizerConfig::Train { bpe }) => {
                cache_dir.map_or(Ok(()), create_dir)?;
                let path = cache_dir.map(|dir| dir.join(KEPT));
                kept(path.as_deref(), &train.sha256, *bpe, || train.words())?
            }
            (None, other) => Tokenizer::build(other, &[], base)?,
        };
        let end = config.documents.as_ref().map(|_| tokenizer.end()).transpose()?;
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
            cached(path.as_deref(), of, || part.encode(&tokenizer, end))
        };
        let tokens = [tokens("train.tok", &train)?, tokens("valid.tok", &valid)?];
        Ok((Corpus::of(tokens, tokenizer.vocab_size(), end, config.length)?, tokenizer))
    }

    /// The corpus of the tokens of both splits with their hashes, in windows of `length`; `end` is behind each document.
    ///
    /// # Errors
    /// A split without a window (usage).
    pub(super) fn of(
        [(train, a), (valid, b)]: [(Tokens, String); 2],
        vocab: usize,
        end: Option<u32>,
        length: usize,
    ) -> Result<Corpus> {
        let documents = end.map(|end| {
            Box::new(Documents {
                end,
                train: Windows::of(&train, end, length),
                valid: Windows::of(&valid, end, length),
            })
        });
        let corpus = Corpus { train, valid, vocab, sha256: sha256_hex(format!("{a}{b}").as_bytes()), documents };
        corpus.check_length(length)?;
        Ok(corpus)
    }

    fn check_length(&self, length: usize) -> Result<()> {
        if length == 0 {
            return Err(Error::usage("`data.text.length` is 0, and a window has at least 1 token"));
        }
        // A document that is shorter than a window is filled up.
        if let Some(documents) = &self.documents {
            let splits = [("training", &documents.train), ("validation", &documents.valid)];
            return match splits.into_iter().find(|(_, windows)| windows.documents() == 0) {
                Some((split, _)) => Err(Error::usage(format!("the {split} text has no document"))),
                None => Ok(()),
            };
        }
        for (split, tokens) in [("training", self.train.len()), ("validation", self.valid.len())] {
            if tokens < length {
                let fits = self.train.len().min(self.valid.len());
                return Err(too_short(split, &format!("{tokens} tokens"), fits, length));
            }
        }
        Ok(())
    }

    /// The batch of `step`, row-major [B, L]: a pure function of its arguments and the training tokens.
    pub fn batch(&self, seed: u64, step: u64, batch: usize, length: usize) -> Vec<u32> {
        let rows = 0..batch as u64;
        match &self.documents {
            Some(documents) => {
                let starts = documents.train.starts();
                let start = |row| {
                    let (epoch, slot) = drawn(step, batch as u64, row, starts);
                    permute(slot, starts, &mut StepRng::new(seed).at(epoch, Stream::Batch))
                };
                rows.flat_map(|row| documents.train.window(&self.train, start(row))).collect()
            }
            None => {
                let starts = rows.map(|row| self.start(seed, step, batch as u64, row, length));
                starts.flat_map(|start| self.train.range(start..start + length)).collect()
            }
        }
    }

    /// Where in the training tokens row `row` of the batch of `step` begins.
    fn start(&self, seed: u64, step: u64, batch: u64, row: u64, length: usize) -> usize {
        let windows = self.train_windows(length) as u64;
        assert!(windows > 0, "{} training tokens hold no window of {length}", self.train.len());
        let (epoch, slot) = drawn(step, batch, row, windows);
        let mut rng = StepRng::new(seed).at(epoch, Stream::Batch);
        let free = self.train.len() - windows as usize * length;
        let offset = (rng.next_u64() % (free.min(length - 1) as u64 + 1)) as usize;
        offset + permute(slot, windows, &mut rng) as usize * length
    }

    /// Windows in an epoch (W): as many as fit whatever the epoch's offset below `length` is, but one at least. Of documents
    /// those that do not overlap.
    pub fn train_windows(&self, length: usize) -> usize {
        if let Some(documents) = &self.documents {
            return documents.train.apart();
        }
        let tokens = self.train.len();
        usize::max((tokens + 1).saturating_sub(length) / length, usize::from(tokens >= length))
    }

    /// The number of validation windows of `length` tokens; they follow each other without overlap, or of documents are
    /// spread as those of training are.
    pub fn valid_windows(&self, length: usize) -> usize {
        self.documents.as_ref().map_or(self.valid.len() / length, |documents| documents.valid.apart())
    }

    /// Validation window `i` of `valid_windows(length)`: `length` ids.
    ///
    /// # Panics
    /// Where `i` is not below `valid_windows(length)`.
    pub fn valid_window(&self, i: usize, length: usize) -> Vec<u32> {
        assert!(i < self.valid_windows(length), "validation window {i} of {}", self.valid_windows(length));
        match &self.documents {
            Some(documents) => documents.valid.spread(&self.valid, i),
            None => self.valid.range(i * length..(i + 1) * length).collect(),
        }
    }
}

/// The epoch of a draw, and which of the epoch's `windows` it is. The draws of all steps are one line, cut into epochs.
fn drawn(step: u64, batch: u64, row: u64, windows: u64) -> (u64, u64) {
    // u128, since step * batch need not fit 64 bits.
    let draw = u128::from(step) * u128::from(batch) + u128::from(row);
    ((draw / u128::from(windows)) as u64, (draw % u128::from(windows)) as u64)
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

/// The files that `paths` name, below `base` or in the hub's cache.
pub(super) fn files(base: &Path, paths: &Paths) -> Result<Vec<PathBuf>> {
    paths.all().iter().map(|path| hub::file(base, path)).collect()
}

/// Refuses (usage) what only files of rows have.
fn for_rows_alone(config: &TextConfig, path: &Path) -> Result<()> {
    if config.column.is_some() || config.separator.is_some() {
        return Err(Error::usage(format!(
            "`column` and `separator` are for files of rows, and {} is text",
            path.display()
        ))
        .hint("a file of rows ends in .jsonl or .parquet"));
    }
    match config.documents {
        Some(DocumentsConfig::Rows) => Err(Error::usage(format!(
            "`data.text.documents = true` is for files of rows, and {} is text",
            path.display()
        ))
        .hint("name the line between two documents: `data.text.documents = \"<|endoftext|>\"`")),
        _ => Ok(()),
    }
}

/// A text, the parts of it that are read, and whether they are documents.
type Parts<'a> = (&'a Text, Vec<Range<u64>>, bool);

/// Both splits: of documents, each of them a part.
fn splits<'a>(config: &TextConfig, text: &'a Text, other: Option<&'a Text>) -> Result<(Parts<'a>, Parts<'a>)> {
    let fraction = config.valid_fraction.unwrap_or(DEFAULT_VALID_FRACTION);
    let Some(DocumentsConfig::Line(line)) = &config.documents else {
        let part = |text: &'a Text, range: Range<u64>| (text, Vec::from([range]), false);
        return Ok(match other {
            Some(other) => (part(text, 0..text.bytes()), part(other, 0..other.bytes())),
            None => {
                let cut = text.split(fraction)?;
                (part(text, 0..cut), part(text, cut..text.bytes()))
            }
        });
    };
    let (mut all, parted) = documents::find(text, line)?;
    if !parted {
        return Err(Error::input(format!("{}: no line is the separator `{line}`", text.path().display())).hint(
            "`data.text.documents` is the line that stands alone between two documents; without it the text is one",
        ));
    }
    match other {
        Some(other) => Ok(((text, all, true), (other, documents::find(other, line)?.0, true))),
        None => {
            let cut = (text.bytes() as f64 * (1.0 - fraction)).round() as u64;
            // Both have one at least, where there are two.
            let train = all.partition_point(|document| document.start < cut).min(all.len().saturating_sub(1)).max(1);
            let valid = all.split_off(train.min(all.len()));
            Ok(((text, all, true), (text, valid, true)))
        }
    }
}

/// Parts of a text, and what identifies them.
struct Part<'a> {
    text: &'a Text,
    ranges: Vec<Range<u64>>,
    documents: bool,
    sha256: String,
}

impl<'a> Part<'a> {
    /// Reads it once: its hash, and the characters in it where they are asked for. Text that has to be UTF-8 is found to be.
    fn survey(
        (text, ranges, documents): Parts<'a>,
        tokenizer: &TokenizerConfig,
        mut characters: Option<&mut Characters>,
    ) -> Result<Self> {
        let reading = Reading::begin("reading", text.path(), text.bytes());
        let mut hash = |range: &Range<u64>| match (&mut characters, tokenizer) {
            (Some(characters), _) => {
                let mut add = |_: u64, text: &str| {
                    text.chars().for_each(|c| characters.add(c));
                    Ok(())
                };
                text.hashed(range, &reading, Some(&mut add))
            }
            (None, TokenizerConfig::Bytes) => text.hashed(range, &reading, None),
            (None, _) => text.hashed(range, &reading, Some(&mut |_, _| Ok(()))),
        };
        let hashes = ranges.iter().map(&mut hash).collect::<Result<Vec<_>>>()?;
        Ok(Part { text, ranges, documents, sha256: of_all(&hashes, documents) })
    }

    /// Reads it again, for its words.
    fn words(&self) -> Result<Words> {
        let mut words = Words::new(self.ranges.iter().map(|range| range.end - range.start).sum());
        let reading = Reading::begin("counting the words of", self.text.path(), self.text.bytes());
        let again = |range: &Range<u64>| self.text.hashed(range, &reading, Some(&mut |_, text| words.add(text)));
        let hashes = self.ranges.iter().map(again).collect::<Result<Vec<_>>>()?;
        if of_all(&hashes, self.documents) == self.sha256 { Ok(words) } else { Err(self.text.changed()) }
    }

    /// Reads it again, into tokens; of documents `end` stands behind each part.
    fn encode(&self, tokenizer: &Tokenizer, end: Option<u32>) -> Result<Tokens> {
        let reading = Reading::begin("encoding", self.text.path(), self.text.bytes());
        let mut tokens = Tokens::new(tokenizer.vocab_size());
        let mut encoder = Encoder::new(tokenizer, 0);
        let mut hashes = Vec::new();
        for range in &self.ranges {
            // The end token in a document would be taken for its end.
            let mut ends_inside = false;
            let mut out = |id: u32| {
                ends_inside |= Some(id) == end;
                tokens.push(id);
            };
            hashes.push(self.encode_part(range, &mut encoder, &mut out, &reading)?);
            if let Some(end) = end {
                if ends_inside {
                    return Err(self.text.misfit(end_inside(&tokenizer.decode(&[end]), range.start)));
                }
                tokens.push(end);
            }
        }
        if of_all(&hashes, self.documents) != self.sha256 {
            return Err(self.text.changed());
        }
        Ok(tokens)
    }

    /// Gives the tokens of a part to `out`; its hash.
    fn encode_part(
        &self,
        range: &Range<u64>,
        encoder: &mut Encoder,
        out: &mut dyn FnMut(u32),
        reading: &Reading,
    ) -> Result<String> {
        if encoder.takes_any_bytes() {
            // A byte is its own id, and need not be text.
            let (mut hash, mut at) = (Sha256::new(), range.start);
            self.text.each(range.clone(), &mut |piece| {
                hash.update(piece);
                piece.iter().for_each(|b| out(u32::from(*b)));
                at += piece.len() as u64;
                reading.at(at);
                Ok(())
            })?;
            return Ok(hex(&hash.finalize()));
        }
        let misfit = |wrong| self.text.misfit(wrong);
        encoder.begin(range.start);
        let mut add = |_: u64, text: &str| encoder.add(text, &mut *out, &misfit);
        let hash = self.text.hashed(range, reading, Some(&mut add))?;
        encoder.end(out, &misfit)?;
        Ok(hash)
    }
}

/// The hash of all parts; of a text without documents, the hash of its one part.
fn of_all(hashes: &[String], documents: bool) -> String {
    match hashes {
        [one] if !documents => one.clone(),
        several => sha256_hex(format!("documents {}", several.join(" ")).as_bytes()),
    }
}

/// A document that begins at the byte `at` holds the end token `name`.
fn end_inside(name: &str, at: u64) -> Misfit {
    let hint = "leave it out of the text; what parts two documents stands alone on its line";
    Misfit { at, what: (format!("the end token {name:?} is part of the document that begins"), ""), hint }
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
