//! Signals. Ctrl-C, SIGTERM and SIGHUP stop the process at once, but for a training: it finishes its step and saves first,
//! unless a second signal comes. What the parent has set to be ignored (`nohup`, `&` in a script) stays ignored. A file that
//! outgrows `ulimit -f` is a failed write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[cfg(feature = "cli")]
use crate::error::Result;

/// The wish to stop, set by a signal and looked at between steps; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    signal: Arc<AtomicUsize>,
    saving: Arc<AtomicBool>,
}

/// As long as it lives a signal does not end the process, and what is under way looks at the [`Interrupt`] itself.
#[derive(Debug)]
pub struct Saving {
    saving: Arc<AtomicBool>,
}

impl Drop for Saving {
    fn drop(&mut self) {
        self.saving.store(false, Ordering::SeqCst);
    }
}

impl Interrupt {
    /// Listens to Ctrl-C, SIGTERM and SIGHUP, those apart that are ignored. The first one ends the process with its exit
    /// code, as every file on disk may be left at any time; while something is [`Interrupt::saving`] it only sets this handle.
    /// A second one ends the process in any case. Call it once per process; a default handle listens to nothing.
    ///
    /// # Errors
    /// Handlers that cannot be registered (I/O).
    #[cfg(feature = "cli")]
    pub fn listen() -> Result<Interrupt> {
        let interrupt = Interrupt::default();
        unix::listen(&interrupt)?;
        Ok(interrupt)
    }

    /// Says that what follows has something to save when it is asked to stop.
    pub fn saving(&self) -> Saving {
        self.saving.store(true, Ordering::SeqCst);
        Saving { saving: Arc::clone(&self.saving) }
    }

    /// Asks to stop, as the signal of that number does.
    pub fn request(&self, signal: usize) {
        self.signal.store(signal, Ordering::SeqCst);
    }

    /// Whether a signal has come.
    pub fn requested(&self) -> bool {
        self.signal() != 0
    }

    /// The number of the signal that has come, 0 for none.
    pub fn signal(&self) -> i32 {
        i32::try_from(self.signal.load(Ordering::SeqCst)).unwrap_or(i32::MAX)
    }
}

/// Prepares the process for signals that are faults of a write: SIGXFSZ would end it without a word. Call it first.
#[cfg(feature = "cli")]
pub fn settle() {
    unix::settle();
}

#[cfg(all(unix, feature = "cli"))]
mod unix {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    use signal_hook::iterator::Signals;
    use signal_hook::{flag, low_level};

    use super::Interrupt;
    use crate::error::{Error, Kind, Result};
    use crate::term;

    pub fn listen(interrupt: &Interrupt) -> Result<()> {
        let failed = |e: std::io::Error| Error::io("listen to", Path::new("signals"), &e);
        let heard: Vec<i32> = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !is_ignored(*signal)).collect();
        // A terminal that closes sends SIGHUP twice, by the kernel and by the shell: the two are one wish to stop.
        let (asked, typed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        for &signal in &heard {
            // In this order: the first signal finds the flags unset and sets them, the next one ends the process.
            let before = if signal == SIGHUP { &typed } else { &asked };
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(before)).map_err(failed)?;
            flag::register(signal, Arc::clone(&asked)).map_err(failed)?;
            if signal != SIGHUP {
                flag::register(signal, Arc::clone(&typed)).map_err(failed)?;
            }
            let number = usize::try_from(signal).unwrap_or_default();
            flag::register_usize(signal, Arc::clone(&interrupt.signal), number).map_err(failed)?;
        }
        // A handler may neither print nor decide much; a thread may.
        let mut signals = Signals::new(&heard).map_err(failed)?;
        let saving = Arc::clone(&interrupt.saving);
        let first = move || {
            let Some(signal) = signals.forever().next() else { return };
            if saving.load(Ordering::SeqCst) {
                term::note("finishing this step, then saving; a second signal stops at once");
                return;
            }
            let e = Error::new(Kind::Signal(signal), format!("stopped by {}", name(signal)));
            term::error(&e.hint("what is finished is kept: run the same command to go on"));
            low_level::exit(128 + signal);
        };
        std::thread::Builder::new().name("signals".into()).spawn(first).map_err(failed)?;
        Ok(())
    }

    fn name(signal: i32) -> &'static str {
        low_level::signal_name(signal).unwrap_or("a signal")
    }

    pub fn settle() {
        // With a handler that does nothing the write itself fails, with a cause and a path. A parent that ignores the signal
        // has arranged for the same.
        if !is_ignored(SIGXFSZ) && flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).is_err() {
            term::detail("cannot handle SIGXFSZ");
        }
    }

    /// Whether the process was started with that signal ignored.
    #[allow(unsafe_code)] // neither the standard library nor signal-hook can be asked
    fn is_ignored(signal: i32) -> bool {
        let mut now = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: without a new action `sigaction` changes nothing; it fills the struct behind the pointer, which is valid
        // for that, or fails.
        let answered = unsafe { libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) } == 0;
        // SAFETY: all fields are integers, an optional function pointer or arrays of integers, of which zero is a value.
        answered && unsafe { now.assume_init() }.sa_sigaction == libc::SIG_IGN
    }
}

/// Elsewhere Ctrl-C ends the process at once, as it would without us; what was saved last is kept.
#[cfg(all(not(unix), feature = "cli"))]
mod unix {
    pub fn listen(_: &super::Interrupt) -> crate::error::Result<()> {
        Ok(())
    }

    pub fn settle() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_is_shared_by_its_clones_and_knows_its_signal() {
        let a = Interrupt::default();
        let b = a.clone();
        assert!(!b.requested());
        a.request(15);
        assert!(b.requested());
        assert_eq!(b.signal(), 15);
    }

    #[test]
    fn only_what_saves_keeps_a_signal_from_ending_the_process() {
        let a = Interrupt::default();
        let saving = a.clone().saving();
        assert!(a.saving.load(Ordering::SeqCst));
        drop(saving);
        assert!(!a.saving.load(Ordering::SeqCst));
    }
}
