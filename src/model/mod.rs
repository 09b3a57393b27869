//! Networks behind one trait: noisy input in, features of every position out, predictions of selected rows.
//!
//! B batch, L length, D feature width, V vocabulary (the mask, or start, token has id V and is never predicted).

pub mod canvas;
pub mod config;
pub mod draw;
pub mod family;
pub mod oracle;
pub mod params;
pub mod transformer;
pub mod vocab;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::prelude::*;

pub use crate::kernels::{Head, index_tensor};
use crate::process::{Layout, Order, Phases};
pub use config::TransformerConfig;
pub use oracle::Oracle;
pub use transformer::Transformer;

/// What is being denoised.
#[allow(clippy::large_enum_variant)] // one a network pass: boxing would only hide it
#[derive(Debug, Clone)]
pub enum State {
    /// Token ids [B L], the mask among them, on the host.
    Tokens(Vec<u32>),
    /// Token ids [B, L] where the network computes: a canvas whose tokens are drawn there.
    Ids(Tensor<2, Int>),
    /// Vectors [B, L, D].
    Vectors(Tensor<3>),
}

/// A network input: the noisy state x_t of length L, its times [B L], an optional target time, and optional clean context.
#[derive(Debug, Clone)]
pub struct Noised {
    pub x: State,
    pub t: Vec<f64>,
    pub s: Option<Vec<f64>>,
    /// The text x_0 beside x_t: block diffusion reads both streams, noise sees the clean blocks before its own.
    pub clean: Option<State>,
    pub length: usize,
    pub padding: Padding,
    /// The blocks of the order it is in, for a network whose visibility is that of the order.
    pub blocks: Option<Layout>,
    /// The fixed phases of the order it is in, in the place of blocks.
    pub phases: Option<Arc<Phases>>,
    /// The uniforms [B L] that will pick the tokens of masked positions, for a network that reads them.
    pub uniforms: Option<Vec<f64>>,
}

/// What of a batch is no text: positions nobody may look at, and the places that the others count from.
#[derive(Debug, Clone, Default)]
pub struct Padding {
    /// Per sequence the range of positions that are not padding; none: all of them.
    pub keys: Option<Arc<[Range<usize>]>>,
    /// The position [B L] that each token stands at; none: 0 .. L.
    pub positions: Option<Arc<[u32]>>,
}

impl Padding {
    /// Sequences of which the given ranges are text, at the positions where they lie.
    pub fn physical(text: &[Range<usize>]) -> Self {
        Padding { keys: Some(text.into()), positions: None }
    }
}

impl Noised {
    /// Tokens row-major [B L] with their times [B L].
    ///
    /// # Panics
    /// Where `x` is not whole rows of `length`, or `x` and `t` differ in length.
    pub fn tokens(x: &[u32], t: &[f64], length: usize) -> Self {
        assert!(x.len().is_multiple_of(length), "whole rows of tokens");
        assert_eq!(x.len(), t.len(), "one time for each token");
        Noised::of(State::Tokens(x.to_vec()), t.to_vec(), length)
    }

    /// Token ids [B, L] that are on the device, with their times [B L].
    ///
    /// # Panics
    /// Where `x` and `t` differ in number.
    pub fn ids(x: Tensor<2, Int>, t: &[f64], length: usize) -> Self {
        assert_eq!(x.dims(), [t.len() / length, length], "one time for each token");
        Noised::of(State::Ids(x), t.to_vec(), length)
    }

    /// A noisy state with its times [B L], and nothing besides.
    pub fn of(x: State, t: Vec<f64>, length: usize) -> Self {
        let padding = Padding::default();
        Noised { x, t, s: None, clean: None, length, padding, blocks: None, phases: None, uniforms: None }
    }

    /// The same input in the blocks of an order.
    pub fn in_blocks(self, layout: Layout) -> Self {
        Noised { blocks: Some(layout), ..self }
    }

    /// The same input in an order: its blocks, or its phases with what is `given` (empty: nothing) in front.
    pub fn in_order(self, order: &Order, given: &[bool]) -> Self {
        Noised { phases: order.phases(self.length, given), ..self.in_blocks(order.layout()) }
    }

    /// The same input in these phases.
    pub fn in_phases(self, phases: Option<Arc<Phases>>) -> Self {
        Noised { phases, ..self }
    }

    /// The token ids [B L], fetched from the device where they are there.
    ///
    /// # Panics
    /// Where ids on the device are not integers, which cannot be, and for vectors.
    pub fn host_ids(&self) -> Cow<'_, [u32]> {
        match &self.x {
            State::Ids(x) => match x.clone().into_data().convert::<i32>().try_into_vec::<i32>() {
                Ok(ids) => ids.into_iter().map(|id| id as u32).collect(),
                Err(_) => panic!("a canvas is a tensor of integers"),
            },
            _ => Cow::Borrowed(self.token_ids()),
        }
    }

    /// The token ids [B L] on the host.
    ///
    /// # Panics
    /// For vectors and for ids on a device: our own mistake.
    pub fn token_ids(&self) -> &[u32] {
        match &self.x {
            State::Tokens(x) => x,
            _ => panic!("this network reads tokens on the host"),
        }
    }

    /// B and L.
    pub fn dims(&self) -> [usize; 2] {
        [self.t.len() / self.length, self.length]
    }

    /// The times as a tensor [B, L] on `device`.
    pub fn times(&self, device: &Device) -> Tensor<2> {
        let t: Vec<f32> = self.t.iter().map(|t| *t as f32).collect();
        Tensor::from_data(TensorData::new(t, self.dims()), device)
    }
}

/// Layers that a position passes: one of finished text and one of noise behind a cache, and one of a sequence read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layers {
    pub text: usize,
    pub noise: usize,
    pub whole: usize,
}

/// Keys and values of the positions already read, one slab per block.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    /// Per block: keys and values [B, H, capacity, d_head].
    pub slabs: Vec<(Tensor<4>, Tensor<4>)>,
    /// Positions already in the slabs.
    pub filled: usize,
}

impl Cache {
    /// The cache of the given batch rows only, in that order (beam search reorders its hypotheses).
    pub fn select(&self, rows: &[usize], device: &Device) -> Cache {
        let idx = index_tensor(rows, device);
        let slabs =
            self.slabs.iter().map(|(k, v)| (k.clone().select(0, idx.clone()), v.clone().select(0, idx.clone())));
        Cache { slabs: slabs.collect(), filled: self.filled }
    }
}

/// A denoiser: the transformers, and the exact oracle of the story language.
///
/// `features` is aligned: row l describes position l, whatever the network shifts inside. Predictions are a function of
/// feature rows alone, so that a caller computes them only where they are needed and in chunks.
pub trait Denoise {
    /// Features [B, L, D] of every position.
    fn features(&self, input: &Noised) -> Tensor<3>;
    /// Features [r, D] of the flat positions `rows` `[r]` in B x L alone: what a loss or a draw looks at.
    fn features_at(&self, input: &Noised, rows: &[usize]) -> Tensor<2> {
        select_rows(self.features(input), rows)
    }
    /// Features [B, |active|, D] of the active positions, with everything left of them in the cache (causal networks, and
    /// those over blocks, which are asked for whole blocks). Where the input has phases, the active ones are ranks.
    ///
    /// Afterwards `cache.filled` is the end of `active`. A caller that has read noise sets it back to the end of the text: what
    /// lies behind is written anew by the next call.
    fn features_cached(&self, input: &Noised, active: Range<usize>, cache: &mut Cache) -> Tensor<3>;
    /// Log-probabilities [n, V] of feature rows [n, D], up to a constant in each row.
    fn scores(&self, rows: Tensor<2>) -> Tensor<2> {
        self.predict(rows)
    }
    /// Log-probabilities [n, V] of feature rows [n, D].
    fn predict(&self, rows: Tensor<2>) -> Tensor<2>;
    /// Vocabulary size V: the columns of a prediction.
    fn vocab(&self) -> usize;
    /// The id of the mask: V, or of networks with a place for it in their vocabulary one of the V, never predicted.
    fn mask(&self) -> u32 {
        self.vocab() as u32
    }
    /// Whether finished blocks may be kept while a text is drawn: it sees in them what it would see without a cache.
    fn keeps_blocks(&self) -> bool {
        self.over_blocks()
    }
    /// Whether each position sees its own block and all before it, so that finished blocks can be kept.
    fn over_blocks(&self) -> bool {
        false
    }
    /// Whether it reads the uniforms that will pick tokens.
    fn reads_uniforms(&self) -> bool {
        false
    }
    /// How many layers a position passes.
    fn layers(&self) -> Layers {
        Layers { text: 1, noise: 1, whole: 1 }
    }
    /// Where its tensors live.
    fn device(&self) -> Device;
}

/// A denoiser that others can learn from: its predictions are those of a linear head on its features.
pub trait Teach: Denoise {
    /// The head: logits [n, V] = features [n, D] weight [D, V] + bias `[V]`, with what it never predicts far below (-1e6).
    fn head(&self) -> Head;
}

/// A network that can be trained: any module of Burn with features and a linear head.
///
/// A new one has its parameters on a device with autodiff (`Device::autodiff`), and implements `features`, `predict`, `head` and what
/// else [`Denoise`] has no default for.
pub trait Network: Teach + Module + Clone {
    /// How the gradients of a step go.
    fn through(&self) -> Through {
        Through::Chunks
    }
    /// Whether a parameter is trained.
    fn trains(&self, _name: &str) -> bool {
        true
    }
    /// The gradients of its parameters, given by `head` those of its feature rows [n, D] of `rows` `[n]` for their values.
    fn backward_through(
        &self,
        input: &Noised,
        rows: &[usize],
        head: &mut dyn FnMut(Tensor<2>) -> Tensor<2>,
    ) -> GradientsParams {
        let features = self.features_at(input, rows);
        let row_grads = head(features.clone().inner());
        GradientsParams::from_grads((features * row_grads.autodiff()).sum().backward(), self)
    }
}

/// How the gradients of a step go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// Through one graph, whose head is a fused operation.
    Fused,
    /// Through the head chunk by chunk, then through all else.
    Chunks,
}

/// The feature rows [n, D] of flat positions `rows` of a [B, L, D] tensor.
pub fn select_rows(features: Tensor<3>, rows: &[usize]) -> Tensor<2> {
    let [b, l, d] = features.dims();
    let flat = features.reshape([b * l, d]);
    if rows.len() == b * l && rows.iter().enumerate().all(|(i, r)| i == *r) {
        return flat;
    }
    let idx = index_tensor(rows, &flat.device());
    flat.select(0, idx)
}
