//! Weights in and out as safetensors, on host data: the one door through which tensors of strangers come in.
//!
//! A file is read into memory (never mapped, so that another process cannot crash us by cutting it), recognised by its
//! content, checked by our own header check, and only then given to the library, inside `catch_unwind`.

mod header;
mod names;
mod quantise;
mod shards;
mod store;
mod write;

pub use header::{Dtype, Entry};
pub use names::{match_names, match_shapes};
pub use quantise::{Outputs, SCALE, quantise};
pub use shards::{INDEX, MAX_INDEX, SINGLE, read_model, weight_map};
pub use store::{Bad, Part, Store};
pub use write::{Planned, SHARD, Storage, check_range, remove_others, sha256, write_model};

use crate::error::{Error, Result};
use crate::fs::{read_limited, write_atomic};
use header::Header;
use safetensors::SafeTensors;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// The longest file that is read, in bytes.
pub const MAX_FILE: u64 = 64 << 30;

/// A float tensor on the host, row-major: `data.len()` is the product of `shape`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HostTensor {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// An integer tensor on the host, row-major; booleans are 0 and 1.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostInts {
    pub shape: Vec<usize>,
    pub data: Vec<i64>,
}

/// The float tensors of a file by name, the names of its integer tensors (never parameters: masks, positions), and its
/// free text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Weights {
    pub tensors: BTreeMap<String, HostTensor>,
    pub integers: BTreeSet<String>,
    pub metadata: BTreeMap<String, String>,
}

/// What to do with NaN and infinity in weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NonFinite {
    /// An error that names the tensors and counts the values.
    #[default]
    Refuse,
    Allow,
}

/// Reads the float tensors (F32, F16, BF16, F64 and int8 with scales, all turned into f32) of a safetensors file.
///
/// # Errors
/// A file that is missing or malformed, and values that are not finite where these are refused (input); I/O.
pub fn read(path: &Path, non_finite: NonFinite) -> Result<Weights> {
    let bytes = read_limited(path, MAX_FILE)?;
    read_bytes(&path.display().to_string(), &bytes, non_finite)
}

/// As `read`, of `bytes`; `file` is the name that messages use.
///
/// # Errors
/// Bytes that are malformed, and values that are not finite where these are refused (input).
pub fn read_bytes(file: &str, bytes: &[u8], non_finite: NonFinite) -> Result<Weights> {
    let Header { entries, metadata } = checked(file, bytes)?;
    let mut weights = Weights { metadata, ..Default::default() };
    let (mut bad, mut count) = (Vec::new(), 0);
    let scales = scales_of(file, &entries, bytes)?;
    for entry in entries {
        if entry.name.strip_suffix(SCALE).is_some_and(|name| scales.contains_key(name)) {
            continue;
        }
        let stored = &bytes[entry.start..entry.end];
        let data = match scales.get(&entry.name) {
            Some(scales) => {
                quantise::dequantise(stored, &entry.shape, scales).map_err(|why| misfit(file, &entry, why))?
            }
            None => match floats(entry.dtype, stored) {
                Some(data) => data,
                None => {
                    weights.integers.insert(entry.name);
                    continue;
                }
            },
        };
        let wrong = data.iter().filter(|x| !x.is_finite()).count();
        if wrong > 0 && non_finite == NonFinite::Refuse {
            count += 1;
            if bad.len() < 10 {
                bad.push(format!("`{}`: {wrong} of {} values", entry.name, data.len()));
            }
        }
        weights.tensors.insert(entry.name, HostTensor { shape: entry.shape, data });
    }
    if count == 0 {
        return Ok(weights);
    }
    Err(not_finite(file, count, bad))
}

/// The error of weights with NaN or infinity in that many tensors, of which some lines tell.
fn not_finite(file: &str, tensors: usize, lines: Vec<String>) -> Error {
    let error = Error::input(format!("{file} has values that are NaN or infinite, in {tensors} tensors"))
        .hint("the training that wrote it has probably failed; `sample --allow-non-finite` reads a public checkpoint all the same");
    lines.into_iter().fold(error, Error::cause)
}

/// Reads the integer tensors (I64, I32, I16, I8, U8, BOOL) of a safetensors file.
///
/// # Errors
/// A file that is missing or malformed (input); I/O.
pub fn read_ints(path: &Path) -> Result<BTreeMap<String, HostInts>> {
    let bytes = read_limited(path, MAX_FILE)?;
    let entries = checked(&path.display().to_string(), &bytes)?.entries;
    let ints = |e: Entry| Some((e.name, HostInts { shape: e.shape, data: integers(e.dtype, &bytes[e.start..e.end])? }));
    Ok(entries.into_iter().filter_map(ints).collect())
}

/// The scales of the int8 matrices of a file, by the matrix's name.
fn scales_of(file: &str, entries: &[Entry], bytes: &[u8]) -> Result<BTreeMap<String, HostTensor>> {
    let floats_of =
        |e: &Entry| Some(HostTensor { shape: e.shape.clone(), data: floats(e.dtype, &bytes[e.start..e.end])? });
    let named: BTreeMap<&str, &Entry> = entries.iter().map(|e| (e.name.as_str(), e)).collect();
    let mut all = BTreeMap::new();
    for entry in entries.iter().filter(|e| e.dtype == Dtype::I8) {
        let Some(scale) = named.get(format!("{}{SCALE}", entry.name).as_str()) else { continue };
        let scale = floats_of(scale).ok_or_else(|| misfit(file, entry, "its scales are integers".into()))?;
        all.insert(entry.name.clone(), scale);
    }
    Ok(all)
}

fn misfit(file: &str, entry: &Entry, why: String) -> Error {
    Error::input(format!("{file}: tensor `{}` cannot be read", entry.name)).cause(why)
}

/// The tensors of a safetensors file that `from` reads and that has `total` bytes, as a [`Store`] sees them: only the
/// header is read.
///
/// # Errors
/// A header that is malformed (input); I/O.
pub fn entries(file: &str, from: &mut (impl Read + Seek), total: u64) -> Result<Vec<Entry>> {
    Ok(header::read(file, from, total)?.0.entries)
}

/// Our check, then the library's as a second opinion: a file that only one of the two accepts is refused.
fn checked(file: &str, bytes: &[u8]) -> Result<Header> {
    if let Some(other) = header::recognise(file, bytes) {
        return Err(other);
    }
    let header = header::check(file, bytes)?;
    let wrong = |why: String| Error::input(format!("{file} is not a valid safetensors file")).cause(why);
    let agrees = |library: &SafeTensors, e: &Entry| {
        library.tensor(&e.name).is_ok_and(|t| t.shape() == e.shape && t.data().as_ptr() == bytes[e.start..].as_ptr())
    };
    let judged = catch_unwind(AssertUnwindSafe(|| {
        let library = SafeTensors::deserialize(bytes).map_err(|e| wrong(e.to_string()))?;
        match header.entries.iter().find(|e| !agrees(&library, e)) {
            Some(entry) => Err(wrong(format!("tensor `{}` can be read in two ways", entry.name))),
            None => Ok(()),
        }
    }));
    judged.unwrap_or_else(|_| Err(wrong("the safetensors library failed on it".into())))?;
    Ok(header)
}

/// The values of little-endian `bytes` as f32, of a float type.
pub(crate) fn floats(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| from_f16(u16::from_le_bytes(*b))).collect(),
        Dtype::Bf16 => {
            bytes.as_chunks().0.iter().map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)).collect()
        }
        _ => return None,
    })
}

fn integers(dtype: Dtype, bytes: &[u8]) -> Option<Vec<i64>> {
    Some(match dtype {
        Dtype::I64 => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        Dtype::I32 => bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect(),
        Dtype::I16 => bytes.as_chunks().0.iter().map(|b| i16::from_le_bytes(*b).into()).collect(),
        Dtype::I8 => bytes.iter().map(|b| (*b as i8).into()).collect(),
        Dtype::U8 => bytes.iter().map(|b| (*b).into()).collect(),
        Dtype::Bool => bytes.iter().map(|b| (*b != 0).into()).collect(),
        _ => return None,
    })
}

/// Values as little-endian bytes of a float type, rounded to the nearest, ties to even.
///
/// # Panics
/// Where `dtype` is not a float type.
pub fn to_dtype(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::F64 => values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
        Dtype::Bf16 => values.iter().flat_map(|v| to_bf16(*v).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|v| to_f16(*v).to_le_bytes()).collect(),
        _ => panic!("{dtype:?} holds no real numbers"),
    }
}

fn to_bf16(v: f32) -> u16 {
    let bits = v.to_bits();
    if v.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    let half = 0x7fff + ((bits >> 16) & 1);
    (bits.wrapping_add(half) >> 16) as u16
}

fn to_f16(v: f32) -> u16 {
    let bits = v.to_bits();
    let (sign, magnitude) = ((bits >> 16 & 0x8000) as u16, f32::from_bits(bits & 0x7fff_ffff));
    if v.is_nan() {
        return sign | 0x7e00;
    }
    // 65520 is halfway between the largest half and what would come next.
    if magnitude >= 65520.0 {
        return sign | 0x7c00;
    }
    // Steps of the half's last bit: 2^-24 below the normal ones, else 2^(exponent - 10).
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(-14);
    let steps = (f64::from(magnitude) * f64::from(10 - exponent).exp2()).round_ties_even() as u32;
    // A carry out of the fraction goes into the exponent by itself.
    sign | (steps + ((exponent + 14) as u32 * 1024)) as u16
}

/// IEEE half: sign, 5 bits of exponent, 10 of fraction; a normal one is (1024 + fraction) 2^(exponent - 25).
fn from_f16(bits: u16) -> f32 {
    let (exponent, fraction) = (u32::from(bits >> 10) & 31, u32::from(bits) & 1023);
    let magnitude = match exponent {
        0 => fraction as f32 * f32::from_bits((127 - 24) << 23),
        31 if fraction == 0 => f32::INFINITY,
        31 => f32::NAN,
        e => (1024 + fraction) as f32 * f32::from_bits((e + 127 - 25) << 23),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

/// Writes the tensors as F32 in the order of their names, whole or not at all: equal weights give equal bytes.
///
/// # Errors
/// As [`to_bytes`]; a refused write (I/O).
pub fn write(path: &Path, weights: &Weights) -> Result<()> {
    write_atomic(path, &to_bytes(weights)?)
}

/// The safetensors file of `weights` as bytes.
///
/// # Errors
/// Names or metadata that cannot be written as JSON (input).
///
/// # Panics
/// Where a tensor's data does not fit its shape, or it is called `__metadata__`.
pub fn to_bytes(weights: &Weights) -> Result<Vec<u8>> {
    let (mut tensors, mut end) = (Vec::new(), 0);
    for (name, HostTensor { shape, data }) in &weights.tensors {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "`{name}`: data does not fit shape {shape:?}");
        let start = end;
        end += data.len() * 4;
        tensors.push((name.as_str(), Dtype::F32, shape.as_slice(), start..end));
    }
    let mut bytes = header_bytes(&weights.metadata, &tensors)?;
    bytes.reserve(end);
    for x in weights.tensors.values().flat_map(|t| &t.data) {
        bytes.extend(x.to_le_bytes());
    }
    Ok(bytes)
}

/// Name, type, shape and place in the data of a tensor to be written.
pub type Described<'a> = (&'a str, Dtype, &'a [usize], std::ops::Range<usize>);

/// The header of a file, its length in front: free text, then the tensors in the order given.
///
/// # Errors
/// Names or metadata that cannot be written as JSON (input).
///
/// # Panics
/// Where a tensor is called `__metadata__`.
pub fn header_bytes(metadata: &BTreeMap<String, String>, tensors: &[Described]) -> Result<Vec<u8>> {
    // Not the library's writer: it orders the metadata at random.
    let mut parts = Vec::new();
    if !metadata.is_empty() {
        parts.push(format!("\"__metadata__\":{}", json_text(metadata)?));
    }
    for (name, dtype, shape, at) in tensors {
        assert!(*name != "__metadata__", "a tensor cannot be called __metadata__");
        let (name, shape, dtype) = (json_text(name)?, json_text(shape)?, dtype.name());
        let (start, end) = (at.start, at.end);
        parts.push(format!("{name}:{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{start},{end}]}}"));
    }
    let mut json = format!("{{{}}}", parts.join(","));
    // Spaces up to a multiple of 8 keep the data aligned, as the library has it.
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    Ok(bytes)
}

fn json_text(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::input(format!("safetensors header: {e}")))
}

#[cfg(test)]
mod tests;
