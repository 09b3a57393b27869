//! The one transformer: pre-norm, rotary attention, configured rather than copied.
//!
//! Time conditioning is adaptive layer norm with zero-initialised gates (Peebles and Xie 2023, DiT), per sequence or per
//! position. B batch, L length, D width, H heads, d head width, V vocabulary; embedding row V is the mask or start token.

mod denoise;
pub mod ends;
pub mod lora;
mod parts;
mod read;

use std::ops::Range;
use std::sync::Arc;

use burn::module::{Module, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::IndexingUpdateOp;
use burn::tensor::activation::silu;
use rand_distr::{Distribution, Normal};

use super::config::{Activation, NormKind, TimeInput, TransformerConfig, UNIFORM_DIGITS, Visibility};
use super::vocab::Vocab;
use super::{Denoise, Noised, params, select_rows};
use crate::error::{Error, Result};
use crate::kernels::{self, BlockSpec, Extra, Head, Rows, Tables, Visible, composed};
use crate::process::{Layout, Phases};
use crate::rng::{StepRng, Stream};
use crate::weights::{Weights, match_names};
use ends::{Bottleneck, Vectors};
use read::{Ids, Read};

pub use parts::{Adapter, Attention, Block, Dense, HeadTransform, Mlp, Norm, TimeEmbedding};

/// What sigma leaves of the last token: alpha = 1 - (1 - eps) t (MDLM's log-linear noise).
const SIGMA_EPS: f64 = 1e-3;

/// The total noise at time t: sigma = -ln(1 - (1 - eps) t).
pub fn sigma(t: f64) -> f64 {
    -(-(1.0 - SIGMA_EPS) * t).ln_1p()
}

/// The time at which the total noise is sigma.
pub fn time_of_sigma(sigma: f64) -> f64 {
    -(-sigma).exp_m1() / (1.0 - SIGMA_EPS)
}

/// The network; see the file's head.
#[derive(Module, Debug)]
pub struct Transformer {
    pub embed: Param<Tensor<2>>,
    pub embed_norm: Option<Norm>,
    pub positions: Option<Param<Tensor<2>>>,
    pub uniforms: Option<Dense>,
    pub time: Option<TimeEmbedding>,
    pub blocks: Vec<Block>,
    pub norm: Norm,
    pub modulation: Option<Dense>,
    pub transform: Option<HeadTransform>,
    pub head: Option<Dense>,
    pub head_bias: Option<Param<Tensor<1>>>,
    pub vectors: Option<Vectors>,
    pub bottleneck: Option<Bottleneck>,
    cos: Tensor<2>,
    sin: Tensor<2>,
    local_cos: Tensor<2>,
    local_sin: Tensor<2>,
    #[module(skip)]
    tables: Arc<Tables>,
    #[module(skip)]
    config: TransformerConfig,
    #[module(skip)]
    ids: Vocab,
    length: usize,
}

impl Transformer {
    /// A network with zero weights for `vocab` tokens and up to `length` positions; see [`Transformer::init`].
    pub fn zeros(config: &TransformerConfig, vocab: usize, length: usize, device: &Device) -> Self {
        let d = config.dim;
        let timed = config.time != TimeInput::None;
        let plain = device.clone().inner();
        let span = config.span(length);
        let tables = |local: bool| Tables::of(span, &config.frequencies(local));
        let table = |v: &[f32]| Tensor::from_data(TensorData::new(v.to_vec(), [span, config.head_dim()]), &plain);
        let global = Arc::new(tables(false));
        let (cos, sin) = (table(&global.cos), table(&global.sin));
        let (local_cos, local_sin) = match config.local {
            Some(_) => {
                let tables = tables(true);
                (table(&tables.cos), table(&tables.sin))
            }
            None => (cos.clone(), sin.clone()),
        };
        let vector = |n: usize| Param::from_tensor(Tensor::zeros([n], device));
        let length = config.places(length);
        Transformer {
            embed: Param::from_tensor(Tensor::zeros([config.rows(vocab), d], device)),
            embed_norm: config.embedding_norm.then(|| Norm::new(config, device)),
            positions: config.learned_positions.then(|| Param::from_tensor(Tensor::zeros([length, d], device))),
            uniforms: config.uniforms.then(|| Dense::zeros(UNIFORM_DIGITS, d, false, device)),
            time: timed.then(|| TimeEmbedding::zeros(config, device)),
            blocks: (0..config.layers).map(|i| Block::zeros(config, i, device)).collect(),
            norm: Norm::new(config, device),
            modulation: timed.then(|| Dense::zeros(config.cond_dim(), 2 * d, true, device)),
            transform: config.head_transform.then(|| HeadTransform::zeros(config, device)),
            head: config.has_head().then(|| Dense::zeros(d, vocab, config.head_bias(), device)),
            head_bias: (config.vectors.is_none() && config.tied && config.head_bias()).then(|| vector(vocab)),
            vectors: config.vectors.as_ref().map(|c| Vectors::zeros(config, c, vocab, device)),
            bottleneck: config.bottleneck.as_ref().map(|c| Bottleneck::zeros(config, c, length, device)),
            cos,
            sin,
            local_cos,
            local_sin,
            tables: global,
            config: config.clone(),
            ids: Vocab::new(vocab),
            length,
        }
    }

    /// The same network with one of its V tokens as the mask, which it then never predicts; V: the mask has a row of its own, or
    /// there is none.
    pub fn with_mask(self, id: usize) -> Self {
        Transformer { ids: self.ids.with_mask(id), ..self }
    }

    /// The same network that never predicts the ids from `tokens` on: rows of padding in the embedding, without text.
    pub fn with_tokens(self, tokens: usize) -> Self {
        Transformer { ids: self.ids.with_tokens(tokens), ..self }
    }

    /// The same network that never predicts these ids either.
    pub fn without(self, ids: &[u32]) -> Self {
        Transformer { ids: self.ids.without(ids), ..self }
    }

    /// The same weights under a configuration that differs in what needs no parameters: visibility, shift, reading of time.
    ///
    /// # Panics
    /// Where `change` alters the number of parameters.
    pub fn reconfigured(self, change: impl FnOnce(&mut TransformerConfig)) -> Self {
        let mut config = self.config.clone();
        change(&mut config);
        let size = |c: &TransformerConfig| c.parameters(self.ids.size, self.length);
        assert_eq!(size(&config), size(&self.config), "the parameters fit both configurations");
        Transformer { config, ..self }
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
                "embed" | "positions" | "bottleneck.queries" | "bottleneck.places" | "bottleneck.latent_positions" => {
                    0.5
                }
                "head.weight" | "vectors.output.weight" => 0.2 / fan_in.sqrt(),
                "vectors.codebook" => 1.0,
                "vectors.rounding" | "uniforms.weight" => 0.0,
                "bottleneck.down.weight" => 1.0 / fan_in.sqrt(),
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
    fn raw_head(&self) -> Head {
        let vocab = self.ids.size;
        match &self.head {
            Some(head) => {
                let (weight, bias) = head.values();
                Head { weight, bias, tied: false, vocab }
            }
            None => {
                let bias = self.head_bias.as_ref().map(|b| b.val());
                Head { weight: self.embed.val(), bias, tied: true, vocab }
            }
        }
    }

    /// The projection from features to predictions: the mask, where it is one of the V tokens, and ids without text are
    /// never predicted (-1e6 is added to their logits, as SUBS has it: MDLM section 3.2.3). The start token of a causal
    /// network may be one that texts also end with, and is predicted. A public causal model's probabilities are over all of
    /// its ids, as it was trained: those without text are only never drawn (`Transformer::drawn`).
    pub fn head(&self) -> Head {
        let head = self.raw_head();
        let Some(never) = (!self.over_all_ids()).then(|| self.never(!self.causal())).flatten() else { return head };
        let bias = match head.bias {
            Some(bias) => bias + never,
            None => never,
        };
        Head { bias: Some(bias), ..head }
    }

    /// Whether its probabilities are over ids without text too.
    fn over_all_ids(&self) -> bool {
        self.causal() && !self.config.mask_row
    }

    /// What is added to logits so that ids without text, and the mask where `masked`, are never predicted; none: nothing.
    fn never(&self, masked: bool) -> Option<Tensor<1>> {
        let values = self.ids.never(masked)?;
        Some(Tensor::from_data(TensorData::new(values, [self.ids.size]), &self.device().inner()))
    }

    /// The ids below V that have no text: rows of padding, and those that were excluded.
    pub fn without_text(&self) -> Vec<u32> {
        self.ids.without_text()
    }

    /// Scores [n, V] of which ids without text are never drawn.
    fn drawn(&self, scores: Tensor<2>) -> Tensor<2> {
        match self.over_all_ids().then(|| self.never(false)).flatten() {
            Some(never) => {
                let dtype = scores.dtype();
                scores + never.cast(dtype).unsqueeze()
            }
            None => scores,
        }
    }

    /// Logits [n, V] of feature rows [n, D] as the head gives them, the mask's among them.
    pub fn logits(&self, rows: Tensor<2>) -> Tensor<2> {
        composed::logits(rows, &self.raw_head())
    }

    /// Whether its vocabulary has a mask: a row of its own, or one of the V tokens.
    pub fn masks(&self) -> bool {
        self.config.mask_row || self.ids.mask < self.ids.size
    }

    /// The longest sequence it can read.
    pub fn length(&self) -> usize {
        self.length
    }

    fn causal(&self) -> bool {
        self.config.visibility == Visibility::Causal
    }

    /// Embedded tokens [B, L, D].
    fn embed(&self, ids: &Ids, batch: usize) -> Tensor<3> {
        let rows = match ids {
            Ids::Host(ids) => kernels::embedding(self.embed.val(), ids, self.config.composed),
            Ids::Device(ids) => self.embed.val().select(0, ids.clone().flatten(0, 1)),
            Ids::Embedded(x) => return x.clone(),
        };
        let l = rows.dims()[0] / batch;
        let x = rows.reshape([batch, l, self.config.dim]);
        match &self.embed_norm {
            Some(norm) => {
                let (gamma, beta) = norm.values();
                kernels::norm(x, gamma, beta, self.norm_kind(), self.config.composed)
            }
            None => x,
        }
    }

    /// Condition vectors [B, L or 1, C] of an input's times, of its `active` positions, or none for a network without time.
    ///
    /// Beside noise, finished text has time 0 where each position has its own.
    fn condition(&self, input: &Noised, active: Range<usize>, two_streams: bool) -> Option<Tensor<3>> {
        let time = self.time.as_ref()?;
        let [b, length] = input.dims();
        let latest = |row: &[f64]| row.iter().copied().fold(f64::MIN, f64::max);
        let phases = self.phases(input);
        // The active ones of a row [L], which are ranks where there are phases.
        let active_of = |row: &[f64]| match &phases {
            Some(phases) => phases.arranged(row)[active.clone()].to_vec(),
            None => row[active.clone()].to_vec(),
        };
        let (values, l, scale): (Vec<f64>, usize, f64) = match self.config.time {
            TimeInput::Position => {
                let text = if two_streams { active.len() } else { 0 };
                let own = |row: &[f64]| [active_of(row), vec![0.0; text]].concat();
                (input.t.chunks(length).flat_map(own).collect(), active.len() + text, 1000.0)
            }
            TimeInput::Sigma => (input.t.chunks(length).map(|row| sigma(latest(row))).collect(), 1, 1.0),
            TimeInput::ZeroSigma => (vec![0.0; b], 1, 1.0),
            TimeInput::None | TimeInput::Sequence => (input.t.chunks(length).map(latest).collect(), 1, 1000.0),
        };
        // Vectors are told the time more smoothly.
        let scale = self.config.vectors.as_ref().map_or(scale, |v| v.time_scale);
        let device = self.device().inner();
        let half = self.config.wave_dim() / 2;
        let freq: Vec<f32> =
            (0..half).map(|i| (scale * (-(10_000f64.ln()) * i as f64 / half as f64).exp()) as f32).collect();
        let freq = Tensor::<1>::from_data(TensorData::new(freq, [half]), &device);
        let embedded = |values: &[f64], time: &TimeEmbedding| {
            let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
            let t = Tensor::<3>::from_data(TensorData::new(values, [b, l, 1]), &device);
            let angle = t * freq.clone().unsqueeze();
            let waves = Tensor::cat(vec![angle.clone().cos(), angle.sin()], 2);
            time.second.forward(silu(time.first.forward(waves)))
        };
        let own = embedded(&values, time);
        let Some(second) = self.vectors.as_ref().and_then(|v| v.second.as_ref()) else { return Some(silu(own)) };
        // How far it is to go: nowhere, where nobody says; and finished vectors beside noise nowhere either.
        let left: Vec<f64> = match &input.s {
            Some(s) => input.t.iter().zip(s).map(|(t, s)| t - s).collect(),
            None => vec![0.0; input.t.len()],
        };
        let left: Vec<f64> = match l {
            1 => left.chunks(length).map(latest).collect(),
            _ => {
                let own = |row: &[f64]| [active_of(row), vec![0.0; l - active.len()]].concat();
                left.chunks(length).flat_map(own).collect()
            }
        };
        Some(silu(own + embedded(&left, second)))
    }

    fn norm_kind(&self) -> kernels::NormKind {
        kernels::NormKind { centred: self.config.norm == NormKind::Layer, eps: self.config.norm_eps as f32 }
    }

    /// Who sees whom in one stream.
    fn visible(&self, layout: Option<Layout>, phases: &Option<Arc<Phases>>) -> Visible {
        match (self.config.visibility, layout) {
            _ if let Some(phases) = phases => Visible::Phases(phases.clone()),
            (_, Some(layout)) => Visible::Blocks(layout),
            (Visibility::Causal, None) => Visible::Causal,
            (_, None) => Visible::Full,
        }
    }

    /// What block `i` is told, the wanted rows among it.
    fn spec(&self, i: usize, read: Option<&Read>, visible: Visible, rows: Option<Arc<Rows>>) -> BlockSpec {
        let config = &self.config;
        let local = config.local.as_ref().filter(|l| l.is_local(i));
        let attention = &self.blocks[i].attention;
        let scale = |norm: &Option<Norm>| norm.as_ref().map(|n| n.weight.val());
        BlockSpec {
            heads: config.heads,
            kv_heads: config.kv_heads(),
            visible,
            keys: read.and_then(|r| r.keys.clone()),
            norm: self.norm_kind(),
            tables: self.tables.clone(),
            rope: match local {
                Some(_) => (self.local_cos.clone(), self.local_sin.clone()),
                None => (self.cos.clone(), self.sin.clone()),
            },
            rows,
            checkpoint: config.checkpoint,
            // The fused kernels would read the tables of the global blocks.
            composed: config.composed || local.is_some(),
            activation: match config.activation {
                Activation::Gelu => kernels::Activation::GeluTanh,
                Activation::Swiglu => kernels::Activation::Silu,
                Activation::GeluErf | Activation::GegluErf => kernels::Activation::GeluErf,
            },
            extra: Extra {
                no_norm1: self.blocks[i].norm1.is_none(),
                qk_norm: scale(&attention.q_norm).zip(scale(&attention.k_norm)),
                window: local.map(|l| l.window),
                positions: read.filter(|r| !r.two_streams && r.phases.is_none()).and_then(|r| r.positions.clone()),
                low_rank: self.blocks[i].low_rank(),
            },
        }
    }

    /// x [B, l, D] with the learned vectors of positions `at ..` or of the batch's own, in the type that blocks compute in.
    fn placed(&self, x: Tensor<3>, at: usize, own: Option<&[u32]>) -> Tensor<3> {
        let [b, l, d] = x.dims();
        let x = match (&self.positions, own) {
            (Some(positions), Some(own)) => {
                x + kernels::embedding(positions.val(), own, self.config.composed).reshape([b, l, d])
            }
            (Some(positions), None) => x + positions.val().narrow(0, at, l).unsqueeze(),
            (None, _) => x,
        };
        // Embeddings may be kept in another type than the blocks compute in.
        let dtype = self.config.compute.dtype();
        if x.dtype() == DType::from(dtype) || x.dtype() == DType::F64 { x } else { x.cast(dtype) }
    }

    /// x [B, l, D] of the `active` positions (ranks, where there are phases) with what their uniforms add: to noise alone.
    fn told(&self, x: Tensor<3>, input: &Noised, active: Range<usize>, two_streams: bool) -> Tensor<3> {
        let (Some(told), Some(uniforms)) = (&self.uniforms, &input.uniforms) else { return x };
        let [b, length] = input.dims();
        let phases = self.phases(input);
        let by_rank = |row: &[f64]| phases.as_ref().map_or_else(|| row.to_vec(), |p| p.arranged(row));
        let digits = |u: &f64, t: &f64| -> Vec<f32> {
            let digit = |j: usize| if (u * 2f64.powi(j as i32 + 1)).floor() as u64 % 2 == 1 { 1.0 } else { -1.0 };
            (0..UNIFORM_DIGITS).map(|j| if *t > 0.0 { digit(j) } else { 0.0 }).collect()
        };
        let rows = uniforms.chunks(length).zip(input.t.chunks(length)).flat_map(|(u, t)| {
            let (u, t) = (by_rank(u), by_rank(t));
            active.clone().flat_map(|i| digits(&u[i], &t[i])).collect::<Vec<f32>>()
        });
        let shape = [b, active.len(), UNIFORM_DIGITS];
        let rows = Tensor::<3>::from_data(TensorData::new(rows.collect::<Vec<f32>>(), shape), &self.device().inner());
        let own = told.forward(rows.cast(x.dtype()));
        match two_streams {
            false => x + own,
            true => {
                let text = own.zeros_like();
                x + Tensor::cat(vec![own, text], 1)
            }
        }
    }

    /// The last norm with its modulation, and what stands between it and the head.
    fn finish(&self, x: Tensor<3>, condition: Option<Tensor<3>>) -> Tensor<3> {
        let norm = |x, norm: &Norm| {
            let (gamma, beta) = norm.values();
            kernels::norm(x, gamma, beta, self.norm_kind(), self.config.composed)
        };
        let x = norm(x, &self.norm);
        let x = match (&self.modulation, condition) {
            (Some(m), Some(c)) => {
                let parts = m.forward(c).chunk(2, 2);
                composed::modulate(x, parts[0].clone(), parts[1].clone())
            }
            _ => x,
        };
        match &self.transform {
            Some(t) => norm(composed::activate(t.dense.forward(x), kernels::Activation::GeluErf), &t.norm),
            None => x,
        }
    }

    /// What the first block reads of a batch, [B, l, D].
    fn embedded(&self, input: &Noised, read: &Read) -> Tensor<3> {
        let x = self.placed(self.embed(&read.ids, read.batch), 0, read.positions.as_deref());
        self.told(x, input, 0..input.length, read.two_streams)
    }

    /// The network's own features [B, l, D] of a batch, or [1, r, D] of wanted rows of it.
    fn run(&self, input: &Noised, read: &Read, rows: Option<Arc<Rows>>) -> Tensor<3> {
        let condition = self.condition(input, 0..input.length, read.two_streams);
        let mut x = self.embedded(input, read);
        if self.config.encoder_layers > 0 {
            return self.finish(self.run_deeper(x, read, rows), None);
        }
        for i in 0..self.blocks.len() {
            x = self.block(i, x, condition.clone(), read, &rows);
        }
        self.finish_rows(x, condition, &rows, read.wide)
    }

    /// [x_t ; x_0] through the layers of a network whose first ones read x_0 alone: the others see what came of it.
    fn run_deeper(&self, x: Tensor<3>, read: &Read, rows: Option<Arc<Rows>>) -> Tensor<3> {
        let (l, d) = (read.length, x.dims()[2]);
        let mut text = x.clone().narrow(1, l, l);
        let mut noise = x.narrow(1, 0, l);
        for (i, block) in self.blocks.iter().enumerate() {
            if i < self.config.encoder_layers {
                let spec = self.spec(i, Some(read), self.visible(read.layout, &None), None);
                text = kernels::block(text, block.parameters(), None, &spec);
                continue;
            }
            let last = i + 1 == self.blocks.len();
            let wanted = if last { rows.clone() } else { None }.unwrap_or_else(|| Self::noise_rows(read));
            let both = Tensor::cat(vec![noise, text.clone()], 1);
            noise = self.block_of(i, both, None, read, Some(wanted));
            if !last {
                noise = noise.reshape([read.batch, l, d]);
            }
        }
        match rows {
            Some(_) => noise,
            // All rows of both streams are asked for: those of the text have no use, and stand for nothing.
            None => {
                let noise = noise.reshape([read.batch, l, d]);
                Tensor::cat(vec![noise.clone(), noise.zeros_like()], 1)
            }
        }
    }

    /// Block `i` over x [B, L, D]; the last one gives the wanted rows alone.
    fn block(
        &self,
        i: usize,
        x: Tensor<3>,
        condition: Option<Tensor<3>>,
        read: &Read,
        rows: &Option<Arc<Rows>>,
    ) -> Tensor<3> {
        let last = i + 1 == self.blocks.len();
        self.block_of(i, x, condition, read, if last { rows.clone() } else { None })
    }

    fn block_of(
        &self,
        i: usize,
        x: Tensor<3>,
        condition: Option<Tensor<3>>,
        read: &Read,
        rows: Option<Arc<Rows>>,
    ) -> Tensor<3> {
        let block = &self.blocks[i];
        let visible = match (read.layout, &read.phases) {
            (_, Some(phases)) if read.two_streams => Visible::PhaseStreams(phases.clone()),
            (Some(layout), None) if read.two_streams => Visible::Streams(layout),
            (layout, phases) => self.visible(layout, phases),
        };
        let spec = self.spec(i, Some(read), visible, rows);
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

    /// Gradients with respect to all parameters but the head's, block by block, from those [r, D] that `head` makes of
    /// the wanted feature rows [r, D]: only the blocks' inputs are kept (Chen et al. 2016), for devices without the
    /// fused block's own `checkpoint`.
    ///
    /// # Panics
    /// Where a block's input gets no gradient, which cannot be.
    pub fn backward_by_blocks(
        &self,
        input: &Noised,
        rows: &[usize],
        head: impl FnOnce(Tensor<2>) -> Tensor<2>,
    ) -> GradientsParams {
        let read = self.read(input);
        let (wanted, at) = self.wanted(rows, &read);
        let condition = || self.condition(input, 0..input.length, read.two_streams);
        let embedded = || self.embedded(input, &read);
        let mut inputs = vec![embedded().inner()];
        for i in 0..self.blocks.len() {
            let x = self.block(i, inputs[i].clone().autodiff(), condition(), &read, &wanted);
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
        let features = self.finish_rows(leaf.clone(), condition(), &wanted, read.wide);
        let [f0, f1, d] = features.dims();
        let picked = head(select_rows(features.clone().inner(), &at));
        let index = kernels::index_tensor(&at, &picked.device());
        let flat = Tensor::<2>::zeros([f0 * f1, d], (&picked.device(), picked.dtype()));
        let grad = flat.select_assign(0, index, picked, IndexingUpdateOp::Add).reshape([f0, f1, d]);
        let mut grad = gradient(through(Some(leaf), features, grad));
        for i in (0..self.blocks.len()).rev() {
            let leaf = inputs[i].clone().autodiff().require_grad();
            grad = gradient(through(Some(leaf.clone()), self.block(i, leaf, condition(), &read, &wanted), grad));
        }
        if self.trains("embed") {
            through(None, embedded(), grad);
        }
        acc.grads()
    }
}

impl Transformer {
    /// A network with the given weights; `place` names their file in errors.
    ///
    /// # Errors
    /// Names or shapes that differ from what the configuration asks for (input).
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
