//! A hidden Markov chain over texts of fixed length, built from a weighted list of stories, with everything about it exact.
//!
//! The hidden states of layer p are classes of story beginnings of p words that have the same future, so the automaton is
//! the smallest one. Each position emits its story's word with probability 1 - noise, else a uniform word of the
//! vocabulary; that floor keeps every likelihood finite. L length, V vocabulary; all f64.

use std::collections::{BTreeMap, HashMap};

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

/// A node of the tree of beginnings: weight of the stories below it, and its children by word.
#[derive(Default)]
struct Node {
    weight: f64,
    children: BTreeMap<u32, usize>,
}

impl Chain {
    /// The chain of `stories` (words and weight; all of one length) over `vocab` words.
    ///
    /// Panics when the stories are no distribution over texts of one length: they are written by us.
    pub fn from_stories(vocab: usize, stories: &[(Vec<u32>, f64)], noise: f64) -> Chain {
        let length = stories.first().map_or(0, |s| s.0.len());
        assert!(length > 0 && stories.iter().all(|s| s.0.len() == length), "stories of one length");
        assert!(stories.iter().all(|s| s.1 > 0.0 && s.0.iter().all(|t| (*t as usize) < vocab)), "weights and words in range");
        let mut tree = vec![Node::default()];
        for (words, weight) in stories {
            let mut at = 0;
            tree[at].weight += weight;
            for word in words {
                let next = tree.len();
                at = match tree[at].children.get(word) {
                    Some(child) => *child,
                    None => {
                        tree[at].children.insert(*word, next);
                        tree.push(Node::default());
                        next
                    }
                };
                tree[at].weight += weight;
            }
        }
        let total = tree[0].weight;
        // Equal stories written twice are one story: the leaves carry the sums.
        let entropy = tree.iter().filter(|n| n.children.is_empty()).map(|n| -(n.weight / total) * (n.weight / total).ln()).sum();

        let mut depth = vec![vec![0usize]];
        for p in 0..length {
            depth.push(depth[p].iter().flat_map(|n| tree[*n].children.values().copied()).collect());
        }
        // From the end backward: nodes with the same words, probabilities and next classes are one state.
        let mut class = vec![0u32; tree.len()];
        let mut layers = vec![Vec::new(); length];
        let mut sizes = vec![1; length + 1];
        for p in (0..length).rev() {
            let mut seen: HashMap<Vec<(u32, u32, u64)>, u32> = HashMap::new();
            for n in &depth[p] {
                let node = &tree[*n];
                let edges: Vec<(u32, u32, f64)> =
                    node.children.iter().map(|(t, c)| (*t, class[*c], tree[*c].weight / node.weight)).collect();
                // Sums of weights differ in their last bits; 1e-12 apart is the same probability.
                let key = edges.iter().map(|(t, c, p)| (*t, *c, (p * 1e12).round() as u64)).collect();
                let fresh = seen.len() as u32;
                class[*n] = *seen.entry(key).or_insert_with(|| {
                    layers[p].extend(edges.iter().map(|(token, to, prob)| Edge { from: fresh, to: *to, token: *token, prob: *prob }));
                    fresh
                });
            }
            sizes[p] = seen.len();
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

    /// Probability that a position meaning `token` shows `seen`.
    fn emit(&self, token: u32, seen: u32) -> f64 {
        let floor = self.noise / self.vocab as f64;
        if token == seen { 1.0 - self.noise + floor } else { floor }
    }

    /// Log-likelihood of a whole text [L], nats (forward algorithm). A token outside the vocabulary has none: -inf.
    pub fn log_likelihood(&self, tokens: &[u32]) -> f64 {
        assert_eq!(tokens.len(), self.length(), "a text of the chain's length");
        if tokens.iter().any(|t| *t as usize >= self.vocab) {
            return f64::NEG_INFINITY;
        }
        let (mut alpha, mut log) = (vec![1.0], 0.0);
        for (p, edges) in self.layers.iter().enumerate() {
            let mut next = vec![0.0; self.sizes[p + 1]];
            for e in edges {
                next[e.to as usize] += alpha[e.from as usize] * e.prob * self.emit(e.token, tokens[p]);
            }
            let sum: f64 = next.iter().sum();
            next.iter_mut().for_each(|a| *a /= sum);
            log += sum.ln();
            alpha = next;
        }
        log
    }

    /// Probability of every word at every position given all visible ones, row-major [L, V] (forward-backward).
    ///
    /// A visible position's row is one-hot.
    pub fn posterior(&self, visible: &[Option<u32>]) -> Vec<f64> {
        let (l, v) = (self.length(), self.vocab);
        assert_eq!(visible.len(), l, "a text of the chain's length");
        let factor = |p: usize, token: u32| visible[p].map_or(1.0, |seen| self.emit(token, seen));
        let normalise = |row: &mut Vec<f64>| {
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|a| *a /= sum);
        };
        let mut beta: Vec<Vec<f64>> = self.sizes.iter().map(|n| vec![0.0; *n]).collect();
        beta[l][0] = 1.0;
        for p in (0..l).rev() {
            let (left, right) = beta.split_at_mut(p + 1);
            for e in &self.layers[p] {
                left[p][e.from as usize] += e.prob * factor(p, e.token) * right[0][e.to as usize];
            }
            normalise(&mut left[p]);
        }
        let mut out = vec![0.0; l * v];
        let mut alpha = vec![1.0];
        for (p, edges) in self.layers.iter().enumerate() {
            let row = &mut out[p * v..(p + 1) * v];
            let mut next = vec![0.0; self.sizes[p + 1]];
            for e in edges {
                let path = alpha[e.from as usize] * e.prob;
                next[e.to as usize] += path * factor(p, e.token);
                row[e.token as usize] += path * beta[p + 1][e.to as usize];
            }
            normalise(&mut next);
            alpha = next;
            match visible[p] {
                Some(seen) => {
                    row.fill(0.0);
                    row[seen as usize] = 1.0;
                }
                None => {
                    // What is meant, then what the noise makes of it.
                    let sum: f64 = row.iter().sum();
                    let floor = self.noise / v as f64;
                    row.iter_mut().for_each(|w| *w = (1.0 - self.noise) * *w / sum + floor);
                }
            }
        }
        out
    }

    /// A text [L] drawn from the chain, noise included.
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
        (0..vocab.pow(length as u32))
            .map(|i| (0..length).map(|p| i / vocab.pow(p as u32) % vocab).collect())
            .collect()
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
                let mut want = vec![0.0; 12];
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
        let stories: Vec<(Vec<u32>, f64)> =
            [0, 1].iter().flat_map(|a| [2, 3].map(|b| (vec![*a, 4, b], [0.7, 0.3][*a as usize] * [0.6, 0.4][b as usize - 2]))).collect();
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
}
