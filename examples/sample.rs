//! Texts from a model: `cargo run --release --example sample -- runs/quickstart/export/student 8`.

use fewstep::prelude::*;

/// Draws and prints three texts.
///
/// # Errors
/// A model that cannot be read (input); steps that its order cannot be walked in (usage).
pub fn run(path: &str, steps: usize) -> Result<()> {
    let model = Model::load(path)?;
    let sampler = model.sampler().steps(steps).seed(1);
    let drawn = sampler.draw(3)?;
    println!("{steps} steps, {} passes, {} positions for a text", drawn.nfe[0], drawn.positions[0]);
    for text in sampler.sample(3)? {
        println!("{text}");
    }
    Ok(())
}

#[allow(dead_code)] // the tests call `run`
fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or("runs/quickstart/export/student".into());
    run(&path, arguments.next().and_then(|steps| steps.parse().ok()).unwrap_or(8))
}
