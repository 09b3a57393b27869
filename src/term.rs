//! The terminal: data on stdout, everything else on stderr, readable without colour; a closed pipe is success. Ctrl-C
//! and SIGTERM ask a run to stop after its step; a second signal stops at once.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use crate::error::{Error, Result};

/// How much goes to stderr. Process-wide because stderr is: a flag handed through every layer could only disagree.
static LOUDNESS: AtomicU8 = AtomicU8::new(Loudness::Normal as u8);

/// The signal that has asked this process to stop, 0 for none. Process-wide because signals are.
static STOPPING: AtomicI32 = AtomicI32::new(0);

/// The signal that has asked this process to stop, 0 for none: for what waits where no [`Interrupt`] was handed to it.
pub fn signal() -> i32 {
    STOPPING.load(Ordering::SeqCst)
}

/// How much goes to stderr, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Loudness {
    /// Warnings and errors.
    Quiet = 0,
    /// Progress too.
    Normal = 1,
    /// Details too.
    Verbose = 2,
}

/// Sets how much goes to stderr from here on; meant for `main`.
pub fn set_loudness(loudness: Loudness) {
    LOUDNESS.store(loudness as u8, Ordering::Relaxed);
}

/// How much goes to stderr.
pub fn loudness() -> Loudness {
    match LOUDNESS.load(Ordering::Relaxed) {
        0 => Loudness::Quiet,
        1 => Loudness::Normal,
        _ => Loudness::Verbose,
    }
}

/// Writes a line of data to stdout. A reader that has gone (`| head`) ends the process with success.
///
/// Errors: I/O, if stdout cannot take it for another reason, such as a full disk.
pub fn out(text: impl Display) -> Result<()> {
    match write_line(&mut std::io::stdout().lock(), &text) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => Err(Error::io("write", Path::new("stdout"), &e)),
        Ok(()) => Ok(()),
    }
}

/// Writes a line of progress to stderr unless quiet.
pub fn note(text: &str) {
    if loudness() >= Loudness::Normal {
        line_to_stderr(text);
    }
}

/// Writes a detail to stderr if verbose.
pub fn detail(text: &str) {
    if loudness() >= Loudness::Verbose {
        line_to_stderr(text);
    }
}

/// Writes a warning to stderr, however quiet: the thing was done, but not quite as meant.
pub fn warn(text: &str) {
    line_to_stderr(&format!("{} {text}", paint("warning:", "33", colour_on(&std::io::stderr()))));
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
    let _ = write_line(&mut std::io::stderr().lock(), &text);
}

fn write_line(stream: &mut impl Write, text: &impl Display) -> std::io::Result<()> {
    // One write per line: lines of several processes or threads stay whole.
    stream.write_all(format!("{text}\n").as_bytes())?;
    stream.flush()
}

/// The wish to stop, set by a signal and looked at between steps; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    signal: Arc<AtomicI32>,
}

impl Interrupt {
    /// A handle that the first Ctrl-C, SIGTERM or SIGHUP sets; the second ends the process at once with exit code 130.
    /// Call it once per process; a default handle listens to nothing.
    ///
    /// Errors: I/O, if the handler cannot be registered.
    pub fn listen() -> Result<Interrupt> {
        let interrupt = Interrupt::default();
        let shared = interrupt.clone();
        let handler = move || match shared.requested() {
            true => std::process::exit(130),
            false => {
                shared.request();
                STOPPING.store(shared.signal(), Ordering::SeqCst);
                note("\nfinishing this step, then saving; once more stops at once");
            }
        };
        match ctrlc::set_handler(handler) {
            Ok(()) => Ok(interrupt),
            Err(ctrlc::Error::System(e)) => Err(Error::io("listen to", Path::new("signals"), &e)),
            Err(e) => Err(Error::new(crate::error::Kind::Io, format!("cannot listen to signals: {e}"))),
        }
    }

    /// Asks to stop, as the first signal does.
    pub fn request(&self) {
        // The handler is not told which signal it was; all of them mean the same to a run.
        self.signal.store(2, Ordering::SeqCst);
    }

    /// Whether a signal has come.
    pub fn requested(&self) -> bool {
        self.signal() != 0
    }

    /// The number of the signal that has come, 0 for none.
    pub fn signal(&self) -> i32 {
        self.signal.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_is_shared_by_its_clones() {
        let a = Interrupt::default();
        let b = a.clone();
        assert!(!b.requested());
        a.request();
        assert!(b.requested());
        assert_eq!(b.signal(), 2);
    }

    #[test]
    fn colour_changes_no_word_of_an_error() {
        let e = Error::usage("no `x` in error: y").cause("1 | z").hint("write it");
        assert_eq!(coloured(&e, false), e.to_string());
        let stripped = coloured(&e, true).replace("\x1b[1;31m", "").replace("\x1b[1;36m", "").replace("\x1b[0m", "");
        assert_eq!(stripped, e.to_string());
    }

    #[test]
    fn a_line_is_written_in_one_piece() {
        let mut sink = Vec::new();
        assert!(write_line(&mut sink, &"data").is_ok());
        assert_eq!(sink, b"data\n");
    }

    #[test]
    fn loudness_has_an_order() {
        assert!(Loudness::Quiet < Loudness::Normal && Loudness::Normal < Loudness::Verbose);
        assert_eq!(loudness(), Loudness::Normal);
    }
}
