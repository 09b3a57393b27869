//! The quality gate: did a candidate get worse than a baseline, row by row, and is the answer certain?
//!
//! Each (model, steps, metric) is a bootstrap of the change of the mean, paired where sample i had the same seed on both
//! sides. Of studies with several training seeds it is Student's t over the means of the seeds, paired where both sides have the
//! same seeds. Three verdicts:
//!
//! | verdict | holds where |
//! |---|---|
//! | pass | the whole 95 % interval is inside the limit |
//! | fail | the change is beyond the limit, and chance alone would hardly make one to the worse of its size |
//! | inconclusive | neither; it closes the gate only where samples are too few to see a change of three times the limit |
//!
//! Chance is Holm's (1979): over all comparisons of single seeds together, a candidate that changed nothing fails with at most the probability
//! `false_alarms`. Of several training seeds, whose t is of a handful of numbers, it is that of each comparison.
//! Likelihood is never judged without entropy: a student that repeats itself scores well.

mod baseline;
mod compare;
mod render;
mod selection;
mod told;

pub use baseline::baseline;
pub use render::{job_summary, json, junit, summary, text};
pub use selection::Selection;

use compare::{Pair, has, paired, settle};
use told::{copied, machine_differences, mismatches, not_judged, not_measured};

use crate::error::{Error, Result, nearest, whole_within, within};
use crate::eval::metric::Slack;
use crate::eval::results::{Metric, ModelResult, Results, Row};
use crate::eval::stats::{Change, Estimate, Pairing, RESAMPLES};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Most resamples of a comparison.
const MOST_RESAMPLES: usize = 100_000;

/// What a gate checks; every key has a default, and giving `rules` replaces all default rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GateConfig {
    /// Rules; of several that match a row and metric, the last one holds. Default: nll and sampler_nll may rise by 5 %, valid, agreement and the
    /// share of unique samples may drop by 0.05, entropy and pooled_entropy may move by 2 % either way, the share of copies may rise by 0.1,
    /// latency may rise by 25 %.
    pub rules: Vec<GateRule>,
    /// Bootstrap resamples per comparison, 100 to 100,000.
    pub resamples: usize,
    /// Bootstrap seed.
    pub seed: u64,
    /// Probability that a candidate in which nothing changed fails, over all comparisons together; of several training seeds, in each.
    pub false_alarms: f64,
}

/// One limit: how much worse a metric may get.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GateRule {
    pub metric: Metric,
    /// Only this model; default: every model of the baseline.
    #[serde(default)]
    pub model: Option<String>,
    /// Only rows with these numbers of steps; default: every row.
    #[serde(default)]
    pub steps: Option<Vec<usize>>,
    /// Worsening allowed as a share of the baseline's mean (0.05 is 5 %); excludes `absolute`.
    #[serde(default)]
    pub relative: Option<f64>,
    /// Worsening allowed in the metric's own unit; without either key the metric's default limit holds.
    #[serde(default)]
    pub absolute: Option<f64>,
}

impl Default for GateConfig {
    fn default() -> Self {
        let metrics = [
            Metric::SamplerNll,
            Metric::Nll,
            Metric::Valid,
            Metric::Agreement,
            Metric::Entropy,
            Metric::Unique,
            Metric::PooledEntropy,
            Metric::Copies,
            Metric::Latency,
        ];
        GateConfig { rules: metrics.map(GateRule::of).to_vec(), resamples: RESAMPLES, seed: 0, false_alarms: 0.005 }
    }
}

impl GateRule {
    /// The default rule of a metric for every row.
    pub fn of(metric: Metric) -> Self {
        GateRule { metric, model: None, steps: None, relative: None, absolute: None }
    }

    /// The limit that this rule sets.
    pub fn limit(&self) -> Limit {
        let (change, size) = match (self.relative, self.absolute, self.metric.facts().slack) {
            (Some(size), _, _) | (None, None, Slack::Relative(size)) => (Change::Relative, size),
            (None, Some(size), _) | (None, None, Slack::Absolute(size)) => (Change::Absolute, size),
        };
        Limit { change, size }
    }

    fn covers(&self, model: &str, steps: usize) -> bool {
        self.model.as_deref().is_none_or(|m| m == model) && self.steps.as_ref().is_none_or(|s| s.contains(&steps))
    }
}

impl GateConfig {
    /// Checks each rule by itself.
    ///
    /// # Errors
    /// Limits that cannot be meant (usage).
    pub fn check(&self) -> Result<()> {
        for (i, rule) in self.rules.iter().enumerate() {
            let place = format!("gate.rules[{i}]");
            if rule.relative.is_some() && rule.absolute.is_some() {
                return Err(
                    Error::usage(format!("`{place}` has both `relative` and `absolute`")).hint("delete one of them")
                );
            }
            for (key, limit) in [("relative", rule.relative), ("absolute", rule.absolute)] {
                if let Some(limit) = limit {
                    within(&format!("{place}.{key}"), limit, 0.0..=1e9)?;
                }
            }
        }
        // Fewer give no 95 % interval, and more take minutes for each comparison.
        whole_within("gate.resamples", self.resamples, 100..=MOST_RESAMPLES)?;
        within("gate.false_alarms", self.false_alarms, 1e-6..=0.5)
    }

    /// The rule for one metric of one row. Entropy has its default rule wherever likelihood is judged.
    fn rule(&self, metric: Metric, model: &str, steps: usize) -> Option<GateRule> {
        let last = |metric| self.rules.iter().rfind(|r| r.metric == metric && r.covers(model, steps));
        match last(metric) {
            Some(rule) => Some(rule.clone()),
            None if metric == Metric::Entropy => last(Metric::Nll).map(|_| GateRule::of(Metric::Entropy)),
            None => None,
        }
    }
}

/// How far a metric may move to the worse.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    pub change: Change,
    pub size: f64,
}

/// The answer to one comparison, or to all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Pass,
    Fail,
    Inconclusive,
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub model: String,
    pub steps: usize,
    /// None where the candidate lacks the whole row.
    pub metric: Option<Metric>,
    /// The metric's key in the results; `row` where the row is missing.
    pub key: String,
    pub outcome: Outcome,
    /// Means, or medians for metrics of time.
    pub baseline: Option<f64>,
    pub candidate: Option<f64>,
    /// Candidate - baseline, relative or absolute as the limit is.
    pub change: Option<Estimate>,
    pub limit: Option<Limit>,
    pub pairing: Option<Pairing>,
    /// Samples of the smaller side.
    pub n: usize,
    /// Samples that would about settle an inconclusive comparison; None where samples would not.
    pub needed: Option<usize>,
    /// The probability of a change to the worse of this size where nothing changed, for the number of comparisons.
    pub chance: Option<f64>,
    /// It cannot see a change of three times its limit, so that it closes the gate although it is inconclusive.
    pub blind: bool,
    pub note: Option<String>,
}

/// All comparisons and what follows from them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub findings: Vec<Finding>,
    pub warnings: Vec<String>,
}

impl Finding {
    /// True for metrics of time, whose doubts are warnings.
    pub fn is_speed(&self) -> bool {
        self.metric.is_some_and(Metric::is_speed)
    }

    /// True where this comparison alone closes the gate.
    pub fn closes(&self, strict: bool) -> bool {
        match self.outcome {
            Outcome::Pass => false,
            Outcome::Fail => true,
            Outcome::Inconclusive => strict || self.blind,
        }
    }
}

impl Verdict {
    /// The answer to all comparisons: fail if any quality metric failed, inconclusive if one is blind, else pass; other doubts, those about
    /// speed among them, count only when `strict`.
    pub fn outcome(&self, strict: bool) -> Outcome {
        if self.count(Outcome::Fail, false) > 0 {
            Outcome::Fail
        } else if self.findings.iter().any(|f| f.closes(strict)) {
            Outcome::Inconclusive
        } else {
            Outcome::Pass
        }
    }

    /// True when the process may exit with 0; else it exits with 1.
    pub fn passes(&self, strict: bool) -> bool {
        self.outcome(strict) == Outcome::Pass
    }

    /// The number of comparisons with that outcome, of speed or of quality.
    pub fn count(&self, outcome: Outcome, speed: bool) -> usize {
        self.findings.iter().filter(|f| f.outcome == outcome && f.is_speed() == speed).count()
    }
}

/// Compares every row of `baseline` that a rule covers with the same row of `candidate`. A row, model or score that the
/// candidate lacks is a failed comparison.
///
/// # Errors
/// Rules that cannot be meant or match nothing, and results of different data, vocabulary, length or judge unless
/// `allow_mismatch` (usage).
pub fn judge(
    baseline: &Results,
    candidate: &Results,
    config: &GateConfig,
    selection: &Selection,
    allow_mismatch: bool,
) -> Result<Verdict> {
    config.check()?;
    baseline.check()?;
    candidate.check()?;
    known_names(baseline, config)?;
    let mut warnings = mismatches(baseline, candidate, allow_mismatch)?;
    let machine = machine_differences(baseline, candidate);
    let same_machine = machine.is_empty();
    warnings.extend(machine);

    let (mut all, mut unpaired) = (Vec::new(), 0);
    let models = selection.models(baseline, config)?;
    for &model in &models {
        let other = candidate.model(&model.name);
        for row in model.rows.iter().filter(|row| selection.row(row.steps)) {
            let rules = Metric::all().filter_map(|m| config.rule(m, &model.name, row.steps));
            let rules: Vec<GateRule> =
                rules.filter(|r| selection.metric(r.metric) && has(baseline, row, r.metric)).collect();
            let Some((other_model, other_row)) = other.and_then(|m| Some((m, m.row(row.steps)?))) else {
                all.extend(missing_row(model, row, other.is_some(), &rules).map(|finding| (finding, None)));
                continue;
            };
            unpaired += usize::from(!paired(row, other_row) && !rules.is_empty());
            let same_weights = other_model.weights_sha256 == model.weights_sha256;
            let pair = Pair { baseline, candidate, model, other_model, row, other_row, same_weights, same_machine };
            all.extend(rules.iter().map(|rule| pair.compare(rule, config)));
        }
    }
    settle(&mut all, config.false_alarms);
    let mut findings: Vec<Finding> = all.into_iter().map(|(finding, _)| finding).collect();
    mark_collapse(&mut findings);
    if unpaired > 0 {
        let message =
            format!("{unpaired} rows differ in n or sampling seed, so they are compared unpaired (wider intervals)");
        warnings.push(message);
    }
    warnings.extend(not_measured(baseline, candidate, &models));
    warnings.extend(copied(candidate));
    warnings.extend(not_judged(baseline, candidate));
    if findings.is_empty() {
        return Err(Error::usage("the gate has nothing to judge: no rule matches a score of the baseline")
            .hint("delete `gate.rules` to use the default rules"));
    }
    Ok(Verdict { findings, warnings })
}

/// Too good is suspicious: likelihood that improves while entropy leaves its limit downwards, within samples or between them, is collapse.
fn mark_collapse(findings: &mut [Finding]) {
    let change = |f: &Finding| f.change.map_or(0.0, |c| c.mean);
    let improved: HashSet<(String, usize)> = findings
        .iter()
        .filter(|f| f.metric == Some(Metric::Nll) && change(f) < 0.0)
        .map(|f| (f.model.clone(), f.steps))
        .collect();
    let varied = [Some(Metric::Entropy), Some(Metric::PooledEntropy), Some(Metric::Unique)];
    for f in findings.iter_mut().filter(|f| varied.contains(&f.metric)) {
        if improved.contains(&(f.model.clone(), f.steps)) && change(f) < 0.0 {
            match f.outcome {
                Outcome::Fail => f.note = Some("collapse: likelihood improves because text repeats itself".into()),
                Outcome::Inconclusive => {
                    f.note = Some("possible collapse: likelihood improves as entropy falls".into())
                }
                Outcome::Pass => {}
            }
        }
    }
}

fn missing_row(model: &ModelResult, row: &Row, has_model: bool, rules: &[GateRule]) -> Option<Finding> {
    if rules.iter().all(|r| r.metric.is_speed()) {
        return None;
    }
    let what = if has_model { "the candidate lacks this row" } else { "the candidate lacks this model" };
    Some(Finding {
        model: model.name.clone(),
        steps: row.steps,
        metric: None,
        key: "row".into(),
        outcome: Outcome::Fail,
        baseline: None,
        candidate: None,
        change: None,
        limit: None,
        pairing: None,
        n: row.n,
        needed: None,
        chance: None,
        blind: false,
        note: Some(what.into()),
    })
}

/// Rules that name a model or a number of steps which the baseline lacks would never fail: refuse them.
fn known_names(baseline: &Results, config: &GateConfig) -> Result<()> {
    for (i, rule) in config.rules.iter().enumerate() {
        if let Some(name) = &rule.model
            && baseline.model(name).is_none()
        {
            let names = baseline.models.iter().map(|m| m.name.as_str());
            return Err(unknown_model(&format!("`gate.rules[{i}]`: the baseline has"), name, names));
        }
        let covered = |m: &ModelResult, steps| m.rows.iter().any(|r| r.steps == steps && rule.covers(&m.name, steps));
        for &steps in rule.steps.iter().flatten() {
            if !baseline.models.iter().any(|m| covered(m, steps)) {
                return Err(Error::usage(format!("`gate.rules[{i}]`: the baseline has no row with {steps} steps")));
            }
        }
        let named = rule.metric.key(&baseline.data.nll_name);
        let scored =
            |m: &ModelResult| m.rows.iter().any(|r| rule.covers(&m.name, r.steps) && has(baseline, r, rule.metric));
        let default = *rule == GateRule::of(rule.metric);
        if !default && !baseline.models.iter().any(scored) {
            return Err(Error::usage(format!(
                "`gate.rules[{i}]`: the baseline has no `{named}` in the rows it covers"
            )));
        }
    }
    Ok(())
}

fn unknown_model<'a>(place: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Error {
    let known: Vec<&str> = known.into_iter().collect();
    let error = Error::usage(format!("{place} no model `{name}`"));
    match nearest(name, known.iter().copied()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!("it has `{}`", known.join("`, `"))),
    }
}

#[cfg(test)]
mod tests;
