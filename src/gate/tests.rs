//! The gate on invented results: identical, resampled, regressed, collapsed and incomparable ones.

use super::compare::{decide, samples_needed};
use super::*;
use crate::error::Kind;
use crate::eval::results::Direction;
use crate::eval::results::fixture::{self, Level};
use crate::eval::stats::{mean, mean_interval};
use crate::rng::{StepRng, Stream};
use crate::shown;
use indexmap::IndexMap;
use rand::Rng;

fn gate(a: &Results, b: &Results) -> Verdict {
    judge(a, b, &GateConfig::default(), &Selection::everything(), false).unwrap()
}

fn of<'a>(v: &'a Verdict, model: &str, steps: usize, key: &str) -> &'a Finding {
    v.findings.iter().find(|f| f.model == model && f.steps == steps && f.key == key).unwrap()
}

/// Changes every sample of one score of the student.
fn edit(results: &mut Results, key: &str, change: impl Fn(usize, f64) -> f64) {
    let student = results.models.iter_mut().find(|m| m.name == "student").unwrap();
    student.weights_sha256 = "changed".into();
    for row in &mut student.rows {
        row.samples[key].iter_mut().enumerate().for_each(|(i, x)| *x = change(i, *x));
    }
    rescored(results);
}

/// Moves the means of all scores to those of their samples.
fn rescored(results: &mut Results) {
    for row in results.models.iter_mut().flat_map(|m| &mut m.rows) {
        for (key, samples) in &row.samples {
            let Some(score) = row.scores.get_mut(key) else { continue };
            let moved = mean(samples) - score.mean;
            (score.mean, score.low, score.high) = (score.mean + moved, score.low + moved, score.high + moved);
            let mut from = 0;
            for part in &mut row.by_seed {
                part.scores.insert(key.clone(), mean(&samples[from..from + part.n]));
                from += part.n;
            }
        }
    }
}

/// Samples only: eight rows of n samples with valid ~ Bernoulli(p) and nll ~ mean * Gamma(9)/9.
fn simulated(seed: u64, n: usize, nll: f64, valid: f64) -> Results {
    let mut results = fixture::bare();
    results.models[0].weights_sha256 = format!("{seed} {nll} {valid}");
    for row in &mut results.models[0].rows {
        let mut rng = StepRng::new(seed).at(row.steps as u64, Stream::Validation);
        let mut samples: IndexMap<String, Vec<f64>> = IndexMap::new();
        for _ in 0..n {
            let gamma = (0..9).map(|_| -(1.0 - rng.random::<f64>()).ln()).sum::<f64>() / 9.0;
            let bell = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
            let mut put = |key: &str, x: f64| samples.entry(key.into()).or_default().push(x);
            put("oracle_nll", nll * gamma);
            put("entropy", 3.4 + 0.12 * bell);
            put("valid", f64::from(u8::from(rng.random::<f64>() < valid)));
        }
        (row.n, row.seed, row.samples, row.speed) = (n, seed, samples, None);
    }
    results
}

#[test]
fn an_identical_pair_passes_with_changes_of_exactly_zero() {
    for results in [fixture::story(1), fixture::text(1)] {
        let verdict = judge(&results, &results, &GateConfig::default(), &Selection::everything(), false).unwrap();
        assert!(verdict.passes(true));
        assert!(verdict.findings.iter().all(|f| f.change == Some(Estimate::exact(0.0))));
        assert!(verdict.warnings.is_empty());
        assert!(verdict.findings.len() >= 3 * 17);
    }
}

#[test]
fn an_unchanged_model_closes_the_gate_in_at_most_1_percent_of_200_seeds() {
    let config = GateConfig { resamples: 200, ..GateConfig::default() };
    let (mut closed, mut findings) = (0, 0);
    for seed in 0..200 {
        let (a, b) = (simulated(2 * seed, 512, 1.5, 0.6), simulated(2 * seed + 1, 512, 1.5, 0.6));
        let verdict = judge(&a, &b, &config, &Selection::everything(), false).unwrap();
        closed += usize::from(!verdict.passes(false));
        findings = verdict.findings.len();
        assert!(verdict.findings.iter().all(|f| f.pairing == Some(Pairing::Unpaired)));
    }
    assert_eq!(findings, 24);
    assert!(closed <= 2, "{closed} of 200 are closed");
}

/// One student with `n` texts a row, which says one of `texts` texts, the first of them most often.
fn repeating(seed: u64, n: usize, texts: usize) -> Results {
    let mut results = fixture::bare();
    results.models[0].weights_sha256 = format!("{seed} {texts}");
    for row in &mut results.models[0].rows {
        let mut rng = StepRng::new(seed).at(row.steps as u64, Stream::Validation);
        let text = |rng: &mut rand_chacha::ChaCha8Rng| {
            // Zipf by a power of a uniform number; a text's words follow from its number.
            let which = (texts as f64).powf(rng.random::<f64>()) as u32;
            (0..12u32).map(|l| (which.wrapping_mul(2_654_435_761).rotate_left(l) >> 3) % 40).collect::<Vec<u32>>()
        };
        let drawn: Vec<Vec<u32>> = (0..n).map(|_| text(&mut rng)).collect();
        let drawn: Vec<&[u32]> = drawn.iter().map(Vec::as_slice).collect();
        (row.n, row.seed, row.speed) = (n, seed, None);
        row.samples = IndexMap::from([
            ("unique".to_string(), crate::eval::quality::firsts(&drawn)),
            ("pooled_entropy".to_string(), crate::eval::quality::pooled_parts(&drawn)),
        ]);
    }
    results
}

#[test]
fn variety_between_samples_is_judged_and_its_intervals_are_as_wide_as_chance_moves_it() {
    let config = GateConfig { resamples: 200, ..GateConfig::default() };
    let verdict = |a: &Results, b: &Results| judge(a, b, &config, &Selection::everything(), false).unwrap();
    for texts in [300, 100_000] {
        let closed = (0..100)
            .filter(|seed| {
                !verdict(&repeating(2 * seed, 512, texts), &repeating(2 * seed + 1, 512, texts)).passes(false)
            })
            .count();
        assert!(closed <= 1, "{closed} of 100 with {texts} texts");
        // Half of the draws are of a few texts.
        let fewer = verdict(&repeating(1, 512, texts), &repeating(2, 512, texts / 30));
        assert_eq!(fewer.outcome(false), Outcome::Fail, "{texts}");
        assert!(fewer.findings.iter().any(|f| f.metric == Some(Metric::Unique) && f.outcome == Outcome::Fail));
    }
}

#[test]
fn a_student_of_one_story_fails_and_a_baseline_without_single_samples_is_said() {
    let mut base = fixture::story(1);
    let firsts = |share: f64| (0..fixture::N).map(move |i| f64::from(u8::from((i as f64) < share * fixture::N as f64)));
    for row in base.models.iter_mut().flat_map(|m| &mut m.rows) {
        row.samples.insert("unique".into(), firsts(0.32).collect());
    }
    let mut one = base.clone();
    for row in &mut one.models.iter_mut().find(|m| m.name == "student").unwrap().rows {
        row.samples.insert("unique".into(), firsts(0.01).collect());
    }
    let verdict = gate(&base, &one);
    assert_eq!(verdict.outcome(false), Outcome::Fail);
    assert!(
        verdict.findings.iter().all(|f| (f.outcome == Outcome::Fail) == (f.model == "student" && f.key == "unique"))
    );
    let older = gate(&fixture::story(1), &one);
    assert!(older.passes(false) && older.warnings.iter().any(|w| w.contains("does not have unique of each sample")));
}

#[test]
fn the_students_are_judged_unless_others_are_asked_for() {
    let base = fixture::story(1);
    let with = |selection: Selection| judge(&base, &base, &GateConfig::default(), &selection, false);
    let names = |selection: Selection| {
        let verdict = with(selection).unwrap();
        verdict.findings.iter().map(|f| f.model.clone()).collect::<HashSet<_>>().into_iter().collect::<Vec<_>>()
    };
    let mut students = names(Selection::default());
    students.sort();
    assert_eq!(students, ["eager", "student"]);
    assert_eq!(names(Selection { models: vec!["teacher".into()], ..Selection::default() }), ["teacher"]);
    let narrow =
        Selection { models: vec!["student".into()], steps: vec![4, 8], metrics: vec![Metric::Nll], all: false };
    let verdict = with(narrow.clone()).unwrap();
    let found: Vec<_> = verdict.findings.iter().map(|f| (f.steps, f.metric)).collect();
    assert_eq!(found, [(4, Some(Metric::Nll)), (8, Some(Metric::Nll))]);
    let error = |selection: Selection| with(selection).unwrap_err().to_string();
    assert!(
        error(Selection { models: vec!["studnet".into()], ..Selection::default() }).contains("did you mean `student`?")
    );
    assert!(error(Selection { steps: vec![3], ..Selection::default() }).contains("no row with 3 steps"));
    assert!(error(Selection { metrics: vec![Metric::Copies], ..Selection::default() }).contains("no `copies`"));
    // A rule that names a model has it judged.
    let json = r#"{"rules": [{"metric": "valid", "model": "teacher"}, {"metric": "nll"}]}"#;
    let config: GateConfig = serde_json::from_str(json).unwrap();
    let verdict = judge(&base, &base, &config, &Selection::default(), false).unwrap();
    assert!(verdict.findings.iter().any(|f| f.model == "teacher"));
}

#[test]
fn the_answer_for_one_student_fits_in_fifteen_lines() {
    let base = fixture::story(1);
    let mut worse = base.clone();
    edit(&mut worse, "oracle_nll", |_, x| 1.2 * x);
    edit(&mut worse, "valid", |_, _| 0.0);
    edit(&mut worse, "entropy", |_, x| 0.9 * x);
    let one = Selection { models: vec!["student".into()], ..Selection::default() };
    let of = |other: &Results| judge(&base, other, &GateConfig::default(), &one, false).unwrap();
    let text = render::text(&of(&worse), false, false);
    assert!(text.lines().count() <= 15, "{text}");
    assert!(text.starts_with("student   fail: "), "{text}");
    assert!(text.contains("and 16 more; `--details` prints all") && text.contains("(exit 1)"), "{text}");
    let text = render::text(&of(&base), false, false);
    assert!(text.lines().count() == 3 && text.contains("within limits at 1, 2, 4, 8"), "{text}");
    assert!(text.contains("nothing moved to the worse") && text.lines().all(|l| l.chars().count() <= 80), "{text}");
}

#[test]
fn a_regression_of_twice_the_limit_hardly_ever_passes() {
    let config = GateConfig { resamples: 200, ..GateConfig::default() };
    let (mut passed, mut cases) = (0, 0);
    for seed in 0..25 {
        let (a, b) = (simulated(2 * seed, 512, 1.5, 0.6), simulated(2 * seed + 1, 512, 1.65, 0.5));
        let verdict = judge(&a, &b, &config, &Selection::everything(), false).unwrap();
        let hurt = verdict.findings.iter().filter(|f| f.key != "entropy");
        passed += hurt.clone().filter(|f| f.outcome == Outcome::Pass).count();
        cases += hurt.count();
        assert!(!verdict.passes(false));
    }
    assert_eq!((passed, cases), (0, 400));
}

#[test]
fn a_regression_of_exactly_the_limit_passes_in_at_most_5_percent() {
    let rules = vec![GateRule::of(Metric::Nll), GateRule::of(Metric::Valid)];
    let config = GateConfig { resamples: 200, rules, seed: 3, ..GateConfig::default() };
    let (mut passed, mut cases) = (0, 0);
    for seed in 100..130 {
        let (a, b) = (simulated(2 * seed, 256, 1.5, 0.6), simulated(2 * seed + 1, 256, 1.575, 0.55));
        let verdict = judge(&a, &b, &config, &Selection::everything(), false).unwrap();
        let hurt = verdict.findings.iter().filter(|f| f.key != "entropy");
        passed += hurt.clone().filter(|f| f.outcome == Outcome::Pass).count();
        cases += hurt.count();
    }
    assert!(cases == 480 && passed <= 24, "{passed} of {cases} passed");
}

#[test]
fn a_student_of_a_tenth_of_the_quality_fails() {
    let base = fixture::story(1);
    let mut bad = base.clone();
    edit(&mut bad, "oracle_nll", |_, x| 10.0 * x);
    edit(&mut bad, "valid", |i, x| if i % 10 == 0 { x } else { 0.0 });
    let verdict = gate(&base, &bad);
    assert_eq!(verdict.outcome(false), Outcome::Fail);
    let failed: Vec<_> = verdict.findings.iter().filter(|f| f.outcome == Outcome::Fail).collect();
    assert_eq!(failed.len(), 2 * fixture::STEPS.len());
    assert!(failed.iter().all(|f| f.model == "student"));
    assert!(failed.iter().filter(|f| f.key == "oracle_nll").all(|f| (f.change.unwrap().mean - 9.0).abs() < 1e-9));
    // The other way round the change is an improvement.
    assert_eq!(gate(&bad, &base).outcome(false), Outcome::Pass);
}

#[test]
fn an_inconclusive_comparison_names_the_samples_that_would_settle_it() {
    let verdict = gate(&simulated(1, 40, 1.5, 0.6), &simulated(2, 40, 1.52, 0.6));
    assert_ne!(verdict.outcome(false), Outcome::Pass);
    let doubt: Vec<_> = verdict.findings.iter().filter(|f| f.outcome == Outcome::Inconclusive).collect();
    assert!(!doubt.is_empty());
    for f in &doubt {
        assert!(f.needed.is_none_or(|n| n > f.n) && (f.needed.is_some() || f.note.is_some()), "{f:?}");
    }
    let text = render::text(&verdict, false, true);
    assert!(text.contains("inconclusive: needs about ") && text.contains(" samples, had 40"), "{text}");
    assert!(verdict.warnings[0].contains("compared unpaired"));
}

#[test]
fn the_number_of_samples_follows_the_width_of_the_interval() {
    let e = |mean, half| Estimate { mean, low: mean - half, high: mean + half };
    // Half width 0.06, 0.03 from the limit: four times the samples.
    assert_eq!(samples_needed(Direction::Lower, e(0.02, 0.06), 0.05, 256), Some(1100));
    assert_eq!(samples_needed(Direction::Near, e(-0.019, 0.002), 0.02, 100), Some(400));
    assert_eq!(samples_needed(Direction::Higher, e(-0.05, 0.01), 0.05, 100), None);
    assert_eq!(decide(Direction::Lower, e(0.04, 0.01), 0.05), Outcome::Pass);
    assert_eq!(decide(Direction::Higher, e(-0.07, 0.01), 0.05), Outcome::Fail);
    assert_eq!(decide(Direction::Near, e(0.03, 0.005), 0.02), Outcome::Fail);
    assert_eq!(decide(Direction::Near, e(0.0, 0.03), 0.02), Outcome::Inconclusive);
}

#[test]
fn likelihood_that_improves_by_repetition_is_collapse_and_fails() {
    let base = fixture::story(1);
    let mut repeats = base.clone();
    edit(&mut repeats, "oracle_nll", |_, x| 0.7 * x);
    edit(&mut repeats, "entropy", |_, x| 0.8 * x);
    let verdict = gate(&base, &repeats);
    let finding = of(&verdict, "student", 8, "entropy");
    assert_eq!(finding.outcome, Outcome::Fail);
    assert!(finding.note.as_ref().unwrap().starts_with("collapse"));
    assert_eq!(of(&verdict, "student", 8, "oracle_nll").outcome, Outcome::Pass);
    // A recipe cannot judge likelihood and leave entropy out.
    let only_nll = GateConfig { rules: vec![GateRule::of(Metric::Nll)], ..GateConfig::default() };
    let verdict = judge(&base, &repeats, &only_nll, &Selection::everything(), false).unwrap();
    assert_eq!((verdict.outcome(false), of(&verdict, "student", 8, "entropy").outcome), (Outcome::Fail, Outcome::Fail));
}

#[test]
fn the_samplers_likelihood_is_judged_text_by_text_and_no_bound_against_a_likelihood() {
    use crate::eval::results::Bound;
    use crate::eval::sampler::SamplerNll;
    let with = |factor: f64, kind: Bound, texts: &str| {
        let mut results = fixture::story(1);
        let student = results.models.iter_mut().find(|m| m.name == "student").unwrap();
        student.weights_sha256 = format!("{factor}");
        for row in &mut student.rows {
            let values: Vec<f64> = (0..64).map(|i| factor * (2.0 + f64::from(i % 7))).collect();
            let (estimate, texts_sha256) = (mean_interval(&values, 0), texts.to_string());
            row.sampler_nll = Some(SamplerNll { estimate, kind, n: 64, texts: values, texts_sha256, spread: None });
        }
        results
    };
    let base = with(1.0, Bound::Exact, "a");
    let found = |other: &Results| of(&gate(&base, other), "student", 8, "sampler_nll").clone();
    let same = found(&with(1.01, Bound::Exact, "a"));
    assert_eq!((same.outcome, same.pairing, same.n), (Outcome::Pass, Some(Pairing::Paired), 64));
    assert_eq!(found(&with(1.2, Bound::Exact, "a")).outcome, Outcome::Fail);
    let others = found(&with(1.01, Bound::Exact, "b"));
    assert_eq!((others.outcome, others.pairing), (Outcome::Inconclusive, Some(Pairing::Unpaired)));
    let bound = found(&with(1.01, Bound::Elbo, "a"));
    assert!(bound.outcome == Outcome::Inconclusive && bound.note.unwrap().contains("a bound of it"));
    assert_eq!(found(&fixture::story(1)).outcome, Outcome::Fail, "the candidate lacks it");
}

#[test]
fn missing_rows_models_and_scores_fail() {
    let base = fixture::story(1);
    let mut less = base.clone();
    less.models.retain(|m| m.name != "eager");
    less.models[2].rows.retain(|r| r.steps != 4);
    less.models[1].rows[0].samples.shift_remove("valid");
    let verdict = gate(&base, &less);
    assert_eq!(verdict.outcome(false), Outcome::Fail);
    assert_eq!(of(&verdict, "eager", 8, "row").note.as_deref(), Some("the candidate lacks this model"));
    assert_eq!(of(&verdict, "student", 4, "row").note.as_deref(), Some("the candidate lacks this row"));
    assert_eq!(of(&verdict, "teacher", 1, "valid").note.as_deref(), Some("the candidate has no such score"));
    assert_eq!(verdict.count(Outcome::Fail, false), 8 + 1 + 1);
    // What only the candidate has is told, not judged.
    assert!(gate(&less, &base).warnings.iter().any(|w| w.contains("`eager` is not in the baseline")));
}

#[test]
fn other_data_is_refused_unless_allowed() {
    let base = fixture::story(1);
    let mut other = base.clone();
    other.data.length = 128;
    other.data.sha256 = "00".into();
    let e = judge(&base, &other, &GateConfig::default(), &Selection::everything(), false).unwrap_err();
    assert_eq!(e.kind, Kind::Usage);
    let text = e.to_string();
    assert!(
        text.contains("length differs: baseline `256`, candidate `128`") && text.contains("data sha256 differs"),
        "{text}"
    );
    assert!(text.contains("hint: `--allow-mismatch`"), "{text}");
    assert_eq!(judge(&base, &other, &GateConfig::default(), &Selection::everything(), true).unwrap().warnings.len(), 2);
    let mut judge_moved = fixture::text(1);
    judge_moved.models[3].weights_sha256 = "11".into();
    let e =
        judge(&fixture::text(1), &judge_moved, &GateConfig::default(), &Selection::everything(), false).unwrap_err();
    assert!(e.to_string().contains("judge weights differs"), "{e}");
}

#[test]
fn speed_never_fails_and_its_doubts_count_only_when_strict() {
    let base = fixture::story(1);
    let mut slow = base.clone();
    slow.models[2].rows[3].speed = Some(fixture::speed(400.0));
    slow.models[2].rows[4].speed = None;
    let verdict = gate(&base, &slow);
    assert_eq!(verdict.outcome(false), Outcome::Pass);
    assert_eq!(verdict.count(Outcome::Inconclusive, true), 2);
    assert!(of(&verdict, "student", 8, "latency").note.as_ref().unwrap().starts_with("slower than the limit"));
    assert!(
        render::summary(&verdict, false).ends_with("(exit 0; --strict exits 1)"),
        "{}",
        render::summary(&verdict, false)
    );
    assert!(!verdict.passes(true));
    assert!(render::summary(&verdict, true).ends_with("(exit 1)"));
    // On another device a time says nothing.
    let mut moved = base.clone();
    moved.environment.device = "cuda:0".into();
    let verdict = gate(&base, &moved);
    assert!(verdict.findings.iter().filter(|f| f.is_speed()).all(|f| f.outcome == Outcome::Inconclusive));
    assert!(verdict.warnings[0].contains("device differs"));
}

#[test]
fn later_rules_override_earlier_ones_for_the_rows_they_match() {
    let base = fixture::story(1);
    let mut worse = base.clone();
    edit(&mut worse, "oracle_nll", |_, x| 1.1 * x);
    let json =
        r#"{"rules": [{"metric": "nll"}, {"metric": "nll", "model": "student", "steps": [1, 2], "relative": 0.2}]}"#;
    let config: GateConfig = serde_json::from_str(json).unwrap();
    let verdict = judge(&base, &worse, &config, &Selection::everything(), false).unwrap();
    let outcomes = [1, 2, 4].map(|s| of(&verdict, "student", s, "oracle_nll").outcome);
    assert_eq!(outcomes, [Outcome::Pass, Outcome::Pass, Outcome::Fail]);
}

#[test]
fn rules_that_could_never_fail_are_refused() {
    let base = fixture::story(1);
    let error = |json: &str| {
        let config: GateConfig = serde_json::from_str(json).unwrap();
        let e = judge(&base, &base, &config, &Selection::everything(), false).unwrap_err();
        assert_eq!(e.kind, Kind::Usage);
        e.to_string()
    };
    assert!(error(r#"{"rules": [{"metric": "nll", "model": "studnet"}]}"#).contains("did you mean `student`?"));
    assert!(error(r#"{"rules": [{"metric": "nll", "steps": [3]}]}"#).contains("no row with 3 steps"));
    assert!(error(r#"{"rules": [{"metric": "latency", "model": "oracle"}]}"#).contains("no `latency`"));
    assert!(error(r#"{"rules": [{"metric": "nll", "relative": 0.1, "absolute": 1}]}"#).contains("both"));
    assert!(error(r#"{"rules": [{"metric": "nll", "relative": -0.1}]}"#).contains("between 0 and"));
    assert!(error(r#"{"rules": []}"#).contains("nothing to judge"));
    assert!(error(r#"{"resamples": 10}"#).contains("between 100 and 100000"));
    assert!(error(r#"{"resamples": 1099511627776}"#).contains("between 100 and 100000"));
    assert!(serde_json::from_str::<GateConfig>(r#"{"rule": []}"#).is_err());
    assert!(serde_json::from_str::<GateConfig>(r#"{"rules": [{"metric": "nll", "max": 1}]}"#).is_err());
}

#[test]
fn a_handful_of_samples_without_variation_settles_nothing() {
    let valid = |n: usize, hash: &str| {
        let mut r = simulated(1, n, 1.5, 1.0);
        r.models[0].weights_sha256 = hash.into();
        r
    };
    let rule = GateConfig { rules: vec![GateRule::of(Metric::Valid)], ..GateConfig::default() };
    let outcome =
        |a: &Results, b: &Results| judge(a, b, &rule, &Selection::everything(), false).unwrap().outcome(false);
    assert_eq!(outcome(&valid(20, "a"), &valid(20, "b")), Outcome::Inconclusive);
    assert_eq!(outcome(&valid(80, "a"), &valid(80, "b")), Outcome::Pass);
    assert_eq!(outcome(&valid(20, "a"), &valid(20, "a")), Outcome::Pass);
}

#[test]
fn one_sample_settles_nothing_however_far_it_moved() {
    let rule = GateConfig { rules: vec![GateRule::of(Metric::Nll)], ..GateConfig::default() };
    let (a, b) = (simulated(1, 1, 1.5, 0.6), simulated(2, 1, 9.0, 0.6));
    for (one, other) in [(&a, &b), (&b, &a), (&a, &simulated(1, 1, 9.0, 0.6)), (&simulated(1, 2, 1.5, 0.6), &b)] {
        let verdict = judge(one, other, &rule, &Selection::everything(), false).unwrap();
        assert_eq!(verdict.outcome(false), Outcome::Inconclusive);
        assert!(verdict.findings.iter().filter(|f| !f.is_speed()).all(|f| f.blind && f.needed.is_some()));
    }
    assert!(judge(&a, &a, &rule, &Selection::everything(), false).unwrap().passes(true));
}

#[test]
fn text_lines_are_aligned_and_read_as_documented() {
    let base = fixture::story(1);
    let mut worse = base.clone();
    edit(&mut worse, "oracle_nll", |_, x| 1.2 * x);
    let text = render::text(&gate(&base, &worse), false, true);
    let line = text.lines().find(|l| l.starts_with("student   oracle_nll   steps 8 ")).unwrap();
    assert!(line.contains("change [+20.0 %, +20.0 %]  limit +5 %"), "{line}");
    assert!(line.ends_with("   fail"), "{line}");
    assert!(text.ends_with("verdict   fail, 8 quality metrics failed (exit 1)"), "{text}");
    assert!(text.contains("limit ±2 %") && text.contains("limit -0.05"));
    let column = |l: &str| l.find("change [").unwrap();
    let columns: std::collections::HashSet<usize> =
        text.lines().filter(|l| l.contains("change [")).map(column).collect();
    assert_eq!(columns.len(), 1);
}

#[test]
fn junit_is_well_formed_whatever_the_names_are() {
    let mut base = fixture::story(1);
    base.models[2].name = "a<b>&\"c'\u{1}".into();
    let mut worse = base.clone();
    worse.models[2].rows.iter_mut().for_each(|r| r.samples["oracle_nll"].iter_mut().for_each(|x| *x *= 2.0));
    rescored(&mut worse);
    worse.models[2].rows[0].speed = None;
    worse.environment.threads = 3;
    let verdict = gate(&base, &worse);
    let xml = render::junit(&verdict, false);
    assert_eq!(xml.matches("<testcase ").count(), verdict.findings.len());
    assert_eq!(xml.matches("<failure type=\"fail\"").count(), 8);
    well_formed(&xml);
    assert!(render::job_summary(&verdict, false).starts_with("**fail, 8 quality metrics failed, "));
}

/// Names that would be links, images, mentions, markup, further cells, rows or paragraphs, or move a terminal.
const HOSTILE: [&str; 9] = [
    "[x](https://example.org)",
    "![x](https://example.org/a.png)",
    "@somebody",
    "https://example.org",
    "</code></td></tr></table><img src=x>",
    "a|b | c",
    "a\n\n# heading\n- @somebody",
    "`a` **b** ``c",
    "\u{1b}]0;x\u{7}\u{9b}2J\u{202e}",
];

#[test]
fn no_name_leaves_its_cell_on_a_terminal_or_a_summary_page() {
    for name in HOSTILE {
        let mut base = fixture::story(1);
        base.models[2].name = name.into();
        let mut candidate = base.clone();
        candidate.models[3].name = format!("new {name}");
        let config = GateConfig { resamples: 100, ..GateConfig::default() };
        let verdict = judge(&base, &candidate, &config, &Selection::everything(), false).unwrap();
        let summary = render::job_summary(&verdict, false);
        // One paragraph, one table and one list of warnings, between empty lines, and no markup but that of the page.
        assert_eq!(summary.trim_end().split("\n\n").count(), 3, "{summary}");
        assert_eq!(summary.matches("<tr>").count(), verdict.findings.len() + 1);
        assert!(!summary.contains(|c| shown::is_hidden(c) && c != '\n') && !summary.contains("<img"), "{summary}");
        let cells: Vec<&str> = summary.lines().filter(|l| l.contains(&shown::markup(name))).collect();
        assert!(!cells.is_empty());
        for cell in cells {
            let code = cell.starts_with("<tr><td><code>") || cell.contains("warning: ");
            assert!(code, "{cell}");
        }
        let text = render::text(&verdict, false, true);
        assert_eq!(text.lines().count(), verdict.findings.len() + 1, "{text}");
        assert!(!text.contains(|c| shown::is_hidden(c) && c != '\n'), "{text:?}");
    }
}

/// Tags nest, attributes are quoted, `&` starts an entity, no forbidden character.
fn well_formed(xml: &str) {
    assert!(!xml.contains('\u{1}'));
    for part in xml.split('&').skip(1) {
        assert!(["lt;", "gt;", "amp;", "quot;", "apos;"].iter().any(|e| part.starts_with(e)), "{part}");
    }
    let mut open: Vec<&str> = Vec::new();
    for tag in xml.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap();
        assert!(tag.matches('"').count() % 2 == 0);
        match tag.strip_prefix('/') {
            _ if tag.starts_with('?') || tag.ends_with('/') => {}
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None => open.push(tag.split(' ').next().unwrap()),
        }
    }
    assert!(open.is_empty());
}

#[test]
fn a_verdict_survives_json() {
    let mut low = fixture::row(Level { nll: 2.0, valid: 0.1, entropy: 3.0 }, "oracle_nll", 8, fixture::N, 3);
    low.speed = None;
    let base = fixture::story(1);
    let mut cand = base.clone();
    cand.models[2].rows[3] = low;
    let verdict = gate(&base, &cand);
    let json = serde_json::to_string(&verdict).unwrap();
    assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), verdict);
    let printed: serde_json::Value = serde_json::from_str(&render::json(&verdict, true).unwrap()).unwrap();
    assert_eq!((&printed["outcome"], &printed["strict"]), (&"fail".into(), &true.into()));
    assert_eq!(printed["findings"].as_array().unwrap().len(), verdict.findings.len());
}

#[test]
fn several_training_seeds_are_judged_by_their_spread_and_not_by_the_number_of_samples() {
    let base = fixture::several(&[1, 2, 3]);
    let verdict = gate(&base, &base);
    assert!(verdict.passes(true) && verdict.findings.iter().all(|f| f.change.unwrap().mean == 0.0));
    // One seed of three is worse by a half: a sixth on average, which three seeds cannot tell from chance.
    let mut one = base.clone();
    edit(&mut one, "oracle_nll", |i, x| if i < fixture::N { 1.5 * x } else { x });
    let verdict = gate(&base, &one);
    let finding = of(&verdict, "student", 8, "oracle_nll");
    assert_eq!((finding.outcome, finding.needed), (Outcome::Inconclusive, None));
    assert!(finding.note.as_ref().unwrap().contains("3 training seeds do not settle it"), "{finding:?}");
    // All of them worse is told at once, and other seeds are no pairs.
    let mut all = base.clone();
    edit(&mut all, "oracle_nll", |_, x| 1.5 * x);
    assert_eq!(of(&gate(&base, &all), "student", 8, "oracle_nll").outcome, Outcome::Fail);
    let verdict = gate(&base, &fixture::several(&[4, 5, 6]));
    assert_eq!(of(&verdict, "student", 8, "oracle_nll").pairing, Some(Pairing::Unpaired));
}

/// The text study with this share of copies in the student's first row, of 64 samples, and in held-out text.
fn copying(share: f64, real: f64) -> Results {
    let mut results = fixture::text(1);
    let flags = |share: f64| (0..64).map(|i| f64::from(u8::from(f64::from(i) < 64.0 * share))).collect::<Vec<f64>>();
    results.data.reference.insert("copies".into(), mean_interval(&flags(real), 0));
    let row = &mut results.models[2].rows[0];
    row.scores.insert("copies".into(), mean_interval(&flags(share), 0));
    row.samples.insert("copies".into(), flags(share));
    results
}

#[test]
fn a_student_that_copies_more_than_before_fails_and_one_that_copies_more_than_real_text_is_warned_of() {
    let copies =
        |verdict: &Verdict| verdict.findings.iter().find(|f| f.metric == Some(Metric::Copies)).map(|f| f.outcome);
    let verdict = gate(&copying(0.0, 0.05), &copying(0.5, 0.05));
    assert_eq!(copies(&verdict), Some(Outcome::Fail));
    assert!(
        verdict.warnings.iter().any(|w| w.contains("`student`, steps 1: 50 % of the samples copy")),
        "{:?}",
        verdict.warnings
    );
    let verdict = gate(&copying(0.05, 0.05), &copying(0.0, 0.05));
    assert_eq!((copies(&verdict), verdict.warnings.len()), (Some(Outcome::Pass), 0));
    // Results of before have no such score: it is not asked for.
    assert_eq!(copies(&gate(&fixture::text(1), &copying(0.5, 0.5))), None);
}
