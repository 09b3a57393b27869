//! The ways a process is walked from noise to text: by its order's table, by thresholds, by switching, or the best of several
//! candidates; as a sampler takes them, and as a recipe or a command names them.
//!
//! L length.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Process;
pub use super::adaptive::{Confidence, Pipelined, Rule, Switch};
use crate::error::{Result, whole_within};
use crate::model::TransformerConfig;
use crate::model::config::Visibility;
use crate::process::Layout;
use crate::process::ddpm::Sampler;
use crate::process::order::OrderConfig;

/// How a process is walked from noise to text.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Decode {
    /// In the steps of the order's table.
    #[default]
    Table,
    /// In the steps of the order's table, the last of which takes the most probable tokens (uniform noise; DUO's `greedy`).
    GreedyTail,
    /// By what each pass is sure of.
    Rule(Rule),
    /// In the steps of the order's table, so many candidates a sample, of which the one that the others resemble most is kept
    /// (minimum Bayes risk; AR-Diffusion).
    Mbr(usize),
    /// Down the levels of a diffusion of embeddings.
    Gaussian(Sampler),
}

impl Decode {
    /// The blocks it works on, where it does not follow the order.
    pub fn layout(&self, process: &Process) -> Layout {
        match self {
            Decode::Table | Decode::GreedyTail | Decode::Mbr(_) | Decode::Gaussian(_) => process.order.layout(),
            Decode::Rule(rule) => rule.layout(process.length),
        }
    }
}

/// The ways a recipe can name to draw from a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DecodeConfig {
    /// In the steps of this order's table.
    Order(OrderConfig),
    /// In the steps of this order's table, the last of which takes the most probable tokens; for uniform noise.
    GreedyTail(OrderConfig),
    Pipelined(Pipelined),
    /// The step counts of `eval.steps` are budgets of passes.
    Switch(Switch),
    /// The surest positions first, as many in each of the steps.
    Confidence(Confidence),
    /// Several candidates are drawn in this order, and the one most similar to the others is kept. All of them cost passes.
    Mbr {
        /// The order in which each candidate is drawn.
        order: OrderConfig,
        /// Candidates for each text.
        candidates: usize,
    },
    /// By this sampler of a diffusion of embeddings.
    Gaussian(Sampler),
}

impl DecodeConfig {
    /// The rule of a way that goes by confidence.
    fn rule(&self) -> Option<Rule> {
        match self {
            DecodeConfig::Pipelined(rule) => Some(Rule::Pipelined(*rule)),
            DecodeConfig::Switch(rule) => Some(Rule::Switch(*rule)),
            DecodeConfig::Confidence(rule) => Some(Rule::Confidence(*rule)),
            _ => None,
        }
    }

    /// As a table has it, on one line.
    pub fn name(&self) -> String {
        match self {
            DecodeConfig::Order(order) => order.name(),
            DecodeConfig::GreedyTail(order) => format!("{}, greedy tail", order.name()),
            DecodeConfig::Pipelined(_) | DecodeConfig::Switch(_) | DecodeConfig::Confidence(_) => {
                self.rule().map_or(String::new(), |rule| rule.name())
            }
            DecodeConfig::Mbr { order, candidates } => format!("{}, best of {candidates}", order.name()),
            DecodeConfig::Gaussian(sampler) => sampler.name(),
        }
    }

    /// The process of a model that is sampled in this way.
    pub fn process(&self, of: Process) -> Process {
        match self {
            DecodeConfig::Order(order) => Process { order: order.order(of.length), decode: Decode::Table, ..of },
            DecodeConfig::GreedyTail(order) => {
                Process { order: order.order(of.length), decode: Decode::GreedyTail, ..of }
            }
            DecodeConfig::Mbr { order, candidates } => {
                Process { order: order.order(of.length), decode: Decode::Mbr(*candidates), ..of }
            }
            DecodeConfig::Gaussian(sampler) => Process { decode: Decode::Gaussian(*sampler), ..of },
            DecodeConfig::Pipelined(_) | DecodeConfig::Switch(_) | DecodeConfig::Confidence(_) => {
                let Some(rule) = self.rule() else { return of };
                Process { order: rule.order().order(of.length), decode: Decode::Rule(rule), ..of }
            }
        }
    }

    /// Why a network cannot be sampled in this way, if it cannot.
    pub fn misfit(&self, network: &TransformerConfig) -> Option<&'static str> {
        let (visibility, encodes) = (network.visibility, network.encoder_layers > 0);
        let order = match self {
            DecodeConfig::Gaussian(_) => return Some("`gaussian` is for models of embeddings"),
            DecodeConfig::Order(order) | DecodeConfig::GreedyTail(order) | DecodeConfig::Mbr { order, .. } => {
                order.clone()
            }
            DecodeConfig::Pipelined(_) | DecodeConfig::Switch(_) | DecodeConfig::Confidence(_) => {
                self.rule().map_or(OrderConfig::Parallel, |rule| rule.seen())
            }
        };
        let fits = match (visibility, &order) {
            (_, OrderConfig::Mixture(_)) => return Some("one order is sampled at a time"),
            (Visibility::Order, _) => true,
            (Visibility::Causal, order) => *order == OrderConfig::LeftToRight && self.rule().is_none(),
            (Visibility::Full, order) => !matches!(order, OrderConfig::Segments { .. }),
            (Visibility::Blocks(_), order) if order.phased() => false,
            (Visibility::Blocks(size), OrderConfig::Blocks(block) | OrderConfig::Pipelined { block, .. }) => {
                *block == size
            }
            (Visibility::Blocks(size), OrderConfig::ArDiffusion { .. } | OrderConfig::LeftToRight) => size == 1,
            (Visibility::Blocks(_), _) => false,
        };
        if !fits {
            return Some("a network of another visibility is sampled in its own blocks alone");
        }
        if network.uniforms && !matches!(self, DecodeConfig::Order(_) | DecodeConfig::Mbr { .. }) {
            return Some("what picks its tokens is drawn for the steps of an order");
        }
        match encodes {
            true if order.noisy() => Some("under this order noise sees blocks that are not finished"),
            _ if order.phased() && visibility == Visibility::Order && !network.reads_phases() => Some(
                "phases are read by a network that describes the token it reads, without `encoder_layers` and `local`",
            ),
            _ => None,
        }
    }

    /// Checks ranges; `key` names it in errors.
    ///
    /// # Errors
    /// A setting out of range (usage).
    pub fn validate(&self, key: &str) -> Result<()> {
        let whole = |name: &str, value: usize, low: usize, high: usize| {
            whole_within(&format!("{key}.{name}"), value, low..=high)
        };
        match self {
            DecodeConfig::Order(order) | DecodeConfig::GreedyTail(order) => order.validate(key),
            DecodeConfig::Gaussian(sampler) => sampler.validate(&format!("{key}.gaussian")),
            DecodeConfig::Mbr { order, candidates } => {
                whole("mbr.candidates", *candidates, 2, 1024)?;
                order.validate(key)
            }
            DecodeConfig::Pipelined(_) | DecodeConfig::Switch(_) | DecodeConfig::Confidence(_) => {
                self.rule().map_or(Ok(()), |rule| rule.validate(key))
            }
        }
    }
}

/// Those of the step counts that a process can be walked in; where there are none, the fewest it can be.
///
/// Token by token there is one step a token, and decoding by thresholds takes as many passes as it needs, at most one a token.
pub fn walkable(process: &Process, steps: &[usize]) -> Vec<usize> {
    let length = process.length;
    let blocks = match process.decode {
        Decode::Table | Decode::GreedyTail | Decode::Mbr(_) => process.order.blocks(length),
        _ => process.decode.layout(process).count(length),
    };
    match process.decode {
        Decode::Rule(rule) => rule.walkable(length, steps),
        // One step a phase, so that as many phases as steps are at most one a position.
        Decode::Table | Decode::Mbr(_) if process.order.pattern.is_some_and(|p| p.follows_steps()) => {
            let each = |k: &usize| k.is_multiple_of(blocks) && k / blocks <= process.order.block.min(length);
            let walked: Vec<usize> = steps.iter().copied().filter(each).collect();
            if walked.is_empty() { vec![blocks] } else { walked }
        }
        Decode::Table | Decode::Mbr(_) if process.order.pattern.is_some() => vec![blocks],
        Decode::Table | Decode::GreedyTail | Decode::Mbr(_) if blocks == length && process.order.window == 1 => {
            vec![length]
        }
        Decode::Gaussian(_) => steps.to_vec(),
        Decode::Table | Decode::GreedyTail | Decode::Mbr(_) if process.order.window > 1 => steps.to_vec(),
        Decode::Table | Decode::GreedyTail | Decode::Mbr(_) => {
            let walked: Vec<usize> = steps.iter().copied().filter(|k| *k >= blocks).collect();
            if walked.is_empty() { vec![blocks] } else { walked }
        }
    }
}
