//! Self-distillation through time (SDTT, Deschenaux and Gulcehre 2024): one student step learns k teacher steps.
//!
//! From x_t the teacher takes k ancestral steps at times t, t - dt, ..., t - (k - 1) dt. The target of a position is the
//! teacher's distribution at the step where it was revealed; positions still masked at the end take the last step's.
//! Rounds: in round r the step is dt_r = k^r / steps, and the student of round r is the teacher of round r + 1, so that
//! student r is a model of steps / k^(r + 1) steps. (The reference code evaluates the teacher at other times than these;
//! methods A1 d.) B batch, L length, D width.

use burn::prelude::*;
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::{Divergence, RowLoss, Target};
use crate::model::config::Visibility;
use crate::model::{Denoise, Noised, State, Transformer, draw, index_tensor};
use crate::process::{Corruption, Schedule};
use crate::rng::{StepRng, Stream};

/// Which weights become the next round's teacher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refresh {
    /// The trained weights themselves (SDTT, DCD).
    #[default]
    Raw,
    /// Their moving average; needs `train.ema`.
    Ema,
}

/// The configuration of the objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SdttConfig {
    /// The model of this recipe to learn from; the student starts from its weights.
    pub teacher: String,
    /// forward_kl | reverse_kl | jensen_shannon | total_variation | log_mse
    #[serde(default = "default_divergence")]
    pub divergence: Divergence,
    /// Number of steps of the first round's teacher: its dt is 1 / steps.
    pub teacher_steps: usize,
    /// Teacher steps k that one student step learns; also the growth of dt from round to round.
    #[serde(default = "default_k")]
    pub steps_per_step: usize,
    /// Number of rounds; training steps are shared evenly.
    pub rounds: usize,
    /// raw | ema
    #[serde(default)]
    pub refresh: Refresh,
    /// log_linear | cosine: must be the teacher's.
    #[serde(default)]
    pub schedule: Schedule,
}

fn default_divergence() -> Divergence {
    Divergence::ReverseKl
}
fn default_k() -> usize {
    2
}

impl SdttConfig {
    /// The round that training step `step` of `total` belongs to.
    pub fn round(&self, step: usize, total: usize) -> usize {
        (step * self.rounds / total.max(1)).min(self.rounds - 1)
    }

    /// The teacher's step size in `round`.
    pub fn dt(&self, round: usize) -> f64 {
        (self.steps_per_step as f64).powi(round as i32) / self.teacher_steps as f64
    }
}

/// The times t, t - dt, ..., t - k dt of a teacher's k steps; near 0 the step shrinks so that the last time is 0.
pub fn teacher_times(t: f64, dt: f64, k: usize) -> Vec<f64> {
    let dt = dt.min(t / k as f64);
    (0..=k).map(|j| if j == k && dt * k as f64 >= t { 0.0 } else { t - j as f64 * dt }).collect()
}

/// The rows of one distillation step on x0 [B, L] with the teacher's step size `dt`.
///
/// One uniform draw per batch places the times, stratified over (0, 1]; the weight of each masked row is 1/|masked|.
/// The teacher computes what the target needs: in each step but the last the features of the rows that this step reveals,
/// and only of the sequences that hold them; in the last step those of all rows that are still masked.
pub fn rows<'a>(
    config: &SdttConfig,
    teacher: &'a Transformer,
    x0: &[u32],
    length: usize,
    dt: f64,
    (rng, step): (StepRng, u64),
) -> RowLoss<'a> {
    let (batch, mask) = (x0.len() / length, teacher.mask());
    // A network over blocks reads the finished text beside the noise.
    let in_blocks = matches!(teacher.config().visibility, Visibility::Blocks(_));
    let beside = |input: Noised, clean: Vec<u32>| Noised { clean: in_blocks.then_some(State::Tokens(clean)), ..input };
    let offset = rng.at(step, Stream::Times).random::<f64>();
    let t: Vec<f64> = (0..batch).map(|i| 1.0 - (offset + i as f64 / batch as f64).fract()).collect();
    let spread = |t: &[f64]| -> Vec<f64> { t.iter().flat_map(|t| std::iter::repeat_n(*t, length)).collect() };
    let t_row = spread(&t);
    let xt = Corruption::Absorb.corrupt(x0, &t_row, config.schedule, mask, &mut rng.at(step, Stream::Corrupt));
    let rows: Vec<usize> = (0..xt.len()).filter(|i| xt[*i] == mask).collect();

    if rows.is_empty() {
        // A small batch at times near 0 can lose no token at all: then there is nothing to learn from it.
        let (input, target) = (Noised::tokens(&xt, &t_row, length), Target::Tokens(Vec::new()));
        return RowLoss { input: beside(input, x0.to_vec()), rows, weights: Vec::new(), target };
    }

    let k = config.steps_per_step;
    let grid: Vec<Vec<f64>> = t.iter().map(|t| teacher_times(*t, dt, k)).collect();
    let mut draws = rng.at(step, Stream::Teacher);
    let mut x = xt.clone();
    // Per flat position: where the features of its target stand among all feature rows computed so far.
    let mut target_of = vec![usize::MAX; xt.len()];
    let mut computed: Vec<Tensor<2>> = Vec::with_capacity(k);
    let mut total = 0;
    for j in 0..k {
        // Whether a position is revealed in this step does not depend on what the teacher predicts, so it is drawn first:
        // a step reads only the sequences in which it reveals something, and the last one all that is still masked.
        let masked = rows.iter().copied().filter(|r| x[*r] == mask);
        let wanted: Vec<usize> = if j + 1 == k {
            masked.collect()
        } else {
            let chance = |g: &[f64]| Corruption::Absorb.reveal_probability(config.schedule, g[j], g[j + 1]);
            let chance: Vec<f64> = grid.iter().map(|g| chance(g)).collect();
            masked.filter(|r| draws.random::<f64>() < chance[r / length]).collect()
        };
        if wanted.is_empty() {
            continue;
        }
        let (part, times, part_rows) = sequences_of(&wanted, &x, length, |i| grid[i][j]);
        let clean = if in_blocks { sequences_of(&wanted, x0, length, |_| 0.0).0 } else { Vec::new() };
        computed.push(teacher.features_at(&beside(Noised::tokens(&part, &times, length), clean), &part_rows));
        wanted.iter().enumerate().for_each(|(n, r)| target_of[*r] = total + n);
        total += wanted.len();
        if j + 1 < k {
            let features = pick(&computed, wanted.iter().map(|r| target_of[*r]));
            // A teacher without finite predictions leaves the canvas; the step's loss then says so.
            let tokens = draw::tokens(teacher, features, 1.0, &mut draws).unwrap_or_default();
            wanted.iter().zip(tokens).for_each(|(r, token)| x[*r] = token);
        }
    }
    RowLoss {
        input: beside(Noised::tokens(&xt, &t_row, length), x0.to_vec()),
        weights: vec![1.0 / rows.len() as f64; rows.len()],
        target: Target::Teacher(teacher, pick(&computed, rows.iter().map(|r| target_of[*r])), config.divergence),
        rows,
    }
}

/// The sequences of x [B, L] that hold the flat positions `wanted`, which ascend: their tokens, the time of each of their
/// positions, and where `wanted` lies among them.
fn sequences_of(
    wanted: &[usize],
    x: &[u32],
    length: usize,
    time: impl Fn(usize) -> f64,
) -> (Vec<u32>, Vec<f64>, Vec<usize>) {
    let (mut part, mut times, mut rows) = (Vec::new(), Vec::new(), Vec::with_capacity(wanted.len()));
    let mut last = None;
    for r in wanted {
        let i = r / length;
        if last != Some(i) {
            part.extend_from_slice(&x[i * length..(i + 1) * length]);
            times.extend(std::iter::repeat_n(time(i), length));
            last = Some(i);
        }
        rows.push(part.len() - length + r % length);
    }
    (part, times, rows)
}

/// The given rows [n, D] of all feature rows computed so far.
fn pick(computed: &[Tensor<2>], at: impl Iterator<Item = usize>) -> Tensor<2> {
    let all = match computed {
        [one] => one.clone(),
        several => Tensor::cat(several.to_vec(), 0),
    };
    let at: Vec<usize> = at.collect();
    if at.len() == all.dims()[0] && at.iter().enumerate().all(|(i, r)| i == *r) {
        return all;
    }
    let index = index_tensor(&at, &all.device());
    all.select(0, index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_teacher_is_evaluated_at_t_and_t_minus_dt() {
        let close = |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-12);
        for (t, dt, k, want) in [
            (0.5, 1.0 / 1024.0, 2, vec![0.5, 0.5 - 1.0 / 1024.0, 0.5 - 2.0 / 1024.0]),
            (1.0, 0.25, 2, vec![1.0, 0.75, 0.5]),
            (1.0, 0.25, 4, vec![1.0, 0.75, 0.5, 0.25, 0.0]),
            // Near zero the step shrinks: the student's last step also ends at 0.
            (0.1, 0.25, 2, vec![0.1, 0.05, 0.0]),
        ] {
            let got = teacher_times(t, dt, k);
            assert!(close(&got, &want), "{got:?} for {want:?}");
        }
    }

    #[test]
    fn rounds_share_the_steps_evenly_and_double_the_step_size() {
        let c = SdttConfig {
            teacher: "t".into(),
            divergence: Divergence::ReverseKl,
            teacher_steps: 32,
            steps_per_step: 2,
            rounds: 3,
            refresh: Refresh::Raw,
            schedule: Schedule::LogLinear,
        };
        let rounds: Vec<usize> = (0..9).map(|s| c.round(s, 9)).collect();
        assert_eq!(rounds, [0, 0, 0, 1, 1, 1, 2, 2, 2]);
        assert_eq!([c.dt(0), c.dt(1), c.dt(2)], [1.0 / 32.0, 1.0 / 16.0, 1.0 / 8.0]);
    }
}
