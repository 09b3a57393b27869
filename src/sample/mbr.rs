//! Minimum Bayes risk: of several texts drawn for one, the one that the others resemble most, as AR-Diffusion (Wu et
//! al. 2023, arXiv 2305.09515) and Diffusion-LM (Li et al. 2022) choose what they report.
//!
//! ```text
//! choice = argmax_y mean_{y' != y} BLEU(y'; reference y)
//! BLEU   = min(1, e^(1 - |y|/|y'|)) prod_{n=1..4} ((hits_n + 1) / (max(|y'| - n + 1, 0) + 1))^(1/4)
//! ```
//!
//! The smoothing adds one to the hits and to the n-grams of every order (after Lin and Och 2004, who leave the unigrams
//! as they are), as the published selection does; there texts of fewer than three tokens score above 1, which the max
//! forbids here. It chooses among what was drawn: N candidates cost N times the passes, and that is what is counted.
//! N candidates, L length.

use std::collections::HashMap;

use rayon::prelude::*;

use super::Samples;

/// The longest n-grams that are compared.
const ORDER: usize = 4;

/// How often each n-gram of a text occurs, by n.
pub struct Grams<'a> {
    length: usize,
    counts: Vec<HashMap<&'a [u32], usize>>,
}

impl<'a> Grams<'a> {
    /// Those of a text.
    pub fn of(text: &'a [u32]) -> Self {
        let count = |n: usize| {
            let mut counts = HashMap::new();
            text.windows(n).for_each(|gram| *counts.entry(gram).or_default() += 1);
            counts
        };
        Grams { length: text.len(), counts: (1..=ORDER).map(count).collect() }
    }

    /// Sentence BLEU-4 of this text against one reference, smoothed by adding one: in [0, 1], and 1 for equal texts.
    pub fn bleu(&self, reference: &Grams) -> f64 {
        if self.length == 0 {
            return f64::from(u8::from(reference.length == 0));
        }
        let precision = |n: usize| {
            let (ours, theirs) = (&self.counts[n - 1], &reference.counts[n - 1]);
            let hits: usize = ours.iter().map(|(gram, c)| theirs.get(gram).map_or(0, |r| *c.min(r))).sum();
            (hits + 1) as f64 / ((self.length + 1).saturating_sub(n) + 1) as f64
        };
        let brevity = (1.0 - reference.length as f64 / self.length as f64).min(0.0);
        (brevity + (1..=ORDER).map(|n| precision(n).ln()).sum::<f64>() / ORDER as f64).exp()
    }
}

/// The number of the candidate that the others resemble most, the first of equals; 0 where there is no choice.
pub fn select<T: AsRef<[u32]>>(candidates: &[T]) -> usize {
    let grams: Vec<Grams> = candidates.iter().map(|c| Grams::of(c.as_ref())).collect();
    let likeness = |i: usize| -> f64 {
        // The others' order must not decide between equals: equal terms are added in one order.
        let mut terms: Vec<f64> = (0..grams.len()).filter(|j| *j != i).map(|j| grams[j].bleu(&grams[i])).collect();
        terms.sort_by(f64::total_cmp);
        terms.iter().sum()
    };
    let scores: Vec<f64> = (0..grams.len()).into_par_iter().map(likeness).collect();
    (1..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
}

/// Of each `n` consecutive samples the one that the others resemble most, by the part of it that `text` gives; its
/// passes and positions are those of all `n`.
///
/// # Panics
/// Where `n` is 0, or the samples are not whole groups of `n`.
pub fn choose(drawn: Samples, n: usize, text: &dyn Fn(&[u32]) -> Vec<u32>) -> Samples {
    assert!(n > 0 && drawn.tokens.len().is_multiple_of(n), "{} samples in groups of {n}", drawn.tokens.len());
    let mut out = Samples { seconds: drawn.seconds, ..Samples::default() };
    for from in (0..drawn.tokens.len()).step_by(n) {
        let texts: Vec<Vec<u32>> = drawn.tokens[from..from + n].iter().map(|t| text(t)).collect();
        let best = from + select(&texts);
        out.tokens.push(drawn.tokens[best].clone());
        out.trace.extend(drawn.trace.get(best).cloned());
        out.nfe.push(drawn.nfe[from..from + n].iter().sum());
        out.positions.push(drawn.positions[from..from + n].iter().sum());
        out.layer_positions.push(drawn.layer_positions[from..from + n].iter().sum());
        out.decode_positions.extend(drawn.decode_positions.get(from..from + n).map(|p| p.iter().sum::<u64>()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bleu(hypothesis: &[u32], reference: &[u32]) -> f64 {
        Grams::of(hypothesis).bleu(&Grams::of(reference))
    }
    use proptest::prelude::*;

    #[test]
    fn bleu_of_short_texts_is_what_a_hand_computes() {
        // 1 2 3 4 5 against 1 2 3 9 5: hits 4 of 5, 2 of 4, 1 of 3, 0 of 2, each plus one.
        let want = (5.0 / 6.0 * (3.0 / 5.0) * (2.0 / 4.0) * (1.0 / 3.0f64)).powf(0.25);
        assert!((bleu(&[1, 2, 3, 4, 5], &[1, 2, 3, 9, 5]) - want).abs() < 1e-12);
        // Repeats count as often as the reference has them: 1 1 1 against 1 2: one hit of 3, none of 2, none of 1, of
        // none.
        let want = (2.0 / 4.0 * (1.0 / 3.0) * (1.0 / 2.0f64)).powf(0.25);
        assert!((bleu(&[1, 1, 1], &[1, 2]) - want).abs() < 1e-12);
        // A text half as long as its reference pays e^(1 - 2); all its n-grams hit.
        assert!((bleu(&[1, 2], &[1, 2, 3, 4]) - (-1f64).exp()).abs() < 1e-12);
        assert_eq!((bleu(&[], &[]), bleu(&[], &[1]), bleu(&[7, 8], &[7, 8])), (1.0, 0.0, 1.0));
    }

    #[test]
    fn the_candidate_in_the_middle_is_chosen_and_of_equals_the_first() {
        let texts = [vec![9, 9, 9, 9], vec![1, 2, 3, 9], vec![1, 2, 3, 4], vec![1, 2, 3, 5]];
        // 1 2 3 9 shares three tokens with two others and one with the first; the last two share none with it.
        assert_eq!(select(&texts), 1);
        assert_eq!(select(&[vec![1, 2], vec![3, 4], vec![5, 6]]), 0);
        assert_eq!((select(&[vec![5]]), select::<Vec<u32>>(&[])), (0, 0));
    }

    #[test]
    fn a_choice_costs_what_all_its_candidates_cost() {
        let drawn = Samples {
            tokens: vec![vec![0, 1], vec![0, 2], vec![0, 2], vec![0, 7], vec![0, 7], vec![0, 1]],
            trace: (0..6).map(|i| vec![vec![i]]).collect(),
            nfe: vec![3, 4, 5, 1, 1, 2],
            positions: vec![30, 40, 50, 10, 10, 20],
            layer_positions: vec![60, 80, 100, 20, 20, 40],
            decode_positions: Vec::new(),
            seconds: 2.5,
        };
        let chosen = choose(drawn, 3, &|t| t[1..].to_vec());
        assert_eq!(chosen.tokens, [[0, 2], [0, 7]]);
        assert_eq!(chosen.trace, [[[1]], [[3]]]);
        assert_eq!((chosen.nfe, chosen.positions, chosen.seconds), (vec![12, 4], vec![120, 40], 2.5));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn bleu_is_between_zero_and_one_and_one_of_a_text_with_itself(
            a in prop::collection::vec(0u32..5, 0..20), b in prop::collection::vec(0u32..5, 0..20)
        ) {
            let score = bleu(&a, &b);
            prop_assert!((0.0..=1.0).contains(&score), "{score}");
            prop_assert!((bleu(&a, &a) - 1.0).abs() < 1e-12);
        }

        #[test]
        fn a_text_that_was_drawn_twice_wins_against_texts_that_share_nothing(
            at in 0usize..8, other in 0usize..8, length in 1usize..12
        ) {
            prop_assume!(at != other);
            // Candidate i consists of its own tokens only, but for the one that is there twice.
            let own = |i: usize| (0..length).map(|l| (i * length + l) as u32).collect::<Vec<_>>();
            let mut texts: Vec<Vec<u32>> = (0..8).map(own).collect();
            texts[at] = texts[other].clone();
            prop_assert_eq!(select(&texts), at.min(other));
        }

        #[test]
        fn the_chosen_text_does_not_depend_on_the_order_of_the_candidates(
            texts in prop::collection::vec(prop::collection::vec(0u32..4, 1..10), 1..7), turn in 0usize..7
        ) {
            let mut turned = texts.clone();
            turned.rotate_left(turn % texts.len());
            let (a, b) = (&texts[select(&texts)], &turned[select(&turned)]);
            // Different texts may be equally good.
            let score = |y: &Vec<u32>| {
                let mut terms: Vec<f64> = texts.iter().map(|x| bleu(x, y)).collect();
                terms.sort_by(f64::total_cmp);
                terms.iter().sum::<f64>()
            };
            prop_assert!(a == b || (score(a) - score(b)).abs() < 1e-12, "{:?} and {:?}", a, b);
        }
    }
}
