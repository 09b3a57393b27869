//! Speed: seconds of sampling after a warm-up, median and quartiles, with the device drained at both ends of a
//! measurement (samples are read back to the host, so nothing is left in flight).

use std::time::Instant;

use crate::error::Result;
use crate::eval::results::Speed;
use crate::eval::stats::Spread;
use crate::sample::{Generator, SampleSpec};

/// Latency of one sample at batch 1 and throughput at `batch`, for `steps` denoising steps.
///
/// `repeats` measurements of each, after one warm-up each.
///
/// # Errors
/// As [`Generator::sample`].
pub fn measure(generator: &Generator, steps: usize, batch: usize, repeats: usize, seed: u64) -> Result<Speed> {
    let time = |n: usize| -> Result<Vec<f64>> {
        let run = |i: usize| -> Result<f64> {
            let begin = Instant::now();
            generator.sample(&SampleSpec::new(steps, seed + i as u64, n), n)?;
            Ok(begin.elapsed().as_secs_f64())
        };
        run(0)?;
        (1..=repeats).map(run).collect()
    };
    let ms: Vec<f64> = time(1)?.into_iter().map(|s| 1e3 * s).collect();
    let tokens = (batch * generator.length()) as f64;
    let per_1k: Vec<f64> = time(batch)?.into_iter().map(|s| 1e3 * s / tokens).collect();
    let per_1k = Spread::of(&per_1k);
    Ok(Speed { batch, latency_ms: Spread::of(&ms), seconds_per_1k_tokens: per_1k, tokens_per_s: 1e3 / per_1k.median })
}
