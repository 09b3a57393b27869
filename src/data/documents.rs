//! Documents of a text, and the windows inside of them: no window goes beyond the end of one.
//!
//! Each document's tokens are followed by one end token. A window of L tokens lies in one document; a document that is
//! shorter (its end among its tokens) has one window, filled up with the end token. Windows are counted by where they can
//! start: S starts in all, so that a start is drawn as evenly from a long document as from a short one.

use std::ops::Range;

use super::text::Text;
use super::tokens::Tokens;
use crate::error::Result;

/// The documents of both splits of a corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    /// The id behind each, which stands for nothing that is shown.
    pub end: u32,
    pub train: Windows,
    pub valid: Windows,
}

/// The windows of a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    length: usize,
    end: u32,
    /// The first token of each document.
    begins: Vec<usize>,
    /// Starts of windows up to the end of each document.
    until: Vec<u64>,
    apart: usize,
}

impl Windows {
    /// Those of `length` tokens; every document of `tokens` ends in `end`.
    pub fn of(tokens: &Tokens, end: u32, length: usize) -> Windows {
        let mut windows = Windows { length, end, begins: Vec::new(), until: Vec::new(), apart: 0 };
        let (mut begin, mut starts) = (0, 0);
        for (i, _) in tokens.iter().enumerate().filter(|(_, id)| *id == end) {
            let own = i + 1 - begin;
            starts += own.saturating_sub(length) as u64 + 1;
            windows.begins.push(begin);
            windows.until.push(starts);
            windows.apart += (own / length).max(1);
            begin = i + 1;
        }
        windows
    }

    /// How many documents there are.
    pub fn documents(&self) -> usize {
        self.begins.len()
    }

    /// Where windows can start (S).
    pub fn starts(&self) -> u64 {
        self.until.last().copied().unwrap_or(0)
    }

    /// Windows that do not overlap, one of each document at least.
    pub fn apart(&self) -> usize {
        self.apart
    }

    /// The window of the start `start` of S: `length` ids.
    ///
    /// # Panics
    /// Where `start` is not below S.
    pub fn window(&self, tokens: &Tokens, start: u64) -> Vec<u32> {
        assert!(start < self.starts(), "the start {start} of {}", self.starts());
        let document = self.until.partition_point(|until| *until <= start);
        let before = if document == 0 { 0 } else { self.until[document - 1] };
        let begin = self.begins[document] + (start - before) as usize;
        let end = self.begins.get(document + 1).copied().unwrap_or(tokens.len());
        let mut window: Vec<u32> = tokens.range(begin..end.min(begin + self.length)).collect();
        window.resize(self.length, self.end);
        window
    }

    /// Window `i` of `apart`, at starts that are spread evenly over all.
    pub fn spread(&self, tokens: &Tokens, i: usize) -> Vec<u32> {
        let at = (2 * i as u128 + 1) * u128::from(self.starts()) / (2 * self.apart as u128);
        self.window(tokens, at as u64)
    }
}

/// What of a text's ids is told: all in front of the first end token.
pub fn told(ids: &[u32], end: u32) -> &[u32] {
    &ids[..ids.iter().position(|id| *id == end).unwrap_or(ids.len())]
}

/// The same with the end token, if there is one: what a model has to know of a text.
pub fn ended(ids: &[u32], end: u32) -> &[u32] {
    &ids[..ids.len().min(told(ids, end).len() + 1)]
}

/// The parts of `text` that are documents, between lines that are `separator` and inside of each file, without white space
/// at their ends; what has nothing else is none. With them whether there was such a line.
///
/// # Errors
/// Text that cannot be read (input or I/O).
pub fn find(text: &Text, separator: &str) -> Result<(Vec<Range<u64>>, bool)> {
    let mut finder = Finder { separator: separator.as_bytes(), ..Finder::default() };
    for file in text.files() {
        finder.at = file.start;
        text.each(file, &mut |piece| {
            piece.split_inclusive(|b| *b == b'\n').for_each(|part| finder.add(part));
            Ok(())
        })?;
        finder.end_line();
        finder.end_document();
    }
    Ok((finder.found, finder.parted))
}

/// A walk through a text, of which only the beginning of a line is kept.
#[derive(Default)]
struct Finder<'a> {
    separator: &'a [u8],
    /// Where the walk is.
    at: u64,
    /// The line without white space at its beginning, as far as it may be a separator.
    line: Vec<u8>,
    /// What of the line is not white space, from its first byte to its last.
    inside: Option<Range<u64>>,
    document: Option<Range<u64>>,
    found: Vec<Range<u64>>,
    parted: bool,
}

impl Finder<'_> {
    /// Takes a part of a line, perhaps with its end.
    fn add(&mut self, part: &[u8]) {
        let inside = |b: &u8| !b.is_ascii_whitespace();
        if let (Some(first), Some(last)) = (part.iter().position(inside), part.iter().rposition(inside)) {
            let (first, last) = (self.at + first as u64, self.at + last as u64 + 1);
            self.inside = Some(self.inside.take().map_or(first, |before| before.start)..last);
        }
        let begin = if self.line.is_empty() { part.trim_ascii_start() } else { part };
        // One byte more tells a longer line from a separator.
        let room = (self.separator.len() + 1).saturating_sub(self.line.len());
        self.line.extend_from_slice(&begin[..begin.len().min(room)]);
        self.at += part.len() as u64;
        if part.ends_with(b"\n") {
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        let length = self.inside.as_ref().map_or(0, |inside| inside.end - inside.start);
        if length == self.separator.len() as u64 && self.line.starts_with(self.separator) {
            self.parted = true;
            self.end_document();
        } else if let Some(line) = self.inside.take() {
            self.document = Some(self.document.take().map_or(line.start, |before| before.start)..line.end);
        }
        self.inside = None;
        self.line.clear();
    }

    fn end_document(&mut self) {
        self.found.extend(self.document.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(texts: &[&str], separator: &str) -> (Vec<String>, bool) {
        let dir = tempfile::tempdir().unwrap();
        let path = |i: usize| dir.path().join(i.to_string());
        texts.iter().enumerate().for_each(|(i, text)| std::fs::write(path(i), text).unwrap());
        let text = Text::open(&(0..texts.len()).map(path).collect::<Vec<_>>()).unwrap();
        let (found, parted) = find(&text, separator).unwrap();
        let whole = texts.concat();
        (found.into_iter().map(|r| whole[r.start as usize..r.end as usize].to_string()).collect(), parted)
    }

    #[test]
    fn documents_lie_between_lines_that_are_the_separator_and_nothing_else() {
        let (found, parted) = parts(&["\none\ntwo \n==\n\n  ==  \r\n a ==\n===\n=\n==\nlast"], "==");
        assert!(parted);
        assert_eq!(found, ["one\ntwo", "a ==\n===\n=", "last"]);
        assert_eq!(
            parts(&["no line of it", "another file\n"], "=="),
            (vec!["no line of it".into(), "another file".into()], false)
        );
        assert_eq!(parts(&["==", "x"], "=="), (vec!["x".into()], true));
    }

    #[test]
    fn a_separator_over_the_border_of_two_pieces_is_found() {
        for shift in 0..6 {
            let long = "x".repeat((1 << 20) - 4 + shift);
            let (found, _) = parts(&[&format!("{long}\n<|>\nend")], "<|>");
            assert_eq!((found.len(), found[0].len(), found[1].as_str()), (2, long.len(), "end"));
        }
    }

    /// Documents of these lengths: their ids tell where they are, and 0 is the end.
    fn tokens(lengths: &[usize]) -> Tokens {
        let mut tokens = Tokens::new(1 << 16);
        let mut next = 1;
        for n in lengths {
            (0..*n).for_each(|i| tokens.push(next + i as u32));
            next += *n as u32;
            tokens.push(0);
        }
        tokens
    }

    #[test]
    fn a_short_document_is_filled_up_and_a_long_one_has_a_window_at_each_start() {
        let tokens = tokens(&[2, 4]);
        let windows = Windows::of(&tokens, 0, 4);
        let all: Vec<_> = (0..windows.starts()).map(|i| windows.window(&tokens, i)).collect();
        assert_eq!(all, [vec![1, 2, 0, 0], vec![3, 4, 5, 6], vec![4, 5, 6, 0]]);
        assert_eq!((windows.documents(), windows.apart()), (2, 2));
        assert_eq!((told(&all[0], 0), ended(&all[0], 0)), (&[1, 2][..], &[1, 2, 0][..]));
        assert_eq!((told(&all[1], 0), ended(&all[1], 0)), (&all[1][..], &all[1][..]));
        assert_eq!((told(&[0, 1], 0), ended(&[], 0)), (&[][..], &[][..]));
    }

    proptest! {
        #[test]
        fn no_window_crosses_an_end_and_every_start_is_there_once(
            lengths in prop::collection::vec(1usize..30, 1..12), length in 1usize..20,
        ) {
            let tokens = tokens(&lengths);
            let windows = Windows::of(&tokens, 0, length);
            let all: Vec<_> = (0..windows.starts()).map(|i| windows.window(&tokens, i)).collect();
            for window in &all {
                prop_assert_eq!(window.len(), length);
                let text = told(window, 0);
                prop_assert!(text.windows(2).all(|p| p[1] == p[0] + 1) && window[text.len()..].iter().all(|id| *id == 0));
                // Of one document: none begins inside of it.
                let first = |n: usize| 1 + lengths[..n].iter().sum::<usize>() as u32;
                prop_assert!((1..lengths.len()).all(|n| text.is_empty() || text[0] >= first(n) || *text.last().unwrap() < first(n)));
            }
            let starts: usize = lengths.iter().map(|n| (n + 2).saturating_sub(length).max(1)).sum();
            prop_assert_eq!(all.len(), starts);
            let spread: Vec<_> = (0..windows.apart()).map(|i| windows.spread(&tokens, i)).collect();
            prop_assert!(spread.iter().all(|w| all.contains(w)));
        }
    }
}
