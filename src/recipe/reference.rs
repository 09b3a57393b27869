//! Every key of a recipe, from the types that read it: their doc comments, values and defaults, as a JSON schema, as tables,
//! and as the page of the book.

use std::collections::BTreeMap;
use std::fmt::Write;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::Recipe;
use crate::error::{Error, Result, nearest};

/// What stands in a path for the name that a recipe gives.
const NAME: &str = "NAME";

/// The keys that lie in one place of a recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Where it lies, as `model.NAME.train`; empty for the recipe itself.
    pub path: String,
    /// What it is.
    pub about: String,
    /// Whether one of its keys is given, as for an objective, and not all that are needed.
    pub one_of: bool,
    pub keys: Vec<Key>,
}

/// One key, or one of the values that a key can have.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Its name in its table, or the text that is the value.
    pub name: String,
    /// What may be given.
    pub values: String,
    /// The table that tells more about it.
    pub table: Option<String>,
    /// Whether names stand between it and its values, as those of models.
    pub named: bool,
    /// What holds where it is not given: a value, or nothing where the meaning says it or it has to be given.
    pub default: Option<String>,
    /// Whether it has to be given.
    pub needed: bool,
    /// What it means, in a sentence.
    pub about: String,
}

/// The JSON schema of a recipe.
pub fn schema() -> Value {
    let mut schema = with_null();
    without_null(&mut schema);
    schema
}

/// The same, in which a key that may be left out can be null.
fn with_null() -> Value {
    SchemaSettings::draft07().into_generator().into_root_schema_for::<Recipe>().to_value()
}

/// TOML has no null: a key that may be left out is one that is not required.
fn without_null(value: &mut Value) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(without_null),
        Value::Object(object) => {
            if let Some(Value::Array(kinds)) = object.get_mut("type") {
                kinds.retain(|kind| kind != "null");
                if let [one] = &kinds[..] {
                    let one = one.clone();
                    object.insert("type".into(), one);
                }
            }
            if let Some(Value::Array(all)) = object.get_mut("anyOf") {
                all.retain(|one| one.get("type").is_none_or(|kind| kind != "null"));
                if let [Value::Object(one)] = &all[..] {
                    let one = one.clone();
                    object.remove("anyOf");
                    for (key, value) in one {
                        object.entry(key).or_insert(value);
                    }
                }
            }
            if object.get("default").is_some_and(Value::is_null) {
                object.remove("default");
            }
            object.values_mut().for_each(without_null);
        }
        _ => {}
    }
}

/// All tables, in the order in which a recipe is read.
pub fn tables() -> Vec<Table> {
    let schema = with_null();
    let mut walk = Walk { schema: &schema, tables: Vec::new(), places: BTreeMap::new() };
    walk.table("", &schema);
    walk.tables
}

/// A walk over the schema that gives each type its first place.
struct Walk<'a> {
    schema: &'a Value,
    tables: Vec<Table>,
    /// Where each named type is told.
    places: BTreeMap<String, String>,
}

impl<'a> Walk<'a> {
    /// What a value refers to, with the name of the type.
    fn behind(&self, value: &'a Value) -> (&'a Value, Option<&'a str>) {
        // A reference with words beside it is a list of one, and one that may be left out a choice with null.
        let inner = match (value.get("allOf"), value.get("anyOf")) {
            (Some(Value::Array(all)), _) => (all.len() == 1).then(|| &all[0]),
            (_, Some(Value::Array(any))) => {
                let mut real = any.iter().filter(|one| !is_null(one));
                real.next().filter(|_| real.next().is_none())
            }
            _ => None,
        };
        if let Some(inner) = inner {
            return self.behind(inner);
        }
        let name = value.get("$ref").and_then(Value::as_str).and_then(|to| to.rsplit('/').next());
        match name.and_then(|name| self.schema["definitions"].get(name)) {
            Some(of) => (of, name),
            None => (value, None),
        }
    }

    /// Adds the table of an object, or of the values of a choice, and those below it.
    fn table(&mut self, path: &str, value: &'a Value) {
        let at = self.tables.len();
        let one_of = value.get("oneOf").is_some();
        self.tables.push(Table { path: path.into(), about: about(value), one_of, keys: Vec::new() });
        let keys = match value.get("oneOf").and_then(Value::as_array) {
            Some(choices) => choices.iter().flat_map(|choice| self.choice(path, choice)).collect(),
            None => self.properties(path, value),
        };
        self.tables[at].keys = keys;
    }

    /// The keys of an object.
    fn properties(&mut self, path: &str, value: &'a Value) -> Vec<Key> {
        let properties = value.get("properties").and_then(Value::as_object).into_iter().flatten();
        let needed: Vec<&str> =
            value.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let mut keys = Vec::new();
        for (name, of) in properties {
            keys.push(self.key(path, name, of, needed.contains(&name.as_str())));
        }
        // What has to be given comes first; the others are by name, as the schema has them.
        keys.sort_by_key(|key| !key.needed);
        keys
    }

    /// One key of an object, with the tables below it.
    fn key(&mut self, path: &str, name: &str, of: &'a Value, needed: bool) -> Key {
        let (behind, _) = self.behind(of);
        let place = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        let (values, table) = self.values(&place, of);
        let about = [of, behind].into_iter().map(about).find(|about| !about.is_empty()).unwrap_or_default();
        // A flag that is not written where it is false has no default in the schema, and what may be null is not given.
        let flag = || behind.get("type").is_some_and(|kind| kind == "boolean").then(|| "false".to_string());
        let none = || may_be_null(of).then(|| "none".to_string());
        let given = of.get("default").filter(|default| !default.is_null()).map(toml_text);
        // The keys of a table say theirs themselves.
        let given = given.filter(|text| table.is_none() || text.len() < 40);
        let default = if needed { None } else { given.or_else(none).or_else(flag) };
        let named = behind.get("additionalProperties").is_some_and(Value::is_object);
        let values = if named && table.is_none() { format!("table of names, each {values}") } else { values };
        Key { name: name.into(), values, table, named, default, needed, about }
    }

    /// The values of a choice: a word, or a table with one key.
    fn choice(&mut self, path: &str, choice: &'a Value) -> Vec<Key> {
        let key = |name: &str, about: String| Key {
            name: name.into(),
            values: String::new(),
            table: None,
            named: false,
            default: None,
            needed: false,
            about,
        };
        if let Some(words) = choice.get("enum").and_then(Value::as_array) {
            return words.iter().map(|word| key(&toml_text(word), about(choice))).collect();
        }
        if let Some(word) = choice.get("const") {
            return vec![key(&toml_text(word), about(choice))];
        }
        let mut keys = self.properties(path, choice);
        for key in &mut keys {
            // The words beside the variant tell what it is; those of its type may tell it for several.
            let of_choice = about(choice);
            if !of_choice.is_empty() {
                key.about = of_choice;
            }
            key.needed = false;
        }
        keys
    }

    /// What may be given for a key, and the table that tells more.
    fn values(&mut self, place: &str, of: &'a Value) -> (String, Option<String>) {
        let (behind, name) = self.behind(of);
        if let Some(words) = words(behind) {
            return (words, None);
        }
        if let Some(of) = behind.get("additionalProperties").filter(|of| of.is_object()) {
            return self.values(&format!("{place}.{NAME}"), of);
        }
        if behind.get("properties").is_none() && behind.get("additionalProperties").is_some_and(|of| of == false) {
            return ("`{}`".into(), None);
        }
        if behind.get("properties").is_some() || behind.get("oneOf").is_some() {
            let kind = if behind.get("oneOf").is_some() { "one of" } else { "table" };
            let first = name.and_then(|name| self.places.get(name)).cloned();
            let at = first.unwrap_or_else(|| {
                if let Some(name) = name {
                    self.places.insert(name.into(), place.into());
                }
                self.table(place, behind);
                place.into()
            });
            return (kind.into(), Some(at));
        }
        if let Some(all) = behind.get("anyOf").and_then(Value::as_array) {
            let all: Vec<(String, Option<String>)> = all.iter().map(|of| self.values(place, of)).collect();
            let table = all.iter().find_map(|(_, table)| table.clone());
            return (all.into_iter().map(|(values, _)| values).collect::<Vec<_>>().join(" or "), table);
        }
        let kind = match behind.get("type") {
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
            kind => kind.and_then(Value::as_str),
        };
        match kind {
            Some("array") => match behind.get("items") {
                Some(items) if items.is_object() => {
                    let (values, table) = self.values(place, items);
                    (format!("list of {values}"), table)
                }
                _ => ("list".into(), None),
            },
            Some("string") => ("text".into(), None),
            Some("integer") => ("whole number".into(), None),
            Some("number") => ("number".into(), None),
            Some("boolean") => ("`true`, `false`".into(), None),
            _ => match behind.get("const") {
                Some(word) => (format!("`{}`", toml_text(word)), None),
                None => ("any".into(), None),
            },
        }
    }
}

fn is_null(value: &Value) -> bool {
    value.get("type").is_some_and(|kind| kind == "null")
}

/// Whether a key may be left out with no value of its own in its place.
fn may_be_null(value: &Value) -> bool {
    let among = |key: &str, null: &dyn Fn(&Value) -> bool| match value.get(key) {
        Some(Value::Array(all)) => all.iter().any(null),
        _ => false,
    };
    among("type", &|kind| kind == "null") || among("anyOf", &is_null)
}

/// The words of a choice between words alone, none of which has a sentence of its own.
fn words(value: &Value) -> Option<String> {
    let all = value.get("enum").and_then(Value::as_array)?;
    Some(all.iter().map(|word| format!("`{}`", toml_text(word))).collect::<Vec<_>>().join(", "))
}

/// The doc comment, on one line.
fn about(value: &Value) -> String {
    let text = value.get("description").and_then(Value::as_str).unwrap_or_default();
    // Links between items of the code lead nowhere here.
    let text = text.replace("[`", "`").replace("`]", "`").replace("`super::", "`");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A value as a recipe has it.
fn toml_text(value: &Value) -> String {
    match value {
        Value::Object(object) if object.is_empty() => "{}".into(),
        Value::Object(object) => {
            let object = object.iter().filter(|(_, value)| !value.is_null());
            let inside: Vec<String> = object.map(|(key, value)| format!("{key} = {}", toml_text(value))).collect();
            format!("{{ {} }}", inside.join(", "))
        }
        Value::Array(all) => format!("[{}]", all.iter().map(toml_text).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// What a path names: a key with the table it lies in.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its whole path.
    pub path: String,
    pub key: Key,
}

/// The keys that `path` names: the one at that place (any name may stand for NAME), or else all whose path ends so.
///
/// # Errors
/// A key that is not known (usage), with the nearest one.
pub fn find(path: &str) -> Result<Vec<Found>> {
    let tables = tables();
    if let Some(found) = at(&tables, path) {
        return Ok(vec![found]);
    }
    let ends = |whole: &str| whole == path || whole.ends_with(&format!(".{path}"));
    let whole = |table: &Table, key: &Key| match &table.path[..] {
        "" => key.name.clone(),
        place => format!("{place}.{}", key.name),
    };
    let all = || tables.iter().flat_map(|table| table.keys.iter().map(move |key| (whole(table, key), key)));
    let found: Vec<Found> =
        all().filter(|(whole, _)| ends(whole)).map(|(path, key)| Found { path, key: key.clone() }).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let error = Error::usage(format!("no key `{path}`"));
    let parts: Vec<&str> = path.split('.').collect();
    let known: Vec<String> = all().map(|(whole, _)| whole).collect();
    // A key of that last part somewhere else, or the end of one that is spelt nearly so.
    let by_name = known.iter().find(|whole| whole.rsplit('.').next() == parts.last().copied());
    let ends: Vec<String> = known
        .iter()
        .map(|whole| {
            let all: Vec<&str> = whole.split('.').collect();
            all[all.len().saturating_sub(parts.len())..].join(".")
        })
        .collect();
    Err(match by_name.map(String::as_str).or_else(|| nearest(path, ends.iter().map(String::as_str))) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint("`fewstep recipe explain` lists the tables of a recipe"),
    })
}

/// The key at a whole path.
fn at(tables: &[Table], path: &str) -> Option<Found> {
    let table = |path: &str| tables.iter().find(|table| table.path == path);
    let (mut here, mut parts) = (table("")?, path.split('.').peekable());
    loop {
        let key = here.keys.iter().find(|key| Some(key.name.as_str()) == parts.peek().copied())?;
        parts.next();
        if key.named {
            parts.next();
        }
        if parts.peek().is_none() {
            return Some(Found { path: path.into(), key: key.clone() });
        }
        here = table(key.table.as_deref()?)?;
    }
}

/// The page of the book.
pub fn page() -> String {
    let mut text = String::from(
        "# Keys of a recipe\n\nEvery key that a recipe can have, made from the program itself: `fewstep recipe explain KEY` prints the same on a\n\
         terminal, and `fewstep recipe schema` prints a JSON schema. NAME stands for a name that the recipe gives. Where the column of\n\
         defaults is empty, the last column tells the default.\n",
    );
    for table in tables() {
        let title = if table.path.is_empty() { "The recipe".to_string() } else { format!("`{}`", table.path) };
        // Writing to a text cannot fail.
        let _ = write!(text, "\n## {title}\n\n");
        if !table.about.is_empty() {
            let _ = write!(text, "{}\n\n", cell(&table.about));
        }
        text += if table.one_of {
            "| value | meaning |\n|---|---|\n"
        } else {
            "| key | value | default | meaning |\n|---|---|---|---|\n"
        };
        for key in &table.keys {
            let _ = match table.one_of {
                true => writeln!(text, "| {} | {} |", cell(&key.choice(true)), cell(&key.about)),
                false => writeln!(
                    text,
                    "| `{}` | {} | {} | {} |",
                    key.name,
                    cell(&key.shown(true)),
                    cell(&key.given(true)),
                    cell(&key.about)
                ),
            };
        }
    }
    text
}

/// A text inside a table of Markdown.
fn cell(text: &str) -> String {
    let part = |(i, part): (usize, &str)| if i % 2 == 0 { part.replace('<', "&lt;") } else { part.to_string() };
    // Between backticks nothing but the bar of a table is special.
    text.replace('|', "\\|").split('`').enumerate().map(part).collect::<Vec<_>>().join("`")
}

impl Key {
    /// What may be given, with a link to its table or with its path.
    pub fn shown(&self, links: bool) -> String {
        match &self.table {
            Some(table) if links => {
                let anchor: String = table.chars().filter(|c| c.is_alphanumeric() || "_-".contains(*c)).collect();
                format!("{} [`{table}`](#{})", self.values, anchor.to_lowercase())
            }
            Some(table) => format!("{} `{table}`", self.values),
            None => self.values.clone(),
        }
    }

    /// The default, or that it has to be given; empty where the meaning says it.
    pub fn given(&self, marks: bool) -> String {
        match (&self.default, self.needed) {
            (_, true) => "has to be given".into(),
            (Some(default), _) if marks && default != "none" => format!("`{default}`"),
            (Some(default), _) => default.clone(),
            (None, false) => String::new(),
        }
    }

    /// As one of several values: a word, or a table with one key.
    pub fn choice(&self, links: bool) -> String {
        match self.values.is_empty() {
            true => format!("`{}`", self.name),
            false => format!("`{{ {} = … }}`: {}", self.name, self.shown(links)),
        }
    }
}
