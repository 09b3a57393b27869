//! The names that become files, directories and rows of a report: none may stand for two things, on any system.

use super::{ModelConfig, Recipe};
use crate::data::DataConfig;
use crate::error::{Error, Result};

/// Longest name, in characters.
const LONGEST: usize = 64;

/// Names of devices that Windows gives no file to.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];

/// What the exact judge of the story language is called in results.
pub const ORACLE: &str = "oracle";

/// A label as part of a file's name.
pub fn slug(label: &str) -> String {
    label.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

/// Why a name cannot be that of a file on every system, if it cannot.
fn fault(name: &str) -> Option<String> {
    let lower = name.to_lowercase();
    let numbered =
        |port: &str| lower.strip_prefix(port).is_some_and(|n| n.len() == 1 && n != "0" && n.parse::<u8>().is_ok());
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        Some("a name has letters, digits, `-` and `_`".to_string())
    } else if name.starts_with('-') {
        Some("a name does not begin with `-`, which begins an option".to_string())
    } else if name.len() > LONGEST {
        Some(format!("it has {} characters, and a name has at most {LONGEST}", name.len()))
    } else if DEVICES.contains(&lower.as_str()) || numbered("com") || numbered("lpt") {
        Some("Windows keeps this name for a device".to_string())
    } else {
        None
    }
}

/// The nearest name without a fault.
fn mended(name: &str) -> String {
    let known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let clean: String = name.chars().take(LONGEST).map(|c| if known(c) { c } else { '-' }).collect();
    let clean = clean.trim_matches('-');
    match (clean.is_empty(), fault(clean)) {
        (true, _) => "study".to_string(),
        (false, Some(_)) => format!("my-{clean}"),
        (false, None) => clean.to_string(),
    }
}

impl Recipe {
    /// Checks that the study and its models have names that can be those of files.
    pub(super) fn check_file_names(&self) -> Result<()> {
        if let Some(why) = fault(&self.name) {
            return Err(Error::usage("`name` cannot be the name of a run directory")
                .cause(why)
                .hint(format!("`name = \"{}\"`", mended(&self.name))));
        }
        if self.model.is_empty() {
            return Err(Error::usage("a recipe needs at least one `model`").hint("add a table `[model.NAME]`"));
        }
        let faulty = self.model.keys().find_map(|name| Some((name, fault(name)?)));
        match faulty {
            None => Ok(()),
            Some((name, why)) => {
                let key = super::parse::dotted_key(&["model", name]);
                Err(Error::usage(format!("`{key}` cannot be the name of a model"))
                    .cause(why)
                    .hint(format!("call it `[model.{}]`", mended(name))))
            }
        }
    }

    /// Checks the names of the study and its models, and that no two results have one name.
    pub(super) fn check_names(&self) -> Result<()> {
        self.check_file_names()?;
        for (at, (name, model)) in self.model.iter().enumerate() {
            let key = super::parse::dotted_key(&["model", name]);
            let same = |other: &&String| other.eq_ignore_ascii_case(name);
            if let Some(other) = self.model.keys().take(at).find(same) {
                let free = format!("{}-2", &name[..name.len().min(LONGEST - 2)]);
                return Err(Error::usage(format!("`{key}` and `model.{other}` differ only in capital letters"))
                    .cause("on some systems their directories are one")
                    .hint(format!("call it `[model.{free}]`")));
            }
            if matches!(self.data, DataConfig::Story(_)) && self.eval.oracle && name.eq_ignore_ascii_case(ORACLE) {
                return Err(Error::usage(format!("`{key}` has the name of the exact judge of `data.story`"))
                    .cause("both would be rows of the report under one name")
                    .hint("give the model another name, or set `eval.oracle = false`"));
            }
            Self::check_different(name, model)?;
        }
        Ok(())
    }

    /// Checks that no two ways of sampling a model have one name, nor one file.
    fn check_different(name: &str, model: &ModelConfig) -> Result<()> {
        let key = if model.decode.is_empty() { "order" } else { "decode" };
        let labels: Vec<String> = Self::decodings(model).into_iter().map(|(label, _)| label).collect();
        for (at, label) in labels.iter().enumerate() {
            let same = |other: &&String| slug(other).eq_ignore_ascii_case(&slug(label));
            if let Some(other) = labels[..at].iter().find(same) {
                let what = match other == label {
                    true => format!("`model.{name}.{key}` has `{label}` twice"),
                    false => format!("`model.{name}.{key}` has `{other}` and `{label}`, whose files have one name"),
                };
                return Err(Error::usage(what)
                    .cause("each way of sampling a model is a row of the report, under its own name")
                    .hint(format!("keep one of the two in `model.{name}.{key}`")));
            }
        }
        Ok(())
    }

    /// Checks that the exported models exist, each once.
    pub(super) fn check_exported(&self) -> Result<()> {
        for (at, name) in self.export.models.iter().enumerate() {
            self.model(name).map_err(|e| Error { message: format!("`export.models`: {}", e.message), ..e })?;
            if self.export.models[..at].contains(name) {
                let mut once: Vec<&String> = Vec::new();
                self.export.models.iter().for_each(|n| {
                    if !once.contains(&n) {
                        once.push(n);
                    }
                });
                return Err(Error::usage(format!("`export.models` lists `{name}` twice"))
                    .hint(format!("`export.models = {once:?}`")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_some_system_keeps_for_itself_are_mended_to_ones_that_it_does_not() {
        let long = "x".repeat(65);
        for name in ["", ".", "..", "a/b", "-x", "CON", "com1", "lpt9", "é", "a b", long.as_str()] {
            assert!(fault(name).is_some(), "{name}");
            assert_eq!(fault(&mended(name)), None, "{name} as {}", mended(name));
        }
        for name in ["a", "com0", "com10", "console", "_x", "0", &"x".repeat(64)] {
            assert_eq!(fault(name), None, "{name}");
        }
    }

    #[test]
    fn a_label_as_a_file_name_has_no_separator_of_any_system() {
        assert_eq!(slug("AR-Diffusion, 4 levels/\\:"), "AR-Diffusion--4-levels---");
    }
}
