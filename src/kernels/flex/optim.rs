//! AdamW (Loshchilov and Hutter 2019) with gradient scaling and the weights' moving average in one pass over a parameter.
//!
//! ```text
//! m = b1 m + (1 - b1) s g,   v = b2 v + (1 - b2) (s g)^2
//! p = (1 - lr wd) p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps),   e = decay e + (1 - decay) p
//! ```

use rayon::prelude::*;

use crate::kernels::AdamWStep;
use crate::kernels::simd::{sum, wide};

/// Elements of one task.
const PART: usize = 1 << 14;

/// One step on p, m, v and the average e (empty: none), all of one length, from the gradient g.
///
/// # Panics
/// Where the gradient or a moment differs from `p` in length.
pub fn adamw(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], e: &mut [f32], step: &AdamWStep) {
    let _span = tracing::trace_span!("adamw").entered();
    assert!(g.len() == p.len() && m.len() == p.len() && v.len() == p.len(), "one gradient and two moments a weight");
    let (b1, b2) = (step.beta1 as f32, step.beta2 as f32);
    let (keep, rate) = ((1.0 - step.lr * step.weight_decay) as f32, (step.lr / step.bias1) as f32);
    let (scale, bias2, eps, decay) =
        (step.scale as f32, (1.0 / step.bias2) as f32, step.eps as f32, step.average.unwrap_or(0.0) as f32);
    let averages: Vec<&mut [f32]> = match e.is_empty() {
        true => p.chunks(PART).map(|_| &mut [][..]).collect(),
        false => e.chunks_mut(PART).collect(),
    };
    let parts = p.par_chunks_mut(PART).zip(g.par_chunks(PART)).zip(m.par_chunks_mut(PART)).zip(v.par_chunks_mut(PART));
    parts.zip(averages).for_each(|((((p, g), m), v), e)| {
        wide(
            #[inline(always)]
            || {
                for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                    let g = g * scale;
                    *m = b1.mul_add(*m, (1.0 - b1) * g);
                    *v = b2.mul_add(*v, (1.0 - b2) * g * g);
                    *p = keep.mul_add(*p, -rate * *m / ((*v * bias2).sqrt() + eps));
                }
                for (e, p) in e.iter_mut().zip(&*p) {
                    *e = decay.mul_add(*e, (1.0 - decay) * p);
                }
            },
        );
    });
}

/// The sum of squares, part by part in order.
pub fn square_sum(x: &[f32]) -> f64 {
    let _span = tracing::trace_span!("gradient_norm").entered();
    let parts: Vec<f64> = x
        .par_chunks(PART)
        .map(|x| {
            f64::from(wide(
                #[inline(always)]
                || sum(x, |v| v * v),
            ))
        })
        .collect();
    parts.iter().sum()
}
