//! The texts of a file one after the other: a whole text file, the lines of a JSONL file, or the rows of a Parquet file.
//!
//! A reader holds one line (at most 64 MiB), or one page of a column, whatever the length of the file.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Map, Value};

use super::tokenizer::utf8;
use crate::error::{Error, Result};
use crate::fs::read_limited;

const MAX_TEXT: u64 = 16 << 30;
const MAX_LINE: u64 = 64 << 20;
/// Rows that are taken from a page at a time.
const ROWS: usize = 64;

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

/// Gives every text of `column` to `each`, in order; of a text file, the whole. Returns how many rows had none (null).
///
/// Errors: a file or row that is not what it should be (kind input, with the row), and those of `each`.
pub fn each(path: &Path, column: &str, each: Each) -> Result<u64> {
    match Format::of(path) {
        Format::Text => {
            let bytes = read_limited(path, MAX_TEXT)?;
            let text =
                utf8(&bytes).map_err(|e| Error { message: format!("{}: {}", path.display(), e.message), ..e })?;
            each(1, text).map(|()| 0)
        }
        Format::Jsonl => lines(path, column, each),
        Format::Parquet => parquet_rows(path, column, each),
    }
}

fn open(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::input(format!("{} does not exist", path.display()))
            .hint("check the path; relative paths start at the recipe that names them"),
        _ => Error::io("read", path, &e),
    })?;
    match file.metadata().map_err(|e| Error::io("read", path, &e))?.is_file() {
        true => Ok(file),
        false => Err(Error::input(format!("{} is not a regular file", path.display()))),
    }
}

fn lines(path: &Path, column: &str, each: Each) -> Result<u64> {
    let mut reader = BufReader::with_capacity(1 << 20, open(path)?);
    let (mut line, mut number, mut without) = (Vec::new(), 0, 0);
    loop {
        line.clear();
        number += 1;
        let wrong = |why: String| Error::input(format!("{} line {number}: {why}", path.display()));
        let n =
            (&mut reader).take(MAX_LINE + 1).read_until(b'\n', &mut line).map_err(|e| Error::io("read", path, &e))?;
        if n == 0 {
            return Ok(without);
        }
        if n as u64 > MAX_LINE {
            return Err(wrong(format!("it is longer than {MAX_LINE} bytes"))
                .hint("a .jsonl file has one object on each line; a list over several lines is another format"));
        }
        // A byte order mark at the start of a file is not part of its first line.
        let line = if number == 1 { line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&line) } else { &line };
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let row: Map<String, Value> = serde_json::from_slice(line).map_err(|e| {
            wrong("not a JSON object".into())
                .cause(fault(&e))
                .hint("a .jsonl file has one object on each line, such as {\"text\": \"..\"}")
        })?;
        match row.get(column) {
            Some(Value::String(text)) => each(number, text)?,
            Some(Value::Null) => without += 1,
            Some(other) => {
                let kind = match other {
                    Value::Array(_) => "a list",
                    Value::Object(_) => "an object",
                    Value::Bool(_) => "true or false",
                    _ => "a number",
                };
                return Err(wrong(format!("`{column}` is {kind}, and text is needed"))
                    .hint("`data.text.column` names the key of the text"));
            }
            None => {
                let keys: Vec<String> = row.keys().take(20).map(|k| format!("`{k}`")).collect();
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

/// Runs `work` of the library on a file that may be crafted to make it panic.
fn guarded<T>(wrong: impl Fn(String) -> Error, work: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|e| wrong(e.to_string())),
        Err(_) => Err(wrong("the parquet library failed on it".into())),
    }
}

fn parquet_rows(path: &Path, column: &str, each: Each) -> Result<u64> {
    let file = open(path)?;
    let wrong = |why: String| {
        Error::input(format!("{} is not a Parquet file that can be read", path.display()))
            .cause(why)
            .hint("it may be cut off: load it again; compressions that are read: snappy, zstd, gzip")
    };
    let reader = guarded(wrong, || SerializedFileReader::new(file))?;
    let (place, largest) = find(&reader, path, column)?;
    let (mut number, mut without) = (0u64, 0);
    for group in 0..reader.metadata().num_row_groups() {
        let mut values = guarded(wrong, || match reader.get_row_group(group)?.get_column_reader(place)? {
            ColumnReader::ByteArrayColumnReader(values) => Ok(values),
            _ => Err(parquet::errors::ParquetError::General("another type of column than the schema says".into())),
        })?;
        loop {
            let (levels, texts) = guarded(wrong, || read(&mut values, largest))?;
            if levels.is_empty() {
                break;
            }
            let mut texts = texts.into_iter();
            for level in levels {
                number += 1;
                if level < largest {
                    without += 1;
                    continue;
                }
                let row = || format!("{} row {number}: `{column}`", path.display());
                let text = texts.next().ok_or_else(|| wrong(format!("row {number} has no value")))?;
                let text = std::str::from_utf8(text.data())
                    .map_err(|e| Error::input(format!("{} is not UTF-8", row())).cause(e.to_string()))?;
                each(number, text)?;
            }
        }
    }
    Ok(without)
}

/// The place of a column of texts in the file, and the level of the rows that have one.
fn find(reader: &SerializedFileReader<File>, path: &Path, column: &str) -> Result<(usize, i16)> {
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let place = (0..schema.num_columns()).find(|i| schema.column(*i).path().string() == column);
    let Some(place) = place else {
        let names: Vec<String> = schema.columns().iter().take(20).map(|c| format!("`{}`", c.path().string())).collect();
        return Err(Error::input(format!("{} has no column `{column}`", path.display()))
            .cause(format!("its columns are {}", names.join(", ")))
            .hint("`data.text.column` names the column of the text"));
    };
    let found = schema.column(place);
    if found.physical_type() != Type::BYTE_ARRAY || found.max_rep_level() > 0 {
        return Err(Error::input(format!("{}: the column `{column}` is no column of texts", path.display()))
            .hint("`data.text.column` names the column of the text"));
    }
    Ok((place, found.max_def_level()))
}

/// The next rows of a column: the level of each, and the values of those that have one.
fn read(
    values: &mut ColumnReaderImpl<ByteArrayType>,
    largest: i16,
) -> parquet::errors::Result<(Vec<i16>, Vec<ByteArray>)> {
    let (mut levels, mut texts) = (Vec::new(), Vec::new());
    let (rows, ..) = values.read_records(ROWS, Some(&mut levels), None, &mut texts)?;
    // A column that must have a value in every row has no levels.
    if largest == 0 {
        levels = vec![0; rows];
    }
    Ok((levels, texts))
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
