//! The samplers that public families are published with, as cases of one walk: blocks, a step rule, and what is read.
//!
//! An order is a list of blocks; a step reads the network and changes what its rule says: [`Reveal`] commits the masked
//! positions it is surest of (LLaDA, Fast-dLLM, Dream, dllm), [`Transition`] draws every position from its transition
//! weights (MDLM, ReMDM, SEDD, DUO, SDTT). Uniforms come from a record ([`Draws::Recorded`]), which reproduces a
//! reference token by token, or from a seed. The default sampler of this crate, exact in two stages, is [`super::sample`].
//! B batch, L length, V vocabulary, w window length.

mod draws;
mod entropy;
mod named;
mod reader;
mod reveal;
mod slide;
mod transition;

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::config::{TimeInput, Visibility};
use crate::model::{Denoise, Padding, Transformer};

pub use draws::Draws;
pub use entropy::{EntropyStop, STOP_ENTROPY, STOP_WINDOW, unigram_entropy};
pub use named::{Sampler, Settings};
use reader::Reader;
pub use reveal::{Confidence, Count, Reveal, even_counts, scheduled_counts};
pub use transition::{Ending, Remask, Transition, sdtt_targets};

/// Which positions a step reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reading {
    /// All of them.
    #[default]
    Whole,
    /// All at a block's first step, then the block and what is behind it, over the kept keys of what is before it
    /// (Fast-dLLM's prefix cache).
    Prefix,
    /// All at a block's first step, then the block alone, over the kept keys of everything else (its dual cache).
    Dual,
}

/// What a step changes.
#[derive(Debug, Clone)]
pub enum Rule {
    Reveal(Reveal),
    Transition(Transition),
}

/// Classifier-free guidance: logits = without + (scale + 1) (with - without), where the given positions are hidden from
/// the pass without.
#[derive(Debug, Clone)]
pub struct Guidance {
    pub scale: f64,
    /// Positions [B L] that are masked in the pass without.
    pub hidden: Vec<bool>,
}

/// A sampler: its order, its rule, and what it reads.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Blocks in the order in which they are walked, of each sequence its own range.
    pub blocks: Vec<Vec<Range<usize>>>,
    /// Steps in each block.
    pub steps: usize,
    pub rule: Rule,
    pub reading: Reading,
    pub guidance: Option<Guidance>,
    pub padding: Padding,
    /// Ends after a block in which every sequence holds this token behind the first block's start.
    pub stop: Option<u32>,
    /// Ends after a block in which every sequence has begun to repeat itself, or holds the token above.
    pub entropy: Option<EntropyStop>,
    /// Ids that are never drawn: rows of padding, which have no text. Published samplers draw them too.
    pub never: Arc<[u32]>,
    /// A canvas longer than the network is written through a window that slides over it, block by block.
    pub slides: bool,
    /// Keep the canvas after each step.
    pub states: bool,
}

impl Plan {
    /// A plan over one block of the whole `length` of `batch` sequences.
    pub fn whole(rule: Rule, steps: usize, batch: usize, length: usize) -> Self {
        Plan {
            blocks: vec![vec![0..length; batch]],
            steps,
            rule,
            reading: Reading::Whole,
            guidance: None,
            padding: Padding::default(),
            stop: None,
            entropy: None,
            never: Arc::from([]),
            slides: false,
            states: true,
        }
    }

    /// The same in blocks of `size` over the `length` positions behind `start` of every sequence.
    pub fn in_blocks(self, start: usize, length: usize, size: usize) -> Self {
        let batch = self.blocks[0].len();
        let end = start + length;
        let blocks = (start..end).step_by(size.max(1)).map(|s| vec![s..(s + size).min(end); batch]);
        Plan { blocks: blocks.collect(), ..self }
    }

    /// Whether every sequence of the canvas `x` [B L] has ended with this block; `ends` [B] are where those do that repeat
    /// themselves.
    fn ended(&self, x: &[u32], block: &[Range<usize>], ends: &mut [usize]) -> bool {
        let length = x.len() / block.len();
        let mut all = true;
        for (b, row) in x.chunks(length).enumerate() {
            let stopped = self.stop.is_some_and(|eos| row[self.blocks[0][b].start..].contains(&eos));
            if let Some(kept) = self.entropy.and_then(|rule| rule.kept(&row[..block[b].end])) {
                ends[b] = ends[b].min(kept);
            }
            all &= stopped || ends[b] < length;
        }
        all
    }
}

impl Walked {
    /// The canvas `x` of one sequence as it is, without a pass.
    fn given(x: &[u32]) -> Self {
        Walked { tokens: x.to_vec(), ends: vec![x.len()], ..Walked::default() }
    }
}

/// What a walk made.
#[derive(Debug, Clone, Default)]
pub struct Walked {
    /// Tokens [B L].
    pub tokens: Vec<u32>,
    /// The canvas [B L] after each step, where the plan keeps them.
    pub states: Vec<Vec<u32>>,
    /// How many tokens of each sequence are its text: all L, or those before it began to repeat itself.
    pub ends: Vec<usize>,
    /// Network passes.
    pub nfe: usize,
    /// Positions computed, over all sequences.
    pub positions: u64,
}

/// Walks the canvas `x` [B L] by the plan.
///
/// # Errors
/// A network that cannot be read as the plan wants it (usage); recorded draws that run out (input).
pub fn walk(model: &Transformer, x: &[u32], plan: &Plan, draws: &mut Draws) -> Result<Walked> {
    if plan.blocks.is_empty() && plan.steps > 0 {
        // Given tokens that fill the canvas are all there is.
        return Ok(Walked::given(x));
    }
    let batch = plan.blocks.first().map_or(0, Vec::len);
    if batch == 0 || !x.len().is_multiple_of(batch) || plan.steps == 0 {
        return Err(Error::usage("a sampler needs at least one sequence, one block and one step"));
    }
    let length = x.len() / batch;
    if length > model.length() && plan.slides {
        return slide::run(model, x, plan, draws);
    }
    if length > model.length() {
        return Err(Error::usage(format!(
            "a canvas of {length} positions is longer than the network's {}",
            model.length()
        ))
        .hint("load the model with a larger length"));
    }
    check(model, plan, batch)?;
    let mut walk = Walk::new(model, x, length, plan);
    walk.keeps = plan.states;
    let mut ends = vec![length; batch];
    match &plan.rule {
        Rule::Transition(rule) => transition::run(&mut walk, rule, plan.steps, draws)?,
        Rule::Reveal(rule) => {
            for block in &plan.blocks {
                reveal::run(&mut walk, rule, plan, block, draws)?;
                if plan.ended(&walk.x, block, &mut ends) {
                    break;
                }
            }
        }
    }
    let Walk { x, states, reader, .. } = walk;
    Ok(Walked { tokens: x, states, ends, nfe: reader.nfe, positions: reader.positions })
}

/// What a plan cannot ask for.
fn check(model: &Transformer, plan: &Plan, batch: usize) -> Result<()> {
    if plan.blocks.iter().any(|block| block.len() != batch) {
        return Err(Error::usage("every block has a range for each sequence"));
    }
    if let Rule::Reveal(Reveal { count: Count::Postponed(_), .. }) = plan.rule
        && batch > 1
    {
        return Err(Error::usage("postponed tokens are counted for one sequence at a time"));
    }
    if plan.reading == Reading::Whole {
        return Ok(());
    }
    let padded = plan.padding.keys.is_some() || plan.padding.positions.is_some();
    let ragged = plan.blocks.iter().any(|block| block.iter().any(|range| *range != block[0]));
    if model.config().visibility != Visibility::Full || padded || ragged || plan.guidance.is_some() {
        return Err(Error::usage("kept keys are for networks that see everything, without padding and guidance")
            .hint("read the whole canvas: `Reading::Whole`"));
    }
    Ok(())
}

/// A canvas on its way.
struct Walk {
    reader: Reader,
    x: Vec<u32>,
    mask: u32,
    vocab: usize,
    length: usize,
    /// The network reads the time, so that an unchanged canvas must be read again.
    timed: bool,
    keeps: bool,
    states: Vec<Vec<u32>>,
}

impl Walk {
    fn new(model: &Transformer, x: &[u32], length: usize, plan: &Plan) -> Self {
        Walk {
            reader: Reader::new(model, length, plan),
            x: x.to_vec(),
            mask: model.mask(),
            vocab: model.vocab(),
            length,
            timed: model.config().time == TimeInput::Sigma,
            keeps: true,
            states: Vec::new(),
        }
    }

    fn keep_state(&mut self) {
        if self.keeps {
            self.states.push(self.x.clone());
        }
    }

    fn batch(&self) -> usize {
        self.x.len() / self.length
    }

    /// Masked flat positions of `range` of sequence `b`.
    fn masked(&self, b: usize, range: &Range<usize>) -> Vec<usize> {
        range.clone().map(|l| b * self.length + l).filter(|at| self.x[*at] == self.mask).collect()
    }
}
