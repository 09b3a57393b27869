//! mimalloc as the binary's allocator, and what it is told.

use libmimalloc_sys::{mi_collect, mi_option_set, mi_option_t};
use std::alloc::{GlobalAlloc, Layout};

/// `mi_option_purge_delay` in mimalloc's list of options (the binding does not name it).
pub(super) const PURGE_DELAY: mi_option_t = 15;

/// Lets freed pages stay in the process for so long.
pub(super) fn stay(milliseconds: i64) {
    // SAFETY: the function takes plain numbers and may be called at any time; -1 is the documented value for "never".
    #[allow(unsafe_code)]
    unsafe {
        mi_option_set(PURGE_DELAY, milliseconds as _);
    }
}

/// Gives back what is free.
pub(super) fn collect() {
    // SAFETY: it takes a flag, and may be called by any thread at any time; what is in use stays as it is.
    #[allow(unsafe_code)]
    unsafe {
        mi_collect(true);
    }
}

/// mimalloc, but that an allocation which fails ends the process with a message and exit code 6.
///
/// The standard library would end it with an abort and a backtrace. Nothing is lost by leaving at once: what is on disk is
/// whole at any moment.
pub struct Allocator;

// SAFETY: every method hands its arguments to mimalloc, an allocator, and its pointer back as it is; where that is null the
// process ends instead of returning, which a caller cannot tell from a process that was killed.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises about `layout` are those that mimalloc asks for.
        there(unsafe { mimalloc::MiMalloc.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        there(unsafe { mimalloc::MiMalloc.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above; `at` comes from mimalloc, since nothing else allocates here.
        unsafe { mimalloc::MiMalloc.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        there(unsafe { mimalloc::MiMalloc.realloc(at, layout, size) }, size)
    }
}

/// `at`, if it is memory at all.
#[inline]
fn there(at: *mut u8, size: usize) -> *mut u8 {
    if at.is_null() {
        exhausted(size);
    }
    at
}

/// Says that `size` bytes were not to be had, and ends the process. It allocates nothing and takes no lock.
#[cold]
fn exhausted(size: usize) -> ! {
    let mut digits = [0; 20];
    let parts: [&[u8]; 3] = [
        b"error: out of memory: ",
        decimal(size, &mut digits),
        b" bytes were asked for, and the system or a limit of this process (`ulimit -v`) has no more\n   what was \
          saved before is whole\n\nhint: a smaller `batch` takes less memory, and so does `checkpoint = true` in a \
          training; `fewstep recipe check` tells what a recipe needs\n",
    ];
    leave(&parts)
}

#[cfg(unix)]
fn leave(parts: &[&[u8]]) -> ! {
    for part in parts {
        // SAFETY: the pointer and the length are those of a slice. A message that cannot be written changes nothing.
        #[allow(unsafe_code)]
        unsafe {
            libc::write(2, part.as_ptr().cast(), part.len());
        }
    }
    // SAFETY: it takes a number and never returns. Handlers that a usual exit would run may allocate, and so are left out.
    #[allow(unsafe_code)]
    unsafe {
        libc::_exit(6)
    }
}

#[cfg(not(unix))]
fn leave(parts: &[&[u8]]) -> ! {
    use std::io::Write;
    let mut stderr = std::io::stderr();
    for part in parts {
        let _ = stderr.write_all(part);
    }
    std::process::exit(6)
}

/// `n` in decimal, written into `digits`.
fn decimal(mut n: usize, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    while at > 0 {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    &digits[at..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_without_allocating() {
        for n in [0, 7, 10, 4_096_000_000, usize::MAX] {
            assert_eq!(decimal(n, &mut [0; 20]), n.to_string().as_bytes());
        }
    }
}
