//! Uniform numbers for the families' samplers: recorded ones in the order of a reference's calls, or seeded ones.

use std::collections::VecDeque;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};

/// Where uniforms in [0, 1) come from.
#[derive(Debug, Clone)]
pub enum Draws {
    /// One tensor for each call of the reference, in call order.
    Recorded(VecDeque<Vec<f32>>),
    Seeded(Box<ChaCha8Rng>),
}

impl Draws {
    /// No draws at all: for samplers that take none.
    pub fn none() -> Self {
        Draws::Recorded(VecDeque::new())
    }

    /// A record of `calls` tensors of equal size, one behind the other.
    pub fn recorded(values: &[f32], calls: usize) -> Self {
        let size = values.len() / calls.max(1);
        Draws::Recorded(values.chunks(size.max(1)).map(<[f32]>::to_vec).collect())
    }

    /// The next `n` uniforms.
    ///
    /// # Errors
    /// A record that has none left, or another number of them (input).
    pub fn next(&mut self, n: usize) -> Result<Vec<f64>> {
        match self {
            Draws::Seeded(rng) => Ok((0..n).map(|_| rng.random::<f64>()).collect()),
            Draws::Recorded(calls) => match calls.pop_front() {
                Some(call) if call.len() == n => Ok(call.into_iter().map(f64::from).collect()),
                Some(call) => {
                    Err(Error::input(format!("a recorded draw has {} numbers, and {n} are needed", call.len())))
                }
                None => Err(Error::input("the recorded draws are used up")),
            },
        }
    }
}

/// The winner of the exponential race: argmax weight_v / (1e-10 - ln(u_v + 1e-10)), the first of equals.
///
/// Weights need not sum to 1, and may be negative (SEDD's Euler step), as in the reference codes.
pub fn race(weights: &[f64], uniforms: &[f64]) -> u32 {
    let score = |v: usize| weights[v] / (1e-10 - (uniforms[v] + 1e-10).ln());
    let mut best = (0, f64::NEG_INFINITY);
    for v in 0..weights.len() {
        let s = score(v);
        if s > best.1 {
            best = (v, s);
        }
    }
    best.0 as u32
}
