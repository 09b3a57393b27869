use super::*;
use crate::rng::{StepRng, Stream};
use rand::Rng;

/// Each kind over six tokens.
fn all(levels: usize) -> Vec<(Matrix, Matrices)> {
    let ring: Neighbours = (0..6u32).map(|i| vec![(i + 1) % 6, (i + 2) % 6]).collect();
    [Matrix::Absorbing, Matrix::Uniform, Matrix::Gaussian, Matrix::Neighbours { model: "ar".into(), k: 2 }]
        .into_iter()
        .map(|m| {
            let of = Matrices::new(&m, 6, levels, Schedule::Cosine, Some(&ring)).unwrap();
            (m, of)
        })
        .collect()
}

#[test]
fn rows_are_distributions_products_are_repeated_products_and_the_end_is_stationary() {
    for (kind, m) in all(64) {
        let n = m.states();
        for (t, step) in m.steps.iter().enumerate() {
            for row in step.chunks(n).chain(m.products[t + 1].chunks(n)) {
                assert!(row.iter().all(|q| *q >= 0.0), "{kind:?}");
                assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{kind:?}");
            }
        }
        // Qbar_5 by summing over all paths of one token.
        let mut now: Vec<f64> = (0..n).map(|j| f64::from(u8::from(j == 2))).collect();
        for step in &m.steps[..5] {
            now = (0..n).map(|j| (0..n).map(|i| now[i] * step[i * n + j]).sum()).collect();
        }
        assert!(now.iter().zip(m.marginal(5, 2)).all(|(a, b)| (a - b).abs() < 1e-12), "{kind:?}");
        let end = |j: usize| if m.absorbs() { f64::from(u8::from(j == 6)) } else { 1.0 / n as f64 };
        for x in 0..6 {
            for (j, q) in m.marginal(64, x).iter().enumerate() {
                assert!((q - end(j)).abs() < 2e-3, "{kind:?}: {x} to {j}: {q}");
            }
        }
    }
}

#[test]
fn marginals_of_masks_and_uniform_noise_are_the_schedule_and_near_tokens_are_confused_first() {
    for (kind, m) in all(16) {
        for t in 1..=16 {
            let (alpha, row) = (Schedule::Cosine.alpha(t as f64 / 16.0), m.marginal(t, 1));
            match kind {
                Matrix::Absorbing => assert!((row[1] - alpha).abs() < 1e-12 && (row[6] - 1.0 + alpha).abs() < 1e-12),
                Matrix::Uniform => assert!((row[1] - alpha - (1.0 - alpha) / 6.0).abs() < 1e-12),
                // Token 1 is next to 2 and far from 5; in the ring its neighbours are 2 and 3, and it is one of 0's and 5's.
                Matrix::Gaussian => assert!(row[1] > row[2] && row[2] >= row[5]),
                Matrix::Neighbours { .. } => {
                    let trace: f64 = (0..6).map(|x| m.marginal(t, x)[x as usize]).sum();
                    assert!(((trace - 1.0) / 5.0 - alpha.max(LAST)).abs() < 1e-9, "{t}");
                    assert!(row[2] > row[4]);
                }
            }
        }
    }
}

#[test]
fn the_discretised_gaussian_has_the_values_of_its_formula() {
    // Three states at beta 0.5: exp(-4 d^2/(4 * 0.5)) = exp(-2 d^2) over 1 + 2 e^-2 + 2 e^-8.
    let total = 1.0 + 2.0 * (-2f64).exp() + 2.0 * (-8f64).exp();
    let (one, two) = ((-2f64).exp() / total, (-8f64).exp() / total);
    let want = [1.0 - one - two, one, two, one, 1.0 - 2.0 * one, one, two, one, 1.0 - one - two];
    assert!(gaussian(3, 0.5).iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-14));
}

#[test]
fn a_posterior_is_bayes_rule_by_enumeration_and_by_monte_carlo() {
    let p = [0.1, 0.3, 0.2, 0.25, 0.1, 0.05];
    for (kind, m) in all(8) {
        let n = m.states();
        for (s, t) in [(0, 1), (3, 4), (2, 7), (0, 8)] {
            // Of x_0 from p: the joint of x_s and x_t over all paths between.
            let mut joint = vec![0.0; n * n];
            for (x, p) in p.iter().enumerate() {
                for a in 0..n {
                    let at = m.marginal(s, x as u32)[a];
                    let mut now: Vec<f64> = (0..n).map(|j| f64::from(u8::from(j == a))).collect();
                    for step in &m.steps[s..t] {
                        now = (0..n).map(|j| (0..n).map(|i| now[i] * step[i * n + j]).sum()).collect();
                    }
                    (0..n).for_each(|b| joint[b * n + a] += p * at * now[b]);
                }
            }
            for i in 0..n {
                let total: f64 = joint[i * n..(i + 1) * n].iter().sum();
                if total < 1e-12 {
                    continue;
                }
                let got = m.posterior(s, t, i as u32, &p);
                for j in 0..n {
                    assert!((got[j] - joint[i * n + j] / total).abs() < 1e-10, "{kind:?} {s} {t} {i} {j}");
                }
            }
        }
        // Monte Carlo over chains that are at the most frequent state of level 4.
        let mut rng = StepRng::new(4).at(0, Stream::Corrupt);
        let mut draw = |weights: &[f64]| crate_draw(weights, rng.random());
        let chains: Vec<[usize; 2]> = (0..60_000)
            .map(|_| {
                let mut x = draw(&p);
                let mut at = [0, 0];
                for (t, step) in m.steps[..4].iter().enumerate() {
                    x = draw(&step[x * n..(x + 1) * n]);
                    match t {
                        1 => at[0] = x,
                        3 => at[1] = x,
                        _ => {}
                    }
                }
                at
            })
            .collect();
        let i = (0..n).max_by_key(|i| chains.iter().filter(|c| c[1] == *i).count()).unwrap();
        let here: Vec<usize> = chains.iter().filter(|c| c[1] == i).map(|c| c[0]).collect();
        for (j, q) in m.posterior(2, 4, i as u32, &p).iter().enumerate() {
            let (count, total) = (here.iter().filter(|a| **a == j).count() as f64, here.len() as f64);
            assert!((count - total * q).abs() <= 4.5 * (total * q * (1.0 - q)).sqrt() + 1e-6, "{kind:?} {j}");
        }
    }
}

/// The index whose slice of the weights holds u.
fn crate_draw(weights: &[f64], u: f64) -> usize {
    let mut left = u * weights.iter().sum::<f64>();
    for (i, w) in weights.iter().enumerate() {
        if left < *w {
            return i;
        }
        left -= w;
    }
    weights.iter().rposition(|w| *w > 0.0).unwrap()
}

#[test]
fn the_nearest_rows_of_an_embedding_are_its_neighbours_and_islands_are_refused() {
    // Four points on a line: 0, 1, 10, 12.
    let near = nearest(&[0.0, 1.0, 10.0, 12.0], 1, 1);
    assert_eq!(near, [vec![1], vec![0], vec![3], vec![2]]);
    let matrix = Matrix::Neighbours { model: "ar".into(), k: 1 };
    let error = Matrices::new(&matrix, 4, 8, Schedule::LogLinear, Some(&near)).unwrap_err();
    assert!(error.to_string().contains("raise `k`"), "{error}");
    let near = nearest(&[0.0, 1.0, 10.0, 12.0], 1, 2);
    assert!(Matrices::new(&matrix, 4, 8, Schedule::LogLinear, Some(&near)).is_ok());
    assert!(Matrices::new(&Matrix::Uniform, 50_000, 1000, Schedule::LogLinear, None).is_err());
}
