//! The fused operations against the composed ones in f64 (f64 tensors never take the fused path), values and gradients.

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
use crate::rng::{StepRng, Stream};

fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = StepRng::new(seed).at(0, Stream::Init);
    (0..n).map(|_| rng.random_range(-1.0f32..1.0)).collect()
}

fn leaf<const D: usize>(values: &[f32], shape: [usize; D], dtype: FloatDType) -> Tensor<D> {
    let plain = Tensor::<D>::from_data(TensorData::new(values.to_vec(), shape), &Device::flex()).cast(dtype);
    plain.autodiff().require_grad()
}

/// Differences are measured against the largest value of the tensor, or the inputs' size of 1 where that is more: a sum
/// that cancels has no digits of its own.
fn close(what: &str, fused: &[f32], composed: &[f32], tolerance: f32) {
    assert_eq!(fused.len(), composed.len(), "{what}");
    let scale = composed.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    for (i, (a, b)) in fused.iter().zip(composed).enumerate() {
        assert!((a - b).abs() <= tolerance * scale, "{what}[{i}]: fused {a}, composed {b}, scale {scale}");
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

    fn spec(&self) -> BlockSpec {
        let tables = Arc::new(Tables::new(self.length, self.head_dim, 100.0));
        let table = |v: &[f32]| {
            Tensor::<2>::from_data(TensorData::new(v.to_vec(), [self.length, self.head_dim]), &Device::flex())
        };
        BlockSpec {
            heads: self.heads,
            kv_heads: self.kv_heads,
            visible: self.visible,
            keys: self.keys.clone().map(Arc::from),
            norm: NormKind { centred: self.centred, eps: 1e-5 },
            rope: (table(&tables.cos), table(&tables.sin)),
            tables,
            rows: self.rows.as_ref().map(|r| Arc::new(Rows::of(r, self.batch, self.length))),
            checkpoint: self.checkpoint,
            composed: false,
            activation: if self.gated { kernels::Activation::Silu } else { kernels::Activation::GeluTanh },
            extra: kernels::Extra::default(),
        }
    }

    /// The output, and the gradients of x, modulation and parameters under a random weighting of the output.
    fn run(&self, dtype: FloatDType) -> Vec<(String, Vec<f32>)> {
        let (d, f, w) = (self.dim(), self.hidden, (self.heads + 2 * self.kv_heads) * self.head_dim);
        let seed = self.seed * 100;
        let matrix = |i: u64, rows: usize, columns: usize| {
            let scale = 1.5 / (rows as f32).sqrt();
            let values: Vec<f32> = random(rows * columns, seed + i).iter().map(|v| v * scale).collect();
            leaf(&values, [rows, columns], dtype)
        };
        let vector = |i: u64, n: usize, base: f32| {
            let values: Vec<f32> = random(n, seed + i).iter().map(|v| base + 0.3 * v).collect();
            leaf(&values, [n], dtype)
        };
        let bias = |i: u64, n: usize| self.bias.then(|| vector(i, n, 0.0));
        let dense = |i: u64, rows: usize, columns: usize| (matrix(i, rows, columns), bias(i + 1, columns));
        let x = leaf(&random(self.batch * self.length * d, seed + 50), [self.batch, self.length, d], dtype);
        let modulation = self.modulation.map(|per_position| {
            let l = if per_position { self.length } else { 1 };
            leaf(&random(self.batch * l * 6 * d, seed + 51), [self.batch, l, 6 * d], dtype)
        });
        let parameters = || BlockParameters {
            norm1: (vector(0, d, 1.0), (self.bias && self.centred).then(|| vector(1, d, 0.0))),
            qkv: dense(2, d, w),
            out: dense(4, d, d),
            norm2: (vector(6, d, 1.0), (self.bias && self.centred).then(|| vector(7, d, 0.0))),
            up: dense(8, d, f),
            gate: self.gated.then(|| dense(10, d, f)),
            down: dense(12, f, d),
        };
        let p = parameters();
        let clone = |(w, b): &(Tensor<2>, Option<Tensor<1>>)| (w.clone(), b.clone());
        let used = BlockParameters {
            norm1: p.norm1.clone(),
            qkv: clone(&p.qkv),
            out: clone(&p.out),
            norm2: p.norm2.clone(),
            up: clone(&p.up),
            gate: p.gate.as_ref().map(clone),
            down: clone(&p.down),
        };
        assert_eq!(takes(&x), dtype == FloatDType::F32);
        let y = kernels::block(x.clone(), used, modulation.clone(), &self.spec());
        let shape = y.dims();
        let mut out = vec![("y".to_string(), floats(y.clone().inner()))];
        let weights = leaf(&random(shape.iter().product(), seed + 60), shape, dtype).inner();
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
        let (fused, composed) = (self.run(FloatDType::F32), self.run(FloatDType::F64));
        for ((name, a), (_, b)) in fused.iter().zip(&composed) {
            close(&format!("{name} of {self:?}"), a, b, 1e-5);
        }
    }
}

#[test]
fn a_block_is_the_composed_one_in_value_and_in_every_gradient() {
    for visible in [Visible::Full, Visible::Causal, Visible::Blocks(2)] {
        for (centred, gated) in [(true, false), (false, true)] {
            for modulation in [None, Some(false), Some(true)] {
                for checkpoint in [false, true] {
                    let bias = checkpoint;
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
    Case { batch: 3, length: 130, rows, visible: Visible::Blocks(50), gated: true, ..Case::plain() }.check();
}

fn case() -> impl Strategy<Value = Case> {
    // Widths from 4 on: a layer norm over two nearly equal numbers loses the digits that f32 has, fused or not.
    let sizes = (1usize..4, 1usize..20, prop_oneof![Just((1, 1)), Just((3, 3)), Just((4, 2)), Just((3, 1))], 2usize..6);
    let choices =
        (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), 0usize..3, 0usize..4, 1usize..30, any::<u64>());
    (sizes, choices).prop_map(
        |((batch, length, (heads, kv_heads), half), (centred, bias, gated, checkpoint, m, v, hidden, seed))| {
            let mut rng = StepRng::new(seed).at(1, Stream::Init);
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
                visible: [Visible::Full, Visible::Causal, Visible::Blocks(3), Visible::Full][v],
                keys: (v == 3).then(|| keys.collect()),
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

#[test]
fn a_block_behind_a_cache_is_the_block_over_the_whole_sequence() {
    for (heads, kv_heads) in [(2, 2), (4, 2), (1, 1)] {
        let case = Case { heads, kv_heads, visible: Visible::Causal, length: 7, ..Case::plain() };
        let (b, l, d, w) = (2, 7, case.dim(), (heads + 2 * kv_heads) * 4);
        let plain = |i: u64, shape: [usize; 2]| leaf(&random(shape[0] * shape[1], i), shape, FloatDType::F32).inner();
        let vector = |i: u64| plain(i, [1, d]).reshape([d]);
        let parameters = || BlockParameters {
            norm1: (vector(1), None),
            qkv: (plain(2, [d, w]), None),
            out: (plain(3, [d, d]), None),
            norm2: (vector(4), None),
            up: (plain(5, [d, 12]), None),
            gate: None,
            down: (plain(6, [12, d]), None),
        };
        let x = leaf(&random(b * l * d, 9), [b, l, d], FloatDType::F32).inner();
        let whole = floats(kernels::block(x.clone(), parameters(), None, &case.spec()));
        for (cuts, composed) in
            [(vec![0, 7], false), (vec![0, 3, 4, 7], false), ((0..=7).collect(), false), (vec![0, 3, 4, 7], true)]
        {
            let spec = BlockSpec { composed, ..case.spec() };
            let empty = || Tensor::<4>::zeros([b, kv_heads, l, 4], &Device::flex());
            let mut slab = (empty(), empty());
            let mut parts = Vec::new();
            for cut in cuts.windows(2) {
                let new = x.clone().narrow(1, cut[0], cut[1] - cut[0]);
                let y;
                (y, slab) = kernels::block_cached(new, parameters(), None, slab, &spec, cut[0]);
                parts.push(y);
            }
            close(&format!("cache {cuts:?}"), &floats(Tensor::cat(parts, 1)), &whole, 1e-5);
        }
    }
}

/// Compares value and gradient of `f` of one input in f32 and f64.
fn compare<const D: usize, const E: usize>(what: &str, shape: [usize; D], f: impl Fn(Tensor<D>) -> Tensor<E>) {
    let run = |dtype: FloatDType| {
        let x = leaf(&random(shape.iter().product(), 1), shape, dtype);
        let y = f(x.clone());
        let (shape, values) = (y.dims(), floats(y.clone().inner()));
        let weights = leaf(&random(shape.iter().product(), 99), shape, dtype).inner();
        let grads = (y * weights.autodiff()).sum().backward();
        let Some(grad) = x.grad(&grads) else { panic!("{what}: a gradient") };
        (values, floats(grad))
    };
    let ((y, dx), (want_y, want_dx)) = (run(FloatDType::F32), run(FloatDType::F64));
    close(what, &y, &want_y, 1e-5);
    close(&format!("gradient of {what}"), &dx, &want_dx, 1e-5);
}

/// A constant of the dtype of `like`.
fn constant<const D: usize, const E: usize>(values: &[f32], shape: [usize; D], like: &Tensor<E>) -> Tensor<D> {
    Tensor::<D>::from_data(TensorData::new(values.to_vec(), shape), &Device::flex()).cast(like.dtype()).autodiff()
}

#[test]
fn norms_log_softmax_and_embedding_are_the_composed_ones_in_every_argument() {
    for (length, d) in [(1, 1), (5, 2), (7, 33), (90, 200)] {
        let (x, gamma, beta) = (random(3 * length * d, 1), random(d, 2), random(d, 3));
        for centred in [true, false] {
            let kind = NormKind { centred, eps: 1e-5 };
            let norm = |x: Tensor<3>, gamma, beta| kernels::norm(x, gamma, beta, kind, false);
            let shape = [3, length, d];
            compare("norm", shape, |x| norm(x.clone(), constant(&gamma, [d], &x), Some(constant(&beta, [d], &x))));
            compare("norm without offset", shape, |x| norm(x.clone(), constant(&gamma, [d], &x), None));
            compare("norm's scale", [d], |g| norm(constant(&x, shape, &g), g.clone(), None));
            compare("norm's offset", [d], |b| norm(constant(&x, shape, &b), constant(&gamma, [d], &b), Some(b)));
        }
    }
    for (n, vocab) in [(1, 1), (5, 7), (300, 61), (3, 50_257)] {
        compare("log softmax", [n, vocab], |x| kernels::log_softmax(x, false));
    }
    let ids = [3u32, 0, 3, 5, 1];
    compare("embedding", [6, 7], |table| kernels::embedding(table, &ids, false));
}

/// A head on `n` rows compared in every argument: rows, weight and bias.
fn compare_loss(what: &str, [n, d, vocab]: [usize; 3], tied: bool, bias: bool, target: impl Fn(&Tensor<2>) -> Target) {
    let (x, b) = (random(n * d, 2), random(vocab, 3));
    let shape = if tied { [vocab + 1, d] } else { [d, vocab] };
    let weight = random(shape[0] * shape[1], 4);
    let weights: Vec<f32> = (0..n).map(|i| 0.1 + i as f32 / n as f32).collect();
    let head = |weight: Tensor<2>, bias: Option<Tensor<1>>| Head { weight, bias, tied, vocab };
    let some = |like: &Tensor<2>| bias.then(|| constant(&b, [vocab], like));
    compare(&format!("{what}: rows"), [n, d], |x| {
        let (target, head) = (target(&x), head(constant(&weight, shape, &x), some(&x)));
        kernels::loss(x, head, target, &weights, false)
    });
    compare(&format!("{what}: weight"), shape, |w| {
        let (x, target, bias) = (constant(&x, [n, d], &w), target(&w), some(&w));
        kernels::loss(x, head(w, bias), target, &weights, false)
    });
    if bias {
        compare(&format!("{what}: bias"), [vocab], |b| {
            let like: Tensor<2> = b.clone().unsqueeze();
            let (x, target, weight) = (constant(&x, [n, d], &b), target(&like), constant(&weight, shape, &b));
            kernels::loss(x, head(weight, Some(b)), target, &weights, false)
        });
    }
}

#[test]
fn the_head_with_every_loss_is_the_composed_one() {
    for sizes @ [n, _, vocab] in [[1, 3, 2], [5, 4, 7], [40, 9, 61]] {
        for (tied, bias) in [(false, true), (false, false), (true, false)] {
            let ids: Vec<u32> = (0..n).map(|i| (i * 31 % vocab) as u32).collect();
            compare_loss("cross-entropy", sizes, tied, bias, |_| Target::Tokens(ids.clone().into()));
            for kind in Divergence::ALL {
                compare_loss(&format!("{kind:?}"), sizes, tied, bias, |like| {
                    let d = 6;
                    let rows = constant(&random(n * d, 7), [n, d], like).inner();
                    let weight = constant(&random(vocab * d, 8), [d, vocab], like).inner();
                    let bias = Some(constant(&random(vocab, 9), [vocab], like).inner());
                    Target::Teacher(rows, Head { weight, bias, tied: false, vocab }, kind)
                });
            }
        }
    }
}

#[test]
fn a_loss_in_chunks_is_the_loss_at_once() {
    let (n, d, vocab) = (23, 5, 11);
    let (x, weight, bias) = (random(n * d, 1), random(d * vocab, 2), random(vocab, 3));
    let ids: Vec<u32> = (0..n as u32).map(|i| i % 11).collect();
    let weights: Vec<f32> = (0..n).map(|i| 0.3 + i as f32).collect();
    let side = Side { x: &x, width: d, weight: &weight, bias: &bias, tied: false };
    let whole = head::loss(side, Against::Tokens(&ids), &weights, vocab, n, true);
    for chunk in [1, 4, 22, 100] {
        let parts = head::loss(side, Against::Tokens(&ids), &weights, vocab, chunk, true);
        assert!((parts.value - whole.value).abs() < 1e-6 * whole.value);
        close("dx", &parts.dx, &whole.dx, 1e-6);
        close("dweight", &parts.dweight, &whole.dweight, 1e-5);
        close("dbias", &parts.dbias, &whole.dbias, 1e-5);
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
fn adamw_is_the_composed_step_and_leaves_shared_buffers_alone() {
    let n = 40_000;
    let step = AdamWStep {
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-8,
        weight_decay: 0.1,
        bias1: 0.19,
        bias2: 0.04,
        scale: 0.7,
        average: Some(0.9),
    };
    let run = |dtype: FloatDType| {
        let plain = |seed: u64| leaf(&random(n, seed), [n], dtype).inner();
        let (p, m, v, e) = (plain(1), plain(2), plain(3).square(), plain(4));
        let shared = p.clone();
        let ([p, m, v], e) = kernels::adamw([p, m, v], Some(e), plain(5), step);
        assert_eq!(floats(shared)[..9], random(n, 1)[..9], "a buffer that somebody else holds");
        [Some(p), Some(m), Some(v), e].map(|t| floats(t.expect("a tensor")))
    };
    for (i, (fused, composed)) in run(FloatDType::F32).iter().zip(&run(FloatDType::F64)).enumerate() {
        close(&format!("adamw's tensor {i}"), fused, composed, 1e-5);
    }
    let sum = kernels::square_sum(leaf(&random(n, 1), [n], FloatDType::F32).inner());
    let want: f64 = random(n, 1).iter().map(|v| f64::from(v * v)).sum();
    assert!((sum / want - 1.0).abs() < 1e-6, "{sum} for {want}");
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let case = Case { batch: 5, length: 33, heads: 3, kv_heads: 3, head_dim: 16, hidden: 100, ..Case::plain() };
    let all = || -> Vec<Vec<u32>> {
        let mut out = case.run(FloatDType::F32);
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
