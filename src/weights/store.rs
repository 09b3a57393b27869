//! Weights on disk, read one tensor at a time: loading a model takes the memory of the model and of one tensor.
//!
//! Headers are checked when a store is opened; the data is read by position, never mapped, so that a file which is cut
//! or replaced meanwhile ends in an error.

use super::header::{self, Dtype, Entry};
use super::quantise::{SCALE, dequantise};
use super::shards::{INDEX, SINGLE, index_files};
use super::{HostTensor, NonFinite, floats, not_finite};
use crate::error::{Error, Result};
use crate::fs::{open, sha256_file, sha256_hex};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One file of a store: its name, its tensors in the order of the file, and its free text.
#[derive(Debug)]
pub struct Part {
    pub name: String,
    pub entries: Vec<Entry>,
    pub metadata: BTreeMap<String, String>,
    path: PathBuf,
    file: File,
    length: u64,
    data_start: usize,
}

/// The tensors of a safetensors file, of an index with its files, or of a directory that holds either.
#[derive(Debug)]
pub struct Store {
    pub parts: Vec<Part>,
    /// Whether an index names the files.
    pub sharded: bool,
    /// What was decided when it was opened, in words for a warning.
    pub notes: Vec<String>,
    root: PathBuf,
    place: BTreeMap<String, (usize, usize)>,
}

/// A tensor with values that are NaN or infinite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    pub name: String,
    /// How many of its values, and of how many.
    pub wrong: usize,
    pub of: usize,
}

impl Store {
    /// Opens `path` and checks all headers; no data is read.
    ///
    /// Of a directory with one file and an index of several the one file is read, as other loaders do, and noted where the two
    /// hold the same tensors.
    ///
    /// # Errors
    /// Files that are missing or malformed, and one beside an index of other tensors (input); I/O.
    pub fn open(path: &Path) -> Result<Store> {
        if !path.is_dir() {
            let index = path.extension().is_some_and(|e| e == "json");
            return if index { Self::indexed(path, path) } else { Self::of(vec![Part::open(path)?], None, path) };
        }
        let (single, index) = (path.join(SINGLE), path.join(INDEX));
        match (single.exists(), index.exists()) {
            (true, false) => Self::of(vec![Part::open(&single)?], None, path),
            (false, true) => Self::indexed(&index, path),
            (true, true) => {
                let store = Self::of(vec![Part::open(&single)?], None, path)?;
                store.beside(&index, path)
            }
            (false, false) => Err(Error::input(format!("{} holds neither {SINGLE} nor {INDEX}", path.display()))
                .hint("name the weights file itself")),
        }
    }

    fn indexed(index: &Path, root: &Path) -> Result<Store> {
        let (map, files) = index_files(index)?;
        let parts = files.values().map(|p| Part::open(p)).collect::<Result<Vec<_>>>()?;
        Self::of(parts, Some((index, map)), root)
    }

    /// The store of one file in a directory that has an index too.
    fn beside(mut self, index: &Path, dir: &Path) -> Result<Store> {
        let place = dir.display();
        let Ok(other) = Self::indexed(index, dir) else {
            self.notes.push(format!("{place}: {SINGLE} is read; {INDEX} and its files cannot be, and are passed over"));
            return Ok(self);
        };
        let shapes = |store: &Store| -> BTreeMap<String, Vec<usize>> {
            store.entries().map(|e| (e.name.clone(), e.shape.clone())).collect()
        };
        let (one, several) = (shapes(&self), shapes(&other));
        let lacks = |a: &BTreeMap<String, Vec<usize>>, b: &BTreeMap<String, Vec<usize>>| {
            a.iter().find(|(name, shape)| b.get(*name) != Some(shape)).map(|(name, _)| name.clone())
        };
        let Some(name) = lacks(&one, &several).or_else(|| lacks(&several, &one)) else {
            self.notes.push(format!(
                "{place}: {SINGLE} is read, and not the {} files of {INDEX}; remove what is not meant",
                other.parts.len()
            ));
            return Ok(self);
        };
        let told = |map: &BTreeMap<String, Vec<usize>>| map.get(&name).map_or("absent".into(), |s| format!("{s:?}"));
        Err(Error::input(format!("{place}: {SINGLE} and the files of {INDEX} are not the same model"))
            .cause(format!("`{name}` is {} in the one and {} in the others", told(&one), told(&several)))
            .hint(format!("remove {SINGLE}, or {INDEX} with its files")))
    }

    fn of(parts: Vec<Part>, index: Option<(&Path, BTreeMap<String, String>)>, root: &Path) -> Result<Store> {
        let mut place = BTreeMap::new();
        let wrong = |why: String| {
            let index = index.as_ref().map_or(Path::new(INDEX), |(path, _)| path);
            Error::input(format!("{} and its files do not agree", index.display())).cause(why)
        };
        for (p, part) in parts.iter().enumerate() {
            for (e, entry) in part.entries.iter().enumerate() {
                let named = index.as_ref().and_then(|(_, map)| map.get(&entry.name));
                if let Some(other) = named.filter(|other| **other != part.name) {
                    return Err(wrong(format!(
                        "tensor `{}` is in {}, and the index says {other}",
                        entry.name, part.name
                    )));
                }
                if place.insert(entry.name.clone(), (p, e)).is_some() {
                    return Err(wrong(format!("tensor `{}` is in {} and in another file too", entry.name, part.name)));
                }
            }
        }
        let absent = index.as_ref().and_then(|(_, map)| map.iter().find(|(name, _)| !place.contains_key(*name)));
        if let Some((name, file)) = absent {
            return Err(wrong(format!("tensor `{name}` is not in {file}")));
        }
        Ok(Store { sharded: index.is_some(), parts, notes: Vec::new(), root: root.to_path_buf(), place })
    }

    /// All tensors, file by file.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.parts.iter().flat_map(|p| &p.entries)
    }

    /// The tensor called `name`, if it is there.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.place.get(name).map(|(p, e)| &self.parts[*p].entries[*e])
    }

    /// The scales of an int8 matrix.
    fn scales(&self, entry: &Entry) -> Option<&Entry> {
        let scales = (entry.dtype == Dtype::I8).then(|| self.entry(&format!("{}{SCALE}", entry.name)))?;
        scales.filter(|s| s.dtype.is_float())
    }

    /// The tensors of real numbers: floats, and int8 matrices in place of their scales.
    pub fn reals(&self) -> impl Iterator<Item = &Entry> {
        let matrix = |e: &Entry| Some(self.scales(self.entry(e.name.strip_suffix(SCALE)?)?).is_some());
        self.entries().filter(move |e| match e.dtype.is_float() {
            true => matrix(e) != Some(true),
            false => self.scales(e).is_some(),
        })
    }

    /// The bytes of the tensor called `name`.
    ///
    /// # Errors
    /// A file that was changed while it was read (input); I/O.
    ///
    /// # Panics
    /// Where no tensor has that name: our own mistake.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let (p, e) = self.place[name];
        self.parts[p].read(&self.parts[p].entries[e])
    }

    /// The tensor of real numbers called `name` as f32.
    ///
    /// # Errors
    /// A tensor of another type, and values that are not finite where these are refused (input); I/O.
    pub fn tensor(&self, name: &str, non_finite: NonFinite) -> Result<HostTensor> {
        let (p, e) = self.place[name];
        let (part, entry) = (&self.parts[p], &self.parts[p].entries[e]);
        let place = || format!("{}: tensor `{name}`", part.path.display());
        let bytes = part.read(entry)?;
        let data = match (floats(entry.dtype, &bytes), self.scales(entry)) {
            (Some(data), _) => data,
            (None, Some(scales)) => {
                let scales = self.tensor(&scales.name, non_finite)?;
                dequantise(&bytes, &entry.shape, &scales).map_err(|why| Error::input(place()).cause(why))?
            }
            (None, None) => return Err(Error::input(format!("{} holds integers", place()))),
        };
        if non_finite == NonFinite::Refuse && data.iter().any(|x| !x.is_finite()) {
            let bad = self.non_finite()?;
            return Err(self.not_finite(&bad).unwrap_or_else(|| Error::input(format!("{} is not finite", place()))));
        }
        Ok(HostTensor { shape: entry.shape.clone(), data })
    }

    /// The tensors with values that are not finite; every tensor of floats is read.
    ///
    /// # Errors
    /// A file that was changed while it was read (input); I/O.
    pub fn non_finite(&self) -> Result<Vec<Bad>> {
        let mut all = Vec::new();
        for part in &self.parts {
            for entry in part.entries.iter().filter(|e| e.dtype.is_float()) {
                let values = floats(entry.dtype, &part.read(entry)?).unwrap_or_default();
                let wrong = values.iter().filter(|x| !x.is_finite()).count();
                if wrong > 0 {
                    all.push(Bad { name: entry.name.clone(), wrong, of: values.len() });
                }
            }
        }
        Ok(all)
    }

    /// The error that counts the values which are not finite, tensor by tensor; none where there is none.
    pub fn not_finite(&self, bad: &[Bad]) -> Option<Error> {
        let line = |b: &Bad| format!("`{}`: {} of {} values", b.name, b.wrong, b.of);
        let lines = bad.iter().take(10).map(line).collect();
        let place = if self.sharded { &self.root } else { &self.parts.first()?.path };
        (!bad.is_empty()).then(|| not_finite(&place.display().to_string(), bad.len(), lines))
    }

    /// SHA-256 of the file, or of the hashes of several files in the order of their names, joined by line ends.
    ///
    /// # Errors
    /// A file that is missing (input) or cannot be read (I/O).
    pub fn sha256(&self) -> Result<String> {
        let hashes = self.parts.iter().map(|p| sha256_file(&p.path)).collect::<Result<Vec<String>>>()?;
        Ok(if self.sharded { sha256_hex(hashes.join("\n").as_bytes()) } else { hashes.concat() })
    }

    /// Number of real values, and the type that most of them have.
    pub fn floats(&self) -> (u64, Dtype) {
        let mut counts: BTreeMap<&str, (u64, Dtype)> = BTreeMap::new();
        for entry in self.reals() {
            let n = entry.shape.iter().map(|d| *d as u64).product::<u64>();
            counts.entry(entry.dtype.name()).or_insert((0, entry.dtype)).0 += n;
        }
        let most = counts.values().max_by_key(|(n, _)| *n).map_or(Dtype::F32, |(_, dtype)| *dtype);
        (counts.values().map(|(n, _)| n).sum(), most)
    }
}

impl Part {
    fn open(path: &Path) -> Result<Part> {
        let shown = path.display().to_string();
        let (mut file, length) = open(path)?;
        let (header, data_start) = header::read(&shown, &mut file, length)?;
        let name = path.file_name().map_or(shown, |n| n.to_string_lossy().into_owned());
        Ok(Part {
            name,
            entries: header.entries,
            metadata: header.metadata,
            path: path.to_path_buf(),
            file,
            length,
            data_start,
        })
    }

    /// The header as it stands in the file, its length in front.
    ///
    /// # Errors
    /// A file that was changed while it was read (input); I/O.
    pub fn header_bytes(&self) -> Result<Vec<u8>> {
        self.range(0..self.data_start)
    }

    fn read(&self, entry: &Entry) -> Result<Vec<u8>> {
        self.range(entry.start..entry.end)
    }

    fn range(&self, at: Range<usize>) -> Result<Vec<u8>> {
        let io = |e: std::io::Error| header::unread(&self.path, &e);
        if self.file.metadata().map_err(io)?.len() != self.length {
            return Err(Error::input(format!("{} was changed while it was being read", self.path.display())));
        }
        let mut bytes = vec![0; at.len()];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(at.start as u64)).and_then(|_| file.read_exact(&mut bytes)).map_err(io)?;
        Ok(bytes)
    }
}
