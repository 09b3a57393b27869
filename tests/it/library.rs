//! The library's front: the examples run, and what they draw is what the binary draws.

use fewstep::prelude::*;

use super::binary::Place;

#[path = "../../examples/distil.rs"]
mod distil;
#[path = "../../examples/own_data.rs"]
mod own_data;
#[path = "../../examples/own_denoiser.rs"]
mod own_denoiser;
#[path = "../../examples/own_method.rs"]
mod own_method;
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

#[test]
fn a_teacher_is_distilled_compared_and_reported_from_code() {
    let place = Place::new();
    let out = place.path("report");
    let results = distil::run(60, &out.display().to_string()).unwrap();
    assert_eq!(results.models.len(), 3);
    for model in &results.models {
        let [first, last] = [0, model.rows.len() - 1].map(|i| model.rows[i].scores["oracle_nll"].mean);
        assert!(model.rows.len() == 3 && first > last, "{}: more steps are not better: {first} {last}", model.name);
        assert!(model.rows.iter().all(|row| row.sampler_nll.is_some()) && model.likelihood.is_some());
    }
    // What was written is read by the binary, the report among it.
    let page = std::fs::read_to_string(out.join("report.md")).unwrap();
    assert!(
        page.contains("data of its own program") && page.contains("a program of its own, with the library"),
        "{page}"
    );
    place.run(&["report", "report/results.json", "--out", "again"]).ok();
    let gate = place.run(&["gate", "report/results.json", "--baseline", "report/results.json"]);
    assert!(gate.code == 0, "{}", gate.err);
}

#[test]
fn own_data_is_learnt_and_scored_by_a_judge() {
    let by_one = own_data::run(120).unwrap();
    // Of any two digits one pair in five differs by one.
    assert!(by_one > 0.5, "{by_one}");
}

#[test]
fn an_own_objective_learns() {
    // Untrained networks write stories of some 4 nats a token.
    let [own, elbo] = own_method::run(150).unwrap();
    assert!(own < 3.5 && elbo < 3.5, "{own} {elbo}");
}

#[test]
fn an_own_network_is_trained_distilled_and_sampled() {
    let [before, behind] = own_denoiser::run(200).unwrap();
    assert!(before < 3.5 && behind < before + 0.2, "{before} {behind}");
}

/// `cargo tree` of the library alone.
#[test]
fn a_library_without_command_line_and_plots_links_none_of_their_crates() {
    let tree = |features: &[&str]| {
        let mut cargo = std::process::Command::new(option_env!("CARGO").unwrap_or("cargo"));
        cargo.args(["tree", "--offline", "-e", "normal", "--prefix", "none", "--no-default-features"]).args(features);
        let ran = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let text = String::from_utf8(ran.stdout).unwrap();
        text.lines().filter_map(|line| line.split(' ').next()).map(str::to_string).collect::<Vec<_>>()
    };
    let (library, binary) = (tree(&["--features", "flex"]), tree(&["--features", "flex,cli,plots"]));
    for name in ["clap", "indicatif", "signal-hook", "mimalloc", "libmimalloc-sys", "plotters", "image", "dejavu"] {
        assert!(!library.contains(&name.to_string()), "a library links {name}");
        assert!(binary.contains(&name.to_string()), "the binary does not link {name}");
    }
}
