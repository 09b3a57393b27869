//! Beam search over a causal network, through its cache.
//!
//! Score of a hypothesis of n drawn tokens: log p / n^length_penalty. Each step looks at the 2 x width best continuations:
//! those that end are finished if they are among the first `width`, and the first `width` that do not end go on. The
//! search stops when no hypothesis under way can still beat the worst of `width` finished ones (as Hugging Face's does).

use crate::error::{Error, Result};
use crate::model::{Cache, Denoise, Noised, draw, select_rows};

use super::Process;

/// One finished hypothesis.
#[derive(Debug, Clone)]
pub struct Hypothesis {
    pub tokens: Vec<u32>,
    /// Sum of the drawn tokens' log-probabilities, nats.
    pub log_prob: f64,
    /// log_prob / n^length_penalty.
    pub score: f64,
}

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Search<'a> {
    /// Hypotheses kept in each step, and returned.
    pub width: usize,
    pub length_penalty: f64,
    /// The tokens that end a hypothesis.
    pub ends: &'a [u32],
    /// Stop as soon as `width` hypotheses are finished.
    pub early_stopping: bool,
}

impl Search<'_> {
    /// A search without end tokens.
    pub fn new(width: usize, length_penalty: f64) -> Self {
        Search { width, length_penalty, ends: &[], early_stopping: false }
    }
}

/// The best continuations of `prompt` found by keeping `width` hypotheses a step, best first.
///
/// Hypotheses that have drawn an end token stop there and are filled up with it.
///
/// # Errors
/// A network that is not causal (usage).
pub fn search(model: &dyn Denoise, process: &Process, prompt: &[u32], spec: &Search) -> Result<Vec<Hypothesis>> {
    let Search { width, length_penalty, ends, early_stopping } = *spec;
    if !process.cached || model.over_blocks() {
        return Err(Error::usage("beam search needs an autoregressive model")
            .hint("choose the recipe's autoregressive model with `--model NAME`"));
    }
    if width == 0 || prompt.len() >= process.length {
        return Err(Error::usage(format!(
            "beam search needs a width of at least 1 and a prompt shorter than {} tokens, got {width} and {}",
            process.length,
            prompt.len()
        )));
    }
    let (l, v) = (process.length, model.vocab());
    let device = model.device();
    let norm = |n: usize| (n.max(1) as f64).powf(length_penalty);
    let mut rows: Vec<Vec<u32>> = vec![prompt.to_vec()];
    let mut scores = vec![0.0f64];
    let mut finished: Vec<Hypothesis> = Vec::new();
    let mut cache = Cache::default();
    for p in prompt.len()..l {
        let canvas: Vec<u32> =
            rows.iter().flat_map(|r| r.iter().copied().chain(std::iter::repeat(model.mask())).take(l)).collect();
        let input = Noised::tokens(&canvas, &vec![0.0; canvas.len()], l);
        let active = cache.filled..p + 1;
        let features = model.features_cached(&input, active.clone(), &mut cache);
        let last: Vec<usize> = (0..rows.len()).map(|i| i * active.len() + active.len() - 1).collect();
        let mut options: Vec<(f64, usize, u32)> = Vec::new();
        draw::each_row(model, select_rows(features, &last), |i, row| {
            let mut best: Vec<u32> = (0..v as u32).collect();
            best.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)));
            options.extend(best.iter().take(2 * width).map(|t| (scores[i] + f64::from(row[*t as usize]), i, *t)));
        });
        options.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        options.truncate(2 * width);
        let (n, last) = (p + 1 - prompt.len(), p + 1 == l);
        let mut kept = Vec::new();
        for (rank, (score, i, token)) in options.into_iter().enumerate() {
            let done = last || ends.contains(&token);
            if (done && rank >= width) || (!done && kept.len() == width) {
                continue;
            }
            let mut tokens = rows[i].clone();
            tokens.push(token);
            if done {
                tokens.resize(l, token);
                finished.push(Hypothesis { tokens, log_prob: score, score: score / norm(n) });
            } else {
                kept.push((score, i, tokens));
            }
        }
        finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        finished.truncate(width);
        let worst = finished.get(width - 1).map(|h| h.score);
        let hopeless = |best: f64| worst.is_some_and(|worst| early_stopping || best / norm(n) <= worst);
        if kept.first().is_none_or(|(best, ..)| hopeless(*best)) {
            break;
        }
        cache = cache.select(&kept.iter().map(|k| k.1).collect::<Vec<_>>(), &device);
        scores = kept.iter().map(|k| k.0).collect();
        rows = kept.into_iter().map(|k| k.2).collect();
    }
    Ok(finished)
}
