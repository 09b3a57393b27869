//! Token ids of a corpus in memory, each in as many bits as the vocabulary's largest id needs.
//!
//! A text of bytes or characters so takes about its own length, and one of a subword vocabulary about half of it. The ids are
//! kept in blocks, since one long list would take up to three times its length while it grows.

use std::ops::Range;

/// Ids in a block: a multiple of 64, so that no id lies across two blocks.
const BLOCK: usize = 1 << 18;

/// Ids below the size of a vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tokens {
    bits: usize,
    len: usize,
    largest: u32,
    blocks: Vec<Vec<u64>>,
}

impl Tokens {
    /// None yet, of a vocabulary of so many.
    pub fn new(vocab: usize) -> Tokens {
        let largest = vocab.saturating_sub(1).min(u32::MAX as usize) as u32;
        Tokens { bits: (32 - largest.leading_zeros()).max(1) as usize, len: 0, largest: 0, blocks: Vec::new() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The largest of them.
    pub fn largest(&self) -> Option<u32> {
        (self.len > 0).then_some(self.largest)
    }

    /// Adds one behind the last.
    ///
    /// # Panics
    /// Where `id` has more bits than are kept of each.
    pub fn push(&mut self, id: u32) {
        assert!(u64::from(id) >> self.bits == 0, "the id {id} has more than {} bits", self.bits);
        let (bit, word, shift) = self.place(self.len);
        if bit == 0 {
            self.blocks.push(Vec::with_capacity(BLOCK * self.bits / 64));
        }
        let Some(block) = self.blocks.last_mut() else { panic!("a block was just added") };
        if shift == 0 {
            block.push(0);
        }
        block[word] |= u64::from(id) << shift;
        if shift + self.bits > 64 {
            block.push(u64::from(id) >> (64 - shift));
        }
        self.len += 1;
        self.largest = self.largest.max(id);
    }

    /// The id at `i`.
    ///
    /// # Panics
    /// Where `i` is not below the number of ids.
    pub fn get(&self, i: usize) -> u32 {
        assert!(i < self.len, "token {i} of {}", self.len);
        let (_, word, shift) = self.place(i);
        let block = &self.blocks[i / BLOCK];
        let low = block[word] >> shift;
        let all = if shift + self.bits > 64 { low | block[word + 1] << (64 - shift) } else { low };
        (all & ((1 << self.bits) - 1)) as u32
    }

    /// Those of `range`.
    pub fn range(&self, range: Range<usize>) -> impl Iterator<Item = u32> + '_ {
        range.map(|i| self.get(i))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.range(0..self.len)
    }

    /// Where the id `i` is in its block: its first bit, the word of that, and the bit in the word.
    fn place(&self, i: usize) -> (usize, usize, usize) {
        let bit = i % BLOCK * self.bits;
        (bit, bit / 64, bit % 64)
    }
}

impl Extend<u32> for Tokens {
    fn extend<T: IntoIterator<Item = u32>>(&mut self, ids: T) {
        ids.into_iter().for_each(|id| self.push(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_every_width_come_back_across_words_and_blocks() {
        for vocab in [1, 2, 3, 28, 256, 257, 50_257, 1 << 16, (1 << 16) + 1, 1 << 24, u32::MAX as usize] {
            let n = if vocab == 28 { 2 * BLOCK + 77 } else { 1000 };
            let id = |i: usize| (i.wrapping_mul(2_654_435_761) % vocab) as u32;
            let mut tokens = Tokens::new(vocab);
            tokens.extend((0..n).map(id));
            tokens.push(vocab as u32 - 1);
            assert_eq!(
                (tokens.len(), tokens.get(n), tokens.largest()),
                (n + 1, vocab as u32 - 1, Some(vocab as u32 - 1))
            );
            assert!(tokens.range(0..n).eq((0..n).map(id)), "{vocab}");
        }
    }

    #[test]
    fn a_text_of_bytes_takes_its_own_length_and_one_of_subwords_two_bytes_a_token() {
        let taken = |vocab: usize| {
            let mut tokens = Tokens::new(vocab);
            tokens.extend((0..4 * BLOCK).map(|i| (i % vocab) as u32));
            tokens.blocks.iter().map(|b| 8 * b.capacity()).sum::<usize>()
        };
        assert_eq!((taken(256), taken(50_257)), (4 * BLOCK, 8 * BLOCK));
    }

    #[test]
    #[should_panic(expected = "more than 8 bits")]
    fn an_id_beyond_the_vocabulary_is_a_mistake_of_ours() {
        Tokens::new(256).push(256);
    }
}
