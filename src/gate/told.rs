//! What is told beside the verdicts: what makes two results incomparable, or moves scores a little, and what is not judged.

use super::compare::has;
use crate::error::{Error, Result};
use crate::eval::copies::COPIES;
use crate::eval::metric::Metric;
use crate::eval::results::{DataKind, ModelResult, Results, Role, Row};
use crate::eval::stats::Estimate;

/// Differences that make scores incomparable: an error, or warnings where allowed.
pub(super) fn mismatches(baseline: &Results, candidate: &Results, allow: bool) -> Result<Vec<String>> {
    let (a, b) = (&baseline.data, &candidate.data);
    let kind = |k| match k {
        DataKind::Story => "story",
        DataKind::Pictures => "pictures",
        DataKind::Pairs => "pairs",
        DataKind::Text => "text",
        DataKind::Own => "own data",
    };
    let judge = |r: &Results| -> Vec<String> {
        r.models.iter().filter(|m| m.role == Role::Judge).map(|m| brief(&m.weights_sha256)).collect()
    };
    let fields = [
        ("data kind", kind(a.kind).to_string(), kind(b.kind).to_string()),
        ("vocabulary", a.vocab.to_string(), b.vocab.to_string()),
        ("length", a.length.to_string(), b.length.to_string()),
        ("data sha256", brief(&a.sha256), brief(&b.sha256)),
        ("likelihood", a.nll_name.clone(), b.nll_name.clone()),
        ("judge weights", judge(baseline).join(" "), judge(candidate).join(" ")),
    ];
    let lines: Vec<String> = fields
        .into_iter()
        .filter(|(_, a, b)| a != b)
        .map(|(name, a, b)| format!("{name} differs: baseline `{a}`, candidate `{b}`"))
        .collect();
    if lines.is_empty() || allow {
        return Ok(lines);
    }
    let error = Error::usage("the baseline and the candidate cannot be compared");
    Err(lines.into_iter().fold(error, Error::cause).hint("`--allow-mismatch` compares them all the same"))
}

/// Differences that move scores a little and times a lot.
pub(super) fn machine_differences(baseline: &Results, candidate: &Results) -> Vec<String> {
    let (a, b) = (&baseline.environment, &candidate.environment);
    let fields = [
        ("device", a.device.clone(), b.device.clone()),
        ("dtype", a.dtype.clone(), b.dtype.clone()),
        ("threads", a.threads.to_string(), b.threads.to_string()),
        ("burn version", a.burn.clone(), b.burn.clone()),
        ("cpu_features", a.cpu_features.clone(), b.cpu_features.clone()),
    ];
    let line = |(name, a, b): (&str, String, String)| format!("{name} differs: baseline `{a}`, candidate `{b}`");
    fields.into_iter().filter(|(_, a, b)| a != b).map(line).collect()
}

/// Rows that copy the training text more than held-out text does, whatever the baseline did: their likelihood says less.
pub(super) fn copied(candidate: &Results) -> Vec<String> {
    let Some(real) = candidate.data.reference.get(COPIES) else { return Vec::new() };
    let rows = candidate.models.iter().flat_map(|m| m.rows.iter().map(move |row| (m, row)));
    let above =
        rows.filter_map(|(m, row)| Some((m, row, row.scores.get(COPIES).filter(|own| real.wholly_below(**own))?)));
    let line = |(m, row, own): (&ModelResult, &Row, &Estimate)| {
        format!(
            "model `{}`, steps {}: {:.0} % of the samples copy 64 characters or more of the training text, of held-out text {:.0} %",
            m.name,
            row.steps,
            100.0 * own.mean,
            100.0 * real.mean
        )
    };
    above.map(line).collect()
}

/// Scores that a gate knows by now and the baseline was written without.
pub(super) fn not_measured(baseline: &Results, candidate: &Results, models: &[&ModelResult]) -> Option<String> {
    let rows = |of: &Results, m: &ModelResult, metric| {
        of.model(&m.name).is_some_and(|m| m.rows.iter().any(|row| has(of, row, metric)))
    };
    let newer = |metric: &Metric| {
        models.iter().any(|m| rows(candidate, m, *metric)) && !models.iter().any(|m| rows(baseline, m, *metric))
    };
    let lacking: Vec<&str> =
        [Metric::Unique, Metric::PooledEntropy].into_iter().filter(newer).map(|metric| metric.facts().key).collect();
    (!lacking.is_empty()).then(|| {
        format!(
            "the baseline does not have {} of each sample, so it is not judged: measure it again",
            lacking.join(" and ")
        )
    })
}

/// What only the candidate has.
pub(super) fn not_judged(baseline: &Results, candidate: &Results) -> Vec<String> {
    let mut warnings = Vec::new();
    for model in candidate.models.iter().filter(|m| !m.rows.is_empty()) {
        match baseline.model(&model.name) {
            None => warnings.push(format!("model `{}` is not in the baseline, so it is not judged", model.name)),
            Some(old) => {
                let new: Vec<String> =
                    model.rows.iter().filter(|r| old.row(r.steps).is_none()).map(|r| r.steps.to_string()).collect();
                if !new.is_empty() {
                    let steps = new.join(", ");
                    warnings
                        .push(format!("model `{}`: steps {steps} are not in the baseline, so not judged", model.name));
                }
            }
        }
    }
    warnings
}

fn brief(hash: &str) -> String {
    hash.chars().take(12).collect()
}
