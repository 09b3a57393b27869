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
mod render;

pub use baseline::baseline;
pub use render::{job_summary, json, junit, summary, text};

use crate::error::{Error, Result, nearest, whole_within, within};
use crate::eval::copies::COPIES;
use crate::eval::metric::Slack;
use crate::eval::results::{DataKind, Direction, Metric, ModelResult, Results, Role, Row, Speed};
use crate::eval::stats::{
    Change, Estimate, Pairing, RESAMPLES, Spread, change_error, change_interval, mean, outside, seeds_change,
    student_t, student_t_at,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// A comparison is blind where it cannot see a change of so many times its limit.
const SEEN: f64 = 3.0;

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

/// What is judged of the results.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection {
    /// These models. None: the students, or all where the baseline has no student, and those that a rule names.
    pub models: Vec<String>,
    /// Every model.
    pub all: bool,
    /// Rows of these steps; none: all.
    pub steps: Vec<usize>,
    /// These metrics; none: all that have a rule.
    pub metrics: Vec<Metric>,
}

impl Selection {
    /// All that the rules cover.
    pub fn everything() -> Self {
        Selection { all: true, ..Selection::default() }
    }

    fn row(&self, steps: usize) -> bool {
        self.steps.is_empty() || self.steps.contains(&steps)
    }

    fn metric(&self, metric: Metric) -> bool {
        self.metrics.is_empty() || self.metrics.contains(&metric)
    }

    /// The models of the baseline that are judged.
    ///
    /// # Errors
    /// A model, steps or a metric that the baseline lacks (usage).
    fn models<'r>(&self, baseline: &'r Results, config: &GateConfig) -> Result<Vec<&'r ModelResult>> {
        let with_rows = || baseline.models.iter().filter(|m| !m.rows.is_empty());
        let names = || with_rows().map(|m| m.name.as_str());
        if let Some(name) = self.models.iter().find(|name| !names().any(|known| known == *name)) {
            return Err(unknown_model("`--model`: the baseline has", name, names()));
        }
        if let Some(steps) = self.steps.iter().find(|steps| !with_rows().any(|m| m.row(**steps).is_some())) {
            let mut known: Vec<usize> = with_rows().flat_map(|m| m.rows.iter().map(|r| r.steps)).collect();
            known.sort_unstable();
            known.dedup();
            let known: Vec<String> = known.iter().map(usize::to_string).collect();
            return Err(Error::usage(format!("`--steps`: the baseline has no row with {steps} steps"))
                .hint(format!("it has {}", known.join(", "))));
        }
        let lacks = |metric: &&Metric| !with_rows().flat_map(|m| &m.rows).any(|row| has(baseline, row, **metric));
        if let Some(metric) = self.metrics.iter().find(lacks) {
            let key = metric.key(&baseline.data.nll_name);
            return Err(Error::usage(format!("`--metric`: the baseline has no `{key}`")));
        }
        let student = |m: &&ModelResult| m.role == Role::Student;
        let any = with_rows().any(|m| student(&m));
        let ruled = |m: &ModelResult| config.rules.iter().any(|r| r.model.as_deref() == Some(&m.name));
        let wanted = |m: &&ModelResult| match self.models.is_empty() {
            false => self.models.contains(&m.name),
            true => self.all || !any || student(m) || ruled(m),
        };
        Ok(with_rows().filter(wanted).collect())
    }
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

/// What a comparison of quality is settled by, once the number of all is known.
#[derive(Debug, Clone, Copy)]
struct Trial {
    /// How far it moved to the worse.
    worse: f64,
    /// Standard error of the change, and the degrees of freedom that this is of.
    error: f64,
    freedom: usize,
    /// The limit.
    size: f64,
    better: Direction,
    /// It is one of those that Holm's correction is over: of a single training seed.
    one_seed: bool,
    /// What it has too few samples for was found already.
    flat: bool,
}

impl Trial {
    /// The probability of a change to the worse of this size, or a larger one, where there is none.
    fn chance(&self) -> f64 {
        if self.worse <= 0.0 {
            return 1.0;
        }
        let both = outside(self.worse / self.error, self.freedom);
        if self.better == Direction::Near { both } else { 0.5 * both }
    }

    /// The smallest change to the worse that has at most this probability.
    fn visible(&self, chance: f64) -> f64 {
        let both = if self.better == Direction::Near { chance } else { 2.0 * chance };
        student_t_at(self.freedom, both.min(0.999)) * self.error
    }
}

/// Says which comparisons fail, by Holm's step-down over those of single training seeds, and which see too little.
fn settle(all: &mut [(Finding, Option<Trial>)], level: f64) {
    let mut family: Vec<(usize, f64)> = Vec::new();
    for (i, (_, trial)) in all.iter().enumerate() {
        family.extend(trial.filter(|t| t.one_seed).map(|t| (i, t.chance())));
    }
    family.sort_by(|a, b| a.1.total_cmp(&b.1));
    let (count, mut reached) = (family.len(), 0.0f64);
    for (rank, (i, chance)) in family.iter().enumerate() {
        reached = reached.max((count - rank) as f64 * chance).min(1.0);
        all[*i].0.chance = Some(reached);
    }
    for (finding, trial) in all.iter_mut().filter_map(|(f, t)| t.map(|t| (f, t))) {
        let chance = finding.chance.unwrap_or(trial.chance());
        finding.chance = Some(chance);
        if finding.outcome == Outcome::Pass || trial.flat {
            continue;
        }
        let alone = if trial.one_seed { level / count as f64 } else { level };
        if trial.worse > trial.size && chance < level {
            finding.outcome = Outcome::Fail;
            (finding.needed, finding.note) = (None, None);
            continue;
        }
        finding.outcome = Outcome::Inconclusive;
        let visible = trial.visible(alone);
        finding.blind = visible > SEEN * trial.size;
        if finding.blind && trial.one_seed {
            let needed = finding.n as f64 * (visible / (SEEN * trial.size.max(1e-12))).powi(2);
            finding.needed = rounded_up(needed, finding.n);
            finding.note = Some(format!("a change of {} times the limit would not be seen", SEEN));
        }
    }
}

/// Everything one comparison reads.
struct Pair<'a> {
    baseline: &'a Results,
    candidate: &'a Results,
    model: &'a ModelResult,
    other_model: &'a ModelResult,
    row: &'a Row,
    other_row: &'a Row,
    same_weights: bool,
    same_machine: bool,
}

impl Pair<'_> {
    fn compare(&self, rule: &GateRule, config: &GateConfig) -> (Finding, Option<Trial>) {
        let mut finding = Finding {
            model: self.model.name.clone(),
            steps: self.row.steps,
            metric: Some(rule.metric),
            key: rule.metric.key(&self.baseline.data.nll_name).into(),
            outcome: Outcome::Inconclusive,
            baseline: None,
            candidate: None,
            change: None,
            limit: Some(rule.limit()),
            pairing: None,
            n: self.row.n.min(self.other_row.n),
            needed: None,
            chance: None,
            blind: false,
            note: None,
        };
        if rule.metric.is_speed() {
            self.compare_speed(rule, &mut finding);
            return (finding, None);
        }
        let trial = self.compare_quality(rule, config, &mut finding);
        (finding, trial)
    }

    fn compare_quality(&self, rule: &GateRule, config: &GateConfig, finding: &mut Finding) -> Option<Trial> {
        let limit = rule.limit();
        let base = scores(self.baseline, self.row, rule.metric).unwrap_or_default();
        finding.baseline = Some(mean(base));
        let Some(cand) = scores(self.candidate, self.other_row, rule.metric) else {
            finding.outcome = Outcome::Fail;
            finding.note = Some("the candidate has no such score".into());
            return None;
        };
        let (own, other, alike) = match rule.metric {
            // The same held-out texts, where they are as many.
            Metric::SamplerNll => {
                let (own, other) = (self.model.text_groups(self.row), self.other_model.text_groups(self.other_row));
                finding.n = base.len().min(cand.len());
                let texts = |row: &Row| row.sampler_nll.as_ref().map(|s| s.texts_sha256.clone());
                let alike = own == other
                    && self.model.seeds() == self.other_model.seeds()
                    && texts(self.row) == texts(self.other_row);
                let kind = |row: &Row| row.sampler_nll.as_ref().map(|s| s.kind);
                if kind(self.row) != kind(self.other_row) {
                    finding.candidate = Some(mean(cand));
                    finding.note = Some("one is the likelihood and the other a bound of it".into());
                    finding.blind = true;
                    return None;
                }
                (own, other, alike)
            }
            _ => {
                let (own, other) = (self.model.groups(self.row), self.other_model.groups(self.other_row));
                (own, other, paired(self.row, self.other_row))
            }
        };
        let pairing = if alike { Pairing::Paired } else { Pairing::Unpaired };
        let seeds = own.len().max(other.len());
        let by_seed = if own == other { pairing } else { Pairing::Unpaired };
        let change = match seeds > 1 {
            true => seeds_change(&means(base, &own), &means(cand, &other), limit.change, by_seed),
            false => change_interval(base, cand, limit.change, pairing, config.resamples, config.seed),
        };
        finding.candidate = Some(mean(cand));
        finding.change = Some(change);
        finding.pairing = Some(pairing);
        let better = rule.metric.better();
        finding.outcome = if inside(better, change, limit.size) { Outcome::Pass } else { Outcome::Inconclusive };
        // The degrees of freedom that the interval is of.
        let (a, b, pairs) = match seeds > 1 {
            true => (own.len(), other.len(), by_seed),
            false => (base.len(), cand.len(), pairing),
        };
        let freedom = match pairs {
            Pairing::Paired => a.saturating_sub(1).max(1),
            Pairing::Unpaired => (a + b).saturating_sub(2).max(1),
        };

        // Scores that never vary give an interval of no width, however few they are. By the rule of three, no event in n
        // samples leaves room for a rate of 3/n; equal weights need no such doubt.
        let fewest = (3.0 / limit.size.max(1e-6)).ceil() as usize;
        let flat = change.low == change.high && limit.change == Change::Absolute && finding.n < fewest;
        let one = finding.n < 2 && (!self.same_weights || change.mean != 0.0);
        let flat = one || finding.outcome == Outcome::Pass && flat && !self.same_weights;
        if flat {
            (finding.outcome, finding.blind) = (Outcome::Inconclusive, true);
            finding.needed = Some(fewest.max(2));
            finding.note = Some("too few samples to see any variation".into());
        } else if finding.outcome == Outcome::Inconclusive && seeds > 1 {
            finding.note = Some(format!("{seeds} training seeds do not settle it: add to `seeds` of the recipe"));
        } else if finding.outcome == Outcome::Inconclusive {
            finding.needed = samples_needed(better, change, limit.size, finding.n);
            finding.note = Some("the change is about the limit".into());
        }
        let error = match seeds > 1 {
            true => 0.5 * (change.high - change.low) / student_t(freedom),
            false => change_error(base, cand, limit.change, pairing),
        };
        let worse = to_the_worse(better, change);
        Some(Trial { worse, error, freedom, size: limit.size, better, one_seed: seeds == 1, flat })
    }

    fn compare_speed(&self, rule: &GateRule, finding: &mut Finding) {
        let limit = rule.limit();
        let base = self.row.speed.map(|s| time(&s, rule.metric));
        let cand = self.other_row.speed.map(|s| time(&s, rule.metric));
        finding.baseline = base.map(|s| s.median);
        finding.candidate = cand.map(|s| s.median);
        let (Some(base), Some(cand)) = (base, cand) else {
            finding.note = Some("the candidate's speed was not measured".into());
            return;
        };
        let between = |b, c| limit.change.between(b, c);
        // Quartile against opposite quartile: timings of two runs are not a sample of anything, so no test is claimed.
        let change = if base == cand {
            Estimate::exact(0.0)
        } else {
            Estimate {
                mean: between(base.median, cand.median),
                low: between(base.q3, cand.q1),
                high: between(base.q1, cand.q3),
            }
        };
        finding.change = Some(change);
        match decide(rule.metric.better(), change, limit.size) {
            _ if !self.same_machine => finding.note = Some("measured on another device or with other settings".into()),
            Outcome::Pass => finding.outcome = Outcome::Pass,
            Outcome::Fail => {
                finding.note = Some("slower than the limit; run again on a quiet machine to confirm".into())
            }
            Outcome::Inconclusive => finding.note = Some("noise of the machine; run again on a quiet one".into()),
        }
    }
}

/// Whether sample i of both rows had the same seeds, of training and of sampling.
fn paired(a: &Row, b: &Row) -> bool {
    let seeds = |r: &Row| r.by_seed.iter().map(|s| (s.seed, s.sampling, s.n)).collect::<Vec<_>>();
    (a.n, a.seed) == (b.n, b.seed) && seeds(a) == seeds(b)
}

/// The mean of each group of values, one after the other.
fn means(values: &[f64], groups: &[usize]) -> Vec<f64> {
    let mut rest = values;
    let mut next = |n: &usize| {
        let (group, after) = rest.split_at(*n);
        rest = after;
        mean(group)
    };
    groups.iter().map(&mut next).collect()
}

/// How far a change goes to the worse.
fn to_the_worse(better: Direction, change: Estimate) -> f64 {
    match better {
        Direction::Lower => change.mean,
        Direction::Higher => -change.mean,
        Direction::Near => change.mean.abs(),
    }
}

/// True where the whole interval of a change is inside the limit.
fn inside(better: Direction, change: Estimate, limit: f64) -> bool {
    let slack = 1e-12; // a change that equals the limit up to rounding is inside
    let (floor, ceiling) = allowed(better, limit);
    change.low >= floor - slack && change.high <= ceiling + slack
}

/// Where the interval of a time lies: inside the limit, wholly outside, or across it.
fn decide(better: Direction, change: Estimate, limit: f64) -> Outcome {
    let slack = 1e-12;
    let (floor, ceiling) = allowed(better, limit);
    if inside(better, change, limit) {
        Outcome::Pass
    } else if change.high < floor - slack || change.low > ceiling + slack {
        Outcome::Fail
    } else {
        Outcome::Inconclusive
    }
}

/// The changes that a limit allows, from and to.
fn allowed(better: Direction, limit: f64) -> (f64, f64) {
    match better {
        Direction::Lower => (f64::NEG_INFINITY, limit),
        Direction::Higher => (-limit, f64::INFINITY),
        Direction::Near => (-limit, limit),
    }
}

/// The samples at which the interval, narrowing with 1/sqrt(n) around the same mean, would no longer cross the limit;
/// rounded up to two digits, None beyond a million.
fn samples_needed(better: Direction, change: Estimate, limit: f64, n: usize) -> Option<usize> {
    let (floor, ceiling) = allowed(better, limit);
    let margin = (change.mean - floor).abs().min((change.mean - ceiling).abs());
    let half = (change.high - change.mean).max(change.mean - change.low);
    let needed = n as f64 * (half / margin).powi(2);
    rounded_up(needed, n)
}

/// A number of samples above `n`, rounded up to two digits; None beyond a million.
fn rounded_up(needed: f64, n: usize) -> Option<usize> {
    if !needed.is_finite() || needed > 1e6 {
        return None;
    }
    let needed = needed.max(n as f64 + 1.0);
    let unit = 10f64.powf((needed.log10().floor() - 1.0).max(0.0));
    Some(((needed / unit).ceil() * unit) as usize)
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

fn has(results: &Results, row: &Row, metric: Metric) -> bool {
    if metric.is_speed() { row.speed.is_some() } else { scores(results, row, metric).is_some() }
}

/// The per-sample scores of a row, if it has any.
fn scores<'a>(results: &Results, row: &'a Row, metric: Metric) -> Option<&'a [f64]> {
    if metric == Metric::SamplerNll {
        return row.sampler_nll.as_ref().map(|s| &s.texts[..]).filter(|s| !s.is_empty());
    }
    row.samples.get(metric.key(&results.data.nll_name)).map(Vec::as_slice).filter(|s| !s.is_empty())
}

/// A speed metric's spread in its own unit.
fn time(speed: &Speed, metric: Metric) -> Spread {
    let rate = |seconds: f64| 1000.0 / seconds.max(1e-12);
    let per_1k = speed.seconds_per_1k_tokens;
    match metric {
        Metric::Throughput => Spread { median: speed.tokens_per_s, q1: rate(per_1k.q3), q3: rate(per_1k.q1) },
        _ => speed.latency_ms,
    }
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

/// Differences that make scores incomparable: an error, or warnings where allowed.
fn mismatches(baseline: &Results, candidate: &Results, allow: bool) -> Result<Vec<String>> {
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
fn machine_differences(baseline: &Results, candidate: &Results) -> Vec<String> {
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
fn copied(candidate: &Results) -> Vec<String> {
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
fn not_measured(baseline: &Results, candidate: &Results, models: &[&ModelResult]) -> Option<String> {
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
fn not_judged(baseline: &Results, candidate: &Results) -> Vec<String> {
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

#[cfg(test)]
mod tests;
