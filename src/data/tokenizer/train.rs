//! A byte-level BPE trained on a text: its words are counted, then the most frequent pair of tokens becomes a token, again
//! and again, until there are V of them.
//!
//! The end token is 0, the 256 bytes follow, so any text has tokens, and the merges come last. Of equally frequent pairs
//! the one with the smaller ids goes first, so equal texts give equal files. (The library's own trainer keeps several
//! entries of a pair where two merges spell the same token, and takes them in the order of a table that is seeded anew in
//! every process.) Time and memory are bounded: of a text that is longer than 256 MiB evenly spread blocks are read, and of
//! words that take more than 16 MiB the rarest are forgotten.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use super::{END, Tokenizer, hf};
use crate::error::{Error, Kind, Result};
use crate::fs::{Sealed, read_limited, seal, unseal, write_atomic};

/// Where a trained tokenizer is kept beside the tokens.
pub const KEPT: &str = "bpe.json";
/// Bytes of text that are read, in blocks of `BLOCK`.
const MOST: u64 = 256 << 20;
const BLOCK: u64 = 1 << 20;
/// Bytes of different words.
const MOST_WORDS: usize = 16 << 20;
/// Bytes in a word; of a longer one each part is a word.
const LONGEST: usize = 256;
/// Text that is cut into words at a time: the library takes some hundred bytes for each.
const PIECE: usize = 64 << 10;
/// A pair that occurs once makes no token.
const FEWEST: u64 = 2;

/// The words of a text, each of its bytes written as GPT-2 writes it, with how often they occur.
pub struct Words {
    counts: HashMap<String, u64>,
    bytes: usize,
    most: usize,
    /// Words that are not more frequent are forgotten when there is no room.
    rare: u64,
    /// One block in so many is read.
    stride: u64,
    at: u64,
}

impl Words {
    /// None yet, of a text of so many bytes.
    pub fn new(text: u64) -> Words {
        let stride = text.div_ceil(MOST).max(1);
        Words { counts: HashMap::new(), bytes: 0, most: MOST_WORDS, rare: 0, stride, at: 0 }
    }

    /// Counts the words of the next piece of the text; a word ends where the piece does.
    ///
    /// # Errors
    /// Text that the library cannot cut into words (input).
    pub fn add(&mut self, text: &str) -> Result<()> {
        let mut rest = text;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(end_of_piece(rest));
            if (self.at / BLOCK).is_multiple_of(self.stride) {
                part.split(END).try_for_each(|text| self.count(text))?;
            }
            self.at += part.len() as u64;
            rest = after;
        }
        Ok(())
    }

    fn count(&mut self, text: &str) -> Result<()> {
        let mut cut = PreTokenizedString::from(text);
        let level = ByteLevel::new(false, true, true);
        hf::guarded("the text cannot be cut into words", || level.pre_tokenize(&mut cut))?;
        for (word, ..) in cut.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            let mut rest = word;
            while !rest.is_empty() {
                let (part, after) = rest.split_at(rest.floor_char_boundary(LONGEST));
                self.one(part);
                rest = after;
            }
        }
        Ok(())
    }

    fn one(&mut self, word: &str) {
        if let Some(n) = self.counts.get_mut(word) {
            *n += 1;
            return;
        }
        self.bytes += word.len();
        self.counts.insert(word.into(), 1);
        while self.bytes > self.most {
            self.rare += 1;
            self.counts.retain(|_, n| *n > self.rare);
            self.bytes = self.counts.keys().map(String::len).sum();
        }
    }
}

/// How much of `text` is cut into words at once: up to a line that begins with a word, where one ends near.
fn end_of_piece(text: &str) -> usize {
    if text.len() <= PIECE {
        return text.len();
    }
    let from = text.floor_char_boundary(PIECE);
    let window = &text[from..text.floor_char_boundary(2 * PIECE)];
    let begins = |at: &usize| window[at + 1..].starts_with(|c: char| !c.is_whitespace());
    let line = window.match_indices('\n').map(|(at, _)| at).find(begins);
    line.map_or(from, |at| from + at + 1)
}

/// Ids of two tokens, one behind the other.
type Pair = (u32, u32);

/// Tokens on the way to a vocabulary.
struct Training {
    names: Vec<String>,
    ids: HashMap<String, u32>,
    merges: Vec<Pair>,
    /// The tokens of each word, and how often it occurs.
    words: Vec<(Vec<u32>, u64)>,
    counts: HashMap<Pair, u64>,
    /// Words that may have the pair.
    places: HashMap<Pair, Vec<u32>>,
    /// The most frequent pair first; what it says of a count may be out of date.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

impl Training {
    fn new(words: Words) -> Training {
        let mut names = vec![END.to_string()];
        // In the library's order.
        let alphabet: BTreeSet<char> = hf::byte_chars().collect();
        names.extend(alphabet.into_iter().map(String::from));
        let ids: HashMap<String, u32> = names.iter().cloned().zip(0..).collect();
        let mut words: Vec<(String, u64)> = words.counts.into_iter().collect();
        words.sort();
        let of = |word: &str| word.chars().filter_map(|c| ids.get(c.encode_utf8(&mut [0; 4])).copied()).collect();
        let words = words.into_iter().map(|(word, n)| (of(&word), n)).collect();
        let (counts, places) = (HashMap::new(), HashMap::new());
        let mut training = Training { names, ids, merges: Vec::new(), words, counts, places, queue: BinaryHeap::new() };
        (0..training.words.len()).for_each(|word| training.enter(word, |_| true));
        let all: Vec<Pair> = training.counts.keys().copied().collect();
        all.into_iter().for_each(|pair| training.offer(pair));
        training
    }

    /// Counts the pairs of a word, and notes it as the place of those that are `new`.
    fn enter(&mut self, word: usize, new: impl Fn(Pair) -> bool) {
        let (tokens, n) = &self.words[word];
        for pair in tokens.windows(2).map(|p| (p[0], p[1])) {
            *self.counts.entry(pair).or_default() += n;
            if new(pair) {
                let places = self.places.entry(pair).or_default();
                if places.last() != Some(&(word as u32)) {
                    places.push(word as u32);
                }
            }
        }
    }

    /// Takes the pairs of a word out of the counts.
    fn leave(&mut self, word: usize) {
        let (tokens, n) = &self.words[word];
        for pair in tokens.windows(2).map(|p| (p[0], p[1])) {
            if let Some(count) = self.counts.get_mut(&pair) {
                *count -= n;
            }
        }
    }

    fn offer(&mut self, pair: Pair) {
        self.queue.extend(self.counts.get(&pair).filter(|n| **n >= FEWEST).map(|n| (*n, Reverse(pair))));
    }

    /// The most frequent pair.
    fn next(&mut self) -> Option<Pair> {
        while let Some((said, Reverse(pair))) = self.queue.pop() {
            match self.counts.get(&pair) {
                Some(n) if *n == said => return Some(pair),
                _ => self.offer(pair),
            }
        }
        None
    }

    /// Makes a token of `pair`, everywhere.
    fn merge(&mut self, pair: Pair) {
        let name = format!("{}{}", self.names[pair.0 as usize], self.names[pair.1 as usize]);
        // Another pair may spell it already.
        let made = *self.ids.entry(name.clone()).or_insert(self.names.len() as u32);
        if made as usize == self.names.len() {
            self.names.push(name);
        }
        self.merges.push(pair);
        let mut touched = HashSet::new();
        for word in self.places.remove(&pair).unwrap_or_default() {
            let word = word as usize;
            self.leave(word);
            self.words[word].0 = merged(&self.words[word].0, pair, made);
            let is_new = |(a, b): Pair| a == made || b == made;
            self.enter(word, is_new);
            touched.extend(self.words[word].0.windows(2).map(|p| (p[0], p[1])).filter(|p| is_new(*p)));
        }
        self.counts.remove(&pair);
        touched.into_iter().for_each(|pair| self.offer(pair));
    }
}

/// The tokens of a word with `made` in the place of each `pair`, from the left.
fn merged(tokens: &[u32], pair: Pair, made: u32) -> Vec<u32> {
    let mut out = Vec::with_capacity(tokens.len());
    let mut i = 0;
    while i < tokens.len() {
        let here = tokens.get(i + 1).is_some_and(|next| (tokens[i], *next) == pair);
        out.push(if here { made } else { tokens[i] });
        i += if here { 2 } else { 1 };
    }
    out
}

/// The tokenizer of `vocab` tokens that the words of a text give.
///
/// # Errors
/// A text with too few different words (usage).
pub fn bpe(vocab: usize, words: Words) -> Result<Tokenizer> {
    let mut training = Training::new(words);
    while training.names.len() < vocab {
        let Some(pair) = training.next() else { break };
        training.merge(pair);
    }
    let names = &training.names;
    if names.len() < vocab {
        return Err(Error::usage(format!("`data.text.tokenizer.train.bpe = {vocab}` is more than the text gives"))
            .cause(format!("all pairs that occur more than once make {} tokens", names.len()))
            .hint(format!("take a longer text, or `data.text.tokenizer.train.bpe = {}`", names.len())));
    }
    let ids: BTreeMap<String, u32> = names.iter().cloned().zip(0..).collect();
    let spelt = |(a, b): &Pair| json!([names[*a as usize], names[*b as usize]]);
    hf::byte_level(&ids, training.merges.iter().map(spelt).collect(), "the trained tokenizer")
}

/// A trained tokenizer as it is kept, with what decides it.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Of the training text.
    source_sha256: String,
    bpe: usize,
    /// The trainer's version: another one may give other tokens.
    trainer: u32,
    tokenizer: Value,
}

const TRAINER: u32 = 1;

/// The tokenizer of `vocab` tokens of the text with this hash: the one in `path`, or a new one from the words that `count`
/// finds, which is then kept there. Without a path nothing is kept.
///
/// # Errors
/// A kept one that was changed (input), and those of `bpe` and of `count`.
pub fn kept(
    path: Option<&Path>,
    source_sha256: &str,
    vocab: usize,
    count: impl FnOnce() -> Result<Words>,
) -> Result<Tokenizer> {
    if let Some(path) = path.filter(|path| path.exists()) {
        let there = read(path)?;
        if there.source_sha256 == source_sha256 && (there.bpe, there.trainer) == (vocab, TRAINER) {
            return hf::parse(&path.display().to_string(), there.tokenizer.to_string().as_bytes());
        }
    }
    let tokenizer = bpe(vocab, count()?)?;
    if let Some(path) = path {
        let failed = |e: serde_json::Error| Error::new(Kind::Io, format!("the trained tokenizer: {e}"));
        let value = serde_json::from_str(&tokenizer.to_json()?).map_err(failed)?;
        let kept = Kept { source_sha256: source_sha256.into(), bpe: vocab, trainer: TRAINER, tokenizer: value };
        write_atomic(path, seal(&serde_json::to_string_pretty(&kept).map_err(failed)?).as_bytes())?;
    }
    Ok(tokenizer)
}

fn read(path: &Path) -> Result<Kept> {
    let wrong = |why: String| {
        Error::input(format!("{} was changed after it was written", path.display()))
            .cause(why)
            .hint(format!("delete the cache file {}; it is made again from the text", path.display()))
    };
    let bytes = read_limited(path, super::MAX_FILE)?;
    match unseal(&String::from_utf8(bytes).map_err(|e| wrong(e.to_string()))?) {
        Sealed::Whole(body) => serde_json::from_str(&body).map_err(|e| wrong(e.to_string())),
        Sealed::Broken => Err(wrong("its own sha256 differs".into())),
        Sealed::Without => Err(wrong("it does not end in its sha256".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trained(text: &str, vocab: usize) -> Result<Tokenizer> {
        let mut words = Words::new(text.len() as u64);
        words.add(text)?;
        bpe(vocab, words)
    }

    /// Words of a few letters, some of them frequent.
    fn words() -> String {
        let word = |i: u32| (0..2 + i % 5).map(|k| char::from(b'a' + (i * i + 7 * k * k + i / 3) as u8 % 17)).collect();
        (0..6000u32).map(|i| word(i % (1 + i % 400))).collect::<Vec<String>>().join(" ")
    }

    #[test]
    fn merges_are_those_of_the_most_frequent_pairs_and_of_the_smaller_ids_where_pairs_are_equal() {
        let t = trained("aab aab aab cd cd", 261).unwrap();
        let pieces = t.pieces().unwrap();
        let last: Vec<&[u8]> = pieces[257..].iter().map(|p| p.as_deref().unwrap()).collect();
        // `aa` and `ab` occur three times, the first word without a space in front; then all others twice.
        assert_eq!(last, [&b"aa"[..], b"aab", b"cd", b" aab"]);
        assert_eq!((t.id(END), t.vocab_size()), (Some(0), 261));
    }

    #[test]
    fn the_same_text_gives_the_same_file_and_has_exactly_the_size_that_was_asked_for() {
        let text = words();
        for vocab in [257, 300, 450] {
            let one = trained(&text, vocab).unwrap();
            assert_eq!(one.vocab_size(), vocab);
            assert_eq!(one.to_json().unwrap(), trained(&text, vocab).unwrap().to_json().unwrap());
        }
        let e = trained("ab ab", 400).unwrap_err();
        assert!(e.hint.unwrap().contains("`data.text.tokenizer.train.bpe = 25"));
    }

    #[test]
    fn the_library_trains_the_same_tokens_where_its_order_is_defined() {
        use tokenizers::AddedToken;
        use tokenizers::models::bpe::{BPE, BpeTrainer};
        let text = words();
        let trainer = BpeTrainer::builder().vocab_size(420).min_frequency(2).show_progress(false);
        let trainer = trainer.special_tokens(vec![AddedToken::from(END, true)]);
        let trainer = trainer.initial_alphabet(hf::byte_chars().collect()).build();
        let mut counted = Words::new(0);
        counted.add(&text).unwrap();
        let counts = counted.counts.iter().map(|(word, n)| (word.as_str().into(), *n)).collect();
        let mut model = BPE::default();
        trainer.do_train(&counts, &mut model).unwrap();
        let theirs = serde_json::to_value(&model).unwrap();
        let ours: Value = serde_json::from_str(&trained(&text, 420).unwrap().to_json().unwrap()).unwrap();
        assert_eq!(theirs["merges"], ours["model"]["merges"]);
        assert_eq!(theirs["vocab"], ours["model"]["vocab"]);
    }

    #[test]
    fn a_kept_tokenizer_is_found_without_the_text_and_one_that_was_changed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEPT);
        let text = words();
        let count = || {
            let mut all = Words::new(0);
            all.add(&text).map(|()| all)
        };
        let first = kept(Some(&path), "aa", 300, count).unwrap().to_json().unwrap();
        let again = kept(Some(&path), "aa", 300, || panic!("it is there")).unwrap();
        assert_eq!(again.to_json().unwrap(), first);
        let e = kept(Some(&path), "bb", 300, || Err(Error::input("another text"))).unwrap_err();
        assert_eq!(e.message, "another text");
        assert_eq!(kept(Some(&path), "aa", 310, count).unwrap().vocab_size(), 310);
        let changed = std::fs::read_to_string(&path).unwrap().replacen("310", "311", 1);
        std::fs::write(&path, changed).unwrap();
        let e = kept(Some(&path), "aa", 310, count).unwrap_err();
        assert!(e.message.contains("was changed") && e.hint.unwrap().contains("delete the cache file"));
    }

    #[test]
    fn where_words_have_no_room_the_rarest_are_forgotten() {
        let mut all = Words { most: 400, ..Words::new(0) };
        (0..2000).for_each(|i| all.add(&format!("often {i} ")).unwrap());
        assert!(all.bytes <= 400 && all.counts["often"] == 2000, "{:?}", all.counts);
    }

    #[test]
    fn of_a_long_text_evenly_spread_blocks_are_read() {
        let mut all = Words::new(4 * MOST);
        let block = "a word\n".repeat(BLOCK as usize / 7);
        (0..8).for_each(|_| all.add(&block).unwrap());
        let read: u64 = all.counts.values().sum();
        assert!((2 * BLOCK..4 * BLOCK).contains(&(read * 7 / 3)), "{read} words");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn any_text_comes_back_from_its_tokens(text in "\\PC{0,40}|[ -~\\n\\t\u{0}-\u{20}é𝄞]{0,60}") {
            let t = trained(&words(), 300).unwrap();
            let ids = t.encode(text.as_bytes()).unwrap();
            prop_assert_eq!(t.decode(&ids), text);
        }
    }
}
