//! Fused operations with their own backward pass, for f32 tensors on Burn's Flex backend.
//!
//! Composed from primitives, a training step on the CPU spends its time writing and reading temporaries in one thread.
//! The kernels here are functions on slices; this file joins them to Burn's dispatch, `autodiff` to its tape.
//!
//! B batch, L length, D width, V vocabulary, n and r rows.

pub mod attention;
mod autodiff;
pub mod block;
pub mod decode;
pub mod gemm;
pub mod head;
pub mod optim;
pub mod pointwise;
pub mod rows;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, Flex, backend_extension};
use burn::prelude::*;
use burn::tensor::DType;

use super::shape::{NormKind, Rows, Shape, Tables};
use super::{AdamWStep, BlockParameters, Divergence, Head, Slab};
use block::{Block, PARAMETERS, Spec, Weights};
use head::{Against, Loss, Side};

type Flat = FloatTensor<Flex>;

/// Whether the fused operations take this tensor: f32 on Flex, recorded or not.
pub fn takes<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && x.device().inner() == Device::flex()
}

/// What the rows of a loss are compared with, and how much each counts.
#[derive(Debug, Clone)]
pub struct LossSpec {
    /// The head's weight is the embedding [V or more, D].
    pub tied: bool,
    /// The same of the teacher's.
    pub teacher_tied: bool,
    pub vocab: usize,
    /// Token targets `[n]`; none: a teacher's rows.
    pub targets: Option<Arc<[u32]>>,
    pub divergence: Divergence,
    pub weights: Arc<[f32]>,
    /// Rows whose logits exist at once.
    pub chunk: usize,
}

/// A block's input, modulation and parameters; what a block does not have is empty.
#[derive(ExtensionType)]
pub struct BlockTensors<B: Backend> {
    pub x: FloatTensor<B>,
    pub modulation: FloatTensor<B>,
    pub norm1: FloatTensor<B>,
    pub norm1_bias: FloatTensor<B>,
    pub qkv: FloatTensor<B>,
    pub qkv_bias: FloatTensor<B>,
    pub out: FloatTensor<B>,
    pub out_bias: FloatTensor<B>,
    pub norm2: FloatTensor<B>,
    pub norm2_bias: FloatTensor<B>,
    pub up: FloatTensor<B>,
    pub up_bias: FloatTensor<B>,
    pub gate: FloatTensor<B>,
    pub gate_bias: FloatTensor<B>,
    pub down: FloatTensor<B>,
    pub down_bias: FloatTensor<B>,
}

impl<B: Backend> BlockTensors<B> {
    /// x, modulation, and the parameters in the kernels' order.
    fn apart(self) -> (FloatTensor<B>, FloatTensor<B>, [FloatTensor<B>; PARAMETERS]) {
        let parameters = [
            self.norm1,
            self.norm1_bias,
            self.qkv,
            self.qkv_bias,
            self.out,
            self.out_bias,
            self.norm2,
            self.norm2_bias,
            self.up,
            self.up_bias,
            self.gate,
            self.gate_bias,
            self.down,
            self.down_bias,
        ];
        (self.x, self.modulation, parameters)
    }
}

/// The differentiable operations as Burn dispatches them; the functions of this module are their typed form.
#[backend_extension(Flex, Autodiff)]
pub trait FusedOps: Backend {
    fn fused_block(#[extension_type] tensors: BlockTensors<Self>, spec: Spec) -> FloatTensor<Self>;
    fn fused_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        kind: NormKind,
    ) -> FloatTensor<Self>;
    fn fused_log_softmax(logits: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The teacher's part is empty where targets are tokens.
    fn fused_loss(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        teacher_x: FloatTensor<Self>,
        teacher_weight: FloatTensor<Self>,
        teacher_bias: FloatTensor<Self>,
        spec: LossSpec,
    ) -> FloatTensor<Self>;
    fn fused_embedding(table: FloatTensor<Self>, ids: Arc<[u32]>) -> FloatTensor<Self>;
}

/// Operations without a gradient, in place where nobody else holds the buffer.
#[backend_extension(Flex)]
pub trait PlainOps: Backend {
    /// Parameter, its moments and its average (or nothing) after a step.
    fn fused_adamw(
        p: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        average: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    fn fused_square_sum(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// y of new positions, and keys and values with theirs.
    fn fused_block_cached(
        #[extension_type] tensors: BlockTensors<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        spec: Spec,
        filled: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

fn tensors(x: Tensor<3>, p: BlockParameters, modulation: Option<Tensor<3>>) -> BlockTensors<Dispatch> {
    let device = x.device();
    let vector = |t: Option<Tensor<1>>| t.unwrap_or_else(|| nothing(&device)).into_dispatch();
    let (gate, gate_bias) = p.gate.map_or((None, None), |(weight, bias)| (Some(weight), bias));
    BlockTensors {
        x: x.into_dispatch(),
        modulation: modulation.map_or_else(|| nothing(&device).into_dispatch(), Tensor::into_dispatch),
        norm1: p.norm1.0.into_dispatch(),
        norm1_bias: vector(p.norm1.1),
        qkv: p.qkv.0.into_dispatch(),
        qkv_bias: vector(p.qkv.1),
        out: p.out.0.into_dispatch(),
        out_bias: vector(p.out.1),
        norm2: p.norm2.0.into_dispatch(),
        norm2_bias: vector(p.norm2.1),
        up: p.up.0.into_dispatch(),
        up_bias: vector(p.up.1),
        gate: gate.map_or_else(|| nothing(&device).into_dispatch(), Tensor::into_dispatch),
        gate_bias: vector(gate_bias),
        down: p.down.0.into_dispatch(),
        down_bias: vector(p.down.1),
    }
}

/// An absent parameter (an operation's inputs are not optional in Burn).
fn nothing(device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(Vec::<f32>::new(), [0]), &device.clone().inner())
}

/// y [B, L, D], or [1, r, D] for wanted rows, of x [B, L, D].
pub fn block(x: Tensor<3>, p: BlockParameters, modulation: Option<Tensor<3>>, spec: Spec) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::fused_block(tensors(x, p, modulation), spec))
}

/// y [B, l, D] of x [B, l, D] behind `filled` positions, whose keys and values [B, Hkv, capacity, d] grow by the new ones.
pub fn block_cached(
    x: Tensor<3>,
    p: BlockParameters,
    modulation: Option<Tensor<3>>,
    (keys, values): Slab,
    spec: Spec,
    filled: usize,
) -> (Tensor<3>, Slab) {
    let (keys, values) = (keys.into_dispatch(), values.into_dispatch());
    let (y, keys, values) =
        <Dispatch as PlainOps>::fused_block_cached(tensors(x, p, modulation), keys, values, spec, filled);
    (Tensor::from_dispatch(y), (Tensor::from_dispatch(keys), Tensor::from_dispatch(values)))
}

/// Layer norm or root-mean-square norm over the last dimension of x [B, L, D].
pub fn norm(x: Tensor<3>, gamma: Tensor<1>, beta: Option<Tensor<1>>, kind: NormKind) -> Tensor<3> {
    let beta = beta.unwrap_or_else(|| nothing(&x.device())).into_dispatch();
    Tensor::from_dispatch(<Dispatch as FusedOps>::fused_norm(x.into_dispatch(), gamma.into_dispatch(), beta, kind))
}

/// Log-probabilities [n, V] of logits [n, V].
pub fn log_softmax(logits: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::fused_log_softmax(logits.into_dispatch()))
}

/// The weighted loss `[1]` of rows with their head.
pub fn loss(x: Tensor<2>, head: Head, teacher: Option<(Tensor<2>, Head)>, spec: LossSpec) -> Tensor<1> {
    let device = x.device();
    let absent = || nothing(&device).into_dispatch();
    let bias = |head: Option<Tensor<1>>| head.map_or_else(absent, Tensor::into_dispatch);
    let (teacher_x, teacher_weight, teacher_bias) = match teacher {
        Some((x, head)) => (x.into_dispatch(), head.weight.into_dispatch(), bias(head.bias)),
        None => (absent(), absent(), absent()),
    };
    Tensor::from_dispatch(<Dispatch as FusedOps>::fused_loss(
        x.into_dispatch(),
        head.weight.into_dispatch(),
        bias(head.bias),
        teacher_x,
        teacher_weight,
        teacher_bias,
        spec,
    ))
}

/// Rows [n, D] of `table` [V, D].
pub fn embedding(table: Tensor<2>, ids: Arc<[u32]>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as FusedOps>::fused_embedding(table.into_dispatch(), ids))
}

/// Parameter, moments and average `[N]` after a step.
pub fn adamw(
    [p, m, v]: [Tensor<1>; 3],
    average: Option<Tensor<1>>,
    gradient: Tensor<1>,
    step: AdamWStep,
) -> ([Tensor<1>; 3], Option<Tensor<1>>) {
    let averaged = average.is_some();
    let average = average.unwrap_or_else(|| nothing(&p.device())).into_dispatch();
    let (p, m, v) = (p.into_dispatch(), m.into_dispatch(), v.into_dispatch());
    let (p, m, v, e) = <Dispatch as PlainOps>::fused_adamw(p, m, v, average, gradient.into_dispatch(), step);
    let e = averaged.then(|| Tensor::from_dispatch(e));
    ([p, m, v].map(Tensor::from_dispatch), e)
}

/// The sum of squares of all values, as a tensor `[1]`.
pub fn square_sum<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as PlainOps>::fused_square_sum(x.into_dispatch()))
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

fn tensor_like(values: Vec<f32>, like: &Flat) -> Flat {
    <Flat>::from_data(TensorData::new(values, like.layout().shape().clone()))
}

/// The same values in a buffer of their own, the old one where nobody else holds it.
fn own(x: Flat) -> Flat {
    let x = contiguous(x);
    let whole = x.bytes().len() == 4 * x.layout().num_elements();
    if whole { x } else { tensor_like(slice(&x).to_vec(), &x) }
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

fn block_of<'a>(parameters: &'a [Flat; PARAMETERS], modulation: &'a Flat, spec: &'a Spec) -> Block<'a> {
    Block { weights: Weights::of(parameters.each_ref().map(slice)), modulation: slice(modulation), spec }
}

/// [B, L, D], or [1, r, D] for wanted rows.
fn block_output(y: Vec<f32>, spec: &Spec, d: usize) -> Flat {
    let (b, l) = match spec.rows {
        Some(_) => (1, y.len() / d),
        None => (spec.shape.batch, spec.shape.length),
    };
    tensor(y, [b, l, d])
}

fn norm_forward(x: &Flat, gamma: &Flat, beta: &Flat, kind: NormKind) -> (Flat, Vec<f32>) {
    let (y, stats) = pointwise::norm(slice(x), slice(gamma), slice(beta), kind);
    (tensor_like(y, x), stats)
}

/// Rows, weight and bias of a head.
fn side([x, weight, bias]: &[Flat; 3], tied: bool) -> Side<'_> {
    Side { x: slice(x), width: last(x), weight: slice(weight), bias: slice(bias), tied }
}

fn loss_of(head: &[Flat; 3], teacher: &[Flat; 3], spec: &LossSpec, gradients: bool) -> Loss {
    let against = match &spec.targets {
        Some(ids) => Against::Tokens(ids),
        None => Against::Teacher(side(teacher, spec.teacher_tied), spec.divergence),
    };
    head::loss(side(head, spec.tied), against, &spec.weights, spec.vocab, spec.chunk, gradients)
}

fn embed(table: &Flat, ids: &[u32]) -> Flat {
    let _span = tracing::trace_span!("embedding").entered();
    let (d, values) = (last(table), slice(table));
    let mut out = Vec::with_capacity(ids.len() * d);
    ids.iter().for_each(|id| out.extend_from_slice(&values[*id as usize * d..][..d]));
    tensor(out, [ids.len(), d])
}

impl FusedOps for Flex {
    fn fused_block(tensors: BlockTensors<Self>, spec: Spec) -> Flat {
        let (x, modulation, parameters) = tensors.apart();
        let (x, modulation, parameters) = (contiguous(x), contiguous(modulation), parameters.map(contiguous));
        let (y, _) = block_of(&parameters, &modulation, &spec).forward(slice(&x), false);
        block_output(y, &spec, last(&x))
    }

    fn fused_norm(x: Flat, gamma: Flat, beta: Flat, kind: NormKind) -> Flat {
        norm_forward(&contiguous(x), &contiguous(gamma), &contiguous(beta), kind).0
    }

    fn fused_log_softmax(logits: Flat) -> Flat {
        let vocab = last(&logits);
        in_place(logits, |x| rows::log_softmax(x, vocab)).0
    }

    fn fused_loss(x: Flat, weight: Flat, bias: Flat, tx: Flat, tweight: Flat, tbias: Flat, spec: LossSpec) -> Flat {
        let (head, teacher) = ([x, weight, bias].map(contiguous), [tx, tweight, tbias].map(contiguous));
        tensor(vec![loss_of(&head, &teacher, &spec, false).value as f32], [1])
    }

    fn fused_embedding(table: Flat, ids: Arc<[u32]>) -> Flat {
        embed(&contiguous(table), &ids)
    }
}

impl PlainOps for Flex {
    fn fused_adamw(
        p: Flat,
        m: Flat,
        v: Flat,
        average: Flat,
        gradient: Flat,
        step: AdamWStep,
    ) -> (Flat, Flat, Flat, Flat) {
        let gradient = contiguous(gradient);
        let [mut p, mut m, mut v, mut e] = [p, m, v, average].map(own);
        let (p_values, m_values) = (p.storage_mut::<f32>(), m.storage_mut::<f32>());
        let (v_values, e_values) = (v.storage_mut::<f32>(), e.storage_mut::<f32>());
        optim::adamw(p_values, slice(&gradient), m_values, v_values, e_values, &step);
        (p, m, v, e)
    }

    fn fused_square_sum(x: Flat) -> Flat {
        tensor(vec![optim::square_sum(slice(&contiguous(x))) as f32], [1])
    }

    fn fused_block_cached(
        tensors: BlockTensors<Self>,
        keys: Flat,
        values: Flat,
        spec: Spec,
        filled: usize,
    ) -> (Flat, Flat, Flat) {
        let (x, modulation, parameters) = tensors.apart();
        let (x, modulation, parameters) = (contiguous(x), contiguous(modulation), parameters.map(contiguous));
        let (mut keys, mut values) = (own(keys), own(values));
        let block = block_of(&parameters, &modulation, &spec);
        let (k, v) = (keys.storage_mut::<f32>(), values.storage_mut::<f32>());
        let y = decode::block(&block, slice(&x), k, v, filled);
        (tensor_like(y, &x), keys, values)
    }
}

/// The spec of a block over x [B, L, D].
pub fn spec(shape: Shape, norm: NormKind, tables: Arc<Tables>, rows: Option<Arc<Rows>>, checkpoint: bool) -> Spec {
    Spec { shape, norm, tables, rows, checkpoint }
}
