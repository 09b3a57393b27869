//! What a gate reads of a study's results, and nothing else: a file small enough to lie beside the code that it guards.

use indexmap::IndexMap;

use super::{GateConfig, Selection};
use crate::error::Result;
use crate::eval::results::{Metric, ModelResult, Results, Role, Row, SeedRow};
use crate::eval::stats::{Estimate, mean};

/// Significant digits that are kept of a score: what is rounded off is far inside of every interval.
const DIGITS: usize = 5;

/// The results that a gate compares with: the selected models, steps and metrics (of the rules, and those that are judged by default), and
/// the judge's hash. Scores have five significant digits.
///
/// # Errors
/// A model, steps or a metric that the results lack (usage).
pub fn baseline(results: &Results, config: &GateConfig, selection: &Selection) -> Result<Results> {
    let names: Vec<&str> = selection.models(results, config)?.iter().map(|m| m.name.as_str()).collect();
    let ruled = |metric: &Metric| {
        let default = GateConfig::default();
        config.rules.iter().chain(&default.rules).any(|rule| rule.metric == *metric)
    };
    let keys: Vec<&str> = Metric::all()
        .filter(|metric| ruled(metric) && selection.metric(*metric))
        .map(|metric| metric.key(&results.data.nll_name))
        .collect();
    let kept = |m: &&ModelResult| m.role == Role::Judge || names.contains(&m.name.as_str());
    let models = results.models.iter().filter(kept).map(|model| ModelResult {
        rows: model.rows.iter().filter(|r| selection.row(r.steps)).map(|row| reduced(row, &keys)).collect(),
        sweep: Vec::new(),
        flexibility: None,
        control: None,
        reconstruction: None,
        ..model.clone()
    });
    Ok(Results { models: models.collect(), context: None, ..results.clone() })
}

fn reduced(row: &Row, keys: &[&str]) -> Row {
    let samples: IndexMap<String, Vec<f64>> = row
        .samples
        .iter()
        .filter(|(key, _)| keys.contains(&key.as_str()))
        .map(|(key, values)| (key.clone(), values.iter().map(|v| rounded(*v)).collect()))
        .collect();
    let scores = row.scores.iter().filter_map(|(key, score)| Some((key.clone(), moved(*score, samples.get(key)?))));
    Row {
        scores: scores.collect(),
        corpus: IndexMap::new(),
        sampler_nll: row.sampler_nll.clone().filter(|_| keys.contains(&Metric::SamplerNll.facts().key)).map(
            |mut own| {
                own.texts.iter_mut().for_each(|v| *v = rounded(*v));
                own.estimate = moved(own.estimate, &own.texts);
                own
            },
        ),
        examples: Vec::new(),
        by_seed: row.by_seed.iter().map(|part| SeedRow { scores: IndexMap::new(), ..part.clone() }).collect(),
        samples,
        ..row.clone()
    }
}

/// An interval with the mean of its rounded samples.
fn moved(estimate: Estimate, samples: &[f64]) -> Estimate {
    if samples.is_empty() { estimate } else { estimate.minus(estimate.mean - mean(samples)) }
}

/// A score with [`DIGITS`] digits, by way of its decimal text: no scale overflows.
fn rounded(value: f64) -> f64 {
    let rounded = format!("{value:.*e}", DIGITS - 1).parse::<f64>();
    rounded.ok().filter(|rounded| rounded.is_finite()).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::results::fixture;
    use crate::gate::{Outcome, judge};

    #[test]
    fn a_baseline_has_what_a_gate_reads_and_its_verdicts_are_those_of_the_whole_results() {
        let config = GateConfig::default();
        for whole in [fixture::story(1), fixture::text(1), fixture::several(&[1, 2, 3])] {
            let small = baseline(&whole, &config, &Selection::default()).unwrap();
            small.check().unwrap();
            let length = |r: &Results| r.to_json().unwrap().len();
            assert!(2 * length(&small) < length(&whole), "{} {}", length(&small), length(&whole));
            let judged = |base: &Results| judge(base, &whole, &config, &Selection::default(), false).unwrap();
            let (one, other) = (judged(&whole), judged(&small));
            let brief = |v: &crate::gate::Verdict| {
                v.findings.iter().map(|f| (f.model.clone(), f.steps, f.key.clone(), f.outcome)).collect::<Vec<_>>()
            };
            assert_eq!(brief(&one), brief(&other));
            assert_eq!(other.outcome(false), Outcome::Pass);
        }
        let one = Selection { models: vec!["student".into()], steps: vec![8], metrics: vec![Metric::Nll], all: false };
        let small = baseline(&fixture::story(1), &config, &one).unwrap();
        assert_eq!(small.models.len(), 1);
        assert_eq!((small.models[0].rows.len(), small.models[0].rows[0].samples.len()), (1, 1));
        assert!(baseline(&fixture::story(1), &config, &Selection { steps: vec![3], ..Selection::default() }).is_err());
    }

    #[test]
    fn five_digits_are_kept() {
        let of = [1.234_567_8, -0.001_234_567, 123_456.7, 0.0, 1.0, 1e-300, f64::MAX].map(rounded);
        assert_eq!(of[..6], [1.2346, -0.001_234_6, 123_460.0, 0.0, 1.0, 1e-300]);
        assert!(of[6].is_finite());
    }
}
