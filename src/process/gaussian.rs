//! Gaussian corruption of vectors in continuous time: x_t = alpha(t) x_0 + sigma(t) eps, t from 0 (data) to 1 (noise).
//!
//! Two paths. `trigonometric` is the variance-preserving cosine path in its angle phi = pi t/2 (TrigFlow, Lu and Song 2024,
//! arXiv 2410.11081, for data of unit variance): alpha = cos phi, sigma = sin phi, and v = dx/dphi = cos phi eps - sin phi x_0,
//! the v of Salimans and Ho (2022). `linear` is rectified flow (Liu et al. 2022): alpha = 1 - t, sigma = t, dx/dt = eps - x_0.
//! Everything a sampler or an objective asks of a path is a pair of numbers: x_0 and eps as sums of x_t and what the network
//! says, and one step as a sum of x_t, x_0 and new noise. f64 on the host.

use std::f64::consts::FRAC_PI_2;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How data becomes noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// alpha = cos(pi t/2), sigma = sin(pi t/2).
    #[default]
    Trigonometric,
    /// alpha = 1 - t, sigma = t.
    Linear,
}

/// What a network is trained to say of x_t.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// eps.
    Noise,
    /// x_0.
    X0,
    /// The path's velocity: dx/dphi = cos phi eps - sin phi x_0 on the trigonometric path, dx/dt = eps - x_0 (flow matching)
    /// on the linear one.
    #[default]
    V,
}

/// A sum of two things: `x` times x_t and `out` times what the network said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mix {
    pub x: f64,
    pub out: f64,
}

/// x_s = `x` x_t + `x0` x_0 + `noise` z, for z of unit variance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    pub x: f64,
    pub x0: f64,
    pub noise: f64,
}

/// The smallest alpha that predicted noise is divided by.
pub const LEAST_ALPHA: f64 = 0.05;

impl Path {
    /// alpha and sigma at time t in [0, 1].
    pub fn at(self, t: f64) -> (f64, f64) {
        match self {
            // The ends are exact: cos(pi/2) is not 0 in f64.
            _ if t <= 0.0 => (1.0, 0.0),
            _ if t >= 1.0 => (0.0, 1.0),
            Path::Trigonometric => ((FRAC_PI_2 * t).cos(), (FRAC_PI_2 * t).sin()),
            Path::Linear => (1.0 - t, t),
        }
    }

    /// The velocity's coefficients (of x_0, of eps): those of d x / d phi, or d x / d t on the linear path.
    pub fn velocity(self, t: f64) -> (f64, f64) {
        match self {
            Path::Trigonometric => {
                let (alpha, sigma) = self.at(t);
                (-sigma, alpha)
            }
            Path::Linear => (-1.0, 1.0),
        }
    }

    /// What the velocity is a derivative by, in units of t: pi/2 for the angle, 1 for t itself.
    pub fn unit(self) -> f64 {
        match self {
            Path::Trigonometric => FRAC_PI_2,
            Path::Linear => 1.0,
        }
    }

    /// x_0 from x_t and what a network says at time t; at t = 0 it is x_t. Predicted noise says nothing of the data at t = 1:
    /// it is read there as if alpha were [`LEAST_ALPHA`], so that its error is not blown up without bound.
    pub fn x0(self, says: Prediction, t: f64) -> Mix {
        let (alpha, sigma) = self.at(t);
        if t <= 0.0 {
            return Mix { x: 1.0, out: 0.0 };
        }
        match says {
            Prediction::X0 => Mix { x: 0.0, out: 1.0 },
            Prediction::Noise => {
                let alpha = alpha.max(LEAST_ALPHA);
                Mix { x: 1.0 / alpha, out: -sigma / alpha }
            }
            // x_t = alpha x_0 + sigma eps and v = a x_0 + b eps, solved for x_0.
            Prediction::V => {
                let (a, b) = self.velocity(t);
                let d = alpha * b - sigma * a;
                Mix { x: b / d, out: -sigma / d }
            }
        }
    }

    /// eps from x_t and what a network says at time t; at t = 0 nothing of it is left, and the prediction of x_0 leaves 0.
    pub fn noise(self, says: Prediction, t: f64) -> Mix {
        let (alpha, sigma) = self.at(t);
        match says {
            Prediction::Noise => Mix { x: 0.0, out: 1.0 },
            Prediction::X0 => match sigma {
                0.0 => Mix { x: 0.0, out: 0.0 },
                _ => Mix { x: 1.0 / sigma, out: -alpha / sigma },
            },
            Prediction::V => {
                let (a, b) = self.velocity(t);
                let d = alpha * b - sigma * a;
                Mix { x: -a / d, out: alpha / d }
            }
        }
    }

    /// What a network should say, as a sum of x_0 (`x`) and eps (`out`).
    pub fn target(self, says: Prediction, t: f64) -> Mix {
        match says {
            Prediction::Noise => Mix { x: 0.0, out: 1.0 },
            Prediction::X0 => Mix { x: 1.0, out: 0.0 },
            Prediction::V => {
                let (x, out) = self.velocity(t);
                Mix { x, out }
            }
        }
    }

    /// The deterministic step from t down to s (DDIM, Song et al. 2021; exact where x_0 and eps are), with noise in
    /// proportion to eta: 0 none, 1 the posterior q(x_s | x_t, x_0) of the variance-preserving path.
    ///
    /// # Panics
    /// Where `s` is above `t`.
    pub fn step(self, t: f64, s: f64, eta: f64) -> Step {
        assert!(s <= t, "a step goes towards the data, not from {t} to {s}");
        let ((at, bt), (as_, bs)) = (self.at(t), self.at(s));
        if bt == 0.0 || s == t {
            return Step { x: 1.0, x0: 0.0, noise: 0.0 };
        }
        // The variance of the posterior of the path's own noising x_t = (at/as) x_s + ...
        let forward = (bt * bt - (at / as_).powi(2) * bs * bs).max(0.0);
        let noise = if as_ > 0.0 { eta * bs / bt * forward.sqrt() } else { 0.0 };
        let kept = (bs * bs - noise * noise).max(0.0).sqrt() / bt;
        Step { x: kept, x0: as_ - kept * at, noise }
    }

    /// x_s drawn anew from q(x_s | x_0): how a consistency model takes several steps (Song et al. 2023, algorithm 1).
    pub fn renoise(self, s: f64) -> Step {
        let (alpha, sigma) = self.at(s);
        Step { x: 0.0, x0: alpha, noise: sigma }
    }
}

/// What a denoiser is trained for: its path, and what it says of x_t.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denoising {
    pub path: Path,
    pub predict: Prediction,
}

impl Denoising {
    /// [`Path::x0`] of what it says.
    pub fn x0(self, t: f64) -> Mix {
        self.path.x0(self.predict, t)
    }

    /// [`Path::noise`] of what it says.
    pub fn noise(self, t: f64) -> Mix {
        self.path.noise(self.predict, t)
    }

    /// [`Path::target`]: what it should say.
    pub fn target(self, t: f64) -> Mix {
        self.path.target(self.predict, t)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATHS: [Path; 2] = [Path::Trigonometric, Path::Linear];
    const SAYS: [Prediction; 3] = [Prediction::Noise, Prediction::X0, Prediction::V];

    #[test]
    fn the_ends_of_a_path_are_data_and_noise_exactly() {
        for path in PATHS {
            assert_eq!((path.at(0.0), path.at(1.0)), ((1.0, 0.0), (0.0, 1.0)));
            for says in SAYS {
                assert_eq!(path.x0(says, 0.0), Mix { x: 1.0, out: 0.0 }, "the boundary of a consistency model");
            }
        }
        assert!((Path::Trigonometric.at(0.5).0 - 0.5f64.sqrt()).abs() < 1e-15);
    }

    /// What E[x_0 | x_t] is for x_0 ~ N(mean, variance), as the answer of an exact network.
    fn exact(path: Path, says: Prediction, t: f64, x: f64, (mean, variance): (f64, f64)) -> f64 {
        let (alpha, sigma) = path.at(t);
        let total = alpha * alpha * variance + sigma * sigma;
        let x0 = mean + alpha * variance / total * (x - alpha * mean);
        let eps = if sigma > 0.0 { (x - alpha * x0) / sigma } else { 0.0 };
        let target = path.target(says, t);
        target.x * x0 + target.out * eps
    }

    /// One sample from noise `z`, with `noise` for the steps' own.
    fn walk(path: Path, says: Prediction, (steps, eta): (usize, f64), z: f64, of: (f64, f64), noise: &[f64]) -> f64 {
        let mut x = z;
        for k in 0..steps {
            let (t, s) = (1.0 - k as f64 / steps as f64, 1.0 - (k + 1) as f64 / steps as f64);
            let mix = path.x0(says, t);
            let x0 = mix.x * x + mix.out * exact(path, says, t, x, of);
            let step = path.step(t, s, eta);
            x = step.x * x + step.x0 * x0 + step.noise * noise.get(k).copied().unwrap_or(0.0);
        }
        x
    }

    #[test]
    fn the_deterministic_sampler_of_a_gaussian_leads_to_its_closed_form() {
        let of = (0.7f64, 0.25f64);
        for path in PATHS {
            for says in [Prediction::X0, Prediction::V] {
                // In K steps the sampler is an affine map of the noise; its slope is a product of one factor a step.
                for steps in [1, 2, 5, 40, 4000] {
                    let slope =
                        walk(path, says, (steps, 0.0), 1.0, of, &[]) - walk(path, says, (steps, 0.0), 0.0, of, &[]);
                    let mut want = 1.0;
                    for k in 0..steps {
                        let (t, s) = (1.0 - k as f64 / steps as f64, 1.0 - (k + 1) as f64 / steps as f64);
                        let ((at, bt), (as_, bs)) = (path.at(t), path.at(s));
                        let total = at * at * of.1 + bt * bt;
                        want *= (as_ * at * of.1 + bs * bt) / total;
                    }
                    assert!((slope - want).abs() < 1e-9, "{path:?} {says:?} {steps}: {slope} for {want}");
                }
                // In one step nothing of the noise is left; in many the data's own deviation and mean.
                let end = |z: f64, steps| walk(path, says, (steps, 0.0), z, of, &[]);
                assert!((end(1.0, 1) - of.0).abs() < 1e-9 && (end(-2.0, 1) - of.0).abs() < 1e-9);
                assert!((end(1.0, 4000) - end(0.0, 4000) - of.1.sqrt()).abs() < 2e-3);
                assert!((end(0.0, 4000) - of.0).abs() < 2e-3);
            }
        }
    }

    #[test]
    fn predicted_noise_leads_to_the_data_too_although_it_says_nothing_of_it_in_the_beginning() {
        let of = (0.7f64, 0.25f64);
        for path in PATHS {
            let end = |z: f64| walk(path, Prediction::Noise, (4000, 0.0), z, of, &[]);
            let (slope, mean) = (end(1.0) - end(0.0), end(0.0));
            assert!((slope - of.1.sqrt()).abs() < 0.03 && (mean - of.0).abs() < 0.05, "{path:?}: {slope}, {mean}");
        }
    }

    #[test]
    fn the_ancestral_sampler_of_a_gaussian_has_the_variance_of_its_closed_form() {
        let of = (-0.4f64, 0.36f64);
        for path in PATHS {
            for steps in [2, 8, 64] {
                // Each noise enters linearly: the variance is the sum of the squares of what each of them does.
                let none = vec![0.0; steps];
                let base = walk(path, Prediction::V, (steps, 1.0), 0.0, of, &none);
                let mut got = (walk(path, Prediction::V, (steps, 1.0), 1.0, of, &none) - base).powi(2);
                for k in 0..steps {
                    let one: Vec<f64> = (0..steps).map(|i| f64::from(u8::from(i == k))).collect();
                    got += (walk(path, Prediction::V, (steps, 1.0), 0.0, of, &one) - base).powi(2);
                }
                let mut want = 1.0;
                for k in 0..steps {
                    let (t, s) = (1.0 - k as f64 / steps as f64, 1.0 - (k + 1) as f64 / steps as f64);
                    let ((at, bt), step) = (path.at(t), path.step(t, s, 1.0));
                    let gain = step.x + step.x0 * at * of.1 / (at * at * of.1 + bt * bt);
                    want = gain * gain * want + step.noise * step.noise;
                }
                assert!((got - want).abs() < 1e-9, "{path:?} {steps}: {got} for {want}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn whatever_a_network_says_gives_back_the_data_and_the_noise(
            x0 in -3.0..3.0f64, eps in -3.0..3.0f64, t in 0.001..0.999f64
        ) {
            for path in PATHS {
                let (alpha, sigma) = path.at(t);
                let xt = alpha * x0 + sigma * eps;
                for says in SAYS {
                    let target = path.target(says, t);
                    let out = target.x * x0 + target.out * eps;
                    let (a, b) = (path.x0(says, t), path.noise(says, t));
                    // Through the noise alone x_0 is divided by alpha, and through x_0 alone eps by sigma.
                    let tolerance = 1e-9 / (alpha.max(1e-3) * sigma.max(1e-3));
                    if alpha > LEAST_ALPHA || says != Prediction::Noise {
                        prop_assert!((a.x * xt + a.out * out - x0).abs() < tolerance);
                    }
                    prop_assert!((b.x * xt + b.out * out - eps).abs() < tolerance);
                }
            }
        }

        #[test]
        fn the_velocity_is_the_derivative_of_the_path(x0 in -3.0..3.0f64, eps in -3.0..3.0f64, t in 0.01..0.99f64) {
            for path in PATHS {
                let x = |t: f64| { let (a, b) = path.at(t); a * x0 + b * eps };
                let (a, b) = path.velocity(t);
                let numeric = (x(t + 1e-6) - x(t - 1e-6)) / 2e-6;
                prop_assert!((numeric - path.unit() * (a * x0 + b * eps)).abs() < 1e-6);
            }
        }

        #[test]
        fn a_step_keeps_the_marginal_whatever_its_noise(t in 0.01..1.0f64, part in 0.0..1.0f64, eta in 0.0..1.0f64) {
            for path in PATHS {
                let s = part * t;
                let step = path.step(t, s, eta);
                let ((at, bt), (as_, bs)) = (path.at(t), path.at(s));
                let (mean, variance) = (step.x * at + step.x0, (step.x * bt).powi(2) + step.noise * step.noise);
                prop_assert!((mean - as_).abs() < 1e-9 && (variance - bs * bs).abs() < 1e-9, "{path:?} {t} {s}");
            }
        }

        /// q(x_s | x_t, x_0) by Bayes: precision 1/bs^2 + (at/as)^2/forward.
        #[test]
        fn full_noise_is_the_posterior(t in 0.1..0.999f64, part in 0.01..0.99f64) {
            for path in PATHS {
                let s = part * t;
                let ((at, bt), (as_, bs)) = (path.at(t), path.at(s));
                let (ratio, step) = (at / as_, path.step(t, s, 1.0));
                let forward = bt * bt - ratio * ratio * bs * bs;
                let variance = 1.0 / (1.0 / (bs * bs) + ratio * ratio / forward);
                prop_assert!((step.noise * step.noise - variance).abs() < 1e-9);
                prop_assert!((step.x - variance * ratio / forward).abs() < 1e-6);
            }
        }
    }
}
