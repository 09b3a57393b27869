//! The README's promises: every command in it runs, and every shipped recipe checks and trains.

use std::path::Path;

use super::binary::{Place, shared};

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The commands of a page's `sh` blocks.
fn commands(page: &str) -> Vec<String> {
    let text = read(page);
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
    let commands = commands("README.md");
    assert!(commands.len() >= 2, "{commands:?}");
    let place = Place::new();
    let mut ran = 0;
    for command in commands {
        // As a shell would split it: a quoted template is one argument.
        let words = shlex::split(&command).unwrap_or_else(|| panic!("unbalanced quotes in `{command}`"));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            // This very program: the test command, which is running now, and which CI calls by the same words.
            ["cargo", "test", ..] => assert!(read(".ci/run").contains(&command), ".ci/run does not call `{command}`"),
            ["bash", "tests/clients/run.sh"] => assert!(read(".ci/run").contains(&command), "CI runs it by itself"),
            ["cargo", "run", "--release", "--", args @ ..] | ["fewstep", args @ ..] => {
                place.run(args).ok();
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
    let score = |name: &str, steps: usize, key: &str| {
        results.models.iter().find(|m| m.name == name).unwrap().row(steps).unwrap().scores[key]
    };
    assert!(valid("ar", 32) >= 0.95, "AR baseline {}", valid("ar", 32));
    assert!(valid("teacher", 256) >= 0.85, "teacher {}", valid("teacher", 256));
    for steps in [4, 8, 16] {
        let (s, t) = (score("student", steps, "valid"), score("teacher", steps, "valid"));
        assert!(s.low > t.high, "validity at {steps} steps: {s:?} {t:?}");
        let (s, t) = (score("student", steps, "oracle_nll"), score("teacher", steps, "oracle_nll"));
        assert!(s.high < t.low, "NLL at {steps} steps: {s:?} {t:?}");
        let (entropy, data) = (score("student", steps, "entropy").mean, results.data.entropy.mean);
        assert!((entropy / data - 1.0).abs() < 0.02, "entropy at {steps} steps: {entropy} for {data}");
    }
    assert!(valid("student", 8) >= valid("teacher", 16));
    a_student_trained_at_a_tenth_of_the_steps_fails_the_gate(&place);
    every_command_of_the_pages_runs(&place);
}

/// The pages of docs/, by name.
fn pages() -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src");
    let names = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".md")).collect();
    names.sort();
    names
}

/// Each page in a directory of its own, which has the quickstart's run.
fn every_command_of_the_pages_runs(quickstart: &Place) {
    let mut ran = 0;
    for page in pages() {
        let place = Place::new();
        std::fs::create_dir(place.path("runs")).unwrap();
        let (from, to) = (quickstart.path("runs/quickstart"), place.path("runs/quickstart"));
        assert!(std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
        for command in commands(&format!("docs/src/{page}")) {
            let words = shlex::split(&command).unwrap_or_else(|| panic!("{page}: unbalanced quotes in `{command}`"));
            match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                ["cargo", "install", "--path", "."] => {}
                ["fewstep", args @ ..] => drop(place.run(args).ok()),
                _ => panic!("{page}: no way to test `{command}`"),
            }
            ran += 1;
        }
    }
    assert!(ran >= 20, "{ran} commands");
}

#[test]
fn pages_are_as_short_as_they_should_be_and_every_link_and_recipe_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (page, most) in [("README.md", 8192), ("ARCHITECTURE.md", 12_288)] {
        assert!(read(page).len() <= most, "{page} has {} bytes", read(page).len());
    }
    let table = read("README.md");
    let listed = Place::new().run(&["recipe", "list"]).ok().out;
    for line in listed.lines() {
        let name = line.split_whitespace().next().unwrap();
        assert!(table.contains(&format!("`{name}`")), "the README's table lacks `{name}`");
    }
    let summary = read("docs/src/SUMMARY.md");
    let named = ["README.md", "ARCHITECTURE.md"].map(str::to_string);
    for page in named.into_iter().chain(pages().into_iter().map(|name| format!("docs/src/{name}"))) {
        let text = read(&page);
        let dir = root.join(&page);
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let target = link.split('#').next().unwrap();
            let outside = target.is_empty() || target.contains("://");
            assert!(outside || dir.parent().unwrap().join(target).exists(), "{page}: `{link}` leads nowhere");
        }
        let name = page.trim_start_matches("docs/src/");
        let book = page.starts_with("docs/") && name != "SUMMARY.md";
        assert!(!book || summary.contains(&format!("({name})")), "{page} is not in the book");
    }
}

/// The same study with 100 of the student's 1000 steps, its other models taken over, against the good run as baseline.
fn a_student_trained_at_a_tenth_of_the_steps_fails_the_gate(place: &Place) {
    for model in ["ar", "teacher", "phased", "oracle"] {
        let (from, to) = (place.path("runs/quickstart/models").join(model), place.path("short/models").join(model));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        assert!(std::process::Command::new("cp").arg("-r").arg(from).arg(&to).status().unwrap().success());
    }
    let few = ["--set", "model.student.train.steps=100"];
    place.run(&[&["run", "quickstart", "--out", "short"], &few[..]].concat()).ok();
    let gate = place.run(&["gate", "short", "--baseline", "runs/quickstart/results.json"]).fails(1, &["gate"]);
    assert!(gate.out.lines().any(|l| l.contains("student") && l.contains("fail")), "{}", gate.out);
    place.run(&["gate", "runs/quickstart", "--baseline", "runs/quickstart/results.json", "--strict"]).ok();
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
        let text = std::fs::read_to_string(&path).unwrap();
        if text.contains("hf://") {
            // Keys and contradictions are checked; then the text that is to be got first is missing.
            place.run(&["recipe", "check", &name]).fails(3, &["does not exist"]);
        } else if text.contains("[data.text]") {
            // Stories are told apart by a line between them.
            let file = if text.contains("documents = ") {
                "data/stories/tinystories-train.txt"
            } else {
                "data/tinyshakespeare.txt"
            };
            let Some(text) = shared(file) else { continue };
            let set = format!("data.text.path={:?}", text.display().to_string());
            place.run(&["recipe", "check", &name, "--set", &set]).ok();
        } else if text.contains("files = [") {
            let Some(data) = shared("data") else { continue };
            let [valid, test] = ["e2e-valid.txt", "e2e-test.txt"].map(|name| data.join(name).display().to_string());
            let set = format!("data.pairs.source={{files=[{valid:?}, {test:?}]}}");
            place.run(&["recipe", "check", &name, "--set", &set]).ok();
        } else {
            place.run(&["recipe", "check", &name]).ok();
        }
    }
    let listed = place.run(&["recipe", "list"]).ok().out;
    assert!(["quickstart", "shakespeare", "tiny"].iter().all(|n| listed.contains(n)), "{listed}");
}
