//! How the allocator treats freed memory; a program that allocates with mimalloc says it for the networks it works on.
//!
//! A training step frees and allocates the same large buffers again and again. Given back to the system in between, every
//! page of them faults at its next use: 5 to 10 % of a step of a small network. A large network's step takes longer than
//! that, but kept for ever the buffers of one phase stand beside those of the next: a tenth of its peak memory.

use libmimalloc_sys::{mi_option_set, mi_option_t};

/// `mi_option_purge_delay` in mimalloc's list of options (the binding does not name it).
const PURGE_DELAY: mi_option_t = 15;

/// Parameters from which on a network is large: 64 MiB of weights.
const LARGE: usize = 16 << 20;

/// Milliseconds that freed pages stay in the process, for a network of so many parameters; -1: for ever.
fn delay(parameters: usize) -> i64 {
    if parameters < LARGE { -1 } else { 500 }
}

/// Keeps freed pages in the process, for ever or, where a network is large, for at most half a second.
pub fn settle(parameters: usize) {
    // SAFETY: the function takes plain numbers and may be called at any time; -1 is the documented value for "never".
    #[allow(unsafe_code)]
    unsafe {
        mi_option_set(PURGE_DELAY, delay(parameters) as _);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libmimalloc_sys::mi_option_get;

    #[test]
    fn the_option_that_is_set_is_the_purge_delay() {
        // SAFETY: as above. The default is 10 ms in mimalloc 2 and 1,000 in mimalloc 3: another option stands there if the
        // list has changed.
        #[allow(unsafe_code)]
        let read = || unsafe { mi_option_get(PURGE_DELAY) };
        assert!([10, 1000].contains(&read()), "{} is no purge delay", read());
        settle(LARGE);
        assert_eq!(read(), 500);
        settle(LARGE - 1);
        assert_eq!(read(), -1);
    }
}
