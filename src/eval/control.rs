//! Controllable generation (Li et al. 2022, arXiv 2205.14217, section 4): sentences that are asked to tell an attribute, and
//! to have a length of a class.
//!
//! Every model is given the same held-out conditions (data/pairs.rs) and draws one sentence for each. A network that looks
//! back only continues the condition through its cache; masked diffusion fills in what stands behind it. Scores:
//!
//! * `attribute`: the value stands in the sentence (in a story: at the place of its field). `length`: the sentence's words
//!   are of the class that was asked for. `both`: both, where lengths are asked for.
//! * `judge_nll`: nats per token of the sentence with its end, under the study's judge, behind a condition that asks for
//!   nothing: fluency does not depend on what was asked for. Never without `entropy`, the unigram entropy of the sentence.
//! * `well_formed`: one end stands in the sequence, words before it and padding behind it. A sentence is read up to its first
//!   end or padding, so that the other scores forgive what stands behind.
//! * `valid` and `oracle_nll` (nats per token, exact) where sentences are stories.
//!
//! The floor of every score of control is what a model draws that is asked for nothing (`Arm::Unasked`), scored against the same
//! conditions.
//!
//! L length, C width of a condition, n conditions.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use indexmap::IndexMap;
use rand::RngCore;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quality;
use super::stats::{Estimate, mean, mean_interval};
use crate::data::pairs::{Ask, END, PAD, Pairs};
use crate::data::story::Story;
use crate::error::{Error, Result, whole_within};
use crate::method;
use crate::model::Transformer;
use crate::rng::{StepRng, Stream};
use crate::sample::embedding::{self, Steering};
use crate::sample::{Embedding, Generator, GuidanceConfig, SampleSpec};

/// How controllable generation is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ControlConfig {
    /// Held-out conditions (n), one sentence for each.
    pub samples: usize,
    /// Denoising steps; an autoregressive model always takes one a token.
    pub steps: Vec<usize>,
    /// Guidance of diffusions of embeddings, by the model's name; default: none.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub guidance: IndexMap<String, GuidanceConfig>,
}

impl Default for ControlConfig {
    fn default() -> Self {
        ControlConfig { samples: 256, steps: vec![32], guidance: IndexMap::new() }
    }
}

impl ControlConfig {
    /// Checks ranges.
    ///
    /// # Errors
    /// A setting out of range, or step counts that do not rise (usage).
    pub fn validate(&self) -> Result<()> {
        whole_within("eval.control.samples", self.samples, super::FEWEST..=1 << 20)?;
        super::step_counts("eval.control.steps", &self.steps)
    }
}

/// How a model is told what is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// It continues the condition.
    Prefix,
    /// It fills in what stands behind the condition.
    Infilling,
    /// It sees a condition that asks for nothing, and is scored as if asked.
    Unasked,
    /// A classifier's gradient steers it; the condition that it sees asks for nothing.
    Guidance,
}

impl Arm {
    /// In words, as a table has it.
    pub fn words(self) -> &'static str {
        match self {
            Arm::Prefix => "condition as prefix",
            Arm::Infilling => "condition pinned",
            Arm::Unasked => "nothing asked",
            Arm::Guidance => "classifier guidance",
        }
    }
}

/// A model's sentences under conditions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Seed of conditions and draws.
    pub seed: u64,
    pub rows: Vec<ControlRow>,
    /// What the held-out sentences score that fulfil the conditions.
    pub reference: IndexMap<String, Estimate>,
}

/// One arm in one number of steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlRow {
    pub arm: Arm,
    pub steps: usize,
    /// Conditions.
    pub n: usize,
    /// Mean network passes a sentence.
    pub nfe: f64,
    /// Mean positions computed for a sentence.
    pub positions: f64,
    /// Mean and interval of each score, by score key.
    pub scores: IndexMap<String, Estimate>,
    /// The score of each sentence `[n]`, by score key; condition i is the same in all rows with equal seed.
    pub samples: IndexMap<String, Vec<f64>>,
    /// Scores of all sentences together: `unique` and `self_distinct_2`.
    pub corpus: IndexMap<String, f64>,
}

/// Sentences that were drawn for conditions, and what they cost.
#[derive(Debug, Clone, Default)]
pub struct Drawn {
    /// Sequences `[n][L]`.
    pub tokens: Vec<Vec<u32>>,
    pub nfe: Vec<usize>,
    pub positions: Vec<u64>,
}

/// Measures a model that is given conditions as tokens, and where there is a classifier also guided by it; at most `batch`
/// sequences are read at once.
///
/// # Errors
/// Those of sampling; a classifier that is to steer what has no noisy embeddings (usage).
pub fn measure(
    generator: &Generator,
    config: &ControlConfig,
    seed: u64,
    batch: usize,
    pairs: &Pairs,
    judge: &Transformer,
    guidance: Option<(&Transformer, &GuidanceConfig)>,
) -> Result<Control> {
    let left = matches!(generator, Generator::Tokens(model, process) if process.cached && !model.over_blocks());
    let (arm, steps) =
        if left { (Arm::Prefix, vec![generator.length()]) } else { (Arm::Infilling, config.steps.clone()) };
    let asks: Vec<Ask> = (0..config.samples as u64).map(|i| pairs.asked(seed, i).0).collect();
    let mut rows = Vec::new();
    // A model of latents is told conditions another way, and data without sentences that nothing was asked of taught none.
    let unasked = pairs.unconditional() > 0.0 && !matches!(generator, Generator::Latent(_));
    for arm in std::iter::once(arm).chain(unasked.then_some(Arm::Unasked)) {
        for k in &steps {
            let drawn = match generator {
                Generator::Embedding(of) => draw_together(of, *k, seed, batch, pairs, &asks, arm)?,
                _ => draw(generator, *k, seed, batch, pairs, &asks, arm)?,
            };
            rows.push(row(arm, *k, &drawn, &asks, pairs, judge)?);
        }
    }
    if let Some((classifier, config)) = guidance {
        let Generator::Embedding(free) = generator else {
            return Err(Error::usage("a classifier steers a diffusion of embeddings, and this model is none"));
        };
        let conditions: Vec<Vec<u32>> = asks.iter().map(|ask| pairs.condition(Some(*ask))).collect();
        let steering = Some(Steering { classifier, config, conditions: &conditions });
        for k in &steps {
            let drawn = draw_together(&Embedding { steering, ..*free }, *k, seed, batch, pairs, &asks, Arm::Guidance)?;
            rows.push(row(Arm::Guidance, *k, &drawn, &asks, pairs, judge)?);
        }
    }
    Ok(Control { seed, rows, reference: reference(config.samples, seed, pairs, judge)? })
}

/// The positions [L] that are given where a sentence is drawn for a condition.
fn given(pairs: &Pairs, ask: Ask, arm: Arm) -> Vec<Option<u32>> {
    let told = match arm {
        Arm::Prefix | Arm::Infilling => Some(ask),
        Arm::Unasked | Arm::Guidance => None,
    };
    let condition = pairs.condition(told).into_iter().map(Some);
    condition.chain(std::iter::repeat(None)).take(pairs.length()).collect()
}

/// One sentence for each condition from a diffusion of embeddings, which takes other conditions in one batch; one that is steered
/// sees a condition that asks for nothing.
fn draw_together(
    of: &Embedding,
    steps: usize,
    seed: u64,
    batch: usize,
    pairs: &Pairs,
    asks: &[Ask],
    arm: Arm,
) -> Result<Drawn> {
    let rows: Vec<_> = asks.iter().map(|ask| given(pairs, *ask, arm)).collect();
    let found = embedding::sample_each(of, &SampleSpec::new(steps, seed, batch), &rows)?;
    Ok(Drawn { tokens: found.tokens, nfe: found.nfe, positions: found.positions })
}

/// One sentence for each condition; those of equal conditions are drawn together.
fn draw(
    generator: &Generator,
    steps: usize,
    seed: u64,
    batch: usize,
    pairs: &Pairs,
    asks: &[Ask],
    arm: Arm,
) -> Result<Drawn> {
    let n = asks.len();
    let mut drawn = Drawn { tokens: vec![Vec::new(); n], nfe: vec![0; n], positions: vec![0; n] };
    let mut groups: IndexMap<Vec<u32>, Vec<usize>> = IndexMap::new();
    for (i, ask) in asks.iter().enumerate() {
        groups.entry(pairs.condition(Some(*ask))).or_default().push(i);
    }
    for members in groups.into_values() {
        // Sample j of a condition is the j-th that asks for it: a function of the seed and the condition's number.
        let ask = asks[members[0]];
        let number = ask.value as u64 * 64 + ask.class.map_or(0, |c| c as u64);
        let own = StepRng::new(seed).at(number, Stream::Token).next_u64();
        let spec = SampleSpec { pinned: given(pairs, ask, arm), ..SampleSpec::new(steps, own, batch) };
        let found = generator.sample(&spec, members.len())?;
        for (j, i) in members.into_iter().enumerate() {
            drawn.tokens[i].clone_from(&found.tokens[j]);
            (drawn.nfe[i], drawn.positions[i]) = (found.nfe[j], found.positions[j]);
        }
    }
    Ok(drawn)
}

/// The scores of sentences drawn for conditions.
///
/// # Errors
/// Stories of the data that cannot be built (usage).
pub fn row(
    arm: Arm,
    steps: usize,
    drawn: &Drawn,
    asks: &[Ask],
    pairs: &Pairs,
    judge: &Transformer,
) -> Result<ControlRow> {
    let n = asks.len();
    let sentences: Vec<&[u32]> = drawn.tokens.iter().map(|t| pairs.sentence(t)).collect();
    let mut samples = scores(&sentences, asks, pairs, judge)?;
    samples.insert("well_formed".into(), drawn.tokens.iter().map(|t| well_formed(pairs, t)).collect());
    Ok(ControlRow {
        arm,
        steps,
        n,
        nfe: drawn.nfe.iter().sum::<usize>() as f64 / n as f64,
        positions: drawn.positions.iter().sum::<u64>() as f64 / n as f64,
        scores: estimates(&samples),
        samples,
        corpus: IndexMap::from([
            ("unique".to_string(), quality::unique(sentences.iter().copied())),
            ("self_distinct_2".to_string(), quality::self_distinct_2(sentences.iter().copied())),
        ]),
    })
}

/// What real sentences score under the same conditions.
///
/// # Errors
/// As [`row`].
pub fn reference(n: usize, seed: u64, pairs: &Pairs, judge: &Transformer) -> Result<IndexMap<String, Estimate>> {
    let (asks, sentences): (Vec<Ask>, Vec<&[u32]>) = (0..n as u64).map(|i| pairs.asked(seed, i)).unzip();
    let mut samples = scores(&sentences, &asks, pairs, judge)?;
    let whole = |(ask, sentence): (&Ask, &&[u32])| well_formed(pairs, &pairs.sequence(Some(*ask), sentence));
    samples.insert("well_formed".into(), asks.iter().zip(&sentences).map(whole).collect());
    Ok(estimates(&samples))
}

/// 1 where a sequence [L] is words behind its condition, one end, and padding alone behind it; else 0.
fn well_formed(pairs: &Pairs, tokens: &[u32]) -> f64 {
    let behind = &tokens[pairs.width()..];
    let rest = &behind[pairs.sentence(tokens).len()..];
    let whole = rest.split_first().is_some_and(|(end, tail)| *end == END && tail.iter().all(|t| *t == PAD));
    f64::from(u8::from(whole))
}

fn estimates(samples: &IndexMap<String, Vec<f64>>) -> IndexMap<String, Estimate> {
    samples.iter().map(|(key, values)| (key.clone(), mean_interval(values, 0))).collect()
}

fn scores(
    sentences: &[&[u32]],
    asks: &[Ask],
    pairs: &Pairs,
    judge: &Transformer,
) -> Result<IndexMap<String, Vec<f64>>> {
    let flag = |is: bool| f64::from(u8::from(is));
    let tells: Vec<bool> = sentences.iter().zip(asks).map(|(s, ask)| pairs.tells(*ask, s)).collect();
    let mut out = IndexMap::from([("attribute".to_string(), tells.iter().map(|t| flag(*t)).collect::<Vec<_>>())]);
    if asks.iter().any(|a| a.class.is_some()) {
        let right: Vec<bool> = sentences.iter().zip(asks).map(|(s, ask)| pairs.class(s.len()) == ask.class).collect();
        out.insert("length".into(), right.iter().map(|r| flag(*r)).collect());
        out.insert("both".into(), right.iter().zip(&tells).map(|(r, t)| flag(*r && *t)).collect());
    }
    out.insert("judge_nll".into(), fluency(judge, pairs, sentences));
    out.insert("entropy".into(), sentences.iter().map(|s| quality::unigram_entropy(s)).collect());
    if let Some(config) = pairs.story() {
        let story = Story::new(config)?;
        let exact: Vec<(bool, f64)> = sentences.iter().map(|s| story_score(&story, config.noise, pairs, s)).collect();
        out.insert("valid".into(), exact.iter().map(|e| flag(e.0)).collect());
        out.insert("oracle_nll".into(), exact.iter().map(|e| e.1).collect());
    }
    Ok(out)
}

/// NLL per token of each sentence with its end under the judge, nats, behind a condition that asks for nothing.
pub fn fluency(judge: &Transformer, pairs: &Pairs, sentences: &[&[u32]]) -> Vec<f64> {
    let (l, c) = (pairs.length(), pairs.width());
    let mut out = Vec::with_capacity(sentences.len());
    for group in sentences.chunks(16) {
        let whole = |s: &&[u32]| {
            // A sentence without an end fills its sequence.
            let mut tokens = [&pairs.condition(None), *s, &[END]].concat();
            tokens.resize(l, PAD);
            tokens
        };
        let texts: Vec<u32> = group.iter().flat_map(whole).collect();
        let (_, losses) = method::evaluate(judge, &method::ar_nll(&texts, l));
        let own = losses.chunks(l).zip(group).map(|(losses, s)| mean(&losses[c..(c + s.len() + 1).min(l)]));
        out.extend(own);
    }
    out
}

/// Whether a sentence is a faultless story, and its exact NLL per token, nats.
///
/// One of another length, or with a word that the language does not have, costs what noise costs in every word.
fn story_score(story: &Story, noise: f64, pairs: &Pairs, sentence: &[u32]) -> (bool, f64) {
    let ids: HashMap<&str, u32> = story.words().iter().zip(0..).map(|(w, i)| (w.as_str(), i)).collect();
    let text: Option<Vec<u32>> =
        sentence.iter().map(|t| ids.get(pairs.words()[*t as usize].as_str()).copied()).collect();
    match text.filter(|t| t.len() == story.length()) {
        Some(text) => (story.is_valid(&text), -story.chain().log_likelihood(&text) / text.len() as f64),
        None => (false, -(noise / story.vocab() as f64).ln()),
    }
}
