//! The shape of the one transformer: what a recipe may choose, and which choices contradict each other.

mod check;
mod ends;
mod rope;
mod tensors;

use burn::tensor::FloatDType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use ends::{BottleneckConfig, Decoder, VectorsConfig};
pub use rope::{Local, RopeScaling};

/// Width of the sinusoidal time embedding.
pub const TIME_DIM: usize = 128;
/// Width of the sinusoidal embedding of the total noise sigma (MDLM's and its family's).
pub const SIGMA_DIM: usize = 256;

/// Binary digits by which a uniform is told.
pub const UNIFORM_DIGITS: usize = 24;

/// Which positions a position may attend to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Every position.
    Full,
    /// Its own position and every one before it.
    Causal,
    /// Its own block of that many positions and every block before it.
    Blocks(usize),
    /// Its own block and every block before it, in the blocks of the order that it is trained or sampled in.
    Order,
}

/// The pre-normalisation of each half block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    Rms,
    Layer,
}

/// The nonlinearity of the feed-forward half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// GELU in its tanh form.
    Gelu,
    /// GELU in its exact form.
    GeluErf,
    /// silu(gate) * up.
    Swiglu,
    /// gelu(gate) * up, in the exact form.
    GegluErf,
}

impl Activation {
    /// Whether the feed-forward half has a gate.
    pub fn gated(self) -> bool {
        matches!(self, Activation::Swiglu | Activation::GegluErf)
    }
}

/// Which layers have biases, where it is not all or none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Biases {
    /// Offsets of the layer norms.
    pub norm: bool,
    /// The projection to queries, keys and values.
    pub qkv: bool,
    /// Attention's way back.
    pub out: bool,
    /// The feed-forward network.
    pub mlp: bool,
    /// The head, from features to logits.
    pub head: bool,
}

/// How the network is told the noise level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeInput {
    /// Not at all: for absorbing noise the masks say it (MDLM's default).
    None,
    /// One time per sequence through adaptive layer norm (DiT).
    Sequence,
    /// One time per position, the same way.
    Position,
    /// The total noise sigma = -ln(1 - (1 - 1e-3) t) of each sequence (MDLM's network; SEDD and DUO read it).
    Sigma,
    /// The same network where sigma is always 0: the modulation is live, but a constant (MDLM as published).
    ZeroSigma,
}

impl TimeInput {
    /// Whether the condition is made from sigma.
    pub fn is_sigma(self) -> bool {
        matches!(self, TimeInput::Sigma | TimeInput::ZeroSigma)
    }
}

/// The type that blocks and head compute in, or that frozen weights are kept in. Trained weights, their gradients, norms,
/// softmax and losses stay f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compute {
    #[default]
    F32,
    Bf16,
    F16,
}

impl Compute {
    /// The tensor library's name of it.
    pub fn dtype(self) -> FloatDType {
        match self {
            Compute::F32 => FloatDType::F32,
            Compute::Bf16 => FloatDType::BF16,
            Compute::F16 => FloatDType::F16,
        }
    }

    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Compute::F32 => "f32",
            Compute::Bf16 => "bf16",
            Compute::F16 => "f16",
        }
    }

    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        if self == Compute::F32 { 4 } else { 2 }
    }
}

/// The configuration of [`super::Transformer`]; vocabulary and length come from the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TransformerConfig {
    /// Width D of the residual stream.
    pub dim: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads; must divide `dim` into an even head width.
    pub heads: usize,
    /// Key and value heads, each shared by heads / kv_heads query heads; default: as many as `heads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// Width of the feed-forward half; default 4 x dim (gelu) or 8/3 x dim (swiglu).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<usize>,
    /// full | causal | { blocks = N } | order
    pub visibility: Visibility,
    /// The first so many layers read finished text alone, once a block, and only the others iterate over noise (E2D2,
    /// Arriola et al. 2025): they see, of finished blocks, what these layers made of them. Default: 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub encoder_layers: usize,
    /// rms | layer
    #[serde(default = "default_norm")]
    pub norm: NormKind,
    /// gelu | swiglu | gelu_erf | geglu_erf
    #[serde(default = "default_activation")]
    pub activation: Activation,
    /// Biases in the projections and layer norms.
    #[serde(default)]
    pub bias: bool,
    /// Which layers have biases, where `bias` is too coarse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub biases: Option<Biases>,
    /// Width of one attention head; default dim / heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// What the norms add to the variance; default: 1e-5.
    #[serde(default = "default_eps", skip_serializing_if = "is_default_eps")]
    pub norm_eps: f64,
    /// Root-mean-square norms of every query and key head (Qwen3).
    #[serde(default, skip_serializing_if = "is_default")]
    pub qk_norm: bool,
    /// A norm behind the embedding instead of the first block's first one (ModernBERT).
    #[serde(default, skip_serializing_if = "is_default")]
    pub embedding_norm: bool,
    /// A projection, an activation and a norm between the last norm and the head (BERT's masked-language-model head).
    #[serde(default, skip_serializing_if = "is_default")]
    pub head_transform: bool,
    /// Width of the condition vectors that carry the time; default dim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cond_dim: Option<usize>,
    /// The head is the transposed embedding.
    #[serde(default)]
    pub tied: bool,
    /// none | sequence | position | sigma | zero_sigma
    #[serde(default = "default_time")]
    pub time: TimeInput,
    /// The network reads position l - 1 to predict position l (autoregressive heads); a start token stands first.
    #[serde(default)]
    pub shift: bool,
    /// Row l of the output is the network's row l - 1: heads trained to predict the next token (row 0 keeps its own).
    #[serde(default, skip_serializing_if = "is_default")]
    pub shift_output: bool,
    /// The embedding has a row of its own, V, for the mask or start token; without it the mask is one of the V tokens.
    #[serde(default = "default_true", skip_serializing_if = "is_true")]
    #[schemars(extend("default" = true))]
    pub mask_row: bool,
    /// Add a learned vector to each position. Rotary attention alone sees distances only: where everything is masked it
    /// cannot tell the positions of a full-visibility network apart. Use it where sequences begin at a fixed place.
    #[serde(default)]
    pub learned_positions: bool,
    /// Masked positions are also told the uniforms that will pick their tokens, so that those of one step know of each other
    /// (Parallel Token Prediction).
    #[serde(default, skip_serializing_if = "is_default")]
    pub uniforms: bool,
    /// Base of the rotary position angles.
    #[serde(default = "default_theta")]
    pub rope_theta: f64,
    /// Stretched angles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// Rotary positions; without them `learned_positions` is all there is (GPT-2).
    #[serde(default = "default_true", skip_serializing_if = "is_true")]
    #[schemars(extend("default" = true))]
    pub rotary: bool,
    /// Blocks that see only near positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<Local>,
    /// What blocks and head compute in (bf16 is for GPUs; a CPU is slower with it); default: f32.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compute: Compute,
    /// Activation checkpointing: each block keeps its input only and is computed again on the way back.
    #[serde(default, skip_serializing_if = "is_default")]
    pub checkpoint: bool,
    /// Compose every operation from the framework's primitives, even where a fused one exists (slower; to check those).
    #[serde(default, skip_serializing_if = "is_default")]
    pub composed: bool,
    /// Vectors in place of tokens come in and go out: `{ count = M, width = d }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vectors: Option<VectorsConfig>,
    /// An autoencoder: `{ latents = M, width = d, decoder_layers = n }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bottleneck: Option<BottleneckConfig>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn default_true() -> bool {
    true
}
fn is_true(value: &bool) -> bool {
    *value
}
fn default_eps() -> f64 {
    1e-5
}
fn is_default_eps(value: &f64) -> bool {
    *value == default_eps()
}
fn default_norm() -> NormKind {
    NormKind::Layer
}
fn default_activation() -> Activation {
    Activation::Gelu
}
fn default_time() -> TimeInput {
    TimeInput::None
}
fn default_theta() -> f64 {
    10_000.0
}

impl TransformerConfig {
    /// A network of that shape with the default of every other key.
    pub fn new(dim: usize, layers: usize, heads: usize, visibility: Visibility) -> Self {
        TransformerConfig {
            dim,
            layers,
            heads,
            kv_heads: None,
            hidden: None,
            visibility,
            encoder_layers: 0,
            norm: default_norm(),
            activation: default_activation(),
            bias: false,
            biases: None,
            head_dim: None,
            norm_eps: default_eps(),
            qk_norm: false,
            embedding_norm: false,
            head_transform: false,
            cond_dim: None,
            tied: false,
            time: default_time(),
            shift: false,
            shift_output: false,
            mask_row: true,
            learned_positions: false,
            uniforms: false,
            rope_theta: default_theta(),
            rope_scaling: None,
            rotary: true,
            local: None,
            compute: Compute::F32,
            checkpoint: false,
            composed: false,
            vectors: None,
            bottleneck: None,
        }
    }

    /// Whether a network over blocks sees in finished ones what it would see without a cache: no time of the noise.
    pub fn keeps_blocks(&self) -> bool {
        let blocks = matches!(self.visibility, Visibility::Blocks(_) | Visibility::Order);
        blocks && matches!(self.time, TimeInput::None | TimeInput::ZeroSigma | TimeInput::Position)
    }

    /// A network that writes from left to right: position l sees the tokens before it.
    pub fn causal(dim: usize, layers: usize, heads: usize) -> Self {
        TransformerConfig { shift: true, ..TransformerConfig::new(dim, layers, heads, Visibility::Causal) }
    }

    /// Whether it reads positions sorted by phase: it sees what its order says, describes the token that it reads, and no block of it
    /// looks at near places alone.
    pub fn reads_phases(&self) -> bool {
        let plain = self.encoder_layers == 0 && !self.shift && !self.shift_output && self.local.is_none();
        self.visibility == Visibility::Order && plain
    }

    /// Width of the feed-forward half.
    pub fn hidden(&self) -> usize {
        self.hidden.unwrap_or(match self.activation.gated() {
            // No configuration that was not checked yet may overflow here.
            false => self.dim.saturating_mul(4),
            true => (self.dim.saturating_mul(8) / 3).checked_next_multiple_of(16).unwrap_or(usize::MAX),
        })
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.dim / self.heads)
    }

    /// Which layers have biases.
    pub fn biases(&self) -> Biases {
        let all = self.bias;
        self.biases.unwrap_or(Biases { norm: all, qkv: all, out: all, mlp: all, head: all })
    }

    /// Whether there is a projection to logits of its own: not where it is the embedding, or vectors go out.
    pub fn has_head(&self) -> bool {
        !self.tied && self.vectors.is_none()
    }

    /// Whether the head has a bias; under `tied` only where `biases` says so.
    pub fn head_bias(&self) -> bool {
        if self.tied { self.biases.is_some_and(|b| b.head) } else { self.biases().head }
    }

    /// Whether the fused kernels know all of its blocks.
    pub fn fused_blocks(&self) -> bool {
        let usual = matches!(self.activation, Activation::Gelu | Activation::Swiglu);
        usual && !self.composed && !self.qk_norm && !self.embedding_norm && self.local.is_none()
    }

    /// Width of the condition vectors.
    pub fn cond_dim(&self) -> usize {
        self.cond_dim.unwrap_or(self.dim)
    }

    /// Width of the sinusoids that the condition is made of.
    pub fn wave_dim(&self) -> usize {
        if self.time.is_sigma() { SIGMA_DIM } else { TIME_DIM }
    }

    /// Rows of the embedding for a vocabulary of `vocab` tokens.
    pub fn rows(&self, vocab: usize) -> usize {
        match &self.vectors {
            // Nothing is read as tokens there.
            Some(v) if v.condition == 0 => 1,
            _ => vocab + usize::from(self.mask_row),
        }
    }

    /// Key and value heads.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }

    /// Width of the packed projection of queries, keys and values.
    pub fn packed(&self) -> usize {
        (self.heads + 2 * self.kv_heads()) * self.head_dim()
    }

    /// Rows of queries, keys and values in the packed projection.
    pub fn packed_rows(&self) -> [usize; 3] {
        let d = self.head_dim();
        [self.heads * d, self.kv_heads() * d, self.kv_heads() * d]
    }

    /// Number of parameters with `vocab` tokens and `length` positions.
    pub fn parameters(&self, vocab: usize, length: usize) -> u128 {
        let has = self.biases();
        let [d, f, w, v] = [self.dim, self.hidden(), self.packed(), vocab].map(|n| n as u128);
        let (a, c, e) = ((self.heads * self.head_dim()) as u128, self.cond_dim() as u128, self.head_dim() as u128);
        let bias = |has: bool, n: u128| if has { n } else { 0 };
        let norm = d + bias(has.norm && self.norm == NormKind::Layer, d);
        let gates = if self.activation.gated() { 2 } else { 1 };
        let mlp = gates * (d * f + bias(has.mlp, f)) + f * d + bias(has.mlp, d);
        let timed = self.time != TimeInput::None;
        let modulation = |parts: u128| bias(timed, parts * d * (c + 1));
        let qk = bias(self.qk_norm, 2 * e);
        let block = 2 * norm + d * w + bias(has.qkv, w) + a * d + bias(has.out, d) + mlp + qk + modulation(6);
        let time = bias(timed, (self.wave_dim() as u128 + 1) * c + (c + 1) * c);
        let positions = bias(self.learned_positions, self.places(length) as u128 * d);
        let transform = bias(self.head_transform, d * d + norm);
        let head = bias(self.has_head(), d * v) + bias(self.vectors.is_none() && self.head_bias(), v);
        // A norm of the embedding stands in for the first block's first one.
        let rows = self.rows(vocab) as u128;
        let blocks = self.layers as u128 * block;
        rows * d
            + positions
            + bias(self.uniforms, UNIFORM_DIGITS as u128 * d)
            + time
            + blocks
            + norm
            + modulation(2)
            + transform
            + head
            + self.end_parameters(vocab, length)
    }
}
