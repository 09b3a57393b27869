//! The transformer as a denoiser: features of all positions, of wanted ones, behind a cache, or of a window over one.
//!
//! B batch, L length, D width, V vocabulary, w window length.

use std::ops::Range;

use burn::prelude::*;

use super::super::config::Visibility;
use super::super::{Cache, Denoise, Noised, select_rows};
use super::Transformer;
use crate::kernels::{self, composed};

impl Denoise for Transformer {
    fn features(&self, input: &Noised) -> Tensor<3> {
        let read = self.read(input);
        let own = self.run(input, &read, None);
        let d = own.dims()[2];
        if read.wide == read.length && !self.config.shift_output {
            return own;
        }
        let rows: Vec<usize> = (0..read.batch * read.length).map(|r| self.source(r, &read)).collect();
        select_rows(own, &rows).reshape([read.batch, read.length, d])
    }

    fn features_at(&self, input: &Noised, rows: &[usize]) -> Tensor<2> {
        let read = self.read(input);
        let (wanted, at) = self.wanted(rows, &read);
        select_rows(self.run(input, &read, wanted), &at)
    }

    fn features_cached(&self, input: &Noised, active: Range<usize>, cache: &mut Cache) -> Tensor<3> {
        assert!(self.causal(), "only a causal network can keep what it has read");
        assert_eq!(cache.filled, active.start, "the cache ends where the active positions start");
        let (read, [b, l]) = (self.read(input), input.dims());
        // Position l is described by what is behind token l - 1: one token less is read, and the first has nobody's.
        let late = usize::from(self.config.shift_output);
        let (from, to) = (active.start.saturating_sub(late), (active.end - late).max(1));
        let new = read.ids.columns(l, from..to);
        let condition = self.condition(input, from..to);
        let mut x = self.placed(self.embed(&new, b), from, None);
        let mut slabs = std::mem::take(&mut cache.slabs).into_iter();
        for (i, block) in self.blocks.iter().enumerate() {
            let slab = slabs.next().unwrap_or_else(|| {
                let shape = [b, self.config.kv_heads(), self.length, self.config.head_dim()];
                let empty = || Tensor::zeros(shape, (&self.device().inner(), x.dtype()));
                (empty(), empty())
            });
            let modulation = block.modulation.as_ref().zip(condition.clone()).map(|(m, c)| m.forward(c));
            let slab_grown;
            let spec = self.spec(i, None, None);
            (x, slab_grown) = kernels::block_cached(x, block.parameters(), modulation, slab, &spec, from);
            cache.slabs.push(slab_grown);
        }
        cache.filled = active.end;
        let own = self.finish(x, condition);
        let d = own.dims()[2];
        if own.dims()[1] == active.len() {
            return own;
        }
        let rows: Vec<usize> =
            (0..b).flat_map(|b| active.clone().map(move |l| b * (to - from) + l.saturating_sub(1))).collect();
        select_rows(own, &rows).reshape([b, active.len(), d])
    }

    fn scores(&self, rows: Tensor<2>) -> Tensor<2> {
        composed::logits(rows, &self.head())
    }

    fn predict(&self, rows: Tensor<2>) -> Tensor<2> {
        kernels::log_softmax(self.scores(rows), self.config.composed)
    }

    fn mask(&self) -> u32 {
        self.mask as u32
    }

    fn vocab(&self) -> usize {
        self.vocab
    }

    fn device(&self) -> Device {
        self.embed.val().device()
    }
}

impl Transformer {
    /// Features [B, w, D] of the positions of `window` alone, in a network that sees everything: the keys and values of all
    /// others are as the cache has them, and those of the window are renewed in it. The first window is the whole canvas.
    pub fn features_window(&self, input: &Noised, window: Range<usize>, cache: &mut Cache) -> Tensor<3> {
        assert!(self.config.visibility == Visibility::Full, "a causal network keeps a prefix: `features_cached`");
        assert!(input.padding.keys.is_none() && input.padding.positions.is_none(), "windows have no padding");
        let (read, [b, l]) = (self.read(input), input.dims());
        assert!(cache.filled == l || window == (0..l), "the first window is the whole canvas");
        let new = read.ids.columns(l, window.clone());
        let condition = self.condition(input, window.clone());
        let mut x = self.placed(self.embed(&new, b), window.start, None);
        let mut slabs = std::mem::take(&mut cache.slabs).into_iter();
        for (i, block) in self.blocks.iter().enumerate() {
            let shape = [b, self.config.kv_heads(), l, self.config.head_dim()];
            let empty = || Tensor::zeros(shape, (&self.device().inner(), x.dtype()));
            let slab = slabs.next().unwrap_or_else(|| (empty(), empty()));
            let modulation = block.modulation.as_ref().zip(condition.clone()).map(|(m, c)| m.forward(c));
            let renewed;
            let spec = self.spec(i, None, None);
            (x, renewed) = kernels::block_cached(x, block.parameters(), modulation, slab, &spec, window.start);
            cache.slabs.push(renewed);
        }
        cache.filled = l;
        self.finish(x, condition)
    }
}
