//! Latent diffusion end to end: an autoencoder, teachers in several orders, every few-step student, resuming, and a directory
//! that samples by itself.

use super::binary::Place;
use fewstep::eval::results::{Results, Role};

const HEAD: &str = r#"
name = "small"
seed = 3
[data.story]
names = 2
things = 2
places = 1
count = 3
[eval]
samples = 16
batch = 8
steps = [1, 2, 4]
held_out = 16
speed_repeats = 0
[model.codec]
order = "parallel"
objective.autoencoder = { noise = 0.3 }
train = { steps = 12, batch = 8, lr = 3e-3, clip = 1.0, ema = 0.9 }
[model.codec.network]
dim = 16
layers = 2
heads = 2
visibility = "full"
learned_positions = true
bottleneck = { latents = 4, width = 6, decoder_layers = 1 }
"#;

/// A model of latents: its order, what its network is told, and its objective.
fn flow(name: &str, order: &str, network: &str, vectors: &str, objective: &str) -> String {
    format!(
        "[model.{name}]\norder = {order}\nobjective.latent = {{ codec = \"codec\", {objective} }}\n\
         train = {{ steps = 12, batch = 8, lr = 3e-3, clip = 1.0, ema = 0.9, save_every = 5 }}\n\
         network = {{ dim = 16, layers = 2, heads = 2, learned_positions = true, {network}, \
         vectors = {{ count = 4, width = 6, {vectors} }} }}\n"
    )
}

fn student(name: &str, teacher: &str, method: &str) -> String {
    format!(
        "[model.{name}]\norder = \"parallel\"\n\
         objective.latent_distill = {{ teacher = \"{teacher}\", method = {{ {method} }} }}\n\
         train = {{ steps = 12, batch = 8, lr = 1e-3, clip = 1.0, ema = 0.9, save_every = 5 }}\n"
    )
}

const FULL: &str = "visibility = \"full\", time = \"sequence\"";

fn students() -> String {
    [
        student("progressive", "flow", "progressive = { steps = 8, rounds = 3 }"),
        student("consistency", "flow", "consistency = { first_grid = 4, last_grid = 16, target = \"ema\" }"),
        student("training", "flow", "consistency = { first_grid = 4, last_grid = 16, distill = false }"),
        student("continuous", "flow", "continuous = {}"),
        student("untaught", "flow", "continuous = { distill = false, warmup = 0.5 }"),
        student("shortcut", "straight", "shortcut = { finest = 8, share = 0.5 }"),
        student("mean", "straight", "mean_flow = {}"),
        student("matching", "flow", "matching = { steps = 2, critic_lr = 1e-3 }"),
    ]
    .concat()
}

fn teachers() -> String {
    [
        flow("flow", "\"parallel\"", FULL, "self_conditioning = true", ""),
        flow("straight", "\"parallel\"", FULL, "two_times = true", "path = \"linear\""),
    ]
    .concat()
}

#[test]
fn every_few_step_student_of_latents_trains_samples_and_counts_its_decoder() {
    let place = Place::new();
    place.write("small.toml", format!("{HEAD}{}{}", teachers(), students()));
    place.run(&["recipe", "check", "small.toml"]).ok();
    place.run(&["run", "small.toml", "--out", "run"]).ok();
    let results = Results::load(&place.path("run/results.json")).unwrap();
    assert_eq!(results.model("codec").unwrap().role, Role::Codec);
    for model in results.models.iter().filter(|m| matches!(m.role, Role::Teacher | Role::Student)) {
        assert_eq!(model.rows.iter().map(|r| r.steps).collect::<Vec<_>>(), [1, 2, 4], "{}", model.name);
        for row in &model.rows {
            // 4 latents a step, and once 4 latents with 32 tokens in the decoder.
            assert_eq!((row.nfe, row.positions), (row.steps as f64 + 1.0, (4 * row.steps + 36) as f64));
            assert!(row.scores["oracle_nll"].mean.is_finite());
        }
    }
    // A model reads its own estimate where it was trained to; its students never were.
    let card =
        |name: &str| std::fs::read_to_string(place.path("run/models").join(name).join("final/config.json")).unwrap();
    assert!(card("flow").contains("\"estimates\": true") && !card("progressive").contains("\"estimates\""));

    // The noise on tokens is none of theirs.
    assert!(["codec", "flow", "progressive"].iter().all(|name| !card(name).contains("\"corruption\"")));

    // The same recipe again finds everything done, and draws nothing anew.
    place.run(&["run", "small.toml", "--out", "run"]).ok();
    assert_eq!(Results::load(&place.path("run/results.json")).unwrap(), results);

    // A copy of the exported directory draws what the run's own model draws.
    place.run(&["export", "run", "--model", "matching", "--out", "out"]).ok();
    std::fs::remove_dir_all(place.path("run/models/codec")).unwrap();
    let drawn = |dir: &str| place.run(&["sample", dir, "-n", "3", "--steps", "2", "--seed", "5"]).ok().out;
    assert_eq!(drawn("out"), drawn("run/models/matching/final"));
    place.run(&["sample", "out", "--prompt", "mia"]).fails(2, &["vectors.condition"]);
    std::fs::remove_dir_all(place.path("out/codec")).unwrap();
    place.run(&["sample", "out"]).fails(3, &["codec"]);
}

#[test]
fn latents_in_every_order_behind_a_condition_and_with_a_decoder_that_writes() {
    let place = Place::new();
    let position = "visibility = \"full\", time = \"position\"";
    let blocks = "visibility = { blocks = 2 }, time = \"position\"";
    let head = HEAD.replace("decoder_layers = 1", "decoder_layers = 1, decoder = \"autoregressive\"");
    let models = [
        flow("blocks", "{ blocks = 2 }", blocks, "self_conditioning = true", "predict = \"x0\""),
        flow("anchored", "{ ar_diffusion = { levels = 20 } }", position, "", "predict = \"noise\""),
        flow("pipelined", "{ pipelined = { block = 1, window = 2 } }", position, "", "path = \"linear\""),
        flow("strided", "{ strided = 2 }", "visibility = \"order\", time = \"position\"", "", "predict = \"x0\""),
        flow("told", "\"parallel\"", FULL, "condition = 3", "eta = 1.0"),
    ];
    place.write("small.toml", head + &models.concat());
    place.run(&["run", "small.toml", "--out", "run"]).ok();
    let results = Results::load(&place.path("run/results.json")).unwrap();
    let row = |name: &str, steps: usize| {
        let rows = &results.model(name).unwrap().rows;
        rows.iter().find(|r| r.steps == steps).map(|r| (r.nfe, r.positions))
    };
    // A decoder that writes takes a pass a token behind the latents, and one to read them. Two blocks: 2 steps read 2 and 4 latents.
    assert_eq!(row("blocks", 2), Some((35.0, 6.0 + 36.0)));
    assert_eq!(row("blocks", 1), None, "two blocks need two steps");
    // Phases lie everywhere, so that every pass reads all four.
    assert_eq!((row("strided", 2), row("strided", 1)), (Some((35.0, 8.0 + 36.0)), None));
    assert_eq!(row("told", 2), Some((35.0, 14.0 + 36.0)));
    for name in ["anchored", "pipelined"] {
        assert_eq!(row(name, 4), Some((37.0, 16.0 + 36.0)), "{name}");
    }
    // A model that is told the first three words begins with them once it is trained; here it only has to take them.
    let told = ["sample", "run", "--model", "told", "-n", "2", "--prompt", "mia has 2"];
    assert_eq!(place.run(&told).ok().out.lines().count(), 2);
    place.run(&["sample", "run", "--model", "told", "--prompt", "mia has"]).fails(2, &["first 3"]);
}

#[test]
fn a_plan_in_front_of_fixed_phases_is_counted_sampled_and_exported() {
    for (decoder, phases, last) in [("strided = 4", 4, 8), ("dilated = 2", 2, 16)] {
        let place = Place::new();
        let decoder = format!("decoder_layers = 1, decoder = {{ {decoder} }}");
        let head = HEAD.replace("decoder_layers = 1", &decoder);
        place.write("small.toml", head + &flow("plan", "\"parallel\"", FULL, "self_conditioning = true", ""));
        place.run(&["run", "small.toml", "--out", "run"]).ok();
        let results = Results::load(&place.path("run/results.json")).unwrap();
        for row in &results.model("plan").unwrap().rows {
            // The latents are read with the first phase, and every phase but the last once more as text.
            let decoding = 4 + 2 * 32 - last;
            assert_eq!((row.nfe, row.positions), ((row.steps + phases) as f64, (4 * row.steps + decoding) as f64));
            assert_eq!(row.decode_positions, Some(decoding as f64));
            assert!(row.scores["oracle_nll"].mean.is_finite());
        }
        assert!(results.model("codec").unwrap().reconstruction.is_some());
        place.run(&["export", "run", "--model", "plan", "--out", "out"]).ok();
        let drawn = |dir: &str| place.run(&["sample", dir, "-n", "3", "--steps", "2", "--seed", "5"]).ok().out;
        assert_eq!(drawn("out"), drawn("run/models/plan/final"));
        let none = place.path("small.toml");
        let text = std::fs::read_to_string(&none)
            .unwrap()
            .replace("strided = 4", "strided = 0")
            .replace("dilated = 2", "dilated = 0");
        place.write("none.toml", text);
        place.run(&["recipe", "check", "none.toml"]).fails(2, &["bottleneck.decoder", "1"]);
    }
}

#[test]
fn resuming_a_student_with_a_critic_or_rounds_gives_the_same_bytes() {
    let place = Place::new();
    let chosen = [
        student("matching", "flow", "matching = { steps = 2, critic_lr = 1e-3 }"),
        student("progressive", "flow", "progressive = { steps = 8, rounds = 3, refresh = \"ema\" }"),
        student("consistency", "flow", "consistency = { first_grid = 4, last_grid = 16, target = \"ema\" }"),
    ];
    place.write("small.toml", format!("{HEAD}{}{}", teachers(), chosen.concat()));
    for out in ["whole", "cut"] {
        place.run(&["run", "small.toml", "--out", out, "--threads", "1"]).ok();
    }
    for name in ["matching", "progressive", "consistency"] {
        let dir = place.path("cut/models").join(name);
        std::fs::remove_dir_all(dir.join("final")).unwrap();
        std::fs::remove_dir_all(dir.join("step-000012")).unwrap();
        assert!(dir.join("step-000010").is_dir());
    }
    place.run(&["run", "small.toml", "--out", "cut", "--threads", "1"]).ok();
    for name in ["matching", "progressive", "consistency"] {
        let bytes = |run: &str| {
            std::fs::read(place.path(run).join("models").join(name).join("final/model.safetensors")).unwrap()
        };
        assert!(bytes("whole") == bytes("cut"), "{name}");
    }
}

#[test]
fn a_latent_recipe_that_contradicts_itself_names_both_keys() {
    let place = Place::new();
    let good = format!("{HEAD}{}{}", teachers(), students());
    for (from, to, words) in [
        (
            "count = 4, width = 6, self",
            "count = 5, width = 6, self",
            ["network.vectors", "model.codec.network.bottleneck"],
        ),
        ("codec = \"codec\", path", "codec = \"flow\", path", ["objective.latent.codec", "not an autoencoder"]),
        ("teacher = \"straight\", method = { mean", "teacher = \"flow\", method = { mean", ["mean_flow", "linear"]),
        (
            "teacher = \"straight\", method = { short",
            "teacher = \"flow\", method = { short",
            ["two_times", "model.flow"],
        ),
        ("path = \"linear\"", "path = \"linear\", predict = \"x0\"", ["mean_flow", "predict = \"v\""]),
        ("codec = \"codec\",  }", "codec = \"codec\", predict = \"noise\" }", ["latent_distill", "t = 1"]),
        ("self_conditioning = true }", "condition = 40 }", ["network.vectors.condition", "40 tokens of texts of 32"]),
        ("self_conditioning = true }", "codebook = true }", ["vectors.codebook", "objective.embedding"]),
        (
            "teacher = \"flow\", method = { continuous = {} }",
            "teacher = \"matching\", method = { continuous = {} }",
            ["few-step student itself", "matching"],
        ),
        ("objective.latent = { codec = \"codec\",  }", "objective.elbo = {}", ["network.vectors", "objective.elbo"]),
        ("objective.autoencoder = { noise = 0.3 }", "objective.elbo = {}", ["network.bottleneck", "objective.elbo"]),
        ("{ steps = 8, rounds = 3 }", "{ steps = 8, rounds = 4 }", ["progressive", "no whole step"]),
        ("noise = 0.3", "noise = -1", ["objective.autoencoder.noise", "between 0 and 10"]),
        ("time = \"sequence\", vec", "time = \"none\", vec", ["network.vectors", "network.time"]),
        (
            "latents = 4, width = 6, decoder_layers = 1",
            "latents = 4, width = 6, decoder_layers = 2",
            ["decoder_layers", "between 1 and 1"],
        ),
    ] {
        assert!(good.contains(from), "{from}");
        place.write("bad.toml", good.replacen(from, to, 1));
        place.run(&["recipe", "check", "bad.toml"]).fails(2, &words);
    }
}
