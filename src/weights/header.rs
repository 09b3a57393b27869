//! Our own check of a safetensors header, made before any library sees the file.
//!
//! A file is: header length n (u64, little-endian) | n bytes of JSON | data. The header maps each tensor name to
//! `{dtype, shape, data_offsets: [start, end]}`, offsets into the data, which the tensors must cover without overlap or
//! hole. Here duplicates are found while the JSON streams by, and every sum and product is checked.

use crate::error::{Error, Result};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::marker::PhantomData;
use std::path::Path;

const MAX_HEADER: u64 = 100_000_000;
const MAX_RANK: usize = 64;
/// Tensors of one file: an entry of 40 bytes takes some hundred in memory, and the largest public models have far fewer.
const MAX_TENSORS: usize = 1 << 17;
/// Keys of an index, or of a header's free text.
const MAX_KEYS: usize = 1 << 18;

/// The element types that can be read; all others are refused by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Dtype {
    fn of(name: &str) -> Option<Dtype> {
        Some(match name {
            "F64" => Dtype::F64,
            "F32" => Dtype::F32,
            "F16" => Dtype::F16,
            "BF16" => Dtype::Bf16,
            "I64" => Dtype::I64,
            "I32" => Dtype::I32,
            "I16" => Dtype::I16,
            "I8" => Dtype::I8,
            "U8" => Dtype::U8,
            "BOOL" => Dtype::Bool,
            _ => return None,
        })
    }

    /// Its name in a header.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F64 => "F64",
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
            Dtype::I64 => "I64",
            Dtype::I32 => "I32",
            Dtype::I16 => "I16",
            Dtype::I8 => "I8",
            Dtype::U8 => "U8",
            Dtype::Bool => "BOOL",
        }
    }

    /// Whether it holds real numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16)
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::Bf16 | Dtype::I16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
        }
    }
}

/// One tensor of a checked header; `start..end` are offsets into the whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub start: usize,
    pub end: usize,
}

/// A checked header: tensors in file order, and the free text beside them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub entries: Vec<Entry>,
    pub metadata: BTreeMap<String, String>,
}

/// Checks the header of `bytes`, a whole file called `file` in messages; on success every entry lies inside `bytes`.
pub fn check(file: &str, bytes: &[u8]) -> Result<Header> {
    let length = length(file, bytes, bytes.len() as u64)?;
    parse(file, &bytes[8..8 + length], bytes.len() - 8 - length)
}

/// The header of a file of `total` bytes that `from` reads, and where its data starts; no data is read.
pub fn read(file: &str, from: &mut (impl Read + Seek), total: u64) -> Result<(Header, usize)> {
    let failed = |e: std::io::Error| unread(Path::new(file), &e);
    let mut head = Vec::new();
    from.by_ref().take(256).read_to_end(&mut head).map_err(failed)?;
    if let Some(other) = recognise(file, &head) {
        return Err(other);
    }
    let length = length(file, &head, total)?;
    let mut json = vec![0; length];
    from.seek(SeekFrom::Start(8)).and_then(|_| from.read_exact(&mut json)).map_err(failed)?;
    let data = usize::try_from(total - 8 - length as u64)
        .map_err(|_| Error::input(format!("{file} is longer than this machine can address")))?;
    Ok((parse(file, &json, data)?, 8 + length))
}

/// The error of a read that failed: a file that ends before its length is one that was cut meanwhile (kind input).
pub fn unread(path: &Path, cause: &std::io::Error) -> Error {
    match cause.kind() {
        ErrorKind::UnexpectedEof => Error::input(format!("{} was changed while it was being read", path.display())),
        _ => Error::io("read", path, cause),
    }
}

/// The length of the JSON that a file of `total` bytes starting with `head` announces: at most what is there.
pub fn length(file: &str, head: &[u8], total: u64) -> Result<usize> {
    let wrong = |why: String| Error::input(format!("{file} is not a valid safetensors file")).cause(why);
    let Some((head, _)) = head.split_first_chunk::<8>() else {
        return Err(wrong(format!("it has {} bytes, and the header length alone takes 8", head.len())));
    };
    let length = u64::from_le_bytes(*head);
    if length < 2 {
        return Err(wrong(format!("the header length is {length}, and the shortest header has 2 bytes")));
    }
    if length > MAX_HEADER {
        return Err(wrong(format!("the header length is {length}, at most {MAX_HEADER} is allowed")));
    }
    let follow = total.saturating_sub(8);
    if length > follow {
        let why = format!("the header length is {length}, but only {follow} bytes follow");
        return Err(wrong(why).hint("the file may be cut off: compare its length with the original, or load it again"));
    }
    // At most MAX_HEADER, so it fits.
    Ok(length as usize)
}

/// Checks the JSON of a header against the number of bytes of data behind it.
pub fn parse(file: &str, json: &[u8], data: usize) -> Result<Header> {
    let wrong = |why: String| Error::input(format!("{file} is not a valid safetensors file")).cause(why);
    let json = std::str::from_utf8(json).map_err(|e| wrong(format!("the header is not UTF-8: {e}")))?;
    if !json.starts_with('{') {
        return Err(wrong("the header does not begin with `{`".into()));
    }
    let raw: RawHeader = serde_json::from_str(json).map_err(|e| wrong(format!("header: {e}")))?;
    let entries = place(raw.tensors, 8 + json.len(), data).map_err(wrong)?;
    Ok(Header { entries, metadata: raw.metadata })
}

/// Tensors in file order with absolute offsets; an error text when they do not cover the data exactly.
fn place(tensors: BTreeMap<String, RawEntry>, base: usize, data: usize) -> std::result::Result<Vec<Entry>, String> {
    let mut tensors: Vec<(String, RawEntry)> = tensors.into_iter().collect();
    tensors.sort_by_key(|(_, t)| t.data_offsets);
    let (mut at, mut entries) = (0u64, Vec::with_capacity(tensors.len()));
    for (name, RawEntry { dtype, shape, data_offsets: (start, end) }) in tensors {
        if end < start {
            return Err(format!("tensor `{name}`: its data ends at {end}, before its start {start}"));
        }
        if end > data as u64 {
            return Err(format!("tensor `{name}`: its data ends at {end}, and the file has {data} bytes of data"));
        }
        if start != at {
            let fault = if start < at { "overlaps the tensor before it, which ends at" } else { "leaves a hole after" };
            return Err(format!("tensor `{name}`: its data starts at {start} and {fault} {at}"));
        }
        let dtype = Dtype::of(&dtype).ok_or_else(|| {
            let known = "F64, F32, F16, BF16, I64, I32, I16, I8, U8 and BOOL";
            format!("tensor `{name}`: dtype `{}` cannot be read, only {known}", shorten(&dtype))
        })?;
        let size = shape.0.iter().try_fold(dtype.size() as u64, |product, d| product.checked_mul(*d));
        match size {
            None => return Err(format!("tensor `{name}`: the size of shape {:?} overflows", shape.0)),
            Some(size) if size != end - start => {
                let (shape, has) = (shape.0, end - start);
                return Err(format!("tensor `{name}`: {dtype:?} {shape:?} takes {size} bytes, and {has} are given"));
            }
            Some(_) => {}
        }
        let shape = shape.0.iter().map(|d| usize::try_from(*d)).collect::<std::result::Result<_, _>>();
        let shape = shape.map_err(|_| format!("tensor `{name}`: its shape does not fit this machine"))?;
        // `start <= end <= data`, and `base + data` is the length of a file in memory: neither sum can overflow.
        entries.push(Entry { name, dtype, shape, start: base + start as usize, end: base + end as usize });
        at = end;
    }
    if at != data as u64 {
        return Err(format!("the tensors end at {at}, and the file has {data} bytes of data"));
    }
    Ok(entries)
}

fn shorten(text: &str) -> String {
    text.chars().take(20).collect()
}

struct RawHeader {
    tensors: BTreeMap<String, RawEntry>,
    metadata: BTreeMap<String, String>,
}

// A field that only we passed over, another reader might stumble on.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// Dimensions, at most 64 of them: a header may not grow many times its size in memory.
struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Dims;
        impl<'de> Visitor<'de> for Dims {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "a list of dimensions")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Shape, A::Error> {
                let mut dims = Vec::new();
                while let Some(d) = list.next_element()? {
                    if dims.len() == MAX_RANK {
                        return Err(A::Error::custom(format!("a shape of more than {MAX_RANK} dimensions")));
                    }
                    dims.push(d);
                }
                Ok(Shape(dims))
            }
        }
        from.deserialize_seq(Dims)
    }
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = RawHeader;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "an object that maps tensor names to dtype, shape and data_offsets")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawHeader, A::Error> {
                let (mut tensors, mut metadata) = (BTreeMap::new(), None);
                while let Some(name) = map.next_key::<String>()? {
                    if tensors.len() == MAX_TENSORS {
                        return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
                    }
                    let twice = if name == "__metadata__" {
                        metadata.replace(map.next_value::<Unique<String>>()?.0).is_some()
                    } else {
                        let value = map.next_value()?;
                        tensors.insert(name.clone(), value).is_some()
                    };
                    if twice {
                        return Err(A::Error::custom(format!("duplicate tensor `{}`", shorten(&name))));
                    }
                }
                Ok(RawHeader { tensors, metadata: metadata.unwrap_or_default() })
            }
        }
        from.deserialize_map(Names)
    }
}

/// A JSON object in which no key may stand twice.
pub struct Unique<T>(pub BTreeMap<String, T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unique<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Keys<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Keys<T> {
            type Value = Unique<T>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Unique<T>, A::Error> {
                let mut all = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, T>()? {
                    if all.len() == MAX_KEYS {
                        return Err(A::Error::custom(format!("more than {MAX_KEYS} keys")));
                    }
                    if all.contains_key(&key) {
                        return Err(A::Error::custom(format!("duplicate key `{}`", shorten(&key))));
                    }
                    all.insert(key, value);
                }
                Ok(Unique(all))
            }
        }
        from.deserialize_map(Keys(PhantomData))
    }
}

/// What a file that is no safetensors file is by its content, with the way out; `None` if nothing is recognised.
pub fn recognise(file: &str, bytes: &[u8]) -> Option<Error> {
    if bytes.is_empty() {
        return Some(Error::input(format!("{file} is empty")).hint("load it again; the transfer may have failed"));
    }
    // Any header length is possible, so only a file whose JSON does not start where it must is something else.
    if bytes.get(8) == Some(&b'{') {
        return None;
    }
    let text: String = bytes.iter().take(200).map(|b| b.to_ascii_lowercase() as char).collect();
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || "\u{ef}\u{bb}\u{bf}".contains(c));
    let error = |what: &str| Error::input(format!("{file} is {what}, and a safetensors file is needed"));
    let pickle = bytes[0] == 0x80 && bytes.get(1).is_some_and(|v| (2..=5).contains(v));
    Some(if bytes.starts_with(b"PK\x03\x04") || pickle {
        let to = std::path::Path::new(file).with_extension("safetensors");
        error("a PyTorch pickle (.pt, .bin, .ckpt), which can run code when it is loaded").hint(format!(
            "convert it where PyTorch is installed:\n  import torch, safetensors.torch as st\n  w = \
             torch.load(\"{file}\", map_location=\"cpu\", weights_only=True)\n  st.save_file({{k: v.contiguous() for k, \
             v in w.get(\"state_dict\", w).items()}}, \"{}\")",
            to.display()
        ))
    } else if bytes.starts_with(b"GGUF") {
        error("a GGUF file").hint("GGUF weights are quantised for inference: use the safetensors files they came from")
    } else if text.starts_with("version https://git-lfs") {
        error("a git-lfs pointer, not the weights").hint("git lfs pull")
    } else if text.starts_with("<!doctype") || text.starts_with("<html") || text.starts_with("<?xml") {
        error("a web page").hint("the server sent a page instead of the file (often a login): load it again")
    } else if text.starts_with('{') || text.starts_with('[') {
        error("JSON text").hint("it may be the index or an error message of the server: look into it")
    } else {
        return None;
    })
}
