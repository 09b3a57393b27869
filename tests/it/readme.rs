//! The README's promises: every command in it runs, and every shipped recipe checks and trains.

use std::path::Path;

use super::binary::{Place, shared};

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The commands of the README's `sh` blocks.
fn commands() -> Vec<String> {
    let text = read("README.md");
    let mut out = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match (inside, line.trim()) {
            (false, "```sh") => inside = true,
            (true, "```") => inside = false,
            (true, line) if !line.is_empty() && !line.starts_with('#') => out.push(line.to_string()),
            _ => {}
        }
    }
    out
}

#[test]
fn every_command_of_the_readme_runs() {
    let commands = commands();
    assert!(commands.len() >= 2, "{commands:?}");
    let place = Place::new();
    let mut ran = 0;
    for command in commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.as_slice() {
            // This very program: the test command, which is running now, and which CI calls by the same words.
            ["cargo", "test", ..] => assert!(read(".ci/run").contains(&command), ".ci/run does not call `{command}`"),
            ["cargo", "run", "--release", "--", args @ ..] | ["fewstep", args @ ..] => {
                let joined = args.join(" ").replace('"', "");
                let args: Vec<&str> = joined.split(' ').collect();
                place.run(&args).ok();
            }
            ["cargo", "install", "--path", "."] | ["cargo", "bench", ..] => {}
            _ => panic!("no way to test `{command}`"),
        }
        ran += 1;
    }
    assert!(ran >= 2);
    // The first command is the main job; what it promises is there.
    assert!(place.path("runs/quickstart/report/report.html").exists());
    let results = fewstep::eval::results::Results::load(&place.path("runs/quickstart/results.json")).unwrap();
    let valid = |name: &str, steps: usize| {
        let row =
            results.models.iter().find(|m| m.name == name).unwrap().rows.iter().find(|r| r.steps == steps).unwrap();
        row.scores["valid"].mean
    };
    assert!(valid("ar", 32) > 0.9, "AR baseline {}", valid("ar", 32));
    assert!(valid("student", 8) > valid("teacher", 8), "{} {}", valid("student", 8), valid("teacher", 8));
}

#[test]
fn every_shipped_recipe_checks_and_is_the_one_inside_the_binary() {
    let place = Place::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        place.run(&["recipe", "copy", &name]).ok();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(place.path(&format!("{name}.toml"))).unwrap());
        place.run(&["recipe", "copy", &name]).fails(2, &["is there already"]);
        place.run(&["recipe", "diff", &name, &format!("{name}.toml")]).ok();
        if std::fs::read_to_string(&path).unwrap().contains("[data.text]") {
            let Some(text) = shared("data/tinyshakespeare.txt") else { continue };
            let set = format!("data.text.path={:?}", text.display().to_string());
            place.run(&["recipe", "check", &name, "--set", &set]).ok();
        } else {
            place.run(&["recipe", "check", &name]).ok();
        }
    }
    let listed = place.run(&["recipe", "list"]).ok().out;
    assert!(["quickstart", "shakespeare", "tiny"].iter().all(|n| listed.contains(n)), "{listed}");
}
