//! The allocator: how long freed memory stays in the process, and what happens when there is none left.
//!
//! A training step frees and allocates the same large buffers again and again. Given back to the system in between, every
//! page of them faults at its next use: 5 to 10 % of a step of a small network, and twice the first steps of a large one. So
//! all of it stays while a training runs. Kept for longer, the buffers of one phase of a large network stand beside those of
//! the next: a tenth of its peak memory. So a large network's training gives back what it leaves. A library leaves memory to its
//! program: without the feature `cli` nothing here does anything.

#[cfg(feature = "cli")]
mod global;

#[cfg(feature = "cli")]
pub use global::Allocator;

/// Parameters from which on a network is large: 64 MiB of weights.
const LARGE: usize = 16 << 20;

/// Milliseconds that freed pages stay in the process; -1: for ever, and none of them is ever found again to be given back.
const FOR_EVER: i64 = -1;
const BETWEEN_PHASES: i64 = 500;
/// Longer than any step, and yet a delay: what is freed under it can be given back later.
const WHILE_TRAINING: i64 = 24 * 3600 * 1000;

#[cfg(feature = "cli")]
use global::{collect, stay};

#[cfg(not(feature = "cli"))]
fn stay(_: i64) {}

#[cfg(not(feature = "cli"))]
fn collect() {}

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
            collect();
        }
    }
}

#[cfg(feature = "cli")]
#[cfg(test)]
mod tests {
    use super::global::PURGE_DELAY;
    use super::*;
    use libmimalloc_sys::mi_option_get;
    #[cfg(target_os = "linux")]
    use std::alloc::{GlobalAlloc, Layout};

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
}
