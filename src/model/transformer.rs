//! The one transformer: pre-norm, rotary attention, configured rather than copied.
//!
//! Time conditioning is adaptive layer norm with zero-initialised gates (Peebles and Xie 2023, DiT), per sequence or per
//! position. B batch, L length, D width, H heads, d head width, V vocabulary; embedding row V is the mask or start token.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::prelude::*;
use burn::tensor::activation::silu;
use rand_distr::{Distribution, Normal};

use super::config::{Activation, NormKind, TimeInput, TransformerConfig, Visibility};
use super::{Cache, Denoise, Noised, ops, params};
use crate::error::{Error, Result};
use crate::rng::{StepRng, Stream};
use crate::weights::{Weights, match_names};

const NORM_EPS: f64 = 1e-5;
/// Width of the sinusoidal time embedding.
const TIME_DIM: usize = 128;

/// A projection, weight [in, out].
#[derive(Module, Debug)]
pub struct Dense {
    pub weight: Param<Tensor<2>>,
    pub bias: Option<Param<Tensor<1>>>,
}

impl Dense {
    fn zeros(d_in: usize, d_out: usize, bias: bool, device: &Device) -> Self {
        Dense {
            weight: Param::from_tensor(Tensor::zeros([d_in, d_out], device)),
            bias: bias.then(|| Param::from_tensor(Tensor::zeros([d_out], device))),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        ops::dense(x, self.weight.val(), self.bias.as_ref().map(|b| b.val()))
    }

    fn forward_gelu(&self, x: Tensor<3>) -> Tensor<3> {
        ops::dense_gelu(x, self.weight.val(), self.bias.as_ref().map(|b| b.val()))
    }
}

/// A norm over the width; the layer norm's offset is there when the network has biases.
#[derive(Module, Debug)]
pub struct Norm {
    pub weight: Param<Tensor<1>>,
    pub bias: Option<Param<Tensor<1>>>,
    rms: bool,
}

impl Norm {
    fn new(config: &TransformerConfig, device: &Device) -> Self {
        let rms = config.norm == NormKind::Rms;
        Norm {
            weight: Param::from_tensor(Tensor::ones([config.dim], device)),
            bias: (config.bias && !rms).then(|| Param::from_tensor(Tensor::zeros([config.dim], device))),
            rms,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self.rms {
            true => ops::rms_norm(x, self.weight.val(), NORM_EPS),
            false => ops::layer_norm(x, self.weight.val(), self.bias.as_ref().map(|b| b.val()), NORM_EPS),
        }
    }
}

/// Query, key and value in one projection, and the way back.
#[derive(Module, Debug)]
pub struct Attention {
    pub qkv: Dense,
    pub out: Dense,
}

/// The feed-forward half; `gate` is there for SwiGLU.
#[derive(Module, Debug)]
pub struct Mlp {
    pub up: Dense,
    pub gate: Option<Dense>,
    pub down: Dense,
}

/// One block; `modulation` [D, 6 D] is there when the network is told the time.
#[derive(Module, Debug)]
pub struct Block {
    pub norm1: Norm,
    pub attention: Attention,
    pub norm2: Norm,
    pub mlp: Mlp,
    pub modulation: Option<Dense>,
}

/// Two projections that turn the sinusoids of a time into a condition vector.
#[derive(Module, Debug)]
pub struct TimeEmbedding {
    pub first: Dense,
    pub second: Dense,
}

/// The network; see the file's head.
#[derive(Module, Debug)]
pub struct Transformer {
    pub embed: Param<Tensor<2>>,
    pub positions: Option<Param<Tensor<2>>>,
    pub time: Option<TimeEmbedding>,
    pub blocks: Vec<Block>,
    pub norm: Norm,
    pub modulation: Option<Dense>,
    pub head: Option<Dense>,
    cos: Tensor<2>,
    sin: Tensor<2>,
    #[module(skip)]
    config: TransformerConfig,
    vocab: usize,
    length: usize,
}

impl Transformer {
    /// A network with zero weights for `vocab` tokens and up to `length` positions; see [`Transformer::init`].
    pub fn zeros(config: &TransformerConfig, vocab: usize, length: usize, device: &Device) -> Self {
        let (d, bias) = (config.dim, config.bias);
        let timed = config.time != TimeInput::None;
        let block = || Block {
            norm1: Norm::new(config, device),
            attention: Attention { qkv: Dense::zeros(d, 3 * d, bias, device), out: Dense::zeros(d, d, bias, device) },
            norm2: Norm::new(config, device),
            mlp: Mlp {
                up: Dense::zeros(d, config.hidden(), bias, device),
                gate: (config.activation == Activation::Swiglu).then(|| Dense::zeros(d, config.hidden(), bias, device)),
                down: Dense::zeros(config.hidden(), d, bias, device),
            },
            modulation: timed.then(|| Dense::zeros(d, 6 * d, true, device)),
        };
        let plain = device.clone().inner();
        let (cos, sin) = ops::rope_tables(length, config.head_dim(), config.rope_theta, &plain);
        Transformer {
            embed: Param::from_tensor(Tensor::zeros([vocab + 1, d], device)),
            positions: config.learned_positions.then(|| Param::from_tensor(Tensor::zeros([length, d], device))),
            time: timed.then(|| TimeEmbedding {
                first: Dense::zeros(TIME_DIM, d, true, device),
                second: Dense::zeros(d, d, true, device),
            }),
            blocks: (0..config.layers).map(|_| block()).collect(),
            norm: Norm::new(config, device),
            modulation: timed.then(|| Dense::zeros(d, 2 * d, true, device)),
            head: (!config.tied).then(|| Dense::zeros(d, vocab, bias, device)),
            cos,
            sin,
            config: config.clone(),
            vocab,
            length,
        }
    }

    /// A network with random weights that are a function of `seed` alone, the same on every device.
    pub fn init(config: &TransformerConfig, vocab: usize, length: usize, seed: u64, device: &Device) -> Self {
        let model = Self::zeros(config, vocab, length, device);
        let mut named = params::export(&model);
        let residual = 1.0 / (2.0 * config.layers as f64).sqrt();
        for (name, tensor) in named.iter_mut() {
            let zero = name.contains("modulation") || name.ends_with(".bias") || name.contains("norm");
            if zero {
                continue;
            }
            let fan_in = tensor.shape[tensor.shape.len() - 1] as f64;
            let std = match name.as_str() {
                "embed" if config.tied => 1.0 / fan_in.sqrt(),
                "embed" | "positions" => 0.5,
                "head.weight" => 0.2 / fan_in.sqrt(),
                n if n.ends_with("out.weight") || n.ends_with("down.weight") => residual / fan_in.sqrt(),
                _ => 1.0 / fan_in.sqrt(),
            };
            // One generator per tensor, keyed by its name: the same name starts the same in every shape of network.
            let mut rng = StepRng::new(seed).at(params::param_id(name).val(), Stream::Init);
            if let Ok(normal) = Normal::new(0.0, std) {
                tensor.data.iter_mut().for_each(|v| *v = normal.sample(&mut rng) as f32);
            }
        }
        params::import(model, &named, device)
    }

    /// Its configuration.
    pub fn config(&self) -> &TransformerConfig {
        &self.config
    }

    /// Logits [n, V] of feature rows [n, D].
    pub fn logits(&self, rows: Tensor<2>) -> Tensor<2> {
        let [n, d] = rows.dims();
        match &self.head {
            Some(head) => head.forward(rows.reshape([1, n, d])).reshape([n, self.vocab]),
            None => rows.matmul(self.embed.val().narrow(0, 0, self.vocab).transpose()),
        }
    }

    /// The longest sequence it can read.
    pub fn length(&self) -> usize {
        self.length
    }

    fn causal(&self) -> bool {
        self.config.visibility == Visibility::Causal
    }

    /// Token ids as the network reads them: shifted right behind the start token for a shifted network.
    fn read(&self, ids: Tensor<2, Int>) -> Tensor<2, Int> {
        if !self.config.shift {
            return ids;
        }
        let [b, l] = ids.dims();
        let start = ids.clone().narrow(1, 0, 1).zeros_like().add_scalar(self.vocab as i64);
        if l == 1 { start } else { Tensor::cat(vec![start.reshape([b, 1]), ids.narrow(1, 0, l - 1)], 1) }
    }

    fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        burn::tensor::module::embedding(self.embed.val(), ids)
    }

    /// Condition vectors [B, L or 1, D] from times [B, L], or none for a network without time.
    fn condition(&self, t: Tensor<2>) -> Option<Tensor<3>> {
        let time = self.time.as_ref()?;
        let t = match self.config.time {
            TimeInput::Sequence => t.max_dim(1),
            _ => t,
        };
        let [b, l] = t.dims();
        let half = TIME_DIM / 2;
        let freq: Vec<f32> =
            (0..half).map(|i| (1000.0 * (-(10_000f64.ln()) * i as f64 / half as f64).exp()) as f32).collect();
        let freq = Tensor::<1>::from_data(TensorData::new(freq, [half]), &t.device());
        let angle = t.reshape([b, l, 1]) * freq.unsqueeze();
        let waves = Tensor::cat(vec![angle.clone().cos(), angle.sin()], 2);
        Some(silu(time.second.forward(silu(time.first.forward(waves)))))
    }

    /// The blocks over embedded input x [B, l, D] that stands at positions `at ..`, with an optional cache.
    fn run(
        &self,
        mut x: Tensor<3>,
        condition: Option<Tensor<3>>,
        at: usize,
        mut cache: Option<&mut Cache>,
    ) -> Tensor<3> {
        let l = x.dims()[1];
        if let Some(positions) = &self.positions {
            x = x + positions.val().narrow(0, at, l).unsqueeze();
        }
        let cos = self.cos.clone().narrow(0, at, l);
        let sin = self.sin.clone().narrow(0, at, l);
        for (i, block) in self.blocks.iter().enumerate() {
            let slab = cache.as_deref_mut().map(|c| (i, c));
            x = self.block(block, x, condition.clone(), (cos.clone(), sin.clone()), slab);
        }
        if let Some(cache) = cache {
            cache.filled = at + l;
        }
        let x = self.norm.forward(x);
        match (&self.modulation, condition) {
            (Some(m), Some(c)) => {
                let parts = m.forward(c).chunk(2, 2);
                modulate(x, parts[0].clone(), parts[1].clone())
            }
            _ => x,
        }
    }

    fn block(
        &self,
        block: &Block,
        x: Tensor<3>,
        condition: Option<Tensor<3>>,
        rope: (Tensor<2>, Tensor<2>),
        slab: Option<(usize, &mut Cache)>,
    ) -> Tensor<3> {
        let parts = match (&block.modulation, condition) {
            (Some(m), Some(c)) => Some(m.forward(c).chunk(6, 2)),
            _ => None,
        };
        let mut y = block.norm1.forward(x.clone());
        if let Some(p) = &parts {
            y = modulate(y, p[0].clone(), p[1].clone());
        }
        let mut y = self.attend(&block.attention, y, rope, slab);
        if let Some(p) = &parts {
            y = y * p[2].clone();
        }
        let x = x + y;
        let mut y = block.norm2.forward(x.clone());
        if let Some(p) = &parts {
            y = modulate(y, p[3].clone(), p[4].clone());
        }
        let hidden = match &block.mlp.gate {
            Some(gate) => ops::swiglu(gate.forward(y.clone()), block.mlp.up.forward(y)),
            None => block.mlp.up.forward_gelu(y),
        };
        let mut y = block.mlp.down.forward(hidden);
        if let Some(p) = &parts {
            y = y * p[5].clone();
        }
        x + y
    }

    fn attend(
        &self,
        attention: &Attention,
        x: Tensor<3>,
        (cos, sin): (Tensor<2>, Tensor<2>),
        slab: Option<(usize, &mut Cache)>,
    ) -> Tensor<3> {
        let [b, l, d] = x.dims();
        let (h, dh) = (self.config.heads, self.config.head_dim());
        let qkv = attention.qkv.forward(x);
        let Some((i, cache)) = slab else {
            return attention.out.forward(ops::self_attention(qkv, cos, sin, h, self.causal()));
        };
        let q = ops::rotate(ops::unpack(&qkv, h, 0), cos.clone(), sin.clone());
        let k = ops::rotate(ops::unpack(&qkv, h, 1), cos, sin);
        let v = ops::unpack(&qkv, h, 2);
        let (from, to) = (cache.filled, cache.filled + l);
        if cache.slabs.len() == i {
            let empty = Tensor::zeros([b, h, self.length, dh], &k.device());
            cache.slabs.push((empty.clone(), empty));
        }
        let (ck, cv) = std::mem::replace(&mut cache.slabs[i], (k.clone(), v.clone()));
        let at = [0..b, 0..h, from..to, 0..dh];
        let (ck, cv) = (ck.slice_assign(at.clone(), k), cv.slice_assign(at, v));
        let (k, v) = (ck.clone().narrow(2, 0, to), cv.clone().narrow(2, 0, to));
        cache.slabs[i] = (ck, cv);
        let y = ops::attention(q, k, v, self.causal());
        attention.out.forward(y.swap_dims(1, 2).reshape([b, l, d]))
    }
}

/// x * (1 + scale) + shift, broadcast over the positions of a per-sequence condition.
fn modulate(x: Tensor<3>, shift: Tensor<3>, scale: Tensor<3>) -> Tensor<3> {
    x * (scale + 1.0) + shift
}

impl Denoise for Transformer {
    fn features(&self, input: &Noised) -> Tensor<3> {
        let x = self.embed(self.read(input.token_ids()));
        self.run(x, self.condition(input.t.clone()), 0, None)
    }

    fn features_cached(&self, input: &Noised, active: Range<usize>, cache: &mut Cache) -> Tensor<3> {
        assert!(self.causal(), "only a causal network can keep what it has read");
        assert_eq!(cache.filled, active.start, "the cache ends where the active positions start");
        let ids = self.read(input.token_ids()).narrow(1, active.start, active.len());
        let t = match self.config.time {
            TimeInput::Position => input.t.clone().narrow(1, active.start, active.len()),
            _ => input.t.clone(),
        };
        let condition = self.condition(t);
        self.run(self.embed(ids), condition, active.start, Some(cache))
    }

    fn predict(&self, rows: Tensor<2>) -> Tensor<2> {
        ops::log_softmax(self.logits(rows))
    }

    fn vocab(&self) -> usize {
        self.vocab
    }

    fn device(&self) -> Device {
        self.embed.val().device()
    }
}

impl Transformer {
    /// A network with the given weights; `place` names their file in errors.
    ///
    /// Errors when names or shapes differ from what the configuration asks for.
    pub fn from_weights(
        config: &TransformerConfig,
        vocab: usize,
        length: usize,
        weights: &Weights,
        place: &str,
        device: &Device,
    ) -> Result<Self> {
        let model = Self::zeros(config, vocab, length, device);
        let wanted = params::export(&model).into_iter().map(|(name, t)| (name, t.shape)).collect();
        match_names(&wanted, weights, false).map_err(|e| Error { message: format!("{place}: {}", e.message), ..e })?;
        Ok(params::import(model, &weights.tensors, device))
    }
}
