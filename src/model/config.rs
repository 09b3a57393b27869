//! The shape of the one transformer: what a recipe may choose, and which choices contradict each other.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Width of the sinusoidal time embedding.
pub const TIME_DIM: usize = 128;

/// Which positions a position may attend to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    Full,
    Causal,
}

/// The pre-normalisation of each half block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    Rms,
    Layer,
}

/// The nonlinearity of the feed-forward half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    Gelu,
    Swiglu,
}

/// How the network is told the noise level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeInput {
    /// Not at all: for absorbing noise the masks say it (MDLM's default).
    None,
    /// One time per sequence through adaptive layer norm (DiT).
    Sequence,
    /// One time per position, the same way.
    Position,
}

/// The type that blocks and head compute in; weights, their gradients, norms, softmax and losses stay f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compute {
    #[default]
    F32,
    Bf16,
}

/// The configuration of [`super::Transformer`]; vocabulary and length come from the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// full | causal
    pub visibility: Visibility,
    /// rms | layer
    #[serde(default = "default_norm")]
    pub norm: NormKind,
    /// gelu | swiglu
    #[serde(default = "default_activation")]
    pub activation: Activation,
    /// Biases in the projections and layer norms.
    #[serde(default)]
    pub bias: bool,
    /// The head is the transposed embedding.
    #[serde(default)]
    pub tied: bool,
    /// none | sequence | position
    #[serde(default = "default_time")]
    pub time: TimeInput,
    /// The network reads position l - 1 to predict position l (autoregressive heads); a start token stands first.
    #[serde(default)]
    pub shift: bool,
    /// Add a learned vector to each position. Rotary attention alone sees distances only: where everything is masked it
    /// cannot tell the positions of a full-visibility network apart. Use it where sequences begin at a fixed place.
    #[serde(default)]
    pub learned_positions: bool,
    /// Base of the rotary position angles.
    #[serde(default = "default_theta")]
    pub rope_theta: f64,
    /// f32 | bf16: what blocks and head compute in (bf16 is for GPUs; a CPU is slower with it).
    #[serde(default, skip_serializing_if = "is_default")]
    pub compute: Compute,
    /// Activation checkpointing: each block keeps its input only and is computed again on the way back.
    #[serde(default, skip_serializing_if = "is_default")]
    pub checkpoint: bool,
    /// Compose every operation from the framework's primitives, even where a fused one exists (slower; to check those).
    #[serde(default, skip_serializing_if = "is_default")]
    pub composed: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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
            norm: default_norm(),
            activation: default_activation(),
            bias: false,
            tied: false,
            time: default_time(),
            shift: false,
            learned_positions: false,
            rope_theta: default_theta(),
            compute: Compute::F32,
            checkpoint: false,
            composed: false,
        }
    }

    /// Width of the feed-forward half.
    pub fn hidden(&self) -> usize {
        self.hidden.unwrap_or(match self.activation {
            Activation::Gelu => 4 * self.dim,
            Activation::Swiglu => (8 * self.dim / 3).next_multiple_of(16),
        })
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.heads
    }

    /// Key and value heads.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }

    /// Width of the packed projection of queries, keys and values.
    pub fn packed(&self) -> usize {
        (self.heads + 2 * self.kv_heads()) * self.head_dim()
    }

    /// Number of parameters with `vocab` tokens and `length` positions.
    pub fn parameters(&self, vocab: usize, length: usize) -> u128 {
        let [d, f, w, v, l] = [self.dim, self.hidden(), self.packed(), vocab, length].map(|n| n as u128);
        let bias = |n: u128| if self.bias { n } else { 0 };
        let norm = d + if self.norm == NormKind::Layer { bias(d) } else { 0 };
        let gates = if self.activation == Activation::Swiglu { 2 } else { 1 };
        let mlp = gates * (d * f + bias(f)) + f * d + bias(d);
        let timed = self.time != TimeInput::None;
        let modulation = |parts: u128| if timed { parts * d * (d + 1) } else { 0 };
        let block = 2 * norm + d * w + bias(w) + d * d + bias(d) + mlp + modulation(6);
        let time = if timed { (TIME_DIM as u128 + 1) * d + (d + 1) * d } else { 0 };
        let positions = if self.learned_positions { l * d } else { 0 };
        let head = if self.tied { 0 } else { d * v + bias(v) };
        (v + 1) * d + positions + time + self.layers as u128 * block + norm + modulation(2) + head
    }

    /// Checks ranges and contradictions; `key` is the dotted place of this table in the recipe.
    pub fn validate(&self, key: &str) -> Result<()> {
        for (name, value, max) in [
            ("dim", self.dim, 1 << 16),
            ("layers", self.layers, 1024),
            ("heads", self.heads, 1024),
            ("hidden", self.hidden(), 1 << 20),
        ] {
            if value == 0 || value > max {
                return Err(Error::usage(format!("`{key}.{name}` must be between 1 and {max}, but it is {value}")));
            }
        }
        if !self.dim.is_multiple_of(self.heads) || !(self.dim / self.heads).is_multiple_of(2) {
            return Err(Error::usage(format!(
                "`{key}.heads` ({}) must divide `{key}.dim` ({}) into an even head width",
                self.heads, self.dim
            ))
            .hint(format!("`{key}.heads = {}`", self.dim / (self.dim / self.heads).next_multiple_of(2).max(2))));
        }
        if self.kv_heads() == 0 || !self.heads.is_multiple_of(self.kv_heads()) {
            return Err(Error::usage(format!(
                "`{key}.kv_heads` ({}) must divide `{key}.heads` ({})",
                self.kv_heads(),
                self.heads
            )));
        }
        // 64 GiB of f32 weights: what is meant as a size is below it, and what is above it would end in an abort.
        if self.parameters(0, 0) > 1 << 34 {
            return Err(Error::usage(format!(
                "`{key}.dim` ({}) and `{key}.layers` ({}) make a network of {} parameters",
                self.dim,
                self.layers,
                self.parameters(0, 0)
            )));
        }
        if self.shift && self.visibility == Visibility::Full {
            return Err(Error::usage(format!(
                "`{key}.shift = true` needs `{key}.visibility = \"causal\"`, but it is \"full\""
            ))
            .hint("a network that sees every position needs no shift; set `shift = false`"));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 1.0) {
            return Err(Error::usage(format!("`{key}.rope_theta` must be above 1, but it is {}", self.rope_theta)));
        }
        Ok(())
    }
}
