//! Whether the scores of a results file are those of its own samples.

use indexmap::IndexMap;

use super::Results;
use crate::error::{Error, Result};
use crate::eval::flexibility::Flexibility;
use crate::eval::stats::{Estimate, mean};

/// Rounding that two ways of adding the same numbers may differ by, as a share of the largest of them.
const ROUNDING: f64 = 1e-9;

/// Refuses (kind input) a mean that is not that of the samples it is of.
pub fn check(results: &Results) -> Result<()> {
    for model in &results.models {
        for row in &model.rows {
            let place = format!("model `{}`, steps {}", model.name, row.steps);
            means(&place, &row.scores, &row.samples)?;
            // Of several seeds it is the mean over them.
            let alike = row.by_seed.windows(2).all(|pair| pair[0].n == pair[1].n);
            for (key, value) in row.corpus.iter().filter(|_| alike) {
                row.samples.get(key).map_or(Ok(()), |samples| agrees(&place, key, *value, samples))?;
            }
            let own = row.sampler_nll.as_ref();
            own.map_or(Ok(()), |own| agrees(&place, "sampler_nll", own.estimate.mean, &own.texts))?;
            let mut from = 0;
            for part in &row.by_seed {
                let place = format!("{place}, seed {}", part.seed);
                for (key, value) in &part.scores {
                    let samples = row.samples.get(key).and_then(|s| s.get(from..from + part.n));
                    samples.map_or(Ok(()), |samples| agrees(&place, key, *value, samples))?;
                }
                from += part.n;
            }
        }
        for row in &model.sweep {
            let place = format!("model `{}`, steps {}, temperature {}", model.name, row.steps, row.temperature);
            means(&place, &row.scores, &row.samples)?;
        }
        for (task, found) in model.flexibility.iter().flat_map(Flexibility::tasks) {
            means(&format!("model `{}`, {task}", model.name), &found.scores, &found.samples)?;
        }
        for row in model.control.iter().flat_map(|c| &c.rows) {
            let place = format!("model `{}`, control in {} steps", model.name, row.steps);
            means(&place, &row.scores, &row.samples)?;
        }
    }
    Ok(())
}

fn means(place: &str, scores: &IndexMap<String, Estimate>, samples: &IndexMap<String, Vec<f64>>) -> Result<()> {
    let both = scores.iter().filter_map(|(key, score)| Some((key, score.mean, samples.get(key)?)));
    both.into_iter().try_for_each(|(key, mean, samples)| agrees(place, key, mean, samples))
}

/// What is not a finite number is refused elsewhere.
fn agrees(place: &str, key: &str, said: f64, samples: &[f64]) -> Result<()> {
    if samples.is_empty() {
        return Ok(());
    }
    let is = mean(samples);
    let largest = samples.iter().fold(said.abs(), |a, v| a.max(v.abs())).max(1.0);
    match (said - is).abs() > ROUNDING * largest {
        true => Err(Error::input(format!("{place}: the mean of `{key}` is {said}, and that of its samples {is}"))
            .hint("evaluate the study again: `fewstep eval RUN`")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;

    #[test]
    fn a_mean_that_contradicts_its_samples_is_refused_with_both() {
        for (seed, key) in [(1, "oracle_nll"), (2, "entropy"), (3, "valid")] {
            let mut results = fixture::story(seed);
            results.check().unwrap();
            let score = results.models[1].rows[0].scores.get_mut(key).unwrap();
            score.mean += 1e-6;
            let e = results.check().unwrap_err();
            assert!(e.message.contains(&format!("the mean of `{key}` is ")), "{e}");
        }
    }
}
