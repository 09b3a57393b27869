//! What the first bytes and the length of a text file say before it is read: a compressed file, a byte order mark, a text
//! that is too short for one window.

use std::io::Read;
use std::path::Path;

use super::corpus::{DEFAULT_VALID_FRACTION, files};
use super::rows::Format;
use super::text_config::{Paths, TextConfig};
use super::tokenizer::TokenizerConfig;
use crate::error::{Error, Result, typed};
use crate::fs::open;

/// First bytes of compressed files, what they are called, and what unpacks them.
const PACKED: [(&[u8], &str, &str); 4] = [
    (b"\x1f\x8b", "gzip", "gunzip -k"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -d"),
    (b"\xfd7zXZ\0", "xz", "xz -dk"),
    (b"PK\x03\x04", "zip", "unzip"),
];

const MARK: &[u8] = "\u{feff}".as_bytes();

/// Checks the files that `config` names, where they are there; what else is wrong with them is told when they are read.
///
/// # Errors
/// A compressed file or a byte order mark (kind input), a text that is shorter than a window (usage).
pub fn check(config: &TextConfig, base: &Path) -> Result<()> {
    let raw = config.tokenizer == TokenizerConfig::Bytes;
    let paths = files(base, &config.path)?;
    let bytes = all(base, &config.path, raw)?;
    let other = config.valid_path.as_ref().map(|valid| all(base, valid, raw)).transpose()?;
    // Only there a token is at least a byte. A document that is shorter than a window is filled up.
    let counts = (raw || config.tokenizer == TokenizerConfig::Char) && config.documents.is_none();
    let text = paths.iter().all(|path| Format::of(path) == Format::Text);
    let (Some(bytes), true) = (bytes, counts && text) else { return Ok(()) };
    let parts = match other {
        Some(valid) => [("training", bytes), ("validation", valid.unwrap_or(u64::MAX))],
        None => {
            let tail = (bytes as f64 * config.valid_fraction.unwrap_or(DEFAULT_VALID_FRACTION)).round() as u64;
            [("training", bytes - tail.min(bytes) / 2), ("validation", tail)]
        }
    };
    match parts.into_iter().find(|(_, n)| *n < config.length as u64) {
        Some((split, n)) => Err(super::corpus::too_short(
            split,
            &format!("at most {n} of the {bytes} bytes in {}", paths[0].display()),
            {
                // Half of the validation text may be given up for a clean start.
                parts.iter().map(|(_, n)| n / 2).min().unwrap_or(0) as usize
            },
            config.length,
        )),
        None => Ok(()),
    }
}

/// Bytes of all files, if each is there.
fn all(base: &Path, paths: &Paths, raw: bool) -> Result<Option<u64>> {
    files(base, paths)?.iter().try_fold(Some(0), |sum, path| Ok(sum.zip(file(path, raw)?).map(|(a, b)| a + b)))
}

/// Bytes of the file, if it is there and a file; `raw` says that any bytes may be text.
fn file(path: &Path, raw: bool) -> Result<Option<u64>> {
    let Ok(about) = std::fs::metadata(path) else { return Ok(None) };
    if !about.is_file() || about.len() == 0 {
        return Ok(None);
    }
    let rows = Format::of(path) == Format::Jsonl;
    if Format::of(path) == Format::Parquet || (raw && !rows) {
        return Ok(Some(about.len()));
    }
    let mut start = Vec::new();
    open(path)?.0.take(8).read_to_end(&mut start).map_err(|e| Error::io("read", path, &e))?;
    let shown = path.display();
    if let Some((_, kind, unpack)) = PACKED.iter().find(|(magic, ..)| start.starts_with(magic)) {
        return Err(Error::input(format!("{shown} is compressed ({kind}), and text is read as it is"))
            .hint(format!("unpack it, and name the file that this gives: `{unpack} {}`", typed(&shown.to_string()))));
    }
    // A reader of rows passes over it; in a text it would be the first token.
    if start.starts_with(MARK) && !rows {
        return Err(Error::input(format!("{shown} begins with a byte order mark, which would be its first token"))
            .hint(format!("take it away: `sed -i '1s/^\\xEF\\xBB\\xBF//' {}`", typed(&shown.to_string()))));
    }
    Ok(Some(about.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &[u8], name: &str, more: &str) -> std::result::Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), text).unwrap();
        let config: TextConfig = toml::from_str(&format!("path = \"{name}\"\n{more}")).unwrap();
        check(&config, dir.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_compressed_text_and_a_byte_order_mark_are_told_with_the_command_that_mends_them() {
        let char = "tokenizer = \"char\"\nlength = 4";
        for (magic, kind, unpack) in PACKED {
            let packed = [magic, &[b'x'; 400]].concat();
            let said = of(&packed, "a.txt", char).unwrap_err();
            assert!(said.contains(kind) && said.contains(&format!("`{unpack} ")), "{said}");
            assert!(of(&packed, "a.jsonl", char).unwrap_err().contains(kind));
            // Any bytes are a text of bytes.
            assert_eq!(of(&packed, "a.txt", "tokenizer = \"bytes\"\nlength = 4"), Ok(()));
        }
        let marked = format!("\u{feff}{}", "text ".repeat(100));
        assert!(of(marked.as_bytes(), "a.txt", char).unwrap_err().contains("byte order mark"));
        assert_eq!(of(marked.as_bytes(), "a.jsonl", char), Ok(()));
    }

    #[test]
    fn a_text_that_is_shorter_than_a_window_is_too_short_whatever_its_alphabet() {
        let text =
            b"only a hundred bytes, and the last five of them, which are for validation, have other letters: ,;.:!";
        let said = of(text, "a.txt", "tokenizer = \"char\"\nlength = 256").unwrap_err();
        assert!(said.contains("`data.text.length = 256`") && said.contains("of the 100 bytes"), "{said}");
        // What the hint says has a window in both splits.
        let said = of(&b"word ".repeat(200), "a.txt", "tokenizer = \"bytes\"\nlength = 256").unwrap_err();
        let fits = said.rsplit_once("data.text.length = ").unwrap().1.trim_end_matches('`').to_string();
        assert_eq!(of(&b"word ".repeat(200), "a.txt", &format!("tokenizer = \"bytes\"\nlength = {fits}")), Ok(()));
    }
}
