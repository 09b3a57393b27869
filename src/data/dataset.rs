//! What a program can train on: the data of recipes, sequences that it has already, or a source of its own.
//!
//! B batch, L length, V vocabulary.

use super::{Data, Tokenizer, picture};
use crate::error::{Error, Result};
use crate::fs;
use crate::rng::{StepRng, Stream};
use rand::Rng;

/// A source of sequences of one length. The mask is not in its vocabulary.
pub trait Dataset {
    /// Vocabulary size V.
    fn vocab(&self) -> usize;
    /// Tokens per sequence L.
    fn length(&self) -> usize;
    /// Tokens [B L] of training part `part`: a pure function of its arguments, so that a training can be repeated.
    fn batch(&self, seed: u64, part: u64, batch: usize) -> Vec<u32>;
    /// Up to `n` sequences `[L]` that no batch has.
    fn held_out(&self, n: usize) -> Vec<Vec<u32>>;

    /// The text of token ids: if it is not given, the ids themselves.
    fn decode(&self, tokens: &[u32]) -> String {
        tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
    }

    /// The tokenizer to ship with a model: if it is not given, one whose words are the ids.
    fn tokenizer(&self) -> Tokenizer {
        Tokenizer::Words((0..self.vocab()).map(|id| id.to_string()).collect())
    }

    /// Of documents, the token that ends one: what stands behind it is not text.
    fn end(&self) -> Option<u32> {
        None
    }

    /// Where text and picture lie in a sequence, if it is both.
    fn picture(&self) -> Option<picture::Shape> {
        None
    }

    /// The negative log-likelihood of a sequence in nats per token, where the language is known; samples are scored by it, so it is a
    /// finite number for every sequence: a language in which some are impossible is smoothed.
    fn nll(&self, _tokens: &[u32]) -> Option<f64> {
        None
    }

    /// Identifies the data: if it is not given, the SHA-256 of 256 held-out sequences.
    fn sha256(&self) -> String {
        let bytes: Vec<u8> = self.held_out(256).iter().flatten().flat_map(|t| t.to_le_bytes()).collect();
        fs::sha256_hex(&bytes)
    }
}

impl Dataset for Data {
    fn vocab(&self) -> usize {
        Data::vocab(self)
    }

    fn length(&self) -> usize {
        Data::length(self)
    }

    fn batch(&self, seed: u64, part: u64, batch: usize) -> Vec<u32> {
        Data::batch(self, seed, part, batch)
    }

    fn held_out(&self, n: usize) -> Vec<Vec<u32>> {
        Data::held_out(self, n)
    }

    fn decode(&self, tokens: &[u32]) -> String {
        Data::decode(self, tokens)
    }

    fn tokenizer(&self) -> Tokenizer {
        Data::tokenizer(self)
    }

    fn end(&self) -> Option<u32> {
        Data::end(self)
    }

    fn picture(&self) -> Option<picture::Shape> {
        Data::picture(self)
    }

    fn nll(&self, tokens: &[u32]) -> Option<f64> {
        match self {
            Data::Story(story) => Some(-story.chain().log_likelihood(tokens) / tokens.len() as f64),
            Data::Pictures(pictures) => Some(-pictures.log_likelihood(tokens) / tokens.len() as f64),
            Data::Pairs(_) | Data::Text { .. } => None,
        }
    }

    fn sha256(&self) -> String {
        Data::sha256(self)
    }
}

/// Sequences of token ids that a program has already.
#[derive(Debug, Clone)]
pub struct Sequences {
    vocab: usize,
    train: Vec<Vec<u32>>,
    valid: Vec<Vec<u32>>,
}

impl Sequences {
    /// Sequences of one length, of ids below `vocab`, to train on and to hold out.
    ///
    /// # Errors
    /// None of either, one of another length, or an id that is not below `vocab` (usage).
    pub fn new(vocab: usize, train: Vec<Vec<u32>>, valid: Vec<Vec<u32>>) -> Result<Self> {
        let (Some(first), false) = (train.first(), valid.is_empty()) else {
            return Err(Error::usage("data without sequences to train on, or without any to hold out"));
        };
        let length = first.len();
        let wrong = |s: &&Vec<u32>| s.is_empty() || s.len() != length || s.iter().any(|id| *id as usize >= vocab);
        match train.iter().chain(&valid).find(wrong) {
            Some(sequence) => Err(Error::usage(format!(
                "a sequence of {} tokens among those of {length}, or one with an id that is not below {vocab}",
                sequence.len()
            ))),
            None => Ok(Sequences { vocab, train, valid }),
        }
    }
}

impl Dataset for Sequences {
    fn vocab(&self) -> usize {
        self.vocab
    }

    fn length(&self) -> usize {
        self.train[0].len()
    }

    fn batch(&self, seed: u64, part: u64, batch: usize) -> Vec<u32> {
        let mut rng = StepRng::new(seed).at(part, Stream::Batch);
        (0..batch).flat_map(|_| self.train[rng.random_range(0..self.train.len())].clone()).collect()
    }

    fn held_out(&self, n: usize) -> Vec<Vec<u32>> {
        let (there, n) = (self.valid.len(), n.min(self.valid.len()));
        (0..n).map(|i| self.valid[i * there / n].clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_of_another_length_or_vocabulary_are_refused() {
        let good = vec![vec![0, 1], vec![1, 2]];
        let data = Sequences::new(3, good.clone(), good.clone()).unwrap();
        assert_eq!((data.vocab(), data.length(), data.held_out(9).len()), (3, 2, 2));
        assert_eq!(data.batch(1, 2, 3), data.batch(1, 2, 3));
        assert_eq!((data.decode(&[0, 2]), data.tokenizer().vocab_size()), ("0 2".to_string(), 3));
        for (train, valid) in [(vec![], good.clone()), (good.clone(), vec![]), (vec![vec![0]], good.clone())] {
            assert!(Sequences::new(3, train, valid).is_err());
        }
        assert!(Sequences::new(2, good.clone(), good).is_err());
    }
}
