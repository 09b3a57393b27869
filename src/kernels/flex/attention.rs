//! Rotary softmax attention on the packed projection, forward and backward, one head at a time.
//!
//! ```text
//! S = rot(Q) rot(K)^T / sqrt d,   P = softmax(S),   O = P V
//! ```
//!
//! The forward pass keeps only each row's log-sum-exp; the backward pass makes P again, block of queries by block
//! (FlashAttention, Dao et al. 2022, section 3.1). Only the rows that are asked for are computed; a row that sees no key is
//! zero. B batch, L length, H query heads, Hkv key heads, d head width, r rows.

use std::ops::Range;

use rayon::prelude::*;

use crate::kernels::shape::{Rows, Shape};
use crate::kernels::simd::{LANES, exp, map_sum, max, sum2, wide};

/// Queries of one block: their scores against 1024 keys stay in the second-level cache.
const BLOCK: usize = 32;
/// Rows of one register tile.
const TILE: usize = 4;

/// Elements from one row of a score block to the next; the odd cache line keeps the rows of a power of two out of one
/// another's way.
fn stride(length: usize) -> usize {
    length.next_multiple_of(2 * LANES) + LANES
}

/// The right factor of a product [depth, n], cut into panels of LANES columns with zeros behind the last one.
struct Panels {
    data: Vec<f32>,
    depth: usize,
}

impl Panels {
    /// Of x [depth, n].
    #[inline(always)]
    fn rows(x: &[f32], n: usize) -> Self {
        let depth = x.len() / n;
        let mut data = vec![0.0; n.div_ceil(LANES) * depth * LANES];
        for (p, panel) in data.chunks_exact_mut(depth * LANES).enumerate() {
            let (from, to) = (p * LANES, (p * LANES + LANES).min(n));
            let (panel, _) = panel.as_chunks_mut::<LANES>();
            for (row, x) in panel.iter_mut().zip(x.chunks_exact(n)) {
                match x[from..to].as_array::<LANES>() {
                    Some(x) => *row = *x,
                    None => row[..to - from].copy_from_slice(&x[from..to]),
                }
            }
        }
        Panels { data, depth }
    }

    /// Of the transpose of x [n, depth].
    #[inline(always)]
    fn columns(x: &[f32], depth: usize) -> Self {
        let mut data = vec![0.0; (x.len() / depth).div_ceil(LANES) * depth * LANES];
        for (panel, x) in data.chunks_exact_mut(depth * LANES).zip(x.chunks(depth * LANES)) {
            for (j, x) in x.chunks_exact(depth).enumerate() {
                for (row, v) in panel.chunks_exact_mut(LANES).zip(x) {
                    row[j] = *v;
                }
            }
        }
        Panels { data, depth }
    }
}

/// The left factor of a product, rows `stride` elements apart, or its transpose.
#[derive(Clone, Copy)]
enum Left<'a> {
    Rows(&'a [f32], usize),
    Columns(&'a [f32], usize),
}

/// Rows `from .. from + M` of left times one panel.
#[inline(always)]
fn tile<const M: usize>(left: Left, from: usize, panel: &[[f32; LANES]]) -> [[f32; LANES]; M] {
    // No closure: one that is called at two places becomes a function of its own, without the wide registers of `wide`.
    #[inline(always)]
    fn add(acc: &mut [f32; LANES], b: &[f32; LANES], a: f32) {
        for j in 0..LANES {
            acc[j] = a.mul_add(b[j], acc[j]);
        }
    }
    let mut acc = [[0.0; LANES]; M];
    match left {
        Left::Rows(data, stride) => {
            let mut rows = [data; M];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = &data[(from + i) * stride..][..panel.len()];
            }
            for (k, b) in panel.iter().enumerate() {
                for (i, row) in rows.iter().enumerate() {
                    add(&mut acc[i], b, row[k]);
                }
            }
        }
        Left::Columns(data, stride) => {
            for (b, column) in panel.iter().zip(data.chunks(stride)) {
                for (i, a) in column[from..from + M].iter().enumerate() {
                    add(&mut acc[i], b, *a);
                }
            }
        }
    }
    acc
}

/// out [m, n] at row stride `stride` gets, or with `add` grows by, left [m, depth] times the first `depth` rows of
/// right.
#[inline(always)]
fn product(
    left: Left,
    right: &Panels,
    (m, depth, n): (usize, usize, usize),
    out: &mut [f32],
    stride: usize,
    add: bool,
) {
    for (p, panel) in right.data.chunks_exact(right.depth * LANES).take(n.div_ceil(LANES)).enumerate() {
        let (panel, _) = panel[..depth * LANES].as_chunks::<LANES>();
        let (first, columns) = (p * LANES, LANES.min(n - p * LANES));
        let mut store = |i: usize, acc: &[f32; LANES]| {
            let out = &mut out[i * stride + first..][..columns];
            if add {
                out.iter_mut().zip(acc).for_each(|(o, a)| *o += a);
            } else {
                out.iter_mut().zip(acc).for_each(|(o, a)| *o = *a);
            }
        };
        let whole = m - m % TILE;
        for from in (0..whole).step_by(TILE) {
            let acc = tile::<TILE>(left, from, panel);
            for (i, acc) in acc.iter().enumerate() {
                store(from + i, acc);
            }
        }
        for from in whole..m {
            let [acc] = tile::<1>(left, from, panel);
            store(from, &acc);
        }
    }
}

/// Columns `first .. first + d` of the given rows of packed [L, width], as [rows, d].
fn gather(packed: &[f32], width: usize, first: usize, d: usize, rows: impl Iterator<Item = usize>) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.size_hint().0 * d);
    for row in rows {
        out.extend_from_slice(&packed[row * width + first..][..d]);
    }
    out
}

/// Rotates x [rows, d] in place by the half-split tables' rows at `positions`; `turn` is 1, or -1 for the transposed
/// rotation of a gradient.
#[inline(always)]
fn rotate(
    x: &mut [f32],
    d: usize,
    tables: (&[f32], &[f32]),
    positions: impl Iterator<Item = usize>,
    (turn, scale): (f32, f32),
) {
    for (row, at) in x.chunks_exact_mut(d).zip(positions) {
        rotate_row(row, (&tables.0[at * d..], &tables.1[at * d..]), (turn, scale));
    }
}

/// One row of `rotate`; the tables start at its position.
#[inline(always)]
pub fn rotate_row(row: &mut [f32], (cos, sin): (&[f32], &[f32]), (turn, scale): (f32, f32)) {
    let half = row.len() / 2;
    let (a, b) = row.split_at_mut(half);
    // The tables repeat themselves after d / 2.
    let (cos, sin) = (&cos[..half], &sin[..half]);
    let turned =
        |x: f32, y: f32, cos: f32, sin: f32| ((x * cos - y * turn * sin) * scale, (y * cos + x * turn * sin) * scale);
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks_mut::<8>(), b.as_chunks_mut::<8>());
    let ((cos, cos_rest), (sin, sin_rest)) = (cos.as_chunks::<8>(), sin.as_chunks::<8>());
    for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        for i in 0..8 {
            (a[i], b[i]) = turned(a[i], b[i], cos[i], sin[i]);
        }
    }
    for (((a, b), cos), sin) in a_rest.iter_mut().zip(b_rest).zip(cos_rest).zip(sin_rest) {
        (*a, *b) = turned(*a, *b, *cos, *sin);
    }
}

/// What of the first `last` keys lies outside of the seen ranges, which rise.
fn hidden(seen: &[Range<usize>; 2], last: usize) -> [Range<usize>; 3] {
    let [a, b] = seen;
    if b.is_empty() {
        let end = a.end.min(last);
        return [0..a.start.min(end), end..last, last..last];
    }
    let first = if a.is_empty() { 0..0 } else { a.clone() };
    [0..first.start, first.end..b.start, b.end.min(last)..last]
}

/// One sequence of an attention: its packed rows [L, packed], its number, and the positions that are wanted.
struct Sequence<'a> {
    packed: &'a [f32],
    number: usize,
    positions: &'a [u32],
    shape: &'a Shape,
    tables: (&'a [f32], &'a [f32]),
}

impl Sequence<'_> {
    fn at(&self) -> impl Iterator<Item = usize> + Clone {
        self.positions.iter().map(|p| *p as usize)
    }

    /// The places that the wanted positions are turned to.
    fn places(&self) -> impl Iterator<Item = usize> + Clone {
        self.at().map(|i| self.shape.place(i))
    }

    /// Rotated queries of `head` at the wanted positions, times 1 / sqrt d: [rows, d].
    #[inline(always)]
    fn queries(&self, head: usize) -> Vec<f32> {
        let d = self.shape.head_dim;
        let mut q = gather(self.packed, self.shape.packed(), head * d, d, self.at());
        rotate(&mut q, d, self.tables, self.places(), (1.0, 1.0 / (d as f32).sqrt()));
        q
    }

    /// Rotated keys, and values, of key head `group`, each [L, d].
    #[inline(always)]
    fn keys_values(&self, group: usize) -> (Vec<f32>, Vec<f32>) {
        let (s, l) = (self.shape, self.shape.length);
        let d = s.head_dim;
        let mut k = gather(self.packed, s.packed(), (s.heads + group) * d, d, 0..l);
        rotate(&mut k, d, self.tables, (0..l).map(|i| s.place(i)), (1.0, 1.0));
        (k, gather(self.packed, s.packed(), (s.heads + s.kv_heads + group) * d, d, 0..l))
    }

    /// Query heads that share key head `group`.
    fn heads(&self, group: usize) -> Range<usize> {
        let each = self.shape.heads / self.shape.kv_heads;
        group * each..(group + 1) * each
    }

    /// What the query at wanted position `i` sees.
    fn seen(&self, i: usize) -> [Range<usize>; 2] {
        self.shape.seen(self.number, self.positions[i] as usize)
    }

    /// The end of what rows `from ..` of a block of `rows` wanted positions see.
    fn last(&self, from: usize, rows: usize) -> usize {
        let end = |i: usize| self.seen(i).iter().filter(|r| !r.is_empty()).map(|r| r.end).max().unwrap_or(0);
        (from..from + rows).map(end).max().unwrap_or(0)
    }

    /// For each query head of `group`: O [rows, d] and the log-sum-exp of every score row [rows].
    #[inline(always)]
    fn forward(&self, group: usize) -> Vec<(Vec<f32>, Vec<f32>)> {
        let (r, d, stride) = (self.positions.len(), self.shape.head_dim, stride(self.shape.length));
        let (k, v) = self.keys_values(group);
        let (keys, values) = (Panels::columns(&k, d), Panels::rows(&v, d));
        let mut scores = vec![0.0; BLOCK.min(r) * stride];
        // A loop and no iterator of closures: those are not compiled for the wide registers of `wide`.
        let mut heads = Vec::new();
        for head in self.heads(group) {
            let q = self.queries(head);
            let (mut out, mut lse) = (vec![0.0; r * d], vec![0.0; r]);
            for from in (0..r).step_by(BLOCK) {
                let rows = BLOCK.min(r - from);
                let last = self.last(from, rows);
                product(Left::Rows(&q[from * d..], d), &keys, (rows, d, last), &mut scores, stride, false);
                let mut inverse = [0.0; BLOCK];
                for i in 0..rows {
                    let seen = self.seen(from + i);
                    let row = &mut scores[i * stride..][..last];
                    for hidden in hidden(&seen, last) {
                        row[hidden].fill(0.0);
                    }
                    if seen.iter().all(|r| r.is_empty()) {
                        // A row that sees nothing is zero, and its exponentials in the backward pass too.
                        lse[from + i] = f32::INFINITY;
                        continue;
                    }
                    let mut m = f32::NEG_INFINITY;
                    for seen in &seen {
                        if !seen.is_empty() {
                            m = m.max(max(&row[seen.clone()]));
                        }
                    }
                    let mut total = 0.0;
                    for seen in seen {
                        if !seen.is_empty() {
                            total += map_sum(&mut row[seen], |s| exp(s - m));
                        }
                    }
                    lse[from + i] = m + total.ln();
                    inverse[i] = 1.0 / total;
                }
                let out = &mut out[from * d..][..rows * d];
                product(Left::Rows(&scores, stride), &values, (rows, last, d), out, d, false);
                for (row, inverse) in out.chunks_exact_mut(d).zip(inverse) {
                    row.iter_mut().for_each(|o| *o *= inverse);
                }
            }
            heads.push((out, lse));
        }
        heads
    }

    /// Gradients of the queries [rows, d] of every head of `group`, and of its keys and values, each [L, d]:
    ///
    /// ```text
    /// dV = P^T dO,   dS = P o (dO V^T - rowsum(dO o O)),   dQ = dS K / sqrt d,   dK = dS^T Q
    /// ```
    #[inline(always)]
    fn backward(&self, group: usize, grad: &[f32], out: &[f32], lse: &[f32]) -> Grads {
        let (s, r, d) = (self.shape, self.positions.len(), self.shape.head_dim);
        let (l, width, stride) = (s.length, s.width(), stride(s.length));
        let (k, v) = self.keys_values(group);
        let (key_columns, value_columns) = (Panels::columns(&k, d), Panels::columns(&v, d));
        let keys = Panels::rows(&k, d);
        let [mut dk, mut dv] = [(); 2].map(|_| vec![0.0; l * d]);
        let mut p = vec![0.0; BLOCK.min(r) * stride];
        let mut ds = vec![0.0; BLOCK.min(r) * stride];
        let mut queries = Vec::new();
        for head in self.heads(group) {
            let q = self.queries(head);
            let grad_out = gather(grad, width, head * d, d, 0..r);
            let mut along = vec![0.0; r];
            for (i, (along, g)) in along.iter_mut().zip(grad_out.chunks_exact(d)).enumerate() {
                *along = sum2(g, &out[i * width + head * d..][..d], |g, o| g * o);
            }
            let mut dq = vec![0.0; r * d];
            for from in (0..r).step_by(BLOCK) {
                let rows = BLOCK.min(r - from);
                let last = self.last(from, rows);
                let block = from * d..(from + rows) * d;
                product(Left::Rows(&q[block.clone()], d), &key_columns, (rows, d, last), &mut p, stride, false);
                let grads = &grad_out[block.clone()];
                product(Left::Rows(grads, d), &value_columns, (rows, d, last), &mut ds, stride, false);
                for i in 0..rows {
                    let seen = self.seen(from + i);
                    let (lse, along) = (lse[(from + i) * s.heads + head], along[from + i]);
                    let (p, ds) = (&mut p[i * stride..][..last], &mut ds[i * stride..][..last]);
                    for seen in seen.iter().filter(|r| !r.is_empty()) {
                        for (p, ds) in p[seen.clone()].iter_mut().zip(&mut ds[seen.clone()]) {
                            *p = exp(*p - lse);
                            *ds = *p * (*ds - along);
                        }
                    }
                    for hidden in hidden(&seen, last) {
                        p[hidden.clone()].fill(0.0);
                        ds[hidden].fill(0.0);
                    }
                }
                let grads = Panels::rows(grads, d);
                product(Left::Columns(&p, stride), &grads, (last, rows, d), &mut dv, d, true);
                let queries = Panels::rows(&q[block.clone()], d);
                product(Left::Columns(&ds, stride), &queries, (last, rows, d), &mut dk, d, true);
                product(Left::Rows(&ds, stride), &keys, (rows, last, d), &mut dq[block], d, false);
            }
            rotate(&mut dq, d, self.tables, self.places(), (-1.0, 1.0 / (d as f32).sqrt()));
            queries.push(dq);
        }
        rotate(&mut dk, d, self.tables, (0..l).map(|i| s.place(i)), (-1.0, 1.0));
        Grads { queries, keys: dk, values: dv }
    }
}

/// What [`Sequence::backward`] gives.
struct Grads {
    queries: Vec<Vec<f32>>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// O [r, H d] and log-sum-exps [r, H] at `rows`, from packed projections [B, L, (H + 2 Hkv) d] and tables cos, sin [L, d].
pub fn forward(packed: &[f32], tables: (&[f32], &[f32]), shape: &Shape, rows: &Rows) -> (Vec<f32>, Vec<f32>) {
    let _span = tracing::trace_span!("attention").entered();
    let (l, d, width, heads) = (shape.length, shape.head_dim, shape.width(), shape.heads);
    let mut out = vec![0.0; rows.len() * width];
    let mut lse = vec![0.0; rows.len() * heads];
    let parts: Vec<_> = rows.split(&mut out, width).into_iter().zip(rows.split(&mut lse, heads)).collect();
    parts.into_par_iter().zip(packed.par_chunks(l * shape.packed())).enumerate().for_each(
        |(number, ((out, lse), packed))| {
            let sequence = Sequence { packed, number, positions: rows.sequence(number), shape, tables };
            if sequence.positions.is_empty() {
                return;
            }
            let groups: Vec<_> = (0..shape.kv_heads)
                .into_par_iter()
                .map(|group| {
                    wide(
                        #[inline(always)]
                        || sequence.forward(group),
                    )
                })
                .collect();
            for (head, (o, row_lse)) in groups.iter().flatten().enumerate() {
                for (i, (to, from)) in out.chunks_exact_mut(width).zip(o.chunks_exact(d)).enumerate() {
                    to[head * d..][..d].copy_from_slice(from);
                    lse[i * heads + head] = row_lse[i];
                }
            }
        },
    );
    (out, lse)
}

/// The gradient [B, L, (H + 2 Hkv) d] of the packed projections from that of O [r, H d] and what [`forward`] gave.
pub fn backward(
    (grad, packed): (&[f32], &[f32]),
    tables: (&[f32], &[f32]),
    (out, lse): (&[f32], &[f32]),
    shape: &Shape,
    rows: &Rows,
) -> Vec<f32> {
    let _span = tracing::trace_span!("attention_backward").entered();
    let (l, d, width, packed_width) = (shape.length, shape.head_dim, shape.width(), shape.packed());
    let mut result = vec![0.0; shape.batch * l * packed_width];
    result.par_chunks_mut(l * packed_width).enumerate().for_each(|(number, result)| {
        let (from, to) = (rows.starts()[number], rows.starts()[number + 1]);
        let packed = &packed[number * l * packed_width..][..l * packed_width];
        let sequence = Sequence { packed, number, positions: rows.sequence(number), shape, tables };
        if from == to {
            return;
        }
        let (grad, out) = (&grad[from * width..to * width], &out[from * width..to * width]);
        let lse = &lse[from * shape.heads..to * shape.heads];
        let groups: Vec<Grads> = (0..shape.kv_heads)
            .into_par_iter()
            .map(|group| {
                wide(
                    #[inline(always)]
                    || sequence.backward(group, grad, out, lse),
                )
            })
            .collect();
        let mut put = |first: usize, at: usize, from: &[f32]| {
            result[at * packed_width + first..][..d].copy_from_slice(from);
        };
        for (group, g) in groups.iter().enumerate() {
            for (q, head) in g.queries.iter().zip(sequence.heads(group)) {
                sequence.at().zip(q.chunks_exact(d)).for_each(|(at, q)| put(head * d, at, q));
            }
            let (first_k, first_v) = ((shape.heads + group) * d, (shape.heads + shape.kv_heads + group) * d);
            for (at, (k, v)) in g.keys.chunks_exact(d).zip(g.values.chunks_exact(d)).enumerate() {
                put(first_k, at, k);
                put(first_v, at, v);
            }
        }
    });
    result
}
