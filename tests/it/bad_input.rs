//! Bad input ends in a message and its exit code through the real binary, never in a panic.

use super::binary::{Place, shared};

const TINY: &str = include_str!("../../recipes/tiny.toml");

/// The tiny recipe with one text replaced by another, checked.
#[track_caller]
fn check(from: &str, to: &str, code: i32, words: &[&str]) {
    assert!(TINY.contains(from), "{from} is not in the recipe");
    let place = Place::new();
    place.write("my.toml", TINY.replacen(from, to, 1));
    for verb in [&["recipe", "check", "my.toml"][..], &["run", "my.toml"]] {
        place.run(verb).fails(code, words);
    }
    assert!(!place.path("runs").exists(), "a recipe with a fault left a run directory");
}

#[test]
fn an_unknown_key_is_told_with_line_column_and_nearest_name() {
    check("samples = 32", "sampels = 32", 2, &["unknown key `sampels` in my.toml:29:1", "did you mean `samples`?"]);
    check("rounds = 3", "runds = 3", 2, &["unknown key `runds`", "did you mean `rounds`?"]);
}

#[test]
fn a_wrong_type_and_an_unknown_variant_are_told_with_their_place() {
    check("batch = 16\nsteps", "batch = \"many\"\nsteps", 2, &["my.toml:30:9"]);
    check("order = \"parallel\"", "order = \"paralel\"", 2, &["my.toml:", "did you mean `parallel`?"]);
    check("lr = 5e-3", "lr = nan", 2, &["lr"]);
    check("seed = 1", "seed = -1", 2, &["my.toml:3:8"]);
    check("name = \"tiny\"", "name = \"tiny", 2, &["my.toml:2:"]);
}

#[test]
fn contradictions_name_both_keys() {
    for (from, to, words) in [
        ("visibility = \"causal\"", "visibility = \"full\"", ["model.ar.network.shift", "model.ar.network.visibility"]),
        ("order = \"left_to_right\"", "order = \"parallel\"", ["model.ar.objective", "model.ar.order"]),
        (
            "heads = 2, visibility = \"causal\"",
            "heads = 3, visibility = \"causal\"",
            ["model.ar.network.heads", "model.ar.network.dim"],
        ),
        (
            "visibility = \"full\"",
            "visibility = \"causal\"",
            ["model.teacher.order", "model.teacher.network.visibility"],
        ),
        ("order = \"parallel\"", "order = { blocks = 4 }", ["model.teacher.order", "model.teacher.network.visibility"]),
        (
            "order = \"parallel\"",
            "order = { pipelined = { block = 4, window = 0 } }",
            ["model.teacher.order", "a window of at least 1"],
        ),
        ("order = \"parallel\"", "order = { blocks = 1048577 }", ["model.teacher.order", "a number above 1048576"]),
        (
            "order = \"parallel\"\nobjective.sdtt",
            "order = { pipelined = { block = 4, window = 2 } }\ndecode = [{ mbr = { order = \"parallel\", candidates = 1 } }]\nobjective.sdtt",
            ["model.student.decode[0].mbr.candidates", "between 2 and 1024"],
        ),
        ("order = \"parallel\"", "order = { mixture = [] }", ["model.teacher.order", "at least one order"]),
        (
            "order = \"parallel\"",
            "order = { segments = { text = 2, block = 4 } }",
            ["model.teacher.order", "model.teacher.network.visibility"],
        ),
        (
            "visibility = \"full\"",
            "visibility = \"full\", encoder_layers = 1",
            ["model.teacher.network.encoder_layers", "model.teacher.network.layers"],
        ),
        (
            "order = \"parallel\"",
            "order = \"parallel\"\ndecode = [{ pipelined = { block = 4, window = 2, commit = 1.5 } }]",
            ["model.teacher.decode[0].pipelined.commit", "between 0 and 1"],
        ),
        (
            "order = \"left_to_right\"",
            "order = \"left_to_right\"\ndecode = [{ switch = { block = 4, tolerance = 1.0 } }]",
            ["model.ar.decode[0]", "model.ar.network.visibility"],
        ),
        ("teacher = \"teacher\"", "teacher = \"ar\"", ["model.student.objective.sdtt.teacher", "model.ar.objective"]),
        ("teacher = \"teacher\"", "teacher = \"student\"", ["model.student", "teacher"]),
        (
            "teacher = \"teacher\"",
            "teacher = \"techer\"",
            ["model.student.objective.sdtt.teacher", "did you mean `teacher`?"],
        ),
        ("teacher_steps = 16", "teacher_steps = 4", ["model.student.objective.sdtt.rounds", "teacher_steps"]),
        (
            "rounds = 3 }\ntrain = { steps = 30",
            "rounds = 3 }\ntrain = { steps = 2",
            ["model.student.objective.sdtt.rounds", "model.student.train.steps"],
        ),
        ("held_out = 32", "held_out = 32\njudge = \"ar\"", ["eval.judge", "data.story"]),
        ("models = [\"student\"]", "models = [\"studnet\"]", ["export.models", "did you mean `student`?"]),
        ("names = 2", "names = 1", ["data.story.names", "between 2 and 8"]),
        ("steps = [2, 4, 8]", "steps = []", ["eval.steps", "from 1 to"]),
        ("clip = 1.0", "clip = 0.0", ["clip", "between"]),
        (
            "objective.elbo = {}",
            "objective.elbo = { clip = { range = { low = 0.3, high = 0.8 } } }",
            ["model.teacher.objective.elbo.clip", "model.teacher.order = { blocks = N }"],
        ),
        (
            "objective.elbo = {}",
            "objective.elbo = { clip = { search = { evry = 100 } } }",
            ["unknown key `evry`", "did you mean `every`?"],
        ),
    ] {
        check(from, to, 2, &words);
    }
}

#[test]
fn a_missing_recipe_and_a_misspelt_builtin_are_told() {
    let place = Place::new();
    place.run(&["run", "nowhere.toml"]).fails(2, &["nowhere.toml", "recipe list"]);
    place.run(&["run", "quikstart"]).fails(2, &["did you mean `quickstart`?"]);
    place.run(&["rnu", "quickstart"]).fails(2, &["unknown command `rnu`"]);
    place.run(&["run", "tiny", "--device", "cuda:99"]).fails(if cfg!(feature = "cuda") { 6 } else { 2 }, &["cuda"]);
}

#[test]
fn set_changes_a_key_and_a_bad_set_names_itself() {
    let place = Place::new();
    place
        .run(&["recipe", "check", "tiny", "--set", "model.ar.train.stps=3"])
        .fails(2, &["stps", "did you mean `--set model.ar.train.steps=3`?"]);
    place.run(&["recipe", "check", "tiny", "--set", "model.ar.train.steps=many"]).fails(2, &["model.ar.train.steps"]);
    place.run(&["recipe", "check", "tiny", "--set", "model.ar.train.steps=30"]).ok();
}

/// A recipe for a text file.
fn text_recipe(path: &str) -> String {
    let models = &TINY[TINY.find("[model.ar]").unwrap()..];
    format!("name = \"text\"\n[data.text]\npath = \"{path}\"\ntokenizer = \"char\"\nlength = 32\n{models}")
        .replace("held_out = 32", "held_out = 32\njudge = \"judge\"")
        .replace("[eval]", "[model.judge]\nseed = 77\norder = \"left_to_right\"\nobjective.ar_nll = {}\nnetwork = { dim = 32, layers = 1, heads = 2, visibility = \"causal\", shift = true }\ntrain = { steps = 2, batch = 2, lr = 1e-3 }\n[eval]")
}

#[test]
fn missing_empty_short_and_broken_text_files_are_told() {
    let place = Place::new();
    place.write("my.toml", text_recipe("text.txt"));
    let run = || place.run(&["run", "my.toml"]);
    run().fails(3, &["text.txt"]);
    place.write("text.txt", "");
    run().fails(3, &["text.txt", "empty"]);
    place.write("text.txt", "abababababababababababab");
    run().fails(2, &["length"]);
    let mut bytes = b"some text ".repeat(100);
    bytes[123] = 0xff;
    place.write("text.txt", bytes);
    run().fails(3, &["text.txt", "123"]);
}

#[test]
fn a_damaged_token_cache_is_told_with_the_file_to_delete() {
    let place = Place::new();
    place.write("my.toml", text_recipe("text.txt"));
    place.write("text.txt", "the quick brown fox jumps over the lazy dog . ".repeat(40));
    place.run(&["run", "my.toml", "--only", "judge"]).ok();
    let cache = place.path("runs/text/data/train.tok");
    let mut bytes = std::fs::read(&cache).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0x55;
    std::fs::write(&cache, bytes).unwrap();
    place.run(&["run", "my.toml", "--only", "ar"]).fails(3, &["train.tok", "hint:"]);
}

#[test]
fn corrupt_weights_configurations_and_tokenizers_are_told() {
    let place = Place::new();
    place.run(&["run", "tiny", "--threads", "1"]).ok();
    let dir = place.path("runs/tiny/export/student");
    let restore = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).unwrap();
    let sample = || place.run(&["sample", "runs/tiny/export/student"]);
    let weights = std::fs::read(dir.join("model.safetensors")).unwrap();
    for (bytes, words) in [
        (weights[..weights.len() / 2].to_vec(), vec!["model.safetensors"]),
        (vec![], vec!["model.safetensors", "empty"]),
        (b"PK\x03\x04 a torch file".to_vec(), vec!["model.safetensors"]),
        (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), vec!["git lfs pull"]),
        ([&u64::MAX.to_le_bytes()[..], &weights[8..]].concat(), vec!["model.safetensors"]),
    ] {
        restore("model.safetensors", &bytes);
        sample().fails(3, &words);
    }
    // Not-a-number in a weight.
    let mut nan = weights.clone();
    let n = nan.len();
    nan[n - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    restore("model.safetensors", &nan);
    sample().fails(3, &["model.safetensors"]);
    restore("model.safetensors", &weights);

    // Vocabulary mismatch between tokenizer, configuration and weights.
    let config = std::fs::read_to_string(dir.join("config.json")).unwrap();
    restore("config.json", config.replace("\"vocab_size\": 28", "\"vocab_size\": 29").as_bytes());
    sample().fails(3, &["shape"]);
    restore("config.json", config.replace("\"dim\": 32", "\"dims\": 32").as_bytes());
    sample().fails(3, &["config.json", "dims"]);
    restore("config.json", config.as_bytes());
    let tokenizer = std::fs::read_to_string(dir.join("tokenizer.json")).unwrap();
    restore("tokenizer.json", b"{\"model\": 3}");
    sample().fails(3, &["tokenizer.json"]);
    place.run(&["run", "tiny", "--out", "other", "--threads", "1", "--set", "data.story.names=3"]).ok();
    let other = std::fs::read(place.path("other/export/student/tokenizer.json")).unwrap();
    restore("tokenizer.json", &other);
    sample().fails(3, &["tokenizer", "vocab_size"]);
    restore("tokenizer.json", tokenizer.as_bytes());
    sample().ok();

    // Directories and files that are something else.
    place.run(&["sample", "nowhere"]).fails(3, &["nowhere"]);
    place.run(&["report", "nowhere"]).fails(3, &["nowhere"]);
    place.write("bad.json", "{\"format\": 99}");
    place.run(&["report", "bad.json"]).fails(3, &["bad.json", "99"]);
    place.run(&["gate", "runs/tiny", "--baseline", "bad.json"]).fails(3, &["bad.json"]);
    place.run(&["inspect", "recipe.toml"]).fails(3, &["recipe.toml"]);
    place.run(&["sample", "runs/tiny", "--model", "stduent"]).fails(2, &["stduent"]);
    place.run(&["sample", "runs/tiny", "--model", "student", "--prompt", "mia eats pizza"]).fails(3, &["pizza"]);
    place.run(&["export", "runs/tiny", "--out", "runs/tiny"]).fails(2, &["is there already"]);
}

/// A device that takes no byte: a full disk, as the operating system reports it.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_with_the_file() {
    if !std::path::Path::new("/dev/full").exists() {
        println!("skipped: no /dev/full here");
        return;
    }
    let place = Place::new();
    let out = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let done = place.command(&["recipe", "list"]).stdout(out).output().unwrap();
    let err = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(4), "{err}");
    assert!(err.contains("error: cannot write stdout") && err.contains("no space left"), "{err}");
}

/// A file system of 600 KiB, where the tests may mount one: the run stops with the file named and keeps its checkpoint.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_while_training_ends_with_exit_4_and_an_intact_checkpoint() {
    let place = Place::new();
    std::fs::create_dir(place.path("small")).unwrap();
    let mount = |args: &[&str]| {
        std::process::Command::new("mount")
            .args(args)
            .arg(place.path("small"))
            .output()
            .is_ok_and(|o| o.status.success())
    };
    if !mount(&["-t", "tmpfs", "-o", "size=600k", "tmpfs"]) {
        println!("skipped: no right to mount a small file system here");
        return;
    }
    let ran = place.run(&[
        "run",
        "tiny",
        "--out",
        "small/run",
        "--threads",
        "1",
        "--set",
        "model.ar.train.keep=100",
        "--set",
        "model.ar.train.save_every=1",
    ]);
    let kept = std::fs::read_dir(place.path("small/run/models/ar")).unwrap().flatten().filter(|e| {
        let name = e.file_name().to_string_lossy().into_owned();
        assert!(!name.contains(".tmp-"), "{name} was left behind");
        name.starts_with("step-")
    });
    let kept = kept.count();
    std::process::Command::new("umount").arg(place.path("small")).status().unwrap();
    ran.fails(4, &["cannot", "no space left"]);
    assert!(kept > 0, "no checkpoint survived");
}

#[test]
fn the_program_answers_quickly_without_opening_a_device() {
    let place = Place::new();
    place.write("bad.toml", "nonsense = 1");
    for (args, code) in [(&["--help"][..], 0), (&["recipe", "list"], 0), (&["run", "bad.toml"], 2), (&["--version"], 0)]
    {
        let best = (0..40)
            .map(|_| {
                let begin = std::time::Instant::now();
                assert_eq!(place.run(args).code, code);
                begin.elapsed()
            })
            .min()
            .unwrap();
        assert!(best.as_millis() < 50, "{args:?} took {best:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let Some(_) = shared("data") else { return };
    let place = Place::new();
    let mut child = place.command(&["recipe", "list"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_model_directory_that_contradicts_itself_or_asks_for_too_much_is_refused_before_anything_is_made() {
    let place = Place::new();
    place.run(&["run", "tiny", "--only", "ar", "--set", "model.ar.train.steps=5"]).ok();
    // A model directory without a manifest, as another program would make it.
    let dir = place.path("model");
    std::fs::rename(place.path("runs/tiny/models/ar/final"), &dir).unwrap();
    std::fs::remove_file(dir.join("manifest.json")).unwrap();
    let config = std::fs::read_to_string(dir.join("config.json")).unwrap();
    let weights = dir.join("model.safetensors");
    let sample = ["sample", "model", "-n", "1"];
    place.run(&sample).ok();
    for (from, to, words) in [
        ("\"visibility\": \"causal\"", "\"visibility\": \"full\"", "shift"),
        ("\"order\": \"left_to_right\"", "\"order\": \"parallel\"", "contradict the objective"),
        ("\"dim\": 32", "\"dim\": 32768", "parameters"),
        ("\"layers\": 1", "\"layers\": 1000", "parameters"),
        ("\"max_position_embeddings\": 32", "\"max_position_embeddings\": 16777216", "out of range"),
    ] {
        assert!(config.contains(from), "{from} is not in {config}");
        std::fs::write(dir.join("config.json"), config.replace(from, to)).unwrap();
        place.run(&sample).fails(3, &["config.json", words]);
    }
    std::fs::write(dir.join("config.json"), &config).unwrap();

    // Finite weights whose predictions are not: exit 5, and no text of made-up tokens.
    let mut read = fewstep::weights::read(&weights, fewstep::weights::NonFinite::Refuse).unwrap();
    read.tensors.get_mut("head.weight").unwrap().data.fill(3e38);
    fewstep::weights::write(&weights, &read).unwrap();
    place.run(&sample).fails(5, &["not finite numbers"]);
    place.run(&["sample", "model", "--steps", "1000000000000000"]).fails(2, &["--steps"]);
}
