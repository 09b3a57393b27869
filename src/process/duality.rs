//! The duality of Gaussian and uniform noise (Sahoo et al. 2025, DUO).
//!
//! w_t = a_t onehot(x) + s_t eps with a_t^2 = sigmoid(-gamma), s_t^2 = sigmoid(gamma), and z_t = argmax w_t. By symmetry all other
//! tokens are equally likely, so z_t is uniform-state noise with
//!
//! ```text
//! P(z_t = x) = int phi(z - m) Phi(z)^(V-1) dz,   m = a_t/s_t = exp(-gamma/2)
//! alpha = T(gamma; V) = (V P(z_t = x) - 1)/(V - 1)
//! ```
//!
//! The same eps at two times needs no V normals: whether x wins depends on D = max of the others - eps_x alone (it does where
//! m > D), and which other wins is independent of D and of the time. So one uniform number in place of D's own, and one other
//! token, give the pair exactly ([`Duality::winner`]); a test draws the normals. V vocabulary.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::fs;

/// Points of a table.
const POINTS: usize = 1024;
/// What is left out of alpha at both ends by default.
const LEFT_OUT: f64 = 1e-3;

/// Where a process begins and ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ends {
    /// The lowest gamma; none: where alpha is 0.999.
    pub low: Option<f64>,
    /// The highest; none: where alpha is `last`.
    pub high: Option<f64>,
    pub last: f64,
}

impl Ends {
    /// All of alpha but a thousandth at both ends.
    pub const WHOLE: Ends = Ends { low: None, high: None, last: LEFT_OUT };
}

/// T over a range of gamma for one vocabulary, by its values and slopes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Duality {
    vocab: usize,
    low: f64,
    high: f64,
    /// 1 - P(z_t = x), and its derivative by gamma, at equal distances [POINTS]. 1 - P has its digits where P is near 1.
    points: Vec<(f64, f64)>,
}

/// 1 - P(z_t = x) over V tokens at `gamma`, and its derivative by gamma.
pub fn lost(vocab: usize, gamma: f64) -> (f64, f64) {
    // The trapezoid rule over a Gaussian loses nothing at this distance.
    const STEP: f64 = 1.0 / 32.0;
    let m = (-gamma / 2.0).exp();
    let (mut lost, mut slope) = (0.0, 0.0);
    for k in -304..=304 {
        let y = f64::from(k) * STEP;
        let phi = (-y * y / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * STEP;
        // 1 - Phi(z)^(V - 1), from the upper tail.
        let tail = libm::erfc((y + m) / std::f64::consts::SQRT_2) / 2.0;
        let beaten = -((vocab - 1) as f64 * (-tail).ln_1p()).exp_m1();
        lost += phi * beaten;
        // d phi(z - m)/dm = y phi, and dm/dgamma = -m/2.
        slope -= phi * beaten * y * m / 2.0;
    }
    (lost, slope)
}

impl Duality {
    /// The table over gamma from `low` to `high`.
    fn over(vocab: usize, (low, high): (f64, f64)) -> Self {
        assert!(vocab > 1 && low < high, "a range of gamma over two tokens or more");
        let at = |i: usize| low + (high - low) * i as f64 / (POINTS - 1) as f64;
        Duality { vocab, low, high, points: (0..POINTS).map(|i| lost(vocab, at(i))).collect() }
    }

    /// The table for V tokens between these ends.
    pub fn new(vocab: usize, ends: Ends) -> Self {
        let end = |alpha: f64| gamma_of(vocab, alpha);
        let low = ends.low.unwrap_or_else(|| end(1.0 - LEFT_OUT));
        Self::over(vocab, (low, ends.high.unwrap_or_else(|| end(ends.last)).max(low + 1e-3)))
    }

    /// [`Duality::cached`] in a directory, or a new one where there is none to keep it in.
    ///
    /// # Errors
    /// As [`Duality::cached`].
    pub fn at_hand(vocab: usize, ends: Ends, dir: Option<&Path>) -> Result<Self> {
        dir.map_or_else(|| Ok(Self::new(vocab, ends)), |dir| Self::cached(vocab, ends, dir))
    }

    /// [`Duality::new`], kept in `dir` by a hash of what decides it; a file that is not what it should be is made anew.
    ///
    /// # Errors
    /// A refused write (I/O).
    pub fn cached(vocab: usize, ends: Ends, dir: &Path) -> Result<Self> {
        let key = fs::sha256_hex(format!("duality 1 {vocab} {ends:?} {POINTS} {LEFT_OUT}").as_bytes());
        let path = dir.join(format!("duality-{}.json", &key[..16]));
        // One that is not as it was written is made anew: it is a function of its arguments.
        let whole = fs::read_text(&path, 64 << 20).ok().and_then(|text| match fs::unseal(&text) {
            fs::Sealed::Whole(body) => serde_json::from_str::<Self>(&body).ok(),
            _ => None,
        });
        if let Some(table) = whole.filter(|table| table.vocab == vocab && table.sound(ends)) {
            return Ok(table);
        }
        let table = Self::new(vocab, ends);
        let text = serde_json::to_string(&table)
            .map_err(|e| crate::error::Error::input(format!("the duality's table cannot be written: {e}")))?;
        fs::write_atomic(&path, fs::seal(&text).as_bytes())?;
        Ok(table)
    }

    fn sound(&self, ends: Ends) -> bool {
        let finite = self.points.iter().all(|(lost, slope)| lost.is_finite() && slope.is_finite());
        let ends = ends.low.is_none_or(|low| low == self.low);
        self.points.len() == POINTS && finite && ends && self.points.windows(2).all(|p| p[0].0 <= p[1].0)
    }

    /// The lowest and the highest gamma.
    pub fn range(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    /// 1 - P(z_t = x) at `gamma` and its derivative: cubic between the points, by values and slopes.
    fn lost(&self, gamma: f64) -> (f64, f64) {
        let width = (self.high - self.low) / (POINTS - 1) as f64;
        let place = ((gamma - self.low) / width).clamp(0.0, (POINTS - 1) as f64);
        let i = (place as usize).min(POINTS - 2);
        let (u, (a, da), (b, db)) = (place - i as f64, self.points[i], self.points[i + 1]);
        let (da, db) = (da * width, db * width);
        let (c, d) = (3.0 * (b - a) - 2.0 * da - db, 2.0 * (a - b) + da + db);
        (a + u * (da + u * (c + u * d)), (da + u * (2.0 * c + 3.0 * u * d)) / width)
    }

    /// alpha = T(gamma), and its derivative by gamma.
    pub fn alpha(&self, gamma: f64) -> (f64, f64) {
        let (lost, slope) = self.lost(gamma);
        let scale = self.vocab as f64 / (self.vocab - 1) as f64;
        ((1.0 - scale * lost).clamp(0.0, 1.0), -scale * slope)
    }

    /// The token that wins at `gamma`: x, or the `other` where `u` in [0, 1) says so. The same u and other give the winners of
    /// the same noise at every gamma; `other` is any of the V - 1 tokens that are not x.
    pub fn winner(&self, x: u32, gamma: f64, u: f64, other: u32) -> u32 {
        if u < self.lost(gamma).0 { other } else { x }
    }
}

/// The gamma at which alpha is as given.
fn gamma_of(vocab: usize, alpha: f64) -> f64 {
    let lost_at = (1.0 - alpha) * (vocab - 1) as f64 / vocab as f64;
    let (mut low, mut high) = (-60.0, 60.0);
    for _ in 0..80 {
        let middle = 0.5 * (low + high);
        if lost(vocab, middle).0 < lost_at { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{StepRng, Stream};
    use rand::Rng;
    use rand_distr::{Distribution, StandardNormal};

    #[test]
    fn over_two_tokens_the_integral_is_its_closed_form() {
        // eps_x - eps_y is a normal of variance 2: x wins where it is above -m.
        for gamma in [-6.0, -4.0, -1.0, 0.0, 2.5, 9.0] {
            let m = f64::exp(-gamma / 2.0);
            let want = libm::erfc(m / 2.0) / 2.0;
            let (got, slope) = lost(2, gamma);
            assert!((got - want).abs() < 1e-14, "{gamma}: {got} for {want}");
            let h = 1e-5;
            let numeric = (lost(2, gamma + h).0 - lost(2, gamma - h).0) / (2.0 * h);
            assert!((slope - numeric).abs() < 1e-8, "{gamma}: {slope} for {numeric}");
        }
    }

    #[test]
    fn a_table_is_the_integral_and_falls_from_one_to_zero() {
        for vocab in [2, 36, 50_258] {
            let table = Duality::new(vocab, Ends::WHOLE);
            let (low, high) = table.range();
            assert!((table.alpha(low).0 - (1.0 - LEFT_OUT)).abs() < 1e-9);
            assert!((table.alpha(high).0 - LEFT_OUT).abs() < 1e-9);
            let mut before = 1.0;
            for k in 0..=3000 {
                let gamma = low + (high - low) * k as f64 / 3000.0;
                let (alpha, slope) = table.alpha(gamma);
                assert!(alpha <= before && slope <= 0.0, "{vocab} at {gamma}");
                before = alpha;
                if k % 100 == 7 {
                    let (lost, d) = lost(vocab, gamma);
                    let scale = vocab as f64 / (vocab - 1) as f64;
                    assert!((alpha - (1.0 - scale * lost)).abs() < 1e-8, "{vocab} at {gamma}");
                    assert!((slope + scale * d).abs() < 1e-5, "{vocab} at {gamma}: {slope}");
                }
            }
        }
    }

    #[test]
    fn the_published_range_for_fifty_thousand_tokens_goes_from_little_noise_to_almost_all() {
        // gamma in [-4, -1] (scripts of the DUO paper).
        let table = Duality::new(50_258, Ends { low: Some(-4.0), high: Some(-1.0), ..Ends::WHOLE });
        assert!(
            table.alpha(-4.0).0 > 0.99 && table.alpha(-1.0).0 < 0.02,
            "{:?}",
            (table.alpha(-4.0), table.alpha(-1.0))
        );
    }

    #[test]
    fn one_uniform_number_draws_the_pair_of_winners_that_v_normals_draw() {
        let (vocab, x, n) = (5usize, 2u32, 200_000);
        let gammas = [1.0, -1.5];
        let table = Duality::new(vocab, Ends { low: Some(-6.0), high: Some(6.0), ..Ends::WHOLE });
        let mut rng = StepRng::new(3).at(0, Stream::Corrupt);
        let (mut ours, mut theirs) = ([[0f64; 5]; 5], [[0f64; 5]; 5]);
        for _ in 0..n {
            let u: f64 = rng.random();
            let other = (x + 1 + rng.random_range(0..vocab as u32 - 1)) % vocab as u32;
            let [t, s] = gammas.map(|gamma| table.winner(x, gamma, u, other) as usize);
            ours[t][s] += 1.0;
            let eps: Vec<f64> = (0..vocab).map(|_| StandardNormal.sample(&mut rng)).collect();
            let [t, s] = gammas.map(|gamma| {
                let m = f64::exp(-gamma / 2.0);
                let w = |j: usize| eps[j] + if j == x as usize { m } else { 0.0 };
                (0..vocab).max_by(|a, b| w(*a).total_cmp(&w(*b))).unwrap()
            });
            theirs[t][s] += 1.0;
        }
        for t in 0..vocab {
            for s in 0..vocab {
                let (a, b) = (ours[t][s], theirs[t][s]);
                // Two counts of the same probability.
                assert!((a - b).abs() <= 5.0 * (a + b).sqrt() + 1e-9, "{t} {s}: {a} and {b}");
            }
        }
    }

    #[test]
    fn a_cached_table_is_read_back_and_a_damaged_one_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let table = Duality::cached(7, Ends::WHOLE, dir.path()).unwrap();
        assert_eq!(table, Duality::cached(7, Ends::WHOLE, dir.path()).unwrap());
        let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        let whole = std::fs::read_to_string(&file).unwrap();
        // A digit of one of its numbers.
        let at = whole.rfind("0.").unwrap() + 5;
        let digit = if &whole[at..=at] == "1" { "2" } else { "1" };
        std::fs::write(&file, format!("{}{digit}{}", &whole[..at], &whole[at + 1..])).unwrap();
        assert_eq!(table, Duality::cached(7, Ends::WHOLE, dir.path()).unwrap());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), whole);
        std::fs::write(&file, b"{}").unwrap();
        assert_eq!(table, Duality::cached(7, Ends::WHOLE, dir.path()).unwrap());
        assert!(std::fs::metadata(&file).unwrap().len() > 1000);
        Duality::cached(8, Ends::WHOLE, dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
