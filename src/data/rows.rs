//! The texts of a file one after the other: a whole text file, the lines of a JSONL file, or the rows of a Parquet file.
//!
//! A reader holds one line (at most 64 MiB), or one page of a column, whatever the length of the file.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::reading::Reading;
use super::tokenizer::utf8;
use crate::error::{Error, Result};
use crate::fs::{open, read_limited};

mod columns;
mod pages;

const MAX_TEXT: u64 = 16 << 30;
const MAX_LINE: u64 = 64 << 20;

/// How a file holds its texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One text.
    Text,
    /// A JSON object on each line.
    Jsonl,
    Parquet,
}

impl Format {
    /// By the end of the file's name.
    pub fn of(path: &Path) -> Format {
        match path.extension().map(|e| e.to_string_lossy().to_lowercase()).as_deref() {
            Some("jsonl" | "ndjson") => Format::Jsonl,
            Some("parquet") => Format::Parquet,
            _ => Format::Text,
        }
    }
}

/// What [`each`] gives a row of: its number, from 1 (of a JSONL file the line's), and its text.
pub type Each<'a> = &'a mut dyn FnMut(u64, &str) -> Result<()>;

/// Gives every text of a column of a file to `each`, in order; of a text file, the whole. Returns how many rows had none (null).
///
/// # Errors
/// A file or row that is not what it should be (kind input, with the row), and those of `each`.
pub fn each(path: &Path, column: &str, reading: &Reading, each: Each) -> Result<u64> {
    match Format::of(path) {
        Format::Text => {
            let bytes = read_limited(path, MAX_TEXT)?;
            let text =
                utf8(&bytes).map_err(|e| Error { message: format!("{}: {}", path.display(), e.message), ..e })?;
            each(1, text).map(|()| 0)
        }
        Format::Jsonl => lines(path, column, reading, each),
        Format::Parquet => columns::each(path, column, reading, each),
    }
}

fn lines(path: &Path, column: &str, reading: &Reading, each: Each) -> Result<u64> {
    let (file, length) = open(path)?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    // Room for the longest line at once, of which a system gives what is written to: a list that grows takes three times its
    // length for a moment.
    let mut line = Vec::with_capacity(length.min(MAX_LINE + 1) as usize);
    let (mut number, mut without, mut done) = (0, 0, 0);
    loop {
        line.clear();
        number += 1;
        let wrong = |why: String| Error::input(format!("{} line {number}: {why}", path.display()));
        let n =
            (&mut reader).take(MAX_LINE + 1).read_until(b'\n', &mut line).map_err(|e| Error::io("read", path, &e))?;
        if n == 0 {
            return Ok(without);
        }
        done += n as u64;
        reading.at(done);
        if n as u64 > MAX_LINE {
            return Err(wrong(format!("it is longer than {MAX_LINE} bytes"))
                .hint("a .jsonl file has one object on each line; a list over several lines is another format"));
        }
        // A byte order mark at the start of a file is not part of its first line.
        let line = if number == 1 { line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&line) } else { &line };
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let mut json = serde_json::Deserializer::from_slice(line);
        let row = Wanted(column).deserialize(&mut json).and_then(|row| json.end().map(|()| row));
        let row = row.map_err(|e| {
            wrong("not a JSON object".into())
                .cause(fault(&e))
                .hint("a .jsonl file has one object on each line, such as {\"text\": \"..\"}")
        })?;
        match row {
            Row::Here(Field::Text(text)) => each(number, &text)?,
            Row::Here(Field::Null) => without += 1,
            Row::Here(Field::Other(kind)) => {
                return Err(wrong(format!("`{column}` is {kind}, and text is needed"))
                    .hint("`data.text.column` names the key of the text"));
            }
            Row::Absent(keys) => {
                let keys: Vec<String> = keys.iter().map(|k| format!("`{k}`")).collect();
                return Err(wrong(format!("there is no `{column}`"))
                    .cause(format!("its keys are {}", keys.join(", ")))
                    .hint("`data.text.column` names the key of the text"));
            }
        }
    }
}

/// What the JSON library says, without its own count of lines: a line of the file is all that it sees.
fn fault(e: &serde_json::Error) -> String {
    let said = e.to_string();
    match said.rsplit_once(" at line ") {
        Some((what, _)) if e.column() > 0 => format!("{what} at column {}", e.column()),
        Some((what, _)) => format!("{what} at the end of the line"),
        None => said,
    }
}

/// What a line has under the wanted key; the values of other keys are passed over, and take no memory.
enum Row {
    Here(Field),
    /// The first of its keys.
    Absent(BTreeSet<String>),
}

enum Field {
    Text(String),
    Null,
    /// What it is instead.
    Other(&'static str),
}

/// The key that is wanted of an object.
struct Wanted<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Row;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Row, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Row;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Row, A::Error> {
        let (mut field, mut keys) = (None, BTreeSet::new());
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                field = Some(map.next_value()?);
                continue;
            }
            map.next_value::<IgnoredAny>()?;
            if keys.len() < 20 {
                keys.insert(key);
            }
        }
        Ok(field.map_or(Row::Absent(keys), Row::Here))
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Kind;
        impl<'de> Visitor<'de> for Kind {
            type Value = Field;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_str<E>(self, text: &str) -> std::result::Result<Field, E> {
                Ok(Field::Text(text.to_string()))
            }
            fn visit_string<E>(self, text: String) -> std::result::Result<Field, E> {
                Ok(Field::Text(text))
            }
            fn visit_unit<E>(self) -> std::result::Result<Field, E> {
                Ok(Field::Null)
            }
            fn visit_bool<E>(self, _: bool) -> std::result::Result<Field, E> {
                Ok(Field::Other("true or false"))
            }
            fn visit_i64<E>(self, _: i64) -> std::result::Result<Field, E> {
                Ok(Field::Other("a number"))
            }
            fn visit_u64<E>(self, _: u64) -> std::result::Result<Field, E> {
                Ok(Field::Other("a number"))
            }
            fn visit_f64<E>(self, _: f64) -> std::result::Result<Field, E> {
                Ok(Field::Other("a number"))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Field, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Field::Other("a list"))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Field, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Field::Other("an object"))
            }
        }
        deserializer.deserialize_any(Kind)
    }
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
