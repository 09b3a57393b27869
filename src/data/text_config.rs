//! The ranges of a text's settings, checked before any file is opened.

use super::corpus::TextConfig;
use crate::error::{Error, Result, whole_within};

impl TextConfig {
    /// Checks ranges and contradictions.
    pub fn validate(&self) -> Result<()> {
        whole_within("data.text.length", self.length, 2..=1 << 20)?;
        if self.path.as_os_str().is_empty() {
            return Err(
                Error::usage("`data.text.path` is empty").hint("name a text file: `data.text.path = \"my.txt\"`")
            );
        }
        if self.valid_path.is_some() && self.valid_fraction.is_some() {
            return Err(Error::usage("`data.text.valid_path` and `data.text.valid_fraction` cannot both be given")
                .hint("delete one of them"));
        }
        match self.valid_fraction {
            Some(fraction) if !(fraction > 0.0 && fraction < 1.0) => Err(Error::usage(format!(
                "`data.text.valid_fraction` must be above 0 and below 1, but it is {fraction}"
            ))
            .hint("for instance `data.text.valid_fraction = 0.05`")),
            _ => Ok(()),
        }
    }
}
