//! `recipe check` finds what would otherwise fail after a training, and says what a study takes before it computes anything.

use super::binary::Place;

const TINY: &str = include_str!("../../recipes/tiny.toml");

/// A recipe on the text in text.txt, with the models of the tiny one.
fn on_text(length: usize) -> String {
    let models = &TINY[TINY.find("[model.ar]").unwrap()..];
    let judge = "[model.judge]\nseed = 77\norder = \"left_to_right\"\nobjective.ar_nll = {}\n\
        network = { dim = 8, layers = 1, heads = 2, visibility = \"causal\", shift = true }\n\
        train = { steps = 1, batch = 2, lr = 1e-3 }\n";
    let head = format!("name = \"text\"\n[data.text]\npath = \"text.txt\"\ntokenizer = \"char\"\nlength = {length}\n");
    format!("{head}{judge}{models}").replace("[eval]", "[eval]\njudge = \"judge\"")
}

#[test]
fn what_a_run_would_refuse_after_a_training_is_found_by_check_and_before_the_first_step() {
    let place = Place::new();
    place.write("empty.json", "[]");
    for (sets, code, words) in [
        (&["eval.context=nowhere.json"][..], 3, &["nowhere.json"][..]),
        (&["eval.context=empty.json"], 3, &["empty.json", "`eval.context` has no point"]),
        (&["eval.flexibility.gap=32"], 2, &["eval.flexibility.gap", "32 words", "hint: at most"]),
        (&["eval.flexibility.errors=17"], 2, &["eval.flexibility.errors", "hint: at most"]),
        (&["model.student.keep_layers=[1]"], 2, &["model.student.keep_layers", "`--set", "[0]`"]),
        (&["model.student.lora={rank=33, alpha=1.0}"], 2, &["model.student.lora.rank", "32` at most"]),
        (
            &[
                "model.student.objective={d3pm={levels=100000, matrix=\"uniform\"}}",
                "model.student.network={dim=8, layers=1, heads=1, visibility=\"full\", time=\"sequence\"}",
            ],
            2,
            &["model.student.objective.d3pm", "transition matrices", "at most"],
        ),
        (&["gate.rules=[{metric=\"nll\", model=\"nobody\"}]"], 2, &["gate.rules[0].model"]),
        (&["gate.rules=[{metric=\"nll\", relative=0.1, absolute=0.1}]"], 2, &["both `relative` and `absolute`"]),
        (&["gate.resamples=1099511627776"], 2, &["gate.resamples", "between 100 and 100000"]),
    ] {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let checked = place.run(&[&["recipe", "check", "tiny"], &sets[..]].concat()).fails(code, words);
        assert!(!checked.out.contains("dry run"), "{}", checked.out);
        let ran = place.run(&[&["run", "tiny"], &sets[..]].concat()).fails(code, words);
        assert!(!ran.err.contains(" step "), "{}", ran.err);
        std::fs::remove_dir_all(place.path("runs")).ok();
    }
}

#[test]
fn a_story_model_called_oracle_and_an_order_listed_twice_are_refused_with_place_and_hint() {
    let place = Place::new();
    let oracle =
        TINY.replace("[model.student]", "[model.oracle]").replace("models = [\"student\"]", "models = [\"oracle\"]");
    place.write("oracle.toml", &oracle);
    let twice = TINY
        .replacen("order = \"parallel\"", "order = { mixture = [\"parallel\", \"parallel\"] }", 1)
        .replace("visibility = \"full\"", "visibility = \"order\"");
    place.write("twice.toml", twice);
    for verb in [&["recipe", "check"][..], &["run"]] {
        let with = |file| [verb, &[file]].concat();
        place
            .run(&with("oracle.toml"))
            .fails(2, &["`model.oracle`", "oracle.toml:23:1", "hint:", "eval.oracle = false"]);
        place
            .run(&with("twice.toml"))
            .fails(2, &["`model.teacher.order`", "`parallel` twice", "twice.toml:18:9", "hint:"]);
    }
    assert!(!place.path("runs").exists());
    // Without the exact judge there is no second row of that name.
    place.write("alone.toml", oracle.replace("[eval]", "[eval]\noracle = false"));
    place.run(&["recipe", "check", "alone.toml"]).ok();
}

#[test]
fn what_a_study_takes_is_printed_before_anything_is_computed() {
    let place = Place::new();
    let out = place.run(&["recipe", "check", "tiny"]).ok().out;
    let at = |words: &str| out.find(words).unwrap_or_else(|| panic!("`{words}` is not in {out}"));
    let last = ["ar", "teacher", "student"].map(|name| at(&format!("model    {name}: "))).into_iter().max().unwrap();
    assert!(at("MB memory") < at("dry run ") && last < at("dry run "), "{out}");
    assert!(at("dry run  student: ") < at("estimate "), "{out}");
}

#[test]
fn what_is_not_as_it_was_meant_but_can_be_done_is_a_warning() {
    let place = Place::new();
    place.write("my.toml", on_text(8));
    place.write("text.txt", "the quick brown fox jumps over the lazy dog . ".repeat(12));
    let sets = ["--set", "model.ar.train.batch=100", "--set", "eval.batch=64"];
    let err = place.run(&[&["recipe", "check", "my.toml"], &sets[..]].concat()).ok().err;
    for words in [
        "`model.ar.train.batch = 100` is more than",
        "`eval.held_out = 32`: there are",
        "`eval.batch = 64` is more than",
    ] {
        assert!(err.contains(&format!("warning: {words}")), "`{words}` is not in {err}");
    }
    let err = place.run(&["recipe", "check", "my.toml", "--set", "eval.held_out=2"]).ok().err;
    assert!(!err.contains("warning:"), "{err}");
}

#[test]
fn texts_that_are_compressed_marked_or_too_short_are_told_as_that() {
    let place = Place::new();
    place.write("my.toml", on_text(256));
    let check = || place.run(&["recipe", "check", "my.toml"]);
    place.write("text.txt", "a hundred bytes of text, and letters at its end that stand nowhere else: 123");
    check().fails(
        2,
        &["`data.text.length = 256` is more than the training text has", "my.toml:5:10", "hint: take a longer"],
    );
    place.write("text.txt", b"\x1f\x8b\x08\0\0\0\0\0 and so on".repeat(400));
    check().fails(3, &["text.txt is compressed (gzip)", "hint: unpack it", "gunzip"]);
    place.write("text.txt", format!("\u{feff}{}", "text ".repeat(4000)));
    check().fails(3, &["byte order mark", "hint: take it away"]);
    // Rows may begin with a mark, and a broken one is told by its own line.
    let rows: String = (0..90).map(|i| format!("{{\"text\": \"row {i} of them\"}}\n")).collect();
    place.write("rows.toml", on_text(8).replace("text.txt", "rows.jsonl"));
    let check = || place.run(&["recipe", "check", "rows.toml"]);
    place.write("rows.jsonl", format!("\u{feff}{rows}"));
    check().ok();
    place.write("rows.jsonl", rows.replace("row 80 of", "row \"80 of"));
    let err = check().fails(3, &["rows.jsonl line 81: not a JSON object", "at column 16"]).err;
    assert!(!err.contains("line 2") && !err.contains("line 1 "), "{err}");
}
