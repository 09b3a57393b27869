//! Intervals: the percentile bootstrap (Efron 1979) of means and of changes between two samples, Student's t over the means
//! of training seeds, and quartiles of timings.
//!
//! Every draw comes from `Stream::Bootstrap` of the given seed, so equal inputs give equal intervals on every machine.
//! n is the number of samples, R the number of resamples, S the number of training seeds.
//!
//! Why not the bootstrap over seeds: resampling S = 3 values has ten different outcomes and a variance (S - 1)/S of the true
//! one, so its 95 % interval covers about three times in four. The means of S seeds are independent and close to normal, each
//! carries the noise of its own samples as well, and so mean ± t(S - 1) s/sqrt(S) covers both, at the price of width: t is
//! 12.7 for two seeds, 4.3 for three, 2.8 for five.

use crate::rng::{StepRng, Stream};
use rand::RngCore;
use serde::{Deserialize, Serialize};

/// Likelihoods differ in kind and are never compared unmarked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The exact negative log-likelihood.
    Exact,
    /// An upper bound on it (the negative ELBO).
    Elbo,
    /// A number that bounds nothing.
    None,
}

/// Resamples behind every printed interval: the ends then carry about 3 % of the half width as Monte Carlo noise.
pub const RESAMPLES: usize = 2000;

/// A mean with its 95 % bootstrap interval, in the unit of the values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

impl Estimate {
    /// A value known exactly: an interval of no width.
    pub fn exact(value: f64) -> Self {
        Estimate { mean: value, low: value, high: value }
    }
    /// The same estimate measured from another zero: `self - zero`.
    pub fn minus(self, zero: f64) -> Self {
        Estimate { mean: self.mean - zero, low: self.low - zero, high: self.high - zero }
    }
    /// True when the whole interval lies below the whole interval of `other`.
    pub fn wholly_below(self, other: Estimate) -> bool {
        self.high < other.low
    }
    /// True when all three numbers are finite.
    pub fn is_finite(self) -> bool {
        self.mean.is_finite() && self.low.is_finite() && self.high.is_finite()
    }
}

/// Median and quartiles of repeated timings, in the unit of the values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    pub median: f64,
    pub q1: f64,
    pub q3: f64,
}

impl Spread {
    /// The quartiles of `values` (not empty), by linear interpolation between order statistics.
    ///
    /// # Panics
    /// Where `values` is empty.
    pub fn of(values: &[f64]) -> Self {
        assert!(!values.is_empty(), "quartiles of nothing");
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Spread { median: quantile(&sorted, 0.5), q1: quantile(&sorted, 0.25), q3: quantile(&sorted, 0.75) }
    }
}

/// How a change is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// candidate - baseline, in the unit of the values.
    Absolute,
    /// (candidate - baseline) / |baseline|, a share.
    Relative,
}

impl Change {
    /// The change between two means.
    pub fn between(self, baseline: f64, candidate: f64) -> f64 {
        match self {
            Change::Absolute => candidate - baseline,
            // A baseline of zero has no relative change; the floor keeps the number finite, so it can be stored as JSON.
            Change::Relative => (candidate - baseline) / baseline.abs().max(1e-12),
        }
    }
}

/// Which resamples go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// Sample i of both sides had the same seed: both are resampled with the same indices.
    Paired,
    /// The sides are independent, and may differ in length.
    Unpaired,
}

/// The mean of `values` (not empty) with its 95 % percentile bootstrap interval.
///
/// # Panics
/// Where `values` is empty.
pub fn mean_interval(values: &[f64], seed: u64) -> Estimate {
    assert!(!values.is_empty(), "an interval of nothing");
    let mut rng = StepRng::new(seed).at(0, Stream::Bootstrap);
    let n = values.len();
    let means = (0..RESAMPLES).map(|_| (0..n).map(|_| values[draw(&mut rng, n)]).sum::<f64>() / n as f64).collect();
    percentile(mean(values), means)
}

/// The change of the mean from `baseline` to `candidate` (neither empty) with its 95 % percentile bootstrap interval.
///
/// Paired sides must have equal lengths; a pair of identical sides gives exactly [0, 0].
///
/// # Panics
/// Where a side is empty, paired sides differ in length, or `resamples` is 0.
pub fn change_interval(
    baseline: &[f64],
    candidate: &[f64],
    change: Change,
    pairing: Pairing,
    resamples: usize,
    seed: u64,
) -> Estimate {
    assert!(!baseline.is_empty() && !candidate.is_empty(), "a change of nothing");
    assert!(pairing == Pairing::Unpaired || baseline.len() == candidate.len(), "paired sides differ in length");
    assert!(resamples > 0, "a bootstrap without resamples");
    let mut rng = StepRng::new(seed).at(0, Stream::Bootstrap);
    let (n, m) = (baseline.len(), candidate.len());
    let changes = (0..resamples)
        .map(|_| {
            let (mut b, mut c) = (0.0, 0.0);
            match pairing {
                Pairing::Paired => {
                    for _ in 0..n {
                        let i = draw(&mut rng, n);
                        b += baseline[i];
                        c += candidate[i];
                    }
                }
                Pairing::Unpaired => {
                    b = (0..n).map(|_| baseline[draw(&mut rng, n)]).sum();
                    c = (0..m).map(|_| candidate[draw(&mut rng, m)]).sum();
                }
            }
            change.between(b / n as f64, c / m as f64)
        })
        .collect();
    percentile(change.between(mean(baseline), mean(candidate)), changes)
}

/// The mean of the means of S >= 2 training seeds with its 95 % interval by Student's t (Student 1908): what another seed
/// and other samples would move. The seeds must have been sampled independently of each other.
///
/// # Panics
/// Where there are fewer than two means.
pub fn seeds_interval(means: &[f64]) -> Estimate {
    assert!(means.len() > 1, "a spread over one seed");
    let s = means.len() as f64;
    let half = student_t(means.len() - 1) * (squares(means) / (s - 1.0) / s).sqrt();
    let mean = mean(means);
    Estimate { mean, low: mean - half, high: mean + half }
}

/// The mean over S >= 2 training seeds of what each measured on the same texts: the spread over seeds by Student's t, and
/// the mean of the seeds' own intervals over texts, which no number of seeds narrows, added in quadrature.
pub fn shared_interval(seeds: &[Estimate]) -> Estimate {
    let over = seeds_interval(&seeds.iter().map(|e| e.mean).collect::<Vec<_>>());
    let side = |f: fn(&Estimate) -> f64| seeds.iter().map(f).sum::<f64>() / seeds.len() as f64;
    let (below, above) = (side(|e| e.mean - e.low), side(|e| e.high - e.mean));
    let Estimate { mean, low, .. } = over;
    let half = mean - low;
    Estimate { mean, low: mean - half.hypot(below), high: mean + half.hypot(above) }
}

/// The change from the means of the baseline's seeds to those of the candidate's, with its 95 % interval by Student's t.
///
/// Paired: seed i of both sides had the same number, and what is left is the spread of the S changes. Unpaired: the test of
/// two samples with a common variance, which also takes one side of one seed, whose spread is then taken for the other's.
/// A relative change is linear in both sides near their means (the delta method).
///
/// # Panics
/// Where paired sides differ in length or have fewer than two seeds, and where unpaired sides have fewer than three together,
/// or one has none.
pub fn seeds_change(baseline: &[f64], candidate: &[f64], change: Change, pairing: Pairing) -> Estimate {
    let (b, c) = (mean(baseline), mean(candidate));
    let (up, down) = slopes(b, c, change);
    let half = match pairing {
        Pairing::Paired => {
            assert!(baseline.len() == candidate.len() && baseline.len() > 1, "pairs of seeds");
            let moved: Vec<f64> = baseline.iter().zip(candidate).map(|(b, c)| up * c - down * b).collect();
            let s = moved.len() as f64;
            student_t(moved.len() - 1) * (squares(&moved) / (s - 1.0) / s).sqrt()
        }
        Pairing::Unpaired => {
            let (n, m) = (baseline.len(), candidate.len());
            assert!(n > 0 && m > 0 && n + m > 2, "two seeds on one side at least");
            let common = (down * down * squares(baseline) + up * up * squares(candidate)) / (n + m - 2) as f64;
            student_t(n + m - 2) * (common * (1.0 / n as f64 + 1.0 / m as f64)).sqrt()
        }
    };
    let mean = change.between(b, c);
    Estimate { mean, low: mean - half, high: mean + half }
}

/// The standard error of the change of the mean from `baseline` to `candidate` (neither empty), by the spread of the samples; a relative
/// change is linear in both sides near their means (the delta method).
///
/// # Panics
/// Where paired sides differ in length.
pub fn change_error(baseline: &[f64], candidate: &[f64], change: Change, pairing: Pairing) -> f64 {
    let (up, down) = slopes(mean(baseline), mean(candidate), change);
    let variance = |values: &[f64]| squares(values) / (values.len().max(2) - 1) as f64 / values.len() as f64;
    match pairing {
        Pairing::Paired => {
            assert!(baseline.len() == candidate.len(), "paired sides differ in length");
            let moved: Vec<f64> = baseline.iter().zip(candidate).map(|(b, c)| up * c - down * b).collect();
            variance(&moved).sqrt()
        }
        Pairing::Unpaired => (down * down * variance(baseline) + up * up * variance(candidate)).sqrt(),
    }
}

/// The slopes of a change in the candidate's mean `c`, and downwards in the baseline's `b`: of c - b, or (c - b) / |b|.
fn slopes(b: f64, c: f64, change: Change) -> (f64, f64) {
    match change {
        Change::Absolute => (1.0, 1.0),
        Change::Relative => (1.0 / b.abs().max(1e-12), c * b.signum() / b.abs().max(1e-12).powi(2)),
    }
}

/// The sum of squared deviations from the mean.
fn squares(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|x| (x - mean).powi(2)).sum()
}

/// The t that a Student variable with `freedom` >= 1 degrees of freedom exceeds in size with probability 0.05.
///
/// # Panics
/// Where `freedom` is 0.
pub fn student_t(freedom: usize) -> f64 {
    student_t_at(freedom, 0.05)
}

/// The t that a Student variable with `freedom` >= 1 degrees of freedom exceeds in size with probability `outside`, 1e-12 or more.
///
/// By bisection of the exact finite sums for whole degrees (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4).
///
/// # Panics
/// Where `freedom` is 0, or `outside` is not a probability.
pub fn student_t_at(freedom: usize, outside: f64) -> f64 {
    assert!(freedom > 0, "a t of no degrees of freedom");
    assert!(outside > 0.0 && outside < 1.0, "a probability");
    let inside = 1.0 - outside.max(1e-12);
    let (mut low, mut high) = (0.0, 16.0);
    while within(high, freedom) < inside {
        (low, high) = (high, 2.0 * high);
    }
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if within(middle, freedom) < inside { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// The probability that a Student variable with `freedom` >= 1 degrees of freedom exceeds `t` in size.
///
/// # Panics
/// Where `freedom` is 0.
pub fn outside(t: f64, freedom: usize) -> f64 {
    assert!(freedom > 0, "a t of no degrees of freedom");
    // An infinite t comes of values that do not vary.
    if t.is_infinite() { 0.0 } else { (1.0 - within(t.abs(), freedom)).max(0.0) }
}

/// The probability that a Student variable lies within `t` of 0.
fn within(t: f64, freedom: usize) -> f64 {
    let angle = (t / (freedom as f64).sqrt()).atan();
    let (sin, cos) = angle.sin_cos();
    let odd = freedom % 2 == 1;
    // The terms of the sum: cos, then each the one before times cos^2 (j - 1)/j; of an even number of degrees from 1.
    let (mut term, mut j) = if odd { (cos, 3) } else { (1.0, 2) };
    let mut sum = if freedom == 1 { 0.0 } else { term };
    while j + 2 <= freedom {
        term *= cos * cos * (j - 1) as f64 / j as f64;
        sum += term;
        j += 2;
    }
    if odd { std::f64::consts::FRAC_2_PI * (angle + sin * sum) } else { sin * sum }
}

/// The arithmetic mean of `values` (not empty).
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// An index below `n` from 32 bits by multiplication: the bias is below n / 2^32, and it does not hang on how a version
/// of `rand` maps bits to ranges.
fn draw(rng: &mut impl RngCore, n: usize) -> usize {
    ((u64::from(rng.next_u32()) * n as u64) >> 32) as usize
}

/// A value with the 95 % percentile interval of its resampled values.
pub(super) fn percentile(mean: f64, mut draws: Vec<f64>) -> Estimate {
    draws.sort_by(f64::total_cmp);
    Estimate { mean, low: quantile(&draws, 0.025), high: quantile(&draws, 0.975) }
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (below, share) = (at.floor() as usize, at.fract());
    let above = (below + 1).min(sorted.len() - 1);
    if sorted[below] == sorted[above] {
        return sorted[below]; // exact: a weighted mean of equals may differ in the last bit
    }
    sorted[below] * (1.0 - share) + sorted[above] * share
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    fn normals(seed: u64, n: usize) -> Vec<f64> {
        let mut rng = StepRng::new(seed).at(1, Stream::Validation);
        let bell = |r: &mut rand_chacha::ChaCha8Rng| (0..12).map(|_| r.random::<f64>()).sum::<f64>() - 6.0;
        (0..n).map(|_| bell(&mut rng)).collect()
    }

    #[test]
    fn the_interval_of_a_mean_covers_the_truth_in_95_percent_of_simulations() {
        let runs = 800;
        let covered = (0..runs)
            .filter(|&s| {
                let e = mean_interval(&normals(s, 120), s);
                e.low <= 0.0 && 0.0 <= e.high
            })
            .count() as f64;
        let share = covered / runs as f64;
        assert!((share - 0.95).abs() <= 0.02, "covered {share}");
    }

    #[test]
    fn the_interval_of_a_change_covers_the_truth_paired_and_unpaired() {
        for pairing in [Pairing::Paired, Pairing::Unpaired] {
            let runs = 500;
            let covered = (0..runs)
                .filter(|&s| {
                    let base: Vec<f64> = normals(2 * s, 120).iter().map(|x| 5.0 + x).collect();
                    let cand: Vec<f64> = match pairing {
                        Pairing::Paired => {
                            base.iter().zip(normals(2 * s + 1, 120)).map(|(b, x)| b + 0.2 + 0.3 * x).collect()
                        }
                        Pairing::Unpaired => normals(2 * s + 1, 120).iter().map(|x| 5.2 + x).collect(),
                    };
                    let e = change_interval(&base, &cand, Change::Relative, pairing, 800, s);
                    e.low <= 0.04 && 0.04 <= e.high
                })
                .count() as f64;
            let share = covered / runs as f64;
            assert!((share - 0.95).abs() <= 0.025, "{pairing:?} covered {share}");
        }
    }

    #[test]
    fn the_standard_error_of_a_change_is_that_of_its_interval() {
        let (base, cand): (Vec<f64>, Vec<f64>) =
            normals(3, 400).iter().zip(normals(4, 400)).map(|(b, x)| (5.0 + b, 5.2 + b + 0.3 * x)).unzip();
        for change in [Change::Absolute, Change::Relative] {
            for pairing in [Pairing::Paired, Pairing::Unpaired] {
                let e = change_interval(&base, &cand, change, pairing, 4000, 1);
                let ratio = change_error(&base, &cand, change, pairing) / ((e.high - e.low) / (2.0 * 1.959_964));
                assert!((ratio - 1.0).abs() < 0.05, "{change:?} {pairing:?} {ratio}");
            }
        }
        assert_eq!(change_error(&base, &base, Change::Relative, Pairing::Paired), 0.0);
    }

    #[test]
    fn pairing_narrows_the_interval_of_correlated_sides() {
        let base = normals(3, 200);
        let cand: Vec<f64> = base.iter().map(|x| x + 0.1).collect();
        let width = |p| {
            let e = change_interval(&base, &cand, Change::Absolute, p, 500, 1);
            e.high - e.low
        };
        assert!(width(Pairing::Paired) < 1e-9 && width(Pairing::Unpaired) > 0.2);
    }

    #[test]
    fn equal_seeds_give_equal_intervals_and_others_do_not() {
        let x = normals(7, 50);
        assert_eq!(mean_interval(&x, 3), mean_interval(&x, 3));
        assert_ne!(mean_interval(&x, 3), mean_interval(&x, 4));
    }

    #[test]
    fn students_t_is_that_of_the_tables() {
        // Fisher and Yates, two-sided 5 %.
        for (freedom, t) in [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042)] {
            assert!((student_t(freedom) - t).abs() < 6e-4, "{freedom}: {}", student_t(freedom));
        }
        assert!((student_t(100_000) - 1.95996).abs() < 1e-4);
        // Two-sided 1 % and 0.1 %.
        for (freedom, p, t) in [(2, 0.01, 9.925), (1, 0.001, 636.6), (30, 0.001, 3.646)] {
            assert!((student_t_at(freedom, p) / t - 1.0).abs() < 1e-3, "{freedom} {p}: {}", student_t_at(freedom, p));
            assert!((outside(t, freedom) / p - 1.0).abs() < 5e-3);
        }
        assert!((1..60).all(|n| student_t(n) > student_t(n + 1)));
    }

    /// Means of `seeds` seeds: each its own level, and the noise of its own samples.
    fn seed_means(seeds: usize, level: f64, key: u64) -> Vec<f64> {
        let spread = normals(2 * key, seeds);
        (0..seeds).map(|s| level + 0.3 * spread[s] + mean(&normals(1_000_000 + 97 * key + s as u64, 40))).collect()
    }

    #[test]
    fn an_interval_over_seeds_covers_in_95_percent_where_one_over_all_samples_does_not() {
        let runs = 1500;
        let (mut covered, mut resampled) = (0, 0);
        for key in 0..runs {
            let means = seed_means(3, 0.0, key);
            let e = seeds_interval(&means);
            covered += u32::from(e.low <= 0.0 && 0.0 <= e.high);
            let low = means.iter().copied().fold(f64::MAX, f64::min);
            let high = means.iter().copied().fold(f64::MIN, f64::max);
            // The bootstrap of three values never leaves their range.
            resampled += u32::from(low <= 0.0 && 0.0 <= high);
        }
        let share = f64::from(covered) / runs as f64;
        assert!((share - 0.95).abs() <= 0.018, "covered {share}");
        assert!(f64::from(resampled) / (runs as f64) < 0.8);
    }

    #[test]
    fn the_interval_of_a_change_over_seeds_covers_the_truth() {
        for (pairing, n, m) in [(Pairing::Paired, 3, 3), (Pairing::Unpaired, 3, 4), (Pairing::Unpaired, 1, 3)] {
            let runs = 1500;
            let covered = (0..runs).filter(|&key| {
                let base = seed_means(n, 5.0, 2 * key);
                let cand = seed_means(m, 5.2, 2 * key + 1);
                let e = seeds_change(&base, &cand, Change::Relative, pairing);
                e.low <= 0.04 && 0.04 <= e.high
            });
            let share = covered.count() as f64 / runs as f64;
            assert!((share - 0.95).abs() <= 0.02, "{pairing:?} {n} {m} covered {share}");
        }
    }

    #[test]
    fn pairs_of_seeds_narrow_the_interval_of_correlated_sides() {
        let base = [1.0, 1.5, 2.0];
        let cand = base.map(|x| x + 0.1);
        let width = |p| {
            let e = seeds_change(&base, &cand, Change::Absolute, p);
            e.high - e.low
        };
        assert!(width(Pairing::Paired) < 1e-9 && width(Pairing::Unpaired) > 1.0);
        let same = seeds_change(&base, &base, Change::Relative, Pairing::Paired);
        assert_eq!((same.mean, same.low, same.high), (0.0, 0.0, 0.0));
    }

    #[test]
    fn texts_that_all_seeds_share_leave_their_interval_however_well_the_seeds_agree() {
        let own = Estimate { mean: 2.0, low: 1.9, high: 2.2 };
        let e = shared_interval(&[own; 3]);
        assert!((e.low - 1.9).abs() < 1e-12 && (e.high - 2.2).abs() < 1e-12, "{e:?}");
        let moved = shared_interval(&[own, Estimate { mean: 2.3, ..own }, own]);
        assert!(moved.high - moved.mean > seeds_interval(&[2.0, 2.3, 2.0]).high - moved.mean);
    }

    #[test]
    fn a_golden_interval_stays_what_it_was() {
        let e = mean_interval(&[1.0, 2.0, 3.0, 4.0, 10.0], 1);
        assert_eq!(e.mean, 4.0);
        // The exact percentiles of the mean of five draws with replacement are 1.8 and 7.2.
        assert!((e.low - 1.8).abs() <= 0.21 && (e.high - 7.2).abs() <= 0.41, "{e:?}");
    }

    #[test]
    fn one_value_and_constant_values_give_an_interval_of_no_width() {
        assert_eq!(mean_interval(&[0.1], 0), Estimate::exact(0.1));
        let e = mean_interval(&[0.1; 33], 0);
        assert_eq!((e.low, e.high), (e.mean, e.mean));
        let same = change_interval(&[0.3, 0.7], &[0.3, 0.7], Change::Relative, Pairing::Paired, 100, 0);
        assert_eq!(same, Estimate::exact(0.0));
    }

    #[test]
    fn a_relative_change_from_zero_is_finite() {
        assert!(change_interval(&[0.0; 4], &[1.0; 4], Change::Relative, Pairing::Paired, 50, 0).is_finite());
        assert_eq!(Change::Relative.between(0.0, 0.0), 0.0);
    }

    #[test]
    fn quartiles_interpolate_between_order_statistics() {
        assert_eq!(Spread::of(&[4.0, 1.0, 3.0, 2.0]), Spread { median: 2.5, q1: 1.75, q3: 3.25 });
        assert_eq!(Spread::of(&[5.0]), Spread { median: 5.0, q1: 5.0, q3: 5.0 });
    }

    #[test]
    fn a_relative_change_from_below_zero_to_above_it_has_the_slope_of_its_own_sign() {
        // b = -2, c = 3: slopes 1/2 in c and 3/4 in b, so that the seeds move by 0.25 and -0.25.
        let e = seeds_change(&[-1.0, -3.0], &[2.0, 4.0], Change::Relative, Pairing::Paired);
        assert!((e.mean - 2.5).abs() < 1e-12);
        assert!((e.high - e.mean - 0.25 * student_t(1)).abs() < 1e-9, "{e:?}");
    }
}
