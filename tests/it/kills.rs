//! Kills at random moments and at every single write of a run, an export and a report: no bit differs afterwards, no
//! directory is half there, and nothing is left.
//!
//! `FEWSTEP_KILLS=300,40,40` sets the number of trials over runs, exports and reports; without it there are a few.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::binary::Place;
use super::kept::{files, litter};

const DATA: &str = r#"
seed = 3
[data.story]
names = 2
things = 2
places = 1
count = 3
[eval]
samples = 8
batch = 8
steps = [1, 2]
held_out = 8
speed_repeats = 0
"#;

/// A teacher, a student of three rounds that has its teacher stored, and a causal model.
const DISTILLED: &str = r#"
[model.ar]
order = "left_to_right"
objective.ar_nll = {}
network = { dim = 16, layers = 1, heads = 2, visibility = "causal", shift = true }
train = { steps = 12, batch = 8, lr = 5e-3, clip = 1.0, log_every = 20, save_every = 3 }
[model.teacher]
order = "parallel"
objective.elbo = {}
network = { dim = 16, layers = 1, heads = 2, visibility = "full" }
train = { steps = 20, batch = 8, lr = 5e-3, clip = 1.0, ema = 0.9, log_every = 20, save_every = 3 }
[model.student]
order = "parallel"
objective.sdtt = { teacher = "teacher", teacher_steps = 8, rounds = 3 }
train = { steps = 24, batch = 8, lr = 2e-3, clip = 1.0, ema = 0.9, log_every = 20, save_every = 3 }
[export]
models = ["student"]
"#;

/// What keeps more than weights: a table of noise, an autoencoder beside its model, a critic with moments of its own.
const LATENT: &str = r#"
[model.uniform]
order = "parallel"
objective.elbo = { corruption = "uniform" }
network = { dim = 16, layers = 1, heads = 2, visibility = "full", time = "sequence" }
train = { steps = 6, batch = 8, lr = 5e-3, clip = 1.0, ema = 0.9, log_every = 20, save_every = 2 }
[model.dcd]
order = "parallel"
objective.dcd = { teacher = "uniform", levels = 16, rounds = 3, growth = "double" }
train = { steps = 6, batch = 8, lr = 2e-3, clip = 1.0, ema = 0.9, log_every = 20, save_every = 2 }
[model.codec]
order = "parallel"
objective.autoencoder = { noise = 0.3 }
train = { steps = 6, batch = 8, lr = 3e-3, clip = 1.0, ema = 0.9, save_every = 2 }
[model.codec.network]
dim = 16
layers = 2
heads = 2
visibility = "full"
learned_positions = true
bottleneck = { latents = 4, width = 6, decoder_layers = 1 }
[model.flow]
order = "parallel"
objective.latent = { codec = "codec" }
train = { steps = 6, batch = 8, lr = 3e-3, clip = 1.0, ema = 0.9, save_every = 2 }
[model.flow.network]
dim = 16
layers = 2
heads = 2
learned_positions = true
visibility = "full"
time = "sequence"
vectors = { count = 4, width = 6 }
[model.matching]
order = "parallel"
objective.latent_distill = { teacher = "flow", method = { matching = { steps = 2, critic_lr = 1e-3 } } }
train = { steps = 6, batch = 8, lr = 1e-3, clip = 1.0, ema = 0.9, save_every = 2 }
[export]
models = ["dcd", "matching"]
"#;

/// Trials over runs, exports and reports.
fn trials() -> [usize; 3] {
    let few = [20, 8, 8];
    let Ok(wish) = std::env::var("FEWSTEP_KILLS") else { return few };
    let counts: Vec<usize> = wish.split(',').map(|n| n.parse().expect("FEWSTEP_KILLS=RUNS,EXPORTS,REPORTS")).collect();
    counts.try_into().expect("FEWSTEP_KILLS=RUNS,EXPORTS,REPORTS")
}

/// A number in [0, 1), spread evenly over the trials of a series.
fn spread(i: usize) -> f64 {
    (0.381_966 + 0.618_034 * i as f64).fract()
}

/// All files of a directory, without the seconds that were measured and the hashes of files that hold them; of the pages
/// that print seconds, that they have an end.
fn outcome(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = files(dir);
    all.retain(|name, _| !name.ends_with(".lock"));
    for (name, bytes) in &mut all {
        for (page, end) in [("report/report.md", "`\n"), ("report/report.html", "</html>\n")] {
            if name.ends_with(page) {
                assert!(bytes.ends_with(end.as_bytes()), "{name} is cut off");
                bytes.clear();
            }
        }
        let cached = name.starts_with("models/") || name.contains("/models/");
        if name == "results.json" || name.ends_with("/results.json") || cached && name.ends_with(".json") {
            let Ok(mut value) = serde_json::from_slice(bytes) else { continue };
            timeless(&mut value);
            *bytes = value.to_string().into_bytes();
        }
    }
    all
}

fn timeless(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            let timed = ["seconds", "train_seconds"];
            // Manifests, kept evaluations and results end in the hash of all before it.
            let has = |keys: [&str; 2]| keys.iter().all(|key| map.contains_key(*key));
            let hashed = has(["files", "format"]) || has(["key", "result"]) || has(["format", "models"]);
            map.retain(|key, _| !(timed.contains(&key.as_str()) || hashed && key == "sha256"));
            map.values_mut().for_each(timeless);
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(timeless),
        _ => {}
    }
}

#[track_caller]
fn same(got: &BTreeMap<String, Vec<u8>>, want: &BTreeMap<String, Vec<u8>>, about: &str) {
    assert!(got.keys().eq(want.keys()), "{about}: {:?} and not {:?}", got.keys(), want.keys());
    for (name, bytes) in want {
        assert!(got[name] == *bytes, "{about}: {name} differs");
    }
}

/// Starts a command, kills it after `wait` (and, of a `watched` directory, when something in it is half written), and says
/// whether it ran still.
fn killed(place: &Place, args: &[&str], wait: Duration, watched: Option<&Path>) -> bool {
    let mut child = place.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(wait);
    if let Some(dir) = watched {
        while child.try_wait().unwrap().is_none() && litter(dir).is_empty() {}
    }
    let running = child.try_wait().unwrap().is_none();
    let _ = child.kill();
    child.wait().unwrap();
    running
}

#[test]
fn runs_that_are_killed_at_random_moments_end_with_the_same_bytes_and_leave_nothing() {
    let place = Place::new();
    let two = DISTILLED.replace("steps = 12", "steps = 4").replace("steps = 20", "steps = 6").replace("= 24", "= 6");
    let seeds = format!("name = \"seeds\"\nseeds = [3, 5]\n{}{two}", DATA.replace("seed = 3\n", ""));
    let studies = [
        ("distilled", format!("name = \"distilled\"\n{DATA}{DISTILLED}"), 4),
        ("latent", format!("name = \"latent\"\n{DATA}{LATENT}"), 1),
        ("seeds", seeds, 1),
    ];
    let (count, mut met) = (trials()[0], 0);
    for (name, recipe, share) in studies {
        let file = format!("{name}.toml");
        place.write(&file, recipe);
        let command = |out| ["run", file.as_str(), "--out", out, "--threads", "1", "-q"];
        let begin = Instant::now();
        place.run(&command("whole")).ok();
        let (whole, want) = (begin.elapsed(), outcome(&place.path("whole")));
        let own = (count * share).div_ceil(6);
        let mut kills = 0;
        for i in 0..own {
            let about = format!("{name} {i}");
            for turn in 0..1 + usize::from(i % 5 == 0) {
                // Every third one waits for something half written.
                let out = place.path("killed");
                let watched = (i % 3 == 2).then_some(out.as_path());
                kills += usize::from(killed(&place, &command("killed"), whole.mul_f64(spread(i + 7 * turn)), watched));
            }
            place.run(&command("killed")).ok();
            assert_eq!(litter(&place.path("")), [""; 0], "{about}");
            same(&outcome(&place.path("killed")), &want, &about);
            std::fs::remove_dir_all(place.path("killed")).unwrap();
        }
        println!("{name}: {own} trials, {kills} kills met it at work, {:.1} s whole", whole.as_secs_f64());
        met += kills;
        std::fs::remove_dir_all(place.path("whole")).unwrap();
    }
    assert!(2 * met >= count, "only {met} kills met a running study");
}

/// A finished small run to export from and to report on, and a public-like directory in several files.
fn finished(place: &Place) {
    place.write("small.toml", format!("name = \"small\"\n{DATA}{DISTILLED}"));
    place.run(&["run", "small.toml", "--out", "run", "--threads", "1", "-q"]).ok();
}

#[test]
fn exports_that_are_killed_at_random_moments_are_whole_or_absent_and_leave_nothing() {
    let place = Place::new();
    finished(&place);
    let command = ["export", "run", "--model", "student", "--out", "out", "--dtype", "bf16"];
    let begin = Instant::now();
    place.run(&command).ok();
    let (whole, want) = (begin.elapsed(), files(&place.path("out")));
    let run = files(&place.path("run"));
    let (count, mut met) = (trials()[1], 0);
    for i in 0..count {
        if place.path("out").exists() {
            std::fs::remove_dir_all(place.path("out")).unwrap();
        }
        let parent = place.path("");
        let watched = (i % 2 == 0).then_some(parent.as_path());
        let wait = whole.mul_f64(if watched.is_some() { 0.0 } else { spread(i) });
        met += usize::from(killed(&place, &command, wait, watched));
        if !place.path("out").exists() {
            place.run(&command).ok();
        }
        same(&files(&place.path("out")), &want, &format!("export {i}"));
        assert_eq!(litter(&place.path("")), [""; 0], "export {i}");
    }
    println!("export: {count} trials, {met} kills met it at work");
    assert!(files(&place.path("run")) == run, "an export changes nothing in its run");
    assert!(3 * met >= count, "only {met} kills met a running export");
}

#[test]
fn reports_that_are_killed_at_random_moments_are_whole_or_absent_and_leave_nothing() {
    let place = Place::new();
    finished(&place);
    let command = ["report", "run", "--out", "out"];
    let begin = Instant::now();
    place.run(&command).ok();
    let (whole, want) = (begin.elapsed(), files(&place.path("out")));
    let old = place.path("old");
    std::fs::rename(place.path("out"), &old).unwrap();
    for (name, bytes) in files(&old).iter().filter(|(name, _)| name.ends_with(".md") || name.ends_with(".svg")) {
        std::fs::write(old.join(name), [&b"old "[..], &bytes[..]].concat()).unwrap();
    }
    let before = files(&old);
    let (count, mut met) = (trials()[2], 0);
    for i in 0..count {
        // Into a new directory, and over an old report.
        let over = i % 4 > 1;
        if place.path("out").exists() {
            std::fs::remove_dir_all(place.path("out")).unwrap();
        }
        if over {
            before.iter().for_each(|(name, bytes)| drop(place.write(&format!("out/{name}"), bytes)));
        }
        let parent = place.path("");
        let watched = (i % 2 == 0).then_some(parent.as_path());
        let wait = whole.mul_f64(if watched.is_some() { 0.0 } else { spread(i) });
        met += usize::from(killed(&place, &command, wait, watched));
        if place.path("out").exists() {
            let mut half = files(&place.path("out"));
            half.retain(|name, _| !name.contains(".tmp-"));
            assert!(half.keys().eq(want.keys()), "report {i}: {:?}", half.keys());
            for (name, bytes) in half {
                assert!(bytes == want[&name] || over && bytes == before[&name], "report {i}: {name} is half there");
            }
        }
        place.run(&command).ok();
        same(&files(&place.path("out")), &want, &format!("report {i}"));
        assert_eq!(litter(&place.path("")), [""; 0], "report {i}");
    }
    println!("report: {count} trials, {met} kills met it at work");
    assert!(3 * met >= count, "only {met} kills met a running report");
}

/// Every write, fsync and rename of a command fails in turn, and the process is killed at each.
#[cfg(feature = "faults")]
mod faults {
    use super::*;

    /// What a command that failed with an injected fault says.
    fn failed(place: &Place, args: &[&str], n: usize, action: &str) -> Option<String> {
        let fault = format!("{n}:{action}");
        let done = place.command(args).env("FEWSTEP_FAULT", &fault).output().unwrap();
        if done.status.success() {
            return None;
        }
        let err = String::from_utf8_lossy(&done.stderr).into_owned();
        match action {
            "kill" => assert_eq!(done.status.code(), None, "killed, so without an exit code: {err}"),
            _ => {
                assert_eq!(done.status.code(), Some(4), "{fault}: {err}");
                assert!(err.contains("error: cannot"), "{fault}: {err}");
            }
        }
        Some(err)
    }

    #[test]
    fn a_fault_at_every_write_of_an_export_leaves_a_whole_directory_or_none() {
        let place = Place::new();
        finished(&place);
        let command = ["export", "run", "--model", "student", "--out", "above/out", "--dtype", "bf16"];
        place.run(&command).ok();
        let want = files(&place.path("above"));
        std::fs::remove_dir_all(place.path("above")).unwrap();
        for action in ["kill", "enospc", "eio"] {
            let mut n = 0;
            while let Some(err) = failed(&place, &command, n, action) {
                let whole = place.path("above/out").exists();
                if action != "kill" {
                    assert!(!place.path("above").exists(), "{action} at {n} leaves something: {err}");
                    assert_eq!(litter(&place.path("")), [""; 0], "{action} at {n}: {err}");
                }
                if !whole {
                    place.run(&command).ok();
                }
                same(&files(&place.path("above")), &want, &format!("{action} at {n}"));
                std::fs::remove_dir_all(place.path("above")).unwrap();
                n += 1;
            }
            println!("export: {n} points, {action}");
            assert!(n > 20, "only {n} points");
            std::fs::remove_dir_all(place.path("above")).unwrap();
        }
    }

    #[test]
    fn a_fault_at_every_write_of_a_report_leaves_whole_files_and_says_what_is_full() {
        let place = Place::new();
        finished(&place);
        place.run(&["report", "run", "--out", "want"]).ok();
        let want = files(&place.path("want"));
        for (over, action) in [(false, "kill"), (false, "enospc"), (true, "kill"), (true, "enospc"), (true, "eio")] {
            let (mut n, mut plots) = (0, 0);
            loop {
                if over {
                    want.keys().for_each(|name| drop(place.write(&format!("out/{name}"), "old")));
                }
                let Some(err) = failed(&place, &["report", "run", "--out", "out"], n, action) else { break };
                if action != "kill" {
                    assert_eq!(litter(&place.path("")), [""; 0], "{action} at {n}: {err}");
                    assert!(place.path("out").exists() == over, "{action} at {n}: {err}");
                }
                if action == "enospc" && err.contains(".png") {
                    plots += 1;
                    assert!(err.contains("error: cannot write out/") && err.contains("bytes are needed"), "{err}");
                    assert!(err.contains("hint: free at least"), "{err}");
                }
                if over {
                    let mut there = files(&place.path("out"));
                    there.retain(|name, _| !name.contains(".tmp-"));
                    assert!(there.iter().all(|(name, b)| *b == want[name] || b == b"old"), "{action} at {n}");
                }
                place.run(&["report", "run", "--out", "out"]).ok();
                same(&files(&place.path("out")), &want, &format!("{action} at {n}"));
                assert_eq!(litter(&place.path("")), [""; 0], "{action} at {n}");
                std::fs::remove_dir_all(place.path("out")).unwrap();
                n += 1;
            }
            println!("report: {n} points, {action}");
            assert!(n > 20 && (action != "enospc" || plots > 5), "{n} points, {plots} of plots");
            std::fs::remove_dir_all(place.path("out")).unwrap();
        }
    }

    /// A run again over a run whose export must be replaced, with a file of somebody else in it.
    #[test]
    fn a_fault_at_every_write_of_a_run_that_replaces_its_export_keeps_the_files_of_others() {
        let place = Place::new();
        finished(&place);
        place.write("run/export/student/notes.txt", "mine");
        let start = files(&place.path("run"));
        let reset = || {
            std::fs::remove_dir_all(place.path("run")).unwrap();
            start.iter().for_each(|(name, bytes)| drop(place.write(&format!("run/{name}"), bytes)));
        };
        let args = ["run", "small.toml", "--out", "run", "--threads", "1", "-q", "--set", "export.dtype=\"f16\""];
        place.run(&args).ok();
        let want = outcome(&place.path("run"));
        assert!(want["export/student/notes.txt"] == b"mine");
        for action in ["kill", "eio"] {
            let mut n = 0;
            loop {
                reset();
                if failed(&place, &args, n, action).is_none() {
                    break;
                }
                place.run(&args).ok();
                same(&outcome(&place.path("run")), &want, &format!("{action} at {n}"));
                assert_eq!(litter(&place.path("")), [""; 0], "{action} at {n}");
                n += 1;
            }
            println!("run with an export to replace: {n} points, {action}");
            assert!(n > 40, "only {n} points");
        }
    }
}
