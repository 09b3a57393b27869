//! Sequences of a program's own: `cargo run --release --example own_data -- 300`.
//!
//! A `Dataset` says how long its sequences are and draws them; here they are counts that go up or down by one, modulo ten.

use fewstep::prelude::*;
use fewstep::rng::{StepRng, Stream};
use rand::Rng;

struct Counting {
    length: usize,
}

impl Counting {
    fn sequence(&self, rng: &mut impl Rng) -> Vec<u32> {
        let (mut digit, step) = (rng.random_range(0..10u32), if rng.random() { 1 } else { 9 });
        let mut next = || {
            digit = (digit + step) % 10;
            digit
        };
        (0..self.length).map(|_| next()).collect()
    }
}

impl Dataset for Counting {
    fn vocab(&self) -> usize {
        10
    }
    fn length(&self) -> usize {
        self.length
    }
    fn batch(&self, seed: u64, part: u64, batch: usize) -> Vec<u32> {
        let mut rng = StepRng::new(seed).at(part, Stream::Batch);
        (0..batch).flat_map(|_| self.sequence(&mut rng)).collect()
    }
    fn held_out(&self, n: usize) -> Vec<Vec<u32>> {
        let mut rng = StepRng::new(0).at(0, Stream::Validation);
        (0..n).map(|_| self.sequence(&mut rng)).collect()
    }
}

/// Trains on it, judged by an autoregressive network of another seed; returns the share of steps by one in samples of 8 steps.
///
/// # Errors
/// A device that is not there (device); a loss that is not finite (non-finite).
pub fn run(steps: usize) -> Result<f64> {
    let (data, device) = (Counting { length: 16 }, training_device()?);
    let trainer = |config: TransformerConfig, seed| {
        let config = TransformerConfig { learned_positions: true, ..config };
        let network = Transformer::init(&config, data.vocab(), data.length(), seed, &device);
        Trainer::new(network, &data).steps(steps).lr(5e-3).seed(seed)
    };
    let judge = trainer(TransformerConfig::causal(48, 2, 4), 7).ar()?;
    let model = trainer(TransformerConfig::new(48, 2, 4, Visibility::Full), 1).elbo()?;
    let results =
        Evaluation::new("counting", &data).judge("judge", &judge).samples(32).teacher("model", &model).run()?;
    for row in results.model("model").iter().flat_map(|model| &model.rows) {
        println!("{:>3} steps  nll by the judge {:.3}", row.steps, row.scores["judge_nll"].mean);
    }
    let drawn = sample(&model.model, &model.process(), &SampleSpec::new(8, 1, 32), 32)?;
    drawn.tokens.iter().take(3).for_each(|tokens| println!("{}", data.decode(tokens)));
    let by_one = |pair: &[u32]| [1, 9].contains(&((pair[1] + 10 - pair[0]) % 10));
    let pairs: Vec<bool> = drawn.tokens.iter().flat_map(|t| t.windows(2).map(by_one).collect::<Vec<_>>()).collect();
    Ok(pairs.iter().filter(|good| **good).count() as f64 / pairs.len() as f64)
}

#[allow(dead_code)] // the tests call `run`
fn main() -> Result<()> {
    let steps = std::env::args().nth(1).and_then(|steps| steps.parse().ok()).unwrap_or(300);
    println!("steps by one: {:.0} %", 100.0 * run(steps)?);
    Ok(())
}
