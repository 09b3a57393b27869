//! Norms, activations and biases over rows of features, forward and backward.
//!
//! n rows, D width. Gradients of scales, offsets and biases are summed per part of rows, then over parts in order.

use super::simd::{exp, for_parts, for_parts2, part_rows, sum, sum_parts, sum2, wide};

/// A layer norm (`centred`) or a root-mean-square norm.
#[derive(Debug, Clone, Copy)]
pub struct NormKind {
    pub centred: bool,
    pub eps: f32,
}

/// y = (x - m) r gamma + beta, with m the row's mean (0 if not centred) and r = 1 / sqrt(mean (x - m)^2 + eps).
///
/// Gives y [n, D] and every row's (m, r) [n, 2].
pub fn norm(x: &[f32], gamma: &[f32], beta: &[f32], kind: NormKind) -> (Vec<f32>, Vec<f32>) {
    let d = gamma.len();
    let rows = part_rows(d);
    let (mut y, mut stats) = (vec![0.0; x.len()], vec![0.0; 2 * x.len() / d]);
    for_parts2((&mut y, rows * d), (&mut stats, rows * 2), |part, y, stats| {
        let x = &x[part * rows * d..][..y.len()];
        wide(
            #[inline(always)]
            || {
                for ((x, y), stats) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(stats.chunks_exact_mut(2)) {
                    let m = if kind.centred { sum(x, |v| v) / d as f32 } else { 0.0 };
                    let r = 1.0 / (sum(x, |v| (v - m) * (v - m)) / d as f32 + kind.eps).sqrt();
                    stats.copy_from_slice(&[m, r]);
                    for (((y, x), gamma), beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                        *y = ((x - m) * r).mul_add(*gamma, *beta);
                    }
                }
            },
        );
    });
    (y, stats)
}

/// Gradients of x [n, D], gamma [D] and beta [D], from that of y. With h = (x - m) r and u = gamma o dy:
///
///     dx = r (u - mean u - h mean(u o h)),   dgamma = sum dy o h,   dbeta = sum dy
///
/// (without `mean u` if not centred).
pub fn norm_backward(
    (grad, x): (&[f32], &[f32]),
    gamma: &[f32],
    stats: &[f32],
    kind: NormKind,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let d = gamma.len();
    let rows = part_rows(d);
    let mut dx = vec![0.0; x.len()];
    let mut partial = vec![0.0; (x.len() / d).div_ceil(rows) * 2 * d];
    for_parts2((&mut dx, rows * d), (&mut partial, 2 * d), |part, dx, partial| {
        let at = part * rows * d;
        let (grad, x, stats) = (&grad[at..][..dx.len()], &x[at..][..dx.len()], &stats[part * rows * 2..]);
        let (dgamma, dbeta) = partial.split_at_mut(d);
        wide(
            #[inline(always)]
            || {
                let inputs = grad.chunks_exact(d).zip(x.chunks_exact(d)).zip(stats.chunks_exact(2));
                for (dx, ((grad, x), stats)) in dx.chunks_exact_mut(d).zip(inputs) {
                    let (m, r) = (stats[0], stats[1]);
                    for ((dx, g), gamma) in dx.iter_mut().zip(grad).zip(gamma) {
                        *dx = g * gamma;
                    }
                    let mean = if kind.centred { sum(dx, |u| u) / d as f32 } else { 0.0 };
                    let along = sum2(dx, x, |u, x| u * ((x - m) * r)) / d as f32;
                    let sums = dgamma.iter_mut().zip(dbeta.iter_mut());
                    for (((dx, x), g), (dgamma, dbeta)) in dx.iter_mut().zip(x).zip(grad).zip(sums) {
                        let h = (x - m) * r;
                        *dx = r * (*dx - mean - h * along);
                        *dgamma = g.mul_add(h, *dgamma);
                        *dbeta += g;
                    }
                }
            },
        );
    });
    let sums = sum_parts(&partial, 2 * d);
    let (dgamma, dbeta) = sums.split_at(d);
    (dx, dgamma.to_vec(), dbeta.to_vec())
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

/// y <- gelu(y + bias) in the tanh form, for rows y [n, D] and bias [D].
pub fn gelu(y: &mut [f32], bias: &[f32]) {
    let width = bias.len();
    for_parts(y, part_rows(width) * width, |_, y| {
        wide(
            #[inline(always)]
            || {
                for row in y.chunks_exact_mut(width) {
                    for (y, b) in row.iter_mut().zip(bias) {
                        let x = *y + b;
                        *y = x * gelu_factor(x);
                    }
                }
            },
        );
    });
}

/// d gelu / dx = s + 2 x s (1 - s) du/dx.
#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    let s = gelu_factor(x);
    let slope = GELU_SCALE * (3.0 * GELU_CUBE * x).mul_add(x, 1.0);
    (2.0 * x * slope).mul_add(s * (1.0 - s), s)
}

/// grad <- the gradient of x [n, D] from that of gelu(x + bias); gives the bias's [D].
pub fn gelu_backward(grad: &mut [f32], x: &[f32], bias: &[f32]) -> Vec<f32> {
    let width = bias.len();
    let size = part_rows(width) * width;
    let mut partial = vec![0.0; grad.len().div_ceil(size) * width];
    for_parts2((grad, size), (&mut partial, width), |part, grad, sums| {
        let x = &x[part * size..][..grad.len()];
        wide(
            #[inline(always)]
            || {
                for (grad, x) in grad.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    for (((g, x), b), sum) in grad.iter_mut().zip(x).zip(bias).zip(sums.iter_mut()) {
                        *g *= gelu_slope(*x + b);
                        *sum += *g;
                    }
                }
            },
        );
    });
    sum_parts(&partial, width)
}

/// silu(gate) o up with silu(g) = g / (1 + e^-g); the result stands in `up`.
pub fn swiglu(gate: &[f32], up: &mut [f32]) {
    let size = part_rows(1);
    for_parts(up, size, |part, up| {
        let gate = &gate[part * size..][..up.len()];
        wide(
            #[inline(always)]
            || up.iter_mut().zip(gate).for_each(|(u, g)| *u *= g / (1.0 + exp(-g))),
        );
    });
}

/// Gradients of gate and up: with s = 1 / (1 + e^-gate),
///
///     dgate = dy o up o s (1 + gate (1 - s)),   dup = dy o gate o s
///
/// The second one stands in `grad`.
pub fn swiglu_backward(grad: &mut [f32], gate: &[f32], up: &[f32]) -> Vec<f32> {
    let size = part_rows(1);
    let mut dgate = vec![0.0; gate.len()];
    for_parts2((&mut dgate, size), (grad, size), |part, dgate, grad| {
        let (gate, up) = (&gate[part * size..][..grad.len()], &up[part * size..][..grad.len()]);
        wide(
            #[inline(always)]
            || {
                for (((dgate, grad), g), up) in dgate.iter_mut().zip(grad).zip(gate).zip(up) {
                    let s = 1.0 / (1.0 + exp(-g));
                    *dgate = *grad * up * s * g.mul_add(1.0 - s, 1.0);
                    *grad *= g * s;
                }
            },
        );
    });
    dgate
}

/// y <- y + bias for every row.
pub fn add_bias(y: &mut [f32], bias: &[f32]) {
    let width = bias.len();
    for_parts(y, part_rows(width) * width, |_, y| {
        for row in y.chunks_exact_mut(width) {
            row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
    });
}

/// The sum of all rows [D] of x [n, D].
pub fn sum_rows(x: &[f32], width: usize) -> Vec<f32> {
    let size = part_rows(width) * width;
    let mut partial = vec![0.0; x.len().div_ceil(size) * width];
    for_parts(&mut partial, width, |part, sums| {
        let x = &x[part * size..];
        for row in x[..size.min(x.len())].chunks_exact(width) {
            sums.iter_mut().zip(row).for_each(|(s, v)| *s += v);
        }
    });
    sum_parts(&partial, width)
}
