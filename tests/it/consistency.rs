//! Consistency in token space by recipe: uniform noise, its distillation, consistency without a teacher, and what is refused.

use super::binary::Place;

/// One model of each objective, a few steps each.
const RECIPE: &str = r#"
name = "consistency"
seed = 3
[data.story]
names = 2
things = 2
places = 1
count = 3
[model.uniform]
order = "parallel"
objective.elbo = { corruption = "uniform" }
network = { dim = 16, layers = 1, heads = 2, visibility = "full", time = "sequence" }
train = { steps = 10, batch = 8, lr = 5e-3, clip = 1.0, ema = 0.9, log_every = 20, save_every = 4 }
decode = [{ order = "parallel" }, { greedy_tail = "parallel" }]
[model.argmax]
order = "parallel"
objective.elbo = { corruption = "gaussian_argmax" }
network = { dim = 16, layers = 1, heads = 2, visibility = "full", time = "sigma" }
train = { steps = 10, batch = 8, lr = 5e-3, clip = 1.0, log_every = 20, save_every = 4 }
[model.dcd]
order = "parallel"
objective.dcd = { teacher = "uniform", levels = 16, rounds = 3, growth = "double" }
train = { steps = 10, batch = 8, lr = 2e-3, clip = 1.0, ema = 0.9, log_every = 20, save_every = 4 }
[model.masked]
order = "parallel"
objective.consistency = {}
network = { dim = 16, layers = 1, heads = 2, visibility = "full" }
train = { steps = 10, batch = 8, lr = 5e-3, clip = 1.0, ema = 0.9, log_every = 20, save_every = 4 }
[model.free]
order = "parallel"
objective.consistency = { corruption = "uniform", reach = 0.3 }
network = { dim = 16, layers = 1, heads = 2, visibility = "full", time = "sequence" }
train = { steps = 10, batch = 8, lr = 5e-3, clip = 1.0, ema = 0.9, log_every = 20, save_every = 4 }
[eval]
samples = 8
batch = 8
steps = [1, 4]
held_out = 8
speed_repeats = 0
[export]
models = ["dcd"]
"#;

const MODELS: [&str; 5] = ["uniform", "argmax", "dcd", "masked", "free"];

fn weights(place: &Place, out: &str, model: &str) -> Vec<u8> {
    std::fs::read(place.path(out).join("models").join(model).join("final/model.safetensors")).unwrap()
}

#[test]
fn a_recipe_of_all_of_them_is_trained_evaluated_and_exported_and_its_models_write() {
    let place = Place::new();
    place.write("study.toml", RECIPE);
    let checked = place.run(&["recipe", "check", "study.toml"]).ok();
    assert!(MODELS.iter().all(|name| checked.out.contains(name)), "{}", checked.out);
    place.run(&["run", "study.toml"]).ok();
    let results: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.path("runs/consistency/results.json")).unwrap()).unwrap();
    let models = results["models"].as_array().unwrap();
    let named = |name: &str| models.iter().find(|m| m["name"] == name).unwrap_or_else(|| panic!("no `{name}`"));
    for name in ["uniform: parallel", "uniform: parallel, greedy tail", "argmax", "dcd", "masked", "free"] {
        let rows = named(name)["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 2);
        // Under uniform noise every pass is made and reads all positions.
        if name != "masked" {
            assert!(rows.iter().all(|r| r["nfe"] == r["steps"].as_f64().unwrap()), "{name}");
        }
    }
    assert_eq!(named("dcd")["role"], "student");
    assert!(named("dcd")["teacher"].as_str().unwrap().starts_with("uniform"));
    for name in ["uniform: parallel", "argmax", "dcd", "masked", "free"] {
        let text = named(name)["likelihood"].to_string();
        assert!(text.contains("mean") && !text.contains("null"), "{name}: {text}");
    }
    let card: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.path("runs/consistency/export/dcd/config.json")).unwrap()).unwrap();
    assert_eq!(card["corruption"], "gaussian_argmax");
    // 16 levels in 3 rounds of doubling: two steps are left.
    assert_eq!(card["generation"]["steps"], 2);
    let exported = "runs/consistency/export/dcd";
    let sample = |args: &[&str]| place.run(&[&["sample", exported, "-n", "2", "--seed", "4"], args].concat()).ok().out;
    assert_eq!(sample(&["--steps", "3"]), sample(&["--steps", "3"]));
    let tail = sample(&["--steps", "3", "--decode", "{ greedy_tail = \"parallel\" }", "--json"]);
    assert_eq!(tail.lines().count(), 2);
    assert!(tail.lines().all(|l| l.contains("\"nfe\":3")), "{tail}");
    let prompted = sample(&["--prompt", sample(&[]).split_whitespace().next().unwrap()]);
    let first = |text: &str| text.lines().map(|l| l.split_whitespace().next().unwrap().to_string()).collect::<Vec<_>>();
    assert_eq!(first(&prompted), vec![first(&sample(&[]))[0].clone(); 2]);
}

#[test]
fn a_training_that_was_cut_resumes_to_the_same_bits() {
    let place = Place::new();
    place.write("study.toml", RECIPE);
    for out in ["whole", "cut"] {
        for name in MODELS {
            place.run(&["run", "study.toml", "--only", name, "--out", out, "--threads", "1"]).ok();
        }
    }
    for name in MODELS {
        // Back to the checkpoint of step 8, inside the last round.
        let dir = place.path("cut/models").join(name);
        std::fs::remove_dir_all(dir.join("final")).unwrap();
        std::fs::remove_dir_all(dir.join("step-000010")).unwrap();
        assert!(dir.join("step-000008").is_dir());
        place.run(&["run", "study.toml", "--only", name, "--out", "cut", "--threads", "1"]).ok();
        assert!(weights(&place, "cut", name) == weights(&place, "whole", name), "{name}");
    }
}

#[test]
fn what_contradicts_itself_is_refused_by_both_keys() {
    let place = Place::new();
    for (from, to, words) in [
        (
            "objective.elbo = { corruption = \"uniform\" }\nnetwork = { dim = 16, layers = 1, heads = 2, visibility = \"full\", time = \"sequence\" }",
            "objective.elbo = { corruption = \"uniform\" }\nnetwork = { dim = 16, layers = 1, heads = 2, visibility = \"full\" }",
            ["objective.elbo.corruption", "network.time"],
        ),
        ("teacher = \"uniform\"", "teacher = \"masked\"", ["objective.dcd.teacher", "model.masked.objective"]),
        (
            "objective.dcd = { teacher = \"uniform\", levels = 16, rounds = 3, growth = \"double\" }",
            "objective.sdtt = { teacher = \"uniform\", teacher_steps = 8, rounds = 2 }",
            ["objective.sdtt", "uniform noise"],
        ),
        ("levels = 16, rounds = 3", "levels = 16, rounds = 9", ["objective.dcd.rounds", "objective.dcd.levels"]),
        ("levels = 16,", "gamma_min = 2.0, gamma_max = 1.0,", ["gamma_min", "gamma_max"]),
        (
            "objective.consistency = {}",
            "objective.consistency = { max_step = 0.0, likelihood = 0.0 }",
            ["max_step", "likelihood"],
        ),
        ("reach = 0.3", "reach = 1.5", ["objective.consistency.reach", "1.5"]),
        ("{ greedy_tail = \"parallel\" }", "{ order = { blocks = 4 } }", ["decode[1]", "objective"]),
        (
            "objective.consistency = {}",
            "decode = [{ greedy_tail = \"parallel\" }]\nobjective.consistency = {}",
            ["decode[0]", "uniform noise"],
        ),
        (
            "order = \"parallel\"\nobjective.elbo = { corruption = \"uniform\" }",
            "order = { blocks = 4 }\nobjective.elbo = { corruption = \"uniform\" }",
            ["corruption", "order"],
        ),
    ] {
        assert!(RECIPE.contains(from), "{from}");
        place.write("study.toml", RECIPE.replacen(from, to, 1));
        place.run(&["recipe", "check", "study.toml"]).fails(2, &words);
    }
    let without = RECIPE.replacen("objective.consistency = {}", "objective.consistency = { reach = 0.5 }", 1);
    let at = without.find("objective.consistency = { reach = 0.5 }").unwrap();
    let (head, tail) = without.split_at(at);
    place.write("study.toml", format!("{head}{}", tail.replacen(", ema = 0.9", "", 1)));
    place.run(&["recipe", "check", "study.toml"]).fails(2, &["consistency", "train.ema"]);
}

/// A chain of each kind of matrix, after the autoregressive model whose embedding says what is near.
const CHAINS: &str = r#"
name = "chains"
seed = 3
[data.story]
names = 2
things = 2
places = 1
count = 3
[model.near]
order = "parallel"
objective.d3pm = { matrix = { neighbours = { model = "ar", k = 4 } }, levels = 8 }
network = { dim = 16, layers = 1, heads = 2, visibility = "full", time = "sequence" }
train = { steps = 6, batch = 8, lr = 5e-3, clip = 1.0, log_every = 20, save_every = 4 }
[model.ar]
order = "left_to_right"
objective.ar_nll = {}
network = { dim = 16, layers = 1, heads = 2, visibility = "causal", shift = true }
train = { steps = 2, batch = 8, lr = 1e-3 }
[model.absorbing]
order = "parallel"
objective.d3pm = { levels = 8, auxiliary = 0.1 }
network = { dim = 16, layers = 1, heads = 2, visibility = "full" }
train = { steps = 6, batch = 8, lr = 5e-3, clip = 1.0, log_every = 20, save_every = 4 }
[model.uniform]
order = "parallel"
objective.d3pm = { matrix = "uniform", levels = 8 }
network = { dim = 16, layers = 1, heads = 2, visibility = "full", time = "sequence" }
train = { steps = 6, batch = 8, lr = 5e-3, clip = 1.0, log_every = 20, save_every = 4 }
[model.gaussian]
order = "parallel"
objective.d3pm = { matrix = "gaussian", levels = 8 }
network = { dim = 16, layers = 1, heads = 2, visibility = "full", time = "sequence" }
train = { steps = 6, batch = 8, lr = 5e-3, clip = 1.0, log_every = 20, save_every = 4 }
[eval]
samples = 4
batch = 4
steps = [2, 8, 16]
held_out = 4
speed_repeats = 0
[export]
models = ["near"]
"#;

#[test]
fn chains_of_every_matrix_are_trained_evaluated_exported_and_resumed() {
    let place = Place::new();
    place.write("study.toml", CHAINS);
    place.run(&["recipe", "check", "study.toml"]).ok();
    place.run(&["run", "study.toml", "--threads", "1"]).ok();
    let results: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.path("runs/chains/results.json")).unwrap()).unwrap();
    let models = results["models"].as_array().unwrap();
    for name in ["near", "absorbing", "uniform", "gaussian"] {
        let model = models.iter().find(|m| m["name"] == name).unwrap();
        assert_eq!(model["rows"].as_array().unwrap().len(), 2, "{name}");
        assert_eq!(model["objective"], "d3pm");
    }
    let drawn = place.run(&["sample", "runs/chains/export/near", "-n", "2", "--steps", "4"]).ok().out;
    assert_eq!(drawn.lines().count(), 2);
    place.run(&["sample", "runs/chains/export/near", "--steps", "9"]).fails(2, &["8 levels", "between 1 and 8"]);
    let before = weights(&place, "runs/chains", "near");
    let dir = place.path("runs/chains/models/near");
    std::fs::remove_dir_all(dir.join("final")).unwrap();
    std::fs::remove_dir_all(dir.join("step-000006")).unwrap();
    place.run(&["run", "study.toml", "--only", "near", "--threads", "1"]).ok();
    assert!(weights(&place, "runs/chains", "near") == before);
    for (from, to, words) in [
        ("k = 4", "k = 0", ["neighbours.k", "between 1"]),
        ("model = \"ar\"", "model = \"near\"", ["neighbours.model", "embedding"]),
        ("levels = 8, auxiliary = 0.1", "levels = 0", ["objective.d3pm.levels", "between 1"]),
    ] {
        place.write("study.toml", CHAINS.replacen(from, to, 1));
        place.run(&["recipe", "check", "study.toml"]).fails(2, &words);
    }
    place.write("study.toml", CHAINS.replace("levels = 8", "levels = 100000"));
    place.run(&["run", "study.toml", "--out", "other"]).fails(2, &["transition matrices", "levels"]);
}
