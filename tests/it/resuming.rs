//! A training that is killed, stopped or fails to write resumes to the same bytes; damage is noticed.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use super::binary::Place;

/// A study of one model whose training takes a second or two and saves often.
const RECIPE: &str = r#"
name = "small"
seed = 3
[data.story]
names = 2
things = 2
places = 1
count = 3
[model.teacher]
order = "parallel"
objective.elbo = {}
network = { dim = 16, layers = 1, heads = 2, visibility = "full" }
train = { steps = 40, batch = 8, lr = 5e-3, clip = 1.0, ema = 0.9, log_every = 20, save_every = 5 }
[model.student]
order = "parallel"
objective.sdtt = { teacher = "teacher", teacher_steps = 8, rounds = 3 }
train = { steps = 45, batch = 8, lr = 2e-3, clip = 1.0, ema = 0.9, log_every = 20, save_every = 5 }
[eval]
samples = 8
batch = 8
steps = [2]
held_out = 8
speed_repeats = 0
"#;

fn train(place: &Place, out: &str) -> Child {
    let mut command = place.command(&["run", "small.toml", "--only", "student", "--out", out, "--threads", "1", "-q"]);
    command.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap()
}

fn finish(place: &Place, out: &str) {
    place.run(&["run", "small.toml", "--only", "student", "--out", out, "--threads", "1"]).ok();
}

/// Everything that must be equal: the exported files, and the logged numbers of every step.
fn outcome(place: &Place, out: &str) -> (Vec<(String, Vec<u8>)>, Vec<String>) {
    let to = format!("{out}-export");
    place.run(&["export", out, "--model", "student", "--out", &to]).ok();
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(place.path(&to))
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&p).unwrap()))
        .collect();
    files.sort();
    let log = |model: &str| {
        std::fs::read_to_string(place.path(out).join("models").join(model).join("metrics.jsonl")).unwrap()
    };
    (files, vec![log("teacher"), log("student")])
}

fn checkpoints(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("step-"))
        .collect();
    found.sort();
    found
}

#[test]
fn resume_after_kill_at_20_random_moments_is_byte_identical() {
    let place = Place::new();
    place.write("small.toml", RECIPE);
    let begin = Instant::now();
    finish(&place, "whole");
    // A machine that has become faster since ends before it is killed: then kills come sooner.
    let mut span = begin.elapsed().as_secs_f64();
    let want = outcome(&place, "whole");
    // Moments spread over the whole run by a fixed low-discrepancy sequence; each run is killed and taken up again, some
    // twice, until it is done.
    let mut killed = 0;
    for i in 0..20 {
        let out = format!("killed-{i}");
        for turn in 0..1 + usize::from(i % 5 == 0) {
            let share = (0.381_966 + 0.618_034 * (i + 7 * turn) as f64).fract();
            let mut child = train(&place, &out);
            std::thread::sleep(Duration::from_secs_f64(span * share));
            match child.try_wait().unwrap().is_none() {
                true => killed += 1,
                false => span *= 0.7,
            }
            let _ = child.kill();
            child.wait().unwrap();
        }
        finish(&place, &out);
        let got = outcome(&place, &out);
        assert_eq!(got.1, want.1, "the log of run {i} differs");
        for (a, b) in got.0.iter().zip(&want.0) {
            assert!(a == b, "run {i}: {} differs", a.0);
        }
        assert_eq!(got.0.len(), want.0.len());
        std::fs::remove_dir_all(place.path(&out)).unwrap();
    }
    assert!(killed >= 10, "only {killed} of 24 kills met a running training");
}

#[test]
fn resume_inside_a_round_keeps_the_stored_teacher() {
    let place = Place::new();
    place.write("small.toml", RECIPE);
    finish(&place, "whole");
    let want = outcome(&place, "whole");
    // Cut the finished run back to its last checkpoint but one, which lies inside the last round.
    finish(&place, "cut");
    let student = place.path("cut/models/student");
    std::fs::remove_dir_all(student.join("final")).unwrap();
    std::fs::remove_dir_all(checkpoints(&student).pop().unwrap()).unwrap();
    finish(&place, "cut");
    assert!(outcome(&place, "cut") == want);
}

/// The range of noise comes from a search in the past, so it must be in the checkpoint.
#[test]
fn resume_between_two_searches_of_the_noise_keeps_the_range_that_was_found() {
    let place = Place::new();
    let recipe =
        RECIPE.split("[model.student]").next().unwrap().to_string() + &RECIPE[RECIPE.find("[eval]").unwrap()..];
    let recipe = recipe
        .replace("order = \"parallel\"", "order = { blocks = 4 }")
        .replace("objective.elbo = {}", "objective.elbo = { clip = { search = { every = 8, batches = 2 } } }")
        .replace("visibility = \"full\"", "visibility = { blocks = 4 }")
        .replace("steps = 40,", "steps = 30,")
        .replace("steps = [2]", "steps = [16]");
    place.write("small.toml", recipe);
    let run = |out: &str| {
        place.run(&["run", "small.toml", "--only", "teacher", "--out", out, "--threads", "1"]).ok();
        let model = place.path(out).join("models/teacher");
        let read = |name: &str| std::fs::read(model.join(name)).unwrap();
        (read("final/model.safetensors"), read("metrics.jsonl"))
    };
    let want = run("whole");
    assert!(run("cut") == want);
    let teacher = place.path("cut/models/teacher");
    std::fs::remove_dir_all(teacher.join("final")).unwrap();
    let last = checkpoints(&teacher).pop().unwrap();
    std::fs::remove_dir_all(last).unwrap();
    // Step 25 lies behind the search at 24.
    let text = std::fs::read_to_string(checkpoints(&teacher).pop().unwrap().join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(manifest["extra"]["step"], 25);
    assert!(manifest["extra"]["range"]["low"].as_f64().unwrap() > 0.001, "{manifest}");
    assert!(run("cut") == want);
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_exits_130_and_the_same_command_resumes() {
    let place = Place::new();
    place.write(
        "small.toml",
        RECIPE.replace("steps = 40,", "steps = 4000,").replace("save_every = 5", "save_every = 0"),
    );
    let mut command = place.heeding(&["run", "small.toml", "--only", "teacher", "--threads", "1"]);
    let child = command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap();
    let metrics = place.path("runs/small/models/teacher/metrics.jsonl");
    let begin = Instant::now();
    while std::fs::metadata(&metrics).map(|m| m.len()).unwrap_or(0) < 200 && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::process::Command::new("kill").args(["-2", &child.id().to_string()]).status().unwrap();
    let done = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(130), "{err}");
    assert!(err.contains("run the same command to resume"), "{err}");
    let saved = checkpoints(&place.path("runs/small/models/teacher"));
    assert_eq!(saved.len(), 1);
    // Taken up again it counts on from there.
    let mut command = place.heeding(&["run", "small.toml", "--only", "teacher", "--threads", "1"]);
    let child = command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    std::process::Command::new("kill").args(["-2", &child.id().to_string()]).status().unwrap();
    let err = String::from_utf8_lossy(&child.wait_with_output().unwrap().stderr).into_owned();
    assert!(err.contains("resumed at step"), "{err}");
}

#[test]
fn a_damaged_newest_checkpoint_is_told_and_the_one_before_is_used_and_if_none_is_good_nothing_starts_over() {
    let place = Place::new();
    place.write("small.toml", RECIPE);
    finish(&place, "whole");
    let want = outcome(&place, "whole");
    finish(&place, "hurt");
    let student = place.path("hurt/models/student");
    std::fs::remove_dir_all(student.join("final")).unwrap();
    let all = checkpoints(&student);
    let file = all.last().unwrap().join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.len() - 7;
    bytes[at] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let ran = place.run(&["run", "small.toml", "--only", "student", "--out", "hurt", "--threads", "1"]).ok();
    assert!(ran.err.contains("warning:"), "{}", ran.err);
    assert!(outcome(&place, "hurt") == want);

    std::fs::remove_dir_all(student.join("final")).unwrap();
    for dir in checkpoints(&student) {
        std::fs::write(dir.join("optim.safetensors"), b"not a record").unwrap();
    }
    place
        .run(&["run", "small.toml", "--only", "student", "--out", "hurt"])
        .fails(3, &["no checkpoint in", "can be used", "hint:"]);
}

#[test]
fn a_run_directory_refuses_another_recipe_and_allows_what_changes_no_weight() {
    let place = Place::new();
    place.write("small.toml", RECIPE);
    place.run(&["run", "small.toml", "--only", "teacher", "--threads", "1"]).ok();
    place
        .run(&["run", "small.toml", "--only", "teacher", "--set", "model.teacher.train.lr=0.001"])
        .fails(2, &["another recipe", "model.teacher.train.lr", "hint:"]);
    let ran = place.run(&["run", "small.toml", "--only", "teacher", "--set", "model.teacher.train.save_every=7"]).ok();
    assert!(ran.err.contains("model.teacher.train.save_every"), "{}", ran.err);
}

#[test]
fn a_second_process_in_the_same_run_directory_fails_at_once() {
    let place = Place::new();
    place.write("small.toml", RECIPE.replace("steps = 40,", "steps = 100000,"));
    let args = ["run", "small.toml", "--only", "teacher", "-q"];
    let mut first = place.command(&args).stderr(std::process::Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while !place.path("runs/small/models/teacher/metrics.jsonl").exists() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let begin = Instant::now();
    let second = place.run(&args);
    let took = begin.elapsed();
    let _ = first.kill();
    first.wait().unwrap();
    second.fails(2, &["another fewstep process"]);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// Every write, fsync and rename of a save fails in turn; the run then resumes as if nothing had been.
#[cfg(feature = "faults")]
#[test]
fn a_fault_at_every_write_of_a_run_leaves_a_resumable_directory() {
    let place = Place::new();
    let recipe = RECIPE.replace("steps = 40,", "steps = 6,").replace("steps = 45,", "steps = 6,");
    place.write("small.toml", &recipe);
    finish(&place, "whole");
    let want = outcome(&place, "whole");
    for action in ["kill", "enospc", "eio"] {
        let mut n = 0;
        loop {
            let out = format!("{action}-{n}");
            let args = ["run", "small.toml", "--only", "student", "--out", &out, "--threads", "1", "-q"];
            let done = place.command(&args).env("FEWSTEP_FAULT", format!("{n}:{action}")).output().unwrap();
            if done.status.success() {
                break;
            }
            if action != "kill" {
                let err = String::from_utf8_lossy(&done.stderr);
                assert_eq!(done.status.code(), Some(4), "{err}");
                assert!(err.contains("error: cannot"), "{err}");
            }
            finish(&place, &out);
            assert!(outcome(&place, &out) == want, "{action} at point {n}");
            assert_eq!(super::kept::litter(&place.path(&out)), [""; 0], "{action} at point {n}");
            std::fs::remove_dir_all(place.path(&out)).unwrap();
            // Every seventh point keeps this within minutes; the points of one save are all alike in kind.
            n += 7;
            assert!(n < 10_000);
        }
        assert!(n > 20, "only {n} fault points were met");
    }
}

#[test]
fn losses_do_not_depend_on_the_number_of_threads_beyond_rounding() {
    let place = Place::new();
    // Wide and long enough that products, blocks and losses are divided among threads.
    let wide = RECIPE
        .replace("dim = 16, layers = 1, heads = 2", "dim = 128, layers = 2, heads = 4")
        .replace("batch = 8", "batch = 32");
    place.write("wide.toml", &wide);
    let losses = |threads: &str| -> Vec<f64> {
        let set = ["--set", "model.teacher.train.steps=12", "--set", "model.student.train.steps=12"];
        let run = ["run", "wide.toml", "--only", "student", "--out", threads, "--threads", threads];
        place.run(&[&run[..], &set[..]].concat()).ok();
        let log = |model: &str| {
            std::fs::read_to_string(place.path(threads).join("models").join(model).join("metrics.jsonl")).unwrap()
        };
        let all = log("teacher") + &log("student");
        all.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["loss"].as_f64().unwrap()).collect()
    };
    let (one, three) = (losses("1"), losses("3"));
    assert_eq!((one.len(), three.len()), (24, 24));
    for (a, b) in one.iter().zip(&three) {
        assert!((a - b).abs() <= 1e-5 * a.abs().max(1e-3), "{one:?}\n{three:?}");
    }
}
