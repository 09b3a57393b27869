//! How the program comes to its users: completions and manual pages.

use serde_yaml_ng::Value;

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
fn what_was_meant_is_told_where_other_tools_write_it_otherwise() {
    let place = Place::new();
    let meant = "`--set model.student.train.steps=500`";
    place.run(&["recipe", "check", "tiny", "--set", "train.steps=500"]).fails(2, &["unknown key `train`", meant]);
    place.run(&["inspect", "kuleshov-group/mdlm-owt"]).fails(3, &["does not exist", "`hf://kuleshov-group/mdlm-owt`"]);
    place.run(&["inspect", "runs/student.json"]).fails(3, &["check the path"]);
    let version = place.run(&["--version"]).ok().out;
    assert!(version.contains("commit ") && version.contains("devices: flex"), "{version}");
}

#[test]
fn cpu_is_a_name_of_flex() {
    let place = Place::new();
    let said = place.run(&["recipe", "check", "tiny", "--device", "cpu"]).ok();
    assert!(!said.err.contains("cpu"), "{}", said.err);
    place.run(&["recipe", "check", "tiny", "--device", "cpu:0"]).fails(2, &["did you mean `flex`?"]);
}

/// A file of the repository as YAML.
fn yaml(path: &str) -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    serde_yaml_ng::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The lines of a job, in one shell each, with this program in the path; what the last one that failed ended with.
fn job(place: &Place, lines: &[String], env: &[(String, String)]) -> (i32, String) {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_fewstep")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut said = String::new();
    for line in lines {
        let mut command = std::process::Command::new("bash");
        command.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", line]).current_dir(place.path("."));
        let output = command.env("PATH", &path).envs(env.iter().cloned()).output().unwrap();
        said += &(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            return (output.status.code().unwrap(), said);
        }
    }
    (0, said)
}

/// A study, a baseline that it passes, and one that it does not.
fn guarded(place: &Place) {
    place.run(&["recipe", "copy", "tiny", "study.toml"]).ok();
    place.run(&["run", "study.toml", "--out", "first", "--quiet"]).ok();
    place.run(&["baseline", "first", "--out", "baseline.json.gz"]).ok();
    let mut better = fewstep::eval::results::Results::load(&place.path("first/results.json")).unwrap();
    for row in better.models.iter_mut().flat_map(|m| &mut m.rows) {
        row.samples["oracle_nll"].iter_mut().for_each(|v| *v *= 0.5);
        let e = row.scores.get_mut("oracle_nll").unwrap();
        (e.mean, e.low, e.high) = (e.mean * 0.5, e.low * 0.5, e.high * 0.5);
    }
    better.save(&place.path("better.json.gz")).unwrap();
}

#[test]
fn the_steps_of_the_action_and_the_lines_of_the_job_for_gitlab_gate_a_study() {
    let place = Place::new();
    guarded(&place);
    let action = yaml("action.yml");
    let steps: Vec<&Value> = action["runs"]["steps"].as_sequence().unwrap().iter().collect();
    let names: Vec<&str> = steps.iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Keep the build", "Install", "Check the recipe", "Run the study", "Gate"]);
    // What is typed into an action reaches its shell as a variable, never as a part of its text.
    let lines: Vec<String> = steps[2..].iter().map(|s| s["run"].as_str().unwrap().to_string()).collect();
    assert!(lines.iter().all(|line| !line.contains("${{")), "{lines:?}");
    let summary = place.write("summary.md", "");
    let gate = |baseline: &str, check: &str, out: &str| -> Vec<(String, String)> {
        [("RECIPE", "study.toml"), ("BASELINE", baseline), ("OUT", out), ("CHECK", check)]
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .chain([("GITHUB_STEP_SUMMARY".to_string(), summary.display().to_string())])
            .collect()
    };
    let (code, said) = job(&place, &lines, &gate("baseline.json.gz", "--model student --steps 2,4", "ci"));
    assert!(code == 0 && said.contains("student") && said.contains("within limits at 2, 4 steps"), "{said}");
    assert!(std::fs::read_to_string(&summary).unwrap().contains("<table>") && place.path("ci/gate.xml").exists());
    let (code, said) = job(&place, &lines, &gate("better.json.gz", "", "ci"));
    assert!(code == 1 && said.contains("quality fell"), "{code} {said}");

    let gitlab = yaml("ci/gitlab.yml");
    let own = &gitlab[".fewstep-gate"];
    let lines: Vec<String> =
        own["script"].as_sequence().unwrap().iter().map(|line| line.as_str().unwrap().to_string()).collect();
    // The variables of the job hold where a project sets none.
    for key in ["RECIPE", "BASELINE", "OUT", "CHECK"] {
        assert!(own["variables"][key].is_string(), "{key}");
    }
    let (code, said) = job(&place, &lines, &gate("baseline.json.gz", "--model student", "ci"));
    assert!(code == 0 && said.contains("verdict   pass"), "{said}");
    assert_eq!(job(&place, &lines, &gate("better.json.gz", "", "ci")).0, 1);
}
