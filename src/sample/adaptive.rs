//! Decoding by confidence: what a pass reveals is decided by the predictions it makes, and not by the order's table.
//!
//! * **Pipelined blocks** (D2F; Wang et al. 2025, section 3.3): a block is opened when enough of the one before it is text.
//!   Every pass commits the tokens whose probability is high enough; a block whose predecessor is nearly done also commits
//!   its surest token, so that there is progress.
//! * **Switching**: each block is drawn at once where the model's own predictions say that this costs little, and token by
//!   token from the left where they do not, within a budget of passes. What drawing n positions at once from their marginals
//!   costs is their total correlation, sum H(X_i) - H(X_1 .. X_n), and H(X_1 .. X_n) is at least the largest H(X_i): so
//!   sum H(X_i) - max H(X_i) bounds the error in nats, and `tolerance` is how much of it a block may have.
//! * **Confidence** (MaskGIT, Chang et al. 2022, arXiv 2202.04200; LLaDA's low-confidence remasking): of the tokens that a pass
//!   draws, those of the largest probability stay, as many in each pass as the steps need; in the whole text, or block by block.
//!
//! The bound is of the distributions that are drawn from, at their temperature. Samples are drawn one by one: their passes differ.
//! L length, V vocabulary, b positions of a block.

use std::ops::Range;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Process, SampleSpec, Samples, reading};
use crate::error::{Error, Result, whole_within, within};
use crate::model::{Cache, Denoise, Noised, draw, params, select_rows};
use crate::process::order::OrderConfig;
use crate::process::{Layout, Reading};
use crate::rng::{StepRng, Stream};

/// A rule by which predictions decide what a pass reveals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// Blocks that are opened and committed by confidence.
    Pipelined(Pipelined),
    /// Each block at once or token by token; the steps are the budget of passes.
    Switch(Switch),
    /// The surest positions first.
    Confidence(Confidence),
}

/// The rule of the surest first.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Confidence {
    /// Positions of a block, one block after the other; 0: the whole text at once.
    #[serde(default)]
    pub block: usize,
}

/// The thresholds of pipelined decoding, shares and probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pipelined {
    /// Positions of a block.
    pub block: usize,
    /// Blocks that are open at the same time, at most.
    pub window: usize,
    /// The next block is opened when this share of the last one is text.
    #[serde(default = "default_add")]
    pub add: f64,
    /// A block commits its surest token in each pass once this share of the one before it is text.
    #[serde(default = "default_activate")]
    pub activate: f64,
    /// A drawn token of at least this probability is committed.
    #[serde(default = "default_commit")]
    pub commit: f64,
}

fn default_add() -> f64 {
    0.1
}
fn default_activate() -> f64 {
    0.95
}
fn default_commit() -> f64 {
    0.9
}

/// The rule of switching.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// Positions of a block.
    pub block: usize,
    /// Nats of error, as the model's own predictions bound it, that drawing a block at once may cost.
    pub tolerance: f64,
}

impl Rule {
    /// As a table has it, on one line.
    pub fn name(&self) -> String {
        match self {
            Rule::Pipelined(p) => format!("pipelined {} x {}, p > {}", p.block, p.window, p.commit),
            Rule::Switch(s) => format!("switch {}, {} nats", s.block, s.tolerance),
            Rule::Confidence(Confidence { block: 0 }) => "confidence".into(),
            Rule::Confidence(c) => format!("confidence in blocks of {}", c.block),
        }
    }

    /// The order that the model is in.
    pub fn order(&self) -> OrderConfig {
        match self {
            Rule::Pipelined(p) => OrderConfig::Pipelined { block: p.block, window: p.window },
            Rule::Switch(s) => OrderConfig::Blocks(s.block),
            Rule::Confidence(Confidence { block: 0 }) => OrderConfig::Parallel,
            Rule::Confidence(c) => OrderConfig::Blocks(c.block),
        }
    }

    /// The order whose blocks a network must see: one block at a time is noise behind finished text, several are not.
    pub fn seen(&self) -> OrderConfig {
        match self {
            Rule::Pipelined(p) => OrderConfig::Pipelined { block: p.block, window: p.window.max(2) },
            Rule::Switch(_) | Rule::Confidence(_) => self.order(),
        }
    }

    /// The blocks it works on, of `length` positions.
    pub fn layout(&self, length: usize) -> Layout {
        match self {
            Rule::Pipelined(Pipelined { block, .. }) | Rule::Switch(Switch { block, .. }) => {
                Layout::blocks((*block).min(length))
            }
            Rule::Confidence(Confidence { block: 0 }) => Layout::blocks(length),
            Rule::Confidence(c) => Layout::blocks(c.block.min(length)),
        }
    }

    /// Those of the step counts that it can be given for `length` positions; where there are none, the fewest.
    ///
    /// By thresholds it takes as many passes as it needs, at most one a token.
    pub fn walkable(&self, length: usize, steps: &[usize]) -> Vec<usize> {
        let blocks = self.layout(length).count(length);
        match self {
            Rule::Pipelined(_) => vec![length],
            Rule::Switch(_) => {
                let walked: Vec<usize> = steps.iter().copied().filter(|k| *k >= blocks).collect();
                if walked.is_empty() { vec![blocks] } else { walked }
            }
            Rule::Confidence(_) => {
                let walked: Vec<usize> = steps.iter().copied().filter(|k| (blocks..=length).contains(k)).collect();
                if walked.is_empty() { vec![blocks] } else { walked }
            }
        }
    }

    /// Checks ranges; `key` names it in errors.
    ///
    /// # Errors
    /// A setting out of range (usage).
    pub fn validate(&self, key: &str) -> Result<()> {
        let whole = |name: &str, value: usize| whole_within(&format!("{key}.{name}"), value, 1..=1_000_000);
        let share = |name: &str, value: f64| within(&format!("{key}.{name}"), value, 0.0..=1.0);
        match self {
            Rule::Pipelined(p) => {
                whole("pipelined.block", p.block)?;
                whole("pipelined.window", p.window)?;
                share("pipelined.add", p.add)?;
                share("pipelined.activate", p.activate)?;
                share("pipelined.commit", p.commit)
            }
            Rule::Switch(s) => {
                whole("switch.block", s.block)?;
                within(&format!("{key}.switch.tolerance"), s.tolerance, 0.0..=1e6)
            }
            Rule::Confidence(c) => whole_within(&format!("{key}.confidence.block"), c.block, 0..=1_000_000),
        }
    }
}

/// Draws `n` samples by a rule.
///
/// # Errors
/// A budget below one pass a block (usage), and as [`super::sample`].
pub fn sample(model: &dyn Denoise, process: &Process, rule: &Rule, spec: &SampleSpec, n: usize) -> Result<Samples> {
    let start = std::time::Instant::now();
    let layout = rule.layout(process.length);
    let fewest = rule.walkable(process.length, &[])[0];
    if !matches!(rule, Rule::Pipelined(_)) && spec.steps < fewest {
        return Err(Error::usage(format!(
            "a budget of {} passes is below one for each of {fewest} blocks",
            spec.steps
        ))
        .hint(format!("use at least {fewest}, or larger blocks")));
    }
    let mut out = Samples::default();
    for i in 0..n {
        let mut one = One::new(model, process, spec, layout, spec.first + i);
        match rule {
            Rule::Pipelined(rule) => one.pipelined(*rule)?,
            Rule::Switch(rule) => one.switch(*rule)?,
            Rule::Confidence(_) => one.surest_first()?,
        }
        if spec.trace {
            out.trace.push(one.trace);
        }
        out.tokens.push(one.x);
        out.nfe.push(one.nfe);
        out.positions.push(one.positions);
        out.layer_positions.push(one.layer_positions);
    }
    out.seconds = start.elapsed().as_secs_f64();
    Ok(out)
}

/// One sample on its way.
struct One<'a> {
    model: &'a dyn Denoise,
    process: &'a Process,
    spec: &'a SampleSpec,
    layout: Layout,
    x: Vec<u32>,
    masked: Vec<bool>,
    cache: Cache,
    token: ChaCha8Rng,
    nfe: usize,
    positions: u64,
    layer_positions: u64,
    trace: Vec<Vec<u32>>,
}

/// What a pass says of one masked position: a drawn token, its probability, and the entropy in nats.
#[derive(Clone, Copy)]
struct Guess {
    at: usize,
    token: u32,
    probability: f64,
    entropy: f64,
}

impl<'a> One<'a> {
    fn new(model: &'a dyn Denoise, process: &'a Process, spec: &'a SampleSpec, layout: Layout, number: usize) -> Self {
        let given = |p: usize| spec.pinned.get(p).copied().flatten();
        let x: Vec<u32> = (0..process.length).map(|p| given(p).unwrap_or(model.mask())).collect();
        One {
            masked: (0..process.length).map(|p| given(p).is_none()).collect(),
            trace: if spec.trace { vec![x.clone()] } else { Vec::new() },
            x,
            model,
            process,
            spec,
            layout,
            cache: Cache::default(),
            token: StepRng::new(spec.seed).at(number as u64, Stream::Token),
            nfe: 0,
            positions: 0,
            layer_positions: 0,
        }
    }

    /// One pass up to position `end`: a guess at every masked position of `wanted`, which lies before it.
    fn pass(&mut self, wanted: Range<usize>, end: usize) -> Result<Vec<Guess>> {
        let l = self.process.length;
        // A block is as noisy as its share of masks.
        let share = |r: Range<usize>| r.clone().filter(|p| self.masked[*p]).count() as f64 / r.len() as f64;
        let blocks = self.layout.ranges(l);
        let t: Vec<f64> = blocks.iter().flat_map(|r| std::iter::repeat_n(share(r.clone()), r.len())).collect();
        let input = Noised::tokens(&self.x, &t, l).in_blocks(self.layout);
        let at: Vec<usize> = wanted.filter(|p| self.masked[*p]).collect();
        let layers = self.model.layers();
        self.nfe += 1;
        let features = match reading(self.model, self.process) {
            Reading::Blocks => {
                let (from, text) = (self.cache.filled, self.text());
                let features = self.model.features_cached(&input, from..end, &mut self.cache);
                self.cache.filled = text;
                self.positions += (end - from) as u64;
                self.layer_positions += ((text - from) * layers.text + (end - text) * layers.noise) as u64;
                select_rows(features, &at.iter().map(|p| p - from).collect::<Vec<_>>())
            }
            _ => {
                self.positions += l as u64;
                self.layer_positions += (l * layers.whole) as u64;
                self.model.features_at(&input, &at)
            }
        };
        let vocab = self.model.vocab();
        let log_p = params::floats(self.model.predict(features));
        let mut guesses = Vec::with_capacity(at.len());
        for (row, at) in log_p.chunks(vocab).zip(at) {
            if row.iter().any(|v| v.is_nan()) || row.iter().all(|v| *v == f32::NEG_INFINITY) {
                return Err(draw::not_finite());
            }
            let token = self.spec.filter.at(row, self.token.random());
            let entropy = entropy(row, self.spec.filter.temperature);
            guesses.push(Guess { at, token, probability: f64::from(row[token as usize]).exp(), entropy });
        }
        Ok(guesses)
    }

    /// The end of the finished blocks on the left.
    fn text(&self) -> usize {
        let text = self.masked.iter().take_while(|m| !**m).count();
        if text == self.x.len() { text } else { self.layout.range(text).start }
    }

    fn put(&mut self, guess: Guess) {
        self.x[guess.at] = guess.token;
        self.masked[guess.at] = false;
    }

    fn traced(&mut self) {
        if self.spec.trace {
            self.trace.push(self.x.clone());
        }
    }

    fn pipelined(&mut self, rule: Pipelined) -> Result<()> {
        let blocks = self.layout.ranges(self.process.length);
        let mut open = 0;
        while let Some(first) = self.masked.iter().position(|m| *m) {
            // What is given may cover whole blocks.
            open = open.max(self.layout.index(first) + 1);
            let end = blocks[open - 1].end;
            let guesses = self.pass(first..end, end)?;
            for (n, block) in blocks[..open].iter().enumerate() {
                let mine = || guesses.iter().filter(|g| block.contains(&g.at));
                let sure: Vec<Guess> = mine().filter(|g| g.probability >= rule.commit).copied().collect();
                let active = n == 0 || self.share_of_text(&blocks[n - 1]) >= rule.activate;
                let surest =
                    mine().max_by(|a, b| a.probability.total_cmp(&b.probability).then(b.at.cmp(&a.at))).copied();
                if sure.is_empty() && active {
                    surest.into_iter().for_each(|g| self.put(g));
                }
                sure.into_iter().for_each(|g| self.put(g));
            }
            let unfinished = blocks[..open].iter().filter(|b| self.share_of_text(b) < 1.0).count();
            let last = self.share_of_text(&blocks[open - 1]);
            if open < blocks.len() && unfinished < rule.window && (last >= rule.add || unfinished == 0) {
                open += 1;
            }
            self.traced();
        }
        Ok(())
    }

    fn share_of_text(&self, block: &Range<usize>) -> f64 {
        block.clone().filter(|p| !self.masked[*p]).count() as f64 / block.len() as f64
    }

    fn surest_first(&mut self) -> Result<()> {
        let blocks = self.layout.ranges(self.process.length);
        for (n, block) in blocks.iter().enumerate() {
            // What given text has saved is shared by the blocks that are left.
            let mut left = (self.spec.steps - self.nfe) / (blocks.len() - n);
            while block.clone().any(|p| self.masked[p]) {
                let guesses = self.pass(block.clone(), block.end)?;
                let count = guesses.len().div_ceil(left.max(1));
                surest(guesses, count).into_iter().for_each(|g| self.put(g));
                left = left.saturating_sub(1);
                self.traced();
            }
        }
        Ok(())
    }

    fn switch(&mut self, rule: Switch) -> Result<()> {
        let blocks = self.layout.ranges(self.process.length);
        for (n, block) in blocks.iter().enumerate() {
            // What the blocks so far have not used is shared by those that are left.
            let mut left = (self.spec.steps - self.nfe) / (blocks.len() - n);
            while block.clone().any(|p| self.masked[p]) {
                let guesses = self.pass(block.clone(), block.end)?;
                let total: f64 = guesses.iter().map(|g| g.entropy).sum();
                let largest = guesses.iter().map(|g| g.entropy).fold(0.0, f64::max);
                let together = match total - largest <= rule.tolerance {
                    true => guesses.len(),
                    // From the left, as many as the budget needs.
                    false => guesses.len().div_ceil(left.max(1)),
                };
                guesses.into_iter().take(together).for_each(|g| self.put(g));
                left = left.saturating_sub(1);
                self.traced();
            }
        }
        Ok(())
    }
}

/// The `n` guesses of the largest probability, the left one of equals first.
fn surest(mut guesses: Vec<Guess>, n: usize) -> Vec<Guess> {
    guesses.sort_by(|a, b| b.probability.total_cmp(&a.probability).then(a.at.cmp(&b.at)));
    guesses.truncate(n);
    guesses
}

/// Entropy in nats of log-probabilities [V] at the temperature that tokens are drawn at (at 0, of what they are).
fn entropy(log_p: &[f32], temperature: f64) -> f64 {
    let scale = if temperature < 1e-30 { 1.0 } else { 1.0 / temperature };
    let top = log_p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut total, mut weighted) = (0.0, 0.0);
    for v in log_p.iter().map(|v| f64::from(v - top) * scale).filter(|v| *v > -80.0) {
        total += v.exp();
        weighted += v.exp() * v;
    }
    total.ln() - weighted / total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::story::{Story, StoryConfig};
    use crate::model::config::Visibility;
    use crate::model::{Oracle, Transformer, TransformerConfig};
    use crate::process::{Corruption, Order, Schedule};
    use burn::prelude::Device;

    fn process(length: usize, cached: bool) -> Process {
        let order = Order::in_blocks(4);
        Process {
            order,
            schedule: Schedule::LogLinear,
            corruption: Corruption::Absorb,
            length,
            cached,
            chain: None,
            decode: Default::default(),
        }
    }

    fn network(encoder_layers: usize) -> Transformer {
        let config = TransformerConfig {
            encoder_layers,
            learned_positions: true,
            ..TransformerConfig::new(16, 3, 2, Visibility::Order)
        };
        Transformer::init(&config, 11, 14, 3, &Device::flex())
    }

    #[test]
    fn decoding_by_confidence_is_the_same_with_and_without_a_cache() {
        let rule = Pipelined { block: 4, window: 3, add: 0.25, activate: 0.5, commit: 0.3 };
        let switch = Rule::Switch(Switch { block: 4, tolerance: 5.0 });
        let surest = Rule::Confidence(Confidence { block: 4 });
        for (decode, encoders) in [(Rule::Pipelined(rule), &[0][..]), (switch, &[0, 1, 2]), (surest, &[0, 1, 2])] {
            for encoder_layers in encoders.iter().copied() {
                let model = network(encoder_layers);
                let spec = SampleSpec { trace: true, ..SampleSpec::new(10, 3, 1) };
                let draw = |cached| sample(&model, &process(14, cached), &decode, &spec, 6).unwrap();
                let (with, without) = (draw(true), draw(false));
                assert_eq!((&with.tokens, &with.trace, &with.nfe), (&without.tokens, &without.trace, &without.nfe));
                assert!(with.positions.iter().zip(&without.positions).all(|(a, b)| a < b));
                assert!(with.tokens.iter().flatten().all(|t| *t < 11));
            }
        }
    }

    #[test]
    fn what_is_given_stays_and_whole_given_blocks_take_no_pass() {
        let rule = Pipelined { block: 4, window: 2, add: 0.25, activate: 0.5, commit: 0.3 };
        let surest = Rule::Confidence(Confidence { block: 4 });
        for decode in [Rule::Pipelined(rule), Rule::Switch(Switch { block: 4, tolerance: 5.0 }), surest] {
            let model = network(0);
            for given in [0..4, 0..9, 2..12, 4..8, 0..13, 0..14] {
                let pinned: Vec<Option<u32>> = (0..14).map(|p| given.contains(&p).then_some(3)).collect();
                let spec = SampleSpec { pinned, ..SampleSpec::new(14, 3, 1) };
                let draw = |cached| sample(&model, &process(14, cached), &decode, &spec, 3).unwrap();
                let (with, without) = (draw(true), draw(false));
                assert_eq!((&with.tokens, &with.nfe), (&without.tokens, &without.nfe), "{given:?}");
                for (text, nfe) in with.tokens.iter().zip(&with.nfe) {
                    assert!(given.clone().all(|p| text[p] == 3) && text.iter().all(|t| *t < 11));
                    assert!(*nfe <= 14 - given.len());
                }
            }
        }
    }

    #[test]
    fn entropy_is_that_of_what_is_drawn_from() {
        let log_p = |p: [f64; 3]| p.map(|p| p.ln() as f32);
        let want = -(0.5f64 * 0.5f64.ln() + 0.3 * 0.3f64.ln() + 0.2 * 0.2f64.ln());
        assert!((entropy(&log_p([0.5, 0.3, 0.2]), 1.0) - want).abs() < 1e-6);
        assert!((entropy(&log_p([0.5, 0.3, 0.2]), 0.0) - want).abs() < 1e-6);
        // At temperature 1/2 probabilities are squared.
        let (a, b) = (0.8f64 * 0.8 / 0.68, 0.2f64 * 0.2 / 0.68);
        let log = [0.8f32.ln(), 0.2f32.ln(), f32::NEG_INFINITY];
        assert!((entropy(&log, 0.5) + a * a.ln() + b * b.ln()).abs() < 1e-6);
    }

    #[test]
    fn switching_keeps_to_its_budget_and_uses_it_where_the_tolerance_is_zero() {
        let story = Story::new(&StoryConfig { names: 2, things: 2, places: 1, count: 3, noise: 1e-4 }).unwrap();
        let oracle = Oracle::new(story.chain().clone(), Device::flex());
        let length = story.length();
        for budget in [length.div_ceil(4), 12, 20, length] {
            for tolerance in [0.0, 0.5, 1e9] {
                let rule = Rule::Switch(Switch { block: 4, tolerance });
                let drawn =
                    sample(&oracle, &process(length, false), &rule, &SampleSpec::new(budget, 7, 1), 20).unwrap();
                assert!(drawn.nfe.iter().all(|nfe| *nfe <= budget), "{budget}: {:?}", drawn.nfe);
                if tolerance == 1e9 {
                    assert!(drawn.nfe.iter().all(|nfe| *nfe == length.div_ceil(4)));
                }
                if budget == length && tolerance == 0.0 {
                    // Token by token the oracle is exact.
                    assert!(drawn.tokens.iter().filter(|t| story.is_valid(t)).count() >= 19);
                }
            }
        }
        let rule = Rule::Switch(Switch { block: 4, tolerance: 1.0 });
        let error = sample(&oracle, &process(length, false), &rule, &SampleSpec::new(2, 7, 1), 1).unwrap_err();
        assert!(error.to_string().contains("use at least 8"), "{error}");
    }

    #[test]
    fn pipelined_decoding_of_sure_predictions_takes_about_one_pass_a_block_and_of_unsure_ones_one_a_token() {
        let story = Story::new(&StoryConfig { names: 2, things: 2, places: 1, count: 3, noise: 1e-4 }).unwrap();
        let oracle = Oracle::new(story.chain().clone(), Device::flex());
        let length = story.length();
        let passes = |commit: f64, window: usize| {
            let rule = Pipelined { block: 4, window, add: 0.1, activate: 0.95, commit };
            let spec = SampleSpec::new(1, 7, 1);
            sample(&oracle, &process(length, false), &Rule::Pipelined(rule), &spec, 8).unwrap().nfe
        };
        assert!(passes(0.0, 1).iter().all(|nfe| *nfe == length.div_ceil(4)));
        assert!(passes(2.0, 1).iter().all(|nfe| *nfe == length));
        assert!(passes(0.9, 4).iter().sum::<usize>() < passes(0.9, 1).iter().sum::<usize>());
    }

    #[test]
    fn the_surest_positions_come_first_as_many_in_each_pass_as_the_steps_need() {
        let guess = |at, probability| Guess { at, token: 0, probability, entropy: 0.0 };
        let found = surest(vec![guess(3, 0.5), guess(1, 0.9), guess(0, 0.5), guess(2, 0.1)], 3);
        assert_eq!(found.iter().map(|g| g.at).collect::<Vec<_>>(), [1, 0, 3]);
        let story = Story::new(&StoryConfig { names: 2, things: 2, places: 1, count: 3, noise: 1e-4 }).unwrap();
        let oracle = Oracle::new(story.chain().clone(), Device::flex());
        let length = story.length();
        for (block, steps) in [(0, 1), (0, 5), (0, length), (4, 8), (4, 19), (8, length)] {
            let rule = Rule::Confidence(Confidence { block });
            let spec = SampleSpec { trace: true, ..SampleSpec::new(steps, 7, 1) };
            let drawn = sample(&oracle, &process(length, false), &rule, &spec, 20).unwrap();
            assert!(drawn.nfe.iter().all(|nfe| *nfe <= steps), "{block} {steps}: {:?}", drawn.nfe);
            let revealed = |trace: &Vec<Vec<u32>>| {
                let masks = |x: &Vec<u32>| x.iter().filter(|t| **t == oracle.mask()).count();
                trace.windows(2).map(|two| masks(&two[0]) - masks(&two[1])).collect::<Vec<_>>()
            };
            if block == 0 {
                assert!(drawn.trace.iter().all(|t| revealed(t).iter().all(|n| *n <= length.div_ceil(steps))));
            }
            if steps == length {
                // One token a pass, each drawn from the exact distribution given the others, in an order of its own.
                assert!(drawn.trace.iter().all(|t| revealed(t).iter().all(|n| *n == 1)));
                assert!(drawn.tokens.iter().filter(|t| story.is_valid(t)).count() >= 19);
            }
        }
        let few = sample(
            &oracle,
            &process(length, false),
            &Rule::Confidence(Confidence { block: 4 }),
            &SampleSpec::new(2, 7, 1),
            1,
        );
        assert!(few.unwrap_err().to_string().contains("use at least 8"));
    }
}
