//! The network: what it may see, its cache, its gradients, and a reference implementation's numbers.

use burn::prelude::*;
use fewstep::method;
use fewstep::model::config::{Activation, NormKind, TimeInput, Visibility};
use fewstep::model::{Cache, Denoise, Noised, Transformer, TransformerConfig, params};
use fewstep::rng::{StepRng, Stream};
use rand::Rng;

pub fn config(causal: bool) -> TransformerConfig {
    let visibility = if causal { Visibility::Causal } else { Visibility::Full };
    TransformerConfig { hidden: Some(24), shift: causal, ..TransformerConfig::new(16, 2, 2, visibility) }
}

/// Every variant of the configuration that a recipe can ask for.
fn variants() -> Vec<TransformerConfig> {
    let mut all = Vec::new();
    for causal in [false, true] {
        for (norm, activation) in [(NormKind::Layer, Activation::Gelu), (NormKind::Rms, Activation::Swiglu)] {
            for (bias, tied) in [(false, true), (true, false)] {
                for time in [TimeInput::None, TimeInput::Sequence, TimeInput::Position] {
                    all.push(TransformerConfig {
                        norm,
                        activation,
                        bias,
                        tied,
                        time,
                        learned_positions: tied,
                        ..config(causal)
                    });
                }
            }
        }
    }
    all
}

/// A network whose every parameter is random: zero-initialised gates would hide what is behind them.
pub fn random(config: &TransformerConfig, vocab: usize, length: usize, device: &Device) -> Transformer {
    let model = Transformer::zeros(config, vocab, length, device);
    let mut named = params::export(&model);
    let mut rng = StepRng::new(9).at(0, Stream::Init);
    named.values_mut().for_each(|t| t.data.iter_mut().for_each(|v| *v = (rng.random::<f32>() - 0.5) * 0.8));
    params::import(model, &named, device)
}

fn tokens(n: usize, vocab: u32, seed: u64) -> Vec<u32> {
    let mut rng = StepRng::new(seed).at(0, Stream::Batch);
    (0..n).map(|_| rng.random_range(0..vocab)).collect()
}

fn log_probs(model: &Transformer, features: Tensor<3>) -> Vec<f32> {
    let [b, l, d] = features.dims();
    params::floats(model.predict(features.reshape([b * l, d])))
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn logits_with_and_without_the_cache_agree() {
    let (v, l, device) = (11u32, 12, Device::flex());
    for config in variants().into_iter().filter(|c| c.visibility == Visibility::Causal) {
        let model = random(&config, v as usize, l, &device);
        let x = tokens(3 * l, v, 4);
        let t: Vec<f64> = (0..x.len()).map(|i| (i % l) as f64 / l as f64).collect();
        let input = Noised::tokens(&x, &t, l);
        let whole = log_probs(&model, model.features(&input));
        for steps in [vec![0..4, 4..l], (0..l).map(|p| p..p + 1).collect::<Vec<_>>(), vec![0..5, 5..6, 6..11, 11..12]] {
            // A sequence-timed network is told the largest time of the whole row in both cases.
            let mut cache = Cache::default();
            let parts = steps.iter().map(|r| model.features_cached(&input, r.clone(), &mut cache)).collect();
            let cached = log_probs(&model, Tensor::cat(parts, 1));
            let difference = largest_difference(&whole, &cached);
            assert!(difference < 1e-5, "{config:?} {steps:?}: {difference}");
        }
    }
}

#[test]
fn a_causal_network_predicts_a_position_from_the_ones_before_it_alone() {
    let (v, l, device) = (11u32, 8, Device::flex());
    let model = random(&config(true), v as usize, l, &device);
    let x = tokens(l, v, 1);
    let base = log_probs(&model, model.features(&Noised::tokens(&x, &vec![0.0; l], l)));
    for p in 0..l {
        let mut other = x.clone();
        other[p] = (other[p] + 1) % v;
        let got = log_probs(&model, model.features(&Noised::tokens(&other, &vec![0.0; l], l)));
        let row = |r: usize| r * v as usize..(r + 1) * v as usize;
        for r in 0..l {
            let changed = largest_difference(&base[row(r)], &got[row(r)]) > 1e-6;
            assert_eq!(changed, r > p, "changing token {p} and predicting {r}");
        }
    }
}

#[test]
fn a_network_that_reads_the_time_answers_to_it_where_it_is_told_and_others_do_not() {
    let (v, l, device) = (7u32, 6, Device::flex());
    for config in variants().into_iter().filter(|c| c.visibility == Visibility::Full) {
        let model = random(&config, v as usize, l, &device);
        let x = tokens(l, v, 2);
        let at = |t: &[f64]| log_probs(&model, model.features(&Noised::tokens(&x, t, l)));
        let low = at(&[0.2; 6]);
        let high = at(&[0.9; 6]);
        assert_eq!(largest_difference(&low, &high) > 1e-4, config.time != TimeInput::None, "{config:?}");
    }
}

#[test]
fn gradients_equal_finite_differences_of_the_loss_for_every_parameter_kind() {
    let (v, l, device) = (7u32, 5, Device::flex());
    for config in variants() {
        let model = random(&config, v as usize, l, &device.clone().autodiff());
        let x = tokens(2 * l, v, 3);
        let mut rows = method::ar_nll(&x, l);
        rows.input = Noised::tokens(&x, &vec![0.4; 2 * l], l);
        // Uneven weights, some rows left out: what the diffusion objectives do.
        rows.rows = (0..2 * l).filter(|r| r % 3 != 1).collect();
        rows.weights = rows.rows.iter().map(|r| 0.1 + 0.05 * *r as f64).collect();
        rows.target = method::Target::Tokens(rows.rows.iter().map(|r| x[*r]).collect());
        let (_, grads) = method::backward(&model, &rows);
        let named = params::export(&model);
        let host = params::gradients(&model, &grads);
        let mut rng = StepRng::new(1).at(0, Stream::Corrupt);
        for (name, tensor) in &named {
            // A random direction in this tensor alone.
            let direction: Vec<f32> =
                tensor.data.iter().map(|_| if rng.random::<bool>() { 1.0 } else { -1.0 }).collect();
            let analytic: f64 = match host.get(name) {
                Some(g) => g.data.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum(),
                None => 0.0,
            };
            let h = 2e-3f32;
            let at = |sign: f32| {
                let mut moved = named.clone();
                let data = &mut moved.get_mut(name).unwrap().data;
                data.iter_mut().zip(&direction).for_each(|(v, d)| *v += sign * h * d);
                let plain = Transformer::zeros(&config, v as usize, l, &device);
                method::evaluate(&params::import(plain, &moved, &device), &rows).0
            };
            let numeric = (at(1.0) - at(-1.0)) / (2.0 * f64::from(h));
            let scale = analytic.abs().max(numeric.abs()).max(0.05);
            assert!((analytic - numeric).abs() / scale < 0.03, "{config:?} {name}: {analytic} for {numeric}");
        }
    }
}

/// Loss and gradients of one step of a network with uneven rows.
fn step(config: &TransformerConfig) -> (f64, params::Named) {
    let (v, l) = (7u32, 5);
    let model = random(config, v as usize, l, &Device::flex().autodiff());
    let x = tokens(3 * l, v, 3);
    let mut rows = method::ar_nll(&x, l);
    rows.input = Noised::tokens(&x, &vec![0.4; 3 * l], l);
    rows.rows = (0..3 * l).filter(|r| r % 3 != 1).collect();
    rows.weights = rows.rows.iter().map(|r| 0.1 + 0.05 * *r as f64).collect();
    rows.target = method::Target::Tokens(rows.rows.iter().map(|r| x[*r]).collect());
    let (value, grads) = method::backward(&model, &rows);
    (value, params::gradients(&model, &grads))
}

#[test]
fn checkpointing_and_composing_change_neither_loss_nor_gradients_and_bf16_changes_them_little() {
    use fewstep::model::config::Compute;
    for config in variants() {
        let (value, grads) = step(&config);
        let with =
            |checkpoint, composed, compute| TransformerConfig { checkpoint, composed, compute, ..config.clone() };
        for (other, tolerance) in [
            (with(true, false, Compute::F32), 1e-6),
            (with(false, true, Compute::F32), 1e-4),
            (with(true, true, Compute::F32), 1e-4),
            (with(false, false, Compute::Bf16), 0.06),
            (with(true, false, Compute::Bf16), 0.06),
        ] {
            let (other_value, other_grads) = step(&other);
            assert!((other_value / value - 1.0).abs() < tolerance, "{other:?}: {other_value} for {value}");
            assert_eq!(grads.keys().collect::<Vec<_>>(), other_grads.keys().collect::<Vec<_>>());
            let norm = |g: &params::Named| g.values().flat_map(|t| &t.data).map(|v| v * v).sum::<f32>().sqrt();
            for (name, g) in &grads {
                let difference = largest_difference(&g.data, &other_grads[name].data);
                assert!(difference <= tolerance as f32 * norm(&grads), "{name} of {other:?}: {difference}");
            }
        }
    }
}

#[test]
fn a_loss_in_chunks_has_the_value_and_gradient_of_the_whole() {
    // A vocabulary so large that the head runs in several chunks, against the same network's plain cross-entropy.
    let (l, device) = (64, Device::flex());
    let v = 500_000usize;
    let config = TransformerConfig { dim: 8, layers: 1, heads: 1, hidden: Some(8), ..config(true) };
    assert!(method::chunk_rows(v) < l, "the test is about more than one chunk");
    let model = Transformer::init(&config, v, l, 1, &device.clone().autodiff());
    let x = tokens(l, v as u32, 5);
    let rows = method::ar_nll(&x, l);
    let (value, grads) = method::backward(&model, &rows);
    let features = model.features(&rows.input);
    let log_p = model.predict(features.reshape([l, 8]));
    let idx = fewstep::model::index_tensor(&x.iter().map(|t| *t as usize).collect::<Vec<_>>(), &device).reshape([l, 1]);
    let whole = log_p.gather(1, idx).neg().mean();
    let want = f64::from(whole.clone().inner().into_scalar::<f32>());
    assert!((value - want).abs() < 1e-4, "{value} for {want}");
    let reference = burn::optim::GradientsParams::from_grads(whole.backward(), &model);
    let (a, b) = (params::gradients(&model, &grads), params::gradients(&model, &reference));
    for (name, g) in &b {
        let scale = g.data.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
        assert!(largest_difference(&a[name].data, &g.data) / scale < 1e-3, "{name}");
    }
}

#[test]
fn initial_weights_are_a_function_of_the_seed_alone() {
    let device = Device::flex();
    let make = |seed| params::export(&Transformer::init(&config(false), 9, 8, seed, &device));
    assert_eq!(make(1), make(1));
    assert_ne!(make(1), make(2));
}

#[test]
fn learned_positions_tell_masked_positions_apart_and_rotary_attention_alone_cannot() {
    let (v, l, device) = (7usize, 6, Device::flex());
    for learned_positions in [false, true] {
        let model = random(&TransformerConfig { learned_positions, ..config(false) }, v, l, &device);
        let rows = log_probs(&model, model.features(&Noised::tokens(&[v as u32; 6], &[1.0; 6], l)));
        let same = largest_difference(&rows[..v], &rows[v..2 * v]) < 1e-5;
        assert_eq!(same, !learned_positions);
    }
}
