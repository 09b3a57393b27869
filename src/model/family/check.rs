//! Whether a directory can be loaded, found out by the checks of loading alone: no network is made.

use std::path::Path;

use super::load::{Opened, fits, open};
use super::{Description, LoadOptions};
use crate::error::{Error, Result};
use crate::weights::Store;

/// What a directory holds, and what stands against loading it.
pub struct Checked {
    pub description: Description,
    pub store: Store,
    /// Its tokenizer's number of tokens.
    pub tokenizer: Option<usize>,
    /// Values of its weights that are NaN or infinite.
    pub non_finite: usize,
    /// Why it cannot be loaded, if it cannot.
    pub problem: Option<Error>,
}

/// Checks the directory as [`super::load`] does, its values among it: every tensor is read, one at a time.
///
/// # Errors
/// A directory of which it is not even known what it should hold (input).
pub fn check(dir: &Path) -> Result<Checked> {
    let opened = open(dir, None)?;
    let misfit = fits(&opened, &LoadOptions::default()).err();
    let Opened { description, store, tokenizer, .. } = opened;
    let bad = store.non_finite()?;
    let non_finite = bad.iter().map(|b| b.wrong).sum();
    let problem = misfit.or_else(|| store.not_finite(&bad));
    Ok(Checked { description, store, tokenizer: tokenizer.map(|t| t.vocab_size()), non_finite, problem })
}
