//! Rotary softmax attention on the packed projection, forward and backward, one head at a time.
//!
//!     S = rot(Q) rot(K)^T / sqrt d,   P = softmax(S),   O = P V
//!
//! The forward pass keeps only each row's log-sum-exp; the backward pass makes P again, block of queries by block
//! (FlashAttention, Dao et al. 2022, section 3.1). B batch, L length, D width, H heads, d = D / H.

use rayon::prelude::*;

use super::simd::{LANES, exp, map_sum, max, sum2, wide};

/// Queries of one block: their scores against 1024 keys stay in the second-level cache.
const BLOCK: usize = 32;
/// Rows of one register tile.
const TILE: usize = 4;

/// The shape of an attention: B, L, H, d, and whether a position sees only what is left of it.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub batch: usize,
    pub length: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub causal: bool,
}

impl Shape {
    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements from one row of a score block to the next; the odd cache line keeps the rows of a power of two out of
    /// one another's way.
    fn stride(&self) -> usize {
        self.length.next_multiple_of(2 * LANES) + LANES
    }

    /// Keys that query `i` sees.
    fn seen(&self, i: usize) -> usize {
        if self.causal { i + 1 } else { self.length }
    }
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
    let mut acc = [[0.0; LANES]; M];
    let mut add = |b: &[f32; LANES], i: usize, a: f32| {
        for j in 0..LANES {
            acc[i][j] = a.mul_add(b[j], acc[i][j]);
        }
    };
    match left {
        Left::Rows(data, stride) => {
            let mut rows = [data; M];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = &data[(from + i) * stride..][..panel.len()];
            }
            for (k, b) in panel.iter().enumerate() {
                for (i, row) in rows.iter().enumerate() {
                    add(b, i, row[k]);
                }
            }
        }
        Left::Columns(data, stride) => {
            for (b, column) in panel.iter().zip(data.chunks(stride)) {
                for (i, a) in column[from..from + M].iter().enumerate() {
                    add(b, i, *a);
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

/// One head's part (0 query, 1 key, 2 value) of packed rows [L, 3 D], as [L, d].
fn gather(packed: &[f32], shape: &Shape, part: usize, head: usize) -> Vec<f32> {
    let (d, width) = (shape.head_dim, shape.width());
    let first = part * width + head * d;
    let mut out = Vec::with_capacity(shape.length * d);
    for row in packed.chunks_exact(3 * width) {
        out.extend_from_slice(&row[first..first + d]);
    }
    out
}

/// Rotates x [L, d] in place by the half-split tables; `turn` is 1, or -1 for the transposed rotation of a gradient.
#[inline(always)]
fn rotate(x: &mut [f32], d: usize, tables: (&[f32], &[f32]), turn: f32, scale: f32) {
    for ((row, cos), sin) in x.chunks_exact_mut(d).zip(tables.0.chunks_exact(d)).zip(tables.1.chunks_exact(d)) {
        let (a, b) = row.split_at_mut(d / 2);
        // The tables repeat themselves after d / 2.
        let (cos, sin) = (&cos[..d / 2], &sin[..d / 2]);
        let turned = |x: f32, y: f32, cos: f32, sin: f32| {
            ((x * cos - y * turn * sin) * scale, (y * cos + x * turn * sin) * scale)
        };
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
}

/// One head's rotated queries (times 1 / sqrt d), rotated keys and values, each [L, d].
#[inline(always)]
fn operands(packed: &[f32], shape: &Shape, head: usize, tables: (&[f32], &[f32])) -> [Vec<f32>; 3] {
    let d = shape.head_dim;
    let mut parts = [0, 1, 2].map(|part| gather(packed, shape, part, head));
    rotate(&mut parts[0], d, tables, 1.0, 1.0 / (d as f32).sqrt());
    rotate(&mut parts[1], d, tables, 1.0, 1.0);
    parts
}

/// O [L, d] and the log-sum-exp of every score row [L].
#[inline(always)]
fn head_forward(packed: &[f32], shape: &Shape, head: usize, tables: (&[f32], &[f32])) -> (Vec<f32>, Vec<f32>) {
    let (l, d, stride) = (shape.length, shape.head_dim, shape.stride());
    let [q, k, v] = operands(packed, shape, head, tables);
    let (keys, values) = (Panels::columns(&k, d), Panels::rows(&v, d));
    let (mut out, mut lse) = (vec![0.0; l * d], vec![0.0; l]);
    let mut scores = vec![0.0; BLOCK.min(l) * stride];
    for from in (0..l).step_by(BLOCK) {
        let rows = BLOCK.min(l - from);
        let last = shape.seen(from + rows - 1);
        product(Left::Rows(&q[from * d..], d), &keys, (rows, d, last), &mut scores, stride, false);
        let mut inverse = [0.0; BLOCK];
        for i in 0..rows {
            let (seen, hidden) = scores[i * stride..][..last].split_at_mut(shape.seen(from + i));
            hidden.fill(0.0);
            let m = max(seen);
            let total = map_sum(seen, |s| exp(s - m));
            lse[from + i] = m + total.ln();
            inverse[i] = 1.0 / total;
        }
        let out = &mut out[from * d..][..rows * d];
        product(Left::Rows(&scores, stride), &values, (rows, last, d), out, d, false);
        for (row, inverse) in out.chunks_exact_mut(d).zip(inverse) {
            row.iter_mut().for_each(|o| *o *= inverse);
        }
    }
    (out, lse)
}

/// Saved by the forward pass: O [L, D] of this sequence and the log-sum-exp [L] of this head.
struct Saved<'a> {
    out: &'a [f32],
    lse: &'a [f32],
}

/// The gradients of one head's queries, keys and values, each [L, d]:
///
///     dV = P^T dO,   dS = P o (dO V^T - rowsum(dO o O)),   dQ = dS K / sqrt d,   dK = dS^T Q
#[inline(always)]
fn head_backward(
    (grad, packed): (&[f32], &[f32]),
    shape: &Shape,
    head: usize,
    tables: (&[f32], &[f32]),
    saved: Saved,
) -> [Vec<f32>; 3] {
    let (l, d, width, stride) = (shape.length, shape.head_dim, shape.width(), shape.stride());
    let [q, k, v] = operands(packed, shape, head, tables);
    let mut grad_out = Vec::with_capacity(l * d);
    let mut along = Vec::with_capacity(l);
    for (g, o) in grad.chunks_exact(width).zip(saved.out.chunks_exact(width)) {
        let (g, o) = (&g[head * d..][..d], &o[head * d..][..d]);
        grad_out.extend_from_slice(g);
        along.push(sum2(g, o, |g, o| g * o));
    }
    let (key_columns, value_columns) = (Panels::columns(&k, d), Panels::columns(&v, d));
    let keys = Panels::rows(&k, d);
    let [mut dq, mut dk, mut dv] = [(); 3].map(|_| vec![0.0; l * d]);
    let mut p = vec![0.0; BLOCK.min(l) * stride];
    let mut ds = vec![0.0; BLOCK.min(l) * stride];
    for from in (0..l).step_by(BLOCK) {
        let rows = BLOCK.min(l - from);
        let last = shape.seen(from + rows - 1);
        let block = from * d..(from + rows) * d;
        product(Left::Rows(&q[block.clone()], d), &key_columns, (rows, d, last), &mut p, stride, false);
        product(Left::Rows(&grad_out[block.clone()], d), &value_columns, (rows, d, last), &mut ds, stride, false);
        for i in 0..rows {
            let (lse, along) = (saved.lse[from + i], along[from + i]);
            let (seen, hidden) = p[i * stride..][..last].split_at_mut(shape.seen(from + i));
            let (ds_seen, ds_hidden) = ds[i * stride..][..last].split_at_mut(seen.len());
            for (p, ds) in seen.iter_mut().zip(ds_seen) {
                *p = exp(*p - lse);
                *ds = *p * (*ds - along);
            }
            hidden.fill(0.0);
            ds_hidden.fill(0.0);
        }
        let grads = Panels::rows(&grad_out[block.clone()], d);
        product(Left::Columns(&p, stride), &grads, (last, rows, d), &mut dv, d, true);
        let queries = Panels::rows(&q[block.clone()], d);
        product(Left::Columns(&ds, stride), &queries, (last, rows, d), &mut dk, d, true);
        product(Left::Rows(&ds, stride), &keys, (rows, last, d), &mut dq[block], d, false);
    }
    rotate(&mut dq, d, tables, -1.0, 1.0 / (d as f32).sqrt());
    rotate(&mut dk, d, tables, -1.0, 1.0);
    [dq, dk, dv]
}

/// O [B, L, D] and log-sum-exps [B, H, L] from packed projections [B, L, 3 D] and tables cos, sin [L, d].
pub fn forward(packed: &[f32], tables: (&[f32], &[f32]), shape: Shape) -> (Vec<f32>, Vec<f32>) {
    let (l, d, width) = (shape.length, shape.head_dim, shape.width());
    let mut out = vec![0.0; shape.batch * l * width];
    let mut lse = vec![0.0; shape.batch * shape.heads * l];
    let sequences = out.par_chunks_mut(l * width).zip(lse.par_chunks_mut(shape.heads * l));
    sequences.zip(packed.par_chunks(3 * l * width)).for_each(|((out, lse), packed)| {
        let heads: Vec<_> = (0..shape.heads)
            .into_par_iter()
            .map(|head| {
                wide(
                    #[inline(always)]
                    || head_forward(packed, &shape, head, tables),
                )
            })
            .collect();
        for (head, (o, row_lse)) in heads.iter().enumerate() {
            lse[head * l..][..l].copy_from_slice(row_lse);
            for (to, from) in out.chunks_exact_mut(width).zip(o.chunks_exact(d)) {
                to[head * d..][..d].copy_from_slice(from);
            }
        }
    });
    (out, lse)
}

/// The gradient [B, L, 3 D] of the packed projections from that of O [B, L, D] and what [`forward`] gave.
pub fn backward(
    (grad, packed): (&[f32], &[f32]),
    tables: (&[f32], &[f32]),
    (out, lse): (&[f32], &[f32]),
    shape: Shape,
) -> Vec<f32> {
    let (l, d, width) = (shape.length, shape.head_dim, shape.width());
    let mut result = vec![0.0; shape.batch * 3 * l * width];
    result.par_chunks_mut(3 * l * width).enumerate().for_each(|(b, result)| {
        let grad = &grad[b * l * width..][..l * width];
        let packed = &packed[b * 3 * l * width..][..3 * l * width];
        let heads: Vec<_> = (0..shape.heads)
            .into_par_iter()
            .map(|head| {
                let lse = &lse[(b * shape.heads + head) * l..][..l];
                let saved = Saved { out: &out[b * l * width..][..l * width], lse };
                wide(
                    #[inline(always)]
                    || head_backward((grad, packed), &shape, head, tables, saved),
                )
            })
            .collect();
        for (head, parts) in heads.iter().enumerate() {
            for (part, grads) in parts.iter().enumerate() {
                for (to, from) in result.chunks_exact_mut(3 * width).zip(grads.chunks_exact(d)) {
                    to[part * width + head * d..][..d].copy_from_slice(from);
                }
            }
        }
    });
    result
}
