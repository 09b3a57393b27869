//! When a text has begun to repeat itself: BD3-LM (Arriola et al. 2025), writing texts of any length, ends one whose
//! last 256 tokens have a unigram entropy below 4 nats, and cuts those tokens off.

use std::collections::HashMap;

/// The published limits.
pub const STOP_ENTROPY: f64 = 4.0;
pub const STOP_WINDOW: usize = 256;

/// Ends a text when the unigram entropy of its last `window` tokens, of more than that, is below `nats`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EntropyStop {
    pub nats: f64,
    pub window: usize,
}

impl EntropyStop {
    /// How many of the tokens `[n]` written so far are kept if the text ends here; none where it goes on.
    pub fn kept(&self, text: &[u32]) -> Option<usize> {
        let kept = text.len().checked_sub(self.window).filter(|n| *n > 0)?;
        (unigram_entropy(&text[kept..]) < self.nats).then_some(kept)
    }
}

/// Entropy in nats of the empirical token distribution of one sample `[L]`; 0 for constant or empty text, at most ln L.
pub fn unigram_entropy(tokens: &[u32]) -> f64 {
    let mut counts: HashMap<u32, usize> = HashMap::new();
    for &token in tokens {
        *counts.entry(token).or_default() += 1;
    }
    // Sorted counts make the order of summation, and so the last bit, independent of the hash map.
    let mut counts: Vec<usize> = counts.into_values().collect();
    counts.sort_unstable();
    let n = tokens.len() as f64;
    let plogp = |&c: &usize| (c as f64 / n) * (c as f64 / n).ln();
    (-counts.iter().map(plogp).sum::<f64>()).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_ends_when_its_last_window_is_poor_and_keeps_what_is_before_it() {
        let stop = EntropyStop { nats: 1.5 * 2f64.ln() + 1e-9, window: 4 };
        // Counts 2, 1, 1 of 4: H = 1.5 ln 2, just below the limit; with four different tokens it is 2 ln 2.
        assert_eq!(stop.kept(&[5, 6, 7, 8, 7, 7, 1, 2]), Some(4));
        assert_eq!(stop.kept(&[7, 7, 7, 7, 1, 2, 3, 4]), None);
        assert_eq!(EntropyStop { nats: 1.5 * 2f64.ln() - 1e-9, ..stop }.kept(&[5, 6, 7, 8, 7, 7, 1, 2]), None);
    }

    #[test]
    fn a_text_that_is_no_longer_than_the_window_goes_on() {
        let stop = EntropyStop { nats: STOP_ENTROPY, window: STOP_WINDOW };
        assert_eq!(stop.kept(&[1; STOP_WINDOW]), None);
        assert_eq!(stop.kept(&[1; STOP_WINDOW + 1]), Some(1));
        assert_eq!(stop.kept(&[]), None);
    }
}
