//! A network as the families' samplers read it: logits on the host, of the whole canvas or of a window over kept keys.

use std::ops::Range;
use std::sync::Arc;

use super::Plan;
use crate::model::config::Visibility;
use crate::model::{Cache, Denoise, Noised, Padding, Transformer, params};

/// Reads logits [B w V] of windows of a canvas [B L], and counts what that costs.
pub struct Reader {
    /// Without the shift, which a window does to its own rows.
    model: Transformer,
    shift: bool,
    padding: Padding,
    /// Ids that are never drawn.
    never: Arc<[u32]>,
    length: usize,
    cache: Cache,
    pub nfe: usize,
    pub positions: u64,
}

impl Reader {
    pub fn new(model: &Transformer, length: usize, plan: &Plan) -> Self {
        let shift = model.config().shift_output;
        let model = model.clone().reconfigured(|c| c.shift_output = false);
        let (padding, never) = (plan.padding.clone(), plan.never.clone());
        Reader { model, shift, padding, never, length, cache: Cache::default(), nfe: 0, positions: 0 }
    }

    fn input(&self, x: &[u32], t: f64) -> Noised {
        Noised { padding: self.padding.clone(), ..Noised::tokens(x, &vec![t; x.len()], self.length) }
    }

    /// Logits [B L V] of the canvas `x` at time t; with `keep`, its keys and values are kept for windows.
    pub fn whole(&mut self, x: &[u32], t: f64, keep: bool) -> Vec<f32> {
        if !keep {
            let features = self.model.features(&self.input(x, t));
            return self.logits(features, 0..self.length, x.len());
        }
        self.cache = Cache::default();
        self.window(x, t, 0..self.length)
    }

    /// Logits [B w V] of the positions of `window` alone, the keys and values of all others as they were kept.
    pub fn window(&mut self, x: &[u32], t: f64, window: Range<usize>) -> Vec<f32> {
        assert!(self.model.config().visibility == Visibility::Full, "windows are of networks that see everything");
        let input = self.input(x, t);
        let features = self.model.features_window(&input, window.clone(), &mut self.cache);
        let n = x.len() / self.length * window.len();
        self.logits(features, window, n)
    }

    fn logits(&mut self, features: burn::prelude::Tensor<3>, window: Range<usize>, n: usize) -> Vec<f32> {
        self.nfe += 1;
        self.positions += n as u64;
        let d = features.dims()[2];
        let mut logits = params::floats(self.model.logits(features.reshape([n, d])));
        let v = logits.len() / n;
        if !self.never.is_empty() {
            logits.chunks_mut(v).for_each(|row| self.never.iter().for_each(|id| row[*id as usize] = -1e6));
        }
        if !self.shift {
            return logits;
        }
        // Row l is that of position l - 1, and the first of a window keeps its own.
        let w = window.len();
        let row = |r: usize| if r.is_multiple_of(w) { r } else { r - 1 };
        (0..n).flat_map(|r| logits[row(r) * v..(row(r) + 1) * v].iter().copied()).collect()
    }
}
