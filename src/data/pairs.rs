//! Pairs of attributes and a sentence that tells them: the controllable generation of Diffusion-LM (Li et al. 2022,
//! arXiv 2205.14217, section 4) on E2E (Novikova et al. 2017, arXiv 1706.09254), and on stories, where truth is exact.
//!
//! ```text
//! sequence [L] = condition [C] | sentence, <end> | <pad> ...
//! condition    = field: | words of the value, <pad> ... | length class (where lengths are asked for)
//! ```
//!
//! A condition asks for one attribute, drawn from those that the sentence tells, so that real sentences fulfil theirs. One
//! that asks for nothing is all `<pad>`. Records with the same attributes are in one split, and words are those of the
//! training split. L length, C width of the condition, V vocabulary.

mod config;
mod source;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;

use super::story::StoryConfig;
use crate::error::{Error, Result};
use crate::fs::sha256_hex;
use crate::rng::{StepRng, Stream};
pub use config::{PairsConfig, Source};
use rand::Rng;
use source::Raw;

/// The ids of the words that are no words.
pub const PAD: u32 = 0;
pub const END: u32 = 1;
pub const UNKNOWN: u32 = 2;
const SPECIAL: [&str; 3] = ["<pad>", "<end>", "<unk>"];

/// A value of a field that can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Place of its field in [`Pairs::fields`].
    pub field: usize,
    /// Its words' ids.
    pub words: Vec<u32>,
}

/// What a condition asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Place in [`Pairs::values`].
    pub value: usize,
    /// Class of the sentence's length, where lengths are asked for.
    pub class: Option<usize>,
}

/// A sentence with the values that it tells.
#[derive(Debug, Clone)]
struct Record {
    sentence: Vec<u32>,
    told: Vec<usize>,
}

/// The records of the three splits, and what sequences are made of.
#[derive(Debug, Clone)]
pub struct Pairs {
    config: PairsConfig,
    words: Vec<String>,
    fields: Vec<String>,
    values: Vec<Value>,
    /// The first length [classes - 1] of each class but the first.
    bounds: Vec<usize>,
    /// Width C of a condition.
    width: usize,
    train: Vec<Record>,
    valid: Vec<Record>,
    held_out: Vec<Record>,
}

impl Pairs {
    /// Reads or generates the pairs; relative paths are looked up from `base`.
    ///
    /// # Errors
    /// Files that are missing or have a line of another form (input); files of which nothing is left, or a field that is asked for
    /// and does not occur (usage).
    pub fn prepare(config: &PairsConfig, base: &Path) -> Result<Pairs> {
        config.validate()?;
        let raw = source::read(&config.source, base)?;
        let fields = fields(config, &raw)?;
        let [train, valid, held_out] = source::split(raw, config.valid_fraction);
        let mut words: Vec<String> = SPECIAL.map(String::from).to_vec();
        words.extend(fields.iter().map(|f| format!("{}:", f.replace(' ', "_"))));
        words.extend((1..=config.length_classes).map(|c| format!("length:{c}")));
        let from = words.len();
        let mut counts: HashMap<&str, usize> = HashMap::new();
        train.iter().flat_map(|r| &r.sentence).for_each(|w| *counts.entry(w).or_default() += 1);
        let mut common: Vec<&str> = counts
            .into_iter()
            .filter(|(w, n)| *n >= config.min_count && !words.iter().any(|s| s == w))
            .map(|c| c.0)
            .collect();
        common.sort_unstable();
        words.extend(common.into_iter().map(String::from));
        let ids: HashMap<&str, u32> = words.iter().zip(0..).skip(from).map(|(w, i)| (w.as_str(), i)).collect();
        let encode = |text: &[String]| text.iter().map(|w| ids.get(w.as_str()).copied().unwrap_or(UNKNOWN)).collect();

        let mut values: Vec<Value> = Vec::new();
        let story = matches!(config.source, Source::Story(_));
        for record in &train {
            for (field, value) in &record.attributes {
                let Some(field) = fields.iter().position(|f| f == field) else { continue };
                let value = Value { field, words: encode(value) };
                if !value.words.contains(&UNKNOWN) && !values.contains(&value) {
                    values.push(value);
                }
            }
        }
        values.sort_by(|a, b| (a.field, &a.words).cmp(&(b.field, &b.words)));
        let record = |raw: &Raw| {
            let sentence: Vec<u32> = encode(&raw.sentence);
            let own = raw.attributes.iter().filter_map(|(field, value)| {
                let value = Value { field: fields.iter().position(|f| f == field)?, words: encode(value) };
                values.binary_search_by(|v| (v.field, &v.words).cmp(&(value.field, &value.words))).ok()
            });
            let told: Vec<usize> = own.filter(|v| tells(&values[*v], &fields, &sentence, story)).collect();
            Record { sentence, told }
        };
        let width =
            1 + values.iter().map(|v| v.words.len()).max().unwrap_or(0) + usize::from(config.length_classes > 0);
        let fits = |r: &Record| !r.told.is_empty() && width + r.sentence.len() < config.length;
        let kept = |all: &[Raw]| all.iter().map(record).filter(fits).collect::<Vec<_>>();
        let (train, valid, held_out) = (kept(&train), kept(&valid), kept(&held_out));
        for (name, split) in [("training", &train), ("validation", &valid), ("held-out", &held_out)] {
            if split.is_empty() {
                return Err(Error::usage(format!("the {name} split of `data.pairs` has no record")).hint(format!(
                    "a record is left out where its sentence tells no value that is asked for, or needs more than \
                     `length` = {} tokens, {width} of them for the condition",
                    config.length
                )));
            }
        }
        let bounds = bounds(&train, config.length_classes)?;
        Ok(Pairs { config: config.clone(), words, fields, values, bounds, width, train, valid, held_out })
    }

    /// Vocabulary size V, without the mask.
    pub fn vocab(&self) -> usize {
        self.words.len()
    }

    /// Tokens in a sequence L.
    pub fn length(&self) -> usize {
        self.config.length
    }

    /// The words in the order of their ids.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The fields that can be asked for.
    pub fn fields(&self) -> &[String] {
        &self.fields
    }

    /// The values that can be asked for, of all fields.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// Width C of the condition.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The share of training sequences whose condition asks for nothing.
    pub fn unconditional(&self) -> f64 {
        self.config.unconditional
    }

    /// The stories that the sentences are, where they are stories.
    pub fn story(&self) -> Option<&StoryConfig> {
        match &self.config.source {
            Source::Story(story) => Some(story),
            Source::Files(_) => None,
        }
    }

    /// Records of the training, validation and held-out split.
    pub fn sizes(&self) -> [usize; 3] {
        [self.train.len(), self.valid.len(), self.held_out.len()]
    }

    /// The class of a sentence of `length` words; none where lengths are not asked for.
    pub fn class(&self, length: usize) -> Option<usize> {
        (self.config.length_classes > 0).then(|| self.bounds.partition_point(|b| *b <= length))
    }

    /// The tokens `[C]` of a condition; of one that asks for nothing all padding.
    pub fn condition(&self, ask: Option<Ask>) -> Vec<u32> {
        let mut tokens = vec![PAD; self.width];
        if let Some(ask) = ask {
            let value = &self.values[ask.value];
            tokens[0] = (SPECIAL.len() + value.field) as u32;
            tokens[1..=value.words.len()].copy_from_slice(&value.words);
            if let Some(class) = ask.class {
                tokens[self.width - 1] = (SPECIAL.len() + self.fields.len() + class) as u32;
            }
        }
        tokens
    }

    /// The tokens `[L]` of a sentence behind a condition.
    ///
    /// # Panics
    /// Where the sentence does not fit into L tokens behind the condition.
    pub fn sequence(&self, ask: Option<Ask>, sentence: &[u32]) -> Vec<u32> {
        let mut tokens = self.condition(ask);
        tokens.extend_from_slice(sentence);
        tokens.push(END);
        assert!(tokens.len() <= self.length(), "{} words do not fit", sentence.len());
        tokens.resize(self.length(), PAD);
        tokens
    }

    /// What of a sequence `[L]` is its sentence: the words behind the condition and before the first end or padding.
    pub fn sentence<'a>(&self, tokens: &'a [u32]) -> &'a [u32] {
        let behind = &tokens[self.width..];
        let end = behind.iter().position(|t| *t == END || *t == PAD).unwrap_or(behind.len());
        &behind[..end]
    }

    /// Whether a sentence tells the value that is asked for: its words stand in it side by side, or, in a story, at the
    /// place of its field.
    pub fn tells(&self, ask: Ask, sentence: &[u32]) -> bool {
        tells(&self.values[ask.value], &self.fields, sentence, self.story().is_some())
    }

    fn draw(&self, record: &Record, rng: &mut impl Rng) -> Ask {
        let value = record.told[rng.random_range(0..record.told.len())];
        Ask { value, class: self.class(record.sentence.len()) }
    }

    /// Tokens [B L] of training part `part`: a pure function of its arguments.
    pub fn batch(&self, seed: u64, part: u64, batch: usize) -> Vec<u32> {
        let mut rng = StepRng::new(seed).at(part, Stream::Batch);
        let mut one = |_| {
            let record = &self.train[rng.random_range(0..self.train.len())];
            let ask = self.draw(record, &mut rng);
            let asks = rng.random::<f64>() >= self.config.unconditional;
            self.sequence(asks.then_some(ask), &record.sentence)
        };
        (0..batch).flat_map(&mut one).collect()
    }

    /// Sequence `i` `[L]` of the validation split, with what it is asked for; its condition is a function of `i`.
    pub fn valid(&self, i: usize) -> (Vec<u32>, Ask) {
        let record = &self.valid[i % self.valid.len()];
        let ask = self.draw(record, &mut StepRng::new(super::HELD_OUT_SEED).at(i as u64, Stream::Validation));
        (self.sequence(Some(ask), &record.sentence), ask)
    }

    /// Records of the training split.
    pub fn train_records(&self) -> usize {
        self.train.len()
    }

    /// Records of the validation split.
    pub fn valid_records(&self) -> usize {
        self.valid.len()
    }

    /// Condition `i` of an evaluation with a real sentence that fulfils it, of a record that is in no other split: a
    /// function of (seed, i).
    pub fn asked(&self, seed: u64, i: u64) -> (Ask, &[u32]) {
        let mut rng = StepRng::new(seed).at(i, Stream::Validation);
        let record = &self.held_out[rng.random_range(0..self.held_out.len())];
        (self.draw(record, &mut rng), &record.sentence)
    }

    /// A condition in words.
    pub fn shown(&self, ask: Ask) -> String {
        let value = &self.values[ask.value];
        let words: Vec<&str> = value.words.iter().map(|w| self.words[*w as usize].as_str()).collect();
        let class =
            ask.class.map_or(String::new(), |c| format!(", length class {} of {}", c + 1, self.bounds.len() + 1));
        format!("{} : {}{class}", self.fields[value.field], words.join(" "))
    }

    /// The text of ids, without padding; the mask prints as `·`.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let word = |t: &u32| self.words.get(*t as usize).map_or("·", String::as_str);
        tokens.iter().filter(|t| **t != PAD).map(word).collect::<Vec<_>>().join(" ")
    }

    /// Identifies the data: the hash of all splits' sentences with the values that they tell.
    pub fn sha256(&self) -> String {
        let mut bytes = Vec::new();
        for record in [&self.train, &self.valid, &self.held_out].into_iter().flatten() {
            let told = record.told.iter().map(|v| *v as u32);
            record
                .sentence
                .iter()
                .copied()
                .chain([PAD])
                .chain(told)
                .chain([PAD])
                .for_each(|t| bytes.extend(t.to_le_bytes()));
        }
        sha256_hex(format!("{}{}", self.words.join("\n"), sha256_hex(&bytes)).as_bytes())
    }

    /// How often each token occurs in the training sentences, by id.
    pub fn counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.vocab()];
        self.train.iter().flat_map(|r| &r.sentence).for_each(|t| counts[*t as usize] += 1);
        counts
    }
}

fn tells(value: &Value, fields: &[String], sentence: &[u32], story: bool) -> bool {
    match story {
        true => source::story_place(&fields[value.field])
            .is_some_and(|place| sentence.get(place).is_some_and(|w| value.words == [*w])),
        false => sentence.windows(value.words.len()).any(|w| w == value.words),
    }
}

/// The fields that are asked for, in the order of the recipe or of the alphabet.
fn fields(config: &PairsConfig, raw: &[Raw]) -> Result<Vec<String>> {
    let mut known: Vec<&String> = raw.iter().flat_map(|r| r.attributes.iter().map(|a| &a.0)).collect();
    known.sort();
    known.dedup();
    if config.fields.is_empty() {
        return Ok(known.into_iter().cloned().collect());
    }
    for field in &config.fields {
        if !known.contains(&field) {
            let e = Error::usage(format!("`data.pairs.fields` has `{field}`, which no record has"));
            let near = crate::error::nearest(field, known.iter().map(|k| k.as_str()));
            return Err(e.hint(near.map_or_else(
                || format!("fields are {}", known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")),
                |near| format!("did you mean `{near}`?"),
            )));
        }
    }
    Ok(config.fields.clone())
}

/// The first length of each class but the first, so that classes have about equally many of the records.
fn bounds(train: &[Record], classes: usize) -> Result<Vec<usize>> {
    if classes == 0 {
        return Ok(Vec::new());
    }
    let mut lengths: Vec<usize> = train.iter().map(|r| r.sentence.len()).collect();
    lengths.sort_unstable();
    let bounds: Vec<usize> = (1..classes).map(|c| lengths[c * lengths.len() / classes]).collect();
    match bounds.windows(2).all(|p| p[0] < p[1]) && bounds[0] > lengths[0] {
        true => Ok(bounds),
        false => Err(Error::usage(format!(
            "`data.pairs.length_classes` = {classes}: the sentences' lengths do not part into so many"
        ))
        .hint("take fewer classes; stories all have one length, and can have none")),
    }
}
