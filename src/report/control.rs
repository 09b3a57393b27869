//! The table of controllable generation (eval/control.rs).

use super::table::{NOTHING, Table, interval, names, short, shown};
use crate::eval::control::{Control, ControlRow};
use crate::eval::results::{ModelResult, Results};

/// Score keys with their headings, in the order of the columns.
const SCORES: [(&str, &str); 8] = [
    ("attribute", "attribute ↑"),
    ("length", "length ↑"),
    ("both", "both ↑"),
    ("judge_nll", "judge nll ↓"),
    ("oracle_nll", "oracle nll ↓"),
    ("valid", "valid ↑"),
    ("well_formed", "well formed ↑"),
    ("entropy", "entropy"),
];

fn measured(results: &Results) -> Vec<(&ModelResult, &Control)> {
    shown(results).into_iter().filter_map(|m| Some((m, m.control.as_ref()?))).collect()
}

/// The table, with real sentences first; none where control was not measured.
pub fn table(results: &Results) -> Option<Table> {
    let all = measured(results);
    let (_, first) = all.first()?;
    let keys: Vec<_> = SCORES.into_iter().filter(|(key, _)| first.reference.contains_key(*key)).collect();
    let mut header = names(["model", "told by", "steps"]);
    header.extend(keys.iter().map(|k| k.1.to_string()));
    header.extend(names(["distinct-2 of all", "unique", "NFE", "positions", "n"]));
    let mut real: Vec<String> = vec!["held-out sentences".into(), NOTHING.into(), NOTHING.into()];
    real.extend(keys.iter().map(|(key, _)| interval(first.reference[*key])));
    real.extend([NOTHING, NOTHING, NOTHING, NOTHING].map(String::from));
    real.push(first.rows.first().map_or(NOTHING.into(), |r| r.n.to_string()));
    let row = |model: &ModelResult, row: &ControlRow| {
        let mut cells = vec![model.name.clone(), row.arm.words().into(), row.steps.to_string()];
        cells.extend(keys.iter().map(|(key, _)| row.scores.get(*key).map_or(NOTHING.into(), |e| interval(*e))));
        cells
            .extend(["self_distinct_2", "unique"].map(|key| row.corpus.get(key).map_or(NOTHING.into(), |x| short(*x))));
        cells.extend([short(row.nfe), short(row.positions), row.n.to_string()]);
        cells
    };
    let drawn = all.iter().flat_map(|(model, control)| control.rows.iter().map(move |r| row(model, r)));
    Some(Table { title: "Controllable generation".into(), header, rows: std::iter::once(real).chain(drawn).collect() })
}

/// How the table is read; none where there is none.
pub fn reading(results: &Results) -> Option<String> {
    measured(results).first()?;
    Some(
        "Controllable generation: every model draws one sentence for each of the same held-out conditions. `attribute` is \
         the share of sentences that tell the value asked for, `length` of those whose length is of the class asked for. \
         The judge's nll is per token of the sentence alone, and falls where sentences are dull: read it beside entropy and \
         distinct-2, and beside the held-out sentences' own, which fulfil their conditions by construction: their 1 measures \
         nothing. `nothing asked` is the floor, the same conditions met by chance. An attribute of a file, `near` and `name` \
         among them, is told by its words alone, wherever they stand. `well formed` is the share of sequences with one end and \
         padding alone behind it; the other scores read up to the first end or padding. \
         NFE and positions of guidance count two passes of the classifier for each of its updates, forward and backward."
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::control::Arm;
    use crate::eval::results::fixture;
    use crate::eval::stats::mean_interval;
    use indexmap::IndexMap;

    fn with_control(mut results: Results) -> Results {
        let samples = IndexMap::from([
            ("attribute".to_string(), vec![1.0, 0.0, 1.0, 1.0]),
            ("judge_nll".to_string(), vec![1.5, 1.0, 2.0, 1.5]),
            ("entropy".to_string(), vec![2.0, 2.0, 2.5, 2.5]),
        ]);
        let scores: IndexMap<_, _> = samples.iter().map(|(k, v)| (k.clone(), mean_interval(v, 0))).collect();
        for (model, arm) in results.models.iter_mut().zip([Arm::Prefix, Arm::Infilling]) {
            let corpus = IndexMap::from([("unique".to_string(), 0.75), ("self_distinct_2".to_string(), 0.5)]);
            let row = ControlRow {
                arm,
                steps: 8,
                n: 4,
                nfe: 7.5,
                positions: 240.0,
                scores: scores.clone(),
                samples: samples.clone(),
                corpus,
            };
            model.control = Some(Control { seed: 0, rows: vec![row], reference: scores.clone() });
        }
        results
    }

    #[test]
    fn real_sentences_come_first_and_every_arm_has_a_row_with_what_was_measured() {
        assert!(table(&fixture::text(1)).is_none() && reading(&fixture::text(1)).is_none());
        let results = with_control(fixture::text(1));
        results.check().unwrap();
        let table = table(&results).unwrap();
        assert!(table.rows.iter().all(|r| r.len() == table.header.len()));
        assert!(!table.header.contains(&"length ↑".to_string()), "{:?}", table.header);
        assert_eq!(table.rows[0][0], "held-out sentences");
        assert!(
            table.rows.iter().any(|r| r[1] == "condition as prefix" && r[3].starts_with("0.75")),
            "{:?}",
            table.rows
        );
    }

    #[test]
    fn results_whose_control_scores_are_not_as_many_as_conditions_are_refused() {
        let mut results = with_control(fixture::text(1));
        results.models[0].control.as_mut().unwrap().rows[0].n = 5;
        assert!(results.check().unwrap_err().to_string().contains("control in 8 steps: n is 5"));
    }
}
