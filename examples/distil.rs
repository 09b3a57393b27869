//! A teacher, and a student of few steps, from code alone: `cargo run --release --example distil -- 600 runs/distil`.

use fewstep::data::story::{Story, StoryConfig};
use fewstep::prelude::*;
use std::sync::Arc;

/// Trains a masked diffusion, distils it twice, compares the three, and writes a report and the student into `out`.
///
/// # Errors
/// A device that is not there (device); a loss that is not finite (non-finite); a refused write (I/O).
pub fn run(steps: usize, out: &str) -> Result<Results> {
    // Stories of 32 tokens, whose likelihood is known.
    let data = Data::Story(Arc::new(Story::new(&StoryConfig::default())?));
    let config = TransformerConfig { learned_positions: true, ..TransformerConfig::new(64, 2, 4, Visibility::Full) };
    let device = training_device()?;
    let new = |seed| Transformer::init(&config, data.vocab(), data.length(), seed, &device);
    let trainer = |model| Trainer::new(model, &data).steps(steps).lr(3e-3).ema(0.99);

    let teacher = trainer(new(1)).elbo()?;
    // The student starts as its teacher. In each of three rounds it learns two steps in one: from 32 steps to 16, 8 and 4.
    let fewer = trainer(teacher.trainable()).lr(1e-3).sdtt(&teacher.model, &SdttConfig::new(32, 3))?;
    // The same budget without a teacher.
    let more = trainer(teacher.trainable()).lr(1e-3).elbo()?;

    let results = Evaluation::new("distil", &data)
        .samples(64)
        .steps(&[4, 8, 16])
        .teacher("teacher", &teacher)
        .teacher("more", &more)
        .student("student", &fewer, "teacher")
        .run()?;
    for model in &results.models {
        for row in &model.rows {
            println!("{:<8} {:>3} steps  nll {:.3}", model.name, row.steps, row.scores["oracle_nll"].mean);
        }
    }
    write_report(&results, out)?;
    fewer.export(&data, format!("{out}/student"))?;
    Ok(results)
}

#[allow(dead_code)] // the tests call `run`
fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let steps = arguments.next().and_then(|steps| steps.parse().ok()).unwrap_or(600);
    run(steps, &arguments.next().unwrap_or("runs/distil".into())).map(|_| ())
}
