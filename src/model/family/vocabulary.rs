//! How the vocabulary of a checkpoint lies to that of the data, where they differ: explicit policies, refusal by default.
//!
//! Where tokens are shared, the study's models keep the data's ids: their embedding and head hold the checkpoint's rows of
//! the data's tokens and, last, of the mask. What the checkpoint has beside them (padding, other tokens) is neither read
//! nor predicted in the study, and stands in the export as in the source.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::model::params::Named;
use crate::weights::HostTensor;

/// What to do where a checkpoint has another tokenizer than the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Vocabulary {
    /// It is an error. Rows of padding behind equal tokenizers do not count as a difference.
    #[default]
    Refuse,
    /// The tokenizers must agree on every id that both have: what is behind the shared ids is cut off.
    TruncatePadding,
    /// Tokens are matched by the text they stand for, whatever their ids.
    SharedTokens,
    /// Samples are decoded and encoded anew; only for the judge, which then scores characters.
    Retokenize,
}

impl Vocabulary {
    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Vocabulary::Refuse => "refuse",
            Vocabulary::TruncatePadding => "truncate_padding",
            Vocabulary::SharedTokens => "shared_tokens",
            Vocabulary::Retokenize => "retokenize",
        }
    }

    /// Whether it is the default.
    pub fn is_refuse(&self) -> bool {
        *self == Vocabulary::Refuse
    }
}

/// Which row of a checkpoint's vocabulary each token of the data has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// By the data's id; none: the checkpoint has no such token.
    pub of: Vec<Option<u32>>,
    /// The checkpoint's mask, whose id in the study is one behind the data's tokens.
    pub mask: u32,
}

/// The parameters that have a row (or number) for each token.
const BY_TOKEN: [&str; 4] = ["embed", "head.weight", "head.bias", "head_bias"];

impl Rows {
    /// The rows of a checkpoint with a vocabulary of `vocab`, this mask and tokenizer `theirs` (none: ids are all that is
    /// known) for data of the tokenizer `ours`.
    ///
    /// # Errors
    /// A tokenizer and a checkpoint that the policy does not let go together (input).
    pub fn find(
        policy: Vocabulary,
        theirs: Option<&Tokenizer>,
        ours: &Tokenizer,
        vocab: usize,
        mask: u32,
    ) -> Result<Rows> {
        let n = ours.vocab_size();
        let mut of: Vec<Option<u32>> = match (policy, theirs) {
            (Vocabulary::TruncatePadding, None) if n <= vocab && mask as usize >= n => {
                (0..n as u32).map(Some).collect()
            }
            (Vocabulary::TruncatePadding, Some(theirs)) => {
                let (a, b) = (theirs.pieces()?, ours.pieces()?);
                if let Some(id) = (0..a.len().min(b.len())).find(|id| a[*id] != b[*id]) {
                    let shown = |p: &Option<Vec<u8>>| p.as_ref().map_or("none".into(), |p| show(p));
                    return Err(Error::input("the two tokenizers differ by more than padding")
                        .cause(format!(
                            "id {id} is {} in the checkpoint and {} in the data",
                            shown(&a[id]),
                            shown(&b[id])
                        ))
                        .hint("`vocabulary = \"shared_tokens\"` matches tokens by their text"));
                }
                (0..n).map(|id| (id < a.len().min(vocab)).then_some(id as u32)).collect()
            }
            (Vocabulary::SharedTokens, Some(theirs)) => {
                let mut ids: HashMap<Vec<u8>, u32> = HashMap::new();
                for (id, piece) in (0u32..).zip(theirs.pieces()?).take(vocab) {
                    if let Some(piece) = piece {
                        ids.entry(piece).or_insert(id);
                    }
                }
                ours.pieces()?.into_iter().map(|piece| ids.get(&piece?).copied()).collect()
            }
            _ => {
                return Err(Error::input(format!("`vocabulary = \"{}\"` finds no common tokens", policy.name()))
                    .cause(format!(
                        "the checkpoint has {vocab} ids, mask {mask} and no tokenizer; the data has {n} tokens"
                    ))
                    .hint("put the checkpoint's tokenizer.json beside it"));
            }
        };
        of.iter_mut().filter(|row| **row == Some(mask)).for_each(|row| *row = None);
        if of.iter().all(Option::is_none) {
            return Err(Error::input("the two tokenizers share no token"));
        }
        Ok(Rows { of, mask })
    }

    /// The study's vocabulary: the data's tokens and the mask.
    pub fn vocab(&self) -> usize {
        self.of.len() + 1
    }

    /// The data's ids that the checkpoint has no row for: they are never predicted.
    pub fn missing(&self) -> Vec<u32> {
        (0u32..).zip(&self.of).filter(|(_, row)| row.is_none()).map(|(id, _)| id).collect()
    }

    /// Refuses data in which tokens occur (`counts` by id) that the checkpoint lacks, with their share.
    ///
    /// # Errors
    /// Such data (input).
    pub fn check(&self, counts: &[u64], decode: impl Fn(u32) -> String) -> Result<()> {
        let lacking: Vec<u32> = self.missing().into_iter().filter(|id| counts[*id as usize] > 0).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let occur: u64 = lacking.iter().map(|id| counts[*id as usize]).sum();
        let share = 100.0 * occur as f64 / counts.iter().sum::<u64>().max(1) as f64;
        let examples: Vec<String> = lacking.iter().take(8).map(|id| format!("{:?}", decode(*id))).collect();
        let (n, all) = (lacking.len(), counts.iter().filter(|c| **c > 0).count());
        Err(Error::input(format!("{n} of the {all} tokens that occur in the data are not tokens of the checkpoint"))
            .cause(format!("they are {share:.3} % of the text: {}", examples.join(", ")))
            .hint("take the checkpoint's own tokenizer for the data, or leave these texts out"))
    }

    /// What the study shares with the checkpoint, in words.
    pub fn summary(&self, vocab: usize) -> String {
        let shared = self.of.len() - self.missing().len();
        let rest = vocab.saturating_sub(shared + 1);
        format!(
            "{shared} of the data's {} tokens are shared; {rest} of the checkpoint's {vocab} ids stay unused",
            self.of.len()
        )
    }

    /// The checkpoint's parameters as the study has them.
    pub fn take(&self, mut whole: Named) -> Named {
        for name in BY_TOKEN {
            if let Some(tensor) = whole.get_mut(name) {
                let width = tensor.data.len() / tensor.shape[0].max(1);
                let mut shape = tensor.shape.clone();
                shape[0] = self.vocab();
                let mut data = vec![0.0; self.vocab() * width];
                for (to, from) in self.pairs() {
                    data[to * width..][..width].copy_from_slice(&tensor.data[from * width..][..width]);
                }
                *tensor = HostTensor { shape, data };
            }
        }
        whole
    }

    /// The study's parameters `own` in the checkpoint's places; rows that the study does not have stay as they are in `whole`.
    pub fn put(&self, own: Named, whole: &Named) -> Named {
        let widen = |(name, tensor): (String, HostTensor)| match BY_TOKEN.contains(&name.as_str()) {
            false => (name, tensor),
            true => {
                let mut wide = whole[&name].clone();
                let width = wide.data.len() / wide.shape[0].max(1);
                for (from, to) in self.pairs() {
                    wide.data[to * width..][..width].copy_from_slice(&tensor.data[from * width..][..width]);
                }
                (name, wide)
            }
        };
        own.into_iter().map(widen).collect()
    }

    /// The study's rows with those of the checkpoint.
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let tokens = self.of.iter().enumerate().filter_map(|(id, row)| Some((id, (*row)? as usize)));
        tokens.chain([(self.of.len(), self.mask as usize)])
    }
}

fn show(piece: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(piece))
}

#[cfg(test)]
#[path = "vocabulary_tests.rs"]
mod tests;
