//! The perfect denoiser: the story language's exact posterior of every position given the visible ones.
//!
//! It draws the floor of quality against steps: what few steps cost by parallel decoding alone, apart from what a
//! network has not learnt. Its features are its log-probabilities (D = V), so `predict` hands them through.

use std::ops::Range;
use std::sync::Arc;

use burn::prelude::*;
use rayon::prelude::*;

use super::{Cache, Denoise, Noised};
use crate::data::chain::Chain;

/// A language whose posterior is known.
#[derive(Clone)]
pub struct Oracle {
    chain: Arc<Chain>,
    device: Device,
}

impl Oracle {
    /// The oracle of `chain`, handing its tensors out on `device`.
    pub fn new(chain: Arc<Chain>, device: Device) -> Self {
        Oracle { chain, device }
    }
}

impl Denoise for Oracle {
    fn features(&self, input: &Noised) -> Tensor<3> {
        let (ids, [b, l]) = (input.host_ids(), input.dims());
        let v = self.chain.vocab();
        let rows: Vec<Vec<f32>> = ids
            .par_chunks(l)
            .map(|row| {
                let visible: Vec<Option<u32>> = row.iter().map(|t| ((*t as usize) < v).then_some(*t)).collect();
                self.chain.posterior(&visible).into_iter().map(|p| p.max(1e-300).ln() as f32).collect()
            })
            .collect();
        Tensor::from_data(TensorData::new(rows.concat(), [b, l, v]), &self.device)
    }

    fn features_cached(&self, input: &Noised, active: Range<usize>, cache: &mut Cache) -> Tensor<3> {
        cache.filled = active.end;
        self.features(input).narrow(1, active.start, active.len())
    }

    fn predict(&self, rows: Tensor<2>) -> Tensor<2> {
        rows
    }

    fn vocab(&self) -> usize {
        self.chain.vocab()
    }

    fn device(&self) -> Device {
        self.device.clone()
    }
}
