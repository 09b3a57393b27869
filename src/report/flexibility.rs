//! The tables of the flexibility tasks: filling a gap, and recovery from planted words (eval/flexibility.rs).

use super::table::{NOTHING, Table, interval, names, short, shown};
use crate::eval::flexibility::{Flexibility, Task};
use crate::eval::results::{ModelResult, Results};

/// One table for each task; none where flexibility was not measured.
pub fn tables(results: &Results) -> Vec<Table> {
    let measured: Vec<(&ModelResult, &Flexibility)> =
        shown(results).into_iter().filter_map(|m| Some((m, m.flexibility.as_ref()?))).collect();
    let Some((_, first)) = measured.first() else { return Vec::new() };
    vec![infill(&measured, first.gap), recovery(&measured, first.errors)]
}

/// A score of a task as a cell.
pub fn score(task: &Task, key: &str) -> String {
    task.scores.get(key).map_or(NOTHING.into(), |e| interval(*e))
}

fn infill(measured: &[(&ModelResult, &Flexibility)], gap: usize) -> Table {
    let row = |(model, found): &(&ModelResult, &Flexibility)| {
        let mut cells = vec![model.name.clone(), found.sees.words().into()];
        let keys = ["nll", "posterior_entropy", "valid", "accuracy", "oracle_accuracy"];
        cells.extend(keys.map(|key| score(&found.infill, key)));
        cells.extend([short(found.infill.nfe), found.infill.n.to_string()]);
        cells
    };
    Table {
        title: format!("Flexibility: filling a gap of {gap} tokens"),
        header: names([
            "model",
            "sees",
            "nll of the gap ↓",
            "entropy of the posterior",
            "valid ↑",
            "accuracy ↑",
            "accuracy of exact draws",
            "NFE",
            "n",
        ]),
        rows: measured.iter().map(row).collect(),
    }
}

fn recovery(measured: &[(&ModelResult, &Flexibility)], errors: usize) -> Table {
    let mut rows = Vec::new();
    for (model, found) in measured {
        for (key, task) in found.tasks().filter(|(key, _)| *key != "infill") {
            let mut cells = vec![model.name.clone(), if key == "remasked" { "yes" } else { "no" }.into()];
            cells.extend(["gone", "restored", "kept", "nll", "valid"].map(|key| score(task, key)));
            cells.extend([short(task.nfe), task.n.to_string()]);
            rows.push(cells);
        }
    }
    Table {
        title: format!("Flexibility: recovery from {errors} wrong tokens in a given half"),
        header: names([
            "model",
            "remasking",
            "wrong tokens gone ↑",
            "restored ↑",
            "right tokens kept ↑",
            "nll ↓",
            "valid ↑",
            "NFE",
            "n",
        ]),
        rows,
    }
}

/// How the tables are read; none where there are none.
pub fn reading(results: &Results) -> Option<String> {
    let steps = results.models.iter().find_map(|m| Some(m.flexibility.as_ref()?.steps))?;
    Some(format!(
        "Flexibility: every model fills the same gaps of the same held-out texts and starts from the same damaged halves, in \
         {steps} steps for each block. An autoregressive model fills a gap from what is left of it. On stories the nll of a gap \
         cannot lie below the entropy of the posterior but by mode seeking. Remasking masks the tokens that the model itself \
         finds least likely, twice as many as are wrong, and draws them anew; its NFE has the passes that look for them."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::results::fixture;

    #[test]
    fn each_task_has_a_table_with_a_row_for_each_model_and_way() {
        assert!(tables(&fixture::story(1)).is_empty() && reading(&fixture::story(1)).is_none());
        let results = fixture::with_flexibility(fixture::story(1));
        let [infill, recovery] = &tables(&results)[..] else { panic!("two tables") };
        assert_eq!(
            infill.rows.iter().map(|r| &r[0][..]).collect::<Vec<_>>(),
            ["ar", "teacher", "oracle", "student", "eager"]
        );
        assert_eq!(infill.rows[0][1], "what is left of it");
        assert!(infill.rows.iter().chain(&recovery.rows).all(|r| !r.contains(&NOTHING.to_string())));
        // The autoregressive model cannot take anything back.
        let ways: Vec<(&str, &str)> = recovery.rows.iter().map(|r| (&r[0][..], &r[1][..])).take(3).collect();
        assert_eq!(ways, [("ar", "no"), ("teacher", "no"), ("teacher", "yes")]);
        for table in [infill, recovery] {
            assert!(table.rows.iter().all(|r| r.len() == table.header.len()));
        }
    }

    #[test]
    fn text_has_no_exact_scores_and_says_so() {
        let mut results = fixture::with_flexibility(fixture::text(1));
        for task in results.models.iter_mut().filter_map(|m| m.flexibility.as_mut()).map(|f| &mut f.infill) {
            task.scores.retain(|key, _| key == "accuracy");
        }
        assert_eq!(tables(&results)[0].rows[0][2..5], [NOTHING, NOTHING, NOTHING]);
    }
}
