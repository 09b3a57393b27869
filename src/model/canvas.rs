//! The canvas of a batch on its way from noise to text: token ids on the host, or on the device that draws them.
//!
//! On a GPU nothing of a step has to wait for the host: which positions it reveals was decided by uniforms, and their tokens
//! are drawn beside the scores. B batch, L length, n picks.

use burn::prelude::*;
use burn::tensor::IndexingUpdateOp;

use super::draw::{self, Filter};
use super::{Denoise, Noised, index_tensor};
use crate::error::Result;

/// The tokens of B sequences of L, where they are drawn.
#[allow(clippy::large_enum_variant)] // one a batch: boxing would only hide it
#[derive(Clone)]
pub enum Canvas {
    /// [B L]
    Host(Vec<u32>),
    /// [B, L]
    Device(Tensor<2, Int>),
}

/// Whether a device shares the host's memory and processor, so that nothing is gained by staying there.
pub fn shares_host(device: &Device) -> bool {
    let device = device.clone().inner();
    #[cfg(feature = "flex")]
    if device == Device::flex() {
        return true;
    }
    #[cfg(feature = "ndarray")]
    #[allow(deprecated)]
    if device == Device::ndarray() {
        return true;
    }
    let _ = device;
    false
}

impl Canvas {
    /// The tokens x [B L], on `device` or on the host.
    pub fn new(x: Vec<u32>, length: usize, device: Option<&Device>) -> Self {
        let Some(device) = device else { return Canvas::Host(x) };
        let ids: Vec<i32> = x.iter().map(|id| *id as i32).collect();
        let shape = [ids.len() / length, length];
        Canvas::Device(Tensor::from_data(TensorData::new(ids, shape), device))
    }

    /// The sequences on the host.
    ///
    /// # Panics
    /// Where a canvas on a device is not a tensor of integers, which cannot be.
    pub fn rows(&self, length: usize) -> Vec<Vec<u32>> {
        match self {
            Canvas::Host(x) => x.chunks(length).map(<[u32]>::to_vec).collect(),
            Canvas::Device(x) => {
                let Ok(ids) = x.clone().into_data().convert::<i32>().try_into_vec::<i32>() else {
                    panic!("a canvas is a tensor of integers")
                };
                ids.chunks(length).map(|row| row.iter().map(|id| *id as u32).collect()).collect()
            }
        }
    }

    /// The network's input of the given sequences, each position at its time t [n L].
    pub fn input(&self, sequences: &[usize], t: &[f64], length: usize) -> Noised {
        match self {
            Canvas::Host(x) => {
                let x: Vec<u32> = sequences.iter().flat_map(|i| &x[i * length..(i + 1) * length]).copied().collect();
                Noised::tokens(&x, t, length)
            }
            Canvas::Device(x) => Noised::ids(x.clone().select(0, index_tensor(sequences, &x.device())), t, length),
        }
    }

    /// Draws a token for each pick (a row of the features, which do not fall, and a uniform) and writes it at the flat
    /// position `at`, which holds the mask; on a device, whether all predictions were finite comes back as a tensor `[1]`.
    ///
    /// # Errors
    /// On the host as [`draw::picks`]; on a device of a filter only the temperature is known.
    ///
    /// # Panics
    /// On a device, where the filter has `top_k` or `top_p`.
    pub fn reveal(
        &mut self,
        model: &dyn Denoise,
        features: Tensor<2>,
        picks: &[(usize, f64)],
        at: &[usize],
        filter: Filter,
    ) -> Result<Option<Tensor<1, Bool>>> {
        match self {
            Canvas::Host(x) => {
                for (token, at) in draw::picks(model, features, picks, filter)?.into_iter().zip(at) {
                    x[*at] = token;
                }
                Ok(None)
            }
            Canvas::Device(x) => {
                assert!(filter.top_k.is_none() && filter.top_p.is_none(), "a filter that sorts draws on the host");
                let drawn = draw::picks_on_device(model, features, picks, filter.temperature);
                let (shape, device) = (x.dims(), x.device());
                let flat = x.clone().reshape([shape[0] * shape[1]]);
                // The position holds the mask's id: adding the difference writes the token.
                let change = drawn.tokens - model.mask() as i32;
                let flat = flat.select_assign(0, index_tensor(at, &device), change, IndexingUpdateOp::Add);
                *x = flat.reshape(shape);
                Ok(Some(drawn.finite))
            }
        }
    }
}
