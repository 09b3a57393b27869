//! A hidden Markov chain over texts of fixed length, built from a weighted list of stories, with everything about it exact.
//!
//! The hidden states of layer p are classes of story beginnings of p words that have the same future, so the automaton is
//! the smallest one. Each position emits its story's word with probability 1 - noise, else a uniform word of the
//! vocabulary; that floor keeps every likelihood finite. L length, V vocabulary; all f64.

use std::collections::HashMap;

use rand::Rng;

/// An edge of a layer: from a state of layer p to one of layer p + 1, meaning word `token`.
#[derive(Debug, Clone, Copy)]
struct Edge {
    from: u32,
    to: u32,
    token: u32,
    prob: f64,
}

/// The chain; see the file's head.
#[derive(Debug, Clone)]
pub struct Chain {
    vocab: usize,
    noise: f64,
    /// Edges of each layer [L], sorted by the state they leave.
    layers: Vec<Vec<Edge>>,
    /// States of each layer [L + 1]; the first and the last have one.
    sizes: Vec<usize>,
    /// Entropy of the story itself, without noise, nats.
    entropy: f64,
}

/// A beginning of stories: its last word, the beginning it extends, and the weight of the stories that start so.
struct Beginning {
    word: u32,
    parent: usize,
    weight: f64,
}

/// Probabilities whose ratio is within this of 1 are one probability: sums of weights differ in their last bits.
const SAME: f64 = 1e-12;

/// The beginnings of each length [L + 1], in alphabetical order, so that those with one parent lie together.
fn beginnings(stories: &[(Vec<u32>, f64)], length: usize) -> Vec<Vec<Beginning>> {
    let mut order: Vec<&(Vec<u32>, f64)> = stories.iter().collect();
    order.sort_by(|a, b| a.0.cmp(&b.0));
    let mut out: Vec<Vec<Beginning>> = (0..=length).map(|_| Vec::new()).collect();
    out[0].push(Beginning { word: 0, parent: 0, weight: 0.0 });
    let mut last: Option<&[u32]> = None;
    for (words, weight) in order {
        let shared = last.map_or(0, |l| l.iter().zip(words).take_while(|(a, b)| a == b).count());
        for p in shared..length {
            let parent = out[p].len() - 1;
            out[p + 1].push(Beginning { word: words[p], parent, weight: 0.0 });
        }
        // The newest of each length is the one this story starts with; equal stories written twice are one story.
        out.iter_mut().filter_map(|layer| layer.last_mut()).for_each(|b| b.weight += weight);
        last = Some(words);
    }
    out
}

/// Numbers `values` so that equal ones (see [`SAME`]) share a number, small or large alike.
fn number(values: &[f64]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let (mut out, mut next, mut first) = (vec![0; values.len()], 0, 0.0);
    for i in order {
        // Measured from the group's first, so that no chain of near neighbours drifts.
        if values[i] > first * (1.0 + SAME) {
            (next, first) = (next + 1, values[i]);
        }
        out[i] = next;
    }
    out
}

impl Chain {
    /// The chain of `stories` (words and weight; all of one length) over `vocab` words.
    ///
    /// # Panics
    /// Where the stories are not a distribution over texts of one length, and where `noise` is not a probability below 1: both
    /// are written by us.
    pub fn from_stories(vocab: usize, stories: &[(Vec<u32>, f64)], noise: f64) -> Chain {
        let length = stories.first().map_or(0, |s| s.0.len());
        assert!(length > 0 && stories.iter().all(|s| s.0.len() == length), "stories of one length");
        assert!(stories.iter().all(|s| s.1 > 0.0 && s.1.is_finite()), "weights above 0");
        assert!(stories.iter().all(|s| s.0.iter().all(|t| (*t as usize) < vocab)), "words in the vocabulary");
        assert!((0.0..1.0).contains(&noise), "noise is a probability below 1");
        let depth = beginnings(stories, length);
        let total = depth[0][0].weight;
        let entropy = depth[length].iter().map(|b| -(b.weight / total) * (b.weight / total).ln()).sum();

        // From the end backward: beginnings with the same words, probabilities and next classes are one state.
        let mut class = vec![0u32; depth[length].len()];
        let mut layers = vec![Vec::new(); length];
        let mut sizes = vec![1; length + 1];
        for p in (0..length).rev() {
            let children = &depth[p + 1];
            let probs: Vec<f64> = children.iter().map(|c| c.weight / depth[p][c.parent].weight).collect();
            let numbers = number(&probs);
            let mut seen: HashMap<Vec<(u32, u32, u32)>, u32> = HashMap::new();
            let mut own = vec![0u32; depth[p].len()];
            let mut at = 0;
            for siblings in children.chunk_by(|a, b| a.parent == b.parent) {
                let range = at..at + siblings.len();
                at = range.end;
                let key = range.clone().map(|i| (children[i].word, class[i], numbers[i])).collect();
                let fresh = seen.len() as u32;
                own[siblings[0].parent] = *seen.entry(key).or_insert_with(|| {
                    layers[p].extend(range.map(|i| Edge {
                        from: fresh,
                        to: class[i],
                        token: children[i].word,
                        prob: probs[i],
                    }));
                    fresh
                });
            }
            sizes[p] = seen.len();
            class = own;
        }
        Chain { vocab, noise, layers, sizes, entropy }
    }

    /// Vocabulary size V.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Words in a text.
    pub fn length(&self) -> usize {
        self.layers.len()
    }

    /// Hidden states, all layers together.
    pub fn states(&self) -> usize {
        self.sizes.iter().sum()
    }

    /// Edges, all layers together.
    pub fn edges(&self) -> usize {
        self.layers.iter().map(Vec::len).sum()
    }

    /// Entropy of the noise-free story, nats per text.
    pub fn story_entropy(&self) -> f64 {
        self.entropy
    }

    /// Fills `factors` [V]: for every word meant, `scale` times the probability that it shows `seen` (1 when hidden).
    fn show(&self, seen: Option<u32>, scale: f64, factors: &mut [f64]) {
        let floor = self.noise / self.vocab as f64;
        match seen {
            None => factors.fill(scale),
            Some(seen) => {
                factors.fill(floor * scale);
                factors[seen as usize] = (1.0 - self.noise + floor) * scale;
            }
        }
    }

    /// Log-likelihood of a whole text `[L]`, nats (forward algorithm); -inf for a text the chain cannot show.
    ///
    /// With noise that is only a text with a token outside the vocabulary.
    pub fn log_likelihood(&self, tokens: &[u32]) -> f64 {
        self.forward(tokens.len(), |p| Some(tokens[p]))
    }

    /// Log-probability of the visible words `[L]` of a text whose other words may be anything, nats; 0 where none is visible.
    ///
    /// What is hidden is summed over, so that ln p(hidden | visible) = `log_likelihood` of the whole text minus this.
    pub fn log_marginal(&self, visible: &[Option<u32>]) -> f64 {
        self.forward(visible.len(), |p| visible[p])
    }

    /// The forward algorithm over words of which some are visible.
    fn forward(&self, length: usize, visible: impl Fn(usize) -> Option<u32>) -> f64 {
        assert_eq!(length, self.length(), "a text of the chain's length");
        if (0..length).any(|p| visible(p).is_some_and(|t| t as usize >= self.vocab)) {
            return f64::NEG_INFINITY;
        }
        let widest = self.sizes.iter().copied().max().unwrap_or(1);
        let (mut alpha, mut next) = (vec![0.0; widest], vec![0.0; widest]);
        let mut factors = vec![0.0; self.vocab];
        alpha[0] = 1.0;
        // Each layer's sum scales the next layer's factors, which saves a pass over the states.
        let (mut log, mut sum) = (0.0, 1.0);
        for (p, edges) in self.layers.iter().enumerate() {
            self.show(visible(p), 1.0 / sum, &mut factors);
            let next_states = &mut next[..self.sizes[p + 1]];
            next_states.fill(0.0);
            for e in edges {
                next_states[e.to as usize] += alpha[e.from as usize] * e.prob * factors[e.token as usize];
            }
            sum = total(next_states);
            if sum == 0.0 {
                return f64::NEG_INFINITY;
            }
            log += sum.ln();
            std::mem::swap(&mut alpha, &mut next);
        }
        log
    }

    /// Probability of every word at every position given all visible ones, row-major [L, V] (forward-backward).
    ///
    /// A visible position's row is one-hot.
    ///
    /// # Panics
    /// Where `visible` has another length than the chain or words outside of the vocabulary, and where the chain cannot show
    /// the visible words (never with noise).
    pub fn posterior(&self, visible: &[Option<u32>]) -> Vec<f64> {
        let (l, v) = (self.length(), self.vocab);
        assert_eq!(visible.len(), l, "a text of the chain's length");
        assert!(visible.iter().flatten().all(|t| (*t as usize) < v), "visible words in the vocabulary");
        let mut factors = vec![0.0; v];
        // All layers' backward messages in one buffer, from the last layer to the first.
        let mut beta = vec![0.0; self.states()];
        beta[0] = 1.0;
        let (mut sum, mut end) = (1.0, 1);
        for p in (0..l).rev() {
            self.show(visible[p], 1.0 / sum, &mut factors);
            let (done, rest) = beta.split_at_mut(end);
            let later = &done[end - self.sizes[p + 1]..];
            let own = &mut rest[..self.sizes[p]];
            for e in &self.layers[p] {
                own[e.from as usize] += e.prob * factors[e.token as usize] * later[e.to as usize];
            }
            sum = total(own);
            assert!(sum > 0.0, "visible words that the chain can show");
            end += own.len();
        }
        let mut out = vec![0.0; l * v];
        let widest = self.sizes.iter().copied().max().unwrap_or(1);
        let (mut alpha, mut next) = (vec![0.0; widest], vec![0.0; widest]);
        alpha[0] = 1.0;
        sum = 1.0;
        end -= self.sizes[0];
        for (p, edges) in self.layers.iter().enumerate() {
            self.show(visible[p], 1.0 / sum, &mut factors);
            let next_states = &mut next[..self.sizes[p + 1]];
            next_states.fill(0.0);
            let later = &beta[end - next_states.len()..end];
            end -= next_states.len();
            let row = &mut out[p * v..(p + 1) * v];
            match visible[p] {
                Some(seen) => {
                    for e in edges {
                        next_states[e.to as usize] += alpha[e.from as usize] * e.prob * factors[e.token as usize];
                    }
                    row[seen as usize] = 1.0;
                }
                None => {
                    for e in edges {
                        // A hidden word's factor is the scale alone, the same for every word.
                        let path = alpha[e.from as usize] * e.prob * factors[0];
                        next_states[e.to as usize] += path;
                        row[e.token as usize] += path * later[e.to as usize];
                    }
                    // What is meant, then what the noise makes of it.
                    let keep = (1.0 - self.noise) / row.iter().sum::<f64>();
                    let floor = self.noise / v as f64;
                    row.iter_mut().for_each(|w| *w = keep * *w + floor);
                }
            }
            sum = total(next_states);
            std::mem::swap(&mut alpha, &mut next);
        }
        out
    }

    /// A text `[L]` drawn from the chain, noise included.
    pub fn sample(&self, rng: &mut impl Rng) -> Vec<u32> {
        let mut state = 0u32;
        let mut out = Vec::with_capacity(self.length());
        for edges in &self.layers {
            let from = edges.partition_point(|e| e.from < state);
            let own = &edges[from..from + edges[from..].partition_point(|e| e.from == state)];
            let mut u: f64 = rng.random();
            let mut taken = own[own.len() - 1];
            for e in own {
                if u < e.prob {
                    taken = *e;
                    break;
                }
                u -= e.prob;
            }
            state = taken.to;
            let noisy = rng.random::<f64>() < self.noise;
            out.push(if noisy { rng.random_range(0..self.vocab as u32) } else { taken.token });
        }
        out
    }

    /// Entropy rate of the chain with its noise, nats per word: mean and standard error of -log p / L over `n` draws.
    ///
    /// The noise-free part is exact ([`Chain::story_entropy`]); what the noise adds has no closed form.
    pub fn mean_nll(&self, n: usize, rng: &mut impl Rng) -> (f64, f64) {
        let values: Vec<f64> = (0..n).map(|_| -self.log_likelihood(&self.sample(rng)) / self.length() as f64).collect();
        let mean = values.iter().sum::<f64>() / n as f64;
        let var = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n.max(2) - 1) as f64;
        (mean, (var / n as f64).sqrt())
    }
}

/// The sum in four interleaved parts, which need not wait for one another.
fn total(values: &[f64]) -> f64 {
    let (fours, rest) = values.as_chunks::<4>();
    let parts = fours.iter().fold([0.0; 4], |s, x| [s[0] + x[0], s[1] + x[1], s[2] + x[2], s[3] + x[3]]);
    parts.iter().sum::<f64>() + rest.iter().sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{StepRng, Stream};

    /// Three symbols, four positions, long-range agreement: the last word repeats the first.
    fn micro(noise: f64) -> (Chain, Vec<(Vec<u32>, f64)>) {
        let stories = vec![
            (vec![0, 1, 2, 0], 0.4),
            (vec![0, 2, 2, 0], 0.1),
            (vec![1, 1, 2, 1], 0.3),
            (vec![1, 0, 0, 1], 0.15),
            (vec![2, 0, 1, 2], 0.05),
        ];
        (Chain::from_stories(3, &stories, noise), stories)
    }

    fn texts(vocab: u32, length: usize) -> Vec<Vec<u32>> {
        (0..vocab.pow(length as u32)).map(|i| (0..length).map(|p| i / vocab.pow(p as u32) % vocab).collect()).collect()
    }

    /// p(text) summed over stories and noise, position by position, without any automaton.
    fn brute(stories: &[(Vec<u32>, f64)], vocab: usize, noise: f64, text: &[u32]) -> f64 {
        let total: f64 = stories.iter().map(|s| s.1).sum();
        let floor = noise / vocab as f64;
        stories
            .iter()
            .map(|(words, w)| {
                let emit = |(a, b): (&u32, &u32)| if a == b { 1.0 - noise + floor } else { floor };
                w / total * words.iter().zip(text).map(emit).product::<f64>()
            })
            .sum()
    }

    #[test]
    fn likelihoods_sum_to_one_and_equal_brute_force_enumeration() {
        for noise in [1e-4, 0.1] {
            let (chain, stories) = micro(noise);
            let mut sum = 0.0;
            for text in texts(3, 4) {
                let got = chain.log_likelihood(&text);
                let want = brute(&stories, 3, noise, &text).ln();
                assert!((got - want).abs() < 1e-9, "{text:?}: {got} for {want}");
                sum += got.exp();
            }
            assert!((sum - 1.0).abs() < 1e-12, "{sum}");
        }
    }

    #[test]
    fn posteriors_equal_enumeration_of_all_completions_for_every_visibility() {
        let (chain, stories) = micro(0.05);
        for truth in texts(3, 4) {
            for shown in 0..16u32 {
                let visible: Vec<Option<u32>> = (0..4).map(|p| (shown >> p & 1 == 1).then(|| truth[p])).collect();
                let mut want = [0.0; 12];
                for text in texts(3, 4) {
                    if visible.iter().zip(&text).all(|(v, t)| v.is_none_or(|v| v == *t)) {
                        let p = brute(&stories, 3, 0.05, &text);
                        (0..4).for_each(|l| want[l * 3 + text[l] as usize] += p);
                    }
                }
                let got = chain.posterior(&visible);
                for l in 0..4 {
                    let sum: f64 = want[l * 3..l * 3 + 3].iter().sum();
                    for v in 0..3 {
                        assert!((got[l * 3 + v] - want[l * 3 + v] / sum).abs() < 1e-9, "{visible:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_probability_of_what_is_visible_is_the_sum_over_all_completions() {
        let (chain, stories) = micro(0.05);
        for truth in texts(3, 4) {
            for shown in 0..16u32 {
                let visible: Vec<Option<u32>> = (0..4).map(|p| (shown >> p & 1 == 1).then(|| truth[p])).collect();
                let agrees = |t: &Vec<u32>| visible.iter().zip(t).all(|(v, t)| v.is_none_or(|v| v == *t));
                let want: f64 = texts(3, 4).iter().filter(|t| agrees(t)).map(|t| brute(&stories, 3, 0.05, t)).sum();
                assert!((chain.log_marginal(&visible) - want.ln()).abs() < 1e-9, "{visible:?}");
            }
        }
    }

    #[test]
    fn samples_follow_the_likelihood() {
        let (chain, _) = micro(0.1);
        let (n, mut rng) = (200_000, StepRng::new(1).at(0, Stream::Batch));
        let mut counts: HashMap<Vec<u32>, f64> = HashMap::new();
        (0..n).for_each(|_| *counts.entry(chain.sample(&mut rng)).or_default() += 1.0);
        let chi2: f64 = texts(3, 4)
            .iter()
            .map(|t| {
                let want = n as f64 * chain.log_likelihood(t).exp();
                (counts.get(t).copied().unwrap_or(0.0) - want).powi(2) / want
            })
            .sum();
        // 80 degrees of freedom: mean 80, standard deviation 12.6.
        assert!(chi2 < 80.0 + 4.5 * 12.6, "{chi2}");
    }

    #[test]
    fn beginnings_with_the_same_future_are_one_state() {
        // After "0 x" and "1 x" nothing differs, so the middle layers merge.
        let stories: Vec<(Vec<u32>, f64)> = [0, 1]
            .iter()
            .flat_map(|a| [2, 3].map(|b| (vec![*a, 4, b], [0.7, 0.3][*a as usize] * [0.6, 0.4][b as usize - 2])))
            .collect();
        let chain = Chain::from_stories(5, &stories, 0.0);
        assert_eq!(chain.sizes, [1, 1, 1, 1]);
        assert!((chain.log_likelihood(&[1, 4, 2]).exp() - 0.18).abs() < 1e-12);
    }

    #[test]
    fn the_story_entropy_is_exact() {
        let (chain, stories) = micro(0.0);
        let want: f64 = stories.iter().map(|(_, p)| -p * p.ln()).sum();
        assert!((chain.story_entropy() - want).abs() < 1e-12);
    }

    #[test]
    fn small_probabilities_merge_only_with_their_equals() {
        // The two middle states differ in nothing but a very rare word.
        let stories = vec![(vec![0, 0, 0], 1.0), (vec![0, 0, 1], 1e-13), (vec![1, 0, 0], 1.0), (vec![1, 0, 1], 3e-13)];
        let chain = Chain::from_stories(2, &stories, 0.0);
        assert_eq!(chain.sizes, [1, 2, 2, 1]);
        for (words, weight) in &stories {
            let want = (weight / (2.0 + 4e-13)).ln();
            assert!((chain.log_likelihood(words) - want).abs() < 1e-9, "{words:?}");
        }
        assert_eq!(number(&[0.3, 0.1 + 0.2, 1e-13, 3e-13, 0.3 * (1.0 + 1e-10)]), [3, 3, 1, 2, 4]);
    }

    #[test]
    fn equal_stories_written_twice_are_one_story() {
        let once = Chain::from_stories(2, &[(vec![0, 1], 0.75), (vec![1, 1], 0.25)], 0.1);
        let twice = Chain::from_stories(2, &[(vec![0, 1], 0.5), (vec![1, 1], 0.25), (vec![0, 1], 0.25)], 0.1);
        assert!((once.story_entropy() - twice.story_entropy()).abs() < 1e-12);
        for text in texts(2, 2) {
            assert!((once.log_likelihood(&text) - twice.log_likelihood(&text)).abs() < 1e-12);
        }
    }

    #[test]
    fn a_text_the_chain_cannot_show_has_log_likelihood_minus_infinity() {
        let (clean, noisy) = (micro(0.0).0, micro(1e-4).0);
        assert_eq!(clean.log_likelihood(&[2, 2, 2, 2]), f64::NEG_INFINITY);
        assert!(noisy.log_likelihood(&[2, 2, 2, 2]).is_finite());
        assert_eq!(noisy.log_likelihood(&[3, 2, 2, 2]), f64::NEG_INFINITY);
    }
}
