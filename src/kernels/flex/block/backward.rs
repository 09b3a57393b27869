//! The way back through a block: gradients of its input, its parameters and its modulation, from the tape of the way there.
//!
//! Norms and activations are made again, and the activations' inputs give their place to their gradients. Sums over rows are
//! kept per task and added in the order of the tasks. B batch, L length, n = B L, r wanted rows, D width, F hidden width,
//! W packed width.

use rayon::prelude::*;

use super::super::gemm::{Matrix, Threads, product};
use super::super::{attention, pointwise};
use super::{Block, GATE1, GATE2, Grads, SCALE1, SCALE2, SHIFT1, SHIFT2, Tail, TailPart, Tape, parts, tile_rows};
use crate::kernels::simd::sum_parts;

impl Block<'_> {
    /// The gradients from that of y [r, D].
    ///
    /// # Panics
    /// Where a forward pass that keeps its tape gives none, which cannot be.
    pub fn backward(&self, grad: &[f32], x: &[f32], tape: Option<Tape>) -> Grads {
        let tape = match tape {
            Some(tape) => tape,
            None => match self.forward(x, true).1 {
                Some(tape) => tape,
                None => panic!("a kept forward pass has a tape"),
            },
        };
        let Tape { stats1, qkv, attended, tail } = tape;
        let rows = self.spec.wanted();
        let at: Vec<usize> = rows.flat(self.spec.shape.length).collect();
        let mut out = Grads { x: Vec::new(), weights: Default::default(), modulation: Vec::new() };
        // Per flat position, summed over a sequence's positions at the end.
        let mut modulation = vec![0.0; if self.modulated() { x.len() * 6 } else { 0 }];
        let (middle, attended_grad) = self.tail_backward(grad, &attended.0, &at, tail, &mut out, &mut modulation);
        let packed = attention::backward(
            (&attended_grad, &qkv),
            self.tables(),
            (&attended.0, &attended.1),
            &self.spec.shape,
            &rows,
        );
        drop((attended, attended_grad, qkv));
        self.project_backward(x, (&packed, &middle), &at, &stats1, &mut out, &mut modulation);
        out.modulation = self.sum_modulation(&modulation);
        out
    }

    /// The way back through [`Block::finish`]: gradients of the rows [r, D] before attention was added, and of
    /// attention's output [r, H d].
    fn tail_backward(
        &self,
        grad: &[f32],
        attended: &[f32],
        at: &[usize],
        mut tail: Tail,
        out: &mut Grads,
        modulation: &mut [f32],
    ) -> (Vec<f32>, Vec<f32>) {
        let _span = tracing::trace_span!("feed_forward_backward").entered();
        let (d, f, o, r) = (self.d(), self.f(), self.spec.shape.width(), at.len());
        let w = &self.weights;
        let tile = tile_rows(r);
        let tasks = r.div_ceil(tile);
        let (mut hidden, mut normed) = (vec![0.0; r * f], vec![0.0; r * d]);
        let (mut middle_grad, mut attended_grad) = (vec![0.0; r * d], vec![0.0; r * o]);
        // Sums of one task: norm2's scale and offset, then the biases.
        let wanted = |bias: &[f32]| bias.len();
        let sizes = [d, d, wanted(w.down.1), wanted(w.up.1), wanted(w.gate.1), wanted(w.out.1)];
        let width: usize = sizes.iter().sum();
        let mut sums = vec![0.0; tasks * width];
        // Under modulation the branches give their place to their gradients.
        let modulated_parts = if self.modulated() { 6 * d } else { 0 };
        let mut per_row = vec![0.0; r * modulated_parts];
        {
            let mut work: Vec<_> = tail.parts(tile, d, f, tasks).into_iter().enumerate().collect();
            let mut slots = [
                parts(&mut hidden, tile * f, tasks),
                parts(&mut normed, tile * d, tasks),
                parts(&mut middle_grad, tile * d, tasks),
                parts(&mut attended_grad, tile * o, tasks),
                parts(&mut sums, width, tasks),
                parts(&mut per_row, tile * modulated_parts, tasks),
            ]
            .map(Vec::into_iter);
            let mut jobs = Vec::with_capacity(tasks);
            for (i, part) in work.drain(..) {
                let next = slots.each_mut().map(|s| s.next().unwrap_or_default());
                jobs.push((i, part, next));
            }
            jobs.into_par_iter().for_each_init(
                || vec![0.0; tile * (d + f)],
                |scratch, (i, part, [hidden, normed, middle_grad, attended_grad, sums, per_row])| {
                    let from = i * tile;
                    let t = normed.len() / d;
                    let at = &at[from..from + t];
                    let grad = &grad[from * d..][..t * d];
                    let TailPart { middle, stats2, up, gate, branch1, branch2 } = part;
                    let rows = || at.iter().copied();
                    let (dy2, rest) = scratch.split_at_mut(t * d);
                    let dh = &mut rest[..t * f];
                    let mut sums = split_sizes(sums, &sizes).into_iter();
                    let [gamma, beta, down, up_bias, gate_bias, out_bias] =
                        [(); 6].map(|()| sums.next().unwrap_or_default());
                    // Feed-forward half.
                    let branch: &[f32] = if self.modulated() {
                        self.gate_backward(grad, branch2, per_row, rows(), GATE2);
                        branch2
                    } else {
                        grad
                    };
                    pointwise::sum_rows(branch, down);
                    product(Matrix::new(branch, d), Matrix::new(w.down.0, d).t(), dh, false, Threads::One);
                    if self.gated() {
                        pointwise::swiglu_backward(dh, gate, up, hidden);
                    } else {
                        pointwise::gelu_backward(dh, up, hidden);
                    }
                    pointwise::sum_rows(up, up_bias);
                    product(Matrix::new(up, f), Matrix::new(w.up.0, f).t(), dy2, false, Threads::One);
                    if self.gated() {
                        pointwise::sum_rows(gate, gate_bias);
                        product(Matrix::new(gate, f), Matrix::new(w.gate.0, f).t(), dy2, true, Threads::One);
                    }
                    pointwise::norm_again(middle, normed, stats2, w.norm2);
                    self.modulate_backward(dy2, normed, per_row, rows(), (SHIFT2, SCALE2));
                    middle_grad.copy_from_slice(grad);
                    let inputs = (&*dy2, &*middle);
                    pointwise::norm_backward_rows(
                        inputs,
                        w.norm2.0,
                        stats2,
                        self.spec.norm,
                        middle_grad,
                        (gamma, beta),
                    );
                    // Attention's way out.
                    let branch: &[f32] = if self.modulated() {
                        self.gate_backward(middle_grad, branch1, per_row, rows(), GATE1);
                        branch1
                    } else {
                        middle_grad
                    };
                    pointwise::sum_rows(branch, out_bias);
                    product(Matrix::new(branch, d), Matrix::new(w.out.0, d).t(), attended_grad, false, Threads::One);
                },
            );
        }
        let (branch1, branch2) = match self.modulated() {
            true => (&tail.branch1[..], &tail.branch2[..]),
            false => (&middle_grad[..], grad),
        };
        out.weights[4] = weight_gradient((attended, o), (branch1, d));
        out.weights[8] = weight_gradient((&normed, d), (&tail.up, f));
        if self.gated() {
            out.weights[10] = weight_gradient((&normed, d), (&tail.gate, f));
        }
        out.weights[12] = weight_gradient((&hidden, f), (branch2, d));
        let sums = sum_parts(&sums, width.max(1));
        let at_weight = [6, 7, 13, 9, 11, 5];
        let mut from = 0;
        for (size, i) in sizes.into_iter().zip(at_weight) {
            out.weights[i] = sums[from..from + size].to_vec();
            from += size;
        }
        if w.norm2.1.is_empty() {
            out.weights[7].clear();
        }
        for (row, at) in per_row.chunks_exact(modulated_parts.max(1)).zip(at) {
            modulation[at * modulated_parts..][..modulated_parts].copy_from_slice(row);
        }
        (middle_grad, attended_grad)
    }

    /// The way back through [`Block::project`]: the gradient of x [n, D] from those of the packed projections [n, W] and
    /// of the wanted rows [r, D].
    fn project_backward(
        &self,
        x: &[f32],
        (packed, middle): (&[f32], &[f32]),
        at: &[usize],
        stats: &[f32],
        out: &mut Grads,
        modulation: &mut [f32],
    ) {
        let _span = tracing::trace_span!("projection_backward").entered();
        let (d, w) = (self.d(), self.spec.shape.packed());
        let n = x.len() / d;
        let tile = tile_rows(n);
        let tasks = n.div_ceil(tile);
        let modulated_parts = if self.modulated() { 6 * d } else { 0 };
        let (mut dx, mut normed) = (vec![0.0; n * d], vec![0.0; n * d]);
        let sizes = [d, d, self.weights.qkv.1.len()];
        let width: usize = sizes.iter().sum();
        let mut sums = vec![0.0; tasks * width];
        {
            let mut slots = [
                parts(&mut dx, tile * d, tasks),
                parts(&mut normed, tile * d, tasks),
                parts(&mut sums, width, tasks),
                parts(modulation, tile * modulated_parts, tasks),
            ]
            .map(Vec::into_iter);
            let jobs: Vec<_> =
                (0..tasks).map(|i| (i, slots.each_mut().map(|s| s.next().unwrap_or_default()))).collect();
            jobs.into_par_iter().for_each_init(
                || vec![0.0; tile * d],
                |dy1, (i, [dx, normed, sums, per_row])| {
                    let from = i * tile;
                    let t = dx.len() / d;
                    let (x, stats) = (&x[from * d..][..t * d], &stats[from * 2..][..t * 2]);
                    let packed = &packed[from * w..][..t * w];
                    let dy1 = &mut dy1[..t * d];
                    let mut sums = split_sizes(sums, &sizes).into_iter();
                    let [gamma, beta, bias] = [(); 3].map(|()| sums.next().unwrap_or_default());
                    pointwise::sum_rows(packed, bias);
                    product(Matrix::new(packed, w), Matrix::new(self.weights.qkv.0, w).t(), dy1, false, Threads::One);
                    pointwise::norm_again(x, normed, stats, self.weights.norm1);
                    self.modulate_backward(dy1, normed, per_row, from..from + t, (SHIFT1, SCALE1));
                    let (first, last) = (at.partition_point(|p| *p < from), at.partition_point(|p| *p < from + t));
                    for (slot, p) in (first..last).zip(&at[first..last]) {
                        dx[(p - from) * d..][..d].copy_from_slice(&middle[slot * d..][..d]);
                    }
                    let kind = self.spec.norm;
                    pointwise::norm_backward_rows((dy1, x), self.weights.norm1.0, stats, kind, dx, (gamma, beta));
                },
            );
        }
        out.weights[2] = weight_gradient((&normed, d), (packed, w));
        let sums = sum_parts(&sums, width);
        out.weights[0] = sums[..d].to_vec();
        out.weights[1] = if self.weights.norm1.1.is_empty() { Vec::new() } else { sums[d..2 * d].to_vec() };
        out.weights[3] = sums[2 * d..].to_vec();
        out.x = dx;
    }

    /// branch <- grad o gate, the gradient of the branch; the gate's, grad o branch, goes to `per_row`.
    fn gate_backward(
        &self,
        grad: &[f32],
        branch: &mut [f32],
        per_row: &mut [f32],
        rows: impl Iterator<Item = usize>,
        gate: usize,
    ) {
        let d = self.d();
        let both = branch.chunks_exact_mut(d).zip(grad.chunks_exact(d));
        for (((branch, grad), per_row), at) in both.zip(per_row.chunks_exact_mut(6 * d)).zip(rows) {
            let dgate = &mut per_row[gate * d..][..d];
            for (((branch, g), dgate), gate) in branch.iter_mut().zip(grad).zip(dgate).zip(self.modulation_at(at, gate))
            {
                *dgate = g * *branch;
                *branch = g * gate;
            }
        }
    }

    /// From the gradient of y o (1 + scale) + shift: grad <- that of y; y <- the modulated rows; those of shift and scale
    /// go to `per_row`.
    fn modulate_backward(
        &self,
        grad: &mut [f32],
        y: &mut [f32],
        per_row: &mut [f32],
        rows: impl Iterator<Item = usize>,
        (shift, scale): (usize, usize),
    ) {
        if !self.modulated() {
            return;
        }
        let d = self.d();
        let both = grad.chunks_exact_mut(d).zip(y.chunks_exact_mut(d));
        for (((grad, y), per_row), at) in both.zip(per_row.chunks_exact_mut(6 * d)).zip(rows) {
            let (by, to) = (self.modulation_at(at, scale), self.modulation_at(at, shift));
            for i in 0..d {
                per_row[shift * d + i] = grad[i];
                per_row[scale * d + i] = grad[i] * y[i];
                grad[i] *= 1.0 + by[i];
                y[i] = y[i] * (1.0 + by[i]) + to[i];
            }
        }
    }

    /// The modulation's gradient [B, L or 1, 6 D] from those of single positions [n, 6 D].
    fn sum_modulation(&self, per_row: &[f32]) -> Vec<f32> {
        if per_row.len() == self.modulation.len() {
            return per_row.to_vec();
        }
        let mut out = vec![0.0; self.modulation.len()];
        let width = 6 * self.d();
        for (row, sums) in per_row.chunks_exact(self.spec.shape.length * width).zip(out.chunks_exact_mut(width)) {
            pointwise::sum_rows(row, sums);
        }
        out
    }
}

/// Consecutive parts of a buffer with these sizes.
fn split_sizes<'a>(mut buffer: &'a mut [f32], sizes: &[usize]) -> Vec<&'a mut [f32]> {
    let mut out = Vec::with_capacity(sizes.len());
    for size in sizes {
        let (part, rest) = buffer.split_at_mut(*size);
        out.push(part);
        buffer = rest;
    }
    out
}

/// x^T grad [in, out]: the gradient of a weight, with all threads.
fn weight_gradient((x, width): (&[f32], usize), (grad, grad_width): (&[f32], usize)) -> Vec<f32> {
    let _span = tracing::trace_span!("weight_gradient").entered();
    let mut out = vec![0.0; width * grad_width];
    product(Matrix::new(x, width).t(), Matrix::new(grad, grad_width), &mut out, false, Threads::All);
    out
}
