//! Tokens on disk, so that a text is encoded once.
//!
//! `FEWSTOK1` | header length (u32, little-endian) | header JSON | tokens (u16 or u32, little-endian). A file is read and
//! written in pieces: in memory are only the tokens.

use super::reading::Reading;
use super::tokens::Tokens;
use crate::error::{Error, Kind, Result};
use crate::fs::{self, write_atomic_from};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::{ErrorKind, Read};
use std::path::Path;

const MAGIC: &[u8; 8] = b"FEWSTOK1";
const FORMAT: u32 = 1;
const MAX_HEADER: usize = 64 << 10;
/// Tokens that are read or written at a time.
const PIECE: usize = 1 << 18;

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

/// A text with what decides its tokens.
#[derive(Debug, Clone, Copy)]
pub struct Of<'a> {
    /// The file, as messages name it.
    pub text: &'a Path,
    /// The size of the vocabulary.
    pub vocab: usize,
    pub source_sha256: &'a str,
    pub tokenizer_sha256: &'a str,
}

/// The tokens of the cache file `path` and their SHA-256; encoded anew if the file is absent or of another text or
/// tokenizer, an error if it is damaged. Without a path nothing is kept.
pub fn cached(path: Option<&Path>, of: Of, encode: impl FnOnce() -> Result<Tokens>) -> Result<(Tokens, String)> {
    let Of { text, vocab, source_sha256, tokenizer_sha256 } = of;
    if let Some(path) = path.filter(|path| path.exists()) {
        let (mut file, bytes) = fs::open(path)?;
        let reading = Reading::begin("reading", path, bytes);
        let (header, begin) = read_header(path, &mut file, bytes)?;
        if header.source_sha256 == source_sha256 && header.tokenizer_sha256 == tokenizer_sha256 {
            let tokens = read_tokens(path, &header, &mut file, begin, &|at| reading.at(at))?;
            return Ok((tokens, header.sha256));
        }
    }
    let tokens = encode()?;
    if tokens.largest().is_some_and(|id| id as usize >= vocab) {
        let found = tokens.iter().enumerate().find(|(_, id)| *id as usize >= vocab);
        let (at, id) = found.unwrap_or_default();
        return Err(Error::input(format!("token {at} has the id {id}, and the vocabulary has {vocab}")));
    }
    let dtype = Dtype::for_vocab(vocab);
    let bytes = (tokens.len() * dtype.size()) as u64;
    let mut hash = Sha256::new();
    pieces(&tokens, dtype, &Reading::begin("hashing the tokens of", text, bytes), &mut |bytes| {
        hash.update(bytes);
        Ok(())
    })
    .map_err(|e| Error::new(Kind::Io, format!("cannot hash the tokens: {e}")))?;
    let (format, length, sha256) = (FORMAT, tokens.len(), fs::hex(&hash.finalize()));
    let (source_sha256, tokenizer_sha256) = (source_sha256.to_string(), tokenizer_sha256.to_string());
    let header = Header { format, vocab, dtype, length, sha256, source_sha256, tokenizer_sha256 };
    let json = serde_json::to_vec(&header).map_err(|e| Error::new(Kind::Io, format!("corpus header: {e}")))?;
    if let Some(path) = path {
        write_atomic_from(path, |out| {
            out.write_all(MAGIC)?;
            out.write_all(&(json.len() as u32).to_le_bytes())?;
            out.write_all(&json)?;
            let reading = Reading::begin("keeping the tokens of", text, bytes);
            pieces(&tokens, dtype, &reading, &mut |bytes| out.write_all(bytes))
        })?;
    }
    Ok((tokens, header.sha256))
}

/// Gives the bytes of `tokens` as they are in a file to `f`.
fn pieces(
    tokens: &Tokens,
    dtype: Dtype,
    reading: &Reading,
    f: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(PIECE * dtype.size());
    for begin in (0..tokens.len()).step_by(PIECE) {
        bytes.clear();
        let ids = tokens.range(begin..tokens.len().min(begin + PIECE));
        match dtype {
            Dtype::U16 => bytes.extend(ids.flat_map(|id| (id as u16).to_le_bytes())),
            Dtype::U32 => bytes.extend(ids.flat_map(u32::to_le_bytes)),
        }
        f(&bytes)?;
        reading.at((begin * dtype.size()) as u64);
    }
    Ok(())
}

/// The error of a file that is not what it should be.
fn wrong(path: &Path, why: String) -> Error {
    let hint = format!("delete the cache file {}; it is made again from the text", path.display());
    Error::input(format!("{} is not a valid token file", path.display())).cause(why).hint(hint)
}

/// Fills `bytes` from `file`, which is a file as long as it was said to be.
fn fill(path: &Path, file: &mut dyn Read, bytes: &mut [u8]) -> Result<()> {
    file.read_exact(bytes).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => wrong(path, "it became shorter while it was read".into()),
        _ => Error::io("read", path, &e),
    })
}

/// The header of a file of `bytes` bytes, and where its tokens begin.
fn read_header(path: &Path, file: &mut dyn Read, bytes: u64) -> Result<(Header, u64)> {
    let wrong = |why: String| wrong(path, why);
    if bytes < 8 {
        return Err(wrong(format!("it has {bytes} bytes, and its first 8 must be FEWSTOK1")));
    }
    let (mut magic, mut length) = ([0; 8], [0; 4]);
    fill(path, file, &mut magic)?;
    if &magic != MAGIC {
        return Err(wrong("at byte 0: it does not begin with FEWSTOK1".into()));
    }
    if bytes < 12 {
        return Err(wrong("at byte 8: the header length is cut off".into()));
    }
    fill(path, file, &mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER || length as u64 > bytes - 12 {
        return Err(wrong(format!("at byte 8: the header length is {length}, and {} bytes follow", bytes - 12)));
    }
    let mut json = vec![0; length];
    fill(path, file, &mut json)?;
    let header: Header = serde_json::from_slice(&json).map_err(|e| wrong(format!("at byte 12: header: {e}")))?;
    let begin = 12 + length as u64;
    if header.format != FORMAT {
        return Err(wrong(format!("at byte 12: format {} is not known, only {FORMAT}", header.format)));
    }
    if header.dtype != Dtype::for_vocab(header.vocab) {
        return Err(wrong(format!(
            "at byte 12: dtype {:?} does not fit a vocabulary of {}",
            header.dtype, header.vocab
        )));
    }
    let (size, data) = (header.dtype.size() as u64, bytes - begin);
    if !data.is_multiple_of(size) {
        return Err(wrong(format!("at byte {}: half a token; the data has {data} bytes", bytes - data % size)));
    }
    if data / size != header.length as u64 {
        let has = data / size;
        return Err(wrong(format!("at byte {begin}: the header says {} tokens, and {has} follow", header.length)));
    }
    Ok((header, begin))
}

/// The tokens behind a header, every byte of them checked; `at` is given the bytes that are done.
fn read_tokens(path: &Path, header: &Header, file: &mut dyn Read, begin: u64, at: &dyn Fn(u64)) -> Result<Tokens> {
    let size = header.dtype.size();
    let (mut tokens, mut hash, mut bytes) = (Tokens::new(header.vocab), Sha256::new(), vec![0; PIECE * size]);
    while tokens.len() < header.length {
        let piece = &mut bytes[..size * PIECE.min(header.length - tokens.len())];
        fill(path, file, piece)?;
        hash.update(&piece);
        for one in piece.chunks_exact(size) {
            let id = match *one {
                [a, b] => u16::from_le_bytes([a, b]).into(),
                [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
                _ => panic!("a token has two bytes or four"),
            };
            if id as usize >= header.vocab {
                let (i, vocab) = (tokens.len(), header.vocab);
                let at = begin + (i * size) as u64;
                return Err(wrong(
                    path,
                    format!("at byte {at}: token {i} has the id {id}, the vocabulary has {vocab}"),
                ));
            }
            tokens.push(id);
        }
        at(begin + (tokens.len() * size) as u64);
    }
    if fs::hex(&hash.finalize()) != header.sha256 {
        return Err(wrong(path, format!("from byte {begin}: the sha256 of the tokens is not that of the header")));
    }
    Ok(tokens)
}

#[cfg(test)]
#[path = "token_file_tests.rs"]
mod tests;
