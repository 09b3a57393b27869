//! Only what the program wrote is replaced or removed: files of others stay, nothing is written through a link, nothing is
//! left after a failure, and every write goes through `fs`.

use std::collections::BTreeMap;
use std::path::Path;

use super::binary::{Place, Ran};

/// The recipe `tiny` with a few steps.
fn run(place: &Place, more: &[&str]) -> Ran {
    let few = ["ar", "teacher", "student"].map(|name| format!("model.{name}.train.steps=4"));
    let mut args = vec!["run", "tiny", "--out", "r", "--threads", "1"];
    few.iter().for_each(|set| args.extend(["--set", set.as_str()]));
    args.extend(["--set", "model.ar.train.warmup=0", "--set", "model.teacher.train.warmup=0"]);
    args.extend(["--set", "eval.samples=8", "--set", "eval.batch=8", "--set", "eval.speed_repeats=0"]);
    place.run(&[&args, more].concat())
}

/// All files below a directory with their content; links are not followed and have none.
pub fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let (path, kind) = entry.map(|e| (e.path(), e.file_type().unwrap())).unwrap();
            if kind.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
            all.insert(name, if kind.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() });
        }
    }
    all
}

/// Names below a directory that only a process at work may have.
pub fn litter(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(next) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains(".tmp-") {
                found.push(entry.path().display().to_string());
            } else if entry.file_type().is_ok_and(|t| t.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn a_run_again_keeps_the_files_of_others_in_its_exports_and_refuses_to_replace_what_they_changed() {
    let place = Place::new();
    run(&place, &[]).ok();
    let student = place.path("r/export/student");
    place.write("r/export/student/notes.txt", "mine");
    let before = files(&student);
    let again = run(&place, &[]).ok();
    assert!(again.err.contains("student: as it was"), "{}", again.err);
    assert!(files(&student) == before);
    // Another type of weights: ours are replaced, theirs stay.
    run(&place, &["--set", "export.dtype=\"bf16\""]).ok();
    let after = files(&student);
    assert!(after["notes.txt"] == b"mine" && after["model.safetensors"].len() < before["model.safetensors"].len());
    assert!(after.keys().eq(before.keys()));
    // A model card that somebody wrote anew is not replaced, and the hint helps.
    place.write("r/export/student/README.md", "my own card");
    let refused = run(&place, &[]).fails(2, &["README.md", "were changed", "hint: move it"]);
    assert!(files(&student)["README.md"] == b"my own card");
    follow(&place, &refused);
    run(&place, &[]).ok();
    assert!(files(&place.path("r/export/student-mine"))["README.md"] == b"my own card");
    assert!(files(&student)["model.safetensors"] == before["model.safetensors"]);
    assert!(litter(&place.path("")).is_empty());
}

/// Types what stands in the backticks of a hint into a shell.
fn follow(place: &Place, refused: &Ran) {
    let hint = refused.err.split("hint: ").nth(1).unwrap();
    let command = hint.split('`').nth(1).unwrap_or_else(|| panic!("no command in: {hint}"));
    let shell = std::process::Command::new("sh").args(["-c", command]).current_dir(place.path("")).status();
    assert!(shell.unwrap().success(), "{command}");
}

#[test]
fn a_directory_at_the_place_of_an_export_that_fewstep_did_not_write_is_refused_and_stays() {
    let place = Place::new();
    place.write("r/export/student/keep.txt", "mine");
    let refused = run(&place, &[]).fails(2, &["r/export/student is there already", "keep.txt", "hint: move it"]);
    assert!(files(&place.path("r/export"))["student/keep.txt"] == b"mine");
    follow(&place, &refused);
    run(&place, &[]).ok();
    assert!(files(&place.path("r/export"))["student-mine/keep.txt"] == b"mine");
}

#[cfg(unix)]
#[test]
fn nothing_is_written_or_removed_through_a_link_inside_a_run_and_the_hint_helps() {
    use std::os::unix::fs::symlink;
    let place = Place::new();
    run(&place, &[]).ok();
    place.write("outside/student/keep.txt", "mine");
    place.write("outside/step-000001/keep.txt", "mine");
    place.write("outside/a.tmp-4294967295", "mine");
    let outside = files(&place.path("outside"));
    for part in ["export", "export/student", "report", "models", "models/ar", "data", "seeds"] {
        let (path, aside) = (place.path("r").join(part), place.path("aside"));
        let there = std::fs::rename(&path, &aside).is_ok();
        symlink(place.path("outside"), &path).unwrap();
        let again = ["--set", "export.dtype=\"bf16\""];
        let refused = run(&place, &again).fails(2, &[part, "is a link", "outside", "hint: remove the link"]);
        if part == "report" {
            place.run(&["report", "r"]).fails(2, &["is a link"]);
        }
        assert!(files(&place.path("outside")) == outside, "{part}");
        follow(&place, &refused);
        if there {
            std::fs::rename(&aside, &path).unwrap();
        }
        run(&place, &[]).ok();
    }
    assert!(files(&place.path("outside")) == outside);
}

#[cfg(unix)]
#[test]
fn a_report_replaces_links_at_the_place_of_its_files_and_leaves_what_they_lead_to() {
    use std::os::unix::fs::symlink;
    let place = Place::new();
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/quickstart/results.json.gz");
    std::fs::create_dir_all(place.path("r/report")).unwrap();
    std::fs::copy(results, place.path("r/results.json.gz")).unwrap();
    place.write("notes.md", "- a finding\n");
    let victim = place.write("victim", "precious");
    for name in ["report.md", "report.html", "quality_steps.png", "quality_steps.svg", "notes.md"] {
        symlink(&victim, place.path("r/report").join(name)).unwrap();
    }
    symlink("../nowhere", place.path("r/report/quality_entropy.svg")).unwrap();
    place.write("r/report/theirs.tmp-4294967295", "mine");
    place.run(&["report", "r", "--notes", "notes.md"]).ok();
    let report = files(&place.path("r/report"));
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    assert!(!place.path("r/nowhere").exists() && report["theirs.tmp-4294967295"] == b"mine");
    // It is the report of a fresh directory.
    place.run(&["report", "r", "--notes", "notes.md", "--out", "fresh"]).ok();
    for (name, bytes) in files(&place.path("fresh")) {
        assert!(report[&name] == bytes, "{name}");
    }
}

#[cfg(unix)]
#[test]
fn an_export_that_fails_leaves_nothing_and_the_same_command_works_when_the_cause_is_gone() {
    use std::os::unix::fs::symlink;
    let place = Place::new();
    run(&place, &["--only", "ar"]).ok();
    let source = place.path("model");
    std::fs::create_dir(&source).unwrap();
    // Without its manifest, by which a changed file would be found first.
    for (name, bytes) in files(&place.path("r/models/ar/final")).into_iter().filter(|(n, _)| n != "manifest.json") {
        std::fs::write(source.join(name), bytes).unwrap();
    }
    // A tensor that float16 cannot hold is noticed when the directory has been begun.
    let weights = source.join("model.safetensors");
    let good = std::fs::read(&weights).unwrap();
    let mut bad = good.clone();
    let at = bad.len() - 4;
    bad[at..].copy_from_slice(&1e6f32.to_le_bytes());
    std::fs::write(&weights, bad).unwrap();
    let export = ["export", "model", "--out", "new/out", "--dtype", "f16"];
    place.run(&export).fails(3, &["does not fit f16"]);
    assert!(!place.path("new").exists() && litter(&place.path("")).is_empty());
    std::fs::write(&weights, good).unwrap();
    // What a killed process left goes, and other files stay.
    place.write("new/out.tmp-4294967295/model.safetensors", "half");
    place.write("new/theirs.tmp-4294967295", "mine");
    place.run(&export).ok();
    assert_eq!(litter(&place.path("")), [place.path("new/theirs.tmp-4294967295").display().to_string()]);
    place.run(&export).fails(2, &["new/out is there already", "hint:"]);
    // Nor is a link followed.
    symlink("nowhere", place.path("dangling")).unwrap();
    place.run(&["export", "model", "--out", "dangling"]).fails(2, &["dangling is there already"]);
    assert!(!place.path("nowhere").exists());
}

#[cfg(unix)]
#[test]
fn a_run_that_may_not_be_written_to_is_exported_reported_and_sampled_and_what_must_write_says_how() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    let place = Place::new();
    place.write("text.txt", "one two three four five six seven eight nine ten. ".repeat(60));
    place.write("text.toml", TEXT);
    place.run(&["run", "text.toml", "--out", "r"]).ok();
    std::fs::create_dir(place.path("mine")).unwrap();
    let mode = |path: &Path, mode: u32| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    // Who may do everything tries it as somebody else.
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
    let dirs = ["", "models", "models/ar", "models/ar/final", "report"].map(|part| place.path("r").join(part));
    dirs.iter().for_each(|dir| mode(dir, 0o555));
    mode(&place.path(""), 0o755);
    mode(&place.path("mine"), 0o777);
    let binary = place.path("fewstep");
    std::fs::copy(env!("CARGO_BIN_EXE_fewstep"), &binary).unwrap();
    let tried = |args: &[&str]| {
        let mut command = std::process::Command::new(&binary);
        command.args(args).current_dir(place.path("")).env("NO_COLOR", "1");
        if root {
            command.uid(65534).gid(65534);
        }
        Ran::from(command.output().unwrap(), args)
    };
    let before = files(&place.path("r"));
    tried(&["export", "r", "--model", "ar", "--out", "mine/out"]).ok();
    place.run(&["export", "r", "--model", "ar", "--out", "mine/same"]).ok();
    assert!(files(&place.path("mine/out")) == files(&place.path("mine/same")));
    tried(&["sample", "r", "--model", "ar", "-n", "1"]).ok();
    tried(&["report", "r", "--out", "mine/report"]).ok();
    tried(&["report", "r"]).fails(4, &["cannot write", "hint: `--out DIR`"]);
    let refused = tried(&["eval", "r"]).fails(4, &["cannot create", ".lock", "hint: copy it"]);
    let hint = refused.err.split("hint: ").nth(1).unwrap().split('`').nth(1).unwrap().replace("COPY", "mine/copy");
    let mut copy = std::process::Command::new("sh");
    copy.args(["-c", hint.as_str()]).current_dir(place.path(""));
    if root {
        copy.uid(65534).gid(65534);
    }
    assert!(copy.status().unwrap().success(), "{hint}");
    tried(&["eval", "mine/copy"]).ok();
    assert!(files(&place.path("r")) == before);
    dirs.iter().for_each(|dir| mode(dir, 0o755));
}

/// A study of text, so that tokens are kept.
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
train = { steps = 3, batch = 2, lr = 1e-3 }
[eval]
samples = 4
batch = 4
steps = [16]
held_out = 4
judge = "ar"
speed_repeats = 0
"#;

#[test]
fn a_check_writes_nothing_anywhere() {
    let place = Place::new();
    place.write("work/text.txt", "one two three four five six seven eight nine ten. ".repeat(60));
    place.write("work/text.toml", TEXT);
    std::fs::create_dir(place.path("tmp")).unwrap();
    let before = files(&place.path(""));
    let args = ["recipe", "check", "work/text.toml"];
    let checked = place.command(&args).env("TMPDIR", place.path("tmp")).output().unwrap();
    Ran::from(checked, &args).ok();
    assert!(files(&place.path("")) == before);
    assert_eq!(std::fs::read_dir(place.path("tmp")).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn a_verdict_goes_into_a_pipe_that_is_named_and_the_pipe_stays() {
    use std::os::unix::fs::FileTypeExt;
    let place = Place::new();
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/quickstart/results.json.gz");
    let pipe = place.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut cat = std::process::Command::new("cat");
    let reader = cat.arg(&pipe).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let shown = results.display().to_string();
    place.run(&["gate", &shown, "--baseline", &shown, "--junit", "pipe"]).ok();
    assert!(String::from_utf8(reader.wait_with_output().unwrap().stdout).unwrap().contains("<testsuite"));
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
}

#[cfg(unix)]
#[test]
fn a_pipe_that_nobody_reads_is_refused_before_anything_is_judged() {
    let place = Place::new();
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/quickstart/results.json.gz");
    assert!(std::process::Command::new("mkfifo").arg(place.path("pipe")).status().unwrap().success());
    let shown = results.display().to_string();
    let words = ["cannot write pipe", "a pipe from which nobody reads", "hint: start what reads"];
    // The results are not even looked for.
    let ran = place.run(&["gate", "absent.json", "--baseline", &shown, "--junit", "pipe"]);
    assert!(ran.fails(4, &words).out.is_empty());
    let mut command = place.command(&["gate", &shown, "--baseline", &shown]);
    let ran = command.env("GITHUB_STEP_SUMMARY", "pipe").output().unwrap();
    Ran::from(ran, &["gate"]).fails(4, &words);
    // A device that takes everything is written to, and stays.
    place.run(&["gate", &shown, "--baseline", &shown, "--junit", "/dev/null"]).ok();
    let ran = place.run(&["gate", &shown, "--baseline", &shown, "--junit", "/dev/stdout", "--quiet"]).ok();
    assert!(ran.out.contains("<testsuite"), "{}", ran.out);
    // A stream of the process is written to where it is, be it a file too.
    let gate = format!("{} gate {shown} --baseline {shown}", env!("CARGO_BIN_EXE_fewstep"));
    let line = format!("{gate} --junit /proc/self/fd/1 > both.txt && {gate} > text.txt");
    let shell = std::process::Command::new("sh").args(["-c", &line]).current_dir(place.path("")).status().unwrap();
    assert!(shell.success());
    let read = |name: &str| std::fs::read_to_string(place.path(name)).unwrap();
    let (both, text) = (read("both.txt"), read("text.txt"));
    assert!(both.contains("</testsuite") && both.ends_with(&text) && both.len() > text.len(), "{both}");
}

/// What changes files when it is called from Rust's library, or writes the files that crates of ours are told to write.
const WRITERS: [&str; 27] = [
    "fs::write(",
    "fs::copy(",
    "fs::rename(",
    "fs::hard_link(",
    "fs::soft_link(",
    "fs::symlink(",
    "fs::create_dir_all(",
    "fs::remove_dir_all(",
    "fs::set_permissions(",
    "fs::set_times(",
    "std::fs::create_dir(",
    "std::fs::remove_dir(",
    "std::fs::remove_file(",
    "std::fs::{",
    "use std::fs;",
    "File::create",
    "File::options",
    "OpenOptions",
    "DirBuilder",
    ".set_len(",
    "tempfile::",
    "BitMapBackend::new(",
    "SVGBackend::new(",
    "serialize_to_file(",
    "save_buffer",
    "env::set_current_dir",
    "MmapMut",
];

#[test]
fn every_write_of_the_program_goes_through_fs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for (name, bytes) in files(&root.join("src")).into_iter().chain(files(&root.join("benches"))) {
        let test = name.contains("test") || name.ends_with("fixture.rs");
        if !name.ends_with(".rs") || name.starts_with("fs/") || test {
            continue;
        }
        seen += 1;
        let text = String::from_utf8(bytes).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for (at, line) in code.lines().enumerate() {
            let line = line.trim();
            // What a use takes from `std::fs` by name is found by the name.
            let reads = ["use std::fs::{File, Metadata};", "use std::fs::{File, TryLockError};", "use std::fs::File;"]
                .contains(&line);
            let found = WRITERS.iter().find(|w| line.contains(**w) && !reads && !line.starts_with("//"));
            if let Some(writer) = found {
                panic!("{name}:{}: `{writer}` writes past `fs`: {line}", at + 1);
            }
        }
    }
    assert!(seen > 150, "{seen} files");
}
