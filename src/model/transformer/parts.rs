//! The modules a transformer is made of, with zero weights: projections, norms, the halves of a block, the time embedding.
//!
//! D width, C condition width, V vocabulary.

use burn::module::{Module, Param};
use burn::prelude::*;

use super::super::config::{NormKind, TimeInput, TransformerConfig};
use crate::kernels::{BlockParameters, LowRank, LowRanks, composed};

/// A projection, weight [in, out], and the low-rank terms that are trained in its place, if any.
#[derive(Module, Debug)]
pub struct Dense {
    pub weight: Param<Tensor<2>>,
    pub bias: Option<Param<Tensor<1>>>,
    pub lora: Vec<Adapter>,
}

/// A low-rank term scale B A of a projection's columns `from ..`: a [r, in], b [columns, r].
#[derive(Module, Debug)]
pub struct Adapter {
    pub a: Param<Tensor<2>>,
    pub b: Param<Tensor<2>>,
    #[module(skip)]
    pub scale: f64,
    #[module(skip)]
    pub from: usize,
}

impl Dense {
    pub(super) fn zeros(d_in: usize, d_out: usize, bias: bool, device: &Device) -> Self {
        Dense {
            weight: Param::from_tensor(Tensor::zeros([d_in, d_out], device)),
            bias: bias.then(|| Param::from_tensor(Tensor::zeros([d_out], device))),
            lora: Vec::new(),
        }
    }

    fn low_rank(&self) -> Vec<LowRank> {
        let term = |t: &Adapter| LowRank { a: t.a.val(), b: t.b.val(), scale: t.scale, from: t.from };
        self.lora.iter().map(term).collect()
    }

    pub(super) fn values(&self) -> (Tensor<2>, Option<Tensor<1>>) {
        (self.weight.val(), self.bias.as_ref().map(|b| b.val()))
    }

    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        composed::dense(x, self.values())
    }
}

/// A norm over the width; layer norms have an offset where the network has biases.
#[derive(Module, Debug)]
pub struct Norm {
    pub weight: Param<Tensor<1>>,
    pub bias: Option<Param<Tensor<1>>>,
}

impl Norm {
    pub(super) fn new(config: &TransformerConfig, device: &Device) -> Self {
        let offset = config.norm == NormKind::Layer && config.biases().norm;
        Norm {
            weight: Param::from_tensor(Tensor::ones([config.dim], device)),
            bias: offset.then(|| Param::from_tensor(Tensor::zeros([config.dim], device))),
        }
    }

    fn scale(width: usize, device: &Device) -> Self {
        Norm { weight: Param::from_tensor(Tensor::ones([width], device)), bias: None }
    }

    pub(super) fn values(&self) -> (Tensor<1>, Option<Tensor<1>>) {
        (self.weight.val(), self.bias.as_ref().map(|b| b.val()))
    }
}

/// Query, key and value in one projection, norms of their heads where there are any, and the way back.
#[derive(Module, Debug)]
pub struct Attention {
    pub qkv: Dense,
    pub q_norm: Option<Norm>,
    pub k_norm: Option<Norm>,
    pub out: Dense,
}

/// The feed-forward half, with a gate or without.
#[derive(Module, Debug)]
pub struct Mlp {
    pub up: Dense,
    pub gate: Option<Dense>,
    pub down: Dense,
}

/// One block; `modulation` [C, 6 D] is there when the network is told the time, and `norm1` is absent behind a norm of
/// the embedding.
#[derive(Module, Debug)]
pub struct Block {
    pub norm1: Option<Norm>,
    pub attention: Attention,
    pub norm2: Norm,
    pub mlp: Mlp,
    pub modulation: Option<Dense>,
}

impl Block {
    /// Block number `i` with zero weights.
    pub(super) fn zeros(config: &TransformerConfig, i: usize, device: &Device) -> Self {
        let (d, f, has) = (config.dim, config.hidden(), config.biases());
        let head_norm = || config.qk_norm.then(|| Norm::scale(config.head_dim(), device));
        Block {
            norm1: (i > 0 || !config.embedding_norm).then(|| Norm::new(config, device)),
            attention: Attention {
                qkv: Dense::zeros(d, config.packed(), has.qkv, device),
                q_norm: head_norm(),
                k_norm: head_norm(),
                out: Dense::zeros(config.heads * config.head_dim(), d, has.out, device),
            },
            norm2: Norm::new(config, device),
            mlp: Mlp {
                up: Dense::zeros(d, f, has.mlp, device),
                gate: config.activation.gated().then(|| Dense::zeros(d, f, has.mlp, device)),
                down: Dense::zeros(f, d, has.mlp, device),
            },
            modulation: (config.time != TimeInput::None).then(|| Dense::zeros(config.cond_dim(), 6 * d, true, device)),
        }
    }

    pub(super) fn low_rank(&self) -> LowRanks {
        LowRanks {
            qkv: self.attention.qkv.low_rank(),
            out: self.attention.out.low_rank(),
            up: self.mlp.up.low_rank(),
            gate: self.mlp.gate.as_ref().map(Dense::low_rank).unwrap_or_default(),
            down: self.mlp.down.low_rank(),
        }
    }

    pub(super) fn parameters(&self) -> BlockParameters {
        // A scale stands in for the absent norm, and `Extra::no_norm1` says that it is none.
        let norm1 = self.norm1.as_ref().unwrap_or(&self.norm2).values();
        BlockParameters {
            norm1,
            qkv: self.attention.qkv.values(),
            out: self.attention.out.values(),
            norm2: self.norm2.values(),
            up: self.mlp.up.values(),
            gate: self.mlp.gate.as_ref().map(Dense::values),
            down: self.mlp.down.values(),
        }
    }
}

/// Two projections that turn the sinusoids of a time into a condition vector `[C]`.
#[derive(Module, Debug)]
pub struct TimeEmbedding {
    pub first: Dense,
    pub second: Dense,
}

impl TimeEmbedding {
    pub(super) fn zeros(config: &TransformerConfig, device: &Device) -> Self {
        let c = config.cond_dim();
        TimeEmbedding {
            first: Dense::zeros(config.wave_dim(), c, true, device),
            second: Dense::zeros(c, c, true, device),
        }
    }
}

/// What stands between the last norm and the head in BERT's masked language models.
#[derive(Module, Debug)]
pub struct HeadTransform {
    pub dense: Dense,
    pub norm: Norm,
}

impl HeadTransform {
    pub(super) fn zeros(config: &TransformerConfig, device: &Device) -> Self {
        let d = config.dim;
        HeadTransform { dense: Dense::zeros(d, d, false, device), norm: Norm::new(config, device) }
    }
}
