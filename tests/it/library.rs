//! The library's front: the examples run, and what they draw is what the binary draws.

use fewstep::prelude::*;

use super::binary::Place;

#[path = "../../examples/sample.rs"]
mod sample;
#[path = "../../examples/train.rs"]
mod train;

#[test]
fn the_examples_train_a_study_and_sample_from_what_it_exports() {
    let place = Place::new();
    let out = place.path("run").display().to_string();
    train::run("tiny", &out).unwrap();
    assert!(place.path("run/report/report.md").exists());
    sample::run(&place.path("run/export/student").display().to_string(), 2).unwrap();
    // The same directory, the same seeds: the binary's own texts.
    let model = Model::load(place.path("run/models/student/final")).unwrap();
    let texts = model.sampler().steps(2).seed(5).sample(3).unwrap();
    let drawn = place.run(&["sample", "run", "--model", "student", "-n", "3", "--steps", "2", "--seed", "5"]).ok().out;
    assert_eq!(texts.join("\n"), drawn.trim_end());
    // In its own number of steps, behind a prompt, and in another order.
    let begun = model.sampler().prompt("mia has").sample(2).unwrap();
    assert!(begun.iter().all(|text| text.starts_with("mia has")), "{begun:?}");
    let strided = model.sampler().decode(DecodeConfig::Order(OrderConfig::Strided(4))).steps(4).draw(2).unwrap();
    assert_eq!(strided.nfe, [4, 4]);
    let none = model
        .sampler()
        .decode(DecodeConfig::Order(OrderConfig::Mixture(vec![OrderConfig::Strided(2), OrderConfig::Strided(4)])))
        .draw(1);
    assert!(none.unwrap_err().to_string().contains("one order is sampled at a time"));
    // What the binary refuses is refused here.
    for wrong in [model.sampler().temperature(-1.0), model.sampler().temperature(f64::NAN), model.sampler().steps(0)] {
        assert!(wrong.draw(1).is_err());
    }
    assert!(model.sampler().published("llada").draw(1).unwrap_err().to_string().contains("for public checkpoints"));
    assert!(Study::open("tini").is_err() && Model::load(place.path("nowhere")).is_err());
}
