//! Studies of documents: a tokenizer of the study's own, windows that end with a document, and what samples copy.

use super::binary::{Place, shared};
use std::path::Path;

const STUDY: &str = r#"
name = "stories"
[data.text]
path = ["a.txt", "b.txt"]
documents = "<|endoftext|>"
tokenizer = { train = { bpe = 280 } }
length = 24
[model.ar]
order = "left_to_right"
objective.ar_nll = {}
network = { dim = 16, layers = 1, heads = 2, visibility = "causal", shift = true }
train = { steps = 8, batch = 4, lr = 1e-3, save_every = 4 }
[model.judge]
seed = 77
order = "left_to_right"
objective.ar_nll = {}
network = { dim = 16, layers = 1, heads = 2, visibility = "causal", shift = true }
train = { steps = 6, batch = 4, lr = 1e-3, save_every = 6 }
[eval]
samples = 4
batch = 4
steps = [2]
held_out = 8
judge = "judge"
speed_repeats = 0
"#;

/// Stories of one to five sentences with a separator between two.
fn stories(n: usize, hero: &str) -> String {
    let story =
        |i: usize| format!("Story {i}: {}\n", format!("the {hero} met a friend by the lake. ").repeat(1 + i % 5));
    (0..n).map(story).collect::<Vec<_>>().join("<|endoftext|>\n")
}

fn place() -> Place {
    let place = Place::new();
    place.write("my.toml", STUDY);
    place.write("a.txt", stories(40, "small fox"));
    place.write("b.txt", stories(40, "old owl"));
    place
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_study_of_documents_trains_its_tokenizer_once_ships_it_and_says_what_is_copied() {
    let place = place();
    let run = ["run", "my.toml", "--out", "r", "--threads", "1"];
    place.run(&run).ok();
    let results = json(&place.path("r/results.json"));
    let row = &results["models"][0]["rows"][0];
    assert_eq!(row["samples"]["copied"].as_array().unwrap().len(), 4);
    assert!(
        row["scores"]["copies"]["mean"].is_number()
            && results["data"]["reference"]["copied"]["mean"].as_f64() > Some(20.0)
    );
    let report = std::fs::read_to_string(place.path("r/report/report.md")).unwrap();
    assert!(report.contains("Copies of the training text") && report.contains("copies ↓"));

    let kept = place.path("r/data/bpe.json");
    let (bytes, written) = (std::fs::read(&kept).unwrap(), kept.metadata().unwrap().modified().unwrap());
    place.run(&["export", "r", "--model", "ar", "--out", "e"]).ok();
    let tokenizer = std::fs::read(place.path("e/tokenizer.json")).unwrap();
    assert_eq!(tokenizer, std::fs::read(place.path("r/models/ar/final/tokenizer.json")).unwrap());
    assert_eq!(json(&place.path("e/config.json"))["end_token_id"], 0);
    let drawn = place.run(&["sample", "e", "-n", "8"]).ok();
    assert!(!drawn.out.contains("<|endoftext|>"), "{}", drawn.out);

    // The same text: nothing is trained, neither models nor the tokenizer.
    std::fs::remove_file(place.path("r/results.json")).unwrap();
    let again = place.run(&run).ok();
    assert!(!again.err.contains("trained in"), "{}", again.err);
    assert_eq!((std::fs::read(&kept).unwrap(), kept.metadata().unwrap().modified().unwrap()), (bytes.clone(), written));

    place.write("b.txt", stories(40, "wise owl"));
    place.run(&run).fails(3, &["has changed", "the data's tokens: sha256 ", "the tokenizer: sha256 ", " then, "]);
    place.write("b.txt", stories(40, "old owl"));
    place.run(&run).ok();
    assert_eq!(std::fs::read(&kept).unwrap(), bytes);
    std::fs::write(&kept, String::from_utf8(bytes).unwrap().replacen("280", "281", 1)).unwrap();
    place.run(&run).fails(3, &["bpe.json was changed after it was written", "hint: delete the cache file"]);
}

#[test]
fn settings_of_documents_that_do_not_fit_the_text_are_told_with_their_place() {
    let place = place();
    let check = |sets: &[&str]| {
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        place.run(&[&["recipe", "check", "my.toml"][..], &sets.collect::<Vec<_>>()].concat())
    };
    check(&[]).ok();
    check(&["data.text.documents=\"-- end --\""]).fails(3, &["no line is the separator `-- end --`", "hint:"]);
    check(&["data.text.documents=true"])
        .fails(2, &["is for files of rows", "`data.text.documents = \"<|endoftext|>\"`"]);
    check(&["data.text.documents=false"]).fails(2, &["`data.text.documents` must be a line of text or `true`"]);
    check(&["data.text.path=3"]).fails(2, &["`data.text.path` must be a path or a list of paths"]);
    check(&["data.text.path=[\"a.txt\", \"a.txt\"]"]).fails(2, &["lists a.txt twice"]);
    check(&["data.text.tokenizer={train={bpe=65537}}"]).fails(2, &["`data.text.tokenizer.train.bpe = 65536`"]);
    let rows: String = (0..60).map(|i| format!("{{\"text\": \"row {i} of text in a file of rows\"}}\n")).collect();
    place.write("r.jsonl", rows);
    let line =
        check(&["data.text.path=r.jsonl"]).fails(2, &["these are files of rows", "`data.text.documents = true`"]);
    assert!(line.err.contains("`data.text.documents = \"<|endoftext|>\"`"), "{}", line.err);
    check(&["data.text.path=r.jsonl", "data.text.documents=true", "data.text.tokenizer.train.bpe=270"]).ok();
    let words = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "<unk>": 1}, "unk_token": "<unk>"}}"#;
    place.write("words.json", words);
    let other = "data.text.tokenizer={json={path=\"words.json\"}}";
    check(&[other]).fails(2, &["the tokenizer has none", "`data.text.tokenizer = { train = { bpe = 2048 } }`"]);
    let few = check(&["data.text.tokenizer.train.bpe=4000"])
        .fails(2, &["is more than the text gives", "or `data.text.tokenizer.train.bpe = "]);
    // The hint fits.
    let fits =
        few.err.rsplit_once("data.text.tokenizer.train.bpe = ").unwrap().1.split('`').next().unwrap().to_string();
    check(&[&format!("data.text.tokenizer.train.bpe={fits}")]).ok();
}

#[test]
fn real_stories_are_documents_and_a_validation_text_without_separators_is_one() {
    let Some(train) = shared("data/stories/tinystories-train.txt") else { return };
    let Some(valid) = shared("data/stories/tinystories-valid.txt") else { return };
    let place = Place::new();
    let path = format!("path = {train:?}\nvalid_path = {valid:?}");
    place.write("my.toml", STUDY.replace("path = [\"a.txt\", \"b.txt\"]", &path).replace("bpe = 280", "bpe = 1024"));
    let checked = place.run(&["recipe", "check", "my.toml"]).ok();
    assert!(checked.out.contains("vocabulary 1024, length 24"), "{}", checked.out);
}
