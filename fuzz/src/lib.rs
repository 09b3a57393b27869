//! What is fuzzed: the parsers that see files of strangers before anything else does. Whatever the bytes, they return; they
//! never panic, and never hold more than a small multiple of what they were given.

mod own;
mod strangers;

pub use own::{metrics, recipe, results};
pub use strangers::{config, header, index, tokenizer};

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, Once, PoisonError};

/// The system's allocator, counting the bytes that are held and the most that ever were.
pub struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(HELD.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

/// Where the last panic was.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Runs `target` on `data`, and fails where it panics or held more than `most` bytes and 64 times the length of `data`.
pub fn bounded(data: &[u8], most: usize, target: fn(&[u8])) {
    // The fuzzer's own hook ends the process at every panic, and some of a library's are caught on purpose.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        std::panic::set_hook(Box::new(|info| *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string()));
    });
    let before = HELD.load(Relaxed);
    MOST.store(before, Relaxed);
    if catch_unwind(AssertUnwindSafe(|| target(data))).is_err() {
        eprintln!("{}", PANIC.lock().unwrap_or_else(PoisonError::into_inner));
        std::process::abort();
    }
    let held = MOST.load(Relaxed) - before;
    if held > most + 64 * data.len() {
        eprintln!("{} bytes of input took {held} bytes", data.len());
        std::process::abort();
    }
}
