use super::*;
use crate::rng::{StepRng, Stream};
use proptest::prelude::*;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

fn abar(schedule: Betas, levels: usize) -> Vec<f64> {
    alphas_cumprod(&schedule.betas(levels))
}

fn mean_and_variance(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64)
}

#[test]
fn alpha_bar_of_each_schedule_is_its_definition() {
    for levels in [200, 1000, 2000] {
        for (name, schedule) in Betas::ALL {
            let a = abar(schedule, levels);
            let cut = schedule.betas(levels).iter().position(|b| *b == LARGEST).unwrap_or(levels);
            for (i, got) in a.iter().enumerate().take(cut) {
                let u = (i + 1) as f64 / levels as f64;
                let want = match schedule {
                    // The product telescopes where no beta is cut off.
                    Betas::Cosine | Betas::Sqrt => schedule.alpha_bar(u).unwrap() / schedule.alpha_bar(0.0).unwrap(),
                    Betas::TruncCos => schedule.alpha_bar(i as f64 / levels as f64).unwrap(),
                    Betas::Linear => {
                        let beta = |k: usize| (0.1 + 19.9 * k as f64 / (levels - 1) as f64) / levels as f64;
                        (0..=i).map(|k| (-beta(k)).ln_1p()).sum::<f64>().exp()
                    }
                };
                assert!((got - want).abs() < 1e-11, "{name}, level {i} of {levels}: {got} for {want}");
            }
            assert!(cut + 3 > levels, "{name} is cut at {cut} of {levels}");
        }
    }
}

#[test]
fn golden_values_of_the_schedules() {
    // cos^2(pi/2 0.508/1.008)/cos^2(pi/2 0.008/1.008), 1 - sqrt(0.5001) over 0.99, cos^2(pi/2 0.6/1.1).
    for (schedule, at, want) in [
        (Betas::Cosine, 499, 0.493_843_590_440_637_75),
        (Betas::Sqrt, 499, 0.295_780_314_818_701_2),
        (Betas::TruncCos, 500, 0.428_842_580_863_357_47),
        (Betas::Linear, 499, 0.078_587_242_881_778_26),
    ] {
        let got = abar(schedule, 1000)[at];
        assert!((got - want).abs() < 1e-9, "{schedule:?}: {got}");
    }
    assert!((abar(Betas::Sqrt, 200)[9] - 0.784_009_805_195_965_7).abs() < 1e-12);
}

#[test]
fn respaced_levels_are_the_published_ones_and_bad_counts_are_refused() {
    assert_eq!(spaced(2000, 8).unwrap(), [0, 286, 571, 857, 1142, 1428, 1713, 1999]);
    assert_eq!((spaced(5, 5).unwrap(), spaced(5, 1).unwrap()), (vec![0, 1, 2, 3, 4], vec![0]));
    assert!(spaced(5, 6).unwrap_err().to_string().contains("between 1 and 5 steps"));
    assert!(spaced(5, 0).is_err());
    let levels = Levels::new(&abar(Betas::Sqrt, 2000), spaced(2000, 8).unwrap());
    assert_eq!((levels.told(7), levels.told(0), levels.told(1)), (999.5, 0.0, 143.0));
    // A process over some levels has the same alpha_bar at them.
    let again = alphas_cumprod(&levels.betas());
    assert!(again.iter().zip(levels.alphas_cumprod()).all(|(a, b)| (a - b).abs() < 1e-12));
}

#[test]
fn the_posterior_is_that_of_simulated_paths() {
    // x_s and x_t of one path from x0 = 0.8: of those whose x_t falls near a value the x_s have the posterior's moments.
    let a = abar(Betas::Cosine, 50);
    let (x0, at, width, n) = (0.8, 0.55, 0.02, 1_500_000);
    for (s, t) in [(20, 21), (10, 30)] {
        let mut rng = StepRng::new(7).at(t as u64, Stream::Batch);
        let mut normal = || rng.sample::<f64, _>(StandardNormal);
        let mut seen = Vec::new();
        for _ in 0..n {
            let x_s = a[s].sqrt() * x0 + (1.0 - a[s]).sqrt() * normal();
            let ratio = a[t] / a[s];
            let x_t = ratio.sqrt() * x_s + (1.0 - ratio).sqrt() * normal();
            if f64::abs(x_t - at) < width {
                seen.push(x_s);
            }
        }
        let (mean, variance) = mean_and_variance(&seen);
        let step = GaussianStep::new(Kind::Ancestral, &a, t, s);
        let (want, spread) = (step.x * at + step.x0 * x0, step.noise * step.noise);
        let error = (spread / seen.len() as f64).sqrt();
        assert!((mean - want).abs() < 5.0 * error, "{s} {t}: {mean} for {want} +- {error}");
        assert!((variance / spread - 1.0).abs() < 0.06, "{s} {t}: {variance} for {spread}, {}", seen.len());
    }
}

#[test]
fn the_steps_of_all_levels_are_the_posterior_coefficients_and_the_last_one_is_x0() {
    let levels = Levels::new(&abar(Betas::Linear, 30), (0..30).collect());
    let variances = levels.posterior_variances();
    for kind in [Kind::Ancestral, Kind::Ddim { eta: 0.0 }, Kind::Ddim { eta: 1.0 }] {
        let last = levels.step(kind, 0);
        assert!((last.x0 - 1.0).abs() < 1e-12 && last.x.abs() < 1e-12 && last.noise == 0.0, "{last:?}");
    }
    for (i, variance) in variances.iter().enumerate().skip(1) {
        let noise = levels.step(Kind::Ancestral, i).noise;
        assert!((noise * noise - variance).abs() < 1e-14);
    }
    assert_eq!(variances[0], 0.0);
}

#[test]
fn a_ddim_step_with_eta_one_is_the_ancestral_one_and_one_with_eta_zero_keeps_the_noise_it_finds() {
    let a = abar(Betas::Sqrt, 50);
    for (from, to) in [(49, 30), (30, 29), (12, 3), (7, 7)] {
        let [one, two] = [Kind::Ancestral, Kind::Ddim { eta: 1.0 }].map(|kind| GaussianStep::new(kind, &a, from, to));
        for (x, y) in [(one.x, two.x), (one.x0, two.x0), (one.noise, two.noise)] {
            assert!((x - y).abs() < 1e-12, "{from} to {to}: {one:?} and {two:?}");
        }
        let zero = GaussianStep::new(Kind::Ddim { eta: 0.0 }, &a, from, to);
        let (x0, eps) = (0.7, -1.3);
        let at = |t: usize| a[t].sqrt() * x0 + (1.0 - a[t]).sqrt() * eps;
        assert!((zero.x * at(from) + zero.x0 * x0 - at(to)).abs() < 1e-12);
        assert_eq!(zero.noise, 0.0);
    }
    assert_eq!(GaussianStep::new(Kind::Ancestral, &a, 9, 0).noise, 0.0);
    assert_eq!(GaussianStep::new(Kind::Ancestral, &a, 7, 7), GaussianStep { x: 1.0, x0: 0.0, noise: 0.0 });
}

/// Data N(m, s^2), of which the best prediction of x0 is linear in x_t.
struct Toy {
    m: f64,
    s2: f64,
}

impl Toy {
    fn predict(&self, a: f64, x: f64) -> f64 {
        self.m + a.sqrt() * self.s2 / (a * self.s2 + 1.0 - a) * (x - a.sqrt() * self.m)
    }

    /// Mean and variance after the steps of all levels from N(0, 1), in closed form.
    fn closed_form(&self, levels: &Levels, kind: Kind) -> (f64, f64) {
        let a = levels.alphas_cumprod();
        let spread = |a: f64| a * self.s2 + 1.0 - a;
        let top = a[a.len() - 1];
        let (mut off, mut variance) = (-top.sqrt() * self.m, 1.0);
        for i in (0..a.len()).rev() {
            let (at, an) = (a[i], if i == 0 { 1.0 } else { a[i - 1] });
            // The deviation from sqrt(abar) m is multiplied by a factor, and noise is added.
            let covariance = (at * an).sqrt() * self.s2;
            let (factor, noise) = match kind {
                Kind::Ddim { eta: 0.0 } => ((covariance + ((1.0 - at) * (1.0 - an)).sqrt()) / spread(at), 0.0),
                // E[x_s | x_t] under the data: the whole covariance of the path, over the variance of x_t.
                _ => {
                    let posterior = (1.0 - at / an) * (1.0 - an) / (1.0 - at);
                    ((covariance + (1.0 - an) * (at / an).sqrt()) / spread(at), posterior)
                }
            };
            (off, variance) = (off * factor, variance * factor * factor + noise);
        }
        (self.m + off, variance)
    }

    fn sampled(&self, levels: &Levels, kind: Kind, n: usize) -> Vec<f64> {
        let draw = |rng: &mut ChaCha8Rng| rng.sample::<f64, _>(StandardNormal);
        let rng = StepRng::new(11);
        let one = |i: usize| {
            let mut rng = rng.at(i as u64, Stream::Token);
            let start = draw(&mut rng) as f32;
            let down = |x: f32, i: usize| {
                let x0 = self.predict(levels.alphas_cumprod()[i], f64::from(x)) as f32;
                levels.step(kind, i).apply(&[x], &[x0], &[draw(&mut rng) as f32])[0]
            };
            f64::from((0..levels.len()).rev().fold(start, down))
        };
        (0..n).map(one).collect()
    }
}

#[test]
fn a_gaussian_toy_with_known_score_reproduces_its_closed_form_sampler() {
    let toy = Toy { m: 1.5, s2: 0.3 };
    let n = 60_000;
    for steps in [1, 4, 20] {
        let levels = Levels::new(&abar(Betas::Cosine, 200), spaced(200, steps).unwrap());
        for kind in [Kind::Ancestral, Kind::Ddim { eta: 0.0 }, Kind::Ddim { eta: 1.0 }] {
            let (mean, variance) = mean_and_variance(&toy.sampled(&levels, kind, n));
            let (want, spread) = toy.closed_form(&levels, kind);
            let error = (spread / n as f64).sqrt();
            assert!((mean - want).abs() < 5.0 * error, "{kind:?}, {steps}: mean {mean} for {want} +- {error}");
            // The variance of a normal sample's variance is 2 spread^2/n.
            assert!(
                (variance - spread).abs() < 5.0 * spread * (2.0 / n as f64).sqrt(),
                "{kind:?}, {steps}: {variance}"
            );
        }
    }
    // With all levels both samplers end in the data, and with few DDPM's variance falls short.
    let all = Levels::new(&abar(Betas::Cosine, 4000), (0..4000).collect());
    for kind in [Kind::Ancestral, Kind::Ddim { eta: 0.0 }] {
        let (mean, variance) = toy.closed_form(&all, kind);
        assert!((mean - 1.5).abs() < 1e-3 && (variance - 0.3).abs() < 2e-3, "{kind:?}: {mean}, {variance}");
    }
    let few = Levels::new(&abar(Betas::Cosine, 200), spaced(200, 4).unwrap());
    assert!(toy.closed_form(&few, Kind::Ancestral).1 < 0.29);
}

#[test]
fn numbers_beyond_the_limit_are_drawn_anew_and_only_those() {
    let mut asked = Vec::new();
    let got = normals(4, Some(1.0), &mut |n| {
        asked.push(n);
        match asked.len() {
            1 => vec![0.5, 1.01, -2.0, -0.2],
            2 => vec![-1.5, 0.1],
            _ => vec![-1.0],
        }
    });
    assert_eq!((got, asked), (vec![0.5, -1.0, 0.1, -0.2], vec![4, 2, 1]));
    let mut rng = StepRng::new(1).at(0, Stream::Token);
    let far = normals(10_000, None, &mut |n| (0..n).map(|_| rng.sample(StandardNormal)).collect());
    assert!(far.iter().any(|z| z.abs() > 3.0));
}

#[test]
fn the_nearest_embedding_is_the_one_of_least_distance_and_the_first_of_equals() {
    let embedding = [0.0, 0.0, 1.0, 0.0, 0.0, 2.0, 1.0, 0.0];
    assert_eq!(nearest(&embedding, &[0.9, 0.2]), (1, &[1.0, 0.0][..]));
    assert_eq!(nearest(&embedding, &[-3.0, 5.0]).0, 2);
    assert_eq!(nearest(&embedding, &[0.2, 0.1]).0, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// From q(x_t | x0) a step leads to q(x_s | x0): the variances add up, and so do the means.
    #[test]
    fn a_step_keeps_the_marginal_of_the_path(
        schedule in 0usize..4, from in 1usize..100, part in 0.0..1.0f64, eta in 0.0..1.0f64
    ) {
        let (a, to) = (abar(Betas::ALL[schedule].1, 100), 1 + (part * (from - 1) as f64) as usize);
        for kind in [Kind::Ancestral, Kind::Ddim { eta }] {
            let step = GaussianStep::new(kind, &a, from, to);
            let mean = step.x * a[from].sqrt() + step.x0;
            let variance = step.x * step.x * (1.0 - a[from]) + step.noise * step.noise;
            prop_assert!((mean - a[to].sqrt()).abs() < 1e-10, "{kind:?} {from} to {to}: {mean}");
            prop_assert!((variance - (1.0 - a[to])).abs() < 1e-10, "{kind:?} {from} to {to}: {variance}");
        }
    }

    #[test]
    fn x0_noise_and_v_turn_into_each_other(a in 1e-4..0.9999f64, x0 in -3.0..3.0f64, eps in -3.0..3.0f64) {
        let x = a.sqrt() * x0 + (1.0 - a).sqrt() * eps;
        for says in [Prediction::X0, Prediction::Noise, Prediction::V] {
            let wanted = target(says, a);
            let said = wanted.x * x0 + wanted.out * eps;
            let mix = super::x0(says, a);
            let back = mix.x * x + mix.out * said;
            prop_assert!((back - x0).abs() < 1e-6, "{says:?}: {back} for {x0}");
            let (of_x, of_x0) = (1.0 / (1.0 - a).sqrt(), -(a / (1.0 - a)).sqrt());
            prop_assert!((of_x * x + of_x0 * back - eps).abs() < 1e-6, "{says:?}");
        }
        // v is the derivative of (cos phi, sin phi) along phi: orthogonal to x_t in the plane of (x0, eps).
        let v = target(Prediction::V, a);
        prop_assert!((v.x * a.sqrt() + v.out * (1.0 - a).sqrt()).abs() < 1e-12);
        prop_assert!((v.x.hypot(v.out) - 1.0).abs() < 1e-12);
    }
}
