//! The size of the picture task, and what of it fits together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CLAUSE, CLOSING, COLOURS, KINDS, NAMES, OPENING, PLACES, Shape};
use crate::error::{Error, Result, whole_within, within};

/// The size of the task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PicturesConfig {
    /// Names of painters, 1 to 8.
    pub names: usize,
    /// Kinds of things, 1 to 4.
    pub kinds: usize,
    /// Colours of things, 1 to 4.
    pub colours: usize,
    /// Largest count in a clause, 1 to 9 and no more than a quadrant has cells.
    pub count: usize,
    /// Most clauses of a caption, 1 to 4; the fewest are half as many, rounded up.
    pub clauses: usize,
    /// Rows of the picture, even, 2 to 16.
    pub rows: usize,
    /// Columns of the picture, even, 2 to 16.
    pub columns: usize,
    /// Probability that a token is replaced by a uniformly drawn one, 1e-12 to 0.5: the floor under every likelihood.
    pub noise: f64,
}

impl Default for PicturesConfig {
    fn default() -> Self {
        PicturesConfig { names: 4, kinds: 3, colours: 3, count: 3, clauses: 3, rows: 6, columns: 6, noise: 1e-4 }
    }
}

impl PicturesConfig {
    /// Checks ranges.
    ///
    /// # Errors
    /// A setting out of range, or more things than a quadrant holds (usage).
    pub fn validate(&self) -> Result<()> {
        for (key, value, low, high) in [
            ("names", self.names, 1, NAMES.len()),
            ("kinds", self.kinds, 1, KINDS.len()),
            ("colours", self.colours, 1, COLOURS.len()),
            ("count", self.count, 1, 9),
            ("clauses", self.clauses, 1, PLACES.len()),
            ("rows", self.rows, 2, 16),
            ("columns", self.columns, 2, 16),
        ] {
            whole_within(&format!("data.pictures.{key}"), value, low..=high)?;
        }
        for (key, value) in [("rows", self.rows), ("columns", self.columns)] {
            if value % 2 == 1 {
                return Err(Error::usage(format!("`data.pictures.{key}` must be even, but it is {value}"))
                    .cause("a caption names quadrants of the picture")
                    .hint(format!("`data.pictures.{key} = {}`", value - 1)));
            }
        }
        let cells = self.rows * self.columns / 4;
        if self.count > cells {
            return Err(Error::usage(format!(
                "`data.pictures.count = {}` does not fit: `data.pictures.rows` and `data.pictures.columns` make quadrants of {cells} cells",
                self.count
            ))
            .hint(format!("`data.pictures.count = {cells}`")));
        }
        within("data.pictures.noise", self.noise, 1e-12..=0.5)
    }

    /// Where text and picture lie in a sequence.
    pub fn shape(&self) -> Shape {
        Shape { text: OPENING + CLAUSE * self.clauses + CLOSING, rows: self.rows, columns: self.columns }
    }
}
