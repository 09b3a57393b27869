//! Where pairs are read from: files of lines, or stories with attributes that are functions of their text.

use std::path::Path;

use super::Source;
use crate::data::story::Story;
use crate::error::{Error, Result};
use crate::fs::{read_limited, sha256_hex};
use crate::hub;
use crate::rng::{StepRng, Stream};

const MAX_FILE: u64 = 1 << 30;
/// Stories that are drawn, from a seed that no recipe's training uses.
const STORIES: u64 = 20_000;
const STORY_SEED: u64 = 0x5eed_5707_1e50;

/// A record as read: words in lower case.
#[derive(Debug, Clone)]
pub struct Raw {
    /// What decides its split.
    pub meaning: String,
    pub attributes: Vec<(String, Vec<String>)>,
    pub sentence: Vec<String>,
}

/// Where in a story the word of a field stands.
pub fn story_place(field: &str) -> Option<usize> {
    STORY_FIELDS.iter().find(|f| f.0 == field).map(|f| f.1)
}

/// "mia has 3 apples in the park . then mia finds 2 ...": the fields of a story and the places of their words.
const STORY_FIELDS: [(&str, usize); 4] = [("name", 0), ("thing", 3), ("place", 6), ("event", 10)];

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_lowercase).collect()
}

/// All records of a source.
pub fn read(source: &Source, base: &Path) -> Result<Vec<Raw>> {
    match source {
        Source::Files(files) => {
            let mut all = Vec::new();
            for file in files {
                let path = hub::file(base, file)?;
                let bytes = read_limited(&path, MAX_FILE)?;
                let text = std::str::from_utf8(&bytes)
                    .map_err(|e| Error::input(format!("{} is not UTF-8 text: {e}", path.display())))?;
                for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                    all.push(parse(line).map_err(|why| {
                        Error::input(format!("{}, line {}: {why}", path.display(), i + 1))
                            .hint("a line is `field : value | field : value||sentence`")
                    })?);
                }
            }
            Ok(all)
        }
        Source::Story(config) => {
            let story = Story::new(config)?;
            let rng = StepRng::new(STORY_SEED);
            let one = |i: u64| {
                let text = story.sample(&mut rng.at(i, Stream::Batch));
                // A word that noise has changed may be an attribute.
                if !story.is_valid(&text) {
                    return None;
                }
                let sentence = words(&story.decode(&text));
                let of = |(field, place): (&str, usize)| (field.to_string(), vec![sentence[place].clone()]);
                let attributes: Vec<_> = STORY_FIELDS.into_iter().map(of).collect();
                // With their counts, so that there are many meanings to part.
                Some(Raw { meaning: sentence[..12].join(" "), attributes, sentence })
            };
            Ok((0..STORIES).filter_map(one).collect())
        }
    }
}

/// A line `field : value | field : value||sentence`.
pub fn parse(line: &str) -> std::result::Result<Raw, String> {
    let (meaning, sentence) = line.split_once("||").ok_or("no `||` parts attributes from a sentence")?;
    let attribute = |part: &str| {
        let (field, value) = part.split_once(':').ok_or_else(|| format!("`{}` has no `:`", part.trim()))?;
        let (field, value) = (field.trim().to_lowercase(), words(value));
        match field.is_empty() || value.is_empty() {
            true => Err(format!("`{}` has no field or no value", part.trim())),
            false => Ok((field, value)),
        }
    };
    let attributes = meaning.split('|').map(attribute).collect::<std::result::Result<Vec<_>, String>>()?;
    let sentence = words(sentence);
    if sentence.is_empty() {
        return Err("the sentence is empty".into());
    }
    Ok(Raw { meaning: meaning.trim().to_lowercase(), attributes, sentence })
}

/// The records as training, validation and held-out split, the last two of about `fraction` each: equal meanings are
/// together, and where one goes is a function of its text alone.
pub fn split(all: Vec<Raw>, fraction: f64) -> [Vec<Raw>; 3] {
    let mut splits = [Vec::new(), Vec::new(), Vec::new()];
    for raw in all {
        let hash = sha256_hex(raw.meaning.as_bytes());
        let at = u32::from_str_radix(&hash[..8], 16).map_or(0.0, |h| f64::from(h) / 2f64.powi(32));
        let split = if at < fraction { 2 } else { 1 - usize::from(at >= 2.0 * fraction) };
        splits[split].push(raw);
    }
    splits
}
