//! The orders as a recipe names them, checked, and in words.
//!
//! L length.

use serde::{Deserialize, Serialize};

use super::{Context, Order};
use crate::error::{Error, Result};

/// The largest number that an order may have, as the longest sequence: what is above it is no length.
const MOST: usize = 1 << 20;

/// The orders a recipe can name; each becomes an [`Order`] once the length is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OrderConfig {
    /// All positions at once: one block of the whole length.
    Parallel,
    /// One token after the other.
    LeftToRight,
    /// Blocks of so many tokens, one after the other over finished text; within a block all positions at once.
    Blocks(usize),
    /// Blocks of `block` tokens of which `window` are under way at the same time, each behind the one before it (D2F).
    Pipelined { block: usize, window: usize },
    /// Every position at its own time, left ones ahead: AR-Diffusion's path of so many levels, without rounding. Few levels
    /// are near autoregression; with many most of the path is spent on all positions at once.
    ArDiffusion { levels: usize },
    /// Segments that take turns: `text` tokens from left to right, then `block` tokens at once over the finished text.
    Segments { text: usize, block: usize },
    /// One network trained over several orders, one of them a step; it is sampled in the first unless told otherwise.
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
            OrderConfig::Mixture(all) => all.first().map_or(Order::parallel(length), |first| first.order(length)),
        }
    }

    /// Every order that a network is trained over.
    pub fn all(&self, length: usize) -> Vec<Order> {
        match self {
            OrderConfig::Mixture(all) => all.iter().flat_map(|order| order.all(length)).collect(),
            one => vec![one.order(length)],
        }
    }

    /// Checks that it can be walked; `key` names it in errors.
    pub fn validate(&self, key: &str) -> Result<()> {
        let wrong = |why: &str| Err(Error::usage(format!("`{key} = {}` {why}", self.shown())));
        let largest = match self {
            OrderConfig::Blocks(size) => *size,
            OrderConfig::Pipelined { block, window } => *block.max(window),
            OrderConfig::ArDiffusion { levels } => *levels,
            OrderConfig::Segments { text, block } => *text.max(block),
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
        ] {
            assert!(wrong.validate("order").is_err(), "{wrong:?}");
        }
        for right in [Parallel, LeftToRight, Blocks(3), segments(0, 3), Mixture(vec![Parallel, Blocks(2)])] {
            assert!(right.validate("order").is_ok(), "{right:?}");
        }
    }
}
