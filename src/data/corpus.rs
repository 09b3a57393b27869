//! A text file as training and validation tokens, cached on disk, and the batch of a step as a pure function of it.
//!
//! Cache file: `FEWSTOK1` | header length (u32, little-endian) | header JSON | tokens (u16 or u32, little-endian).
//! An epoch is a permutation of windows that do not overlap, shifted by an offset of its own: no token is seen twice in
//! an epoch, and over the epochs a text is cut at every place. B batch, L length of a window, W windows in an epoch.

use super::row_corpus;
use super::tokenizer::{Tokenizer, TokenizerConfig, utf8};
use crate::error::{Error, Kind, Result};
use crate::fs::{create_dir, read_limited, sha256_hex, write_atomic};
use crate::hub;
use crate::rng::{StepRng, Stream};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"FEWSTOK1";
const FORMAT: u32 = 1;
const MAX_HEADER: usize = 64 << 10;
const MAX_TEXT: u64 = 16 << 30;
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
    pub train: Vec<u32>,
    pub valid: Vec<u32>,
    pub vocab: usize,
    /// SHA-256 in hexadecimal over the token bytes of both splits.
    pub sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u32,
    vocab: usize,
    dtype: Dtype,
    /// Number of tokens.
    length: usize,
    /// Of the token bytes.
    sha256: String,
    source_sha256: String,
    tokenizer_sha256: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Dtype {
    U16,
    U32,
}

impl Dtype {
    fn for_vocab(vocab: usize) -> Dtype {
        if vocab <= 1 << 16 { Dtype::U16 } else { Dtype::U32 }
    }
    fn size(self) -> usize {
        match self {
            Dtype::U16 => 2,
            Dtype::U32 => 4,
        }
    }
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
            return row_corpus::prepare(config, &path, other.as_deref(), base, cache_dir);
        }
        if config.column.is_some() || config.separator.is_some() {
            return Err(Error::usage(format!(
                "`column` and `separator` are for files of rows, and {} is text",
                path.display()
            ))
            .hint("a file of rows ends in .jsonl or .parquet"));
        }
        let text = read_text(&path, &config.tokenizer)?;
        let (train, valid_path, valid_text, valid) = match (other, config.valid_fraction) {
            (Some(other), _) => {
                let other_text = read_text(&other, &config.tokenizer)?;
                if other_text == text {
                    let same = format!("`path` and `valid_path` hold the same text: {}", other.display());
                    return Err(
                        Error::usage(same).hint("delete `valid_path` to keep the end of the text for validation")
                    );
                }
                let part = 0..other_text.len();
                (0..text.len(), other, Some(other_text), part)
            }
            (None, fraction) => {
                let cut = split(&text, fraction.unwrap_or(DEFAULT_VALID_FRACTION))?;
                (0..cut, path.clone(), None, cut..text.len())
            }
        };
        let tokenizer = Tokenizer::build(&config.tokenizer, &text[train.clone()], base)?;
        let tokenizer_sha256 = sha256_hex(tokenizer.to_json()?.as_bytes());
        cache_dir.map_or(Ok(()), create_dir)?;
        let tokens = |name: &str, text: &[u8], part: Range<usize>, path: &Path| {
            let source_sha256 = sha256_hex(&text[part.clone()]);
            cached(
                cache_dir.map(|dir| dir.join(name)).as_deref(),
                &tokenizer,
                &source_sha256,
                &tokenizer_sha256,
                || {
                    tokenizer
                        .encode_part(text, part)
                        .map_err(|e| Error { message: format!("{}: {}", path.display(), e.message), ..e })
                },
            )
        };
        let (train, a) = tokens("train.tok", &text, train, &path)?;
        let (valid, b) = tokens("valid.tok", valid_text.as_deref().unwrap_or(&text), valid, &valid_path)?;
        let vocab = tokenizer.vocab_size();
        let corpus = Corpus { train, valid, vocab, sha256: sha256_hex(format!("{a}{b}").as_bytes()) };
        corpus.check_length(config.length)?;
        Ok((corpus, tokenizer))
    }

    pub(super) fn check_length(&self, length: usize) -> Result<()> {
        if length == 0 {
            return Err(Error::usage("`length` is 0, and a window has at least 1 token"));
        }
        for (split, tokens) in [("training", self.train.len()), ("validation", self.valid.len())] {
            if tokens < length {
                let counts = format!("the {split} text has {tokens} tokens, and one window has length = {length}");
                return Err(Error::usage(counts).hint("take a longer text or a smaller `length`"));
            }
        }
        Ok(())
    }

    /// The batch of `step`, row-major [B, L]: a pure function of its arguments and the training tokens.
    pub fn batch(&self, seed: u64, step: u64, batch: usize, length: usize) -> Vec<u32> {
        let starts = (0..batch as u64).map(|row| self.start(seed, step, batch as u64, row, length));
        starts.flat_map(|start| &self.train[start..start + length]).copied().collect()
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
    pub fn valid_window(&self, i: usize, length: usize) -> &[u32] {
        assert!(i < self.valid_windows(length), "validation window {i} of {}", self.valid_windows(length));
        &self.valid[i * length..(i + 1) * length]
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

fn read_text(path: &Path, tokenizer: &TokenizerConfig) -> Result<Vec<u8>> {
    let text = read_limited(path, MAX_TEXT)?;
    if text.is_empty() {
        return Err(Error::input(format!("{}: the corpus is empty", path.display())));
    }
    if *tokenizer != TokenizerConfig::Bytes {
        utf8(&text).map_err(|e| Error { message: format!("{}: {}", path.display(), e.message), ..e })?;
    }
    Ok(text)
}

/// Where validation begins: about `fraction` before the end, after a line if one ends near, never inside a character.
fn split(text: &[u8], fraction: f64) -> Result<usize> {
    if !(fraction > 0.0 && fraction < 1.0) {
        return Err(Error::usage(format!("`valid_fraction` is {fraction}, and must be above 0 and below 1")));
    }
    let tail = (text.len() as f64 * fraction).round() as usize;
    let cut = text.len() - tail.min(text.len());
    // Half of the validation text at most is given up for a clean start.
    let line = text[cut..cut + tail / 2].iter().position(|b| *b == b'\n').map(|i| cut + i + 1);
    let inside = |at: &usize| text.get(*at).is_some_and(|b| b & 0xc0 == 0x80);
    Ok(line.unwrap_or_else(|| (cut..).find(|at| !inside(at)).unwrap_or(cut)))
}

/// The tokens of the cache file `path` and their SHA-256; encoded anew if there is none or it is of another text or
/// tokenizer, an error if it is damaged.
pub(super) fn cached(
    path: Option<&Path>,
    tokenizer: &Tokenizer,
    source_sha256: &str,
    tokenizer_sha256: &str,
    encode: impl FnOnce() -> Result<Vec<u32>>,
) -> Result<(Vec<u32>, String)> {
    if let Some(path) = path.filter(|path| path.exists()) {
        let bytes = read_limited(path, u64::MAX)?;
        let (header, tokens) = parse(path, &bytes)?;
        if header.source_sha256 == source_sha256 && header.tokenizer_sha256 == tokenizer_sha256 {
            return Ok((tokens, header.sha256));
        }
    }
    let tokens = encode()?;
    let vocab = tokenizer.vocab_size();
    if let Some(at) = tokens.iter().position(|id| *id as usize >= vocab) {
        return Err(Error::input(format!("token {at} has the id {}, and the vocabulary has {vocab}", tokens[at])));
    }
    let dtype = Dtype::for_vocab(vocab);
    let data: Vec<u8> = match dtype {
        Dtype::U16 => tokens.iter().flat_map(|id| (*id as u16).to_le_bytes()).collect(),
        Dtype::U32 => tokens.iter().flat_map(|id| id.to_le_bytes()).collect(),
    };
    let (format, length, sha256) = (FORMAT, tokens.len(), sha256_hex(&data));
    let (source_sha256, tokenizer_sha256) = (source_sha256.to_string(), tokenizer_sha256.to_string());
    let header = Header { format, vocab, dtype, length, sha256, source_sha256, tokenizer_sha256 };
    let json = serde_json::to_vec(&header).map_err(|e| Error::new(Kind::Io, format!("corpus header: {e}")))?;
    let file = [MAGIC, &(json.len() as u32).to_le_bytes()[..], &json, &data].concat();
    path.map_or(Ok(()), |path| write_atomic(path, &file))?;
    Ok((tokens, header.sha256))
}

/// Header and tokens of a cache file; every byte of it is checked.
fn parse(path: &Path, bytes: &[u8]) -> Result<(Header, Vec<u32>)> {
    let wrong = |why: String| {
        let hint = format!("delete the cache file {}; it is made again from the text", path.display());
        Error::input(format!("{} is not a valid token file", path.display())).cause(why).hint(hint)
    };
    let Some((magic, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(wrong(format!("it has {} bytes, and its first 8 must be FEWSTOK1", bytes.len())));
    };
    if magic != MAGIC {
        return Err(wrong("at byte 0: it does not begin with FEWSTOK1".into()));
    }
    let Some((length, rest)) = rest.split_first_chunk::<4>() else {
        return Err(wrong("at byte 8: the header length is cut off".into()));
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_HEADER || length > rest.len() {
        return Err(wrong(format!("at byte 8: the header length is {length}, and {} bytes follow", rest.len())));
    }
    let (json, data) = rest.split_at(length);
    let header: Header = serde_json::from_slice(json).map_err(|e| wrong(format!("at byte 12: header: {e}")))?;
    let begin = 12 + length;
    if header.format != FORMAT {
        return Err(wrong(format!("at byte 12: format {} is not known, only {FORMAT}", header.format)));
    }
    if header.dtype != Dtype::for_vocab(header.vocab) {
        return Err(wrong(format!(
            "at byte 12: dtype {:?} does not fit a vocabulary of {}",
            header.dtype, header.vocab
        )));
    }
    let size = header.dtype.size();
    if !data.len().is_multiple_of(size) {
        let whole = bytes.len() - data.len() % size;
        return Err(wrong(format!("at byte {whole}: half a token; the data has {} bytes", data.len())));
    }
    if data.len() / size != header.length {
        let has = data.len() / size;
        return Err(wrong(format!("at byte {begin}: the header says {} tokens, and {has} follow", header.length)));
    }
    let tokens: Vec<u32> = match header.dtype {
        Dtype::U16 => data.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b).into()).collect(),
        Dtype::U32 => data.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect(),
    };
    if let Some(i) = tokens.iter().position(|id| *id as usize >= header.vocab) {
        let at = begin + i * size;
        return Err(wrong(format!(
            "at byte {at}: token {i} has the id {}, the vocabulary has {}",
            tokens[i], header.vocab
        )));
    }
    if sha256_hex(data) != header.sha256 {
        return Err(wrong(format!("from byte {begin}: the sha256 of the tokens is not that of the header")));
    }
    Ok((header, tokens))
}

#[cfg(test)]
#[path = "corpus_tests.rs"]
mod tests;
