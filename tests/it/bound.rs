//! Data is part of a result, and a finished model is never thrown away: what changed meanwhile is refused with both hashes,
//! damage is named, and every hint does what it says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::binary::{Place, Ran, shared};

const TINY: &str = include_str!("../../recipes/tiny.toml");

/// A small study of a text: a model, a judge, seconds of training.
const TEXT: &str = r#"
name = "text"
[data.text]
path = "text.txt"
tokenizer = "char"
length = 16
[model.ar]
order = "left_to_right"
objective.ar_nll = {}
network = { dim = 16, layers = 1, heads = 2, visibility = "causal", shift = true }
train = { steps = 8, batch = 4, lr = 1e-3, save_every = 2 }
[model.judge]
seed = 77
order = "left_to_right"
objective.ar_nll = {}
network = { dim = 16, layers = 1, heads = 2, visibility = "causal", shift = true }
train = { steps = 6, batch = 4, lr = 1e-3, save_every = 2 }
[eval]
samples = 4
batch = 4
steps = [2]
held_out = 8
judge = "judge"
speed_repeats = 0
"#;

fn words() -> String {
    "the quick brown fox jumps over the lazy dog . a vivid river wove a velvet veil . ".repeat(30)
}

/// The tiny study with fewer steps, whose learning rates do not fall.
fn tiny() -> String {
    TINY.replace("steps = 60, batch = 16", "steps = 20, decay = \"constant\", batch = 8")
        .replace("steps = 30, batch = 16", "steps = 12, decay = \"constant\", batch = 8")
        .replace("save_every = 20", "save_every = 10")
        .replace("save_every = 10 }\n\n[eval]", "save_every = 4 }\n\n[eval]")
        .replace("samples = 32", "samples = 8")
        .replace("steps = [2, 4, 8]", "steps = [2]")
        .replace("speed_repeats = 1", "speed_repeats = 0")
        .replace("held_out = 32", "held_out = 8")
}

/// Runs a line as a user types it, with this build as `fewstep`.
fn typed(place: &Place, line: &str) -> Ran {
    let exe = env!("CARGO_BIN_EXE_fewstep");
    let line = match line.strip_prefix("fewstep ") {
        Some(rest) => format!("{exe} {rest} --threads 1"),
        None => line.to_string(),
    };
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &line]).current_dir(place.path("")).env("NO_COLOR", "1");
    Ran::from(command.output().unwrap(), &[&line])
}

/// The command in the hint of a refusal: what stands in backticks and begins with one of these words.
#[track_caller]
fn hinted(ran: &Ran) -> String {
    let hint = ran.err.split("hint: ").nth(1).unwrap_or_else(|| panic!("no hint in {}", ran.err));
    let commands = ["fewstep ", "rm ", "mv ", "sed "];
    let mut quoted = hint.split('`').skip(1).step_by(2);
    let found = quoted.find(|q| commands.iter().any(|c| q.starts_with(c)));
    found.unwrap_or_else(|| panic!("no command in {hint}")).to_string()
}

/// All files below a directory with their bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.path().is_dir() {
            true => all.extend(files(&entry.path())),
            false => drop(all.insert(entry.path(), std::fs::read(entry.path()).unwrap())),
        }
    }
    all
}

/// Runs a command on one thread, as all of them are here: timings and numbers depend on it.
fn one(place: &Place, args: &[&str]) -> Ran {
    place.run(&[args, &["--threads", "1"]].concat())
}

fn run(place: &Place, recipe: &str, more: &[&str]) -> Ran {
    one(place, &[&["run", recipe, "--out", "r"], more].concat())
}

/// Removes the checkpoints of a model.
fn without_checkpoints(model: &Path) {
    for entry in std::fs::read_dir(model).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("step-") {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
}

#[test]
fn a_corpus_that_changed_is_refused_with_both_hashes_by_every_command_that_reads_it() {
    let place = Place::new();
    place.write("my.toml", TEXT);
    place.write("text.txt", words());
    run(&place, "my.toml", &[]).ok();
    let manifest = std::fs::read_to_string(place.path("r/models/ar/final/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let results = std::fs::read_to_string(place.path("r/results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&results).unwrap();
    let sources = &manifest["extra"]["fingerprint"]["sources"];
    assert_eq!(sources["the data's tokens"], results["data"]["sha256"]);
    assert_eq!(sources["the tokenizer"], results["data"]["tokenizer_sha256"]);
    let before = files(&place.path("r"));

    // Another letter in the place of one: as many tokens, as many kinds of them.
    for text in [words().replace('v', "V"), words().chars().rev().collect::<String>()] {
        place.write("text.txt", &text);
        for command in [
            &["run", "my.toml", "--out", "r"][..],
            &["run", "my.toml", "--out", "r", "--only", "ar"],
            &["eval", "r"],
            &["eval", "r", "--only", "ar"],
            &["export", "r", "--model", "ar", "--out", "e"],
        ] {
            let ran =
                one(&place, command).fails(3, &["what `ar`", "has changed", "the data's tokens: sha256 ", "hint:"]);
            assert!(ran.err.contains(results["data"]["sha256"].as_str().unwrap()), "{}", ran.err);
            let line = ran.err.lines().find(|l| l.contains("the data's tokens")).unwrap();
            assert!(
                line.matches("sha256").count() == 2 && line.contains(" then, ") && line.ends_with(" now"),
                "{line}"
            );
        }
        let now = files(&place.path("r"));
        let same =
            |path: &&PathBuf| before[*path] == now[*path] || path.ends_with("train.tok") || path.ends_with("valid.tok");
        assert!(before.keys().all(|p| same(&p)), "something was written");
    }
    // What is kept of the old text is as good as before once it is back.
    place.write("text.txt", words());
    let ran = run(&place, "my.toml", &[]).ok();
    assert!(!ran.err.contains("trained in") && !ran.err.contains("eval ar"), "{}", ran.err);
    // The same text elsewhere is the same data.
    place.write("moved.txt", words());
    run(&place, "my.toml", &["--set", "data.text.path=moved.txt"]).ok();

    // The hint trains all of them anew on the new text.
    place.write("moved.txt", words().replace('v', "V"));
    let ran = run(&place, "my.toml", &["--set", "data.text.path=moved.txt"]).fails(3, &["`ar` and `judge`"]);
    typed(&place, &hinted(&ran)).ok();
    let ran = run(&place, "my.toml", &["--set", "data.text.path=moved.txt"]).ok();
    assert!(!ran.err.contains("trained in"), "{}", ran.err);
    assert!(place.path("r/replaced/ar-1/final/model.safetensors").is_file());
    // Results of other data beside them are not reported.
    let old = before.iter().find(|(path, _)| path.ends_with("r/results.json")).unwrap().1;
    std::fs::write(place.path("r/results.json"), old).unwrap();
    let ran = one(&place, &["report", "r"]).fails(3, &["are not of its models", "the data's tokens: sha256 ", "hint:"]);
    typed(&place, &hinted(&ran)).ok();
    one(&place, &["report", "r"]).ok();
}

#[test]
fn a_training_is_not_resumed_on_another_text_or_with_another_tokenizer() {
    let place = Place::new();
    place.write("my.toml", TEXT);
    place.write("text.txt", words());
    run(&place, "my.toml", &["--only", "ar"]).ok();
    let model = place.path("r/models/ar");
    std::fs::remove_dir_all(model.join("final")).unwrap();
    std::fs::remove_dir_all(model.join("step-000008")).unwrap();
    let before = files(&model);
    place.write("text.txt", words().replace('v', "V"));
    run(&place, "my.toml", &["--only", "ar"]).fails(3, &["what `ar`", "the data's tokens", "the tokenizer"]);
    assert_eq!(files(&model), before);
    // The same ids by another tokenizer: the last letter of the alphabet is another one.
    place.write("text.txt", words().replace('z', "{"));
    let other = run(&place, "my.toml", &["--only", "ar"]).fails(3, &["the tokenizer: sha256 "]);
    assert!(!other.err.contains("the data's tokens"), "{}", other.err);
    place.write("text.txt", words());
    let resumed = run(&place, "my.toml", &["--only", "ar"]).ok();
    assert!(resumed.err.contains("resumed at step 6 of 8"), "{}", resumed.err);
}

#[test]
fn damage_below_final_is_named_and_only_the_hinted_command_trains_the_model_again() {
    let place = Place::new();
    place.write("my.toml", tiny());
    run(&place, "my.toml", &[]).ok();
    let last = place.path("r/models/teacher/final");
    without_checkpoints(&place.path("r/models/teacher"));
    let good = files(&last);
    let restore = || {
        let _ = std::fs::remove_dir_all(&last).or_else(|_| std::fs::remove_file(&last));
        std::fs::create_dir_all(&last).unwrap();
        good.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    };
    let refused = |name: &str| {
        let before = files(&place.path("r"));
        for command in [
            &["run", "my.toml", "--out", "r"][..],
            &["eval", "r"],
            &["sample", "r", "--model", "teacher", "-n", "1"],
            &["sample", "r/models/teacher/final", "-n", "1"],
            &["inspect", "r/models/teacher/final"],
            &["export", "r", "--model", "teacher", "--out", "e"],
            &["export", "r/models/teacher/final", "--out", "e"],
        ] {
            let ran = one(&place, command).fails(3, &[name, "hint:", "--retrain teacher"]);
            assert!(!ran.err.contains("teacher step"), "{}", ran.err);
        }
        assert!(files(&place.path("r")) == before, "{name}: something was written or removed");
    };
    for name in ["README.md", "config.json", "tokenizer.json", "recipe.toml", "model.safetensors", "manifest.json"] {
        let mut bytes = good[&last.join(name)].clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(last.join(name), bytes).unwrap();
        refused(name);
        std::fs::remove_file(last.join(name)).unwrap();
        refused(name);
        std::fs::create_dir(last.join(name)).unwrap();
        refused(name);
        restore();
    }
    std::fs::write(last.join("origin.json"), "{}").unwrap();
    refused("origin.json was added");
    restore();
    let ran = run(&place, "my.toml", &[]).ok();
    assert!(!ran.err.contains("trained in"), "{}", ran.err);

    // The hint does what it says; the same weights come out, so the student stays what it was.
    std::fs::write(last.join("README.md"), "other").unwrap();
    let ran = run(&place, "my.toml", &[]).fails(3, &["README.md"]);
    let ran = typed(&place, &hinted(&ran)).ok();
    assert!(ran.err.contains("r/replaced/teacher-1") && ran.err.contains("teacher: trained in"), "{}", ran.err);
    assert!(!ran.err.contains("student: trained in") && !ran.err.contains("ar: trained in"), "{}", ran.err);
    assert_eq!(std::fs::read(last.join("model.safetensors")).unwrap(), good[&last.join("model.safetensors")]);
    assert_eq!(std::fs::read(place.path("r/replaced/teacher-1/final/README.md")).unwrap(), b"other");
    run(&place, "my.toml", &[]).ok();
}

#[test]
fn files_of_others_in_final_are_neither_refused_nor_removed() {
    let place = Place::new();
    place.write("my.toml", tiny());
    run(&place, "my.toml", &[]).ok();
    let names = ["notes.txt", "Thumbs.db", ".DS_Store", "sub/notes.json"];
    names.iter().for_each(|name| drop(place.write(&format!("r/models/teacher/final/{name}"), "mine")));
    let ran = run(&place, "my.toml", &[]).ok();
    assert!(!ran.err.contains("trained in"), "{}", ran.err);
    for command in [
        &["eval", "r"][..],
        &["sample", "r", "--model", "teacher", "-n", "1"],
        &["inspect", "r/models/teacher/final"],
        &["export", "r", "--model", "teacher", "--out", "e"],
    ] {
        one(&place, command).ok();
    }
    for name in names {
        assert_eq!(std::fs::read(place.path("r/models/teacher/final").join(name)).unwrap(), b"mine");
    }
}

#[cfg(unix)]
#[test]
fn a_file_of_final_that_may_not_be_read_is_named_and_nothing_is_trained() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    place.write("my.toml", tiny());
    run(&place, "my.toml", &["--only", "teacher"]).ok();
    let file = place.path("r/models/teacher/final/model.safetensors");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::File::open(&file).is_ok() {
        println!("skipped: this user reads every file");
        return;
    }
    run(&place, "my.toml", &["--only", "teacher"]).fails(3, &["model.safetensors cannot be read: permission denied"]);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    run(&place, "my.toml", &["--only", "teacher"]).ok();
}

#[test]
fn a_final_directory_that_is_gone_is_made_again_from_its_last_checkpoint_which_is_said() {
    let place = Place::new();
    place.write("my.toml", tiny());
    run(&place, "my.toml", &["--only", "teacher"]).ok();
    let last = place.path("r/models/teacher/final");
    let weights = std::fs::read(last.join("model.safetensors")).unwrap();
    std::fs::remove_dir_all(&last).unwrap();
    let ran = run(&place, "my.toml", &["--only", "teacher"]).ok();
    assert!(ran.err.contains("final/ is missing and is made again from step-000020"), "{}", ran.err);
    assert_eq!(std::fs::read(last.join("model.safetensors")).unwrap(), weights);
}

#[test]
fn a_training_that_lost_its_checkpoints_does_not_start_over_in_silence() {
    let place = Place::new();
    place.write("my.toml", tiny());
    run(&place, "my.toml", &["--only", "teacher"]).ok();
    let model = place.path("r/models/teacher");
    std::fs::remove_dir_all(model.join("final")).unwrap();
    without_checkpoints(&model);
    let words = ["the checkpoints of `teacher` are gone", "metrics.jsonl tells of step 20", "--retrain teacher"];
    let ran = run(&place, "my.toml", &["--only", "teacher"]).fails(3, &words);
    // Not only where this version has saved them.
    std::fs::remove_file(model.join("saved")).unwrap();
    run(&place, "my.toml", &["--only", "teacher"]).fails(3, &words);
    typed(&place, &format!("{} --only teacher", hinted(&ran))).ok();
    assert!(model.join("final/config.json").is_file() && place.path("r/replaced/teacher-1/metrics.jsonl").is_file());
    // One that never saved any begins again, and says so.
    std::fs::remove_dir_all(model.join("final")).unwrap();
    without_checkpoints(&model);
    std::fs::remove_file(model.join("saved")).unwrap();
    let log = std::fs::read_to_string(model.join("metrics.jsonl")).unwrap();
    let first: String = log.lines().take(3).map(|l| format!("{l}\n")).collect();
    std::fs::write(model.join("metrics.jsonl"), first).unwrap();
    let ran = run(&place, "my.toml", &["--only", "teacher"]).ok();
    assert!(ran.err.contains("no checkpoint was saved before step 3; it starts at step 0"), "{}", ran.err);
    assert_eq!(std::fs::read_to_string(model.join("metrics.jsonl")).unwrap(), log);
}

#[test]
fn a_log_that_was_changed_is_told_with_its_line_and_the_hint_lets_the_training_go_on() {
    let place = Place::new();
    place.write("my.toml", tiny());
    run(&place, "my.toml", &["--only", "teacher"]).ok();
    let model = place.path("r/models/teacher");
    let weights = std::fs::read(model.join("final/model.safetensors")).unwrap();
    std::fs::remove_dir_all(model.join("final")).unwrap();
    std::fs::remove_dir_all(model.join("step-000020")).unwrap();
    let log = std::fs::read(model.join("metrics.jsonl")).unwrap();
    let at = log.windows(8).position(|w| w == b"\"step\":5").unwrap();
    let mut not_text = log.clone();
    not_text[at] = 0xff;
    let mut digit = log.clone();
    let place_of = log.windows(7).position(|w| w == b"\"loss\":").unwrap() + 9;
    digit[place_of] = if digit[place_of] == b'1' { b'2' } else { b'1' };
    for (text, word) in [(&not_text, "line 5 is not a line of a log"), (&digit, "the sha256 of its first")] {
        std::fs::write(model.join("metrics.jsonl"), text).unwrap();
        run(&place, "my.toml", &["--only", "teacher"]).fails(3, &["metrics.jsonl was changed", word, "hint:"]);
    }
    let ran = run(&place, "my.toml", &["--only", "teacher"]).fails(3, &["step 10"]);
    typed(&place, &hinted(&ran)).ok();
    let ran = run(&place, "my.toml", &["--only", "teacher"]).ok();
    assert!(ran.err.contains("the log begins at step 11"), "{}", ran.err);
    assert_eq!(std::fs::read(model.join("final/model.safetensors")).unwrap(), weights);
    let text = std::fs::read_to_string(model.join("metrics.jsonl")).unwrap();
    assert!(text.starts_with("{") && text.lines().count() == 10, "{text}");
}

#[test]
fn a_stored_evaluation_with_one_changed_byte_is_refused_and_the_hint_mends_it() {
    let place = Place::new();
    place.write("my.toml", tiny());
    run(&place, "my.toml", &[]).ok();
    let results = std::fs::read(place.path("r/results.json")).unwrap();
    let (eval, samples) = (place.path("r/models/ar/eval.json"), place.path("r/models/ar/samples.txt"));
    let good = std::fs::read(&eval).unwrap();
    let mut ran = None;
    for i in 0..24 {
        let mut bytes = good.clone();
        let at = (i * 7919 + 13) % bytes.len();
        bytes[at] ^= 1 << (i % 7);
        std::fs::write(&eval, &bytes).unwrap();
        ran = Some(run(&place, "my.toml", &[]).fails(3, &["eval.json was changed after it was written", "hint:"]));
        assert_eq!(std::fs::read(&eval).unwrap(), bytes);
    }
    for cut in [0, 1, good.len() / 2, good.len() - 2] {
        std::fs::write(&eval, &good[..cut]).unwrap();
        one(&place, &["eval", "r"]).fails(3, &["eval.json was changed", "hint:"]);
    }
    assert_eq!(std::fs::read(place.path("r/results.json")).unwrap(), results);
    typed(&place, &hinted(&ran.unwrap())).ok();
    let ran = run(&place, "my.toml", &[]).ok();
    assert!(ran.err.contains("eval ar") && !ran.err.contains("eval teacher"), "{}", ran.err);
    assert_eq!(std::fs::read(place.path("r/results.json")).unwrap(), results);

    // Samples are bound to the evaluation that they belong to.
    let text = std::fs::read_to_string(&samples).unwrap();
    std::fs::write(&samples, text.replacen("has", "had", 1) + "x").unwrap();
    let ran = run(&place, "my.toml", &[]).fails(3, &["samples.txt was changed", "hint:"]);
    typed(&place, &hinted(&ran)).ok();
    run(&place, "my.toml", &[]).ok();
    assert_eq!(std::fs::read_to_string(&samples).unwrap(), text);
    std::fs::remove_file(&samples).unwrap();
    run(&place, "my.toml", &[]).ok();
    assert_eq!(std::fs::read_to_string(&samples).unwrap(), text);
}

#[test]
fn results_that_were_edited_are_refused_by_report_and_gate() {
    let place = Place::new();
    place.write("my.toml", tiny());
    run(&place, "my.toml", &["--set", "export.models=[]"]).ok();
    let good = std::fs::read_to_string(place.path("r/results.json")).unwrap();
    let body = good.rsplit_once(",\n  \"sha256\"").unwrap().0;
    let mean = good.split("\"mean\": ").nth(20).unwrap().split([',', '\n']).next().unwrap().to_string();
    for (text, words) in [
        (good.replacen(&mean, "7.5", 1), "its own sha256 differs"),
        (serde_json::from_str::<serde_json::Value>(&good).unwrap().to_string(), "another program has written it anew"),
    ] {
        place.write("bad.json", text);
        one(&place, &["report", "bad.json", "--out", "o"]).fails(3, &["bad.json", words, "hint:"]);
        one(&place, &["gate", "bad.json", "--baseline", "r/results.json"]).fails(3, &["bad.json", words, "hint:"]);
    }
    // Without a hash, as files of the version before are, a mean is still held to its samples.
    place.write("old.json", format!("{body}\n}}\n"));
    one(&place, &["report", "old.json", "--out", "o"]).ok();
    one(&place, &["gate", "old.json", "--baseline", "r/results.json"]).ok();
    place.write("r/results.json", good.replacen(&mean, "7.5", 1));
    let ran = one(&place, &["report", "r"]).fails(3, &["its own sha256 differs"]);
    typed(&place, &hinted(&ran).replace("RUN", "r")).ok();
    one(&place, &["report", "r"]).ok();
    let mut value: serde_json::Value = serde_json::from_str(&format!("{body}\n}}")).unwrap();
    value["models"][0]["rows"][0]["scores"]["entropy"]["mean"] = 0.5.into();
    place.write("bad.json", value.to_string());
    one(&place, &["report", "bad.json", "--out", "o"]).fails(3, &["bad.json", "the mean of `entropy` is 0.5"]);
}

#[test]
fn a_first_run_that_fails_on_its_data_leaves_nothing_and_the_mended_recipe_runs() {
    for (from, to, code) in [
        ("path = \"text.txt\"", "path = \"typo.txt\"", 3),
        ("tokenizer = \"char\"", "tokenizer = { json = { path = \"tokenizer.json\" } }", 3),
        ("length = 16", "length = 100000", 2),
        ("length = 16", "length = 16\nvalid_fraction = 2.0", 2),
        ("speed_repeats = 0", "speed_repeats = 0\ncontext = \"absent.json\"", 3),
    ] {
        let place = Place::new();
        place.write("text.txt", words());
        assert!(TEXT.contains(from), "{from}");
        place.write("my.toml", TEXT.replacen(from, to, 1));
        one(&place, &["run", "my.toml"]).fails(code, &[]);
        assert!(
            !place.path("runs").exists(),
            "{to}: a run that failed on its data left {:?}",
            files(&place.path("runs"))
        );
        // A directory that was there keeps what it had, and gets nothing.
        place.write("mine/notes.txt", "mine");
        one(&place, &["run", "my.toml", "--out", "mine"]).fails(code, &[]);
        assert_eq!(files(&place.path("mine")).len(), 1, "{to}");
        place.write("my.toml", TEXT);
        one(&place, &["run", "my.toml", "--only", "ar"]).ok();
    }
    // What can be mended by a command is.
    let place = Place::new();
    place.write("text.txt", format!("\u{feff}{}", words()));
    place.write("my.toml", TEXT);
    let ran = one(&place, &["run", "my.toml", "--only", "ar"]).fails(3, &["begins with a byte order mark", "hint:"]);
    typed(&place, &hinted(&ran)).ok();
    one(&place, &["run", "my.toml", "--only", "ar"]).ok();
}

#[test]
fn a_recipe_whose_training_failed_may_be_mended_in_place() {
    let place = Place::new();
    place.write("text.txt", words());
    place.write("my.toml", TEXT);
    // Every step multiplies the weights by 1 - 10 * 10.
    let bad = ["lr=10.0", "weight_decay=10.0", "steps=2000", "save_every=0"].map(|s| format!("model.ar.train.{s}"));
    let sets: Vec<&str> = bad.iter().flat_map(|set| ["--set", set]).collect();
    let failing = [&["--only", "ar"][..], &sets].concat();
    let words = ["no checkpoint was saved yet", "lower `model.ar.train.lr`", "run the same command"];
    run(&place, "my.toml", &failing).fails(5, &words);
    place.write("my.toml", TEXT);
    let ran = run(&place, "my.toml", &["--only", "ar"]).ok();
    assert!(ran.err.contains("it starts at step 0"), "{}", ran.err);
    // With a checkpoint the model is bound, and the hint says how to be rid of it.
    std::fs::remove_dir_all(place.path("r")).unwrap();
    let failing: Vec<&str> =
        failing.into_iter().map(|a| if a.ends_with("=0") { "model.ar.train.save_every=2" } else { a }).collect();
    let ran = run(&place, "my.toml", &failing).fails(5, &["last good checkpoint", "--retrain ar"]);
    run(&place, "my.toml", &["--only", "ar"]).fails(2, &["another recipe", "model.ar.train.lr", "--retrain ar"]);
    assert!(hinted(&ran).starts_with("fewstep run my.toml --set "), "{}", ran.err);
    run(&place, "my.toml", &["--only", "ar", "--retrain", "ar"]).ok();
}

#[test]
fn a_longer_training_equals_one_that_was_as_long_from_the_start() {
    let place = Place::new();
    place.write("my.toml", tiny());
    let longer = ["--set", "model.ar.train.steps=34"];
    one(&place, &[&["run", "my.toml", "--only", "ar", "--out", "whole"][..], &longer].concat()).ok();
    run(&place, "my.toml", &["--only", "ar"]).ok();
    let ran = run(&place, "my.toml", &[&["--only", "ar"][..], &longer].concat()).ok();
    assert!(ran.err.contains("changed since the last run here: model.ar.train.steps"), "{}", ran.err);
    assert!(ran.err.contains("goes on from step 20 to 34") && !ran.err.contains("warning:"), "{}", ran.err);
    assert!(ran.err.contains("the shorter training lies in r/replaced/ar-1"), "{}", ran.err);
    for file in ["final/model.safetensors", "final/config.json", "metrics.jsonl"] {
        let read = |run: &str| std::fs::read(place.path(run).join("models/ar").join(file)).unwrap();
        assert!(read("r") == read("whole"), "{file} differs");
    }
    // Fewer steps than it has are refused, and the hint trains it with so many.
    let ran = run(&place, "my.toml", &["--only", "ar"]).fails(2, &["has 34 steps", "`model.ar.train.steps` is 20"]);
    let ran = typed(&place, &format!("{} --only ar", hinted(&ran))).ok();
    assert!(ran.err.contains("r/replaced/ar-2"), "{}", ran.err);
    // So are fewer than a training under way has.
    std::fs::remove_dir_all(place.path("whole/models/ar/final")).unwrap();
    let ran = one(&place, &["run", "my.toml", "--only", "ar", "--out", "whole"])
        .fails(2, &["is at step 34", "give at least `model.ar.train.steps = 34`"]);
    one(&place, &[&["run", "my.toml", "--only", "ar", "--out", "whole"][..], &longer].concat()).ok();
    std::fs::remove_dir_all(place.path("whole/models/ar/final")).unwrap();
    typed(&place, &format!("{} --only ar", hinted(&ran))).ok();
    // A learning rate that falls over all steps is no longer the same, which is said.
    let falling = ["--set", "model.ar.train.decay=cosine", "--only", "ar"];
    let out = |more: &[&str]| one(&place, &[&["run", "my.toml", "--out", "f"], &falling[..], more].concat());
    out(&[]).ok();
    let ran = out(&longer).ok();
    assert!(ran.err.contains("warning: ar: not the same as 34 steps from the start: the learning rate"), "{}", ran.err);
    // One without checkpoints cannot go on.
    without_checkpoints(&place.path("f/models/ar"));
    let more = ["--set", "model.ar.train.steps=40"];
    let ran = out(&more).fails(3, &["`ar` has 34 steps, and no checkpoint to go on from", "--retrain ar"]);
    typed(&place, &hinted(&ran)).ok();
}

#[test]
fn a_student_is_not_left_beside_another_teacher_than_its_own() {
    let place = Place::new();
    place.write("my.toml", tiny());
    run(&place, "my.toml", &[]).ok();
    // A teacher that is trained on is another one: told before anything is done.
    let longer = ["--set", "model.teacher.train.steps=24"];
    let before = files(&place.path("r"));
    let ran = run(&place, "my.toml", &longer).fails(2, &["`student`", "another recipe", "model.teacher.train.steps"]);
    assert!(files(&place.path("r")) == before);
    let ran = typed(&place, &hinted(&ran)).ok();
    assert!(ran.err.contains("goes on from step 20 to 24") && ran.err.contains("student: trained in"), "{}", ran.err);
    run(&place, "my.toml", &longer).ok();
    // One that came out otherwise is found by its hash.
    let last = place.path("r/models/teacher/final");
    let extra = fewstep::fs::read_manifest(&last).unwrap().extra;
    let mut weights = std::fs::read(last.join("model.safetensors")).unwrap();
    let at = weights.len() - 4;
    weights[at] ^= 1;
    std::fs::write(last.join("model.safetensors"), weights).unwrap();
    fewstep::fs::write_manifest(&last, extra).unwrap();
    for command in [&["run", "my.toml", "--out", "r", longer[0], longer[1]][..], &["eval", "r"]] {
        one(&place, command).fails(3, &["`student`", "model teacher: sha256 ", "--retrain student"]);
    }
    let ran = run(&place, "my.toml", &longer);
    typed(&place, &hinted(&ran)).ok();
    run(&place, "my.toml", &longer).ok();
}

#[test]
fn new_models_removed_ones_and_written_down_defaults_are_accepted_in_the_same_directory() {
    let place = Place::new();
    place.write("my.toml", tiny());
    run(&place, "my.toml", &[]).ok();
    let defaults =
        ["--set", "model.ar.train.beta1=0.9", "--set", "data.story.noise=0.0001", "--set", "eval.oracle=true"];
    let ran = run(&place, "my.toml", &defaults).ok();
    assert!(!ran.err.contains("trained in"), "{}", ran.err);
    let other = "[model.second]\norder = \"left_to_right\"\nobjective.ar_nll = {}\n\
        network = { dim = 16, layers = 1, heads = 2, visibility = \"causal\", shift = true }\n\
        train = { steps = 4, batch = 4, lr = 1e-3 }\n\n[eval]";
    place.write("more.toml", tiny().replace("[eval]", other));
    let ran = run(&place, "more.toml", &[]).ok();
    assert!(ran.err.contains("second: trained in") && !ran.err.contains("ar: trained in"), "{}", ran.err);
    run(&place, "my.toml", &[]).ok();
    assert!(place.path("r/models/second/final/config.json").is_file(), "a model that the recipe no longer has stays");
    // Another network is another recipe, whatever else is allowed, and so is another study.
    run(&place, "my.toml", &["--set", "model.ar.network.dim=16"])
        .fails(2, &["`ar` in r was trained by another recipe", "- model.ar.network.dim = 32", "hint:"]);
    run(&place, "my.toml", &["--set", "name=other"]).fails(2, &["another recipe", "+ name = \"other\"", "hint:"]);
    run(&place, "my.toml", &["--set", "data.story.names=3"])
        .fails(2, &["`ar`, `student` and `teacher`", "data.story.names"]);
}

#[test]
fn a_recipe_toml_that_is_not_of_a_run_is_not_replaced() {
    let place = Place::new();
    let mine = format!("# My own.\n{}", tiny());
    place.write("mine/recipe.toml", &mine);
    place.write("my.toml", tiny());
    one(&place, &["run", "my.toml", "--out", "mine", "--only", "ar"]).fails(2, &["would be replaced", "hint:"]);
    assert_eq!(files(&place.path("mine")).len(), 1);
    // The recipe itself may lie in the run's directory.
    one(&place, &["run", "mine/recipe.toml", "--out", "mine", "--only", "ar"]).ok();
    assert_eq!(std::fs::read_to_string(place.path("mine/recipe.toml")).unwrap(), mine);
}

#[test]
fn retrain_refuses_names_that_cannot_be_meant() {
    let place = Place::new();
    place.write("my.toml", tiny());
    run(&place, "my.toml", &["--retrain", "techer"]).fails(2, &["no model `techer`", "did you mean `teacher`?"]);
    let words = ["--retrain teacher", "--only ar", "or give `--only teacher`"];
    run(&place, "my.toml", &["--only", "ar", "--retrain", "teacher"]).fails(2, &words);
    assert!(!place.path("r").exists());
    // A model that is not there yet is simply trained.
    run(&place, "my.toml", &["--only", "teacher", "--retrain", "teacher"]).ok();
    let ran = run(&place, "my.toml", &["--only", "ar", "--retrain", "ar"]).ok();
    assert!(ran.err.contains("ar: trained in") && !place.path("r/replaced").exists(), "{}", ran.err);
}

#[test]
fn a_retraining_that_was_interrupted_goes_on_by_the_same_command() {
    let place = Place::new();
    place.write("my.toml", tiny());
    run(&place, "my.toml", &["--only", "ar"]).ok();
    run(&place, "my.toml", &["--only", "ar", "--retrain", "ar"]).ok();
    let model = place.path("r/models/ar");
    let weights = std::fs::read(model.join("final/model.safetensors")).unwrap();
    // As a kill would leave it in the middle of the second training.
    std::fs::remove_dir_all(model.join("final")).unwrap();
    std::fs::remove_dir_all(model.join("step-000020")).unwrap();
    let ran = run(&place, "my.toml", &["--only", "ar", "--retrain", "ar"]).ok();
    assert!(ran.err.contains("its training is not finished and goes on"), "{}", ran.err);
    assert!(ran.err.contains("resumed at step 10 of 20") && !place.path("r/replaced/ar-2").exists(), "{}", ran.err);
    assert_eq!(std::fs::read(model.join("final/model.safetensors")).unwrap(), weights);
}

#[test]
fn a_run_of_the_version_before_is_taken_up_with_a_warning_that_its_data_is_not_checked() {
    let place = Place::new();
    place.write("my.toml", tiny());
    run(&place, "my.toml", &["--only", "ar"]).ok();
    let loaded = fewstep::recipe::load(&place.path("my.toml").display().to_string(), &[]).unwrap();
    let before = |settings: String| {
        for dir in ["final", "step-000020", "step-000010"] {
            let path = place.path("r/models/ar").join(dir).join("manifest.json");
            let fewstep::fs::Sealed::Whole(body) = fewstep::fs::unseal(&std::fs::read_to_string(&path).unwrap()) else {
                panic!("a manifest is sealed")
            };
            let mut manifest: serde_json::Value = serde_json::from_str(&body).unwrap();
            manifest["extra"]["fingerprint"] = settings.clone().into();
            manifest["extra"].as_object_mut().unwrap().remove("log");
            let text = serde_json::to_string_pretty(&manifest).unwrap();
            std::fs::write(&path, fewstep::fs::seal(&text)).unwrap();
        }
    };
    before(loaded.recipe.settings_before("ar").unwrap());
    let ran = run(&place, "my.toml", &["--only", "ar"]).ok();
    assert!(ran.err.contains("warning: `ar` was trained by an earlier fewstep"), "{}", ran.err);
    std::fs::remove_dir_all(place.path("r/models/ar/final")).unwrap();
    std::fs::remove_dir_all(place.path("r/models/ar/step-000020")).unwrap();
    let ran = run(&place, "my.toml", &["--only", "ar"]).ok();
    assert!(
        ran.err.contains("was begun by an earlier fewstep") && ran.err.contains("resumed at step 10"),
        "{}",
        ran.err
    );
    before("lr = 7\n".into());
    run(&place, "my.toml", &["--only", "ar"]).fails(2, &["another recipe", "- lr = 7", "--retrain ar"]);
}

#[test]
fn models_that_seeds_share_are_one_model_or_refused() {
    let place = Place::new();
    place.write("text.txt", words());
    place.write("my.toml", TEXT.replace("name = \"text\"", "name = \"text\"\nseeds = [3, 5]"));
    run(&place, "my.toml", &[]).ok();
    let last = |seed: &str, model: &str| place.path(&format!("r/seeds/{seed}/models/{model}/final"));
    let weights = |seed: &str| std::fs::read(last(seed, "judge").join("model.safetensors")).unwrap();
    assert_eq!(weights("3"), weights("5"));
    // Damage under one seed is told with the command for that seed alone.
    let mut bad = weights("5");
    let at = bad.len() - 3;
    bad[at] ^= 1;
    std::fs::write(last("5", "judge").join("model.safetensors"), bad).unwrap();
    let ran = run(&place, "my.toml", &[]).fails(3, &["r/seeds/5/models/judge/final is damaged", "hint:"]);
    assert!(hinted(&ran).contains("--out r/seeds/5 --retrain judge"), "{}", ran.err);
    typed(&place, &hinted(&ran)).ok();
    run(&place, "my.toml", &[]).ok();
    assert_eq!(weights("3"), weights("5"));
    // So is damage under the first; and the command for all seeds mends it under whichever it is.
    for seed in ["5", "3"] {
        let path = last(seed, "judge").join("model.safetensors");
        std::fs::write(&path, b"damaged").unwrap();
        run(&place, "my.toml", &[]).fails(3, &[&format!("r/seeds/{seed}/models/judge/final is damaged"), "hint:"]);
        run(&place, "my.toml", &["--retrain", "judge"]).ok();
        assert_eq!(weights("3"), weights("5"));
        run(&place, "my.toml", &[]).ok();
        std::fs::write(last(seed, "judge").join(fewstep::fs::MANIFEST), b"{").unwrap();
        run(&place, "my.toml", &["--retrain", "judge"]).ok();
        run(&place, "my.toml", &[]).ok();
    }
    // One that is sound and another model is refused, and the hint has it copied.
    let (one_seed, extra) = (last("5", "judge"), fewstep::fs::read_manifest(&last("5", "judge")).unwrap().extra);
    let mut other = weights("5");
    let at = other.len() - 3;
    other[at] ^= 1;
    std::fs::write(one_seed.join("model.safetensors"), other).unwrap();
    fewstep::fs::write_manifest(&one_seed, extra).unwrap();
    let ran = run(&place, "my.toml", &[]).fails(3, &["`judge` is another model in r/seeds/3 than in", "hint:"]);
    typed(&place, &hinted(&ran)).ok();
    run(&place, "my.toml", &["--retrain", "ar"]).ok();
    assert_eq!(weights("3"), weights("5"));
    // Another text is refused under seeds too, and the hint does it for all of them.
    place.write("text.txt", words().replace('v', "V"));
    let ran = run(&place, "my.toml", &[]).fails(3, &["the data's tokens", "hint:"]);
    typed(&place, &hinted(&ran)).ok();
    run(&place, "my.toml", &[]).ok();
    assert_eq!(weights("3"), weights("5"));
    one(&place, &["report", "r"]).ok();
}

#[test]
fn fixture_a_base_checkpoint_whose_configuration_changed_is_refused_with_both_hashes() {
    let Some(source) = shared("fixtures/mdlm") else { return };
    let place = Place::new();
    std::fs::create_dir(place.path("base")).unwrap();
    for entry in std::fs::read_dir(&source).unwrap().flatten().filter(|e| e.path().is_file()) {
        std::fs::copy(entry.path(), place.path("base").join(entry.file_name())).unwrap();
    }
    let config = place.path("base/config.json");
    let (d, _) = fewstep::model::family::look(&place.path("base")).unwrap();
    let length = if d.network.learned_positions { d.length } else { 16 };
    place.write("text.txt", words());
    place.write(
        "my.toml",
        format!(
            "name = \"text\"\n[data.text]\npath = \"text.txt\"\ntokenizer = \"char\"\nlength = {length}\n\
             [model.judge]\norder = \"left_to_right\"\nobjective.ar_nll = {{}}\n\
             network = {{ dim = 16, layers = 1, heads = 2, visibility = \"causal\", shift = true }}\n\
             train = {{ steps = 2, batch = 2, lr = 1e-3 }}\n\
             [model.teacher]\nfrom = \"base\"\norder = \"parallel\"\nobjective.elbo = {{}}\n\
             train = {{ steps = 0, batch = 2, lr = 1e-3 }}\n\
             [model.student]\norder = \"parallel\"\nobjective.sdtt = {{ teacher = \"teacher\", teacher_steps = 8, rounds = 1 }}\n\
             train = {{ steps = 2, batch = 2, lr = 1e-3, save_every = 1 }}\n\
             [eval]\nsamples = 2\nbatch = 2\nsteps = [2]\nheld_out = 4\njudge = \"judge\"\nspeed_repeats = 0\n"
        ),
    );
    run(&place, "my.toml", &[]).ok();
    let good = std::fs::read_to_string(&config).unwrap();
    // Nothing but the hash shows it.
    let changed = format!("{good}\n");
    std::fs::write(&config, &changed).unwrap();
    for command in
        [&["run", "my.toml", "--out", "r"][..], &["eval", "r"], &["export", "r", "--model", "student", "--out", "e"]]
    {
        let ran = one(&place, command).fails(3, &["base config.json: sha256 ", " then, ", "hint:"]);
        assert!(ran.err.contains(&fewstep::fs::sha256_hex(good.as_bytes())), "{}", ran.err);
        assert!(ran.err.contains(&fewstep::fs::sha256_hex(changed.as_bytes())), "{}", ran.err);
    }
    one(&place, &["sample", "r", "--model", "teacher", "-n", "1", "--steps", "2"])
        .fails(3, &["config.json: sha256 ", "when this model was made", "hint:"]);
    let ran = run(&place, "my.toml", &[]);
    let ran = typed(&place, &hinted(&ran)).ok();
    assert!(ran.err.contains("r/replaced/teacher-1"), "{}", ran.err);
    run(&place, "my.toml", &[]).ok();
    one(&place, &["sample", "r", "--model", "teacher", "-n", "1", "--steps", "2"]).ok();
    std::fs::write(&config, &good).unwrap();
    run(&place, "my.toml", &[]).fails(3, &["base config.json"]);
}

#[test]
fn what_is_computed_twice_to_save_memory_may_change_within_a_training_and_decides_no_bit() {
    let place = Place::new();
    for (recipe, more) in [("fused", ""), ("composed", ", composed = true")] {
        let text =
            tiny().replace("network = { dim = 32, layers = 1", &format!("network = {{ dim = 32, layers = 2{more}"));
        assert_eq!(text.matches("layers = 2").count(), 2, "{text}");
        place.write(&format!("{recipe}.toml"), text);
        let recipe = format!("{recipe}.toml");
        let out = |dir: &str, more: &[&str]| {
            one(&place, &[&["run", &recipe, "--only", "student", "--out", dir], more].concat()).ok()
        };
        let weights = |dir: &str, model: &str| {
            std::fs::read(place.path(&format!("{dir}/models/{model}/final/model.safetensors"))).unwrap()
        };
        let (whole, cut) = (format!("{recipe}-whole"), format!("{recipe}-cut"));
        out(&whole, &[]);
        out(&cut, &[]);
        for model in ["teacher", "student"] {
            let dir = place.path(&format!("{cut}/models/{model}"));
            std::fs::remove_dir_all(dir.join("final")).unwrap();
            let mut steps: Vec<PathBuf> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
            steps.retain(|p| p.file_name().unwrap().to_string_lossy().starts_with("step-"));
            steps.sort();
            std::fs::remove_dir_all(steps.pop().unwrap()).unwrap();
        }
        let ran = out(&cut, &["--set", "model.teacher.network.checkpoint=true"]);
        assert_eq!(ran.err.matches(": resumed at step ").count(), 2, "{}", ran.err);
        for model in ["teacher", "student"] {
            assert!(weights(&whole, model) == weights(&cut, model), "{recipe}: {model}");
        }
        // Nor is it a reason to refuse what is finished.
        out(&whole, &["--set", "model.teacher.network.checkpoint=true"]);
        out(&whole, &["--set", "model.student.checkpoint=true"]);
    }
}

/// A run whose recipe breaks a rule that was made after it was finished.
#[test]
fn a_finished_run_of_an_earlier_version_is_read_although_its_recipe_breaks_a_rule_of_today() {
    let place = Place::new();
    place.write("my.toml", tiny());
    run(&place, "my.toml", &[]).ok();
    let stored = place.path("r/recipe.toml");
    let text = std::fs::read_to_string(&stored).unwrap();
    let broken = text.replacen("steps = 20,", "steps = 20, keep = 1,", 1);
    assert_ne!(broken, text);
    std::fs::write(&stored, &broken).unwrap();
    let commands = [
        &["sample", "r", "-n", "1"][..],
        &["inspect", "r"],
        &["export", "r", "--model", "ar", "--out", "e"],
        &["eval", "r"],
        &["report", "r"],
    ];
    for command in commands {
        let ran = one(&place, command).ok();
        let told = ran.err.contains("keep") && ran.err.contains("the run is finished and is read as it is");
        assert_eq!(told, matches!(command[0], "export" | "eval"), "{}", ran.err);
    }
    // What is still to be trained is trained by the rules of today.
    std::fs::remove_dir_all(place.path("r/models/student/final")).unwrap();
    let words = ["r/recipe.toml:", "`model.ar.train.keep"];
    one(&place, &["eval", "r"]).fails(2, &words);
    run(&place, "r/recipe.toml", &[]).fails(2, &words);
    std::fs::write(&stored, &text).unwrap();
    run(&place, "my.toml", &[]).ok();

    // What cannot be read is told with its place, and the hint leads round it.
    for (bad, word) in [("name = \"tiny\"\nunknown = 1\n", "unknown"), ("x = [", "")] {
        std::fs::write(&stored, bad).unwrap();
        for command in [&["sample", "r", "-n", "1"][..], &["inspect", "r"], &["export", "r", "--out", "e2"]] {
            one(&place, command).fails(2, &["r/recipe.toml:", word, "hint:"]);
        }
    }
    std::fs::write(&stored, text.replace("[model.ar]", "[model.\"../x\"]")).unwrap();
    one(&place, &["sample", "r", "-n", "1"]).fails(2, &["r/recipe.toml:", "cannot be the name of a model", "hint:"]);
    std::fs::write(&stored, [0xff, 0xfe]).unwrap();
    let ran = one(&place, &["sample", "r", "-n", "1"]).fails(3, &["r/recipe.toml is not UTF-8", "hint:"]);
    let way = ran.err.split('`').find(|text| text.ends_with("/final")).unwrap().to_string();
    one(&place, &["sample", &way, "-n", "1"]).ok();
    one(&place, &["export", &way, "--out", "e3"]).ok();
}
