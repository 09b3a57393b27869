//! Text to token ids and back: bytes, characters, words, or any Hugging Face tokenizer; all kept as `tokenizer.json`.
//!
//! The three kinds of our own are written as Hugging Face files too, so that other programs can read them; when such a
//! file is loaded the kind is recognised by comparing it with what we would have written. The mask has no text: its id
//! is the vocabulary size, and like every unknown id it prints as `·`.

mod hf;

use crate::error::{Error, Result};
use crate::fs::{read_limited, write_atomic};
use crate::hub;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The file of a tokenizer in a model's directory.
pub const FILE: &str = "tokenizer.json";
/// What an id without text prints as.
pub const UNKNOWN: &str = "·";
const MAX_FILE: u64 = 256 << 20;

/// Which tokenizer a recipe asks for: `"bytes"`, `"char"`, `json = { path = ".." }`, `dir = { path = ".." }` or
/// `bpe = { vocab = "..", merges = ".." }`; each path may be `hf://owner/name/file`, and that of `dir` `hf://owner/name`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TokenizerConfig {
    /// One token per byte, 256 in all: any file at all can be a corpus.
    Bytes,
    /// One token per character of the training text.
    Char,
    /// A Hugging Face `tokenizer.json`.
    Json { path: PathBuf },
    /// The tokenizer beside a model in its directory.
    Dir { path: PathBuf },
    /// The byte-level BPE of GPT-2 from its two files.
    Bpe { vocab: PathBuf, merges: PathBuf },
}

/// A tokenizer at work; ids are 0..vocab_size, the mask not among them.
#[derive(Debug, Clone)]
pub enum Tokenizer {
    Bytes,
    /// The characters in ascending order; the id is the place.
    Char {
        chars: Vec<char>,
    },
    Hf(Box<tokenizers::Tokenizer>),
    /// Words parted by white space; the id is the place.
    Words(Vec<String>),
}

impl Tokenizer {
    /// The tokenizer of `config`: `char` takes its vocabulary from `training`; paths are relative to `base`.
    pub fn build(config: &TokenizerConfig, training: &[u8], base: &Path) -> Result<Tokenizer> {
        match config {
            TokenizerConfig::Bytes => Ok(Tokenizer::Bytes),
            TokenizerConfig::Char => {
                let chars: BTreeSet<char> = utf8(training)?.chars().collect();
                Ok(Tokenizer::Char { chars: chars.into_iter().collect() })
            }
            TokenizerConfig::Json { path } => Self::load_file(&hub::file(base, path)?),
            TokenizerConfig::Dir { path } => {
                let dir = directory(base, path)?;
                Self::load_dir(&dir)?
                    .ok_or_else(|| Error::input(format!("{} holds no tokenizer", dir.display())).hint(
                        "tokenizer.json, or vocab.json with merges.txt; some models use GPT-2's: `bpe = { vocab, merges }`",
                    ))
            }
            TokenizerConfig::Bpe { vocab, merges } => hf::gpt2(&hub::file(base, vocab)?, &hub::file(base, merges)?),
        }
    }

    /// The number of ids, without a mask; of a file with holes in its ids, one more than the highest.
    pub fn vocab_size(&self) -> usize {
        match self {
            Tokenizer::Bytes => 256,
            Tokenizer::Char { chars } => chars.len(),
            Tokenizer::Words(words) => words.len(),
            Tokenizer::Hf(tokenizer) => hf::vocab_size(tokenizer),
        }
    }

    /// The ids of `text`; nothing is added at its ends. Every kind but `Bytes` refuses text that is not UTF-8, and
    /// `Char` and `Words` what is not in their vocabulary, with byte offset, line and column (kind input).
    pub fn encode(&self, text: &[u8]) -> Result<Vec<u32>> {
        self.encode_part(text, 0..text.len())
    }

    /// As `encode`, of a part of `text`; the places in messages are those of the whole.
    pub fn encode_part(&self, text: &[u8], part: Range<usize>) -> Result<Vec<u32>> {
        let start = part.start;
        let bytes = &text[part];
        match self {
            Tokenizer::Bytes => Ok(bytes.iter().map(|b| u32::from(*b)).collect()),
            Tokenizer::Char { chars } => {
                let unknown = |(at, c): (usize, char)| {
                    unknown(&format!("character {c:?}"), text, start + at)
                        .hint("the vocabulary has the characters of the training text; tokenizer = \"bytes\" knows all")
                };
                let id =
                    |(at, c): (usize, char)| chars.binary_search(&c).map(|i| i as u32).map_err(|_| unknown((at, c)));
                utf8_part(text, start, bytes)?.char_indices().map(id).collect()
            }
            Tokenizer::Words(words) => {
                let ids: HashMap<&str, u32> = words.iter().zip(0..).map(|(w, i)| (w.as_str(), i)).collect();
                let whole = utf8_part(text, start, bytes)?;
                let id = |word: &str| {
                    let at = word.as_ptr() as usize - whole.as_ptr() as usize;
                    ids.get(word).copied().ok_or_else(|| unknown(&format!("word `{word}`"), text, start + at))
                };
                whole.split_whitespace().map(id).collect()
            }
            Tokenizer::Hf(tokenizer) => hf::encode(tokenizer, utf8_part(text, start, bytes)?),
        }
    }

    /// The text of `ids`; an id without text, as the mask, gives `·`, and bytes that are not UTF-8 give `�`.
    pub fn decode(&self, ids: &[u32]) -> String {
        let known = |text: Option<String>| text.unwrap_or_else(|| UNKNOWN.into());
        match self {
            Tokenizer::Bytes => String::from_utf8_lossy(&self.decode_bytes(ids)).into_owned(),
            Tokenizer::Char { chars } => {
                ids.iter().map(|id| known(chars.get(*id as usize).map(char::to_string))).collect()
            }
            Tokenizer::Words(words) => {
                let words: Vec<String> = ids.iter().map(|id| known(words.get(*id as usize).cloned())).collect();
                words.join(" ")
            }
            Tokenizer::Hf(tokenizer) => hf::decode(tokenizer, ids),
        }
    }

    /// The text of `ids` as bytes: of a tokenizer of bytes exactly those, which need not be UTF-8.
    pub fn decode_bytes(&self, ids: &[u32]) -> Vec<u8> {
        let byte = |id: &u32| u8::try_from(*id).map_or_else(|_| UNKNOWN.as_bytes().to_vec(), |b| vec![b]);
        match self {
            Tokenizer::Bytes => ids.iter().flat_map(byte).collect(),
            _ => self.decode(ids).into_bytes(),
        }
    }

    /// The id of the token `name` (such as `<|endoftext|>` or `[MASK]`), if the vocabulary has it.
    pub fn id(&self, name: &str) -> Option<u32> {
        match self {
            Tokenizer::Bytes => name.as_bytes().first().filter(|_| name.len() == 1).map(|b| u32::from(*b)),
            Tokenizer::Char { chars } => {
                let mut one = name.chars();
                let place = chars.binary_search(&one.next()?).ok()?;
                one.next().is_none().then_some(place as u32)
            }
            Tokenizer::Words(words) => words.iter().position(|w| w == name).map(|i| i as u32),
            Tokenizer::Hf(tokenizer) => tokenizer.token_to_id(name),
        }
    }

    /// What each id stands for as bytes, of an added token its name; none for an id without a token. Byte-level tokens are
    /// their bytes; those of other Hugging Face tokenizers their names as in the file.
    pub fn pieces(&self) -> Result<Vec<Option<Vec<u8>>>> {
        Ok(match self {
            Tokenizer::Bytes => (0..=255u8).map(|b| Some(vec![b])).collect(),
            Tokenizer::Char { chars } => chars.iter().map(|c| Some(c.to_string().into_bytes())).collect(),
            Tokenizer::Words(words) => words.iter().map(|w| Some(w.clone().into_bytes())).collect(),
            Tokenizer::Hf(tokenizer) => hf::pieces(tokenizer, &self.to_json()?)?,
        })
    }

    /// The content of `tokenizer.json`: equal tokenizers give equal text.
    pub fn to_json(&self) -> Result<String> {
        let value = match self {
            Tokenizer::Bytes => hf::bytes_json(),
            Tokenizer::Char { chars } => hf::char_json(chars),
            Tokenizer::Words(words) => hf::words_json(words),
            Tokenizer::Hf(tokenizer) => {
                return tokenizer.to_string(true).map_err(|e| Error::input(format!("tokenizer: {e}")));
            }
        };
        serde_json::to_string_pretty(&value).map_err(|e| Error::input(format!("tokenizer: {e}")))
    }

    /// Writes `dir/tokenizer.json`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        write_atomic(&dir.join(FILE), self.to_json()?.as_bytes())
    }

    /// Reads `dir/tokenizer.json`; what `save` wrote comes back as the same kind.
    pub fn load(dir: &Path) -> Result<Tokenizer> {
        Self::load_file(&dir.join(FILE))
    }

    /// Reads the tokenizer of a model's directory: tokenizer.json, or vocab.json with merges.txt (and added_tokens.json),
    /// with the words cut as GPT-2 or as Qwen2 does; none where there is none of these files.
    pub fn load_dir(dir: &Path) -> Result<Option<Tokenizer>> {
        if dir.join(FILE).exists() {
            return Self::load(dir).map(Some);
        }
        let (vocab, merges) = (dir.join("vocab.json"), dir.join("merges.txt"));
        if !vocab.exists() || !merges.exists() {
            return Ok(None);
        }
        match hf::class(&dir.join("tokenizer_config.json"))?.as_deref() {
            None | Some("GPT2Tokenizer" | "GPT2TokenizerFast") => hf::gpt2(&vocab, &merges).map(Some),
            Some(_) => hf::qwen2(&vocab, &merges, &dir.join("added_tokens.json")).map(Some),
        }
    }

    /// Reads a Hugging Face `tokenizer.json` of any name; a file that is none is an error of kind input, never a panic.
    pub fn load_file(path: &Path) -> Result<Tokenizer> {
        hf::parse(&path.display().to_string(), &read_limited(path, MAX_FILE)?)
    }
}

/// The directory of a tokenizer: `path` below `base`, or under `hf://` the model's snapshot in the cache, into which its
/// tokenizer alone is downloaded where it is not there yet.
fn directory(base: &Path, path: &Path) -> Result<PathBuf> {
    const FILES: [&str; 5] = [FILE, "vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json"];
    let text = path.to_string_lossy();
    let Some(model) = hub::reference(&text)? else { return Ok(base.join(path)) };
    if model.file.is_some() {
        return Err(Error::usage(format!("`{text}` names a file, and a model is needed"))
            .hint("`json = { path = \"hf://owner/name/tokenizer.json\" }` is for single files"));
    }
    let there = [FILE, "merges.txt"].iter().find_map(|name| model.cached(name));
    match there.as_deref().and_then(Path::parent) {
        Some(dir) => Ok(dir.to_path_buf()),
        None => model.snapshot(|name| FILES.contains(&name)),
    }
}

/// `bytes` as text, or an error (kind input) with the place of the first byte that is not UTF-8.
pub fn utf8(bytes: &[u8]) -> Result<&str> {
    utf8_part(bytes, 0, bytes)
}

fn utf8_part<'a>(whole: &[u8], start: usize, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|e| {
        let at = start + e.valid_up_to();
        let (line, column) = place(whole, at);
        Error::input(format!("the text is not UTF-8 at byte {at} (line {line}, column {column})"))
            .hint("convert the file to UTF-8, or take it as it is with tokenizer = \"bytes\"")
    })
}

fn unknown(what: &str, text: &[u8], at: usize) -> Error {
    let (line, column) = place(text, at);
    Error::input(format!("{what} at byte {at} (line {line}, column {column}) is not in the vocabulary"))
}

/// Line and column, from 1, of the byte `at`; the column counts characters.
fn place(text: &[u8], at: usize) -> (usize, usize) {
    let before = &text[..at];
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    (line, String::from_utf8_lossy(&before[line_start..]).chars().count() + 1)
}

#[cfg(test)]
mod tests;
