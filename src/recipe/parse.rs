//! TOML text and `--set` overrides to a typed value, or to an error that names file, line, column and the nearest key.
//! Knows nothing of any concrete recipe: the schema is whatever type the caller asks for.
//!
//! The text and every `--set` are seen as one long virtual text, so that each key and value of the merged tree carries
//! one byte range that tells where the user wrote it; serde reports that range back with its error.

mod compare;
mod explain;
mod keys;
mod locate;
mod shape;
mod survey;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};
use toml::map::Entry;

use crate::error::{Error, Result};

pub use compare::{changed, diff, flatten, lines};
pub use locate::located;

/// A value and the TOML text that gives exactly it.
#[derive(Debug, Clone)]
pub struct Parsed<T> {
    pub value: T,
    /// The text itself if nothing was overridden; otherwise the merged recipe, with the overrides in comments on top.
    pub resolved: String,
}

/// Reads `text`, written at `place` (a file name), as a `T`, after applying `sets` (`key.path=value` each, in order).
///
/// # Errors
/// Text that is not TOML or not a `T` (usage), with `place:line:column` or the `--set` at fault; all unknown keys are listed at
/// once.
pub fn parse<T: DeserializeOwned + Serialize>(text: &str, place: &str, sets: &[String]) -> Result<Parsed<T>> {
    let source = Source::new(text, place, sets);
    let mut root = explain::document(&source)?;
    for index in 0..sets.len() {
        apply(&mut root, &source, index)?;
    }
    let value = survey::deserialize(&root, &source)?;
    // Also without overrides: a number that fits the type but not TOML must not fail later, when recipes are compared.
    let table = compare::to_table(&root).map_err(|range| explain::out_of_range(&root, &source, &range))?;
    shape::check(&root, &value, &source)?;
    if sets.is_empty() {
        return Ok(Parsed { value, resolved: text.to_string() });
    }
    let mut resolved = String::new();
    for set in sets {
        resolved.push_str(&format!("# --set {}\n", shown(set, usize::MAX)));
    }
    let body = toml::to_string(&table).map_err(|e| Error::usage(format!("cannot write {place} as TOML: {e}")))?;
    resolved.push_str(&body);
    Ok(Parsed { value, resolved })
}

/// Segments as one dotted key, quoted where TOML asks for it.
pub fn dotted_key(path: &[&str]) -> String {
    keys::join(path)
}

/// What the user wrote, and where: the file first, then every `--set`, in one range of byte offsets.
struct Source<'a> {
    text: &'a str,
    place: &'a str,
    sets: &'a [String],
}

/// The piece of the source that an offset falls into.
enum Piece<'a> {
    /// Line and column, both from 1, columns in characters; the line's text and the byte offset within it.
    File { line: usize, column: usize, text: &'a str, at: usize },
    /// The override as typed, and the byte offset within it.
    Set { text: &'a str, at: usize },
}

impl<'a> Source<'a> {
    fn new(text: &'a str, place: &'a str, sets: &'a [String]) -> Self {
        // A byte order mark is no part of the first key's column.
        Source { text: text.strip_prefix('\u{feff}').unwrap_or(text), place, sets }
    }

    /// The offset of the first byte of `--set` number `index`.
    fn base(&self, index: usize) -> usize {
        self.text.len() + 1 + self.sets[..index].iter().map(|s| s.len() + 1).sum::<usize>()
    }

    /// Where `offset` is.
    fn piece(&self, offset: usize) -> Piece<'a> {
        for (index, text) in self.sets.iter().enumerate() {
            let base = self.base(index);
            if (base..=base + text.len()).contains(&offset) {
                return Piece::Set { text, at: offset - base };
            }
        }
        let mut at = offset.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        let start = self.text[..at].rfind('\n').map_or(0, |n| n + 1);
        let text = self.text[start..].split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let at_line = (at - start).min(text.len());
        Piece::File {
            line: self.text[..start].matches('\n').count() + 1,
            column: text[..at_line].chars().count() + 1,
            text,
            at: at_line,
        }
    }

    /// `my.toml:31:1`, or the `--set` in backticks.
    fn name(&self, offset: usize) -> String {
        match self.piece(offset) {
            Piece::File { line, column, .. } => format!("{}:{line}:{column}", self.place),
            Piece::Set { text, .. } => format!("`--set {}`", shown(text, 60)),
        }
    }

    /// The characters in `range`, empty where the range is not wholly inside one piece.
    fn slice(&self, range: &Range<usize>) -> &'a str {
        match self.piece(range.start) {
            Piece::Set { text, at } => text.get(at..at + range.len()),
            Piece::File { .. } => self.text.get(range.clone()),
        }
        .unwrap_or_default()
    }

    /// The source line of `range` with carets under it; nothing for a `--set`, which the place shows in full.
    fn snippet(&self, range: &Range<usize>) -> Option<String> {
        let Piece::File { line, text, at, .. } = self.piece(range.start) else { return None };
        if text.trim().is_empty() {
            return None;
        }
        let before = text[..at].chars().count();
        let room = text[at..].chars().count();
        let marked = self.slice(range).lines().next().unwrap_or_default().trim_end().chars().count();
        // One column per character, whatever it is: a tab would move the carets, an escape the terminal.
        let clean: Vec<char> = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let from = if before > 60 { before - 40 } else { 0 };
        let to = clean.len().min(from + 85);
        let carets = marked.min(room).min(to.saturating_sub(before)).max(1);
        let number = line.to_string();
        Some(format!(
            "{number} | {}\n{} | {}{}",
            clean[from..to].iter().collect::<String>().trim_end(),
            " ".repeat(number.len()),
            " ".repeat(before - from),
            "^".repeat(carets)
        ))
    }
}

/// `text` on one line of at most `most` characters.
fn shown(text: &str, most: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match clean.chars().count() > most {
        true => clean.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
        false => clean,
    }
}

/// One part of a dotted key and where it stands.
type Segment = (String, Range<usize>);

/// Applies `--set` number `index` to the tree.
fn apply<'a>(root: &mut DeTable<'a>, source: &Source<'a>, index: usize) -> Result<()> {
    let (set, base) = (source.sets[index].as_str(), source.base(index));
    let fail = |what: String| Error::usage(format!("{what} in `--set {}`", shown(set, 60)));
    let Some(equals) = assignment(set) else {
        return Err(fail("no `=`".to_string()).hint("write `--set key.path=value`"));
    };
    let Some(path) = dotted(&set[..equals], base) else {
        let key = shown(set[..equals].trim(), 40);
        return Err(fail(format!("`{key}` is not a key")).hint("write `--set key.path=value`"));
    };
    let rest = &set[equals + 1..];
    let word = rest.trim();
    let at = base + equals + 1 + (rest.len() - rest.trim_start().len());
    if word.is_empty() {
        let hint = format!("`--set '{}=\"\"'` sets an empty string", set[..equals].trim());
        return Err(fail("no value".to_string()).hint(hint));
    }
    let value = match DeValue::parse(word) {
        Ok(value) => moved(value, at),
        // Quotes and brackets mean TOML; anything else that is not TOML is a word that needs no quotes in a shell.
        Err(e) if word.starts_with(['"', '\'', '[', '{']) => {
            return Err(fail(e.message().to_string()).hint("quote the whole override: `--set 'key=[\"a\", \"b\"]'`"));
        }
        Err(_) => Spanned::new(at..at + word.len(), DeValue::String(Cow::Borrowed(word))),
    };
    insert(root, &path, value).map_err(|known| {
        fail(format!("`{}` is not a table", keys::join(&path[..known].iter().map(|s| &s.0).collect::<Vec<_>>())))
            .hint("what stands there is a value, which has no keys below it")
    })
}

/// The first `=` outside quotes.
fn assignment(set: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in set.char_indices() {
        match (quote, c) {
            (None, '=') => return Some(at),
            (None, '"' | '\'') => quote = Some(c),
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(q), c) if c == q && !escaped => quote = None,
            _ => {}
        }
        escaped = false;
    }
    None
}

/// The segments of a dotted key that stands at offset `base`; nothing if it is not a TOML key.
fn dotted(key: &str, base: usize) -> Option<Vec<Segment>> {
    if key.contains(['\n', '\r']) {
        return None;
    }
    let line = format!("{key}= 0");
    let parsed = DeTable::parse(&line).ok()?;
    let mut path = Vec::new();
    let mut table = parsed.get_ref();
    loop {
        let (key, value) = table.iter().next()?;
        path.push((key.get_ref().to_string(), key.span().start + base..key.span().end + base));
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => return Some(path),
        }
    }
}

/// Puts `value` at `path`, creating tables on the way; a number steps into an existing array.
///
/// # Errors
/// The number of segments that lead to something which holds no keys.
fn insert<'a>(
    table: &mut DeTable<'a>,
    path: &[Segment],
    value: Spanned<DeValue<'a>>,
) -> std::result::Result<(), usize> {
    let Some(((name, range), rest)) = path.split_first() else { return Err(0) };
    let slot = match table.entry(Spanned::new(range.clone(), Cow::Owned(name.clone()))) {
        Entry::Vacant(free) => {
            let empty = if rest.is_empty() { value.clone() } else { table_at(range.clone()) };
            free.insert(empty)
        }
        Entry::Occupied(taken) => taken.into_mut(),
    };
    insert_below(slot, rest, value).map_err(|n| n + 1)
}

/// The same from a value on.
fn insert_below<'a>(
    slot: &mut Spanned<DeValue<'a>>,
    path: &[Segment],
    value: Spanned<DeValue<'a>>,
) -> std::result::Result<(), usize> {
    let Some(((name, _), rest)) = path.split_first() else {
        *slot = value;
        return Ok(());
    };
    match slot.get_mut() {
        DeValue::Table(table) => insert(table, path, value),
        DeValue::Array(array) => {
            let place = name.parse::<usize>().ok().and_then(|index| array.get_mut(index));
            insert_below(place.ok_or(0usize)?, rest, value).map_err(|n| n + 1)
        }
        _ => Err(0),
    }
}

/// An empty table written at `range`.
fn table_at<'a>(range: Range<usize>) -> Spanned<DeValue<'a>> {
    Spanned::new(range, DeValue::Table(DeTable::new()))
}

/// The same value, written `by` bytes later.
fn moved(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let later = |range: Range<usize>| range.start + by..range.end + by;
    let range = later(value.span());
    let inner = match value.into_inner() {
        DeValue::Array(items) => {
            let mut array = DeArray::new();
            items.into_iter().for_each(|item| array.push(moved(item, by)));
            DeValue::Array(array)
        }
        DeValue::Table(table) => DeValue::Table(
            table.into_iter().map(|(k, v)| (Spanned::new(later(k.span()), k.into_inner()), moved(v, by))).collect(),
        ),
        scalar => scalar,
    };
    Spanned::new(range, inner)
}
