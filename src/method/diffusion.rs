//! Checks that all diffusions of tokens share: an order and a network must see the same blocks.

use super::contract::{Site, contradiction};
use crate::error::{Error, Result};
use crate::model::TransformerConfig;
use crate::model::config::{TimeInput, Visibility};
use crate::process::order::OrderConfig;

/// Checks that a diffusion model's order and its network see the same blocks.
///
/// # Errors
/// An order and a network that see different blocks (usage).
pub fn fits(at: &Site, network: &TransformerConfig) -> Result<()> {
    let facts = at.method.facts();
    let (objective, shown) = (format!("\"{}\"", facts.name), at.order.shown());
    let net = &at.network_place;
    let sees = |wants: &str| contradiction(&at.key("order"), &shown, &format!("{net}.visibility"), wants);
    at.order.validate(&at.key("order"))?;
    if network.encoder_layers > 0 && at.order.noisy() {
        let layers = format!("{net}.encoder_layers = {}", network.encoder_layers);
        return Err(Error::usage(format!("`{layers}` is for finished text before a block"))
            .cause("under this order noise sees blocks that are not finished")
            .hint(format!("`{net}.encoder_layers = 0`, or an order in `{{ blocks = N }}`")));
    }
    fits_phases(at, network)?;
    if network.visibility == Visibility::Order {
        return Ok(());
    }
    match (at.order, network.visibility) {
        (OrderConfig::LeftToRight, _) => {
            Err(contradiction(&at.key("objective"), &objective, &at.key("order"), "\"parallel\" or { blocks = N }")
                .hint("a diffusion model goes token by token where `network.visibility` is \"order\""))
        }
        (OrderConfig::Parallel, Visibility::Blocks(size)) => {
            let wants = format!("{{ blocks = {size} }}");
            Err(contradiction(&format!("{net}.visibility"), &wants, &at.key("order"), &wants))
        }
        (OrderConfig::Parallel, Visibility::Full) => Ok(()),
        (OrderConfig::Parallel, _) => Err(sees("\"full\"")),
        (OrderConfig::Pipelined { .. } | OrderConfig::ArDiffusion { .. }, Visibility::Full) => Ok(()),
        (OrderConfig::ArDiffusion { .. }, Visibility::Blocks(1)) => Ok(()),
        (OrderConfig::ArDiffusion { .. }, _) => Err(sees("\"full\" or { blocks = 1 } or \"order\"")),
        (OrderConfig::Blocks(size) | OrderConfig::Pipelined { block: size, .. }, visibility) => {
            match visibility == Visibility::Blocks(*size) {
                true => Ok(()),
                false => Err(sees(&format!("{{ blocks = {size} }}"))
                    .cause("blocks are of one size in the order and in the network")),
            }
        }
        (OrderConfig::Segments { .. } | OrderConfig::Mixture(_), _) => Err(sees("\"order\"")),
        (
            OrderConfig::Strided(_) | OrderConfig::Dilated(_) | OrderConfig::Phases(_) | OrderConfig::Within { .. },
            _,
        ) => Err(unread(at, &shown)),
    }
}

/// The error of phases that the network does not read.
fn unread(at: &Site, shown: &str) -> Error {
    let net = &at.network_place;
    let error = Error::usage(format!("`{} = {shown}` needs a network with `visibility = \"order\"`", at.key("order")))
        .cause("phases are trained beside the finished text");
    match at.own {
        Some(_) => error.hint(format!("`{}`", format_args!("{net}.visibility = \"order\""))),
        None => error.hint(format!(
            "give it a table `[{}]` of its own: that of `{net}` with `visibility = \"order\"`",
            at.key("network")
        )),
    }
}

/// Checks that fixed phases have a number and a network that reads them.
fn fits_phases(at: &Site, network: &TransformerConfig) -> Result<()> {
    if !at.order.phased() {
        return Ok(());
    }
    let (key, shown) = (at.key("order"), at.order.shown());
    let net = &at.network_place;
    if at.order.follows_steps() {
        return Err(Error::usage(format!("`{key} = {shown}` has as many phases as there are steps"))
            .cause("training has no steps of sampling")
            .hint("a number of phases, for instance `{ strided = 8 }`, or a mixture of several"));
    }
    let unread = [
        ("encoder_layers", network.encoder_layers > 0, "0"),
        ("shift", network.shift, "false"),
        ("shift_output", network.shift_output, "false"),
    ];
    if network.local.is_some() {
        return Err(Error::usage(format!("`{key} = {shown}` is not for a network with `{net}.local`"))
            .cause("its windows are of places in the text, and phases are read one after the other")
            .hint("give it an order in blocks"));
    }
    match unread.iter().find(|(_, set, _)| *set) {
        Some((other, _, value)) => Err(Error::usage(format!("`{key} = {shown}` needs `{net}.{other} = {value}`"))
            .cause("each position of a phase describes the token that it reads")
            .hint(format!("`{net}.{other} = {value}`, or an order in `{{ blocks = N }}`"))),
        None => Ok(()),
    }
}

/// Checks that a network whose noise does not show (the key `key` is `has`) sees all of it, and is told how much there is: no mask
/// says so.
///
/// # Errors
/// An order that is not parallel, and a network that does not see everything or is not told the time (usage).
pub fn fits_noise(at: &Site, network: &TransformerConfig, key: &str, has: &str) -> Result<()> {
    if *at.order != OrderConfig::Parallel {
        return Err(contradiction(key, has, &at.key("order"), "\"parallel\""));
    }
    if network.visibility != Visibility::Full {
        return Err(contradiction(key, has, &at.net("visibility"), "\"full\""));
    }
    let told = matches!(network.time, TimeInput::Sequence | TimeInput::Position | TimeInput::Sigma);
    match at.method.facts().corruption.absorbs() || told {
        true => Ok(()),
        false => Err(contradiction(key, has, &at.net("time"), "\"sequence\" or \"sigma\"")
            .cause("without masks nothing else says how much is noise")),
    }
}
