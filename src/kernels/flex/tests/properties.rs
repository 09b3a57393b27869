//! Properties of the fused operations besides the block, over random shapes: each is its composed twin, in value and in every
//! gradient (`tests::twins` says within what). The shapes are the same in every run, so that a failure can be repeated.
//!
//! n rows, D width, V vocabulary, B batch, L length.

use burn::tensor::FloatDType;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::super::*;
use super::{Case, Form, case, compare, constant, each, leaf, random, twins};
use crate::kernels::{self, Target, Visible};
use crate::model::params::floats;
use crate::process::Layout;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() }
}

/// Sizes of rows, width and vocabulary: mostly odd and small, at times a real vocabulary or more rows than one task takes.
fn sizes() -> impl Strategy<Value = [usize; 3]> {
    prop_oneof![
        6 => (1usize..12, 1usize..40, 1usize..70).prop_map(|(n, d, v)| [n, d, v]),
        1 => (1usize..3, 1usize..5, 50_250usize..50_260).prop_map(|(n, d, v)| [n, d, v]),
        1 => (100usize..400, 1usize..20, 1usize..9).prop_map(|(n, d, v)| [n, d, v]),
    ]
}

/// A head compared in every argument that is there: rows, weight and bias.
fn check_loss(
    what: &str,
    [n, d, vocab]: [usize; 3],
    (tied, bias): (bool, bool),
    target: impl Fn(&Tensor<2>) -> Target,
) {
    let (x, b) = (random(n * d, 2), random(vocab, 3));
    let shape = if tied { [vocab + 1, d] } else { [d, vocab] };
    let weight = random(shape[0] * shape[1], 4);
    // Rows that do not count are there too. Times V, because a gradient of a logit is of the size of a probability.
    let weight_of = |i: usize| vocab as f32 * (0.1 + i as f32 / n as f32);
    let weights: Vec<f32> = (0..n).map(|i| if i % 5 == 4 { 0.0 } else { weight_of(i) }).collect();
    let head = |weight: Tensor<2>, bias: Option<Tensor<1>>| Head { weight, bias, tied, vocab };
    let some = |like: &Tensor<2>| bias.then(|| constant(&b, [vocab], like));
    compare(&format!("{what}: rows"), [n, d], |x, composed| {
        let (target, head) = (target(&x), head(constant(&weight, shape, &x), some(&x)));
        kernels::loss(x, head, target, &weights, composed)
    });
    compare(&format!("{what}: weight"), shape, |w, composed| {
        let (x, target, bias) = (constant(&x, [n, d], &w), target(&w), some(&w));
        kernels::loss(x, head(w, bias), target, &weights, composed)
    });
    if bias {
        compare(&format!("{what}: bias"), [vocab], |b, composed| {
            let like: Tensor<2> = b.clone().unsqueeze();
            let (x, target, weight) = (constant(&x, [n, d], &b), target(&like), constant(&weight, shape, &b));
            kernels::loss(x, head(weight, Some(b)), target, &weights, composed)
        });
    }
}

/// A teacher's rows [n, 6] with a head of its own.
fn teacher([n, vocab]: [usize; 2], tied: bool, kind: Divergence) -> impl Fn(&Tensor<2>) -> Target {
    move |like| {
        let shape = if tied { [vocab, 6] } else { [6, vocab] };
        let rows = constant(&random(n * 6, 7), [n, 6], like).inner();
        let weight = constant(&random(vocab * 6, 8), shape, like).inner();
        let bias = (!tied).then(|| constant(&random(vocab, 9), [vocab], like).inner());
        Target::Teacher(rows, Head { weight, bias, tied, vocab }, kind)
    }
}

/// The cached block over random cuts of the sequence, and what the cache holds in the end.
fn cached(case: &Case, cuts: &[usize], form: Form) -> [Vec<f32>; 3] {
    let dtype = form.dtype();
    let p = case.parameters(dtype);
    let (x, modulation) = (case.x(dtype).inner(), case.modulation(dtype).map(Tensor::inner));
    let shape = [case.batch, case.kv_heads, case.length, case.head_dim];
    let empty = || leaf(&vec![0.0; shape.iter().product()], shape, dtype).inner();
    let mut slab = (empty(), empty());
    let mut parts = Vec::new();
    for cut in cuts.windows(2) {
        let (from, l) = (cut[0], cut[1] - cut[0]);
        let m = modulation.clone().map(|m| if m.dims()[1] == 1 { m } else { m.narrow(1, from, l) });
        let parameters = each(&p, |w| w.clone().inner(), |b| b.clone().inner());
        let y;
        let new = x.clone().narrow(1, from, l);
        (y, slab) = kernels::block_cached(new, parameters, m, slab, &case.spec(form.composed()), from);
        parts.push(y);
    }
    [floats(Tensor::cat(parts, 1)), floats(slab.0), floats(slab.1)]
}

/// One AdamW step on `n` values: parameter, moments, average.
fn adamw(n: usize, step: AdamWStep, form: Form) -> Vec<Vec<f32>> {
    let plain = |seed: u64| leaf(&random(n, seed), [n], form.dtype()).inner();
    let state = [plain(1), plain(2), plain(3).square()];
    let (average, gradient) = (step.average.map(|_| plain(4)), plain(5));
    let shared = state[0].clone();
    let (state, average) = match form {
        Form::Composed => kernels::composed::adamw(state, average, gradient, step),
        _ => kernels::adamw(state, average, gradient, step),
    };
    assert_eq!(floats(shared), random(n, 1), "a buffer that somebody else holds");
    state.into_iter().chain(average).map(floats).collect()
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn a_cross_entropy_of_any_shape_is_the_composed_one(sizes in sizes(), tied: bool, bias: bool, seed: u32) {
        let ids: Vec<u32> = (0..sizes[0] as u32).map(|i| i.wrapping_mul(seed | 1) % sizes[2] as u32).collect();
        check_loss("cross-entropy", sizes, (tied, bias), |_| Target::Tokens(ids.clone().into()));
    }

    #[test]
    fn a_divergence_of_any_shape_is_the_composed_one(sizes in sizes(), tied: bool, bias: bool, theirs: bool) {
        for kind in Divergence::ALL {
            check_loss(&format!("{kind:?}"), sizes, (tied, bias), teacher([sizes[0], sizes[2]], theirs, kind));
        }
    }

    #[test]
    fn a_norm_of_any_shape_is_the_composed_one(b in 1usize..4, l in 1usize..100, d in 1usize..70, centred: bool) {
        let (shape, kind) = ([b, l, d], NormKind { centred, eps: 1e-5 });
        let (x, gamma, beta) = (random(b * l * d, 1), random(d, 2), random(d, 3));
        let norm = |x: Tensor<3>, gamma, beta, composed| kernels::norm(x, gamma, beta, kind, composed);
        compare("norm", shape, |x, c| norm(x.clone(), constant(&gamma, [d], &x), Some(constant(&beta, [d], &x)), c));
        compare("norm without offset", shape, |x, c| norm(x.clone(), constant(&gamma, [d], &x), None, c));
        compare("norm's scale", [d], |g, c| norm(constant(&x, shape, &g), g.clone(), None, c));
        compare("norm's offset", [d], |b, c| norm(constant(&x, shape, &b), constant(&gamma, [d], &b), Some(b), c));
    }

    #[test]
    fn a_log_softmax_of_any_shape_is_the_composed_one([n, _, vocab] in sizes()) {
        compare("log softmax", [n, vocab], kernels::log_softmax);
    }

    #[test]
    fn an_embedding_of_any_shape_is_the_composed_one(n in 1usize..300, d in 1usize..40, vocab in 1usize..60, seed: u32) {
        let ids: Vec<u32> = (0..n as u32).map(|i| i.wrapping_mul(seed | 1) % vocab as u32).collect();
        compare("embedding", [vocab, d], |table, composed| kernels::embedding(table, &ids, composed));
    }

    #[test]
    fn an_adamw_step_of_any_size_is_the_composed_one_and_leaves_shared_buffers_alone(
        n in prop_oneof![Just(1usize), 2usize..70, 30_000usize..40_000],
        (decay, average) in (prop_oneof![Just(0.0), Just(0.1)], any::<bool>()),
        (age, scale) in (1i32..2000, 0.01f64..1.0),
    ) {
        let step = AdamWStep {
            lr: 0.01,
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-8,
            weight_decay: decay,
            bias1: 1.0 - 0.9f64.powi(age),
            bias2: 1.0 - 0.98f64.powi(age),
            scale,
            average: average.then_some(0.99),
        };
        let [fused, composed, reference] = [Form::Fused, Form::Composed, Form::Reference].map(|f| adamw(n, step, f));
        for (i, ((a, b), c)) in fused.iter().zip(&composed).zip(&reference).enumerate() {
            twins(&format!("adamw's tensor {i} of {n}"), a, b, c);
        }
        let sum = kernels::square_sum(leaf(&random(n, 1), [n], FloatDType::F32).inner());
        let sum = f64::from(floats(sum)[0]);
        let want: f64 = random(n, 1).iter().map(|v| f64::from(v * v)).sum();
        prop_assert!((sum / want - 1.0).abs() < 1e-6, "{} for {}", sum, want);
    }

    #[test]
    fn a_cached_block_of_any_shape_and_cuts_is_the_composed_one(case in case(), cuts: u64) {
        let case = Case { visible: Visible::Causal, keys: None, rows: None, ..case };
        let inner = (1..case.length).filter(|i| cuts >> (i % 64) & 1 == 1);
        let cuts: Vec<usize> = [0].into_iter().chain(inner).chain([case.length]).collect();
        let [fused, composed, reference] = [Form::Fused, Form::Composed, Form::Reference].map(|f| cached(&case, &cuts, f));
        for (i, what) in ["y", "keys", "values"].into_iter().enumerate() {
            twins(&format!("{what} of {case:?} cut at {cuts:?}"), &fused[i], &composed[i], &reference[i]);
        }
    }
    #[test]
    fn a_cached_network_over_blocks_is_the_block_over_the_whole_sequence(case in case(), text in 0usize..3, size in 1usize..5, cuts: u64) {
        let layout = Layout { text, size };
        let case = Case { visible: Visible::Blocks(layout), keys: None, rows: None, ..case };
        // Whole blocks at a time, one or several.
        let ends = layout.ranges(case.length).into_iter().map(|r| r.end).filter(|e| *e < case.length);
        let ends: Vec<usize> = ends.enumerate().filter(|(i, _)| cuts >> (i % 64) & 1 == 1).map(|(_, e)| e).collect();
        let cuts: Vec<usize> = [0].into_iter().chain(ends).chain([case.length]).collect();
        let [fused, composed, reference] = [Form::Fused, Form::Composed, Form::Reference].map(|f| cached(&case, &cuts, f));
        for (i, what) in ["y", "keys", "values"].into_iter().enumerate() {
            twins(&format!("{what} of {case:?} cut at {cuts:?}"), &fused[i], &composed[i], &reference[i]);
        }
        let parameters = each(&case.parameters(FloatDType::F64), |w| w.clone().inner(), |b| b.clone().inner());
        let modulation = case.modulation(FloatDType::F64).map(Tensor::inner);
        let whole = kernels::block(case.x(FloatDType::F64).inner(), parameters, modulation, &case.spec(true));
        twins("the whole sequence", &reference[0], &composed[0], &floats(whole));
    }
}

#[test]
fn a_block_behind_a_cache_is_the_block_over_the_whole_sequence() {
    for (heads, kv_heads) in [(2, 2), (4, 2), (1, 1)] {
        let case = Case { heads, kv_heads, visible: Visible::Causal, length: 7, ..Case::plain() };
        let whole = |form: Form| {
            let parameters = each(&case.parameters(form.dtype()), |w| w.clone().inner(), |b| b.clone().inner());
            floats(kernels::block(case.x(form.dtype()).inner(), parameters, None, &case.spec(form.composed())))
        };
        let (composed, reference) = (whole(Form::Composed), whole(Form::Reference));
        for cuts in [vec![0, 7], vec![0, 3, 4, 7], (0..=7).collect()] {
            for form in [Form::Fused, Form::Composed] {
                twins(&format!("{form:?} cache {cuts:?}"), &cached(&case, &cuts, form)[0], &composed, &reference);
            }
        }
    }
}
