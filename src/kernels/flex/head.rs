//! The head and the loss of rows in one pass: logits exist for one chunk of rows at a time, and become their gradient.
//!
//! ```text
//! loss = sum_r weight_r * loss(x_r W + b, target_r)
//! ```
//!
//! Targets are tokens (cross-entropy) or a teacher's rows with its own head (a divergence). With `gradients` each chunk
//! goes on to dx, dW and db at once, as in Liger kernels (Hsu et al. 2024): nothing of [n, V] is kept.
//! n rows, D width, V vocabulary.

use rayon::prelude::*;

use super::gemm::{Matrix, Threads, product};
use super::{pointwise, rows};
use crate::kernels::Divergence;

/// Feature rows [n, D] with a head: weight [D, V], or under `tied` an embedding [V or more, D], and a bias `[V]` or nothing.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    pub x: &'a [f32],
    pub width: usize,
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub tied: bool,
}

impl<'a> Side<'a> {
    /// The weight as [D, V].
    fn matrix(&self, vocab: usize) -> Matrix<'a> {
        match self.tied {
            true => Matrix::new(&self.weight[..vocab * self.width], self.width).t(),
            false => Matrix::new(self.weight, vocab),
        }
    }

    /// Logits of rows `from ..` into `out` [rows, V].
    fn logits(&self, from: usize, vocab: usize, out: &mut [f32]) {
        let _span = tracing::trace_span!("head_logits").entered();
        let n = out.len() / vocab;
        let x = &self.x[from * self.width..][..n * self.width];
        product(Matrix::new(x, self.width), self.matrix(vocab), out, false, Threads::All);
        if !self.bias.is_empty() {
            out.par_chunks_mut(vocab).for_each(|row| pointwise::add_bias(row, self.bias));
        }
    }
}

/// What the rows are compared with.
#[derive(Debug, Clone, Copy)]
pub enum Against<'a> {
    Tokens(&'a [u32]),
    Teacher(Side<'a>, Divergence),
}

/// The weighted loss, and the gradients of x [n, D], weight and bias where asked for.
#[derive(Debug, Clone, Default)]
pub struct Loss {
    pub value: f64,
    pub dx: Vec<f32>,
    pub dweight: Vec<f32>,
    pub dbias: Vec<f32>,
}

/// The loss of all rows with their weights `[n]`, in chunks of `chunk` rows.
pub fn loss(side: Side, against: Against, weights: &[f32], vocab: usize, chunk: usize, gradients: bool) -> Loss {
    let (n, d) = (weights.len(), side.width);
    let some = |n: usize| vec![0.0; if gradients { n } else { 0 }];
    let mut out = Loss { value: 0.0, dx: some(n * d), dweight: some(side.weight.len()), dbias: some(side.bias.len()) };
    let chunk = chunk.min(n).max(1);
    let mut logits = vec![0.0; chunk * vocab];
    let mut theirs = vec![0.0; if matches!(against, Against::Teacher(..)) { chunk * vocab } else { 0 }];
    for from in (0..n).step_by(chunk) {
        let size = chunk.min(n - from);
        let logits = &mut logits[..size * vocab];
        side.logits(from, vocab, logits);
        let weights = &weights[from..from + size];
        let losses = match against {
            Against::Tokens(ids) => rows::cross_entropy(logits, &ids[from..from + size], vocab, gradients),
            Against::Teacher(teacher, kind) => {
                let theirs = &mut theirs[..size * vocab];
                teacher.logits(from, vocab, theirs);
                rows::divergence(logits, theirs, kind, vocab, gradients)
            }
        };
        out.value += losses.iter().zip(weights).map(|(l, w)| f64::from(*l) * f64::from(*w)).sum::<f64>();
        if !gradients {
            continue;
        }
        let _span = tracing::trace_span!("head_gradients").entered();
        rows::scale_rows(logits, weights, vocab);
        let x = Matrix::new(&side.x[from * d..][..size * d], d);
        let dlogits = Matrix::new(logits, vocab);
        let dx = &mut out.dx[from * d..][..size * d];
        product(dlogits, side.matrix(vocab).t(), dx, false, Threads::All);
        match side.tied {
            true => product(dlogits.t(), x, &mut out.dweight[..vocab * d], from > 0, Threads::All),
            false => product(x.t(), dlogits, &mut out.dweight, from > 0, Threads::All),
        }
        if !out.dbias.is_empty() {
            // Columns are dealt to the threads; each sums its rows in order.
            out.dbias.par_chunks_mut(1024).enumerate().for_each(|(i, sums)| {
                for row in logits.chunks_exact(vocab) {
                    pointwise::add(&row[i * 1024..][..sums.len()], sums);
                }
            });
        }
    }
    out
}
