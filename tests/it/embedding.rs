//! Pairs of attributes and sentences end to end: a diffusion of embeddings in both orders and by several samplers, its
//! classifier and guidance, generation under conditions by every arm, resuming, and an exported directory.

use super::binary::Place;
use fewstep::eval::control::Arm;
use fewstep::eval::results::{Results, Role};

const RECIPE: &str = r#"
name = "small"
seed = 3

[data.pairs]
source = { story = { names = 2, things = 2, places = 1, count = 3 } }
fields = ["name", "thing", "event"]
length = 35
unconditional = 0.2

[model.judge]
seed = 9
order = "left_to_right"
objective.ar_nll = {}
network = { dim = 16, layers = 1, heads = 2, visibility = "causal", learned_positions = true, shift = true }
train = { steps = 12, batch = 8, lr = 3e-3, clip = 1.0 }

[model.ar]
order = "left_to_right"
objective.ar_nll = {}
network = { dim = 16, layers = 1, heads = 2, visibility = "causal", learned_positions = true, shift = true }
train = { steps = 12, batch = 8, lr = 3e-3, clip = 1.0 }

[model.masked]
order = "parallel"
objective.elbo = {}
network = { dim = 16, layers = 1, heads = 2, visibility = "full", learned_positions = true }
train = { steps = 12, batch = 8, lr = 3e-3, clip = 1.0 }

[model.embed]
order = "parallel"
objective.embedding = { levels = 50, given = 2, self_conditioning = 0.5 }
decode = [{ gaussian = {} }, { gaussian = { eta = 0.0, clamp = true } }]
train = { steps = 12, batch = 8, lr = 3e-3, clip = 1.0, ema = 0.9, save_every = 5 }
[model.embed.network]
dim = 16
layers = 2
heads = 2
visibility = "full"
learned_positions = true
time = "sequence"
vectors = { count = 35, width = 6, codebook = true, self_conditioning = true }

[model.anchored]
order = { ar_diffusion = { levels = 50 } }
objective.embedding = { levels = 50, given = 2, predict = "v", sampler = { eta = 0.5, top_p = 1.5 } }
train = { steps = 12, batch = 8, lr = 3e-3, clip = 1.0 }
[model.anchored.network]
dim = 16
layers = 1
heads = 2
visibility = "full"
learned_positions = true
time = "position"
vectors = { count = 35, width = 6, codebook = true }

[model.classifier]
order = "parallel"
objective.classifier = { model = "embed" }
train = { steps = 12, batch = 8, lr = 3e-3, clip = 1.0 }
[model.classifier.network]
dim = 16
layers = 1
heads = 2
visibility = "full"
learned_positions = true
time = "sequence"
vectors = { count = 35, width = 6, codebook = true }

[eval]
samples = 8
batch = 8
steps = [2, 50]
held_out = 16
speed_repeats = 0
judge = "judge"

[eval.control]
samples = 10
steps = [2, 4]
guidance.embed = { classifier = "classifier", updates = 2 }
"#;

#[test]
fn a_study_of_pairs_has_every_arm_of_controllable_generation_in_its_report() {
    let place = Place::new();
    place.write("small.toml", RECIPE);
    place.run(&["recipe", "check", "small.toml"]).ok();
    place.run(&["run", "small.toml", "--out", "run"]).ok();
    let results = Results::load(&place.path("run/results.json")).unwrap();
    let arms = |name: &str| {
        let control = results.model(name).unwrap().control.as_ref().unwrap();
        control.rows.iter().map(|r| (r.arm, r.steps, r.nfe)).collect::<Vec<_>>()
    };
    assert_eq!(arms("ar")[0].0, Arm::Prefix);
    assert_eq!(
        arms("masked").iter().map(|r| r.0).collect::<Vec<_>>(),
        [Arm::Infilling, Arm::Infilling, Arm::Unasked, Arm::Unasked]
    );
    // Two updates a step are four passes of the classifier, forward and backward.
    let guided = [
        (Arm::Infilling, 2, 2.0),
        (Arm::Infilling, 4, 4.0),
        (Arm::Unasked, 2, 2.0),
        (Arm::Unasked, 4, 4.0),
        (Arm::Guidance, 2, 10.0),
        (Arm::Guidance, 4, 20.0),
    ];
    assert_eq!(arms("embed: DDPM"), guided);
    assert_eq!(arms("embed: DDIM, eta 0, clamped"), guided);
    assert_eq!(arms("anchored").len(), 4);
    for model in results.models.iter().filter(|m| m.objective == "embedding") {
        assert_eq!(model.rows.iter().map(|r| (r.steps, r.nfe)).collect::<Vec<_>>(), [(2, 2.0), (50, 50.0)]);
        assert!(model.likelihood.is_none());
    }
    assert!(["classifier", "judge"].iter().all(|m| results.model(m).unwrap().control.is_none()));
    assert_eq!(results.model("classifier").unwrap().role, Role::Classifier);
    let real = &results.model("ar").unwrap().control.as_ref().unwrap().reference;
    assert_eq!((real["attribute"].mean, real["valid"].mean), (1.0, 1.0));
    let markdown = std::fs::read_to_string(place.path("run/report/report.md")).unwrap();
    assert!(markdown.contains("## Controllable generation") && markdown.contains("classifier guidance"), "{markdown}");
    let html = std::fs::read_to_string(place.path("run/report/report.html")).unwrap();
    assert!(html.contains("Controllable generation"));
    // Again: all is there.
    place.run(&["run", "small.toml", "--out", "run"]).ok();
    assert_eq!(Results::load(&place.path("run/results.json")).unwrap(), results);

    // A copy of the exported directory draws what the run's own model draws, by its own sampler and by another.
    place.run(&["export", "run", "--model", "embed", "--out", "out"]).ok();
    for more in [&[][..], &["--decode", "{ gaussian = { eta = 0.0 } }"], &["--prompt", "name: mia"]] {
        let drawn = |at: &[&str]| {
            let all = [&["sample"], at, &["-n", "3", "--steps", "4", "--seed", "5"], more].concat();
            place.run(&all).ok().out
        };
        let text = drawn(&["out"]);
        assert_eq!(text, drawn(&["run", "--model", "embed"]));
        assert_eq!(text.contains("name: mia"), more.contains(&"--prompt"), "{text}");
    }
    place.run(&["sample", "run", "--model", "masked", "--decode", "{ gaussian = {} }"]).fails(2, &["embeddings"]);
    place.run(&["sample", "run", "--model", "anchored", "--temperature", "0", "-n", "1", "--steps", "4"]).ok();
    for option in ["--top-k", "--top-p"] {
        place.run(&["sample", "run", "--model", "embed", option, "1"]).fails(2, &[option, "denoises vectors"]);
    }
    place.run(&["sample", "run", "--model", "classifier"]).fails(2, &["classifier"]);
}

#[test]
fn resuming_a_diffusion_of_embeddings_gives_the_same_bytes() {
    let place = Place::new();
    place.write("small.toml", RECIPE);
    for out in ["whole", "cut"] {
        place.run(&["run", "small.toml", "--out", out, "--threads", "1"]).ok();
    }
    let dir = place.path("cut/models/embed");
    std::fs::remove_dir_all(dir.join("final")).unwrap();
    std::fs::remove_dir_all(dir.join("step-000012")).unwrap();
    assert!(dir.join("step-000010").is_dir());
    place.run(&["run", "small.toml", "--out", "cut", "--threads", "1"]).ok();
    let bytes = |run: &str| std::fs::read(place.path(run).join("models/embed/final/model.safetensors")).unwrap();
    assert!(bytes("whole") == bytes("cut"));
}

#[test]
fn a_recipe_of_embeddings_that_contradicts_itself_names_its_keys() {
    let place = Place::new();
    for (from, to, words) in [
        (
            "count = 35, width = 6, codebook = true, self",
            "count = 34, width = 6, codebook = true, self",
            ["network.vectors.count", "35 tokens"],
        ),
        ("width = 6, codebook = true, self", "width = 6, self", ["objective.embedding", "codebook"]),
        ("levels = 50, given = 2, self", "levels = 1, given = 2, self", ["objective.embedding.levels", "between 2"]),
        ("given = 2, self", "self", ["objective.classifier.model", "given"]),
        (
            "{ model = \"embed\" }",
            "{ model = \"masked\" }",
            ["objective.classifier.model", "not a diffusion of embeddings"],
        ),
        ("{ gaussian = {} }, ", "{ order = \"parallel\" }, ", ["decode[0]", "embeddings"]),
        ("{ ar_diffusion = { levels = 50 } }", "{ ar_diffusion = { levels = 60 } }", ["order", "levels"]),
        ("{ ar_diffusion = { levels = 50 } }", "{ blocks = 5 }", ["order", "not for embeddings"]),
        (
            "guidance.embed = { classifier = \"classifier\"",
            "guidance.embed = { classifier = \"ar\"",
            ["eval.control.guidance.embed", "not a classifier"],
        ),
        ("{ model = \"embed\" }", "{ model = \"anchored\" }", ["eval.control.guidance.embed", "not a classifier"]),
        ("{ gaussian = { eta = 0.0, clamp = true } }", "{ gaussian = {} }", ["model.embed.decode", "twice"]),
        ("guidance.embed", "guidance.embod", ["eval.control.guidance.embod", "embed"]),
        ("judge = \"judge\"", "", ["data.pairs", "eval.judge"]),
        ("steps = [2, 4]", "steps = [4, 2]", ["eval.control.steps", "rising"]),
        ("length = 35", "length = 3", ["data.pairs.length", "between 4"]),
    ] {
        assert!(RECIPE.contains(from), "{from}");
        place.write("bad.toml", RECIPE.replacen(from, to, 1));
        place.run(&["recipe", "check", "bad.toml"]).fails(2, &words);
    }
    place.write(
        "bad.toml",
        RECIPE.replace("guidance.embed", "guidance.anchored").replace("model = \"embed\"", "model = \"anchored\""),
    );
    place.run(&["recipe", "check", "bad.toml"]).fails(2, &["eval.control.guidance.anchored", "ar_diffusion"]);
    place.write("bad.toml", RECIPE.replacen("given = 2, self", "given = 3, self", 1));
    place.run(&["run", "bad.toml", "--out", "bad"]).fails(2, &["objective.embedding.given", "is 3", "has 2 tokens"]);
    let text = RECIPE
        .replace("[data.pairs]", "[data.story]")
        .replace("source = { story = { names = 2, things = 2, places = 1, count = 3 } }", "");
    let text = text
        .replace("fields = [\"name\", \"thing\", \"event\"]\nlength = 35\nunconditional = 0.2", "")
        .replace("judge = \"judge\"", "");
    place.write("bad.toml", text.replace("35", "32"));
    place.run(&["recipe", "check", "bad.toml"]).fails(2, &["eval.control", "data.pairs"]);
}
