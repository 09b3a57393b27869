//! A judge with a tokenizer of its own: samples are decoded to text, and the text is encoded anew and scored.
//!
//! Tokens of two tokenizers cannot be compared, characters can: the score is nats per character of the text.

use crate::data::Data;
use crate::data::tokenizer::Tokenizer;
use crate::method;
use crate::model::{Denoise, Transformer};

/// An autoregressive model that reads text.
pub struct TextJudge<'a> {
    pub model: &'a Transformer,
    pub tokenizer: &'a Tokenizer,
    /// The token in front of every text: the judge's first token has something to be predicted from.
    pub start: u32,
    /// What the samples are tokens of.
    pub data: &'a Data,
}

impl TextJudge<'_> {
    /// NLL per character of each sample's text, nats: all of the text, or what of it the judge can read at once.
    ///
    /// A sample without text, or one that the judge's tokenizer has no tokens for, counts as ln V a character.
    pub fn nll(&self, texts: &[Vec<u32>]) -> Vec<f64> {
        texts.iter().map(|tokens| self.one(&self.data.decode(tokens))).collect()
    }

    fn one(&self, text: &str) -> f64 {
        let nothing = (self.model.vocab() as f64).ln();
        let Ok(mut ids) = self.tokenizer.encode(text.as_bytes()) else { return nothing };
        let fits = ids.len().min(self.model.length().saturating_sub(1));
        let characters =
            if fits < ids.len() { self.tokenizer.decode(&ids[..fits]).chars().count() } else { text.chars().count() };
        ids.truncate(fits);
        if ids.is_empty() || characters == 0 {
            return nothing;
        }
        ids.insert(0, self.start);
        let (_, losses) = method::evaluate(self.model, &method::ar_nll(&ids, ids.len()));
        losses[1..].iter().sum::<f64>() / characters as f64
    }

    /// Share of the texts that are longer than the judge can read at once.
    pub fn cut(&self, texts: &[Vec<u32>]) -> f64 {
        let long = |tokens: &&Vec<u32>| {
            let ids = self.tokenizer.encode(self.data.decode(tokens).as_bytes());
            ids.is_ok_and(|ids| ids.len() + 1 > self.model.length())
        };
        texts.iter().filter(long).count() as f64 / texts.len().max(1) as f64
    }
}
