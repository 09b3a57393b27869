//! The one transformer: pre-norm, rotary attention, configured rather than copied.
//!
//! Time conditioning is adaptive layer norm with zero-initialised gates (Peebles and Xie 2023, DiT), per sequence or per
//! position. B batch, L length, D width, H heads, d head width, V vocabulary; embedding row V is the mask or start token.

use std::ops::Range;
use std::sync::Arc;

use burn::module::{Module, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::prelude::*;
use burn::tensor::FloatDType;
use burn::tensor::IndexingUpdateOp;
use burn::tensor::activation::silu;
use rand_distr::{Distribution, Normal};

use super::config::{Activation, Compute, NormKind, TIME_DIM, TimeInput, TransformerConfig, Visibility};
use super::{Cache, Denoise, Noised, State, params, select_rows};
use crate::error::{Error, Result};
use crate::kernels::{self, BlockParameters, BlockSpec, Head, Rows, Tables, Visible, composed};
use crate::rng::{StepRng, Stream};
use crate::weights::{Weights, match_names};

const NORM_EPS: f64 = 1e-5;

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

    fn values(&self) -> (Tensor<2>, Option<Tensor<1>>) {
        (self.weight.val(), self.bias.as_ref().map(|b| b.val()))
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        composed::dense(x, self.values())
    }
}

/// A norm over the width; the layer norm's offset is there when the network has biases.
#[derive(Module, Debug)]
pub struct Norm {
    pub weight: Param<Tensor<1>>,
    pub bias: Option<Param<Tensor<1>>>,
}

impl Norm {
    fn new(config: &TransformerConfig, device: &Device) -> Self {
        let rms = config.norm == NormKind::Rms;
        Norm {
            weight: Param::from_tensor(Tensor::ones([config.dim], device)),
            bias: (config.bias && !rms).then(|| Param::from_tensor(Tensor::zeros([config.dim], device))),
        }
    }

    fn values(&self) -> (Tensor<1>, Option<Tensor<1>>) {
        (self.weight.val(), self.bias.as_ref().map(|b| b.val()))
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

impl Block {
    fn parameters(&self) -> BlockParameters {
        BlockParameters {
            norm1: self.norm1.values(),
            qkv: self.attention.qkv.values(),
            out: self.attention.out.values(),
            norm2: self.norm2.values(),
            up: self.mlp.up.values(),
            gate: self.mlp.gate.as_ref().map(Dense::values),
            down: self.mlp.down.values(),
        }
    }
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
    tables: Arc<Tables>,
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
            attention: Attention {
                qkv: Dense::zeros(d, config.packed(), bias, device),
                out: Dense::zeros(d, d, bias, device),
            },
            norm2: Norm::new(config, device),
            mlp: Mlp {
                up: Dense::zeros(d, config.hidden(), bias, device),
                gate: (config.activation == Activation::Swiglu).then(|| Dense::zeros(d, config.hidden(), bias, device)),
                down: Dense::zeros(config.hidden(), d, bias, device),
            },
            modulation: timed.then(|| Dense::zeros(d, 6 * d, true, device)),
        };
        let plain = device.clone().inner();
        let tables = Arc::new(Tables::new(length, config.head_dim(), config.rope_theta));
        let table = |v: &[f32]| Tensor::from_data(TensorData::new(v.to_vec(), [length, config.head_dim()]), &plain);
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
            cos: table(&tables.cos),
            sin: table(&tables.sin),
            tables,
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

    /// The projection from features to logits.
    pub fn head(&self) -> Head {
        let vocab = self.vocab;
        match &self.head {
            Some(head) => {
                let (weight, bias) = head.values();
                Head { weight, bias, tied: false, vocab }
            }
            None => Head { weight: self.embed.val(), bias: None, tied: true, vocab },
        }
    }

    /// Logits [n, V] of feature rows [n, D].
    pub fn logits(&self, rows: Tensor<2>) -> Tensor<2> {
        composed::logits(rows, &self.head())
    }

    /// The longest sequence it can read.
    pub fn length(&self) -> usize {
        self.length
    }

    fn causal(&self) -> bool {
        self.config.visibility == Visibility::Causal
    }

    /// Token ids as the network reads them: shifted right behind the start token for a shifted network.
    fn read(&self, ids: &[u32], length: usize) -> Vec<u32> {
        if !self.config.shift {
            return ids.to_vec();
        }
        let start = self.vocab as u32;
        ids.chunks(length).flat_map(|row| std::iter::once(start).chain(row[..length - 1].iter().copied())).collect()
    }

    /// Embedded tokens [B, l, D] of the active positions, as the network reads them.
    fn embed(&self, input: &Noised, active: Range<usize>) -> Tensor<3> {
        let [b, l] = input.dims();
        let rows = match &input.x {
            State::Ids(ids) => {
                let mut ids = ids.clone();
                if self.config.shift {
                    let start = ids.clone().narrow(1, 0, 1).zeros_like() + self.vocab as i32;
                    ids = Tensor::cat(vec![start, ids.narrow(1, 0, l - 1)], 1);
                }
                let ids = ids.narrow(1, active.start, active.len()).reshape([b * active.len()]);
                self.embed.val().select(0, ids)
            }
            _ => {
                let read = self.read(input.token_ids(), l);
                let ids: Vec<u32> = read.chunks(l).flat_map(|row| &row[active.clone()]).copied().collect();
                kernels::embedding(self.embed.val(), &ids, self.config.composed)
            }
        };
        rows.reshape([b, active.len(), self.config.dim])
    }

    /// Condition vectors [B, L or 1, D] from times [B, L], or none for a network without time.
    fn condition(&self, t: impl Fn(&Device) -> Tensor<2>) -> Option<Tensor<3>> {
        let time = self.time.as_ref()?;
        let t = t(&self.device().inner());
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

    fn norm_kind(&self) -> kernels::NormKind {
        kernels::NormKind { centred: self.config.norm == NormKind::Layer, eps: NORM_EPS as f32 }
    }

    /// What every block is told; the last one also which rows are wanted.
    fn spec(&self, rows: Option<Arc<Rows>>) -> BlockSpec {
        BlockSpec {
            heads: self.config.heads,
            kv_heads: self.config.kv_heads(),
            visible: if self.causal() { Visible::Causal } else { Visible::Full },
            keys: None,
            norm: self.norm_kind(),
            tables: self.tables.clone(),
            rope: (self.cos.clone(), self.sin.clone()),
            rows,
            checkpoint: self.config.checkpoint,
            composed: self.config.composed,
        }
    }

    /// x [B, l, D] with the learned vectors of positions `at ..`, in the type that blocks compute in.
    fn placed(&self, x: Tensor<3>, at: usize) -> Tensor<3> {
        let l = x.dims()[1];
        let x = match &self.positions {
            Some(positions) => x + positions.val().narrow(0, at, l).unsqueeze(),
            None => x,
        };
        match self.config.compute {
            Compute::F32 => x,
            Compute::Bf16 => x.cast(FloatDType::BF16),
        }
    }

    /// The last norm with its modulation.
    fn finish(&self, x: Tensor<3>, condition: Option<Tensor<3>>) -> Tensor<3> {
        let (gamma, beta) = self.norm.values();
        let x = kernels::norm(x, gamma, beta, self.norm_kind(), self.config.composed);
        match (&self.modulation, condition) {
            (Some(m), Some(c)) => {
                let parts = m.forward(c).chunk(2, 2);
                composed::modulate(x, parts[0].clone(), parts[1].clone())
            }
            _ => x,
        }
    }

    /// Features [B, L, D], or [1, r, D] of wanted rows.
    fn run(&self, input: &Noised, rows: Option<Arc<Rows>>) -> Tensor<3> {
        let l = input.length;
        let condition = self.condition(|device| input.times(device));
        let mut x = self.placed(self.embed(input, 0..l), 0);
        for i in 0..self.blocks.len() {
            x = self.block(i, x, condition.clone(), &rows);
        }
        self.finish_rows(x, condition, &rows, l)
    }

    /// Block `i` over x [B, L, D]; the last one gives the wanted rows alone.
    fn block(&self, i: usize, x: Tensor<3>, condition: Option<Tensor<3>>, rows: &Option<Arc<Rows>>) -> Tensor<3> {
        let (block, last) = (&self.blocks[i], i + 1 == self.blocks.len());
        let spec = self.spec(if last { rows.clone() } else { None });
        let modulation = block.modulation.as_ref().zip(condition).map(|(m, c)| m.forward(c));
        kernels::block(x, block.parameters(), modulation, &spec)
    }

    fn finish_rows(
        &self,
        x: Tensor<3>,
        condition: Option<Tensor<3>>,
        rows: &Option<Arc<Rows>>,
        length: usize,
    ) -> Tensor<3> {
        let at = |rows: &Rows| rows.flat(length).collect::<Vec<_>>();
        let condition = match rows {
            Some(rows) => condition.map(|c| composed::select_condition(c, &at(rows), length)),
            None => condition,
        };
        self.finish(x, condition)
    }

    /// Wanted rows in rising order, or none where that is all of them or nothing.
    fn wanted(rows: &[usize], [b, l]: [usize; 2]) -> Option<Arc<Rows>> {
        let rises = rows.windows(2).all(|p| p[0] < p[1]);
        (rises && !rows.is_empty() && rows.len() < b * l).then(|| Arc::new(Rows::of(rows, b, l)))
    }

    /// Gradients with respect to all parameters but the head's, block by block, from those [r, D] that `head` makes of
    /// the wanted feature rows [r, D]: only the blocks' inputs are kept (Chen et al. 2016), for devices without the
    /// fused block's own `checkpoint`.
    pub fn backward_by_blocks(
        &self,
        input: &Noised,
        rows: &[usize],
        head: impl FnOnce(Tensor<2>) -> Tensor<2>,
    ) -> GradientsParams {
        let [b, l] = input.dims();
        let wanted = Self::wanted(rows, [b, l]);
        let condition = || self.condition(|device| input.times(device));
        let embedded = || self.placed(self.embed(input, 0..l), 0);
        let mut inputs = vec![embedded().inner()];
        for i in 0..self.blocks.len() {
            let x = self.block(i, inputs[i].clone().autodiff(), condition(), &wanted);
            inputs.push(x.inner());
        }
        let mut acc = GradientsAccumulator::<Transformer>::new();
        let mut through = |leaf: Option<Tensor<3>>, y: Tensor<3>, grad: Tensor<3>| {
            let mut grads = (y * grad.autodiff()).sum().backward();
            let next = leaf.and_then(|leaf| leaf.grad_remove(&mut grads));
            acc.accumulate(self, GradientsParams::from_grads(grads, self));
            next
        };
        let gradient = |grad: Option<Tensor<3>>| match grad {
            Some(grad) => grad,
            None => panic!("a block's input has a gradient"),
        };
        let leaf = inputs[self.blocks.len()].clone().autodiff().require_grad();
        let features = self.finish_rows(leaf.clone(), condition(), &wanted, l);
        let [f0, f1, d] = features.dims();
        // Without wanted rows the features are all positions', and the head chooses.
        let grad = match &wanted {
            Some(_) => head(features.clone().inner().squeeze_dim(0)).reshape([f0, f1, d]),
            None => {
                let flat = features.clone().inner().reshape([f0 * f1, d]);
                let picked = head(select_rows(flat.clone().reshape([f0, f1, d]), rows));
                let index = kernels::index_tensor(rows, &flat.device());
                flat.zeros_like().select_assign(0, index, picked, IndexingUpdateOp::Add).reshape([f0, f1, d])
            }
        };
        let mut grad = gradient(through(Some(leaf), features, grad));
        for i in (0..self.blocks.len()).rev() {
            let leaf = inputs[i].clone().autodiff().require_grad();
            grad = gradient(through(Some(leaf.clone()), self.block(i, leaf, condition(), &wanted), grad));
        }
        through(None, embedded(), grad);
        acc.grads()
    }
}

impl Denoise for Transformer {
    fn features(&self, input: &Noised) -> Tensor<3> {
        self.run(input, None)
    }

    fn features_at(&self, input: &Noised, rows: &[usize]) -> Tensor<2> {
        match Self::wanted(rows, input.dims()) {
            Some(wanted) => self.run(input, Some(wanted)).squeeze_dim(0),
            None => select_rows(self.features(input), rows),
        }
    }

    fn features_cached(&self, input: &Noised, active: Range<usize>, cache: &mut Cache) -> Tensor<3> {
        assert!(self.causal(), "only a causal network can keep what it has read");
        assert_eq!(cache.filled, active.start, "the cache ends where the active positions start");
        let [b, _] = input.dims();
        let t = |device: &Device| match self.config.time {
            TimeInput::Position => input.times(device).narrow(1, active.start, active.len()),
            _ => input.times(device),
        };
        let condition = self.condition(t);
        let mut x = self.placed(self.embed(input, active.clone()), active.start);
        let spec = self.spec(None);
        let mut slabs = std::mem::take(&mut cache.slabs).into_iter();
        for block in &self.blocks {
            let slab = slabs.next().unwrap_or_else(|| {
                let shape = [b, self.config.kv_heads(), self.length, self.config.head_dim()];
                let empty = || Tensor::zeros(shape, (&self.device().inner(), x.dtype()));
                (empty(), empty())
            });
            let modulation = block.modulation.as_ref().zip(condition.clone()).map(|(m, c)| m.forward(c));
            let slab_grown;
            (x, slab_grown) = kernels::block_cached(x, block.parameters(), modulation, slab, &spec, active.start);
            cache.slabs.push(slab_grown);
        }
        cache.filled = active.end;
        self.finish(x, condition)
    }

    fn scores(&self, rows: Tensor<2>) -> Tensor<2> {
        self.logits(rows)
    }

    fn predict(&self, rows: Tensor<2>) -> Tensor<2> {
        kernels::log_softmax(self.logits(rows), self.config.composed)
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
