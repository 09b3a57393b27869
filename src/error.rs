//! The one error type: what is wrong (with its place), why (indented causes), and a hint with the exact text to type.
//!
//! `kind` decides the exit code: 1 gate failed, 2 recipe or usage, 3 bad input file, 4 I/O, 5 non-finite numbers,
//! 6 device or memory, 130/143/129 stopped by a signal.

use std::fmt;
use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::path::Path;

use crate::shown;

/// What went wrong, by who can mend it; each kind has its own exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A quality gate said no.
    Gate,
    /// A recipe or a command line that cannot be meant as it stands.
    Usage,
    /// A file whose content is not what it should be.
    Input,
    /// The operating system refused a read or a write.
    Io,
    /// A loss, gradient or weight that is not finite.
    NonFinite,
    /// The device is absent, failed, or out of memory.
    Device,
    /// Stopped by a signal; the number is the signal's.
    Signal(i32),
}

impl Kind {
    /// The process exit code of this kind of error.
    pub fn exit_code(self) -> i32 {
        match self {
            Kind::Gate => 1,
            Kind::Usage => 2,
            Kind::Input => 3,
            Kind::Io => 4,
            Kind::NonFinite => 5,
            Kind::Device => 6,
            Kind::Signal(n) => 128 + n,
        }
    }
}

/// An error a user can act on.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Error {
    pub kind: Kind,
    /// What is wrong and where; lower case, no full stop, values in backticks.
    pub message: String,
    /// Causes, one line each, printed indented.
    pub causes: Vec<String>,
    /// The exact text to type, or the setting to change.
    pub hint: Option<String>,
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` with no cause and no hint yet.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), causes: Vec::new(), hint: None }
    }
    /// A recipe or command line mistake (exit 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }
    /// A bad input file (exit 3).
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Kind::Input, message)
    }
    /// A refused read or write of `path` (exit 4); `doing` is a verb: "read", "write", "create".
    pub fn io(doing: &str, path: &Path, cause: &std::io::Error) -> Self {
        let mut text = cause.to_string();
        if let Some(at) = text.find(" (os error") {
            text.truncate(at);
        }
        let error = Self::new(Kind::Io, format!("cannot {doing} {}", path.display())).cause(text.to_lowercase());
        match cause.kind() {
            ErrorKind::FileTooLarge => error.hint("`ulimit -f unlimited` lifts the limit on the size of files"),
            _ => error,
        }
    }
    /// The same error with one more cause line.
    pub fn cause(mut self, line: impl Into<String>) -> Self {
        self.causes.push(line.into());
        self
    }
    /// The same error with this hint where it has none.
    pub fn or_hint(mut self, text: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| text.into());
        self
    }
    /// The same error with this hint.
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.hint = Some(text.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is quoted may come from anybody's file: it must not forge a line, nor move a terminal.
        write!(f, "error: {}", shown::line(&self.message))?;
        for cause in &self.causes {
            for line in cause.lines() {
                write!(f, "\n   {}", shown::line(line))?;
            }
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n\nhint: {}", shown::line(hint))?;
        }
        Ok(())
    }
}

/// Checks that the whole number that the recipe's `key` is lies in `range`; the hint is the nearest one that does.
///
/// # Errors
/// A number outside of the range (usage).
pub fn whole_within(key: &str, value: usize, range: RangeInclusive<usize>) -> Result<()> {
    let (low, high) = (*range.start(), *range.end());
    match range.contains(&value) {
        true => Ok(()),
        false => Err(out_of_range(key, &value.to_string(), [low, high, value.clamp(low, high)].map(|n| n.to_string()))),
    }
}

/// The same of a number; what is not a number lies in no range.
///
/// # Errors
/// A number outside of the range (usage).
pub fn within(key: &str, value: f64, range: RangeInclusive<f64>) -> Result<()> {
    let (low, high) = (*range.start(), *range.end());
    let nearest = if value.is_nan() { low } else { value.clamp(low, high) };
    match range.contains(&value) {
        true => Ok(()),
        false => Err(out_of_range(key, &number(value), [low, high, nearest].map(number))),
    }
}

fn out_of_range(key: &str, value: &str, [low, high, nearest]: [String; 3]) -> Error {
    Error::usage(format!("`{key}` must be between {low} and {high}, but it is {value}"))
        .hint(format!("the nearest allowed value: `{key} = {nearest}`"))
}

/// A number as a recipe may write it, without a long row of zeros.
pub fn number(value: f64) -> String {
    match value == 0.0 || (1e-4..1e9).contains(&value.abs()) || !value.is_finite() {
        true => value.to_string(),
        false => format!("{value:e}"),
    }
}

/// The known name nearest to `typed`, if one is near enough to be meant.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&typed.to_lowercase(), &k.to_lowercase()), k))
        .filter(|(d, k)| *d <= 2.max(k.len() / 3))
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// A word of a command line as a shell reads it back: quoted where it has to be.
pub fn typed(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_for_the_shell_only_where_it_has_to_be() {
        assert_eq!(typed("runs/tiny-1"), "runs/tiny-1");
        assert_eq!(typed("my runs"), "'my runs'");
        assert_eq!(typed("it's"), "'it'\\''s'");
        assert_eq!(typed("seeds=[1, 2]"), "'seeds=[1, 2]'");
    }

    #[test]
    fn an_error_prints_message_indented_causes_and_hint() {
        let e = Error::input("vocab.json: not JSON").cause("line 3").hint("write JSON");
        assert_eq!(e.to_string(), "error: vocab.json: not JSON\n   line 3\n\nhint: write JSON");
    }

    #[test]
    fn a_number_out_of_its_range_is_told_with_the_range_and_the_nearest_one_in_it() {
        assert!(whole_within("a.b", 3, 1..=3).is_ok() && within("a.b", 0.0, 0.0..=1.0).is_ok());
        let whole = whole_within("a.b", 0, 1..=1 << 20).unwrap_err();
        assert_eq!(whole.message, "`a.b` must be between 1 and 1048576, but it is 0");
        assert_eq!(whole.hint.as_deref(), Some("the nearest allowed value: `a.b = 1`"));
        for (value, shown, nearest) in [
            (f64::NAN, "NaN", "1e-12"),
            (1e308, "1e308", "10"),
            (f64::NEG_INFINITY, "-inf", "1e-12"),
            (-0.5, "-0.5", "1e-12"),
        ] {
            let e = within("lr", value, 1e-12..=10.0).unwrap_err();
            assert_eq!(e.message, format!("`lr` must be between 1e-12 and 10, but it is {shown}"));
            assert_eq!(e.hint, Some(format!("the nearest allowed value: `lr = {nearest}`")));
        }
    }

    #[test]
    fn a_quoted_name_can_neither_forge_a_line_nor_move_a_terminal() {
        let name = "a\nerror: fake\u{1b}[2J";
        let e = Error::input(format!("no tensor `{name}`")).cause(format!("near `{name}`")).hint(name);
        let shown = e.to_string();
        assert!(!shown.contains('\u{1b}') && shown.matches("\nerror:").count() == 0, "{shown}");
        assert_eq!(shown.lines().count(), 5, "{shown}");
    }

    #[test]
    fn each_kind_has_its_exit_code() {
        let kinds = [Kind::Gate, Kind::Usage, Kind::Input, Kind::Io, Kind::NonFinite, Kind::Device, Kind::Signal(2)];
        assert_eq!(kinds.map(Kind::exit_code), [1, 2, 3, 4, 5, 6, 130]);
    }

    #[test]
    fn a_typo_finds_the_name_that_was_meant_and_a_stranger_finds_none() {
        assert_eq!(nearest("teecher", ["teacher", "rounds"]), Some("teacher"));
        assert_eq!(nearest("banana", ["teacher", "rounds"]), None);
    }
}
