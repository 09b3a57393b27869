//! Compares the tensors a model wants with those a file has, and says what to do when they differ.

use super::Weights;
use crate::error::{Error, Result, nearest};
use std::collections::BTreeMap;

/// Lines a message may take for its list.
const LINES: usize = 9;

/// Checks that `found` has every tensor of `wanted` (name to shape) in its shape, and, unless `ignore_extra`, no other.
///
/// Integer tensors are never parameters and do not count.
///
/// # Errors
/// Tensors that are missing, of another shape or extra (input): at most ten lines with the nearest names, or the one prefix
/// that explains them all.
pub fn match_names(wanted: &BTreeMap<String, Vec<usize>>, found: &Weights, ignore_extra: bool) -> Result<()> {
    let found = found.tensors.iter().map(|(name, t)| (name.clone(), t.shape.clone())).collect();
    match_shapes(wanted, &found, ignore_extra)
}

/// As [`match_names`], of the shapes of what was found.
///
/// # Errors
/// As [`match_names`].
pub fn match_shapes(
    wanted: &BTreeMap<String, Vec<usize>>,
    found: &BTreeMap<String, Vec<usize>>,
    ignore_extra: bool,
) -> Result<()> {
    let missing: Vec<&str> = wanted.keys().filter(|n| !found.contains_key(*n)).map(String::as_str).collect();
    let extra: Vec<&str> = found.keys().filter(|n| !wanted.contains_key(*n)).map(String::as_str).collect();
    let wrong: Vec<String> = wanted
        .iter()
        .filter_map(|(name, shape)| {
            let has = found.get(name)?;
            (has != shape).then(|| format!("`{name}` has shape {has:?}, and {shape:?} is needed"))
        })
        .collect();
    let strangers = if ignore_extra { 0 } else { extra.len() };
    if missing.is_empty() && wrong.is_empty() && strangers == 0 {
        return Ok(());
    }
    let total = missing.len() + wrong.len() + strangers;
    let counts = [(missing.len(), "missing"), (wrong.len(), "of wrong shape"), (strangers, "extra")];
    let counts: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let mut error = Error::input(format!("the tensors of the file do not fit the model: {}", counts.join(", ")));
    if let Some((line, hint)) = prefix_cause(&missing, &extra) {
        return Err(error.cause(line).hint(hint));
    }
    let missing_lines = missing.iter().take(LINES).map(|name| match nearest(name, extra.iter().copied()) {
        Some(near) => format!("missing `{name}`; the file has `{near}`"),
        None => format!("missing `{name}`"),
    });
    let extra_lines = extra.iter().take(if ignore_extra { 0 } else { LINES }).map(|name| format!("extra `{name}`"));
    let lines = interleave([wrong.into_iter().take(LINES).collect(), missing_lines.collect(), extra_lines.collect()]);
    let more = total - lines.len();
    for line in lines {
        error = error.cause(line);
    }
    if more > 0 {
        error = error.cause(format!("and {more} more"));
    }
    if missing.is_empty() && strangers > 0 && strangers == total {
        error = error.hint("to load a public checkpoint without the extra tensors: `sample --ignore-extra`, or `ignore_extra = true` beside `from`");
    }
    Err(error)
}

/// Up to `LINES` lines of the groups: a fair share of each, so that no group hides the others.
fn interleave(groups: [Vec<String>; 3]) -> Vec<String> {
    let mut share = [0; 3];
    for round in 0..LINES {
        for (kept, group) in share.iter_mut().zip(&groups) {
            *kept += usize::from(group.len() > round);
        }
        if share.iter().sum::<usize>() >= LINES {
            break;
        }
    }
    let mut lines: Vec<String> = groups.into_iter().zip(share).flat_map(|(g, n)| g.into_iter().take(n)).collect();
    lines.truncate(LINES);
    lines
}

/// One prefix that all names of the file have and the model's have not, or the other way round.
fn prefix_cause(missing: &[&str], extra: &[&str]) -> Option<(String, String)> {
    let fits = |long: &[&str], short: &[&str]| {
        let prefix = common_prefixes(long).find(|p| {
            let hits = short.iter().filter(|s| long.binary_search(&format!("{p}{s}").as_str()).is_ok()).count();
            hits > 0 && hits * 2 >= short.len()
        })?;
        Some((prefix.to_string(), long.len()))
    };
    if let Some((prefix, n)) = fits(extra, missing) {
        let hint = format!("the names fit without `{prefix}`: write the file again with that prefix taken off");
        return Some((format!("all {n} unknown names of the file start with `{prefix}`"), hint));
    }
    let (prefix, n) = fits(missing, extra)?;
    let hint = format!("the names fit with `{prefix}`: write the file again with that prefix put in front");
    Some((format!("all {n} missing names start with `{prefix}`, and those of the file do not"), hint))
}

/// The prefixes that end in a dot and that all `names` (sorted) share, longest first.
fn common_prefixes<'a>(names: &[&'a str]) -> impl Iterator<Item = &'a str> + use<'a> {
    let (first, last) = (names.first().copied().unwrap_or(""), names.last().copied().unwrap_or(""));
    // In sorted names the first and the last differ earliest.
    let shared = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
    let dots: Vec<usize> = first.bytes().take(shared).enumerate().filter(|(_, b)| *b == b'.').map(|(i, _)| i).collect();
    dots.into_iter().rev().map(move |i| &first[..=i])
}
