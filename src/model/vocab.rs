//! The ids of a network: how many, which is the mask, and which are never predicted.
//!
//! V vocabulary.

use std::sync::Arc;

/// What is added to the logit of an id that is never predicted (SUBS, MDLM section 3.2.3).
const NEVER: f32 = -1e6;

/// The ids of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocab {
    /// V: the columns of a prediction.
    pub size: usize,
    /// The id of the mask: V where it has a row of its own, or one of the V ids, which is then never predicted.
    pub mask: usize,
    /// Ids from here on have a row in the embedding and no text.
    pub tokens: usize,
    /// Further ids that are never predicted.
    excluded: Arc<[u32]>,
}

impl Vocab {
    /// V ids that all have text, with the mask behind them.
    pub fn new(size: usize) -> Self {
        Vocab { size, mask: size, tokens: size, excluded: Arc::from([]) }
    }

    /// The same with one of the V ids as the mask; V: the mask has a row of its own, or there is none.
    ///
    /// # Panics
    /// Where `id` is above V.
    pub fn with_mask(self, id: usize) -> Self {
        assert!(id <= self.size, "a mask is one of the tokens or stands behind them");
        Vocab { mask: id, ..self }
    }

    /// The same, in which the ids from `tokens` on are rows of padding in the embedding, without text.
    pub fn with_tokens(self, tokens: usize) -> Self {
        Vocab { tokens: tokens.min(self.size), ..self }
    }

    /// The same, in which these ids are never predicted either.
    pub fn without(self, ids: &[u32]) -> Self {
        Vocab { excluded: ids.into(), ..self }
    }

    /// The ids below V that have no text: rows of padding, and those that were excluded.
    pub fn without_text(&self) -> Vec<u32> {
        let excluded = self.excluded.iter().copied().filter(|id| (*id as usize) < self.tokens);
        excluded.chain(self.tokens as u32..self.size as u32).collect()
    }

    /// What is added to the logits `[V]` so that ids without text, and the mask where `masked`, are never predicted; none where
    /// that is nothing.
    pub fn never(&self, masked: bool) -> Option<Vec<f32>> {
        let mask = (masked && self.mask < self.size).then_some(self.mask as u32);
        let ids: Vec<u32> = self.without_text().into_iter().chain(mask).collect();
        if ids.is_empty() {
            return None;
        }
        let mut values = vec![0.0; self.size];
        ids.iter().for_each(|id| values[*id as usize] = NEVER);
        Some(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_excluded_ids_and_a_mask_among_the_tokens_are_never_predicted() {
        assert_eq!(Vocab::new(4).never(true), None);
        let vocab = Vocab::new(6).with_mask(2).with_tokens(5).without(&[0, 5]);
        assert_eq!(vocab.without_text(), [0, 5]);
        assert_eq!(vocab.never(true), Some(vec![NEVER, 0.0, NEVER, 0.0, 0.0, NEVER]));
        // The start token of a causal network may be one that texts also end with.
        assert_eq!(vocab.never(false), Some(vec![NEVER, 0.0, 0.0, 0.0, 0.0, NEVER]));
        assert_eq!(Vocab::new(3).with_mask(1).never(false), None);
    }
}
