//! AdamW over a whole network, with clipping by the global norm and the moving average of the weights in the same pass.
//!
//! Moments and averages are kept by parameter name. N elements of a parameter.

use std::collections::BTreeMap;

use burn::optim::GradientsParams;
use burn::prelude::*;

use super::TrainConfig;
use crate::kernels::{self, AdamWStep};
use crate::model::Network;
use crate::model::params::{self, Named};
use crate::weights::HostTensor;

/// What is kept for one parameter.
#[derive(Debug)]
struct Slot {
    m: Tensor<1>,
    v: Tensor<1>,
    average: Option<Tensor<1>>,
}

/// The state of the optimiser between two steps.
#[derive(Debug, Default)]
pub struct Optimizer {
    slots: BTreeMap<String, Slot>,
}

impl Optimizer {
    /// Zero moments for every parameter of `model`, and its own weights as averages where `averaged`.
    pub fn new<N: Network>(model: &N, averaged: bool) -> Self {
        let mut slots = BTreeMap::new();
        params::update(model.valid(), &mut GradientsParams::new(), |p| {
            // Frozen weights under adapters have no moments.
            if !model.trains(p.name) {
                return p.value;
            }
            let zeros = || p.value.zeros_like();
            let slot = Slot { m: zeros(), v: zeros(), average: averaged.then(|| p.value.clone()) };
            slots.insert(p.name.to_string(), slot);
            p.value
        });
        Optimizer { slots }
    }

    /// The model after step number `step` (from 0): gradients times `scale`, and averages that warm up with the run, so
    /// that early on they are not the initial weights.
    pub fn step<N: Network>(
        &mut self,
        model: N,
        mut grads: GradientsParams,
        config: &TrainConfig,
        step: usize,
        scale: f64,
    ) -> N {
        let t = (step + 1) as i32;
        let warm = (1.0 + step as f64) / (10.0 + step as f64);
        let common = AdamWStep {
            lr: config.learning_rate(step),
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            weight_decay: config.weight_decay,
            bias1: 1.0 - config.beta1.powi(t),
            bias2: 1.0 - config.beta2.powi(t),
            scale,
            average: config.ema.map(|decay| decay.min(warm)),
        };
        params::update(model, &mut grads, |p| {
            // A batch that lost no token has no gradient, and leaves everything as it is.
            let Some(gradient) = p.gradient else { return p.value };
            // A frozen weight has no moments, and stays.
            let Some(slot) = self.slots.remove(p.name) else { return p.value };
            // Norms and biases are never decayed.
            let weight_decay = if p.rank < 2 { 0.0 } else { common.weight_decay };
            let state = [p.value, slot.m, slot.v];
            let ([value, m, v], average) =
                kernels::adamw(state, slot.average, gradient, AdamWStep { weight_decay, ..common });
            self.slots.insert(p.name.to_string(), Slot { m, v, average });
            value
        })
    }

    /// The averaged network, where averages are kept.
    pub fn averaged<N: Network>(&self, model: &N) -> Option<N> {
        self.slots.values().all(|s| s.average.is_some()).then(|| {
            params::update(model.valid(), &mut GradientsParams::new(), |p| {
                match self.slots.get(p.name).and_then(|s| s.average.clone()) {
                    Some(average) => average,
                    None => p.value,
                }
            })
        })
    }

    /// The moments on the host, as `m.NAME` and `v.NAME`.
    pub fn moments(&self) -> Named {
        let host = |t: &Tensor<1>| HostTensor { shape: t.dims().to_vec(), data: params::floats(t.clone()) };
        let both = |(name, s): (&String, &Slot)| [(format!("m.{name}"), host(&s.m)), (format!("v.{name}"), host(&s.v))];
        self.slots.iter().flat_map(both).collect()
    }

    /// The state with these moments, and the weights of `average` as averages.
    ///
    /// # Errors
    /// The first moment that is missing, superfluous or of another length.
    pub fn restored<N: Network>(model: &N, average: Option<&N>, moments: &Named) -> std::result::Result<Self, String> {
        let mut new = Self::new(model, false);
        if let Some(extra) =
            moments.keys().find(|k| k.split_once('.').is_none_or(|(_, name)| !new.slots.contains_key(name)))
        {
            return Err(format!("`{extra}` is not a moment of this network"));
        }
        for (name, slot) in &mut new.slots {
            for (kind, tensor) in [("m", &mut slot.m), ("v", &mut slot.v)] {
                let key = format!("{kind}.{name}");
                let stored = moments.get(&key).ok_or_else(|| format!("`{key}` is missing"))?;
                if stored.shape != tensor.dims() {
                    return Err(format!("`{key}` is {:?}, not {:?}", stored.shape, tensor.dims()));
                }
                let data = TensorData::new(stored.data.clone(), stored.shape.clone());
                *tensor = Tensor::from_data(data, &tensor.device());
            }
        }
        if let Some(average) = average {
            params::update(average.valid(), &mut GradientsParams::new(), |p| {
                if let Some(slot) = new.slots.get_mut(p.name) {
                    slot.average = Some(p.value.clone());
                }
                p.value
            });
        }
        Ok(new)
    }
}
