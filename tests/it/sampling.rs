//! The sampler against closed forms: with a perfect denoiser its distribution is known exactly at every step count.

use std::collections::HashMap;
use std::sync::Arc;

use burn::prelude::Device;
use fewstep::data::chain::Chain;
use fewstep::data::story::{Story, StoryConfig};
use fewstep::method;
use fewstep::model::draw::Filter;
use fewstep::model::{Oracle, Transformer};
use fewstep::process::order::OrderConfig;
use fewstep::process::{Corruption, Order, Schedule};
use fewstep::rng::{StepRng, Stream};
use fewstep::sample::{Decode, Process, SampleSpec, beam, sample};

const V: u32 = 3;
const L: usize = 4;

/// Four words of three symbols with agreement between the first and the last.
fn micro() -> Arc<Chain> {
    let stories = [
        (vec![0, 1, 2, 0], 0.4),
        (vec![0, 2, 2, 0], 0.1),
        (vec![1, 1, 2, 1], 0.3),
        (vec![1, 0, 0, 1], 0.15),
        (vec![2, 0, 1, 2], 0.05),
    ];
    Arc::new(Chain::from_stories(V as usize, &stories, 0.02))
}

fn process(order: Order, schedule: Schedule, cached: bool) -> Process {
    Process { order, schedule, corruption: Corruption::Absorb, chain: None, length: L, cached, decode: Decode::Table }
}

/// The exact distribution over texts of ancestral sampling in `steps` steps from `start`: every canvas' probability is
/// carried through every step over all sets of revealed positions and all their tokens.
fn closed_form(chain: &Chain, process: &Process, steps: usize, start: Vec<u32>) -> HashMap<Vec<u32>, f64> {
    let grid = process.order.grid(L, steps).unwrap();
    let mut now = HashMap::from([(start, 1.0)]);
    for k in 0..steps {
        let mut next: HashMap<Vec<u32>, f64> = HashMap::new();
        for (canvas, weight) in now {
            let visible: Vec<Option<u32>> = canvas.iter().map(|t| (*t < V).then_some(*t)).collect();
            let p = chain.posterior(&visible);
            // Position by position: stays masked, or takes one of V tokens, independently given the canvas.
            let mut partial = vec![(canvas.clone(), weight)];
            for l in (0..L).filter(|l| canvas[*l] == V) {
                let reveal =
                    process.corruption.reveal_probability(process.schedule, grid.row(k)[l], grid.row(k + 1)[l]);
                partial = partial
                    .into_iter()
                    .flat_map(|(c, w)| {
                        let mut out = vec![(c.clone(), w * (1.0 - reveal))];
                        for v in 0..V {
                            let mut filled = c.clone();
                            filled[l] = v;
                            out.push((filled, w * reveal * p[l * V as usize + v as usize]));
                        }
                        out.into_iter().filter(|(_, w)| *w > 0.0)
                    })
                    .collect();
            }
            partial.into_iter().for_each(|(c, w)| *next.entry(c).or_default() += w);
        }
        now = next;
    }
    now
}

/// z score of the chi-square of counts against a law; cells expected less than 5 times are put together.
fn excess(counts: &HashMap<Vec<u32>, f64>, law: &HashMap<Vec<u32>, f64>, n: f64) -> f64 {
    let (mut chi2, mut cells, mut rest) = (0.0, 0.0, (0.0, 0.0));
    for (text, p) in law {
        let (got, want) = (counts.get(text).copied().unwrap_or(0.0), n * p);
        if want < 5.0 {
            rest = (rest.0 + got, rest.1 + want);
        } else {
            chi2 += (got - want).powi(2) / want;
            cells += 1.0;
        }
    }
    if rest.1 > 1.0 {
        chi2 += (rest.0 - rest.1).powi(2) / rest.1;
        cells += 1.0;
    }
    (chi2 - (cells - 1.0)) / (2.0f64 * (cells - 1.0)).sqrt()
}

fn draw(chain: &Arc<Chain>, process: &Process, spec: &SampleSpec, n: usize) -> HashMap<Vec<u32>, f64> {
    let oracle = Oracle::new(Arc::clone(chain), Device::flex());
    let mut counts = HashMap::new();
    for text in sample(&oracle, process, spec, n).unwrap().tokens {
        *counts.entry(text).or_default() += 1.0;
    }
    counts
}

fn language(chain: &Chain) -> HashMap<Vec<u32>, f64> {
    (0..V.pow(L as u32))
        .map(|i| (0..L).map(|p| i / V.pow(p as u32) % V).collect::<Vec<_>>())
        .map(|t| (t.clone(), chain.log_likelihood(&t).exp()))
        .collect()
}

fn total_variation(a: &HashMap<Vec<u32>, f64>, b: &HashMap<Vec<u32>, f64>) -> f64 {
    0.5 * b.iter().map(|(t, p)| (p - a.get(t).copied().unwrap_or(0.0)).abs()).sum::<f64>()
}

#[test]
fn samples_of_the_oracle_follow_the_closed_form_at_1_2_4_and_16_steps_for_every_order_and_schedule() {
    let (chain, n) = (micro(), 60_000);
    for (order, steps) in [
        (Order::parallel(L), vec![1, 2, 4, 16]),
        // 1, 2 and 4 steps a block.
        (Order { block: 2, ..Order::left_to_right() }, vec![2, 4, 8]),
        (OrderConfig::Segments { text: 1, block: 3 }.order(L), vec![2, 3, 5]),
        // 1, 2, 4 and more steps for all that is under way at the same time.
        (Order { window: 2, ..Order::left_to_right() }, vec![1, 2, 4, 10]),
        (Order { block: 2, window: 2, ..Order::left_to_right() }, vec![1, 2, 4, 6]),
        (OrderConfig::ArDiffusion { levels: 3 }.order(L), vec![1, 2, 4, 10]),
        (Order::left_to_right(), vec![4]),
    ] {
        for schedule in [Schedule::LogLinear, Schedule::Cosine] {
            for steps in &steps {
                let process = process(order, schedule, false);
                let counts = draw(&chain, &process, &SampleSpec::new(*steps, 7, 500), n);
                let law = closed_form(&chain, &process, *steps, vec![V; L]);
                let z = excess(&counts, &law, n as f64);
                assert!(z < 4.5, "{order:?} {schedule:?} in {steps} steps: {z} sigma");
            }
        }
    }
}

#[test]
fn the_oracles_error_falls_to_nothing_as_steps_grow_and_its_one_step_error_is_that_of_independent_words() {
    let chain = micro();
    let process = process(Order::parallel(L), Schedule::LogLinear, false);
    let truth = language(&chain);
    let error = |steps| total_variation(&closed_form(&chain, &process, steps, vec![V; L]), &truth);
    let errors: Vec<f64> = [1, 2, 4, 16, 256].map(error).to_vec();
    assert!(errors.windows(2).all(|p| p[1] < p[0]), "{errors:?}");
    assert!(errors[0] > 0.3 && errors[4] < 0.005, "{errors:?}");
    // One step is the product of the marginals.
    let p = chain.posterior(&[None; L]);
    let product: HashMap<Vec<u32>, f64> = truth
        .keys()
        .map(|t| (t.clone(), t.iter().enumerate().map(|(l, v)| p[l * V as usize + *v as usize]).product()))
        .collect();
    assert!(total_variation(&closed_form(&chain, &process, 1, vec![V; L]), &product) < 1e-12);
    // And the sampler itself, not only its law: at 256 steps its samples are the language's.
    let n = 60_000;
    let counts = draw(&chain, &process, &SampleSpec::new(256, 3, 500), n);
    assert!(excess(&counts, &truth, n as f64) < 4.5);
}

#[test]
fn left_to_right_samples_of_the_oracle_are_exactly_the_language() {
    let (chain, n) = (micro(), 60_000);
    for cached in [false, true] {
        let process = process(Order::left_to_right(), Schedule::LogLinear, cached);
        let counts = draw(&chain, &process, &SampleSpec::new(L, 5, 500), n);
        let z = excess(&counts, &language(&chain), n as f64);
        assert!(z < 4.5, "cached {cached}: {z} sigma");
    }
}

#[test]
fn an_infill_follows_the_law_of_the_language_given_what_is_pinned() {
    let (chain, n) = (micro(), 40_000);
    let process = process(Order::parallel(L), Schedule::LogLinear, false);
    let pinned = vec![None, Some(1), None, Some(1)];
    let spec = SampleSpec { pinned: pinned.clone(), ..SampleSpec::new(64, 2, 500) };
    let counts = draw(&chain, &process, &spec, n);
    assert!(counts.keys().all(|t| t[1] == 1 && t[3] == 1), "a pinned token changed");
    let law = closed_form(&chain, &process, 64, vec![V, 1, V, 1]);
    assert!(excess(&counts, &law, n as f64) < 4.5);
}

#[test]
fn a_sample_is_the_same_in_any_batch() {
    let chain = micro();
    let process = process(Order::parallel(L), Schedule::LogLinear, false);
    let oracle = Oracle::new(chain, Device::flex());
    let with = |batch| sample(&oracle, &process, &SampleSpec::new(3, 11, batch), 40).unwrap();
    let one = with(1);
    for batch in [7, 32, 100] {
        let other = with(batch);
        assert_eq!((&one.tokens, &one.nfe, &one.positions), (&other.tokens, &other.nfe, &other.positions));
    }
}

#[test]
fn passes_are_counted_where_something_is_revealed_and_nowhere_else() {
    let process = process(Order::parallel(L), Schedule::LogLinear, false);
    let oracle = Oracle::new(micro(), Device::flex());
    let drawn = sample(&oracle, &process, &SampleSpec::new(256, 1, 50), 200).unwrap();
    assert!(drawn.nfe.iter().all(|n| (1..=L).contains(n)), "at most one pass a position");
    assert!(drawn.nfe.iter().zip(&drawn.positions).all(|(n, p)| *p == (n * L) as u64));
    let one = sample(&oracle, &process, &SampleSpec::new(1, 1, 50), 10).unwrap();
    assert!(one.nfe.iter().all(|n| *n == 1));
}

#[test]
fn the_trace_runs_from_noise_to_the_text_and_never_takes_a_token_back() {
    let process = process(Order::parallel(L), Schedule::LogLinear, false);
    let oracle = Oracle::new(micro(), Device::flex());
    let spec = SampleSpec { trace: true, ..SampleSpec::new(6, 1, 8) };
    let drawn = sample(&oracle, &process, &spec, 20).unwrap();
    for (trace, text) in drawn.trace.iter().zip(&drawn.tokens) {
        assert_eq!((trace.len(), &trace[0], &trace[6]), (7, &vec![V; L], text));
        for pair in trace.windows(2) {
            assert!(pair[0].iter().zip(&pair[1]).all(|(a, b)| *a == V || a == b));
        }
    }
}

#[test]
fn the_nelbo_of_a_perfect_denoiser_is_the_exact_likelihood() {
    // For consistent conditionals the continuous-time bound is tight: its mean over times and masks is -log p.
    let chain = micro();
    let oracle = Oracle::new(Arc::clone(&chain), Device::flex());
    for text in [vec![0, 1, 2, 0], vec![1, 0, 0, 1], vec![2, 0, 1, 0]] {
        for schedule in [Schedule::LogLinear, Schedule::Cosine] {
            let (draws, rounds) = (512, 40);
            let values: Vec<f64> = (0..rounds)
                .map(|i| {
                    let rng = StepRng::new(8);
                    let gens = (rng.at(i, Stream::Times), rng.at(i, Stream::Corrupt));
                    let copies = text.repeat(draws);
                    let rows = method::elbo(&copies, L, V, Order::parallel(L), schedule, gens);
                    method::evaluate(&oracle, &rows).0 * L as f64
                })
                .collect();
            let mean = values.iter().sum::<f64>() / rounds as f64;
            let se = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (rounds * (rounds - 1)) as f64).sqrt();
            let exact = -chain.log_likelihood(&text);
            // The smallest times (below T_MIN) are left out, which costs less than T_MIN of the integral.
            assert!(
                (mean - exact).abs() < 4.0 * se + 0.01 * exact,
                "{text:?} {schedule:?}: {mean} +- {se} for {exact}"
            );
        }
    }
}

#[test]
fn beam_search_finds_the_most_probable_continuation_when_wide_enough() {
    let chain = micro();
    let oracle = Oracle::new(Arc::clone(&chain), Device::flex());
    let process = process(Order::left_to_right(), Schedule::LogLinear, true);
    for prompt in [vec![], vec![1u32], vec![0, 2]] {
        let best = language(&chain)
            .into_iter()
            .filter(|(t, _)| t.starts_with(&prompt))
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(t, _)| t);
        let found = beam::search(&oracle, &process, &prompt, &beam::Search::new(27, 1.0)).unwrap();
        assert_eq!(Some(&found[0].tokens), best.as_ref());
        assert!(found.windows(2).all(|p| p[0].score >= p[1].score));
        // A beam of one is greedy decoding.
        let greedy = SampleSpec {
            filter: Filter { temperature: 0.0, ..Filter::default() },
            pinned: (0..L).map(|l| prompt.get(l).copied()).collect(),
            ..SampleSpec::new(L, 0, 1)
        };
        let greedy = sample(&oracle, &process, &greedy, 1).unwrap();
        let one = beam::search(&oracle, &process, &prompt, &beam::Search::new(1, 1.0)).unwrap();
        assert_eq!(one[0].tokens, greedy.tokens[0]);
    }
}

#[test]
fn beam_scores_are_log_probabilities_divided_by_the_length_to_the_penalty() {
    let chain = micro();
    let oracle = Oracle::new(Arc::clone(&chain), Device::flex());
    let process = process(Order::left_to_right(), Schedule::LogLinear, true);
    for penalty in [0.0, 1.0, 2.0] {
        let found = beam::search(&oracle, &process, &[], &beam::Search::new(4, penalty)).unwrap();
        for h in found {
            let exact = chain.log_likelihood(&h.tokens);
            assert!((h.log_prob - exact).abs() < 1e-4, "{} for {exact}", h.log_prob);
            assert!((h.score - h.log_prob / (L as f64).powf(penalty)).abs() < 1e-12);
        }
    }
}

#[test]
fn a_gap_for_an_autoregressive_model_is_refused() {
    let oracle = Oracle::new(micro(), Device::flex());
    let process = process(Order::left_to_right(), Schedule::LogLinear, true);
    let spec = SampleSpec { pinned: vec![None, Some(1), None, None], ..SampleSpec::new(L, 0, 1) };
    assert!(sample(&oracle, &process, &spec, 1).unwrap_err().to_string().contains("fill a gap"));
}

#[test]
fn a_prompt_through_the_cache_equals_a_prompt_without_it() {
    let config = super::network::config(true);
    let model = Transformer::init(&config, 9, L, 3, &Device::flex());
    let pinned = vec![Some(2), Some(5), None, None];
    let with = |cached| {
        let p = process(Order::left_to_right(), Schedule::LogLinear, cached);
        sample(&model, &p, &SampleSpec { pinned: pinned.clone(), ..SampleSpec::new(L, 1, 4) }, 12).unwrap()
    };
    let (a, b) = (with(true), with(false));
    assert_eq!(a.tokens, b.tokens);
    assert!(a.positions.iter().sum::<u64>() < b.positions.iter().sum::<u64>());
}

#[test]
fn the_story_oracle_tells_valid_stories_when_it_takes_its_time() {
    let story = Story::new(&StoryConfig { names: 2, things: 2, places: 1, count: 3, noise: 1e-5 }).unwrap();
    let oracle = Oracle::new(Arc::clone(story.chain()), Device::flex());
    let process =
        Process { order: Order::parallel(32), length: 32, ..process(Order::parallel(32), Schedule::LogLinear, false) };
    let valid = |steps| {
        let drawn = sample(&oracle, &process, &SampleSpec::new(steps, 4, 64), 128).unwrap();
        drawn.tokens.iter().filter(|t| story.is_valid(t)).count()
    };
    assert!(valid(1024) >= 124 && valid(2) < 64);
}

#[test]
fn an_autoregressive_network_that_reads_the_time_is_sampled_at_the_time_it_was_trained_at() {
    use fewstep::model::config::TimeInput;
    let teacher_forced = |model: &Transformer, text: &[u32]| {
        let rows = method::ar_nll(text, L);
        -method::evaluate(model, &rows).0 * L as f64
    };
    for time in [TimeInput::Sequence, TimeInput::Position] {
        let config = fewstep::model::TransformerConfig { time, ..super::network::config(true) };
        let model = super::network::random(&config, 5, L, &Device::flex());
        // The best beam's score is what the cache path gives a text; teacher forcing must give the same.
        let p = process(Order::left_to_right(), Schedule::LogLinear, true);
        let best = &beam::search(&model, &p, &[], &beam::Search::new(3, 0.0)).unwrap()[0];
        let forced = teacher_forced(&model, &best.tokens);
        assert!((best.log_prob - forced).abs() < 1e-4, "{time:?}: {} for {forced}", best.log_prob);
        // And greedy sampling takes the arg max under teacher forcing at each position.
        let greedy =
            SampleSpec { filter: Filter { temperature: 0.0, ..Filter::default() }, ..SampleSpec::new(L, 0, 1) };
        let sampled = sample(&model, &p, &greedy, 1).unwrap().tokens.remove(0);
        let one = beam::search(&model, &p, &[], &beam::Search::new(1, 0.0)).unwrap().remove(0);
        assert_eq!(sampled, one.tokens, "{time:?}");
    }
}

#[test]
fn the_best_of_several_texts_is_printed_with_the_passes_of_all_and_the_prompt_is_not_compared() {
    let place = super::binary::Place::new();
    let recipe = r#"
name = "small"
[data.story]
names = 2
things = 2
places = 1
count = 3
[model.teacher]
order = "parallel"
objective.elbo = {}
network = { dim = 16, layers = 1, heads = 2, visibility = "full" }
train = { steps = 2, batch = 8, lr = 5e-3 }
[eval]
samples = 2
batch = 2
steps = [2]
held_out = 2
speed_repeats = 0
"#;
    place.write("small.toml", recipe);
    place.run(&["run", "small.toml", "--only", "teacher"]).ok();
    let drawn = |args: &[&str]| -> Vec<(String, u64)> {
        let base = ["sample", "runs/small", "--json", "--steps", "4", "--prompt", "mia has"];
        let out = place.run(&[&base, args].concat()).ok().out;
        let of = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            (value["text"].as_str().unwrap().to_string(), value["nfe"].as_u64().unwrap())
        };
        out.lines().map(of).collect()
    };
    let (all, best) = (drawn(&["-n", "8"]), drawn(&["-n", "2", "--mbr", "4"]));
    for (group, best) in all.chunks(4).zip(&best) {
        assert_eq!(best.1, group.iter().map(|c| c.1).sum::<u64>());
        // Words are tokens here; the prompt's two are left out.
        let ids = |text: &String| -> Vec<u32> {
            let mut known: Vec<&str> = group.iter().flat_map(|c| c.0.split(' ')).collect();
            known.sort_unstable();
            text.split(' ').skip(2).map(|w| known.iter().position(|k| *k == w).unwrap() as u32).collect()
        };
        let texts: Vec<Vec<u32>> = group.iter().map(|c| ids(&c.0)).collect();
        assert_eq!(best.0, group[fewstep::sample::mbr::select(&texts)].0);
    }
    place.run(&["sample", "runs/small", "--mbr", "1"]).fails(2, &["`--mbr` cannot be `1`", "from 2 to 1024"]);
    place.run(&["sample", "runs/small", "--mbr", "4", "--beam", "2"]).fails(2, &["--mbr", "--beam"]);
}
