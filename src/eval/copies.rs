//! How much of a sample is copied: its longest match with the training text, in characters.
//!
//! A gain in likelihood can come wholly from a few samples that were learnt by heart, and neither entropy nor the variety of
//! samples shows that. So the longest match of each sample is counted, those with a long one are told apart, and held-out
//! text has the same done to it: what it has in common with the training text is what anybody has.
//!
//! The samples are small and the training text is not: an automaton of all substrings of the samples is built (Blumer et al.
//! 1985; of several texts, with the root before each), and the training text is walked through it once, decoded piece by
//! piece from its tokens. Memory is some 200 bytes a character of the samples, in groups of a bounded size, and does not
//! depend on the training text; a suffix array of that would take five times its length. A match ends where a document does.
//!
//! N characters in a group of samples; the automaton has at most 2 N states and 3 N edges.

use indexmap::IndexMap;
use rayon::prelude::*;

pub use super::metric::COPIES;
use super::results::Row;
use super::stats::{mean, mean_interval};
use crate::data::documents::told;
use crate::data::tokens::Tokens;
use crate::data::{Data, Tokenizer};
use crate::error::Result;
use crate::room;

/// The score of a sample: characters of its longest match.
pub const COPIED: &str = "copied";
/// The likelihood of the samples that are no copies.
pub const WITHOUT: &str = "nll_without_copies";
/// Characters from which on a match is long.
const LONG: usize = 64;

/// Characters of samples in one automaton, and the bytes that each of them takes at most.
const GROUP: usize = 2 << 20;
const BYTES: u128 = 200;
/// Tokens of the training text that are decoded at a time, where windows are short.
const PIECE: usize = 1 << 16;

/// The longest match of each of these texts of ids with the training text of `data`, in characters; none of data that is
/// made by rules and has no training text.
///
/// # Errors
/// Too little memory for the automaton (device).
pub fn longest(data: &Data, texts: &[&[u32]]) -> Result<Option<Vec<usize>>> {
    let Data::Text { corpus, tokenizer, length } = data else { return Ok(None) };
    let decoded: Vec<Vec<char>> = texts.par_iter().map(|ids| data.decode(ids).chars().collect()).collect();
    let train = Training { tokens: &corpus.train, tokenizer, end: data.end(), overlap: 2 * length + 64 };
    let mut found = Vec::with_capacity(decoded.len());
    for group in groups(&decoded, GROUP) {
        let n: usize = group.iter().map(Vec::len).sum();
        room::need(n as u128 * BYTES, || format!("there is no room to look for copies in {n} characters of samples"))?;
        let automaton = Automaton::of(group);
        let longest = automaton.suffixes(train.matched(&automaton));
        found.extend(group.iter().map(|text| automaton.longest(text, &longest)));
    }
    Ok(Some(found))
}

/// Adds to each row what of its samples is copied; `texts` are the ids of each row's samples.
///
/// # Errors
/// As [`longest`].
pub fn add(rows: &mut [Row], texts: &[Vec<Vec<u32>>], data: &Data, nll_name: &str) -> Result<()> {
    let all: Vec<&[u32]> = texts.iter().flatten().map(Vec::as_slice).collect();
    let Some(found) = longest(data, &all)? else { return Ok(()) };
    let mut rest = &found[..];
    for (row, texts) in rows.iter_mut().zip(texts) {
        let (own, after) = rest.split_at(texts.len());
        rest = after;
        let own = scores(own);
        row.scores.extend(own.iter().map(|(key, values)| (key.clone(), mean_interval(values, 0))));
        row.corpus.extend(without(&row.samples[nll_name], &own[COPIES]));
        row.samples.extend(own);
    }
    Ok(())
}

/// The scores of samples with these longest matches.
pub fn scores(longest: &[usize]) -> IndexMap<String, Vec<f64>> {
    let per = |f: fn(usize) -> f64| longest.iter().map(|n| f(*n)).collect();
    IndexMap::from([
        (COPIED.to_string(), per(|n| n as f64)),
        (COPIES.to_string(), per(|n| f64::from(u8::from(n >= LONG)))),
    ])
}

/// The mean of the likelihoods of those that are no copies; none where all are.
pub fn without(nll: &[f64], copies: &[f64]) -> Option<(String, f64)> {
    let own: Vec<f64> = nll.iter().zip(copies).filter(|(_, copy)| **copy == 0.0).map(|(nll, _)| *nll).collect();
    (!own.is_empty()).then(|| (WITHOUT.to_string(), mean(&own)))
}

/// Texts in groups of at most so many characters, or of one text.
fn groups(texts: &[Vec<char>], most: usize) -> Vec<&[Vec<char>]> {
    let (mut groups, mut begin, mut size) = (Vec::new(), 0, 0);
    for (i, text) in texts.iter().enumerate() {
        if size + text.len() > most && i > begin {
            groups.push(&texts[begin..i]);
            (begin, size) = (i, 0);
        }
        size += text.len();
    }
    groups.push(&texts[begin..]);
    groups
}

/// The training text, as tokens.
struct Training<'a> {
    tokens: &'a Tokens,
    tokenizer: &'a Tokenizer,
    /// What ends a document.
    end: Option<u32>,
    /// Tokens that are read twice, in front of a piece and at the end of the one before: no match of a sample is longer.
    overlap: usize,
}

impl Training<'_> {
    /// Of each state, how much of its longest substring ends somewhere in the training text as a match.
    fn matched(&self, automaton: &Automaton) -> Vec<u32> {
        let step = PIECE.max(16 * self.overlap);
        let none = || vec![0; automaton.lengths.len()];
        let pieces: Vec<usize> = (0..self.tokens.len()).step_by(step).collect();
        // Few parts: each holds a number for every state.
        let share = pieces.len().div_ceil(rayon::current_num_threads()).max(1);
        let parts = pieces.par_chunks(share).map(|pieces| {
            let mut matched = none();
            for begin in pieces {
                self.walk(
                    automaton,
                    begin.saturating_sub(self.overlap)..(begin + step).min(self.tokens.len()),
                    &mut matched,
                );
            }
            matched
        });
        let longer = |mut a: Vec<u32>, b: Vec<u32>| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a = (*a).max(b));
            a
        };
        parts.reduce(none, longer)
    }

    fn walk(&self, automaton: &Automaton, part: std::ops::Range<usize>, matched: &mut [u32]) {
        let ids: Vec<u32> = self.tokens.range(part).collect();
        let mut rest = &ids[..];
        while !rest.is_empty() {
            let document = self.end.map_or(rest, |end| told(rest, end));
            automaton.walk(self.tokenizer.decode(document).chars(), matched);
            rest = &rest[rest.len().min(document.len() + 1)..];
        }
    }
}

const ROOT: u32 = 0;
const NONE: u32 = u32::MAX;

/// A class of substrings that end at the same places of the samples.
#[derive(Clone, Copy)]
struct State {
    /// Characters of the longest of them.
    length: u32,
    /// The class of their longest suffix that ends at other places too.
    link: u32,
    /// Its first edge.
    edge: u32,
}

/// To the state of the substrings with one more character.
#[derive(Clone, Copy)]
struct Edge {
    by: char,
    to: u32,
    /// The next edge of the same state.
    next: u32,
}

/// An automaton that is being built.
struct Growing {
    states: Vec<State>,
    edges: Vec<Edge>,
}

impl Growing {
    /// The edge of `state` by a character.
    fn edge(&self, state: u32, by: char) -> Option<usize> {
        self.edges_of(state).find(|at| self.edges[*at].by == by)
    }

    fn edges_of(&self, state: u32) -> impl Iterator<Item = usize> + '_ {
        let place = |at: u32| (at != NONE).then_some(at as usize);
        std::iter::successors(place(self.states[state as usize].edge), move |at| place(self.edges[*at].next))
    }

    fn add_edge(&mut self, state: u32, by: char, to: u32) {
        let next = std::mem::replace(&mut self.states[state as usize].edge, self.edges.len() as u32);
        self.edges.push(Edge { by, to, next });
    }

    fn add_state(&mut self, length: u32, link: u32) -> u32 {
        self.states.push(State { length, link, edge: NONE });
        (self.states.len() - 1) as u32
    }

    /// The state of a text whose beginning has the state `last`, with one character more.
    fn extended(&mut self, last: u32, by: char) -> u32 {
        let length = self.states[last as usize].length + 1;
        // An earlier text has it already.
        if let Some(edge) = self.edge(last, by) {
            return self.exact(last, edge, length);
        }
        let made = self.add_state(length, ROOT);
        let mut from = last;
        while from != NONE {
            if let Some(edge) = self.edge(from, by) {
                self.states[made as usize].link = self.exact(from, edge, self.states[from as usize].length + 1);
                break;
            }
            self.add_edge(from, by, made);
            from = self.states[from as usize].link;
        }
        made
    }

    /// Where the edge `edge` of `from` leads, as a state whose longest substring has `length` characters: a copy of it where
    /// it has longer ones, which then stay behind.
    fn exact(&mut self, from: u32, edge: usize, length: u32) -> u32 {
        let Edge { by, to, .. } = self.edges[edge];
        if self.states[to as usize].length == length {
            return to;
        }
        let copy = self.add_state(length, self.states[to as usize].link);
        let own: Vec<Edge> = self.edges_of(to).map(|at| self.edges[at]).collect();
        own.into_iter().for_each(|edge| self.add_edge(copy, edge.by, edge.to));
        self.states[to as usize].link = copy;
        let mut state = from;
        while state != NONE {
            match self.edge(state, by) {
                Some(edge) if self.edges[edge].to == to => self.edges[edge].to = copy,
                _ => break,
            }
            state = self.states[state as usize].link;
        }
        copy
    }
}

/// All substrings of some texts.
struct Automaton {
    /// Of each state, as [`State`] has them.
    lengths: Vec<u32>,
    links: Vec<u32>,
    /// Where its edges begin; they lie together, by character.
    begins: Vec<u32>,
    edges: Vec<(char, u32)>,
}

impl Automaton {
    fn of(texts: &[Vec<char>]) -> Automaton {
        let mut made = Growing { states: vec![State { length: 0, link: NONE, edge: NONE }], edges: Vec::new() };
        for text in texts {
            text.iter().fold(ROOT, |last, c| made.extended(last, *c));
        }
        let (mut begins, mut edges) = (vec![0], Vec::with_capacity(made.edges.len()));
        for state in 0..made.states.len() {
            let begin = edges.len();
            edges.extend(made.edges_of(state as u32).map(|at| (made.edges[at].by, made.edges[at].to)));
            edges[begin..].sort_unstable();
            begins.push(edges.len() as u32);
        }
        let of = |f: fn(&State) -> u32| made.states.iter().map(f).collect();
        Automaton { lengths: of(|s| s.length), links: of(|s| s.link), begins, edges }
    }

    fn next(&self, state: u32, by: char) -> Option<u32> {
        let own = &self.edges[self.begins[state as usize] as usize..self.begins[state as usize + 1] as usize];
        match own {
            // Most states have one.
            [(only, to)] => (*only == by).then_some(*to),
            several => several.binary_search_by_key(&by, |edge| edge.0).ok().map(|at| several[at].1),
        }
    }

    /// Follows a text, and notes at each state the longest match that ended there.
    fn walk(&self, text: impl Iterator<Item = char>, matched: &mut [u32]) {
        let (mut state, mut length) = (ROOT, 0);
        for c in text {
            loop {
                if let Some(next) = self.next(state, c) {
                    (state, length) = (next, length + 1);
                    break;
                }
                if state == ROOT {
                    break;
                }
                state = self.links[state as usize];
                length = self.lengths[state as usize];
            }
            matched[state as usize] = matched[state as usize].max(length);
        }
    }

    /// Of each state the longest suffix of its substrings that is matched, from what `walk` noted.
    fn suffixes(&self, mut matched: Vec<u32>) -> Vec<u32> {
        let mut order: Vec<u32> = (1..self.lengths.len() as u32).collect();
        order.sort_unstable_by_key(|state| self.lengths[*state as usize]);
        // Where a substring is matched, so are all its suffixes.
        for state in order.iter().rev().map(|state| *state as usize) {
            let link = self.links[state] as usize;
            if matched[state] > 0 {
                matched[link] = self.lengths[link];
            }
        }
        for state in order.iter().map(|state| *state as usize) {
            if matched[state] == 0 {
                matched[state] = matched[self.links[state] as usize];
            }
        }
        matched
    }

    /// The longest match of one of the texts, given the longest matched suffix of each state.
    fn longest(&self, text: &[char], suffixes: &[u32]) -> usize {
        let (mut state, mut longest) = (ROOT, 0);
        for (i, c) in text.iter().enumerate() {
            let Some(next) = self.next(state, *c) else { panic!("the automaton has every substring of its texts") };
            state = next;
            // A state may have longer substrings, of other texts.
            longest = longest.max((suffixes[state as usize] as usize).min(i + 1));
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The longest match of each sample with the training text, by the automaton and in groups of `most` characters.
    fn fast(samples: &[String], train: &str, most: usize) -> Vec<usize> {
        let texts: Vec<Vec<char>> = samples.iter().map(|s| s.chars().collect()).collect();
        let mut found = Vec::new();
        for group in groups(&texts, most) {
            let automaton = Automaton::of(group);
            let mut matched = vec![0; automaton.lengths.len()];
            automaton.walk(train.chars(), &mut matched);
            let suffixes = automaton.suffixes(matched);
            found.extend(group.iter().map(|text| automaton.longest(text, &suffixes)));
        }
        found
    }

    /// The same by trying every substring.
    fn slow(sample: &str, train: &str) -> usize {
        let ends: Vec<usize> = sample.char_indices().map(|(at, _)| at).chain([sample.len()]).collect();
        let mut longest = 0;
        for (i, begin) in ends.iter().enumerate() {
            while i + longest + 1 < ends.len() && train.contains(&sample[*begin..ends[i + longest + 1]]) {
                longest += 1;
            }
        }
        longest
    }

    fn corpus(train: &str, length: usize, documents: bool) -> Data {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("t.txt"), train).unwrap();
        std::fs::write(dir.path().join("v.txt"), "another text, for validation".repeat(8)).unwrap();
        let documents = if documents { "documents = \"==\"\n" } else { "" };
        let text = format!(
            "[text]\npath = \"t.txt\"\nvalid_path = \"v.txt\"\ntokenizer = \"bytes\"\n{documents}length = {length}\n"
        );
        Data::prepare(&toml::from_str(&text).unwrap(), dir.path(), None).unwrap()
    }

    fn of(data: &Data, samples: &[&str]) -> Vec<usize> {
        let ids: Vec<Vec<u32>> = samples.iter().map(|s| s.bytes().map(u32::from).collect()).collect();
        longest(data, &ids.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn the_automaton_finds_what_trying_every_substring_finds(
            samples in prop::collection::vec("[ab€]{0,14}|[a-c]{0,9}|(ab|aab){0,6}", 0..7),
            train in "[ab€]{0,60}|[a-c]{0,60}|(ab|aab|€){0,20}", most in 1usize..40,
        ) {
            let want: Vec<usize> = samples.iter().map(|s| slow(s, &train)).collect();
            prop_assert_eq!(fast(&samples, &train, most), want);
        }
    }

    #[test]
    fn a_planted_copy_is_found_with_its_exact_length_in_characters() {
        let text: String = (0..3000u32).map(|i| char::from(b'a' + (i * i * 7 + i / 5) as u8 % 23)).collect();
        let planted = "déjà-vu × 64 ½";
        let train = format!("{}{planted}{}", &text[..1500], &text[1500..]);
        let sample = format!("XYZ{planted}XYZ");
        assert_eq!(planted.chars().count(), 14);
        assert_eq!(fast(&[sample.clone(), String::new(), "Q".into()], &train, 99), [14, 0, 0]);
        let data = corpus(&train, 40, false);
        assert_eq!(of(&data, &[&sample, "", "Q", &train[100..140]]), [14, 0, 0, 40]);
        assert_eq!(of(&data, &[]), Vec::<usize>::new());
    }

    #[test]
    fn a_match_over_the_border_of_two_decoded_pieces_is_whole() {
        let text: String = (0..3 * PIECE as u32)
            .map(|i| char::from(b'a' + (i.wrapping_mul(2_654_435_761) >> 27) as u8 % 26))
            .collect();
        let data = corpus(&text, 100, false);
        for at in [0, PIECE - 50, PIECE - 1, 2 * PIECE - 99, 3 * PIECE - 100] {
            assert_eq!(of(&data, &[&text[at..at + 100]]), [100], "at {at}");
        }
    }

    #[test]
    fn no_match_goes_from_one_document_into_the_next() {
        let data = corpus("once upon a time\n==\nthere was a fox", 30, true);
        let end = u32::from('\u{3}').to_string();
        assert_eq!(data.end().unwrap().to_string(), end);
        assert_eq!(of(&data, &["a timethere was", "upon a time\u{3}there was a fox"]), [9, 11]);
    }

    #[test]
    fn a_row_gets_the_matches_of_its_samples_and_the_likelihood_of_those_that_are_no_copies() {
        let line: String = (0..400u32).map(|i| char::from(b'a' + (i * i / 3) as u8 % 26)).collect();
        let data = corpus(&line, 100, false);
        let ids = |text: &str| text.bytes().map(u32::from).collect::<Vec<u32>>();
        let copy = ids(&line[50..150]);
        let own = ids(&"0123456789".repeat(10));
        let mut rows = [super::super::results::fixture::text(1).models[1].rows[0].clone()];
        rows[0].samples = IndexMap::from([("judge_nll".to_string(), vec![1.0, 3.0, 5.0])]);
        rows[0].n = 3;
        add(&mut rows, &[vec![copy.clone(), own.clone(), own]], &data, "judge_nll").unwrap();
        assert_eq!(rows[0].samples[COPIED], [100.0, 0.0, 0.0]);
        assert_eq!((rows[0].samples[COPIES][0], rows[0].corpus[WITHOUT]), (1.0, 4.0));
        assert!((rows[0].scores[COPIES].mean - 1.0 / 3.0).abs() < 1e-12);
        let mut copied = [rows[0].clone()];
        copied[0].corpus.clear();
        add(&mut copied, &[vec![copy.clone(), copy.clone(), copy]], &data, "judge_nll").unwrap();
        assert!(!copied[0].corpus.contains_key(WITHOUT), "none is left");
    }
}
