//! How the program comes to its users: completions and manual pages.

use super::binary::Place;

#[test]
fn completions_know_every_command_and_are_scripts_that_their_shell_reads() {
    let place = Place::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = place.run(&["completions", shell]).ok().out;
        for word in ["recipe", "gate", "baseline", "details"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        place.write(shell, &script);
    }
    // Those that can read a script without running it.
    for shell in ["bash", "fish", "zsh"] {
        match std::process::Command::new(shell).arg("-n").arg(place.path(shell)).output() {
            Ok(read) => assert!(read.status.success(), "{shell}: {}", String::from_utf8_lossy(&read.stderr)),
            Err(_) => println!("skipped: there is no {shell} to read its script"),
        }
    }
    place.run(&["completions", "tcsh"]).fails(2, &["tcsh", "bash"]);
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let place = Place::new();
    let page = place.run(&["man"]).ok().out;
    assert!(page.contains(".TH fewstep 1") && page.contains("Distil many"), "{page}");
    place.run(&["man", "--out", "man1"]).ok();
    let mut names: Vec<String> = std::fs::read_dir(place.path("man1"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for name in ["fewstep.1", "fewstep-gate.1", "fewstep-recipe-explain.1", "fewstep-run.1"] {
        assert!(names.iter().any(|n| n == name), "{name} is not in {names:?}");
    }
    place.run(&["man", "--out", "man1"]).fails(2, &["man1"]);
}

#[test]
fn a_baseline_is_small_and_is_what_its_study_passes() {
    let place = Place::new();
    let quickstart = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/quickstart").display().to_string();
    place.run(&["baseline", &quickstart, "--out", "b.json.gz"]).ok();
    place.run(&["baseline", &quickstart, "--out", "again.json.gz"]).ok();
    let bytes = |name: &str| std::fs::read(place.path(name)).unwrap();
    assert!(bytes("b.json.gz").len() < 100_000 && bytes("b.json.gz") == bytes("again.json.gz"));
    let gate = place.run(&["gate", &quickstart, "--baseline", "b.json.gz"]).ok();
    assert!(gate.out.contains("student") && gate.out.contains("verdict   pass"), "{}", gate.out);
    place.run(&["baseline", &quickstart, "--out", "one.json", "--model", "student", "--steps", "4,8"]).ok();
    let one = fewstep::eval::results::Results::load(&place.path("one.json")).unwrap();
    assert!(one.models.len() == 1 && one.models[0].rows.len() == 2);
    place.run(&["baseline", &quickstart, "--out", "x", "--steps", "5"]).fails(2, &["no row with 5 steps"]);
}

#[test]
fn cpu_is_a_name_of_flex() {
    let place = Place::new();
    let said = place.run(&["recipe", "check", "tiny", "--device", "cpu"]).ok();
    assert!(!said.err.contains("cpu"), "{}", said.err);
    place.run(&["recipe", "check", "tiny", "--device", "cpu:0"]).fails(2, &["did you mean `flex`?"]);
}
