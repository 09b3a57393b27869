//! Two recipes key by key: the flat view with dotted keys, and the difference. A table in an array is a segment by its
//! number: `stages.0.steps`.

use std::collections::BTreeMap;
use std::ops::Range;

use indexmap::IndexMap;
use toml::Value;
use toml::de::{DeTable, DeValue};

use super::{Source, explain, keys};
use crate::error::Result;

/// A key of the flat view, in segments, and its value.
type Flat = Vec<(Vec<String>, Value)>;

/// Every value of the TOML `text` under its dotted key, in the order of the text; an empty table is a value too.
///
/// # Errors
/// Text that is not TOML (usage).
pub fn flatten(text: &str) -> Result<IndexMap<String, Value>> {
    Ok(flat(text, "recipe")?.into_iter().map(|(path, value)| (keys::join(&path), value)).collect())
}

/// The lines `- key = old` and `+ key = new` for every key whose value differs, below the two names; empty if none.
///
/// # Errors
/// A text that is not TOML (usage).
pub fn diff(a_text: &str, b_text: &str, a_name: &str, b_name: &str) -> Result<String> {
    let changes = changes(&flat(a_text, a_name)?, &flat(b_text, b_name)?);
    if changes.is_empty() {
        return Ok(String::new());
    }
    Ok(format!("--- {a_name}\n+++ {b_name}\n{}", shown(&changes)))
}

/// The dotted keys whose values differ between the two texts.
///
/// # Errors
/// A text that is not TOML (usage).
pub fn changed(old_text: &str, new_text: &str) -> Result<Vec<String>> {
    let changes = changes(&flat(old_text, "the old recipe")?, &flat(new_text, "the new recipe")?);
    Ok(changes.iter().map(|c| keys::join(&c.path)).collect())
}

/// Every value of the TOML `text` as text under its dotted key below `prefix`, without the keys (in `text`) that are listed
/// in `without`, and what is below them.
///
/// # Errors
/// Text that is not TOML (usage).
pub fn lines(prefix: &[&str], text: &str, without: &[&str]) -> Result<BTreeMap<String, String>> {
    let all = flat(text, "recipe")?.into_iter();
    let decisive = all.filter(|(path, _)| !without.iter().any(|key| covers(key, path)));
    let full = |path: Vec<String>| keys::join(&prefix.iter().map(|s| s.to_string()).chain(path).collect::<Vec<_>>());
    Ok(decisive.map(|(path, value)| (full(path), inline(&value))).collect())
}

/// One key whose value differs; `None` where a side lacks it.
struct Change {
    path: Vec<String>,
    old: Option<Value>,
    new: Option<Value>,
}

fn changes(a: &Flat, b: &Flat) -> Vec<Change> {
    let index = |flat: &Flat| flat.iter().cloned().collect::<IndexMap<Vec<String>, Value>>();
    let (a, b) = (index(a), index(b));
    let gone_or_changed = a.iter().filter_map(|(path, old)| {
        let new = b.get(path);
        let same = new.is_some_and(|new| equal(old, new));
        (!same).then(|| Change { path: path.clone(), old: Some(old.clone()), new: new.cloned() })
    });
    let added = b.iter().filter(|(path, _)| !a.contains_key(*path));
    let added = added.map(|(path, new)| Change { path: path.clone(), old: None, new: Some(new.clone()) });
    gone_or_changed.chain(added).collect()
}

/// Equal as a recipe reads them: 1 and 1.0 are, and so are two NaNs.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => a == b || (a.is_nan() && b.is_nan()),
        (Value::Integer(i), Value::Float(f)) | (Value::Float(f), Value::Integer(i)) => {
            *i as f64 == *f && i.unsigned_abs() <= 1 << 53
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        _ => a == b,
    }
}

fn shown(changes: &[Change]) -> String {
    let mut text = String::new();
    for change in changes {
        for (sign, value) in [('-', &change.old), ('+', &change.new)] {
            if let Some(value) = value {
                text.push_str(&format!("{sign} {} = {}\n", keys::join(&change.path), inline(value)));
            }
        }
    }
    text
}

/// A value on one line of TOML.
fn inline(value: &Value) -> String {
    match value {
        Value::Table(table) if table.is_empty() => "{}".to_string(),
        // A string of several lines would be written on several lines.
        Value::String(text) => keys::quoted(text),
        other => other.to_string().trim_end().replace('\n', " "),
    }
}

/// Whether the dotted `key` names `path` or a table above it.
fn covers(key: &str, path: &[String]) -> bool {
    let key: Vec<&str> = key.split('.').collect();
    key.len() <= path.len() && key.iter().zip(path).all(|(k, segment)| k == segment)
}

fn flat(text: &str, place: &str) -> Result<Flat> {
    let source = Source::new(text, place, &[]);
    let root = explain::document(&source)?;
    let table = to_table(&root).map_err(|range| explain::out_of_range(&root, &source, &range))?;
    let mut out = Vec::new();
    let mut path = Vec::new();
    for (key, value) in table {
        path.push(key);
        descend(value, &mut path, &mut out);
        path.pop();
    }
    Ok(out)
}

fn descend(value: Value, path: &mut Vec<String>, out: &mut Flat) {
    let children: Vec<(String, Value)> = match value {
        Value::Table(table) if !table.is_empty() => table.into_iter().collect(),
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_table) => {
            items.into_iter().enumerate().map(|(n, item)| (n.to_string(), item)).collect()
        }
        leaf => {
            out.push((path.clone(), leaf));
            return;
        }
    };
    for (key, child) in children {
        path.push(key);
        descend(child, path, out);
        path.pop();
    }
}

/// The tree as plain values.
///
/// # Errors
/// The range of a number outside i64 or f64.
pub(super) fn to_table(table: &DeTable<'_>) -> std::result::Result<toml::Table, Range<usize>> {
    table.iter().map(|(k, v)| Ok((k.get_ref().to_string(), to_value(v.get_ref(), v.span())?))).collect()
}

fn to_value(value: &DeValue<'_>, range: Range<usize>) -> std::result::Result<Value, Range<usize>> {
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(i) => Value::Integer(i64::from_str_radix(i.as_str(), i.radix()).map_err(|_| range)?),
        DeValue::Float(f) => {
            let x: f64 = f.as_str().parse().map_err(|_| range.clone())?;
            if x.is_infinite() && !f.as_str().contains("inf") {
                return Err(range);
            }
            Value::Float(x)
        }
        DeValue::Boolean(b) => Value::Boolean(*b),
        DeValue::Datetime(d) => Value::Datetime(*d),
        DeValue::Array(items) => {
            let items = items.iter().map(|v| to_value(v.get_ref(), v.span())).collect::<std::result::Result<_, _>>()?;
            Value::Array(items)
        }
        DeValue::Table(table) => Value::Table(to_table(table)?),
    })
}
