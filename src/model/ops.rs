//! The hot operations of every network: normalisation, activation, rotary attention, projection, losses of rows.
//!
//! Each is composed from Burn's primitives and differentiable by its autodiff; f32 tensors on the Flex backend take
//! the fused form of [`super::fused`] instead, which has the same values and gradients.
//! B batch, L length, D width, H heads, d head width, V vocabulary, n rows.

use burn::prelude::*;
use burn::tensor::activation::{gelu_approximate, silu, softmax};

#[cfg(feature = "flex")]
use super::fused;
use super::index_tensor;
use crate::model::Divergence;

/// x [B, L, Din] times weight [Din, Dout] plus bias [Dout].
pub fn dense(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<3> {
    let [b, l, d_in] = x.dims();
    let d_out = weight.dims()[1];
    let y = x.reshape([b * l, d_in]).matmul(weight);
    let y = match bias {
        Some(bias) => add_bias(y, bias),
        None => y,
    };
    y.reshape([b, l, d_out])
}

/// x [n, D] plus bias [D].
fn add_bias(x: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if fused::takes(&x) {
        return fused::add_bias(x, bias);
    }
    x + bias.unsqueeze()
}

/// Layer norm over the last dimension of x [B, L, D] with scale gamma [D] and optional offset beta [D].
pub fn layer_norm(x: Tensor<3>, gamma: Tensor<1>, beta: Option<Tensor<1>>, eps: f64) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if fused::takes(&x) {
        return fused::norm(x, gamma, beta, eps, true);
    }
    let mean = x.clone().mean_dim(2);
    let centred = x - mean;
    let var = centred.clone().square().mean_dim(2);
    let y = centred * (var + eps).sqrt().recip() * gamma.unsqueeze();
    match beta {
        Some(beta) => y + beta.unsqueeze(),
        None => y,
    }
}

/// Root-mean-square norm over the last dimension of x [B, L, D] with scale gamma [D].
pub fn rms_norm(x: Tensor<3>, gamma: Tensor<1>, eps: f64) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if fused::takes(&x) {
        return fused::norm(x, gamma, None, eps, false);
    }
    let ms = x.clone().square().mean_dim(2);
    x * (ms + eps).sqrt().recip() * gamma.unsqueeze()
}

/// GELU in its tanh form.
pub fn gelu(x: Tensor<3>) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if fused::takes(&x) {
        return fused::gelu(x, None);
    }
    gelu_approximate(x)
}

/// gelu(x times weight plus bias), as [`gelu`] of [`dense`].
pub fn dense_gelu(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if fused::takes(&x) {
        return fused::gelu(dense(x, weight, None), bias);
    }
    gelu(dense(x, weight, bias))
}

/// SwiGLU: silu(gate) * up.
pub fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if fused::takes(&up) {
        return fused::swiglu(gate, up);
    }
    silu(gate) * up
}

/// Rotary tables cos, sin [length, d] in half-split layout (pairs l, l + d/2), computed in f64 on the host.
pub fn rope_tables(length: usize, d: usize, theta: f64, device: &Device) -> (Tensor<2>, Tensor<2>) {
    let angle = |l: usize, i: usize| l as f64 * theta.powf(-2.0 * (i % (d / 2)) as f64 / d as f64);
    let table = |f: fn(f64) -> f64| {
        let v: Vec<f32> = (0..length * d).map(|k| f(angle(k / d, k % d)) as f32).collect();
        Tensor::from_data(TensorData::new(v, [length, d]), device)
    };
    (table(f64::cos), table(f64::sin))
}

/// Rotates x [B, H, L, d] by the tables' rows [L, d].
pub fn rotate(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let half = x.dims()[3] / 2;
    let left = x.clone().narrow(3, 0, half);
    let right = x.clone().narrow(3, half, half);
    x * cos.unsqueeze() + Tensor::cat(vec![right.neg(), left], 3) * sin.unsqueeze()
}

/// Part `part` (0 query, 1 key, 2 value) of a packed projection [B, L, 3 D] as [B, H, L, d].
pub fn unpack(packed: &Tensor<3>, heads: usize, part: usize) -> Tensor<4> {
    let [b, l, width] = packed.dims();
    let d = width / 3;
    packed.clone().narrow(2, part * d, d).reshape([b, l, heads, d / heads]).swap_dims(1, 2)
}

/// Rotary attention [B, L, D] of a packed projection [B, L, 3 D] with tables cos, sin [L, d].
pub fn self_attention(packed: Tensor<3>, cos: Tensor<2>, sin: Tensor<2>, heads: usize, causal: bool) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if fused::takes(&packed) {
        return fused::attention(packed, cos, sin, heads, causal);
    }
    let (cos, sin) = (cos.cast(packed.dtype()), sin.cast(packed.dtype()));
    let q = rotate(unpack(&packed, heads, 0), cos.clone(), sin.clone());
    let k = rotate(unpack(&packed, heads, 1), cos, sin);
    let y = attention(q, k, unpack(&packed, heads, 2), causal);
    let [b, h, l, d] = y.dims();
    y.swap_dims(1, 2).reshape([b, l, h * d])
}

/// Softmax attention of q [B, H, Lq, d] over k, v [B, H, Lk, d]; `causal` aligns the last query with the last key.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, causal: bool) -> Tensor<4> {
    let [_, _, lq, d] = q.dims();
    let lk = k.dims()[2];
    let mut scores = q.mul_scalar(1.0 / (d as f64).sqrt()).matmul(k.transpose());
    if causal && lq > 1 {
        let future = Tensor::<2, Bool>::tril_mask([lq, lk], (lk - lq) as i64, &scores.device());
        scores = scores.mask_fill(future.unsqueeze(), f32::NEG_INFINITY);
    }
    softmax(scores, 3).matmul(v)
}

/// Log-probabilities [n, V] of logits [n, V].
pub fn log_softmax(logits: Tensor<2>) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if fused::takes(&logits) {
        return fused::log_softmax(logits);
    }
    burn::tensor::activation::log_softmax(logits, 1)
}

/// -ln softmax(logits [n, V])[target] of every row [n].
pub fn cross_entropy_rows(logits: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    #[cfg(feature = "flex")]
    if fused::takes(&logits) {
        return fused::cross_entropy(logits, targets);
    }
    let at: Vec<usize> = targets.iter().map(|t| *t as usize).collect();
    let idx = index_tensor(&at, &logits.device().inner()).reshape([at.len(), 1]);
    log_softmax(logits).gather(1, idx).neg().squeeze_dim(1)
}

/// The divergence of every row [n] of the student's and the teacher's logits [n, V]; the teacher is a constant.
pub fn divergence_rows(student: Tensor<2>, teacher: Tensor<2>, kind: Divergence) -> Tensor<1> {
    #[cfg(feature = "flex")]
    if fused::takes(&student) && fused::takes(&teacher) {
        return fused::divergence(student, teacher, kind);
    }
    kind.rows(log_softmax(student), log_softmax(teacher))
}
