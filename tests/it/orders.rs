//! Where orders meet: their limits are one another, a cache changes nothing, and the table's formula is the cost.

use burn::prelude::Device;
use fewstep::eval::{FlexibilityConfig, flexibility};
use fewstep::method::{self, RowLoss, Target, distill};
use fewstep::model::config::Visibility;
use fewstep::model::{Denoise, Noised, State, Transformer, TransformerConfig, params, select_rows};
use fewstep::process::order::{Context, OrderConfig};
use fewstep::process::{Corruption, Order, Reading, Schedule};
use fewstep::rng::{StepRng, Stream};
use fewstep::sample::{Decode, DecodeConfig, Process, SampleSpec, Samples, reading, sample};

const V: usize = 7;
const L: usize = 12;

fn network(visibility: Visibility, encoder_layers: usize) -> Transformer {
    let config =
        TransformerConfig { learned_positions: true, encoder_layers, ..TransformerConfig::new(16, 3, 2, visibility) };
    Transformer::init(&config, V, L, 3, &Device::flex())
}

fn process(order: Order, cached: bool) -> Process {
    Process {
        order,
        schedule: Schedule::LogLinear,
        corruption: Corruption::Absorb,
        length: L,
        cached,
        chain: None,
        decode: Decode::Table,
    }
}

fn texts(n: usize) -> Vec<u32> {
    (0..n * L).map(|i| (i * i * 5 % 11 % V) as u32).collect()
}

fn elbo(x0: &[u32], mask: u32, order: Order, seed: u64) -> RowLoss {
    let gens = (StepRng::new(seed).at(0, Stream::Times), StepRng::new(seed).at(0, Stream::Corrupt));
    method::elbo(x0, L, mask, order, Schedule::LogLinear, gens)
}

#[test]
fn blocks_of_one_token_are_autoregression_in_likelihood() {
    for (visibility, encoder) in [(Visibility::Blocks(1), 0), (Visibility::Order, 0), (Visibility::Order, 1)] {
        let (model, x0) = (network(visibility, encoder), texts(3));
        let (loss, _) = method::evaluate(&model, &elbo(&x0, model.mask(), Order::left_to_right(), 1));
        // By the chain rule, one token behind the other, each read behind nothing but its own past.
        let mut want = 0.0;
        for (at, token) in x0.iter().enumerate() {
            let (row, l) = (at / L * L, at % L);
            let mut x = vec![model.mask(); L];
            x[..l].copy_from_slice(&x0[row..row + l]);
            let t: Vec<f64> = (0..L).map(|p| if p < l { 0.0 } else { 1.0 }).collect();
            let input = Noised::tokens(&x, &t, L).in_blocks(Order::left_to_right().layout());
            let log_p = params::floats(model.predict(model.features_at(&input, &[l])));
            want -= f64::from(log_p[*token as usize]) / x0.len() as f64;
        }
        assert!((loss - want).abs() < 1e-5, "{visibility:?}: {loss} for {want}");
        // Nothing is left to chance.
        let other = method::evaluate(&model, &elbo(&x0, model.mask(), Order::left_to_right(), 2)).0;
        assert_eq!(loss, other);
    }
}

#[test]
fn one_block_of_the_whole_length_is_masked_diffusion() {
    let (full, x0) = (network(Visibility::Full, 0), texts(4));
    let of = |model: &Transformer, order: Order| {
        let rows = elbo(&x0, model.mask(), order, 5);
        (rows.input.token_ids().to_vec(), rows.rows.clone(), method::evaluate(model, &rows).0)
    };
    let want = of(&full, Order::parallel(L));
    for visibility in [Visibility::Blocks(L), Visibility::Order] {
        let blocks = full.clone().reconfigured(|c| c.visibility = visibility);
        for order in [Order::in_blocks(L), Order::parallel(L)] {
            let got = of(&blocks, order);
            assert_eq!((&want.0, &want.1), (&got.0, &got.1));
            assert!((want.2 - got.2).abs() < 1e-6, "{} for {}", got.2, want.2);
        }
        for steps in [1, 3, 8] {
            let draw = |model: &Transformer, order, cached| {
                sample(model, &process(order, cached), &SampleSpec::new(steps, 7, 4), 6).unwrap().tokens
            };
            assert_eq!(draw(&full, Order::parallel(L), false), draw(&blocks, Order::in_blocks(L), true));
        }
    }
}

#[test]
fn a_window_of_one_is_blocks_in_table_likelihood_and_samples() {
    // As a column of the table, in one stream: what is left of the block under way is text, and what is right of it noise.
    let noisy = Order { context: Context::Noisy, ..Order::in_blocks(4) };
    for steps in [3, 6, 7, 20] {
        let (a, b) = (noisy.grid(L, steps).unwrap(), Order::in_blocks(4).grid(L, steps).unwrap());
        assert!((0..=steps).all(|k| a.row(k) == b.row(k)));
        let model = network(Visibility::Order, 0);
        let draw = |order| sample(&model, &process(order, true), &SampleSpec::new(steps, 7, 4), 6).unwrap();
        assert_eq!(draw(noisy).tokens, draw(Order::in_blocks(4)).tokens);
    }
    let (model, x0) = (network(Visibility::Order, 0), texts(24));
    let column = elbo(&x0, model.mask(), noisy, 5);
    assert!(column.input.clean.is_none() && column.rows.len() > 20);
    // The same noise read beside the text gives the same losses: the text before the block is the same text.
    let beside = Noised { clean: Some(State::Tokens(x0.clone())), ..column.input.clone() };
    let streams = RowLoss { input: beside, ..column.clone() };
    let (a, b) = (method::evaluate(&model, &column).1, method::evaluate(&model, &streams).1);
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5));
    // One block of three is under way in a column, at three times the weight of a block whose time is drawn by itself.
    for (row, weight) in column.rows.iter().zip(&column.weights) {
        let want = 3.0 * Schedule::LogLinear.elbo_weight(column.input.t[*row]) / x0.len() as f64;
        assert!((weight / want - 1.0).abs() < 1e-9, "{weight} for {want}");
    }
}

/// Everything that is drawn, but not what it cost.
fn drawn(samples: &Samples) -> (&Vec<Vec<u32>>, &Vec<Vec<Vec<u32>>>) {
    (&samples.tokens, &samples.trace)
}

#[test]
fn every_cache_is_exact_and_the_formula_of_the_table_is_the_counted_cost() {
    let noisy = |block, window| Order { window, context: Context::Noisy, ..Order::in_blocks(block) };
    let segments = OrderConfig::Segments { text: 2, block: 4 }.order(L);
    let ar_diffusion = OrderConfig::ArDiffusion { levels: 6 }.order(L);
    let cases = [
        (Order::left_to_right(), vec![L]),
        (Order::in_blocks(3), vec![4, 6, 8]),
        (Order::in_blocks(5), vec![3, 5]),
        (noisy(3, 2), vec![2, 5]),
        (noisy(1, 4), vec![2, 4]),
        (noisy(2, 3), vec![3, 5]),
        (ar_diffusion, vec![1, 2, 4]),
        (segments, vec![6, 7, 8]),
        (Order::parallel(L), vec![1, 4]),
    ];
    for (order, steps) in cases {
        for encoder in [0, 2] {
            if encoder > 0 && order.window > 1 {
                continue;
            }
            let model = network(Visibility::Order, encoder);
            for steps in &steps {
                for pinned in [Vec::new(), (0..L).map(|p| (p < 2 || p == 7).then_some(3)).collect()] {
                    let spec = SampleSpec { trace: true, pinned, ..SampleSpec::new(*steps, 9, 3) };
                    let with = sample(&model, &process(order, true), &spec, 5).unwrap();
                    let without = sample(&model, &process(order, false), &spec, 5).unwrap();
                    assert_eq!(drawn(&with), drawn(&without), "{order:?}, {steps} steps, encoder {encoder}");
                }
                // The formula holds where every step reveals something.
                let grid = order.grid(L, *steps).unwrap();
                for cached in [false, true] {
                    let process = process(order, cached);
                    let samples = sample(&model, &process, &SampleSpec::new(*steps, 9, 1), 60).unwrap();
                    let reading = reading(&model, &process);
                    assert_eq!(reading == Reading::Blocks, cached);
                    assert!(
                        samples.nfe.contains(&grid.nfe()),
                        "{order:?}: no sample reveals something in all {steps} steps"
                    );
                    for (nfe, positions) in samples.nfe.iter().zip(&samples.positions) {
                        assert!(*nfe <= grid.nfe() && *positions <= grid.positions(reading));
                        if *nfe == grid.nfe() {
                            assert_eq!(*positions, grid.positions(reading), "{order:?}, {steps} steps, {cached}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_causal_network_costs_what_its_table_says_and_its_cache_is_exact() {
    let config = TransformerConfig { shift: true, ..TransformerConfig::new(16, 3, 2, Visibility::Causal) };
    let model = Transformer::init(&config, V, L, 3, &Device::flex());
    let draw = |cached| sample(&model, &process(Order::left_to_right(), cached), &SampleSpec::new(L, 9, 3), 5).unwrap();
    assert_eq!(draw(true).tokens, draw(false).tokens);
    let grid = Order::left_to_right().grid(L, L).unwrap();
    assert!(draw(true).positions.iter().all(|p| *p == grid.positions(Reading::Shifted)));
    assert!(draw(true).layer_positions.iter().all(|p| *p == 3 * L as u64));
}

#[test]
fn deeper_layers_alone_save_positions_times_layers_and_read_text_through_the_first_ones() {
    let order = Order::in_blocks(6);
    let draw = |encoder| {
        sample(&network(Visibility::Order, encoder), &process(order, true), &SampleSpec::new(4, 9, 1), 40).unwrap()
    };
    let (whole, deeper) = (draw(0), draw(2));
    // Two steps for each of two blocks of 6 through one layer, and the finished one through two; all three layers otherwise.
    let full = |s: &Samples| (0..40).filter(|i| s.nfe[*i] == 4).map(|i| s.layer_positions[i]).collect::<Vec<_>>();
    assert!(full(&whole).len() > 20 && full(&whole).iter().all(|p| *p == (4 * 6 + 6) * 3), "{:?}", full(&whole));
    assert!(full(&deeper).len() > 20 && full(&deeper).iter().all(|p| *p == 4 * 6 + 6 * 2), "{:?}", full(&deeper));

    // The features of a block behind others depend on their text: through the encoder, for there is no other way.
    let model = network(Visibility::Order, 2);
    let feature = |first: u32| {
        let mut x = vec![model.mask(); L];
        x[..4].copy_from_slice(&[first, 2, 3, 4]);
        let t: Vec<f64> = (0..L).map(|p| if p < 4 { 0.0 } else { 1.0 }).collect();
        params::floats(model.features_at(&Noised::tokens(&x, &t, L).in_blocks(order.layout()), &[5]))
    };
    assert_ne!(feature(1), feature(5));
}

#[test]
fn a_network_with_an_encoder_trains_on_what_its_sampler_reads() {
    let order = Order::in_blocks(3);
    for encoder in [1, 2] {
        let (model, x0) = (network(Visibility::Order, encoder), texts(4));
        let loss = elbo(&x0, model.mask(), order, 1);
        let (_, values) = method::evaluate(&model, &loss);
        for (r, value) in loss.rows.iter().zip(&values) {
            let (row, block) = (r / L * L, r % L / 3 * 3);
            let mut canvas = loss.input.token_ids()[row..row + L].to_vec();
            canvas[..block].copy_from_slice(&x0[row..row + block]);
            canvas[block + 3..].fill(model.mask());
            let t = loss.input.t[row..row + L].to_vec();
            let alone = RowLoss {
                input: Noised::tokens(&canvas, &t, L).in_blocks(order.layout()),
                rows: vec![r - row],
                weights: vec![1.0],
                target: Target::Tokens(vec![x0[*r]]),
                alpha: None,
            };
            let want = method::evaluate(&model, &alone).0;
            assert!((value - want).abs() < 1e-5, "position {r}: {value} for {want}");
        }
        let trained = Transformer::init(model.config(), V, L, 3, &Device::flex().autodiff());
        let (value, _) = method::backward(&trained, &loss);
        let want = method::evaluate(&model, &loss).0;
        assert!((value - want).abs() < 1e-5, "{value} for {want}");
    }
}

#[test]
fn beam_search_is_for_networks_that_write_token_by_token() {
    let model = network(Visibility::Order, 0);
    let search = fewstep::sample::beam::Search::new(2, 1.0);
    let found = fewstep::sample::beam::search(&model, &process(Order::in_blocks(4), true), &[], &search);
    assert!(found.unwrap_err().to_string().contains("autoregressive"));
}

#[test]
fn flexibility_is_measured_however_a_model_is_sampled() {
    let model = network(Visibility::Order, 0);
    let config = FlexibilityConfig { samples: 3, gap: 5, errors: 2, steps: 4 };
    let held_out: Vec<Vec<u32>> = texts(3).chunks(L).map(<[u32]>::to_vec).collect();
    for decode in [
        "order = \"left_to_right\"",
        "order = \"parallel\"",
        "order = { blocks = 5 }",
        "order = { pipelined = { block = 4, window = 2 } }",
        "order = { ar_diffusion = { levels = 6 } }",
        "order = { segments = { text = 2, block = 4 } }",
        "order = { strided = 4 }",
        "order = { dilated = 0 }",
        "order = { within = { block = 6, order = { strided = 3 } } }",
        "pipelined = { block = 4, window = 2 }",
        "switch = { block = 4, tolerance = 1.0 }",
        "mbr = { order = { ar_diffusion = { levels = 6 } }, candidates = 3 }",
    ] {
        let decode: DecodeConfig = toml::from_str(decode).unwrap();
        let process = decode.process(process(Order::parallel(L), true));
        let found = flexibility::measure(&model, &process, &config, 1, 2, &held_out, None).unwrap();
        for (key, task) in found.tasks() {
            assert_eq!(task.n, 3, "{key} of {}", decode.name());
            assert!(task.nfe >= 1.0 && task.scores.values().all(|e| e.mean.is_finite()));
        }
        assert!(found.remasked.is_some());
    }
}

#[test]
fn a_student_is_taught_in_its_own_order_or_by_a_teacher_that_reads_the_same_noise() {
    let (blocks, parallel) = (Order::in_blocks(4), Order::parallel(L));
    let pipelined = OrderConfig::Pipelined { block: 4, window: 2 }.order(L);
    let of = |student, teachers: &[Order]| distill::Orders::of(student, teachers, L).map(|o| o.teacher);
    assert_eq!(of(blocks, &[Order::left_to_right(), blocks]), Some(blocks));
    assert_eq!(of(pipelined, &[blocks, parallel]), Some(parallel));
    assert_eq!(of(pipelined, &[blocks, pipelined, parallel]), Some(pipelined));
    // It would be shown what its student has to guess, or read something else.
    assert_eq!(
        (of(pipelined, &[blocks]), of(blocks, &[parallel]), of(blocks, &[Order::in_blocks(2)])),
        (None, None, None)
    );
}

#[test]
fn the_best_of_several_candidates_costs_what_all_of_them_do() {
    let (model, order) = (network(Visibility::Order, 0), OrderConfig::ArDiffusion { levels: 6 }.order(L));
    let spec = SampleSpec::new(4, 9, 3);
    let all = sample(&model, &process(order, true), &spec, 12).unwrap();
    let best = sample(&model, &Process { decode: Decode::Mbr(4), ..process(order, true) }, &spec, 3).unwrap();
    for i in 0..3 {
        assert!(all.tokens[4 * i..4 * i + 4].contains(&best.tokens[i]));
        assert_eq!(best.nfe[i], all.nfe[4 * i..4 * i + 4].iter().sum::<usize>());
        assert_eq!(best.layer_positions[i], all.layer_positions[4 * i..4 * i + 4].iter().sum::<u64>());
    }
}

#[test]
fn features_of_all_positions_are_those_of_the_wanted_ones() {
    for (visibility, encoder) in [(Visibility::Order, 0), (Visibility::Order, 2), (Visibility::Blocks(4), 1)] {
        let model = network(visibility, encoder);
        let x: Vec<u32> =
            texts(2).into_iter().enumerate().map(|(i, t)| if i % 3 == 0 { V as u32 } else { t }).collect();
        let input = Noised::tokens(&x, &[0.5; 2 * L], L).in_blocks(Order::in_blocks(4).layout());
        let rows = [0, 5, 11, 12, 17, 23];
        let all = params::floats(select_rows(model.features(&input), &rows));
        let some = params::floats(model.features_at(&input, &rows));
        assert!(all.iter().zip(&some).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}
