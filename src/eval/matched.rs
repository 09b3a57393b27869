//! Comparison at equal entropy: a model's NLL read off its temperature curve where its samples are as varied as real text.
//!
//! exp(NLL) under a judge mixes quality and variety, so that a lower temperature alone "improves" it (methods of the
//! field: sweep the temperature, then interpolate at the data's entropy). For each temperature T the mean unigram entropy
//! H(T) and the mean NLL(T) of n samples make a point; between neighbouring points NLL is linear in H. Nothing is
//! extrapolated, and the data's mean entropy is taken as given (its own interval is in the results). Intervals resample whole
//! samples: sample i has the same seed at every temperature, so all temperatures (and, for a change, both models) use the same
//! resampled indices. Of a study with several training seeds each seed has a curve of its own, and the interval is Student's
//! t over what the seeds' curves give; a change is then paired by seed and sample.

use std::ops::Range;

use rand::RngCore;

use super::results::{ModelResult, Results, Row};
use super::stats::{self, Estimate, RESAMPLES};
use crate::rng::{StepRng, Stream};

/// One temperature of a curve: the entropy and the NLL of each of its n samples.
#[derive(Debug, Clone, Copy)]
pub struct Point<'a> {
    pub entropy: &'a [f64],
    pub nll: &'a [f64],
}

/// The points of `model` at `steps` steps: its row at temperature 1 and its sweep. Empty where a score is missing.
pub fn curve<'a>(results: &Results, model: &'a ModelResult, row: &'a Row) -> Vec<Point<'a>> {
    let sweep = model.sweep.iter().filter(|s| s.steps == row.steps).map(|s| &s.samples);
    std::iter::once(&row.samples)
        .chain(sweep)
        .filter_map(|s| {
            Some(Point { entropy: s.get("entropy")?.as_slice(), nll: s.get(&results.data.nll_name)?.as_slice() })
        })
        .collect()
}

/// NLL at entropy `target` of the piecewise linear curve through (entropy, NLL) points; None outside of its range.
pub fn interpolate(mut points: Vec<(f64, f64)>, target: f64) -> Option<f64> {
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points.windows(2).find(|p| p[0].0 <= target && target <= p[1].0).map(|p| {
        let ((h0, n0), (h1, n1)) = (p[0], p[1]);
        if h1 == h0 { 0.5 * (n0 + n1) } else { n0 + (n1 - n0) * (target - h0) / (h1 - h0) }
    })
}

fn resampled(curve: &[Point], indices: &[usize], target: f64) -> Option<f64> {
    let at = |values: &[f64]| indices.iter().map(|i| values[*i]).sum::<f64>() / indices.len() as f64;
    interpolate(curve.iter().map(|p| (at(p.entropy), at(p.nll))).collect(), target)
}

/// `f` of the samples themselves, with its 95 % percentile bootstrap interval over sample indices.
///
/// None where the curve misses the target itself or in more than a twentieth of the resamples: then the interval would
/// only speak of the resamples that happened to reach it. With several `groups` (samples of each training seed) it is the
/// interval over what each group alone gives, and None where one group misses the target.
fn interval(n: usize, groups: &[usize], seed: u64, f: impl Fn(&[usize]) -> Option<f64>) -> Option<Estimate> {
    if groups.len() > 1 {
        assert!(groups.iter().sum::<usize>() == n, "samples of seeds that are not all samples");
        let each: Option<Vec<f64>> = ranges(groups).map(|range| f(&range.collect::<Vec<_>>())).collect();
        return Some(stats::seeds_interval(&each?));
    }
    let all: Vec<usize> = (0..n).collect();
    let mean = f(&all)?;
    let mut rng = StepRng::new(seed).at(1, Stream::Bootstrap);
    let mut indices = all;
    let mut draws = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        indices.iter_mut().for_each(|i| *i = ((u64::from(rng.next_u32()) * n as u64) >> 32) as usize);
        draws.extend(f(&indices));
    }
    (20 * (RESAMPLES - draws.len()) <= RESAMPLES).then(|| stats::percentile(mean, draws))
}

/// The indices of each group's samples.
fn ranges(groups: &[usize]) -> impl Iterator<Item = Range<usize>> {
    groups.iter().scan(0, |from, n| {
        *from += n;
        Some(*from - n..*from)
    })
}

/// The length all points share, or None for an empty curve or one of unequal lengths.
fn common_length(curves: &[&[Point]]) -> Option<usize> {
    let n = curves.first()?.first()?.nll.len();
    let equal = |p: &Point| p.nll.len() == n && p.entropy.len() == n;
    (n > 0 && curves.iter().all(|c| !c.is_empty() && c.iter().all(equal))).then_some(n)
}

/// NLL of a curve at entropy `target`, with its interval; None where the curve does not reach that entropy. `groups` are the
/// samples of each training seed, or all samples.
pub fn nll(curve: &[Point], groups: &[usize], target: f64, seed: u64) -> Option<Estimate> {
    let n = common_length(&[curve])?;
    interval(n, groups, seed, |indices| resampled(curve, indices, target))
}

/// NLL of `candidate` minus that of `baseline`, both at entropy `target`, paired by sample; below 0 is better.
pub fn change(baseline: &[Point], candidate: &[Point], groups: &[usize], target: f64, seed: u64) -> Option<Estimate> {
    let n = common_length(&[baseline, candidate])?;
    interval(n, groups, seed, |i| Some(resampled(candidate, i, target)? - resampled(baseline, i, target)?))
}

/// One model at one number of steps, compared at the data's entropy.
#[derive(Debug, Clone)]
pub struct Matched<'a> {
    pub model: &'a ModelResult,
    pub steps: usize,
    /// NLL at the data's mean entropy; None where the temperatures do not reach it.
    pub nll: Option<Estimate>,
    /// For a student: that NLL minus its teacher's at the same number of steps.
    pub change: Option<Estimate>,
}

/// Every row that has a temperature sweep, in the order of the results.
pub fn all(results: &Results) -> Vec<Matched<'_>> {
    let target = results.data.entropy.mean;
    let swept = results.models.iter().filter(|m| !m.sweep.is_empty());
    let rows = swept.flat_map(|model| model.rows.iter().map(move |row| (model, row)));
    rows.map(|(model, row)| {
        let own = curve(results, model, row);
        let teacher = model.teacher.as_deref().and_then(|name| results.model(name));
        let base = teacher.and_then(|t| Some(curve(results, t, t.row(row.steps)?)));
        Matched {
            model,
            steps: row.steps,
            nll: nll(&own, &model.groups(row), target, 0),
            change: base.and_then(|base| change(&base, &own, &model.groups(row), target, 0)),
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    /// Samples of a model whose NLL is a + b H at every temperature, with noise that all temperatures share.
    fn samples(a: f64, b: f64, h: f64, n: usize, seed: u64) -> (Vec<f64>, Vec<f64>) {
        let mut rng = StepRng::new(seed).at(3, Stream::Validation);
        let entropy: Vec<f64> = (0..n).map(|_| h + 0.2 * (rng.random::<f64>() - 0.5)).collect();
        let nll = entropy.iter().map(|e| a + b * e + 0.1 * (rng.random::<f64>() - 0.5)).collect();
        (entropy, nll)
    }

    fn points(all: &[(Vec<f64>, Vec<f64>)]) -> Vec<Point<'_>> {
        all.iter().map(|(entropy, nll)| Point { entropy, nll }).collect()
    }

    #[test]
    fn interpolation_is_linear_between_points_in_any_order_and_refuses_to_extrapolate() {
        let points = vec![(3.0, 2.0), (1.0, 1.0), (2.0, 1.2)];
        for (target, want) in [(1.0, 1.0), (1.5, 1.1), (2.0, 1.2), (2.5, 1.6), (3.0, 2.0)] {
            let got = interpolate(points.clone(), target).unwrap();
            assert!((got - want).abs() < 1e-12, "{target}: {got}");
        }
        assert_eq!((interpolate(points.clone(), 0.99), interpolate(points, 3.01)), (None, None));
        assert_eq!(interpolate(vec![(2.0, 1.0), (2.0, 3.0)], 2.0), Some(2.0));
        assert_eq!(interpolate(vec![(2.0, 1.0)], 2.0), None);
    }

    #[test]
    fn a_model_that_is_only_colder_is_no_better_at_equal_entropy() {
        // One law NLL = 0.5 + 0.6 H; the candidate's row at temperature 1 sits at a lower entropy and looks better.
        let base = [samples(0.5, 0.6, 3.0, 400, 1), samples(0.5, 0.6, 2.6, 400, 2)];
        let cand = [samples(0.5, 0.6, 2.7, 400, 3), samples(0.5, 0.6, 3.1, 400, 4)];
        let e = change(&points(&base), &points(&cand), &[400], 2.9, 0).unwrap();
        assert!(e.low < 0.0 && e.high > 0.0 && e.mean.abs() < 0.02, "{e:?}");
        let raw = stats::mean(&cand[0].1) - stats::mean(&base[0].1);
        assert!(raw < -0.15, "{raw}");
    }

    #[test]
    fn a_better_law_is_seen_and_its_interval_covers_the_truth() {
        let mut covered = 0;
        for s in 0..100 {
            let base = [samples(0.6, 0.6, 3.0, 100, 10 * s), samples(0.6, 0.6, 2.6, 100, 10 * s + 1)];
            let cand = [samples(0.5, 0.6, 2.7, 100, 10 * s + 2), samples(0.5, 0.6, 3.1, 100, 10 * s + 3)];
            let e = change(&points(&base), &points(&cand), &[100], 2.9, s).unwrap();
            assert!(e.high < 0.0, "{e:?}");
            covered += usize::from(e.low <= -0.1 && -0.1 <= e.high);
        }
        assert!(covered >= 88, "covered {covered} of 100");
    }

    #[test]
    fn a_curve_that_does_not_safely_reach_the_entropy_has_no_value() {
        let one = [samples(0.5, 0.6, 3.0, 50, 1)];
        assert!(nll(&points(&one), &[50], 3.0, 0).is_none());
        let edge = [samples(0.5, 0.6, 3.0, 50, 1), samples(0.5, 0.6, 2.6, 50, 2)];
        let mean = stats::mean(&edge[0].0);
        assert!(nll(&points(&edge), &[50], mean - 1e-9, 0).is_none(), "half of the resamples lie beyond the edge");
        assert!(nll(&points(&edge), &[50], 2.8, 0).is_some());
        assert!(nll(&[], &[], 2.8, 0).is_none());
    }

    #[test]
    fn seeds_have_curves_of_their_own_and_the_spread_between_them_is_the_interval() {
        // Three seeds whose laws differ by 0.3; the candidate is 0.1 better under each.
        let part = |better: f64, seed: u64| {
            let all: Vec<_> = [0.4, 0.7, 0.4]
                .into_iter()
                .zip(0..)
                .map(|(a, s)| {
                    (
                        samples(a - better, 0.6, 3.0, 80, seed + 2 * s),
                        samples(a - better, 0.6, 2.6, 80, seed + 2 * s + 1),
                    )
                })
                .collect();
            type Pair = (Vec<f64>, Vec<f64>);
            let joined = |f: fn(&(Pair, Pair)) -> &Pair| {
                (all.iter().flat_map(|s| f(s).0.clone()).collect(), all.iter().flat_map(|s| f(s).1.clone()).collect())
            };
            [joined(|s| &s.0), joined(|s| &s.1)]
        };
        let (base, cand) = (part(0.0, 1), part(0.1, 20));
        let groups = [80, 80, 80];
        let own = nll(&points(&cand), &groups, 2.8, 0).unwrap();
        assert!(own.high - own.mean > 0.3, "{own:?}");
        let e = change(&points(&base), &points(&cand), &groups, 2.8, 0).unwrap();
        assert!(e.high < 0.0 && (e.mean + 0.1).abs() < 0.02, "{e:?}");
        // A seed that does not reach the entropy leaves none.
        assert!(nll(&points(&base), &groups, 3.5, 0).is_none());
    }
}
