use std::sync::Arc;

use burn::prelude::Device;
use rand::Rng;

use super::super::stats;
use super::*;
use crate::data::story::StoryConfig;
use crate::model::{Oracle, Transformer, TransformerConfig};
use crate::process::{Corruption, Order, Schedule};
use crate::rng::{StepRng, Stream};

fn noisy_story(noise: f64) -> Story {
    Story::new(&StoryConfig { names: 2, things: 2, places: 1, count: 3, noise }).unwrap()
}

fn story() -> Story {
    noisy_story(1e-3)
}

fn texts(story: &Story, n: u64) -> Vec<Vec<u32>> {
    (0..n).map(|i| story.sample(&mut StepRng::new(9).at(i, Stream::Validation))).collect()
}

fn process(order: Order, length: usize, cached: bool) -> Process {
    Process {
        order,
        schedule: Schedule::LogLinear,
        corruption: Corruption::Absorb,
        length,
        cached,
        chain: None,
        decode: crate::sample::Decode::Table,
    }
}

fn oracle(story: &Story) -> Oracle {
    Oracle::new(Arc::clone(story.chain()), Device::flex())
}

fn network(story: &Story, rest: &str) -> Transformer {
    let config: TransformerConfig = toml::from_str(&format!("dim = 16\nlayers = 2\nheads = 2\n{rest}")).unwrap();
    Transformer::init(&config, story.vocab(), story.length(), 3, &Device::flex())
}

fn config(gap: usize, errors: usize, steps: usize) -> FlexibilityConfig {
    FlexibilityConfig { samples: 2, gap, errors, steps }
}

/// How many standard errors the mean of a - b is from 0.
fn apart(task: &Task, a: &str, b: &str) -> f64 {
    let diff: Vec<f64> = task.samples[a].iter().zip(&task.samples[b]).map(|(a, b)| a - b).collect();
    let (n, mean) = (diff.len() as f64, stats::mean(&diff));
    let variance = diff.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0);
    mean / (variance / n).sqrt()
}

#[test]
fn the_oracle_reaches_the_entropy_of_the_posterior_where_it_draws_one_position_at_a_time() {
    // Noise that is seen in some hundred draws: rarer one would be in the entropy and not in the draws.
    let s = noisy_story(0.1);
    let (texts, oracle, l) = (texts(&s, 500), oracle(&s), s.length());
    for (order, gap) in [(Order::parallel(l), 1), (Order::left_to_right(), 6)] {
        let found = measure(&oracle, &process(order, l, false), &config(gap, 1, 1), 1, 32, &texts, Some(&s)).unwrap();
        assert_eq!((found.sees, found.infill.n), (Sees::Whole, 500));
        for (own, best) in [("nll", "posterior_entropy"), ("accuracy", "oracle_accuracy")] {
            let z = apart(&found.infill, own, best);
            assert!(z.abs() < 4.0, "gap {gap}: {own} is {z} standard errors from {best}");
        }
        assert!(found.infill.scores["posterior_entropy"].mean > 0.02);
        assert!((found.infill.nfe - gap as f64).abs() < 1e-12, "{}", found.infill.nfe);
    }
}

#[test]
fn a_gap_filled_at_once_by_the_oracle_costs_more_than_the_entropy_of_the_posterior() {
    let s = story();
    let (texts, oracle, l) = (texts(&s, 200), oracle(&s), s.length());
    let at_once = measure(&oracle, &process(Order::parallel(l), l, false), &config(20, 1, 1), 1, 32, &texts, Some(&s));
    let found = at_once.unwrap().infill;
    assert!(apart(&found, "nll", "posterior_entropy") > 4.0 && found.scores["valid"].mean < 0.9);
}

#[test]
fn the_entropy_of_a_posterior_equals_the_sum_over_all_fills() {
    let s = story();
    let (chain, v) = (s.chain(), s.vocab() as u32);
    let text = &texts(&s, 1)[0];
    let hidden = [2usize, 3];
    let visible: Vec<Option<u32>> = (0..text.len()).map(|l| (!hidden.contains(&l)).then(|| text[l])).collect();
    let rest = chain.log_marginal(&visible);
    let mut want = 0.0;
    for (a, b) in (0..v).flat_map(|a| (0..v).map(move |b| (a, b))) {
        let mut filled = text.clone();
        (filled[2], filled[3]) = (a, b);
        let log = chain.log_likelihood(&filled) - rest;
        want -= log.exp() * log;
    }
    let draws = |i: u64| StepRng::new(4).at(i, Stream::Token);
    let all: Vec<f64> = (0..400).map(|i| tasks::posterior_entropy(chain, &visible, &mut draws(i))).collect();
    let (mean, n) = (stats::mean(&all), all.len() as f64);
    let error = (all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n / n).sqrt();
    assert!((mean - want).abs() < 4.0 * error + 1e-9, "{mean} for {want}, standard error {error}");
}

#[test]
fn looking_back_a_network_fills_the_gap_the_same_whatever_is_right_of_it() {
    let s = story();
    let l = s.length();
    let mut rng = StepRng::new(2).at(0, Stream::Validation);
    for (network, order, gap, own_until) in [
        (network(&s, "visibility = \"causal\"\nshift = true"), Order::left_to_right(), 5..9, 9),
        (network(&s, "visibility = { blocks = 8 }"), Order::in_blocks(8), 9..13, 16),
    ] {
        let process = process(order, l, true);
        for text in texts(&s, 6) {
            let mut other = text.clone();
            other[own_until..].iter_mut().for_each(|t| *t = rng.random_range(0..s.vocab() as u32));
            let fill = |text: &[u32]| tasks::fill_gap(&network, &process, text, &gap, 4, 77).unwrap().0;
            let (a, b) = (fill(&text), fill(&other));
            assert_eq!(a[gap.clone()], b[gap.clone()]);
            assert!((0..l).filter(|p| !gap.contains(p)).all(|p| a[p] == text[p] && b[p] == other[p]));
        }
    }
    // What sees everything does not: the oracle knows the name from what stands behind.
    let (oracle, parallel) = (oracle(&s), process(Order::parallel(l), l, false));
    let differs = texts(&s, 12).windows(2).any(|pair| {
        let fill = |text: &[u32]| tasks::fill_gap(&oracle, &parallel, text, &(0..1), 4, 77).unwrap().0[0];
        fill(&pair[0]) != fill(&pair[1])
    });
    assert!(differs);
}

#[test]
fn words_stay_wrong_without_remasking_and_the_oracle_takes_them_back_with_it() {
    let s = story();
    let (texts, l) = (texts(&s, 60), s.length());
    let at = process(Order::parallel(l), l, false);
    let run =
        |model: &dyn Denoise, at: &Process| measure(model, at, &config(4, 2, 32), 3, 8, &texts, Some(&s)).unwrap();
    let found = run(&oracle(&s), &at);
    let remasked = found.remasked.unwrap();
    let mean = |task: &Task, key: &str| task.scores[key].mean;
    assert_eq!((mean(&found.recovery, "gone"), mean(&found.recovery, "kept")), (0.0, 1.0));
    assert!(mean(&found.recovery, "valid") < 0.2, "{}", mean(&found.recovery, "valid"));
    assert!(mean(&remasked, "gone") > 0.9 && mean(&remasked, "kept") > 0.9, "{:?}", remasked.scores);
    assert!(remasked.scores["nll"].wholly_below(found.recovery.scores["nll"]));
    // Of an untrained network the least likely words are any words.
    let any = run(&network(&s, "visibility = \"full\""), &at).remasked.unwrap();
    assert!(mean(&any, "gone") < 0.5, "{:?}", any.scores);
    // And one that looks back only has nothing to look with.
    let ar = network(&s, "visibility = \"causal\"\nshift = true");
    let found = run(&ar, &process(Order::left_to_right(), l, true));
    assert!(found.remasked.is_none() && found.sees == Sees::Left && mean(&found.recovery, "gone") == 0.0);
}

#[test]
fn the_oracle_finds_each_word_as_likely_as_its_posterior_says() {
    let s = story();
    let (text, l) = (texts(&s, 1).remove(0), s.length());
    let (looks, likely) = tasks::leave_one_out(&oracle(&s), &process(Order::parallel(l), l, false), &text, 5);
    assert_eq!(looks, l);
    for (p, found) in likely.iter().enumerate() {
        let visible: Vec<Option<u32>> = (0..l).map(|q| (q != p).then(|| text[q])).collect();
        let want = s.chain().posterior(&visible)[p * s.vocab() + text[p] as usize].ln();
        assert!((found - want).abs() < 1e-5, "{found} for {want} at {p}");
    }
    assert_eq!(tasks::least(&[0.0, -3.0, -1.0, -3.0], 3), [1, 3, 2]);
}

#[test]
fn a_network_over_blocks_asks_for_a_word_as_it_would_draw_it() {
    let s = story();
    let l = s.length();
    for rest in ["visibility = \"order\"", "visibility = \"order\"\nencoder_layers = 1"] {
        let (network, at) = (network(&s, rest), process(Order::in_blocks(8), l, true));
        let text = texts(&s, 1).remove(0);
        let likely = tasks::leave_one_out(&network, &at, &text, 32).1;
        for p in [0, 9, 31] {
            // Behind the finished blocks in the cache, as the sampler reads.
            let mut x = text.clone();
            let mut t = vec![0.0; l];
            (x[p], t[p]) = (network.mask(), 1.0);
            let block = p / 8 * 8..p / 8 * 8 + 8;
            let input = crate::model::Noised::tokens(&x, &t, l).in_blocks(at.order.layout());
            let features = network.features_cached(&input, 0..block.end, &mut crate::model::Cache::default());
            let row = crate::model::select_rows(features, &[p]);
            let want = crate::model::params::floats(network.predict(row))[text[p] as usize];
            assert!((likely[p] - f64::from(want)).abs() < 1e-4, "{rest}: {} for {want} at {p}", likely[p]);
        }
    }
}

#[test]
fn places_and_planted_words_are_a_function_of_seed_and_text_and_lie_where_they_should() {
    let s = story();
    let mut starts = Vec::new();
    for (i, text) in texts(&s, 40).iter().enumerate() {
        let draws = Draws { seed: 5, text: i as u64 };
        let gap = draws.gap(text.len(), 8);
        assert_eq!(gap, draws.gap(text.len(), 8));
        assert!(gap.len() == 8 && gap.end <= text.len());
        starts.push(gap.start);
        let damage = draws.damage(text, 3, s.vocab() as u32);
        let changed: Vec<usize> = (0..text.len()).filter(|l| damage.text[*l] != text[*l]).collect();
        assert_eq!((changed.len(), &changed), (3, &damage.at));
        assert!(damage.at.iter().all(|l| *l < text.len() / 2) && damage.text.iter().all(|t| *t < s.vocab() as u32));
    }
    starts.sort_unstable();
    starts.dedup();
    assert!(starts.len() > 10, "{starts:?}");
}

#[test]
fn steps_of_a_block_become_those_of_the_whole_text() {
    let count = |order: Order| tasks::all_steps(&order, 12, 4);
    assert_eq!(count(Order::parallel(12)), 4);
    assert_eq!((count(Order::in_blocks(4)), count(Order::left_to_right())), (12, 12));
    assert_eq!(count(Order { text: 2, ..Order::in_blocks(4) }), 4 + 2 * 4);
    assert_eq!(count(Order { window: 2, ..Order::in_blocks(4) }), 8);
    let strided = |k: usize| Order::in_phases(crate::process::Pattern::Strided(k), 12);
    assert_eq!((count(strided(3)), count(strided(0))), (3, 4));
    for order in
        [Order::in_blocks(5), Order { text: 1, ..Order::in_blocks(3) }, Order { window: 3, ..Order::in_blocks(2) }]
    {
        let grid = order.grid(12, count(order)).unwrap();
        assert!((grid.steps_per_block() - 4.0).abs() < 1.0, "{order:?}: {}", grid.steps_per_block());
    }
}

#[test]
fn text_without_an_oracle_has_shares_alone() {
    let s = story();
    let (texts, l) = (texts(&s, 3), s.length());
    let network = network(&s, "visibility = \"full\"");
    let found =
        measure(&network, &process(Order::parallel(l), l, false), &config(4, 2, 2), 3, 8, &texts, None).unwrap();
    let keys = |task: &Task| task.scores.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&found.infill), ["accuracy"]);
    assert_eq!(keys(&found.recovery), ["gone", "restored", "kept"]);
    assert_eq!(
        found.tasks().map(|(key, task)| (key, task.n)).collect::<Vec<_>>(),
        [("infill", 3), ("recovery", 3), ("remasked", 3)]
    );
}

#[test]
fn tasks_that_do_not_fit_are_refused_with_the_key_and_what_would_fit() {
    for (config, want) in [
        (config(32, 2, 4), "`eval.flexibility.gap` is 32, but a text has 32 words"),
        (config(8, 17, 4), "`eval.flexibility.errors` is 17, but a text has 32 words"),
    ] {
        let e = config.fits(32).unwrap_err();
        assert!(e.to_string().contains(want) && e.hint.unwrap().contains("at most"), "{want}");
    }
    let e = config(0, 1, 1).validate().unwrap_err();
    assert!(e.to_string().contains("`eval.flexibility.gap` must be between 1 and"), "{e}");
}
