//! One comparison of a gate: a change with its interval, and what chance alone would make of it (Holm 1979 over all of them).

use super::{Finding, GateConfig, GateRule, Outcome};
use crate::eval::metric::Metric;
use crate::eval::results::{Direction, ModelResult, Results, Row, Speed};
use crate::eval::stats::{
    Change, Estimate, Pairing, Spread, change_error, change_interval, mean, outside, seeds_change, student_t,
    student_t_at,
};

/// A comparison is blind where it cannot see a change of so many times its limit.
const SEEN: f64 = 3.0;

/// What a comparison of quality is settled by, once the number of all is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial {
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
pub(super) fn settle(all: &mut [(Finding, Option<Trial>)], level: f64) {
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
pub(super) struct Pair<'a> {
    pub(super) baseline: &'a Results,
    pub(super) candidate: &'a Results,
    pub(super) model: &'a ModelResult,
    pub(super) other_model: &'a ModelResult,
    pub(super) row: &'a Row,
    pub(super) other_row: &'a Row,
    pub(super) same_weights: bool,
    pub(super) same_machine: bool,
}

impl Pair<'_> {
    pub(super) fn compare(&self, rule: &GateRule, config: &GateConfig) -> (Finding, Option<Trial>) {
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
pub(super) fn paired(a: &Row, b: &Row) -> bool {
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
pub(super) fn to_the_worse(better: Direction, change: Estimate) -> f64 {
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
pub(super) fn decide(better: Direction, change: Estimate, limit: f64) -> Outcome {
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
pub(super) fn samples_needed(better: Direction, change: Estimate, limit: f64, n: usize) -> Option<usize> {
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

/// Whether a row has a score, or a time.
pub(super) fn has(results: &Results, row: &Row, metric: Metric) -> bool {
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
