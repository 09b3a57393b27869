//! The teacher of a distillation by rounds: at the border of a round the student so far takes its place.

use super::contract::{Kept, Nets, Parts};
use super::refresh::Refresh;
use crate::error::Result;
use crate::model::Transformer;

/// The teacher of the round under way, on a plain device.
pub struct Teacher<'a> {
    /// The first round's, where it is not the network that the training starts with; checkpoints do not hold it.
    given: Option<&'a Transformer>,
    now: Option<Transformer>,
    round: usize,
}

impl<'a> Teacher<'a> {
    /// The one that is `given`, or the network that the training starts with.
    pub fn new(given: Option<&'a Transformer>) -> Self {
        Teacher { given, now: None, round: 0 }
    }

    /// The round under way.
    pub fn round(&self) -> usize {
        self.round
    }

    /// The network.
    ///
    /// # Panics
    /// Before the training has started.
    pub fn network(&self) -> &Transformer {
        match &self.now {
            Some(network) => network,
            None => panic!("a training has started before its first step"),
        }
    }

    /// As a training begins with the network `model`.
    pub fn start(&mut self, model: &Transformer) {
        use burn::module::Module;
        self.now = Some(self.given.map_or_else(|| model.valid(), Transformer::clone));
    }

    /// Takes the student so far where `round` has begun.
    pub fn advance(&mut self, round: usize, refresh: Refresh, nets: &Nets) {
        use burn::module::Module;
        if round > self.round {
            self.round = round;
            let averaged = match refresh {
                Refresh::Ema => (nets.average)(),
                Refresh::Raw => None,
            };
            self.now = Some(averaged.unwrap_or_else(|| nets.model.valid()));
        }
    }

    /// What a checkpoint keeps of it.
    pub fn save(&self) -> Kept {
        // The first round's teacher may lie elsewhere.
        let kept = self.now.as_ref().filter(|_| self.given.is_none() || self.round > 0);
        let networks = kept.map(|teacher| ("teacher", teacher.clone(), None)).into_iter().collect();
        Kept { round: self.round, networks, ..Kept::default() }
    }

    /// Takes up what a checkpoint kept.
    ///
    /// # Errors
    /// A checkpoint without the teacher (input).
    pub fn load(&mut self, from: &Parts) -> Result<()> {
        self.round = from.round;
        self.now = match self.given.filter(|_| from.round == 0) {
            Some(teacher) => Some(teacher.clone()),
            None => (from.network)("teacher")?,
        };
        match self.now {
            Some(_) => Ok(()),
            None => Err(from.missing()),
        }
    }
}
