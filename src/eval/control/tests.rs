use super::*;
use crate::data::pairs::{PairsConfig, Source};
use crate::data::story::StoryConfig;
use crate::model::TransformerConfig;
use crate::process::{Corruption, Order, Schedule};
use crate::sample::{Decode, Process};
use burn::prelude::Device;
use std::path::Path;

fn pairs() -> Pairs {
    let config = PairsConfig {
        source: Source::Story(StoryConfig { names: 2, things: 2, places: 1, count: 3, noise: 1e-3 }),
        fields: vec!["name".into(), "thing".into()],
        length_classes: 0,
        length: 36,
        min_count: 1,
        valid_fraction: 0.1,
        unconditional: 0.1,
    };
    Pairs::prepare(&config, Path::new(".")).unwrap()
}

fn network(pairs: &Pairs, causal: bool) -> Transformer {
    let rest = if causal { "visibility = \"causal\"\nshift = true" } else { "visibility = \"full\"" };
    let config: TransformerConfig = toml::from_str(&format!("dim = 16\nlayers = 1\nheads = 2\n{rest}")).unwrap();
    Transformer::init(&config, pairs.vocab(), pairs.length(), 1, &Device::flex())
}

fn process(pairs: &Pairs, cached: bool) -> Process {
    let l = pairs.length();
    let order = if cached { Order::left_to_right() } else { Order::parallel(l) };
    Process {
        order,
        schedule: Schedule::LogLinear,
        corruption: Corruption::Absorb,
        length: l,
        cached,
        chain: None,
        decode: Decode::Table,
    }
}

#[test]
fn real_sentences_fulfil_their_conditions_and_shuffled_conditions_are_fulfilled_by_chance() {
    let pairs = pairs();
    let judge = network(&pairs, true);
    let found = reference(60, 3, &pairs, &judge).unwrap();
    assert_eq!((found["attribute"].mean, found["valid"].mean), (1.0, 1.0));
    // Two names and two things: another condition is met by about half of the sentences.
    let (asks, sentences): (Vec<Ask>, Vec<&[u32]>) = (0..200).map(|i| pairs.asked(3, i)).unzip();
    let turned: Vec<Ask> = asks.iter().cycle().skip(1).take(200).copied().collect();
    let met = mean(&scores(&sentences, &turned, &pairs, &judge).unwrap()["attribute"]);
    assert!((0.3..0.8).contains(&met), "{met}");
    // An untrained judge knows nothing: about ln V a token.
    assert!((found["judge_nll"].mean - (pairs.vocab() as f64).ln()).abs() < 0.5, "{:?}", found["judge_nll"]);
}

#[test]
fn both_arms_keep_the_condition_and_draw_the_same_whatever_the_batch() {
    let pairs = pairs();
    let asks: Vec<Ask> = (0..9).map(|i| pairs.asked(5, i).0).collect();
    for cached in [true, false] {
        let (model, process) = (network(&pairs, cached), process(&pairs, cached));
        let k = if cached { pairs.length() } else { 4 };
        let generator = Generator::Tokens(&model, process);
        let all = |batch: usize, asks: &[Ask]| draw(&generator, k, 5, batch, &pairs, asks, Arm::Infilling).unwrap();
        let drawn = all(4, &asks);
        for (tokens, ask) in drawn.tokens.iter().zip(&asks) {
            assert_eq!(tokens[..pairs.width()], pairs.condition(Some(*ask)));
        }
        assert_eq!(drawn.tokens, all(1, &asks).tokens);
        // The first conditions draw the same, however many there are.
        assert_eq!(drawn.tokens[..4], all(4, &asks[..4]).tokens[..]);
        let config = ControlConfig { samples: 9, steps: vec![2, 4], ..ControlConfig::default() };
        let judge = network(&pairs, true);
        let found = measure(&generator, &config, 5, 4, &pairs, &judge, None).unwrap();
        assert_eq!(found.rows.len(), if cached { 2 } else { 4 });
        assert_eq!(found.rows[0].arm, if cached { Arm::Prefix } else { Arm::Infilling });
        assert!(found.rows.iter().all(|r| r.n == 9 && r.samples["judge_nll"].len() == 9 && r.nfe > 0.0));
        // The floor: nothing is asked, and the same conditions are scored.
        let floor = found.rows.last().unwrap();
        assert_eq!((floor.arm, floor.samples["attribute"].len()), (Arm::Unasked, 9));
        let free = draw(&generator, k, 5, 4, &pairs, &asks, Arm::Unasked).unwrap();
        assert!(free.tokens.iter().all(|t| t[..pairs.width()] == pairs.condition(None)));
        // What is given is not drawn: the passes are those of the rest.
        if cached {
            assert!(found.rows[0].nfe <= (pairs.length() - pairs.width() + 1) as f64, "{}", found.rows[0].nfe);
        }
    }
}

#[test]
fn a_sentence_that_is_no_story_costs_what_noise_costs_in_every_word() {
    let pairs = pairs();
    let story = Story::new(pairs.story().unwrap()).unwrap();
    let (_, sentence) = pairs.asked(1, 0);
    let (valid, nll) = story_score(&story, 1e-3, &pairs, sentence);
    assert!(valid && nll < 0.5, "{nll}");
    let floor = (story.vocab() as f64 / 1e-3).ln();
    for broken in [&sentence[1..], &[], &[&sentence[..31], &[END]].concat()] {
        let (valid, nll) = story_score(&story, 1e-3, &pairs, broken);
        assert!(!valid && (nll - floor).abs() < 1e-12, "{nll} for {floor}");
    }
}

#[test]
fn a_sequence_is_well_formed_with_one_end_and_padding_alone_behind_it() {
    let pairs = pairs();
    let (ask, sentence) = pairs.asked(1, 0);
    let good = pairs.sequence(Some(ask), sentence);
    assert_eq!(well_formed(&pairs, &good), 1.0);
    assert_eq!(reference(9, 3, &pairs, &network(&pairs, true)).unwrap()["well_formed"].mean, 1.0);
    let (l, c) = (pairs.length(), pairs.width());
    // A word behind the end, a second end, padding before it, no end at all.
    for (place, token) in [(l - 1, sentence[0]), (l - 1, END), (c, PAD), (c + sentence.len(), sentence[0])] {
        let mut bad = good.clone();
        bad[place] = token;
        assert_eq!(well_formed(&pairs, &bad), 0.0, "{token} at {place}");
        let drawn = Drawn { tokens: vec![bad], nfe: vec![1], positions: vec![1] };
        let row = row(Arm::Infilling, 1, &drawn, &[ask], &pairs, &network(&pairs, true)).unwrap();
        assert_eq!(row.scores["well_formed"].mean, 0.0);
    }
}

#[test]
fn sentences_of_pairs_are_scored_without_their_condition_and_padding() {
    let pairs = pairs();
    let judge = network(&pairs, true);
    let (ask, sentence) = pairs.asked(1, 0);
    let score = |tokens: Vec<u32>| crate::eval::scores(&[tokens], &crate::eval::Scorer::Sentences(&judge, &pairs));
    let asked = score(pairs.sequence(Some(ask), sentence));
    assert_eq!(asked, score(pairs.sequence(None, sentence)));
    assert_eq!(asked["entropy"], [quality::unigram_entropy(sentence)]);
    assert_eq!(asked["judge_nll"], fluency(&judge, &pairs, &[sentence]));
}

#[test]
fn sizes_out_of_range_are_refused() {
    for (config, why) in [
        (ControlConfig { samples: 0, ..ControlConfig::default() }, "samples"),
        (ControlConfig { steps: vec![], ..ControlConfig::default() }, "steps"),
        (ControlConfig { steps: vec![4, 2], ..ControlConfig::default() }, "steps"),
        (ControlConfig { steps: vec![0, 2], ..ControlConfig::default() }, "steps"),
    ] {
        assert!(config.validate().unwrap_err().to_string().contains(why));
    }
}
