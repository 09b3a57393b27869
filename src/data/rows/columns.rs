//! The texts of a column of a Parquet file, page by page.
//!
//! A few bytes of such a file can stand for any amount of text: a page may unpack to 32,000 times its length, and rows may
//! name one word of a dictionary again and again. So pages are looked at before they are unpacked (`pages.rs`), and all
//! texts together have a limit in terms of the file's length.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::pages;
use super::{Each, Reading};
use crate::error::{Error, Result};
use crate::fs::open;
use crate::room::shown;

/// Rows that are taken from a page at a time.
const ROWS: usize = 64;
/// Bytes of text that any file may hold, and how many times its own length a longer one.
const MAX_SMALL: u64 = 64 << 20;
const MAX_TIMES: u64 = 64;
/// Bytes of the file's own description of itself, which the library reads at once.
const MAX_FOOTER: u32 = 32 << 20;

/// Runs `work` of the library on a file that may be crafted to make it panic.
fn guarded<T>(wrong: impl Fn(String) -> Error, work: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|e| wrong(e.to_string())),
        Err(_) => Err(wrong("the parquet library failed on it".into())),
    }
}

/// Gives every text of a column to `each`, as [`super::each`].
pub fn each(path: &Path, column: &str, reading: &Reading, each: Each) -> Result<u64> {
    let (file, length) = open(path)?;
    let wrong = |why: String| {
        Error::input(format!("{} is not a Parquet file that can be read", path.display()))
            .cause(why)
            .hint(
                "it may be cut off: load it again; what is read are texts stored plain or in a dictionary, in snappy, zstd or \
                 gzip; a .jsonl file is read too",
            )
    };
    let most = MAX_SMALL.max(length.saturating_mul(MAX_TIMES));
    let io = |e: std::io::Error| Error::io("read", path, &e);
    match pages::footer(&file, length).map_err(io)? {
        Some(bytes) if bytes <= MAX_FOOTER => {}
        Some(bytes) => return Err(wrong(format!("its footer has {bytes} bytes, at most {MAX_FOOTER} are read"))),
        None => return Err(wrong("it does not end in a footer".into())),
    }
    let reader = guarded(wrong, || SerializedFileReader::new(file.try_clone()?))?;
    let (place, largest) = find(&reader, path, column)?;
    let (mut number, mut without, mut text_bytes) = (0u64, 0, 0);
    for group in 0..reader.metadata().num_row_groups() {
        let (start, bytes, packed) = guarded(wrong, || {
            let chunk = reader.metadata().row_group(group).column(place);
            let (start, bytes) = chunk.byte_range();
            Ok((start, bytes, chunk.compression()))
        })?;
        pages::check(&file, start..start.saturating_add(bytes).min(length), packed, most)
            .map_err(io)?
            .map_err(wrong)?;
        let mut values = guarded(wrong, || match reader.get_row_group(group)?.get_column_reader(place)? {
            ColumnReader::ByteArrayColumnReader(values) => Ok(values),
            _ => Err(parquet::errors::ParquetError::General("another type of column than the schema says".into())),
        })?;
        loop {
            reading.at(start);
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
                text_bytes += text.len() as u64;
                if text_bytes > most {
                    return Err(Error::input(format!("{} holds more text than is read", path.display()))
                        .cause(format!(
                            "{} up to row {number}, in a file of {}: at most {} of it",
                            shown(text_bytes.into()),
                            shown(length.into()),
                            shown(most.into())
                        ))
                        .hint("store the texts as lines of a .jsonl file, or leave out those that repeat"));
                }
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
        return Err(Error::input(format!("{}: the column `{column}` does not hold texts", path.display()))
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
