//! The hot operations of every network: the transformer block, norms, the head with its loss, the embedding, AdamW.
//!
//! Each is composed from Burn's primitives and differentiable by its autodiff ([`composed`]); f32 tensors on the Flex
//! backend take the fused form of [`flex`] instead, which has the same values and gradients. This file alone chooses;
//! `composed = true` in a network's configuration takes the choice away for all that the network computes (the optimiser's
//! step is no part of it).
//! B batch, L length, D width, V vocabulary, n and r rows.

pub mod composed;
pub mod divergence;
#[cfg(feature = "flex")]
pub mod flex;
pub mod shape;
pub mod simd;

use std::sync::Arc;

use burn::prelude::*;
use burn::tensor::FloatDType;

pub use divergence::Divergence;
pub use shape::{Activation, NormKind, Rows, Shape, Tables, Visible};

/// Row indices `[n]` on `device`.
pub fn index_tensor(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i32> = rows.iter().map(|v| *v as i32).collect();
    Tensor::from_data(TensorData::new(ids, [rows.len()]), device)
}

/// The parameters of one transformer block: norms' scale and offset `[D]`, projections' weight [in, out] and bias `[out]`.
pub struct BlockParameters {
    pub norm1: (Tensor<1>, Option<Tensor<1>>),
    pub qkv: (Tensor<2>, Option<Tensor<1>>),
    pub out: (Tensor<2>, Option<Tensor<1>>),
    pub norm2: (Tensor<1>, Option<Tensor<1>>),
    pub up: (Tensor<2>, Option<Tensor<1>>),
    /// There for gated feed-forwards: activation(gate) * up instead of activation(up).
    pub gate: Option<(Tensor<2>, Option<Tensor<1>>)>,
    pub down: (Tensor<2>, Option<Tensor<1>>),
}

/// What a block does besides its parameters.
#[derive(Debug, Clone)]
pub struct BlockSpec {
    pub heads: usize,
    /// Key and value heads; each serves heads / kv_heads query heads.
    pub kv_heads: usize,
    pub visible: Visible,
    /// Per sequence the range of keys that are not padding; none: all of them.
    pub keys: Option<Arc<[std::ops::Range<usize>]>>,
    pub norm: NormKind,
    /// Rotary tables on the host, and as tensors [L or more, d] on the plain device.
    pub tables: Arc<Tables>,
    pub rope: (Tensor<2>, Tensor<2>),
    /// The rows whose output is wanted; none: all.
    pub rows: Option<Arc<Rows>>,
    /// Keep nothing for the backward pass but the input.
    pub checkpoint: bool,
    /// Compose the block from primitives whatever the device.
    pub composed: bool,
    pub activation: Activation,
    pub extra: Extra,
}

/// What few families ask for; the fused kernels know none of it.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    /// The first norm is left out (ModernBERT's first block, behind the norm of its embedding).
    pub no_norm1: bool,
    /// Root-mean-square norms of every query and key head before the rotation, scale `[d]` each (Qwen3).
    pub qk_norm: Option<(Tensor<1>, Tensor<1>)>,
    /// Keys further away than that are hidden (ModernBERT's local blocks).
    pub window: Option<usize>,
    /// Rotary positions [B L] where they are not those where the tokens lie: behind left padding.
    pub positions: Option<Arc<[u32]>>,
    /// Low-rank terms beside the projections (LoRA).
    pub low_rank: LowRanks,
}

/// s B A x added to some columns of a projection (LoRA; Hu et al. 2021): A [r, in], B [width, r].
#[derive(Debug, Clone)]
pub struct LowRank {
    pub a: Tensor<2>,
    pub b: Tensor<2>,
    pub scale: f64,
    /// The first of the columns it is added to.
    pub from: usize,
}

/// The low-rank terms of each projection of a block, by ascending columns.
#[derive(Debug, Clone, Default)]
pub struct LowRanks {
    pub qkv: Vec<LowRank>,
    pub out: Vec<LowRank>,
    pub up: Vec<LowRank>,
    pub gate: Vec<LowRank>,
    pub down: Vec<LowRank>,
}

impl LowRanks {
    #[cfg(feature = "flex")]
    fn is_empty(&self) -> bool {
        [&self.qkv, &self.out, &self.up, &self.gate, &self.down].iter().all(|terms| terms.is_empty())
    }
}

impl Extra {
    #[cfg(feature = "flex")]
    fn is_plain(&self) -> bool {
        !self.no_norm1
            && self.qk_norm.is_none()
            && self.window.is_none()
            && self.positions.is_none()
            && self.low_rank.is_empty()
    }
}

impl BlockSpec {
    /// Whether the fused kernels know all of it.
    #[cfg(feature = "flex")]
    fn known(&self, gated: bool) -> bool {
        let usual = if gated { Activation::Silu } else { Activation::GeluTanh };
        !self.composed && self.activation == usual && self.extra.is_plain()
    }

    /// The shape of its attention over [B, L] positions of a packed width.
    fn shape(&self, [batch, length]: [usize; 2], packed: usize) -> Shape {
        Shape {
            batch,
            length,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: packed / (self.heads + 2 * self.kv_heads),
            visible: self.visible.clone(),
            keys: self.keys.clone(),
        }
    }
}

/// y [B, L, D], or [1, r, D] for wanted rows, of x [B, L, D]; `modulation` [B, L or 1, 6 D] tells the network the time.
pub fn block(x: Tensor<3>, p: BlockParameters, modulation: Option<Tensor<3>>, spec: &BlockSpec) -> Tensor<3> {
    let [b, l, _] = x.dims();
    let shape = spec.shape([b, l], p.qkv.0.dims()[1]);
    #[cfg(feature = "flex")]
    if spec.known(p.gate.is_some()) && flex::takes(&x) {
        let spec = flex::spec(shape, spec.norm, spec.tables.clone(), spec.rows.clone(), spec.checkpoint);
        return flex::block(x, p, modulation, spec);
    }
    composed::block(x, p, modulation, spec, &shape)
}

/// Keys and values [B, Hkv, capacity, d] of the positions a block has read.
pub type Slab = (Tensor<4>, Tensor<4>);

/// y [B, l, D] of x [B, l, D] at positions `filled ..`, whose keys and values are put into the slab. Each sees what is before
/// it, and itself or its block, or under full visibility the whole slab.
///
/// # Panics
/// Where the network reads two streams, which are read whole.
pub fn block_cached(
    x: Tensor<3>,
    p: BlockParameters,
    modulation: Option<Tensor<3>>,
    slab: Slab,
    spec: &BlockSpec,
    filled: usize,
) -> (Tensor<3>, Slab) {
    assert!(!spec.visible.two_streams(), "two streams are read whole");
    let [b, l, _] = x.dims();
    let shape = spec.shape([b, l], p.qkv.0.dims()[1]);
    #[cfg(feature = "flex")]
    if spec.known(p.gate.is_some()) && spec.visible != Visible::Full && flex::takes(&x) {
        let spec = flex::spec(shape, spec.norm, spec.tables.clone(), None, false);
        return flex::block_cached(x, p, modulation, slab, spec, filled);
    }
    composed::block_cached(x, p, modulation, slab, (spec, &shape), filled)
}

/// The slab with the keys and values of x [B, l, D] at positions `filled ..`: what later positions see of text that this block
/// computes nothing else of.
pub fn keys_values(
    x: Tensor<3>,
    p: BlockParameters,
    modulation: Option<Tensor<3>>,
    slab: Slab,
    spec: &BlockSpec,
    filled: usize,
) -> Slab {
    let [b, l, _] = x.dims();
    let shape = spec.shape([b, l], p.qkv.0.dims()[1]);
    composed::keys_values(x, &p, modulation, slab, (spec, &shape), filled)
}

/// Layer norm (`kind.centred`) or root-mean-square norm over the last dimension of x [B, L, D].
pub fn norm(x: Tensor<3>, gamma: Tensor<1>, beta: Option<Tensor<1>>, kind: NormKind, composed: bool) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if !composed && flex::takes(&x) {
        return flex::norm(x, gamma, beta, kind);
    }
    let _ = composed;
    composed::norm(x, gamma, beta, kind)
}

/// Rows [n, D] of `table` [V, D].
pub fn embedding(table: Tensor<2>, ids: &[u32], composed: bool) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if !composed && flex::takes(&table) {
        return flex::embedding(table, ids.into());
    }
    let _ = composed;
    composed::embedding(table, ids)
}

/// Log-probabilities [n, V] of logits [n, V].
pub fn log_softmax(logits: Tensor<2>, composed: bool) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if !composed && flex::takes(&logits) {
        return flex::log_softmax(logits);
    }
    let _ = composed;
    composed::log_softmax(logits)
}

/// The projection from features to logits: weight [D, V], or under `tied` an embedding [V or more, D]; bias `[V]`.
#[derive(Debug, Clone)]
pub struct Head {
    pub weight: Tensor<2>,
    pub bias: Option<Tensor<1>>,
    pub tied: bool,
    pub vocab: usize,
}

/// What the rows of a loss are compared with.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // one a step: boxing would only hide it
pub enum Target {
    /// Token ids `[n]`: cross-entropy.
    Tokens(Arc<[u32]>),
    /// Token ids `[n]` and offsets `[n]` of scores ([`composed::score_entropy`]); composed on every device.
    Scores(Arc<[u32]>, Arc<[f32]>),
    /// Under uniform noise ([`composed::uniform_elbo`]); composed on every device.
    Uniform(UniformRows),
    /// Against the posterior of a chain of matrices ([`composed::posterior`]); composed on every device.
    Posterior(PosteriorRows),
    /// The teacher's feature rows [n, D] with its head, and the divergence; a constant.
    Teacher(Tensor<2>, Head, Divergence),
}

/// Rows of the ELBO of uniform diffusion: the clean tokens `[n]`, the noisy ones `[n]`, and alpha `[n]` of each.
#[derive(Debug, Clone)]
pub struct UniformRows {
    pub x0: Arc<[u32]>,
    pub xt: Arc<[u32]>,
    pub alpha: Arc<[f64]>,
}

/// Rows of a chain of transition matrices over N states: n rows, each with one of the products Qbar_{t-1} [V, N].
#[derive(Debug, Clone)]
pub struct PosteriorRows {
    pub states: usize,
    /// Row-major [V, N] each.
    pub products: Vec<Arc<[f32]>>,
    /// Which product is whose `[n]`; rows of the same one lie together.
    pub of: Arc<[usize]>,
    /// ln Q_t[., x_t] [n, N].
    pub way: Arc<[f32]>,
    /// q(x_{t-1} | x_t, x_0) [n, N].
    pub wanted: Arc<[f32]>,
}

impl PosteriorRows {
    /// Rows `range` of them.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        let flat = range.start * self.states..range.end * self.states;
        PosteriorRows {
            states: self.states,
            products: self.products.clone(),
            of: self.of[range].into(),
            way: self.way[flat.clone()].into(),
            wanted: self.wanted[flat].into(),
        }
    }
}

/// Bytes of logits that one chunk of rows may take.
const CHUNK_BYTES: usize = 64 << 20;

/// Rows of a chunk for a vocabulary of V.
pub fn chunk_rows(vocab: usize) -> usize {
    (CHUNK_BYTES / (4 * vocab)).max(16)
}

/// sum_r weight_r loss_r of feature rows x [n, D] through `head`, as a tensor `[1]` to take the gradient of.
///
/// The fused form makes logits one chunk of rows at a time, in the forward pass with their gradients; the composed form
/// is for one chunk's worth of rows ([`chunk_rows`]), which `method::backward` hands it.
///
/// # Panics
/// Where rows and weights differ in number.
pub fn loss(x: Tensor<2>, head: Head, target: Target, weights: &[f32], composed: bool) -> Tensor<1> {
    assert_eq!(x.dims()[0], weights.len(), "one weight for each row");
    #[cfg(feature = "flex")]
    if !composed && flex::takes(&x) {
        let (teacher, targets, divergence) = match target {
            Target::Tokens(ids) => (None, Some(ids), Divergence::ForwardKl),
            Target::Scores(..) | Target::Uniform(_) | Target::Posterior(_) => {
                return composed::loss(x, head, target, weights);
            }
            Target::Teacher(rows, head, kind) => (Some((rows, head)), None, kind),
        };
        let spec = flex::LossSpec {
            tied: head.tied,
            teacher_tied: teacher.as_ref().is_some_and(|(_, head)| head.tied),
            vocab: head.vocab,
            targets,
            divergence,
            weights: weights.into(),
            chunk: chunk_rows(head.vocab),
        };
        return flex::loss(x, head, teacher, spec);
    }
    let _ = composed;
    composed::loss(x, head, target, weights)
}

/// Whether a network on `device` runs fused: then [`loss`] takes any number of rows, because it never holds their logits.
pub fn fused(device: &Device, f32: bool, composed: bool) -> bool {
    #[cfg(feature = "flex")]
    return f32 && !composed && device.clone().inner() == Device::flex();
    #[cfg(not(feature = "flex"))]
    {
        let _ = (device, f32, composed);
        false
    }
}

/// One AdamW step: learning rate, betas, epsilon, decoupled decay, the bias corrections 1 - beta^t, a factor on the
/// gradient (clipping and accumulation), and the decay of the weights' moving average.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    pub bias1: f64,
    pub bias2: f64,
    pub scale: f64,
    pub average: Option<f64>,
}

/// A parameter `[N]` with its moments, and its moving average, after one step.
///
/// # Panics
/// Where there is an average and no decay, or a decay and no average.
pub fn adamw(
    state: [Tensor<1>; 3],
    average: Option<Tensor<1>>,
    gradient: Tensor<1>,
    step: AdamWStep,
) -> ([Tensor<1>; 3], Option<Tensor<1>>) {
    assert_eq!(average.is_some(), step.average.is_some(), "an average has a decay");
    #[cfg(feature = "flex")]
    if flex::takes(&state[0]) {
        return flex::adamw(state, average, gradient, step);
    }
    composed::adamw(state, average, gradient, step)
}

/// The sum of squares of all values, as a tensor `[1]` of f32.
pub fn square_sum<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    #[cfg(feature = "flex")]
    if flex::takes(&x) {
        return flex::square_sum(x);
    }
    x.cast(FloatDType::F32).square().sum()
}
