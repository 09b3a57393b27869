//! A model's weights on disk in Hugging Face layout: one file where it fits, else files of at most a given size with an
//! index. Tensors are asked for and written one at a time.

use super::quantise::SCALE;
use super::{Described, Dtype, INDEX, MAX_INDEX, Outputs, SINGLE, header_bytes};
use crate::error::{Error, Result};
use crate::fs::{read_limited, sorted_json, write_atomic, write_atomic_from};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The size that weights are split at: 5 GB, as in Hugging Face's own writer.
pub const SHARD: u64 = 5_000_000_000;

/// The type that exported parameters are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// Each as in the source; f32 where there is none.
    #[default]
    Kept,
    /// 32 bit floats.
    F32,
    /// 16 bit floats of IEEE 754; a value beyond their range is an error.
    F16,
    /// 16 bit floats with the range of f32.
    Bf16,
    /// The matrices of the blocks' attention and feed-forward layers as 8 bit integers with a scale for each output
    /// channel; all else is kept.
    Int8,
}

impl Storage {
    /// All of them.
    pub const ALL: [Storage; 5] = [Storage::Kept, Storage::F32, Storage::F16, Storage::Bf16, Storage::Int8];

    /// Its name in recipes and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Storage::Kept => "kept",
            Storage::F32 => "f32",
            Storage::F16 => "f16",
            Storage::Bf16 => "bf16",
            Storage::Int8 => "int8",
        }
    }

    /// The type of a parameter that is `kept` in the source; matrices of int8 come with scales instead.
    pub fn of(self, kept: Dtype) -> Dtype {
        match self {
            Storage::Kept | Storage::Int8 => kept,
            Storage::F32 => Dtype::F32,
            Storage::F16 => Dtype::F16,
            Storage::Bf16 => Dtype::Bf16,
        }
    }

    /// Whether weights of f32 lose digits in it.
    pub fn is_lossy(self) -> bool {
        matches!(self, Storage::F16 | Storage::Bf16 | Storage::Int8)
    }
}

/// A tensor that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

impl Planned {
    /// The integers of a matrix of `shape`, and its scales.
    pub fn int8(name: String, shape: Vec<usize>, outputs: Outputs) -> [Planned; 2] {
        let scales = if outputs == Outputs::Rows { vec![shape[0], 1] } else { vec![1, shape[1]] };
        let scales = Planned { name: format!("{name}{SCALE}"), dtype: Dtype::F32, shape: scales };
        [Planned { name, dtype: Dtype::I8, shape }, scales]
    }

    fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.dtype.size()) as u64
    }

    /// Whether it holds the scales of the matrix `before`, which it stays beside.
    fn scales(&self, before: &Planned) -> bool {
        self.name.strip_suffix(SCALE) == Some(&before.name)
    }
}

/// Refuses values that are finite and would be infinite as `dtype`.
///
/// # Errors
/// Such values (input).
pub fn check_range(name: &str, values: &[f32], dtype: Dtype) -> Result<()> {
    // Halfway between the largest number of the type and what would come next.
    let limit = match dtype {
        Dtype::F16 => 65520.0,
        Dtype::Bf16 => f32::from_bits(0x7f7f_8000),
        _ => return Ok(()),
    };
    let beyond = values.iter().filter(|v| v.is_finite() && v.abs() >= limit).count();
    if beyond == 0 {
        return Ok(());
    }
    let largest = values.iter().filter(|v| v.is_finite()).fold(0f32, |a, v| a.max(v.abs()));
    let dtype = dtype.name().to_lowercase();
    Err(Error::input(format!("`{name}` does not fit {dtype}: {beyond} of {} values would be infinite", values.len()))
        .cause(format!("the largest is {largest:e}, and {dtype} ends below {limit:e}"))
        .hint("`--dtype bf16` has the range of f32, and `--dtype f32` its digits too"))
}

/// The tensors of each file: in the order given, a new file where the next one would make it longer than `limit`.
fn split(plan: &[Planned], limit: u64) -> Vec<Vec<&Planned>> {
    let mut files: Vec<Vec<&Planned>> = vec![Vec::new()];
    let mut size = 0;
    for (i, tensor) in plan.iter().enumerate() {
        let scales = plan.get(i + 1).filter(|next| next.scales(tensor)).map_or(0, Planned::bytes);
        let beside = i > 0 && tensor.scales(&plan[i - 1]);
        if size > 0 && !beside && size + tensor.bytes() + scales > limit {
            files.push(Vec::new());
            size = 0;
        }
        size += tensor.bytes();
        let last = files.len() - 1;
        files[last].push(tensor);
    }
    // Wider types first, so that every tensor lies at a multiple of its element's size.
    files.iter_mut().for_each(|file| file.sort_by_key(|t| std::cmp::Reverse(t.dtype.size())));
    files
}

/// Writes the planned tensors into the existing directory `dir`, in files of at most `limit` bytes of tensors (one tensor
/// at least), and takes away weights that lay there under other names; `bytes` gives each tensor's content.
///
/// # Errors
/// Those of `bytes`, and refused writes.
///
/// # Panics
/// Where `bytes` gives a tensor another number of bytes than was planned.
pub fn write_model(
    dir: &Path,
    metadata: &BTreeMap<String, String>,
    plan: &[Planned],
    limit: u64,
    mut bytes: impl FnMut(&Planned) -> Result<Vec<u8>>,
) -> Result<()> {
    let files = split(plan, limit);
    let name = |i: usize| match files.len() {
        1 => SINGLE.to_string(),
        n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
    };
    let names: Vec<String> = (0..files.len()).map(name).collect();
    let mut map = BTreeMap::new();
    for (file, name) in files.iter().zip(&names) {
        let mut end = 0;
        let mut described: Vec<Described> = Vec::new();
        for t in file {
            let start = end;
            end += t.bytes() as usize;
            described.push((&t.name, t.dtype, &t.shape, start..end));
            map.insert(t.name.clone(), name.clone());
        }
        let header = header_bytes(metadata, &described)?;
        let mut failed = None;
        let written = write_atomic_from(&dir.join(name), |out| {
            out.write_all(&header)?;
            for t in file {
                let content = bytes(t).map_err(|e| {
                    let shown = std::io::Error::other(e.message.clone());
                    failed = Some(e);
                    shown
                })?;
                assert_eq!(content.len() as u64, t.bytes(), "`{}` has the bytes that were planned", t.name);
                out.write_all(&content)?;
            }
            Ok(())
        });
        match failed {
            Some(e) => return Err(e),
            None => written?,
        }
    }
    if files.len() > 1 {
        let total = plan.iter().map(Planned::bytes).sum::<u64>();
        let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": map });
        let text = sorted_json(index);
        write_atomic(&dir.join(INDEX), (text + "\n").as_bytes())?;
    }
    remove_others(dir, &names, files.len() > 1)
}

/// Takes away weights of an earlier export that lie in `dir` beside the files `kept`: they would be read instead of, or
/// together with, what was written.
///
/// # Errors
/// A directory that cannot be read, or a refused removal (I/O).
pub fn remove_others(dir: &Path, kept: &[String], index: bool) -> Result<()> {
    let ours = |name: &str| {
        let numbers = name.strip_prefix("model-").and_then(|n| n.strip_suffix(".safetensors"));
        let shard = numbers.and_then(|n| n.split_once("-of-"));
        let digits = |t: &str| t.len() == 5 && t.bytes().all(|b| b.is_ascii_digit());
        name == SINGLE || (name == INDEX && !index) || shard.is_some_and(|(i, n)| digits(i) && digits(n))
    };
    let io = |e: std::io::Error| Error::io("read", dir, &e);
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let name = entry.map_err(io)?.file_name().to_string_lossy().into_owned();
        if ours(&name) && !kept.contains(&name) {
            crate::fs::remove_file(&dir.join(&name))?;
        }
    }
    Ok(())
}

/// SHA-256 of the weights of a directory: of its one file, or of its index with the hashes of all files that it names.
///
/// # Errors
/// Weights that are missing, or an index that is malformed (input); I/O.
pub fn sha256(dir: &Path) -> Result<String> {
    let single = dir.join(SINGLE);
    if single.exists() || !dir.join(INDEX).exists() {
        return crate::fs::sha256_file(&single);
    }
    let mut all = read_limited(&dir.join(INDEX), MAX_INDEX)?;
    for path in super::shards::index_files(&dir.join(INDEX))?.1.values() {
        all.extend(crate::fs::sha256_file(path)?.into_bytes());
    }
    Ok(crate::fs::sha256_hex(&all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(name: &str, dtype: Dtype, n: usize) -> Planned {
        Planned { name: name.into(), dtype, shape: vec![n] }
    }

    #[test]
    fn files_are_split_in_order_and_scales_stay_beside_their_matrix_and_wide_types_come_first() {
        let plan = [
            planned("a", Dtype::I8, 5),
            planned("a_scale", Dtype::F32, 1),
            planned("b", Dtype::I8, 7),
            planned("b_scale", Dtype::F32, 1),
            planned("c", Dtype::F32, 100),
            planned("d", Dtype::F16, 1),
        ];
        let names = |limit| {
            let files = split(&plan, limit);
            files.iter().map(|f| f.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(names(1 << 20), ["a_scale b_scale c d a b"]);
        assert_eq!(names(12), ["a_scale a", "b_scale b", "c", "d"]);
        assert_eq!(names(20), ["a_scale b_scale a b", "c", "d"]);
    }

    #[test]
    fn values_beyond_the_type_are_refused_with_their_number_and_the_largest() {
        let error = check_range("head.weight", &[1.0, 65519.0, -65520.0, 1e6], Dtype::F16).unwrap_err().to_string();
        assert!(error.contains("`head.weight`") && error.contains("2 of 4") && error.contains("1e6"), "{error}");
        assert!(check_range("w", &[65519.0, f32::INFINITY], Dtype::F16).is_ok());
        assert!(check_range("w", &[f32::MAX], Dtype::Bf16).is_err());
        assert!(check_range("w", &[3.3e38], Dtype::Bf16).is_ok());
        assert!(check_range("w", &[f32::MAX], Dtype::F32).is_ok());
    }

    #[test]
    fn another_export_into_the_same_directory_leaves_no_old_weights_behind() {
        let place = tempfile::tempdir().unwrap();
        let plan = [planned("a", Dtype::F32, 2), planned("b", Dtype::F32, 2)];
        let write = |limit| write_model(place.path(), &BTreeMap::new(), &plan, limit, |t| Ok(vec![7; t.shape[0] * 4]));
        let names = || {
            let mut all: Vec<String> = std::fs::read_dir(place.path())
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            all.sort();
            all
        };
        write(8).unwrap();
        assert_eq!(names(), ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX]);
        let (sharded, store) = (sha256(place.path()).unwrap(), super::super::Store::open(place.path()).unwrap());
        assert!(store.sharded && store.entries().count() == 2);
        write(SHARD).unwrap();
        assert_eq!(names(), [SINGLE]);
        assert_ne!(sha256(place.path()).unwrap(), sharded);
    }
}
