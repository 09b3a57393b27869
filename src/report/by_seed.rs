//! Several training seeds: the value of each beside their joint interval.

use super::table::{NOTHING, Table, fixed, interval, names, shown};
use crate::eval::results::{DataKind, Metric, ModelResult, Results, Row};
use crate::eval::stats::{Change, Estimate, Pairing, mean, seeds_change};

/// One table for each score that a study is judged by; none for a study of one seed.
pub fn tables(results: &Results) -> Vec<Table> {
    let exact = match results.data.kind {
        DataKind::Story => Some(Metric::Valid),
        DataKind::Pictures => Some(Metric::Agreement),
        DataKind::Text | DataKind::Pairs | DataKind::Own => None,
    };
    if results.seeds().is_empty() {
        return Vec::new();
    }
    let own = results.models.iter().flat_map(|m| &m.rows).any(|r| r.sampler_nll.is_some());
    let own = own.then_some(Metric::SamplerNll);
    own.into_iter().chain([Metric::Nll, Metric::Entropy]).chain(exact).map(|metric| table(results, metric)).collect()
}

fn table(results: &Results, metric: Metric) -> Table {
    let key = metric.key(&results.data.nll_name);
    let mut header = names(["model", "steps"]);
    header.extend(results.seeds().iter().map(|seed| format!("seed {seed}")));
    header.extend(names(["lowest to highest", "mean", "minus its teacher's, same steps"]));
    let mut rows = Vec::new();
    for model in shown(results).into_iter().filter(|m| m.varies()) {
        for row in model.rows.iter().filter(|r| !r.by_seed.is_empty()) {
            let Some(all) = values(model, row, key) else { continue };
            let low = all.iter().copied().fold(f64::MAX, f64::min);
            let high = all.iter().copied().fold(f64::MIN, f64::max);
            let mut cells = vec![model.name.clone(), row.steps.to_string()];
            cells.extend(all.iter().map(|x| fixed(*x)));
            cells.push(format!("{} to {}", fixed(low), fixed(high)));
            cells.push(results.score(row, metric).map_or(NOTHING.into(), interval));
            cells.push(change(results, model, row, key).map_or(NOTHING.into(), interval));
            rows.push(cells);
        }
    }
    Table { title: format!("By training seed: {}", metric.label()), header, rows }
}

/// The mean score of each seed.
fn values(model: &ModelResult, row: &Row, key: &str) -> Option<Vec<f64>> {
    if key == Metric::SamplerNll.key("") {
        let (own, mut from) = (row.sampler_nll.as_ref()?, 0);
        let part = |n: usize| {
            from += n;
            Some(mean(own.texts.get(from - n..from)?))
        };
        return model.text_groups(row).into_iter().map(part).collect();
    }
    row.by_seed.iter().map(|s| s.scores.get(key).copied()).collect()
}

/// A student minus its teacher, seed by seed.
fn change(results: &Results, model: &ModelResult, row: &Row, key: &str) -> Option<Estimate> {
    let teacher = results.model(model.teacher.as_deref()?)?;
    let (own, theirs) = (values(model, row, key)?, values(teacher, teacher.row(row.steps)?, key)?);
    (own.len() == theirs.len()).then(|| seeds_change(&theirs, &own, Change::Absolute, Pairing::Paired))
}

/// How the intervals of several seeds are read.
pub fn reading(results: &Results) -> Option<String> {
    let seeds = results.seeds().len();
    (seeds > 0).then(|| {
        format!(
            "Everything was trained and sampled with {seeds} training seeds. The interval of a model that they change is \
             Student's t over the {seeds} means of the seeds, and so says what other seeds and other samples would move; where \
             all seeds were measured on the same held-out texts, the interval over texts is added in quadrature. With few seeds \
             it is wide: a bootstrap of three values would be narrower and cover too little. Small marks in the plots are the \
             single training seeds. Differences to a teacher are paired by training seed. Models that no seed changes (the \
             oracle, a judge) keep the bootstrap over all samples. Times are those of the first seed."
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::results::fixture;

    #[test]
    fn each_seed_has_a_column_and_a_student_its_paired_difference() {
        let results = fixture::several(&[1, 2, 3]);
        let table = &tables(&results)[0];
        let row = table.rows.iter().find(|r| r[0] == "student" && r[1] == "8").unwrap();
        assert_eq!((table.header[2].as_str(), row.len()), ("seed 1", table.header.len()));
        let row8 = results.model("student").unwrap().row(8).unwrap();
        assert_eq!(row[3], fixed(row8.by_seed[1].scores["oracle_nll"]));
        let teacher = results.model("teacher").unwrap().row(8).unwrap();
        let differences = row8.by_seed.iter().zip(&teacher.by_seed);
        let mean = differences.map(|(a, b)| a.scores["oracle_nll"] - b.scores["oracle_nll"]).sum::<f64>() / 3.0;
        assert!(row.last().unwrap().starts_with(&fixed(mean)), "{row:?}");
        assert!(table.rows.iter().all(|r| r[0] != "oracle"));
        assert!(tables(&fixture::story(1)).is_empty());
    }
}
