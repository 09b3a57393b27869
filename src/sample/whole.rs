//! The walk of noise without a mask: every pass reads all positions, and any of them may change in it.
//!
//! K passes, K L positions. What is given stays. A sample is a function of (seed, its number): its start from one stream, its
//! steps from another. L length, K steps.

use std::time::Instant;

use rand_chacha::ChaCha8Rng;

use super::{SampleSpec, Samples};
use crate::error::Result;
use crate::rng::{StepRng, Stream};

/// How long a walk is: L, K, and the layers that a position passes.
pub(super) struct Extent {
    pub length: usize,
    pub steps: usize,
    pub layers: usize,
}

/// Draws `n` samples: `noise` draws a position's start, `step` makes tokens [B L] of those before step k.
///
/// # Errors
/// Those of `step`.
pub(super) fn walk(
    extent: &Extent,
    spec: &SampleSpec,
    n: usize,
    noise: impl Fn(&mut ChaCha8Rng) -> u32,
    step: impl Fn(usize, &[u32], &mut [ChaCha8Rng]) -> Result<Vec<u32>>,
) -> Result<Samples> {
    let (start, l, steps) = (Instant::now(), extent.length, extent.steps);
    let rng = StepRng::new(spec.seed);
    let mut out = Samples::default();
    for from in (0..n).step_by(spec.batch.max(1)) {
        let numbers = spec.first + from..spec.first + n.min(from + spec.batch.max(1));
        let mut draws: Vec<ChaCha8Rng> = numbers.clone().map(|i| rng.at(i as u64, Stream::Token)).collect();
        let begin = |i: u64| {
            let mut own = rng.at(i, Stream::Reveal);
            let row = (0..l).map(|p| (noise(&mut own), spec.pinned.get(p).copied().flatten()));
            row.map(|(noise, given)| given.unwrap_or(noise)).collect::<Vec<u32>>()
        };
        let mut x: Vec<u32> = numbers.clone().flat_map(|i| begin(i as u64)).collect();
        let mut trace = vec![x.clone()];
        for k in 0..steps {
            x = step(k, &x, &mut draws)?;
            if spec.trace {
                trace.push(x.clone());
            }
        }
        let row = |x: &Vec<u32>, i: usize| x[i * l..(i + 1) * l].to_vec();
        for i in 0..numbers.len() {
            out.tokens.push(row(&x, i));
            out.trace.extend(spec.trace.then(|| trace.iter().map(|x| row(x, i)).collect()));
            out.nfe.push(steps);
            out.positions.push((steps * l) as u64);
            out.layer_positions.push((steps * l * extent.layers) as u64);
        }
    }
    out.seconds = start.elapsed().as_secs_f64();
    Ok(out)
}
