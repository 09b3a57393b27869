//! What training took, in forward passes of a sequence: each model's own, and with all that it was made from.
//!
//! A pass is one run of the network over one training sequence; a distilled model's own passes are its own and its teacher's
//! while it is distilled, and it was made from all that its teacher took before. Positions are passes times length L.

use super::table::{NOTHING, Table, grouped, names};
use crate::eval::results::{ModelResult, Results, Role};

/// The table, where passes were counted.
pub fn table(results: &Results) -> Option<Table> {
    let length = results.data.length as u64;
    // One model may have several entries, one for each way of sampling it.
    let mut seen: Vec<&str> = Vec::new();
    let mut rows = Vec::new();
    for model in results.models.iter().filter(|m| m.role != Role::Oracle && m.train_forwards > 0) {
        if seen.contains(&model.weights_sha256.as_str()) {
            continue;
        }
        seen.push(&model.weights_sha256);
        let made = made_from(results, model);
        let total = model.train_forwards + made.iter().map(|m| m.train_forwards).sum::<u64>();
        let from: Vec<&str> = made.iter().map(|m| m.name.as_str()).collect();
        rows.push(vec![
            model.name.clone(),
            model.objective.clone(),
            grouped(model.train_forwards),
            grouped(positions(model, length)),
            if from.is_empty() { NOTHING.into() } else { from.join(", ") },
            grouped(total),
            grouped(positions(model, length) + made.iter().map(|m| positions(m, length)).sum::<u64>()),
        ]);
    }
    let header = names([
        "model",
        "objective",
        "own passes",
        "own positions",
        "made from",
        "passes with all of it",
        "positions with all of it",
    ]);
    let title = match results.seeds().len() {
        0 => "Training budget".to_string(),
        n => format!("Training budget (of one of {n} seeds)"),
    };
    (!rows.is_empty()).then_some(Table { title, header, rows })
}

/// Positions computed in training; passes times length where they were not counted.
fn positions(model: &ModelResult, length: u64) -> u64 {
    if model.train_positions > 0 { model.train_positions } else { model.train_forwards * length }
}

/// All models that a model was made from, each once: its teacher, its autoencoder, the model whose embedding
/// its noise is made from, those of its teacher, and so on.
fn made_from<'a>(results: &'a Results, model: &'a ModelResult) -> Vec<&'a ModelResult> {
    let mut all: Vec<&ModelResult> = Vec::new();
    let mut open = vec![model];
    while let Some(at) = open.pop() {
        for name in at.codec.iter().chain(&at.neighbours).chain(&at.teacher) {
            let Some(parent) = results.model(name) else { continue };
            if parent.name != model.name && all.iter().all(|m| m.name != parent.name) {
                all.push(parent);
                open.push(parent);
            }
        }
    }
    all
}

/// How the table is read.
pub fn reading(results: &Results) -> Option<String> {
    table(results).map(|_| {
        "Training budgets are counted, not measured: a pass is one forward run of a network over one training sequence (a \
         backward run costs about two more and is not counted). Distilling counts the student's pass and each of its \
         teacher's, and a model made from others is charged with all that they took. A pass of an autoencoder reads and \
         writes; a model of latents is charged with half of one for reading them. Finished text that is read beside noise is not counted twice."
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::results::fixture;

    #[test]
    fn a_student_is_charged_with_its_teacher_and_a_chain_with_every_link_once() {
        let mut results = fixture::story(1);
        results.models[3].teacher = Some("student".into());
        let table = table(&results).unwrap();
        let row = |name: &str| table.rows.iter().find(|r| r[0] == name).unwrap().join(" ");
        assert_eq!(row("ar"), "ar ar 64,000 16,384,000 – 64,000 16,384,000");
        assert_eq!(row("student"), "student sdtt 192,000 49,152,000 teacher 256,000 65,536,000");
        assert!(row("eager").ends_with("student, teacher 448,000 114,688,000"), "{}", row("eager"));
        assert!(table.rows.iter().all(|r| r[0] != "oracle"));
        // What a chain's noise was made from is charged as well.
        results.models[1].neighbours = Some("ar".into());
        assert_eq!(made_from(&results, &results.models[1])[0].name, "ar");
        // A file that was edited into a circle ends all the same.
        results.models[1].teacher = Some("eager".into());
        assert_eq!(made_from(&results, &results.models[1]).len(), 3);
    }

    #[test]
    fn results_from_before_passes_were_counted_have_no_table() {
        let mut results = fixture::story(1);
        results.models.iter_mut().for_each(|m| m.train_forwards = 0);
        assert!(table(&results).is_none() && reading(&results).is_none());
    }
}
