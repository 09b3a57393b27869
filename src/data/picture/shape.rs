//! Where text and picture lie in a sequence, and how both are shown: the caption on a line, then a line for each row.

use serde::{Deserialize, Serialize};

/// The word behind a caption that is shorter than its place.
pub const PAD: &str = "<pad>";
/// How every caption ends.
const END: [&str; 2] = ["best", "."];

/// A sequence of `text` words and then `rows` x `columns` cells, row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Positions of the caption with its padding.
    pub text: usize,
    pub rows: usize,
    pub columns: usize,
}

impl Shape {
    /// Cells of the picture.
    pub fn cells(&self) -> usize {
        self.rows * self.columns
    }

    /// Tokens of a sequence L.
    pub fn length(&self) -> usize {
        self.text + self.cells()
    }

    /// The cells `[Q]` of a quadrant (0 to 3, row by row), as places in the picture.
    pub fn quadrant(&self, place: usize) -> Vec<usize> {
        let (height, width) = (self.rows / 2, self.columns / 2);
        let (top, left) = (place / 2 * height, place % 2 * width);
        (top..top + height).flat_map(|r| (left..left + width).map(move |c| r * self.columns + c)).collect()
    }

    /// Words parted by spaces, as lines: the caption without its padding, then the rows of the picture.
    pub fn lines(&self, words: &str) -> String {
        let words: Vec<&str> = words.split_whitespace().collect();
        let (text, picture) = words.split_at(self.text.min(words.len()));
        let end = text.iter().rposition(|w| *w != PAD).map_or(0, |last| last + 1);
        let rows = picture.chunks(self.columns.max(1)).map(|row| row.join(" "));
        std::iter::once(text[..end].join(" ")).chain(rows).collect::<Vec<_>>().join("\n")
    }

    /// A whole caption with its padding, so that what follows is the picture; any other text as it is.
    pub fn padded(&self, prompt: &str) -> String {
        let mut words: Vec<&str> = prompt.split_whitespace().collect();
        if words.ends_with(&END) && words.len() < self.text {
            words.resize(self.text, PAD);
        }
        words.join(" ")
    }
}
