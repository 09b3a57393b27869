//! The orders as a recipe names them, checked, and in words.
//!
//! L length.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::phases::{List, MOST_LISTED};
use super::{Context, Order, Pattern};
use crate::error::{Error, Result};
use crate::fs::sha256_hex;

/// The longest list that names spell out.
const SHOWN: usize = 16;
/// The largest number that an order may have, as the longest sequence: what is above it is no length.
const MOST: usize = 1 << 20;

/// The orders a recipe can name; each becomes an [`Order`] once the length is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OrderConfig {
    /// All positions at once: one block of the whole length.
    Parallel,
    /// One token after the other.
    LeftToRight,
    /// Blocks of so many tokens, one after the other over finished text; within a block all positions at once.
    Blocks(usize),
    /// Blocks of `block` tokens of which `window` are under way at the same time, each behind the one before it (D2F).
    Pipelined {
        /// Tokens in a block.
        block: usize,
        /// Blocks that are under way at the same time.
        window: usize,
    },
    /// Every position at its own time, left ones ahead: AR-Diffusion's path of so many levels, without rounding. Few levels
    /// are near autoregression; with many most of the path is spent on all positions at once.
    ArDiffusion {
        /// Levels of the path.
        levels: usize,
    },
    /// Segments that take turns: `text` tokens from left to right, then `block` tokens at once over the finished text.
    Segments {
        /// Tokens of a segment that is written from left to right.
        text: usize,
        /// Tokens of a segment that is written at once.
        block: usize,
    },
    /// So many phases: in each step the positions that are equally far behind a multiple of it, so that L/K streams are written
    /// from left to right at once. 0: as many as there are steps, for sampling alone.
    Strided(usize),
    /// So many phases, each in the middle of the gaps that the ones before it left. 0: as many as there are steps.
    Dilated(usize),
    /// The phase of each position, over and over: `[0, 2, 1, 2]`.
    Phases(Vec<usize>),
    /// Blocks of so many tokens one after the other, and in each of them this order with fixed phases.
    Within {
        /// Tokens in a block.
        block: usize,
        /// The order inside each block.
        order: Box<OrderConfig>,
    },
    /// One network trained over several orders, one of them a step; `fewstep sample` uses the first unless told otherwise, and an evaluation uses each.
    Mixture(Vec<OrderConfig>),
}

impl OrderConfig {
    /// The order at `length` tokens; of a mixture the first.
    pub fn order(&self, length: usize) -> Order {
        match self {
            OrderConfig::Parallel => Order::parallel(length),
            OrderConfig::LeftToRight => Order::left_to_right(),
            OrderConfig::Blocks(size) => Order::in_blocks((*size).clamp(1, length.max(1))),
            OrderConfig::Pipelined { block, window } => {
                let context = if *window > 1 { Context::Noisy } else { Context::Clean };
                Order { window: (*window).max(1), context, ..Order::in_blocks((*block).clamp(1, length.max(1))) }
            }
            OrderConfig::ArDiffusion { levels } => Order {
                window: length.max(2),
                context: Context::Noisy,
                levels: (*levels).max(2),
                ..Order::left_to_right()
            },
            OrderConfig::Segments { text, block } => Order { text: *text, ..Order::in_blocks((*block).max(1)) },
            OrderConfig::Strided(count) => Order::in_phases(Pattern::Strided(*count), length),
            OrderConfig::Dilated(count) => Order::in_phases(Pattern::Dilated(*count), length),
            OrderConfig::Phases(phases) => match List::new(phases) {
                Some(list) => Order::in_phases(Pattern::Listed(list), length),
                None => Order::parallel(length),
            },
            OrderConfig::Within { block, order } => {
                let block = (*block).clamp(1, length.max(1));
                Order { pattern: order.order(block).pattern, ..Order::in_blocks(block) }
            }
            OrderConfig::Mixture(all) => all.first().map_or(Order::parallel(length), |first| first.order(length)),
        }
    }

    /// Whether its number of phases is that of the steps, so that it can be sampled in and not trained.
    pub fn follows_steps(&self) -> bool {
        match self {
            OrderConfig::Strided(0) | OrderConfig::Dilated(0) => true,
            OrderConfig::Within { order, .. } => order.follows_steps(),
            OrderConfig::Mixture(all) => all.iter().any(OrderConfig::follows_steps),
            _ => false,
        }
    }

    /// Whether every position has a phase of its own that does not depend on chance.
    pub fn phased(&self) -> bool {
        match self {
            OrderConfig::Strided(_) | OrderConfig::Dilated(_) | OrderConfig::Phases(_) | OrderConfig::Within { .. } => {
                true
            }
            OrderConfig::Mixture(all) => all.iter().any(OrderConfig::phased),
            _ => false,
        }
    }

    /// Every order that a network is trained over.
    pub fn all(&self, length: usize) -> Vec<Order> {
        match self {
            OrderConfig::Mixture(all) => all.iter().flat_map(|order| order.all(length)).collect(),
            one => vec![one.order(length)],
        }
    }

    /// Whether every one of its orders has fixed phases.
    pub fn only_phased(&self) -> bool {
        match self {
            OrderConfig::Mixture(all) => !all.is_empty() && all.iter().all(OrderConfig::only_phased),
            one => one.phased(),
        }
    }

    /// Checks that it can be walked; `key` names it in errors.
    ///
    /// # Errors
    /// A number out of range, or an order inside of one that cannot hold it (usage).
    pub fn validate(&self, key: &str) -> Result<()> {
        let wrong = |why: &str| Err(Error::usage(format!("`{key} = {}` {why}", self.shown())));
        let largest = match self {
            OrderConfig::Blocks(size) => *size,
            OrderConfig::Pipelined { block, window } => *block.max(window),
            OrderConfig::ArDiffusion { levels } => *levels,
            OrderConfig::Segments { text, block } => *text.max(block),
            OrderConfig::Strided(count) | OrderConfig::Dilated(count) => *count,
            OrderConfig::Within { block, .. } => *block,
            OrderConfig::Phases(_) => 0,
            OrderConfig::Parallel | OrderConfig::LeftToRight | OrderConfig::Mixture(_) => 0,
        };
        if largest > MOST {
            return wrong(&format!("has a number above {MOST}"));
        }
        match self {
            OrderConfig::Parallel | OrderConfig::LeftToRight => Ok(()),
            OrderConfig::Blocks(0) => wrong("needs blocks of at least 1"),
            OrderConfig::Blocks(_) => Ok(()),
            OrderConfig::Pipelined { block, window } if *block == 0 || *window == 0 => {
                wrong("needs a block and a window of at least 1")
            }
            OrderConfig::Pipelined { .. } => Ok(()),
            OrderConfig::ArDiffusion { levels: 0 | 1 } => wrong("needs at least 2 levels"),
            OrderConfig::ArDiffusion { .. } => Ok(()),
            OrderConfig::Segments { block: 0, .. } => wrong("needs a block of at least 1"),
            OrderConfig::Segments { .. } => Ok(()),
            OrderConfig::Strided(_) | OrderConfig::Dilated(_) => Ok(()),
            OrderConfig::Phases(phases) if List::new(phases).is_none() => {
                wrong(&format!("needs 1 to {MOST_LISTED} phases below {MOST_LISTED}"))
                    .map_err(|e| e.hint("a list repeats along the text: `{ phases = [0, 2, 1, 2] }`"))
            }
            OrderConfig::Phases(_) => Ok(()),
            OrderConfig::Within { block: 0, .. } => wrong("needs a block of at least 1"),
            OrderConfig::Within { order, .. } => match **order {
                OrderConfig::Strided(_) | OrderConfig::Dilated(_) | OrderConfig::Phases(_) => order.validate(key),
                _ => wrong("has an order inside that is not `strided`, `dilated` or `phases`")
                    .map_err(|e| e.hint("for instance `{ within = { block = 32, order = { strided = 4 } } }`")),
            },
            OrderConfig::Mixture(all) if all.is_empty() => wrong("needs at least one order"),
            OrderConfig::Mixture(all) => all.iter().try_for_each(|order| match order {
                OrderConfig::Mixture(_) => wrong("has a mixture inside"),
                one => one.validate(key),
            }),
        }
    }

    /// As a recipe spells it.
    pub fn shown(&self) -> String {
        match self {
            OrderConfig::Parallel => "\"parallel\"".into(),
            OrderConfig::LeftToRight => "\"left_to_right\"".into(),
            OrderConfig::Blocks(size) => format!("{{ blocks = {size} }}"),
            OrderConfig::Pipelined { block, window } => {
                format!("{{ pipelined = {{ block = {block}, window = {window} }} }}")
            }
            OrderConfig::ArDiffusion { levels } => format!("{{ ar_diffusion = {{ levels = {levels} }} }}"),
            OrderConfig::Segments { text, block } => format!("{{ segments = {{ text = {text}, block = {block} }} }}"),
            OrderConfig::Strided(count) => format!("{{ strided = {count} }}"),
            OrderConfig::Dilated(count) => format!("{{ dilated = {count} }}"),
            OrderConfig::Phases(phases) => format!("{{ phases = {phases:?} }}"),
            OrderConfig::Within { block, order } => {
                format!("{{ within = {{ block = {block}, order = {} }} }}", order.shown())
            }
            OrderConfig::Mixture(all) => {
                format!("{{ mixture = [{}] }}", all.iter().map(OrderConfig::shown).collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// Whether blocks are read while others before them are not finished.
    pub fn noisy(&self) -> bool {
        match self {
            OrderConfig::Pipelined { window, .. } => *window > 1,
            OrderConfig::ArDiffusion { .. } => true,
            OrderConfig::Mixture(all) => all.iter().any(OrderConfig::noisy),
            _ => false,
        }
    }

    /// As a table has it, on one line.
    pub fn name(&self) -> String {
        match self {
            OrderConfig::Parallel => "parallel".into(),
            OrderConfig::LeftToRight => "left_to_right".into(),
            OrderConfig::Blocks(size) => format!("blocks {size}"),
            OrderConfig::Pipelined { block, window } => format!("pipelined {block} x {window}"),
            OrderConfig::ArDiffusion { levels } => format!("AR-Diffusion, {levels} levels"),
            OrderConfig::Segments { text, block } => format!("segments {text} + {block}"),
            OrderConfig::Strided(0) => "strided".into(),
            OrderConfig::Dilated(0) => "dilated".into(),
            OrderConfig::Strided(count) => format!("strided {count}"),
            OrderConfig::Dilated(count) => format!("dilated {count}"),
            OrderConfig::Phases(phases) if phases.len() > SHOWN => {
                let count = phases.iter().collect::<std::collections::HashSet<_>>().len();
                let hash = sha256_hex(format!("{phases:?}").as_bytes());
                format!("phases {count} of {}, {}", phases.len(), &hash[..8])
            }
            OrderConfig::Phases(phases) => {
                format!("phases {}", phases.iter().map(usize::to_string).collect::<Vec<_>>().join(" "))
            }
            OrderConfig::Within { block, order } => format!("{} in blocks {block}", order.name()),
            OrderConfig::Mixture(all) => all.iter().map(OrderConfig::name).collect::<Vec<_>>().join(", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_that_cannot_be_walked_are_refused() {
        use OrderConfig::*;
        let segments = |text, block| Segments { text, block };
        for wrong in [
            Blocks(0),
            Pipelined { block: 0, window: 2 },
            Pipelined { block: 2, window: 0 },
            ArDiffusion { levels: 1 },
            segments(3, 0),
            segments(usize::MAX, 3),
            Blocks(usize::MAX),
            Mixture(vec![]),
            Mixture(vec![Mixture(vec![Parallel])]),
            Mixture(vec![Parallel, Blocks(0)]),
            Phases(vec![]),
            Phases(vec![0, 128]),
            Within { block: 0, order: Box::new(Strided(2)) },
            Within { block: 4, order: Box::new(Blocks(2)) },
        ] {
            assert!(wrong.validate("order").is_err(), "{wrong:?}");
        }
        let mixed = Mixture(vec![Parallel, Blocks(2), Strided(4)]);
        let within = Within { block: 8, order: Box::new(Dilated(4)) };
        for right in
            [Parallel, LeftToRight, Blocks(3), segments(0, 3), Strided(0), Phases(vec![0, 2, 1]), within, mixed]
        {
            assert!(right.validate("order").is_ok(), "{right:?}");
        }
    }
}
