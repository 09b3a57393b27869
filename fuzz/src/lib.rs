//! What is fuzzed: the parsers that see files of strangers before anything else does. Whatever the bytes, they return; they
//! never panic, and never hold more than a small multiple of what they were given.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use burn::prelude::Device;
use fewstep::model::family::{self, memory, names};
use fewstep::model::{Transformer, params};
use fewstep::weights::{self, NonFinite};

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

/// Runs `target` on `data`, and panics where it held more than 8 MiB and 64 times the length of `data`.
pub fn bounded(data: &[u8], target: fn(&[u8])) {
    let before = HELD.load(Relaxed);
    MOST.store(before, Relaxed);
    target(data);
    let most = MOST.load(Relaxed) - before;
    assert!(most <= (8 << 20) + 64 * data.len(), "{} bytes of input took {most} bytes", data.len());
}

/// A safetensors file: the first byte says whether the rest is the file as it is, or a header that gets the right length
/// in front and as many bytes of data behind it as the second byte says.
pub fn header(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let file = match (kind % 8, rest.split_first()) {
        (0, _) => rest.to_vec(),
        (_, Some((size, json))) => {
            [&(json.len() as u64).to_le_bytes()[..], json, &vec![0; usize::from(*size)]].concat()
        }
        _ => return,
    };
    let streamed = weights::entries("w", &mut Cursor::new(&file), file.len() as u64);
    let whole = weights::read_bytes("w", &file, NonFinite::Allow);
    // Both doors take the same files, and no tensor lies outside of its file.
    assert_eq!(streamed.is_ok(), whole.is_ok(), "{streamed:?} but {whole:?}");
    for entry in streamed.into_iter().flatten() {
        assert!(entry.start <= entry.end && entry.end <= file.len(), "{entry:?}");
        let size = entry.shape.iter().product::<usize>() * entry.dtype.size();
        assert_eq!(size, entry.end - entry.start, "{entry:?}");
    }
}

/// `model.safetensors.index.json`: every file it names is a plain name.
pub fn index(data: &[u8]) {
    let Ok(map) = weights::weight_map("index", data) else { return };
    assert!(!map.is_empty());
    for file in map.values() {
        let path = std::path::Path::new(file);
        assert_eq!(path.components().count(), 1, "{file:?}");
        assert!(path.file_name().is_some_and(|n| n == file.as_str()) && !file.contains(['\\', ':', '\0']), "{file:?}");
    }
}

/// config.json beside tensors that could be of any family: what is described can be built, named and estimated.
pub fn config(data: &[u8]) {
    let Ok(config) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    let first = [
        "vocab_embed.embedding",
        "wte.weight",
        "embed_tokens.weight",
        "embeddings.tok_embeddings.weight",
        "layers.0.self_attn.q_norm.weight",
    ];
    let tensors: BTreeMap<String, Vec<usize>> = first.iter().map(|n| (n.to_string(), vec![24, 8])).collect();
    let Ok(d) = family::describe("config.json", &config, &tensors) else { return };
    let asked = d.network.parameters(d.vocab, d.length);
    let length = d.length.min(1024);
    let _ = (memory::sampling(&d.network, d.vocab, length, 1), memory::training(&d.network, d.vocab, length, 8));
    if asked > 1 << 14 || d.length > 64 {
        return;
    }
    let model = Transformer::zeros(&d.network, d.vocab, d.length, &Device::flex());
    for (path, _) in params::shapes(&model) {
        names::source(d.family, &path, Some(2));
    }
}
