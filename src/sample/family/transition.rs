//! Transitions: every position is drawn from unnormalised weights over the vocabulary by the exponential race.
//!
//! MDLM's ancestral, cached and analytic samplers (Sahoo et al. 2024), ReMDM's remasking (Wang et al. 2025), SEDD's Euler
//! and analytic samplers (Lou et al. 2024), DUO's uniform-state posterior (Sahoo et al. 2025). All walk the grid
//! t_k = 1 + (eps - 1) k/K. sigma(t) = -ln(1 - (1 - 1e-3) t); alpha = exp(-sigma).

use super::{Draws, Plan, Rule, Walk, draws::race};
use crate::error::Result;
use crate::model::Transformer;
use crate::model::draw::argmax;
use crate::model::family::log_score;
use crate::model::transformer::sigma;
use crate::process::corruption::uniform_posterior;

/// The end of the grid.
const GRID_EPS: f64 = 1e-5;

/// A step rule over every position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Transition {
    /// q = p (m_t - m_s), q(mask) = m_s with m = 1 - exp(-sigma) (`ddpm`, SDTT).
    Ancestral,
    /// The same with m = t, and the prediction kept while the canvas does not change (`ddpm_cache`).
    CachedAncestral,
    /// Tweedie's step over the score of SUBS (`analytic`).
    Analytic,
    /// ReMDM: tokens that were set can be masked again.
    Remasking { remask: Remask, nucleus: f64 },
    /// SEDD's Euler step over the reverse rate.
    ScoreEuler { scaled: bool, absorb: bool },
    /// SEDD's analytic step.
    ScoreAnalytic { scaled: bool, absorb: bool },
    /// DUO's posterior over a vocabulary without a mask.
    Uniform(Ending),
}

/// How a uniform-state walk ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// One more posterior step to alpha = 1.
    Ancestral,
    /// The most probable tokens.
    Greedy,
}

/// Which tokens ReMDM masks again, with which probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Remask {
    /// min(eta, (1 - alpha_s)/alpha_t).
    Cap { eta: f64 },
    /// eta min(1, (1 - alpha_s)/alpha_t).
    Rescale { eta: f64 },
    /// min(1, (1 - alpha_s)/alpha_t) shared by how unsure each token was when it was set.
    Confidence,
    /// Ancestral outside (t_off, t_on]; inside, alpha stays at alpha_on and tokens are masked again with eta.
    Loop { eta: f64, t_on: f64, t_off: f64, alpha_on: f64 },
}

/// Walks all steps, and the rule's own end.
pub(super) fn run(walk: &mut Walk, rule: &Transition, steps: usize, draws: &mut Draws) -> Result<()> {
    let dt = (1.0 - GRID_EPS) / steps as f64;
    // The reference's grid is f32.
    let grid = |k: usize| f64::from((1.0 + (GRID_EPS - 1.0) * k as f64 / steps as f64) as f32);
    let reuse = *rule == Transition::CachedAncestral && !walk.timed;
    let mut kept: Option<Vec<f32>> = None;
    let mut sureness = vec![f64::NEG_INFINITY; walk.x.len()];
    let n = walk.x.len() * walk.vocab;
    for k in 0..steps {
        let t = grid(k);
        let logits = match kept.take() {
            Some(logits) => logits,
            None => walk.reader.whole(&walk.x, t, false),
        };
        let s = if matches!(rule, Transition::Uniform(_)) { grid(k + 1) } else { t - dt };
        let before = walk.x.clone();
        step(walk, rule, &logits, (t, s, dt), &mut sureness, &draws.next(n)?);
        if reuse && walk.x == before {
            kept = Some(logits);
        }
        walk.keep_state();
    }
    end(walk, rule, kept, draws)
}

/// What is left of the noise at t = eps.
fn end(walk: &mut Walk, rule: &Transition, kept: Option<Vec<f32>>, draws: &mut Draws) -> Result<()> {
    let (v, t, n) = (walk.vocab, GRID_EPS, walk.x.len());
    let masked = walk.x.contains(&walk.mask);
    match rule {
        Transition::Uniform(Ending::Ancestral) => {
            let logits = walk.reader.whole(&walk.x, t, false);
            let uniforms = draws.next(n * v)?;
            step(walk, rule, &logits, (t, 0.0, t), &mut vec![0.0; n], &uniforms);
            walk.keep_state();
        }
        Transition::Uniform(Ending::Greedy) => {
            let logits = walk.reader.whole(&walk.x, t, false);
            (0..n).for_each(|at| walk.x[at] = argmax(&logits[at * v..(at + 1) * v]));
        }
        Transition::Analytic => {
            let logits = walk.reader.whole(&walk.x, t, false);
            let uniforms = draws.next(n * v)?;
            for at in 0..n {
                let mut weights = analytic(&subs_score(walk, &logits, at, sigma(t)), walk, at, sigma(t));
                weights[walk.mask as usize] = 0.0;
                walk.x[at] = race(&weights, &uniforms[at * v..(at + 1) * v]);
            }
        }
        Transition::ScoreEuler { scaled, absorb } | Transition::ScoreAnalytic { scaled, absorb } => {
            let logits = walk.reader.whole(&walk.x, t, false);
            // The mask's column, the last one, is left out of the draw.
            let columns = if *absorb { v - 1 } else { v };
            let uniforms = draws.next(n * columns)?;
            for at in 0..n {
                let score = score(walk, &logits, at, sigma(t), *scaled);
                let mut weights = score_analytic(&score, walk, at, sigma(t), *absorb);
                weights.truncate(columns);
                walk.x[at] = race(&weights, &uniforms[at * columns..(at + 1) * columns]);
            }
        }
        // Where no mask is left nothing could change, and nothing is read.
        _ if !masked => {}
        _ => {
            let logits = match kept {
                Some(logits) => logits,
                None => walk.reader.whole(&walk.x, t, false),
            };
            for at in (0..n).filter(|at| walk.x[*at] == walk.mask).collect::<Vec<_>>() {
                walk.x[at] = argmax(&subs(walk, &logits, at).map(|p| p as f32).collect::<Vec<_>>());
            }
        }
    }
    Ok(())
}

/// The targets of SDTT as its code makes them (`MultiRoundSDTT`), for comparing with it: log-probabilities [n V] of the
/// masked positions of x_t [B L], each from the step in which it was revealed, or from the last of `k` steps.
///
/// Its grid is t space + (1 - t) (t - k dt) with space from 1 to 0 over the k steps, and not below 1e-5; ours is
/// `method::distill::teacher_times`.
///
/// # Errors
/// Recorded draws that run out (input).
pub fn sdtt_targets(
    teacher: &Transformer,
    xt: &[u32],
    t: &[f64],
    dt: f64,
    k: usize,
    draws: &mut Draws,
) -> Result<Vec<f32>> {
    let length = xt.len() / t.len();
    let plan = Plan::whole(Rule::Transition(Transition::Ancestral), k.max(1), 1, length);
    let mut walk = Walk::new(teacher, xt, length, &plan);
    let (v, mask) = (walk.vocab, walk.mask);
    let masked: Vec<usize> = (0..xt.len()).filter(|at| xt[*at] == mask).collect();
    let mut targets = vec![Vec::new(); xt.len()];
    for j in 0..k {
        let space = if k > 1 { 1.0 - j as f64 / (k - 1) as f64 } else { 1.0 };
        let logits = walk.reader.whole(&walk.x, 0.0, false);
        let uniforms = draws.next(xt.len() * v)?;
        let before = walk.x.clone();
        for at in masked.iter().copied().filter(|at| before[*at] == mask) {
            let start = t[at / length];
            let now = (start * space + (1.0 - start) * (start - k as f64 * dt)).max(GRID_EPS);
            let chance = |t: f64| -(-sigma(t)).exp_m1();
            let weights = ancestral(&walk, &logits, at, chance(now), chance(now - dt));
            walk.x[at] = race(&weights, &uniforms[at * v..(at + 1) * v]);
            targets[at] = log_subs(&logits[at * v..(at + 1) * v], mask);
        }
    }
    Ok(masked.into_iter().flat_map(|at| std::mem::take(&mut targets[at])).collect())
}

/// log p(x_0) in f32 as SUBS writes it: -1e6 on the mask before the normalisation, and so beside it.
fn log_subs(logits: &[f32], mask: u32) -> Vec<f32> {
    let mut row = logits.to_vec();
    row[mask as usize] += -1e6;
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|l| f64::from(l - top).exp()).sum();
    let lse = (f64::from(top) + sum.ln()) as f32;
    row.into_iter().map(|l| l - lse).collect()
}

/// One draw of every position.
fn step(
    walk: &mut Walk,
    rule: &Transition,
    logits: &[f32],
    (t, s, dt): (f64, f64, f64),
    sureness: &mut [f64],
    uniforms: &[f64],
) {
    let v = walk.vocab;
    let n = walk.x.len();
    let remasked = match rule {
        Transition::Remasking { remask, .. } => remask_rates(walk, remask, t, dt, sureness),
        _ => Vec::new(),
    };
    let mut next = walk.x.clone();
    for at in 0..n {
        let u = &uniforms[at * v..(at + 1) * v];
        let is_mask = walk.x[at] == walk.mask;
        let mask = walk.mask as usize;
        let mut proposed = Vec::new();
        let weights: Vec<f64> = match rule {
            Transition::Ancestral | Transition::CachedAncestral if !is_mask => continue,
            Transition::Ancestral => ancestral(walk, logits, at, -(-sigma(t)).exp_m1(), -(-sigma(s)).exp_m1()),
            Transition::CachedAncestral => ancestral(walk, logits, at, t, s),
            Transition::Analytic => analytic(&subs_score(walk, logits, at, sigma(t)), walk, at, sigma(t) - sigma(s)),
            Transition::ScoreEuler { scaled, absorb } => {
                let score = score(walk, logits, at, sigma(t), *scaled);
                // d sigma/dt = (1 - 1e-3)/(1 - (1 - 1e-3) t).
                let rate = (1.0 - 1e-3) / (1.0 - (1.0 - 1e-3) * t) * dt;
                euler(&score, walk, at, rate, *absorb)
            }
            Transition::ScoreAnalytic { scaled, absorb } => {
                let score = score(walk, logits, at, sigma(t), *scaled);
                score_analytic(&score, walk, at, sigma(t) - sigma(s), *absorb)
            }
            Transition::Uniform(_) => {
                let alpha_s = if s > 0.0 { (-sigma(s)).exp() } else { 1.0 };
                uniform_posterior(&softmax(&logits[at * v..(at + 1) * v]), walk.x[at], (-sigma(t)).exp(), alpha_s)
            }
            Transition::Remasking { remask, nucleus } => {
                let p = if is_mask { subs(walk, logits, at).collect() } else { one_hot(v, walk.x[at]) };
                let p = top_p(p, *nucleus);
                proposed.clone_from(&p);
                match remask_step(remask, p, remasked[at], is_mask, mask, t, dt) {
                    Some(weights) => weights,
                    None => continue,
                }
            }
        };
        next[at] = race(&weights, u);
        // How unsure a token was when it was set: ReMDM's confidence.
        match (is_mask, next[at] as usize == mask) {
            (true, false) => sureness[at] = -proposed.get(next[at] as usize).copied().unwrap_or(0.0),
            (false, true) => sureness[at] = f64::NEG_INFINITY,
            _ => {}
        }
    }
    walk.x = next;
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|l| f64::from(l - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / total).collect()
}

/// p(x_0) at a masked position: the softmax without the mask.
fn subs<'a>(walk: &'a Walk, logits: &'a [f32], at: usize) -> impl Iterator<Item = f64> + use<'a> {
    let mut row = logits[at * walk.vocab..(at + 1) * walk.vocab].to_vec();
    row[walk.mask as usize] = f32::NEG_INFINITY;
    softmax(&row).into_iter()
}

fn one_hot(v: usize, token: u32) -> Vec<f64> {
    let mut p = vec![0.0; v];
    p[token as usize] = 1.0;
    p
}

fn ancestral(walk: &Walk, logits: &[f32], at: usize, mt: f64, ms: f64) -> Vec<f64> {
    let mut q: Vec<f64> = subs(walk, logits, at).map(|p| p * (mt - ms)).collect();
    q[walk.mask as usize] = ms;
    q
}

/// Score of SUBS: p / (e^sigma - 1) at masks, which have score 1; at tokens only the way to the mask is open.
fn subs_score(walk: &Walk, logits: &[f32], at: usize, sigma: f64) -> Vec<f64> {
    let mask = walk.mask as usize;
    if walk.x[at] != walk.mask {
        let mut score = one_hot(walk.vocab, walk.x[at]);
        score[mask] = sigma.exp_m1();
        return score;
    }
    let mut score: Vec<f64> = subs(walk, logits, at).map(|p| p / sigma.exp_m1()).collect();
    score[mask] = 1.0;
    score
}

/// SEDD's score of position `at`.
fn score(walk: &Walk, logits: &[f32], at: usize, sigma: f64, scaled: bool) -> Vec<f64> {
    let mut row = logits[at * walk.vocab..(at + 1) * walk.vocab].to_vec();
    log_score(&mut row, walk.x[at], sigma, scaled);
    row.iter().map(|s| f64::from(*s).exp()).collect()
}

/// The analytic step of absorbing noise from a score, over a noise of `ds`; the mask is walk's.
fn analytic(score: &[f64], walk: &Walk, at: usize, ds: f64) -> Vec<f64> {
    let (mask, x) = (walk.mask as usize, walk.x[at] as usize);
    let mut weights: Vec<f64> = score.iter().map(|s| s * ds.exp()).collect();
    weights[mask] += (1.0 - ds.exp()) * score.iter().sum::<f64>();
    for (y, w) in weights.iter_mut().enumerate() {
        let stays = if y == x { (-ds).exp() } else { 0.0 };
        let came = if x == mask { -(-ds).exp_m1() } else { 0.0 };
        *w *= stays + came;
    }
    weights
}

fn score_analytic(score: &[f64], walk: &Walk, at: usize, ds: f64, absorb: bool) -> Vec<f64> {
    if absorb {
        return analytic(score, walk, at, ds);
    }
    let (v, e, x) = (score.len() as f64, (-ds).exp(), walk.x[at] as usize);
    let sum: f64 = score.iter().sum();
    let step = |(y, s): (usize, &f64)| {
        let stag = (e - 1.0) / (v * e) * sum + s / e;
        let way = (1.0 - e) / v + if y == x { e } else { 0.0 };
        stag * way
    };
    score.iter().enumerate().map(step).collect()
}

/// The Euler step: one-hot plus the reverse rate; weights may be negative.
fn euler(score: &[f64], walk: &Walk, at: usize, rate: f64, absorb: bool) -> Vec<f64> {
    let x = walk.x[at] as usize;
    let open = match absorb {
        true if walk.x[at] == walk.mask => 1.0,
        true => 0.0,
        false => 1.0 / score.len() as f64,
    };
    let mut weights: Vec<f64> = score.iter().map(|s| s * open * rate).collect();
    weights[x] = 0.0;
    weights[x] = 1.0 - weights.iter().sum::<f64>();
    weights
}

/// The smallest set of tokens whose mass stays within p, at least the most probable one, renormalised.
fn top_p(p: Vec<f64>, nucleus: f64) -> Vec<f64> {
    if nucleus >= 1.0 {
        return p;
    }
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
    let (mut mass, mut kept) = (0.0, vec![0.0; p.len()]);
    for (rank, i) in order.into_iter().enumerate() {
        mass += p[i];
        if rank > 0 && mass > nucleus {
            break;
        }
        kept[i] = p[i];
    }
    let total: f64 = kept.iter().sum();
    kept.into_iter().map(|w| w / total).collect()
}

/// The probability with which each position is masked again.
fn remask_rates(walk: &Walk, remask: &Remask, t: f64, dt: f64, sureness: &[f64]) -> Vec<f64> {
    let (at, as_) = (1.0 - t, 1.0 - (t - dt));
    let most = if at > 0.0 { ((1.0 - as_) / at).min(1.0) } else { 1.0 };
    let rate = match remask {
        Remask::Cap { eta } => {
            if at > 0.0 {
                eta.min((1.0 - as_) / at)
            } else {
                *eta
            }
        }
        Remask::Rescale { eta } => eta * most,
        Remask::Loop { eta, .. } => *eta,
        Remask::Confidence => {
            let share = |row: usize| {
                let range = row * walk.length..(row + 1) * walk.length;
                let top = sureness[range.clone()].iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = sureness[range.clone()].iter().map(|s| (s - top).exp()).collect();
                let total: f64 = weights.iter().sum();
                let of = |(at, w): (usize, f64)| if walk.x[at] == walk.mask { 0.0 } else { w / total * most };
                range.zip(weights).map(of).collect::<Vec<f64>>()
            };
            return (0..walk.batch()).flat_map(share).collect();
        }
    };
    vec![rate; walk.x.len()]
}

/// The weights of one position under ReMDM; none where it stays as it is.
fn remask_step(
    remask: &Remask,
    p: Vec<f64>,
    rate: f64,
    is_mask: bool,
    mask: usize,
    t: f64,
    dt: f64,
) -> Option<Vec<f64>> {
    let (mut at, mut as_) = (1.0 - t, 1.0 - (t - dt));
    if let Remask::Loop { t_on, t_off, alpha_on, .. } = remask {
        let ancestral = if t > *t_on {
            Some((1.0 - (1.0 - t) * alpha_on / (1.0 - t_on), 1.0 - (1.0 - t + dt) * alpha_on / (1.0 - t_on)))
        } else if t <= *t_off {
            Some((t * (1.0 - alpha_on) / t_off, (t - dt) * (1.0 - alpha_on) / t_off))
        } else {
            None
        };
        if let Some((mt, ms)) = ancestral {
            let mut q: Vec<f64> = p.into_iter().map(|p| p * (mt - ms)).collect();
            q[mask] = ms;
            return is_mask.then_some(q);
        }
        (at, as_) = (*alpha_on, *alpha_on);
    }
    let (scale, again) = match is_mask {
        false => (1.0 - rate, rate),
        true => ((as_ - (1.0 - rate) * at) / (1.0 - at), (1.0 - as_ - rate * at) / (1.0 - at)),
    };
    let mut q: Vec<f64> = p.into_iter().map(|p| p * scale).collect();
    q[mask] = again;
    Some(q)
}
