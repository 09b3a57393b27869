//! A text of one file or several, one after the other, read in pieces, so that memory does not depend on its length.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::reading::Reading;
use crate::error::{Error, Result};
use crate::fs;

const MAX_TEXT: u64 = 16 << 30;
/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// What does not fit into a text: a byte that is not UTF-8, or what the vocabulary has not. `at` counts the text's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    pub at: u64,
    /// The message up to the place, and what follows it.
    pub what: (String, &'static str),
    pub hint: &'static str,
}

impl Misfit {
    /// The byte `at` is not UTF-8.
    pub fn not_utf8(at: u64) -> Misfit {
        let hint = "convert the file to UTF-8, or take it as it is with tokenizer = \"bytes\"";
        Misfit { at, what: ("the text is not UTF-8".into(), ""), hint }
    }

    /// `what` at the byte `at` has no token.
    pub fn unknown(what: String, at: u64) -> Misfit {
        let hint = "leave it out of the text, or take another tokenizer: \"bytes\" knows every text";
        Misfit { at, what: (what, " is not in the vocabulary"), hint }
    }

    /// As an error (kind input), at this line and column.
    pub fn error(self, line: usize, column: usize) -> Error {
        let (what, behind) = self.what;
        Error::input(format!("{what} at byte {} (line {line}, column {column}){behind}", self.at)).hint(self.hint)
    }
}

/// What is given the pieces of a text, each with the offset that it begins at.
pub type EachStr<'a> = &'a mut dyn FnMut(u64, &str) -> Result<()>;

/// An open text; its bytes are counted over all files.
pub struct Text {
    files: Vec<Source>,
    /// What messages call it.
    name: PathBuf,
}

/// A file of a text, and where in the text it begins.
struct Source {
    path: PathBuf,
    file: File,
    begin: u64,
    bytes: u64,
}

impl Text {
    /// Opens the files `paths`, of which there is one at least.
    ///
    /// # Errors
    /// A path that is not a regular file, a file that is empty or longer than 16 GiB (input).
    pub fn open(paths: &[PathBuf]) -> Result<Text> {
        let (mut files, mut begin) = (Vec::new(), 0);
        for path in paths {
            let source = Source::open(path, begin)?;
            begin += source.bytes;
            files.push(source);
        }
        let first = paths[0].display();
        let name = if let [one] = paths { one.clone() } else { format!("{first} and {} more", paths.len() - 1).into() };
        Ok(Text { files, name })
    }

    /// Its path; of several files, words for them.
    pub fn path(&self) -> &Path {
        &self.name
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.files.last().map_or(0, |last| last.begin + last.bytes)
    }

    /// The part of the text that each file is.
    pub fn files(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.files.iter().map(|source| source.begin..source.begin + source.bytes)
    }

    /// Gives the bytes of `part` to `f`, piece by piece.
    pub fn each(&self, part: Range<u64>, f: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.files.iter().try_for_each(|source| source.each(source.within(&part), f))
    }

    /// As [`Text::each`], in pieces of whole characters; with each the offset in the text that it begins at.
    pub fn each_str(&self, part: Range<u64>, f: EachStr) -> Result<()> {
        self.files.iter().try_for_each(|source| source.each_str(source.within(&part), f))
    }

    /// SHA-256 of `part`, which goes through `f` on the way.
    pub fn hashed(&self, part: &Range<u64>, reading: &Reading, text: Option<EachStr>) -> Result<String> {
        let mut hash = Sha256::new();
        match text {
            None => {
                let mut at = part.start;
                self.each(part.clone(), &mut |piece| {
                    hash.update(piece);
                    at += piece.len() as u64;
                    reading.at(at);
                    Ok(())
                })?;
            }
            Some(f) => self.each_str(part.clone(), &mut |at, text| {
                hash.update(text);
                reading.at(at);
                f(at, text)
            })?,
        }
        Ok(fs::hex(&hash.finalize()))
    }

    /// The error of a byte that does not fit, with its file, line and column.
    pub fn misfit(&self, wrong: Misfit) -> Error {
        match self.files.iter().rfind(|source| source.begin <= wrong.at) {
            Some(source) => source.misfit(Misfit { at: wrong.at - source.begin, ..wrong }),
            None => panic!("a text has a file that begins at its first byte"),
        }
    }

    /// The error of a text that is another one now.
    pub fn changed(&self) -> Error {
        changed(&self.name)
    }

    /// Where validation begins: about `fraction` before the end, after a line if one ends near, never inside a character.
    pub fn split(&self, fraction: f64) -> Result<u64> {
        if !(fraction > 0.0 && fraction < 1.0) {
            return Err(Error::usage(format!("`valid_fraction` is {fraction}, and must be above 0 and below 1")));
        }
        let tail = (self.bytes() as f64 * fraction).round() as u64;
        let cut = self.bytes() - tail.min(self.bytes());
        // Half of the validation text at most is given up for a clean start.
        let end = cut + tail / 2;
        if let Some(line) = self.find(cut..end, |b| b == b'\n')? {
            return Ok(line + 1);
        }
        Ok(self.find(cut..self.bytes(), |b| b & 0xc0 != 0x80)?.unwrap_or(self.bytes()))
    }

    /// The first byte of `part` that is `wanted`.
    fn find(&self, part: Range<u64>, wanted: impl Fn(u8) -> bool) -> Result<Option<u64>> {
        let (mut at, mut found) = (part.start, None);
        while found.is_none() && at < part.end {
            let next = part.end.min(at + PIECE as u64);
            self.each(at..next, &mut |piece| {
                found = found.or(piece.iter().position(|b| wanted(*b)).map(|i| at + i as u64));
                at += piece.len() as u64;
                Ok(())
            })?;
        }
        Ok(found)
    }
}

impl Source {
    fn open(path: &Path, begin: u64) -> Result<Source> {
        let (file, bytes) = fs::open(path)?;
        let shown = path.display();
        match bytes {
            0 => Err(Error::input(format!("{shown}: the corpus is empty"))),
            n if n > MAX_TEXT => Err(Error::input(format!("{shown} is too long"))
                .cause(format!("it has {n} bytes, at most {MAX_TEXT} are read"))),
            _ => Ok(Source { path: path.to_path_buf(), file, begin, bytes }),
        }
    }

    /// What of a part of the text lies in this file, counted from its own first byte.
    fn within(&self, part: &Range<u64>) -> Range<u64> {
        let own = |at: u64| at.clamp(self.begin, self.begin + self.bytes) - self.begin;
        own(part.start)..own(part.end)
    }

    fn each(&self, part: Range<u64>, f: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let io = |e: std::io::Error| Error::io("read", &self.path, &e);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(part.start)).map_err(io)?;
        let mut left = part.end - part.start;
        let mut piece = vec![0; left.min(PIECE as u64) as usize];
        while left > 0 {
            let n = left.min(PIECE as u64) as usize;
            file.read_exact(&mut piece[..n]).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => changed(&self.path),
                _ => io(e),
            })?;
            f(&piece[..n])?;
            left -= n as u64;
        }
        Ok(())
    }

    /// A file ends in a whole character, whatever the next one begins with.
    fn each_str(&self, part: Range<u64>, f: EachStr) -> Result<()> {
        let (mut rest, mut at) = (Vec::new(), part.start);
        self.each(part, &mut |piece| {
            rest.extend_from_slice(piece);
            let valid = match std::str::from_utf8(&rest) {
                Ok(_) => rest.len(),
                // A character that the next piece completes.
                Err(e) if e.error_len().is_none() => e.valid_up_to(),
                Err(e) => return Err(self.misfit(Misfit::not_utf8(at + e.valid_up_to() as u64))),
            };
            let text = std::str::from_utf8(&rest[..valid]).map_err(|_| changed(&self.path))?;
            f(self.begin + at, text)?;
            at += valid as u64;
            rest.drain(..valid);
            Ok(())
        })?;
        if rest.is_empty() { Ok(()) } else { Err(self.misfit(Misfit::not_utf8(at))) }
    }

    /// The error of the file's byte `wrong.at`; a walk through the file finds its line and column.
    fn misfit(&self, wrong: Misfit) -> Error {
        let (mut line, mut column) = (1, Vec::new());
        let walked = self.each(0..wrong.at, &mut |piece| {
            line += piece.iter().filter(|b| **b == b'\n').count();
            match piece.iter().rposition(|b| *b == b'\n') {
                Some(end) => column = piece[end + 1..].to_vec(),
                None => column.extend_from_slice(piece),
            }
            Ok(())
        });
        if let Err(e) = walked {
            return e;
        }
        let e = wrong.error(line, String::from_utf8_lossy(&column).chars().count() + 1);
        Error { message: format!("{}: {}", self.path.display(), e.message), ..e }
    }
}

/// The error of a file that is another one now.
fn changed(path: &Path) -> Error {
    Error::input(format!("{} changed while it was read", path.display()))
        .hint("run the same command again when nothing writes to the file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(bytes: &[u8]) -> (tempfile::TempDir, Text) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        std::fs::write(&path, bytes).unwrap();
        (dir, Text::open(&[path]).unwrap())
    }

    #[test]
    fn characters_over_the_border_of_two_pieces_stay_whole() {
        for shift in 0..4 {
            let text = format!("{}{}", "a".repeat(shift), "𝄞".repeat(PIECE / 2));
            let (_dir, file) = open(text.as_bytes());
            let mut back = String::new();
            file.each_str(0..file.bytes(), &mut |at, piece| {
                assert_eq!(at as usize, back.len());
                back.push_str(piece);
                Ok(())
            })
            .unwrap();
            assert!(back == text);
        }
    }

    #[test]
    fn a_wrong_byte_in_a_later_piece_is_told_with_its_line_and_column() {
        let mut bytes = vec![b'a'; PIECE - 1];
        bytes.extend("\nä€".as_bytes());
        bytes.extend([0xff, b'x']);
        let (_dir, file) = open(&bytes);
        let e = file.each_str(0..file.bytes(), &mut |_, _| Ok(())).unwrap_err();
        let at = bytes.len() - 2;
        assert!(e.message.ends_with(&format!("t: the text is not UTF-8 at byte {at} (line 2, column 3)")), "{e}");
        // Half a character at the end.
        let (_dir, file) = open(&"aé".as_bytes()[..2]);
        let e = file.each_str(0..file.bytes(), &mut |_, _| Ok(())).unwrap_err();
        assert!(e.message.contains("at byte 1 (line 1, column 2)"), "{e}");
    }

    #[test]
    fn the_hash_of_the_pieces_is_that_of_the_part() {
        let bytes = "é\n".repeat(PIECE).into_bytes();
        let (_dir, file) = open(&bytes);
        let reading = Reading::begin("reading", file.path(), file.bytes());
        let part = 3..file.bytes() - 3;
        let want = fs::sha256_hex(&bytes[3..bytes.len() - 3]);
        assert_eq!(file.hashed(&part, &reading, None).unwrap(), want);
        let mut length = 0;
        let mut count = |_: u64, text: &str| {
            length += text.len();
            Ok(())
        };
        assert_eq!(file.hashed(&part, &reading, Some(&mut count)).unwrap(), want);
        assert_eq!(length, bytes.len() - 6);
    }

    #[test]
    fn a_file_that_is_cut_while_it_is_read_is_an_error() {
        let (dir, file) = open(&[b'a'; 100]);
        std::fs::write(dir.path().join("t"), "short").unwrap();
        assert!(file.each(0..100, &mut |_| Ok(())).unwrap_err().message.contains("changed while it was read"));
    }
    #[test]
    fn several_files_are_one_text_and_a_fault_is_told_with_its_own_file_and_place() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = ["a", "b", "c"].map(|n| dir.path().join(n)).to_vec();
        std::fs::write(&paths[0], "one\n").unwrap();
        std::fs::write(&paths[1], "two é\n").unwrap();
        std::fs::write(&paths[2], b"three\nx\xff").unwrap();
        let text = Text::open(&paths[..2]).unwrap();
        let (mut back, mut places) = (String::new(), Vec::new());
        text.each_str(2..text.bytes(), &mut |at, piece| {
            places.push(at);
            back.push_str(piece);
            Ok(())
        })
        .unwrap();
        assert_eq!((back.as_str(), &places[..]), ("e\ntwo é\n", &[2, 4][..]));
        assert!(text.path().display().to_string().ends_with("a and 1 more"));
        assert_eq!(text.split(0.7).unwrap(), 4, "behind the line end of the first file");
        let e = Text::open(&paths).unwrap();
        let e = e.each_str(0..e.bytes(), &mut |_, _| Ok(())).unwrap_err();
        assert!(e.message.ends_with("c: the text is not UTF-8 at byte 7 (line 2, column 2)"), "{e}");
        // A character does not begin in one file and end in the next.
        std::fs::write(&paths[0], &"é".as_bytes()[..1]).unwrap();
        std::fs::write(&paths[1], &"é".as_bytes()[1..]).unwrap();
        let halves = Text::open(&paths[..2]).unwrap();
        assert!(halves.each_str(0..2, &mut |_, _| Ok(())).is_err());
    }
}
