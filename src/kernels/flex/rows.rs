//! Softmax over the vocabulary and the losses of rows, each with its gradient in the same pass.
//!
//! n rows, V vocabulary. A loss leaves its gradient with respect to the student's logits where those stood, so that the
//! only buffer of n V numbers is that one.

use crate::kernels::Divergence;
use crate::kernels::simd::{exp, for_parts, for_parts2, ln, log_sum_exp, part_rows, sum, sum2, wide};

/// y <- y - ln sum exp y, row by row.
pub fn log_softmax(y: &mut [f32], vocab: usize) {
    let _span = tracing::trace_span!("log_softmax").entered();
    for_parts(y, part_rows(vocab) * vocab, |_, y| {
        wide(
            #[inline(always)]
            || {
                for row in y.chunks_exact_mut(vocab) {
                    let lse = log_sum_exp(row);
                    row.iter_mut().for_each(|v| *v -= lse);
                }
            },
        );
    });
}

/// grad <- grad - e^y sum(grad), the gradient of the logits from that of y = log softmax.
pub fn log_softmax_backward(grad: &mut [f32], y: &[f32], vocab: usize) {
    let size = part_rows(vocab) * vocab;
    for_parts(grad, size, |part, grad| {
        let y = &y[part * size..][..grad.len()];
        wide(
            #[inline(always)]
            || {
                for (grad, y) in grad.chunks_exact_mut(vocab).zip(y.chunks_exact(vocab)) {
                    let total = sum(grad, |g| g);
                    grad.iter_mut().zip(y).for_each(|(g, y)| *g -= exp(*y) * total);
                }
            },
        );
    });
}

/// -ln softmax(logits)`[target]` of every row `[n]`; with `grad`, the logits become softmax - onehot.
pub fn cross_entropy(logits: &mut [f32], targets: &[u32], vocab: usize, grad: bool) -> Vec<f32> {
    let _span = tracing::trace_span!("loss_rows").entered();
    let rows = part_rows(vocab);
    let mut loss = vec![0.0; targets.len()];
    for_parts2((logits, rows * vocab), (&mut loss, rows), |part, logits, loss| {
        let targets = &targets[part * rows..];
        wide(
            #[inline(always)]
            || {
                for ((row, loss), target) in logits.chunks_exact_mut(vocab).zip(loss).zip(targets) {
                    let lse = log_sum_exp(row);
                    *loss = lse - row[*target as usize];
                    if grad {
                        row.iter_mut().for_each(|v| *v = exp(*v - lse));
                        row[*target as usize] -= 1.0;
                    }
                }
            },
        );
    });
    loss
}

/// The divergence of every row `[n]`; with `grad`, the student's logits become its gradient.
///
/// With the student's q and the teacher's p, each divergence is sum_v f(ln q_v, ln p_v), and from a_v = df / d ln q_v
/// the gradient of logit v is a_v - q_v sum a.
pub fn divergence(student: &mut [f32], teacher: &[f32], kind: Divergence, vocab: usize, grad: bool) -> Vec<f32> {
    let _span = tracing::trace_span!("loss_rows").entered();
    let rows = part_rows(vocab);
    let mut loss = vec![0.0; student.len() / vocab];
    for_parts2((student, rows * vocab), (&mut loss, rows), |part, student, loss| {
        let teacher = &teacher[part * rows * vocab..][..student.len()];
        wide(
            #[inline(always)]
            || {
                let pairs = student.chunks_exact_mut(vocab).zip(teacher.chunks_exact(vocab));
                for ((s, t), loss) in pairs.zip(loss) {
                    let scale = 1.0 / vocab as f32;
                    *loss = match kind {
                        Divergence::ForwardKl => row(s, t, grad, |_, lq, p, lp| p * (lp - lq), |_, _, p, _| -p),
                        Divergence::ReverseKl => {
                            row(s, t, grad, |q, lq, _, lp| q * (lq - lp), |q, lq, _, lp| q * (lq - lp + 1.0))
                        }
                        Divergence::JensenShannon => {
                            // The midpoint is kept off zero.
                            let middle = |q: f32, p: f32| ln(0.5 * (p + q) + 1e-30);
                            row(
                                s,
                                t,
                                grad,
                                |q, lq, p, lp| {
                                    let m = middle(q, p);
                                    0.5 * (p * (lp - m) + q * (lq - m))
                                },
                                |q, lq, p, _| 0.5 * q * (lq - middle(q, p)),
                            )
                        }
                        Divergence::TotalVariation => {
                            let sign = |x: f32| if x > 0.0 { 1.0 } else { if x < 0.0 { -1.0 } else { x } };
                            row(s, t, grad, |q, _, p, _| 0.5 * (q - p).abs(), |q, _, p, _| 0.5 * q * sign(q - p))
                        }
                        Divergence::LogMse => row(
                            s,
                            t,
                            grad,
                            |_, lq, _, lp| (lq - lp) * (lq - lp) * scale,
                            |_, lq, _, lp| 2.0 * scale * (lq - lp),
                        ),
                    };
                }
            },
        );
    });
    loss
}

/// One row: the sum of value(q, ln q, p, ln p), and if asked the gradient from `slope` = d value / d ln q.
#[inline(always)]
fn row(
    s: &mut [f32],
    t: &[f32],
    grad: bool,
    value: impl Fn(f32, f32, f32, f32) -> f32,
    slope: impl Fn(f32, f32, f32, f32) -> f32,
) -> f32 {
    let (ls, lt) = (log_sum_exp(s), log_sum_exp(t));
    let at = |s: f32, t: f32| (exp(s - ls), s - ls, exp(t - lt), t - lt);
    let loss = sum2(s, t, |s, t| {
        let (q, lq, p, lp) = at(s, t);
        value(q, lq, p, lp)
    });
    if grad {
        let slope = |s: f32, t: f32| {
            let (q, lq, p, lp) = at(s, t);
            (slope(q, lq, p, lp), q)
        };
        let total = sum2(s, t, |s, t| slope(s, t).0);
        for (s, t) in s.iter_mut().zip(t) {
            let (a, q) = slope(*s, *t);
            *s = a - q * total;
        }
    }
    loss
}

/// Every row of x [n, V] times its factor `[n]`.
pub fn scale_rows(x: &mut [f32], factors: &[f32], vocab: usize) {
    let rows = part_rows(vocab);
    for_parts(x, rows * vocab, |part, x| {
        for (row, factor) in x.chunks_exact_mut(vocab).zip(&factors[part * rows..]) {
            row.iter_mut().for_each(|v| *v *= factor);
        }
    });
}
