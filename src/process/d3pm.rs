//! Discrete diffusion by transition matrices (D3PM; Austin et al. 2021, section 3 and appendix A.2).
//!
//! T levels; Q_t [N, N] takes x_{t-1} (row) to x_t (column), and Qbar_t = Q_1 Q_2 ... Q_t is q(x_t | x_0). All in f64. Between two
//! levels s < t there is Q_{s,t} = Q_{s+1} ... Q_t, so a sampler can take fewer than T steps:
//!
//! ```text
//! q(x_s = j | x_t = i, p) ~ Q_{s,t}[j, i] (p Qbar_s)[j]
//! ```
//!
//! for a prediction p of x_0 (the paper's eq. 4; its code's logits log Q_t[., x_t] + log (p Qbar_{t-1}), normalised).
//!
//! | matrix | Q_t | stationary |
//! |---|---|---|
//! | absorbing | (1 - b) I + b 1 e_mask^T | the mask |
//! | uniform | (1 - b) I + b 1 1^T/N | uniform |
//! | discretised Gaussian | exp(-4 (i-j)^2/((N-1)^2 b)) off the diagonal, over its sum over all distances | uniform |
//! | nearest neighbours | exp(a R), R = (G + G^T)/(2k) with rows that sum to 0 | uniform |
//!
//! b of the first two follows the schedule: 1 - b = alpha(t/T)/alpha((t-1)/T). The Gaussian's grows in proportion to t. In place of
//! the paper's schedule by mutual information, a of the last is such that the part that is not stationary, (trace Qbar_t - 1)/(N - 1),
//! is alpha(t/T). V vocabulary, N states: V, and the mask where there is one.

mod symmetric;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Schedule;
use crate::error::{Error, Result};

/// The kind of transition matrix.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Matrix {
    #[default]
    /// Every token becomes the mask.
    Absorbing,
    /// Every token becomes any other, all alike.
    Uniform,
    /// Token ids are an ordinal scale: near ones are confused first.
    Gaussian,
    /// Tokens with similar embeddings are confused first.
    Neighbours {
        /// The model of this recipe whose embedding says what is similar.
        model: String,
        /// Neighbours of each token.
        k: usize,
    },
}

/// A graph of tokens: of each the ids of its neighbours.
pub type Neighbours = Vec<Vec<u32>>;

/// Numbers that all matrices of a process may hold.
const MOST: usize = 1 << 25;
/// Tokens of nearest neighbours, whose eigenvalues take time with the third power of their number.
const MOST_NEAR: usize = 512;
/// What the Gaussian's steps add up to, in squared widths of the scale times 16: it leaves less than a thousandth of x_0.
const SPREAD: f64 = 32.0;
/// alpha of the last level of nearest neighbours, where an exponential cannot reach 0.
const LAST: f64 = 1e-4;

/// All matrices of a process.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrices {
    states: usize,
    vocab: usize,
    /// Q_1 ... Q_T, row-major [N, N].
    steps: Vec<Vec<f64>>,
    /// Qbar_0 = I ... Qbar_T.
    products: Vec<Vec<f64>>,
}

impl Matrices {
    /// Checks that the matrices of `levels` levels over V tokens can be held.
    ///
    /// # Errors
    /// More numbers than fit (usage).
    pub fn fits(matrix: &Matrix, vocab: usize, levels: usize) -> Result<()> {
        let states = vocab + usize::from(*matrix == Matrix::Absorbing);
        let one = states.saturating_mul(states).saturating_mul(2);
        if levels == 0 || vocab < 2 || one.saturating_mul(levels) > MOST {
            return Err(Error::usage(format!("{levels} transition matrices over {states} tokens"))
                .cause(format!("at most {MOST} numbers are kept, and at least one level over two tokens"))
                .hint(match MOST / one.max(1) {
                    0 => "take a smaller vocabulary, or `objective.elbo`, which needs no matrices".to_string(),
                    most => format!("take at most {most} `levels`, or `objective.elbo`, which needs no matrices"),
                }));
        }
        if let Matrix::Neighbours { k, .. } = matrix {
            if vocab > MOST_NEAR {
                return Err(Error::usage(format!("nearest neighbours among {vocab} tokens"))
                    .hint(format!("they are for at most {MOST_NEAR}: take another matrix, or a smaller vocabulary")));
            }
            if *k >= vocab {
                return Err(Error::usage(format!("{k} nearest neighbours of a token among {vocab} tokens"))
                    .hint(format!("`k` of at most {}", vocab - 1)));
            }
        }
        Ok(())
    }

    /// The matrices of `levels` levels over V tokens; `neighbours` `[V][k]` is there for that kind.
    ///
    /// # Errors
    /// More numbers than fit, and neighbours that do not connect all tokens (usage).
    ///
    /// # Panics
    /// Where that kind has no `neighbours`.
    pub fn new(
        matrix: &Matrix,
        vocab: usize,
        levels: usize,
        schedule: Schedule,
        neighbours: Option<&Neighbours>,
    ) -> Result<Self> {
        Self::fits(matrix, vocab, levels)?;
        let states = vocab + usize::from(*matrix == Matrix::Absorbing);
        let alpha = |t: usize| schedule.alpha(t as f64 / levels as f64);
        let lost = |t: usize| if alpha(t - 1) > 0.0 { 1.0 - alpha(t) / alpha(t - 1) } else { 1.0 };
        let all = 1..=levels;
        let steps: Vec<Vec<f64>> = match matrix {
            Matrix::Absorbing => all.map(|t| mixed(states, lost(t), |j| f64::from(u8::from(j == vocab)))).collect(),
            Matrix::Uniform => all.map(|t| mixed(states, lost(t), |_| 1.0 / states as f64)).collect(),
            Matrix::Gaussian => {
                let beta = |t: usize| SPREAD * t as f64 / (levels * levels) as f64;
                all.map(|t| gaussian(states, beta(t))).collect()
            }
            Matrix::Neighbours { .. } => {
                let Some(graph) = neighbours else { panic!("nearest neighbours come from an embedding") };
                let modes = symmetric::Modes::of(&rates(graph)?, states);
                let times: Vec<f64> = (0..=levels).map(|t| modes.time(alpha(t).max(LAST))).collect();
                times.windows(2).map(|pair| modes.exp(pair[1] - pair[0])).collect()
            }
        };
        let mut products = vec![identity(states)];
        for step in &steps {
            let before: &Vec<f64> = &products[products.len() - 1];
            products.push(product(before, step, states));
        }
        Ok(Matrices { states, vocab, steps, products })
    }

    /// N: the tokens, and the mask where there is one.
    pub fn states(&self) -> usize {
        self.states
    }

    /// T.
    pub fn levels(&self) -> usize {
        self.steps.len()
    }

    /// Whether a lost token becomes the mask, which is state V.
    pub fn absorbs(&self) -> bool {
        self.states > self.vocab
    }

    /// q(x_t | x_0 = x) `[N]`.
    pub fn marginal(&self, t: usize, x: u32) -> &[f64] {
        &self.products[t][x as usize * self.states..][..self.states]
    }

    /// Qbar_t of the V tokens, row-major [V, N].
    pub fn product(&self, t: usize) -> &[f64] {
        &self.products[t][..self.vocab * self.states]
    }

    /// Q_{s,t}[., i] `[N]`: how likely each state at s goes to `i` at t.
    ///
    /// # Panics
    /// Where `s` is above `t`, or `t` above the last level.
    pub fn way(&self, s: usize, t: usize, i: u32) -> Vec<f64> {
        assert!(s <= t && t <= self.levels(), "from level {s} to {t}");
        let n = self.states;
        let Some(last) = self.steps[s..t].last() else {
            return (0..n).map(|j| f64::from(u8::from(j == i as usize))).collect();
        };
        // Column i of the product, from the right.
        let mut column: Vec<f64> = (0..n).map(|j| last[j * n + i as usize]).collect();
        for step in self.steps[s..t - 1].iter().rev() {
            let row = |j: usize| step[j * n..(j + 1) * n].iter().zip(&column).map(|(a, b)| a * b).sum();
            column = (0..n).map(row).collect();
        }
        column
    }

    /// q(x_s | x_t = i, p) `[N]` from a prediction p `[V]` of x_0.
    pub fn posterior(&self, s: usize, t: usize, i: u32, p: &[f64]) -> Vec<f64> {
        self.posterior_by(&self.way(s, t, i), s, p)
    }

    /// [`Matrices::posterior`] with its [`Matrices::way`].
    ///
    /// # Panics
    /// Where `p` is not one probability for each token.
    pub fn posterior_by(&self, way: &[f64], s: usize, p: &[f64]) -> Vec<f64> {
        assert_eq!(p.len(), self.vocab, "a probability for each token");
        let n = self.states;
        let mut joint = vec![0.0; n];
        for (x, p) in p.iter().enumerate().filter(|(_, p)| **p > 0.0) {
            joint.iter_mut().zip(&self.products[s][x * n..(x + 1) * n]).for_each(|(j, q)| *j += p * q);
        }
        joint.iter_mut().zip(way).for_each(|(j, w)| *j *= w);
        let total: f64 = joint.iter().sum();
        if total > 0.0 { joint.into_iter().map(|j| j / total).collect() } else { joint }
    }
}

/// (1 - b) I + b 1 `to`^T.
fn mixed(n: usize, b: f64, to: impl Fn(usize) -> f64) -> Vec<f64> {
    (0..n * n).map(|at| b * to(at % n) + if at / n == at % n { 1.0 - b } else { 0.0 }).collect()
}

/// The discretised Gaussian of variance proportional to `beta` (appendix A.2.3).
fn gaussian(n: usize, beta: f64) -> Vec<f64> {
    let width = (n - 1) as f64;
    let kernel = |d: f64| (-4.0 * d * d / (width * width * beta)).exp();
    let total: f64 = (1 - n as i64..n as i64).map(|d| kernel(d as f64)).sum();
    let mut q: Vec<f64> = (0..n * n).map(|at| kernel((at / n) as f64 - (at % n) as f64) / total).collect();
    for i in 0..n {
        let others: f64 = (0..n).filter(|j| *j != i).map(|j| q[i * n + j]).sum();
        q[i * n + i] = 1.0 - others;
    }
    q
}

/// The k tokens nearest to each of V, by the distance of their rows in an embedding [V, d].
pub fn nearest(embedding: &[f32], width: usize, k: usize) -> Neighbours {
    let row = |i: usize| &embedding[i * width..(i + 1) * width];
    let v = embedding.len() / width;
    let distance = |a: usize, b: usize| row(a).iter().zip(row(b)).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>();
    let of = |i: usize| {
        let mut others: Vec<u32> = (0..v as u32).filter(|j| *j as usize != i).collect();
        others.sort_by(|a, b| distance(i, *a as usize).total_cmp(&distance(i, *b as usize)).then(a.cmp(b)));
        others.truncate(k);
        others
    };
    (0..v).map(of).collect()
}

/// The rates R of a graph [V][k]: symmetric, with rows that sum to 0 (appendix A.2.4).
fn rates(graph: &Neighbours) -> Result<Vec<f64>> {
    let n = graph.len();
    let mut r = vec![0.0; n * n];
    for (i, near) in graph.iter().enumerate() {
        for j in near {
            let weight = 1.0 / (2.0 * near.len() as f64);
            r[i * n + *j as usize] += weight;
            r[*j as usize * n + i] += weight;
        }
    }
    let (mut seen, mut open) = (vec![false; n], vec![0]);
    while let Some(i) = open.pop() {
        if !std::mem::replace(&mut seen[i], true) {
            open.extend((0..n).filter(|j| r[i * n + j] > 0.0 && !seen[*j]));
        }
    }
    if let Some(apart) = seen.iter().position(|s| !s) {
        return Err(Error::usage(format!("no path of neighbours leads from token 0 to token {apart}"))
            .cause("noise would never reach it, and nothing could be drawn from noise")
            .hint("raise `k` of the neighbours"));
    }
    for i in 0..n {
        r[i * n + i] = -r[i * n..(i + 1) * n].iter().sum::<f64>();
    }
    Ok(r)
}

fn identity(n: usize) -> Vec<f64> {
    (0..n * n).map(|at| f64::from(u8::from(at / n == at % n))).collect()
}

/// a b, both [n, n].
fn product(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
    let mut out = vec![0.0; n * n];
    for (row, of) in out.chunks_mut(n).zip(a.chunks(n)) {
        for (x, b) in of.iter().zip(b.chunks(n)) {
            row.iter_mut().zip(b).for_each(|(o, b)| *o += x * b);
        }
    }
    out
}

#[cfg(test)]
mod tests;
