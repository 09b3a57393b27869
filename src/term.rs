//! The terminal: data on stdout, everything else on stderr, readable without colour, and nothing that a terminal would
//! obey. What becomes of stdout never changes what a command does: it ends as it would have ended, and `ended` says so.

pub mod bar;
mod signals;

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::{Error, Result};
use crate::shown;
#[cfg(feature = "cli")]
pub use signals::settle;
pub use signals::{Interrupt, Saving};

/// How much goes to stderr. Process-wide because stderr is: a flag handed through every layer could only disagree.
/// A library is silent; the binary says how loud it is.
static LOUDNESS: AtomicU8 = AtomicU8::new(Loudness::Silent as u8);

/// How much goes to stderr, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Loudness {
    /// Nothing.
    Silent = 0,
    /// Warnings and errors.
    Quiet = 1,
    /// Progress too.
    Normal = 2,
    /// Details too.
    Verbose = 3,
}

/// Sets how much goes to stderr from here on; meant for `main`.
pub fn set_loudness(loudness: Loudness) {
    LOUDNESS.store(loudness as u8, Ordering::Relaxed);
}

/// How much goes to stderr.
pub fn loudness() -> Loudness {
    match LOUDNESS.load(Ordering::Relaxed) {
        0 => Loudness::Silent,
        1 => Loudness::Quiet,
        2 => Loudness::Normal,
        _ => Loudness::Verbose,
    }
}

/// Why stdout takes no more. Process-wide because stdout is.
static LOST: OnceLock<Lost> = OnceLock::new();

/// What became of stdout.
#[derive(Debug)]
enum Lost {
    /// Its reader has gone (`| head`) and wants no more.
    Reader,
    /// It could not take what was written, as on a full disk.
    Failed(Error),
}

/// Writes a line of data to stdout. Where stdout takes no more nothing happens, until [`ended`].
pub fn out(line: impl Display) {
    out_raw(format!("{}\n", shown::line(&line.to_string())).as_bytes());
}

/// Writes data of several lines to stdout, as [`out`] does. Names in it must not hold line ends.
pub fn out_text(text: impl Display) {
    out_raw(format!("{}\n", shown::text(&text.to_string())).as_bytes());
}

/// Writes JSON to stdout, as [`out`] does; its values stay what they are.
pub fn out_json(document: impl Display) {
    out_raw(format!("{}\n", shown::json(&document.to_string())).as_bytes());
}

/// Writes bytes to stdout as they are, as [`out`] does: for colours of our own, and for text that a user asks for raw.
pub fn out_raw(bytes: &[u8]) {
    if LOST.get().is_some() {
        return;
    }
    // One write per line: lines of several processes or threads stay whole.
    if let Err(e) = write(&mut std::io::stdout().lock(), bytes) {
        let lost = match e.kind() {
            ErrorKind::BrokenPipe => Lost::Reader,
            _ => Lost::Failed(Error::io("write", Path::new("stdout"), &e)),
        };
        // The first failure is the one that is told.
        let _ = LOST.set(lost);
    }
}

/// Whether stdout takes no more, so that a command which only prints may end early.
pub fn out_is_lost() -> bool {
    LOST.get().is_some()
}

/// How the process ends: as its command ended, whatever became of stdout. A success whose data stdout could not take is an
/// I/O error; a reader that has gone wanted no more of them, which is none.
///
/// # Errors
/// That of the command; data that stdout did not take (I/O).
pub fn ended(command: Result<()>) -> Result<()> {
    with_stdout(command, LOST.get())
}

fn with_stdout(command: Result<()>, lost: Option<&Lost>) -> Result<()> {
    match (command, lost) {
        (Ok(()), Some(Lost::Failed(e))) => Err(e.clone()),
        (Err(e), Some(Lost::Failed(lost))) => Err(e.cause(format!("{}: {}", lost.message, lost.causes.join(", ")))),
        (command, _) => command,
    }
}

/// Writes a line of progress to stderr unless quiet.
pub fn note(line: &str) {
    if loudness() >= Loudness::Normal {
        line_to_stderr(&shown::line(line));
    }
}

/// Writes progress of several lines to stderr unless quiet. Names in it must not hold line ends.
pub fn note_text(text: &str) {
    if loudness() >= Loudness::Normal {
        line_to_stderr(&shown::text(text));
    }
}

/// Writes a detail to stderr if verbose.
pub fn detail(line: &str) {
    if loudness() >= Loudness::Verbose {
        line_to_stderr(&shown::line(line));
    }
}

/// Writes a warning to stderr, however quiet: the thing was done, but not quite as meant.
pub fn warn(line: &str) {
    if loudness() == Loudness::Silent {
        return;
    }
    line_to_stderr(&format!("{} {}", paint("warning:", "33", colour_on(&std::io::stderr())), shown::line(line)));
}

/// Writes an error in its full form to stderr.
pub fn error(e: &Error) {
    line_to_stderr(&coloured(e, colour_on(&std::io::stderr())));
}

/// Whether stdout is a terminal.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Whether stdout may be coloured: a terminal, and no NO_COLOR.
pub fn colour() -> bool {
    colour_on(&std::io::stdout())
}

/// Whether progress bars belong on stderr: a terminal that can redraw a line, and not quiet.
pub fn bars() -> bool {
    loudness() >= Loudness::Normal && std::io::stderr().is_terminal() && !dumb()
}

fn colour_on(stream: &impl IsTerminal) -> bool {
    // https://no-color.org: set and not empty means no colour, whatever the value.
    let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    !refused && !dumb() && stream.is_terminal()
}

fn dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|t| t == "dumb")
}

fn paint(text: &str, code: &str, colour: bool) -> String {
    if colour { format!("\x1b[1;{code}m{text}\x1b[0m") } else { text.to_string() }
}

fn coloured(e: &Error, colour: bool) -> String {
    let text = e.to_string();
    let text = text.replacen("error:", &paint("error:", "31", colour), 1);
    match text.rsplit_once("\n\nhint:") {
        Some((body, hint)) if e.hint.is_some() => format!("{body}\n\n{}{hint}", paint("hint:", "36", colour)),
        _ => text,
    }
}

/// A closed stderr must not stop a run, so nothing is made of a failure here.
fn line_to_stderr(text: &str) {
    let _ = write(&mut std::io::stderr().lock(), format!("{text}\n").as_bytes());
}

fn write(stream: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes)?;
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn colour_changes_no_word_of_an_error() {
        let e = Error::usage("no `x` in error: y").cause("1 | z").hint("write it");
        assert_eq!(coloured(&e, false), e.to_string());
        let stripped = coloured(&e, true).replace("\x1b[1;31m", "").replace("\x1b[1;36m", "").replace("\x1b[0m", "");
        assert_eq!(stripped, e.to_string());
    }

    #[test]
    fn a_command_ends_as_it_would_whatever_became_of_stdout() {
        let full = || Lost::Failed(Error::new(Kind::Io, "cannot write stdout").cause("no space left on device"));
        let worse = || Err(Error::new(Kind::Gate, "worse"));
        let code = |ended: Result<()>| ended.map_or_else(|e| e.kind.exit_code(), |()| 0);
        for (command, lost, expected) in [
            (Ok(()), None, 0),
            (Ok(()), Some(Lost::Reader), 0),
            (Ok(()), Some(full()), 4),
            (worse(), None, 1),
            (worse(), Some(Lost::Reader), 1),
            (worse(), Some(full()), 1),
        ] {
            assert_eq!(code(with_stdout(command, lost.as_ref())), expected, "{lost:?}");
        }
        let told = with_stdout(worse(), Some(&full())).unwrap_err().to_string();
        assert!(told.contains("cannot write stdout: no space left on device"), "{told}");
    }

    #[test]
    fn loudness_has_an_order_and_a_library_is_silent_until_its_program_asks() {
        assert!(Loudness::Silent < Loudness::Quiet && Loudness::Quiet < Loudness::Normal);
        assert!(Loudness::Normal < Loudness::Verbose);
        assert_eq!(loudness(), Loudness::Silent);
    }
}
