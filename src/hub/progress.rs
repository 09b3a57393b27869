//! What a download says: a bar on a terminal, else a line at its start and one for every tenth or ten seconds.

use std::time::{Duration, Instant};

use crate::term;
use crate::term::bar::{Bar, Counts};

/// Files below this many bytes are not spoken of unless they take a second.
const SMALL: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);
const SLOW: Duration = Duration::from_secs(10);

/// The progress of one file.
pub struct Progress {
    name: String,
    total: u64,
    /// Bytes that were there before.
    before: u64,
    start: Instant,
    said: Instant,
    said_bytes: u64,
    bar: Option<Bar>,
}

impl Progress {
    /// That of a file of `total` bytes of which `before` are there.
    pub fn new(name: &str, total: u64, before: u64) -> Progress {
        let bar = Bar::new(name, Counts::Bytes, before, total);
        let now = Instant::now();
        if bar.is_none() && total >= SMALL {
            let rest = match before {
                0 => String::new(),
                _ => format!(", {} of it are there", bytes(before)),
            };
            term::note(&format!("downloading {name} ({}{rest})", bytes(total)));
        }
        Progress { name: name.to_string(), total, before, start: now, said: now, said_bytes: before, bar }
    }

    /// Says, where it is time to, that `done` bytes are there.
    pub fn at(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.at(done);
            return;
        }
        let since = self.said.elapsed();
        let much = done.saturating_sub(self.said_bytes) >= self.total / 10;
        if since < SECOND || !(much || since >= SLOW) {
            return;
        }
        (self.said, self.said_bytes) = (Instant::now(), done);
        let rate = done.saturating_sub(self.before) as f64 / self.start.elapsed().as_secs_f64().max(1e-3);
        let left = self.total.saturating_sub(done) as f64 / rate.max(1.0);
        let percent = 100 * u128::from(done) / u128::from(self.total.max(1));
        let (done, total, rate) = (bytes(done), bytes(self.total), bytes(rate as u64));
        let left = left.min(1e6) as u64;
        term::note(&format!(
            "{}: {done} of {total} ({percent} %), {rate}/s, {}:{:02} left",
            self.name,
            left / 60,
            left % 60
        ));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}

/// A number of bytes in the decimal units of a download: `512 B`, `1.05 MB`.
fn bytes(n: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    let power = (1..=units.len()).rev().find(|p| n >= 1000u64.pow(*p as u32));
    match power {
        None => format!("{n} B"),
        Some(p) => format!("{:.2} {}", n as f64 / 1000f64.powi(p as i32), units[p - 1]),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_are_in_decimal_units() {
        let shown = [0, 999, 1000, 1_048_576, 2_500_000_000, 3_000_000_000_000].map(super::bytes);
        assert_eq!(shown, ["0 B", "999 B", "1.00 kB", "1.05 MB", "2.50 GB", "3.00 TB"]);
    }
}
