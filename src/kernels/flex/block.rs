//! One transformer block, forward and backward, with its own memory plan.
//!
//! ```text
//! a  = x + g1 o (attention(m1(norm1 x) Wqkv) Wout)          m_i(y) = y o (1 + scale_i) + shift_i
//! y  = a + g2 o (act(m2(norm2 a) Wup) Wdown)                 (modulation by time: Peebles and Xie 2023, DiT)
//! ```
//!
//! Rows go through a half block in tiles that stay in a core's cache, each task multiplying its own tile; only the
//! attention joins rows. The forward pass keeps the packed projection, the attention's output and log-sum-exps, the row
//! between the halves and the inputs of the activation: 3 + 1 + 1 + F/D numbers a feature, where composed operations keep
//! about twice that. Norms and activations are made again on the way back, and the activations' inputs give their place
//! to their gradients. With `checkpoint` nothing but x is kept and the backward pass begins with a forward pass.
//! Attention's output and everything behind it is computed for the wanted rows only: a last block whose loss looks at the
//! masked positions does its second part for those.
//!
//! B batch, L length, n = B L, r wanted rows, D width, F hidden width, W packed width (H + 2 Hkv) d.

mod backward;

use std::borrow::Cow;
use std::sync::Arc;

use rayon::prelude::*;

use super::gemm::{Matrix, Threads, product};
use super::{attention, pointwise};
use crate::kernels::shape::{NormKind, Rows, Shape, Tables};

/// Weight [in, out] and bias `[out]` of a projection; an empty bias is none.
pub type Projection<'a> = (&'a [f32], &'a [f32]);

/// The parameters of a block, in the order of `NAMES`.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    /// Scale and offset `[D]`; an empty offset is none.
    pub norm1: (&'a [f32], &'a [f32]),
    pub qkv: Projection<'a>,
    pub out: Projection<'a>,
    pub norm2: (&'a [f32], &'a [f32]),
    pub up: Projection<'a>,
    /// Empty unless the activation is gated (SwiGLU).
    pub gate: Projection<'a>,
    pub down: Projection<'a>,
}

/// Number of parameters of a block.
pub const PARAMETERS: usize = 14;

impl<'a> Weights<'a> {
    /// From slices in the order norm1, qkv, out, norm2, up, gate, down; of each the weight and then the bias.
    pub fn of(s: [&'a [f32]; PARAMETERS]) -> Self {
        Weights {
            norm1: (s[0], s[1]),
            qkv: (s[2], s[3]),
            out: (s[4], s[5]),
            norm2: (s[6], s[7]),
            up: (s[8], s[9]),
            gate: (s[10], s[11]),
            down: (s[12], s[13]),
        }
    }
}

/// What a block does besides its parameters.
#[derive(Debug, Clone)]
pub struct Spec {
    pub shape: Shape,
    pub norm: NormKind,
    pub tables: Arc<Tables>,
    /// The rows whose output is wanted; none: all.
    pub rows: Option<Arc<Rows>>,
    /// Keep nothing for the backward pass but the input.
    pub checkpoint: bool,
}

impl Spec {
    fn wanted(&self) -> Arc<Rows> {
        match &self.rows {
            Some(rows) => rows.clone(),
            None => Arc::new(Rows::all(self.shape.batch, self.shape.length)),
        }
    }
}

/// What a forward pass leaves for the backward pass.
#[derive(Debug, Clone)]
pub struct Tape {
    /// Means and inverse deviations of norm1 [n, 2].
    stats1: Vec<f32>,
    /// Packed projections [n, W].
    qkv: Vec<f32>,
    /// Attention's output [r, H d] and log-sum-exps [r, H].
    attended: (Vec<f32>, Vec<f32>),
    tail: Tail,
}

/// The second part's share of the tape: the input a of norm2 [r, D], its statistics [r, 2], the activation's inputs
/// [r, F], and under modulation both branches before their gates [r, D].
#[derive(Debug, Clone, Default)]
struct Tail {
    middle: Vec<f32>,
    stats2: Vec<f32>,
    up: Vec<f32>,
    gate: Vec<f32>,
    branch1: Vec<f32>,
    branch2: Vec<f32>,
}

/// One task's part of a [`Tail`].
struct TailPart<'a> {
    middle: &'a mut [f32],
    stats2: &'a mut [f32],
    up: &'a mut [f32],
    gate: &'a mut [f32],
    branch1: &'a mut [f32],
    branch2: &'a mut [f32],
}

impl Tail {
    fn new(rows: usize, d: usize, f: usize, gated: bool, modulated: bool) -> Self {
        let some = |wanted: bool, n: usize| vec![0.0; if wanted { n } else { 0 }];
        Tail {
            middle: vec![0.0; rows * d],
            stats2: vec![0.0; rows * 2],
            up: vec![0.0; rows * f],
            gate: some(gated, rows * f),
            branch1: some(modulated, rows * d),
            branch2: some(modulated, rows * d),
        }
    }

    /// The parts of `tasks` tasks of `tile` rows.
    fn parts(&mut self, tile: usize, d: usize, f: usize, tasks: usize) -> Vec<TailPart<'_>> {
        let mut middle = parts(&mut self.middle, tile * d, tasks).into_iter();
        let mut stats2 = parts(&mut self.stats2, tile * 2, tasks).into_iter();
        let mut up = parts(&mut self.up, tile * f, tasks).into_iter();
        let mut gate = parts(&mut self.gate, tile * f, tasks).into_iter();
        let mut branch1 = parts(&mut self.branch1, tile * d, tasks).into_iter();
        let mut branch2 = parts(&mut self.branch2, tile * d, tasks).into_iter();
        let mut next = || {
            Some(TailPart {
                middle: middle.next()?,
                stats2: stats2.next()?,
                up: up.next()?,
                gate: gate.next()?,
                branch1: branch1.next()?,
                branch2: branch2.next()?,
            })
        };
        std::iter::from_fn(&mut next).take(tasks).collect()
    }
}

/// `count` parts of `size` elements of a buffer, the last one shorter; of an empty buffer `count` empty ones.
fn parts(buffer: &mut [f32], size: usize, count: usize) -> Vec<&mut [f32]> {
    if buffer.is_empty() { (0..count).map(|_| &mut [][..]).collect() } else { buffer.chunks_mut(size).collect() }
}

/// Rows of one task: enough tasks for several cores, and tiles large enough for the products. A function of n alone, so
/// that sums over tasks do not depend on the machine.
fn tile_rows(n: usize) -> usize {
    (n / 8).next_multiple_of(16).clamp(32, 256)
}

/// Gradients of a block's input [n, D], of its parameters in order, and of its modulation.
pub struct Grads {
    pub x: Vec<f32>,
    pub weights: [Vec<f32>; PARAMETERS],
    pub modulation: Vec<f32>,
}

/// A block with its parameters and, where the network is told the time, its modulation [B, L or 1, 6 D]: shift, scale and
/// gate of the attention, then of the feed-forward half.
#[derive(Clone, Copy)]
pub struct Block<'a> {
    pub weights: Weights<'a>,
    pub modulation: &'a [f32],
    pub spec: &'a Spec,
}

const SHIFT1: usize = 0;
const SCALE1: usize = 1;
const GATE1: usize = 2;
const SHIFT2: usize = 3;
const SCALE2: usize = 4;
const GATE2: usize = 5;

impl<'a> Block<'a> {
    fn d(&self) -> usize {
        self.weights.norm1.0.len()
    }

    fn f(&self) -> usize {
        self.weights.up.0.len() / self.d()
    }

    fn modulated(&self) -> bool {
        !self.modulation.is_empty()
    }

    fn gated(&self) -> bool {
        !self.weights.gate.0.is_empty()
    }

    fn tables(&self) -> (&'a [f32], &'a [f32]) {
        (&self.spec.tables.cos, &self.spec.tables.sin)
    }

    /// Row of the modulation that belongs to flat position `at`.
    fn modulation_row(&self, at: usize) -> usize {
        let shape = &self.spec.shape;
        let per_sequence = self.modulation.len() == shape.batch * 6 * self.d();
        if per_sequence { at / shape.length } else { at }
    }

    /// Part [D] of the modulation at flat position `at`.
    fn modulation_at(&self, at: usize, part: usize) -> &'a [f32] {
        let d = self.d();
        &self.modulation[(self.modulation_row(at) * 6 + part) * d..][..d]
    }

    /// y <- y o (1 + scale) + shift for rows at flat positions.
    fn modulate(&self, y: &mut [f32], rows: impl Iterator<Item = usize>, (shift, scale): (usize, usize)) {
        if !self.modulated() {
            return;
        }
        for (y, at) in y.chunks_exact_mut(self.d()).zip(rows) {
            let (shift, scale) = (self.modulation_at(at, shift), self.modulation_at(at, scale));
            for ((y, shift), scale) in y.iter_mut().zip(shift).zip(scale) {
                *y = *y * (1.0 + scale) + shift;
            }
        }
    }

    /// to <- to + from o gate.
    fn add_gated(&self, from: &[f32], to: &mut [f32], rows: impl Iterator<Item = usize>, gate: usize) {
        let d = self.d();
        for ((to, from), at) in to.chunks_exact_mut(d).zip(from.chunks_exact(d)).zip(rows) {
            for ((to, from), gate) in to.iter_mut().zip(from).zip(self.modulation_at(at, gate)) {
                *to += from * gate;
            }
        }
    }

    /// Packed projections [n, W] of x [n, D], and norm1's statistics [n, 2].
    pub fn project(&self, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let _span = tracing::trace_span!("projection").entered();
        let (d, w) = (self.d(), self.spec.shape.packed());
        let n = x.len() / d;
        let tile = tile_rows(n);
        let (mut qkv, mut stats) = (vec![0.0; n * w], vec![0.0; 2 * n]);
        let tasks = qkv.par_chunks_mut(tile * w).zip(stats.par_chunks_mut(2 * tile)).zip(x.par_chunks(tile * d));
        tasks.enumerate().for_each_init(
            || vec![0.0; tile * d],
            |y, (i, ((qkv, stats), x))| {
                let y = &mut y[..x.len()];
                pointwise::norm_rows(x, y, stats, self.weights.norm1, self.spec.norm);
                self.modulate(y, i * tile.., (SHIFT1, SCALE1));
                product(Matrix::new(y, d), Matrix::new(self.weights.qkv.0, w), qkv, false, Threads::One);
                pointwise::add_bias(qkv, self.weights.qkv.1);
            },
        );
        (qkv, stats)
    }

    /// y [r, D] from the rows x [r, D] at flat positions `at` `[r]` and attention's output [r, H d]; with `keep` the tail of
    /// the tape.
    pub fn finish(&self, x: &[f32], attended: &[f32], at: &[usize], keep: bool) -> (Vec<f32>, Option<TapeTail>) {
        let _span = tracing::trace_span!("feed_forward").entered();
        let (d, f, o) = (self.d(), self.f(), self.spec.shape.width());
        let r = at.len();
        let tile = tile_rows(r);
        let mut y = vec![0.0; r * d];
        let inputs = |i: usize, rows: usize| {
            let from = i * tile;
            (&x[from * d..][..rows * d], &attended[from * o..][..rows * o], &at[from..from + rows])
        };
        if keep {
            let mut tail = Tail::new(r, d, f, self.gated(), self.modulated());
            let tasks = tail.parts(tile, d, f, r.div_ceil(tile));
            tasks.into_par_iter().zip(y.par_chunks_mut(tile * d)).enumerate().for_each_init(
                || vec![0.0; tile * (d + f)],
                |scratch, (i, (part, y))| self.tail(inputs(i, y.len() / d), part, y, scratch),
            );
            return (y, Some(TapeTail(tail)));
        }
        y.par_chunks_mut(tile * d).enumerate().for_each_init(
            || (Tail::new(tile, d, f, self.gated(), self.modulated()), vec![0.0; tile * (d + f)]),
            |(tail, scratch), (i, y)| {
                let rows = y.len() / d;
                for part in tail.parts(rows, d, f, 1) {
                    self.tail(inputs(i, rows), part, y, scratch);
                }
            },
        );
        (y, None)
    }

    /// The rows of one task of [`Block::finish`].
    fn tail(&self, (x, attended, at): (&[f32], &[f32], &[usize]), part: TailPart, y: &mut [f32], scratch: &mut [f32]) {
        let (d, f, t) = (self.d(), self.f(), at.len());
        let w = &self.weights;
        let multiply = |x: &[f32], (weight, bias): Projection, width: usize, out: &mut [f32], add: bool| {
            product(Matrix::new(x, x.len() / t), Matrix::new(weight, width), out, add, Threads::One);
            pointwise::add_bias(out, bias);
        };
        let TailPart { middle, stats2, up, gate, branch1, branch2 } = part;
        // The buffers may be those of a whole tile.
        let (middle, stats2, up) = (&mut middle[..t * d], &mut stats2[..t * 2], &mut up[..t * f]);
        middle.copy_from_slice(x);
        if self.modulated() {
            let branch = &mut branch1[..t * d];
            multiply(attended, w.out, d, branch, false);
            self.add_gated(branch, middle, at.iter().copied(), GATE1);
        } else {
            multiply(attended, w.out, d, middle, true);
        }
        let (normed, rest) = scratch.split_at_mut(t * d);
        let hidden = &mut rest[..t * f];
        pointwise::norm_rows(middle, normed, stats2, w.norm2, self.spec.norm);
        self.modulate(normed, at.iter().copied(), (SHIFT2, SCALE2));
        multiply(normed, w.up, f, up, false);
        if self.gated() {
            let gate = &mut gate[..t * f];
            multiply(normed, w.gate, f, gate, false);
            pointwise::swiglu(gate, up, hidden);
        } else {
            pointwise::gelu(up, hidden);
        }
        y.copy_from_slice(middle);
        if self.modulated() {
            let branch = &mut branch2[..t * d];
            multiply(hidden, w.down, d, branch, false);
            self.add_gated(branch, y, at.iter().copied(), GATE2);
        } else {
            multiply(hidden, w.down, d, y, true);
        }
    }

    /// The rows of x [n, D] that are wanted, [r, D], and their flat positions.
    fn wanted<'x>(&self, x: &'x [f32], rows: &Rows) -> (Cow<'x, [f32]>, Vec<usize>) {
        let (d, l) = (self.d(), self.spec.shape.length);
        let at: Vec<usize> = rows.flat(l).collect();
        if at.len() * d == x.len() {
            return (Cow::Borrowed(x), at);
        }
        let mut picked = Vec::with_capacity(at.len() * d);
        at.iter().for_each(|i| picked.extend_from_slice(&x[i * d..][..d]));
        (Cow::Owned(picked), at)
    }

    /// y [r, D] of x [n, D], and with `keep` the tape of the backward pass.
    pub fn forward(&self, x: &[f32], keep: bool) -> (Vec<f32>, Option<Tape>) {
        let (rows, shape) = (self.spec.wanted(), &self.spec.shape);
        let (qkv, stats1) = self.project(x);
        let attended = attention::forward(&qkv, self.tables(), shape, &rows);
        let (picked, at) = self.wanted(x, &rows);
        let (y, tail) = self.finish(&picked, &attended.0, &at, keep);
        (y, tail.map(|tail| Tape { stats1, qkv, attended, tail: tail.0 }))
    }
}

/// What a kept [`Block::finish`] leaves.
pub struct TapeTail(Tail);
