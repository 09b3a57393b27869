//! The table of what is copied from the training text (eval/copies.rs).

use super::table::{NOTHING, Table, fixed, interval, names, shown};
use crate::eval::copies::{COPIED, COPIES, WITHOUT};
use crate::eval::results::{Metric, Results};

/// Whether copies were looked for.
pub(super) fn measured(results: &Results) -> bool {
    results.models.iter().flat_map(|m| &m.rows).any(|row| row.scores.contains_key(COPIES))
}

/// The table, with real text first as the control; none where copies were not looked for.
pub fn table(results: &Results) -> Option<Table> {
    if !measured(results) {
        return None;
    }
    let (data, name) = (&results.data, &results.data.nll_name);
    let known = |key: &str| data.reference.get(key).map_or(NOTHING.into(), |e| interval(*e));
    let without = |corpus: &indexmap::IndexMap<String, f64>| corpus.get(WITHOUT).map_or(NOTHING.into(), |x| fixed(*x));
    let mut rows = vec![vec![
        "real data (held out)".into(),
        NOTHING.into(),
        known(COPIED),
        known(COPIES),
        known(name),
        without(&data.corpus),
        data.n_reference.to_string(),
    ]];
    for (model, row) in shown(results).into_iter().flat_map(|m| m.rows.iter().map(move |row| (m, row))) {
        let score = |key: &str| row.scores.get(key).map_or(NOTHING.into(), |e| interval(*e));
        let nll = results.score(row, Metric::Nll).map_or(NOTHING.into(), interval);
        let steps = row.steps.to_string();
        rows.push(vec![
            model.name.clone(),
            steps,
            score(COPIED),
            score(COPIES),
            nll,
            without(&row.corpus),
            row.n.to_string(),
        ]);
    }
    let header =
        names(["model", "steps", "longest match", Metric::Copies.label(), "nll ↓", "nll without copies ↓", "n"]);
    Some(Table { title: "Copies of the training text (longest match in characters)".into(), header, rows })
}

/// How the table is read; none where there is none.
pub fn reading(results: &Results) -> Option<String> {
    measured(results).then(|| {
        "Copies: the longest match of a sample is the longest run of its characters that occurs in the training text, and \
         `copies` is the share of samples with one of 64 characters or more. Held-out text, in windows of the same length, \
         says how much of that is the language's own phrases. A likelihood that is good only with its copies was learnt by \
         heart: read it beside the one without them."
            .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::results::fixture;
    use crate::eval::stats::Estimate;

    #[test]
    fn real_text_is_the_first_row_and_results_without_copies_have_no_table() {
        let mut results = fixture::text(1);
        assert!(table(&results).is_none() && reading(&results).is_none());
        let at = |x: f64| Estimate { mean: x, low: x - 0.01, high: x + 0.01 };
        for (key, x) in [(COPIED, 21.0), (COPIES, 0.02)] {
            results.data.reference.insert(key.into(), at(x));
        }
        results.data.corpus.insert(WITHOUT.into(), 1.25);
        let row = &mut results.models[2].rows[0];
        row.scores.extend([(COPIED.to_string(), at(80.0)), (COPIES.to_string(), at(0.5))]);
        let table = table(&results).unwrap();
        assert_eq!(
            table.rows[0][..4],
            ["real data (held out)", NOTHING, "21.000 [20.990, 21.010]", "0.020 [0.010, 0.030]"]
        );
        assert_eq!(table.rows[0][5], "1.250");
        let student = table.rows.iter().find(|r| r[0] == "student").unwrap();
        assert_eq!((student[3].as_str(), student[5].as_str()), ("0.500 [0.490, 0.510]", NOTHING));
        assert!(table.rows.iter().all(|row| row.len() == table.header.len()) && reading(&results).is_some());
    }
}
