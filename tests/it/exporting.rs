//! What leaves the program: exported directories, samples from them, inspection, results and the gate on them.

use burn::prelude::Device;
use fewstep::eval::results::Results;
use fewstep::model::{Denoise, Noised, Transformer, params};
use fewstep::{checkpoint, weights};

use super::binary::{Place, Ran, shared};

fn tiny() -> Place {
    let place = Place::new();
    place.run(&["run", "tiny", "--threads", "1"]).ok();
    place
}

/// By model, steps, metric and rule; runs/tiny is there, and a better baseline.
fn the_gate_judges_what_it_is_asked_to(place: &Place) {
    let gate = |args: &[&str]| place.run(&[&["gate", "runs/tiny", "--baseline", "better.json"], args].concat());
    let names = |ran: Ran| {
        let verdict: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        let all = verdict["findings"].as_array().unwrap().iter();
        all.map(|f| format!("{} {} {}", f["model"].as_str().unwrap(), f["steps"], f["key"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    let one = gate(&["--model", "student", "--steps", "4", "--metric", "unique", "--json"]).ok();
    assert_eq!(names(one), ["student 4 unique"]);
    let two = gate(&["--steps", "4", "--metric", "nll", "--metric", "self_bleu", "--rule", "nll=150%", "--json"]).ok();
    assert_eq!(names(two), ["student 4 oracle_nll", "student 4 self_bleu"]);
    gate(&["--metric", "nll", "--rule", "{ metric = \"nll\", absolute = 100.0 }"]).ok();
    let all = names(gate(&["--all-models", "--json"]).fails(1, &["quality fell"]));
    assert!(all.iter().any(|f| f.starts_with("teacher ")) && all.iter().any(|f| f.starts_with("ar ")), "{all:?}");
    gate(&["--model", "studnet"]).fails(2, &["no model `studnet`", "did you mean `student`?"]);
    gate(&["--steps", "3"]).fails(2, &["no row with 3 steps", "hint: it has "]);
    gate(&["--metric", "uniqe"]).fails(2, &["`--metric` cannot be `uniqe`", "did you mean `unique`?"]);
    for (rule, why) in
        [("nll", "no `=`"), ("nll=much", "not a number"), ("{ metric = 1 }", "--rule"), ("nll=-3%", "between 0")]
    {
        gate(&["--rule", rule]).fails(2, &[why]);
    }
}

#[test]
fn the_tiny_study_runs_to_a_report_and_its_export_samples_inspects_and_passes_its_own_gate() {
    let place = tiny();
    for name in [
        "report.md",
        "report.html",
        "quality_steps.svg",
        "quality_steps.png",
        "quality_seconds.svg",
        "quality_entropy.svg",
    ] {
        assert!(place.path("runs/tiny/report").join(name).metadata().is_ok_and(|m| m.len() > 500), "{name}");
    }
    // The run again does nothing and says the same.
    let again = place.run(&["run", "tiny", "--threads", "1"]).ok();
    assert!(!again.err.contains("step "), "{}", again.err);

    // Two exports are byte-equal, and equal to the run's own.
    for out in ["a", "b"] {
        place.run(&["export", "runs/tiny", "--model", "student", "--out", out]).ok();
    }
    for name in ["config.json", "model.safetensors", "tokenizer.json", "README.md", "recipe.toml"] {
        let read = |dir: &str| std::fs::read(place.path(dir).join(name)).unwrap();
        assert!(read("a") == read("b") && read("a") == read("runs/tiny/export/student"), "{name}");
    }

    // Logits of the trained model and of its export are bit-equal.
    let device = Device::flex();
    let before = checkpoint::read(&place.path("runs/tiny/models/student/final"), &device).unwrap();
    let after = checkpoint::read(&place.path("a"), &device).unwrap();
    let x: Vec<u32> = (0..64).map(|i| i % after.model.vocab() as u32).collect();
    let logits = |m: &Transformer| {
        let f = m.features(&Noised::tokens(&x, &[0.5; 64], 32));
        params::floats(m.logits(f.reshape([64, -1]))).iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(logits(&before.model), logits(&after.model));

    // In other types it is smaller, says what that costs, and still samples.
    let size = |dir: &str| std::fs::metadata(place.path(dir).join("model.safetensors")).unwrap().len();
    for (dtype, share) in [("bf16", 0.55), ("int8", 0.6)] {
        let args = ["export", "runs/tiny", "--model", "student", "--out", dtype, "--dtype", dtype];
        let out = place.run(&args).ok().out;
        assert!(
            out.contains("held-out loss") && out.contains("(n = ") && out.ends_with(&format!("{dtype}\n")),
            "{out}"
        );
        assert!(size(dtype) as f64 <= share * size("a") as f64, "{dtype}: {} of {}", size(dtype), size("a"));
        place.run(&["sample", dtype, "-n", "1"]).ok();
        assert!(place.run(&["inspect", dtype]).ok().out.contains("0 non-finite"));
        println!("{dtype}: {} of {} bytes; {}", size(dtype), size("a"), out.lines().next().unwrap_or_default());
    }
    // A model directory is converted too, without data; in f32 it comes back as it was.
    let out = place.run(&["export", "a", "--out", "c", "--dtype", "int8", "--json"]).ok().out;
    let said: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&said["dtype"], &said["loss"]["measured"]), (&"int8".into(), &"kl_on_random_tokens".into()), "{out}");
    let bytes = |dir: &str| std::fs::read(place.path(dir).join("model.safetensors")).unwrap();
    assert!(bytes("c") == bytes("int8"));
    place.run(&["export", "a", "--out", "d"]).ok();
    assert!(bytes("d") == bytes("a"));
    place.run(&["export", "runs/tiny", "--out", "e", "--dtype", "int4"]).fails(2, &["`--dtype`", "int8"]);

    // In several files it is the same model.
    let shards = place.path("shards");
    std::fs::create_dir(&shards).unwrap();
    let extras = checkpoint::Extras { tokenizer: before.tokenizer.as_ref(), recipe: "", results: None, call: None };
    let tensors = params::export(&before.model);
    for (storage, same) in [(weights::Storage::Kept, "a"), (weights::Storage::Int8, "int8")] {
        checkpoint::write_as(&shards, &before.card, tensors.clone(), &extras, storage, 10_000).unwrap();
        assert!(weights::Store::open(&shards).unwrap().parts.len() > 1);
        let (many, one) =
            (checkpoint::read(&shards, &device).unwrap(), checkpoint::read(&place.path(same), &device).unwrap());
        assert_eq!(params::export(&many.model), params::export(&one.model));
    }
    place.run(&["inspect", "shards"]).ok();

    // It samples from its directory as from the run.
    let samples = |path: &[&str]| {
        let args = [&["sample"], path, &["-n", "3", "--steps", "4", "--seed", "5", "--threads", "1"]].concat();
        place.run(&args).ok().out
    };
    assert_eq!(samples(&["a"]), samples(&["runs/tiny", "--model", "student"]));
    assert_eq!(samples(&["a"]).lines().count(), 3);
    let prompted =
        place.run(&["sample", "runs/tiny", "--model", "ar", "--prompt", "mia has", "-n", "2", "--top-k", "3"]).ok();
    assert!(prompted.out.lines().all(|l| l.starts_with("mia has ")), "{}", prompted.out);
    let filled = place.run(&["sample", "a", "--infill", "tom has _ plums", "-n", "2", "--steps", "3", "--trace"]).ok();
    assert!(
        filled
            .out
            .lines()
            .filter(|l| !l.contains('|'))
            .all(|l| l.starts_with("tom has ") && l.split(' ').nth(3) == Some("plums")),
        "{}",
        filled.out
    );
    assert!(place.path("trace.html").exists());
    let beams = place.run(&["sample", "runs/tiny", "--model", "ar", "--beam", "4", "--json"]).ok();
    assert_eq!(beams.out.lines().count(), 4);
    place.run(&["sample", "runs/tiny", "--model", "ar", "--temperature", "0"]).ok();

    // inspect against stored logits: exact for its own, and told apart from others.
    let stored = logits_file(&after.model, &x);
    place.write("expected.safetensors", stored);
    let ran = place.run(&["inspect", "a", "--against", "expected.safetensors"]).ok();
    assert!(ran.out.contains("largest absolute error of the logits: 0.000e0"), "{}", ran.out);

    // Temperatures: a second evaluation of the same models, compared at the entropy of the data, machine-readable too.
    let text = std::fs::read_to_string(place.path("runs/tiny/recipe.toml")).unwrap();
    let swept = text.replace(
        "speed_repeats = 1",
        "speed_repeats = 0\ntemperatures = [0.5, 2.0]\n\
         context = \"context.json\"\nflexibility = { samples = 6, gap = 4, errors = 2, steps = 4 }",
    );
    assert_ne!(swept, text);
    place.write("swept/recipe.toml", swept);
    place.run(&["eval", "swept"]).fails(3, &["context.json", "cargo bench --bench context"]);
    place.write(
        "swept/context.json",
        r#"[{"paradigm": "ar", "length": 64, "steps": 64, "block": 1, "seconds_per_token": {"median": 0.002, "q1": 0.002,
        "q3": 0.002}, "repeats": 3, "peak_kib": 2048, "nfe": 64, "positions_per_token": 1, "layer_positions_per_token": 8,
        "table_positions_per_token": 1, "table_layer_positions_per_token": 8}]"#,
    );
    let copy = std::process::Command::new("cp");
    let copied = { copy }.arg("-r").arg(place.path("runs/tiny/models")).arg(place.path("swept")).status().unwrap();
    assert!(copied.success());
    let ran = place.run(&["eval", "swept", "--json", "-q"]).ok();
    let results = Results::load(&place.path("swept/results.json")).unwrap();
    assert_eq!(ran.out.trim_end(), results.to_json().unwrap().trim_end());
    let student = results.model("student").unwrap();
    let points: Vec<(usize, f64)> = student.sweep.iter().map(|r| (r.steps, r.temperature)).collect();
    assert_eq!(points, [(2, 0.5), (2, 2.0), (4, 0.5), (4, 2.0), (8, 0.5), (8, 2.0)]);
    let entropy =
        |t: f64| student.sweep.iter().find(|r| r.steps == 8 && r.temperature == t).unwrap().scores["entropy"].mean;
    assert!(entropy(0.5) < student.row(8).unwrap().scores["entropy"].mean && entropy(2.0) > entropy(0.5));
    place.run(&["report", "swept"]).ok();
    let report = std::fs::read_to_string(place.path("swept/report/report.md")).unwrap();
    assert!(report.contains("oracle_nll at the data's entropy"), "{report}");
    // Flexibility, in the same evaluation: the gap is filled exactly as well as the model is, and the survey rests on it.
    let flexibility = |name: &str| results.model(name).unwrap().flexibility.as_ref().unwrap();
    assert!(flexibility("ar").remasked.is_none() && flexibility("teacher").infill.n == 6);
    assert!(flexibility("oracle").infill.scores["nll"].mean < flexibility("ar").infill.scores["nll"].mean);
    for part in [
        "## Flexibility: filling a gap of 4 tokens",
        "## Flexibility: recovery from 2 wrong tokens in a given half",
        "## Autoregression and diffusion, property by property",
        "2.00 [2.00, 2.00] at 64, 64 steps",
    ] {
        assert!(report.contains(part), "{part}: {report}");
    }

    // Gate: the run against its own results passes; against a better baseline it does not.
    let gate = ["gate", "runs/tiny", "--baseline", "runs/tiny", "--junit", "gate.xml"];
    place.run(&gate).ok();
    assert!(std::fs::read_to_string(place.path("gate.xml")).unwrap().contains("<testsuite"));
    let summary = place.write("summary.md", "");
    let output = place.command(&gate).env("GITHUB_STEP_SUMMARY", &summary).output().unwrap();
    assert!(output.status.success() && std::fs::read_to_string(summary).unwrap().contains("<table>"));
    let mut better = Results::load(&place.path("runs/tiny/results.json")).unwrap();
    for row in better.models.iter_mut().flat_map(|m| &mut m.rows) {
        row.samples["oracle_nll"].iter_mut().for_each(|v| *v *= 0.5);
        let e = row.scores.get_mut("oracle_nll").unwrap();
        (e.mean, e.low, e.high) = (e.mean * 0.5, e.low * 0.5, e.high * 0.5);
    }
    better.save(&place.path("better.json")).unwrap();
    place.run(&["gate", "runs/tiny", "--baseline", "better.json"]).fails(1, &["quality fell"]);
    the_gate_judges_what_it_is_asked_to(&place);

    // Report: same results in, same bytes out.
    for out in ["r1", "r2"] {
        place.run(&["report", "runs/tiny/results.json", "--out", out]).ok();
    }
    for entry in std::fs::read_dir(place.path("r1")).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(
            std::fs::read(place.path("r1").join(&name)).unwrap()
                == std::fs::read(place.path("r2").join(&name)).unwrap(),
            "{name:?}"
        );
    }
}

/// A safetensors file with integer `input_ids` [2, 32] and the model's `logits`.
fn logits_file(model: &Transformer, x: &[u32]) -> Vec<u8> {
    let f = model.features(&Noised::tokens(x, &[0.0; 64], 32));
    let logits = params::floats(model.logits(f.reshape([64, -1])));
    let ids: Vec<u8> = x.iter().flat_map(|t| i64::from(*t).to_le_bytes()).collect();
    let bytes: Vec<u8> = logits.iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = |dtype, shape: Vec<usize>, data| safetensors::tensor::TensorView::new(dtype, shape, data).unwrap();
    safetensors::serialize(
        [
            ("input_ids", view(safetensors::Dtype::I64, vec![2, 32], &ids)),
            ("logits", view(safetensors::Dtype::F32, vec![2, 32, model.vocab()], &bytes)),
        ],
        None,
    )
    .unwrap()
}

#[test]
fn real_text_runs_the_same_path_with_every_tokenizer() {
    let Some(text) = shared("data/tinyshakespeare.txt") else { return };
    let Some(bpe) = shared("data/gpt2-bpe") else { return };
    let tokenizers = [
        "\"bytes\"".to_string(),
        "\"char\"".to_string(),
        format!("{{ bpe = {{ vocab = {:?}, merges = {:?} }} }}", bpe.join("vocab.json"), bpe.join("merges.txt")),
    ];
    let whole = std::fs::read_to_string(text).unwrap();
    for tokenizer in tokenizers {
        let place = Place::new();
        place.write("text.txt", &whole[..60_000]);
        place.write("text.toml", format!(
            r#"
name = "text"
[data.text]
path = "text.txt"
tokenizer = {tokenizer}
length = 16
[model.judge]
seed = 9
order = "left_to_right"
objective.ar_nll = {{}}
network = {{ dim = 16, layers = 1, heads = 2, visibility = "causal", shift = true }}
train = {{ steps = 3, batch = 2, lr = 1e-3 }}
[model.ar]
order = "left_to_right"
objective.ar_nll = {{}}
network = {{ dim = 16, layers = 1, heads = 2, visibility = "causal", shift = true, tied = true }}
train = {{ steps = 3, batch = 2, lr = 1e-3 }}
[model.teacher]
order = "parallel"
objective.elbo = {{ schedule = "cosine" }}
network = {{ dim = 16, layers = 1, heads = 2, visibility = "full", norm = "rms", activation = "swiglu", time = "sequence" }}
train = {{ steps = 3, batch = 2, lr = 1e-3 }}
[model.student]
order = "parallel"
objective.sdtt = {{ teacher = "teacher", teacher_steps = 4, rounds = 2, schedule = "cosine" }}
train = {{ steps = 2, batch = 2, lr = 1e-3 }}
[eval]
samples = 4
batch = 4
steps = [2, 4]
held_out = 4
judge = "judge"
speed_repeats = 1
[export]
models = ["student"]
"#
        ));
        place.run(&["run", "text.toml"]).ok();
        let sampled =
            place.run(&["sample", "runs/text/export/student", "-n", "1", "--steps", "2", "--prompt", "the "]).ok();
        assert!(sampled.out.starts_with("the "), "{}", sampled.out);
    }
}

#[test]
fn exported_weights_are_stored_as_out_times_in() {
    let device = Device::flex();
    let config = super::network::config(false);
    let model = Transformer::init(&config, 9, 8, 1, &device);
    let named = params::export(&model);
    assert_eq!(named["blocks.0.attention.qkv.weight"].shape, [48, 16]);
    assert_eq!(named["blocks.1.mlp.down.weight"].shape, [16, 24]);
    assert_eq!((&named["head.weight"].shape[..], &named["embed"].shape[..]), (&[9usize, 16][..], &[10usize, 16][..]));
    // And come back as they were.
    let loaded = weights::Weights { tensors: named.clone(), ..Default::default() };
    let back = Transformer::from_weights(&config, 9, 8, &loaded, "test", &device).unwrap();
    assert_eq!(params::export(&back), named);
}
