//! The allocator: how long freed memory stays in the process, and what happens when there is none left.
//!
//! A training step frees and allocates the same large buffers again and again. Given back to the system in between, every
//! page of them faults at its next use: 5 to 10 % of a step of a small network, and twice the first steps of a large one. So
//! all of it stays while a training runs. Kept for longer, the buffers of one phase of a large network stand beside those of
//! the next: a tenth of its peak memory. So a large network's training gives back what it leaves.

use libmimalloc_sys::{mi_collect, mi_option_set, mi_option_t};
use std::alloc::{GlobalAlloc, Layout};

/// `mi_option_purge_delay` in mimalloc's list of options (the binding does not name it).
const PURGE_DELAY: mi_option_t = 15;

/// Parameters from which on a network is large: 64 MiB of weights.
const LARGE: usize = 16 << 20;

/// Milliseconds that freed pages stay in the process; -1: for ever, and none of them is ever found again to be given back.
const FOR_EVER: i64 = -1;
const BETWEEN_PHASES: i64 = 500;
/// Longer than any step, and yet a delay: what is freed under it can be given back later.
const WHILE_TRAINING: i64 = 24 * 3600 * 1000;

fn stay(milliseconds: i64) {
    // SAFETY: the function takes plain numbers and may be called at any time; -1 is the documented value for "never".
    #[allow(unsafe_code)]
    unsafe {
        mi_option_set(PURGE_DELAY, milliseconds as _);
    }
}

/// Keeps freed pages in the process, for ever or, where a network of so many parameters is large, for at most half a second.
pub fn settle(parameters: usize) {
    stay(if parameters < LARGE { FOR_EVER } else { BETWEEN_PHASES });
}

/// While it lives a network is trained, and freed pages stay in the process. Dropped, it gives those of a large network back.
#[must_use]
pub struct Training {
    parameters: usize,
}

/// Keeps freed pages in the process until the training of a network of so many parameters is over.
pub fn training(parameters: usize) -> Training {
    stay(if parameters < LARGE { FOR_EVER } else { WHILE_TRAINING });
    Training { parameters }
}

impl Drop for Training {
    fn drop(&mut self) {
        settle(self.parameters);
        if self.parameters >= LARGE {
            // SAFETY: it takes a flag, and may be called by any thread at any time; what is in use stays as it is.
            #[allow(unsafe_code)]
            unsafe {
                mi_collect(true);
            }
        }
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
    use libmimalloc_sys::mi_option_get;

    /// Faults of this thread's pages so far.
    #[cfg(target_os = "linux")]
    fn faults() -> i64 {
        // SAFETY: a structure of numbers may be all zeros, and the call fills it.
        #[allow(unsafe_code)]
        unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &mut usage), 0);
            usage.ru_minflt
        }
    }

    /// Faults of taking a large buffer, writing to every page of it, and freeing it.
    #[cfg(target_os = "linux")]
    fn faults_of_a_buffer() -> i64 {
        let layout = Layout::from_size_align(64 << 20, 64).unwrap();
        let before = faults();
        // SAFETY: the layout is not empty, the writes are inside of it, and the pointer comes from the same allocator.
        #[allow(unsafe_code)]
        unsafe {
            let at = Allocator.alloc(layout);
            (0..layout.size()).step_by(4096).for_each(|offset| at.add(offset).write_volatile(1));
            Allocator.dealloc(at, layout);
        }
        faults() - before
    }

    /// One test, since the option is the whole process's.
    #[test]
    fn freed_pages_stay_while_a_large_network_is_trained_and_are_given_back_behind_it() {
        // SAFETY: it takes a plain number. The default is 10 ms in mimalloc 2 and 1,000 in mimalloc 3: another option stands
        // there if the list has changed.
        #[allow(unsafe_code)]
        let read = || unsafe { mi_option_get(PURGE_DELAY) } as i64;
        assert!([10, 1000].contains(&read()), "{} is no purge delay", read());
        let training = training(LARGE);
        assert_eq!(read(), WHILE_TRAINING);
        #[cfg(target_os = "linux")]
        {
            assert!(faults_of_a_buffer() > 16, "a new buffer is made of new pages");
            std::thread::sleep(std::time::Duration::from_millis(2 * BETWEEN_PHASES as u64));
            let again = faults_of_a_buffer();
            assert!(again <= 16, "{again} pages were given back within a training");
        }
        drop(training);
        assert_eq!(read(), BETWEEN_PHASES);
        #[cfg(target_os = "linux")]
        assert!(faults_of_a_buffer() > 16, "nothing was given back behind a training");
        // A small network's pages stay for ever.
        drop(super::training(LARGE - 1));
        assert_eq!(read(), FOR_EVER);
        settle(LARGE);
        assert_eq!(read(), BETWEEN_PHASES);
    }

    #[test]
    fn a_number_is_written_without_allocating() {
        for n in [0, 7, 10, 4_096_000_000, usize::MAX] {
            assert_eq!(decimal(n, &mut [0; 20]), n.to_string().as_bytes());
        }
    }
}
