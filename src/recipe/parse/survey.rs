//! Reading a tree as a type, and after a fault reading on as if it had been mended, so that all faults are told at
//! once. serde stops at the first one: an unknown name is taken for the nearest known one, a missing or mistyped
//! value gets a stand-in, and what only follows from such a guess is not told.

use std::borrow::Cow;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::explain::{Fault, Mend, expected, names};
use super::{Source, shown};
use crate::error::{Error, Result};

/// How many faults after the first are listed.
const MORE: usize = 10;

/// How often the rest is read again in search of further faults.
const TRIES: usize = 100;

/// What stands in for a value that is missing or of the wrong type while the rest is read; the first that fits is kept.
const STAND_INS: [&str; 5] = ["1", "true", "\"x\"", "{}", "[]"];

const EMPTY_TABLE: usize = 3;

/// Reads the tree as a `T`.
///
/// # Errors
/// Keys or values that do not fit (usage); unknown names come first, and every fault after the first is a cause line.
pub(super) fn deserialize<T: DeserializeOwned>(root: &DeTable<'_>, source: &Source<'_>) -> Result<T> {
    let mut raw = match read::<T>(root) {
        Ok(value) => return Ok(value),
        Err(e) => e,
    };
    let mut survey = Survey { tree: root.clone(), end: source.base(source.sets.len()), stand_ins: Vec::new() };
    let mut seen: Vec<(Fault, bool)> = Vec::new();
    for _ in 0..TRIES {
        let range = raw.span().unwrap_or_default();
        if range.start >= survey.end {
            if !survey.try_another(&raw, &range) {
                break;
            }
        } else {
            let fault = Fault::of(&raw, root, source);
            // The mending did not help: what comes now would be about our guess.
            if seen.iter().any(|(s, _)| s.range == fault.range && (!fault.missing || s.message == fault.message)) {
                break;
            }
            let told = !seen.iter().any(|(before, _)| fault.follows_from(before));
            survey.mend(&fault);
            seen.push((fault, told));
            // One beyond those that are listed, to know that there are more.
            if seen.iter().filter(|(_, told)| *told).count() > MORE + 1 {
                break;
            }
        }
        raw = match read::<T>(&survey.tree) {
            Ok(_) => break,
            Err(e) => e,
        };
    }
    let mut faults: Vec<Fault> = seen.into_iter().filter(|(_, told)| *told).map(|(fault, _)| fault).collect();
    // A misspelt key is often why another one seems to be missing.
    faults.sort_by_key(|fault| !fault.unknown());
    let mut faults = faults.into_iter();
    let Some(first) = faults.next() else {
        return Err(Error::usage(format!("{} in {}", shown(raw.message(), 200), source.place)));
    };
    let mut error = Error::usage(first.message.clone());
    let at_top = first.missing && first.path.is_empty();
    error.causes.extend(source.snippet(&first.range).filter(|_| !at_top));
    error.hint = first.hint;
    let mut more = 0;
    for fault in faults {
        more += 1;
        if more > MORE {
            error = error.cause("and more");
            break;
        }
        // Only a name is worth its hint on the same line.
        let hint = fault.hint.as_ref().filter(|_| fault.unknown()).map_or(String::new(), |hint| format!(" ({hint})"));
        error = error.cause(format!("{}{hint}", fault.message));
    }
    Err(error)
}

fn read<T: DeserializeOwned>(root: &DeTable<'_>) -> std::result::Result<T, toml::de::Error> {
    T::deserialize(Deserializer::from(Spanned::new(0..0, root.clone())))
}

/// The tree, mended so far.
struct Survey<'a> {
    tree: DeTable<'a>,
    /// Where the author's text ends; the n-th stand-in stands at `end + n`.
    end: usize,
    /// Which of [`STAND_INS`] each one is.
    stand_ins: Vec<usize>,
}

impl Survey<'_> {
    /// Mends `fault`.
    fn mend(&mut self, fault: &Fault) {
        let mark = self.end + self.stand_ins.len();
        let fresh = stand_in(0, mark);
        match &fault.mend {
            Mend::Remove => change_key(&mut self.tree, &fault.range, None),
            Mend::Rename(name) => change_key(&mut self.tree, &fault.range, Some(name)),
            Mend::Word(word) => self.replace(&fault.range, DeValue::String(Cow::Owned(word.clone()))),
            Mend::Fill => {
                change_value(&mut self.tree, &fault.range, &mut |value| *value = fresh.clone());
                self.stand_ins.push(0);
            }
            Mend::Add(name) => self.add(&fault.range, name),
        }
    }

    /// Adds a stand-in for `name` to the table at `range`.
    fn add(&mut self, range: &Range<usize>, name: &str) {
        let mark = self.end + self.stand_ins.len();
        let key = Spanned::new(mark..mark + 1, Cow::Owned(name.to_string()));
        self.stand_ins.push(0);
        // The document itself has no place in the text.
        if *range == (0..0) {
            self.tree.insert(key, stand_in(0, mark));
            return;
        }
        change_value(&mut self.tree, range, &mut |value| {
            if let DeValue::Table(table) = value.get_mut() {
                table.insert(key.clone(), stand_in(0, mark));
            }
        });
    }

    fn replace(&mut self, range: &Range<usize>, new: DeValue<'static>) {
        change_value(&mut self.tree, range, &mut |value| *value.get_mut() = new.clone());
    }

    /// Exchanges the stand-in at `range`, which `e` complains of; false if nothing is left to try.
    fn try_another(&mut self, e: &toml::de::Error, range: &Range<usize>) -> bool {
        let text = e.message();
        let Some(tried) = self.stand_ins.get(range.start - self.end).copied() else { return false };
        if text.starts_with("missing field") {
            self.add(range, &names(text).into_iter().next().unwrap_or_default());
            return true;
        }
        // A choice: its first kind will do, with settings if it wants them.
        if let Some(word) = text.strip_prefix("unknown variant ").and_then(|t| names(expected(t)).into_iter().next()) {
            self.replace(range, DeValue::String(Cow::Owned(word)));
            return true;
        }
        if text.starts_with("invalid type: unit variant") {
            let mark = self.end + self.stand_ins.len();
            self.stand_ins.push(EMPTY_TABLE);
            let mut changed = false;
            change_value(&mut self.tree, range, &mut |value| {
                let Some(kind) = value.get_ref().as_str().map(str::to_string) else { return };
                let key = Spanned::new(mark..mark + 1, Cow::Owned(kind));
                let settings = stand_in(EMPTY_TABLE, mark);
                *value.get_mut() = DeValue::Table([(key, settings)].into_iter().collect());
                changed = true;
            });
            return changed;
        }
        if tried + 1 == STAND_INS.len() {
            return false;
        }
        self.stand_ins[range.start - self.end] = tried + 1;
        let next = stand_in(tried + 1, range.start);
        change_value(&mut self.tree, range, &mut |value| *value = next.clone());
        true
    }
}

/// Number `which` of [`STAND_INS`], as if it stood at `mark`.
fn stand_in(which: usize, mark: usize) -> Spanned<DeValue<'static>> {
    let value = DeValue::parse(STAND_INS[which]).map(Spanned::into_inner).unwrap_or(DeValue::Boolean(false));
    Spanned::new(mark..mark + 1, value)
}

/// Renames the key at `range`, or removes it with its value.
fn change_key(table: &mut DeTable<'_>, range: &Range<usize>, name: Option<&String>) {
    if !table.keys().any(|key| key.span() == *range) {
        table.iter_mut().for_each(|(_, value)| change_key_below(value, range, name));
        return;
    }
    *table = std::mem::take(table)
        .into_iter()
        .filter_map(|(key, value)| match (key.span() == *range, name) {
            (false, _) => Some((key, value)),
            (true, Some(name)) => Some((Spanned::new(range.clone(), Cow::Owned(name.clone())), value)),
            (true, None) => None,
        })
        .collect();
}

fn change_key_below(value: &mut Spanned<DeValue<'_>>, range: &Range<usize>, name: Option<&String>) {
    match value.get_mut() {
        DeValue::Table(table) => change_key(table, range, name),
        DeValue::Array(items) => items.iter_mut().for_each(|item| change_key_below(item, range, name)),
        _ => {}
    }
}

/// Changes the value at `range`; of an array of tables and its first table, which share a range, the table.
fn change_value<'a>(table: &mut DeTable<'a>, range: &Range<usize>, change: &mut impl FnMut(&mut Spanned<DeValue<'a>>)) {
    table.iter_mut().for_each(|(_, value)| change_value_below(value, range, change));
}

fn change_value_below<'a>(
    value: &mut Spanned<DeValue<'a>>,
    range: &Range<usize>,
    change: &mut impl FnMut(&mut Spanned<DeValue<'a>>),
) {
    let here = value.span() == *range;
    match value.get_mut() {
        DeValue::Array(items) if items.iter().any(|item| here && item.span() == *range) => {
            items.iter_mut().for_each(|item| change_value_below(item, range, change));
        }
        _ if here => change(value),
        DeValue::Table(table) => change_value(table, range, change),
        DeValue::Array(items) => items.iter_mut().for_each(|item| change_value_below(item, range, change)),
        _ => {}
    }
}
