//! Data and tokenizers of the hub through a cache directory made by hand, with no hub to be reached.

use fewstep::data::tokenizer::Tokenizer;

use super::binary::{Place, Ran};
use super::hostile;
use super::hub_server::{COMMIT, Hub, command};

fn recipe(data: &str) -> String {
    format!(
        r#"
name = "hub"
[data.text]
{data}
length = 16
[model.ar]
order = "left_to_right"
objective.ar_nll = {{}}
network = {{ dim = 16, layers = 1, heads = 2, visibility = "causal", shift = true }}
train = {{ steps = 2, batch = 2, lr = 1e-3 }}
[eval]
samples = 4
batch = 4
steps = [2]
judge = "ar"
"#
    )
}

fn check(place: &Place, data: &str) -> Ran {
    place.write("hub.toml", recipe(data));
    let args = ["recipe", "check", "hub.toml"];
    // Nothing answers on that port: what works, works offline.
    Ran::from(command(place, "http://127.0.0.1:9", &args).output().unwrap(), &args)
}

#[test]
fn data_sets_and_tokenizers_in_the_hub_cache_work_offline_and_others_are_said_to_be_missing() {
    let place = Place::new();
    // The layout of the cache: refs/REVISION names a snapshot.
    let set = "home/hub/datasets--tiny--texts";
    let lines: String = (0..200).map(|i| format!("{{\"body\": \"row {i} of some text\"}}\n")).collect();
    place.write(&format!("{set}/refs/main"), "abc");
    place.write(&format!("{set}/refs/refs/convert/parquet"), "def");
    place.write(&format!("{set}/snapshots/abc/data/train.jsonl"), &lines);
    place.write(&format!("{set}/snapshots/def/default/train/0000.jsonl"), &lines);
    let model = "home/hub/models--tiny--words";
    let alphabet = Tokenizer::Char { chars: "\n 0123456789efmorstwx".chars().collect() };
    place.write(&format!("{model}/refs/main"), "123");
    place.write(&format!("{model}/snapshots/123/tokenizer.json"), alphabet.to_json().unwrap());
    let dir = "tokenizer = { dir = { path = \"hf://tiny/words\" } }";
    let json = "tokenizer = { json = { path = \"hf://tiny/words@main/tokenizer.json\" } }";
    for (path, tokenizer) in [
        ("hf://datasets/tiny/texts/data/train.jsonl", "tokenizer = \"bytes\""),
        ("hf://datasets/tiny/texts@main/data/train.jsonl", dir),
        ("hf://datasets/tiny/texts@abc/data/train.jsonl", json),
        ("hf://datasets/tiny/texts@refs/convert/parquet/default/train/0000.jsonl", dir),
    ] {
        let out = check(&place, &format!("path = {path:?}\ncolumn = \"body\"\n{tokenizer}")).ok().out;
        let vocab = if tokenizer.contains("bytes") { 256 } else { alphabet.vocab_size() };
        assert!(out.contains(&format!("vocabulary {vocab}")), "{path}: {out}");
    }
    let with = |path: &str| check(&place, &format!("path = {path:?}\ncolumn = \"body\"\ntokenizer = \"bytes\""));
    let other = "hf://datasets/tiny/texts/data/other.jsonl";
    with(other).fails(4, &["hf://datasets/tiny/texts@main/data/other.jsonl", "Hugging Face cache", "hint:"]);
    with("hf://datasets/tiny/texts").fails(2, &["names a repository", "hint:"]);
    with("hf://datasets/tiny/../texts/x").fails(2, &["names nothing on the hub", "hint:"]);
    let absent = "path = \"text.txt\"\ntokenizer = { dir = { path = \"hf://tiny/absent\" } }";
    place.write("text.txt", "row 1 of some text\n".repeat(100));
    check(&place, absent).fails(4, &["hf://tiny/absent@main", "Hugging Face cache", "hint:"]);
    let single = "path = \"text.txt\"\ntokenizer = { dir = { path = \"hf://tiny/words/tokenizer.json\" } }";
    check(&place, single).fails(2, &["names a file", "hint:"]);
}

#[test]
fn rows_that_are_not_what_a_recipe_says_are_told_by_their_number() {
    let place = Place::new();
    place.write("rows.jsonl", "{\"text\": \"one row of text\"}\n{\"text\": 3}\n");
    let with = |data: &str| check(&place, &format!("{data}\ntokenizer = \"char\""));
    with("path = \"rows.jsonl\"").fails(3, &["rows.jsonl line 2", "`text` is a number", "data.text.column"]);
    with("path = \"rows.jsonl\"\ncolumn = \"txt\"").fails(3, &["line 1", "no `txt`", "`text`"]);
    place.write("rows.parquet", "PAR1 and no more");
    with("path = \"rows.parquet\"").fails(3, &["rows.parquet is not a Parquet file", "hint:"]);
    place.write("text.txt", "some text\n".repeat(100));
    with("path = \"text.txt\"\ncolumn = \"text\"").fails(2, &["`column`", ".jsonl or .parquet"]);
}

#[test]
fn adapters_name_the_commit_of_their_base_and_those_of_a_directory_none() {
    let place = Place::new();
    let model = "home/hub/models--tiny--mdlm";
    place.write(&format!("{model}/refs/v1"), COMMIT);
    for dir in [format!("{model}/snapshots/{COMMIT}"), "mdlm".into()] {
        place.write(&format!("{dir}/config.json"), hostile::CONFIG);
        place.write(&format!("{dir}/model.safetensors"), hostile::file(&hostile::tensors()));
    }
    // Eleven characters, and the mask.
    place.write("text.txt", "abcdefghij\nbadcfehgji\n".repeat(60));
    let commit = format!("hf://tiny/mdlm@{COMMIT}");
    for (from, name, revision) in [
        ("hf://tiny/mdlm@v1", "tiny/mdlm", Some(COMMIT)),
        (commit.as_str(), "tiny/mdlm", Some(COMMIT)),
        ("mdlm", "mdlm", None),
    ] {
        let text = format!(
            r#"
name = "study"
[data.text]
path = "text.txt"
tokenizer = "char"
length = 8
[model.judge]
order = "left_to_right"
objective.ar_nll = {{}}
network = {{ dim = 16, layers = 1, heads = 2, visibility = "causal", shift = true }}
train = {{ steps = 2, batch = 2, lr = 1e-3 }}
[model.teacher]
from = "{from}"
order = "parallel"
objective.elbo = {{}}
train = {{ steps = 0, batch = 2, lr = 1e-3 }}
[model.student]
order = "parallel"
objective.sdtt = {{ teacher = "teacher", teacher_steps = 4, rounds = 1 }}
train = {{ steps = 2, batch = 2, lr = 1e-4 }}
lora = {{ rank = 2, alpha = 4.0 }}
[eval]
samples = 4
batch = 4
steps = [2]
held_out = 4
judge = "judge"
speed_repeats = 0
"#
        );
        place.write("study.toml", text);
        let _ = std::fs::remove_dir_all(place.path("runs"));
        let _ = std::fs::remove_dir_all(place.path("out"));
        let run = |args: &[&str]| {
            let mut command = command(&place, "http://127.0.0.1:9", args);
            Ran::from(command.env("HF_HUB_OFFLINE", "1").output().unwrap(), args).ok()
        };
        run(&["run", "study.toml"]);
        run(&["export", "runs/study", "--out", "out", "--model", "student", "--adapters"]);
        let config = std::fs::read(place.path("out/adapter_config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let base = config["base_model_name_or_path"].as_str().unwrap();
        assert!(base == name || (revision.is_none() && base.ends_with(name)), "{config}");
        assert_eq!(config["revision"].as_str(), revision, "{config}");
    }
}

#[test]
fn an_emptied_cache_is_not_filled_again_to_compare_a_hash() {
    let place = Place::new();
    let model = format!("home/hub/models--tiny--mdlm/snapshots/{COMMIT}");
    let fill = || {
        place.write("home/hub/models--tiny--mdlm/refs/v1", COMMIT);
        place.write(&format!("{model}/config.json"), hostile::CONFIG);
        place.write(&format!("{model}/model.safetensors"), hostile::file(&hostile::tensors()));
    };
    fill();
    place.write("text.txt", "abcdefghij\nbadcfehgji\n".repeat(60));
    place.write(
        "study.toml",
        r#"
name = "study"
[data.text]
path = "text.txt"
tokenizer = "char"
length = 8
[model.judge]
order = "left_to_right"
objective.ar_nll = {}
network = { dim = 16, layers = 1, heads = 2, visibility = "causal", shift = true }
train = { steps = 2, batch = 2, lr = 1e-3 }
[model.teacher]
from = "hf://tiny/mdlm@v1"
order = "parallel"
objective.elbo = {}
train = { steps = 0, batch = 2, lr = 1e-3 }
[model.student]
order = "parallel"
objective.sdtt = { teacher = "teacher", teacher_steps = 4, rounds = 1 }
train = { steps = 2, batch = 2, lr = 1e-4 }
[eval]
samples = 4
batch = 4
steps = [2]
held_out = 4
judge = "judge"
speed_repeats = 0
"#,
    );
    let hub = Hub::new(|_, out| out.head("404 Not Found", &[]));
    let run = |args: &[&str]| Ran::from(command(&place, &hub.url(), args).output().unwrap(), args);
    run(&["run", "study.toml"]).ok();
    std::fs::remove_dir_all(place.path("home/hub")).unwrap();
    // Nothing of these needs the checkpoint's weights.
    run(&["run", "study.toml", "--only", "student"]).ok();
    run(&["sample", "runs/study", "--model", "student", "-n", "1", "--steps", "2"]).ok();
    assert!(hub.asked().is_empty(), "{:?}", hub.asked());
    // An evaluation reads them: they are asked for, and what is missing is named.
    run(&["run", "study.toml"]).fails(4, &["cannot download hf://tiny/mdlm@v1", "hint:"]);
    assert!(!hub.asked().is_empty());
    // Back in the cache, they are compared again.
    fill();
    run(&["run", "study.toml"]).ok();
    place.write(&format!("{model}/config.json"), format!("{}\n", hostile::CONFIG));
    run(&["run", "study.toml", "--only", "student"]).fails(3, &["base config.json: sha256 ", "hint:"]);
}
