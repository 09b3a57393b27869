//! Captions with pictures, end to end: a recipe of three models, its report, and pictures for a caption that is given.

use super::binary::Place;
use fewstep::data::picture::{Pictures, PicturesConfig};
use fewstep::eval::results::Results;

const RECIPE: &str = r#"
name = "small"
seed = 2
[data.pictures]
names = 1
kinds = 1
colours = 2
count = 1
clauses = 1
rows = 2
columns = 2
[model.ar]
order = "left_to_right"
objective.ar_nll = {}
network = { dim = 16, layers = 1, heads = 2, visibility = "causal", learned_positions = true, shift = true }
train = { steps = 20, batch = 8, lr = 5e-3, clip = 1.0 }
[model.masked]
order = "parallel"
objective.elbo = {}
network = { dim = 16, layers = 1, heads = 2, visibility = "full", learned_positions = true }
train = { steps = 20, batch = 8, lr = 5e-3, clip = 1.0 }
[model.hybrid]
order = { segments = { text = 15, block = 4 } }
objective.elbo = {}
network = { dim = 32, layers = 2, heads = 2, visibility = "order", learned_positions = true }
train = { steps = 220, batch = 16, lr = 8e-3, clip = 1.0, ema = 0.95 }
[eval]
samples = 32
batch = 16
steps = [16, 19, 31]
held_out = 32
speed_repeats = 0
"#;

const CAPTION: &str = "mia paints 1 blue star in the southwest . mia likes the southwest best .";

#[test]
fn a_study_of_pictures_trains_scores_and_draws_and_its_hybrid_draws_a_given_caption() {
    let place = Place::new();
    place.write("small.toml", RECIPE);
    let ran = place.run(&["run", "small.toml", "--out", "run"]).ok();
    assert!(ran.out.contains("agreement ↑") && ran.err.contains("pictures data, vocabulary"), "{}{}", ran.out, ran.err);
    let results = Results::load(&place.path("run/results.json")).unwrap();
    let rows = |name: &str| &results.model(name).unwrap().rows;
    for row in rows("ar").iter().chain(rows("masked")).chain(rows("hybrid")) {
        for key in ["oracle_nll", "caption_valid", "clauses", "agreement"] {
            assert_eq!(row.samples[key].len(), 32, "{key}");
        }
        assert!(row.scores["agreement"].mean <= row.scores["clauses"].mean + 1e-12);
        assert_eq!(row.examples.len(), 4);
        assert!((0.0..=1.0).contains(&row.corpus["agreement_given_captions"]));
    }
    assert_eq!(results.data.reference["agreement"].mean, 1.0);
    // A word takes a pass and the picture at most one a step, so the hybrid reads few positions.
    let (hybrid, masked) = (&rows("hybrid")[0], &rows("masked")[0]);
    assert!((hybrid.steps, hybrid.nfe) == (16, 16.0) && hybrid.positions < 0.2 * masked.positions);
    for file in ["report.md", "report.html", "pictures.png", "pictures.svg", "agreement_steps.png"] {
        assert!(place.path("run/report").join(file).exists(), "{file}");
    }

    let drawn = |model: &str, prompt: &str| {
        let args = ["sample", "run", "--model", model, "-n", "24", "--seed", "3", "--prompt", prompt];
        place.run(&args).ok().out
    };
    let out = drawn("hybrid", CAPTION);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 24 * 3, "{out}");
    let task = Pictures::new(
        &toml::from_str::<PicturesConfig>(
            "names = 1\nkinds = 1\ncolours = 2\ncount = 1\nclauses = 1\nrows = 2\ncolumns = 2",
        )
        .unwrap(),
    )
    .unwrap();
    let ids = |text: &str| -> Vec<u32> {
        let id = |w: &str| task.words().iter().position(|word| word == w).unwrap() as u32;
        text.split_whitespace().map(id).collect()
    };
    let mut agree = 0;
    for sample in lines.chunks(3) {
        assert_eq!(sample[0], CAPTION, "a given caption stays as it is");
        agree += usize::from(task.reading(&ids(&sample.join(" "))).agrees);
    }
    // One quadrant is one cell here, so a network that reads the caption is nearly always right, and chance is 1 in 8.
    assert!(agree >= 18, "{agree} of 24 pictures agree with the caption:\n{out}");
    assert!(drawn("ar", CAPTION).starts_with(CAPTION));
    assert!(drawn("hybrid", "mia paints").starts_with("mia paints "), "the beginning of a caption is continued");
}

#[test]
fn an_order_whose_segments_are_not_those_of_the_data_names_both_keys_and_the_hint_works() {
    let place = Place::new();
    let wrong = "{ segments = { text = 24, block = 36 } }";
    place.write("wrong.toml", RECIPE.replace("{ segments = { text = 15, block = 4 } }", wrong));
    let words = ["model.hybrid.order", "data.pictures", "15 words", "4 cells", "segments = { text = 15, block = 4 }"];
    place.run(&["recipe", "check", "wrong.toml"]).fails(2, &words);
    place.write("right.toml", RECIPE);
    place.run(&["recipe", "check", "right.toml"]).ok();
    for (from, to, words) in [
        ("rows = 2\n", "rows = 3\n", ["data.pictures.rows", "even"]),
        ("count = 1\n", "count = 2\n", ["data.pictures.count", "quadrants of 1 cells"]),
        ("count = 1\n", "counts = 1\n", ["unknown key `counts`", "did you mean `count`?"]),
        ("held_out = 32", "held_out = 32\njudge = \"ar\"", ["eval.judge", "data.pictures"]),
    ] {
        place.write("wrong.toml", RECIPE.replacen(from, to, 1));
        place.run(&["recipe", "check", "wrong.toml"]).fails(2, &words);
    }
}

#[test]
fn examples_that_are_no_sequences_of_the_data_are_refused() {
    let place = Place::new();
    place.write("small.toml", RECIPE.replace("steps = 220", "steps = 2").replace("steps = 20,", "steps = 2,"));
    place.run(&["run", "small.toml", "--out", "run"]).ok();
    let path = place.path("run/results.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let at = text.find("\"examples\": [[").unwrap() + 13;
    let cut = format!("{}{}", &text[..at + 1], &text[at + 1 + text[at + 1..].find(',').unwrap() + 1..]);
    place.run(&["report", "run"]).ok();
    std::fs::write(&path, &cut).unwrap();
    place.run(&["report", "run"]).fails(3, &["changed after it was written"]);
    // Nor where nothing holds the file to what was written.
    let (body, _) = cut.rsplit_once(",\n  \"sha256\"").unwrap();
    std::fs::write(&path, format!("{body}\n}}\n")).unwrap();
    place.run(&["report", "run"]).fails(3, &["examples", "not sequences of the data"]);
}
