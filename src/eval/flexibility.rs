//! Flexibility as measured tasks: filling a gap, and getting rid of words that are wrong.
//!
//! * **Infill.** A held-out text loses `gap` words at a place that is a function of (seed, i); the model is given the others and
//!   draws what is missing. A network that looks back only is given what stands before the gap, and what stands behind it
//!   is put there afterwards: that is what looking back costs. A network over blocks sees the blocks before the gap and
//!   what is given in the gap's own blocks. On the story language the draw has an exact score,
//!   -ln p(gap | rest)/gap, whose mean is the entropy of that posterior where draws are exact; a mean below it is mode seeking.
//! * **Recovery.** Of `errors` words in the left half of a held-out text each becomes another one, drawn uniformly; the model
//!   is given that half and generates the rest. No sampler that only reveals can take a given word back, and that is measured
//!   too. With remasking the finished text gets one more pass: the 2 `errors` words that the model finds least likely, each
//!   given all others that it sees, are masked and drawn anew. p(x_l | x without l) is the quality of a token in PRISM (Kim et al.
//!   2025, arXiv 2510.01384), asked of the network itself and not of a trained head; masking the least likely tokens again
//!   is the idea of ReMDM's confidence (Wang et al. 2025, arXiv 2503.00307). A network that looks back only cannot.
//!
//! L length, V vocabulary. All draws of text i come from (seed, i).

mod tasks;
#[cfg(test)]
mod tests;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stats::Estimate;
use crate::data::story::Story;
use crate::error::{Error, Result, whole_within};
use crate::model::Denoise;
use crate::sample::Process;
use tasks::{Draws, Part, Scores};

/// How flexibility is measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FlexibilityConfig {
    /// Held-out texts of each task.
    pub samples: usize,
    /// Words that are missing, side by side.
    pub gap: usize,
    /// Words that are wrong.
    pub errors: usize,
    /// Denoising steps of each block (of the whole text in the parallel order); a block of one position takes one.
    pub steps: usize,
}

impl Default for FlexibilityConfig {
    fn default() -> Self {
        FlexibilityConfig { samples: 128, gap: 8, errors: 2, steps: 16 }
    }
}

impl FlexibilityConfig {
    /// Checks ranges.
    ///
    /// # Errors
    /// A setting out of range (usage).
    pub fn validate(&self) -> Result<()> {
        whole_within("eval.flexibility.samples", self.samples, super::FEWEST..=1 << 20)?;
        for (key, value) in [("gap", self.gap), ("errors", self.errors), ("steps", self.steps)] {
            whole_within(&format!("eval.flexibility.{key}"), value, 1..=1 << 20)?;
        }
        Ok(())
    }

    /// Checks that the tasks fit into texts of `length` words.
    ///
    /// # Errors
    /// A gap or a number of errors that does not fit (usage).
    pub fn fits(&self, length: usize) -> Result<()> {
        for (key, value, most, why) in [
            ("gap", self.gap, length.saturating_sub(1), "something must be given"),
            ("errors", self.errors, length / 2, "they are in the left half"),
        ] {
            if value > most {
                return Err(Error::usage(format!(
                    "`eval.flexibility.{key}` is {value}, but a text has {length} words"
                ))
                .cause(why)
                .hint(format!("at most `eval.flexibility.{key} = {most}`")));
            }
        }
        Ok(())
    }
}

/// What of the given words a model sees while it draws one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sees {
    /// Those before it.
    Left,
    /// Those before it, and those of its own block.
    Blocks,
    /// All of them.
    Whole,
}

impl Sees {
    /// In words, as a table has it.
    pub fn words(self) -> &'static str {
        match self {
            Sees::Left => "what is left of it",
            Sees::Blocks => "what is left of it, and its block",
            Sees::Whole => "all that is given",
        }
    }
}

/// One task: its scores over n texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Texts.
    pub n: usize,
    /// Mean network passes a text, those that look for errors among them.
    pub nfe: f64,
    /// Mean and interval of each score, by score key.
    pub scores: IndexMap<String, Estimate>,
    /// The score of each text `[n]`, by score key.
    pub samples: IndexMap<String, Vec<f64>>,
}

/// A model's flexibility.
///
/// Scores of `infill`: `nll` (-ln p(gap | rest)/gap, nats), `posterior_entropy` (its mean over exact draws), `valid`,
/// `accuracy` (share of the held-out words met) and `oracle_accuracy` (what exact draws meet). Of `recovery` and `remasked`:
/// `nll` of the whole text, nats per token, `valid`, `gone` (share of the planted words that are no longer there),
/// `restored` (share of their places with the held-out word) and `kept` (share of the other given words that are still
/// there). On text that is no story there are `accuracy`, `gone`, `restored` and `kept` alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flexibility {
    /// Seed of places, planted words and draws.
    pub seed: u64,
    pub gap: usize,
    pub errors: usize,
    /// Denoising steps of each block.
    pub steps: usize,
    pub sees: Sees,
    pub infill: Task,
    /// Generation behind a damaged half, whose words stay.
    pub recovery: Task,
    /// The same texts after one pass of remasking; none: the network looks back only, or knows no mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remasked: Option<Task>,
}

impl Flexibility {
    /// The tasks that were measured, with their keys in results.
    pub fn tasks(&self) -> impl Iterator<Item = (&'static str, &Task)> {
        let all =
            [("infill", Some(&self.infill)), ("recovery", Some(&self.recovery)), ("remasked", self.remasked.as_ref())];
        all.into_iter().filter_map(|(key, task)| Some((key, task?)))
    }
}

/// Measures a model on `texts` `[n][L]`, reading at most `batch` sequences at once; `story` scores them where it is known.
///
/// # Errors
/// Tasks that do not fit into the texts (usage); those of sampling.
pub fn measure(
    model: &dyn Denoise,
    process: &Process,
    config: &FlexibilityConfig,
    seed: u64,
    batch: usize,
    texts: &[Vec<u32>],
    story: Option<&Story>,
) -> Result<Flexibility> {
    config.fits(process.length)?;
    if texts.is_empty() || model.vocab() < 2 {
        return Err(Error::usage("`eval.flexibility` needs a held-out text and a vocabulary of two words"));
    }
    let (mut infill, mut recovery, mut remasked) = (Scores::default(), Scores::default(), Scores::default());
    for (i, text) in texts.iter().enumerate() {
        let draws = Draws { seed, text: i as u64 };
        let gap = draws.gap(text.len(), config.gap);
        let (filled, nfe) = tasks::fill_gap(model, process, text, &gap, config.steps, draws.seed(Part::Infill))?;
        infill.passes.push(nfe as f64);
        infill.gap(text, &filled, &gap, story, draws);

        let damage = draws.damage(text, config.errors, model.vocab() as u32);
        let given = (0..text.len()).map(|l| (l < text.len() / 2).then(|| damage.text[l])).collect();
        let (plain, nfe) = tasks::fill(model, process, given, config.steps, draws.seed(Part::Rest))?;
        recovery.passes.push(nfe as f64);
        recovery.repair(text, &plain, &damage, story);
        // A second look masks what it doubts; under uniform noise there is no mask, and every pass may change a token.
        if sees(model, process) == Sees::Left || !process.corruption.absorbs() {
            continue;
        }
        let (looks, likely) = tasks::leave_one_out(model, process, &plain, batch);
        let masked = tasks::least(&likely, 2 * config.errors);
        let given = (0..text.len()).map(|l| (!masked.contains(&l)).then(|| plain[l])).collect();
        let (repaired, again) = tasks::fill(model, process, given, config.steps, draws.seed(Part::Repair))?;
        remasked.passes.push((nfe + looks + again) as f64);
        remasked.repair(text, &repaired, &damage, story);
    }
    Ok(Flexibility {
        seed,
        gap: config.gap,
        errors: config.errors,
        steps: config.steps,
        sees: sees(model, process),
        infill: infill.task(),
        recovery: recovery.task(),
        remasked: (!remasked.passes.is_empty()).then(|| remasked.task()),
    })
}

/// What of the given words the model sees.
pub fn sees(model: &dyn Denoise, process: &Process) -> Sees {
    match (process.cached, model.over_blocks()) {
        (true, false) => Sees::Left,
        // In phases what is given stands in front of all.
        (_, true) if process.order.pattern.is_some() && process.order.block >= process.length => Sees::Whole,
        (_, true) if process.order.blocks(process.length) > 1 => Sees::Blocks,
        _ => Sees::Whole,
    }
}
