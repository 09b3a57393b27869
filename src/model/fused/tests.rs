//! The fused operations against the composed ones in f64 (f64 tensors never take the fused path), values and gradients.

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::FloatDType;
use rand::Rng;
use rayon::ThreadPoolBuilder;

use super::*;
use crate::model::config::{Activation, NormKind as ModelNorm, TimeInput, Visibility};
use crate::model::params::floats;
use crate::model::{Denoise, Noised, Transformer, TransformerConfig, ops};
use crate::rng::{StepRng, Stream};

fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = StepRng::new(seed).at(0, Stream::Init);
    (0..n).map(|_| rng.random_range(-2.0f32..2.0)).collect()
}

/// An input: its values and its shape.
type Input<const D: usize> = (Vec<f32>, [usize; D]);

fn leaf<const D: usize>((values, shape): &Input<D>, dtype: FloatDType) -> Tensor<D> {
    let plain = Tensor::<D>::from_data(TensorData::new(values.clone(), *shape), &Device::flex()).cast(dtype);
    plain.autodiff().require_grad()
}

fn input<const D: usize>(shape: [usize; D], seed: u64) -> Input<D> {
    (random(shape.iter().product(), seed), shape)
}

fn close(what: &str, fused: &[f32], composed: &[f32], tolerance: f32) {
    assert_eq!(fused.len(), composed.len(), "{what}");
    for (i, (a, b)) in fused.iter().zip(composed).enumerate() {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{what}[{i}]: fused {a}, composed {b}");
    }
}

/// Runs `f` on one input in f32 and f64 and compares its values, and the gradients of a random weighting of them.
fn compare<const D: usize, const E: usize>(what: &str, x: &Input<D>, f: impl Fn(Tensor<D>) -> Tensor<E>) {
    let run = |dtype: FloatDType| {
        let x = leaf(x, dtype);
        assert_eq!(takes(&x), dtype == FloatDType::F32);
        let y = f(x.clone());
        let (shape, values) = (y.dims(), floats(y.clone().inner()));
        let weights = leaf(&input(shape, 99), dtype).inner();
        let grads = (y * weights.autodiff()).sum().backward();
        let Some(grad) = x.grad(&grads) else { panic!("{what}: a gradient") };
        (values, floats(grad))
    };
    let ((y, dx), (want_y, want_dx)) = (run(FloatDType::F32), run(FloatDType::F64));
    close(what, &y, &want_y, 1e-5);
    close(&format!("gradient of {what}"), &dx, &want_dx, 1e-4);
}

/// A constant of the dtype of `like`.
fn constant<const D: usize, const E: usize>(x: &Input<D>, like: &Tensor<E>) -> Tensor<D> {
    Tensor::<D>::from_data(TensorData::new(x.0.clone(), x.1), &Device::flex()).cast(like.dtype()).autodiff()
}

#[test]
fn attention_is_the_composed_one_at_odd_sizes() {
    for (length, heads, d) in [(5, 1, 2), (7, 3, 4), (33, 2, 16), (33, 4, 6), (70, 1, 18), (1, 2, 8)] {
        for causal in [false, true] {
            let (cos, sin) = ops::rope_tables(length, d, 10_000.0, &Device::flex());
            let packed = input([3, length, 3 * heads * d], 1);
            compare(&format!("attention {length} {heads} {d} {causal}"), &packed, |x| {
                ops::self_attention(x, cos.clone(), sin.clone(), heads, causal)
            });
        }
    }
}

#[test]
fn norms_are_the_composed_ones_in_every_argument() {
    for (length, d) in [(5, 2), (7, 33), (33, 64), (90, 200)] {
        let (x, gamma, beta) = (input([3, length, d], 1), input([d], 2), input([d], 3));
        let norm = |x: Tensor<3>, gamma, beta| ops::layer_norm(x, gamma, beta, 1e-5);
        compare("layer norm", &x, |x| norm(x.clone(), constant(&gamma, &x), Some(constant(&beta, &x))));
        compare("layer norm without offset", &x, |x| norm(x.clone(), constant(&gamma, &x), None));
        compare("layer norm's scale", &gamma, |g| norm(constant(&x, &g), g.clone(), Some(constant(&beta, &g))));
        compare("layer norm's offset", &beta, |b| norm(constant(&x, &b), constant(&gamma, &b), Some(b)));
        compare("rms norm", &x, |x| ops::rms_norm(x.clone(), constant(&gamma, &x), 1e-5));
        compare("rms norm's scale", &gamma, |g| ops::rms_norm(constant(&x, &g), g, 1e-5));
    }
}

#[test]
fn activations_and_biases_are_the_composed_ones() {
    for (length, d) in [(5, 2), (7, 33), (90, 200)] {
        let (mut x, up, bias) = (input([3, length, d], 1), input([3, length, d], 2), input([d], 3));
        x.0.iter_mut().for_each(|v| *v *= 4.0);
        let width = |d: usize, like: &Tensor<3>| {
            let eye: Vec<f32> = (0..d * d).map(|i| f32::from(u8::from(i / d == i % d))).collect();
            constant(&(eye, [d, d]), like)
        };
        compare("gelu", &x, ops::gelu);
        compare("gelu of x + bias", &x, |x| ops::dense_gelu(x.clone(), width(d, &x), Some(constant(&bias, &x))));
        compare("gelu's bias", &bias, |b| {
            let x = constant(&x, &b);
            ops::dense_gelu(x.clone(), width(d, &x), Some(b))
        });
        compare("bias", &bias, |b| {
            let x = constant(&x, &b);
            ops::dense(x.clone(), width(d, &x), Some(b))
        });
        compare("swiglu's gate", &x, |x| ops::swiglu(x.clone(), constant(&up, &x)));
        compare("swiglu's other half", &up, |u| ops::swiglu(constant(&x, &u), u));
    }
}

#[test]
fn softmax_and_the_losses_of_rows_are_the_composed_ones() {
    for (n, vocab) in [(5, 7), (300, 61), (3, 50_257)] {
        let (student, teacher) = (input([n, vocab], 1), input([n, vocab], 2));
        let targets: Vec<u32> = (0..n).map(|i| (i * 31 % vocab) as u32).collect();
        compare("log softmax", &student, ops::log_softmax);
        compare("cross-entropy", &student, |x| ops::cross_entropy_rows(x, &targets));
        for kind in Divergence::ALL {
            compare(&format!("{kind:?} of {vocab}"), &student, |x| {
                ops::divergence_rows(x.clone(), constant(&teacher, &x).inner(), kind)
            });
        }
    }
}

#[test]
fn a_teacher_equal_to_its_student_gives_no_divergence_and_no_gradient() {
    for kind in Divergence::ALL {
        let x = leaf(&input([4, 37], 1), FloatDType::F32);
        let rows = ops::divergence_rows(x.clone(), x.clone().inner(), kind);
        assert!(floats(rows.clone().inner()).iter().all(|v| v.abs() < 1e-6), "{kind:?}");
        let Some(grad) = x.grad(&rows.sum().backward()) else { panic!("a gradient") };
        assert!(floats(grad).iter().all(|v| v.abs() < 1e-6), "{kind:?}");
    }
}

#[test]
fn attention_gradients_are_finite_differences() {
    let shape = Shape { batch: 1, length: 6, heads: 2, head_dim: 4, causal: true };
    let (cos, sin) = ops::rope_tables(6, 4, 100.0, &Device::flex());
    let (cos, sin) = (floats(cos), floats(sin));
    let packed = random(6 * 24, 1);
    let weights = random(6 * 8, 2);
    let value = |x: &[f32]| -> f64 {
        let (out, _) = attention::forward(x, (&cos, &sin), shape);
        out.iter().zip(&weights).map(|(o, w)| f64::from(o * w)).sum()
    };
    let (out, lse) = attention::forward(&packed, (&cos, &sin), shape);
    let grad = attention::backward((&weights, &packed), (&cos, &sin), (&out, &lse), shape);
    for i in 0..packed.len() {
        let (mut up, mut down) = (packed.clone(), packed.clone());
        up[i] += 1e-2;
        down[i] -= 1e-2;
        let want = (value(&up) - value(&down)) / 2e-2;
        assert!((f64::from(grad[i]) - want).abs() < 2e-3, "{i}: {} for {want}", grad[i]);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (n, d) = (3000, 48);
    let shape = Shape { batch: 5, length: 33, heads: 3, head_dim: 16, causal: false };
    let (x, grad, gamma, bias) = (random(n * d, 1), random(n * d, 2), random(d, 3), random(d, 4));
    let (packed, teacher) = (random(5 * 33 * 3 * 48, 5), random(n * d, 6));
    let tables = (random(33 * 16, 7), random(33 * 16, 8));
    let all = || {
        let kind = NormKind { centred: true, eps: 1e-5 };
        let (y, stats) = pointwise::norm(&x, &gamma, &bias, kind);
        let (dx, dgamma, dbeta) = pointwise::norm_backward((&grad, &x), &gamma, &stats, kind);
        let mut through = grad.clone();
        let dbias = pointwise::gelu_backward(&mut through, &x, &bias);
        let tables = (&tables.0[..], &tables.1[..]);
        let (out, lse) = attention::forward(&packed, tables, shape);
        let dpacked = attention::backward((&out, &packed), tables, (&out, &lse), shape);
        let mut logits = x.clone();
        let loss = rows::divergence(&mut logits, &teacher, Divergence::JensenShannon, d, true);
        [y, stats, dx, dgamma, dbeta, through, dbias, pointwise::sum_rows(&x, d), out, dpacked, logits, loss]
            .map(|v| v.iter().map(|f| f.to_bits()).collect::<Vec<_>>())
    };
    let with = |threads: usize| match ThreadPoolBuilder::new().num_threads(threads).build() {
        Ok(pool) => pool.install(all),
        Err(e) => panic!("{e}"),
    };
    let one = with(1);
    assert!(one == with(2) && one == with(5));
}

struct ToF64;

impl ModuleMapper for ToF64 {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let value = param.val().inner().cast(FloatDType::F64).autodiff();
        Param::initialized(param.id, value).set_require_grad(true)
    }
}

#[test]
fn fused_and_composed_training_have_the_same_loss_curve() {
    let config = |norm, activation, visibility, bias| TransformerConfig {
        dim: 24,
        layers: 2,
        heads: 3,
        hidden: Some(40),
        visibility,
        norm,
        activation,
        bias,
        tied: false,
        time: TimeInput::None,
        shift: visibility == Visibility::Causal,
        learned_positions: false,
        rope_theta: 10_000.0,
    };
    let device = Device::flex().autodiff();
    let tokens: Vec<u32> = (0..8 * 9u32).map(|i| i * i % 11).collect();
    for config in [
        config(ModelNorm::Layer, Activation::Gelu, Visibility::Full, true),
        config(ModelNorm::Rms, Activation::Swiglu, Visibility::Causal, false),
    ] {
        let start = Transformer::init(&config, 11, 9, 5, &device);
        let curve = |mut model: Transformer| -> Vec<f32> {
            let mut sgd = SgdConfig::new().init();
            let step = |_| {
                let input = Noised::tokens(&tokens, &[0.0; 72], 9, &Device::flex());
                let rows = model.features(&input).reshape([72, 24]);
                let loss = ops::cross_entropy_rows(model.logits(rows), &tokens).mean();
                let value = floats(loss.clone().inner())[0];
                let grads = GradientsParams::from_grads(loss.backward(), &model);
                model = sgd.step(0.03, model.clone(), grads);
                value
            };
            (0..50).map(step).collect()
        };
        let composed = curve(start.clone().map(&mut ToF64));
        let fused = curve(start);
        assert!(fused[49] < 0.9 * fused[0], "it learns: {fused:?}");
        close("loss curve", &fused, &composed, 1e-3);
    }
}
