//! What the pages of a Parquet column announce, read before the library unpacks them.
//!
//! A page header is a Thrift structure in the compact protocol; of it three numbers are taken: the bytes of the page as
//! stored and as unpacked, and how many values a dictionary has, for which the library makes room at once.

use std::fs::File;
use std::io::{self, BufReader, Error, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;

use flate2::read::MultiGzDecoder;
use parquet::basic::Compression;

use crate::room::shown;

/// Bytes that a page may unpack to at most.
const MAX_PAGE: u64 = 256 << 20;
/// Bytes of a page header, which may hold the smallest and largest value.
const MAX_HEADER: u64 = 16 << 20;
/// Structures within structures.
const MAX_DEPTH: usize = 16;
/// The encodings of text in which few bytes can stand for many values, or for long ones.
const DELTAS: [(i64, &str); 2] = [(6, "DELTA_LENGTH_BYTE_ARRAY"), (7, "DELTA_BYTE_ARRAY")];

/// The numbers of a page header.
#[derive(Debug, Default, PartialEq)]
struct Header {
    unpacked: i64,
    stored: i64,
    /// Values of a dictionary.
    words: Option<i64>,
    encoding: Option<i64>,
    /// Bytes in front of a second version's page that are never packed.
    levels: i64,
}

/// The length that a file's footer has, as its end says; none where it does not end as such a file does.
pub fn footer(mut file: &File, length: u64) -> io::Result<Option<u32>> {
    let mut end = [0; 8];
    if length < 12 {
        return Ok(None);
    }
    file.seek(SeekFrom::End(-8))?;
    file.read_exact(&mut end)?;
    let [a, b, c, d, magic @ ..] = end;
    Ok((&magic == b"PAR1" || &magic == b"PARE").then(|| u32::from_le_bytes([a, b, c, d])))
}

/// Looks at every page in the bytes `place` of a file; what is wrong with one is the inner error. All pages of a column
/// unpack to at most `most` bytes.
pub fn check(file: &File, place: Range<u64>, how: Compression, most: u64) -> io::Result<Result<(), String>> {
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let (mut at, mut all) = (place.start, 0);
    while at < place.end {
        reader.seek(SeekFrom::Start(at))?;
        let mut counted = Counted { inner: &mut reader, left: MAX_HEADER.min(place.end - at) };
        let before = counted.left;
        let header = match page_header(&mut counted) {
            Err(e) if [ErrorKind::InvalidData, ErrorKind::UnexpectedEof].contains(&e.kind()) => {
                return Ok(Err(format!("the header of the page at byte {at}: {e}")));
            }
            header => header?,
        };
        at += before - counted.left;
        let (Ok(stored), Ok(unpacked)) = (u64::try_from(header.stored), u64::try_from(header.unpacked)) else {
            return Ok(Err(format!("the page at byte {at} has a negative length")));
        };
        if stored > place.end - at {
            return Ok(Err(format!("the page at byte {at} is cut off")));
        }
        all += unpacked;
        if unpacked > MAX_PAGE || all > most {
            let much = shown(unpacked.max(all).into());
            return Ok(Err(format!("up to the page at byte {at} it unpacks to {much}, more than is read")));
        }
        // A text of a dictionary takes four bytes at least.
        if header.words.is_some_and(|n| u64::try_from(n).is_ok_and(|n| n > unpacked / 4)) {
            return Ok(Err(format!("the dictionary at byte {at} announces more values than it can hold")));
        }
        if let Some((_, name)) = DELTAS.iter().find(|(n, _)| header.encoding == Some(*n)) {
            return Ok(Err(format!("the page at byte {at} is encoded as {name}, and PLAIN and dictionaries are read")));
        }
        if matches!(how, Compression::GZIP(_)) {
            // The library unpacks such a page to its end, whatever its header says.
            let levels = u64::try_from(header.levels).unwrap_or(0).min(stored);
            reader.seek(SeekFrom::Start(at + levels))?;
            let mut packed = MultiGzDecoder::new((&mut reader).take(stored - levels)).take(unpacked + 1);
            // A page that cannot be unpacked is the library's to refuse.
            let n = io::copy(&mut packed, &mut io::sink()).unwrap_or(0);
            if n > unpacked {
                return Ok(Err(format!("the page at byte {at} unpacks to more than it announces")));
            }
        }
        at += stored;
    }
    Ok(Ok(()))
}

/// A reader of so many bytes at most.
struct Counted<'a, R> {
    inner: &'a mut R,
    left: u64,
}

impl<R: Read> Counted<'_, R> {
    fn byte(&mut self) -> io::Result<u8> {
        let mut one = [0];
        self.left = self.left.checked_sub(1).ok_or_else(|| invalid("it has no end"))?;
        self.inner.read_exact(&mut one)?;
        Ok(one[0])
    }

    /// An unsigned number in groups of seven bits.
    fn unsigned(&mut self) -> io::Result<u64> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            n |= u64::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(invalid("a number is too long"))
    }

    fn signed(&mut self) -> io::Result<i64> {
        let n = self.unsigned()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| invalid("it has no end"))?;
        let n = io::copy(&mut (&mut *self.inner).take(bytes), &mut io::sink())?;
        if n < bytes { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Calls `field` with the number and type of each field of a structure; it reads the value.
    fn fields(&mut self, field: &mut dyn FnMut(&mut Self, i64, u8) -> io::Result<()>) -> io::Result<()> {
        let mut id = 0;
        loop {
            let b = self.byte()?;
            let (delta, kind) = (i64::from(b >> 4), b & 0xf);
            if kind == 0 {
                return Ok(());
            }
            id = if delta == 0 { self.signed()? } else { id + delta };
            field(self, id, kind)?;
        }
    }

    /// Passes over a value.
    fn pass(&mut self, kind: u8, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(invalid("it is nested too deeply"));
        }
        match kind {
            1 | 2 => Ok(()),
            3 => self.skip(1),
            4..=6 => self.unsigned().map(|_| ()),
            7 => self.skip(8),
            8 => {
                let n = self.unsigned()?;
                self.skip(n)
            }
            9 | 10 => {
                let b = self.byte()?;
                let n = if b >> 4 == 15 { self.unsigned()? } else { u64::from(b >> 4) };
                // An item of a list is a byte at least, even true and false.
                let item = if b & 0xf <= 2 { 3 } else { b & 0xf };
                (0..n).try_for_each(|_| self.pass(item, depth + 1))
            }
            12 => self.fields(&mut |r, _, kind| r.pass(kind, depth + 1)),
            _ => Err(invalid("it has a value of an unknown type")),
        }
    }
}

fn page_header<R: Read>(reader: &mut Counted<R>) -> io::Result<Header> {
    let mut header = Header::default();
    reader.fields(&mut |r, id, kind| match (id, kind) {
        (2, 4..=6) => r.signed().map(|n| header.unpacked = n),
        (3, 4..=6) => r.signed().map(|n| header.stored = n),
        // The headers of a data page, of a dictionary, and of a second version's data page.
        (5 | 7 | 8, 12) => r.fields(&mut |r, inner, kind| match (id, inner, kind) {
            (5, 2, 4..=6) | (8, 4, 4..=6) => r.signed().map(|n| header.encoding = Some(n)),
            (8, 5 | 6, 4..=6) => r.signed().map(|n| header.levels = header.levels.saturating_add(n)),
            (7, 1, 4..=6) => r.signed().map(|n| header.words = Some(n)),
            _ => r.pass(kind, 2),
        }),
        _ => r.pass(kind, 1),
    })?;
    Ok(header)
}

fn invalid(why: &str) -> Error {
    Error::new(ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Header> {
        let mut inner = bytes;
        page_header(&mut Counted { inner: &mut inner, left: 1 << 20 })
    }

    #[test]
    fn the_numbers_of_a_page_header_are_read_and_the_rest_is_passed_over() {
        // type 2, unpacked 300, stored 10, a dictionary of 7 values in encoding 0, and a list of two true values.
        let bytes =
            [0x15, 0x04, 0x15, 0xd8, 0x04, 0x15, 0x14, 0x4c, 0x15, 0x0e, 0x15, 0x00, 0x00, 0x59, 0x21, 1, 1, 0x00];
        let want = Header { unpacked: 300, stored: 10, words: Some(7), encoding: None, levels: 0 };
        assert_eq!(read(&bytes).unwrap(), want);
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn a_header_without_an_end_or_with_endless_nesting_is_refused() {
        assert!(read(&[0x1c; 1000]).unwrap_err().to_string().contains("nested"));
        assert!(read(&[0x18, 0xff, 0xff, 0xff, 0xff, 0x0f]).unwrap_err().to_string().contains("no end"));
        assert!(read(&[0x15, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
    }
}
