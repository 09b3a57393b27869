//! Rows of JSONL and Parquet files, good and bad.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::*;

fn all(path: &Path, column: &str) -> Result<(Vec<(u64, String)>, u64)> {
    let mut rows = Vec::new();
    let without = each(path, column, &Reading::begin("reading", path, 0), &mut |n, text| {
        rows.push((n, text.to_string()));
        Ok(())
    })?;
    Ok((rows, without))
}

fn file(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// A file of two row groups: numbers, texts of which every seventh is null, and the same in a struct.
pub fn parquet_file(path: &Path, texts: &[String], compression: Compression) {
    let message = "message m { required int64 id; optional binary text (utf8); required group meta { required binary body (utf8); } }";
    let schema = Arc::new(parse_message_type(message).unwrap());
    let properties = WriterProperties::builder().set_compression(compression).set_data_page_row_count_limit(50).build();
    let mut writer =
        SerializedFileWriter::new(std::fs::File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
    for (g, group) in texts.chunks(texts.len().div_ceil(2)).enumerate() {
        let mut rows = writer.next_row_group().unwrap();
        let first = g * texts.len().div_ceil(2);
        let bytes = |t: &String| ByteArray::from(t.as_str());
        let mut column = rows.next_column().unwrap().unwrap();
        let ids: Vec<i64> = (0..group.len() as i64).collect();
        column.typed::<Int64Type>().write_batch(&ids, None, None).unwrap();
        column.close().unwrap();
        let mut column = rows.next_column().unwrap().unwrap();
        let there = |i: usize| !(first + i).is_multiple_of(7);
        let levels: Vec<i16> = (0..group.len()).map(|i| i16::from(there(i))).collect();
        let values: Vec<ByteArray> =
            group.iter().enumerate().filter(|(i, _)| there(*i)).map(|(_, t)| bytes(t)).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        column.close().unwrap();
        let mut column = rows.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = group.iter().map(bytes).collect();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
        rows.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn parquet_rows_come_in_order_from_every_group_and_compression_and_nulls_are_counted() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x.parquet");
    let texts: Vec<String> = (0..501).map(|i| format!("row {i} — {}", "ä".repeat(i % 40))).collect();
    let zstd = Compression::ZSTD(ZstdLevel::default());
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, zstd, Compression::GZIP(GzipLevel::default())] {
        parquet_file(&path, &texts, compression);
        let (rows, without) = all(&path, "text").unwrap();
        assert_eq!(without, 72);
        let want = texts.iter().enumerate().filter(|(i, _)| i % 7 != 0).map(|(i, t)| (i as u64 + 1, t.clone()));
        assert!(rows.iter().cloned().eq(want), "{compression:?}");
        let (rows, without) = all(&path, "meta.body").unwrap();
        assert!(rows.iter().map(|(_, t)| t).eq(&texts) && without == 0);
    }
}

#[test]
fn parquet_files_that_cannot_be_read_end_in_an_error_and_never_in_a_panic() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x.parquet");
    let texts: Vec<String> = (0..200).map(|i| format!("row {i}")).collect();
    parquet_file(&path, &texts, Compression::SNAPPY);
    let said = |column: &str| all(&path, column).unwrap_err();
    let error = said("txet").to_string();
    assert!(error.contains("`txet`") && error.contains("`text`") && error.contains("data.text.column"), "{error}");
    assert!(said("id").to_string().contains("does not hold texts"));
    let whole = std::fs::read(&path).unwrap();
    for cut in [0, 3, 8, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(said("text").kind, crate::error::Kind::Input, "cut at {cut}");
    }
    // Any single byte may be wrong: an error or some rows, nothing else.
    for at in (0..whole.len()).step_by(5) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x5a;
        std::fs::write(&path, &bytes).unwrap();
        let _ = all(&path, "text");
    }
}

#[test]
fn jsonl_lines_come_in_order_and_blank_ones_and_nulls_are_passed_over() {
    let place = tempfile::tempdir().unwrap();
    let path =
        file(place.path(), "x.jsonl", "{\"text\": \"a\\nb\"}\n\n{\"id\": 3, \"text\": null}\r\n{\"text\": \"ä\"}");
    let want = vec![(1, "a\nb".to_string()), (4, "ä".to_string())];
    assert_eq!(all(&path, "text").unwrap(), (want, 1));
}

#[test]
fn a_bad_line_is_told_by_its_number_with_what_is_there() {
    let place = tempfile::tempdir().unwrap();
    let good = "{\"text\": \"a\"}\n";
    for (line, wants) in [
        ("{\"text\": \"a\"", vec!["line 2", "not a JSON object"]),
        ("[1]", vec!["line 2", "not a JSON object"]),
        ("{\"txt\": \"a\", \"id\": 1}", vec!["line 2", "no `text`", "`id`", "`txt`", "data.text.column"]),
        ("{\"text\": [\"a\"]}", vec!["line 2", "`text` is a list"]),
        ("{\"text\": 3}", vec!["line 2", "a number"]),
    ] {
        let path = file(place.path(), "x.jsonl", format!("{good}{line}\n{good}"));
        let error = all(&path, "text").unwrap_err();
        assert_eq!(error.kind, crate::error::Kind::Input);
        for want in wants {
            assert!(error.to_string().contains(want), "{line}: {error}");
        }
    }
    let error = all(&place.path().join("absent.jsonl"), "text").unwrap_err();
    assert!(error.kind == crate::error::Kind::Input && error.to_string().contains("does not exist"), "{error}");
    let path = file(place.path(), "y.jsonl", vec![b'x'; MAX_LINE as usize + 2]);
    assert!(all(&path, "text").unwrap_err().to_string().contains("longer than"));
}
