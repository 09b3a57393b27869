//! The ways a process is walked from noise to text: by its order's table, by thresholds, by switching, or the best of several
//! candidates; as a sampler takes them, and as a recipe or a command names them.
//!
//! L length.

use serde::{Deserialize, Serialize};

use super::Process;
use crate::error::{self, Result, whole_within};
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
    /// Blocks that are opened and committed by confidence.
    Pipelined(Pipelined),
    /// Each block at once or token by token; the steps are the budget of passes.
    Switch(Switch),
    /// In the steps of the order's table, so many candidates a sample, of which the one that the others resemble most is kept
    /// (minimum Bayes risk; AR-Diffusion).
    Mbr(usize),
    /// Down the levels of a diffusion of embeddings.
    Gaussian(Sampler),
}

/// The thresholds of pipelined decoding, shares and probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// Positions of a block.
    pub block: usize,
    /// Nats of error, as the model's own predictions bound it, that drawing a block at once may cost.
    pub tolerance: f64,
}

impl Decode {
    /// The blocks it works on, where it does not follow the order.
    pub fn layout(&self, process: &Process) -> Layout {
        match self {
            Decode::Table | Decode::GreedyTail | Decode::Mbr(_) | Decode::Gaussian(_) => process.order.layout(),
            Decode::Pipelined(p) => Layout::blocks(p.block.min(process.length)),
            Decode::Switch(s) => Layout::blocks(s.block.min(process.length)),
        }
    }
}

/// The ways a recipe can name to draw from a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DecodeConfig {
    /// In the steps of this order's table.
    Order(OrderConfig),
    /// In the steps of this order's table, the last of which takes the most probable tokens; for uniform noise.
    GreedyTail(OrderConfig),
    Pipelined(Pipelined),
    /// The step counts of `eval.steps` are budgets of passes.
    Switch(Switch),
    /// The best of several candidates in this order, at the cost of all.
    Mbr {
        order: OrderConfig,
        candidates: usize,
    },
    /// By this sampler of a diffusion of embeddings.
    Gaussian(Sampler),
}

impl DecodeConfig {
    /// As a table has it, on one line.
    pub fn name(&self) -> String {
        match self {
            DecodeConfig::Order(order) => order.name(),
            DecodeConfig::GreedyTail(order) => format!("{}, greedy tail", order.name()),
            DecodeConfig::Pipelined(p) => format!("pipelined {} x {}, p > {}", p.block, p.window, p.commit),
            DecodeConfig::Switch(s) => format!("switch {}, {} nats", s.block, s.tolerance),
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
            DecodeConfig::Pipelined(p) => {
                let order = OrderConfig::Pipelined { block: p.block, window: p.window };
                Process { order: order.order(of.length), decode: Decode::Pipelined(*p), ..of }
            }
            DecodeConfig::Switch(s) => {
                Process { order: OrderConfig::Blocks(s.block).order(of.length), decode: Decode::Switch(*s), ..of }
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
            DecodeConfig::Pipelined(p) => OrderConfig::Pipelined { block: p.block, window: p.window.max(2) },
            DecodeConfig::Switch(s) => OrderConfig::Blocks(s.block),
        };
        let fits = match (visibility, &order) {
            (_, OrderConfig::Mixture(_)) => return Some("one order is sampled at a time"),
            (Visibility::Order, _) => true,
            (Visibility::Causal, order) => {
                *order == OrderConfig::LeftToRight && !matches!(self, DecodeConfig::Switch(_))
            }
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
    pub fn validate(&self, key: &str) -> Result<()> {
        let whole = |name: &str, value: usize, low: usize, high: usize| {
            whole_within(&format!("{key}.{name}"), value, low..=high)
        };
        let within = |name: &str, value: f64, high: f64| error::within(&format!("{key}.{name}"), value, 0.0..=high);
        match self {
            DecodeConfig::Order(order) | DecodeConfig::GreedyTail(order) => order.validate(key),
            DecodeConfig::Gaussian(sampler) => sampler.validate(&format!("{key}.gaussian")),
            DecodeConfig::Mbr { order, candidates } => {
                whole("mbr.candidates", *candidates, 2, 1024)?;
                order.validate(key)
            }
            DecodeConfig::Pipelined(p) => {
                whole("pipelined.block", p.block, 1, 1_000_000)?;
                whole("pipelined.window", p.window, 1, 1_000_000)?;
                within("pipelined.add", p.add, 1.0)?;
                within("pipelined.activate", p.activate, 1.0)?;
                within("pipelined.commit", p.commit, 1.0)
            }
            DecodeConfig::Switch(s) => {
                whole("switch.block", s.block, 1, 1_000_000)?;
                within("switch.tolerance", s.tolerance, 1e6)
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
        Decode::Pipelined(_) => vec![length],
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
        Decode::Table | Decode::GreedyTail | Decode::Mbr(_) | Decode::Switch(_) => {
            let walked: Vec<usize> = steps.iter().copied().filter(|k| *k >= blocks).collect();
            if walked.is_empty() { vec![blocks] } else { walked }
        }
    }
}
