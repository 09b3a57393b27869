//! Revealing by confidence: a step proposes a token for every masked position of the block, and commits the surest.
//!
//! LLaDA (Nie et al. 2025, low-confidence remasking), Fast-dLLM (Wu et al. 2025, thresholds and caches), Dream (Ye et al.
//! 2025: maskgit_plus, topk_margin, entropy, origin), dllm's samplers. They differ in what confidence is, how many
//! positions a step commits, and what it reads; those are three closed choices here.

use std::ops::Range;

use super::{Draws, Guidance, Plan, Reading, Walk};
use crate::error::Result;
use crate::model::draw::argmax;
use crate::process::Schedule;

/// How sure a proposal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confidence {
    /// p of the proposed token.
    Probability,
    /// The largest p minus the second largest.
    Margin,
    /// sum p ln(p + 1e-10).
    NegativeEntropy,
    /// A uniform number.
    Random,
}

/// How many positions a step commits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Count {
    /// The block's masks over its steps, the remainder to the first ones (LLaDA).
    Even,
    /// Round(left (1 - (1 - alpha(s))/(1 - alpha(t)))), half to even, over an even grid; no empty steps (dllm).
    Scheduled(Schedule),
    /// Floor(left (1 - s/t)) over a grid from 1 to eps, and all at the last step (Dream).
    Interpolated { eps: f64 },
    /// Every position with 1 - s/t by its own uniform, and all at the last step (Dream's `origin`).
    Independent { eps: f64 },
    /// One at a time until the block is full; with [`Confidence::Random`] that is first hitting (BD3-LM, Arriola et al. 2025).
    One,
    /// The surest, and every other of at least that confidence, until the block is full (Fast-dLLM).
    Threshold(f64),
    /// The surest n for the largest n with (n + 1) (1 - its confidence) < factor (Fast-dLLM's factor decoding).
    Factor(f64),
    /// An even share; what is below the threshold is put off, and steps are added while anything is left (Fast-dLLM on Dream).
    Postponed(f64),
}

/// A rule that reveals by confidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reveal {
    pub confidence: Confidence,
    pub count: Count,
    /// 0 proposes the most probable token; else argmax exp(logit) / (-ln u)^temperature.
    pub temperature: f64,
    /// Never propose the mask (SUBS); the others' networks have learnt not to.
    pub subs: bool,
    /// Commit the block's first token from the pass that fills the cache, and nothing else of it (Fast-dLLM on Dream).
    pub first_from_whole: bool,
}

impl Reveal {
    /// The most probable tokens, by their probability.
    pub fn greedy(count: Count) -> Self {
        Reveal { confidence: Confidence::Probability, count, temperature: 0.0, subs: false, first_from_whole: false }
    }
}

impl Reveal {
    /// BD3-LM's first hitting: of a block's masks one, each with the same chance, draws its token from p(x_0).
    pub fn first_hitting() -> Self {
        Reveal {
            confidence: Confidence::Random,
            count: Count::One,
            temperature: 1.0,
            subs: true,
            first_from_whole: false,
        }
    }
}

/// `masked` positions over `steps` steps, the remainder to the first ones.
pub fn even_counts(masked: usize, steps: usize) -> Vec<usize> {
    (0..steps).map(|i| masked / steps + usize::from(i < masked % steps)).collect()
}

/// How many of `masked` positions each of `steps` steps reveals under a schedule; steps that reveal nothing are left out.
///
/// alpha is f32, as the reference has it: at exact halves its rounding decides.
pub fn scheduled_counts(masked: usize, steps: usize, schedule: Schedule) -> Vec<usize> {
    let alpha = |t: f64| match schedule {
        Schedule::LogLinear => 1.0 - t as f32,
        Schedule::Cosine => 1.0 - (std::f32::consts::FRAC_PI_2 * (1.0 - t as f32)).cos(),
    };
    let mut left = masked;
    let mut counts = Vec::new();
    for j in (1..=steps).rev() {
        let (t, s) = (j as f64 / steps as f64, (j - 1) as f64 / steps as f64);
        let open = 1.0 - (1.0 - alpha(s)) / (1.0 - alpha(t));
        let n = ((left as f64 * f64::from(open)).round_ties_even() as usize).min(left);
        left -= n;
        if n > 0 {
            counts.push(n);
        }
        if left == 0 {
            break;
        }
    }
    counts
}

/// Grid point i of `steps` steps from 1 to eps, as a f32 grid has it.
fn grid(i: usize, steps: usize, eps: f64) -> f32 {
    (1.0 + (eps - 1.0) * i as f64 / steps as f64) as f32
}

/// A masked position with its proposal.
struct Proposal {
    at: usize,
    token: u32,
    confidence: f64,
}

/// Walks one block, of each sequence its own range.
pub(super) fn run(
    walk: &mut Walk,
    rule: &Reveal,
    plan: &Plan,
    block: &[Range<usize>],
    draws: &mut Draws,
) -> Result<()> {
    let start: Vec<usize> = (0..walk.batch()).map(|b| walk.masked(b, &block[b]).len()).collect();
    let counts: Vec<Vec<usize>> = start
        .iter()
        .map(|n| match rule.count {
            Count::Scheduled(schedule) => scheduled_counts(*n, plan.steps, schedule),
            _ => even_counts(*n, plan.steps),
        })
        .collect();
    let planned = match rule.count {
        Count::Scheduled(_) => counts.iter().map(Vec::len).max().unwrap_or(0),
        _ => plan.steps,
    };
    let share = start.first().map_or(0, |n| n / plan.steps);
    let mut pace = Pace { steps: planned, share, late: 0 };
    let cached = plan.reading != Reading::Whole;
    let unbounded = matches!(rule.count, Count::One | Count::Threshold(_) | Count::Factor(_));
    for i in 0.. {
        let left: usize = (0..walk.batch()).map(|b| walk.masked(b, &block[b]).len()).sum();
        // A cache that was filled is read at least once, as the reference does.
        let full = left == 0 && !(cached && i == 1);
        if (full && (unbounded || cached)) || (!unbounded && i >= pace.steps) {
            break;
        }
        let window = match plan.reading {
            _ if i == 0 => 0..walk.length,
            Reading::Whole => 0..walk.length,
            Reading::Prefix => block[0].start..walk.length,
            Reading::Dual => block[0].clone(),
        };
        let logits = read(walk, plan, &window, cached && i == 0);
        if rule.first_from_whole && i == 0 {
            for (b, range) in block.iter().enumerate() {
                let at = b * walk.length + range.start;
                walk.x[at] = argmax(&logits[at * walk.vocab..(at + 1) * walk.vocab]);
            }
        } else {
            let proposals = propose(walk, rule, block, &Pass { window, logits }, draws)?;
            let opened = match rule.count {
                Count::Independent { eps } => independent(walk, block, plan.steps, i, eps, draws)?,
                _ => Vec::new(),
            };
            for (proposals, counts) in proposals.iter().zip(&counts) {
                let n = count(rule, &mut pace, counts, i, left, walk.batch(), proposals);
                for (rank, p) in proposals.iter().enumerate() {
                    if rank < n || opened.contains(&p.at) {
                        walk.x[p.at] = p.token;
                    }
                }
            }
        }
        walk.keep_state();
    }
    Ok(())
}

/// What one pass gave: logits [B w V] of a window.
struct Pass {
    window: Range<usize>,
    logits: Vec<f32>,
}

/// Steps so far allowed, the even share, and what was put off.
struct Pace {
    steps: usize,
    share: usize,
    late: usize,
}

/// How many of the proposals, surest first, step i commits.
fn count(
    rule: &Reveal,
    pace: &mut Pace,
    counts: &[usize],
    i: usize,
    left: usize,
    batch: usize,
    proposals: &[Proposal],
) -> usize {
    let reaching = |limit: f64, n: usize| {
        // The surest is always committed.
        let others = proposals.iter().take(n).skip(1).take_while(|p| p.confidence >= limit).count();
        n.min(1) + others
    };
    match rule.count {
        Count::Even | Count::Scheduled(_) => counts.get(i).copied().unwrap_or(0),
        Count::Interpolated { eps } => {
            // The reference's arithmetic: f32 all the way, then cut off.
            let mean = left as f32 / batch as f32;
            let (t, s) = (grid(i, pace.steps, eps), grid(i + 1, pace.steps, eps));
            if i + 1 < pace.steps { (mean * (1.0 - s / t)) as usize } else { mean as usize }
        }
        Count::Independent { .. } => 0,
        Count::One => 1,
        Count::Threshold(limit) => reaching(limit, proposals.len()),
        Count::Factor(factor) => {
            let wide = |n: &usize| (*n as f64 + 1.0) * (1.0 - proposals[n - 1].confidence) < factor;
            (1..=proposals.len()).take_while(wide).last().unwrap_or(1)
        }
        Count::Postponed(limit) => {
            let wanted = (pace.share + pace.late).min(proposals.len());
            let mut n = reaching(limit, wanted);
            // A last step that would put something off commits the surest of it, and a step is added for the rest.
            if n < wanted && i + 1 >= pace.steps {
                n += 1;
                pace.share = 0;
                pace.steps += 1;
            }
            pace.late = wanted - n;
            n
        }
    }
}

/// Flat positions that their own uniforms open in step i.
fn independent(
    walk: &Walk,
    block: &[Range<usize>],
    steps: usize,
    i: usize,
    eps: f64,
    draws: &mut Draws,
) -> Result<Vec<usize>> {
    let masked: Vec<usize> = (0..walk.batch()).flat_map(|b| walk.masked(b, &block[b])).collect();
    let (t, s) = (grid(i, steps, eps), grid(i + 1, steps, eps));
    let chance = if i + 1 < steps { f64::from(1.0 - s / t) } else { 1.0 };
    let uniforms = draws.next(masked.len())?;
    Ok(masked.into_iter().zip(uniforms).filter(|(_, u)| *u < chance).map(|(at, _)| at).collect())
}

/// Proposals for the masked positions of each sequence's block, surest first; of equals the one on the left.
fn propose(
    walk: &Walk,
    rule: &Reveal,
    block: &[Range<usize>],
    pass: &Pass,
    draws: &mut Draws,
) -> Result<Vec<Vec<Proposal>>> {
    let (v, w) = (walk.vocab, pass.window.len());
    let uniforms = if rule.temperature > 0.0 { draws.next(pass.logits.len())? } else { Vec::new() };
    let random = if rule.confidence == Confidence::Random { draws.next(walk.x.len())? } else { Vec::new() };
    let proposal = |at: usize| {
        let row = at / walk.length * w + at % walk.length - pass.window.start;
        let mut logits = pass.logits[row * v..(row + 1) * v].to_vec();
        if rule.subs {
            logits[walk.mask as usize] = f32::NEG_INFINITY;
        }
        let token = match uniforms.get(row * v..(row + 1) * v) {
            Some(u) => {
                let score = |i: usize| f64::from(logits[i]) - rule.temperature * (-u[i].ln()).ln();
                (0..v).max_by(|a, b| score(*a).total_cmp(&score(*b)).then(b.cmp(a))).unwrap_or(0) as u32
            }
            None => argmax(&logits),
        };
        let confidence = match random.get(at) {
            Some(u) => *u,
            None => sureness(&logits, token, rule.confidence),
        };
        Proposal { at, token, confidence }
    };
    let of = |(b, range): (usize, &Range<usize>)| {
        let mut all: Vec<Proposal> = walk.masked(b, range).into_iter().map(proposal).collect();
        all.sort_by(|a, b| b.confidence.total_cmp(&a.confidence).then(a.at.cmp(&b.at)));
        all
    };
    Ok(block.iter().enumerate().map(of).collect())
}

/// The confidence of proposing `token` under logits [V].
fn sureness(logits: &[f32], token: u32, kind: Confidence) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |l: f32| f64::from(l - top).exp();
    let total: f64 = logits.iter().map(|l| weight(*l)).sum();
    match kind {
        Confidence::Probability | Confidence::Random => weight(logits[token as usize]) / total,
        Confidence::Margin => {
            let mut best = [f32::NEG_INFINITY; 2];
            for l in logits {
                if *l > best[0] {
                    best = [*l, best[0]];
                } else if *l > best[1] {
                    best[1] = *l;
                }
            }
            (weight(best[0]) - weight(best[1])) / total
        }
        Confidence::NegativeEntropy => logits.iter().map(|l| weight(*l) / total).map(|p| p * (p + 1e-10).ln()).sum(),
    }
}

/// Logits [B w V] of the window, guided where that is asked for.
fn read(walk: &mut Walk, plan: &Plan, window: &Range<usize>, keep: bool) -> Vec<f32> {
    // Reveal rules are of models that are not told the time.
    let mut once = |x: &[u32]| match keep || *window == (0..walk.length) {
        true => walk.reader.whole(x, 0.0, keep),
        false => walk.reader.window(x, 0.0, window.clone()),
    };
    let with = once(&walk.x);
    let Some(Guidance { scale, hidden }) = &plan.guidance else { return with };
    let blind: Vec<u32> = walk.x.iter().zip(hidden).map(|(x, h)| if *h { walk.mask } else { *x }).collect();
    let without = once(&blind);
    let scale = *scale as f32 + 1.0;
    with.into_iter().zip(without).map(|(with, un)| un + scale * (with - un)).collect()
}
