//! Encoding a text that comes in pieces: the ids are those of the whole, and memory does not depend on its length.

use std::collections::HashMap;

use super::hf::Out;
use super::{Tokenizer, hf};
use crate::data::text::Misfit;
use crate::error::{Error, Result};

/// A text on its way to ids.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    words: HashMap<&'a str, u32>,
    /// What was given and is not encoded yet, since what follows may belong to it.
    rest: String,
    /// Where in the text `rest` begins.
    at: u64,
}

impl<'a> Encoder<'a> {
    /// For a text whose first piece begins at its byte `at`.
    pub fn new(tokenizer: &'a Tokenizer, at: u64) -> Self {
        Encoder { tokenizer, words: index(tokenizer), rest: String::new(), at }
    }

    /// Takes the next piece; `misfit` makes an error of what has no token.
    ///
    /// # Errors
    /// What has no token, as `misfit` makes it; text that the library cannot encode (input).
    pub fn add(&mut self, text: &str, out: Out, misfit: &dyn Fn(Misfit) -> Error) -> Result<()> {
        match self.tokenizer {
            Tokenizer::Bytes => text.bytes().for_each(|b| out(b.into())),
            Tokenizer::Char { chars } => chars_of(chars, text, self.at, out).map_err(misfit)?,
            // The last word may go on.
            Tokenizer::Words(_) => return self.whole(text, out, misfit, |rest| rest.rfind(char::is_whitespace)),
            Tokenizer::Hf(tokenizer) => {
                self.rest.push_str(text);
                let taken = hf::encode_front(tokenizer, &self.rest, false, out)?;
                self.take(taken);
                return Ok(());
            }
        }
        self.at += text.len() as u64;
        Ok(())
    }

    /// The ids of what is left, at the end of the text.
    ///
    /// # Errors
    /// What has no token, as `misfit` makes it; text that the library cannot encode (input).
    pub fn end(&mut self, out: Out, misfit: &dyn Fn(Misfit) -> Error) -> Result<()> {
        match self.tokenizer {
            Tokenizer::Hf(tokenizer) => {
                let all = hf::encode_front(tokenizer, &self.rest, true, out)?;
                self.take(all);
                Ok(())
            }
            _ => self.whole("", out, misfit, |rest| Some(rest.len())),
        }
    }

    /// Begins another text, at its byte `at`; the one before has ended.
    pub fn begin(&mut self, at: u64) {
        self.at = at;
    }

    /// Whether what it encodes need not be text.
    pub fn takes_any_bytes(&self) -> bool {
        matches!(self.tokenizer, Tokenizer::Bytes)
    }

    /// Encodes the words of `rest` and `text` up to where `cut` says.
    fn whole(
        &mut self,
        text: &str,
        out: Out,
        misfit: &dyn Fn(Misfit) -> Error,
        cut: impl Fn(&str) -> Option<usize>,
    ) -> Result<()> {
        self.rest.push_str(text);
        if let Some(end) = cut(&self.rest) {
            words_of(&self.words, &self.rest[..end], self.at, out).map_err(misfit)?;
            self.take(end);
        }
        Ok(())
    }

    fn take(&mut self, bytes: usize) {
        self.rest.drain(..bytes);
        self.at += bytes as u64;
    }
}

/// The id of each word, of a tokenizer of words.
pub fn index(tokenizer: &Tokenizer) -> HashMap<&str, u32> {
    match tokenizer {
        Tokenizer::Words(words) => words.iter().zip(0..).map(|(w, i)| (w.as_str(), i)).collect(),
        _ => HashMap::new(),
    }
}

/// The places of the characters of `text` in `chars`, which are in ascending order.
pub fn chars_of(chars: &[char], text: &str, at: u64, out: Out) -> std::result::Result<(), Misfit> {
    // Nearly all characters of most texts are among the first.
    let mut low = [u32::MAX; 256];
    for (c, id) in chars.iter().zip(0..) {
        let Some(place) = low.get_mut(*c as usize) else { break };
        *place = id;
    }
    for (i, c) in text.char_indices() {
        let id = match low.get(c as usize) {
            Some(id) => Some(*id).filter(|id| *id != u32::MAX),
            None => chars.binary_search(&c).ok().map(|id| id as u32),
        };
        let Some(id) = id else {
            let hint = "the vocabulary has the characters of the training text; tokenizer = \"bytes\" knows all";
            let unknown = Misfit::unknown(format!("character {c:?}"), at + i as u64);
            return Err(Misfit { hint, ..unknown });
        };
        out(id);
    }
    Ok(())
}

/// The ids of the words of `text`.
pub fn words_of(ids: &HashMap<&str, u32>, text: &str, at: u64, out: Out) -> std::result::Result<(), Misfit> {
    for word in text.split_whitespace() {
        match ids.get(word) {
            Some(id) => out(*id),
            None => {
                let place = word.as_ptr() as usize - text.as_ptr() as usize;
                return Err(Misfit::unknown(format!("word `{word}`"), at + place as u64));
            }
        }
    }
    Ok(())
}
