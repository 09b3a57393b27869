//! The hot operations of every network, in one place so that each can be replaced by a fused one: normalisation,
//! activation, rotary attention, projection. Composed from Burn's primitives, differentiable by its autodiff.
//!
//! B batch, L length, D width, H heads, d head width.

use burn::prelude::*;
use burn::tensor::activation::{gelu_approximate, silu, softmax};

/// x [B, L, Din] times weight [Din, Dout] plus bias [Dout].
pub fn dense(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<3> {
    let [b, l, d_in] = x.dims();
    let d_out = weight.dims()[1];
    let mut y = x.reshape([b * l, d_in]).matmul(weight);
    if let Some(bias) = bias {
        y = y + bias.unsqueeze();
    }
    y.reshape([b, l, d_out])
}

/// Layer norm over the last dimension of x [B, L, D] with scale gamma [D] and optional offset beta [D].
pub fn layer_norm(x: Tensor<3>, gamma: Tensor<1>, beta: Option<Tensor<1>>, eps: f64) -> Tensor<3> {
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
    let ms = x.clone().square().mean_dim(2);
    x * (ms + eps).sqrt().recip() * gamma.unsqueeze()
}

/// GELU in its tanh form.
pub fn gelu(x: Tensor<3>) -> Tensor<3> {
    gelu_approximate(x)
}

/// SwiGLU: silu(gate) * up.
pub fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
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
