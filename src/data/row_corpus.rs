//! A corpus from files of rows (JSONL, Parquet): each row is encoded by itself, with a separator behind it.
//!
//! The file is streamed once for its length and hash, and again for each split that has to be encoded (and once more for
//! a vocabulary of characters), so that beside the tokens only a row is in memory. A split by a fraction falls between two
//! rows: training has the rows that begin before the (1 - fraction)-th part of all bytes.

use super::corpus::{Corpus, DEFAULT_VALID_FRACTION, TextConfig};
use super::reading::Reading;
use super::rows::{Format, each};
use super::token_file::{Of, cached};
use super::tokenizer::{Tokenizer, TokenizerConfig};
use super::tokens::Tokens;
use crate::error::{Error, Result};
use crate::fs::{self, create_dir, sha256_hex};
use crate::term;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

/// The column that is read where a recipe names none.
const COLUMN: &str = "text";
const SEPARATOR: &str = "\n";

/// A file with its column, and what is behind each row.
#[derive(Clone, Copy)]
struct Source<'a> {
    path: &'a Path,
    column: &'a str,
    separator: &'a str,
}

/// Bytes of all rows, and what identifies them.
struct Survey {
    bytes: u64,
    rows: u64,
    sha256: String,
}

/// Whether one of the files holds rows.
pub fn is_rows(path: &Path, valid: Option<&Path>) -> bool {
    [Some(path), valid].into_iter().flatten().any(|p| Format::of(p) != Format::Text)
}

/// Reads and encodes the rows of the first file and perhaps, for validation, of the second, or takes the tokens from
/// `cache_dir`.
///
/// Errors: as [`Corpus::prepare`]; rows that are not what they should be, with their number.
pub fn prepare(
    config: &TextConfig,
    (path, valid): (&Path, Option<&Path>),
    base: &Path,
    cache_dir: Option<&Path>,
) -> Result<(Corpus, Tokenizer)> {
    let source = |path| Source {
        path,
        column: config.column.as_deref().unwrap_or(COLUMN),
        separator: config.separator.as_deref().unwrap_or(SEPARATOR),
    };
    let train = source(path);
    let survey = train.survey()?;
    let ((train_part, train_sha), (other, valid_part, valid_sha)) = match valid {
        Some(valid) => {
            let other = source(valid);
            let theirs = other.survey()?;
            if theirs.sha256 == survey.sha256 {
                let same = format!("`path` and `valid_path` hold the same rows: {}", valid.display());
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
                let what = format!("{} has one row, and both training and validation need one", path.display());
                return Err(Error::usage(what).hint("give `valid_path`, another file"));
            }
            let cut = (survey.bytes as f64 * (1.0 - fraction)).round() as u64;
            let sha = |part: &str| sha256_hex(format!("{part} {cut} {}", survey.sha256).as_bytes());
            ((0..cut, sha("train")), (train, cut..u64::MAX, sha("valid")))
        }
    };
    let tokenizer = match config.tokenizer {
        TokenizerConfig::Char => {
            let mut chars: BTreeSet<char> = train.separator.chars().collect();
            train.each("reading", &train_part, &mut |_, text| {
                chars.extend(text.chars());
                Ok(())
            })?;
            Tokenizer::Char { chars: chars.into_iter().collect() }
        }
        ref other => Tokenizer::build(other, &[], base)?,
    };
    let tokenizer_sha = sha256_hex(tokenizer.to_json()?.as_bytes());
    cache_dir.map_or(Ok(()), create_dir)?;
    let tokens = |name: &str, source: Source, part: Range<u64>, sha: &str| {
        let of = Of {
            text: source.path,
            vocab: tokenizer.vocab_size(),
            source_sha256: sha,
            tokenizer_sha256: &tokenizer_sha,
        };
        let path = cache_dir.map(|dir| dir.join(name));
        cached(path.as_deref(), of, || source.encode(&tokenizer, &part))
    };
    let (train, a) = tokens("train.tok", train, train_part, &train_sha)?;
    let (valid, b) = tokens("valid.tok", other, valid_part, &valid_sha)?;
    let vocab = tokenizer.vocab_size();
    let corpus = Corpus { train, valid, vocab, sha256: sha256_hex(format!("{a}{b}").as_bytes()) };
    corpus.check_length(config.length)?;
    Ok((corpus, tokenizer))
}

impl Source<'_> {
    /// Reads all rows once.
    fn survey(&self) -> Result<Survey> {
        let (mut bytes, mut rows, mut hash) = (0, 0, Sha256::new());
        hash.update((self.separator.len() as u64).to_le_bytes());
        hash.update(self.separator);
        let without = each((self.path, self.column), &self.reading("reading")?, &mut |_, text| {
            bytes += text.len() as u64;
            rows += 1;
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
            Ok(())
        })?;
        let shown = self.path.display();
        if bytes == 0 {
            return Err(Error::input(format!("{shown}: no row has any text in `{}`", self.column)));
        }
        if without > 0 {
            term::warn(&format!("{shown}: {without} of {} rows have no `{}` (null)", rows + without, self.column));
        }
        Ok(Survey { bytes, rows, sha256: sha256_hex(&hash.finalize()) })
    }

    /// Gives the rows that begin in `part` of all bytes to `f`.
    fn each(&self, doing: &str, part: &Range<u64>, f: &mut dyn FnMut(u64, &str) -> Result<()>) -> Result<()> {
        let mut at = 0;
        each((self.path, self.column), &self.reading(doing)?, &mut |row, text| {
            let begin = at;
            at += text.len() as u64;
            if part.contains(&begin) && !text.is_empty() { f(row, text) } else { Ok(()) }
        })
        .map(|_| ())
    }

    /// A pass over the file.
    fn reading<'r>(&'r self, doing: &'r str) -> Result<Reading<'r>> {
        let (_, bytes) = fs::open(self.path)?;
        Ok(Reading::begin(doing, self.path, bytes))
    }

    fn encode(&self, tokenizer: &Tokenizer, part: &Range<u64>) -> Result<Tokens> {
        let separator = tokenizer
            .encode(self.separator.as_bytes())
            .map_err(|e| Error { message: format!("`separator`: {}", e.message), ..e })?;
        let mut tokens = Tokens::new(tokenizer.vocab_size());
        self.each("encoding", part, &mut |row, text| {
            let place = |e: Error| Error { message: format!("{} row {row}: {}", self.path.display(), e.message), ..e };
            tokens.extend(tokenizer.encode(text.as_bytes()).map_err(place)?);
            tokens.extend(separator.iter().copied());
            Ok(())
        })?;
        Ok(tokens)
    }
}
