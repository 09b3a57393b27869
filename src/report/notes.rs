//! What the reader should take from a report, written by hand: `notes.md` in the report's folder.

use std::path::Path;

use crate::error::{Error, Result};
use crate::fs;

/// The file of a report's folder that holds its notes.
pub const FILE: &str = "notes.md";

/// Longest notes, bytes.
const MOST: u64 = 64 << 10;

/// The text of the notes in `file`, for a report's folder, where each rendering finds them.
///
/// # Errors
/// A file that is absent, not text, empty or too long.
pub fn load_new(file: &Path) -> Result<String> {
    let text = load(file)?;
    if lines(&text).is_empty() {
        return Err(Error::input(format!("{} says nothing", file.display()))
            .hint("write one line, or a list with `- ` before each point"));
    }
    Ok(text)
}

/// The points of the notes in `dir`; none where there are no notes.
pub(super) fn read(dir: &Path) -> Result<Vec<String>> {
    let path = dir.join(FILE);
    if path.exists() { Ok(lines(&load(&path)?)) } else { Ok(Vec::new()) }
}

fn load(path: &Path) -> Result<String> {
    String::from_utf8(fs::read_limited(path, MOST)?)
        .map_err(|e| Error::input(format!("{} is not UTF-8 text", path.display())).cause(e.to_string()))
}

/// The points of a text: list items, or lines. What follows an item without a mark of its own, up to an empty line, goes on
/// with it.
pub(super) fn lines(text: &str) -> Vec<String> {
    let marked = |line: &str| ["- ", "* ", "+ "].iter().find_map(|mark| line.strip_prefix(mark)).map(str::to_string);
    let mut points: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.trim_start_matches('\u{feff}').lines().map(str::trim) {
        match (marked(line), open) {
            (Some(point), _) => {
                points.push(point);
                open = true;
            }
            (None, _) if line.is_empty() => open = false,
            (None, true) => {
                if let Some(last) = points.last_mut() {
                    last.push(' ');
                    last.push_str(line);
                }
            }
            (None, false) => points.push(line.trim_start_matches('#').trim().to_string()),
        }
    }
    points.retain(|point| !point.is_empty());
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn items_and_plain_lines_are_points_and_an_item_may_be_wrapped() {
        assert_eq!(lines("- one\n  goes on\n* two\n\nthree\nfour\n"), ["one goes on", "two", "three", "four"]);
        assert_eq!(lines("# Heading\r\n\r\nline\r\n"), ["Heading", "line"]);
        assert!(lines(" \n-\n#\n").iter().all(|p| p == "-"));
    }

    #[test]
    fn notes_that_say_nothing_or_are_no_text_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("n.md");
        for (bytes, says) in [(&b"\n \n"[..], "says nothing"), (&[0xff, 0xfe][..], "is not UTF-8 text")] {
            std::fs::write(&file, bytes).unwrap();
            let e = load_new(&file).unwrap_err();
            assert!(e.kind == Kind::Input && e.message.contains(says), "{e}");
        }
        assert_eq!(load_new(&dir.path().join("absent.md")).unwrap_err().kind, Kind::Input);
        assert!(read(dir.path()).unwrap().is_empty());
    }
}
