//! Tables that were written as arrays. serde fills the fields of a table from an array in their order, so that
//! `flexibility = []` would be all defaults; the value that was read, written down again, shows where that happened.

use serde::Serialize;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::{Source, keys};
use crate::error::{Error, Result};

/// Checks that each array of the tree was read as one.
///
/// # Errors
/// An array that was taken for a table (usage), with its place.
pub(super) fn check<T: Serialize>(root: &DeTable<'_>, value: &T, source: &Source<'_>) -> Result<()> {
    // What cannot be written down as TOML is not of a recipe.
    let Ok(read) = Table::try_from(value) else { return Ok(()) };
    let mut path = Vec::new();
    match in_table(root, &read, &mut path) {
        None => Ok(()),
        Some(range) => {
            let key = keys::join(&path);
            let mut error =
                Error::usage(format!("`{key}` must be a table, but it is an array ({})", source.name(range.start)));
            error.causes.extend(source.snippet(&range));
            Err(error.hint(format!("put its keys in a table: `[{key}]`, or `{key} = {{ .. }}`")))
        }
    }
}

type Place = std::ops::Range<usize>;

fn in_table(written: &DeTable<'_>, read: &Table, path: &mut Vec<String>) -> Option<Place> {
    written.iter().find_map(|(key, value)| in_value(key.get_ref(), value, read.get(key.get_ref().as_ref())?, path))
}

/// The place of an array at or below `written` that was read as a table; `path` then leads to it.
fn in_value(name: &str, written: &Spanned<DeValue<'_>>, read: &Value, path: &mut Vec<String>) -> Option<Place> {
    path.push(name.to_string());
    let found = match (written.get_ref(), read) {
        (DeValue::Array(_), Value::Table(_)) => Some(written.span()),
        (DeValue::Table(written), Value::Table(read)) => in_table(written, read, path),
        (DeValue::Array(written), Value::Array(read)) => written
            .iter()
            .zip(read)
            .enumerate()
            .find_map(|(n, (written, read))| in_value(&n.to_string(), written, read, path)),
        _ => None,
    };
    if found.is_none() {
        path.pop();
    }
    found
}
