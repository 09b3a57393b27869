//! What training takes, counted.

use super::{Network, Recipe};
use crate::error::Result;
use crate::method::{Beside, Vectors, beside};

impl Recipe {
    /// What training a model takes, counted: forward passes over a sequence and the positions computed in them, those of its
    /// teacher and of reading latents among them. Half an autoencoder reads, half of it writes.
    ///
    /// # Errors
    /// A model that is not there, or a circle of models (usage).
    pub fn train_cost(&self, name: &str, length: usize) -> Result<(u64, u64)> {
        let model = self.model(name)?;
        let [steps, batch, parts] =
            [model.train.steps, model.train.batch, model.train.accumulate].map(|count| count as f64);
        let sequences = steps * batch * parts;
        let network = match self.network(name)? {
            Network::Given(network) => Some(network),
            Network::From(_) => None,
        };
        let twice = match self.latent(name)? {
            Some((_, root)) => {
                root.self_conditioning > 0.0
                    && network.and_then(|n| n.vectors.as_ref()).is_some_and(|v| v.self_conditioning)
            }
            None => false,
        };
        // Self-conditioning reads an estimate first: a teacher always, a model in training in a share of its steps.
        let facts = model.objective.facts();
        let (mut passes, texts) = match facts.vectors {
            Vectors::FewStep(c) => (c.forwards(twice), c.texts()),
            Vectors::Latents(c) => (if twice { 1.0 + c.self_conditioning } else { 1.0 }, 1.0),
            _ => (facts.passes, 0.0),
        };
        let mut positions = passes * network.map_or(length, |n| n.places(length)) as f64;
        // Finished text is read beside the noise.
        let length_of_order = network.map_or(length, |n| n.places(length)).max(1);
        let orders = model.order.all(length_of_order);
        let both =
            orders.iter().filter(|order| beside(**order, length_of_order)).count() as f64 / orders.len().max(1) as f64;
        let reads_both = match facts.beside {
            Beside::Never => false,
            Beside::Blocks => !model.order.phased(),
            Beside::Always => true,
        };
        if reads_both {
            positions *= 1.0 + both;
        }
        if let Some(bottleneck) = network.and_then(|n| n.bottleneck.as_ref()) {
            positions += 2.0 * bottleneck.latents as f64 + length as f64;
            // Phases are read beside the text.
            if bottleneck.decoder.phases(bottleneck.latents, length).is_some() {
                positions += (bottleneck.latents + length) as f64;
            }
        }
        if let Some(vectors) = network.and_then(|n| n.vectors.as_ref()) {
            passes += 0.5 * texts;
            positions += texts * (length + vectors.count) as f64;
        }
        Ok(((sequences * passes).round() as u64, (sequences * positions).round() as u64))
    }
}
