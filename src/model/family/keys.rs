//! Typed access to the keys of a config.json, with errors that name the file, the key and what was found.
//!
//! An absent key has the default of the family's own configuration class. A null is a value of its own: where the reference
//! has no meaning for it, it is refused, and so is a value of another type.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The keys of one object of a config.json.
#[derive(Clone)]
pub struct Keys<'a> {
    file: &'a str,
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    /// The keys of `value`, the content of `file`.
    ///
    /// # Errors
    /// A value that is not an object (input).
    pub fn of(file: &'a str, value: &'a Value) -> Result<Self> {
        let map = value.as_object().ok_or_else(|| Error::input(format!("{file}: not a JSON object")))?;
        Ok(Keys { file, prefix: String::new(), map })
    }

    /// The keys of the object under `key`; none where it is absent or null.
    ///
    /// # Errors
    /// Something else (input).
    pub fn inside(&self, key: &str) -> Result<Option<Keys<'a>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || self.wrong(key, format!("must be an object, but is {}", short(value)));
        let map = value.as_object().ok_or_else(wrong)?;
        Ok(Some(Keys { file: self.file, prefix: format!("{}{key}.", self.prefix), map }))
    }

    /// An error about `key`.
    pub fn wrong(&self, key: &str, why: impl std::fmt::Display) -> Error {
        Error::input(format!("{}: `{}{key}` {why}", self.file, self.prefix))
    }

    /// The whole name of `key`.
    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The value under `key`, unless it is null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// Whether `key` is there, with null or a value.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The value under `key`, or none where it is absent; null is refused.
    fn given(&self, key: &str) -> Result<Option<&'a Value>> {
        match self.map.get(key) {
            Some(Value::Null) => {
                Err(self.wrong(key, "is null, which means nothing there").hint("leave the key out, or give a value"))
            }
            value => Ok(value),
        }
    }

    fn missing(&self, key: &str) -> Error {
        self.wrong(key, "is missing").hint("the config.json must be the one that came with the weights")
    }

    /// A whole number, or none where the key is absent or null.
    pub fn maybe_usize(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        // Nothing of a network is larger, and products of two such numbers still fit.
        let number = value.as_u64().filter(|n| *n <= 1 << 30).map(|n| n as usize);
        let range = "must be a whole number up to 2^30";
        number.map(Some).ok_or_else(|| self.wrong(key, format!("{range}, but is {}", short(value))))
    }

    /// A whole number, or `default` where the key is absent.
    pub fn usize_or(&self, key: &str, default: usize) -> Result<usize> {
        self.given(key)?;
        Ok(self.maybe_usize(key)?.unwrap_or(default))
    }

    /// A whole number that must be there.
    pub fn usize(&self, key: &str) -> Result<usize> {
        self.maybe_usize(key)?.ok_or_else(|| self.missing(key))
    }

    /// A number, or none where the key is absent or null.
    pub fn maybe_f64(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().filter(|v| v.is_finite());
        number.map(Some).ok_or_else(|| self.wrong(key, format!("must be a number, but is {}", short(value))))
    }

    /// A number, or `default` where the key is absent.
    pub fn f64_or(&self, key: &str, default: f64) -> Result<f64> {
        self.given(key)?;
        Ok(self.maybe_f64(key)?.unwrap_or(default))
    }

    /// A number that must be there.
    pub fn f64(&self, key: &str) -> Result<f64> {
        self.maybe_f64(key)?.ok_or_else(|| self.missing(key))
    }

    /// True or false, or `default` where the key is absent. Null counts as false, and is refused where the default is true.
    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool> {
        if default {
            self.given(key)?;
        }
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, format!("must be true or false, but is {}", short(value))))
    }

    /// Text, or none where the key is absent or null.
    ///
    /// # Errors
    /// Something else (input).
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || self.wrong(key, format!("must be text, but is {}", short(value)));
        value.as_str().map(Some).ok_or_else(wrong)
    }

    /// The first text of the list under `key`.
    pub fn first(&self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_array()?.first()?.as_str()
    }

    /// The texts of the list under `key`; none where it is absent or null.
    ///
    /// # Errors
    /// Something else (input).
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        list.map(Some).ok_or_else(|| self.wrong(key, format!("must be a list of texts, but is {}", short(value))))
    }

    /// Token ids below 2^32: a number, or a list of them. A number below 0 stands for none.
    ///
    /// # Errors
    /// Something else (input).
    pub fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        token_ids(value)
            .ok_or_else(|| self.wrong(key, format!("must be a token id or a list of them, but is {}", short(value))))
    }

    /// The first of the token ids under `key`.
    pub fn id(&self, key: &str) -> Result<Option<u32>> {
        Ok(self.ids(key)?.first().copied())
    }

    /// Refuses every value of `key` but `only`; absent and null pass.
    pub fn only(&self, key: &str, only: &[&str]) -> Result<()> {
        match self.text(key)? {
            Some(value) if !only.contains(&value) => {
                Err(self.wrong(key, format!("is \"{value}\", and only {} is supported", only.join(" or "))))
            }
            _ => Ok(()),
        }
    }

    /// As [`Keys::only`] where the reference's default, `default`, is not supported either: the key must be there.
    pub fn stated(&self, key: &str, only: &[&str], default: &str) -> Result<()> {
        match self.get(key) {
            Some(_) => self.only(key, only),
            None => {
                Err(self
                    .wrong(key, format!("is missing: the reference then takes \"{default}\", which is not supported")))
            }
        }
    }

    /// Refuses `key = true`.
    pub fn never(&self, key: &str) -> Result<()> {
        if self.bool_or(key, false)? {
            return Err(self.wrong(key, "is true, which is not supported"));
        }
        Ok(())
    }

    /// Refuses a value of `key` that is neither null nor empty.
    pub fn empty(&self, key: &str) -> Result<()> {
        match self.get(key) {
            Some(Value::Object(map)) if map.is_empty() => Ok(()),
            Some(Value::Array(list)) if list.is_empty() => Ok(()),
            Some(value) => Err(self.wrong(key, format!("is {}, which is not supported", short(value)))),
            None => Ok(()),
        }
    }

    /// Refuses `key = false`.
    pub fn always(&self, key: &str) -> Result<()> {
        if !self.bool_or(key, true)? {
            return Err(self.wrong(key, "is false, which is not supported"));
        }
        Ok(())
    }

    /// The names of all keys.
    pub fn names(&self) -> Vec<&'a str> {
        self.map.keys().map(String::as_str).collect()
    }

    /// The one value that every source which says something says: `said` are values with the whole names of their keys.
    ///
    /// # Errors
    /// Two that differ, with both names (input).
    pub fn agreed<T: PartialEq + std::fmt::Debug + Clone>(&self, said: &[(String, T)]) -> Result<Option<T>> {
        let Some((first, value)) = said.first() else { return Ok(None) };
        match said.iter().find(|(_, other)| other != value) {
            None => Ok(Some(value.clone())),
            Some((second, other)) => {
                Err(Error::input(format!("{}: `{first}` and `{second}` contradict each other", self.file))
                    .cause(format!("{value:?} and {other:?}"))
                    .hint("remove the one that is not meant"))
            }
        }
    }
}

/// The token ids that a JSON value stands for: a number, or a list of them, those below 0 left out; none if it is no such
/// thing.
pub fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let one = |v: &Value| match (v.as_u64(), v.as_i64()) {
        (Some(id), _) => u32::try_from(id).ok().map(Some),
        (None, Some(_)) => Some(None),
        (None, None) => None,
    };
    let list = match value.as_array() {
        Some(list) => list.iter().map(one).collect::<Option<Vec<_>>>()?,
        None => vec![one(value)?],
    };
    Some(list.into_iter().flatten().collect())
}

/// A value as messages show it.
pub fn short(value: &Value) -> String {
    value.to_string().chars().take(40).collect()
}
