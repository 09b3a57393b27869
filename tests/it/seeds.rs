//! A study under several training seeds: one directory for each, one set of results, every command works on it.

use super::binary::Place;

const SETS: [&str; 10] = [
    "--set",
    "seeds=[3, 5]",
    "--set",
    "model.ar.train.steps=8",
    "--set",
    "model.teacher.train.steps=8",
    "--set",
    "model.student.train.steps=6",
    "--set",
    "eval.samples=16",
];

fn run(place: &Place, more: &[&str]) -> super::binary::Ran {
    place.run(&[&["run", "tiny", "--out", "r", "--set", "model.ar.train.warmup=2"], &SETS[..], more].concat())
}

#[test]
fn a_study_of_two_seeds_is_joined_resumes_and_is_read_by_every_command() {
    let place = Place::new();
    // The teachers first; then the same command does the rest.
    run(&place, &["--only", "teacher"]).ok();
    let weights = |seed: &str| {
        std::fs::read(place.path(&format!("r/seeds/{seed}/models/teacher/final/model.safetensors"))).unwrap()
    };
    let first = weights("3");
    assert_ne!(first, weights("5"));
    let ran = run(&place, &[]).ok();
    assert_eq!(first, weights("3"), "what was trained stays");
    assert!(!ran.err.contains("teacher: trained"), "{}", ran.err);
    assert!(!place.path("r/seeds/5/data").exists(), "the data is shared");

    let text = std::fs::read_to_string(place.path("r/results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&text).unwrap();
    let models = results["models"].as_array().unwrap();
    let student = models.iter().find(|m| m["name"] == "student").unwrap();
    let row = &student["rows"][0];
    assert_eq!((&row["n"], &row["by_seed"][1]["seed"]), (&32.into(), &5.into()));
    let nll = |seed: usize| row["by_seed"][seed]["scores"]["oracle_nll"].as_f64().unwrap();
    let mean = row["scores"]["oracle_nll"]["mean"].as_f64().unwrap();
    let high = row["scores"]["oracle_nll"]["high"].as_f64().unwrap();
    // Student's t of one degree of freedom over two means: 12.706 times half their difference.
    assert!((0.5 * (nll(0) + nll(1)) - mean).abs() < 1e-9);
    assert!((high - mean - 12.7062 * 0.5 * (nll(0) - nll(1)).abs()).abs() < 1e-4);
    assert_eq!(student["train_forwards"], 6 * 16 * 3);
    let report = std::fs::read_to_string(place.path("r/report/report.md")).unwrap();
    assert!(report.contains("## By training seed: nll ↓") && report.contains("| seed 3 | seed 5 |"), "{report}");

    // Again: nothing to do, the same bytes.
    run(&place, &[]).ok();
    assert_eq!(std::fs::read_to_string(place.path("r/results.json")).unwrap(), text);
    place.run(&["eval", "r"]).ok();
    assert_eq!(std::fs::read_to_string(place.path("r/results.json")).unwrap(), text);
    place.run(&["gate", "r", "--baseline", "r/results.json"]).ok();
    place.run(&["export", "r", "--model", "teacher", "--out", "e"]).ok();
    assert_eq!(std::fs::read(place.path("e/model.safetensors")).unwrap(), first, "the first seed's");
    assert!(place.path("r/export/student/config.json").is_file());
    place.run(&["sample", "r", "-n", "1", "--steps", "2"]).ok();
    place.write("n.md", "- two seeds are few\n");
    place.run(&["report", "r", "--notes", "n.md"]).ok();
    place.run(&["report", "r"]).ok();
    let report = std::fs::read_to_string(place.path("r/report/report.md")).unwrap();
    assert!(report.contains("## What this shows\n\n- two seeds are few"), "{report}");
}

#[test]
fn seeds_that_cannot_be_meant_are_refused_and_a_check_counts_them() {
    let place = Place::new();
    let check = |set: &str| place.run(&["recipe", "check", "tiny", "--set", set]);
    check("seeds=[1]").fails(2, &["`seeds = [1]` is one seed", "`seed` in place of `seeds`"]);
    check("seeds=[1, 2, 1]").fails(2, &["`seeds` lists 1 twice"]);
    let own = ["recipe", "check", "tiny", "--set", "seeds=[1, 2]", "--set", "model.ar.seed=7"];
    place.run(&own).fails(2, &["`model.ar.seed = 7` would be the same under all `seeds`"]);
    let out = check("seeds=[1, 2]").ok().out;
    assert!(out.contains("under 2 seeds") && out.contains("1440 forward passes"), "{out}");
}
