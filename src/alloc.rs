//! How the allocator treats freed memory; a program that allocates with mimalloc says it once, at its start.
//!
//! A training step frees and allocates the same large buffers again and again. Given back to the system in between, every
//! page of them faults at its next use (5 to 10 % of a step). Kept for ever, the buffers of one phase of a long step stand
//! beside those of the next: half a second lies between the two.

use libmimalloc_sys::{mi_option_set, mi_option_t};

/// `mi_option_purge_delay` in mimalloc's list of options (the binding does not name it).
const PURGE_DELAY: mi_option_t = 15;

/// Milliseconds that a freed page stays in the process.
const DELAY: i64 = 500;

/// Keeps freed pages in the process for half a second instead of returning them to the system after some milliseconds.
pub fn keep_freed_pages() {
    // SAFETY: the function takes plain numbers and may be called at any time.
    #[allow(unsafe_code)]
    unsafe {
        mi_option_set(PURGE_DELAY, DELAY as _);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libmimalloc_sys::mi_option_get;

    #[test]
    fn the_option_that_is_set_is_the_purge_delay() {
        // SAFETY: as above. 10 ms is mimalloc's documented default: another option stands there if the list has changed.
        #[allow(unsafe_code)]
        let read = || unsafe { mi_option_get(PURGE_DELAY) };
        assert!([10, 1000, DELAY as _].contains(&read()), "{} is no purge delay", read());
        keep_freed_pages();
        assert_eq!(read(), 500);
    }
}
