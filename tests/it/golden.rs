//! One golden vector for each objective on tokens, from the program in tests/reference, which has other formulas.

use burn::prelude::*;
use fewstep::method::d3pm::posterior_rows;
use fewstep::method::uniform::{Level, factor, rows_of};
use fewstep::method::{RowLoss, Target, evaluate};
use fewstep::model::{Cache, Denoise, Head, Noised};
use fewstep::process::Schedule;
use fewstep::process::d3pm::{Matrices, Matrix};
use serde_json::Value;
use std::ops::Range;
use std::sync::Arc;

/// What was computed elsewhere.
struct Golden(Value);

impl Golden {
    fn read() -> Golden {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/losses.json");
        Golden(serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
    }
    fn row(value: &Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    }
    fn floats(&self, key: &str) -> Vec<f64> {
        Self::row(&self.0[key])
    }
    fn ids(&self, key: &str) -> Vec<u32> {
        self.floats(key).into_iter().map(|v| v as u32).collect()
    }
    /// [n, v]
    fn rows(&self, key: &str) -> Tensor<2> {
        let rows: Vec<Vec<f64>> = self.0[key].as_array().unwrap().iter().map(Self::row).collect();
        let (n, v) = (rows.len(), rows[0].len());
        let values: Vec<f32> = rows.iter().flatten().map(|x| *x as f32).collect();
        Tensor::from_data(TensorData::new(values, [n, v]), &Device::flex())
    }
}

/// A network whose log-probabilities are those [n, v] of n positions.
struct Said(Tensor<2>);

impl Denoise for Said {
    fn features(&self, _: &Noised) -> Tensor<3> {
        self.0.clone().unsqueeze()
    }
    fn features_cached(&self, _: &Noised, _: Range<usize>, _: &mut Cache) -> Tensor<3> {
        panic!("it is read whole")
    }
    fn predict(&self, rows: Tensor<2>) -> Tensor<2> {
        rows
    }
    fn vocab(&self) -> usize {
        self.0.dims()[1]
    }
    fn device(&self) -> Device {
        Device::flex()
    }
}

/// The losses of all rows against a target are those of the key.
fn holds(what: &str, golden: &Golden, target: Target, scale: impl Fn(usize) -> f64, want: &[f64]) {
    let model = Said(golden.rows("log_probabilities"));
    let n = want.len();
    let loss = RowLoss {
        input: Noised::tokens(&vec![0; n], &vec![0.5; n], n),
        rows: (0..n).collect(),
        weights: (0..n).map(&scale).collect(),
        target,
        alpha: None,
    };
    let (sum, each) = evaluate(&model, &loss);
    for (i, (got, want)) in each.iter().zip(want).enumerate() {
        let got = got * scale(i);
        assert!((got - want).abs() <= 1e-5 * want.abs().max(1.0), "{what}, row {i}: {got} for {want}");
    }
    let whole: f64 = want.iter().sum();
    assert!((sum - whole).abs() <= 1e-5 * whole.abs().max(1.0), "{what}: {sum} for {whole}");
}

/// A head that leaves rows as they are, and the teacher's rows under it.
fn teacher(golden: &Golden) -> (Head, Tensor<2>) {
    let rows = golden.rows("teacher");
    let vocab = rows.dims()[1];
    (Head { weight: Tensor::eye(vocab, &Device::flex()), bias: None, tied: false, vocab }, rows)
}

#[test]
fn losses_of_tokens_are_those_of_another_program() {
    let golden = Golden::read();
    let (tokens, t) = (golden.ids("tokens"), golden.floats("t"));
    holds("ar_nll", &golden, Target::Tokens(tokens.clone()), |_| 1.0, &golden.floats("ar_nll"));
    let weight = |i: usize| Schedule::LogLinear.elbo_weight(t[i]);
    holds("elbo", &golden, Target::Tokens(tokens.clone()), weight, &golden.floats("elbo"));
    let scores = Target::Scores(tokens.clone(), golden.floats("offset"));
    holds("score_entropy", &golden, scores, |_| 1.0, &golden.floats("score_entropy"));
    // What the closed form leaves out is the same for every model.
    let uniform = Target::Uniform(rows_of(&tokens, &golden.ids("noisy"), |i| 1.0 - t[i]));
    let rate = |i: usize| factor(Level { alpha: 1.0 - t[i], rate: 1.0 });
    holds("elbo under uniform noise", &golden, uniform, rate, &golden.floats("uniform"));
}

#[test]
fn divergences_from_a_teacher_are_those_of_another_program() {
    let golden = Golden::read();
    let wanted = golden.0["divergence"].as_object().unwrap();
    assert_eq!(wanted.len(), 4);
    for (name, want) in wanted {
        let kind = serde_json::from_value(Value::String(name.clone())).unwrap();
        let (head, rows) = teacher(&golden);
        holds(name, &golden, Target::Teacher(head, rows, kind), |_| 1.0, &Golden::row(want));
    }
    let (head, rows) = teacher(&golden);
    let warm = Target::Teacher(head, rows, fewstep::loss::Divergence::ForwardKl);
    let warm = Target::Warmed(2.0, Box::new(warm));
    holds("kd", &golden, warm, |_| 4.0, &golden.floats("kd_at_temperature_2"));
}

#[test]
fn posteriors_of_a_chain_are_those_of_explicit_matrices() {
    let golden = Golden::read();
    let (tokens, noisy, steps) = (golden.ids("tokens"), golden.ids("noisy"), golden.ids("d3pm_step"));
    let chain = Matrices::new(&Matrix::Uniform, 7, 4, Schedule::LogLinear, None).unwrap();
    let at: Vec<usize> = steps.iter().map(|step| *step as usize).collect();
    let rows = (0..tokens.len()).map(|i| (i, noisy[i], tokens[i]));
    let target = Target::Posterior(posterior_rows(&Arc::new(chain), &at, rows));
    holds("d3pm", &golden, target, |_| 1.0, &golden.floats("d3pm"));
}
