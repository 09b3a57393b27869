//! Text metrics from token ids alone: how varied one sample is, and how much samples differ from each other.
//!
//! Unigram entropy is the one published next to generative perplexity (e.g. Zheng et al. 2024, arXiv 2409.02908); it sees
//! repetition inside a sample only, so distinct bigrams over all samples stand beside it. L is the length of a sample.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;

pub use crate::sample::family::unigram_entropy;
use crate::sample::mbr::Grams;

/// Share of distinct bigrams among the bigrams of one sample `[L]`; 1 when the sample has no bigram.
pub fn distinct_2(tokens: &[u32]) -> f64 {
    self_distinct_2([tokens])
}

/// Share of positions of one sample `[L]` whose 4-gram already occurred earlier in it; 0 when L < 4.
pub fn repetition(tokens: &[u32]) -> f64 {
    let mut seen = HashSet::new();
    let repeated = tokens.windows(4).filter(|gram| !seen.insert(*gram)).count();
    repeated as f64 / tokens.len().saturating_sub(3).max(1) as f64
}

/// Samples that each one is compared with in [`self_bleu`].
const COMPARED: usize = 32;

/// How much samples resemble each other: the mean over pairs of their smoothed BLEU-4, each sample against 32 others (all, of fewer),
/// which Zhu et al. 2018 (Texygen) call self-BLEU, pair by pair.
///
/// A pair of samples is not a sample. What is given for a sample is therefore its part in the mean over pairs (Hoeffding 1948): with h the
/// mean BLEU against its references, r the mean where it is one, and m the mean over all pairs, h + r - m. Their mean is m, and their spread is that
/// of m itself, so an interval from them has its width; one of them alone may lie outside of [0, 1].
pub fn self_bleu(samples: &[&[u32]]) -> Vec<f64> {
    let n = samples.len();
    let others = COMPARED.min(n.saturating_sub(1));
    if others == 0 {
        return vec![0.0; n];
    }
    // Spread over all of them: held-out text is in the order of its source, and neighbours are alike.
    let ahead: Vec<usize> = (1..=others).map(|k| k * n / (others + 1)).collect();
    let grams: Vec<Grams> = samples.par_iter().map(|text| Grams::of(text)).collect();
    let against = |i: usize| ahead.iter().map(|a| grams[i].bleu(&grams[(i + a) % n])).collect();
    let pairs: Vec<Vec<f64>> = (0..n).into_par_iter().map(against).collect();
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / others as f64;
    let ours: Vec<f64> = pairs.iter().map(|row| mean(&mut row.iter().copied())).collect();
    let theirs = |i: usize| mean(&mut ahead.iter().enumerate().map(|(k, a)| pairs[(i + n - a) % n][k]));
    let all = ours.iter().sum::<f64>() / n as f64;
    (0..n).map(|i| ours[i] + theirs(i) - all).collect()
}

/// Distinct bigrams over all samples divided by all their bigrams: low when samples copy each other; 1 without bigrams.
pub fn self_distinct_2<'a>(samples: impl IntoIterator<Item = &'a [u32]>) -> f64 {
    let (mut seen, mut total) = (HashSet::new(), 0usize);
    for sample in samples {
        for pair in sample.windows(2) {
            seen.insert((pair[0], pair[1]));
            total += 1;
        }
    }
    if total == 0 { 1.0 } else { seen.len() as f64 / total as f64 }
}

/// 1 for each text that differs from every earlier one, and 0 for a repeated one: their mean is [`unique`].
pub fn firsts(samples: &[&[u32]]) -> Vec<f64> {
    let mut seen = HashSet::new();
    samples.iter().map(|text| f64::from(u8::from(seen.insert(*text)))).collect()
}

/// The part of each text in [`pooled_entropy`]: -ln of the pooled share of its tokens, summed, over the mean length of a text. Their mean
/// is that entropy, and their spread is its own to the first order, for the derivative of -sum p ln p by the counts is -ln p up to a constant.
pub fn pooled_parts(samples: &[&[u32]]) -> Vec<f64> {
    let mut counts: HashMap<u32, f64> = HashMap::new();
    let total = samples.iter().map(|text| text.len()).sum::<usize>() as f64;
    samples.iter().flat_map(|text| text.iter()).for_each(|token| *counts.entry(*token).or_default() += 1.0);
    let part = |text: &&[u32]| text.iter().map(|token| (total / counts[token]).ln()).sum::<f64>();
    let mean_length = (total / samples.len().max(1) as f64).max(1.0);
    samples.iter().map(|text| part(text) / mean_length).collect()
}

/// Share of texts that differ from every earlier one: falls where a model repeats itself between samples.
pub fn unique<'a>(samples: impl IntoIterator<Item = &'a [u32]>) -> f64 {
    let (mut seen, mut n) = (HashSet::new(), 0usize);
    for text in samples {
        seen.insert(text);
        n += 1;
    }
    seen.len() as f64 / n.max(1) as f64
}

/// Unigram entropy of all samples' tokens put together, nats: unlike the mean over single samples it sees a model that
/// always makes the same choices.
pub fn pooled_entropy<'a>(samples: impl IntoIterator<Item = &'a [u32]>) -> f64 {
    let all: Vec<u32> = samples.into_iter().flatten().copied().collect();
    unigram_entropy(&all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{StepRng, Stream};
    use rand::Rng;

    #[test]
    fn samples_that_copy_each_other_resemble_each_other_and_those_without_a_common_word_do_not() {
        let (a, b): (&[u32], &[u32]) = (&[1, 2, 3, 4, 5, 6], &[7, 8, 9, 10, 11, 12]);
        assert_eq!(self_bleu(&[a, a, a]), [1.0; 3]);
        // No n-gram in common: the smoothed share of each order is one in its number plus one.
        let none = (7.0f64 * 6.0 * 5.0 * 4.0).powf(-0.25);
        assert!(self_bleu(&[a, b]).iter().all(|x| (x - none).abs() < 1e-12));
        // The mean over ordered pairs: of three samples, two of which are equal, one pair in three.
        let mean = self_bleu(&[a, a, b]).iter().sum::<f64>() / 3.0;
        assert!((mean - (1.0 + 2.0 * none) / 3.0).abs() < 1e-12, "{mean}");
        assert_eq!(self_bleu(&[a]), [0.0]);
        assert!(self_bleu(&[]).is_empty());
    }

    #[test]
    fn the_interval_of_self_bleu_is_as_wide_as_its_mean_varies() {
        let draw = |seed: u64| -> Vec<Vec<u32>> {
            let mut rng = StepRng::new(seed).at(0, Stream::Token);
            // Some texts have few different words, so they resemble one another.
            let text = |rng: &mut rand_chacha::ChaCha8Rng| {
                let words = [3, 8, 30][rng.random_range(0..3)];
                (0..12).map(|_| rng.random_range(0..words)).collect()
            };
            (0..60).map(|_| text(&mut rng)).collect()
        };
        let of = |seed: u64| {
            let texts = draw(seed);
            self_bleu(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>())
        };
        let spread = |values: &[f64]| {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64
        };
        let draws: Vec<Vec<f64>> = (0..300).map(of).collect();
        let means: Vec<f64> = draws.iter().map(|v| v.iter().sum::<f64>() / v.len() as f64).collect();
        let said = draws.iter().map(|v| spread(v) / v.len() as f64).sum::<f64>() / draws.len() as f64;
        let ratio = said / spread(&means);
        assert!((0.75..1.5).contains(&ratio), "{ratio}");
    }

    #[test]
    fn the_parts_of_single_texts_have_the_value_of_the_set_as_their_mean() {
        let texts: [&[u32]; 4] = [&[1, 2, 3], &[1, 1], &[1, 2, 3], &[4, 4, 4, 5]];
        assert_eq!(firsts(&texts), [1.0, 1.0, 0.0, 1.0]);
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        assert!((mean(firsts(&texts)) - unique(texts)).abs() < 1e-12);
        assert!((mean(pooled_parts(&texts)) - pooled_entropy(texts)).abs() < 1e-12);
        assert!(firsts(&[]).is_empty() && pooled_parts(&[]).is_empty() && pooled_parts(&[&[]]) == [0.0]);
    }

    #[test]
    fn golden_values_by_hand() {
        // Counts 2, 1, 1 of 4: H = 0.5 ln 2 + 2 * 0.25 ln 4 = 1.5 ln 2.
        assert!((unigram_entropy(&[7, 7, 1, 2]) - 1.5 * 2f64.ln()).abs() < 1e-15);
        // Bigrams ab, ba, ab, ba, ab: 2 distinct of 5.
        assert_eq!(distinct_2(&[1, 2, 1, 2, 1, 2]), 0.4);
        // 4-grams 1212, 2121, 1212: the third occurred before.
        assert_eq!(repetition(&[1, 2, 1, 2, 1, 2]), 1.0 / 3.0);
        // Bigrams 12, 23 and 12, 24: 3 distinct of 4; no bigram spans two samples.
        assert_eq!(self_distinct_2([&[1, 2, 3][..], &[1, 2, 4][..]]), 0.75);
    }

    #[test]
    fn constant_text_has_no_entropy_and_all_different_text_no_repetition() {
        assert_eq!(unigram_entropy(&[3; 50]), 0.0);
        assert_eq!(repetition(&[3; 50]), 46.0 / 47.0);
        let all: Vec<u32> = (0..64).collect();
        assert!((unigram_entropy(&all) - 64f64.ln()).abs() < 1e-12);
        assert_eq!((distinct_2(&all), repetition(&all)), (1.0, 0.0));
    }

    #[test]
    fn empty_and_very_short_samples_have_values() {
        for tokens in [&[][..], &[1][..], &[1, 1][..], &[1, 1, 1][..]] {
            assert_eq!((unigram_entropy(tokens), repetition(tokens)), (0.0, 0.0));
        }
        assert_eq!((distinct_2(&[]), distinct_2(&[1]), distinct_2(&[1, 1, 1])), (1.0, 1.0, 0.5));
        assert_eq!(self_distinct_2([]), 1.0);
    }

    #[test]
    fn renaming_tokens_changes_nothing_and_values_stay_in_range() {
        let mut rng = StepRng::new(1).at(0, Stream::Validation);
        for _ in 0..300 {
            let len = rng.random_range(1..80);
            let text: Vec<u32> = (0..len).map(|_| rng.random_range(0..9)).collect();
            let renamed: Vec<u32> = text.iter().map(|t| 1000 - 7 * t).collect();
            for metric in [unigram_entropy, distinct_2, repetition] {
                assert_eq!(metric(&text), metric(&renamed));
            }
            let entropy = unigram_entropy(&text);
            assert!(entropy >= 0.0 && entropy <= (len as f64).ln().min(9f64.ln()) + 1e-12);
            assert!((0.0..=1.0).contains(&repetition(&text)) && (0.0..=1.0).contains(&distinct_2(&text)));
        }
    }

    #[test]
    fn a_copied_sample_halves_the_distinct_bigrams_between_samples() {
        let text: Vec<u32> = (0..20).collect();
        assert_eq!(self_distinct_2([&text[..]]), 1.0);
        assert_eq!(self_distinct_2([&text[..], &text[..]]), 0.5);
    }

    #[test]
    fn a_model_that_repeats_one_good_text_is_seen_between_samples_and_not_within_them() {
        let (a, b): (&[u32], &[u32]) = (&[1, 2, 3], &[4, 5, 6]);
        assert_eq!(unigram_entropy(a), unigram_entropy(b));
        assert!((unique([a, b, a, a]) - 0.5).abs() < 1e-12 && unique([a, b]) == 1.0);
        assert!(
            (pooled_entropy([a, a]) - 3f64.ln()).abs() < 1e-12 && (pooled_entropy([a, b]) - 6f64.ln()).abs() < 1e-12
        );
    }
}
