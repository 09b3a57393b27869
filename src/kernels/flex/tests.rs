//! The fused operations against the composed ones in f64 (f64 tensors never take the fused path), values and gradients.

mod properties;

use std::ops::Range;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::FloatDType;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rand::Rng;
use rayon::ThreadPoolBuilder;

use super::*;
use crate::kernels::{self, BlockSpec, Target, Visible};
use crate::model::config::{Activation, NormKind as ModelNorm, TimeInput, Visibility};
use crate::model::params::floats;
use crate::model::{Denoise, Noised, Transformer, TransformerConfig};
use crate::process::{Layout, Phases};
use crate::rng::{StepRng, Stream};

fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = StepRng::new(seed).at(0, Stream::Init);
    (0..n).map(|_| rng.random_range(-1.0f32..1.0)).collect()
}

/// The phases of every third position.
fn phases(length: usize) -> std::sync::Arc<Phases> {
    std::sync::Arc::new(Phases::new(length, &[], |l| l % 3))
}

fn leaf<const D: usize>(values: &[f32], shape: [usize; D], dtype: FloatDType) -> Tensor<D> {
    let plain = Tensor::<D>::from_data(TensorData::new(values.to_vec(), shape), &Device::flex()).cast(dtype);
    plain.autodiff().require_grad()
}

/// How an operation is computed: fused in f32, composed in f32, or composed in f64, which the two are measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Fused,
    Composed,
    Reference,
}

impl Form {
    fn dtype(self) -> FloatDType {
        if self == Form::Reference { FloatDType::F64 } else { FloatDType::F32 }
    }

    /// The switch of the operations.
    fn composed(self) -> bool {
        self == Form::Composed
    }
}

fn largest<'a>(values: impl IntoIterator<Item = &'a f32>) -> f32 {
    values.into_iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// Differences are measured against the largest value of the tensor.
fn close(what: &str, fused: &[f32], composed: &[f32], tolerance: f32) {
    assert_eq!(fused.len(), composed.len(), "{what}");
    let scale = largest(composed);
    for (i, (a, b)) in fused.iter().zip(composed).enumerate() {
        assert!((a - b).abs() <= tolerance * scale, "{what}[{i}]: fused {a}, composed {b}, scale {scale}");
    }
}

/// Holds the fused values to the f64 reference: within 1e-5 of the tensor's own largest value, or, where a sum cancels and
/// f32 has no such digits, within three times the error of the composed form in f32, as long as that is below 1e-3 of it
/// (1e-7 for tensors that cancel to 0).
fn twins(what: &str, fused: &[f32], composed: &[f32], reference: &[f32]) {
    assert_eq!([fused.len(), composed.len()], [reference.len(); 2], "{what}");
    let error = |got: &[f32]| got.iter().zip(reference).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    let scale = largest(reference);
    let rounding = if scale < 1e-6 { 1e-7 } else { 1e-5 * scale };
    let limit = rounding.max((3.0 * error(composed)).min(1e-3 * scale));
    for (i, (a, b)) in fused.iter().zip(reference).enumerate() {
        assert!((a - b).abs() <= limit, "{what}[{i}]: fused {a}, reference {b}, limit {limit}");
    }
}

/// The parameters with a function of each matrix and each vector.
fn each(
    p: &BlockParameters,
    matrix: impl Fn(&Tensor<2>) -> Tensor<2>,
    vector: impl Fn(&Tensor<1>) -> Tensor<1>,
) -> BlockParameters {
    let norm = |(w, b): &(Tensor<1>, Option<Tensor<1>>)| (vector(w), b.as_ref().map(&vector));
    let dense = |(w, b): &(Tensor<2>, Option<Tensor<1>>)| (matrix(w), b.as_ref().map(&vector));
    BlockParameters {
        norm1: norm(&p.norm1),
        qkv: dense(&p.qkv),
        out: dense(&p.out),
        norm2: norm(&p.norm2),
        up: dense(&p.up),
        gate: p.gate.as_ref().map(dense),
        down: dense(&p.down),
    }
}

/// A block to compare: sizes and every choice.
#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    length: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    hidden: usize,
    visible: Visible,
    keys: Option<Vec<Range<usize>>>,
    centred: bool,
    bias: bool,
    gated: bool,
    /// Rows of the modulation a sequence has: none, one, or one a position.
    modulation: Option<bool>,
    rows: Option<Vec<usize>>,
    checkpoint: bool,
    seed: u64,
}

impl Case {
    fn plain() -> Self {
        Case {
            batch: 2,
            length: 5,
            heads: 2,
            kv_heads: 2,
            head_dim: 4,
            hidden: 12,
            visible: Visible::Full,
            keys: None,
            centred: true,
            bias: true,
            gated: false,
            modulation: None,
            rows: None,
            checkpoint: false,
            seed: 1,
        }
    }

    fn dim(&self) -> usize {
        self.heads * self.head_dim
    }

    fn spec(&self, composed: bool) -> BlockSpec {
        let tables = Arc::new(Tables::new(self.length, self.head_dim, 100.0));
        let table = |v: &[f32]| {
            Tensor::<2>::from_data(TensorData::new(v.to_vec(), [self.length, self.head_dim]), &Device::flex())
        };
        BlockSpec {
            heads: self.heads,
            kv_heads: self.kv_heads,
            visible: self.visible.clone(),
            keys: self.keys.clone().map(Arc::from),
            norm: NormKind { centred: self.centred, eps: 1e-5 },
            rope: (table(&tables.cos), table(&tables.sin)),
            tables,
            rows: self.rows.as_ref().map(|r| Arc::new(Rows::of(r, self.batch, self.length))),
            checkpoint: self.checkpoint,
            composed,
            activation: if self.gated { kernels::Activation::Silu } else { kernels::Activation::GeluTanh },
            extra: kernels::Extra::default(),
        }
    }

    /// Random parameters, each a leaf of the tape.
    fn parameters(&self, dtype: FloatDType) -> BlockParameters {
        let (d, f, w) = (self.dim(), self.hidden, (self.heads + 2 * self.kv_heads) * self.head_dim);
        let seed = self.seed * 100;
        let vector = |i: u64, n: usize, base: f32| {
            let values: Vec<f32> = random(n, seed + i).iter().map(|v| base + 0.3 * v).collect();
            leaf(&values, [n], dtype)
        };
        let dense = |i: u64, rows: usize, columns: usize| {
            let scale = 1.5 / (rows as f32).sqrt();
            let values: Vec<f32> = random(rows * columns, seed + i).iter().map(|v| v * scale).collect();
            (leaf(&values, [rows, columns], dtype), self.bias.then(|| vector(i + 1, columns, 0.0)))
        };
        let offset = |i: u64| (self.bias && self.centred).then(|| vector(i, d, 0.0));
        BlockParameters {
            norm1: (vector(0, d, 1.0), offset(1)),
            qkv: dense(2, d, w),
            out: dense(4, d, d),
            norm2: (vector(6, d, 1.0), offset(7)),
            up: dense(8, d, f),
            gate: self.gated.then(|| dense(10, d, f)),
            down: dense(12, f, d),
        }
    }

    /// A random modulation [B, L or 1, 6 D], where there is one.
    fn modulation(&self, dtype: FloatDType) -> Option<Tensor<3>> {
        let l = if self.modulation? { self.length } else { 1 };
        let shape = [self.batch, l, 6 * self.dim()];
        Some(leaf(&random(shape.iter().product(), self.seed * 100 + 51), shape, dtype))
    }

    /// A random input [B, L, D].
    fn x(&self, dtype: FloatDType) -> Tensor<3> {
        let shape = [self.batch, self.length, self.dim()];
        leaf(&random(shape.iter().product(), self.seed * 100 + 50), shape, dtype)
    }

    /// The output, and the gradients of x, modulation and parameters under a random weighting of the output.
    fn run(&self, form: Form) -> Vec<(String, Vec<f32>)> {
        let dtype = form.dtype();
        let (x, modulation, p) = (self.x(dtype), self.modulation(dtype), self.parameters(dtype));
        let used = each(&p, Tensor::clone, Tensor::clone);
        assert_eq!(takes(&x), form != Form::Reference);
        let y = kernels::block(x.clone(), used, modulation.clone(), &self.spec(form.composed()));
        let shape = y.dims();
        let mut out = vec![("y".to_string(), floats(y.clone().inner()))];
        let weights = leaf(&random(shape.iter().product(), self.seed * 100 + 60), shape, dtype).inner();
        let grads = (y * weights.autodiff()).sum().backward();
        let mut put = |name: &str, grad: Option<Vec<f32>>| {
            let Some(grad) = grad else { panic!("{name} has no gradient") };
            out.push((format!("gradient of {name}"), grad));
        };
        put("x", x.grad(&grads).map(floats));
        if let Some(m) = &modulation {
            put("modulation", m.grad(&grads).map(floats));
        }
        for (name, (w, b)) in [("norm1", &p.norm1), ("norm2", &p.norm2)] {
            put(name, w.grad(&grads).map(floats));
            if let Some(b) = b {
                put(&format!("{name}'s offset"), b.grad(&grads).map(floats));
            }
        }
        let gate = p.gate.iter().map(|g| ("gate", g));
        for (name, (w, b)) in
            [("qkv", &p.qkv), ("out", &p.out), ("up", &p.up), ("down", &p.down)].into_iter().chain(gate)
        {
            put(name, w.grad(&grads).map(floats));
            if let Some(b) = b {
                put(&format!("{name}'s bias"), b.grad(&grads).map(floats));
            }
        }
        out
    }

    fn check(&self) {
        let [fused, composed, reference] = [Form::Fused, Form::Composed, Form::Reference].map(|form| self.run(form));
        for (((name, a), (_, b)), (_, c)) in fused.iter().zip(&composed).zip(&reference) {
            twins(&format!("{name} of {self:?}"), a, b, c);
        }
    }
}

#[test]
fn a_block_is_the_composed_one_in_value_and_in_every_gradient() {
    for visible in [Visible::Full, Visible::Causal, Visible::Blocks(Layout::blocks(2))] {
        for (centred, gated) in [(true, false), (false, true)] {
            for modulation in [None, Some(false), Some(true)] {
                for checkpoint in [false, true] {
                    let bias = checkpoint;
                    let visible = visible.clone();
                    Case { visible, centred, gated, modulation, checkpoint, bias, ..Case::plain() }.check();
                }
            }
        }
    }
}

#[test]
fn a_block_is_the_composed_one_where_sequences_are_padded_and_some_rows_see_nothing() {
    for visible in [Visible::Full, Visible::Causal] {
        // Padding on the right, on the left (the first rows of a causal network then see nothing), and a whole sequence.
        let keys = Some(vec![0..3, 2..5, 0..0]);
        Case { batch: 3, visible, keys, ..Case::plain() }.check();
    }
}

#[test]
fn a_block_of_wanted_rows_is_the_composed_one() {
    for rows in [vec![0], vec![4, 5, 9], vec![1, 2, 3, 7], (0..10).collect()] {
        for modulation in [None, Some(false), Some(true)] {
            Case { rows: Some(rows.clone()), modulation, visible: Visible::Causal, ..Case::plain() }.check();
        }
    }
}

#[test]
fn a_block_of_many_tasks_and_query_blocks_is_the_composed_one() {
    Case { batch: 3, length: 130, heads: 4, kv_heads: 2, head_dim: 6, hidden: 40, ..Case::plain() }.check();
    let rows = Some((0..390).filter(|r| r % 3 != 1).collect());
    Case { batch: 3, length: 130, rows, visible: Visible::Blocks(Layout::blocks(50)), gated: true, ..Case::plain() }
        .check();
}

fn case() -> impl Strategy<Value = Case> {
    // Widths from 4 on: a layer norm over two nearly equal numbers loses the digits that f32 has, fused or not.
    let sizes = (1usize..4, 1usize..20, prop_oneof![Just((1, 1)), Just((3, 3)), Just((4, 2)), Just((3, 1))], 2usize..6);
    let choices =
        (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), 0usize..3, 0usize..16, 1usize..30, any::<u64>());
    (sizes, choices).prop_map(
        |((batch, length, (heads, kv_heads), half), (centred, bias, gated, checkpoint, m, v, hidden, seed))| {
            let mut rng = StepRng::new(seed).at(1, Stream::Init);
            let length = if [4, 5, 7].contains(&(v % 8)) { 2 * length } else { length };
            let rows: Vec<usize> = (0..batch * length).filter(|_| rng.random::<bool>()).collect();
            let keys = (0..batch).map(|_| {
                let start = rng.random_range(0..=length);
                start..rng.random_range(start..=length)
            });
            Case {
                batch,
                length,
                heads,
                kv_heads,
                head_dim: 2 * half,
                hidden,
                visible: [
                    Visible::Full,
                    Visible::Causal,
                    Visible::Blocks(Layout::blocks(3)),
                    Visible::Blocks(Layout { text: 2, size: 3 }),
                    Visible::Streams(Layout::blocks(half)),
                    Visible::Streams(Layout { text: 1, size: half }),
                    Visible::Phases(phases(length)),
                    Visible::PhaseStreams(phases(length / 2)),
                ][v % 8]
                    .clone(),
                keys: (v >= 8 && v % 8 < 4).then(|| keys.collect()),
                centred,
                bias,
                gated,
                modulation: [None, Some(false), Some(true)][m],
                rows: (seed % 2 == 0 && !rows.is_empty()).then_some(rows),
                checkpoint,
                seed: seed % 1000,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() })]
    #[test]
    fn a_block_of_any_shape_is_the_composed_one(case in case()) {
        case.check();
    }
}

/// Holds value and gradient of `f` of one input, computed with or without the switch, to the f64 reference.
fn compare<const D: usize, const E: usize>(what: &str, shape: [usize; D], f: impl Fn(Tensor<D>, bool) -> Tensor<E>) {
    let run = |form: Form| {
        let x = leaf(&random(shape.iter().product(), 1), shape, form.dtype());
        let y = f(x.clone(), form.composed());
        let (shape, values) = (y.dims(), floats(y.clone().inner()));
        let weights = leaf(&random(shape.iter().product(), 99), shape, form.dtype()).inner();
        let grads = (y * weights.autodiff()).sum().backward();
        let Some(grad) = x.grad(&grads) else { panic!("{what}: a gradient") };
        (values, floats(grad))
    };
    let [fused, composed, reference] = [Form::Fused, Form::Composed, Form::Reference].map(run);
    twins(what, &fused.0, &composed.0, &reference.0);
    twins(&format!("gradient of {what}"), &fused.1, &composed.1, &reference.1);
}

/// A constant of the dtype of `like`.
fn constant<const D: usize, const E: usize>(values: &[f32], shape: [usize; D], like: &Tensor<E>) -> Tensor<D> {
    Tensor::<D>::from_data(TensorData::new(values.to_vec(), shape), &Device::flex()).cast(like.dtype()).autodiff()
}

#[test]
fn a_loss_in_chunks_is_the_loss_at_once() {
    let (n, d, vocab) = (23, 5, 11);
    let (x, weight, bias) = (random(n * d, 1), random(d * vocab, 2), random(vocab, 3));
    let (their_x, their_weight) = (random(n * d, 4), random(d * vocab, 5));
    let ids: Vec<u32> = (0..n as u32).map(|i| i % 11).collect();
    let weights: Vec<f32> = (0..n).map(|i| 0.3 + i as f32).collect();
    let side = |tied| Side { x: &x, width: d, weight: &weight, bias: if tied { &[] } else { &bias }, tied };
    let theirs = |tied| Side { x: &their_x, width: d, weight: &their_weight, bias: &[], tied };
    let mut targets: Vec<Against> = vec![Against::Tokens(&ids)];
    for kind in Divergence::ALL {
        targets.extend([false, true].map(|tied| Against::Teacher(theirs(tied), kind)));
    }
    for (tied, target) in [false, true].into_iter().flat_map(|tied| targets.iter().map(move |t| (tied, t))) {
        let whole = head::loss(side(tied), *target, &weights, vocab, n, true);
        for chunk in [1, 4, 22, 100] {
            let parts = head::loss(side(tied), *target, &weights, vocab, chunk, true);
            assert!((parts.value - whole.value).abs() < 1e-6 * whole.value.abs());
            close("dx", &parts.dx, &whole.dx, 1e-5);
            close("dweight", &parts.dweight, &whole.dweight, 1e-5);
            close("dbias", &parts.dbias, &whole.dbias, 1e-5);
        }
    }
}

#[test]
fn a_teacher_equal_to_its_student_gives_no_divergence_and_no_gradient() {
    let (n, d, vocab) = (4, 6, 37);
    let x = leaf(&random(n * d, 1), [n, d], FloatDType::F32);
    let weight = leaf(&random(d * vocab, 2), [d, vocab], FloatDType::F32).inner();
    let head = || Head { weight: weight.clone(), bias: None, tied: false, vocab };
    for kind in Divergence::ALL {
        let target = Target::Teacher(x.clone().inner(), head(), kind);
        let loss = kernels::loss(x.clone(), head(), target, &[1.0; 4], false);
        assert!(floats(loss.clone().inner())[0].abs() < 1e-6, "{kind:?}");
        let Some(grad) = x.grad(&loss.backward()) else { panic!("a gradient") };
        assert!(floats(grad).iter().all(|v| v.abs() < 1e-5), "{kind:?}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let case = Case { batch: 5, length: 33, heads: 3, kv_heads: 3, head_dim: 16, hidden: 100, ..Case::plain() };
    let all = || -> Vec<Vec<u32>> {
        let mut out = case.run(Form::Fused);
        let (n, d, vocab) = (300, 48, 200);
        let (x, weight, bias) = (random(n * d, 1), random(d * vocab, 2), random(vocab, 3));
        let ids: Vec<u32> = (0..n as u32).map(|i| i % 200).collect();
        let side = Side { x: &x, width: d, weight: &weight, bias: &bias, tied: false };
        let loss = head::loss(side, Against::Tokens(&ids), &vec![1.0; n], vocab, 128, true);
        out.extend([loss.dx, loss.dweight, loss.dbias].map(|v| (String::new(), v)));
        out.push((String::new(), vec![optim::square_sum(&random(100_000, 5)) as f32]));
        out.into_iter().map(|(_, v)| v.iter().map(|f| f.to_bits()).collect()).collect()
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
        hidden: Some(40),
        norm,
        activation,
        bias,
        time: TimeInput::None,
        shift: visibility == Visibility::Causal,
        ..TransformerConfig::new(24, 2, 3, visibility)
    };
    let device = Device::flex().autodiff();
    let tokens: Vec<u32> = (0..8 * 9u32).map(|i| i * i % 11).collect();
    for config in [
        config(ModelNorm::Layer, Activation::Gelu, Visibility::Full, true),
        config(ModelNorm::Rms, Activation::Swiglu, Visibility::Causal, false),
    ] {
        let start = Transformer::init(&config, 11, 9, 5, &device);
        let switched = Transformer::init(&TransformerConfig { composed: true, ..config.clone() }, 11, 9, 5, &device);
        let curve = |mut model: Transformer| -> Vec<f32> {
            let mut sgd = SgdConfig::new().init();
            let step = |_| {
                let input = Noised::tokens(&tokens, &[0.0; 72], 9);
                let rows = model.features(&input).reshape([72, 24]);
                let composed = model.config().composed;
                let target = Target::Tokens(tokens.clone().into());
                let loss = kernels::loss(rows, model.head(), target, &[1.0 / 72.0; 72], composed);
                let value = floats(loss.clone().inner())[0];
                let grads = GradientsParams::from_grads(loss.backward(), &model);
                model = sgd.step(0.03, model.clone(), grads);
                value
            };
            (0..50).map(step).collect()
        };
        let (fused, composed, switched) = (curve(start.clone()), curve(start.map(&mut ToF64)), curve(switched));
        assert!(fused[49] < 0.9 * fused[0], "it learns: {fused:?}");
        close("loss curve", &fused, &composed, 1e-3);
        close("loss curve of the switch", &switched, &composed, 1e-3);
    }
}
