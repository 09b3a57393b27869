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
fn cpu_is_a_name_of_flex() {
    let place = Place::new();
    let said = place.run(&["recipe", "check", "tiny", "--device", "cpu"]).ok();
    assert!(!said.err.contains("cpu"), "{}", said.err);
    place.run(&["recipe", "check", "tiny", "--device", "cpu:0"]).fails(2, &["did you mean `flex`?"]);
}
