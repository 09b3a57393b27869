//! The place of an error that was found after reading: a range, or two keys that contradict each other.
//!
//! Whoever finds such an error knows the dotted key and nothing of files. The first key in backticks of its message that the
//! recipe has is where the author has to look; of a key that is left out it is the table that lacks it.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::explain;
use super::{Source, apply, dotted};
use crate::error::{Error, Kind};

/// The same error with file, line, column and source line (or the `--set`) of the key that it names.
///
/// An error that has a place already, is of another kind, or names no key of this recipe stays as it is.
pub fn located(mut error: Error, text: &str, place: &str, sets: &[String]) -> Error {
    let source = Source::new(text, place, sets);
    if error.kind != Kind::Usage || error.message.contains(&format!("{place}:")) || error.message.contains("`--set ") {
        return error;
    }
    let Ok(mut root) = explain::document(&source) else { return error };
    if (0..sets.len()).any(|index| apply(&mut root, &source, index).is_err()) {
        return error;
    }
    let keys: Vec<Vec<String>> = error.message.split('`').skip(1).step_by(2).filter_map(key).collect();
    let found: Vec<(usize, Range<usize>, &Vec<String>)> =
        keys.iter().filter_map(|key| find(&root, key).map(|(depth, range)| (depth, range, key))).collect();
    let whole = found.iter().find(|(depth, _, key)| *depth == key.len());
    let Some((_, range, _)) = whole.or(found.first()) else {
        // A study's own keys are at the top, and so is what it lacks.
        error.message = format!("{} ({place})", error.message);
        return error;
    };
    error.message = format!("{} ({})", error.message, source.name(range.start));
    if let Some(snippet) = source.snippet(range) {
        error.causes.insert(0, snippet);
    }
    error
}

/// The segments of what stands in backticks, if it is a key, perhaps with a value behind it; `[2]` is a segment too.
fn key(text: &str) -> Option<Vec<String>> {
    let key = text.split(" = ").next()?.trim();
    let mut plain = String::new();
    let mut quoted = false;
    for c in key.chars() {
        quoted ^= c == '"';
        match (quoted, c) {
            (false, '[') => plain.push('.'),
            (false, ']') => {}
            _ => plain.push(c),
        }
    }
    Some(dotted(&plain, 0)?.into_iter().map(|(name, _)| name).collect())
}

/// How many segments of `path` the tree has, and where the last of these is written; nothing if it has none.
fn find(root: &DeTable<'_>, path: &[String]) -> Option<(usize, Range<usize>)> {
    let (first, rest) = path.split_first()?;
    let (key, value) = root.iter().find(|(key, _)| key.get_ref() == first)?;
    let (depth, range) = below(value, rest);
    // An empty table that a `--set` made on the way has the range of its key.
    let range = if range.is_empty() { key.span() } else { range };
    Some((depth + 1, range))
}

fn below(value: &Spanned<DeValue<'_>>, path: &[String]) -> (usize, Range<usize>) {
    let inner = path.split_first().and_then(|(first, rest)| match value.get_ref() {
        DeValue::Table(table) => table.iter().find(|(key, _)| key.get_ref() == first).map(|(_, v)| below(v, rest)),
        DeValue::Array(items) => first.parse::<usize>().ok().and_then(|i| items.get(i)).map(|v| below(v, rest)),
        // A kind without settings is a word: `objective = "ar_nll"` and `objective.ar_nll` are one.
        DeValue::String(word) if word == first => Some((0, value.span())).filter(|_| rest.is_empty()),
        _ => None,
    });
    match inner {
        Some((depth, range)) => (depth + 1, range),
        None => (0, value.span()),
    }
}
