//! What the TOML parser and serde say, in the words of a recipe's author: the dotted key, its place, the source line,
//! the nearest known name, and how a reader could go on after it.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Piece, Source, keys, shown};
use crate::error::{Error, Result, nearest};

/// The tree of the file's text.
///
/// # Errors
/// A fault of syntax, a key given twice among them (usage).
pub(super) fn document<'a>(source: &Source<'a>) -> Result<DeTable<'a>> {
    DeTable::parse(source.text).map(Spanned::into_inner).map_err(|e| syntax(&e, source))
}

/// A number at `range` that no i64 or f64 holds.
pub(super) fn out_of_range(root: &DeTable<'_>, source: &Source<'_>, range: &Range<usize>) -> Error {
    let path = find(root, range, false).map_or(Vec::new(), |found| found.path);
    let limit =
        format!("numbers go from {:e} to {:e}, whole ones from {} to {}", f64::MIN, f64::MAX, i64::MIN, i64::MAX);
    let message = format!("`{}` is out of range ({})", keys::join(&path), source.name(range.start));
    let mut error = Error::usage(message);
    error.causes.extend(source.snippet(range));
    error.hint(limit)
}

/// One complaint of serde's, explained.
pub(super) struct Fault {
    /// Where the author wrote it.
    pub(super) range: Range<usize>,
    /// The key at fault, or the table that lacks one.
    pub(super) path: Vec<String>,
    pub(super) message: String,
    pub(super) hint: Option<String>,
    /// A key is missing from the table.
    pub(super) missing: bool,
    pub(super) mend: Mend,
}

/// How to read on after a fault.
pub(super) enum Mend {
    /// Without the unknown key.
    Remove,
    /// With the key that was probably meant.
    Rename(String),
    /// With another word for the value.
    Word(String),
    /// With a stand-in for the value.
    Fill,
    /// With a stand-in for the missing key.
    Add(String),
}

impl Fault {
    /// Whether a name is unknown.
    pub(super) fn unknown(&self) -> bool {
        matches!(self.mend, Mend::Remove | Mend::Rename(_) | Mend::Word(_))
    }

    /// Whether this may be due to how `before` was mended rather than to the author.
    pub(super) fn follows_from(&self, before: &Fault) -> bool {
        match before.mend {
            // What was meant may have been what is missing now.
            Mend::Remove => self.missing && before.path.split_last().is_some_and(|(_, table)| self.path == table),
            // The value was not meant for the key that was guessed, nor for the word.
            Mend::Rename(_) | Mend::Word(_) => !self.unknown() && self.path.starts_with(&before.path),
            Mend::Fill | Mend::Add(_) => false,
        }
    }

    pub(super) fn of(e: &toml::de::Error, root: &DeTable<'_>, source: &Source<'_>) -> Fault {
        let range = e.span().unwrap_or(0..0);
        let text = e.message();
        let missing = text.starts_with("missing field");
        let found = find(root, &range, missing);
        let path = found.as_ref().map_or(Vec::new(), |f| f.path.clone());
        let place = source.name(range.start);
        let key = keys::join(&path);
        let mut fault =
            Fault { range: range.clone(), path, message: String::new(), hint: None, missing, mend: Mend::Fill };
        if let Some(known) = unknown_key(text) {
            let name = fault.path.last().cloned().unwrap_or_default();
            let siblings = found.as_ref().map_or(Vec::new(), |f| f.siblings.clone());
            fault.message = format!("unknown key `{}` in {place}", shown(&name, 60));
            fault.explain_unknown(&name, &known, &siblings, source);
            fault.hint = fault.of_a_model(&name, &known, root, source).or(fault.hint);
        } else if let Some(rest) = text.strip_prefix("unknown variant ") {
            let known = names(expected(rest));
            let on_value = found.as_ref().filter(|f| f.on_value).and_then(|f| f.value.as_str());
            let name = on_value.map(str::to_string).or(fault.path.last().cloned()).unwrap_or_default();
            fault.message = match on_value {
                Some(_) => format!("unknown value `{}` for `{key}` in {place}", shown(&name, 60)),
                None => format!("unknown key `{}` in {place}", shown(&name, 60)),
            };
            fault.explain_unknown(&name, &known, &[], source);
            if on_value.is_some() {
                let word = near(&name, &known).or(known.first().cloned()).unwrap_or_default();
                fault.mend = Mend::Word(word);
            }
        } else if missing {
            let name = names(text).into_iter().next().unwrap_or_default();
            fault.explain_missing(&name, source, &place);
            fault.hint = fault.misspelt(root, source).or(fault.hint);
        } else if text.starts_with("invalid type: unit variant") {
            let kind = found.as_ref().and_then(|f| f.value.as_str()).unwrap_or_default();
            fault.message = format!("`{key}` is `{}`, which needs settings ({place})", shown(kind, 40));
            fault.hint = Some(format!("put them in a table `[{key}.{}]`", keys::join(&[kind])));
        } else if let Some((_, wanted)) = text.rsplit_once(", expected ").filter(|_| text.starts_with("invalid ")) {
            fault.explain_type(wanted, found.as_ref(), source, &place);
        } else if text.starts_with("wanted string or table") {
            fault.explain_type("a string or a table", found.as_ref(), source, &place);
        } else if text.starts_with("wanted exactly 1 element") {
            fault.explain_choice(found.as_ref(), source, &place);
        } else if let Some(wanted) = text.strip_prefix("expected empty ") {
            fault.message = format!("`{key}` must be an empty {wanted} ({place})");
            fault.hint = Some("this choice has no settings; remove the keys below it".to_string());
        } else if let Some((wanted, _)) = text.strip_prefix("expected ").and_then(|t| t.split_once(", found ")) {
            fault.explain_type(&format!("a {wanted}"), found.as_ref(), source, &place);
        } else if text.contains("number overflowed") {
            fault.message = format!("`{key}` is out of range ({place})");
            fault.hint = Some(format!("whole numbers go up to {}, others up to {:e}", i64::MAX, f64::MAX));
        } else {
            let text = text.lines().collect::<Vec<_>>().join(" ");
            fault.message =
                if key.is_empty() { format!("{text} in {place}") } else { format!("`{key}`: {text} ({place})") };
        }
        fault
    }

    /// The hint for a name that is not among `known`, and how to read on.
    fn explain_unknown(&mut self, name: &str, known: &[String], siblings: &[String], source: &Source<'_>) {
        let near = near(name, known);
        self.hint = Some(match (&near, source.piece(self.range.start)) {
            (Some(near), Piece::Set { text, at }) => meant(text, at..at + self.range.len(), near),
            (Some(near), Piece::File { .. }) => format!("did you mean `{near}`?"),
            (None, _) if known.is_empty() => "this table has no keys".to_string(),
            (None, _) => format!("known here: {}", list(known)),
        });
        self.mend = match near {
            Some(near) if !siblings.contains(&near) => Mend::Rename(near),
            _ => Mend::Remove,
        };
    }

    /// The hint for a key that belongs into a model and stands at the top, such as `train` in `--set train.steps=500`: the whole key of the last
    /// model that has it.
    fn of_a_model(&self, name: &str, known: &[String], root: &DeTable<'_>, source: &Source<'_>) -> Option<String> {
        if self.path.len() != 1 || near(name, known).is_some() {
            return None;
        }
        let (_, models) = root.iter().find(|(key, _)| key.get_ref() == "model")?;
        let has = |model: &Spanned<DeValue>| {
            model.get_ref().as_table().is_some_and(|t| t.keys().any(|key| key.get_ref() == name))
        };
        let (model, _) = models.get_ref().as_table()?.iter().rfind(|(_, model)| has(model))?;
        let whole = format!("model.{}.{name}", keys::join(&[model.get_ref()]));
        Some(match source.piece(self.range.start) {
            Piece::Set { text, at } => meant(text, at..at + self.range.len(), &whole),
            Piece::File { .. } => format!("did you mean `{whole}`?"),
        })
    }

    /// The hint for a table that a `--set` has made, where the recipe has one of nearly that name.
    fn misspelt(&self, root: &DeTable<'_>, source: &Source<'_>) -> Option<String> {
        let mut table = root;
        for name in &self.path {
            let (key, value) = table.iter().find(|(key, _)| key.get_ref() == name)?;
            if let Piece::Set { text, at } = source.piece(key.span().start) {
                let written = |key: &&Spanned<_>| matches!(source.piece(key.span().start), Piece::File { .. });
                let known: Vec<String> = table.keys().filter(written).map(|key| key.get_ref().to_string()).collect();
                return Some(meant(text, at..at + key.span().len(), &near(name, &known)?));
            }
            table = value.get_ref().as_table()?;
        }
        None
    }

    fn explain_missing(&mut self, name: &str, source: &Source<'_>, place: &str) {
        let table = keys::join(&self.path);
        let header = source.slice(&self.range);
        let in_set = matches!(source.piece(self.range.start), Piece::Set { .. });
        let (message, hint) = if self.path.is_empty() {
            self.range = 0..0;
            (
                format!("missing key `{name}` in {place}"),
                format!("add `{name} = …` above the first table, or `[{name}]`"),
            )
        } else {
            let hint = match (in_set, header.starts_with('[')) {
                (true, _) => format!("add `--set {table}.{name}=…`"),
                (_, true) => format!("add `{name} = …` below `{}`", shown(header, 60)),
                _ => format!("add `{name} = …` to `{table}`"),
            };
            (format!("missing key `{name}` in table `{table}` ({place})"), hint)
        };
        (self.message, self.hint, self.mend) = (message, Some(hint), Mend::Add(name.to_string()));
    }

    fn explain_type(&mut self, wanted: &str, found: Option<&Found<'_, '_>>, source: &Source<'_>, place: &str) {
        let key = keys::join(&self.path);
        let Some(found) = found else {
            self.message = format!("{place} must be {}", phrase(wanted, false));
            return;
        };
        let written = source.slice(&self.range).trim();
        let is = match found.value {
            DeValue::Table(_) => "a table".to_string(),
            DeValue::Array(_) => "an array".to_string(),
            _ if written.is_empty() => format!("a {}", found.value.type_str()),
            _ => format!("`{}`", shown(written, 40)),
        };
        let integer = matches!(found.value, DeValue::Integer(_));
        self.message = format!("`{key}` must be {}, but it is {is} ({place})", phrase(wanted, integer));
        let whole = whole_type(wanted);
        let better = match found.value {
            DeValue::String(text) if whole.is_some() => text.trim().parse::<i64>().ok().map(|i| i.to_string()),
            DeValue::String(text) if matches!(wanted, "f64" | "f32") => {
                text.trim().parse::<f64>().ok().filter(|x| x.is_finite()).map(|x| format!("{x:?}"))
            }
            DeValue::String(text) if wanted == "a boolean" => {
                text.trim().to_lowercase().parse::<bool>().ok().map(|b| b.to_string())
            }
            DeValue::Float(f) if whole.is_some() => {
                let x = f.as_str().parse::<f64>().ok();
                x.filter(|x| x.fract() == 0.0 && x.abs() < 9e15).map(|x| format!("{x:.0}"))
            }
            DeValue::Table(_) | DeValue::Array(_) => None,
            _ if matches!(wanted, "a string" | "string") => Some(keys::quoted(written)),
            _ => None,
        };
        self.hint = better.map(|better| match source.piece(self.range.start) {
            Piece::Set { .. } => format!("`--set {}`", shell(&format!("{key}={better}"))),
            Piece::File { .. } => format!("write `{better}`"),
        });
        if self.hint.is_none() {
            self.hint = usual(&key, wanted, found.value);
        }
    }

    /// A choice (an externally tagged enum) with no or several of its kinds.
    fn explain_choice(&mut self, found: Option<&Found<'_, '_>>, source: &Source<'_>, place: &str) {
        let key = keys::join(&self.path);
        let kinds = found.and_then(|f| f.value.as_table()).map_or(Vec::new(), |table| {
            table.keys().map(|k| format!("`{}` ({})", k.get_ref(), source.name(k.span().start))).collect::<Vec<_>>()
        });
        if kinds.is_empty() {
            self.message = format!("`{key}` names no kind ({place})");
            self.hint = Some(format!("add a table below it, as in `[{key}.kind]`"));
        } else {
            self.message = format!("`{key}` must be of one kind, but it has {}: {}", kinds.len(), kinds.join(", "));
            self.hint = Some("keep one of them".to_string());
        }
    }
}

/// What is written where a `wanted` stands, for a value that no guess can mend.
fn usual(key: &str, wanted: &str, value: &DeValue<'_>) -> Option<String> {
    Some(match (whole_type(wanted), value) {
        (Some((low, high)), DeValue::Integer(i)) => {
            let nearest = if i.as_str().starts_with('-') { low } else { high };
            format!("the nearest allowed value: `{key} = {nearest}`")
        }
        (Some((low, _)), _) => format!("a whole number without quotes, such as `{key} = {}`", low.max(16)),
        (None, _) => match wanted {
            "f32" | "f64" => format!("a number without quotes, such as `{key} = 0.5`"),
            "a boolean" => format!("without quotes: `{key} = true`, or false"),
            "a sequence" => "values between brackets, with commas between them".to_string(),
            "a string or a table" => format!("name a kind in quotes, or give it a table: `[{key}.KIND]`"),
            "a map" | "a table" => format!("put its keys in a table: `[{key}]`"),
            _ if wanted.starts_with("struct ") => format!("put its keys in a table: `[{key}]`"),
            _ if wanted.contains("string") => format!("text in quotes, such as `{key} = \"..\"`"),
            _ => return None,
        },
    })
}

fn near(name: &str, known: &[String]) -> Option<String> {
    nearest(name, known.iter().map(String::as_str)).map(str::to_string)
}

/// The known names, if serde complains of an unknown key.
fn unknown_key(text: &str) -> Option<Vec<String>> {
    if let Some(rest) = text.strip_prefix("unknown field ") {
        return Some(names(expected(rest)));
    }
    // What the toml crate itself says of the settings of an enum's variant.
    let (_, known) = text.strip_prefix("unexpected keys in table: ")?.rsplit_once(", available keys: ")?;
    Some(known.split(", ").filter(|name| !name.is_empty()).map(str::to_string).collect())
}

/// The part of serde's message that lists what it knows; the unknown name before it may hold anything.
pub(super) fn expected(text: &str) -> &str {
    let marks = ["`, expected one of `", "`, expected `"];
    marks.iter().find_map(|mark| text.rfind(mark).map(|at| &text[at + 1..])).unwrap_or_default()
}

/// The names in backticks.
pub(super) fn names(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_string).collect()
}

/// Names in backticks, as many as one line holds.
fn list(known: &[String]) -> String {
    let mut line = String::new();
    for (n, name) in known.iter().enumerate() {
        if line.len() + name.len() > 75 && n > 0 {
            line.push_str(&format!(" and {} more", known.len() - n));
            break;
        }
        line.push_str(if n > 0 { ", " } else { "" });
        line.push_str(&format!("`{name}`"));
    }
    line
}

/// The largest value of a whole-number type that TOML can write, with the smallest.
fn whole_type(wanted: &str) -> Option<(i64, i64)> {
    Some(match wanted {
        "u8" => (0, u8::MAX.into()),
        "u16" => (0, u16::MAX.into()),
        "u32" => (0, u32::MAX.into()),
        "u64" | "usize" => (0, i64::MAX),
        "i8" => (i8::MIN.into(), i8::MAX.into()),
        "i16" => (i16::MIN.into(), i16::MAX.into()),
        "i32" => (i32::MIN.into(), i32::MAX.into()),
        "i64" | "isize" => (i64::MIN, i64::MAX),
        "a nonzero usize" | "a nonzero u64" => (1, i64::MAX),
        "a nonzero u32" => (1, u32::MAX.into()),
        _ => return None,
    })
}

/// Rust's name of a type in a recipe's words; `range` adds the allowed range of a whole number.
fn phrase(wanted: &str, range: bool) -> String {
    match (wanted, whole_type(wanted)) {
        (_, Some((low, high))) if range => format!("a whole number from {low} to {high}"),
        (_, Some((low, _))) if low >= 0 => format!("a whole number from {low}"),
        (_, Some(_)) => "a whole number".to_string(),
        ("f32" | "f64", _) => "a number".to_string(),
        ("a boolean", _) => "`true` or `false`".to_string(),
        ("string" | "path string", _) => "a string".to_string(),
        ("a sequence", _) => "an array".to_string(),
        ("a map", _) => "a table".to_string(),
        (wanted, _) if wanted.starts_with("struct ") => "a table".to_string(),
        (wanted, _) => wanted.to_string(),
    }
}

/// An argument as a shell takes it.
fn shell(text: &str) -> String {
    match text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.,:/+=@%".contains(c)) {
        true => text.to_string(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

/// An entry of the tree.
struct Found<'t, 'a> {
    path: Vec<String>,
    value: &'t DeValue<'a>,
    /// The range was the value's and not the key's.
    on_value: bool,
    /// The keys of the same table.
    siblings: Vec<String>,
}

/// The entry whose key or value stands at `range`. An array of tables and its first table share a range: `deepest` says
/// which is meant.
fn find<'t, 'a>(table: &'t DeTable<'a>, range: &Range<usize>, deepest: bool) -> Option<Found<'t, 'a>> {
    for (key, value) in table {
        let here = (key.span() == *range || value.span() == *range).then(|| Found {
            path: vec![],
            value: value.get_ref(),
            on_value: value.span() == *range,
            siblings: table.keys().map(|k| k.get_ref().to_string()).collect(),
        });
        let found = match deepest {
            true => find_below(value.get_ref(), range, deepest).or(here),
            false => here.or_else(|| find_below(value.get_ref(), range, deepest)),
        };
        if let Some(mut found) = found {
            found.path.insert(0, key.get_ref().to_string());
            return Some(found);
        }
    }
    None
}

fn find_below<'t, 'a>(value: &'t DeValue<'a>, range: &Range<usize>, deepest: bool) -> Option<Found<'t, 'a>> {
    match value {
        DeValue::Table(table) => find(table, range, deepest),
        DeValue::Array(items) => items.iter().enumerate().find_map(|(n, item)| {
            let below = find_below(item.get_ref(), range, deepest);
            let here = (item.span() == *range).then(|| Found {
                path: vec![],
                value: item.get_ref(),
                on_value: true,
                siblings: vec![],
            });
            below.or(here).map(|mut found| {
                found.path.insert(0, n.to_string());
                found
            })
        }),
        _ => None,
    }
}

/// A fault of syntax. A key given twice also tells where it stood first.
fn syntax(e: &toml::de::Error, source: &Source<'_>) -> Error {
    let range = e.span().unwrap_or(0..0);
    let place = source.name(range.start);
    let (what, wanted) = match e.message().split_once(", expected ") {
        Some((what, wanted)) => (what, Some(wanted)),
        None => (e.message(), None),
    };
    let written = source.slice(&range).trim();
    let mut error = Error::usage(match what {
        "duplicate key" => format!("duplicate key `{}` in {place}", shown(written, 60)),
        what => format!("{} in {place}", shown(what, 200)),
    });
    error.causes.extend(source.snippet(&range));
    if what == "duplicate key" {
        error.hint = Some(match first_place(source, &range) {
            Some(first) => format!("it stands in {first} already; keep one of them"),
            None => "it stands in the same table already; keep one of them".to_string(),
        });
    } else if what == "string values must be quoted" && !written.is_empty() {
        error.hint = Some(format!("write `{}`", keys::quoted(&shown(written, 60))));
    } else if let Some(wanted) = wanted {
        error.hint = Some(format!("expected {wanted}"));
    }
    error
}

/// The place of the only key of this name before `range`; nothing if several have it.
fn first_place(source: &Source<'_>, range: &Range<usize>) -> Option<String> {
    let name = source.slice(range).trim();
    let line = source.text[..range.start].rfind('\n').map_or(0, |n| n + 1);
    let before = DeTable::parse(&source.text[..line]).ok()?;
    let mut places = Vec::new();
    collect(before.get_ref(), &|range| source.slice(range).trim() == name, &mut places);
    match places.as_slice() {
        [one] => Some(source.name(*one)),
        _ => None,
    }
}

fn collect(table: &DeTable<'_>, named: &impl Fn(&Range<usize>) -> bool, places: &mut Vec<usize>) {
    for (key, value) in table {
        if named(&key.span()) {
            places.push(key.span().start);
        }
        match value.get_ref() {
            DeValue::Table(inner) => collect(inner, named, places),
            DeValue::Array(items) => {
                items.iter().filter_map(|v| v.get_ref().as_table()).for_each(|inner| collect(inner, named, places));
            }
            _ => {}
        }
    }
}

/// The hint that a `--set` was meant with `near` in the place of what stands at `range`.
fn meant(set: &str, range: Range<usize>, near: &str) -> String {
    let (at, end) = (range.start, range.end.min(set.len()));
    let mended = match (set.get(..at), set.get(end..)) {
        (Some(front), Some(behind)) => format!("{front}{near}{behind}"),
        _ => near.to_string(),
    };
    format!("did you mean `--set {}`?", shell(&mended))
}
