//! One block over new positions behind a cache of keys and values: the step of autoregressive and block decoding.
//!
//! Keys are kept rotated, head by head, so that a query reads them in one sweep. B batch, l new positions, H query heads,
//! Hkv key heads, d head width, D width.

use rayon::prelude::*;

use super::attention::rotate_row;
use super::block::Block;
use crate::kernels::shape::Shape;
use crate::kernels::simd::{exp, map_sum, max, sum2, wide};

/// y [B, l, D] of x [B, l, D] at positions `filled ..`; keys and values [B, Hkv, capacity, d] get the new ones.
///
/// `shape.length` is l; a position sees everything before it, and itself or its block.
pub fn block(block: &Block, x: &[f32], keys: &mut [f32], values: &mut [f32], filled: usize) -> Vec<f32> {
    let (qkv, _) = block.project(x);
    let tables = (&block.spec.tables.cos[..], &block.spec.tables.sin[..]);
    let attended = attend(&qkv, tables, &block.spec.shape, (keys, values), filled);
    let at: Vec<usize> = (0..block.spec.shape.batch * block.spec.shape.length).collect();
    block.finish(x, &attended, &at, false).0
}

/// Attention's output [B, l, H d] of packed projections [B, l, (H + 2 Hkv) d] behind `filled` cached positions.
fn attend(
    packed: &[f32],
    tables: (&[f32], &[f32]),
    shape: &Shape,
    (keys, values): (&mut [f32], &mut [f32]),
    filled: usize,
) -> Vec<f32> {
    let _span = tracing::trace_span!("attention_cached").entered();
    let (l, d, width) = (shape.length, shape.head_dim, shape.packed());
    let of_sequence = keys.len() / shape.batch;
    let capacity = of_sequence / (shape.kv_heads * d);
    assert!(filled + l <= capacity, "the cache holds {capacity} positions");
    let mut out = vec![0.0; shape.batch * l * shape.width()];
    let sequences = out
        .par_chunks_mut(l * shape.width())
        .zip(packed.par_chunks(l * width))
        .zip(keys.par_chunks_mut(of_sequence).zip(values.par_chunks_mut(of_sequence)));
    sequences.for_each(|((out, packed), (keys, values))| {
        wide(
            #[inline(always)]
            || {
                let turn = |at: usize| (&tables.0[at * d..], &tables.1[at * d..]);
                // Positions of one block see one another, so that all keys are there first.
                for (i, packed) in packed.chunks_exact(width).enumerate() {
                    let at = filled + i;
                    for group in 0..shape.kv_heads {
                        let slot = (group * capacity + at) * d;
                        let key = &mut keys[slot..slot + d];
                        key.copy_from_slice(&packed[(shape.heads + group) * d..][..d]);
                        rotate_row(key, turn(shape.place(at)), (1.0, 1.0));
                        let value = &packed[(shape.heads + shape.kv_heads + group) * d..][..d];
                        values[slot..slot + d].copy_from_slice(value);
                    }
                }
                let mut scores = vec![0.0; filled + l];
                let mut query = vec![0.0; d];
                for (i, packed) in packed.chunks_exact(width).enumerate() {
                    let at = filled + i;
                    let end = shape.seen_cached(at, filled + l);
                    for head in 0..shape.heads {
                        let group = head * shape.kv_heads / shape.heads;
                        query.copy_from_slice(&packed[head * d..][..d]);
                        rotate_row(&mut query, turn(shape.place(at)), (1.0, 1.0 / (d as f32).sqrt()));
                        let scores = &mut scores[..end];
                        let keys = &keys[group * capacity * d..][..end * d];
                        for (score, key) in scores.iter_mut().zip(keys.chunks_exact(d)) {
                            *score = sum2(&query, key, |q, k| q * k);
                        }
                        let m = max(scores);
                        let total = map_sum(scores, |s| exp(s - m));
                        let out = &mut out[i * shape.width() + head * d..][..d];
                        let values = &values[group * capacity * d..][..end * d];
                        for (score, value) in scores.iter().zip(values.chunks_exact(d)) {
                            let p = score / total;
                            out.iter_mut().zip(value).for_each(|(o, v)| *o = p.mul_add(*v, *o));
                        }
                    }
                }
            },
        );
    });
    out
}
