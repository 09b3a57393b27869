//! Orders with fixed phases: their likelihood is the sampler's, both streams give it in one pass, and a cache changes nothing.

use std::collections::HashMap;
use std::ops::Range;

use burn::prelude::*;
use fewstep::eval::results::Bound;
use fewstep::eval::sampler::{self, SamplerNll, Texts};
use fewstep::eval::stats::mean;
use fewstep::method::{self, RowLoss, SdttConfig, Target, distill};
use fewstep::model::config::Visibility;
use fewstep::model::{Cache, Denoise, Noised, Transformer, TransformerConfig, params};
use fewstep::process::order::OrderConfig;
use fewstep::process::{Corruption, Order, Pattern, Reading, Schedule};
use fewstep::rng::{StepRng, Stream};
use fewstep::sample::{Decode, Process, SampleSpec, Samples, reading, sample};

use super::binary::Place;

const V: usize = 7;
const L: usize = 12;

fn strided(k: usize) -> Order {
    Order::in_phases(Pattern::Strided(k), L)
}

/// Orders with fixed phases of L positions, and how many phases each has.
fn orders() -> Vec<(Order, usize)> {
    let of = |text: &str| toml::from_str::<HashMap<String, OrderConfig>>(text).unwrap().remove("order").unwrap();
    [
        ("order = { strided = 4 }", 4),
        ("order = { strided = 5 }", 5),
        ("order = { dilated = 8 }", 8),
        ("order = { strided = 1 }", 1),
        ("order = { strided = 12 }", 12),
        ("order = { phases = [2, 0, 1, 1, 2] }", 3),
        ("order = { phases = [0, 3, 2, 3, 1, 3, 2, 3] }", 4),
        ("order = { within = { block = 6, order = { strided = 3 } } }", 6),
        ("order = { within = { block = 5, order = { dilated = 2 } } }", 6),
    ]
    .map(|(text, count)| (of(text).order(L), count))
    .to_vec()
}

fn network(visibility: Visibility) -> Transformer {
    let config = TransformerConfig { learned_positions: true, ..TransformerConfig::new(16, 3, 2, visibility) };
    Transformer::init(&config, V, L, 3, &Device::flex())
}

fn process(order: Order, cached: bool, length: usize) -> Process {
    Process {
        order,
        schedule: Schedule::LogLinear,
        corruption: Corruption::Absorb,
        length,
        cached,
        chain: None,
        decode: Decode::Table,
    }
}

fn texts(n: usize) -> Vec<Vec<u32>> {
    (0..n).map(|i| (0..L).map(|l| ((i * L + l) * (i + l) * 5 % 11 % V) as u32).collect()).collect()
}

fn elbo(x0: &[u32], mask: u32, order: Order) -> RowLoss {
    let draws = || StepRng::new(1).at(0, Stream::Times);
    method::elbo(x0, L, mask, order, Schedule::LogLinear, (draws(), draws()))
}

/// The sampler's likelihood of whole texts.
fn nll(
    model: &dyn Denoise,
    process: &Process,
    steps: usize,
    tokens: &[Vec<u32>],
    partitions: usize,
) -> fewstep::error::Result<Option<SamplerNll>> {
    sampler::nll(model, process, steps, Texts { tokens, counted: &sampler::whole, batch: 8 }, partitions)
}

/// A language of 3 tokens and 5 positions, in f64: the probability of each of its texts.
struct Table {
    joint: Vec<f64>,
}

const TOKENS: usize = 3;
const LENGTH: usize = 5;

impl Table {
    fn new() -> Self {
        let weights: Vec<f64> = (0..TOKENS.pow(LENGTH as u32)).map(|i| ((i * 37 % 101) as f64 / 20.0).exp()).collect();
        let sum: f64 = weights.iter().sum();
        Table { joint: weights.into_iter().map(|w| w / sum).collect() }
    }

    fn text(i: usize) -> Vec<u32> {
        (0..LENGTH).map(|l| (i / TOKENS.pow(l as u32) % TOKENS) as u32).collect()
    }

    /// The distribution [V] of position `l` given the tokens that are not the mask.
    fn posterior(&self, x: &[u32], l: usize) -> Vec<f64> {
        let mut p = vec![0.0; TOKENS];
        for (i, q) in self.joint.iter().enumerate() {
            let text = Self::text(i);
            if x.iter().zip(&text).all(|(x, t)| *x as usize == TOKENS || x == t) {
                p[text[l] as usize] += q;
            }
        }
        let sum: f64 = p.iter().sum();
        p.into_iter().map(|p| p / sum).collect()
    }

    /// The probability that the sampler writes each text when these groups are revealed one after the other, by enumeration of all
    /// that it may write on its way.
    fn enumerated(&self, groups: &[Vec<usize>]) -> Vec<f64> {
        let mut reached: HashMap<Vec<u32>, f64> = HashMap::from([(vec![TOKENS as u32; LENGTH], 1.0)]);
        for group in groups {
            let mut next: HashMap<Vec<u32>, f64> = HashMap::new();
            for (x, p) in reached {
                let each: Vec<Vec<f64>> = group.iter().map(|l| self.posterior(&x, *l)).collect();
                for choice in 0..TOKENS.pow(group.len() as u32) {
                    let (mut y, mut q) = (x.clone(), p);
                    for (n, l) in group.iter().enumerate() {
                        let token = choice / TOKENS.pow(n as u32) % TOKENS;
                        y[*l] = token as u32;
                        q *= each[n][token];
                    }
                    *next.entry(y).or_default() += q;
                }
            }
            reached = next;
        }
        (0..self.joint.len()).map(|i| reached[&Self::text(i)]).collect()
    }
}

impl Denoise for Table {
    fn features(&self, input: &Noised) -> Tensor<3> {
        let [b, l] = input.dims();
        let ids = input.host_ids();
        let rows = ids.chunks(l).flat_map(|x| (0..l).flat_map(|at| self.posterior(x, at)).collect::<Vec<_>>());
        let values: Vec<f64> = rows.map(|p| p.max(1e-300).ln()).collect();
        Tensor::<3>::from_data(TensorData::new(values, [b, l, TOKENS]), (&Device::flex(), burn::tensor::DType::F64))
    }

    fn features_cached(&self, _: &Noised, _: Range<usize>, _: &mut Cache) -> Tensor<3> {
        panic!("it keeps nothing")
    }

    fn predict(&self, rows: Tensor<2>) -> Tensor<2> {
        rows
    }

    fn vocab(&self) -> usize {
        TOKENS
    }

    fn device(&self) -> Device {
        Device::flex()
    }
}

/// Phases of the small language, each with the groups it reveals.
fn small() -> Vec<(Order, Vec<Vec<usize>>)> {
    let list = fewstep::process::order::phases::List::new(&[1, 0, 2, 1, 2]).unwrap();
    vec![
        (Order::in_phases(Pattern::Strided(2), LENGTH), vec![vec![0, 2, 4], vec![1, 3]]),
        (Order::in_phases(Pattern::Strided(3), LENGTH), vec![vec![0, 3], vec![1, 4], vec![2]]),
        (Order::in_phases(Pattern::Dilated(4), LENGTH), vec![vec![0, 4], vec![2], vec![1], vec![3]]),
        (Order::in_phases(Pattern::Listed(list), LENGTH), vec![vec![1], vec![0, 3], vec![2, 4]]),
    ]
}

#[test]
fn the_samplers_likelihood_in_phases_is_that_of_an_enumeration_of_all_it_may_write() {
    let table = Table::new();
    let all: Vec<Vec<u32>> = (0..table.joint.len()).map(Table::text).collect();
    for (order, groups) in small() {
        let want = table.enumerated(&groups);
        assert!((want.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let got = nll(&table, &process(order, false, LENGTH), groups.len(), &all, 2).unwrap().unwrap();
        assert_eq!((got.kind, got.n, got.spread), (Bound::Exact, all.len(), None));
        for (nll, p) in got.texts.iter().zip(&want) {
            assert!((nll * LENGTH as f64 + p.ln()).abs() < 1e-9, "{order:?}: {nll} for {}", -p.ln() / LENGTH as f64);
        }
    }
}

#[test]
fn samples_in_phases_are_as_frequent_as_their_likelihood_says() {
    let table = Table::new();
    let n = 60_000;
    for (order, groups) in small() {
        let spec = SampleSpec::new(groups.len(), 5, 2000);
        let drawn = sample(&table, &process(order, false, LENGTH), &spec, n).unwrap();
        let mut counts: HashMap<Vec<u32>, usize> = HashMap::new();
        drawn.tokens.into_iter().for_each(|text| *counts.entry(text).or_default() += 1);
        let (mut chi2, mut cells, mut rare) = (0.0, 0, (0.0, 0.0));
        for (i, p) in table.enumerated(&groups).into_iter().enumerate() {
            let (want, got) = (p * n as f64, counts.get(&Table::text(i)).copied().unwrap_or(0) as f64);
            match want < 10.0 {
                true => rare = (rare.0 + want, rare.1 + got),
                false => (chi2, cells) = (chi2 + (got - want).powi(2) / want, cells + 1),
            }
        }
        if rare.0 > 0.0 {
            (chi2, cells) = (chi2 + (rare.1 - rare.0).powi(2) / rare.0.max(1.0), cells + 1);
        }
        // Four standard deviations of a chi-square with so many degrees of freedom.
        let freedom = (cells - 1) as f64;
        assert!(chi2 < freedom + 4.0 * (2.0 * freedom).sqrt(), "{order:?}: {chi2} with {freedom} degrees of freedom");
    }
}

#[test]
fn a_drawn_partition_gives_a_bound_of_the_likelihood_with_its_spread() {
    let table = Table::new();
    let all: Vec<Vec<u32>> = (0..table.joint.len()).map(Table::text).collect();
    let parallel = process(Order::parallel(LENGTH), false, LENGTH);
    let got = nll(&table, &parallel, 2, &all, 400).unwrap().unwrap();
    assert_eq!(got.kind, Bound::Elbo);
    assert!(got.spread.is_some_and(|s| s > 0.01));
    // Every partition in two steps, as likely as one coin a position.
    let mut bound = vec![0.0; all.len()];
    let mut likelihood = vec![0.0; all.len()];
    let partitions = 1usize << LENGTH;
    for mask in 0..partitions {
        let part = |first: bool| (0..LENGTH).filter(|l| (mask >> l & 1 == 1) == first).collect::<Vec<_>>();
        for (i, p) in table.enumerated(&[part(true), part(false)]).into_iter().enumerate() {
            bound[i] -= p.ln() / (partitions * LENGTH) as f64;
            likelihood[i] += p / partitions as f64;
        }
    }
    let exact: Vec<f64> = likelihood.iter().map(|p| -p.ln() / LENGTH as f64).collect();
    assert!(mean(&bound) > mean(&exact) + 1e-3, "{} above {}", mean(&bound), mean(&exact));
    assert!((mean(&got.texts) - mean(&bound)).abs() < 3e-3, "{} for {}", mean(&got.texts), mean(&bound));
}

#[test]
fn the_loss_over_both_streams_is_the_sum_over_the_phases_of_the_same_weights() {
    let model = network(Visibility::Order);
    let x0: Vec<u32> = texts(3).concat();
    for (order, count) in orders() {
        let (loss, each) = method::evaluate(&model, &elbo(&x0, model.mask(), order));
        let phases = order.phases(L, &[]).unwrap();
        assert_eq!((phases.count(), each.len()), (count, x0.len()));
        let mut want = 0.0;
        for k in 0..count {
            let known = |at: usize| phases.phase(at % L).unwrap() < k;
            let xt: Vec<u32> = (0..x0.len()).map(|at| if known(at) { x0[at] } else { model.mask() }).collect();
            let t: Vec<f64> = (0..x0.len()).map(|at| f64::from(u8::from(!known(at)))).collect();
            let rows: Vec<usize> = (0..x0.len()).filter(|at| phases.phase(at % L) == Some(k)).collect();
            let loss = RowLoss {
                input: Noised::tokens(&xt, &t, L).in_order(&order, &[]),
                weights: vec![1.0 / x0.len() as f64; rows.len()],
                target: Target::Tokens(rows.iter().map(|at| x0[*at]).collect()),
                rows: rows.clone(),
                alpha: None,
            };
            let (value, phase) = method::evaluate(&model, &loss);
            want += value;
            for (at, value) in rows.iter().zip(phase) {
                assert!((each[*at] - value).abs() < 1e-5, "{order:?}, position {at}: {} for {value}", each[*at]);
            }
        }
        assert!((loss - want).abs() < 1e-5, "{order:?}: {loss} for {want}");
        // And the sampler's likelihood is both.
        let own = nll(&model, &process(order, true, L), count, &texts(3), 2).unwrap().unwrap();
        assert!((own.estimate.mean - want).abs() < 1e-5 && own.kind == Bound::Exact, "{order:?}");
    }
}

#[test]
fn a_composed_network_reads_phases_as_the_fused_one_does() {
    let x0: Vec<u32> = texts(2).concat();
    let fused = network(Visibility::Order);
    let composed = fused.clone().reconfigured(|c| c.composed = true);
    for (order, count) in orders() {
        let of = |model: &Transformer| method::evaluate(model, &elbo(&x0, model.mask(), order)).1;
        for (a, b) in of(&fused).into_iter().zip(of(&composed)) {
            assert!((a - b).abs() < 1e-5, "{order:?}: {a} for {b}");
        }
        let draw = |model: &Transformer| {
            sample(model, &process(order, true, L), &SampleSpec::new(count, 9, 3), 4).unwrap().tokens
        };
        assert_eq!(draw(&fused), draw(&composed), "{order:?}");
    }
}

#[test]
fn as_many_strides_as_positions_are_autoregression() {
    let (model, x0) = (network(Visibility::Order), texts(3).concat());
    let of = |order| method::evaluate(&model, &elbo(&x0, model.mask(), order)).1;
    for (a, b) in of(strided(L)).into_iter().zip(of(Order::left_to_right())) {
        assert!((a - b).abs() < 1e-5, "{a} for {b}");
    }
    let (phases, blocks) = (strided(L).grid(L, L).unwrap(), Order::left_to_right().grid(L, L).unwrap());
    assert!((0..=L).all(|k| phases.row(k) == blocks.row(k)));
    assert_eq!(phases.positions(Reading::Blocks), blocks.positions(Reading::Blocks));
    let draw = |order| sample(&model, &process(order, true, L), &SampleSpec::new(L, 9, 3), 5).unwrap();
    assert_eq!(drawn(&draw(strided(L))), drawn(&draw(Order::left_to_right())));
    assert_eq!(draw(strided(L)).positions, draw(Order::left_to_right()).positions);
}

fn drawn(samples: &Samples) -> (&Vec<Vec<u32>>, &Vec<Vec<Vec<u32>>>) {
    (&samples.tokens, &samples.trace)
}

#[test]
fn the_cache_of_phases_is_exact_given_positions_stay_and_the_formula_is_the_counted_cost() {
    let model = network(Visibility::Order);
    for (order, count) in orders() {
        for pinned in [Vec::new(), (0..L).map(|p| (p < 2 || p == 7).then_some(3)).collect::<Vec<_>>()] {
            let spec = SampleSpec { trace: true, pinned: pinned.clone(), ..SampleSpec::new(count, 9, 3) };
            let with = sample(&model, &process(order, true, L), &spec, 5).unwrap();
            let without = sample(&model, &process(order, false, L), &spec, 5).unwrap();
            assert_eq!(drawn(&with), drawn(&without), "{order:?}, {pinned:?}");
            for text in &with.tokens {
                let kept = |p: usize| pinned.get(p).is_none_or(|given| given.is_none_or(|id| text[p] == id));
                assert!((0..L).all(kept) && text.iter().all(|t| (*t as usize) < V));
            }
            let given: Vec<bool> = pinned.iter().map(Option::is_some).collect();
            let grid = order.grid_behind(L, count, &given).unwrap();
            for (samples, cached) in [(&with, true), (&without, false)] {
                let reading = reading(&model, &process(order, cached, L));
                assert!(samples.nfe.iter().all(|nfe| *nfe == grid.nfe()), "{order:?}");
                assert!(samples.positions.iter().all(|p| *p == grid.positions(reading)), "{order:?}, {cached}");
            }
            // Each phase once as noise and, but for the last one, once as text; what is given once.
            let phases = order.phases(L, &given).unwrap();
            let sizes: Vec<usize> = (0..phases.count()).map(|n| phases.ranks_of(n).len()).filter(|n| *n > 0).collect();
            let formula = 2 * sizes.iter().sum::<usize>() - sizes.last().unwrap() + phases.given();
            assert_eq!(grid.positions(Reading::Blocks), formula as u64, "{order:?}");
        }
    }
}

#[test]
fn a_network_that_sees_everything_is_sampled_in_phases_without_training() {
    let model = network(Visibility::Full);
    for (order, count) in orders() {
        let spec = SampleSpec { trace: true, ..SampleSpec::new(count, 9, 3) };
        let samples = sample(&model, &process(order, false, L), &spec, 4).unwrap();
        let phases = order.phases(L, &[]).unwrap();
        for trace in &samples.trace {
            for (k, x) in trace.iter().enumerate() {
                assert!((0..L).all(|l| (x[l] == model.mask()) == (phases.phase(l).unwrap() >= k)), "{order:?}, {k}");
            }
        }
        let own = nll(&model, &process(order, false, L), count, &texts(3), 2).unwrap().unwrap();
        assert!(own.kind == Bound::Exact && own.estimate.mean > 0.0);
    }
}

#[test]
fn as_many_phases_as_steps_are_sampled_where_the_number_is_left_open() {
    let model = network(Visibility::Full);
    let draw =
        |order, steps: usize| sample(&model, &process(order, false, L), &SampleSpec::new(steps, 9, 3), 4).unwrap();
    for k in [2, 3, 6] {
        assert_eq!(draw(strided(0), k).tokens, draw(strided(k), k).tokens);
        let open = nll(&model, &process(strided(0), false, L), k, &texts(2), 2).unwrap().unwrap();
        let fixed = nll(&model, &process(strided(k), false, L), k, &texts(2), 2).unwrap().unwrap();
        assert_eq!(open, fixed);
    }
    let few = strided(6).grid(L, 4).unwrap_err().to_string();
    assert!(few.contains("6 phases") && few.contains("use at least 6 steps"), "{few}");
}

#[test]
fn a_student_in_phases_is_taught_what_its_teacher_says_behind_the_same_text() {
    let (teacher, length) = (network(Visibility::Full), L);
    let x0: Vec<u32> = texts(6).concat();
    let config = |k: usize, data: f64| SdttConfig {
        teacher: "t".into(),
        divergence: fewstep::kernels::Divergence::ForwardKl,
        teacher_steps: 4,
        steps_per_step: k,
        rounds: 1,
        refresh: distill::Refresh::Raw,
        schedule: Schedule::LogLinear,
        data,
    };
    let orders = distill::Orders::of(strided(4), &[Order::parallel(L)], L).unwrap();
    let rows = |k, data| {
        distill::rows(&config(k, data), &teacher, &x0, length, 0.25, orders, StepRng::new(1).of_step(7)).unwrap()
    };
    let phases = strided(4).phases(L, &[]).unwrap();
    let loss = rows(1, 0.0);
    for (i, xt) in loss.input.token_ids().chunks(L).enumerate() {
        let own: Vec<usize> = loss.rows.iter().filter(|r| *r / L == i).map(|r| r % L).collect();
        let k = phases.phase(own[0]).unwrap();
        assert!(own.iter().all(|l| phases.phase(*l) == Some(k)) && own.len() == 3);
        assert!((0..L).all(|l| xt[l] == if phases.phase(l).unwrap() < k { x0[i * L + l] } else { teacher.mask() }));
        // A student of the teacher's own predictions has nothing to learn.
    }
    let (value, _) = method::evaluate(&teacher, &loss);
    assert!(value.abs() < 1e-6, "{value}");
    // Behind its own draws the teacher says something else; and the data's tokens have their share.
    assert!(method::evaluate(&teacher, &rows(3, 0.0)).0 > 1e-6);
    let (half, whole) = (method::evaluate(&teacher, &rows(1, 0.5)).0, method::evaluate(&teacher, &rows(1, 1.0)).0);
    assert!((half - 0.5 * whole).abs() < 1e-6 && whole > 0.5, "{half} and {whole}");
    // Gradients reach every weight of the blocks through a network that reads phases.
    let student = Transformer::init(
        &TransformerConfig { learned_positions: true, ..TransformerConfig::new(16, 3, 2, Visibility::Order) },
        V,
        L,
        5,
        &Device::flex().autodiff(),
    );
    let (value, grads) = method::backward(&student, &rows(2, 0.3));
    assert!(value.is_finite() && params::gradient_norm(&student, &grads) > 0.0);
}

#[test]
fn uniforms_that_are_shared_reach_every_position_of_a_step_and_change_nothing_before_it_is_trained() {
    let config = TransformerConfig {
        learned_positions: true,
        uniforms: true,
        ..TransformerConfig::new(16, 3, 2, Visibility::Order)
    };
    let new = Transformer::init(&config, V, L, 3, &Device::flex());
    let (order, spec) = (strided(4), SampleSpec { trace: true, ..SampleSpec::new(4, 9, 3) });
    let draw = |model: &Transformer, cached| sample(model, &process(order, cached, L), &spec, 5).unwrap();
    assert_eq!(draw(&new, true).tokens, draw(&network(Visibility::Order), true).tokens);
    // With weights of its own.
    let mut named = params::export(&new);
    let weight = named.get_mut("uniforms.weight").unwrap();
    weight.data.iter_mut().enumerate().for_each(|(i, w)| *w = ((i * 29 % 17) as f32 - 8.0) / 10.0);
    let told = params::import(new, &named, &Device::flex());
    assert_ne!(draw(&told, true).tokens, draw(&network(Visibility::Order), true).tokens);
    assert_eq!(drawn(&draw(&told, true)), drawn(&draw(&told, false)), "the cache is exact");
    // One uniform of a phase moves what is predicted of another position of it, and of none in an earlier one.
    let phases = order.phases(L, &[]);
    let predicted = |moved: usize| {
        let uniforms = (0..L).map(|l| if l == moved { 0.9 } else { 0.2 }).collect();
        let input = Noised::tokens(&[V as u32; L], &[1.0; L], L).in_phases(phases.clone());
        params::floats(told.predict(told.features_at(&Noised { uniforms: Some(uniforms), ..input }, &[4])))
    };
    let (none, same, later) = (predicted(L), predicted(8), predicted(5));
    let far = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far(&none, &same) > 1e-4 && far(&none, &later) == 0.0);
    assert!(nll(&told, &process(order, true, L), 4, &texts(2), 2).unwrap().is_none());
}

#[test]
fn uniforms_that_are_recovered_lie_between_the_borders_of_their_tokens_in_the_finer_model() {
    use fewstep::method::shared;
    let finer = network(Visibility::Order);
    let x0: Vec<u32> = texts(4).concat();
    let coarse =
        Order::in_phases(Pattern::Listed(fewstep::process::order::phases::List::new(&[0, 0, 1, 1]).unwrap()), L);
    let fine = shared::finer(coarse, &[strided(2), strided(4)], L).unwrap();
    assert_eq!(fine, strided(4));
    let loss = shared::rows(&finer, fine, coarse, &x0, L, Schedule::LogLinear, StepRng::new(1).of_step(3)).unwrap();
    let uniforms = loss.input.uniforms.clone().unwrap();
    // Each lies between the borders of its token in the finer model's prediction behind all finer phases before.
    let asked = elbo(&x0, finer.mask(), fine);
    let scores = params::floats(finer.predict(finer.features_at(&asked.input, &asked.rows)));
    for ((at, row), u) in asked.rows.iter().zip(scores.chunks(V)).zip(&uniforms) {
        let below: f64 = row[..x0[*at] as usize].iter().map(|s| f64::from(s.exp())).sum();
        let own = f64::from(row[x0[*at] as usize].exp());
        assert!(*u > below - 1e-5 && *u < below + own + 1e-5, "{u} outside of {below} + {own}");
    }
    assert_eq!((loss.rows.len(), loss.weights[0]), (x0.len(), 1.0 / x0.len() as f64));
}

/// Texts of pairs: an even position holds any token, and the next one the same.
fn pairs(seed: u64, n: usize) -> Vec<u32> {
    use rand::Rng;
    let mut rng = StepRng::new(seed).at(0, Stream::Batch);
    (0..n * L / 2).flat_map(|_| [rng.random_range(0..V as u32); 2]).collect()
}

/// A network trained for `steps` steps on the rows that `rows` makes of a batch.
fn trained(model: Transformer, steps: usize, rows: impl Fn(&Transformer, &[u32], u64) -> RowLoss) -> Transformer {
    use fewstep::optim::{Optimizer, TrainConfig};
    let config: TrainConfig = toml::from_str(&format!("steps = {steps}\nbatch = 16\nlr = 5e-3\nwarmup = 5")).unwrap();
    let (mut model, mut optimizer) = (model.clone(), Optimizer::new(&model, false));
    for step in 0..steps {
        let (_, grads) = method::backward(&model, &rows(&model, &pairs(step as u64, 16), step as u64));
        model = optimizer.step(model, grads, &config, step, 1.0);
    }
    model
}

#[test]
fn positions_of_one_step_that_share_their_uniforms_agree_where_independent_ones_do_not() {
    use fewstep::method::shared;
    let network = |uniforms: bool| {
        let config = TransformerConfig {
            learned_positions: true,
            uniforms,
            ..TransformerConfig::new(32, 2, 2, Visibility::Order)
        };
        Transformer::init(&config, V, L, 3, &Device::flex().autodiff())
    };
    // In two phases the second position of a pair sees the first; in one step both are drawn at once.
    let (fine, coarse) = (strided(2), strided(1));
    let finer = trained(network(false), 150, |model, x0, _| elbo(x0, model.mask(), fine)).valid();
    let plain = trained(network(false), 60, |model, x0, _| elbo(x0, model.mask(), coarse)).valid();
    let told = trained(network(true), 400, |_, x0, step| {
        shared::rows(&finer, fine, coarse, x0, L, Schedule::LogLinear, StepRng::new(1).of_step(step)).unwrap()
    })
    .valid();
    let agree = |model: &Transformer, order: Order, steps: usize| {
        let drawn = sample(model, &process(order, true, L), &SampleSpec::new(steps, 5, 32), 128).unwrap().tokens;
        let same = drawn.iter().flat_map(|text| text.chunks(2)).filter(|pair| pair[0] == pair[1]).count();
        same as f64 / (128 * L / 2) as f64
    };
    let (two, one, shared) = (agree(&finer, fine, 2), agree(&plain, coarse, 1), agree(&told, coarse, 1));
    assert!(two > 0.95 && one < 0.3, "two steps {two}, one step {one}");
    assert!(shared > 0.6, "one step with shared uniforms {shared}, without {one}");
}

#[test]
fn a_network_that_is_told_the_time_reads_phases_by_place_and_by_share() {
    use fewstep::model::config::TimeInput;
    // Over phases each position has its own time: noise 1 and text 0, wherever it stands.
    let by_place = TransformerConfig {
        learned_positions: true,
        time: TimeInput::Position,
        ..TransformerConfig::new(16, 3, 2, Visibility::Order)
    };
    let mut named = params::export(&Transformer::init(&by_place, V, L, 3, &Device::flex()));
    for (name, tensor) in named.iter_mut().filter(|(name, _)| name.contains("modulation")) {
        let from = name.len();
        tensor.data.iter_mut().enumerate().for_each(|(i, w)| *w = ((i * 31 + from) % 13) as f32 / 60.0 - 0.1);
    }
    let timed = params::import(Transformer::init(&by_place, V, L, 3, &Device::flex()), &named, &Device::flex());
    for (order, count) in orders() {
        let spec = SampleSpec { trace: true, ..SampleSpec::new(count, 9, 3) };
        let draw = |cached| sample(&timed, &process(order, cached, L), &spec, 4).unwrap();
        assert_eq!(drawn(&draw(true)), drawn(&draw(false)), "{order:?}");
        let own = nll(&timed, &process(order, true, L), count, &texts(2), 2).unwrap().unwrap();
        let both = method::evaluate(&timed, &elbo(&texts(2).concat(), timed.mask(), order)).0;
        assert!((own.estimate.mean - both).abs() < 1e-5, "{order:?}");
    }
    // One that sees everything is told the time at which as many positions are masked, and the same for all.
    let whole = network(Visibility::Full);
    let process = Process { schedule: Schedule::Cosine, ..process(strided(4), false, L) };
    let grid = process.order.grid(L, 4).unwrap();
    for (k, left) in [(0, 1.0), (1, 0.75), (3, 0.25)] {
        let told = fewstep::sample::evened(&whole, &process, &grid.row(k), &grid).unwrap();
        assert!(told.iter().all(|t| (Schedule::Cosine.alpha(*t) - (1.0 - left)).abs() < 1e-9), "{k}: {told:?}");
    }
}

#[test]
fn a_model_that_sees_everything_has_the_likelihood_of_token_by_token_too() {
    let model = network(Visibility::Full);
    let own = nll(&model, &process(Order::left_to_right(), false, L), L, &texts(2), 2).unwrap().unwrap();
    let mut want = 0.0;
    for text in texts(2) {
        for l in 0..L {
            let x: Vec<u32> = (0..L).map(|p| if p < l { text[p] } else { model.mask() }).collect();
            let input = Noised::tokens(&x, &[1.0; L], L);
            want -= f64::from(params::floats(model.predict(model.features_at(&input, &[l])))[text[l] as usize]);
        }
    }
    assert!((own.estimate.mean - want / (2 * L) as f64).abs() < 1e-5 && own.kind == Bound::Exact);
    // What stands behind a text's end does not count.
    let counted = |text: &[u32]| 0..text.len() / 2;
    for (model, order, cached) in [(&model, strided(4), false), (&network(Visibility::Order), strided(4), true)] {
        let process = process(order, cached, L);
        let of = |counted: &dyn Fn(&[u32]) -> std::ops::Range<usize>| {
            sampler::nll(model, &process, 4, Texts { tokens: &texts(2), counted, batch: 8 }, 2).unwrap().unwrap()
        };
        let (half, whole) = (of(&counted), of(&sampler::whole));
        let other = of(&|text: &[u32]| text.len() / 2..text.len());
        for i in 0..2 {
            assert!((half.texts[i] + other.texts[i] - 2.0 * whole.texts[i]).abs() < 1e-5);
        }
    }
}

/// Every kind of student with phases, in one study of seconds.
const STUDY: &str = r#"
name = "phases"
seed = 1
[data.story]
names = 2
things = 2
places = 1
count = 3
[model.teacher]
order = "parallel"
decode = [{ order = "parallel" }, { order = { strided = 0 } }, { order = { dilated = 4 } }]
objective.elbo = {}
network = { dim = 32, layers = 1, heads = 2, visibility = "full", learned_positions = true }
train = { steps = 12, batch = 8, lr = 5e-3, clip = 1.0, save_every = 6 }
[model.more]
start = "teacher"
order = "parallel"
objective.elbo = {}
train = { steps = 6, batch = 8, lr = 5e-3 }
[model.mixed]
start = "teacher"
order = { mixture = [{ strided = 2 }, { strided = 4 }, { strided = 8 }] }
objective.elbo = {}
network = { dim = 32, layers = 1, heads = 2, visibility = "order", learned_positions = true }
train = { steps = 12, batch = 8, lr = 5e-3, ema = 0.9, save_every = 5 }
[model.taught]
order = { strided = 4 }
objective.sdtt = { teacher = "teacher", rounds = 1, divergence = "forward_kl", data = 0.5 }
network = { dim = 32, layers = 1, heads = 2, visibility = "order", learned_positions = true }
train = { steps = 12, batch = 8, lr = 5e-3, save_every = 5 }
[model.pairs]
order = { phases = [0, 0, 1, 1, 2, 2, 3, 3] }
objective.elbo = { shared = { finer = "mixed" } }
network = { dim = 32, layers = 1, heads = 2, visibility = "order", learned_positions = true, uniforms = true }
train = { steps = 12, batch = 8, lr = 5e-3, save_every = 5 }
[model.alpha]
start = "mixed"
order = { strided = 4 }
objective.elbo = { alpha = { group = 2, power = 0.5 } }
train = { steps = 12, batch = 8, lr = 5e-3, save_every = 5 }
[eval]
samples = 8
batch = 8
steps = [2, 4, 8]
held_out = 8
sampler = { texts = 8, partitions = 3 }
speed_repeats = 1
[export]
models = ["mixed", "pairs"]
"#;

#[test]
fn a_study_of_students_in_phases_runs_resumes_and_says_what_held_out_text_costs() {
    let place = Place::new();
    place.write("phases.toml", STUDY);
    place.run(&["recipe", "check", "phases.toml"]).ok();
    place.run(&["run", "phases.toml", "--out", "whole", "--threads", "1"]).ok();
    let read = |out: &str| fewstep::eval::results::Results::load(&place.path(out).join("results.json")).unwrap();
    let results = read("whole");
    let steps = |name: &str| results.model(name).unwrap().rows.iter().map(|r| r.steps).collect::<Vec<_>>();
    assert_eq!((steps("teacher: strided"), steps("teacher: dilated 4")), (vec![2, 4, 8], vec![4]));
    assert_eq!((steps("mixed: strided 8"), steps("taught"), steps("pairs")), (vec![8], vec![4], vec![4]));
    for model in &results.models {
        for row in &model.rows {
            let own = row.sampler_nll.as_ref();
            match &model.name[..] {
                "pairs" => assert!(own.is_none()),
                "teacher: parallel" | "more" | "oracle" => {
                    assert!(own.is_some_and(|s| s.kind == Bound::Elbo && s.spread.is_some()), "{}", model.name)
                }
                _ => assert!(own.is_some_and(|s| s.kind == Bound::Exact && s.texts.len() == 8), "{}", model.name),
            }
        }
    }
    assert_eq!(results.model("mixed: strided 4").unwrap().teacher.as_deref(), Some("teacher: strided"));
    let report = std::fs::read_to_string(place.path("whole/report/report.md")).unwrap();
    assert!(report.contains("sampler nll ↓") && report.contains("over partitions") && report.contains("sampler_steps"));
    // What is only a bound is drawn as one, beside what is exact.
    let figure = std::fs::read_to_string(place.path("whole/report/sampler_steps.svg")).unwrap();
    assert!(figure.contains("dashed curve: an upper bound"));
    let figures = fewstep::report::contents::figures(&results);
    let own = figures.iter().find(|f| f.name == "sampler_steps").unwrap();
    let bound = |name: &str| own.series.iter().find(|s| s.name == name).unwrap().bound;
    assert_eq!((bound("teacher: parallel"), bound("teacher: strided"), bound("taught")), (true, false, false));
    // Cut back to a checkpoint, each student ends in the same weights.
    place.run(&["run", "phases.toml", "--out", "cut", "--threads", "1"]).ok();
    for name in ["mixed", "taught", "pairs", "alpha"] {
        let dir = place.path("cut/models").join(name);
        std::fs::remove_dir_all(dir.join("final")).unwrap();
        std::fs::remove_dir_all(dir.join("step-000012")).unwrap();
    }
    place.run(&["run", "phases.toml", "--out", "cut", "--threads", "1"]).ok();
    for (a, b) in results.models.iter().zip(&read("cut").models) {
        assert_eq!((&a.name, &a.weights_sha256), (&b.name, &b.weights_sha256));
        assert_eq!(a.rows[0].samples, b.rows[0].samples);
    }
    // The gate sees it, and any masked model is sampled in phases.
    place.run(&["gate", "cut/results.json", "--baseline", "whole/results.json"]).ok();
    let drawn = place
        .run(&["sample", "whole", "--model", "teacher", "-n", "1", "--decode", "{ order = { strided = 4 } }"])
        .ok();
    assert!(!drawn.out.is_empty());
    place.run(&["sample", "whole", "--model", "mixed", "-n", "1"]).ok();
    place.run(&["sample", "whole/export/pairs", "-n", "1"]).ok();
    let searched =
        ["phases", "whole", "--model", "teacher", "--steps", "3", "--period", "4", "--texts", "4", "--tries", "9"];
    let found = place.run(&searched).ok();
    assert!(found.out.contains("searched") && found.out.contains("order = { phases = [0, 1, 2, 0] }"), "{}", found.out);
    let wrong = place.run(&["phases", "whole", "--model", "mixed", "--steps", "3"]);
    assert!(wrong.code == 2 && wrong.err.contains("such as the one that students in phases start as"), "{}", wrong.err);
    // What the hint says is walked; only no change is tried, to be quick.
    let wrong = place.run(&["phases", "whole", "--model", "teacher", "--steps", "33", "--texts", "2", "--tries", "0"]);
    let hint = wrong.err.split("for instance `").nth(1).unwrap().split('`').next().unwrap();
    let follow = ["phases", "whole", "--model", "teacher", "--texts", "2", "--tries", "0"];
    assert_eq!(wrong.code, 2);
    place.run(&[&follow[..], &hint.split(' ').collect::<Vec<_>>()[..]].concat()).ok();
    place.run(&["phases", "whole", "--model", "teacher", "--steps", "3", "--texts", "0"]).fails(2, &["--texts"]);
    // Of a mixture the order with as many phases as steps is taken; as many steps as no order has phases are refused.
    let drawn = place.run(&["sample", "whole", "--model", "mixed", "-n", "1", "--steps", "8"]).ok();
    assert!(drawn.err.contains("8 steps, 8.0 passes"), "{}", drawn.err);
    place.run(&["sample", "whole", "--model", "mixed", "-n", "1", "--steps", "16"]).fails(2, &["16 steps", "2 phases"]);
}

/// What stands between accents in a hint.
fn ticked(err: &str) -> Vec<&str> {
    err[err.find("hint:").unwrap()..].split('`').skip(1).step_by(2).collect()
}

#[test]
fn phases_that_cannot_be_trained_or_read_are_refused_with_a_hint_that_works() {
    let place = Place::new();
    let check = |text: &str, more: &[&str]| {
        place.write("phases.toml", text);
        place.run(&[&["recipe", "check", "phases.toml"], more].concat())
    };
    let network = "network = { dim = 32, layers = 1, heads = 2, visibility = \"order\", learned_positions = true }";
    // What is written, what it becomes, what is said of it, and how the hint is followed: as a setting, or in its place.
    enum Follow {
        Set,
        Write(&'static str),
        Words,
    }
    for (from, to, says, follow) in [
        (
            "order = { strided = 4 }\nobjective.sdtt",
            "order = { strided = 0 }\nobjective.sdtt",
            "as many phases as there are steps",
            Follow::Write("order = { strided = 8 }\nobjective.sdtt"),
        ),
        ("rounds = 1", "rounds = 2", "the number of phases stays the same", Follow::Set),
        ("finer = \"mixed\"", "finer = \"teacher\"", "has no fixed phases", Follow::Words),
        (
            "learned_positions = true, uniforms = true",
            "learned_positions = true",
            "reads the uniforms that it learns to follow",
            Follow::Set,
        ),
        (
            network,
            "network = { dim = 32, layers = 1, heads = 2, visibility = \"order\", learned_positions = true, uniforms = true }",
            "nothing else tells the network uniforms",
            Follow::Words,
        ),
        (
            "visibility = \"order\", learned_positions = true, uniforms = true",
            "visibility = \"full\", learned_positions = true, uniforms = true",
            "shared by the positions",
            Follow::Set,
        ),
        (
            network,
            "network = { dim = 32, layers = 2, heads = 2, visibility = \"order\", learned_positions = true, encoder_layers = 1 }",
            "",
            Follow::Words,
        ),
        ("start = \"mixed\"", "start = \"alpha\"", "names the model itself", Follow::Words),
        ("start = \"mixed\"", "start = \"mixt\"", "did you mean `mixed`", Follow::Words),
        (
            "{ order = { dilated = 4 } }",
            "{ order = { within = { block = 4, order = { blocks = 2 } } } }",
            "has an order inside",
            Follow::Write("{ order = { within = { block = 32, order = { strided = 4 } } } }"),
        ),
        (
            "{ order = { dilated = 4 } }",
            "{ order = { phases = [] } }",
            "needs 1 to 128 phases",
            Follow::Write("{ order = { phases = [0, 2, 1, 2] } }"),
        ),
        ("alpha = { group = 2", "alpha = { group = 1", "between 2 and 64", Follow::Words),
    ] {
        let text = STUDY.replacen(from, to, 1);
        assert_ne!(text, STUDY, "{from}");
        let ran = check(&text, &[]);
        assert!(ran.code == 2 && ran.err.contains(says), "{to}: {}", ran.err);
        assert!(ran.err.contains("hint:") && ran.err.contains("phases.toml"), "{to}: {}", ran.err);
        let hint = ticked(&ran.err);
        match follow {
            Follow::Words => {}
            Follow::Set => drop(check(&text, &["--set", hint[0]]).ok()),
            Follow::Write(mended) => {
                assert!(mended.contains(hint[0]), "{hint:?} in {mended}");
                check(&STUDY.replacen(from, mended, 1), &[]).ok();
            }
        }
    }
    // A network that predicts otherwise than it reads.
    let text = STUDY.replacen(network, &network.replace(" }", ", shift_output = true }"), 1).replacen(
        "visibility = \"full\"",
        "visibility = \"full\", shift_output = true",
        1,
    );
    let ran = check(&text, &[]);
    assert!(ran.code == 2, "{}", ran.err);
}
