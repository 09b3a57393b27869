//! Golden vectors of the objectives, from the program in tests/reference, which has other formulas. An autoencoder's loss is that of
//! `ar_nll`, and a student's of tokens one of the divergences.

use burn::prelude::*;
use fewstep::method::d3pm::posterior_rows;
use fewstep::method::uniform::{Level, factor, rows_of};
use fewstep::method::{EmbeddingConfig, FewStep, RowLoss, Target, embedding, evaluate, few_step, latent};
use fewstep::model::config::{TimeInput, VectorsConfig, Visibility};
use fewstep::model::transformer::ends::Given;
use fewstep::model::{Cache, Denoise, Head, Noised, Transformer, TransformerConfig, params};
use fewstep::process::Schedule;
use fewstep::process::d3pm::{Matrices, Matrix};
use fewstep::process::gaussian::{Denoising, Path, Prediction};
use fewstep::rng::StepRng;
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

impl Golden {
    /// What was computed of vectors.
    fn vectors() -> Golden {
        Golden(Golden::read().0["vectors"].clone())
    }
    /// The numbers of lists in lists.
    fn flat(value: &Value) -> Vec<f64> {
        match value {
            Value::Array(all) => all.iter().flat_map(Self::flat).collect(),
            number => vec![number.as_f64().unwrap()],
        }
    }
    /// [b, m, d]
    fn points(value: &Value) -> Tensor<3> {
        let values: Vec<f32> = Self::flat(value).iter().map(|x| *x as f32).collect();
        Tensor::from_data(TensorData::new(values, POINTS), &Device::flex())
    }
    fn batch(&self) -> latent::Batch {
        latent::Batch { z: Self::points(&self.0["x0"]), eps: Self::points(&self.0["eps"]), condition: None }
    }
    /// A network that says this vector whatever it reads; a classifier with the codebook that there is.
    fn saying(&self, key: &str, classifies: bool, device: &Device) -> Transformer {
        let vectors = VectorsConfig {
            count: POINTS[1],
            width: POINTS[2],
            self_conditioning: false,
            two_times: !classifies,
            condition: 0,
            codebook: classifies,
            time_scale: 8.0,
        };
        let config = TransformerConfig {
            time: TimeInput::Sequence,
            vectors: Some(vectors),
            ..TransformerConfig::new(8, 1, 2, Visibility::Full)
        };
        let (vocab, length) = if classifies { (5, POINTS[1]) } else { (1, 1) };
        let model = Transformer::init(&config, vocab, length, 5, device);
        let mut named = params::export(&model);
        for (name, tensor) in &mut named {
            let values = match name.as_str() {
                "vectors.output.bias" => self.floats(key),
                "vectors.codebook" => Self::flat(&self.0["rounding"]["codebook"]),
                "vectors.rounding" => Self::row(&self.0["rounding"]["offsets"]),
                _ => vec![0.0; tensor.data.len()],
            };
            assert_eq!(values.len(), tensor.data.len(), "{name}");
            tensor.data = values.iter().map(|x| *x as f32).collect();
        }
        params::import(model, &named, device)
    }
}

/// Sequences, vectors of each, and their width.
const POINTS: [usize; 3] = [3, 2, 2];

fn near(what: &str, got: Tensor<3>, want: &Value) {
    let (got, want) = (params::floats(got), params::floats(Golden::points(want)));
    assert!(
        got.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 2e-5 * b.abs().max(1.0)),
        "{what}: {got:?} for {want:?}"
    );
}

#[test]
fn paths_of_vectors_are_those_of_another_program() {
    let golden = Golden::vectors();
    let (batch, [t, s]) = (golden.batch(), ["t", "s"].map(|key| vec![golden.0[key].as_f64().unwrap(); 6]));
    let says = golden.saying("student", false, &Device::flex()).says(batch.z.clone(), &t, Some(&s), &Given::default());
    let all = golden.0["paths"].as_array().unwrap();
    assert_eq!(all.len(), 6);
    for wanted in all {
        let [path, predict] = ["path", "predict"].map(|key| wanted[key].clone());
        let what = format!("{path} {predict}");
        let path: Path = serde_json::from_value(path).unwrap();
        let predict: Prediction = serde_json::from_value(predict).unwrap();
        let xt = batch.at(path, &t);
        near(&format!("{what}: xt"), xt.clone(), &wanted["xt"]);
        let target = latent::mixed(&t, |t| path.target(predict, t), batch.z.clone(), batch.eps.clone());
        near(&format!("{what}: target"), target, &wanted["target"]);
        let x0 = latent::mixed(&t, |t| path.x0(predict, t), xt.clone(), says.clone());
        near(&format!("{what}: x0"), x0, &wanted["x0"]);
        near(
            &format!("{what}: xs"),
            few_step::jumped(Denoising { path, predict }, &t, &s, xt, says.clone()),
            &wanted["xs"],
        );
    }
}

#[test]
fn losses_of_few_step_students_are_those_of_another_program() {
    let golden = Golden::vectors();
    let (batch, autodiff) = (golden.batch(), Device::flex().autodiff());
    let model = golden.saying("student", false, &autodiff);
    let [plain, teacher, critic] =
        ["student", "teacher", "critic"].map(|key| golden.saying(key, false, &Device::flex()));
    let all = golden.0["losses"].as_array().unwrap();
    let mut methods = std::collections::BTreeSet::new();
    for wanted in all {
        let method: FewStep = serde_json::from_value(wanted["method"].clone()).unwrap();
        let process = Denoising {
            path: serde_json::from_value(wanted["path"].clone()).unwrap(),
            predict: serde_json::from_value(wanted["predict"].clone()).unwrap(),
        };
        methods.insert(wanted["method"].as_object().unwrap().keys().next().unwrap());
        let step = few_step::Step {
            model: &model,
            plain: &plain,
            average: None,
            teacher: &teacher,
            process,
            batch: &batch,
            step: 0,
            steps: 10,
            round: 0,
            rng: StepRng::new(3).of_step(0),
        };
        let (got, _) = step.backward(&method, Some(&critic)).unwrap();
        let want = wanted["loss"].as_f64().unwrap();
        assert!((got - want).abs() <= 1e-4 * want.abs().max(1.0), "{wanted}: {got}");
    }
    assert_eq!(methods.len(), 6, "{methods:?}");
}

#[test]
fn rounding_and_levels_of_embeddings_are_those_of_another_program() {
    let golden = Golden::vectors();
    let levels = golden.0["levels"].as_u64().unwrap() as usize;
    let alphas = EmbeddingConfig { levels, ..EmbeddingConfig::default() }.alphas();
    for (got, want) in alphas.iter().zip(golden.floats("alphas_cumprod")) {
        assert!((got - want).abs() < 1e-12, "{got} for {want}");
    }
    let classifier = golden.saying("student", true, &Device::flex());
    let golden = Golden(golden.0["rounding"].clone());
    let offsets: Vec<f32> = golden.floats("offsets").iter().map(|x| *x as f32).collect();
    let offsets = Tensor::<1>::from_data(&offsets[..], &Device::flex());
    let logits = embedding::rounding(golden.rows("vectors"), golden.rows("codebook"), offsets);
    let tokens = golden.ids("tokens");
    let each = params::floats(burn::tensor::activation::log_softmax(logits, 1));
    let nll = tokens.iter().enumerate().map(|(i, x)| -f64::from(each[i * 5 + *x as usize])).sum::<f64>()
        / tokens.len() as f64;
    let want = golden.0["nll"].as_f64().unwrap();
    assert!((nll - want).abs() < 1e-5, "{nll} for {want}");
    let x = Tensor::<3>::zeros([tokens.len() / POINTS[1], POINTS[1], POINTS[2]], &Device::flex());
    let said = params::floats(embedding::log_probability(&classifier, x, &[0.5; 4], &tokens))[0];
    let want = golden.0["class_log_probability"].as_f64().unwrap();
    assert!((f64::from(said) - want).abs() < 1e-4, "{said} for {want}");
}
