//! Fused operations with their own backward pass, for f32 tensors on Burn's Flex backend.
//!
//! Composed from primitives, a training step on the CPU spends its time writing and reading temporaries in one thread.
//! Each operation here is one pass over its rows, in all threads, with a hand-written gradient ([`crate::model::ops`]
//! chooses between the two). The kernels are functions on slices: [`attention`], [`pointwise`], [`rows`].
//!
//! B batch, L length, D width, H heads, d head width, V vocabulary, n rows.

pub mod attention;
mod autodiff;
pub mod pointwise;
pub mod rows;
pub mod simd;
#[cfg(test)]
mod tests;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::prelude::*;
use burn::tensor::DType;

use crate::model::Divergence;
use attention::Shape;
use pointwise::NormKind;

type Flat = FloatTensor<Flex>;

/// Whether the fused operations take this tensor: f32 on Flex, recorded or not.
pub fn takes<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && x.device().inner() == Device::flex()
}

/// The operations as Burn dispatches them; the functions of this module are their typed form.
#[backend_extension(Flex, Autodiff)]
pub trait FusedOps: Backend {
    fn fused_attention(
        packed: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
        causal: bool,
    ) -> FloatTensor<Self>;
    fn fused_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        kind: NormKind,
    ) -> FloatTensor<Self>;
    fn fused_gelu(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_add_bias(x: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_log_softmax(logits: FloatTensor<Self>) -> FloatTensor<Self>;
    fn fused_cross_entropy(logits: FloatTensor<Self>, targets: Vec<u32>) -> FloatTensor<Self>;
    fn fused_divergence(student: FloatTensor<Self>, teacher: FloatTensor<Self>, kind: Divergence) -> FloatTensor<Self>;
}

/// Attention [B, L, D] of a packed projection [B, L, 3 D] with rotary tables [L, d] that repeat after d / 2.
pub fn attention(packed: Tensor<3>, cos: Tensor<2>, sin: Tensor<2>, heads: usize, causal: bool) -> Tensor<3> {
    let (packed, cos, sin) = (packed.into_dispatch(), cos.into_dispatch(), sin.into_dispatch());
    Tensor::from_dispatch(<Dispatch as FusedOps>::fused_attention(packed, cos, sin, heads, causal))
}

/// Layer norm (`centred`) or root-mean-square norm over the last dimension of x [B, L, D].
pub fn norm(x: Tensor<3>, gamma: Tensor<1>, beta: Option<Tensor<1>>, eps: f64, centred: bool) -> Tensor<3> {
    let beta = beta.unwrap_or_else(|| nothing(&x)).into_dispatch();
    let kind = NormKind { centred, eps: eps as f32 };
    Tensor::from_dispatch(<Dispatch as FusedOps>::fused_norm(x.into_dispatch(), gamma.into_dispatch(), beta, kind))
}

/// GELU (tanh form) of x [B, L, D] plus an optional bias [D].
pub fn gelu(x: Tensor<3>, bias: Option<Tensor<1>>) -> Tensor<3> {
    let bias = bias.unwrap_or_else(|| nothing(&x)).into_dispatch();
    Tensor::from_dispatch(<Dispatch as FusedOps>::fused_gelu(x.into_dispatch(), bias))
}

/// The offset or bias [D] of a network without: a constant zero (an operation's inputs are not optional in Burn).
fn nothing(x: &Tensor<3>) -> Tensor<1> {
    Tensor::zeros([x.dims()[2]], &x.device().inner())
}

/// silu(gate) * up, all [B, L, D].
pub fn swiglu(gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::fused_swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// x [n, D] plus bias [D].
pub fn add_bias(x: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::fused_add_bias(x.into_dispatch(), bias.into_dispatch()))
}

/// Log-probabilities [n, V] of logits [n, V].
pub fn log_softmax(logits: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::fused_log_softmax(logits.into_dispatch()))
}

/// -ln softmax(logits [n, V])[target] of every row [n].
pub fn cross_entropy(logits: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::fused_cross_entropy(logits.into_dispatch(), targets.to_vec()))
}

/// The divergence of every row [n] of two logits [n, V]; the teacher is a constant.
pub fn divergence(student: Tensor<2>, teacher: Tensor<2>, kind: Divergence) -> Tensor<1> {
    let (student, teacher) = (student.into_dispatch(), teacher.into_dispatch());
    Tensor::from_dispatch(<Dispatch as FusedOps>::fused_divergence(student, teacher, kind))
}

fn contiguous(x: Flat) -> Flat {
    if x.is_contiguous() { x } else { x.to_contiguous() }
}

/// The values of a contiguous tensor.
fn slice(x: &Flat) -> &[f32] {
    match x.as_slice::<f32>() {
        Some(values) => values,
        None => panic!("fused operations get contiguous f32 tensors"),
    }
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Flat {
    <Flat>::from_data(TensorData::new(values, shape))
}

/// The same values in a buffer of their own, the old one where nobody else holds it.
fn own(x: Flat) -> Flat {
    let x = contiguous(x);
    let whole = x.bytes().len() == 4 * x.layout().num_elements();
    if whole { x } else { tensor_like(slice(&x).to_vec(), &x) }
}

fn tensor_like(values: Vec<f32>, like: &Flat) -> Flat {
    <Flat>::from_data(TensorData::new(values, like.layout().shape().clone()))
}

/// f(values in place); copies only a buffer that is shared.
fn in_place<R>(x: Flat, f: impl FnOnce(&mut [f32]) -> R) -> (Flat, R) {
    let mut x = own(x);
    let result = f(x.storage_mut::<f32>());
    (x, result)
}

fn last(x: &Flat) -> usize {
    let shape = x.layout().shape();
    shape[shape.num_dims() - 1]
}

fn attention_shape(packed: &Flat, heads: usize, causal: bool) -> Shape {
    let s = packed.layout().shape();
    Shape { batch: s[0], length: s[1], heads, head_dim: s[2] / (3 * heads), causal }
}

fn attention_forward(packed: &Flat, (cos, sin): (&Flat, &Flat), shape: Shape) -> (Flat, Vec<f32>) {
    let (out, lse) = attention::forward(slice(packed), (slice(cos), slice(sin)), shape);
    (tensor(out, [shape.batch, shape.length, shape.heads * shape.head_dim]), lse)
}

fn norm_forward(x: &Flat, gamma: &Flat, beta: &Flat, kind: NormKind) -> (Flat, Vec<f32>) {
    let (y, stats) = pointwise::norm(slice(x), slice(gamma), slice(beta), kind);
    (tensor_like(y, x), stats)
}

impl FusedOps for Flex {
    fn fused_attention(packed: Flat, cos: Flat, sin: Flat, heads: usize, causal: bool) -> Flat {
        let (packed, cos, sin) = (contiguous(packed), contiguous(cos), contiguous(sin));
        attention_forward(&packed, (&cos, &sin), attention_shape(&packed, heads, causal)).0
    }

    fn fused_norm(x: Flat, gamma: Flat, beta: Flat, kind: NormKind) -> Flat {
        norm_forward(&contiguous(x), &contiguous(gamma), &contiguous(beta), kind).0
    }

    fn fused_gelu(x: Flat, bias: Flat) -> Flat {
        let bias = contiguous(bias);
        in_place(x, |x| pointwise::gelu(x, slice(&bias))).0
    }

    fn fused_swiglu(gate: Flat, up: Flat) -> Flat {
        let gate = contiguous(gate);
        in_place(up, |up| pointwise::swiglu(slice(&gate), up)).0
    }

    fn fused_add_bias(x: Flat, bias: Flat) -> Flat {
        let bias = contiguous(bias);
        in_place(x, |x| pointwise::add_bias(x, slice(&bias))).0
    }

    fn fused_log_softmax(logits: Flat) -> Flat {
        let vocab = last(&logits);
        in_place(logits, |x| rows::log_softmax(x, vocab)).0
    }

    fn fused_cross_entropy(logits: Flat, targets: Vec<u32>) -> Flat {
        cross_entropy_forward(logits, &targets, false).1
    }

    fn fused_divergence(student: Flat, teacher: Flat, kind: Divergence) -> Flat {
        divergence_forward(student, teacher, kind, false).1
    }
}

/// The losses [n], and the logits' buffer, with `gradient` filled by theirs.
fn cross_entropy_forward(logits: Flat, targets: &[u32], gradient: bool) -> (Flat, Flat) {
    let vocab = last(&logits);
    let (buffer, loss) = in_place(logits, |x| rows::cross_entropy(x, targets, vocab, gradient));
    (buffer, tensor(loss, [targets.len()]))
}

/// As [`cross_entropy_forward`].
fn divergence_forward(student: Flat, teacher: Flat, kind: Divergence, gradient: bool) -> (Flat, Flat) {
    let (vocab, teacher) = (last(&student), contiguous(teacher));
    let (buffer, loss) = in_place(student, |x| rows::divergence(x, slice(&teacher), kind, vocab, gradient));
    let n = loss.len();
    (buffer, tensor(loss, [n]))
}
