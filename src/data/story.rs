//! The built-in story language: readable, small enough to be learnt in minutes, and known exactly.
//!
//! A story has four sentences of eight words, so L = 32. Names, things, places and counts return, and counts add up:
//!
//! ```text
//! mia has 3 apples in the park . then mia finds 2 more apples there .
//! now mia has 5 apples in total . mia is happy and likes the park .
//! ```
//!
//! Free choices are Zipf-like (the k-th of n has weight 1/k), as in real text. The language is a [`Chain`], so the
//! likelihood of any text and the posterior of any masked word are exact. V vocabulary (the mask is not in it).

use std::collections::HashMap;
use std::sync::Arc;

use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::chain::Chain;
use crate::error::{Error, Result, nearest, whole_within, within};

const NAMES: [&str; 8] = ["mia", "tom", "ann", "ben", "eva", "leo", "zoe", "max"];
const THINGS: [&str; 8] = ["apples", "plums", "nuts", "figs", "pears", "beans", "dates", "limes"];
const PLACES: [&str; 6] = ["park", "wood", "town", "barn", "yard", "lane"];

/// The size of the language.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoryConfig {
    /// Names a story can be about, 2 to 8.
    pub names: usize,
    /// Things that are found, given away or eaten, 1 to 8.
    pub things: usize,
    /// Places, 1 to 6.
    pub places: usize,
    /// Largest count, 2 to 9.
    pub count: usize,
    /// Probability that a word is replaced by a uniformly drawn one, 1e-12 to 0.5: the floor under every likelihood.
    pub noise: f64,
}

impl Default for StoryConfig {
    fn default() -> Self {
        StoryConfig { names: 4, things: 4, places: 3, count: 5, noise: 1e-4 }
    }
}

impl StoryConfig {
    /// Checks ranges.
    ///
    /// # Errors
    /// A setting out of range (usage).
    pub fn validate(&self) -> Result<()> {
        for (key, value, low, high) in [
            ("names", self.names, 2, NAMES.len()),
            ("things", self.things, 1, THINGS.len()),
            ("places", self.places, 1, PLACES.len()),
            ("count", self.count, 2, 9),
        ] {
            whole_within(&format!("data.story.{key}"), value, low..=high)?;
        }
        // Below 1e-12 the odds between two stories can leave the range of f64 before the text has told them apart.
        within("data.story.noise", self.noise, 1e-12..=0.5)
    }
}

/// The language with its vocabulary, its chain, and the set of faultless stories.
#[derive(Debug, Clone)]
pub struct Story {
    words: Vec<String>,
    ids: HashMap<String, u32>,
    chain: Arc<Chain>,
    stories: HashMap<Vec<u32>, f64>,
}

/// Zipf weight of the k-th choice (from 0).
fn zipf(k: usize) -> f64 {
    1.0 / (k + 1) as f64
}

/// An event: verb mood, weight among the possible ones, and whether it adds.
const EVENTS: [(&str, &str, f64, bool); 3] =
    [("finds", "happy", 0.45, true), ("gives", "proud", 0.30, false), ("eats", "full", 0.25, false)];

/// Every faultless story with its probability.
fn all_stories(c: &StoryConfig) -> Vec<(String, f64)> {
    let share = |k: usize, n: usize| zipf(k) / (0..n).map(zipf).sum::<f64>();
    let mut out = Vec::new();
    for (a, name) in NAMES.iter().enumerate().take(c.names) {
        for n in 1..=c.count {
            for (t, thing) in THINGS.iter().enumerate().take(c.things) {
                for (p, place) in PLACES.iter().enumerate().take(c.places) {
                    let w = share(a, c.names) * share(n - 1, c.count) * share(t, c.things) * share(p, c.places);
                    let possible = |add: bool| if add { n < c.count } else { n > 1 };
                    let events: f64 = EVENTS.iter().filter(|e| possible(e.3)).map(|e| e.2).sum();
                    for (verb, mood, weight, add) in EVENTS.iter().filter(|e| possible(e.3)) {
                        let choices = if *add { c.count - n } else { n - 1 };
                        for d in 1..=choices {
                            let w = w * weight / events * share(d - 1, choices);
                            let m = if *add { n + d } else { n - d };
                            let others: Vec<&str> = NAMES[..c.names].iter().filter(|o| *o != name).copied().collect();
                            let middles: Vec<(String, f64)> = match *verb {
                                "finds" => vec![(format!("then {name} finds {d} more {thing} there ."), 1.0)],
                                "eats" => vec![(format!("then {name} eats {d} of the {thing} ."), 1.0)],
                                _ => others
                                    .iter()
                                    .enumerate()
                                    .map(|(k, o)| {
                                        (format!("then {name} gives {d} {thing} to {o} ."), share(k, others.len()))
                                    })
                                    .collect(),
                            };
                            for (middle, share) in middles {
                                let text = format!(
                                    "{name} has {n} {thing} in the {place} . {middle} now {name} has {m} {thing} in total . \
                                     {name} is {mood} and likes the {place} ."
                                );
                                out.push((text, w * share));
                            }
                        }
                    }
                }
            }
        }
    }
    out
}

impl Story {
    /// Builds the language.
    ///
    /// # Errors
    /// A setting out of range (usage).
    pub fn new(config: &StoryConfig) -> Result<Story> {
        config.validate()?;
        let texts = all_stories(config);
        let mut words: Vec<String> = texts.iter().flat_map(|t| t.0.split(' ').map(str::to_string)).collect();
        words.sort();
        words.dedup();
        let ids: HashMap<String, u32> = words.iter().enumerate().map(|(i, w)| (w.clone(), i as u32)).collect();
        let stories: Vec<(Vec<u32>, f64)> =
            texts.iter().map(|(t, w)| (t.split(' ').map(|word| ids[word]).collect(), *w)).collect();
        let chain = Arc::new(Chain::from_stories(words.len(), &stories, config.noise));
        Ok(Story { words, ids, chain, stories: stories.into_iter().collect() })
    }

    /// Vocabulary size V.
    pub fn vocab(&self) -> usize {
        self.words.len()
    }

    /// Words in a story.
    pub fn length(&self) -> usize {
        self.chain.length()
    }

    /// The words in the order of their ids (alphabetical).
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The exact model of the language.
    pub fn chain(&self) -> &Arc<Chain> {
        &self.chain
    }

    /// A text `[L]` of the language.
    pub fn sample(&self, rng: &mut impl Rng) -> Vec<u32> {
        self.chain.sample(rng)
    }

    /// Whether a text is a faultless story: one that the language tells with no noise.
    pub fn is_valid(&self, tokens: &[u32]) -> bool {
        self.stories.contains_key(tokens)
    }

    /// Ids of words between spaces.
    ///
    /// # Errors
    /// A word outside of the vocabulary (input), with its place and the nearest one.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        text.split_whitespace()
            .enumerate()
            .map(|(i, word)| {
                self.ids.get(word).copied().ok_or_else(|| {
                    let e = Error::usage(format!("word {} is `{word}`, which the story language does not have", i + 1));
                    match nearest(word, self.words.iter().map(String::as_str)) {
                        Some(near) => e.hint(format!("did you mean `{near}`?")),
                        None => e,
                    }
                })
            })
            .collect()
    }

    /// The text of ids; anything outside the vocabulary, such as the mask, prints as `·`.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let word = |t: &u32| self.words.get(*t as usize).map_or("·", String::as_str);
        tokens.iter().map(word).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{StepRng, Stream};

    fn reduced() -> Story {
        Story::new(&StoryConfig { names: 2, things: 2, places: 1, count: 3, noise: 1e-3 }).unwrap()
    }

    /// p(visible part) as a direct sum over the list of stories: no automaton.
    fn direct(s: &Story, noise: f64, visible: &[Option<u32>]) -> f64 {
        let floor = noise / s.vocab() as f64;
        let emit = |w: &u32, v: &Option<u32>| match v {
            None => 1.0,
            Some(v) if v == w => 1.0 - noise + floor,
            Some(_) => floor,
        };
        s.stories.iter().map(|(words, p)| p * words.iter().zip(visible).map(|(w, v)| emit(w, v)).product::<f64>()).sum()
    }

    #[test]
    fn a_story_reads_as_it_should_and_its_counts_add_up() {
        let s = Story::new(&StoryConfig::default()).unwrap();
        let good = "mia has 3 apples in the park . then mia finds 2 more apples there . \
                    now mia has 5 apples in total . mia is happy and likes the park .";
        assert!(s.is_valid(&s.encode(good).unwrap()));
        for bad in [
            ("has 5", "has 4"),
            ("is happy", "is full"),
            ("likes the park", "likes the town"),
            ("then mia", "then tom"),
        ] {
            assert!(!s.is_valid(&s.encode(&good.replace(bad.0, bad.1)).unwrap()), "{bad:?}");
        }
        assert_eq!(s.decode(&s.encode(good).unwrap()), good);
    }

    #[test]
    fn the_probabilities_of_all_stories_sum_to_one() {
        let s = Story::new(&StoryConfig::default()).unwrap();
        let sum: f64 = s.stories.values().sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
        assert!(s.chain.states() < 20_000 && s.vocab() < 64 && s.length() == 32, "{} states", s.chain.states());
    }

    #[test]
    fn likelihoods_of_noisy_texts_equal_the_direct_sum_over_stories() {
        let s = reduced();
        let mut rng = StepRng::new(3).at(0, Stream::Batch);
        for _ in 0..200 {
            let mut text = s.sample(&mut rng);
            for _ in 0..rng.random_range(0..4) {
                let at = rng.random_range(0..32);
                text[at] = rng.random_range(0..s.vocab() as u32);
            }
            let visible: Vec<Option<u32>> = text.iter().map(|t| Some(*t)).collect();
            let (got, want) = (s.chain.log_likelihood(&text), direct(&s, 1e-3, &visible).ln());
            assert!((got - want).abs() < 1e-9, "{got} for {want}");
        }
    }

    #[test]
    fn posteriors_under_random_masks_equal_the_direct_sum_over_stories() {
        let s = reduced();
        let mut rng = StepRng::new(4).at(0, Stream::Batch);
        for round in 0..40 {
            let text = s.sample(&mut rng);
            let share = [0.1, 0.5, 0.9, 1.0][round % 4];
            let visible: Vec<Option<u32>> = text.iter().map(|t| (rng.random::<f64>() >= share).then_some(*t)).collect();
            let got = s.chain.posterior(&visible);
            let whole = direct(&s, 1e-3, &visible);
            for l in (0..32).filter(|l| visible[*l].is_none()) {
                for v in 0..s.vocab() {
                    let mut filled = visible.clone();
                    filled[l] = Some(v as u32);
                    let want = direct(&s, 1e-3, &filled) / whole;
                    assert!((got[l * s.vocab() + v] - want).abs() < 1e-9);
                }
            }
        }
    }

    #[test]
    fn the_share_of_faultless_samples_is_what_the_noise_leaves() {
        let config = StoryConfig { noise: 0.01, ..StoryConfig::default() };
        let s = Story::new(&config).unwrap();
        let (n, mut rng) = (20_000, StepRng::new(5).at(0, Stream::Batch));
        let valid = (0..n).filter(|_| s.is_valid(&s.sample(&mut rng))).count() as f64 / n as f64;
        let v = s.vocab() as f64;
        let clean = (1.0 - 0.01 * (v - 1.0) / v).powi(32);
        // A changed free word can make another faultless story, so a little more than `clean` is valid.
        assert!(valid > clean - 0.01 && valid < clean + 0.05, "{valid} against {clean}");
    }

    #[test]
    fn sizes_out_of_range_name_the_key_and_its_range() {
        let e = Story::new(&StoryConfig { names: 1, ..StoryConfig::default() }).unwrap_err();
        assert!(e.to_string().contains("`data.story.names` must be between 2 and 8, but it is 1"), "{e}");
    }

    #[test]
    fn a_noise_out_of_range_names_the_key_and_its_range() {
        for noise in [0.0, 1e-30, -1.0, 0.6, f64::NAN, f64::INFINITY] {
            let e = StoryConfig { noise, ..StoryConfig::default() }.validate().unwrap_err();
            assert!(e.to_string().contains("`data.story.noise` must be between 1e-12 and 0.5"), "{e}");
        }
    }

    #[test]
    fn the_sizes_and_entropies_equal_those_of_a_minimal_automaton_in_exact_rationals() {
        for (config, stories, vocab, states, edges, entropy) in [
            (StoryConfig::default(), 2400, 36, 6733, 8555, 6.570027520508474),
            (
                StoryConfig { names: 2, things: 2, places: 1, count: 3, noise: 1e-4 },
                36,
                28,
                359,
                393,
                3.147171378974044,
            ),
        ] {
            let s = Story::new(&config).unwrap();
            assert_eq!(
                (s.stories.len(), s.vocab(), s.chain.states(), s.chain.edges()),
                (stories, vocab, states, edges)
            );
            assert!((s.chain.story_entropy() - entropy).abs() < 1e-12);
        }
    }

    #[test]
    fn posteriors_of_one_and_two_hidden_words_equal_the_likelihoods_of_all_fills() {
        let s = reduced();
        let v = s.vocab();
        let mut rng = StepRng::new(6).at(0, Stream::Batch);
        for round in 0..60 {
            let mut text = s.sample(&mut rng);
            for _ in 0..round % 3 {
                let at = rng.random_range(0..32);
                text[at] = rng.random_range(0..v as u32);
            }
            // The same place twice is one hidden word.
            let (a, b) = (rng.random_range(0..32), rng.random_range(0..32));
            let mut visible: Vec<Option<u32>> = text.iter().copied().map(Some).collect();
            (visible[a], visible[b]) = (None, None);
            let (mut at_a, mut at_b) = (vec![0.0; v], vec![0.0; v]);
            for (x, to_a) in at_a.iter_mut().enumerate() {
                for (y, to_b) in at_b.iter_mut().enumerate().filter(|(y, _)| a != b || *y == x) {
                    (text[a], text[b]) = (x as u32, y as u32);
                    let p = s.chain.log_likelihood(&text).exp();
                    *to_a += p;
                    *to_b += p;
                }
            }
            let (got, sum) = (s.chain.posterior(&visible), at_a.iter().sum::<f64>());
            for w in 0..v {
                assert!((got[a * v + w] - at_a[w] / sum).abs() < 1e-9, "{a} of {visible:?}");
                assert!((got[b * v + w] - at_b[w] / sum).abs() < 1e-9, "{b} of {visible:?}");
            }
            for (l, seen) in visible.iter().enumerate() {
                let row = &got[l * v..(l + 1) * v];
                assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                assert!(seen.is_none_or(|t| row[t as usize] == 1.0));
            }
        }
    }

    #[test]
    fn a_strange_word_is_refused_with_its_place_and_the_nearest_word_and_a_mask_prints_as_a_dot() {
        let s = reduced();
        let e = s.encode("mia has 3 aples").unwrap_err().to_string();
        assert!(e.contains("word 4 is `aples`") && e.contains("did you mean `apples`?"), "{e}");
        assert_eq!(s.decode(&[s.ids["mia"], s.vocab() as u32]), "mia ·");
    }
}
