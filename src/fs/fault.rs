//! Numbered places where a write can be made to fail, so that a test can fail or kill the program at every one of them.
//!
//! Without the cargo feature `faults` a point is nothing. With it, `FEWSTEP_FAULT=list` prints the points to stderr,
//! and `FEWSTEP_FAULT=n:kill`, `n:enospc` or `n:eio` makes the n-th point (from 0) kill the process or return that error.

/// Stands in front of every create, write, fsync, rename and remove; an error only when a fault is injected there.
///
/// # Errors
/// None without the feature `faults`.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn point(_name: &str) -> std::io::Result<()> {
    Ok(())
}

/// Stands in front of every create, write, fsync, rename and remove; an error only when a fault is injected there.
///
/// # Errors
/// That of the fault that is injected.
#[cfg(feature = "faults")]
pub fn point(name: &str) -> std::io::Result<()> {
    use std::io::{Error, ErrorKind};
    use std::sync::atomic::{AtomicU64, Ordering};

    // The one piece of global state in the crate: the points of a process need one common numbering.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let Ok(wish) = std::env::var("FEWSTEP_FAULT") else { return Ok(()) };
    let here = NEXT.fetch_add(1, Ordering::SeqCst);
    if wish == "list" {
        eprintln!("fault point {here} {name}");
        return Ok(());
    }
    let Some((at, action)) = wish.split_once(':') else { return Ok(()) };
    if at.parse() != Ok(here) {
        return Ok(());
    }
    match action {
        "kill" => kill(),
        "enospc" => Err(Error::from(ErrorKind::StorageFull)),
        "eio" => Err(Error::other("input/output error")),
        _ => Err(Error::new(ErrorKind::InvalidInput, format!("FEWSTEP_FAULT has no action `{action}`"))),
    }
}

/// SIGKILL rather than an abort: no handler, no destructor and no flush may run, as in an out-of-memory kill.
#[cfg(feature = "faults")]
fn kill() -> ! {
    let id = std::process::id().to_string();
    if std::process::Command::new("kill").args(["-9", &id]).status().is_ok_and(|s| s.success()) {
        loop {
            std::thread::park();
        }
    }
    std::process::abort()
}
