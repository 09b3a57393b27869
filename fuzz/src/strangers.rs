//! Files that others make: weights, their index, config.json and tokenizer.json of a public model.

use std::collections::BTreeMap;
use std::io::Cursor;

use fewstep::data::tokenizer::Tokenizer;
use fewstep::model::family::{self, Description, memory, names};
use fewstep::weights::{self, NonFinite};

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
    if asked <= 1 << 14 && d.length <= 64 {
        build(&d);
    }
}

/// All parameters of the network have a name in the family's files.
#[cfg(feature = "networks")]
fn build(d: &Description) {
    let model = fewstep::model::Transformer::zeros(&d.network, d.vocab, d.length, &burn::prelude::Device::flex());
    for (path, _) in fewstep::model::params::shapes(&model) {
        names::source(d.family, &path, Some(2));
    }
}

#[cfg(not(feature = "networks"))]
fn build(d: &Description) {
    names::source(d.family, "blocks.0.attn.qkv.weight", Some(2));
}

/// tokenizer.json: what is read can be used and written, and is the same when it is read again.
pub fn tokenizer(data: &[u8]) {
    let Ok(tokenizer) = Tokenizer::parse("tokenizer.json", data) else { return };
    let size = tokenizer.vocab_size();
    if let Ok(ids) = tokenizer.encode("A text, with ünïcode: 1234 <s> a\n\n  b".as_bytes()) {
        assert!(ids.iter().all(|id| (*id as usize) < size), "{ids:?} of {size}");
        tokenizer.decode(&ids);
    }
    tokenizer.decode(&[0, 1, 2, size as u32, u32::MAX]);
    if let Ok(pieces) = tokenizer.pieces() {
        assert_eq!(pieces.len(), size);
    }
    let Ok(text) = tokenizer.to_json() else { return };
    let again = Tokenizer::parse("tokenizer.json", text.as_bytes()).expect("what was written is read");
    assert_eq!(again.to_json().expect("what was read is written"), text);
}
