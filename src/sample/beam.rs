//! Beam search over a causal network, through its cache.
//!
//! Score of a hypothesis of n drawn tokens: log p / n^length_penalty. All hypotheses have the same length here (windows
//! are of fixed length), so the penalty matters only in the reported score, and an end is never preferred for being near.

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

/// The `width` best continuations of `prompt` found by keeping `width` hypotheses a step, best first.
///
/// Hypotheses that have drawn `end` (if any) stop there and are filled up with it. Errors without a causal network.
pub fn search(
    model: &dyn Denoise,
    process: &Process,
    prompt: &[u32],
    width: usize,
    length_penalty: f64,
    end: Option<u32>,
) -> Result<Vec<Hypothesis>> {
    if !process.cached {
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
            rows.iter().flat_map(|r| r.iter().copied().chain(std::iter::repeat(v as u32)).take(l)).collect();
        let input = Noised::tokens(&canvas, &vec![0.0; canvas.len()], l);
        let active = cache.filled..p + 1;
        let features = model.features_cached(&input, active.clone(), &mut cache);
        let last: Vec<usize> = (0..rows.len()).map(|i| i * active.len() + active.len() - 1).collect();
        let mut options: Vec<(f64, usize, u32)> = Vec::new();
        draw::each_row(model, select_rows(features, &last), |i, row| {
            let mut best: Vec<u32> = (0..v as u32).collect();
            best.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)));
            options.extend(best.iter().take(width).map(|t| (scores[i] + f64::from(row[*t as usize]), i, *t)));
        });
        options.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        options.truncate(width);
        let mut kept = Vec::new();
        for (score, i, token) in options {
            let mut tokens = rows[i].clone();
            tokens.push(token);
            if Some(token) == end {
                let n = tokens.len() - prompt.len();
                tokens.resize(l, token);
                finished.push(Hypothesis { tokens, log_prob: score, score: score / norm(n) });
            } else {
                kept.push((score, i, tokens));
            }
        }
        if kept.is_empty() {
            rows.clear();
            break;
        }
        cache = cache.select(&kept.iter().map(|k| k.1).collect::<Vec<_>>(), &device);
        scores = kept.iter().map(|k| k.0).collect();
        rows = kept.into_iter().map(|k| k.2).collect();
    }
    let n = l - prompt.len();
    finished.extend(rows.into_iter().zip(scores).map(|(tokens, log_prob)| Hypothesis {
        tokens,
        log_prob,
        score: log_prob / norm(n),
    }));
    finished.sort_by(|a, b| b.score.total_cmp(&a.score));
    finished.truncate(width);
    Ok(finished)
}
