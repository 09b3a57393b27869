//! Typed access to the keys of a config.json, with errors that name the file, the key and what was found.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The keys of one object of a config.json.
pub struct Keys<'a> {
    file: &'a str,
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    /// The keys of `value`, the content of `file`. Errors if it is no object.
    pub fn of(file: &'a str, value: &'a Value) -> Result<Self> {
        let map = value.as_object().ok_or_else(|| Error::input(format!("{file}: not a JSON object")))?;
        Ok(Keys { file, prefix: String::new(), map })
    }

    /// The keys of the object under `key`, if there is one.
    pub fn inside(&self, key: &str) -> Option<Keys<'a>> {
        let map = self.map.get(key)?.as_object()?;
        Some(Keys { file: self.file, prefix: format!("{}{key}.", self.prefix), map })
    }

    /// An error about `key`.
    pub fn wrong(&self, key: &str, why: impl std::fmt::Display) -> Error {
        Error::input(format!("{}: `{}{key}` {why}", self.file, self.prefix))
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
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

    /// A whole number that must be there.
    pub fn usize(&self, key: &str) -> Result<usize> {
        self.maybe_usize(key)?.ok_or_else(|| self.missing(key))
    }

    /// A number, or `default` where the key is absent or null.
    pub fn f64_or(&self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().ok_or_else(|| self.wrong(key, format!("must be a number, but is {}", short(value))))
    }

    /// A number that must be there.
    pub fn f64(&self, key: &str) -> Result<f64> {
        if self.get(key).is_none() {
            return Err(self.missing(key));
        }
        self.f64_or(key, 0.0)
    }

    /// True or false, or `default` where the key is absent or null.
    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(key, format!("must be true or false, but is {}", short(value))))
    }

    /// Text, or none where the key is absent or no text.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_str()
    }

    /// The first text of the list under `key`.
    pub fn first(&self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_array()?.first()?.as_str()
    }

    /// A token id below 2^32: a number, or the first of a list of them.
    pub fn id(&self, key: &str) -> Option<u32> {
        let value = self.get(key)?;
        let value = value.as_array().map_or(Some(value), |list| list.first())?;
        value.as_u64().and_then(|n| u32::try_from(n).ok())
    }

    /// Refuses every value of `key` but `only` (or its absence).
    pub fn only(&self, key: &str, only: &[&str]) -> Result<()> {
        match self.get(key) {
            Some(value) if !only.contains(&value.as_str().unwrap_or_default()) => {
                Err(self.wrong(key, format!("is {}, and only {} is supported", short(value), only.join(" or "))))
            }
            _ => Ok(()),
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

    /// The names of all keys, for messages.
    pub fn names(&self) -> Vec<&'a str> {
        self.map.keys().map(String::as_str).collect()
    }
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(40).collect()
}
