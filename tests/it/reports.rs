//! What the committed reports are said to show, read from their results.

use std::path::Path;

use fewstep::eval::results::{Metric, Results, Role};

fn report(name: &str) -> Results {
    Results::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("reports").join(name).join("results.json")).unwrap()
}

fn accuracy(results: &Results, model: &str) -> f64 {
    let reconstruction = results.model(model).unwrap().reconstruction.clone().unwrap();
    assert_eq!(reconstruction.compression, 4.0);
    assert_eq!(reconstruction.points[0].sigma, 0.0);
    // What noise on the latents does to the text is measured, and it does something.
    assert!(reconstruction.points.last().unwrap().accuracy.high < reconstruction.points[0].accuracy.low);
    reconstruction.points[0].accuracy.mean
}

#[test]
fn autoencoders_of_the_latent_reports_give_back_their_held_out_texts() {
    assert!(accuracy(&report("latent"), "codec") >= 0.99);
    assert!(accuracy(&report("latent-shakespeare"), "codec") >= 0.95);
}

#[test]
fn one_step_latent_students_beat_every_one_step_model_of_tokens_and_four_steps_reach_the_teacher() {
    let results = report("latent");
    let at = |name: &str, steps: usize, metric: Metric| {
        let row = results.model(name).unwrap().row(steps).unwrap();
        results.score(row, metric).unwrap()
    };
    let tokens = ["teacher", "student", "oracle"];
    let students: Vec<&str> = results
        .models
        .iter()
        .filter(|m| m.role == Role::Student && m.codec.is_some())
        .map(|m| m.name.as_str())
        .collect();
    assert!(students.len() >= 7, "{students:?}");
    // A text that is always the same scores well and is no sample: such rows do not count.
    let varied = |name: &str, steps: usize| results.model(name).unwrap().row(steps).unwrap().corpus["unique"] > 0.25;
    let mut beats = 0;
    for name in students.iter().filter(|name| varied(name, 1)) {
        let better = tokens.iter().all(|token| {
            at(name, 1, Metric::Nll).wholly_below(at(token, 1, Metric::Nll))
                && at(token, 1, Metric::Valid).wholly_below(at(name, 1, Metric::Valid))
        });
        assert!(better, "{name}");
        beats += 1;
    }
    assert!(beats >= 5, "{beats} of {students:?}");
    let teacher = results.model("flow").unwrap().full().unwrap();
    let reaches = |name: &&&str| {
        let (own, theirs) = (at(name, 4, Metric::Valid), results.score(teacher, Metric::Valid).unwrap());
        let (nll, their_nll) = (at(name, 4, Metric::Nll), results.score(teacher, Metric::Nll).unwrap());
        varied(name, 4) && own.mean >= theirs.low && nll.mean <= their_nll.high
    };
    let there: Vec<&&str> = students.iter().filter(reaches).collect();
    assert!(there.len() >= 2, "only {there:?}");
}
