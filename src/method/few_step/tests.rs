//! The few-step methods on data that a page of arithmetic knows: two points in the plane.

use burn::module::Module;
use burn::optim::GradientsParams;

use super::*;
use crate::method::latent;
use crate::model::config::{TimeInput, VectorsConfig, Visibility};
use crate::model::params::floats;
use crate::model::{Denoise, TransformerConfig};
use crate::optim::Optimizer;
use crate::process::gaussian::Path;
use crate::train::TrainConfig;

const B: usize = 64;

fn network(two_times: bool) -> Transformer {
    let vectors = VectorsConfig {
        count: 1,
        width: 2,
        self_conditioning: false,
        two_times,
        condition: 0,
        codebook: false,
        time_scale: 8.0,
    };
    let config = TransformerConfig {
        time: TimeInput::Sequence,
        vectors: Some(vectors),
        ..TransformerConfig::new(32, 2, 2, Visibility::Full)
    };
    Transformer::init(&config, 1, 1, 5, &Device::flex().autodiff())
}

/// A batch of the points (1.2, 0.7) and (-1.2, -0.7).
fn batch(step: u64) -> Batch {
    let mut rng = StepRng::new(9).at(step, Stream::Batch);
    let device = Device::flex();
    let sign: Vec<f64> = (0..B).map(|_| if rng.random::<bool>() { 1.0 } else { -1.0 }).collect();
    let values: Vec<f32> = sign.iter().flat_map(|s| [(1.2 * s) as f32, (0.7 * s) as f32]).collect();
    let z = Tensor::<3>::from_data(TensorData::new(values, [B, 1, 2]), &device);
    Batch { z, eps: normals([B, 1, 2], &mut rng, &device), condition: None }
}

fn config(steps: usize, lr: f64) -> TrainConfig {
    toml::from_str(&format!("steps = {steps}\nbatch = {B}\nlr = {lr}\nclip = 1.0\nema = 0.98\ndecay = \"cosine\""))
        .unwrap()
}

fn train(
    mut model: Transformer,
    config: &TrainConfig,
    mut loss: impl FnMut(&Transformer, &Transformer, usize) -> (f64, GradientsParams),
) -> Transformer {
    let mut optimizer = Optimizer::new(&model, true);
    for step in 0..config.steps {
        let average = optimizer.averaged(&model).unwrap();
        let (value, grads) = loss(&model, &average, step);
        assert!(value.is_finite());
        model = optimizer.step(model, grads, config, step, 1.0);
    }
    optimizer.averaged(&model).unwrap()
}

fn teacher(path: Path, two_times: bool) -> Transformer {
    train(network(two_times), &config(400, 5e-3), |model, _, step| {
        let batch = batch(step as u64);
        let mut rng = StepRng::new(2).at(step as u64, Stream::Times);
        let t = stratified(B, &mut rng);
        let wanted = mixed(&t, |t| path.target(Prediction::V, t), batch.z.clone(), batch.eps.clone());
        let said = model.says(batch.at(path, &t), &t, None, &Given::default());
        finish(mean_square(said - wanted, None), model)
    })
}

/// How far one-step samples are from the nearer point, and the share of them that is nearer to the first.
fn one_step(model: &Transformer, process: Denoising, two_times: bool) -> (f64, f64) {
    let mut rng = StepRng::new(77).at(0, Stream::Noise);
    let x = normals([256, 1, 2], &mut rng, &Device::flex());
    let (t, s) = (vec![1.0; 256], vec![0.0; 256]);
    let out = model.says(x.clone(), &t, two_times.then_some(&s[..]), &Given::default());
    let ends = floats(jumped(process, &t, &s, x, out));
    let distance = |p: &[f32], sign: f32| ((p[0] - 1.2 * sign).powi(2) + (p[1] - 0.7 * sign).powi(2)).sqrt();
    let near: Vec<(f32, f32)> = ends.chunks(2).map(|p| (distance(p, 1.0), distance(p, -1.0))).collect();
    let mean = near.iter().map(|(a, b)| f64::from(a.min(*b))).sum::<f64>() / 256.0;
    (mean, near.iter().filter(|(a, b)| a < b).count() as f64 / 256.0)
}

#[test]
fn every_method_brings_one_step_to_the_data_where_its_teacher_lands_between() {
    let straight = teacher(Path::Linear, true);
    let curved = teacher(Path::Trigonometric, false);
    let methods = [
        FewStep::Progressive(Progressive { steps: 32, rounds: 5, refresh: Refresh::Ema }),
        FewStep::Consistency(Consistency { first_grid: 8, last_grid: 32, distill: true, target: Refresh::Raw }),
        FewStep::Consistency(Consistency { first_grid: 8, last_grid: 32, distill: false, target: Refresh::Raw }),
        FewStep::Continuous(Continuous { distill: true, warmup: 0.2, mean: 0.0, deviation: 1.4 }),
        FewStep::Continuous(Continuous { distill: false, warmup: 0.2, mean: 0.0, deviation: 1.4 }),
        FewStep::Shortcut(Shortcut { finest: 32, share: 0.5 }),
        FewStep::MeanFlow(MeanFlow { share: 0.75, distill: true }),
        FewStep::MeanFlow(MeanFlow { share: 0.75, distill: false }),
        FewStep::Matching(Matching { steps: 1, critic_steps: 2, critic_lr: 3e-3 }),
    ];
    for method in methods {
        let linear = matches!(method, FewStep::Shortcut(_) | FewStep::MeanFlow(_));
        let base = if linear { &straight } else { &curved };
        let path = if linear { Path::Linear } else { Path::Trigonometric };
        let process = Denoising { path, predict: Prediction::V };
        let before = one_step(base, process, linear).0;
        assert!(before > 0.5, "{method:?}: the teacher's one step lands between: {before}");
        let distill = LatentDistillConfig { teacher: String::new(), method: method.clone() };
        distill.validate("x", process).unwrap();
        let (mut taught, mut round) = (base.clone(), 0);
        let start = on_autodiff(base);
        let mut critic = (start.clone(), Optimizer::new(&start, false));
        let total = config(500, 2e-3);
        let critic_config = config(1000, 3e-3);
        let student = train(start, &total, |model, average, step| {
            if distill.round(step, total.steps) > round {
                (round, taught) = (distill.round(step, total.steps), average.clone());
            }
            let (plain, batch) = (model.valid(), batch(1000 + step as u64));
            let mut now = Step {
                model,
                plain: &plain,
                average: Some(average),
                teacher: &taught,
                process,
                batch: &batch,
                step,
                steps: total.steps,
                round,
                rng: StepRng::new(3).of_step(step as u64),
            };
            if let FewStep::Matching(c) = &method {
                for i in 0..c.critic_steps {
                    now.rng.step = (1 << 40) + (step * c.critic_steps + i) as u64;
                    let (_, grads) = finish(now.critic_loss(c, &critic.0, now.rng.step), &critic.0);
                    let settings = TrainConfig { ema: None, ..critic_config.clone() };
                    critic.0 = critic.1.step(critic.0.clone(), grads, &settings, step, 1.0);
                }
                now.rng.step = step as u64;
            }
            now.backward(&method, Some(&critic.0.valid())).unwrap()
        });
        let (after, share) = one_step(&student, process, linear);
        println!("{:<26} {before:.3} -> {after:.3}, {share:.2} at the first point", distill.name());
        assert!(after < 0.6 * before, "{method:?}: {before} -> {after}");
        assert!((0.2..0.8).contains(&share), "{method:?}: both points are reached: {share}");
    }
}

#[test]
fn a_consistency_function_is_the_identity_at_the_data_whatever_the_weights() {
    let model = network(false).valid();
    let batch = batch(0);
    for path in [Path::Trigonometric, Path::Linear] {
        for predict in [Prediction::V, Prediction::X0, Prediction::Noise] {
            let x0 = latent::estimate(&model, Denoising { path, predict }, &batch.z, &[0.0; B], &Given::default());
            assert_eq!(floats(x0), floats(batch.z.clone()), "{path:?} {predict:?}");
        }
    }
    assert_eq!(model.device(), Device::flex());
}

#[test]
fn the_answer_to_a_step_is_what_leads_to_it() {
    let (batch, t, s) = (batch(1), vec![0.8; B], vec![0.3; B]);
    for path in [Path::Trigonometric, Path::Linear] {
        for predict in [Prediction::V, Prediction::X0, Prediction::Noise] {
            let (xt, xs) = (batch.at(path, &t), batch.at(path, &s));
            let said = answer(Denoising { path, predict }, &t, &s, xt.clone(), xs.clone());
            let back = jumped(Denoising { path, predict }, &t, &s, xt.clone(), said.clone());
            let worst = |x: Tensor<3>| floats(x).iter().map(|v| v.abs()).fold(0.0, f32::max);
            assert!(worst(back - xs) < 1e-5, "{path:?} {predict:?}");
            // Both points lie on one path from z to eps, so the answer is what the path asks for.
            let want = mixed(&t, |t| path.target(predict, t), batch.z.clone(), batch.eps.clone());
            assert!(worst(said - want) < 2e-4, "{path:?} {predict:?}");
        }
    }
}

/// The same weights on the device that differentiates.
fn on_autodiff(model: &Transformer) -> Transformer {
    let named = crate::model::params::export(model);
    crate::model::params::import(model.clone(), &named, &Device::flex().autodiff())
}
