//! The reading of long files: what is being read is said at once, and its progress every few seconds.

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::room::shown;
use crate::term;

/// Files below this are read in a moment, and nothing is said of them.
const LONG: u64 = 32 << 20;
/// Between two lines of progress.
const PAUSE: Duration = Duration::from_secs(5);

/// One pass over a file.
pub struct Reading<'a> {
    /// "reading", "encoding"
    doing: &'a str,
    path: &'a Path,
    bytes: u64,
    said: Cell<Instant>,
}

impl<'a> Reading<'a> {
    /// Begins a pass over `bytes` bytes of the file `path`, and says so where that takes a while.
    pub fn begin(doing: &'a str, path: &'a Path, bytes: u64) -> Self {
        if bytes >= LONG {
            term::note(&format!("{doing} {} ({})", path.display(), shown(bytes.into())));
        }
        Reading { doing, path, bytes, said: Cell::new(Instant::now()) }
    }

    /// To be called every so often, with the bytes that are done.
    pub fn at(&self, done: u64) {
        if self.said.get().elapsed() >= PAUSE {
            self.said.set(Instant::now());
            let share = 100 * done.min(self.bytes) / self.bytes.max(1);
            term::note(&format!("{} {}: {share} %", self.doing, self.path.display()));
        }
    }
}
