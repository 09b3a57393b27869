//! Norms, activations and biases over rows of features, forward and backward.
//!
//! n rows, D width. Gradients of scales, offsets and biases are summed per part of rows, then over parts in order.

use crate::kernels::shape::NormKind;
use crate::kernels::simd::{exp, for_parts2, part_rows, sum, sum_parts, sum2, sum3, wide};

/// y = (x - m) r gamma + beta, with m the row's mean (0 if not centred) and r = 1 / sqrt(mean (x - m)^2 + eps).
///
/// Gives y [n, D] and every row's (m, r) [n, 2].
pub fn norm(x: &[f32], gamma: &[f32], beta: &[f32], kind: NormKind) -> (Vec<f32>, Vec<f32>) {
    let _span = tracing::trace_span!("norm").entered();
    let d = gamma.len();
    let rows = part_rows(d);
    let (mut y, mut stats) = (vec![0.0; x.len()], vec![0.0; 2 * x.len() / d]);
    for_parts2((&mut y, rows * d), (&mut stats, rows * 2), |part, y, stats| {
        norm_rows(&x[part * rows * d..][..y.len()], y, stats, (gamma, beta), kind);
    });
    (y, stats)
}

/// The rows of one task of [`norm`]; an empty `beta` is no offset.
pub fn norm_rows(x: &[f32], y: &mut [f32], stats: &mut [f32], (gamma, beta): (&[f32], &[f32]), kind: NormKind) {
    let d = gamma.len();
    wide(
        #[inline(always)]
        || {
            for ((x, y), stats) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(stats.chunks_exact_mut(2)) {
                let m = if kind.centred { sum(x, |v| v) / d as f32 } else { 0.0 };
                let r = 1.0 / (sum(x, |v| (v - m) * (v - m)) / d as f32 + kind.eps).sqrt();
                stats.copy_from_slice(&[m, r]);
                scale_row(x, y, (m, r), (gamma, beta));
            }
        },
    );
}

/// The rows of [`norm_rows`] again, from their saved statistics.
pub fn norm_again(x: &[f32], y: &mut [f32], stats: &[f32], (gamma, beta): (&[f32], &[f32])) {
    let d = gamma.len();
    wide(
        #[inline(always)]
        || {
            for ((x, y), stats) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(stats.chunks_exact(2)) {
                scale_row(x, y, (stats[0], stats[1]), (gamma, beta));
            }
        },
    );
}

#[inline(always)]
fn scale_row(x: &[f32], y: &mut [f32], (m, r): (f32, f32), (gamma, beta): (&[f32], &[f32])) {
    if beta.is_empty() {
        for ((y, x), gamma) in y.iter_mut().zip(x).zip(gamma) {
            *y = (x - m) * r * gamma;
        }
    } else {
        for (((y, x), gamma), beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
            *y = ((x - m) * r).mul_add(*gamma, *beta);
        }
    }
}

/// Gradients of x [n, D], gamma `[D]` and beta `[D]`, from that of y. With h = (x - m) r and u = gamma o dy:
///
/// ```text
/// dx = r (u - mean u - h mean(u o h)),   dgamma = sum dy o h,   dbeta = sum dy
/// ```
///
/// (without `mean u` if not centred).
pub fn norm_backward(
    (grad, x): (&[f32], &[f32]),
    gamma: &[f32],
    stats: &[f32],
    kind: NormKind,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let _span = tracing::trace_span!("norm_backward").entered();
    let d = gamma.len();
    let rows = part_rows(d);
    let mut dx = vec![0.0; x.len()];
    let mut partial = vec![0.0; (x.len() / d).div_ceil(rows) * 2 * d];
    for_parts2((&mut dx, rows * d), (&mut partial, 2 * d), |part, dx, partial| {
        let at = part * rows * d;
        let (grad, x, stats) = (&grad[at..][..dx.len()], &x[at..][..dx.len()], &stats[part * rows * 2..]);
        let (dgamma, dbeta) = partial.split_at_mut(d);
        norm_backward_rows((grad, x), gamma, stats, kind, dx, (dgamma, dbeta));
    });
    let sums = sum_parts(&partial, 2 * d);
    let (dgamma, dbeta) = sums.split_at(d);
    (dx, dgamma.to_vec(), dbeta.to_vec())
}

/// The rows of one task of [`norm_backward`]: dx, dgamma and dbeta grow by theirs.
pub fn norm_backward_rows(
    (grad, x): (&[f32], &[f32]),
    gamma: &[f32],
    stats: &[f32],
    kind: NormKind,
    dx: &mut [f32],
    (dgamma, dbeta): (&mut [f32], &mut [f32]),
) {
    let d = gamma.len();
    wide(
        #[inline(always)]
        || {
            let inputs = grad.chunks_exact(d).zip(x.chunks_exact(d)).zip(stats.chunks_exact(2));
            for (dx, ((grad, x), stats)) in dx.chunks_exact_mut(d).zip(inputs) {
                let (m, r) = (stats[0], stats[1]);
                let mean = if kind.centred { sum2(grad, gamma, |g, gamma| g * gamma) / d as f32 } else { 0.0 };
                let along = sum3(grad, gamma, x, |g, gamma, x| g * gamma * ((x - m) * r)) / d as f32;
                let sums = dgamma.iter_mut().zip(dbeta.iter_mut());
                let rows = dx.iter_mut().zip(x).zip(grad).zip(gamma);
                for ((((dx, x), g), gamma), (dgamma, dbeta)) in rows.zip(sums) {
                    let h = (x - m) * r;
                    *dx += r * (g * gamma - mean - h * along);
                    *dgamma = g.mul_add(h, *dgamma);
                    *dbeta += g;
                }
            }
        },
    );
}

/// sqrt(2 / pi)
const GELU_SCALE: f32 = 0.797_884_6;
const GELU_CUBE: f32 = 0.044_715;

/// The factor s of gelu(x) = x s: with u = sqrt(2/pi) (x + 0.044715 x^3), s = (1 + tanh u) / 2 = 1 / (1 + e^(-2u)).
#[inline(always)]
fn gelu_factor(x: f32) -> f32 {
    let u = GELU_SCALE * x * (GELU_CUBE * x).mul_add(x, 1.0);
    1.0 / (1.0 + exp(-2.0 * u))
}

/// y = gelu(x) in the tanh form.
pub fn gelu(x: &[f32], y: &mut [f32]) {
    wide(
        #[inline(always)]
        || y.iter_mut().zip(x).for_each(|(y, x)| *y = x * gelu_factor(*x)),
    );
}

/// d gelu / dx = s + 2 x s (1 - s) du/dx.
#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    let s = gelu_factor(x);
    let slope = GELU_SCALE * (3.0 * GELU_CUBE * x).mul_add(x, 1.0);
    (2.0 * x * slope).mul_add(s * (1.0 - s), s)
}

/// x <- the gradient of x from `grad`, that of y = gelu(x); y is made again on the way.
pub fn gelu_backward(grad: &[f32], x: &mut [f32], y: &mut [f32]) {
    wide(
        #[inline(always)]
        || {
            for ((x, y), g) in x.iter_mut().zip(y).zip(grad) {
                *y = *x * gelu_factor(*x);
                *x = g * gelu_slope(*x);
            }
        },
    );
}

/// y = silu(gate) o up with silu(g) = g / (1 + e^-g).
pub fn swiglu(gate: &[f32], up: &[f32], y: &mut [f32]) {
    wide(
        #[inline(always)]
        || y.iter_mut().zip(gate).zip(up).for_each(|((y, g), u)| *y = u * g / (1.0 + exp(-g))),
    );
}

/// gate and up <- their gradients from `grad`, that of y = silu(gate) o up; y is made again on the way. With
/// s = 1 / (1 + e^-gate),
///
/// ```text
/// dgate = dy o up o s (1 + gate (1 - s)),   dup = dy o gate o s
/// ```
pub fn swiglu_backward(grad: &[f32], gate: &mut [f32], up: &mut [f32], y: &mut [f32]) {
    wide(
        #[inline(always)]
        || {
            for (((gate, up), y), grad) in gate.iter_mut().zip(up).zip(y).zip(grad) {
                let (g, u) = (*gate, *up);
                let s = 1.0 / (1.0 + exp(-g));
                *y = g * s * u;
                *gate = grad * u * s * g.mul_add(1.0 - s, 1.0);
                *up = grad * g * s;
            }
        },
    );
}

/// x <- x + bias for every row; an empty bias is none.
pub fn add_bias(x: &mut [f32], bias: &[f32]) {
    if bias.is_empty() {
        return;
    }
    wide(
        #[inline(always)]
        || x.chunks_exact_mut(bias.len()).for_each(|row| row.iter_mut().zip(bias).for_each(|(x, b)| *x += b)),
    );
}

/// y <- y + x.
pub fn add(x: &[f32], y: &mut [f32]) {
    wide(
        #[inline(always)]
        || y.iter_mut().zip(x).for_each(|(y, x)| *y += x),
    );
}

/// sums <- sums + the sum of all rows of x; empty sums want nothing.
pub fn sum_rows(x: &[f32], sums: &mut [f32]) {
    if sums.is_empty() {
        return;
    }
    wide(
        #[inline(always)]
        || x.chunks_exact(sums.len()).for_each(|row| sums.iter_mut().zip(row).for_each(|(s, v)| *s += v)),
    );
}
