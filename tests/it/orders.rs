//! Where orders meet: their limits are one another, a cache changes nothing, and the table's formula is the cost.

use burn::prelude::Device;
use fewstep::model::config::Visibility;
use fewstep::model::{Denoise, Noised, Transformer, TransformerConfig, params, select_rows};
use fewstep::objective::{self, RowLoss, Target};
use fewstep::process::order::{Context, OrderConfig};
use fewstep::process::{Corruption, Order, Reading, Schedule};
use fewstep::rng::{StepRng, Stream};
use fewstep::sample::{Decode, Process, SampleSpec, Samples, reading, sample};

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
        decode: Decode::Table,
    }
}

fn texts(n: usize) -> Vec<u32> {
    (0..n * L).map(|i| (i * i * 5 % 11 % V) as u32).collect()
}

fn elbo(x0: &[u32], mask: u32, order: Order, seed: u64) -> RowLoss<'static> {
    let gens = (StepRng::new(seed).at(0, Stream::Times), StepRng::new(seed).at(0, Stream::Corrupt));
    objective::elbo(x0, L, mask, order, Schedule::LogLinear, gens)
}

#[test]
fn blocks_of_one_token_are_autoregression_in_likelihood() {
    for (visibility, encoder) in [(Visibility::Blocks(1), 0), (Visibility::Order, 0), (Visibility::Order, 1)] {
        let (model, x0) = (network(visibility, encoder), texts(3));
        let (loss, _) = objective::evaluate(&model, &elbo(&x0, model.mask(), Order::left_to_right(), 1));
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
        let other = objective::evaluate(&model, &elbo(&x0, model.mask(), Order::left_to_right(), 2)).0;
        assert_eq!(loss, other);
    }
}

#[test]
fn one_block_of_the_whole_length_is_masked_diffusion() {
    let (full, x0) = (network(Visibility::Full, 0), texts(4));
    let of = |model: &Transformer, order: Order| {
        let rows = elbo(&x0, model.mask(), order, 5);
        (rows.input.token_ids().to_vec(), rows.rows.clone(), objective::evaluate(model, &rows).0)
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
fn pipelined_blocks_with_a_window_of_one_are_blocks() {
    let order = |text: &str| -> Order {
        #[derive(serde::Deserialize)]
        struct Of {
            order: OrderConfig,
        }
        toml::from_str::<Of>(text).unwrap().order.order(L)
    };
    let one = order("order = { pipelined = { block = 4, window = 1 } }");
    assert_eq!(one, order("order = { blocks = 4 }"));
    for steps in [3, 6, 7, 20] {
        let (a, b) = (one.grid(L, steps).unwrap(), Order::in_blocks(4).grid(L, steps).unwrap());
        assert!((0..=steps).all(|k| a.row(k) == b.row(k)));
    }
    assert_eq!(order("order = { pipelined = { block = 12, window = 1 } }").layout(), Order::parallel(L).layout());
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
        (Order::in_blocks(3), vec![4, 8, 16]),
        (Order::in_blocks(5), vec![3, 9]),
        (noisy(3, 2), vec![2, 5, 10]),
        (noisy(1, 4), vec![4, 15]),
        (noisy(2, 3), vec![8]),
        (ar_diffusion, vec![1, 4, 9]),
        (segments, vec![6, 12]),
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
                    let samples = sample(&model, &process, &SampleSpec::new(*steps, 9, 1), 40).unwrap();
                    let reading = reading(&model, &process);
                    assert_eq!(reading == Reading::Blocks, cached);
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
    let order = Order::in_blocks(4);
    let whole = sample(&network(Visibility::Order, 0), &process(order, true), &SampleSpec::new(12, 9, 1), 40).unwrap();
    let deeper = sample(&network(Visibility::Order, 2), &process(order, true), &SampleSpec::new(12, 9, 1), 40).unwrap();
    // 12 steps of 4 positions through one layer, and twice a finished block through two; all three layers otherwise.
    let grid = order.grid(L, 12).unwrap();
    let full =
        |s: &Samples| (0..40).filter(|i| s.nfe[*i] == grid.nfe()).map(|i| s.layer_positions[i]).collect::<Vec<_>>();
    assert!(full(&whole).iter().all(|p| *p == (12 * 4 + 2 * 4) * 3), "{:?}", full(&whole));
    assert!(full(&deeper).iter().all(|p| *p == 12 * 4 + 2 * 4 * 2), "{:?}", full(&deeper));
    let sum = |s: &Samples| s.layer_positions.iter().sum::<u64>() as f64;
    assert!(sum(&deeper) < 0.5 * sum(&whole));

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
        let (_, values) = objective::evaluate(&model, &loss);
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
            };
            let want = objective::evaluate(&model, &alone).0;
            assert!((value - want).abs() < 1e-5, "position {r}: {value} for {want}");
        }
        let trained = Transformer::init(model.config(), V, L, 3, &Device::flex().autodiff());
        let (value, _) = objective::backward(&trained, &loss);
        let want = objective::evaluate(&model, &loss).0;
        assert!((value - want).abs() < 1e-5, "{value} for {want}");
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
