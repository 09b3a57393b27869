//! A corpus from files of rows (JSONL, Parquet): each row is encoded by itself, with a separator behind it, or as a document
//! with the end token.
//!
//! The files are streamed once for their length and hash, and again for each split that has to be encoded (and once more for
//! a vocabulary of their own), so that beside the tokens only a row is in memory. A split by a fraction falls between two
//! rows: training has the rows that begin before the (1 - fraction)-th part of all bytes.

use super::corpus::{Corpus, DEFAULT_VALID_FRACTION, files};
use super::reading::Reading;
use super::rows::{Format, each};
use super::text_config::{DocumentsConfig, TextConfig};
use super::token_file::{Of, cached};
use super::tokenizer::{END_CHAR, KEPT, Tokenizer, TokenizerConfig, Words, kept};
use super::tokens::Tokens;
use crate::error::{Error, Result};
use crate::fs::{self, create_dir, sha256_hex};
use crate::term;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The column that is read where a recipe names none.
const COLUMN: &str = "text";
const SEPARATOR: &str = "\n";

/// Files with their column, and what is behind each row.
#[derive(Clone, Copy)]
struct Source<'a> {
    paths: &'a [PathBuf],
    column: &'a str,
    /// None where the end token is.
    separator: Option<&'a str>,
}

/// What is given each row, with its file and number.
type EachRow<'e> = &'e mut dyn FnMut((&Path, u64), &str) -> Result<()>;

/// Bytes of all rows, and what identifies them.
struct Survey {
    bytes: u64,
    rows: u64,
    sha256: String,
}

/// Whether one of the files holds rows.
pub fn is_rows(paths: &[PathBuf], valid: Option<&[PathBuf]>) -> bool {
    paths.iter().chain(valid.into_iter().flatten()).any(|p| Format::of(p) != Format::Text)
}

/// The tokenizer of rows, where it is made of them: of the `part` to train on, with its hash and the bytes there are.
fn tokenizer_of(
    config: &TextConfig,
    train: &Source,
    part: &Range<u64>,
    sha: &str,
    bytes: u64,
    base: &Path,
    cache_dir: Option<&Path>,
) -> Result<Tokenizer> {
    match config.tokenizer {
        TokenizerConfig::Char => {
            let mut chars: BTreeSet<char> =
                train.separator.unwrap_or(END_CHAR.encode_utf8(&mut [0; 4])).chars().collect();
            train.each("reading", part, &mut |_, text| {
                chars.extend(text.chars());
                Ok(())
            })?;
            Ok(Tokenizer::Char { chars: chars.into_iter().collect() })
        }
        TokenizerConfig::Train { bpe } => {
            cache_dir.map_or(Ok(()), create_dir)?;
            let path = cache_dir.map(|dir| dir.join(KEPT));
            kept(path.as_deref(), sha, bpe, || {
                let mut words = Words::new(bytes);
                train.each("counting the words of", part, &mut |_, text| words.add(text))?;
                Ok(words)
            })
        }
        ref other => Tokenizer::build(other, &[], base),
    }
}

impl Corpus {
    /// Reads and encodes the text of `config` (paths relative to `base`), or takes the tokens from `cache_dir`; without one
    /// nothing is written.
    ///
    /// # Errors
    /// Text that is missing, empty or not in the tokenizer's alphabet, and damaged cache files, are of kind
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
        let paths = files(base, &config.path)?;
        let others = config.valid_path.as_ref().map(|others| files(base, others)).transpose()?;
        match is_rows(&paths, others.as_deref()) {
            true => prepare(config, &paths, others.as_deref(), base, cache_dir),
            false => Corpus::of_text(config, &paths, others.as_deref(), base, cache_dir),
        }
    }
}

/// Reads and encodes the rows of the first files and perhaps, for validation, of the others, or takes the tokens from
/// `cache_dir`.
///
/// # Errors
/// As [`Corpus::prepare`]; rows that are not what they should be, with their number.
pub fn prepare(
    config: &TextConfig,
    paths: &[PathBuf],
    valid: Option<&[PathBuf]>,
    base: &Path,
    cache_dir: Option<&Path>,
) -> Result<(Corpus, Tokenizer)> {
    if let Some(DocumentsConfig::Line(line)) = &config.documents {
        return Err(Error::usage(format!(
            "`data.text.documents = {line:?}` parts a text, and these are files of rows"
        ))
        .hint("each row is a document with `data.text.documents = true`"));
    }
    let separator = match config.documents {
        Some(_) => None,
        None => Some(config.separator.as_deref().unwrap_or(SEPARATOR)),
    };
    let column = config.column.as_deref().unwrap_or(COLUMN);
    let source = |paths| Source { paths, column, separator };
    let train = source(paths);
    let survey = train.survey()?;
    let ((train_part, train_sha), (other, valid_part, valid_sha)) = match valid {
        Some(valid) => {
            let other = source(valid);
            let theirs = other.survey()?;
            if theirs.sha256 == survey.sha256 {
                let same = format!("`path` and `valid_path` hold the same rows: {}", valid[0].display());
                return Err(Error::usage(same).hint("delete `valid_path` to keep the last rows for validation"));
            }
            ((0..u64::MAX, survey.sha256), (other, 0..u64::MAX, theirs.sha256))
        }
        None => {
            let fraction = config.valid_fraction.unwrap_or(DEFAULT_VALID_FRACTION);
            if !(fraction > 0.0 && fraction < 1.0) {
                let what = format!("`valid_fraction` is {fraction}, and must be above 0 and below 1");
                return Err(Error::usage(what));
            }
            if survey.rows < 2 {
                let what = format!("{} has one row, and both training and validation need one", paths[0].display());
                return Err(Error::usage(what).hint("give `valid_path`, another file"));
            }
            let cut = (survey.bytes as f64 * (1.0 - fraction)).round() as u64;
            let sha = |part: &str| sha256_hex(format!("{part} {cut} {}", survey.sha256).as_bytes());
            ((0..cut, sha("train")), (train, cut..u64::MAX, sha("valid")))
        }
    };
    let tokenizer = tokenizer_of(config, &train, &train_part, &train_sha, survey.bytes, base, cache_dir)?;
    let end = config.documents.as_ref().map(|_| tokenizer.end()).transpose()?;
    let tokenizer_sha = sha256_hex(tokenizer.to_json()?.as_bytes());
    cache_dir.map_or(Ok(()), create_dir)?;
    let tokens = |name: &str, source: Source, part: Range<u64>, sha: &str| {
        let of = Of {
            text: &source.paths[0],
            vocab: tokenizer.vocab_size(),
            source_sha256: sha,
            tokenizer_sha256: &tokenizer_sha,
        };
        let path = cache_dir.map(|dir| dir.join(name));
        cached(path.as_deref(), of, || source.encode(&tokenizer, &part, end))
    };
    let tokens =
        [tokens("train.tok", train, train_part, &train_sha)?, tokens("valid.tok", other, valid_part, &valid_sha)?];
    Ok((Corpus::of(tokens, tokenizer.vocab_size(), end, config.length)?, tokenizer))
}

impl Source<'_> {
    /// Reads all rows once.
    fn survey(&self) -> Result<Survey> {
        let (mut bytes, mut rows, mut hash) = (0, 0, Sha256::new());
        // No separator has so many bytes as stand for the end token.
        hash.update(self.separator.map_or(u64::MAX, |separator| separator.len() as u64).to_le_bytes());
        hash.update(self.separator.unwrap_or_default());
        for path in self.paths {
            let (before, column) = (rows, self.column);
            let mut has_text = false;
            let without = each(path, column, &reading("reading", path)?, &mut |_, text| {
                bytes += text.len() as u64;
                rows += 1;
                has_text |= !text.is_empty();
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
                Ok(())
            })?;
            let shown = path.display();
            if !has_text {
                return Err(Error::input(format!("{shown}: no row has any text in `{column}`")));
            }
            if without > 0 {
                let all = rows - before + without;
                term::warn(&format!("{shown}: {without} of {all} rows have no `{column}` (null)"));
            }
        }
        Ok(Survey { bytes, rows, sha256: sha256_hex(&hash.finalize()) })
    }

    /// Gives the rows that begin in `part` of all bytes to `f`, each with what an error calls it.
    fn each(&self, doing: &str, part: &Range<u64>, f: EachRow) -> Result<()> {
        let mut at = 0;
        for path in self.paths {
            each(path, self.column, &reading(doing, path)?, &mut |row, text| {
                let begin = at;
                at += text.len() as u64;
                if part.contains(&begin) && !text.is_empty() { f((path, row), text) } else { Ok(()) }
            })?;
        }
        Ok(())
    }

    fn encode(&self, tokenizer: &Tokenizer, part: &Range<u64>, end: Option<u32>) -> Result<Tokens> {
        let behind = match (self.separator, end) {
            (Some(separator), None) => tokenizer
                .encode(separator.as_bytes())
                .map_err(|e| Error { message: format!("`separator`: {}", e.message), ..e })?,
            (_, end) => end.into_iter().collect(),
        };
        let mut tokens = Tokens::new(tokenizer.vocab_size());
        self.each("encoding", part, &mut |(path, row), text| {
            let place = |e: Error| Error { message: format!("{} row {row}: {}", path.display(), e.message), ..e };
            let ids = tokenizer.encode(text.as_bytes()).map_err(place)?;
            if let Some(end) = end.filter(|end| ids.contains(end)) {
                let inside = format!("the end token {:?} is part of the document", tokenizer.decode(&[end]));
                return Err(place(
                    Error::input(inside).hint("leave it out of the text; the end of a row is put there"),
                ));
            }
            // A row whose text gives no tokens is not a document.
            if end.is_none() || !ids.is_empty() {
                tokens.extend(ids);
                tokens.extend(behind.iter().copied());
            }
            Ok(())
        })?;
        Ok(tokens)
    }
}

/// A pass over a file.
fn reading<'r>(doing: &'r str, path: &'r Path) -> Result<Reading<'r>> {
    let (_, bytes) = fs::open(path)?;
    Ok(Reading::begin(doing, path, bytes))
}
