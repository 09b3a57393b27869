//! The transformer as a denoiser: features of all positions, of wanted ones, behind a cache, or of a window over one.
//!
//! B batch, L length, D width, V vocabulary, w window length.

use std::ops::Range;

use burn::optim::GradientsParams;
use burn::prelude::*;

use super::super::config::{Compute, Visibility};
use super::super::{Cache, Denoise, Head, Layers, Network, Noised, Teach, Through, select_rows};
use super::Transformer;
use super::read::Read;
use crate::kernels::{self, Visible, composed};

impl Denoise for Transformer {
    fn features(&self, input: &Noised) -> Tensor<3> {
        let read = self.read(input);
        let own = self.run(input, &read, None);
        let d = own.dims()[2];
        if read.wide == read.length && !self.config.shift_output && read.phases.is_none() {
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
        assert!(self.causal() || self.over_blocks(), "only a network that looks back can keep what it has read");
        assert_eq!(cache.filled, active.start, "the cache ends where the active positions start");
        let (read, [b, l]) = (self.read(input), input.dims());
        if self.config.encoder_layers > 0 {
            return self.deeper_cached(input, &read, active, cache);
        }
        // Position l is described by what is behind token l - 1: one token less is read, and the first has nobody's.
        let late = usize::from(self.config.shift_output);
        let (from, to) = (active.start.saturating_sub(late), (active.end - late).max(1));
        let new = read.ids.columns(l, from..to);
        let condition = self.condition(input, from..to, false);
        let places = read.phases.as_ref().map(|phases| phases.places()[from..to].repeat(b));
        let x = self.placed(self.embed(&new, b), from, places.as_deref());
        let mut x = self.told(x, input, from..to, false);
        let mut slabs = std::mem::take(&mut cache.slabs).into_iter();
        for (i, block) in self.blocks.iter().enumerate() {
            let slab = slabs.next().unwrap_or_else(|| self.slab(b, &x));
            let modulation = block.modulation.as_ref().zip(condition.clone()).map(|(m, c)| m.forward(c));
            let slab_grown;
            let spec = self.spec(i, None, self.visible(read.layout, &read.phases), None);
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
        self.drawn(composed::logits(rows, &self.head()))
    }

    fn predict(&self, rows: Tensor<2>) -> Tensor<2> {
        let logits = composed::logits(rows, &self.head());
        self.drawn(kernels::log_softmax(logits, self.config.composed))
    }

    fn mask(&self) -> u32 {
        self.ids.mask as u32
    }

    fn vocab(&self) -> usize {
        self.ids.size
    }

    fn keeps_blocks(&self) -> bool {
        self.config.keeps_blocks()
    }

    fn over_blocks(&self) -> bool {
        matches!(self.config.visibility, Visibility::Blocks(_) | Visibility::Order)
    }

    fn reads_uniforms(&self) -> bool {
        self.uniforms.is_some()
    }

    fn layers(&self) -> Layers {
        let (whole, encoder) = (self.config.layers, self.config.encoder_layers);
        match encoder {
            0 => Layers { text: whole, noise: whole, whole },
            _ => Layers { text: encoder, noise: whole - encoder, whole },
        }
    }

    fn device(&self) -> Device {
        self.embed.val().device()
    }
}

impl Transformer {
    /// Room for the keys and values of every position, in the type of `like`.
    fn slab(&self, batch: usize, like: &Tensor<3>) -> kernels::Slab {
        let shape = [batch, self.config.kv_heads(), self.length, self.config.head_dim()];
        let empty = || Tensor::zeros(shape, (&self.device().inner(), like.dtype()));
        (empty(), empty())
    }

    /// [`Denoise::features_cached`] of a network whose first layers read finished text alone: the blocks of text among the
    /// active positions pass those once, and the others keep only their keys and values; noise passes the others alone.
    ///
    /// Features of text are zero: nobody asks for them.
    fn deeper_cached(&self, input: &Noised, read: &Read, active: Range<usize>, cache: &mut Cache) -> Tensor<3> {
        let (b, l, layout) = (read.batch, input.length, self.layout(input));
        let finished = |p: usize| (0..b).all(|i| input.t[i * l + p] == 0.0);
        let text = layout.map_or(active.start, |layout| {
            let blocks = layout.ranges(l).into_iter().filter(|r| active.contains(&r.start));
            let text = blocks.take_while(|r| r.clone().all(finished));
            text.last().map_or(active.start, |r| r.end.min(active.end))
        });
        let embed = |range: Range<usize>| {
            let ids = read.ids.columns(read.wide, range.clone());
            self.placed(self.embed(&ids, b), range.start, None)
        };
        let mut slabs = std::mem::take(&mut cache.slabs).into_iter();
        assert!(text < active.end, "something is asked for");
        let mut clean = (text > active.start).then(|| embed(active.start..text));
        let mut noise = embed(text..active.end);
        for (i, block) in self.blocks.iter().enumerate() {
            let mut slab = slabs.next().unwrap_or_else(|| self.slab(b, &noise));
            let spec = self.spec(i, None, self.visible(layout, &None), None);
            let encodes = i < self.config.encoder_layers;
            if let Some(x) = clean.take() {
                if encodes {
                    let y;
                    (y, slab) = kernels::block_cached(x, block.parameters(), None, slab, &spec, active.start);
                    clean = Some(y);
                } else {
                    slab = kernels::keys_values(x.clone(), block.parameters(), None, slab, &spec, active.start);
                    clean = Some(x);
                }
            }
            if !encodes {
                (noise, slab) = kernels::block_cached(noise, block.parameters(), None, slab, &spec, text);
            }
            cache.slabs.push(slab);
        }
        cache.filled = active.end;
        let d = self.config.dim;
        let noise = self.finish(noise, None);
        let nothing = Tensor::zeros([b, text - active.start, d], (&noise.device(), noise.dtype()));
        if text == active.start { noise } else { Tensor::cat(vec![nothing, noise], 1) }
    }

    /// Features [B, w, D] of the positions of `window` alone, in a network that sees everything: the keys and values of all
    /// others are as the cache has them, and those of the window are renewed in it. The first window is the whole canvas.
    ///
    /// # Panics
    /// For a network that does not see everything, for padded input, and where the first window is not the whole canvas.
    pub fn features_window(&self, input: &Noised, window: Range<usize>, cache: &mut Cache) -> Tensor<3> {
        assert!(self.config.visibility == Visibility::Full, "a causal network keeps a prefix: `features_cached`");
        assert!(input.padding.keys.is_none() && input.padding.positions.is_none(), "windows have no padding");
        let (read, [b, l]) = (self.read(input), input.dims());
        assert!(cache.filled == l || window == (0..l), "the first window is the whole canvas");
        let new = read.ids.columns(l, window.clone());
        let condition = self.condition(input, window.clone(), false);
        let mut x = self.placed(self.embed(&new, b), window.start, None);
        let mut slabs = std::mem::take(&mut cache.slabs).into_iter();
        for (i, block) in self.blocks.iter().enumerate() {
            let slab = slabs.next().unwrap_or_else(|| {
                let shape = [b, self.config.kv_heads(), l, self.config.head_dim()];
                let empty = || Tensor::zeros(shape, (&self.device().inner(), x.dtype()));
                (empty(), empty())
            });
            let modulation = block.modulation.as_ref().zip(condition.clone()).map(|(m, c)| m.forward(c));
            let renewed;
            let spec = self.spec(i, None, Visible::Full, None);
            (x, renewed) = kernels::block_cached(x, block.parameters(), modulation, slab, &spec, window.start);
            cache.slabs.push(renewed);
        }
        cache.filled = l;
        self.finish(x, condition)
    }
}

impl Teach for Transformer {
    fn head(&self) -> Head {
        Transformer::head(self)
    }
}

impl Network for Transformer {
    fn through(&self) -> Through {
        let config = self.config();
        let fused = kernels::fused(&self.device(), config.compute == Compute::F32, config.composed);
        // Blocks that no kernel knows, and those with adapters, have no checkpoint of their own.
        let by_blocks = config.checkpoint && (self.has_adapters() || !config.fused_blocks());
        if fused && !by_blocks { Through::Fused } else { Through::Chunks }
    }

    fn trains(&self, name: &str) -> bool {
        Transformer::trains(self, name)
    }

    fn backward_through(
        &self,
        input: &Noised,
        rows: &[usize],
        head: &mut dyn FnMut(Tensor<2>) -> Tensor<2>,
    ) -> GradientsParams {
        if self.config().checkpoint {
            return self.backward_by_blocks(input, rows, head);
        }
        let features = self.features_at(input, rows);
        let row_grads = head(features.clone().inner());
        GradientsParams::from_grads((features * row_grads.autodiff()).sum().backward(), self)
    }
}
