//! A training objective of a program's own: `cargo run --release --example own_method -- 300`.
//!
//! An objective is which rows count, with which weights, against which target. This one masks a whole run of positions and learns it
//! from both sides, as span corruption does, in place of positions one by one.

use fewstep::data::story::{Story, StoryConfig};
use fewstep::prelude::*;
use rand::Rng;
use std::sync::Arc;

/// The rows of a batch: in each sequence one masked run, each of its positions counting the same.
fn spans(model: &Transformer, batch: &Batch) -> RowLoss {
    let (length, (mut draws, _)) = (batch.length, batch.draws());
    let (mut xt, mut t, mut rows) = (batch.x0.clone(), Vec::new(), Vec::new());
    for i in 0..batch.x0.len() / length {
        let size = draws.random_range(1..=length);
        let from = i * length + draws.random_range(0..=length - size);
        xt[from..from + size].fill(model.mask());
        // A network is told how much of a sequence is masked.
        t.extend(vec![size as f64 / length as f64; length]);
        rows.extend(from..from + size);
    }
    RowLoss {
        input: Noised::tokens(&xt, &t, length),
        weights: vec![1.0 / rows.len() as f64; rows.len()],
        target: Target::Tokens(rows.iter().map(|r| batch.x0[*r]).collect()),
        rows,
        alpha: None,
    }
}

/// Trains by it, next to the negative ELBO; returns the negative log-likelihood of both models' samples in 8 steps.
///
/// # Errors
/// A device that is not there (device); a loss that is not finite (non-finite).
pub fn run(steps: usize) -> Result<[f64; 2]> {
    let data = Data::Story(Arc::new(Story::new(&StoryConfig::default())?));
    let config = TransformerConfig { learned_positions: true, ..TransformerConfig::new(48, 2, 4, Visibility::Full) };
    let device = training_device()?;
    let trainer = || {
        let model = Transformer::init(&config, data.vocab(), data.length(), 1, &device);
        Trainer::new(model, &data).steps(steps).lr(3e-3)
    };
    let own = trainer().by("spans", |model, batch| Ok(spans(model, batch)))?;
    let elbo = trainer().elbo()?;
    let evaluation = Evaluation::new("spans", &data).samples(64).steps(&[8]);
    let results = evaluation.teacher("spans", &own).teacher("elbo", &elbo).run()?;
    let nll = |i: usize| results.models[i].rows[0].scores["oracle_nll"].mean;
    println!("nll of samples in 8 steps: spans {:.3}, elbo {:.3}", nll(0), nll(1));
    Ok([nll(0), nll(1)])
}

#[allow(dead_code)] // the tests call `run`
fn main() -> Result<()> {
    run(std::env::args().nth(1).and_then(|steps| steps.parse().ok()).unwrap_or(300)).map(|_| ())
}
