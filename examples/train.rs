//! A study from a recipe: `cargo run --release --example train -- tiny runs/tiny`. The same call goes on where it was stopped.

use fewstep::prelude::*;

/// Trains, evaluates, reports and exports what is missing, and prints a line for each row.
///
/// # Errors
/// A recipe that contradicts itself (usage); data that cannot be read (input); I/O.
pub fn run(recipe: &str, out: &str) -> Result<()> {
    let results = Study::open(recipe)?.set("eval.speed_repeats=1").out(out).run()?;
    for model in &results.models {
        for row in &model.rows {
            let nll = row.scores[&results.data.nll_name].mean;
            println!("{:<10} {:>4} steps  nll {nll:.3}", model.name, row.steps);
        }
    }
    Ok(())
}

#[allow(dead_code)] // the tests call `run`
fn main() -> Result<()> {
    // The library is quiet unless it is asked for its progress.
    fewstep::term::set_loudness(fewstep::term::Loudness::Normal);
    let mut arguments = std::env::args().skip(1);
    let recipe = arguments.next().unwrap_or("tiny".into());
    run(&recipe, &arguments.next().unwrap_or("runs/tiny".into()))
}
