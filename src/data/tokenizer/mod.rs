//! Text to token ids and back: bytes, characters, words, any Hugging Face tokenizer, or one that is trained on the text; all
//! kept as `tokenizer.json`.
//!
//! The three kinds of our own are written as Hugging Face files too, so that other programs can read them; when such a
//! file is loaded the kind is recognised by comparing it with what we would have written. The mask has no text: its id
//! is the vocabulary size, and like every unknown id it prints as `·`.

mod component;
mod encoder;
mod hf;
mod train;

use super::text::Misfit;
use crate::error::{Error, Result};
use crate::fs::{read_limited, sorted_json, write_atomic};
use crate::hub;
pub use encoder::Encoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
pub use train::{KEPT, Words, kept};

/// The file of a tokenizer in a model's directory.
pub const FILE: &str = "tokenizer.json";
/// The file that says how other programs are to load it.
pub const CONFIG: &str = "tokenizer_config.json";
/// What an id without text prints as.
pub const UNKNOWN: &str = "·";
const MAX_FILE: u64 = 128 << 20;
/// What helps where a tokenizer's file is not what it should be.
const AGAIN: &str = "copy the tokenizer's files again from the model that they came with; `bytes` and `char` need none";

/// The sizes that a trained vocabulary can have: the end token and the bytes are in each.
pub const TRAINED: RangeInclusive<usize> = 257..=1 << 16;
/// The end token of most tokenizers, and of those that are trained here.
pub const END: &str = "<|endoftext|>";
/// What end tokens are called.
const ENDS: [&str; 6] = [END, "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "[SEP]"];
/// The end token of bytes and characters: the control character END OF TEXT, which stands in no ordinary text.
pub const END_CHAR: char = '\u{3}';

/// Which tokenizer a recipe asks for: `"bytes"`, `"char"`, `train = { bpe = 2048 }`, `json = { path = ".." }`,
/// `dir = { path = ".." }` or `bpe = { vocab = "..", merges = ".." }`; each path may be `hf://owner/name/file`, and that of `dir` `hf://owner/name`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TokenizerConfig {
    /// One token per byte, 256 in all: any file at all can be a corpus.
    Bytes,
    /// One token per character of the training text.
    Char,
    /// A byte-level BPE that is trained on the training text, of so many tokens.
    Train {
        /// Tokens of its vocabulary.
        bpe: usize,
    },
    /// A Hugging Face `tokenizer.json`.
    Json {
        /// The file, relative to the recipe, or `hf://owner/name/file`.
        path: PathBuf,
    },
    /// The tokenizer beside a model in its directory.
    Dir {
        /// The directory, relative to the recipe, or `hf://owner/name`.
        path: PathBuf,
    },
    /// The byte-level BPE of GPT-2 from its two files.
    Bpe {
        /// Its vocab.json.
        vocab: PathBuf,
        /// Its merges.txt.
        merges: PathBuf,
    },
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
    /// The tokenizer of `config`: `char` and `train` take their vocabulary from `training`; paths are relative to `base`.
    ///
    /// # Errors
    /// Training text that is not UTF-8, and files that are missing or are not a tokenizer's (input); a text with too few
    /// different words (usage); a file that cannot be downloaded (I/O).
    pub fn build(config: &TokenizerConfig, training: &[u8], base: &Path) -> Result<Tokenizer> {
        match config {
            TokenizerConfig::Bytes => Ok(Tokenizer::Bytes),
            TokenizerConfig::Char => {
                let chars: BTreeSet<char> = utf8(training)?.chars().collect();
                Ok(Tokenizer::Char { chars: chars.into_iter().collect() })
            }
            TokenizerConfig::Train { bpe } => {
                let mut words = Words::new(training.len() as u64);
                words.add(utf8(training)?)?;
                train::bpe(*bpe, words)
            }
            TokenizerConfig::Json { path } => Self::load_file(&hub::file(base, path)?),
            TokenizerConfig::Dir { path } => {
                let dir = directory(base, path)?;
                Self::load_dir(&dir)?
                    .ok_or_else(|| Error::input(format!("{} holds no tokenizer", dir.display())).hint(
                        "tokenizer.json, or vocab.json with merges.txt; some models use GPT-2's: `bpe = { vocab, merges }`",
                    ))
            }
            TokenizerConfig::Bpe { vocab, merges } => {
                hf::gpt2(&hub::file(base, vocab)?, &hub::file(base, merges)?).map_err(|e| e.or_hint(AGAIN))
            }
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

    /// The ids of `text`; nothing is added at its ends.
    ///
    /// # Errors
    /// Every kind but `Bytes` refuses text that is not UTF-8, and `Char` and `Words` what is not in their vocabulary, with byte
    /// offset, line and column (input).
    pub fn encode(&self, text: &[u8]) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut out = |id: u32| ids.push(id);
        let misfit = |wrong: Misfit| {
            let (line, column) = place(text, wrong.at as usize);
            wrong.error(line, column)
        };
        match self {
            Tokenizer::Bytes => text.iter().for_each(|b| out(u32::from(*b))),
            Tokenizer::Char { chars } => encoder::chars_of(chars, utf8(text)?, 0, &mut out).map_err(misfit)?,
            Tokenizer::Words(_) => {
                encoder::words_of(&encoder::index(self), utf8(text)?, 0, &mut out).map_err(misfit)?;
            }
            Tokenizer::Hf(tokenizer) => {
                hf::encode_front(tokenizer, utf8(text)?, true, &mut out)?;
            }
        }
        Ok(ids)
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

    /// The id that may stand behind a document.
    ///
    /// # Errors
    /// A tokenizer that has no end token (usage).
    pub fn end(&self) -> Result<u32> {
        let found = match self {
            Tokenizer::Bytes => Some(END_CHAR as u32),
            Tokenizer::Char { .. } => self.id(END_CHAR.encode_utf8(&mut [0; 4])),
            Tokenizer::Words(_) | Tokenizer::Hf(_) => ENDS.iter().find_map(|name| self.id(name)),
        };
        found.ok_or_else(|| {
            Error::usage("`data.text.documents` needs an end token, and the tokenizer has none")
                .cause(format!("none of its tokens is called {}", ENDS.map(|name| format!("`{name}`")).join(", ")))
                .hint("one that is trained on the text has it: `data.text.tokenizer = { train = { bpe = 2048 } }`")
        })
    }

    /// The ids below [`Tokenizer::vocab_size`] that are no token's: gaps in a file's numbering.
    pub fn without_text(&self) -> Vec<u32> {
        match self {
            Tokenizer::Hf(tokenizer) => hf::gaps(tokenizer),
            Tokenizer::Bytes | Tokenizer::Char { .. } | Tokenizer::Words(_) => Vec::new(),
        }
    }

    /// What each id stands for as bytes, of an added token its name; none for an id without a token. Byte-level tokens are
    /// their bytes; those of other Hugging Face tokenizers their names as in the file.
    ///
    /// # Errors
    /// As [`Tokenizer::to_json`].
    pub fn pieces(&self) -> Result<Vec<Option<Vec<u8>>>> {
        Ok(match self {
            Tokenizer::Bytes => (0..=255u8).map(|b| Some(vec![b])).collect(),
            Tokenizer::Char { chars } => chars.iter().map(|c| Some(c.to_string().into_bytes())).collect(),
            Tokenizer::Words(words) => words.iter().map(|w| Some(w.clone().into_bytes())).collect(),
            Tokenizer::Hf(tokenizer) => hf::pieces(tokenizer, &self.to_json()?)?,
        })
    }

    /// The content of `tokenizer.json`: equal tokenizers give equal text.
    ///
    /// # Errors
    /// A tokenizer that the library cannot write as JSON (input).
    pub fn to_json(&self) -> Result<String> {
        let value = match self {
            Tokenizer::Bytes => hf::bytes_json(),
            Tokenizer::Char { chars } => hf::char_json(chars),
            Tokenizer::Words(words) => hf::words_json(words),
            Tokenizer::Hf(tokenizer) => {
                return tokenizer.to_string(true).map_err(|e| Error::input(format!("tokenizer: {e}")));
            }
        };
        Ok(sorted_json(value))
    }

    /// Writes `dir/tokenizer.json`.
    ///
    /// # Errors
    /// As [`Tokenizer::to_json`]; a refused write (I/O).
    pub fn save(&self, dir: &Path) -> Result<()> {
        write_atomic(&dir.join(FILE), self.to_json()?.as_bytes())
    }

    /// Writes `dir/tokenizer.json`, and beside it the class by which others load it whatever the model is.
    ///
    /// # Errors
    /// As [`Tokenizer::save`].
    pub fn save_for_others(&self, dir: &Path) -> Result<()> {
        self.save(dir)?;
        // A text must come back as it was: no spaces are taken out of what was decoded.
        let config =
            "{\n  \"clean_up_tokenization_spaces\": false,\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n";
        write_atomic(&dir.join(CONFIG), config.as_bytes())
    }

    /// The ids that stand in front of every text that a model is given as a prompt, as other programs have it: what the
    /// post-processor of tokenizer.json says, unless the tokenizer_config.json in `dir` (of a LLaMA tokenizer) says
    /// whether `bos` is put there.
    ///
    /// # Errors
    /// A tokenizer_config.json that is not JSON, or a post-processor that the library fails on (input).
    pub fn front(&self, dir: Option<&Path>, bos: Option<u32>) -> Result<Vec<u32>> {
        let said = dir.map_or(Ok(None), |dir| hf::adds_bos(&dir.join(CONFIG)))?;
        match (self, said) {
            (Tokenizer::Hf(_), Some(true)) => Ok(bos.into_iter().collect()),
            (Tokenizer::Hf(tokenizer), None) => hf::front(tokenizer),
            _ => Ok(Vec::new()),
        }
    }

    /// Reads `dir/tokenizer.json`; what `save` wrote comes back as the same kind.
    ///
    /// # Errors
    /// As [`Tokenizer::load_file`].
    pub fn load(dir: &Path) -> Result<Tokenizer> {
        Self::load_file(&dir.join(FILE))
    }

    /// Reads the tokenizer of a model's directory: tokenizer.json, or vocab.json with merges.txt (and added_tokens.json),
    /// with the words cut as GPT-2 or as Qwen2 does; none where there is none of these files.
    ///
    /// # Errors
    /// Files that are not a tokenizer's (input); I/O.
    pub fn load_dir(dir: &Path) -> Result<Option<Tokenizer>> {
        if dir.join(FILE).exists() {
            return Self::load(dir).map(Some);
        }
        let (vocab, merges) = (dir.join("vocab.json"), dir.join("merges.txt"));
        if !vocab.exists() || !merges.exists() {
            return Ok(None);
        }
        match hf::class(&dir.join(CONFIG))?.as_deref() {
            None | Some("GPT2Tokenizer" | "GPT2TokenizerFast") => hf::gpt2(&vocab, &merges),
            Some(_) => hf::qwen2(&vocab, &merges, &dir.join("added_tokens.json")),
        }
        .map(Some)
        .map_err(|e| e.or_hint(AGAIN))
    }

    /// Reads a Hugging Face `tokenizer.json` of any name.
    ///
    /// # Errors
    /// A file that is missing or is not a tokenizer's (input), never a panic; I/O.
    pub fn load_file(path: &Path) -> Result<Tokenizer> {
        Self::parse(&path.display().to_string(), &read_limited(path, MAX_FILE)?)
    }

    /// The same of the bytes of a file that is called `file` in messages.
    ///
    /// # Errors
    /// Bytes that are not a tokenizer's (input).
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Tokenizer> {
        hf::parse(file, bytes).map_err(|e| e.or_hint(AGAIN))
    }
}

/// The directory of a tokenizer: `path` below `base`, or under `hf://` the model's snapshot in the cache, into which its
/// tokenizer alone is downloaded where it is not there yet.
fn directory(base: &Path, path: &Path) -> Result<PathBuf> {
    const FILES: [&str; 5] = ["added_tokens.json", CONFIG, "vocab.json", "merges.txt", FILE];
    let text = path.to_string_lossy();
    let Some(model) = hub::reference(&text)? else { return Ok(base.join(path)) };
    if model.file.is_some() {
        return Err(Error::usage(format!("`{text}` names a file, and a model is needed"))
            .hint("`json = { path = \"hf://owner/name/tokenizer.json\" }` is for single files"));
    }
    let there = [FILE, "merges.txt"].iter().find_map(|name| model.cached(name));
    match there.as_deref().and_then(Path::parent) {
        Some(dir) => Ok(dir.to_path_buf()),
        // The two that are looked for come last.
        None => model.snapshot(|name| FILES.iter().position(|file| *file == name)),
    }
}

/// `bytes` as text.
///
/// # Errors
/// Bytes that are not UTF-8 (input), with the place of the first.
pub fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|e| {
        let at = e.valid_up_to();
        let (line, column) = place(bytes, at);
        Misfit::not_utf8(at as u64).error(line, column)
    })
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
