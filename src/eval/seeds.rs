//! A study trained with several seeds as one: each model once, its samples those of all seeds, its intervals the spread
//! between seeds.
//!
//! Every seed samples with a sampling seed of its own, the same for all its models: seeds are independent of each other, and
//! sample i of seed s is the same draw of noise in every model, so that models are compared in pairs. Where seeds made the
//! same weights (the oracle, a judge, a checkpoint as it is) there is no spread over seeds, and the interval is the bootstrap
//! over all samples. Estimators: `stats`.

use indexmap::IndexMap;

use super::control::{Control, ControlRow};
use super::flexibility::{Flexibility, Task};
use super::metric::Metric;
use super::results::{
    DataSummary, Likelihood, ModelResult, Reconstruction, ReconstructionPoint, Results, Row, SeedModel, SeedRow,
    SweepRow,
};
use super::sampler::SamplerNll;
use super::stats::{Estimate, mean, mean_interval, seeds_interval, shared_interval};
use crate::error::{Error, Result};
use crate::fs::sha256_hex;

/// Further scores that are shares, so that an interval ends at 0 and 1: of tasks that are no metric of a row.
const SHARES: [&str; 4] = ["attribute", "length", "both", "well_formed"];

fn is_share(key: &str) -> bool {
    SHARES.contains(&key) || Metric::all().map(Metric::facts).any(|facts| facts.share && facts.key == key)
}

/// The results of one study under each of its training seeds (at least one), joined; `recipe` is the study's own text and
/// `sampling` its `eval.seed`. Models and rows that a seed lacks are left out.
///
/// # Errors
/// Seeds that were measured on different data (input).
///
/// # Panics
/// Where `seeds` is empty.
pub fn join(recipe: &str, sampling: u64, seeds: &[(u64, Results)]) -> Result<Results> {
    let Some((_, first)) = seeds.first() else { panic!("a study without seeds") };
    for (seed, other) in seeds {
        let what = |d: &DataSummary| (d.sha256.clone(), d.tokenizer_sha256.clone(), d.nll_name.clone(), d.length);
        if what(&other.data) != what(&first.data) {
            return Err(Error::input(format!("seed {seed} was evaluated on other data than seed {}", seeds[0].0))
                .hint("run the recipe again in a new directory"));
        }
    }
    let models = first.models.iter().filter_map(|model| {
        let each: Option<Vec<_>> = seeds.iter().map(|(seed, r)| Some((*seed, r.model(&model.name)?))).collect();
        Some(join_model(&each?, sampling))
    });
    Ok(Results {
        recipe: recipe.to_string(),
        recipe_sha256: sha256_hex(recipe.as_bytes()),
        models: models.collect(),
        ..first.clone()
    })
}

fn join_model(each: &[(u64, &ModelResult)], sampling: u64) -> ModelResult {
    let first = each[0].1;
    let over = |f: fn(&ModelResult) -> f64| mean(&each.iter().map(|(_, m)| f(m)).collect::<Vec<_>>());
    let by_seed: Vec<SeedModel> = each
        .iter()
        .map(|(seed, m)| SeedModel {
            seed: *seed,
            weights_sha256: m.weights_sha256.clone(),
            train_seconds: m.train_seconds,
            likelihood: m.likelihood.map(|l| l.estimate.mean),
        })
        .collect();
    let mut model = ModelResult { by_seed, train_seconds: over(|m| m.train_seconds), ..first.clone() };
    let varies = model.varies();
    if varies {
        model.weights_sha256 =
            sha256_hex(each.iter().map(|(_, m)| m.weights_sha256.as_str()).collect::<String>().as_bytes());
    }
    let rows = first.rows.iter().filter_map(|row| {
        let parts: Option<Vec<_>> = each.iter().map(|(seed, m)| Some((*seed, m.row(row.steps)?))).collect();
        Some(join_row(&parts?, varies, sampling))
    });
    model.rows = rows.collect();
    let swept = first.sweep.iter().filter_map(|row| {
        let same = |r: &&SweepRow| (r.steps, r.temperature) == (row.steps, row.temperature);
        let parts: Option<Vec<_>> = each.iter().map(|(_, m)| m.sweep.iter().find(same)).collect();
        let samples = concatenated(&parts?.iter().map(|r| &r.samples).collect::<Vec<_>>());
        let n = samples.values().next().map_or(0, Vec::len);
        let scores = estimates(&samples, each.len(), varies);
        Some(SweepRow { n, seed: sampling, scores, samples, ..row.clone() })
    });
    model.sweep = swept.collect();
    let likelihoods: Option<Vec<Likelihood>> = each.iter().map(|(_, m)| m.likelihood).collect();
    model.likelihood = likelihoods.map(|all| {
        let estimates: Vec<Estimate> = all.iter().map(|l| l.estimate).collect();
        Likelihood { estimate: shared(&estimates, varies), ..all[0] }
    });
    let found: Option<Vec<&Flexibility>> = each.iter().map(|(_, m)| m.flexibility.as_ref()).collect();
    model.flexibility = found.map(|all| join_flexibility(&all, varies));
    let found: Option<Vec<&Control>> = each.iter().map(|(_, m)| m.control.as_ref()).collect();
    model.control = found.map(|all| join_control(&all, varies, sampling));
    let found: Option<Vec<&Reconstruction>> = each.iter().map(|(_, m)| m.reconstruction.as_ref()).collect();
    model.reconstruction = found.map(|all| join_reconstruction(&all, varies));
    model
}

fn join_row(parts: &[(u64, &Row)], varies: bool, sampling: u64) -> Row {
    let first = parts[0].1;
    let over = |f: fn(&Row) -> f64| mean(&parts.iter().map(|(_, r)| f(r)).collect::<Vec<_>>());
    let optional = |f: fn(&Row) -> Option<f64>| {
        let all: Option<Vec<f64>> = parts.iter().map(|(_, r)| f(r)).collect();
        all.map(|all| mean(&all))
    };
    let samples = concatenated(&parts.iter().map(|(_, r)| &r.samples).collect::<Vec<_>>());
    let corpus = first.corpus.keys().filter_map(|key| {
        let all: Option<Vec<f64>> = parts.iter().map(|(_, r)| r.corpus.get(key).copied()).collect();
        Some((key.clone(), mean(&all?)))
    });
    let of_seed = |(seed, row): &(u64, &Row)| SeedRow {
        seed: *seed,
        sampling: row.seed,
        n: row.n,
        scores: row.scores.iter().map(|(key, e)| (key.clone(), e.mean)).collect(),
    };
    Row {
        nfe: over(|r| r.nfe),
        positions: over(|r| r.positions),
        layer_positions: optional(|r| r.layer_positions),
        decode_positions: optional(|r| r.decode_positions),
        steps_per_block: optional(|r| r.steps_per_block),
        n: parts.iter().map(|(_, r)| r.n).sum(),
        seed: sampling,
        scores: estimates(&samples, parts.len(), varies),
        samples,
        corpus: corpus.collect(),
        by_seed: parts.iter().map(of_seed).collect(),
        sampler_nll: join_sampler(&parts.iter().map(|(_, r)| r.sampler_nll.as_ref()).collect::<Vec<_>>(), varies),
        ..first.clone()
    }
}

/// The sampler's likelihood of the same texts under each seed's weights, text after text and seed after seed.
fn join_sampler(parts: &[Option<&SamplerNll>], varies: bool) -> Option<SamplerNll> {
    let all: Vec<&SamplerNll> = parts.iter().copied().collect::<Option<_>>()?;
    // The same weights say the same of the same texts.
    if !varies || all.iter().any(|s| s.texts_sha256 != all[0].texts_sha256) {
        return Some(all[0].clone()).filter(|_| !varies);
    }
    let texts: Vec<f64> = all.iter().flat_map(|s| s.texts.iter().copied()).collect();
    let spread: Option<Vec<f64>> = all.iter().map(|s| s.spread).collect();
    Some(SamplerNll {
        estimate: shared(&all.iter().map(|s| s.estimate).collect::<Vec<_>>(), varies),
        kind: all[0].kind,
        n: texts.len(),
        texts,
        texts_sha256: all[0].texts_sha256.clone(),
        spread: spread.map(|s| mean(&s)),
    })
}

/// The scores of all seeds, seed after seed; keys that one lacks are left out.
fn concatenated(parts: &[&IndexMap<String, Vec<f64>>]) -> IndexMap<String, Vec<f64>> {
    let keys = parts[0].keys().filter(|key| parts.iter().all(|p| p.contains_key(*key)));
    keys.map(|key| (key.clone(), parts.iter().flat_map(|p| p[key].iter().copied()).collect())).collect()
}

/// The intervals of scores of `seeds` equal parts.
fn estimates(samples: &IndexMap<String, Vec<f64>>, seeds: usize, varies: bool) -> IndexMap<String, Estimate> {
    let one = |key: &str, values: &[f64]| match varies && values.len() >= seeds {
        true => {
            let means: Vec<f64> = values.chunks(values.len() / seeds).map(mean).collect();
            within(key, seeds_interval(&means))
        }
        false => mean_interval(values, 0),
    };
    samples.iter().filter(|(_, v)| !v.is_empty()).map(|(key, values)| (key.clone(), one(key, values))).collect()
}

/// A share's interval without what lies beyond 0 and 1.
fn within(key: &str, e: Estimate) -> Estimate {
    match is_share(key) {
        true => share(e),
        false => e,
    }
}

fn share(e: Estimate) -> Estimate {
    Estimate { low: e.low.max(0.0), high: e.high.min(1.0), ..e }
}

/// The interval of what every seed measured on the same texts.
fn shared(each: &[Estimate], varies: bool) -> Estimate {
    if varies { shared_interval(each) } else { each[0] }
}

fn join_flexibility(all: &[&Flexibility], varies: bool) -> Flexibility {
    let task = |parts: &[&Task]| {
        let samples = concatenated(&parts.iter().map(|t| &t.samples).collect::<Vec<_>>());
        let score = |key: &String| {
            let each: Vec<Estimate> = parts.iter().map(|t| t.scores[key]).collect();
            let e = shared(&each, varies);
            (key.clone(), if key == "nll" || key == "posterior_entropy" { e } else { share(e) })
        };
        Task {
            n: parts.iter().map(|t| t.n).sum(),
            nfe: mean(&parts.iter().map(|t| t.nfe).collect::<Vec<_>>()),
            scores: samples.keys().filter(|key| parts.iter().all(|t| t.scores.contains_key(*key))).map(score).collect(),
            samples,
        }
    };
    let remasked: Option<Vec<&Task>> = all.iter().map(|f| f.remasked.as_ref()).collect();
    Flexibility {
        infill: task(&all.iter().map(|f| &f.infill).collect::<Vec<_>>()),
        recovery: task(&all.iter().map(|f| &f.recovery).collect::<Vec<_>>()),
        remasked: remasked.map(|parts| task(&parts)),
        ..all[0].clone()
    }
}

/// Every seed drew for conditions of its own.
fn join_control(all: &[&Control], varies: bool, sampling: u64) -> Control {
    let row = |first: &ControlRow| {
        let same = |c: &&Control| c.rows.iter().position(|r| (r.arm, r.steps) == (first.arm, first.steps));
        let parts: Option<Vec<&ControlRow>> = all.iter().map(|c| Some(&c.rows[same(c)?])).collect();
        let parts = parts?;
        let over = |f: fn(&ControlRow) -> f64| mean(&parts.iter().map(|r| f(r)).collect::<Vec<_>>());
        let samples = concatenated(&parts.iter().map(|r| &r.samples).collect::<Vec<_>>());
        let corpus = first.corpus.keys().filter_map(|key| {
            let each: Option<Vec<f64>> = parts.iter().map(|r| r.corpus.get(key).copied()).collect();
            Some((key.clone(), mean(&each?)))
        });
        Some(ControlRow {
            n: parts.iter().map(|r| r.n).sum(),
            nfe: over(|r| r.nfe),
            positions: over(|r| r.positions),
            scores: estimates(&samples, parts.len(), varies),
            samples,
            corpus: corpus.collect(),
            ..first.clone()
        })
    };
    let reference = all[0].reference.keys().filter_map(|key| {
        let each: Option<Vec<Estimate>> = all.iter().map(|c| c.reference.get(key).copied()).collect();
        Some((key.clone(), pooled(&each?)))
    });
    Control { seed: sampling, rows: all[0].rows.iter().filter_map(row).collect(), reference: reference.collect() }
}

/// The mean of independent estimates, each side of its interval by the sum of squares.
fn pooled(each: &[Estimate]) -> Estimate {
    let over = |f: fn(&Estimate) -> f64| each.iter().map(f).map(|x| x * x).sum::<f64>().sqrt() / each.len() as f64;
    let middle = mean(&each.iter().map(|e| e.mean).collect::<Vec<_>>());
    Estimate { mean: middle, low: middle - over(|e| e.mean - e.low), high: middle + over(|e| e.high - e.mean) }
}

fn join_reconstruction(all: &[&Reconstruction], varies: bool) -> Reconstruction {
    let point = |first: &ReconstructionPoint| {
        let same = |r: &&Reconstruction| r.points.iter().find(|p| p.sigma == first.sigma).copied();
        let each: Option<Vec<ReconstructionPoint>> = all.iter().map(same).collect();
        let each = each?;
        let of =
            |f: fn(&ReconstructionPoint) -> Estimate| share(shared(&each.iter().map(f).collect::<Vec<_>>(), varies));
        Some(ReconstructionPoint { sigma: first.sigma, accuracy: of(|p| p.accuracy), exact: of(|p| p.exact) })
    };
    Reconstruction { points: all[0].points.iter().filter_map(point).collect(), ..all[0].clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::results::{Metric, fixture};
    use crate::eval::stats::student_t;

    #[test]
    fn joined_results_have_every_sample_and_the_value_of_each_seed_and_survive_the_file() {
        let results = fixture::several(&[1, 2, 3]);
        results.check().unwrap();
        let row = results.model("student").unwrap().row(8).unwrap();
        assert_eq!((row.n, row.samples["valid"].len(), row.by_seed.len()), (3 * fixture::N, 3 * fixture::N, 3));
        let means: Vec<f64> = row.by_seed.iter().map(|s| s.scores["oracle_nll"]).collect();
        let e = results.score(row, Metric::Nll).unwrap();
        let spread = (means.iter().map(|m| (m - e.mean).powi(2)).sum::<f64>() / 2.0).sqrt();
        assert!((e.mean - mean(&row.samples["oracle_nll"])).abs() < 1e-12);
        assert!((e.high - e.mean - student_t(2) * spread / 3f64.sqrt()).abs() < 1e-9);
        let back: Results = serde_json::from_str(&serde_json::to_string(&results).unwrap()).unwrap();
        assert_eq!(back, results);
        assert_eq!(results.seeds(), [1, 2, 3]);
    }

    #[test]
    fn the_samplers_likelihood_is_joined_by_seed_and_the_same_weights_say_it_once() {
        let with = |seed: u64, name: &str, sha: &str| {
            let mut one = fixture::story(seed);
            for model in one.models.iter_mut().filter(|m| m.name == name) {
                if name == "student" {
                    model.weights_sha256 = seed.to_string();
                }
                for row in &mut model.rows {
                    let texts = vec![1.0 + seed as f64, 2.0 + seed as f64];
                    let estimate = mean_interval(&texts, 0);
                    let kind = crate::eval::results::Bound::Exact;
                    let texts_sha256 = sha.to_string();
                    row.sampler_nll = Some(SamplerNll { estimate, kind, n: 2, texts, texts_sha256, spread: None });
                }
            }
            (seed, one)
        };
        let joined = join("", 0, &[with(1, "student", "a"), with(2, "student", "a"), with(3, "student", "a")]).unwrap();
        joined.check().unwrap();
        let model = joined.model("student").unwrap();
        let own = model.row(8).unwrap().sampler_nll.as_ref().unwrap();
        assert_eq!((own.n, &own.texts[..]), (6, &[2.0, 3.0, 3.0, 4.0, 4.0, 5.0][..]));
        assert_eq!((own.estimate.mean, model.text_groups(model.row(8).unwrap())), (3.5, vec![2, 2, 2]));
        let tables = crate::eval::results::Metric::SamplerNll;
        assert_eq!(joined.score(model.row(8).unwrap(), tables).unwrap(), own.estimate);
        let oracle = join("", 0, &[with(1, "oracle", "a"), with(2, "oracle", "a")]).unwrap();
        assert_eq!(oracle.model("oracle").unwrap().row(8).unwrap().sampler_nll.as_ref().unwrap().n, 2);
        let other = join("", 0, &[with(1, "student", "a"), with(2, "student", "b")]).unwrap();
        assert!(other.model("student").unwrap().row(8).unwrap().sampler_nll.is_none(), "other texts are not joined");
    }

    #[test]
    fn one_set_of_weights_has_no_spread_over_seeds() {
        let results = fixture::several(&[1, 2, 3]);
        let oracle = results.model("oracle").unwrap();
        assert!(!oracle.varies() && results.model("teacher").unwrap().varies());
        let row = oracle.row(8).unwrap();
        assert_eq!(row.scores["oracle_nll"], mean_interval(&row.samples["oracle_nll"], 0));
        assert_eq!(oracle.groups(row), [3 * fixture::N]);
    }

    #[test]
    fn a_share_stays_between_0_and_1_however_few_the_seeds() {
        let results = fixture::several(&[1, 2]);
        let rows = results.models.iter().flat_map(|m| &m.rows);
        assert!(rows.map(|r| r.scores["valid"]).all(|e| e.low >= 0.0 && e.high <= 1.0));
    }

    #[test]
    fn generation_under_conditions_has_the_sentences_of_every_seed_and_the_spread_between_them() {
        let one = |values: [f64; 2]| {
            let samples = IndexMap::from([("attribute".to_string(), values.to_vec())]);
            let scores = estimates(&samples, 1, false);
            let corpus = IndexMap::from([("unique".to_string(), values[0])]);
            let row = |steps: usize| ControlRow {
                arm: crate::eval::control::Arm::Infilling,
                steps,
                n: 2,
                nfe: 4.0 + values[0],
                positions: 8.0,
                scores: scores.clone(),
                samples: samples.clone(),
                corpus: corpus.clone(),
            };
            let reference = IndexMap::from([("attribute".to_string(), Estimate { mean: 0.5, low: 0.1, high: 0.8 })]);
            Control { seed: 9, rows: vec![row(4), row(8)], reference }
        };
        let (a, b, mut c) = (one([1.0, 1.0]), one([0.0, 1.0]), one([0.0, 0.0]));
        c.rows.remove(1);
        let joined = join_control(&[&a, &b, &c], true, 3);
        assert_eq!((joined.seed, joined.rows.len(), joined.rows[0].steps), (3, 1, 4));
        let row = &joined.rows[0];
        assert_eq!((row.n, &row.samples["attribute"][..]), (6, &[1.0, 1.0, 0.0, 1.0, 0.0, 0.0][..]));
        assert_eq!((row.scores["attribute"].mean, row.corpus["unique"]), (0.5, 1.0 / 3.0));
        // The seeds' means 1, 0.5, 0 spread so far that a share's interval is all there is.
        assert_eq!((row.scores["attribute"].low, row.scores["attribute"].high), (0.0, 1.0));
        let real = joined.reference["attribute"];
        assert!((real.low - (0.5 - 0.4 / 3f64.sqrt())).abs() < 1e-12 && real.high > 0.67, "{real:?}");
        let mut results = [1u64, 2].map(|seed| (seed, fixture::story(seed)));
        for (i, (_, r)) in results.iter_mut().enumerate() {
            r.models[0].control = Some(one([i as f64, 1.0]));
        }
        let joined = join("", 0, &results).unwrap();
        joined.check().unwrap();
        assert_eq!(joined.models[0].control.as_ref().unwrap().rows[0].samples["attribute"].len(), 4);
        results[1].1.models[0].control = None;
        assert!(join("", 0, &results).unwrap().models[0].control.is_none());
    }

    #[test]
    fn samples_that_seeds_do_not_divide_and_other_data_are_refused() {
        let mut results = fixture::several(&[1, 2, 3]);
        results.models[1].rows[0].by_seed[0].n -= 1;
        assert!(results.check().unwrap_err().message.contains("by training seed"));
        let mut other = fixture::story(2);
        other.data.sha256 = "00".into();
        let e = join("", 0, &[(1, fixture::story(1)), (2, other)]).unwrap_err();
        assert!(e.message.contains("seed 2 was evaluated on other data"), "{e}");
    }

    #[test]
    fn a_row_that_one_seed_lacks_is_left_out() {
        let mut two = fixture::story(2);
        two.models[2].rows.remove(0);
        let joined = join("", 0, &[(1, fixture::story(1)), (2, two)]).unwrap();
        assert_eq!(joined.models[2].rows.len(), fixture::STEPS.len() - 1);
    }
}
