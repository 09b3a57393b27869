//! Texts longer than the network, block by block: BD3-LM's sliding window (Arriola et al. 2025).
//!
//! A block of b tokens is drawn behind the last W - b tokens before it, which stand at positions 0 and on: the window
//! is read anew for every block, as the published sampler does without its cache. (With the cache it keeps keys and
//! values that were computed while older tokens were still in the window; those are not kept here.)
//! B batch, L length of the text, W length of the network.

use super::{Draws, Plan, Rule, Walked, walk};
use crate::error::{Error, Result};
use crate::model::Transformer;
use crate::model::config::Visibility;

/// Walks the canvas `x` [B L] by the plan, L longer than the network's W.
///
/// # Errors
/// As [`walk`]; a network that does not see block by block, or a plan that is not one of aligned blocks (usage).
pub(super) fn run(model: &Transformer, x: &[u32], plan: &Plan, draws: &mut Draws) -> Result<Walked> {
    let batch = plan.blocks[0].len();
    let (length, width) = (x.len() / batch, model.length());
    let Visibility::Blocks(size) = model.config().visibility else {
        return Err(Error::usage("only a model over blocks writes texts longer than itself"));
    };
    let aligned = |block: &Vec<std::ops::Range<usize>>| {
        let first = block[0].clone();
        let ends = first.end == first.start + size || first.end == length;
        first.start.is_multiple_of(size) && ends && first.len() <= size && block.iter().all(|r| *r == first)
    };
    let padded = plan.padding.keys.is_some() || plan.padding.positions.is_some();
    let reveals = matches!(plan.rule, Rule::Reveal(_));
    if size > width || padded || plan.guidance.is_some() || !reveals || !plan.blocks.iter().all(aligned) {
        return Err(Error::usage(format!(
            "a text longer than the model's {width} positions is written by its blocks alone"
        ))
        .hint("no padding, no guidance, and every sequence's blocks at the model's own borders"));
    }
    let mut out = Walked { tokens: x.to_vec(), ends: vec![length; batch], ..Walked::default() };
    for block in &plan.blocks {
        let (start, end) = (block[0].start, block[0].end);
        let from = (start + size).saturating_sub(width);
        let cut: Vec<u32> = out.tokens.chunks(length).flat_map(|row| row[from..end].iter().copied()).collect();
        let inside = vec![start - from..end - from; batch];
        let inner = Plan { blocks: vec![inside], stop: None, entropy: None, slides: false, ..plan.clone() };
        let walked = walk(model, &cut, &inner, draws)?;
        let whole = |tokens: &mut [u32], window: &[u32]| {
            let rows = tokens.chunks_mut(length).zip(window.chunks(end - from));
            rows.for_each(|(row, part)| row[from..end].copy_from_slice(part));
        };
        for state in &walked.states {
            whole(&mut out.tokens, state);
            out.states.push(out.tokens.clone());
        }
        whole(&mut out.tokens, &walked.tokens);
        out.nfe += walked.nfe;
        out.positions += walked.positions;
        if plan.ended(&out.tokens, block, &mut out.ends) {
            break;
        }
    }
    Ok(out)
}
